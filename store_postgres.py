# SPDX-License-Identifier: MIT
"""The log of a store on PostgreSQL, for several servers: `store.open("postgresql://…", index="path")` imports it.

The log and the documents live in PostgreSQL, and each server copies and indexes both in a file of its own. The log
alone
decides what a transaction does, so all servers decide alike: a match compares hashes, which the log keeps; the log
records
what a call became before any index has it, and the first record is the truth, whatever code the other servers run. A
notification is a doorbell: a follower reads on from the last transaction that it has, when the bell rings and every
second.

Contents lie apart from the log and can go: those of an aborted transaction, the arguments of a call whose outcome is
recorded, and those of an evicted entity up to the evict. A server deletes them before it indexes the transaction that
forgets them, so none is left behind; a follower that finds a content missing knows that an evict is to come.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import hashlib
import importlib
import os
import re
import select
import socket
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

if not __package__:
    import store
else:                                 # both are part of somebody's package
    store = importlib.import_module(".store", __package__)

try:
    import psycopg
except ImportError as error:
    raise store.StoreError(f"A log on PostgreSQL needs the driver psycopg, version 3 ({error}): pip install "
                           f"'psycopg[binary]'.") from None

# ── Words ────────────────────────────────────────────────────────────────────────────────────────────────────

# appends with no other server's between: then none is expected, and the log is not asked first
ALONE_MIN = 16
GUESS_S_MAX = 1                       # so old may be what a server knows of PostgreSQL's clock
# channels of notifications: who is woken by a bell of its own appends a quarter less
BELLS = 64
# notices that wait to be sent; beyond, the oldest are lost
NOTICES_MAX = 1_000
# sent in one statement, and the pause after it: at most 2,000 a second from each server
NOTICES_AT_ONCE = 100
NOTICES_PAUSE_S = 0.05
POLL_S = 1                            # a follower looks at the log so often even if no bell rings
# for the first bell to be heard; through a proxy that pools transactions it never is
BELL_S_MAX = 2
CONNECT_S_MAX = 2                     # for a connection to be there
# a transaction waits so long for a log that is out of reach; people are told within 5 s
HOLD_S_MAX = 4
REPLY_S_MAX = 2.5                     # for PostgreSQL to answer; an append then looks for its token on a new connection
# PostgreSQL ends a transaction that was left alone so long: a frozen server stops nobody
FROZEN_S_MAX = 2
RETRY_S = 0.05, 0.5                   # between two attempts to reach the log: the first wait, doubled up to the last
# of an append as one text; where documents are larger than a page the driver's arrays are faster
MESSAGE_BYTES = 2 ** 17
# of documents fetched or sent at once: bounds the memory of a server that catches up
FOLLOW_BYTES = 16 * 2 ** 20
# more than the operations that one call may become: places in a transaction are numbers
CALL_PARTS = 2 ** 20

# ── Statements ───────────────────────────────────────────────────────────────────────────────────────────────

_TABLES = """
    create table store_log(tx_id bigint primary key, tx_time bigint not null, ops bytea not null, hash bytea not null,
                           bytes bigint not null, token uuid);
    create table store_documents(tx_id bigint, position bigint, owner bytea, doc bytea not null,
                                 primary key (tx_id, position));
    create index store_documents_owner on store_documents(owner) where owner is not null;
    create table store_outcomes(tx_id bigint primary key, results bytea)
"""
# classes of advisory locks: "stor" and on
_LOCK_MAKING, _LOCK_APPENDING, _LOCK_RECORDING, _LOCK_BELL = range(0x73746F72, 0x73746F76)

_SESSION = """
    select set_config('lock_timeout', %(reply)s, false), set_config('statement_timeout', %(reply)s, false),
           set_config('idle_in_transaction_session_timeout', %(frozen)s, false),
           set_config('standard_conforming_strings', 'on', false)
"""
# The lock is a statement of its own: what is read after it is the newest. Under a lock several statements go in one
# message or
# each in its own, never in a pipeline: PostgreSQL has no timeout for a server that was frozen when half of one was sent
# (tried),
# and it would stop all others.
_LOCK = "begin isolation level read committed; select pg_advisory_xact_lock({}, {})"
_BY_TOKEN = "select tx_id, tx_time, hash from store_log where tx_id > %s and token = %s order by tx_id"
_APPEND_DOCUMENTS = ("insert into store_documents select * from "
                     "unnest(%b::bigint[], %b::bigint[], %b::bytea[], %b::bytea[])")
# Each server rings a bell that all others hear; the last one is shared, by those who find no other free.
_FREE_BELL = "select n from generate_series(1, %s) n where pg_try_advisory_lock(%s + n, %s) limit 1"
# An append is two messages: the lock and what is last; the rows, the commit and the bell, which is a transaction of its
# own,
# since inside it would cost the group commit. Where the last can be guessed it is one: rows are inserted only if it was
# guessed right.
_PREPARE_APPENDING = """
    prepare store_last as
    select tx_id, tx_time, hash, (extract(epoch from clock_timestamp()) * 1000000)::bigint from store_log
    order by tx_id desc limit 1;
    prepare store_append(bigint[], bigint[], bytea[], bytea[], bigint[], bigint[], bytea[], bytea[], bigint[], uuid,
                         bigint) as
    with last as (select where (select max(tx_id) from store_log) = $11),
         documents as (insert into store_documents select d.* from last, unnest($1, $2, $3, $4) d)
    insert into store_log select t.*, $10 from last, unnest($5, $6, $7, $8, $9) t
