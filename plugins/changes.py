"""Changes: what a transaction changed on open pages, and the fragments that say so.

A page stands at a *place*: a channel, a community, or a person's own first page; the sockets at one place are a room.
Its messages are told one by one. Every other live piece of it is a *part*: a named function that renders the piece as
it is now, so that a part told twice is the same as told once. A plugin touches a part for all pages of a place, or for
the pages of one person:

    def on_change(changes, id, old, new):              # "changes": [on_change]; one call a document that was written
        if "chan/topic" in (new or {}):
            changes.touch(new["chan/comm"], "topic", id)

    def topic_part(ctx, db, place, about): …           # "parts": {"topic": topic_part}; `about` None is the whole

The law for all of it: a page as it was loaded, and the fragments since, are the page as it would load now.
"""
import collections
import functools
import logging
import sys
import uuid

import jinja2
import markupsafe

import biff
from biff.sockets import text_frame
from plugins.places import channel_path, messages_of

log = logging.getLogger("eelchat")

VIEWS_BYTES_MAX = 16 * 1024 * 1024    # of rendered messages that are kept: some 10,000, all that people have open
PEOPLE_KEPT = 10_000                  # of whom it is known when their own parts last changed
SHOWN_NOWHERE = "session-", "token-", "draft-"      # beginnings of ids that no page is made from; evicted daily
LOOKUPS_MAX = 100                     # ids of one transaction looked up one by one; of more, whole lists are sent anew

# ── What a transaction changed ───────────────────────────────────────────────────────────────────────────────


