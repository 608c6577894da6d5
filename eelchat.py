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

What the tutorial keeps in each subscription about fetching stands in one "feed" a URL, because many channels may listen to one feed;
and `sub/last-post-uri` became `sub/seen`, because the last one alone repeats and skips when a feed is sorted anew.

Three laws hold beyond the tutorial. Nothing is missed and nothing comes twice, across page load, reconnect and restart: a page
knows the transaction that it was rendered from, and its socket asks for what the log holds since. Order is the log's. And
only the listener, `on_new_message`, tells rooms anything: what is put into the store by anyone appears in every browser.
"""

import asyncio
import collections
import contextlib
import datetime as dt
import itertools
import logging
import random
import re
import sys
import uuid

import markupsafe
from aiohttp import WSCloseCode, web
from voluptuous import All, Any, In, Length, Optional, Schema

import biff
from biff import sockets
from biff.door import Door
from biff.sockets import text_frame
from plugins import commands, feeds
from plugins.commands import command_tx, is_command, refusal_of
from store import call, delete

log = logging.getLogger("eelchat")

MESSAGE_CHARS_MAX = 10_000            # the original has no limit; this is four pages of a book
POSTS_A_PERSON = 10, 10               # in ten seconds: faster than anyone reads
COMMUNITIES_MAX = 20                  # founded by one person
MEMBERSHIPS_MAX = 200                 # of one person; the page lists them all
MEMBERS_MAX = 10_000                  # of a community: about what one server has sockets for
CHANNELS_MAX = 200                    # of a community; the page lists them all
PAGE_MESSAGES = 50                    # of a first page, and of each older one: a few screens
VIEWS_BYTES_MAX = 32 * 1024 * 1024    # of rendered messages that are kept: some 20,000, all that people have open
CURSOR_TRANSACTIONS = 100             # a quiet channel's pages hear this often how far the log is: a short cut is a short replay
LOOKUPS_MAX = 100                     # ids of one transaction looked up one by one; of more, whole lists are sent anew
REPLAY_TRANSACTIONS_MAX = 500         # further behind than this, a browser gets the newest page anew
WAITING_LOOK_S = 0.5                  # how soon pages say that their server is cut off from a shared log
REPLAY_BYTES_MAX = 16 * 1024 * 1024   # of what they changed, kept for those who come back

NO_ROLES: set[str] = set()
ADMIN = {"admin"}                     # the only sets that a membership may have

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
        "mem/roles": In([NO_ROLES, ADMIN]),
    }, required=True),
    "channel": Schema({
        "xt/id": uuid.UUID,
        "chan/title": str,
        "chan/comm": uuid.UUID,
    }, required=True),
    "message": Schema({
        "xt/id": uuid.UUID,
        "msg/mem": Any(uuid.UUID, "system"),
        "msg/text": All(str, Length(1, MESSAGE_CHARS_MAX)),
        "msg/channel": uuid.UUID,
        "msg/created-at": dt.datetime,
    }, required=True),
}

# ── Landing page ─────────────────────────────────────────────────────────────────────────────────────────────


async def home(ctx):
    if ctx["uid"] and user_of(ctx):
        return biff.redirect(ctx, "/app")
    return biff.render(ctx, "home.html", error=biff.error_text(ctx["params"]))


# ── Who may ──────────────────────────────────────────────────────────────────────────────────────────────────
#
# Each rule stands in the route table. It adds to ctx what the handler needs, or answers in its place.


def signed_in(ctx):
    user = user_of(ctx)
    if user is None:
        return biff.ask_to_sign_in(ctx)
    ctx["user"] = user


def user_of(ctx):
    """The user's document; None if the session's user is gone."""
    user = ctx["biff/db"].entity(ctx["uid"]) if ctx["uid"] else None
    return user if user and "user/email" in user else None


def in_community(ctx):
    """Any user may see a community's door; `mem` is None for those who have not joined."""
    if refusal := signed_in(ctx):
        return refusal
    community = entity_of(ctx, ctx["params"]["id"], "comm/title")
    if community is None:
        return biff.redirect(ctx, "/app")
    ctx["community"] = community
    ctx["mem"] = mem_of(ctx, community["xt/id"])
    ctx["roles"] = ctx["mem"]["mem/roles"] if ctx["mem"] else None


