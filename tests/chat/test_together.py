"""One chat on several servers: people on either see the same, and hardly notice when one of them dies,
or the database does. What two servers are on PostgreSQL, two processes are on a file."""
import asyncio
import re
import contextlib
import copy
import datetime as dt
import random
import time
import uuid

import pytest

import biff
import eelchat
import gate
import postgres
from conftest import Server, free_port
from biff.door import DoorError
from hosts import fixed, host      # noqa: F401
from plugins import digest, feed_reader, feeds, places, unread
from people import Person, found, kept_mails
from store import delete, put
from test_law import LIVE, Window, World, apply, counts, parsed
from test_browser import RECONNECTING, sign_up, texts, until_live, until_texts, write

BUSY = [*RECONNECTING, r"status of 503", r"ERR_CONNECTION_RESET", r"ERR_EMPTY_RESPONSE", r"htmx:error"]


# ── With browsers ──────────────────────────────────────────────────────────────────────────────────────────────

@pytest.fixture
def serve(tmp_path):
    """`serve(log_url)` starts another server of the chat, as a process, with a data folder of its own."""
    with contextlib.ExitStack() as running:
        def start(log_url):
            made = Server(tmp_path / f"data{len(list(tmp_path.glob('data*')))}", ["--log", log_url])
            running.callback(made.kill)
            return made.start()
        yield start


async def ann_and_bob(window, one, two):
    """Ann on one server, Bob on another, both in one channel; its path."""
    ann, bob = await window(allow=BUSY), await window(allow=BUSY)
    await sign_up(ann, one, "ann@example.com")
    await found(ann)
    channel = ann.url.removeprefix(one.url)
    await sign_up(bob, two, "bob@example.com")
    await ann.click("#invite")
    await ann.click("text=Make a link")
    link = await ann.input_value(".invitation input")
    await bob.goto(link.replace(one.url, two.url))
    await bob.click("text=Join")
    await bob.wait_for_url("**/channel/*")
    await ann.goto(one.url + channel)
    await until_live(ann), await until_live(bob)
    return ann, bob, channel


async def test_two_servers_one_conversation_though_one_is_killed(serve, window, log_url, say):
    """Without this, scaling out would split a community in two, and a crash would cost what was said meanwhile."""
    one, two = serve(log_url), serve(log_url)
    ann, bob, channel = await ann_and_bob(window, one, two)
    await write(ann, "from the one"), await until_texts(bob, ["from the one"])
    await write(bob, "from the other"), await until_texts(ann, ["from the one", "from the other"])
    for number in range(6):
        await asyncio.gather(write(ann, f"ann {number}"), write(bob, f"bob {number}"))
    said = ["from the one", "from the other", *(f"{name} {number}" for number in range(6) for name in ("ann", "bob"))]
    for page in ann, bob:
        await page.wait_for_function("count => document.querySelectorAll('#messages .message').length === count",
                                     arg=len(said))
    assert await texts(ann) == await texts(bob), "once, and in the same order"
    assert sorted(await texts(ann)) == sorted(said), "once, and in the same order"
    with contextlib.closing(gate.Gate(one.port, two.port)) as balancer:
        await ann.goto(f"http://127.0.0.1:{balancer.port}{channel}")
        await until_live(ann)
        one.kill()
        killed = time.monotonic()
        await write(bob, "while she was away")
        said = [*await texts(ann),
                "while she was away"] if "while she was away" not in await texts(ann) else await texts(ann)
        await until_texts(ann, said)
        await until_live(ann)
        back = time.monotonic() - killed
        await write(ann, "on the other server now")
        for page in ann, bob:
            await until_texts(page, [*said, "on the other server now"])
    say(f"{len(said) + 1} messages of two people on two servers: each once on both screens, in one order, with one "
        f"server killed; back after {back:.1f} s")


