"""Unread: what is new in each channel since a person has read it, on all of their pages.

A reading position is the last message that a person has read, and so a place in the log's order; before the first one
it is their membership. It moves when the end of a channel is in sight and the window has the focus. It is kept in
memory and put into the store rarely: when its person has gone, and else after ten minutes. A page carries, for each
channel, how many messages were unread when it was made; each new message adds its id, and the browser counts.
"""
import collections
import datetime as dt
import uuid

from aiohttp import web
from voluptuous import Optional, Schema

import biff
from plugins.changes import channel_of, person_frame
from plugins.edits import MESSAGE, in_message
from plugins.places import (channel_path, channels_for, channels_kept, community_path, in_channel, in_community,
                            is_private, may_read, mem_in, people_in)

PUT_AFTER = dt.timedelta(minutes=10)  # of a position that moves all day: six puts an hour
PUT_LOOK_S = 60                       # how often it is looked whose positions are to be put
READS_A_PERSON = 120, 60              # in a minute: each catching up and each leaving, in a few windows
HEARD_MAX = 10_000                    # positions that moved on other servers and are not in the store yet
PUTS_MAX = 500                        # positions in one transaction
BEFORE_FIRST = 5                      # messages above the first unread one, to remember what it was about
LANDING_MAX = 200                     # messages of a first page that begins at the first unread one

CHANNEL = "/community/{id}/channel/{channel_id}"
SCHEMA = {
    "reading": Schema({
        "xt/id": str,
        "read/mem": uuid.UUID,
        "read/channel": uuid.UUID,
        Optional("read/upto"): uuid.UUID,         # a message; the channel itself, if nothing in it is read
        Optional("read/at"): dt.datetime,
        Optional("read/is-muted"): bool,
    }, required=True),
}


class Positions:
    """Reading positions that are not in the store yet: (mem, channel) → (message, when it moved, waiting since).

    `heard` has those that moved on another server, which puts them into the store: (mem, channel) → (message, when).
    """

    def __init__(self):
        self.moved: dict = {}
        self.heard: dict = {}

    def move(self, mem_id, channel_id, upto, now):
        since = self.moved.get((mem_id, channel_id), (None, None, now))[2]
        self.moved[mem_id, channel_id] = upto, now, since

    def hear(self, mem_id, channel_id, upto, at):
        key = mem_id, channel_id
        if key in self.moved and self.moved[key][1] < at:              # the other server puts the newer one
            del self.moved[key]
        self.heard.pop(key, None)
        self.heard[key] = upto, at
        if len(self.heard) > HEARD_MAX:
            del self.heard[next(iter(self.heard))]

    def was_put(self, mem_id, channel_id, at):
        """What is in the store is what was heard, or newer."""
        if self.heard.get((mem_id, channel_id), (None, at))[1] <= at:
            self.heard.pop((mem_id, channel_id), None)

    def of(self, mem_id, channel_id):
        """The position that moved last, here or elsewhere; None for the one in the store."""
        here, there = self.moved.get((mem_id, channel_id)), self.heard.get((mem_id, channel_id))
        if here and there:
            return here[0] if here[1] >= there[1] else there[0]
        return (here or there or (None,))[0]


def reading_id(mem_id, channel_id):
    return f"reading {mem_id} {channel_id}"


def reading_of(db, mem_id, channel_id):
    return db.entity(reading_id(mem_id, channel_id)) or {}


def readings_of(db, mem_id):
    """All that is stored of what a member has read, by channel."""
    return {one["read/channel"]: one for one in biff.lookup_all(db, "read/mem", mem_id)}


def upto_of(ctx, db, mem_id, channel_id):
    """The last message that a member has read in a channel; their membership before the first one."""
    moved = ctx["chat_positions"].of(mem_id, channel_id)
    return moved or reading_of(db, mem_id, channel_id).get("read/upto", mem_id)


def counts_of(ctx, db, mem_id, channel_ids):
    """How many messages of others a member has not read, by channel; those with none are left out."""
    readings, of = readings_of(db, mem_id), ctx["chat_positions"].of
    positions = [(id, of(mem_id, id) or readings.get(id, {}).get("read/upto", mem_id)) for id in channel_ids]
    return dict(db.q({"find": ["?c", ("count", "?m")], "in": [[["?c", "?upto"], ...], "?me"],
                      "where": [["?m", "msg/channel", "?c"], [("created-after", "?m", "?upto")],
                                ("not", ["?m", "msg/mem", "?me"])]}, positions, mem_id)) if positions else {}


