# SPDX-License-Identifier: MIT
"""Connections: how many there are, who gives way when none is left, and what one may send before it is answered.

The operating system gives a process so many files. Had connections all of them, the store could open none; had one
network all connections, nobody else came in. So places are counted, by network, and when they run out the network that
has most gives one back: the connection that was silent longest. The same holds for the bytes of requests that are not
answered yet.
"""

import asyncio
import collections
import logging
import os
import secrets
import socket
from typing import Any, Callable

from aiohttp import web

from biff.limits import address_in, is_in, networks_around
from biff.pages import SECURITY_HEADERS, SENTENCES, UNKNOWN

log = logging.getLogger("biff")

HEADER_BYTES_MAX = 8190               # of a line or a field; a cookie and a referrer are far below
HEADERS_MAX = 64                      # browsers send some twenty, proxies add a few
HEAD_BYTES_MAX = 32 * 1024            # of a head; those of browsers have one to four
PENDING_BYTES_MAX = 16 * 1024 ** 2    # of all requests that are not answered yet: 500 such heads, or 250 long messages
PIPELINED_BYTES_MAX = 1024 ** 2       # of one connection that asks on before it is answered, which browsers do not
HEAD_S_MAX = 15                       # until a request's head is there
KEEP_ALIVE_S = 75                     # between two requests. nginx waits 60: if we closed first, it would answer 502
SILENT_S_MIN = 2                      # before a connection gives way to another one of its own network
SOCKET_BYTES_A_MINUTE = 512 * 1024    # that come in on a socket: twice what its frames may have, for empty ones too
ACCEPTED_AT_ONCE = 4                  # then the loop serves others: each costs a millisecond until it is answered
LISTEN_QUEUE = 1_024                  # that the kernel holds till then: a community coming back
ACCEPT_AGAIN_S = 1                    # after the system had no file or memory for one more
KERNEL_BYTES_MAX = 256 * 1024         # of an answer that the kernel takes at once; left alone it takes 4 MB from each


class Connection(web.RequestHandler):
    """A connection. aiohttp bounds the lines of a head and their number; this bounds their sum.

    What is no HTTP gets a sentence, and one line in the log: aiohttp would show it in both, cookies and all.
    """

    __slots__ = ("os_socket", "site", "heard_at", "pending", "_places", "_head_timer", "_minute", "_minute_bytes")

    def __init__(self, os_socket: socket.socket, site: str, places: "Places", **options: Any):
        super().__init__(**options)
        self.os_socket, self.site, self._places = os_socket, site, places
        self.heard_at = self._loop.time()
        self.pending = 0                               # bytes received since it was answered last
        self._head_timer: asyncio.TimerHandle | None = None
        self._minute, self._minute_bytes = 0.0, 0

    def connection_made(self, transport):
        super().connection_made(transport)
        if self._keepalive_handle:                     # one that never asks anything has the time of a head only
            self._keepalive_handle.cancel()
            self._next_keepalive_close_time = self._loop.time() + HEAD_S_MAX
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)

    def connection_lost(self, exc):
        self._places.leave(self)
        if self._head_timer:
            self._head_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data):
        self.heard_at = self._loop.time()
        if self._upgraded:
            self._count_of_socket(len(data))
        else:
            self._places.heard(self, len(data))
        if not self._force_close:
            super().data_received(data)
        if self._is_asked():
            self._bound_head()

    def _is_asked(self):
        """True if the received bytes begin a head."""
        return bool(self.pending) and self._waiter is not None and not self._waiter.done()

    def _bound_head(self):
        if self.pending > HEAD_BYTES_MAX:
            self._refuse_head()
        elif self._head_timer is None:
            self._head_timer = self._loop.call_later(HEAD_S_MAX, self._end_head, self._waiter)

    def _end_head(self, waiter: asyncio.Future | None):
        self._head_timer = None
        if waiter and self._waiter is waiter and not waiter.done():
            self.force_close()

    def _refuse_head(self):
        text = f"The head of a request has at most {HEAD_BYTES_MAX // 1024} KB.\n".encode()
        lines = SECURITY_HEADERS | {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(text)),
                                    "Cache-Control": "no-store", "Connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        if self.transport:
            self.transport.write(f"HTTP/1.1 431 Request Header Fields Too Large\r\n{head}\r\n".encode() + text)
        self.force_close()

    def _count_of_socket(self, size):
        self._places.upgraded(self)
        if self.heard_at - self._minute > 60:
            self._minute, self._minute_bytes = self.heard_at, 0
        self._minute_bytes += size
        if self._minute_bytes > SOCKET_BYTES_A_MINUTE:
            log.info("cut, for it sent more than %d bytes in a minute: a socket", SOCKET_BYTES_A_MINUTE)
            self.cut()

    def taken(self, size: int):
        """This many bytes of the request's body have been read by its handler, and wait no longer."""
        self._places.taken(self, size)

    async def finish_response(self, *args):
        try:
            return await super().finish_response(*args)
        finally:
            if not self._messages:
                self._places.answered(self)

    def may_give_way(self, silent_s: float) -> bool:
        return not self._upgraded and self._loop.time() - self.heard_at >= silent_s

    def cut(self):
        """Ends it at once, whatever it waits for."""
        self._places.leave(self)
        transport = self.transport
        self.force_close()
        if transport:
            transport.abort()

    def handle_error(self, request, status=500, exc=None, message=None):
        if request.writer.output_size:
            raise ConnectionError("the answer has begun, and cannot become another one")
        id, name = secrets.token_hex(4), type(exc).__name__
        if status < 500:
            log.info("Error %s: %d, what came is no request (%s)", id, status, name)
        else:
            log.error("Error %s: %d (%s)", id, status, name, exc_info=exc)
        headers = SECURITY_HEADERS | {"Cache-Control": "no-store", "Server": "eelchat"}
        response = web.Response(status=status, text=f"{SENTENCES.get(status, UNKNOWN)} ({id})\n", headers=headers)
        response.force_close()
        return response


