"""Places: communities and channels, who may enter them, what is in them, and the page around them.

The chat and its plugins ask the same rules. Each rule stands in a route table: it adds to ctx what the handler needs,
or answers in its place.
"""
import itertools
import re
import sys
import unicodedata
import uuid
import zoneinfo

import markupsafe
from aiohttp import web

import biff

MEMBERS_MAX = 10_000                  # of a community: about what one server has sockets for
MEMBERSHIPS_MAX = 200                 # of one person; the page lists them all
MEMS_KNOWN_MAX = 10_000               # memberships found once and not searched again
PAGE_MESSAGES = 50                    # of a first page, and of each older one: a few screens
PAGE_CHARS_MAX = 100_000              # of their texts, from where reading begins; fifty have 5,000 in most chats


class Refused(Exception):
    """A request is refused; the sentence tells the person why, under this HTTP status.

    `again_s`: in so many seconds it would be done.
    """

    def __init__(self, status, sentence, again_s=None):
        super().__init__(sentence)
        self.status, self.sentence, self.again_s = status, sentence, again_s


def told(ctx, refused):
    """The answer that says why something is not done. A script reads in Retry-After when to ask again."""
    answer = biff.error(ctx, refused.status, refused.sentence)
    if refused.again_s:
        answer.headers["Retry-After"] = str(refused.again_s)
    return answer


def finished(ctx, path):
    """The answer to a form that needs no new page: nothing for a script, and a redirect for a browser without one."""
    return web.Response(status=204) if "HX-Request" in ctx["request"].headers else biff.redirect(ctx, path)


# ── Who may ──────────────────────────────────────────────────────────────────────────────────────────────────


def signed_in(ctx):
    user = user_of(ctx)
    if user is None:
        return biff.ask_to_sign_in(ctx)
    ctx["user"] = user


def user_of(ctx):
    """The user's document; None if the session's user is gone."""
    user = ctx["biff/db"].entity(ctx["uid"]) if ctx["uid"] else None
    return user if user and "user/email" in user else None


def in_community(ctx):
    """Members only: to others a community's address says nothing, not even that it is one."""
    if refusal := signed_in(ctx):
        return refusal
    community = entity_of(ctx, ctx["params"]["id"], "comm/title")
    mem = mem_of(ctx, community["xt/id"]) if community else None
    if mem is None:
        return biff.redirect(ctx, "/app")
    ctx["community"], ctx["mem"], ctx["roles"] = community, mem, mem["mem/roles"]


def mem_of(ctx, community_id):
    """A person's membership of a community, or None.

    Its id is remembered; the snapshot says each time whether it still is one.
    """
    known, place = ctx["chat_mems"], (ctx["uid"], community_id)
    mem = ctx["biff/db"].entity(known[place]) if place in known else None
    if mem is None or (mem.get("mem/user"), mem.get("mem/comm")) != place:
        mem = biff.lookup(ctx["biff/db"], "mem/user", ctx["uid"], "mem/comm", community_id)
    if mem:
        if len(known) >= MEMS_KNOWN_MAX:
            known.clear()
        known[place] = mem["xt/id"]
    return mem


def in_channel(ctx):
    """Members only, and only through the community that the channel belongs to."""
    if refusal := in_community(ctx):
        return refusal
    channel = entity_of(ctx, ctx["params"]["channel_id"], "chan/title")
    is_here = channel is not None and channel["chan/comm"] == ctx["community"]["xt/id"]
    if not is_here or not may_read(channel, ctx["mem"]["xt/id"]):
        return biff.redirect(ctx, community_path(ctx["community"]))
    ctx["channel"] = channel
    if is_direct(channel):
        ctx["roles"] = set()          # nobody is an admin among people who talk to each other


def may_read(place, mem_id):
    """True if a member may read a channel: it is not private, or they are in it. Being an admin does not matter."""
    return not is_private(place) or mem_id in place.get("chan/mems", ())


def is_private(document):
    return "chan/mems" in document or "chan/set" in document


def is_direct(channel):
    return "chan/set" in channel


def community_admin(ctx):
    return in_community(ctx) or forbidden(ctx)


def channel_admin(ctx):
    return in_channel(ctx) or forbidden(ctx)


def channel_namer(ctx):
    """A rule: people who may name a channel, that is admins, and the people in a private one."""
    if refusal := in_channel(ctx):
        return refusal
    return None if is_private(ctx["channel"]) and not is_direct(ctx["channel"]) else forbidden(ctx)


def forbidden(ctx):
    if "admin" not in ctx["roles"]:
        return biff.error(ctx, 403, "Only an admin of this community may do that.")


def admin_about(ctx, what, param, attribute, back):
    """For rules: an admin, about a document of the same community, which the handler finds under `what`.

    `param` of the address names it, `attribute` its community. Another one leads to this page of the community: `back`.
    """
    if refusal := community_admin(ctx):
        return refusal
    document = entity_of(ctx, ctx["params"][param], attribute)
    if document is None or document[attribute] != ctx["community"]["xt/id"]:
        return biff.redirect(ctx, f"{community_path(ctx['community'])}/{back}")
    ctx[what] = document


