"""Values: what comes back is equal and of equal type, or was refused before anything was written."""
import contextlib
import datetime as dt
import enum
import math
import re
import sys
import uuid
from decimal import Decimal

import hypothesis
import pytest
from hypothesis import strategies as st

import store
from conftest import id_of
from store import call, delete, evict, match, put

UTC = dt.timezone.utc


def same(one, other):
    """Equal and of equal type, all the way down."""
    if type(one) is not type(other):
        return False
    if type(one) is float:
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    if type(one) in (list, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if type(one) is dict:
        typed = lambda d: {(type(key), key): value for key, value in d.items()}
        return typed(one).keys() == typed(other).keys() and all(same(value, typed(other)[key])
                                                                for key, value in typed(one).items())
    if type(one) in (set, frozenset):
        return {(type(value), value) for value in one} == {(type(value), value) for value in other}
    return one == other


class Colour(enum.Enum):
    RED, GREEN, CRIMSON = 1, 2, 1


class Size(enum.IntEnum):
    SMALL, LARGE = 1, 2


class Word(enum.StrEnum):
    YES = "yes"


PLAIN = [None, True, False, 0, 1, -1, 2 ** 31, 2 ** 63 - 1, 2 ** 63, -2 ** 63, -2 ** 63 - 1, 2 ** 64, 2 ** 2000,
         -2 ** 2000, 0.0, -0.0, 1.0, 0.1, 5e-324,
         1.7e308, math.inf, -math.inf, "", "1", "a", "\0", "a\0b", "?x", "_", "$", "é", "é", "🐍", "x" * 64, "x" * 65,
         "é" * 33, "\U0010ffff", b"", b"\0",
         b"\xff" * 64, b"\xff" * 65, uuid.UUID(int=0), uuid.UUID(int=2 ** 128 - 1), dt.datetime(1, 1, 2, tzinfo=UTC),
         dt.datetime(1969, 12, 31, 23, 59, 59, 999999, UTC),
         dt.datetime(9999, 12, 30, 23, 59, 59, 999999, UTC), dt.date(1, 1, 1), dt.date(9999, 12, 31), (), (1, "a"),
         (1,), ((1,),), [], [1], [[1]], [1, True, 1.0],
         {}, {"a": 1}, {1: "a", "1": "b"}, {(1, 2): 3}, {None: 0}, set(), {1, "a"}, frozenset({1}), frozenset(), [None],
         ([],), {"a": {"b": {"c": [1, (2, {3})]}}},
         Decimal("0"), Decimal("-0.00"), Decimal("10.50"), Decimal("10.5"), Decimal(1), Decimal("1E+3"),
         Decimal("1E+999999"), Decimal("-1E-999999"), Decimal("0." + "1" * 100),
         dt.time(0), dt.time(23, 59, 59, 999999), dt.timedelta(0), dt.timedelta.max, dt.timedelta.min,
         dt.timedelta(microseconds=-1),
         Colour.RED, Colour.GREEN, Size.SMALL, Word.YES, store.Member("nobody.here:Colour", "RED"),
         (Colour.RED, Decimal("1.0")), {"k": [Size.LARGE]}]

REFUSED = [math.nan, [math.nan], {"a": math.nan}, "\ud800", "a\udfff", ["\ud800"], {"\ud800": 1},
           dt.datetime(2030, 1, 1), [dt.datetime(2030, 1, 1)], 
           dt.datetime(9999, 12, 31, 23, 30, tzinfo=dt.timezone(-dt.timedelta(hours=1))),
           dt.datetime(1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=5))),
           dt.time(1, tzinfo=UTC), Decimal("NaN"), Decimal("sNaN"), Decimal("-Infinity"), re.A | re.I,
           object(), print, 1j, range(3), bytearray(b"a"), memoryview(b"a"), enum.Enum("E", "a").a,
           enum.IntEnum("I", "a").a, type("S", (str,), {})("a"), Exception(), ...]


