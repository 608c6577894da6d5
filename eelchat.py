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

Three laws hold beyond the tutorial. Nothing is missed and nothing comes twice, across page load, reconnect and restart: a page
knows the transaction that it was rendered from, and its socket asks for what the log holds since. Order is the log's. And
only the listener, `on_new_message`, touches sockets: what is put into the store by anyone appears in every browser.
"""

import asyncio
import contextlib
import datetime as dt
import logging
import random
import re
import uuid

from aiohttp import WSCloseCode, WSMsgType, web
from voluptuous import All, Any, In, Length, Schema

import biff
from store import call, delete

log = logging.getLogger("eelchat")

MESSAGE_CHARS_MAX = 10_000            # the original has no limit; this is four pages of a book
POSTS_A_PERSON = 10, 10               # in ten seconds: faster than anyone reads
COMMUNITIES_MAX = 20                  # founded by one person
MEMBERSHIPS_MAX = 200                 # of one person; the page lists them all
MEMBERS_MAX = 10_000                  # of a community: about what one server has sockets for
CHANNELS_MAX = 200                    # of a community; the page lists them all
PAGE_MESSAGES = 50                    # of a first page, and of each older one: a few screens
CURSOR_TRANSACTIONS = 100             # a quiet channel's pages hear this often how far the log is: a short cut is a short replay
LOOKUPS_MAX = 100                     # ids of one transaction looked up one by one; more are found by one query
REPLAY_TRANSACTIONS_MAX = 500         # further behind than this, a browser gets the newest page anew
SOCKET_BYTES_MAX = 256 * 1024         # waiting for one socket; a browser this far behind is dropped, comes back and catches up
SOCKET_FRAME_BYTES_MAX = 4 * 1024     # browsers send nothing over the socket
PING_S = 25                           # proxies cut a socket that is silent for a minute
CLOSE_S = 0.8                         # for all sockets together, at shutdown

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
        return biff.redirect(ctx, "/signin?error=not-signed-in")
    ctx["user"] = user


def user_of(ctx):
    """The user with their memberships, each with its community; None if the session's user is gone."""
    pattern = ["*", ("mem/_user", {"as": "user/mems"}, ["*", {"mem/comm": ["*"]}])]
    user = ctx["biff/db"].pull(pattern, ctx["uid"]) if ctx["uid"] else None
    return user if user and "user/email" in user else None


def in_community(ctx):
    """Any user may see a community's door; `mem` is None for those who have not joined."""
    if refusal := signed_in(ctx):
        return refusal
    community = entity_of(ctx, ctx["params"]["id"], "comm/title")
    if community is None:
        return biff.redirect(ctx, "/app")
    ctx["community"] = community
    ctx["mem"] = next((mem for mem in mems_of(ctx) if mem["mem/comm"]["xt/id"] == community["xt/id"]), None)
    ctx["roles"] = ctx["mem"]["mem/roles"] if ctx["mem"] else None


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


def mems_of(ctx):
    return [mem for mem in ctx["user"].get("user/mems", []) if type(mem["mem/comm"]) is dict]


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
    communities = sorted((mem["mem/comm"] for mem in mems_of(ctx)), key=by_title("comm/title"))
    return biff.render(ctx, template, user=ctx["user"], communities=communities, community=ctx.get("community"), mem=ctx.get("mem"),
                       channel=ctx.get("channel"), channels=channels_of(ctx), is_admin="admin" in (ctx.get("roles") or ()),
                       path_of=channel_path, **values)


def by_title(attribute):
    """#2 before #10."""
    return lambda document: [int(part) if part.isdigit() else part.casefold() for part in re.split(r"(\d+)", document[attribute])]


# ── Channels ─────────────────────────────────────────────────────────────────────────────────────────────────


