"""Rights: every route of the table is asked by everybody, and by those who once might see something and may not see
it now."""
import asyncio
import re
import uuid

import aiohttp
import pytest
from aiohttp import web

import biff
import eelchat
from people import PEOPLE, chat, filled, person, settle, with_handlers      # noqa: F401
from store import delete, evict, put

SIGNED_IN = set(PEOPLE) - {"nobody"}
MAY = {                                       # the rules of the route table, by name, and whom each lets through
    "anyone": set(PEOPLE),
    "signed_in": SIGNED_IN,
    "founder": SIGNED_IN,
    "in_community": {"member", "admin"},
    "in_channel": {"member", "admin"},
    "in_message": {"member", "admin"},
    "author": {"member"},
    "in_file": {"member", "admin"},
    "uploader": set(),                        # the file here is posted
    "author_or_admin": {"member", "admin"},
    "reader_of_versions": {"member", "admin"},
    "inviter": {"member", "admin"},
    "channel_opener": {"admin"},
    "other_member": {"admin"},
    "reported": {"admin"},
    "community_admin": {"admin"},
    "channel_admin": {"admin"},
    "channel_namer": {"admin"},
    "in_direct": set(),
    "in_private": set(),                      # the channel here is none: `test_private.py` has the others
    "keeper": set(),
}


async def reached(ctx):
    return web.Response(text="reached")


async def test_every_route_asked_by_everybody_lets_through_whom_its_rule_names(tmp_path, say):
    """A route that forgot to ask is an open door, and attackers find it first."""
    system = await biff.start_system(eelchat.COMPONENTS, eelchat.initial_system({"data": str(tmp_path), "port": 0})
                                     | {"biff/plugins": with_handlers(reached)})
    people, ids, theirs = await settle(system)
    asked, wrong, through = 0, [], 0
    async with aiohttp.ClientSession() as session:
        for method, path, rule, _ in biff.parts(system, "routes"):
            for name, one in people.items():
                status, text = await one.ask(session, method, filled(path, ids))
                asked, through = asked + 1, through + (text == "reached")
                if (text == "reached") != (name in MAY[rule.__name__]):
                    wrong.append((name, method, path, status))
        for method, path, rule, _ in biff.parts(system, "routes"):
            if "{channel_id}" in path:                    # their own community's path with a channel of ours behind it
                status, text = await people["admin elsewhere"].ask(session, method,
                                                                   filled(path, ids | {"{id}": theirs}))
                asked, wrong = asked + 1, wrong + [("through a community of one's own", method, path,
                                                    status)] * (text == "reached")
    await biff.stop_system(system)
    say(f"{asked} requests: {len(biff.parts(system, 'routes'))} routes × {len(PEOPLE)} kinds of people, {through} let "
        f"through; {len(wrong)} wrongly; asked 0")
    assert not wrong and through > 50


@pytest.mark.parametrize("rule", ["signed_in", "in_channel", "channel_admin"])
async def test_without_a_right_asked_for_the_matrix_fails(tmp_path, rule):
    """A matrix that everything passes would be green on the day a rule is lost."""
    plugins = [plugin | {"routes": [(method, path, biff.anyone if asked.__name__ == rule else asked, reached)
                                    for method, path, asked, _ in plugin.get("routes", ())]}
               for plugin in eelchat.PLUGINS]
    system = await biff.start_system(eelchat.COMPONENTS, eelchat.initial_system({"data": str(tmp_path), "port": 0})
                                     | {"biff/plugins": plugins})
    people, ids, _ = await settle(system)
    lost = [(method, path) for plugin in eelchat.PLUGINS for method, path, asked, _ in plugin.get("routes", ())
            if asked.__name__ == rule]
    async with aiohttp.ClientSession() as session:
        answers = [await people["nobody"].ask(session, method, filled(path, ids)) for method, path in lost]
    await biff.stop_system(system)
    assert answers and {text for _, text in answers} == {"reached"}


