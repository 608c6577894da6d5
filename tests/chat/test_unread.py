"""Unread: what is new for whom, on all of a person's pages; when it counts as read, and what that costs the log."""
import asyncio
import datetime as dt
import math
import random
import re
import uuid

import pytest

import biff
from people import chat, person, texts      # noqa: F401
from plugins import unread
from store import delete, put
from test_browser import a_message, same_process, until_followed, until_live
from test_chat import id_of
from test_law import apply, counts, parsed

HTMX = {"HX-Request": "true"}


@pytest.fixture
async def two(chat, person):      # noqa: F811
    """Ann and Bob in one community; the paths of its first channel and of another one."""
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    community, channel = await ann.new_channel()
    other = (await ann.post(f"{community}/channel", {"title": "other"}, channel)).url.path
    await bob.join(community)
    return ann, bob, channel, other


async def unread_on(one, path):
    page = parsed((await one.get(path)).body_text)
    return {channel: count for channel, count in counts(page).items()}


async def read_to(one, channel, n=-1, **more):
    """As a page does that has shown the channel up to a message, the last one or an earlier one."""
    db = one.chat["biff/node"].db()
    ids = re.findall(r'<article class="message[^"]*" id="message-([\w-]+)"', (await one.get(channel)).body_text)
    return await one.post(f"{channel}/read", {"upto": str(unread.said_in(db, uuid.UUID(ids[n])))} | more, channel, HTMX)


async def test_what_others_said_since_one_read_is_unread(two):
    """Nobody would know where something happened while they were away."""
    ann, bob, channel, other = two
    here, there = channel.rpartition("/")[2], other.rpartition("/")[2]
    for n in range(3):
        await ann.say(channel, f"{n}")
    await ann.say(other, "elsewhere")
    assert await unread_on(bob, other) == {here: 3, there: 1} and await unread_on(ann, other) == {}
    assert (await read_to(bob, channel, 1)).status == 204 and await unread_on(bob, other) == {here: 1, there: 1}
    await read_to(bob, channel)
    assert await unread_on(bob, other) == {there: 1}


async def test_what_was_said_before_one_came_is_not_unread(chat, person, two):      # noqa: F811
    """A newcomer would have ten thousand messages to read."""
    ann, bob, channel, _ = two
    await ann.say(channel, "long ago")
    await ann.say(channel, "today")
    assert list((await unread_on(bob, channel)).values()) == [2]
    mem = chat["biff/node"].db().entity(biff.lookup_id(chat["biff/node"].db(), "user/email", "bob@example.com"))
    community_id = id_of(channel.partition("/channel")[0])
    late = {"xt/id": chat["biff/node"].new_id(), "mem/user": mem["xt/id"], "mem/comm": community_id, "mem/roles": set()}
    old = biff.lookup_id(chat["biff/node"].db(), "mem/user", mem["xt/id"])
    await chat["biff/node"].submit([delete(old), put(late)])
    assert await unread_on(bob, channel) == {}


async def test_a_page_in_another_channel_counts_what_comes_and_what_goes(two):
    """The number beside a channel would be that of the moment when the page was loaded."""
    ann, bob, channel, other = two
    await ann.say(channel, "before")
    page = parsed((await bob.get(other)).body_text)
    socket = await bob.listen(other)
    for text in "one", "two":
        await ann.say(channel, text)
    ids = re.findall(r'id="message-([\w-]+)"', (await ann.get(channel)).body_text)
    for id in ids[0], ids[2]:                          # one that the page was made with, and one that came since
        await ann.post(f"{channel}/message/{id}", page=channel, headers=HTMX, method="DELETE")
    await hear(page, socket, lambda: len(re.findall("gone-", str(page))) == 2)
    assert counts(page) == await unread_on(bob, other) == {channel.rpartition("/")[2]: 1}
    await socket.close()


async def hear(page, socket, is_enough):
    async with asyncio.timeout(60):
        while not is_enough():
            apply(page, await socket.receive_str())


