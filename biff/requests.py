# SPDX-License-Identifier: MIT
"""Requests: routes, the rules of who may, and the walls before them.

A route is (method, path, rule, handler). The rule says who may: it returns None, or the response that refuses. Before
the rule is asked, a request that could change something has shown twice that it is ours: by where the browser says it
comes from, and by a token that only our pages carry. A GET never writes to the store.
"""

import asyncio
import collections
import inspect
import logging
import pathlib
import time
import urllib.parse
from typing import AsyncIterator, Callable

import aiohttp
from aiohttp import web

import store
from biff.limits import client_of, is_allowed, network_of
from biff.pages import ERROR_ID, error
from biff.sessions import TOKEN_FIELD, cookie_of, has_token, session_of
from biff.system import PATH_CHARS_LOGGED, assoc_db, masked, name_of
from biff.tx import ContentionError

log = logging.getLogger("biff")

FIELDS_MAX = 50                       # in a form; ours have at most five
REQUEST_S_MAX = 15                    # for a body to arrive, and again for its answer to be made
ANSWER_S_MAX = 60                     # for an answer to be taken: fifty long messages over a poor telephone line
WRITES_A_PERSON = 120, 60             # unsafe requests per minute: more than hands do, less than what fills a disk
READS_A_PERSON = 240, 60              # pages per minute: more than eyes read, less than what keeps others waiting
ANSWERS_BYTES_MAX = 8 * 1024 ** 2     # of all answers that wait for browsers to take them; each is held twice
ANSWERS_BYTES_A_CLIENT = 4 * 1024 ** 2
ANSWERS_BYTES_A_PERSON = 2 * 1024 ** 2      # three pages of the longest messages
SMALL_ANSWER_BYTES = 4 * 1024         # not counted: fifteen thousand of them are 60 MB
UID = web.RequestKey("uid", object)
ANSWER_S = web.ResponseKey("answer s", int)    # of an answer that may take longer than others to be taken
UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})


def anyone(ctx: dict) -> None:
    """The rule of what is open to all."""


def every_request(system):
    @web.middleware
    async def answer(request, handler):
        """Logs a line for each answer and makes an error page of each failure. Sockets write lines of their own."""
        begun = time.perf_counter()
        try:
            response = await handler(request)
        except web.HTTPException as found:
            if found.status < 400:
                raise
            response = error({**system, "request": request}, found.status)
            response.headers.extend({"Allow": found.headers["Allow"]} if "Allow" in found.headers else {})
        except ConnectionError:
            raise
        except ContentionError:
            response = error({**system, "request": request}, 409)
        except Exception as failure:
            response = error({**system, "request": request}, *_told(failure))
            log.exception("Error %s in %s", response[ERROR_ID], _shown(request))
            _end_if_closed(system, failure)
        if isinstance(response, web.WebSocketResponse):
            return response
        mark = f" error {response[ERROR_ID]}" if ERROR_ID in response else ""
        log.info("%.0f ms %d %s%s", (time.perf_counter() - begun) * 1000, response.status, _shown(request), mark)
        await _send(system, request, response)
        return response
    return answer


async def _send(system, request, response):
    """Writes the answer here and not in aiohttp, where a browser that does not read would hold it for ever."""
    answers = system["biff/answers"]
    try:
        async with asyncio.timeout(response.get(ANSWER_S, ANSWER_S_MAX)):
            request.transport and request.transport.set_write_buffer_limits(0)      # sent is what the kernel has
            answers.enter(request, _size(response), _takers(system, request))
            await response.prepare(request)
            await response.write_eof()
    except TimeoutError:
        log.info("an answer to %s is not taken: cut", _shown(request))
        request.transport and request.transport.abort()
    finally:
        answers.leave(request)


def _size(response):
    body = getattr(response, "body", None)
    return len(body) if isinstance(body, bytes) else 0


