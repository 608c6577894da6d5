"""eelchat: the chat of the Biff framework's tutorial, told in Python in the same order, on our own store.

Run it with `python eelchat.py`, open two windows, sign in as two people, and talk.

The tutorial has had two editions. We keep the first one's short names throughout:

    here, and in 2023        today's pages
    plugins                  modules
    user/email               user/email
    comm/title               community/title
    mem/user  mem/comm       membership/user  membership/community
    mem/roles                membership/roles
    chan/title  chan/comm    channel/title  channel/community
    msg/mem  msg/channel     message/membership  message/channel
    msg/text  msg/created-at message/text  message/created-at
    sub/url  sub/chan        subscription/url  subscription/channel
    feed/known  feed/due-at  subscription/etag, last-modified  subscription/fetched-at

What the tutorial keeps in each subscription about fetching stands in one "feed" a URL, because many channels may listen
to one feed; and `sub/last-post-uri` became `sub/seen`, because the last one alone repeats and skips when a feed is
sorted anew.

Who may enter a community or a channel, and the page around them, stand in `plugins/places.py`, because plugins ask the
same; how a transaction becomes a fragment stands in `plugins/changes.py`.

Three laws hold beyond the tutorial. Nothing is missed and nothing comes twice, across page load, reconnect and restart:
a page knows the transaction that it was rendered from, and its socket asks for what the log holds since. Order is the
log's. And only the listener, `on_new_message`, tells rooms anything: what is put into the store by anyone appears in
every browser.
"""

import asyncio
import contextlib
import datetime as dt
import functools
import itertools
import logging
import random
import uuid

from aiohttp import WSCloseCode
from voluptuous import All, Any, In, Length, Schema

import biff
from biff import sockets
from biff.door import Door
from biff.sockets import text_frame
from plugins import (commands, dialogs, digest, drafts, edits, feeds, files, founders, invitations, keys, line, members,
                     mentions, names, permalinks, phone, places, presence, private, push, reactions, replies, reports,
                     search, slow, text, titles, unread)
from plugins.changes import Changes, People, changes_of, list_view, newest_view, person_frame, use_views
from plugins.commands import command_tx, mistake_in, refusal_of
from plugins.edits import beside_text
from plugins.kept import Kept
from plugins.line import cursor_of, done, missed, place_of, posted_id
from plugins.places import (app_page, channel_admin, channel_opener, channel_path, community_path, in_channel,
                            in_community, may_read, messages_of, public_channels_at_most, signed_in, sweep_mark,
                            title_of, user_of)
from store import call, delete, put

log = logging.getLogger("eelchat")

MESSAGE_CHARS_MAX = 10_000            # the original has no limit; this is four pages of a book
POSTS_A_PERSON = 10, 10               # in ten seconds: faster than anyone reads
COMMUNITIES_MAX = 20                  # founded by one person
CHANNELS_MAX = 200                    # of a community; the page lists them all
SWEPT_AT_ONCE = 40                    # documents of a deleted channel in one transaction: some 10 ms
SWEEP_PAUSE_S = 0.03                  # between two of them, for others to write
SWEEP_LOOK_S = 300                    # how often we look for channels of which something is left
CURSOR_TRANSACTIONS = 100             # a quiet channel's pages hear this often how far the log is
REPLAY_TRANSACTIONS_MAX = 500         # further behind than this, a browser gets the newest page anew
WAITING_LOOK_S = 0.5                  # how soon pages say that their server is cut off from a shared log
REPLAY_BYTES_MAX = 8 * 1024 * 1024    # of what they changed, kept for those who come back

SIGNED_OUT = "You have signed out."

ADMIN = {"admin"}

# ── Schema ───────────────────────────────────────────────────────────────────────────────────────────────────

