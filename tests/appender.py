"""A writer that tests kill: it appends transactions whose every byte is known in advance, and says so after each.

`python tests/appender.py PATH WRITERS TRANSACTIONS [PRAGMA …]` opens the store, with other settings of SQLite if any
are given. Each writer is a thread; a single writer is the main thread, and has the
number that WRITER says. Each appends that many transactions; 0 means for
ever. One system call writes each line, so that the line is there even if the next instruction never runs: `open`, `ack
WRITER NUMBER TX_ID`, `error WRITER NAME: TEXT` (writer `-`: of opening or closing), `closed`.

Transaction number i of writer w is always the same: it matches what i - 1 left, puts the tip and one to five documents
from a few bytes to three pages, and every third deletes a document of an earlier one.
"""
import hashlib
import os
import pathlib
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import store    # noqa: E402

SIZES = 10, 300, 2_000, 9_000, 40      # bytes of text: within a page, and over several
AFTER_ERROR = 3                         # more attempts after a refused one, to see that none is acknowledged


def tip(writer, number):
    """The document of a writer's newest transaction about itself; None before the first."""
    return {"xt/id": f"tip/{writer}", "tip/number": number} if number else None


def documents(writer, number):
    for k in range(1 + number % len(SIZES)):
        name = f"{writer}/{number}/{k}"
        text = hashlib.blake2b(name.encode()).hexdigest() * (1 + SIZES[k] // 128)
        yield {"xt/id": name, "doc/writer": writer, "doc/text": text[:SIZES[k]]}


def deleted(writer, number):
    """The id that this transaction deletes, or None."""
    return f"{writer}/{number - 2}/0" if number % 3 == 0 else None


def transaction(writer, number):
    operations = [store.match(f"tip/{writer}", tip(writer, number - 1)), store.put(tip(writer, number))]
    operations += map(store.put, documents(writer, number))
    if gone := deleted(writer, number):
        operations.append(store.delete(gone))
    return operations


def newest(db, writer):
    """The number of a writer's newest transaction in a snapshot; 0 if it has none."""
    found = db.entity(f"tip/{writer}")
    return found["tip/number"] if found else 0


def tell(*words):
    os.write(1, (" ".join(map(str, words)).replace("\n", " ") + "\n").encode())


def append(node, writer, transactions):
    """Appends that many and ends; ends also when the store goes on refusing."""
    number, done, refused = newest(node.db(), writer), 0, 0
    while refused <= AFTER_ERROR and (done < transactions or not transactions):
        try:
            tx = node.submit_tx(transaction(writer, number + 1))
        except store.StoreError as error:
            tell("error", writer, f"{type(error).__name__}: {error}")
            refused += 1
        else:
            assert tx.committed, f"transaction {tx.tx_id} of writer {writer} aborted"
            number, done = number + 1, done + 1
            tell("ack", writer, number, tx.tx_id)


def main(path, writers, transactions, *pragmas):
    connect = store._File._connect_writer

    def connect_otherwise(index):
        connection = connect(index)
        for pragma in pragmas:
            connection.execute(f"pragma {pragma}")
        return connection
    store._File._connect_writer = connect_otherwise
    try:
        node = store.open(path)
    except store.StoreError as error:
        return tell("error", "-", f"{type(error).__name__}: {error}")
    tell("open")
    if writers == 1:
        append(node, int(os.environ.get("WRITER", 0)), transactions)
    else:
        threads = [threading.Thread(target=append, args=[node, writer, transactions]) for writer in range(writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    try:
        node.close()
    except store.StoreError as error:
        return tell("error", "-", f"{type(error).__name__}: {error}")
    tell("closed")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:4]), *sys.argv[4:])
