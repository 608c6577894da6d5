"""Somebody else's server, on this machine, and a door that leads to it and to nothing else."""
import contextlib
import types

import pytest
from aiohttp import web

from biff.door import Door


class Host:
    """`host.pages["/feed"]` is a body, an (answer's) status, or a function of the request;
    `host.asked` has each request."""

    def __init__(self):
        self.pages, self.asked = {}, []

    async def answer(self, request):
        self.asked.append(request)
        page = self.pages.get(request.path, 404)
        page = page(request) if callable(page) else page
        if isinstance(page, web.StreamResponse):
            return page
        return web.Response(status=page) if isinstance(page,
                                                       int) else web.Response(body=page, content_type="application/xml")

    @contextlib.asynccontextmanager
    async def open(self):
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        self.url, self.door = f"http://127.0.0.1:{self.port}", Door(is_allowed=lambda ip: ip == "127.0.0.1",
                                                                    ports={self.port})
        yield self
        await runner.cleanup()


@pytest.fixture
async def host():
    async with Host().open() as one:
        yield one


def rss(*entries):
    """An RSS document, newest entry first, from entries oldest first: ids, or (id, title)."""
    pairs = [entry if isinstance(entry, tuple) else (entry, f"Entry {entry}") for entry in entries]
    items = "".join(f"<item><guid isPermaLink='false'>{id}</guid><title>{title}</title></item>"
                    for id, title in reversed(pairs))
    return f"<?xml version='1.0'?><rss version='2.0'><channel><title>Eels</title>{items}</channel></rss>".encode()


def fixed(**names):
    """A resolver that knows these names only, each with a list of addresses; the last is given again and again."""
    def info(host, address, port):
        return {"hostname": host, "host": address, "port": port, "family": 10 if ":" in address else 2, "proto": 6,
                "flags": 4}

    async def resolve(host, port=0, family=0):
        answers = names[host.replace(".", "_")]
        return [info(host, answers.pop(0) if len(answers) > 1 else answers[0], port)]

    async def close():
        pass
    return types.SimpleNamespace(resolve=resolve, close=close)
