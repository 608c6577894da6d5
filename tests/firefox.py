"""A real Firefox without a driver: it speaks WebDriver BiDi itself. Source: W3C, WebDriver BiDi."""
import asyncio
import itertools
import json
import os
import shutil
import tempfile

import aiohttp

from conftest import free_port

START_S_MAX = 60
ANSWER_S_MAX = 60


def found():
    """The path of Firefox. Raises LookupError."""
    if path := os.environ.get("FIREFOX") or shutil.which("firefox-esr") or shutil.which("firefox"):
        return path
    raise LookupError("firefox: not on PATH")


class Firefox:
    """`async with Firefox() as page`: one window, and what is asked of it."""

    async def __aenter__(self):
        self._home, port = tempfile.mkdtemp(prefix="firefox-"), free_port()
        self._process = await asyncio.create_subprocess_exec(
            found(), "--headless", "--no-remote", "--profile", self._home, f"--remote-debugging-port={port}",
            env=os.environ | {"HOME": self._home, "MOZ_DISABLE_CONTENT_SANDBOX": "1"},
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL)
        self._session, self._ids = aiohttp.ClientSession(), itertools.count(1)
        self._wire = await self._connected(port)
        await self._ask("session.new", capabilities={})
        tree = await self._ask("browsingContext.getTree")
        self._context = tree["contexts"][0]["context"]
        return self

    async def _connected(self, port):
        async with asyncio.timeout(START_S_MAX):
            while True:
                try:
                    return await self._session.ws_connect(f"ws://127.0.0.1:{port}/session", max_msg_size=0)
                except aiohttp.ClientError:
                    await asyncio.sleep(0.1)

    async def __aexit__(self, *_):
        await self._session.close()
        self._process.terminate()
        await self._process.wait()
        shutil.rmtree(self._home, ignore_errors=True)

    async def _ask(self, method, **params):
        id = next(self._ids)
        await self._wire.send_json({"id": id, "method": method, "params": params})
        async with asyncio.timeout(ANSWER_S_MAX):
            while (answer := await self._wire.receive_json()).get("id") != id:
                pass
        assert answer["type"] == "success", answer
        return answer["result"]

    async def set_cookie(self, name, value):
        await self._ask("storage.setCookie", cookie={"name": name, "value": {"type": "string", "value": value},
                                                     "domain": "127.0.0.1"})

    async def goto(self, url):
        await self._ask("browsingContext.navigate", context=self._context, url=url, wait="complete")

    async def evaluate(self, expression):
        """The value of an expression in the page, through JSON."""
        given = await self._ask("script.evaluate", expression=f"JSON.stringify({expression})", awaitPromise=True,
                                target={"context": self._context})
        assert given["type"] == "success", given
        return json.loads(given["result"].get("value", "null"))

    async def until(self, expression, timeout_s=20):
        async with asyncio.timeout(timeout_s):
            while not await self.evaluate(expression):
                await asyncio.sleep(0.05)
