"""Mentions: a name behind an @ calls somebody, whatever they are called later, and nobody who may not read it."""
import html
import re
import uuid

import pytest

import biff
import eelchat
from people import chat, person      # noqa: F401
from plugins.names import key_of
from store import delete, put
from test_browser import shots, until_live, write
from test_chat import id_of
from test_edits import edit
from test_together import caught_up, together      # noqa: F401


def user_of(chat, email):      # noqa: F811
    return biff.lookup(chat["biff/node"].db(), "user/email", email)


def mem_of(chat, email):      # noqa: F811
    return biff.lookup_id(chat["biff/node"].db(), "mem/user", user_of(chat, email)["xt/id"])


async def name(chat, email, new):      # noqa: F811
    user = user_of(chat, email)
    await chat["biff/node"].submit([put(user | {"user/name": new, "user/name-key": key_of(new)})])


@pytest.fixture
async def three(chat, person):      # noqa: F811
    """Ann, an admin, with "Bob Bream" and "Eve" in her channel."""
    ann, bob, eve = [await person(f"{one}@example.com") for one in ("ann", "bob", "eve")]
    community, channel = await ann.new_channel()
    for one in bob, eve:
        await one.join(community)
    for one, called in ("ann", "Ann"), ("bob", "Bob Bream"), ("eve", "Eve"):
        await name(chat, f"{one}@example.com", called)
    return ann, bob, eve, channel


async def said_in(one, channel, text, post=None):
    """Posts a text, and returns how its message is shown."""
    post = post or uuid.uuid4()
    assert (await one.say(channel, text, post)).status == 204
    return shown_in((await one.get(channel)).body_text, post)


def shown_in(page, post):
    body = page.partition(f'id="message-{post}"')[2].partition("</article>")[0]
    return re.search(r'<(?:p|div class="text")(?: dir="auto")?>(.*)</(?:p|div)>', body, re.DOTALL)[1]


def called(shown):
    return re.findall(r'<span class="mention(?: everyone)?"[^>]*>@([^<]*)</span>', shown)


async def test_a_name_behind_an_at_is_a_mention_kept_by_id(chat, three):      # noqa: F811
    """Whoever is called must be found, whatever they are called next week."""
    ann, bob, _, channel = three
    post, bobs = uuid.uuid4(), mem_of(chat, "bob@example.com")
    shown = await said_in(ann, channel, "hello @Bob Bream, and @eve!", post)
    assert shown == (f'hello <span class="mention" data-mem="{bobs}">@Bob Bream</span>, and <span class="mention" '
                     f'data-mem="{mem_of(chat, "eve@example.com")}">@Eve</span>!')
    message = chat["biff/node"].db().entity(post)
    assert message["msg/text"] == "hello @Bob Bream, and @eve!" and bobs in message["msg/mentions"]
    assert biff.lookup_id_all(chat["biff/node"].db(), "msg/mentions", bobs) == [post]


CALLS = [
    ("@Bob Bream", ["Bob Bream"]), ("(@BOB BREAM)", ["Bob Bream"]), ("**@Eve**", ["Eve"]), ("> @Eve said", ["Eve"]),
    ("@Eve's and @Eve.", ["Eve", "Eve"]), ("[see @Eve](https://a.example)", ["Eve"]), ("@Evelyn @Bob", []),
    ("a@Eve.example ann@Eve /@Eve @@Eve", []), ("`@Eve`", []), ("```\n@Eve\n```\n@Bob Bream", ["Bob Bream"]),
    ("https://a.example/@Eve", []), ("@nobody @ Eve", []), ("@channel @Channel", ["channel", "channel"]),
    ("@channels", []),
]


async def test_what_calls_somebody_and_what_is_only_text(three, monkeypatch):
    """A mail address that rings somebody's telephone, or a name in a sentence that does not."""
    ann, _, _, channel = three
    monkeypatch.setattr(eelchat, "POSTS_A_PERSON", (1_000, 60))
    for text, wanted in CALLS:
        assert called(await said_in(ann, channel, text)) == wanted, text


async def test_only_admins_call_everybody(chat, three):      # noqa: F811
    """Anybody could ring a thousand telephones."""
    ann, bob, _, channel = three
    post = uuid.uuid4()
    assert called(await said_in(bob, channel, "@channel", post)) == []
    assert "msg/mentions" not in chat["biff/node"].db().entity(post)
    await ann.say(channel, "@channel", post := uuid.uuid4())
    assert chat["biff/node"].db().entity(post)["msg/mentions"] == [id_of(channel)]


