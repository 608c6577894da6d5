# SPDX-License-Identifier: MIT
"""Looking after a store: `Node.backup`, `Node.verify` and `Node.reindex` import it, for those who run one for years.

The log says what the index must be. `reindex` writes the index again from log and documents; `verify` derives it once
more beside the file, and compares the two.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import secrets
import sqlite3
import tempfile
from collections.abc import Callable

if not __package__:
    import store
else:                                 # both are part of somebody's package
    store = importlib.import_module(".store", __package__)

DERIVED = "joined", "facts", "unseen", "rects", "attributes", "ids"
COMPARED = {
    "ids": "select n, uuid from {0}.ids where n > 0",
    "rects": "select * from {0}.rects",
    "unseen": "select * from {0}.unseen",
    "facts": "select f.p, a.name, f.v, f.k, f.e, f.n, f.d from {0}.facts f left join {0}.attributes a using (a)",
}


def backup(file: store._File, path: str | os.PathLike[str], progress: store.Progress | None) -> int:
    """Copies a file; the newest tx_id in it. The copy grows under another name: what was broken off is no store."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise store.StoreError(f"{store._short(path)} is no path; wanted that of a new file.")
    if os.path.lexists(path):
        raise store.StoreError(f"{path} exists already; a backup is a new file.")
    part = f"{os.fspath(path)}.part"
    with file.reading() as reader:
        reader.execute("begin")
        reader.execute("select 1 from log").fetchone()      # one state: else each write begins the copy anew
        try:
            store._empty_file(part)
            step = None if progress is None else lambda _, left, total: progress(total - left, total)
            with contextlib.closing(sqlite3.connect(part)) as target:
                reader.connection.backup(target, pages=-1 if progress is None else 1000, progress=step)
                newest, = target.execute("select max(tx_id) from log").fetchone()
            store._synced(part)
            os.rename(part, path)
            store._synced(os.path.dirname(os.path.abspath(path)))
            return newest
        except (OSError, sqlite3.Error) as error:
            raise store.StoreError(f"{path} cannot be written: {getattr(error, 'strerror', error)}.") from error
        finally:
            with contextlib.suppress(sqlite3.Error):
                reader.execute("rollback")
            with contextlib.suppress(OSError):
                os.unlink(part)


# Deriving again


def reindex(file: store._File, progress: store.Progress | None) -> None:
    """Writes the index of a file again; for its only writer."""
    def make() -> None:
        counted, execute = file.counted_wal(), file.writer.execute
        for name in DERIVED:
            execute(f"drop table if exists {name}")
        for statement in store._DERIVED.split(";"):
            execute(statement)
        file.index = store._Index(file, file.writer)
        if file.index.texts:
            store._sibling("store_text").make_tables(execute, file.index.texts)
        replay(file, progress)
        changes = (1 + secrets.randbelow(2 ** 30)) * store._REDERIVED
        execute("update attributes set kinds = ?, name = ? where a = ?", (changes, counted, store._COUNTED))
        file.mark()
    derive(file, make, f"The index in {file.path} was not derived again", "the old one is there.")


def derive(file: store._File, make: Callable[[], None], failure: str, advice: str) -> None:
    """Derives something in one SQLite transaction: a crash leaves what was there."""
    try:
        file.begin()
        make()
        file.writer.execute("commit")
        file.keep_wal_small(False)
    except sqlite3.Error as error:
        raise store.StoreError(f"{failure} ({error}); {advice}") from error
    finally:
        try:
            file.undo()               # what was not committed; memory says what is there
        except sqlite3.Error as error:
            file.fail(error)
            raise store.ClosedError(file.failed) from error


def replay(file: store._File, progress: store.Progress | None) -> None:
    """Writes into an empty index what the log says was done, calling no function."""
    file.index.uncounted.clear()
    file.index.batch = batch = store._Batch(file)
    n = 0
    for tx_id, tx_time, ops, results in file.writer.connection.cursor().execute(
            "select tx_id, tx_time, ops, results from log where tx_id > 0 and committed = 1 order by tx_id"):
        db = store._WriterDb(None, file.writer, store.Point(tx_id - 1, tx_time, n))
        transaction = _Replayed(db, tx_id, tx_time, n)
        transaction.replay(store._became(ops, results))
        batch.write(transaction)
        n = transaction.n
        if progress:
            progress(tx_id, file.latest.tx_id)
    file.index.batch = None
    batch.flush()
    batch.count()
    file.index.write_statistics(file.latest.n)


class _Replayed(store._Transaction):
    is_logged = True

    def replay(self, records: list) -> None:
        """Applies what the log says was done; documents that are gone belong to entities evicted later."""
        for kind, id, *rest in records:
            if kind in (store._DELETE, store._EVICT):
                self._apply(store._Op(kind, id, *rest))
            elif kind == store._PUT:
                row = self._db._file.writer.execute("select doc from documents where n = ?", (self.n + 1,)).fetchone()
                if row:
                    facts = store._encoded(store.unpack(row[0]))[1]
                    self._apply(store._Op(kind, id, rest[0], rest[1], row[0], rest[2], facts))
                else:
                    self.n += 1
                    self._to_write(id, rest[0])