WHO_MAY = {"comm/inviters": "members", "comm/openers": "admins"}          # unless a community says otherwise


def who_may(community, what):
    """The people who may invite others, or open channels, there: "members" or "admins"."""
    return community.get(what, WHO_MAY[what])


def inviter(ctx):
    return in_community(ctx) or kept_to_admins(ctx, "comm/inviters")


def channel_opener(ctx):
    return in_community(ctx) or kept_to_admins(ctx, "comm/openers")


def kept_to_admins(ctx, what):
    return forbidden(ctx) if who_may(ctx["community"], what) == "admins" else None


def entity_of(ctx, text, attribute):
    """The document that an id in an address names, if it is one of this kind: an id of another kind leads nowhere."""
    try:
        document = ctx["biff/db"].entity(uuid.UUID(text))
    except ValueError:
        return None
    return document if document and attribute in document else None


# ── Where, and what is there ─────────────────────────────────────────────────────────────────────────────────


def community_path(community):
    return f"/community/{community['xt/id']}"


def channel_path(channel):
    return f"/community/{channel['chan/comm']}/channel/{channel['xt/id']}"


def communities_of(db, uid):
    """The communities that a person is in, by title."""
    return by_titles(communities_in(db, uid))


def communities_kept(ctx, db, uid):
    """`communities_of`, where their ids are in memory."""
    ids = ctx["chat_kept"](ctx, db, ("communities", uid), lambda: [one["xt/id"] for one in communities_in(db, uid)],
                           lambda found: 100 * len(found))
    return by_titles(map(db.entity, ids))


def communities_in(db, uid):
    user = db.pull([("mem/_user", {"as": "user/mems"}, [{"mem/comm": ["*"]}])], uid) or {}
    return [mem["mem/comm"] for mem in user.get("user/mems", []) if type(mem.get("mem/comm")) is dict]


def by_titles(communities):
    return sorted((one for one in communities if one and "comm/title" in one), key=by_title("comm/title"))


def mem_in(db, uid, community_id):
    """A person's membership of a community, as of a snapshot, or None."""
    return biff.lookup(db, "mem/user", uid, "mem/comm", community_id)


def channels_of(ctx):
    return channels_kept(ctx, ctx["biff/db"], ctx["community"]["xt/id"]) if ctx.get("mem") else []


def channels_kept(ctx, db, community_id):
    """`channels_in`, from memory where nothing has changed: for who shows it, and changes nothing in it."""
    return ctx["chat_kept"](ctx, db, ("channels", community_id), lambda: channels_in(db, community_id),
                            lambda found: 1_000 * len(found))


def channel_list(ctx, db, community_id, channel=None, is_beside=True):
    """The list of channels beside a page, as HTML that is the same for all but for the mark on the open one.

    A page that hears what happens in a channel stands at that channel's address, with or without a query. `is_beside`
    there: links are relative, for two hundred of them come with it. So no such page may have an address further down.
    """
    path_of = name_of if channel and is_beside else channel_path
    html = ctx["chat_kept"](ctx, db, ("channel list", community_id, path_of),
                            lambda: channel_list_view(ctx, db, community_id, path_of), sys.getsizeof)
    path = f'href="{path_of(channel)}"' if channel else ""
    return markupsafe.Markup(html.replace(path, f'{path} aria-current="page"', 1) if channel else html)


def channel_list_view(ctx, db, community_id, path_of=channel_path):
    return biff.fragment(ctx, "channels.html", channels=channels_kept(ctx, db, community_id), path_of=path_of)


def name_of(channel):
    """The address of a channel as it is said on the page of another one of the same community."""
    return str(channel["xt/id"])


def channels_in(db, community_id):
    """The channels that every member sees: the private ones are in no list that is the same for all."""
    channels = biff.q(db, {"find": ("pull", "?channel", ["*"]), "in": ["?community"],
                           "where": [["?channel", "chan/comm", "?community"],
                                     ("not", ["?channel", "chan/mems"])]}, community_id)
    return sorted((one for one in channels if not is_private(one)), key=by_title("chan/title"))


def private_channels_of(db, mem_id):
    """The private channels and direct messages that a member is in."""
    return biff.lookup_all(db, "chan/mems", mem_id)


def private_channels_kept(ctx, db, mem_id):
    """`private_channels_of`, from memory where nothing has changed: for who shows it, and changes nothing in it."""
    return ctx["chat_kept"](ctx, db, ("privates", mem_id), lambda: private_channels_of(db, mem_id),
                            lambda found: sum(1_000 + 100 * len(one["chan/mems"]) for one in found))


