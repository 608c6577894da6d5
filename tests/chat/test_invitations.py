"""Invitations: who comes into a community, by which link, and until when."""
import asyncio
import datetime as dt
import re
import uuid

import pytest

import biff
from people import chat, person      # noqa: F401
from plugins import invitations
from store import delete, put


def made(chat, **values):
    """An invitation put into the store by its maker's membership."""
    node = chat["biff/node"]
    mem = values.pop("mem", None) or next(mem for mem in documents(chat, "mem/user") if "admin" in mem["mem/roles"])
    one = {"xt/id": uuid.uuid4(), "inv/comm": mem["mem/comm"], "inv/mem": mem["xt/id"], "inv/used": 0,
           "inv/made-at": dt.datetime.now(dt.timezone.utc),
           **{f"inv/{key.replace('_', '-')}": value for key, value in values.items()}}
    node.submit_tx([put(one)])
    return one["xt/id"], invitations.path_of(chat, one["xt/id"])


def documents(chat, attribute):
    return chat["biff/node"].db().q({"find": ("pull", "?e", ["*"]), "where": [["?e", attribute]]})


async def joined(one, path):
    """Where somebody is who has pressed Join."""
    return (await one.post(path, page="/app")).url.path


async def test_an_invitation_says_who_invites_where_to_and_how_many_are_there(chat, person):      # noqa: F811
    """Without this, people would sign up without knowing for what; and their hosts' addresses would be public."""
    ann, visitor = await person("ann@example.com"), await person()
    await ann.new_channel()
    page = (await visitor.get(made(chat)[1])).body_text
    title = documents(chat, "comm/title")[0]["comm/title"]
    assert title in page and "1 member" in page and "invites you to" in page and "ann@example.com" not in page


async def test_a_visitor_signs_in_from_an_invitation_and_lands_in_its_channel(chat, person):      # noqa: F811
    """Without this, who was invited would stand before a door after signing in, and not know which."""
    ann, bob = await person("ann@example.com"), await person()
    community, channel = await ann.new_channel()
    channel_id = uuid.UUID(channel.rpartition("/")[2])
    id, path = made(chat, chan=channel_id)
    await bob.post("/auth/send-link", {"email": "bob@example.com", "return-to": path}, path)
    back = (await bob.post("/auth/verify-link", {"token": bob.last_token()}, allow_redirects=False)).headers["Location"]
    assert back.endswith(path)
    assert await joined(bob, path) == channel and (await bob.get(path)).url.path == channel
    mem = next(mem for mem in documents(chat, "mem/invitation"))
    assert mem["mem/invitation"] == id
    assert mem["mem/roles"] == set() and chat["biff/node"].db().entity(id)["inv/used"] == 1
    assert await joined(bob, path) == channel
    assert chat["biff/node"].db().entity(id)["inv/used"] == 1, "joining again is no use"


async def test_the_id_of_a_community_is_no_invitation(chat, person):      # noqa: F811
    """Without this, whoever ever saw a community's address could come back for ever."""
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    community, channel = await ann.new_channel()
    for path in community, channel, f"{community}/invitations":
        assert (await bob.get(path)).url.path == "/app"
    assert (await bob.post(f"{community}/join", page="/app")).status == 404
    assert len(documents(chat, "mem/user")) == 1


HOUR = dt.timedelta(hours=1)
OVER = {
    "ended": lambda chat: made(chat, ends_at=dt.datetime.now(dt.timezone.utc) - HOUR),
    "used up": lambda chat: made(chat, uses_max=2, used=2),
}


async def revoked(chat):
    id, path = made(chat)
    chat["biff/node"].submit_tx([delete(id)])
    return id, path


async def orphaned(chat):
    """Its maker was removed."""
    mem = documents(chat, "mem/user")[0]
    id, path = made(chat, mem=mem)
    chat["biff/node"].submit_tx([delete(mem["xt/id"])])
    return id, path


@pytest.mark.parametrize("make", [*OVER.values(), revoked, orphaned], ids=[*OVER, "revoked", "its maker is gone"])
async def test_an_invitation_that_is_over_brings_nobody(chat, person, make):      # noqa: F811
    """Without this, a link from last year's poster would still open the door."""
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    await ann.new_channel()
    made_one = make(chat)
    _, path = await made_one if asyncio.iscoroutine(made_one) else made_one
    for answer in await bob.get(path), await bob.post(path, page="/app"):
        assert answer.status == 404 and "This invitation is over" in answer.body_text
    user = next(user["xt/id"] for user in documents(chat, "user/email") if user["user/email"] == "bob@example.com")
    assert not [mem for mem in documents(chat, "mem/user") if mem["mem/user"] == user]


async def test_of_many_who_race_for_the_last_use_one_joins(chat, person):      # noqa: F811
    """Without this, a link for one friend would bring as many as press at once."""
    ann = await person("ann@example.com")
    await ann.new_channel()
    id, path = made(chat, uses_max=1)
    crowd = [await person(f"{n}@example.com") for n in range(5)]
    places = await asyncio.gather(*(joined(one, path) for one in crowd))
    assert sum("/channel/" in place for place in places) == 1
    assert len(documents(chat, "mem/invitation")) == chat["biff/node"].db().entity(id)["inv/used"] == 1


