"""The main job, in a real Chromium: two people, two windows, one conversation;
and what happens when the server dies."""
import asyncio
import contextlib
import datetime as dt
import os
import pathlib
import re
import uuid


import biff
import eelchat
import store
from biff.door import Door
from plugins import feeds
from hosts import host, rss      # noqa: F401
from people import HELP, NEXT_FRAME, chat, delete_channel, found, person, pick      # noqa: F401
from store import delete, evict, put

SHOTS = os.environ.get("SHOTS")       # a folder: the tests leave screenshots there, for eyes


async def sign_up(page, server, email):
    """Signs in by the link that the server prints."""
    said = len(server.log)
    await page.goto(server.url)
    await page.fill("#email", email)
    await page.click("text=Get a sign-in link")
    await page.wait_for_url("**/link-sent?**")
    link = (await server.said(r"http\S+/auth/verify-link/\S+", said)).group()
    await page.goto(link)
    await page.click(f"text=Sign in as {email}")
    await page.wait_for_url("**/app")


async def shot(page, name):
    if SHOTS:
        await page.screenshot(path=pathlib.Path(SHOTS) / f"{name}.png")


async def write(page, text):
    await page.fill("#text", text)
    await page.press("#text", "Enter")


async def texts(page):
    return await page.eval_on_selector_all("#messages .message p", "all => all.map(one => one.textContent)")


async def until_texts(page, wanted):
    """Waits until the window shows exactly these messages, in this order."""
    await page.wait_for_function("""wanted => {
        const said = one => one.matches("p") ? one.textContent : one.innerText.replace(/\\n+/g, "\\n");
        const all = [...document.querySelectorAll("#messages .message")].map(message => said(textOf(message)));
        return JSON.stringify(all) === JSON.stringify(wanted); }""", arg=wanted)


async def until_live(page):
    await page.wait_for_selector("#messages[data-live]")


async def invite(host, guest):
    """The host makes a link on the page of invitations, and the guest joins by it."""
    await host.click("#invite")
    await host.click("text=Make a link")
    link = await host.input_value(".invitation input")
    await guest.goto(link)
    await guest.click("text=Join")
    await guest.wait_for_url("**/channel/*")


async def two_in_a_channel(server, ann, bob):
    """Ann makes a community and a channel, Bob joins; both windows are in it."""
    await sign_up(ann, server, "ann@example.com")
    await found(ann)
    channel = ann.url
    await sign_up(bob, server, "bob@example.com")
    await invite(ann, bob)
    await ann.goto(channel)
    await until_live(ann), await until_live(bob)
    return ann.url


RECONNECTING = [r"WebSocket connection to .* failed", r"htmx:ws:error", r"ERR_CONNECTION_(REFUSED|RESET)", r"ERR_EMPTY",
                r"htmx:error: Failed to fetch"]


async def test_what_one_writes_appears_in_the_others_window_once_and_in_order(server, window):
    """Without this there is no chat."""
    ann, bob = await window(), await window()
    await two_in_a_channel(server, ann, bob)
    await write(ann, "Hello Bob!")
    await until_texts(bob, ["Hello Bob!"])
    await write(bob, "Hello Ann,\nhow <b>are</b> you?")
    said = ["Hello Bob!", "Hello Ann,\nhow <b>are</b> you?"]
    for n in range(5):
        await write(ann, f"quick {n}")
        said.append(f"quick {n}")
    for page in ann, bob:
        await until_texts(page, said)
        await page.reload()
        await until_texts(page, said)
    assert await ann.input_value("#text") == ""


async def test_windows_catch_up_without_a_reload_after_the_server_was_killed(server, window):
    """A deploy, a crash or a power cut must not lose what was said meanwhile, nor say it twice."""
    ann, bob = await window(allow=RECONNECTING), await window(allow=RECONNECTING)
    url = await two_in_a_channel(server, ann, bob)
    await write(ann, "before")
    await until_texts(bob, ["before"])
    server.kill()
    channel = uuid.UUID(url.rpartition("/")[2])
    with contextlib.closing(store.open(server.data / "eelchat.db")) as node:
        mem = node.db().q({"find": "?mem", "where": [["?mem", "mem/roles", "admin"]]})[0]
        message = {"xt/id": uuid.uuid4(), "msg/mem": mem, "msg/text": "while it was down", "msg/channel": channel,
                   "msg/created-at": dt.datetime.now(dt.timezone.utc)}
        assert node.submit_tx([put(message)]).committed
    server.start()
    for page in ann, bob:
        await page.wait_for_function("() => document.querySelectorAll('#messages .message').length === 2",
                                     timeout=60_000)
        assert await texts(page) == ["before", "while it was down"]
        await until_live(page)
    await write(bob, "after")
    for page in ann, bob:
        await until_texts(page, ["before", "while it was down", "after"])


