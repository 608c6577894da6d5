"""Kept: what pages derive is kept in memory, and is always what the store would give."""
import random

import biff
from people import chat, person      # noqa: F401
from plugins import kept
from plugins.changes import list_view, newest_view
from plugins.places import channel_list_view, channels_in, channels_kept, messages_of
from store import delete, evict, put


async def test_what_is_kept_is_what_each_snapshot_would_give(chat, person, monkeypatch, seed):      # noqa: F811
    """A page would show a channel that is gone, or that is not there yet."""
    ann = await person("ann@example.com")
    await ann.new_channel()
    monkeypatch.setattr(kept, "SPOILED_MAX", 3)
    node, rng, dbs = chat["biff/node"], random.Random(seed), []
    community = biff.lookup_id(node.db(), "comm/title", "Community #1") or node.db().q(
        {"find": "?c", "where": [["?c", "comm/title"]]})[0]
    channels = [{"xt/id": node.new_id(), "chan/comm": community, "chan/title": f"{n}"} for n in range(5)]
    for n in range(120):
        one = rng.choice(channels)
        await node.submit([rng.choice([put(one | {"chan/title": f"{rng.random()}"}), put(one), delete(one["xt/id"]),
                                       evict(one["xt/id"]), put({"xt/id": "note", "note/text": f"{n}"})])])
        dbs.append(node.db())
        for db in [node.db(), *rng.sample(dbs, min(3, len(dbs)))]:   # an evict changes the past, too
            assert channels_kept(chat, db, community) == channels_in(db, community)
    assert "<li>" in channel_list_view(chat, node.db(), community)


async def test_messages_that_are_kept_are_those_of_each_snapshot(chat, person, seed):      # noqa: F811
    """A page would show a text that was deleted, or a name that nobody has any more."""
    ann = await person("ann@example.com")
    await ann.new_channel()
    node, rng, dbs = chat["biff/node"], random.Random(seed), []
    db = node.db()
    channel, mem = (db.entity(db.q({"find": "?e", "where": [["?e", name]]})[0]) for name in ("chan/title", "mem/user"))
    said = {"msg/mem": mem["xt/id"], "msg/channel": channel["xt/id"], "msg/created-at": db.tx_time}
    messages = [said | {"xt/id": node.new_id()} for _ in range(6)]
    answers = {"msg/reply-to": messages[0]["xt/id"], "msg/reply-tx": 1, "msg/thread": messages[0]["xt/id"]}
    messages[1] |= answers
    messages[2] |= {"msg/mentions": [mem["xt/id"]], "msg/mention-spans": ((0, 3, mem["xt/id"]),)}
    for n in range(60):
        one = rng.choice(messages)
        await node.submit([rng.choice([
            put(one | {"msg/text": f"all of {n}"}), put(one | {"msg/text": f"all of {n}"}), delete(one["xt/id"]),
            evict(one["xt/id"]), put(node.db().entity(mem["mem/user"]) | {"user/name": f"Ann {n}"}),
            put({"xt/id": f"reaction {n}", "react/msg": one["xt/id"], "react/channel": channel["xt/id"],
                 "react/mem": mem["xt/id"], "react/emoji": "\U0001f44d"})])])
        dbs.append(node.db())
        for db in [node.db(), *rng.sample(dbs, min(2, len(dbs)))]:
            page, has_older = messages_of(db, channel, count=5)
            assert newest_view(chat, db, channel, 5) == list_view(chat, db, channel, page, has_older), n


def test_what_is_kept_stays_within_its_bytes(monkeypatch):
    """Pages of many communities would fill the memory of the server."""
    monkeypatch.setattr(kept, "KEPT_BYTES_MAX", 10_000)

    class Now:
        tx_id, high = 1, 1

        def read_up(self, tx_id):
            """Nothing to hear."""
    keeps, made = kept.Kept(), []
    for n in range(100):
        keeps({"chat_lately": Now()}, Now, ("value", n), lambda n=n: made.append(n) or n, lambda value: 500)
    assert made == list(range(100)) and len(keeps._kept) == 10 and keeps._bytes == 10_000
    keeps({"chat_lately": Now()}, Now, ("value", 99), lambda: made.append("again"), lambda value: 500)
    assert "again" not in made
