"""Private channels and direct messages: only the people in them see that they exist; to admins they do not."""
import asyncio
import re
import uuid

import aiohttp
import pytest
from aiohttp import web

import biff
import eelchat
from people import Somebody, chat, file_of, filled, membership, person, settle, with_handlers      # noqa: F401
from plugins import private
from store import delete, put
from test_members import mem_of
from test_rights import MAY

# ── Every route, asked by everybody ──────────────────────────────────────────────────────────────────────────

AS = {                                        # the kinds of people, and whom each is like outside of the channel
    "nobody": "nobody", "outsider": "outsider", "admin elsewhere": "admin elsewhere",
    "not in it": "member", "admin not in it": "admin", "in it": "member", "maker": "member", "admin in it": "admin",
    "removed": "member", "banned": "ex-member", "gone": "ex-member",
}
THERE = {"in it", "maker", "admin in it"}
MAY_IN = {                                    # the rules about a channel, and whom each lets through to a private one
    "in_channel": THERE, "in_message": THERE, "in_direct": set(), "in_private": THERE, "channel_namer": THERE,
    "in_file": THERE, "uploader": set(),      # the file is posted
    "author": {"in it"}, "author_or_admin": {"in it", "admin in it"}, "reader_of_versions": {"in it", "admin in it"},
    "keeper": {"maker", "admin in it"}, "channel_admin": {"admin in it"},
}
MAY_IN_DIRECT = MAY_IN | {                    # nobody is an admin there, and nobody else ever comes in
    "in_direct": THERE, "in_private": set(), "keeper": set(), "channel_namer": set(), "channel_admin": set(),
    "author_or_admin": {"in it"}, "reader_of_versions": {"in it"},
}


async def reached(ctx):
    return web.Response(text="reached")


async def settled_in(system, is_direct):
    """The people of `settle`, and those of a private channel: who is in it, who is not, and who was."""
    people, ids, _ = await settle(system)
    people = {name: people[name] for name in ("nobody", "outsider", "admin elsewhere")} | {
        name: Somebody(system, f"{name.replace(' ', '-')}@example.com") for name in AS if name not in people}
    mems = {name: membership(people[name].id, ids["{id}"], {"admin"} if name.startswith("admin") else ())
            for name in list(AS)[3:]}
    seats = {mems[name]["xt/id"] for name in ("in it", "maker", "admin in it", "removed", "banned", "gone")}
    channel = {"xt/id": uuid.uuid4(), "chan/title": "" if is_direct else "Hush", "chan/comm": ids["{id}"],
               "chan/mems": seats, "chan/maker": mems["maker"]["xt/id"]} | ({"chan/set": "us"} if is_direct else {})
    message = {"xt/id": uuid.uuid4(), "msg/mem": mems["in it"]["xt/id"], "msg/channel": channel["xt/id"],
               "msg/text": "between us", "msg/created-at": biff.now(system)}
    file = file_of(message)
    documents = [document for name in mems for document in people[name].documents]
    node = system["biff/node"]
    await node.submit([put(one) for one in [*documents, *mems.values(), channel, message, file]])
    await node.submit([put(channel | {"chan/mems": seats - {mems["removed"]["xt/id"]}})])
    await node.submit([delete(mems["banned"]["xt/id"]), delete(mems["gone"]["xt/id"]),
                       put({"xt/id": uuid.uuid4(), "ban/user": people["banned"].id, "ban/comm": ids["{id}"],
                            "ban/by": mems["maker"]["xt/id"], "ban/at": biff.now(system)})])
    return people, ids | {"{channel_id}": channel["xt/id"], "{message_id}": message["xt/id"],
                          "{file_id}": file["xt/id"], "{mem_id}": mems["in it"]["xt/id"]}


def may(name, path, rule, rules_in):
    """True if a kind of people is let through: a rule about a channel that the table does not have fails the test."""
    return name in rules_in[rule] if "{channel_id}" in path else AS[name] in MAY[rule]