async def test_ctrl_c_stops_at_once_with_browsers_connected_and_they_come_back(server, window, say):
    """An operator who has to wait, or browsers that stay away, make every deploy an event."""
    ann, bob = await window(allow=RECONNECTING), await window(allow=RECONNECTING)
    await two_in_a_channel(server, ann, bob)
    took = server.stop()
    say(f"stopped in {took:.2f} s with two browsers connected, asked 1 s")
    assert took < 10
    server.start()
    await until_live(ann), await until_live(bob)
    await write(ann, "back again")
    await until_texts(bob, ["back again"])


async def test_what_was_typed_is_still_there_when_it_could_not_be_sent(server, window):
    """Text that vanishes is the one thing that people do not forgive."""
    ann, bob = await window(allow=RECONNECTING), await window(allow=RECONNECTING)
    await two_in_a_channel(server, ann, bob)
    server.kill()
    for text in "do not lose me", "nor me", "me neither":
        await write(ann, text)
    await ann.wait_for_function("() => document.querySelectorAll('.message.failed').length === 3")
    assert await ann.input_value("#text") == ""
    assert "The server cannot be reached." in await ann.text_content("#failure")
    server.start()
    await until_live(ann)
    await ann.wait_for_selector("#failure", state="hidden")
    assert await ann.text_content(".failed .fate span") == "Not sent."
    await ann.click(".failed >> text=Retry")
    for page in ann, bob:
        await until_texts(page, ["do not lose me", "nor me", "me neither"])
    await ann.wait_for_function("() => !document.querySelector('.pending')")


async def test_enter_sends_but_not_while_an_input_method_composes_and_shift_enter_breaks_the_line(server, window):
    """Without this, people who write Japanese would send half words."""
    ann, bob = await window(), await window()
    await two_in_a_channel(server, ann, bob)
    await ann.fill("#text", "にほ")
    await ann.eval_on_selector("#text", "box => box.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', "
                                        "isComposing: true, bubbles: true, cancelable: true}))")
    await ann.fill("#text", "one")
    await ann.press("#text", "Shift+Enter")
    await ann.type("#text", "two")
    await ann.press("#text", "Enter")
    await until_texts(bob, ["one\ntwo"])


async def same_process(chat, person, window, email, channel=None, **options):    # noqa: F811
    """A window of somebody signed in, on a channel of a chat that runs in the test's own process."""
    one = await person(email)
    page = await window(**options)
    await page.context.add_cookies([{"name": cookie.key, "value": cookie.value, "url": one.base}
                                    for cookie in one.browser.cookie_jar])
    if channel is None:
        _, channel = await one.new_channel()
    else:
        await one.join(channel.partition("/channel")[0])
    await page.goto(one.base + channel)
    await until_live(page)
    return page, channel


def a_message(chat, channel, text):      # noqa: F811
    mem = chat["biff/node"].db().q({"find": "?m", "where": [["?m", "mem/roles", "admin"]]})[0]
    return {"xt/id": uuid.uuid4(), "msg/mem": mem, "msg/text": text,
            "msg/channel": uuid.UUID(channel.rpartition("/")[2]),
            "msg/created-at": dt.datetime.now(dt.timezone.utc)}


LIST = """() => document.querySelector('#messages').innerHTML.replace(/\\s+/g, ' ')
    .replace(/ first-new/g, '').replace(/ class=""/g, '').trim()"""


