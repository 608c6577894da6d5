"""Many processes, one file: they write, read and listen, and see one order of transactions."""
import asyncio
import collections
import contextlib
import os
import pathlib
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
import uuid

import pytest

import appender
import beside
import powercut
import store
import store_bells
import test_crash
from conftest import wait_until
from store import evict, put
from test_crash import check_transaction, in_a_fork

ROOT = pathlib.Path(store.__file__).parent
NAMED = {"find": ["?e", "?n"], "where": [["?e", "name", "?n"]]}


@pytest.fixture
def join(tmp_path):
    """`join()` opens another node on this test's file; all are closed after the test."""
    with contextlib.ExitStack() as opened:
        yield lambda **options: opened.enter_context(contextlib.closing(store.open(tmp_path / "one.db", **options)))


def eventually(is_so):
    wait_until(is_so, 60, lambda: "it did not come to be")


# ── Killed at random ───────────────────────────────────────────────────────────────────────────────────────────

class Child:
    """A process of beside.py, and what it has said."""

    def __init__(self, path, writer, writers, seed):
        self.lines, self.writer = [], writer
        self._process = subprocess.Popen([sys.executable, beside.__file__, path, str(writer), str(writers), str(seed)],
                                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=lambda: self.lines.extend(iter(self._process.stdout.readline, "")))
        self._reader.start()

    def kill(self):
        """Kills it; [the words of each line that it said]."""
        self._process.kill()
        complaint = self._process.stderr.read()
        self._process.wait(), self._reader.join()
        self._process.stdout.close(), self._process.stderr.close()
        assert not complaint, complaint
        return [line.split() for line in self.lines]


@pytest.mark.parametrize("writers", [2, 4])
def test_processes_killed_at_random_share_one_order_of_transactions(tmp_path, size, seed, say, writers):
    """Without this, a command line beside a server could lose, double or reorder what either was told is written."""
    path, rng, end = tmp_path / "one.db", random.Random(seed), time.monotonic() + size(7, 150)
    acks, counted, kills, heard_here = {}, set(), 0, []
    with contextlib.closing(store.open(path, beside.FUNCTIONS, timeout=60)) as node:
        node.on_tx(lambda tx: heard_here.append(tx.tx_id))
        children = [Child(path, writer, writers, seed) for writer in range(writers)]
        while children:
            child = rng.choice(children)
            if rng.random() < 0.8:    # the others while they start
                wait_until(lambda: len(child.lines) > 2, 60, lambda: "it does not begin")
                time.sleep(rng.random() * 0.5)
            kills += 1
            children.remove(child)
            hear_out(child.kill(), acks, counted)
            if time.monotonic() < end:
                children.append(Child(path, child.writer, writers, seed + kills))
        check_log(node, dict(acks), counted, kills, heard_here)
        assert node.verify() == node.db().tx_id and all(not beside.complaint(node.db(), w) for w in range(writers))
        say(f"{writers} processes, {kills} kills, {node.db().tx_id:,} transactions, {len(acks) + len(counted):,} "
            f"acknowledged: 0 lost, 0 doubled; seed {seed}")
    assert [path.name for path in tmp_path.iterdir()] == ["one.db"], "the last one tidies up after the killed ones"


def hear_out(lines, acks, counted):
    """Adds to {(writer, number): tx_id} and to the transactions that counted. A child hears each once, in order."""
    assert not [line for line in lines if line[0] == "wrong"]
    acks |= {(int(line[1]), int(line[2])): int(line[3]) for line in lines if line[0] == "ack"}
    counted |= {int(line[1]) for line in lines if line[0] == "counted"}
    heard = [int(line[1]) for line in lines if line[0] == "heard"]
    assert heard == list(range(1, len(heard) + 1))


