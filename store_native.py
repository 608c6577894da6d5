# SPDX-License-Identifier: MIT
"""What SQLite makes by itself of a query, and Python would make more slowly: `store.py` imports it where it is there.

Without this file a query has the same answers, and Python makes the groups.
"""

from __future__ import annotations

import functools
import importlib
from typing import NamedTuple

if not __package__:
    import store
else:                                 # both are part of somebody's package
    store = importlib.import_module(".store", __package__)


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
        seen = shared.seen("f", triple.a, "all live")
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
