# SPDX-License-Identifier: MIT
"""SQLite makes some parts of a query by itself, faster than Python does: `store.py` imports this file if it is there.

Without this file a query has the same answers, and Python makes comparisons and groups.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

if not __package__:
    import store
else:                                 # both are part of somebody's package
    store = importlib.import_module(".store", __package__)


# ── Comparisons ──────────────────────────────────────────────────────────────────────────────────────────────
#
# Cells of one type sort as their values do. Numbers have three kinds of cells: small whole numbers, big ones, and
# floats. What is compared with something known lies in an interval of cells of each kind, which an index serves.

_EACH_KIND = *store._NUMBER_KINDS_EACH, store._OTHER_KINDS
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


@dataclasses.dataclass(frozen=True, eq=False)
class Range(store._Test):
    """Comparisons of one variable with what is known before: an index is searched between the tightest bounds."""
    tests: tuple = ()                 # of (operator, what gives the value)


def with_ranges(clauses: Iterable[store._Clause], scalars: Mapping[str, tuple]) -> list[store._Clause]:
    """The clauses, with comparisons of one variable with known values made one."""
    kept: list[store._Clause] = []
    ranges: dict[str, list[tuple]] = {}
    for clause in clauses:
        tests = tests_of(clause.call, scalars) if type(clause) is store._Test else []
        if not tests:
            kept.append(clause)
        for var, *test in tests:
            ranges.setdefault(var, []).append((clause.source, tuple(test)))
    for var, of_var in ranges.items():
        sources, found = zip(*of_var)
        source = list(sources) if len(sources) > 1 else sources[0]
        kept.append(Range(source, (var,), required=store._FIRST, tests=found))
    return kept


def tests_of(call: store._Call, scalars: Mapping[str, tuple]) -> list[tuple]:
    """(variable, operator, what is known) of each comparison in a call; none if it also compares other things."""
    tests = []
    for one, other in zip(call.args, call.args[1:]) if call.head in _MIRRORED else ():
        operator = call.head
        if store._known_spec(scalars, one):
            one, other, operator = other, one, _MIRRORED[operator]
        known = store._known_spec(scalars, other)
        if not known or not store._is_var(one) or one in scalars:
            return []
        tests.append((one, operator, known))
    return tests


def _equal(joiner: store._Joiner, call: store._Call, block: store._Block) -> str | None:
    """Equal values; numbers are perhaps equal whatever their type."""
    is_numeric, negation = store._EQUALITIES[call.head]
    if len(call.args) < 2 or len(call.args) > 2 and negation or any(store._is_set(joiner, arg) for arg in call.args):
        return None
    pairs = zip(call.args, call.args[1:])
    return f"{negation}({' and '.join(_equal_pair(is_numeric, joiner, *pair, block) for pair in pairs)})"


def _equal_pair(is_numeric: bool, joiner: store._Joiner, one: Any, other: Any, block: store._Block) -> str:
    if store._known_spec(joiner.scalars, one):
        one, other = other, one
    x, known = joiner.expr(one, block), store._known_spec(joiner.scalars, other)
    kinds = block.kinds.get(one, store._ANY_KIND)
    others = store._ANY_KIND if known else block.kinds.get(other, store._ANY_KIND)
    is_mixed = kinds & store._NUMBER_KINDS and others & store._NUMBER_KINDS and (kinds | others) & store._FLOAT_KIND
    if is_numeric and is_mixed and known:
        return f"{x} in ({joiner.text.param('twin', known, 0)}, {joiner.text.param('twin', known, -1)})"
    y = joiner.expr(other, block)
    return f"({x} = {y} or compare('=', {x}, {y}))" if is_numeric and is_mixed else f"{x} = {y}"


def _ordered(joiner: store._Joiner, call: store._Call, block: store._Block) -> str:
    return " and ".join(_ordered_pair(call.head, joiner, *pair, block) for pair in zip(call.args, call.args[1:]))


def _ordered_pair(operator: str, joiner: store._Joiner, one: Any, other: Any, block: store._Block) -> str:
    x, y = joiner.expr(one, block), joiner.expr(other, block)
    kinds = block.kinds.get(one, store._ANY_KIND) | block.kinds.get(other, store._ANY_KIND)
    if kinds in store._SORTABLE:
        return f"{x} {operator} {y}"
    return f"case when {x} < 0 and {y} < 0 then {x} {operator} {y} else compare('{operator}', {x}, {y}) end"


_NATIVE: dict[str, Callable] = dict.fromkeys(store._EQUALITIES, _equal) | dict.fromkeys(_MIRRORED, _ordered)


def condition(joiner: store._Joiner, call: store._Call, block: store._Block) -> str | None:
    """The SQL of a call that SQLite makes by itself; None if Python must make it."""
    make = _NATIVE.get(call.head)
    return make(joiner, call, block) if make else None


def compare(run: store._Run, operator: str, one: store.Cell, other: store.Cell) -> bool:
    """The SQL that compares two cells by their values. Values that are hashed have no order."""
    if any(type(cell) is bytes and cell[0] >= store._LONG for cell in (one, other)):
        return False
    return store._COMPARISONS[operator](run.cells.value(one), run.cells.value(other))


# Ranges


def _in_range(joiner: store._Joiner, block: store._Block, clause: Any, needed: frozenset[str]) -> str:
    """A variable between known bounds, as an interval for each kind of cells that it may have."""
    var, param = clause.terms[0], joiner.text.param
    x, kinds = joiner.expr(var, block), block.kinds.get(var, store._ANY_KIND)
    by_value = lambda: store._all_of(f"compare('{sign}', {x}, {param(*known)})" for sign, known in clause.tests)
    if var not in block.kinds and not joiner.shared.is_over:
        return by_value()
    parts = [f"{x} >= {param('from', clause.tests, kind)} and {x} < {param('to', clause.tests, kind)}"
             for kind in _EACH_KIND if kinds & kind]
    if kinds & store._UUID_KIND:      # whose numbers are in the order of creation
        parts.append(f"{x} > 0 and typeof({x}) = 'integer' and {by_value()}")
    return f"({' or '.join(parts)})" if len(parts) > 1 else parts[0] if parts else "0"


_NO_CELLS: tuple[store.Cell, store.Cell] = b"", b""
_BIG, _BIG_POSITIVE, _BIG_END = b"\3", b"\3\x80", b"\4"      # of big whole numbers: the first, that above zero, the end


def _interval(operator: str, value: Any, cell: store.Cell, kind: int) -> tuple[store.Cell, store.Cell]:
    """Which cells of a kind are `operator` a value: the first of them, and the first beyond."""
    is_number = type(value) in (int, float)
    if is_number == (kind == store._OTHER_KINDS) or value is None or value != value:
        return _NO_CELLS
    is_after = operator in ("<=", ">")
    if kind != store._OTHER_KINDS:
        least, place, end = _float_interval(value, is_after) if kind == store._FLOAT_KIND else \
            _whole_interval(value, is_after, kind)
    elif type(cell) is int or type(cell) is bytes and cell[0] >= store._UUID[0]:
        return _NO_CELLS              # hashes have no order, and that of UUIDs is not in their cells
    else:                             # the least cell beyond one that is no number has a zero more
        beyond: Any = "\0" if type(cell) is str else b"\0"
        (least, end), place = _bounds_of_type(cell), cell + beyond if is_after else cell
    return (least, place) if operator[0] == "<" else (place, end)


def _whole_interval(value: float, is_after: bool, kind: int) -> tuple[store.Cell, store.Cell, store.Cell]:
    """All cells of small, or of big, whole numbers; between them the place of a number, or that right after it."""
    if type(value) is int:
        place: float = value + is_after
    elif math.isinf(value):
        place = value
    else:
        place = math.floor(value) + 1 if is_after else math.ceil(value)
    if kind == store._SMALL_KIND:
        return store._LEAST, 0 if place >= store._SMALL else int(max(place, -store._SMALL)) - store._SHIFT, 0
    if -store._SMALL <= place < store._SMALL:
        return _BIG, _BIG_POSITIVE, _BIG_END
    return _BIG, store._big_cell(place) if type(place) is int else _BIG_END if place > 0 else _BIG, _BIG_END


def _float_interval(value: float, is_after: bool) -> tuple[store.Cell, store.Cell, store.Cell]:
    """The same among the cells of floats."""
    try:
        nearest = float(value)
    except OverflowError:
        nearest = math.inf if value > 0 else -math.inf
    cell = store._float_cell(nearest)
    is_below = nearest < value or nearest == value and is_after
    return store._FLOAT, cell + b"\0" if is_below else cell, bytes((store._FLOAT[0] + 1,))


def _bounds_of_type(cell: Any) -> tuple[store.Cell, store.Cell]:
    """The least cell of this cell's type and the first beyond. Values of two types never compare, hashes not at all."""
    if type(cell) is str:
        return "", b""
    if type(cell) is int:
        return store._LEAST, 0
    return (cell[:1], bytes((cell[0] + 1,))) if cell[0] < store._LONG else (cell, cell)


