"""A snapshot is a value: it never changes, it can be asked for again, and it can be supposed upon."""
import concurrent.futures
import contextlib
import datetime as dt
import random
import sys
import uuid

import pytest

import store
from store import call, delete, evict, match, put

DAY = dt.timedelta(days=1)
NAMES = {"find": ["?e", "?n"], "where": [["?e", "name", "?n"]]}


def named(id, name):
    return put({"xt/id": id, "name": name})


def test_a_hundred_held_snapshots_answer_as_at_first(size, seed, say, open_store):
    """Without this, a page could change while it is rendered."""
    transactions, rng, held = size(2_000, 10_000), random.Random(seed), []
    with contextlib.closing(open_store()) as node:
        ids = [node.new_id() for _ in range(20)]
        for number in range(transactions):
            id = rng.choice(ids)
            node.submit_tx([delete(id) if rng.random() < 0.2
                            else put({"xt/id": id, "name": f"n{rng.randrange(9)}", "tags": [number, {"k": [1]}]})])
            if number % (transactions // 100) == 0:
                db = node.db()
                held.append((db, sorted(db.q(NAMES), key=str), [db.entity(id) for id in ids]))
        for db, rows, documents in held:
            assert sorted(db.q(NAMES), key=str) == rows, f"seed {seed}"
            assert [db.entity(id) for id in ids] == documents, f"seed {seed}"
            again = node.db(**db.basis)
            assert [again.entity(id) for id in ids] == documents
    say(f"{len(held)} snapshots unchanged by {transactions:,} transactions, seed {seed} (asked: 100, 10,000)")


def test_what_is_handed_out_is_shared_with_nobody(node):
    """Without this, a template that adds a key would rewrite history."""
    document = {"xt/id": "a", "list": [1, {"k": [2]}], "set": {1}, "dict": {"x": [3]}}
    node.submit_tx([put(document)])
    document["list"].append("later")
    db, pattern = node.db(), ["*"]
    pulled = {"find": ("pull", "?e", ["*"]), "where": [["?e", "dict"]]}
    values = {"find": "?v", "where": [["?e", "dict", "?v"]]}
    asked = [lambda: db.entity("a"), lambda: db.pull(pattern, "a"), lambda: db.q(pulled)[0],
             lambda: db.history("a")[0].document,
             lambda: next(node.tx_log()).ops[0][1]]
    for ask in asked:
        got = ask()
        got["list"][1]["k"].append("spoilt"), got["set"].add("spoilt"), got["dict"]["x"].clear()
        got["more"] = 1
    db.q(values)[0]["x"].append("spoilt")
    for ask in asked:
        assert ask() == {"xt/id": "a", "list": [1, {"k": [2]}], "set": {1}, "dict": {"x": [3]}}
    assert db.q(values) == [{"x": [3]}]


def test_beside_a_writer_each_snapshot_shows_its_own_transaction(node, size, say):
    """Documents are kept in memory for now. Without this, a snapshot could show one that is past, or one of a later
    transaction."""
    ids, writes, asked = [uuid.uuid4(), "ann"], size(300, 20_000), [0, 0]
    first = node.submit_tx([put({"xt/id": id, "n": 1}) for id in ids]).tx_id

    def ask(number):
        while (db := node.db()).tx_id < first + writes:
            for id in ids:
                document = db.entity(id)
                assert (document and document["n"]) == (None if db.tx_id % 10 == 0
                                                        else db.tx_id - first + 1), (db.tx_id, document)
            asked[number] += 1
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            asking = [pool.submit(ask, number) for number in range(2)]
            for n in range(2, writes + 2):
                gone = (first + n - 1) % 10 == 0
                node.submit_tx([delete(id) if gone else put({"xt/id": id, "n": n}) for id in ids])
            [each.result() for each in asking]
    finally:
        sys.setswitchinterval(before)
    say(f"{sum(asked):,} snapshots beside {writes:,} writes, 0 wrong")
    assert min(asked) > 0


def test_db_of_a_transaction_is_the_state_right_after_it(node):
    """Without this, "what was new in this transaction" could not be asked."""
    one, two = node.submit_tx([named("a", "A")]), node.submit_tx([named("b", "B")])
    assert (one.tx_id, two.tx_id) == (1, 2)
    assert node.db(0).q(NAMES) == [] and node.db(one.tx_id - 1).q(NAMES) == []
    assert node.db(1).q(NAMES) == [("a", "A")]
    assert sorted(node.db(2).q(NAMES)) == sorted(node.db().q(NAMES)) == [("a", "A"), ("b", "B")]
    assert node.db(1).tx_id == 1 and node.db(1).valid_time == one.tx_time
    assert node.db(tx_id=1).entity("b") is None


def test_a_snapshot_ahead_of_the_node_is_refused(node):
    """Without this, a server that lags would answer as if nothing had been said."""
    tx = node.submit_tx([named("a", "A")])
    for ask in (lambda: node.db(2), lambda: node.db(tx_id=99), lambda: node.db(tx_time=tx.tx_time + DAY)):
        with pytest.raises(store.NotIndexedError, match="newest"):
            ask()


def test_a_moment_since_the_newest_transaction_may_be_asked_for(tmp_path):
    """Without this, "as it is known now" could not be asked for until the next write."""
    now = [dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)]
    with contextlib.closing(store.open(tmp_path / "one.db", clock=lambda: now[0])) as node:
        node.submit_tx([named("a", "A")])
        then, now[0] = now[0] + DAY, now[0] + 2 * DAY
        db = node.db(tx_time=then)
        node.submit_tx([named("a", "B")])
        assert (db.tx_id, db.valid_time) == (1, then)
        assert db.entity("a") == node.db(tx_time=then).entity("a") and db.q(NAMES) == [("a", "A")]
        for beyond in now[0], now[0] + DAY:
            with pytest.raises(store.NotIndexedError):
                node.db(tx_time=beyond + dt.timedelta(microseconds=1))


