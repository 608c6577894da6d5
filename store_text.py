# SPDX-License-Identifier: MIT
"""The index of texts: `store.open(…, text=[…])` imports it, and so does a store that has one or is asked for words.

Words are looked for in texts as `folded` makes them: without case, accents and needless space. The index of texts
says which entities may have some words in any of their versions; which version a snapshot sees, and whether it has
them, is asked of facts and documents. So it may hold too much, and is right for every snapshot.

It is made of FTS5's trigrams, without the texts. Its rows are entities, numbered by their cells, so that a search can
walk them in the order of creation; ids that are no numbers get one below zero, in `text_ids`.
"""

from __future__ import annotations

import functools
import importlib
import math
import operator
import re
import sqlite3
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgpack

if not __package__:
    import store
else:                                 # both are part of somebody's package
    store = importlib.import_module(".store", __package__)

TEXT_CHARS_MAX = 20_000               # of one text that a search looks through; what lies behind is not found
TEXT_PARTS, TEXT_RUN = 16, 12         # tables of the index of texts, by turns of 2¹² entities: an evict writes one anew
TEXT_ROWS = 10_000                    # rows of it kept back at once, while it is made of a whole log
SOUGHT_CHARS_MAX = 256                # of what is searched for, and its words: a page of results answers no more
SOUGHT_WORDS_MAX, SOUGHT_GRAMS_MAX = 16, 32
SOUGHT_COUNTED = 8_192                # entities that may have the words, counted before a plan is chosen: some 2 ms
SOUGHT_WALK = 4                       # what makes another beginning of a search cheaper: it has to read each document

WIDE = "\u0e00-\U0010ffff"            # characters of scripts that need no space between words, signs, emoji
WORD_CHAR = rf"[^\W{WIDE}]"           # of the other scripts
BESIDE_WIDE = re.compile(f"(?<=[{WIDE}])|(?=[{WIDE}])")
MARK = "\1"                           # stands there: so one such character is a trigram, and so are two
BEGINNINGS = re.compile(r"[^\w ](\w\w)")
SHORT_WORD = re.compile(f"{WORD_CHAR}{{1,2}}")
PART = re.compile(r'"([^"]*)"?|([^\s"]+)')            # of what is searched for: a phrase, or a word
TABLES = [f"text{part}" for part in range(TEXT_PARTS)]


def folded(text: str) -> str:
    """A text as it is searched: no case, no accents, one space for several, and marks beside wide characters."""
    text = text[:TEXT_CHARS_MAX].replace("\0", " ")
    if text.isascii():
        return " ".join(text.lower().split())
    parts = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    kept = "".join([char for char in parts if not unicodedata.combining(char) and char != "\ufe0f"])
    return BESIDE_WIDE.sub(MARK, " ".join(unicodedata.normalize("NFC", kept).replace("\u2019", "'").split()))


def with_beginnings(text: str) -> str:
    """What is indexed of a folded text: it, and once more beginnings of words that have no space before them."""
    is_plain, text = text.replace(" ", "").isalnum(), f" {text} "
    return text if is_plain else f"{text} {' '.join(BEGINNINGS.findall(text))}"


class Sought(NamedTuple):
    """What is searched for: all of it must be in a text."""
    parts: tuple                      # folded: each must occur
    short: tuple                      # patterns: with one or two letters a word must begin
    match: str                        # the trigrams that all this has, in FTS5's words; "" if it has none


def sought(words: Any) -> Sought:
    """The words and phrases of a search, each of which must occur. Raises: QueryError."""
    if type(words) is not str or len(words) > SOUGHT_CHARS_MAX:
        raise store.QueryError(f"text-search for {store._short(words)}; wanted a text of at most {SOUGHT_CHARS_MAX} "
                               "characters.")
    return parsed_words(words)


@functools.lru_cache(store.PLANS_CACHED)
def parsed_words(words: str) -> Sought:
    found = list(dict.fromkeys(filter(None, (folded(phrase or word) for phrase, word in PART.findall(words)))))
    if not 0 < len(found) <= SOUGHT_WORDS_MAX:
        raise store.QueryError(f"text-search for {store._short(words)} has {len(found)} words; wanted 1 to "
                               f"{SOUGHT_WORDS_MAX}.")
    short = [word for word in found if SHORT_WORD.fullmatch(word)]
    patterns = [re.compile(f"(?<!{WORD_CHAR}){word}") for word in short]
    texts = [f" {word}" if word in short else word for word in found]
    grams = dict.fromkeys(text[i:i + 3] for text in texts for i in range(len(text) - 2))
    match = " ".join('"' + gram.replace('"', '""') + '"' for gram in list(grams)[:SOUGHT_GRAMS_MAX])
    return Sought(tuple(word for word in found if word not in short), tuple(patterns), match)


