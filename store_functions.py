# SPDX-License-Identifier: MIT
"""The functions and aggregates of Clojure that XTDB's users know, for Python's values: a query with calls imports them.

Without this file a query has comparisons, "count", "sum", "avg", "min", "max" and "count-distinct" by their names, and
all else as a callable: `[(len, "?x"), "?length"]`.
"""

from __future__ import annotations

import datetime as dt
import functools
import importlib
import math
import operator
import random
import re
import statistics
import uuid
from collections.abc import Callable
from typing import Any

if not __package__:
    import store
else:                                 # both are part of somebody's package
    store = importlib.import_module(".store", __package__)

_Ordered, _is_true, _ratio = store._Ordered, store._is_true, store._ratio


def _quotient(one: Any, other: Any) -> Any:
    quotient = abs(one) // abs(other)
    return quotient if (one < 0) == (other < 0) else -quotient


def _nth(values: Any, place: int, *default: Any) -> Any:
    return values[place] if 0 <= place < len(values) else default[0] if default else None


def _get(collection: Any, key: Any, default: Any = None) -> Any:
    if isinstance(collection, dict):
        return collection.get(key, default)
    if isinstance(collection, (list, tuple, str)):
        return collection[key] if type(key) is int and 0 <= key < len(collection) else default
    return key if collection is not None and key in collection else default


def _contains(collection: Any, key: Any) -> bool:
    if isinstance(collection, (list, tuple)) and type(key) is int:
        return 0 <= key < len(collection)
    return key in (collection or ())


def _text(*values: Any) -> str:
    return "".join("" if value is None else value if type(value) is str else
                   str(value).lower() if type(value) is bool else str(value) for value in values)


def _join(*args: Any) -> str:
    separator, parts = args if len(args) == 2 else ("", *args)
    return separator.join(map(_text, parts))


def _re_result(found: Any) -> Any:
    return None if found is None else found.group() if not found.groups() else [found.group(), *found.groups()]


def _has_words(value: Any, words: Any) -> bool:
    return store._sibling("store_text").has_words(value, words)


def _is_a(*types: type) -> Callable[[Any], bool]:
    return lambda value: type(value) in types


_ARITHMETIC: dict[str, Callable] = {
    "+": lambda *n: sum(n), "-": lambda n, *others: functools.reduce(operator.sub, others, n) if others else -n,
    "*": lambda *n: math.prod(n),
    "/": lambda n, *others: _ratio(1, n) if not others else functools.reduce(_ratio, others, n),
    "quot": _quotient, "rem": lambda one, other: one - other * _quotient(one, other), "mod": operator.mod, "abs": abs,
    "inc": lambda n: n + 1, "dec": lambda n: n - 1, "range": lambda *n: list(range(*n)),
    "max": lambda n, *others: max((n, *others), key=_Ordered),
    "min": lambda n, *others: min((n, *others), key=_Ordered),
    "rand-int": random.randrange,
    "zero?": lambda n: n == 0, "pos?": lambda n: n > 0, "neg?": lambda n: n < 0,
    "even?": lambda n: n % 2 == 0, "odd?": lambda n: n % 2 == 1,
    **dict.fromkeys(("double", "float"), lambda n: float(n)), **dict.fromkeys(("long", "int"), lambda n: int(n)),
}

_LOGIC: dict[str, Callable] = {
    "and": lambda *v: next((one for one in v if not _is_true(one)), v[-1] if v else True),
    "or": lambda *v: next((one for one in v if _is_true(one)), v[-1] if v else None),
    "not": lambda v: not _is_true(v), "boolean": _is_true, "any?": lambda v: True,
    "-differ?": store._COMPARISONS["!="],
    "if": lambda test, then, other=None: then if _is_true(test) else other,
    "nil?": lambda v: v is None, "some?": lambda v: v is not None,
    "true?": lambda v: v is True, "false?": lambda v: v is False,
    "number?": _is_a(*store._NUMBERS), "integer?": _is_a(int), "int?": _is_a(int),
    "float?": _is_a(float), "double?": _is_a(float),
    "string?": _is_a(str), "boolean?": _is_a(bool), "uuid?": _is_a(uuid.UUID), "inst?": _is_a(dt.datetime, dt.date),
    "map?": _is_a(dict), "set?": _is_a(set, frozenset), "vector?": _is_a(list, tuple),
    "coll?": _is_a(list, tuple, dict, set, frozenset),
    "identity": lambda v: v, "ground": lambda v: v, "constantly": lambda v: lambda *_: v,
}

_TEXTS: dict[str, Callable] = {
    "str": _text, "subs": lambda text, start, end=None: text[start:end],
    "lower-case": str.lower, "upper-case": str.upper, "capitalize": str.capitalize,
    "starts-with?": str.startswith, "ends-with?": str.endswith,
    "includes?": lambda text, part: part in text, "has-words?": _has_words, "trim": str.strip,
    "blank?": lambda text: not text or text.isspace(),
    "join": _join, "split": lambda text, pattern: re.split(pattern, text),
    "replace": lambda text, old, new: re.sub(old, new, text) if isinstance(old, re.Pattern) else text.replace(old, new),
    "re-pattern": re.compile,
    "re-find": lambda pattern, text: _re_result(re.search(pattern, text)),
    "re-matches": lambda pattern, text: _re_result(re.fullmatch(pattern, text)),
    "re-seq": lambda pattern, text: list(map(_re_result, re.finditer(pattern, text))),
}

