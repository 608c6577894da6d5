"""The bytes of files: one file for each SHA-256 in a folder of this server; with a shared log, in its PostgreSQL, too.

    kept = await opened(folder, log_url)           # log_url None: this server is the only one
    await kept.keep(file_id, {sha256: path})       # takes what was written there; it is durable when this returns
    path = await kept.found(sha256)                # None if the bytes are missing
    await kept.drop(sha256, file_ids, is_named)    # these files are gone; no bytes stay that nobody names

With a shared log the folder is only what this server was asked for lately, within a bound: each file is fetched once.
In PostgreSQL a row says which file uses which bytes, so that an upload on one server and an erasure on another, at the
same moment, agree: both take the lock of the row of the bytes first.
"""
import asyncio
import collections
import contextlib
import fcntl
import functools
import hashlib
import os
import pathlib
import re
import secrets
import shutil
import time

from plugins.places import Refused

DISK_MB_MIN = 500                     # that stay free: the store needs them, and a full disk ends the server
PIECE_BYTES = 1024 ** 2               # of a file, in a row of PostgreSQL: what is in memory at once
CACHE_MB_MAX = 2_000                  # of files that are kept here beside PostgreSQL
AT_ONCE = 3                           # connections to PostgreSQL for files; the rest wait
ANSWER_S_MAX = 10                     # for PostgreSQL to do one of these, ten megabytes among them
SETTLES_S = 3_600                     # after this a use belongs to a file that the store names, or to none

CUT_OFF = "The server is cut off from the place of its files. Try again in a moment."


async def opened(folder, log_url):
    kept = SharedBytes(folder, log_url) if log_url else Bytes(folder)
    await kept.begin()
    return kept


class Bytes:
    """The folder: a file is whole or not there. Names with a dot are not done yet."""

    def __init__(self, folder):
        self.folder, self._locks = folder, Locks(folder.with_name(f"{folder.name}.lock"))
        self._held: collections.Counter = collections.Counter()     # SHA-256 of uploads that no document names yet
        folder.mkdir(mode=0o700, exist_ok=True)
        if self._locks.take(OPEN, alone=True):         # no other worker is using the folder
            for path in folder.glob("*.new"):          # a crash left them
                path.unlink()
        self._locks.take(OPEN)
        self.sizes = self._on_disk()
        self.bytes = sum(self.sizes.values())

    async def begin(self):
        """Needs no preparation."""

    def path(self, sha256) -> pathlib.Path:
        return self.folder / sha256

    def new_path(self):
        return self.folder / f"{secrets.token_hex(16)}.new"

    def has_room_for(self, size):
        return shutil.disk_usage(self.folder).free - size > DISK_MB_MIN * 1024 ** 2

    async def found(self, sha256):
        return self.path(sha256) if self.path(sha256).exists() else None

    async def keep(self, file_id, new):
        await asyncio.to_thread(self._take, new)
        for sha256 in new:
            self._count(sha256)

    @contextlib.contextmanager
    def holding(self, hashes):
        """While it lasts no worker erases these bytes: they are kept, and no document names them yet."""
        self._held.update(hashes)
        try:
            for sha256 in hashes:
                self._locks.take(place_of(sha256))
            yield
        finally:
            self._held.subtract(hashes)
            self._held += collections.Counter()        # drops those at zero
            for sha256 in set(hashes) - self._held.keys():
                self._locks.leave(place_of(sha256))

    async def drop(self, sha256, file_ids, is_named):
        """`is_named(sha256)` says whether a document names the bytes; it is asked in the moment of erasing."""
        if self._held[sha256] or not self._locks.take(place_of(sha256), alone=True):
            return                                     # who holds them drops them, or names them
        try:
            if not is_named(sha256):
                self._unlink(sha256)
        finally:
            self._locks.leave(place_of(sha256))

    async def names(self):
        """The SHA-256 of all bytes in the folder, those that other workers took, too. Old leavings go."""
        for path in self.folder.glob("*.new"):
            if (found := stat_of(path)) and time.time() - found.st_mtime > SETTLES_S:
                path.unlink(missing_ok=True)
        for sha256 in (await asyncio.to_thread(self._on_disk)).keys() ^ self.sizes.keys():
            self._count(sha256)
        return list(self.sizes)

    async def orphans(self, is_file):
        """{SHA-256: [file id]} of uses that no document stands for; `is_file(id)` says of which one does."""
        return {}

    def _on_disk(self):
        """{SHA-256: size} of the bytes in the folder, those written first first."""
        found = [(found.st_mtime, entry.name, found.st_size) for entry in os.scandir(self.folder)
                 if re.fullmatch(r"[0-9a-f]{64}", entry.name) and (found := stat_of(self.path(entry.name)))]
        return {name: size for _, name, size in sorted(found)}

    def _take(self, new):
        """Gives files that are on the disk their names there."""
        for sha256, path in new.items():
            path.rename(self.path(sha256))
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _count(self, sha256):
        self.bytes -= self.sizes.pop(sha256, 0)
        if found := stat_of(self.path(sha256)):
            self.sizes[sha256] = found.st_size
            self.bytes += found.st_size

    def _unlink(self, sha256):
        self.path(sha256).unlink(missing_ok=True)
        self.bytes -= self.sizes.pop(sha256, 0)