class Changes:
    """The net effect of a transaction: what was before, what is after. Frames are made when somebody hears them.

    A hook may leave to `later` what only people in one community see and what nothing that is kept depends on. It is
    done when somebody there hears of the transaction, so that a worker does nothing for those who are elsewhere.
    """

    def __init__(self, ctx, db, written):
        self.ctx, self.db, self._frames = ctx, db, {}
        self._written = written       # id → the document that was put, {} if it was deleted
        self._later, self._later_at = [], set()        # [(function, arguments)]; the communities that they concern
        self.messages = {}            # channel id → [(kind, document)]; kind is "new", "edited", "deleted"
        self.anew = set()             # channels whose list is sent as a whole
        self.touched = {}             # id of a place → {(part, about): None}; a community's reach its channels
        self.people = {}              # the same by person, for that person's pages
        self.members = {}             # the same by community, for the pages of its members, wherever they are
        self.shared = {}              # community id → [fragment]
        self.forgotten = []           # evicted ids: no snapshot says where they were shown, so all lists are sent anew
        self.ids, self.others = set(), set()          # of messages, and of everything else that was written
        self.moved = set()            # channels into which a message came from another one
        self.spoiled, self.spoils_all = set(), False   # keys of what was derived before, and is made anew
        self.size = 0

    def touch(self, place_id, part, about=None):
        """The part has changed on the pages of this place."""
        self.touched.setdefault(place_id, {})[part, about] = None

    def share(self, community_id, text):
        """A fragment for all pages of a community, the same for each: it adds what a page may be told twice."""
        self.shared.setdefault(community_id, []).append(text)

    def touch_person(self, person, part, about=None):
        """The part has changed on the pages of this person."""
        self.people.setdefault(person, {})[part, about] = None

    def touch_members(self, community_id, part, about=None):
        """The part has changed on the pages of all who are in this community."""
        self.members.setdefault(community_id, {})[part, about] = None

    def spoil(self, what, id):
        """Forgets the value that `kept` has under this key."""
        self.spoiled.add((what, id))

    def retouch(self, message):
        """A message looks different although its document is the same."""
        if channel_id := channel_of(message):
            told = self.messages.setdefault(channel_id, [])
            if not any(message["xt/id"] == known["xt/id"] for _, known in told):
                told.append(("edited", message))

    def later(self, community_id, do, *args):
        """Leaves `do(changes, *args)` until somebody in the community hears of this. It does what hooks do, but spoil.
        """
        self._later.append((do, args))
        self._later_at.add(community_id)

    def settle(self):
        """Does what was left to later."""
        if not self._later:
            return
        doing, self._later, known = self._later, [], set(self.anew)
        for do, args in doing:
            attempt(do, self, *args)
        tell_anew(self, self.anew - known)
        self.ctx["chat_people"].note(self, self.db.tx_id)

    def place(self, id):
        """The document of a community or a channel after the transaction, shared: whoever gets it changes nothing."""
        if id in self._written:
            return self.db.entity(id)
        return self.ctx["chat_kept"].heard(self.ctx, self.db, ("place", id), lambda: self.db.entity(id))

    def rooms(self, rooms):
        """The rooms that may have something to hear."""
        if self.forgotten:
            return set(rooms)
        if any(map(rooms.near, self._later_at)):
            self.settle()
        places = {*self.messages, *self.anew, *self.touched, *self.shared}
        return {id for place_id in places for id in rooms.near(place_id)}

    def is_whole(self, place_id):
        """True if the pages of a place are sent their whole list."""
        if self._later and place_id in self.messages:
            self.settle()
        return bool(self.forgotten) or place_id in self.anew

    def shown(self, place_id):
        """The ids of messages whose text the pages of a place are told; None if it is the whole list."""
        return None if self.is_whole(place_id) else self._told(place_id, "new", "edited")

    def changed(self, place_id):
        """The ids of those whose former text nobody is to see any more; None for any."""
        return None if self.is_whole(place_id) else self._told(place_id, "edited", "deleted")

    def _told(self, channel_id, *kinds):
        return {message["xt/id"] for kind, message in self.messages.get(channel_id, ()) if kind in kinds}

    def frame(self, place_id):
        """The frame for the pages of a place, with the tx_id; None if nothing there changed, or it is gone."""
        if place_id not in self._frames:
            text = self._text(place_id)
            if not text or self.is_whole(place_id):    # not kept: a list is large
                return text and text_frame(text)
            self._frames[place_id] = text_frame(text)
        return self._frames[place_id]

    def _text(self, place_id):
        is_here = place_id in self.messages or place_id in self.anew
        if not (is_here or self._later or self.touched or self.shared or self.forgotten):
            return None
        place = self.place(place_id)
        if not self._later_at.isdisjoint(scopes_of(place)):
            self.settle()
        parts = [*self._parts(place), *self._shared(place)]
        if place is None or not (is_here or parts or self.forgotten):
            return None
        if self.is_whole(place_id):
            return whole_view(self.ctx, self.db, place_id, parts)
        told = self.messages.get(place_id, ())
        view = view_of(self.ctx, self.db, [message for kind, message in told if kind != "deleted"])
        return biff.fragment(self.ctx, "changes.html", view=view, parts=parts, changes=told, tx_id=self.db.tx_id)

    def _shared(self, place):
        return [markupsafe.Markup(text) for scope in scopes_of(place) for text in self.shared.get(scope, ())]

    def _parts(self, place):
        touched: dict = {}
        for scope in scopes_of(place):
            touched |= self.touched.get(scope, {})
        return [part_view(self.ctx, self.db, place, part, about) for part, about in touched]

    def is_for(self, person):
        """True if something is told to this person's pages alone."""
        if self.forgotten or person in self.people:
            return True
        return any(is_member(self.db, person, id) for id in self.members)

    def person_frame(self, person, place_id):
        """The frame for this person's pages at a place, or None. It has no tx_id: it may be told again."""
        if self.forgotten:
            return person_frame(self.ctx, self.db, person, place_id) or None
        touched = dict(self.people.get(person, {}))
        for community_id, parts in self.members.items():
            touched |= parts if is_member(self.db, person, community_id) else {}
        return person_frame(self.ctx, self.db, person, place_id, touched) or None


def scopes_of(place):
    """The ids under which a place is touched: a channel's pages show their community too."""
    if place is None:
        return ()
    return (place["chan/comm"], place["xt/id"]) if "chan/comm" in place else (place["xt/id"],)


def part_view(ctx, db, place, part, about=None):
    return markupsafe.Markup(biff.dicts(ctx, "parts")[part](ctx, db, place, about))


def person_frame(ctx, db, person, place_id, touched=None):
    """The parts of a page that are one person's own, as they are now: those touched, or all. b"" for nothing."""
    named, place, user = biff.dicts(ctx, "person-parts"), db.entity(place_id), db.entity(person)
    if place is None or user is None:
        return b""
    touched = [(part, None) for part in named] if touched is None else touched
    text = "".join(named[part](ctx, db, place, user, about) for part, about in touched)
    return text_frame(text) if text else b""


