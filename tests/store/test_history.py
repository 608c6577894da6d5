"""Time in two directions: when something was true, and when we learned of it."""
import contextlib
import copy
import datetime as dt
import random
import sqlite3
import threading
import time
import uuid

import pytest

import store
import store_keeping
from store import call, cas, delete, evict, match, patch, put

DAY = dt.timedelta(days=1)
MICROSECOND = dt.timedelta(microseconds=1)


def day(number):
    """Day `number` of the month in which most of these tests happen; -3 is four days before the first."""
    return dt.datetime(2030, 5, 1, tzinfo=dt.timezone.utc) + (number - 1) * DAY


class Clock:
    """The store's clock, which stands still until it is moved."""

    def __init__(self, now):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    """It is day 100: whatever a test says about days 1 to 12 is known afterwards."""
    return Clock(day(100))


@pytest.fixture
def node(clock, open_store):
    with contextlib.closing(open_store(clock=clock)) as opened:
        yield opened


def letter(name):
    return {"xt/id": "x", "letter": name}


def timeline(db_at):
    """What holds on the days 1 to 12, one letter a day, as `db_at(valid_time)` sees it."""
    seen = (db_at(day(number)).entity("x") for number in range(1, 13))
    return "".join(document["letter"] if document else "." for document in seen)


def span(name, start, end=None):
    """Puts a letter from one day until before another; None is a deletion."""
    times = [day(start)] if end is None else [day(start), day(end)]
    return delete("x", *times) if name is None else put(letter(name), *times)


# ── How long a put lasts ─────────────────────────────────────────────────────────────────────────────────────

TABLE = [
    # already known                                        then                afterwards, days 1 to 12
    ([],                                                   span("A", 5),       "....AAAAAAAA"),
    ([span("A", 5)],                                       span("B", 3),       "..BBAAAAAAAA"),
    ([span("A", 5)],                                       span("B", 7),       "....AABBBBBB"),
    ([span("A", 5), span("C", 9)],                         span("B", 7),       "....AABBCCCC"),
    ([],                                                   span("A", 5, 8),    "....AAA....."),
    ([span("A", 5)],                                       span("B", 6, 9),    "....ABBBAAAA"),
    ([span("A", 5), span("C", 8)],                         span("B", 6, 9),    "....ABBBCCCC"),
    ([span("A", 5), span("C", 9)],                         span("B", 6, 9),    "....ABBBCCCC"),
    ([span("A", 5)],                                       span(None, 6, 9),   "....A...AAAA"),
    ([span("C", 8), span("B", 6, 9)],                      span("D", 6),       ".....DDDCCCC"),
    ([span("A", 5), span("B", 6, 9)],                      span("D", 7),       "....ABDDAAAA"),
    ([span("A", 5, 7), span(None, 5, 7)],                  span("B", 6, 9),    ".....BBB...."),
    ([span("A", 5)],                                       span(None, 7),      "....AA......"),
    ([span("A", 5), span("C", 9)],                         span(None, 7),      "....AA..CCCC"),
    ([],                                                   span(None, 5),      "............"),
    ([span("A", 5), span(None, 7), span("C", 9)],          span("B", 3, 10),   "..BBBBBBBCCC"),
]


@pytest.mark.parametrize("known, then, afterwards", TABLE)
def test_a_put_lasts_until_the_next_start_of_a_different_version(node, known, then, afterwards):
    """Without this, correcting last week would silently overwrite what is known of today."""
    for op in known:
        node.submit_tx([op])
    before = node.db()
    was = timeline(lambda vt: node.db(before.tx_id, valid_time=vt))
    node.submit_tx([then])
    assert timeline(lambda vt: node.db(valid_time=vt)) == afterwards
    assert timeline(lambda vt: node.db(before.tx_id, valid_time=vt)) == was, "what we knew before has changed"


@pytest.mark.parametrize("known, then, afterwards", [row for row in TABLE if all(op[2] != row[1][2] for op in row[0])])
def test_the_same_operations_in_one_transaction_end_the_same(node, known, then, afterwards):
    """Without this, the meaning of an operation would depend on how a program groups its writes."""
    node.submit_tx([*known, then])
    assert timeline(lambda vt: node.db(valid_time=vt)) == afterwards


@pytest.mark.parametrize("make, what", [(put, {"xt/id": "x"}), (delete, "x")])
def test_a_span_in_which_nothing_would_hold_is_refused(node, clock, make, what):
    """Such an operation was accepted and did nothing, so a mistake in its times was never noticed."""
    for times in [day(7), day(7)], [day(7), day(6)], [None, clock.now - DAY], [None, clock.now]:
        with pytest.raises(store.OperationError, match="nothing would hold.*operation 2 of 2"):
            node.submit_tx([put({"xt/id": "y"}), make(what, *times)])
    assert node.latest_tx is None
    assert node.submit_tx([make(what, None, clock.now + DAY)]).committed
    assert node.submit_tx([make(what, day(6), day(7))]).committed


