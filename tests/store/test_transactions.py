"""Operations: all or nothing, one after the other, each seeing those before it."""
import asyncio
import contextlib
import datetime as dt
import glob
import itertools
import linecache
import os
import random
import re
import sys
import threading
import time
import uuid

import pytest

import store
from conftest import wait_until
from store import call, cas, delete, evict, match, patch, put

UTC = dt.timezone.utc
DAY = dt.timedelta(days=1)
A, B = {"xt/id": "a", "v": 1}, {"xt/id": "a", "v": 2}


# ── Numbers and times ────────────────────────────────────────────────────────────────────────────────────────

def test_transactions_are_numbered_from_one_without_gaps(node):
    """Without this, a follower could not know that it has missed nothing."""
    assert node.latest_tx is None
    told = [node.submit_tx([put(A)]), node.submit_tx([match("a", None)]), node.submit_tx([]),
            node.submit_tx([delete("a")])]
    assert [tx.tx_id for tx in told] == [1, 2, 3, 4]
    assert [tx.committed for tx in told] == [True, False, True, True]
    assert node.latest_tx[:3] == told[-1][:3]
    assert told[0].tx_time < told[1].tx_time < told[2].tx_time < told[3].tx_time
    assert all(tx.tx_time.tzinfo is UTC for tx in told)


def test_time_never_goes_back_whatever_the_clock_does(size, say, open_store):
    """Without this, a server whose clock is set back would write before what is written."""
    now = [dt.datetime(2030, 1, 1, tzinfo=UTC)]
    with contextlib.closing(open_store(clock=lambda: now[0])) as node:
        count, last, bad = size(2_000, 10_000), None, 0
        for number in range(count):
            if number == count // 2:
                now[0] -= dt.timedelta(hours=1)                             # set back
            if number == count // 2 + 100:
                now[0] += dt.timedelta(days=3650)                           # far ahead
            if number == count // 2 + 200:
                now[0] -= dt.timedelta(days=3650)                           # and back
            tx = node.submit_tx([put({"xt/id": number})])
            bad += last is not None and tx.tx_time <= last
            last = tx.tx_time
            assert node.db().entity(number), "one reads what one wrote, though the clock lags"
        assert bad == 0
        assert [tx.tx_id for tx in node.tx_log()] == list(range(1, count + 1))
        with pytest.raises(store.NotIndexedError):
            node.db(tx_time=last + DAY)
    say(f"0 of {count:,} transaction times went back (asked: 0 of 10,000)")


def test_an_imported_transaction_keeps_its_time_and_times_still_rise(open_store):
    """A store moved from elsewhere would say that all it knows was learnt on the day of the move."""
    now = dt.datetime(2030, 1, 1, tzinfo=UTC)
    with contextlib.closing(open_store(clock=lambda: now)) as node:
        def is_refused(tx_time):
            with pytest.raises(store.OperationError, match="tx_time is .* Nothing was written"):
                node.submit_tx([put(B)], tx_time=tx_time)
            return True
        assert is_refused(now + DAY) and node.latest_tx is None
        told = [node.submit_tx([put(A)], tx_time=now - 3 * DAY), node.submit_tx([put(B)], tx_time=now - 2 * DAY)]
        assert [(tx.tx_id, tx.tx_time) for tx in told] == [(1, now - 3 * DAY), (2, now - 2 * DAY)]
        assert is_refused(now - 2 * DAY) and is_refused(now - 3 * DAY) and is_refused(now + DAY / 2)
        assert node.submit_tx([put({"xt/id": "b"}, None, now)], tx_time=now - DAY).committed, "its end is not past then"
        with pytest.raises(store.ValueTypeError):
            node.submit_tx([], tx_time=now.replace(tzinfo=None))
        both = [node.submit(ops, tx_time=now) for ops in ([put({"xt/id": "c"})], [put({"xt/id": "d"})])]

        async def gathered():
            return await asyncio.gather(*both, return_exceptions=True)
        first, second = asyncio.run(gathered())
        assert first.tx_time == now and type(second) is store.OperationError
        assert node.db(tx_time=now - 3 * DAY / 2).entity("a") == B and node.db(tx_time=now - 2.5 * DAY).entity("a") == A
        assert node.submit_tx([]).tx_time == now + dt.timedelta(microseconds=1) and node.latest_tx.tx_id == 5
        assert [v.valid_from for v in node.db().history("a")] == [now - 3 * DAY, now - 2 * DAY]
        assert node.verify() == 5


# ── One after the other ──────────────────────────────────────────────────────────────────────────────────────