def mem_of(ctx, community_id):
    """A person's membership of a community, or None. Which one it was is remembered; whether it is one, the snapshot says each time."""
    known, place = ctx["chat_mems"], (ctx["uid"], community_id)
    mem = ctx["biff/db"].entity(known[place]) if place in known else None
    if mem is None or (mem.get("mem/user"), mem.get("mem/comm")) != place:
        mem = biff.lookup(ctx["biff/db"], "mem/user", ctx["uid"], "mem/comm", community_id)
    if mem:
        if len(known) >= MEMBERS_MAX:
            known.clear()
        known[place] = mem["xt/id"]
    return mem


def in_channel(ctx):
    """Members only, and only through the community that the channel belongs to."""
    if refusal := in_community(ctx):
        return refusal
    channel = entity_of(ctx, ctx["params"]["channel_id"], "chan/title")
    if ctx["mem"] is None or channel is None or channel["chan/comm"] != ctx["community"]["xt/id"]:
        return biff.redirect(ctx, community_path(ctx["community"]))
    ctx["channel"] = channel


def community_admin(ctx):
    return in_community(ctx) or forbidden(ctx)


def channel_admin(ctx):
    return in_channel(ctx) or forbidden(ctx)


def forbidden(ctx):
    if "admin" not in (ctx["roles"] or ()):
        return biff.error(ctx, 403, "Only an admin of this community may do that.")


def entity_of(ctx, text, attribute):
    """The document that an id in an address names, if it is one of this kind: an id of another kind leads nowhere."""
    try:
        document = ctx["biff/db"].entity(uuid.UUID(text))
    except ValueError:
        return None
    return document if document and attribute in document else None


def community_path(community):
    return f"/community/{community['xt/id']}"


def channel_path(channel):
    return f"/community/{channel['chan/comm']}/channel/{channel['xt/id']}"


# ── Communities ──────────────────────────────────────────────────────────────────────────────────────────────


async def app(ctx):
    return app_page(ctx, "app.html")


async def new_community(ctx):
    community_id = ctx["biff/node"].new_id()
    try:
        await biff.submit_tx(ctx, [
            {"db/doc-type": "community", "xt/id": community_id, "comm/title": f"Community #{random.randrange(1000)}"},
            {"db/doc-type": "membership", "mem/user": ctx["uid"], "mem/comm": community_id, "mem/roles": ADMIN},
            biff.at_most(COMMUNITIES_MAX, {"mem/user": ctx["uid"], "mem/roles": "admin"}),
            biff.at_most(MEMBERSHIPS_MAX, {"mem/user": ctx["uid"]}),
        ])
    except biff.ConstraintError:
        return biff.error(ctx, 422, f"One person founds at most {COMMUNITIES_MAX} communities and is in at most {MEMBERSHIPS_MAX}.")
    return biff.redirect(ctx, f"/community/{community_id}")


async def join_community(ctx):
    try:
        await biff.submit_tx(ctx, [{
            "db/doc-type": "membership",
            "db.op/upsert": {"mem/user": ctx["uid"], "mem/comm": ctx["community"]["xt/id"]},
            "mem/roles": ("db/default", NO_ROLES),
        }, biff.at_most(MEMBERS_MAX, {"mem/comm": ctx["community"]["xt/id"]}), biff.at_most(MEMBERSHIPS_MAX, {"mem/user": ctx["uid"]})])
    except biff.ConstraintError:
        return biff.error(ctx, 422, f"A community has at most {MEMBERS_MAX:,} members, and one person is in at most {MEMBERSHIPS_MAX} communities.")
    return biff.redirect(ctx, community_path(ctx["community"]))


async def community(ctx):
    return app_page(ctx, "community.html")


