"""What is declared is held: values that are unique, references that exist, types, and indexes of several attributes."""
import contextlib
import datetime as dt
import enum
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import uuid

import pytest

import store
import store_schema
import trials
from conftest import ROOT
from store import call, cas, delete, evict, patch, put
from test_history import DAY, Clock, Model, day
from test_random_queries import VALUES, Asker
from test_random_rules import IDS, VARS

UNIQUE = {"user/email": {"unique": True}}
ALL = {"k": {"unique": True, "type": (int, type(None))}, "ref": {"reference": True}, ("c", "u"): {"unique": True},
       ("c", "k", "u"): {"index": True}}


class Mood(enum.Enum):
    CALM = 1
    WILD = 2


def ann(email, id="ann"):
    return {"xt/id": id, "user/email": email}


# ── Against a naive model ────────────────────────────────────────────────────────────────────────────────────

def several(document, name):
    value = (document or {}).get(name, [])
    return value if type(value) in (list, set) else [value]


def claims(document):
    pairs = [(c, u) for c in several(document, "c") for u in several(document, "u")]
    return [("k", repr(k)) for k in several(document, "k")] + [("cu", repr(pair)) for pair in pairs]


def is_sound(before, after, ids, evicted, tx_id, tx_time):
    """Whether a model keeps `ALL`, moment by moment, of which each start of a version begins one."""
    starts = {at for id in ids for at, _, _ in [*after.known(id, tx_id), *before.known(id, tx_id)]}
    for at in starts:
        now = {id: after.document(id, tx_id, at) for id in ids}
        then = {id: None if id in evicted else before.document(id, tx_id, at) for id in ids}
        claimed = [claim for document in now.values() for claim in claims(document)]
        if len(claimed) > len(set(claimed)):
            return False
        for id, document in now.items():
            if any(type(k) not in (int, type(None)) for k in several(document, "k")):
                return False
            for target in several(document, "ref"):
                if not now.get(target) and (target not in several(then[id], "ref") or then.get(target)):
                    return False
    return True


class Story:
    """Random transactions about some entities, told to a node and to a model."""

    def __init__(self, rng, nodes, clock):
        self.rng, self.nodes, self.clock, self.model, self.said = rng, nodes, clock, Model(), []
        self.ids = ["a", "b", 3, uuid.UUID(int=7), uuid.UUID(int=8)]
        self.moments = [clock.now + n * DAY for n in range(-3, 9)]

    def operation(self):
        rng, id = self.rng, self.rng.choice(self.ids)
        times = sorted(rng.sample(self.moments, rng.choices([0, 1, 2], [5, 2, 3])[0]))
        kind = rng.choices(["put", "delete", "evict", "patch", "cas", "call"], [10, 3, 1, 4, 1, 1])[0]
        if kind == "call":
            return call("again", put(self.document(id), *times))
        if kind == "patch":
            return patch(id, {name: value for name, value in self.document(id).items() if rng.random() < 0.6}, *times)
        return {"put": lambda: put(self.document(id), *times), "delete": lambda: delete(id, *times),
                "evict": lambda: evict(id), "cas": lambda: cas(id, "k", rng.randrange(4), rng.randrange(4))}[kind]()

    def document(self, id):
        choose = self.rng.choice
        return {"xt/id": id} | choose([{}, {}, {"k": choose([0, 1, 2, 3, None, [4, 5], "no"])}]) | choose(
            [{}, {"c": choose([1, 2]), "u": choose([1, 2, [3, 4], [1, 3], "x" * 99])}]) | choose(
            [{}, {}, {"ref": choose([*self.ids, [*self.ids[:2]], 4.5])}])

    def run(self):
        rng = self.rng
        self.clock.now += rng.choice([0, 1]) * DAY
        ops = [self.operation() for _ in range(rng.choices([1, 2, 3], [6, 3, 1])[0])]
        self.said.append(ops)
        tx = rng.choice(self.nodes).submit_tx(ops)
        model = self.model.as_of(tx.tx_id)
        wanted = model.apply(ops, tx.tx_id, tx.tx_time)
        evicted = [op[1] for op in ops if op[0] == "evict"]
        is_kept = wanted and is_sound(self.model, model, self.ids, evicted, tx.tx_id, tx.tx_time)
        told = "\n".join(map(str, self.said))
        assert tx.committed == is_kept, f"{told}\n{tx}"
        if is_kept:
            self.model = model
        return tx


