"""Titles: what communities and channels are called, who may change it, and that open pages follow."""
import html
import re
import uuid

import yarl
from people import chat, person, texts      # noqa: F401
from test_chat import id_of


async def test_a_community_is_named_when_it_is_made_and_opens_in_its_general_channel(chat, person):      # noqa: F811
    """Nobody finds their way among "Community #283" and "Channel #4"."""
    ann = await person("ann@example.com")
    page = await ann.post("/community", {"title": "  Eels & <b>\nfriends "}, "/app")
    assert re.fullmatch(r"/community/[\w-]+/channel/[\w-]+", page.url.path)
    community, channel = (chat["biff/node"].db().entity(id_of(path))
                          for path in (page.url.path.partition("/channel")[0], page.url.path))
    assert community["comm/title"] == "Eels & <b> friends" and channel["chan/title"] == "general"
    assert "Eels &amp; &lt;b&gt; friends" in page.body_text


async def test_admins_rename_and_others_do_not(chat, person):      # noqa: F811
    """Anybody could put words above what others say."""
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    community, channel = await ann.new_channel()
    await bob.join(community)
    for path in community, channel:
        assert (await bob.post(f"{path}/title", {"title": "mine"}, channel)).status == 403
        assert (await ann.post(f"{path}/title", {"title": f"Named {path[-4:]}", "topic": "What  it is\nabout"},
                               channel)).url.path == path
    db = chat["biff/node"].db()
    assert db.entity(id_of(community))["comm/title"] == f"Named {community[-4:]}"
    assert db.entity(id_of(channel))["chan/topic"] == "What it is about"
    await ann.post(f"{channel}/title", {"title": "general", "topic": ""}, channel)
    assert "chan/topic" not in chat["biff/node"].db().entity(id_of(channel))


async def test_a_title_has_one_to_sixty_characters(chat, person):      # noqa: F811
    """A title without a letter cannot be clicked, and an endless one fills every page."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    for bad in "", " \n\t", "x" * 61:
        assert (await ann.post(f"{channel}/title", {"title": bad}, channel)).status == 422
    assert (await ann.post(f"{channel}/title", {"title": "x" * 60}, channel)).status == 200


async def test_a_new_title_reaches_the_pages_of_channel_community_and_members_elsewhere(chat, person):  # noqa: F811
    """A sidebar that keeps the old title sends people to a place that nobody calls so any more."""
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    community, channel = await ann.new_channel()
    await bob.join(community)
    pages, tx_id = {}, chat["biff/node"].db().tx_id
    for name, path in ("channel", channel), ("community", community), ("app", ""):
        pages[name] = await bob.browser.ws_connect(f"{bob.base}{path}/connect?after={tx_id}",
                                                   headers={"Origin": bob.base})
    await ann.post(f"{community}/title", {"title": "Eels & friends"}, channel)
    for name, socket in pages.items():
        said, live = "", 'id="communities"' if name == "app" else 'id="here"'
        while live not in said:
            said += await socket.receive_str(timeout=60)
        assert "Eels &amp; friends" in said.partition(live)[2]
        await socket.close()


async def test_a_title_of_a_community_reaches_nobody_outside(chat, person):      # noqa: F811
    """What a closed circle calls itself is its own affair."""
    ann, eve = await person("ann@example.com"), await person("eve@example.com")
    _, channel = await ann.new_channel()
    _, elsewhere = await eve.new_channel()
    socket = await eve.listen(elsewhere)
    await ann.post(f"{channel.partition('/channel')[0]}/title", {"title": "secret circle"}, channel)
    await eve.say(elsewhere, "last")
    said = ""
    while "last" not in texts(said):
        said += await socket.receive_str(timeout=60)
    assert "secret circle" not in said
    await socket.close()


async def test_deleting_a_channel_names_it_and_what_goes_with_it(chat, person):      # noqa: F811
    """A slip of the finger would cost what nobody knew was there."""
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    community, channel = await ann.new_channel()
    await bob.join(community)
    await ann.post(f"{channel}/title", {"title": "old & dear"}, channel)
    assert "It has no messages." in (await ann.get(f"{channel}/delete")).body_text
    for one in ann, bob, bob:
        await one.say(channel, "kept")
    page = html.unescape((await ann.get(f"{channel}/delete")).body_text)
    assert "old & dear" in page and "3 messages by 2 people" in page
    assert (await bob.get(f"{channel}/delete")).status == 403


async def test_a_new_channel_has_the_name_that_was_given(chat, person):      # noqa: F811
    """A dialog that asks for a name and does not use it."""
    ann = await person("ann@example.com")
    community, channel = await ann.new_channel()
    made = await ann.post(f"{community}/channel", {"title": "seeds"}, channel)
    assert made.url.path != channel and chat["biff/node"].db().entity(id_of(made.url.path))["chan/title"] == "seeds"


async def test_dialogs_come_when_one_is_opened_and_stand_on_a_page_of_their_own(chat, person):      # noqa: F811
    """A page would be longer by a fifth for what few open; or nothing could be named without our script."""
    ann = await person("ann@example.com")
    for path in await ann.new_channel():
        page, address = (await ann.get(path)).body_text, f"{path}/dialogs"
        wanted = set(re.findall(r'data-dialog="([\w-]+)"', page))
        assert {"new-channel", "name-dialog"} <= wanted and "new-channel-title" not in page
        part = (await ann.get(address, headers={"HX-Request": "true"})).body_text
        assert wanted <= set(re.findall(r'<dialog id="([\w-]+)"', part)) and "<html" not in part
        assert set(re.findall(r'href="([^"#]+)#[\w-]+" data-dialog', page)) == {address}
        assert "Back to the chat" in (await ann.get(address)).body_text
    assert 'id="new-community"' in (await ann.get("/dialogs")).body_text


async def test_each_page_of_a_community_leads_to_its_channels(chat, person):      # noqa: F811
    """Links beside a channel are relative: on a page with another beginning of its address they would lead nowhere."""
    ann = await person("ann@example.com")
    community, channel = await ann.new_channel()
    wanted = {channel, (await ann.post(f"{community}/channel", {"title": "seeds"}, channel)).url.path}
    wanted.add(next(iter(re.findall(f"{community}/channel/[\\w-]+", (await ann.get(community)).body_text))))
    private = (await ann.post(f"{community}/channel", {"title": "hush", "private": "on"}, channel)).url.path
    id = uuid.uuid4()
    await ann.say(channel, "a thread", id)
    paths = [channel, f"{channel}?now", f"{channel}?thread={id}", f"{channel}?before={id}", private,
             f"{private}?people", f"{channel}/message/{id}/thread", f"{private}/people", community,
             f"{community}/members", f"{community}/search?q=thread", f"{community}/invitations", f"{community}/direct"]
    for path in paths:
        page = await ann.get(path)
        listed = page.body_text.partition('id="channels"')[2].partition("</ul>")[0]
        links = re.findall(r'<a href="([^"]+)"', listed)
        assert {page.url.join(yarl.URL(link)).path for link in links} == wanted and len(links) == len(wanted), path