def app_page(ctx, template, **values):
    """A page with the communities and channels of whoever is signed in beside it."""
    user = ctx["biff/db"].pull(["*", ("mem/_user", {"as": "user/mems"}, [{"mem/comm": ["*"]}])], ctx["uid"])
    communities = [mem["mem/comm"] for mem in user.get("user/mems", []) if type(mem["mem/comm"]) is dict]
    return biff.render(ctx, template, user=user, communities=sorted(communities, key=by_title("comm/title")), community=ctx.get("community"), mem=ctx.get("mem"),
                       channel=ctx.get("channel"), channels=channels_of(ctx), is_admin="admin" in (ctx.get("roles") or ()),
                       is_waiting=ctx["biff/node"].cut_off is not None, path_of=channel_path, **values)


def by_title(attribute):
    """#2 before #10."""
    return lambda document: [int(part) if part.isdigit() else part.casefold() for part in re.split(r"(\d+)", document[attribute])]


# ── Channels ─────────────────────────────────────────────────────────────────────────────────────────────────


def channels_of(ctx):
    if not ctx.get("mem"):
        return []
    return channels_in(ctx["biff/db"], ctx["community"]["xt/id"])


def channels_in(db, community_id):
    channels = biff.q(db, {"find": ("pull", "?channel", ["*"]), "in": ["?community"],
                           "where": [["?channel", "chan/comm", "?community"]]}, community_id)
    return sorted(channels, key=by_title("chan/title"))


async def new_channel(ctx):
    channel = {"xt/id": ctx["biff/node"].new_id(), "chan/comm": ctx["community"]["xt/id"], "chan/title": f"Channel #{random.randrange(1000)}"}
    try:
        await biff.submit_tx(ctx, [*biff.unchanged(ctx, ctx["mem"]["xt/id"]), channel | {"db/doc-type": "channel"},
                                   biff.at_most(CHANNELS_MAX, {"chan/comm": channel["chan/comm"]})])
    except biff.ConstraintError:
        return biff.error(ctx, 422, f"A community has at most {CHANNELS_MAX} channels. Delete one that nobody needs.")
    return biff.redirect(ctx, channel_path(channel))


async def delete_channel(ctx):
    """The channel and all its messages go in one transaction. They stay in the history, as everything does."""
    await biff.submit_tx(ctx, [*biff.unchanged(ctx, ctx["mem"]["xt/id"]), call("delete-channel", ctx["channel"]["xt/id"])], retry=False)
    return biff.redirect(ctx, community_path(ctx["community"]))


def delete_channel_tx(ctx, channel_id):
    """A transaction function, so that a message or a subscription which comes meanwhile goes too."""
    theirs = [ctx.db.q({"find": "?e", "in": ["?channel"], "where": [["?e", attribute, "?channel"]],
                        "order-by": [[("created", "?e"), "asc"]]}, channel_id) for attribute in gone_with("channel")]
    return [delete(id) for id in [channel_id, *itertools.chain(*theirs)]]


def gone_with(kind):
    """The attributes by which documents of all plugins belong to one of this kind, and go when it is deleted."""
    return [attribute for plugin in PLUGINS for attribute in plugin.get("goes-with", {}).get(kind, ())]


async def channel_page(ctx):
    """The newest messages; with `before` a page of older ones, as a fragment for htmx."""
    try:
        before = uuid.UUID(ctx["params"]["before"]) if "before" in ctx["params"] else None
    except ValueError:
        return biff.redirect(ctx, channel_path(ctx["channel"]))
    messages, has_older = messages_of(ctx["biff/db"], ctx["channel"], before)
    if ctx["request"].headers.get("HX-Request") and before:
        return biff.render(ctx, "older.html", messages=messages, has_older=has_older, path=channel_path(ctx["channel"]))
    return app_page(ctx, "channel.html", messages=messages, has_older=has_older, tx_id=ctx["biff/db"].tx_id, is_past=before is not None,
                    path=channel_path(ctx["channel"]), post_id=ctx["biff/node"].new_id(), chars_max=MESSAGE_CHARS_MAX)