def bounds(run: store._Run, tests: tuple, kind: int) -> tuple[store.Cell, store.Cell]:
    """Between which cells of a kind some comparisons hold. Both ends are asked for, one after the other."""
    if run.bounded is None or run.bounded[0] is not tests or run.bounded[1] != kind:
        ends = []
        for operator, spec in tests:
            value = store._known_value(run, spec)
            ends.append(_interval(operator, value, run.cells.given(value), kind))
        lows, highs = zip(*ends)
        try:
            run.bounded = tests, kind, max(lows), min(highs)
        except TypeError:             # cells of several types
            run.bounded = tests, kind, max(lows, key=store._cell_order), min(highs, key=store._cell_order)
    return run.bounded[2:]


def whole_bounds(args: tuple, tests: tuple) -> tuple[int, int] | None:
    """Between which cells of small whole numbers comparisons hold; None if one is not with a whole number."""
    low: Any = store._LEAST
    high: Any = 0
    for operator, (kind, *spec) in tests:
        value = spec[0].value if kind == "value" else args[spec[0]] if len(spec) == 1 else None
        if type(value) is not int or not -2 ** 63 <= value < 2 ** 63:
            return None
        start, end = _interval(operator, value, 0, store._SMALL_KIND)
        low, high = max(low, start), min(high, end)
    return low, high