def has_words(value: Any, words: Any) -> bool:
    """Whether a value is a text with these words."""
    if type(value) is not str:
        return False
    (parts, short, _), text = sought(words), folded(value)
    return all(part in text for part in parts) and all(pattern.search(text) for pattern in short)


def checked_names(names: Iterable[str]) -> frozenset[str]:
    kept = () if isinstance(names, (str, bytes)) or not isinstance(names, Iterable) else list(names)
    if type(kept) is tuple or not all(type(name) is str and store.is_text(name) for name in kept):
        raise store.StoreError(f"text={store._short(names)}; wanted a list of attributes, such as [\"msg/text\"].")
    return frozenset(kept)


def texts_there(execute: Callable) -> tuple[frozenset[str], bool]:
    """Of which attributes a file indexes the texts, and whether some of their entities have ids that are no numbers."""
    return (frozenset(name for name, in execute("select name from texts").fetchall()),
            bool(execute("select 1 from text_ids").fetchone()))


def make_tables(execute: Callable, names: Iterable[str]) -> None:
    """An empty index of the texts of these attributes, or none of no attribute."""
    for table in ("texts", "text_ids", *TABLES):
        execute(f"drop table if exists {table}")
    if names:
        execute("create table texts(name primary key)")
        execute("create table text_ids(n integer primary key, e unique)")
        for name in sorted(names):
            execute("insert into texts values (?)", (name,))
        for table in TABLES:
            execute(f"create virtual table {table} using fts5(grams, content = '', columnsize = 0, detail = none, "
                    "tokenize = 'trigram case_sensitive 1')")


def rows_sql(match: str, has_ids: bool = False, bounds: Iterable[str] = ()) -> str:
    """SQL for the cells of the entities that may have what a parameter matches; within bounds, if they are UUIDs."""
    e = "ifnull((select i.e from text_ids i where i.n = -t.rowid), t.rowid)" if has_ids else "t.rowid"
    within = "" if has_ids else "".join(f" and t.rowid {bound}" for bound in bounds)
    return " union all ".join(f"select {e} as e from {table} t where {table} match {match}{within}"
                              for table in TABLES)


def differ(execute: Callable) -> bool:
    """Whether `main` and `was` do not have each trigram as often: the same id may lie in another table there."""
    counts = []
    for schema in "was", "main":
        for table in TABLES:
            execute(f"create virtual table temp.{schema}_{table} using fts5vocab({schema}, {table}, row)")
        every = " union all ".join(f"select term, doc from temp.{schema}_{table}" for table in TABLES)
        counts.append(f"select term, sum(doc) from ({every}) group by term")
    was, now = counts
    return execute(f"select 1 from (select * from ({was} except {now}) union all select * from ({now} except {was}))"
                   ).fetchone() is not None


def unpack_sets(code: int, data: bytes) -> Any:
    """Sets, which may be of texts; nothing else that msgpack lacks."""
    return store._unpack_ext(code, data) if code in (store._EXT_SET, store._EXT_FROZENSET) else None


def index_texts(file: store._File, wanted: Iterable[str], progress: store.Progress | None) -> None:
    """Sees to it that the texts of these attributes are indexed, and no others."""
    names = checked_names(wanted)
    if names == file.index.texts:
        return
    if file.is_readonly:
        raise store.StoreError(f"{file.path} was opened for reading only, with text={store._short(sorted(names))}; it "
                               f"indexes {store._short(sorted(file.index.texts))}. Leave text out.")

    def make() -> None:
        make_tables(file.writer.execute, names)
        file.index.texts = names
        file.index.write_changes()
        if names:
            Writer(file).write_all(progress)
    store._sibling("store_keeping").derive(
        file, make, f"The texts in {file.path} were not indexed", "all is as it was. An index of texts needs FTS5 with "
        "its trigram tokenizer, which SQLite has from 3.34 on, where it is built with it; this is SQLite "
        f"{sqlite3.sqlite_version}.")


