# SPDX-License-Identifier: MIT
"""What a store holds its documents to: `store.open(…, schema=…)` imports it, and so does a store that has a schema.

A schema is a document of the log, under the id `store.SCHEMA_ID`, so all servers decide by the same one from the same
transaction on, and its history tells what was declared when. A transaction is checked as it leaves the store, not
operation by operation, at every valid time at which its documents hold. One that declares is checked against all that
the store knows of any valid time; what was corrected before, and the log, are left as they are.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import itertools
import math
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

if not __package__:
    import store
else:                                 # both are part of somebody's package
    store = importlib.import_module(".store", __package__)

JOINED_MAX = 1_000                    # entries of one document in a composite index: its values in every combination
BUILT_AT_ONCE = 4_096                 # entries written between two words of progress
NAMED_MAX = 3                         # documents that break a declaration, in the sentence that refuses it

_OPTIONS: dict[type, frozenset[str]] = {str: frozenset({"unique", "reference", "type"}),
                                       tuple: frozenset({"unique", "index"})}
_NAMES = {kind.__name__: kind for kind in store._TYPES if kind not in (store.Member, list, set, frozenset)}


class Broken(Exception):
    """A document breaks what was declared."""


class Schema:
    """The declarations of a store, in the form in which transactions and queries ask them."""

    def __init__(self, declared: Mapping[Any, Mapping[str, Any]]):
        self.declared = declared
        each = declared.items()
        self.types = {name: frozenset(said["type"]) for name, said in each if "type" in said}
        self.references = [name for name, said in each if said.get("reference")]
        self.composites = {number_of(names): names for names, said in each if type(names) is tuple}
        self.unique = {names if type(names) is str else number_of(names): names
                       for names, said in each if said.get("unique")}

    def entries(self, facts: Iterable[tuple[str, Any]]) -> list[tuple[int, bytes]]:
        """What composite indexes have of a document with these facts: (number of the index, joined cells)."""
        held: dict[str, list] = {}
        for name, cell in facts:
            held.setdefault(name, []).append(cell)
        made = []
        for index, names in self.composites.items():
            if all(name in held for name in names):
                made += [(index, joined(cells)) for cells in itertools.product(*(held[name] for name in names))]
        return made


def number_of(names: tuple[str, ...]) -> int:
    """The number of a composite index in the table of all of them, three bytes. Declaring two with one is refused."""
    return int.from_bytes(store.digest(store.pack(names))[:3], "big")


def joined(cells: Iterable[Any]) -> bytes:
    """Cells as one, which sorts as they do one after the other. A UUID is its bytes: its number may change."""
    return b"".join(map(_part, cells))


def _part(cell: Any) -> bytes:
    if type(cell) is int:
        return b"\1" + (cell + 2 ** 63).to_bytes(8, "big")
    if type(cell) is uuid.UUID:
        return b"\0" + cell.bytes
    tag, data = (b"\2", cell.encode()) if type(cell) is str else (b"\3", cell)
    return tag + data.replace(b"\0", b"\0\xff") + b"\0\0"


def part_of(entry: bytes, place: int) -> Any:
    """The cell at a place of joined cells; a UUID is a BLOB, as one that nothing is known of.

    Raises: CorruptError if these are no joined cells.
    """
    end = 0
    try:
        for _ in range(place + 1):
            start = end
            tag = entry[start]
            end = entry.index(b"\0\0", start) + 2 if tag > 1 else start + (9 if tag else 17)
        data = entry[start + 1:end]
        if tag > 1:
            data = data[:-2].replace(b"\0\xff", b"\0")
            return data if tag == 3 else data.decode()
        if end <= len(entry):
            return int.from_bytes(data, "big") - 2 ** 63 if tag else store._UUID + data
    except (IndexError, ValueError):
        pass
    raise store.CorruptError("An index of several attributes holds values that no document has: reindex.")


# ── Asking ───────────────────────────────────────────────────────────────────────────────────────────────────
#
# A composite index begins a search when its first attributes are known and the entity is not: where the answer is a
# page in the order of the next ones, where the next one lies in a range, or where several are known. Each attribute of
# the index must be asked for, since a document without one of them has no entry.

@dataclasses.dataclass(frozen=True, eq=False)
class _Joined(store._Clause):
    """Triples of one entity that a composite index answers: it begins the search.

    Its terms are the entity, and variables for the last of the index's attributes; the first ones are known.
    """
    number: int = 0                   # of the index
    a: str = ""                       # one of its attributes
    known: tuple = ()                 # what gives the values of the first attributes
    tests: tuple = ()                 # of the next one: it lies between known bounds,
    kind: int = 0                     # and its cells are of one kind
    kinds: tuple = ()                 # of the variables
    replaced: tuple = ()              # the clauses that it stands for
    is_page: bool = False             # the answer is ordered as the index is, and cut


def _join(joiner: Any, block: Any, clause: _Joined, needed: frozenset[str]) -> None:
    """Joins the entries of an index that begin with known cells, within bounds; their last cells are parts of them."""
    f, (e, *vars), param = joiner.shared.name("f"), clause.terms, joiner.text.param
    low, high = (param("joined", clause, end) for end in (0, 1))
    block.froms.append(f"joined {f}")
    block.wheres += [f"{f}.a = {clause.number} and {f}.v >= {low} and {f}.v < {high}",
                     joiner.shared.seen(joiner.text, f, clause.a)]
    block.first = f, 1, clause.a
    joiner.place(block, e, f"{f}.e", joiner.shared.kinds("xt/id"))
    for place, (var, kinds) in enumerate(zip(vars, clause.kinds), len(clause.known)):
        joiner.place(block, var, f"part({f}.v, {place})", kinds)
    block.owners[e] = f"{f}.p", f"{f}.k", f"{f}.n"


def _bound(run: Any, clause: _Joined, end: int) -> bytes:
    """From which joined cells on, or up to which, the entries of a search lie."""
    values = [store._known_value(run, spec) for spec in clause.known]
    try:
        prefix = joined(map(store._cell, values))
    except store.StoreError:              # no document holds such a value
        return b"\xff"
    if not clause.tests:
        return prefix + b"\xff" * end
    return prefix + _part(store._sibling("store_native").bounds(run, clause.tests, clause.kind)[end])


store._Joiner._JOIN[_Joined] = _join
store._PARAMETER["joined"] = _bound

_RANGED = 0.25                        # of the entries with known beginnings, that are taken to lie in a range


def best_index(schema: Schema, where: Iterable, parsed: Any, joiner: Any, kinds_of: Callable) -> Any:
    """The clause that stands for a composite index to begin with, or None if another beginning is as good."""
    if any(binding.shape not in ("scalar", "tuple", "source") for binding in parsed.ins):
        return None                       # an argument that brings rows is a beginning of its own
    triples = [clause for clause in where if type(clause) is store._Triple]
    entities = {c.e: None for c in triples if store._is_var(c.e) and c.e not in joiner.scalars}
    made = [index for e in entities for number, names in schema.composites.items()
            if (index := _index(number, [[c for c in triples if c.e == e and c.a == name] for name in names], where,
                                parsed, joiner, kinds_of)) and _pays(index, triples, parsed, joiner)]
    return min(made, key=lambda index: (not index.is_page, _entries(index, joiner)), default=None)


def _index(number: int, of_each: list[list], where: Iterable, parsed: Any, joiner: Any, kinds_of: Callable) -> Any:
    """The clause for one index, if there is one triple of each of its attributes, and the first are known."""
    if any(len(found) != 1 for found in of_each):
        return None
    triples = [found[0] for found in of_each]
    specs = [store._known_spec(joiner.scalars, c.v) for c in triples]
    known = list(itertools.takewhile(bool, specs))
    vars = [c.v for c in triples[len(known):]]
    kinds = [joiner.shared.kinds(c.a) for c in triples[len(known):]]
    if not known or not all(map(store._is_var, vars)) or len({triples[0].e, *vars}) <= len(vars) \
            or not joiner.scalars.keys().isdisjoint(vars) or any(some & _UUIDS for some in kinds):
        return None
    tests, replaced, kind = _tests(vars[0], kinds[0], where, joiner) if vars else ((), [], 0)
    targets = [(parsed.find[target].term if parsed.find[target].kind == "var" else None) if type(target) is int else ""
               for target, _ in parsed.order]
    is_page = bool(vars) and parsed.limit is not None and not parsed.is_grouped and parsed.counted is None \
        and targets[:len(vars)] == vars and len({down for _, down in parsed.order[:len(vars)]}) == 1 \
        and all(kinds_of(var) in store._SORTABLE for var in vars)
    names = [c.a for c in triples]
    return _Joined({"index": names}, (triples[0].e, *vars), number=number, a=names[0], known=tuple(known),
                   tests=tests, kind=kind, kinds=tuple(kinds), replaced=(*triples, *replaced), is_page=is_page)


_UUIDS = store._UUID_KIND | store._MENTION_KIND
_KINDS = *store._NUMBER_KINDS_EACH, store._OTHER_KINDS


def _tests(var: str, kinds: int, where: Iterable, joiner: Any) -> tuple[tuple, list, int]:
    """What bounds a variable, the clauses that say so, and its kind of cells; nothing if it has several kinds."""
    kind = [some for some in _KINDS if kinds & some]
    found: list[tuple] = []
    clauses, native = [], joiner.shared.parsed.native
    for clause in where if native and len(kind) == 1 else ():
        tests = native.tests_of(clause.call, joiner.scalars) if isinstance(clause, store._Test) else []
        if tests and all(test[0] == var for test in tests):
            found += [tuple(test) for _, *test in tests]
            clauses.append(clause)
    return tuple(found), clauses, kind[0] if found else 0


def _entries(index: Any, joiner: Any) -> float:
    """How many entries it is reckoned to find."""
    rows = math.inf
    for clause in index.replaced[:len(index.known)]:
        count, values = joiner.shared.estimate(clause.a)
        rows = count / values if rows == math.inf else rows / values
    return max(rows * (_RANGED if index.tests else 1), 1)


def _pays(index: Any, triples: list, parsed: Any, joiner: Any) -> bool:
    """Whether it finds what is asked for sooner than what else the search could begin with."""
    entries, others = _entries(index, joiner), [c for c in triples if c not in index.replaced]
    least = min((joiner.triple_cost(c, store._Block()) for c in others), default=math.inf)
    if index.is_page and entries > least:
        return entries * (parsed.limit + parsed.offset) < least * least and entries <= least * store.WALK_MAX
    return entries <= least and (index.is_page or bool(index.tests) or len(index.known) > 1)


# ── Declaring ────────────────────────────────────────────────────────────────────────────────────────────────


def of_document(document: Any) -> Schema | None:
    """The schema that a document under SCHEMA_ID declares. Raises: StoreError if it is none."""
    if document is None:
        return None
    declared = document.get("schema")
    if document.keys() != {"xt/id", "schema"} or type(declared) is not dict:
        raise store.StoreError(f"{store._short(document)} declares no schema; wanted {{\"xt/id\": "
                               "SCHEMA_ID, \"schema\": {attribute: {…}, …}}.")
    checked = _declared(declared)
    return Schema(checked) if checked else None


def _declared(schema: Any) -> dict:
    """A schema as its document has it, types by name. Raises: StoreError naming what cannot be declared."""
    if not isinstance(schema, Mapping):
        raise store.StoreError(f"schema={store._short(schema)}; wanted a dict, such as {{\"user/email\": {{\"unique\": "
                               "True, \"type\": str}}, (\"msg/channel\", \"msg/at\"): {\"index\": True}}.")
    declared = {names: _options(names, said) for names, said in schema.items()}
    indexes = [names for names in declared if type(names) is tuple]
    if len(set(map(number_of, indexes))) < len(indexes):
        raise store.StoreError("Two of the schema's composite indexes have one number by chance; give the attributes "
                               "of one of them in another order.")
    return declared


def _options(names: Any, said: Any) -> dict:
    allowed = _OPTIONS.get(type(names), frozenset())
    several = names if type(names) is tuple else (names,)
    if not allowed or not all(type(name) is str and store.is_text(name) and name != "xt/id" for name in several) \
            or len(set(several)) < (len(several) if type(names) is str else max(2, len(several))):
        raise store.StoreError(f"schema declares {store._short(names)}; wanted an attribute, or a tuple of two or "
                               "more.")
    if not isinstance(said, Mapping) or not said or not said.keys() <= allowed:
        raise store.StoreError(f"schema says {store._short(said)} of {store._short(names)}; wanted a dict with some of "
                               f"{', '.join(sorted(allowed))}.")
    if wrong := [option for option, value in said.items() if option != "type" and value is not True]:
        raise store.StoreError(f"schema says {wrong[0]!r}: {store._short(said[wrong[0]])} of {store._short(names)}; "
                               "wanted True, or leave it out.")
    return {option: _type_names(names, value) if option == "type" else True for option, value in said.items()}


def _type_names(attribute: str, types: Any) -> tuple[str, ...]:
    found = tuple(sorted({_type_name(kind) for kind in (types if type(types) is tuple else (types,))}))
    if not all(found) or not found:
        raise store.StoreError(f"schema says that {store._short(attribute)} is of type {store._short(types)}; wanted "
                               f"{', '.join(_NAMES)}, an enumeration, or a tuple of these.")
    return found


def _type_name(kind: Any) -> str:
    if type(kind) is str and (kind in _NAMES or ":" in kind):
        return kind
    if isinstance(kind, enum.EnumMeta):
        return f"{kind.__module__}:{kind.__qualname__}"
    return kind.__name__ if kind in _NAMES.values() else ""


def declare(node: Any, schema: Any, progress: Any) -> None:
    """Sees to it that exactly this is declared. Raises: StoreError if existing documents break it: all is as it was."""
    declared, file = _declared(schema), node._file
    with file.reading() as reader:
        now = declared_now(reader.execute)
    if store.pack(now.declared if now else {}) == store.pack(declared):
        return
    op = store.put({"xt/id": store.SCHEMA_ID, "schema": declared}) if declared else store.delete(store.SCHEMA_ID)
    file.progress = progress
    try:
        tx = node.submit_tx([op])
    finally:
        file.progress = None
    if not tx.committed:
        raise store.StoreError(f"The schema cannot be declared: {tx.reason} All is as it was.")


def declared_now(execute: Callable) -> Schema | None:
    """What the file says is declared."""
    row = execute("select c.doc from facts f cross join documents c on c.n = f.n "
                  "where f.p = 0 and f.a = ? and f.v = (select +n from ids where uuid = ?) and f.k = 0",
                  (store._ID, store.SCHEMA_ID.bytes)).fetchone()
    return of_document(store.unpack(row[0])) if row else None


# ── Checking ─────────────────────────────────────────────────────────────────────────────────────────────────


class _Held(NamedTuple):
    """A value that an entity holds over a span of valid time."""
    start: int
    end: int
    key: Any
    id: Any


def check(transaction: Any, schema: Schema | None) -> Schema | None:
    """The schema after a transaction. Raises: Broken if the transaction leaves something that breaks it."""
    if store.SCHEMA_ID.int in transaction.written:
        declared = of_transaction(transaction)
        new = {names: said for names, said in (declared.declared if declared else {}).items()
               if schema is None or schema.declared.get(names) != said}
        if new and isinstance(transaction._db, store._WriterDb):
            _check_all(transaction, Schema(new))
        schema = declared
    if schema is not None:
        _Check(transaction, schema).run()
    return schema


def of_transaction(transaction: Any) -> Schema | None:
    """What a transaction that writes under SCHEMA_ID declares. Raises: Broken if it cannot be declared so."""
    entity = transaction.whole(transaction.written[store.SCHEMA_ID.int])
    if any(rect.n > 0 and (rect.vt_from > transaction.tx_time or transaction.tx_time < rect.vt_to < store.OPEN)
           for rect in entity.rects):
        raise Broken("a schema holds from its transaction on; put it without times")
    n = transaction.visible_n(entity, transaction.tx_time)
    try:
        return of_document(transaction._stored(n) or None) if n is not None else None
    except store.StoreError as error:
        raise Broken(str(error).rstrip(".")) from None


class _Check:
    """The check of one transaction."""

    def __init__(self, transaction: Any, schema: Schema):
        self._transaction, self._schema, self._db = transaction, schema, transaction._db
        is_writer = isinstance(self._db, store._WriterDb)
        self._mine = transaction.written if is_writer else transaction.entities       # with what it is supposed upon
        self._cells: dict[Any, Any] = {}

    def run(self) -> None:
        for entity in self._transaction.written.values():
            for n in {rect.n for rect in entity.rects if rect.n in self._transaction.contents}:
                self._check_document(entity, n)
            if self._schema.references and not entity.evicted:
                self._check_referring(entity)
        if self._schema.unique:
            self._check_unique()

    def _check_document(self, entity: Any, n: int) -> None:
        op, schema = self._transaction.contents[n], self._schema
        if op.data is None:
            return
        document = store.unpack(op.data) if schema.types or schema.references else {}
        check_document(schema, entity.id, document, op.facts)
        self.check_references(entity, document, [(rect.vt_from, rect.vt_to) for rect in entity.rects if rect.n == n])

    # References

    def check_references(self, entity: Any, document: dict, spans: Iterable[tuple[int, int]]) -> None:
        for name in self._schema.references:
            for value in store._several(document[name]) if name in document else ():
                for start, end in spans:
                    self._check_reference(entity, name, value, start, end)

    def _check_reference(self, entity: Any, name: str, value: Any, start: int, end: int) -> None:
        """Something must be known of what is referred to, all over the span; what referred to it before may go on."""
        while start < end:
            until = self._known_until(value, start, end)
            if until <= start:
                until = self._held_until(entity, name, value, start)
            if until <= start:
                raise Broken(f"{name} of {store._short(entity.id)} refers to {store._short(value)}, of which nothing "
                             f"is known at {store._moment(start)}")
            start = until

    def _known_until(self, id: Any, start: int, end: int) -> int:
        if type(id) not in store._ID_TYPES:
            return start
        target = self._transaction._entity(id, start)
        self._transaction._reach(target, end)
        for rect in target.rects:
            if rect.n > 0 and rect.vt_from <= start < rect.vt_to:
                start = rect.vt_to
        return start

    def _held_until(self, entity: Any, name: str, value: Any, start: int) -> int:
        """Until when a version from before the transaction refers to it, too, if nothing was known of it then."""
        target = self._transaction._entity(value, start).before if type(value) in store._ID_TYPES else []
        was_known = any(rect.n > 0 and rect.vt_from <= start < rect.vt_to for rect in target)
        for rect in entity.before if not was_known else ():
            if rect.n > 0 and rect.vt_from <= start < rect.vt_to:
                document = self._transaction._stored(rect.n)
                if name in document and store.pack(value) in map(store.pack, store._several(document[name])):
                    return rect.vt_to
        return start

    def _check_referring(self, entity: Any) -> None:
        """Nobody may refer to an entity where it was known before the transaction, and is not any more."""
        lost = list(_lost(entity))
        for name in self._schema.references if lost else ():
            for held in self._holders(name, self._cell(entity.id), lost[0][0], lost[-1][1]):
                for start, end in lost:
                    if held.start < end and start < held.end:
                        raise Broken(f"{name} of {store._short(held.id)} refers to {store._short(entity.id)}, of which "
                                     f"nothing would be known at {store._moment(max(start, held.start))}")

    # Uniqueness

    def _check_unique(self) -> None:
        claims: dict[tuple, list[_Held]] = {}
        for key, entity in self._mine.items():
            for rect in entity.rects:
                if rect.n in self._transaction.contents:
                    for name, cell in self._unique_facts(self._transaction.contents[rect.n]):
                        cell = self._cell(cell) if type(cell) is uuid.UUID else cell
                        held = _Held(rect.vt_from, rect.vt_to, key, entity.id)
                        claims.setdefault((name, cell), []).append(held)
        for (name, cell), claimed in claims.items():
            start, end = min(held.start for held in claimed), max(held.end for held in claimed)
            check_apart(self._schema.unique[name], claimed + list(self._holders(name, cell, start, end)))

    def _unique_facts(self, op: Any) -> Iterator[tuple[Any, Any]]:
        unique = self._schema.unique
        yield from ((name, cell) for name, cell in op.facts if name in unique)
        yield from ((name, cell) for name, cell in self._schema.entries(op.facts) if name in unique)

    # What is stored

    def _cell(self, id: Any) -> Any:
        return self._db._answer(lambda reader, mode: self._db._cell(id, reader))

    def _holders(self, name: Any, cell: Any, start: int, end: int) -> Iterator[_Held]:
        """Who holds a value of an attribute within a span, by documents that are not the transaction's."""
        db, point = self._db, self._db._point
        live = isinstance(db, store._WriterDb) and start >= self._transaction.tx_time
        table, number = ("joined", lambda reader: name) if type(name) is int else (
            "facts", lambda reader: db._file.index.attribute(name, reader))
        rows = db._answer(lambda reader, mode: reader.execute(
            f"select e, n from {table} where p in ({'0' if live else '0, 1'}) and a = ? and v = ? and n <= ?",
            (number(reader), cell, point.n)).fetchall())
        mine = self._mine_by_cell() if rows else {}
        for e, n in rows:
            if e in mine:
                key, entity = mine[e]
                yield from (_Held(rect.vt_from, rect.vt_to, key, entity.id)
                            for rect in self._transaction.whole(entity).rects if rect.n == n)
            else:
                yield from self._stored(e, n, start, end)

    def _mine_by_cell(self) -> dict:
        if not self._cells:
            self._cells = {self._cell(entity.id): (key, entity) for key, entity in self._mine.items()}
        return self._cells

    def _stored(self, e: Any, n: int, start: int, end: int) -> list[_Held]:
        T = self._db._point.tx_id
        rects = self._db._answer(lambda reader, mode: reader.execute(
            "select vt_from, vt_to from rects where e = ? and n = ? and tx_to > ? and tx_from <= ? and vt_from < ? "
            "and vt_to > ?", (e, n, T, T, end, start)).fetchall())
        if not rects:
            return []
        id = (self._db._answer(lambda reader, mode: self._db._content(n, reader)) or {"xt/id": None})["xt/id"]
        return [_Held(vt_from, vt_to, (e,), id) for vt_from, vt_to in rects]


