"""The door: the one way in which this server asks another for something, on the public internet only.

    door = Door()
    answer = await door.get("https://example.org/feed.xml", {"If-None-Match": '"1"'})
    answer.status, answer.url, answer.headers, answer.body

A name is no protection: it may mean this machine, or mean another one at the next look, and a redirect may lead
anywhere. So the check stands where the socket is made, with the address that it is about to connect to. Whatever the
way there, nothing is connected to that is not public. Size, time, redirects and requests at once are bounded here too.
"""
import asyncio
import contextlib
import ipaddress
import socket
import threading
import time
import weakref
import zlib
from typing import Mapping, NamedTuple

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

URL_CHARS_MAX = 2_000                 # what browsers and servers agree on
PORTS = frozenset({80, 443})          # others are where machines speak to each other
REDIRECTS_MAX = 5                     # a feed that moved twice, to https and to www
BODY_BYTES_MAX = 2 * 1024 * 1024      # unpacked; a feed of fifty long articles has half of it
CHUNK_BYTES = 64 * 1024
GZIP, GZIP_MEMBERS_MAX = b"\x1f\x8b", 100          # how a member begins; a server that appends has a few
PERMANENT = 301, 308
GET_S_MAX = 10.0                      # for the whole of it, redirects included
RESOLVE_S_MAX = 3                     # somebody waits for the answer to their command
LOOKUPS_MAX = 32                      # threads that ask for names; each hangs for as long as a name server likes
AT_ONCE_MAX = 4                       # and one for each host: a server of ours is no crowd at anybody's door

# Networks that `ipaddress` calls global and are not, or not for feeds: protocol assignments, AS112, 6to4's relays,
# multicast, and Azure's own services, which stand among public addresses.
FORBIDDEN = [ipaddress.ip_network(text) for text in (
    "192.0.0.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.175.48.0/24", "100.64.0.0/10",
    "168.63.129.16/32", "224.0.0.0/3", "2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")]
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
NAT64 = ipaddress.ip_network("64:ff9b::/96")          # an IPv4 address as networks without IPv4 reach it
ISATAP = frozenset({0x0000_5EFE, 0x0200_5EFE})        # the middle of an IPv6 address that ends in an IPv4 one


class DoorError(Exception):
    """Nothing came; the sentence says why and may be shown to whoever asked."""


class NotPublicError(DoorError):
    """No address of the public internet has this name. The sentence says no more.

    Whether the name exists, and which address it is, would be a map of our network.
    """

    def __init__(self):
        super().__init__("There is no public address of that name.")


class Answer(NamedTuple):
    url: str                          # where it came from in the end
    status: int
    headers: Mapping[str, str]
    body: bytes
    moved_to: str | None = None       # where permanent redirects alone led, from the address that was asked


# ── Which addresses are public ───────────────────────────────────────────────────────────────────────────────


