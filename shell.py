# SPDX-License-Identifier: MIT
"""A shell at the terminal for a store: Datalog in, a table out.

    python shell.py chat.db                                        # at the terminal, also beside a running chat
    python shell.py chat.db '{"find": ["?e"], …}' .status          # each argument is a line; so is each line of a pipe
    python shell.py chat.db export > chat.jsonl                    # the whole history; `export now`: what is visible
    python shell.py new.db import < chat.jsonl
    python shell.py --copy chat.db                                 # on a copy as of now, which goes at the end
    python shell.py --index mine.db --functions my_app:FUNCTIONS postgresql://…

A line is a command, which begins with a dot (`.help` lists them), or a query in Python data as `Db.q` takes it, its
arguments after it; it goes on until its brackets close:

    {"find": ["?text"], "in": ["?c"], "where": [["?m", "msg/channel", "?c"], ["?m", "msg/text", "?text"]]}, "eels"

Beyond Python's literals and `...`, values are written UUID("…"), datetime("2026-05-01T12:00Z"), date("2026-05-01"),
Decimal("1.5"), set(), frozenset({…}) and inf, or as Python's `repr` writes them. Nothing is executed. A time without a
zone is in UTC.

Nothing is written but by `import`, `.import`, `.load`, `.put`, `.delete` and `.tx`, and no file is made but by `import`
and `--new`. Exit status: 0; 1 after the first line that fails, 2 for wrong usage, 130 after Ctrl-C, 141 when the reader
of a pipe left.
"""

import argparse
import ast
import asyncio
import base64
import codeop
import contextlib
import datetime as dt
import decimal
import enum
import functools
import importlib
import io
import itertools
import json
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, NamedTuple

if not __package__:
    import store
    from store_tables import bare as _bare, named as _named, shown, table, tabled
else:                                 # all are part of a package
    store, _tables = (importlib.import_module(f".{name}", __package__) for name in ("store", "store_tables"))
    _bare, _named, shown, table, tabled = _tables.bare, _tables.named, _tables.shown, _tables.table, _tables.tabled

try:
    import readline
except ImportError:                   # a Python without it reads lines all the same
    readline = None                   # type: ignore[assignment]

COMMAND = "eelstore" if __package__ else "python shell.py"
INPUT_CHARS_MAX = 1_000_000           # of one line at the prompt, brackets closed or not
ROWS_SHOWN = 500                      # at a terminal; more scroll past, and a pipe gets all
LOG_SHOWN = 10                        # transactions that `.log` shows when not told how many
HISTORY_FILE = "~/.store_history"     # lines typed, for the arrow keys; readable by its owner alone
HISTORY_LINES = 1_000
BAR_S = 0.1                           # between two drawings of a progress bar
BAR_CHARS = 30
COPY_PAGES = 1_000                    # of a copy between two looks at its progress bar
LINE_BYTES_MAX = 64 * 2 ** 20         # of an export; a document has 8 MB, which JSON can write six times as long
BATCH_OPERATIONS = 1_000              # of an import on their way at once, and in a transaction where lines name none
BATCH_BYTES = 8 * 2 ** 20
EXPORT_TIMEOUT_MS = 24 * 3_600_000    # of what is visible: all of it, so no ordinary query's budget

Operation = tuple[Any, ...]
Write = Callable[[str], Any]


class ShellError(Exception):
    """A line, a file or an argument that the shell cannot do anything with: one sentence for people."""


# ── Notation ─────────────────────────────────────────────────────────────────────────────────────────────────
#
# Values as queries have them: Python data, never Python. What `shown` writes, `parsed` reads again.


def parsed(text: str) -> Any:
    """The value that a text spells. Raises: ShellError naming what is not data."""
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError as error:
        raise ShellError(f"{_short(text)} is not Python data: {error.msg}"
                         f"{f', at character {error.offset}' if error.offset else ''}.") from None
    except (RecursionError, MemoryError):
        raise ShellError(f"{_short(text)} is nested too deep.") from None
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise ShellError(f"{_short(text)} is not a value: {error}.") from None


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value) if type(value) is not complex:
            return value
        case ast.List(elts=elements):
            return [_value(element) for element in elements]
        case ast.Tuple(elts=elements):
            return tuple(_value(element) for element in elements)
        case ast.Set(elts=elements):
            return {_value(element) for element in elements}
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {_value(key): _value(value) for key, value in zip(keys, values) if key is not None}
        case ast.UnaryOp(op=ast.USub(), operand=operand) if type(number := _value(operand)) in (int, float):
            return -number
        case ast.Name(id="inf"):
            return float("inf")
        case ast.Attribute() | ast.Name() if ast.unparse(node) in _ZONES:
            return dt.timezone.utc
        case ast.Call(func=function, args=args, keywords=keywords) if ast.unparse(function) in _MAKERS:
            return _MAKERS[ast.unparse(function)](*map(_value, args),
                                                  **{str(word.arg): _value(word.value) for word in keywords})
    raise ShellError(f"{_short(ast.unparse(node))} is not data; wanted literals of Python (None, True, \"a text\"), "
                     "UUID(\"…\"), datetime(\"…\") or date(\"…\").")


