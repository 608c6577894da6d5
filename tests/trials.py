"""A trial: some documents, a query, a way to look at them. It is asked of the store and of the naive evaluator.

A trial that differs is made smaller, step by step, for as long as it still differs: what is printed is a few lines.
"""
import collections
import contextlib
import datetime as dt
import functools
import pprint
import re
import time
from typing import NamedTuple

import naive
import store
from naive import cell
from store import call, delete, put

PAST = dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc)
LATER = dt.datetime(2021, 1, 1, tzinfo=dt.timezone.utc)
FAR = dt.datetime(2100, 1, 1, tzinfo=dt.timezone.utc)
SHRINK_S_MAX = 20


class Trial(NamedTuple):
    documents: list
    query: dict
    args: list
    way: str                    # to look at them: of SNAPSHOTS
    ask: str                    # how to ask: of WAYS
    decoys: list                # other documents under the same ids: what the snapshot must not see

    def __str__(self):
        parts = {"documents": self.documents, "query": self.query, "args": self.args, "decoys": self.decoys}
        told = [f"{name}: {pprint.pformat(part, width=110)}" for name, part in parts.items()]
        return "\n".join([f"{self.ask}, {self.way}", *told])


# ── Snapshots that all see the same documents ──────────────────────────────────────────────────────────────────

PAST_DB = "the snapshot of a transaction before, which saw the decoys"       # among the arguments


def past_of(query, decoys):
    """What the other snapshot of a query sees; None if it has none."""
    return decoys if "$past" in query.get("in", ()) else None


def puts(documents, *times):
    return [put(document, *times) for document in documents]


def now(node, documents, decoys):
    node.submit_tx(puts(decoys))
    node.submit_tx([delete(document["xt/id"]) for document in decoys] + puts(documents))
    return node.db()


def untouched(node, documents, decoys):
    node.submit_tx(puts(documents))
    return node.db()


def later_forgotten(node, documents, decoys):
    told = node.submit_tx(puts(documents))
    forget(node, documents, decoys)
    return node.db(told.tx_id)


def forget(node, documents, decoys):
    node.submit_tx(puts(decoys))
    node.submit_tx([delete(document["xt/id"]) for document in documents[::2]])


def valid_before(node, documents, decoys):
    node.submit_tx(puts(documents, PAST))
    forget(node, documents, decoys)
    return node.db(valid_time=LATER)


def valid_when_told(node, documents, decoys):
    """Nothing was ever said of another time than its own."""
    told = node.submit_tx(puts(documents))
    forget(node, documents, decoys)
    return node.db(valid_time=told.tx_time)


def valid_when_half_was_told(node, documents, decoys):
    """Some attributes are of documents that were said of a time before, others not."""
    node.submit_tx(puts(documents[::2], PAST, FAR))
    told = node.submit_tx(puts(documents[1::2]))
    forget(node, documents, decoys)
    return node.db(valid_time=told.tx_time)


def known_and_valid_before(node, documents, decoys):
    told = node.submit_tx(puts(documents, PAST))
    node.submit_tx(puts(decoys, PAST))
    forget(node, documents, decoys)
    return node.db(told.tx_id, valid_time=LATER)


def bounded(node, documents, decoys):
    """Each document holds for a span of its own, with other contents before and after."""
    node.submit_tx(puts(decoys, PAST))
    node.submit_tx([delete(document["xt/id"], PAST + dt.timedelta(1)) for document in decoys])
    node.submit_tx(puts(documents, LATER, FAR))
    return node.db()


def supposed(node, documents, decoys):
    node.submit_tx(puts(decoys))
    return node.db().with_tx([delete(document["xt/id"]) for document in decoys] + puts(documents))


def supposed_after_reads(node, documents, decoys):
    node.submit_tx(puts(decoys) + puts(documents[::2]))
    db = node.db()
    for document in [*decoys, *documents]:
        db.entity(document["xt/id"]), db.pull(["*"], document["xt/id"])
    return db.with_tx([delete(document["xt/id"]) for document in decoys] + puts(documents))


def supposed_twice(node, documents, decoys):
    db = node.db().with_tx(puts(decoys) + puts(documents[::2]))
    return db.with_tx([delete(document["xt/id"]) for document in decoys] + puts(documents))


def supposed_before(node, documents, decoys):
    node.submit_tx(puts(documents[1::2], PAST))
    half = node.submit_tx([put({"xt/id": "between"})])
    node.submit_tx(puts(decoys))
    return node.db(half.tx_id, valid_time=LATER).with_tx([*puts(documents[::2]), delete("between")])


def in_a_transaction(node, documents, decoys):
    """What a call sees of the transaction in which it stands."""
    node.submit_tx(puts(decoys))
    return [delete(document["xt/id"]) for document in decoys] + puts(documents)


