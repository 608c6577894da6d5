"""The line: requests of pages whose connection is bad.

A page that gets no socket asks for news by plain requests, and is told why there may be no socket. A post of which its
page does not know whether it has arrived can be withdrawn: it is deleted if it is there, and if it comes later, its
place is taken.
"""
import functools
import uuid

from aiohttp import web
from voluptuous import Schema

import biff
from biff.sockets import text_frame, texts_of
from plugins.changes import person_frame, whole_view
from plugins.places import channel_path, gone_with_message, in_channel, in_community, signed_in
from store import delete, match

SCHEMA = {
    "withdrawal": Schema({
        "xt/id": uuid.UUID,           # of the message that its author took back before it arrived
        "withdrawal/mem": uuid.UUID,
    }, required=True),
}


def news_for(rule):
    """A handler for the pages of a place: what a socket would bring, as a list of fragments, and why there is none."""
    async def news(ctx):
        place_id = place_of(ctx)["xt/id"]
        db, replay = await missed(ctx, place_id)
        if refusal := rule(ctx | {"biff/db": db}):         # the log was read meanwhile
            return refusal
        is_waiting = ctx["biff/node"].cut_off is not None
        told = [*texts_of(replay + person_frame(ctx, db, ctx["uid"], place_id)),
                biff.fragment(ctx, "cursor.html", tx_id=db.tx_id),
                biff.fragment(ctx, "waiting.html", is_waiting=is_waiting, is_news=True)]
        return web.json_response({"news": told, "is_new": bool(replay), "why": why_no_socket(ctx)})
    return news


def place_of(ctx):
    """The document of the place where a page stands: a channel, a community, or the person whose first page it is."""
    return ctx.get("channel") or ctx.get("community") or ctx["user"]


async def missed(ctx, place_id):
    """The newest snapshot, and the frames that bring a page from its cursor there."""
    node, lately, after = ctx["biff/node"], ctx["chat_lately"], cursor_of(ctx)
    await lately.reach(after, node.db().tx_id)
    db = node.db()                                         # from here on nothing waits
    lately.read_up(db.tx_id)
    return db, lately.catch_up(place_id, after, lambda: text_frame(whole_view(ctx, db, place_id)))


def cursor_of(ctx):
    after = ctx["params"].get("after", "")
    return int(after) if after.isascii() and after.isdigit() and len(after) < 16 else 2 ** 60


def why_no_socket(ctx):
    """The page tells where it was opened. A handshake from elsewhere is refused; any other is lost on its way."""
    base, origin = ctx["biff/base-url"], ctx["params"].get("origin", "")
    if origin in (base, f"{base.partition(':')[0]}://{ctx['request'].headers.get('Host', '')}"):
        return ("New messages come a little late: something between this page and the server, a proxy perhaps, "
                "lets no WebSocket through.")
    return (f"New messages come a little late: the server takes live connections only at {base}, its base URL, "
            "and this page is elsewhere.")


async def withdraw(ctx):
    if (id := posted_id(ctx)) is None:
        return biff.error(ctx, 422, "What is to be withdrawn came without its id. Reload the page.")
    await biff.submit_tx(ctx, functools.partial(withdraw_tx, id=id))
    return done(ctx)


def withdraw_tx(ctx, id):
    stored, mem = ctx["biff/db"].entity(id), ctx["mem"]["xt/id"]
    if stored:
        is_mine = (stored.get("msg/mem"), stored.get("msg/channel")) == (mem, ctx["channel"]["xt/id"])
        gone = [id, *gone_with_message(ctx, id)]
        return [match(id, stored), *map(delete, gone)] if is_mine else []
    if ctx["biff/db"].history(id):
        return []
    return [match(id, None), {"db/doc-type": "withdrawal", "xt/id": id, "withdrawal/mem": mem}]


def posted_id(ctx):
    """The id that the page made for this message: a post that is repeated is one message. None if it has none."""
    try:
        return uuid.UUID(ctx["params"].get("post", ""))
    except ValueError:
        return None


def done(ctx):
    """The answer to a form of the channel. A script is told how far its page has to hear to see what was done."""
    if "HX-Request" in ctx["request"].headers:
        return web.Response(status=204, headers={"X-Tx-Id": str(ctx["biff/node"].db().tx_id)})
    return biff.redirect(ctx, channel_path(ctx["channel"]))


CHANNEL = "/community/{id}/channel/{channel_id}"
ROUTES = [
    ("GET", CHANNEL + "/news", in_channel, news_for(in_channel)),
    ("GET", "/community/{id}/news", in_community, news_for(in_community)),
    ("GET", "/news", signed_in, news_for(signed_in)),
    ("POST", CHANNEL + "/withdraw", in_channel, withdraw),
]
PLUGIN = {"schema": SCHEMA, "routes": ROUTES}
