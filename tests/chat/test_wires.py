"""Bad lines, in a real Chromium: a dead one is noticed, what is sent is seen at once and arrives once,
what is typed is lost to nobody."""
import asyncio
import random
import time
import uuid

import pytest

import biff
import eelchat
from biff import sockets
from gate import WebProxy
from people import Person, chat, kept_mails, person      # noqa: F401
from plugins import places
from store import delete, put
from test_browser import (RECONNECTING, a_message, same_process, shot, shots, sign_in_by_code, texts, until_live,
                          until_texts, write)

CUT = [*RECONNECTING, r"net::ERR_\w+", r"Failed to load resource: the server responded with a status of (4\d\d|5\d\d)"]
CLOSED = {"pending": "() => !document.querySelector('.pending')",
          "failed": "() => document.querySelector('.message.failed')"}


@pytest.fixture
async def proxy(chat):      # noqa: F811
    async with WebProxy(chat["biff/port"]) as between:
        yield between


async def behind(proxy, chat, person, window, email, channel=None, **options):      # noqa: F811
    """A window that reaches the chat through the proxy only."""
    page, channel = await same_process(chat, person, window, email, channel, allow=CUT, **options)
    await page.goto(proxy.url + channel)
    await until_live(page)
    return page, channel


def still(chat):      # noqa: F811
    """From now on it is one moment for limits, however slow the machine is, until what it returns is called."""
    begun, is_over = time.monotonic(), []
    chat["biff/limits"] = biff.Limits(lambda: time.monotonic() if is_over else begun)
    return lambda: is_over.append(True)


def said(chat, channel):      # noqa: F811
    """The texts in the store, in the order of the log."""
    db, id = chat["biff/node"].db(), uuid.UUID(channel.rpartition("/")[2])
    return db.q({"find": ["?text"], "in": ["?c"], "where": [["?m", "msg/channel", "?c"], ["?m", "msg/text", "?text"]],
                 "order-by": [[("created", "?m"), "asc"]]}, id)


# ── A dead line ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_line_that_is_dead_is_noticed_and_replaced(chat, proxy, person, window, say):      # noqa: F811
    """A network that forgets a connection tells nobody: the page would look alive for minutes and show nothing."""
    page, channel = await same_process(chat, person, window, "ann@example.com", allow=CUT)
    await page.clock.install()
    begun = await page.evaluate("Date.now()")
    await page.goto(proxy.url + channel)
    await until_live(page)
    await page.evaluate("""() => { const watched = {subtree: true, childList: true, characterData: true};
        window.said = [];
        new MutationObserver(() => said.push($("connection").textContent)).observe(document.body, watched); }""")
    proxy.stall("socket")
    await chat["biff/node"].submit([put(a_message(chat, channel, "do you hear me?"))])
    await page.clock.run_for(20_000)
    silent_ms, shown = await page.evaluate("""begun => [Date.now() - begun, [$("connection").textContent,
        ...[...document.querySelectorAll("#messages p")].map(text => text.textContent)].join("")]""", begun)
    assert shown == "" or silent_ms > 25_000, "time also goes by itself, while a busy machine loads the page"
    await page.clock.run_for(6_000)
    await page.wait_for_function("said.some(text => text.startsWith('Connection lost.'))")
    for _ in range(20):
        await page.clock.run_for(200)
    await until_texts(page, ["do you hear me?"])
    await until_live(page)
    say("a stalled socket was noticed after 20 to 26 s of the page's clock, asked 25; the server says a word every "
        f"{sockets.PING_S} s")
    assert sockets.PING_S <= 20