"""
_APPEND = "execute store_append({}, '{}', {}); commit; notify {}"
# Transactions and their contents, as many as fit, in one snapshot: a transaction's row has position −1.
_NEXT = """
    with next as (select * from store_log where tx_id > %(after)s order by tx_id limit %(count)s),
         part as materialized (select * from (select *, sum(bytes) over (order by tx_id) as total from next) n
                               where total <= %(bytes)s or tx_id = %(after)s + 1)
    select p.tx_id, -1::bigint as position, p.ops, p.tx_time, p.hash, o.tx_id is not null, o.results,
           (select max(tx_id) from store_log)
    from part p left join store_outcomes o using (tx_id)
    union all
    select d.tx_id, d.position, d.doc, null, null, null, null, null
    from store_documents d where d.tx_id > %(after)s and d.tx_id <= (select max(tx_id) from part)
    order by 1, 2
"""
_NOTIFY = "select pg_notify(%s, notice) from unnest(%s::text[]) notice"
_OUTCOMES = "select tx_id, results from store_outcomes where tx_id = any(%b::bigint[])"
_CONTENTS = "select tx_id, position, doc from store_documents where tx_id = any(%b::bigint[])"
_RECORD = "insert into store_outcomes select * from unnest(%b::bigint[], %b::bytea[])"
_FORGET_ARGUMENTS = "delete from store_documents where tx_id = any(%b::bigint[]) and owner is null"
_FORGET_ABORTED = "delete from store_documents where tx_id = any(%b::bigint[])"
_FORGET_EVICTED = """
    delete from store_documents d using unnest(%b::bytea[], %b::bigint[], %b::bigint[]) as e(owner, tx_id, position)
    where d.owner = e.owner and (d.tx_id, d.position) < (e.tx_id, e.position)
"""


class _Link:
    """A connection to PostgreSQL, made again after it was lost. Whatever is waited for on it comes in time, or it is
    lost.
    """

    def __init__(self, url: str, prepare: Callable[[Any], Any]):
        self._url, self._prepare, self._connection, self._rows = url, prepare, None, 0

    def use(self) -> Any:
        if self._connection is None:
            connection = self._connected()
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _connected(self) -> Any:
        """Settings in the address win over ours."""
        ours: dict[str, Any] = {
            "connect_timeout": CONNECT_S_MAX, "tcp_user_timeout": int(REPLY_S_MAX * 1000), "keepalives_idle": 2,
            "keepalives_interval": 1, "keepalives_count": 3, "target_session_attrs": "read-write",
            "application_name": f"store {os.getpid()}"}
        connection: Any = psycopg.connect(**ours | psycopg.conninfo.conninfo_to_dict(self._url), autocommit=True)
        connection.wait = functools.partial(connection.wait, timeout=REPLY_S_MAX)
        connection.execute(_SESSION, {"reply": f"{int(REPLY_S_MAX * 1000)}ms", "frozen": f"{FROZEN_S_MAX}s"})
        return connection

    def another(self) -> _Link:
        """A plain one to the same server."""
        return _Link(self._url, lambda connection: None)

    def send(self, statements: str, rows: int) -> None:
        """Sends a message of statements that insert so many rows at last, and does not wait: `answer` does."""
        connection = self.use()
        connection.pgconn.send_query(statements.encode())
        connection.wait(psycopg.generators.send(connection.pgconn))
        self._rows = rows

    def answer(self) -> None:
        """Returns when what was sent is done, at once if that was heard before. Raises: psycopg.Error; _Passed if no
        row was inserted.
        """
        if self._rows:
            connection, rows = self.use(), self._rows
            self._rows = 0
            results = connection.wait(psycopg.generators.fetch_many(connection.pgconn))
            if results[-1].status == psycopg.pq.ExecStatus.FATAL_ERROR:
                raise psycopg.errors.error_from_result(results[-1])
            if not any(result.command_status == b"INSERT 0 %d" % rows for result in results):
                raise _Passed

    def drop(self) -> None:
        """Lets go of a connection that may be broken; whether what it was doing is done, nobody knows yet."""
        connection, self._connection, self._rows = self._connection, None, 0
        if connection:
            connection.close()


class _Passed(Exception):
    """Another server appended first; nothing was written."""


class _Newest:
    """The newest transaction of the log as (tx_id, tx_time, hash), and the clock of PostgreSQL: read under the lock, or
    guessed.

    A server that has appended alone for a while guesses that its own is still the newest.
    """

    def __init__(self) -> None:
        self._last: tuple = ()
        self._alone = 0                # how often nobody else had appended meanwhile
        self._read_s = 0.0
        self._read_clock = 0

    def guess(self) -> tuple | None:
        """The newest, and PostgreSQL's clock, for an append that is one message."""
        since_s = time.monotonic() - self._read_s
        is_sure = self._alone >= ALONE_MIN and since_s < GUESS_S_MAX
        return (*self._last, self._read_clock + int(since_s * 1e6)) if is_sure else None

    def read(self, tx_id: int, tx_time: int, hash: bytes, clock: int) -> None:
        self._alone = self._alone + 1 if (tx_id, tx_time, hash) == self._last else 0
        self._read_s, self._read_clock = time.monotonic(), clock

    def appended(self, entry: _Entry) -> None:
        self._last = entry.tx_id, entry.tx_time, entry.hash


def _owner(id: Any) -> bytes:
    """The key by which an entity's content is found and deleted. It is short, and no id can be read from it."""
    return hashlib.blake2b(store.pack(id), digest_size=16).digest()