@pytest.mark.parametrize("value", PLAIN, ids=id_of)
def test_each_kind_of_value_comes_back_equal_and_of_equal_type(node, value):
    """Without this, True might come back as 1, and a tuple as a list."""
    document = {"xt/id": "a", "v": value}
    node.submit_tx([put(document)])
    for db in node.db(), node.db().with_tx([put({"xt/id": "b"})]):
        assert same(db.entity("a"), document)
        assert same(db.pull(["*"], "a"), document)
    node.reindex()
    assert same(node.db().entity("a"), document)
    assert same(next(node.tx_log()).ops[0][1], document)


@pytest.mark.parametrize("value", [value for value in PLAIN if type(value) not in (list, set, frozenset)],
                         ids=id_of)
def test_each_kind_of_value_is_found_by_itself_alone(node, value):
    """Without this, equality in a query would not be the store's equality."""
    kinds = [value for value in PLAIN if type(value) not in (list, set, frozenset)]
    node.submit_tx([put({"xt/id": str(n), "v": other}) for n, other in enumerate(kinds)])
    db, where = node.db(), [["?e", "v", "?v"]]
    wanted = sorted(str(n) for n, other in enumerate(kinds) if type(other) is type(value) and (other == value))
    assert sorted(db.q({"find": "?e", "in": ["?v"], "where": where}, value)) == wanted
    assert sorted(db.q({"find": "?e", "in": [["?v", ...]], "where": where}, [value])) == wanted
    found = db.q({"find": "?v", "in": ["?e"], "where": where}, wanted[0])
    assert len(found) == 1 and type(found[0]) is type(value) and found[0] == value


@pytest.mark.parametrize("value", REFUSED, ids=lambda value: type(value).__name__)
def test_what_cannot_come_back_is_refused(node, value):
    """Without this, a document would be written that nobody can read."""
    for document in {"xt/id": "a", "v": value}, {"xt/id": "a", "v": [1, (value,)]}, {"xt/id": "a", "v": {"k": [value]}}:
        with pytest.raises(store.OperationError):
            node.submit_tx([put({"xt/id": "ok"}), put(document)])
    assert node.latest_tx is None and node.db().entity("ok") is None


def test_nesting_cycles_and_size_have_limits(node):
    """Without this, one document could end the process."""
    deep, cycle = [], []
    for _ in range(10_000):
        deep = [deep]
    cycle.append(cycle)
    for value in deep, cycle, {"a": deep}, "x" * (store.DOCUMENT_BYTES_MAX + 1):
        with pytest.raises(store.OperationError):
            node.submit_tx([put({"xt/id": "a", "v": value})])
    assert node.latest_tx is None
    node.submit_tx([put({"xt/id": "a", "k" * 1_000_000: "x" * 1_000_000})])
    assert len(node.db().entity("a")["k" * 1_000_000]) == 1_000_000


def test_equal_decimals_are_one_value_in_its_shortest_form(node):
    """Without this, 10.5 and 10.50 would be two prices, and a match would fail on a zero."""
    node.submit_tx([put({"xt/id": "a", "price": Decimal("10.50")}), put({"xt/id": "b", "price": Decimal("1E+3")})])
    assert [str(node.db().entity(id)["price"]) for id in "ab"] == ["10.5", "1000"]
    assert node.submit_tx([match("a", {"xt/id": "a", "price": Decimal("10.5000")})]).committed
    assert node.db().q({"find": "?e", "in": ["?p"], "where": [["?e", "price", "?p"]]}, Decimal("10.500")) == ["a"]