async def test_ones_own_message_that_does_not_come_back_tells_of_a_dead_line(chat, proxy, person, window):  # noqa: F811
    """The author would see the text vanish, and write it again."""
    page, channel = await behind(proxy, chat, person, window, "ann@example.com")
    proxy.stall("socket")
    await write(page, "where am I?")
    await page.wait_for_selector(".pending.stored")
    await page.wait_for_selector("text=Connection lost.", timeout=60_000)
    await until_live(page)
    await page.wait_for_function(CLOSED["pending"])
    await page.wait_for_selector("#connection", state="hidden")
    assert await texts(page) == ["where am I?"] == [text for text, in said(chat, channel)]


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1009, 1011, 1012, 3000, 4000, 4999])
async def test_every_other_closing_is_tried_again(chat, person, window, code):      # noqa: F811
    """A proxy closes with whatever number it likes:
    a page that takes one for the last word is dead without saying so."""
    page, channel = await same_process(chat, person, window, "ann@example.com", allow=CUT)
    client, = chat["chat_clients"].sockets()
    chat["chat_clients"].close(client, code)
    await page.wait_for_selector("#messages:not([data-live])", state="attached")
    await until_live(page)
    await chat["biff/node"].submit([put(a_message(chat, channel, "back"))])
    await until_texts(page, ["back"])


async def test_a_closing_for_good_without_a_word_is_told_as_final(chat, person, window):      # noqa: F811
    """The one code that is not tried again must not leave a page that looks alive."""
    page, _ = await same_process(chat, person, window, "ann@example.com", allow=CUT)
    client, = chat["chat_clients"].sockets()
    chat["chat_clients"].close(client, 1008)
    await page.wait_for_selector("text=The server has closed this page's connection. Reload the page.")


async def test_without_a_socket_the_page_names_the_cause_and_asks_for_news(chat, proxy, person, window,
                                                                           say):  # noqa: F811
    """Behind a proxy that knows no Upgrade the page would show nothing new, for ever, and not say why."""
    page, channel = await same_process(chat, person, window, "ann@example.com", allow=CUT)
    proxy.edits = [(b"Upgrade: websocket", b"X-Not-Up: websocket")]
    await page.goto(proxy.url + channel)
    await page.wait_for_selector("text=lets no WebSocket through", timeout=60_000)
    await write(page, "mine")
    await until_texts(page, ["mine"])
    await page.wait_for_function(CLOSED["pending"])
    await chat["biff/node"].submit([put(a_message(chat, channel, "another's"))])
    await until_texts(page, ["mine", "another's"])
    await shots(page, "no-socket")
    proxy.edits = []
    await page.wait_for_selector("#messages[data-live]", timeout=60_000)
    await page.wait_for_selector("#connection", state="hidden")
    await chat["biff/node"].submit([put(a_message(chat, channel, "live"))])
    await until_texts(page, ["mine", "another's", "live"])


async def test_every_page_asks_for_news_where_it_gets_no_socket(chat, proxy, person, window):      # noqa: F811
    """The list of channels and the first page would grow old, and look alive."""
    page, channel = await same_process(chat, person, window, "ann@example.com", allow=CUT)
    community, node = channel.partition("/channel")[0], chat["biff/node"]
    proxy.edits = [(b"Upgrade: websocket", b"X-Not-Up: websocket")]
    for path in community, "/app":
        await page.goto(proxy.url + path)
        await page.wait_for_selector("text=lets no WebSocket through", timeout=60_000)
        document = node.db().entity(uuid.UUID(community.rpartition("/")[2]))
        await node.submit([put(document | {"comm/title": f"seen on {path}"})])
        await page.wait_for_selector(f"#main :text('seen on {path}'), #switcher :text('seen on {path}')",
                                     state="attached")


async def test_a_handshake_that_nobody_answers_is_given_up(chat, proxy, person, window):      # noqa: F811
    """A proxy that holds what it does not know would keep the page waiting for four minutes at each try."""
    page, channel = await same_process(chat, person, window, "ann@example.com", allow=CUT)
    proxy.is_holding_sockets = True
    await page.goto(proxy.url + channel)
    await page.wait_for_selector("text=lets no WebSocket through", timeout=60_000)
    await chat["biff/node"].submit([put(a_message(chat, channel, "all the same"))])
    await until_texts(page, ["all the same"])
    proxy.is_holding_sockets = False
    await page.wait_for_selector("#messages[data-live]", timeout=60_000)