def _takers(system, request):
    """Under what an answer is counted while it waits: everything, the client, and the person who is signed in."""
    client = client_of({**system, "request": request})
    person = [(("person", request[UID]), ANSWERS_BYTES_A_PERSON)] if request.get(UID) else []
    return [("all", ANSWERS_BYTES_MAX), (("client", client), ANSWERS_BYTES_A_CLIENT), *person]


class FileAnswer(web.FileResponse):
    """A file on the disk as an answer, or the range of it that is asked for; the kernel sends it, piece by piece."""

    def __init__(self, path: pathlib.Path, headers: dict, answer_s: int):
        super().__init__(path, headers=headers)
        self[ANSWER_S] = answer_s

    async def prepare(self, request):
        """Sends the whole; aiohttp calls it once more after us."""
        return None if self.prepared else await super().prepare(request)


class Answers:
    """The answers that wait for browsers to take them. Beyond a bound the oldest one under that bound is cut."""

    def __init__(self):
        self._waiting: dict[int, tuple[web.Request, int, list]] = {}       # by the id of the request, which has no hash
        self._bytes: collections.Counter = collections.Counter()
        self.cut = 0

    def bytes(self) -> int:
        return self._bytes["all"]

    def enter(self, request: web.Request, size: int, takers: list):
        if size < SMALL_ANSWER_BYTES:
            return
        for taker, bytes_max in takers:
            while self._bytes[taker] and self._bytes[taker] + size > bytes_max:
                self._cut_longest(taker)
        self._waiting[id(request)] = request, size, takers
        for taker, _ in takers:
            self._bytes[taker] += size

    def leave(self, request: web.Request):
        _, size, takers = self._waiting.pop(id(request), (request, 0, []))
        for taker, _ in takers:
            self._bytes[taker] -= size
            if not self._bytes[taker]:
                del self._bytes[taker]

    def _cut_longest(self, taker):
        one = next(one for one, _, takers in self._waiting.values() if any(taker == key for key, _ in takers))
        self.cut += 1
        self.leave(one)
        log.info("too much waits to be taken: cut the answer to %s", _shown(one))
        if one.transport:
            one.transport.abort()


def _told(failure):
    """The status of a failure, and the sentence that people read if it is not the usual one."""
    if isinstance(failure, store.UnreachableError):
        return 503, "The server is cut off from its log, so sending waits. Try again in a moment."
    return (503,) if isinstance(failure, TimeoutError) else (500,)


def _shown(request):
    """A request in the log: never its query, where addresses of people stand, and nothing that may be a token."""
    return f"{request.method} {masked(request.raw_path.partition('?')[0])[:PATH_CHARS_LOGGED]}"


def _end_if_closed(system, failure):
    """A store that stopped after a failed write refuses everything: a server that goes on would only say sorry."""
    if isinstance(failure, store.ClosedError) and "biff/end" in system:
        system["biff/failure"] = str(failure)
        system["biff/end"]()


def streams(handler: Callable) -> Callable:
    """Marks a handler that reads the body of its request by itself, piece by piece, in its own time.

    Its rule is asked before the body is read. It reads by `body_of`, bounds what it takes, and has no fields.
    """
    handler.is_stream = True               # type: ignore[attr-defined]
    return handler


def signed(handler: Callable) -> Callable:
    """Marks a handler whose address carries a signature of ours, which it checks: programs that read mail send there.

    It may come from anywhere, without a session and a form's token. Its body is not read.
    """
    handler.is_signed = True               # type: ignore[attr-defined]
    return handler


async def body_of(request: web.Request, piece_bytes: int, piece_s: float) -> AsyncIterator[bytes]:
    """The body in pieces of at least this many bytes, but the last. Raises: TimeoutError if one takes too long."""
    is_over = False
    while not is_over:
        piece = bytearray()
        try:
            async with asyncio.timeout(piece_s):
                while not is_over and len(piece) < piece_bytes:
                    came = await request.content.readany()
                    request.protocol.taken(len(came))       # type: ignore[attr-defined]      # it is a Connection
                    piece, is_over = piece + came, not came
        except (web.RequestPayloadError, aiohttp.ClientError):
            raise web.HTTPBadRequest() from None
        if piece:
            yield bytes(piece)