async def test_what_is_read_in_one_window_is_read_in_all(two):
    """A phone that calls for what one has read at the desk."""
    ann, bob, channel, other = two
    await ann.say(channel, "news")
    page = parsed((await bob.get(other)).body_text)
    socket = await bob.listen(other)
    assert list(counts(page).values()) == [1]
    await read_to(bob, channel)
    await hear(page, socket, lambda: not counts(page))
    await socket.close()


async def test_what_is_read_while_another_page_loads_is_told_when_it_connects(two):
    """Who reads to the end and goes elsewhere would find what was just read unread there."""
    ann, bob, channel, other = two
    await ann.say(channel, "news")
    text = (await bob.get(other)).body_text
    page, after = parsed(text), re.search(r'id="cursor" value="(\d+)"', text)[1]
    await read_to(bob, channel)                        # the word of the page that was left comes after the new page
    socket = await bob.listen(other, after)
    assert list(counts(page).values()) == [1]
    await hear(page, socket, lambda: not counts(page))
    await socket.close()


async def test_a_channel_can_be_unread_again_from_a_message_on(two):
    """Whoever has no time now would forget it."""
    ann, bob, channel, _ = two
    for n in range(3):
        await ann.say(channel, f"{n}")
    ids = re.findall(r'id="message-([\w-]+)"', (await ann.get(channel)).body_text)
    await read_to(bob, channel)
    for n, wanted in (1, 2), (0, 3):
        assert (await bob.post(f"{channel}/message/{ids[n]}/unread", page=channel, headers=HTMX)).status == 204
        assert list((await unread_on(bob, channel)).values()) == [wanted]


async def test_all_channels_can_be_read_at_once(two):
    """After a holiday one would open each of forty channels."""
    ann, bob, channel, other = two
    await ann.say(channel, "a"), await ann.say(other, "b")
    assert len(await unread_on(bob, channel)) == 2
    assert (await bob.post(f"{channel.partition('/channel')[0]}/read", page=channel, headers=HTMX)).status == 204
    assert await unread_on(bob, channel) == {}


async def test_a_page_begins_at_the_first_unread_message(two, monkeypatch):
    """One would search for the place where one had stopped."""
    from plugins import places
    monkeypatch.setattr(places, "PAGE_MESSAGES", 4)
    ann, bob, channel, _ = two
    for n in range(9):
        await ann.say(channel, f"{n}")
    first = re.search(r'data-new="([\w-]+)"', (await bob.get(channel)).body_text)[1]
    page = (await bob.get(channel)).body_text
    assert f'id="message-{first}"' in page and page.count("<article") == 9
    await read_to(bob, channel)
    page = (await bob.get(channel)).body_text
    assert "data-new" not in page and page.count("<article") == 4


async def test_a_page_begins_at_the_first_unread_message_however_many_follow(two, monkeypatch):
    """Who was away for a week would begin with the end, and never see where it had begun."""
    from plugins import permalinks
    monkeypatch.setattr(unread, "LANDING_MAX", 6)
    monkeypatch.setattr(permalinks, "PAGE_MESSAGES", 4)
    ann, bob, channel, other = two
    await ann.say(channel, "read")
    await read_to(bob, channel)
    await ann.say(other, "elsewhere")
    for n in range(7):
        await bob.say(channel, "mine"), await ann.say(channel, f"{n}")
        page = (await bob.get(channel)).body_text
        first = page.partition('data-new="')[2].partition('"')[0]
        assert re.search(f'id="message-{first}".*?<p>0<', page, re.DOTALL), f"with {n + 1} unread"
    assert texts(page) == ["read", "mine", "0", "mine", "1"] and "hx-ws:connect" not in messages_in(page)
    assert re.search('href="[^"]*[?]now">7 new messages', page) and "/newer?after=" in page
    page = (await bob.get(f"{channel}?now")).body_text
    assert texts(page)[-1] == "6" and "hx-ws:connect" in messages_in(page)