def check_log(node, acks, counted, kills, heard_here):
    """What was acknowledged is there once, under its number, and at most one more for each kill."""
    numbers, n, more = collections.Counter(), 0, 0
    for tx_id, tx in enumerate(node.tx_log(), 1):
        assert tx.tx_id == tx_id
        if tx.ops[0][0] == "put":
            n += 1
            assert tx.ops == [put({"xt/id": "count", "n": n})]
            more += tx_id not in counted
            counted.discard(tx_id)
        else:
            writer = check_transaction(tx, numbers)
            told = acks.pop((writer, numbers[writer]), None)
            assert told in (None, tx_id)
            more += told is None
    assert not acks and not counted and more <= kills
    eventually(lambda: len(heard_here) == node.db().tx_id)
    assert heard_here == list(range(1, len(heard_here) + 1)), "the listener here hears all of them once, in order"


# ── Each sees what the others write ────────────────────────────────────────────────────────────────────────────

def test_a_new_snapshot_sees_what_another_node_was_told_is_written(join):
    """A page of one worker would lack what another has just acknowledged: names, new attributes, references."""
    one, two = join(), join()
    ids = [uuid.UUID(int=n) for n in range(1, 4)]
    for n, (here, there) in enumerate([(one, two), (two, one)] * 10):
        here.submit_tx([put({"xt/id": n, "name": f"n{n}", f"new{n}": [n, 1.5, "x"], "about": ids})])
        db = there.db()
        assert db.tx_id == here.db().tx_id and db.entity(n)["name"] == f"n{n}"
        assert db.q(NAMED) == here.db().q(NAMED) and (n, f"n{n}") in db.q(NAMED)
        assert set(db.q({"find": "?v", "where": [["?e", f"new{n}", "?v"]]})) == {n, 1.5, "x"}
        if n in (3, 10, 15):          # what was a value becomes an entity: its cells are others
            id = ids.pop()
            there.submit_tx([put({"xt/id": id, "name": f"id{n}"})])
            for node in one, two:
                assert len(node.db().q({"find": "?e", "in": ["?id"], "where": [["?e", "about", "?id"]]}, id)) >= 1
                assert node.db(there.db().tx_id - 1).q(NAMED) == node.db(here.db().tx_id - 1).q(NAMED)
    assert one.attribute_stats() == two.attribute_stats() and one.status()["state"] == two.status()["state"]
    assert one.verify() == two.verify() == one.latest_tx.tx_id and one.latest_tx == two.latest_tx


def test_what_waits_for_another_process_is_written_with_one_sync(join, tmp_path, monkeypatch):
    """Of sixteen threads that wait each would wait again behind another process, for as long as all before it."""
    node, waits, begin_later = join(timeout=60), threading.Event(), store._File._begin_later
    monkeypatch.setattr(store._File, "_begin_later", lambda *args: (waits.set(), begin_later(*args)))

    async def submit():
        first = asyncio.create_task(node.submit([put({"xt/id": 0})]))
        await asyncio.to_thread(waits.wait, 60)
        later = [asyncio.create_task(node.submit([put({"xt/id": n})])) for n in (1, 2)]
        await asyncio.sleep(0)
        other.execute("rollback")
        return await asyncio.gather(first, *later)
    with contextlib.closing(sqlite3.connect(tmp_path / "one.db", isolation_level=None)) as other:
        before = node._file._words[store._HEAD_COMMITS]
        other.execute("begin immediate")
        assert [tx.tx_id for tx in asyncio.run(submit())] == [1, 2, 3] and waits.is_set()
    assert node._file._words[store._HEAD_COMMITS] == before + 1 and node.verify() == 3


def test_statistics_are_taken_from_who_has_counted(join):
    """Each worker would decode again what the others put, or plan its queries for a store that is long gone."""
    one, two = join(), join()
    for start in range(0, 3_300, 1_100):
        one.submit_tx([put({"xt/id": n, f"a{start}": [n, "x"]}) for n in range(start, start + 1_100)])
        two.submit_tx([put({"xt/id": f"t{start}", "b": start})])
        counted = two._file.index
        assert counted.puts[1] + sum(map(len, counted.uncounted)) == (start + 1_100) // 1_100 * 1_101
    assert two._file.index.counted > 2_000
    assert one.attribute_stats() == two.attribute_stats() and two.attribute_stats()["a0"] == 2_200


