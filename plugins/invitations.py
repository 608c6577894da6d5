"""Invitations: a link brings people into a community, for as long and as often as its maker said.

An invitation is a document. Its link carries the document's id and a code that only this server can make, so that
nobody who reads the store or guesses an id can use it. What it may do is asked from the newest snapshot inside the
transaction that joins; the membership names the invitation that it came by.
"""
import base64
import datetime as dt
import hmac
import uuid

import markupsafe
import segno
from voluptuous import Optional, Schema

import biff
from plugins import places
from plugins.members import is_banned
from plugins.names import NAME_CHARS_MAX, alike, author_of, name_op, tidy
from plugins.places import (app_page, channel_path, channels_in, community_path, entity_of, in_community, inviter,
                            signed_in, user_of)
from store import delete

ENDS = {"day": dt.timedelta(days=1), "week": dt.timedelta(weeks=1), "never": None}
USES = 1, 5, 25, 100, None            # None: any number
INVITATIONS_MAX = 50                  # of a community; its page lists them
GUESTS_SHOWN = 20                     # of those who came by an invitation
PROOF_BYTES = 16                      # beside the id; so long a code is masked in the log, as tokens are

SCHEMA = {
    "invitation": Schema({
        "xt/id": uuid.UUID,
        "inv/comm": uuid.UUID,
        "inv/mem": uuid.UUID,                     # who made it
        "inv/made-at": dt.datetime,
        "inv/used": int,
        Optional("inv/uses-max"): int,
        Optional("inv/ends-at"): dt.datetime,
        Optional("inv/chan"): uuid.UUID,          # where those who come by it land
    }, required=True),
}
EXTENDS = {
    "membership": {Optional("mem/invitation"): uuid.UUID, Optional("mem/joined-at"): dt.datetime},
}

# ── The link ─────────────────────────────────────────────────────────────────────────────────────────────────


def link_of(ctx, invitation_id):
    return f"{ctx['biff/base-url']}{path_of(ctx, invitation_id)}"


def path_of(ctx, invitation_id):
    return f"/invite/{code_of(ctx, invitation_id)}"


def code_of(ctx, invitation_id):
    """The id and what proves that this server made the link, in 43 characters."""
    proof = bytes.fromhex(biff.hmac_of(ctx, "invitation", str(invitation_id)))[:PROOF_BYTES]
    return base64.urlsafe_b64encode(invitation_id.bytes + proof).decode().rstrip("=")


def invitation_of(ctx, code):
    """The invitation that a link names, with its community, while both are there; else None."""
    try:
        id = uuid.UUID(bytes=base64.urlsafe_b64decode(code[:24])[:16])
    except ValueError:
        return None
    if not hmac.compare_digest(code.encode("utf-8", "replace"), code_of(ctx, id).encode()):
        return None
    invitation = ctx["biff/db"].entity(id)
    community = ctx["biff/db"].entity(invitation["inv/comm"]) if invitation and "inv/comm" in invitation else None
    return (invitation, community) if community and "comm/title" in community else None


def is_open(ctx, invitation):
    """True if somebody can still come by it: it has not ended, is not used up, and its maker is still a member."""
    ends_at, uses_max = invitation.get("inv/ends-at"), invitation.get("inv/uses-max")
    maker = ctx["biff/db"].entity(invitation["inv/mem"]) or {}
    return ((ends_at is None or biff.now(ctx) < ends_at) and (uses_max is None or invitation["inv/used"] < uses_max)
            and maker.get("mem/comm") == invitation["inv/comm"])


# ── Being invited ────────────────────────────────────────────────────────────────────────────────────────────