store._Joiner._JOIN[Range] = _in_range
store._PARAMETER.update({
    "from": lambda run, tests, kind: bounds(run, tests, kind)[0],
    "to": lambda run, tests, kind: bounds(run, tests, kind)[1],
    "twin": lambda run, spec, place: run.cells.given(store._twins(store._known_value(run, spec))[place]),
})


# Ranges whose rows are counted before a plan is chosen


def watched(where: Iterable[store._Clause], ins: Iterable[store._Binding]) -> tuple:
    """The ranges that the search may begin with, or not: (variable, attribute, comparisons). Their rows decide."""
    scalars, _ = store._scalars(ins)
    clauses = with_ranges(where, scalars)
    triples: list[Any] = [clause for clause in clauses if type(clause) is store._Triple]
    if len(triples) + sum(binding.shape == "collection" for binding in ins) < 2:
        return ()
    tests = {clause.terms[0]: clause.tests for clause in clauses if isinstance(clause, Range)}
    return tuple((triple.v, triple.a, tests[triple.v]) for triple in triples if store._is_var(triple.e)
                 and triple.e not in scalars and store._is_var(triple.v) and triple.v in tests)


def sizes(run: store._Run) -> list[tuple[Any, float]]:
    """What is counted before a plan is chosen: (place of a long argument or variable in a range, its rows)."""
    index, found = run.file.index, list[tuple[Any, float]]()
    for place, (arg, binding) in enumerate(zip(run.args, run.parsed.ins)):
        if binding.shape == "collection" and isinstance(arg, Collection) and len(arg) >= store.LONG_ARGUMENT:
            found.append((place, 10 ** (len(str(len(arg))) - 1)))
    for var, a, tests in run.parsed.watched:
        number = index.attributes.get(a)
        intervals = [bounds(run, tests, kind) for kind in _EACH_KIND if index.kinds.get(number, 0) & kind]
        found.append((var, _range_size(run.reader, number, intervals)))
    return found


def inputs_of(index: store._Index, parsed: store._Parsed, args: tuple, reader: store._Reader) -> store._Inputs | None:
    """`_Run._inputs`, where all ranges that are counted lie between whole numbers."""
    if parsed.searched or parsed.sources or not store._IMMUTABLE.issuperset(map(type, args)):
        return None
    counted = []
    for var, a, tests in parsed.watched:
        number, ends = index.attributes.get(a), whole_bounds(args, tests)
        if ends is None or index.kinds.get(number, 0) & (store._BIG_KIND | store._FLOAT_KIND):
            return None
        counted.append((var, _range_size(reader, number, [ends])))
    return store._Inputs(frozenset(), tuple(counted))


