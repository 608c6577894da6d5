"""SQLite fails at each statement in turn: the error is ours, nothing is half there, and reading goes on."""
import contextlib
import fcntl
import gc
import os
import shutil
import sqlite3

import pytest

import store
from store import call, delete, evict, match, put


class Faults:
    """Counts the statements of every connection that is opened, and lets one of them fail."""

    def __init__(self, monkeypatch):
        self.count, self.at = 0, None
        faults, connect = self, sqlite3.connect

        class Cursor(sqlite3.Cursor):
            def execute(self, *args):
                faults.happen()
                return super().execute(*args)

            def executemany(self, *args):
                faults.happen()
                return super().executemany(*args)

        class Connection(sqlite3.Connection):
            def cursor(self, factory=Cursor):
                return super().cursor(factory)

            def execute(self, *args):
                return self.cursor().execute(*args)

            def executemany(self, *args):
                return self.cursor().executemany(*args)

            def backup(self, *args, **options):
                faults.happen()
                return super().backup(*args, **options)
        monkeypatch.setattr(store.sqlite3, "connect",
                            lambda *args, **options: connect(*args, **options | {"factory": Connection}))

    def happen(self):
        self.count += 1
        if self.count == self.at:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error

    def arm(self, at):
        self.count, self.at = 0, at

    def disarm(self):
        self.at = None


@pytest.fixture
def faults(monkeypatch):
    return Faults(monkeypatch)


FUNCTIONS = {"copy": lambda ctx, one, other: [put(ctx.db.entity(one) | {"xt/id": other})]}
NAMED = {"find": ["?e", "?n"], "where": [["?e", "name", "?n"]]}
RULES = [[("under", "?a", "?b"), ["?a", "boss", "?b"]],
         [("under", "?a", "?b"), ("under", "?a", "?c"), ("under", "?c", "?b")]]
SOME = {"find": ["?e", "?n"], "where": [["?e", "boss"], [("q", NAMED), [["?e", "?n"]]]]}
UNDER = {"find": ["?a", "?b"], "where": [("under", "?a", "?b")], "rules": RULES}


@pytest.fixture
def path(tmp_path):
    """A file with a little of everything, closed."""
    path = tmp_path / "one.db"
    with contextlib.closing(store.open(path, FUNCTIONS)) as node:
        node.submit_tx([put({"xt/id": "ann", "name": "Ann", "boss": "bob"}),
                        put({"xt/id": "bob", "name": "Bob", "boss": "cy"})])
        node.submit_tx([put({"xt/id": "cy", "name": "Cy", "long": "x" * 99}), put({"xt/id": "gone", "name": "Gone"})])
        node.submit_tx([put({"xt/id": "ann", "name": "Anna", "boss": "bob"}), delete("gone")])
    return path


def lazily(db):
    with db.lazy_q(NAMED) as rows:
        return sorted(rows)


READS = {
    "entity": lambda node, db: db.entity("ann"),
    "an entity of the past": lambda node, db: node.db(1).entity("ann"),
    "a query": lambda node, db: sorted(db.q(NAMED)),
    "a query in order": lambda node, db: db.q(NAMED | {"order-by": [["?n"]], "limit": 2}),
    "a query of the past": lambda node, db: sorted(node.db(2).q(NAMED)),
    "a hashed value": lambda node, db: db.q({"find": "?v", "where": [["?e", "long", "?v"]]}),
    "rules": lambda node, db: sorted(db.q(UNDER)),
    "a subquery": lambda node, db: sorted(db.q(SOME)),
    "a stream": lambda node, db: lazily(db),
    "a pull": lambda node, db: db.pull(["*", {"boss": ["name", {"_boss": ["xt/id"]}]}], "ann"),
    "a history": lambda node, db: db.history("ann"),
    "a supposition": lambda node, db: sorted(db.with_tx([put({"xt/id": "di", "name": "Di"}), delete("bob")]).q(NAMED)),
    "the log": lambda node, db: list(node.tx_log()),
    "a transaction": lambda node, db: node.tx(2),
}


@pytest.mark.parametrize("kind", READS)
def test_a_read_that_fails_says_so_and_the_next_one_answers(path, tmp_path, faults, kind):
    """Without this, one failing read would be SQLite's exception, or an empty answer, or the end of all later ones."""
    read, failed = READS[kind], 0
    for at in range(1, 200):
        copy = shutil.copy(path, tmp_path / "copy.db")
        with contextlib.closing(store.open(copy, FUNCTIONS)) as node:
            right = read(node, node.db())
            node._plans.clear(), node._file.documents.clear()
            faults.arm(at)
            try:
                got = read(node, node.db())
            except store.StoreError as error:
                failed += 1
                assert "disk I/O error" in str(error) and str(copy) in str(error)
            else:
                assert got == right
            was_reached = faults.count >= at
            faults.disarm()
            assert read(node, node.db()) == right, f"statement {at} failed, and the next answer is another"
            assert node.submit_tx([put({"xt/id": "after", "n": 1})]).committed
        if not was_reached:
            break
    assert failed and not was_reached


WRITES = {
    "puts": lambda node: node.submit_tx([put({"xt/id": "new", "name": "New"}), put({"xt/id": "ann", "name": "A."})]),
    "a match": lambda node: node.submit_tx([match("bob", node.db().entity("bob")), delete("bob"),
                                            put({"xt/id": "new", "name": "New"})]),
    "a call": lambda node: node.submit_tx([put({"xt/id": "di", "name": "New"}), call("copy", "di", "new")]),
    "an evict": lambda node: node.submit_tx([evict("cy"), put({"xt/id": "new", "name": "New"})]),
    "an abort": lambda node: node.submit_tx([put({"xt/id": "ann", "name": "A."}), match("new", {"xt/id": "new"})]),
}