async def test_a_session_that_ends_is_told_where_there_is_no_socket_either(chat, proxy, person, window):  # noqa: F811
    """The page would say for ever that it tries again."""
    page, channel = await same_process(chat, person, window, "ann@example.com", allow=CUT)
    proxy.edits = [(b"Upgrade: websocket", b"X-Not-Up: websocket")]
    await page.goto(proxy.url + channel)
    await page.wait_for_selector("text=lets no WebSocket through", timeout=60_000)
    session = chat["biff/node"].db().q({"find": "?s", "where": [["?s", "session/user"]]})[0]
    await chat["biff/node"].submit([delete(session)])
    await page.wait_for_selector("text=You have signed out.")
    await page.click("text=Sign in again")
    await page.wait_for_url("**/signin?**return-to**")


async def test_a_wrong_base_url_is_named_as_the_cause(tmp_path, monkeypatch, window):
    """An operator who set it wrong sees a chat that is silent, and looks everywhere else first."""
    system = await biff.start_system(eelchat.COMPONENTS,
                                     eelchat.initial_system({"data": str(tmp_path), "port": 0,
                                                             "base_url": "http://chat.example"}))
    system["mails"] = kept_mails(monkeypatch)
    ann = Person(system)
    ann.base = f"http://127.0.0.1:{system['biff/port']}"
    try:
        await ann.sign_in("ann@example.com")
        _, channel = await ann.new_channel()
        async with WebProxy(system["biff/port"]) as proxy:
            proxy.edits = [(f"Host: 127.0.0.1:{proxy.port}".encode(), b"Host: inside")]
            page = await window(allow=CUT)
            await page.context.add_cookies([{"name": cookie.key, "value": cookie.value, "url": ann.base}
                                            for cookie in ann.browser.cookie_jar])
            await page.goto(proxy.url + channel)
            await page.wait_for_selector("text=takes live connections only at http://chat.example, its base URL",
                                         timeout=60_000)
            await write(page, "all the same")
            await until_texts(page, ["all the same"])
            await page.wait_for_function(CLOSED["pending"])
    finally:
        await ann.browser.close()
        await biff.stop_system(system)


async def test_the_word_that_the_server_is_cut_off_goes_with_the_server_that_said_it(chat, person,
                                                                                     window):  # noqa: F811
    """After a restart nobody would take the banner down: it would warn for days of what is long over."""
    page, _ = await same_process(chat, person, window, "ann@example.com", allow=CUT)
    await page.eval_on_selector("#waiting", "word => { word.hidden = false }")
    client, = chat["chat_clients"].sockets()
    client.transport.abort()
    await page.wait_for_selector("#waiting", state="hidden")


# ── What is sent ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_sent_is_seen_at_once_and_becomes_sent(chat, proxy, person, window):      # noqa: F811
    """A text that is nowhere for two seconds is typed again."""
    page, channel = await behind(proxy, chat, person, window, "ann@example.com")
    proxy.delay = lambda: 1
    await write(page, "slow train")
    pending = page.locator("#messages .message.pending")
    assert await pending.locator("p").text_content() == "slow train" and await page.input_value("#text") == ""
    assert float(await pending.locator("p").evaluate("text => getComputedStyle(text).opacity")) < 1
    id = await pending.get_attribute("id")
    await shots(page, "pending")
    await page.wait_for_function(CLOSED["pending"])
    stored, = chat["biff/node"].db().q({"find": "?m", "where": [["?m", "msg/text"]]})
    assert await page.locator("#messages .message").get_attribute("id") == id == f"message-{stored}"


