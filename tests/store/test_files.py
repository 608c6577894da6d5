"""The files of a store on disk: whose they are, and what is not followed to them."""
import contextlib
import gc
import hashlib
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading

import pytest

import store
from conftest import ROOT
from store import evict, put


@pytest.fixture(autouse=True)
def open_umask():
    """Everything that a file's maker does not forbid is allowed."""
    old = os.umask(0)
    yield
    os.umask(old)


def modes(folder):
    return {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in folder.iterdir() if not path.is_symlink()}


def test_every_file_of_a_store_is_its_owners_alone_whatever_the_umask(tmp_path):
    """In a folder that others can enter they would read the store, its backup or its export."""
    with contextlib.closing(store.open(tmp_path / "a.db")) as node:
        node.submit_tx([store.put({"xt/id": "one"})])
        node.backup(tmp_path / "copy.db")
        found = modes(tmp_path)
    subprocess.run([sys.executable, str(ROOT / "shell.py"), str(tmp_path / "a.db"),
                    f".export {tmp_path / 'all.jsonl'}"], check=True,
                   capture_output=True)
    found |= modes(tmp_path)
    assert {"a.db", "a.db-wal", "a.db-shm", "copy.db", "all.jsonl"} <= found.keys()
    assert set(found.values()) == {"0o600"}
    with contextlib.closing(store.open(tmp_path / "a.db")) as node:
        node.on_tx(print)
        assert modes(tmp_path)["a.db-bells"] == "0o700" and set(modes(tmp_path / "a.db-bells").values()) == {"0o600"}


def test_no_bell_and_no_backup_follows_a_link(tmp_path):
    """Whoever may write into the folder would have files of ours removed, or the backup put where they read it."""
    precious, elsewhere, heard = tmp_path / "precious", tmp_path / "elsewhere.db", threading.Event()
    precious.mkdir()
    (precious / "1-00000000").write_text("years of work")
    (tmp_path / "a.db-bells").symlink_to(precious)
    with contextlib.closing(store.open(tmp_path / "a.db")) as node, \
            contextlib.closing(store.open(tmp_path / "a.db")) as other:
        other.on_tx(lambda tx: heard.set())
        node.submit_tx([put({"xt/id": "a"})])
        assert heard.wait(10), "it is heard without a bell"
    assert [path.read_text() for path in precious.iterdir()] == ["years of work"]
    (tmp_path / "copy.db").symlink_to(elsewhere)
    with contextlib.closing(store.open(tmp_path / "b.db")) as node, pytest.raises(store.StoreError,
                                                                                  match="exists already"):
        node.backup(tmp_path / "copy.db")
    assert not elsewhere.exists()


def test_a_stores_schema_is_not_trusted(tmp_path):
    """A file that somebody prepared could call functions of ours from a view or a trigger."""
    with contextlib.closing(store.open(tmp_path / "a.db")) as node:
        assert node._file.writer.execute("pragma trusted_schema").fetchone() == (0,)
        with node._file.reading() as reader:
            assert reader.execute("pragma trusted_schema").fetchone() == (0,)


# ── What is no store ───────────────────────────────────────────────────────────────────────────────────────────────

