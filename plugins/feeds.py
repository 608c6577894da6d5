"""Feeds: a channel posts what is new in an RSS, Atom or JSON feed.

A feed is fetched once for all channels that listen to it: each server tries to put off the feed's next time, which is
a match on the feed's document, and the server that succeeds fetches. What a channel has seen is decided inside the
transaction that posts.
"""
import asyncio
import contextlib
import datetime as dt
import functools
import itertools
import random
import re
import uuid

from voluptuous import Optional, Schema
from yarl import URL

import biff
from biff.door import DoorError
from plugins import feed_reader
from plugins.commands import Command, system_message
from store import delete

SUBSCRIPTIONS_MAX = 20                # of a channel; /list shows them all in one message
FEED_URL_CHARS_MAX = 450              # of a subscription: twenty of them fit into a message
SUBSCRIBES_A_PERSON = 20, 3_600       # in an hour: each makes us ask another server at once
FETCH_EVERY = dt.timedelta(minutes=30)
FETCH_LOOK_S = 300                    # how often we look for feeds that are due
FETCH_WORKERS = 4                     # as many as the door lets through at once
BACK_OFF_MAX = dt.timedelta(days=1)   # a feed that fails is asked after half an hour, an hour, two … then once a day
FAILURES_TOLD = 5                     # in a row: about eight hours
POSTS_MAX = 10                        # of a feed in one run; the rest waits for the next ones
WAITING_MAX = 200                     # of a feed that is always ahead of us
SEEN_MIN = 200                        # entries remembered of a feed, or twice as many as it ever had at once
IDS_OF_AN_ENTRY = 3                   # at most: its guid, its link, and all of it

SCHEMA = {
    "subscription": Schema({
        "xt/id": uuid.UUID,
        "sub/url": str,
        "sub/chan": uuid.UUID,
        Optional("sub/seen"): tuple,              # ids of entries; absent until the first fetch
        Optional("sub/most"): int,                # entries that the feed had at once; twice as many are remembered
        Optional("sub/waiting"): tuple,           # (id, text) of those seen, not yet posted: the feed may drop them
    }, required=True),
    "feed": Schema({
        "xt/id": uuid.UUID,
        "feed/url": str,
        "feed/due-at": dt.datetime,
        "feed/failures": int,                     # in a row
        Optional("feed/known"): dict,             # what to ask with next time: url, etag, last-modified
    }, required=True),
}


# ── Commands ─────────────────────────────────────────────────────────────────────────────────────────────────


async def address_refused(ctx, url):
    """Why this address cannot be subscribed to, as far as that depends on others than the store; None if it can."""
    if len(url) > FEED_URL_CHARS_MAX:
        return f"The address of a feed has at most {FEED_URL_CHARS_MAX} characters; this one has {len(url):,}."
    if not biff.is_allowed(ctx, (("subscribes", ctx["uid"]), *SUBSCRIBES_A_PERSON)):
        return f"One person subscribes at most {SUBSCRIBES_A_PERSON[0]} times an hour."
    try:
        await ctx["door"].check(url)
    except DoorError as refused:
        return str(refused)


def subscribe_command_tx(ctx, url):
    subs = subscriptions_of(ctx)
    url = canonical(url)
    if url not in subs and len(subs) >= SUBSCRIPTIONS_MAX:
        return [answer(ctx, f"A channel has at most {SUBSCRIPTIONS_MAX} subscriptions. "
                            "/unsubscribe from one that nobody reads.")]
    return [*(() if url in subs else subscribe_tx(ctx, url)), answer(ctx, f"Subscribed to {url}")]


def subscribe_tx(ctx, url):
    """A subscription, and its feed due now, whatever went wrong with it before."""
    return [{"db/doc-type": "subscription", "db.op/upsert": {"sub/url": url, "sub/chan": ctx["channel"]["xt/id"]}},
            biff.at_most(SUBSCRIPTIONS_MAX, {"sub/chan": ctx["channel"]["xt/id"]}),
            {"db/doc-type": "feed", "db.op/upsert": {"feed/url": url}, "feed/due-at": biff.NOW, "feed/failures": 0}]


