"""Many browsers without a browser: people put into a store by the hundred,
and sockets that parse frames and do nothing else."""
import asyncio
import base64
import datetime as dt
import os
import random
import re
import secrets
import socket
import struct
import urllib.parse
import uuid

import biff
import store
from store import put


class Town:
    """A community with one channel and so many members, each with a session. `documents` are to be put into a store."""

    def __init__(self, count):
        now, self.community, self.channel_id = dt.datetime.now(dt.timezone.utc), uuid.uuid4(), uuid.uuid4()
        self.channel = f"/community/{self.community}/channel/{self.channel_id}"
        self.cookies = [secrets.token_urlsafe(32) for _ in range(count)]
        self.people, self.mems = [uuid.uuid4() for _ in range(count)], [uuid.uuid4() for _ in range(count)]
        self.documents = [{"xt/id": self.community, "comm/title": "Town"},
                          {"xt/id": self.channel_id, "chan/title": "Square", "chan/comm": self.community}]
        for n, (cookie, user, mem) in enumerate(zip(self.cookies, self.people, self.mems)):
            hashed = biff.hash_of(cookie)
            self.documents += [
                {"xt/id": user, "user/email": f"{n}@example.com", "user/joined-at": now},
                {"xt/id": mem, "mem/user": user, "mem/comm": self.community, "mem/roles": set()},
                {"xt/id": biff.session_id(hashed), "session/hash": hashed, "session/user": user,
                 "session/agent": "a test",
                 "session/created-at": now, "session/used-at": now}]

    def found(self, path):
        """Writes the town into the store of a server that is to be started; the newest tx_id."""
        path.parent.mkdir(parents=True, exist_ok=True)
        return self.found_in(store.open(path))

    def found_in(self, node):
        with node:
            return node.submit_tx([put(document) for document in self.documents]).tx_id

    def message(self, text):
        return {"xt/id": uuid.uuid4(), "msg/mem": self.mems[0], "msg/channel": self.channel_id, "msg/text": text,
                "msg/created-at": dt.datetime.now(dt.timezone.utc)}


class Ear(asyncio.Protocol):
    """One socket. `texts` are its frames, unless `hear(payload)` takes them; `code` is what it was closed with."""

    def __init__(self, hear=None, answers=True):
        self.data, self.texts, self.code, self.is_open = bytearray(), [], None, False
        self.hear, self.answers = hear or (lambda payload: self.texts.append(payload.decode())), answers
        self.opened, self.ended = asyncio.get_running_loop().create_future(), asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.data += data
        if not self.is_open and not self._handshake():
            return
        while frame := self._frame():
            self._take(*frame)

    def _handshake(self):
        head, end, rest = self.data.partition(b"\r\n\r\n")
        if end and not self.opened.done():
            self.status = int(head.split()[1])
            self.is_open, self.data = self.status == 101, rest
            self.opened.set_result(self.status)
        return self.is_open

    def _frame(self):
        """The next whole frame, (opcode, payload)."""
        data = self.data
        if len(data) < 2:
            return None
        size, start = data[1], 2
        if size > 125:
            start = 4 if size == 126 else 10
            size = int.from_bytes(data[2:start], "big") if len(data) >= start else len(data)
        if len(data) < start + size:
            return None
        opcode, payload = data[0] & 15, bytes(data[start:start + size])
        del data[:start + size]
        return opcode, payload

    def _take(self, opcode, payload):
        if opcode == 1 and payload != b"{}":           # the word that the line is alive
            self.hear(payload)
        elif opcode == 8:
            self.code = int.from_bytes(payload[:2], "big")
            if self.answers:
                self.send(8, payload[:2])
        elif opcode == 9 and self.answers:
            self.send(10, payload)

    def send(self, opcode, payload=b"", fin=True):
        """A masked frame, with a mask that changes nothing."""
        size = len(payload)
        length = (bytes([128 | size]) if size < 126 else struct.pack("!BH", 254, size) if size < 65_536
                  else struct.pack("!BQ", 255, size))
        if not self.transport.is_closing():
            self.transport.write(bytes([(128 if fin else 0) | opcode]) + length + bytes(4) + payload)

    def connection_lost(self, error):
        for future in (self.opened, self.ended):
            future.done() or future.set_result(None)


def handshake(base, path, cookie, after):
    host = urllib.parse.urlsplit(base).netloc
    return (f"GET {path}/connect?after={after} HTTP/1.1\r\nHost: {host}\r\nOrigin: {base}\r\nCookie: "
            f"eelchat={cookie}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: "
            f"13\r\nSec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n\r\n").encode()


async def listen(base, path, cookie, after, hear=None, receive_bytes=None, answers=True, of="127.0.0.1"):
    """An Ear on a channel; its `status` is that of the handshake, None if the connection was cut."""
    address = urllib.parse.urlsplit(base)
    plug = socket.socket()
    plug.bind((of, 0))
    if receive_bytes:
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    plug.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(plug, (address.hostname, address.port))
    _, ear = await loop.create_connection(lambda: Ear(hear, answers), sock=plug)
    ear.transport.write(handshake(base, path, cookie, after))
    ear.status = await ear.opened
    return ear


async def come_back(base, path, cookie, after, hear, tries=40):
    """As a browser does: at random within a second, then within two, four … ten. The Ear, once it is let in."""
    for n in range(tries):
        await asyncio.sleep(random.uniform(0, min(2 ** n, 10)))
        try:
            ear = await listen(base, path, cookie, after(), hear)
        except OSError:
            continue
        if ear.status == 101:
            return ear
    raise AssertionError(f"not let in after {tries} tries")


class Voice:
    """Posts as somebody's page would, over one connection."""

    def __init__(self, session, base, data, town, n):
        self.session, self.url, self.cookie = session, base + town.channel, town.cookies[n]
        token = biff.hmac_of({"biff/secret": (data / "secret").read_bytes()}, "anti-forgery", self.cookie)
        self.headers = {"Origin": base, "HX-Request": "true", biff.TOKEN_HEADER: token,
                        "Cookie": f"eelchat={self.cookie}"}

    async def say(self, text, post=None):
        """The status of the answer: 204 if it was stored."""
        async with self.session.post(self.url, data={"text": text, "post": str(post or uuid.uuid4())},
                                     headers=self.headers) as answer:
            return answer.status


def cursor(payload):
    return int(re.search(r'id="cursor" value="(\d+)"', payload if isinstance(payload, str)
                         else payload.decode()).group(1))


def texts(payload):
    return re.findall(r'\n<p(?: dir="auto")?>(.*?)</p>\n',
                      payload if isinstance(payload, str) else payload.decode(), re.DOTALL)


def percentile(values, share):
    values = sorted(values)
    return values[min(int(len(values) * share), len(values) - 1)] if values else 0.0


def memory_mb(pid):
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1)) / 1024


def lag(metrics, share):
    """The bound, in seconds, that a share of the loop's lags did not pass, from the text of /metrics."""
    buckets = re.findall(r'loop_lag_seconds_bucket\{le="([^"]+)"\} (\d+)', metrics)
    return next(float(bound) for bound, count in buckets if int(count) >= share * int(buckets[-1][1]))