def _placed(ops: list[store._Op], results: Iterable) -> Iterator[tuple[int, store._Op]]:
    """The operations of a transaction with calls replaced by what they became, each with its position, as contents have
    it.
    """
    results = iter(results)
    for place, op in enumerate(ops):
        if op.kind == store._CALL:
            yield from enumerate(next(results), place * CALL_PARTS + 1)
        else:
            yield place * CALL_PARTS, op


class _Submitted(store._Pending):
    """A transaction on its way to PostgreSQL: the log's operations, and its contents as (position, owner, bytes)."""
    __slots__ = "data", "contents", "since"

    def __init__(self, ops: list[store._Op], tx_time: int | None):
        super().__init__(ops, tx_time)
        self.since = time.monotonic()
        self.data = store._records(ops)
        self.contents = [(place * CALL_PARTS, *((None, store.pack(list(op.args))) if op.kind == store._CALL
                                                else (_owner(op.id), op.data)))
                         for place, op in enumerate(ops) if op.kind in (store._PUT, store._CALL)]

    @property
    def bytes(self) -> int:
        return len(self.data) + sum(len(data) for _, _, data in self.contents)

    def refuse(self, error: BaseException) -> None:
        if not self.error:
            self.error = error
            store._tell([self])


class _Entry:
    """A transaction of the log on its way into the index. `outcome`: of its calls, None if it aborted, if that is
    recorded.
    """
    __slots__ = "tx_id", "tx_time", "data", "hash", "ops", "contents", "outcome", "pending", "tx"
    ops: list[store._Op]
    tx: store.Tx | None

    def __init__(self, tx_id: int, tx_time: int, data: bytes, hash: bytes, contents: dict[int, bytes], outcome: Any,
                 pending: Any = None):
        self.tx_id, self.tx_time, self.data, self.hash = tx_id, tx_time, data, hash
        self.contents, self.outcome, self.pending, self.tx = contents, outcome, pending, None


_OPEN_OUTCOME = object()              # nobody has recorded what the calls of a transaction became


def _placed_results(entry: _Entry) -> Iterator[list]:
    """The result of each call, as (record, content)."""
    places = (place for place, op in enumerate(entry.ops) if op.kind == store._CALL)
    for place, records in zip(places, entry.outcome):
        yield [(record, entry.contents.get(position)) for position,
               record in enumerate(records, place * CALL_PARTS + 1)]


def _logged_op(record: list, data: bytes | None) -> store._Op:
    """An operation of the log with its content. Content that is missing belongs to an entity evicted later."""
    kind, id, *rest = record
    op = store._Op(kind, id, record=store._record(*record))
    if kind == store._PUT:
        if data is not None and store.digest(data) != rest[2]:
            raise store.CorruptError(f"A document of {store._short(id)} in PostgreSQL does not have the hash that the "
                                     f"log has.")
        return op._replace(start=rest[0], end=rest[1], data=data, hash=rest[2],
                           facts=store._encoded(store.unpack(data))[1] if data else [])
    if kind == store._CALL:
        return op._replace(hash=rest[1], args=tuple(store.unpack(data)) if data else ())
    if kind == store._MATCH:
        return op._replace(start=rest[0], hash=rest[1])
    return op._replace(start=rest[0], end=rest[1]) if kind == store._DELETE else op


class _LoggedTransaction(store._Transaction):
    """A transaction as the log has it: a call becomes what was recorded of it, if something was."""
    is_logged = True

    def follow(self, entry: _Entry) -> bool:
        """True if the transaction commits."""
        if entry.outcome is None:
            self.reason = "A call or the schema aborted it, as the first server to index it recorded."
            return False
        self._recorded = None if entry.outcome is _OPEN_OUTCOME else _placed_results(entry)
        return self.run(entry.ops)

    def _keeps_schema(self) -> bool:
        """What broke the schema is recorded: whoever indexes it later may miss documents that were evicted since."""
        return self._recorded is not None or super()._keeps_schema()

    def _call(self, op: store._Op, depth: int) -> list[store._Op]:
        if self._recorded is None:
            return super()._call(op, depth)
        became = [_logged_op(record, data) for record, data in next(self._recorded)]
        for part in became:
            self._apply(part)
        return became


class _Chores:
    """The statements for PostgreSQL that come before a group of transactions is committed to the index."""

    def __init__(self) -> None:
        self.outcomes: dict[int, bytes | None] = {}
        self.contents: list = []
        self.evicted: list = []
        self.aborted: list = []

    def __bool__(self) -> bool:
        return bool(self.outcomes or self.evicted or self.aborted)

    def note(self, entry: _Entry, transaction: store._Transaction, committed: bool) -> None:
        if entry.outcome is _OPEN_OUTCOME and (transaction.has_broken_schema
                                               or any(op.kind == store._CALL for op in entry.ops)):
            self.outcomes[entry.tx_id] = transaction.recorded_results() if committed else None
            if committed:
                self.contents += self._made(entry, transaction)
        if not committed:
            self.aborted += [entry.tx_id] if entry.contents else []
        elif any(entity.evicted for entity in transaction.entities.values()):
            self.evicted += [(_owner(op.id), entry.tx_id, position)
                             for position, op in _placed(entry.ops, transaction.results) if op.kind == store._EVICT]

    def _made(self, entry: _Entry, transaction: store._Transaction) -> Iterator[tuple]:
        """The contents that calls made."""
        n = transaction.first_n
        for position, op in _placed(entry.ops, transaction.results):
            if op.kind == store._PUT:
                n += 1
                if position % CALL_PARTS and n in transaction.contents:
                    yield entry.tx_id, position, _owner(op.id), op.data


# of the file that indexes the log: the log has it all, so it is tried again
LOCAL_TROUBLE = sqlite3.Error, store.LockedError


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