def test_what_holds_again_after_a_bounded_put_bears_its_own_transaction(node):
    """Without this, the history would credit a correction with what it only gave back."""
    told = node.submit_tx([span("A", 5)])
    corrected = node.submit_tx([span("B", 6, 9)])
    assert node.db().history("x") == [
        (day(5), day(6), told.tx_id, letter("A")),
        (day(6), day(9), corrected.tx_id, letter("B")),
        (day(9), None, told.tx_id, letter("A"))]
    assert node.db(valid_time=day(10)).entity_tx("x").tx_id == told.tx_id
    assert node.db(valid_time=day(7)).entity_tx("x").tx_id == corrected.tx_id


def test_a_bounded_put_over_nothing_ends_in_an_entry_of_a_deletion(node):
    """Without this, a reader of the history could not tell an end from a thing that goes on."""
    tx = node.submit_tx([span("A", 5, 8)])
    assert node.db().history("x") == [(day(5), day(8), tx.tx_id, letter("A")), (day(8), None, tx.tx_id, None)]


def test_two_puts_with_the_same_start_in_one_transaction_leave_the_last(node):
    """Without this, the history would hold a document that nobody could ever have seen."""
    tx = node.submit_tx([span("A", 5), span("B", 5)])
    assert node.db().history("x") == [(day(5), None, tx.tx_id, letter("B"))]
    assert node.db().history("x", corrections=True) == [(day(5), None, tx.tx_id, letter("B"))]


# ── Knowing and being true ───────────────────────────────────────────────────────────────────────────────────

def test_a_correction_changes_the_past_but_not_what_we_knew_then(node):
    """Without this, an old report could not be reproduced after a correction."""
    told = node.submit_tx([put({"xt/id": "door", "door/colour": "red"}, day(1))])
    node.submit_tx([put({"xt/id": "door", "door/colour": "blue"}, day(1))])
    assert node.db(valid_time=day(3)).entity("door")["door/colour"] == "blue"
    assert node.db(told.tx_id, valid_time=day(3)).entity("door")["door/colour"] == "red"


def test_a_put_dated_in_the_future_is_not_visible_until_the_clock_gets_there(node, clock):
    """Without this, an announcement for Friday would be read on Monday."""
    node.submit_tx([put(letter("A"), day(105))])
    assert node.db().entity("x") is None
    assert node.db().q({"find": "?e", "where": [["?e", "letter"]]}) == []
    clock.now = day(105)
    assert node.db().entity("x") == letter("A")
    assert node.db().q({"find": "?e", "where": [["?e", "letter"]]}) == ["x"]


def test_an_end_passes_without_a_write(node, clock):
    """Without this, an offer would be seen until somebody happened to write."""
    node.submit_tx([put(letter("A"), day(99), day(105))])
    assert node.db().entity("x") == letter("A")
    clock.now = day(105)
    assert node.db().entity("x") is None
    assert node.db().q({"find": "?e", "where": [["?e", "letter"]]}) == []


@pytest.mark.parametrize("bound, now, then", [
    (put({"xt/id": "x", "n": 5}, day(105)), {1, 2}, {2, 5}), (delete("x", day(105)), {1, 2}, {2}),
    (patch("x", {"n": 5}, day(105)), {1, 2}, {2, 5}), (put({"xt/id": "w", "n": 5}, None, day(105)), {1, 2, 5}, {1, 2})],
    ids=["put", "delete", "patch", "end"])
def test_the_first_bounded_version_is_seen_by_questions_of_before(node, clock, monkeypatch, bound, now, then):
    """Without this, what has ended would go on for all who had asked while nothing of its attribute ever ended."""
    monkeypatch.setattr(store, "SKIP_MIN", 0)
    told = node.submit_tx([put({"xt/id": "x", "n": 1}), put({"xt/id": "y", "n": 2}), put({"xt/id": "z", "m": 3})])

    def said(db):
        asked = "?n", ("count", "?n"), ("count-distinct", "?n"), ("sum", "?n"), ("max", "?n")
        values, *made = [db.q({"find": find, "where": [["?e", "n", "?n"]]}) for find in asked]
        assert made == [[len(values)], [len(values)], [sum(values)], [max(values)]]
        by_value = {"find": "?e", "in": ["?n"], "where": [["?e", "n", "?n"]]}
        assert {n for n in (1, 2, 5) if db.q(by_value, n)} == {*values}
        return set(values)

    assert said(node.db()) == said(node.db(told)) == {1, 2}
    node.submit_tx([bound])
    assert said(node.db()) == now and said(node.db(told)) == {1, 2}
    clock.now = day(105)
    assert said(node.db()) == then and said(node.db(told)) == {1, 2}
    assert node.db().q({"find": "?m", "where": [["?e", "m", "?m"]]}) == [3]


@pytest.mark.parametrize("backdated, then", [
    (put({"xt/id": "x", "n": 5}, day(101)), {5, 2}), (delete("x", day(101)), {2}),
    (patch("x", {"n": 5}, day(101)), {5, 2}),
    (put({"xt/id": "x", "m": 3}, day(101), day(102)), {2}), (put({"xt/id": "w", "n": 5}, day(101)), {1, 2, 5})],
    ids=["put", "delete", "patch", "cut", "new"])
