"""Presence: people who are here and who type, on one server and on two; none of it is stored, and each can hide."""
import asyncio
import re

import pytest

import biff
from biff import sockets
from people import chat, person      # noqa: F401
from plugins import presence
from test_browser import two_in_a_channel
from test_chat import id_of
from test_law import apply, parsed
from test_together import caught_up, together      # noqa: F401


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """News is gathered for a moment, not for a second. Nobody's presence ends while a busy machine waits for it."""
    monkeypatch.setattr(presence, "GATHER_S", 0.01)
    monkeypatch.setattr(presence, "GRACE_S", 600)
    monkeypatch.setattr(presence, "TYPING_S", 600)


class Page:
    """A page as it was loaded, and what its socket brings since."""

    @classmethod
    async def open(cls, one, path):
        self = cls()
        self.one, self.path = one, path
        self.page = parsed((await one.get(path)).body_text)
        place = path.removesuffix("/members").removesuffix("/app")
        self.socket = await one.listen(place, self.page.by_id("cursor").attributes["value"], self.marks())
        return self

    def marks(self):
        return "-".join(self.page.by_id(id).attributes["data-mark"] for id in ("online", "typing"))

    def online(self):
        return set(self.page.by_id("online").attributes["data-mems"].split())

    def typing(self):
        return re.findall(r">([^<]+)</b>", str(self.page.by_id("typing")))

    async def until(self, is_so):
        """Shows what comes until something is so, and the page is what a fresh one shows."""
        async with asyncio.timeout(60):
            while not is_so() or self.online() != await self.fresh():
                apply(self.page, await self.socket.receive_str())

    async def fresh(self):
        page = parsed((await self.one.get(self.path)).body_text)
        return set(page.by_id("online").attributes["data-mems"].split())


def mem_of(system, community, email):
    db = system["biff/node"].db()
    return biff.lookup(db, "mem/user", biff.lookup_id(db, "user/email", email), "mem/comm", id_of(community))


@pytest.fixture
async def pair(chat, person):      # noqa: F811
    """Ann and Bob with names, in one community and in a direct message."""
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    for one, name in (ann, "Ann"), (bob, "Bob"):
        await one.post("/name", {"name": name}, "/app")
    community, channel = await ann.new_channel()
    await bob.join(community)
    ann.mem, bob.mem = [str(mem_of(chat, community, one)["xt/id"])
                        for one in ("ann@example.com", "bob@example.com")]
    direct = (await ann.post(f"{community}/direct", {f"with-{bob.mem}": "on"}, f"{community}/direct")).url.path
    return ann, bob, community, channel, direct


async def test_people_with_an_open_page_are_here_for_those_who_share_it(pair, monkeypatch):
    """One would write to somebody and wonder for an hour whether they are there."""
    monkeypatch.setattr(presence, "GRACE_S", 0.05)
    ann, bob, community, channel, direct = pair
    pages = [await Page.open(ann, path) for path in (channel, direct, f"{community}", f"{community}/members")]
    assert not any(bob.mem in page.online() for page in pages)
    hers = await Page.open(bob, channel)
    for page in pages:
        await page.until(lambda: bob.mem in page.online())
    await hers.socket.close()
    for page in pages:
        await page.until(lambda: bob.mem not in page.online())
        await page.socket.close()


async def test_of_a_crowd_a_page_tells_of_those_whom_one_talks_to(pair, monkeypatch):
    """A page of two thousand members would carry two thousand ids, each time that somebody comes."""
    ann, bob, community, channel, direct = pair
    monkeypatch.setattr(presence, "ONLINE_MAX", 1)
    members = await Page.open(ann, f"{community}/members")
    here = await Page.open(bob, channel)
    await members.until(lambda: members.online() == {bob.mem})
    monkeypatch.setattr(presence, "ONLINE_MAX", 2)
    assert await members.fresh() == {ann.mem, bob.mem}
    await members.socket.close(), await here.socket.close()


async def test_a_page_that_is_reloaded_does_not_blink(chat, pair):
    """Each click on another channel would put one's dot out for everybody."""
    ann, bob, community, channel, direct = pair
    mine, hers = await Page.open(ann, direct), await Page.open(bob, channel)
    await mine.until(lambda: bob.mem in mine.online())
    for _ in range(3):
        await hers.socket.close()
        hers = await Page.open(bob, channel)
    await ann.say(channel, "something else"), await ann.say(direct, "the last word")
    heard = ""
    while "the last word" not in heard:
        heard += await mine.socket.receive_str()
    assert "online" not in heard and chat["chat_presence"].here.mine
    await mine.socket.close(), await hers.socket.close()