INSIDE = [
    ("put then match", [put(A), match("a", A)], True, A),
    ("put then match of nothing", [put(A), match("a", None)], False, None),
    ("match then put", [match("a", None), put(A)], True, A),
    ("put then put", [put(A), put(B)], True, B),
    ("put then delete", [put(A), delete("a")], True, None),
    ("delete then put", [put(A), delete("a"), put(B)], True, B),
    ("delete then match of nothing", [put(A), delete("a"), match("a", None)], True, None),
    ("put then evict", [put(A), evict("a")], True, None),
    ("evict then put: the put wins", [evict("a"), put(B)], True, B),
    ("match of another document", [put(A), match("a", B)], False, None),
    ("one failure undoes all", [put(A), match("b", A), put(B)], False, None),
    ("delete of nothing is no error", [delete("nobody"), evict("nobody")], True, None),
    ("patch of what was put", [put(A), patch("a", {"w": None})], True, A | {"w": None}),
    ("patch takes an attribute away", [put(A), patch("a", {"v": ..., "w": 1})], True, {"xt/id": "a", "w": 1}),
    ("patch of nothing", [patch("a", {"v": 1})], True, A),
    ("patch that takes away from nothing", [patch("a", {"v": ...})], True, None),
    ("patch of what was deleted", [put(B), delete("a"), patch("a", {"v": 1})], True, A),
    ("cas", [put(A), cas("a", "v", 1, 2)], True, B),
    ("cas of another value", [put(A), cas("a", "v", 2, 3)], False, None),
    ("cas of an equal value of another type", [put(A), cas("a", "v", True, 3)], False, None),
    ("cas of a value that is not there", [put(A), cas("a", "w", None, 3)], False, None),
    ("cas of no value", [cas("a", "v", ..., 0), cas("a", "v", 0, ...), cas("a", "v", ..., 1)], True, A),
    ("cas of no value where one is", [put(A), cas("a", "v", ..., 2)], False, None),
]


@pytest.mark.parametrize("name, ops, committed, visible", INSIDE, ids=[row[0] for row in INSIDE])
def test_each_operation_sees_those_before_it(node, name, ops, committed, visible):
    """Without this, the rule would be whatever the code happens to do. Jepsen found this in Datomic."""
    assert node.submit_tx(ops).committed is committed
    assert node.db().entity("a") == visible
    node.reindex()
    assert node.db().entity("a") == visible, "and the replay agrees"


def test_overlapping_valid_times_in_one_transaction(node):
    """Without this, two puts on one entity would depend on the order in which an index is written."""
    start = dt.datetime(2020, 1, 1, tzinfo=UTC)
    node.submit_tx([put(A, start, start + 10 * DAY), put(B, start + 3 * DAY, start + 5 * DAY),
                    match("a", B, start + 4 * DAY)])
    seen = [node.db(valid_time=start + n * DAY).entity("a") for n in (0, 3, 4, 5, 9, 10)]
    assert seen == [A, B, B, A, A, None]


def test_match_compares_whole_documents_of_equal_types(node):
    """Without this, True would match 1."""
    node.submit_tx([put({"xt/id": "a", "v": 1, "w": [1, 2]})])
    tried = [{"v": True, "w": [1, 2]}, {"v": 1.0, "w": [1, 2]}, {"v": 1, "w": (1, 2)}, {"v": 1, "w": [2, 1]}, {"v": 1},
             {"v": 1, "w": [1, 2], "x": None}]
    assert [node.submit_tx([match("a", {"xt/id": "a"} | rest)]).committed for rest in tried] == [False] * 6
    assert node.submit_tx([match("a", {"w": [1, 2], "v": 1, "xt/id": "a"})]).committed


def test_a_patch_changes_each_version_in_its_span_and_is_told_as_puts(node):
    """A new address would go back to the old one on the day for which another change is planned."""
    start = dt.datetime(2040, 1, 1, tzinfo=UTC)
    now = node.submit_tx([put(A | {"w": 1}), put(B, start, start + DAY), delete("a", start + 2 * DAY)]).tx_time
    heard = []
    listener = node.on_tx(heard.append)
    tx = node.submit_tx([patch("a", {"w": 5})])
    assert not node.submit_tx([cas("a", "w", 1, 6), put(B)]).committed
    assert "'w' holds another value" in node.submit_tx([cas("a", "w", 1, 6)]).reason
    wanted = [put(A | {"w": 5}, tx.tx_time, start), put(B | {"w": 5}, start, start + DAY),
              put(A | {"w": 5}, start + DAY, start + 2 * DAY)]
    assert list(node.tx_log())[1].ops == wanted
    held = [(v.valid_from, v.document) for v in node.db(valid_time=start + 9 * DAY).history("a")]
    assert held == [(now, A | {"w": 1})] + [(op[2], op[1]) for op in wanted] + [(start + 2 * DAY, None)]
    wait_until(lambda: heard, 60, lambda: "it is not heard")
    listener.close()
    assert [told.ops for told in heard] == [wanted]
    assert node.submit_tx([patch("a", {"w": 5}), patch("a", {})]).committed and list(node.tx_log())[-1].ops == []
    node.submit_tx([evict("a")])
    node.reindex()
    assert node.verify() == 6 and node.db(valid_time=start).history("a") == []