def moment(*args: Any, tzinfo: dt.tzinfo = dt.timezone.utc) -> dt.datetime:
    """An aware datetime of its ISO text, or of the numbers that `repr` shows; in UTC if it names no zone."""
    if len(args) == 1 and type(args[0]) is str:
        at = dt.datetime.fromisoformat(args[0].strip())
    else:
        at = dt.datetime(*args).replace(tzinfo=tzinfo)
    return at.astimezone(dt.timezone.utc) if at.tzinfo else at.replace(tzinfo=dt.timezone.utc)


def _date(*args: Any) -> dt.date:
    return dt.date.fromisoformat(*args) if len(args) == 1 else dt.date(*args)


_ZONES = {"UTC", "timezone.utc", "datetime.timezone.utc", "dt.timezone.utc"}
_MAKERS: dict[str, Callable[..., Any]] = {
    "UUID": uuid.UUID, "uuid.UUID": uuid.UUID, "datetime": moment, "datetime.datetime": moment, "dt.datetime": moment,
    "date": _date, "datetime.date": _date, "dt.date": _date, "Decimal": decimal.Decimal,
    "decimal.Decimal": decimal.Decimal,
    "time": dt.time, "datetime.time": dt.time, "dt.time": dt.time,
    "timedelta": dt.timedelta, "datetime.timedelta": dt.timedelta, "dt.timedelta": dt.timedelta,
    "Member": lambda enum, name: store._rare().member(enum, name),
    "set": set, "frozenset": frozenset,
}


def _short(text: str) -> str:
    return _bare(text if len(text) <= 80 else text[:77] + "…")


def is_whole(text: str) -> bool:
    """True if a line is complete: the brackets and long strings of its data are closed, or never will be."""
    word, _, rest = text.partition(" ") if text.startswith(".") else ("", "", text)
    if len(text) > INPUT_CHARS_MAX or not rest.strip() or rest.startswith("#") or word and word not in _WITH_DATA:
        return True
    try:
        return codeop.compile_command(rest.lstrip(), symbol="eval") is not None
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        return True


# ── Progress ─────────────────────────────────────────────────────────────────────────────────────────────────