def test_the_first_backdated_version_is_seen_at_past_valid_times(node, clock, backdated, then):
    """Without this, a correction would be lost where all of its attribute had been said of its own time before."""
    node.submit_tx([put({"xt/id": "x", "n": 1}), put({"xt/id": "y", "n": 2}), put({"xt/id": "z", "m": 3})])
    clock.now = day(103)
    told = node.submit_tx([put({"xt/id": "x", "n": 7}), put({"xt/id": "v", "n": 8})])

    def said(*basis):
        db = node.db(*basis, valid_time=day(101))
        by_value = {"find": "?e", "in": ["?n"], "where": [["?e", "n", "?n"]]}
        values = db.q({"find": "?n", "where": [["?e", "n", "?n"]]})
        assert {n for n in (1, 2, 5, 7, 8) if db.q(by_value, n)} == {*values}
        assert db.q({"find": "?n", "where": [["?e", "n", "?n"]], "order-by": [["?n"]], "limit": 9}) == sorted(values)
        return {*values}

    assert said() == said(told) == said(1) == {1, 2}
    clock.now = day(104)
    node.submit_tx([backdated])
    assert said() == then and said(told) == said(1) == {1, 2}
    node.reindex()
    assert said() == then and said(told) == said(1) == {1, 2}


def test_the_tale_of_the_eel(node, clock):
    """Without this, the two directions of time might each be right and not be right together."""
    def told(number, *ops):
        clock.now = day(number)
        return node.submit_tx(list(ops))

    def where(tx, number):
        found = node.db(tx.tx_id, valid_time=day(number)).entity("eel")
        return found and found["eel/at"]

    def seen(place, *days):
        return put({"xt/id": "eel", "eel/at": place}, *map(day, days))

    first = told(2, seen("the weir", 2))                            # on the 2nd someone sees it at the weir
    letter_came = told(6, seen("the lake", -3))  # on the 6th a letter: it was in the lake from the 27th on
    caught = told(8, delete("eel", day(7)))                         # on the 8th: caught the day before
    mistaken = told(10, seen("the ditch", 7))  # on the 10th: that was another eel, ours was in the ditch
    visit = told(12, seen("the sea", 9, 11))  # on the 12th: from the 9th to the 11th it was in the sea

    assert [where(first, n) for n in (-3, 1, 2, 9)] == [None, None, "the weir", "the weir"]
    assert [where(letter_came, n) for n in (-4, -3, 1, 2, 9)] == [None, "the lake", "the lake", "the weir", "the weir"]
    assert [where(caught, n) for n in (1, 6, 7, 9)] == ["the lake", "the weir", None, None]
    assert [where(mistaken, n) for n in (1, 6, 7, 9, 11)] == ["the lake", "the weir", "the ditch", "the ditch",
                                                              "the ditch"]
    assert [where(visit, n) for n in (6, 7, 8, 9, 10, 11, 12)] == [
        "the weir", "the ditch", "the ditch", "the sea", "the sea", "the ditch", "the ditch"]

    places = {"find": "?place", "where": [["?eel", "eel/at", "?place"]]}
    assert node.db(valid_time=day(10)).q(places) == ["the sea"]
    assert node.db(caught.tx_id, valid_time=day(10)).q(places) == []
    assert node.db(first.tx_id, valid_time=day(10)).q(places) == ["the weir"]
    assert node.db(tx_time=day(7), valid_time=day(1)).q(places) == ["the lake"]      # as we knew on the 7th


# ── History ──────────────────────────────────────────────────────────────────────────────────────────────────

def test_history_is_what_the_snapshot_can_see(node):
    """Without this, a snapshot of the past would leak what came after it."""
    one = node.submit_tx([span("A", 1)])
    two = node.submit_tx([span("B", 3)])
    node.submit_tx([span("C", 5)])
    assert node.db(two.tx_id, valid_time=day(9)).history("x") == [
        (day(1), day(3), one.tx_id, letter("A")), (day(3), None, two.tx_id, letter("B"))]
    assert node.db(two.tx_id, valid_time=day(2)).history("x") == [(day(1), day(3), one.tx_id, letter("A"))]
    assert node.db(0).history("x") == []


def test_history_comes_in_both_directions_and_within_bounds(node):
    """Without this, the newest change of a long history would cost reading all of it."""
    one, two, three = (node.submit_tx([span(name, at)]) for name, at in [("A", 1), ("B", 3), ("C", 5)])
    entries = [(day(1), day(3), one.tx_id, letter("A")), (day(3), day(5), two.tx_id, letter("B")),
               (day(5), None, three.tx_id, letter("C"))]
    db = node.db()
    assert db.history("x") == entries
    assert db.history("x", order="desc") == entries[::-1]
    assert db.history("x", valid_from=day(3)) == entries[1:]
    assert db.history("x", valid_to=day(5)) == entries[:2]
    assert db.history("x", day(3), day(5)) == entries[1:2]
    assert db.history("x", tx_from=two.tx_id) == entries[1:]
    assert db.history("x", tx_to=three.tx_id) == [entries[0],
                                                  (day(3), None, two.tx_id, letter("B"))], "as known before it"
    assert [entry.document for entry in db.history("x", documents=False)] == [None, None, None]


def test_history_shows_what_is_to_come_if_it_is_asked(node):
    """An announcement for next week could be seen only by whoever asked for a snapshot of next week."""
    one, two, three = (node.submit_tx([span(name, at)]) for name, at in [("A", 1), ("B", 105), ("C", 105)])
    entries = [(day(1), day(105), one.tx_id, letter("A")), (day(105), None, three.tx_id, letter("C"))]
    db = node.db()
    assert db.history("x") == entries[:1] and db.history("x", future=True) == entries
    assert db.history("x", future=True, order="desc", valid_from=day(2)) == entries[1:]
    told = db.history("x", future=True, corrections=True)
    assert [v.tx_id for v in told] == [one.tx_id, two.tx_id, three.tx_id]
    assert node.db(one.tx_id).history("x", future=True) == [(day(1), None, one.tx_id, letter("A"))]