SCHEMA = {
    "user": Schema({
        "xt/id": uuid.UUID,
        "user/email": str,
        "user/joined-at": dt.datetime,
    }, required=True),
    "community": Schema({
        "xt/id": uuid.UUID,
        "comm/title": str,
    }, required=True),
    "membership": Schema({
        "xt/id": uuid.UUID,
        "mem/user": uuid.UUID,
        "mem/comm": uuid.UUID,
        "mem/roles": In([set(), ADMIN]),          # the only sets that it may have
    }, required=True),
    "channel": Schema({
        "xt/id": uuid.UUID,
        "chan/title": str,
        "chan/comm": uuid.UUID,
    }, required=True),
    "message": Schema({
        "xt/id": uuid.UUID,
        "msg/mem": Any(uuid.UUID, "system"),
        "msg/text": All(str, Length(0, MESSAGE_CHARS_MAX)),      # empty only beside something else, such as files
        "msg/channel": uuid.UUID,
        "msg/created-at": dt.datetime,
    }, required=True),
}

# ── Landing page ─────────────────────────────────────────────────────────────────────────────────────────────


async def home(ctx):
    if ctx["uid"] and user_of(ctx):
        return biff.redirect(ctx, "/app")
    return biff.render(ctx, "home.html", error=biff.error_text(ctx["params"]), email=ctx["params"].get("email", ""))


# ── Communities ──────────────────────────────────────────────────────────────────────────────────────────────


async def app(ctx):
    for front in biff.parts(ctx, "front"):             # where this person goes on, if a plugin knows
        if path := front(ctx):
            return biff.redirect(ctx, path)
    return app_page(ctx, "app.html")


async def new_community(ctx):
    community_id, channel_id = ctx["biff/node"].new_id(), ctx["biff/node"].new_id()
    title = title_of(ctx) or f"Community #{random.randrange(1000)}"
    try:
        await biff.submit_tx(ctx, [
            {"db/doc-type": "community", "xt/id": community_id, "comm/title": title},
            {"db/doc-type": "channel", "xt/id": channel_id, "chan/comm": community_id, "chan/title": "general"},
            {"db/doc-type": "membership", "mem/user": ctx["uid"], "mem/comm": community_id, "mem/roles": ADMIN},
            biff.at_most(COMMUNITIES_MAX, {"mem/user": ctx["uid"], "mem/roles": "admin"}),
            biff.at_most(places.MEMBERSHIPS_MAX, {"mem/user": ctx["uid"]}),
        ])
    except biff.ConstraintError:
        return biff.error(ctx, 422, f"One person founds at most {COMMUNITIES_MAX} communities "
                                    f"and is in at most {places.MEMBERSHIPS_MAX}.")
    return biff.redirect(ctx, f"/community/{community_id}/channel/{channel_id}")


async def community(ctx):
    return app_page(ctx, "community.html")


# ── Channels ─────────────────────────────────────────────────────────────────────────────────────────────────


async def new_channel(ctx):
    mem, community_id, is_private = ctx["mem"], ctx["community"]["xt/id"], "private" in ctx["params"]
    channel = {"xt/id": ctx["biff/node"].new_id(), "chan/comm": community_id,
               "chan/title": title_of(ctx) or f"Channel #{random.randrange(1000)}"}
    channel |= private.private_values(mem) if is_private else {}
    limits = private.limits(mem, channel["chan/mems"]) if is_private else [
        call("public-channels-at-most", community_id, CHANNELS_MAX)]
    try:
        await biff.submit_tx(ctx, [*biff.unchanged(ctx, mem["xt/id"]), channel | {"db/doc-type": "channel"}, *limits])
    except biff.ConstraintError:
        return private.too_many(ctx) if is_private else biff.error(
            ctx, 422, f"A community has at most {CHANNELS_MAX} channels. Delete one that nobody needs.")
    return biff.redirect(ctx, private.people_path(channel) if is_private else channel_path(channel))


async def delete_channel(ctx):
    """The channel goes at once, what belongs to it bit by bit, so that nobody waits for it; the history keeps all."""
    unchanged, id = biff.unchanged(ctx, ctx["mem"]["xt/id"]), ctx["channel"]["xt/id"]
    await biff.submit_tx(ctx, [*unchanged, call("delete-channel", id)], retry=False)
    with contextlib.suppress(biff.QueueFullError):         # then `sweep_all` finds it
        biff.submit_job(ctx, "sweep", id)
    return biff.redirect(ctx, community_path(ctx["community"]))