def is_member(db, person, community_id):
    return biff.lookup_id(db, "mem/user", person, "mem/comm", community_id) is not None


class People:
    """Which transaction last changed the pages of one person, of those that were read: a page older than it is told."""

    def __init__(self):
        self._people, self._communities, self._all = {}, {}, 0

    def note(self, changes, tx_id):
        for last, ids in (self._people, changes.people), (self._communities, changes.members):
            for id in ids:
                last[id] = max(tx_id, last.get(id, 0))
        if len(self._people) + len(self._communities) > PEOPLE_KEPT:
            self._people, self._communities, self._all = {}, {}, tx_id

    def touch(self, person, db):
        """Notes a change for this person that is in no transaction: pages made by now may not know it."""
        self._people[person] = db.tx_id + 1

    def is_behind(self, db, person, after):
        if max(self._all, self._people.get(person, 0)) > after:
            return True
        return any(tx_id > after and is_member(db, person, id) for id, tx_id in self._communities.items())


# ── Found from a transaction ─────────────────────────────────────────────────────────────────────────────────


def changes_of(ctx, tx):
    """Worked out from the snapshots before and after. What a transaction writes and takes back is touched, no more."""
    node, after = ctx["biff/node"], ctx["biff/node"].db(tx.tx_id)
    written = {op[1]["xt/id"]: op[1] for op in tx.ops if op[0] == "put"}
    written |= {op[1]: {} for op in tx.ops if op[0] == "delete"}
    changes, hooks, created = Changes(ctx, after, written), biff.parts(ctx, "changes"), created_by(tx.ops)
    if len(written) > LOOKUPS_MAX:
        note_many(changes, hooks, node.db(tx.tx_id - 1), after, written)
    else:
        for id, document in written.items():
            old = None if id in created else node.db(tx.tx_id - 1).entity(id)
            note(changes, hooks, id, old, document if id in created else after.entity(id), document)
    evicted = [op[1] for op in tx.ops if op[0] == "evict"]
    changes.forgotten = [id for id in evicted if type(id) is uuid.UUID]    # sessions and tokens have another type of id
    changes.others.update(evicted)
    for id in changes.messages:
        channel = changes.place(id) or {}
        if id in changes.moved or "chan/comm" not in channel:
            look_at_the_end(changes, id)
        else:
            changes.later(channel["chan/comm"], look_at_the_end, id)
    tell_anew(changes, tuple(changes.anew))
    changes.spoils_all = bool(changes.anew) or any(
        type(id) is not str or not id.startswith(SHOWN_NOWHERE) for id in evicted)
    changes.spoiled |= {("facts", message["xt/id"]) for told in changes.messages.values() for _, message in told}
    changes.spoiled |= {("newest", id) for id in (*changes.messages, *changes.anew)}
    changes.size = size_of(changes)
    return changes


def created_by(ops):
    """The ids of documents that a transaction found absent and put, from now on, and touched in no other way."""
    by_id: dict = {}
    for op in ops:
        by_id.setdefault(op[1]["xt/id"] if op[0] == "put" else op[1], []).append(op)
    return {id for id, theirs in by_id.items()
            if len(theirs) == 2 and theirs[0] == ("match", id, None) and len(theirs[1]) == 2
            and theirs[1][0] == "put" and "xt/evicted?" not in theirs[1][1]}


def size_of(changes):
    """About the number of bytes it holds: each message's text, and a frame with up to five bytes for a letter."""
    texts = [str(message.get("msg/text")) for made in changes.messages.values() for _, message in made]
    return 500 + 100 * len(changes.ids) + sum(sys.getsizeof(text) + 5 * len(text) for text in texts)


def note(changes, hooks, id, old, new, written):
    """Notes the change of one document."""
    before, after, between = map(channel_of, (old, new, written))
    tell(hooks, changes, id, old, new)
    if not (before or after or between):
        changes.others.add(id)
        if any(name in (document or {}) for document in (old, new) for name in ("chan/comm", "comm/title")):
            changes.spoil("place", id)
        return
    changes.ids.add(id)
    if between:
        changes.messages.setdefault(between, [])
    if before and before != after:
        changes.messages.setdefault(before, []).append(("deleted", old))
        changes.moved.add(after)
    if after:
        changes.messages.setdefault(after, []).append(("edited" if before == after else "new", new))