async def test_while_postgres_is_away_people_read_are_told_and_lose_no_text(serve, window, say):
    """Without this, a database that restarts would take the chat with it, and what was being written."""
    with postgres.Postgres() as cluster:
        one, two = serve(cluster.url), serve(cluster.url)
        ann, bob, channel = await ann_and_bob(window, one, two)
        await write(ann, "before"), await until_texts(bob, ["before"])
        cluster.crash()
        for page in ann, bob:
            await page.wait_for_selector("#waiting:visible")
        sent = time.monotonic()
        await write(ann, "kept in her list")
        await ann.wait_for_selector("#failure:visible")
        told = time.monotonic() - sent
        assert "sending waits" in await ann.text_content("#failure")
        assert await texts(ann) == ["before", "kept in her list"]
        await bob.reload()
        await until_texts(bob, ["before"])                       # reading goes on
        await bob.wait_for_selector("#waiting:visible")          # a new connection hides it until it is told
        cluster.start()
        for page in ann, bob:
            await page.wait_for_selector("#waiting", state="hidden")
            await until_live(page)
        await ann.click(".message.failed >> text=Retry")
        await write(bob, "there again")
        await bob.wait_for_function("() => document.querySelectorAll('#messages .message').length === 3")
        said = await texts(bob)
        await until_texts(ann, said)
        assert sorted(said) == ["before", "kept in her list", "there again"]
    say(f"PostgreSQL away: both pages said so, the text was said to wait after {told:.1f} s (asked 5), and went out "
        "once when it was back")


async def test_the_word_that_a_server_is_cut_off_goes_when_both_were_restarted(serve, window):
    """Without this, a page would warn for days of a server that is long gone, or of a database that is long back."""
    with postgres.Postgres() as cluster:
        one, two = serve(cluster.url), serve(cluster.url)
        ann, bob, channel = await ann_and_bob(window, one, two)
        with contextlib.closing(gate.Gate(one.port, two.port)) as balancer:
            await bob.goto(f"http://127.0.0.1:{balancer.port}{channel}")
            await until_live(bob)
            cluster.crash()
            for page in ann, bob:
                await page.wait_for_selector("#waiting:visible")
            one.kill()
            await ann.wait_for_selector("#messages:not([data-live])", state="attached")
            await until_live(bob)                              # on the other server, which is cut off as well
            await bob.wait_for_selector("#waiting:visible")
            cluster.start()
            one.start()
            for page in ann, bob:
                await page.wait_for_selector("#waiting", state="hidden", timeout=30_000)
                await until_live(page)
                await page.wait_for_selector("#connection", state="hidden")
            await write(ann, "all of it is back"), await until_texts(bob, ["all of it is back"])


# ── Without ────────────────────────────────────────────────────────────────────────────────────────────────────

@pytest.fixture(params=["postgres"])
async def together(request, tmp_path, monkeypatch):
    """Two servers of the chat in this loop, on one log, in PostgreSQL or in a file;
    `await together.person(address)` is somebody who is signed in on both."""
    mails, people = kept_mails(monkeypatch), []
    log_url = None if request.param == "file" else request.getfixturevalue("log_url")
    request.getfixturevalue("patient")

    class Together(list):
        async def person(self, email):
            here = Person(self[0])
            people.append(here)
            await here.sign_in(email)
            there = Person(self[1])
            await there.browser.close()
            there.browser = here.browser              # cookies do not tell ports apart
            await caught_up(self)
            return here, there

        async def start(self, number, port):
            given = {"data": str(tmp_path / f"data{number}"), "log": log_url} if log_url else {"data": str(tmp_path)}
            given["port"] = port
            return await biff.start_system(eelchat.COMPONENTS, eelchat.initial_system(given) | {"mails": mails})

        async def restart(self, number):
            port = self[number]["biff/port"]
            await biff.stop_system(self[number])
            self[number] = await self.start(number, port)
    systems = Together()
    for number in range(2):
        systems.append(await systems.start(number, free_port()))         # it may come back on it
    yield systems
    for one in people:
        await one.browser.close()
    for system in systems:
        await biff.stop_system(system)


async def caught_up(systems):
    newest = max(system["biff/node"].status()["tx_id"] for system in systems)
    for system in systems:
        await asyncio.to_thread(system["biff/node"].await_tx, newest, 60)


def messages_in(system):
    return system["biff/node"].db().q({"find": ["?id", "?text"], "where": [["?id", "msg/text", "?text"]]})


