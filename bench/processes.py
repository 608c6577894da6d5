"""One file in several processes: puts, reads and how late another process hears, in one table.

    python bench/processes.py [--rounds 3] [--seconds 2]

A put is one transaction with one document, synced. Plain SQLite is shared alike: each of its processes inserts the
same document in a transaction of its own, with synchronous=FULL, a write-ahead log and SQLite's own waiting for its
lock. All arrangements are timed in turns, and a figure is the median of the rounds. A share is what the slowest process
got of what the fastest got. Processes beyond the number of cores take turns on these.
"""

import argparse
import json
import os
import pathlib
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import store                                      # noqa: E402
from store import put                             # noqa: E402

PEOPLE = 1_000
TEXT = "All that is said in a channel, in about as many letters as people use."
BY_EMAIL = {"find": ("pull", "?u", ["*"]), "in": ["?email"], "where": [["?u", "user/email", "?email"]]}
PUTS = {"store": [(1, 1), (1, 2), (2, 1), (1, 4), (4, 1), (1, 16), (4, 4)], "SQLite": [(1, 1), (2, 1), (4, 1)]}
READS = [(1, 1), (1, 4), (2, 1), (4, 1)]
HEARD = 300


def message(n):
    return {"xt/id": uuid.uuid4(), "msg/text": TEXT, "msg/by": f"user{n % PEOPLE}", "msg/number": n}


# ── A process that works ───────────────────────────────────────────────────────────────────────────────────────

def putting(path):
    node = store.open(path, timeout=60)
    return lambda n: node.submit_tx([put(message(n))])


def inserting(path):
    local = threading.local()

    def insert(n):
        if not hasattr(local, "connection"):
            local.connection = sqlite3.connect(path, timeout=60, isolation_level=None)
            local.connection.execute("pragma synchronous = full")
        document = message(n)
        local.connection.execute("begin immediate")
        local.connection.execute("insert into messages values (?, ?, ?, ?)",
                                 (document["xt/id"].bytes, *list(document.values())[1:]))
        local.connection.execute("commit")
    return insert


def reading(path):
    node = store.open(path)
    return lambda n: node.db().q(BY_EMAIL, f"user{n * 7 % PEOPLE}@example.com")


KINDS = {"store": putting, "SQLite": inserting, "read": reading}


def work(kind, path, threads, seconds):
    """Says that it is ready, waits for a line, works for so long, and says how often it did it."""
    act, counts = KINDS[kind](path), [0] * threads
    act(0)
    print("ready", flush=True)
    sys.stdin.readline()
    end = time.monotonic() + seconds

    def repeat(place):
        while time.monotonic() < end:
            act(counts[place])
            counts[place] += 1
    running = [threading.Thread(target=repeat, args=[place]) for place in range(threads)]
    [thread.start() for thread in running], [thread.join() for thread in running]
    print(sum(counts), flush=True)


def listen(path):
    """Says of each transaction how long ago it was submitted, in ms."""
    node = store.open(path)
    delays = []

    def hear(tx):
        delays.append((time.time() - tx.ops[0][1]["at"]) * 1000)
        if len(delays) == HEARD:
            print(json.dumps(delays), flush=True)
    node.on_tx(hear)
    print("ready", flush=True)
    sys.stdin.readline()


# ── Those who ask ──────────────────────────────────────────────────────────────────────────────────────────────

def started(*arguments):
    child = subprocess.Popen([sys.executable, __file__, "--work", *map(str, arguments)], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    return child


def rate(kind, path, processes, threads, seconds):
    """How often a second all processes together did it, and the slowest one's share of the fastest one's."""
    children = [started(kind, path, threads, seconds) for _ in range(processes)]
    for child in children:
        child.stdin.write("go\n"), child.stdin.flush()
    counts = [int(child.communicate()[0]) for child in children]
    return sum(counts) / seconds, min(counts) / max(counts)


def made(kind, folder):
    path = pathlib.Path(folder) / f"{kind}-{uuid.uuid4().hex[:6]}.db"
    if kind == "SQLite":
        with sqlite3.connect(path) as connection:
            connection.execute("pragma journal_mode = wal")
            connection.execute("create table messages(id blob primary key, text, by, number)")
        connection.close()
    else:
        with store.open(path) as node:
            node.submit_tx([put({"xt/id": f"user{n}", "user/email": f"user{n}@example.com", "user/name": f"User {n}"})
                            for n in range(PEOPLE)])
    return path


def delays(folder):
    """In ms, from submit_tx on, until a listener here, and one in another process, is called."""
    path, here = made("store", folder), []
    child = started("listen", path)
    with store.open(path) as node:
        node.on_tx(lambda tx: here.append((time.time() - tx.ops[0][1]["at"]) * 1000))
        for n in range(HEARD):
            node.submit_tx([put({"xt/id": n, "at": time.time()})])
            time.sleep(0.005)
        there = json.loads(child.stdout.readline())
    child.communicate()
    return here, there


def main(options):
    with tempfile.TemporaryDirectory(dir=pathlib.Path.cwd()) as folder:
        taken = {}
        for _ in range(options.rounds):
            for kind, arrangements in [*PUTS.items(), ("read", READS)]:
                for processes, threads in arrangements:
                    found = rate(kind, made(kind, folder), processes, threads, options.seconds)
                    taken.setdefault((kind, processes, threads), []).append(found)
        here, there = delays(folder)
    show({key: tuple(map(statistics.median, zip(*found))) for key, found in taken.items()}, here, there)


def show(taken, here, there):
    print(f"{os.cpu_count()} cores\n\n| processes × threads | puts/s | the slowest process's share | SQLite's puts/s | "
          "its share | reads/s |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    for processes, threads in sorted({key[1:] for key in taken}):
        cells = [f"{processes} × {threads}"]
        for kind in "store", "SQLite", "read":
            found = taken.get((kind, processes, threads))
            cells.append(f"{found[0]:,.0f}" if found else "")
            if kind != "read":
                cells.append(f"{found[1]:.2f}" if found and processes > 1 else "")
        print("| " + " | ".join(cells) + " |")
    print("\n| a listener hears, ms after submit_tx began | median | 99th percentile | most |\n| --- | ---: | ---: | "
          "---: |")
    for name, times in ("in the same process", here), ("in another process", there):
        times = sorted(times)
        print(f"| {name} | {statistics.median(times):.1f} | {times[len(times) * 99 // 100]:.1f} | {times[-1]:.1f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--work", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.work:
        main(options)
    elif options.work[0] == "listen":
        listen(options.work[1])
    else:
        work(options.work[0], options.work[1], int(options.work[2]), float(options.work[3]))