async def test_raw_transactions_change_open_windows_to_what_a_fresh_load_shows(chat, person, window):  # noqa: F811
    """The log drives the pages: an open window and a reloaded one show the same, whoever wrote."""
    ann, channel = await same_process(chat, person, window, "ann@example.com", allow=RECONNECTING)
    bob, _ = await same_process(chat, person, window, "bob@example.com", channel, allow=RECONNECTING)
    node, messages = chat["biff/node"], [a_message(chat, channel, f"message {n}") for n in range(6)]
    for message in messages:
        await node.submit([put(message)])
    await node.submit([put(messages[2] | {"msg/text": "edited <b>once</b>"})])
    await node.submit([delete(messages[4]["xt/id"])])
    await node.submit([evict(messages[0]["xt/id"])])
    await node.submit([delete(messages[1]["xt/id"])])
    await node.submit([put(messages[1])])
    wanted = ["message 1", "edited <b>once</b>", "message 3", "message 5"]
    for page in ann, bob:
        await until_texts(page, wanted)
        assert await page.evaluate("new Set([...document.querySelectorAll('[id]')].map(one => one.id)).size === "
                                   "document.querySelectorAll('[id]').length")
        live = await page.evaluate(LIST)
        await page.reload()
        await until_live(page)
        assert await page.evaluate(LIST) == live


async def test_what_comes_again_after_a_reconnect_is_not_shown_twice(chat, person, window):      # noqa: F811
    """A connection may end while a frame is being shown: the page then asks for it once more."""
    ann, channel = await same_process(chat, person, window, "ann@example.com", allow=RECONNECTING)
    node = chat["biff/node"]
    cursor = node.latest_tx.tx_id
    await node.submit([put(a_message(chat, channel, "one"))])
    await node.submit([put(a_message(chat, channel, "two"))])
    await until_texts(ann, ["one", "two"])
    await ann.eval_on_selector("#cursor", "(one, cursor) => { one.value = cursor }", str(cursor))
    client, = chat["chat_clients"].sockets(uuid.UUID(channel.rpartition("/")[2]))
    client.transport.abort()
    await ann.wait_for_selector("#messages:not([data-live])", state="attached")
    await until_live(ann)
    await node.submit([put(a_message(chat, channel, "three"))])
    await until_texts(ann, ["one", "two", "three"])


async def test_a_session_that_ends_keeps_what_was_typed(chat, person, window):      # noqa: F811
    """Signing in again must not cost the paragraph that was being written."""
    ann, channel = await same_process(chat, person, window, "ann@example.com")
    session = chat["biff/node"].db().q({"find": "?s", "where": [["?s", "session/user"]]})[0]
    await chat["biff/node"].submit([evict(session)])
    await ann.wait_for_selector("text=You have signed out.")
    await write(ann, "a long paragraph")
    await ann.wait_for_url("**/signin?**")
    await sign_in_by_code(chat, ann, "ann@example.com")
    await ann.wait_for_url(f"**{channel}")
    await until_texts(ann, ["a long paragraph"])
    assert await ann.input_value("#text") == ""


async def sign_in_by_code(chat, page, email):      # noqa: F811
    """From the sign-in page, in the same tab, which then goes where it came from."""
    await page.fill("#email", email)
    await page.click("text=Mail me a code")
    await page.wait_for_selector("#code")
    await page.fill("#code", re.search(r"\b\d{6}\b", chat["mails"][-1][1]).group())
    await page.click("main >> text=Sign in")


async def test_whoever_signs_out_leaves_no_draft_behind(chat, person, window):      # noqa: F811
    """Without this, the next person at a shared machine would read what was nearly said."""
    ann, channel = await same_process(chat, person, window, "ann@example.com")
    await ann.fill("#text", "a private thought")
    assert "a private thought" in await ann.evaluate("() => Object.values(localStorage)")
    await ann.click("text=Sign out")
    await ann.wait_for_url(chat["biff/base-url"] + "/")
    assert await ann.evaluate("() => sessionStorage.length + localStorage.length") == 0


async def until_followed(chat, channel, is_so=True):      # noqa: F811
    """Waits until a page has said that its reader stays in a channel, or has left it."""
    id = uuid.UUID(channel.rpartition("/")[2])
    async with asyncio.timeout(30):
        while any(followed == id for _, followed in chat["chat_positions"].followed) != is_so:
            await asyncio.sleep(0.01)


