"""One of several processes on one file.

`python tests/beside.py PATH WRITER WRITERS SEED` writes, reads and listens until it is killed. It writes the
transactions of one writer of appender.py, and each fourth time counts on in a document that all of them share. Between
two it looks at what the others have written. One system call writes each line: `open`, `ack WRITER NUMBER TX_ID`,
`counted TX_ID`, `heard TX_ID`, `wrong TEXT`.

`python tests/beside.py churn PATH SEED` puts and deletes at random, with ever new attributes and ids.

`python tests/beside.py upkeep` opens and closes stores as lines of its input say (`+PATH`, `-PATH`), and answers each
with a line. Of a store that it has open it writes all that no transaction of the log shows: it derives the index anew,
writes statistics, and empties the write-ahead log; and it asks. So a test that knows each transaction has a second
process that writes beside it.
"""
import os
import pathlib
import random
import sys
import threading
import time
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import appender    # noqa: E402
import store       # noqa: E402

EVERY = {"find": "?d", "in": ["?writer"], "where": [["?d", "doc/writer", "?writer"]]}


def count_on(ctx):
    found = ctx.db.entity("count")
    return [store.put({"xt/id": "count", "n": 1 + (found["n"] if found else 0)})]


FUNCTIONS = {"count-on": count_on}


def there(writer, number):
    """The names of a writer's documents after so many transactions."""
    names = {document["xt/id"] for n in range(1, number + 1) for document in appender.documents(writer, n)}
    return names - {appender.deleted(writer, n) for n in range(1, number + 1)}


def complaint(db, writer):
    """None, or what a snapshot has of another writer that no transaction left behind."""
    number = appender.newest(db, writer)
    if sorted(db.q(EVERY, writer)) != sorted(there(writer, number)):
        return f"{db}: other documents than those of transaction {number} of writer {writer}"
    for document in appender.documents(writer, number) if number else ():
        if db.entity(document["xt/id"]) != document:
            return f"{db}: {document['xt/id']} is not what was put"
    return None


def main(path, writer, writers, seed):
    rng, node = random.Random(f"{seed} {writer}"), store.open(path, FUNCTIONS, timeout=60)
    appender.tell("open")
    node.on_tx(lambda tx: appender.tell("heard", tx.tx_id), after=0)
    held = node.db()
    while True:
        acked = 0
        if rng.random() < 0.25:
            acked = node.submit_tx([store.call("count-on")]).tx_id
            appender.tell("counted", acked)
        else:
            number = appender.newest(node.db(), writer) + 1
            acked = node.submit_tx(appender.transaction(writer, number), check=True).tx_id
            appender.tell("ack", writer, number, acked)
        db = node.db()
        if db.tx_id < acked:
            appender.tell("wrong", f"{db} does not see {acked}")
        for one in (db, held):
            if found := complaint(one, rng.randrange(writers)):
                appender.tell("wrong", found)
        held = rng.choice([held, db])
        time.sleep(rng.choice([0, 0, 0.001, 0.01]))


def churn(path, seed):
    rng, node, n = random.Random(seed), store.open(path, timeout=60), 0
    ids = [*range(10), *(f"id{n}" for n in range(5)), *(uuid.UUID(int=n + 1) for n in range(15))]
    appender.tell("open")
    while True:
        n += 1
        document = {"xt/id": rng.choice(ids), f"new{rng.randrange(n)}": rng.choice([n, 0.5, "text"]),
                    "name": rng.choice(["a", "b", n]), "about": rng.sample(ids, 2)}
        node.submit_tx([store.put(document) if rng.random() < 0.8 else store.delete(rng.choice(ids))])


# ── Upkeep ─────────────────────────────────────────────────────────────────────────────────────────────────────

SMALL = 300                           # transactions, up to which the index is derived anew beside a test
ALL_NAMES = {"find": ["?e", "?n"], "where": [["?e", "name", "?n"]], "limit": 5}


def look_after(path, ended):
    """Between two pieces of work it rests three times as long as the last one took: else the test has no turn."""
    rng, rest_s = random.Random(path), 0.0
    with store.open(path, timeout=60) as node:
        node.on_tx(lambda tx: None)
        while not ended.wait(max(rest_s, rng.random() * 0.02)):
            begun = time.monotonic()
            rng.choice([write_statistics, empty, ask, derive])(node)
            rest_s = 3 * (time.monotonic() - begun)


def write_statistics(node):
    file = node._file

    def write():
        file.begin()
        file.index.write_statistics(file.latest.n)
        file.writer.execute("commit")
    node._log.alone(write)


def derive(node):
    if node._file.latest.tx_id < SMALL:
        node.reindex()


def empty(node):
    node._log.alone(node._file.empty_wal)


def ask(node):
    node.db().q(ALL_NAMES)
    node.db(max(0, node.db().tx_id - 1)).q(ALL_NAMES)


def upkeep():
    running = {}
    for line in sys.stdin:
        sign, path = line[0], line[1:-1]
        if sign == "+":
            ended = threading.Event()
            running[path] = ended, threading.Thread(target=look_after, args=[path, ended])
            running[path][1].start()
        else:
            running[path][0].set()
            running.pop(path)[1].join()
        appender.tell("done")


if __name__ == "__main__":
    if sys.argv[1] == "upkeep":
        upkeep()
    elif sys.argv[1] == "churn":
        churn(sys.argv[2], int(sys.argv[3]))
    else:
        main(sys.argv[1], *map(int, sys.argv[2:5]))
    os._exit(0)