class _Decided(Exception):
    """Others have recorded outcomes first, and other ones: (tx_id, results) and the contents that they made, (tx_id,
    position, bytes).
    """

    def __init__(self, outcomes: Iterable[tuple[int, bytes | None]], contents: list[tuple]):
        self.outcomes, self.contents = outcomes, contents

    def tell(self, entries: Any) -> None:
        entries = {entry.tx_id: entry for entry in entries}
        for tx_id, results in self.outcomes:
            entries[tx_id].outcome = results and store.unpack(results)
        for tx_id, position, data in self.contents:
            entries[tx_id].contents[position] = data


class PostgresLog(store._Log):
    """The log in PostgreSQL. One thread appends what has queued, another follows and tells those whose transaction it
    indexed.
    """

    _pending = _Submitted
    _file: IndexFile

    def __init__(self, file: IndexFile, node: store.Node, url: str):
        super().__init__(file, node)
        self._own: collections.deque[_Entry] = collections.deque()      # appended here, to be indexed
        self._indexing = threading.Lock()
        self._last_known = _Newest()
        self._behind = True              # the log may have what the index has not
        self._newest = file.latest.tx_id
        self._bell, self._rope = socket.socketpair()
        self._bell.setblocking(False), self._rope.setblocking(False)
        self._troubles: dict[str, str] = {}
        self._notices: collections.deque[str] = collections.deque(maxlen=NOTICES_MAX)
        self._notify_at = 0.0
        self._appending, self._following = _Link(url, self._ring), _Link(url, self._listen)
        self._threads = [threading.Thread(target=work, name=name, daemon=True)
                         for name, work in (("store-appender", self._appender), ("store-follower", self._follower))]

    def is_settled(self, micros: int) -> bool:
        """Never of a time beyond the newest transaction: another server's may be of before."""
        return False

    def _enter(self, pending: _Submitted, may_write: bool) -> bool:
        with self._lock:
            self._refuse()
            if may_write:
                pending.lock = threading.Lock()
                pending.lock.acquire()
            self._queue.append(pending)
            # else the appender would wake for each of many
            if len(self._queue) == 1 or len(self._queue) >= self._crowd:
                self._mutex.notify_all()
            return False

    def alone(self, work: Callable) -> None:
        """Runs some work while nothing is indexed."""
        self._refuse()
        with self._indexing:
            work()

    def close(self) -> None:
        if self._writer == threading.get_ident():
            self._refuse()
        with self._mutex:
            if self._ending:
                return
            self._ending = True
            self._mutex.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
            self._ended = True           # once nothing is appended any more, the follower indexes what is left and ends
            self._wake()
        self._appending.drop(), self._following.drop()
        self._bell.close(), self._rope.close()

    # Opening

    def begin(self, progress: store.Progress | None) -> None:
        """Checks server and log, catches up, and starts the two threads."""
        try:
            self._check_server()
            self._follow(progress)
        except psycopg.Error as error:
            raise store.UnreachableError(
                f"The log on PostgreSQL cannot be read ({_reason(error)}). Try again later.") from error
        except sqlite3.Error as error:
            raise store.StoreError(f"{self._file.path} cannot be written: {error}.") from error
        for thread in self._threads:
            thread.start()

    def newest(self) -> int:
        """The number of the newest transaction in the log. Asked on a connection of its own: the others belong to their
        threads.
        """
        asking = self._following.another()
        try:
            newest, = asking.use().execute("select max(tx_id) from store_log").fetchone()
            return newest
        except psycopg.Error as error:
            raise store.UnreachableError(
                f"PostgreSQL cannot be reached ({_reason(error)}). Try again later.") from error
        finally:
            asking.drop()

    def _check_server(self) -> None:
        """Warns of settings that break promises; refuses a proxy behind which no bell is heard."""
        connection, listening = self._appending.use(), self._following.use()
        off = connection.execute("select name from pg_settings where name in ('fsync', 'full_page_writes', "
                                 "'synchronous_commit') "
                                 "and setting = 'off'")
        for name, in off.fetchall():
            store.log.warning("PostgreSQL runs with %s = off: what was acknowledged may be lost when its machine fails",
                              name)
        self._behind, self._ringer, end = False, None, time.monotonic() + BELL_S_MAX
        connection.execute(f"notify {self._channel}_{BELLS}")
        while not self._is_behind(listening):
            if time.monotonic() > end:
                raise store.StoreError("A notification that was sent through PostgreSQL did not come back: a proxy "
                                       "that pools transactions "
                                 "stands in between. Connect to PostgreSQL itself, or let the proxy pool sessions.")
            time.sleep(0.001)
        self._ringer = connection.info.backend_pid

    def _check(self, connection: Any) -> None:
        """The log behind a new connection is still this index's log."""
        file = self._file
        self._lock_id, = connection.execute("select 'store_log'::regclass::oid::bigint").fetchone()
        self._channel = f"store_{self._lock_id}"
        self._lock_id -= 2 ** 32 if self._lock_id >= 2 ** 31 else 0
        tx_id, hash = file.latest.tx_id, file.hash
        rows = dict(connection.execute("select tx_id, case tx_id when 0 then ops else hash end from store_log where "
                                       "tx_id in (0, %s)",
                                       (tx_id,)).fetchall())
        newest, = connection.execute("select max(tx_id) from store_log").fetchone()
        if rows.get(0) != file.about:
            theirs = store.unpack(rows[0])["store"] if 0 in rows else "none"
            raise store.CorruptError(f"{file.path} is an index of store {file.store_id}, the log is of store {theirs}. "
                                     f"Name another "
                               "index, or remove this one: it is made again from the log.")
        if tx_id and rows.get(tx_id) != hash:
            raise store.CorruptError(f"{file.path} is an index of store {file.store_id} up to transaction {tx_id}, "
                                     f"which is not in the "
                               f"log: its newest is {newest}. A backup of PostgreSQL was put back, or the index is of "
                               f"another "
                               "copy. Put the right log back, or remove the index: it is made again from the log.",
                               tx_id)

    def _ring(self, connection: Any) -> None:
        self._check(connection)
        self._ringer = connection.info.backend_pid
        connection.execute(_PREPARE_APPENDING)

    def _listen(self, connection: Any) -> None:
        self._check(connection)
        connection.add_notify_handler(lambda notice: self._heard(notice.channel, notice.pid, notice.payload))
        free = connection.execute(_FREE_BELL, (BELLS - 1, _LOCK_BELL, self._lock_id)).fetchone()
        own, = free or (BELLS,)
        self._rings = f"{self._channel}_{own}"
        connection.execute("; ".join(f"listen {self._channel}_{n}" for n in range(1, BELLS + 1) if n != own
                                     or not free) + f"; listen {self._channel}_notices")
        self._behind = True              # listen first, then read: the other order has a gap

    # Appending

    def _appender(self) -> None:
        while (group := self._taken()) or not self._ending:
            try:
                self._append(group)
            except Exception as error:
                self._fail(error, group)

    def _taken(self) -> _Group:
        """The next group; an empty one at the end, and each second while the log is out of reach, to try it."""
        with self._mutex:
            self._mutex.wait_for(lambda: self._queue or self._ending, POLL_S if self._troubles else None)
            self._mutex.wait_for(lambda: len(self._queue) >= self._crowd or self._ending, store.GATHER_S)
            self._crowd = 0
            return _Group(self._queue.popleft() for _ in range(min(len(self._queue), store.GROUP_MAX)))

    def _append(self, group: _Group) -> None:
        """Appends a group, on a new connection if the old one is lost, until it is there or all who wait were told."""
        retry_s = RETRY_S[0]
        is_left = True
        while is_left:
            try:
                entries = self._sent(self._appending.use(), group)
                is_indexed = self._index_meanwhile(entries)
                self._appending.answer()
            except _Passed:
                self._last_known, group.before = _Newest(), None
            except psycopg.Error as error:
                self._appending.drop()
                self._last_known = _Newest()
                self._complain("appending", error)
                self._tell_late(group)
                is_left = bool(group)
                time.sleep(retry_s)
                retry_s = min(2 * retry_s, RETRY_S[1])
            else:
                is_left = False
                self._take_back("appending")
                if entries:
                    self._last_known.appended(entries[-1])
                if not is_indexed:
                    self._hand_over(entries)

    def _sent(self, connection: Any, group: _Group) -> list[_Entry]:
        """The group as it is in the log: found there under its token, or else numbered and on its way."""
        lock = f"{_LOCK.format(_LOCK_APPENDING, self._lock_id)}; "
        if self._may_guess(group) and (guessed := self._last_known.guess()):
            return self._insert(connection, lock, group, *guessed)
        last = connection.execute(lock + "execute store_last").set_result(-1).fetchone()
        self._last_known.read(*last)
        if group.before is not None:
            if found := connection.execute(_BY_TOKEN, (group.before, group.token), binary=True).fetchall():
                connection.execute("rollback")
                return [_own_entry(pending, *row) for pending, row in zip(group, found, strict=True)]
        if not group:
            connection.execute("rollback")
            return []
        return self._insert(connection, "", group, *last)

    def _may_guess(self, group: _Group) -> bool:
        """True if a group fits into one message, was never sent before, and takes its times from PostgreSQL's clock."""
        return bool(group) and group.before is None and group.is_small and not self._node._given_clock

    def _numbered(self, group: _Group, tx_id: int, tx_time: int, hash: bytes, now: int) -> list[_Entry]:
        """The next numbers, rising times and chained hashes for a group; those refused whose given time does not rise.
        """
        entries = []
        for pending in group:
            try:
                tx_time = pending.timed(self._node._given_clock() if self._node._given_clock else now, tx_time)
            except store.OperationError as error:
                pending.refuse(error)
                continue
            tx_id += 1
            hash = store._chained(hash, tx_id, tx_time, pending.data)
            entries.append(_own_entry(pending, tx_id, tx_time, hash))
        group[:] = [entry.pending for entry in entries]
        return entries

    def _tell_late(self, group: _Group) -> None:
        group.tell_late(self.cut_off)
        with self._mutex:
            waiting = _Group(self._queue)
            waiting.tell_late(self.cut_off)
            self._queue = collections.deque(waiting)

    def _insert(self, connection: Any, lock: str, group: _Group, tx_id: int, *last: Any) -> list[_Entry]:
        """Sends the rows of a group, to follow what is last, with the statements that take the lock if it is not held
        yet.
        """
        entries = self._numbered(group, tx_id, *last)
        if not entries:
            if not lock:
                connection.execute("rollback")
            return []
        group.before = tx_id
        columns = zip(*((entry.tx_id, entry.tx_time, entry.pending.data, entry.hash, entry.pending.bytes)
                        for entry in entries))
        contents = [(entry.tx_id, *content) for entry in entries for content in entry.pending.contents]
        for lot in () if group.is_small else _lots(contents):
            connection.execute(_APPEND_DOCUMENTS, lot)
        documents = zip(*contents) if group.is_small and contents else [()] * 4
        self._appending.send(lock + _APPEND.format(", ".join(map(_array, (*documents, *columns))), group.token, tx_id,
                                                   self._rings), len(entries))
        return entries

    def _index_meanwhile(self, entries: list[_Entry]) -> bool:
        """Indexes what was sent while PostgreSQL commits it, if it is next and nobody else is indexing; whether it did.
        """
        if not self._indexing.acquire(blocking=False):
            return False
        try:
            is_next = bool(entries) and entries[0].tx_id == self._file.latest.tx_id + 1 and not self._file.failed
            if is_next:
                self._index_all(entries, self._appending)
        except LOCAL_TROUBLE as error:       # the follower tries again
            self._complain("indexing", error)
            is_next = False
        finally:
            self._indexing.release()
        if is_next:
            self._tell_indexed(entries)
        return is_next

    def _hand_over(self, entries: list[_Entry]) -> None:
        """The transactions that the follower indexes next."""
        with self._mutex:
            self._own.extend(entries)
            self._refuse_if_failed()
        self._wake()

    # Following

    def _follower(self) -> None:
        retry_s = RETRY_S[0]
        while not self._ended or self._own:
            try:
                self._follow()
                self._take_back("following"), self._take_back("indexing")
                self._await_bell()
                retry_s = RETRY_S[0]
            except (psycopg.Error, *LOCAL_TROUBLE) as error:
                if self._file.failed:
                    return self._fail(error)
                self._following.drop()
                self._complain("following" if isinstance(error, psycopg.Error) else "indexing", error)
                self._tell_unindexed()
                time.sleep(retry_s)
                retry_s = min(2 * retry_s, RETRY_S[1])
            except Exception as error:
                return self._fail(error)

    def _follow(self, progress: store.Progress | None = None) -> None:
        """Indexes what the log has and the index has not; what was appended here is in memory."""
        while entries := self._index_next(self._following, self._fetched):
            if progress:
                progress(entries[-1].tx_id, max(self._newest, entries[-1].tx_id))

    def _index_next(self, link: _Link, more: Callable[[], list[_Entry]]) -> list[_Entry]:
        """Indexes the next transactions, our own if they are next, else `more()`, and tells those who wait for them; []
        if there are none.
        """
        with self._indexing:
            entries = self._own_next() or more()
            try:
                if entries:
                    self._index_all(entries, link)
            except BaseException:
                with self._mutex:
                    self._own.extendleft(entry for entry in reversed(entries) if entry.pending)
                raise
        if entries:
            self._tell_indexed(entries)
        return entries

    def _tell_indexed(self, entries: list[_Entry]) -> None:
        self._acknowledge([(entry.pending, entry.tx) for entry in entries if entry.pending])
        self._node._announce()

    def _own_next(self) -> list[_Entry]:
        """The next transactions, if they were appended here; none if the log has others before them."""
        latest = self._file.latest.tx_id
        known: list[_Entry] = []
        entries: list[_Entry] = []
        with self._mutex:
            while self._own and self._own[0].tx_id <= latest:
                known.append(self._own.popleft())
            while self._own and self._own[0].tx_id == latest + len(entries) + 1 and len(entries) < store.GROUP_MAX:
                entries.append(self._own.popleft())
            if self._own and not entries:
                self._behind = True
        self._acknowledge([(entry.pending, self._file.transaction(entry.tx_id)) for entry in known])
        return entries

    def _acknowledge(self, told: list) -> None:
        """Tells those whose transaction is indexed here, unless they were told before that it takes too long."""
        told = [(pending, tx) for pending, tx in told if not pending.error]
        for pending, tx in told:
            pending.tx = tx
        if told:
            self._crowd = len(told) + len(self._queue)
            store._tell([pending for pending, _ in told])

    def _fetched(self) -> list[_Entry]:
        """The next transactions as PostgreSQL has them, with their contents."""
        connection = self._following.use()
        if not self._behind:
            return []
        self._behind = False
        after = self._file.latest.tx_id
        rows = connection.execute(_NEXT, {"after": after, "count": store.GROUP_MAX, "bytes": FOLLOW_BYTES}, binary=True,
                                  prepare=True)
        entries: list[_Entry] = []
        contents: dict[int, bytes] = {}
        for tx_id, position, data, tx_time, hash, is_decided, results, newest in rows:
            if position == -1:
                contents, self._newest = {}, newest
                outcome = (results and store.unpack(results)) if is_decided else _OPEN_OUTCOME
                entries.append(_Entry(tx_id, tx_time, data, hash, contents, outcome))
            else:
                contents[position] = data
        for entry in entries:            # a transaction's contents follow it
            entry.ops = [_logged_op(record, entry.contents.get(place * CALL_PARTS)) for place,
                         record in enumerate(store.unpack(entry.data))]
        self._behind |= bool(entries) and self._newest > entries[-1].tx_id
        return entries

    def _index_all(self, entries: list[_Entry], link: _Link) -> None:
        """Indexes a group; again, with what others recorded first, if they did."""
        while decided := self._try_to_index(entries, link):
            decided.tell(entries)

    def _try_to_index(self, entries: list[_Entry], link: _Link) -> _Decided | None:
        chores = _Chores()

        def confirm() -> None:
            link.answer()                # nobody sees what may not be in the log
            if chores:
                self._record(link.use(), chores)

        try:
            self._write(functools.partial(self._fill, entries, chores), confirm)
        except _Decided as decided:
            return decided
        return None

    def _fill(self, entries: list[_Entry], chores: _Chores, batch: store._Batch) -> None:
        self._file.index.learn_numbers(op.id for entry in entries for op in entry.ops)
        for entry in entries:
            self._apply(entry, batch, chores)

    def _apply(self, entry: _Entry, batch: store._Batch, chores: _Chores) -> None:
        previous = batch.latest
        db = store._WriterDb(self._node, self._file.writer, store.Point(previous.tx_id, entry.tx_time, previous.n))
        transaction = _LoggedTransaction(db, entry.tx_id, entry.tx_time, previous.n)
        committed = transaction.follow(entry)
        if committed:
            batch.write(transaction)
        batch.record(transaction, entry.data, committed)
        if batch._hash != entry.hash or entry.tx_id != previous.tx_id + 1:
            raise store.CorruptError(f"Transaction {entry.tx_id} of the log does not have the hash that its contents "
                                     f"make.", entry.tx_id)
        chores.note(entry, transaction, committed)
        entry.tx = store.Tx(entry.tx_id, store._moment(entry.tx_time), committed, None, transaction.reason)

    def _record(self, connection: Any, chores: _Chores) -> None:
        """Outcomes are recorded, and contents deleted, before the index has the transactions. Raises: _Decided."""
        connection.execute(_LOCK.format(_LOCK_RECORDING, self._lock_id))
        known = dict(connection.execute(_OUTCOMES, (list(chores.outcomes),),
                                        binary=True).fetchall()) if chores.outcomes else {}
        if any(chores.outcomes[tx_id] != results for tx_id, results in known.items()):
            made = connection.execute(_CONTENTS, (list(known),), binary=True).fetchall()
            connection.execute("rollback")
            raise _Decided(known.items(), made)
        new = {tx_id: results for tx_id, results in chores.outcomes.items() if tx_id not in known}
        if new:
            connection.execute(_RECORD, (list(new), list(new.values())))
            connection.execute(_FORGET_ARGUMENTS, (list(new),))
            for lot in _lots([content for content in chores.contents if content[0] in new]):
                connection.execute(_APPEND_DOCUMENTS, lot)
        if chores.evicted:
            connection.execute(_FORGET_EVICTED, tuple(map(list, zip(*chores.evicted))))
        if chores.aborted:
            connection.execute(_FORGET_ABORTED, (chores.aborted,))
        connection.execute("commit")

    # The bell

    def _await_bell(self) -> None:
        """Returns when somebody appended, here or elsewhere, or after a second."""
        connection, end = self._following.use(), time.monotonic() + POLL_S
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN), poll.register(self._bell, select.POLLIN)
        while not (self._is_behind(connection) or self._own or self._ended):
            if self._send_notices(connection):
                continue                 # bells may have come with the answer
            until = min(end, self._notify_at) if self._notices else end
            with contextlib.suppress(BlockingIOError):
                poll.poll(max(0, until - time.monotonic()) * 1000 + 1)
                self._bell.recv(4096)
            self._behind |= time.monotonic() > end

    def _is_behind(self, connection: Any) -> bool:
        connection.pgconn.consume_input()
        while notice := connection.pgconn.notifies():
            self._heard(notice.relname.decode(), notice.be_pid, notice.extra.decode("utf-8", "replace"))
        return self._behind

    def _heard(self, channel: str, pid: int, notice: str) -> None:
        """A notice of some server; or a bell, which says nothing new if we rang it ourselves."""
        if channel == f"{self._channel}_notices":
            self._node._hear(notice)
        else:
            self._behind |= pid != self._ringer

    # Notices

    def notify(self, notice: str) -> None:
        """Leaves it to the follower. It goes by PostgreSQL to all servers, so all hear notices in one order."""
        self._notices.append(notice)
        self._wake()

    def _send_notices(self, connection: Any) -> bool:
        if is_time := bool(self._notices) and time.monotonic() >= self._notify_at:
            lot = [self._notices.popleft() for _ in range(min(len(self._notices), NOTICES_AT_ONCE))]
            connection.execute(_NOTIFY, (f"{self._channel}_notices", lot))
            self._notify_at = time.monotonic() + NOTICES_PAUSE_S
        return is_time

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):      # so many are waiting that it will wake
            self._rope.send(b"!")

    # Trouble

    @property
    def cut_off(self) -> str | None:
        return self._file.failed or next(iter(list(self._troubles.values())), None)

    def _complain(self, what: str, error: Exception) -> None:
        reason = _reason(error)
        if not self._troubles:
            store.log.warning("%s, transactions wait, reads go on (%s: %s)",
                              "this server cannot index" if what == "indexing" else "PostgreSQL is out of reach", what,
                              reason)
            self._since = time.monotonic()
        self._troubles[what] = (f"This server cannot index what the log has: what it shows is of before ({reason})"
                                if what == "indexing"
                                else f"PostgreSQL takes no transactions at the moment ({reason})")

    def _take_back(self, what: str) -> None:
        if self._troubles.pop(what, None) and not self._troubles:
            store.log.warning("PostgreSQL is back, after %.1f s", time.monotonic() - self._since)

    def _tell_unindexed(self) -> None:
        """Those whose transaction is in the log, but cannot be indexed here as long as the log is out of reach."""
        with self._mutex:
            _refuse_late([entry.pending for entry in self._own],
                         store.UnreachableError(f"{self.cut_off}. The transaction is in the log, and will appear.",
                                                True))

    def _fail(self, error: BaseException, waiting: Any = ()) -> None:
        """Stops at a row that is damaged or impossible: each server would otherwise decide it in another way."""
        with self._mutex:
            self._file.failed = self._file.failed or (
                f"{error} The store takes no more until it is opened again; reads go on.")
            waiting = [*waiting, *self._queue, *(entry.pending for entry in self._own)]
            self._queue.clear(), self._own.clear()
        store.log.error("%s", self._file.failed, exc_info=error)
        for pending in waiting:
            pending.refuse(store.ClosedError(self._file.failed))
        self._node._announce()