def state_of(path):
    """All that a file says, once it is opened again."""
    with contextlib.closing(store.open(path, FUNCTIONS)) as node:
        count = node.verify()
        log = [(tx.tx_id, tx.ops) for tx in node.tx_log()]
        return count, sorted(node.db().q(NAMED)), log, [node.db().history(id) for id in ("ann", "bob", "cy", "new")]


@pytest.mark.parametrize("kind", WRITES)
def test_a_write_that_fails_is_whole_or_not_there(path, tmp_path, faults, kind):
    """Without this, a transaction could be refused and be there, or be half there."""
    write, failed = WRITES[kind], 0
    before = state_of(path)
    whole = shutil.copy(path, tmp_path / "whole.db")
    with contextlib.closing(store.open(whole, FUNCTIONS)) as node:
        write(node)
    after = state_of(whole)
    assert after[0] == before[0] + 1
    for at in range(1, 300):
        copy = shutil.copy(path, tmp_path / "copy.db")
        told, node = None, store.open(copy, FUNCTIONS)
        try:
            faults.arm(at)
            try:
                told = write(node)
            except store.StoreError as error:
                failed += 1
                assert "disk I/O error" in str(error)
            was_reached = faults.count >= at
            faults.disarm()
            assert node.db(3).entity("ann")["name"] == "Anna", "reading goes on"
        finally:
            with contextlib.suppress(store.StoreError):
                node.close()
        found = state_of(copy)
        assert (found[:2] == after[:2] if told else found == before), f"statement {at} failed"
        if not was_reached:
            break
    assert failed and not was_reached


@pytest.mark.parametrize("kind", ["a new file", "an old file", "a file whose index is of another version"])
def test_an_opening_that_fails_leaves_the_file_as_it_was(path, tmp_path, faults, kind):
    """Without this, a disk that fails for a moment at the start could cost the file, or leave it locked."""
    if kind == "a file whose index is of another version":
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
            file.execute("pragma user_version = 1")
    right = state_of(shutil.copy(path, tmp_path / "whole.db")) if kind != "a new file" else None
    failed = 0
    for at in range(1, 400):
        copy = tmp_path / f"copy{at}.db"
        if kind != "a new file":
            shutil.copy(path, copy)
        faults.arm(at)
        try:
            store.open(copy, FUNCTIONS).close()
        except store.StoreError as error:
            failed += 1
            assert "disk I/O error" in str(error), error
        was_reached = faults.count >= at
        faults.disarm()
        if right:
            assert state_of(copy) == right, f"statement {at} failed"
        else:
            with contextlib.closing(store.open(copy)) as node:
                assert node.submit_tx([put({"xt/id": "a"})]).tx_id == 1
        if not was_reached:
            break
    assert failed and not was_reached


@pytest.mark.parametrize("kind", ["backup", "verify", "reindex"])
def test_an_upkeep_that_fails_says_so_and_changes_nothing(path, tmp_path, faults, kind):
    """Without this, a broken-off backup could be taken for one, or a rebuilding leave half an index."""
    right, failed = state_of(path), 0
    for at in range(1, 300):
        target, copy = tmp_path / f"backup{at}.db", shutil.copy(path, tmp_path / f"copy{at}.db")
        with contextlib.closing(store.open(copy, FUNCTIONS)) as node:
            faults.arm(at)
            is_done = False
            try:
                {"backup": lambda: node.backup(target), "verify": node.verify, "reindex": node.reindex}[kind]()
                is_done = True
            except store.StoreError as error:
                failed += 1
                assert "disk I/O error" in str(error), error
            was_reached = faults.count >= at
            faults.disarm()
        assert state_of(copy) == right, f"statement {at} failed"
        if kind == "backup":
            assert state_of(target) == right if is_done else not target.exists(), f"statement {at} failed"
        if not was_reached:
            break
    assert failed and not was_reached


# ── What is left open ────────────────────────────────────────────────────────────────────────────────────────

def use(path, number):
    with contextlib.closing(store.open(path, FUNCTIONS)) as node:
        node.submit_tx([put({"xt/id": number}), evict(number)])
        node.backup(path.with_name(f"backup{number}.db")), node.verify(), node.reindex()
        lazily(node.db()), node.db().with_tx([delete("ann")]).q(NAMED)


def refused(path, **options):
    with pytest.raises(store.StoreError):
        store.open(path, **options)


def held(path):
    """Opens a file that somebody else holds."""
    with open(path) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(path, timeout=0)


OPENINGS = {
    "opened and closed": lambda path, number: use(path, number),
    "held by another process": lambda path, number: held(path),
    "no store": lambda path, number: refused(path.with_name("junk")),
    "a folder": lambda path, number: refused(path.parent),
    "in no folder": lambda path, number: refused(path.parent / "none" / "one.db"),
}


@pytest.mark.parametrize("kind", OPENINGS)
def test_no_file_stays_open_behind_an_opening(path, kind):
    """Without this, a program that tries to open a file again and again would run out of files."""
    path.with_name("junk").write_bytes(b"junk" * 3_000)
    counts = []
    for number in range(12):
        OPENINGS[kind](path, number)
        gc.collect()
        counts.append(len(os.listdir("/proc/self/fd")))
    assert counts[-1] == counts[1], counts