def calls_of(ctx, db, mem_id, channel_ids):
    """How many of those messages mention the member, or everybody, by channel; those with none are left out."""
    called = [(id, upto_of(ctx, db, mem_id, id), who) for id in channel_ids for who in (mem_id, id)]
    calls = db.q({"find": ["?c", "?m"], "in": [[["?c", "?upto", "?who"], ...], "?me"],
                  "where": [["?m", "msg/channel", "?c"], [("created-after", "?m", "?upto")],
                            ["?m", "msg/mentions", "?who"], ("not", ["?m", "msg/mem", "?me"])]},
                 called, mem_id) if called else []
    return collections.Counter(channel_id for channel_id, _ in set(calls))


def first_unread(ctx, db, mem_id, channel_id):
    """The oldest message of another that a member has not read, and how many there are; (None, 0) for none."""
    unread = db.q({"find": "?m", "in": ["?c", "?upto", "?me"],
                   "where": [["?m", "msg/channel", "?c"], [("created-after", "?m", "?upto")],
                             ("not", ["?m", "msg/mem", "?me"])],
                   "order-by": [[("created", "?m"), "asc"]], "limit": LANDING_MAX},
                  channel_id, upto_of(ctx, db, mem_id, channel_id), mem_id)
    return (unread[0], len(unread)) if unread else (None, 0)


# ── Reading ──────────────────────────────────────────────────────────────────────────────────────────────────


async def read(ctx):
    """The page has shown its reader the channel up to a message. Nothing is written: their other pages hear of it."""
    if not biff.is_allowed(ctx, (("positions", ctx["uid"]), *READS_A_PERSON)):
        return biff.error(ctx, 429)
    if upto := message_in(ctx, ctx["params"].get("upto", "")):         # else it went while its reader looked at it
        moved(ctx, ctx["channel"]["xt/id"], upto)
    return web.Response(status=204)


def message_in(ctx, text):
    """The id of a message that stands, or stood, in this channel; None for any other text."""
    try:
        id = uuid.UUID(text)
    except ValueError:
        return None
    said = ctx["biff/db"].entity(id) or next((one.document for one in ctx["biff/db"].history(id) if one.document), None)
    return id if channel_of(said) == ctx["channel"]["xt/id"] else None


def moved(ctx, channel_id, upto):
    """A position has moved: in memory, and on this person's pages. It is never a fact of the log before it is put."""
    move(ctx, channel_id, upto)
    tell(ctx, ctx["uid"])


def move(ctx, channel_id, upto):
    """Other servers hear of it at once, for this person's pages there. They never put it into the store."""
    moment, mem_id = biff.now(ctx), ctx["mem"]["xt/id"]
    ctx["chat_positions"].move(mem_id, channel_id, upto, moment)
    biff.notify(ctx, "read", mem_id, channel_id, upto, moment.isoformat())


def on_read(system, server, *said):
    """A position moved on another server."""
    mem_id, channel_id, upto = map(uuid.UUID, said[:3])
    mem, at = system["biff/node"].db().entity(mem_id) or {}, dt.datetime.fromisoformat(said[3])
    if "mem/user" in mem and at.tzinfo:
        system["chat_positions"].hear(mem_id, channel_id, upto, at)
        tell(system, mem["mem/user"])


def tell(ctx, person):
    """Told beside the listener, for it is not in the store. A page that is under way hears it when it connects."""
    db = ctx["biff/node"].db()
    ctx["chat_people"].touch(person, db)
    ctx["chat_clients"].tell(person, lambda client: person_frame(ctx, db, person, client.place_id, [("news", None)]))


async def unread_from(ctx):
    """Everything from this message on is new again."""
    before = ctx["biff/db"].q({"find": "?m", "in": ["?c", "?this"], "limit": 1,
                               "where": [["?m", "msg/channel", "?c"], [("created-before", "?m", "?this")]],
                               "order-by": [[("created", "?m"), "desc"]]},
                              ctx["channel"]["xt/id"], ctx["message"]["xt/id"])
    moved(ctx, ctx["channel"]["xt/id"], before[0] if before else ctx["channel"]["xt/id"])
    return web.Response(status=204)