# ── Aborted leaves no trace ──────────────────────────────────────────────────────────────────────────────────

def trace(node):
    db = node.db()
    return (db.q({"find": ["?e", "?v"], "where": [["?e", "v", "?v"]], "order-by": [["?v"]]}), db.entity("a"),
            db.history("a"), node.attribute_stats(),
            node.status()["documents"], [tx.tx_id for tx in node.tx_log()])


def test_an_aborted_transaction_leaves_no_trace(node):
    """Without this, a lost race would leave half a message."""
    node.submit_tx([put(A)])
    before, heard = trace(node), []
    listener = node.on_tx(heard.append)
    for abort in match("b", B), call("nobody"):
        ops = [put(B), put({"xt/id": uuid.uuid4(), "new-attribute": uuid.uuid4()}), evict("a"), delete("a"), abort]
        assert not node.submit_tx(ops).committed
    assert trace(node) == before
    assert node.latest_tx.tx_id == 3
    node.reindex()
    assert trace(node) == before
    assert node.submit_tx([put({"xt/id": "b", "v": 3})]).tx_id == 4
    node.await_tx(4, 60)
    wait_until(lambda: heard, 60, lambda: "it is not heard")
    listener.close()
    assert [tx.tx_id for tx in heard] == [4]
    assert node.verify() == 4


ANN, BO = {"xt/id": "a", "email": "ann@x"}, {"xt/id": "b", "email": "bo@x"}
REF, GONE = ["email", "ann@x"], ["email", "gone@x"]
OF_REFS = [                           # operations after ANN and BO; as they are told, or why not; what `a` is then
    ("put", [put({"xt/id": REF, "n": 1})], [put({"xt/id": "a", "n": 1})], {"xt/id": "a", "n": 1}),
    ("patch", [patch(REF, {"n": 1, "email": ...})], None, {"xt/id": "a", "n": 1}),
    ("cas", [cas(REF, "email", "ann@x", "new@x")], None, {"xt/id": "a", "email": "new@x"}),
    ("cas of another value", [cas(REF, "n", 1, 2)], "'n' holds nothing", ANN),
    ("delete", [delete(REF)], [delete("a")], None), ("evict", [evict(REF)], [evict("a")], None),
    ("match", [match(REF, ANN), put(BO)], [put(BO)], ANN),
    ("match of another", [match(REF, BO)], "another document is visible", ANN),
    ("of what came before", [put(BO | {"email": "new@x"}), delete(["email", "new@x"]), delete(["email", "bo@x"])],
     [put(BO | {"email": "new@x"}), delete("b")], ANN),
    ("nobody's", [put({"xt/id": GONE})], r"put of \['email', 'gone@x'\]: no entity has 'gone@x' in email", ANN),
    ("nobody's patch", [patch(GONE, {"n": 1})], "no entity has 'gone@x'", ANN),
    ("nobody's delete", [delete(GONE), evict(GONE), match(GONE, None)], [], ANN),
    ("two", [put(BO | {"email": "ann@x"}), delete(REF)], "2 entities have 'ann@x' in email", ANN),
    ("a function's", [call("gives", REF)], [delete("a")], None),
]


@pytest.mark.parametrize("ops, told, after", [row[1:] for row in OF_REFS], ids=[row[0] for row in OF_REFS])
def test_an_operation_takes_a_lookup_ref_for_its_entity(ops, told, after, open_store):
    """Who knows an address would ask for the id first, and it may be another's by the time of the transaction."""
    with contextlib.closing(open_store({"gives": lambda ctx, ref: [delete(ref)]})) as node:
        node.submit_tx([put(ANN), put(BO)])
        supposed = node.db().with_tx(ops)
        tx = node.submit_tx(ops)
        assert node.db().entity("a") == after and tx.committed is (type(told) is not str) is (supposed is not None)
        if type(told) is str:
            assert re.search(told, tx.reason)
        elif told is not None:
            found = [op for op in list(node.tx_log())[-1].ops if op[0] != "match"]
            assert [op[:2] for op in found] == [op[:2] for op in told]
        if supposed:
            assert supposed.entity("a") == after
        with pytest.raises(store.OperationError, match="past, and without valid_from"):
            node.submit_tx([delete(REF, None, dt.datetime(2020, 1, 1, tzinfo=UTC))])
        node.verify()