def test_a_held_snapshot_stays_the_same_while_another_node_writes(join):
    """Documents are kept in memory: another process cannot take them out of it, and they would be told as of now."""
    one, two = join(), join()
    one.submit_tx([put({"xt/id": n, "name": "old"}) for n in range(5)])
    held = one.db()
    for _ in range(2):
        assert [held.entity(n)["name"] for n in range(5)] == ["old"] * 5
    two.submit_tx([put({"xt/id": 0, "name": "new"}), store.delete(1)])
    assert [held.entity(n)["name"] for n in range(5)] == ["old"] * 5 and len(held.q(NAMED)) == 5
    db = one.db()
    assert db.entity(0)["name"] == "new" and db.entity(1) is None and len(db.q(NAMED)) == 4
    assert one.submit_tx([store.match(0, {"xt/id": 0, "name": "new"}), put({"xt/id": 9, "name": "x"})]).committed


def test_what_another_node_backdates_is_seen_at_past_valid_times(join):
    """Without this, a node would answer as if nothing had ever been corrected, until it was opened again."""
    one, other = join(), join()
    times = [one.submit_tx([put({"xt/id": "a", "name": n})]).tx_time for n in (1, 2, 3)]
    past = other.db(valid_time=times[1])
    assert other.db(valid_time=times[1]).q(NAMED) == past.q(NAMED) == [("a", 2)]
    one.submit_tx([put({"xt/id": "a", "name": 5}, times[0], times[2])])
    assert other.db(valid_time=times[1]).q(NAMED) == [("a", 5)] and past.q(NAMED) == [("a", 2)]
    assert other.db(valid_time=times[2]).q(NAMED) == one.db().q(NAMED) == [("a", 3)]


def test_what_one_node_evicts_is_gone_from_all(join, tmp_path):
    """A document that must be forgotten would stay in the memory of the others, or in the write-ahead log."""
    one, two = join(), join()
    one.submit_tx([put({"xt/id": "note", "text": "SECRET" * 20}), put({"xt/id": "other", "text": "x"})])
    now, past = two.db(), two.db(1)
    one.submit_tx([put({"xt/id": "other", "text": "y"})])
    for db in now, past:
        assert db.entity("note") and db.entity("note") and db.entity("other")["text"] == "x"
    one.submit_tx([evict("note")])
    for db in now, past, two.db(), two.db(1):
        assert db.entity("note") is None and db.q({"find": "?e", "where": [["?e", "text"]]}) == ["other"]
    left = lambda: sum(path.read_bytes().count(b"SECRET") for path in tmp_path.iterdir() if path.is_file())
    with two.db().lazy_q(NAMED) as rows:
        list(rows)
        one.submit_tx([evict("other"), put({"xt/id": "a", "name": "SECRET"}), evict("a")])
    eventually(lambda: left() == 0)


def test_upkeep_goes_on_beside_another_node(join, tmp_path):
    """A backup or a repair would need the server to stop."""
    one, two = join(), join(text=["name"])
    for n in range(20):
        (one, two)[n % 2].submit_tx([put({"xt/id": uuid.UUID(int=n + 1), "name": f"n{n}"}),
                                     put({"xt/id": n, f"a{n}": n})])
    one.submit_tx([evict(3)])
    right, writing = sorted(two.db().q(NAMED), key=str), threading.Event()

    def write():
        n = 0
        while not writing.is_set():
            n += 1
            two.submit_tx([put({"xt/id": "n", "n": n, f"b{n}": 1})])
    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert one.verify() >= 21
        one.reindex()
        assert one.backup(tmp_path / "copy.db") >= 21
        assert sorted(two.db().q(NAMED), key=str) == sorted(one.db().q(NAMED), key=str) == right
    finally:
        writing.set()
        thread.join()
    assert two.db().q({"find": "?a", "where": [["?e", "a5", "?a"]]}) == [5]
    assert one.verify() == two.verify() == two.db().tx_id
    with contextlib.closing(store.open(tmp_path / "copy.db")) as copy:
        assert copy.verify()


