"""Every named bound, at one less, at itself and at one more: what it promises holds on both sides of it."""
import contextlib
import threading
import uuid

import pytest

import store
from store import call, delete, match, put


def around(limit):
    return limit - 1, limit, limit + 1


def opened(**options):
    return contextlib.closing(store.open(":memory:", **options))


# ── What is refused past its bound ───────────────────────────────────────────────────────────────────────────

def test_a_document_may_have_so_many_bytes_and_no_more():
    """Without this, the limit that a reader of the documentation counts on would be another."""
    empty = len(store.pack({"xt/id": "a", "v": b"x" * 70_000})) - 70_000
    with opened() as node:
        for size in around(store.DOCUMENT_BYTES_MAX):
            document = {"xt/id": "a", "v": b"x" * (size - empty)}
            assert len(store.pack(document)) == size
            if size > store.DOCUMENT_BYTES_MAX:
                with pytest.raises(store.ValueTypeError, match=f"has {size:,} bytes, the limit is {size - 1:,}"):
                    node.submit_tx([put(document)])
            else:
                node.submit_tx([put(document)])
                assert node.db().entity("a") == document
        assert node.latest_tx.tx_id == 2


def nested(levels, kind):
    value = 1
    for _ in range(levels):
        value = {"list": [value], "tuple": (value,), "dict": {"k": value}}[kind]
    return value


@pytest.mark.parametrize("kind", ["list", "tuple", "dict"])
def test_a_value_may_be_nested_so_deep_and_no_deeper(kind):
    """Without this, the deepest value that is taken might be one that cannot be read."""
    with opened() as node:
        for levels in around(store.DEPTH_MAX):
            value = nested(levels, kind)
            if levels > store.DEPTH_MAX:
                with pytest.raises(store.ValueTypeError, match="deeper than 100 levels"):
                    node.submit_tx([put({"xt/id": levels, "v": value})])
                continue
            node.submit_tx([put({"xt/id": levels, "v": value})])
            node.reindex()
            assert node.db().entity(levels)["v"] == value == node.db().pull(["v"], levels)["v"]
            if kind != "list":
                assert node.db().q({"find": "?e", "in": ["?v"], "where": [["?e", "v", "?v"]]}, value) == [levels]


def test_a_transaction_may_have_so_many_operations_and_no_more(monkeypatch):
    """Without this, one call that multiplies could fill the memory of every server."""
    monkeypatch.setattr(store, "OPERATIONS_MAX", 5)
    functions = {"many": lambda ctx, count: [put({"xt/id": n}) for n in range(count)],
                 "nest": lambda ctx, depth: [call("nest", depth - 1)] if depth else [put({"xt/id": "deep"})]}
    with opened(functions=functions) as node:
        for count in around(5):
            ops = [put({"xt/id": (count, n)}) for n in range(count)]
            if count > 5:
                with pytest.raises(store.OperationError, match="of 6 operations; the limit is 5"):
                    node.submit_tx(ops)
            else:
                assert node.submit_tx(ops).committed and node.db().entity((count, count - 1))
        told = [node.submit_tx([call("many", count)]).committed for count in (3, 4, 5, 6, 50)]
        assert told[0] and not told[-1] and told == sorted(told, reverse=True), "one bound, and what is past it aborts"
        assert node.db().entity(49) is None and node.db().entity(2)
        assert node.submit_tx([call("nest", 3)]).committed and node.db().entity("deep")


def test_calls_may_call_each_other_so_deep_and_no_deeper():
    """Without this, two functions that call each other would end the process."""
    nest = lambda ctx, depth: [call("nest", depth - 1)] if depth else [put({"xt/id": "deep"})]
    with opened(functions={"nest": nest, "for ever": lambda ctx: [call("for ever")]}) as node:
        told = {depth: node.submit_tx([call("nest", depth), put({"xt/id": depth})]).committed
                for depth in range(store.DEPTH_MAX - 3, store.DEPTH_MAX + 3)}
        assert told[store.DEPTH_MAX - 3] and not told[store.DEPTH_MAX + 2]
        assert list(told.values()) == sorted(told.values(), reverse=True)
        assert [node.db().entity(depth) is not None for depth
                in told] == list(told.values()), "an aborted one leaves nothing"
        assert not node.submit_tx([call("for ever")]).committed
        assert node.submit_tx([put({"xt/id": "next"})]).committed