async def test_a_post_sent_many_times_to_both_servers_is_one_message(together, size, seed, say):
    """Without this, a phone on a bad network would say everything twice."""
    here, there = await together.person("ann@example.com")
    _, channel = await here.new_channel()
    await caught_up(together)
    posts, choose = size(25, 2_000), random.Random(seed)
    for number in range(posts):
        post = uuid.uuid4()
        sent = [choose.choice([here, there]).say(channel, f"post {number}", post) for _ in range(choose.randint(1, 5))]
        assert {answer.status for answer in await asyncio.gather(*sent)} <= {204, 429}
        together[0]["biff/limits"]._times.clear(), together[1]["biff/limits"]._times.clear()
    await caught_up(together)
    for system in together:
        assert sorted(text for _, text in messages_in(system)) == sorted(f"post {number}" for number in range(posts))
    say(f"{posts} posts, each sent 1 to 5 times to two servers: {posts} messages (asked 2,000 of 2,000); seed {seed}")


async def test_a_sign_in_link_makes_one_session_and_signing_out_ends_it_on_both(together, say):
    """Without this, a link could be used on each server, and a session would outlive its end."""
    here, there = await together.person("ann@example.com")
    await here.post("/auth/signout", page="/app")
    await caught_up(together)
    assert (await there.get("/app")).url.path == "/signin", "signed out there too"
    await here.post("/auth/send-link", {"email": "ann@example.com"}, "/")
    await caught_up(together)
    token, form = here.last_token(), await here.token("/signin")
    fields = {"__anti-forgery-token": form, "token": token}
    redeemed = await asyncio.gather(*(one.browser.post(f"{one.base}/auth/verify-link", data=fields,
                                                       headers={"Origin": one.base}, allow_redirects=False)
                                      for one in [here, there] * 6))
    won = [answer for answer in redeemed if answer.headers["Location"] == "/app"]
    await caught_up(together)
    sessions = {"find": "?s", "where": [["?s", "session/hash"]]}
    counts = [len(system["biff/node"].db().q(sessions)) for system in together]
    assert len(won) == 1 and counts == [1, 1]
    say(f"{len(redeemed)} redemptions at once on two servers: {len(won)} session (asked: 1 of 50)")


async def test_who_leaves_on_one_server_hears_no_more_on_the_other(together, say):
    """Without this, a person who was put out would read on where they happened to be connected."""
    here, there = await together.person("ann@example.com")
    _, channel = await here.new_channel()
    await caught_up(together)
    mem, = together[0]["biff/node"].db().q({"find": "?mem", "where": [["?mem", "mem/user"]]})
    socket = await there.listen(channel)
    await here.say(channel, "heard")
    assert "heard" in (await asyncio.wait_for(socket.receive(), 60)).data
    begun = time.monotonic()
    await together[0]["biff/node"].submit([delete(mem)])
    told = [message async for message in socket]
    took = time.monotonic() - begun
    assert "no longer a member" in told[-1].data and socket.close_code == 1008 and took < 10
    say(f"closed on the other server after {took:.2f} s (asked 1)")


async def test_slow_mode_and_a_digest_count_for_both_servers_together(together, monkeypatch, say):
    """Who posts on two servers would post twice as often, and everybody would get each digest from each server."""
    (ann, _), (bob, bob_there), node = await together.person("ann@example.com"), await together.person(
        "bob@example.com"), together[0]["biff/node"]
    community, channel = await ann.new_channel()
    await bob.join(community)
    await ann.post(f"{channel}/title", {"title": "general", "slow": "30"}, channel)
    await bob.post("/digest", {"every": "day"}, "/name")
    await caught_up(together)
    posted = await asyncio.gather(bob.say(channel, "here"), bob_there.say(channel, "there"))
    assert sorted(answer.status for answer in posted) == [204, 429]
    await ann.say(channel, "one of the two")
    wants, = biff.q(node.db(), {"find": ("pull", "?d", ["*"]), "where": [["?d", "digest/at"]]})
    await node.submit([put(wants | {"digest/at": biff.now(together[0]) - dt.timedelta(days=1, minutes=1)})])
    await caught_up(together)
    sent = []

    async def keep(ctx, to, *rest):
        sent.append(to)
    monkeypatch.setattr(biff, "send_mail", keep)
    await asyncio.gather(*(digest.send_due(biff.assoc_db(system)) for system in together))
    assert sent == ["bob@example.com"]
    say(f"of two posts at once on two servers {len(posted) - 1} stored; {len(sent)} mail from two servers; asked 1, 1")


