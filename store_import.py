# SPDX-License-Identifier: MIT
"""Documents of what others keep: the rows of CSV files, the lines of JSON files, the tables of SQLite databases.

    for document, size in documents("people.csv", {"id": "email", "types": {"age": "int"}}, node.new_id):
        node.submit_tx([put(document)])

The shell's `.load` does so in large transactions. By the end of its name a file is CSV (.csv, or .tsv with tabs), JSON
lines (.jsonl, .ndjson, .json), or an SQLite database (.db, .sqlite, .sqlite3). A column or key becomes an attribute.
What is empty in CSV, or null, is left out. Options, all of them optional:

    "id"      the column whose value is the id; else each row gets a new UUID, and a row of SQLite "table/key"
    "space"   attributes are "space/column"; of SQLite the name of the table, unless it is told
    "types"   column → int, float, decimal, bool, date, datetime, uuid or text; else CSV has texts, others what they say
    "table"   of SQLite: only this table. Foreign keys become the ids of the rows that they mean
"""

from __future__ import annotations

import contextlib
import csv
import datetime as dt
import decimal
import importlib
import json
import os
import sqlite3
import urllib.parse
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

if not __package__:
    import store
else:                                 # both are part of somebody's package
    store = importlib.import_module(".store", __package__)

OPTIONS = frozenset(("id", "space", "types", "table"))
FIELD_BYTES_MAX = store.DOCUMENT_BYTES_MAX        # of one line or field: it is a part of one document
Row = dict[str, Any]


def documents(path: str | os.PathLike[str], options: Mapping[str, Any],
              new_id: Callable[[], Any]) -> Iterator[tuple[store.Document, int]]:
    """Each document of a file, checked, with the bytes that it takes. Raises: StoreError saying where it is wrong."""
    path = os.fspath(path)
    kind = os.path.splitext(path)[1].lower()
    if kind not in _KINDS:
        raise store.StoreError(f"{path} is of no kind that can be loaded; wanted a name that ends in "
                               f"{', '.join(_KINDS)}.")
    if strange := set(options) - OPTIONS:
        raise store.StoreError(f"There is no option {min(strange)!r}; wanted some of {', '.join(sorted(OPTIONS))}.")
    types = {column: _type_named(name) for column, name in options.get("types", {}).items()}
    where, unknown = "", set(types)
    try:
        for where, space, id, row in _KINDS[kind](path, options):
            unknown -= row.keys()
            for column in types.keys() & row.keys():
                row[column] = None if row[column] is None else types[column](row[column])
            document = _document(row, options, space, new_id if id is None else lambda: id)
            yield document, len(store.pack_document(document))
    except (OSError, ValueError, ArithmeticError, TypeError, csv.Error, sqlite3.Error, store.OperationError) as error:
        why = getattr(error, "strerror", None) or str(error).rstrip(".") or type(error).__name__
        raise store.StoreError(f"{path}{where} cannot be loaded: {why}.") from None
    if unknown and where:
        raise store.StoreError(f"{path} has no column {min(unknown)!r}, which \"types\" names.")


def _document(row: Row, options: Mapping[str, Any], space: str, new_id: Callable[[], Any]) -> store.Document:
    column = options.get("id")
    if column is not None and row.get(column) is None:
        raise ValueError(f"it has no {column!r} to be its id")
    prefix = f"{space}/" if space else ""
    document = {prefix + name if name != "xt/id" else name: value for name, value in row.items() if value is not None}
    return document | {"xt/id": row[column]} if column is not None else {"xt/id": new_id()} | document


# ── Types ────────────────────────────────────────────────────────────────────────────────────────────────────


def _bool(value: Any) -> bool:
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if (text := str(value).strip().lower()) not in known:
        raise ValueError(f"{value!r} is neither true nor false")
    return known[text]


def _moment(value: Any) -> dt.datetime:
    at = dt.datetime.fromisoformat(str(value).strip())
    return at.astimezone(dt.timezone.utc) if at.tzinfo else at.replace(tzinfo=dt.timezone.utc)


def _decimal(value: Any) -> decimal.Decimal:
    try:
        return decimal.Decimal(str(value).strip())
    except decimal.InvalidOperation:
        raise ValueError(f"{value!r} is no decimal") from None


_TYPES: dict[str, Callable[[Any], Any]] = {
    "int": lambda value: int(str(value)), "float": float, "decimal": _decimal, "bool": _bool, "text": str,
    "date": lambda value: dt.date.fromisoformat(str(value).strip()), "datetime": _moment,
    "uuid": lambda value: uuid.UUID(str(value).strip())}


