"""Reactions: people answer a message with an emoji, each person once with each. Open pages follow.

A frame is the same for everybody: it names the memberships by the first letters of their ids, and the browser marks
those of its own person. The names behind a reaction are asked for when somebody wants to know.
"""
import re
import unicodedata
import uuid

from voluptuous import All, Length, Schema

import biff
from plugins.edits import MESSAGE, in_message
from plugins.line import done
from plugins.names import author_of
from store import call, delete, put

EMOJI_CHARS_MAX = 16                  # the longest flags and families have 14
EMOJI_MAX = 20                        # different ones at a message: two lines
REACTIONS_MAX = 1_000                 # at a message; each costs the frame nine bytes
REACTIONS_A_PERSON = 30, 10           # in ten seconds
SIGN_CHARS = 8                        # of a membership's id, enough to tell a community's members apart
PALETTE = "👍 👎 ❤️ 😂 😮 😢 😡 🎉 🙏 👏 🔥 👀 ✅ ❌ 💯 🚀 🤔 🙌 😍 😎 🤝 💪 ☕ 🐍".split()

# One letter a character: E an emoji, S a skin tone, V "shown as emoji", Z a joiner, T a tag, R half a flag, D a digit,
# K the frame around a digit.
ONE_EMOJI = re.compile("E[VS]*T*(ZE[VS]*T*)*|RR|DV?K")


def kind_of(char):
    code = ord(char)
    named = {0xFE0F: "V", 0x200D: "Z", 0x20E3: "K"}.get(code)
    if named or char in "0123456789#*":
        return named or "D"
    if 0x1F3FB <= code <= 0x1F3FF:
        return "S"
    if 0x1F1E6 <= code <= 0x1F1FF:
        return "R"
    if 0xE0020 <= code <= 0xE007F:
        return "T"
    is_newer = 0x1F300 <= code <= 0x1FAFF and unicodedata.category(char) == "Cn"      # than this Python's Unicode
    return "E" if unicodedata.category(char) == "So" or is_newer or char in "‼⁉↔↕" else "x"


def emoji_of(text):
    """The emoji that a text is, in one spelling; None if it is not exactly one."""
    text = text.strip()
    if len(text) > EMOJI_CHARS_MAX or not ONE_EMOJI.fullmatch("".join(map(kind_of, text))):
        return None
    plain = text.replace("\ufe0f", "")
    return plain + "\ufe0f" if len(plain) == 1 and ord(plain) < 0x1F000 else text


# ── Reacting ─────────────────────────────────────────────────────────────────────────────────────────────────


async def react(ctx):
    """Gives a reaction, or takes it back; a request that comes twice does it once."""
    emoji = emoji_of(ctx["params"].get("emoji", ""))
    if emoji is None:
        return biff.error(ctx, 422, "A reaction is one emoji. Choose one, or type one.")
    if not biff.is_allowed(ctx, (("reactions", ctx["uid"]), *REACTIONS_A_PERSON)):
        return biff.error(ctx, 429, "That was fast. Try again in a moment.")
    try:
        await biff.submit_tx(ctx, lambda ctx: react_tx(ctx, emoji, ctx["params"].get("on") != "0"))
    except biff.ConstraintError:
        return biff.error(ctx, 422, f"A message has at most {EMOJI_MAX} different reactions, "
                                    f"and {REACTIONS_MAX:,} in all.")
    return done(ctx)


def react_tx(ctx, emoji, is_on):
    """Made anew for each attempt, with the rights of that moment; nothing if they are gone, or the message is."""
    if in_message(ctx):
        return []
    mem, message = ctx["mem"]["xt/id"], ctx["message"]["xt/id"]
    return [*biff.unchanged(ctx, ctx["channel"]["xt/id"], mem), call("react", message, mem, emoji, is_on)]


def react_fn(ctx, message_id, mem_id, emoji, is_on):
    """A transaction function: the numbers are those of the moment at which the reaction is recorded."""
    id = uuid.uuid5(message_id, f"{mem_id} {emoji}")
    is_there = ctx.db.entity(id) is not None
    message = ctx.db.entity(message_id)
    if is_on == is_there or message is None:
        return []
    if not is_on:
        return [delete(id)]
    known = reactions_of(ctx.db, [message_id])[message_id]
    if sum(len(signs) for _, signs in known) >= REACTIONS_MAX:
        return False
    if len(known) >= EMOJI_MAX and emoji not in dict(known):
        return False
    return [put({"xt/id": id, "react/msg": message_id, "react/channel": message["msg/channel"], "react/mem": mem_id,
                 "react/emoji": emoji})]


# ── On pages ─────────────────────────────────────────────────────────────────────────────────────────────────


REACTIONS = {"find": ["?msg", "?emoji", "?mem"], "in": [["?msg", ...]], "order-by": [[("created", "?r"), "asc"]],
             "where": [["?r", "react/msg", "?msg"], ["?r", "react/emoji", "?emoji"], ["?r", "react/mem", "?mem"]]}


def reactions_of(db, ids):
    """The reactions of messages: {id: [(emoji, [sign of a membership])]}, in the order in which they were given."""
    found: dict = {id: {} for id in ids}
    for id, emoji, mem in biff.q(db, REACTIONS, list(ids)):
        found[id].setdefault(emoji, []).append(str(mem)[:SIGN_CHARS])
    return {id: list(by_emoji.items()) for id, by_emoji in found.items()}


def of_messages(db, messages):
    ids = [message["xt/id"] for message in messages]
    return {id: {"reactions": reactions} for id, reactions in reactions_of(db, ids).items()}


def on_reaction(changes, id, old, new):
    for document in old, new:
        if document and "react/msg" in document and (message := changes.db.entity(document["react/msg"])):
            changes.retouch(message)


async def people_of(ctx):
    """The people behind the reactions of a message, by name."""
    by_emoji: dict = {}
    for _, emoji, mem in biff.q(ctx["biff/db"], REACTIONS, [ctx["message"]["xt/id"]]):
        by_emoji.setdefault(emoji, []).append(author_of(ctx["biff/db"], mem).name)
    return biff.render(ctx, "reactions/people.html", people=by_emoji, is_part="HX-Request" in ctx["request"].headers)


PLUGIN = {
    "schema": {"reaction": Schema({
        "xt/id": uuid.UUID,
        "react/msg": uuid.UUID,
        "react/channel": uuid.UUID,
        "react/mem": uuid.UUID,
        "react/emoji": All(str, Length(1, EMOJI_CHARS_MAX)),
    }, required=True)},
    "tx-fns": {"react": react_fn},
    "goes-with": {"message": ["react/msg"], "channel": ["react/channel"]},
    "routes": [("POST", MESSAGE + "/reaction", in_message, react),
               ("GET", MESSAGE + "/reactions", in_message, people_of)],
    "slots": {"message-foot": "reactions/reactions.html", "message-actions": "reactions/action.html",
              "dialogs": "reactions/dialogs.html"},
    "message-looks": of_messages,
    "page": lambda ctx: {"palette": PALETTE},
    "changes": [on_reaction],
    "scripts": ["reactions.js"],
}