@pytest.mark.parametrize("together", ["postgres", "file"], indirect=True)
async def test_a_feed_is_fetched_once_for_both_servers(together, host, monkeypatch):      # noqa: F811
    """Without this, ten servers would ask each feed ten times, and post what they find ten times."""
    asked = []

    async def fetch(door, url, known, agent):
        asked.append(url)
        await asyncio.sleep(0.05)
        raise DoorError("nothing there today")
    monkeypatch.setattr(feed_reader, "fetch", fetch)
    for system in together:
        system["door"] = host.door
    here, _ = await together.person("ann@example.com")
    _, channel = await here.new_channel()
    await caught_up(together)
    for number in range(3):
        await here.say(channel, f"/subscribe {host.url}/{number}")
    async with asyncio.timeout(60):
        while len(asked) < 3:
            await asyncio.sleep(0.01)
    await caught_up(together)
    for _ in range(3):                                             # the timers of both, at the same moment
        await asyncio.gather(*(feeds.fetch_rss(biff.assoc_db(system)) for system in together))
        for system in together:
            await system["biff/queues"]["fetch-rss"].join()
    assert sorted(asked) == [f"{host.url}/{number}" for number in range(3)]


@pytest.mark.parametrize("together", ["postgres", "file"], indirect=True)
async def test_messages_read_on_one_server_are_read_on_the_other(together, say):
    """A phone on another server would call for ten minutes for what one has read at the desk."""
    (ann, _), (here, there) = await together.person("ann@example.com"), await together.person("bob@example.com")
    _, channel = await ann.new_channel()
    await caught_up(together)
    await here.join(channel.partition("/channel")[0])
    for n in range(3):
        await ann.say(channel, f"{n}")
    await caught_up(together)
    text, before = (await there.get(channel)).body_text, together[0]["biff/node"].db().tx_id
    page, ids = parsed(text), re.findall(r'<article class="message[^"]*" id="message-([\w-]+)"', text)
    socket = await there.listen(channel)
    assert list(counts(page).values()) == [3]
    said = [str(unread.said_in(together[0]["biff/node"].db(), uuid.UUID(id))) for id in ids]
    for what, left in ({"upto": said[1]}, [1]), ({"upto": said[2], "page": "a", "stays": "1"}, []), (None, [2]):
        begun, path = time.monotonic(), f"{channel}/read" if what else f"{channel}/message/{ids[1]}/unread"
        await here.post(path, what or {}, channel, {"HX-Request": "true"})
        async with asyncio.timeout(60):
            while list(counts(page).values()) != left:
                apply(page, await socket.receive_str())
        took = time.monotonic() - begun
        assert list(counts(parsed((await there.get(channel)).body_text)).values()) == left, "a page that is loaded, too"
        assert bool(together[1]["chat_positions"].followed) == bool(what and "stays" in what)
    assert together[1]["biff/node"].db().tx_id == before and not together[1]["chat_positions"].moved
    await unread.put_positions(biff.assoc_db(together[0]), all=True)
    await caught_up(together)
    async with asyncio.timeout(60):
        while together[1]["chat_positions"].heard:
            await asyncio.sleep(0.01)
    assert list(counts(parsed((await there.get(channel)).body_text)).values()) == [2]
    say(f"marks on another server followed after {took * 1000:.0f} ms (asked 1,000), and nothing was written")
    await socket.close()