async def test_what_failed_can_be_sent_again_or_deleted_in_the_order_of_writing(chat, proxy, person,
                                                                                window):  # noqa: F811
    """Three messages that could not be sent came back as three, two, one, joined to what was being typed."""
    page, channel = await behind(proxy, chat, person, window, "ann@example.com")
    await write(page, "zero"), await page.wait_for_function("() => document.querySelector('.message') && "
                                                            "!document.querySelector('.pending')")
    proxy.is_refusing = True
    proxy.cut()
    for text in "one", "two", "three":
        await write(page, text)
    await page.fill("#text", "four, being typed")
    await page.wait_for_function("() => document.querySelectorAll('.message.failed').length === 3")
    assert await texts(page) == ["zero", "one", "two", "three"]
    assert await page.input_value("#text") == "four, being typed"
    await shots(page, "failed")
    await page.click(".message.failed:has-text('two') >> text=Delete")
    assert await page.evaluate("document.activeElement.id") == "text"
    proxy.is_refusing = False
    await page.press("#text", "Enter")                       # what failed goes first
    await page.wait_for_function(CLOSED["pending"])
    await until_texts(page, ["zero", "one", "three", "four, being typed"])
    assert [text for text, in said(chat, channel)] == ["zero", "one", "three", "four, being typed"]


async def test_what_was_stored_although_no_answer_came_is_there_once(chat, proxy, person, window):      # noqa: F811
    """The page cannot know: it asks again under the same id, and the server knows the message."""
    page, channel = await behind(proxy, chat, person, window, "ann@example.com")
    proxy.deaf = 1
    await write(page, "only once")
    await page.wait_for_function(CLOSED["pending"])
    proxy.stall("socket")
    proxy.deaf = 20                                          # nor does the socket tell; browsers try by themselves, too
    await write(page, "this one too")
    await page.wait_for_function(CLOSED["failed"])
    proxy.deaf = 0
    await page.click(".message.failed >> text=Retry")
    await page.wait_for_function(CLOSED["pending"])
    assert await texts(page) == ["only once", "this one too"] == [text for text, in said(chat, channel)]


async def test_what_was_deleted_before_it_arrived_never_arrives(chat, proxy, person, window):      # noqa: F811
    """A proxy may hold a request for a minute: what its author has deleted meanwhile would appear all the same."""
    page, channel = await behind(proxy, chat, person, window, "ann@example.com")
    ann, node = await person("ann@example.com"), chat["biff/node"]
    proxy.is_refusing = True
    proxy.cut()
    await write(page, "better not")
    await page.wait_for_function(CLOSED["failed"])
    id = (await page.get_attribute(".message.failed", "id")).removeprefix("message-")
    await page.click(".message.failed >> text=Delete")
    await page.wait_for_function(CLOSED["pending"])
    proxy.is_refusing = False
    await until_live(page)
    await page.wait_for_function("() => !sessionStorage.outbox")
    assert "withdrawal/mem" in node.db().entity(uuid.UUID(id))
    assert (await ann.say(channel, "better not", id)).status == 409
    assert said(chat, channel) == [] and await texts(page) == []


async def test_a_withdrawn_message_goes_if_it_was_there(chat, person):      # noqa: F811
    """Deleting what may have arrived must delete what has arrived, and nobody else's."""
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    community, channel = await ann.new_channel()
    await bob.join(community)
    post = uuid.uuid4()
    await ann.say(channel, "a slip", post)
    for one, left in (bob, [("a slip",)]), (ann, []):
        assert (await one.post(f"{channel}/withdraw", {"post": str(post)}, channel,
                               {"HX-Request": "true"})).status == 204
        assert said(chat, channel) == left
    assert (await ann.post(f"{channel}/withdraw", {"post": "x"}, channel)).status == 422


async def test_one_id_with_two_texts_is_refused_and_one_with_the_same_is_not(chat, person):      # noqa: F811
    """The second text was answered as if it had been stored, and was gone."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    post = uuid.uuid4()
    answers = [(await ann.say(channel, text, post)).status for text in ("first", "second", "first")]
    message = chat["biff/node"].db().entity(post)
    await chat["biff/node"].submit([put(message | {"msg/text": "first, edited"})])
    answers.append((await ann.say(channel, "first", post)).status)
    await chat["biff/node"].submit([delete(post)])
    answers.append((await ann.say(channel, "first", post)).status)
    assert answers == [204, 409, 204, 204, 204] and said(chat, channel) == []


async def test_a_message_that_waits_while_a_title_changes_is_stored(chat, person, monkeypatch):      # noqa: F811
    """Whoever wrote while an admin renamed the channel was told to reload the page."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    node, id = chat["biff/node"], uuid.UUID(channel.rpartition("/")[2])

    async def rename(ctx, text):
        await node.submit([put(node.db().entity(id) | {"chan/title": f"renamed for {text}"})])
    monkeypatch.setattr(eelchat, "refusal_of", rename)
    assert (await ann.say(channel, "meanwhile")).status == 204
    assert node.db().entity(id)["chan/title"] == "renamed for meanwhile" and said(chat, channel) == [("meanwhile",)]


