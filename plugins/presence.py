"""Presence: who has the chat open, and who is typing. It is true for a moment, and nothing stores it.

A person is here while a page of theirs is open and in sight, on any server, and for some seconds after: a page that is
reloaded does not blink. Each server keeps in memory who is here by it, tells the others by notices, and says all of it
again from time to time, and forgets what is not repeated. Pages carry which of the people on them are here, and who is
typing; changes are gathered, and sent beside the listener, for they are not in the store. Each person can switch off to
be seen, and to see.
"""
import asyncio
import collections
import time
import uuid
import zlib

from voluptuous import Optional, Schema

import biff
from biff.sockets import text_frame
from plugins.names import author_of
from plugins.places import (finished, is_private, may_read, mem_in, people_in, private_channels_kept,
                            private_channels_of, signed_in)

GATHER_S = 1                          # between two words to one channel about typing, and to all about who is here
GRACE_S = 10                          # after the last page closed: it may be reloaded, or its phone changes networks
AWAY_S = 60                           # after the last page went out of sight: a look at another tab
TYPING_S = 6                          # a page says every 3 s that its reader types
TYPING_AGAIN_S = 2                    # it is passed over if it comes sooner, and nothing was said meanwhile
TYPING_SHOWN = 4                      # names: three are told, and one may be the reader's own
TYPING_CHANNELS_MAX = 10_000          # in which other servers say that somebody types
ONLINE_MAX = 400                      # if more of a community are here, its lists have no dots: they would be 15 KB
REPEAT_S = 30                         # a server says again who is here by it
FORGET_S = 100                        # what another server has not repeated; it may have been killed
NOTICE_PEOPLE = 150                   # in one notice, which has at most 7,900 bytes
PEOPLE_MAX = 50_000                   # of other servers
ONE_BY_ONE_MAX = 200                  # who came or went: of more, everybody is looked at
SLICE = 20                            # sockets looked at before the loop serves others: some 5 ms

SCHEMA = {
    "presence": Schema({
        "xt/id": str,
        "presence/user": uuid.UUID,
        Optional("presence/is-hidden"): bool,         # others do not see this person
        Optional("presence/is-blind"): bool,          # this person does not see others
    }, required=True),
}


def choice_of(db, person):
    """The choices of a person: {"sends": bool, "sees": bool}; False is switched off."""
    chosen = db.entity(f"presence {person}") or {}
    return {"sends": not chosen.get("presence/is-hidden"), "sees": not chosen.get("presence/is-blind")}


async def choose(ctx):
    """Stores both boxes of the form. The next pages know it, and open ones are told."""
    off = {what: word not in ctx["params"] for what, word in (("is-hidden", "sends"), ("is-blind", "sees"))}
    await biff.submit_tx(ctx, [{"db/doc-type": "presence", "db/op": "merge", "xt/id": f"presence {ctx['uid']}",
                                "presence/user": ctx["uid"],
                                **{f"presence/{what}": is_off or biff.DISSOC for what, is_off in off.items()}}])
    return finished(ctx, "/name")


# ── Who is here ──────────────────────────────────────────────────────────────────────────────────────────────


class Here:
    """The people who are here, by this server and by others, and by which memberships."""

    def __init__(self):
        self.mine: set = set()                         # people who are here by this server
        self.others: dict = {}                         # person → {server: when it said so last}
        self.members: dict = collections.defaultdict(set)      # community → memberships of people who are here
        self._mems: dict = {}                          # person → {(community, membership)}

    def __contains__(self, person):
        return person in self.mine or person in self.others

    def people(self):
        return self.mine | self.others.keys()

    def hear(self, person, server, is_here):
        if is_here and (person in self.others or len(self.others) < PEOPLE_MAX):
            self.others.setdefault(person, {})[server] = time.monotonic()
        elif person in self.others:
            self.others[person].pop(server, None)
            self._forget_if_gone(person)

    def forget(self, is_over):
        """Forgets each word for which `is_over(server, when it was said)`; the people whom it was the last word about.
        """
        gone = []
        for person, servers in list(self.others.items()):
            self.others[person] = {server: at for server, at in servers.items() if not is_over(server, at)}
            gone += [person] * self._forget_if_gone(person)
        return gone

    def _forget_if_gone(self, person):
        return not self.others[person] and self.others.pop(person) == {}

    def index(self, db, person):
        """Brings `members` up to date; the memberships that a person has or had."""
        before = self._mems.pop(person, set())
        after = {(mem["mem/comm"], mem["xt/id"]) for mem in biff.lookup_all(db, "mem/user", person)
                 if "mem/comm" in mem} if person in self else set()
        for community_id, mem_id in before - after:
            self.members[community_id].discard(mem_id)
            if not self.members[community_id]:
                del self.members[community_id]
        for community_id, mem_id in after - before:
            self.members[community_id].add(mem_id)
        if after:
            self._mems[person] = after
        return before | after