async def test_a_page_out_of_sight_is_away_and_comes_back(pair, monkeypatch):
    """A tab that was left open all night would say that its owner is there."""
    monkeypatch.setattr(presence, "AWAY_S", 0.02)
    ann, bob, community, channel, direct = pair
    mine, hers = await Page.open(ann, direct), await Page.open(bob, channel)
    await mine.until(lambda: bob.mem in mine.online())
    for word, is_here in ("away", False), ("here", True), ("away", False):
        await hers.socket.send_str(word)
        await mine.until(lambda: (bob.mem in mine.online()) == is_here)
    await mine.socket.close(), await hers.socket.close()


async def test_what_was_missed_between_page_and_socket_is_told_when_it_connects(chat, pair):
    """A page would show for ever who was here when it was loaded."""
    ann, bob, community, channel, direct = pair
    page = parsed((await ann.get(direct)).body_text)
    hers = await Page.open(bob, direct)
    await hers.socket.send_str("typing")
    await hers.until(lambda: hers.typing() == ["Bob"])
    mine = Page()
    mine.one, mine.path, mine.page = ann, direct, page
    mine.socket = await ann.listen(direct, page.by_id("cursor").attributes["value"], mine.marks())
    await mine.until(lambda: bob.mem in mine.online() and mine.typing() == ["Bob"])
    await mine.socket.close(), await hers.socket.close()


async def test_typing_is_told_to_the_channel_ends_by_itself_and_is_stored_nowhere(chat, pair):
    """Two people would write at once, past each other; or somebody would type for ever."""
    ann, bob, community, channel, direct = pair
    mine, hers, there = await Page.open(ann, channel), await Page.open(bob, channel), await Page.open(ann, direct)
    before = chat["biff/node"].db().tx_id
    await hers.socket.send_str("typing")
    await mine.until(lambda: mine.typing() == ["Bob"])
    typing, = chat["chat_presence"].typing.values()
    typing.update(dict.fromkeys(typing, 0))            # as when TYPING_S have gone by
    await mine.until(lambda: mine.typing() == [])
    assert chat["biff/node"].db().tx_id == before and there.typing() == []
    for page in mine, hers, there:
        await page.socket.close()


async def test_who_has_said_something_types_no_more(chat, pair):
    """"Bob is typing" would stand below what Bob has just said."""
    ann, bob, community, channel, direct = pair
    mine, hers = await Page.open(ann, channel), await Page.open(bob, channel)
    await hers.socket.send_str("typing")
    await mine.until(lambda: mine.typing() == ["Bob"])
    await bob.say(channel, "said")
    await mine.until(lambda: mine.typing() == [])
    await mine.socket.close(), await hers.socket.close()


async def test_who_types_again_at_once_is_seen_again(pair, monkeypatch):
    """A word that came just as the last typing ended was lost, and nobody saw that somebody went on."""
    monkeypatch.setattr(presence, "GATHER_S", 0.3)
    ann, bob, community, channel, direct = pair
    mine, hers = await Page.open(ann, channel), await Page.open(bob, channel)
    for n in range(3):
        await hers.socket.send_str("typing")
        await mine.until(lambda: mine.typing() == ["Bob"])
        await bob.say(channel, f"{n}")
        await mine.until(lambda: mine.typing() == [])
    await mine.socket.close(), await hers.socket.close()


async def test_each_switches_off_to_be_seen_and_to_see(chat, pair):
    """A boss would see who is awake, and whoever wants to be left alone would have to leave."""
    ann, bob, community, channel, direct = pair
    mine, hers = await Page.open(ann, direct), await Page.open(bob, direct)
    await mine.until(lambda: bob.mem in mine.online())
    await bob.post("/presence", {"sees": "on"}, "/name")
    await mine.until(lambda: bob.mem not in mine.online())
    await hers.socket.send_str("typing")
    await ann.say(direct, "a word")
    await hers.until(lambda: "a word" in str(hers.page))
    assert chat["chat_presence"].typing == {} and ann.mem in hers.online()
    await bob.post("/presence", {"sends": "on"}, "/name")
    await hers.until(lambda: hers.page.by_id("online").attributes["data-sees"] == "0")
    dialogs = parsed((await bob.get(f"{direct}/dialogs", headers={"HX-Request": "true"})).body_text)
    assert hers.online() == set() and "checked" in str(dialogs.by_id("presence-choice"))
    await mine.until(lambda: bob.mem in mine.online())
    await mine.socket.close(), await hers.socket.close()