def _lost(entity: Any) -> Iterator[tuple[int, int]]:
    """The spans over which something was known of an entity before, and nothing is after."""
    for was in entity.before:
        start = was.vt_from
        for rect in entity.rects if was.n > 0 else ():
            if rect.n > 0 and rect.vt_from < was.vt_to and rect.vt_to > start:
                if rect.vt_from > start:
                    yield start, rect.vt_from
                start = rect.vt_to
        if was.n > 0 and start < was.vt_to:
            yield start, was.vt_to


def check_document(schema: Schema, id: Any, document: dict, facts: Iterable) -> None:
    """What can be told of a document alone."""
    if schema.composites and (count := len(schema.entries(facts))) > JOINED_MAX:
        raise Broken(f"{store._short(id)} has {count:,} entries in composite indexes, the limit is {JOINED_MAX:,}")
    for name, wanted in schema.types.items():
        for value in store._several(document[name]) if name in document else ():
            if (found := _name_of_type(value)) not in wanted:
                raise Broken(f"{name} of {store._short(id)} has a value of type {found}; declared: "
                             f"{', '.join(sorted(wanted))}")


def _name_of_type(value: Any) -> str:
    if isinstance(value, enum.Enum):
        return f"{type(value).__module__}:{type(value).__qualname__}"
    return value.enum if type(value) is store.Member else type(value).__name__