@pytest.mark.parametrize("is_direct", [False, True])
async def test_every_route_lets_only_its_people_into_a_private_channel(tmp_path, say, is_direct):
    """Without this, one route that forgot to ask would show a private channel to an admin, or to whoever left it."""
    system = await biff.start_system(eelchat.COMPONENTS, eelchat.initial_system({"data": str(tmp_path), "port": 0})
                                     | {"biff/plugins": with_handlers(reached)})
    people, ids = await settled_in(system, is_direct)
    asked, wrong, through = 0, [], 0
    async with aiohttp.ClientSession() as session:
        for method, path, rule, _ in biff.parts(system, "routes"):
            for name, one in people.items():
                status, text = await one.ask(session, method, filled(path, ids))
                asked, through = asked + 1, through + (text == "reached")
                if (text == "reached") != may(name, path, rule.__name__, MAY_IN_DIRECT if is_direct else MAY_IN):
                    wrong.append((name, method, path, status))
    await biff.stop_system(system)
    where = "direct message" if is_direct else "private channel"
    say(f"{asked} requests: every route × {len(people)} kinds of people at a {where}, {through} let "
        f"through; {len(wrong)} wrongly; asked 0")
    assert not wrong and through > 100


async def test_a_private_channel_answers_as_one_that_never_was(tmp_path, say):
    """Without this, an answer would tell by its status, its address or its words that something is there."""
    system = await biff.start_system(eelchat.COMPONENTS, eelchat.initial_system({"data": str(tmp_path), "port": 0}))
    people, ids = await settled_in(system, False)
    never, compared, different = ids | {"{channel_id}": uuid.uuid4(), "{message_id}": uuid.uuid4()}, 0, []
    async with aiohttp.ClientSession() as session:
        for method, path, *_ in [one for one in biff.parts(system, "routes") if "{channel_id}" in one[1]]:
            for name in set(AS) - THERE:
                there, not_there = [await answer_of(people[name], session, method, filled(path, where), where)
                                    for where in (ids, never)]
                compared, different = compared + 1, different + [(name, method, path)] * (there != not_there)
    await biff.stop_system(system)
    say(f"{compared} answers compared with those of a channel that never was: {len(different)} differ; asked 0")
    assert compared > 100 and not different


async def answer_of(one, session, method, path, ids):
    """Status, place and text of an answer, without what is of one moment or was in the question."""
    headers = {"Cookie": f"{biff.cookie_name(one.system)}={one.cookie}", "Origin": one.base,
               biff.TOKEN_HEADER: biff.hmac_of(one.system, "anti-forgery", one.cookie)}
    async with session.request(method, one.base + path, headers=headers, allow_redirects=False) as answer:
        text = f"{answer.status} {answer.headers.get('Location')} {await answer.text()}"
    for id in ids["{channel_id}"], ids["{message_id}"]:
        text = text.replace(str(id), "ID")
    return re.sub(r"mark \w+", "mark", text)


async def test_without_the_one_rule_the_matrix_fails(tmp_path, monkeypatch):
    """A matrix that everything passes would be green on the day on which the rule is lost."""
    from plugins import places
    monkeypatch.setattr(places, "may_read", lambda place, mem_id: True)
    system = await biff.start_system(eelchat.COMPONENTS, eelchat.initial_system({"data": str(tmp_path), "port": 0})
                                     | {"biff/plugins": with_handlers(reached)})
    people, ids = await settled_in(system, False)
    async with aiohttp.ClientSession() as session:
        answers = [await people[name].ask(session, "GET", filled(eelchat.CHANNEL, ids))
                   for name in ("not in it", "admin not in it", "removed")]
    await biff.stop_system(system)
    assert {text for _, text in answers} == {"reached"}


# ── Nothing gives it away ────────────────────────────────────────────────────────────────────────────────────