def test_history_with_corrections_tells_what_was_believed(node):
    """Without this, a mistake could be hidden by correcting it."""
    one = node.submit_tx([span("A", 1)])
    two = node.submit_tx([span("B", 1)])
    assert node.db().history("x") == [(day(1), None, two.tx_id, letter("B"))]
    told = [(v.valid_from, v.tx_id, v.document) for v in node.db().history("x", corrections=True)]
    assert told == [(day(1), one.tx_id, letter("A")), (day(1), two.tx_id, letter("B"))]


def test_a_history_bounded_by_a_transaction_is_what_was_known_before_it(node):
    """A corrected entry was missing from it altogether, as if nothing had been known for that time."""
    one = node.submit_tx([span("A", 1)])
    two = node.submit_tx([span("B", 1), span("C", 3)])
    three = node.submit_tx([span("D", 3)])
    told = lambda db, **bounds: [(v.valid_from, v.tx_id, v.document["letter"]) for v in db.history("x", **bounds)]
    db = node.db()
    assert told(db, tx_to=two) == [(day(1), one.tx_id, "A")]
    supposed = db.with_tx([span("E", 1)])
    before_three, newest = [(day(1), two.tx_id, "B"), (day(3), two.tx_id, "C")], (day(3), three.tx_id, "D")
    assert told(db, tx_to=three) == told(supposed, tx_to=three) == before_three
    assert told(supposed, tx_to=4) == told(db) == [(day(1), two.tx_id, "B"), newest]
    assert told(db, tx_from=three) == told(db, tx_from=three.tx_time) == [newest]
    assert told(db, tx_from=two.tx_time + MICROSECOND) == [newest]
    oldest = [(day(1), one.tx_id, "A")]
    assert told(db, tx_to=two.tx_time) == told(db, tx_to=one.tx_time + MICROSECOND) == oldest, "a time between two"
    assert told(db, tx_from=day(1)) == told(db)
    assert told(db, tx_to=day(1)) == told(db, tx_from=three.tx_time + DAY) == []
    assert db.with_tx([evict("x")]).history("x", tx_to=two) == [], "evicted is evicted from the past as well"


def test_history_of_the_unknown_and_the_evicted_is_empty(node):
    """Without this, forgetting would leave a shadow."""
    node.submit_tx([span("A", 1)])
    assert node.db().history("nobody") == []
    assert len(node.db().history("x")) == 1
    node.submit_tx([evict("x")])
    assert node.db().history("x") == []
    assert node.db().history("x", corrections=True) == []


def test_a_naive_time_is_refused(node):
    """Without this, a history would depend on the time zone of a server."""
    node.submit_tx([span("A", 1)])
    with pytest.raises(store.ValueTypeError, match="aware"):
        node.db().history("x", valid_from=dt.datetime(2030, 1, 1))
    with pytest.raises(store.ValueTypeError, match="aware"):
        node.db(valid_time=dt.datetime(2030, 1, 1))
    with pytest.raises(store.ValueTypeError, match="aware"):
        node.submit_tx([put(letter("B"), dt.datetime(2030, 1, 1))])


# ── Against a naive model ────────────────────────────────────────────────────────────────────────────────────
#
# The model is XTDB's own way of writing: an entity is a list of entries (valid time, tx_id) → document, and nothing has
# an end. A put writes an entry at its start and over every later start that it covers. With an end it writes one more,
# at the end, what was known there. Of the entries that a snapshot can see the one with the latest start holds.