def messages_of(db, channel, before=None):
    """A page of a channel, oldest first, and whether there are older ones. Order is the log's, not a clock's."""
    query: dict = {"find": ("pull", "?message", ["*"]), "in": ["?channel"], "where": [["?message", "msg/channel", "?channel"]],
                   "order-by": [[("created", "?message"), "desc"]], "limit": PAGE_MESSAGES + 1}
    args = [channel["xt/id"]]
    if before:
        query = query | {"in": ["?channel", "?before"], "where": [*query["where"], [("created-before", "?message", "?before")]]}
        args.append(before)
    newest = biff.q(db, query, *args)
    return newest[:PAGE_MESSAGES][::-1], len(newest) > PAGE_MESSAGES


# ── Messages ─────────────────────────────────────────────────────────────────────────────────────────────────


async def new_message(ctx):
    """Answers with nothing visible: the message comes to its author as to everyone, from the log over the socket.

    The form carries an id made in the page, so that a post that is repeated is one message.
    """
    text = ctx["params"].get("text", "").strip()
    if not text or len(text) > MESSAGE_CHARS_MAX:
        return biff.error(ctx, 422, f"A message has 1 to {MESSAGE_CHARS_MAX:,} characters; this one has {len(text):,}.")
    try:
        id = uuid.UUID(ctx["params"].get("post", ""))
    except ValueError:
        return biff.error(ctx, 422, "The message came without its id. Reload the page and send it again.")
    is_first = not ctx["biff/db"].history(id)              # of a deleted message the place stays empty: nobody puts other words there
    if is_first and not biff.is_allowed(ctx, (("posts", ctx["uid"]), *POSTS_A_PERSON)):
        return biff.error(ctx, 429, "That was fast: {} messages in {} seconds are the limit. Send it again in a moment.".format(*POSTS_A_PERSON))
    message = {"db/doc-type": "message", "db/op": "create", "xt/id": id, "msg/mem": ctx["mem"]["xt/id"], "msg/text": text,
               "msg/channel": ctx["channel"]["xt/id"], "msg/created-at": biff.NOW}
    if is_first:
        unchanged, refusal = biff.unchanged(ctx, ctx["channel"]["xt/id"], ctx["mem"]["xt/id"]), await refusal_of(ctx, text)
        with contextlib.suppress(biff.TransactionError), ctx["chat_clients"].expecting(ctx["channel"]["xt/id"]):     # suppressed: a post that came twice
            await biff.submit_tx(ctx, lambda ctx: [*unchanged, message, *command_tx(ctx, text, refusal)], retry=is_command(ctx, text))
    stored = ctx["biff/node"].db().entity(id)
    if stored is None or stored.get("msg/mem") != message["msg/mem"] or stored.get("msg/channel") != message["msg/channel"]:
        return biff.error(ctx, 409, "The message could not be stored. Reload the page and send it again.")
    if ctx["request"].headers.get("HX-Request"):
        return web.Response(status=204)
    return biff.redirect(ctx, channel_path(ctx["channel"]))


# ── Realtime updates ─────────────────────────────────────────────────────────────────────────────────────────
#
# A room is a channel, its number a tx_id: what a transaction changed there is one frame, built once, in live and replayed pages alike.
# A socket is sent what the log holds since its page and enters the room in one turn of the loop, so that no transaction falls between.


class Client(sockets.Socket):
    """One browser on a channel, and what its place there rests on."""

    __slots__ = ("channel_id", "mem_id", "session_id")

    def __init__(self, ctx, ws):
        super().__init__(ws, ctx["request"].transport, biff.plug_of(ctx["request"]), ctx["uid"])
        self.channel_id, self.mem_id, self.session_id = ctx["channel"]["xt/id"], ctx["mem"]["xt/id"], ctx["session"]["xt/id"]

    @property
    def grounds(self):
        return self.channel_id, self.mem_id, self.session_id, self.person


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
    return ws