def answering(system, rule, handler):
    is_stream, is_signed = getattr(handler, "is_stream", False), getattr(handler, "is_signed", False)

    async def answer(request):
        is_upgrade = "websocket" in request.headers.get("Upgrade", "").lower()
        is_unsafe = request.method in UNSAFE and not is_signed
        if (is_unsafe or is_upgrade) and not is_ours(system, request, is_upgrade):
            log.info("Refused, for it comes from no page of ours: %s", _shown(request))
            raise web.HTTPForbidden()
        if request.method != "POST" and not is_upgrade:        # posts are quick, and are committed together
            await _turn(system, request)
        ctx = await _ctx(system, request, is_stream or is_signed)
        if is_unsafe and not has_token(ctx):
            log.info("Refused, for it has no token of this browser: %s by user %s", _shown(request), ctx["uid"])
            raise web.HTTPForbidden()
        if ctx["uid"] and not is_upgrade and not is_allowed(ctx, *_rates_of(ctx, rule)):
            raise web.HTTPTooManyRequests()
        async with asyncio.timeout(None if is_upgrade or is_stream else REQUEST_S_MAX):
            refusal = await _called(rule, ctx)
            if refusal is None:
                return await _called(handler, ctx)
            log.info("Refused by %s: %s by user %s", name_of(rule), _shown(request), ctx["uid"])
            return refusal
    answer.rule = rule                     # type: ignore[attr-defined]
    return answer


async def _turn(system, request):
    """Waits for one's turn. Whatever is read comes from a snapshot that is taken after that."""
    asking = {**system, "request": request}
    await system["biff/turns"].take(network_of(asking), cookie_of(asking) or "")


def _rates_of(ctx, rule):
    """The limits under which a person's request counts. What is open to all is cheap: static files, signing in."""
    if ctx["request"].method in UNSAFE:
        return [(("writes", ctx["uid"]), *WRITES_A_PERSON)]
    if rate := getattr(rule, "rate", None):                # a rule whose pages are asked for more often than pages
        return [((rule.__name__, ctx["uid"]), *rate)]
    return [] if rule is anyone else [(("reads", ctx["uid"]), *READS_A_PERSON)]


async def _called(function, ctx):
    result = function(ctx)
    return await result if inspect.isawaitable(result) else result


async def _ctx(system, request, is_stream):
    fields = await _fields(request) if request.method in UNSAFE and not is_stream else {}
    ctx = {**assoc_db(system), "request": request, "biff/token": fields.pop(TOKEN_FIELD, ""),
           "params": {**request.query, **fields, **request.match_info}}
    session = ctx["session"] = session_of(ctx)
    ctx["uid"] = request[UID] = session and session["session/user"]
    return ctx


async def _fields(request):
    """The fields of a form. Browsers end lines with CRLF in forms and with LF in scripts; here it is always LF."""
    try:
        async with asyncio.timeout(REQUEST_S_MAX):
            body = await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout() from None
    except (web.RequestPayloadError, aiohttp.ClientError):
        raise web.HTTPBadRequest() from None
    if body and request.content_type != "application/x-www-form-urlencoded":
        raise web.HTTPUnsupportedMediaType()
    try:
        pairs = urllib.parse.parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX,
                                       errors="strict")
    except ValueError:
        raise web.HTTPBadRequest() from None
    return {key: value.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "") for key, value in pairs}


def is_ours(system: dict, request: web.Request, is_upgrade: bool = False) -> bool:
    """True if the browser says that the request comes from a page of ours; False if it says nothing."""
    site = None if is_upgrade else request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin, base = request.headers.get("Origin", ""), system["biff/base-url"]
    # The same host is as good as the base URL: people type localhost, 127.0.0.1 or the name of the machine.
    return origin == base or origin == f"{base.partition(':')[0]}://{request.headers.get('Host', '')}"
