"""Answers: one way for all of them, and nothing left behind when one was broken off."""
import asyncio
import contextlib
import datetime as dt
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid

import msgpack
import pytest

import store
from store import call, put

NUMBERS = {"find": "?e", "where": [["?e", "v"]]}
TREE = [{"xt/id": 1, "up": 2}, {"xt/id": 2, "up": 3}, {"xt/id": 9, "up": 3}]


def streamed(db, query, *args):
    with db.lazy_q(query, *args) as rows:
        return list(rows)


def fill(node, count=2000):
    return node.submit_tx([put({"xt/id": i, "v": i}) for i in range(count)])


def assert_the_present_is_seen(node):
    """A write after whatever was left behind is read, logged, and leaves the file when the log of writes is emptied."""
    tx = node.submit_tx([put({"xt/id": "mine", "v": "mine"})])
    assert node.db().entity("mine") == {"xt/id": "mine", "v": "mine"}
    assert node.db().q({"find": "?e", "where": [["?e", "v", "mine"]]}) == ["mine"]
    assert [heard.tx_id for heard in node.tx_log(tx.tx_id - 1)] == [tx.tx_id]


def test_rows_left_behind_hold_no_reader_in_the_past(node):
    """A loop that found its row and broke off made later reads of any thread miss later writes."""
    fill(node)
    with node.db().lazy_q(NUMBERS) as rows:
        assert next(rows) is not None
    assert_the_present_is_seen(node)
    with pytest.raises(StopIteration):
        next(rows)
    assert rows is not None, "they are kept, as a local name keeps them"


def test_what_was_verified_holds_no_reader_in_the_past(node):
    """Without this, a check of the file, which reads one state of it, would freeze what is read afterwards."""
    fill(node)
    node.verify()
    assert_the_present_is_seen(node)


@pytest.mark.parametrize("query", [
    {"find": [("count", "?e"), "?v"], "where": [["?e", "v", "?v"]], "timeout": 0},
    {"find": ("sum", "?v"), "where": [["?e", "v", "?v"], [(lambda v: v / (v - 1500), "?v")]]},
    {"find": ("sum", ("/", "?v", 0)), "where": [["?e", "v", "?v"]]},
])
def test_a_kept_exception_holds_no_reader_in_the_past(node, query):
    """A logger, a future or the prompt keeps exceptions; their frames kept a cursor open."""
    fill(node)
    kept = []
    for ask in node.db().q, lambda query: streamed(node.db(), query):
        with pytest.raises((store.StoreError, ZeroDivisionError)) as raised:
            ask(query)
        kept.append(raised.value)
        assert_the_present_is_seen(node)
    assert len(kept) == 2


def test_lazy_rows_are_the_answers_of_q(node):
    """lazy_q neither ordered nor cut, and an aggregate in it was an error of Python's."""
    node.submit_tx([put(document) for document in TREE])
    ask = {"find": "?x", "where": [["?x", "up"]], "order-by": [["?x"]]}
    for cut, wanted in ({}, [1, 2, 9]), ({"offset": 1}, [2, 9]), ({"offset": 1, "limit": 1}, [2]), ({"limit": 0}, []):
        assert streamed(node.db(), ask | cut) == node.db().q(ask | cut) == wanted
    assert streamed(node.db(), {"find": ("count", "?x"), "where": [["?x", "up"]]}) == [3]
    groups = {"find": ["?u", ("count", "?x")], "where": [["?x", "up", "?u"]], "order-by": [["?u"]]}
    assert streamed(node.db(), groups) == node.db().q(groups) == [(2, 1), (3, 2)]
    pulls = {"find": ["?x", ("pull", "?u", ["xt/id"])], "where": [["?x", "up", "?u"]], "order-by": [["?x"]]}
    assert streamed(node.db(), pulls) == node.db().q(pulls) == [(1, {"xt/id": 2}), (2, None), (9, None)]


