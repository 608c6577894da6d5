"""A server without a web face, for tests to freeze and kill: it opens a log with an index of its own and says what it
does.

`python tests/peer.py URL INDEX append NAME FIRST COUNT` puts NAME/FIRST and so on, COUNT of them, each once: a put that
is in doubt is tried again under the same id. `python tests/peer.py URL INDEX follow TX_ID` only follows, up to that
transaction. `… live NAME` puts and reads until SIGTERM.

It prints a line for each event: `open`, `ack NAME/3 TX_ID SECONDS`, `refused SECONDS`, `read TX_ID` (what was newest),
`inside` (between the lock and the insert of the first, if INSIDE_S is set), `closed`.
"""
import datetime as dt
import os
import pathlib
import signal
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import store    # noqa: E402

INSIDE_S = float(os.environ.get("INSIDE_S", 0))      # how long the first append stays between its lock and its insert


def tell(*words):
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def clock():
    """Asked for the first time under the lock of the first append."""
    global INSIDE_S
    if INSIDE_S:
        tell("inside")
        time.sleep(INSIDE_S)
        INSIDE_S = 0
    return dt.datetime.now(dt.timezone.utc)


def put_once(node, id):
    """The transaction that put a document, also if it takes several attempts to hear of it."""
    begun = time.monotonic()
    while True:
        try:
            tx = node.submit_tx([store.match(id, None), store.put({"xt/id": id})])
        except store.UnreachableError:
            continue
        return tx.tx_id if tx.committed else node.db().entity_tx(id).tx_id, time.monotonic() - begun


def append(node, name, first, count):
    for number in range(first, first + count):
        tell("ack", f"{name}/{number}", *put_once(node, f"{name}/{number}"))


def live(node, name):
    """Puts and reads go on beside each other, whatever becomes of the puts."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())

    def read():
        while not ended.wait(0.02):
            tell("read", node.db().entity("seen by all") and node.latest_tx.tx_id)
    reading, number = threading.Thread(target=read), 0
    reading.start()
    while not ended.wait(0.02):
        number, begun = number + 1, time.monotonic()
        try:
            tx = node.submit_tx([store.put({"xt/id": f"{name}/{number}"})])
            tell("ack", f"{name}/{number}", tx.tx_id, time.monotonic() - begun)
        except store.UnreachableError:
            tell("refused", time.monotonic() - begun)
    reading.join()


def main(url, index, what, *words):
    node = store.open(url, index=index, clock=clock if INSIDE_S else None)
    tell("open")
    if what == "append":
        append(node, words[0], int(words[1]), int(words[2]))
    elif what == "live":
        live(node, words[0])
    else:
        node.await_tx(int(words[0]), 60)
    node.close()
    tell("closed")


if __name__ == "__main__":
    main(*sys.argv[1:])
