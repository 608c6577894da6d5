"""Push: a message that concerns a person reaches their phone or desk while no page of theirs is in sight.

By default these are mentions and direct messages. Each person says so anew for a channel (all, mentions, none), and may
have quiet hours. A browser that wants to be told leaves an address of its push service with us (RFC 8030). What we send
there is encrypted for that browser (RFC 8291) and signed by a key that is made of the server's secret (RFC 8292). The
server through which a message was posted sends it, so that it is sent once, however many servers follow the log.
"""
import asyncio
import base64
import collections
import datetime as dt
import json
import logging
import os
import re
import time
import urllib.parse
import uuid

import http_ece
from aiohttp import web
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from voluptuous import All, In, Length, Schema

import biff
from biff.door import DoorError
from plugins.mentions import readers_of
from plugins.names import author_of
from plugins.places import channel_path, finished, in_channel, is_direct, is_private, may_read, signed_in, zone_of
from plugins.private import as_seen
from store import delete

BROWSERS_MAX = 20                     # of one person that want to be told
ENDPOINT_CHARS_MAX = 1_000            # of a push service's address; the usual ones have some 200
BODY_CHARS_MAX = 200                  # of a text in a notification
RECIPIENTS_MAX = 500                  # of one message: @channel in a large community
POSTED_KEPT = 10_000                  # ids of messages posted through this server that are not in the log yet
KEPT_S = 24 * 3600                    # a push service keeps what it cannot deliver so long
SIGNED_S = 12 * 3600                  # a signature is good for so long; RFC 8292 allows a day
TRIES = 3                             # while a push service cannot be reached, or is busy
CHANGES_A_PERSON = 30, 60             # in a minute
LEVELS = "all", "mentions", "none"
CURVE = ec.SECP256R1()

log = logging.getLogger("eelchat")

SCHEMA = {
    "browser": Schema({                        # one that wants to be told
        "xt/id": uuid.UUID,
        "push/user": uuid.UUID,
        "push/endpoint": All(str, Length(1, ENDPOINT_CHARS_MAX)),
        "push/p256dh": All(bytes, Length(65, 65)),
        "push/auth": All(bytes, Length(16, 16)),
        "push/made-at": dt.datetime,
    }, required=True),
    "alert": Schema({                          # what a member wants of a channel
        "xt/id": str,
        "alert/mem": uuid.UUID,
        "alert/channel": uuid.UUID,
        "alert/level": In(LEVELS),
    }, required=True),
    "quiet": Schema({                          # the hours in which a person is not told, in their own time
        "xt/id": str,
        "quiet/user": uuid.UUID,
        "quiet/from": All(str, Length(5, 5)),
        "quiet/to": All(str, Length(5, 5)),
        "quiet/zone": All(str, Length(1, 60)),
    }, required=True),
}

# ── Keys ─────────────────────────────────────────────────────────────────────────────────────────────────────


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def un_b64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def signing_key(system):
    """The key that push services know this server by: the same on all servers of a log, because their secret is."""
    number = int(biff.hmac_of(system, "push"), 16) % (2 ** 256 - 2 ** 226) + 1     # below the order of the curve
    return ec.derive_private_key(number, CURVE)