async def test_of_two_people_with_one_name_a_sign_tells_who_is_meant(chat, three):      # noqa: F811
    """A message to one Bob would ring the other."""
    ann, _, _, channel = three
    await name(chat, "eve@example.com", "Bob Bream")
    eve = mem_of(chat, "eve@example.com")
    assert called(await said_in(ann, channel, "@Bob Bream")) == []
    shown = await said_in(ann, channel, f"@Bob Bream#{str(eve)[:4]} hello")
    assert f'data-mem="{eve}">@Bob Bream</span> hello' in shown
    options = (await ann.get(f"{channel}/names", params={"q": "bob"})).body_text
    assert f'data-typed="@Bob Bream#{str(eve)[:4]} "' in options and options.count("<li") == 2


async def test_a_new_name_stands_in_old_mentions_on_open_pages_too(chat, three):      # noqa: F811
    """Old messages would call people whom nobody knows by that name any more."""
    ann, bob, _, channel = three
    post, bobs = uuid.uuid4(), mem_of(chat, "bob@example.com")
    await said_in(ann, channel, "@Bob Bream is in **@Bob Bream**", post)
    socket = await ann.listen(channel)
    await bob.post("/name", {"name": "Bob <Roach>"}, "/name")
    frame = await socket.receive_str(timeout=60)
    assert f"<span hx-swap-oob=\"innerHTML:.mention[data-mem='{bobs}']\">@Bob &lt;Roach&gt;</span>" in frame
    await socket.close()
    assert called(shown_in((await ann.get(channel)).body_text, post)) == ["Bob &lt;Roach&gt;"] * 2
    await chat["biff/node"].submit([delete(bobs)])
    gone = called(shown_in((await ann.get(channel)).body_text, post))
    assert gone[0] in ("Bob &lt;Roach&gt;", f"User {str(bobs)[:4]}")


async def test_an_edit_shows_names_and_changes_who_is_called(chat, three):      # noqa: F811
    """An author who mends a comma would see ids, or call people whom the text does not name any more."""
    ann, bob, _, channel = three
    post = uuid.uuid4()
    await ann.say(channel, "@Bob Bream: six", post)
    await name(chat, "bob@example.com", "Roach")
    message, before = f"{channel}/message/{post}", chat["biff/node"].db().tx_id
    assert (await ann.get(message)).body_text == "@Roach: six"
    assert (await edit(ann, message, "@Roach: six")).status == 204 and chat["biff/node"].db().tx_id == before
    await edit(ann, message, "@Eve, @Roach: seven")
    assert called(shown_in((await ann.get(channel)).body_text, post)) == ["Eve", "Roach"]
    await edit(ann, message, "seven")
    document = chat["biff/node"].db().entity(post)
    assert not {"msg/mentions", "msg/mention-spans"} & document.keys()


async def test_in_a_private_channel_a_name_of_somebody_else_is_only_text(chat, three):      # noqa: F811
    """A mention would tell somebody of a channel that they are not to know of."""
    ann, bob, _, channel = three
    community = channel.partition("/channel")[0]
    own = (await ann.post(f"{community}/channel", {"title": "Secret", "private": "on"}, channel)).url.path
    assert called(await said_in(ann, own, "@Bob Bream and @Ann")) == ["Ann"]
    assert "Bob" not in (await ann.get(f"{own}/names", params={"q": "b"})).body_text
    assert (await bob.get(f"{own}/names", params={"q": "a"}, allow_redirects=False)).status in (303, 403, 404)


async def test_names_are_offered_to_whom_may_call_them_by_any_part_of_them(three):
    """Nobody knows how all the others spell themselves."""
    ann, bob, _, channel = three

    async def offered(one, sought):
        page = (await one.get(f"{channel}/names", params={"q": sought})).body_text
        return [html.unescape(typed) for typed in re.findall('data-typed="([^"]*)"', page)]
    assert await offered(bob, "bre") == ["@Bob Bream "] == await offered(bob, "BOB b")
    assert await offered(bob, "") == ["@Ann ", "@Bob Bream ", "@Eve "]
    assert await offered(ann, "ch") == ["@channel "] and await offered(bob, "ch") == []
    emoji = (await bob.get("/emoji", params={"q": "tada"})).body_text
    assert re.findall('data-typed="([^"]*)"', emoji) == ["🎉 "]


async def test_a_preview_is_what_the_message_will_be_and_nothing_is_stored(chat, three, monkeypatch):      # noqa: F811
    """Whoever looks first must see the same as everybody afterwards."""
    ann, bob, _, channel = three
    text, before = "**@Bob Bream**\n- `one` <b>\n- :tada:", chat["biff/node"].db().tx_id

    async def previewed(text):
        return await bob.post(f"{channel}/preview", {"text": text}, channel, {"HX-Request": "true"})
    shown = (await previewed(text)).body_text
    assert chat["biff/node"].db().tx_id == before
    assert shown_in(f'id="message-x"{shown}', "x") == await said_in(bob, channel, text)
    assert (await previewed("x" * 10_001)).status == 422
    monkeypatch.setattr("plugins.text.PREVIEWS_A_PERSON", (2, 60))
    assert [(await previewed("x")).status for _ in range(2)][-1] == 429