def test_a_transaction_stands_for_its_own_number(node):
    """Without this, XTDB's way of handing on what submit-tx returned would be refused,
    or believed to lie in the future."""
    one, two = node.submit_tx([named("a", "A")]), node.submit_tx([named("b", "B")])
    assert node.db(one).tx_id == 1 and node.db(one).entity("b") is None
    assert node.await_tx(two) == node.tx(two) == two
    assert [tx.tx_id for tx in node.tx_log(one)] == [2] and [tx.tx_id for tx in node.tx_log(None)] == [1, 2]
    assert node.db().history("b", tx_from=two) and not node.db().history("b", tx_to=two)
    for ask in (node.db, node.tx, node.await_tx, lambda tx: list(node.tx_log(tx)),
                lambda tx: node.on_tx(print, after=tx)):
        with pytest.raises(store.StoreError, match="'1' is not a transaction"):
            ask("1")


def test_sync_is_the_time_up_to_which_everything_is_here(node):
    """Without this, a reader of what others wrote would not know what to wait for."""
    assert node.sync() is None
    tx = node.submit_tx([named("a", "A")])
    assert node.sync(10) == tx.tx_time


def test_a_tx_time_is_the_newest_transaction_up_to_it(node):
    """Without this, a report of last Friday would need Friday's tx_id."""
    one, two = node.submit_tx([named("a", "A")]), node.submit_tx([named("b", "B")])
    assert node.db(tx_time=one.tx_time).tx_id == 1
    assert node.db(tx_time=two.tx_time).tx_id == 2
    assert node.db(tx_time=two.tx_time - dt.timedelta(microseconds=1)).tx_id == 1
    assert node.db(tx_time=one.tx_time - DAY).tx_id == 0
    assert node.db(tx_time=one.tx_time - DAY).q(NAMES) == []
    assert node.db(1, tx_time=one.tx_time).q(NAMES) == [("a", "A")]
    for tx_id, tx_time in (2, one.tx_time), (1, two.tx_time), (0, one.tx_time):
        with pytest.raises(store.NotIndexedError, match="newest"):
            node.db(tx_id, tx_time=tx_time)


def test_a_snapshot_of_an_empty_store_stays_empty(node):
    """Without this, the first person to come in would see the second one's message twice."""
    db = node.db()
    node.submit_tx([named("a", "A")])
    assert db.tx_id == 0 and db.tx_time is None
    assert db.entity("a") is None and db.q(NAMES) == [] and db.history("a") == []


# ── Suppositions ─────────────────────────────────────────────────────────────────────────────────────────────

def test_with_tx_supposes_and_submits_nothing(node):
    """Without this, a constraint could only be checked by breaking it."""
    node.submit_tx([named("a", "A"), named("b", "B")])
    db = node.db()
    supposed = db.with_tx([named("a", "AA"), delete("b"), named("c", "C")])
    assert sorted(supposed.q(NAMES)) == [("a", "AA"), ("c", "C")]
    assert supposed.entity("a")["name"] == "AA" and supposed.entity("b") is None
    assert supposed.tx_id == 2
    assert sorted(db.q(NAMES)) == sorted(node.db().q(NAMES)) == [("a", "A"), ("b", "B")]
    assert node.latest_tx.tx_id == 1


def test_with_tx_answers_about_documents_that_were_read_before(node):
    """A command matches the channel that it has just read, and asks what would be. That was refused as "not a
    document"."""
    node.submit_tx([named("a", "A")])
    assert node.db().entity("a") == {"xt/id": "a", "name": "A"}
    assert sorted(node.db().with_tx([match("a", node.db().entity("a")),
                                     named("b", "B")]).q(NAMES)) == [("a", "A"), ("b", "B")]