MALFORMED = [
    ("put", [("put",)]), ("no id", [("put", {"v": 1})]), ("not a document", [("put", 3)]),
    ("an id of None", [put({"xt/id": None})]),
    ("a list for id", [put({"xt/id": [1]})]), ("a set for id", [put({"xt/id": {1}})]),
    ("key not a string", [put({"xt/id": 1, 2: 3})]),
    ("unknown operation", [("insert", {"xt/id": 1})]), ("a naive time", [put(A, dt.datetime(2020, 1, 1))]),
    ("a date", [put(A, dt.date(2020, 1, 1))]),
    ("end before start", [put(A, dt.datetime(2021, 1, 1, tzinfo=UTC), dt.datetime(2020, 1, 1, tzinfo=UTC))]),
    ("evict with a time", [("evict", 1, dt.datetime(2020, 1, 1, tzinfo=UTC))]),
    ("too many", [("delete", 1, None, None, None)]),
    ("a function of no name", [("call", 3)]), ("no operation", [()]), ("None", [None]), ("text", "put"),
    ("a number", 3), ("a document", {"xt/id": 1}),
    ("a patch that is no dict", [patch("a", [1])]), ("a patch to another id", [patch("a", {"xt/id": "b"})]),
    ("a patch without an id", [patch("a", {"xt/id": ...})]), ("a patch of no attribute", [patch("a", {1: 2})]),
    ("a patch of no value", [patch("a", {"v": float("nan")})]), ("a cas of no attribute", [cas("a", 1, 2, 3)]),
    ("a cas of the id", [cas("a", "xt/id", "a", "b")]), ("a cas without a value", [("cas", "a", "v", 1)]),
    ("a match of no document", [("match", "a")]), ("the second", [put(A), ("put", 3)]),
]


@pytest.mark.parametrize("name, ops", MALFORMED, ids=[row[0] for row in MALFORMED])
def test_a_malformed_operation_is_refused_before_anything_is_written(node, name, ops):
    """Without this, a typing mistake would take a tx_id, or worse."""
    with pytest.raises(store.OperationError):
        node.submit_tx(ops)
    assert node.latest_tx is None
    with pytest.raises(store.OperationError):
        node.db().with_tx(ops)


def test_the_sentence_says_which_operation_and_that_nothing_was_written(node):
    """Without this, one would search a transaction of a thousand operations by hand."""
    with pytest.raises(store.OperationError, match=r"operation 2 of 2\). Nothing was written"):
        node.submit_tx([put(A), put({"xt/id": "b", "v": float("nan")})])


# ── Functions ────────────────────────────────────────────────────────────────────────────────────────────────

def increment(ctx, id):
    document = ctx.db.entity(id) or {"xt/id": id, "v": 0}
    return [put(document | {"v": document["v"] + 1})]


def test_a_function_sees_what_the_transaction_did_so_far(open_store):
    """Without this, two calls in one transaction would lose one of their effects."""
    with contextlib.closing(open_store({"inc": increment})) as node:
        tx = node.submit_tx([put({"xt/id": "a", "v": 5}), call("inc", "a"), call("inc", "a"), call("inc", "b")])
        assert tx.committed
        assert (node.db().entity("a")["v"], node.db().entity("b")["v"]) == (7, 1)


def test_a_function_sees_the_whole_past_of_what_its_transaction_put(open_store):
    """A put reads only what is valid from now on. A function that then asks for the history must get all of it."""
    seen, past = [], dt.datetime(2020, 1, 1, tzinfo=UTC)

    def looks(ctx, id):
        seen.append([(v.valid_from, v.document and v.document["v"]) for v in ctx.db.history(id)])
    with contextlib.closing(open_store({"looks": looks})) as node:
        node.submit_tx([put({"xt/id": "a", "v": 0}, past, past + DAY)])
        times = [node.submit_tx([put({"xt/id": "a", "v": n})]).tx_time for n in (1, 2)]
        last = node.submit_tx([put({"xt/id": "a", "v": 3}), call("looks", "a"), put({"xt/id": "a", "v": 4}, past),
                               call("looks", "a")])
        rest = [*zip(times, (1, 2)), (last.tx_time, 3)]
        assert seen == [[(past, 0), (past + DAY, None), *rest], [(past, 4), (past + DAY, None), *rest]]
        assert [(v.valid_from, v.document and v.document["v"]) for v in node.db().history("a")] == seen[1]


FAR = {"find": ["?a", "?b"], "where": [("far", "?a", "?b")], "timeout": 20,
       "rules": [[("far", "?a", "?b"), ["?a", "next", "?b"]],
                 [("far", "?a", "?b"), ("far", "?a", "?c"), ["?c", "next", "?b"]],
                 [("far", "?a", "?b"), ("near", "?a", "?b")],
                 [("near", "?a", "?b"), ("far", "?a", "?b"), ["?b", "next", "?x"]]]}


def test_a_function_whose_query_runs_out_of_time_goes_on(open_store):
    """Without this, one question too long would take the transactions of others with it, and close the store."""
    def far(ctx):
        with pytest.raises(store.QueryLimitError):
            ctx.db.q(FAR)
        return [put({"xt/id": "said"})]
    node = open_store(functions={"far": far})
    node.submit_tx([put({"xt/id": n, "next": n + 1}) for n in range(400)])
    assert node.submit_tx([put({"xt/id": "before"}), call("far")]).committed
    assert node.db().pull_many(["xt/id"], ["before", "said"]) == [{"xt/id": "before"}, {"xt/id": "said"}]


