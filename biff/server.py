# SPDX-License-Identifier: MIT
"""The web server: its routes, where it listens, and what every answer carries."""

import asyncio
import errno
import functools
import os
import socket
import sys

from aiohttp import web

from biff.config import address_of
from biff.connections import HEADERS_MAX, HEADER_BYTES_MAX, KEEP_ALIVE_S, Connection, Listener, Places
from biff.pages import HTTPS_ONLY, SECURITY_HEADERS, static
from biff.limits import Turns
from biff.requests import Answers, answering, anyone, every_request
from biff.sessions import COOKIE, cookie_line
from biff.system import StartError, is_secure, parts

ANYWHERE = frozenset({"0.0.0.0", "::", ""})      # --host: listens on all addresses of the machine
STOP_S_MAX = 0.7                      # for requests under way when the server stops; Ctrl-C is answered within a second


async def use_web(system: dict) -> dict:
    app, config = system["biff/app"], system["biff/config"]
    slashes = web.normalize_path_middleware(append_slash=False, remove_slash=True, merge_slashes=False)
    app.middlewares.extend([every_request(system), slashes])
    app.on_response_prepare.append(functools.partial(_prepare, system))
    answers, system["biff/turns"] = Answers(), Turns()
    system["biff/answers"] = answers
    system["biff/metrics"].gauge("answer_bytes", "Bytes of answers that wait for browsers to take them.", answers.bytes)
    _add_routes(system, app)
    runner = web.AppRunner(app, shutdown_timeout=STOP_S_MAX)
    await runner.setup()
    system["biff/stop"].append(runner.cleanup)
    await _listen(system, runner.server)
    system["biff/base-url"] = config["base_url"] or address_of(config["host"], system["biff/port"])
    _say_where(system)
    return system


def _add_routes(system, app):
    for route in [*parts(system, "routes"), ("GET", "/static/{name:.+}", anyone, static)]:
        if len(route) != 4 or not all(map(callable, route[2:])):
            raise StartError(f"The route {route[:2]} does not state who may use it.")
        method, path, rule, handler = route
        add = app.router.add_get if method == "GET" else functools.partial(app.router.add_route, method)
        add(path, answering(system, rule, handler))


async def _listen(system, server):
    config, loop = system["biff/config"], asyncio.get_running_loop()
    # No lingering: what follows a refused head, a gigabyte perhaps, is not read. No keep-alive of the kernel's: sockets
    # are pinged, and other connections end by a deadline of ours.
    connection = functools.partial(
        Connection, manager=server, loop=loop, access_log=None, keepalive_timeout=KEEP_ALIVE_S, lingering_time=0,
        tcp_keepalive=False, max_line_size=HEADER_BYTES_MAX, max_field_size=HEADER_BYTES_MAX, max_headers=HEADERS_MAX)
    os_sockets = system["biff/worker"].sockets if "biff/worker" in system else await bound(config)
    system["biff/port"] = os_sockets[0].getsockname()[1]
    places = system["biff/places"] = Places(system["biff/connections-max"], config["proxies"])
    for os_socket in os_sockets:
        system["biff/stop"].append(Listener(os_socket, places, connection).close)
    figures = system["biff/metrics"]
    figures.gauge("connections", "Open connections, sockets among them.", lambda: places.count)
    figures.counter("gave_way_total", "Connections cut to make room for others.", lambda: places.gave_way)


async def bound(config: dict) -> list[socket.socket]:
    """The sockets of the address that the settings name; they do not listen yet. Raises: StartError."""
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(asyncio.Protocol, config["host"], config["port"], start_serving=False)
    except OSError as failure:
        raise StartError(_cannot_listen(config, failure)) from None
    os_sockets = [os_socket.dup() for os_socket in server.sockets]
    server.close()
    return os_sockets


def _cannot_listen(config, failure):
    if failure.errno == errno.EADDRINUSE:
        return (f"Port {config['port']} of {config['host']} is taken: stop what uses it, or name another one with "
                "--port.")
    return f"{config['host']} port {config['port']} cannot be listened on ({os.strerror(failure.errno or 0)})."


def _address_in_network():
    """The address of this machine in its network, found by a socket that sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(("192.0.2.1", 9))           # TEST-NET-1, RFC 5737
        except OSError:                                # it has no network
            return "127.0.0.1"
        return asking.getsockname()[0]


def _say_where(system):
    name, base = system["biff/name"], system["biff/base-url"]
    if "biff/worker" in system and not system["biff/worker"].is_first:
        return
    print(f"{name} is at {base} (Ctrl-C stops it).")
    if system["biff/config"]["host"] in ANYWHERE and not system["biff/config"]["base_url"]:
        print(f"Others in this network find it at {address_of(_address_in_network(), system['biff/port'])}.")
    if not system["biff/config"]["mail_host"]:
        file = system["biff/config"]["data"] / "config.toml"
        print(f"Sign-in links are printed here until mail_host stands in {file}.")
    if not is_secure(system):
        print("Over http, cookies cross the network readably: away from this machine, put a TLS proxy in front and "
              "name its https address with --base-url.")
    sys.stdout.flush()


async def _prepare(system, request, response):
    """The headers of every response, whatever made it; a socket has no page to which they would apply."""
    response.headers.popall("Server", None)
    if isinstance(response, web.WebSocketResponse):
        return
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)       # what people sent us is served under a policy of its own
    if is_secure(system):
        response.headers.update(HTTPS_ONLY)
    response.headers.setdefault("Cache-Control", "no-store")
    if COOKIE in request:
        response.headers.add("Set-Cookie", cookie_line(system, *request[COOKIE]))      # aiohttp's are written by now