async def read_all(ctx):
    """Every channel of the community is read."""
    db = ctx["biff/db"]
    ids = [channel["xt/id"] for channel in channels_for(ctx, db, ctx["mem"])]
    for id in counts_of(ctx, db, ctx["mem"]["xt/id"], ids):
        newest = db.q({"find": "?m", "in": ["?c"], "where": [["?m", "msg/channel", "?c"]], "limit": 1,
                       "order-by": [[("created", "?m"), "desc"]]}, id)
        move(ctx, id, newest[0])
    tell(ctx, ctx["uid"])
    return web.Response(status=204) if "HX-Request" in ctx["request"].headers else biff.redirect(ctx, "/app")


async def mute(ctx):
    """The channel makes no noise any more, or does so again."""
    is_muted = "muted" in ctx["params"]
    await biff.submit_tx(ctx, [*biff.unchanged(ctx, ctx["mem"]["xt/id"]),
                               reading(ctx["mem"]["xt/id"], ctx["channel"]["xt/id"])
                               | {"read/is-muted": True if is_muted else biff.DISSOC}])
    return biff.redirect(ctx, channel_path(ctx["channel"]))


def reading(mem_id, channel_id):
    return {"db/doc-type": "reading", "db/op": "merge", "xt/id": reading_id(mem_id, channel_id),
            "read/mem": mem_id, "read/channel": channel_id}


async def put_positions(ctx, all=False):
    """Puts the positions of people who have gone, and those that wait for ten minutes; all when the server stops."""
    moved, db = ctx["chat_positions"].moved, ctx["biff/db"]
    present, long_ago = set(ctx["chat_clients"].people()), biff.now(ctx) - PUT_AFTER
    due = [key for key, (_, _, since) in moved.items()
           if all or since <= long_ago or (db.entity(key[0]) or {}).get("mem/user") not in present][:PUTS_MAX]
    values = {key: moved[key] for key in due}
    await biff.submit_tx(ctx, lambda ctx: [
        reading(*key) | {"read/upto": upto, "read/at": at} for key, (upto, at, _) in values.items()
        if all_there(ctx["biff/db"], *key)])
    for key, value in values.items():
        if moved.get(key) == value:
            del moved[key]


async def use_positions(system):
    """What is in memory is put when the server stops."""
    system["chat_positions"] = Positions()
    system["biff/stop"].append(lambda: put_positions(biff.assoc_db(system), all=True))
    return system


def all_there(db, mem_id, channel_id):
    return "mem/user" in (db.entity(mem_id) or {}) and db.entity(channel_id) is not None


# ── On pages ─────────────────────────────────────────────────────────────────────────────────────────────────


def on_message(changes, id, old, new):
    """All pages of a community are told of a new or a deleted message in one frame, and each browser counts for itself.

    A message that moves, or comes back, is unread for some: there each page is told its numbers anew. What is new in a
    private channel is told to the people in it alone.
    """
    before, after = channel_of(old), channel_of(new)
    if before == after:
        return
    said = changes.db.history(id)[0].tx_id if not (before and after) else 0
    for channel_id, message in (before, old), (after, new):
        channel = changes.db.entity(channel_id) if channel_id else None
        if not channel or "chan/comm" not in channel:
            continue
        if before and after or after and said != changes.db.tx_id:
            touch_all(changes, channel)
            continue
        told = biff.fragment(changes.ctx, "unread/new.html", message=message, said=said, is_gone=message is old,
                             tx_id=changes.db.tx_id)
        if not is_private(channel):
            changes.share(channel["chan/comm"], told)
        for person in people_in(changes.db, channel):
            changes.touch_person(person, "new", (channel["chan/comm"], told))


def touch_all(changes, channel):
    if not is_private(channel):
        changes.touch_members(channel["chan/comm"], "news")
    for person in people_in(changes.db, channel):
        changes.touch_person(person, "news")


def on_reading(changes, id, old, new):
    """A position that was put is told to its person's pages: they may be on another server."""
    mem_id = (new or old or {}).get("read/mem")
    if new and "read/at" in new:
        changes.ctx["chat_positions"].was_put(mem_id, new["read/channel"], new["read/at"])
    if mem_id and (mem := changes.db.entity(mem_id)) and "mem/user" in mem:
        changes.touch_person(mem["mem/user"], "news")


def on_channel(changes, id, old, new):
    """Where a whole list is told anew, so are the numbers."""
    if old and new and "chan/comm" in new:
        touch_all(changes, new)
        touch_all(changes, old)