def in_a_transaction_alone(node, documents, decoys):
    """What a call sees that is the first operation of its transaction."""
    now(node, documents, decoys)
    return []


SNAPSHOTS = {way.__name__: way for way in (
    now, untouched, later_forgotten, valid_before, valid_when_told, valid_when_half_was_told, known_and_valid_before,
    bounded, supposed, supposed_after_reads, supposed_twice, supposed_before, in_a_transaction, in_a_transaction_alone)}


def look(opened, way, documents, decoys, act):
    """`act(db)` of a snapshot that sees the documents, on a fresh node; what it gives."""
    given = []

    def called(ctx):
        try:
            given.append(act(ctx.db))
        except BaseException as error:
            given.append(error)
    with contextlib.closing(opened({"act": called})) as node:
        node.submit_tx(puts(decoys))
        node.submit_tx([delete(document["xt/id"]) for document in decoys])
        db = SNAPSHOTS[way](node, documents, decoys)
        if type(db) is not list:
            return act(db)
        assert node.submit_tx([*db, call("act")]).committed
    if isinstance(given[0], BaseException):
        raise given[0]
    return given[0]


def ask_many(draw, rng, opened, wanted, enough=None):
    """`wanted` questions, of drawers that `draw` makes; how many were drawn and asked, and found something.

    A seed may draw poor documents or snapshots first: it goes on until `enough(counts)` says that they tell something.
    """
    counts, enough = {"asked": 0, "found": 0, "drawn": 0}, enough or (lambda counts: counts["found"] > wanted / 10)
    while counts["asked"] < wanted or not enough(counts) and counts["asked"] < 10 * wanted + 1_000:
        ask_some(draw(rng), rng, opened, counts)
    assert enough(counts), counts
    return counts


def ask_some(drawer, rng, opened, counts):
    """Thirty questions that `drawer` draws, about documents that it draws. Fails with the first that differs."""
    documents, decoys, way = drawer.documents(), drawer.documents(), rng.choice(list(SNAPSHOTS))

    def ask(db):
        for _ in range(10):
            rules = drawer.rules()
            for _ in range(3):
                query, args = drawer.query(rules)
                counts["drawn"] += 1
                evaluator = naive.Naive(documents, rules, past_of(query, decoys))
                if evaluator.are_rules_safe() and evaluator.is_safe(query):
                    trial = Trial(documents, query, args, way, way_to_ask(rng, query), decoys)
                    if told := complaint(db, trial, evaluator):
                        return told, trial
                    counts["asked"] += 1
                    counts["found"] += evaluator.has_found
    if differing := look(opened, way, documents, decoys, ask):
        raise AssertionError(told_small(opened, differing[1], differing[0]))


# ── Asking ─────────────────────────────────────────────────────────────────────────────────────────────────────

def complaint(db, trial, evaluator=None):
    """None, or how the store's answer differs from the naive one."""
    evaluator = evaluator or evaluator_of(trial)
    args = [db._node.db(1) if type(arg) is str and arg == PAST_DB else arg for arg in trial.args]
    try:
        wanted = evaluator.rows(trial.query, trial.args)
        ordered(wanted, trial.query)
        if has_mixed_order(wanted):
            return None
    except naive.Refused:
        wanted = None
    except naive.Undecided:
        return None
    try:
        got = WAYS[trial.ask](db, trial.query, args)
    except store.StoreError as error:
        if wanted is None or "UUIDs have no order" in str(error) or isinstance(error, store.QueryLimitError):
            return None
        if "needs a value for _" in str(error):         # a rule has one set of places to be bound; a blank is none
            return None
        if "bound before" in str(error) and not all(map(evaluator.has_one_need, evaluator.rules)):
            return None
        if not wanted and "a lookup ref is for an attribute of which each" in str(error):  # looked up, needed or not
            return None
        return f"{trial.ask} was refused: {type(error).__name__}: {error}"
    except Exception as error:
        return f"{trial.ask} raised {type(error).__name__}: {error}"
    if wanted is None:                                  # a page may end before two values must be compared
        return f"{trial.ask} answered what has no answer: {got}" if got else None
    first = {"limit": min(1, trial.query.get("limit", 1))} if trial.ask == "one" else {}
    told = difference(got, wanted, trial.query | first, trial.ask == "lazy_q")
    return told and f"{trial.ask}: {told}"


def evaluator_of(trial):
    return naive.Naive(trial.documents, trial.query.get("rules", ()), past_of(trial.query, trial.decoys))


def again(db, query, args):
    """The second answer: what the first has left in memory must not change it."""
    db.q(query, *args)
    return db.q(query, *args)


def lazily(db, query, args):
    with db.lazy_q(query, *args) as rows:
        return list(rows)