async def catch_up(ctx, client):
    """Sends what the log holds since the transaction that the page has seen, and enters the room."""
    node, rooms, lately, after = ctx["biff/node"], ctx["chat_clients"], ctx["chat_lately"], cursor_of(ctx)
    await lately.reach(after, node.db().tx_id)
    db = node.db()                                     # from here on nothing waits
    lately.read_up(db.tx_id)
    replay = lately.catch_up(client.channel_id, after, lambda: text_frame(list_view(ctx, db, client.channel_id)))
    rooms.enter(client, client.channel_id, db.tx_id)
    is_settled = db.tx_id == ctx["biff/db"].tx_id      # nothing was committed since the rule looked
    if not is_settled and (reason := why_not(db, client)):
        return dismiss(ctx, client, reason)
    if one := rooms.one_too_many(client.person):
        dismiss(ctx, one, "You have opened the chat in too many windows: this one hears nothing any more.")
    log.info("connect channel=%s person=%s sockets=%d", client.channel_id, client.person, rooms.count)
    if told := replay + rooms.announced:
        client.write(told, db.tx_id)
    if replay:
        log.info("replay channel=%s person=%s after=%d to=%d bytes=%d", client.channel_id, client.person, after, db.tx_id, len(replay))


def cursor_of(ctx):
    after = ctx["params"].get("after", "")
    return int(after) if after.isascii() and after.isdigit() and len(after) < 16 else 2 ** 60


def why_not(db, client):
    """Why somebody may not hear a channel, in words; None if they may. Authority is read from the newest snapshot."""
    channel, mem = db.entity(client.channel_id), db.entity(client.mem_id)
    if channel is None or "chan/comm" not in channel:
        return "This channel was deleted."
    if mem is None or (mem.get("mem/user"), mem.get("mem/comm")) != (client.person, channel["chan/comm"]):
        return "You are no longer a member of this community."
    if db.entity(client.session_id) is None or db.entity(client.person) is None:
        return "You have signed out."
    return None


def on_new_message(ctx, tx):
    """Tells each channel what a transaction changed in it, once it has dismissed whoever lost their place by it."""
    rooms, lately = ctx["chat_clients"], ctx["chat_lately"]
    changes = lately.hear(tx.tx_id, lambda: changes_of(ctx, tx))
    if changes.others:
        dismiss_those_who_lost(ctx, changes.others)
    if changes.forgotten:
        forget(ctx, changes.forgotten)
    frames = {channel_id: changes.frame(channel_id) for channel_id in changes.channels(rooms)}
    if tx.tx_id % CURSOR_TRANSACTIONS == 0:
        cursor = text_frame(biff.fragment(ctx, "cursor.html", tx_id=tx.tx_id))
        frames = {channel_id: frames.get(channel_id) or cursor for channel_id in rooms}
    for channel_id, frame in frames.items():
        if frame:
            rooms.send(channel_id, tx.tx_id, frame, tx.tx_time.timestamp())


def dismiss_those_who_lost(ctx, touched):
    """Whoever stands on a session, membership, channel or user that was touched is looked at again."""
    db = ctx["biff/node"].db()
    for client in ctx["chat_clients"].sockets():
        if not touched.isdisjoint(client.grounds) and (reason := why_not(db, client)):
            dismiss(ctx, client, reason)


def dismiss(ctx, client, reason):
    """Tells a browser why in its page, and closes so that it does not come back: htmx takes 1008 as final."""
    log.info("dismiss channel=%s person=%s: %s", client.channel_id, client.person, reason)
    ctx["chat_clients"].close(client, WSCloseCode.POLICY_VIOLATION, text_frame(biff.fragment(ctx, "notice.html", reason=reason)))


def forget(ctx, ids):
    """What was evicted stays in no frame and no view that is kept."""
    ctx["chat_views"].forget(ids)
    ctx["chat_lately"].forget()


