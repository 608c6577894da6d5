# SPDX-License-Identifier: MIT
"""Parts of a query that come late: arguments that are rules, patterns or other snapshots, and variable attributes.

`store.py` imports it for a query whose "in" has "%" or "$name", or the variable of a pattern, for a clause whose
attribute is a variable or a set, for a binding inside a binding, and where a lookup ref stands for an id.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import json
import re
import types
from collections.abc import Callable, Iterable
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


# ── Arguments to be looked up or taken apart ─────────────────────────────────────────────────────────────────


def found_by(reader: store._Reader, mode: str, db: store.Db, ref: list) -> Any:
    """The id of the one entity that a lookup ref is for, or None. Raises: QueryError if there are several."""
    rows = db._rows_by_value(ref[0], [db._cell(ref[1], reader)], reader, mode)
    if len(rows) > 1:
        raise store.QueryError(f"{len(rows):,} entities have {store._short(ref[1])} in {ref[0]}; a lookup ref is for "
                               "an attribute of which each value belongs to one.")
    documents = db._contents([n for _, _, n in rows], reader)
    return documents[0]["xt/id"] if documents and documents[0] is not None else None


def looked_up(run: store._Run, place: int) -> tuple:
    """The arguments, with ids for the lookup refs in one of them; a ref that finds none stays what it is."""
    def found(value: Any) -> Any:
        id = found_by(run.reader, run.mode, run.db, value) if store._is_ref(value) else None
        return value if id is None else id
    arg, is_scalar = run.args[place], run.parsed.ins[place].shape == "scalar"
    if not is_scalar and list not in map(type, arg):
        return run.args
    return (*run.args[:place], found(arg) if is_scalar else list(map(found, arg)), *run.args[place + 1:])


def taken_apart(value: Any, shape: Any, what: Callable[[], str]) -> list[tuple]:
    """The rows of a value that a nested binding takes apart: of each tuple all combinations of its parts' rows."""
    if shape is None:
        return [(value,)]
    if shape[0] == "tuple":
        parts = map(taken_apart, store._padded(value, len(shape) - 1), shape[1:], itertools.repeat(what))
        return [tuple(itertools.chain.from_iterable(rows)) for rows in itertools.product(*parts)]
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable | types.NoneType):
        raise store.QueryError(f"{what()}; {store._short(value)} in it is no collection.")
    return [row for item in (value.items() if isinstance(value, dict) else value or ())
            for row in taken_apart(item, shape[1], what)]


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


# ── Variable attributes ──────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True, eq=False)
class Fact(store._Triple):
    """A triple of an attribute that is a third term, and its `a` the empty string; or of another snapshot."""
    of: str = ""                      # the snapshot's name

    def rebuilt(self, of_term: Callable, of_clauses: Callable) -> Any:
        """The same, and an ordinary triple once its attribute is known."""
        made = super().rebuilt(of_term, of_clauses)
        e, v, *attribute = made.terms
        if not attribute or type(attribute[0]) is not store._Const or type(attribute[0].value) is not str:
            return made
        made = dataclasses.replace(made, terms=(e, v), name=attribute[0].value)
        return made if self.of else store._Triple(made.source, made.terms, name=made.name)


def cost(clause: Fact, joiner: store._Joiner, block: store._Block) -> float:
    """The rows that it makes of each row so far: if nothing is known of its attribute, as if all had equally many."""
    if clause.a:
        return joiner.triple_cost(clause, block)
    e, v, a = (joiner.is_bound(term, block) for term in clause.terms)
    puts = list(joiner.shared.file.index.puts.values())
    rows, count = sum(puts), max(len(puts), 1)
    if e:
        of_entity = max(rows / max(joiner.shared.estimate("xt/id")[0], 1), 1)
        return store._PROBE if v else store._ONE_VALUE * (1 if a else of_entity)
    rows, count = (rows / count, 1) if a else (rows, count)
    return store._SEARCH + (count if v else rows * store._WHOLE)


def attribute(clause: Fact, joiner: store._Joiner, block: store._Block) -> str:
    """The SQL of the attribute's number; "" where the facts of a known entity tell it."""
    e, _, *attribute = clause.terms
    if not attribute:
        return joiner.text.param("attribute", clause.a)
    if store._is_var(attribute[0]) and attribute[0] in joiner.scalars:
        return joiner.text.param("attribute_in", *joiner.scalars[attribute[0]])
    if joiner.is_bound(e, block) and not joiner.is_bound(attribute[0], block) and not joiner.shared.is_over:
        return ""
    return place_name(joiner, block, attribute[0])


def place_name(joiner: store._Joiner, block: store._Block, term: Any, a: str = "") -> str:
    """Joins the names of the attributes, or of one whose number is known; what gives the number."""
    t = joiner.shared.name("a")
    block.froms.append(f"{_names(joiner.text)} {t}")
    if a:
        block.wheres.append(f"{t}.a = {a}")
    joiner.place(block, term, f"{t}.c")
    return f"{t}.a"


def _names(text: store._Text) -> str:
    """The table of the attributes: their numbers, and the cells of their names."""
    if not text.names:
        rows = f"select {', '.join(store._json_places('value', 2))} from json_each({text.param('attributes')})"
        text.names = text.table("names", ["a", "c"], rows)
    return text.names


def attributes_of(run: store._Run) -> dict[str, Any]:
    """Each attribute that a fact may have, and what stands for it in the tables."""
    index, reader = run.file.index, run.reader
    names = index.attributes | (index.batch.attributes if index.batch and reader is run.file.writer else {})
    passing = reader.execute("select distinct a from temp.over_facts where typeof(a) <> 'integer'").fetchall() \
        if run.db._supposed is not None and reader.filled else ()
    return names | {a if type(a) is str else a.decode(errors="surrogatepass"): a for a, in passing}


def _attributes_json(run: store._Run) -> str:
    """The attributes, as (number, cell of the name)."""
    return json.dumps([(store._json_cell(a), store._json_cell(run.cells.given(name)))
                       for name, a in attributes_of(run).items()])


def _attribute_given(run: store._Run, *spec: Any) -> Any:
    name = store._given_value(run, *spec[1:])
    return run.file.index.attribute(name, run.reader) if type(name) is str else None


store._Joiner._JOIN[Fact] = store._Joiner._join_triple
store._PARAMETER.update({
    "source": lambda run, place, mode, part: run.args[place]._bindings(mode)[part],
    "attribute_in": _attribute_given, "attributes": _attributes_json})