def test_lazy_rows_raise_what_q_raises(node):
    """What a function raised came out as SQLite's own error."""
    node.submit_tx([put(document) for document in TREE])

    def boom(value):
        raise LookupError("boom")
    query = {"find": "?x", "where": [["?x", "up", "?u"], [(boom, "?u")]]}
    for ask in node.db().q, lambda query: streamed(node.db(), query):
        with pytest.raises(LookupError, match="boom"):
            ask(query)
    late = {"find": "?a", "where": [["?a", "up"], ["?b", "up"], ["?c", "up"]], "timeout": 0}
    with pytest.raises(store.QueryLimitError):
        streamed(node.db(), late)


def test_an_offset_counts_answers(node):
    """It was counted before rows without, or with several, values of an attribute that the documents bring."""
    node.submit_tx([put({"xt/id": 1, "t": "k", "m": [1, 11]}), put({"xt/id": 2, "t": "k"}),
                    put({"xt/id": 3, "t": "k", "m": 3}),
                    put({"xt/id": 4, "t": "k", "m": 4})])
    page = {"find": ["?e", "?m"], "where": [["?e", "t", "k"], ["?e", "m", "?m"]], "order-by": [["?e"]]}
    whole = node.db().q(page)
    assert whole == [(1, 1), (1, 11), (3, 3), (4, 4)]
    for offset in range(5):
        assert node.db().q(page
                           | {"offset": offset}) == whole[offset:] == streamed(node.db(), page | {"offset": offset})
        assert node.db().q(page | {"offset": offset, "limit": 2}) == whole[offset:offset + 2]


def test_a_pull_keeps_a_reference_whose_entity_is_not_there(node):
    """A star brought the id, and a join that led nowhere took it away again."""
    node.submit_tx([put(document) for document in TREE] + [put({"xt/id": 5, "ups": [1, 3, 7]})])
    db = node.db()
    assert db.pull(["*", {"up": ["xt/id"]}], 2) == {"xt/id": 2, "up": 3}
    assert db.pull(["*", ("up", {"as": "over"}, ["xt/id"])], 2) == {"xt/id": 2, "over": 3}
    assert db.pull(["*", {"ups": ["xt/id"]}], 5) == {"xt/id": 5, "ups": [{"xt/id": 1}, 3, 7]}
    assert db.pull([{"ups": ["xt/id"]}, {"up": ["xt/id"]}], 5) == {"ups": [{"xt/id": 1}, None, None]}


def test_a_pull_finds_who_refers_to_an_id_without_a_document(node):
    """Who still points to a deleted community could not be asked."""
    node.submit_tx([put(document) for document in TREE])
    for db in node.db(), node.db().with_tx([put({"xt/id": 10, "up": 1})]):
        assert [one["xt/id"] for one in db.pull([{"_up": ["xt/id"]}], 3)["_up"]] == [2, 9]
        assert db.pull(["*", ("name", {"default": "?"}), {"_up": ["xt/id"]}], 4) is None
        assert db.pull([{"up": [{"_up": ["xt/id"]}]}], 2) == {"up": {"_up": [{"xt/id": 2}, {"xt/id": 9}]}}
        assert db.pull(["xt/id", {"_up": ...}], 3) == {"_up": [{"xt/id": 2, "_up": [{"xt/id": 1} | (
            {"_up": [{"xt/id": 10}]} if db.entity(10) else {})]}, {"xt/id": 9}]}


def test_a_timeout_bounds_the_pulls_of_a_query(node):
    """Nine friends of each other are a tree of a hundred thousand; ten took a minute and two gigabytes."""
    node.submit_tx([put({"xt/id": i, "friend": [j for j in range(11) if j != i]}) for i in range(11)])
    query = {"find": ("pull", "?e", ["xt/id", {"friend": ...}]), "where": [["?e", "xt/id", 0]], "timeout": 100}
    with pytest.raises(store.QueryLimitError):
        node.db().q(query)
    with pytest.raises(store.QueryLimitError):
        streamed(node.db(), query)