def test_what_a_function_returns(open_store):
    """Without this, nobody would know how to say no."""
    seen = []

    def fails(ctx):
        raise ValueError("no")

    def looks(ctx, *args):
        seen.append((ctx.tx_id, ctx.tx_time, args, ctx.db.q({"find": "?e", "where": [["?e", "v"]]})))
    functions = {"nothing": lambda ctx: None, "empty": lambda ctx: [], "no": lambda ctx: False, "fails": fails,
                 "looks": looks,
                 "malformed": lambda ctx: [("put", 3)], "nested": lambda ctx: [call("inc", "a"), call("inc", "a")],
                 "inc": increment,
                 "endless": lambda ctx: [call("endless")]}
    with contextlib.closing(open_store(functions)) as node:
        for name, committed in [("nothing", True), ("empty", True), ("no", False), ("fails", False),
                                ("malformed", False), ("nested", True),
                                ("endless", False), ("unknown", False)]:
            assert node.submit_tx([put({"xt/id": name}), call(name)]).committed is committed, name
            assert (node.db().entity(name) is not None) is committed, name
        assert node.db().entity("a")["v"] == 2
        tx = node.submit_tx([put({"xt/id": "x", "v": 1}), call("looks", 1, {"k": [2]})])
        assert seen == [(tx.tx_id, tx.tx_time, (1, {"k": [2]}), seen[0][3])] and sorted(seen[0][3]) == ["a", "x"]


def test_a_call_is_recorded_and_replayed_never_repeated(open_store):
    """Without this, a function that looks at the clock would change the past when the index is rebuilt."""
    calls = []

    def roll(ctx):
        calls.append(1)
        return [put({"xt/id": "dice", "v": random.random()})]
    with contextlib.closing(open_store(at="s", functions={"roll": roll})) as node:
        node.submit_tx([call("roll")])
        rolled, log = node.db().entity("dice"), list(node.tx_log())
        assert log[0].ops == [("put", rolled)]
        node.reindex()
        assert node.db().entity("dice") == rolled
    with contextlib.closing(open_store(at="s")) as node:
        node.reindex()
        assert node.db().entity("dice") == rolled and list(node.tx_log()) == log
        assert node.verify() == 1
    assert calls == [1]


# ── Together ─────────────────────────────────────────────────────────────────────────────────────────────────

def test_match_is_atomic(size, say, open_store):
    """Without this, two people could take the last seat."""
    threads, each = 8, size(60, 500)
    with contextlib.closing(open_store()) as node:
        node.submit_tx([put({"xt/id": "n", "v": 0, "by": []})])
        committed, tries = [], []

        def work(number):
            for _ in range(each):
                while True:
                    tries.append(1)
                    before = node.db().entity("n")
                    after = before | {"v": before["v"] + 1, "by": (before["by"] + [number])[-3:]}
                    if node.submit_tx([match("n", before), put(after)]).committed:
                        break
                committed.append(number)
        running = [threading.Thread(target=work, args=[number]) for number in range(threads)]
        [thread.start() for thread in running], [thread.join() for thread in running]
        assert node.db().entity("n")["v"] == len(committed) == threads * each
        versions = [tx.ops[-1][1] for tx in node.tx_log()]
        assert [version["v"] for version in versions] == list(range(threads * each + 1))
        assert all(before["by"] == after["by"][:-1] or before["by"][-2:] == after["by"][:-1]
                   for before, after in zip(versions, versions[1:]))
    say(f"{len(committed):,} increments, {len(tries):,} tries, 0 lost (asked: 0 lost)")


def test_a_put_costs_the_same_however_long_the_past_of_its_entity(size, say, open_store):
    """Each put read all that its entity had ever been: after 3,000 rewrites it took 7 ms, and a counter stood still."""
    rewrites, block = size(2_000, 20_000), size(2_000, 20_000) // 10
    with contextlib.closing(open_store()) as node:
        def put_block():
            begun = time.process_time()
            for _ in range(block):
                before = node.db().entity("n")
                assert node.submit_tx([match("n", before), put({"xt/id": "n", "v": before["v"] + 1})]).committed
            return time.process_time() - begun
        node.submit_tx([put({"xt/id": "n", "v": 0})])
        took = [put_block() for _ in range(10)]
        assert node.db().entity("n")["v"] == len(node.db().history("n", documents=False)) - 1 == rewrites
    first, last = min(took[:4]), min(took[-4:])          # of the processor's time: others may have the machine, too
    say(f"{block} rewrites after {rewrites:,} others take {last / first:.2f} times the first ones (asked: 1.3)")
    assert last < 2 * 1.3 * first