def test_what_was_answered_beside_writers_is_answered_again_when_all_is_quiet(tmp_path, size, seed, say):
    """A question about now looks at the head of the file twice. Without this, it could mix two transactions."""
    path, held = tmp_path / "one.db", []
    ids = [*range(10), *(uuid.UUID(int=n + 1) for n in range(15))]
    about = {"find": ["?e", "?n"], "in": ["?id"], "where": [["?e", "about", "?id"], ["?e", "name", "?n"]]}
    asked = [lambda db: sorted(db.q(NAMED), key=repr), lambda db: [db.entity(id) for id in ids],
             lambda db: sorted((row for id in ids for row in db.q(about, id)), key=repr),
             lambda db: [db.pull(["name", {"about": ["name"]}], id) for id in ids],
             lambda db: db.q({"find": ("count", "?e"), "where": [["?e", "about", "?x"], ["?x", "name"]]})]
    with contextlib.closing(store.open(path)) as node, contextlib.ExitStack() as running:
        for n in range(2):
            child = running.enter_context(subprocess.Popen(
                [sys.executable, beside.__file__, "churn", path, f"{seed + n}"], stdout=subprocess.PIPE))
            running.callback(child.kill)
            child.stdout.readline()
        end = time.monotonic() + size(4, 120)
        while not held or time.monotonic() < end:
            db = node.db()
            held.append((db.basis, [ask(db) for ask in asked]))
            if len(held) % 10 == 0:
                node.submit_tx([put({"xt/id": "here", "name": "here", "about": [uuid.UUID(int=len(held))]})])
    with contextlib.closing(store.open(path)) as again:
        assert again.verify() > 2 and held
        for basis, answers in held:
            db = again.db(**basis)
            assert [ask(db) for ask in asked] == answers, f"{basis}, seed {seed}"
        say(f"{len(held)} snapshots beside 2 processes, {again.db().tx_id:,} transactions: 0 answers differ; seed "
            f"{seed}")


TWO = """
import os, subprocess, sys
running = [subprocess.Popen([sys.executable, sys.argv[1], sys.argv[2], "1", sys.argv[3], "wal_autocheckpoint = 20"],
                            env=os.environ | {"WRITER": str(n)}) for n in range(2)]
sys.exit(any(child.wait() for child in running))
"""


def test_what_two_processes_were_told_survives_a_power_cut(tmp_path, strace, size, seed, say):
    """What one process synced must hold what the other had written into the same log before."""
    path, trace, choose = tmp_path / "whole.db", tmp_path / "trace", random.Random(seed)
    done = subprocess.run([strace, *powercut.STRACE, "-o", trace, sys.executable, "-c", TWO, appender.__file__, path,
                           str(size(3, 30))], capture_output=True, text=True, timeout=test_crash.CHILD_S_MAX)
    assert not done.returncode and test_crash.Told(done.stdout, done.stderr).acks, done.stderr
    ends, images = ("", "-wal", "-journal"), 0
    for said, files in powercut.cuts(trace.read_text(), [f"{path}{end}" for end in ends]):
        for share in 0.0, 1.0, choose.random(), choose.random():
            left = [files[f"{path}{end}"].left(lambda n: sum(choose.random() < share for _ in range(n)))
                    for end in ends]
            test_crash.check(test_crash.laid_down(tmp_path, *left), test_crash.Told(said).acks, writers=2)
            images += 1
    say(f"{images} images of power cuts beside two processes: 0 lost, 0 refused to open; seed {seed}")


# ── Bells and notices ──────────────────────────────────────────────────────────────────────────────────────────

LISTENING = """
import sys, time; sys.path.insert(0, sys.argv[2])
import store
node = store.open(sys.argv[1])
node.on_notice(lambda text: print("notice", text, flush=True))
node.on_tx(lambda tx: print("heard", time.time() - tx.ops[0][1]["at"], flush=True))
node.notify("here")
sys.stdin.read()
node.notify("gone")
node.close()
"""