async def test_what_was_sent_is_not_back_in_the_box_after_going_elsewhere(chat, proxy, person, window):  # noqa: F811
    """It would be sent a second time, in good faith."""
    page, channel = await behind(proxy, chat, person, window, "ann@example.com")
    proxy.delay = lambda: 1
    await write(page, "on my way out")
    await page.goto(f"{proxy.url}/app")
    proxy.delay = lambda: 0
    await page.goto(proxy.url + channel)
    assert await page.input_value("#text") == ""
    await page.wait_for_function("() => document.querySelector('.message') && !document.querySelector('.pending')")
    assert await texts(page) == ["on my way out"] == [text for text, in said(chat, channel)]


async def test_a_message_that_fails_after_its_page_was_left_is_marked(chat, person, window):      # noqa: F811
    """It would wait unseen until its author comes to that channel again."""
    page, channel = await same_process(chat, person, window, "ann@example.com", allow=CUT)

    async def lose(route):
        await (route.abort() if route.request.method == "POST" else route.continue_())
    await page.route("**/channel/*", lose)
    await write(page, "on my way out")
    await page.goto(chat["biff/base-url"] + channel.partition("/channel")[0])
    await page.wait_for_selector("#channels a.unsent")
    await shot(page, "unsent")
    await page.unroute("**/channel/*")
    await page.click("#channels a")
    await page.click(".message.failed >> text=Retry")
    await page.wait_for_function(CLOSED["pending"])
    assert await texts(page) == ["on my way out"] and not await page.locator("a.unsent").count()


async def test_a_post_that_nobody_answers_ends_after_fifteen_seconds_with_a_sentence(chat, proxy, person, window,
                                                                                     say):  # noqa: F811
    """A button that turns for minutes is a text that may be lost, and nobody says so."""
    page, channel = await behind(proxy, chat, person, window, "ann@example.com")
    begun = asyncio.get_running_loop().time()
    proxy.delay = lambda: 60
    await write(page, "hello?")
    await page.wait_for_selector("text=Sending …")
    await page.wait_for_selector("text=Not sent. The server has not answered within 15 seconds.", timeout=60_000)
    took = asyncio.get_running_loop().time() - begun
    say(f"a post without an answer ended after {took:.1f} s with a sentence; asked 15")
    proxy.delay = lambda: 0
    proxy.cut()
    await page.evaluate("document.querySelector('.message.failed button')?.click()")   # or the page has sent it again
    await page.wait_for_function(CLOSED["pending"])
    assert await texts(page) == ["hello?"] == [text for text, in said(chat, channel)]


async def test_who_writes_fast_waits_and_loses_nothing(chat, person, window):      # noqa: F811
    """The eleventh message in ten seconds came back into the box, in front of the twelfth."""
    page, channel = await same_process(chat, person, window, "ann@example.com", allow=CUT)
    wanted, end = [f"message {n}" for n in range(12)], still(chat)
    for text in wanted:
        await write(page, text)
    await page.wait_for_selector("#failure:has-text('10 messages in 10 seconds')")
    end()
    await page.wait_for_function(CLOSED["pending"], timeout=30_000)
    await until_texts(page, wanted)
    assert await page.is_hidden("#failure") and await page.input_value("#text") == ""


