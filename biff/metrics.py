# SPDX-License-Identifier: MIT
"""Figures for operators, in the Prometheus text format, on a loopback port of their own.

    metrics = Metrics("eelchat")
    metrics.gauge("sockets", "Open sockets.", lambda: rooms.count)
    commits = metrics.histogram("commit_seconds", "From a submitted transaction to its acknowledgement.")
    commits.observe(0.0004)
    runner = await serve(metrics, port=9100)            # http://127.0.0.1:9100/metrics

A gauge or counter is read where it is kept, and only when somebody asks. The figures of the process (memory, CPU, open
files) come from the library.
"""

import asyncio
from typing import Callable

import prometheus_client
from aiohttp import web
from prometheus_client.core import CounterMetricFamily

HOST = "127.0.0.1"                    # never among the public routes: figures tell strangers when nobody looks
NAMES = frozenset({"127.0.0.1", "localhost"})     # of that host, as a request may write it
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
TICK_S = 0.1                          # how often the loop's lag is measured

prometheus_client.disable_created_metrics()       # a time of birth for each figure would double the page


class Metrics:
    """Named figures, told in the order in which they were named."""

    def __init__(self, prefix: str):
        self._prefix, self._registry = prefix, prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self._registry)

    def gauge(self, name: str, help: str, read: Callable[[], float]):
        prometheus_client.Gauge(f"{self._prefix}_{name}", help, registry=self._registry).set_function(read)

    def counter(self, name: str, help: str, read: Callable[[], int]):
        self._registry.register(_Counter(f"{self._prefix}_{name}", help, read))

    def histogram(self, name: str, help: str) -> prometheus_client.Histogram:
        return prometheus_client.Histogram(f"{self._prefix}_{name}", help, buckets=SECONDS, registry=self._registry)

    def text(self) -> str:
        return prometheus_client.generate_latest(self._registry).decode()


class _Counter:
    """A counter that is kept elsewhere: the library's own can only count by itself."""

    def __init__(self, name, help, read):
        self._name, self._help, self._read = name, help, read

    def describe(self):
        return [CounterMetricFamily(self._name, self._help)]

    def collect(self):
        return [CounterMetricFamily(self._name, self._help, value=self._read())]


async def watch_loop(lag: prometheus_client.Histogram):
    """Notes, for ever, how late the event loop is for what was due."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + TICK_S
        await asyncio.sleep(TICK_S)
        lag.observe(max(0.0, loop.time() - due))


async def serve(metrics: Metrics, port: int) -> web.AppRunner:
    """Answers GET /metrics on loopback, and nothing else. Raises: OSError if the port is taken."""
    async def answer(request):
        if request.url.host not in NAMES:         # a page elsewhere whose name was bound to this machine
            raise web.HTTPForbidden(text="The figures are told to this machine only.\n")
        return web.Response(text=metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
    app = web.Application()
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, HOST, port).start()
    return runner