def messages_in(page):
    """The tag of the list of messages, which has a socket of its own on a page of the newest."""
    return re.search('<div class="messages"[^>]*>', page)[0]


def test_what_is_known_of_a_member_is_what_moved_was_heard_or_is_followed(seed):
    """A page would count what its reader has read, or not count what is new."""
    rng, now, positions = random.Random(seed), dt.datetime.now(dt.timezone.utc), unread.Positions()
    mems, channels = [uuid.uuid4() for _ in range(3)], [uuid.uuid4() for _ in range(3)]
    for n in range(2_000):
        key, at = (rng.choice(mems), rng.choice(channels)), now + dt.timedelta(seconds=rng.randrange(50))
        rng.choice([
            lambda: positions.move(*key, n, at), lambda: positions.hear(*key, n, at),
            lambda: positions.was_put(*key, at), lambda: positions.have_put(key, positions.moved.get(key, 0)),
            lambda: positions.follow(*key, "person", rng.choice("ab"), at),
            lambda: positions.leave(*key, rng.choice(["a", "b", ""]))])()
        known = {(mem, channel): upto for mem in mems for channel, upto in positions.read_by(mem).items()}
        keys = {*positions.moved, *positions.heard, *positions.followed}
        assert known == {key: math.inf if key in positions.followed else positions.of(*key) for key in keys}


async def test_reading_writes_nothing_until_its_reader_goes_or_ten_minutes_pass(chat, two, say):  # noqa: F811
    """The log would grow with what people look at, and not with what they write."""
    ann, bob, channel, _ = two
    for n in range(3):
        await ann.say(channel, f"{n}")
    socket, node = await bob.listen(channel), chat["biff/node"]
    before = node.db().tx_id
    for n in range(3):
        await read_to(bob, channel, n)
    await unread.put_positions(biff.assoc_db(chat))
    assert node.db().tx_id == before
    clock = chat["biff/clock"]
    chat["biff/clock"] = lambda: clock() + dt.timedelta(minutes=11)
    await unread.put_positions(biff.assoc_db(chat))
    assert node.db().tx_id == before + 1 and not chat["chat_positions"].moved
    await ann.say(channel, "one more")
    before = node.db().tx_id - 1
    await read_to(bob, channel)
    await socket.close()
    while chat["chat_clients"].count:
        await asyncio.sleep(0.01)
    await unread.put_positions(biff.assoc_db(chat))
    assert node.db().tx_id == before + 2
    bytes_a_put = len(str(biff.lookup(node.db(), "read/channel", id_of(channel))))
    say(f"100 people who read one channel for eight hours: {100 * 8 * 6:,} puts of a document of some {bytes_a_put} "
        "characters")


async def test_a_restart_keeps_what_was_read(chat, two, tmp_path):      # noqa: F811
    """Each deploy would make everything new again."""
    ann, bob, channel, _ = two
    await ann.say(channel, "news")
    await read_to(bob, channel)
    await unread.put_positions(biff.assoc_db(chat), all=True)
    assert not chat["chat_positions"].moved and await unread_on(bob, channel) == {}


async def test_a_muted_channel_is_marked_so_and_heard_again(two):
    """A channel that talks all day would drown the one that matters."""
    _, bob, channel, _ = two
    await bob.post(f"{channel}/mute", {"muted": "1"}, channel)
    page = (await bob.get(channel)).body_text
    assert 'aria-pressed="true"' in page and "data-muted" in page
    await bob.post(f"{channel}/mute", {}, channel)
    assert "data-muted" not in (await bob.get(channel)).body_text


async def test_the_first_page_leads_to_where_one_was(two):
    """Four clicks each morning to the channel that one left in the evening."""
    ann, bob, channel, other = two
    await ann.say(channel, "a"), await ann.say(other, "b")
    assert (await bob.get("/app")).url.path == "/app"
    await read_to(bob, channel)
    await read_to(bob, other)
    assert (await bob.get("/app")).url.path == other
    await ann.post(other, page=channel, method="DELETE")
    assert (await bob.get("/app")).url.path == channel