def delete_channel_tx(ctx, channel_id):
    """A transaction function, so that a message or a subscription which comes meanwhile goes too.

    Of very many documents it deletes the first, and leaves a mark for `sweep`, which calls it again.
    """
    mark, ids = sweep_mark(channel_id), [channel_id]
    for attribute in reversed(gone_with("channel")):       # messages last: what makes new ones goes before
        ids += ctx.db.q({"find": "?e", "in": ["?channel"], "where": [["?e", attribute, "?channel"]],
                         "limit": SWEPT_AT_ONCE + 1}, channel_id)
    ops = [delete(id) for id in ids[:SWEPT_AT_ONCE] if id != channel_id or ctx.db.entity(id)]
    if len(ids) > SWEPT_AT_ONCE:
        return [*ops, put({"xt/id": mark, "sweep/channel": channel_id})]
    return [*ops, *([delete(mark)] if ctx.db.entity(mark) else [])]


async def sweep(ctx):
    """Deletes what a deleted channel has left behind, with a pause between two transactions, until its mark is gone."""
    while ctx["biff/node"].db().entity(sweep_mark(ctx["biff/job"])):
        await biff.submit_tx(ctx, [call("delete-channel", ctx["biff/job"])])
        await asyncio.sleep(SWEEP_PAUSE_S)


async def sweep_all(ctx):
    """Goes on with what a restart interrupted."""
    for channel_id in biff.q(ctx["biff/db"], {"find": "?channel", "where": [["?mark", "sweep/channel", "?channel"]]}):
        biff.submit_job(ctx, "sweep", channel_id)


def gone_with(kind):
    """The attributes by which documents of all plugins belong to one of this kind, and go when it is deleted."""
    return [attribute for plugin in PLUGINS for attribute in plugin.get("goes-with", {}).get(kind, ())]


async def channel_page(ctx):
    """The newest messages; with `before` a page of older ones, as a fragment for htmx."""
    try:
        before = uuid.UUID(ctx["params"]["before"]) if "before" in ctx["params"] else None
    except ValueError:
        return biff.redirect(ctx, channel_path(ctx["channel"]))
    for name, view in biff.dicts(ctx, "views").items() if ctx["request"].query else ():
        if name in ctx["params"]:                      # another view of the channel, at its address
            return view(ctx)
    for opening in biff.parts(ctx, "opening") if before is None else ():
        if page := opening(ctx):                       # far behind, a reader goes on where they stopped
            return page
    landing = max((landing(ctx) for landing in biff.parts(ctx, "landing")), default=0) if before is None else 0
    db, channel = ctx["biff/db"], ctx["channel"]
    listed = (list_view(ctx, db, channel, *messages_of(db, channel, before)) if before else
              newest_view(ctx, db, channel, max(landing, places.PAGE_MESSAGES)))
    if ctx["request"].headers.get("HX-Request") and before:
        return biff.render(ctx, "listed.html", listed=listed)
    return app_page(ctx, "channel.html", listed=listed, path=channel_path(channel), is_past=before is not None,
                    post_id=ctx["biff/node"].new_id(), chars_max=MESSAGE_CHARS_MAX)


# ── Messages ─────────────────────────────────────────────────────────────────────────────────────────────────


async def new_message(ctx):
    """Answers with nothing visible: the message comes to its author as to everyone, from the log over the socket."""
    text, id = places.text_of(ctx), posted_id(ctx)
    try:
        beside = posted_beside(ctx)
    except places.Refused as refused:
        return places.told(ctx, refused)
    if not (text or "msg/files" in beside) or len(text) > MESSAGE_CHARS_MAX:
        return biff.error(ctx, 422, f"A message has 1 to {MESSAGE_CHARS_MAX:,} characters; this one has {len(text):,}.")
    if id is None:
        return biff.error(ctx, 422, "The message came without its id. Reload the page and send it again.")
    if mistake := mistake_in(ctx, text):
        return biff.error(ctx, 422, mistake)
    if not was_there(ctx, id):
        try:
            check_rate(ctx)
            await post(ctx, id, text, beside)
        except places.Refused as refused:
            return places.told(ctx, refused)
    if not was_said(ctx, id, text, beside):
        return biff.error(ctx, 409, "The message could not be stored: its id was withdrawn, or says something else. "
                                    "Reload the page and send it again.")
    return done(ctx)