@pytest.mark.parametrize("together", ["postgres", "file"], indirect=True)
async def test_the_law_holds_for_pages_of_two_servers(together, monkeypatch, seed, say):
    """Without this, people on two servers would see two conversations, and nobody would know."""
    monkeypatch.setattr(places, "PAGE_MESSAGES", 100_000)
    monkeypatch.setattr(unread, "COUNT_MAX", 1_000)
    here, there = await together.person("ann@example.com")
    world = World(None, None, random.Random(seed))
    world.chat, world.node, world.ann = together[0], together[0]["biff/node"], here
    world.start = lambda: asyncio.sleep(0)
    monkeypatch.setattr(Person, "sign_in", lambda self, email: asyncio.sleep(0))
    monkeypatch.setattr("test_law.Person", lambda system: here)
    await world.begin()
    await caught_up(together)
    other = copy.copy(world)
    other.ann, windows = there, []
    for one in world, other:
        windows += [Window(one, place) for place in [*world.channels, world.community, world.user]]
    for window in windows:
        await window.load()
        await window.connect()
    for step in range(40):
        if step == 20:
            await together.restart(1)
            other.chat = there.chat = together[1]
        if step in (6, 28):                            # for some steps nobody listens on one of them
            for window in windows:
                if window.world is world.random.choice([other, other, world]):
                    await window.cut()
        if world.random.random() < 0.3:
            await world.random.choice(windows).connect()
        if world.random.random() < 0.1:
            await world.random.choice([world, other]).ban()
        node = world.random.choice(together)["biff/node"]
        await asyncio.gather(*(node.submit(world.operations()) for _ in range(world.random.choice([1, 1, 4]))))
    end = {"xt/id": world.community, "comm/title": f"The end {world.random.random()}"}
    await world.node.submit([put(end)])
    await caught_up(together)
    for window in windows:
        if window.socket is None or window.reading.done():
            await window.connect()
        await window.until(end["comm/title"])
    for window in windows:
        for one in world, other:
            fresh = Window(one, window.channel_id)
            await fresh.load()
            assert counts(window.page) == counts(fresh.page)
            for id in LIVE:
                assert window.shown(id) == fresh.shown(id), f"{id} at {world.path(window.channel_id)}"
        await window.cut()
    say(f"{len(windows)} pages of two servers after 40 steps and a restart of one, byte for byte as loaded anew from "
        "either; asked all")


@pytest.mark.parametrize("together", ["file"], indirect=True)
async def test_what_nobody_on_a_server_sees_costs_it_no_look_and_no_rendering(together):
    """Each message would cost each worker as much as the one that tells it, and workers would gain nothing."""
    here, there = await together.person("ann@example.com")
    _, channel = await here.new_channel()
    _, elsewhere = await here.new_channel()
    await caught_up(together)
    after = parsed((await there.get(channel)).body_text).by_id("cursor").attributes["value"]
    near, far = await here.listen(channel), await there.listen(elsewhere)
    await here.say(channel, "said here")
    assert "said here" in await asyncio.wait_for(near.receive_str(), 60)
    newest = together[0]["biff/node"].db().tx_id
    async with asyncio.timeout(60):
        while together[1]["chat_lately"].high < newest:
            await asyncio.sleep(0.01)
    changes = [system["chat_lately"].hear(newest, None) for system in together]
    assert [(bool(one._later), bool(one._frames)) for one in changes] == [(False, True), (True, False)]
    assert "said here" in await (come := await there.listen(channel, after)).receive_str(), "it is made for who comes"
    for socket in near, far, come:
        await socket.close()


async def test_a_server_without_postgres_does_not_start_and_says_why(tmp_path):
    """Without this, an operator would look for a typing mistake in a trace."""
    given = {"data": str(tmp_path), "port": 0, "log": "postgresql://me:hush-hush@127.0.0.1:1/none"}
    with pytest.raises(biff.StartError, match="cannot be opened") as refused:
        await biff.start_system(eelchat.COMPONENTS, eelchat.initial_system(given))
    assert "hush-hush" not in str(refused.value)
    with pytest.raises(biff.StartError, match="begins with postgresql://") as refused:
        await biff.start_system(eelchat.COMPONENTS, eelchat.initial_system(given | {"log": "mysql://me:hush-hush@db"}))
    assert "hush-hush" not in str(refused.value)


@pytest.mark.parametrize("password", ["hu%sh", "hush%", "hu@sh", "hu/sh", "hu?sh", "hu sh", "hush%zz", "@hush",
                                      "hush:@#"])
async def test_a_password_of_odd_characters_is_not_shown_either(tmp_path, password):
    """Without this, a password that the address misquotes would stand in the terminal and in logs."""
    given = {"data": str(tmp_path), "port": 0, "log": f"postgresql://me:{password}@127.0.0.1:1/none?connect_timeout=1"}
    with pytest.raises(biff.StartError) as refused:
        await biff.start_system(eelchat.COMPONENTS, eelchat.initial_system(given))
    assert not re.search("hu|sh|zz", str(refused.value)), str(refused.value)
