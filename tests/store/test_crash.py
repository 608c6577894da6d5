"""The file after a crash, on a full or failing disk, and beside a second process: nothing happens to it.

A child process (appender.py) appends transactions whose every byte is known in advance, and says so after each. It is
killed, or its system calls are made to fail. Then the file is opened here and compared with what was acknowledged.
"""
import collections
import concurrent.futures
import contextlib
import os
import pathlib
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

import appender
import powercut
import store

APPENDER = [sys.executable, str(pathlib.Path(appender.__file__))]
CHILD_S_MAX = 300
SYNCS = "fdatasync", "fsync"
WRITES = "pwrite64", "ftruncate", "unlink", "rename"


# ── The child, and what it leaves ──────────────────────────────────────────────────────────────────────────────

class Told:
    """What a child said before it ended: acks as {(writer, number): tx_id}, errors as texts, and whether it closed."""

    def __init__(self, text, complaint=""):
        assert "Traceback" not in complaint, f"the child did not expect this:\n{complaint}"
        lines = [line.split(" ", 2) for line in text.splitlines()]
        self.is_open, self.is_closed = ["open"] in lines, ["closed"] in lines
        self.errors = [line[2] for line in lines if line[0] == "error"]
        self.acks = {(int(line[1]), int(line[2].split()[0])): int(line[2].split()[1])
                     for line in lines if line[0] == "ack"}
        first_error = next((n for n, line in enumerate(lines) if line[0] == "error"), len(lines))
        self.acks_after_error = sum(line[0] == "ack" for line in lines[first_error:])


def run(path, transactions, writers=1, before=(), pragmas=()):
    """Runs a child to its end under a command such as strace; returns what it told, and whether a signal ended it."""
    done = subprocess.run([*before, *APPENDER, str(path), str(writers), str(transactions), *pragmas],
                          capture_output=True, text=True, timeout=CHILD_S_MAX)
    return Told(done.stdout, done.stderr), done.returncode < 0


def check(path, acks, writers=1):
    """Opens the file and compares it with {(writer, number): tx_id}; returns how many transactions each writer has
    there.

    Fails on any that is lost, partial, out of order or other than what was submitted, in the log or in the index.
    """
    acks = dict(acks)
    with contextlib.closing(store.open(path)) as node:
        numbers, tx_time = collections.Counter(), None
        for tx_id, tx in enumerate(node.tx_log(), 1):
            assert tx.tx_id == tx_id, f"transaction {tx_id} is missing: the log has {tx.tx_id} in its place"
            assert tx_time is None or tx_time < tx.tx_time, f"transaction {tx_id} is not later than the one before"
            tx_time = tx.tx_time
            writer = check_transaction(tx, numbers)
            assert acks.pop((writer, numbers[writer]), tx_id) == tx_id, f"{tx_id} was acknowledged under another tx_id"
        assert not acks, f"acknowledged and lost: {acks}"
        for writer in range(writers):
            check_index(node.db(), writer, numbers[writer])
    return numbers


def unacknowledged(numbers, acks, before=collections.Counter()):
    """For each writer, the transactions that are there though it had not heard of them. `before` were there at the
    start."""
    heard = collections.Counter(before)
    for writer, number in acks:
        heard[writer] = max(heard[writer], number)
    return {writer: count - heard[writer] for writer, count in numbers.items()}


def check_transaction(tx, numbers):
    """Compares a transaction of the log with what its writer must have submitted; counts it, and returns the writer."""
    puts = {operation[1]["xt/id"]: operation[1] for operation in tx.ops if operation[0] == "put"}
    deletes = [operation[1] for operation in tx.ops if operation[0] == "delete"]
    writer = next(int(name.partition("/")[2]) for name in puts if name.startswith("tip/"))
    numbers[writer] += 1
    number = numbers[writer]
    expected = [appender.tip(writer, number), *appender.documents(writer, number)]
    assert puts == {document["xt/id"]: document for document in expected}, f"transaction {tx.tx_id} is not what was put"
    assert deletes == list(filter(None, [appender.deleted(writer, number)])), f"transaction {tx.tx_id}: other deletions"
    return writer


