# SPDX-License-Identifier: MIT
"""Rate limits: how often a person, a client or a mail address did something lately, who a client is, and whose turn
it is.
"""

import asyncio
import collections
import fcntl
import hashlib
import ipaddress
import logging
import math
import mmap
import re
import secrets
import struct
import tempfile
import time
from typing import Any, Iterable

log = logging.getLogger("biff")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
LIMIT_KEYS_MAX = 100_000              # remembered for rate limits, about 30 MB; then those that are over are forgotten
RINGS = {60: 2 ** 19, 3_600: 2 ** 18}     # seconds: events that workers remember, 30 MB; eight thousand a second
EXACT_MAX = 64                        # in a window; of limits that allow more, workers know times to a 64th of it
ONCE = [1]                            # what an event counts for that does not say more
LOCK_S_MAX = 0.05                     # for the table of workers; it is held for some 20 µs
LOCK_AGAIN_S = 0.0002
WORD, EVENT = struct.Struct("=Q"), struct.Struct("=QQQdQ")      # a number; number, the one before, key, when, how much


# As some proxies append an address: 203.0.113.7:51234, [2001:db8::3]:443.
WITH_PORT = re.compile(r"\[([^\[\]]+)\](?::\d{1,5})?|(\d+(?:\.\d+){3}):\d{1,5}")


def client_of(ctx: dict) -> str:
    """The client for rate limits: an IPv4 address, or the /64 network of an IPv6 household."""
    return networks_of(ctx)[0]


def networks_of(ctx: dict) -> list[str]:
    """The client, and for IPv6 the /48 around it: whoever holds a /48 has 65,536 clients to spend."""
    address = address_of_client(ctx["request"], ctx["biff/config"]["proxies"])
    return networks_around(address) if address else ["unknown"]


def network_of(ctx: dict) -> str:
    """The largest network around a client that counts as one: an IPv4 address or an IPv6 /48."""
    return networks_of(ctx)[-1]


def address_of_client(request: Any, proxies: Iterable) -> Address | None:
    """X-Forwarded-For is believed from the right, and only as long as its words come from proxies named at start."""
    hops = [part.strip() for line in request.headers.getall("X-Forwarded-For", ()) for part in line.split(",")]
    address = address_in(request.remote or "")
    while hops and address and is_in(address, proxies):
        address = address_in(hops.pop())
    return address


def address_in(text: str) -> Address | None:
    """The IP address that a text names, with or without a port; an IPv4 address in IPv6 clothes as IPv4."""
    found = WITH_PORT.fullmatch(text)
    try:
        address = ipaddress.ip_address((found[1] or found[2]) if found else text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def networks_around(address: Address) -> list[str]:
    if address.version == 4:
        return [str(address)]
    return [str(ipaddress.ip_network((address, bits), strict=False)) for bits in (64, 48)]


def is_in(address: Address, networks: Iterable) -> bool:
    return any(address in network for network in networks)


class Limits:
    """Counts recent events, in memory: counters do not belong in a log that keeps everything.

    A limit is (key, count_max, window_s), or with a fourth part, how much this event counts for, 1 without it.
    """

    def __init__(self, clock=time.monotonic, times: "Times | SharedTimes | None" = None):
        self._clock, self._times = clock, Times() if times is None else times

    def take(self, *limits) -> bool:
        """Counts it under every limit, or, if one is used up, under none and returns False."""
        with self._times:
            moment = self._clock()
            for key, count_max, window_s, *count in limits:
                if self._times.used(key, moment, window_s) + (count or ONCE)[0] > count_max:
                    return False
            for key, count_max, window_s, *count in limits:
                self._times.add(key, moment, window_s, (count or ONCE)[0], count_max)
            return True

    def wait_s(self, *limits) -> float:
        """The seconds until there is room under every (key, count_max, window_s), 0 if there is."""
        ends = [0.0]
        with self._times:
            moment = self._clock()
            for key, count_max, window_s, *_ in limits:
                room = count_max
                for at, count in self._times.since(key, moment, window_s):
                    if (room := room - count) <= 0:
                        ends.append(at + window_s - moment)
                        break
        return max(ends)


class Times(dict):
    """The events of one process: key → [their sum, *(when, how much, window_s)], the oldest first.

    It is entered to look and to add in one go.
    """

    def __enter__(self):
        pass

    def __exit__(self, *failure):
        pass

    def used(self, key, moment, window_s) -> int:
        """The sum of a key within its window."""
        kept, over = self.get(key, (0,)), 1
        while over < len(kept) and kept[over][0] + window_s <= moment:
            kept[0] -= kept[over][1]
            over += 1
        if over == len(kept):
            self.pop(key, None)
        elif over > 1:
            del kept[1:over]
        return kept[0]

    def since(self, key, moment, window_s) -> Iterable[tuple[float, int]]:
        """The events of a key within its window, as (when, how much), the newest first."""
        self.used(key, moment, window_s)
        return [event[:2] for event in reversed(self.get(key, [0])[1:])]

    def add(self, key, moment, window_s, count, count_max):
        if len(self) > LIMIT_KEYS_MAX:
            for old in [key for key, kept in self.items() if kept[-1][0] + kept[-1][2] <= moment]:
                del self[old]
        kept = self.setdefault(key, [0])
        kept.append((moment, count, window_s))
        kept[0] += count


class SharedTimes:
    """The same for all workers of a server: a table in memory that they inherit, made before they are forked.

    Events lie in a ring, in the order of their numbers. Each names the one before it whose key falls into the same
    bucket, so the events of a key are a chain, which ends at the first that is out of its window. A full ring writes
    over its oldest events. A worker that is killed while it writes leaves at worst one event uncounted.
    """

    def __init__(self):
        self._file = tempfile.TemporaryFile()
        self._lock, self._secret = self._file.fileno(), secrets.token_bytes(16)      # or keys could be made to meet
        self._rings = [(window_s, Ring(count)) for window_s, count in RINGS.items()]

    def __enter__(self):
        """Locks the table. A worker that was stopped in there keeps nobody waiting: then an event may go uncounted."""
        end, is_over = time.monotonic() + LOCK_S_MAX, False
        while not is_over:
            is_over = time.monotonic() > end           # a busy machine may have let this process sleep: it looks again
            try:
                return fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)      # it ends with the process
            except (BlockingIOError, PermissionError):
                time.sleep(LOCK_AGAIN_S)

    def __exit__(self, *failure):
        fcntl.lockf(self._lock, fcntl.LOCK_UN)

    def used(self, key, moment, window_s):
        return sum([count for _, count in self.since(key, moment, window_s)])

    def since(self, key, moment, window_s):
        return self._ring(window_s).since(self._number(key), moment - window_s)

    def add(self, key, moment, window_s, count, count_max):
        """Of a limit that allows many, moments are rounded up to a 64th of the window, so that chains stay short."""
        if count_max > EXACT_MAX:
            step_s = window_s / EXACT_MAX
            moment = math.ceil(moment / step_s) * step_s
        self._ring(window_s).add(self._number(key), moment, count)

    def _ring(self, window_s):
        return next(ring for window_s_max, ring in self._rings if window_s <= window_s_max)

    def _number(self, key):
        return WORD.unpack(hashlib.blake2b(repr(key).encode(), digest_size=WORD.size, key=self._secret).digest())[0]