def tell(hooks, changes, id, old, new):
    """A document put past its schema makes a plugin fail, and takes nothing else of the transaction with it."""
    for hook in hooks:
        attempt(hook, changes, id, old, new)


def attempt(hook, changes, *args):
    try:
        hook(changes, *args)
    except Exception:
        log.exception("%s failed at a document of transaction %d", hook.__qualname__, changes.db.tx_id)


def look_at_the_end(changes, channel_id):
    """Sends a channel's list anew if its new messages are not its newest."""
    if not is_at_the_end(changes.db, channel_id, changes.messages[channel_id]):
        changes.anew.add(channel_id)


def tell_anew(changes, ids):
    """Tells hooks of channels whose lists are sent anew."""
    for id in ids:
        if channel := changes.db.entity(id):
            tell(biff.parts(changes.ctx, "changes"), changes, id, channel, channel)


def channel_of(document):
    """The channel of a message; None for a document that is no message, however wrongly it was put."""
    channel_id = document.get("msg/channel") if document else None
    return channel_id if type(channel_id) is uuid.UUID else None


def note_many(changes, hooks, before, after, written):
    """Notes very many documents, as when a channel goes: only their channels, whose lists are sent anew."""
    places = {"find": ["?message", "?channel"], "in": [["?message", ...]],
              "where": [["?message", "msg/channel", "?channel"]]}
    for db in before, after:
        for id, channel_id in db.q(places, list(written)):
            changes.ids.add(id)
            changes.anew.add(channel_id)
    for id in written.keys() - changes.ids:
        note(changes, hooks, id, before.entity(id), after.entity(id), written[id])


def is_at_the_end(db, channel_id, made):
    """True if the new messages are the channel's newest: one that was there before goes back to its old place."""
    new = [message["xt/id"] for kind, message in made if kind == "new"]
    newest = {"find": "?message", "in": ["?channel"], "where": [["?message", "msg/channel", "?channel"]],
              "order-by": [[("created", "?message"), "desc"]], "limit": len(new)}
    return not new or biff.q(db, newest, channel_id) == new[::-1]


# ── Fragments ────────────────────────────────────────────────────────────────────────────────────────────────


def whole_view(ctx, db, place_id, parts=None):
    """All that is live at a place, for a browser too far behind for fragments."""
    place = db.entity(place_id)
    if place is None:
        return ""
    if parts is None:
        parts = [part_view(ctx, db, place, part) for part in biff.dicts(ctx, "parts")]
    if "chan/comm" not in place:
        return biff.fragment(ctx, "changes.html", parts=parts, changes=(), tx_id=db.tx_id)
    messages, has_older = messages_of(db, place)
    return biff.fragment(ctx, "list_fragment.html", view=view_of(ctx, db, messages), messages=messages,
                         has_older=has_older, path=channel_path(place), tx_id=db.tx_id, parts=parts)


# ── Messages as HTML ─────────────────────────────────────────────────────────────────────────────────────────


def view_of(ctx, db, messages=()):
    """The function `view(*messages)` that templates call for the HTML of messages, as of a snapshot.

    The values that plugins add are asked for once for all `messages` of a page; of another message when it is shown.
    """
    return functools.partial(messages_view, ctx, db, facts_of(ctx, db, messages))


def messages_view(ctx, db, facts, *messages, oob=None):
    return markupsafe.Markup("").join([ctx["chat_views"](
        one, facts.get(one["xt/id"]) or facts_of(ctx, db, [one])[one["xt/id"]], oob) for one in messages])


def list_view(ctx, db, channel, messages, has_older=False, view=None):
    """The messages of a page as HTML, below a link to older ones."""
    return markupsafe.Markup(biff.fragment(ctx, "older.html", view=view or view_of(ctx, db, messages),
                                           messages=messages, has_older=has_older, path=channel_path(channel)))


def newest_view(ctx, db, channel, count):
    """`list_view` of the newest messages. It is kept, for all who come to a channel see the same, until pages there are
    told of a message, or somebody's name changes.
    """
    keep, is_lasting = ctx["chat_kept"], True
    names = keep(ctx, db, ("names", "all"), lambda: db.tx_id)
    key = "newest", channel["xt/id"], count, names
    if (html := keep.at_hand(db, key)) is None:
        messages, has_older = messages_of(db, channel, count=count)
        facts = facts_of(ctx, db, messages)
        is_lasting, view = all(map(lasts, facts.values())), functools.partial(messages_view, ctx, db, facts)
        html = list_view(ctx, db, channel, messages, has_older, view)
    return keep(ctx, db, key, lambda: html, sys.getsizeof) if is_lasting else html