class Model:
    def __init__(self):
        self.entries = {}                                   # id → {(valid time, tx_id): document or None}

    def known(self, id, tx_id):
        """(valid time, tx_id, document) of each start, as last written up to a transaction."""
        last = {}
        for (at, tx), document in sorted(self.entries.get(id, {}).items(), key=lambda entry: entry[0]):
            if tx <= tx_id:
                last[at] = (at, tx, document)
        return list(last.values())

    def visible(self, id, tx_id, at):
        return next((entry for entry in reversed(self.known(id, tx_id)) if entry[0] <= at), None)

    def document(self, id, tx_id, at):
        entry = self.visible(id, tx_id, at)
        return entry and entry[2]

    def apply(self, ops, tx_id, tx_time):
        """True if the transaction commits; if not, nothing has changed."""
        before = {id: dict(entries) for id, entries in self.entries.items()}
        for kind, what, *times in ops:
            if kind == "call":
                if not self.apply(times, tx_id, tx_time):
                    self.entries = before
                    return False
            elif kind == "match":
                if self.document(what, tx_id, times[1] if times[1:] else tx_time) != times[0]:
                    self.entries = before
                    return False
            elif kind == "cas":
                attribute, old, new = times
                if (self.document(what, tx_id, tx_time) or {}).get(attribute, ...) != old:
                    self.entries = before
                    return False
                self.patch(what, {attribute: new}, tx_time, None, tx_id)
            elif kind == "patch":
                start, end = [*times[1:], None, None][:2]
                self.patch(what, times[0], start or tx_time, end, tx_id)
            elif kind == "evict":
                self.entries[what] = {}
            else:
                start, end = [*times, None, None][:2]
                document = what if kind == "put" else None
                self.draw(what["xt/id"] if document else what, start or tx_time, end, document, tx_id)
        return True

    def draw(self, id, start, end, document, tx_id):
        if end is not None and end <= start:
            return
        known, last = self.known(id, tx_id), self.visible(id, tx_id, start)
        later = [entry for entry in known if entry[0] > start]
        written = self.entries.setdefault(id, {})
        if end is None:
            covered = []
            for entry in later:
                if last is None or entry[1:] != last[1:]:
                    break
                covered.append(entry[0])
        else:
            covered = [entry[0] for entry in later if entry[0] < end]
            restored = self.visible(id, tx_id, end)
            written[end, restored[1] if restored else tx_id] = restored and restored[2]
        for at in [start, *covered]:
            written[at, tx_id] = document

    def patch(self, id, changes, start, end, tx_id):
        """Each stretch of the span by itself; what holds nowhere in the span begins as the changes alone."""
        starts = [start, *(at for at, _, _ in self.known(id, tx_id) if start < at and (end is None or at < end))]
        held = [self.document(id, tx_id, at) for at in starts]
        is_new = not any(held) and any(value is not ... for name, value in changes.items() if name != "xt/id")
        for at, beyond, document in zip(starts, [*starts[1:], end], held):
            before = {"xt/id": id} if is_new else document
            after = before and {name: value for name, value in (before | changes).items() if value is not ...}
            if after != document:
                self.draw(id, at, beyond, after, tx_id)

    def as_of(self, tx_id):
        """A model that knows only what was known then."""
        past = Model()
        past.entries = {id: {key: document for key, document in entries.items() if key[1] <= tx_id}
                        for id, entries in self.entries.items()}
        return past

    def span(self, id, tx_id, at):
        """From when to when the document that holds at a time does, whoever put it."""
        known = [entry for entry in self.history(id, tx_id)]
        place = next((n for n, (start, end, _, _) in enumerate(known) if start <= at and (end is None or at < end)),
                     None)
        if place is None or known[place][3] is None:
            return None, None
        same = [n for n, entry in enumerate(known) if all(other[3] == known[place][3]
                                                          for other in known[min(n, place):max(n, place) + 1])]
        return known[same[0]][0], known[same[-1]][1]

    def history(self, id, tx_id):
        """What touches and has the same transaction and document is one entry, which ends where the next begins."""
        merged = []
        for entry in self.known(id, tx_id):
            if not merged or merged[-1][1:] != entry[1:]:
                merged.append(entry)
        ends = [entry[0] for entry in merged[1:]] + [None]
        return [(start, end, tx, document) for (start, tx, document), end in zip(merged, ends)]