def test_a_member_is_read_by_name_also_where_its_class_is_not(node, monkeypatch):
    """Without this, a shell could not read what an application wrote,
    or reading would import whatever a store names."""
    node.submit_tx([put({"xt/id": "a", "v": Colour.CRIMSON, "s": [Size.SMALL, Word.YES]})])
    assert node.db().entity("a")["v"] is Colour.RED, "a second name of a member is the member"
    red = Colour.RED
    monkeypatch.delattr(sys.modules[__name__], "Colour")
    data = store.pack(node.db().entity("a")["s"])
    stranger = store.unpack(store.pack(store.Member(f"{__name__}:Colour", "RED")))
    assert stranger == store.Member(f"{__name__}:Colour", "RED") and store.pack(store.unpack(data)) == data
    with pytest.raises(store.ValueTypeError, match="found again"):
        store.pack(red)


def test_signed_zeros_are_one_id(node):
    """In one transaction they broke an index, and stopped the node until it was opened again."""
    node.submit_tx([put({"xt/id": 0.0, "n": 1}), put({"xt/id": -0.0, "n": 2})])
    assert node.submit_tx([match(-0.0, {"xt/id": -0.0, "n": 2}), put({"xt/id": "x"})]).committed
    assert node.db().entity(0.0)["n"] == node.db().entity(-0.0)["n"] == 2
    assert node.db().with_tx([put({"xt/id": -0.0, "n": 3})]).entity(0.0)["n"] == 3
    node.submit_tx([evict(0.0)])
    assert node.db().history(-0.0) == [] and node.verify() == 3


@pytest.mark.parametrize("ops", [lambda end: [put({"xt/id": "a"}, end)], lambda end: [put({"xt/id": "a"}, None, end)],
                                 lambda end: [delete("a", end)],
                                 lambda end: [match("a", None, end)], lambda end: [call("f", end)]])
@pytest.mark.parametrize("end", [value for value in REFUSED if type(value) is dt.datetime and value.tzinfo], ids=str)
def test_moments_beyond_the_years_of_utc_are_refused(node, end, ops):
    """One such moment could not be read, listened to or reindexed, and after a crash the store did not open."""
    with pytest.raises(store.OperationError, match="years 1 to 9999"):
        node.submit_tx(ops(end))
    with pytest.raises(store.StoreError, match="years 1 to 9999"):
        node.db(valid_time=end)
    assert node.latest_tx is None