class _Group(list):
    """Transactions that are appended together. `token` is theirs in the log; `before`, once it was sent, what was the
    newest then.
    """

    before: int | None

    def __init__(self, pendings: Iterable[_Submitted]):
        super().__init__(pendings)
        self.token, self.before = uuid.uuid4(), None
        self.is_small = sum(pending.bytes for pending in self) <= MESSAGE_BYTES

    def tell_late(self, reason: str | None) -> None:
        """Refuses the transactions that waited too long, and drops them if the group was never sent.

        A group that was sent stays whole, because it is found again by its order.
        """
        if self.before is None:
            _refuse_late(self, store.UnreachableError(f"{reason}. Nothing was written; try again later."))
            self[:] = [pending for pending in self if not pending.error]
        else:
            _refuse_late(self, store.UnreachableError(f"{reason}. Whether the transaction was written is not known; if "
                                                      f"it was, it will appear.", True))
            if all(pending.error for pending in self):
                self.clear()


def _refuse_late(pendings: Iterable[_Submitted], error: Exception) -> None:
    for pending in pendings:
        if time.monotonic() - pending.since > HOLD_S_MAX:
            pending.refuse(error)


def _own_entry(pending: _Submitted, tx_id: int, tx_time: int, hash: bytes, *_: Any) -> _Entry:
    contents = {position: data for position, _, data in pending.contents}
    entry = _Entry(tx_id, tx_time, pending.data, hash, contents, _OPEN_OUTCOME, pending)
    entry.ops = pending.ops
    return entry