def posted_beside(ctx):
    """The attributes beside the text that plugins read from the form of a message. Raises: Refused."""
    return {key: value for plugin in ctx["biff/plugins"] if "posted" in plugin
            for key, value in plugin["posted"](ctx).items()}


def was_there(ctx, id):
    """True if there ever was such a document: the place of a deleted message stays empty, nobody may fill it again."""
    return bool(ctx["biff/db"].history(id))


def check_rate(ctx):
    """Raises: Refused, with the seconds until there is room. A page sends the rest by itself."""
    posts = ("posts", ctx["uid"]), *POSTS_A_PERSON
    if not biff.is_allowed(ctx, posts):
        again_s = biff.again_s(ctx, posts)
        raise places.Refused(429, "That was fast: {} messages in {} seconds are the limit. ".format(*POSTS_A_PERSON)
                             + f"Send it again in {again_s} {'second' if again_s == 1 else 'seconds'}.", again_s)


async def post(ctx, id, text, beside):
    """The message, and what plugins and its command add, in one transaction; nothing if a copy of it was faster."""
    refusal = await refusal_of(ctx, text)
    with contextlib.suppress(biff.TransactionError), ctx["chat_clients"].expecting(ctx["channel"]["xt/id"]):
        await biff.submit_tx(ctx, functools.partial(message_tx, id=id, text=text, beside=beside, refusal=refusal))


def message_tx(ctx, id, text, beside, refusal):
    """Made anew for each attempt: a title that changes meanwhile refuses no message, a right that ends does."""
    if in_channel(ctx):
        return []
    message = {"xt/id": id, "msg/mem": ctx["mem"]["xt/id"], "msg/text": text, "msg/channel": ctx["channel"]["xt/id"],
               "msg/created-at": biff.NOW, **beside,
               **{key: value for key, value in beside_text(ctx, text).items() if value is not None}}
    theirs = [part for plugin in ctx["biff/plugins"] if "posted-tx" in plugin
              for part in plugin["posted-tx"](ctx, message)]
    return [*biff.unchanged(ctx, ctx["channel"]["xt/id"], ctx["mem"]["xt/id"]),
            {"db/doc-type": "message", "db/op": "create", **message}, *theirs, *command_tx(ctx, text, refusal)]


def was_said(ctx, id, text, beside):
    """True if this person has said this here under this id. It may have been edited or deleted since."""
    said = {"msg/mem": ctx["mem"]["xt/id"], "msg/channel": ctx["channel"]["xt/id"], "msg/text": text} | beside
    db = ctx["biff/node"].db()
    versions = itertools.chain([db.entity(id)], (document for *_, document in db.history(id)))
    return any(said.items() <= version.items() for version in versions if version)


# ── Realtime updates ─────────────────────────────────────────────────────────────────────────────────────────
#
# A room is a place: a channel, a community, or the first page of a person. What a transaction changed there is one
# frame under its tx_id, built once, for live and for replayed pages. A socket is sent what the log holds since its page
# and enters the room in one turn of the loop, so that no transaction falls between.


class Client(sockets.Socket):
    """A browser at a place, with the session and the membership by which it is there."""

    __slots__ = ("place_id", "mem_id", "session_id", "after", "watchers", "mark", "is_away")

    def __init__(self, ctx, ws):
        super().__init__(ws, ctx["request"].transport, biff.os_socket_of(ctx["request"]), ctx["uid"])
        self.place_id, self.mem_id = place_of(ctx)["xt/id"], ctx["mem"]["xt/id"] if ctx.get("mem") else None
        self.session_id, self.after = ctx["session"]["xt/id"], cursor_of(ctx)
        self.watchers: list = []                       # who hear what it says, once it has entered

    def said(self, text):
        return any([watcher.said(self, text) for watcher in self.watchers])

    @property
    def grounds(self):
        return self.place_id, self.mem_id, self.session_id, self.person