def test_with_tx_is_none_when_the_operations_abort(node):
    """Without this, the unique check would be silent."""
    node.submit_tx([named("a", "A")])
    assert node.db().with_tx([match("a", None)]) is None
    assert node.db().with_tx([call("there is no such function")]) is None
    assert node.db().with_tx([match("a", {"xt/id": "a", "name": "A"})]) is not None
    assert node.db().with_tx([]).q(NAMES) == [("a", "A")]


def test_a_held_snapshot_keeps_what_it_looked_up_and_forgets_what_is_evicted(node):
    """A past snapshot remembers its documents' numbers. Without this, a held one would show what must be forgotten."""
    told = node.submit_tx([named("a", "Ann"), named("b", "Bob"), named(7, "Cat")])
    node.submit_tx([named("a", "Anna"), named("b", "Bobby"), named(7, "Cathy")])
    past = node.db(told.tx_id)
    for _ in range(2):
        assert [past.entity(id)["name"] for id in ("a", "b", 7)] == ["Ann", "Bob", "Cat"]
        assert [found["name"] for found in past.pull_many(["name"], ["a", "b", 7])] == ["Ann", "Bob", "Cat"]
    node.submit_tx([evict("a"), evict(7)])
    for _ in range(2):
        assert past.entity("a") is None and past.entity(7) is None and past.entity("b")["name"] == "Bob"
        assert past.pull_many(["name"], ["a", "b", 7]) == [None, {"name": "Bob"}, None]
    assert node.db().entity("a") is None and node.db().entity("b")["name"] == "Bobby"


def test_suppositions_stack_and_evict(node):
    """Without this, one could only suppose one thing at a time."""
    node.submit_tx([named("a", "A")])
    one = node.db().with_tx([named("b", "B")])
    two = one.with_tx([match("b", {"xt/id": "b", "name": "B"}), named("c", "C"), named("b", "BB")])
    assert sorted(one.q(NAMES)) == [("a", "A"), ("b", "B")]
    assert sorted(two.q(NAMES)) == [("a", "A"), ("b", "BB"), ("c", "C")]
    gone = two.with_tx([evict("a"), evict("b")])
    assert gone.q(NAMES) == [("c", "C")] and gone.history("a") == []
    assert sorted(node.db().q(NAMES)) == [("a", "A")]


def test_a_supposition_is_a_value(node):
    """Without this, it would change while somebody checks it."""
    node.submit_tx([named("a", "A")])
    supposed = node.db().with_tx([named("b", "B")])
    node.submit_tx([named("c", "C"), named("b", "other")])
    assert sorted(supposed.q(NAMES)) == [("a", "A"), ("b", "B")]


def test_suppositions_join_with_what_is_stored(node):
    """Without this, a rule or a negation might look only at one half."""
    ann, bob, cat = (uuid.UUID(int=n) for n in (1, 2, 3))
    node.submit_tx([put({"xt/id": ann, "name": "Ann"}), put({"xt/id": bob, "name": "Bob", "boss": ann})])
    db = node.db().with_tx([put({"xt/id": cat, "name": "Cat", "boss": bob})])
    rules = [[("above", "?a", "?b"), ["?b", "boss", "?a"]],
             [("above", "?a", "?b"), ["?c", "boss", "?a"], ("above", "?c", "?b")]]
    assert sorted(db.q({"find": "?n", "in": ["?a"], "where": [("above", "?a", "?b"), ["?b", "name", "?n"]],
                        "rules": rules}, ann)) == ["Bob", "Cat"]
    assert db.q({"find": "?n", "where": [["?e", "name", "?n"], ("not-join", ["?e"], ["_", "boss", "?e"])]}) == ["Cat"]
    assert db.q({"find": [("count", "?e")], "where": [["?e", "name"]]}) == [(3,)]
    assert db.pull([{"boss": ["name"]}], cat) == {"boss": {"name": "Bob"}}


def test_a_supposition_of_another_type_is_not_ordered_by_the_old_one(node):
    """SQL orders by cells; only where all values are of one type is that the order of the values."""
    node.submit_tx([put({"xt/id": n, "n": n}) for n in (3, 1, 2)])
    query = {"find": "?n", "where": [["?e", "n", "?n"]], "order-by": [["?n", "desc"]], "limit": 2}
    assert node.db().q(query) == [3, 2]
    supposed = node.db().with_tx([put({"xt/id": 9, "n": 2.5})])
    assert supposed.q(query) == [3, 2.5]


def test_a_supposition_is_asked_again_after_its_rows_were_streamed(node):
    """Its tables went with the read transaction of the stream;
    every later question was told that the file is damaged."""
    node.submit_tx([named("ann", "Ann"), named("bob", "Bob")])
    db = node.db().with_tx([named("ann", "Anna"), delete("bob")])
    for _ in range(2):
        with db.lazy_q(NAMES) as rows:
            assert list(rows) == [("ann", "Anna")]
        assert db.q(NAMES) == [("ann", "Anna")]
        assert db.with_tx([named("cy", "Cy")]).q(NAMES | {"order-by": [["?n"]]}) == [("ann", "Anna"), ("cy", "Cy")]
