"""Edits: people change and delete their own messages, admins delete any. Open pages and those that come back follow.

What was there before stays in the history: an edit is marked, and its author and admins may read the earlier versions,
or everybody where the community says so. A deletion leaves nothing on the page.
"""
import datetime as dt
import functools

from aiohttp import web
from voluptuous import Optional

import biff
from plugins.line import done
from plugins.places import channel_path, entity_of, fitting, forbidden, gone_with_message, in_channel, text_of
from store import delete

EDITS_MAX = 200                       # of one message: what reads its history reads a version for each, 2 MB at most
VERSIONS_MAX = 50                     # shown of one message, the newest; people edit once or twice
CHARS_MAX = 10_000                    # as many as a new message has

MESSAGE = "/community/{id}/channel/{channel_id}/message/{message_id}"

# ── Who may ──────────────────────────────────────────────────────────────────────────────────────────────────


def in_message(ctx):
    """A rule: people who may read the channel, and only for a message that stands there now."""
    if refusal := in_channel(ctx):
        return refusal
    message = entity_of(ctx, ctx["params"]["message_id"], "msg/text")
    if message is None or message.get("msg/channel") != ctx["channel"]["xt/id"]:
        return biff.error(ctx, 404, "This message is not there any more.")
    ctx["message"] = message


def author(ctx):
    if refusal := in_message(ctx):
        return refusal
    if ctx["message"]["msg/mem"] != ctx["mem"]["xt/id"]:
        return biff.error(ctx, 403, "Only the author of a message may change it.")


def author_or_admin(ctx):
    if refusal := in_message(ctx):
        return refusal
    if ctx["message"]["msg/mem"] != ctx["mem"]["xt/id"]:
        return forbidden(ctx)


def reader_of_versions(ctx):
    if refusal := in_message(ctx):
        return refusal
    if not ctx["community"].get("comm/shows-versions"):
        return author_or_admin(ctx)


# ── Changing ─────────────────────────────────────────────────────────────────────────────────────────────────


def beside_text(ctx, text):
    """The attributes that plugins keep beside a text; None where there is nothing to keep."""
    return {key: value for plugin in ctx["biff/plugins"] if "beside-text" in plugin
            for key, value in plugin["beside-text"](ctx, text).items()}


def typed_now(ctx, message):
    """The text of a message as its author would type it now."""
    return next((plugin["typed"](ctx, message) for plugin in ctx["biff/plugins"] if "typed" in plugin),
                message["msg/text"])


async def text_of_message(ctx):
    """The text as its author would type it, to be changed."""
    return web.Response(text=typed_now(ctx, ctx["message"]))


async def edit_message(ctx):
    text = text_of(ctx)
    least = 0 if "msg/files" in ctx["message"] else 1
    if not least <= len(text) <= CHARS_MAX:
        return biff.error(ctx, 422, f"A message has 1 to {CHARS_MAX:,} characters; this one has {len(text):,}.")
    if text not in (ctx["message"]["msg/text"], typed_now(ctx, ctx["message"])):
        if len(ctx["biff/db"].history(ctx["message"]["xt/id"], documents=False)) > EDITS_MAX:
            return biff.error(ctx, 422, f"A message is edited at most {EDITS_MAX} times. Write a new one.")
        await biff.submit_tx(ctx, functools.partial(edit_tx, text=text))
    return done(ctx)


def edit_tx(ctx, text):
    """Made anew for each attempt, with the rights of that moment; nothing if they are gone, or the message is."""
    if author(ctx):
        return []
    return [*biff.unchanged(ctx, ctx["channel"]["xt/id"], ctx["mem"]["xt/id"]),
            {"db/doc-type": "message", "db/op": "update", "xt/id": ctx["message"]["xt/id"],
             "msg/text": text, "msg/edited-at": biff.NOW,
             **{key: biff.DISSOC if value is None else value for key, value in beside_text(ctx, text).items()}}]


async def delete_message(ctx):
    await biff.submit_tx(ctx, delete_tx)
    return done(ctx)


def delete_tx(ctx):
    """The message, and what belongs to it."""
    if author_or_admin(ctx):
        return []
    id = ctx["message"]["xt/id"]
    return [*biff.unchanged(ctx, ctx["mem"]["xt/id"], id),
            *(delete(one) for one in [id, *gone_with_message(ctx, id)])]


# ── Looking back ─────────────────────────────────────────────────────────────────────────────────────────────


async def versions(ctx):
    """The earlier versions of a message, the newest first."""
    past = [version for version in ctx["biff/db"].history(ctx["message"]["xt/id"], order="desc")
            if version.document and "msg/text" in version.document]
    shown = past[1:VERSIONS_MAX + 1]
    shown = shown[:fitting([version.document for version in shown])]
    return biff.render(ctx, "edits/versions.html", versions=shown, now=past[0] if past else None,
                       back=channel_path(ctx["channel"]), is_part="HX-Request" in ctx["request"].headers)


PLUGIN = {
    "extends": {"message": {Optional("msg/edited-at"): dt.datetime},
                "community": {Optional("comm/shows-versions"): bool}},
    "routes": [("GET", MESSAGE, in_message, text_of_message), ("POST", MESSAGE, author, edit_message),
               ("DELETE", MESSAGE, author_or_admin, delete_message),
               ("GET", MESSAGE + "/versions", reader_of_versions, versions)],
    "slots": {"message-head": "edits/mark.html", "message-actions": "edits/actions.html",
              "message-actions-end": "edits/delete.html",
              "above-compose": "edits/form.html", "dialogs": "edits/dialogs.html"},
    "scripts": ["edits.js"],
}