def test_threads_get_gapless_tx_ids_and_read_what_they_wrote(size, open_store):
    """Without this, a group commit could give one number twice."""
    with contextlib.closing(open_store()) as node:
        told = []

        def work(number):
            for turn in range(100):
                tx = node.submit_tx([put({"xt/id": (number, turn)})])
                assert node.db().entity((number, turn)) and node.db(tx.tx_id - 1).entity((number, turn)) is None
                told.append(tx.tx_id)
        running = [threading.Thread(target=work, args=[number]) for number in range(8)]
        [thread.start() for thread in running], [thread.join() for thread in running]
        assert sorted(told) == list(range(1, 801))


async def test_of_equal_posts_in_one_group_commit_one_wins(node):
    """An id that one transaction had looked for in vain was unknown to its whole group: a post sent five times was
    put five times."""
    id = uuid.uuid4()
    told = await asyncio.gather(*(node.submit([match(id, None), put({"xt/id": id, "n": n})]) for n in range(5)))
    assert [tx.committed for tx in told] == [True, False, False, False, False]
    assert node.db().entity(id)["n"] == 0 and len(node.db().history(id)) == 1


# ── Forgetting ───────────────────────────────────────────────────────────────────────────────────────────────

def test_evicted_bytes_are_in_no_file_and_the_chain_still_verifies(tmp_path, say, open_store):
    """Without this, the right to be forgotten would be a promise on paper."""
    secrets = [f"secret-{n}-{uuid.uuid4().hex}" for n in range(20)]
    with contextlib.closing(open_store(at="s",
                                       functions={"keep": lambda ctx, s: [put({"xt/id": "called", "s": s})]})) as node:
        node.submit_tx([put({"xt/id": "other", "v": 1})])
        for n, secret in enumerate(secrets[:16]):
            node.submit_tx([put({"xt/id": f"p{n}", "text": secret, "long": secret * 9, "tags": [secret, 1],
                                 "inside": {"k": secret}}), put({"xt/id": "other", "v": n})])
        node.submit_tx([put({"xt/id": "p0", "text": secrets[16]}, dt.datetime(2020, 1, 1, tzinfo=UTC),
                            dt.datetime(2021, 1, 1, tzinfo=UTC))])
        node.submit_tx([put({"xt/id": "p1", "text": secrets[17]}),
                        match("nobody", {"xt/id": "nobody", "s": secrets[17]})])
        node.submit_tx([call("keep", secrets[18])])
        node.submit_tx([put({"xt/id": "p2", "text": secrets[19]}), put({"xt/id": "p2", "text": "replaced at once"})])
        other, held = node.db().history("other", corrections=True), node.db()
        node.db().q({"find": "?t", "where": [["?e", "text", "?t"]]})
        node.submit_tx([evict("called"), *(evict(f"p{n}") for n in range(16))])
        assert held.entity("p0") is None and node.db(5).entity("p0") is None, "snapshots of the past forget as well"
        assert node.db(5).q({"find": "?t", "where": [["?e", "text", "?t"]]}) == []
        assert node.db().history("other", corrections=True) == other
        count = node.verify()
        found = [(path, secret) for path in filter(os.path.isfile, glob.glob(str(tmp_path / "*")))
                 for secret in secrets if secret.encode() in open(path, "rb").read()]
        assert found == []
        evicted = [op for tx in node.tx_log() for op in tx.ops if op[0] == "put" and op[1].get("xt/evicted?")]
        assert len(evicted) >= 16, "the log keeps the operation"
        node.reindex()
        assert node.db().history("other", corrections=True) == other and node.verify() == count
    say(f"0 of {len(secrets)} evicted secrets found in {len(glob.glob(str(tmp_path / '*')))} files (asked: 0)")


def test_an_evicted_id_comes_back_without_a_past(node):
    """Without this, an address could never be used again, or its old owner would shine through."""
    node.submit_tx([put(A)])
    node.submit_tx([evict("a")])
    tx = node.submit_tx([put(B)])
    assert node.db().entity("a") == B
    assert [entry.tx_id for entry in node.db().history("a", corrections=True)] == [tx.tx_id]
    assert node.db(1).entity("a") is None


def test_an_evict_beside_a_verification_is_no_damage(node):
    """Without this, a check beside other people's work would call a document lost that was only evicted."""
    for n in range(3):
        node.submit_tx([put({"xt/id": n, "text": "some"})])
    evicted = []

    def evict_once(done, of):
        if not evicted:
            evicted.append(node.submit_tx([evict(2)], check=True))
    assert node.verify(evict_once) == 3 and evicted and node.db().entity(2) is None
    assert node.verify() == 4


# ── The log, and waiting ─────────────────────────────────────────────────────────────────────────────────────

