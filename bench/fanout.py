"""One message to many browsers: its cost for the server, and its time, beside the least that a server can do.

    pip install -e '.[bench]' && python bench/fanout.py [--sockets 100 1000 5000] [--rounds 5] [--seconds 1]

The chat gets posts as a browser sends them, and its store commits each. The peers (bench/broadcasters.py) take an empty
POST and write one prebuilt frame to each socket, as large as the chat's own. The servers share one core; the client has
the other.

CPU is the server process's own, from /proc, because that is true on a busy machine too. The cost of a frame is (a
message to N sockets − a message to one) / (N − 1). A message to one socket is shown as the cost of posting.

A ratio is the bare server's figure divided by the other's: above 1 is cheaper than the bare server. It is a median over
rounds in which all servers took turns. Latency is measured at half of each server's own rate with one message in
flight. If the machine differs by ±10 % from one run to the next, a smaller difference means nothing.
"""

import argparse
import contextlib
import datetime as dt
import functools
import gc
import hashlib
import hmac
import http.client
import itertools
import os
import pathlib
import re
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import uuid

import crowd

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import biff                                      # noqa: E402
from plugins.places import PAGE_MESSAGES          # noqa: E402
from biff import sockets                         # noqa: E402
import store                                     # noqa: E402
from store import put                            # noqa: E402

FRAME_BYTES = 400                     # the frame of a message; more, if the markup alone is more
TEXT_CHARS_MIN = 20
PEOPLE, QUIET_PEOPLE = 5_000, 1_000   # open the sockets and post in turn; the quiet channel has a community of its own
READY_S = 20
CHANNELS = "/lively", "/quiet"        # of a peer; the quiet one has one socket: the cost of a post alone
WARM_S = 0.3
CORES = sorted(os.sched_getaffinity(0))


