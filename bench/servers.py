"""The log on PostgreSQL beside the embedded one and beside raw inserts of the same rows.

    python bench/servers.py [--seconds 3] [--catch-up 20000]

Measures appends, delivery to another server, and catching up. Starts a PostgreSQL of its own (tests/postgres.py; fsync
on). All sides write the same messages with as many posters: tasks of one event loop that each wait for their answer.
Rounds alternate; the table has medians.

"Raw" inserts the log's row and the document's row with the driver alone, and puts all that waits into one batch. A
program with one writer a server would do that if it needed no index, abort, hash or history.
"""

import argparse
import asyncio
import contextlib
import multiprocessing
import pathlib
import statistics
import sys
import tempfile
import time
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
import postgres                                  # noqa: E402
import psycopg                                   # noqa: E402
import store                                     # noqa: E402
import store_postgres                            # noqa: E402

POSTERS = 1, 4, 16
TEXT = "the quick brown eel swims past a lazy heron while everybody else is still asleep and dreaming"
BULK = 1_000                                     # documents in a transaction of a bulk load


def message():
    return {"xt/id": uuid.uuid4(), "msg/mem": uuid.UUID(int=1), "msg/channel": uuid.UUID(int=2), "msg/text": TEXT,
            "msg/created-at": store.EPOCH}


async def post_all(submit, posters, seconds):
    """Acknowledged posts a second."""
    end, counts = time.perf_counter() + seconds, [0] * posters

    async def one(number):
        while time.perf_counter() < end:
            await submit()
            counts[number] += 1
    begun = time.perf_counter()
    await asyncio.gather(*map(one, range(posters)))
    return sum(counts) / (time.perf_counter() - begun)


def posts_of(node, posters, seconds):
    return asyncio.run(post_all(lambda: node.submit([store.put(message())]), posters, seconds))


# ── Raw ──────────────────────────────────────────────────────────────────────────────────────────────────────

class Raw:
    """The same rows without a store. One batch at a time is under way, of all that waits."""

    def __init__(self):
        self.tx_id, self.waiting = 0, []

    def rows(self, count):
        """For each message a row of the log and a row of the documents, packed as the store does."""
        ids = range(self.tx_id + 1, self.tx_id + count + 1)
        self.tx_id += count
        for tx_id in ids:
            document = message()
            data = store.pack_document(document)
            ops = store.pack([[0, document["xt/id"], None, None, store.digest(data)]])
            yield (tx_id, tx_id, ops, bytes(32), len(data) + len(ops),
                   uuid.UUID(int=3)), (tx_id, 0, document["xt/id"].bytes, data)

    async def submit(self):
        done = asyncio.get_running_loop().create_future()
        self.waiting.append(done)
        if len(self.waiting) == 1 and not self.is_busy:
            asyncio.get_running_loop().create_task(self.write())
        await done

    is_busy = False

    async def write(self):
        self.is_busy = True
        while self.waiting:
            batch, self.waiting = self.waiting, []
            log, documents = zip(*self.rows(len(batch)))
            await self.insert(log, documents)
            for done in batch:
                done.set_result(None)
        self.is_busy = False


LOG = ("insert into store_log select * from unnest({}::bigint[], {}::bigint[], {}::bytea[], {}::bytea[], "
       "{}::bigint[], {}::uuid[])")
DOCUMENTS = "insert into store_documents select * from unnest({}::bigint[], {}::bigint[], {}::bytea[], {}::bytea[])"


class RawPsycopg(Raw):
    async def measure(self, url, posters, seconds):
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as self.connection:
            return await post_all(self.submit, posters, seconds)

    async def insert(self, log, documents):
        async with self.connection.pipeline():
            await self.connection.execute("begin")
            await self.connection.execute(LOG.format(*["%b"] * 6), [list(column) for column in zip(*log)], prepare=True)
            await self.connection.execute(DOCUMENTS.format(*["%b"] * 4), [list(column) for column in zip(*documents)],
                                          prepare=True)
            await self.connection.execute("commit")