_COLLECTIONS: dict[str, Callable] = {
    "count": lambda v: 0 if v is None else len(v), "empty?": lambda v: not v, "not-empty": lambda v: v or None,
    "first": lambda v: next(iter(v), None) if v else None, "second": lambda v: _nth(list(v), 1),
    "last": lambda v: list(v)[-1] if v else None, "rest": lambda v: list(v)[1:], "nth": _nth, "get": _get,
    "contains?": _contains, "vector": lambda *v: list(v), "list": lambda *v: list(v), "tuple": lambda *v: tuple(v),
    "untuple": lambda v: v, "vec": list, "set": lambda v: set(v), "hash-set": lambda *v: set(v),
    "hash-map": lambda *v: dict(zip(v[::2], v[1::2])), "keys": list, "vals": lambda v: list(v.values()),
    "concat": lambda *v: [item for part in v for item in part],
    "conj": lambda v, *items: [*v, *items] if type(v) is list else {*v, *items},
    "sort": lambda v: sorted(v, key=_Ordered), "reverse": lambda v: list(v)[::-1], "distinct": store._distinct,
    "merge": lambda *v: functools.reduce(lambda one, other: one | (other or {}), v, {}),
    "assoc": lambda v, *p: v | dict(zip(p[::2], p[1::2])),
    "get-some": lambda db, e, *attributes: next(
        ([a, document[a]] for document in [db.entity(e) or {}] for a in attributes if a in document), None),
    "get-else": lambda db, e, a, default: default if (v := (db.entity(e) or {}).get(a)) is None else v,
    "missing?": lambda db, e, a: a not in (db.entity(e) or {}),
}

# Of the query's snapshot


def _of_snapshot(function: Callable) -> Callable:
    function.is_of_snapshot = True                # type: ignore[attr-defined]
    return function


def _valid_span(db: store.Db, id: Any) -> tuple[dt.datetime | None, dt.datetime | None]:
    """The stretch of valid time over which the same document holds, neighbours with equal documents merged."""
    rects = [rect for rect in db._open_rects(id) if rect.n > 0]
    place = next((i for i, rect in enumerate(rects) if rect.vt_from <= db._vt < rect.vt_to), None)
    if place is None:
        return None, None
    first = last = place
    while first and _continues(db, rects[first - 1], rects[first]):
        first -= 1
    while last + 1 < len(rects) and _continues(db, rects[last], rects[last + 1]):
        last += 1
    end = rects[last].vt_to
    return store._moment(rects[first].vt_from), None if end == store.OPEN else store._moment(end)


def _continues(db: store.Db, one: store._Rect, next: store._Rect) -> bool:
    return one.vt_to == next.vt_from and (one.n == next.n or db._hash(one.n) == db._hash(next.n))


_TIMES: dict[str, Callable] = {
    "get-start-valid-time": _of_snapshot(lambda db, e: _valid_span(db, e)[0]),
    "get-end-valid-time": _of_snapshot(lambda db, e, default=None: _valid_span(db, e)[1] or default),
}

FUNCTIONS: dict[str, Callable] = _ARITHMETIC | _LOGIC | _TEXTS | _COLLECTIONS | _TIMES


def get_attr(run: store._Run, args: tuple, getters: list[Callable], db: store.Db) -> Callable:
    """A call of get-attr as a function of its variables' values: what an entity has of an attribute, or None."""
    if len(args) not in (2, 3) or type(args[1]) is not store._Const:
        raise store.QueryError("get-attr wants the name of an attribute: (\"get-attr\", \"?e\", \"name\", default). A "
                               "clause [e, \"?a\", v] takes a variable.")
    a, mode = args[1].value, run.mode if db is run.db else store._sibling("store_parts").mode_of(run, "", db)

    def values_of(values: Any) -> Any:
        document = db._document(getters[0](values), run.reader, mode)
        found = store._distinct(store._several(document[a])) if document and a in document else None
        return found or ([getters[2](values)] if len(args) == 3 else None)
    return values_of


# Aggregates


def _median(values: list) -> Any:
    ordered = sorted(values, key=_Ordered)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else _ratio(ordered[middle - 1] + ordered[middle], 2)


def _sample(*args: Any) -> list:
    values = store._distinct(args[-1])
    return random.sample(values, min(args[0] if len(args) == 2 else 1, len(values)))


def _as_set(values: list) -> Any:
    """A set, or a list where Python cannot have a set of these."""
    try:
        return set(values)
    except TypeError:
        return values


AGGREGATES: dict[str, Callable] = {
    "median": _median, "variance": lambda values: float(statistics.pvariance(values)),
    "stddev": lambda values: float(statistics.pstdev(values)),
    "distinct": lambda values: _as_set(store._distinct(values)), "sample": _sample,
    "rand": lambda *args: random.choice(args[-1]) if len(args) == 1 else random.choices(args[-1], k=args[0]),
}
