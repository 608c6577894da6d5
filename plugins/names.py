"""Names: what people are called, in every community the same. The address of a person stays private.

A message names a membership, that names a user, and the user has the name: so a new name stands in old messages too.
The membership of a person who has left becomes a "former" document with the same id: their messages keep their author.
"""
import unicodedata
import uuid
from typing import NamedTuple

from voluptuous import All, Length, Optional

import biff
from plugins import places
from plugins.places import finished, shows, signed_in

NAME_CHARS_MAX = 60                   # "Maria del Carmen Fernández-Villaverde y Ortega" has 46
ALIKE = str.maketrans("01ıl|!5$3@і", "oiiiiissea" + "i")      # drawn alike in most fonts


class Author(NamedTuple):
    name: str
    initials: str
    hue: str                          # a hexadecimal digit: one of sixteen colours


SYSTEM = Author("System", "sy", "s")


def author_of(db, mem_id):
    """The author's name, by membership. A person without a chosen name has one made of the membership's id."""
    if type(mem_id) is not uuid.UUID:
        return SYSTEM
    mem, sign = db.entity(mem_id) or {}, str(mem_id)
    person = mem.get("mem/user") or mem.get("former/user")
    user = db.entity(person) if person else None
    name = (user or {}).get("user/name")
    return Author(name, initials_of(name), sign[0]) if name else Author(f"User {sign[:4]}", sign[:2], sign[0])


def authors_of(db, messages):
    """The author of each message; of those of one member it is looked up once."""
    authors = {mem_id: {"author": author_of(db, mem_id)} for mem_id in {message["msg/mem"] for message in messages}}
    return {message["xt/id"]: authors[message["msg/mem"]] for message in messages}


def name_of(user):
    """A person's name where no membership is at hand: in the foot of their own pages."""
    return user.get("user/name") or "Your name"


def initials_of(name):
    words = [word for word in name.split() if word[0].isalnum()] or [name]
    return "".join(word[0] for word in (words[:1] if len(words) < 2 else (words[0], words[-1]))).upper()[:2]


def tidy(text):
    """A name in one line, of characters that show."""
    name = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return name if shows(name) else ""


def key_of(name):
    """Names with the same key look alike to most people."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", name).casefold().translate(ALIKE))
    return "".join(c for c in plain if c.isalnum())


# ── Choosing ─────────────────────────────────────────────────────────────────────────────────────────────────


async def name_page(ctx):
    return biff.render(ctx, "names/page.html", user=ctx["user"], back=back_of(ctx), chars_max=NAME_CHARS_MAX,
                       alike=alike(ctx["biff/db"], ctx["user"]), **places.page_values(ctx))


async def new_name(ctx):
    name = tidy(ctx["params"].get("name", ""))
    if not 0 < len(name) <= NAME_CHARS_MAX:
        return biff.error(ctx, 422, f"A name has 1 to {NAME_CHARS_MAX} characters; this one has {len(name)}.")
    await biff.submit_tx(ctx, [name_op(ctx, name)])
    if alike(ctx["biff/node"].db(), ctx["user"] | {"user/name-key": key_of(name)}):
        return biff.redirect(ctx, biff.url("/name", saved="", **{"return-to": back_of(ctx)}))
    return finished(ctx, back_of(ctx))


def name_op(ctx, name):
    return {"db/doc-type": "user", "db/op": "update", "xt/id": ctx["uid"], "user/name": name,
            "user/name-key": key_of(name)}


def back_of(ctx):
    path = ctx["params"].get("return-to", "")
    return path if biff.is_local(path) else "/app"


def alike(db, user):
    """The names of others in the same communities that look like this one's."""
    if not (key := user.get("user/name-key")):
        return []
    mine = communities_of(db, user["xt/id"])
    others = biff.lookup_all(db, "user/name-key", key, limit=100)
    return [other["user/name"] for other in others
            if other["xt/id"] != user["xt/id"] and mine & communities_of(db, other["xt/id"])]


def communities_of(db, uid):
    return set(db.q({"find": "?c", "in": ["?u"], "where": [["?m", "mem/user", "?u"], ["?m", "mem/comm", "?c"]]}, uid))


# ── On pages ─────────────────────────────────────────────────────────────────────────────────────────────────


def on_name(changes, id, old, new):
    """A new name goes to every page that shows a message of its bearer, and to the foot of the bearer's own."""
    db = changes.db
    if (old or new or {}).get("user/email") and (old or {}).get("user/name") != (new or {}).get("user/name"):
        changes.touch_person(id, "foot")
        for attribute, community in ("mem/user", "mem/comm"), ("former/user", "former/comm"):
            for mem in biff.lookup_all(db, attribute, id):
                changes.touch(mem[community], "name", mem["xt/id"])
        changes.spoil("names", "all")
    ids = [(document or {}).get("mem/user") or (document or {}).get("former/user") for document in (old, new)]
    if ids[0] != ids[1]:
        changes.spoil("names", "all")
    if old and ids[0] != ids[1] and (comm := old.get("mem/comm") or old.get("former/comm")):
        changes.touch(comm, "name", id)


def name_part(ctx, db, place, mem_id):
    """The name in all messages of one member; a page that is sent as a whole has it already."""
    if mem_id is None or "chan/comm" not in place:
        return ""
    return biff.fragment(ctx, "names/name.html", mem_id=mem_id, author=author_of(db, mem_id))


def page_values(ctx):
    me = author_of(ctx["biff/db"], ctx["mem"]["xt/id"]) if ctx.get("mem") else None
    return {"my_name": name_of(ctx["user"]), "me": me, "name_chars_max": NAME_CHARS_MAX}


def foot_part(ctx, db, place, user, about):
    return biff.fragment(ctx, "names/my_name.html", my_name=name_of(user), is_news=True)


PLUGIN = {
    "extends": {"user": {Optional("user/name"): All(str, Length(1, NAME_CHARS_MAX)), Optional("user/name-key"): str}},
    "routes": [("GET", "/name", signed_in, name_page), ("POST", "/name", signed_in, new_name)],
    "slots": {"sidebar-foot": "names/foot.html", "welcome": "names/welcome.html", "dialogs": "names/dialog.html",
              "above-compose": "names/hint.html"},
    "page": page_values,
    "messages": authors_of,
    "changes": [on_name],
    "parts": {"name": name_part},
    "person-parts": {"foot": foot_part},
}