class Sequence:
    """Some transactions about two entities of their own, on a node shared with other sequences,
    and questions about them."""

    def __init__(self, rng, node, clock, name):
        self.rng, self.node, self.clock, self.model = rng, node, clock, Model()
        self.ids, self.v, self.w = [f"{name} a", f"{name} b"], f"v {name}", f"w {name}"
        self.dated = rng.choice([[3, 4, 4], [3, 4, 4], [30, 1, 1], [1, 0, 0]])     # how often without and with times
        clock.now = max(clock.now, node.db().valid_time) + 40 * DAY
        self.begin = clock.now
        self.moments = [self.begin + n * DAY for n in range(-5, 9)]
        self.first = node.latest_tx.tx_id if node.latest_tx else 0
        self.said = []

    def moment(self):
        return self.rng.choice(self.moments)

    def operation(self, none=(..., None)):
        rng, id = self.rng, self.rng.choice(self.ids)
        times = rng.choices([[], [self.moment()], sorted({self.moment(), self.moment()})], self.dated)[0]
        kind = rng.choices(["put", "delete", "match", "evict", "call", "patch", "cas"], [10, 5, 2, 0.7, 0.7, 5, 2])[0]
        if kind == "call":
            return call("again", *(self.operation([None]) for _ in range(rng.randrange(3))))
        if kind == "put":
            return put({"xt/id": id, self.v: rng.randrange(3)}, *times)
        if kind == "delete":
            return delete(id, *times)
        if kind == "evict":
            return evict(id)
        if kind == "patch":
            changed = rng.choices([self.v, self.w], k=rng.randrange(3))
            return patch(id, {a: rng.choice([*none, 0, 1]) for a in changed}, *times)
        if kind == "cas":
            return cas(id, rng.choice([self.v, self.w]), rng.choice([*none, 0, 1]), rng.choice([*none, 0, 1]))
        return match(id, rng.choice([None, {"xt/id": id, self.v: rng.randrange(3)}]), *times[:1])

    def run(self):
        for _ in range(self.rng.randrange(2, 7)):
            self.clock.now += self.rng.choice([0, 0, 1, 2]) * DAY
            ops = [self.operation() for _ in range(self.rng.choices([1, 2, 3], [6, 3, 1])[0])]
            self.said.append(ops)
            tx = self.node.submit_tx(ops)
            self.moments += [tx.tx_time, tx.tx_time - MICROSECOND]
            assert tx.committed == self.model.apply(ops, tx.tx_id, tx.tx_time), self.story()

    def snapshot(self):
        """A random one: (db, tx_id, valid time)."""
        latest = self.node.latest_tx
        kind = self.rng.randrange(6)
        if kind == 0:
            return self.node.db(), latest.tx_id, max(self.clock.now, latest.tx_time)
        tx_id = self.rng.randint(self.first, latest.tx_id)
        if kind == 1 and tx_id:
            return self.node.db(tx_id), tx_id, self.node.tx(tx_id).tx_time
        at = self.moment()
        return self.node.db(tx_id, valid_time=at), tx_id, at

    def ask(self):
        question = self.rng.choice([self.ask_document, self.ask_rows, self.ask_version, self.ask_history,
                                    self.ask_bounded_history,
                                    self.ask_corrections, self.ask_span, self.ask_supposition])
        db, tx_id, at = self.snapshot()
        id = self.rng.choice(self.ids)
        got, wanted = question(db, id, tx_id, at)
        assert got == wanted, f"{self.story()}\n{question.__name__} about {id} at transaction {tx_id}, valid {at}:\n" \
                              f"  wanted {wanted}\n  got    {got}"

    def ask_document(self, db, id, tx_id, at):
        return db.entity(id), self.model.document(id, tx_id, at)

    def ask_rows(self, db, id, tx_id, at):
        return self.rows(db), self.model_rows(self.model, tx_id, at)

    def rows(self, db):
        rows = sorted(db.q({"find": ["?e", "?v"], "where": [["?e", self.v, "?v"]]}))
        by_value, v = {"find": "?e", "in": ["?v"], "where": [["?e", self.v, "?v"]]}, self.rng.randrange(3)
        assert sorted(db.q(by_value, v)) == [id for id, value in rows if value == v], self.story()
        return rows

    def model_rows(self, model, tx_id, at):
        seen = [(id, model.document(id, tx_id, at)) for id in self.ids]
        return [(id, document[self.v]) for id, document in seen if document and self.v in document]

    def ask_version(self, db, id, tx_id, at):
        got, wanted = db.entity_tx(id), self.model.visible(id, tx_id, at)
        return got and got.tx_id, wanted[1] if wanted and wanted[2] else None

    def ask_history(self, db, id, tx_id, at):
        """All that a transaction knew; and of it what begins up to a valid time."""
        told = self.told(id, tx_id)
        assert db.history(id) == [version for version in told if version.valid_from <= at], self.story()
        assert db.history(id, future=True) == told, self.story()
        return merged(told), self.model.history(id, tx_id)

    def told(self, id, tx_id):
        return self.node.db(tx_id, valid_time=self.begin + 900 * DAY).history(id)

    def ask_bounded_history(self, db, id, tx_id, at):
        """Both ways, from and to a time, from and to a transaction; as known before the latter."""
        low, high, first, beyond = self.moment(), self.moment(), *(self.rng.randint(self.first, tx_id + 2)
                                                                   for _ in range(2))
        order = self.rng.choice(["asc", "desc"])
        wanted = [version for version in self.told(id, max(min(tx_id, beyond - 1), 0))
                  if low <= version.valid_from < high
                  and version.valid_from <= at and first <= version.tx_id < beyond]
        found = db.history(id, low, high, order=order, tx_from=first, tx_to=beyond)
        return found, wanted[::-1] if order == "desc" else wanted

    def ask_corrections(self, db, id, tx_id, at):
        """Each version that was ever believed, once at least, and none that never was."""
        entries = [(start, tx, document) for (start, tx), document in self.model.entries.get(id, {}).items()
                   if tx <= tx_id and start <= at]
        got = [(v.valid_from, v.tx_id, v.document) for v in db.history(id, corrections=True)]
        invented = [entry for entry in got if entry not in entries]
        missing = [entry for entry in entries if not any(g[0] <= entry[0] and g[1:] == entry[1:] for g in got)]
        return (invented, missing), ([], [])

    def ask_span(self, db, id, tx_id, at):
        query = {"find": ["?from", "?to"], "in": ["?e"], "where": [[("get-start-valid-time", "?e"), "?from"],
                                                                   [("get-end-valid-time", "?e"), "?to"]]}
        return db.q(query, id), [self.model.span(id, tx_id, at)]

    def ask_supposition(self, db, id, tx_id, at):
        """What would hold after some more operations, at this snapshot's time, with what came after it forgotten."""
        ops = [self.operation() for _ in range(self.rng.randrange(1, 4))]
        model, last = self.model.as_of(tx_id), self.node.latest_tx.tx_id
        supposed, commits = db.with_tx(ops), model.apply(ops, last + 1, at)
        if not commits or supposed is None:
            return supposed is not None, commits
        got = supposed.entity(id), self.rows(supposed), begun(merged(supposed.history(id)))
        known = [entry for entry in model.history(id, last + 1) if entry[0] <= at]
        return (ops, *got), (ops, model.document(id, last + 1, at), self.model_rows(model, last + 1, at), begun(known))

    def story(self):
        told = "\n".join(f"  {self.first + n}: {ops}" for n, ops in enumerate(self.said, 1))
        return f"sequence of {self.ids[0]!r}, begun {self.begin}:\n{told}"