async def test_a_mistaken_command_stays_with_its_author_who_can_delete_it(chat, person, window):      # noqa: F811
    """The channel need not see it, and its author must not lose a long address
    that has one letter too many before it."""
    page, channel = await same_process(chat, person, window, "ann@example.com", allow=CUT)
    await write(page, "/Subscribe https://a.example/feed")
    await page.wait_for_selector(".message.failed >> text=Write it exactly so: /subscribe URL")
    await write(page, "hello")                               # others do not wait for it
    await page.wait_for_function("() => document.querySelectorAll('.pending').length === 1")
    assert said(chat, channel) == [("hello",)] and await texts(page) == ["hello", "/Subscribe https://a.example/feed"]
    await page.click(".message.failed >> text=Delete")
    await page.wait_for_function(CLOSED["pending"])


# ── What is typed ────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_text_that_is_too_long_stays_whole_and_says_so(chat, person, window):      # noqa: F811
    """A browser cuts a paste at the limit in silence: the end of a letter is missing, and its author learns it last."""
    page, channel = await same_process(chat, person, window, "ann@example.com")
    await page.fill("#text", "x" * 10_005)
    await shots(page, "too-long")
    await page.wait_for_selector("text=A message has at most 10,000 characters; this one has 10,005. Nothing was cut: "
                                 "shorten it by 5")
    await page.press("#text", "Enter")
    assert len(await page.input_value("#text")) == 10_005 and await texts(page) == []
    await page.fill("#text", "x" * 10_000)
    await page.wait_for_selector("#failure", state="hidden")
    await page.press("#text", "Enter")
    await until_texts(page, ["x" * 10_000])


@pytest.mark.parametrize("letter", ["漢", "🐟"])
async def test_ten_thousand_characters_are_ten_thousand_in_every_script(chat, person, window, letter):  # noqa: F811
    """In Chinese the page took 10,000 and the server 7,267."""
    page, channel = await same_process(chat, person, window, "ann@example.com")
    await write(page, letter * 10_000)
    await page.wait_for_function("() => document.querySelector('.message') && !document.querySelector('.pending')")
    assert said(chat, channel) == [(letter * 10_000,)]


async def test_what_was_written_in_a_channel_that_is_gone_is_shown_once_more(chat, person, window):      # noqa: F811
    """Somebody else deletes the channel, and half an hour of writing with it."""
    ann, channel = await same_process(chat, person, window, "ann@example.com")
    bob, _ = await same_process(chat, person, window, "bob@example.com", channel, allow=CUT)
    await bob.fill("#text", "a long letter")
    await chat["biff/node"].submit([delete(uuid.UUID(channel.rpartition("/")[2]))])
    await bob.wait_for_selector("text=This channel was deleted.")
    assert await bob.input_value("#text") == "a long letter"
    await bob.press("#text", "Enter")
    await bob.wait_for_selector(".message.failed >> text=This channel is not open to you any more.")
    await bob.fill("#text", "and its end")
    await bob.goto(chat["biff/base-url"] + channel.partition("/channel")[0])
    assert await bob.input_value(".orphan textarea") == "a long letter\n\nand its end"
    await shots(bob, "orphan")
    await bob.click(".orphan >> text=Delete")
    await bob.reload()
    assert await bob.locator(".orphan").count() == 0


async def test_a_session_that_ended_keeps_drafts_for_the_same_person_in_another_tab(chat, person, window):  # noqa: F811
    """A sign-in link opens in a new tab: what was being written in the old one must be there."""
    page, channel = await same_process(chat, person, window, "ann@example.com")
    await page.fill("#text", "half a thought")
    session = chat["biff/node"].db().q({"find": "?s", "where": [["?s", "session/user"]]})[0]
    await chat["biff/node"].submit([delete(session)])
    await page.wait_for_selector("text=You have signed out.")
    await shots(page, "session-over")
    await page.type("#text", " more")
    other = await page.context.new_page()
    await other.goto(chat["biff/base-url"] + channel)
    await sign_in_by_code(chat, other, "ann@example.com")
    await other.wait_for_url(f"**{channel}")
    assert await other.input_value("#text") == "half a thought more"
    await until_live(page)                                   # the old tab is back by itself
    assert await page.input_value("#text") == "half a thought more"


