"""Members: who is here, who may what, and how people come to go."""
import asyncio
import re
import uuid

import pytest

import biff
from people import chat, person      # noqa: F401
from plugins import members


@pytest.fixture
async def two(chat, person):      # noqa: F811
    """Ann, an admin, and Bob, a member, with the paths of their community and channel."""
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    ann.community, ann.channel = await ann.new_channel()
    await bob.join(ann.community)
    for one, name in (ann, "Ann"), (bob, "Bob"):
        await one.post("/name", {"name": name}, ann.channel)
    return ann, bob


def mem_of(chat, one, community):      # noqa: F811
    db = chat["biff/node"].db()
    user = biff.lookup_id(db, "user/name", one)
    return biff.lookup(db, "mem/user", user, "mem/comm", uuid.UUID(community.rpartition("/")[2]))


async def act(one, community, mem, what, **fields):
    return await one.post(f"{community}/members/{mem['xt/id']}/{what}", fields, f"{community}/members")


async def test_the_list_of_members_tells_names_roles_and_since_when_and_no_address(two):
    """Without this, nobody could see who reads along; with an address in it, everybody's would be collected."""
    ann, bob = two
    page = (await bob.get(f"{ann.community}/members")).body_text
    listed = page[page.index('id="member-list"'):]
    assert listed.index(">Ann</b>") < listed.index(">Admin<") < listed.index(">Bob</b>") and "since <time" in listed
    assert "ann@example.com" not in page and "2 members" in page
    found = (await bob.get(f"{ann.community}/members?q=bO")).body_text
    assert ">Bob</b>" in found and ">Ann</b>" not in found
    assert "Nobody here is called that" in (await bob.get(f"{ann.community}/members?q=zoe")).body_text


async def test_a_long_list_of_members_has_pages_and_the_search_is_over_all(chat, two, monkeypatch):      # noqa: F811
    """Two thousand people in one page took half a second, and who stood on the second one was found by search alone."""
    ann, bob = two
    monkeypatch.setattr(members, "SHOWN_MAX", 1)
    path, shown = f"{ann.community}/members", []
    for name, moves in ("Ann", ['from=1">More']), ("Bob", [f'{path}">Earlier']):
        page = (await bob.get(path + ("?from=1" if shown else ""))).body_text
        shown += re.findall(r"<b [^>]*>(\w+)</b>(?: <span class=\"tag\"|\s+<span class=\"small\">since)", page)
        assert shown[-1] == name and all(move in page for move in moves)
    assert "hx-ws:connect" not in page, "what is told of changes is the first page"
    assert ">Bob</b>" in (await bob.get(f"{path}?q=bob")).body_text
    await bob.post("/name", {"name": "Aaron"}, ann.channel)
    assert "Aaron" in (await bob.get(f"{path}?from=1")).body_text, "admins come first"
    await ann.post(f"{path}/{mem_of(chat, 'Aaron', ann.community)['xt/id']}/role", {"role": "admin"}, ann.channel)
    assert "Aaron" in (await bob.get(path)).body_text, "and then the names"


async def test_admins_make_admins_and_take_their_rights_back(chat, two):      # noqa: F811
    """Without this, a community would depend on one person for ever."""
    ann, bob = two
    assert (await act(bob, ann.community, mem_of(chat, "Bob", ann.community), "role", role="admin")).status == 403
    for role, roles in ("admin", {"admin"}), ("member", set()):
        await act(ann, ann.community, mem_of(chat, "Bob", ann.community), "role", role=role)
        assert mem_of(chat, "Bob", ann.community)["mem/roles"] == roles
        assert f'data-role="{role}"' in (await bob.get(ann.channel)).body_text


async def test_the_last_admin_cannot_go_without_naming_another(chat, two):      # noqa: F811
    """Without this, a community would be left that nobody can mend."""
    ann, bob = two
    mem = mem_of(chat, "Ann", ann.community)
    for answer in (await act(ann, ann.community, mem, "role", role="member"),
                   await act(ann, ann.community, mem, "remove"),
                   await ann.post(f"{ann.community}/leave", page=ann.channel)):
        assert answer.status == 422 and "The last admin cannot go" in answer.body_text
    assert mem_of(chat, "Ann", ann.community)["mem/roles"] == {"admin"}
    await act(ann, ann.community, mem_of(chat, "Bob", ann.community), "role", role="admin")
    assert (await ann.post(f"{ann.community}/leave", page=ann.channel)).url.path == "/app"
    assert mem_of(chat, "Ann", ann.community) is None
    assert (await bob.post(f"{ann.community}/leave", page=ann.channel)).status == 200, "the only one may leave"