def test_times_come_back_in_utc(node):
    """Without this, a moment would be two moments on two servers."""
    there = dt.datetime(2030, 7, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    node.submit_tx([put({"xt/id": "a", "at": there})])
    at = node.db().entity("a")["at"]
    assert at == there and at.tzinfo is UTC
    assert node.db().q({"find": "?e", "in": ["?at"], "where": [["?e", "at", "?at"]]}, at) == ["a"]


IDS = [uuid.UUID(int=1), "a", "x" * 100, 1, 2 ** 70, True, 1.5, b"a", (1, 2), {"k": 1, "l": 2},
       dt.datetime(2030, 1, 1, tzinfo=UTC), dt.date(2030, 1, 1), "1", 1.0]


def test_every_kind_of_id_names_its_own_entity(node):
    """Without this, 1 and True would be one person."""
    node.submit_tx([put({"xt/id": id, "n": n}) for n, id in enumerate(IDS)])
    db = node.db()
    for n, id in enumerate(IDS):
        assert db.entity(id)["n"] == n and same(db.entity(id)["xt/id"], id)
        assert db.q({"find": "?n", "in": ["?e"], "where": [["?e", "n", "?n"]]}, id) == [n]
        assert db.pull(["n"], id) == {"n": n} and db.history(id)[0].document["n"] == n
    assert db.entity({"l": 2, "k": 1})["n"] == 9, "equal dicts are one id whatever the order of their keys"
    assert len(db.q({"find": "?e", "where": [["?e", "xt/id"]]})) == len(IDS)


def test_cells_sort_as_their_values_do(open_store):
    """Without this, an index would give a page of the wrong messages."""
    ints = sorted({sign * (2 ** n + d) for n in range(0, 1100, 7) for d in (-1, 0, 1) for sign in (1, -1)})
    floats = sorted([-math.inf, -1e308, -1.5, -1e-300, -5e-324, 0.0, 5e-324, 0.1, 1.0, 1.5, 1e300, math.inf])
    texts = sorted(["", "\0", "a", "a\0", "aa", "b", "é", "🐍", "￿"])
    times = sorted(dt.datetime(year, 1, 2, tzinfo=UTC) for year in (1, 1900, 1969, 1970, 2030, 9999))
    days = [dt.date(1, 1, 1), dt.date(1970, 1, 1), dt.date(9999, 12, 31)]
    decimals = sorted({Decimal(sign + text) for sign in ("", "-")
                       for text in ("0", "1", "1.2", "1.23", "12", "120", "9", "10", "0.1", "0.09", "1E-400", "1E+400",
                                    "1.000001", "99.9")})
    clock = [dt.time(0), dt.time(0, 0, 0, 1), dt.time(9), dt.time(12, 30), dt.time(23, 59, 59, 999999)]
    spans = [dt.timedelta.min, dt.timedelta(-1), dt.timedelta(microseconds=-1), dt.timedelta(0),
             dt.timedelta(microseconds=1), dt.timedelta(1), dt.timedelta.max]
    truths, bytes_ = [False, True], [b"", b"\0", b"a", b"ab", b"b"]
    for values in ints, floats, texts, times, days, decimals, clock, spans, truths, bytes_:
        with contextlib.closing(open_store()) as one:
            one.submit_tx([put({"xt/id": n, "v": value}) for n, value in enumerate(values[::-1])])
            db, where = one.db(), [["?e", "v", "?v"]]
            assert db.q({"find": "?v", "where": where, "order-by": [["?v"]]}) == values
            assert db.q({"find": "?v", "where": where, "order-by": [["?v", "desc"]], "limit": 3}) == values[:-4:-1]
            for bound in values[::max(1, len(values) // 9)]:
                below = db.q({"find": "?v", "in": ["?b"], "where": [*where, [("<", "?v", "?b")]]}, bound)
                assert sorted(below) == [value for value in values if value < bound]
                above = db.q({"find": "?v", "in": ["?b"], "where": [*where, [(">=", "?v", "?b")]]}, bound)
                assert sorted(above) == [value for value in values if value >= bound]


UNASKABLE = [math.nan, "\ud800", dt.datetime(2000, 1, 1), (math.nan,), {"k": math.nan}, {"k": "\ud800"}, None, [1], {1},
             object(), print]
QUESTIONS = {
    "entity": lambda db, v: db.entity(v), "history": lambda db, v: db.history(v),
    "entity_tx": lambda db, v: db.entity_tx(v), "pull": lambda db, v: db.pull(["*"], v),
    "an argument as entity": lambda db, v: db.q({"find": "?x", "in": ["?e"], "where": [["?e", "v", "?x"]]}, v),
    "an argument among others": lambda db, v: db.q({"find": "?x", "in": [["?e", ...]], "where": [["?e", "v", "?x"]]},
                                                   [v]),
    "an argument as value": lambda db, v: db.q({"find": "?e", "in": ["?x"], "where": [["?e", "v", "?x"]]}, v),
    "a literal": lambda db, v: db.q({"find": "?x", "where": [[v, "v", "?x"]]}),
    "a bound": lambda db, v: db.q({"find": "?x", "in": ["?b"], "where": [["?e", "v", "?x"], [("<", "?x", "?b")]]}, v),
}


@pytest.mark.parametrize("kind", QUESTIONS)
@pytest.mark.parametrize("value", UNASKABLE, ids=lambda value: repr(value)[:20])
def test_what_no_document_can_hold_is_never_found_and_never_breaks_a_question(node, value, kind):
    """A naive time once raised TypeError deep inside, and half a surrogate UnicodeEncodeError."""
    node.submit_tx([put({"xt/id": "a", "v": 1})])
    try:
        found = QUESTIONS[kind](node.db(), value)
    except store.StoreError:
        return
    assert found in (None, [])


# ── Hostile documents and queries ────────────────────────────────────────────────────────────────────────────

SCALARS = st.one_of(st.sampled_from([value for value in [*PLAIN, *REFUSED]
                                     if type(value) not in (list, set, dict, memoryview)]), st.integers(), st.floats(),
                    st.text(max_size=80),
                    st.text(st.characters(), max_size=9), st.binary(max_size=70), st.uuids(), st.datetimes(),
                    st.datetimes(timezones=st.just(UTC)), st.dates())
HASHABLE = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=9),
                     st.uuids(), st.tuples(st.integers(), st.text(max_size=3)))
VALUES = st.recursive(SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=4), st.tuples(inner, inner),
                                                       st.dictionaries(HASHABLE, inner, max_size=4),
                                                       st.sets(HASHABLE, max_size=4),
                                                       st.frozensets(HASHABLE, max_size=3)), max_leaves=8)