class Presence:
    """The presence that this server knows. It watches sockets: it hears who comes, goes, and says a word."""

    def __init__(self, system):
        self.system, self.here = system, Here()
        self._pages: collections.Counter = collections.Counter()       # person → pages in sight
        self._leaving: dict = {}                       # person → the timer of the grace
        self._turned: set = set()                      # people who came or went, and nobody was told
        self._is_turned = asyncio.Event()
        self.typing: dict = {}                         # channel → {membership: until when}
        self._telling: dict = {}                       # channel → the task that tells about typing there
        self._has_asked = False

    # Sockets

    def entered(self, ctx, client):
        client.mark, client.is_away = ctx["params"].get("here"), False
        self._page(client.person, 1)
        self._greet(ctx["biff/node"].db(), client)

    def left(self, client):
        if not client.is_away:
            self._page(client.person, -1, GRACE_S)

    def said(self, client, text):
        """True if it is a word of ours. Any other word of a browser closes its socket."""
        if text == "typing":
            self._type(client)
        elif text in ("away", "here") and client.is_away != (text == "away"):
            client.is_away = not client.is_away
            self._page(client.person, -1 if client.is_away else 1, AWAY_S)
        return text in ("typing", "away", "here")

    def _page(self, person, by, grace_s=0.0):
        self._pages[person] += by
        if timer := self._leaving.pop(person, None):
            timer.cancel()
        if self._pages[person] > 0:
            self.settle(person)
        else:
            del self._pages[person]
            self._leaving[person] = asyncio.get_running_loop().call_later(grace_s, self._leave, person)

    def _leave(self, person):
        del self._leaving[person]
        self.settle(person)

    def settle(self, person):
        """Says to the others that a person is here, or is not any more, if that has changed."""
        db = self.system["biff/node"].db()
        is_here = (person in self._pages or person in self._leaving) and choice_of(db, person)["sends"]
        if is_here != (person in self.here.mine):
            (self.here.mine.add if is_here else self.here.mine.discard)(person)
            biff.notify(self.system, "here" if is_here else "gone", [person])
            self.turn(person)

    def turn(self, person):
        self._turned.add(person)
        self._is_turned.set()

    # Other servers

    def hear(self, server, people, is_here):
        for person in map(uuid.UUID, people):
            was_here = person in self.here
            self.here.hear(person, server, is_here)
            if was_here != (person in self.here):
                self.turn(person)

    def keep(self):
        """Says again who is here, and forgets what others have not said again. A server that starts asks all."""
        if not self._has_asked:
            self._has_asked = True
            biff.notify(self.system, "who")
        self.repeat()
        old = time.monotonic() - FORGET_S
        self._forget(lambda server, at: at <= old)

    def _forget(self, is_over):
        for person in self.here.forget(is_over):
            self.turn(person)

    def begins(self, server):
        """A worker that was killed begins again: what it said before goes, unless it says it again."""
        begun = time.monotonic()
        asyncio.get_running_loop().call_later(GRACE_S, self._forget, lambda one, at: one == server and at < begun)

    def repeat(self):
        people = sorted(self.here.mine, key=str)
        for n in range(0, len(people), NOTICE_PEOPLE):
            biff.notify(self.system, "here", people[n:n + NOTICE_PEOPLE])

    def stop(self, telling):
        for waiting in telling, *self._telling.values(), *self._leaving.values():
            waiting.cancel()

    # Telling who is here

    async def tell(self):
        """Tells pages, for ever, who came and went. Where that is much work it takes a tenth of the time."""
        while True:
            await self._is_turned.wait()
            self._is_turned.clear()
            begun = time.monotonic()
            turned, self._turned = self._turned, set()
            await self._tell(self.system["biff/node"].db(), turned)
            await asyncio.sleep(max(GATHER_S, 9 * (time.monotonic() - begun)))

    async def _tell(self, db, turned):
        mems = {pair for person in turned for pair in self.here.index(db, person)}
        places, people = {community_id for community_id, _ in mems}, set()
        if is_few := len(turned) <= ONE_BY_ONE_MAX:
            for channel in (one for _, mem_id in mems for one in private_channels_of(db, mem_id)):
                people.update(people_in(db, channel))
        for n, client in enumerate(self.system["chat_clients"].sockets(), 1):
            if not is_few or client.person in people or client.place_id in places:
                self._greet(self.system["biff/node"].db(), client, with_typing=False)
            if n % SLICE == 0:
                await asyncio.sleep(0)

    def _greet(self, db, client, with_typing=True):
        """Tells a page what it does not know. One that says nothing of what it shows shows none of it."""
        place, known = db.entity(client.place_id), (client.mark or "").partition("-")
        if place is None or client.room is None or client.mark is None:
            return
        values = self.online_values(db, place, client.person)
        told = ""
        if values["online_mark"] != known[0]:
            told += biff.fragment(self.system, "presence/online.html", **values, is_news=True)
        if with_typing and known[2] != (typing := self.typing_values(db, place))["typing_mark"]:
            told += biff.fragment(self.system, "presence/typing.html", **typing, is_news=True)
        client.mark = f"{values['online_mark']}-{known[2]}"
        if told:
            client.write(text_frame(told))

    def online_values(self, db, place, person, mem=None):
        """The people on this person's page of a place who are here, by membership; and the person's own choices."""
        community_id, choice, shown = place.get("chan/comm", place["xt/id"]), choice_of(db, person), set()
        here = self.here.members.get(community_id, set()) if choice["sees"] else set()
        mem = mem or mem_in(db, person, community_id) if here else None
        if mem:
            privates = private_channels_kept(self.system, db, mem["xt/id"])
            near = {one for channel in privates for one in channel["chan/mems"]}
            shown = {str(one) for one in near & here if one != mem["xt/id"]}
            shown.update(map(str, here) if "chan/comm" not in place and len(here) <= ONLINE_MAX else ())
        online = sorted(shown)
        return {"online": online, "online_mark": mark_of([*online, *choice.items()]), **choice}

    # Typing

    def _type(self, client):
        """A page says that its reader types. Authority is read from the newest snapshot, as for every word."""
        db = self.system["biff/node"].db()
        if not choice_of(db, client.person)["sends"]:
            return
        if (db.entity(client.mem_id) or {}).get("mem/user") == client.person:
            if self.typed(db, client.place_id, client.mem_id):
                biff.notify(self.system, "typing", client.place_id, client.mem_id)

    def typed(self, db, channel_id, mem_id):
        """A member types in a channel; False if they may not, or if that was said just now."""
        channel, moment = db.entity(channel_id) or {}, time.monotonic()
        here = self.typing.get(channel_id, {})
        if not is_in(db, channel, mem_id) or here.get(mem_id, 0) > moment + TYPING_S - TYPING_AGAIN_S:
            return False
        if channel_id not in self.typing and len(self.typing) >= TYPING_CHANNELS_MAX:
            return False
        self.typing.setdefault(channel_id, {})[mem_id] = moment + TYPING_S
        if channel_id not in self._telling:
            self._telling[channel_id] = asyncio.create_task(self._tell_typing(channel_id))
        return True

    def stop_typing(self, channel_id, mem_id):
        self.typing.get(channel_id, {}).pop(mem_id, None)

    async def _tell_typing(self, channel_id):
        """Tells a channel who types there, once in GATHER_S at most, until nobody does."""
        told, rooms = None, self.system["chat_clients"]
        try:
            while told is None or told or self.typing[channel_id]:      # somebody may begin while it waits
                db = self.system["biff/node"].db()
                channel = db.entity(channel_id)
                values = self.typing_values(db, channel) if channel else {"typing": []}
                if channel and values["typing"] != told and channel_id in rooms:
                    frame = biff.fragment(self.system, "presence/typing.html", **values, is_news=True)
                    await rooms.say(channel_id, text_frame(frame))
                told = values["typing"]
                await asyncio.sleep(GATHER_S)
        finally:
            self._telling.pop(channel_id, None)
            self.typing.pop(channel_id, None)

    def typing_values(self, db, place):
        """The people who type at a place, with their names, those who began first."""
        moment, here = time.monotonic(), self.typing.get(place["xt/id"], {})
        for mem_id in [mem_id for mem_id, until in here.items() if until < moment or not is_in(db, place, mem_id)]:
            del here[mem_id]
        typing = [(str(mem_id), author_of(db, mem_id).name) for mem_id in list(here)[:TYPING_SHOWN]]
        return {"typing": typing, "typing_mark": mark_of(typing)}


