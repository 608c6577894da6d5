"""Edits: one's own messages can be mended and taken back, everybody's page follows,
and the past is not for everybody."""
import asyncio
import html
import re
import uuid

import pytest

import biff
from people import chat, person, texts      # noqa: F401
from plugins import edits, places
from store import delete, put
from test_browser import two_in_a_channel, until_texts, write
from test_chat import id_of

HTMX = {"HX-Request": "true"}


@pytest.fixture
async def three(chat, person):      # noqa: F811
    """Ann, an admin, with Bob and Eve in her channel; Bob has said "frist"; the path of that message."""
    ann, bob, eve = [await person(f"{name}@example.com") for name in ("ann", "bob", "eve")]
    community, channel = await ann.new_channel()
    for one in bob, eve:
        await one.join(community)
    post = uuid.uuid4()
    await bob.say(channel, "frist", post)
    return ann, bob, eve, channel, f"{channel}/message/{post}"


async def edit(one, message, text):
    return await one.post(message, {"text": text}, message.partition("/message")[0], HTMX)


async def take_back(one, message):
    return await one.post(message, page=message.partition("/message")[0], headers=HTMX, method="DELETE")


async def test_authors_edit_their_messages_and_nobody_else_does(three):
    """Somebody could put words into another's mouth."""
    ann, bob, eve, channel, message = three
    for one in ann, eve:
        assert (await edit(one, message, "mine now")).status == 403
    assert (await edit(bob, message, "  first ")).status == 204
    page = (await ann.get(channel)).body_text
    assert texts(page) == ["first"] and page.count('class="edited"') == 1
    assert (await bob.get(message)).body_text == "first"


async def test_a_text_that_is_the_same_is_no_edit(chat, three):      # noqa: F811
    """Enter pressed in vain would mark a message for ever."""
    _, bob, _, channel, message = three
    before = chat["biff/node"].db().tx_id
    assert (await edit(bob, message, "frist")).status == 204 and chat["biff/node"].db().tx_id == before
    for bad in "", " \n", "\u200b\u3164", "x" * (edits.CHARS_MAX + 1):
        assert (await edit(bob, message, bad)).status == 422
    assert texts((await bob.get(channel)).body_text) == ["frist"]


async def test_a_message_is_edited_so_often_and_no_more(three, monkeypatch):
    """One message that was edited ten thousand times would be a hundred megabytes for each look at its history."""
    ann, bob, _, channel, message = three
    monkeypatch.setattr(edits, "EDITS_MAX", 3)
    assert [(await edit(bob, message, f"text {n}")).status for n in range(5)] == [204] * 3 + [422] * 2
    assert "at most 3 times" in (await edit(bob, message, "once more")).body_text
    assert texts((await ann.get(channel)).body_text) == ["text 2"]


async def test_earlier_versions_are_shown_as_far_as_a_page_goes(three, monkeypatch):
    """Fifty versions of the longest message are two and a half megabytes of markup."""
    _, bob, _, _, message = three
    monkeypatch.setattr(places, "PAGE_CHARS_MAX", 5_000)
    for n in range(5):
        await edit(bob, message, f"version {n} " + "x" * 1_990)
    shown = re.findall(r"version (\d)", (await bob.get(f"{message}/versions")).body_text)
    assert shown[-2:] == ["3", "2"] and "1" not in shown


async def test_an_edit_and_a_deletion_reach_open_pages_and_those_that_come_back(three):
    """A page that keeps the old words says something that nobody says any more."""
    ann, bob, _, channel, message = three
    open_page, cursor = await ann.listen(channel), re.search(r'id="cursor" value="(\d+)"',
                                                             (await ann.get(channel)).body_text)[1]
    await edit(bob, message, "first")
    frame = await open_page.receive_str(timeout=60)
    assert texts(frame) == ["first"] and "outerMorph" in frame and 'class="edited"' in frame
    await take_back(bob, message)
    assert f'id="message-{id_of(message)}" hx-swap-oob="delete"' in await open_page.receive_str(timeout=60)
    back = await ann.listen(channel, cursor)
    frame = await back.receive_str(timeout=60)
    assert "first" not in frame and "frist" not in frame
    assert texts((await ann.get(channel)).body_text) == []
    await open_page.close(), await back.close()


async def test_authors_and_admins_delete_and_nobody_else_does(three):
    """A channel that its admin cannot keep clean, or that anybody can empty."""
    ann, bob, eve, channel, message = three
    assert (await take_back(eve, message)).status == 403
    assert (await take_back(ann, message)).status == 204
    assert (await take_back(bob, message)).status == 404 and texts((await bob.get(channel)).body_text) == []
    await ann.say(channel, "/help")
    answer = re.search(r'id="message-([\w-]+)" data-mem="system"', (await ann.get(channel)).body_text)[1]
    assert (await take_back(bob, f"{channel}/message/{answer}")).status == 403
    assert (await take_back(ann, f"{channel}/message/{answer}")).status == 204