def is_public(text: str) -> bool:
    """True if an IP address, as a socket names it, is of the public internet; False if it cannot be read."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if address.version == 6:
        inner = _embedded(address)
        if inner is not None:
            return is_public(str(inner))
        if address not in GLOBAL_UNICAST or int(address) >> 32 & 0xFFFF_FFFF in ISATAP:
            return False
    return address.is_global and not any(address in network for network in FORBIDDEN)


def _embedded(address):
    """The IPv4 address that a mapped or NAT64 one stands for. No other wrapping is global unicast."""
    return address.ipv4_mapped or (ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF) if address in NAT64 else None)


# ── The door ─────────────────────────────────────────────────────────────────────────────────────────────────


class Door:
    """`is_allowed(ip)`, `ports` and `resolver` are for tests, which have a server of their own. No setting is."""

    def __init__(self, is_allowed=is_public, ports=PORTS, resolver: AbstractResolver | None = None):
        self._is_allowed, self._ports, self._resolver = is_allowed, ports, resolver or Resolver()
        self._few = asyncio.Semaphore(AT_ONCE_MAX)
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()      # by host

    async def check(self, text: str):
        """Raises DoorError if nothing could ever come from there.

        It spares people a wait; what protects us is asked at each connection.
        """
        url = self._url(text)
        try:
            async with asyncio.timeout(RESOLVE_S_MAX):
                found = await self._resolver.resolve(url.host, url.port, socket.AF_UNSPEC)
        except TimeoutError:
            return                                             # the name may be slow; fetching will tell
        except (OSError, ValueError):
            raise NotPublicError() from None                   # as for a name that exists in our network only
        if not any(self._is_allowed(one["host"]) for one in found):
            raise NotPublicError()

    async def get(self, text: str, headers: dict | None = None) -> Answer:
        """The answer, whatever its status, after redirects. Raises: DoorError."""
        url, left_s = self._url(text), GET_S_MAX
        is_moved, moved_to = True, None
        for _ in range(REDIRECTS_MAX + 1):
            async with self._turn(url.host), self._few:
                begun = time.monotonic()
                answer = await self._ask_within(left_s, "GET", url, headers or {})
                left_s -= time.monotonic() - begun
            if answer.status not in (301, 302, 303, 307, 308) or "Location" not in answer.headers:
                return answer._replace(moved_to=moved_to)
            is_moved = is_moved and answer.status in PERMANENT
            url = self._url(answer.headers["Location"], url)
            moved_to = str(url) if is_moved else moved_to
        raise DoorError(f"It redirected more than {REDIRECTS_MAX} times.")

    async def post(self, text: str, body: bytes, headers: dict | None = None) -> Answer:
        """The answer to a POST, whatever its status; a redirect is not followed. Raises: DoorError."""
        url = self._url(text)
        async with self._turn(url.host), self._few:
            return await self._ask_within(GET_S_MAX, "POST", url, headers or {}, body)

    def _url(self, text, base=None):
        """Parsed once, by the parser that the connection will go by."""
        try:
            url = URL(text) if base is None else base.join(URL(text))
            is_whole = url.scheme in ("http", "https") and url.host and len(str(url)) <= URL_CHARS_MAX
            port, has_user = url.port, "@" in url.raw_authority
        except (ValueError, TypeError):
            is_whole = False
        if not is_whole or has_user:
            raise DoorError("That is not an address that begins with http:// or https:// and names a host.")
        if port not in self._ports:
            raise DoorError("Only the usual ports, 80 and 443, are asked.")
        return url

    def _turn(self, host):
        return self._turns.setdefault(host, asyncio.Lock())

    async def _ask_within(self, seconds, method, url, headers, body=None):
        refused: list = []
        try:
            async with asyncio.timeout(seconds):
                return await self._ask(method, url, headers, body, refused)
        except TimeoutError:
            raise DoorError(f"It did not answer within {GET_S_MAX:g} seconds.") from None
        except aiohttp.ClientConnectorDNSError:
            raise NotPublicError() from None
        except aiohttp.ClientConnectorCertificateError:
            raise DoorError("Its certificate cannot be trusted.") from None
        except aiohttp.ClientPayloadError:
            raise DoorError("Its answer broke off.") from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise NotPublicError() if refused else DoorError("It cannot be reached.") from None

    async def _ask(self, method, url, headers, body, refused):
        connector = aiohttp.TCPConnector(socket_factory=lambda info: self._socket(info, refused), use_dns_cache=False,
                                         resolver=self._resolver, force_close=True)
        session = aiohttp.ClientSession(connector=connector, trust_env=False, cookie_jar=aiohttp.DummyCookieJar(),
                                        auto_decompress=False)
        headers = headers | {"Accept-Encoding": "gzip"}
        async with session, session.request(method, url, headers=headers, data=body, allow_redirects=False) as response:
            return Answer(str(url), response.status, response.headers, await _body(response))

    def _socket(self, info, refused):
        """Begins every connection: of a literal, a name, a redirect, and of a name that changed its mind."""
        family, kind, protocol, _, address = info
        if not self._is_allowed(address[0]):
            refused.append(address[0])
            raise OSError("not public")
        return socket.socket(family, kind, protocol)


async def _body(response):
    """Unpacked by hand, because a packed megabyte can be a gigabyte: what is over the bound is never unpacked."""
    packing = response.headers.get("Content-Encoding", "identity").strip().lower()
    if packing not in ("identity", "gzip", "x-gzip", ""):
        raise DoorError("It came packed in a way that was not asked for.")
    unpacker, body, received = (Gunzip() if "gzip" in packing else None), bytearray(), 0
    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
        received += len(chunk)
        try:
            body += unpacker.unpacked(chunk, BODY_BYTES_MAX + 1 - len(body)) if unpacker else chunk
        except zlib.error:
            raise DoorError("Its answer is damaged.") from None
        if max(received, len(body)) > BODY_BYTES_MAX:
            raise DoorError(f"It is larger than {BODY_BYTES_MAX // 1024 ** 2} MB.")
    if unpacker and received and not unpacker.is_whole:
        raise DoorError("Its answer broke off.")
    return bytes(body)


class Gunzip:
    """The members of a gzip file, one after the other; what follows them is padding. Source: RFC 1952, 2.2"""

    def __init__(self):
        self._member, self._members, self._rest = zlib.decompressobj(31), 1, b""

    @property
    def is_whole(self):
        return self._member.eof

    def unpacked(self, data: bytes, room: int) -> bytes:
        """At most `room` bytes. Raises: zlib.error."""
        data, self._rest, found = self._rest + data, b"", bytearray()
        while data and len(found) < room:
            if self._member.eof and not self._next(data):
                break
            found += self._member.decompress(data, room - len(found))
            data = self._member.unused_data
        return bytes(found)

    def _next(self, data):
        if len(data) < len(GZIP):
            self._rest = data
        if not data.startswith(GZIP):
            return False
        self._member, self._members = zlib.decompressobj(31), self._members + 1
        if self._members > GZIP_MEMBERS_MAX:
            raise zlib.error("too many members")
        return True


class Resolver(AbstractResolver):
    """Asks the system for names in threads of its own. One that hangs holds up neither mail nor the server's end."""

    def __init__(self):
        self._running = 0

    async def resolve(self, host, port=0, family=socket.AF_UNSPEC):
        if self._running >= LOOKUPS_MAX:
            raise OSError("too many names are being looked up")
        loop = asyncio.get_running_loop()
        found = loop.create_future()
        self._running += 1
        threading.Thread(target=self._look_up, args=[loop, found, host, port, family], daemon=True).start()
        return await found

    def _look_up(self, loop, found, host, port, family):
        try:
            found_here = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
            made: tuple = [_resolved(host, *info) for info in found_here], None
        except (OSError, ValueError) as error:
            made = None, error
        with contextlib.suppress(RuntimeError):                # the loop has ended meanwhile
            loop.call_soon_threadsafe(self._done, found, *made)

    def _done(self, found, result, error):
        self._running -= 1
        if not found.done():
            found.set_result(result) if error is None else found.set_exception(error)

    async def close(self):
        pass


def _resolved(name, family, _, protocol, __, address):
    return {"hostname": name, "host": address[0], "port": address[1], "family": family, "proto": protocol,
            "flags": socket.AI_NUMERICHOST}