class RawAsyncpg(Raw):
    async def measure(self, url, posters, seconds):
        import asyncpg
        schema = url.rpartition("search_path%3D")[2]
        self.connection = await asyncpg.connect(url.partition("&options")[0], server_settings={"search_path": schema})
        try:
            return await post_all(self.submit, posters, seconds)
        finally:
            await self.connection.close()

    async def insert(self, log, documents):
        async with self.connection.transaction():
            await self.connection.execute(LOG.format(*[f"${n}" for n in range(1, 7)]),
                                          *(list(column) for column in zip(*log)))
            await self.connection.execute(DOCUMENTS.format(*[f"${n}" for n in range(1, 5)]),
                                          *(list(column) for column in zip(*documents)))


def raw(kind, cluster, posters, seconds):
    url = postgres.empty_schema(cluster.url)
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in store_postgres._TABLES.split(";"):
            connection.execute(statement)
    return asyncio.run(kind().measure(url, posters, seconds))


# ── Ours ─────────────────────────────────────────────────────────────────────────────────────────────────────

def embedded(folder, posters, seconds):
    with contextlib.closing(store.open(folder / f"{uuid.uuid4()}.db")) as node:
        return posts_of(node, posters, seconds)


def on_one(cluster, folder, posters, seconds):
    with contextlib.closing(store.open(postgres.empty_schema(cluster.url),
                                       index=folder / f"{uuid.uuid4()}.db")) as node:
        return posts_of(node, posters, seconds)


def other_server(url, index, pipe):
    """A server in a process of its own: it does what it is told, and listens."""
    with contextlib.closing(store.open(url, index=index)) as node:
        pipe.send("open")
        heard = []
        while command := pipe.recv():
            if command[0] == "post":
                pipe.send(posts_of(node, *command[1:]))
            elif command[0] == "hear":
                node.on_tx(lambda tx: heard.append((tx.tx_id, time.time())))
                pipe.send("hearing")
            elif command[0] == "heard":
                node.await_tx(command[1], 20)
                time.sleep(0.2)
                pipe.send(dict(heard))


@contextlib.contextmanager
def another(target, *arguments):
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=target, args=(*arguments, there))
    process.start()
    here.recv()
    yield here
    here.send(None)
    process.join()


