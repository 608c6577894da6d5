"""Drafts: what one is writing is on all of one's devices, is nobody else's, and leaves no trace when it is sent."""
import asyncio
import datetime as dt
import uuid

import pytest

import biff
from people import chat, person      # noqa: F401
from plugins import drafts
from store import delete, put


@pytest.fixture
async def two(chat, person):      # noqa: F811
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    community, channel = await ann.new_channel()
    await bob.join(community)
    return chat, ann, bob, channel


async def keep(one, channel, text):
    return await one.post(f"{channel}/draft", {"text": text}, channel, {"HX-Request": "true"})


def kept(chat):      # noqa: F811
    return biff.q(chat["biff/node"].db(), {"find": "?t", "where": [["?d", "draft/text", "?t"]]})


def logged(chat, word):      # noqa: F811
    """True if a word is in the log, now or in the past."""
    return any(word in str(tx.ops) for tx in chat["biff/node"].tx_log(after=0))


async def until(true):
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)


async def test_a_draft_is_on_ones_own_pages_and_on_nobody_elses(two):
    """One writes on the way and goes on at the desk; and nobody reads what is only half said."""
    chat, ann, bob, channel = two
    mine, theirs = await ann.listen(channel), await bob.listen(channel)
    answer = await keep(ann, channel, "half a <thought>")
    assert answer.status == 204 and answer.headers["X-Draft-At"]
    frame = (await mine.receive(timeout=60)).data
    assert 'id="draft"' in frame and "half a &lt;thought&gt;" in frame and answer.headers["X-Draft-At"] in frame
    assert "half a &lt;thought&gt;</div>" in (await ann.get(channel)).body_text
    assert "half a" not in (await bob.get(channel)).body_text
    await ann.say(channel, "a message")
    assert "half a" not in (await theirs.receive(timeout=60)).data
    await mine.close(), await theirs.close()


@pytest.mark.parametrize("how", ["sent", "emptied"])
async def test_what_was_sent_or_emptied_stays_in_no_history(two, how):
    """The log would keep for ever what somebody decided not to say."""
    chat, ann, bob, channel = two
    for text in "unsaid", "unsaid words":
        await keep(ann, channel, text)
    assert logged(chat, "unsaid") and kept(chat) == ["unsaid words"]
    await (ann.say(channel, "said") if how == "sent" else keep(ann, channel, " \n"))
    await until(lambda: not kept(chat))
    assert not logged(chat, "unsaid")
    assert 'hx-ignore></div></div>' in (await ann.get(channel)).body_text


async def test_drafts_are_bounded_and_the_same_text_writes_nothing(two, monkeypatch):
    """A page that is left open, or a script, would fill the log."""
    chat, ann, bob, channel = two
    assert (await keep(ann, channel, "x" * 10_001)).status == 422
    await keep(ann, channel, "half")
    before = chat["biff/node"].db().tx_id
    assert (await keep(ann, channel, "half")).status == 204 and chat["biff/node"].db().tx_id == before
    monkeypatch.setattr(drafts, "DRAFTS_MAX", 1)
    other = (await ann.post(f"{channel.partition('/channel')[0]}/channel", page=channel)).url.path
    assert (await keep(ann, other, "second")).status == 422 and kept(chat) == ["half"]
    monkeypatch.setattr(drafts, "DRAFTS_A_PERSON", (0, 60))
    assert (await keep(ann, channel, "third")).status == 429


async def test_drafts_go_with_their_channel_and_when_nobody_touches_them(two):
    """What somebody wrote in a channel that is gone would lie in the store for ever."""
    chat, ann, bob, channel = two
    other = (await ann.post(f"{channel.partition('/channel')[0]}/channel", page=channel)).url.path
    await keep(ann, channel, "gone"), await keep(ann, other, "long ago"), await keep(bob, other, "kept")
    node = chat["biff/node"]
    await node.submit([delete(uuid.UUID(channel.rpartition("/")[2]))])
    old = biff.lookup(node.db(), "draft/text", "long ago")
    await node.submit([put(old | {"draft/at": biff.now(chat) - drafts.KEPT - dt.timedelta(days=1)})])
    await drafts.sweep(biff.assoc_db(chat))
    assert kept(chat) == ["kept"] and not logged(chat, "long ago") and not logged(chat, "gone")


async def test_two_devices_have_one_draft_and_a_box_in_use_is_left_alone(two, window):
    """What was begun on the phone would have to be written again, or letters would change under one's fingers."""
    chat, ann, _, channel = two
    pages = [await window(), await window()]
    for page in pages:
        await page.context.add_cookies([{"name": cookie.key, "value": cookie.value, "url": ann.base}
                                        for cookie in ann.browser.cookie_jar])
        await page.goto(ann.base + channel)
        await page.wait_for_selector("#messages[data-live]")
    phone, desk = pages
    await desk.evaluate("() => document.activeElement.blur()")
    await phone.fill("#text", "begun on the phone")
    await phone.goto(ann.base + "/name")                                   # leaving brings it
    await desk.wait_for_function("() => document.querySelector('#text').value === 'begun on the phone'")
    await phone.goto(ann.base + channel)
    assert await phone.input_value("#text") == "begun on the phone"
    await phone.focus("#text")
    await desk.fill("#text", "and changed at the desk")
    await desk.goto(ann.base + "/name")
    await phone.wait_for_function("() => document.querySelector('#draft').textContent === 'and changed at the desk'")
    assert await phone.input_value("#text") == "begun on the phone", "it has the focus"
    await phone.evaluate("() => document.activeElement.blur()")
    assert await phone.input_value("#text") == "and changed at the desk"
    await desk.goto(ann.base + channel)
    await desk.press("#text", "Enter")
    await phone.wait_for_function("() => document.querySelector('#text').value === ''")
    await until(lambda: not kept(chat))
