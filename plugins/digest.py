"""Digests: people who ask for one get a mail a day or a week with their unread messages; nobody gets one unasked.

It has the mentions and direct messages that came since the last one and are unread, and how many messages came in each
other channel: of what its reader may read when it is sent. Muted channels are left out. Without anything new there is
no mail.

A period belongs to the server whose transaction claims it, by a match on the document that says when the last one
began; then it mails. So there is at most one mail a period, whatever the number of servers, and none if a server dies
between the two. A mail ends the digests by one click, without signing in (RFC 8058): its link is signed.
"""
import datetime as dt
import hmac
import uuid

from voluptuous import In, Schema

import biff
from plugins.names import author_of
from plugins.places import channel_path, channels_for, communities_of, finished, is_direct, mem_in, signed_in
from plugins.private import as_seen
from plugins.unread import COUNT_MAX, number_of, read_by, recent_of, upto_of
from store import delete, match, put

PERIODS = {"day": dt.timedelta(days=1), "week": dt.timedelta(weeks=1)}
CHOICES = {"": "No digest by mail", "day": "A digest by mail every day", "week": "A digest by mail every week"}
LOOK_S = 300                          # how often it is looked whose period is over
DIGESTS_A_RUN = 50                    # the others follow with the next one: 14,000 a day
SHOWN_MAX = 20                        # mentions, and direct messages, of a community in a mail
CHANNELS_SHOWN_MAX = 50               # of a community in a mail
TEXT_CHARS_MAX = 200                  # of a message in a mail

SCHEMA = {
    "digest": Schema({
        "xt/id": str,
        "digest/user": uuid.UUID,
        "digest/every": In(sorted(PERIODS)),
        "digest/at": dt.datetime,             # when the last period began
        "digest/tx": int,                     # what was said up to there was in the last one
    }, required=True),
}


def digest_id(user_id):
    return f"digest {user_id}"


# ── Choosing ─────────────────────────────────────────────────────────────────────────────────────────────────


async def choose(ctx):
    every = ctx["params"].get("every", "")
    if every not in CHOICES:
        return biff.error(ctx, 422, "A digest comes every day, every week or not at all.")
    await biff.submit_tx(ctx, lambda ctx: choice_tx(ctx, every))
    return finished(ctx, "/name")


def choice_tx(ctx, every):
    id = digest_id(ctx["uid"])
    if (ctx["biff/db"].entity(id) or {}).get("digest/every", "") == every:
        return []
    return [{"db/doc-type": "digest", "xt/id": id, "digest/user": ctx["uid"], "digest/every": every,
             "digest/at": biff.NOW, "digest/tx": ctx["biff/db"].tx_id}] if every else [delete(id)]


# ── Ending them from a mail ──────────────────────────────────────────────────────────────────────────────────


def token_of(ctx, user_id):
    """The signature of a link in a mail. It is good for ever, and for nothing but ending digests."""
    return f"{user_id.hex}{hmac_of(ctx, user_id)}"


def hmac_of(ctx, user_id):
    return biff.hmac_of(ctx, "end digests", user_id.hex)


def user_named(ctx):
    """The id of the person whose token this is, or None."""
    token = ctx["params"]["token"]
    try:
        user_id = uuid.UUID(token[:32])
    except ValueError:
        return None
    return user_id if hmac.compare_digest(token[32:].encode(), hmac_of(ctx, user_id).encode()) else None


def end_page(ctx):
    """A button: mail scanners open every link, and must not end anything."""
    return biff.render(ctx, "digest/end.html", is_known=user_named(ctx) is not None, is_done=False)


@biff.signed
async def end(ctx):
    """Ends the digests of the person whom the token names, as often as it is asked."""
    user_id = user_named(ctx)
    if user_id is None:
        return biff.error(ctx, 404, "This link is not whole. Copy all of it from the mail, or choose below your name.")
    if ctx["biff/db"].entity(digest_id(user_id)):
        await biff.submit_tx(ctx, [delete(digest_id(user_id))])
    return biff.render(ctx, "digest/end.html", is_known=True, is_done=True)


# ── What is in one ───────────────────────────────────────────────────────────────────────────────────────────


def content_of(ctx, db, user_id, since):
    """The unread messages of a person after a transaction: [{"community", "calls", "directs", "counts"}]."""
    found = []
    for community in communities_of(db, user_id):
        if mem := mem_in(db, user_id, community["xt/id"]):
            part = unread_in(ctx, db, mem, since)
            found += [{"community": community, **part}] if any(part.values()) else []
    return found