# Comparing with the log


def verify(file: store._File, progress: store.Progress | None) -> int:
    """Compares log, documents and index; the number of transactions. `progress` counts log and index as two halves."""
    missing: dict[bytes, int] = {}
    previous, n = None, 0
    with file.reading() as reader:
        reader.is_used = True
        reader.execute("begin")       # one state of log and documents, until the reader is given back
        total, = reader.execute("select max(tx_id) from log").fetchone()
        for row in reader.execute("select * from log order by tx_id"):
            previous, n = row, _verified(row, previous, n, missing, reader)
            if progress:
                progress(row[0], 2 * total)
    if missing:
        tx_id = min(missing.values())
        raise store.CorruptError(f"A document put by transaction {tx_id} is gone, and no transaction evicted it.",
                                 tx_id)
    _verify_index(file, progress and (lambda done, of: progress(of + done, 2 * of)))
    return total


def _verified(row: tuple, previous: tuple | None, n: int, missing: dict[bytes, int], reader: store._Reader) -> int:
    """Compares a row of the log and its documents with their hashes; the number of the last document.

    `missing`: which transaction put a document that is not there, by its id, as long as no evict has come.
    """
    tx_id, _, ops, _, committed, results, _, last = row
    store._check_link(row, previous)
    for record in store._became(ops, results) if tx_id and committed else ():
        if record[0] == store._EVICT:
            missing.pop(store.pack(record[1]), None)
        elif record[0] == store._PUT:
            n += 1
            found = reader.execute("select doc from documents where n = ?", (n,)).fetchone()
            if found is None:
                missing.setdefault(store.pack(record[1]), tx_id)
            elif type(found[0]) is not bytes or store.digest(found[0]) != record[4]:
                raise store.CorruptError(f"Document {n}, put by transaction {tx_id}, is not what was written.", tx_id)
    if n != last:
        raise store.CorruptError(f"Transaction {tx_id} ends with document {last}, its operations with {n}.", tx_id)
    return n


def _verify_index(file: store._File, progress: store.Progress | None) -> None:
    try:
        with tempfile.TemporaryDirectory(prefix="store-", ignore_cleanup_errors=True) as folder:
            other = _Rederived(file, os.path.join(folder, "index.db"))
            with contextlib.closing(other.writer.connection):
                replay(other, progress)
                found = ", ".join(other.differences())
        if found:
            raise store.CorruptError(f"The index in {file.path} does not hold what the log says ({found}): reindex.")
    except sqlite3.Error as error:
        raise file.read_error(error) from error
    except (KeyError, TypeError, ValueError) as error:       # a damaged index gives values of any type
        raise store.CorruptError(f"The index in {file.path} cannot be compared with the log ({error}): "
                                 "reindex.") from error


class _Rederived(store._File):
    """The index of another file, derived once more in a temporary one, from the other's log and documents."""

    def __init__(self, file: store._File, path: str):
        self.closed, self.path, self.progress, self.uri = None, file.path, None, file.uri
        connection = store._connected(store._uri(path, "rwc"), "journal_mode = off", "synchronous = off",
                                      "temp_store = memory", "cache_size = -32000")
        connection.executescript(store._DERIVED)
        if file.index.texts:
            store._sibling("store_text").make_tables(connection.execute, file.index.texts)
        connection.execute("attach ? as was", (file.uri,))
        self.writer = store._Reader(self, connection)
        self.documents = store._TwoDicts(store.CACHE_BYTES, lambda kept: kept[1])
        self.evictions = self.births = 0
        connection.execute("begin")           # of log and documents there is one state, as long as this lasts
        self._load_place(store._UNKNOWN)
        self.index = store._Index(self, self.writer)

    def differences(self) -> list[str]:
        """Which tables differ; also the indexes of SQLite, which hold each row a second time."""
        execute, found, compared = self.writer.execute, [], COMPARED
        if execute("select 1 from was.sqlite_master where name = 'joined'").fetchone():
            execute(store._JOINED_TABLE[0])
            compared = COMPARED | {"joined": "select * from {0}.joined"}
        for table, rows in compared.items():
            was, now = rows.format("was"), rows.format("main")
            before, after = execute(f"select (select count(*) from ({was})), (select count(*) from ({now}))").fetchone()
            if before != after or execute(f"select * from ({was}) except select * from ({now}) limit 1").fetchone():
                found.append(table)
        if self.index.texts and store._sibling("store_text").differ(execute):
            found.append("texts")
        if (said := execute("pragma was.integrity_check(1)").fetchone()[0]) != "ok":
            found.append(said)
        return found