def begun(entries):
    """When each begins, who put it, and what: its end may lie in another that this snapshot does not see."""
    return [(start, tx, document) for start, _, tx, document in entries]


def merged(entries):
    """Touching entries of one transaction and equal documents as one: the model cannot tell them apart."""
    joined = []
    for entry in map(tuple, entries):
        if joined and joined[-1][1] == entry[0] and joined[-1][2:] == entry[2:]:
            joined[-1] = (joined[-1][0], entry[1], *entry[2:])
        else:
            joined.append(entry)
    return joined


def test_random_histories_answer_as_a_naive_model_does(size, seed, say, open_store):
    """Without this, the rectangles might be right only in the cases somebody thought of."""
    sequences, questions = size(5_000, 200_000), 20
    rng, left = random.Random(seed), sequences
    while left:
        clock = Clock(day(1))
        with contextlib.closing(open_store({"again": lambda ctx, *ops: ops}, clock=clock)) as node:
            for name in range(min(left, 250)):
                sequence = Sequence(rng, node, clock, str(name))
                sequence.run()
                for _ in range(questions):
                    sequence.ask()
        left -= min(left, 250)
    say(f"0 differences in {sequences:,} sequences × {questions} questions, seed {seed} (asked: 0 in 5,000 × 20)")


# ── The log is the truth ─────────────────────────────────────────────────────────────────────────────────────

def test_an_index_rebuilt_from_the_log_answers_the_same(size, seed, say, open_store):
    """Without this, the index could hold something that nobody ever submitted,
    and rebuilding it would change the past."""
    rng, clock, count, ids, moments, vs = random.Random(seed), Clock(day(1)), size(2_000, 10_000), [], [], []
    with contextlib.closing(open_store({"again": lambda ctx, *ops: ops}, clock=clock)) as node:
        while node.db().tx_id < count:
            sequence = Sequence(rng, node, clock, str(len(ids)))
            sequence.run()
            ids, moments, vs = ids + sequence.ids, moments + sequence.moments, [*vs, sequence.v]
        points = [(rng.randint(0, node.db().tx_id), rng.choice(moments)) for _ in range(50)]

        def answers():
            all_of = [{"find": ["?e", "?v"], "where": [["?e", v, "?v"]]} for v in vs[::20]]
            everything = [{"find": ["?e", "?v"], "where": [["?e", {*vs}, "?v"]]}, *all_of]
            told = [sorted(node.db(tx_id, valid_time=at).q(q)) for tx_id, at in points for q in everything]
            return told, [node.db().history(id, corrections=True) for id in ids], node.status()["state"]
        before, operations = answers(), sum(len(tx.ops) for tx in node.tx_log())
        assert any(before[0]) and operations > count
        started = time.perf_counter()
        node.reindex()
        took = time.perf_counter() - started
        assert answers() == before
        assert node.verify() == node.db().tx_id
    say(f"after {count:,} transactions the rebuilt index answers the same at {len(points)} points and in {len(ids):,} "
        f"histories (asked: 50 points, 10,000); {took / operations * 100_000:.1f} s per 100,000 operations")


def test_each_version_tells_the_hash_of_its_content(node):
    """Without this, whether two versions are the same document could only be told by reading both."""
    node.submit_tx([put({"xt/id": "e", "n": 1, "tags": {"a", "b"}})])
    node.submit_tx([put({"xt/id": "e", "n": 2})])
    node.submit_tx([delete("e")])
    node.submit_tx([put({"tags": {"b", "a"}, "n": 1, "xt/id": "e"})])
    db = node.db()
    first, second, gone, again = db.history("e", documents=False)
    assert first.content_hash == again.content_hash == db.entity_tx("e").content_hash != second.content_hash
    assert len(first.content_hash) == 64 and int(first.content_hash, 16) and gone.content_hash is None
    assert first.document is None and db.history("e")[0].content_hash == first.content_hash
    hashes = [version.content_hash for version in db.history("e")]
    assert [version.content_hash for version in copy.deepcopy(db.history("e"))] == hashes
    supposed = db.with_tx([put({"xt/id": "e", "n": 2})])
    assert supposed.history("e")[-1].content_hash == second.content_hash
    known, late = db.history("e")[:2]
    assert known.content_hash
    node.submit_tx([evict("e")])
    assert known.content_hash == first.content_hash and late.content_hash == second.content_hash, "the log has it still"


# ── The index, and the log that it comes from ──────────────────────────────────────────────────────────────────────

def created(node):
    return node.db().q({"find": "?m", "where": [["?m", "kind", "m"]], "order-by": [[("created", "?m")]]})