def os_socket_of(request: web.Request) -> socket.socket:
    """The operating system's socket under a request, for what asyncio's transport does too slowly."""
    return request.protocol.os_socket       # type: ignore[attr-defined]      # it is a Connection


NOBODY: collections.OrderedDict[Connection, None] = collections.OrderedDict()


class Places:
    """All connections by network, which is an IPv4 address or an IPv6 /48; of each the longest silent first.

    A proxy stands for many people: its connections are counted, and give way to nobody.
    """

    def __init__(self, count_max: int, proxies: Any = ()):
        self.count_max, self._proxies = count_max, proxies
        self.count = self.pending = self.gave_way = 0
        self._sites: dict[str, set[Connection]] = {}
        self._silent: dict[str, collections.OrderedDict[Connection, None]] = {}

    def site_of(self, peer: Any) -> str:
        """The network of a peer as the operating system names it; "" for a proxy."""
        address = address_in(peer[0]) if peer else None
        if address is None:
            return "unknown"
        return "" if is_in(address, self._proxies) else networks_around(address)[-1]

    def is_left(self, site: str) -> bool:
        """True if one more may come from a network. The network that has most may have to give way."""
        return self.count < self.count_max or self._give_way(site)

    def enter(self, connection: Connection):
        self.count += 1
        self._sites.setdefault(connection.site, set()).add(connection)
        self._silent.setdefault(connection.site, collections.OrderedDict())[connection] = None

    def leave(self, connection: Connection):
        theirs = self._sites.get(connection.site, set())
        if connection not in theirs:
            return
        self.answered(connection)
        self.upgraded(connection)
        self.count -= 1
        theirs.remove(connection)
        if not theirs:
            del self._sites[connection.site]
            self._silent.pop(connection.site, None)

    def upgraded(self, connection: Connection):
        """Forgets a connection that is a socket by now, and gives way by the rules of sockets."""
        self.answered(connection)
        if connection in (silent := self._silent.get(connection.site, NOBODY)):
            del silent[connection]

    def heard(self, connection: Connection, size: int):
        if connection in (silent := self._silent.get(connection.site, NOBODY)):
            silent.move_to_end(connection)
        connection.pending += size
        self.pending += size
        if connection.pending > PIPELINED_BYTES_MAX:
            connection.cut()
        if self.pending > PENDING_BYTES_MAX:
            self._shed()

    def taken(self, connection: Connection, size: int):
        size = min(size, connection.pending)
        self.pending -= size
        connection.pending -= size

    def answered(self, connection: Connection):
        self.pending -= connection.pending
        connection.pending = 0

    def _give_way(self, newcomer):
        most = max(filter(None, self._silent), key=lambda site: len(self._sites[site]), default=None)
        if most is None:
            return False
        is_fair = len(self._sites[most]) > len(self._sites.get(newcomer, ())) + 1
        silent_s = 0 if is_fair else SILENT_S_MIN
        one = next((one for one in self._silent[most] if one.may_give_way(silent_s)), None)
        if one is None:
            return False
        self.gave_way += 1
        one.cut()
        return True

    def _shed(self):
        """Cuts connections until a quarter of the bound is free: of the network that holds most, the longest silent."""
        held: collections.Counter[str] = collections.Counter()
        for site, silent in self._silent.items():
            held[site] = sum(connection.pending for connection in silent)
        while self.pending > PENDING_BYTES_MAX * 3 // 4 and held:
            site, _ = held.most_common(1)[0]
            one = next((one for one in self._silent.get(site, ()) if one.pending), None)
            if one is None:
                del held[site]
                continue
            held[site] -= one.pending
            self.gave_way += 1
            one.cut()


class Listener:
    """Accepts connections as asyncio's servers do, but each knows its operating system's socket, and has a place."""

    def __init__(self, os_socket: socket.socket, places: Places, connection: Callable):
        self._socket, self._places, self._connection = os_socket, places, connection
        self._loop = asyncio.get_running_loop()
        os_socket.listen(LISTEN_QUEUE)
        self._listen()

    def _listen(self):
        if self._socket.fileno() >= 0:                 # not closed by now
            self._loop.add_reader(self._socket, self._accept)

    def _accept(self):
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                os_socket, peer = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as failure:
                log.error("out of system resources, nobody is let in for %d s: %s", ACCEPT_AGAIN_S,
                          os.strerror(failure.errno or 0))
                self._loop.remove_reader(self._socket)
                self._loop.call_later(ACCEPT_AGAIN_S, self._listen)
                return
            site = self._places.site_of(peer)
            if self._places.is_left(site):
                self._loop.create_task(self._connect(os_socket, site))
            else:
                os_socket.close()

    async def _connect(self, os_socket, site):
        os_socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES_MAX)
        connection = self._connection(os_socket, site, self._places)
        self._places.enter(connection)
        try:
            await self._loop.connect_accepted_socket(lambda: connection, os_socket)
        except OSError:
            self._places.leave(connection)

    def close(self):
        self._loop.remove_reader(self._socket)
        self._socket.close()