def public_bytes(key):
    return key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def authorization(system, endpoint):
    """The header that says who sends. Source: RFC 8292, 2 and 3"""
    key, url = system["chat_push_key"], urllib.parse.urlsplit(endpoint)
    claims = {"aud": f"{url.scheme}://{url.netloc}", "exp": int(time.time()) + SIGNED_S, "sub": system["biff/base-url"]}
    signed = ".".join(b64(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ES256"}, claims))
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"vapid t={signed}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}, k={b64(public_bytes(key))}"


# ── Choosing ─────────────────────────────────────────────────────────────────────────────────────────────────


async def add_browser(ctx):
    """Stores that the browser of this page wants to be told."""
    if refusal := too_often(ctx):
        return refusal
    endpoint = ctx["params"].get("endpoint", "")
    try:
        p256dh, auth = un_b64(ctx["params"].get("p256dh", "")), un_b64(ctx["params"].get("auth", ""))
        ec.EllipticCurvePublicKey.from_encoded_point(CURVE, p256dh)
        if len(auth) != 16 or len(p256dh) != 65 or len(endpoint) > ENDPOINT_CHARS_MAX:
            raise ValueError
        await ctx["door"].check(endpoint)
    except (ValueError, DoorError):
        return biff.error(ctx, 422, "This browser's push service cannot be used from here.")
    one = {"db/doc-type": "browser", "xt/id": browser_id(ctx["uid"], endpoint), "push/user": ctx["uid"],
           "push/endpoint": endpoint, "push/p256dh": p256dh, "push/auth": auth, "push/made-at": biff.NOW}
    try:
        await biff.submit_tx(ctx, [one, biff.at_most(BROWSERS_MAX, {"push/user": ctx["uid"]})])
    except biff.ConstraintError:
        return biff.error(ctx, 422, f"At most {BROWSERS_MAX} of your browsers can be told. Turn another one off first.")
    return web.Response(status=204)


async def drop_browser(ctx):
    id = browser_id(ctx["uid"], ctx["params"].get("endpoint", ""))
    if ctx["biff/db"].entity(id):
        await biff.submit_tx(ctx, [delete(id)])
    return web.Response(status=204)


def browser_id(uid, endpoint):
    return uuid.uuid5(uid, endpoint)


async def choose_level(ctx):
    """Stores which messages of a channel a member wants to be told of."""
    level = ctx["params"].get("level")
    if level not in LEVELS:
        return biff.error(ctx, 422, "Choose all messages, mentions, or none.")
    if refusal := too_often(ctx):
        return refusal
    mem, channel = ctx["mem"]["xt/id"], ctx["channel"]["xt/id"]
    await biff.submit_tx(ctx, [{"db/doc-type": "alert", "xt/id": alert_id(mem, channel), "alert/mem": mem,
                                "alert/channel": channel, "alert/level": level}])
    return finished(ctx, channel_path(ctx["channel"]))


async def choose_quiet(ctx):
    """The hours in which a person is not told; without them, none."""
    start, end, zone = (ctx["params"].get(name, "").strip() for name in ("from", "to", "zone"))
    if refusal := too_often(ctx):
        return refusal
    id = f"quiet {ctx['uid']}"
    if not start and not end:
        await biff.submit_tx(ctx, [delete(id)] if ctx["biff/db"].entity(id) else [])
        return finished(ctx, "/name")
    if not (is_clock(start) and is_clock(end) and zone_of(zone)):
        return biff.error(ctx, 422, "Quiet hours need a time at which they begin, and one at which they end: 22:00.")
    await biff.submit_tx(ctx, [{"db/doc-type": "quiet", "xt/id": id, "quiet/user": ctx["uid"], "quiet/from": start,
                                "quiet/to": end, "quiet/zone": zone}])
    return finished(ctx, "/name")


def too_often(ctx):
    if not biff.is_allowed(ctx, (("push", ctx["uid"]), *CHANGES_A_PERSON)):
        return biff.error(ctx, 429, "That was often. Try again in a minute.")


def alert_id(mem_id, channel_id):
    return f"alert {mem_id} {channel_id}"


def is_clock(text):
    return bool(re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", text))


def is_quiet(db, person, now):
    """True within a person's quiet hours, which may go over midnight."""
    quiet = db.entity(f"quiet {person}")
    zone = quiet and zone_of(quiet["quiet/zone"])
    if not zone:
        return False
    at, start, end = now.astimezone(zone).strftime("%H:%M"), quiet["quiet/from"], quiet["quiet/to"]
    return start <= at < end if start <= end else at >= start or at < end


# ── Telling ──────────────────────────────────────────────────────────────────────────────────────────────────


def posted_tx(ctx, message):
    """Notes that a message is posted through this server. It adds nothing to the transaction."""
    posted = ctx["chat_posted"]
    posted[message["xt/id"]] = None
    while len(posted) > POSTED_KEPT:
        posted.popitem(last=False)
    return []


def on_tx(ctx, tx):
    for op in tx.ops:
        if op[0] == "put" and "msg/text" in op[1] and op[1]["xt/id"] in ctx["chat_posted"]:
            del ctx["chat_posted"][op[1]["xt/id"]]
            tell(ctx, ctx["biff/node"].db(tx.tx_id), op[1])


def tell(ctx, db, message):
    """Queues what is to be sent for a new message."""
    channel, now = db.entity(message["msg/channel"]), biff.now(ctx)
    for mem_id in concerned(db, channel, message)[:RECIPIENTS_MAX] if channel else ():
        mem = db.entity(mem_id) or {}
        person = mem.get("mem/user")
        if person is None or person in ctx["chat_presence"].here or not may_read(channel, mem_id):
            continue
        browsers = biff.lookup_all(db, "push/user", person, limit=BROWSERS_MAX)
        if not browsers or is_quiet(db, person, now):
            continue
        payload = payload_of(ctx, db, channel, message, mem_id)
        for browser in browsers:
            try:
                biff.submit_job(ctx, "push", (browser["xt/id"], payload, str(message["xt/id"])))
            except biff.QueueFullError:
                return log.warning("Notifications are sent too slowly; those of one message are left out")


def concerned(db, channel, message):
    """The memberships that a message concerns, but its author's."""
    levels = {one["alert/mem"]: one["alert/level"] for one in biff.lookup_all(db, "alert/channel", channel["xt/id"])}
    called = message.get("msg/mentions", ())
    ids = list(channel.get("chan/mems", ())) if is_direct(channel) else \
        readers_of(db, channel) if channel["xt/id"] in called else list(called)
    ids += [mem_id for mem_id, level in levels.items() if level == "all"]
    return [mem_id for mem_id in dict.fromkeys(ids) if mem_id != message["msg/mem"] and levels.get(mem_id) != "none"
            and not is_muted(db, mem_id, channel)]


def is_muted(db, mem_id, channel):
    return bool((db.entity(f"reading {mem_id} {channel['xt/id']}") or {}).get("read/is-muted"))


def payload_of(ctx, db, channel, message, mem_id):
    """The notification that the service worker shows, as JSON."""
    author = author_of(db, message["msg/mem"]).name
    where = "" if is_direct(channel) else f" in {'' if is_private(channel) else '#'}{channel['chan/title']}"
    text = " ".join(message["msg/text"].split()) or "A file"
    text = text if len(text) <= BODY_CHARS_MAX else f"{text[:BODY_CHARS_MAX - 1]}…"
    return json.dumps({"title": f"{author}{where}", "body": text, "tag": str(message["xt/id"]),
                       "path": f"{channel_path(channel)}/at/{message['xt/id']}",
                       "about": as_seen(db, channel, mem_id)["chan/title"]}).encode()


async def send(ctx):
    """Sends one notification to one browser. An address that is gone is forgotten."""
    id, payload, topic = ctx["biff/job"]
    for wait_s in [0, 1, 5][:TRIES]:
        await asyncio.sleep(wait_s)
        browser = ctx["biff/node"].db().entity(id)
        if browser is None:
            return
        try:
            answer = await ctx["door"].post(browser["push/endpoint"], encrypted(browser, payload),
                                            headers_of(ctx, browser["push/endpoint"], topic))
        except DoorError as error:
            log.info("push to %s: %s", urllib.parse.urlsplit(browser["push/endpoint"]).netloc, error)
            continue
        if answer.status in (404, 410):                # it was turned off, or is a browser that is no more
            await biff.submit_tx(ctx, [delete(id)])
        if answer.status != 429 and answer.status < 500:
            return


def headers_of(ctx, endpoint, topic):
    return {"Authorization": authorization(ctx, endpoint), "Content-Encoding": "aes128gcm", "TTL": str(KEPT_S),
            "Content-Type": "application/octet-stream", "Urgency": "high", "Topic": topic.replace("-", "")}


def encrypted(browser, payload):
    """The payload as only this browser reads it. Source: RFC 8291"""
    return http_ece.encrypt(payload, salt=os.urandom(16), private_key=ec.generate_private_key(CURVE),
                            dh=browser["push/p256dh"], auth_secret=browser["push/auth"], version="aes128gcm")


# ── On pages ─────────────────────────────────────────────────────────────────────────────────────────────────


async def use_push(system):
    system["chat_posted"], system["chat_push_key"] = collections.OrderedDict(), signing_key(system)
    system["chat_push_public"] = b64(public_bytes(system["chat_push_key"]))
    return system


def on_alert(changes, id, old, new):
    for document in old, new:
        if document and "alert/mem" in document:
            changes.spoil("alerts", document["alert/mem"])
        if document and "quiet/user" in document:
            changes.spoil("quiet", document["quiet/user"])


def levels_of(ctx, db, mem_id):
    """{channel: level} of those of which a member wants more or less than usual."""
    return ctx["chat_kept"](ctx, db, ("alerts", mem_id), lambda: {
        one["alert/channel"]: one["alert/level"] for one in biff.lookup_all(db, "alert/mem", mem_id)},
        lambda found: 200 * len(found))


def page_values(ctx):
    db, mem, channel = ctx["biff/db"], ctx.get("mem"), ctx.get("channel")
    quiet = ctx["chat_kept"](ctx, db, ("quiet", ctx["uid"]), lambda: db.entity(f"quiet {ctx['uid']}") or {})
    levels = levels_of(ctx, db, mem["xt/id"]) if mem else {}
    usual = "all" if channel and is_direct(channel) else "mentions"
    return {"push_key": ctx["chat_push_public"], "quiet_from": quiet.get("quiet/from", ""),
            "quiet_to": quiet.get("quiet/to", ""), "alert_level": levels.get(channel and channel["xt/id"], usual),
            "alert_levels": " ".join(f"{id}:{level}" for id, level in levels.items())}


PLUGIN = {
    "schema": SCHEMA,
    "goes-with": {"channel": ["alert/channel"]},
    "routes": [("POST", "/push", signed_in, add_browser), ("POST", "/push/off", signed_in, drop_browser),
               ("POST", "/quiet", signed_in, choose_quiet),
               ("POST", "/community/{id}/channel/{channel_id}/alert", in_channel, choose_level)],
    "components": [use_push],
    "posted-tx": posted_tx,
    "on_tx": on_tx,
    "queues": [{"id": "push", "consumer": send, "workers": 4, "may-be-cut": True}],
    "slots": {"you": "push/form.html", "menu": "push/menu.html", "state": "push/state.html",
              "dialogs": "push/level.html"},
    "page": page_values,
    "changes": [on_alert],
    "scripts": ["push.js"],
}