def by_name(db, query, args):
    """Each answer as a dict with names of its own."""
    if type(query["find"]) is not list:
        return db.q(query, *args)
    names = [f"column{n}" for n in range(len(query["find"]))]
    return [tuple(map(row.__getitem__, names)) for row in db.q(query | {"keys": names}, *args)]


def with_rules_given(db, query, args):
    """The rules as an argument."""
    rest = {key: value for key, value in query.items() if key != "rules"}
    return db.q(rest | {"in": ["%", *query.get("in", [])]}, query.get("rules", []), *args)


def the_first(db, query, args):
    """The first answer alone, as a list of one."""
    found = db.q(query | {"one": True}, *args)
    if found is None and type(query["find"]) is not list:       # or a found None
        return lazily(db, query | {"one": True}, args)
    return [] if found is None else [found]


def as_subquery(db, query, args):
    """The query inside another, which has its rules and passes its arguments on."""
    found, given = [f"?column{n}" for n in range(len(query["find"]))], [f"?given{n}" for n in range(len(args))]
    inner = {key: value for key, value in query.items() if key != "rules"}
    outer = {"find": found, "in": given, "where": [[("q", inner, *given), [found]]], "rules": query.get("rules", [])}
    return db.q(outer, *args)


WAYS = {"q": lambda db, query, args: db.q(query, *args), "q again": again, "lazy_q": lazily, "a subquery": as_subquery,
        "by name": by_name, "rules given": with_rules_given, "one": the_first}


def way_to_ask(rng, query):
    way = rng.choice(["q", "q", "q", "q again", "q again", "lazy_q", "lazy_q", "a subquery", "a subquery", "by name",
                      "rules given", "one"])
    return "q" if way == "a subquery" and not is_relation(query) else way


def is_relation(query):
    """True if the answer is a set of rows of values: a subquery gives no other."""
    find = query["find"]
    return type(find) is list and not is_page(query) and all(map(naive.is_var, find)) and len(find) == len(set(find))


def is_page(query):
    return any(key in query for key in ("order-by", "limit", "offset"))


def difference(got, wanted, query, is_bag):
    """None, or what is missing and what is invented."""
    find = query["find"] if type(query["find"]) is list else [query["find"]]
    shapes = [number if naive.has_aggregate(element) and element[0] in ROUNDED else lambda value: value
              for element in find]
    shown = lambda row: tuple(shape(normal(value)) for shape, value in zip(shapes, row))
    rows = [row if type(query["find"]) is list else (row,) for row in got]
    wanted = [(key, shown(row)) for key, row in ordered(wanted, query)]
    if is_page(query):
        return pages_differ(rows, list(map(shown, rows)), wanted, query)
    if is_bag:
        return streams_differ(list(map(shown, rows)), [row for _, row in wanted])
    return sets_differ(list(map(shown, rows)), {row for _, row in wanted})


def has_mixed_order(rows):
    """True if a later column of the order has values without an order, which need not be compared."""
    try:
        [naive.ranked(column) for column in zip(*(key for key, _ in rows))]
    except naive.Refused:
        return True
    return False


def pages_differ(rows, got, wanted, query):
    """As many rows as the page has, in its order; those of one rank may be any of that rank."""
    page = wanted[query.get("offset", 0):][:query.get("limit", len(wanted))]
    if len(got) != len(page):
        return f"{len(got)} rows, wanted {len(page)} of {len(wanted)}: {got}"
    keys = [[row[place] for place in places(query)] for row in rows]
    if not all(map(equal_keys, keys, [key for key, _ in page])):
        return f"another order: {rows}"
    ends = [page[0][0], page[-1][0]] if page else []
    inside = [row for key, row in page if not any(equal_keys(key, end) for end in ends)]
    surplus = collections.Counter(got) - collections.Counter(row for _, row in wanted)
    lost = collections.Counter(inside) - collections.Counter(got)
    return f"rows of no answer {surplus}, lost {lost}" if surplus or lost else None


def places(query):
    find = query["find"] if type(query["find"]) is list else [query["find"]]
    return [find.index(naive.ordering(part)[0]) for part in query.get("order-by", [])]


def equal_keys(got, wanted):
    return all(map(naive.is_same_number, got, wanted))


def ordered(rows, query):
    """[(key, row)] in the order of the query; equal ones anyhow. Raises: naive.Refused, where values have no order."""
    signs = [-1 if naive.ordering(part)[1] == "desc" else 1 for part in query.get("order-by", [])]

    def compare(one, other):
        orders = (sign * naive.order(*pair) for sign, *pair in zip(signs, one[0], other[0]))
        return next((order for order in orders if order), 0)
    return sorted(rows, key=functools.cmp_to_key(compare))