def unread_in(ctx, db, mem, since):
    """At most COUNT_MAX messages of a channel are looked at."""
    me, read = mem["xt/id"], read_by(ctx, db, mem["xt/id"])
    calls, directs, counts = [], [], []
    for channel in (as_seen(db, one, me) for one in channels_for(ctx, db, mem) if one["xt/id"] not in read.muted):
        recent, upto = recent_of(ctx, db, channel["xt/id"], COUNT_MAX), upto_of(ctx, read, me, channel["xt/id"])
        new = [n for n in range(recent.after(db, max(upto, since))) if recent.mems[n] != number_of(me)]
        if is_direct(channel):
            directs += [recent.ids[n] for n in new]
        else:
            calls += [recent.ids[n] for n in new if {me, channel["xt/id"]} & set(recent.called.get(n, ()))]
            counts += [(channel, len(new))] if new else []
    return {"calls": shown(db, me, calls), "directs": shown(db, me, directs),
            "counts": sorted(counts, key=lambda one: -one[1])[:CHANNELS_SHOWN_MAX]}


def shown(db, me, ids):
    """The newest of these messages, oldest first."""
    messages = filter(None, map(db.entity, ids))
    return [line_of(db, me, one) for one in sorted(messages, key=lambda one: one["msg/created-at"])[-SHOWN_MAX:]]


def line_of(db, me, message):
    channel = as_seen(db, db.entity(message["msg/channel"]), me)
    text = " ".join(message["msg/text"].split()) or "A file"
    return {"author": author_of(db, message["msg/mem"]), "channel": channel,
            "path": f"{channel_path(channel)}/at/{message['xt/id']}",
            "text": text if len(text) <= TEXT_CHARS_MAX else text[:TEXT_CHARS_MAX] + "…"}


# ── Sending ──────────────────────────────────────────────────────────────────────────────────────────────────


async def send_due(ctx):
    """Sends the digests whose period is over, those first that wait longest."""
    db, now = ctx["biff/db"], biff.now(ctx)
    due = {"find": ["?at", "?d"], "in": ["?every", "?before"], "where": [
        ["?d", "digest/every", "?every"], ["?d", "digest/at", "?at"], [("<=", "?at", "?before")]]}
    found = [one for every, period in PERIODS.items() for one in await db.aq(due, every, now - period)]
    for _, id in sorted(found)[:DIGESTS_A_RUN]:
        await send(biff.assoc_db(ctx), id)


async def send(ctx, id):
    db = ctx["biff/db"]
    digest = db.entity(id)
    user = db.entity(digest["digest/user"]) if digest else None
    if digest is None or not await claimed(ctx, digest) or user is None or "user/email" not in user:
        return
    if parts := content_of(ctx, db, user["xt/id"], digest["digest/tx"]):
        await mail(ctx, user, digest["digest/every"], parts)


async def claimed(ctx, digest):
    """True for one server, once a period: it has moved the time on by whole periods."""
    period, now = PERIODS[digest["digest/every"]], biff.now(ctx)
    if digest["digest/at"] + period > now:
        return False
    begun = digest["digest/at"] + (now - digest["digest/at"]) // period * period
    claim = digest | {"digest/at": begun, "digest/tx": ctx["biff/db"].tx_id}
    return (await ctx["biff/node"].submit([match(digest["xt/id"], digest), put(claim)])).committed


async def mail(ctx, user, every, parts):
    link = f"{ctx['biff/base-url']}/digest/end/{token_of(ctx, user['xt/id'])}"
    text, html = (biff.fragment(ctx, f"mail/digest.{kind}", parts=parts, link=link, every=every, path_of=channel_path)
                  for kind in ("txt", "html"))
    headers = {"List-Unsubscribe": f"<{link}>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}
    await biff.send_mail(ctx, user["user/email"], f"What is new in {ctx['biff/name']}", text, html, headers)


PLUGIN = {
    "schema": SCHEMA,
    "routes": [("POST", "/digest", signed_in, choose), ("GET", "/digest/end/{token}", biff.anyone, end_page),
               ("POST", "/digest/end/{token}", biff.anyone, end)],
    "tasks": [{"task": send_due, "schedule": biff.every(LOOK_S)}],
    "slots": {"you": "digest/form.html"},
    "page": lambda ctx: {"digest_choices": CHOICES,
                         "digest_every": (ctx["biff/db"].entity(digest_id(ctx["uid"])) or {}).get("digest/every", "")},
}
