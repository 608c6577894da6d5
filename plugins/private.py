"""Private channels, and direct messages between a few people: only the people in them see that they exist.

A private channel carries the set of its people, by their memberships. One rule says who may read a channel,
`places.may_read`, and it asks for that set in the newest snapshot: the socket of a person who is removed closes with
that transaction, and an admin who is not in a channel is a stranger there. A direct message is a private channel that
carries the key of its people, which is unique, in the place of a title: each of them sees the names of the others.
"""
import contextlib
import functools
import uuid

from voluptuous import Optional, Schema

import biff
from plugins.changes import channel_of
from plugins.members import names_in
from plugins.names import author_of
from plugins.places import (app_page, by_title, channel_path, community_path, in_channel, in_community, is_direct,
                            is_private, may_read, mem_in, people_in, private_channels_kept, private_channels_of,
                            sweep_mark)
from store import call, delete, put

DIRECT_PEOPLE_MAX = 8                 # of a direct message; more people want a channel with a title
PRIVATE_PEOPLE_MAX = 200              # of a private channel; its page lists them all
STARTED_MAX = 200                     # private channels and direct messages that one person has opened
HELD_MAX = 500                        # that one person is in; their pages list them all
SHOWN_MAX = 40                        # members to choose from, fewer than a form has fields; a search finds the others

SCHEMA = {
    "hiding": Schema({                                        # a direct message is in its member's list no more,
        "xt/id": str,                                         # until something follows what was the last then
        "hide/mem": uuid.UUID,
        "hide/channel": uuid.UUID,
        "hide/upto": uuid.UUID,                               # a message; the channel itself, if it had none
    }, required=True),
}
EXTENDS = {
    "channel": {Optional("chan/mems"): {uuid.UUID},           # only these memberships see that it exists
                Optional("chan/maker"): uuid.UUID,
                Optional("chan/set"): str},                   # of a direct message: the key of its people
}

# ── What a person sees of them ───────────────────────────────────────────────────────────────────────────────


def lists_of(ctx, db, mem_id):
    """The private channels and the direct messages of a member, each by title."""
    channels = private_channels_kept(ctx, db, mem_id)
    hidden = hidden_from(db, mem_id) if any(map(is_direct, channels)) else ()
    shown = [one for one in channels if one["xt/id"] not in hidden]
    found = sorted((as_seen(db, one, mem_id) for one in shown), key=by_title("chan/title"))
    return {"privates": [one for one in found if not is_direct(one)], "directs": list(filter(is_direct, found))}


def hidden_from(db, mem_id):
    """The direct messages that a member has hidden, and in which nothing was said since."""
    hidings = biff.lookup_all(db, "hide/mem", mem_id)
    newer = {"find": "?m", "in": ["?c", "?upto"], "limit": 1,
             "where": [["?m", "msg/channel", "?c"], [("created-after", "?m", "?upto")]]}
    return {one["hide/channel"] for one in hidings if not db.q(newer, one["hide/channel"], one["hide/upto"])}


def as_seen(db, channel, mem_id):
    """A private channel as one of its people sees it: a direct message has the names of the others for a title."""
    if not is_direct(channel):
        return channel
    others = sorted((author_of(db, one) for one in channel["chan/mems"] - {mem_id}),
                    key=lambda author: (author.name.casefold(), author))
    return channel | {"chan/title": ", ".join(author.name for author in others), "faces": others,
                      "with": sorted(channel["chan/mems"] - {mem_id}, key=str)}


def people_of(db, channel, mem):
    """The people in a private channel, by name; `is_keeper` is True if this member may remove others."""
    found = [{"id": id, "author": author_of(db, id), "is_maker": id == channel.get("chan/maker")}
             for id in channel["chan/mems"] if "mem/user" in (db.entity(id) or {})]
    return {"seats": sorted(found, key=lambda one: (one["author"].name.casefold(), str(one["id"]))),
            "is_keeper": is_keeper(channel, mem), "my_id": mem["xt/id"]}


def is_keeper(channel, mem):
    return channel.get("chan/maker") == mem["xt/id"] or "admin" in mem["mem/roles"]


# ── Who may ──────────────────────────────────────────────────────────────────────────────────────────────────


def in_private(ctx):
    """The people in a private channel that has a title: the people of a direct message stay the same for good."""
    if refusal := in_channel(ctx):
        return refusal
    if not is_private(ctx["channel"]) or is_direct(ctx["channel"]):
        return biff.redirect(ctx, channel_path(ctx["channel"]))


