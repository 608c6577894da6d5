# SPDX-License-Identifier: MIT
"""The web server: connections, how many of them, and what every answer carries."""

import asyncio
import errno
import functools
import logging
import os
import secrets
import socket
import sys
from typing import Any, Callable

from aiohttp import web

from biff.config import address_of
from biff.pages import HTTPS_ONLY, SECURITY_HEADERS, SENTENCES, UNKNOWN, static
from biff.requests import answering, anyone, every_request
from biff.sessions import COOKIE, cookie_line
from biff.system import StartError, is_secure, parts

log = logging.getLogger("biff")

HEADER_BYTES_MAX = 8190               # of a line or a field; a cookie and a referrer are far below
HEADERS_MAX = 64                      # browsers send some twenty, proxies add a few
IDLE_S_MAX = 15                       # until a request's head is there, and between two requests on one connection
ACCEPTED_AT_ONCE = 16                 # before one is asked whether there is room; the rest wait for the next turn of the loop
LISTEN_QUEUE = 1_024                  # that the kernel holds till then: a community coming back
ACCEPT_AGAIN_S = 1                    # after the system had no file or memory for one more
STOP_S_MAX = 0.7                      # for requests under way when the server stops; Ctrl-C is answered within a second


class Connection(web.RequestHandler):
    """One connection. What is no HTTP gets a sentence, and one line in the log: aiohttp would show it in both, cookies and all."""

    __slots__ = ("plug",)

    def __init__(self, plug: socket.socket, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.plug = plug

    def handle_error(self, request, status=500, exc=None, message=None):
        if request.writer.output_size:
            raise ConnectionError("the answer has begun, and cannot become another one")
        id = secrets.token_hex(4)
        log.log(*(logging.INFO, "Error %s: %d, what came is no request (%s)") if status < 500 else (logging.ERROR, "Error %s: %d (%s)"),
                id, status, type(exc).__name__, exc_info=exc if status >= 500 else None)
        headers = SECURITY_HEADERS | {"Cache-Control": "no-store", "Server": "eelchat"}
        response = web.Response(status=status, text=f"{SENTENCES.get(status, UNKNOWN)} ({id})\n", headers=headers)
        response.force_close()
        return response


def plug_of(request: web.Request) -> socket.socket:
    """The operating system's socket under a request, for what asyncio's transport does too slowly."""
    return request.protocol.plug       # type: ignore[attr-defined]      # it is a Connection


class Listener:
    """Makes connections of those who come to a plug, as asyncio's servers do, but `connection(plug)` knows its own. Beyond a bound they are cut
    at once: had they all files, the store could open none."""

    def __init__(self, plug: socket.socket, connection: Callable, take_place: Callable[[], bool]):
        self._plug, self._connection, self._take_place, self._loop = plug, connection, take_place, asyncio.get_running_loop()
        plug.listen(LISTEN_QUEUE)
        self._listen()

    def _listen(self):
        if self._plug.fileno() >= 0:                   # not closed by now
            self._loop.add_reader(self._plug, self._accept)

    def _accept(self):
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                plug, _ = self._plug.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as failure:
                log.error("out of system resources, nobody is let in for %d s: %s", ACCEPT_AGAIN_S, os.strerror(failure.errno or 0))
                self._loop.remove_reader(self._plug)
                self._loop.call_later(ACCEPT_AGAIN_S, self._listen)
                return
            if self._take_place():
                self._loop.create_task(self._loop.connect_accepted_socket(functools.partial(self._connection, plug), plug))
            else:
                plug.close()

    def close(self):
        self._loop.remove_reader(self._plug)
        self._plug.close()


def _counted(places, server):
    """A function that takes one of so many places, if one is left. How many are taken is asked only when none seems left: it copies a list."""
    left = places

    def take_place():
        nonlocal left
        if not left:
            left = max(0, places - len(server.connections))
        is_left = left > 0
        left -= is_left
        return is_left
    return take_place


async def use_web(system: dict) -> dict:
    app, config = system["biff/app"], system["biff/config"]
    app.middlewares.extend([every_request(system), web.normalize_path_middleware(append_slash=False, remove_slash=True,
                                                                                 merge_slashes=False)])
    app.on_response_prepare.append(functools.partial(_prepare, system))
    for route in [*parts(system, "routes"), ("GET", "/static/{name:.+}", anyone, static)]:
        if len(route) != 4 or not all(map(callable, route[2:])):
            raise StartError(f"The route {route[:2]} does not state who may use it.")
        method, path, rule, handler = route
        add = app.router.add_get if method == "GET" else functools.partial(app.router.add_route, method)
        add(path, answering(system, rule, handler))
    runner = web.AppRunner(app, shutdown_timeout=STOP_S_MAX)
    await runner.setup()
    system["biff/stop"].append(runner.cleanup)
    loop = asyncio.get_running_loop()
    # No lingering: what follows a refused head, a gigabyte perhaps, is not read. keepalive_timeout is also the only deadline of a head.
    # Nor does the kernel ask whether browsers are still there: sockets are pinged, and other connections end by that deadline.
    connection = functools.partial(Connection, manager=runner.server, loop=loop, access_log=None, keepalive_timeout=IDLE_S_MAX, lingering_time=0,
                                   tcp_keepalive=False, max_line_size=HEADER_BYTES_MAX, max_field_size=HEADER_BYTES_MAX, max_headers=HEADERS_MAX)
    try:
        bound = await loop.create_server(asyncio.Protocol, config["host"], config["port"], start_serving=False)
    except OSError as failure:
        raise StartError(_cannot_listen(config, failure)) from None
    system["biff/port"] = bound.sockets[0].getsockname()[1]
    take_place = _counted(system["biff/connections-max"], runner.server)
    for plug in bound.sockets:
        system["biff/stop"].append(Listener(plug.dup(), connection, take_place).close)
    bound.close()
    system["biff/base-url"] = config["base_url"] or address_of(config["host"], system["biff/port"])
    _say_where(system)
    return system


def _cannot_listen(config, failure):
    if failure.errno == errno.EADDRINUSE:
        return f"Port {config['port']} of {config['host']} is taken: stop what uses it, or name another one with --port."
    return f"{config['host']} port {config['port']} cannot be listened on ({os.strerror(failure.errno or 0)})."


def _say_where(system):
    name, base = system["biff/name"], system["biff/base-url"]
    print(f"{name} is at {base} (Ctrl-C stops it).")
    if not system["biff/config"]["mail_host"]:
        file = system["biff/config"]["data"] / "config.toml"
        print(f"Sign-in links are printed here until mail_host stands in {file}.")
    if not is_secure(system):
        print("Over http, cookies cross the network readably: away from this machine, put a TLS proxy in front and "
              "name its https address with --base-url.")
    sys.stdout.flush()


async def _prepare(system, request, response):
    """The headers of every response, whatever made it; where a socket begins there is no page to which they would apply."""
    response.headers.popall("Server", None)
    if isinstance(response, web.WebSocketResponse):
        return
    response.headers.update(SECURITY_HEADERS)
    if is_secure(system):
        response.headers.update(HTTPS_ONLY)
    response.headers.setdefault("Cache-Control", "no-store")
    if COOKIE in request:
        response.headers.add("Set-Cookie", cookie_line(system, *request[COOKIE]))      # aiohttp has written its own by now