def check_index(db, writer, number):
    """The index holds what the log says, no more and no less."""
    assert appender.newest(db, writer) == number
    names = {document["xt/id"] for n in range(1, number + 1) for document in appender.documents(writer, n)}
    names -= {appender.deleted(writer, n) for n in range(1, number + 1)}
    found = db.q({"find": "?d", "in": ["?writer"], "where": [["?d", "doc/writer", "?writer"]]}, writer)
    assert sorted(found) == sorted(names)
    for document in appender.documents(writer, number) if number else ():
        assert db.entity(document["xt/id"]) == document


# ── Killed ─────────────────────────────────────────────────────────────────────────────────────────────────────

KILLS_PER_FILE = 10     # then a fresh one: the comparison reads the whole log


def killed(path, writers, choose):
    """Starts a child and kills it: every fifth while it starts or recovers,
    the others at some moment of their writing."""
    child = subprocess.Popen([*APPENDER, str(path), str(writers), "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             bufsize=0)     # else reading its first line may take acknowledgements away with it
    text = b""
    if choose.random() < 0.2:
        time.sleep(choose.uniform(0.05, 0.3))
    else:
        text = b"".join(child.stdout.readline() for _ in range(choose.randrange(1, 8)))       # the first: it is open
        time.sleep(choose.uniform(0, 0.02))
    child.send_signal(signal.SIGKILL)
    rest, complaint = child.communicate()
    return Told((text + rest).decode(), complaint.decode())


@pytest.mark.parametrize("writers", [1, 4])
def test_a_killed_writer_loses_nothing_that_it_was_told_of(tmp_path, size, seed, say, writers):
    """Without this, a person's message could be on everyone's screen and then never have been written."""
    kills, choose = size(50, 5_000), random.Random(seed)
    acknowledged = unheard = opened = 0
    for file in range(kills // KILLS_PER_FILE):
        path, acks, numbers = tmp_path / f"{file}.db", {}, collections.Counter()
        for _ in range(KILLS_PER_FILE):
            told = killed(path, writers, choose)
            opened += told.is_open
            acks |= told.acks
            numbers, before = check(path, acks, writers), numbers
            extra = unacknowledged(numbers, told.acks, before)
            assert all(0 <= count <= 1 for count in extra.values()), f"unacknowledged survivors, by writer: {extra}"
            unheard += sum(extra.values())
        acknowledged += len(acks)
    assert opened > kills / 2 and acknowledged > kills, "the children were killed before they wrote anything"
    say(f"{kills} kills, {acknowledged} acknowledged: 0 lost, 0 partial (asked 0, 0); "
        f"{unheard} unacknowledged survivors, at most 1 a writer and kill (asked 1); seed {seed}")


def each_broken(points, original, folder, transactions, strace, fault, lasting=0):
    """For each system call in `points`, a run of its own in which that call fails: call, n, path, what the child
    said, whether it was killed."""
    def broken(point):
        call, n = point
        path = copy_of(original, folder, f"{call}{n}.db")
        inject = ["-e", f"trace={call}", "-e", "signal=none", "-e", f"inject={call}:{fault}:when={n}..{n + lasting}"]
        return call, n, path, *run(path, transactions, before=[strace, "-f", "-qq", "-o", "/dev/null", *inject])
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        yield from pool.map(broken, points)


def calls_made(strace, path, transactions, calls, trace):
    """How often a whole run makes each system call, in the thread that makes it most: [(call, 1), (call, 2), …]."""
    run(path, transactions, before=[strace, "-f", "-qq", "-o", str(trace), "-e", f"trace={','.join(calls)}", "-e",
                                    "signal=none"])
    found = collections.Counter(re.findall(r"^(\d+) +(\w+)\(", trace.read_text(), re.MULTILINE))
    most = {call: max((count for (_, c), count in found.items() if c == call), default=0) for call in calls}
    return [(call, n) for call in calls for n in range(1, most[call] + 1)]


def copy_of(path, folder, name):
    """The files of a store, copied side by side under another name, so that each run breaks its own."""
    for file in path.parent.glob(path.name + "*") if path.exists() else ():
        if not file.name.endswith(("-shm", ".lock")):
            shutil.copy(file, folder / (name + file.name.removeprefix(path.name)))
    return folder / name


@pytest.mark.parametrize("is_new", [True, False], ids=["a new file", "an old file"])
def test_a_writer_killed_at_any_write_or_sync_loses_nothing(tmp_path, strace, size, say, is_new):
    """Without this, one unlucky instruction among the hundred of a commit could cost the file."""
    transactions, original = size(1 if is_new else 3, 50), tmp_path / "original.db"
    base = collections.Counter()
    if not is_new:
        told, _ = run(original, 5)
        base = check(original, told.acks)
    points = calls_made(strace, copy_of(original, tmp_path, "count.db"), transactions, WRITES + SYNCS,
                        tmp_path / "trace")
    assert len(points) > 2 * transactions, f"only {len(points)} writes and syncs for {transactions} transactions"
    acknowledged = unheard = 0
    for call, n, path, told, is_killed in each_broken(points, original, tmp_path, transactions, strace, "signal=KILL"):
        assert is_killed, f"{call} number {n} was not reached"
        numbers = check(path, told.acks)
        extra = unacknowledged(numbers, told.acks, base)
        assert all(0 <= count <= 1 for count in extra.values()), f"{call} {n}: unacknowledged survivors {extra}"
        acknowledged, unheard = acknowledged + len(told.acks), unheard + sum(extra.values())
    say(f"killed at each of {len(points)} writes and syncs of {transactions} transactions: {acknowledged} "
        f"acknowledged, 0 lost, 0 partial, all opened (asked 0, 0, all); {unheard} unacknowledged survivors, at most 1 "
        "a kill")


# ── Power that fails ───────────────────────────────────────────────────────────────────────────────────────────

IMAGES = 20  # of each stretch between two syncs: what was synced, all that was written, and what chance leaves
OFTEN = "wal_autocheckpoint = 20"       # so that a short run moves its log into the file several times


def after_power_cuts(tmp_path, strace, transactions, choose, *pragmas):
    """Opens what power cuts in each stretch of a run may leave. Returns stretches, images, and the complaints about
    images that lost something."""
    path, trace = tmp_path / "whole.db", tmp_path / "trace"
    told, _ = run(path, transactions, before=[strace, *powercut.STRACE, "-o", str(trace)], pragmas=pragmas)
    assert told.is_closed and len(told.acks) == transactions
    ends, complaints = ("", "-wal", "-journal"), []
    for stretches, (said, files) in enumerate(powercut.cuts(trace.read_text(), [f"{path}{end}" for end in ends]), 1):
        acks = Told(said).acks
        for number in range(IMAGES):
            share = [0.0, 1.0][number] if number < 2 else choose.random()
            left = [files[f"{path}{end}"].left(lambda n: sum(choose.random() < share for _ in range(n)))
                    for end in ends]
            try:
                check(laid_down(tmp_path, *left), acks)
            except (AssertionError, store.StoreError) as error:
                complaints.append(f"cut {stretches}, image {number}, {len(acks)} acknowledged: {error!r}")
    return stretches, IMAGES * stretches, complaints


def test_what_was_acknowledged_survives_a_power_cut(tmp_path, strace, size, seed, say):
    """Without this, a machine that loses power could come back without a message that everybody has read."""
    transactions, choose = size(4, 50), random.Random(seed)
    stretches, images, complaints = after_power_cuts(tmp_path, strace, transactions, choose, OFTEN)
    assert stretches > transactions
    assert not complaints, f"{len(complaints)} of {images} images, seed {seed}; the first: {complaints[0]}"
    say(f"{images:,} images of cuts in {stretches} stretches between syncs: 0 lost, 0 refused to open (asked 0, 0; "
        f"long about 1,000); seed {seed}")


def test_a_log_that_is_not_synced_is_found_to_lose(tmp_path, strace, size, seed, say):
    """This is the control of the test before: if it found nothing here, that test would be blind."""
    transactions = size(3, 50)
    _, images, complaints = after_power_cuts(tmp_path, strace, transactions, random.Random(seed), OFTEN,
                                             "synchronous = normal")
    lost = sum("lost" in complaint for complaint in complaints)
    assert lost, f"0 of {images} images lose anything with synchronous = normal, seed {seed}"
    assert lost == len(complaints), f"more than transactions was lost: {[c for c in complaints if 'lost' not in c][0]}"
    say(f"with synchronous = normal {lost} of {images:,} images lose what was acknowledged, all open (asked: some)")


# ── A failing disk, a full disk ────────────────────────────────────────────────────────────────────────────────

def test_a_failed_sync_is_final(tmp_path, strace, size, say):
    """Without this, the store would say "written" of what the disk had already refused, as SQLite alone does."""
    transactions, original = size(4, 50), tmp_path / "original.db"
    told, _ = run(original, 2)
    base = check(original, told.acks)
    points = calls_made(strace, copy_of(original, tmp_path, "count.db"), transactions, SYNCS, tmp_path / "trace")
    assert len(points) >= transactions, f"only {len(points)} syncs for {transactions} durable transactions"
    unheard = refused = 0
    for call, n, path, told, _ in each_broken(points, original, tmp_path, transactions, strace, "error=EIO"):
        assert not told.acks_after_error, f"{call} {n}: acknowledged after {told.errors[0]}"
        if len(told.acks) < transactions and told.is_open:
            assert len(told.errors) > appender.AFTER_ERROR, f"{call} {n}: the calls after the failed one did not raise"
            refused += 1
        extra = unacknowledged(check(path, told.acks), told.acks, base)
        unheard += sum(extra.values())
        assert unheard == 0, f"{call} {n}: {extra} are there though submitting them raised"
    assert refused >= transactions
    say(f"EIO at each of {len(points)} syncs: 0 acknowledged after it, every later call raised in {refused} of "
        f"{refused}, reopened with the acknowledged ones and {unheard} more (asked 0, all, 0)")


def fill(node, number):
    """Appends until the store refuses; returns the last acknowledged number and the error."""
    for number in range(number + 1, number + 100_000):
        try:
            node.submit_tx(appender.transaction(0, number))
        except store.StoreError as error:
            return number - 1, error
    raise AssertionError("the disk never filled up")


def test_a_full_disk_stops_writing_and_nothing_else(tmpfs, say):
    """Without this, a full disk could tear a transaction, or take reading down with it."""
    disk = tmpfs("4m")
    reserve = disk / "reserve"
    reserve.write_bytes(bytes(1 << 20))
    path = disk / "full.db"
    node = store.open(path)
    written, error = fill(node, 0)
    assert written > 10
    for n in range(1_000):
        number = 1 + n % written
        last = list(appender.documents(0, number))[-1]
        assert node.db().entity(last["xt/id"]) == (None if last["xt/id"] == appender.deleted(0, number + 2) else last)
    reserve.unlink()
    try:
        node.submit_tx(appender.transaction(0, written + 1))
        after, written = "the next append succeeded", written + 1
    except store.StoreError as refused:
        assert "opened again" in str(refused)
        after = "the next append says: open again"
    node.close()
    acks = {(0, number): number for number in range(1, written + 1)}
    assert check(path, acks)[0] == written, "the refused transaction is there"
    with contextlib.closing(store.open(path)) as again:
        again.submit_tx(appender.transaction(0, written + 1))
    say(f"full after {written} transactions ({type(error).__name__}); 1,000 reads, 0 wrong (asked 0); 0 partial (asked "
        f"0); space returns: {after}")


def test_a_write_refused_for_want_of_space_is_not_half_there(tmp_path, strace, say):
    """Without this, a disk that is full for a moment, at any write of a commit, could leave half a transaction."""
    original = tmp_path / "original.db"
    told, _ = run(original, 2)
    base = check(original, told.acks)
    points = calls_made(strace, copy_of(original, tmp_path, "count.db"), 3, ["pwrite64"], tmp_path / "trace")
    assert len(points) > 6
    errors = 0
    for call, n, path, told, _ in each_broken(points[::2], original, tmp_path, 3, strace, "error=ENOSPC", lasting=3):
        extra = unacknowledged(check(path, told.acks), told.acks, base)
        assert all(count == 0
                   for count in extra.values()), f"write {n}: {extra} are there though submitting them raised"
        errors += bool(told.errors)
    assert errors
    say(f"no space for 4 writes from each second of {len(points)}: {errors} runs refused, 0 partial, 0 lost (asked 0, "
        "0)")


# ── Torn and flipped ───────────────────────────────────────────────────────────────────────────────────────────

def frozen(path, transactions, is_closed=False):
    """Appends in this process. Returns the bytes of the file, of its write-ahead log, and that log's length after
    each."""
    node, lengths = store.open(path), []
    for number in range(1, transactions + 1):
        node.submit_tx(appender.transaction(0, number))
        lengths.append(os.path.getsize(f"{path}-wal"))
    if is_closed:
        node.close()
    wal = pathlib.Path(f"{path}-wal")
    files = path.read_bytes(), wal.read_bytes() if wal.exists() else b""
    node.close()
    return *files, lengths


def laid_down(folder, main, wal, journal=None):
    """A store of its own in `folder`, made of these bytes (None: no such file). Files of an earlier one are removed."""
    path = folder / "broken.db"
    for end, contents in ("-shm", None), ("-wal", wal or None), ("-journal", journal), ("", main):
        file = pathlib.Path(f"{path}{end}")
        file.unlink(missing_ok=True)
        if contents is not None:
            file.write_bytes(contents)
    return path


def test_a_torn_log_gives_the_transactions_that_are_whole(tmp_path, size, say):
    """Without this, a machine that loses power in the middle of a write would come back with half a transaction."""
    main, wal, lengths = frozen(tmp_path / "whole.db", 8)
    assert lengths == sorted(lengths) and len(wal) == lengths[-1]
    first, page = lengths[-4], 4096 + 24        # a frame of the log is a page and its head
    borders = {32 + n * page + d for n in range((first - 32) // page, (len(wal) - 32) // page + 1) for d in (-1, 0, 1)}
    cuts = sorted({cut for cut in borders | set(range(first, len(wal), size(211, 1))) if first <= cut <= len(wal)})
    assert len(cuts) > 100
    for cut in cuts:
        whole = sum(length <= cut for length in lengths)
        acks = {(0, number): number for number in range(1, whole + 1)}
        assert check(laid_down(tmp_path, main, wal[:cut]), acks)[0] == whole, f"cut at byte {cut}"
    say(f"cut at {len(cuts):,} of the {len(wal) - first:,} bytes of the last 3 transactions: every time exactly those "
        "that were whole; 0 wrong, 0 refused to open (asked 0)")


def what_a_flip_does(path, transactions):
    """Reads all there is: "right", "wrong" or, where only the index lacks something, "missing".

    Raises: StoreError, which is a right answer too, if something read, or verify after it, finds the damage.
    """
    outcome = "right"
    with contextlib.closing(store.open(path)) as node:
        db, gone = node.db(), {appender.deleted(0, n) for n in range(1, transactions + 1)}
        log = [{op[1]["xt/id"]: op[1] for op in tx.ops if op[0] == "put"} for tx in node.tx_log()]
        expected = [{d["xt/id"]: d for d in [appender.tip(0, n), *appender.documents(0, n)]}
                    for n in range(1, transactions + 1)]
        if log != expected[:len(log)]:
            node.verify()
            return "wrong"
        for document in [d for n in range(1, len(log) + 1) for d in appender.documents(0, n) if d["xt/id"] not in gone]:
            found = db.entity(document["xt/id"])
            if found is None:
                outcome = "missing"
            elif found != document:
                return "wrong"
    return outcome


@pytest.mark.parametrize("which", ["the file", "its write-ahead log"])
def test_a_flipped_bit_is_found_and_never_believed(tmp_path, size, seed, say, which):
    """Without this, a disk that rots would change what people said, and nobody would know."""
    transactions, flips = 12, size(500, 100_000)
    choose, outcomes = random.Random(seed), collections.Counter()
    main, wal, _ = frozen(tmp_path / "whole.db", transactions, is_closed=which == "the file")
    target = main if which == "the file" else wal
    assert len(target) > 50_000
    for _ in range(flips):
        bit, broken = choose.randrange(8 * len(target)), bytearray(target)
        broken[bit // 8] ^= 1 << bit % 8
        path = laid_down(tmp_path, *((broken, b"") if which == "the file" else (main, broken)))
        try:
            outcome = what_a_flip_does(path, transactions)
        except store.StoreError:
            outcome = "refused"
        outcomes[outcome] += 1
        assert outcome != "wrong", f"bit {bit} flipped: something was read that was never written; seed {seed}"
    say(f"{flips:,} bits flipped, one a file: {outcomes['right']} read right or as a shorter log, "
        f"{outcomes['refused']} refused, {outcomes['missing']} with something missing from the index; 0 wrong "
        f"documents (asked 0); seed {seed}")


def test_an_index_of_another_version_is_derived_anew(tmp_path):
    """Without this, a file that an earlier version made would be read by rules that are not its own."""
    with store.open(tmp_path / "one.db") as node:
        node.submit_tx([store.put({"xt/id": "ann", "age": 41})])
        node.submit_tx([store.put({"xt/id": "ann", "age": 42})])
        state = node.status()["state"]
    with contextlib.closing(sqlite3.connect(tmp_path / "one.db", isolation_level=None)) as file:
        assert file.execute("delete from facts").rowcount > 0
        file.execute("pragma user_version = 1")
    for _ in range(2):
        with store.open(tmp_path / "one.db") as node:
            assert node.db().q({"find": "?who", "where": [["?who", "age", 42]]}) == ["ann"]
            assert node.db(1).entity("ann")["age"] == 41 and node.status()["state"] == state


def test_a_backup_made_while_writing_is_a_true_past_state(tmp_path, size, say):
    """Without this, the copy that one goes back to after a disaster could be one that never was."""
    count, path, stop, failed = size(40, 200), tmp_path / "live.db", threading.Event(), []
    with contextlib.closing(store.open(path)) as node:
        def write():
            try:
                for number in range(1, 100_000):
                    node.submit_tx(appender.transaction(0, number))
                    if stop.wait(0.0005):
                        return
            except BaseException as error:
                failed.append(error)
        writing = threading.Thread(target=write)
        writing.start()
        try:
            backups = [(tmp_path / f"backup{n}.db", node.backup(tmp_path / f"backup{n}.db")) for n in range(count)]
        finally:
            stop.set()
            writing.join()
        states = [checked(node, *backup) for backup in backups]
    assert not failed and states == sorted(states) and states[0] < states[-1]
    say(f"{count} backups while {states[-1]:,} transactions were written: each opens, verifies and is its own past "
        "state")


def test_a_backup_comes_to_its_end_although_each_step_of_it_sees_a_write(tmp_path):
    """Without this, a backup with a progress bar began anew with every transaction beside it, and never ended on a
    busy store."""
    steps = []
    with contextlib.closing(store.open(tmp_path / "live.db")) as node:
        node.submit_tx([store.put({"xt/id": n, "text": "x" * 4000}) for n in range(2_500)])

        def step(done, total):
            steps.append(done)
            assert steps == sorted(set(steps)), "the copy went back to its beginning"
            node.submit_tx([store.put({"xt/id": f"beside {done}"})])
        assert node.backup(tmp_path / "backup.db", step) == 1 and len(steps) > 1
    with contextlib.closing(store.open(tmp_path / "backup.db")) as copy:
        assert copy.verify() == 1


def checked(node, path, tx_id):
    """The tx_id of a backup that opens, verifies and answers as the live store does of that transaction."""
    everything = {"find": ["?d", "?text"], "where": [["?d", "doc/text", "?text"]]}
    assert check(path, {(0, n): n for n in range(1, tx_id + 1)})[0] == tx_id
    with contextlib.closing(store.open(path)) as copy:
        assert copy.verify() == tx_id
        assert sorted(copy.db(tx_id).q(everything)) == sorted(node.db(tx_id).q(everything))
    path.unlink()
    return tx_id


def test_a_plain_copy_of_the_file_alone_is_no_backup(tmp_path):
    """Without this, the README could be read as if `cp` were enough: what was written last is in another file."""
    main, wal, _ = frozen(tmp_path / "live.db", 5)
    with pytest.raises((AssertionError, store.StoreError)):
        check(laid_down(tmp_path, main, b""), {(0, n): n for n in range(1, 6)})
    assert check(laid_down(tmp_path, main, wal), {(0, n): n for n in range(1, 6)})[0] == 5


# ── Who has it open ────────────────────────────────────────────────────────────────────────────────────────────

def test_a_second_opening_is_the_same_store_by_whatever_name(tmp_path):
    """Without this, a link to the file would be another store, with a write-ahead log of its own."""
    path, link, folder, acks = tmp_path / "one.db", tmp_path / "link.db", tmp_path / "folder", {}
    with contextlib.closing(store.open(path)) as node:
        link.symlink_to(path)
        folder.symlink_to(tmp_path)
        names = path, link, folder / "one.db", str(path), tmp_path / "folder" / ".." / path.parent.name / "one.db"
        for number, name in enumerate(names, 1):
            with contextlib.closing(store.open(name)) as other:
                acks[0, number] = other.submit_tx(appender.transaction(0, number)).tx_id
            assert node.db().tx_id == number
    assert check(link, acks)[0] == len(names)


def in_a_fork(act):
    """Runs `act` in a forked child; returns the text that it returns, or its exception's."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            answer = act()
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, str(answer).encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer


def test_a_forked_child_cannot_touch_the_parents_store(tmp_path):
    """Without this, a child would share the parent's file and lock, and both would write."""
    path = tmp_path / "one.db"
    with contextlib.closing(store.open(path)) as node:
        node.submit_tx(appender.transaction(0, 1))
        db = node.db()
        for act in (lambda: node.submit_tx(appender.transaction(0, 2)), node.db, lambda: db.entity("tip/0"),
                    lambda: list(node.tx_log()), lambda: db.q({"find": "?e", "where": [["?e", "tip/number"]]})):
            name, _, sentence = in_a_fork(act).partition(": ")
            assert issubclass(getattr(store, name), store.StoreError), f"{name}: {sentence}"
        node.submit_tx(appender.transaction(0, 2))
    assert check(path, {(0, 1): 1, (0, 2): 2})[0] == 2


def test_an_orphan_of_a_fork_does_not_keep_the_lock(tmp_path):
    """Without this, a server that had once forked could not be started again until its child was found and ended."""
    path = tmp_path / "one.db"
    node = store.open(path)
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(writing)
        os.read(reading, 1)         # until the parent lets go
        os._exit(0)
    try:
        node.close()
        store.open(path).close()
    finally:
        os.close(writing)
        os.close(reading)
        os.waitpid(pid, 0)


def test_a_closed_store_is_free_though_a_child_has_not_let_go_yet(tmp_path):
    """Without this, a store that is closed and opened again right after a fork would now
    and then be told that it is in use."""
    path = tmp_path / "one.db"
    node = store.open(path)
    copy = os.dup(node._file._held._file)         # what a child has until it comes to its first line
    try:
        node.close()
        store.open(path).close()
    finally:
        os.close(copy)


def test_eight_threads_through_one_store(tmp_path, say):
    """Without this, two requests at once could be given one tx_id, or one of them nothing."""
    each, threads, given = 1_000, 8, []
    path = tmp_path / "one.db"
    with contextlib.closing(store.open(path)) as node:
        def work(worker):
            given.extend([node.submit_tx([store.put({"xt/id": f"{worker}/{n}"})]).tx_id for n in range(each)])
        running = [threading.Thread(target=work, args=[worker]) for worker in range(threads)]
        begun = time.monotonic()
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        seconds = time.monotonic() - begun
    assert sorted(given) == list(range(1, each * threads + 1))
    with contextlib.closing(store.open(path)) as again:
        assert [tx.tx_id for tx in again.tx_log()] == sorted(given)
    say(f"{len(set(given)):,} distinct tx_ids, gapless (asked {each * threads:,}), {len(given) / seconds:,.0f} durable "
        "puts/s")


def test_closing_twice_is_closing_once(tmp_path):
    """Without this, a server whose parts each close the store would never end."""
    node = store.open(tmp_path / "one.db")
    node.close()
    node.close()
    for act in (node.reindex, node.verify, node.db, lambda: node.submit_tx([store.put({"xt/id": 1})])):
        with pytest.raises(store.ClosedError):
            act()