def _type_named(name: Any) -> Callable[[Any], Any]:
    if name not in _TYPES:
        raise store.StoreError(f"There is no type {name!r}; wanted one of {', '.join(_TYPES)}.")
    return _TYPES[name]


# ── Files ────────────────────────────────────────────────────────────────────────────────────────────────────
#
# Each gives (where in the file, the space of attributes, an id or None, the row).

_Rows = Iterator[tuple[str, str, Any, Row]]


def _csv_rows(path: str, options: Mapping[str, Any]) -> _Rows:
    csv.field_size_limit(FIELD_BYTES_MAX)
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="\t" if path.lower().endswith(".tsv") else ",", strict=True)
        names = next(reader, [])
        if len(set(names)) < len(names) or not all(names):
            raise ValueError("its first line names a column twice, or not at all")
        for fields in reader:
            if fields and len(fields) != len(names):
                raise store.StoreError(f"{path}, line {reader.line_num:,}, cannot be loaded: it has {len(fields)} "
                                       f"fields, the first line has {len(names)}.")
            if fields:
                yield f", line {reader.line_num:,},", options.get("space", ""), None, {
                    name: field or None for name, field in zip(names, fields)}


def _json_rows(path: str, options: Mapping[str, Any]) -> _Rows:
    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON")
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(FIELD_BYTES_MAX + 1):
            number += 1
            if line.isspace():
                continue
            try:
                row = json.loads(line, parse_constant=refuse)
            except (ValueError, RecursionError) as error:
                raise store.StoreError(f"{path}, line {number:,}, cannot be loaded: it is no JSON: {error}.") from None
            if type(row) is not dict:
                raise store.StoreError(f"{path}, line {number:,}, cannot be loaded: it is no object.")
            yield f", line {number:,},", options.get("space", ""), None, row


def _sqlite_rows(path: str, options: Mapping[str, Any]) -> _Rows:
    where = f"file:{urllib.parse.quote(os.path.abspath(path))}?mode=ro"
    with contextlib.closing(sqlite3.connect(where, uri=True)) as connection:
        ask = connection.execute
        tables = [name for name, in ask("select name from sqlite_master where type = 'table' "
                                        "and name not like 'sqlite\\_%' escape '\\'").fetchall()]
        if {"log", "documents", "facts"} <= set(tables):
            raise ValueError("it is a store, whose history `export` and `import` carry over")
        wanted = options.get("table")
        if wanted is not None and wanted not in tables:
            raise ValueError(f"it has no table {wanted!r}, but {', '.join(tables) or 'none'}")
        for table in tables if wanted is None else [wanted]:
            yield from _table_rows(ask, table, options)


def _table_rows(ask: Callable[[str], sqlite3.Cursor], table: str, options: Mapping[str, Any]) -> _Rows:
    """The rows of a table. What a foreign key of one column means is the id that this row gets, too."""
    keys, names = _keys_of(ask, table), [name for _, name, *_ in ask(f"pragma table_info({_quoted(table)})")]
    foreign = ask(f"pragma foreign_key_list({_quoted(table)})").fetchall() if "id" not in options else []
    several = {number for number, place, *_ in foreign if place}
    means = {here: other for number, _, other, here, there, *_ in foreign
             if number not in several and there in (None, *_keys_of(ask, other))}
    key = ", ".join(map(_quoted, keys)) or "rowid"
    cursor = ask(f"select {key}, * from {_quoted(table)}")
    width = len(keys) or 1
    for number, values in enumerate(cursor, 1):
        row = {name: value if value is None or name not in means else _id_of(means[name], [value])
               for name, value in zip(names, values[width:])}
        yield f", row {number:,} of {table},", options.get("space", table), _id_of(table, values[:width]), row


def _keys_of(ask: Callable[[str], sqlite3.Cursor], table: str) -> list[str]:
    """The columns of the primary key, in its order."""
    columns = ask(f"pragma table_info({_quoted(table)})").fetchall()
    return [name for _, name, *_, place in sorted(columns, key=lambda column: column[5]) if place]


def _id_of(table: str, key: Any) -> str:
    return "/".join([table, *map(str, key)])


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


_KINDS: dict[str, Callable[[str, Mapping[str, Any]], _Rows]] = {
    ".csv": _csv_rows, ".tsv": _csv_rows, ".jsonl": _json_rows, ".ndjson": _json_rows, ".json": _json_rows,
    ".db": _sqlite_rows, ".sqlite": _sqlite_rows, ".sqlite3": _sqlite_rows}