def channels_of(ctx):
    if not ctx.get("mem"):
        return []
    channels = biff.q(ctx["biff/db"], {"find": ("pull", "?channel", ["*"]), "in": ["?community"],
                                       "where": [["?channel", "chan/comm", "?community"]]}, ctx["community"]["xt/id"])
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
    """A transaction function, so that a message which is posted meanwhile goes too."""
    messages = ctx.db.q({"find": "?message", "in": ["?channel"], "where": [["?message", "msg/channel", "?channel"]],
                         "order-by": [[("created", "?message"), "asc"]]}, channel_id)
    return [delete(id) for id in [channel_id, *messages]]


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
    query = {"find": ("pull", "?message", ["*"]), "in": ["?channel"], "where": [["?message", "msg/channel", "?channel"]],
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
        with contextlib.suppress(biff.TransactionError):   # it is there by now: the same post came twice at once
            await biff.submit_tx(ctx, [*biff.unchanged(ctx, ctx["channel"]["xt/id"], ctx["mem"]["xt/id"]), message], retry=False)
    stored = ctx["biff/node"].db().entity(id)
    if stored is None or stored.get("msg/mem") != message["msg/mem"] or stored.get("msg/channel") != message["msg/channel"]:
        return biff.error(ctx, 409, "The message could not be stored. Reload the page and send it again.")
    if ctx["request"].headers.get("HX-Request"):
        return web.Response(status=204)
    return biff.redirect(ctx, channel_path(ctx["channel"]))


# ── Realtime updates ─────────────────────────────────────────────────────────────────────────────────────────
#
# A socket is registered first, then it is sent what the log holds since its page, then it is live: all in one turn of the loop,
# so that no transaction falls between. A transaction is one frame a channel, built once, in live and replayed pages alike.


class Client:
    """One socket. What is written to it waits in its transport, never in us."""

    def __init__(self, ctx, ws):
        self.ws, self.transport = ws, ctx["request"].transport
        self.channel_id, self.mem_id, self.session_id = ctx["channel"]["xt/id"], ctx["mem"]["xt/id"], ctx["session"]["xt/id"]
        self.seen = 0

    def send(self, frame, tx_id):
        """Writes a finished frame past aiohttp's writer, so that no client is ever waited for.

        What the writer guarantees is kept here: frames are whole and in order (one write each), nothing follows a close (a closing client
        is no longer in `chat_clients`), and what waits is bounded: a browser that does not read is dropped, and catches up later.
        """
        if tx_id <= self.seen or self.transport.is_closing():
            return
        self.seen = tx_id
        if self.transport.get_write_buffer_size() + len(frame) > SOCKET_BYTES_MAX:
            log.info("a socket of channel %s is dropped: %d bytes wait for it", self.channel_id, self.transport.get_write_buffer_size())
            self.transport.abort()
        else:
            self.transport.write(frame)


def text_frame(text):
    """An unmasked, uncompressed text frame. Source: RFC 6455, section 5.2."""
    data = text.encode()
    size = len(data)
    if size < 126:
        return b"\x81" + bytes((size,)) + data
    if size < 65_536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + data
    return b"\x81\x7f" + size.to_bytes(8, "big") + data


async def connect(ctx):
    ws = web.WebSocketResponse(compress=False, heartbeat=PING_S, max_msg_size=SOCKET_FRAME_BYTES_MAX)
    await ws.prepare(ctx["request"])
    client = Client(ctx, ws)
    clients = ctx["chat_clients"].setdefault(client.channel_id, set())
    clients.add(client)
    try:
        catch_up(ctx, client)
        async for message in ws:
            if message.type is WSMsgType.ERROR:
                break
    finally:
        forget(ctx, client)
    return ws


def forget(ctx, client):
    clients = ctx["chat_clients"].get(client.channel_id, set())
    clients.discard(client)
    if not clients:
        ctx["chat_clients"].pop(client.channel_id, None)


def catch_up(ctx, client):
    """Sends what the log holds since the transaction that the page has seen."""
    node = ctx["biff/node"]
    after, now = cursor_of(ctx), node.db()
    if not still_allowed(now, client):
        return dismiss(ctx, client, "This channel is no longer open to you.")
    if after > now.tx_id or now.tx_id - after > REPLAY_TRANSACTIONS_MAX:
        client.send(text_frame(list_view(ctx, now, client.channel_id)), now.tx_id)
    else:
        client.seen = after
        for tx in node.tx_log(after=after):
            if tx.tx_id > now.tx_id:
                break
            if fragment := fragments(ctx, tx, [client.channel_id]).get(client.channel_id):
                client.send(text_frame(fragment), tx.tx_id)
    client.seen = now.tx_id


def cursor_of(ctx):
    after = ctx["params"].get("after", "")
    return int(after) if after.isascii() and after.isdigit() and len(after) < 16 else 2 ** 60


def still_allowed(db, client):
    """Whether session, membership and channel are still there. Authority is read from the newest snapshot."""
    return all(db.entity(id) for id in (client.session_id, client.mem_id, client.channel_id))


def list_view(ctx, db, channel_id):
    """The whole list of a channel, for a browser too far behind for fragments."""
    channel = db.entity(channel_id)
    messages, has_older = messages_of(db, channel)
    return biff.fragment(ctx, "list_fragment.html", messages=messages, has_older=has_older, path=channel_path(channel), tx_id=db.tx_id)


def on_new_message(ctx, tx):
    """Sends each channel what a transaction changed in it, and dismisses whoever lost their place by it."""
    for channel_id, fragment in fragments(ctx, tx, ctx["chat_clients"]).items():
        send_all(ctx["chat_clients"][channel_id], fragment, tx.tx_id)
    if tx.tx_id % CURSOR_TRANSACTIONS == 0:
        for clients in ctx["chat_clients"].values():
            send_all(clients, biff.fragment(ctx, "cursor.html", tx_id=tx.tx_id), tx.tx_id)
    if gone := {op[1] for op in tx.ops if op[0] in ("delete", "evict")}:
        dismiss_those_without(ctx, gone)


def send_all(clients, fragment, tx_id):
    frame = text_frame(fragment)
    for client in list(clients):
        client.send(frame, tx_id)


def fragments(ctx, tx, channel_ids):
    """Channel id → what a transaction changed on a page of it, for those of `channel_ids` that it touched and left in place.

    Live pages and replays are told the same. Of each message only the net effect counts: what it was before, what it is after.
    """
    before, after = ctx["biff/node"].db(tx.tx_id - 1), ctx["biff/node"].db(tx.tx_id)
    changes = {channel_id: [] for channel_id in channel_ids if after.entity(channel_id)}
    for id in touched_by(tx, before, after, list(changes)):
        for channel_id, kind, message in message_changes(before, after, id):
            if channel_id in changes:
                changes[channel_id].append((kind, message))
    for op in tx.ops:
        for made in changes.values() if op[0] == "evict" else ():         # it is in no snapshot any more: whoever shows it drops it
            made.append(("deleted", {"xt/id": op[1]}))
    return {channel_id: changes_view(ctx, after, channel_id, made) for channel_id, made in changes.items() if made}


def touched_by(tx, before, after, channel_ids):
    """The ids that a transaction writes, in its order. Of very many, as when a channel goes, only those that matter here."""
    ids = dict.fromkeys(op[1]["xt/id"] if op[0] == "put" else op[1] for op in tx.ops if op[0] in ("put", "delete"))
    if len(ids) <= LOOKUPS_MAX:
        return ids
    query = {"find": "?message", "in": [["?message", ...], ["?channel", ...]], "where": [["?message", "msg/channel", "?channel"]]}
    here = {id for db in (before, after) for id in db.q(query, list(ids), channel_ids)} if channel_ids else set()
    return [id for id in ids if id in here]


def message_changes(before, after, id):
    """What became of one message, as (channel id, "new" | "edited" | "deleted" | "anew", document); "anew" asks for the whole list."""
    old, new = (document if document and "msg/text" in document else None for document in (before.entity(id), after.entity(id)))
    if new and old and new["msg/channel"] == old["msg/channel"]:
        return [(new["msg/channel"], "edited", new)]
    changes = [(old["msg/channel"], "deleted", old)] if old else []
    if new:                                            # one that was there before goes back to its old place, not to the end
        is_first = len(after.history(id)) == 1
        changes.append((new["msg/channel"], "new" if is_first else "anew", new))
    return changes


def changes_view(ctx, db, channel_id, changes):
    if any(kind == "anew" for kind, _ in changes):
        return list_view(ctx, db, channel_id)
    return biff.fragment(ctx, "changes.html", changes=changes, tx_id=db.tx_id)


def dismiss_those_without(ctx, gone):
    """Whose channel, membership or session is among the ids that are gone, hears no more."""
    for client in [client for clients in ctx["chat_clients"].values() for client in clients]:
        if client.channel_id in gone:
            dismiss(ctx, client, "This channel was deleted.")
        elif client.mem_id in gone:
            dismiss(ctx, client, "You are no longer a member of this community.")
        elif client.session_id in gone:
            dismiss(ctx, client, "You have signed out.")


def dismiss(ctx, client, reason):
    """Tells a browser why in its page, and closes so that it does not come back: htmx takes 1008 as final."""
    forget(ctx, client)
    if not client.transport.is_closing():
        client.transport.write(text_frame(biff.fragment(ctx, "notice.html", reason=reason)))
    close_later(ctx, client, WSCloseCode.POLICY_VIOLATION)


def close_later(ctx, client, code):
    task = asyncio.ensure_future(client.ws.close(code=code, drain=False))
    ctx["chat_closing"].add(task)
    task.add_done_callback(ctx["chat_closing"].discard)


async def use_chat_clients(system):
    """At the end all sockets are closed with 1012, so that browsers come back by themselves; this is before the server stops."""
    async def stop():
        clients = [client for clients in system["chat_clients"].values() for client in clients]
        system["chat_clients"].clear()
        for client in clients:
            close_later(system, client, WSCloseCode.SERVICE_RESTART)
        if system["chat_closing"]:
            await asyncio.wait(set(system["chat_closing"]), timeout=CLOSE_S)
        for client in clients:
            client.transport.abort()

    system["biff/stop"].append(stop)
    return system


# ── The whole ────────────────────────────────────────────────────────────────────────────────────────────────


def socket(rule):
    """A rule for a socket: a refused handshake would be tried again for ever, so it is accepted, told, and closed for good."""
    async def accepted_or_told(ctx):
        if rule(ctx) is None:
            return None
        ws = web.WebSocketResponse(compress=False, max_msg_size=SOCKET_FRAME_BYTES_MAX)
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

PLUGIN = {"routes": ROUTES, "schema": SCHEMA, "on_tx": on_new_message, "tx-fns": {"delete-channel": delete_channel_tx}}


PLUGINS = [biff.auth_plugin(), PLUGIN]
COMPONENTS = [*biff.COMPONENTS, use_chat_clients]


def initial_system(arguments):
    """`chat_clients`: channel id → its open sockets."""
    return {"biff/name": "eelchat", "biff/plugins": PLUGINS, "biff/arguments": arguments, "chat_clients": {}, "chat_closing": set()}


def main():
    biff.run(COMPONENTS, initial_system(biff.arguments("eelchat", "A realtime chat for a small community.")))


if __name__ == "__main__":
    main()