def fingerprint(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def foreign(path, mode="delete"):
    """Another program's file, with nothing in memory of it."""
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute(f"pragma journal_mode = {mode}")
        other.execute("create table log(x)"), other.execute("insert into log values (1)")
        other.commit()


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_another_programs_file_is_refused_and_left_byte_for_byte(tmp_path, mode):
    """Opened by mistake it was refused, but had been turned to another journal for good, with a lock beside it."""
    foreign(tmp_path / "other.db", mode)
    (tmp_path / "text.db").write_text("years of work " * 100)
    before = fingerprint(tmp_path)
    for name, reason in ("other.db", "not a store"), ("text.db", "not a database"):
        with pytest.raises(store.CorruptError, match=reason):
            store.open(tmp_path / name)
    assert fingerprint(tmp_path) == before


def test_what_is_no_file_gets_a_sentence_of_its_own(tmp_path):
    """A folder was called damaged, an empty file became an empty store, and a path in bytes raised TypeError."""
    (tmp_path / "folder").mkdir(), (tmp_path / "empty.db").touch()
    (tmp_path / "lost.db-wal").write_bytes(b"x" * 5_000), (tmp_path / "cut.db-wal").write_bytes(b"x" * 5_000)
    (tmp_path / "cut.db").touch()
    before = fingerprint(tmp_path / "folder")
    for path, sentence in [(tmp_path / "folder", "is a folder"), (tmp_path / "empty.db", "has 0 bytes"),
                           ("", "is no path"), (5, "is no path"),
                           (tmp_path / "lost.db", "is missing, and its write-ahead log"),
                           (tmp_path / "cut.db", "Its write-ahead log"),
                           (tmp_path / "nowhere" / "one.db", "its folder is not there")]:
        with pytest.raises(store.StoreError, match=sentence):
            store.open(path)
    assert (tmp_path / "empty.db").stat().st_size == (tmp_path / "cut.db").stat().st_size == 0
    assert fingerprint(tmp_path / "folder") == before
    with contextlib.closing(store.open(os.fsencode(tmp_path / "one.db"))) as node:
        node.submit_tx([put({"xt/id": "a"})])
    with contextlib.closing(store.open(tmp_path / "one.db")) as node:
        assert node.db().entity("a")


def test_another_name_of_an_open_file_is_refused(tmp_path):
    """Two names of one file have two write-ahead logs: both stores would have been destroyed."""
    with contextlib.closing(store.open(tmp_path / "one.db")) as node:
        node.submit_tx([put({"xt/id": "a"})])
        os.link(tmp_path / "one.db", tmp_path / "two.db")
        with pytest.raises(store.LockedError, match="this process as .*one.db, another name"):
            store.open(tmp_path / "two.db")
        said = subprocess.run([sys.executable, "-c", "import sys, store; store.open(sys.argv[1], timeout=0.2)",
                               str(tmp_path / "two.db")], cwd=ROOT,
                              capture_output=True, text=True)
        assert "LockedError" in said.stderr and "hard link" in said.stderr
        assert node.submit_tx([put({"xt/id": "b"})]).committed
    with contextlib.closing(store.open(tmp_path / "two.db")) as node:
        assert node.verify() == 2


def test_an_old_sqlite_is_refused_with_both_versions(tmp_path, monkeypatch):
    """It failed later, inside a query, with SQLite's words."""
    monkeypatch.setattr(store.sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(store.StoreError, match=rf"SQLite {sqlite3.sqlite_version}; the store needs 3.35.0"):
        store.open(tmp_path / "one.db")
    assert not list(tmp_path.iterdir())


def test_a_copy_that_was_broken_off_is_no_store(tmp_path, monkeypatch):
    """Half a backup opened as an empty store, so nobody noticed that there was none."""
    with contextlib.closing(store.open(tmp_path / "one.db")) as node:
        node.submit_tx([put({"xt/id": n, "text": "x" * 1_000}) for n in range(3_000)])
        parts = []

        def stopped(done, total):
            parts.extend(path.name for path in tmp_path.iterdir() if "copy" in path.name)
            raise RuntimeError("the lights went out")
        with pytest.raises(RuntimeError):
            node.backup(tmp_path / "copy.db", stopped)
        assert parts and "copy.db" not in parts, "until it is whole it has another name"
        assert not [path for path in tmp_path.iterdir() if "copy" in path.name]
        with pytest.raises(store.StoreError, match="cannot be written: No such file"):
            node.backup(tmp_path / "nowhere" / "copy.db")
        assert node.backup(tmp_path / "copy.db") == 1
    with contextlib.closing(store.open(tmp_path / "copy.db")) as node:
        assert node.verify() == 1


def test_an_old_copy_under_a_newer_write_ahead_log_is_refused(tmp_path):
    """Some such pairs opened, and answered with rows of two different times."""
    node = store.open(tmp_path / "one.db")
    for n in range(20):
        node.submit_tx([put({"xt/id": n, "text": "x" * 500})])
    node._file.empty_wal()
    shutil.copy(tmp_path / "one.db", tmp_path / "old.db")
    for n in range(3):
        node.submit_tx([put({"xt/id": n, "text": "y" * 500})])
        node._file.empty_wal()
    for n in range(5):
        node.submit_tx([put({"xt/id": n, "text": "z" * 500})])
    shutil.copy(tmp_path / "one.db-wal", tmp_path / "old.db-wal")
    for end in "", "-wal":
        shutil.copy(tmp_path / f"one.db{end}", tmp_path / f"crashed.db{end}")
    with pytest.raises(store.CorruptError, match="do not belong together"):
        store.open(tmp_path / "old.db")
    with contextlib.closing(store.open(tmp_path / "crashed.db")) as other:
        assert other.verify() == 28, "those that belong together are opened"
    node.close()


# ── Letting go ─────────────────────────────────────────────────────────────────────────────────────────────────────

def test_a_node_that_is_dropped_lets_go_of_its_file(tmp_path):
    """In a notebook each run of a cell would leave another open file behind."""
    node = store.open(tmp_path / "one.db")
    node.submit_tx([put({"xt/id": "a"})])
    assert node.db().entity("a") and (tmp_path / "one.db-wal").exists()
    del node
    gc.collect()
    assert [path.name for path in tmp_path.iterdir()] == ["one.db"]


def test_evicted_bytes_go_as_soon_as_nothing_reads(tmp_path):
    """A read at the moment of an evict kept the evicted text in the write-ahead log until the server stopped."""
    with contextlib.closing(store.open(tmp_path / "one.db")) as node:
        node.submit_tx([put({"xt/id": n, "v": n}) for n in range(1_000)]
                       + [put({"xt/id": "note", "text": "SECRET" * 20})])
        left = lambda: sum((tmp_path / name).read_bytes().count(b"SECRET") for name in ("one.db", "one.db-wal"))
        with node.db().lazy_q({"find": "?e", "where": [["?e", "v"]]}) as rows:
            next(rows)
            node.submit_tx([evict("note")])
            assert left(), "it is still there for what reads"
        assert left() == 0, "nothing had to be written for it"


KILLED = """
import os, sys
sys.path.insert(0, sys.argv[2])
import store
node = store.open(sys.argv[1])
node.submit_tx([store.put({"xt/id": "note", "text": "SECRET" * 20})])
store._File.empty_wal = lambda file: os.kill(os.getpid(), 9)
node.submit_tx([store.evict("note")])
"""


def test_evicted_bytes_go_at_the_next_opening_after_a_crash(tmp_path):
    """A server killed between the commit of an evict and the end of its work kept the text in the write-ahead log."""
    ended = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "one.db", ROOT])
    assert ended.returncode == -signal.SIGKILL and b"SECRET" in (tmp_path / "one.db-wal").read_bytes()
    with contextlib.closing(store.open(tmp_path / "one.db")) as node:
        assert node.db().tx_id == 2 and node.db().entity("note") is None
        assert all(b"SECRET" not in path.read_bytes() for path in tmp_path.iterdir())