def check_apart(names: Any, held: list[_Held]) -> None:
    """Raises: Broken if two entities hold a value at one time."""
    held.sort(key=lambda one: (one.start, one.end))
    for one, next in itertools.pairwise(held):
        if next.start < one.end and next.key != one.key:
            raise Broken(f"{_named(names)} is unique, and {store._short(one.id)} and {store._short(next.id)} would "
                         f"have the same at {store._moment(next.start)}")


def _named(names: Any) -> str:
    return names if type(names) is str else " with ".join(names)


# ── What is there already ────────────────────────────────────────────────────────────────────────────────────


def _check_all(transaction: Any, new: Schema) -> None:
    """Raises: Broken, naming the first documents of any valid time that break what is newly declared."""
    file = transaction._db._file
    file.index.flush()
    for statement in ("create temp table if not exists claims(name, v, e, n, vt_from, vt_to)",
                      "delete from temp.claims"):
        file.writer.execute(statement)
    try:
        found = itertools.chain(_broken_alone(transaction, new), _broken_together(file, new))
        if first := list(itertools.islice(found, NAMED_MAX)):
            raise Broken("; ".join(first))
    finally:
        file.writer.execute("delete from temp.claims")


def _broken_alone(transaction: Any, new: Schema) -> Iterator[str]:
    """What each version that is known breaks; keeps the entries of composite indexes that must be unique."""
    if not (new.types or new.references or new.composites):
        return
    file, db = transaction._db._file, transaction._db
    probe = _Check(store._Transaction(db, transaction.tx_id, transaction.tx_time, transaction.first_n), new)
    total, = file.writer.execute("select count(*) from rects where tx_to = ? and n > 0", (store.OPEN,)).fetchone()
    rows = file.writer.execute("select w.e, w.n, w.vt_from, w.vt_to, c.doc from rects w cross join documents c "
                               "on c.n = w.n where w.tx_to = ?", (store.OPEN,))
    for done, (e, n, start, end, data) in enumerate(rows, 1):
        document = store.unpack(data)
        facts = store._encoded(document)[1] if new.composites else []
        try:
            check_document(new, document["xt/id"], document, facts)
            probe.check_references(store._Entity(document["xt/id"]), document, [(start, end)])
        except Broken as broken:
            yield str(broken)
        file.writer.connection.executemany(
            "insert into temp.claims values (?, ?, ?, ?, ?, ?)",
            [(name, entry, e, n, start, end) for name, entry in new.entries(facts) if name in new.unique])
        _tell(file, done, 2 * total)


