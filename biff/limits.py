# SPDX-License-Identifier: MIT
"""Rate limits: how often a person, a client or a mail address did something lately, who a client is, and whose turn
it is.
"""

import asyncio
import collections
import ipaddress
import logging
import math
import re
import time
from typing import Any, Iterable

log = logging.getLogger("biff")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
LIMIT_KEYS_MAX = 100_000              # remembered for rate limits, about 30 MB; then those that are over are forgotten


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
    """Counts recent events, in memory: counters do not belong in a log that keeps everything."""

    def __init__(self, clock=time.monotonic):
        self._clock, self._times = clock, {}

    def take(self, *limits) -> bool:
        """Counts it under every (key, count_max, window_s), or, if one is used up, under none and returns False."""
        moment = self._clock()
        if len(self._times) > LIMIT_KEYS_MAX:
            self._times = {key: kept for key, kept in self._times.items() if kept[-1][0] + kept[-1][1] > moment}
        taken = [[kept for kept in self._times.get(key, ()) if kept[0] + window_s > moment]
                 for key, _, window_s in limits]
        if any(len(times) >= count_max for times, (_, count_max, _) in zip(taken, limits)):
            return False
        for times, (key, _, window_s) in zip(taken, limits):
            self._times[key] = [*times, (moment, window_s)]
        return True

    def wait_s(self, *limits) -> float:
        """The seconds until there is room under every (key, count_max, window_s), 0 if there is."""
        moment, ends = self._clock(), [0.0]
        for key, count_max, _ in limits:
            over = sorted((at + window_s - moment for at, window_s in self._times.get(key, ())), reverse=True)
            ends += over[count_max - 1:count_max]
        return max(ends)


def again_s(ctx: dict, *limits: Any) -> int:
    """The seconds until there is room again under each (key, count_max, window_s): at least 1, rounded up."""
    return max(1, math.ceil(ctx["biff/limits"].wait_s(*limits)))


def is_allowed(ctx: dict, *limits: Any) -> bool:
    """Counts it and says whether there was room under each (key, count_max, window_s).

    (("post", uid), 10, 10) is ten in ten seconds.
    """
    if is_taken := ctx["biff/limits"].take(*limits):
        return is_taken
    log.info("Refused by a limit: %s", " or ".join(key[0] if type(key) is tuple else key for key, _, _ in limits))
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