async def test_a_draft_outlives_its_tab_and_is_one_in_all_tabs(chat, person, window):      # noqa: F811
    """A tab is closed by mistake, and half an hour of writing with it; or what one tab has sent is in another's box."""
    page, channel = await same_process(chat, person, window, "ann@example.com")
    await page.fill("#text", "half a thought")
    await page.close()
    first, second = await page.context.new_page(), await page.context.new_page()
    for one in first, second:
        await one.goto(chat["biff/base-url"] + channel)
        await until_live(one)
        assert await one.input_value("#text") == "half a thought"
    await first.fill("#text", "a whole thought")
    await second.wait_for_function("() => document.getElementById('text').value === 'a whole thought'")
    await second.press("#text", "Enter")
    await first.wait_for_function("() => document.getElementById('text').value === ''")
    await until_texts(first, ["a whole thought"])
    await second.wait_for_function(CLOSED["pending"])
    await first.reload()
    assert await first.input_value("#text") == "" and await first.evaluate("() => kept.drafts()") == []


@pytest.mark.parametrize("next_one", ["ann@example.com", "bob@example.com"])
async def test_a_sibling_tab_that_signs_out_is_told_as_that(chat, person, window, next_one):      # noqa: F811
    """Drafts come back to the one who wrote them, and are shown to nobody else at the same machine."""
    page, channel = await same_process(chat, person, window, "ann@example.com")
    bob = await person("bob@example.com")
    await bob.join(channel.partition("/channel")[0])
    await page.fill("#text", "a private thought")
    other = await page.context.new_page()
    await other.goto(f"{chat['biff/base-url']}/app")
    await other.click("text=Sign out")
    await page.wait_for_selector("text=You signed out in another tab.")
    assert "/signin?" in page.url
    await sign_in_by_code(chat, page, next_one)
    await page.wait_for_url(f"**{channel}")
    mine = next_one.startswith("ann")
    assert await page.input_value("#text") == ("a private thought" if mine else "")
    kept = await page.evaluate("JSON.stringify([{...sessionStorage}, {...localStorage}])")
    assert ("a private thought" in kept) == mine
    await other.goto(chat["biff/base-url"] + channel)
    assert await other.input_value("#text") == ("a private thought" if mine else "")


async def test_a_next_person_beside_an_open_tab_sees_none_of_its_drafts(chat, person, window):      # noqa: F811
    """Nobody has to sign out first: the next one's sign-in ends the session, and the old tab is still there."""
    page, channel = await same_process(chat, person, window, "ann@example.com")
    bob = await person("bob@example.com")
    await bob.join(channel.partition("/channel")[0])
    await page.fill("#text", "a private thought")
    other = await page.context.new_page()
    await other.goto(f"{chat['biff/base-url']}/signin?return-to={channel}")
    await sign_in_by_code(chat, other, "bob@example.com")
    await other.wait_for_url(f"**{channel}")
    await until_live(page)                                     # the old tab is the next one's, too
    for one in page, other:
        assert await one.input_value("#text") == ""
        assert "a private thought" not in await one.evaluate("JSON.stringify([{...sessionStorage}, {...localStorage}])")


@pytest.mark.parametrize("path", ["/", "/signin"])
async def test_an_address_that_is_refused_is_still_in_its_field(chat, window, path):      # noqa: F811
    """Whoever mistyped one letter of thirty types all thirty again."""
    page = await window()
    await page.goto(chat["biff/base-url"] + path)
    await page.fill("#email", "ann@localhost")
    await page.press("#email", "Enter")
    await page.wait_for_selector("text=Invalid email.")
    assert await page.input_value("#email") == "ann@localhost"


# ── All of it at once ────────────────────────────────────────────────────────────────────────────────────────

PRESS = """([text, name]) => {
    const failed = [...document.querySelectorAll('.message.failed')];
    const message = text ? failed.find(one => one.querySelector('p').textContent === text) : failed[0];
    const button = [...message?.querySelectorAll('button') ?? []].find(one => one.textContent === name);
    button?.click();
    return Boolean(button); }"""
