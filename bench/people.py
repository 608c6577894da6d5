"""The cost of people: a page of a large community, marks of readers, a new name, and what reading adds to the log.

    pip install -e '.[bench]' && python bench/people.py [--channels 200] [--people 2000] [--messages 100000]

Server time is the CPU of the server's process, from /proc: it is true on a busy machine too. The name is that of a
person with many messages; its time ends when the last of the open pages has heard it.
"""

import argparse
import contextlib
import hashlib
import hmac
import http.client
import os
import statistics
import time
import urllib.parse
import uuid

from crowd import Crowd
from fanout import CORES, Chat, put

EACH = 60                             # messages in each channel: more than a page
SOCKETS = 1_000                       # pages that are open in the lively channel
PAGES, ROUNDS = 30, 3
A_DAY = 100 * 8 * 6                   # positions of a hundred people in eight hours, one in ten minutes


class Large(Chat):
    """A community with many channels; one of them has many messages of one person."""

    def __init__(self, channels, people, messages):
        self.count, self.messages = channels, messages
        super().__init__(people=people)

    def _fill_channel(self, node, channel, mem, now):
        comm = node.db().entity(channel)["chan/comm"]
        self.ids = [node.new_id() for _ in range(self.count - 2)]
        node.submit_tx([put({"xt/id": id, "chan/title": f"channel {n}", "chan/comm": comm})
                        for n, id in enumerate(self.ids)])
        mems = node.db().q({"find": "?m", "where": [["?m", "mem/user"]]})

        def said(count, where, who):
            for start in range(0, count, 5_000):
                node.submit_tx([put({"xt/id": node.new_id(), "msg/mem": who, "msg/channel": where,
                                     "msg/created-at": now, "msg/text": f"message {n} of many, as people write them"})
                                for n in range(start, min(count, start + 5_000))])
        for n, id in enumerate(self.ids):
            said(EACH, id, mems[n % len(mems)])
        said(self.messages, channel, mems[0])
        self.busy, self.community = node.db().entity(mems[0])["mem/user"], f"/community/{comm}"
        self.busy_email = node.db().entity(self.busy)["user/email"]

    def ask(self, path, number, fields=None):
        """(status, body) of a request of one person."""
        cookie = self.cookies[number]
        token = hmac.new((self.path.parent / "secret").read_bytes(), f"anti-forgery\0{cookie}".encode(), hashlib.sha256)
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        headers = {"Cookie": f"eelchat={cookie}", "Sec-Fetch-Site": "same-origin", "HX-Request": "true",
                   "Content-Type": "application/x-www-form-urlencoded"}
        if fields is None:
            connection.request("GET", path, headers={"Cookie": headers["Cookie"]})
        else:
            body = urllib.parse.urlencode(fields | {"__anti-forgery-token": token.hexdigest()})
            connection.request("POST", path, body, headers)
        with contextlib.closing(connection):
            answer = connection.getresponse()
            return answer.status, answer.read()

    def answer(self, *asked):
        status, body = self.ask(*asked)
        if status not in (200, 204):
            raise SystemExit(f"{asked[0]} was answered with {status}")
        return body

    def cost(self, work, count):
        """CPU of the server for each of so many, in ms."""
        begun = self.process.cpu_us()
        work()
        return (self.process.cpu_us() - begun) / 1000 / count


def page(chat, path):
    """Asks as people in turn, for each may ask for so many pages a minute; their kept values are there already."""
    def ask():
        sizes.extend(len(chat.answer(path, number)) for number in range(1, PAGES + 1))
    sizes: list = []
    ask()
    return statistics.median(chat.cost(ask, PAGES) for _ in range(ROUNDS)), max(sizes) / 1000


def row(what, figure, asked):
    print(f"{what:62}{figure:>24}   {asked}", flush=True)