def test_the_order_of_creation_comes_from_the_log_alone(open_store):
    """A note that mentioned m1 before m2 was put made m1 the older one, until an evict and a rebuilt index."""
    m1, m2 = uuid.UUID(int=1), uuid.UUID(int=2)
    with contextlib.closing(open_store()) as node:
        node.submit_tx([put({"xt/id": "note", "about": m1})])
        unborn = node.db()
        about = {"find": ["?e", "?m"], "in": ["?m"], "where": [["?e", "about", "?m"]]}
        assert unborn.q(about, m1) == [("note", m1)]
        assert unborn.pull([{"_about": ["xt/id"]}], m1) == {"_about": [{"xt/id": "note"}]}
        node.submit_tx([put({"xt/id": m2, "kind": "m", "about": m2})])
        node.submit_tx([match(uuid.UUID(int=3), None), put({"xt/id": m1, "kind": "m"})])
        joined = {"find": ["?e", "?m"], "where": [["?e", "about", "?m"], ["?m", "kind", "m"]]}
        assert sorted(map(str, node.db().q(joined))) == sorted(map(str, [("note", m1), (m2, m2)]))
        assert unborn.q(about, m1) == node.db().q(about, m1) == node.db(1).q(about, m1) == [("note", m1)]
        assert created(node) == [m2, m1] and node.verify() == 3
        node.submit_tx([evict("note")])
        assert created(node) == [m2, m1] and node.verify() == 4
        node.reindex()
        assert created(node) == [m2, m1] and node.verify() == 4


def tables_of(file, names=("ids", "rects", "unseen", "facts")):
    """The rows of the index, ids of entities too, with names for the numbers of attributes."""
    with file.reading() as reader:
        return [sorted(reader.execute(store_keeping.COMPARED[name].format("main")).fetchall(), key=repr)
                for name in names]


def test_a_rebuilt_index_is_the_same_row_for_row(seed, size, open_store):
    """Without this, two servers could number ids otherwise, and a rebuilt index would answer in another order."""
    rng, ids = random.Random(seed), [uuid.UUID(int=n + 1) for n in range(60)]
    functions = {"again": lambda ctx, *ops: ops}
    with contextlib.closing(open_store(functions)) as node:
        def operation():
            id = rng.choice(ids)
            times = rng.choice([[], [], [day(rng.randrange(9))], [day(1), day(2 + rng.randrange(9))]])
            if rng.random() < 0.05:
                return evict(id)
            if rng.random() < 0.1:
                return delete(id, *times)
            refs = {f"ref{n}": rng.choice(ids) for n in range(rng.randrange(3))}
            refs["several"] = {rng.choice(ids) for _ in range(rng.randrange(3))}
            return put({"xt/id": id, "n": rng.randrange(9)} | refs, *times)

        for n in range(size(600, 10_000)):
            ops = [operation() for _ in range(rng.randrange(1, 4))]
            node.submit_tx([call("again", *ops)] if rng.random() < 0.2 else
                           [match(rng.choice(ids), None), *ops] if rng.random() < 0.2 else ops)
        assert node.verify() == node.db().tx_id
        before, latest = tables_of(node._file), node.db()
        everything = {"find": ["?a", "?b", "?n"], "where": [["?a", "several", "?b"], ["?b", "n", "?n"]]}
        wanted = sorted((a, b, latest.entity(b)["n"]) for a in ids if latest.entity(a)
                        for b in latest.entity(a)["several"] if latest.entity(b))
        assert sorted(latest.q(everything)) == wanted != []
        node.reindex()
        assert tables_of(node._file) == before and all(len(table) > 20 for table in (before[0], before[1], before[3]))
        assert sorted(node.db().q(everything)) == wanted


@pytest.mark.parametrize("damage", [
    "update facts set v = -5 where a > 1 and e = 'b'", "delete from facts where e = 'b'",
    "update rects set vt_to = vt_to - 1 where e = 'b'", "delete from rects where e = 'b'",
    "update ids set n = n + 5 where n = 1", "insert into facts values (0, 2, 'x', 0, 'nobody', 1, null)"])
def test_an_index_that_says_what_the_log_does_not_is_found(tmp_path, damage):
    """A flipped bit in the index was believed: rows that nobody wrote, rows gone, and `verify` passed."""
    with contextlib.closing(store.open(tmp_path / "one.db")) as node:
        node.submit_tx([put({"xt/id": id, "n": n}) for n, id in enumerate(["a", "b", uuid.UUID(int=1)], 1)])
    with contextlib.closing(sqlite3.connect(tmp_path / "one.db", isolation_level=None)) as file:
        assert file.execute(damage).rowcount > 0
    with contextlib.closing(store.open(tmp_path / "one.db")) as node:
        with pytest.raises(store.CorruptError, match="reindex"):
            node.verify()
        node.reindex()
        assert node.verify() == 1


def test_readers_beside_births_miss_nothing(tmp_path, seed):
    """An id's number changes when it becomes an entity; a reader between the two would have found nothing."""
    rng, wrong, done = random.Random(seed), [], threading.Event()
    with contextlib.closing(store.open(tmp_path / "one.db")) as node:
        ids = [uuid.UUID(int=rng.getrandbits(128)) for _ in range(200)]
        old = node.submit_tx([put({"xt/id": n, "ref": id}) for n, id in enumerate(ids)]).tx_id
        query = {"find": "?e", "in": ["?m"], "where": [["?e", "ref", "?m"]]}

        def read(choose):
            while not done.is_set():
                n = choose.randrange(len(ids))
                for db in node.db(old), node.db():
                    if db.q(query, ids[n]) != [n]:
                        wrong.append((n, db))
        threads = [threading.Thread(target=read, args=[random.Random(rng.random())]) for _ in range(3)]
        [thread.start() for thread in threads]
        for id in ids:
            node.submit_tx([put({"xt/id": id})])
        done.set()
        [thread.join() for thread in threads]
        assert not wrong, f"{wrong[:3]} of {len(wrong)}, seed {seed}"