FAILED = "() => [...document.querySelectorAll('.message.failed p')].map(text => text.textContent)"


class Writer:
    """Somebody who writes, sends again and deletes, as it comes. `written` and `deleted` are what they know of it."""

    def __init__(self, page, name, dice):
        self.page, self.name, self.dice, self.written, self.deleted = page, name, dice, [], set()

    async def write(self, count):
        for n in range(count):
            self.written.append(f"{self.name} {n}")
            await write(self.page, self.written[-1])
            await asyncio.sleep(self.dice.uniform(0, 2))
            await self.look_at_failures()

    async def look_at_failures(self):
        for text in await self.page.evaluate(FAILED):
            act = self.dice.choice(["Retry", "Delete", "nothing"])
            if act != "nothing" and await self.page.evaluate(PRESS, [text, act]) and act == "Delete":
                self.deleted.add(text)

    async def end(self):
        """Sends what is left, and waits until nothing is on its way, neither to be sent nor to be taken back."""
        for _ in range(60):
            await self.page.evaluate(PRESS, ["", "Retry"])
            if await self.page.evaluate("() => !sessionStorage.outbox"):
                return
            await asyncio.sleep(1)

    def kept(self):
        return [text for text in self.written if text not in self.deleted]


FAULTS = ["stall sockets", "stall requests", "cut sockets", "cut all", "refuse", "refuse", "slow", "deaf", "deaf",
          "calm"]


async def trouble(proxy, dice, told):
    """Faults, one after the other, until it is cancelled."""
    while True:
        fault = dice.choice(FAULTS)
        told[fault] = told.get(fault, 0) + 1
        match fault:
            case "stall sockets": proxy.stall("socket")
            case "stall requests": proxy.stall("request")
            case "cut sockets": proxy.cut("socket")
            case "cut all": proxy.cut()
            case "slow": proxy.delay = lambda: dice.uniform(0, 1.5)
            case "deaf": proxy.deaf = dice.randint(1, 12)
            case "refuse": proxy.cut()
            case "calm": proxy.delay = lambda: 0
        proxy.is_refusing = fault == "refuse"
        await asyncio.sleep(dice.uniform(0.3, 3))


async def test_under_random_faults_each_message_arrives_once_and_in_order(chat, proxy, person, window, size, seed,
                                                                          say):  # noqa: F811
    """All of the above can be true one by one, and false together."""
    ann, channel = await behind(proxy, chat, person, window, "ann@example.com")
    bob, _ = await behind(proxy, chat, person, window, "bob@example.com", channel)
    dice, told, count = random.Random(seed), {}, size(24, 200)
    writers = [Writer(ann, "ann", random.Random(seed + 1)), Writer(bob, "bob", random.Random(seed + 2))]
    faults = asyncio.create_task(trouble(proxy, dice, told))
    try:
        await asyncio.gather(*(writer.write(count // 2) for writer in writers))
    finally:
        faults.cancel()
    proxy.delay, proxy.deaf, proxy.is_refusing = lambda: 0, 0, False
    proxy.cut()
    await asyncio.gather(*(writer.end() for writer in writers))
    stored = [text for text, in said(chat, channel)]
    for writer in writers:
        assert [text for text in stored if text.startswith(writer.name)] == writer.kept()
        await until_live(writer.page)
        await writer.page.wait_for_function("last => [...document.querySelectorAll('.message p')].at(-1)?.textContent "
                                            "=== last", arg=stored[-1])
        shown = await texts(writer.page)
        assert shown == stored[-len(shown):] and len(shown) >= min(len(stored), places.PAGE_MESSAGES)
        assert await writer.page.input_value("#text") == "" and not await writer.page.locator(".pending").count()
    deleted = sum(len(writer.deleted) for writer in writers)
    say(f"{count} messages of two people under {sum(told.values())} faults "
        f"({', '.join(f'{n} × {fault}' for fault, n in sorted(told.items()))}): {len(stored)} stored, each once and in "
        f"the order of writing, {deleted} deleted and none of these stored; asked 0 lost, 0 twice, 0 out of order")