DOCUMENTS = st.dictionaries(st.one_of(st.sampled_from(["v", "w", "?x", "", "_", "xt/id", "\0"]), st.text(max_size=5)),
                            VALUES, max_size=5)
VARIABLES, NAMES = st.sampled_from(["?e", "?x", "?y"]), st.sampled_from(["v", "w", "xt/id"])
ODD = st.one_of(st.sampled_from(["_", "?", "$", "%", "...", "not", "or", "q", "count", "pull", "get-attr", "+", "<",
                                 "==", ..., frozenset({1, "a"})]), SCALARS)
TERMS = st.one_of(VARIABLES, VARIABLES, NAMES, ODD)
CALLS = st.one_of(st.tuples(st.sampled_from(["<", "==", "!=", "created-before"]), VARIABLES, TERMS),
                  st.lists(TERMS, max_size=4).map(tuple))
TRIPLES = st.one_of(st.tuples(VARIABLES, NAMES).map(list), st.tuples(TERMS, NAMES, TERMS).map(list),
                    st.tuples(VARIABLES, NAMES, VARIABLES).map(list))
CLAUSES = st.recursive(st.one_of(TRIPLES, TRIPLES, TRIPLES, CALLS, CALLS.map(lambda call: [call]),
                                 st.lists(TERMS, max_size=4),
                                 st.tuples(CALLS, st.one_of(TERMS, st.just(["?x", ...]),
                                                            st.just([["?x", "?y"]]))).map(list)),
                       lambda inner: st.one_of(st.tuples(st.sampled_from(["not", "or", "and"]), inner, inner),
                                               st.tuples(st.sampled_from(["not-join", "or-join"]), st.just(["?e"]),
                                                         inner, inner)), max_leaves=5)
WHERES = st.lists(CLAUSES, max_size=3).map(lambda clauses: [["?e", "v", "?x"], *clauses])
BUILT_IN = st.sampled_from(["<", ">=", "=", "==", "!=", "str", "even?", "+", "/", "count", "first", "get-attr", "nth",
                            "not",
                            "subs", "compare", "max", "re-find", "created-before", "get-start-valid-time"])
TAME_CALLS = st.tuples(BUILT_IN, VARIABLES) | st.tuples(BUILT_IN, VARIABLES, VARIABLES) | \
    st.tuples(BUILT_IN, VARIABLES, SCALARS)
TAME_CLAUSES = st.one_of(TRIPLES, TAME_CALLS.map(lambda call: [call]), TAME_CALLS.map(lambda call: [call, "?z"]),
                         TRIPLES.map(lambda triple: ("not", triple)))
TAME_FIND = st.one_of(VARIABLES, st.lists(st.one_of(VARIABLES, st.tuples(
    st.sampled_from(["count", "sum", "min", "max", "avg", "median", "variance", "distinct"]), VARIABLES)), min_size=1,
                                          max_size=2))