def test_an_aggregate_names_what_it_could_not_compute(node):
    """A sum over a number and a text was Python's TypeError, without a clause."""
    node.submit_tx([put({"xt/id": 1, "v": 1, "w": 0}), put({"xt/id": 2, "v": "x", "w": 0})])
    for find in (("sum", "?v"), ("avg", "?v"), ("min", "?v"), ("max", "?v"), ("median", "?v"), ("variance", "?v"),
                 ("max", 1, "?v")):
        for ask in node.db().q, lambda query: streamed(node.db(), query):
            with pytest.raises(store.QueryError, match=f"\\(['\"]?{find[0]}.*v"):
                ask({"find": find, "where": [["?e", "v", "?v"]]})
    with pytest.raises(store.QueryError, match="/.*division by zero"):
        node.db().q({"find": ("/", "?w", 0), "where": [["?e", "w", "?w"]]})
    with pytest.raises(store.QueryError, match="mod.*zero"):
        node.db().q({"find": "?x", "where": [["?e", "w", "?w"], [("mod", 1, "?w"), "?x"]]})

    def own(values):
        raise ValueError("their own")
    with pytest.raises(ValueError, match="their own"):
        node.db().q({"find": (store.aggregate(own), "?v"), "where": [["?e", "v", "?v"]]})


def test_aggregates_keep_the_bag_and_the_types_apart(node):
    """A running value must not confuse 1, 1.0 and True, nor lose a binding."""
    node.submit_tx([put({"xt/id": i, "v": v, "g": g}) for i, (v, g) in enumerate(
        [(1, "a"), (1.0, "a"), (True, "a"), (1, "b"), (2.5, "b"), (2.5, "b"), ("x" * 80, "c"), ("x" * 80, "c")])])
    ask = lambda find, *more: sorted(node.db().q({"find": find,
                                                  "where": [["?e", "v", "?v"], ["?e", "g", "?g"], *more]}), key=str)
    assert ask(["?g", ("count", "?v"), ("count-distinct", "?v")]) == [("a", 3, 3), ("b", 3, 2), ("c", 2, 1)]
    numbers = [("!=", "?g", "c")], [("!=", "?g", "a")]
    assert ask([("sum", "?v"), ("min", "?v"), ("max", "?v"), ("avg", "?v"), ("count", "?v")],
               *numbers) == [(6.0, 1, 2.5, 2.0, 3)]
    assert ask([("str", "?g", ("count", "?v")),
                {"n": ("sum", ("+", 1, ("count", "?g")))}][:1]) == [("a3",), ("b3",), ("c2",)]


def test_numbers_are_equal_and_ordered_as_numbers_in_functions(node):
    """Three is 3.0 for whoever asks with a function; a document keeps them apart."""
    prices = {"a": 100, "b": 99.5, "c": 3, "d": 2.75, "e": 3.0}
    node.submit_tx([put({"xt/id": id, "price": price}) for id, price in prices.items()])
    where = [["?e", "price", "?p"]]
    assert node.db().q({"find": ["?p", "?e"], "where": where, "order-by": [["?p"], ["?e"]]}) == [
        (2.75, "d"), (3, "c"), (3.0, "e"), (99.5, "b"), (100, "a")]
    assert node.db().q({"find": [("min", "?p"), ("max", "?p"), ("sum", "?p")], "where": where}) == [(2.75, 100, 208.25)]
    assert sorted(node.db().q({"find": [("=", "?p", 3), "?e"], "where": where})) == [
        (False, "a"), (False, "b"), (False, "d"), (True, "c"), (True, "e")]


# ── What ends early ────────────────────────────────────────────────────────────────────────────────────────────

def test_closing_ends_the_queries_that_run(open_store):
    """A service that stops would wait half a minute for a question that nobody reads any more."""
    node, begun, ended = open_store(), threading.Event(), []
    fill(node, 3000)
    query = {"find": ("count", "?a"), "timeout": 600_000, "where": [
        ["?a", "v", "?x"], [(lambda x: begun.set() or True, "?x")], ["?b", "v", "?y"], ["?c", "v", "?z"],
        [("<", "?x", "?y")],
        [("<", "?y", "?z")]]}

    def ask():
        with pytest.raises(store.ClosedError):
            node.db().q(query)
        ended.append(True)
    asked = threading.Thread(target=ask)
    asked.start()
    assert begun.wait(60)
    node.close()
    asked.join(60)
    assert ended