async def test_whoever_signs_out_has_read_what_was_in_sight(chat, person, window):      # noqa: F811
    """The page said so once its browser had forgotten who it was: all was new again, and each time there was a 403."""
    ann, channel = await same_process(chat, person, window, "ann@example.com")
    await until_followed(chat, channel)

    async def hold(route):
        await until_followed(chat, channel, False)
        await route.continue_()
    await ann.route("**/auth/signout", hold)
    await ann.click("text=Sign out")
    await ann.wait_for_url(chat["biff/base-url"] + "/")


async def test_a_session_that_ends_while_its_page_goes_away_leaves_nothing_behind(chat, person, window):  # noqa: F811
    """The socket may hear of the end before the browser has left the page that signed out."""
    ann, channel = await same_process(chat, person, window, "ann@example.com")
    await until_followed(chat, channel)
    await ann.fill("#text", "a private thought")
    assert await ann.evaluate("""() => {
        const asked = [];
        window.fetch = path => { asked.push(path); return Promise.reject(new Error()); };
        kept.clear(); endSession(false); kept.keepDraft(location.pathname, "more");
        dispatchEvent(new Event("pagehide"));
        return asked; }""") == [], "the browser may belong to somebody else by now"
    assert await ann.evaluate("() => sessionStorage.length + localStorage.length") == 0


AT_MESSAGE = """text => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => {
    const bar = $("actions"), message = document.querySelector(".message.picked");
    const top = message && Math.max(topOf(message), topOf($("messages")));
    done(!bar.hidden && message.textContent.includes(text) && Math.abs(topOf(bar) - top + 6) < 1); })))"""


async def test_the_toolbar_of_a_message_stays_with_it_when_the_list_moves(chat, person, window):      # noqa: F811
    """Without this, people who reach for a button would press nothing, or another button."""
    ann, channel = await same_process(chat, person, window, "ann@example.com")
    node, count = chat["biff/node"], "n => document.querySelectorAll('.message').length === n"
    await node.submit([put(a_message(chat, channel, f"message {n}.")) for n in range(30)])
    await ann.wait_for_function(count, arg=30)
    await pick(ann, ".message:last-of-type")
    for n, how in enumerate(["by a finger", "by a mouse"]):
        before = await ann.eval_on_selector("#messages", "list => list.scrollTop")
        await node.submit([put(a_message(chat, channel, f"others speak, {n}"))])
        await ann.wait_for_function(count, arg=31 + n)
        assert await ann.evaluate(AT_MESSAGE, f"message {29 - n}."), how
        assert await ann.eval_on_selector("#messages", "list => list.scrollTop") > before
        await ann.hover(".message:has-text('message 28.')")
        assert await ann.evaluate(AT_MESSAGE, "message 28.")
    await ann.eval_on_selector("#messages", "list => { list.scrollTop = 0 }")
    await ann.wait_for_selector("#actions", state="hidden")


async def test_a_reader_who_scrolled_up_is_left_in_peace(chat, person, window):      # noqa: F811
    """A list that jumps while one reads is the second oldest complaint about chats."""
    ann, channel = await same_process(chat, person, window, "ann@example.com")
    node = chat["biff/node"]
    for n in range(120):
        await node.submit([put(a_message(chat, channel, f"message {n}"))])
    await ann.goto(chat["biff/base-url"] + channel)
    await until_live(ann)
    assert await ann.eval_on_selector("#messages", "list => list.scrollHeight - list.scrollTop - list.clientHeight < 2")
    await ann.eval_on_selector("#messages", "list => { list.scrollTop -= 500 }")
    at = await ann.eval_on_selector("#messages", "list => list.scrollTop")
    await ann.evaluate(NEXT_FRAME)
    for n in range(20):
        await node.submit([put(a_message(chat, channel, f"later {n}"))])
    await ann.wait_for_selector("text=20 new messages")
    assert await ann.eval_on_selector("#messages", "list => list.scrollTop") == at
    await ann.click("text=20 new messages")
    assert (await texts(ann))[-1] == "later 19"