_SINGLE = """
    select f.v, w.vt_from, w.vt_to, f.e, f.n from facts f
    cross join rects w on w.e = f.e and w.n = f.n and w.tx_to = ?
    where f.p in (0, 1) and f.a = ? order by f.v, w.vt_from, w.vt_to
"""
_JOINED = "select v, vt_from, vt_to, e, n from temp.claims where name = ? order by v, vt_from, vt_to"


def _broken_together(file: Any, new: Schema) -> Iterator[str]:
    """Which entities hold the same at one time."""
    def held(row: tuple) -> _Held:
        doc, = file.writer.execute("select doc from documents where n = ?", (row[4],)).fetchone()
        return _Held(row[1], row[2], row[3], store.unpack(doc)["xt/id"])

    for name, names in new.unique.items():
        rows = file.writer.execute(_JOINED, (name,)) if type(name) is int else file.writer.execute(
            _SINGLE, (store.OPEN, file.index.attribute(name, file.writer)))
        for one, next in itertools.pairwise(rows):
            if one[0] == next[0] and next[1] < one[2] and one[3] != next[3]:
                try:
                    check_apart(names, [held(one), held(next)])
                except Broken as broken:
                    yield str(broken)


def build(batch: Any, before: Schema | None, after: Schema | None) -> None:
    """Makes the composite indexes of all versions that are new in a schema, and removes those that it has no more."""
    file, execute = batch._file, batch._execute
    was, now = (schema.composites if schema else {} for schema in (before, after))
    batch.flush()
    for number in was.keys() - now.keys():
        execute("delete from joined where p in (0, 1) and a = ?", (number,))
    if not (new := {names: {"index": True} for number, names in now.items() if number not in was}):
        return
    for statement in store._JOINED_TABLE:
        execute(statement)
    made = Schema(new)
    total, = execute("select count(*) from facts where p in (0, 1) and a = ?", (store._ID,)).fetchone()
    versions = execute("select f.p, f.k, f.e, f.n, f.d, c.doc from facts f cross join documents c on c.n = f.n "
                       "where f.p in (0, 1) and f.a = ?", (store._ID,))
    rows: list[tuple] = []
    for done, (p, k, e, n, d, data) in enumerate(versions, 1):
        rows += [(p, number, entry, k, e, n, d)
                 for number, entry in made.entries(store._encoded(store.unpack(data))[1])]
        if len(rows) >= BUILT_AT_ONCE or done == total:
            batch._insert("joined", rows)
        _tell(file, total + done, 2 * total)


def _tell(file: Any, done: int, of: int) -> None:
    if file.progress:
        file.progress(done, of)