async def connect(ctx):
    ws = sockets.Response()
    await ws.prepare(ctx["request"])
    client, rooms = Client(ctx, ws), ctx["chat_clients"]
    try:
        await catch_up(ctx, client)
        ctx.clear()                                    # a socket lives for days: what its request knew does not
        await client.hear()
    finally:
        rooms.end(client)
        for watcher in client.watchers:
            watcher.left(client)
    return ws


async def catch_up(ctx, client):
    """Sends what the log holds since the transaction that the page has seen, and enters the room."""
    rooms, after = ctx["chat_clients"], client.after
    db, replay = await missed(ctx, client.place_id)
    rooms.enter(client, client.place_id, db.tx_id, place_of(ctx).get("chan/comm"))     # nothing waits between the two
    is_settled = db.tx_id == ctx["biff/db"].tx_id      # nothing was committed since the rule looked
    if not is_settled and (reason := why_not(db, client)):
        return dismiss(ctx, client, reason)
    if one := rooms.one_too_many(client.person):
        dismiss(ctx, one, "You have opened the chat in too many windows: this one hears nothing any more.")
    log.info("connect place=%s person=%s sockets=%d", client.place_id, client.person, rooms.count)
    lately = ctx["chat_lately"]
    is_known = lately.low <= after <= db.tx_id         # a page may be newer than a log that is a backup
    for changes in lately.newer(after) if is_known else ():
        changes.settle()
    is_behind = not is_known or ctx["chat_people"].is_behind(db, client.person, after)
    mine = person_frame(ctx, db, client.person, client.place_id) if is_behind else b""
    client.after = db.tx_id                            # what the listener has yet to hear up to here is in `mine`
    if told := replay + mine + rooms.announced:
        client.write(told, db.tx_id)
        rooms.bound_waiting()
    client.watchers = ctx["chat_watchers"]
    for watcher in client.watchers:
        watcher.entered(ctx, client)
    if replay:
        log.info("replay place=%s person=%s after=%d to=%d bytes=%d",
                 client.place_id, client.person, after, db.tx_id, len(replay))


def why_not(db, client):
    """Why a person may not hear a place, in words; None if they may. Authority is read from the newest snapshot."""
    place, mem = db.entity(client.place_id), db.entity(client.mem_id) if client.mem_id else None
    if place is None:
        return "This channel was deleted."
    community_id = place.get("chan/comm", client.place_id) if client.mem_id else None
    if community_id and (mem is None or (mem.get("mem/user"), mem.get("mem/comm")) != (client.person, community_id)):
        return "You are no longer a member of this community."
    if client.mem_id and not may_read(place, client.mem_id):
        return "You are no longer in this channel."
    if db.entity(client.session_id) is None or db.entity(client.person) is None:
        return SIGNED_OUT
    return None


def on_new_message(ctx, tx):
    """Tells each place what a transaction changed there, once it has dismissed the people who lost theirs by it."""
    rooms, lately = ctx["chat_clients"], ctx["chat_lately"]
    changes: Changes = lately.hear(tx.tx_id, lambda: heard(ctx, tx))
    if changes.others:
        dismiss_those_who_lost(ctx, changes.others)
    if changes.forgotten:
        forget(ctx, changes.forgotten)
    frames = {place_id: changes.frame(place_id) for place_id in changes.rooms(rooms)}
    if tx.tx_id % CURSOR_TRANSACTIONS == 0:
        cursor = text_frame(biff.fragment(ctx, "cursor.html", tx_id=tx.tx_id))
        frames = {place_id: frames.get(place_id) or cursor for place_id in rooms}
    for place_id, frame in frames.items():
        if frame:
            rooms.send(place_id, tx.tx_id, frame, tx.tx_time.timestamp())
    for person in rooms.people() if changes.people or changes.members or changes.forgotten else ():
        if changes.is_for(person):
            rooms.tell(person, lambda client: tx.tx_id > client.after and changes.person_frame(person, client.place_id))