def unsubscribe_command_tx(ctx, url):
    gone = [delete(id) for known, id in subscriptions_of(ctx).items() if canonical(known) == canonical(url)]
    told = "Unsubscribed from" if gone else "This channel is not subscribed to"
    return [*gone, answer(ctx, f"{told} {url[:FEED_URL_CHARS_MAX]}")]


def list_command_tx(ctx):
    urls = sorted(subscriptions_of(ctx))
    return [answer(ctx, "\n - ".join(["Subscriptions:", *urls]) if urls else "Subscriptions: none")]


def canonical(url):
    """The one spelling of an address: scheme and host in lower case, no default port, no fragment."""
    with contextlib.suppress(ValueError):
        return str(URL(url).with_fragment(None))
    return url


def subscriptions_of(ctx):
    """URL → id, of the channel's subscriptions."""
    subs = biff.lookup_all(ctx["biff/db"], "sub/chan", ctx["channel"]["xt/id"])
    return {sub["sub/url"]: sub["xt/id"] for sub in subs}


def answer(ctx, text):
    return system_message(ctx["channel"]["xt/id"], text)


ADDRESS = re.compile(r" (\S+)")
COMMANDS = {
    "subscribe": Command("/subscribe URL: what is new in an RSS, Atom or JSON feed is posted here (admins)",
                         subscribe_command_tx, ADDRESS, is_for_admins=True, refusal=address_refused),
    "unsubscribe": Command("/unsubscribe URL: and no more (admins)",
                           unsubscribe_command_tx, ADDRESS, is_for_admins=True),
    "list": Command("/list: what this channel is subscribed to", list_command_tx),
}

# ── Fetching ─────────────────────────────────────────────────────────────────────────────────────────────────


def on_new_subscription(ctx, tx):
    """A new subscription is fetched at once."""
    for op in tx.ops:
        if op[0] == "put" and "sub/url" in op[1] and ctx["biff/node"].db(tx.tx_id - 1).entity(op[1]["xt/id"]) is None:
            biff.submit_job(ctx, "fetch-rss", op[1]["sub/url"], priority=0)


async def fetch_rss(ctx):
    """Queues what is due. A full queue is no loss: what is due stays so until the next look."""
    for url in feeds_to_update(ctx):
        biff.submit_job(ctx, "fetch-rss", url)


def feeds_to_update(ctx):
    """The URLs to fetch by now, and those that nobody listens to any more."""
    wanted = set(biff.q(ctx["biff/db"], {"find": "?url", "where": [["?sub", "sub/url", "?url"]]}))
    known = {"find": "?url", "where": [["?feed", "feed/url", "?url"]]}
    waiting = known | {"in": ["?now"], "where": [
        *known["where"], ["?feed", "feed/due-at", "?at"], [(">", "?at", "?now")]]}
    return wanted - set(biff.q(ctx["biff/db"], waiting, biff.now(ctx))) | set(biff.q(ctx["biff/db"], known)) - wanted


TURNS: dict[str, dict] = {}           # host that is being asked → the jobs, by URL, that wait until it has answered


async def fetch_rss_consumer(ctx):
    """Fetches a feed. While its host is asked for another one, the job waits and the worker serves other hosts."""
    url = ctx["biff/job"]
    host = URL(url).host or ""
    if host in TURNS:
        TURNS[host][url] = ctx
        return
    TURNS[host] = {}
    try:
        await fetch_for_all(ctx, url)
    except asyncio.CancelledError:         # the server stops: the feed is due again at the next start
        await biff.submit_tx(ctx, functools.partial(due_tx, url=url))
        raise
    finally:
        for waiting, its_ctx in TURNS.pop(host).items():
            with contextlib.suppress(biff.QueueFullError):          # it stays due
                biff.submit_job(its_ctx, "fetch-rss", waiting)


