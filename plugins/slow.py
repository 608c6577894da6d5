"""Slow mode: in a channel where an admin has set it, each member posts at most once in so many seconds.

Admins post as they like; in a private channel so does its maker, who may set it there. The time of the last post is a
document for each member and channel, put by a function inside the message's transaction: if two servers take a message
at once, one of them refuses it. It costs the same in a channel of a million messages, and a deleted message counts as
posted.
"""
import datetime as dt
import math
import uuid

from voluptuous import In, Optional, Schema

import biff
from plugins.places import Refused, is_direct
from plugins.private import is_keeper
from store import call, put

CHOICES = {0: "As often as one likes", 5: "Once in 5 seconds", 30: "Once in 30 seconds", 60: "Once in a minute",
           300: "Once in 5 minutes", 3600: "Once in an hour"}
IN_WORDS = {5: "5 seconds", 30: "30 seconds", 60: "a minute", 300: "5 minutes", 3600: "an hour"}


def words(slow_s):
    return IN_WORDS.get(slow_s, f"{slow_s} seconds")


def slow_id(mem_id, channel_id):
    return f"slow {mem_id} {channel_id}"


def is_exempt(ctx):
    return is_direct(ctx["channel"]) or is_keeper(ctx["channel"], ctx["mem"])


# ── Setting it ───────────────────────────────────────────────────────────────────────────────────────────────


def channel_values(ctx):
    """The value from the form of a channel; nothing if the sender may not set it."""
    seconds = ctx["params"].get("slow", "")
    if is_direct(ctx["channel"]) or not is_exempt(ctx) or seconds not in map(str, CHOICES):
        return {}
    return {"chan/slow-s": int(seconds) or biff.DISSOC}


# ── Posting ──────────────────────────────────────────────────────────────────────────────────────────────────


def posted_tx(ctx, message):
    """Raises: Refused, with the seconds that are left."""
    slow_s, mem_id, channel_id = ctx["channel"].get("chan/slow-s"), ctx["mem"]["xt/id"], ctx["channel"]["xt/id"]
    if slow_s is None or is_exempt(ctx):
        return []
    if again_s := wait_s(ctx["biff/db"], mem_id, channel_id, slow_s, biff.now(ctx)):
        raise Refused(429, f"In this channel each member posts once in {words(slow_s)}. "
                           f"Send it again in {again_s} {'second' if again_s == 1 else 'seconds'}.", again_s)
    return [call("slow", mem_id, channel_id, slow_s)]


def wait_s(db, mem_id, channel_id, slow_s, now):
    """The whole seconds until this member may post again; 0 for now."""
    last = db.entity(slow_id(mem_id, channel_id))
    left = last["slow/at"] + dt.timedelta(seconds=slow_s) - now if last else dt.timedelta()
    return max(0, min(slow_s, math.ceil(left.total_seconds())))


def slow_fn(ctx, mem_id, channel_id, slow_s):
    """A transaction function: the post counts if the last one is long enough ago when it is recorded."""
    if wait_s(ctx.db, mem_id, channel_id, slow_s, ctx.tx_time):
        return False
    return [put({"xt/id": slow_id(mem_id, channel_id), "slow/mem": mem_id, "slow/channel": channel_id,
                 "slow/at": ctx.tx_time})]


# ── On pages ─────────────────────────────────────────────────────────────────────────────────────────────────


def on_channel(changes, id, old, new):
    if new and "chan/comm" in new and (old or {}).get("chan/slow-s") != new.get("chan/slow-s"):
        changes.touch(id, "slow")


def slow_part(ctx, db, place, about):
    """The line about slow mode above the box of a channel."""
    return biff.fragment(ctx, "slow/state.html", is_news=True, **values_of(place)) if "chan/comm" in place else ""


def values_of(channel):
    slow_s = (channel or {}).get("chan/slow-s", 0)
    return {"slow_s": slow_s, "slow_words": words(slow_s)}


PLUGIN = {
    "schema": {"slow": Schema({"xt/id": str, "slow/mem": uuid.UUID, "slow/channel": uuid.UUID,
                               "slow/at": dt.datetime}, required=True)},
    "extends": {"channel": {Optional("chan/slow-s"): In(sorted(CHOICES)[1:])}},
    "goes-with": {"channel": ["slow/channel"]},
    "tx-fns": {"slow": slow_fn},
    "channel-values": channel_values,
    "posted-tx": posted_tx,
    "slots": {"channel-form": "slow/form.html", "above-compose": "slow/state.html"},
    "page": lambda ctx: {"slow_choices": CHOICES, **values_of(ctx.get("channel"))},
    "changes": [on_channel],
    "parts": {"slow": slow_part},
}
