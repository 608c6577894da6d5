"""Replies: a message may answer another one and quotes it. A message and its replies are a thread, which has a page.

A reply names the message that it answers, the transaction up to which its author had read (so the quote shows the
version that was answered, whatever was edited since), and the first message of the thread. A quote of a message that
was deleted shows nothing of it.
"""
import uuid

from voluptuous import Optional

import biff
from plugins.changes import channel_of, list_view
from plugins.edits import CHARS_MAX, MESSAGE, in_message
from plugins.names import author_of
from plugins.places import Refused, app_page, channel_path, entity_of
from plugins.text import in_words

QUOTE_CHARS_MAX = 140                 # of a quoted text, in one line
THREAD_MAX = 200                      # replies on a thread's page: its newest
RETOUCHED_MAX = 100                   # replies told one by one when their quote changes; of more, the list is sent anew

GONE = "This message is not there any more. Send yours as a new one."

# ── Answering ────────────────────────────────────────────────────────────────────────────────────────────────


def posted(ctx):
    """The attributes of a reply, from the fields of its form; they do not depend on what has changed since."""
    if "reply" not in ctx["params"]:
        return {}
    try:
        reply, thread = (uuid.UUID(ctx["params"].get(name, "")) for name in ("reply", "thread"))
        read = int(ctx["params"].get("reply-tx", ""))
    except ValueError:
        raise Refused(422, "The reply does not say what it answers. Reload the page and send it again.") from None
    if not ctx["params"].get("text", "").strip() and not ctx["params"].get("files"):
        raise Refused(422, "A reply has at least one character, or a file.")
    return {"msg/reply-to": reply, "msg/reply-tx": max(0, min(read, ctx["biff/db"].tx_id)), "msg/thread": thread}


def posted_tx(ctx, message):
    """Adds nothing, and refuses a reply to no message. It is called once, when the message is stored."""
    if "msg/reply-to" in message:
        answered = entity_of(ctx, str(message["msg/reply-to"]), "msg/text")
        if answered is None or answered["msg/channel"] != message["msg/channel"]:
            raise Refused(422, GONE)
        if answered.get("msg/thread", answered["xt/id"]) != message["msg/thread"]:
            raise Refused(422, "The reply names another thread than the message that it answers. Reload the page.")
    return []


# ── On pages ─────────────────────────────────────────────────────────────────────────────────────────────────

REPLIES = {"find": ["?root", ("count", "?m")], "in": [["?root", ...]], "where": [["?m", "msg/thread", "?root"]]}
ANSWERS = {"find": "?m", "in": ["?id"], "where": [["?m", "msg/reply-to", "?id"]], "limit": RETOUCHED_MAX + 1}


def of_messages(db, messages):
    """The quote of each message, the number of replies to it, and its thread."""
    replies = dict(biff.q(db, REPLIES, [message["xt/id"] for message in messages]))
    return {message["xt/id"]: {"quote": quote_of(db, message), "replies": replies.get(message["xt/id"], 0),
                               "thread_path": thread_path(db, message) if message["xt/id"] in replies else None}
            for message in messages}


def quote_of(db, message):
    """The quoted message as {id, mem, text, is_edited}; {} if it was deleted, None for no reply."""
    if "msg/reply-to" not in message:
        return None
    answered = db.entity(message["msg/reply-to"])
    if not answered or "msg/text" not in answered or answered.get("msg/channel") != message["msg/channel"]:
        return {}
    version = version_at(db, answered, message["msg/reply-tx"])
    return {"id": answered["xt/id"], "mem": answered["msg/mem"], "text": in_one_line(version),
            "is_edited": version["msg/text"] != answered["msg/text"]}


def quoted_of(db, messages):
    """The authors of quoted messages. A name changes without a word about the message that quotes."""
    answered = [(one["xt/id"], db.entity(one["msg/reply-to"])) for one in messages if "msg/reply-to" in one]
    return {id: {"quoted": author_of(db, (document or {}).get("msg/mem"))} for id, document in answered}


def version_at(db, answered, tx_id):
    """The version that was answered; the present one if there was none then."""
    if "msg/edited-at" not in answered:
        return answered
    return next((version.document for version in db.history(answered["xt/id"], order="desc")
                 if version.document and "msg/text" in version.document and version.tx_id <= tx_id), answered)


def in_one_line(message):
    text = in_words(message) or "A file"
    return text if len(text) <= QUOTE_CHARS_MAX else text[:QUOTE_CHARS_MAX - 1].rstrip() + "…"


def thread_path(db, message):
    channel = db.entity(message["msg/channel"])
    return f"{channel_path(channel)}?thread={message['xt/id']}" if channel else None


def on_message(changes, id, old, new):
    """A reply changes the count at the head of its thread; a message that changes or goes changes its quotes."""
    for document in old, new:
        if document and "msg/thread" in document and (root := changes.db.entity(document["msg/thread"])):
            changes.retouch(root)
    if (old and "msg/text" not in old) or (new and "msg/text" not in new):
        return
    channel = changes.place(channel_of(new)) if new and channel_of(new) and not old else None
    if channel and "chan/comm" in channel:             # answers to what was not there until now are rare, and not kept
        changes.later(channel["chan/comm"], retouch_answers, id)
    else:
        retouch_answers(changes, id)


def retouch_answers(changes, id):
    answers = biff.q(changes.db, ANSWERS, id)
    for answer in filter(None, map(changes.db.entity, answers)):
        if len(answers) > RETOUCHED_MAX:
            changes.anew.add(answer["msg/channel"])
        else:
            changes.retouch(answer)


def thread_of(ctx):
    """To the thread in which a message is; a reply has none of its own."""
    db, message = ctx["biff/db"], ctx["message"]
    if "msg/thread" not in message:
        return biff.redirect(ctx, thread_path(db, message))
    root = db.entity(message["msg/thread"])
    path = thread_path(db, root) if root else f"{channel_path(ctx['channel'])}/at/{message['xt/id']}"
    return biff.redirect(ctx, f"{path}#message-{message['xt/id']}" if root else path)


def thread_page(ctx):
    """A message and its replies."""
    ctx["params"]["message_id"] = ctx["params"]["thread"]
    if refusal := in_message(ctx):
        return refusal
    db, message = ctx["biff/db"], ctx["message"]
    if "msg/thread" in message:
        return thread_of(ctx)
    newest = {"find": ("pull", "?m", ["*"]), "in": ["?root"], "where": [["?m", "msg/thread", "?root"]],
              "order-by": [[("created", "?m"), "desc"]], "limit": THREAD_MAX}
    messages = [message, *biff.q(db, newest, message["xt/id"])[::-1]]
    return app_page(ctx, "replies/thread.html", listed=list_view(ctx, db, ctx["channel"], messages),
                    path=channel_path(ctx["channel"]), is_past=False, thread=message["xt/id"],
                    post_id=ctx["biff/node"].new_id(), chars_max=CHARS_MAX)


PLUGIN = {
    "extends": {"message": {Optional("msg/reply-to"): uuid.UUID, Optional("msg/reply-tx"): int,
                            Optional("msg/thread"): uuid.UUID}},
    "routes": [("GET", MESSAGE + "/thread", in_message, thread_of)],
    "views": {"thread": thread_page},
    "posted": posted, "posted-tx": posted_tx,
    "slots": {"message-top": "replies/quote.html", "message-foot": "replies/count.html",
              "message-actions": "replies/action.html", "above-compose": "replies/bar.html"},
    "messages": quoted_of, "message-looks": of_messages,
    "changes": [on_message],
    "scripts": ["replies.js"],
}