@pytest.mark.parametrize("where", [
    [["?a", "v", "?x"], ["?b", "v", "?y"], ["?c", "v", "?z"], [("<", "?x", "?y")], [("<", "?y", "?z")]],
    [["?a", "v", "?x"], ["?b", "v", "?y"], ["?c", "v", "?z"], [(lambda x, y: x + y > 0, "?x", "?y")]],
])
def test_ctrl_c_comes_out_of_a_query_as_itself(node, where):
    """It came out as "took longer than its timeout", which a program takes for an answer and goes on."""
    fill(node, 1000)
    timer = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        node.db().q({"find": ("count", "?a"), "where": where, "timeout": 20_000})
    timer.join()
    assert_the_present_is_seen(node)


def test_a_listener_outlives_a_task_that_was_cancelled(node):
    """A send to a browser that had left ended the listener without a word, and the chat fell silent."""
    heard = []

    async def main():
        async def callback(tx):
            heard.append(tx.tx_id)
            if tx.tx_id == 2:
                send = asyncio.create_task(asyncio.sleep(10))
                await asyncio.sleep(0)
                send.cancel()
                await send
        listener = node.on_tx(callback)
        for i in range(4):
            await node.submit([put({"xt/id": i})])
        async with asyncio.timeout(60):
            while listener.tx_id < 4:
                await asyncio.sleep(0.001)
        listener._task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listener._task
    asyncio.run(main())
    assert heard == [1, 2, 3, 4]


# ── Suppositions ───────────────────────────────────────────────────────────────────────────────────────────────

def test_a_supposition_is_asked_again_while_the_store_goes_on(node):
    """What a reader keeps of it must not go stale: ids and attributes get their numbers meanwhile."""
    ann, new = uuid.uuid4(), uuid.uuid4()
    node.submit_tx([put({"xt/id": ann, "name": "Ann"})])
    would = node.db().with_tx([put({"xt/id": new, "name": "New", "likes": ann, "fresh": new})])
    query = {"find": ["?e", "?n", "?w"], "where": [["?e", "name", "?n"], ["?e", "likes", "?w"], ["?e", "fresh", "?e"]]}
    assert would.q(query) == [(new, "New", ann)]
    node.submit_tx([put({"xt/id": "other", "fresh": new})])
    assert would.q(query) == [(new, "New", ann)]
    assert would.q({"find": "?e", "in": ["?f"], "where": [["?e", "fresh", "?f"]]}, new) == [new]
    node.submit_tx([put({"xt/id": new, "name": "Put"})])
    assert would.q(query) == [(new, "New", ann)]
    again = would.with_tx([put({"xt/id": ann, "likes": new})])
    likes = {"find": ["?e", "?w"], "where": [["?e", "likes", "?w"]]}
    for _ in range(2):
        assert sorted(again.q(likes), key=str) == sorted([(new, ann), (ann, new)], key=str)
        assert would.q(likes) == [(new, ann)]
        assert again.pull([{"_likes": ["name"]}], ann) == {"_likes": [{"name": "New"}]}
        assert node.db().q(likes) == []


def test_calls_that_ask_see_what_those_before_them_did(open_store):
    """Each asks the tables that the one before it has filled: what was touched since must be there too."""
    def count(ctx, number):
        seen = ctx.db.q({"find": ("count", "?e"), "where": [["?e", "n"]]})
        mine = ctx.db.q({"find": "?e", "in": ["?n"], "where": [["?e", "n", "?n"]]}, number)
        return [put({"xt/id": ("c", number % 7), "n": number, "seen": seen[0] if seen else 0, "mine": len(mine)})]
    with contextlib.closing(open_store(functions={"count": count})) as node:
        node.submit_tx([call("count", number) for number in range(20)])
        assert [node.db().entity(("c", number % 7))["seen"] for number in range(13, 20)] == [7] * 7
        node.submit_tx([call("count", 19), call("count", 19)])
        assert node.db().entity(("c", 5))["mine"] == 1


def test_a_left_cursor_is_closed_with_the_loan(node):
    """The kind itself: whatever is read one by one ends when its reader goes back."""
    fill(node)
    with node._file.reading() as reader:
        rows = reader.rows("select n from facts")
        assert rows.fetchone() is not None
    with pytest.raises(sqlite3.ProgrammingError):
        rows.fetchone()


