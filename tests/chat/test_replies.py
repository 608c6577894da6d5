"""Replies: quotes say what was answered, follow what becomes of it, and a thread has a page."""
import re
import uuid

import pytest

from people import chat, person, texts      # noqa: F401
from plugins import replies
from store import evict
from test_browser import two_in_a_channel, until_texts, write


@pytest.fixture
async def two(chat, person):      # noqa: F811
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    community, channel = await ann.new_channel()
    await bob.join(community)
    return ann, bob, channel


async def answer(one, channel, text, to, thread=None, tx=None, post=None):
    fields = {"text": text, "post": str(post or uuid.uuid4()), "reply": str(to), "thread": str(thread or to),
              "reply-tx": str(one.chat["biff/node"].latest_tx.tx_id if tx is None else tx)}
    return await one.post(channel, fields, channel, {"HX-Request": "true"})


def quotes(html):
    """The quotes of a page as (text, whether it says that it was edited)."""
    return [(re.sub(r"<.*?>", "", quote).strip(), "edited since" in quote)
            for quote in re.findall(r'class="quote".*?>(.*?)</(?:a|div)>', html, re.DOTALL)]


async def said(one, channel, text):
    id = uuid.uuid4()
    await one.say(channel, text, id)
    return id


async def test_a_reply_quotes_the_version_that_was_answered(chat, two):
    """Without this, an edit would turn a "yes" into an answer to another question."""
    ann, bob, channel = two
    id = await said(ann, channel, "shall we meet\nat the harbour?")
    seen = chat["biff/node"].latest_tx.tx_id
    await ann.post(f"{channel}/message/{id}", {"text": "shall we jump?"}, channel, {"HX-Request": "true"})
    assert (await answer(bob, channel, "yes", id, tx=seen)).status == 204
    assert (await answer(bob, channel, "no", id)).status == 204
    page = (await ann.get(channel)).body_text
    (first, is_edited), (second, is_edited_too) = quotes(page)
    assert "shall we meet at the harbour?" in first and is_edited
    assert "shall we jump?" in second and not is_edited_too
    assert texts(page) == ["shall we jump?", "yes", "no"] and ">2 replies</a>" in page


async def test_a_quote_is_shown_without_marks(two):
    """Without this, a quote would show stars and addresses that its message does not."""
    ann, bob, channel = two
    await answer(bob, channel, "yes", await said(ann, channel, "**all** of `a < b`\n- one\n- two"))
    assert "all of a &lt; b one two" in quotes((await ann.get(channel)).body_text)[0][0]


@pytest.mark.parametrize("how", ["deleted", "evicted"])
async def test_a_deleted_message_leaves_no_trace_in_its_quotes(chat, two, how):
    """Without this, who deletes a message would still be quoted with it, on open pages too."""
    ann, bob, channel = two
    id = await said(ann, channel, "a secret word")
    await answer(bob, channel, "what?", id)
    socket = await bob.listen(channel)
    if how == "deleted":
        await ann.post(f"{channel}/message/{id}", page=channel, method="DELETE", headers={"HX-Request": "true"})
    else:
        await chat["biff/node"].submit([evict(id)])
    while not quotes(frame := await socket.receive_str(timeout=60)):
        pass
    page = (await bob.get(channel)).body_text
    assert quotes(frame) == quotes(page) == [("It answers a message that was deleted.", False)]
    assert "a secret word" not in frame + page and "replies</a>" not in page
    await socket.close()


async def test_a_thread_page_shows_one_message_and_its_replies(chat, two):
    """Without this, two conversations in one channel could not be told apart."""
    ann, bob, channel = two
    id, other = await said(ann, channel, "tide tables?"), await said(ann, channel, "something else")
    reply = uuid.uuid4()
    await answer(bob, channel, "on the wall", id, post=reply)
    await answer(ann, channel, "found them", reply, thread=id)
    await answer(bob, channel, "beside it", other)
    page = await bob.get(f"{channel}/message/{id}/thread")
    assert page.url.path_qs == f"{channel}?thread={id}"
    assert texts(page.body_text) == ["tide tables?", "on the wall", "found them"]
    assert f'data-thread="{id}"' in page.body_text
    of_reply = await bob.get(f"{channel}/message/{reply}/thread")
    assert of_reply.history[0].headers["Location"] == f"{channel}?thread={id}#message-{reply}"


