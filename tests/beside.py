"""One of several processes on one file: it writes, reads and listens until it is killed, and says what it was told.

`python tests/beside.py PATH WRITER WRITERS SEED` writes the transactions of one writer of appender.py, and each fourth
time counts on in a document that all of them share. Between two it looks at what the others have written. One system
call writes each line: `open`, `ack WRITER NUMBER TX_ID`, `counted TX_ID`, `heard TX_ID`, `wrong TEXT`.
"""
import os
import pathlib
import random
import sys
import time

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


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))
    os._exit(0)