def heard(ctx, tx):
    """The changes of a transaction, noted for the people whose own pages it changed."""
    changes = changes_of(ctx, tx)
    ctx["chat_people"].note(changes, tx.tx_id)
    ctx["chat_kept"].note(changes, tx.tx_id)
    return changes


def dismiss_those_who_lost(ctx, touched):
    """Looks again at the rights of each socket whose session, membership, channel or user was touched."""
    db = ctx["biff/node"].db()
    for client in ctx["chat_clients"].sockets():
        if not touched.isdisjoint(client.grounds) and (reason := why_not(db, client)):
            dismiss(ctx, client, reason)


def dismiss(ctx, client, reason):
    """Tells a browser why in its page, and closes so that it does not come back: htmx takes 1008 as final."""
    log.info("dismiss place=%s person=%s: %s", client.place_id, client.person, reason)
    notice = text_frame(biff.fragment(ctx, "notice.html", reason=reason, is_session_over=reason == SIGNED_OUT))
    ctx["chat_clients"].close(client, WSCloseCode.POLICY_VIOLATION, notice)


def forget(ctx, ids):
    """Drops each kept frame, view and body that holds an evicted document."""
    ctx["chat_views"].forget(ids)
    text.BODIES.clear()
    ctx["chat_lately"].forget()