async def test_a_community_opens_where_one_was_in_it(two, person):      # noqa: F811
    """Each change between two communities would end before a list of channels."""
    ann, bob, channel, other = two
    community = channel.partition("/channel")[0]
    assert (await bob.get(f"{community}/go")).url.path == channel
    await ann.say(channel, "a"), await ann.say(other, "b")
    await read_to(bob, other)
    elsewhere = (await bob.new_channel())[1]
    await bob.say(elsewhere, "c"), await ann.join(elsewhere.partition("/channel")[0])
    await read_to(bob, elsewhere)
    assert (await bob.get(f"{community}/go")).url.path == other
    assert (await bob.get("/app")).url.path == elsewhere
    await ann.post(other, page=channel, method="DELETE"), await ann.post(channel, page=channel, method="DELETE")
    assert (await bob.get(f"{community}/go")).url.path == community
    assert (await (await person("eve@example.com")).get(f"{community}/go")).url.path == "/app"


async def test_a_position_is_in_the_log_and_goes_forward(two):
    """A page that was away would make read messages new again, and a forged one would read what is yet to come."""
    ann, bob, channel, _ = two
    for n in range(3):
        await ann.say(channel, f"{n}")
    await read_to(bob, channel, 1)
    for upto in "x", "", "-1", "0", "1", "²":
        assert (await bob.post(f"{channel}/read", {"upto": upto}, channel, HTMX)).status == 204
        assert list((await unread_on(bob, channel)).values()) == [1], "nothing moved"
    await bob.post(f"{channel}/read", {"upto": "9" * 15}, channel, HTMX)
    assert await unread_on(bob, channel) == {}
    await ann.say(channel, "later")
    assert list((await unread_on(bob, channel)).values()) == [1]


async def test_what_one_follows_is_read_on_all_pages_until_the_page_is_left(chat, two):      # noqa: F811
    """A thousand readers would tell the server of each message, or their other pages would count what they see."""
    ann, bob, channel, other = two
    here = channel.rpartition("/")[2]
    await ann.say(channel, "before")
    page, socket = parsed((await bob.get(other)).body_text), await bob.listen(other)
    await read_to(bob, channel, page="one", stays="1")
    await hear(page, socket, lambda: not counts(page))
    await ann.say(channel, "seen")
    await hear(page, socket, lambda: "new-" in str(page))
    assert counts(page) == await unread_on(bob, other) == {}
    await read_to(bob, channel, page="two", stays="1")
    await read_to(bob, channel, page="one")
    await ann.say(channel, "seen in the second window")
    assert await unread_on(bob, other) == {}
    await read_to(bob, channel, page="two")
    await ann.say(channel, "missed")
    await hear(page, socket, lambda: counts(page))
    assert counts(page) == await unread_on(bob, other) == {here: 1}
    await read_to(bob, channel, page="three", stays="1")
    await ann.say(channel, "to a page that has crashed")
    await socket.close()
    while chat["chat_clients"].count:
        await asyncio.sleep(0.01)
    await unread.put_positions(biff.assoc_db(chat))
    assert await unread_on(bob, other) == {here: 1}


async def test_a_page_that_was_left_at_once_follows_nothing(chat, two):      # noqa: F811
    """Its two requests overtake each other: what came later would be read for ever, and nobody would know."""
    ann, bob, channel, other = two
    await ann.say(channel, "before")
    await read_to(bob, channel, page="quick", word="2")
    await read_to(bob, channel, page="quick", word="1", stays="1")
    (mem,) = (mem for mem, _ in chat["chat_positions"].moved)
    late = [str(mem), channel.rpartition("/")[2], "", biff.now(chat).isoformat(), "quick", "stays", 1]
    unread.on_read(chat, "another worker", *late)      # which its first request reached, after the second reached this
    await ann.say(channel, "missed")
    assert await unread_on(bob, other) == {channel.rpartition("/")[2]: 1}
    await read_to(bob, channel, page="quick", word="3", stays="1")
    await ann.say(channel, "seen")
    assert await unread_on(bob, other) == {}


