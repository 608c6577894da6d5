"""Names: people are called what they choose, everywhere at once, and their address stays theirs."""
import html
import re

import biff
from people import chat, person, texts      # noqa: F401
from plugins import names
from store import put
from test_escaping import payloads      # noqa: F401


async def choose(one, name, **fields):
    return await one.post("/name", {"name": name} | fields, "/name")


def authors(page):
    return [html.unescape(name)
            for name in re.findall(r"<b dir=\"auto\">([^<]*)</b> <time", page)]


async def test_a_name_stands_beside_old_messages_and_new_ones(chat, person):      # noqa: F811
    """Everybody would be "User 3384" for ever in what was said before they chose."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    await ann.say(channel, "before")
    assert re.fullmatch(r"User \w{4}", authors((await ann.get(channel)).body_text)[0])
    assert (await choose(ann, "  Ann\n Lee ")).url.path == "/app"
    await ann.say(channel, "after")
    page = (await ann.get(channel)).body_text
    assert authors(page) == ["Ann Lee", "Ann Lee"] and page.count('aria-hidden="true">AL</i>') == 2


async def test_a_new_name_reaches_open_pages_of_everybody(chat, person):      # noqa: F811
    """Two names for one person in one room: nobody knows who is meant."""
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    community, channel = await ann.new_channel()
    await bob.join(community)
    await ann.say(channel, "hello")
    socket = await bob.listen(channel)
    await choose(ann, "Ann & Co")
    frame = await socket.receive_str(timeout=60)
    mem = re.search(r'data-mem="([\w-]+)" hx-ignore>\n<header', (await bob.get(channel)).body_text)[1]
    assert f"""innerHTML:.message[data-mem='{mem}'] header b">Ann &amp; Co</b>""" in frame
    assert f"""'{mem}'] .face">AC</i>""" in frame
    await socket.close()


async def test_a_name_has_one_to_sixty_characters_that_show(chat, person):      # noqa: F811
    """An empty or endless name, or one that turns the line round, speaks for somebody else."""
    ann = await person("ann@example.com")
    for bad in "", " \n ", "\u202e\u200b", "\u3164", "x" * 61:
        refused = await ann.post("/name", {"name": bad}, "/name", {"HX-Request": "true"})
        assert refused.status == 422 and "1 to 60 characters" in refused.body_text
    assert (await ann.post("/name", {"name": "x" * 60}, "/name", {"HX-Request": "true"})).status == 204
    assert (await choose(ann, "a\u202eb")).status == 200 and "a b" in (await ann.get("/name")).body_text


async def test_a_name_that_looks_like_anothers_is_told_to_its_bearer(chat, person):      # noqa: F811
    """Whoever is taken for somebody else should know it first; and strangers' names are nobody's business."""
    ann, bob, eve = await person("ann@example.com"), await person("bob@example.com"), await person("eve@example.com")
    community, _ = await ann.new_channel()
    await bob.join(community)
    await choose(ann, "Ann Lee")
    told = await choose(bob, "ANN  L\u00e9e")
    assert told.url.path == "/name" and "looks the same: <b" in told.body_text and "Ann Lee" in told.body_text
    assert (await choose(eve, "Ann Lee")).url.path == "/app"
    assert (await choose(bob, "Bob")).url.path == "/app"


def test_names_with_one_key_look_alike():
    """A comparison of letters alone lets through what eyes cannot tell apart."""
    assert names.key_of("Ann Lee") == names.key_of("ann.lee") == names.key_of("\uff21nn L\u00e9e")
    assert names.key_of("B0b1") == names.key_of("bobI") and names.key_of("Ann") != names.key_of("Anna")
    assert [names.initials_of(name) for name in ("ann", "Ann de Lee", "\u674e \u660e",
                                                 "...")] == ["A", "AL", "\u674e\u660e", "."]


async def test_the_address_of_a_person_is_on_no_page_of_others(chat, person):      # noqa: F811
    """An address is what one signs in with; whoever reads along need not know it."""
    ann, bob = await person("ann@secret.example"), await person("bob@example.com")
    community, channel = await ann.new_channel()
    await bob.join(community)
    await choose(ann, "Ann")
    await ann.say(channel, "hello")
    for path in channel, community, "/app", "/name":
        assert "ann@secret.example" not in (await bob.get(path)).body_text
    assert "ann@secret.example" in (await ann.get("/name")).body_text


async def test_a_name_is_asked_for_until_there_is_one(chat, person):      # noqa: F811
    """A stranger among strangers: nobody would think of looking for it in the foot of the page."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    assert 'id="welcome-name"' in (await ann.get("/app")).body_text
    assert "Choose a name" in (await ann.get(channel)).body_text
    await choose(ann, "Ann")
    assert 'id="welcome-name"' not in (await ann.get("/app")).body_text
    assert "to others." not in (await ann.get(channel)).body_text


async def test_three_hundred_names_are_text(chat, person, payloads, say):      # noqa: F811
    """A name is on more pages than any message."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    await ann.say(channel, "hello")
    node, shown, scripts = chat["biff/node"], 0, (await ann.get(channel)).body_text.count("<script")
    user = biff.lookup(node.db(), "user/email", "ann@example.com")
    for payload in payloads:
        name = names.tidy(payload)[:60] or "x"
        await node.submit([put(user | {"user/name": name})])
        page = (await ann.get(channel)).body_text
        shown += authors(page) == [name] and page.count("<script") == scripts
    say(f"{len(payloads)} names, {shown} shown as text; asked all")
    assert shown == len(payloads)


async def test_the_way_back_after_choosing_stays_on_this_site(chat, person):      # noqa: F811
    """A link to our own page would lead on to anywhere."""
    ann = await person("ann@example.com")
    for path in "https://evil.example/", "//evil.example", "/\\evil.example":
        assert (await choose(ann, "Ann", **{"return-to": path})).url.path == "/app"
    assert (await choose(ann, "Ann", **{"return-to": "/sessions"})).url.path == "/sessions"