def test_what_no_document_can_hold_is_refused_in_a_query(node):
    """A time without a zone found nothing, where a put of it says what is wrong."""
    at = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)
    node.submit_tx([put({"xt/id": "a", "at": at})])
    for value in dt.datetime(2026, 1, 1), float("nan"):
        for clause in [("=", "?at", "?t")], [(">", "?at", "?t")], ["?e", "at", "?t"]:
            query = {"find": "?e", "in": ["?t"], "where": [["?e", "at", "?at"], clause]}
            with pytest.raises(store.QueryError, match="no document can hold it"):
                node.db().q(query, value)
        with pytest.raises(store.QueryError, match="no document can hold it"):
            node.db().q({"find": "?e", "in": [["?t", ...]], "where": [["?e", "at", "?t"]]}, [at, value])


# ── In an event loop ───────────────────────────────────────────────────────────────────────────────────────────

def test_a_question_in_a_thread_leaves_the_loop_alone(node, say):
    """A report of everything held the loop, and every socket waited for it."""
    fill(node, 20_000)
    query = {"find": [("pull", "?e", ["*"]), ("str", "?v")], "where": [["?e", "v", "?v"]]}

    async def main():
        lags = []
        asked = asyncio.create_task(node.db().aq(query))
        while not asked.done():
            begun = time.perf_counter()
            await asyncio.sleep(0.001)
            lags.append((time.perf_counter() - begun - 0.001) * 1000)
        with pytest.raises(store.QueryError):
            await node.db().aq({"find": "?x"})
        return await asked, sorted(lags)
    answers, lags = asyncio.run(main())
    assert sorted(answers, key=lambda one: one[0]["v"]) == [({"xt/id": i, "v": i}, str(i)) for i in range(20_000)]
    assert len(lags) > 1, "the loop went on meanwhile"
    say(f"the loop's lag while 20,000 documents were pulled: p99 {lags[int(len(lags) * 0.99)]:.0f} ms (asked: a few)")


def test_a_question_whose_task_is_cancelled_is_stopped(node):
    """A browser that left would leave its report running, and a few of these all the threads taken."""
    fill(node, 3000)
    begun, ended = threading.Event(), threading.Event()

    def look(x):
        begun.set()
        return True
    query = {"find": ("count", "?a"), "timeout": 600_000, "where": [
        ["?a", "v", "?x"], [(look, "?x")], ["?b", "v", "?y"], ["?c", "v", "?z"], [("<", "?x", "?y")],
        [("<", "?y", "?z")]]}

    async def main():
        asked = [asyncio.create_task(node.db().aq(query)) for _ in range(store.QUESTIONS_MAX)]
        await asyncio.to_thread(begun.wait, 60)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        async with asyncio.timeout(60):
            assert await node.db().aq(NUMBERS | {"limit": 1}) == [0], "the threads are free again"
        ended.set()
    asyncio.run(main())
    assert ended.is_set()


def test_a_closed_node_answers_no_question_in_a_thread(open_store):
    """What waits for a thread when the node closes would wait for ever."""
    node = open_store()
    fill(node, 10)

    async def main():
        db = node.db()
        assert len(await db.aq(NUMBERS)) == 10
        node.close()
        with pytest.raises(store.ClosedError):
            await db.aq(NUMBERS)
    asyncio.run(main())


@pytest.mark.parametrize("clause", [[("+", "?n", 0), "?m"], ("or", ["?e", "n", "?m"], ["?e", "old", "?m"]),
                                    ("numbered", "?e", "?m")])
def test_values_that_no_triple_binds_are_ordered_by_value(node, clause):
    """They were ordered as ids are: beside ids that are texts, 0.5 came after 10."""
    node.submit_tx([put({"xt/id": str(n), "n": n}) for n in (1, 2.5, 3, 0.5, 10)])
    rules = [[("numbered", "?e", "?m"), ["?e", "n", "?m"]]]
    asked = {"find": "?m", "rules": rules, "where": [["?e", "n", "?n"], clause], "order-by": [["?m"]]}
    assert node.db().q(asked) == [0.5, 1, 2.5, 3, 10]


