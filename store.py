# SPDX-License-Identifier: MIT
"""An immutable, bitemporal document store: put documents, ask Datalog, see any past state, hear every transaction.

    import store
    from store import put

    node = store.open(":memory:")
    before = node.submit_tx([put({"xt/id": "ann", "user/email": "ann@example.com"})])
    node.submit_tx([put({"xt/id": "ann", "user/email": "ann@example.org"})])

    emails = {"find": "?email", "in": ["?who"], "where": [["?who", "user/email", "?email"]]}
    print(node.db().q(emails, "ann"))                # ['ann@example.org']
    print(node.db(before.tx_id).q(emails, "ann"))    # ['ann@example.com']
    node.close()

What is promised
- A transaction that was acknowledged survives the death of the process, and of the machine as far as its disk tells
  the truth; it is there whole or not at all.
- `tx_id` is 1, 2, 3 … without gaps; `tx_time` always rises, whatever the clock does.
- The log is the only truth: the index is derived from it, and `reindex` derives it again.
- A snapshot `db(tx_id)` answers the same for ever. Only `evict` changes the past; that is what it is for.
- A listener hears each committed transaction once, in order.
- Bad input is refused with one sentence before anything is written or read.

The words are XTDB's: a *document* is an entity's state, a dict under "xt/id"; *valid time* is when it is true of the
world, *transaction time* when it was recorded. In the query engine `e`, `a`, `v` are entity, attribute and value; `T`
and `vt` are a snapshot's transaction and valid time, both integers there (a tx_id; microseconds since 1970).
"""

from __future__ import annotations

import asyncio
import bisect
import collections
import concurrent.futures
import contextlib
import copy
import dataclasses
import datetime as dt
import decimal
import difflib
import enum
import functools
import hashlib
import heapq
import importlib
import inspect
import io
import itertools
import json
import logging
import marshal
import math
import mmap
import operator
import os
import random
import re
import shutil
import sqlite3
import struct
import tempfile
import threading
import time
import types
import urllib.parse
import uuid
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, Self

import msgpack

try:
    import fcntl
except ImportError:                   # Windows
    fcntl = None                      # type: ignore[assignment]

__all__ = ["open", "put", "delete", "patch", "match", "cas", "evict", "call", "aggregate", "Node", "Db", "Tx",
           "Version", "Listener", "StoreError", "ClosedError", "LockedError", "CorruptError", "NotIndexedError",
           "LateError", "UnreachableError", "OperationError", "AbortedError", "ValueTypeError", "QueryError",
           "UnknownVariableError", "QueryLimitError"]
__version__ = "0.1.0"

log = logging.getLogger("store")

# ── Words ────────────────────────────────────────────────────────────────────────────────────────────────────
#
# Limits and constants, each with its reason. A limit is a decision.

FORMAT = 1                            # of log and documents; another one is refused, never guessed at
INDEX_MARK = 0x73746F72               # "stor", as the application id of a file that only indexes a log elsewhere
EPOCH_UNIT, EPOCHS = 2 ** 8, 2 ** 22  # SQLite's user_version: INDEX_FORMAT, above it the write-ahead log's number
SQLITE_MIN = 3, 35, 0                 # "as materialized"; older ones fail inside queries
INDEX_FORMAT = 5                      # of what is derived from them; another one is derived anew at opening
OPEN = 2 ** 62                        # the end of what has no end, in valid time and in transactions
PAST = 2 ** 40                        # closed rows store k = closing tx_id − this: one `k > bound` finds live ones too
TEXT_BYTES_MAX = 64                   # longer strings and bytes are indexed by their hash: the index stays small
DOCUMENT_BYTES_MAX = 8 * 2 ** 20      # a document is read whole; what is larger belongs in a file
DEPTH_MAX = 100                       # of nested values: far below where recursion would end badly
SCHEMA_ID = uuid.UUID("5c4e3a00-0000-4000-8000-000000000000")         # of the document that says what is declared
OPERATIONS_MAX = 1_000_000            # in one transaction, calls expanded: it is held in memory while it is applied
GATHER_S = 0.0005                     # that a group waits for the threads of the one before it: about as long as a sync
IDLE_S = 5                            # without a group, then the thread that commits groups ends
LOCK_S = 5                            # that a commit waits for other processes, unless `open` is told otherwise
LOCK_AGAIN_S = 0.0004, 0.004          # between two attempts, rising: who has the lock writes on, at 20 puts a turn
LOCK_TURN_S = 0.1                     # after that it is tried so often that the moment between two commits is enough
READ_ON_MAX, READ_ON_BYTES = 1_000, 2 ** 18     # transactions of others that are read one by one, and their bytes
COUNT_LATER = 200, 2_000              # documents of others that the statistics may lack: an eighth, within these bounds
POLL_S = 0.01                         # between two looks for what others have written, where no bells ring
JOIN_S = 1                            # that a closing node waits for the thread that looks
EMPTY_AGAIN_S = 0.5                   # between two attempts to empty it while others read
EMPTY_MS = 100                        # that the writer waits for readers before it empties the write-ahead log later
GROUP_MAX = 1_000                     # transactions in one commit: bounds the wait of the first of them
CACHE_BYTES = 16 * 2 ** 20            # of packed documents kept decoded; decoded they take about 3.2 times that
PAST_CACHED = 4_096                   # the same for a snapshot of the past, in each
POINTS_CACHED = 4_096                 # transactions whose time is known without a statement, for snapshots of the past
PLAIN_CACHED = 32_768                 # entities whose document is found without a statement; some 4 MB
FOLLOWED_MAX = PLAIN_CACHED // 2      # facts of an attribute whose documents a join reads: they stay in memory
IDS_CACHED = 65_536                   # UUIDs kept beside their numbers, either way
SHAPES_CACHED = 1_024                 # sets of attributes whose order and bytes are kept; an application has dozens
ROWS_A_STATEMENT = 64, 8              # that one INSERT takes, and UUIDs one look-up; what is left goes one by one
FACTS_A_ROW = 16                      # of a version, that are handed to SQLite at once: few lengths here, too
STATISTICS_EVERY = 2_000              # documents between two writings of the statistics; a crash costs counting these
READERS_IDLE = 8                      # connections kept for the next readers
WAL_BYTES_MAX = 64 * 2 ** 20          # past this, new readers wait a moment while the write-ahead log is emptied
BATCH_ROWS = 512                      # of an answer made at once: their documents are held, then the clock is looked at
PLANS_CACHED = 512                    # compiled queries; an application has some dozens
QUESTIONS_MAX = 4                     # of `aq`, that run at once in a node: Python runs one thread at a time anyway
TIMEOUT_MS = 30_000                   # of a query that names none; XTDB's
LONG_ARGUMENT = 1_000                 # values that a search may be better off to begin without
COUNTED_MAX = 511                     # rows of a range, counted before a plan is chosen: some 20 µs
SKIP_MIN = 50                         # rows a value, from which searching for the next value beats looking at all rows
WALK_MAX = 8                          # times the rows that a search finds may an index be walked in order instead
STAGES_IN_A_STATEMENT = 6             # SQLite copies a stage for each that refers to it: twice as many for each upon it
STAGE_TABLES = 50                     # joins in one SELECT; SQLite takes 64
SUPPOSED_TABLES = 3                   # that a triple joins on a supposed snapshot
COLUMNS_MAX = 1_900                   # of one SELECT; SQLite takes 2,000
PARAMETERS_MAX = 32_000               # of one statement; SQLite takes 32,766
ARGUMENTS_MAX = 120                   # different variables in a call; SQLite's functions take 127 arguments
UNION_TERMS = 490                     # SELECTs in one union; SQLite takes 500
EXPANDED_MAX = 60                     # clauses for which a rule is replaced; one that makes more gets a table
GROUP_TERMS = 100                     # conditions in a row; SQLite takes expressions of depth 1,000
NESTED_SELECTS = 5                    # of `not` in `not`; SQLite's parser gives up at some twenty
NESTED_MAX = 120                      # of lists, tuples and dicts in a query; Python and SQLite recurse over them
RECTS_READ = 8                        # rectangles of an entity that a transaction reads at once: it seldom needs more
STEPS = 10_000                        # of SQLite's machine between two looks at the clock: below 1 % of a query's time
LISTEN_BATCH = 64                     # transactions that a listener reads at once, before the loop gets a turn
NOTICE_BYTES_MAX = 7_900              # of a notice, which nothing stores: PostgreSQL takes less than 8,000
RECENT_MAX = 1_024                    # transactions kept in memory: listeners that keep up need not read the log
RECENT_BYTES = 4 * 2 ** 20            # of documents in these
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
_MICROS_MIN, _MICROS_MAX = -62_135_596_800_000_000, 253_402_300_799_999_999   # years 1 to 9999 in UTC, all of Python's
NOTHING: Mapping[str, Any] = types.MappingProxyType({})

Document = dict[str, Any]             # an entity's state, under "xt/id"
Operation = tuple[Any, ...]           # as `put` and its neighbours make them
Progress = Callable[[int, int], None] # told (done, of) as work goes on


def _micros(moment: dt.datetime) -> int:
    """Microseconds since 1970 of an aware datetime. Raises: ValueTypeError if `_moment` could not give it back."""
    try:
        since = moment - EPOCH
    except TypeError:
        raise ValueTypeError(f"{moment!r} has no time zone; wanted an aware datetime, such as "
                             f"datetime.now(timezone.utc).") from None
    micros = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    if not _MICROS_MIN <= micros <= _MICROS_MAX:
        raise ValueTypeError(f"{moment!r} lies outside the years 1 to 9999 in UTC.")
    return micros


def _moment(micros: int) -> dt.datetime:
    return EPOCH + dt.timedelta(microseconds=micros)


def _given_micros(moment: Any, what: str) -> int:
    if type(moment) is not dt.datetime or moment.utcoffset() is None:
        raise ValueTypeError(f"{what} is {_short(moment)}; wanted an aware datetime, such as "
                             f"datetime.now(timezone.utc).")
    return _micros(moment)


def _tx_id(tx: "int | Tx") -> int:
    """The number of a transaction, which may be given as `submit_tx` returned it."""
    if type(tx) is int:
        return tx
    if type(tx) is Tx:
        return tx.tx_id
    way = " A snapshot of a time is db(tx_time=…) or db(valid_time=…)." if isinstance(tx, dt.datetime) else ""
    raise StoreError(f"{_short(tx)} is not a transaction; wanted its tx_id, or what submit_tx returned.{way}")


def _short(value: Any) -> str:
    """A value for an error message: one line, never more than a piece of someone's text."""
    try:
        text = repr(value)
    except Exception:                # a value that cannot even be shown, such as one nested too deep
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "…"


def _meant(given: Any, known: Iterable[str]) -> str:
    """The end of a sentence about a name that is not known: which one may have been meant."""
    alike = difflib.get_close_matches(str(given).strip(":").lower().replace("_", "-"), list(known), 1, 0.7)
    return f" Did you mean {_short(alike[0])}?" if alike else ""


class Tx(NamedTuple):
    """A transaction: its place in the log, its time, whether it committed; for listeners and `tx_log` its operations.

    `ops` are tuples as they were submitted, calls replaced by what they became, documents whole:
    ("put", document[, valid_from[, valid_to]]), ("delete", id[, …]), ("evict", id) and
    ("match", id, content_hash[, valid_time]): the log keeps only the hash of a document to match, or None.
    A patch and a cas are calls, too: they became the puts of whole documents.
    An evicted document reads {"xt/id": id, "xt/evicted?": True}.
    `reason` says why it aborted, in what `submit_tx` returns; the log does not keep it.
    """
    tx_id: int
    tx_time: dt.datetime
    committed: bool = True
    ops: list[Operation] | None = None
    reason: str | None = None


class Version(NamedTuple("Version", [("valid_from", dt.datetime), ("valid_to", dt.datetime | None), ("tx_id", int),
                                     ("document", Document | None)])):
    """One entry of an entity's history: the document held from valid_from until valid_to (None: no end)."""
    _ask: Callable[[], str] | None = None

    @functools.cached_property
    def content_hash(self) -> str | None:
        """The hash of the document as `entity_tx` tells it, looked up when first asked for; None of a deletion."""
        return self._ask and self._ask()

    def __reduce__(self) -> tuple:
        return Version, tuple(self), {"content_hash": self.content_hash}


class EntityTx(NamedTuple):
    """Which version of an entity a snapshot sees: the transaction that put it and when it begins to be valid."""
    id: Any
    valid_time: dt.datetime
    tx_id: int
    tx_time: dt.datetime
    content_hash: str


# ── Errors ───────────────────────────────────────────────────────────────────────────────────────────────────
#
# One root, few leaves. Each message says what came, what was wanted, where, and the way out.


class StoreError(Exception):
    """The root of everything that this file raises on purpose."""


class ClosedError(StoreError):
    """The node was closed, belongs to another process, or stopped after a failed write."""


class LockedError(StoreError):
    """Other processes write for too long, or the file is open under another name or as the index of a log."""


class CorruptError(StoreError):
    """What is on the disk is not what was written. `tx_id` is the first transaction in doubt, if known."""

    def __init__(self, message: str, tx_id: int | None = None):
        super().__init__(message)
        self.tx_id = tx_id


class NotIndexedError(StoreError):
    """A transaction was asked for that this node has not indexed (yet)."""


class LateError(NotIndexedError, TimeoutError):
    """It was not indexed within the time that `await_tx` or `sync` was given."""


class UnreachableError(StoreError):
    """The log does not answer; reads go on. `in_doubt`: whether the transaction may have been written all the same."""

    def __init__(self, message: str, in_doubt: bool = False):
        super().__init__(message)
        self.in_doubt = in_doubt


class OperationError(StoreError):
    """An operation is malformed; nothing was written."""


class AbortedError(StoreError):
    """A transaction aborted; `tx` is what `submit_tx` would have returned. Nothing of it holds."""

    def __init__(self, tx: Tx):
        super().__init__(f"Transaction {tx.tx_id} aborted: {tx.reason}")
        self.tx = tx


class ValueTypeError(OperationError):
    """A value, id or time is of a kind that cannot be stored; nothing was written."""


class QueryError(StoreError):
    """A query or pull pattern is malformed; nothing was read."""


class UnknownVariableError(QueryError):
    """A variable is used that nothing binds."""


class QueryLimitError(StoreError):
    """A query took longer than its timeout and was interrupted."""


_LATE = "The query took longer than its timeout and was interrupted. Bind more, or raise \"timeout\"."
_BROKEN = "Restore a backup; `verify` says of it whether it is whole."


# ── Operations ───────────────────────────────────────────────────────────────────────────────────────────────
#
# Plain tuples, so that a transaction is data. These functions only spell them.


def put(document: Document, valid_from: dt.datetime | None = None, valid_to: dt.datetime | None = None) -> Operation:
    """The document holds from valid_from (default: the transaction's time) to valid_to, or to what is known next."""
    return _timed("put", document, valid_from, valid_to)


def delete(id: Any, valid_from: dt.datetime | None = None, valid_to: dt.datetime | None = None) -> Operation:
    """Nothing holds for the entity over that span of valid time; like put, of nothing."""
    return _timed("delete", id, valid_from, valid_to)


def patch(id: Any, changes: Document, valid_from: dt.datetime | None = None,
          valid_to: dt.datetime | None = None) -> Operation:
    """Each version of the entity over that span (default: from now on) gets these attributes and keeps its others.

    `...` as a value takes the attribute away; None is a value like any other. Over a part of the span where nothing
    holds nothing will; where nothing holds over the whole of it, the changes are put as the document.
    """
    return ("patch", id, *_timed("", changes, valid_from, valid_to)[1:])


def cas(id: Any, attribute: str, old: Any, new: Any) -> Operation:
    """The attribute gets another value from now on, as by `patch`; aborts unless it holds exactly `old` now.

    `...` is no value: as `old` the attribute, or the entity, must be missing; as `new` the attribute is taken away.
    """
    return "cas", id, attribute, old, new


def match(id: Any, document: Document | None, valid_time: dt.datetime | None = None) -> Operation:
    """The transaction aborts unless exactly this document (None: nothing) is visible at valid_time."""
    return ("match", id, document) if valid_time is None else ("match", id, document, valid_time)


def evict(id: Any) -> Operation:
    """Every version and all content of the entity go, for ever and from every snapshot, past ones too."""
    return ("evict", id)


def call(name: str, *args: Any) -> Operation:
    """Calls a function given to `open` as f(ctx, *args): it returns operations, None for none, or False to abort."""
    return ("call", name, *args)


def _timed(kind: str, what: Any, start: dt.datetime | None, end: dt.datetime | None) -> Operation:
    if end is not None:
        return kind, what, start, end
    return (kind, what) if start is None else (kind, what, start)


# ── Values ───────────────────────────────────────────────────────────────────────────────────────────────────
#
# A value is stored as canonical msgpack: equal values of equal type have equal bytes, others never. Python thinks that
# 1 == 1.0 == True; the store does not. What cannot come back equal and of equal type is refused. `_TYPES` is the table.

_EXT_UUID, _EXT_DATETIME, _EXT_DATE, _EXT_TUPLE, _EXT_SET, _EXT_FROZENSET, _EXT_INT = range(1, 8)
_EXT_DECIMAL, _EXT_TIME, _EXT_DELTA, _EXT_MEMBER = range(8, 12)
_UUID_HEAD, _DATETIME_HEAD = bytes((0xd8, _EXT_UUID)), bytes((0xd7, _EXT_DATETIME))
_msgpack = msgpack.Packer(use_bin_type=True).pack      # no callbacks into Python: safe from any thread
_array_header, _map_header = msgpack.Packer().pack_array_header, msgpack.Packer().pack_map_header


class Member(NamedTuple):
    """A member of an enumeration that this program does not have: what else would be read as `enum[name]`."""
    enum: str                         # "module:Class"
    name: str


def pack(value: Any, depth: int = 0) -> bytes:
    """The canonical bytes of a value that lies so many levels deep. Raises: ValueTypeError if it cannot be stored."""
    try:
        return _packed(value, depth)
    except UnicodeEncodeError:
        raise ValueTypeError(f"A string holds half a surrogate pair, which is not text: {_short(value)}.") from None
    except (ValueError, OverflowError) as error:
        raise ValueTypeError(f"{_short(value)} cannot be stored: {error}.") from None


def unpack(data: bytes) -> Any:
    """The value that `pack` made these bytes of."""
    return msgpack.unpackb(data, ext_hook=_unpack_ext, strict_map_key=False)


def _unpack_ext(code: int, data: bytes) -> Any:
    return _UNPACK_EXT[code](data)


def _packed(value: Any, depth: int) -> bytes:
    """The bytes of a value that lies so many levels deep, by its exact type."""
    return (_PACKED.get(type(value)) or _packed_member)(value, depth + 1)


def _packed_plain(value: Any, depth: int) -> bytes:
    return _msgpack(value)


def _packed_float(value: float, depth: int) -> bytes:
    if value != value:
        raise ValueTypeError("NaN equals nothing, not even itself, and cannot be stored; leave the attribute out.")
    return _msgpack(value)


def _packed_int(value: int, depth: int) -> bytes:
    if -2 ** 63 <= value < 2 ** 64:
        return _msgpack(value)
    return _msgpack(msgpack.ExtType(_EXT_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)))


def _packed_items(values: Any, depth: int) -> list[bytes]:
    if depth > DEPTH_MAX + 1:
        raise ValueTypeError(f"A value is nested deeper than {DEPTH_MAX} levels.")
    return [_packed(value, depth) for value in values]


def _packed_list(value: Any, depth: int) -> bytes:
    return _array_header(len(value)) + b"".join(_packed_items(value, depth))


def _packed_set(value: Any, depth: int) -> bytes:
    return _array_header(len(value)) + b"".join(sorted(_packed_items(value, depth)))


def _packed_dict(value: dict, depth: int) -> bytes:
    pairs = sorted(zip(_packed_items(value, depth), _packed_items(value.values(), depth)))
    return _map_header(len(pairs)) + b"".join(part for pair in pairs for part in pair)


def _packed_member(value: Any, depth: int) -> bytes:
    """The bytes of an enumeration's member. Raises: ValueTypeError for what no document can hold."""
    kind = type(value)
    if not isinstance(value, enum.Enum):
        raise ValueTypeError(f"{_short(value)} is a {kind.__module__}.{kind.__name__}; wanted None, bool, int, float, "
                             "str, bytes, UUID, aware datetime, date, time, timedelta, Decimal, a member of an "
                             "enumeration, or a list, tuple, set or dict of these.")
    return _PACKED[Member](_rare().named(value), depth)


def _rare() -> Any:
    """What the types need that few documents have."""
    return _sibling("store_values")


def pack_document(document: Any) -> bytes:
    """The canonical bytes of a document. Raises: ValueTypeError naming the attribute that cannot be stored."""
    return _encoded(document)[0]


def _attribute_at_fault(document: dict) -> OperationError:
    for a, value in document.items():
        if type(a) is not str:
            return OperationError(f"The attribute {_short(a)} is not a string.")
        try:
            pack(a), pack(value, 1)
        except OperationError as error:
            return type(error)(f"{_short(a)}: {error}")
    return OperationError(f"The document {_short(document)} cannot be stored.")


def is_text(value: str) -> bool:
    """Whether a string can be stored: half a surrogate pair is no text."""
    return value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value)


def check_id(id: Any) -> None:
    """Nothing, or ValueTypeError if this cannot name an entity."""
    kind = type(id)
    if kind is uuid.UUID or kind is str and id.isascii():
        return
    if kind not in _ID_TYPES:
        raise ValueTypeError(f"{_short(id)} cannot be an \"xt/id\"; wanted a UUID, string, integer, or another single "
                             f"value.")
    if kind is dict and "xt/id" in id:
        raise ValueTypeError(f"{_short(id)} is a document; wanted its id, {_short(id['xt/id'])}.")
    pack(id)


class _Flat(dict):
    """A cached document that holds nothing which can be changed, as most do: one call copies it."""
    __slots__ = ()


def _copied(value: Any) -> Any:
    """The value, sharing nothing that can be changed."""
    kind = type(value)
    if kind is _Flat:
        return dict.copy(value)
    if kind in _IMMUTABLE or kind not in (dict, list, tuple, set):      # the last: a function's own object, on its way
        return value
    if kind is dict:
        return {key: item if type(item) in _IMMUTABLE else _copied(item) for key, item in value.items()}
    return kind([item if type(item) in _IMMUTABLE else _copied(item) for item in value])


def _several(value: Any) -> Any:
    """The values that an attribute has: a list or a set is several, anything else is one."""
    return value if type(value) in _SEVERAL else (value,)


# ── Cells ────────────────────────────────────────────────────────────────────────────────────────────────────
#
# A cell is what the index holds of a value: one canonical SQLite value a typed value. Equal cells are equal values.
# UUIDs are integers given in the order in which the log first mentions them, so that entities sort by creation; whole
# numbers that fit are integers below zero, which SQL gives back by an addition; strings are text; the rest is a tag and
# bytes that sort as the values do. What is long or composed is a tag and a hash; what no document holds has no cell.

Cell = int | str | bytes

_NONE, _BOOL, _INT, _FLOAT, _DATETIME, _DATE, _BYTES, _DECIMAL, _TIME, _DELTA = map(bytes, zip(range(1, 11)))
_UUID = b"\x0f"                       # of one that the file does not know
_LONG = 0x10                          # tags from here on are hashes
_HASHED: dict[type, bytes] = {str: b"\x10", bytes: b"\x11", tuple: b"\x12", dict: b"\x13", list: b"\x14", set: b"\x15",
                              frozenset: b"\x15", Member: b"\x16"}


def digest(data: bytes) -> bytes:
    """32 bytes that stand for these, as in the log."""
    return hashlib.blake2b(data, digest_size=32).digest()


def _hashed_cell(value: Any, data: bytes | None = None) -> bytes:
    """The cell of a value that is long or composed, from its bytes; a frozenset is the set that it equals."""
    value = set(value) if type(value) is frozenset else value
    return _HASHED.get(type(value), _HASHED[Member]) + hashlib.blake2b(data or pack(value), digest_size=16).digest()


def _str_cell(value: str) -> str | bytes:
    if value.isascii() and len(value) <= TEXT_BYTES_MAX:
        return value
    data = pack(value)
    return value if len(data) <= TEXT_BYTES_MAX + 2 else _hashed_cell(value, data)     # 2: how msgpack heads such texts


_SHIFT, _SMALL = 2 ** 62, 2 ** 61     # the cell of a whole number within ±2⁶¹ is that number less 2⁶²
_LEAST = -_SHIFT - _SMALL             # of these


def _big_cell(value: int) -> bytes:
    """Length first, then big-endian bytes; both are complemented below zero, so that cells sort as the numbers do."""
    size, is_negative = (value.bit_length() + 7) // 8, value < 0
    body = (value + (1 << 8 * size) - 1 if is_negative else value).to_bytes(size, "big")
    if size < 120:
        return _INT + bytes((127 - size if is_negative else 128 + size,)) + body
    return _INT + struct.pack(">BI", *(0, 2 ** 32 - 1 - size) if is_negative else (255, size)) + body


def _int_of_cell(cell: bytes) -> int:
    first = cell[1]
    body = cell[6:] if first in (0, 255) else cell[2:]
    number = int.from_bytes(body, "big")
    return number if first >= 128 else number - (1 << 8 * len(body)) + 1


def _float_cell(value: float) -> bytes:
    if value != value:
        pack(value)                   # says why there is none
    bits, = struct.unpack(">Q", struct.pack(">d", value + 0.0))       # + 0.0 makes -0.0 the same value as 0.0
    bits ^= 0xFFFF_FFFF_FFFF_FFFF if bits >> 63 else 1 << 63
    return _FLOAT + struct.pack(">Q", bits)


def _float_of_cell(cell: bytes) -> float:
    bits, = struct.unpack(">Q", cell[1:])
    bits ^= 1 << 63 if bits >> 63 else 0xFFFF_FFFF_FFFF_FFFF
    return struct.unpack(">d", struct.pack(">Q", bits))[0]


class _Type(NamedTuple):
    """What the store knows of one type of value."""
    uses: str                                        # "id": it can name an entity; "fixed": it cannot change; "several"
    packed: Callable[[Any, int], bytes]              # a value's bytes in a document, so many levels deep
    code: int = 0                                    # of its msgpack extension; 0 where msgpack has the type
    unpacked: Callable[[bytes], Any] | None = None   # the value of an extension's bytes
    cell: Callable[[Any], Cell] | None = None        # the file gives the cells of UUIDs
    tag: bytes = b""                                 # of cells that `of_cell` reads, where these are no hashes
    of_cell: Callable[[bytes], Any] | None = None


def _ext(uses: str, code: int, inner: Callable[[Any, int], bytes], *rest: Any) -> _Type:
    return _Type(uses, lambda value, depth: _msgpack(msgpack.ExtType(code, inner(value, depth))), code, *rest)


def _counted(uses: str, code: int, tag: bytes, size: int, number: Callable[[Any], int],
             value_of: Callable[[int], Any]) -> _Type:
    """A type whose values are whole numbers of `size` bytes, in documents and in cells alike."""
    head = _msgpack(msgpack.ExtType(code, bytes(size)))[:-size]
    return _Type(uses, lambda value, depth: head + number(value).to_bytes(size, "big"), code,
                 lambda data: value_of(int.from_bytes(data, "big")),
                 lambda value: tag + number(value).to_bytes(size, "big"), tag,
                 lambda cell: value_of(int.from_bytes(cell[1:], "big")))


def _uuid(data: bytes) -> uuid.UUID:
    """The UUID of 16 bytes, in half the time that its class takes to look at them from all sides."""
    id = object.__new__(uuid.UUID)
    object.__setattr__(id, "int", int.from_bytes(data, "big"))
    object.__setattr__(id, "is_safe", uuid.SafeUUID.unknown)
    return id


_TYPES: dict[type, _Type] = {
    type(None): _Type("fixed", _packed_plain, cell=lambda value: _NONE, tag=_NONE, of_cell=lambda cell: None),
    bool: _Type("id fixed", _packed_plain, cell=lambda value: _BOOL + bytes((value,)), tag=_BOOL,
                of_cell=lambda cell: cell[1] == 1),
    int: _Type("id fixed", _packed_int, _EXT_INT, lambda data: int.from_bytes(data, "big", signed=True),
               lambda value: value - _SHIFT if -_SMALL <= value < _SMALL else _big_cell(value), _INT, _int_of_cell),
    float: _Type("id fixed", _packed_float, cell=_float_cell, tag=_FLOAT, of_cell=_float_of_cell),
    str: _Type("id fixed", _packed_plain, cell=_str_cell),
    bytes: _Type("id fixed", _packed_plain, tag=_BYTES, of_cell=lambda cell: cell[1:],
                 cell=lambda value: _BYTES + value if len(value) <= TEXT_BYTES_MAX else _hashed_cell(value)),
    uuid.UUID: _Type("id fixed", lambda value, depth: _UUID_HEAD + value.int.to_bytes(16, "big"), _EXT_UUID, _uuid,
                     None, _UUID, lambda cell: _uuid(cell[1:])),
    dt.datetime: _Type("id fixed", lambda value, depth: _DATETIME_HEAD + _micros(value).to_bytes(8, "big", signed=True),
                       _EXT_DATETIME, lambda data: _moment(int.from_bytes(data, "big", signed=True)),
                       lambda value: _DATETIME + (_micros(value) + 2 ** 63).to_bytes(8, "big"), _DATETIME,
                       lambda cell: _moment(int.from_bytes(cell[1:], "big") - 2 ** 63)),
    dt.date: _counted("id fixed", _EXT_DATE, _DATE, 4, dt.date.toordinal, dt.date.fromordinal),
    dt.time: _counted("fixed", _EXT_TIME, _TIME, 5, lambda value: _rare().time_micros(value),
                      lambda micros: _rare().time_of(micros)),
    dt.timedelta: _counted("fixed", _EXT_DELTA, _DELTA, 9, lambda value: value // dt.timedelta.resolution + 2 ** 71,
                           lambda micros: dt.timedelta(microseconds=micros - 2 ** 71)),
    decimal.Decimal: _ext("fixed", _EXT_DECIMAL, lambda value, depth: _rare().decimal_data(value),
                          lambda data: _rare().decimal_of(data), lambda value: _rare().decimal_cell(value), _DECIMAL,
                          lambda cell: _rare().decimal_of_cell(cell)),
    Member: _ext("fixed", _EXT_MEMBER, _packed_list, lambda data: _rare().member(*unpack(data)), _hashed_cell),
    tuple: _ext("id", _EXT_TUPLE, _packed_list, lambda data: tuple(unpack(data)), _hashed_cell),
    dict: _Type("id", _packed_dict, cell=_hashed_cell),
    list: _Type("several", _packed_list, cell=_hashed_cell),
    set: _ext("several", _EXT_SET, _packed_set, lambda data: set(unpack(data)), _hashed_cell),
    frozenset: _ext("several", _EXT_FROZENSET, _packed_set, lambda data: frozenset(unpack(data)), _hashed_cell),
}
# The same by column, as it is looked up.
_PACKED = {kind: row.packed for kind, row in _TYPES.items()}
_UNPACK_EXT = {row.code: row.unpacked for row in _TYPES.values() if row.unpacked}
_CELL: dict[type, Callable[[Any], Any]] = {kind: row.cell for kind, row in _TYPES.items() if row.cell}
_OF_CELL = {row.tag[0]: row.of_cell for row in _TYPES.values() if row.of_cell}
_ID_TYPES, _IMMUTABLE, _SEVERAL = (frozenset(kind for kind, row in _TYPES.items() if use in row.uses)
                                   for use in ("id", "fixed", "several"))


def _json_cell(cell: Any) -> int | str:
    """A cell as JSON carries it: a number, "t" + text, in hex "x" + bytes or "n" + text with NUL, where SQLite cuts."""
    if type(cell) is int:
        return cell
    if type(cell) is str:
        return "t" + cell if "\0" not in cell else "n" + cell.encode().hex()
    return "x" + cell.hex()


def _cell_of_json(text: str) -> bytes | str:
    data = bytes.fromhex(text[1:])
    return data if text[0] == "x" else data.decode()


def _cell(value: Any) -> Any:
    """The cell of a value; a UUID stays itself: files number it. Raises: ValueTypeError if no document can hold it."""
    return value if type(value) is uuid.UUID else (_CELL.get(type(value)) or _hashed_cell)(value)


# A document is read once when it is put: its canonical bytes and its facts come out of one pass. The order of its
# attributes and their bytes are kept for each set of attributes, since an application has few of these.


def _encoded(document: dict) -> tuple[bytes, list]:
    """The canonical bytes of a document and its facts: pairs of an attribute and the cell of one value.

    Raises: ValueTypeError naming the attribute that cannot be stored.
    """
    if type(document) is not dict:
        raise OperationError(f"{_short(document)} is not a document; wanted a dict with \"xt/id\".")
    if "xt/id" not in document:
        near = difflib.get_close_matches("xt/id", [a for a in document if type(a) is str], 1, 0.5)
        raise OperationError(f"The document {_short(document)} has no \"xt/id\"; every document needs one."
                             + (f" {_short(near[0])} is an attribute like any other." if near else ""))
    check_id(document["xt/id"])
    try:
        head, names = _shape(tuple(document))
        parts, facts = [head], []
        for name, packed_name in names:
            value = document[name]
            data, cell = (_ENCODED.get(type(value)) or _encoded_value)(value)
            parts += packed_name, data
            if type(cell) is tuple:
                facts += [(name, one) for one in cell]
            else:
                facts.append((name, cell))
    except (TypeError, ValueError, OverflowError, OperationError):
        raise _attribute_at_fault(document) from None
    data = b"".join(parts)
    if len(data) > DOCUMENT_BYTES_MAX:
        raise ValueTypeError(f"The document {_short(document['xt/id'])} has {len(data):,} bytes, the limit is "
                             f"{DOCUMENT_BYTES_MAX:,}. Divide it, or keep the bytes in a file.")
    return data, facts


@functools.lru_cache(SHAPES_CACHED)
def _shape(attributes: tuple) -> tuple[bytes, tuple]:
    """How a document with these attributes begins, and they in their order, each with its bytes."""
    if any(type(name) is not str for name in attributes):
        raise TypeError
    return _map_header(len(attributes)), tuple((name, _msgpack(name)) for name in sorted(attributes))


def _encoded_value(value: Any) -> tuple:
    """The bytes of what an attribute holds, and its cell; of several values a tuple of these, in one order."""
    data = _packed(value, 1)
    return data, tuple(dict.fromkeys(map(_cell, sorted(value, key=pack)))) if type(value) in _SEVERAL else _cell(value)


def _encoded_str(value: str) -> tuple:
    data = _msgpack(value)
    return data, value if len(data) <= TEXT_BYTES_MAX + 2 else _hashed_cell(value, data)


_ENCODED: dict[type, Callable] = {     # most values are one of these
    str: _encoded_str, uuid.UUID: lambda value: (_UUID_HEAD + value.int.to_bytes(16, "big"), value)}


# ── The node ─────────────────────────────────────────────────────────────────────────────────────────────────
#
# The open store: it submits, follows and listens. Everything a user touches is here or in `Db`; the work is below.


def open(path: str | os.PathLike[str], functions: Mapping[str, Callable[..., Any]] = NOTHING, *,
         index: str | os.PathLike[str] | None = None, progress: Progress | None = None,
         clock: Callable[[], dt.datetime] | None = None, ids: Callable[[], uuid.UUID] = uuid.uuid4,
         text: Iterable[str] | None = None, schema: Mapping[Any, Mapping[str, Any]] | None = None,
         timeout: float = LOCK_S, readonly: bool = False) -> Node:
    """A node of the file at `path`, made if it is not there; ":memory:" is a private file that goes at close.

    Any number of processes on one machine may open a file, and nodes in a process: all see one order of transactions.
    A commit waits `timeout` seconds for those of the others, at most. `readonly` takes no lock and writes nothing, also
    where nothing can be written, and sees what others write.

    If `path` is "postgresql://…", the log is there, for several servers, and `index` is this one's own file: it follows
    the log, may be thrown away, and may begin as a `backup` of another server's. `progress` is called with (done, of).
    `functions` are what `call` and queries may name. `clock` (an aware datetime) and `ids` (fresh UUIDs) are for tests.
    `text` names the attributes that "text-search" looks through; their index is made now if the file has another one.
    None leaves it as the file has it, [] removes it. `schema` declares what all documents are held to, and becomes a
    part of the log; None leaves it, {} removes it:

        {"user/email": {"unique": True, "type": str},  "msg/channel": {"reference": True},
         ("msg/channel", "msg/at"): {"index": True},   ("member/of", "member/who"): {"unique": True}}

    Raises: LockedError if the file is the index of another log or node, or open under another name; CorruptError if it
    is not a store of this format, or not of this log; UnreachableError if PostgreSQL does not answer; StoreError if
    documents break the schema.
    """
    return Node(path, functions, index, progress, clock, ids, text, schema, timeout, readonly)


class Node:
    """An open store. All methods may be called from any thread."""

    def __init__(self, path: str | os.PathLike[str], functions: Mapping[str, Callable[..., Any]],
                 index: str | os.PathLike[str] | None, progress: Progress | None,
                 clock: Callable[[], dt.datetime] | None, ids: Callable[[], uuid.UUID],
                 text: Iterable[str] | None = None, schema: Mapping[Any, Mapping[str, Any]] | None = None,
                 timeout_s: float = LOCK_S, readonly: bool = False):
        if not isinstance(functions, Mapping) or not all(type(f) is str and callable(functions[f]) for f in functions):
            raise StoreError(f"functions={_short(functions)}; wanted a dict of names and callables.")
        for what, given in ("progress", progress), ("clock", clock), ("ids", ids):
            if not callable(given) and (given is not None or what == "ids"):
                raise StoreError(f"{what}={_short(given)}; wanted a callable.")
        if type(timeout_s) not in (int, float) or not timeout_s >= 0:
            raise StoreError(f"timeout={_short(timeout_s)}; wanted seconds, not below 0.")
        self.functions = dict(functions)
        self.new_id = ids
        self._given_clock = (lambda: _given_micros(clock(), "The clock")) if clock else None
        self._clock = self._given_clock or (lambda: time.time_ns() // 1000)
        self._plans, self._patterns = _PlanCache(), _PlanCache()
        self._told: set[str] = set()          # what queries ask in vain, as far as it was logged
        self._parse = functools.partial(_parse, functions=self.functions)
        self._parse_pull = functools.partial(_parse_pull, functions=self.functions)
        self._listeners: set[Listener] = set()
        self._hearers: list[tuple] = []       # of notices: (the event loop or None, the callback)
        self._pool = concurrent.futures.ThreadPoolExecutor(QUESTIONS_MAX, "store-question")      # of `aq`
        self._moved, self._awaiting = threading.Condition(), 0      # how many wait in `await_tx`
        self._file, self._log = _opened(path, index, self, timeout_s, readonly)
        try:
            if text is not None:
                _sibling("store_text").index_texts(self._file, text, progress)
            self._log.begin(progress)
            if schema is not None:
                _sibling("store_schema").declare(self, schema, progress)
        except BaseException:
            self._log.close(), self._file.close()
            raise
        _NODES.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit_tx(self, ops: Iterable[Operation], *, check: bool = False, tx_time: dt.datetime | None = None) -> Tx:
        """The transaction, once durable and indexed. If `committed` is False, `reason` says why; nothing has changed.

            [("put", document[, valid_from[, valid_to]]), ("delete", id[, valid_from[, valid_to]]),
             ("match", id, document or None[, valid_time]), ("evict", id), ("call", name[, argument, …]),
             ("patch", id, changes[, valid_from[, valid_to]]), ("cas", id, attribute, old, new), …]

        Operations apply in order, each sees those before it, and one that fails undoes all. Times: aware, or None.
        `tx_time` is for what is imported: the transaction's time, after the newest one's and not in the future.
        Raises: OperationError if one is malformed or its end is past, or for `tx_time` (nothing was written);
        AbortedError if it aborted and `check` is true; ClosedError; LockedError if another program writes to the file;
        UnreachableError.
        """
        return _checked(self._log.submit(*self._prepared(ops, tx_time)), check)

    async def submit(self, ops: Iterable[Operation], *, check: bool = False, tx_time: dt.datetime | None = None) -> Tx:
        """`submit_tx` without blocking the event loop."""
        return _checked(await self._log.submit_async(*self._prepared(ops, tx_time)), check)

    def _prepared(self, ops: Iterable[Operation], tx_time: dt.datetime | None) -> tuple[list[_Op], int | None]:
        if tx_time is None:
            return _prepare(ops, self._clock), None
        micros = _given_micros(tx_time, "tx_time")
        return _prepare(ops, lambda: micros), micros

    def db(self, tx_id: int | Tx | None = None, *, valid_time: dt.datetime | None = None,
           tx_time: dt.datetime | None = None) -> Db:
        """A snapshot: now; or right after a transaction, at its time; or as of a transaction time; at any valid time.

        Raises: NotIndexedError if tx_id or tx_time is beyond what this node has indexed, or they do not fit together.
        """
        file = self._file
        if file.closed:
            raise ClosedError(file.closed)
        latest = file.latest
        if file.words[_HEAD_MARK] != latest.mark:
            latest = file.catch_up()
        if tx_id is None and tx_time is None:
            vt = self._clock() if valid_time is None else _given_micros(valid_time, "valid_time")
            return Db(self, file, vt if vt > latest.time or valid_time is not None else latest.time, latest)
        point, vt = self._point(None if tx_id is None else _tx_id(tx_id), tx_time, latest)
        return Db(self, file, vt if valid_time is None else _given_micros(valid_time, "valid_time"), point)

    def _point(self, tx_id: Any, tx_time: dt.datetime | None, latest: Point) -> tuple[Point, int]:
        """The place in the log that is asked for, and the valid time that goes with it."""
        if tx_id is not None and tx_id > latest.tx_id:
            raise NotIndexedError(f"Transaction {tx_id} was asked for; the newest here is {latest.tx_id}. `await_tx` "
                                  "waits for one.")
        if tx_id is not None and tx_id < 0:
            raise NotIndexedError(f"Transaction {tx_id} was asked for; the first is 1, and 0 is before it.")
        micros = None if tx_time is None else _given_micros(tx_time, "tx_time")
        if micros is not None and micros > latest.time and not self._log.is_settled(micros):
            raise NotIndexedError(f"The time {tx_time} was asked for; the newest transaction here is of "
                                  f"{_moment(latest.time)}.")
        newest = tx_id if micros is None else self._file.newest_at(micros)
        if tx_id not in (None, newest):
            raise NotIndexedError(f"Transaction {tx_id} was asked for with the tx_time {tx_time}, when the newest was "
                                  f"{newest}.")
        point = self._file.point(newest)
        return point, point.time if micros is None else micros

    def on_tx(self, callback: Callable[[Tx], Any], after: int | Tx | None = None) -> Listener:
        """Calls back with each committed transaction of a greater tx_id (None: from now on), once, in order.

        Registered in a running event loop it is called there (it may be a coroutine function), else on a thread of its
        own, once the transaction is indexed. A callback that raises is logged, and the next transaction follows.
        """
        self._file.check_open()
        self._log.listen()
        return Listener(self, callback, self._file.catch_up().tx_id if after is None else _tx_id(after))

    def notify(self, notice: str) -> None:
        """Tells all nodes of this log, this one too, a text that is stored nowhere and may be lost; does not block.

        Raises: OperationError if it is empty, no text, or longer than NOTICE_BYTES_MAX bytes of UTF-8.
        """
        self._file.check_open()
        if not (isinstance(notice, str) and notice.isprintable() and 0 < len(notice.encode()) <= NOTICE_BYTES_MAX):
            raise OperationError(f"A notice is one line of text of 1 to {NOTICE_BYTES_MAX:,} bytes, not "
                                 f"{_short(notice)}.")
        self._log.notify(notice)

    def on_notice(self, callback: Callable[[str], Any]) -> None:
        """Calls back with each notice, a text, in the running event loop if there is one, else on a thread."""
        if not callable(callback):
            raise StoreError(f"on_notice({_short(callback)}); wanted a function of a text.")
        self._file.check_open()
        self._log.listen()
        try:
            self._hearers.append((asyncio.get_running_loop(), callback))
        except RuntimeError:
            self._hearers.append((None, callback))

    def tx_log(self, after: int | Tx | None = None) -> Iterator[Tx]:
        """The committed transactions of a greater tx_id (None: all), in order, with operations; read when asked for."""
        last = 0 if after is None else _tx_id(after)
        while batch := self._file.transactions(last, LISTEN_BATCH):
            yield from (tx for tx in batch if tx.committed)
            last = batch[-1].tx_id

    @property
    def latest_tx(self) -> Tx | None:
        """The newest indexed transaction, or None."""
        return self._file.transaction(self._file.catch_up().tx_id)

    def tx(self, tx_id: int | Tx) -> Tx | None:
        """What became of a transaction, without its operations; None if there is none of this number."""
        return self._file.transaction(_tx_id(tx_id))

    def await_tx(self, tx_id: int | Tx, timeout_s: float | None = None) -> Tx | None:
        """The newest transaction, as soon as one at or past tx_id is indexed; None of `timeout_s` waits for ever.

        Raises: LateError, which is a TimeoutError; ClosedError.
        """
        awaited = _tx_id(tx_id)
        if self._file.catch_up().tx_id < awaited and not self._file.closed:
            self._log.listen()
        with self._moved:
            self._awaiting += 1
            try:
                if not self._moved.wait_for(lambda: self._file.latest.tx_id >= awaited or self._file.closed, timeout_s):
                    raise LateError(f"Transaction {awaited} was not indexed within {timeout_s} s; the newest is "
                                    f"{self._file.latest.tx_id}.")
            finally:
                self._awaiting -= 1
        self._file.check_open()
        return self.latest_tx

    def sync(self, timeout_s: float | None = None) -> dt.datetime | None:
        """The newest transaction's time (None: there is none), once all that is in the log at this moment is indexed.

        In a file that is so at once; of a log on PostgreSQL it tells what the others have written.
        Raises: LateError, ClosedError, UnreachableError.
        """
        self._file.check_open()
        newest = self.await_tx(self._log.newest(), timeout_s)
        return newest and newest.tx_time

    def status(self) -> dict[str, Any]:
        """Sizes and positions, for people who watch over the store."""
        file, latest = self._file, self._file.catch_up()
        file.check_open()
        return {"path": file.path, "store": file.store_id, "format": FORMAT, "tx_id": latest.tx_id,
                "tx_time": _moment(latest.time) if latest.tx_id else None, "documents": latest.n,
                "bytes": _size(file.path) + _size(file.path + "-wal"), "failed": file.failed, "state": file.state.hex(),
                "listeners": len(self._listeners), "plans": len(self._plans)}

    def expect(self, attributes: Iterable[str]) -> None:
        """Names attributes that documents will have: a query for one that none has yet is no slip, and not logged."""
        self._file.expected |= frozenset(attributes)

    def attribute_stats(self) -> dict[str, int]:
        """How many facts of each attribute were ever put: several values count each, evicted ones perhaps."""
        self._file.check_open()
        index = self._file.counted_index()
        return {name: index.puts[a] for name, a in list(index.attributes.items()) if index.puts.get(a)}

    def verify(self, progress: Progress | None = None) -> int:
        """Checks the chain of hashes and every document against it; the number of transactions checked.

        `progress` is called with (done, of), as it is by `reindex` and `backup`.
        Raises: CorruptError naming the first transaction that is not what was written.
        """
        return _sibling("store_keeping").verify(self._file, progress)

    def reindex(self, progress: Progress | None = None) -> None:
        """Throws the index away and derives it again from the log, calling no function. Nobody may write meanwhile."""
        self._log.alone(lambda: _sibling("store_keeping").reindex(self._file, progress))
        self._plans.clear()

    def backup(self, path: str | os.PathLike[str], progress: Progress | None = None) -> int:
        """Writes a copy of the store as of now to a new file, while others write; the newest tx_id in it.

        Raises: StoreError if there is something at `path`, or it cannot be written.
        """
        return _sibling("store_keeping").backup(self._file, path, progress)

    @property
    def cut_off(self) -> str | None:
        """Why transactions wait, while the log is out of reach; else None."""
        return self._log.cut_off

    def close(self) -> None:
        """Ends the listeners and releases the file. Every later call raises ClosedError."""
        for listener in list(self._listeners):
            listener.close()
        self._log.close()
        self._file.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._announce()

    def _hear(self, notice: str) -> None:
        for loop, callback in self._hearers:
            try:
                loop.call_soon_threadsafe(callback, notice) if loop else callback(notice)
            except Exception:             # a closed loop, too
                log.debug("a notice was not heard", exc_info=True)

    def _announce(self) -> None:
        """Wakes those who wait for transactions. Who begins to wait now sees what is announced, and needs no waking."""
        if self._awaiting:
            with self._moved:
                self._moved.notify_all()
        for listener in list(self._listeners):
            listener.wake()


def _checked(tx: Tx, check: bool) -> Tx:
    if check and not tx.committed:
        raise AbortedError(tx)
    return tx


def _opened(path: Any, index: str | os.PathLike[str] | None, node: Node, timeout_s: float,
            readonly: bool) -> tuple[_File, Any]:
    """The file and the log of a node."""
    if isinstance(path, str) and path.startswith(("postgresql://", "postgres://")):
        return _sibling("store_postgres").opened(path, index, node, readonly)
    if index is not None:
        raise StoreError(f"index={_short(index)} was given for a store that is a file; only a log on PostgreSQL has "
                         "one.")
    file = _sibling("store_readonly").File(path) if readonly else _File(path, timeout_s)
    return file, _SqliteLog(file, node)


@functools.cache
def _sibling(name: str) -> Any:
    """A module beside this one, at the top or in somebody's package."""
    try:
        return importlib.import_module(f"{__package__}.{name}" if __package__ else name)
    except ModuleNotFoundError as error:
        raise StoreError(f"This needs {name}.py beside {__file__} ({error}).") from None


def _sibling_if_there(name: str) -> Any:
    """A module beside this one, or None."""
    with contextlib.suppress(StoreError):
        return _sibling(name)
    return None


_NODES: weakref.WeakSet[Node] = weakref.WeakSet()


def _forked() -> None:
    """A child process has no part in the store: it refuses every call."""
    for node in list(_NODES):
        node._log.abandon()
        node._file.abandon()
    _Hold.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


# ── The file ─────────────────────────────────────────────────────────────────────────────────────────────────
#
# One SQLite file. `log` and `documents` are the truth; the index is derived from them. One connection writes and
# checkpoints, readers borrow others that cannot write. Numbers and caches change in memory after COMMIT, never before.

_TRUTH = """
    create table log(tx_id integer primary key, tx_time integer, ops blob, hash blob,
                     committed integer, results blob, state blob, n integer);
    create table documents(n integer primary key, doc blob, checksum integer);
"""


# The head of SQLite's index of the write-ahead log, as 8-byte words and as 4-byte words. SQLite writes it when a commit
# becomes visible and restores it after a crash. So a snapshot is of now as long as the head has the same mark.
# Source: https://www.sqlite.org/walformat.html, "The WAL-Index Header".
_HEAD_BYTES, _HEAD_VERSION = 136, 3007000
_HEAD_SALT, _HEAD_MARK = 4, 5         # words of 8 bytes: of this write-ahead log; a checksum of the whole head
_HEAD_COMMITS = 14                    # words of 4 bytes: how many there were, in the copy that SQLite writes before
_HEAD_PAGES, _HEAD_MOVED = 4, 24      # the mark; how many pages the log has, and how many of these are in the file

_PLACE = "select tx_id, tx_time, n, hash, state from log order by tx_id desc limit 1"
_UNKNOWN = -1                         # a mark that no head has
_NO_HEAD = memoryview(bytes(_HEAD_BYTES)).cast("Q")
_MOUNTS = "/proc/self/mounts"
_NETWORKS = re.compile(r"nfs\d*|cifs|smb\w*|9p|afs|ceph|glusterfs|lustre|fuse\.(sshfs|s3fs|rclone|glusterfs|cephfs)")
_CLOEXEC = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class Point(NamedTuple):
    """A place in the log: a transaction, its time, and the number of its last document."""
    tx_id: int
    time: int
    n: int
    mark: int = _UNKNOWN              # what the file's head has while this is its newest transaction


# The newest transaction up to ?1 of which a column, which rises with the log, is at most ?2.
_NEWEST = """
    with recursive search(low, high) as (
        select 0, ?1 union all
        select iif({0} <= ?2, tx_id, low), iif({0} <= ?2, high, tx_id - 1)
        from search cross join log on tx_id = (low + high + 1) / 2 where low < high)
    select low from search where low = high"""

class _File:
    """The file: its connections, the place in the log that it has come to, its documents, and its index."""

    is_readonly = is_index = False         # an index, of a log elsewhere, is one node's alone

    def __init__(self, path: str | bytes | os.PathLike, timeout_s: float | None = LOCK_S):
        """A `timeout_s` of None takes no lock."""
        self.closed: str | None = None         # why nothing can be asked any more
        self.failed: str | None = None         # why nothing can be written any more
        self.expected: frozenset[str] = frozenset()    # attributes that documents will have
        self.progress: Progress | None = None  # told of the making of an index that a transaction declares
        self._timeout_s = timeout_s
        self._readers: collections.deque[_Reader] = collections.deque()
        self._may_read, self._is_emptying, self._must_empty = threading.Event(), False, False
        self._may_read.set()
        self._emptier: threading.Thread | None = None
        self.is_temporary, self.path = _place(path)
        self.evictions = self.births = 0       # births are odd while UUIDs that were values become entities
        self._moving = threading.RLock()       # held while memory moves on to another transaction
        with _Hold.opening:
            self._open()

    def _open(self) -> None:
        if not os.path.exists(self.path):
            self._create_once()
        self._held = _Hold.of(self.path, self.is_index, self._timeout_s)
        self._connections: dict[sqlite3.Connection, None] = {}
        self._looks: list[tuple] = []
        self._let_go = weakref.finalize(self, _let_go, self._connections, self._looks, self._held, self.is_temporary)
        try:
            self._check_kind()
            self._begin_connections()
            self._load()
            if self._held.is_first:
                self.empty_wal()          # what was evicted just before a crash is still in it
            self._held.share()
        except BaseException as error:
            self.words = self._words = _NO_HEAD
            self._let_go()
            if isinstance(error, StoreError) or not isinstance(error, Exception):
                raise
            raise self._open_error(error) from error

    # Opening and closing

    def _open_error(self, error: Exception) -> StoreError:
        """A damaged file gives values and errors of any type. A refusal by disk or operating system is no damage."""
        code = _code(error)
        if isinstance(error, sqlite3.OperationalError) and code not in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT):
            kind = LockedError if code == sqlite3.SQLITE_BUSY else StoreError
            return kind(f"{self.path} cannot be opened: {error}.")
        if isinstance(error, OSError):
            return StoreError(f"{self.path} cannot be opened: {error.strerror}.")
        return CorruptError(f"{self.path} cannot be opened as a store: {str(error) or type(error).__name__}.")

    def _create_once(self) -> None:
        """Makes the file, unless another process just did."""
        folder = -1
        with contextlib.suppress(OSError):
            folder = os.open(os.path.dirname(self.path), os.O_RDONLY)
        try:
            _flocked(folder, is_shared=False, waits=True)
            if not os.path.exists(self.path):
                self._create()
        except (OSError, sqlite3.Error) as error:
            raise self._open_error(error) from error
        finally:
            if folder >= 0:
                os.close(folder)

    def _create(self) -> None:
        """Makes the file whole under another name first: what was broken off is never found under its own."""
        if _size(self.path + "-wal"):
            raise CorruptError(f"{self.path} is missing, and its write-ahead log {self.path}-wal is there. Put the "
                               "file back that belongs to it, or remove both to begin a new store.")
        about, made = self._about(), self.path + ".new"
        _empty_file(made)
        with contextlib.closing(sqlite3.connect(made, isolation_level=None)) as connection:
            connection.execute(f"pragma synchronous = {'off' if self.is_temporary else 'full'}")
            connection.execute("begin immediate")
            for statement in (_TRUTH + _DERIVED).split(";"):
                connection.execute(statement)
            connection.execute("insert into log values (0, 0, ?, ?, 1, null, ?, 0)",
                               (about, digest(about), digest(b"state" + about)))
            connection.execute(f"pragma user_version = {INDEX_FORMAT}")
            connection.execute("commit")
            connection.execute("pragma journal_mode = wal")
        if not self.is_temporary:
            _synced(made)
        os.rename(made, self.path)
        if not self.is_temporary:
            _synced(os.path.dirname(self.path))

    def _about(self) -> bytes:
        """The first row of the log of a new file."""
        return _about_new_store()

    def _check_kind(self) -> None:
        """Refuses a file that is no store, and leaves it as it was."""
        wal = _size(self.path + "-wal")
        if not _size(self.path):
            raise CorruptError(f"{self.path} has 0 bytes, and is no store. " + (
                f"Its write-ahead log {self.path}-wal is there: put the file back that belongs to it." if wal
                else "Remove it to begin a new one."))
        mode = "ro&immutable=1" if not wal and self._is_alone() else "ro"
        with contextlib.closing(_connected(_uri(self.path, mode))) as connection:
            try:
                head = _head(connection)
            except (sqlite3.DatabaseError, TypeError) as error:
                if _code(error) != sqlite3.SQLITE_ERROR:
                    raise
                raise CorruptError(f"{self.path} is a SQLite file, but not a store.") from None
            newest, = connection.execute("pragma user_version").fetchone()
        if head.get("format") != FORMAT:
            raise CorruptError(f"{self.path} has format {_short(head.get('format'))}; this is format {FORMAT}. A newer "
                               "store.py reads it.")
        if self._held.is_first and (newest // EPOCH_UNIT - self._held.user_version() // EPOCH_UNIT) % EPOCHS > 1:
            raise CorruptError(f"{self.path} and its write-ahead log {self.path}-wal do not belong together: one is a "
                               "copy of another time. Put the other of that time beside it, or restore a backup.")

    def _is_alone(self) -> bool:
        """Whether nobody else has the file open."""
        return self._held.is_first

    def _begin_connections(self) -> None:
        self.writer = _Reader(self, self._connect_writer())
        self.words, self._words = self._look()

    def _connect_writer(self) -> sqlite3.Connection:
        synchronous = "off" if self.is_temporary else "normal" if self.is_index else "full"
        self.uri = _uri(self.path)
        connection = self._connect(self.path, "trusted_schema = off", "journal_mode = wal",
                                   f"synchronous = {synchronous}", "secure_delete = on", "cache_size = -32000",
                                   "wal_autocheckpoint = 4000", "temp_store = memory")
        connection.execute("select 1 from log where tx_id = 0").fetchone()      # now the write-ahead log has its index
        return connection

    def _look(self) -> tuple[memoryview, memoryview]:
        self._looks.append(self._held.look())
        return self._looks[-1]

    def _reader(self, cache_size: str = "-8000") -> _Reader:
        return _Reader(self, self._connect(self.uri, "trusted_schema = off", f"cache_size = {cache_size}",
                                           "temp_store = memory"))

    def _connect(self, *where: str) -> sqlite3.Connection:
        connection = _connected(*where)
        self._connections[connection] = None
        return connection

    def _load(self) -> None:
        execute = self.writer.execute
        head, row = _head(self.writer.connection), execute("select * from log where tx_id = 0").fetchone()
        _check_link(row, None)
        self.store_id = head["store"]
        self._check_mark(execute("pragma application_id").fetchone()[0], row[2])
        self.documents: _TwoDicts = _TwoDicts(CACHE_BYTES, lambda kept: kept[1])      # number → (document, bytes)
        self.points = _TwoDicts(POINTS_CACHED)         # tx_id → Point
        self.recent, self._announcing = _Recent(), threading.Lock()
        self._own: int | None = None  # the number of commits in the head once our commit is visible
        self._marked: int | None = None        # the write-ahead log that is known to have its number
        self._commits, self._are_numbers_stale = 0, False
        if execute("pragma user_version").fetchone()[0] % EPOCH_UNIT == INDEX_FORMAT:
            self._load_state()
        elif not self._held.is_first:
            raise LockedError(f"The index in {self.path} is of another version. Open it with no other process beside, "
                              "and not for reading only: it is derived anew.")
        else:
            log.warning("the index in %s is of another version: it is derived anew from the log", self.path)
            self._load_place(self.words[_HEAD_MARK])
            _sibling("store_keeping").reindex(self, None)
        if not self.is_readonly:
            self.writer.execute("pragma busy_timeout = 0")     # from here on, `begin` waits

    def _check_mark(self, mark: int, about: bytes) -> None:
        if mark == INDEX_MARK:        # what was put into it alone would be on no other server
            raise LockedError(f"{self.path} is a server's index of the log of store {self.store_id}, which is on "
                              "PostgreSQL. Open that log, with this file as its index.")

    def _load_state(self) -> None:
        """Memory says what the file says, all of one state."""
        mark = self.words[_HEAD_MARK]
        self.writer.execute("begin")
        try:
            self.index = _Index(self, self.writer)
            self.index.count_rest(self.writer)
            self._load_place(mark if mark and self.words[_HEAD_MARK] == mark else _UNKNOWN)
        finally:
            self.writer.execute("rollback")

    def _load_place(self, mark: int) -> None:
        tx_id, tx_time, n, self.hash, self.state = self.writer.execute(_PLACE).fetchone()
        self.committing, self.latest = tx_id, Point(tx_id, tx_time, n, mark)

    def check_open(self) -> None:
        if self.closed:
            raise ClosedError(self.closed)

    def close(self) -> None:
        if self.closed:
            return
        if not self.failed and self._commits and self.index.counted != self.latest.n:
            with contextlib.suppress(sqlite3.Error, StoreError):      # only statistics: the next opening counts them
                self.begin()
                self.index.write_statistics(self.latest.n)
                self.writer.execute("commit")
        self.closed = f"The store {self.path} is closed."             # and who reads now is interrupted
        idle = [self.writer, *self._readers]
        self._connections.clear()                                     # who reads now closes its own
        self._connections.update((reader.connection, None) for reader in idle)
        self._forget()
        self._let_go()

    def abandon(self) -> None:
        """In a forked child: its copies of locks and connections must not be used."""
        if not self.closed:
            self.closed = f"The store {self.path} was opened by another process, before a fork; open it there."
            self._forget()
            self._let_go.detach()

    def _forget(self) -> None:
        self.index.plain.clear(), self.documents.clear()
        self._readers.clear()
        self.words = self._words = _NO_HEAD

    # Transactions of other processes

    def catch_up(self) -> Point:
        """The newest transaction, with memory moved on to it if another process or node has written."""
        latest = self.latest
        if self.words[_HEAD_MARK] == latest.mark or self._words[_HEAD_COMMITS] == self._own:
            return latest
        with self._moving:
            if not self.closed and self.words[_HEAD_MARK] != self.latest.mark:
                with self.reading() as reader:
                    reader.is_used = True
                    mark = self.words[_HEAD_MARK]
                    reader.execute("begin")
                    self._read_on(reader, mark)
            return self.latest

    def counted_index(self) -> _Index:
        """The index, with all documents in its statistics."""
        self.catch_up()
        with self._moving, self.reading() as reader:
            self.index.count_rest(reader)
        return self.index

    def _read_on(self, reader: _Reader, mark: int) -> None:
        """Moves memory on to the newest transaction of a state: what is over goes first, `latest` comes last."""
        tx_id, tx_time, n, hash, state = reader.execute(_PLACE).fetchone()
        before, point = self.latest, Point(tx_id, tx_time, n, mark if self.words[_HEAD_MARK] == mark else _UNKNOWN)
        ids, has_evicted = self._touched(reader, before.tx_id) if tx_id != before.tx_id else ([], False)
        if tx_id != before.tx_id or self.index.changes != self.index.changes_there(reader):
            self.births += 2 * self.index.read_on(reader, before.n, n)
            self._are_numbers_stale = True
        with self._announcing:
            if ids is None:
                self.index.plain.clear()
            for id in ids or ():
                self.index.plain.pop(_plain_key(id), None)
            self.committing = tx_id
        if has_evicted:
            self.documents.clear(), self.recent.clear()
            self.evictions += 1
            self._must_empty = not self.is_readonly       # whoever has evicted may be gone
        self.hash, self.state, self.latest = hash, state, point

    def _touched(self, reader: _Reader, after: int) -> tuple[list | None, bool]:
        """The ids that later transactions touched, and whether they evicted some; (None, True) if these are many."""
        ids: list = []
        size = 0
        for ops, results in reader.execute("select ops, results from log where tx_id > ? and committed = 1 limit ?",
                                           (after, READ_ON_MAX + 1)).fetchall():
            size += len(ops) + len(results or b"") + READ_ON_BYTES // READ_ON_MAX
            if size > READ_ON_BYTES:
                return None, True
            ids += [record[1::-1] for record in _became(ops, results) if record[0] != _MATCH]
        return [id for id, _ in ids], any(kind == _EVICT for _, kind in ids)

    # Reading

    @contextlib.contextmanager
    def reading(self) -> Iterator[_Reader]:
        """A reader of its own for as long as the block lasts. Raises: what `_Reader.fail` makes of SQLite's errors."""
        reader = self.borrow()
        try:
            yield reader
        except sqlite3.Error as error:
            reader.fail(error)
        finally:
            self.give_back(reader)

    def read_error(self, error: sqlite3.Error) -> StoreError:
        """Our error for one of SQLite's that ended a reading; the only place that says which."""
        if self.closed:
            return ClosedError(self.closed)
        if "interrupted" in str(error):
            return QueryLimitError(_LATE)
        if type(error) is sqlite3.DatabaseError or str(error).startswith(("no such ", "Could not decode")):
            return CorruptError(f"{self.path} cannot be read: {error}.")      # what was there is lost or garbled
        return StoreError(f"{self.path} could not be read: {error}.")

    def borrow(self) -> _Reader:
        if self.closed:
            raise ClosedError(self.closed)
        if self._is_emptying:
            self._may_read.wait(1)
        try:
            return self._readers.pop()
        except IndexError:
            pass
        try:
            return self._reader()
        except sqlite3.Error as error:
            raise self.read_error(error) from error

    def give_back(self, reader: _Reader) -> None:
        if self.closed or len(self._readers) >= READERS_IDLE or reader.uri != self.uri:
            reader.rest()
            self._close(reader)
        else:
            try:
                if reader.is_used:
                    reader.settle()
                self._readers.append(reader)
            except sqlite3.Error:     # what it was asked has its answer, or its own error; the next one opens another
                self._close(reader)
        if self._must_empty and not self.closed:
            self._empty_if_free()

    def _close(self, reader: _Reader) -> None:
        reader.connection.close()
        self._connections.pop(reader.connection, None)

    def document_at_hand(self, n: int) -> dict | None:
        """The document number n if it is in memory, never to be handed out itself."""
        kept = self.documents.get(n)
        return kept and kept[0]

    def document(self, n: int, reader: _Reader) -> dict | None:
        """The cached document number n (never to be handed out itself), or None if it was evicted."""
        kept = self.documents.get(n)
        if kept is None:
            row = reader.cursor.execute("select doc, checksum from documents where n = ?", (n,)).fetchone()
            return row and self.keep(n, *row)
        return kept[0]

    def keep(self, n: int, data: Any, checksum: int) -> dict:
        """The document of bytes that were read, once they are checked; it is kept in memory."""
        if type(data) is not bytes or _checksum(digest(data)) != checksum:
            raise CorruptError(f"Document {n} is not what was written: its bytes do not have the hash that the log "
                               f"has. {_BROKEN}")
        document = unpack(data)
        if _IMMUTABLE.issuperset(map(type, document.values())):
            document = _Flat(document)
        self.documents.put(n, (document, len(data)))
        return document

    def documents_of(self, numbers: Iterable[int], reader: _Reader) -> list:
        """The cached documents of these numbers, in one pass where the cache has them all; None for an evicted one."""
        young = self.documents.young
        try:
            return [young[n][0] for n in numbers]
        except KeyError:
            missing = self.documents.missing(numbers)
            if len(missing) > 1:
                rows = reader.execute("select n, doc, checksum from documents where n in "
                                      "(select value from json_each(?))", (json.dumps(missing),))
                for n, data, checksum in rows.fetchall():
                    self.keep(n, data, checksum)
            return [self.document(n, reader) for n in numbers]

    def point(self, tx_id: int) -> Point:
        latest = self.latest
        if tx_id == latest.tx_id:
            return latest
        point = self.points.get(tx_id)
        if point is None:
            with self.reading() as reader:
                point = Point(*reader.execute("select tx_id, tx_time, n from log where tx_id = ?", (tx_id,)).fetchone())
            self.points.put(tx_id, point)
        return point

    def newest_at(self, micros: int) -> int:
        """The newest transaction at or before a time. Times rise with numbers, so no index is needed to find it."""
        with self.reading() as reader:
            return reader.execute(_NEWEST.format("tx_time"), (self.latest.tx_id, micros)).fetchone()[0]

    def content_hash(self, n: int, reader: _Reader) -> bytes:
        """The hash of document number n; of one that was evicted, as the log has it."""
        row = reader.execute("select doc from documents where n = ?", (n,)).fetchone()
        if row:
            return digest(row[0])
        newest, = reader.execute("select max(tx_id) from log").fetchone()
        before, = reader.execute(_NEWEST.format("n"), (newest, n - 1)).fetchone()
        ops, results, last = reader.execute("select ops, results, n from log where tx_id = ?", (before + 1,)).fetchone()
        puts = [record for record in _became(ops, results) if record[0] == _PUT]
        return puts[n - last - 1][4]

    def transaction(self, tx_id: int) -> Tx | None:
        with self.reading() as reader:
            row = reader.execute("select tx_id, tx_time, committed from log where tx_id = ?", (tx_id,)).fetchone()
            return Tx(row[0], _moment(row[1]), row[2] == 1) if row and tx_id else None

    def transactions(self, after: int, count: int) -> list[Tx]:
        """The next transactions in the log, with operations, aborted ones without."""
        latest = self.catch_up()
        with self.reading() as reader:
            previous, *rows = reader.execute("select * from log where tx_id between ? and ? order by tx_id limit ?",
                                             (max(after, 0), latest.tx_id, count + 1)).fetchall() or [None]
            for row in rows:
                _check_link(row, previous)
                previous = row
                self.points.put(row[0], Point(row[0], row[1], row[7]))

            def copies(numbers: range) -> Iterable:
                return map(_copied, self.documents_of(numbers, reader))
            return [Tx(tx_id, _moment(at), committed == 1, _told(ops, results, n, copies) if committed else None)
                    for tx_id, at, ops, _, committed, results, _, n in rows]

    # Writing

    def begin(self) -> None:
        """Begins the writer's transaction, at the newest one in the file.

        Raises: LockedError if other processes hold the file's write lock for too long.
        """
        try:
            self.writer.execute("begin immediate")
        except sqlite3.OperationalError as error:
            self._begin_later(error)
        if self.words[_HEAD_MARK] != self.latest.mark:
            with self._moving:
                self._read_on(self.writer, self.words[_HEAD_MARK])
        if self._are_numbers_stale:
            self.index.read_numbers(self.writer.execute)
            self._are_numbers_stale = False
        if self.words[_HEAD_SALT] != self._marked:
            self._mark_wal()

    def _begin_later(self, error: sqlite3.OperationalError) -> None:
        """Begins once nobody else writes."""
        began, pause_s = time.monotonic(), LOCK_AGAIN_S[0]
        while not self.writer.connection.in_transaction:
            if _code(error) != sqlite3.SQLITE_BUSY:
                raise error
            if (waited_s := time.monotonic() - began) > (self._timeout_s or 0):
                raise LockedError(f"Another program holds the write lock of {self.path}. Nothing was written; "
                                  "try again.")
            time.sleep(pause_s * random.uniform(0.5, 1.5))
            pause_s = min(1.3 * pause_s, LOCK_AGAIN_S[1]) if waited_s < LOCK_TURN_S else LOCK_AGAIN_S[0] / 4
            try:
                self.writer.execute("begin immediate")
            except sqlite3.OperationalError as again:
                error = again

    def pass_lock(self) -> None:
        """Returns once nobody writes, at the newest transaction."""
        self.begin()
        self.writer.execute("rollback")
        self._marked = None

    def _mark_wal(self) -> None:
        """Counts a new write-ahead log, once: the file then has its number or the one before.

        The file says which one was counted last, for other processes. One that this transaction may begin anew waits.
        """
        pages, salt = self._words[_HEAD_PAGES], self.words[_HEAD_SALT]
        if not pages or self._words[_HEAD_MOVED] < pages:
            counted, data = self.counted_wal(), salt.to_bytes(8, "big")
            if counted != data:
                self.mark(1)
                self.writer.execute("update attributes set name = ? where a = ?", (data, _COUNTED))
            self._marked = salt

    def counted_wal(self) -> bytes | None:
        return self.writer.execute("select name from attributes where a = ?", (_COUNTED,)).fetchone()[0]

    def mark(self, step: int = 0) -> None:
        epoch = self.writer.execute("pragma user_version").fetchone()[0] // EPOCH_UNIT + step
        self.writer.execute(f"pragma user_version = {epoch % EPOCHS * EPOCH_UNIT + INDEX_FORMAT}")

    def announce(self, tx_id: int, touched: Iterable, has_births: bool) -> None:
        """Before COMMIT: removes the touched entities from `plain`; nothing is added to it until `latest` is `tx_id`.

        An entry is valid if `latest` still equals the reader's transaction after the lookup.
        """
        with self._announcing:
            for id in touched:
                self.index.plain.pop(_plain_key(id), None)
            self.committing = tx_id
        self._own = (self._words[_HEAD_COMMITS] + 1) % 2 ** 32
        self.births += has_births

    def own_mark(self) -> int:
        """After COMMIT: the mark of the state that it made, unless another process has committed since."""
        mark = self.words[_HEAD_MARK]
        return mark if self._words[_HEAD_COMMITS] == self._own else _UNKNOWN

    def steadily(self, ask: Callable, reader: _Reader, *rest: Any) -> Any:
        """What ask(reader, *rest) gives, asked again if meanwhile UUIDs got numbers, and with them other cells."""
        for _ in range(3):
            state, births = self.catch_up().mark, self.births
            answer = ask(reader, *rest)
            if self.words[_HEAD_MARK] == state:
                return answer
            self.catch_up()
            if reader.uri != self.uri:
                raise StoreError(f"{self.path} has begun to be written to at this moment; ask again.")
            if births == self.births and births % 2 == 0:
                return answer
        reader.is_used = True
        reader.execute("begin")       # numbers are then read in the same state
        return ask(reader, *rest)

    def settle_births(self) -> None:
        """The writer's transaction has ended, one way or the other."""
        self.births += self.births % 2
        self._own = None

    def learn_plain(self, id: Any, n: int, point: Point) -> None:
        """Keeps the number of a plain version that a statement has found, if nothing was committed meanwhile."""
        key, plain = _plain_key(id), self.index.plain
        with self._announcing:
            if self.committing == point.tx_id and self.words[_HEAD_MARK] == point.mark and key is not None:
                if len(plain) >= PLAIN_CACHED:
                    plain.clear()
                plain[key] = n

    def undo(self) -> None:
        """Memory says what the file says: nothing of the writer's transaction, or all of it if COMMIT was done."""
        if self.writer.connection.in_transaction:
            self.writer.execute("rollback")
        self.settle_births()
        self._marked = None
        self.documents.clear()
        self.evictions += 1           # past snapshots look their documents up again
        self._load_state()

    def fail(self, error: BaseException) -> None:
        """After a failed write nobody knows what the disk holds: SQLite would go on as if nothing had happened."""
        self.failed = self.failed or (f"A write to {self.path} failed ({error}); the store takes no more until it is "
                                      "opened again. What was acknowledged is there; reads go on.")
        if self.writer.connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self.writer.execute("rollback")
        log.error("%s", self.failed)

    def keep_wal_small(self, must_empty: bool) -> None:
        """After a commit: empties a write-ahead log that is long or holds the evicted.

        What fails here costs no transaction, which is committed: it is tried again after the next one.
        """
        self._must_empty |= must_empty
        self._commits += 1
        try:
            if must_empty or self._commits % 256 == 0 and _size(self.path + "-wal") > WAL_BYTES_MAX:
                self.empty_wal()
            elif self._must_empty:
                self._empty_if_free()
        except (sqlite3.Error, OSError) as error:
            log.error("The write-ahead log of %s could not be moved into the file (%s); it is tried again.", self.path,
                      error)

    def empty_wal(self) -> None:
        """Moves the write-ahead log into the file and truncates it. New readers wait for it, it for older ones."""
        self._may_read.clear()
        self._is_emptying = True
        try:
            self.writer.execute(f"pragma busy_timeout = {EMPTY_MS}")
            self._must_empty = bool(self.writer.execute("pragma wal_checkpoint(truncate)").fetchone()[0])
        finally:
            self.writer.execute("pragma busy_timeout = 0")
            self._is_emptying = False
            self._may_read.set()

    def _empty_if_free(self) -> None:
        """The same once nobody reads, on its own connection: any thread gives readers back. The writer goes first."""
        with contextlib.suppress(sqlite3.Error), contextlib.closing(
                sqlite3.connect(self.path, 0, isolation_level=None)) as connection:
            self._must_empty = bool(connection.execute("pragma wal_checkpoint(truncate)").fetchone()[0])
        if self._must_empty and not (self._emptier and self._emptier.is_alive()):
            self._emptier = threading.Thread(target=_empty_later, args=[weakref.ref(self)], daemon=True)
            self._emptier.start()


def _empty_later(ref: weakref.ref[_File]) -> None:
    """Tries again, while other processes read, until the write-ahead log no longer holds what was evicted."""
    is_left = True
    while is_left:
        time.sleep(EMPTY_AGAIN_S)
        file = ref()
        is_left = file is not None and file._must_empty and not file.closed
        if file is not None and is_left:
            file._empty_if_free()
        del file


class _Hold:
    """What this process holds of a file, for all its nodes that have it open: a lock, and a look at the head.

    Everybody who opens a file shares its lock: one who finds it free is the first. An index of a log elsewhere keeps
    it alone. These files stay open until this process has no connection left: closing one ends SQLite's own locks, too.
    """
    _open: dict[tuple[int, ...], "_Hold"] = {}       # by number and device of the file
    _inherited: set[tuple[int, ...]] = set()         # files that were open when this process was forked
    opening = threading.RLock()

    def __init__(self, path: str, key: tuple[int, ...]):
        self.path, self._key, self._count, self._looks = path, key, 0, 0
        self.is_first = self.is_alone = self._is_locked = False
        self._file = os.open(path, os.O_RDONLY | _CLOEXEC)
        self._head: mmap.mmap | None = None

    @classmethod
    def of(cls, path: str, is_alone: bool, timeout_s: float | None) -> _Hold:
        """What is held of a file, its lock too but for a timeout of None. Raises: LockedError."""
        with cls.opening:
            try:
                key = os.stat(path)[1:3]
                held = cls._open.get(key) or cls(path, key)
            except OSError as error:
                raise StoreError(f"{path} cannot be opened: {error.strerror}.") from None
            if held.path != path:
                raise LockedError(f"{path} is in use by this process as {held.path}, another name of the same file. "
                                  "Use one name.")
            try:
                held._check()
                if timeout_s is not None:
                    held._take(is_alone, timeout_s)
            except BaseException:
                held._close()
                raise
            held._count += 1
            cls._open[key] = held
            return held

    def _check(self) -> None:
        if self._key in self._inherited:
            raise LockedError(f"{self.path} was open when this process was forked, and SQLite cannot open it here. "
                              "Fork before it is opened, or start a new process.")

    def _take(self, is_alone: bool, timeout_s: float) -> None:
        """Others who have the file open by this name have an index of the write-ahead log beside it."""
        if self._is_locked:
            if is_alone or self.is_alone:
                raise LockedError(f"{self.path} is open in this process already, as or beside the index of a log on "
                                  "PostgreSQL, which is one node's alone.")
            self.is_first = False
            return
        end = time.monotonic() + timeout_s
        self.is_alone, self.is_first = is_alone, _flocked(self._file)
        while not (self.is_first or not is_alone and os.path.exists(self.path + "-shm")
                   and _flocked(self._file, is_shared=True)):
            if is_alone or time.monotonic() > end:
                raise LockedError(f"{self.path} is in use by another process, " + (
                    "and the index of a log on PostgreSQL is one server's alone." if is_alone else "which needs it "
                    "alone, or under another name of the same file (a hard link)."))
            time.sleep(POLL_S)
            self.is_first = _flocked(self._file)
        self._is_locked = True

    def share(self) -> None:
        """Lets others open the file, too."""
        if self.is_first and not self.is_alone:
            _flocked(self._file, is_shared=True, waits=True)
        self.is_first = False

    def user_version(self) -> int:
        """As the file has it without its write-ahead log."""
        return int.from_bytes(os.pread(self._file, 4, 60), "big")

    def look(self) -> tuple[memoryview, memoryview]:
        """The head of the index of the write-ahead log, which a connection has made: in words of 8 and of 4 bytes."""
        if self._head is None:
            self._shm = os.open(self.path + "-shm", os.O_RDONLY | _CLOEXEC)
            self._head = mmap.mmap(self._shm, _HEAD_BYTES, access=mmap.ACCESS_READ)
        self._looks += 1
        head = memoryview(self._head)
        words = head.cast("I")
        if words[0] != _HEAD_VERSION:
            raise StoreError(f"{self.path}-shm has version {words[0]}; this file knows {_HEAD_VERSION}.")
        return head.cast("Q"), words

    def let_go(self, looks: int) -> None:
        with self.opening:
            self._looks -= looks
            if not self._looks and self._head is not None:       # SQLite may have removed it, and make another one
                self._head = None
                os.close(self._shm)
            self._count -= 1
            if not self._count:
                del self._open[self._key]
                self._close()

    def _close(self) -> None:
        if not self._count:
            _flocked(self._file, is_shared=None)      # for a child that was forked just now and has its copy, too
            os.close(self._file)

    @classmethod
    def forked(cls) -> None:
        """In a forked child: locks stay with the parent, and what was open there cannot be opened here."""
        cls.opening = threading.RLock()
        for held in cls._open.values():
            os.close(held._file)
        cls._inherited = cls._inherited | cls._open.keys()
        cls._open = {}


def _let_go(connections: dict[sqlite3.Connection, None], looks: list[tuple], held: _Hold, is_temporary: bool) -> None:
    """Closes what a node has open; also behind one that was dropped. The writer goes last: it cleans up."""
    while connections:
        connections.popitem()[0].close()
    held.let_go(len(looks))
    looks.clear()
    if is_temporary:
        shutil.rmtree(os.path.dirname(held.path), True)


def _place(path: Any) -> tuple[bool, str]:
    """Whether a file is temporary, and its real path. Raises: StoreError if no file can be there."""
    if sqlite3.sqlite_version_info < SQLITE_MIN:
        raise StoreError(f"Python's sqlite3 has SQLite {sqlite3.sqlite_version}; the store needs "
                         f"{'.'.join(map(str, SQLITE_MIN))} or newer.")
    if path == ":memory:":
        return True, os.path.join(tempfile.mkdtemp(prefix="store-"), "store.db")
    try:
        text = os.fsdecode(os.fsencode(path))
    except (TypeError, UnicodeEncodeError):
        text = ""
    if not text or "\0" in text or "://" in text or text.startswith("file:"):
        raise StoreError(f"{_short(path)} is no path; wanted that of a file, \":memory:\" or \"postgresql://…\".")
    real = os.path.realpath(text)
    if os.path.isdir(real):
        raise StoreError(f"{real} is a folder; wanted the path of a file.")
    if not os.path.isdir(os.path.dirname(real)):
        raise StoreError(f"{real} cannot be opened: its folder is not there. Make it first.")
    if kind := _network_of(real):
        raise StoreError(f"{real} is on a network file system ({kind}), on which processes share no locks and memory. "
                         "Put it on a disk of this machine, or the log on PostgreSQL.")
    return False, real


def _network_of(path: str) -> str | None:
    """The kind of network file system that a path is on, as far as this system tells."""
    kinds: dict[str, str] = {}
    with contextlib.suppress(OSError), io.open(_MOUNTS, errors="surrogateescape") as mounts:
        for line in mounts:
            _, where, kind, *_ = line.split(" ")
            kinds[re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), where)] = kind
    above = path
    while above not in kinds and above != os.path.dirname(above):
        above = os.path.dirname(above)
    kind = kinds.get(above, "")
    return kind if _NETWORKS.fullmatch(kind) else None


def _uri(path: str, mode: str = "ro") -> str:
    return f"file:{urllib.parse.quote(path)}?mode={mode}"


def _connected(where: str, *pragmas: str) -> sqlite3.Connection:
    """A connection to a path, or to an address of `_uri`, with settings of its own."""
    connection = sqlite3.connect(where, uri=where.startswith("file:"), isolation_level=None, check_same_thread=False,
                                 cached_statements=256)
    for pragma in pragmas:
        connection.execute(f"pragma {pragma}")
    return connection


def _code(error: Exception) -> int:
    """SQLite's code of an error, without what it adds to it; SQLITE_ERROR of another error."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xff


def _flocked(file: int, is_shared: bool | None = False, waits: bool = False) -> bool:
    """Whether a lock of a file could be had, its own or a shared one; None gives it back."""
    if fcntl is None or file < 0:
        return True
    how = fcntl.LOCK_UN if is_shared is None else fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, how if waits else how | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _size(path: str | os.PathLike[str]) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _empty_file(path: str) -> None:
    """A new file, its owner's alone, in place of one broken off; SQLite gives those beside it the same mode."""
    for end in ("", "-wal", "-shm", "-journal"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + end)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _synced(path: str) -> None:
    """Brings a file that no connection has open, or a folder, to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _head(connection: sqlite3.Connection) -> dict:
    """What the first row of the log says: the store, and the format."""
    ops, = connection.execute("select ops from log where tx_id = 0").fetchone()
    head = unpack(ops)
    if type(head) is not dict or type(head.get("store")) is not uuid.UUID:
        raise CorruptError("The first row of the log is not what was written.", 0)
    return head


def _about_new_store() -> bytes:
    return pack({"store": uuid.uuid4(), "format": FORMAT})


def _checksum(hash: bytes) -> int:
    return int.from_bytes(hash[:8], "big", signed=True)


def _call_of_query(ref: weakref.ref, what: str, number: Any, *cells: Any) -> Any:
    """A function of the query that runs on a reader, called by SQLite once a row; `_guarded` in one step."""
    reader: Any = ref()
    try:
        run = reader.run
        if what == "member":
            return run.parsed.native.member(run, number, *cells)
        return getattr(run.calls, what)(number, cells)
    except BaseException as error:
        reader.error, reader.is_used = error, True
        raise


class _Reader:
    """A connection, and the query that runs on it at this moment."""

    def __init__(self, file: _File, connection: sqlite3.Connection):
        self.file, self.connection, self.execute, self.uri = file, connection, connection.execute, file.uri
        self.run: Any = None                  # the `_Run` that asks with it
        self.deadline: float | None = None    # of what is asked at this moment
        self.error: BaseException | None = None       # what a function raised, which SQLite swallows
        self.is_stopped = False               # by us: its time was over, or the node was closed
        self.filled: _Filled | None = None    # what its temporary tables hold of a supposition
        self.is_used = False                  # whether more was done with it than to ask and to read all rows at once
        self._open: list[sqlite3.Cursor] = []
        self.cursor = connection.cursor()     # of what is read at once and calls nothing: a new one would cost a tenth
        me = weakref.proxy(self)              # the garbage collector does not see what a connection holds of Python
        for name, what in ("py", "call"), ("py_test", "test"), ("py_json", "call_json"), ("member", "member"):
            connection.create_function(name, -1, functools.partial(_call_of_query, weakref.ref(self), what))
        connection.create_function("compare", 3, lambda *operands: me._guarded(
            _sibling("store_native").compare, me.run, *operands))
        connection.create_function("part", 2, lambda *entry: me._guarded(_sibling("store_schema").part_of, *entry))
        connection.create_function("cell", 1, lambda text: me._guarded(_cell_of_json, text), deterministic=True)
        self._watch_time = functools.partial(connection.set_progress_handler, lambda: me._guarded(me._is_over), STEPS)
        self._watch_time()

    def _guarded(self, work: Callable, *args: Any) -> Any:
        """Keeps what is raised, Ctrl-C too, until the statement has ended: SQLite would make another error of it."""
        try:
            return work(*args)
        except BaseException as error:
            self.error, self.is_used = error, True
            raise

    @contextlib.contextmanager
    def unbroken(self) -> Iterator[None]:
        """A block of short writes that nothing stops: with a stopped write, SQLite takes back the whole transaction."""
        self.connection.set_progress_handler(None, 0)
        try:
            yield
        finally:
            self._watch_time()

    def _is_over(self) -> bool:
        is_over = self._is_late()
        if is_over:
            self.is_stopped = self.is_used = True         # kept for `fail`: by then the query's deadline is gone
        return is_over

    def _is_late(self) -> bool:
        return (self.file.closed is not None or self.deadline is not None and time.monotonic() > self.deadline
                or self.run is not None and self.run.is_stopped)

    def look_at_clock(self) -> None:
        """Raises once the time of what is asked is over, or the node is closed: for what Python does with the rows."""
        if self._is_late():
            self.file.check_open()
            raise QueryLimitError(_LATE)

    def fail(self, error: sqlite3.Error) -> NoReturn:
        """Raises what a failed statement means: what a function raised in it, else our error for SQLite's.

        Ctrl-C between SQLite's call and a function's first line leaves no trace but that there is no other reason.
        """
        raised, is_stopped = self.error, self.is_stopped or self._is_over()
        self.error, self.is_stopped = None, False
        if raised is not None:
            raise raised from None
        if str(error) in ("interrupted", "user-defined function raised exception") and not is_stopped \
                and threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt from None
        raise self.file.read_error(error) from error

    def rows(self, sql: str, parameters: tuple = ()) -> sqlite3.Cursor:
        """Rows that are read one by one. `rest` closes the cursor: an open one would hold this reader in the past."""
        cursor = self.connection.cursor()
        self._open.append(cursor)
        self.is_used = True
        return cursor.execute(sql, parameters)

    def rest(self) -> None:
        """Ends whatever is still being read, kept errors and left rows notwithstanding."""
        while self._open:
            self._open.pop().close()

    def settle(self) -> None:
        """Back to what a borrower expects: nothing is open, and nothing is kept of what nobody can ask for any more."""
        self.rest()
        self.error, self.is_stopped = None, False
        if self.connection.in_transaction:
            self.execute("rollback")
            self.filled = None            # its tables may have been made in this transaction, and are gone with it
        if self.filled is not None and self.filled.supposed() is None:
            self.execute("delete from temp.touched"), self.execute("delete from temp.over_facts")
            self.filled = None
        self.is_used = self.filled is not None


class _TwoDicts:
    """A bounded map that forgets what was not asked for lately: when the young dict is full it becomes the old one."""
    young: dict[Any, Any]
    _old: dict[Any, Any]

    def __init__(self, size: int, weigh: Callable[[Any], int] = lambda value: 1):
        self._size, self._weigh = size // 2, weigh
        self.clear()

    def clear(self) -> None:
        self.young, self._old, self._held = {}, {}, 0

    def get(self, key: Any) -> Any:
        value = self.young.get(key)
        if value is None:
            value = self._old.get(key)
            if value is not None:
                self.put(key, value)
        return value

    def missing(self, keys: Iterable) -> list:
        young, old = self.young, self._old
        return [key for key in keys if key not in young and key not in old]

    def put(self, key: Any, value: Any) -> None:
        self.young[key] = value
        self._held += self._weigh(value)
        if self._held > self._size:
            self.young, self._old, self._held = {}, self.young, 0

    def drop(self, key: Any) -> None:
        self.young.pop(key, None)
        self._old.pop(key, None)


# ── The index ────────────────────────────────────────────────────────────────────────────────────────────────
#
# The index is derived: `reindex` makes the same tables again from log and documents, with the same numbers. A UUID gets
# its number, above zero, when the log first names it as an entity: so numbers are the order of creation, whatever is
# evicted later. One that so far only documents mention has a number below zero, and a BLOB for its cell.

_DERIVED = """
    create table ids(n integer primary key, uuid blob unique);
    create table attributes(a integer primary key, name text unique, puts integer, kinds integer);
    insert into attributes values (0, null, 0, 0), (1, 'xt/id', 0, 0);
    create table rects(e, tx_to, vt_from, n, tx_from, vt_to, tx, primary key (e, tx_to, vt_from)) without rowid;
    create table unseen(e, n, primary key (e, n)) without rowid;
    create table facts(p, a, v, k, e, n, d, primary key (p, a, v, k, e, n)) without rowid;
    create index facts_e on facts(p, e, a, k, v, n, d);
"""

# The composite indexes of a schema, once one has some: facts with joined cells for values.
_JOINED_TABLE = ("create table if not exists joined(p, a, v, k, e, n, d, primary key (p, a, v, k, e, n)) without rowid",
                 "create index if not exists joined_e on joined(p, e, n)")
_COUNTED = 0                          # the row of `attributes` with what they have counted, their changes, and a log
_REDERIVED = 2 ** 32                  # changes of one index; another one begins at another multiple of it
_ID = 1                               # the number of the attribute "xt/id"


class _Index:
    """What memory holds of the index: the numbers of attributes and UUIDs, statistics, and the versions of now."""

    def __init__(self, file: _File, reader: _Reader):
        self._file, execute = file, reader.execute
        self.kinds: dict[Any, int] = {}
        self._read_attributes(execute)
        self.puts = self._puts_there(execute)
        self.read_numbers(execute)
        self.numbers, self.uuids = _TwoDicts(IDS_CACHED), _TwoDicts(IDS_CACHED)
        self.plain: dict = {}               # `_plain_key` of an id → its plain version, from `latest` to `committing`
        self.batch: _Batch | None = None    # what the writer is about to commit
        self._doubled = 1
        self.unknown: set = set()        # UUIDs that the writer has looked for in vain during its group
        self.mentioned: set = set()      # of these, those that are values somewhere, in its group or before
        self.estimates: dict = {}
        newest, = execute("select n from log order by tx_id desc limit 1").fetchone()
        self.uncounted = [range(self.counted + 1, newest + 1)]      # documents that `puts` lacks

    def _read_attributes(self, execute: Callable) -> None:
        """`changes` counts what makes memory stale: new attributes and types, births, texts, schema, another index."""
        rows, known = execute("select a, name, kinds, puts from attributes").fetchall(), self.kinds
        self.attributes = {name: a for a, name, _, _ in rows if a != _COUNTED}
        self.kinds = {a: kinds | known.get(a, 0) for a, _, kinds, _ in rows if a != _COUNTED}
        self.changes, self.counted = next(row[2:] for row in rows if row[0] == _COUNTED)
        self.texts: frozenset[str] = frozenset()       # attributes of which the words are indexed
        self.has_text_ids = False
        if execute("select 1 from sqlite_master where name = 'texts'").fetchone():
            self.texts, self.has_text_ids = _sibling("store_text").texts_there(execute)
        self.schema = None               # what is declared, as `store_schema` knows it; None if nothing is
        if execute("select 1 from ids where uuid = ?", (SCHEMA_ID.bytes,)).fetchone():
            self.schema = _sibling("store_schema").declared_now(execute)
        self.generation = object()    # another one when plans made before are stale

    def _puts_there(self, execute: Callable) -> dict:
        return dict(execute("select a, puts from attributes where a > 0").fetchall())

    def read_numbers(self, execute: Callable) -> None:
        """The next numbers to be given to UUIDs; only for the writer, whose group may have given some."""
        least, most = execute("select (select min(n) from ids), (select max(n) from ids)").fetchone()
        self.next_id, self.next_mention = max(most or 0, 0) + 1, min(least or 0, 0) - 1

    def changes_there(self, reader: _Reader) -> int:
        changes, self.counted = reader.execute("select kinds, puts from attributes where a = ?", (_COUNTED,)).fetchone()
        return changes

    def read_on(self, reader: _Reader, before: int, n: int) -> bool:
        """Learns what others have written, with documents up to number n. True if cells may be others now."""
        counted, changes = self.counted, self.changes_there(reader)
        if changes // _REDERIVED != self.changes // _REDERIVED:
            self._file.index = _Index(self._file, reader)
            return True
        has_changed = changes != self.changes
        if has_changed:
            self._read_attributes(reader.execute)
        if n > before:
            self.uncounted.append(range(before + 1, n + 1))
        lacking = sum(map(len, self.uncounted))
        if lacking > COUNT_LATER[0] and self.counted > counted:      # others have written what they counted
            self.puts, self.uncounted = self._puts_there(reader.execute), [range(self.counted + 1, n + 1)]
        elif lacking > min(max(COUNT_LATER[0], n // 8), COUNT_LATER[1]):
            self.count_rest(reader)
        return has_changed

    def count_rest(self, reader: _Reader) -> None:
        """Counts the documents of others, and those put since the statistics were last written."""
        puts: dict = {}
        kinds: dict = {}
        while self.uncounted:
            numbers = self.uncounted.pop()
            for data, in reader.execute("select doc from documents where n between ? and ?",
                                        (numbers.start, numbers.stop - 1)).fetchall():
                for name, cell in _encoded(unpack(data))[1]:
                    if type(cell) is uuid.UUID:        # only whether there is a number counts, and an entity has one
                        known = 1 if name == "xt/id" else self.numbers.get(cell.int)
                        cell = known or self.number(cell, reader) or _UUID
                    a = self.attributes[name]
                    puts[a], kinds[a] = puts.get(a, 0) + 1, kinds.get(a, 0) | _kind_bit(cell)
        self.count(puts, kinds)
        if reader is self._file.writer:
            self.unknown.clear()

    def write_changes(self) -> None:
        self._file.writer.execute("update attributes set kinds = kinds + 1 where a = ?", (_COUNTED,))

    def count(self, puts: dict, kinds: dict) -> None:
        """Adds to the attributes' statistics; a type of value that one never had makes old plans stale."""
        for a, more in puts.items():
            self.puts[a] = self.puts.get(a, 0) + more
        if kinds := self.new_kinds(kinds):
            self.kinds.update(kinds)
            self.generation = object()
        if self.puts.get(_ID, 0) >= self._doubled:
            self.generation, self._doubled = object(), 2 * self.puts[_ID]

    def new_kinds(self, kinds: dict) -> dict:
        """The kinds of the attributes that have got a type of value that they never had."""
        known = self.kinds
        return {} if kinds.items() <= known.items() else {
            a: of_a | known.get(a, 0) for a, of_a in kinds.items() if of_a & ~known.get(a, 0)}

    def write_statistics(self, n: int) -> None:
        if self.uncounted:
            with self._file._moving:
                self.count_rest(self._file.writer)
        self.counted = n
        self._file.writer.connection.executemany("update attributes set puts = ?, kinds = ? where a = ?",
                                                 [(puts, self.kinds.get(a, 0), a) for a, puts in self.puts.items()])
        self._file.writer.execute("update attributes set puts = ? where a = ?", (n, _COUNTED))

    def flush(self) -> None:
        """Before the writer reads: what its group has put so far goes into the tables."""
        if self.batch is not None:
            self.batch.flush()

    def attribute(self, name: str, reader: _Reader) -> int | str | bytes:
        """The number of an attribute, or its name, which no row has, if it has none. The writer knows its group's."""
        n = self.attributes.get(name)
        if n is None and self.batch is not None and reader is self._file.writer:
            n = self.batch.attributes.get(name)
        return (name if name.isascii() else name.encode(errors="surrogatepass")) if n is None else n

    def number(self, id: uuid.UUID, reader: _Reader) -> int | None:
        """The number that stands for a UUID in the index, or None if the log names no such entity."""
        key = id.int
        if reader is not self._file.writer:
            n = None if reader.connection.in_transaction else self.numbers.get(key)      # memory may be newer than it
            if n is None and (row := reader.execute("select n from ids where uuid = ? and n > 0",
                                                    (id.bytes,)).fetchone()):
                n = self._learn(key, row[0])
            return n
        n = self.batch.numbers.get(key) if self.batch else None
        if n is None and key not in self.unknown:
            n = self.numbers.get(key)
            if n is None:
                row = reader.execute("select n from ids where uuid = ?", (id.bytes,)).fetchone()
                n = self._learn(key, row[0] if row else 0)
        return n

    def _learn(self, key: int, n: int) -> int | None:
        if n > 0:
            self.numbers.put(key, n)
            return n
        self.unknown.add(key)
        if n:
            self.mentioned.add(key)
        return None

    def learn_numbers(self, ids: Iterable) -> None:
        """Brings into memory which UUIDs among some entities' ids the index knows; for the writer."""
        for keys in _chunks(self.numbers.missing([id.int for id in ids if type(id) is uuid.UUID]))[0]:
            rows = self._file.writer.execute(f"select uuid, n from ids where uuid in ({_places(len(keys))})",
                                             [key.to_bytes(16, "big") for key in keys])
            found = {int.from_bytes(data, "big"): n for data, n in rows}
            for key in keys:
                self._learn(key, found.get(key, 0))

    def uuid_of(self, n: int, reader: _Reader) -> uuid.UUID:
        id = self.uuids.get(n)
        if id is None:
            id = _uuid(reader.execute("select uuid from ids where n = ?", (n,)).fetchone()[0])
            self.uuids.put(n, id)
        return id

    def uuids_of(self, numbers: Iterable[int], reader: _Reader) -> list:
        young = self.uuids.young
        try:
            return [young[n] for n in numbers]
        except KeyError:
            self.learn_uuids(set(numbers), reader)
            return [self.uuid_of(n, reader) for n in numbers]

    def learn_uuids(self, numbers: Iterable[int], reader: _Reader) -> None:
        """Brings these numbers' UUIDs into memory with one statement."""
        missing = self.uuids.missing(numbers)
        if len(missing) > 2:
            rows = reader.execute("select n, uuid from ids where n in (select value from json_each(?))",
                                  (json.dumps(missing),))
            for n, data in rows:
                self.uuids.put(n, _uuid(data))


def _plain_key(id: Any) -> int | str | None:
    """What a UUID or a string is found by in `plain`: equal only where the ids are, hashed in C. None for other ids."""
    return id.int if type(id) is uuid.UUID else id if type(id) is str else None


# ── The log ──────────────────────────────────────────────────────────────────────────────────────────────────
#
# The log is the only truth: everything else in this file can be thrown away and rebuilt from it. A transaction is in
# the log whole or not at all. Its tx_id is the next integer, without gaps, and its transaction time never goes back,
# whatever the clock does. `hash` chains what was submitted; `state` chains what became of it.

_PUT, _DELETE, _MATCH, _EVICT, _CALL = range(5)


class _Op(NamedTuple):
    """An operation, checked: times in microseconds; of a document its bytes, their hash and its facts."""
    kind: int
    id: Any
    start: int | None = None
    end: int | None = None
    data: Any = None
    hash: Any = None
    facts: list = []
    args: tuple = ()
    record: bytes = b""               # what the log keeps of it: hashes, never contents


def _record(kind: int, id: Any, *rest: Any) -> bytes:
    return _array_header(2 + len(rest)) + _msgpack(kind) + pack(id) + _msgpack(rest)[1:]      # without its own header


def _records(ops: list[_Op]) -> bytes:
    """What the log keeps of operations."""
    return _array_header(len(ops)) + b"".join([op.record for op in ops])


def _chained(hash: bytes, tx_id: int, tx_time: int, ops: bytes) -> bytes:
    return digest(hash + struct.pack(">QQ", tx_id, tx_time) + ops)


def _state(state: bytes, hash: bytes, committed: bool | int, results: bytes | None) -> bytes:
    return digest(state + hash + (b"\1" if committed else b"\0") + (results or b""))


def _check_link(row: tuple, previous: tuple | None) -> None:
    """Refuses a transaction of the log that is not the next one after `previous`, byte for byte as it was written."""
    tx_id, tx_time, ops, hash, committed, results, state, _ = row
    with contextlib.suppress(TypeError, struct.error):      # a damaged file may give values of any type
        if previous is None:
            made = digest(ops), digest(b"state" + ops)
        else:
            made = _chained(previous[3], previous[0] + 1, tx_time, ops), _state(previous[6], hash, committed, results)
        if made == (hash, state) and (previous is None or tx_id == previous[0] + 1):
            return
    raise CorruptError(f"Transaction {tx_id} does not have the hash that its contents make. {_BROKEN}", tx_id)


def _became(ops: bytes, results: bytes | None) -> list:
    """The records of a transaction as the log has them, each call replaced by what it became."""
    of_calls = iter(unpack(results) if results else ())
    return [part for record in unpack(ops) for part in (next(of_calls) if record[0] == _CALL else (record,))]


def _told(ops: bytes, results: bytes | None, n: int, documents_of: Callable[[range], Iterable]) -> list[Operation]:
    """The operations of a transaction as people see them. Its last document is number n; an evicted one is None."""
    records = _became(ops, results)
    documents = iter(documents_of(range(n + 1 - sum(record[0] == _PUT for record in records), n + 1)))
    return [_told_op(record, documents) for record in records]


def _told_op(record: list, documents: Any) -> Operation:
    kind, id = record[0], record[1]
    if kind == _EVICT:
        return evict(id)
    times = [None if micros is None else _moment(micros) for micros in record[2:3 if kind == _MATCH else 4]]
    if kind == _PUT:
        return put(next(documents) or {"xt/id": id, "xt/evicted?": True}, *times)
    return match(id, record[3] and record[3].hex(), *times) if kind == _MATCH else delete(id, *times)


class _Committed(NamedTuple):
    """A transaction as it was committed, from which each listener gets operations of its own."""
    tx: Tx
    ops: bytes
    results: bytes | None
    n: int                            # of its last document
    contents: dict                    # number → the operation that put it

    def told(self) -> Tx:
        if not self.tx.committed:
            return self.tx
        return self.tx._replace(ops=_told(self.ops, self.results, self.n, lambda numbers: (
            op and op.data and unpack(op.data) for op in map(self.contents.get, numbers))))


class _Recent:
    """The newest transactions, kept once there is a listener: one that keeps up need not read the log."""

    def __init__(self) -> None:
        self.is_wanted = False
        self.clear()

    def clear(self) -> None:
        self._kept: dict[int, tuple[_Committed, int]] = {}
        self._bytes = 0

    def extend(self, fresh: list[_Committed]) -> None:
        for one in fresh:
            size = sum(len(op.data or b"") for op in one.contents.values())
            self._kept[one.tx.tx_id] = one, size
            self._bytes += size
        while len(self._kept) > RECENT_MAX or self._bytes > RECENT_BYTES:
            self._bytes -= self._kept.pop(next(iter(self._kept)))[1]

    def after(self, tx_id: int, count: int) -> list[Tx]:
        """The next transactions, at most so many; none if the first of them is not here."""
        kept = self._kept
        found: list[Tx] = []
        while len(found) < count and (one := kept.get(tx_id + len(found) + 1)):
            found.append(one[0].told())
        return found


def _prepare(ops: Iterable[Operation], now: Callable[[], int] | None = None) -> list[_Op]:
    """The operations, as `submit_tx` takes them, checked, packed and hashed; a list does for a tuple.

    Raises: OperationError naming the first that is malformed, or over by `now`.
    """
    if isinstance(ops, (str, bytes, dict)) or not isinstance(ops, Iterable):
        raise OperationError(f"{_short(ops)} is not a transaction; wanted a list of operations, such as [put(…)].")
    if type(ops) is tuple and ops and type(ops[0]) is str and ops[0] in _PREPARE:
        raise OperationError(f"{_short(ops)} is an operation; wanted a list of operations: [{ops[0]}(…)].")
    ops = list(ops)
    if len(ops) > OPERATIONS_MAX:
        raise OperationError(f"A transaction of {len(ops):,} operations; the limit is {OPERATIONS_MAX:,}. Submit "
                             "several.")
    prepared = []
    for number, op in enumerate(ops, 1):
        try:
            prepared.append(made := _prepare_one(op))
            if made.end is not None and made.start is None and now is not None and made.end <= now():
                raise OperationError(f"valid_to {_moment(made.end)} is past, and without valid_from it begins now: "
                                     "nothing would hold")
        except OperationError as error:
            where = f"(operation {number} of {len(ops)}). Nothing was written."
            raise type(error)(f"{str(error).rstrip('.')} {where}") from None
    return prepared


def _prepare_one(op: Any) -> _Op:
    if not isinstance(op, (tuple, list)) or not op:
        wanted = "put({…})" if isinstance(op, dict) else "one of " + ", ".join(f"{name}(…)" for name in _PREPARE)
        raise OperationError(f"{_short(op)} is not an operation; wanted {wanted}")
    make = _PREPARE.get(op[0]) if type(op[0]) is str else None
    if make is None:
        raise OperationError(f"{_short(op[0])} is not an operation; wanted one of {', '.join(_PREPARE)}."
                             f"{_meant(op[0], _PREPARE)}")
    try:
        return make(*op[1:])
    except ValueTypeError:
        if not _is_ref(ref := op[1].get("xt/id") if type(op[1]) is dict else op[1]):
            raise
        return _sibling("store_patch").prepare_of(ref, *op)
    except TypeError:
        raise OperationError(f"{op[0]} with {len(op) - 1} arguments; wanted {_ARGUMENTS[op[0]]}") from None


def _prepare_put(document: Any, start: Any = None, end: Any = None) -> _Op:
    data, facts = _encoded(document)
    (start, end), hash, id = _span(start, end), digest(data), _logged_id(document["xt/id"])
    return _Op(_PUT, id, start, end, data, hash, facts, (), _record(_PUT, id, start, end, hash))


def _prepare_delete(id: Any, start: Any = None, end: Any = None) -> _Op:
    (start, end), id = _span(start, end), _logged_id(id)
    return _Op(_DELETE, id, start, end, record=_record(_DELETE, id, start, end))


def _prepare_match(id: Any, document: Any, at: Any = None) -> _Op:
    hash = None if document is None else digest(pack_document(document))
    at, id = _micros_or_none(at, "The time of a match"), _logged_id(id)
    return _Op(_MATCH, id, at, hash=hash, record=_record(_MATCH, id, at, hash))


def _prepare_evict(id: Any) -> _Op:
    id = _logged_id(id)
    return _Op(_EVICT, id, record=_record(_EVICT, id))


def _prepare_call(name: Any, *args: Any) -> _Op:
    if type(name) is not str:
        raise OperationError(f"call of {_short(name)}; wanted the name of a function given to open()")
    return _call_op(name, args)


def _call_op(name: Any, args: tuple, start: int | None = None, end: int | None = None) -> _Op:
    return _Op(_CALL, name, start, end, args=args, record=_record(_CALL, name, None, digest(pack(list(args)))))


def _logged_id(id: Any) -> Any:
    """The id as the log has it: of 0.0 and -0.0, which name one entity, the first."""
    check_id(id)
    return id + 0.0 if type(id) is float else id


def _span(start: Any, end: Any) -> tuple[int | None, int | None]:
    start, end = _micros_or_none(start, "valid_from"), _micros_or_none(end, "valid_to")
    if start is not None and end is not None and end <= start:
        before = "valid_from" if end == start else f"before valid_from {_moment(start)}"
        raise OperationError(f"valid_to {_moment(end)} is {before}: nothing would hold")
    return start, end


def _micros_or_none(moment: Any, what: str) -> int | None:
    return None if moment is None else _given_micros(moment, what)


_PREPARE: dict[str, Callable[..., _Op]] = {
    "put": _prepare_put, "delete": _prepare_delete,
    "patch": lambda *args: _sibling("store_patch").prepare_patch(*args), "match": _prepare_match,
    "cas": lambda *args: _sibling("store_patch").prepare_cas(*args), "evict": _prepare_evict, "call": _prepare_call}
_ARGUMENTS = {"put": "a document, valid_from and valid_to", "delete": "an id, valid_from and valid_to",
              "patch": "an id, a dict of attributes, valid_from and valid_to",
              "cas": "an id, an attribute, the old value and the new one",
              "match": "an id, a document or None, and a time", "evict": "an id alone",
              "call": "a function's name and its arguments"}


@dataclasses.dataclass(slots=True, eq=False)
class _Pending:
    """A transaction on its way: a submitting thread waits at a lock, a coroutine for a future of its event loop."""
    ops: list[_Op]
    tx_time: int | None = None        # of an imported transaction
    tx: Tx | None = None
    error: BaseException | None = None
    lock: Any = None
    future: asyncio.Future | None = None
    is_writing: bool = False          # the submitting thread commits it itself

    def timed(self, clock: int, newest: int) -> int:
        """Its transaction time: by the clock, but after the newest one's. Raises: OperationError for a given one."""
        if self.tx_time is None:
            return max(clock, newest + 1)
        if newest < self.tx_time <= clock:
            return self.tx_time
        raise OperationError(f"tx_time is {_moment(self.tx_time)}; wanted one after that of the newest transaction, "
                             f"{_moment(newest)}, and not after the log's clock, {_moment(clock)}. Nothing was "
                             "written.")

    def result(self) -> Tx:
        if self.error or self.tx is None:
            raise self.error or StoreError("A transaction was neither written nor refused.")
        return self.tx


def _tell(group: Iterable[_Pending]) -> None:
    """Wakes the threads and coroutines that wait for these transactions."""
    loops: dict = {}
    for pending in group:
        if pending.lock:
            pending.lock.release()
        elif pending.future:
            loops.setdefault(pending.future.get_loop(), []).append(pending.future)
    for loop, futures in loops.items():
        with contextlib.suppress(RuntimeError):        # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve, futures)


def _resolve(futures: list[asyncio.Future]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


class _Log:
    """What both logs do: a transaction enters or is refused, waits, and is told of; a group is written whole or not."""
    _file: _File
    _node: Node
    _pending: type[_Pending] = _Pending
    _enter: Callable[[Any, bool], bool]     # queues a transaction; or says that the submitting thread is to commit it
    _commit: Callable[[list], None]

    def __init__(self, file: _File, node: Node):
        self._file, self._node = file, weakref.proxy(node)
        self._lock = threading.Lock()
        self._mutex = threading.Condition(self._lock)   # `with` the lock, not this: Ctrl-C leaves no lock of C's taken
        self._queue: collections.deque = collections.deque()
        self._ending = self._ended = False
        self._crowd = 0                  # how many waited for the last group: for so many the next one waits a moment
        self._writer: int | None = None  # the thread that writes at this moment

    def submit(self, ops: list[_Op], tx_time: int | None) -> Tx:
        pending = self._pending(ops, tx_time)
        try:
            if self._enter(pending, True):
                self._commit([pending])
        finally:
            try:
                if pending.is_writing:
                    self._leave(pending)
            finally:
                if pending.is_writing:        # Ctrl-C came between
                    self._leave(pending)
        if pending.lock:
            pending.lock.acquire()
        return pending.result()

    async def submit_async(self, ops: list[_Op], tx_time: int | None) -> Tx:
        pending = self._pending(ops, tx_time)
        pending.future = asyncio.get_running_loop().create_future()
        self._enter(pending, False)
        await pending.future             # a caller who gives up leaves the transaction on its way
        return pending.result()

    def notify(self, notice: str) -> None:
        self._node._hear(notice)

    def listen(self) -> None:
        """From now on this node is woken by transactions of others, and hears notices."""

    def abandon(self) -> None:
        """In a forked child."""

    def _leave(self, pending: _Pending) -> None:
        """Ends what `_enter` began for a thread that commits by itself."""
        pending.is_writing = False

    def _refuse(self) -> None:
        self._file.check_open()
        if self._ending:
            raise ClosedError(f"The store {self._file.path} is closing.")
        if self._writer == threading.get_ident():
            raise StoreError("A transaction function cannot submit a transaction: it would wait for the one that it is "
                             "part of. Return the operations instead.")
        if self._file.is_readonly:
            raise StoreError(f"{self._file.path} was opened for reading only. Open it without readonly=True.")
        self._refuse_if_failed()

    def _refuse_if_failed(self) -> None:
        if self._file.failed:
            raise ClosedError(self._file.failed)

    def _write(self, fill: Callable[[_Batch], None], confirm: Callable[[], None] = lambda: None) -> None:
        """Writes what `fill` puts into a batch in one SQLite transaction, once `confirm` returned; else nothing."""
        file = self._file
        try:
            self._writer = threading.get_ident()
            file.begin()
            batch = file.index.batch = _Batch(file)
            fill(batch)
            batch.finish()
            confirm()
            with file._moving:
                file.announce(batch.latest.tx_id, batch.touched, batch.has_births)
                file.writer.execute("commit")
                batch.publish()
        except BaseException as error:
            self._undo(error)
            raise
        finally:
            file.index.batch = self._writer = None
        file.keep_wal_small(bool(batch.evicted))

    def _undo(self, error: BaseException) -> None:
        try:
            self._file.undo()
        except Exception as another:     # it hides no reason
            self._file.fail(error if isinstance(error, sqlite3.Error) else another)


class _SqliteLog(_Log):
    """The log in the node's own file: a thread that finds the writer free commits, what comes meanwhile is a group.

    After a commit, a group waits up to GATHER_S for the same threads to submit again: else one of them commits alone
    each time while the others wait. A submitting thread, or the committer of a group, holds `_busy`.
    """

    def __init__(self, file: _File, node: Node):
        super().__init__(file, node)
        self._busy = self._handed = False
        self._thread: threading.Thread | None = None
        self.cut_off = None              # a file is always within reach
        self._bells = _watch(self)
        self._told = file.latest.tx_id   # the newest transaction of others that this node's listeners were woken for

    def listen(self) -> None:
        if not self._file.is_temporary:
            self._bells.listen()

    def notify(self, notice: str) -> None:
        if type(self._bells) is _Watch and not self._file.is_temporary:
            _sibling("store_bells")       # says that it is not there
        self.listen()
        self._node._hear(notice)
        self._bells.send(notice.encode())

    def hear(self, notices: list[bytes]) -> None:
        """What other processes and nodes say, and have written."""
        for notice in filter(None, notices):
            self._node._hear(notice.decode("utf-8", "replace"))
        newest = self._file.catch_up().tx_id
        if newest != self._told:
            self._told = newest
            self._node._announce()

    def abandon(self) -> None:
        self._bells.abandon()

    def begin(self, progress: Progress | None) -> None:
        """A log in the node's own file is never behind."""

    def newest(self) -> int:
        """The number of the newest transaction in the log."""
        return self._file.catch_up().tx_id

    def is_settled(self, micros: int) -> bool:
        """Whether every transaction of that time or before is indexed; none that is on its way may be of before."""
        if micros >= self._node._clock() or self._file.is_readonly:
            return False
        self.alone(self._file.pass_lock)
        return True

    def _enter(self, pending: _Pending, may_write: bool) -> bool:
        with self._lock:
            self._refuse()
            if may_write and not self._busy and self._crowd <= 1:
                pending.is_writing = True      # before `_busy`: an interrupt in between frees what is free
                self._busy = True
                return True
            if may_write:
                pending.lock = threading.Lock()
                pending.lock.acquire()
            self._queue.append(pending)
            if not self._busy:
                self._busy = True
                self._hand_over(pending)
            elif self._are_all_here():
                self._mutex.notify_all()
            return False

    def _are_all_here(self) -> bool:
        """Whether as many wait as did at the last commit: then nobody else is worth waiting for."""
        return len(self._queue) >= self._crowd

    def alone(self, work: Callable[[], None]) -> None:
        """Runs some work as the only writer."""
        with self._lock:
            self._refuse()
            self._mutex.wait_for(lambda: not self._busy or self._ended)
            self._refuse()
            self._busy = True
        try:
            work()
        finally:
            self._leave(_Pending([]))

    def close(self) -> None:
        if self._writer == threading.get_ident():
            self._refuse()
        with self._lock:
            self._ending = True
            self._mutex.wait_for(lambda: not self._busy or self._ended)
            self._busy = self._ended = True
            self._mutex.notify_all()
            thread = self._thread
        if thread:
            thread.join()
        self._bells.close()

    def _leave(self, pending: Any) -> None:
        with self._lock:
            self._writer = None
            if self._queue:
                self._hand_over(pending)
            else:
                self._mutex.notify_all()
                self._busy = pending.is_writing = False      # both, or neither when Ctrl-C comes

    def _hand_over(self, pending: Any) -> None:
        if not self._thread:
            thread = threading.Thread(target=self._committer, name="store-committer", daemon=True)
            thread.start()
            self._thread = thread
        self._handed, pending.is_writing = True, False
        self._mutex.notify_all()

    def _committer(self) -> None:
        """Commits groups; ends when nothing came for a while, so that it keeps no node that was dropped."""
        while True:
            with self._lock:
                self._mutex.wait_for(lambda: self._handed or self._ended, IDLE_S)
                if not self._handed:
                    self._thread = None
                    return
                self._handed = False
                self._mutex.wait_for(self._are_all_here, GATHER_S)
                group: list[_Pending] = []
                self._join(group)
            try:
                self._commit(group, may_grow=True)
            finally:
                self._leave(_Pending([]))

    def _join(self, group: list[_Pending]) -> None:
        """Takes what waits into a group."""
        group += [self._queue.popleft() for _ in range(min(len(self._queue), GROUP_MAX - len(group)))]

    def _commit(self, group: list[_Pending], may_grow: bool = False) -> None:
        """Commits a group with one sync, each transaction with its own tx_id, and tells those who wait.

        One that may grow takes what has come while it waited for other processes: else that would wait once more.
        """
        try:
            self._try_to_commit(group, may_grow)
        finally:
            self._crowd = len(group) + len(self._queue)
            _tell(group)
            self._node._announce()
            self._bells.send()

    def _try_to_commit(self, group: list[_Pending], may_grow: bool = False) -> None:
        """Commits a group, or else each transaction alone: one that fails, fails alone."""
        try:
            self._refuse_if_failed()
            self._write(functools.partial(self._fill, group, may_grow))
        except BaseException as error:
            is_unknown = isinstance(error, Exception) and not isinstance(error, StoreError)
            if is_unknown and len(group) > 1 and not self._file.failed:
                for pending in group:
                    self._try_to_commit([pending])
                return
            if is_unknown:
                log.error("a transaction could not be written", exc_info=error)
                error = StoreError(f"The transaction could not be written ({error}). Nothing of it was; the store goes "
                                   "on.")
            for pending in group:
                pending.tx, pending.error = None, error

    def _fill(self, group: list[_Pending], may_grow: bool, batch: _Batch) -> None:
        if may_grow:
            with self._lock:
                self._join(group)
        ids = [op.id for pending in group for op in pending.ops]
        if len(ids) > 1:
            self._file.index.learn_numbers(ids)
        for pending in group:
            pending.error = None
            pending.tx = self._append(pending, batch)

    def _append(self, pending: _Pending, batch: _Batch) -> Tx | None:
        previous = batch.latest
        try:
            tx_id, tx_time = previous.tx_id + 1, pending.timed(self._node._clock(), previous.time)
            db = _WriterDb(self._node, self._file.writer, Point(previous.tx_id, tx_time, previous.n))
            transaction = _Transaction(db, tx_id, tx_time, previous.n)
            committed = transaction.run(pending.ops)
        except sqlite3.Error:             # what the group has put so far could not be written before a reading
            raise
        except BaseException as error:    # of a function, ours, or the disk's while reading; nothing of it was written
            pending.error = error
            return None
        if committed:
            batch.write(transaction)
        batch.record(transaction, _records(pending.ops), committed)
        return Tx(tx_id, _moment(tx_time), committed, None, transaction.reason)

    def _undo(self, error: BaseException) -> None:
        """What the disk refused while it was written is final; what else failed is as if it had not been submitted."""
        if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
            self._file.fail(error)
            raise ClosedError(self._file.failed) from error
        super()._undo(error)


class _Watch:
    """Tells a log what other processes have written: a thread looks at the head of the file again and again.

    `Bells` of store_bells.py, where it lies beside, are a watch that the others wake, and that carries notices.
    """

    def __init__(self, log: _SqliteLog):
        self._log, self._lock, self._is_closed = weakref.ref(log), threading.Lock(), False
        self._thread: threading.Thread | None = None
        weakref.finalize(log, self.close)

    def listen(self) -> None:
        with self._lock:
            if self._thread is None and not self._is_closed:
                self._begin()
                self._thread = threading.Thread(target=self._hear, name="store-bell", daemon=True)
                self._thread.start()

    def _hear(self) -> None:
        """Tells the log what comes, until it is closed or dropped."""
        heard: list[bytes] = []
        while not self._is_closed:
            log_ = self._log()
            if log_ is None:
                return
            try:
                log_.hear(heard)
            except Exception as error:
                if not self._is_closed:
                    log.debug("what others have written could not be read", exc_info=error)
            del log_
            heard = self._received(heard)

    def _begin(self) -> None:
        """Before the first look."""

    def _received(self, before: list[bytes]) -> list[bytes]:
        """Waits a while, and returns what others have sent."""
        time.sleep(POLL_S)
        return []

    def send(self, data: bytes = b"") -> None:
        """Wakes the others, or gives them a notice; blocks nowhere."""

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
        self._end()
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join(JOIN_S)
        self.abandon()

    def _end(self) -> None:
        """Wakes the thread."""

    def abandon(self) -> None:
        """In a forked child."""


def _watch(log: _SqliteLog) -> _Watch:
    try:
        return _Watch(log) if log._file.is_temporary else _sibling("store_bells").Bells(log)
    except StoreError:
        return _Watch(log)


# ── Transactions ─────────────────────────────────────────────────────────────────────────────────────────────
#
# A transaction is worked out before anything is written: it reads the open rectangles of the entities that it touches
# and makes new ones. A commit writes the outcome, `with_tx` keeps it in memory, a call sees it as far as it has come.
# So there is one meaning of an operation, and an abort has nothing to undo.
#
# A rectangle says that a version holds over a span of valid time, from one transaction on. An operation over
# [start, end) closes the open rectangles that it overlaps and draws their remainders anew; nothing else ever changes.


class _Rect(NamedTuple):
    vt_from: int
    vt_to: int
    n: int                            # the version's document; below zero a deletion
    tx_from: int                      # the transaction that drew this rectangle
    tx: int                           # the one that put the version


class _Entity:
    """An entity that a transaction touches: its open rectangles by valid time, as before and as after it.

    The writer knows those that begin from `low` to before `high`, and reads more as it needs them: a past may be long.
    """
    __slots__ = "id", "before", "rects", "numbers", "evicted", "low", "high", "is_backdated"

    def __init__(self, id: Any, rects: Iterable[_Rect] = (), low: int = -OPEN, high: int = OPEN):
        self.id, self.before, self.low, self.high = id, list(rects), low, high
        self.rects = list(self.before)
        self.numbers: list[int] = []
        self.evicted = self.is_backdated = False


class Context(NamedTuple):
    """What a transaction function gets first: the state so far, and the transaction that runs."""
    db: Db
    tx_id: int
    tx_time: dt.datetime


class _Abort(Exception):
    """Ends a transaction without effect, for a reason."""


def _key(id: Any) -> Any:
    """An id as a key of a dict, where 1, 1.0 and True would be one. An integer stands for a UUID: it is hashed in C."""
    return id.int if type(id) is uuid.UUID else id if type(id) is str else pack(_logged_id(id))


class _Transaction:
    """A transaction on a snapshot: what it would change."""
    is_logged = False                 # the log has decided on it before: an operation without effect aborts nothing
    has_broken_schema = False

    def __init__(self, db: Db, tx_id: int, tx_time: int, n: int):
        self._db, self.tx_id, self.tx_time, self.first_n, self.n = db, tx_id, tx_time, n, n
        base = db._supposed
        self.entities: dict[Any, _Entity] = dict(base.entities) if base else {}
        self.contents: dict[int, _Op] = dict(base.contents) if base else {}
        self.written: dict[Any, _Entity] = {}    # the entities that are put, deleted or evicted, in the log's order
        self.reason: str | None = None
        self.journal: list | None = None         # keys of touched entities, as they are touched, once somebody asked
        self.results: list[list[_Op]] = []       # what each call became
        self._shared = set(self.entities)
        self._count = 0

    def run(self, ops: list[_Op]) -> bool:
        """Whether it commits; if not, `reason` says why."""
        for number, op in enumerate(ops, 1):
            try:
                if op.kind == _CALL:
                    self.results.append(self._call(op, 0))
                else:
                    self._apply(op)
            except _Abort as abort:
                self.reason = f"{abort} (operation {number} of {len(ops)})."
                return False
        return self._keeps_schema()

    def _keeps_schema(self) -> bool:
        schema = self._db._schema()
        if schema is None and SCHEMA_ID.int not in self.written:
            return True
        checking = _sibling("store_schema")
        try:
            checking.check(self, schema)
        except checking.Broken as broken:
            self.reason, self.has_broken_schema = f"{broken}.", True
        return not self.has_broken_schema

    def document(self, n: int) -> dict:
        return unpack(self.contents[n].data)

    def recorded_results(self) -> bytes | None:
        """What the log keeps of the calls: of each the records of what it became."""
        return _array_header(len(self.results)) + b"".join(map(_records, self.results)) if self.results else None

    # What an operation does

    def _apply(self, op: _Op) -> None:
        _APPLY[op.kind](self, op)

    def _put(self, op: _Op) -> None:
        self.n += 1
        self.contents[self.n] = op
        entity = self._to_write(op.id, op.start)
        entity.numbers.append(self.n)
        self._draw(entity, op, self.n)

    def _delete(self, op: _Op) -> None:
        self._draw(self._to_write(op.id, op.start), op, -self.tx_id)

    def _match(self, op: _Op) -> None:
        at = self.tx_time if op.start is None else op.start
        n = self.visible_n(self._entity(op.id, at), at)
        if (None if n is None else self.hash_of(n)) != op.hash:
            found = "nothing" if n is None else "another document" if op.hash else "a document"
            wanted = "the one that was given" if op.hash else "nothing"
            raise _Abort(f"match of {_short(op.id)}: {found} is visible at {_moment(at)}, not {wanted}")

    def _evict(self, op: _Op) -> None:
        entity = self._to_write(op.id, None)
        for n in entity.numbers:
            self.contents.pop(n, None)
        entity.before, entity.rects, entity.numbers, entity.evicted = [], [], [], True
        entity.low, entity.high = -OPEN, OPEN

    def _call(self, op: _Op, depth: int) -> list[_Op]:
        """What a call became, its nested calls too."""
        became = []
        for part in self._evaluate(op):
            self._count += 1
            if depth > DEPTH_MAX or self._count > OPERATIONS_MAX:
                raise _Abort(f"call of {op.id} goes on without end")
            if part.kind == _CALL:
                became += self._call(part, depth + 1)
            else:
                self._apply(part)
                became.append(part)
        return became

    def _evaluate(self, op: _Op) -> list[_Op]:
        if type(op.id) is tuple:          # a call that needs no function
            return _sibling("store_patch").became(self, op)
        function = self._db._node.functions.get(op.id)
        if function is None:
            log.warning("transaction %d aborts: no function %s was given to open()", self.tx_id, _short(op.id))
            raise _Abort(f"call of {_short(op.id)}: no such function was given to open()")
        try:
            made = function(Context(_Supposition(self._db, self, self.tx_time), self.tx_id, _moment(self.tx_time)),
                            *_copied(op.args))
            ops = [] if made is False else _prepare(made or (), lambda: self.tx_time)
        except Exception as error:
            log.warning("transaction %d aborts: %s raised", self.tx_id, op.id, exc_info=True)
            raise _Abort(f"call of {op.id}: it raised {type(error).__name__}: {_line(error)}") from None
        if made is False:
            raise _Abort(f"call of {op.id}: it returned False")
        return ops

    def _stored(self, n: int) -> dict:
        """The document number n, never to be handed out itself."""
        if op := self.contents.get(n):
            return unpack(op.data) if op.data else {}      # what was evicted later
        return self._db._answer(lambda reader, mode: self._db._content(n, reader)) or {}

    # Rectangles

    def _entity(self, id: Any, start: int | None) -> _Entity:
        """An entity as this transaction has left it, with what holds around `start` (None: the transaction's time)."""
        key, start = _key(id), self.tx_time if start is None else start
        entity = self.entities.get(key)
        if entity is None and isinstance(self._db, _WriterDb):
            entity = self.entities[key] = _Entity(id) if self._db.is_new(id) else _Entity(id, (), OPEN, -OPEN)
        elif entity is None or key in self._shared:
            entity = self.entities[key] = _Entity(id, self._db._open_rects(id))
            self._shared.discard(key)
        if self.journal is not None:
            self.journal.append(key)
        if entity.low > start:
            self._load_down(entity, start)
        return entity

    def _to_write(self, id: Any, start: int | None) -> _Entity:
        return self.written.setdefault(_key(id), self._entity(id, start))

    def _load_down(self, entity: _Entity, start: int) -> None:
        """Reads the rectangles from the last that begins by `start` up to those in memory; a few if none are."""
        is_first = entity.high == -OPEN
        count = RECTS_READ if is_first else -1
        rects = self._db._rects(entity.id, f"tx_to = ?2 and {_FROM_LAST} and vt_from < ?4 order by vt_from limit ?5",
                                OPEN, start, entity.low, count)
        if is_first:
            entity.high = rects[-1].vt_from + 1 if len(rects) == RECTS_READ else OPEN
        entity.low = rects[0].vt_from if rects and rects[0].vt_from <= start else -OPEN
        entity.before[:0], entity.rects[:0] = rects, rects

    def _reach(self, entity: _Entity, vt: int) -> None:
        """Reads the rectangles up to the first that begins after `vt`, each time as many as there are."""
        while entity.high < OPEN and not (entity.rects and entity.rects[-1].vt_from > vt):
            count = max(RECTS_READ, len(entity.before))
            rects = self._db._rects(entity.id, "tx_to = ?2 and vt_from >= ?3 order by vt_from limit ?4", OPEN,
                                    entity.high, count)
            entity.high = rects[-1].vt_from + 1 if len(rects) == count else OPEN
            entity.before += rects
            entity.rects += rects

    def whole(self, entity: _Entity) -> _Entity:
        """The entity with all its open rectangles."""
        if entity.low > -OPEN:
            self._load_down(entity, -OPEN)
        self._reach(entity, OPEN)
        return entity

    def visible_n(self, entity: _Entity, vt: int) -> int | None:
        """The document that holds at a valid time, or None."""
        if entity.low > vt:
            self._load_down(entity, vt)
        self._reach(entity, vt)
        place = bisect.bisect_left(entity.rects, (vt + 1,))
        rect = entity.rects[place - 1] if place else None
        return rect.n if rect and rect.vt_to > vt and rect.n > 0 else None

    def hash_of(self, n: int) -> bytes:
        """The hash of document number n, which may be one of this transaction's."""
        return self.contents[n].hash if n in self.contents else self._db._hash(n)

    def _draw(self, entity: _Entity, op: _Op, n: int) -> None:
        start = self.tx_time if op.start is None else op.start
        end = self._extent(entity, start) if op.end is None else op.end
        if start < end:
            entity.is_backdated |= start < self.tx_time
            self._reach(entity, end)
            _draw_over(entity.rects, _Rect(start, end, n, self.tx_id, self.tx_id))
        elif not self.is_logged:
            raise _Abort(f"{'put' if n > 0 else 'delete'} of {_short(op.id)}: its end {_moment(end)} is not after its "
                         f"beginning {_moment(start)}, so nothing would hold")

    def _extent(self, entity: _Entity, start: int) -> int:
        """Where a span without end ends: with what holds at its start, or else where something else begins."""
        self._reach(entity, start)
        rects = entity.rects
        place = bisect.bisect_left(rects, (start + 1,))
        holding = rects[place - 1] if place and rects[place - 1].vt_to > start else None
        end = rects[place].vt_from if place < len(rects) else OPEN
        while holding:
            end = holding.vt_to
            self._reach(entity, end)
            later = rects[place] if place < len(rects) and rects[place].vt_from == end else None
            holding, place = later if later and self._is_same(later, holding) else None, place + 1
        return end

    def _is_same(self, one: _Rect, other: _Rect) -> bool:
        """Whether two rectangles belong to one version, or to equal ones of one transaction."""
        if one.tx != other.tx or (one.n < 0) != (other.n < 0):
            return False
        return one.n == other.n or self.hash_of(one.n) == self.hash_of(other.n)


_APPLY = {_PUT: _Transaction._put, _DELETE: _Transaction._delete, _MATCH: _Transaction._match,
          _EVICT: _Transaction._evict}


def _line(error: BaseException) -> str:
    """What an error says, on one line, never more than a piece of someone's text."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:199] + "…"


def _draw_over(rects: list[_Rect], new: _Rect) -> None:
    """Draws one more rectangle over others, which are sorted and stay so: what it overlaps is cut."""
    first, last = bisect.bisect_left(rects, (new.vt_from,)), bisect.bisect_left(rects, (new.vt_to,))
    if first and rects[first - 1].vt_to > new.vt_from:
        first -= 1
    drawn = [new]
    if first < last:
        before, after = rects[first], rects[last - 1]
        if before.vt_from < new.vt_from:
            drawn.insert(0, before._replace(vt_to=new.vt_from, tx_from=new.tx_from))
        if after.vt_to > new.vt_to:
            drawn.append(after._replace(vt_from=new.vt_to, tx_from=new.tx_from))
    next_from = rects[last].vt_from if last < len(rects) else OPEN
    if new.vt_to < OPEN and drawn[-1] is new and next_from > new.vt_to:      # nothing is known at its end
        drawn.append(_Rect(new.vt_to, next_from, -new.tx, new.tx_from, new.tx))
    rects[first:last] = drawn


# ── What is written ──────────────────────────────────────────────────────────────────────────────────────────
#
# A group of transactions is written together, and becomes visible together: its rows go into SQLite before COMMIT, and
# its numbers into memory after it. Both logs write with a batch, and so does `reindex`.


class _Batch:
    """What a group of transactions writes, and the numbers that it will leave in memory once it is committed.

    New rows are kept back and written together, before anything is read or changed that they could matter to.
    """

    def __init__(self, file: _File):
        self._file, self._execute = file, file.writer.execute
        self._many = file.writer.connection.executemany
        self.latest, self._hash, self._state = file.latest, file.hash, file.state
        self.numbers: dict = {}
        self.attributes: dict = {}
        self._puts: dict = {}
        self._kinds: dict = {}
        self.has_births = False
        self.touched: list = []
        self.evicted: list = []
        self._fresh: list = []
        self._new: dict[str, list] = {table: [] for table in _KEPT_BACK}
        self._log_rows, self._documents, self._ids, self._rects, self._joined = self._new.values()
        self._facts: dict[int, list] = {}      # by the length of a row, which has several facts of one version
        self._texts = _sibling("store_text").Writer(file) if file.index.texts else None
        self.schema = file.index.schema

    def record(self, transaction: _Transaction, data: bytes, committed: bool) -> None:
        """The log's row, of which `data` are the operations, and the documents in the log's order."""
        results = transaction.recorded_results() if committed else None
        self._hash = _chained(self._hash, transaction.tx_id, transaction.tx_time, data)
        self._state = _state(self._state, self._hash, committed, results)
        n = transaction.n if committed else self.latest.n
        self.latest = Point(transaction.tx_id, transaction.tx_time, n)
        self._log_rows.append((*self.latest[:2], data, self._hash, int(committed), results, self._state, n))
        if committed:
            self._documents += [(n, op.data, _checksum(op.hash)) for n, op in transaction.contents.items()
                                if op.data is not None]      # else an evict to come has taken it from the log already
        if self._file.recent.is_wanted:
            tx = Tx(transaction.tx_id, _moment(transaction.tx_time), committed)
            self._fresh.append(_Committed(tx, data, results, n, transaction.contents))

    def flush(self) -> None:
        """Counts and writes the new rows that were kept back: before the writer reads, too."""
        puts, kinds = self._puts, self._kinds
        for row in itertools.chain.from_iterable(self._facts.values()):
            dated = _DATED if row[4] else 0
            for a, cell in zip(row[5::2], row[6::2]):
                puts[a] = puts.get(a, 0) + 1
                kinds[a] = kinds.get(a, 0) | _kind_bit(cell) | dated
        for table, rows in self._new.items():
            self._insert(table, rows)
        for rows in self._facts.values():
            self._insert("facts", rows)
        if self._texts:
            self._texts.flush()

    def _insert(self, table: str, rows: list) -> None:
        if rows:
            rest = rows
            if len(rows) >= ROWS_A_STATEMENT[-1]:
                chunks, rest = _chunks(rows)
                for chunk in chunks:
                    self._execute(_insert_sql(table, len(rows[0]), len(chunk)), [*itertools.chain.from_iterable(chunk)])
            self._many(_insert_sql(table, len(rows[0]), 1), rest)
            rows.clear()

    def number(self, value: uuid.UUID) -> int:
        """The number of an entity's UUID; one that the log names for the first time gets the next."""
        index, key = self._file.index, value.int
        n = index.numbers.young.get(key) or index.number(value, self._file.writer)
        if n is None:
            n = self.numbers[key] = index.next_id
            index.next_id += 1
            if key in index.mentioned:
                self._bear(value, n)
            else:
                self._ids.append((n, value.bytes))
        return n

    def _bear(self, value: uuid.UUID, n: int) -> None:
        """What was only a value becomes an entity: its number stands for it wherever it was mentioned."""
        self.flush()
        self._execute("update ids set n = ? where uuid = ?", (n, value.bytes))
        kinds = itertools.chain(self._file.index.kinds.items(), self._kinds.items())
        for a in {a for a, of_a in kinds if of_a & _MENTION_KIND}:
            self._execute("update facts set v = ? where p in (0, 1) and a = ? and v = ?", (n, a, _UUID + value.bytes))
        self._file.index.mentioned.discard(value.int)
        self.has_births = True

    def _value_cell(self, value: uuid.UUID) -> Cell:
        """What stands for a UUID that is a value."""
        index, key = self._file.index, value.int
        n = index.numbers.young.get(key) or index.number(value, self._file.writer)
        if n is None and key not in index.mentioned:
            index.mentioned.add(key)
            self._ids.append((index.next_mention, value.bytes))
            index.next_mention -= 1
        return n or _UUID + value.bytes

    def _attribute(self, name: str) -> int:
        """The number of an attribute that was not known before this group."""
        a = self.attributes.get(name)
        if a is None:
            a = self.attributes[name] = len(self._file.index.attributes) + len(self.attributes) + 1
            self._execute("insert into attributes values (?, ?, 0, 0)", (a, name))
        return a

    def write(self, transaction: _Transaction) -> None:
        """Draws a transaction's rectangles and keeps the facts of its versions."""
        ids = [entity.id for entity in transaction.written.values()]
        self.touched += ids
        cells = [self.number(id) if type(id) is uuid.UUID else _CELL[type(id)](id) for id in ids]
        if SCHEMA_ID.int in transaction.written:
            checking, before = _sibling("store_schema"), self.schema
            self.schema = checking.of_transaction(transaction)
            checking.build(self, before, self.schema)
        for e, entity in zip(cells, transaction.written.values()):
            if entity.evicted:
                self._evict(e)
            self._draw(e, entity, transaction)
            if entity.is_backdated:
                self._mark_backdated(entity, transaction)

    def _mark_backdated(self, entity: _Entity, transaction: _Transaction) -> None:
        """Notes the attributes of versions that were put, cut or deleted at another valid time than now."""
        index = self._file.index
        for n in {rect.n for rect in set(entity.before) ^ set(entity.rects) if rect.n > 0}:
            op = transaction.contents.get(n)
            for name in map(operator.itemgetter(0), op.facts) if op else transaction._stored(n):
                if a := index.attributes.get(name) or self.attributes.get(name):
                    self._kinds[a] = self._kinds.get(a, 0) | _BACKDATED

    def _draw(self, e: Cell, entity: _Entity, transaction: _Transaction) -> None:
        """Closes and draws an entity's rectangles, and keeps the facts of new versions."""
        drawn: Iterable[_Rect] = entity.rects
        if entity.before:
            before, after = set(entity.before), set(entity.rects)
            drawn = after - before
            self._close(e, entity, before - after, drawn, transaction)
        self._rects += [(e, OPEN, vt_from, n, tx_from, vt_to, tx) for vt_from, vt_to, n, tx_from, tx in drawn]
        of_version: dict[int, list[_Rect]] = {}
        for rect in drawn:
            of_version.setdefault(rect.n, []).append(rect)
        for n in entity.numbers:
            if rects := of_version.get(n):
                self._keep_facts(e, n, rects, transaction)
            else:
                # its own transaction replaced it; evict must find it
                self._execute("insert or ignore into unseen values (?, ?)", (e, n))

    def _close(self, e: Cell, entity: _Entity, closed: set[_Rect], drawn: set[_Rect],
               transaction: _Transaction) -> None:
        """Closes rectangles; versions that ceased to be live go to the closed part of the facts."""
        self.flush()
        tx_id, now = transaction.tx_id, transaction.tx_time
        self._many("update rects set tx_to = ? where e = ? and tx_to = ? and vt_from = ?",
                   [(tx_id, e, OPEN, rect.vt_from) for rect in closed])
        live = {rect.n for rect in entity.rects if rect.n > 0 and rect.vt_to > now}
        if entity.low > now or entity.high < OPEN:       # those of now and later, which are not all in memory
            live |= {n for n, in self._execute(_LIVE, (e, OPEN, now))}
        cut = {rect.n for rect in closed}
        was = self._execute("select n from facts where p = 0 and e = ? and a = ? and k = 0", (e, _ID)).fetchall()
        for n, in was:
            if n not in live:
                for table in self._tables():
                    self._execute(f"update {table} set p = 1, k = ? where p = 0 and e = ? and n = ?",
                                  (tx_id - PAST, e, n))
            elif n in cut:                               # it lives on, and is asked by rectangle
                for a, in self._execute("select distinct a from facts where p = 0 and e = ? and n = ?", (e, n)):
                    self._kinds[a] = self._kinds.get(a, 0) | _DATED
                for table in self._tables():
                    self._execute(f"update {table} set d = 1 where p = 0 and e = ? and n = ?", (e, n))

    def _tables(self) -> tuple[str, ...]:
        """The tables of facts: they all have the columns p, a, v, k, e, n and d."""
        return ("facts", "joined") if self.schema and self.schema.composites else ("facts",)

    def _keep_facts(self, e: Cell, n: int, rects: Iterable[_Rect], transaction: _Transaction) -> None:
        """The facts of a new version: among the live ones unless it is over already, plain if nothing bounds it."""
        now = transaction.tx_time
        p, k = (0, 0) if max([rect.vt_to for rect in rects]) > now else (1, transaction.tx_id - PAST)
        d = None if [rect for rect in rects if rect.vt_from <= now and rect.vt_to == OPEN] else 1
        attributes = self._file.index.attributes
        pairs: list = []
        for name, cell in transaction.contents[n].facts:
            pairs += (attributes.get(name) or self._attribute(name),
                      self._value_cell(cell) if type(cell) is uuid.UUID else cell)
        for start in range(0, len(pairs), 2 * FACTS_A_ROW):
            row = [p, k, e, n, d, *pairs[start:start + 2 * FACTS_A_ROW]]
            self._facts.setdefault(len(row), []).append(row)
        if self.schema:
            self._joined += [(p, number, joined, k, e, n, d)
                             for number, joined in self.schema.entries(transaction.contents[n].facts)]
        if self._texts:
            self._texts.keep(e, transaction.contents[n])

    def _evict(self, e: Cell) -> None:
        self.flush()
        numbers = self._execute("select n from rects where e = ? and n > 0 union select n from unseen where e = ?",
                                (e, e)).fetchall()
        if self._texts:
            self._texts.forget(e)
        self._many("delete from documents where n = ?", numbers)
        for table in *self._tables(), "rects", "unseen":
            is_of_facts = table in ("facts", "joined")
            self._execute(f"delete from {table} where {'p in (0, 1) and ' * is_of_facts}e = ?", (e,))
        self.evicted += [n for n, in numbers]

    def finish(self) -> None:
        """The last statements before COMMIT: rows kept back, and at times the statistics as of before this group."""
        self.flush()
        if self._texts:
            self._texts.finish()
        index = self._file.index
        if self._file.latest.n - index.counted > STATISTICS_EVERY:
            index.write_statistics(self._file.latest.n)
        kinds = index.new_kinds(self._kinds)
        self._has_changes = bool(kinds or self.has_births or index.schema is not self.schema
                                 or self._texts and self._texts.has_new_ids)
        if self._has_changes:         # other processes read them again
            self._many("update attributes set kinds = ? where a = ?", [(of_a, a) for a, of_a in kinds.items()])
            index.write_changes()

    def count(self) -> None:
        self._file.index.count(self._puts, self._kinds)

    def publish(self) -> None:
        """After COMMIT: the numbers come true. `latest` comes last, since readers look at it first."""
        file, index = self._file, self._file.index
        index.attributes.update(self.attributes)
        if index.schema is not self.schema:
            index.schema, index.generation = self.schema, object()
        index.changes += self._has_changes
        self.count()
        if self._texts and self._texts.has_new_ids and not index.has_text_ids:
            index.has_text_ids, index.generation = True, object()
        for number, n in self.numbers.items():
            index.numbers.put(number, n)
        index.unknown.clear(), index.mentioned.clear()
        mark = file.own_mark()
        for n in self.evicted:
            file.documents.drop(n)
        file.hash, file.state = self._hash, self._state
        file.recent.extend(self._fresh)
        if self.evicted:
            file.evictions += 1
            file.recent.clear()          # what is forgotten is told to no listener that lags
        file.latest = Point(*self.latest[:3], mark)
        file.settle_births()


_KEPT_BACK = "log", "documents", "ids", "rects", "joined"
# Open rectangles do not overlap: those from ?3 on begin with the last that has begun by then.
_FROM_LAST = "vt_from >= ifnull((select max(vt_from) from rects where e = ?1 and tx_to = ?2 and vt_from <= ?3), ?3)"
_LIVE = f"select n from rects where e = ?1 and tx_to = ?2 and vt_to > ?3 and {_FROM_LAST}"


@functools.lru_cache(None)
def _insert_sql(table: str, width: int, rows: int) -> str:
    """Or fail: a row that clashes ends the transaction, so SQLite keeps no pages that would undo one statement.

    A row of `facts` gives several: p, k, e, n and d of their version, then an attribute and a cell of each.
    """
    places = [f"({_places(width)})"] * rows if table != "facts" else [
        f"(?{p}, ?{a}, ?{a + 1}, ?{p + 1}, ?{p + 2}, ?{p + 3}, ?{p + 4})"
        for p in range(1, rows * width, width) for a in range(p + 5, p + width, 2)]
    return f"insert or fail into {table} values {', '.join(places)}"


def _places(count: int) -> str:
    return ", ".join("?" * count)


def _chunks(rows: Any) -> tuple[list, list]:
    """The pieces in which rows go through SQLite, and the rest.

    With each row SQLite lets go of the interpreter and must get it back from whoever prepares the next transaction, so
    a few large statements are faster. Few lengths are few statements to keep.
    """
    chunks: list[list] = []
    start = 0
    for length in ROWS_A_STATEMENT:
        while len(rows) - start >= length:
            chunks.append(rows[start:start + length])
            start += length
    return chunks, rows[start:]


_MENTION_KIND = 1 << _UUID[0] + 2
_UUID_KIND, _TEXT_KIND, _BIG_KIND, _SMALL_KIND = 1, 2, 1 << _INT[0] + 2, 1 << _LONG + 3
_DATED = 1 << _LONG + 4               # beside the types: some version with this attribute was not plain
_BACKDATED = 1 << _LONG + 5           # or began or ended in valid time before the transaction that said so


def _kind_of(value: Any) -> int:
    """The bit of a value's cells; all bits for what no document can hold, which is refused later."""
    try:
        return _UUID_KIND if type(value) is uuid.UUID else _kind_bit(_cell(value))
    except StoreError:
        return _ANY_KIND


def _kind_bit(cell: Any) -> int:
    """One bit for each type of cell, so that statistics know whether an attribute's values are of one type."""
    if type(cell) is int:
        return _UUID_KIND if cell > 0 else _SMALL_KIND
    return _TEXT_KIND if type(cell) is str else 1 << (min(cell[0], _LONG) + 2)


# ── Snapshots ────────────────────────────────────────────────────────────────────────────────────────────────
#
# A snapshot is a pair of numbers, a valid time and a transaction, and holds nothing open: its predicate gives the same
# rows whatever is written later. Questions about now never pay for history: live versions lie apart from those that
# ceased to be, and most of them are visible at every moment from now on.
#
# A snapshot of now knows the mark that the file's head then had, and every commit of any process writes another one. A
# reader asks about now in the cheap way only if the mark is the same before and after its statement; else it drops the
# rows and asks as of its transaction.
#
# Three classes have one face: `Db` borrows a reader for each question, `_WriterDb` asks on the writing connection, and
# `_Supposition` lays the changes of a transaction over one of these.

_NOW, _AS_OF, _BEFORE = "now", "as of", "before"


_OPEN_THEN = ("select {0} from rects w where w.e = {1} and w.tx_to = " + str(OPEN) +
              " and w.vt_from <= ?2 order by w.vt_from desc limit 1")
_CLOSED_THEN = ("select {0} from rects w where w.e = {1} and w.tx_to > ?1 and w.tx_to < " + str(OPEN) +
                " and w.vt_from <= ?2 and w.vt_to > ?2 and w.tx_from <= ?1")


def _holds(f: str) -> str:
    """Whether the version of a row of `facts` holds at ?2 for ?1.

    Rectangles that are open today do not overlap, so only the last of these that has begun is looked at. The others
    were closed after ?1; where that is the newest transaction, there is none.
    """
    return (f"(ifnull(({_OPEN_THEN.format(f'w.n = {f}.n and w.vt_to > ?2 and w.tx_from <= ?1', f + '.e')}), 0) "
            f"or (select max(tx_id) from log) > ?1 and exists ({_CLOSED_THEN.format(1, f + '.e')} and w.n = {f}.n))")


def _holding(e: str) -> str:
    """The number of the version of an entity that holds at ?2 for ?1, or null."""
    then = _OPEN_THEN.format("case when w.vt_to > ?2 and w.tx_from <= ?1 then w.n end", e)
    return f"coalesce(({then}), ({_CLOSED_THEN.format('w.n', e)}))"


_PARTS = {"both": "{0}.p in (0, 1) and {0}.k > ?3", "live": "{0}.p = 0 and {0}.k = 0", "all live": "{0}.p = 0",
          "closed": "{0}.p = 1 and {0}.k > ?3"}


def _seen(f: str, mode: str, part: str = "both", is_dated: bool = True) -> str:
    """The predicate under which a snapshot sees a row of `facts`, live or closed. ?1 T, ?2 vt, ?3 and ?4 below.

    Where no version was ever bounded (`is_dated` is false), each that T had put and not closed holds from T on.
    """
    part = "live" if mode == _NOW and part == "both" else part
    conditions = [_PARTS[part].format(f)] + [f"{f}.n <= ?4"] * (mode != _NOW)
    if is_dated:
        conditions.append(_holds(f) if mode == _BEFORE else f"({f}.d is null or {_holds(f)})")
    return " and ".join(conditions)


_FROM_JSON = ("case typeof({0}) when 'integer' then {0} "
              "else case substr({0}, 1, 1) when 't' then substr({0}, 2) else cell({0}) end end")
_J = _FROM_JSON.format("j.value")
_MODES = _NOW, _AS_OF, _BEFORE
_VERSION = {mode: f"select {_holding('{0}')} as n, 1 as d" for mode in (_AS_OF, _BEFORE)} | {
    _NOW: f"select f.n, f.d from facts f where f.e = {{0}} and f.a = {_ID} and {_seen('f', _NOW)}"}
_BY_ID = {mode: f"select v.n, v.d, c.doc, c.checksum from ({version.format('?5')}) v left join documents c on c.n = v.n"
          for mode, version in _VERSION.items()}
# `+n` takes the type of its column from a number: else it is compared as a number, and no index serves.
_BY_UUID = {mode: sql.replace("?5", "(select +n from ids where uuid = ?5)") for mode, sql in _BY_ID.items()}
_BY_IDS = {mode: f"select e, n, 1 from (select e, {_holding('c.e')} as n "
                 f"from (select {_J} as e from json_each(?5) j) c) where n > 0" for mode in (_AS_OF, _BEFORE)} | {
    _NOW: f"select f.e, f.n, f.d from json_each(?5) j cross join facts f "
          f"where f.e = {_J} and f.a = {_ID} and {_seen('f', _NOW)}"}
_BY_VALUE = {mode: f"select f.v, f.e, f.n from facts f where f.v = ?5 and f.a = ?6 and {_seen('f', mode)} order by f.e"
             for mode in _MODES}
_BY_VALUES = {mode: f"select f.v, f.e, f.n from json_each(?5) j cross join facts f "
                    f"where f.v = {_J} and f.a = ?6 and {_seen('f', mode)} order by f.e" for mode in _MODES}


class Db:
    """A snapshot: the database as of a transaction and a valid time. A value: later transactions do not change it."""
    __slots__ = "_node", "_file", "_vt", "_point", "_floor", "_past", "_evictions"
    _supposed: _Transaction | None = None     # the transaction that a supposition lays over a snapshot

    def __init__(self, node: Any, file: _File, vt: int, point: Point):
        self._node, self._file, self._vt, self._point = node, file, vt, point
        self._floor: int | None = None
        self._past: dict | None = None        # `_plain_key` of an id → the number of its version here, once looked up
        self._evictions = 0                   # how many there had been by then

    def __repr__(self) -> str:
        supposed = ", supposed" if self._supposed else ""
        return f"<Db as of transaction {self.tx_id}, valid at {self.valid_time}{supposed}>"

    @property
    def tx_id(self) -> int:
        """The transaction that this is the state after; 0 before the first."""
        return self._point.tx_id

    @property
    def tx_time(self) -> dt.datetime | None:
        """When that transaction was recorded; None before the first."""
        return _moment(self._point.time) if self._point.tx_id else None

    @property
    def valid_time(self) -> dt.datetime:
        return _moment(self._vt)

    @property
    def basis(self) -> dict[str, Any]:
        """The arguments with which `node.db` gives this snapshot again."""
        return {"tx_id": self._point.tx_id, "valid_time": self.valid_time}

    # What people ask

    def entity(self, id: Any) -> Document | None:
        """The document of an entity, or None if nothing is visible. Raises: ValueTypeError if `id` can be no id.

        Here and where else a snapshot takes an id, a list `["attribute", value]` is the one entity that has this value.
        """
        document = self._at_hand(id)
        if document is None:
            id = self._id(id)
            return self._answer(lambda reader, mode: _copied(self._document(id, reader, mode)))
        return _copied(document)

    def entity_tx(self, id: Any) -> EntityTx | None:
        """Which version of an entity is visible: since when, put by which transaction, with which content hash."""
        id = self._id(id)
        rect = next((rect for rect in self._open_rects(id) if rect.vt_from <= self._vt < rect.vt_to), None)
        if rect is None or rect.n < 0:
            return None
        return EntityTx(id, _moment(rect.vt_from), rect.tx, _moment(self._time_of(rect)), self._hash(rect.n).hex())

    def history(self, id: Any, valid_from: dt.datetime | None = None, valid_to: dt.datetime | None = None, *,
                order: str = "asc", corrections: bool = False, documents: bool = True, future: bool = False,
                tx_from: int | Tx | dt.datetime | None = None,
                tx_to: int | Tx | dt.datetime | None = None) -> list[Version]:
        """The versions of an entity, oldest valid time first, as (valid_from, valid_to, tx_id, document).

        Only what this snapshot can see. `valid_from` is inclusive and `valid_to` exclusive, both aware datetimes, and
        so are `tx_from` and `tx_to` (also transaction times), in either order; they bound where a version begins and
        which transaction put it, as known before `tx_to`; None leaves a side open. A deleted span has document None;
        an entity never put gives []. Each has a `content_hash`, documents or not: equal documents have equal ones.
        With `corrections` what was corrected later comes too, and with `future` what begins after the snapshot's valid
        time, as this snapshot knows it; `order` may be "desc".

        Raises: ValueTypeError if a time is naive.
        Source: XTDB 1.x, entity-history.
        """
        id = self._id(id)
        if order not in ("asc", "desc"):
            raise QueryError(f"order is {_short(order)}; wanted \"asc\" or \"desc\".")
        low = -OPEN if valid_from is None else _given_micros(valid_from, "valid_from")
        high = OPEN if valid_to is None else _given_micros(valid_to, "valid_to")
        first, beyond = self._bound(tx_from, 0), self._bound(tx_to, OPEN)
        if corrections:               # of a version from one time on, the rectangle drawn first: cut ones are not new
            drawn = sorted(self._all_rects(id), key=lambda rect: rect.tx_from, reverse=True)
            spans = list({(rect.n, rect.vt_from): rect for rect in drawn}.values())
        else:
            spans = _merged(self._open_rects(id, beyond))
        spans = [rect for rect in spans
                 if (future or rect.vt_from <= self._vt) and low <= rect.vt_from < high and first <= rect.tx < beyond]
        spans.sort(key=lambda rect: (rect.vt_from, rect.tx), reverse=order == "desc")
        return self._answer(lambda reader, mode: [self._version(rect, documents, reader) for rect in spans])

    def pull(self, pattern: list[Any], id: Any) -> dict[Any, Any] | None:
        """The data around the entity `id` in the shape of a pattern, or None if nothing is visible.

            ["name", {"user/boss": ["name"]}, ("msg/_by", {"as": "said", "limit": 9}, ["*"])]

        The chapter "Pull" has the grammar, docs/reference.md an example of each part.
        Raises: QueryError if the pattern is malformed; QueryLimitError after 30 s. Source: XTDB 1.x, pull (EQL).
        """
        return self.pull_many(pattern, [id])[0]

    def pull_many(self, pattern: list[Any], ids: Iterable[Any]) -> list[dict[Any, Any] | None]:
        """`pull` for each of the ids, in their order: as many dicts, or None."""
        if type(ids) is not list and (isinstance(ids, (str, bytes, dict)) or not isinstance(ids, Iterable)):
            raise QueryError(f"{_short(ids)} is not a collection of ids; wanted a list of them.")
        parsed = self._node._patterns.parsed(pattern, self._node._parse_pull)
        return self._answer(_pulled, self, parsed, list(map(self._id, ids)))

    def q(self, query: dict[str, Any], *args: Any) -> Any:
        """The answers of a query: tuples, or bare values if `find` is a bare element, or dicts if it names keys.

            db.q({"find": ["?name", ("count", "?m")], "in": ["?channel"],
                  "where": [["?m", "msg/channel", "?channel"], ["?m", "msg/by", "?u"], ["?u", "name", "?name"]],
                  "order-by": [["?name", "desc"]], "limit": 50, "timeout": 30_000}, "eels")

        `args` are values for what "in" binds, in its order. "What a query says" has the grammar, docs/reference.md an
        example of each part. Without order, limit or offset no answer comes twice and their order means nothing.
        Raises: QueryError before anything is read if the query is malformed, naming the clause; QueryLimitError if it
        takes longer than its "timeout" (ms, default 30,000). Source: XTDB 1.x, q.
        """
        parsed = _parsed(query, args, self._node)
        answers = self._answer(_answered, self, parsed, args)
        return answers if not parsed.is_one else answers[0] if answers else None

    async def aq(self, query: dict[str, Any], *args: Any) -> Any:
        """`q` in a thread, for event loops: the others go on meanwhile. A question whose task is cancelled is stopped.

        At most QUESTIONS_MAX of a node run at once, the others wait for these. Raises: as `q`.
        """
        parsed, runs = _parsed(query, args, self._node), list[_Run]()
        self._file.check_open()
        future = self._node._pool.submit(self._answer, _answered, self, parsed, args, runs.append)
        try:
            answers = await asyncio.wrap_future(future)
            return answers if not parsed.is_one else answers[0] if answers else None
        except asyncio.CancelledError:
            for run in runs:
                run.is_stopped = True
            raise

    def lazy_q(self, query: dict[str, Any], *args: Any) -> contextlib.AbstractContextManager[Iterator[Any]]:
        """`with db.lazy_q(…) as rows`: the answers of `q` one by one, for answers too large to hold.

        They come as they are found, so one that is found twice comes twice. The rows end with the block.
        """
        return _lazy(self, _parsed(query, args, self._node), args)

    def explain(self, query: dict[str, Any], *args: Any, analyze: bool = False) -> str:
        """How a query would be answered, as text: its clauses in their order, the SQL, and SQLite's plan of it.

        With `analyze` it is asked, and each step says how many rows there are after it and what it took, in ms.
        """
        parsed = _parsed(query, args, self._node, check_arity=analyze)
        return self._answer(_sibling("store_advice").explained, self, parsed, args, analyze)

    def table(self, query: dict[str, Any], *args: Any) -> Any:
        """The answers of `q` as a table that a terminal and a notebook show; store_tables.py, beside this file."""
        return _sibling("store_tables").Table.of(query, self.q(query, *args))

    def with_tx(self, ops: Iterable[Operation]) -> Db | None:
        """The snapshot as it would be after these operations, submitted by nobody; None if they abort. They stack.

        Raises: OperationError if one is malformed.
        """
        tx_id, n = self._next()
        transaction = _Transaction(self, tx_id, self._vt, n)
        return _Supposition(self, transaction, self._vt) if transaction.run(_prepare(ops)) else None

    # How it is answered

    def _answer(self, ask: Callable, *rest: Any) -> Any:
        """What ask(reader, mode, *rest) gives, asked in the cheapest mode that is right for this snapshot."""
        file, point = self._file, self._point
        mark, is_recent = point.mark, self._vt >= point.time
        reader = file.borrow()
        try:
            if is_recent and file.words[_HEAD_MARK] == mark:
                answer = ask(reader, _NOW, *rest)
                if file.words[_HEAD_MARK] == mark:
                    return answer
            return file.steadily(ask, reader, _AS_OF if is_recent else _BEFORE, *rest)
        except sqlite3.Error as error:
            reader.fail(error)
        finally:
            file.give_back(reader)

    def _fill(self, reader: _Reader) -> dict[uuid.UUID, Cell]:
        """The cells of UUIDs that were made for this question: none, where nothing is supposed."""
        return {}

    @contextlib.contextmanager
    def _asking(self) -> Iterator[tuple[_Reader, str]]:
        """A reader in one read transaction for as long as the block lasts, with the mode to ask in."""
        self._file.catch_up()
        with self._file.reading() as reader:
            reader.is_used = True
            reader.execute("begin")
            reader.execute("select 1 from log where tx_id = 0").fetchone()
            yield reader, _AS_OF if self._vt >= self._point.time else _BEFORE

    def _bindings(self, mode: str) -> tuple:
        """?1 to ?4 of the predicates: T, vt, the k above which a version was not closed yet, and T's last document."""
        if mode == _NOW:
            return self._point.tx_id, self._vt, 0, 0
        if self._floor is None:
            last = self._point.tx_id
            self._floor = (last if self._vt >= self._point.time else min(last, self._file.newest_at(self._vt))) - PAST
        return self._point.tx_id, self._vt, self._floor, self._point.n

    def _cell(self, value: Any, reader: _Reader) -> Cell:
        """The cell that a value has here. A UUID that the file does not know is a BLOB while the question lasts."""
        if type(value) is not uuid.UUID:
            return _cell(value)
        n = self._file.index.number(value, reader)
        return _UUID + value.bytes if n is None else n

    def _schema(self) -> Any:
        """What a transaction on this snapshot is held to."""
        return self._file.index.schema

    def _next(self) -> tuple[int, int]:
        """The number of a supposed transaction, and the number before those of its documents: far from those stored."""
        return self._file.latest.tx_id + 1, 2 ** 60

    # Documents

    def _document(self, id: Any, reader: _Reader, mode: str) -> dict | None:
        """The document of an entity as the cache has it (not to be handed out); None for what is no entity."""
        if type(id) not in _ID_TYPES:
            return None
        point = self._point.tx_id, self._vt, None, None
        if type(id) is uuid.UUID and type(self) is Db and self._file.index.numbers.get(id.int) is None:
            row = reader.execute(_BY_UUID[mode], (*point, id.bytes)).fetchone()
        else:
            row = reader.execute(_BY_ID[mode], (*point, self._cell(id, reader))).fetchone()
        if row is None or row[0] is None or row[0] < 0:
            return None               # never put, or deleted
        n, dated, data, checksum = row
        self._learn(id, n, dated, mode)
        document = self._file.document_at_hand(n)
        if document is None and data is not None:
            document = self._file.keep(n, data, checksum)
        if document is not None and document["xt/id"] != id:
            raise CorruptError(f"The index takes the document of another entity for {_short(id)}'s: reindex.")
        return document

    def _id(self, given: Any) -> Any:
        """An id that was given, or that of the one entity that has a value: [attribute, value]; None if none has it."""
        if type(given) is not list:
            check_id(given)
            return given
        if not _is_ref(given):
            raise ValueTypeError(f"{_short(given)} cannot be an \"xt/id\"; wanted a UUID, string, integer, or another "
                                 "single value, or a lookup ref: [\"attribute\", value].")
        return self._answer(_sibling("store_parts").found_by, self, given)

    def _documents(self, ids: list, reader: _Reader, mode: str) -> list:
        """`_document` of many, in their order: from memory, else by one statement."""
        found = self._all_at_hand(ids)
        if None not in found:
            return found
        missing = iter(self._looked_up([id for id, document in zip(ids, found) if document is None], reader, mode))
        return [next(missing) if document is None else document for document in found]

    def _looked_up(self, ids: list, reader: _Reader, mode: str) -> list:
        if len(ids) < 3:
            return [self._document(id, reader, mode) for id in ids]
        cells = [self._cell(id, reader) if type(id) in _ID_TYPES else None for id in ids]
        parameters = self._point.tx_id, self._vt, None, None, _json_cells(cells)
        rows = reader.execute(_BY_IDS[mode], parameters).fetchall()
        found = {e: (n, dated) for e, n, dated in rows}
        for id, cell in zip(ids, cells):
            if cell in found:
                self._learn(id, *found[cell], mode)
        documents = dict(zip(found, self._contents([n for n, _ in found.values()], reader)))
        return list(map(documents.get, cells))

    def _rows_by_value(self, a: str, cells: list, reader: _Reader, mode: str) -> list[tuple]:
        """(value, entity, number of its document) for each fact of an attribute that has one of these values."""
        wanted, sql = (cells[0], _BY_VALUE) if len(cells) == 1 else (_json_cells(cells), _BY_VALUES)
        parameters = (*self._bindings(mode), wanted, self._file.index.attribute(a, reader))
        return reader.execute(sql[mode], parameters).fetchall()

    def _learn(self, id: Any, n: int, dated: Any, mode: str) -> None:
        """Keeps the number of a version: of now while it is plain, of the past for as long as this value lives."""
        file = self._file
        if mode == _NOW:
            if dated is None:
                file.learn_plain(id, n, self._point)
        elif (key := _plain_key(id)) is not None:
            if self._past is None or self._evictions != file.evictions or len(self._past) >= PAST_CACHED:
                self._past, self._evictions = {}, file.evictions
            self._past[key] = n

    def _at_hand(self, id: Any) -> dict | None:
        """The document of an entity, without a statement, if its number here and it are in memory; else None."""
        file, key, n = self._file, _plain_key(id), None
        if key is None:
            return None
        if self._past is not None and self._evictions == file.evictions \
                and file.words[_HEAD_MARK] == file.latest.mark:       # else others may have evicted it
            n = self._past.get(key)
        if n is None:
            n = file.index.plain.get(key)
            if n is None or not self._is_now():
                return None
        kept = file.documents.get(n)
        return kept and kept[0]

    def _all_at_hand(self, ids: list) -> list:
        """`_at_hand` of many: one pass where all are UUIDs of plain versions that are in memory."""
        file, young = self._file, self._file.documents.young
        try:
            found = [young[file.index.plain[id.int]][0] for id in ids]
        except (KeyError, AttributeError):
            found = []
        return found if found and self._is_now() else [self._at_hand(id) for id in ids]

    def _is_now(self) -> bool:
        """Whether what was found in `plain` is true here; to be asked afterwards."""
        return self._vt >= self._point.time and self._file.words[_HEAD_MARK] == self._point.mark

    def _content(self, n: int, reader: _Reader) -> Any:
        return self._file.document(n, reader)

    def _contents(self, numbers: list[int], reader: _Reader) -> list:
        """`_content` of many, read with one statement where they are not in memory."""
        return self._file.documents_of(numbers, reader)

    def _hash(self, n: int) -> bytes:
        """The hash of a document's canonical bytes. The log keeps it when they are evicted."""
        return self._answer(lambda reader, mode: self._file.content_hash(n, reader))

    def _time_of(self, rect: _Rect) -> int:
        return self._answer(lambda reader, mode: reader.execute("select tx_time from log where tx_id = ?",
                                                                (rect.tx,)).fetchone()[0])

    # Rectangles

    def _bound(self, tx: int | Tx | dt.datetime | None, otherwise: int) -> int:
        """The first transaction of a bound: of a time, the first that is not before it."""
        if isinstance(tx, dt.datetime):
            return self._file.newest_at(_given_micros(tx, "A bound of transactions") - 1) + 1
        return otherwise if tx is None else _tx_id(tx)

    def _open_rects(self, id: Any, before: int = OPEN) -> tuple[_Rect, ...]:
        """The rectangles of an entity that this snapshot's transaction sees, or one before `before`, by valid time."""
        T = min(self._point.tx_id, before - 1)
        return tuple(sorted(rect for rect in self._rects(id, "tx_to > ?2", T) if rect.tx_from <= T))

    def _all_rects(self, id: Any) -> list[_Rect]:
        """Every rectangle of an entity that was drawn up to this snapshot's transaction."""
        return [rect for rect in self._rects(id, "tx_to > ?2", 0) if rect.tx_from <= self._point.tx_id]

    def _rects(self, id: Any, where: str, *bounds: int) -> list[_Rect]:
        """The stored rectangles of an entity that meet a condition, whose parameters are ?2 and on."""
        return self._answer(lambda reader, mode: [_Rect(*row) for row in reader.execute(
            f"select vt_from, vt_to, n, tx_from, tx from rects where e = ?1 and {where}",
            (self._cell(id, reader), *bounds)).fetchall()])

    def _version(self, rect: _Rect, documents: bool, reader: _Reader) -> Version:
        document = self._content(rect.n, reader) if documents and rect.n > 0 else None
        end = None if rect.vt_to == OPEN else _moment(rect.vt_to)
        version = Version(_moment(rect.vt_from), end, rect.tx, _copied(document))
        if rect.n > 0:
            version._ask = lambda: self._hash(rect.n).hex()
        return version


class _WriterDb(Db):
    """What the writer sees on its own connection. What its group has put so far is flushed before it reads.

    Its point has no mark: so what `plain` tells of what is committed is not true here, and nothing is learnt.
    """
    __slots__ = "_reader",

    def __init__(self, node: Any, reader: _Reader, point: Point):
        super().__init__(node, reader.file, point.time, point)
        self._reader = reader

    def _answer(self, ask: Callable, *rest: Any) -> Any:
        self._file.index.flush()
        try:
            return ask(self._reader, _NOW, *rest)
        except sqlite3.Error as error:
            self._reader.fail(error)

    def _asking(self) -> Any:
        self._file.index.flush()
        return contextlib.nullcontext((self._reader, _NOW))

    def _schema(self) -> Any:
        index = self._file.index
        return (index.batch or index).schema

    def is_new(self, id: Any) -> bool:
        """Whether a UUID is put for the first time: then there is nothing to flush and to read."""
        return type(id) is uuid.UUID and self._file.index.number(id, self._reader) is None


class _Supposition(Db):
    """A snapshot as it would be after a transaction that nobody submitted, or that runs at this moment."""
    __slots__ = "_base", "_supposed"
    _supposed: _Transaction

    def __init__(self, base: Db, supposed: _Transaction, vt: int):
        super().__init__(base._node, base._file, vt, base._point)
        self._base, self._supposed = base, supposed

    @property
    def tx_id(self) -> int:
        """The transaction that this would be the state after."""
        return self._supposed.tx_id

    def _next(self) -> tuple[int, int]:
        return self._supposed.tx_id + 1, self._supposed.n

    def _schema(self) -> Any:
        return self._base._schema()

    def _answer(self, ask: Callable, *rest: Any) -> Any:
        return self._base._answer(ask, *rest)

    def _asking(self) -> Any:
        return self._base._asking()

    def _touched(self, id: Any) -> _Entity | None:
        return self._supposed.entities.get(_key(id)) if type(id) in _ID_TYPES else None

    def _at_hand(self, id: Any) -> dict | None:
        return None if self._touched(id) else self._base._at_hand(id)

    def _document(self, id: Any, reader: _Reader, mode: str) -> dict | None:
        entity = self._touched(id)
        return self._would_be(entity, reader) if entity else self._base._document(id, reader, mode)

    def _documents(self, ids: list, reader: _Reader, mode: str) -> list:
        entities = list(map(self._touched, ids))
        others = [id for id, entity in zip(ids, entities) if entity is None]
        found = iter(self._base._documents(others, reader, mode) if others else ())
        return [self._would_be(entity, reader) if entity else next(found) for entity in entities]

    def _would_be(self, entity: _Entity, reader: _Reader) -> dict | None:
        n = self._supposed.visible_n(entity, self._vt)
        return None if n is None else self._content(n, reader)

    def _content(self, n: int, reader: _Reader) -> Any:
        return self._supposed.document(n) if n in self._supposed.contents else self._base._content(n, reader)

    def _contents(self, numbers: list[int], reader: _Reader) -> list:
        stored = [n for n in numbers if n not in self._supposed.contents]
        found = iter(super()._contents(stored, reader) if stored else ())
        return [self._supposed.document(n) if n in self._supposed.contents else next(found) for n in numbers]

    def _hash(self, n: int) -> bytes:
        return self._supposed.hash_of(n)

    def _time_of(self, rect: _Rect) -> int:
        return self._vt if rect.n in self._supposed.contents else self._base._time_of(rect)

    def _open_rects(self, id: Any, before: int = OPEN) -> tuple[_Rect, ...]:
        entity = self._touched(id)
        if entity and (entity.evicted or self._supposed.tx_id < before):
            return tuple(self._supposed.whole(entity).rects)
        return self._base._open_rects(id, before)

    def _all_rects(self, id: Any) -> list[_Rect]:
        entity = self._touched(id)
        if entity and entity.evicted:
            return list(entity.rects)
        stored = self._base._all_rects(id)
        return stored + [rect for rect in entity.rects if rect not in stored] if entity else stored

    def _rows_by_value(self, a: str, cells: list, reader: _Reader, mode: str) -> list[tuple]:
        self._fill(reader)
        rows = [row for row in super()._rows_by_value(a, cells, reader, mode)
                if not reader.execute("select 1 from temp.touched where e = ?", row[1:2]).fetchone()]
        find = f"select o.v, o.e, o.n from json_each(?) j cross join temp.over_facts o where o.a = ? and o.v = {_J}"
        rows += reader.execute(find, (_json_cells(cells), self._file.index.attribute(a, reader))).fetchall()
        return sorted(rows, key=lambda row: _cell_order(row[1]))

    # What a query reads of it

    def _fill(self, reader: _Reader) -> dict[uuid.UUID, Cell]:
        """Writes the touched entities, as they would be, into temporary tables of a reader; the cells of their UUIDs.

        The reader keeps them for the next question about this transaction, which may have touched more entities since.
        """
        filled, state = reader.filled, self._file.words[_HEAD_MARK]
        if (filled is None or filled.supposed() is not self._supposed or filled.vt != self._vt
                or filled.is_passing and filled.state != state):
            reader.is_used = True
            filled = reader.filled = _Filled(weakref.ref(self._supposed), self._vt, state)
            for statement in _OVER_TABLES:
                reader.execute(statement)
        if self._supposed.journal is None:
            self._supposed.journal = list(self._supposed.entities)
        touched = self._supposed.journal[filled.count:]
        if touched:
            filled.count += len(touched)
            reader.execute("savepoint fill")
            self._write_touched([self._supposed.entities[key] for key in dict.fromkeys(touched)], filled, reader)
            reader.execute("release fill")
        return filled.cells

    def _write_touched(self, entities: list[_Entity], filled: _Filled, reader: _Reader) -> None:
        many, facts = reader.connection.executemany, []
        cells = [self._cell_for(entity.id, filled, reader) for entity in entities]
        for e, entity in zip(cells, entities):
            n = self._supposed.visible_n(entity, self._vt)
            if n is not None:
                op = self._supposed.contents.get(n)
                for name, cell in _encoded(dict(self._base._content(n, reader)))[1] if op is None else op.facts:
                    a = self._file.index.attribute(name, reader)
                    filled.is_passing |= type(a) is str
                    facts.append((a, self._cell_for(cell, filled, reader) if type(cell) is uuid.UUID else cell, e, n))
        with reader.unbroken():
            many("insert or ignore into temp.touched values (?)", list(zip(cells)))
            many("delete from temp.over_facts where e = ?", list(zip(cells)))
            many("insert or ignore into temp.over_facts values (?, ?, ?, ?)", facts)

    def _cell_for(self, value: Any, filled: _Filled, reader: _Reader) -> Cell:
        if type(value) is not uuid.UUID:
            return self._cell(value, reader)
        cell = filled.cells.get(value)
        if cell is None:
            cell = filled.cells[value] = self._cell(value, reader)
            filled.is_passing |= type(cell) is bytes
        return cell


_OVER_TABLES = ("create temp table if not exists touched(e primary key) without rowid",
                "create temp table if not exists over_facts(a, v, e, n, primary key (a, v, e)) without rowid",
                "create index if not exists temp.over_facts_e on over_facts(e, a, v)",
                "delete from temp.touched", "delete from temp.over_facts")


@dataclasses.dataclass(slots=True, eq=False)
class _Filled:
    """What a reader's temporary tables hold: of which transaction, and how much of its journal."""
    supposed: weakref.ref[_Transaction]
    vt: int
    state: int
    count: int = 0
    cells: dict[uuid.UUID, Cell] = dataclasses.field(default_factory=dict)
    is_passing: bool = False          # whether something has no number yet, which the next transaction may give it


def _merged(rects: Iterable[_Rect]) -> list[_Rect]:
    """Rectangles of one version that touch, as one."""
    merged: list[_Rect] = []
    for rect in rects:
        if merged and merged[-1].n == rect.n and merged[-1].vt_to == rect.vt_from:
            merged[-1] = merged[-1]._replace(vt_to=rect.vt_to)
        else:
            merged.append(rect)
    return merged


# ── Datalog: what a query says ───────────────────────────────────────────────────────────────────────────────
#
# A query is Python data. It is parsed once, checked whole, and refused with a sentence before anything is read.
#
#     query    {"find": FIND or [FIND, …], "in": [BINDING, …], "where": [CLAUSE, …], "rules": [RULE, …],
#               "order-by": [ORDER, …], "limit": n, "offset": n, "keys": [name, …], "with": ["?x", …],
#               "one": True, "timeout": milliseconds}
#     FIND     "?x"   ("pull", "?x", pattern)   ("count", FIND)   (f, FIND or value, …)   a list, set or dict of these
#     BINDING  "?x"   ["?x", ...] each of a collection   ["?x", "?y"] one tuple   [["?x", "?y"]] each of a relation
#              these in each other, such as [["?x", ["?y", ...]]]       "%" rules   "$name" a snapshot
#     CLAUSE   [TERM, ATTRIBUTE, TERM]   [TERM, ATTRIBUTE]            a fact: entity, attribute, value
#              [(f, ARG, …)]                       a test: keeps rows for which f gives neither None nor False
#              [(f, ARG, …), BINDING]              a call whose result is bound
#              [("text-search", "attribute", ARG), [["?entity", "?text"]]]      texts with these words
#              ("not", CLAUSE, …)                  ("not-join", ["?x", …], CLAUSE, …)
#              ("or", BRANCH, …)                   ("or-join", ["?x", …] or [["?bound", …], "?x", …], BRANCH, …)
#              ("rule", TERM, …)                   a call of a rule
#              ("$name", CLAUSE, …)                clauses that another snapshot answers
#     ATTRIBUTE  "name"   "space/_name" backwards   "?a"   "_" any attribute   {"name", …} any of these
#     BRANCH   CLAUSE   ("and", CLAUSE, …)
#     TERM     "?x"   "_" any value   a value   {value, …} any of these
#              ["attribute", value]           as an entity: a lookup ref
#     ARG      "?x"   a value   (f, ARG, …)   "$" this snapshot   "$name" another   f is a name or a callable
#     RULE     [("rule", "?a", …), CLAUSE, …]      [("rule", ["?bound", …], "?a", …), CLAUSE, …]
#     ORDER    [FIND]   [FIND, "desc"]   [("created", "?x"), "desc"]


class _Const(NamedTuple):
    value: Any


class _AnyOf(NamedTuple):
    values: tuple


class _Call(NamedTuple):
    head: Any                         # a name, a callable, or a variable bound to a callable
    args: tuple
    of: str = ""                      # the other snapshot that it asks


class _Binding(NamedTuple):
    shape: Any                        # "scalar", "collection", "tuple", "relation"; if nested as `_shape_of` tells it
    vars: tuple


@dataclasses.dataclass(frozen=True, eq=False)
class _Clause:
    """A clause as it was written, and its parts: terms, and lists of clauses inside. All traversals go by these two."""
    source: Any
    terms: tuple = ()
    inside: tuple[tuple, ...] = ()
    required: frozenset = frozenset()     # the positions of the terms whose variables must be bound before
    name: Any = ""                        # a triple's attribute, a rule's name, or the shape of a binding

    @functools.cached_property
    def needs(self) -> tuple[str, ...]:
        """The variables that must be bound before."""
        return tuple(dict.fromkeys(_term_vars(self.terms[i] for i in sorted(self.required))))

    @functools.cached_property
    def binds(self) -> frozenset[str]:
        """The variables that it can bind."""
        free = _term_vars(term for i, term in enumerate(self.terms) if i not in self.required)
        return frozenset(free).intersection(*map(_bound_by, self.inside))

    @functools.cached_property
    def vars(self) -> frozenset[str]:
        """All variables that it mentions, at any depth."""
        return frozenset(_term_vars(self.terms)).union(*map(_mentioned, self.inside))

    def rebuilt(self, of_term: Callable, of_clauses: Callable) -> Self:
        """The same clause with other terms, and other clauses inside."""
        terms, inside = tuple(map(of_term, self.terms)), tuple(map(of_clauses, self.inside))
        return dataclasses.replace(self, terms=terms, inside=inside)


class _Triple(_Clause):
    """An entity and a value, of one attribute; `Fact` of store_parts.py is one of a variable attribute."""
    of = ""                           # the other snapshot that is asked
    e = property(lambda self: self.terms[0])
    v = property(lambda self: self.terms[1])
    a = property(lambda self: self.name)


class _Test(_Clause):
    """A call that keeps or drops a row."""
    call = property(lambda self: self.terms[0])


class _Bind(_Clause):
    """A call, and the variables that its result binds."""
    call = property(lambda self: self.terms[0])
    binding = property(lambda self: _Binding(self.name, self.terms[1:]))


class _Search(_Clause):
    """That an entity may have a text with some words: where a search can begin. A triple and a test make sure of it."""
    e = property(lambda self: self.terms[0])
    words = property(lambda self: self.terms[1])
    a = property(lambda self: self.name)


class _Not(_Clause):
    """Clauses that must not hold."""


class _Or(_Clause):
    """Branches of which one must hold. The terms are the variables that they share with other clauses."""


class _RuleCall(_Clause):
    """A call of a rule: the terms are its arguments."""


class _Definition(NamedTuple):
    """One of the definitions of a rule."""
    head: tuple                       # variables, in order
    clauses: tuple


class _Find(NamedTuple):
    kind: str                         # "var", "pull", "aggregate" or "expression"
    term: Any
    source: Any
    pattern: Any = None
    is_telling: bool = True           # whether different entities always give different answers


class _Parsed(NamedTuple):
    """A query, checked. `order` holds (index in find, or a variable for creation, is_descending)."""
    find: tuple
    is_bare: bool
    names: tuple | None
    ins: tuple
    where: tuple
    rules: dict
    order: tuple
    limit: int | None
    offset: int
    timeout_s: float
    is_page: bool                     # ordered or cut: answers may come twice
    is_grouped: bool                  # find has aggregates
    is_bag: bool                      # SQL must give one row a binding, not one row an answer
    is_one: bool                      # the first answer alone is wanted, not a list
    refs: tuple                       # the places of arguments that are entities, for which lookup refs may stand
    sources: dict                     # the names of other snapshots, and the places of the arguments that they are
    counted: tuple | None             # what an aggregate counts once: bindings of find's variables and of these
    source: dict
    searched: tuple                   # what gives the words of searches, and whether their entities are counted
    watched: tuple                    # ranges whose rows are counted before a plan is chosen
    native: Any                       # store_native.py, where it may make a part of it
    plans: dict                       # what was compiled of it, by the mode of asking and what the arguments are


def _pattern_var(part: Any) -> str:
    """The variable that is the pattern of a pull, or ""."""
    return part[2] if type(part) is tuple and len(part) == 3 and part[0] == "pull" and _is_var(part[2]) else ""


_QUERY_KEYS = frozenset(("find", "in", "where", "rules", "order-by", "limit", "offset", "keys", "strs", "syms",
                         "timeout", "one", "with"))
_FIRST = frozenset((0,))              # of a clause that calls: only its call must be bound before
_fresh_numbers = itertools.count(1)


def _is_var(term: Any) -> bool:
    return type(term) is str and len(term) > 1 and term[0] == "?"


def _fresh(stem: str = "_") -> str:
    """A variable that nobody can have written."""
    return f"? {stem}{next(_fresh_numbers)}"


def _is_ref(value: Any) -> bool:
    """Whether a value is a lookup ref: an attribute and a value, for the one entity that has it."""
    return type(value) is list and len(value) == 2 and type(value[0]) is str and not _is_var(value[0])


def _term_vars(terms: Iterable) -> Iterator[str]:
    """The variables in some terms, those of calls too."""
    for term in terms:
        if _is_var(term):
            yield term
        elif type(term) is _Call:
            yield from _term_vars((term.head, *term.args))


def _mentioned(clauses: Iterable[_Clause]) -> frozenset[str]:
    return frozenset().union(*[clause.vars for clause in clauses])


def _bound_by(clauses: Iterable[_Clause]) -> frozenset[str]:
    return frozenset().union(*[clause.binds for clause in clauses])


def _every(clauses: Iterable[_Clause], around: tuple[_Clause, ...] = ()) -> Iterator[tuple[_Clause, tuple]]:
    """Each clause, at any depth, with the clauses that it stands in."""
    for clause in clauses:
        yield clause, around
        for inner in clause.inside:
            yield from _every(inner, (*around, clause))


def _reached(clauses: Iterable[_Clause], bound: Iterable[str]) -> tuple[set[str], list[_Clause]]:
    """The variables that are bound once all clauses have been joined that can be, and the clauses that cannot."""
    found, todo = set(bound), list(clauses)
    while ready := [clause for clause in todo if _is_ready(clause, found)]:
        todo = [clause for clause in todo if clause not in ready]
        found.update(*[clause.binds for clause in ready])
    return found, todo


def _is_ready(clause: _Clause, bound: set[str]) -> bool:
    """Whether a clause can be joined once these variables are bound."""
    return bound.issuperset(clause.needs) and not (
        isinstance(clause, _Or) and any(_reached(branch, bound)[1] for branch in clause.inside))


def _lacking(definition: _Definition) -> set[str]:
    """The variables in the head of a rule that must be given: its clauses need them and do not bind them.

    The one that lets most clauses be joined comes first, since they may bind the others.
    """
    given: set[str] = set()
    while True:
        reached, left = _reached(definition.clauses, given)
        needed = {var for clause in left for var in (clause.vars if type(clause) is _Or else clause.needs)} - reached
        lacking = [var for var in definition.head if var in needed] or [
            var for var in definition.head if var not in reached]
        if not lacking:
            return given
        given.add(min(lacking, key=lambda var: len(_reached(definition.clauses, given | {var})[1])))


def _all_clauses(where: Iterable[_Clause], rules: Mapping[str, list[_Definition]]) -> Iterator[_Clause]:
    """Each clause of a query and of its rules, at any depth."""
    bodies = (definition.clauses for definitions in rules.values() for definition in definitions)
    return (clause for clause, _ in _every(itertools.chain(where, *bodies)))


def _rule_calls(clauses: Iterable[_Clause]) -> list[_RuleCall]:
    return [clause for clause, _ in _every(clauses) if type(clause) is _RuleCall]


def _renamed(clauses: Iterable[_Clause], names: Mapping[str, Any]) -> tuple[_Clause, ...]:
    """The clauses with variables replaced by other variables or terms."""
    def of_term(term: Any) -> Any:
        if type(term) is _Call:
            return term._replace(head=of_term(term.head), args=tuple(map(of_term, term.args)))
        return names.get(term, term) if type(term) is str else term
    return tuple(clause.rebuilt(of_term, lambda inner: _renamed(inner, names)) for clause in clauses)


def _localised(clauses: Iterable[_Clause], shared: Iterable[str]) -> tuple[_Clause, ...]:
    """The clauses with fresh variables for all that are not shared."""
    return _renamed(clauses, {var: _fresh(var[1:]) for var in _mentioned(clauses).difference(shared)})


def _parsed(query: Any, args: tuple, node: Node, check_arity: bool = True) -> _Parsed:
    """The parsed query, from memory if it was asked before. Raises: QueryError."""
    parsed = node._plans.parsed(query, node._parse)
    if check_arity and len(args) != len(parsed.ins):
        wanted = ", ".join(_shown(binding) for binding in parsed.ins) or "none"
        way = " `q` asks its own snapshot, which is no argument." if args and isinstance(args[0], Db) else ""
        raise QueryError(f"The query takes {_many(len(parsed.ins), 'argument')} ({wanted}), got {len(args)}.{way}")
    return parsed if type(parsed) is _Parsed else node._plans.parsed(parsed.filled(args), node._parse)


def _many(count: float, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _parse(query: Any, functions: Mapping[str, Callable], outer: frozenset[int] = frozenset()) -> Any:
    if type(query) is not dict:
        raise QueryError(f"{_short(query)} is not a query; wanted a dict with \"find\" and \"where\".")
    if unknown := [name for name in query if name not in _QUERY_KEYS]:
        raise QueryError(f"A query has no {_short(unknown[0])}; it may have {', '.join(sorted(_QUERY_KEYS))}."
                         + _meant(unknown[0], _QUERY_KEYS))
    _check_depth(query)
    if query.get("find", ()) in ([], ()):
        raise QueryError("The query has nothing to find; wanted \"find\": a variable, a pull, a call, or a list of "
                         "these.")
    is_bare = type(query["find"]) is not list
    given = [binding for binding in _listed(query, "in") if binding != "$"]
    ins = tuple(_Binding("source", (binding,)) if type(binding) is str and binding[:1] == "$" else
                _parse_binding("_" if binding == "%" else binding, "in") for binding in given)
    elements = [query["find"]] if is_bare else query["find"]
    if "%" in given or any(_pattern_var(part) in given for part in elements):
        return _sibling("store_parts").Template(query, ins, given, elements)
    find = tuple(_parse_find_element(part, functions) for part in elements)
    sources = {binding.vars[0]: place for place, binding in enumerate(ins) if binding.shape == "source"}
    parser = _ClauseParser(functions, _listed(query, "rules"), tuple(sources))
    where = parser.clauses(_listed(query, "where"))
    if "where" in query and not where:
        raise QueryError("\"where\" is empty; wanted at least one clause, or leave it out.")
    order = tuple(_parse_order(part, find, query) for part in _listed(query, "order-by"))
    limit, is_one = _parse_limit(query)
    offset, timeout = _whole(query, "offset"), _whole(query, "timeout")
    is_page = bool(order) or limit is not None or offset is not None
    is_grouped = any(_is_aggregate(part) for element in find for part in _parts(element.term))
    counted = tuple(_listed(query, "with")) if "with" in query else None
    if counted is not None and not (is_grouped and all(map(_is_var, counted))):
        raise QueryError(f"\"with\" is {_short(query['with'])}; wanted a list of variables, beside an aggregate in "
                         "find.")
    is_tested = any(isinstance(clause, _Test) for clause in _all_clauses(where, parser.rules))
    is_native = is_grouped or is_tested or order or any(binding.shape == "collection" for binding in ins)
    native = _sibling_if_there("store_native") if is_native else None
    searched = _sibling("store_text").searched(where, ins, order if limit is not None else ()) \
        if any(isinstance(clause, _Search) for clause, _ in _every(where)) else ()
    parsed = _Parsed(find, is_bare, _parse_names(query, find), ins, where, parser.rules, order, limit, offset or 0,
                     (TIMEOUT_MS if timeout is None else timeout) / 1000, is_page, is_grouped,
                     is_grouped and counted is None or is_page and not is_grouped, is_one, _refs(where, ins),
                     sources, counted, query, searched, native.watched(where, ins) if native else (), native, {})
    _check_variables(parsed)
    _check_subqueries(parsed, functions, outer)
    return parsed


def _check_depth(query: Any) -> None:
    """Refuses what Python or SQLite would give up half-way."""
    level = [query]
    for _ in range(NESTED_MAX):
        level = [part for whole in level if type(whole) in (dict, list, tuple)
                 for part in (whole.values() if type(whole) is dict else whole)]
    if level:
        raise QueryError(f"The query is nested more than {NESTED_MAX} deep, around {_short(level[0])}.")


def _listed(query: Any, name: str) -> list:
    value = query.get(name, [])
    if type(value) not in (list, tuple) or (type(value) is tuple and name != "in"):
        raise QueryError(f"\"{name}\" is {_short(value)}; wanted a list{f': [{value!r}]' * _is_var(value)}.")
    return list(value)


def _whole(query: Any, name: str) -> int | None:
    value = query.get(name)
    if value is not None and (type(value) is not int or value < 0):
        raise QueryError(f"\"{name}\" is {_short(value)}; wanted a whole number, not below 0.")
    return value


def _parse_limit(query: Any) -> tuple[int | None, bool]:
    """How many answers are wanted at most, and whether the first one instead of a list."""
    limit, is_one = _whole(query, "limit"), query.get("one", False)
    if type(is_one) is not bool:
        raise QueryError(f"\"one\" is {_short(is_one)}; wanted True, for the first answer instead of a list.")
    return min(1, 1 if limit is None else limit) if is_one else limit, is_one


def _is_hashable(*values: Any) -> bool:
    try:
        return hash(values) is not None
    except TypeError:
        return False


def _parse_names(query: Any, find: tuple[_Find, ...]) -> tuple[str, ...] | None:
    given = [name for name in ("keys", "strs", "syms") if name in query]
    if not given:
        return None
    names = query[given[0]]
    if len(given) > 1 or type(names) not in (list, tuple) or len(names) != len(find) or not _is_hashable(*names):
        raise QueryError(f"\"{given[0]}\" is {_short(names)}; wanted one list of as many names as find has elements "
                         f"({len(find)}).")
    return tuple(names)


def _parse_find_element(element: Any, functions: Mapping[str, Callable]) -> _Find:
    if _is_var(element):
        return _Find("var", element, element)
    is_call = type(element) is tuple and bool(element)
    if is_call and element[0] == "pull":
        if len(element) != 3 or not _is_var(element[1]):
            raise QueryError(f"find: {_short(element)}; wanted (\"pull\", variable, pattern).")
        pattern = _parse_pull(element[2], functions)
        is_telling = any(part.a in ("*", "xt/id") and not part.is_followed for part in pattern)
        return _Find("pull", element[1], element, pattern, is_telling)
    if type(element) is list and len(element) > 1 and type(element[0]) is str and (
            element[0] == "pull" or element[0] in _functions() or element[0] in _aggregates()):
        raise QueryError(f"find: {_short(element)} is a list; a call is a tuple: ({_short(element[0])}, …).")
    if not is_call and type(element) not in _MAKERS:
        raise QueryError(f"find: {_short(element)} is neither a variable nor a call; wanted \"?x\", (\"pull\", …) or "
                         "(\"count\", \"?x\").")
    term = _find_term(element, functions)
    if any(_is_aggregate(part) and not any(map(_is_var, _parts(part))) for part in _parts(term)):
        raise QueryError(f"find: {_short(element)} counts or sums no variable; wanted one, such as \"?x\".")
    inner = (arg for part in _parts(term) if _is_aggregate(part) for arg in part.args)
    if is_call and any(_is_aggregate(part) for arg in inner for part in _parts(arg)):
        raise QueryError(f"find: {_short(element)} has an aggregate inside an aggregate; wanted a subquery for the "
                         "inner one.")
    return _Find("aggregate" if _is_aggregate(term) else "expression", term, element)


def _no_function(head: Any) -> QueryError:
    return QueryError(f"There is no function {_short(head)}: give it to open(functions=…), or put the callable itself "
                      f"into the query.{_meant(head, (*_functions(), *_aggregates()))}")


# The collections in find are made anew for each row.
_MAKERS: dict[Any, Callable] = {list: lambda *v: list(v), set: lambda *v: set(v),
                                dict: lambda *v: dict(zip(v[::2], v[1::2]))}


def _find_term(term: Any, functions: Mapping[str, Callable]) -> Any:
    """An expression of find; the names of registered aggregates are replaced by these."""
    if type(term) is tuple and term:
        _check_find_call(term, functions)
        registered = functions.get(term[0]) if type(term[0]) is str else None
        head, args = registered if getattr(registered, "is_aggregate", False) else term[0], term[1:]
    elif type(term) in _MAKERS:
        head = _MAKERS[type(term)]
        args = tuple(itertools.chain.from_iterable(term.items())) if type(term) is dict else term
    else:
        return term if _is_var(term) else _Const(term)
    return _Call(head, tuple(_find_term(arg, functions) for arg in args))


def _check_find_call(term: tuple, functions: Mapping[str, Callable]) -> None:
    head = term[0]
    if not (type(head) is str or callable(head)):
        raise QueryError(f"find: {_short(term)} begins with {_short(head)}; wanted the name of a function or "
                         "aggregate.")
    if type(head) is not str or head in functions or _is_var(head) or head in ("if", "aggregate"):
        return
    if head not in _functions() and head not in _aggregates():
        raise _no_function(head)
    if head in _aggregates() and (len(term) == 1 or head not in _functions() and len(term) > 3):
        raise QueryError(f"find: {_short(term)}; wanted ({_short(head)}, variable), or a number before the variable.")
    if head not in _aggregates():
        _check_arity(head, len(term) - 1, term)


def _parts(term: Any) -> Iterator:
    """A term of find and all that it is made of."""
    yield term
    for arg in term.args if type(term) is _Call else ():
        yield from _parts(arg)


def _parse_order(part: Any, find: tuple[_Find, ...], query: Any) -> tuple[Any, bool]:
    part = list(part) if type(part) is list else [part]
    target, direction = part[0] if part else None, part[1] if len(part) > 1 else "asc"
    if len(part) not in (1, 2) or direction not in ("asc", "desc"):
        raise QueryError(f"order-by: {_short(part)}; wanted [element of find] or [element of find, \"asc\" or "
                         "\"desc\"].")
    if type(target) is tuple and len(target) == 2 and target[0] == "created" and _is_var(target[1]):
        return target[1], direction == "desc"
    for index, element in enumerate(find):
        if element.source == target and type(element.source) is type(target):
            return index, direction == "desc"
    way = " Each part is a list: [[\"?x\", \"desc\"]]." if target in ("asc", "desc") or type(target) is tuple else ""
    raise QueryError(f"order-by asks for {_short(target)}, which find does not have. find has: "
                     f"{', '.join(_short(element.source) for element in find)}.{way}")


def _parse_binding(binding: Any, where: Any) -> _Binding:
    if type(binding) not in (list, tuple) and not (binding == "_" or _is_var(binding)) or not binding:
        raise QueryError(f"{where}: {_short(binding)} is not a binding; wanted \"?x\", [\"?x\", ...], [\"?x\", \"?y\"] "
                         "or [[\"?x\", \"?y\"]].")
    vars: list[str] = []
    shape = _shape_of(binding, vars)
    if None in vars:
        way = " \"Each of\" is Python's ... without quotes." if "'...'" in repr(binding) else ""
        raise QueryError(f"{where}: {_short(binding)} binds something that is not a variable, such as \"?x\".{way}")
    named = [var for var in vars if not var.startswith("? ")]
    if len(set(named)) != len(named):
        raise QueryError(f"{where}: {_short(binding)} names a variable twice.")
    return _Binding(_named_shape(shape), tuple(vars))


def _shape_of(binding: Any, vars: list) -> Any:
    """None for a variable, ("each", shape) or ("tuple", shape, …); `vars` gets the variables, None for what is none."""
    if type(binding) not in (list, tuple) or not binding:
        vars.append(_fresh() if type(binding) is str and binding == "_" else binding if _is_var(binding) else None)
        return None
    if len(binding) == 2 and binding[1] is ... or len(binding) == 1 and type(binding[0]) in (list, tuple):
        return "each", _shape_of(binding[0], vars)
    return "tuple", *[_shape_of(part, vars) for part in binding]


def _named_shape(shape: Any) -> Any:
    """The name of a shape that is not nested."""
    kind, *parts = shape or ("scalar",)
    if not any(parts):
        return "collection" if kind == "each" else kind
    return "relation" if kind == "each" and _named_shape(parts[0]) == "tuple" else shape


class _ClauseParser:
    """Parses the rules of a query, then clauses that may call them."""

    def __init__(self, functions: Mapping[str, Callable], rules: list, sources: tuple[str, ...]):
        self._functions, self._sources = functions, sources
        self.of = ""                 # the snapshot that clauses are parsed for
        self._special = {"not": self._not, "not-join": self._not, "or": self._or, "or-join": self._or,
                         "and": lambda clause: self.clauses(clause[1:]),
                         **dict.fromkeys(("$", *sources), lambda clause: _sibling("store_parts").within(self, clause))}
        self._heads = self._parse_heads(rules)
        self.rules = self._parse_rules(rules)
        while (heads := self._with_inferred()) != self._heads:
            self._heads = heads
            self.rules = self._parse_rules(rules)

    # Rules

    def _parse_heads(self, rules: list) -> dict[str, tuple[int, frozenset]]:
        """(how many arguments a rule takes, the positions of those that must be bound before), of each rule.

        Rules may call each other, so this comes first.
        """
        heads: dict[str, tuple[int, frozenset]] = {}
        for rule in rules:
            name, required, head = self._rule_head(rule)
            count, positions = heads.get(name, (len(head), frozenset()))
            if count != len(head):
                raise QueryError(f"The rule {name} is defined with {count} and with {len(head)} arguments.")
            heads[name] = count, positions | {i for i, var in enumerate(head) if var in required}
        return heads

    def _parse_rules(self, rules: list) -> dict[str, list[_Definition]]:
        defined: dict[str, list[_Definition]] = {}
        for self.of, rule in itertools.product((*self._sources, ""), rules):     # each snapshot has rules of its own
            name, required, head = self._rule_head(rule)
            clauses = self.clauses(rule[1:])
            if unbound := set(head) - required - _mentioned(clauses):
                raise UnknownVariableError(f"The rule {name} has {min(unbound)} in its head, but none of its clauses "
                                           "binds it.")
            defined.setdefault(self.of + name, []).append(_Definition(head, clauses))
        return defined

    def _with_inferred(self) -> dict[str, tuple[int, frozenset]]:
        """The heads, with the positions required that some definition needs bound and does not bind itself."""
        return {name: (count, required.union(
            i for definition in self.rules[name] for i, var in enumerate(definition.head)
            if var in _lacking(definition))) for name, (count, required) in self._heads.items()}

    def _rule_head(self, rule: Any) -> tuple[str, set, tuple]:
        """(name, the variables that must be bound before a call, all of them in order)"""
        if type(rule) is not list or len(rule) < 2 or type(rule[0]) is not tuple or len(rule[0]) < 2 \
                or type(rule[0][0]) is not str:
            raise QueryError(f"{_short(rule)} is not a rule; wanted [(\"name\", \"?a\", …), clause, …].")
        name, *args = rule[0]
        if name in self._special:
            raise QueryError(f"{_short(rule[0])}: no rule can be called {name}, which is a clause of its own.")
        required = set(args[0]) if type(args[0]) is list else set()
        head = tuple(part for arg in args for part in (arg if type(arg) is list else [arg]))
        if not all(_is_var(var) for var in head) or len(set(head)) != len(head):
            raise QueryError(f"The head {_short(rule[0])} of a rule must have different variables as arguments.")
        return name, required, head

    # Clauses

    def clauses(self, clauses: Iterable) -> tuple[_Clause, ...]:
        return tuple(part for clause in clauses for part in self._clause(clause))

    def _clause(self, clause: Any) -> tuple[_Clause, ...]:
        if type(clause) is list and clause:
            if type(clause[0]) is tuple and clause[0] and (type(clause[0][0]) is str or callable(clause[0][0])):
                if clause[0][0] == "text-search" and "text-search" not in self._functions:
                    return _sibling("store_text").clauses(clause, self.of, self.argument)
                return (self._call_clause(clause),)
            return self._triple(clause)
        if type(clause) is tuple and clause and type(clause[0]) is str:
            special = self._special.get(clause[0])
            return special(clause) if special else (self._rule_call(clause),)
        way = " Clauses stand in a list, also if there is one: [[e, a, v]]." if type(clause) is str else ""
        raise QueryError(f"{_short(clause)} is not a clause; wanted [e, a, v], [(f, …)], [(f, …), binding], "
                         f"(\"not\", …), (\"or\", …) or a rule.{way}")

    def _way(self, clause: list) -> str:
        """What may have been meant by a clause that is no triple."""
        head = clause[0]
        if type(head) is list and not _is_ref(head):
            return " A clause stands by itself, without another list around it, and a call is a tuple: [(f, …)]."
        if type(head) is str and (head in self._special or head in self._heads):
            return f" It is a tuple: ({_short(head)}, …)."
        return f" A call is a tuple: [({_short(head)}, …)]." if type(head) is str and head in _functions() else ""

    def _triple(self, clause: list) -> tuple[_Clause, ...]:
        """A triple, and before it one that finds its entity, where a lookup ref stands for that."""
        if len(clause) not in (2, 3):
            raise QueryError(f"The clause {_short(clause)} has {_many(len(clause), 'place')}; wanted [e, a] or "
                             f"[e, a, v].{self._way(clause)}")
        e, a = clause[0], clause[1]
        is_term = type(a) is set or _is_var(a) or a == "_" and type(a) is str
        if (is_term or type(e) is str and e in self._sources) and (way := self._way(clause)):
            raise QueryError(f"The clause {_short(clause)} is no fact.{way} An entity of that id is an argument.")
        names = a if type(a) is set else () if is_term else [a]
        if not all(type(name) is str and is_text(name) for name in names):
            raise QueryError(f"The clause {_short(clause)} has {_short(a)} for its attribute; wanted a text, a "
                             f"variable, or a set of texts."
                             f"{self._way(clause) or ' Half a surrogate pair is no text.' * (type(a) is str)}")
        back, ends = "" if is_term else _backwards(a), [e, clause[2] if len(clause) == 3 else "_"]
        found: list[_Clause] = []
        for place, end in enumerate(ends if back else ends[:1]):       # of a clause read backwards both are entities
            if _is_ref(end):
                ends[place] = _fresh()
                found += self._triple([ends[place], *end])
        e, v = (_term(end, clause) for end in (reversed(ends) if back else ends))
        if is_term:
            return *found, _sibling("store_parts").Fact(clause, (e, v, _term(a, clause)), of=self.of)
        if self.of:
            return *found, _sibling("store_parts").Fact(clause, (e, v), name=back or a, of=self.of)
        return *found, _Triple(clause, (e, v), name=back or a)

    def _call_clause(self, clause: list) -> _Clause:
        call = self._call(clause[0], clause)
        if len(clause) > 2:
            raise QueryError(f"The clause {_short(clause)} has {len(clause)} places; wanted [(f, …)] or "
                             "[(f, …), binding]. A tuple that is an id or a value comes in through \"in\".")
        if len(clause) == 1:
            return _Test(clause, (call,), required=_FIRST)
        binding = _parse_binding(clause[1], _short(clause))
        return _Bind(clause, (call, *binding.vars), required=_FIRST, name=binding.shape)

    def _call(self, call: tuple, clause: Any) -> _Call:
        head, *args = call
        if head == "q" and type(head) is str:
            if not args or type(args[0]) is not dict:
                raise QueryError(f"{_short(clause)}: wanted (\"q\", query, argument, …).")
        elif type(head) is str and head not in self._functions:
            _check_arity(head, len(args), clause)
        return _Call(head, tuple(self.argument(arg, clause) for arg in args), self.of)

    def argument(self, arg: Any, clause: Any) -> Any:
        if _is_var(arg):
            return arg
        if arg == "_" and type(arg) is str:
            raise QueryError(f"{_short(clause)}: a blank cannot be an argument; wanted a variable or a value.")
        if type(arg) is tuple and arg and (callable(arg[0]) or type(arg[0]) is str and arg[0] in _functions()):
            return self._call(arg, clause)
        return _Const(arg)

    def _not(self, clause: tuple) -> tuple[_Clause, ...]:
        """A `not`, or a `not-join`, which names the variables that it shares with other clauses."""
        shared = _join_vars(clause)[1] if clause[0] == "not-join" else None
        inner = self.clauses(clause[1 if shared is None else 2:])
        if not inner:
            raise QueryError(f"{_short(clause)} is empty; wanted a clause in it.")
        if shared is None:
            return (_Not(clause, (), (inner,)),)
        if absent := shared - _mentioned(inner):
            raise UnknownVariableError(f"{_short(clause)} shares {min(absent)}, but none of its clauses has it.")
        return (_Not(clause, (), (_localised(inner, shared),)),)

    def _or(self, clause: tuple) -> tuple[_Clause, ...]:
        """An `or`, or an `or-join`, which names the variables that it shares with other clauses."""
        required, shared = _join_vars(clause) if clause[0] == "or-join" else (set(), None)
        parts = clause[1 if shared is None else 2:]
        if not parts:
            raise QueryError(f"{_short(clause)} has no branches; wanted clauses, or (\"and\", clause, …).")
        branches = tuple(self.clauses([part]) for part in parts)
        if shared is None:
            terms = tuple(var for var in frozenset().union(*map(_mentioned, branches)) if not var.startswith("? "))
        else:
            terms, branches = tuple(shared), tuple(_localised(branch, shared) for branch in branches)
        return (_Or(clause, terms, branches, frozenset(i for i, var in enumerate(terms) if var in required)),)

    def _rule_call(self, clause: tuple) -> _RuleCall:
        name, *args = clause
        if name not in self._heads:
            if len(clause) in (2, 3) and (_is_var(name) or name == "_"):
                raise QueryError(f"{_short(clause)} is not a clause; a triple is a list: [{_short(name)}, attribute, "
                                 "value].")
            known = ", ".join(sorted(map(str, self._heads))) or "none"
            way = (f" A test stands in a list: [{_short(clause)}]." if name in _functions() else
                   " Another snapshot is named in \"in\"." if name.startswith("$") else _meant(name, self._heads))
            raise QueryError(f"{_short(clause)} calls the rule {_short(name)}, which \"rules\" does not define. "
                             f"Defined: {known}.{way}")
        count, required = self._heads[name]
        if len(args) != count:
            raise QueryError(f"{_short(clause)}: the rule {name} takes {_many(count, 'argument')}, got {len(args)}.")
        return _RuleCall(clause, tuple(_term(arg, clause) for arg in args), name=self.of + name, required=required)


def _term(term: Any, clause: Any) -> Any:
    """A place of a triple or an argument of a rule: a variable, a constant, or any of a set of constants."""
    if term == "_" and type(term) is str:
        return _fresh()
    if _is_var(term):
        return term
    if type(term) in (set, frozenset):
        return _AnyOf(tuple(term))
    if type(term) is list or term is ...:
        raise QueryError(f"The clause {_short(clause)} has {_short(term)} for a value; wanted one value, a set of "
                         "them, or a variable. Only where the entity stands, [\"attribute\", value] is a lookup ref.")
    return _Const(term)


def _backwards(name: str) -> str:
    """The attribute that a name follows backwards, or "": "mem/_user" asks who has me as "mem/user"."""
    space, slash, last = name.rpartition("/")
    return space + slash + last[1:] if last.startswith("_") and len(last) > 1 else ""


def _join_vars(clause: tuple) -> tuple[set, set]:
    """The variables that must be bound before, and all that are shared, of a not-join or or-join."""
    names = clause[1] if len(clause) > 1 else None
    if type(names) is not list or not names:
        raise QueryError(f"{_short(clause)}: wanted a list of variables first.")
    required = names[0] if type(names[0]) is list else []
    free = names[1:] if type(names[0]) is list else names
    if not all(_is_var(name) for name in [*required, *free]):
        raise QueryError(f"{_short(clause)}: {_short(names)} is not a list of variables.")
    return set(required), set(required) | set(free)


_ARITIES: dict[str, tuple[float, float]] = {
    "created-before": (2, 2), "created-after": (2, 2), "get-attr": (2, 3), "get-start-valid-time": (1, 1),
    "get-end-valid-time": (1, 2)}


def _check_arity(head: str, count: int, clause: Any) -> None:
    """Refuses a call of a built-in function with too few or too many arguments."""
    least, most = _arity(head)
    if not least <= count <= most:
        wanted = f"{least}" if least == most else f"at least {least}" if most == math.inf else f"{least} to {most}"
        raise QueryError(f"{_short(clause)}: {head} takes {wanted} argument{'s' * (wanted != '1')}, got {count}.")


@functools.cache
def _arity(head: str) -> tuple[float, float]:
    """The least and the greatest number of arguments of a built-in function; any, of what is none."""
    if head in _ARITIES:
        return _ARITIES[head]
    if head not in _functions():
        return 0, math.inf
    try:
        parameters = inspect.signature(_functions()[head]).parameters.values()
    except ValueError:                # some functions in C have no signature
        return 0, math.inf
    least = sum(p.default is p.empty and p.kind is not p.VAR_POSITIONAL for p in parameters)
    most = math.inf if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(parameters)
    return least, most


# What a query asks for must be bound by something.


def _check_variables(parsed: _Parsed) -> None:
    given = {var for binding in parsed.ins for var in binding.vars}
    _check_clauses(parsed.where, given)
    bound = given | _bound_by(parsed.where)
    wanted = [(var, "find") for find in parsed.find for var in _find_vars(find)]
    wanted += [(var, "order-by") for var, _ in parsed.order if type(var) is str]
    wanted += [(var, "with") for var in parsed.counted or ()]
    for var, where in wanted:
        if var not in bound:
            raise _unknown(var, f"{where} asks for {var}", bound)
    for definitions in parsed.rules.values():
        for definition in definitions:
            _check_clauses(definition.clauses, set(definition.head))


def _check_clauses(clauses: Iterable[_Clause], given: set[str]) -> None:
    bound = given | _bound_by(clauses)
    for clause in clauses:
        if type(clause) in (_Test, _Bind):
            for var in clause.needs:
                if var not in bound:
                    raise _unknown(var, f"{_short(clause.source)} uses {var}", bound)
        elif type(clause) is _Not:
            _check_clauses(clause.inside[0], bound)
        elif type(clause) in (_RuleCall, _Or):
            outside = given | _bound_by([other for other in clauses if other is not clause])
            if missing := set(clause.needs) - outside:
                var = "a value for _" if min(missing).startswith("? ") else min(missing)      # a blank
                raise _unknown(var, f"{_short(clause.source)} needs {var} bound before", outside)
            fresh = [{var for var in _bound_by(branch) - outside if var[1] != " "} for branch in clause.inside]
            if differing := [names ^ fresh[0] for names in fresh if names != fresh[0]]:
                raise QueryError(f"{_short(clause.source)}: {min(differing[0])} is not in every branch; a branch of "
                                 "\"or\" must bind what the others bind, or use \"or-join\".")
            for branch in clause.inside:
                _check_clauses(branch, outside.union(clause.needs))


def _unknown(var: str, what: str, bound: Iterable[str]) -> UnknownVariableError:
    named = ", ".join(sorted(name for name in bound if name[0] == "?" and name[1] != " ")) or "nothing"
    return UnknownVariableError(f"{what}, but no clause binds it. Bound here: {named}.")


def _find_vars(find: _Find) -> list[str]:
    """The variables in an element of find, those that stand for functions last."""
    parts = list(_parts(find.term))
    heads = [part.head for part in parts if type(part) is _Call]
    return [var for var in (*parts, *heads) if _is_var(var)]


def _shown(binding: _Binding) -> str:
    if type(binding.shape) is tuple:
        vars = iter(binding.vars)
        show: Callable[[Any], str] = lambda shape: next(vars) if shape is None else \
            f"[{' '.join(map(show, shape[1:]))}{' ...' * (shape[0] == 'each')}]"
        return show(binding.shape)
    form = {"scalar": "{}", "collection": "[{} ...]", "tuple": "[{}]", "relation": "[[{}]]"}[binding.shape]
    return form.format(" ".join(binding.vars))


def _check_subqueries(parsed: _Parsed, functions: Mapping[str, Callable], seen: frozenset[int]) -> None:
    """Refuses a query inside a query as early as this one. `seen` are those being checked: a rule may hold itself."""
    for clause in _all_clauses(parsed.where, parsed.rules):
        call = clause.call if isinstance(clause, (_Test, _Bind)) else None
        if call and call.head == "q" and id(call.args[0].value) not in seen:
            query, *args = call.args
            inner = _parse(_inheriting(query.value, parsed), functions, seen | {id(query.value)})
            if len(args) != len(inner.ins):
                raise QueryError(f"{_short(clause.source)}: the inner query takes {len(inner.ins)} arguments, "
                                 f"got {len(args)}.")


def _inheriting(query: dict, outer: _Parsed) -> dict:
    """A query inside another, with the rules of that one too."""
    return query | {"rules": [*query.get("rules", []), *outer.source.get("rules", [])]}


class _PlanCache:
    """Parsed queries with their plans, and parsed pull patterns, the most recent ones. Equal data share an entry."""

    def __init__(self) -> None:
        self._kept: collections.OrderedDict = collections.OrderedDict()
        self._mutex = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        with self._mutex:
            self._kept.clear()

    def parsed(self, data: Any, parse: Callable[[Any], Any]) -> Any:
        """What `parse` makes of a query or pattern, made once."""
        try:
            key: Any = marshal.dumps(data, 2)         # tells 1, 1.0 and True apart; it knows plain data only
        except ValueError:
            key = _exact_key(data)
        found = self._kept.get(key)
        if found is None:
            found = parse(copy.deepcopy(data) if type(key) is bytes else data)
            with self._mutex:
                self._kept[key] = found
                while len(self._kept) > PLANS_CACHED:
                    self._kept.popitem(last=False)
        return found


def _exact_key(data: Any, depth: int = 0) -> Any:
    """The key of data that marshal does not know. Equal values have one key only if nothing tells them apart."""
    kind = type(data)
    if depth > NESTED_MAX:
        raise QueryError(f"The query is nested more than {NESTED_MAX} deep, around {_short(data)}.")
    if kind is dict:
        return kind, tuple((_exact_key(key, depth + 1), _exact_key(value, depth + 1)) for key, value in data.items())
    if kind in (list, tuple, set, frozenset):
        return kind, (frozenset if kind in (set, frozenset) else tuple)(_exact_key(part, depth + 1) for part in data)
    if kind is dt.datetime:
        return kind, data.replace(tzinfo=None, fold=0), data.fold, _Held(data.tzinfo)
    if kind in _EQUAL_IS_SAME:
        return kind, data
    try:
        return marshal.dumps(data, 2)
    except ValueError:
        return _Held(data)


_EQUAL_IS_SAME = frozenset((uuid.UUID, dt.date, types.FunctionType, types.BuiltinFunctionType, types.MethodType, type))


class _Held:
    """Keeps something alive for as long as its identity is part of a key."""

    def __init__(self, part: Any):
        self.part = part

    def __eq__(self, other: object) -> bool:
        return type(other) is _Held and self.part is other.part

    def __hash__(self) -> int:
        return id(self.part)


# ── Datalog: the plan ────────────────────────────────────────────────────────────────────────────────────────
#
# A query becomes one statement of cross joins, which SQLite does not reorder: the order is ours, by our own statistics.
# Each triple is one `facts`. An `or` that binds and a call of a recursive rule begin a stage: the rows so far become a
# materialized table that each branch joins. No name and no value is in the text: all are bound when it runs.
#
# Without order, limit and aggregates an answer is a set, and variables that nothing asks for later are dropped on the
# way. Otherwise it is a bag, one row a binding of all variables; rows that go through a stage are then numbered, so
# that equal rows stay as many as they were.
#
# Three parts make a plan: `_Joiner` orders and joins clauses, `_Rules` makes tables of recursive rules, `_Shaper`
# decides what SQL brings of the answer and what is left to Python.


class _Block:
    """A SELECT in the making: its tables and conditions, and the expression that each bound variable has in it.

    `owners` has, for an entity whose version is known, the expressions of its p, k and n: every fact of a version
    shares them, so that the next clause about this entity need not ask again what is visible.
    `kinds` has, for a variable that a triple binds, the types of cells that its values can have.
    `first` has the first table's alias, the place of its condition of visibility, and its attribute, if it has facts.
    `is_walked` says that its rows come in the order that is asked for.
    """
    __slots__ = "froms", "wheres", "bound", "owners", "kinds", "first", "is_walked"

    def __init__(self, froms: Iterable[str] = (), bound: Mapping[str, str] = NOTHING,
                 owners: Mapping[str, tuple] = NOTHING, kinds: Mapping[str, int] = NOTHING):
        self.froms, self.bound, self.owners, self.kinds = list(froms), dict(bound), dict(owners), dict(kinds)
        self.wheres: list[str] = []
        self.first: tuple[str, int, str] | None = None
        self.is_walked = False

    def sql(self, columns: Iterable[str], distinct: bool = False, wheres: list[str] | None = None) -> str:
        columns = _bounded(list(columns), COLUMNS_MAX, "variables and results at once")
        tables = f" from {' cross join '.join(self.froms)}" if self.froms else ""
        conditions = self.wheres if wheres is None else wheres
        where = f" where {_all_of(conditions)}" if conditions else ""
        return f"select {'distinct ' if distinct else ''}{', '.join(columns) or '1'}{tables}{where}"


def _bounded(parts: Any, most: int, what: str) -> Any:
    """The parts, if they are not too many. Raises: QueryError."""
    if len(parts) > most:
        raise QueryError(f"The query has {len(parts):,} {what}, the limit is {most:,}: ask in several steps, or give "
                         "values as one argument, such as [\"?x\", ...].")
    return parts


def _joined_by(word: str, parts: list[str], most: int = GROUP_TERMS, form: str = "({})") -> str:
    """The parts as one, in groups: SQLite takes no expression deeper than 1,000, and no union of more than 500."""
    while len(parts) > most:
        parts = [form.format(word.join(parts[i:i + most])) for i in range(0, len(parts), most)]
    return word.join(parts)


def _all_of(conditions: Iterable[str]) -> str:
    return _joined_by(" and ", list(conditions))


def _numbered(stem: str, count: int) -> list[str]:
    return [f"{stem}{i}" for i in range(count)]


def _json_places(row: str, width: int) -> list[str]:
    return [_FROM_JSON.format(f"json_extract({row}, '$[{i}]')") for i in range(width)]


@dataclasses.dataclass(frozen=True, eq=False)
class _In(_Clause):
    """An argument that brings several rows, as a clause among the others."""
    place: int = 0


def _identical_to(source: Any, term: Any, var: str) -> _Bind:
    """A clause that binds a variable to what is known already."""
    return _Bind(source, (_Call(_itself, (term,)), var), required=_FIRST, name="scalar")


def _scalars(ins: Iterable[_Binding]) -> tuple[dict[str, tuple], list[tuple[str, str]]]:
    """What gives the value of each variable of a scalar or tuple argument; other names for what a second one binds."""
    scalars: dict[str, tuple] = {}
    twice = []
    for place, binding in enumerate(ins):
        for i, var in enumerate(binding.vars if binding.shape in ("scalar", "tuple") else ()):
            name = var if var not in scalars else _fresh(var[1:])
            scalars[name] = ("in", place) if binding.shape == "scalar" else ("in", place, i)
            if name != var:
                twice.append((name, var))
    return scalars, twice


def _refs(where: Iterable[_Clause], ins: Iterable[_Binding]) -> tuple[int, ...]:
    """The places of the arguments that are entities of triples, or collections of such."""
    entities = {clause.e for clause, _ in _every(where) if isinstance(clause, _Triple) and _is_var(clause.e)}
    return tuple(place for place, binding in enumerate(ins)
                 if binding.shape in ("scalar", "collection") and binding.vars[0] in entities)


class _Statement(NamedTuple):
    sql: str
    binders: tuple                    # what gives each parameter from the fifth on, of a run
    highest: int                      # of its parameters; SQLite takes as many, and no more
    derives: bool                     # its new rows are new facts of rules


class _Text:
    """A statement in the making: its parameters, and the tables that stand before it."""

    def __init__(self, file: _File):
        self._file, self._tables = file, []                 # type: _File, list[str]
        self.specs: list[tuple] = []
        self.stages = 0               # one upon the other, since the last one that is a table of its own
        self.names = ""               # the table of the attributes, where one is needed
        self._known: dict[Any, str] = {}

    def param(self, *spec: Any) -> str:
        """The name of a parameter; `_PARAMETER` says what gives its value."""
        key = spec if spec[0] in _SHARED else object()
        if key not in self._known:
            self.specs.append(spec)
            self._known[key] = f"?{4 + len(self.specs)}"
        return self._known[key]

    def table(self, name: str, columns: list[str], sql: str, is_recursive: bool = False) -> str:
        self._tables.append(f"{name}({', '.join(columns)}) as{'' if is_recursive else ' materialized'} ({sql})")
        return name

    def statement(self, sql: str) -> _Statement:
        """The statement, with the tables and parameters that there are so far."""
        whole = f"with recursive {', '.join(self._tables)} {sql}" if self._tables else sql
        highest = max(map(int, re.findall(r"\?(\d+)", whole)), default=0)
        binders = tuple(_binder(spec, self._file) for spec in
                        _bounded(self.specs, PARAMETERS_MAX, "values in its clauses"))
        return _Statement(whole, binders, highest, sql.startswith("insert or ignore"))


# A statement has one parameter of each; never of constants: Python thinks that 1, 1.0 and True are one.
_SHARED = frozenset(("in", "source", "rows", "any_in", "attribute", "limit", "round", "n then"))


def _binder(spec: tuple, file: _File) -> Callable:
    """What gives a parameter's value of a run. The number of an attribute never changes, once it has one."""
    kind, *rest = spec
    if kind == "attribute" and rest[0] in file.index.attributes:
        return lambda run, a=file.index.attributes[rest[0]]: a
    if kind == "in" and len(rest) == 1:
        return lambda run, place=rest[0]: run.cells.given(run.args[place])
    return lambda run, bind=_PARAMETER[kind]: bind(run, *rest)


class _Quick(NamedTuple):
    """For plans that need no run (`user_by_email` in bench/store.py): one statement, and one step after it."""
    sql: str
    constants: list                   # its parameters from the fifth on, as far as they are always the same
    arguments: tuple                  # (place of a parameter, place of the argument that it is) for others of them
    ranges: tuple                     # (place, comparisons, which end, what tells both): of small whole numbers
    finish: Callable                  # of the snapshot, the reader and the rows: the answer
    unless: str = ""                  # a statement that finds nothing where this is the answer


class _Read(NamedTuple):
    """A triple that the documents answer, once SQL has its entity."""
    place: int                        # the column that has the entity
    is_number: bool                   # as the number of its document, not as its id
    a: str
    v: str


class _Row(NamedTuple):
    """What stands where in a row of SQL's."""
    columns: dict                     # variable → place
    numbers: dict                     # variable → place of its entity's document number
    values: frozenset                 # the places that hold values, not cells
    width: int                        # late values stand behind it


class _Plan(NamedTuple):
    """A compiled query."""
    before: tuple                     # what fills the tables of rules, in order: statements, and fillings
    tables: tuple                     # the temporary tables: (name, the statements that make it)
    calls: list                       # of functions: (call, its variables, the binding that takes the result apart)
    attributes: tuple                 # where hashed values may come from
    vain: tuple                       # the triples that can find nothing
    notes: list                       # the clauses in their order
    main: _Statement                  # brings the rows
    row: _Row
    arms: tuple = ()                  # two statements whose ordered rows are merged, instead of `main`; whether both do
    quick: _Quick | None = None       # answers instead of all this, where the arguments allow
    late: tuple = ()                  # what is read from the documents, a column each
    is_direct: bool = False           # find has only variables and pulls, and SQL has ordered and cut
    is_simple: bool = False           # is direct, and is one statement that calls nothing
    is_whole: bool = False            # the rows are the answer as they come
    late_repeats: bool = False        # rows may be equal once their late values are there
    repeats: bool = False             # SQL may bring a row twice where none should be
    is_grouped: bool = False          # find has aggregates
    is_ordered: bool = False          # SQL has ordered the rows
    totals: Any = None                # of store_native.py, where SQL makes the groups
    spare: _Statement | None = None   # instead of `main`, where a sum goes beyond SQLite's numbers
    is_fixed: bool = False            # suits any number of rows in the ranges that are counted before


class _Inputs(NamedTuple):
    """What a plan depends on of the arguments."""
    sets: frozenset                   # the parameters of arguments that are sets, in which a test of equality looks
    sizes: tuple                      # (variable in a range or place of a long argument, its rows as far as counted)
    modes: tuple = ()                 # in which each of the other snapshots is asked: (its name, mode)


_NO_INPUTS = _Inputs(frozenset(), ())


class _Compilation:
    """What the parts of a plan share in the making, for one mode of asking."""

    def __init__(self, parsed: _Parsed, mode: str, file: _File, is_over: bool, inputs: _Inputs, deadline: float):
        self.parsed, self.mode, self.file, self.is_over, self.inputs = parsed, mode, file, is_over, inputs
        self.deadline = deadline
        self.calls: list[tuple] = []
        self.notes: list = []
        self.tables: list[tuple] = []
        self._names = itertools.count()
        self.joins_max = STAGE_TABLES // (SUPPOSED_TABLES if is_over else 1)       # clauses in one SELECT
        self.rules = _Rules(self)

    def name(self, stem: str) -> str:
        return f"{stem}{next(self._names)}"

    def kinds(self, a: str) -> int:
        """The types of cells that an attribute has had."""
        return self.file.index.kinds.get(self.file.index.attributes.get(a), 0) & _ANY_KIND

    def seen(self, text: _Text, f: str, a: str, part: str = "both") -> str:
        """The predicate under which a fact of an attribute is seen, or of any: ""."""
        known = self.file.index.kinds.get(self.file.index.attributes.get(a), 0) if a else _DATED
        is_dated = bool(known & (_DATED | _BACKDATED if self.mode == _BEFORE else _DATED))
        if part == "all live" and (is_dated or self.mode != _NOW):
            part = "both"
        if self.mode == _BEFORE and not is_dated:      # what held then is what the last transaction until then saw
            return f"{_PARTS[part].format(f)} and {f}.n <= {text.param('n then')}"
        return _seen(f, self.mode, part, is_dated)

    def is_simple(self, clauses: Iterable[_Clause]) -> bool:
        """Whether clauses fit inside one SELECT, beside a table: no rule, no `or` that binds, and not too many."""
        every = list(_every(clauses))
        tables = sum(len(clause.terms) - 1 if type(clause) is _Triple else 1 for clause, _ in every)
        return tables < self.joins_max and all(
            len(around) <= NESTED_SELECTS and type(clause) is not _RuleCall
            and not (type(clause) is _Or and clause.binds) for clause, around in every)

    def estimate(self, a: str) -> tuple[float, float]:
        """How many live facts an attribute has, and how many different values: counted where few, else reckoned."""
        index = self.file.index
        number = index.attributes.get(a)
        puts = index.puts.get(number, 0)
        if number is None or not puts:
            return 0, 1
        known = index.estimates.get(number)
        if known is None or not known[0] / 2 <= puts <= known[0] * 2:
            with self.file.reading() as reader:
                known = index.estimates[number] = (puts, *_measured(reader, number, puts))
        return known[1:]


_FEW, _SAMPLE = 2_000, 64             # facts that are counted one by one; values that are looked at


def _measured(reader: _Reader, a: int, puts: int) -> tuple[float, float]:
    """(live facts, different values) of an attribute, counted as far as that is cheap."""
    one = lambda sql, *more: reader.execute(sql, (a, *more)).fetchone()
    live, = one("select count(*) from (select 1 from facts where p = 0 and a = ? limit ?)", _FEW)
    if live == _FEW:
        live = max(puts, _FEW)
    values, last = 0, None
    row = one("select min(v) from facts where p = 0 and a = ?")
    while row and row[0] is not None and values < _SAMPLE:
        values, last = values + 1, row[0]
        row = one("select v from facts where p = 0 and a = ? and v > ? limit 1", last)
    if values == _SAMPLE:
        seen, = one("select count(*) from (select 1 from facts where p = 0 and a = ? and v <= ? limit 10000)", last)
        values = live * values / max(seen, 1)
    return live, max(values, 1)


# Costs are rows made of one row so far. Filters come first, since they make all that follows cheaper.

_FILTERS = 0
_PROBE = 0.4                          # entity and value are known: it mostly drops rows, but has to look
_ARGUMENT = 0.5                       # an argument's rows are few, and clauses are meant to begin with them
_ONE_VALUE = 1.1                      # the entity is known: one value, now and then several
_SEARCH = 1.2                         # beside the rows found: finding entities costs more than reading on about one
_RANGED = 0.5                         # a row of an attribute in a range that was too wide to be counted
_WHOLE = 1.5                          # a row of a whole attribute, which nothing narrows
_TAKEN_APART = 3                      # rows that a function's collection is taken to have
_BRANCHING = 2                        # beside the branches' rows: an `or` begins a stage
_ASKED_RULE, _WHOLE_RULE = 8, 2_000   # rows of a recursive rule that is asked about something, or about everything


class _Joiner:
    """Orders clauses and joins them, one after the other, to a block of one statement.

    `before` takes what must run before that statement. `turn` is set inside a rule that is derived round by round.
    """

    def __init__(self, shared: _Compilation, before: list, scalars: Mapping[str, tuple] = NOTHING, is_bag: bool = False,
                 turn: Any = None, text: _Text | None = None, sizes: Mapping[Any, float] = NOTHING):
        self.shared, self.before, self.scalars, self.is_bag, self.turn = shared, before, scalars, is_bag, turn
        self.sizes = sizes
        self.steps: list | None = None    # (clause, how its rows are counted), of the query's own clauses, if wanted
        self.walked: tuple[Any, str, list] = None, "", []      # a search that brings entities in order, within bounds
        self.text = text or _Text(shared.file)

    def expr(self, term: Any, block: _Block) -> str:
        if type(term) is _Const:
            return self.text.param("value", term)
        if term in self.scalars:
            return self.text.param(*self.scalars[term])
        return block.bound[term]

    def is_bound(self, term: Any, block: _Block) -> bool:
        return not _is_var(term) or term in block.bound or term in self.scalars

    # Order

    def join(self, block: _Block, clauses: Iterable[_Clause], later: Iterable[str],
             first: _Clause | None = None) -> _Block:
        """The block with all the clauses joined; `later` are the variables that are asked for afterwards."""
        native = self.shared.parsed.native
        todo = native.with_ranges(clauses, self.scalars) if native else list(clauses)
        steps, self.steps = self.steps, None
        while todo:
            if time.monotonic() > self.shared.deadline:
                raise QueryLimitError(_LATE)
            clause, first = first or self._next(block, todo), None
            todo.remove(clause)
            self.shared.notes.append(clause.source)
            needed = _mentioned(todo).union(later)
            joined = self._JOIN[type(clause)](self, block, clause, needed)
            if type(joined) is str:           # a condition
                block.wheres.append(joined)
            else:
                block = joined or block
            if len(block.froms) > self.shared.joins_max:
                block = self.stage(block, needed)
            if steps is not None:
                steps.append((clause.source, self.text.statement(block.sql(["count(*)"]))))
        return block

    def _next(self, block: _Block, todo: list[_Clause]) -> _Clause:
        """The clause to be joined next: whatever only filters, then what promises the fewest rows."""
        best, least = None, math.inf
        for clause in todo:
            cost = self._cost(clause, block, todo)
            if cost < least:
                best, least = clause, cost
            if least == _FILTERS:
                break
        if best is None:
            raise QueryError(f"{_short(todo[0].source)} cannot be answered: what it needs is bound by no clause that "
                             "can come before it.")
        return best

    def _cost(self, clause: Any, block: _Block, todo: Iterable[_Clause]) -> float:
        """The rows that a clause would make of each row so far; infinite while it cannot be joined."""
        kind = type(clause)
        if any(not self.is_bound(var, block) for var in clause.needs):
            return math.inf
        if kind is _In:
            size = self.sizes.get(clause.place, _ARGUMENT)
            return _FILTERS if size > _ARGUMENT and clause.terms[0] in block.bound else size
        if kind is _Triple:
            return self.triple_cost(clause, block)
        if isinstance(clause, _Triple):
            return _sibling("store_parts").cost(clause, self, block)
        if kind is _Search:
            return _sibling("store_text").cost(clause, self, block)
        if isinstance(clause, _Test):
            return _FILTERS
        if kind is _Bind:
            return _FILTERS if clause.name in ("scalar", "tuple") else _TAKEN_APART
        if kind is _RuleCall:
            return _ASKED_RULE if any(self.is_bound(arg, block) for arg in clause.terms) else _WHOLE_RULE
        elsewhere = _bound_by(other for other in todo if other is not clause)
        if any(not self.is_bound(var, block) for var in (clause.vars & elsewhere) - clause.binds):
            return math.inf
        if kind is _Not:
            return _FILTERS
        if not _is_ready(clause, {var for var in clause.vars if self.is_bound(var, block)}):
            return math.inf
        return _BRANCHING + sum(min([self._cost(part, block, branch) for part in branch], default=0)
                                for branch in clause.inside)

    def triple_cost(self, clause: _Triple, block: _Block) -> float:
        v = self.is_bound(clause.v, block) or clause.v == clause.e
        if self.is_bound(clause.e, block):
            return _PROBE if v else _ONE_VALUE
        rows, values = self.shared.estimate(clause.a)
        if v:
            return _SEARCH + rows / values
        return _SEARCH + (min(rows * _RANGED, self.sizes[clause.v]) if clause.v in self.sizes else rows * _WHOLE)

    # Joining one clause

    def _join_in(self, block: _Block, clause: _In, needed: frozenset[str]) -> str | None:
        width, var = len(clause.terms), clause.terms[0]
        if clause.place in self.sizes and var in block.bound:
            return f"member({clause.place}, {block.bound[var]})"
        rows = self.text.param("rows", clause.place)
        sql = f"select {', '.join(_json_places('value', width))} from json_each({rows})"
        columns = _bounded(_numbered("c", width), COLUMNS_MAX, "variables in one argument")
        name = self.text.table(self.shared.name("i"), columns, sql)
        return self.add(block, name, clause.terms, _numbered(f"{name}.c", width))

    def add(self, block: _Block, table: str, terms: Iterable, columns: Iterable[str]) -> None:
        """Joins a table: each of its columns binds a variable, or is compared."""
        block.froms.append(table)
        for term, column in zip(terms, columns):
            self.place(block, term, column)

    def place(self, block: _Block, term: Any, column: str, kinds: int | None = None) -> None:
        """One place of a table: binds its variable, or compares."""
        if type(term) is _AnyOf:
            block.wheres.append(f"{column} in (select {_J} from json_each({self.text.param('any', term.values)}) j)")
        elif self.is_bound(term, block):
            block.wheres.append(f"{column} = {self.expr(term, block)}")
        else:
            block.bound[term] = column
            if kinds is not None:
                block.kinds[term] = kinds

    def _join_triple(self, block: _Block, clause: _Triple, needed: frozenset[str]) -> None:
        shared, (e, v, *attribute) = self.shared, clause.terms
        parts: Any = None if type(clause) is _Triple else _sibling("store_parts")
        a = parts.attribute(clause, self, block) if parts else self.text.param("attribute", clause.a)
        f, of = shared.name("f"), clause.of
        if shared.is_over and not of:
            return self._join_over(block, clause, f, a)
        owned: Any = (of, e) if of else e
        owner = block.owners.get(owned) if _is_var(e) else None
        # of a known entity a value is looked at: SQLite would search the index for each value of a set instead
        look = "+" if self.is_bound(e, block) and not self.is_bound(v, block) else ""
        block.froms.append(f"facts {f}")
        if a:
            block.wheres.append(f"{f}.a = {a}")
        if owner:
            places = zip(("p", "e", "k", "n"), (owner[0], self.expr(e, block), *owner[1:]))
            block.wheres.append(" and ".join(f"{f}.{place} = +{known}" for place, known in places))
        else:
            is_walk = not (self.is_bound(e, block) or self.is_bound(v, block)) and len(shared.parsed.order) < 2
            part = "all live" if is_walk else "both"
            block.wheres.append(parts.seen_by(self, of, f) if of else
                                shared.seen(self.text, f, clause.a, part))
            if len(block.froms) == 1 and not of:
                block.first = f, len(block.wheres) - 1, clause.a
            self.place(block, e, f"{f}.e", shared.kinds("xt/id"))
        self.place(block, v, f"{look}{f}.v", None if attribute else shared.kinds(clause.a))
        if not a and (attribute[0] in needed or attribute[0] in block.bound or attribute[0][1] != " "):
            parts.place_name(self, block, attribute[0], f"{f}.a")
        if _is_var(e):
            block.owners.setdefault(owned, (f"{f}.p", f"{f}.k", f"{f}.n"))

    def _join_over(self, block: _Block, clause: _Triple, f: str, a: str) -> None:
        """A triple on a supposed snapshot: from the file, or for a touched entity from the rows of these.

        Which of the two is part of what is searched for: else each row of one would go through all rows of the other.
        """
        r, g = f"{f}r", f"{f}g"
        stored, touched = _Block((), block.bound), _Block((), block.bound)
        for part, alias in (stored, f), (touched, g):
            for term, place in zip(clause.terms, "ev"):
                self.place(part, term, f"{alias}.{place}")
        on_stored = [f"{f}.a = iif({r}.r = 0, {a}, null)", _seen(f, self.shared.mode),
                     f"{f}.e not in (select e from temp.touched)", *stored.wheres]
        on_touched = [f"{g}.a = iif({r}.r = 1, {a}, null)", *touched.wheres]
        block.froms.append(f"(select 0 as r union all select 1) {r} left join facts {f} on {' and '.join(on_stored)} "
                           f"left join temp.over_facts {g} on {' and '.join(on_touched)}")
        block.wheres.append(f"({f}.e is not null or {g}.e is not null)")
        for term, place in zip(clause.terms, "ev"):
            if _is_var(term) and not self.is_bound(term, block):
                block.bound[term] = f"ifnull({f}.{place}, {g}.{place})"

    def _join_test(self, block: _Block, clause: _Test, needed: frozenset[str]) -> str:
        call, native = clause.call, self.shared.parsed.native
        is_flat = type(call.head) is str and len(call.args) <= GROUP_TERMS and not any(
            type(arg) is _Call for arg in call.args)
        if is_flat and (by_creation := _BY_CREATION.get(call.head)):
            return by_creation.join(self.expr(arg, block) for arg in call.args)
        condition = is_flat and (_among(self, call, block) or native and native.condition(self, call, block))
        if condition:
            return condition
        if call.head == "get-attr":
            return f"{self._python(call, block, 'py')} <> x'01'"
        return self._python(call, block, "py_test")

    def _python(self, call: _Call, block: _Block, function: str, binding: _Binding | None = None) -> str:
        vars = tuple(dict.fromkeys(_term_vars(call.args)))
        self.shared.calls.append((call, vars, binding))
        number = str(len(self.shared.calls) - 1)
        _bounded(list(vars), ARGUMENTS_MAX, f"variables in the call {_spelled(call)}")
        return f"{function}({', '.join([number, *(self.expr(var, block) for var in vars)])})"

    def _join_bind(self, block: _Block, clause: _Bind, needed: frozenset[str]) -> str | None:
        vars, is_scalar = clause.terms[1:], clause.name == "scalar"
        if is_scalar and self.is_bound(vars[0], block):
            return f"{self._python(clause.call, block, 'py')} = {self.expr(vars[0], block)}"
        if is_scalar and vars[0] not in needed and not vars[0].startswith("? "):
            block.bound[vars[0]] = self._python(clause.call, block, "py")
            return None
        name = self.shared.name("j")
        rows = f"json_each({self._python(clause.call, block, 'py_json', clause.binding)}) {name}"
        return self.add(block, rows, vars, _json_places(f"{name}.value", len(vars)))

    def _join_not(self, block: _Block, clause: _Not, needed: frozenset[str]) -> str | _Block:
        clauses, = clause.inside
        if self.shared.is_simple(clauses):
            return f"not {self._exists(block, clauses)}"
        block = self.stage(block, needed | clause.vars, numbered=True)
        stage, row = _alias(block), _fresh("row")        # a variable, since a rule inside makes a stage of its own
        inner = _Block(block.froms, {**block.bound, row: f"{stage}.id"}, block.owners, block.kinds)
        inner = self.join(inner, clauses, {row})
        name = self.text.table(self.shared.name("n"), ["id"], inner.sql([inner.bound[row]]))
        block.wheres.append(f"{stage}.id not in (select id from {name})")
        return block

    def _exists(self, block: _Block, clauses: tuple[_Clause, ...]) -> str:
        """The condition that these clauses hold, for clauses that fit inside a SELECT."""
        inner = self.join(_Block((), block.bound, block.owners, block.kinds), clauses, ())
        is_test = inner.wheres and not inner.froms
        return f"({_all_of(inner.wheres)})" if is_test else f"exists ({inner.sql(['1'])})"

    def _join_or(self, block: _Block, clause: _Or, needed: frozenset[str]) -> str | _Block:
        fresh = sorted(var for var in clause.binds if not self.is_bound(var, block))
        if not fresh and all(map(self.shared.is_simple, clause.inside)):
            return f"({_joined_by(' or ', [self._exists(block, branch) for branch in clause.inside])})"
        before = self.stage(block, needed | clause.vars, numbered=self.is_bag)
        stage, row = _alias(before), _fresh("row")
        kept = [var for var in before.bound if var in needed]
        columns = kept + [var for var in fresh if var in needed or self.is_bag]
        owned = [var for var in kept if var in before.owners]
        start = {**before.bound, row: f"{stage}.id"} if self.is_bag else before.bound
        selects, one_each = [], copy.copy(self)
        one_each.is_bag = False       # a branch gives each binding once
        for branch in clause.inside:
            inner = one_each.join(_Block(before.froms, start, before.owners, before.kinds), branch, {*columns, row})
            exprs = [self.expr(var, inner) for var in columns] + [part for var in owned for part in inner.owners[var]]
            selects.append(inner.sql(exprs + ([inner.bound[row]] if self.is_bag else [])))
        sql = f"select distinct * from ({selects[0]})" if len(selects) == 1 else \
            _joined_by(" union ", selects, UNION_TERMS, "select * from ({})")
        return self._staged(sql, columns, owned, self.is_bag, before.kinds)

    def stage(self, block: _Block, needed: Iterable[str], numbered: bool = False) -> _Block:
        """The rows so far as a table, with the columns that are needed later."""
        columns = [var for var in block.bound if var in needed]
        owned = [var for var in columns if var in block.owners and len(columns) < COLUMNS_MAX // 4]
        exprs = [block.bound[var] for var in columns] + [part for var in owned for part in block.owners[var]]
        sql = block.sql(exprs, distinct=not self.is_bag)
        if numbered:
            sql = f"select {'*, ' if exprs else ''}row_number() over () from ({sql})"
        return self._staged(sql, columns, owned, numbered, block.kinds)

    def _staged(self, sql: str, columns: list[str], owned: list[str], numbered: bool, kinds: dict) -> _Block:
        names = _numbered("c", len(columns)) + [f"{part}{i}" for i in range(len(owned)) for part in "pkn"]
        names += ["id"] if numbered else [] if names else ["one"]
        self.text.stages += 1
        if self.text.stages <= STAGES_IN_A_STATEMENT:
            name = table = self.text.table(self.shared.name("s"), names, sql)
        else:         # a temporary table, filled before: SQLite copies others for each that refers to them
            name, self.text.stages = f"stage{next(_fresh_numbers)}", 0
            table = f"temp.{name} {name}"
            self.shared.tables.append((name, (f"create temp table if not exists {name}({', '.join(names)})",)))
            self.before += [_Statement(f"delete from temp.{name}", (), 0, False),
                            self.text.statement(f"insert into temp.{name} {sql}")]
        bound = {var: f"{name}.c{i}" for i, var in enumerate(columns)}
        owners = {var: tuple(f"{name}.{part}{i}" for part in "pkn") for i, var in enumerate(owned)}
        return _Block([table], bound, owners, kinds)

    _JOIN: dict[type, Callable] = {
        _In: _join_in, _Triple: _join_triple, _Test: _join_test, _Bind: _join_bind,
        _Not: _join_not, _Or: _join_or,
        _Search: lambda joiner, block, clause, needed: _sibling("store_text").join(joiner, block, clause),
        _RuleCall: lambda joiner, *call: joiner.shared.rules.join(joiner, *call)}


_BY_CREATION = {"created-before": " < ", "created-after": " > "}        # entities, by their numbers
# Name → whether numbers are equal whatever their type, and what negates it.
_EQUALITIES = {"=": (True, ""), "not=": (True, "not "), "==": (False, ""), "!=": (False, "not ")}


def _among(joiner: _Joiner, call: _Call, block: _Block) -> str | None:
    """The condition that a value is one of a set, where an equality is with a set; None of another call."""
    sets = [arg for arg in call.args if _is_set(joiner, arg)] if call.head in _EQUALITIES else []
    if len(sets) != 1 or len(call.args) != 2:
        return None
    (values,), (is_numeric, negation), (one, other) = sets, _EQUALITIES[call.head], call.args
    spec = ("any", tuple(values.value)) if type(values) is _Const else ("any_in", *joiner.scalars[values][1:])
    x, members = joiner.expr(one if other is values else other, block), joiner.text.param(*spec, is_numeric)
    return f"{negation}({x} in (select {_J} from json_each({members}) j))"


def _is_set(joiner: _Joiner, arg: Any) -> bool:
    if type(arg) is _Const:
        return type(arg.value) in (set, frozenset)
    return joiner.scalars.get(arg) in joiner.shared.inputs.sets


def _alias(stage: _Block) -> str:
    """What a stage is called in a statement."""
    return stage.froms[0].split()[-1]


# A rule that neither recurses nor stands for more than EXPANDED_MAX clauses is replaced by what it says. One that calls
# itself once in each definition is a recursive table in the statement. All others are derived by store_rules.py.


class _Rules:
    """The rules of a query."""

    def __init__(self, shared: _Compilation):
        self.shared, self.definitions, self.groups = shared, shared.parsed.rules, _tabled_groups(shared.parsed.rules)
        self.fillings: dict[frozenset, Any] = {}        # of groups of rules that store_rules.py derives

    def expand(self, clauses: Iterable[_Clause], is_bag: bool = False) -> tuple[_Clause, ...]:
        """The clauses with calls of rules that have no table replaced by what they say."""
        made: list[_Clause] = []
        for clause in clauses:
            if clause.inside:
                made.append(clause.rebuilt(lambda term: term, lambda inner: self.expand(inner, is_bag)))
            elif type(clause) is not _RuleCall or clause.name in self.groups:
                made.append(clause)
            else:
                definitions = self.definitions[clause.name]
                branches = tuple(self.expand(_called(definition, clause)) for definition in definitions)
                made += branches[0] if len(branches) == 1 and not is_bag else \
                    [_Or(clause.source, clause.terms, branches, clause.required)]
        return tuple(made)

    def join(self, joiner: _Joiner, block: _Block, clause: _RuleCall, needed: frozenset[str]) -> _Block:
        """A call of a rule that has a table."""
        bound = [i for i, arg in enumerate(clause.terms) if joiner.is_bound(arg, block)]
        if joiner.turn and clause.name in joiner.turn.filling.group:
            return joiner.turn.join(self, joiner, block, clause, bound)
        if block.froms and bound:
            block = joiner.stage(block, needed | clause.vars, numbered=joiner.is_bag)
        seeds = ""
        if bound:                     # the arguments that the rule is called with, as a table
            asking = self.asking(joiner, block, [clause.terms[i] for i in bound])
            seeds = joiner.text.table(self.shared.name("q"), _numbered("c", len(bound)), asking)
        table = self._linear(joiner, clause, bound, seeds) or \
            _sibling("store_rules").table_of(self, joiner, clause.name, bound, seeds)
        return self.join_table(joiner, block, clause, table)

    def join_table(self, joiner: _Joiner, block: _Block, clause: _RuleCall, table: str, condition: str = "") -> _Block:
        r = self.shared.name("r")
        if condition:
            block.wheres.append(condition.format(r))
        joiner.add(block, f"{table} {r}", clause.terms, _numbered(f"{r}.c", len(clause.terms)))
        return block

    def asking(self, joiner: _Joiner, block: _Block, args: list, *more: str) -> str:
        """The SELECT of some arguments, one row for each of a set of constants."""
        asking, exprs = _Block(block.froms), []
        asking.wheres = block.wheres
        for arg in args:
            if type(arg) is _AnyOf:
                j = self.shared.name("j")
                asking.froms.append(f"json_each({joiner.text.param('any', arg.values)}) {j}")
                exprs.append(_FROM_JSON.format(f"{j}.value"))
            else:
                exprs.append(joiner.expr(arg, block))
        return asking.sql([*exprs, *more], distinct=True)

    # Recursive tables

    def _linear(self, joiner: _Joiner, clause: _RuleCall, bound: list[int], seeds: str) -> str | None:
        """The table of a rule that calls itself at most once in each definition; None for others.

        A definition is (head, the call of itself or None, the other clauses).
        """
        definitions = self.definitions[clause.name]
        if all(call.name != clause.name for d in definitions for call in _rule_calls(d.clauses)):
            return None
        split: list[Any] = [(d.head, *(self._split(self.expand(d.clauses), clause.name) or (None, None)))
                            for d in definitions]
        loops, bases = [d for d in split if d[1]], [d for d in split if not d[1]]
        if not (bases and loops) or len(split) > UNION_TERMS or any(rest is None for _, _, rest in split):
            return None
        kept = [i for i in bound if all(call.terms[i] == head[i] for head, call, _ in loops)]
        if (kept or not bound) and clause.required <= set(kept):
            return self._grown(joiner, len(clause.terms), bases + loops, bound, kept, seeds)
        free = [i for i in range(len(clause.terms)) if i not in bound]
        is_last = all(call.terms[i] == head[i] and head[i] not in _mentioned(rest)
                      for head, call, rest in loops for i in free)
        reached = [(call, *_reached(rest, [head[i] for i in bound])) for head, call, rest in loops]
        if not is_last or any(left or not found.issuperset(_term_vars(call.terms[i] for i in bound))
                              for call, found, left in reached):
            return None
        return self._walked(joiner, bases, loops, bound, len(clause.terms), seeds)

    def _split(self, clauses: tuple[_Clause, ...], name: str) -> tuple[_RuleCall | None, tuple] | None:
        """(the one call of itself or None, the other clauses), or None where a recursive table cannot say it."""
        calls = [c for c in clauses if type(c) is _RuleCall]
        rest = tuple(c for c in clauses if type(c) is not _RuleCall)
        if len(calls) > 1 or len(self.groups[name]) > 1 or not self.shared.is_simple(rest) or any(
                call.name != name or not all(_is_var(arg) or type(arg) is _Const for arg in call.terms)
                for call in calls):
            return None
        return (calls[0] if calls else None), rest

    def _grown(self, joiner: _Joiner, width: int, definitions: list[tuple], bound: list[int], kept: list[int],
               seeds: str) -> str:
        """A recursive table. Arguments that every call hands on unchanged restrict where it begins."""
        table, x, inner = self.shared.name("g"), self.shared.name("x"), self._inside(joiner)
        selects = []
        for head, call, clauses in definitions:
            if call:
                block = _Block()
                inner.add(block, f"{table} {x}", call.terms, _numbered(f"{x}.c", width))
            else:
                block = _Block([seeds] if kept else (), {head[i]: f"{seeds}.c{bound.index(i)}" for i in kept})
            block = inner.join(block, clauses, head)
            selects.append(block.sql([inner.expr(var, block) for var in head]))
        return joiner.text.table(table, _numbered("c", width), " union ".join(selects), is_recursive=True)

    def _walked(self, joiner: _Joiner, bases: list[tuple], loops: list[tuple], bound: list[int], width: int,
                seeds: str) -> str:
        """For a call that comes last (`walk` in bench/store.py): where each seed leads, then what holds there."""
        path, x, inner = self.shared.name("t"), self.shared.name("x"), self._inside(joiner)
        starts, ends = [f"s{i}" for i in bound], [f"c{i}" for i in bound]
        selects = [f"select {', '.join(_numbered('c', len(bound)) * 2)} from {seeds}"]
        for head, call, clauses in loops:
            block = _Block([f"{path} {x}"], {head[i]: f"{x}.c{i}" for i in bound})
            block = inner.join(block, clauses, [arg for arg in call.terms if _is_var(arg)])
            selects.append(block.sql([f"{x}.{s}" for s in starts] + [inner.expr(call.terms[i], block) for i in bound]))
        joiner.text.table(path, starts + ends, " union ".join(selects), is_recursive=True)
        selects = []
        for head, _, clauses in bases:
            block = _Block([f"{path} {x}"], {head[i]: f"{x}.c{i}" for i in bound})
            block = inner.join(block, clauses, head)
            columns = [f"{x}.s{i}" if i in bound else inner.expr(head[i], block) for i in range(width)]
            selects.append(block.sql(columns, distinct=True))
        return joiner.text.table(self.shared.name("g"), _numbered("c", width), " union ".join(selects))

    def _inside(self, joiner: _Joiner) -> _Joiner:
        """For the clauses of a rule in the same statement: it sees no argument of the query, and its rows are a set."""
        return _Joiner(self.shared, joiner.before, text=joiner.text)


def _called(definition: _Definition, call: _RuleCall) -> tuple[_Clause, ...]:
    """The clauses of a rule with a call's arguments for the head's variables, and fresh ones for all others."""
    computed = _mentioned(clause for clause in definition.clauses if not isinstance(clause, _Triple))
    names: dict[str, Any] = {}
    tests: list[_Clause] = []
    for var, arg in zip(definition.head, call.terms):
        if _is_var(arg) or type(arg) is _Const and var not in computed:
            names[var] = arg
        else:
            names[var] = _fresh(var[1:])
            if type(arg) is _Const:
                tests.append(_identical_to(call.source, arg, names[var]))
            else:
                is_any = _Call("==", (names[var], _Const(set(arg.values))))
                tests.append(_Test(call.source, (is_any,), required=_FIRST))
    return (*tests, *_renamed(_localised(definition.clauses, definition.head), names))


def _tabled_groups(rules: dict) -> dict[str, frozenset[str]]:
    """Rule → the rules that call each other with it, for those that can come back to themselves.

    Rules that would be replaced by more than EXPANDED_MAX clauses get a table, too: else rules that call each other
    twice would make twice as many clauses with each level.
    """
    reach = {name: {call.name for d in definitions for call in _rule_calls(d.clauses)}
             for name, definitions in rules.items()}
    for middle in rules:
        for name in rules:
            if middle in reach[name]:
                reach[name] |= reach[middle]
    groups = {name: frozenset(other for other in rules if other in reach[name] and name in reach[other])
              for name in rules if name in reach[name]}
    for name, group in groups.items():
        for clause, around in _every(part for definition in rules[name] for part in definition.clauses):
            if type(clause) is _RuleCall and clause.name in group and any(type(outer) is _Not for outer in around):
                raise QueryError(f"The rule {name} depends on its own negation: {_short(clause.source)} stands inside "
                                 "a \"not\".")
    weights = dict.fromkeys(groups, 1)
    for name in sorted((name for name in rules if name not in groups), key=lambda name: len(reach[name])):
        clauses = [clause for definition in rules[name] for clause, _ in _every(definition.clauses)]
        weights[name] = 1 + sum(weights[clause.name] if type(clause) is _RuleCall else 1 for clause in clauses)
        if weights[name] > EXPANDED_MAX:
            groups[name], weights[name] = frozenset((name,)), 1
    return groups


class _Shaper:
    """Makes the plan of a query: what SQL brings, and in which shape.

    Where a join only goes on to see what an entity says, its document tells: it is in memory, and the index would have
    to be searched once a row. SQL finds the entities, and these *late* triples are read afterwards.
    """

    def __init__(self, shared: _Compilation, steps: list | None):
        self.shared, self.parsed = shared, shared.parsed
        self._before: list = []
        self._index: Any = None        # the clause of a composite index that the search begins with
        source, (scalars, twice) = self.parsed.source.get("in", []), _scalars(self.parsed.ins)
        self.given: list[_Clause] = [             # the arguments that are clauses
            _In(source, binding.vars, name=binding.shape, place=place)
            for place, binding in enumerate(self.parsed.ins) if binding.shape not in ("scalar", "tuple", "source")]
        self.given += [_identical_to(source, name, var) for name, var in twice]
        self.joiner = _Joiner(shared, self._before, scalars, self.parsed.is_bag, sizes=dict(shared.inputs.sizes))
        self.joiner.steps = steps

    def plan(self) -> _Plan:
        shared, parsed, joiner = self.shared, self.parsed, self.joiner
        where = self._where = shared.rules.expand(parsed.where, parsed.is_bag)
        totals = self._totals(where)
        late = () if shared.is_over or totals or parsed.counted is not None else self._late(where)
        self._choose_index(where)
        index, replaced = ([self._index], self._index.replaced) if self._index else ([], ())
        late = tuple(clause for clause in late if clause not in replaced)
        joined = self.given + index + [clause for clause in where if clause not in (*late, *replaced)]
        asked = self._asked(late)
        first = joiner.walked[0] or self._index or (parsed.native and parsed.native.walked(self, where))
        is_fixed = first is not None and not late and {var for var, *_ in parsed.watched} <= first.vars
        block = joiner.join(_Block(), joined, asked, first)
        if totals:
            return totals.plan(self, block if parsed.counted is None else joiner.stage(block, asked), where)
        row, exprs, reads = self._row(block, late)
        order = self._order(block, late)
        is_ordered = bool(order or block.is_walked)
        is_cut = parsed.limit is not None and not (late or parsed.order and not is_ordered or parsed.is_grouped)
        limit = f" limit {joiner.text.param('limit')}" if is_cut else ""
        found = row.columns.keys() | row.numbers.keys()
        repeats = not (parsed.is_bag or self._is_one_each(joined, found))
        is_distinct = repeats and self._is_worth_distinct(block, joined, found)
        is_direct = {find.kind for find in parsed.find} <= {"var", "pull"} and (is_ordered or not parsed.order) \
            and (is_cut or parsed.limit is None)
        if is_direct and not shared.is_over:
            row = row._replace(values=self._as_values(block, row, exprs))
        arms = self._arms(block, exprs, order, limit) if order else ()
        columns = [f"+{x}" for x in exprs] if is_distinct else exprs     # else SQLite may walk all for the order of one
        main = joiner.text.statement(block.sql(columns, is_distinct) + order + limit)
        is_alone = is_direct and not (shared.tables or shared.calls or shared.is_over)
        all_found = found | {read.v for read in reads}
        plan = _Plan(*self.common(where), main, row, arms, late=reads, is_direct=is_direct,
                     is_simple=is_alone and not arms,
                     is_whole=is_direct and not (late or arms) and self._is_whole(row),
                     late_repeats=not parsed.is_bag and (repeats or not self._shows(all_found)),
                     repeats=repeats and not is_distinct, is_grouped=parsed.is_grouped, is_ordered=is_ordered,
                     is_fixed=is_fixed)
        first, unless = (arms[0], arms[2].sql) if arms else (main, "")
        quick = self.quick(first, self._finish(block, plan), plan.repeats, unless) if is_alone and not late else None
        return plan._replace(quick=quick)

    def _totals(self, where: tuple[_Clause, ...]) -> Any:
        """How SQL makes the aggregates; None where Python makes them."""
        return self.parsed.native.totals_of(self, where) if self.parsed.native and self.parsed.is_grouped else None

    def _choose_index(self, where: tuple[_Clause, ...]) -> None:
        """A search of texts, or else a composite index, may be what all else begins with."""
        parsed, joiner, file = self.parsed, self.joiner, self.shared.file
        if any(isinstance(clause, _Search) for clause in _all_clauses(where, parsed.rules)):
            joiner.walked = _sibling("store_text").beginning(where, joiner)
        schema = None if self.shared.is_over or joiner.walked[0] else file.index.schema
        if schema and schema.composites:
            self._index = _sibling("store_schema").best_index(schema, where, parsed, joiner, self.kinds_of)

    def _asked(self, late: tuple[_Triple, ...]) -> set[str]:
        """The variables that SQL is to bring: of find, of the order, and the entities of what documents answer."""
        asked = {var for find in self.parsed.find for var in _find_vars(find)} | {c.e for c in late}
        asked |= {var for var, _ in self.parsed.order if type(var) is str}
        return asked - {c.v for c in late} | {*(self.parsed.counted or ())}

    def _is_worth_distinct(self, block: _Block, joined: list[_Clause], found: Iterable[str]) -> bool:
        """Whether SQL is to leave out equal rows, where some may be."""
        calls_rules = any(type(clause) is _RuleCall for clause in self.parsed.where)
        return calls_rules or len(block.froms) > 1 and not self._repeats_seldom(joined, found)

    def _is_whole(self, row: _Row) -> bool:
        """Whether rows are answers as they come: their columns are those of find, and hold values."""
        parsed = self.parsed
        return not (parsed.is_bare or parsed.names) and all(find.kind == "var" for find in parsed.find) and \
            [row.columns[find.term] for find in parsed.find] == list(range(row.width)) == sorted(row.values)

    def _shows(self, vars: Iterable[str]) -> bool:
        """Whether find has each of these variables by itself."""
        return {find.term for find in self.parsed.find if find.kind == "var"}.issuperset(vars)

    def common(self, where: tuple[_Clause, ...]) -> tuple[tuple, tuple, list, tuple, tuple, list]:
        """The first fields of a plan."""
        triples = [clause for clause in _all_clauses(where, self.parsed.rules) if isinstance(clause, _Triple)]
        named = [] if self.shared.is_over else [t for t in triples if t.a]       # what is supposed is in no statistics
        vain = tuple(triple for triple in named if self._is_vain(triple))
        return (tuple(self._before), tuple(self.shared.tables), self.shared.calls,
                tuple(dict.fromkeys(triple.a for triple in triples)), vain, self.shared.notes)

    def _is_vain(self, triple: _Triple) -> bool:
        """Whether a triple finds nothing: no document has its attribute, or its value's type in that attribute."""
        kinds, v = self.shared.kinds(triple.a), triple.v
        if not kinds and triple.a.startswith(":"):
            raise QueryError(f"The clause {_short(triple.source)} has {_short(triple.a)} for its attribute, which no "
                             f"document has; attributes are plain strings: {_short(triple.a[1:])}.")
        return not kinds or type(v) is _Const and not kinds & _kind_of(v.value)

    # What is read from documents (`join`, `q2` and `q4` in bench/store.py)

    def _late(self, where: tuple[_Clause, ...]) -> tuple[_Triple, ...]:
        """Triples that the documents answer: they bring a value to be found, or an entity for others of them.

        Each stands behind the one that brings its entity. A triple rarer than SQL's starting clause stays in SQL, so
        that the search can start with it; so does one whose value SQL should order by.
        """
        parsed, triples = self.parsed, [c for c in where if type(c) is _Triple]
        given = _Block((), {var: "" for binding in parsed.ins for var in binding.vars})
        cost = lambda clause: self.joiner.triple_cost(clause, given)
        read = self._readable(where, triples)
        least = min((cost(c) for c in triples if c not in read), default=math.inf)
        read = self._readable(where, [c for c in read if cost(c) >= least])
        by = {parsed.find[target].term for target, _ in parsed.order if type(target) is int}
        if parsed.limit is not None and any(c.v in by for c in read):
            return ()
        known = {c.e for c in triples if _is_var(c.e) and c not in read}
        late = []
        for clause in read:
            if clause.e in known:
                late.append(clause)
                known.add(clause.v)
        return tuple(late)

    def _readable(self, where: tuple[_Clause, ...], triples: list[_Triple]) -> list[_Triple]:
        """Triples whose value only find asks for, and before these those whose value is only the entity of such."""
        uses = collections.Counter(var for clause in where for var in clause.vars)
        given = {var for binding in self.parsed.ins for var in binding.vars}
        barred = given | {var for var, _ in self.parsed.order if type(var) is str}
        barred |= {find.term for find in self.parsed.find if find.kind == "pull"}
        todo = [c for c in triples if _is_var(c.e) and _is_var(c.v) and c.e != c.v and c.e not in given
                and c.v not in barred and not c.v.startswith("? ")]
        bringing, of_entity = {c.v: c for c in todo}, collections.defaultdict[str, list](list)
        found, read = [c for c in todo if uses[c.v] == 1], list[_Triple]()
        while found:
            read[:0] = found
            for c in found:
                of_entity[c.e].append(c)
            entities = [e for e in dict.fromkeys(c.e for c in found) if e in bringing]
            found = [bringing[e] for e in entities if self._is_followed(of_entity[e], uses[e])]
        return read

    def _is_followed(self, of_it: list[_Triple], uses: int) -> bool:
        """Whether a value is but the entity of triples that are read from documents, few enough to be in memory."""
        index = self.shared.file.index
        return self.shared.mode == _NOW and self.parsed.limit is None and len(of_it) == uses - 1 and \
            all(index.puts.get(index.attributes.get(c.a), 0) <= FOLLOWED_MAX for c in of_it)

    # Columns

    def _row(self, block: _Block, late: tuple[_Triple, ...]) -> tuple[_Row, list[str], tuple[_Read, ...]]:
        """What SQL brings, and where: documents' numbers for what is pulled or read, else the variables."""
        finds, late_values = self.parsed.find, {c.v for c in late}
        pulled = {find.term for find in finds if find.kind == "pull"} | {c.e for c in late} - late_values
        plain = [var for find in finds if find.kind != "pull" or self.parsed.is_grouped for var in _find_vars(find)]
        plain += [var for var, _ in self.parsed.order if type(var) is str] + list(self.parsed.counted or ())
        plain += sorted(pulled - block.owners.keys())
        numbers = {var: i for i, var in enumerate(sorted(pulled & block.owners.keys()))}
        shown = [var for var in dict.fromkeys(plain) if var not in late_values]
        columns = {var: len(numbers) + i for i, var in enumerate(shown)}
        exprs = [block.owners[var][2] for var in numbers] + [self.joiner.expr(var, block) for var in shown]
        places = {c.v: len(exprs) + i for i, c in enumerate(late)} | numbers
        reads = tuple(_Read(places[c.e], c.e in numbers, c.a, c.v) for c in late)
        return _Row(columns, numbers, frozenset(), len(exprs)), exprs, reads

    def _as_values(self, block: _Block, row: _Row, exprs: list[str]) -> frozenset[int]:
        """Turns cells into values in SQL, where the statistics know only short texts, or only small whole numbers."""
        for var, place in row.columns.items():
            if block.kinds.get(var) == _SMALL_KIND:
                exprs[place] += f" + {_SHIFT}"
        are_values = _SMALL_KIND, _TEXT_KIND
        return frozenset(place for var, place in row.columns.items() if block.kinds.get(var) in are_values)

    def _is_one_each(self, joined: list[_Clause], found: Iterable[str]) -> bool:
        """Whether no two rows can be equal: only triples and rules were joined, and each variable is found or given.

        An entity has one visible version, which has each value once, and the rows of a rule's table are different.
        """
        found = {*found, *self.joiner.scalars}
        for clause in joined:
            if not isinstance(clause, (_Triple, _RuleCall, _Test, _Not, _Search)) and clause is not self._index:
                return False
            if type(clause) not in (_Test, _Not, _Search) and (
                    any(type(term) is _AnyOf for term in clause.terms) or not clause.vars <= found):
                return False
        return not self.shared.is_over

    def _repeats_seldom(self, joined: list[_Clause], found: Iterable[str]) -> bool:
        """Whether rows are equal only if an entity has several values: SQL's DISTINCT takes as long as a short join."""
        known = {*found, *self.joiner.scalars}
        triples = [clause for clause in joined if type(clause) is _Triple]
        dropped = [clause.v for clause in triples if _is_var(clause.v) and clause.v not in known]
        return len(dropped) == len(set(dropped)) and all(type(clause) in (_Triple, _Test, _Not) for clause in joined) \
            and all(clause.e in known or not _is_var(clause.e) for clause in triples)

    # Order and limit

    def _order(self, block: _Block, late: tuple[_Triple, ...]) -> str:
        """ORDER BY where SQL orders as we do: by creation, or by values of one type that are not hashed."""
        parts, values, order = [], {c.v for c in late}, () if block.is_walked else self.parsed.order
        if self._index and self._index.is_page and block.first:
            parts, order = [f"{block.first[0]}.v{' desc' * order[0][1]}"], order[len(self._index.kinds):]
        for target, is_descending in order:
            if type(target) is int:
                find = self.parsed.find[target]
                if find.kind != "var" or find.term in values or self.kinds_of(find.term) not in _SORTABLE:
                    return ""
                target = find.term
            parts.append(self.joiner.expr(target, block) + (" desc" if is_descending else ""))
        return f" order by {', '.join(parts)}" if parts else ""

    def kinds_of(self, var: str, clauses: tuple[_Clause, ...] | None = None) -> int | None:
        """The types of cells that a variable may have; None if nobody knows: what is supposed is in no statistics."""
        if self.shared.is_over or any(var in binding.vars for binding in self.parsed.ins):
            return None
        kinds = _ANY_KIND
        for clause in self._where if clauses is None else clauses:
            if type(clause) is _Triple and var in clause.binds:
                kinds &= self.shared.kinds(clause.a if clause.v == var else "xt/id")
            elif type(clause) is _Or and var in clause.binds:
                each = (self.kinds_of(var, branch) for branch in clause.inside)
                kinds &= functools.reduce(operator.or_, (_ANY_KIND if some is None else some for some in each))
        return None if kinds == _ANY_KIND else kinds

    def _arms(self, block: _Block, exprs: list[str], order: str, limit: str) -> tuple[_Statement, ...]:
        """For the newest as of the past (`newest_then` in bench/store.py): live and closed versions, each in order."""
        is_past = self.shared.mode != _NOW and not self.shared.is_over
        if not (is_past and block.first and len(self.parsed.order) == 1 and limit):
            return ()
        f, place, a = block.first
        is_descending, key = order.endswith(" desc"), order.removeprefix(" order by ").removesuffix(" desc")
        by_sorting = f" order by +{key}" + " desc" * is_descending        # else SQLite walks all that ever ceased
        arms = []
        for part, by in ("live", order), ("closed", by_sorting):
            wheres = block.wheres.copy()
            wheres[place] = self.shared.seen(self.joiner.text, f, a, part)
            arms.append(self.joiner.text.statement(block.sql(exprs, wheres=wheres) + by + limit))
        any_closed = block.sql(["1"], wheres=wheres) + limit.replace("limit ", "limit 0 <> ")
        return *arms, self.joiner.text.statement(any_closed)

    # Answers without a run

    def _finish(self, block: _Block, plan: _Plan) -> Callable | None:
        """The function that makes an answer of the snapshot, the reader and a quick plan's rows.

        They must be the answer, or have the numbers of documents, the numbers of UUIDs, or values.
        """
        find, parsed, row = self.parsed.find[0], self.parsed, plan.row
        place = (row.numbers if find.kind == "pull" else row.columns).get(find.term)
        if plan.is_whole:
            return lambda db, reader, rows: rows
        if parsed.names or not parsed.is_bare or place != 0:
            return None
        if find.kind == "pull":
            return _quick_documents if find.pattern is _EVERYTHING else None
        if 0 in row.values:
            return lambda db, reader, rows: [row[0] for row in rows]
        if block.kinds.get(find.term) == _UUID_KIND:
            return lambda db, reader, rows: db._file.index.uuids_of([row[0] for row in rows], reader)
        return None

    def quick(self, main: _Statement, finish: Callable | None, repeats: bool = False,
              unless: str = "") -> _Quick | None:
        """The plan's one statement with its constants in place, if its other parameters are arguments."""
        parsed = self.parsed
        if finish is None:
            return None
        if repeats:
            finish = lambda db, reader, rows, finish=finish: finish(db, reader, list(dict.fromkeys(rows)))
        constants: list = []
        arguments: list = []
        ranges: list = []
        for kind, *rest in self.joiner.text.specs:
            constant, is_argument = None, kind == "in" and len(rest) == 1         # not a part of one
            if kind in ("from", "to") and rest[1] == _SMALL_KIND:
                ranges.append((4 + len(constants), rest[0], kind == "to", parsed.native.whole_bounds))
                is_argument = True
            elif is_argument:
                arguments.append((4 + len(constants), rest[0]))
            elif kind == "attribute":
                constant = self.shared.file.index.attributes.get(rest[0])
            elif kind == "limit":
                constant = (parsed.limit or 0) + parsed.offset
            elif kind == "value" and type(rest[0].value) in (str, int):
                constant = _CELL[type(rest[0].value)](rest[0].value)
            if constant is None and not is_argument or type(constant) is bytes:
                return None
            constants.append(constant)
        calls_run = "compare(" in main.sql or "member(" in main.sql
        is_all = 4 + len(constants) == main.highest and not parsed.offset and not calls_run
        return _Quick(main.sql, constants, tuple(arguments), tuple(ranges), finish, unless) if is_all else None


_SORTABLE = frozenset((0, _TEXT_KIND, _SMALL_KIND,
                       *(1 << tag[0] + 2 for tag in (_BOOL, _INT, _FLOAT, _DATETIME, _DATE, _TIME, _DELTA))))
_FLOAT_KIND = 1 << _FLOAT[0] + 2
_NUMBER_KINDS_EACH = _SMALL_KIND, _BIG_KIND, _FLOAT_KIND
_NUMBER_KINDS = _SMALL_KIND | _BIG_KIND | _FLOAT_KIND
_ANY_KIND = (1 << 1 + _LONG + 3) - 1
_OTHER_KINDS = _ANY_KIND & ~(_NUMBER_KINDS | _UUID_KIND)


def _known_spec(scalars: Mapping[str, tuple], arg: Any) -> tuple | None:
    """What an argument is bound to before the query runs, or None."""
    return ("value", arg) if type(arg) is _Const else scalars.get(arg)


# ── Datalog: the answer ──────────────────────────────────────────────────────────────────────────────────────
#
# SQL gives rows of cells. What is left is Python over these rows, some hundred at a time: values read from the cached
# documents, groups and expressions, an order that SQL cannot make, a page, pulls. `_Answers` is the one way from rows
# to answers, for `q` and for `lazy_q`.

_SETS = frozenset((set, frozenset))


def _answered(reader: _Reader, mode: str, db: Db, parsed: _Parsed, args: tuple, begun: Callable | None = None) -> list:
    """The answer of a query. `begun` is told of the run, which it may stop from another thread.

    What an application asks all day, by a text or an id, needs no run: a third less (bench/store.py, "user by email").
    """
    inputs = None
    if db._supposed is None and reader.run is None and begun is None:
        generation, plan = parsed.plans.get((mode, False, None), (None, None))
        if parsed.watched and (plan is None or generation is not db._file.index.generation):
            inputs = parsed.native.inputs_of(db._file.index, parsed, args, reader)
            generation, plan = parsed.plans.get((mode, False, inputs), (None, None))
        if plan is not None and plan.quick is not None and generation is db._file.index.generation:
            answer = _quickly(plan.quick, db, args, reader, mode, parsed.timeout_s)
            if answer is not None:
                return answer
    with _Run(db, reader, mode, parsed, args, inputs=inputs) as run:
        if begun is not None:
            begun(run)
        return _Answers(run).whole(run.rows())


def _quickly(quick: _Quick, db: Db, args: tuple, reader: _Reader, mode: str, timeout_s: float) -> list | None:
    """The answer, if each argument is a short text (its own cell), a UUID with a number, or a range's whole number."""
    parameters = [*db._bindings(mode), *quick.constants]
    for place, argument in quick.arguments:
        value = args[argument]
        cell = value if type(value) is str and len(value) <= TEXT_BYTES_MAX and value.isascii() else \
            db._file.index.number(value, reader) if type(value) is uuid.UUID else None
        if cell is None:
            return None
        parameters[place] = cell
    for place, tests, end, whole_bounds in quick.ranges:
        bounds = whole_bounds(args, tests)
        if bounds is None:
            return None
        parameters[place] = bounds[end]
    reader.deadline = time.monotonic() + timeout_s
    try:
        if quick.unless and reader.cursor.execute(quick.unless, parameters).fetchall():
            return None
        return quick.finish(db, reader, reader.cursor.execute(quick.sql, parameters).fetchall())
    except sqlite3.OperationalError as error:
        if str(error) != "integer overflow":          # `_Plan.spare` adds up beyond SQLite's numbers
            raise
        return None
    finally:
        reader.deadline = None


def _quick_documents(db: Db, reader: _Reader, rows: list[tuple]) -> list:
    young = db._file.documents.young
    try:
        return [_copied(young[row[0]][0]) for row in rows]
    except KeyError:
        return list(map(_copied, db._file.documents_of([row[0] for row in rows], reader)))


@contextlib.contextmanager
def _lazy(db: Db, parsed: _Parsed, args: tuple) -> Iterator[Iterator[Any]]:
    """The answers one by one, in one read transaction, until the block ends or the query's time is over."""
    with db._asking() as (reader, mode), _Run(db, reader, mode, parsed, args) as run, \
            contextlib.closing(_Answers(run).streamed()) as answers:
        yield answers


# One execution


class _Run:
    """One execution of a query on a reader, as a block: at its end the reader is as it was."""
    __slots__ = ("db", "reader", "mode", "parsed", "args", "file", "cells", "cell", "plan", "calls", "rounds", "filled",
                 "members", "bounded", "outer", "deadline", "is_stopped", "new_facts", "settled")

    def __init__(self, db: Db, reader: _Reader, mode: str, parsed: _Parsed, args: tuple, steps: list | None = None,
                 inputs: _Inputs | None = None):
        self.db, self.reader, self.mode, self.parsed, self.args = db, reader, mode, parsed, args
        for place in parsed.refs:
            if type(args[place]) is list:
                self.args = _sibling("store_parts").looked_up(self, place)
        self.file, self.outer, self.is_stopped = db._file, (reader.run, reader.deadline), False      # by another thread
        self.rounds: dict[int, int] = {}              # of each filling of rules' tables, so far
        self.new_facts = 0                            # new rows of rules' tables, so far
        self.settled: dict[int, int] = {}             # of each filling: how many there were when it had all its rows
        self.filled: set[str] = set()                 # these tables, and those of queries inside this one
        self.deadline = time.monotonic() + parsed.timeout_s
        if reader.deadline is not None and reader.deadline < self.deadline:
            self.deadline = reader.deadline           # of the query that asks this one
        self.members: dict[int, tuple] = {}           # of long arguments, by their place
        self.bounded: tuple | None = None             # the comparisons whose bounds were asked for last, and these
        self.cells = _Cells(db, reader, ())
        self.cell = self.cells.cell
        self.plan = plan = self._plan(steps, inputs)
        self.cells.attributes = plan.attributes if "" not in plan.attributes else \
            tuple(_sibling("store_parts").attributes_of(self))
        self.calls = _Calls(self)

    def _plan(self, steps: list | None, inputs: _Inputs | None) -> _Plan:
        """The compiled query, from memory unless statistics have changed: an empty store's plan suits no full one.

        With `steps` it is compiled anew, and they are told.
        """
        is_over, generation = self.db._supposed is not None, self.file.index.generation
        parsed, plans = self.parsed, self.parsed.plans
        is_plain = not (parsed.searched or parsed.sources) and _IMMUTABLE.issuperset(map(type, self.args))
        found = plans.get((self.mode, is_over, None)) if is_plain else None
        if found is not None and found[0] is generation and steps is None:
            return found[1]
        inputs = inputs or (_NO_INPUTS if is_plain and not parsed.watched else self._inputs())
        key = self.mode, is_over, None if inputs is _NO_INPUTS else inputs
        found = plans.get(key)
        if found is None or found[0] is not generation or steps is not None:
            try:
                plan = _Shaper(_Compilation(parsed, self.mode, self.file, is_over, inputs, self.deadline),
                               steps).plan()
            except RecursionError:
                raise QueryError("The query's rules lead too deep into each other to be planned; use fewer.") from None
            found = plans[key] = generation, plan
            if is_plain and plan.is_fixed:
                plans[self.mode, is_over, None] = found
            if plan.vain and (advice := _sibling_if_there("store_advice")):
                advice.tell(self.db._node._told, self.file, plan.vain)
        return found[1]

    def _inputs(self) -> _Inputs:
        """What the plan depends on of the arguments: which are sets, which are long, how many rows are in a range."""
        sizes = self.parsed.native.sizes(self) if self.parsed.native else []
        sizes += [(spec, _sibling("store_text").size(self, spec, is_counted))
                  for spec, is_counted in self.parsed.searched]
        sets = [("in", i) for i, arg in enumerate(self.args) if type(arg) in _SETS]
        modes = tuple((name, _sibling("store_parts").mode_of(self, name, self.args[place]))
                      for name, place in self.parsed.sources.items())
        return _Inputs(frozenset(sets), tuple(sizes), modes) if sets or sizes or modes else _NO_INPUTS

    def __enter__(self) -> Self:
        self.reader.run, self.reader.deadline = self, self.deadline
        self.cells.numbered = self.db._fill(self.reader)
        return self

    def __exit__(self, *_: object) -> None:
        reader, outer = self.reader, self.outer[0]
        reader.run, reader.deadline = self.outer
        if outer is not None:         # whose statement still reads: SQLite drops no table meanwhile
            outer.filled |= self.filled
        elif self.filled:
            reader.rest()
            with reader.unbroken():
                for table in self.filled:
                    reader.execute(f"drop table if exists temp.{table}")

    # Rows

    def rows(self) -> Iterable[tuple]:
        """Rows of cells: all of them, but where an answer may not need them all at once."""
        plan, is_page = self.plan, self.parsed.limit is not None
        if plan.is_simple and not (plan.late and is_page):
            return self.reader.cursor.execute(plan.main.sql, self._bound(plan.main)).fetchall()
        try:
            rows, is_streamed = self.found(), plan.is_grouped and not plan.totals or plan.late and is_page
            return rows if is_streamed or type(rows) is list else rows.fetchall()
        except sqlite3.OperationalError as error:
            if plan.spare is None or str(error) != "integer overflow":
                raise
            return self.execute(plan.spare).fetchall()

    def found(self) -> Any:
        """The same rows as they are found: a cursor, or a list."""
        if self.plan.tables:
            self.derive()
        main = self.plan.main
        return self._merged_arms() if self.plan.arms else self.reader.rows(main.sql, self._bound(main))

    def execute(self, statement: _Statement) -> sqlite3.Cursor:
        return self.reader.execute(statement.sql, self._bound(statement))

    def _bound(self, statement: _Statement) -> tuple:
        parameters = (*self.db._bindings(self.mode), *[bind(self) for bind in statement.binders])
        return parameters if len(parameters) == statement.highest else parameters[:statement.highest]

    def derive(self) -> None:
        """Fills the rules' tables."""
        outer = self.outer[0]
        while outer is not None:
            if outer.plan is self.plan:
                raise QueryError("The query asks itself, by a function of its own, while its rules' tables are in use.")
            outer = outer.outer[0]
        for table, made in self.plan.tables:
            with self.reader.unbroken():
                for statement in (*made, f"delete from temp.{table}"):
                    self.reader.execute(statement)
            self.filled.add(table)
        self.run_all(self.plan.before)

    def run_all(self, parts: Iterable[Any]) -> int:
        """Runs statements, and fillings of store_rules.py until a round brings nothing new; how many new facts came."""
        start, connection = self.new_facts, self.reader.connection
        for part in parts:
            if isinstance(part, _Statement):
                before = connection.total_changes
                self._fill_table(part)
                self.new_facts += connection.total_changes - before if part.derives else 0
            else:
                part.fill(self)
        return self.new_facts - start

    def _fill_table(self, statement: _Statement) -> None:
        """Runs an INSERT. The writer, who has a transaction to lose, reads first and writes what it found unbroken."""
        target = _INSERT.search(statement.sql)
        if self.reader is not self.file.writer or target is None:
            self.execute(statement)
            return
        sql = statement.sql.replace(target[0], "", 1)
        if rows := self.reader.execute(sql, self._bound(statement)).fetchall():
            with self.reader.unbroken():
                self.reader.connection.executemany(f"{target[0]}values ({_places(len(rows[0]))})", rows)

    def _merged_arms(self) -> list[tuple]:
        """The first rows of two ordered arms."""
        live, closed = [self.execute(statement).fetchall() for statement in self.plan.arms[:2]]
        if not closed:
            return live
        target, is_descending = self.parsed.order[0]
        place = self.plan.row.columns[target if type(target) is str else self.parsed.find[target].term]
        merged = sorted(live + closed, key=lambda row: _cell_order(row[place]), reverse=is_descending)
        return merged[:self.wanted()]

    def wanted(self) -> int | None:
        """How many rows the page takes, with those that it skips; None: all."""
        return None if self.parsed.limit is None else self.parsed.limit + self.parsed.offset


_INSERT = re.compile(r"insert (?:or ignore )?into temp\.\w+ ")


def _cell_order(cell: Cell) -> tuple:
    return (0, cell, "") if type(cell) is int else (1, 0, cell) if type(cell) is str else (2, 0, cell)


# What parameters are bound to


def _given_value(run: _Run, index: int, place: int | None = None) -> Any:
    """An argument, or one place of one that is a tuple."""
    value = run.args[index]
    if place is None:
        return value
    if type(value) not in (list, tuple):
        raise QueryError(f"Argument {index + 1} is {_short(value)}; "
                         f"{_shown(run.parsed.ins[index])} wants a list or tuple.")
    return value[place] if place < len(value) else None


def _rows_json(run: _Run, index: int) -> str:
    """A collection or relation, each row once, as one JSON parameter."""
    values, binding, given = run.args[index], run.parsed.ins[index], run.cells.given
    if isinstance(values, dict) and binding.shape == "collection":
        values = None
    rows = _rows(values, binding, lambda: f"Argument {index + 1} is {_short(run.args[index])}")
    wanted = dict.fromkeys(tuple(map(given, row)) for row in rows)
    return json.dumps([[_json_cell(cell) for cell in row] for row in wanted])


def _rows(value: Any, binding: _Binding, what: Callable[[], str],
          each: Callable[[Any], Iterable] = iter) -> list[tuple]:
    """The rows of a value that a binding takes apart, each as wide as the binding. `what` says where it came from."""
    width = len(binding.vars)
    if type(binding.shape) is tuple:
        return list(each(_sibling("store_parts").taken_apart(value, binding.shape, what)))
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise QueryError(f"{what()}; {_shown(binding)} wants a collection.")
    if binding.shape == "tuple":
        return [_padded(tuple(value), width)]
    rows = each(value.items() if isinstance(value, dict) else value)
    return [(row,) for row in rows] if binding.shape == "collection" else [_padded(row, width) for row in rows]


def _padded(row: Any, width: int) -> tuple:
    if not isinstance(row, (list, tuple)):
        raise QueryError(f"{_short(row)} is not a row of {width}; a relation is a collection of tuples.")
    return (*row[:width], *(None,) * (width - len(row)))


def _any_json(run: _Run, values: Iterable, with_twins: bool = False) -> str:
    every = (twin for value in values for twin in _twins(value)) if with_twins else values
    return json.dumps([_json_cell(run.cells.given(value)) for value in every])


def _json_cells(cells: Iterable) -> str:
    return json.dumps([_json_cell(cell) for cell in dict.fromkeys(cells) if cell is not None])


def _known_value(run: _Run, spec: tuple) -> Any:
    return spec[1].value if spec[0] == "value" else _given_value(run, *spec[1:])


_PARAMETER: dict[str, Callable] = {
    "value": lambda run, term: run.cells.given(term.value),
    "in": lambda run, index, place=None: run.cells.given(_given_value(run, index, place)),
    "rows": _rows_json,
    "any": _any_json,
    "any_in": lambda run, index, *rest: _any_json(run, _given_value(run, index, *rest[:-1]), rest[-1]),
    "attribute": lambda run, name: run.file.index.attribute(name, run.reader),
    "sought": lambda run, *spec: _sibling("store_text").sought(_known_value(run, spec)).match,
    "round": lambda run, number: run.rounds.get(number, 0),
    "n then": lambda run: run.file.point(run.db._bindings(run.mode)[2] + PAST).n,
    "limit": lambda run: -1 if run.wanted() is None else run.wanted(),
}


# Cells and values


class _Cells:
    """The cells of values, and the values of cells, for as long as a query lasts."""
    __slots__ = "db", "reader", "attributes", "hashed", "numbered", "is_private"

    def __init__(self, db: Db, reader: _Reader, attributes: tuple):
        self.db, self.reader, self.attributes = db, reader, attributes
        self.hashed: dict = {}                # hashed cells that came in, or were computed
        self.numbered: dict = {}              # UUIDs that came in: one that gets a number meanwhile stays what it was
        self.is_private = False               # whether a function gave something that no document can hold

    def cell(self, value: Any) -> Cell:
        """The cell of a value that came in or was computed."""
        kind = type(value)
        if kind is str and len(value) <= TEXT_BYTES_MAX and value.isascii():
            return value
        if kind is uuid.UUID:
            found = self.numbered.get(value)
            if found is None:
                found = self.numbered[value] = self.db._cell(value, self.reader)
            return found
        try:
            cell = _cell(value)
        except StoreError:                    # no document could hold it
            return self._private(value)
        if type(cell) is bytes and cell[0] >= _LONG:
            self.hashed[cell] = value
        return cell

    def given(self, value: Any) -> Cell:
        """The cell of a value that the query was given; one that only looks like those of documents is refused."""
        cell = self.cell(value)
        if type(cell) is bytes and cell[0] == 0xff and type(value) in _IMMUTABLE:
            try:
                _cell(value)
            except StoreError as error:
                raise QueryError(f"{_short(value)} cannot be asked for: no document can hold it. {error}") from None
        return cell

    def _private(self, value: Any) -> bytes:
        """A cell for something that cannot be stored, such as a function's result on its way to the next."""
        self.is_private = True
        cell = b"\xff" + len(self.hashed).to_bytes(4, "big")
        self.hashed[cell] = value
        return cell

    def value(self, cell: Any) -> Any:
        """The value of a cell; not to be handed out without copying."""
        kind = type(cell)
        if kind is str:
            return cell
        if kind is int:
            return self.db._file.index.uuid_of(cell, self.reader) if cell > 0 else cell + _SHIFT
        if cell[0] < _LONG:
            return _OF_CELL[cell[0]](cell)
        if cell not in self.hashed:
            self.hashed[cell] = self._hashed_value(cell)
        return self.hashed[cell]

    def values(self, cells: list) -> list:
        """The values of a column of cells, to be handed out: where they are of one type, in one pass."""
        value, file = self.value, self.db._file
        if len(cells) < 2:
            return [_copied(value(cell)) for cell in cells]
        kinds = set(map(type, cells))
        if kinds == {str}:
            return cells
        if kinds == {int} and min(cells) > 0:
            return file.index.uuids_of(cells, self.reader)
        if kinds == {int} and max(cells) < 0:
            return [cell + _SHIFT for cell in cells]
        if int in kinds:
            file.index.learn_uuids({cell for cell in cells if type(cell) is int and cell > 0}, self.reader)
        if bytes in kinds:
            self._learn_hashed({cell for cell in cells if type(cell) is bytes and _LONG <= cell[0] < 0xff})
        return [cell if type(cell) is str else _copied(value(cell)) for cell in cells]

    def keys(self, cells: list) -> list:
        """Cells as they tell values apart: of what no document can hold, the object itself."""
        if not self.is_private:
            return cells
        return [_key_of(self.value(cell)) if type(cell) is bytes and cell[0] == 0xff else cell for cell in cells]

    def _learn_hashed(self, cells: set[bytes]) -> None:
        """Brings the long values of these cells into memory, by one statement for each attribute that may have them."""
        find = f"select f.v, f.n from json_each(?) j cross join facts f where f.p in (0, 1) and f.a = ? and f.v = {_J}"
        for a in (*self.attributes, "xt/id"):
            missing = {cell for cell in cells if cell not in self.hashed}
            if len(missing) < 2:
                return
            number = self.db._file.index.attribute(a, self.reader)
            carriers = dict(self.reader.execute(find, (_json_cells(missing), number)).fetchall())
            for part in _batches(list(carriers.items())):
                for (cell, _), document in zip(part, self.db._contents([n for _, n in part], self.reader)):
                    self.hashed.update((cell, value) for value in _with_cell(cell, [document[a]] if document else ()))

    def _hashed_value(self, cell: bytes) -> Any:
        """A long value, from any version that carries it."""
        supposed, file = self.db._supposed, self.db._file
        contents = supposed.contents.values() if supposed is not None else ()
        for value in _with_cell(cell, (value for op in contents for value in unpack(op.data).values())):
            return value
        for a in (*self.attributes, "xt/id"):           # an entity stands for its id without a clause that names it
            row = self.reader.execute("select n from facts where p in (0, 1) and a = ? and v = ? limit 1",
                                      (file.index.attribute(a, self.reader), cell)).fetchone()
            document = self.db._content(row[0], self.reader) if row else None
            for value in _with_cell(cell, [document[a]] if document is not None else ()):
                return value
        raise CorruptError(f"{file.path}: the index holds a value that no document has; reindex.")


# Functions of a query


class _Calls:
    """The functions that a query calls: SQLite asks for those of its clauses, expressions of find for theirs."""
    __slots__ = "run", "functions"

    def __init__(self, run: _Run):
        self.run = run
        self.functions = [self.closure(call, vars) for call, vars, _ in run.plan.calls] if run.plan.calls else ()

    def call(self, number: int, cells: tuple) -> Cell:
        """A function of the query, called by SQLite: a cell."""
        return self.run.cell(self._called(number, cells))

    def test(self, number: int, cells: tuple) -> bool:
        return _is_true(self._called(number, cells))

    def call_json(self, number: int, cells: tuple) -> str:
        """The rows that a function's binding takes apart, as JSON."""
        result, cell = self._called(number, cells), self.run.cell
        call, _, binding = self.run.plan.calls[number]
        rows = [(result,)] if binding.shape == "scalar" else _rows(
            () if result is None else result, binding, lambda: f"{_short(call.head)} gave {_short(result)}", _distinct)
        return json.dumps([[_json_cell(cell(value)) for value in row] for row in rows])

    def _called(self, number: int, cells: tuple) -> Any:
        run = self.run
        result = self.functions[number]([_copied(run.cells.value(cell)) for cell in cells])
        if time.monotonic() > run.deadline:
            run.reader.look_at_clock()
        return result

    def closure(self, call: _Call, vars: tuple, made: Mapping[Any, int] = NOTHING) -> Callable:
        """A call as a function of the values of `vars`; `made` has the places of aggregates, by id of their term."""
        head, args, of = call
        if head == "q":
            args = _Const(_inheriting(args[0].value, self.run.parsed)), *args[1:]
        getters = [self.getter(arg, vars, made) for arg in args]
        if head == "get-attr":
            return _sibling("store_functions").get_attr(self.run, args, getters, self._snapshot(of))
        if head == "if" and len(getters) in (2, 3):
            test, then, other = (*getters, lambda values: None)[:3]
            return lambda values: then(values) if _is_true(test(values)) else other(values)
        function = functools.partial(self._subquery, self._snapshot(of)) if head == "q" else self.function(head, of)
        if head in _functions() and head not in self.run.db._node.functions:
            function = _named(function, call)
        if vars == args:
            return lambda values: function(*values)
        return lambda values: function(*[get(values) for get in getters])

    def getter(self, term: Any, vars: tuple, made: Mapping[Any, int] = NOTHING) -> Callable:
        """A term as a function of the values of `vars`."""
        if id(term) in made:
            return operator.itemgetter(made[id(term)])
        if type(term) is _Call:
            return self.closure(term, vars, made)
        if type(term) is not _Const:
            return operator.itemgetter(vars.index(term))
        value = term.value
        if type(value) is str and (value == "$" or value in self.run.parsed.sources):
            value = self._snapshot(value)
        return lambda values: value

    def _snapshot(self, name: str) -> Db:
        """The other snapshot of a name, or the query's own."""
        return self.run.args[self.run.parsed.sources[name]] if name in self.run.parsed.sources else self.run.db

    def function(self, head: Any, of: str = "") -> Callable:
        """The function that a name, a callable, or a variable that is bound to one stands for."""
        if _is_var(head):
            head = self._given(head)
        if callable(head):
            return head
        function = self.run.db._node.functions.get(head) or _functions().get(head)
        if function is None:
            raise _no_function(head)
        return functools.partial(function, self._snapshot(of)) if hasattr(function, "is_of_snapshot") else function

    def aggregate(self, head: Any) -> Callable:
        """The same for an aggregate."""
        head = head.value if type(head) is _Const else self._given(head) if _is_var(head) else head
        return _aggregates()[head] if type(head) is str and head in _aggregates() else self.function(head)

    def _given(self, var: str) -> Any:
        """The argument that a variable stands for: functions come in this way too."""
        if var not in (scalars := _scalars(self.run.parsed.ins)[0]):
            raise QueryError(f"{var} stands for a function, but no argument binds it. A tuple is a call; "
                             "several elements of find are a list.")
        return _known_value(self.run, scalars[var])

    def _subquery(self, db: Db, query: dict, *args: Any) -> Any:
        answers = db.q(query, *args)
        return None if answers == [] else answers


@contextlib.contextmanager
def _blaming(call: _Call, is_ours: bool = True) -> Iterator[None]:
    """Names the call in what a function of ours raises in the block; other people's errors stay theirs."""
    try:
        yield
    except QueryError as error:
        raise QueryError(f"{_spelled(call)}: {error}") from error
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, re.error) as error:
        if not is_ours or isinstance(error, StoreError):
            raise
        raise QueryError(f"{_spelled(call)} cannot be computed: {error}.") from error


def _named(function: Callable, call: _Call) -> Callable:
    """A function of ours, whose errors name the call."""
    def named(*args: Any) -> Any:
        try:
            return function(*args)
        except Exception as error:
            with _blaming(call):
                raise error
    return named


def _spelled(term: Any) -> str:
    """A call as it was written."""
    if type(term) is _Call:
        return f"({', '.join(_spelled(part) for part in (term.head, *term.args))})"
    return _short(term.value if type(term) is _Const else term)


# From rows to answers


class _Answers:
    """What SQL's rows become: values, groups, an order, a page, pulls, and the shape that find asks for.

    Beside the rows of a batch, `late` has a column for each value that was read from documents.
    """
    __slots__ = "run", "parsed", "plan", "late_places"

    def __init__(self, run: _Run):
        self.run, self.parsed, self.plan = run, run.parsed, run.plan
        self.late_places = {read.v: place for place, read in enumerate(run.plan.late)}

    def whole(self, rows: Any) -> list:
        """All answers, each once unless the query asks for a page."""
        plan, parsed = self.plan, self.parsed
        if plan.repeats:
            rows = list(dict.fromkeys(rows))
        if plan.is_whole:
            return rows[parsed.offset:] if parsed.offset else rows
        columns = plan.totals.columns(self.run.cells, rows) if plan.totals else \
            _Groups(self).columns(rows) if plan.is_grouped else self._selected(rows)
        if parsed.is_page:
            columns = self._page(columns)
        elif not plan.is_direct or plan.late and plan.late_repeats or self.run.cells.is_private:
            unique = _unique_rows(columns)
            if not any(find.kind == "pull" for find in parsed.find):
                return self._shaped(unique)
            columns = _as_columns(unique, columns)
        columns = self._pulled(columns)
        if self._may_repeat(columns):
            return self._shaped(_unique_rows(columns))
        return columns[0] if parsed.is_bare and not parsed.names else self._shaped(list(zip(*columns)))

    def streamed(self) -> Generator[Any, None, None]:
        """The answers as they are found, as far as the query allows that."""
        run, skip, left = self.run, self.parsed.offset, self.parsed.limit
        try:
            if self.plan.is_grouped or self.parsed.order and not self.plan.is_ordered:
                yield from self.whole(run.rows())
                return
            for batch in _batches(run.found(), 1):
                columns = self._columns(batch)
                found = len(columns[0])
                if skip or left is not None:
                    columns = [column[skip:None if left is None else skip + left] for column in columns]
                    skip, left = max(0, skip - found), None if left is None else left - len(columns[0])
                yield from self._shaped(list(zip(*self._pulled(columns))))
                if left == 0:
                    return
                run.reader.look_at_clock()
        except sqlite3.Error as error:
            run.reader.fail(error)

    def _selected(self, rows: Any) -> list[list]:
        """A column for each element of find, as long as the page needs; of a pull the numbers of documents, or ids."""
        is_enough = self.run.wanted() if self.plan.is_ordered or not self.parsed.order else None
        parts, found = [], 0
        for batch in _batches(rows):
            parts.append(self._columns(batch))
            found += len(parts[-1][0])
            if is_enough is not None and found >= is_enough:
                break
            self.run.reader.look_at_clock()
        joined = itertools.chain.from_iterable
        return parts[0] if len(parts) == 1 else \
            [list(joined(columns)) for columns in zip(*parts)] or [[] for _ in self.parsed.find]

    def _columns(self, batch: list[tuple]) -> list[list]:
        rows, late = self.with_late(batch)
        return [self.column(find, rows, late) for find in self.parsed.find]

    def column(self, find: _Find, rows: list[tuple], late: list[list]) -> list:
        if find.kind == "pull" and (place := self.plan.row.numbers.get(find.term)) is not None:
            return [row[place] for row in rows]
        return self.values(find.term, rows, late)

    def values(self, term: Any, rows: list[tuple], late: list[list]) -> list:
        """The values of a variable or of an expression, to be handed out."""
        if not _is_var(term):
            return self.evaluated(term, rows, late)
        place = self.plan.row.columns.get(term)
        if place is None:
            return late[self.late_places[term]]
        cells = [row[place] for row in rows]
        return cells if place in self.plan.row.values else self.run.cells.values(cells)

    def keys(self, var: str, rows: list[tuple], late: list[list]) -> list:
        """What tells the values of a variable apart, without decoding them where cells do."""
        place = self.plan.row.columns.get(var)
        if place is None:
            return list(map(_key_of, late[self.late_places[var]]))
        return self.run.cells.keys([row[place] for row in rows])

    def evaluated(self, term: Any, rows: list[tuple], late: list[list], made: Mapping[Any, list] = NOTHING) -> list:
        """An expression of each row. `made` has columns of parts of it, by their ids."""
        vars = tuple(dict.fromkeys(_outside(term) if made else filter(_is_var, _parts(term))))
        get = self.run.calls.getter(term, vars, {id: len(vars) + place for place, id in enumerate(made)})
        columns = [*[self.values(var, rows, late) for var in vars], *made.values()]
        return [get(values) for values in zip(*columns)] if columns else [get(()) for _ in rows]

    # Values that the documents bring

    def with_late(self, rows: list[tuple]) -> tuple[list[tuple], list[list]]:
        """The rows with columns of late values: a row whose document has none goes, several values make several."""
        late: list[list] = []
        documents: dict[int, list] = {}
        for read in self.plan.late:
            if read.place not in documents:
                documents[read.place] = self._documents_at(read, rows, late)
            try:
                column: list = [document[read.a] for document in documents[read.place]]
                is_flat = _IMMUTABLE.issuperset(map(type, column))
            except (KeyError, TypeError):           # an attribute, or an evicted document, is not there
                is_flat = False
            if not is_flat:
                kept, column = _spread(documents[read.place], read.a)
                rows = [rows[i] for i in kept]
                late = [[other[i] for i in kept] for other in late]
                documents = {place: [several[i] for i in kept] for place, several in documents.items()}
            late.append(column)
        return rows, late

    def _documents_at(self, read: _Read, rows: list[tuple], late: list[list]) -> list:
        """The documents of a column's entities, as the cache has them; None where there is none."""
        db, reader, width = self.run.db, self.run.reader, self.plan.row.width
        entities = [row[read.place] for row in rows] if read.place < width else late[read.place - width]
        return db._contents(entities, reader) if read.is_number else db._documents(entities, reader, self.run.mode)

    # Pages and shapes

    def _page(self, columns: list[list]) -> list[list]:
        parsed, wanted = self.parsed, self.run.wanted()
        if parsed.order and not self.plan.is_ordered:
            places = self._in_order(columns)[parsed.offset:wanted]
            return [[column[place] for place in places] for column in columns]
        if parsed.offset or wanted is not None and len(columns[0]) > wanted:
            return [column[parsed.offset:wanted] for column in columns]
        return columns

    def _in_order(self, columns: list[list]) -> Sequence[int]:
        """The places of the rows in the order that the query asks for; rows that are equal there stay as they came.

        Only the first places, where no more are wanted and nothing else is ordered by.
        """
        places: Sequence[int] = range(len(columns[0]))
        wanted = self.run.wanted() if len(self.parsed.order) == 1 else None
        for target, is_descending in reversed(self.parsed.order):
            if type(target) is str:
                raise QueryError(f"order-by (\"created\", {target}) cannot be combined with the rest of the order.")
            keys = _sort_keys(columns[target])
            try:
                if wanted is not None and wanted * 8 < len(places) and type(keys[0]) is not type(_Ordered(None)):
                    first = heapq.nlargest if is_descending else heapq.nsmallest
                    places = first(wanted, places, key=keys.__getitem__)
                else:                 # compares neighbours, hence finds values that cannot be compared
                    places = sorted(places, key=keys.__getitem__, reverse=is_descending)
            except TypeError as error:        # of tuples with values of different types
                raise QueryError(f"order-by cannot order these values: {error}.") from None
        return places

    def _pulled(self, columns: list[list]) -> list[list]:
        """The pulls of a page, level by level for many rows at once."""
        db, reader = self.run.db, self.run.reader
        for place, find in enumerate(self.parsed.find):
            if find.kind == "pull":
                puller, is_number, pulled = _Puller(db, reader, self.run.mode), find.term in self.plan.row.numbers, []
                for part in _batches(columns[place]):
                    level = db._contents(part, reader) if is_number else puller.level(find.pattern, part)
                    pulled += puller.pull_documents(find.pattern, level)
                columns[place] = pulled
        return columns

    def _may_repeat(self, columns: list[list]) -> bool:
        """Whether answers that should differ may be equal, since of different entities the same was pulled.

        An id without a document tells only who refers to it.
        """
        pulls = [(find, column) for find, column in zip(self.parsed.find, columns) if find.kind == "pull"]
        return not self.parsed.is_page and any(
            not find.is_telling or find.term not in self.plan.row.numbers and _looks_back(find.pattern)
            or column.count(None) > 1 for find, column in pulls)

    def _shaped(self, rows: list[tuple]) -> list:
        if self.parsed.names:
            return [dict(zip(self.parsed.names, row)) for row in rows]
        return [row[0] for row in rows] if self.parsed.is_bare else rows


def _with_cell(cell: bytes, values: Iterable) -> Iterator[Any]:
    """The values, or values in them, that a cell is the hash of."""
    return (item for value in values for item in _several(value)
            if (type(item) in _HASHED or isinstance(item, enum.Enum)) and _cell(item) == cell)


def _batches(rows: Any, first: int = BATCH_ROWS) -> Iterator[list]:
    """Rows in lists of at most BATCH_ROWS; the first may be short, for whoever waits for it."""
    if type(rows) is list and len(rows) <= first:
        yield rows
        return
    rows, size = iter(rows), first
    while batch := list(itertools.islice(rows, size)):
        yield batch
        size = min(2 * size, BATCH_ROWS)


def _spread(documents: list, a: str) -> tuple[list[int], list]:
    """The values that documents have of an attribute, each with its document's place."""
    kept: list[int] = []
    column: list = []
    for place, document in enumerate(documents):
        if document is not None and a in document:
            value = document[a]
            several = _distinct(value) if type(value) in _SEVERAL else (value,)
            kept += [place] * len(several)
            column += map(_copied, several)
    return kept, column


def _as_columns(rows: list[tuple], names: Iterable) -> list[list]:
    """The columns of some rows, one for each name even if there is no row."""
    return [list(column) for column in zip(*rows)] or [[] for _ in names]


def _unique_rows(columns: list[list]) -> list[tuple]:
    """The rows of some columns, each once. Where a column has one type, Python's equality is the store's."""
    if all(len(kinds) < 2 and _IMMUTABLE >= kinds for kinds in (set(map(type, column)) for column in columns)):
        return list(dict.fromkeys(zip(*columns)))
    found: dict = {}
    for row in zip(*columns):
        found.setdefault(tuple(map(_key_of, row)), row)
    return list(found.values())


def _key_of(value: Any) -> Any:
    """Something hashable that is equal exactly when the values are, and of one type."""
    kind = type(value)
    if kind in _IMMUTABLE:
        return kind, value
    try:
        return kind, pack(value)
    except StoreError:
        return kind, id(value)


def _distinct(values: Any) -> list:
    """The values of a collection, each once."""
    return list({_key_of(value): value for value in values}.values())


# Groups


class _Groups:
    """Groups the bag of all bindings by the variables outside aggregates, and keeps of it what these need."""

    def __init__(self, answers: _Answers):
        self._answers, self._finds = answers, answers.parsed.find
        self._outside = list(dict.fromkeys(var for find in self._finds for var in _outside(find.term)))
        terms = [part for find in self._finds for part in _parts(find.term) if _is_aggregate(part)]
        self._aggregates = {id(term): _Aggregate(term, answers) for term in terms}
        self._first_rows: dict[Any, tuple] = {}      # of each group: the row and its late values

    def columns(self, rows: Iterable[tuple]) -> list[list]:
        """One row a group, as columns of find."""
        answers = self._answers
        for batch in _batches(rows):
            batch, late = answers.with_late(batch)
            columns = [answers.keys(var, batch, late) for var in self._outside]
            keys = columns[0] if len(columns) == 1 else list(zip(*columns)) or [()] * len(batch)
            for place, key in enumerate(keys):
                if key not in self._first_rows:
                    self._first_rows[key] = batch[place], [column[place] for column in late]
            for aggregate in self._aggregates.values():
                aggregate.add(keys, batch, late)
            answers.run.reader.look_at_clock()
        first_rows = [row for row, _ in self._first_rows.values()]
        late = _as_columns([tuple(late) for _, late in self._first_rows.values()], answers.late_places)
        return [self._column(find, first_rows, late) for find in self._finds]

    def _column(self, find: _Find, rows: list[tuple], late: list[list]) -> list:
        inside = [id(part) for part in _parts(find.term) if id(part) in self._aggregates]
        made = {part: self._aggregates[part].results(self._first_rows, rows, late) for part in inside}
        return self._answers.evaluated(find.term, rows, late, made) if made else \
            self._answers.column(find, rows, late)


class _Aggregate:
    """One aggregate over all groups. Those of `_RUNNING` keep one value a group, the others all values."""

    def __init__(self, term: _Call, answers: _Answers):
        self._term, self._answers = term, answers
        head, args = (term.args[0], term.args[1:]) if term.head == "aggregate" else (term.head, term.args)
        self._extra, self._arg = args[:-1], args[-1]
        running = _RUNNING.get(head) if type(head) is str and not self._extra else None
        function = None if running else answers.run.calls.aggregate(head)
        start, *made = running or (list, lambda kept, value: kept.append(value) or kept, function, True)
        self._add, self._result, self._needs_values = made
        self._is_ours = running is not None or type(head) is str and function is _aggregates().get(head)
        self._kept: Any = collections.defaultdict(start)      # of each group

    def add(self, keys: list, rows: list[tuple], late: list[list]) -> None:
        """Adds rows, which belong to the groups `keys`, to what is kept of each group."""
        answers, arg, kept, add = self._answers, self._arg, self._kept, self._add
        if self._needs_values or not _is_var(arg):
            column = answers.values(arg, rows, late)
            column = column if self._needs_values else list(map(_key_of, column))
        else:
            column = answers.keys(arg, rows, late)        # what tells values apart is enough
        with _blaming(self._term, self._is_ours):
            for key, value in zip(keys, column):
                kept[key] = add(kept[key], value)

    def results(self, groups: Iterable, rows: list[tuple], late: list[list]) -> list:
        """The result of each group; `rows` has the first row of each, for other arguments."""
        extra = [self._answers.values(arg, rows, late) for arg in self._extra]
        others = zip(*extra) if extra else itertools.repeat(())
        with _blaming(self._term, self._is_ours):
            return [self._result(*given, self._kept[key]) for key, given in zip(groups, others)]


_itself = lambda value: value
_RUNNING: dict[str, tuple] = {        # what is kept at first, how a value is added, the result; whether it needs values
    "count": (int, lambda kept, value: kept + 1, _itself, False),
    "count-distinct": (set, lambda kept, value: kept.add(value) or kept, len, False),
    "sum": (int, operator.add, _itself, True),
    "avg": (lambda: (0, 0), lambda kept, value: (kept[0] + value, kept[1] + 1), lambda kept: _ratio(*kept), True),
    "min": (lambda: ..., lambda kept, value: value if kept is ... or _compare(value, kept) < 0 else kept, _itself,
            True),
    "max": (lambda: None, lambda kept, value: value if _compare(value, kept) > 0 else kept, _itself, True),
}


def _outside(term: Any) -> Iterator[str]:
    """The variables by which a term of find groups: those outside its aggregates."""
    if _is_var(term):
        yield term
    elif type(term) is _Call and not _is_aggregate(term):
        for arg in term.args:
            yield from _outside(arg)


# The order of values

_NUMBERS = frozenset((int, float, decimal.Decimal))      # they compare as numbers, whichever they are
_ORDERLY = frozenset((bool, str, bytes, tuple, dt.datetime, dt.date, dt.time, dt.timedelta))


def _sort_keys(column: list) -> list:
    """What sorts as the values do: they themselves, where all are of a type that Python orders as we do."""
    kinds = set(map(type, column))
    if kinds == {uuid.UUID}:
        return [value.int for value in column]
    some = kinds - {types.NoneType}
    if not (some <= _NUMBERS or len(some) == 1 and some <= _ORDERLY):
        return list(map(_Ordered, column))
    return column if some == kinds else [(value is not None, value) for value in column]


def _compare(one: Any, other: Any) -> int:
    if one is None or other is None:
        return (one is not None) - (other is not None)
    if type(one) is not type(other) and not (type(one) in _NUMBERS and type(other) in _NUMBERS):
        raise QueryError(f"{_short(one)} and {_short(other)} are of different types and have no order.")
    try:
        return (one > other) - (one < other)
    except TypeError:
        raise QueryError(f"{_short(one)} and {_short(other)} have no order.") from None


_Ordered = functools.cmp_to_key(_compare)     # a value in the order of order-by: None first, then by value


# ── Functions and aggregates ─────────────────────────────────────────────────────────────────────────────────
#
# The names that a query may use: comparisons and some aggregates here, in store_functions.py all else that XTDB's users
# know. Anything else is a callable in the query itself, or was given to `open`. Equality and order are those of
# values, but for numbers: whole ones and floats compare as numbers.


def _is_true(value: Any) -> bool:
    """Clojure's truth: everything but nil and false."""
    return value is not None and value is not False


def aggregate(function: Callable[..., Any]) -> Callable[..., Any]:
    """f(values) as an aggregate: find may hold it, or name it if it was given to `open`; `values` are a list."""
    marked = functools.partial(function)          # a built-in function takes no marks itself
    marked.is_aggregate = True                    # type: ignore[attr-defined]
    return marked


def _is_aggregate(term: Any) -> bool:
    if type(term) is not _Call:
        return False
    if callable(term.head):
        return getattr(term.head, "is_aggregate", False)
    if term.head in ("min", "max") and len(term.args) == 2:
        return not any(type(arg) is _Call for arg in term.args)
    return term.head in _aggregates() and len(term.args) in (1, 2) or term.head == "aggregate" and len(term.args) >= 2


def _smallest(*args: Any) -> Any:
    values = args[-1]
    return min(values, key=_Ordered) if len(args) == 1 else sorted(_distinct(values), key=_Ordered)[:args[0]]


def _largest(*args: Any) -> Any:
    values = args[-1]
    if len(args) == 1:
        return max(values, key=_Ordered)
    return sorted(sorted(_distinct(values), key=_Ordered, reverse=True)[:args[0]], key=_Ordered)


def _ratio(total: Any, count: int) -> Any:
    """An integer if it is exact, else a float."""
    if count == 0:
        raise ZeroDivisionError("division by zero")
    return total // count if type(total) is int and total % count == 0 else total / count


AGGREGATES: dict[str, Callable] = {
    "sum": sum, "count": len, "count-distinct": lambda values: len(_distinct(values)),
    "min": _smallest, "max": _largest, "avg": lambda values: _ratio(sum(values), len(values)),
}


def _same(one: Any, *others: Any) -> bool:
    """Whether all are equal: numbers as numbers, other values only to those of their type."""
    return len({("number", value) if type(value) in _NUMBERS else _key_of(value) for value in (one, *others)}) == 1


def _identical(one: Any, *others: Any) -> bool:
    """Whether all are equal and of one type, as they must be to join."""
    return len(set(map(_key_of, (one, *others)))) == 1


def _in_order(operator: Callable[[Any, Any], bool]) -> Callable[..., bool]:
    return lambda first, *others: all(_comparable(one, other) and operator(_compare(one, other), 0)
                                      for one, other in zip((first, *others), others))


def _twins(value: Any) -> list:
    """A value, and the equal number of the other type if there is one."""
    if type(value) is float and value.is_integer():
        return [value, int(value)]
    if type(value) is int and abs(value) < 2 ** 1023 and float(value) == value:
        return [value, float(value)]
    return [value]


def _comparable(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one is not None or type(one) in _NUMBERS and type(other) in _NUMBERS


_COMPARISONS: dict[str, Callable] = {
    "=": _same, "not=": lambda one, *others: not _same(one, *others), "==": _identical, "identical?": _identical,
    "!=": lambda one, *others: not _identical(one, *others), "compare": _compare,
    "<": _in_order(operator.lt), "<=": _in_order(operator.le),
    ">": _in_order(operator.gt), ">=": _in_order(operator.ge),
}


@functools.cache
def _functions() -> Mapping[str, Callable]:
    """All functions that have names; only comparisons, where store_functions.py does not lie beside this file."""
    library = _sibling_if_there("store_functions")
    return _COMPARISONS | library.FUNCTIONS if library else _COMPARISONS


@functools.cache
def _aggregates() -> Mapping[str, Callable]:
    """All aggregates that have names, likewise."""
    library = _sibling_if_there("store_functions")
    return AGGREGATES | library.AGGREGATES if library else AGGREGATES


# ── Pull ─────────────────────────────────────────────────────────────────────────────────────────────────────
#
# Data in a described shape, fetched level by level: one statement finds all the entities of a level.
#
#     pattern     a list of elements; a tuple stands for a list of one
#     element     "*" | attribute | (attribute, options) | {reference: below, …} | (reference, options, below)
#                 | ({reference: below}, options)
#     reference   attribute | "space/_attribute" (backwards)
#     below       pattern | ... (this pattern again) | n (again, n levels deep) | {value: pattern, …} (a union)
#     options     {"as": key, "default": value, "limit": n, "into": collection, "cardinality": "one", "xform": f}


class _Pull(NamedTuple):
    """One element of a pattern."""
    a: str
    key: Any
    back: str = ""                    # the attribute, if it is followed backwards
    pattern: Any = None               # of a join: elements, `...`, or how many levels again
    union: dict | None = None
    recurs: bool = False              # here or below; then what was passed on the way matters
    default: Any = ...                # none
    limit: int | None = None
    into: Any = None
    is_one: bool = False
    xform: Any = None                 # a function of what was pulled
    is_poured: bool = False           # whether one of the last is there

    @property
    def is_followed(self) -> bool:
        return self.pattern is not None or self.union is not None


_Pattern = tuple[_Pull, ...]
_EVERYTHING = (_Pull("*", "*"),)
_PULL_OPTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {       # whether a value fits, and what was wanted
    "as": (_is_hashable, "a key of a dict"), "default": (lambda value: True, ""), "xform": (lambda value: True, ""),
    "limit": (lambda n: n is None or type(n) is int and n >= 0, "a whole number"),
    "into": (lambda into: into is None or isinstance(into, (list, tuple, set, frozenset)), "a collection, such as []"),
    "cardinality": (lambda many: many == "one", "\"one\"")}


def _parse_pull(pattern: Any, functions: Mapping[str, Callable]) -> _Pattern:
    if type(pattern) not in (list, tuple):
        raise QueryError(f"{_short(pattern)} is not a pull pattern; wanted a list of attributes and joins, such as "
                         "[\"*\"].")
    elements = [pattern] if type(pattern) is tuple else pattern
    parsed = [part for element in elements for part in _parse_pull_element(element, functions)]
    parsed.sort(key=lambda element: element.a != "*")         # the others override what "*" brings, wherever it stands
    return _EVERYTHING if parsed == list(_EVERYTHING) else tuple(parsed)


def _parse_pull_element(element: Any, functions: Mapping[str, Callable]) -> list[_Pull]:
    if type(element) is dict:
        if strange := [reference for reference in element if type(reference) is not str]:
            raise QueryError(f"{_short(strange[0])} cannot be joined in a pull pattern; wanted an attribute, or with "
                             "options a tuple: (attribute, {options}, pattern).")
        return [_pull_of(functions, name, {}, below) for name, below in element.items()]
    parts = element if type(element) is tuple else (element,)
    if 1 <= len(parts) <= 3 and type(parts[0]) is str:
        return [_pull_of(functions, parts[0], parts[1] if len(parts) > 1 else {}, *parts[2:])]
    if len(parts) == 2 and type(parts[0]) is dict and len(parts[0]) == 1:
        (name, below), = parts[0].items()
        return [_pull_of(functions, name, parts[1], below)]
    raise QueryError(f"{_short(element)} is not an element of a pull pattern; wanted \"attribute\", "
                     "(\"attribute\", {options}), {\"attribute\": pattern} or (\"attribute\", {options}, pattern).")


def _built_in(function: str, a: str, value: Any) -> Any:
    with _blaming(_Call(function, (a,))):
        return _functions()[function](value)


def _pull_of(functions: Mapping[str, Callable], name: Any, options: Any, *below: Any) -> _Pull:
    """An element of an attribute and its options; a join, if something is below it."""
    if type(name) is not str or type(options) is not dict or options.keys() - _PULL_OPTIONS.keys():
        raise QueryError(f"({_short(name)}, {_short(options)}) in a pull pattern; wanted an attribute and a dict of "
                         f"options among {', '.join(sorted(_PULL_OPTIONS))}.")
    if name.startswith(":"):
        raise QueryError(f"{_short(name)} in a pull pattern is written as a keyword; "
                         f"an attribute is a string: {_short(name[1:])}.")
    for option, value in options.items():
        fits, wanted = _PULL_OPTIONS[option]
        if not fits(value):
            raise QueryError(f"\"{option}\" of {name} is {_short(value)}; wanted {wanted}.")
    xform = options.get("xform")
    if type(xform) is str:
        xform = functions.get(xform) or xform in _functions() and functools.partial(_built_in, xform, name) or None
    if not callable(xform) and "xform" in options:
        raise _no_function(options["xform"])
    pattern: Any = None
    union, recurs = None, False
    for under in below:
        if type(under) is dict:
            union = {_key_of(value): _parse_pull(part, functions) for value, part in under.items()}
        else:
            recurs = under is ... or type(under) is int and under > 0
            pattern = under if recurs else _parse_pull(under, functions)
        recurs = recurs or any(part.recurs for parts in ([pattern] if union is None else union.values())
                               for part in parts)
    return _Pull(name, options.get("as", name), _backwards(name), pattern, union, recurs,
                 options.get("default", ...), options.get("limit"),
                 options.get("into"), options.get("cardinality") == "one", xform,
                 not options.keys().isdisjoint(("limit", "into", "xform")))


def _pulled(reader: _Reader, mode: str, db: Db, pattern: _Pattern, ids: list) -> list:
    """The pattern applied to entities, within a query's usual time."""
    outer, puller = reader.deadline, _Puller(db, reader, mode)
    if outer is None:
        reader.deadline = time.monotonic() + TIMEOUT_MS / 1000
    try:
        return puller.pull_documents(pattern, puller.level(pattern, ids))
    finally:
        reader.deadline = outer


def _looks_back(pattern: Any) -> bool:
    """Whether a pattern asks who refers to its entities."""
    return type(pattern) is tuple and any(part.back and part.is_followed for part in pattern)


class _Absent(dict):
    """The id of an entity without a document, of which a pattern asks who refers to it."""


class _Puller(NamedTuple):
    """Pulls on one reader. A document is whatever the cache has; only copies leave.

    A level is a list of documents, of `_Absent` and of None; beside it `made` has what becomes of each. `trails` has
    the keys of the entities that led to each, where a pattern recurs.
    """
    db: Db
    reader: _Reader
    mode: str

    def pull_documents(self, pattern: _Pattern, level: list) -> list:
        """The pattern applied to documents as the cache has them."""
        try:
            return self._pull_all(pattern, level, None)
        except RecursionError:
            raise QueryError("The pull goes deeper than Python can nest what it found, about 150 levels; "
                             "bound it: {\"attribute\": 100}.") from None

    def level(self, pattern: Any, ids: list) -> list:
        """The documents of some entities; of those without one their ids, where that is enough for the pattern."""
        level = self.db._documents(ids, self.reader, self.mode)
        if None in level and _looks_back(pattern):
            return [_Absent({"xt/id": id}) if document is None and type(id) in _ID_TYPES else document
                    for id, document in zip(ids, level)]
        return level

    def _pull_all(self, pattern: _Pattern, level: list, trails: list | None) -> list:
        """The pattern applied to a whole level at once."""
        if pattern is _EVERYTHING:
            return [_copied(document) for document in level]
        if not pattern:
            return [None] * len(level)
        has_star, is_back = pattern[0] == _EVERYTHING[0], _Absent in map(type, level)
        documents = [None if type(one) is _Absent else one for one in level] if is_back else level
        made: list = [None if one is None else _copied(one) if has_star else {} for one in documents]
        if is_back:
            made = [{} if type(one) is _Absent else into for one, into in zip(level, made)]
        for element in pattern[has_star:]:
            if element.pattern is not None:
                self._pull_join(element, pattern, level if element.back else documents, made, trails)
            elif element.union is not None:
                self._pull_union(element, documents, made, trails)
            elif not element.back:
                for document, into in zip(documents, made):
                    if document is not None:
                        self._pull_attribute(element, document, into)
        return [into or None if type(one) is _Absent else into for one, into in zip(level, made)] if is_back else made

    def _pull_attribute(self, element: _Pull, document: dict, into: dict) -> None:
        if element.a == "*":
            into.update(_copied(document))
            return
        if element.key != element.a:
            into.pop(element.a, None)
        if element.a in document:
            value = _copied(document[element.a])
            into[element.key] = _poured(value, element) if element.is_poured else value
        elif element.default is not ...:
            into[element.key] = _copied(element.default)

    def _pull_union(self, element: _Pull, documents: list, made: list, trails: list | None) -> None:
        """The pattern that belongs to the value of the attribute is applied to the entity itself."""
        self.reader.look_at_clock()
        unions = element.union or {}
        for place, document in enumerate(documents):
            for value in _several(document.get(element.a)) if document else ():
                if (below := unions.get(_key_of(value))) is not None:
                    pulled, = self._pull_all(below, [document], trails and [trails[place]])
                    made[place].update(pulled or {})

    def _pull_join(self, element: _Pull, pattern: _Pattern, level: list, made: list, trails: list | None) -> None:
        """Follows the references of a whole level with one statement."""
        self.reader.look_at_clock()
        below: Any = pattern if element.pattern is ... else element.pattern
        if type(below) is int:        # so many levels again
            below = tuple(part._replace(pattern=below - 1) if part == element else part
                          for part in pattern if part != element or below > 1)
        found = self._referring(element.back, level) if element.back else self._referred(element, below, level)
        flat = [(place, document) for place, several in enumerate(found) for document in several or ()]
        paths = None
        if element.recurs:
            trails = trails or [frozenset()] * len(level)
            paths = [trails[place] | {_key(level[place]["xt/id"])} for place, _ in flat]
        entities = [document for _, document in flat]
        pulled = iter(() if not flat else self._pull_all(below, entities, paths) if type(element.pattern) is tuple else
                      self._pull_again(below, entities, paths or []))
        has_default = element.default is not ...
        for document, into, several in zip(level, made, found):
            if into is None:
                continue
            is_asked = element.a in into          # the reference itself, which stays where it leads nowhere
            if element.key != element.a:
                into.pop(element.a, None)
            if several or several is not None and not element.back:
                self._set_joined(element, document, into, [next(pulled) for _ in several], is_asked)
            if has_default and document is not None and type(document) is not _Absent and element.key not in into:
                into[element.key] = _copied(element.default)

    def _pull_again(self, pattern: _Pattern, level: list, paths: list) -> list:
        """A pattern that recurs: of an entity that led to itself comes only the id."""
        made = [{"xt/id": _copied(one["xt/id"])} if one is not None and _key(one["xt/id"]) in path else None
                for one, path in zip(level, paths)]
        fresh = [place for place, is_met in enumerate(made) if is_met is None]
        if fresh:
            pulled = self._pull_all(pattern, [level[i] for i in fresh], [paths[i] for i in fresh])
            for place, one in zip(fresh, pulled):
                made[place] = one
        return made

    @staticmethod
    def _set_joined(element: _Pull, document: dict, into: dict, pulled: list, is_asked: bool) -> None:
        if element.back:
            pulled = [one for one in pulled if one is not None]
            if pulled:
                into[element.key] = _poured(pulled[0] if element.is_one else pulled, element)
            return
        value = document[element.a]
        if is_asked and None in pulled:
            pulled = [_copied(id) if one is None else one for id, one in zip(_several(value), pulled)]
        if type(value) in _SEVERAL:
            into[element.key] = _poured(pulled, element)
        elif pulled[0] is not None:
            into[element.key] = _poured(pulled[0], element) if element.is_poured else pulled[0]

    def _referred(self, element: _Pull, below: Any, documents: list) -> list:
        """For each document the entities that its attribute refers to, or None; None if it lacks it."""
        a = element.a
        ids = [None if document is None or a not in document else list(_several(document[a]))[:element.limit]
               for document in documents]
        targets = iter(self.level(below, [id for several in ids for id in several or ()]))
        return [several and [next(targets) for _ in several] for several in ids]

    def _referring(self, a: str, level: list) -> list:
        """For each entity the documents that refer to it by an attribute."""
        cells = [None if one is None else self.db._cell(one["xt/id"], self.reader) for one in level]
        rows = self.db._rows_by_value(a, cells, self.reader, self.mode)
        by_cell: dict = {}
        for (v, _, _), document in zip(rows, self.db._contents([n for _, _, n in rows], self.reader)):
            by_cell.setdefault(v, []).append(document)
        return [None if cell is None else by_cell.get(cell, ()) for cell in cells]


def _poured(value: Any, element: _Pull) -> Any:
    """Values as the options want them: no more than "limit" of several, in the collection "into", through "xform"."""
    if type(value) in _SEVERAL and (element.limit is not None or element.into is not None):
        items = list(itertools.islice(value, element.limit))
        try:
            value = type(value)(items) if element.into is None else type(element.into)([*element.into, *items])
        except TypeError:
            value = items
    return value if element.xform is None else element.xform(value)


# ── Listeners ────────────────────────────────────────────────────────────────────────────────────────────────
#
# A listener reads the log behind a cursor of its own: there is no queue that could overflow, and a listener that is
# slow or fails harms no other. One that keeps up finds what was just committed in memory. It runs in the event loop
# that registered it, else on a thread of its own.


class Listener:
    """What `on_tx` returns. `tx_id` is the last transaction that it has heard."""

    def __init__(self, node: Node, callback: Callable[[Tx], Any], after: int):
        if not callable(callback):
            raise StoreError(f"on_tx({_short(callback)}); wanted a function of a transaction.")
        self._node, self._callback, self.tx_id = node, callback, after
        self._closed = self._woken = False
        self._failing: tuple[type, str] | None = None        # how it raised the last time
        node._file.check_open()
        node._file.recent.is_wanted = True
        node._listeners.add(self)
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        self._event: Any = asyncio.Event() if self._loop else threading.Event()
        self._event.set()
        if self._loop:
            self._task = self._loop.create_task(self._listen_in_loop())
        else:
            self._thread = threading.Thread(target=self._listen, name="store-listener", daemon=True)
            self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wake(self) -> None:
        if self._loop is None:
            self._event.set()
        elif not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._set)
            except RuntimeError:          # the loop was closed, and with it every listener in it
                self._closed = True

    def _set(self) -> None:
        self._woken = False
        self._event.set()

    def close(self) -> None:
        """After this no call begins. A running one is waited for, unless it is the caller, or one of an event loop."""
        self._closed = True
        self._node._listeners.discard(self)
        if self._loop is None:
            self._event.set()
            if self._thread is not threading.current_thread():
                self._thread.join()
        else:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._event.set)

    def _batch(self) -> list[Tx]:
        """The next transactions; none once closed."""
        file = self._node._file
        count = min(LISTEN_BATCH, file.latest.tx_id - self.tx_id)
        if self._closed or file.closed or count <= 0:
            return []
        try:
            return file.recent.after(self.tx_id, count) or file.transactions(self.tx_id, count)
        except ClosedError:
            return []

    def _failed(self, tx: Tx, error: BaseException) -> None:
        """Logs with a traceback, unless the error is as the last one: a traceback takes longer than the call."""
        way = type(error), str(error)
        log.error("the listener %s raised %r on transaction %d; the next follows",
                  getattr(self._callback, "__qualname__", self._callback), error, tx.tx_id,
                  exc_info=way != self._failing and error)
        self._failing = way

    def _news(self, batch: list[Tx]) -> Iterator[Tx]:
        """What of these is to be told, until the listener is closed; each is heard once the next is asked for."""
        for tx in batch:
            if self._closed:
                return
            if tx.committed:
                yield tx
            self.tx_id = tx.tx_id

    def _listen(self) -> None:
        while not self._closed:
            self._event.wait()
            self._event.clear()
            while batch := self._batch():
                for tx in self._news(batch):
                    try:
                        self._callback(tx)
                    except (Exception, asyncio.CancelledError) as error:
                        self._failed(tx, error)

    async def _listen_in_loop(self) -> None:
        while not self._closed:
            await self._event.wait()
            self._event.clear()
            while batch := self._batch():
                for tx in self._news(batch):
                    try:
                        result = self._callback(tx)
                        if inspect.isawaitable(result):
                            await result
                    except (Exception, asyncio.CancelledError) as error:
                        # a cancelled listener ends; else the callback awaited something that was cancelled
                        if isinstance(error, asyncio.CancelledError) and self._task.cancelling():
                            raise
                        self._failed(tx, error)
                await asyncio.sleep(0)