async def test_a_reply_is_refused_in_a_sentence_when_it_answers_nothing(chat, two):
    """Without this, a reply could name a message of another channel, whose text its readers may not see."""
    ann, bob, channel = two
    id = await said(ann, channel, "here")
    elsewhere = (await ann.post(f"{channel.partition('/channel')[0]}/channel", {"title": "other"}, channel)).url.path
    there = await said(ann, elsewhere, "there")
    for to, thread in (uuid.uuid4(), None), (there, None), (id, there):
        refused = await answer(bob, channel, "odd", to, thread)
        assert refused.status == 422 and ("not there any more" in refused.body_text or "thread" in refused.body_text)
    for fields in {"reply": "x"}, {"reply": str(id)}, {"reply": str(id), "thread": str(id), "reply-tx": "x"}:
        refused = await bob.post(channel, {"text": "odd", "post": str(uuid.uuid4())} | fields, channel)
        assert refused.status == 422 and "does not say what it answers" in refused.body_text
    assert (await answer(bob, channel, " ", id)).status == 422
    assert texts((await bob.get(channel)).body_text) == ["here"]


async def test_a_reply_that_is_sent_again_is_one_message(chat, two):
    """A lost answer must not double a reply, even when what it answers was deleted meanwhile."""
    ann, bob, channel = two
    id, post = await said(ann, channel, "once"), uuid.uuid4()
    seen = chat["biff/node"].latest_tx.tx_id
    assert (await answer(bob, channel, "yes", id, tx=seen, post=post)).status == 204
    await ann.post(f"{channel}/message/{id}", page=channel, method="DELETE", headers={"HX-Request": "true"})
    assert (await answer(bob, channel, "yes", id, tx=seen, post=post)).status == 204
    assert texts((await bob.get(channel)).body_text) == ["yes"]


async def test_a_quote_is_short_and_one_line(chat, two):
    """Without this, one long message would be sent again with each reply to it."""
    ann, bob, channel = two
    id = await said(ann, channel, "word\n" * 1_000)
    await answer(bob, channel, "yes", id)
    ((quote, _),) = quotes((await bob.get(channel)).body_text)
    assert len(quote) < replies.QUOTE_CHARS_MAX + 20 and quote.endswith("…")


async def test_one_replies_in_the_channel_and_in_a_thread_of_a_browser(server, window):      # noqa: F811
    """Without this, replies would be for programs only."""
    ann, bob = await window(), await window()
    await two_in_a_channel(server, ann, bob)
    await write(ann, "tide tables?")
    await until_texts(bob, ["tide tables?"])
    await bob.hover(".message p")
    await bob.click("#actions [data-act=reply]")
    await bob.wait_for_selector("#replying >> text=tide tables?")
    await bob.press("#text", "Escape")
    await bob.wait_for_selector("#replying", state="hidden")
    await bob.hover(".message p")
    await bob.click("#actions [data-act=reply]")
    await write(bob, "on the wall")
    await ann.wait_for_selector(".message .quote >> text=tide tables?")
    await ann.click(".message .replies >> text=1 reply")
    await ann.wait_for_selector("#messages[data-thread][data-live]")
    await write(bob, "not in the thread")
    await write(ann, "thank you")
    await until_texts(ann, ["tide tables?", "on the wall", "thank you"])
    await until_texts(bob, ["tide tables?", "on the wall", "not in the thread", "thank you"])
    await bob.wait_for_selector(".message .replies >> text=2 replies")
    assert await bob.locator(".message .quote").count() == 2
    await ann.reload()
    await until_texts(ann, ["tide tables?", "on the wall", "thank you"])
    await ann.evaluate("""title => fetch(`${HERE}/title`, {
        method: "POST", body: new URLSearchParams({title}), headers: {"HX-Request": "true",
        "X-CSRF-Token": document.querySelector("[name='__anti-forgery-token']").value}})""", "seeds")
    await ann.wait_for_function("() => document.title.endsWith('Thread in seeds – eelchat')")
