"""Reactions: one of each a person, live, and gone with their message."""
import asyncio
import re
import uuid

import pytest

from people import chat, person      # noqa: F401
from plugins import reactions
from store import evict
from test_browser import two_in_a_channel, until_texts, write


@pytest.fixture
async def message(chat, person):      # noqa: F811
    """Ann and Bob in a channel, and a message of Ann's: (ann, bob, channel, path of the message)."""
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    community, channel = await ann.new_channel()
    await bob.join(community)
    id = uuid.uuid4()
    await ann.say(channel, "tide", id)
    return ann, bob, channel, f"{channel}/message/{id}"


async def react(one, channel, path, emoji, on="1"):
    return await one.post(f"{path}/reaction", {"emoji": emoji, "on": on}, channel, {"HX-Request": "true"})


def shown(html):
    """The reactions of a page, as [(emoji, how many)]."""
    return [(emoji, int(count)) for emoji, count in re.findall(
        r'class="reaction" data-emoji="([^"]+)" data-mems="[^"]+">\1 <span>(\d+)</span>', html)]


async def test_each_person_reacts_once_with_each_and_takes_it_back(chat, message):
    """Without this, one person could cheer a hundred times, or a click that is sent twice would count twice."""
    ann, bob, channel, path = message
    for one, emoji in (ann, "👍"), (bob, "👍"), (bob, "👍"), (bob, "🎉"):
        assert (await react(one, channel, path, emoji)).status == 204
    assert shown((await bob.get(channel)).body_text) == [("👍", 2), ("🎉", 1)]
    assert (await react(bob, channel, path, "👍", "0")).status == 204
    assert (await react(bob, channel, path, "👍", "0")).status == 204
    assert shown((await ann.get(channel)).body_text) == [("👍", 1), ("🎉", 1)]
    people = (await ann.get(f"{path}/reactions")).body_text
    assert re.findall(r"<dt>(.*?)</dt>", people) == ["👍", "🎉"] and people.count("User ") == 2


async def test_a_reaction_reaches_open_pages_as_the_same_frame_for_all(chat, message):
    """A frame made for each of a thousand people would cost a thousand times as much."""
    ann, bob, channel, path = message
    sockets = [await one.listen(channel) for one in (ann, bob)]
    await react(bob, channel, path, "❤")
    frames = []
    for socket in sockets:
        async with asyncio.timeout(60):
            while not shown(frame := await socket.receive_str()):
                pass
        frames.append(frame)
    assert shown(frames[0]) == [("❤️", 1)] and frames[0] == frames[1]
    for socket in sockets:
        await socket.close()


ODD = {"👍": "👍", "👍🏽": "👍🏽", "❤": "❤️", "❤️": "❤️", "🇫🇷": "🇫🇷", "👩‍👩‍👧‍👦": "👩‍👩‍👧‍👦", "1️⃣": "1️⃣", " 🎉 ": "🎉",
       "🏴\U000e0067\U000e0062\U000e007f": "🏴\U000e0067\U000e0062\U000e007f",
       "": None, "a": None, "1": None, "👍👍": None, "👍x": None, "<b>": None, "‍": None, "🇫": None, "️": None,
       "👍" + "🏽" * 20: None, "\U000e0067": None, "é": None, "中": None}


@pytest.mark.parametrize("given", ODD)
def test_only_one_emoji_is_a_reaction_and_it_has_one_spelling(given):
    """Text as a reaction would be a message without a limit, and two spellings of a heart would stand side by side."""
    assert reactions.emoji_of(given) == ODD[given]


async def test_reactions_are_bounded_and_refused_in_a_sentence(chat, message, monkeypatch):
    """Without this, one message could hold a frame of megabytes."""
    ann, bob, channel, path = message
    monkeypatch.setattr(reactions, "EMOJI_MAX", 2), monkeypatch.setattr(reactions, "REACTIONS_MAX", 3)
    for one, emoji, status in (ann, "👍", 204), (ann, "🎉", 204), (ann, "🚀", 422), (bob, "👍", 204), (bob, "🎉", 422):
        answer = await react(one, channel, path, emoji)
        assert answer.status == status and (status == 204 or "at most 2 different reactions" in answer.body_text)
    refused = await react(bob, channel, path, "<script>")
    assert refused.status == 422 and refused.body_text == "A reaction is one emoji. Choose one, or type one."


@pytest.mark.parametrize("how", ["deleted", "evicted", "the channel"])
async def test_reactions_go_with_their_message(chat, message, how):
    """Reactions to nothing would stay in the store for ever."""
    ann, bob, channel, path = message
    node = chat["biff/node"]
    await react(bob, channel, path, "👍")
    there = {"find": "?r", "where": [["?r", "react/msg"]]}
    assert len(node.db().q(there)) == 1
    if how == "deleted":
        await ann.post(path, page=channel, method="DELETE", headers={"HX-Request": "true"})
    elif how == "the channel":
        await ann.post(channel, page=channel, method="DELETE")
    else:
        await node.submit([evict(uuid.UUID(path.rpartition("/")[2]))])
        assert (await react(bob, channel, path, "🎉")).status == 404
        return
    async with asyncio.timeout(60):
        while node.db().q(there):
            await asyncio.sleep(0.01)


async def test_one_reacts_by_keyboard_and_by_a_click_in_a_browser(server, window):      # noqa: F811
    """Without this, only those with a mouse could answer with a smile."""
    ann, bob = await window(), await window()
    await two_in_a_channel(server, ann, bob)
    await write(ann, "tide")
    await until_texts(bob, ["tide"])
    await bob.focus("#messages"), await bob.press("#messages", "ArrowUp"), await bob.press("#messages", "Enter")
    await bob.wait_for_selector("#actions [data-act=react]:focus")
    await bob.keyboard.press("Enter")
    await bob.wait_for_selector("#react[open] .reaction:focus")
    await bob.keyboard.press("Enter")
    await bob.wait_for_selector("#react", state="hidden")
    await bob.wait_for_selector(".message .reaction[aria-pressed=true] >> text=1")
    await ann.wait_for_selector(".message .reaction[aria-pressed=false] >> text=1")
    await ann.click(".message .reaction")
    for page in ann, bob:
        await page.wait_for_selector(".message .reaction[aria-pressed=true] >> text=2")
    await bob.click(".message .reaction")
    await ann.wait_for_selector(".message .reaction[aria-pressed=true] >> text=1")
    await bob.hover(".message p")
    await bob.click("#actions [data-act=reactions]")
    await bob.wait_for_selector("#reacted[open] dd")