def new_part(ctx, db, place, user, about):
    """A message that is new in, or gone from, a private channel; the part below has all that there are."""
    community_id, told = about or (None, "")
    return told if community_id == place.get("chan/comm", place["xt/id"]) else ""


def news_part(ctx, db, place, user, about):
    community_id = place.get("chan/comm") or ("comm/title" in place and place["xt/id"])
    mem = mem_in(db, user["xt/id"], community_id) if community_id else None
    if mem is None:
        return ""
    return biff.fragment(ctx, "unread/news.html", **news_of(ctx, db, mem), is_news=True)


def news_of(ctx, db, mem):
    ids = [channel["xt/id"] for channel in channels_for(ctx, db, mem)]
    muted = [id for id, one in readings_of(db, mem["xt/id"]).items() if one.get("read/is-muted")]
    counts = counts_of(ctx, db, mem["xt/id"], ids)
    said = {id: said_in(db, upto_of(ctx, db, mem["xt/id"], id)) for id in counts}
    return {"counts": counts, "said": said, "calls": calls_of(ctx, db, mem["xt/id"], counts), "muted": muted, "news_tx_id": db.tx_id, "news_mem": mem["xt/id"]}


def said_in(db, id):
    """The transaction in which a message was first put; 0 if it was evicted since."""
    history = db.history(id, documents=False)
    return history[0].tx_id if history else 0


def page_values(ctx):
    if not ctx.get("mem"):
        return {"news_mem": None}
    values = news_of(ctx, ctx["biff/db"], ctx["mem"])
    channel_id = ctx["channel"]["xt/id"] if ctx.get("channel") else None
    first = first_unread(ctx, ctx["biff/db"], ctx["mem"]["xt/id"], channel_id)[0] if channel_id else None
    return values | {"is_muted": channel_id in values["muted"], "first_unread": first}


def landing(ctx):
    """How many messages a page must show to begin at the first unread one, if that is not too far back."""
    unread = first_unread(ctx, ctx["biff/db"], ctx["mem"]["xt/id"], ctx["channel"]["xt/id"])[1]
    return unread + BEFORE_FIRST if 0 < unread < LANDING_MAX else 0


def go_on(ctx):
    """From the list of communities to where one was in this one; at first to its first channel."""
    channels = channels_kept(ctx, ctx["biff/db"], ctx["community"]["xt/id"])
    first = channel_path(channels[0]) if channels else community_path(ctx["community"])
    return biff.redirect(ctx, last_place(ctx, [ctx["mem"]["xt/id"]]) or first)


def last_place(ctx, mems=None):
    """The channel that a person has read last, by some of their memberships or by all; None if there is none."""
    db, positions = ctx["biff/db"], ctx["chat_positions"].moved
    mems = biff.lookup_id_all(db, "mem/user", ctx["uid"]) if mems is None else mems
    ats = [(at, channel_id) for (mem_id, channel_id), (_, at, _) in positions.items() if mem_id in mems]
    for mem_id in mems:
        ats += [(one["read/at"], one["read/channel"]) for one in biff.lookup_all(db, "read/mem", mem_id)
                if "read/at" in one]
    for _, channel_id in sorted(ats, reverse=True, key=lambda one: one[0]):
        channel = db.entity(channel_id)
        mem = mem_in(db, ctx["uid"], channel["chan/comm"]) if channel else None
        if mem and may_read(channel, mem["xt/id"]):
            return channel_path(channel)
    return None


PLUGIN = {
    "schema": SCHEMA,
    "goes-with": {"channel": ["read/channel"]},
    "routes": [("POST", CHANNEL + "/read", in_channel, read), ("POST", MESSAGE + "/unread", in_message, unread_from),
               ("GET", "/community/{id}/go", in_community, go_on), ("POST", "/community/{id}/read", in_community, read_all), ("POST", CHANNEL + "/mute", in_channel, mute)],
    "tasks": [{"task": put_positions, "schedule": biff.every(PUT_LOOK_S)}],
    "slots": {"dialogs": "unread/news.html", "message-actions": "unread/action.html", "head": "unread/head.html"},
    "page": page_values,
    "changes": [on_message, on_reading, on_channel],
    "components": [use_positions],
    "notices": {"read": on_read},
    "person-parts": {"new": new_part, "news": news_part},
    "front": [last_place],
    "landing": [landing],
    "scripts": ["unread.js"],
}