async def fetch_for_all(ctx, url):
    """Fetches a feed once for all channels. After a failure the feed is due again at the usual time."""
    if await biff.submit_tx(ctx, functools.partial(claim_tx, url=url)) is None:
        return
    db = ctx["biff/node"].db()
    feed, subs = biff.lookup(db, "feed/url", url), biff.lookup_all(db, "sub/url", url)
    known = feed.get("feed/known") if feed and all("sub/seen" in sub for sub in subs) else None
    try:
        agent = f"eelchat (+{ctx['biff/base-url']})"
        fetched = await feed_reader.fetch(ctx["door"], url, known, agent) if subs else None
    except feed_reader.GoneError as end:
        return await biff.submit_tx(ctx, functools.partial(end_tx, url=url, why=str(end)))
    except (DoorError, feed_reader.FeedError) as failure:
        return await biff.submit_tx(ctx, functools.partial(failure_tx, url=url, failure=failure))
    entries = fetched.entries if fetched else []
    for sub in subs:
        await biff.submit_tx(ctx, functools.partial(sub_tx, sub_id=sub["xt/id"], entries=entries))
    await biff.submit_tx(ctx, functools.partial(feed_tx, url=url, fetched=fetched))
    if fetched and fetched.moved_to and canonical(fetched.moved_to) != url:
        await biff.submit_tx(ctx, functools.partial(move_tx, url=url, to=canonical(fetched.moved_to)))


def claim_tx(ctx, url):
    """Puts the feed's next time off, if it is due. A feed without a channel goes."""
    feed = biff.lookup(ctx["biff/db"], "feed/url", url)
    if biff.lookup_id(ctx["biff/db"], "sub/url", url) is None:
        return [*biff.unchanged(ctx, feed["xt/id"]), delete(feed["xt/id"])] if feed else []
    if feed and feed["feed/due-at"] > ctx["biff/now"]:
        return []
    return [{"db/doc-type": "feed", "db.op/upsert": {"feed/url": url}, "feed/failures": ("db/default", 0),
             "feed/due-at": next_time(ctx)}]


def due_tx(ctx, url):
    feed_id = biff.lookup_id(ctx["biff/db"], "feed/url", url)
    return [{"db/doc-type": "feed", "db/op": "update", "xt/id": feed_id, "feed/due-at": biff.NOW}] if feed_id else []


def next_time(ctx, failures=0):
    """In half an hour, give or take a tenth, so that not all are asked at once; twice as long after each failure."""
    return ctx["biff/now"] + min(BACK_OFF_MAX, FETCH_EVERY * 2 ** min(failures, 16)) * random.uniform(0.9, 1.1)


def failure_tx(ctx, url, failure):
    """Told to whoever has just subscribed and waits, and to all when it goes on."""
    feed = biff.lookup(ctx["biff/db"], "feed/url", url)
    if feed is None:
        return []
    failures = feed["feed/failures"] + 1
    told = [sub for sub in biff.lookup_all(ctx["biff/db"], "sub/url", url)
            if failures == FAILURES_TOLD or failures == 1 and "sub/seen" not in sub]
    times = f" {failures} times in a row" if failures > 1 else ""
    return [{"db/doc-type": "feed", "db/op": "update", "xt/id": feed["xt/id"], "feed/failures": failures,
             "feed/due-at": max(next_time(ctx, failures - 1), asked_to_wait(ctx, failure))},
            *(system_message(sub["sub/chan"], f"{url} could not be fetched{times}. {failure}") for sub in told)]


def asked_to_wait(ctx, failure):
    return ctx["biff/now"] + min(BACK_OFF_MAX, dt.timedelta(seconds=getattr(failure, "retry_after_s", 0)))


def end_tx(ctx, url, why):
    """A feed that has ended takes its subscriptions along; each channel is told."""
    feed_id, subs = biff.lookup_id(ctx["biff/db"], "feed/url", url), biff.lookup_all(ctx["biff/db"], "sub/url", url)
    gone = [feed_id] if feed_id else []
    return [*biff.unchanged(ctx, *gone, *(sub["xt/id"] for sub in subs)), *map(delete, gone),
            *itertools.chain(*((delete(sub["xt/id"]), system_message(sub["sub/chan"], f"Unsubscribed from {url} {why}"))
                               for sub in subs))]