def again(ctx, *ops):
    return ops


def test_random_transactions_keep_a_schema_as_a_naive_model_says(open_store, size, seed, say):
    """Two people would have one address from the day on which one of them moves back, or a message no channel."""
    rng, count, aborted = random.Random(seed), size(500, 30_000), 0
    for _ in range(max(1, count // 90)):
        clock = Clock(day(1))
        with contextlib.closing(open_store({"again": again}, clock=clock, schema=ALL)) as node:
            story = Story(rng, [node], clock)
            aborted += sum(not story.run().committed for _ in range(90))
            clock.now += DAY / 2           # so that both are of one time
            db = node.db()
            ops = [story.operation() for _ in range(2)]
            assert (db.with_tx(ops) is not None) == node.submit_tx(ops).committed, ops
            assert node.verify() == node.latest_tx.tx_id
    say(f"{count} random transactions under a schema, {aborted} of them aborted, as a naive model says; seed {seed}")


# ── Declaring ────────────────────────────────────────────────────────────────────────────────────────────────

def test_a_schema_stays_until_another_is_declared(open_store):
    """A shell or a cron job that opens the store without saying so would write what no other program may."""
    with contextlib.closing(open_store(at="s", schema=UNIQUE)) as node:
        node.submit_tx([put(ann("a@x"))])
    with contextlib.closing(open_store(at="s")) as node:
        tx = node.submit_tx([put(ann("a@x", "bo"))])
        assert not tx.committed and tx.reason == (
            f"user/email is unique, and 'ann' and 'bo' would have the same at {tx.tx_time}.")
        assert node.db().with_tx([put(ann("a@x", "bo"))]) is None and node.db().with_tx([put(ann("b@x", "bo"))])
        node.reindex()
        assert not node.submit_tx([put(ann("a@x", "bo"))]).committed
        assert node.submit_tx([put(ann("a@x", "bo")), put(ann("b@x"))]).committed, "what counts is what it leaves"
        numbers = node.latest_tx.tx_id
    with contextlib.closing(open_store(at="s", schema=UNIQUE)) as node:
        assert node.latest_tx.tx_id == numbers, "the same schema is not declared twice"
    with contextlib.closing(open_store(at="s", schema={})) as node:
        assert node.submit_tx([put(ann("a@x"))]).committed and node.db().entity(store.SCHEMA_ID) is None
        assert [v.document and v.document["schema"] for v in node.db().history(store.SCHEMA_ID)] == [UNIQUE, None]
        assert node.verify() == numbers + 2


def test_documents_that_break_a_schema_refuse_it_and_are_named(open_store):
    """A store that promised what its documents do not keep would be believed."""
    with contextlib.closing(open_store(at="s")) as node:
        node.submit_tx([put(ann("a@x")), put(ann("a@x", "bo")), put({"xt/id": "m", "of": "gone", "n": "three"}),
                        put({"xt/id": "future", "n": 4.5}, day(1)), put({"xt/id": "p", "c": 1, "u": [1, 2]}),
                        put({"xt/id": "q", "c": [3, 1], "u": 2})])
        node.submit_tx([put({"xt/id": "was wrong", "n": "four"}, day(1))])
        node.submit_tx([put({"xt/id": "was wrong", "n": 4}, day(1))])
    for schema, sentence in [
            (UNIQUE, "user/email is unique, and 'ann' and 'bo' would have the same"),
            ({"of": {"reference": True}}, "of of 'm' refers to 'gone', of which nothing is known"),
            ({"n": {"type": int}}, "n of 'future' has a value of type float; declared: int; n of 'm' has a value of"),
            ({("c", "u"): {"unique": True}}, "c with u is unique, and 'p' and 'q' would have the same")]:
        with pytest.raises(store.StoreError, match="The schema cannot be declared: .*All is as it was") as raised:
            open_store(at="s", schema=schema)
        assert sentence in str(raised.value)
        with contextlib.closing(open_store(at="s")) as node:
            assert node.submit_tx([put(ann("a@x", "cy"))]).committed and node.verify() == node.latest_tx.tx_id
    told = []
    with contextlib.closing(open_store(at="s", schema={("c", "u"): {"index": True}, "n": {"type": (int, str, float)}},
                                       progress=lambda *done: told.append(done))) as node:
        assert told and told[-1][0] == told[-1][1] and node.verify() == node.latest_tx.tx_id
        assert ("c", "u") not in node.attribute_stats() and all(type(a) is str for a in node.attribute_stats())


SENTENCES = [
    (3, "wanted a dict, such as"), ({"a": True}, "True of 'a'; wanted a dict with some of reference, type, unique"),
    ({"a": {}}, "wanted a dict"), ({"a": {"index": True}}, "wanted a dict with some of"),
    ({"a": {"unique": 1}}, "says 'unique': 1 of 'a'; wanted True"), ({("a",): {"index": True}}, "wanted an attribute"),
    ({("a", "a"): {"index": True}}, "a tuple of two or more"), ({"xt/id": {"unique": True}}, "wanted an attribute"),
    ({5: {"unique": True}}, "wanted an attribute"), ({"a": {"type": list}}, "'a' is of type <class 'list'>; wanted"),
    ({"a": {"type": ()}}, "wanted NoneType, bool"), ({"a": {"type": "text"}}, "an enumeration, or a tuple of these"),
]


@pytest.mark.parametrize(("schema", "sentence"), SENTENCES, ids=[str(row[0]) for row in SENTENCES])
def test_a_schema_that_is_none_is_refused_in_a_sentence(tmp_path, schema, sentence):
    """A misspelt declaration would hold nothing, and nobody would notice."""
    with pytest.raises(store.StoreError) as raised:
        store.open(tmp_path / "one.db", schema=schema)
    assert sentence in str(raised.value)
    with contextlib.closing(store.open(tmp_path / "one.db")) as node:
        assert node.latest_tx is None


def test_a_schema_document_is_checked_whoever_puts_it(open_store):
    """An import would bring a schema that nobody can read, and the store could not be opened again."""
    with contextlib.closing(open_store()) as node:
        node.submit_tx([put(ann("a@x"))])
        for document, times in [({"schema": 3}, []), ({"schema": {"a": {"unique": 3}}}, []), ({}, []),
                                ({"schema": UNIQUE}, [day(1)]), ({"schema": UNIQUE, "more": 1}, [])]:
            assert not node.submit_tx([put({"xt/id": store.SCHEMA_ID} | document, *times)]).committed, document
        assert node.submit_tx([put({"xt/id": store.SCHEMA_ID, "schema": UNIQUE})]).committed
        assert not node.submit_tx([put(ann("a@x", "bo"))]).committed
        assert node.submit_tx([evict(store.SCHEMA_ID), put(ann("a@x", "bo"))]).committed
        assert not node.submit_tx([put({"xt/id": store.SCHEMA_ID, "schema": UNIQUE})]).committed
        assert node.verify() == node.latest_tx.tx_id


def test_types_are_exact_and_of_each_value(open_store):
    """A number would be stored as a text by one form of many, and ranges would pass over it."""
    schema = {"n": {"type": int}, "mood": {"type": (Mood, type(None))}, "at": {"type": dt.datetime}}
    with contextlib.closing(open_store(schema=schema)) as node:
        for document, kept in [({"n": 1}, True), ({"n": True}, False), ({"n": [1, 2]}, True), ({"n": {1, "2"}}, False),
                               ({"mood": Mood.CALM}, True), ({"mood": None}, True), ({"mood": "CALM"}, False),
                               ({"at": day(1)}, True), ({"at": day(1).date()}, False), ({"other": 1.5}, True)]:
            assert node.submit_tx([put({"xt/id": "e"} | document)]).committed is kept, document
        assert not node.submit_tx([patch("e", {"n": "1"})]).committed
        assert node.submit_tx([put({"xt/id": "f", "n": "x"}), put({"xt/id": "f", "n": 1})]).committed


def test_a_reference_holds_at_every_valid_time(open_store):
    """A message would stand in a channel that was not there yet, or that is to be closed tomorrow."""
    with contextlib.closing(open_store(schema={"of": {"reference": True}}, clock=Clock(day(5)))) as node:
        def is_kept(*ops):
            return node.submit_tx(list(ops)).committed
        assert is_kept(put({"xt/id": "c"}, day(2)), put({"xt/id": "m", "of": "c"}))
        assert not is_kept(put({"xt/id": "m", "of": "c"}, day(1))), "not there yet"
        assert not is_kept(delete("c", day(9), day(10))) and not is_kept(put({"xt/id": "n", "of": ["c", "d"]}))
        assert is_kept(delete("m", day(9)), delete("c", day(9))), "both end together"
        assert not is_kept(put({"xt/id": "n", "of": "c"}, day(8)))
        assert is_kept(put({"xt/id": "n", "of": "c"}, day(8), day(9)))
        assert is_kept(evict("c")), "who must be forgotten is forgotten"
        assert is_kept(patch("m", {"text": "edited"})) and not is_kept(put({"xt/id": "new", "of": "c"}))
        assert node.verify() == node.latest_tx.tx_id


# ── Together ─────────────────────────────────────────────────────────────────────────────────────────────────

def test_of_many_that_want_one_value_one_gets_it(open_store, size):
    """Two people would sign up with one address in the same moment."""
    threads, rounds = 8, size(20, 500)
    with contextlib.closing(open_store(schema=UNIQUE)) as node:
        told, barrier = [], threading.Barrier(threads)

        def work(number):
            for turn in range(rounds):
                barrier.wait()
                told.append((turn, node.submit_tx([put(ann(f"{turn}@x", f"{number} {turn}"))])))
        running = [threading.Thread(target=work, args=[number]) for number in range(threads)]
        [thread.start() for thread in running], [thread.join() for thread in running]
        for turn in range(rounds):
            txs = [tx for at, tx in told if at == turn]
            assert len(txs) == threads and sum(tx.committed for tx in txs) == 1
            assert all("user/email is unique" in tx.reason for tx in txs if not tx.committed)
        assert node.verify() == threads * rounds + 1


def test_servers_hold_one_schema_and_a_late_one_decides_alike(join, seed):
    """What one server refused another would take, or a server that comes after an evict would read another past."""
    rng, clock = random.Random(seed), Clock(day(1))
    one, two = join({"again": again}, clock=clock, schema=ALL), join({"again": again}, clock=clock)
    story = Story(rng, [one, two], clock)
    aborted = sum(not story.run().committed for _ in range(60))
    assert aborted > 5
    for node in one, two:
        node.sync(30)
    late = join({"again": again}, clock=clock)
    assert one.status()["state"] == two.status()["state"] == late.status()["state"]
    assert [node.verify() for node in (one, two, late)] == [one.latest_tx.tx_id] * 3
    assert late.db().entity(store.SCHEMA_ID) == one.db().entity(store.SCHEMA_ID) is not None
    taken = two.submit_tx([put({"xt/id": "new", "c": 9, "u": 9})])
    assert taken.committed and not one.submit_tx([put({"xt/id": "newer", "c": 9, "u": 9})]).committed


def test_another_node_of_a_file_holds_what_was_declared_meanwhile(tmp_path, seed):
    """A process that was open before would write what no other may, and ask an index that is gone."""
    rng, clock, path = random.Random(seed), Clock(day(1)), tmp_path / "one.db"
    pairs = {"find": "?e", "in": ["?c", "?k"], "where": [["?e", "c", "?c"], ["?e", "k", "?k"], ["?e", "u", "?u"]]}
    with contextlib.ExitStack() as opened:
        one, two = (opened.enter_context(store.open(path, {"again": again}, clock=clock)) for _ in range(2))
        opened.enter_context(store.open(path, clock=clock, schema=ALL))
        story = Story(rng, [one, two], clock)
        assert sum(not story.run().committed for _ in range(60)) > 5
        one.submit_tx([put({"xt/id": "x", "c": 7, "k": 7, "u": 7})])
        for node in two, one:
            assert not node.submit_tx([put({"xt/id": "y", "c": 7, "u": 7})]).committed
            assert "'index'" in node.db().explain(pairs, 7, 7) and node.db().q(pairs, 7, 7) == ["x"]
        old = two.db()
        opened.enter_context(store.open(path, clock=clock, schema={}))
        assert old.q(pairs, 7, 7) == two.db().q(pairs, 7, 7) == ["x"] and "'index'" not in two.db().explain(pairs, 7, 7)
        assert one.submit_tx([put({"xt/id": "y", "c": 7, "u": 7})]).committed and one.verify() == two.latest_tx.tx_id


BUILDS = """
import os, signal, sys, store
def progress(done, of):
    if done == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
store.open(sys.argv[1], schema={("c", "u"): {"unique": True}, "n": {"type": int}}, progress=progress)
"""


def test_a_process_killed_while_it_builds_leaves_all_or_nothing(tmp_path):
    """Half an index would answer as if the other half were not there."""
    path, count = tmp_path / "one.db", 40
    with contextlib.closing(store.open(path)) as node:
        node.submit_tx([put({"xt/id": n, "c": n % 5, "u": n, "n": n}) for n in range(count)])
    for done in 1, count, count + 1, 2 * count:
        killed = subprocess.run([sys.executable, "-c", BUILDS, str(path), str(done)], cwd=ROOT, capture_output=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        with contextlib.closing(store.open(path)) as node:
            assert node.verify() == 1 and node.db().entity(store.SCHEMA_ID) is None
            assert node.db().with_tx([put({"xt/id": "x", "c": 1, "u": 1})])
    with contextlib.closing(store.open(path, schema={("c", "u"): {"unique": True}})) as node:
        assert node.verify() == 2 and node.db().with_tx([put({"xt/id": "x", "c": 1, "u": 1})]) is None


# ── Indexes of several attributes ────────────────────────────────────────────────────────────────────────────

INDEXES = [("kind", "num"), ("kind", "price"), ("to", "num"), ("kind", "num", "text"), ("up", "mix"), ("num", "list"),
           ("kind", "large"), ("num", "kind")]


class Indexed(Asker):
    """Draws queries that an index of several attributes may answer."""

    def query(self, rules):
        rng, names, given, args = self.rng, self.rng.choice([*INDEXES, *INDEXES[:4]]), [], []
        known = rng.randrange(1, len(names) + 1) if self.some(0.3) else len(names) - 1
        wheres = []
        for place, (name, var) in enumerate(zip(names, ["?b", "?c", "?d"])):
            if place < known and self.some(0.5):
                given, args = [*given, var], [*args, self.constant(name)]
            wheres.append(["?a", name, self.constant(name) if place < known and var not in given else var])
        vars = [clause[2] for clause in wheres if clause[2] in ("?b", "?c", "?d") and clause[2] not in given]
        tested = rng.choice([*vars, "?d"])
        if tested in vars:
            values = [value for value in VALUES.get(names[-1], IDS) if type(value) in (int, float, str)] + [1, "a"]
            for _ in range(rng.choice([0, 1, 1, 2])):
                test = (rng.choice(["<", "<=", ">", ">=", "="]), tested, rng.choice(values))
                wheres.append([test if self.some(0.7) else (test[0], *test[:0:-1])])
        if self.some(0.3):
            wheres.append(rng.choice([["?a", "price"], ["?a", "up", "?d"], ("not", ["?a", "mix", 1]),
                                      ["?d", "to", "?a"]]))
        rng.shuffle(wheres)
        bound = {var for clause in wheres if type(clause) is list for var in clause if var in VARS} - {*given}
        find = rng.sample(sorted(bound), rng.randrange(1, len(bound) + 1))
        if self.some(0.15):
            find[0] = (rng.choice(["count", "count-distinct", "min", "max"]), find[0])
        return {"find": find, "in": given, "where": wheres} | self.page(find), args

    def page(self, find):
        made = super().page(find)
        if "order-by" in made or self.some(0.5):
            return made
        vars = sorted(element for element in (find if type(find) is list else [find]) if type(element) is str)
        order = [[var, self.rng.choice(["asc", "desc"])] for var in vars[-1:]]
        return {"order-by": order, "limit": 1 + self.rng.randrange(3)} if order else {}


def test_random_queries_answer_alike_with_indexes_of_several_attributes(size, seed, say, open_store, monkeypatch):
    """A page in an index's order would lack a row, or one in two types would be in another order."""
    rng, wanted, used = random.Random(seed), size(500, 50_000), []
    schema, best_index = {names: {"index": True} for names in INDEXES}, store_schema.best_index
    pays = store_schema._pays
    monkeypatch.setattr(store_schema, "_pays", lambda *args: pays(*args) or rng.random() < 0.7)
    monkeypatch.setattr(store_schema, "best_index", lambda *args: used.append(best_index(*args)) or used[-1])
    counts = trials.ask_many(Indexed, rng, lambda functions: open_store(functions, schema=schema), wanted,
                             lambda counts: len(list(filter(None, used))) > wanted / 10)
    indexed, pages = len(list(filter(None, used))), sum(index.is_page for index in filter(None, used))
    say(f"0 differences in {counts['asked']:,} queries ({counts['found']:,} find something; {indexed} plans of "
        f"{len(used)} begin with such an index, {pages} of them for a page), seed {seed}")


@pytest.mark.parametrize("at", [str, int])
def test_a_damaged_index_of_several_attributes_is_said_to_be(tmp_path, at):
    """The program that asked was told of a Ctrl-C that nobody had pressed, and ended; half a number was believed."""
    with contextlib.closing(store.open(tmp_path / "s.db", schema={("of", "at"): {"index": True}})) as node:
        node.submit_tx([put({"xt/id": n, "of": 1, "at": at(n)}) for n in range(400)])
    with contextlib.closing(sqlite3.connect(tmp_path / "s.db")) as file, file:
        assert file.execute("update joined set v = substr(v, 1, length(v) - 1)").rowcount == 400
    page = {"find": ["?at"], "where": [["?m", "of", 1], ["?m", "at", "?at"]], "order-by": [["?at", "desc"]], "limit": 5}
    with contextlib.closing(store.open(tmp_path / "s.db")) as node:
        with pytest.raises(store.CorruptError, match="reindex"):
            node.db().q(page)
        node.reindex()
        assert len(node.db().q(page)) == 5


def test_a_page_in_the_order_of_another_attribute_reads_the_page_alone(open_store):
    """The messages of a busy channel by the time of their writing would all be read and sorted for each page."""
    channels, rng = [uuid.UUID(int=n) for n in range(3)], random.Random(5)
    messages = [{"xt/id": n, "of": channels[n % 3], "at": day(rng.randrange(500))} for n in range(400)]
    page = {"find": ["?m", "?at"], "in": ["?c"], "where": [["?m", "of", "?c"], ["?m", "at", "?at"]],
            "order-by": [["?at", "desc"], [("created", "?m"), "desc"]], "limit": 5}
    older = page | {"in": ["?c", "?last"], "where": [*page["where"], [("<", "?at", "?last")]]}
    between = {"find": ("count", "?m"), "in": ["?c", "?a", "?b"],
               "where": [*page["where"], [("<=", "?a", "?at", "?b")]]}

    def newest(channel, before=None, but=()):
        found = [(m["xt/id"], m["at"]) for m in messages if m["of"] == channel and m not in but
                 and (before is None or m["at"] < before)]
        return [at for _, at in sorted(found, key=lambda one: one[1], reverse=True)[:5]]

    def ats(rows):
        return [at for _, at in rows]
    with contextlib.closing(open_store(at="s")) as node:
        node.submit_tx([put(message) for message in messages])
        plain = node.db().q(between, channels[0], day(100), day(200))
    with contextlib.closing(open_store(at="s", schema={("of", "at"): {"index": True}})) as node:
        db, first = node.db(), node.db().q(page, channels[1])
        told = db.explain(page, channels[1])
        assert "{'index': ['of', 'at']}" in told and "TEMP B-TREE FOR ORDER BY" not in told, told
        assert ats(first) == newest(channels[1]) and ats(db.q(older, channels[1], first[-1][1])) == newest(
            channels[1], first[-1][1])
        assert db.q(between, channels[0], day(100), day(200)) == plain != [0]
        assert "'index'" in db.explain(between, *[None] * 3)
        gone = messages[:200]
        node.submit_tx([delete(message["xt/id"]) for message in gone])
        assert ats(node.db().q(page, channels[1])) == newest(channels[1], but=gone)
        assert ats(db.q(page, channels[1])) == ats(node.db(db.tx_id).q(page, channels[1])) == newest(channels[1])
        assert ats(node.db(1).q(page, channels[1])) == newest(channels[1]), "from before it was declared, too"
        node.submit_tx([evict(message["xt/id"]) for message in messages[200:300]])
        assert ats(db.q(page, channels[1])) == newest(channels[1], but=messages[200:300])
        assert node.verify() == node.latest_tx.tx_id
    with contextlib.closing(open_store(at="s", schema={})) as node:
        assert "'index'" not in node.db().explain(page, channels[1]) and node.verify() == node.latest_tx.tx_id
        assert ats(node.db().q(page, channels[1])) == newest(channels[1], but=messages[:300])