async def test_of_two_admins_who_leave_at_once_one_stays(chat, two):      # noqa: F811
    """Without this, each would look, see the other, and go."""
    ann, bob = two
    await bob.join(ann.community)
    third = await act(ann, ann.community, mem_of(chat, "Bob", ann.community), "role", role="admin")
    assert third.status == 200
    others = [{"xt/id": uuid.uuid4(), "mem/user": uuid.uuid4(), "mem/roles": set(),
               "mem/comm": uuid.UUID(ann.community.rpartition("/")[2])}]
    from store import put
    await chat["biff/node"].submit([put(one) for one in others])
    answers = await asyncio.gather(*(one.post(f"{ann.community}/leave", page=ann.channel) for one in (ann, bob)))
    assert sorted(answer.status for answer in answers) == [200, 422]


async def test_a_removed_member_keeps_their_words_and_loses_the_place_at_once(chat, two):      # noqa: F811
    """Without this, a conversation would lose half of its sense; or the removed one would go on listening."""
    ann, bob = two
    await bob.say(ann.channel, "I was here")
    listening = await bob.listen(ann.channel)
    await act(ann, ann.community, mem_of(chat, "Bob", ann.community), "remove")
    said = ""
    async with asyncio.timeout(60):
        while "no longer a member" not in said:
            said += (await listening.receive_str())
    assert (await bob.get(ann.channel)).url.path == "/app"
    assert "HX-Redirect" in (await bob.say(ann.channel, "still here?")).headers
    page = (await ann.get(ann.channel)).body_text
    assert "I was here" in page and ">Bob</b>" in page and "1 member" in page
    assert "/channel/" in (await bob.join(ann.community)).url.path, "who was removed may be invited again"


async def test_a_banned_person_comes_back_by_no_invitation_until_the_ban_is_lifted(chat, two):      # noqa: F811
    """Without this, a ban would last until the next link."""
    ann, bob = two
    await act(ann, ann.community, mem_of(chat, "Bob", ann.community), "ban", reason="sold eels")
    assert (await bob.join(ann.community)).status == 404
    page = (await ann.get(f"{ann.community}/members")).body_text
    assert "Banned" in page and "sold eels" in page and ">Bob</b>" in page[page.index("Banned"):]
    ban = biff.lookup(chat["biff/node"].db(), "ban/reason", "sold eels")
    await ann.post(f"{ann.community}/bans/{ban['xt/id']}/lift", page=ann.channel)
    assert "/channel/" in (await bob.join(ann.community)).url.path
    assert "sold eels" not in (await bob.get(f"{ann.community}/members")).body_text


async def test_nobody_bans_themselves_or_a_member_of_another_community(chat, two, person):      # noqa: F811
    """Without this, an admin of any community could reach into every other one."""
    ann, bob = two
    eve = await person("eve@example.com")
    own, _ = await eve.new_channel()
    assert (await act(ann, ann.community, mem_of(chat, "Ann", ann.community), "ban")).status == 422
    for what in "role", "remove", "ban":
        await eve.post(f"{own}/members/{mem_of(chat, 'Bob', ann.community)['xt/id']}/{what}", {"role": "admin"}, own)
    assert mem_of(chat, "Bob", ann.community)["mem/roles"] == set()
    assert not biff.lookup_id_all(chat["biff/node"].db(), "ban/comm", 1)


async def test_who_comes_and_goes_changes_every_open_page(chat, two, person):      # noqa: F811
    """Without this, people would talk to somebody who has left, and not see who has come."""
    ann, bob = two
    on_channel, on_members = await bob.listen(ann.channel), await bob.listen(ann.channel)
    await on_members.close()
    after = chat["biff/node"].db().tx_id
    on_members = await bob.browser.ws_connect(f"{bob.base}{ann.community}/connect?after={after}",
                                              headers={"Origin": bob.base})
    eve = await person("eve@example.com")
    await eve.join(ann.community)
    for socket, wanted in (on_channel, ["3 members"]), (on_members, ["3 members", 'id="member-list"']):
        said = ""
        async with asyncio.timeout(60):
            while not all(one in said for one in wanted):
                said += await socket.receive_str()
    await act(ann, ann.community, mem_of(chat, "Bob", ann.community), "role", role="admin")
    async with asyncio.timeout(60):
        while 'data-role="admin"' not in await on_channel.receive_str():
            pass