def invitation_page(ctx):
    """For visitors too: who invites, where, and how many are there already."""
    found = invitation_of(ctx, ctx["params"]["code"])
    if found is None or not is_open(ctx, found[0]):
        return biff.render(ctx, "invitations/ended.html", 404)
    invitation, community = found
    if ctx["uid"] and is_member(ctx["biff/db"], ctx["uid"], community["xt/id"]):
        return biff.redirect(ctx, landing(ctx["biff/db"], invitation))
    return biff.render(ctx, "invitations/invitation.html", community=community, path=ctx["request"].path,
                       name_chars_max=NAME_CHARS_MAX, user=user_of(ctx) or {},
                       inviter=author_of(ctx["biff/db"], invitation["inv/mem"]),
                       count=len(biff.lookup_id_all(ctx["biff/db"], "mem/comm", community["xt/id"])))


async def join_community(ctx):
    found = invitation_of(ctx, ctx["params"]["code"])
    if found is None:
        return biff.render(ctx, "invitations/ended.html", 404)
    name = tidy(ctx["params"].get("name", ""))
    is_named = 0 < len(name) <= NAME_CHARS_MAX and not ctx["user"].get("user/name")
    try:
        await biff.submit_tx(ctx, lambda ctx: [*join_tx(ctx, found[0]["xt/id"]), *([name_op(ctx, name)] * is_named)])
    except biff.ConstraintError:
        return biff.error(ctx, 422, f"A community has at most {places.MEMBERS_MAX:,} members, "
                                    f"and one person is in at most {places.MEMBERSHIPS_MAX} communities.")
    db = ctx["biff/node"].db()
    if not is_member(db, ctx["uid"], found[0]["inv/comm"]):
        return biff.render(ctx, "invitations/ended.html", 404)
    path = landing(db, found[0])
    if alike(db, db.entity(ctx["uid"])):                   # they are told, and go on from there
        path = biff.url("/name", saved="", **{"return-to": path})
    return biff.redirect(ctx, path)


def join_tx(ctx, invitation_id):
    """The joining; no operations if the invitation is over by now, or this person is a member already."""
    db, invitation = ctx["biff/db"], ctx["biff/db"].entity(invitation_id)
    if invitation is None or not is_open(ctx, invitation):
        return []
    place = {"mem/user": ctx["uid"], "mem/comm": invitation["inv/comm"]}
    if is_member(db, *place.values()) or is_banned(db, *place.values()):
        return []
    return [{"db/doc-type": "membership", "db.op/upsert": place, "mem/roles": set(), "mem/joined-at": biff.NOW,
             "mem/invitation": invitation_id},
            {"db/doc-type": "invitation", "db/op": "update", "xt/id": invitation_id, "inv/used": ("db/add", 1)},
            *biff.unchanged(ctx, invitation["inv/comm"], invitation["inv/mem"]),
            biff.at_most(places.MEMBERS_MAX, {"mem/comm": invitation["inv/comm"]}),
            biff.at_most(places.MEMBERSHIPS_MAX, {"mem/user": ctx["uid"]})]


def is_member(db, uid, community_id):
    return biff.lookup_id(db, "mem/user", uid, "mem/comm", community_id) is not None


def landing(db, invitation):
    """The channel that the invitation names, else the community's first; its own page if there is none."""
    channels = channels_in(db, invitation["inv/comm"])
    named = [channel for channel in channels if channel["xt/id"] == invitation.get("inv/chan")]
    return channel_path((named or channels)[0]) if channels else f"/community/{invitation['inv/comm']}"


def public_channel(db, community_id, text):
    """The channel with this id, if every member sees it."""
    return next((one for one in channels_in(db, community_id) if str(one["xt/id"]) == text), None)


# ── Inviting ─────────────────────────────────────────────────────────────────────────────────────────────────


def invitations_page(ctx):
    return app_page(ctx, "invitations/page.html", invitations=shown(ctx), ends=ENDS, uses=USES, is_aside=True)


def shown(ctx):
    """The invitations that this person sees, newest first: an admin all of them, others their own."""
    found = sorted(biff.lookup_all(ctx["biff/db"], "inv/comm", ctx["community"]["xt/id"]),
                   key=lambda invitation: invitation["inv/made-at"], reverse=True)
    return [view(ctx, one) for one in found if may_revoke(ctx, one)]


