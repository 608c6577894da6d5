"""The store beside hand-written SQL on a relational schema: the same messages, in one run, one table.

    python bench/store.py [--messages 10000 200000] [--rounds 5]

× is the store's median to the median of the SQL of the same run, taken in alternating rounds; at least two runs agree before a
ratio means anything on a noisy machine. Both keep their files in the same folder with synchronous=FULL and a write-ahead
log; every answer of the store is compared with the SQL's before anything is timed.
"""

import argparse
import datetime as dt
import gc
import pathlib
import random
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import store                                     # noqa: E402
from store import put                            # noqa: E402

USERS, COMMUNITIES, CHANNELS, SMALL = 1_000, 50, 500, 20
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)


class World:
    """A chat's worth of documents, the same for both sides: 40 % of the messages in one hot channel, 20 channels of fifty."""

    def __init__(self, messages, seed=1):
        rng = random.Random(seed)
        new = lambda: uuid.UUID(int=rng.getrandbits(128), version=4)
        self.users = [{"xt/id": new(), "user/email": f"user{n}@example.com", "user/joined-at": NOW} for n in range(USERS)]
        self.communities = [{"xt/id": new(), "comm/title": f"Community #{n}"} for n in range(COMMUNITIES)]
        self.mems = [{"xt/id": new(), "mem/user": user["xt/id"], "mem/comm": comm["xt/id"], "mem/roles": set()}
                     for user in self.users for comm in rng.sample(self.communities, 5)]
        self.channels = [{"xt/id": new(), "chan/title": f"Channel #{n}", "chan/comm": rng.choice(self.communities)["xt/id"]}
                         for n in range(CHANNELS)]
        ids = [channel["xt/id"] for channel in self.channels]
        self.hot, self.small = ids[0], ids[1:1 + SMALL]
        places = [id for id in self.small for _ in range(50)] + [self.hot] * (messages * 4 // 10)
        places += rng.choices(ids[1 + SMALL:], k=max(0, messages - len(places)))
        rng.shuffle(places)
        words = "the quick brown eel swims past a lazy heron while everybody else is still asleep".split()
        self.messages = [{"xt/id": new(), "msg/mem": rng.choice(self.mems)["xt/id"], "msg/channel": place,
                          "msg/text": " ".join(rng.choices(words, k=15)), "msg/created-at": NOW + dt.timedelta(seconds=n)}
                         for n, place in enumerate(places)]

    def everything(self):
        return self.users + self.communities + self.mems + self.channels + self.messages


class ByHand:
    """What one would write without the store: integer keys, an index for each question, no history."""

    def __init__(self, folder):
        self.db = sqlite3.connect(folder / "hand.db", isolation_level=None, check_same_thread=False, cached_statements=256)
        self.db.execute("pragma journal_mode = wal")
        self.db.execute("pragma synchronous = full")
        self.db.executescript("""
            create table users(n integer primary key, id blob unique, email text unique, joined_at integer);
            create table communities(n integer primary key, id blob unique, title text);
            create table mems(n integer primary key, id blob unique, user integer, comm integer, roles text);
            create index mems_user on mems(user);
            create table channels(n integer primary key, id blob unique, title text, comm integer);
            create table messages(n integer primary key, id blob unique, mem integer, channel integer, text text, created_at integer);
            create index messages_channel on messages(channel, created_at);
        """)

    def load(self, world):
        self.db.execute("begin")
        self.numbers = {}
        for kind in (world.users, world.communities, world.mems, world.channels):
            self.numbers.update({document["xt/id"]: n for n, document in enumerate(kind, 1)})
        n = self.numbers
        self.db.executemany("insert into users(id, email, joined_at) values (?, ?, ?)",
                            [(d["xt/id"].bytes, d["user/email"], micros(d["user/joined-at"])) for d in world.users])
        self.db.executemany("insert into communities(id, title) values (?, ?)", [(d["xt/id"].bytes, d["comm/title"]) for d in world.communities])
        self.db.executemany("insert into mems(id, user, comm, roles) values (?, ?, ?, '')",
                            [(d["xt/id"].bytes, n[d["mem/user"]], n[d["mem/comm"]]) for d in world.mems])
        self.db.executemany("insert into channels(id, title, comm) values (?, ?, ?)",
                            [(d["xt/id"].bytes, d["chan/title"], n[d["chan/comm"]]) for d in world.channels])
        self.db.executemany("insert into messages(id, mem, channel, text, created_at) values (?, ?, ?, ?, ?)", map(self.row, world.messages))
        self.db.execute("commit")

    def row(self, d):
        return d["xt/id"].bytes, self.numbers[d["msg/mem"]], self.numbers[d["msg/channel"]], d["msg/text"], micros(d["msg/created-at"])

    def put(self, document):
        self.db.execute("insert into messages(id, mem, channel, text, created_at) values (?, ?, ?, ?, ?)", self.row(document))

    def entity(self, id):
        row = self.db.execute("select m.id, e.id, c.id, m.text, m.created_at from messages m join mems e on e.n = m.mem "
                              "join channels c on c.n = m.channel where m.id = ?", (id.bytes,)).fetchone()
        return message(row)

    def newest(self, channel):
        rows = self.db.execute("select m.id, e.id, c.id, m.text, m.created_at from channels c join messages m on m.channel = c.n "
                               "join mems e on e.n = m.mem where c.id = ? order by m.created_at desc limit 50", (channel.bytes,))
        return [message(row) for row in rows]

    def channel(self, channel):
        rows = self.db.execute("select m.id, e.id, c.id, m.text, m.created_at from channels c join messages m on m.channel = c.n "
                               "join mems e on e.n = m.mem where c.id = ?", (channel.bytes,))
        return [message(row) for row in rows]

    def email(self, email):
        return [uuid.UUID(bytes=row[0]) for row in self.db.execute("select id from users where email = ?", (email,))]

    def join(self, channel):
        rows = self.db.execute("select m.text, u.email from channels c join messages m on m.channel = c.n join mems e on e.n = m.mem "
                               "join users u on u.n = e.user where c.id = ?", (channel.bytes,))
        return rows.fetchall()

    def nested(self, user):
        user_row = self.db.execute("select n, id, email, joined_at from users where id = ?", (user.bytes,)).fetchone()
        rows = self.db.execute("select e.id, c.id, c.title from mems e join communities c on c.n = e.comm where e.user = ?", (user_row[0],))
        return {"xt/id": uuid.UUID(bytes=user_row[1]), "user/email": user_row[2], "user/joined-at": moment(user_row[3]),
                "mems": [{"xt/id": uuid.UUID(bytes=m), "mem/user": user, "mem/roles": set(),
                          "mem/comm": {"xt/id": uuid.UUID(bytes=c), "comm/title": title}} for m, c, title in rows]}


def micros(at):
    return int(at.timestamp() * 1_000_000)


def moment(at):
    return dt.datetime.fromtimestamp(at / 1_000_000, dt.timezone.utc)


def message(row):
    return {"xt/id": uuid.UUID(bytes=row[0]), "msg/mem": uuid.UUID(bytes=row[1]), "msg/channel": uuid.UUID(bytes=row[2]),
            "msg/text": row[3], "msg/created-at": moment(row[4])}


CHANNEL = {"find": ("pull", "?m", ["*"]), "in": ["?c"], "where": [["?m", "msg/channel", "?c"]]}
NEWEST = CHANNEL | {"order-by": [[("created", "?m"), "desc"]], "limit": 50}
EMAIL = {"find": "?u", "in": ["?email"], "where": [["?u", "user/email", "?email"]]}
JOIN = {"find": ["?text", "?email"], "in": ["?c"], "where": [["?m", "msg/channel", "?c"], ["?m", "msg/text", "?text"],
                                                            ["?m", "msg/mem", "?e"], ["?e", "mem/user", "?u"], ["?u", "user/email", "?email"]]}
NESTED = ["*", ("mem/_user", {"as": "mems"}, ["*", {"mem/comm": ["*"]}])]


class Ours:
    def __init__(self, folder):
        self.node = store.open(folder / "store.db")

    def load(self, world):
        everything = world.everything()
        for start in range(0, len(everything), 10_000):
            self.node.submit_tx([put(document) for document in everything[start:start + 10_000]])
        self.past = self.node.latest_tx.tx_id

    def change(self, world):
        """Some history, after what the as-of rows ask for: edits, deletions and renamed users."""
        for channel in world.small:
            messages = self.channel(channel)
            for document in messages[:10]:
                self.node.submit_tx([put(document | {"msg/text": "edited"})])
        for user in world.users[:20]:
            for n in range(10):
                self.node.submit_tx([put(user | {"user/email": f"renamed{n}-{user['user/email']}"})])
        for user in world.users[:20]:
            self.node.submit_tx([put(user)])

    def put(self, document):
        self.node.submit_tx([put(document)])

    def entity(self, id):
        return self.node.db().entity(id)

    def newest(self, channel):
        return self.node.db().q(NEWEST, channel)

    def channel(self, channel):
        return self.node.db().q(CHANNEL, channel)

    def email(self, email):
        return self.node.db().q(EMAIL, email)

    def join(self, channel):
        return self.node.db().q(JOIN, channel)

    def nested(self, user):
        return self.node.db().pull(NESTED, user)


class AsOf:
    """The store as of the end of the load, beside the store now."""

    def __init__(self, ours):
        self.db = ours.node.db(ours.past)

    def entity(self, id):
        return self.db.entity(id)

    def channel(self, channel):
        return self.db.q(CHANNEL, channel)

    def newest(self, channel):
        return self.db.q(NEWEST, channel)


def timed(work, arguments):
    """Microseconds a call, the median over the arguments."""
    times = []
    for argument in arguments:
        begin = time.perf_counter_ns()
        work(argument)
        times.append((time.perf_counter_ns() - begin) / 1000)
    return statistics.median(times)


def compare(one, other, arguments, rounds):
    """The medians of both, in alternating rounds, so that a noisy minute hits both alike."""
    pairs = [(timed(one, arguments), timed(other, arguments)) for _ in range(rounds)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs), statistics.median(a / b for a, b in pairs)


def threads(work, documents, count=16):
    """Puts a second, from many threads at once."""
    chunks = [documents[n::count] for n in range(count)]
    workers = [threading.Thread(target=lambda chunk=chunk: [work(document) for document in chunk]) for chunk in chunks]
    begin = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(documents) / (time.perf_counter() - begin)


def same(ours, hand, world):
    """The answers agree, or the table would compare different things."""
    some = world.messages[-1]["xt/id"]
    assert ours.entity(some) == hand.entity(some)
    assert ours.newest(world.hot) == hand.newest(world.hot)
    by_id = lambda documents: sorted(documents, key=lambda document: document["xt/id"].int)
    assert by_id(ours.channel(world.small[0])) == by_id(hand.channel(world.small[0]))
    assert sorted(ours.join(world.small[0])) == sorted(set(hand.join(world.small[0])))
    assert ours.email("user7@example.com") == hand.email("user7@example.com")
    user = world.users[3]["xt/id"]
    one, other = ours.nested(user), hand.nested(user)
    assert by_id(one.pop("mems")) == by_id(other.pop("mems")) and one == other


def run(count, rounds, table):
    world = World(count)
    with tempfile.TemporaryDirectory(dir=pathlib.Path.cwd()) as folder:
        folder = pathlib.Path(folder)
        hand, ours = ByHand(folder), Ours(folder)
        loads = []
        for side in hand, ours:
            begin = time.perf_counter()
            side.load(world)
            loads.append(len(world.everything()) / (time.perf_counter() - begin))
        table.append((count, "bulk load, documents/s", loads[1], loads[0], loads[0] / loads[1]))
        same(ours, hand, world)
        gc.collect(), gc.freeze()
        rng = random.Random(2)
        ids = [document["xt/id"] for document in rng.sample(world.messages, 200)]
        users = [document["xt/id"] for document in rng.sample(world.users, 200)]
        emails = [document["user/email"] for document in rng.sample(world.users, 200)]
        small = world.small * 5
        for name, work, other, arguments in [
                ("entity by id", ours.entity, hand.entity, ids), ("user by email", ours.email, hand.email, emails),
                ("a small channel, 50 documents", ours.channel, hand.channel, small),
                ("newest 50 of the hot channel", ours.newest, hand.newest, [world.hot] * 100),
                ("messages with their author's email", ours.join, hand.join, small),
                ("nested pull of a user", ours.nested, hand.nested, users)]:
            table.append((count, name, *compare(work, other, arguments, rounds)))
        ours.change(world)
        past = AsOf(ours)
        for name, work, other, arguments in [
                ("as of, an entity (× to now)", past.entity, ours.entity, ids), ("as of, a small channel (× to now)", past.channel, ours.channel, small),
                ("as of, newest 50 (× to now)", past.newest, ours.newest, [world.hot] * 50)]:
            table.append((count, name, *compare(work, other, arguments, rounds)))
        puts(world, ours, hand, table, count, rounds)
        ours.node.close()
        begin = time.perf_counter()
        node = store.open(folder / "store.db")
        table.append((count, "opening, ms (hand-written: its file in MB)", (time.perf_counter() - begin) * 1000, 0, 0))
        node.close()
        size = lambda name: (folder / name).stat().st_size / 2 ** 20
        table.append((count, "file, MB", size("store.db"), size("hand.db"), size("store.db") / size("hand.db")))


def puts(world, ours, hand, table, count, rounds):
    """Durable puts: one after the other, then from 16 threads at once."""
    rng = random.Random(3)
    fresh = lambda: world.messages[rng.randrange(len(world.messages))] | {"xt/id": uuid.uuid4(), "msg/created-at": NOW + dt.timedelta(days=9)}
    pairs = []
    for _ in range(rounds):
        pairs.append((timed(ours.put, [fresh() for _ in range(100)]), timed(hand.put, [fresh() for _ in range(100)])))
    one, other = (statistics.median(side) for side in zip(*pairs))
    table.append((count, "durable put", one, other, statistics.median(a / b for a, b in pairs)))
    rate = threads(ours.put, [fresh() for _ in range(3200)])
    table.append((count, "durable puts/s, 16 threads (beside one)", rate, 1_000_000 / one, rate * one / 1_000_000))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, nargs="+", default=[10_000, 200_000])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    table = []
    for count in options.messages:
        run(count, options.rounds, table)
    print(f"{'messages':>9}  {'':42}  {'store':>10}  {'beside':>10}  {'×':>6}")
    for count, name, one, other, ratio in table:
        print(f"{count:>9,}  {name:42}  {one:>10,.1f}  {other:>10,.1f}  {ratio:>6.2f}")
    print("times in µs; beside: hand-written SQL of the same run, unless the row says otherwise; bulk load: × is how much slower")


if __name__ == "__main__":
    main()