def test_listeners_in_other_processes_hear_within_20_ms(join, tmp_path, say):
    """A message that one worker takes would appear late in the windows of another, or never."""
    node, notices, delays = join(), [], []
    node.on_notice(notices.append)
    with subprocess.Popen([sys.executable, "-c", LISTENING, tmp_path / "one.db", ROOT], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as child:
        eventually(lambda: notices == ["here"])
        assert child.stdout.readline() == "notice here\n"
        for n in range(50):
            node.submit_tx([put({"xt/id": n, "at": time.time()})])
            delays.append(float(child.stdout.readline().split()[1]) * 1000)
        node.notify("a notice"), node.notify("and " + "x" * 7_000)
        assert child.stdout.readline() == "notice a notice\n" and len(child.stdout.readline()) == 7_012
        assert notices == ["here", "a notice", "and " + "x" * 7_000], "it is heard here, too"
        child.stdin.close()
        eventually(lambda: notices[3:] == ["gone"])
    median, most = statistics.median(delays), max(delays)
    say(f"heard {median:.1f} ms after it was submitted, at most {most:.1f} ms (asked 20)")
    assert median < 200


def test_who_begins_to_listen_hears_also_what_rings_at_others_only(join, monkeypatch):
    """Commits seldom look who listens. A window that opens in another worker would miss what is said at that moment."""
    monkeypatch.setattr(store_bells, "LOOK_S", 1_000)
    monkeypatch.setattr(store_bells, "POLL_S", 1_000)
    one, two, heard = join(), join(), []
    one.submit_tx([put({"xt/id": 1})])
    two.on_tx(lambda tx: heard.append(tx.tx_id))
    for n in range(2, 9):
        one.submit_tx([put({"xt/id": n})])
        eventually(lambda: heard == [*range(2, n + 1)])


def test_a_killed_process_leaves_no_bell_behind(join, tmp_path):
    """The folder would fill, and each commit would ring at processes that are no more."""
    node, folder = join(), tmp_path / "one.db-bells"
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", LISTENING, tmp_path / "one.db", ROOT], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout.readline() == "notice here\n"
            assert len(list(folder.iterdir())) == 1
            child.kill()
            child.communicate()
        time.sleep(0.2)               # a folder that has just changed is listed again anyway
        node.submit_tx([put({"xt/id": 1})])
        assert not list(folder.iterdir())


def test_many_notices_at_once_all_arrive_in_order(join):
    """A queue between processes holds ten. Without this, who is here would be known to some workers only."""
    one, two, heard = join(), join(), []
    two.on_notice(heard.append)
    for n in range(500):
        one.notify(f"notice {n}")
    eventually(lambda: len(heard) == 500)
    assert heard == [f"notice {n}" for n in range(500)]


# ── Who may open it ────────────────────────────────────────────────────────────────────────────────────────────

def test_many_processes_that_start_at_once_make_one_store(tmp_path):
    """Of two workers that start on a new file one would write into a file that is no longer there."""
    program = ("import sys, store; node = store.open(sys.argv[1]); "
               "print(node.submit_tx([store.put({'xt/id': sys.argv[2]})]).tx_id)")
    started = [subprocess.Popen([sys.executable, "-c", program, tmp_path / "one.db", str(n)], cwd=ROOT,
                                stdout=subprocess.PIPE) for n in range(6)]
    assert sorted(int(child.communicate()[0]) for child in started) == [1, 2, 3, 4, 5, 6]
    assert not any(child.returncode for child in started)
    with contextlib.closing(store.open(tmp_path / "one.db")) as node:
        assert node.verify() == 6
    assert [path.name for path in tmp_path.iterdir()] == ["one.db"]


def test_a_forked_child_cannot_open_what_its_parent_has_open(join, tmp_path):
    """SQLite's locks do not go into a child, though it would believe so: both would have written at once."""
    node = join()
    node.submit_tx([put({"xt/id": "a"})])
    assert "was open when this process was forked" in in_a_fork(lambda: store.open(tmp_path / "one.db"))
    assert in_a_fork(lambda: store.open(tmp_path / "two.db").submit_tx([put({"xt/id": 1})]).tx_id) == "1"
    assert node.submit_tx([put({"xt/id": "b"})]).committed and node.verify() == 2


def test_a_network_file_system_is_refused(tmp_path, monkeypatch):
    """Two machines there do not see each other's memory: what one has acknowledged, the other would write over."""
    (tmp_path / "far away").mkdir()
    (tmp_path / "mounts").write_text("/dev/sda1 / ext4 rw 0 0\n"
                                     f"server:/x {tmp_path}/far\\040away nfs4 rw,relatime 0 0\n")
    monkeypatch.setattr(store, "_MOUNTS", tmp_path / "mounts")
    with pytest.raises(store.StoreError, match=r"is on a network file system \(nfs4\), on which processes share"):
        store.open(tmp_path / "far away" / "one.db")
    assert not list((tmp_path / "far away").iterdir())
    store.open(tmp_path / "one.db").close()


# ── For reading only ───────────────────────────────────────────────────────────────────────────────────────────

def test_a_node_for_reading_only_writes_nothing_and_sees_what_others_write(join, tmp_path):
    """A report or a notebook beside the chat could change it by mistake, or would show what is past."""
    with pytest.raises(store.StoreError, match="is not there, and what is opened for reading only is not made"):
        join(readonly=True)
    with contextlib.closing(store.open(tmp_path / "one.db")) as node:
        node.submit_tx([put({"xt/id": n, "name": f"n{n}"}) for n in range(3)])
    before = {path.name: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.iterdir()]}
    reader, heard = join(readonly=True), []
    reader.on_tx(lambda tx: heard.append(tx.tx_id))
    assert len(reader.db().q(NAMED)) == 3 and reader.db().entity(1)["name"] == "n1" and reader.verify() == 1
    for act in (lambda: reader.submit_tx([put({"xt/id": 9})]), reader.reindex):
        with pytest.raises(store.StoreError, match="was opened for reading only. Open it without readonly=True."):
            act()
    with pytest.raises(store.StoreError, match="opened for reading only, with text"):
        join(readonly=True, text=["name"])
    assert {path.name: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.iterdir()]} == before
    with contextlib.closing(store.open(tmp_path / "one.db")) as writer:      # comes, and goes again
        writer.submit_tx([put({"xt/id": 3, "name": "n3"})])
    assert len(reader.db().q(NAMED)) == 4
    writer, held = join(), reader.db()
    for n in range(4, 20):
        writer.submit_tx([put({"xt/id": n, "name": f"n{n}", f"new{n}": 1}), evict(n - 4)])
        assert reader.db().tx_id == writer.db().tx_id and reader.db().entity(n)[f"new{n}"] == 1
        assert sorted(reader.db().q(NAMED)) == sorted(writer.db().q(NAMED)) and held.entity(n - 4) is None
    eventually(lambda: heard == list(range(2, 19)))
    assert reader.attribute_stats()["new19"] == 1 and reader.verify() == 18


def test_a_store_on_a_file_system_for_reading_only_can_be_read(tmpfs):
    """A store in an image, or in a folder of another user, could not be opened at all."""
    folder = tmpfs("16m")
    with contextlib.closing(store.open(folder / "one.db")) as node:
        node.submit_tx([put({"xt/id": "a", "name": "A"})])
        node.backup(folder / "two.db")
        subprocess.run(["cp", folder / "one.db-wal", folder / "two.db-wal"], check=True)
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    try:
        with contextlib.closing(store.open(folder / "one.db", readonly=True)) as node:
            assert node.db().q(NAMED) == [("a", "A")] and node.verify() == 1
        with pytest.raises(store.StoreError, match="was left with a write-ahead log by a process that was killed"):
            store.open(folder / "two.db", readonly=True)
        with pytest.raises(store.StoreError, match="cannot be opened"):
            store.open(folder / "one.db")
    finally:
        subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