async def test_a_link_that_this_server_did_not_make_opens_nothing(chat, person, seed):      # noqa: F811
    """Without this, an id read in a backup, or guessed, would be a way in."""
    import random
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    await ann.new_channel()
    id, path = made(chat)
    code, chance = path.rpartition("/")[2], random.Random(seed)
    places = chance.sample(range(len(code)), 12)
    forged = [code[:at] + chance.choice([c for c in "Aa0_-Z9" if c != code[at]]) + code[at + 1:] for at in places]
    for wrong in [*forged, code[:-1], code + "A", code + "=", "A" * 38, str(id), "%C3%A9", id.hex]:
        assert (await bob.get(f"/invite/{wrong}")).status == 404, wrong
    assert (await bob.get(path)).status == 200


async def test_the_log_shows_no_link_of_an_invitation(chat, person):      # noqa: F811
    """Without this, whoever reads the log of requests could join any community."""
    ann = await person("ann@example.com")
    await ann.new_channel()
    assert biff.system.masked(f"GET {made(chat)[1]} 200") == "GET /invite/… 200"


async def test_members_see_their_own_links_and_admins_all(chat, person):      # noqa: F811
    """Without this, a member could use up or revoke what an admin sent to others."""
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    community, _ = await ann.new_channel()
    page = f"{community}/invitations"
    await ann.post(page, {"ends": "day", "uses": "5"}, page)
    theirs = documents(chat, "inv/comm")[0]
    assert theirs["inv/uses-max"] == 5
    assert theirs["inv/ends-at"] - theirs["inv/made-at"] < dt.timedelta(days=1, minutes=5)
    await bob.join(community)
    assert invitations.link_of(chat, theirs["xt/id"]) not in (await bob.get(page)).body_text
    assert (await bob.post(f"{page}/{theirs['xt/id']}/revoke", page=page)).status == 403
    await bob.post(page, {"ends": "never"}, page)
    mine = next(one for one in documents(chat, "inv/comm") if one["inv/mem"] != theirs["inv/mem"])
    assert "inv/ends-at" not in mine and "inv/uses-max" not in mine
    for one in ann, bob:
        assert invitations.link_of(chat, mine["xt/id"]) in (await one.get(page)).body_text
    await ann.post(f"{page}/{mine['xt/id']}/revoke", page=page)
    assert [one["xt/id"] for one in documents(chat, "inv/comm") if one["inv/mem"] == mine["inv/mem"]] == []


async def test_a_community_may_keep_inviting_to_its_admins(chat, person):      # noqa: F811
    """Without this, a closed group would be open to the friends of every member's friends."""
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    community, channel = await ann.new_channel()
    await bob.join(community)
    page = f"{community}/invitations"
    assert (await bob.post(page, page=channel)).status == 200
    await ann.post(f"{community}/title", {"title": "Eels", "inviters": "admins"}, channel)
    assert 'data-inviters="admins"' in (await bob.get(channel)).body_text
    assert (await bob.post(page, page=channel)).status == 403 and (await ann.post(page, page=channel)).status == 200


async def test_a_community_may_let_its_members_open_channels(chat, person):      # noqa: F811
    """Without this, every new subject would wait for an admin; a change must reach pages that are open."""
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    community, channel = await ann.new_channel()
    await bob.join(community)
    listening = await bob.listen(channel)
    assert (await bob.post(f"{community}/channel", {"title": "x"}, channel)).status == 403
    await ann.post(f"{community}/title", {"title": "Eels", "openers": "members"}, channel)
    async with asyncio.timeout(60):
        while 'data-openers="members"' not in await listening.receive_str():
            pass
    assert (await bob.post(f"{community}/channel", {"title": "x"}, channel)).status == 200


async def test_a_page_of_invitations_tells_who_came_by_which(chat, person):      # noqa: F811
    """Without this, nobody could tell which link was passed on to strangers."""
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    community, _ = await ann.new_channel()
    page = f"{community}/invitations"
    await ann.post(page, {"ends": "week"}, page)
    link = re.search(r'value="http[^"]*(/invite/[\w-]+)"', (await ann.get(page)).body_text)[1]
    assert "/channel/" in await joined(bob, link)
    shown = (await ann.get(page)).body_text
    assert "Came by it: " in shown and "used 1 time" in shown and 'class="qr"' in shown


async def test_a_newcomer_says_a_name_and_hears_of_one_that_looks_the_same(chat, person):      # noqa: F811
    """Everybody who follows an invitation would be "User 3384", or somebody's double."""
    ann, bob, eve = [await person(f"{name}@example.com") for name in ("ann", "bob", "eve")]
    await ann.post("/name", {"name": "Ann"}, "/app")
    community, channel = await ann.new_channel()
    link = await ann.invitation(community)
    assert 'name="name"' in (await bob.get(link)).body_text
    assert (await bob.post(link, {"name": " Bob \n"}, link)).url.path == channel
    assert "Bob" in (await ann.get(f"{community}/members")).body_text
    told = await eve.post(link, {"name": "B0b"}, link)
    assert told.url.path == "/name" and told.url.query["return-to"] == channel and "look" in told.body_text
    assert 'name="name"' not in (await bob.get(await ann.invitation((await ann.new_channel())[0]))).body_text


async def test_invitations_of_a_community_are_bounded_and_old_ones_make_room(chat, person, monkeypatch):  # noqa: F811
    """Without this, one member could fill the store, or a community could not invite because of links that are over."""
    monkeypatch.setattr(invitations, "INVITATIONS_MAX", 3)
    ann = await person("ann@example.com")
    community, _ = await ann.new_channel()
    page = f"{community}/invitations"
    made(chat, ends_at=dt.datetime.now(dt.timezone.utc) - HOUR)
    statuses = [(await ann.post(page, {"ends": "week"}, page)).status for _ in range(4)]
    assert statuses == [200, 200, 200, 422] and len(documents(chat, "inv/comm")) == 3