def test_the_log_tells_operations_with_whole_documents(node):
    """Without this, a listener could not say what was said."""
    start, end = dt.datetime(2020, 1, 1, tzinfo=UTC), dt.datetime(2021, 1, 1, tzinfo=UTC)
    node.submit_tx([put(A), put(A, start), put(A, start, end), delete("a"), delete("a", start),
                    delete("a", start, end)])
    node.submit_tx([match("a", A)])
    node.submit_tx([match("a", None, start), evict("x"), put({"xt/id": "b"}), match("b", {"xt/id": "b"})])
    one, three = node.tx_log()
    assert one.ops == [put(A), put(A, start), put(A, start, end), delete("a"), delete("a", start),
                       delete("a", start, end)]
    hash = node.db().entity_tx("b").content_hash
    assert (three.tx_id, three.ops) == (3, [match("a", None, start), evict("x"), put({"xt/id": "b"}),
                                            match("b", hash)]), "of a document to match its hash"
    assert [tx.tx_id for tx in node.tx_log(after=1)] == [3] and list(node.tx_log(after=3)) == []


def test_await_tx_returns_when_it_is_there(node):
    """Without this, a script could only sleep and hope."""
    waiting = threading.Thread(target=lambda: node.submit_tx([put(A)]))
    waiting.start()
    assert node.await_tx(1, timeout_s=60).tx_id == 1
    waiting.join()
    for error in store.NotIndexedError, TimeoutError:
        with pytest.raises(error, match="Transaction 2 was not indexed within 0.01 s; the newest is 1"):
            node.await_tx(2, timeout_s=0.01)


def test_a_closed_node_refuses_everything(node):
    """Without this, a request during shutdown would hang or lie."""
    node.submit_tx([put(A)])
    db = node.db()
    node.close()
    node.close()
    for ask in (lambda: node.submit_tx([put(A)]), node.db, lambda: db.entity("a"),
                lambda: db.q({"find": "?e", "where": [["?e", "v"]]}),
                lambda: node.latest_tx, lambda: list(node.tx_log()), lambda: node.await_tx(9, 0.1),
                lambda: node.on_tx(print)):
        with pytest.raises(store.ClosedError):
            ask()


async def test_submit_in_a_loop_is_the_same(node):
    """Without this, a chat server would wait for its disk."""
    told = await asyncio.gather(*(node.submit([put({"xt/id": n})]) for n in range(50)))
    assert sorted(tx.tx_id for tx in told) == list(range(1, 51)) and all(tx.committed for tx in told)
    assert not (await node.submit([match(1, None)])).committed
    with pytest.raises(store.OperationError):
        await node.submit([("put", 3)])


async def test_a_call_sees_what_its_own_group_was_the_first_to_mention(open_store):
    """Ten equal upserts at once into a new store all committed: none saw the attribute that the first had made."""
    def unique(ctx, attribute, value):
        found = ctx.db.q({"find": "?e", "in": ["?v"], "where": [["?e", attribute, "?v"]]}, value)
        return None if len(found) < 2 else False

    with contextlib.closing(open_store({"unique": unique})) as node:
        names = await asyncio.gather(*(node.submit([put({"xt/id": uuid.uuid4(), "user/name": "Zoe"}),
                                                    call("unique", "user/name", "Zoe")]) for _ in range(10)))
        friend = uuid.uuid4()
        ids = await asyncio.gather(*(node.submit([put({"xt/id": uuid.uuid4(), "user/friend": friend}),
                                                  call("unique", "user/friend", friend)]) for _ in range(10)))
    assert sum(tx.committed for tx in names) == sum(tx.committed for tx in ids) == 1


# ── Stops ──────────────────────────────────────────────────────────────────────────────────────────────────────────

REASONS = {
    "a match": ([match("a", {"xt/id": "a"})],
                "match of 'a': nothing is visible at .*, not the one that was given .operation 1 of 1"),
    "a match of nothing": ([put({"xt/id": "a"}), match("a", None)],
                           "match of 'a': a document is visible at .*, not nothing .operation 2 of 2"),
    "a function that is not there": ([call("typo")], "call of 'typo': no such function was given to open"),
    "a function that raised": ([call("boom", 0)], "call of boom: it raised ZeroDivisionError: division by zero"),
    "a function that said no": ([put({"xt/id": "a"}), call("no")], "call of no: it returned False .operation 2 of 2"),
    "a function that made nonsense": ([call("odd")], "call of odd: it raised OperationError: 'x' is not an operation"),
    "a function without end": ([call("round")], "call of round goes on without end"),
    "a span that is over": ([call("late")], "call of late: it raised OperationError: valid_to .* is past"),
}


@pytest.mark.parametrize("what", REASONS)
def test_an_abort_says_why(open_store, what):
    """It only said that it had not committed; the reason was in the log of the program, or nowhere."""
    ops, reason = REASONS[what]
    functions = {"boom": lambda ctx, n: 1 / n, "no": lambda ctx: False, "odd": lambda ctx: ["x"],
                 "round": lambda ctx: [call("round")],
                 "late": lambda ctx: [put({"xt/id": "a"}, None, ctx.tx_time - DAY)]}
    with contextlib.closing(open_store(functions)) as node:
        tx = node.submit_tx(ops)
        assert not tx.committed and re.match(reason, tx.reason), tx.reason
        with pytest.raises(store.AbortedError, match=f"^Transaction 2 aborted: {reason}") as aborted:
            node.submit_tx(ops, check=True)
        assert aborted.value.tx.tx_id == 2 and not aborted.value.tx.committed
        done = node.submit_tx([put({"xt/id": "a"})], check=True)
        assert done.committed and done.reason is None