def in_direct(ctx):
    """The people in a direct message."""
    if refusal := in_channel(ctx):
        return refusal
    if not is_direct(ctx["channel"]):
        return biff.redirect(ctx, channel_path(ctx["channel"]))


def keeper(ctx):
    """Its maker, and an admin who is in it."""
    if refusal := in_private(ctx):
        return refusal
    if not is_keeper(ctx["channel"], ctx["mem"]):
        return biff.error(ctx, 403, "Only the maker of a private channel, or an admin who is in it, may remove others.")


# ── Direct messages ──────────────────────────────────────────────────────────────────────────────────────────


def direct_page(ctx):
    """Members to choose from."""
    path = f"{community_path(ctx['community'])}/direct"
    return app_page(ctx, "private/direct.html", people_max=DIRECT_PEOPLE_MAX - 1, action=path, find=path,
                    **picked(ctx, {ctx["mem"]["xt/id"]}))


def picked(ctx, without):
    """The members whom the form has chosen, then others whose name has what is searched for."""
    db, query = ctx["biff/db"], ctx["params"].get("q", "").strip()
    chosen, names = chosen_in(ctx), names_in(ctx, db, ctx["community"]["xt/id"])
    found = sorted((id not in chosen, name, str(id), id) for _, name, id in names
                   if id not in without and (id in chosen or query.casefold() in name))
    shown = [{"id": id, "author": author_of(db, id), "is_chosen": id in chosen} for *_, id in found[:SHOWN_MAX]]
    return {"found": shown, "more": max(0, len(found) - SHOWN_MAX), "query": query}


def chosen_in(ctx):
    """The members of this community whom the fields `with-ID` of a form name."""
    ids = set()
    for field in ctx["params"]:
        with contextlib.suppress(ValueError):
            ids |= {uuid.UUID(field[5:])} if field.startswith("with-") else set()
    comm = ctx["community"]["xt/id"]
    return {id for id in ids if (ctx["biff/db"].entity(id) or {}).get("mem/comm") == comm}


async def new_direct(ctx):
    """The direct message of these people: the one that there is, else a new one."""
    mems = chosen_in(ctx) | {ctx["mem"]["xt/id"]}
    if not 2 <= len(mems) <= DIRECT_PEOPLE_MAX:
        return biff.error(ctx, 422, f"A direct message has 2 to {DIRECT_PEOPLE_MAX} people, you among them. "
                                    "For more people, open a private channel.")
    id = direct_of(ctx["biff/db"], mems)
    if id and ctx["biff/db"].entity(hiding_id(ctx["mem"]["xt/id"], id)):
        await biff.submit_tx(ctx, [delete(hiding_id(ctx["mem"]["xt/id"], id))])
    if id is None:
        try:
            await biff.submit_tx(ctx, functools.partial(direct_tx, mems=mems))
        except biff.ConstraintError:
            return too_many(ctx)
        id = direct_of(ctx["biff/node"].db(), mems)
    return biff.redirect(ctx, f"{community_path(ctx['community'])}/channel/{id}" if id else "/app")


async def hide_direct(ctx):
    """Hides a direct message from this person's list until the next message, or until they open it anew."""
    db, mem, channel_id = ctx["biff/db"], ctx["mem"]["xt/id"], ctx["channel"]["xt/id"]
    newest = db.q({"find": "?m", "in": ["?c"], "where": [["?m", "msg/channel", "?c"]], "limit": 1,
                   "order-by": [[("created", "?m"), "desc"]]}, channel_id)
    await biff.submit_tx(ctx, [*biff.unchanged(ctx, mem), {
        "db/doc-type": "hiding", "xt/id": hiding_id(mem, channel_id), "hide/mem": mem, "hide/channel": channel_id,
        "hide/upto": newest[0] if newest else channel_id}])
    return biff.redirect(ctx, community_path(ctx["community"]))


def hiding_id(mem_id, channel_id):
    return f"hiding {mem_id} {channel_id}"


def direct_of(db, mems):
    return biff.lookup_id(db, "chan/set", key_of(mems))


def key_of(mems):
    return " ".join(sorted(map(str, mems)))