class Writer:
    """What a group of transactions changes in the index of texts."""

    def __init__(self, file: store._File):
        self._names, self._connection = file.index.texts, file.writer.connection
        self._rows: dict[str, list] = {}      # table → (row, what is indexed)
        self._count, self._evicted, self.has_new_ids = 0, set(), False        # type: int, set[str], bool

    def keep(self, e: store.Cell, op: store._Op) -> None:
        """The texts of a new version."""
        if op.data is not None and any([name in self._names for name, _ in op.facts]):
            self._keep(e, op.data)

    def _keep(self, e: store.Cell, data: bytes) -> None:
        if text := self._text(data):
            row = e if type(e) is int else self._row(e)
            self._rows.setdefault(self._table(row), []).append((row, text))
            self._count += 1
            if self._count >= TEXT_ROWS:
                self.flush()

    def _text(self, data: bytes) -> str:
        document = msgpack.unpackb(data, ext_hook=unpack_sets, strict_map_key=False)     # in a third of the time
        return "\n".join(sorted([with_beginnings(folded(value)) for name in self._names if name in document
                                 for value in store._several(document[name]) if type(value) is str]))

    def _row(self, e: store.Cell) -> int:
        self.has_new_ids = True
        self._connection.execute("insert or ignore into text_ids(e) values (?)", (e,))
        return self._connection.execute("select -n from text_ids where e = ?", (e,)).fetchone()[0]

    def _table(self, row: int) -> str:
        return TABLES[(row >> TEXT_RUN) % TEXT_PARTS]

    def flush(self) -> None:
        """Rows go in by their number: FTS5 begins a new piece of its index where they do not rise."""
        for table, rows in self._rows.items():
            rows.sort(key=operator.itemgetter(0))
            self._connection.executemany(f"insert into {table}(rowid, grams) values (?, ?)", rows)
        self._rows.clear()
        self._count = 0

    def forget(self, e: store.Cell) -> None:
        """Takes out what was indexed of an evicted entity, before its documents go."""
        execute = self._connection.execute
        documents = execute("select c.doc from facts f cross join documents c on c.n = f.n "
                            "where f.p in (0, 1) and f.e = ? and f.a = ?", (e, store._ID)).fetchall()
        texts = [text for data, in documents if (text := self._text(data))]
        if texts:
            row = e if type(e) is int else self._row(e)
            self._evicted.add(table := self._table(row))
            for text in texts:
                execute(f"insert into {table}({table}, rowid, grams) values ('delete', ?, ?)", (row, text))
            execute("delete from text_ids where e = ?", (e,))

    def finish(self) -> None:
        """Writes the tables anew that lost something: until then FTS5 only marks it as deleted."""
        for table in self._evicted:
            self._connection.execute(f"insert into {table}({table}) values ('optimize')")

    def write_all(self, progress: store.Progress | None) -> None:
        """The texts of all versions that the index has."""
        execute = self._connection.execute
        versions = ("select distinct e, n from facts where p in (0, 1) and a in (select a from attributes "
                    "where name in (select name from texts))")
        total, = execute(f"select count(*) from ({versions})").fetchone()
        rows = execute(f"select f.e, c.doc from ({versions}) f cross join documents c on c.n = f.n")
        for done, (e, data) in enumerate(rows, 1):
            self._keep(e, data)
            if progress:
                progress(done, total)
        self.flush()


# ── The clause of a query ────────────────────────────────────────────────────────────────────────────────────
#
# A search is a triple and a test, which decide, and before them a `_Search`: the entities that the index of texts
# offers, where the plan may begin.


def clauses(clause: list, of: str, argument: Callable[[Any, Any], Any]) -> tuple[store._Clause, ...]:
    """The parsed clause [("text-search", "attribute", words), [["?entity", "?text"]]]."""
    call, binding = clause[0], store._parse_binding(clause[1], store._short(clause)) if len(clause) == 2 else None
    if binding is None or binding.shape != "relation" or len(binding.vars) > 2 or len(call) != 3 \
            or type(call[1]) is not str or store._is_var(call[1]):
        raise store.QueryError(f"{store._short(clause)}: wanted [(\"text-search\", \"attribute\", words), "
                               "[[\"?entity\", \"?text\"]]], where ?text may be left out.")
    if of:
        raise store.QueryError(f"{store._short(clause)} searches the query's own snapshot, not {of}; let it stand "
                               "outside.")
    (e, v, *_), words = (*binding.vars, store._fresh()), argument(call[2], clause)
    return (store._Search(clause, (e, words), required=frozenset((1,)), name=call[1]),
            store._Triple([e, call[1], v], (e, v), name=call[1]),
            store._Test(clause, (store._Call(has_words, (v, words)),), required=store._FIRST))


def searched(where: tuple[store._Clause, ...], ins: tuple[store._Binding, ...], page: tuple) -> tuple:
    """The sources of a query's search words, and if their entities are counted before a plan is chosen.

    They are not where a page of the newest is asked for, and nothing else is known of them: it begins with the search.
    """
    scalars, _ = store._scalars(ins)
    rivals = {clause.e for clause in where if type(clause) is store._Triple and store._known_spec(scalars, clause.v)}
    found = {store._known_spec(scalars, clause.words): len(page) != 1 or page[0][0] != clause.e or clause.e in rivals
             for clause, _ in store._every(where) if isinstance(clause, store._Search)}
    return tuple((spec, is_counted) for spec, is_counted in found.items() if spec)


