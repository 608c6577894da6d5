"""Members: who is in a community, with which rights, and how they come to go.

A membership that ends becomes a "former" document with the same id, so that messages keep their author; the socket of
whoever had it goes with that transaction. A community never loses its last admin while others are in it: a function
inside the transaction looks at what it would leave behind.
"""
import datetime as dt
import uuid

from voluptuous import All, Length, Optional, Schema

import biff
from plugins.names import author_of
from plugins.places import (WHO_MAY, admin_about, app_page, community_admin, community_path, entity_of, in_community,
                            who_may)
from store import call, delete

REASON_CHARS_MAX = 500
SHOWN_MAX = 100                       # members on a page; others are on the next ones, or are searched for
BANS_MAX = 1_000                      # of a community

SCHEMA = {
    "former": Schema({                            # a membership that is over, under its id
        "xt/id": uuid.UUID,
        "former/user": uuid.UUID,
        "former/comm": uuid.UUID,
        "former/left-at": dt.datetime,
    }, required=True),
    "ban": Schema({
        "xt/id": uuid.UUID,
        "ban/user": uuid.UUID,
        "ban/comm": uuid.UUID,
        "ban/by": uuid.UUID,                      # the membership of the admin
        "ban/at": dt.datetime,
        Optional("ban/reason"): All(str, Length(1, REASON_CHARS_MAX)),
    }, required=True),
}

# ── The list ─────────────────────────────────────────────────────────────────────────────────────────────────


def members_page(ctx):
    query, begin = ctx["params"].get("q", "").strip(), ctx["params"].get("from", "")
    begin = int(begin) if begin.isascii() and begin.isdigit() and len(begin) < 6 else 0
    return app_page(ctx, "members/page.html", is_aside=True, bans=bans_of(ctx), reason_chars_max=REASON_CHARS_MAX,
                    **members_values(ctx, ctx["biff/db"], ctx["community"]["xt/id"], query, begin))


def members_values(ctx, db, community_id, query="", begin=0):
    """Admins first, then by name: SHOWN_MAX of those whose name has what is searched for, from the begin-th on."""
    matching = [id for *_, name, id in names_in(ctx, db, community_id) if query.casefold() in name]
    base, ids = f"/community/{community_id}/members", matching[begin:begin + SHOWN_MAX]

    def at(begin):
        return biff.url(base, **({"q": query} if query else {}), **({"from": begin} if begin else {}))
    return {"members": [member_of(db, id) for id in ids], "base": base, "query": query, "begin": begin,
            "earlier": at(max(0, begin - SHOWN_MAX)) if begin else None,
            "later": at(begin + SHOWN_MAX) if matching[begin + SHOWN_MAX:] else None}


def names_in(ctx, db, community_id):
    """All members as (False for an admin, name in lower case, id), in order, kept until one of these changes."""
    def found():
        mems = biff.lookup_all(db, "mem/comm", community_id, pattern=["xt/id", "mem/roles"])
        named = [("admin" not in mem["mem/roles"], author_of(db, mem["xt/id"]).name.casefold(), mem["xt/id"])
                 for mem in mems]
        return sorted(named, key=lambda one: (*one[:2], str(one[2])))
    return ctx["chat_kept"](ctx, db, ("names", community_id), found, lambda found: 300 * len(found))


def member_of(db, id):
    mem = db.entity(id)
    joined_at = mem.get("mem/joined-at") or first_time(db, mem["xt/id"])
    return mem | {"author": author_of(db, mem["xt/id"]), "is_admin": "admin" in mem["mem/roles"], "since": joined_at}


def first_time(db, id):
    """The time of a document's first put, for a membership that does not say when it began."""
    return db.history(id, documents=False)[0].valid_from


def bans_of(ctx):
    """For admins: whom this community has shut out, by whom and why."""
    if "admin" not in ctx["roles"]:
        return []
    db = ctx["biff/db"]
    return [ban | {"name": name_of(db, ban), "admin": author_of(db, ban["ban/by"]).name}
            for ban in biff.lookup_all(db, "ban/comm", ctx["community"]["xt/id"])]


def name_of(db, ban):
    former = biff.lookup_id(db, "former/user", ban["ban/user"], "former/comm", ban["ban/comm"])
    return author_of(db, former).name


# ── Roles ────────────────────────────────────────────────────────────────────────────────────────────────────


def other_member(ctx):
    """A rule: an admin, about a member of the same community."""
    return admin_about(ctx, "member", "mem_id", "mem/comm", "members")


async def new_role(ctx):
    roles = {"admin"} if ctx["params"].get("role") == "admin" else set()
    return await changed(ctx, [{"db/doc-type": "membership", "db/op": "update", "xt/id": ctx["member"]["xt/id"],
                                "mem/roles": roles}])


async def remove_member(ctx):
    return await changed(ctx, former_tx(ctx, ctx["member"]))


async def ban_member(ctx):
    """Removed, and no invitation brings them back until the ban is lifted."""
    mem, reason = ctx["member"], ctx["params"].get("reason", "").strip()[:REASON_CHARS_MAX]
    if mem["xt/id"] == ctx["mem"]["xt/id"]:
        return biff.error(ctx, 422, "You cannot ban yourself. You can leave the community.")
    ban = {"db/doc-type": "ban", "db.op/upsert": {"ban/user": mem["mem/user"], "ban/comm": mem["mem/comm"]},
           "ban/by": ctx["mem"]["xt/id"], "ban/at": biff.NOW} | ({"ban/reason": reason} if reason else {})
    return await changed(ctx, [*former_tx(ctx, mem), ban, biff.at_most(BANS_MAX, {"ban/comm": mem["mem/comm"]})])