@pytest.mark.parametrize("limit", [1, 5, 30])
def test_a_short_page_refuses_values_without_an_order_as_a_long_one_does(node, limit):
    """A page of one row was answered, a page of all rows refused: None hid that the others have no order."""
    node.submit_tx([put({"xt/id": i, "v": (None, False, 7)[i % 3]}) for i in range(30)])
    page = {"find": ["?v", "?e"], "where": [["?e", "v", "?v"]], "order-by": [["?v"]], "limit": limit}
    with pytest.raises(store.QueryError, match="are of different types and have no order"):
        node.db().q(page)
    node.submit_tx([put({"xt/id": i, "v": None}) for i in range(1, 30, 3)])
    first = [(None, 0), (None, 1), (None, 3), (None, 4), (None, 6)][:limit]
    assert node.db().q(page | {"order-by": [["?v"], ["?e"]]})[:5] == first


def test_collections_in_find_hold_what_is_computed_of_each_row_or_group(node):
    """Without this, a dict in find could be shared by rows, group by the wrong variables, or hide a slip."""
    node.submit_tx([put({"xt/id": i, "a": i % 2, "b": i}) for i in range(6)])
    where = [["?e", "a", "?a"], ["?e", "b", "?b"]]

    def found(*find):
        return sorted(map(repr, node.db().q({"find": list(find), "where": where})))
    assert found({"a": "?a", "n": ("count", "?b")}) == ["({'a': 0, 'n': 3},)", "({'a': 1, 'n': 3},)"]
    assert found({"of": ["?a", ("max", "?b")]}, ("sum", "?b")) == ["({'of': [0, 4]}, 6)", "({'of': [1, 5]}, 9)"]
    assert found([("if", ("even?", "?b"), "?a", [])]) == ["([0],)", "([[]],)"]
    assert found({("count", "?b"), "?a"}, [{}]) == ["({0, 3}, [{}])", "({1, 3}, [{}])"]
    why = r"\('count', '\?b'\) cannot be computed: object of type 'int' has no len"
    with pytest.raises(store.QueryError, match=why):
        found({"a": ("sum", ("count", "?b"))})


def test_the_arguments_of_an_inner_call_stand_in_their_order(node):
    """They were taken in the order in which the whole expression names its variables."""
    node.submit_tx([put({"xt/id": 1, "a": 10, "b": 3, "s": "s"})])
    ask = lambda find: node.db().q({"find": find, "where": [["?e", "a", "?a"], ["?e", "b", "?b"]]})
    assert ask([("+", "?a", ("-", "?b", "?a"))]) == [(3,)]
    assert ask([("list", ("-", "?b", "?a"), ("-", "?a", "?b"), ("-", "?b", "?b"))]) == [([-7, 7, 0],)]
    assert ask([("list", "?a", ("max", ("-", "?b", "?a"))), "?b"]) == [([10, -7], 3)]


def test_equality_in_find_is_that_of_clauses(node):
    """The same name meant one thing to SQL and another to Python."""
    node.submit_tx([put({"xt/id": 1, "a": 3, "b": 3.0}), put({"xt/id": 2, "a": 3, "b": 3})])
    where = [["?e", "a", "?a"], ["?e", "b", "?b"]]
    for name in "=", "==", "not=", "!=":
        found = node.db().q({"find": ["?e", (name, "?a", "?b")], "where": where})
        kept = node.db().q({"find": "?e", "where": [*where, [(name, "?a", "?b")]]})
        assert sorted(kept) == [e for e, holds in sorted(found) if holds], name


TOTALS = [[(head, "?v")] for head in ("count", "count-distinct", "sum", "avg", "min", "max")]
TOTALS += [["?kind", ("count", "?e"), ("max", "?v")], [("sum", "?v"), "?kind"]]
COMPARED = [(sign, *sides) for sign in ("<", ">=", "=", "!=", "not=", "==")
            for sides in (("?v", "?n"), ("?v", 4), ("?v", 2.0), (2 ** 61 + 2, "?v"), ("?v", {2, 4.0}))]


