# SPDX-License-Identifier: MIT
"""Figures for operators, in the Prometheus text format, on a loopback port of their own.

    metrics = Metrics("eelchat")
    metrics.gauge("sockets", "Open sockets.", lambda: rooms.count)
    commits = metrics.histogram("commit_seconds", "From a submitted transaction to its acknowledgement.")
    commits.observe(0.0004)
    runner = await serve(metrics, port=9100)            # http://127.0.0.1:9100/metrics

A figure is read where it is kept, and only when somebody asks. Source: Prometheus text exposition format 0.0.4.
"""

import asyncio
import bisect
from typing import Callable

from aiohttp import web

HOST = "127.0.0.1"                    # never among the public routes: figures tell strangers when nobody looks
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
TICK_S = 0.1                          # how often the loop's lag is measured


class Histogram:
    """How many observations were at most each bound, and their sum."""

    def __init__(self, bounds=SECONDS):
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float):
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name):
        total = 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self.sum:.6f}"
        yield f"{name}_count {total}"


class Metrics:
    """Named figures, told in the order in which they were named."""

    def __init__(self, prefix: str):
        self._prefix = prefix
        self._figures: dict = {}

    def gauge(self, name: str, help: str, read: Callable[[], float]):
        self._add("gauge", name, help, lambda full: [f"{full} {read()}"])

    def counter(self, name: str, help: str, read: Callable[[], int]):
        self._add("counter", name, help, lambda full: [f"{full} {read()}"])

    def histogram(self, name: str, help: str) -> Histogram:
        made = Histogram()
        self._add("histogram", name, help, made.lines)
        return made

    def _add(self, kind, name, help, lines):
        self._figures[name] = kind, help, lines

    def text(self) -> str:
        told = []
        for name, (kind, help, lines) in self._figures.items():
            full = f"{self._prefix}_{name}"
            told += [f"# HELP {full} {help}", f"# TYPE {full} {kind}", *lines(full)]
        return "\n".join(told) + "\n"


async def watch_loop(lag: Histogram):
    """Notes, for ever, how late the event loop is for what was due."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + TICK_S
        await asyncio.sleep(TICK_S)
        lag.observe(max(0.0, loop.time() - due))


async def serve(metrics: Metrics, port: int) -> web.AppRunner:
    """Answers GET /metrics on loopback, and nothing else. Raises: OSError if the port is taken."""
    async def answer(request):
        return web.Response(text=metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
    app = web.Application()
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, HOST, port).start()
    return runner