async def test_an_abort_is_raised_in_a_loop_too(node):
    """Without this, only threads would hear of it."""
    with pytest.raises(store.AbortedError, match="nothing is visible"):
        await node.submit([match("a", {"xt/id": "a"})], check=True)


def test_a_function_cannot_submit_a_transaction_of_its_own(open_store):
    """It waited for the transaction that it was part of, and so did every later writer."""
    inner = []
    functions = {"f": lambda ctx: inner.append(node.submit_tx([put({"xt/id": "inner"})])),
                 "g": lambda ctx: node.reindex(), "h": lambda ctx: node.close()}
    with contextlib.closing(open_store(functions)) as node:
        for name in functions:
            tx = node.submit_tx([call(name)])
            assert not tx.committed and "cannot submit a transaction" in tx.reason and not inner
        assert node.submit_tx([put({"xt/id": "next"})]).committed


def test_a_transaction_that_fails_by_itself_fails_alone(open_store, monkeypatch):
    """One odd transaction stopped the node until it was opened again, and took its whole group along."""
    with contextlib.closing(open_store()) as node:
        write = store._Batch.write

        def poisoned(batch, transaction):
            write(batch, transaction)
            if any(entity.id == "poison" for entity in transaction.written.values()):
                raise RuntimeError("nobody thought of this")
        if type(node._log).__name__ != "_SqliteLog":
            return                        # what the log has, every server must index
        monkeypatch.setattr(store._Batch, "write", poisoned)
        told = {}

        def work(name):
            try:
                told[name] = node.submit_tx([put({"xt/id": name})]).committed
            except store.StoreError as error:
                told[name] = str(error)
        names = [*range(20), "poison", *range(20, 40)]
        threads = [threading.Thread(target=work, args=[name]) for name in names]
        [thread.start() for thread in threads], [thread.join() for thread in threads]
        assert "nobody thought of this" in told.pop("poison") and set(told.values()) == {True} and len(told) == 40
        assert node.db().tx_id == 40 == node.verify() and node.db().entity("poison") is None


class Interrupted:
    """Raises KeyboardInterrupt in this thread at the n-th line of the store that runs, as Ctrl-C may at any."""

    def __init__(self, n):
        self.left = n

    def __call__(self, frame, event, arg):
        if frame.f_code.co_filename != store.__file__:
            return None
        line = linecache.getline(store.__file__, frame.f_lineno).lstrip() if event == "line" else "try:"
        if not line.startswith(("with ", "try:")):
            self.left -= 1            # where a block begins or ends, Python does not look for signals
            if self.left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self


def test_ctrl_c_at_any_line_comes_out_as_itself_and_leaves_a_working_node(tmp_path, say):
    """It stopped the node for good, or left a lock taken, so that every later write waited for ever."""
    interrupted = committed = 0
    with contextlib.closing(store.open(":memory:", {"f": lambda ctx: [put({"xt/id": "made"})]})) as node:
        for n in itertools.count(1):
            before = node.db().tx_id
            sys.settrace(Interrupted(n))
            try:
                node.submit_tx([put({"xt/id": ("a", n)}), call("f"), match("nobody", None)])
                break
            except KeyboardInterrupt:
                interrupted += 1
            finally:
                sys.settrace(None)
            assert node.db().tx_id in (before, before + 1) and not node.status()["failed"]
            committed += node.db().tx_id > before
            assert (node.db().entity(("a", n)) is not None) == (node.db().tx_id > before)
            if n % 10 == 0:
                said = []
                later = threading.Thread(daemon=True, target=lambda: said.append(
                    node.submit_tx([put({"xt/id": ("b", n)})]).committed))
                later.start(), later.join(20)
                assert said == [True], f"nobody can write after an interrupt at line {n}"
        assert interrupted > 100 and node.verify() == node.db().tx_id
    say(f"Ctrl-C at each of {interrupted} lines of a submit: {committed} were committed before it, "
        "0 nodes stopped (asked 0)")


def test_what_a_function_raises_to_end_the_program_is_no_abort(open_store):
    """SystemExit in a function stopped the node, and the program learned of a failed write."""
    def leave(ctx):
        raise SystemExit(3)
    with contextlib.closing(open_store({"leave": leave})) as node:
        if type(node._log).__name__ == "_SqliteLog":
            with pytest.raises(SystemExit):
                node.submit_tx([call("leave")])
            assert node.submit_tx([put({"xt/id": "next"})]).tx_id == 1