ALONE = """
import datetime as dt, queue, sys
from application import store
from application.store import call, delete, evict, match, put
one = store.open(sys.argv[1], {"old": lambda ctx: [put(ctx.db.entity("ann") | {"is": "old"})]})
two, heard = store.open(sys.argv[1]), queue.Queue()
two.on_tx(heard.put)
first = one.submit_tx([match("ann", None), put({"xt/id": "ann", "name": "Ann"}), put({"xt/id": "bo"})])
assert heard.get(timeout=10).tx_id == first.tx_id == two.latest_tx.tx_id
one.submit_tx([call("old"), delete("bo")], check=True)
wanted = {"find": ["?is"], "where": [["?e", "name", "Ann"], ["?e", "is", "?is"]]}
assert two.db().q(wanted) == [("old",)] and two.db(first).q(wanted) == [] and two.db(first).entity("bo")
assert two.db().pull(["name"], "ann") == {"name": "Ann"} and len(one.db().history("ann")) == 2
one.submit_tx([evict("ann")])
assert one.db(first).entity("ann") is None
for asked in (one.verify, lambda: one.notify("hello"), lambda: one.submit_tx([("patch", "bo", {"a": 1})]),
              lambda: one.submit_tx([put({"xt/id": "bo", "at": dt.time(12)})])):
    try:
        asked()
    except store.StoreError as error:
        print(error)
one.close(), two.close()
"""


