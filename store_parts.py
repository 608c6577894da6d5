# SPDX-License-Identifier: MIT
"""Arguments that are more than values: rules, patterns of pulls, and other snapshots.

`store.py` imports it for a query whose "in" has "%" or "$name", or the variable of a pattern.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

if not __package__:
    import store
else:                                 # both are part of somebody's package
    store = importlib.import_module(".store", __package__)


# ── Rules and patterns ───────────────────────────────────────────────────────────────────────────────────────


class Template:
    """A query of which arguments are parts. It becomes a query once they are there, and is parsed then."""

    def __init__(self, source: dict, ins: tuple, given: list, elements: list):
        self.ins, self._source, self._elements = ins, source, elements
        self._rules = [place for place, part in enumerate(given) if part == "%"]
        self._patterns = {var: given.index(var) for var in map(store._pattern_var, elements) if var in given}

    def filled(self, args: tuple) -> dict:
        """The query with its arguments in place, which it takes all the same. Raises: QueryError."""
        if len(args) < len(self.ins):
            raise store.QueryError(f"The query takes a part of itself as an argument; wanted "
                                   f"{store._many(len(self.ins), 'argument')}, got {len(args)}.")
        for place in (*self._rules, *self._patterns.values()):
            if type(args[place]) is not list:
                raise store.QueryError(f"Argument {place + 1} is {store._short(args[place])}; wanted a list of "
                                       f"{'rules' if place in self._rules else 'attributes and joins'}.")
        find = [(*part[:2], args[self._patterns[part[2]]]) if store._pattern_var(part) in self._patterns else part
                for part in self._elements]
        rules = [rule for place in self._rules for rule in args[place]]
        return self._source | {"find": find if type(self._source["find"]) is list else find[0],
                               "in": ["_" if part == "%" else part for part in self._source["in"]],
                               "rules": [*self._source.get("rules", []), *rules]}


# ── Other snapshots ──────────────────────────────────────────────────────────────────────────────────────────
#
# All of a query's snapshots are of one file, so one statement asks them: each brings the parameters of its own
# condition of what is visible.


def within(parser: store._ClauseParser, clause: tuple) -> tuple[store._Clause, ...]:
    """Clauses that are asked of another snapshot, ("$name", clause, …), or of the query's own again, ("$", …)."""
    outer, parser.of = parser.of, clause[0].removeprefix("$") and clause[0]
    made = parser.clauses(clause[1:])
    parser.of = outer
    if not made:
        raise store.QueryError(f"{store._short(clause)} is empty.")
    return made


def mode_of(run: store._Run, name: str, db: Any) -> str:
    """In which mode another snapshot is asked: never in that of now, which only the query's own keeps up."""
    if not isinstance(db, store.Db):
        raise store.QueryError(f"{name} is {store._short(db)}; wanted a snapshot, such as node.db(tx_id).")
    if db._file is not run.file:
        raise store.QueryError(f"{name} is a snapshot of another store; ask it first, and give its rows as an "
                               "argument: [[\"?x\", \"?y\"]].")
    if db._supposed is not None:
        raise store.QueryError(f"{name} is what with_tx supposes; ask that snapshot, and give it the other one: "
                               "db.with_tx(…).q(query, db).")
    return store._AS_OF if db._vt >= db._point.time else store._BEFORE


def seen_by(joiner: store._Joiner, of: str, f: str) -> str:
    """The condition under which another snapshot sees a row of `facts`."""
    place, mode = joiner.shared.parsed.sources[of], dict(joiner.shared.inputs.modes)[of]
    return re.sub(r"\?([1-4])", lambda found: joiner.text.param("source", place, mode, int(found[1]) - 1),
                  store._seen(f, mode))