@pytest.mark.parametrize("a", ["num", "mix", "big"])
def test_what_sqlite_makes_python_makes_alike(node, monkeypatch, a):
    """Without this, a store that was copied without store_native.py could answer otherwise."""
    values = {"num": lambda n: n % 5, "mix": lambda n: [n, n / 2, 2 ** 61 + n][n % 3], "big": lambda n: 2 ** 60 + n}
    node.submit_tx([put({"xt/id": n, "kind": "kl"[n % 2], "n": n, a: values[a](n)}) for n in range(12)])

    def asked():
        node._plans.clear()
        both, each = [["?e", a, "?v"], ["?e", "kind", "?kind"]], [["?e", a, "?v"], ["?e", "n", "?n"]]
        queries = [(find, where) for find in TOTALS for where in (both, [both[0], ["?v", "kind", "?kind"]])]
        queries += [(["?e"], [*each, [call]]) for call in COMPARED]
        return [sorted(map(repr, node.db().q({"find": find, "where": where}))) for find, where in queries]
    query = {"find": TOTALS[0], "where": [["?e", a, "?v"]]}
    made, sql = asked(), node.db().explain(query)
    monkeypatch.setattr(store, "_sibling_if_there", lambda name: None)
    assert asked() == made and "count(*)" in sql and "count(*)" not in node.db().explain(query)


def test_ids_without_documents_that_pull_the_same_are_one_answer(node):
    """The pattern asks for their ids, but they have none to tell: two equal answers came."""
    node.submit_tx([put({"xt/id": ("t", 1), "to": {2, 7}})])
    pattern = ["xt/id", ("_to", {"as": "from"}, [("none", {"default": 7})])]
    query = {"find": ("pull", "?b", pattern), "where": [["?c", "to", "?b"]]}
    assert node.db().q(query) == [{"from": [{"none": 7}]}]


ALONE = """
import operator, store
from store import put
node = store.open(":memory:")
ann, bo = {"xt/id": "ann", "name": "Ann", "age": 41}, {"xt/id": "bo", "name": "Bo", "boss": "ann"}
first = node.submit_tx([put(ann), put(bo)])
node.submit_tx([put({"xt/id": "cy", "name": "Cy", "boss": "bo", "age": 7}), put(ann | {"name": "Anna"})])
over = {"find": "?n", "in": ["?who"], "where": [("over", "?e", "?who"), ["?e", "name", "?n"]], "order-by": [["?n"]],
        "rules": [[("over", "?a", "?b"), ["?b", "boss", "?a"]],
                  [("over", "?a", "?c"), ["?b", "boss", "?a"], ("over", "?b", "?c")]]}
grown = {"find": ["?n", ("count", "?e")], "where": [
    ["?e", "name", "?n"], ("or", ["?e", "age"], ["?e", "boss"]), [(operator.mul, 2, 3), "?six"],
    ["?e", "age", "?a"], [(">", "?a", "?six")], ("not", ["?e", "boss", "ann"])]}
print(node.db().q(over, "cy"), node.db(first).q(over, "bo"))
print(sorted(node.db().q(grown)), node.db().pull([{"boss": ["name"]}], "cy"))
print(node.db().q({"find": "?e", "where": [["?e", "nmae", "Ann"]]}))
for call in ("<", "?e", "?x"), ("str", "?e"):
    try:
        node.db().q({"find": "?e", "where": [["?e", "name"], [call]]})
    except store.QueryError as error:
        print(error)
"""
SAID_ALONE = """
['Anna', 'Bo'] ['Ann']
[('Anna', 1), ('Cy', 1)] {'boss': {'name': 'Bo'}}
[]
[('<', '?e', '?x')] uses ?x, but no clause binds it. Bound here: ?e.
There is no function 'str': give it to open(functions=…), or put the callable itself into the query.
"""


def test_the_store_without_its_siblings_answers_and_refuses(tmp_path):
    """Without this, the one file that is copied could need another one for what everybody asks."""
    shutil.copy(store.__file__, tmp_path)
    folders = [str(tmp_path), os.path.dirname(os.path.dirname(msgpack.__file__))]
    done = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path += {folders}{ALONE}"],
                          capture_output=True, text=True)
    assert done.stderr == "" and done.stdout == SAID_ALONE.lstrip()