def test_one_copied_file_puts_asks_and_hears(tmp_path):
    """Without this, people who copy `store.py` alone would learn in production what else it needs."""
    (tmp_path / "application").mkdir()
    shutil.copy(f"{ROOT}/store.py", tmp_path / "application")
    ran = subprocess.run([sys.executable, "-c", ALONE, tmp_path / "one.db"], cwd=tmp_path, capture_output=True,
                         text=True)
    assert not ran.returncode, ran.stderr
    needed = re.findall(r"needs (\w+)\.py beside", ran.stdout)
    assert needed == ["store_keeping", "store_bells", "store_patch", "store_values"]


def test_another_programs_lock_refuses_one_write_and_not_the_node(tmp_path, monkeypatch):
    """A viewer that held the file for five seconds stopped the node until it was opened again."""
    with contextlib.closing(store.open(tmp_path / "one.db", timeout=0.05)) as node, \
            contextlib.closing(sqlite3.connect(tmp_path / "one.db", isolation_level=None)) as other:
        other.execute("begin immediate")
        with pytest.raises(store.LockedError, match="Another program holds the write lock.*Nothing was written"):
            node.submit_tx([put({"xt/id": 1})])
        other.execute("rollback")
        assert node.submit_tx([put({"xt/id": 2})]) == node.latest_tx and node.db().tx_id == 1


ASKED = {"db": lambda node: node.db(), "tx": lambda node: node.tx(0), "latest_tx": lambda node: node.latest_tx,
         "status": lambda node: node.status(),
         "tx_log": lambda node: list(node.tx_log()), "stats": lambda node: node.attribute_stats(),
         "verify": lambda node: node.verify(),
         "reindex": lambda node: node.reindex(), "backup": lambda node: node.backup("never.db"),
         "sync": lambda node: node.sync(1),
         "await_tx": lambda node: node.await_tx(0, 1), "on_tx": lambda node: node.on_tx(print),
         "notify": lambda node: node.notify("x"), "on_notice": lambda node: node.on_notice(print),
         "submit_tx": lambda node: node.submit_tx([])}


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("count", [0, 1])
def test_whatever_is_asked_of_a_closed_node_raises(open_store, name, count):
    """Some answers came from memory after the file was let go of, as if the node were still open."""
    node = open_store()
    for n in range(count):
        node.submit_tx([put({"xt/id": n})])
    db = node.db()
    assert (db.entity(0) is not None) == bool(count)
    node.close()
    with pytest.raises(store.ClosedError):
        ASKED[name](node)
    all_ids = {"find": "?e", "where": [["?e", "xt/id"]]}
    for ask in lambda: db.entity(0), lambda: db.pull(["*"], 0), lambda: db.history(0), lambda: db.q(all_ids):
        with pytest.raises(store.ClosedError):
            ask()


def test_each_flipped_bit_of_the_first_row_is_said_to_be_damage(tmp_path):
    """Of 264 flips 41 came out as a KeyError or an AttributeError, and some were believed."""
    with contextlib.closing(store.open(tmp_path / "one.db")) as node:
        node.submit_tx([put({"xt/id": "a"})])
        about, = node._file.writer.execute("select ops from log where tx_id = 0").fetchone()
    whole = (tmp_path / "one.db").read_bytes()
    start = whole.index(about)
    for n in range(8 * len(about)):
        data = bytearray(whole)
        data[start + n // 8] ^= 1 << n % 8
        (tmp_path / "flipped.db").write_bytes(data)
        with pytest.raises(store.CorruptError):
            store.open(tmp_path / "flipped.db")