def size(run: store._Run, spec: tuple, is_counted: bool) -> float:
    """How many entities may have the words, roughly, or many; infinite where the index of texts cannot tell."""
    words = store._known_value(run, spec)
    if words is None and not run.args or not run.file.index.texts or not (match := sought(words).match):
        return math.inf
    if not is_counted:
        return SOUGHT_COUNTED
    rows = f"select 1 from ({rows_sql('?1')}) limit {SOUGHT_COUNTED}"
    count = run.reader.execute(f"select count(*) from ({rows})", (match,)).fetchone()[0]
    return count if count == SOUGHT_COUNTED else 8 ** ((count.bit_length() + 2) // 3)


def cost(clause: store._Search, joiner: store._Joiner, block: store._Block) -> float:
    """The rows that it makes of each row so far."""
    if joiner.is_bound(clause.e, block):
        return store._FILTERS
    shared = joiner.shared
    count, rows = joiner.sizes.get(store._known_spec(joiner.scalars, clause.words)), shared.estimate(clause.a)[0]
    if count == math.inf:             # nothing to look up: all entities may have the words, and one can walk UUIDs
        is_mixed = shared.file.index.has_text_ids or shared.kinds("xt/id") & store._SMALL_KIND
        return math.inf if is_mixed else rows * store._WHOLE
    return math.inf if count is None else max(count, rows / SOUGHT_WALK) if count == SOUGHT_COUNTED else count


def beginning(where: tuple[store._Clause, ...], joiner: store._Joiner) -> tuple[Any, str, list]:
    """A search to begin with, the order of creation that is wanted, and bounds: it stops when the page is full.

    Something else that is known of its entity may be rarer: then what that finds is looked through.
    Raises: QueryError if there is no index of the texts that some search is for.
    """
    shared, parsed, texts = joiner.shared, joiner.shared.parsed, joiner.shared.file.index.texts
    for clause in store._all_clauses(where, parsed.rules):
        if isinstance(clause, store._Search) and clause.a not in texts:
            raise store.QueryError(f"{store._short(clause.source)}: {store._short(clause.a)} is not searched for words "
                                   f"here; name it when the store is opened: open(…, text=[{store._short(clause.a)}]). "
                                   f"Named so far: {', '.join(sorted(texts)) or 'none'}.")
    var, is_descending = parsed.order[0] if len(parsed.order) == 1 else (None, False)
    searches = [clause for clause in where if type(clause) is store._Search and clause.e == var]
    if len(searches) != 1 or parsed.limit is None or shared.is_over or var in joiner.scalars or parsed.is_grouped:
        return None, "", []
    others = [joiner.triple_cost(clause, store._Block()) for clause in where
              if type(clause) is store._Triple and clause.e == var]
    calls = [clause.call for clause in where if type(clause) is store._Test and clause.call.args[:1] == (var,)]
    bounds = [("<" if call.head == "created-before" else ">", known) for call in calls
              if call.head in ("created-before", "created-after")
              and (known := store._known_spec(joiner.scalars, call.args[1]))]
    is_cheaper = cost(searches[0], joiner, store._Block()) <= SOUGHT_WALK * min(others)
    return (searches[0], " desc" * is_descending, bounds) if is_cheaper else (None, "", [])


def join(joiner: store._Joiner, block: store._Block, clause: store._Search) -> None:
    """Joins the entities that may have the words; nothing, if the entity is known before."""
    if joiner.is_bound(clause.e, block):
        return
    shared, c, words = joiner.shared, joiner.shared.name("c"), store._known_spec(joiner.scalars, clause.words)
    walked, order, known = joiner.walked
    bounds = [f"{sign} {joiner.text.param(*spec)}" for sign, spec in known if clause is walked]
    if joiner.sizes[words] == math.inf:
        source = " and n ".join(["select n as e from ids where n > 0", *bounds])
    else:
        source = rows_sql(joiner.text.param("sought", *words or ()), shared.file.index.has_text_ids, bounds)
    if shared.is_over:
        source = f"select e from ({source}) union select e from temp.touched"
    elif clause is walked:            # without a limit SQLite drops the order
        source, block.is_walked = f"{source} order by e{order} limit -1", True
    block.froms.append(f"({source}) {c}")
    block.bound[clause.e], block.kinds[clause.e] = f"+{c}.e", shared.kinds("xt/id")
