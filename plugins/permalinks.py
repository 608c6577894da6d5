"""Permalinks: a message has an address, and opens in its surroundings; so does a day.

Such a page stands in the past: it hears what is new in the community, and counts it. Older and newer messages load at
its two ends, and the browser drops those at the other end, so that a page never holds more than some hundreds.
"""
import datetime as dt
import uuid

import biff
from plugins.changes import list_view, view_of
from plugins.edits import CHARS_MAX, in_message
from plugins.places import PAGE_MESSAGES, app_page, channel_path, in_channel, messages_of

SHOWN_MAX = 400                       # messages in a page; more make each new one slow

CHANNEL = "/community/{id}/channel/{channel_id}"


def surroundings_page(ctx):
    """The message in the middle of a page; the channel's own page if the message is among the newest there."""
    db, channel, message = ctx["biff/db"], ctx["channel"], ctx["message"]
    newest, _ = messages_of(db, channel)
    if message["xt/id"] in (one["xt/id"] for one in newest):
        return biff.redirect(ctx, f"{channel_path(channel)}?now#message-{message['xt/id']}")
    return surroundings_view(ctx, message, sought=message["xt/id"])


def surroundings_view(ctx, message, **values):
    db, channel = ctx["biff/db"], ctx["channel"]
    older, has_older = messages_of(db, channel, before=message["xt/id"], count=PAGE_MESSAGES // 2)
    newer, has_newer = messages_of(db, channel, after=message["xt/id"], count=PAGE_MESSAGES // 2)
    messages = [*older, message, *newer]
    return app_page(ctx, "channel.html", listed=list_view(ctx, db, channel, messages, has_older), messages=messages,
                    path=channel_path(channel), has_newer=has_newer, is_past=True, post_id=ctx["biff/node"].new_id(),
                    chars_max=CHARS_MAX, **values)


def newer(ctx):
    """A page of newer messages, as a fragment."""
    try:
        after = uuid.UUID(ctx["params"].get("after", ""))
    except ValueError:
        return biff.redirect(ctx, channel_path(ctx["channel"]))
    messages, has_newer = messages_of(ctx["biff/db"], ctx["channel"], after=after)
    return biff.render(ctx, "permalinks/newer.html", view=view_of(ctx, ctx["biff/db"], messages), messages=messages,
                       path=channel_path(ctx["channel"]), has_newer=has_newer)


def day_page(ctx):
    """To the first message at or after a moment; to the newest ones if nothing was said since."""
    if "from" not in ctx["params"]:
        return biff.redirect(ctx, channel_path(ctx["channel"]))
    try:
        moment = dt.datetime.fromisoformat(ctx["params"]["from"])
    except ValueError:
        return biff.error(ctx, 422, "The day could not be read. Choose one in the field for it.")
    moment = moment if moment.tzinfo else moment.replace(tzinfo=dt.timezone.utc)
    first = biff.q(ctx["biff/db"], {
        "find": "?message", "in": ["?channel", "?moment"], "limit": 1, "order-by": [[("created", "?message"), "asc"]],
        "where": [["?message", "msg/channel", "?channel"], ["?message", "msg/created-at", "?at"],
                  [(">=", "?at", "?moment")]]}, ctx["channel"]["xt/id"], moment)
    path = channel_path(ctx["channel"])
    return biff.redirect(ctx, f"{path}/at/{first[0]}" if first else path)


PLUGIN = {
    "routes": [("GET", CHANNEL + "/at/{message_id}", in_message, surroundings_page),
               ("GET", CHANNEL + "/newer", in_channel, newer),
               ("GET", CHANNEL + "/day", in_channel, day_page)],
    "slots": {"message-actions": "permalinks/action.html", "head": "permalinks/day.html",
              "menu": "permalinks/menu.html", "dialogs": "permalinks/dialog.html"},
    "page": lambda ctx: {"shown_max": SHOWN_MAX},
    "scripts": ["permalinks.js"],
}