class Ring:
    """So many events, numbered 1, 2, 3 …; of those before, the newest."""

    def __init__(self, count: int):
        self._count, self._buckets = count, count // 4
        self._events = WORD.size * (1 + self._buckets)         # where they begin
        self._table = mmap.mmap(-1, self._events + EVENT.size * count)      # a page costs memory when it is first used

    def since(self, key: int, after: float) -> list[tuple[float, int]]:
        return [(at, count) for _, its, at, count in self._chain(key, after) if its == key]

    def _chain(self, key, after):
        """The events in a key's bucket, the newest first, until one that is not after a moment."""
        (newest,), (number,) = WORD.unpack_from(self._table), WORD.unpack_from(self._table, self._head(key))
        oldest = max(0, newest - self._count)
        while oldest < number <= newest:
            named, before, its, at, count = EVENT.unpack_from(self._table, self._place(number))
            if named != number or at <= after:
                return
            yield number, its, at, count
            number = min(before, number - 1)           # whatever is there, the chain ends

    def add(self, key: int, moment: float, count: int):
        """Notes an event. One of the same key and moment, if it is there, becomes larger."""
        table = self._table
        for number, its, at, more in self._chain(key, moment - 1e-6):
            if (its, at) == (key, moment):
                return WORD.pack_into(table, self._place(number) + EVENT.size - WORD.size, count + more)
        number, (before,) = WORD.unpack_from(table)[0] + 1, WORD.unpack_from(table, self._head(key))
        EVENT.pack_into(table, self._place(number), number, before, key, moment, count)
        WORD.pack_into(table, self._head(key), number)
        WORD.pack_into(table, 0, number)

    def _head(self, key):
        return WORD.size * (1 + key % self._buckets)

    def _place(self, number):
        return self._events + EVENT.size * (number % self._count)


def again_s(ctx: dict, *limits: Any) -> int:
    """The seconds until there is room again under each (key, count_max, window_s): at least 1, rounded up."""
    return max(1, math.ceil(ctx["biff/limits"].wait_s(*limits)))


def is_allowed(ctx: dict, *limits: Any) -> bool:
    """Counts it and says whether there was room under each (key, count_max, window_s).

    (("post", uid), 10, 10) is ten in ten seconds.
    """
    if is_taken := ctx["biff/limits"].take(*limits):
        return is_taken
    log.info("Refused by a limit: %s", " or ".join(key[0] if type(key) is tuple else key for key, *_ in limits))
    return False


class Turns:
    """Lets requests in one by one, a turn of the loop for each, so that no crowd of them keeps others waiting.

    Networks take turns, and in each the browsers take turns: four hundred requests of one browser hold up only its own.
    """

    def __init__(self) -> None:
        self._networks: collections.OrderedDict[str, collections.OrderedDict] = collections.OrderedDict()
        self._is_turning = False

    async def take(self, network: str, browser: str):
        """Returns when it is this browser's turn, at once if nobody else is waiting."""
        loop = asyncio.get_running_loop()
        if not self._is_turning:
            self._is_turning = True
            loop.call_soon(self._next, loop)
            return
        turn = loop.create_future()
        browsers = self._networks.setdefault(network, collections.OrderedDict())
        browsers.setdefault(browser, collections.deque()).append(turn)
        await turn

    def _next(self, loop):
        while self._networks:
            turn = self._pop()
            if not turn.done():                        # else its browser has gone
                turn.set_result(None)
                break
        else:
            self._is_turning = False
            return
        loop.call_soon(self._next, loop)

    def _pop(self):
        """The next one; its network and its browser go to the end of their lines."""
        network, browsers = self._networks.popitem(last=False)
        browser, turns = browsers.popitem(last=False)
        turn = turns.popleft()
        if turns:
            browsers[browser] = turns
        if browsers:
            self._networks[network] = browsers
        return turn