class Changes:
    """What a transaction changed on the pages of channels. Of each message only the net effect counts: what was before, what is after."""

    def __init__(self, ctx, db):
        self._ctx, self._db, self._frames = ctx, db, {}
        self.messages = {}            # channel id → [(kind, document)]; kind is "new", "edited", "deleted"
        self.anew = set()             # channels whose list is sent as a whole
        self.titled = set()           # communities in which a title or the list of channels changed
        self.forgotten = []           # evicted ids: they are in no snapshot any more, so whoever shows one drops it
        self.ids, self.others = set(), set()          # of messages, and of everything else that was written
        self.size = 0

    def channels(self, rooms):
        """Those of the rooms that have something to hear."""
        return list(rooms) if self.titled or self.forgotten else [id for id in self.messages.keys() | self.anew if id in rooms]

    def shown(self, channel_id):
        """The ids of messages whose text the pages of a channel are told; None if it is the whole list."""
        return None if channel_id in self.anew else self._told(channel_id, "new", "edited")

    def changed(self, channel_id):
        """The ids of those whose former text nobody is to see any more; None for any."""
        return None if channel_id in self.anew else self._told(channel_id, "edited", "deleted")

    def _told(self, channel_id, *kinds):
        return {message["xt/id"] for kind, message in self.messages.get(channel_id, ()) if kind in kinds}

    def frame(self, channel_id):
        """What the pages of a channel are told, with the tx_id; None if nothing there changed, or it is gone."""
        if channel_id not in self._frames:
            text = self._text(channel_id)
            if not text or channel_id in self.anew:    # not kept: a list is large
                return text and text_frame(text)
            self._frames[channel_id] = text_frame(text)
        return self._frames[channel_id]

    def _text(self, channel_id):
        is_here = channel_id in self.messages or channel_id in self.anew
        channel = self._db.entity(channel_id) if is_here or self.titled or self.forgotten else None
        is_titled = channel is not None and channel.get("chan/comm") in self.titled
        if channel is None or not (is_here or is_titled or self.forgotten):
            return None
        if channel_id in self.anew:
            return list_view(self._ctx, self._db, channel_id, is_titled)
        return biff.fragment(self._ctx, "changes.html", changes=self.messages.get(channel_id, ()), forgotten=self.forgotten,
                             tx_id=self._db.tx_id, **titles_of(self._db, channel, is_titled))


def changes_of(ctx, tx):
    """Worked out from the snapshots before and after. What a transaction writes and takes back is touched, and no more."""
    before, after = ctx["biff/node"].db(tx.tx_id - 1), ctx["biff/node"].db(tx.tx_id)
    changes = Changes(ctx, after)
    written = {op[1]["xt/id"]: op[1] for op in tx.ops if op[0] == "put"} | {op[1]: {} for op in tx.ops if op[0] == "delete"}
    if len(written) > LOOKUPS_MAX:
        note_many(changes, before, after, written)
    else:
        for id, document in written.items():
            note(changes, id, before.entity(id), after.entity(id), document)
    evicted = [op[1] for op in tx.ops if op[0] == "evict"]
    changes.forgotten = [id for id in evicted if type(id) is uuid.UUID]        # sessions and tokens have ids of another type
    changes.others.update(evicted)
    changes.anew.update([id for id, made in changes.messages.items() if not is_at_the_end(after, id, made)])
    changes.size = 500 + 100 * len(changes.ids) + 2 * sum(len(str(message.get("msg/text"))) for made in changes.messages.values() for _, message in made)
    return changes


def note(changes, id, old, new, written):
    """What became of one document."""
    before, after, between = map(channel_of, (old, new, written))
    if not (before or after or between):
        changes.others.add(id)
        changes.titled.update(document.get("chan/comm", id) for document in (old, new)
                              if document and ("chan/title" in document or "comm/title" in document))
        return
    changes.ids.add(id)
    if between:
        changes.messages.setdefault(between, [])
    if before and before != after:
        changes.messages.setdefault(before, []).append(("deleted", old))
    if after:
        changes.messages.setdefault(after, []).append(("edited" if before == after else "new", new))


