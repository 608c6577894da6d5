"""Many open sockets in one process, read by polling: the client of bench/fanout.py.

A client that sleeps is woken by the server's send(). The kernel charges the waking to the server, which falsifies the
server's cost. This client never sleeps.

All sockets of a crowd get the same bytes. One of them, the scout, is read frame by frame and tells at which byte each
message ends. The bytes of the others are only counted, which Python does faster than a server writes.
"""

import base64
import os
import select
import re
import socket
import time
import zlib

OPENING_MAX = 100                     # handshakes in flight; a server's backlog drops more, for a second each
EVENTS_MAX = 4096
READ_BYTES = 256 * 1024
STALL_S = 20                          # without a byte where bytes are due
MARK = b"<article "                   # each message of a fragment has one
ID = re.compile(rb'<article [^>]*?id="message-([^"]+)"')
PING, PONG = b"\x89\0\x81\x02{}", b"\x8a\x80\0\0\0\0"     # empty, with a word for scripts behind it; masked


class CrowdError(Exception):
    """A server broke a promise; the sentence says which."""


def upgrade(port, path="/", *headers):
    """The request that opens a socket."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Origin: http://127.0.0.1:{port}",
             "Upgrade: websocket", "Connection: Upgrade",
             "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def open_sockets(port, requests, receive_bytes=None):
    """One open websocket for each request, in their order, and the bytes that each has sent so far. At most
    OPENING_MAX handshakes are under way."""
    epoll, todo, under_way, opened = select.epoll(), list(enumerate(requests))[::-1], {}, {}
    while todo or under_way:
        while todo and len(under_way) < OPENING_MAX:
            number, request = todo.pop()
            sock = socket.socket()
            if receive_bytes:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            sock.connect(("127.0.0.1", port))
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.send(request)
            epoll.register(sock, select.EPOLLIN)
            under_way[sock.fileno()] = number, sock, b""
        for fd, _ in epoll.poll(0):
            number, sock, head = under_way.pop(fd)
            head += sock.recv(READ_BYTES)
            if b"\r\n\r\n" not in head:
                under_way[fd] = number, sock, head
                continue
            head, _, rest = head.partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 101 "):
                raise CrowdError(f"a handshake was answered with {head[:80]!r}")
            epoll.unregister(sock)
            opened[number] = sock, rest
    return [opened[number] for number in range(len(opened))]


def frames_of(data):
    """The whole unmasked frames at the beginning of some bytes, as (opcode, payload, end)."""
    at = 0
    while at + 2 <= len(data):
        size, begin = data[at + 1], at + 2
        if size >= 126:
            begin += 2 if size == 126 else 8
            size = int.from_bytes(data[at + 2:begin], "big")
        if begin + size > len(data):
            return
        yield data[at] & 15, data[begin:begin + size], begin + size
        at = begin + size


class Crowd:
    """Sockets of one channel, and a few connections that post into it.

    `ends` are the byte counts at which each message was complete, since `begin`. `got` is the number of bytes of each
    socket.
    """

    def __init__(self, port, upgrades, post, drivers=16):
        """`post()` gives the bytes of the next request that posts, and a name for it."""
        self.port, self.post = port, post
        self.epoll, self.buffer, self.by_fd = select.epoll(), bytearray(READ_BYTES), {}
        self.sockets = [sock for sock, _ in open_sockets(port, upgrades)]
        self.drivers = [self._connect() for _ in range(drivers)]
        self.free = []
        for sock in self.sockets:
            self._watch(sock)
        for sock in self.drivers:
            self._watch(sock)
            self.free.append(sock)
        self.scout = self.sockets[0]
        self.into = {sock.fileno(): sock.recv_into for sock in self.sockets[1:]}
        self.begin(quiet_s=0.3)

    def _connect(self):
        sock = socket.create_connection(("127.0.0.1", self.port))
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _watch(self, sock):
        self.by_fd[sock.fileno()] = sock
        self.epoll.register(sock, select.EPOLLIN)

    def begin(self, with_times=False, with_sums=False, quiet_s=0.05):
        """Begins a new window, once no greeting, replay, cursor or ping is on its way.

        With sums, the bytes themselves are compared and not only their number.
        """
        self._clear()
        heard = time.monotonic()
        while time.monotonic() - heard < quiet_s:
            if self.read():
                heard = time.monotonic()
        self._clear()
        self.times = [] if with_times else None
        self.sums = {sock.fileno(): 0 for sock in self.sockets[1:]} if with_sums else None

    def _clear(self):
        self.got = {sock.fileno(): 0 for sock in self.sockets}
        self.total, self.ends, self.rest, self.times, self.sums = 0, [], b"", None, None
        self.sent, self.answered, self.complete, self.ids = [], 0, 0, []

    def read(self):
        """Reads what is there, without waiting; returns the number of sockets that had something."""
        into, got, buffer, times, sums = self.into, self.got, self.buffer, self.times, self.sums
        ready = self.epoll.poll(0, EVENTS_MAX)
        for fd, _ in ready:
            read = into.get(fd)
            if read is None:
                self._read_special(self.by_fd[fd])
                continue
            size = read(buffer)
            if sums is not None:
                sums[fd] = zlib.crc32(buffer[:size].replace(PING, b""), sums[fd])
            if buffer.find(PING, 0, size) >= 0:      # wherever it stands; text has no such bytes
                self.by_fd[fd].send(PONG)
                size -= len(PING)
            elif not size:
                raise CrowdError("a socket was closed by the server")
            got[fd] += size
            self.total += size
            if times is not None:
                times.append((fd, got[fd], time.time_ns()))
        return len(ready)

    def _read_special(self, sock):
        data = sock.recv(READ_BYTES)
        if sock is not self.scout and not data:
            return self._replace(sock)
        if not data:
            raise CrowdError("a socket was closed by the server")
        if sock is self.scout:
            return self._read_frames(data)
        if not data.startswith((b"HTTP/1.1 204 ", b"HTTP/1.1 303 ")):
            raise CrowdError(f"a post was answered with {data[:80]!r}")
        self.answered += 1
        self.free.append(sock)

    def _replace(self, driver):
        """A new connection for one that the server closed because it was idle."""
        number, fd = self.drivers.index(driver), driver.fileno()
        self.free.remove(driver)
        driver.close()
        self.drivers[number] = self._connect()
        self.by_fd.pop(fd)
        self._watch(self.drivers[number])
        self.free.append(self.drivers[number])

    def _read_frames(self, data):
        self.rest, fd, done = self.rest + data, self.scout.fileno(), 0
        for opcode, payload, end in frames_of(self.rest):
            if opcode == 9:                          # a ping
                self.scout.send(PONG)
            elif payload != b"{}":                   # a word for scripts
                self.ids += ID.findall(payload)
                self.got[fd] += end - done
                self.total += end - done
                self.ends += [self.got[fd]] * payload.count(MARK)
            done = end
        self.rest = self.rest[done:]
        if self.times is not None:
            self.times.append((fd, self.got[fd], time.time_ns()))

    def send(self, due=None):
        data, name = self.post()
        self.sent.append((name, due or time.time_ns()))
        self.free.pop().send(data)

    def advance(self):
        """Reads once, and counts the messages that everybody has."""
        self.read()
        while self.complete < len(self.ends) and self.total >= len(self.sockets) * self.ends[self.complete]:
            self.complete += 1

    def flight(self, width, seconds=None, messages=None, **begin):
        """Posts `width` messages at once, and again each time when all sockets have them. Returns the number of
        messages and the seconds."""
        self.begin(**begin)
        begun = time.perf_counter()
        while len(self.sent) < messages if messages else time.perf_counter() - begun < seconds:
            for _ in range(width):
                self.send()
            posted = time.perf_counter()
            while self.complete < len(self.sent) or self.answered < len(self.sent):
                self.advance()
                self._check_stall(time.perf_counter() - posted)
        self._finish()
        return len(self.sent), time.perf_counter() - begun

    def drizzle(self, rate, seconds):
        """Posts at a steady rate: each post goes out when it is due, whatever became of those before. Waits until
        all sockets have all messages."""
        self.begin(with_times=True)
        begun = time.time_ns()
        for number in range(max(2, int(rate * seconds))):
            due = begun + int(number / rate * 1e9)
            while time.time_ns() < due or not self.free:
                self.advance()
                self._check_stall((time.time_ns() - due) / 1e9)
            self.send(due)
        while self.complete < len(self.sent):
            self.advance()
            self._check_stall((time.time_ns() - due) / 1e9)
        self._finish()

    def _check_stall(self, late_s):
        if late_s > STALL_S:
            raise CrowdError(f"after {STALL_S} s {self.complete} of {len(self.sent)} messages are with everybody, "
                             f"{self.answered} posts are answered, "
                             f"{self.total:,} bytes came to {len(self.sockets)} sockets, whose messages end at "
                             f"{self.ends[-1:]}")

    def _finish(self):
        """Waits for the last answers and the last sockets of a pass. A frame that only some sockets got, such as a
        cursor, is made up for in the sum."""
        begun = time.monotonic()
        while self.answered < len(self.sent) or len(set(self.got.values())) != 1:
            self.read()
            self._check_stall(time.monotonic() - begun)
        if len(self.ends) != len(self.sent) or len(set((self.sums or {}).values())) > 1:
            raise CrowdError(f"{len(self.sent)} messages were posted and {len(self.ends)} came, to sockets with "
                             f"{sorted(set(self.got.values()))} bytes")

    def arrivals(self):
        """For each message of the last window, in order of arrival: when each socket had the whole of it, in ns."""
        found, following = [[] for _ in self.ends], dict.fromkeys(self.got, 0)
        for fd, got, moment in self.times:
            while following[fd] < len(self.ends) and self.ends[following[fd]] <= got:
                found[following[fd]].append(moment)
                following[fd] += 1
        return found

    def close(self):
        for sock in self.sockets + self.drivers:
            sock.close()
        self.epoll.close()


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