def on_two(cluster, folder, posters, seconds):
    """Both servers together, with half of the posters on each; a single poster is on both."""
    url, half = postgres.empty_schema(cluster.url), max(1, posters // 2)
    with contextlib.closing(store.open(url, index=folder / f"{uuid.uuid4()}.db")) as node, \
            another(other_server, url, folder / f"{uuid.uuid4()}.db") as other:
        other.send(("post", half, seconds))
        here = posts_of(node, half, seconds)
        return here + other.recv()


def delivery(cluster, folder, count=400):
    """Seconds from posting on one server to the listener on the other, sorted."""
    url, sent = postgres.empty_schema(cluster.url), {}
    with contextlib.closing(store.open(url, index=folder / f"{uuid.uuid4()}.db")) as node, \
            another(other_server, url, folder / f"{uuid.uuid4()}.db") as other:
        other.send(("hear",))
        other.recv()
        for _ in range(count):
            begun = time.time()
            sent[node.submit_tx([store.put(message())]).tx_id] = begun
            time.sleep(0.002)
        other.send(("heard", max(sent)))
        heard = other.recv()
    return sorted(heard[tx_id] - begun for tx_id, begun in sent.items())


def raw_listener(url, pipe):
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("listen bell")
        pipe.send("open")
        times = [(int(notice.payload), time.time()) for notice in connection.notifies(stop_after=400, timeout=30)]
        pipe.send(dict(times))
        pipe.recv()


def raw_delivery(cluster, count=400):
    """The same for INSERT, commit, NOTIFY by hand, until another connection has the notification."""
    url, sent, rows = postgres.empty_schema(cluster.url), {}, Raw().rows(count)
    with psycopg.connect(url, autocommit=True) as connection, another(raw_listener, url) as listener:
        for statement in store_postgres._TABLES.split(";"):
            connection.execute(statement)
        for log, document in rows:
            begun = time.time()
            with connection.transaction():
                connection.execute("insert into store_log values (%b, %b, %b, %b, %b, %b)", log, prepare=True)
                connection.execute("insert into store_documents values (%b, %b, %b, %b)", document, prepare=True)
            connection.execute(f"notify bell, '{log[0]}'")
            sent[log[0]] = begun
            time.sleep(0.002)
        heard = listener.recv()
    return sorted(heard[tx_id] - begun for tx_id, begun in sent.items() if tx_id in heard)


def catching_up(cluster, folder, count):
    """Transactions a second, of one document each, that a new server indexes; every hash is checked."""
    url = postgres.empty_schema(cluster.url)
    with contextlib.closing(store.open(url, index=folder / f"{uuid.uuid4()}.db")) as node:
        asyncio.run(load(node, count))
    begun = time.perf_counter()
    with contextlib.closing(store.open(url, index=folder / f"{uuid.uuid4()}.db")) as node:
        assert node.latest_tx.tx_id == count
        return count / (time.perf_counter() - begun)


async def load(node, count):
    for start in range(0, count, BULK):
        await asyncio.gather(*(node.submit([store.put(message())]) for _ in range(min(BULK, count - start))))


def bulk(folder, count):
    """Documents a second that the embedded store loads, many in a transaction."""
    with contextlib.closing(store.open(folder / f"{uuid.uuid4()}.db")) as node:
        begun = time.perf_counter()
        for start in range(0, count, BULK):
            node.submit_tx([store.put(message()) for _ in range(min(BULK, count - start))])
        return count / (time.perf_counter() - begun)


# ── The table ────────────────────────────────────────────────────────────────────────────────────────────────

def median_of(rounds, sides):
    """The median of each side; the sides take turns."""
    taken = [[side() for side in sides] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*taken)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--catch-up", type=int, default=20_000, help="transactions")
    given = parser.parse_args()
    with postgres.Postgres() as cluster, tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = pathlib.Path(name)
        print("| acknowledged appends a second | embedded | raw psycopg | raw asyncpg | one server | two servers | of "
              "the lesser bound (asked 60 %) |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        for posters in POSTERS:
            sides = [lambda: embedded(folder, posters, given.seconds),
                     lambda: raw(RawPsycopg, cluster, posters, given.seconds),
                     lambda: raw(RawAsyncpg, cluster, posters, given.seconds),
                     lambda: on_one(cluster, folder, posters, given.seconds),
                     lambda: on_two(cluster, folder, posters, given.seconds)]
            rates = median_of(given.rounds, sides)
            bound = min(rates[0], max(rates[1:3]))
            print(f"| {posters} poster{'s' * (posters > 1)} | {' | '.join(f'{rate:,.0f}' for rate in rates)} | "
                  f"{rates[3] / bound:.0%} |", flush=True)
        raw_s, ours_s = raw_delivery(cluster), delivery(cluster, folder)
        p50, p99 = (lambda times: times[len(times) // 2] * 1e3), (lambda times: times[len(times) * 99 // 100] * 1e3)
        print(f"\npost to delivery on the other server: p50 {p50(ours_s):.2f} ms, p99 {p99(ours_s):.2f} ms; raw "
              f"INSERT, commit, NOTIFY until another has it: p50 {p50(raw_s):.2f} ms, p99 {p99(raw_s):.2f} ms; "
              f"{p50(ours_s) / p50(raw_s):.1f} × (asked: at most 3 ×)")
        caught, loaded = median_of(given.rounds, [lambda: catching_up(cluster, folder, given.catch_up),
                                                  lambda: bulk(folder, given.catch_up)])
        print(f"catching up: {caught:,.0f} transactions a second of one document each; the embedded store loads "
              f"{loaded:,.0f} documents a second, {BULK:,} in a transaction (asked: {min(20_000, loaded / 2):,.0f})")


if __name__ == "__main__":
    main()
