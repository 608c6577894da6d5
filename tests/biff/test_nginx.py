"""Behind a real nginx: connections that it keeps and uses again, and sockets."""
import asyncio
import collections
import random
import uuid

import aiohttp
import pytest
from aiohttp import web

import biff
import eelchat
import nginx
from conftest import NEEDS
from people import kept_mails, person, texts      # noqa: F401

POSTS = 1_000


class Together:
    """Requests that wait for each other, so that each of so many is on a connection of its own."""

    def __init__(self, count):
        self.count, self.there, self._all = count, 0, asyncio.Event()

    async def wait(self):
        self.there += 1
        if self.there == self.count:
            self._all.set()
        await self._all.wait()


@pytest.fixture
def between(tmp_path):
    """nginx, not started yet."""
    try:
        nginx.found()
    except LookupError as error:
        pytest.skip(f"{NEEDS}{error}")
    proxy = nginx.Nginx(tmp_path / "nginx")
    yield proxy
    proxy.stop()


@pytest.fixture
async def chat(tmp_path, monkeypatch, between):
    """The chat behind nginx, which is its address; `chat["together"]` holds the answers of /together."""
    for limit in "WRITES_A_PERSON", "READS_A_PERSON":
        monkeypatch.setattr(biff.requests, limit, (10 ** 6, 1))
    monkeypatch.setattr(eelchat, "POSTS_A_PERSON", (10 ** 6, 1))
    mails, together = kept_mails(monkeypatch), Together(POSTS)

    async def wait(ctx):
        await together.wait()
        return biff.redirect(ctx, "/app")

    async def who(ctx):
        return web.Response(text=biff.client_of(ctx))
    routes = [("GET", "/together", biff.anyone, wait), ("GET", "/who", biff.anyone, who)]
    system = await biff.start_system(eelchat.COMPONENTS, eelchat.initial_system(
        {"data": str(tmp_path / "data"), "port": 0, "base_url": between.url, "proxies": "127.0.0.1"})
        | {"biff/plugins": [*eelchat.PLUGINS, {"routes": routes}]})
    system["mails"] = mails
    between.start(system["biff/port"], kept=POSTS)
    yield system
    await biff.stop_system(system)


async def test_posts_on_connections_that_were_idle_for_fifteen_seconds_are_stored(chat, between, person, monkeypatch,
                                                                                 seed, say):  # noqa: F811
    """A proxy keeps its connections to us: if we closed one just as it is used again, the post would fail with 502."""
    ann, dice, answers = await person("ann@example.com"), random.Random(seed), collections.Counter()
    _, channel = await ann.new_channel()
    token, submit_tx, together = await ann.token(channel), biff.submit_tx, Together(POSTS)

    async def held(*args, **options):
        await together.wait()
        return await submit_tx(*args, **options)

    async def post(session):
        await asyncio.sleep(dice.uniform(14, 16))
        fields = {biff.TOKEN_FIELD: token, "text": "still there?", "post": str(uuid.uuid4())}
        async with session.post(between.url + channel, data=fields, headers={"HX-Request": "true"}) as answer:
            answers[answer.status] += 1
    cookie = {"Cookie": f"{biff.cookie_name(chat)}={next(iter(ann.browser.cookie_jar)).value}", "Origin": between.url}
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(connector=connector, headers=cookie, cookie_jar=jar) as session:
        opening = [session.get(between.url + "/together", allow_redirects=False) for _ in range(POSTS)]
        assert {answer.status for answer in await asyncio.gather(*opening)} == {303}
        idle, opened, enter = chat["biff/places"].count, [], chat["biff/places"].enter
        monkeypatch.setattr(chat["biff/places"], "enter", lambda one: (opened.append(one), enter(one)))
        monkeypatch.setattr(biff, "submit_tx", held)
        await asyncio.gather(*(post(session) for _ in range(POSTS)))
    say(f"{POSTS:,} posts on {idle:,} connections of nginx that were idle for 14 to 16 s: {answers[502]} of {POSTS:,} "
        f"answered 502, asked 0; {answers[204]:,} stored, {len(opened)} connections opened anew, asked 0; seed {seed}")
    assert idle >= POSTS and answers == {204: POSTS} and not opened, between.log


async def test_sockets_and_addresses_of_clients_come_through_a_proxy(chat, between, person):      # noqa: F811
    """The configuration that we show would leave every page without a socket, and all people one client."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    socket = await ann.listen(channel)
    await ann.say(channel, "through nginx")
    assert texts((await socket.receive(60)).data) == ["through nginx"]
    await socket.close()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))) as stranger:
        async with stranger.get(between.url + "/who", headers={"X-Forwarded-For": "6.6.6.6"}) as answer:
            assert await answer.text() == "127.0.0.2"