async def use_chat_clients(system):
    """The rooms, and what was said in them lately."""
    node, metrics = system["biff/node"], system["biff/metrics"]
    delivered = metrics.histogram(
        "delivery_seconds", "From a transaction's time to its frame written to the last socket of a channel.")
    sockets_max = min(sockets.SOCKETS_MAX, system["biff/connections-max"] * 3 // 4)
    rooms = system["chat_clients"] = sockets.Rooms(sockets_max, delivered.observe)
    lately = system["chat_lately"] = sockets.Lately(
        lambda after: ((tx.tx_id, heard(system, tx)) for tx in node.tx_log(after=after)),
        REPLAY_TRANSACTIONS_MAX, REPLAY_BYTES_MAX)
    system["chat_kept"] = Kept()
    use_views(system)
    system["chat_watchers"] = []      # they have `entered(ctx, client)`, `left(client)`, `said(client, text)`
    for use in biff.parts(system, "components"):
        system = await use(system)
    system["chat_people"] = People()
    metrics.gauge("sockets", "Open sockets.", lambda: rooms.count)
    metrics.gauge("channels", "Channels with an open socket.", lambda: len(rooms))
    metrics.gauge("waiting_bytes", "Bytes that wait for browsers to read.", rooms.waiting_bytes)
    metrics.counter("messages_total", "Messages ever put into the store.",
                    lambda: node.attribute_stats().get("msg/text", 0))
    metrics.counter("frames_total", "Frames written to sockets.", lambda: rooms.frames)
    metrics.counter("replays_total", "Browsers that were sent what they had missed.", lambda: lately.replays)
    metrics.counter("cut_total", "Sockets cut because too much waited for them.", lambda: rooms.cut)
    metrics.counter("refused_total", "Handshakes refused because there were too many.", lambda: rooms.refused)
    metrics.counter("sockets_gave_way_total", "Sockets closed for those of other networks.", lambda: rooms.gave_way)
    return system


async def use_pings(system):
    """Browsers that are gone without a word are noticed, and proxies see that the others are there."""
    system["biff/stop"].append(asyncio.create_task(system["chat_clients"].watch()).cancel)
    return system


async def use_waiting(system):
    """Every page says so while its server is cut off from a shared log: reading goes on, sending waits."""
    async def watch():
        was_waiting = False
        while True:
            if (is_waiting := system["biff/node"].cut_off is not None) != was_waiting:
                was_waiting = is_waiting
                word = biff.fragment(system, "waiting.html", is_waiting=is_waiting, is_news=True)
                await system["chat_clients"].announce(text_frame(word))
            await asyncio.sleep(WAITING_LOOK_S)
    system["biff/stop"].append(asyncio.create_task(watch()).cancel)
    return system


async def use_last_word(system):
    """Closes all sockets with 1012, so that browsers come back. Then the web stops, which reads no more answers."""
    system["biff/stop"].append(system["chat_clients"].close_all)
    return system


# ── The whole ────────────────────────────────────────────────────────────────────────────────────────────────


def socket(rule):
    """A rule for a socket. A person who may not connect is let in, told why, and closed for good, because a browser
    tries a refused handshake for ever. That is right when the server is full or they come too often: they try later.
    """
    @functools.wraps(rule)
    async def accepted_or_told(ctx):
        try:
            await ctx["chat_clients"].admit(biff.network_of(ctx))
        except sockets.FullError:
            full = biff.error(ctx, 503, "There are too many connections. Try again a little later.")
            full.force_close()                         # its place is wanted
            return full
        if not biff.is_allowed(ctx, (("connect", ctx["uid"] or biff.client_of(ctx)), *sockets.CONNECTS_A_PERSON)):
            often = biff.error(ctx, 429)
            often.force_close()
            return often
        if rule(ctx) is None:
            return None
        ws = sockets.Response()
        await ws.prepare(ctx["request"])
        await ws.send_str(biff.fragment(ctx, "notice.html", is_session_over=ctx["uid"] is None,
                                        reason="This channel is not open to you. Reload the page."))
        await ws.close(code=WSCloseCode.POLICY_VIOLATION)
        return ws
    return accepted_or_told


CHANNEL = "/community/{id}/channel/{channel_id}"
ROUTES = [
    ("GET", "/", biff.anyone, home),
    ("GET", "/app", signed_in, app),
    ("POST", "/community", founders.founder, new_community),
    ("GET", "/community/{id}", in_community, community),
    ("POST", "/community/{id}/channel", channel_opener, new_channel),
    ("GET", CHANNEL, in_channel, channel_page),
    ("POST", CHANNEL, in_channel, new_message),
    ("DELETE", CHANNEL, channel_admin, delete_channel),
    ("GET", CHANNEL + "/connect", socket(in_channel), connect),
    ("GET", "/community/{id}/connect", socket(in_community), connect),
    ("GET", "/connect", socket(signed_in), connect),
]

PLUGIN = {"routes": ROUTES, "schema": SCHEMA, "on_tx": on_new_message,
          "tx-fns": {"delete-channel": delete_channel_tx, "public-channels-at-most": public_channels_at_most},
          "goes-with": {"channel": ["msg/channel"]}, "queues": [{"id": "sweep", "consumer": sweep, "may-be-cut": True}],
          "tasks": [{"task": sweep_all, "schedule": biff.every(SWEEP_LOOK_S)}]}

PLUGINS = [biff.auth_plugin(), PLUGIN, *(plugin.PLUGIN for plugin in (
    founders, members, dialogs, invitations, titles, names, line, files, reactions, replies, edits, text, mentions,
    unread, permalinks, private, slow, reports, drafts, search, presence, push, keys, digest, feeds, phone, commands))]
COMPONENTS = [biff.use_config, biff.use_store, biff.use_notices, biff.use_jinja, use_chat_clients, use_pings,
              use_waiting, biff.use_queues, biff.use_tx_listener, biff.use_web, use_last_word, biff.use_tasks]


def initial_system(arguments, door=None):
    """`door` is for tests, whose feeds are on this machine. `chat_mems`: (user, community) → id of the membership."""
    return {"biff/name": "eelchat", "biff/plugins": PLUGINS, "biff/arguments": arguments, "door": door or Door(),
            "chat_mems": {}}


def main():
    biff.run(COMPONENTS, initial_system(biff.arguments("eelchat", "A realtime chat for a small community.")))


if __name__ == "__main__":
    main()