def direct_tx(ctx, mems):
    """The new conversation; no operations if one of them has left. Its key is unique, so two who begin at once meet."""
    if in_community(ctx) or chosen_in(ctx) | {ctx["mem"]["xt/id"]} != mems:
        return []
    return [*biff.unchanged(ctx, *mems),
            {"db/doc-type": "channel", "db.op/upsert": {"chan/set": key_of(mems)}, "chan/title": "", "chan/mems": mems,
             "chan/comm": ctx["community"]["xt/id"], "chan/maker": ("db/default", ctx["mem"]["xt/id"])},
            *limits(ctx["mem"], mems)]


def limits(maker, mems):
    return [biff.at_most(STARTED_MAX, {"chan/maker": maker["xt/id"]}),
            *(biff.at_most(HELD_MAX, {"chan/mems": mem_id}) for mem_id in sorted(mems, key=str))]


def too_many(ctx):
    return biff.error(ctx, 422, f"One person opens at most {STARTED_MAX} private channels and direct messages, "
                                f"and is in at most {HELD_MAX}. Leave a channel that you do not need.")


# ── Private channels ─────────────────────────────────────────────────────────────────────────────────────────


def private_values(mem):
    """The operations that make a new channel a private one, with its maker in it."""
    return {"chan/mems": {mem["xt/id"]}, "chan/maker": mem["xt/id"]}


def people_page(ctx):
    if refusal := in_private(ctx):
        return refusal
    count = {"find": ("count", "?m"), "in": ["?c"], "where": [["?m", "msg/channel", "?c"]]}
    is_last, messages = len(ctx["channel"]["chan/mems"]) == 1, ctx["biff/db"].q(count, ctx["channel"]["xt/id"])
    path = channel_path(ctx["channel"])
    return app_page(ctx, "private/people.html", live_path=path, action=f"{path}/people", find=path, is_last=is_last,
                    message_count=sum(messages), **picked(ctx, ctx["channel"]["chan/mems"]))


async def add_people(ctx):
    try:
        await biff.submit_tx(ctx, add_tx)
    except biff.ConstraintError:
        return too_many(ctx)
    if len(ctx["channel"]["chan/mems"] | chosen_in(ctx)) > PRIVATE_PEOPLE_MAX:
        return biff.error(ctx, 422, f"A private channel has at most {PRIVATE_PEOPLE_MAX} people.")
    return biff.redirect(ctx, people_path(ctx["channel"]))


def add_tx(ctx):
    """Made anew for each attempt: nothing if the right is gone, or if they would be too many."""
    if in_private(ctx):
        return []
    channel, chosen = ctx["channel"], chosen_in(ctx) - ctx["channel"]["chan/mems"]
    if not chosen or len(channel["chan/mems"] | chosen) > PRIVATE_PEOPLE_MAX:
        return []
    return [*biff.unchanged(ctx, ctx["mem"]["xt/id"], *chosen),
            {"db/doc-type": "channel", "db/op": "update", "xt/id": channel["xt/id"],
             "chan/mems": channel["chan/mems"] | chosen},
            *(biff.at_most(HELD_MAX, {"chan/mems": mem_id}) for mem_id in sorted(chosen, key=str))]


async def remove_person(ctx):
    await biff.submit_tx(ctx, remove_tx)
    return biff.redirect(ctx, people_path(ctx["channel"]))


def remove_tx(ctx):
    with contextlib.suppress(ValueError):
        if not keeper(ctx) and (mem_id := uuid.UUID(ctx["params"]["mem_id"])) in ctx["channel"]["chan/mems"]:
            return [*biff.unchanged(ctx, ctx["mem"]["xt/id"], ctx["channel"]["xt/id"]),
                    call("leave-private", mem_id, ctx["channel"]["xt/id"])]
    return []


async def leave_channel(ctx):
    """The last person who leaves takes the channel along."""
    await biff.submit_tx(ctx, [*biff.unchanged(ctx, ctx["mem"]["xt/id"]),
                               call("leave-private", ctx["mem"]["xt/id"], ctx["channel"]["xt/id"])])
    with contextlib.suppress(biff.QueueFullError):         # else the look for what is left finds it
        biff.submit_job(ctx, "sweep", ctx["channel"]["xt/id"])
    return biff.redirect(ctx, community_path(ctx["community"]))


