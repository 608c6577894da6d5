"""Keys: Ctrl+K goes anywhere one may go, and a list tells all keys. The browser does the rest (`keys.js`)."""
import biff
from plugins.places import channels_for, communities_of, mem_in, signed_in
from plugins.private import as_seen

PLACES_MAX = 2_000                    # offered: beyond, the communities and the first channels
ASKS_A_PERSON = 30, 60                # in a minute; a page asks when the list is opened

KEYS = [
    ("Ctrl K", "Go to a channel, a person or a community"),
    ("Alt Up / Down", "The channel above or below"),
    ("Alt Shift Up / Down", "The next channel with unread messages"),
    ("Shift Esc", "Mark all channels as read"),
    ("Up", "In an empty box: edit your last message"),
    ("Esc", "Leave an edit, a reply, a list or a dialog"),
    ("Up / Down, Enter", "In the list of messages: choose one, and what to do with it"),
    ("Enter", "Send; with Shift a new line"),
]
LETTERS = [("J K", "The next or the previous message"), ("R", "Reply to the chosen message"),
           ("E", "React to the chosen message"), ("C", "Write a message"), ("S", "Search"), ("?", "This list")]


async def places_to_go(ctx):
    """The communities of a person, and all channels that they may read, as a list of links."""
    if not biff.is_allowed(ctx, (("places", ctx["uid"]), *ASKS_A_PERSON)):
        return biff.error(ctx, 429)
    db = ctx["biff/db"]
    communities, found = communities_of(db, ctx["uid"]), list[tuple]()
    for community in communities:
        mem = mem_in(db, ctx["uid"], community["xt/id"])
        if mem and len(found) < PLACES_MAX:
            found += [(as_seen(db, channel, mem["xt/id"]), community) for channel in channels_for(ctx, db, mem)]
    return biff.render(ctx, "keys/places.html", communities=communities, found=found[:PLACES_MAX])


PLUGIN = {
    "routes": [("GET", "/places", signed_in, places_to_go)],
    "slots": {"state": "keys/go.html", "dialogs": "keys/dialogs.html", "you": "keys/button.html"},
    "page": lambda ctx: {"keys": KEYS, "letters": LETTERS},
    "scripts": ["keys.js"],
}
