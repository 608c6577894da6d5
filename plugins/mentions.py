"""Mentions: @name calls a person, @channel everybody in a channel. A message keeps whom it calls by id, not by name.

The text stays as it was typed; beside it the message has the ids that it calls, `msg/mentions`, for whoever asks for
them, and `msg/mention-spans`, where in the text each stands: (start, end, id). A name that changes therefore changes in
old messages too, also on open pages, by the same part that changes the names above them. The frame of a message is the
same for all: each browser marks what is for its own reader.

Only those who may read the channel can be called; a name of anybody else is text. So is a name in code, and @channel
by one who is no admin.
"""
import itertools
import re
import uuid

from markupsafe import Markup
from voluptuous import Optional

import biff
from plugins.changes import channel_of
from plugins.names import NAME_CHARS_MAX, author_of, key_of
from plugins.places import in_channel, is_direct, is_private, may_read, mem_in
from plugins.text import ASKS_A_PERSON, CHOICES_MAX, said
from plugins.unread import touch_all

MENTIONS_MAX = 20                     # of a message; each costs some look-ups by name
WORDS_MAX = 8                         # of a name: "Maria del Carmen Fernández-Villaverde y Ortega" has seven
LOOKED_AT_MAX = 1_000                 # members among whom a beginning of a name is sought

AT = re.compile(r"(?<![\w@/.:])@(?=\S)")
EVERYBODY = re.compile(r"channel(?!\w)", re.IGNORECASE)
UNNAMED = re.compile(r"User ([0-9a-f]{4})(?!\w)")
SIGN = re.compile(r"#([0-9a-f]{4})(?!\w)")    # of a membership, to tell two people of one name apart
WORD = re.compile(r"\w+|[^\w\s]+")

CHANNEL = "/community/{id}/channel/{channel_id}"
MENTION = Markup('<span class="mention" data-mem="{}">@{}</span>')
EVERYONE = Markup('<span class="mention everyone">@channel</span>')

# ── From a name to an id ─────────────────────────────────────────────────────────────────────────────────────


def beside_text(ctx, text):
    """The attributes of a message that come from its text; None for those that it has not."""
    spans = spans_in(ctx, text) if "@" in text else ()
    ids = sorted({id for *_, id in spans}, key=str)
    return {"msg/mentions": ids or None, "msg/mention-spans": spans or None}


def spans_in(ctx, text):
    """The places in a text that call somebody: (start, end, id), in order."""
    found, end = [], 0
    for at in itertools.islice(AT.finditer(text), MENTIONS_MAX):
        if at.start() >= end and (called := called_at(ctx, text, at.end())):
            end, id = called
            found.append((at.start(), end, id))
    return tuple(found) if "`" not in text and "~~~" not in text else outside_code(text, found)


def outside_code(text, spans):
    """The spans that are shown as mentions, and not as code."""
    marks = [Markup('<span class="mention" data-mem="{}"></span>').format(n) for n in range(len(spans))]
    shown = said(text, [(start, end, mark) for (start, end, _), mark in zip(spans, marks)]).html
    return tuple(span for span, mark in zip(spans, marks) if mark in shown)


def called_at(ctx, text, at):
    """Whom the text calls behind an @: (end of the name, id); None for nobody."""
    channel, db = ctx["channel"], ctx["biff/db"]
    if everybody := EVERYBODY.match(text, at):
        return (everybody.end(), channel["xt/id"]) if may_call_all(ctx) else None
    if unnamed := UNNAMED.match(text, at):
        return one_of((id for id in readers_of(db, channel) if str(id).startswith(unnamed[1])), unnamed.end())
    rest = text[at:at + NAME_CHARS_MAX].partition("\n")[0]
    for word in reversed(list(itertools.islice(WORD.finditer(rest), WORDS_MAX))):
        name, end = rest[:word.end()], at + word.end()
        if mems := mems_named(db, channel, name):
            sign = SIGN.match(text, end)
            begin, end = (sign[1], sign.end()) if sign else ("", end)
            return one_of((id for id in mems if str(id).startswith(begin)), end)
    return None


def one_of(ids, end):
    """The one who is meant; nobody if it could be another."""
    ids = list(itertools.islice(ids, 2))
    return (end, ids[0]) if len(ids) == 1 else None