class Bar:
    """A progress bar on the standard error, where that is a terminal:
    `bar(done, total)`, and gone at the block's end."""

    def __init__(self, what: str):
        self._what, self._drawn_at, self._is_seen = what, 0.0, sys.stderr.isatty()

    def __enter__(self) -> "Bar":
        return self

    def __call__(self, done: int, total: int) -> None:
        if self._is_seen and time.monotonic() - self._drawn_at >= BAR_S:
            self._drawn_at = time.monotonic()
            part = done / total if total else 1.0
            full = round(part * BAR_CHARS)
            print(f"\r{self._what} [{'#' * full}{'.' * (BAR_CHARS - full)}] {part:4.0%} of {total:,}", end="\x1b[K",
                  file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        if self._drawn_at:
            print("\r", end="\x1b[K", file=sys.stderr, flush=True)


# ── JSON lines ───────────────────────────────────────────────────────────────────────────────────────────────
#
# A line is an operation: {"put": document, "from": time, "to": time, "tx": number, "tx_time": time}, {"delete": id, …},
# {"evict": id, …}. Times are ISO text. Lines of one "tx" are one transaction; without it, batches. What JSON has no
# word for is an object with one key that begins with "~". So values, ids and times come back as they were. Only in a
# store that has newer transactions the imported ones are of the time of the import.

def _pairs(pairs: list) -> dict:
    made = {key: value for key, value in pairs}
    if len(made) < len(pairs):
        raise ValueError("a key comes twice")
    return made


_OF_TEXT: dict[str, Callable[[str], Any]] = {
    "~uuid": uuid.UUID, "~datetime": moment, "~date": dt.date.fromisoformat, "~int": lambda text: int(text, 16),
    "~float": float,
    "~bytes": lambda text: base64.b64decode(text, validate=True), "~decimal": decimal.Decimal,
    "~time": dt.time.fromisoformat,
    "~timedelta": lambda text: dt.timedelta(microseconds=int(text)),
}
_OF_LIST: dict[str, Callable[[list], Any]] = {"~tuple": tuple, "~set": set, "~frozenset": frozenset, "~map": _pairs,
                                               "~member": lambda named: store._rare().member(*named)}


def _jsonable(value: Any) -> Any:
    """A value in JSON's own types, the others tagged."""
    match value:
        case store.Member() | enum.Enum():
            return {"~member": list(_named(value))}
        case dict() if all(type(key) is str and key[:1] != "~" for key in value):
            return {key: _jsonable(item) for key, item in value.items()}
        case dict():
            return {"~map": [[_jsonable(key), _jsonable(item)] for key, item in value.items()]}
        case list():
            return [_jsonable(item) for item in value]
        case tuple():
            return {"~tuple": [_jsonable(item) for item in value]}
        case set() | frozenset():
            return {f"~{type(value).__name__}": [_jsonable(item) for item in sorted(value, key=store.pack)]}
        case dt.timedelta():
            return {"~timedelta": str(value // dt.timedelta(microseconds=1))}
        case decimal.Decimal() | dt.time():
            return {f"~{type(value).__name__.lower()}": str(value)}
        case uuid.UUID() | dt.date():
            return {f"~{type(value).__name__.lower()}": _bare(value)}
        case bytes():
            return {"~bytes": base64.b64encode(value).decode()}
        case int() if not -2 ** 63 <= value < 2 ** 63:
            return {"~int": hex(value)}              # decimal has a limit of digits in Python, and of sense elsewhere
        case float() if value in (float("inf"), float("-inf")):
            return {"~float": str(value)}
    return value


def _untagged(pairs: list[tuple[str, Any]]) -> Any:
    """The value of a JSON object. Raises: ValueError if a key comes twice, or begins with "~" and is no tag."""
    tag, content = pairs[0] if len(pairs) == 1 else ("", None)
    if type(content) is str and tag in _OF_TEXT:
        return _OF_TEXT[tag](content)
    if type(content) is list and tag in _OF_LIST:
        return _OF_LIST[tag](content)
    if strange := [key for key, _ in pairs if key[:1] == "~"]:
        raise ValueError(f"{_short(strange[0])} is not one of {', '.join(_OF_TEXT)} with a string or "
                         f"{', '.join(_OF_LIST)} with a list")
    return _pairs(pairs)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(object_pairs_hook=_untagged, parse_constant=_no_constant)


def exported_log(node: store.Node, tx_id: int, progress: store.Progress) -> Iterator[str]:
    """A line for each operation of each committed transaction up to tx_id.
    Matches have done their work, and are left out."""
    for tx in node.tx_log():
        if tx.tx_id > tx_id:
            return
        for kind, what, *times in tx.ops or ():
            valid_from, valid_to = [*times, None, None][:2]
            valid_from = valid_from or tx.tx_time
            # else it did nothing, as older logs allowed
            if kind != "match" and (valid_to is None or valid_from < valid_to):
                yield _line(kind, what, valid_from, valid_to, tx)
        progress(tx.tx_id, tx_id)


def exported_now(db: store.Db, progress: store.Progress) -> Iterator[str]:
    """A line for each document that the snapshot sees, in order of creation,
    with the valid time of the version that it sees."""
    found: dict[str, Any] = {"where": [["?e", "xt/id"]], "timeout": EXPORT_TIMEOUT_MS}
    page = found | {"find": ["?e", ("pull", "?e", ["*"])], "order-by": [[("created", "?e")]], "limit": BATCH_OPERATIONS}
    following = page | {"in": ["?last"], "where": [["?e", "xt/id"], [("created-after", "?e", "?last")]]}
    total, done = (db.q(found | {"find": ("count", "?e")}) or [0])[0], 0
    rows = db.q(page)
    while rows:
        for id, document in rows:
            version = db.history(id, order="desc", documents=False)[0]
            yield _line("put", document, version.valid_from, version.valid_to, None)
        done += len(rows)
        progress(done, total)
        rows = db.q(following, rows[-1][0])


def _line(kind: str, what: Any, valid_from: dt.datetime, valid_to: dt.datetime | None, tx: store.Tx | None) -> str:
    line = {kind: _jsonable(what)}
    if kind != "evict":
        line["from"] = _bare(valid_from)
    if valid_to is not None:
        line["to"] = _bare(valid_to)
    if tx is not None:
        line |= {"tx": tx.tx_id, "tx_time": _bare(tx.tx_time)}
    return json.dumps(line, ensure_ascii=False) + "\n"


class _Said(NamedTuple):
    """A line: its transaction and that one's time, if it names them; its operation, and its size."""
    tx: int | None
    tx_time: dt.datetime | None
    op: Operation
    size: int


class _Transaction(NamedTuple):
    """What is submitted together, and the bytes of its lines."""
    ops: list[Operation]
    tx_time: dt.datetime | None
    size: int


def _operation(line: bytes) -> _Said:
    """What a line says. Raises: ValueError or StoreError saying what is wrong."""
    if len(line) > LINE_BYTES_MAX:
        raise ValueError(f"it is longer than {LINE_BYTES_MAX:,} bytes")
    try:
        said = _decoder.decode(line.decode().strip())
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error.msg} at character {error.colno}") from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if type(said) is not dict or len(kinds := said.keys() & {"put", "delete", "evict"}) != 1:
        raise ValueError("wanted an object with one of put, delete and evict")
    kind, = kinds
    if strange := said.keys() - {kind, "tx", "tx_time"} - ({"from", "to"} if kind != "evict" else set()):
        raise ValueError(f"it has {_short(min(strange))}, which {kind} does not take")
    if type(tx := said.get("tx")) is not int and tx is not None:
        raise ValueError("its tx is not a number")
    if (tx_time := _said_time(said, "tx_time")) is not None and tx is None:
        raise ValueError("it has a tx_time and no tx")
    start, end = _said_time(said, "from"), _said_time(said, "to")
    if end is not None and end < (start or end):
        raise ValueError("it ends before it begins")
    return _Said(tx, tx_time, _made(kind, said[kind], start, end), len(line))


def _said_time(said: dict[str, Any], word: str) -> dt.datetime | None:
    if (text := said.get(word)) is None:
        return None
    if type(text) is not str:
        raise ValueError(f"its {word} is not a time")
    return moment(text)


def _made(kind: str, what: Any, start: dt.datetime | None, end: dt.datetime | None) -> Operation:
    if kind == "put":
        store.pack_document(what)
        return store.put(what, start, end)
    store.check_id(what)
    store.pack(what)
    return store.evict(what) if kind == "evict" else store.delete(what, start, end)


def _operations(source: IO[bytes]) -> Iterator[_Said]:
    """What each line says. Raises: ShellError naming the first line that cannot be imported."""
    newest = None
    for number in itertools.count(1):
        if not (line := source.readline(LINE_BYTES_MAX + 1)):
            return
        if line.isspace():
            continue
        try:
            said = _operation(line)
            _check_order(said, newest)
        except (ValueError, TypeError, OverflowError, store.StoreError) as error:
            why = str(error).rstrip(".")
            raise ShellError(f"Line {number:,} cannot be imported: {why}. Nothing was written.") from None
        newest = newest if said.tx is None else said
        yield said


def _check_order(said: _Said, newest: _Said | None) -> None:
    """Raises: ValueError if a line's transaction or its time comes before that of the newest line that has one."""
    if said.tx is None or newest is None or newest.tx is None:
        return
    if said.tx < newest.tx:
        raise ValueError(f"it is of transaction {said.tx}, after one of {newest.tx}")
    if (said.tx_time is None) != (newest.tx_time is None):
        raise ValueError("some lines have a tx_time, and others none")
    if said.tx == newest.tx and said.tx_time != newest.tx_time:
        raise ValueError(f"transaction {said.tx} has two times")
    if said.tx != newest.tx and said.tx_time and newest.tx_time and said.tx_time <= newest.tx_time:
        raise ValueError("its tx_time is not after that of the transaction before")


def _transactions(lines: Iterable[_Said]) -> Iterator[_Transaction]:
    """The transactions that the lines make."""
    made = _Transaction([], None, 0)
    current: int | None = None
    ids: set[bytes] = set()
    for tx, tx_time, op, length in lines:
        id = store.pack(op[1]["xt/id"] if op[0] == "put" else op[1])
        is_full = tx is None and (len(made.ops) >= BATCH_OPERATIONS or made.size > BATCH_BYTES or id in ids)
        if made.ops and (tx != current or is_full):
            yield made
            made, ids = _Transaction([], None, 0), set()
        if len(made.ops) >= store.OPERATIONS_MAX:
            raise ShellError(f"Transaction {tx} has more than {store.OPERATIONS_MAX:,} operations. "
                             "Nothing was written.")
        made.ops.append(op)
        ids.add(id)
        made, current = made._replace(tx_time=tx_time, size=made.size + length), tx
    if made.ops:
        yield made


class Import:
    """Lines that can be submitted: every one of them was looked at. Raises: ShellError naming the first that is bad.

    `lines` gives them, and is called twice: to check them, and to write them.
    """

    def __init__(self, lines: Callable[[], Iterable[_Said]]):
        self._lines = lines
        self._bytes = self.operations = self.transactions = 0
        for ops, _, size in _transactions(lines()):
            self._bytes += size
            self.operations += len(ops)
            self.transactions += 1

    def submit(self, node: store.Node) -> None:
        """Submits them in their order. Raises: StoreError, saying how far it came."""
        with Bar("importing bytes") as bar:
            asyncio.run(_submitted(node, _transactions(self._lines()), bar, self._bytes))

    @classmethod
    def of(cls, source: IO[bytes]) -> "Import":
        """The lines that `export` wrote."""
        source = source if source.seekable() else _spooled(source)
        start = source.tell()

        def lines() -> Iterator[_Said]:
            source.seek(start)
            return _operations(source)
        return cls(lines)


def _spooled(source: IO[bytes]) -> IO[bytes]:
    """A copy of what can be read only once, since it is read twice: to be checked, and to be written."""
    copy = tempfile.TemporaryFile(prefix="store-import-")
    shutil.copyfileobj(source, copy)
    copy.seek(0)
    return copy


async def _submitted(node: store.Node, transactions: Iterable[_Transaction], bar: Bar, total: int) -> None:
    """Submits the transactions in order, a bounded number at once so that they share their syncs.

    They keep their times if the first of them is newer than what the store has.
    """
    done = count = 0
    newest, keeps_times = node.latest_tx, None
    for group in _groups(transactions):
        if keeps_times is None:
            first = group[0].tx_time
            keeps_times = first is not None and (newest is None or first > newest.tx_time)
        try:
            await asyncio.gather(*(node.submit(ops, tx_time=tx_time if keeps_times else None)
                                   for ops, tx_time, _ in group))
        except store.StoreError as error:
            raise ShellError(f"{error} The first {count:,} transactions are in the store, of the next {len(group):,} "
                             "some.") from error
        done, count = done + sum(size for _, _, size in group), count + len(group)
        bar(done, total)


def _groups(transactions: Iterable[_Transaction]) -> Iterator[list[_Transaction]]:
    group: list[_Transaction] = []
    operations = size = 0
    for transaction in transactions:
        group.append(transaction)
        operations, size = operations + len(transaction.ops), size + transaction.size
        if operations >= BATCH_OPERATIONS or size >= BATCH_BYTES:
            yield group
            group, operations, size = [], 0, 0
    if group:
        yield group


# ── The shell ────────────────────────────────────────────────────────────────────────────────────────────────


class Shell:
    """A store, and the moment of it that is looked at."""

    def __init__(self, node: store.Node, name: str, is_copy: bool = False):
        self.node, self.name, self.is_copy = node, name, is_copy
        self.at: dict[str, Any] = {}         # the arguments of node.db
        self.is_over = False

    @property
    def db(self) -> store.Db:
        return self.node.db(**self.at)

    def run(self, line: str) -> None:
        """Does what a line says. Raises: ShellError, StoreError."""
        line = line.strip()
        if not line or line.startswith("#"):
            return
        if not line.startswith("."):
            return self._query(line)
        word, _, rest = line.partition(" ")
        if word not in COMMANDS:
            raise ShellError(f"There is no {_short(word)}; .help lists what there is.{store._meant(word, COMMANDS)}")
        COMMANDS[word][0](self, rest.strip())

    def _query(self, line: str) -> None:
        query, args = _query_of(line)
        begun = time.perf_counter()
        answers = self.db.q(query, *args)
        took_ms = (time.perf_counter() - begun) * 1000
        self._show(*tabled(query, answers), took_ms)

    def _show(self, names: list[str], rows: list[tuple], took_ms: float | None = None) -> None:
        is_seen = sys.stdout.isatty()
        shown_rows = rows[:ROWS_SHOWN] if is_seen else rows
        if rows:
            for line in table(names, shown_rows, shutil.get_terminal_size().columns if is_seen else None):
                print(line)
        hidden = len(rows) - len(shown_rows)
        if took_ms is not None:
            print(f"{len(rows):,} {'row' if len(rows) == 1 else 'rows'}, {took_ms:.1f} ms"
                  + (f"; the last {hidden:,} are not shown: limit the query, or send it through a pipe" if hidden
                     else ""),
                  file=sys.stdout if is_seen else sys.stderr)

    # Time

    def as_of(self, rest: str) -> None:
        at = {key: value for key, value in self.at.items() if key == "valid_time"}
        if rest.isdecimal():
            at["tx_id"] = int(rest)
        elif rest != "now":
            at["tx_time"] = _time(rest)
        self._look(at if rest != "now" else {})

    def valid(self, rest: str) -> None:
        at = {key: value for key, value in self.at.items() if key != "valid_time"}
        self._look(at if rest == "now" else at | {"valid_time": _time(rest)})

    def _look(self, at: dict[str, Any]) -> None:
        db = self.node.db(**at)
        self.at = at
        print(f"as of transaction {db.tx_id}, valid at {_bare(db.valid_time)}")

    # Looking

    def entity(self, rest: str) -> None:
        document = self.db.entity(_id(rest))
        if document is None:
            raise ShellError(f"Nothing is visible of {_short(rest)} here.")
        self._show(["attribute", "value"], list(document.items()))

    def history(self, rest: str) -> None:
        versions = self.db.history(_id(rest), future=True)
        self._show(["valid from", "valid to", "tx_id", "document"], [tuple(version) for version in versions])
        if not versions:
            raise ShellError(f"{_short(rest)} has no history here.")

    def log(self, rest: str) -> None:
        count = _count(rest, LOG_SHOWN)
        newest = self.db.tx_id
        committed = itertools.takewhile(lambda tx: tx.tx_id <= newest, self.node.tx_log(max(newest - count, 0)))
        told = {tx.tx_id: tx for tx in committed}
        rows: list[tuple] = []
        for tx_id in range(max(newest - count, 0) + 1, newest + 1):
            tx = told.get(tx_id) or self.node.tx(tx_id)
            if tx is not None:
                shown_ops: list[Any] = tx.ops or ["nothing" if tx.committed else "aborted"]
                rows += [(tx_id, tx.tx_time, op) for op in shown_ops]
        self._show(["tx_id", "tx_time", "operation"], rows)

    def explain(self, rest: str) -> None:
        query, args = _query_of(rest)
        print(self.db.explain(query, *args))

    def analyze(self, rest: str) -> None:
        query, args = _query_of(rest)
        print(self.db.explain(query, *args, analyze=True))

    def attributes(self, rest: str) -> None:
        self._show(["attribute", "facts put"], sorted(self.node.attribute_stats().items()))

    def status(self, rest: str) -> None:
        self._show(["", "status"], list(self.node.status().items()))

    # Keeping

    def verify(self, rest: str) -> None:
        with Bar("verifying") as bar:
            count = self.node.verify(bar)
        print(f"The chain of hashes holds over {count:,} transactions, and every document has its own.")

    def reindex(self, rest: str) -> None:
        with Bar("reindexing") as bar:
            self.node.reindex(bar)
        print(f"The index is made anew from {self.node.status()['tx_id']:,} transactions.")

    def backup(self, rest: str) -> None:
        path = os.path.expanduser(_needed(rest, "a path"))
        with Bar("copying pages") as bar:
            tx_id = self.node.backup(path, bar)
        print(f"{_bare(path)} holds the store up to transaction {tx_id:,}.")

    # Moving

    def export(self, rest: str) -> None:
        *path, what = rest.split() if rest.endswith(" now") else (rest, "log")
        name = os.path.expanduser(_needed(" ".join(path), "a path"))
        try:
            with open(name, "x", encoding="utf-8", newline="\n", opener=_for_its_owner) as file:
                try:
                    count = self.export_to(file.write, what)
                except BaseException:
                    os.unlink(name)
                    raise
        except OSError as error:
            raise ShellError(f"{_short(name)} cannot be written: {error.strerror}.") from None
        print(f"{count:,} lines are in {_bare(name)}.")

    def export_to(self, write: Write, what: str) -> int:
        """Writes the lines of the log, or of what is visible "now"; how many there were."""
        count = 0
        with Bar("exporting") as bar:
            for line in exported_now(self.db, bar) if what == "now" else exported_log(self.node, self.db.tx_id, bar):
                write(line)
                count += 1
        return count

    def import_(self, rest: str) -> None:
        path = os.path.expanduser(_needed(rest, "a path"))
        try:
            with open(path, "rb") as file:
                self.import_lines(Import.of(file))
        except OSError as error:
            raise ShellError(f"{_short(path)} cannot be read: {error.strerror}.") from None

    def load(self, rest: str) -> None:
        path, space, given = _needed(rest, "a path").partition(" {")
        options = parsed("{" + given) if space else {}
        if type(options) is not dict:
            raise ShellError(f"{_short(shown(options))} are no options; wanted a dict, such as {{\"id\": \"email\"}}.")
        documents = store._sibling("store_import").documents
        rows = functools.partial(documents, os.path.expanduser(path.strip()), options, self.node.new_id)
        self.import_lines(Import(lambda: (_Said(None, None, store.put(document), size) for document, size in rows())))

    def import_lines(self, lines: Import) -> None:
        self._check_ours("import")
        lines.submit(self.node)
        print(f"{lines.operations:,} operations are in, in {lines.transactions:,} transactions.", file=sys.stderr)

    # Writing

    def put(self, rest: str) -> None:
        self._submit([("put", *_parts(_needed(rest, "a document")))])

    def delete(self, rest: str) -> None:
        self._submit([("delete", *_parts(_needed(rest, "an id")))])

    def tx(self, rest: str) -> None:
        ops = parsed(_needed(rest, "a list of operations, such as [(\"put\", {…}), (\"delete\", \"ann\")]"))
        self._submit(ops if type(ops) is list else [ops])

    def _submit(self, ops: list) -> None:
        self._check_ours("write")
        tx = self.node.submit_tx(ops)
        print(f"transaction {tx.tx_id:,} {'committed' if tx.committed else 'aborted: nothing has changed'}")

    def _check_ours(self, what: str) -> None:
        if self.is_copy:
            raise ShellError(f"This is a copy, which goes at the end: to {what}, open the store itself.")

    # Leaving

    def help(self, rest: str) -> None:
        for word, (_, argument, does) in COMMANDS.items():
            print(f"{word + ' ' + argument:24}{does}")
        print("\nAnything else is a query in Python data, and its arguments after a comma:\n"
              '  {"find": ["?e"], "in": ["?name"], "where": [["?e", "user/name", "?name"]]}, "Ann"')

    def quit(self, rest: str) -> None:
        self.is_over = True


COMMANDS: dict[str, tuple[Callable[[Shell, str], None], str, str]] = {
    ".as-of": (Shell.as_of, "TX_ID|TIME|now", "looks at the store as it was then, and valid then"),
    ".valid": (Shell.valid, "TIME|now", "looks at another valid time"),
    ".entity": (Shell.entity, "ID", "the document of an entity"),
    ".history": (Shell.history, "ID", "its versions over valid time, as known at the moment that is looked at"),
    ".log": (Shell.log, "[N]", f"the last N transactions, {LOG_SHOWN} if not told"),
    ".attributes": (Shell.attributes, "", "every attribute, and how many facts of it were put"),
    ".explain": (Shell.explain, "QUERY", "the clauses in their order, the SQL, and SQLite's plan of it"),
    ".analyze": (Shell.analyze, "QUERY", "the same, and the rows and milliseconds of each step, by asking it"),
    ".status": (Shell.status, "", "sizes and positions"),
    ".verify": (Shell.verify, "", "checks the chain of hashes, and every document against it"),
    ".reindex": (Shell.reindex, "", "derives the index again from the log"),
    ".backup": (Shell.backup, "PATH", "writes a copy of the store to a new file"),
    ".export": (Shell.export, "PATH [now]", "the whole history as JSON lines; now: only what is visible"),
    ".import": (Shell.import_, "PATH", "submits what such lines say; all of them, or none if one is bad"),
    ".load": (Shell.load, "PATH [OPTIONS]", "puts what a CSV, JSON lines or SQLite file has: see store_import.py"),
    ".put": (Shell.put, "DOCUMENT[, FROM[, TO]]", "submits a put"),
    ".delete": (Shell.delete, "ID[, FROM[, TO]]", "submits a delete"),
    ".tx": (Shell.tx, "[OPERATION, …]", "submits operations as one transaction"),
    ".help": (Shell.help, "", "this"),
    ".quit": (Shell.quit, "", "leaves, as Ctrl-D does"),
}


# Their data may go on over several lines.
_WITH_DATA = {".entity", ".history", ".explain", ".analyze", ".put", ".delete", ".tx"}


def _query_of(line: str) -> tuple[dict, tuple]:
    said = parsed(_needed(line, "a query"))
    query, *args = said if type(said) is tuple and said else (said,)
    if type(query) is not dict:
        raise ShellError(f"{_short(shown(query))} is not a query; wanted {{\"find\": …, \"where\": …}}, or .help.")
    return query, tuple(args)


def _parts(text: str) -> tuple:
    """A value with the times after it, or an id in bare words."""
    said = _id(text)
    is_timed = type(said) is tuple and 1 < len(said) < 4 and all(type(part) is dt.datetime for part in said[1:])
    return said if is_timed else (said,)


def _id(text: str) -> Any:
    """An id as it is written in data; bare words are a string, and what looks like a UUID is one."""
    text = _needed(text, "an id")
    if len(text) == 36:
        with contextlib.suppress(ValueError):
            return uuid.UUID(text)
    try:
        return parsed(text)
    except ShellError:
        if text[0].isalnum() and "(" not in text:
            return text
        raise


def _time(text: str) -> dt.datetime:
    try:
        return moment(_needed(text, "a time").strip("\"'"))
    except ValueError:
        raise ShellError(f"{_short(text)} is not a time; wanted one such as 2026-05-01 or 2026-05-01T12:30Z, "
                         "or now.") from None


def _count(text: str, default: int) -> int:
    if text and not text.isdecimal():
        raise ShellError(f"{_short(text)} is not a number.")
    return int(text or default)


def _needed(text: str, what: str) -> str:
    if not text:
        raise ShellError(f"Wanted {what} after it.")
    return text


# ── At the terminal ──────────────────────────────────────────────────────────────────────────────────────────


def _lines(source: Iterable[str]) -> Iterator[str]:
    """Lines, each with those that follow it until its brackets close."""
    held = ""
    for line in source:
        held += line if held or line.strip() else ""
        if held and is_whole(held):
            yield held
            held = ""
    if held:
        yield held


def _typed() -> str:
    """The next line at the prompt, with those that follow it until its brackets close. Raises: EOFError at Ctrl-D."""
    held = ""
    while not held or not is_whole(held):
        held += input("   ...> " if held else "store> ") + "\n"
    return held


def _completing(shell: Shell) -> Callable[[str, int], str | None]:
    """Completes commands at the start of a line, and attributes in strings."""
    def complete(text: str, state: int) -> str | None:
        words = [*(COMMANDS if readline.get_begidx() == 0 else ()), *shell.node.attribute_stats()]
        return next(itertools.islice((word for word in words if word.startswith(text)), state, None), None)
    return complete


@contextlib.contextmanager
def _line_editing(shell: Shell) -> Iterator[None]:
    """Arrow keys, Tab and the lines of earlier sessions, where Python has `readline`."""
    if readline is None:
        yield
        return
    path = os.path.expanduser(HISTORY_FILE)
    readline.set_completer(_completing(shell))
    readline.set_completer_delims(" \t\n\"'[](){},")
    readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")
    readline.set_history_length(HISTORY_LINES)
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
            readline.write_history_file(path)


def _talk(shell: Shell) -> int:
    """A session at the terminal: what goes wrong is said, and the next line is asked for."""
    print(f"{_bare(shell.name)}: {shell.db.tx_id:,} transactions{', a copy' if shell.is_copy else ''}. .help lists "
          "what can be asked.")
    with _line_editing(shell):
        while not shell.is_over:
            try:
                _run(shell, _typed())
            except KeyboardInterrupt:
                print("\nInterrupted.")
            except EOFError:
                print()
                break
            except (ShellError, store.StoreError) as error:
                print(error)
    return 0


def _run(shell: Shell, line: str) -> None:
    """Does what a line says; Ctrl-C is KeyboardInterrupt although SQLite swallows what is
    raised while it asks whether to go on."""
    interrupts: list[object] = []

    def interrupt(*signalled: object) -> None:
        interrupts.append(signalled)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        shell.run(line)
    except store.StoreError:
        if interrupts:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def _obey(shell: Shell, lines: Iterable[str]) -> int:
    """Lines that were given: the first that fails is the last."""
    for line in lines:
        try:
            _run(shell, line)
        except (ShellError, store.StoreError) as error:
            sys.stdout.flush()
            print(error, file=sys.stderr)
            return 1
        if shell.is_over:
            break
    return 0


@contextlib.contextmanager
def _copy(path: str) -> Iterator[str]:
    """The path of a copy of a store as of now, made through SQLite while its owner goes on; it goes with the block."""
    with tempfile.TemporaryDirectory(prefix="store-copy-") as folder, Bar("copying pages") as bar:
        copy = os.path.join(folder, os.path.basename(path))
        source = sqlite3.connect(f"file:{urllib.parse.quote(os.path.realpath(path))}?mode=ro", uri=True,
                                 isolation_level=None)
        with contextlib.closing(source), contextlib.closing(sqlite3.connect(copy)) as target:
            source.execute("begin")
            # from here on one state, whatever is written beside
            source.execute("select 1 from sqlite_schema").fetchone()
            source.backup(target, pages=COPY_PAGES, progress=lambda _, left, total: bar(total - left, total))
            target.execute("pragma application_id = 0")  # of a server's index it is a store that no log owns
        yield copy


def _for_its_owner(path: str, flags: int) -> int:
    """Opens a new file that nobody else can read, whatever the umask. With open's "x" it follows no link."""
    return os.open(path, flags, 0o600)


def _functions(name: str | None) -> dict[str, Callable[..., Any]]:
    """The functions that a module has under a name, for queries and calls to name."""
    if name is None:
        return {}
    module, _, attribute = name.partition(":")
    sys.path.insert(0, "")
    try:
        return dict(getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ShellError(f"{_short(name)} is not a dict of functions, written MODULE:NAME: {error}.") from None


def _check_not_foreign(path: str) -> None:
    """Refuses another program's SQLite file before the store opens it, since that would change its way of writing."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{urllib.parse.quote(os.path.realpath(path))}?mode=ro",
                                                uri=True)) as file:
            names = {name for name, in file.execute("select name from sqlite_schema")}
    except sqlite3.Error:
        return                           # damaged, or no SQLite file: the store says what it is
    if "log" not in names:
        raise ShellError(f"{_short(path)} is a SQLite file, but not a store.")


@contextlib.contextmanager
def _opened(said: argparse.Namespace, is_new: bool) -> Iterator[store.Node]:
    """The store that was named. Raises: ShellError if there is none and none is to be made; StoreError."""
    address, is_file = said.store, "://" not in said.store and said.store != ":memory:"
    if is_file and not (os.path.exists(address) and os.path.getsize(address)):
        if not is_new:
            raise ShellError(f"There is no store at {_short(address)}; `import` makes one, or --new.")
    elif is_file:
        _check_not_foreign(address)
    if not is_file and said.copy:
        raise ShellError("Only a file can be copied: of a log on PostgreSQL, that in which a server has its index.")
    with contextlib.ExitStack() as stack:
        if said.copy:
            try:
                address = stack.enter_context(_copy(address))
            except sqlite3.Error as error:
                raise ShellError(f"{_short(address)} cannot be copied: {error}.") from None
        with Bar("catching up") as bar:
            try:
                node = store.open(address, _functions(said.functions), index=said.index, progress=bar)
            except store.LockedError as error:
                raise ShellError(f"{error} Or look at a copy as of now: "
                                 f"{COMMAND} --copy {_short(address)}") from None
        stack.callback(node.close)
        yield node


def _do(shell: Shell, lines: list[str]) -> int:
    if lines in (["export"], ["export", "now"]):
        shell.export_to(sys.stdout.write, lines[-1])
    elif lines:
        return _obey(shell, lines)
    elif sys.stdin.isatty() and sys.stdout.isatty():
        return _talk(shell)
    else:
        return _obey(shell, _lines(sys.stdin))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The exit status, after the store is closed."""
    about, _, details = (__doc__ or "").replace("python shell.py", COMMAND).partition("\n\n")
    parser = argparse.ArgumentParser(prog=COMMAND.removeprefix("python "), description=about, epilog=details,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--new", action="store_true", help="make the store if there is none")
    parser.add_argument("--copy", action="store_true", help="look at a copy as of now, which goes at the end: "
                                                            "nothing is done to the store")
    parser.add_argument("--functions", metavar="MODULE:NAME",
                        help="a dict of the functions that queries and calls may name")
    parser.add_argument("--index", metavar="FILE", help="of a log on PostgreSQL: the shell's own index of it; give "
                                                        "--functions too if the "
                        "servers have any, since whoever comes first decides what a call becomes")
    parser.add_argument("store", help="the store's file, or its address")
    parser.add_argument("line", nargs="*", help="a query or command, several in order; or `export`, `export now`, "
                                                "`import`")
    said = parser.parse_intermixed_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        # a store is not made for a bad line
        lines = Import.of(sys.stdin.buffer) if said.line == ["import"] else None
        with _opened(said, said.new or lines is not None) as node:
            shell = Shell(node, said.store, said.copy)
            if lines is None:
                status = _do(shell, said.line)
            else:
                shell.import_lines(lines)
                status = 0
            sys.stdout.flush()
            return status
    except (ShellError, store.StoreError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())      # or Python complains once more as it ends
        return 141


if __name__ == "__main__":
    sys.exit(main())