def facts_of(ctx, db, messages):
    """The values of messages that plugins add to their documents, as {id: {name: value}}."""
    facts = kept_facts(ctx, db, messages)
    for plugin in ctx["biff/plugins"] if messages else ():
        if "messages" in plugin:
            add(facts, plugin["messages"](db, messages))
    return facts


def kept_facts(ctx, db, messages):
    """The values that change only when pages are told their message anew. They are asked for once until then."""
    keep, facts = ctx["chat_kept"], {}
    ctx["chat_lately"].read_up(db.tx_id)               # so that all changes up to this snapshot are known
    for message in messages:
        facts[message["xt/id"]] = dict(keep.at_hand(db, ("facts", message["xt/id"])) or ())
    if missing := [message for message in messages if not facts[message["xt/id"]]]:
        for plugin in ctx["biff/plugins"]:
            if "message-looks" in plugin:
                add(facts, plugin["message-looks"](db, missing))
        for message in missing:
            values = dict(facts[message["xt/id"]])
            if lasts(values):
                keep(ctx, db, ("facts", message["xt/id"]), lambda values=values: values,
                     lambda made: 4 * len(str(made)))
    return facts


def lasts(facts):
    """False if a message names what is not there, for nobody is told when that comes."""
    return {} not in facts.values()


def add(facts, values_by_id):
    for id, values in values_by_id.items():
        facts[id].update(values)


class Views:
    """The HTML of messages, kept for those that were shown last. A message that looks different is rendered anew.

    It is kept as UTF-8: one emoji makes every letter of a Python text four bytes long.
    """

    def __init__(self, template):
        self._template, self._kept, self._bytes = template, collections.OrderedDict(), 0

    def __call__(self, message, facts, oob=None):
        if oob:
            return self._rendered(message, facts, oob)
        known, html = self._kept.get(message["xt/id"], (None, None))
        if known == (message, facts):
            self._kept.move_to_end(message["xt/id"])
            return markupsafe.Markup(html.decode())
        return self._keep(message, facts, self._rendered(message, facts))

    def _rendered(self, message, facts, oob=None):
        """Leaves out a message that was put past the schema, so that the page and the others are shown."""
        try:
            return markupsafe.Markup(self._template.render(message=message, oob=oob, **facts))
        except Exception:
            log.exception("The message %s cannot be shown", message["xt/id"])
            swap = markupsafe.Markup(' hx-swap-oob="{}"').format(oob) if oob else ""
            return markupsafe.Markup('<article id="message-{}"{}><p>This message cannot be shown.</p></article>'
                                     ).format(message["xt/id"], swap)

    def _keep(self, message, facts, html):
        self.forget([message["xt/id"]])
        self._kept[message["xt/id"]] = kept = (message, facts), html.encode("utf-8", "backslashreplace")
        self._bytes += self._size(kept)
        while self._bytes > VIEWS_BYTES_MAX:
            self._bytes -= self._size(self._kept.popitem(last=False)[1])
        return html

    def _size(self, kept):
        (message, _), html = kept
        return len(html) + sys.getsizeof(message.get("msg/text")) + 1_000       # 1,000: the rest, and their places

    def forget(self, ids):
        for id in ids:
            if kept := self._kept.pop(id, None):
                self._bytes -= self._size(kept)


def use_views(system):
    """Messages' HTML, and the places in templates that plugins fill: `{% slot "menu" %}` has their templates."""
    jinja: jinja2.Environment = system["biff/jinja"]
    slots = jinja.extensions["biff.pages.Inlined"].slots      # type: ignore[attr-defined]
    for plugin in system["biff/plugins"]:
        for name, template in plugin.get("slots", {}).items():
            slots.setdefault(name, []).append(template)
    jinja.filters |= biff.dicts(system, "filters")
    scripts = [markupsafe.Markup('<script src="{}"></script>').format(jinja.filters["asset"](file))
               for file in biff.parts(system, "scripts")]
    jinja.globals["scripts"] = markupsafe.Markup("\n").join(scripts)
    system["chat_views"] = Views(jinja.get_template("message.html"))
