"""Titles: communities and channels are named in a small dialog, and admins rename them; every open page follows."""
from voluptuous import All, In, Length, Optional

import biff
from plugins.places import (channel_admin, channel_list, channel_namer, channel_path, communities_of, community_admin,
                            community_path, is_direct, is_private, title_of, who_may)

TITLE_CHARS_MAX = 60                  # one line of the sidebar on a wide screen
TOPIC_CHARS_MAX = 200                 # two lines below the title

WHO = ["members", "admins"]

CHANNEL = "/community/{id}/channel/{channel_id}"


async def rename_community(ctx):
    """The name, and who may do what there, as far as the form says so."""
    said = {f"comm/{what}": ctx["params"].get(what) for what in ("inviters", "openers")}
    values = {"comm/title": title_of(ctx), **{what: who for what, who in said.items() if who in WHO},
              "comm/shows-versions": "shows-versions" in ctx["params"] or biff.DISSOC}
    return await renamed(ctx, "community", ctx["community"], values, community_path)


async def rename_channel(ctx):
    topic = " ".join(ctx["params"].get("topic", "").split())[:TOPIC_CHARS_MAX]
    values = {"chan/title": title_of(ctx), "chan/topic": topic or biff.DISSOC}
    for plugin in ctx["biff/plugins"]:
        values |= plugin["channel-values"](ctx) if "channel-values" in plugin else {}
    return await renamed(ctx, "channel", ctx["channel"], values, channel_path)


async def renamed(ctx, kind, place, values, path_of):
    if not all(values.values()):
        return biff.error(ctx, 422, f"A title has 1 to {TITLE_CHARS_MAX} characters.")
    await biff.submit_tx(ctx, [*biff.unchanged(ctx, ctx["mem"]["xt/id"]),
                               {"db/doc-type": kind, "db/op": "update", "xt/id": place["xt/id"], **values}])
    return biff.redirect(ctx, path_of(place))


async def delete_page(ctx):
    """The numbers of messages and feeds that would go with the channel."""
    found = ctx["biff/db"].q({"find": [("count", "?m"), ("count-distinct", "?by")], "in": ["?c"],
                              "where": [["?m", "msg/channel", "?c"], ["?m", "msg/mem", "?by"]]},
                             ctx["channel"]["xt/id"])
    count, people = found[0] if found else (0, 0)
    return biff.render(ctx, "titles/delete.html", channel=ctx["channel"], count=count, people=people,
                       path_of=channel_path)


# ── On pages ─────────────────────────────────────────────────────────────────────────────────────────────────


def on_title(changes, id, old, new):
    for document in old, new:
        if document and "chan/comm" in document:
            changes.spoil("channels", document["chan/comm"])
            changes.spoil("channel list", document["chan/comm"])
        if document and ("chan/title" in document or "comm/title" in document):
            changes.touch(id if is_private(document) else document.get("chan/comm", id), "titles")
        if document and "comm/title" in document:
            changes.touch_members(id, "communities")
        if document and "mem/user" in document:
            changes.spoil("communities", document["mem/user"])
            changes.touch_person(document["mem/user"], "communities")


def titles_part(ctx, db, place, about):
    """The parts around the messages: the titles of channel and community, and the channels beside it.

    Each of the people in a direct message sees another title: that is a part of their own pages.
    """
    if "user/email" in place:
        return ""
    channel, community = (place, db.entity(place["chan/comm"])) if "chan/comm" in place else (None, place)
    return biff.fragment(ctx, "around.html", channel=channel, community=community,
                         channel_list=channel_list(ctx, db, community["xt/id"], channel),
                         is_direct=channel is not None and is_direct(channel))


def communities_part(ctx, db, place, user, about):
    """The list of one's communities."""
    values = {"communities": communities_of(db, user["xt/id"]), "is_news": True,
              "community": db.entity(place.get("chan/comm", place["xt/id"]))}
    return "".join(biff.fragment(ctx, "communities.html", list_id=id, **values) for id in ("communities", "pick"))


def page_values(ctx):
    return {"title_chars_max": TITLE_CHARS_MAX, "topic_chars_max": TOPIC_CHARS_MAX, "who_may": who_may}


PLUGIN = {
    "extends": {"channel": {Optional("chan/topic"): All(str, Length(1, TOPIC_CHARS_MAX))},
                "community": {Optional("comm/inviters"): In(WHO), Optional("comm/openers"): In(WHO)}},
    "routes": [("POST", "/community/{id}/title", community_admin, rename_community),
               ("POST", CHANNEL + "/title", channel_namer, rename_channel),
               ("GET", CHANNEL + "/delete", channel_admin, delete_page)],
    "slots": {"head-end": "titles/head.html", "dialogs": "titles/dialogs.html"},
    "page": page_values,
    "changes": [on_title],
    "parts": {"titles": titles_part},
    "person-parts": {"communities": communities_part},
}