def message(chat, crowd):
    """CPU of messages that all the open pages hear, each, in ms."""
    def one():
        crowd.flight(1, messages=8)
    one()
    return statistics.median(chat.cost(one, 8) for _ in range(ROUNDS))


def pages(chat):
    channel = f"{chat.community}/channel/{chat.ids[0]}"
    for state in "unread", "read":
        for what, path in ("a community's page", chat.community), ("a channel's page, 50 messages", channel):
            cpu, size = page(chat, path)
            row(f"{what}, all channels {state}", f"{cpu:.2f} ms, {size:.0f} kB", "5 ms, 60 kB")
        for number in range(1, PAGES + 1):
            chat.answer(f"{chat.community}/read", number, {})


def marks(chat, crowd):
    before = message(chat, crowd)
    path, upto = f"{chat.channel}/read", str(chat.newest())
    stay = {"upto": upto, "page": "a page", "stays": "1"}
    visit = chat.cost(lambda: [chat.answer(path, n, fields) for n in range(1, PAGES + 1)
                               for fields in (stay, {"upto": upto, "page": "a page"})], PAGES)
    for n in range(SOCKETS):
        chat.answer(path, n, stay)
    after = message(chat, crowd)
    row(f"a message to {SOCKETS:,} pages", f"{before:.2f} ms of CPU", "")
    row("… and the marks of all who have it in sight", f"{max(0, after - before):.2f} ms of CPU", "less")
    row("coming to a channel and leaving it, a person", f"{visit:.2f} ms of CPU", "")


def rename(chat, crowd):
    took = []
    owner = next(n for n in range(len(chat.cookies)) if chat.busy_email == f"user{n}@example.com")
    for n in range(ROUNDS):
        crowd.begin()
        begun, (status, _) = time.perf_counter(), chat.ask("/name", owner, {"name": f"Another name {n}"})
        while not all(crowd.got.values()):
            crowd.read()
            if time.perf_counter() - begun > 30:
                raise SystemExit(f"the name came to {sum(map(bool, crowd.got.values()))} pages; answered {status}")
        took.append(time.perf_counter() - begun)
    row(f"a new name over {chat.messages:,} messages, to {SOCKETS:,} pages", f"{statistics.median(took) * 1000:.0f} ms",
        "1,000 ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, default=200)
    parser.add_argument("--people", type=int, default=2_000)
    parser.add_argument("--messages", type=int, default=100_000)
    options = parser.parse_args()
    os.sched_setaffinity(0, CORES[-1:])
    chat = Large(options.channels, options.people, options.messages)
    print(f"{options.channels} channels, {options.people:,} people{'':38}{'measured':>24}   asked")
    pages(chat)
    crowd = Crowd(chat.port, chat.upgrades(SOCKETS), chat.post)
    marks(chat, crowd)
    rename(chat, crowd)
    crowd.close()
    chat.process.stop()
    in_the_log(chat)
    chat.folder.cleanup()


def in_the_log(chat):
    """The bytes that the positions of people who have gone have added to the file."""
    import store
    node = store.open(chat.path)
    found = [len(store.pack(op[1])) for tx in node.tx_log(after=chat.tx_id) for op in tx.ops
             if op[0] == "put" and "read/tx" in op[1]]
    size = os.path.getsize(chat.path)
    many = [{"xt/id": f"reading {uuid.uuid4()} {uuid.uuid4()}", "read/mem": uuid.uuid4(), "read/channel": uuid.uuid4(),
             "read/tx": n, "read/at": node.db().tx_time} for n in range(5_000)]
    for start in range(0, 5_000, 100):
        node.submit_tx(list(map(put, many[start:start + 100])))
    node.close()
    each = (os.path.getsize(chat.path) - size) / 5_000
    row("a position that is put: document, and in the file", f"{statistics.mean(found):.0f} and {each:.0f} bytes", "")
    row("a hundred people who read for eight hours", f"{A_DAY * each / 1e6:.1f} MB", "")


if __name__ == "__main__":
    main()