async def test_a_role_that_is_gone_counts_no_more_with_the_next_request(chat, person):      # noqa: F811
    """Rights are read from the newest snapshot. With a copy kept for a minute, the wrong person would rule for a
    minute."""
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    community, _ = await ann.new_channel()
    await bob.join(community)
    node = chat["biff/node"]
    mem = next(node.db().entity(id)
               for id
               in node.db().q({"find": "?m", "where": [["?m", "mem/comm"], ("not", ["?m", "mem/roles", "admin"])]}))
    statuses = []
    for roles in {"admin"}, set(), {"admin"}:
        await node.submit([put(mem | {"mem/roles": roles})])
        statuses.append((await bob.post(f"{community}/channel", page=community)).status)
    assert statuses == [200, 403, 200]


# ── The past ─────────────────────────────────────────────────────────────────────────────────────────────────

async def all_that_is_shown(one, channel, secret):
    """The pages and sockets that show a text to somebody: every readable route, older pages, and replays from every
    moment."""
    community, seen, tried = channel.partition("/channel")[0], [], 0
    newest = one.chat["biff/node"].latest_tx.tx_id
    ids = {"{id}": community.rpartition("/")[2], "{channel_id}": channel.rpartition("/")[2], "{token}": "x" * 43}
    paths = [filled(path, ids) for plugin in eelchat.PLUGINS
             for method, path, *_ in plugin.get("routes", ()) if method == "GET"]
    paths += [f"{channel}?before={uuid.uuid4()}", f"{channel}?tx_id=5", f"{channel}?as_of=5&valid_time=2020-01-01",
              f"{community}/search?q=between", f"{community}/search?q=from:me+in:general"]
    for path in paths:
        if not path.endswith("/connect"):
            tried += 1
            seen += [path] * (secret in (await one.get(path)).body_text)
    for cursor in range(0, newest + 2):
        tried += 1
        socket = await one.listen(channel, cursor)
        frames = ""
        try:
            while (message := await socket.receive(timeout=0.05)).type is aiohttp.WSMsgType.TEXT:
                frames += message.data
        except (asyncio.TimeoutError, TimeoutError):
            pass
        await socket.close()
        seen += [f"a socket after {cursor}"] * (secret in frames)
    return seen, tried


async def lose_membership(node, ids):
    await node.submit([delete(ids["mem"])])


async def lose_account(node, ids):
    await node.submit([evict(ids["user"])])


async def lose_channel(node, ids):
    await node.submit([delete(ids["channel"])])


async def lose_message(node, ids):
    await node.submit([delete(ids["message"])])


async def lose_many(node, ids):
    """Loses so many at once that browsers are not told one by one."""
    mine = node.db().entity(ids["message"])
    others = [mine | {"xt/id": uuid.uuid4(), "msg/text": "one of many"} for _ in range(150)]
    await node.submit([put(one) for one in others])
    await node.submit([delete(one["xt/id"]) for one in [mine, *others]])


async def lose_words(node, ids):
    await node.submit([put(node.db().entity(ids["message"]) | {"msg/text": "better words"})])


@pytest.mark.parametrize("lose", [lose_membership, lose_account, lose_channel, lose_message, lose_many, lose_words])
async def test_what_may_not_be_seen_any_more_is_not_seen_as_it_was_either(chat, person, say, lose):      # noqa: F811
    """Without this, everybody would see what was deleted, and people who left would see what they may not read."""
    ann, bob, secret = await person("ann@example.com"), await person("bob@example.com"), "a word between us"
    community, channel = await ann.new_channel()
    await bob.join(community)
    post, node = uuid.uuid4(), chat["biff/node"]
    await ann.say(channel, "before"), await ann.say(channel, secret, post), await ann.say(channel, "after")
    assert (await all_that_is_shown(bob, channel, secret))[0], "there was something to be seen"
    user = node.db().q({"find": "?u", "where": [["?u", "user/email", "bob@example.com"]]})[0]
    mem = node.db().q({"find": "?m", "in": ["?u"], "where": [["?m", "mem/user", "?u"]]}, user)[0]
    await lose(node, {"user": user, "mem": mem, "channel": uuid.UUID(re.search(r"[^/]+$", channel)[0]),
                      "message": post})
    seen, tried = await all_that_is_shown(bob, channel, secret)
    say(f"{lose.__name__}: {tried} pages and replays, {len(seen)} show more than is allowed now; asked 0")
    assert seen == []