class Locks:
    """Locks between processes, one a number, which end with the process. They are bytes of a file that stays empty.

    Within a process they exclude nobody. Source: POSIX, fcntl, record locks.
    """

    def __init__(self, path):
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)      # closing it would lose all of them

    def take(self, place, alone=False):
        """False if `alone` is wanted and another process has it. Else it waits: others have it alone for a moment."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH, 1, place)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def leave(self, place):
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)


OPEN = 0                              # the place of a lock that all who use the folder have


def place_of(sha256):
    return 1 + int(sha256[:15], 16)


def stat_of(path):
    """The state of a file; None if it is gone."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat()


TABLES = """
    create table if not exists chat_files(sha256 text primary key);
    create table if not exists chat_file_pieces(
        sha256 text references chat_files on delete cascade, n int, bytes bytea not null, primary key (sha256, n));
    create table if not exists chat_file_uses(
        sha256 text references chat_files, file_id uuid, made_at timestamptz not null default now(),
        primary key (sha256, file_id));
    alter table chat_file_pieces alter column bytes set storage external
"""
LOCK_MAKING = 0x66696C65              # of an advisory lock: "file"


class SharedBytes(Bytes):
    """The same beside PostgreSQL, which holds all; the folder holds what was asked for lately."""

    def __init__(self, folder, url):
        super().__init__(folder)
        self._url, self._turns, self._fetching = url, asyncio.Semaphore(AT_ONCE), {}

    async def begin(self):
        def make(cursor):
            cursor.execute("select pg_advisory_xact_lock(%s)", [LOCK_MAKING])
            cursor.execute(TABLES)
        await self._do(make)

    async def found(self, sha256):
        if sha256 not in self.sizes:
            if sha256 not in self._fetching:           # those who ask meanwhile wait for the same
                self._fetching[sha256] = asyncio.ensure_future(self._fetch(sha256))
                self._fetching[sha256].add_done_callback(lambda _: self._fetching.pop(sha256, None))
            await asyncio.shield(self._fetching[sha256])
        if sha256 in self.sizes:
            self.sizes[sha256] = self.sizes.pop(sha256)      # the last in order is the one used last
        return await super().found(sha256)

    async def keep(self, file_id, new):
        await self._do(functools.partial(insert, file_id, new))
        await super().keep(file_id, new)
        self._trim()

    async def drop(self, sha256, file_ids, is_named):
        if file_ids:
            await self._do(functools.partial(remove, sha256, list(file_ids)))
        await super().drop(sha256, file_ids, is_named)

    async def orphans(self, is_file):
        rows = await self._do(lambda cursor: cursor.execute(
            "select sha256, file_id from chat_file_uses where made_at < now() - make_interval(secs => %s)",
            [SETTLES_S]).fetchall())
        found: dict = {}
        for sha256, file_id in rows:
            if not is_file(file_id):
                found.setdefault(sha256, []).append(file_id)
        return found

    async def _fetch(self, sha256):
        path = self.new_path()
        try:
            if await self._do(functools.partial(fetch, sha256, path)):
                await super().keep(None, {sha256: path})
                self._trim()
        finally:
            path.unlink(missing_ok=True)

    def _trim(self):
        while self.bytes > CACHE_MB_MAX * 1024 ** 2 and len(self.sizes) > 1:
            self._unlink(next(iter(self.sizes)))

    async def _do(self, work):
        """Runs `work(cursor)` in one transaction, in a thread, and returns its result.

        Raises: Refused if there is no PostgreSQL.
        """
        async with self._turns:
            return await asyncio.to_thread(self._done, work)

    def _done(self, work):
        import psycopg
        settings: dict = {"connect_timeout": 2, "tcp_user_timeout": ANSWER_S_MAX * 1_000,
                          "application_name": "eelchat files"} | psycopg.conninfo.conninfo_to_dict(self._url)
        try:
            with contextlib.closing(psycopg.connect(**settings)) as connection:
                with connection.transaction(), connection.cursor() as cursor:
                    cursor.execute(f"set local statement_timeout = {ANSWER_S_MAX * 1_000}")
                    return work(cursor)
        except psycopg.OperationalError:
            raise Refused(503, CUT_OFF) from None


def insert(file_id, new, cursor):
    """The bytes, unless they are there, and the row that says who uses them."""
    for sha256, path in sorted(new.items()):
        cursor.execute("insert into chat_files values (%s) on conflict (sha256) do update set sha256 = excluded.sha256 "
                       "returning xmax = 0", [sha256])           # locks the row, new or not
        (is_new,) = cursor.fetchone()
        with path.open("rb") as file:
            for n, piece in enumerate(iter(lambda: file.read(PIECE_BYTES), b"")) if is_new else ():
                cursor.execute("insert into chat_file_pieces values (%b, %b, %b)", [sha256, n, piece])
        cursor.execute("insert into chat_file_uses values (%s, %s)", [sha256, file_id])


def remove(sha256, file_ids, cursor):
    """Takes the uses away, and the bytes if these were the last."""
    cursor.execute("select 1 from chat_files where sha256 = %s for update", [sha256])
    cursor.execute("delete from chat_file_uses where sha256 = %s and file_id = any(%s)", [sha256, file_ids])
    cursor.execute("delete from chat_files f where sha256 = %s and not exists (select from chat_file_uses u "
                   "where u.sha256 = f.sha256)", [sha256])


def fetch(sha256, path, cursor):
    """Writes the bytes into a new file, durable. False if they are not there, or not whole."""
    with path.open("xb") as file:
        for n in range(2 ** 20):
            cursor.execute("select bytes from chat_file_pieces where sha256 = %s and n = %s", [sha256, n], binary=True)
            if (row := cursor.fetchone()) is None:
                break
            file.write(row[0])
        file.flush()
        os.fsync(file.fileno())
    return hash_of(path) == sha256         # else they went while they were read


def hash_of(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
