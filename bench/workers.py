"""One chat with 1, 2 and 4 workers on one file: posts, pages and frames a second, and what each costs all workers.

    pip install -e '.[bench]' && python bench/workers.py [--workers 1 2 4] [--sockets 1000] [--rounds 3] [--seconds 2]

The client polls and so fills a core. On a machine of two cores all workers share the other one, and "a second" says how
many messages that core makes. The column "on cores of their own" says what it hides: if each worker had a core, and the
client did not hold them up, the busiest worker's CPU for a message would bound the rate. Each worker hears every
message, so that a post costs all workers more than it costs one; a frame is written, and a page made, by one of them.

Posts go to a channel with one socket, 32 at once; frames are those of 8 messages at once to many sockets. Pages are
that channel's newest, by 32 connections, each of another person. CPU is from /proc, so it is true on a busy machine,
too. Rounds alternate; the table has medians.

`--accept` compares ways to take connections instead, with workers that only answer: one listening socket that all
inherit, or one for each (SO_REUSEPORT); each connection is answered after so many milliseconds of work.
"""

import argparse
import asyncio
import collections
import contextlib
import functools
import itertools
import os
import pathlib
import select
import signal
import socket
import statistics
import time

import crowd
from fanout import CORES, WARM_S, Chat

POSTS_AT_ONCE, FRAMES_AT_ONCE, PAGES_AT_ONCE = 32, 8, 32
PEOPLE = 2_000                        # who post in turn, each ten times in ten seconds at most


class Readers:
    """Connections of so many people, each of which loads a page again as soon as it has come."""

    def __init__(self, port, path, cookies):
        self.epoll, self.connections = select.epoll(), {}
        for cookie in cookies:
            made = socket.create_connection(("127.0.0.1", port))
            made.setblocking(False)
            request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nCookie: eelchat={cookie}\r\n\r\n".encode()
            self.connections[made.fileno()] = made, request
            self.epoll.register(made, select.EPOLLIN)

    def flight(self, seconds):
        """The number of pages, and the seconds that they took."""
        begun, rest, pages = time.perf_counter(), dict.fromkeys(self.connections, b""), 0
        for made, request in self.connections.values():
            made.send(request)
        while rest:
            for fd, _ in self.epoll.poll(0):
                made, request = self.connections[fd]
                rest[fd] += made.recv(crowd.READ_BYTES)
                if self._is_whole(rest[fd]):
                    pages, rest[fd] = pages + 1, b""
                    if time.perf_counter() - begun < seconds:
                        made.send(request)
                    else:
                        del rest[fd]
        return pages, time.perf_counter() - begun

    def _is_whole(self, data):
        head, end, body = data.partition(b"\r\n\r\n")
        if end and not head.startswith(b"HTTP/1.1 200 "):
            raise crowd.CrowdError(f"a page was answered with {head[:80]!r}")
        return end and len(body) == int(head.lower().partition(b"content-length:")[2].split()[0])

    def close(self):
        for made, _ in self.connections.values():
            made.close()
        self.epoll.close()