async def lift_ban(ctx):
    ban = entity_of(ctx, ctx["params"]["ban_id"], "ban/comm")
    if ban and ban["ban/comm"] == ctx["community"]["xt/id"]:
        await biff.submit_tx(ctx, [*biff.unchanged(ctx, ctx["mem"]["xt/id"]), delete(ban["xt/id"])])
    return biff.redirect(ctx, members_path(ctx["community"]))


async def leave_community(ctx):
    ctx["member"] = ctx["mem"]
    return await changed(ctx, former_tx(ctx, ctx["mem"]), "/app")


async def changed(ctx, tx, path=None):
    """Does what changes the members, unless it would leave them without an admin."""
    community_id, own, other = ctx["community"]["xt/id"], ctx["mem"]["xt/id"], ctx["member"]["xt/id"]
    try:
        await biff.submit_tx(ctx, [*biff.unchanged(ctx, *{own, other}), *tx, call("keep-an-admin", community_id)])
    except biff.ConstraintError:
        return biff.error(ctx, 422, "The last admin cannot go. Make another member an admin first.")
    return biff.redirect(ctx, path or members_path(ctx["community"]))


def former_tx(ctx, mem):
    return [{"db/doc-type": "former", "xt/id": mem["xt/id"], "former/user": mem["mem/user"],
             "former/comm": mem["mem/comm"], "former/left-at": biff.NOW},
            *(call(name, mem["xt/id"]) for name in biff.parts(ctx, "leaving"))]


def keep_an_admin(ctx, community_id):
    """A transaction function: aborts if members would be left without an admin, whoever else changes them now."""
    roles = ctx.db.q({"find": ["?mem", "?role"], "in": ["?comm"], "where": [
        ["?mem", "mem/comm", "?comm"], [("get-attr", "?mem", "mem/roles"), ["?role", ...]]]}, community_id)
    is_empty = not ctx.db.q({"find": "?mem", "in": ["?comm"], "where": [["?mem", "mem/comm", "?comm"]], "limit": 1},
                            community_id)
    return None if is_empty or any(role == "admin" for _, role in roles) else False


def is_banned(db, uid, community_id):
    return biff.lookup_id(db, "ban/user", uid, "ban/comm", community_id) is not None


def members_path(community):
    return f"{community_path(community)}/members"


# ── On pages ─────────────────────────────────────────────────────────────────────────────────────────────────


def on_member(changes, id, old, new):
    """A person who comes, goes or gets a role changes the number of members, and their own rights."""
    for document in old, new:
        if document and "mem/comm" in document:
            changes.spoil("member count", document["mem/comm"])
            changes.spoil("names", document["mem/comm"])
            changes.touch(document["mem/comm"], "members")
        if document and "user/email" in document and (old or {}).get("user/name") != (new or {}).get("user/name"):
            for mem in biff.lookup_all(changes.db, "mem/user", id):
                changes.spoil("names", mem["mem/comm"])
                changes.touch(mem["mem/comm"], "members")
    if old and new and old.get("mem/roles") != new.get("mem/roles") and "mem/user" in new:
        changes.touch_person(new["mem/user"], "role")
    if old and new and "comm/title" in new and any(who_may(old, what) != who_may(new, what) for what in WHO_MAY):
        changes.touch_members(id, "role")


def members_part(ctx, db, place, about):
    """The number of members, and on the members' page their list. A changed name is told to that list here, too."""
    if "user/email" in place:
        return ""
    community_id = place.get("chan/comm", place["xt/id"])
    count = biff.fragment(ctx, "members/count.html", member_count=count_of(ctx, db, community_id), is_news=True)
    if "chan/comm" in place:
        return count
    return count + biff.fragment(ctx, "members/list.html", is_news=True,
                                  **members_values(ctx, db, community_id))


def count_of(ctx, db, community_id):
    return ctx["chat_kept"](ctx, db, ("member count", community_id),
                            lambda: len(biff.lookup_id_all(db, "mem/comm", community_id)))


def role_part(ctx, db, place, user, about):
    """The viewer's role. Every page holds the parts for admins; this tells the style sheet to show or hide them."""
    community_id = place.get("chan/comm", place["xt/id"])
    if (mem := biff.lookup(db, "mem/user", user["xt/id"], "mem/comm", community_id)) is None:
        return ""
    return biff.fragment(ctx, "members/role.html", mem=mem, community=db.entity(community_id), who_may=who_may,
                         is_news=True)


def page_values(ctx):
    return {"member_count": count_of(ctx, ctx["biff/db"], ctx["community"]["xt/id"])} if ctx.get("mem") else {}


MEMBERS = "/community/{id}/members"
PLUGIN = {
    "schema": SCHEMA,
    "tx-fns": {"keep-an-admin": keep_an_admin},
    "routes": [
        ("GET", MEMBERS, in_community, members_page),
        ("POST", MEMBERS + "/{mem_id}/role", other_member, new_role),
        ("POST", MEMBERS + "/{mem_id}/remove", other_member, remove_member),
        ("POST", MEMBERS + "/{mem_id}/ban", other_member, ban_member),
        ("POST", "/community/{id}/bans/{ban_id}/lift", community_admin, lift_ban),
        ("POST", "/community/{id}/leave", in_community, leave_community),
    ],
    "slots": {"head": "members/button.html"},
    "scripts": ["people.js"],
    "page": page_values,
    "changes": [on_member],
    "parts": {"members": members_part},
    "person-parts": {"role": role_part},
}