@pytest.fixture
async def three(chat, person):      # noqa: F811
    """Ann and Bob, and Eve, who is an admin and is to see nothing; Ann's private channel has Bob in it."""
    ann, bob, eve = [await person(f"{name}@example.com") for name in ("ann", "bob", "eve")]
    community, channel = await eve.new_channel()
    for one in ann, bob, eve:
        one.community, one.public = community, channel
        if one is not eve:
            await one.join(community)
    for one, name in (ann, "Ann"), (bob, "Bob"), (eve, "Eve"):
        await one.post("/name", {"name": name}, channel)
        one.mem = mem_of(chat, name, community)["xt/id"]
    await eve.post(f"{community}/title", {"title": "Town", "openers": "members"}, channel)
    ann.private = (await ann.post(f"{community}/channel", {"title": "Hush hush", "private": "on"},
                                  channel)).url.path
    await add(ann, bob)
    return ann, bob, eve


async def add(one, *others):
    return await one.post(f"{one.private}/people", {f"with-{other.mem}": "on" for other in others}, one.private)


async def write(one, *others):
    return await one.post(f"{one.community}/direct", {f"with-{other.mem}": "on" for other in others}, one.public)


async def everything(one, ids):
    """(where, text) of all that somebody can get: each page that can be read, news and replays from every moment."""
    newest, ids = one.chat["biff/node"].latest_tx.tx_id, ids | {"{token}": "x" * 43, "{code}": "x" * 38}
    paths = [filled(path, ids) for method, path, *_ in biff.parts(one.chat, "routes") if method == "GET"]
    for path in [path for path in paths if not path.endswith("/connect")]:
        yield path, (await one.get(path)).body_text
    for place in "", f"/community/{ids['{id}']}", one.public, f"/community/{ids['{id}']}/channel/{ids['{channel_id}']}":
        for cursor in range(0, newest + 1, 3):
            yield f"{place}/news after {cursor}", (await one.get(f"{place}/news?after={cursor}")).body_text
        for cursor in {0, newest // 2, newest}:
            yield f"{place} after {cursor}", await heard(await one.listen(place, cursor))


async def heard(socket, wanted=""):
    """The frames that a socket brings, until something wanted was among them, and then until it brings nothing for a
    moment or is closed."""
    said = ""
    try:
        while (message := await socket.receive(timeout=0.1 if wanted in said else 60)).type is aiohttp.WSMsgType.TEXT:
            said += message.data
    except (asyncio.TimeoutError, TimeoutError):
        pass
    await socket.close()
    return said


async def talk(ann, bob):
    """All that happens in a private channel: what must not be seen outside of it."""
    post = uuid.uuid4()
    await ann.say(ann.private, "meet at the weir", post), await bob.say(ann.private, "/list")
    await ann.post(f"{ann.private}/message/{post}", {"text": "meet at the sluice"}, ann.private, {"HX-Request": "1"})
    await bob.post(f"{ann.private}/title", {"title": "Hush again", "topic": "murmurs"}, ann.private)
    direct = (await write(ann, bob)).url.path
    await bob.say(direct, "a word to you alone")
    return post, direct


SECRETS = "Hush", "murmurs", "meet at", "a word to you alone", "Subscriptions: none"


@pytest.mark.parametrize("who", ["admin", "removed"])
async def test_no_page_news_or_replay_gives_a_private_channel_away(chat, three, say, who):      # noqa: F811
    """Without this, a list, an old frame or an error would tell an admin, or a person who was removed, what is said."""
    ann, bob, eve = three
    if who == "removed":
        await add(ann, eve)
        assert "Hush" in (await eve.get(eve.public)).body_text
        await ann.post(f"{ann.private}/people/{eve.mem}/remove", page=ann.private)
    post, direct = await talk(ann, bob)
    tried, seen = 0, []
    for path in ann.private, direct:
        ids = {"{id}": ann.community.rpartition("/")[2], "{channel_id}": path.rpartition("/")[2], "{message_id}": post}
        async for where, text in everything(eve, ids):
            told = [secret for secret in SECRETS if secret in text]
            told += [id for id in (path[-36:], str(post)) if id in text and id not in where]
            tried, seen = tried + 1, seen + [(where, told)] * bool(told)
    say(f"{who}: {tried} pages, news and replays, {len(seen)} give something away; asked 0")
    assert tried > 50 and not seen
    assert "Hush again" in (await bob.get(bob.public)).body_text, "there was something to be seen"


async def test_no_frame_gives_a_private_channel_away_while_it_lives(chat, three):      # noqa: F811
    """Without this, open pages would show that something new is there, though nobody could open it."""
    ann, bob, eve = three
    sockets = [await eve.listen(place) for place in (eve.public, eve.community)]
    direct = (await talk(ann, bob))[1]
    await bob.post("/name", {"name": "Bobby"}, bob.public)
    await ann.post(f"{ann.private}/people/{bob.mem}/remove", page=ann.private)
    await ann.post(f"{ann.private}/leave", page=ann.public)
    await eve.say(eve.public, "the end")
    for socket in sockets:
        told = await heard(socket, "the end" if socket is sockets[0] else "Bobby")
        assert "Bobby" in told and not [secret for secret in (*SECRETS, ann.private[-36:], direct[-36:])
                                        if secret in told]


async def test_an_invitation_does_not_name_a_private_channel(chat, three):      # noqa: F811
    """Without this, an admin who knows an id would be told its title on the page of invitations."""
    ann, _, eve = three
    await eve.post(f"{eve.community}/invitations", {"channel": ann.private[-36:]}, eve.public)
    page = (await eve.get(f"{eve.community}/invitations")).body_text
    assert "Make a link" in page and "Revoke" in page and "Hush" not in page


async def test_private_channels_do_not_count_among_the_channels(three, monkeypatch):
    """Without this, an admin could count them, by the number of channels that can still be opened."""
    ann, _, eve = three
    monkeypatch.setattr(eelchat, "CHANNELS_MAX", 2)
    assert (await eve.post(f"{eve.community}/channel", {"title": "second"}, eve.public)).status == 200
    refused = await eve.post(f"{eve.community}/channel", {"title": "third"}, eve.public)
    assert refused.status == 422 and "at most 2 channels" in refused.body_text


# ── Coming and going ─────────────────────────────────────────────────────────────────────────────────────────

async def test_who_is_added_sees_it_at_once_and_who_is_removed_hears_no_more(chat, three):      # noqa: F811
    """Without this, a person would go on listening where they are no longer wanted."""
    ann, bob, eve = three
    outside, inside = await eve.listen(eve.public), await bob.listen(ann.private)
    await add(ann, eve)
    assert "Hush hush" in await heard(outside, "Hush hush")
    await ann.post(f"{ann.private}/people/{bob.mem}/remove", page=ann.private)
    told = "".join([message.data async for message in inside])
    assert "You are no longer in this channel." in told and inside.close_code == 1008
    assert (await bob.get(ann.private)).url.path == bob.community
    await bob.say(ann.private, "still here?")
    assert "still here?" not in (await ann.get(ann.private)).body_text


async def test_only_the_maker_or_an_admin_in_it_removes_and_everybody_leaves(chat, three):      # noqa: F811
    """Without this, any guest could throw out the host, or nobody could go."""
    ann, bob, _ = three
    refused = await bob.post(f"{ann.private}/people/{ann.mem}/remove", page=ann.private)
    assert refused.status == 403 and "Only the maker of a private channel" in refused.body_text
    assert (await bob.post(f"{ann.private}/leave", page=ann.private)).url.path == bob.community
    assert "1 person" in (await ann.get(ann.private)).body_text


@pytest.mark.parametrize("last", ["leave", "community"])
async def test_the_last_one_out_takes_the_channel_along(chat, three, last):      # noqa: F811
    """Without this, words would lie about that nobody can read or delete."""
    ann, bob, _ = three
    await ann.say(ann.private, "soon gone")
    await bob.post(f"{ann.private}/leave", page=ann.private)
    db, id = chat["biff/node"].db, uuid.UUID(ann.private[-36:])
    assert db().entity(id) and biff.lookup_id(db(), "msg/text", "soon gone")
    await ann.post(f"{ann.private if last == 'leave' else ann.community}/leave", page=ann.public)
    assert db().entity(id) is None
    await eelchat.sweep_all(biff.assoc_db(chat))
    async with asyncio.timeout(60):
        while biff.lookup_id(db(), "msg/text", "soon gone"):
            await asyncio.sleep(0.01)


async def test_who_leaves_the_community_is_in_its_private_channels_no_more(chat, three):      # noqa: F811
    """Without this, a person who is invited again would find private channels that went on without them."""
    ann, bob, _ = three
    await bob.post(f"{bob.community}/leave", page=bob.public)
    assert chat["biff/node"].db().entity(uuid.UUID(ann.private[-36:]))["chan/mems"] == {ann.mem}
    await bob.join(bob.community)
    assert (await bob.get(ann.private)).url.path == bob.community
    assert "Hush" not in (await bob.get(bob.public)).body_text


async def test_a_private_channel_has_a_bound(three, monkeypatch):
    """Without this, its page would grow with everybody who was ever added."""
    ann, _, eve = three
    monkeypatch.setattr(private, "PRIVATE_PEOPLE_MAX", 2)
    refused = await add(ann, eve)
    assert refused.status == 422 and "at most 2 people" in refused.body_text
    monkeypatch.setattr(private, "STARTED_MAX", 1)
    refused = await write(ann, eve)
    assert refused.status == 422 and "One person opens at most 1 private channels" in refused.body_text
    again = await ann.post(f"{ann.community}/channel", {"title": "more", "private": "on"}, ann.public)
    assert again.status == 422


# ── Direct messages ──────────────────────────────────────────────────────────────────────────────────────────

async def test_the_same_people_have_one_conversation_whoever_begins(chat, three):      # noqa: F811
    """Without this, each would write into a conversation of their own and wait for an answer."""
    ann, bob, eve = three
    answers = await asyncio.gather(write(ann, bob), write(bob, ann), write(ann, bob))
    assert len({answer.url.path for answer in answers}) == 1 and "/channel/" in answers[0].url.path
    assert (await write(bob, ann)).url.path == answers[0].url.path
    assert (await write(bob, ann, eve)).url.path != answers[0].url.path
    assert len(chat["biff/node"].db().q({"find": "?c", "where": [["?c", "chan/set"]]})) == 2


async def test_each_sees_the_names_of_the_others_live(three):
    """Without this, a conversation would be called by a name that nobody there has any more."""
    ann, bob, eve = three
    direct = (await write(ann, bob, eve)).url.path
    for one, title in (ann, "Bob, Eve"), (bob, "Ann, Eve"), (eve, "Ann, Bob"):
        page = (await one.get(direct)).body_text
        assert f"<title>{title} – eelchat</title>" in page and f"Message {title}<" in page
    listening, elsewhere = await ann.listen(direct), await ann.listen(ann.public)
    await bob.post("/name", {"name": "Zoe"}, bob.public)
    told = await heard(listening, "<title>Eve, Zoe – eelchat</title>")
    assert "<title>Eve, Zoe – eelchat</title>" in told and "Ann, Eve" not in told
    assert "Eve, Zoe" in await heard(elsewhere, "Eve, Zoe")


async def test_nobody_is_an_admin_in_a_direct_message(chat, three):      # noqa: F811
    """Without this, one of two people could delete the words of the other."""
    ann, bob, eve = three
    direct, post = (await write(ann, eve)).url.path, uuid.uuid4()
    await ann.say(direct, "mine", post)
    assert (await eve.post(f"{direct}/message/{post}", page=direct, method="DELETE")).status == 403
    assert (await eve.post(direct, page=direct, method="DELETE")).status == 403
    assert (await eve.post(f"{direct}/title", {"title": "x"}, direct)).status == 403
    await eve.say(direct, "/subscribe http://127.0.0.1:1/feed")
    page = (await eve.get(direct)).body_text
    assert "mine" in page and "Only an admin of this community may do that." in page and "Delete channel" not in page


async def test_two_to_eight_people_of_one_community_and_nobody_else(chat, three, person):      # noqa: F811
    """Without this, a conversation could hold a stranger, or a crowd."""
    ann, bob, _ = three
    stranger = await person("kim@example.com")
    elsewhere, _ = await stranger.new_channel()
    await stranger.post("/name", {"name": "Kim"}, elsewhere)
    stranger.mem = mem_of(chat, "Kim", elsewhere)["xt/id"]
    crowd = [membership(uuid.uuid4(), uuid.UUID(ann.community[-36:])) for _ in range(8)]
    await chat["biff/node"].submit([put(one) for one in crowd])
    for others in [], [ann], [stranger]:
        assert (await write(ann, *others)).status == 422
    fields = {f"with-{one['xt/id']}": "on" for one in crowd}
    refused = await ann.post(f"{ann.community}/direct", fields, ann.public)
    assert refused.status == 422 and "A direct message has 2 to 8 people" in refused.body_text
    fields.popitem()
    assert "/channel/" in (await ann.post(f"{ann.community}/direct", fields, ann.public)).url.path


async def test_the_picker_finds_members_and_keeps_who_is_chosen(three):
    """Without this, a person of two thousand could not be written to."""
    ann, bob, eve = three
    found = (await ann.get(f"{ann.community}/direct?q=eV&with-{bob.mem}=on")).body_text
    listed = found[found.index('class="picker"'):]
    assert f'name="with-{bob.mem}" checked' in listed and f'name="with-{eve.mem}"' in listed
    assert f"with-{ann.mem}" not in listed


async def test_what_is_new_in_private_is_counted_for_its_people_alone(three):
    """Without this, a mark would be missing where it matters most, or would tell others that something is there."""
    ann, bob, eve = three
    sockets, post = [await one.listen(one.public) for one in (bob, eve)], uuid.uuid4()
    await ann.say(ann.private, "psst", post)
    told, not_told = await heard(sockets[0], f"new-{post}"), await heard(sockets[1])
    assert f'id="new-{post}" data-channel="{ann.private[-36:]}"' in told and "new-" not in not_told
    pages = [(await one.get(one.public)).body_text for one in (bob, eve)]
    assert [re.search(f'data-counts="1 [^"]*{ann.private[-36:]}', page) is not None for page in pages] == [True, False]


async def test_a_direct_message_is_hidden_until_somebody_writes_or_opens_it(chat, person):      # noqa: F811
    """A list that only grows would bury those with whom one talks today."""
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    community, channel = await ann.new_channel()
    await bob.join(community)
    form = {f"with-{biff.lookup_id(chat['biff/node'].db(), 'mem/roles', 'admin')}": "on"}
    direct = (await bob.post(f"{community}/direct", form, f"{community}/direct")).url.path

    async def is_listed(one):
        return direct in re.search(r'<ul class="private" id="directs">(.*?)</ul>', (await one.get(channel)).body_text,
                                   re.DOTALL)[1]
    for reveal in (lambda: ann.say(direct, "are you there?"), lambda: bob.post(f"{community}/direct", form, channel)):
        assert await is_listed(bob)
        socket = await bob.listen(channel)
        assert (await bob.post(f"{direct}/hide", page=direct)).url.path == community
        assert 'id="directs"' in await socket.receive_str() and not await is_listed(bob) and await is_listed(ann)
        await reveal()
        heard = ""
        while direct not in heard:
            heard = await socket.receive_str()
        await socket.close()
    assert await is_listed(bob)


async def test_the_last_person_in_a_private_channel_is_told_what_goes_with_them(chat, person):      # noqa: F811
    """A year of notes would be gone by a click on "Leave"."""
    ann = await person("ann@example.com")
    community, _ = await ann.new_channel()
    hush = (await ann.post(f"{community}/channel", {"title": "hush", "private": "on"}, community)).url.path
    assert "the channel goes." in (await ann.get(f"{hush}?people")).body_text
    for n in range(2):
        await ann.say(hush, f"note {n}")
    assert "the channel goes, and 2 messages with it." in (await ann.get(f"{hush}?people")).body_text