# ── What changes its form at a bound, and must not change its meaning ────────────────────────────────────────

@pytest.mark.parametrize("text", [lambda size: "x" * size, lambda size: "é" * (size // 2) + "x" * (size % 2),
                                  lambda size: b"x" * size],
                         ids=["letters of one byte", "of two", "bytes"])
def test_a_text_is_found_joined_and_told_apart_around_the_size_where_it_is_hashed(text):
    """Without this, a text of exactly 64 bytes could be written in one form and looked for in the other."""
    values = {size: text(size) for size in around(store.TEXT_BYTES_MAX)}
    with opened() as node:
        node.submit_tx([put({"xt/id": size, "v": value, "w": [value, "other"]}) for size, value in values.items()])
        node.submit_tx([put({"xt/id": value, "id": True}) for value in values.values()])
        for db in node.db(), node.db(1), node.db().with_tx([put({"xt/id": "more"})]):
            for size, value in values.items():
                assert len(value if type(value) is bytes else value.encode()) == size
                assert db.q({"find": "?e", "where": [["?e", "v", value]]}) == [size]
                assert db.q({"find": "?e", "in": ["?v"], "where": [["?e", "w", "?v"]]}, value) == [size]
                assert db.q({"find": "?e", "in": [["?v", ...]], "where": [["?e", "v", "?v"]]}, [value, "x"]) == [size]
                assert db.q({"find": "?e", "where": [["?e", "v", "?v"], [("==", "?v", {value})]]}) == [size]
                assert db.q({"find": "?v", "in": ["?e"], "where": [["?e", "v", "?v"]]}, size) == [value]
                assert sorted(db.q({"find": "?e",
                                    "where": [["?e", "v"], ("not", ["?e", "v", value])]})) == sorted({*values} - {size})
            assert sorted(db.q({"find": "?e", "where": [["?e", "v", "?x"], ["?e", "w", "?x"]]})) == sorted(values)
        for value in values.values():
            assert node.db().entity(value) == {"xt/id": value, "id": True}
            assert node.db().q({"find": "?e", "where": [["?e", "v", "?t"], ["?t", "id", True]], "in": ["?t"]},
                               value) == [len(value if type(value) is bytes else value.encode())]


@pytest.mark.parametrize("power", [61, 62, 63, 64])
def test_a_whole_number_is_found_ordered_and_compared_around_each_width(power):
    """Without this, a number could be another one where its form in the index changes."""
    numbers = sorted({sign * n for n in around(2 ** power) for sign in (1, -1)} | {0})
    with opened() as node:
        node.submit_tx([put({"xt/id": str(n), "v": n}) for n in numbers])
        for db in node.db(), node.db(1), node.db().with_tx([put({"xt/id": "more"})]):
            for n in numbers:
                assert db.q({"find": "?e", "in": ["?v"], "where": [["?e", "v", "?v"]]}, n) == [str(n)]
                assert sorted(db.q({"find": "?v", "where": [["?e", "v", "?v"],
                                                            [("<", "?v", n)]]})) == [m for m in numbers if m < n]
                assert sorted(db.q({"find": "?v", "where": [["?e", "v", "?v"],
                                                            [(">=", "?v", n)]]})) == [m for m in numbers if m >= n]
            assert db.q({"find": "?v", "where": [["?e", "v", "?v"]], "order-by": [["?v"]]}) == numbers
            assert db.q({"find": [("min", "?v"), ("max", "?v"), ("sum", "?v")],
                         "where": [["?e", "v", "?v"]]}) == [(numbers[0], numbers[-1], 0)]


@pytest.mark.parametrize("count", [7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 150])
def test_any_number_of_rows_is_written_and_found(count):
    """Rows go to SQLite by 64, by 8 and one by one, facts by 16:
    without this, one might be lost between two lengths."""
    with opened() as node:
        ids = [uuid.UUID(int=n + 1) for n in range(count)]
        node.submit_tx([put({"xt/id": id, "n": n, "next": ids[(n + 1) % count]}) for n, id in enumerate(ids)])
        node.submit_tx([put({"xt/id": "wide", "tags": list(range(count))} | {f"a{n}": n for n in range(count)})])
        db = node.db()
        assert sorted(db.q({"find": ["?e", "?n"], "where": [["?e", "n", "?n"]]}),
                      key=str) == sorted(((id, n) for n, id in enumerate(ids)), key=str)
        assert sorted(db.q({"find": "?n", "in": [["?e", ...]], "where": [["?e", "n", "?n"]]},
                           ids)) == list(range(count))
        assert len(db.q({"find": ["?x", "?y"], "where": [["?x", "next", "?y"], ["?y", "next"]]})) == count
        assert sorted(db.q({"find": "?t", "where": [["wide", "tags", "?t"]]})) == list(range(count))
        assert [db.q({"find": "?v", "where": [["wide", f"a{n}", "?v"]]})
                for n in range(count)] == [[n] for n in range(count)]
        assert [one["n"] for one in db.pull_many(["n"], ids)] == list(range(count))
        node.submit_tx([delete(id) for id in ids])
        assert node.db().q({"find": "?e", "where": [["?e", "n"]]}) == []
        assert len(db.q({"find": "?e", "where": [["?e", "n"]]})) == count
        node.reindex()
        assert len(db.q({"find": "?e", "where": [["?e", "n"]]})) == count


@pytest.mark.parametrize("count", [*around(store.BATCH_ROWS), 2 * store.BATCH_ROWS, 2 * store.BATCH_ROWS + 1])
def test_values_that_are_read_from_documents_come_for_every_row(count):
    """They are read by batches of rows: without this, the last row of a batch,
    or the first of the next, might lack them."""
    with opened() as node:
        node.submit_tx([put({"xt/id": n, "kind": "k", "name": f"n{n}", "tags": [n, -n - 1]}
                            | ({"rare": n} if n % 3 else {})) for n in range(count)])
        for db in node.db(), node.db(1), node.db().with_tx([put({"xt/id": "more"})]):
            named = {"find": ["?e", "?n"], "where": [["?e", "kind", "k"], ["?e", "name", "?n"]]}
            assert sorted(db.q(named)) == [(n, f"n{n}") for n in range(count)]
            rare = {"find": ["?e", "?n", "?r"], "where": [*named["where"], ["?e", "rare", "?r"]]}
            assert sorted(db.q(rare)) == [(n, f"n{n}", n) for n in range(count) if n % 3]
            assert len(db.q({"find": ["?e", "?t"], "where": [["?e", "kind", "k"], ["?e", "tags", "?t"]]})) == 2 * count
            ordered = rare | {"order-by": [["?e"]]}
            whole = [(n, f"n{n}", n) for n in range(count) if n % 3]
            assert [db.q(ordered | {"offset": n, "limit": 5})
                    for n in (0, len(whole) - 3, len(whole))] == [whole[n:n + 5]
                                                                  for n in (0, len(whole) - 3, len(whole))]
            with db.lazy_q(rare) as rows:
                assert sorted(rows) == whole


@pytest.mark.parametrize("count", [*around(store.STAGE_TABLES), 63, 64, 65, 130])
def test_a_query_may_have_any_number_of_clauses(count):
    """SQLite joins 64 tables: without this, a query that a program composed would fail past them, or lose a clause."""
    with opened() as node:
        node.submit_tx([put({"xt/id": n, "next": n + 1, "kind": "k"}) for n in range(count + 2)])
        path = [[f"?v{n}", "next", f"?v{n + 1}"] for n in range(count)]
        assert sorted(node.db().q({"find": ["?v0", f"?v{count}"],
                                   "where": path})) == [(0, count), (1, count + 1), (2, count + 2)]
        assert node.db().q({"find": f"?v{count}", "in": ["?v0"], "where": [*path, [f"?v{count}", "kind", "k"]]},
                           1) == [count + 1]
        star = [["?e", "kind", "k"], *(["?e", "next", f"?w{n}"] for n in range(count))]
        assert len(node.db().q({"find": "?e", "where": star})) == count + 2


@pytest.mark.parametrize("count", [15, 16, 17, 22, 25, *around(store.STAGE_TABLES)])
def test_no_form_of_a_query_joins_more_tables_than_sqlite_takes(count):
    """A supposed triple is three tables, a recursive one stands beside a table: without this, such queries fail."""
    path, of_any = [[f"?v{n}", "next", f"?v{n + 1}"] for n in range(count)], [["?v0", "?a"] for _ in range(count)]
    recurse = lambda *rest: [[("far", "?v0", "?b"), ["?v0", "next", "?b"]], [("far", "?v0", "?b"), *rest]]
    asked = [(path, None), ([["?v0", "kind"], ("not", *path)], None), ([["?v0", "kind"], ("not", *of_any)], None),
             ([["?v0", "kind"], ("or-join", ["?v0"], ("and", *path), ["?v0", "none"])], None),
             ([("far", "?v0", "?b")], recurse(*path, ("far", f"?v{count}", "?b"))),
             ([("far", "?v0", "?b")], recurse(("far", "?v0", "?x"), ["?x", "next", "?b"], *path)),
             ([("far", "?v0", "?b")], recurse(*path, ("near", f"?v{count}", "?b")) +
              [[("near", "?x", "?b"), ["?x", "kind"], ("far", "?x", "?b")]])]
    with opened() as node:
        node.submit_tx([put({"xt/id": n, "next": n + 1, "kind": "k"}) for n in range(count + 1)])
        db = node.db()
        for where, rules in asked:
            query = {"find": "?v0", "in": ["?v0"], "where": where} | ({"rules": rules} if rules else {})
            told = [snapshot.q(query, 0) for snapshot in (db, db.with_tx([put({"xt/id": "more"})]))]
            assert told == 2 * [[] if where[-1][0] == "not" else [0]], where


def test_rules_that_lead_too_deep_are_refused_and_long_chains_answered():
    """Without this, a program that composes rules would end in Python's words, or plan for ever."""
    chain = lambda count: [[(f"r{n}", "?x"), (f"r{n + 1}", "?x"), (f"r{n + 1}", "?x")] for n in range(count)]
    ring = [[(f"r{n}", "?x"), ["?x", "v", "?y"], (f"r{(n + 1) % 400}", "?y")] for n in range(400)]
    with opened() as node:
        node.submit_tx([put({"xt/id": 1, "v": 1})])
        asked = lambda rules: node.db().q({"find": "?x", "where": [("r0", "?x")], "rules": rules})
        assert asked([*chain(24), [("r24", "?x"), ["?x", "v"]]]) == [1]
        with pytest.raises(store.QueryError, match="too deep into each other"):
            asked([*ring, [("r399", "?x"), ["?x", "v"]]])


def test_what_sqlite_cannot_take_is_refused_in_our_words(monkeypatch):
    """Without this, a query that a program made too wide would fail with words that nobody can act on."""
    names = [f"?x{n}" for n in range(2_000)]
    monkeypatch.setattr(store, "PARAMETERS_MAX", 100)
    wide = {"find": names, "in": [names], "where": [["?e", "v"]]}
    with opened() as node:
        node.submit_tx([put({"xt/id": 1, "v": 1})])
        asked = lambda query, *args: node.db().q({"where": [["?e", "v", "?v"]]} | query, *args)
        assert asked({"find": [("sum", "?v")] * 600}) == [(1,) * 600]
        assert asked({"find": "?e", "where": [["?e", "v", "?v"], [("<=", *["?v"] * 1_200)]]}) == [1]
        for query, *args in [(wide, names), (wide | {"in": [[names]]}, [names]),
                             ({"find": "?s", "in": [names], "where": [["?e", "v"], [("+", *names), "?s"]]}, names),
                             ({"find": "?e", "where": [("or", *(["?e", "v", n] for n in range(101)))]},)]:
            with pytest.raises(store.QueryError, match="The query has .*, the limit is .*: ask in several steps"):
                asked(query, *args)


@pytest.mark.parametrize("count", around(store.LISTEN_BATCH))
def test_a_listener_hears_a_whole_batch_and_what_comes_after_it(count):
    """Without this, the transaction between two batches could be heard twice, or never."""
    heard, done = [], threading.Event()
    with opened() as node:
        for n in range(2 * count):
            node.submit_tx([put({"xt/id": n})])
        with node.on_tx(lambda tx: (heard.append(tx.tx_id), tx.tx_id == 2 * count and done.set()), after=count):
            assert done.wait(60)
        assert heard == list(range(count + 1, 2 * count + 1))
        assert [tx.tx_id for tx in node.tx_log(after=count)] == heard


# ── What is kept, and how much of it ─────────────────────────────────────────────────────────────────────────

def test_so_many_plans_are_kept_and_the_oldest_goes_first():
    """Without this, a program that pastes values into its queries would fill the memory."""
    with opened() as node:
        node.submit_tx([put({"xt/id": n, "v": n}) for n in range(3)])
        db = node.db()
        for n in range(store.PLANS_CACHED + 1):
            assert db.q({"find": "?e", "where": [["?e", "v", n]]}) == [n] * (n < 3)
            assert node.status()["plans"] <= min(n + 1, store.PLANS_CACHED)
        assert node.status()["plans"] == store.PLANS_CACHED


@pytest.mark.parametrize("size", [1, 2, 3, 40])
def test_answers_do_not_depend_on_what_is_kept(monkeypatch, size):
    """Without this, a machine with more data than memory would answer otherwise than the one that tried it."""
    for name in "PAST_CACHED", "PLAIN_CACHED", "IDS_CACHED", "RECENT_MAX", "READERS_IDLE", "PLANS_CACHED":
        monkeypatch.setattr(store, name, size)
    monkeypatch.setattr(store, "CACHE_BYTES", 100 * size)
    monkeypatch.setattr(store, "STATISTICS_EVERY", size)
    ids = [uuid.UUID(int=n + 1) for n in range(20)]
    with opened() as node:
        for turn in range(3):
            node.submit_tx([put({"xt/id": id, "n": n, "turn": turn, "next": ids[n - 1]}) for n, id in enumerate(ids)])
        node.submit_tx([delete(id) for id in ids[:5]])
        for _ in range(2):
            for db, turn, seen in (node.db(), 2, ids[5:]), (node.db(2), 1, ids), (node.db(1), 0, ids):
                for n, id in enumerate(ids):
                    wanted = {"xt/id": id, "n": n, "turn": turn, "next": ids[n - 1]} if id in seen else None
                    assert db.entity(id) == wanted == db.pull(["*"], id)
                assert sorted(db.q({"find": "?n", "where": [["?e", "n", "?n"],
                                                            ["?e", "turn", turn]]})) == list(range(20 - len(seen), 20))
                assert len(db.q({"find": ["?x", "?y"], "where": [["?x", "next", "?y"],
                                                                 ["?y", "n"]]})) == len(seen) - (len(seen) < 20)


@pytest.mark.parametrize("name, kept",
                         [("CACHE_BYTES", lambda file: sum(size for part in (file.documents.young, file.documents._old)
                                                           for _, size in part.values())),
                          ("IDS_CACHED", lambda file: len(file.index.numbers.young) + len(file.index.numbers._old)),
                          ("PLAIN_CACHED", lambda file: len(file.index.plain))])
def test_no_more_is_kept_than_its_bound(monkeypatch, name, kept):
    """Without this, a server that has seen everybody once would never forget them."""
    bound = 2_000 if name == "CACHE_BYTES" else 20
    monkeypatch.setattr(store, name, bound)
    most = 0
    with opened() as node:
        ids = [uuid.UUID(int=n + 1) for n in range(60)]
        for n, id in enumerate(ids):
            node.submit_tx([put({"xt/id": id, "n": n, "text": "x" * 50})])
            node.db().entity(id), node.db().q({"find": "?n", "in": ["?e"], "where": [["?e", "n", "?n"]]}, id)
            most = max(most, kept(node._file))
            assert kept(node._file) <= bound + (200 if name == "CACHE_BYTES" else 1), f"{n + 1} entities"
    assert most > bound / 2, "nothing was kept at all"


def test_so_many_readers_are_kept():
    """Without this, an hour of crowds would leave its connections open for ever."""
    with opened() as node:
        node.submit_tx([put({"xt/id": 1, "v": 1})])
        with contextlib.ExitStack() as held:
            for _ in range(store.READERS_IDLE + 3):
                next(held.enter_context(node.db().lazy_q({"find": "?e", "where": [["?e", "v"]]})))
        assert len(node._file._readers) == store.READERS_IDLE
        assert node.db().q({"find": "?e", "where": [["?e", "v"]]}) == [1]


def test_a_group_commit_has_no_more_than_its_bound(monkeypatch):
    """Without this, the first of a thousand writers would wait for the thousandth."""
    monkeypatch.setattr(store, "GROUP_MAX", 3)
    groups, told = [], []
    with opened() as node:
        fill = node._log._fill
        monkeypatch.setattr(node._log, "_fill", lambda group, *rest: (fill(group, *rest), groups.append(len(group))))

        def work(number):
            for turn in range(30):
                told.append(node.submit_tx([match((number, turn), None), put({"xt/id": (number, turn)})]).committed)
        running = [threading.Thread(target=work, args=[number]) for number in range(8)]
        [thread.start() for thread in running], [thread.join() for thread in running]
        assert told == [True] * 240 and sum(groups) == 240
        assert max(groups) <= 3 and len(node.db().q({"find": "?e", "where": [["?e", "xt/id"]]})) == 240


def test_recent_transactions_are_bounded_in_number_and_bytes(monkeypatch):
    """Without this, one slow listener would keep everything that was ever said in memory."""
    for name, bound in ("RECENT_MAX", 5), ("RECENT_BYTES", 3_000):
        with monkeypatch.context() as patched, opened() as node:
            patched.setattr(store, name, bound)
            node.on_tx(lambda tx: None)
            for n in range(30):
                node.submit_tx([put({"xt/id": n, "text": "x" * 500})])
                recent = node._file.recent
                assert (len(recent._kept) if name == "RECENT_MAX" else recent._bytes) <= bound
            assert recent._kept, "nothing was kept at all"
            lagging, done = [], threading.Event()
            with node.on_tx(lambda tx: (lagging.append(tx.tx_id), tx.tx_id == 30 and done.set()), after=0):
                assert done.wait(60)
            assert lagging == list(range(1, 31))


def test_readers_wait_for_no_ids_that_became_entities():
    """Without this, readers would ask each question of the past four times."""
    with opened(functions={"fail": lambda ctx: 1 // 0}) as node:
        ids = [uuid.uuid4() for _ in range(3)]
        node.submit_tx([put({"xt/id": "note", "about": ids})])
        for ops in [put({"xt/id": ids[0]})], [put({"xt/id": ids[1]}), match("a", {"xt/id": "a"})], \
                [put({"xt/id": ids[1]}), call("fail")], [put({"xt/id": ids[2]}), put({"xt/id": "last"})]:
            node.submit_tx(ops)
            assert node._file.births % 2 == 0 and node._file._own is None
        assert node._file.births and node.db().entity("last"), "ids that were values became entities"
