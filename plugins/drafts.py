"""Drafts: the text that a person is writing in a channel is on all of their devices some seconds later.

The browser keeps a draft as it is typed (`outbox.js`) and brings it here at most once in ten seconds, and when its page
goes (`drafts.js`). It is a document a member and channel, and only this person's own pages are told. A draft that was
sent or emptied is evicted: no log keeps what somebody decided not to say. An empty document in its place tells the
other devices so.

Signing out removes the drafts of that browser; the person's other devices, and they themselves when they sign in again,
find them here.
"""
import contextlib
import datetime as dt
import functools
import uuid

from aiohttp import web
from voluptuous import All, Length, Optional, Schema

import biff
from plugins.places import in_channel, mem_in
from store import evict

DRAFT_CHARS_MAX = 10_000              # as many as a message has
DRAFTS_MAX = 50                       # of one person
DRAFTS_A_PERSON = 20, 60              # in a minute: three windows, each once in ten seconds
KEPT = dt.timedelta(days=30)          # without a change; then it is evicted
SWEEP_S = 3_600
SWEPT_AT_ONCE = 100

SCHEMA = {
    "draft": Schema({
        "xt/id": str,                             # "draft-" is among what no page is made from when it is evicted
        "draft/mem": uuid.UUID,
        "draft/channel": uuid.UUID,
        "draft/at": dt.datetime,
        Optional("draft/user"): uuid.UUID,        # these two are there while something is written
        Optional("draft/text"): All(str, Length(1, DRAFT_CHARS_MAX)),
    }, required=True),
}


def draft_id(mem_id, channel_id):
    return f"draft-{mem_id}-{channel_id}"


# ── Keeping ──────────────────────────────────────────────────────────────────────────────────────────────────


async def keep_draft(ctx):
    """Answers with the time under which the draft is known. A text without anything to see is an empty draft."""
    text = ctx["params"].get("text", "")
    text = text if text.strip() else ""
    if len(text) > DRAFT_CHARS_MAX:
        return biff.error(ctx, 422, f"A draft has at most {DRAFT_CHARS_MAX:,} characters. It is kept in this browser.")
    if not biff.is_allowed(ctx, (("drafts", ctx["uid"]), *DRAFTS_A_PERSON)):
        return biff.error(ctx, 429)
    try:
        await biff.submit_tx(ctx, functools.partial(draft_tx, text=text))
    except biff.ConstraintError:
        return biff.error(ctx, 422, f"One person has at most {DRAFTS_MAX} drafts. This one is kept in this browser.")
    draft = ctx["biff/node"].db().entity(draft_id(ctx["mem"]["xt/id"], ctx["channel"]["xt/id"]))
    return web.Response(status=204, headers={"X-Draft-At": at_of(draft)})


def draft_tx(ctx, text):
    if in_channel(ctx):
        return []
    mem, channel = ctx["mem"]["xt/id"], ctx["channel"]["xt/id"]
    known = ctx["biff/db"].entity(draft_id(mem, channel)) or {}
    if known.get("draft/text", "") == text:
        return []
    unchanged = biff.unchanged(ctx, mem, channel)
    if not text:
        return [*unchanged, *emptied(mem, channel)]
    return [*unchanged, draft(mem, channel) | {"draft/user": ctx["uid"], "draft/text": text},
            biff.at_most(DRAFTS_MAX, {"draft/user": ctx["uid"]})]


def draft(mem_id, channel_id):
    return {"db/doc-type": "draft", "xt/id": draft_id(mem_id, channel_id), "draft/mem": mem_id,
            "draft/channel": channel_id, "draft/at": biff.NOW}


def emptied(mem_id, channel_id):
    """The operations that leave nothing of a draft's text, now and in the past."""
    return [evict(draft_id(mem_id, channel_id)), draft(mem_id, channel_id)]


def posted_tx(ctx, message):
    """A message is posted: what was kept of it as a draft goes right after, and keeps nobody waiting for it."""
    mem, channel = ctx["mem"]["xt/id"], ctx["channel"]["xt/id"]
    if "draft/text" in (ctx["biff/db"].entity(draft_id(mem, channel)) or {}):
        with contextlib.suppress(biff.QueueFullError):         # then the page empties it
            biff.submit_job(ctx, "empty-drafts", (mem, channel))
    return []


async def empty(ctx):
    """A job: the draft was sent."""
    await biff.submit_tx(ctx, lambda ctx: emptied(*ctx["biff/job"]) if "draft/text" in (
        ctx["biff/db"].entity(draft_id(*ctx["biff/job"])) or {}) else [])


async def sweep(ctx):
    """Evicts drafts that nobody has touched for long, and those whose channel or membership is gone."""
    db, ids = ctx["biff/db"], list[str]()
    for gone in ([["?d", "draft/at", "?at"], [("<", "?at", "?too-old")]],
                 [["?d", "draft/channel", "?c"], ("not", ["?c", "chan/comm"])],
                 [["?d", "draft/mem", "?m"], ("not", ["?m", "mem/user"])]):
        ids += await db.aq({"find": "?d", "in": ["?too-old"], "where": gone, "limit": SWEPT_AT_ONCE},
                           biff.now(ctx) - KEPT)
    if ids:
        await biff.submit_tx(ctx, [evict(id) for id in set(ids)])


# ── On pages ─────────────────────────────────────────────────────────────────────────────────────────────────


def on_draft(changes, id, old, new):
    if new and "draft/mem" in new and (mem := changes.db.entity(new["draft/mem"])) and "mem/user" in mem:
        changes.touch_person(mem["mem/user"], "draft", new["draft/channel"])


def draft_part(ctx, db, place, user, about):
    """This person's draft in the channel of the page."""
    if "chan/comm" not in place or about not in (None, place["xt/id"]):
        return ""
    mem = mem_in(db, user["xt/id"], place["chan/comm"])
    return biff.fragment(ctx, "drafts/draft.html", **values_of(db, mem, place), is_news=True) if mem else ""


def values_of(db, mem, channel):
    kept = db.entity(draft_id(mem["xt/id"], channel["xt/id"])) or {}
    return {"draft_at": at_of(kept), "draft_text": kept.get("draft/text", "")}


def at_of(draft):
    return draft["draft/at"].isoformat(timespec="milliseconds") if draft else ""


def page_values(ctx):
    return values_of(ctx["biff/db"], ctx["mem"], ctx["channel"]) if ctx.get("channel") else {}


PLUGIN = {
    "schema": SCHEMA,
    "routes": [("POST", "/community/{id}/channel/{channel_id}/draft", in_channel, keep_draft)],
    "posted-tx": posted_tx,
    "queues": [{"id": "empty-drafts", "consumer": empty}],
    "tasks": [{"task": sweep, "schedule": biff.every(SWEEP_S)}],
    "slots": {"above-compose": "drafts/news.html"},
    "scripts": ["drafts.js"],
    "page": page_values,
    "changes": [on_draft],
    "person-parts": {"draft": draft_part},
}