async def test_earlier_versions_are_for_author_and_admins_or_for_all_by_setting(chat, three):      # noqa: F811
    """What somebody took back in time would be read by everybody, or nobody could see what an answer answered."""
    ann, bob, eve, channel, message = three
    await edit(bob, message, "first & <b>")
    await edit(bob, message, "first")
    for one in ann, bob:
        page = (await one.get(f"{message}/versions")).body_text
        said = re.findall(r'<p class="said"[^>]*>([^<]*)</p>', page)
        assert list(map(html.unescape, said)) == ["first & <b>", "frist"]
    assert (await eve.get(f"{message}/versions")).status == 403
    community = channel.partition("/channel")[0]
    await ann.post(f"{community}/title", {"title": "Town", "shows-versions": "on"}, channel)
    assert "frist" in (await eve.get(f"{message}/versions")).body_text
    await ann.post(f"{community}/title", {"title": "Town"}, channel)
    assert (await eve.get(f"{message}/versions")).status == 403
    await take_back(bob, message)
    assert (await ann.get(f"{message}/versions")).status == 404


async def test_a_message_is_edited_only_where_it_stands(three):
    """Through a channel of one's own one would be the admin of everybody's messages."""
    _, bob, eve, _, message = three
    _, own = await eve.new_channel()
    for path in f"{own}/message/{id_of(message)}", f"{own}/message/{id_of(own)}", f"{own}/message/x":
        assert (await take_back(eve, path)).status == 404 and (await eve.get(path)).status == 404
    assert (await bob.get(message)).status == 200


async def test_a_right_that_ends_while_an_edit_is_under_way_does_not_count(chat, three, monkeypatch):  # noqa: F811
    """Whoever was put out could still change what they had said."""
    _, bob, _, channel, message = three
    node = chat["biff/node"]
    stored = node.db().entity(id_of(message))
    submit, overtaken = node.submit, []

    async def late(operations):
        if not overtaken:
            overtaken.append(await submit([delete(stored["msg/mem"])]))
        return await submit(operations)
    monkeypatch.setattr(node, "submit", late)
    await edit(bob, message, "last word")
    assert overtaken and node.db().entity(id_of(message))["msg/text"] == "frist"


async def test_two_edits_at_once_leave_one_of_the_two_texts(chat, three):      # noqa: F811
    """Two windows of one person would leave a mixture, or an error."""
    _, bob, _, channel, message = three
    answers = await asyncio.gather(*(edit(bob, message, f"edit {n}") for n in range(4)))
    assert {answer.status for answer in answers} <= {204, 409}
    assert texts((await bob.get(channel)).body_text)[0] in {f"edit {n}" for n in range(4)}


async def test_what_belongs_to_a_message_goes_with_it(chat, three):      # noqa: F811
    """Reactions to nothing would stay in the store for ever."""
    _, bob, _, _, message = three
    chat["biff/plugins"] = [*chat["biff/plugins"], {"goes-with": {"message": ["note/of"]}}]
    note = {"xt/id": uuid.uuid4(), "note/of": id_of(message)}
    await chat["biff/node"].submit([put(note)])
    await take_back(bob, message)
    assert chat["biff/node"].db().entity(note["xt/id"]) is None


async def test_arrow_up_edits_the_last_message_and_escape_leaves(server, window):      # noqa: F811
    """Everybody mistypes, and everybody who chats presses that key."""
    ann, bob = await window(), await window()
    await two_in_a_channel(server, ann, bob)
    await write(ann, "one"), await write(ann, "tow")
    await until_texts(bob, ["one", "tow"])
    await until_texts(ann, ["one", "tow"])
    await ann.wait_for_function("() => !document.querySelector('.pending')")
    await ann.press("#text", "ArrowUp")
    await ann.wait_for_function("() => document.activeElement.id === 'edit-text' && document.activeElement.value === "
                                "'tow'")
    await ann.press("#edit-text", "Escape")
    await ann.wait_for_function("() => document.activeElement.id === 'text'")
    await ann.press("#text", "ArrowUp")
    await ann.wait_for_selector("#edit-text:focus")
    await ann.fill("#edit-text", "two"), await ann.press("#edit-text", "Enter")
    await until_texts(bob, ["one", "two"]), await until_texts(ann, ["one", "two"])
    await ann.focus("#messages")
    await ann.evaluate("""() => { for (const key of ["ArrowUp", "ArrowUp"])         // both before the next frame
        document.getElementById("messages").dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true})); }""")
    await ann.wait_for_selector("#actions:visible")
    await ann.press("#messages", "Enter")
    await ann.wait_for_selector("#actions [data-act=react]:focus")
    await ann.keyboard.press("ArrowLeft"), await ann.keyboard.press("Enter")
    await ann.wait_for_selector("#delete-message[open] >> text=one")
    await ann.click("#delete-message >> text=Delete >> nth=1")
    await until_texts(bob, ["two"]), await until_texts(ann, ["two"])
    await bob.hover(".message p")
    await bob.wait_for_selector("#actions:visible")
    assert not await bob.is_visible("[data-act=edit]") and not await bob.is_visible("[data-act=delete]")