async def test_a_page_of_before_takes_nothing_back_of_what_the_store_has(chat, two):      # noqa: F811
    """A tab that wakes up after days would make new again all that was read since in another one."""
    ann, bob, channel, other = two
    for n in range(3):
        await ann.say(channel, f"{n}")
    await read_to(bob, channel)
    await unread.put_positions(biff.assoc_db(chat), all=True)
    assert not chat["chat_positions"].moved
    await read_to(bob, channel, 0)
    assert await unread_on(bob, other) == {}


async def test_a_count_goes_to_a_hundred_and_reads_no_further(chat, two, monkeypatch):      # noqa: F811
    """A page would count a hundred thousand messages for somebody who was away for a year."""
    monkeypatch.setattr(unread, "COUNT_MAX", 6)
    monkeypatch.setattr(unread, "FIRST_LOOK", 2)
    ann, bob, channel, other = two
    read = []
    newest = unread.newest
    monkeypatch.setattr(unread, "newest", lambda *args: read.append(args[2]) or newest(*args))
    for n in range(9):
        await ann.say(channel, f"{n}")
        assert list((await unread_on(bob, other)).values()) == [min(n + 1, 6)]
    for n in range(4):
        await bob.say(channel, f"mine {n}")
        assert list((await unread_on(bob, other)).values()) == [6], "one's own do not count, and hide no others"
    assert set(read) == {2, 6, unread.LANDING_MAX}, "the last one where a channel opens at its first unread message"
    page, socket = parsed((await bob.get(other)).body_text), await bob.listen(other)
    ids = re.findall(r'id="message-([\w-]+)"', (await ann.get(channel)).body_text)
    for id in ids[:5]:
        await ann.post(f"{channel}/message/{id}", page=channel, headers=HTMX, method="DELETE")
    await hear(page, socket, lambda: len(re.findall("gone-", str(page))) == 5)
    await bob.post(f"{channel}/read", {"upto": "0"}, channel, HTMX)           # what a page asks that cannot know
    await hear(page, socket, lambda: "gone-" not in str(page))
    assert list(counts(page).values()) == list((await unread_on(bob, other)).values()) == [4]
    await socket.close()


async def test_a_position_that_was_put_as_a_message_still_holds(chat, two):      # noqa: F811
    """An update would make everything new again that was read before it."""
    ann, bob, channel, _ = two
    for n in range(3):
        await ann.say(channel, f"{n}")
    db, ids = chat["biff/node"].db(), re.findall(r'id="message-([\w-]+)"', (await ann.get(channel)).body_text)
    mem = biff.lookup_id(db, "mem/user", biff.lookup_id(db, "user/email", "bob@example.com"))
    old = {"xt/id": f"reading {mem} {id_of(channel)}", "read/mem": mem, "read/channel": id_of(channel)}
    for upto, wanted in (uuid.UUID(ids[1]), [1]), (id_of(channel), [3]):
        await chat["biff/node"].submit([put(old | {"read/upto": upto})])
        assert list((await unread_on(bob, channel)).values()) == wanted
    await read_to(bob, channel)
    await unread.put_positions(biff.assoc_db(chat), all=True)
    kept = chat["biff/node"].db().entity(old["xt/id"])
    assert "read/upto" not in kept and kept["read/tx"] and await unread_on(bob, channel) == {}


# ── In a real browser ────────────────────────────────────────────────────────────────────────────────────────

SHOWN = """() => {
  const link = [...document.querySelectorAll('#channels a')].find(one => one.textContent === 'general');
  return [link.dataset.unread ?? '',
          document.title.match(/^\\(\\d+\\) /)?.[0] ?? '',
          document.querySelector('link[rel=icon]').href.includes('news'), window.badge ?? 0]; }"""