def is_in(db, channel, mem_id):
    """True if somebody is a member who may read a channel."""
    mem = db.entity(mem_id) or {}
    return "chan/comm" in channel and mem.get("mem/comm") == channel["chan/comm"] and may_read(channel, mem_id)


def mark_of(values):
    """Two pages with the same mark show the same."""
    return f"{zlib.crc32(repr(values).encode()):x}"


# ── Words between servers ────────────────────────────────────────────────────────────────────────────────────


def on_here(system, server, people):
    system["chat_presence"].hear(server, people, True)


def on_gone(system, server, people):
    system["chat_presence"].hear(server, people, False)


def on_who(system, server):
    """A server that has just started asks."""
    system["chat_presence"].begins(server)
    system["chat_presence"].repeat()


def on_typing(system, server, channel_id, mem_id):
    system["chat_presence"].typed(system["biff/node"].db(), uuid.UUID(channel_id), uuid.UUID(mem_id))


async def keep(ctx):
    ctx["chat_presence"].keep()


async def use_presence(system):
    presence = system["chat_presence"] = Presence(system)
    system["chat_watchers"].append(presence)
    telling = asyncio.create_task(presence.tell())
    system["biff/stop"].append(lambda: presence.stop(telling))
    return system


def on_tx(ctx, tx):
    """A message ends its author's typing; people who switch off, join a community or leave it are told of anew."""
    presence = ctx["chat_presence"]
    for op in tx.ops:
        document = op[1] if op[0] == "put" else {}
        if "msg/mem" in document and document.get("msg/channel") in presence.typing:
            presence.stop_typing(document["msg/channel"], document["msg/mem"])
        if "presence/user" in document:
            presence.settle(document["presence/user"])
        for attribute in "mem/user", "former/user":
            if document.get(attribute) in presence.here:
                presence.turn(document[attribute])


