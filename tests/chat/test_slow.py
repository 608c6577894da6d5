"""Slow mode: each member posts once in so many seconds, admins as they like; who is refused hears when."""
import asyncio
import datetime as dt
import uuid

import pytest

import biff
from people import chat, person      # noqa: F401
from store import delete, put


@pytest.fixture
async def town(chat, person):      # noqa: F811
    """Ann is the admin and Bob a member of a channel in which one posts once in half a minute."""
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    community, channel = await ann.new_channel()
    await bob.join(community)
    answer = await ann.post(f"{channel}/title", {"title": "general", "slow": "30"}, channel)
    assert answer.status == 200
    return chat, ann, bob, channel


def channel_of(chat, channel):      # noqa: F811
    return chat["biff/node"].db().entity(uuid.UUID(channel.rpartition("/")[2]))


async def said_long_ago(chat, seconds):      # noqa: F811
    """Everybody's last message in slow channels was posted so long ago."""
    node = chat["biff/node"]
    for last in biff.q(node.db(), {"find": ("pull", "?s", ["*"]), "where": [["?s", "slow/at"]]}):
        await node.submit([put(last | {"slow/at": biff.now(chat) - dt.timedelta(seconds=seconds)})])


async def test_a_member_posts_once_and_hears_in_how_many_seconds_again(town):
    """A channel with a thousand people would be unreadable, or its members would not know what went wrong."""
    chat, ann, bob, channel = town
    assert "once in 30 seconds" in (await bob.get(channel)).body_text
    first = uuid.uuid4()
    assert (await bob.say(channel, "first", first)).status == 204
    refused = await bob.say(channel, "second")
    again_s = int(refused.headers["Retry-After"])
    assert refused.status == 429 and 1 <= again_s <= 30 and f"Send it again in {again_s} second" in refused.body_text
    assert (await bob.say(channel, "first", first)).status == 204, "what was stored is stored"
    assert [(await ann.say(channel, "admins go on")).status for _ in range(3)] == [204] * 3
    await said_long_ago(chat, 31)
    assert (await bob.say(channel, "third")).status == 204


async def test_whoever_deletes_a_message_has_posted_it_all_the_same(town):
    """Post, delete and post again would be a way around it."""
    chat, ann, bob, channel = town
    first = uuid.uuid4()
    await bob.say(channel, "first", first)
    await chat["biff/node"].submit([delete(first)])
    assert (await bob.say(channel, "second")).status == 429


async def test_of_two_messages_at_once_one_is_posted(town):
    """Two tabs, or two servers, would each take one."""
    chat, ann, bob, channel = town
    answers = await asyncio.gather(*(bob.say(channel, f"at once {n}") for n in range(4)))
    assert sorted(answer.status for answer in answers) == [204, 429, 429, 429]


async def test_only_admins_set_slow_mode_and_it_ends_when_they_say_so(town):
    """A member would silence the others, or nobody could end it."""
    chat, ann, bob, channel = town
    await bob.post(f"{channel}/title", {"title": "mine", "slow": "3600"}, channel)
    assert channel_of(chat, channel)["chan/slow-s"] == 30
    for slow, kept in ("7", 30), ("300", 300), ("", 300), ("0", None):
        await ann.post(f"{channel}/title", {"title": "general", "slow": slow}, channel)
        assert channel_of(chat, channel).get("chan/slow-s") == kept
    assert [(await bob.say(channel, "free")).status for _ in range(2)] == [204] * 2


async def test_a_message_that_waits_for_one_channel_holds_up_no_other(town, window):
    """Whoever waits for an hour in one channel could say nothing anywhere; or what they wrote would be lost."""
    chat, ann, bob, channel = town
    community = channel.partition("/channel")[0]
    await ann.post(f"{channel}/title", {"title": "general", "slow": "3600"}, channel)
    other = (await ann.post(f"{community}/channel", {"title": "other"}, community)).url.path
    page = await window(allow=[r"status of 429"])
    await page.context.add_cookies([{"name": cookie.key, "value": cookie.value, "url": bob.base}
                                    for cookie in bob.browser.cookie_jar])

    async def write(path, *texts):
        await page.goto(bob.base + path)
        await page.wait_for_selector("#messages[data-live]")
        for text in texts:
            await page.fill("#text", text)
            await page.press("#text", "Enter")

    async def stored(text):
        await page.wait_for_selector(f"#messages .message:not(.pending) >> text='{text}'")
    await write(channel, "one", "two")
    await stored("one")
    await page.wait_for_selector("#messages .message.pending >> text=/It is sent by itself in \\d+ seconds/")
    await write(other, "elsewhere")
    await stored("elsewhere")
    await said_long_ago(chat, 3601)
    await write(channel)
    await stored("two")