def channel_of(document):
    """Where a message stands; None for what is no message, however wrongly it was put."""
    channel_id = document.get("msg/channel") if document else None
    return channel_id if type(channel_id) is uuid.UUID else None


def note_many(changes, before, after, written):
    """Of very many documents, as when a channel goes, only where the messages are: those lists are sent anew."""
    places = {"find": ["?message", "?channel"], "in": [["?message", ...]], "where": [["?message", "msg/channel", "?channel"]]}
    for db in before, after:
        for id, channel_id in db.q(places, list(written)):
            changes.ids.add(id)
            changes.anew.add(channel_id)
    for id in written.keys() - changes.ids:
        note(changes, id, before.entity(id), after.entity(id), written[id])


def is_at_the_end(db, channel_id, made):
    """Whether the new messages are the channel's newest: one that was there before goes back to its old place."""
    new = [message["xt/id"] for kind, message in made if kind == "new"]
    newest = {"find": "?message", "in": ["?channel"], "where": [["?message", "msg/channel", "?channel"]],
              "order-by": [[("created", "?message"), "desc"]], "limit": len(new)}
    return not new or biff.q(db, newest, channel_id) == new[::-1]


def list_view(ctx, db, channel_id, is_titled=True):
    """The whole list of a channel, for a browser too far behind for fragments."""
    channel = db.entity(channel_id)
    if channel is None:
        return ""
    messages, has_older = messages_of(db, channel)
    return biff.fragment(ctx, "list_fragment.html", messages=messages, has_older=has_older, path=channel_path(channel), tx_id=db.tx_id,
                         **titles_of(db, channel, is_titled))


def titles_of(db, channel, is_titled):
    """What stands around the messages, for a fragment: the titles of channel and community, and the channels beside it."""
    if not is_titled:
        return {"channel": None}
    return {"channel": channel, "community": db.entity(channel["chan/comm"]), "channels": channels_in(db, channel["chan/comm"]),
            "path_of": channel_path}


class Views:
    """The HTML of messages, kept for those that were shown last. One that has changed is rendered anew."""

    def __init__(self, template):
        self._template, self._kept, self._bytes = template, collections.OrderedDict(), 0

    def __call__(self, message, oob=None):
        if oob:
            return self._rendered(message, oob)
        known, html = self._kept.get(message["xt/id"], (None, None))
        if known == message:
            self._kept.move_to_end(message["xt/id"])
            return html
        return self._keep(message, self._rendered(message))

    def _rendered(self, message, oob=None):
        """One that somebody put past the schema takes neither a page nor a transaction's other messages with it."""
        try:
            return markupsafe.Markup(self._template.render(message=message, oob=oob))
        except Exception:
            log.exception("The message %s cannot be shown", message["xt/id"])
            swap = markupsafe.Markup(' hx-swap-oob="{}"').format(oob) if oob else ""
            return markupsafe.Markup('<article id="message-{}"{}><p>This message cannot be shown.</p></article>').format(
                message["xt/id"], swap)

    def _keep(self, message, html):
        self.forget([message["xt/id"]])
        self._kept[message["xt/id"]] = message, html
        self._bytes += self._size(html)
        while self._bytes > VIEWS_BYTES_MAX:
            self._bytes -= self._size(self._kept.popitem(last=False)[1][1])
        return html

    def _size(self, html):
        return 2 * sys.getsizeof(html) + 500           # the document beside it, and their places

    def forget(self, ids):
        for id in ids:
            if kept := self._kept.pop(id, None):
                self._bytes -= self._size(kept[1])


