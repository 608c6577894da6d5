"""Dialogs: a page has none of them. All of its come together, when the first is opened, and show what is true then.

Links lead to the same dialogs on a page of their own, for browsers without our script.
"""
from plugins.places import app_page, channel_path, community_path, in_channel, in_community, signed_in


def dialogs(ctx):
    is_part = "HX-Request" in ctx["request"].headers
    return app_page(ctx, "dialogs.html", is_part=is_part, back=path_of(ctx) or "/app")


def path_of(ctx):
    """The path of the channel or the community of a page; "" for neither."""
    if channel := ctx.get("channel"):
        return channel_path(channel)
    return community_path(ctx["community"]) if ctx.get("community") else ""


def page_values(ctx):
    return {"dialogs_path": f"{path_of(ctx)}/dialogs"}


PLUGIN = {
    "routes": [("GET", "/dialogs", signed_in, dialogs), ("GET", "/community/{id}/dialogs", in_community, dialogs),
               ("GET", "/community/{id}/channel/{channel_id}/dialogs", in_channel, dialogs)],
    "page": page_values,
}