def streams_differ(got, wanted):
    """A stream may give a row as often as it is found, and must give it once."""
    got, wanted = collections.Counter(got), collections.Counter(wanted)
    missing = wanted.keys() - got.keys()
    return f"missing {missing}, too many {got - wanted}" if missing or got - wanted else None


def sets_differ(got, wanted):
    if len(got) != len(set(got)):
        return f"a row comes twice: {got}"
    return f"missing {wanted - set(got)}, invented {set(got) - wanted}" if set(got) != wanted else None


ROUNDED = "sum", "min", "max", "avg", "median", "variance"         # which of 1 and 1.0 is smaller, nobody knows


def number(value):
    """A cell in which a whole float is an int, also inside a list."""
    if value[0] == "list":
        return "list", tuple(map(number, value[1]))
    return ("int", int(value[1])) if value[0] == "float" and value[1].is_integer() else value


def normal(value):
    """The cell of a found value, as data that has one order: what a pull lists for a set comes in any."""
    kind = type(value).__name__
    if kind == "float":
        return kind, float(f"{value:.12g}")
    if kind == "dict":
        return kind, tuple(sorted(((cell(key), normal(one)) for key, one in value.items()), key=repr))
    if kind in ("set", "frozenset"):           # of numbers that Python calls equal, a set keeps any one
        numbers = {int(one) if one == one // 1 else one for one in value if type(one) in (int, float)}
        rest = [normal(one) for one in value if type(one) not in (int, float)]
        return kind, tuple(sorted([*(("number", one) for one in numbers), *rest], key=repr))
    if kind == "list":
        return kind, tuple(sorted(map(normal, value), key=repr))
    return (kind, tuple(map(normal, value))) if kind == "tuple" else (kind, value)


# ── Making a trial smaller ─────────────────────────────────────────────────────────────────────────────────────

def told_small(opened, trial, told):
    """The failure's text: the difference, and the smallest trial found that still differs on a fresh node, as data."""
    fails = lambda smaller: differs(opened, smaller, kind(told))
    if not (now := fails(trial)):
        return f"{told}\n(only on a node with this history; repeat with the seed)\n{trial}"
    end, is_smaller = time.monotonic() + SHRINK_S_MAX, True
    while is_smaller and time.monotonic() < end:
        is_smaller = False
        for smaller in candidates(trial):
            if time.monotonic() > end:
                break
            if found := fails(smaller):
                trial, now, is_smaller = smaller, found, True
                break
    return f"{now}\nwanted rows: {rows_of(trial)}\n{trial}"


def rows_of(trial):
    try:
        evaluator = evaluator_of(trial)
        return [row for _, row in evaluator.rows(trial.query, trial.args)]
    except naive.Refused:
        return "none: the query has no answer"


def differs(opened, trial, wanted_kind):
    """What a trial complains of, if it is a question at all, and of the same kind."""
    try:
        evaluator = evaluator_of(trial)
        if not evaluator.are_rules_safe() or not evaluator.is_safe(trial.query):
            return None
        told = look(opened, trial.way, trial.documents, trial.decoys, lambda db: complaint(db, trial, evaluator))
        return told if told and kind(told) == wanted_kind else None
    except (naive.Refused, naive.Undecided, store.StoreError, ValueError, LookupError, TypeError, AttributeError):
        return None


def kind(told):
    """The first words of a complaint, without names and values."""
    return re.sub(r"[\[({].*[\])}]|'.*?'|\?\w+|/\S+|[a-z]?\d+", "…", told)[:80]


def candidates(trial):
    """Trials with one thing less, the largest things first."""
    if trial.way != "untouched":
        yield trial._replace(way="untouched")
    if trial.decoys:
        yield trial._replace(decoys=[])
    for place in range(len(trial.documents)):
        yield trial._replace(documents=trial.documents[:place] + trial.documents[place + 1:])
    for key in trial.query:
        if key in ("rules", "order-by", "limit", "offset"):
            yield trial._replace(query={name: part for name, part in trial.query.items() if name != key})
    for key in ("rules", "where", "find", "order-by"):
        for part in less(trial.query.get(key, [])):
            yield trial._replace(query=trial.query | {key: part})
    for place, document in enumerate(trial.documents):
        for a in document:
            if a != "xt/id":
                less_of = {name: value for name, value in document.items() if name != a}
                yield trial._replace(documents=[*trial.documents[:place], less_of, *trial.documents[place + 1:]])


def less(part):
    """The nested data without one of its items, at any depth."""
    if type(part) not in (list, tuple):
        return
    for place in range(len(part)):
        if type(part[place]) in (list, tuple) and len(part) > 1:
            yield part[:place] + part[place + 1:]
    for place, one in enumerate(part):
        for smaller in less(one):
            yield type(part)([*part[:place], smaller, *part[place + 1:]])