async def use_chat_clients(system):
    """The rooms, and what was said in them lately."""
    node, metrics = system["biff/node"], system["biff/metrics"]
    delivered = metrics.histogram("delivery_seconds", "From a transaction's time to its frame written to the last socket of a channel.")
    rooms = system["chat_clients"] = sockets.Rooms(min(sockets.SOCKETS_MAX, system["biff/connections-max"] * 3 // 4), delivered.observe)
    lately = system["chat_lately"] = sockets.Lately(
        lambda after: ((tx.tx_id, changes_of(system, tx)) for tx in node.tx_log(after=after)), REPLAY_TRANSACTIONS_MAX, REPLAY_BYTES_MAX)
    system["chat_views"] = system["biff/jinja"].globals["message_view"] = Views(system["biff/jinja"].get_template("message.html"))
    metrics.gauge("sockets", "Open sockets.", lambda: rooms.count)
    metrics.gauge("channels", "Channels with an open socket.", lambda: len(rooms))
    metrics.gauge("waiting_bytes", "Bytes that wait for browsers to read.", rooms.waiting_bytes)
    metrics.counter("messages_total", "Messages ever put into the store.", lambda: node.attribute_stats().get("msg/text", 0))
    metrics.counter("frames_total", "Frames written to sockets.", lambda: rooms.frames)
    metrics.counter("replays_total", "Browsers that were sent what they had missed.", lambda: lately.replays)
    metrics.counter("cut_total", "Sockets cut because too much waited for them.", lambda: rooms.cut)
    metrics.counter("refused_total", "Handshakes refused because there were too many.", lambda: rooms.refused)
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
                await system["chat_clients"].announce(text_frame(biff.fragment(system, "waiting.html", is_waiting=is_waiting, is_news=True)))
            await asyncio.sleep(WAITING_LOOK_S)
    system["biff/stop"].append(asyncio.create_task(watch()).cancel)
    return system


async def use_last_word(system):
    """Closes all sockets with 1012, so that browsers come back by themselves: before the web stops, which no longer reads their answers."""
    system["biff/stop"].append(system["chat_clients"].close_all)
    return system


# ── The whole ────────────────────────────────────────────────────────────────────────────────────────────────


def socket(rule):
    """A rule for a socket. Who may not connect is let in, told, and closed for good: a refused handshake is tried again for ever.

    That is right for those who come too often, or when the server is full: they come again, each time a little later.
    """
    async def accepted_or_told(ctx):
        try:
            await ctx["chat_clients"].admit()
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
        await ws.send_str(biff.fragment(ctx, "notice.html", reason="This channel is not open to you. Reload the page."))
        await ws.close(code=WSCloseCode.POLICY_VIOLATION)
        return ws
    return accepted_or_told


CHANNEL = "/community/{id}/channel/{channel_id}"
ROUTES = [
    ("GET", "/", biff.anyone, home),
    ("GET", "/app", signed_in, app),
    ("POST", "/community", signed_in, new_community),
    ("GET", "/community/{id}", in_community, community),
    ("POST", "/community/{id}/join", in_community, join_community),
    ("POST", "/community/{id}/channel", community_admin, new_channel),
    ("GET", CHANNEL, in_channel, channel_page),
    ("POST", CHANNEL, in_channel, new_message),
    ("DELETE", CHANNEL, channel_admin, delete_channel),
    ("GET", CHANNEL + "/connect", socket(in_channel), connect),
]

PLUGIN = {"routes": ROUTES, "schema": SCHEMA, "on_tx": on_new_message, "tx-fns": {"delete-channel": delete_channel_tx},
          "goes-with": {"channel": ["msg/channel"]}}

PLUGINS = [biff.auth_plugin(), PLUGIN, feeds.PLUGIN, commands.PLUGIN]
COMPONENTS = [biff.use_config, biff.use_store, biff.use_jinja, use_chat_clients, use_pings, use_waiting, biff.use_queues, biff.use_tx_listener, biff.use_web, use_last_word,
              biff.use_tasks]


def initial_system(arguments, door=None):
    """`door` is for tests, whose feeds are on this machine. `chat_mems`: (user, community) → the membership that it was."""
    return {"biff/name": "eelchat", "biff/plugins": PLUGINS, "biff/arguments": arguments, "door": door or Door(),
            "chat_mems": {}}


def main():
    biff.run(COMPONENTS, initial_system(biff.arguments("eelchat", "A realtime chat for a small community.")))


if __name__ == "__main__":
    main()