def channels_for(ctx, db, mem):
    """All channels that a member may read."""
    return channels_kept(ctx, db, mem["mem/comm"]) + private_channels_kept(ctx, db, mem["xt/id"])


def people_in(db, channel):
    """The users who are in a private channel; none for any other, which all members may read."""
    mems = [db.entity(mem_id) or {} for mem_id in channel.get("chan/mems", ())]
    return [mem["mem/user"] for mem in mems if "mem/user" in mem]


def public_channels_at_most(ctx, community_id, count_max):
    """A transaction function. Private channels do not count: their number would tell that they are there."""
    return False if len(channels_in(ctx.db, community_id)) > count_max else None


def sweep_mark(channel_id):
    """The id of the mark that says that something of a deleted channel is left."""
    return f"sweep-{channel_id}"


UNSEEN = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp", "Mn", "Me"})      # of Unicode: controls, spaces, marks on a letter
BLANKS = "\u115f\u1160\u2800\u3164\uffa0"      # letters and signs by their kind, drawn as nothing


def shows(text):
    """True if there is something to see in a text."""
    return any(unicodedata.category(c) not in UNSEEN and c not in BLANKS for c in text)


def text_of(ctx):
    """The text in the form of a message, without spaces around it; "" if nothing of it shows."""
    text = ctx["params"].get("text", "").strip()
    return text if shows(text) else ""


def zone_of(name):
    """The zone of time that a form names; None for no such zone."""
    try:
        return zoneinfo.ZoneInfo(name) if 0 < len(name) <= 60 else None
    except (ValueError, KeyError, OSError):            # no such zone, or no name of one
        return None


def title_of(ctx, chars_max=60):
    """The title that a form asks for, in one line; "" if it has none or too long a one."""
    title = " ".join("".join(c if c.isprintable() else " " for c in ctx["params"].get("title", "")).split())
    return title if len(title) <= chars_max and shows(title) else ""


def by_title(attribute):
    """#2 before #10."""
    def key(document):
        return [int(part) if part.isdigit() else part.casefold() for part in re.split(r"(\d+)", document[attribute])]
    return key


def messages_of(db, channel, before=None, after=None, count=0):
    """A page of a channel, oldest first, and whether there are more. Order is the log's, not a clock's.

    The newest; with `before` those that come before this message, with `after` those that follow it. `count` is for
    more or fewer than a page has.
    """
    count = count or PAGE_MESSAGES
    query: dict = {"find": ("pull", "?message", ["*"]), "in": ["?channel"],
                   "where": [["?message", "msg/channel", "?channel"]],
                   "order-by": [[("created", "?message"), "asc" if after else "desc"]], "limit": count + 1}
    args = [channel["xt/id"]]
    if bound := before or after:
        side = "created-before" if before else "created-after"
        query |= {"in": ["?channel", "?bound"], "where": [*query["where"], [(side, "?message", "?bound")]]}
        args.append(bound)
    found = biff.q(db, query, *args)
    shown = found[:fitting(found[:count])]
    return shown if after else shown[::-1], len(found) > len(shown)


def fitting(messages):
    """The number of them, from the first on, that have PAGE_CHARS_MAX characters together; the first always fits."""
    sums = itertools.accumulate(len(str(message.get("msg/text"))) for message in messages)
    return max(1, sum(chars <= PAGE_CHARS_MAX for chars in sums))


def gone_with_message(ctx, id):
    """The ids of the documents that belong to a message, and go when it is deleted."""
    attributes = [one for plugin in ctx["biff/plugins"] for one in plugin.get("goes-with", {}).get("message", ())]
    return [one for attribute in attributes for one in biff.lookup_id_all(ctx["biff/db"], attribute, id)]


# ── The page ─────────────────────────────────────────────────────────────────────────────────────────────────


def app_page(ctx, template, **values):
    """A page with the communities and channels of whoever is signed in beside it.

    `is_aside` is for one whose title is not that of the place of which its socket tells.
    """
    community, db = ctx.get("community"), ctx["biff/db"]
    is_aside = values.get("is_past", False) or values.get("is_aside", False)
    around = {"user": ctx["user"], "communities": communities_kept(ctx, db, ctx["uid"]), "community": community,
              "mem": ctx.get("mem"), "channel": ctx.get("channel"), "channels": channels_of(ctx),
              "channel_list": channel_list(ctx, db, community["xt/id"], ctx.get("channel"), not is_aside)
              if community else "",
              "is_admin": "admin" in (ctx.get("roles") or ()), "path_of": channel_path, "tx_id": db.tx_id,
              "live_path": community_path(community) if community else "", "is_aside": is_aside,
              "is_waiting": ctx["biff/node"].cut_off is not None}
    return biff.render(ctx, template, **(around | page_values(ctx) | values))


def page_values(ctx):
    """The values that plugins add to every page, by name."""
    return {key: value for plugin in ctx["biff/plugins"] if "page" in plugin
            for key, value in plugin["page"](ctx).items()}