def leave_private(ctx, mem_id, channel_id=None):
    """A transaction function: a member leaves one private channel; without an id all, with the community.

    A channel that nobody is left to read goes. The people of a direct message stay its people: it keeps its title.
    """
    ops = []
    for channel in private_channels_of(ctx.db, mem_id):
        others, id = channel["chan/mems"] - {mem_id}, channel["xt/id"]
        if channel_id not in (None, id):
            continue
        if not any("mem/user" in (ctx.db.entity(other) or {}) for other in others):
            ops += [delete(id), put({"xt/id": sweep_mark(id), "sweep/channel": id})]
        elif not is_direct(channel):
            ops.append(put(channel | {"chan/mems": others}))
    return ops


def people_path(channel):
    return f"{channel_path(channel)}?people"


# ── On pages ─────────────────────────────────────────────────────────────────────────────────────────────────


def on_private(changes, id, old, new):
    """A private channel that changes is told to the people in it alone, and so are the names that it is called by."""
    db, old, new = changes.db, old or {}, new or {}
    for channel in old, new:
        if is_private(channel):
            touch(changes, channel)
            for mem_id in channel.get("chan/mems", ()):
                changes.spoil("privates", mem_id)
    for mem_id in {document["hide/mem"] for document in (old, new) if "hide/mem" in document}:
        touch_person(changes, mem_id)
    for channel_id in {channel_of(old), channel_of(new)} - {None}:
        if is_direct(channel := changes.place(channel_id) or {}):
            changes.later(channel["chan/comm"], touch_those_who_hide, channel_id)
    if old.get("user/name") != new.get("user/name"):
        for attribute in "mem/user", "former/user":
            for mem_id in biff.lookup_id_all(db, attribute, id):
                touch_all(changes, mem_id)
    if any(old.get(attribute) != new.get(attribute) for attribute in ("mem/user", "former/user")):
        touch_all(changes, id)


def touch_those_who_hide(changes, channel_id):
    for hiding in biff.lookup_all(changes.db, "hide/channel", channel_id):
        touch_person(changes, hiding["hide/mem"])


def touch_person(changes, mem_id):
    if person := (changes.db.entity(mem_id) or {}).get("mem/user"):
        changes.touch_person(person, "private")


def touch_all(changes, mem_id):
    for channel in private_channels_of(changes.db, mem_id):
        touch(changes, channel)


def touch(changes, channel):
    for person in people_in(changes.db, channel):
        changes.touch_person(person, "private")


def private_part(ctx, db, place, user, about):
    """The lists of a member's private channels and direct messages, and what stands around the one that is open."""
    community_id = place.get("chan/comm") or ("comm/title" in place and place["xt/id"])
    mem = mem_in(db, user["xt/id"], community_id) if community_id else None
    if mem is None:
        return ""
    return biff.fragment(ctx, "private/news.html", path_of=channel_path, is_news=True,
                         **values_of(ctx, db, mem, place if "chan/comm" in place else None))


def page_values(ctx):
    if not ctx.get("mem"):
        return {"is_private": False, "is_direct": False}
    return values_of(ctx, ctx["biff/db"], ctx["mem"], ctx.get("channel"))


def values_of(ctx, db, mem, channel):
    shown = channel and is_private(channel) and may_read(channel, mem["xt/id"])
    return {**lists_of(ctx, db, mem["xt/id"]), "channel": as_seen(db, channel, mem["xt/id"]) if shown else channel,
            "is_private": bool(shown), "is_direct": bool(shown and is_direct(channel)),
            **(people_of(db, channel, mem) if shown else {})}


CHANNEL = "/community/{id}/channel/{channel_id}"
PLUGIN = {
    "schema": SCHEMA, "extends": EXTENDS,
    "goes-with": {"channel": ["hide/channel"]},
    "tx-fns": {"leave-private": leave_private},
    "routes": [
        ("GET", "/community/{id}/direct", in_community, direct_page),
        ("POST", "/community/{id}/direct", in_community, new_direct),
        ("GET", CHANNEL + "/people", in_private, lambda ctx: biff.redirect(ctx, people_path(ctx["channel"]))),
        ("POST", CHANNEL + "/people", in_private, add_people),
        ("POST", CHANNEL + "/people/{mem_id}/remove", keeper, remove_person),
        ("POST", CHANNEL + "/leave", in_private, leave_channel),
        ("POST", CHANNEL + "/hide", in_direct, hide_direct),
    ],
    "leaving": ["leave-private"],
    "slots": {"sidebar": "private/sidebar.html", "head": "private/head.html", "pick": "private/pick.html",
              "menu": "private/menu.html"},
    "views": {"people": people_page},
    "page": page_values,
    "changes": [on_private],
    "person-parts": {"private": private_part},
}