def move_tx(ctx, url, to):
    """Subscriptions follow a permanent redirect. A channel that has the new address already keeps one of the two."""
    if len(to) > FEED_URL_CHARS_MAX:
        return []
    listening = set(biff.q(ctx["biff/db"], {"find": "?chan", "in": ["?to"], "where": [
        ["?sub", "sub/url", "?to"], ["?sub", "sub/chan", "?chan"]]}, to))
    subs = biff.lookup_all(ctx["biff/db"], "sub/url", url)
    moved = [{"db/doc-type": "subscription", "db/op": "update", "xt/id": sub["xt/id"], "sub/url": to}
             for sub in subs if sub["sub/chan"] not in listening]
    told = [system_message(sub["sub/chan"], f"{url} has moved to {to}") for sub in subs]
    return [*biff.unchanged(ctx, *(sub["xt/id"] for sub in subs)), *moved, *told,
            *(delete(sub["xt/id"]) for sub in subs if sub["sub/chan"] in listening),
            {"db/doc-type": "feed", "db.op/upsert": {"feed/url": to}, "feed/failures": ("db/default", 0),
             "feed/due-at": ("db/default", next_time(ctx))}]


def sub_tx(ctx, sub_id, entries):
    """Posts the entries that this channel has not seen, oldest first; the first fetch posts the newest only."""
    sub = ctx["biff/db"].entity(sub_id)
    if sub is None:
        return []
    new, waiting = unseen(ctx["biff/db"], sub, entries), sub.get("sub/waiting", ())
    most = max(sub.get("sub/most", 0), len(entries))
    if "sub/seen" in sub and not new and not waiting and most == sub.get("sub/most"):
        return []
    new = new[:max(0, WAITING_MAX - len(waiting))]
    line = [*waiting, *((entry.id, feed_reader.told(entry)) for entry in new)]
    return [{"db/doc-type": "subscription", "db/op": "update", "xt/id": sub_id, "sub/most": most,
             "sub/seen": seen_after(ctx["biff/db"], sub, entries, new)[:IDS_OF_AN_ENTRY * max(SEEN_MIN, 2 * most)],
             "sub/waiting": tuple(line[POSTS_MAX:]) or biff.DISSOC},
            *(system_message(sub["sub/chan"], text) | {"xt/id": message_id(sub_id, id)}
              for id, text in line[:POSTS_MAX])]


def message_id(sub_id, entry_id):
    """An entry of a subscription is always the same message, so the history knows whether it was posted."""
    return uuid.uuid5(sub_id, entry_id)


def unseen(db, sub, entries):
    """The entries to post: of the first fetch the newest, later those that neither `sub/seen` nor the history knows."""
    if "sub/seen" not in sub:
        return entries[-1:]
    known = {*sub["sub/seen"], *(id for id, _ in sub.get("sub/waiting", ()))}
    return [entry for entry in entries if entry.id not in known and not was_posted(db, sub, entry)]


def was_posted(db, sub, entry):
    return any(db.history(message_id(sub["xt/id"], id), documents=False) for id in (entry.id, *entry.other_ids))


def seen_after(db, sub, entries, new):
    """The ids to remember: first those in the feed now, then older ones. The first time all count as seen."""
    posted = {entry.id for entry in new}
    held_back = {entry.id for entry in unseen(db, sub, entries)} - posted if "sub/seen" in sub else ()
    now = itertools.chain(*((entry.id, *entry.other_ids) for entry in entries if entry.id not in held_back))
    return tuple(dict.fromkeys([*now, *sub.get("sub/seen", ())]))


def feed_tx(ctx, url, fetched):
    """Remembers what to ask with next time, unless more is new than can wait: the feed would not send it again."""
    feed = biff.lookup(ctx["biff/db"], "feed/url", url)
    if feed is None or fetched is None and not feed["feed/failures"]:
        return []
    known = feed.get("feed/known") if fetched is None else fetched.known
    subs = biff.lookup_all(ctx["biff/db"], "sub/url", url)
    if fetched and any(unseen(ctx["biff/db"], sub, fetched.entries) for sub in subs):
        known = None
    return [{"db/doc-type": "feed", "db/op": "update", "xt/id": feed["xt/id"], "feed/failures": 0,
             "feed/known": known or biff.DISSOC}]


PLUGIN = {
    "schema": SCHEMA,
    "goes-with": {"channel": ["sub/chan"]},
    "commands": COMMANDS,
    "on_tx": on_new_subscription,
    "queues": [{"id": "fetch-rss", "consumer": fetch_rss_consumer, "workers": FETCH_WORKERS,
                "may-be-cut": True}],
    "tasks": [{"task": fetch_rss, "schedule": biff.every(FETCH_LOOK_S)}],
}