async def test_only_who_may_read_a_channel_types_there_and_hears_of_it(chat, pair, person):      # noqa: F811
    """A private channel would tell by "is typing" that it is there."""
    ann, bob, community, channel, direct = pair
    cleo = await person("cleo@example.com")
    outside = await Page.open(cleo, "/app")
    await cleo.join(community)
    here, mine = await Page.open(cleo, channel), await Page.open(ann, direct)
    shown, node = chat["chat_presence"], chat["biff/node"]
    assert not shown.typed(node.db(), id_of(direct), mem_of(chat, community, "cleo@example.com")["xt/id"])
    hers = await Page.open(bob, direct)
    await hers.socket.send_str("typing")
    await mine.until(lambda: mine.typing() == ["Bob"])
    await ann.say(channel, "for all")
    await here.until(lambda: "for all" in str(here.page))
    assert here.typing() == outside.typing() == [] and bob.mem not in outside.online() | here.online()
    for page in outside, here, mine, hers:
        await page.socket.close()


async def test_a_flood_of_words_tells_no_more_and_then_closes(chat, pair, say):
    """One page could keep a thousand others busy."""
    ann, bob, community, channel, direct = pair
    mine, hers = await Page.open(ann, channel), await Page.open(bob, channel)
    for _ in range(sockets.FRAMES_A_MINUTE):
        await hers.socket.send_str("typing")
    await mine.until(lambda: mine.typing() == ["Bob"])
    await bob.say(channel, "the end")
    heard = []
    while not any("the end" in text for text in heard):
        heard.append(await mine.socket.receive_str())
    await hers.socket.send_str("typing")
    while (await hers.socket.receive()).type is not sockets.WSMsgType.CLOSE:
        pass
    assert hers.socket.close_code == 1008
    told = sum('id="typing"' in text for text in heard)
    say(f"{sockets.FRAMES_A_MINUTE} words: {1 + told} fragments, then the socket closes; asked 1")
    assert told <= 1
    other = await Page.open(bob, channel)
    await other.socket.send_str("open the door")
    while (await other.socket.receive()).type is not sockets.WSMsgType.CLOSE:
        pass
    assert other.socket.close_code == 1008
    await mine.socket.close()


async def test_presence_and_typing_reach_people_on_another_server(together, monkeypatch):      # noqa: F811
    """A community that runs on two servers would look half empty from each."""
    monkeypatch.setattr(presence, "GRACE_S", 0.05)
    (here, _), (_, there) = await together.person("ann@example.com"), await together.person("bob@example.com")
    community, channel = await here.new_channel()
    await caught_up(together)
    await there.join(community)
    await caught_up(together)
    bob = mem_of(together[0], community, "bob@example.com")["xt/id"]
    mine, members = await Page.open(here, channel), await Page.open(here, community)
    hers = await Page.open(there, channel)
    await members.until(lambda: str(bob) in members.online())
    await hers.socket.send_str("typing")
    await mine.until(lambda: len(mine.typing()) == 1)
    await there.say(channel, "said")
    await mine.until(lambda: mine.typing() == [])
    await hers.socket.close()
    await members.until(lambda: str(bob) not in members.online())
    hers = await Page.open(there, channel)
    await members.until(lambda: str(bob) in members.online())
    biff.notify(together[1], "who")                                # as a worker that was killed and begins again
    await members.until(lambda: str(bob) not in members.online())
    together[1]["chat_presence"].repeat()
    await members.until(lambda: str(bob) in members.online())
    monkeypatch.setattr(presence, "FORGET_S", -1)                  # as when a killed server says nothing for long
    together[0]["chat_presence"].keep()
    await members.until(lambda: str(bob) not in members.online())
    for page in mine, members, hers:
        await page.socket.close()


async def test_a_server_that_starts_learns_who_is_here_by_others(together):      # noqa: F811
    """After each deploy everybody on the other servers would seem to be away."""
    here, there = await together.person("ann@example.com")
    community, channel = await here.new_channel()
    await caught_up(together)
    page = await Page.open(there, channel)
    shown = together[0]["chat_presence"]
    shown.here.others.clear()
    shown._has_asked = False
    shown.keep()
    async with asyncio.timeout(60):
        while not shown.here.others:
            await asyncio.sleep(0.01)
    await page.socket.close()


async def test_in_a_browser_one_sees_who_types_and_who_is_here(server, window):
    """What the server tells would be in the page, and nobody would see it."""
    ann, bob = await window(), await window()
    await two_in_a_channel(server, ann, bob)
    await bob.type("#text", "I am")
    await ann.wait_for_selector("#typing-words:has-text('is typing…')")
    await bob.press("#text", "Enter")
    await ann.wait_for_selector(".message:not(.pending) >> text=I am")
    assert await ann.text_content("#typing-words") == ""
    await ann.click("[aria-label='New message']")
    await ann.click(".picker .person")
    await ann.click("text=Start")
    await ann.wait_for_selector("#directs a[title=Online] .face.here")
    await bob.click(".my-name")
    await bob.uncheck("#presence-choice [name=sends]")
    await ann.wait_for_selector("#directs .face:not(.here)")
    await ann.click(".my-name")
    assert await ann.is_checked("#presence-choice [name=sends]")