def view(ctx, invitation):
    db, link = ctx["biff/db"], link_of(ctx, invitation["xt/id"])
    guests = biff.lookup_id_all(db, "mem/invitation", invitation["xt/id"])
    channel = public_channel(db, invitation["inv/comm"], str(invitation.get("inv/chan")))
    return invitation | {"link": link, "is_open": is_open(ctx, invitation), "qr": qr_of(link), "channel": channel,
                         "maker": author_of(db, invitation["inv/mem"]),
                         "guests": [author_of(db, id).name for id in guests[:GUESTS_SHOWN]],
                         "more": max(0, len(guests) - GUESTS_SHOWN)}


def qr_of(link):
    """The link as a picture that a phone's camera reads, in SVG."""
    code = segno.make(link, error="m", micro=False)
    svg = code.svg_inline(scale=4, border=4, dark="#000", light="#fff", svgclass="qr", lineclass=None)
    return markupsafe.Markup(svg)


def may_revoke(ctx, invitation):
    return "admin" in ctx["roles"] or invitation["inv/mem"] == ctx["mem"]["xt/id"]


async def new_invitation(ctx):
    """Makes an invitation; those that are over make room for it."""
    params, community_id = ctx["params"], ctx["community"]["xt/id"]
    lasts, uses = ENDS.get(params.get("ends", "week"), ENDS["week"]), params.get("uses", "")
    channel = public_channel(ctx["biff/db"], community_id, params.get("channel"))
    invitation = {"db/doc-type": "invitation", "inv/comm": community_id, "inv/mem": ctx["mem"]["xt/id"],
                  "inv/made-at": biff.NOW, "inv/used": 0}
    if lasts:
        invitation["inv/ends-at"] = biff.now(ctx) + lasts
    if uses.isdigit() and int(uses) in USES:
        invitation["inv/uses-max"] = int(uses)
    if channel:
        invitation["inv/chan"] = channel["xt/id"]
    over = [one for one in biff.lookup_all(ctx["biff/db"], "inv/comm", community_id) if not is_open(ctx, one)]
    try:
        await biff.submit_tx(ctx, [*biff.unchanged(ctx, ctx["mem"]["xt/id"], community_id), invitation,
                                   *(delete(one["xt/id"]) for one in over),
                                   biff.at_most(INVITATIONS_MAX, {"inv/comm": community_id})])
    except biff.ConstraintError:
        return biff.error(ctx, 422, f"A community has at most {INVITATIONS_MAX} invitations. "
                                    "Revoke one that nobody needs.")
    return biff.redirect(ctx, invitations_path(ctx["community"]))


async def revoke_invitation(ctx):
    invitation = entity_of(ctx, ctx["params"]["invitation_id"], "inv/comm")
    if invitation and invitation["inv/comm"] == ctx["community"]["xt/id"]:
        if not may_revoke(ctx, invitation):
            return biff.error(ctx, 403, "Only an admin, or the member who made it, may revoke an invitation.")
        await biff.submit_tx(ctx, [*biff.unchanged(ctx, ctx["mem"]["xt/id"]), delete(invitation["xt/id"])])
    return biff.redirect(ctx, invitations_path(ctx["community"]))


def invitations_path(community):
    return f"{community_path(community)}/invitations"


INVITATIONS = "/community/{id}/invitations"
PLUGIN = {
    "schema": SCHEMA, "extends": EXTENDS,
    "routes": [
        ("GET", "/invite/{code}", biff.anyone, invitation_page),
        ("POST", "/invite/{code}", signed_in, join_community),
        ("GET", INVITATIONS, in_community, invitations_page),
        ("POST", INVITATIONS, inviter, new_invitation),
        ("POST", INVITATIONS + "/{invitation_id}/revoke", in_community, revoke_invitation),
    ],
    "slots": {"head": "invitations/button.html", "above-compose": "invitations/card.html"},
}