class Crew:
    """A chat with so many workers, on all cores; the client runs on the last one."""

    def __init__(self, count, sockets, figures):
        self.count, self.figures = count, figures
        self.chat = Chat(people=PEOPLE, arguments=["--workers", count], cores=CORES)
        self.quiet = crowd.Crowd(self.chat.port, self.chat.upgrades(1, self.chat.quiet),
                                 functools.partial(self.chat.post, self.chat.quiet), POSTS_AT_ONCE)
        self.lively = crowd.Crowd(self.chat.port, self.chat.upgrades(sockets), self.chat.post)
        for some, at_once in (self.quiet, POSTS_AT_ONCE), (self.lively, FRAMES_AT_ONCE):
            some.flight(at_once, WARM_S)

    def close(self):
        self.quiet.close(), self.lively.close(), self.chat.close()

    def cpu_us(self):
        """CPU of each worker since it began."""
        first = self.chat.process.process.pid
        children = pathlib.Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [sum(int(path.read_text().split()[0]) for path in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat"))
                / 1000 for pid in (children if self.count > 1 else [first])]

    def measure(self, seconds):
        self.measure_one("posts", lambda: self.quiet.flight(POSTS_AT_ONCE, seconds))
        self.measure_one("frames", lambda: self.lively.flight(FRAMES_AT_ONCE, seconds))
        cookies = self.chat.quiet_cookies[:PAGES_AT_ONCE]
        with contextlib.closing(Readers(self.chat.port, self.chat.quiet, cookies)) as all:
            all.flight(WARM_S)
            self.measure_one("pages", lambda: all.flight(seconds))

    def measure_one(self, what, flight):
        before = self.cpu_us()
        count, wall_s = flight()
        costs = [(after - begun) / count for begun, after in zip(before, self.cpu_us(), strict=True)]
        self.note(what, count / wall_s)
        self.note(f"{what} all", sum(costs))
        self.note(f"{what} busiest", max(costs))

    def note(self, what, value):
        self.figures.setdefault((self.count, what), []).append(value)


def row(figures, count, sockets):
    of = {what: statistics.median(values) for (its, what), values in figures.items() if its == count}
    frame_us = (of["frames all"] - of["posts all"]) / sockets
    return [str(count), f"{of['posts']:,.0f}", f"{of['posts all'] / 1000:.2f}", f"{1e6 / of['posts busiest']:,.0f}",
            f"{of['pages']:,.0f}", f"{of['pages all'] / 1000:.2f}", f"{1e6 / of['pages busiest']:,.0f}",
            f"{of['frames'] * sockets:,.0f}", f"{frame_us:.2f}", f"{1e6 / of['frames busiest'] * sockets:,.0f}"]


# ── Accepting ────────────────────────────────────────────────────────────────────────────────────────────────

CONNECTIONS, WORK_MS, AT_ONCE = 600, (0, 4), (1, 20, 200)


def listening(port=0, is_shared=True):
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR if is_shared else socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", port))
    made.setblocking(False)
    return made


async def answer(number, listener, work_s):
    """Answers each connection with the worker's number, as the chat accepts them."""
    loop, open_ones = asyncio.get_running_loop(), []

    async def serve(one):
        await loop.sock_recv(one, 1)
        end = time.perf_counter() + work_s
        while time.perf_counter() < end:
            pass
        await loop.sock_sendall(one, bytes([number]))

    def accept():
        for _ in range(4):
            try:
                one, _ = listener.accept()
            except BlockingIOError:
                return
            one.setblocking(False)
            open_ones.append((one, loop.create_task(serve(one))))
    loop.add_reader(listener, accept)
    await asyncio.Event().wait()


async def ask(port, at_once):
    """(connections a second, p99 in ms, connections of each worker), all kept open."""
    took, counts, turns = [], collections.Counter(), asyncio.Semaphore(at_once)

    async def one():
        async with turns:
            begun = time.perf_counter()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"x")
            counts[(await reader.read(1))[0]] += 1
            took.append(time.perf_counter() - begun)
            return writer
    begun = time.perf_counter()
    writers = await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    wall_s = time.perf_counter() - begun
    for writer in writers:
        writer.close()
    return CONNECTIONS / wall_s, crowd.percentile(took, 0.99) * 1e3, counts


def accept_row(count, work_ms, at_once, is_shared):
    first = listening(is_shared=is_shared)
    if is_shared:
        first.listen(1_024)
    pids = []
    for number in range(count):
        if not (pid := os.fork()):
            mine = first if is_shared else listening(first.getsockname()[1], False)
            mine.listen(1_024)
            if mine is not first:
                first.close()
            asyncio.run(answer(number, mine, work_ms / 1_000))
        pids.append(pid)
    port = first.getsockname()[1]
    first.close()
    time.sleep(0.3)
    rate, p99_ms, counts = asyncio.run(ask(port, at_once))
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    taken = [counts[number] for number in range(count)]
    return f"{'one' if is_shared else 'each'} | {rate:,.0f} | {p99_ms:.1f} | {min(taken)} to {max(taken)}"


def accept():
    print(f"| workers | work, ms | at once | listening socket | connections a second | p99, ms | of {CONNECTIONS} a "
          "worker has |")
    print("| ---: | ---: | ---: | --- | ---: | ---: | --- |")
    for count, work_ms, at_once, is_shared in itertools.product((2, 4), WORK_MS, AT_ONCE, (True, False)):
        print(f"| {count} | {work_ms} | {at_once} | {accept_row(count, work_ms, at_once, is_shared)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--sockets", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--accept", action="store_true", help="ways to take connections")
    options = parser.parse_args()
    if options.accept:
        return accept()
    os.sched_setaffinity(0, CORES[-1:])
    print("| workers | posts a second | CPU of a post in all workers, ms | posts a second on cores of their own | "
          "pages a second | CPU of a page, ms | pages a second on cores of their own | "
          f"frames a second to {options.sockets:,} sockets | CPU of a frame, us | "
          "frames a second on cores of their own |")
    print("| ---: " * 10 + "|")
    figures = {}
    for _ in range(options.rounds):
        for count in options.workers:
            with contextlib.closing(Crew(count, options.sockets, figures)) as crew:
                crew.measure(options.seconds)
    for count in options.workers:
        print(f"| {' | '.join(row(figures, count, options.sockets))} |", flush=True)


if __name__ == "__main__":
    main()