def mems_named(db, channel, name):
    """The memberships of those with this name who may read the channel; else of those with one that looks alike."""
    users = biff.lookup_all(db, "user/name", name, limit=100)
    if not users and name[-1].isalnum():
        users = biff.lookup_all(db, "user/name-key", key_of(name), limit=100)
    mems = [mem_in(db, user["xt/id"], channel["chan/comm"]) for user in users]
    return [mem["xt/id"] for mem in mems if mem and may_read(channel, mem["xt/id"])]


def may_call_all(ctx):
    return "admin" in ctx["roles"] or is_direct(ctx["channel"])


def readers_of(db, channel):
    """The memberships of those who may read a channel, up to LOOKED_AT_MAX."""
    ids = channel["chan/mems"] if is_private(channel) else db.q(
        {"find": "?m", "in": ["?c"], "where": [["?m", "mem/comm", "?c"]], "limit": LOOKED_AT_MAX}, channel["chan/comm"])
    return [id for id in ids if type(id) is uuid.UUID]


# ── From an id to a name ─────────────────────────────────────────────────────────────────────────────────────

def held_in(db, message):
    """The mentions that replace the names which the author typed into a text: (start, end, HTML)."""
    try:
        return tuple((start + 0, end + 0, shown(db, message, id))
                     for start, end, id in message.get("msg/mention-spans") or ())
    except (TypeError, ValueError):                    # put past the schema
        return ()


def shown(db, message, id):
    return EVERYONE if id == message["msg/channel"] else MENTION.format(id, author_of(db, id).name)


def typed_now(ctx, message):
    """The text of a message as its author would type it today: with the names that people have now."""
    text = message["msg/text"]
    for start, end, id in reversed(message.get("msg/mention-spans") or ()):
        name = "channel" if id == message["msg/channel"] else name_in(ctx["biff/db"], ctx["channel"], id)
        text = f"{text[:start]}@{name}{text[end:]}"
    return text


def name_in(db, channel, mem_id):
    """The name of a person, with their sign if others in the channel have the same."""
    name = author_of(db, mem_id).name
    return f"{name}#{str(mem_id)[:4]}" if len(mems_named(db, channel, name)) > 1 else name


def on_edit(changes, id, old, new):
    """An edit that calls others than before changes the numbers of those people, beside their channels."""
    if not (old and new) or channel_of(old) != channel_of(new):
        return
    for who in set(old.get("msg/mentions") or ()) ^ set(new.get("msg/mentions") or ()):
        if who == channel_of(new) and (channel := changes.db.entity(who)):
            touch_all(changes, channel)
        elif mem := changes.db.entity(who):
            changes.touch_person(mem.get("mem/user"), "news")


# ── Completion ───────────────────────────────────────────────────────────────────────────────────────────────


async def choices(ctx):
    """The names that begin so, as options of a list."""
    if not biff.is_allowed(ctx, (("completions", ctx["uid"]), *ASKS_A_PERSON)):
        return biff.error(ctx, 429)
    db, channel, sought = ctx["biff/db"], ctx["channel"], ctx["params"].get("q", "")[:NAME_CHARS_MAX]
    names = {id: author_of(db, id) for id in readers_of(db, channel)}
    found = sorted((id for id, author in names.items() if begins(author.name, sought)),
                   key=lambda id: (not key_of(names[id].name).startswith(key_of(sought)), names[id].name.casefold()))
    options = [{"typed": f"@{name_in(db, channel, id)} ", "shown": names[id].name, "author": names[id]}
               for id in found[:CHOICES_MAX]]
    if may_call_all(ctx) and "channel".startswith(sought.casefold()):
        options.append({"typed": "@channel ", "shown": "@channel", "hint": "everybody in this channel"})
    return biff.render(ctx, "text/options.html", options=options)


def begins(name, sought):
    """True if a name, or a word of it, begins so, in any case and accent."""
    sought = key_of(sought)
    return any(key_of(part).startswith(sought) for part in [name, *name.split()])


PLUGIN = {
    "extends": {"message": {Optional("msg/mentions"): [uuid.UUID], Optional("msg/mention-spans"): tuple}},
    "routes": [("GET", CHANNEL + "/names", in_channel, choices)],
    "beside-text": beside_text,
    "typed": typed_now,
    "changes": [on_edit],
    "held": held_in,
    "messages": lambda db, messages: {one["xt/id"]: {"held": held_in(db, one)} for one in messages
                                      if "msg/mention-spans" in one},
    "scripts": ["mentions.js"],
}