def _array(values: Iterable) -> str:
    """Numbers, or bytes, as an array in a statement: for bytes ten times as fast as the driver."""
    return "'{" + ",".join([str(value) if type(value) is int else "null" if value is None else rf'"\\x{value.hex()}"'
                            for value in values]) + "}'"


def _lots(contents: Iterable[tuple]) -> Iterator[tuple[list, ...]]:
    """Rows of contents as columns, in lots of so many bytes as are sent at once; at least one lot."""
    lot, size = [], 0
    for row in contents:
        lot.append(row)
        size += len(row[-1])
        if size > FOLLOW_BYTES:
            yield tuple(map(list, zip(*lot)))
            lot, size = [], 0
    yield tuple(map(list, zip(*lot))) or ([], [], [], [])


ADDRESS = re.compile(r"postgres(?:ql)?://(?:(?:[^@/?%\s]|%[0-9a-fA-F]{2})*@)?(?:[^@%\s]|%[0-9a-fA-F]{2})*")


class IndexFile(store._File):
    """The file of a server's own that indexes a log."""
    is_index = True

    def __init__(self, path: Any, about: bytes | None = None):
        """`about`: the first row of the log; None looks at a file whose log is gone."""
        self.about = about
        super().__init__(path)

    def _about(self) -> bytes:
        return self.about or super()._about()

    def _check_mark(self, mark: int, about: bytes) -> None:
        if self.about and self.about != about:
            raise store.CorruptError(f"{self.path} is an index of store {self.store_id}, the log is of store "
                                     f"{store.unpack(self.about)['store']}. Name another index, or remove this one: it "
                                     "is made again from the log.")
        if self.about and mark != store.INDEX_MARK:
            self.writer.execute(f"pragma application_id = {store.INDEX_MARK}")