async def test_spans_that_somebody_puts_past_the_schema_harm_no_page(chat, three):      # noqa: F811
    """One odd document would take the whole channel with it."""
    ann, _, _, channel = three
    post = uuid.uuid4()
    await ann.say(channel, "@Eve", post)
    message = chat["biff/node"].db().entity(post)
    for odd in "x", ((1,),), (("a", "b", "c"),), ((-5, 999, None),), ((3, 1, "<b>"), (0, 9, "<b>")):
        await chat["biff/node"].submit([put(message | {"msg/mention-spans": odd})])
        page = await ann.get(channel)
        assert page.status == 200 and "<b>" not in shown_in(page.body_text, post), odd


async def test_a_channel_with_an_unread_mention_stands_out(chat, three):      # noqa: F811
    """Among forty channels with something new, nobody sees the one in which they are asked."""
    ann, bob, _, channel = three
    community = channel.partition("/channel")[0]
    other = (await ann.post(f"{community}/channel", {"title": "Other"}, channel)).url.path
    await bob.get(other)
    socket = await bob.listen(channel)
    await ann.say(other, "@Bob Bream"), await ann.say(other, "all of you"), await ann.say(other, "@channel @Bob Bream")
    frame = await socket.receive_str(timeout=60)
    assert f'data-for="{mem_of(chat, "bob@example.com")}"' in frame
    await socket.close()
    page = (await bob.get(channel)).body_text
    assert re.search(f'data-counts="3 \\d+ 2 {id_of(other)}"', page)
    assert 'data-counts=""' in (await ann.get(channel)).body_text


async def test_a_mention_on_one_server_calls_on_the_other_and_follows_a_rename(together):      # noqa: F811
    """People on the other server would be asked and never know."""
    (ann, _), (bob, there) = await together.person("ann@example.com"), await together.person("bob@example.com")
    _, channel = await ann.new_channel()
    await bob.join(channel.partition("/channel")[0])
    await bob.post("/name", {"name": "Bob"}, "/name")
    await caught_up(together)
    socket, bobs = await there.listen(channel), mem_of(together[1], "bob@example.com")
    await ann.say(channel, "hello @Bob")
    frame = await socket.receive_str(timeout=60)
    assert f'<span class="mention" data-mem="{bobs}">@Bob</span>' in frame and f'data-for="{bobs}"' in frame
    await bob.post("/name", {"name": "Roach"}, "/name")
    while "innerHTML:.mention" not in frame:
        frame = await socket.receive_str(timeout=60)
    assert ">@Roach</span>" in frame
    await socket.close(), await caught_up(together)
    assert ">@Roach</span>" in (await there.get(channel)).body_text


async def test_names_are_completed_by_keyboard_and_mark_whom_they_call(chat, three, window):      # noqa: F811
    """Whoever must know a name by heart calls nobody."""
    ann, _, eve, channel = three
    page, other = [await window(viewport={"width": 1280, "height": 800}) for _ in range(2)]
    for one, shown in (ann, page), (eve, other):
        await shown.context.add_cookies([{"name": cookie.key, "value": cookie.value, "url": one.base}
                                         for cookie in one.browser.cookie_jar])
        await shown.goto(one.base + channel)
        await until_live(shown)
    await page.fill("#text", "**low** tide, @Eve\n- at *six*")
    await page.click("#preview-button")
    await page.wait_for_selector("#preview li em:text('six')")
    assert await page.inner_text("#preview .mention") == "@Eve"
    await shots(page, "preview")
    await page.fill("#text", "")
    assert await page.is_hidden("#preview") and await page.is_hidden("#preview-button")
    await page.type("#text", "hello @")
    await page.wait_for_selector("#text-options [role=option]")
    await page.wait_for_function("() => document.querySelector('#text').getAttribute('aria-activedescendant')")
    await page.keyboard.type("bo")
    await page.wait_for_function("() => document.querySelectorAll('#text-options [role=option]').length === 1")
    await shots(page, "complete")
    await page.keyboard.press("Enter")
    assert await page.input_value("#text") == "hello @Bob Bream " and await page.is_hidden("#text-options")
    await page.keyboard.type("and @e")
    await page.wait_for_selector("#text-options [data-typed='@Eve ']")
    await page.keyboard.press("Tab")
    await page.keyboard.type(":tad")
    await page.wait_for_selector("#text-options .sign")
    await page.keyboard.press("Escape")
    assert await page.is_hidden("#text-options") and await page.evaluate("document.activeElement.id") == "text"
    await page.keyboard.press("Enter")
    await other.wait_for_selector(".message.for-me .mention.to-me:text('@Eve')")
    assert await other.locator(".mention.to-me").count() == 1 and await page.locator(".for-me").count() == 0
    await write(page, "@channel, look")
    await other.wait_for_selector(".message.for-me .mention.everyone")
    await shots(other, "mentions")