class Server:
    """A server process on the first core, unless others are named."""

    def __init__(self, name, *argv, cores=CORES[:1]):
        self.name, self.log = name, tempfile.TemporaryFile()
        self.process = subprocess.Popen([sys.executable, "-u", *map(str, argv)], stdout=self.log, stderr=self.log,
                                        cwd=ROOT, preexec_fn=lambda: os.sched_setaffinity(0, cores))

    def wait(self, port):
        end = time.monotonic() + READY_S
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                return
            time.sleep(0.02)
        self.log.seek(0)
        raise SystemExit(f"{self.name} did not start: {self.log.read().decode()[-2000:]}")

    def cpu_us(self):
        """CPU of all its threads, since they began."""
        return sum(int(path.read_text().split()[0]) for path
                   in pathlib.Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")) / 1000

    def memory_kib(self):
        return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{self.process.pid}/status").read_text()).group(1))

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def free_port():
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


class Peer:
    committed, quiet = None, CHANNELS[1]

    def __init__(self, name, kind, frame_bytes):
        self.name, self.port = name, free_port()
        self.process = Server(name, ROOT / "bench/broadcasters.py", kind, self.port, frame_bytes)
        self.process.wait(self.port)

    def upgrades(self, count, channel=CHANNELS[0]):
        return [crowd.upgrade(self.port, channel) for _ in range(count)]

    def post(self, channel=CHANNELS[0]):
        return f"POST {channel} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n".encode(), None

    def close(self):
        self.process.stop()


class Chat:
    """The chat itself: a file with people who are signed in, and two communities: a lively channel and a quiet one.

    A message marks its channel as unread on every page of its community. So the quiet channel, which shows the cost of
    a post alone, lies in a community of its own.

    After `close`, `order` gives a message's place in the log by its id, and `committed` the time of its transaction in
    ns.
    """
    name = "eelchat"

    def __init__(self, text="x" * TEXT_CHARS_MIN, people=PEOPLE, arguments=(), cores=CORES[:1]):
        self.folder, self.port, self.text = tempfile.TemporaryDirectory(), free_port(), text
        self.path = pathlib.Path(self.folder.name) / "eelchat.db"
        self.cookies = [secrets.token_urlsafe(32) for _ in range(people)]
        self.quiet_cookies = [secrets.token_urlsafe(32) for _ in range(QUIET_PEOPLE)]
        self.channel, self.quiet = self._fill()
        self.process = Server(self.name, ROOT / "eelchat.py", "--port", self.port, "--data", self.folder.name,
                              *arguments, cores=cores)
        self.process.wait(self.port)
        secret = (self.path.parent / "secret").read_bytes()
        self.posters, self.quiet_posters = (itertools.cycle(
            [(cookie, hmac.new(secret, f"anti-forgery\0{cookie}".encode(), "sha256").hexdigest())
             for cookie in cookies])
            for cookies in (self.cookies, self.quiet_cookies))

    def _fill(self):
        now = dt.datetime.now(dt.timezone.utc)
        comms, channels = [uuid.uuid4(), uuid.uuid4()], [uuid.uuid4(), uuid.uuid4()]
        node = store.open(self.path)
        for number, (comm, chan) in enumerate(zip(comms, channels), 1):
            node.submit_tx([put({"xt/id": comm, "comm/title": f"Community #{number}"}),
                            put({"xt/id": chan, "chan/title": "general", "chan/comm": comm})])
        people = [(comms[0], cookie) for cookie in self.cookies] + [(comms[1], cookie) for cookie in self.quiet_cookies]
        for start in range(0, len(people), 1_000):
            node.submit_tx([put(document) for number, (comm, cookie) in enumerate(people[start:start + 1_000], start)
                            for document in person(comm, number, cookie, now)])
        a_mem = node.db().q({"find": "?mem", "where": [["?mem", "mem/user"]], "limit": 1})[0]
        self._fill_channel(node, channels[0], a_mem, now)
        self.tx_id = node.db().tx_id
        node.close()
        return [f"/community/{comm}/channel/{channel}" for comm, channel in zip(comms, channels)]

    def _fill_channel(self, node, channel, mem, now):
        """Fills the channel with the messages that it has from the beginning."""

    def headers(self, cookie):
        return [f"Cookie: eelchat={cookie}"]

    def upgrades(self, count, channel=None, after=None):
        path = f"{channel or self.channel}/connect?after={after or self.newest()}"
        return [crowd.upgrade(self.port, path, *self.headers(cookie))
                for cookie in itertools.islice(itertools.cycle(self.quiet_cookies if channel == self.quiet
                                                               else self.cookies), count)]

    def newest(self):
        """The transaction that a page loaded now has seen."""
        return int(re.search(r'id="cursor" value="(\d+)"', self.page()).group(1))

    def page(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", self.channel, headers={"Cookie": f"eelchat={self.cookies[0]}"})
        return connection.getresponse().read().decode()

    def post(self, channel=None):
        id, (cookie, token) = uuid.uuid4(), next(self.quiet_posters if channel == self.quiet else self.posters)
        body = urllib.parse.urlencode({"text": self.text, "post": id, "__anti-forgery-token": token})
        head = [f"POST {channel or self.channel} HTTP/1.1", f"Host: 127.0.0.1:{self.port}",
                "Sec-Fetch-Site: same-origin", "HX-Request: true",
                "Content-Type: application/x-www-form-urlencoded", f"Content-Length: {len(body)}",
                *self.headers(cookie)]
        return "\r\n".join([*head, "", body]).encode(), id

    def close(self):
        self.process.stop()
        node = store.open(self.path)
        posted = [(op[1]["xt/id"], tx.tx_time) for tx in node.tx_log(after=self.tx_id)
                  for op in tx.ops if op[0] == "put" and "msg/text" in op[1]]
        node.close()
        self.order = {id: number for number, (id, _) in enumerate(posted)}
        self.committed = {id: round(tx_time.timestamp() * 1e6) * 1000 for id, tx_time in posted}
        self.folder.cleanup()


def person(comm, number, cookie, now):
    user, hashed = uuid.uuid4(), hashlib.sha256(cookie.encode()).hexdigest()
    return [{"xt/id": user, "user/email": f"user{number}@example.com", "user/joined-at": now},
            {"xt/id": uuid.uuid4(), "mem/user": user, "mem/comm": comm, "mem/roles": set()},
            {"xt/id": biff.session_id(hashed), "session/hash": hashed, "session/user": user, "session/agent": "bench",
             "session/created-at": now, "session/used-at": now}]


# ── Measuring ────────────────────────────────────────────────────────────────────────────────────────────────

WIDTHS = 1, 8                         # messages in flight
HANDSHAKES = 500                      # opened and closed in a round
FLOODS, DEAD, FLOOD_SOCKETS, FLOOD_MESSAGES, FLOOD_CHARS = 3, 10, 100, 1_500, 4_000


class Figures:
    """The measured values: lists by (server, size, what), one value a round, in the same order for every server."""

    def __init__(self):
        self.values = {}

    def add(self, server, size, what, value):
        self.values.setdefault((server, size, what), []).append(value)

    def of(self, server, size, what):
        return statistics.median(self.values[server, size, what])

    def ratio(self, over, under, size, what):
        """The median of one server's figures divided by another's of the same round."""
        return statistics.median(a / b for a, b in zip(self.values[over, size, what], self.values[under, size, what],
                                                       strict=True))


def at_one_size(figures, size, frame_bytes, text, options):
    """All servers with so many sockets each, in turn."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(contextlib.closing(made)) for made in
                   (Chat(text), Peer("bare", "bare", frame_bytes), Peer("uWebSockets", "uwebsockets", frame_bytes))]
        crowds = {server: measured_crowd(figures, server, size) for server in servers}
        alone = {server: crowd.Crowd(server.port, server.upgrades(1, server.quiet),
                                     functools.partial(server.post, server.quiet)) for server in servers}
        for width, server, _ in itertools.product(WIDTHS, servers, range(2)):
            crowds[server].flight(width, WARM_S)
            alone[server].flight(width, WARM_S)
        for _, width, server in itertools.product(range(options.rounds), WIDTHS, servers):
            one_flight(figures, server, alone[server], crowds[server], size, width, options.seconds)
        seen = [(server, one_drizzle(figures, server, crowds[server], size, options.seconds))
                for _ in range(options.rounds) for server in servers]
        stack.close()
    for server, window in seen:
        add_latencies(figures, server, size, *window)


def measured_crowd(figures, server, size):
    """A crowd of a server that has had a few sockets before, and by how much each socket grew its memory."""
    crowd.Crowd(server.port, server.upgrades(50), server.post).close()
    before = server.process.memory_kib()
    many = crowd.Crowd(server.port, server.upgrades(size), server.post)
    figures.add(server.name, size, "KiB", (server.process.memory_kib() - before) / size)
    return many


def one_flight(figures, server, one, many, size, width, seconds):
    """CPU of a message to one socket, of each further frame of a message to many, and messages a second."""
    gc.collect()
    costs = []
    for some in one, many:
        begun = server.process.cpu_us()
        messages, wall_s = some.flight(width, seconds)
        costs.append((server.process.cpu_us() - begun) / messages)
    figures.add(server.name, size, f"post {width}", costs[0])
    figures.add(server.name, size, f"frame {width}", (costs[1] - costs[0]) / (size - 1))
    figures.add(server.name, size, f"messages {width}", messages / wall_s)


def one_drizzle(figures, server, many, size, seconds):
    many.drizzle(figures.of(server.name, size, "messages 1") / 2, max(seconds, 2))
    return many.sent, many.arrivals()


def add_latencies(figures, server, size, sent, arrivals):
    """The time from when a post was due, and from its commit, until each socket had its frame. The peers commit
    nothing: their two times are equal."""
    posted = [due for _, due in sent]
    if server.committed:
        dues = dict(sent)
        sent = sorted(dues, key=server.order.__getitem__)
        posted, committed = [dues[id] for id in sent], [server.committed[id] for id in sent]
    else:
        committed = posted
    for what, begins in ("post", posted), ("commit", committed):
        waits = [(moment - begin) / 1e6 for begin, moments in zip(begins, arrivals, strict=True) for moment in moments]
        for share in (50, 99):
            figures.add(server.name, size, f"{what} p{share}", crowd.percentile(waits, share / 100))


def handshakes(figures, rounds, frame_bytes):
    """Server CPU of opening a socket, in batches that are closed again. The chat's handshakes have a session and a
    membership."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(contextlib.closing(made)) for made in
                   (Chat(), *(Peer(*names, frame_bytes) for names in (("bare", "bare"), ("uWebSockets", "uwebsockets"),
                                                                      ("aiohttp", "aiohttp"))))]
        for round, server in itertools.product(range(rounds + 1), servers):
            requests, begun = server.upgrades(HANDSHAKES), server.process.cpu_us()
            for sock, _ in crowd.open_sockets(server.port, requests):
                sock.close()
            if round:                            # the first one warms up
                figures.add(server.name, 1, "handshake us", (server.process.cpu_us() - begun) / HANDSHAKES)


def flood(figures, rounds):
    """Large messages as fast as they go, to ninety sockets that read; then beside ten more that never read, and that
    come back at the end."""
    chat, rows = Chat("x" * FLOOD_CHARS), []
    with contextlib.closing(chat):
        living = crowd.Crowd(chat.port, chat.upgrades(FLOOD_SOCKETS - DEAD), chat.post)
        living.flight(2, messages=FLOOD_MESSAGES // 5)
        for name, count in [("without", 0), ("with", DEAD)] * rounds:
            seen, before = chat.newest(), chat.process.memory_kib()
            dead = [sock for sock, _ in crowd.open_sockets(chat.port, chat.upgrades(count), receive_bytes=4096)]
            living.flight(2, messages=FLOOD_MESSAGES, with_times=True, with_sums=True)
            figures.add("eelchat", count, "flood KiB", chat.process.memory_kib() - before)
            rows.append((count, living.sent, living.arrivals(), living.ids))
            if dead:
                come_back(chat, dead, seen, [id.decode() for id in living.ids])
    for count, sent, arrivals, ids in rows:
        add_flood(figures, chat, count, sent, arrivals, [id.decode() for id in ids])


def come_back(chat, dead, seen, ids):
    """Checks that the sockets that did not read were closed, and that they get what they missed: the newest page if
    they saw nothing, else just the missing messages."""
    for sock in dead:
        sock.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            while sock.recv(crowd.READ_BYTES):
                pass                                 # a timeout here: it was not closed
    missed = 40                                      # of more than that, the whole page would come
    for after, wanted in (seen, ids[-PAGE_MESSAGES:]), (chat.newest() - missed, ids[-missed:]):
        (sock, data), = crowd.open_sockets(chat.port, chat.upgrades(1, after=after))
        sock.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while more := sock.recv(crowd.READ_BYTES):
                data += more
        got = [id.decode() for opcode, payload, _ in crowd.frames_of(data) if opcode == 1
               for id in crowd.ID.findall(payload)]
        if got != wanted:
            raise crowd.CrowdError(f"a socket that came back after {after} got {len(got)} messages "
                                   f"instead of {len(wanted)}")
        sock.close()


def add_flood(figures, chat, count, sent, arrivals, ids):
    """Checks that the ninety got all that was posted, in the log's order, once; adds how long that took."""
    dues = dict(sent)
    if ids != [str(id) for id in sorted(dues, key=chat.order.__getitem__)]:
        raise crowd.CrowdError("messages came in another order than the log's, or not once each")
    waits = [(moment - dues[uuid.UUID(id)]) / 1e6 for id, moments in zip(ids, arrivals, strict=True)
             for moment in moments]
    figures.add("eelchat", count, "flood p99", crowd.percentile(waits, 0.99))


# ── The table ────────────────────────────────────────────────────────────────────────────────────────────────

SERVERS = "eelchat", "bare", "uWebSockets"


def show(label, values, relation="", asked="", beside=""):
    print(f"{label:44}" + "".join(f"{value:>12}" for value in values) + f"{relation:>10}{asked:>8}{beside:>10}")


def show_size(figures, size):
    print(f"\n{size:,} sockets")
    for width in WIDTHS:
        show(f"  CPU a frame, {width} in flight, us", [f"{figures.of(name, size, f'frame {width}'):.2f}"
                                                       for name in SERVERS],
             f"{figures.ratio('bare', 'eelchat', size, f'frame {width}'):.2f}", {1: "0.8", 8: "3.5"}[width],
             f"{figures.ratio('uWebSockets', 'eelchat', size, f'frame {width}'):.2f}")
    for width in WIDTHS:
        show(f"  frames a second, {width} in flight, thousands",
             [f"{figures.of(name, size, f'messages {width}') * size / 1000:,.0f}" for name in SERVERS])
    for what, label, asked in ("commit", "  commit to frame", "1.5"), ("post", "  POST to frame", ""):
        show(f"{label}, p50 / p99, ms", [f"{figures.of(name, size, f'{what} p50'):.1f} / "
                                         f"{figures.of(name, size, f'{what} p99'):.1f}" for name in SERVERS],
             f"{figures.ratio('eelchat', 'bare', size, f'{what} p99'):.2f}", asked if size >= 1_000 else "")
    show("  memory an idle socket, KiB", [f"{figures.of(name, size, 'KiB'):.1f}" for name in SERVERS], "", "20")
    for width in WIDTHS:
        show(f"  beside that, CPU of a post, {width} in flight, us",
             [f"{figures.of(name, size, f'post {width}'):,.0f}" for name in SERVERS])
    sys.stdout.flush()


def show_handshakes(figures):
    ratio = figures.ratio("aiohttp", "eelchat", 1, "handshake us")
    print("\nhandshakes a second of CPU: " + ", ".join(f"{name} {1e6 / figures.of(name, 1, 'handshake us'):,.0f}"
                                                       for name in (*SERVERS, "aiohttp"))
          + f"; eelchat's with a session to plain aiohttp's {ratio:.2f}, asked 0.5", flush=True)


def show_flood(figures):
    """Prints the flood's figures. Nothing was lost: else the flood has raised."""
    bound = DEAD * (sockets.WAITING_BYTES_MAX + sockets.JOINED_BYTES_MAX) / 1024
    pairs = zip(*(figures.values["eelchat", count, "flood KiB"] for count in (0, DEAD)))
    ratio = statistics.median(b / a
                              for a, b in zip(*(figures.values["eelchat", count, "flood p99"] for count in (0, DEAD))))
    print(f"\na flood of {FLOOD_MESSAGES:,} messages of {FLOOD_CHARS:,} bytes, {DEAD} of {FLOOD_SOCKETS} never read: "
          "the others got all of it, in order, once; "
          "the dead were closed, came back and missed nothing")
    print(f"  p99 from POST to frame, without and with the dead: {figures.of('eelchat', 0, 'flood p99'):.1f} and "
          f"{figures.of('eelchat', DEAD, 'flood p99'):.1f} ms, "
          f"{ratio:.2f} ×, asked 1.5")
    print(f"  memory that the dead cost: {statistics.median(b - a for a, b in pairs):,.0f} KiB, asked {bound:,.0f}")


def text_of_a_frame():
    """A message that makes a frame of FRAME_BYTES, or a short one if the markup alone is longer; and the size of the
    frame."""
    with contextlib.closing(Chat()) as chat:
        one = crowd.Crowd(chat.port, chat.upgrades(1), chat.post)
        one.flight(1, messages=1)
        frame_bytes = one.total
        one.close()
    spare = max(0, FRAME_BYTES - frame_bytes)
    return "x" * (TEXT_CHARS_MIN + spare), frame_bytes + spare


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sockets", type=int, nargs="+", default=[100, 1_000, 5_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1)
    options = parser.parse_args()
    if len(CORES) < 2:
        raise SystemExit("two cores are needed, one for the servers and one for the client")
    os.sched_setaffinity(0, CORES[-1:])
    text, frame_bytes = text_of_a_frame()
    figures = Figures()
    print(f"frames of {frame_bytes} bytes, medians of {options.rounds} rounds; ÷: of CPU the peer's by eelchat's (of "
          "uWebSockets 0.9 is asked), of p99 eelchat's by the peer's")
    show("", SERVERS, "÷ bare", "asked", "÷ uWS")
    for size in options.sockets:
        at_one_size(figures, size, frame_bytes, text, options)
        show_size(figures, size)
    handshakes(figures, options.rounds, frame_bytes)
    show_handshakes(figures)
    flood(figures, FLOODS)
    show_flood(figures)


if __name__ == "__main__":
    main()