# ── On pages ─────────────────────────────────────────────────────────────────────────────────────────────────


def on_change(changes, id, old, new):
    """Notes a change of what a person switched off, or of who is in a private channel."""
    for document in old or {}, new or {}:
        if "presence/user" in document:
            for part in "presence-choice", "online":
                changes.touch_person(document["presence/user"], part)
        elif is_private(document):
            for person in people_in(changes.db, document):
                changes.touch_person(person, "online")


def online_part(ctx, db, place, user, about):
    values = ctx["chat_presence"].online_values(db, place, user["xt/id"])
    return biff.fragment(ctx, "presence/online.html", **values, is_news=True)


def typing_part(ctx, db, place, user, about):
    """The same for all who are at a place; it is here for pages that ask for news, and is told to rooms otherwise."""
    return biff.fragment(ctx, "presence/typing.html", **ctx["chat_presence"].typing_values(db, place), is_news=True)


def choice_part(ctx, db, place, user, about):
    return biff.fragment(ctx, "presence/choice.html", **choice_of(db, user["xt/id"]), is_news=True)


def page_values(ctx):
    presence, db = ctx["chat_presence"], ctx["biff/db"]
    place = ctx.get("channel") or ctx.get("community") or ctx["user"]
    return presence.online_values(db, place, ctx["uid"], ctx.get("mem")) | presence.typing_values(db, place)


PLUGIN = {
    "schema": SCHEMA,
    "routes": [("POST", "/presence", signed_in, choose)],
    "components": [use_presence],
    "on_tx": on_tx,
    "notices": {"here": on_here, "gone": on_gone, "who": on_who, "typing": on_typing},
    "tasks": [{"task": keep, "schedule": biff.every(REPEAT_S)}],
    "slots": {"state": "presence/state.html", "above-compose": "presence/words.html", "you": "presence/form.html"},
    "page": page_values,
    "changes": [on_change],
    "person-parts": {"online": online_part, "typing": typing_part, "presence-choice": choice_part},
    "scripts": ["presence.js"],
}