async def test_a_feed_comes_into_both_windows_new_entries_in_order_until_it_is_unsubscribed(chat, person, host, window,
                                                                                            tmp_path):  # noqa: F811
    """The tutorial's second promise: people talk here about what happens elsewhere."""
    chat["door"] = host.door
    ann, channel = await same_process(chat, person, window, "ann@example.com")
    bob, _ = await same_process(chat, person, window, "bob@example.com", channel)
    feed, said = f"{host.url}/feed", []

    async def command(text, *answers):
        said.extend([text, *answers])
        await write(ann, text)
        for page in ann, bob:
            await until_texts(page, said)

    async def fetched(hours, *entries):
        said.extend(entries)
        chat["biff/clock"] = lambda: dt.datetime.now(dt.timezone.utc) + dt.timedelta(hours=hours)
        await feeds.fetch_rss(biff.assoc_db(chat))
        await chat["biff/queues"]["fetch-rss"].join()
        for page in ann, bob:
            await until_texts(page, said)
    host.pages["/feed"] = rss(("1", "The harbour opens"), ("2", "High water on Saturday"))
    await command(f"/subscribe {feed}", f"Subscribed to {feed}", "High water on Saturday")
    host.pages["/feed"] = rss(*((str(n), f"Report {n}") for n in range(2, 8)))
    await fetched(1, *(f"Report {n}" for n in range(3, 8)))
    await command("/list", f"Subscriptions:\n - {feed}")
    await command("/help", HELP)
    await shots(ann, "commands")
    await command(f"/unsubscribe {feed}", f"Unsubscribed from {feed}")
    host.pages["/feed"] = rss("8")
    await fetched(2)
    chat["door"] = Door()
    await command(f"/subscribe {host.url}", "Only the usual ports, 80 and 443, are asked.")
    await command("/subscribe http://127.0.0.1/", "There is no public address of that name.")


async def shots(page, name):
    for scheme in ("light", "dark") if SHOTS else ():
        for width, height in (1280, 800), (390, 844):
            await page.emulate_media(color_scheme=scheme)
            await page.set_viewport_size({"width": width, "height": height})
            await page.wait_for_timeout(400)           # the drawer slides out of sight
            await shot(page, f"{name}-{scheme}-{width}")


async def test_a_deleted_channel_says_so_in_open_windows_and_they_stay_away(server, window):
    """Without this, its members would write into nothing, and their browsers would try to connect for ever."""
    ann, bob = await window(), await window()
    await two_in_a_channel(server, ann, bob)
    await delete_channel(ann)
    await bob.wait_for_selector("text=This channel was deleted.")
    await ann.wait_for_url(re.compile(r"/community/[\w-]+$"))


async def test_the_pages_in_light_and_dark_wide_and_narrow(server, window):
    """Nothing may stick out of a phone's width, and the composer must be seen."""
    ann, bob = await window(viewport={"width": 1280,
                                      "height": 800}), await window(viewport={"width": 1280, "height": 800})
    url = await two_in_a_channel(server, ann, bob)
    for n, (page, text) in enumerate([(ann, "Has anyone seen the tide table for Saturday?"),
                                      (bob, "High water at 6:12, if the harbour office is right."),
                                      (ann, "Then we meet at five.\nBring boots."),
                                      (bob, "https://example.org/a/" + "very-long-" * 12), (ann, "🐟 👍"),
                                      (ann, "See you there!")]):
        await write(page, text)
        await page.wait_for_function("n => document.querySelectorAll('.message').length === n", arg=n + 1)
    for scheme in "light", "dark":
        for width, height in (1280, 800), (390, 844), (360, 640):
            await ann.emulate_media(color_scheme=scheme)
            await ann.set_viewport_size({"width": width, "height": height})
            await ann.goto(url)
            await until_live(ann)
            assert await ann.evaluate("document.documentElement.scrollWidth <= innerWidth")
            box = await ann.locator("#compose").bounding_box()
            assert 0 <= box["y"] and box["y"] + box["height"] <= height + 1
            await shot(ann, f"channel-{scheme}-{width}")
            if width == 390:
                await ann.click(".menu")
                await ann.wait_for_timeout(300) if SHOTS else None
                await shot(ann, f"drawer-{scheme}-{width}")
    anonymous = await window(viewport={"width": 1280, "height": 800})
    for scheme in "light", "dark":
        for width, height in (1280, 800), (390, 844):
            await anonymous.emulate_media(color_scheme=scheme)
            await anonymous.set_viewport_size({"width": width, "height": height})
            for path, name in ("/", "landing"), ("/signin", "signin"):
                await anonymous.goto(server.url + path)
                assert await anonymous.evaluate("document.documentElement.scrollWidth <= innerWidth")
                await shot(anonymous, f"{name}-{scheme}-{width}")