BADGE = """navigator.setAppBadge = async n => { window.badge = n };
           navigator.clearAppBadge = async () => { window.badge = 0 }"""
QUIET, ONE = ["", "", False, 0], ["1", "(1) ", True, 1]
HAS_HEARD = "tx => Number(document.querySelector('#cursor').value) >= tx"


async def test_messages_in_sight_in_one_window_are_read_in_all(chat, person, window, monkeypatch):      # noqa: F811
    """One would be called to what one has just read, or not be called to what one has missed."""
    page, channel = await same_process(chat, person, window, "bob@example.com")
    node, db = chat["biff/node"], chat["biff/node"].db()
    community = channel.partition("/channel")[0]
    ann = {"xt/id": node.new_id(), "mem/user": node.new_id(), "mem/comm": id_of(community), "mem/roles": set()}
    await node.submit([put(ann), put({"xt/id": node.new_id(), "chan/title": "other", "chan/comm": id_of(community)})])

    async def said(text):
        message = a_message(chat, channel, text) | {"msg/mem": ann["xt/id"]}
        return (await node.submit([put(message)])).tx_id
    other = await page.context.new_page()
    await other.add_init_script(BADGE)
    await other.goto(chat["biff/base-url"] + community)
    await other.click("#channels >> text=other")
    await until_live(other)
    mem = biff.lookup_id(db, "mem/comm", id_of(community))
    await until_followed(chat, channel)
    await other.wait_for_function(HAS_HEARD, arg=await said("in sight in the first window"))
    assert await other.evaluate(SHOWN) == QUIET
    await page.close()                                 # it says so itself, while it goes
    await until_followed(chat, channel, False)
    await said("missed")
    await other.wait_for_function(f"wanted => JSON.stringify(({SHOWN})()) === JSON.stringify(wanted)", arg=ONE)
    assert await other.eval_on_selector("#channels [data-unread]", "link => getComputedStyle(link).fontWeight") == "700"
    await other.click("#channels >> text=general")
    await other.wait_for_selector(".message.first-new >> text=missed")
    await other.wait_for_function(f"wanted => JSON.stringify(({SHOWN})()) === JSON.stringify(wanted)", arg=QUIET)
    for n in range(40):
        last = await said(f"{n}")
    await other.wait_for_function(HAS_HEARD, arg=last)
    await until_followed(chat, channel)
    await other.evaluate("document.querySelector('#messages').scrollTop = 0")
    await until_followed(chat, channel, False)
    await said("below the window")
    await other.wait_for_function(f"wanted => JSON.stringify(({SHOWN})()) === JSON.stringify(wanted)", arg=ONE)
    await other.wait_for_selector("#pill:visible >> text=1 new message")
    await other.click("#pill")
    await other.wait_for_function(f"wanted => JSON.stringify(({SHOWN})()) === JSON.stringify(wanted)", arg=QUIET)
    await until_followed(chat, channel)
    monkeypatch.setattr(unread, "LANDING_MAX", 20)
    await other.goto(chat["biff/base-url"] + community)
    for n in range(60):
        await said(f"while away {n}")
    await other.click("#channels >> text=general")
    line = other.locator(".message.first-new")
    await line.wait_for()
    assert "while away 0" in await line.inner_text()
    await other.wait_for_function("""() => {
        const {top, bottom} = document.querySelector(".message.first-new").getBoundingClientRect();
        return top > 0 && bottom < innerHeight; }""")
    await other.wait_for_function(f"() => ({SHOWN})()[0] === '60'")          # nothing is read by being opened
    await other.wait_for_selector(".past >> text=/^60 new messages ↓/")
    await said("while one reads")
    await other.wait_for_selector(".past >> text=/^61 new messages ↓/")
    await other.click(".past a")
    await other.wait_for_selector("#messages[data-live] >> text=while away 59")
    await other.wait_for_function(f"wanted => JSON.stringify(({SHOWN})()) === JSON.stringify(wanted)", arg=QUIET)