def _range_size(reader: store._Reader, a: int | None, intervals: list) -> float:
    """The rows of an attribute in intervals of cells, to a power of eight; infinite where counting does not pay."""
    count = sum(reader.execute(
        "select count(*) from (select 1 from facts where p = 0 and a = ? and v >= ? and v < ? limit ?)",
        (a, *ends, store.COUNTED_MAX + 1)).fetchone()[0] for ends in intervals)
    return math.inf if count > store.COUNTED_MAX else 8 ** (max(count - 1, 0).bit_length() // 3 + 1)


# ── Arguments that are too long for a table ──────────────────────────────────────────────────────────────────

_MEMBERS = {int, str, bytes, uuid.UUID}         # what only its own type equals in Python, and whole numbers


def member(run: store._Run, place: int, cell: store.Cell) -> bool:
    """Whether such an argument has a value, for SQL."""
    values, value = run.args[place], run.cells.value(cell)
    if type(values) in store._SETS and (kind := type(value)) in _MEMBERS:       # making one of cells takes long
        return value in values and (kind is not int or _Exactly(value) in values)
    kind, values = run.members.get(place) or run.members.setdefault(place, _members(run, values))
    return cell in values if kind is None else type(value) is kind and value in values


def _members(run: store._Run, values: Any) -> tuple[type | None, Any]:
    """A long argument as (the type of all its values, the values), or as (None, their cells)."""
    kinds = set(map(type, values))
    if len(kinds) == 1 and kinds <= _MEMBERS:
        return kinds.pop(), values if type(values) in store._SETS else set(values)
    return None, set(map(run.cell, values))


class _Exactly:
    """Equals a whole number only, not True or 1.0, of which a set may have one in its place."""
    __slots__ = "value",

    def __init__(self, value: int):
        self.value = value

    def __hash__(self) -> int:
        return hash(self.value)

    def __eq__(self, other: object) -> bool:
        return type(other) is int and other == self.value


# ── Pages (`top` in bench/store.py) ──────────────────────────────────────────────────────────────────────────


def walked(shaper: store._Shaper, where: tuple[store._Clause, ...]) -> store._Triple | None:
    """For the first of a common kind: the triple by whose value the answer is ordered.

    Walking its index in order stops when the page is full. That pays if the others together keep many of its rows.
    """
    parsed, shared = shaper.parsed, shaper.shared
    finds = [parsed.find[target] for target, _ in parsed.order if type(target) is int]
    if len(parsed.order) != 1 or not finds or finds[0].kind != "var" or parsed.limit is None or shaper.given \
            or shared.is_over or parsed.is_grouped or shaper.kinds_of(finds[0].term) not in store._SORTABLE:
        return None
    triples: list[Any] = [clause for clause in where if type(clause) is store._Triple]
    found = [clause for clause in triples if clause.v == finds[0].term and store._is_var(clause.e)
             and clause.e not in shaper.joiner.scalars and clause.v != clause.e]
    if len(found) != 1 or len(triples) < 2:
        return None
    rows, _ = shared.estimate(found[0].a)
    least = min(shaper.joiner.triple_cost(clause, store._Block()) for clause in triples if clause is not found[0])
    is_walk_shorter = rows * (parsed.limit + parsed.offset) < least * least
    return found[0] if is_walk_shorter and rows <= least * store.WALK_MAX else None


# ── Groups and aggregates (`count`, `sum`, `highest`, `groups` in bench/store.py) ────────────────────────────


class Total(NamedTuple):
    """An element of find that SQL makes of a group's rows: a variable that groups, or an aggregate."""
    head: str                         # of the aggregate; "" for a variable
    var: str
    kinds: int | None                 # the types of its cells, if they are known

    def exprs(self, x: str, is_safe: bool = False) -> list[str]:
        """The columns that it takes. SQLite's sums end at 63 bits; the safe way adds up halves, and is half as fast."""
        if self.head in ("sum", "avg"):
            count = "count(*)" if self.head == "avg" else "0"
            return [f"sum({x} >> 31)", f"sum({x} & 2147483647)", "count(*)", count] if is_safe else \
                ["0", f"sum({x} + {store._SHIFT})", "0", count]
        if self.head in ("min", "max") and self.kinds not in store._SORTABLE:
            marks = [f"{x} < 0", f"{x} >= x'03' and {x} < x'04'", f"{x} >= x'04' and {x} < x'05'"]
            return [f"{self.head}({x}) filter (where {mark})" for mark in marks]
        made = {"": x, "count": "count(*)", "count-distinct": f"count(distinct {x})"}
        return [made.get(self.head, f"{self.head}({x})")]

    def column(self, cells: store._Cells, rows: list[tuple], place: int) -> list:
        """The values of these columns, a group each."""
        if self.head in ("count", "count-distinct"):
            return [row[place] for row in rows]
        if self.head in ("sum", "avg"):
            sums = [(row[place] << 31) + row[place + 1] + (row[place + 2] << 62) for row in rows]
            return sums if self.head == "sum" else [store._ratio(sum, row[place + 3]) for sum, row in zip(sums, rows)]
        if self.head and self.kinds not in store._SORTABLE:
            best = store.AGGREGATES[self.head]
            return [best([cells.value(cell) for cell in row[place:place + 3] if cell is not None]) for row in rows]
        return cells.values([row[place] for row in rows])


def totals_of(shaper: store._Shaper, where: tuple[store._Clause, ...]) -> Totals | None:
    """How SQL makes each element of find, if all of them are variables, or aggregates that it makes as we do."""
    parsed, made = shaper.parsed, list[Total]()
    every = store._all_clauses((*shaper.given, *where), parsed.rules)
    if 4 * len(parsed.find) > store.COLUMNS_MAX or any(type(clause) is store._Bind for clause in every):
        return None                   # what a function gives may have no cell of its own
    for find in parsed.find:
        if find.kind == "var":
            made.append(Total("", find.term, None))
            continue
        if find.kind != "aggregate" or len(find.term.args) != 1 or not store._is_var(find.term.args[0]):
            return None
        head, (var,) = find.term[:2]
        kinds = shaper.kinds_of(var)
        if head not in ("count", "count-distinct") and (kinds is None or not (
                head in ("sum", "avg") and kinds in (0, store._SMALL_KIND)
                or head in ("min", "max") and (kinds in store._SORTABLE or not kinds & ~store._NUMBER_KINDS))):
            return None
        made.append(Total(head, var, kinds))
    return Totals(made)


class Totals:
    """The elements of find that SQL makes, all of them."""

    def __init__(self, totals: list[Total]):
        self._totals = totals
        self._places: list[tuple[int, Total]] = []        # the first column of each

    def plan(self, shaper: store._Shaper, block: store._Block, where: tuple[store._Clause, ...]) -> store._Plan:
        """The plan of a query whose joined clauses are a block."""
        text, shared, parsed = shaper.joiner.text, shaper.shared, shaper.parsed
        exprs: list[str] = []
        safe: list[str] = []
        for total in self._totals:
            self._places.append((len(exprs), total))
            x = shaper.joiner.expr(total.var, block)
            exprs, safe = exprs + total.exprs(x), safe + total.exprs(x, True)
        keys = dict.fromkeys(shaper.joiner.expr(total.var, block) for total in self._totals if not total.head)
        by = f" group by {', '.join(keys)}" if keys else ""
        main = text.statement(self._skipping(shaper, where) or block.sql(exprs) + by)
        spare = text.statement(block.sql(safe) + by) if safe != exprs else None
        quick = None
        if not (keys or parsed.is_page or parsed.names or shared.is_over or shared.tables or shared.calls):
            quick = shaper.quick(main, functools.partial(self._answer, parsed.is_bare))
        return store._Plan(*shaper.common(where), main, store._Row({}, {}, frozenset(), len(exprs)), quick=quick,
                           is_grouped=True, totals=self, spare=spare)

    def _skipping(self, shaper: store._Shaper, where: tuple[store._Clause, ...]) -> str | None:
        """For count-distinct of few values (`distinct` in bench/store.py): searches the next value, reads no others."""
        triple, shared, scalars = where[0], shaper.shared, shaper.joiner.scalars
        if shared.mode != store._NOW or shared.is_over or len(where) > 1 or len(self._totals) > 1 or shaper.given \
                or shaper.parsed.counted is not None \
                or type(triple) is not store._Triple or len(triple.vars) < 2 or not triple.vars.isdisjoint(scalars) \
                or self._totals[0].head != "count-distinct" or self._totals[0].var != triple.v:
            return None
        rows, values = shared.estimate(triple.a)
        if rows < values * store.SKIP_MIN:
            return None
        text = shaper.joiner.text
        a = text.param("attribute", triple.a)
        least = f"select v from facts where p = 0 and a = {a}"
        next_one = f"select ({least} and v > d.v order by v limit 1) from d where d.v is not null"
        d = text.table("d", ["v"], f"select ({least} order by v limit 1) union all {next_one}", True)
        seen = shared.seen(text, "f", triple.a, "all live")
        held = "" if seen == store._PARTS["all live"].format("f") else \
            f"and exists (select 1 from facts f where f.a = {a} and f.v = {d}.v and {seen})"
        return f"select count(*) from {d} where {d}.v is not null {held}"

    def columns(self, cells: store._Cells, rows: list[tuple]) -> list[list]:
        """The groups, as columns. Of no row at all SQL makes a group of nulls and zeros, we make none."""
        is_empty = rows and all(total.head for total in self._totals) and all(cell in (None, 0) for cell in rows[0])
        if is_empty and (None in rows[0] or self._totals[0].head.startswith("count")):
            rows = []
        return [total.column(cells, rows, place) for place, total in self._places]

    def _answer(self, is_bare: bool, db: store.Db, reader: store._Reader, rows: list[tuple]) -> list:
        columns = self.columns(store._Cells(db, reader, ()), rows)
        return columns[0] if is_bare else list(zip(*columns))
