# SPDX-License-Identifier: MIT
"""Rate limits: how often a person, a client or an address did something lately, and who a client is."""

import ipaddress
import logging
import time
from typing import Any

log = logging.getLogger("biff")

LIMIT_KEYS_MAX = 100_000              # remembered for rate limits, about 30 MB; then those that are over are forgotten


def client_of(ctx: dict) -> str:
    """Who asks, as far as rate limits care: an IPv4 address, or the /64 that an IPv6 household has.

    X-Forwarded-For is believed from the right, and only as long as its words come from proxies named at start.
    """
    request, proxies = ctx["request"], ctx["biff/config"]["proxies"]
    hops = [part.strip() for line in request.headers.getall("X-Forwarded-For", ()) for part in line.split(",")]
    address = request.remote or "local"
    while hops and _is_in(address, proxies):
        address = hops.pop()
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    return str(parsed if parsed.version == 4 else ipaddress.ip_network((parsed, 64), strict=False))


def _is_in(address, networks):
    try:
        return any(ipaddress.ip_address(address) in network for network in networks)
    except ValueError:
        return False


class Limits:
    """How often something happened lately, in memory: counters do not belong in a log that keeps everything."""

    def __init__(self, clock=time.monotonic):
        self._clock, self._times = clock, {}

    def take(self, *limits) -> bool:
        """Counts it under every (key, count_max, window_s) if none is used up; else counts nothing and returns False."""
        moment = self._clock()
        if len(self._times) > LIMIT_KEYS_MAX:
            self._times = {key: kept for key, kept in self._times.items() if kept[-1][0] + kept[-1][1] > moment}
        taken = [[kept for kept in self._times.get(key, ()) if kept[0] + window_s > moment] for key, _, window_s in limits]
        if any(len(times) >= count_max for times, (_, count_max, _) in zip(taken, limits)):
            return False
        for times, (key, _, window_s) in zip(taken, limits):
            self._times[key] = [*times, (moment, window_s)]
        return True


def is_allowed(ctx: dict, *limits: Any) -> bool:
    """Whether each (key, count_max, window_s) has room, and then counts it: (("post", uid), 10, 10) is ten in ten seconds."""
    if is_taken := ctx["biff/limits"].take(*limits):
        return is_taken
    log.info("Refused by a limit: %s", " or ".join(key[0] if type(key) is tuple else key for key, _, _ in limits))
    return False