TAME = st.fixed_dictionaries({"find": TAME_FIND, "where": st.lists(TAME_CLAUSES, max_size=2).map(
    lambda clauses: [["?e", "v", "?x"], ["?e", "w", "?y"], *clauses])}, optional={
        "limit": st.integers(0, 9), "offset": st.integers(0, 9), "order-by": st.just([["?x", "desc"]])})
QUERIES = st.one_of(TAME, TAME, TAME, ODD,
                    st.fixed_dictionaries({"find": st.one_of(VARIABLES, TERMS,
                                                             st.lists(st.one_of(VARIABLES, CALLS), max_size=3)),
                                           "where": WHERES}, optional={
"in": st.lists(st.one_of(VARIABLES, st.lists(TERMS, max_size=2)), max_size=2),
"limit": st.one_of(st.integers(0, 9), ODD), "offset": st.one_of(st.integers(0, 9), ODD),
"order-by": st.lists(st.lists(TERMS, max_size=2), max_size=2),
"rules": st.lists(st.lists(st.one_of(CALLS, CLAUSES), max_size=3), max_size=2),
"keys": st.lists(TERMS, max_size=2), "timeout": st.sampled_from([100, -1, "a", None])}))


def test_no_document_breaks_the_store(size, say, open_store):
    """Without this, someone's message could stop the server, or be written and never be read."""
    counts, count = {"stored": 0, "refused": 0}, size(3_000, 500_000)
    with contextlib.closing(open_store()) as node:
        @hypothesis.settings(max_examples=count, suppress_health_check=list(hypothesis.HealthCheck))
        @hypothesis.given(DOCUMENTS, st.one_of(st.uuids(), VALUES))
        def attempt(document, id):
            hypothesis.assume(not store._is_ref(id))      # what names another entity
            document, before = {**document, "xt/id": id}, node.db().tx_id
            try:
                node.submit_tx([put(document)])
            except store.StoreError:
                counts["refused"] += 1
                assert node.db().tx_id == before, "a refusal writes nothing"
                return
            counts["stored"] += 1
            db = node.db()
            assert db.tx_id == before + 1
            assert same(db.entity(id), document)
            for a, value in document.items():
                if type(value) not in (list, set, frozenset):
                    assert id in db.q({"find": "?e", "in": ["?v", "?e"], "where": [["?e", a, "?v"]]}, value,
                                      id) if a and a[0] not in "?_" else True     # _a goes backwards
        attempt()
        node.reindex()
        assert node.verify() == counts["stored"] > 0 and counts["refused"] > 0
    say(f"{counts['stored']:,} stored and read back equal, {counts['refused']:,} refused, 0 other exceptions (asked: "
        "of documents and queries 0 in 1,000,000)")


def test_no_query_breaks_the_store(size, say, open_store):
    """Without this, a query that a program composed wrongly would fail deep inside, or hang."""
    counts, count = {"answered": 0, "refused": 0}, size(3_000, 500_000)
    with contextlib.closing(open_store()) as node:
        node.submit_tx([put({"xt/id": n, "v": value, "w": [value, n]}) for n, value in enumerate(PLAIN)])
        db = node.db()

        @hypothesis.settings(max_examples=count, suppress_health_check=list(hypothesis.HealthCheck))
        @hypothesis.given(QUERIES, st.lists(VALUES, max_size=2))
        def attempt(query, args):
            if type(query) is dict and "in" not in query:
                args = []
            try:
                found = db.q(query, *args)
            except store.StoreError:
                counts["refused"] += 1
            else:
                assert type(found) is list
                counts["answered"] += 1
        attempt()
        empty = sum(not value for value in PLAIN if type(value) in (list, set, frozenset))
        assert len(db.q({"find": "?e", "where": [["?e", "v"]]})) == len(PLAIN) - empty
        assert counts["answered"] > count / 50 and counts["refused"]
    say(f"{counts['answered']:,} answered, {counts['refused']:,} refused, 0 other exceptions (asked: of documents and "
        "queries 0 in 1,000,000)")