def opened(url: str, path: str | os.PathLike[str] | None, node: store.Node,
           readonly: bool) -> tuple[IndexFile, PostgresLog]:
    """The index at `path` that belongs to a log, and the log."""
    if readonly:
        raise store.StoreError("readonly=True was given for a log on PostgreSQL; only a file can be opened for reading "
                               "only.")
    if path is None:
        raise store.StoreError("A log on PostgreSQL needs a file of this server's own to index it in: open(address, "
                               "index=\"path\").")
    if not ADDRESS.fullmatch(url):             # PostgreSQL's own sentence would show a part of the password
        raise store.StoreError("The address of the log on PostgreSQL cannot be read. Write @ / ? and % in its password "
                               "as %40 %2F %3F and %25.")
    link = _Link(url, lambda connection: None)
    try:
        about = _first_row(link.use()) or _made(link.use(), path)
    except psycopg.Error as error:
        raise store.UnreachableError(f"The log on PostgreSQL cannot be opened: {str(error).strip()}.") from error
    finally:
        link.drop()
    file = IndexFile(path, about)
    return file, PostgresLog(file, node, url)


def _first_row(connection: Any) -> bytes | None:
    """None if there is no log. Reading from a table takes note of tables made since one was asked for, `to_regclass`
    alone does not.
    """
    if not connection.execute("select 1 from pg_class where oid = to_regclass('store_log')").fetchone():
        return None
    row = connection.execute("select ops from store_log where tx_id = 0", binary=True).fetchone()
    return row and row[0]


def _made(connection: Any, path: Any) -> bytes:
    """Makes the tables of a new log and its first row; of servers that start together, one does."""
    if path != ":memory:" and store._size(path):
        with contextlib.closing(IndexFile(path)) as old:
            raise store.CorruptError(f"{path} is an index of store {old.store_id} up to transaction "
                                     f"{old.latest.tx_id}, and in PostgreSQL there "
                               "is no log (its newest transaction: none). Put the log back, or remove the index to "
                               "begin a new one.")
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(%s, 0)", (_LOCK_MAKING,))
        about = _first_row(connection)
        if about is None:
            about = store._about_new_store()
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            connection.execute("insert into store_log values (0, 0, %b, %b, %b, null)",
                               (about, store.digest(about), len(about)))
    return about
