"""Unread: what is new in each channel since a person has read it, on all of their pages.

A reading position is a tx_id: everything that the log holds up to it is read. Before the first one it is the
transaction of the membership. It moves forward while the end of a channel is in sight and the window has the focus. A
page says when that begins and when it ends; in between its person *follows* the channel: what is said there is read on
all of their pages, and no message makes a page say anything. A position is kept in memory and put into the store
rarely: when its person has gone, and else after ten minutes.

A page carries, for each channel, how many messages were unread when it was made, up to COUNT_MAX; each new message adds
its id, and the browser counts.
"""
import datetime as dt
import itertools
import math
import uuid
import weakref
from typing import NamedTuple

from aiohttp import web
from voluptuous import Optional, Schema

import biff
from plugins.changes import channel_of, person_frame
from plugins.edits import MESSAGE, in_message
from plugins.permalinks import surroundings_view
from plugins.places import (channel_path, channels_kept, community_path, finished, in_channel, in_community, is_private,
                            may_read, mem_in, people_in, private_channels_kept)

PUT_AFTER = dt.timedelta(minutes=10)  # of a position that moves all day: six puts an hour
PUT_LOOK_S = 60                       # how often it is looked whose positions are to be put
READS_A_PERSON = 120, 60              # in a minute: each coming and each leaving, in a few windows
HEARD_MAX = 10_000                    # positions that moved on other servers and are not in the store yet
PUTS_MAX = 500                        # positions in one transaction
WORDS_MAX = 20_000                    # pages of which it is known which of their words came last
PAGES_MAX = 8                         # pages that follow one channel for one person; the oldest is forgotten
FOLLOWS = dt.timedelta(minutes=11)    # so long after a page said that it stays: it says so every ten minutes
COUNT_MAX = 100                       # unread messages counted in a channel; it is shown as "99+"
FIRST_LOOK = 10                       # messages of a channel that are looked at first: most people have read the others
LAST_SAID_MAX = 50_000                # channels of which it is remembered when something was said last
POSITIONS_MAX = 50                    # for each channel, of which it is remembered how much was said since
BEFORE_FIRST = 5                      # messages above the first unread one, to remember what it was about
LANDING_MAX = 200                     # messages of a first page that begins at the first unread one; more are loaded
LOOKED_THROUGH_MAX = 1_000            # transactions among which it is sought what was said first after a position

CHANNEL = "/community/{id}/channel/{channel_id}"
SCHEMA = {
    "reading": Schema({
        "xt/id": str,
        "read/mem": uuid.UUID,
        "read/channel": uuid.UUID,
        Optional("read/tx"): int,
        Optional("read/upto"): uuid.UUID,         # in the place of read/tx, as it was put before: the last message read
        Optional("read/at"): dt.datetime,
        Optional("read/is-muted"): bool,
    }, required=True),
}


class Positions:
    """Positions that are not in the store yet, by (mem, channel), as (tx_id, when, waiting since); and who follows.

    `heard` has the positions that moved on another server, which puts them into the store: (tx_id, when).
    """

    def __init__(self):
        self.moved: dict = {}
        self.heard: dict = {}
        self.followed: dict = {}      # → {page: (person, until when)}
        self.words: dict = {}         # page → the number of its last word
        self._read: dict = {}         # mem → {channel: the tx_id up to which it is read by the three above}

    def read_by(self, mem_id):
        """How far a member has read the channels of which the store does not know it; infinity is one they follow."""
        return self._read.get(mem_id, {})

    def _note(self, mem_id, channel_id):
        key = mem_id, channel_id
        upto = math.inf if key in self.followed else self.of(*key)
        if upto is not None:
            self._read.setdefault(mem_id, {})[channel_id] = upto
        elif mem_id in self._read:
            self._read[mem_id].pop(channel_id, None)
            if not self._read[mem_id]:
                del self._read[mem_id]

    def move(self, mem_id, channel_id, upto, now):
        since = self.moved.get((mem_id, channel_id), (None, None, now))[2]
        self.moved[mem_id, channel_id] = upto, now, since
        self._note(mem_id, channel_id)

    def hear(self, mem_id, channel_id, upto, at):
        key = mem_id, channel_id
        if key in self.moved and self.moved[key][1] < at:              # the other server puts the newer one
            del self.moved[key]
        self.heard.pop(key, None)
        self.heard[key] = upto, at
        self._note(*key)
        if len(self.heard) > HEARD_MAX:
            oldest = next(iter(self.heard))
            del self.heard[oldest]
            self._note(*oldest)

    def was_put(self, mem_id, channel_id, at):
        """Forgets a position that was heard when the store has it, or a newer one."""
        if self.heard.get((mem_id, channel_id), (None, at))[1] <= at:
            self.heard.pop((mem_id, channel_id), None)
            self._note(mem_id, channel_id)

    def have_put(self, key, value):
        """Forgets a position that this server has put into the store, unless it has moved since."""
        if self.moved.get(key) == value:
            del self.moved[key]
            self._note(*key)

    def of(self, mem_id, channel_id):
        """The position that moved last, here or elsewhere; None for the one in the store."""
        here, there = self.moved.get((mem_id, channel_id)), self.heard.get((mem_id, channel_id))
        if here and there:
            return here[0] if here[1] >= there[1] else there[0]
        return (here or there or (None,))[0]

    def follow(self, mem_id, channel_id, person, page, now):
        pages = self.followed.setdefault((mem_id, channel_id), {})
        pages.pop(page, None)
        pages[page] = person, now + FOLLOWS
        if len(pages) > PAGES_MAX:
            del pages[next(iter(pages))]
        self._note(mem_id, channel_id)

    def is_in_order(self, page, number):
        """False if a later word of the page came first: a page that is left at once has two requests on their way."""
        last = self.words.pop(page, 0)
        self.words[page] = max(last, number)
        if len(self.words) > WORDS_MAX:
            del self.words[next(iter(self.words))]
        return number >= last

    def leave(self, mem_id, channel_id, page=""):
        """Ends the following of a channel by one page, or by all without a name."""
        pages = self.followed.get((mem_id, channel_id), {})
        pages.pop(page, None)
        if not (page and pages):
            self.followed.pop((mem_id, channel_id), None)
        self._note(mem_id, channel_id)

    def followed_by(self, mem_id):
        return [id for id, upto in self.read_by(mem_id).items() if upto == math.inf]

    def leave_alone(self, present, now):
        """Forgets pages of people who are not there any more, and those that say nothing; gives the people."""
        gone = {(key, page): person for key, pages in self.followed.items() for page, (person, end) in pages.items()
                if person not in present or end < now}
        for (mem_id, channel_id), page in gone:
            self.leave(mem_id, channel_id, page)
        return set(gone.values())


def reading_id(mem_id, channel_id):
    return f"reading {mem_id} {channel_id}"


# ── What a person has read ───────────────────────────────────────────────────────────────────────────────────


class Read(NamedTuple):
    """The store's knowledge of one member."""
    joined: int                       # the transaction of the membership: what was said before is not new
    upto: dict                        # channel id → tx_id
    muted: list                       # ids of channels


def read_by(ctx, db, mem_id):
    return ctx["chat_kept"](ctx, db, ("read by", mem_id), lambda: stored_of(db, mem_id),
                            lambda read: 200 * len(read.upto))


def stored_of(db, mem_id):
    found = biff.lookup_all(db, "read/mem", mem_id)
    upto = {one["read/channel"]: position_in(db, one) for one in found}
    return Read(said_in(db, mem_id), {id: tx_id for id, tx_id in upto.items() if tx_id},
                [one["read/channel"] for one in found if one.get("read/is-muted")])


def position_in(db, reading):
    """The tx_id up to which a stored document says that one has read; 0 if it does not say."""
    upto = reading.get("read/tx", 0) or ("read/upto" in reading and said_in(db, reading["read/upto"]))
    return upto if type(upto) is int else 0


def upto_of(ctx, read, mem_id, channel_id):
    """The transaction up to which a member has read a channel."""
    moved = ctx["chat_positions"].of(mem_id, channel_id)
    return read.upto.get(channel_id, read.joined) if moved is None else moved


def said_in(db, id):
    """The transaction in which a message was first put; 0 if it was evicted since."""
    history = db.history(id, documents=False)
    return history[0].tx_id if history else 0


# ── What is new in a channel ─────────────────────────────────────────────────────────────────────────────────


class Recent:
    """The newest messages of a channel, the newest first. It looks up where in the log one stands when it is asked."""
    __slots__ = "ids", "mems", "authors", "called", "texts", "_look", "_said", "_after", "__weakref__"

    def __init__(self, found, look, former=None):
        """`look` is the number that was asked for."""
        self.ids, self.mems = [one["xt/id"] for one in found], [number_of(one.get("msg/mem")) for one in found]
        self.authors = frozenset(self.mems)
        self.called = {n: one["msg/mentions"] for n, one in enumerate(found) if one.get("msg/mentions")}
        known = dict(zip(former.ids, former._said)) if former else {}
        self._look, self._said, self._after, self.texts = look, [known.get(id) for id in self.ids], {}, {}

    def said(self, db, n):
        if self._said[n] is None:
            self._said[n] = said_in(db, self.ids[n])
        return self._said[n]

    def after(self, db, upto):
        """The number of them that were said after a transaction. Most people have read up to one of a few."""
        if (found := self._after.get(upto)) is None:
            if len(self._after) >= POSITIONS_MAX:
                self._after.clear()
                self.texts.clear()
            found = self._after[upto] = self._after_by_halves(db, upto)
        return found

    def reaches(self, db, upto):
        """True if there is nothing to count behind them."""
        return self._look == COUNT_MAX or self.after(db, upto) < self._look

    def _after_by_halves(self, db, upto):
        low, high = 0, len(self.ids)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.said(db, middle) > upto else (low, middle)
        return low

    def counts(self, after, mem_id, channel_id):
        """Among so many newest messages, those of others, and those that mention the member or everybody."""
        mine = number_of(mem_id)
        if not self.called and mine not in self.authors:               # as in most channels
            return after, 0
        calls = sum(n < after and self.mems[n] != mine and (mem_id in ids or channel_id in ids)
                    for n, ids in self.called.items())
        return after - self.mems[:after].count(mine), calls

    def size(self):
        return 250 * len(self.ids) + 300 * POSITIONS_MAX


def number_of(mem_id):
    """Numbers are compared ten times as fast as UUIDs."""
    return getattr(mem_id, "int", mem_id)


def recent_of(ctx, db, channel_id, count):
    """The newest messages of a channel, so many of them, kept until one comes or goes."""
    keep, key = ctx["chat_kept"], (count, channel_id)
    return keep(ctx, db, key, lambda: Recent(newest(db, channel_id, count), count, keep.former(key)), Recent.size)


def newest(db, channel_id, count, without=None):
    """The newest messages, without those of one member: their ids, who said them, and whom they mention."""
    query = {"find": ("pull", "?m", ["xt/id", "msg/mem", "msg/mentions"]), "in": ["?c"], "limit": count,
             "where": [["?m", "msg/channel", "?c"]], "order-by": [[("created", "?m"), "desc"]]}
    if without is None:
        return biff.q(db, query, channel_id)
    query |= {"in": ["?c", "?me"], "where": [*query["where"], ("not", ["?m", "msg/mem", "?me"])]}
    return biff.q(db, query, channel_id, without)


def count_of(ctx, db, channel_id, mem_id, upto, recent=None):
    """The numbers of messages of others in a channel after a transaction, and of those that call the member.

    At most COUNT_MAX messages are read, so that it never costs more. `recent` are the newest of them, if at hand.
    """
    recent = recent or recent_of(ctx, db, channel_id, FIRST_LOOK)
    if (after := recent.after(db, upto)) == FIRST_LOOK:
        recent = recent_of(ctx, db, channel_id, COUNT_MAX)
        after = recent.after(db, upto)
    others, calls = recent.counts(after, mem_id, channel_id)
    if after == others or after < COUNT_MAX:
        return others, calls
    recent = Recent(newest(db, channel_id, COUNT_MAX, mem_id), COUNT_MAX)         # one's own are among them
    return recent.counts(recent.after(db, upto), mem_id, channel_id)


class Place:
    """A channel of which unread messages are counted: its id, as text too, when something was said there last, and its
    newest messages, while they are kept elsewhere.
    """
    __slots__ = "id", "text", "last", "_recent"

    def __init__(self, id, last=math.inf):
        self.id, self.text, self.last, self._recent = id, str(id), last, None

    def recent(self, ctx, db, upto):
        """The newest messages: as many as are to be counted after a transaction."""
        recent = self._recent and self._recent()
        if not recent or upto not in recent.texts and not recent.reaches(db, upto):
            recent = ctx["chat_kept"].at_hand(db, (COUNT_MAX, self.id)) or recent_of(ctx, db, self.id, FIRST_LOOK)
            recent = recent if recent.reaches(db, upto) else recent_of(ctx, db, self.id, COUNT_MAX)
            self._recent, self.last = weakref.ref(recent), recent.said(db, 0) if recent.ids else 0
            if db.tx_id >= ctx["chat_lately"].high and len(ctx["chat_last_said"]) < LAST_SAID_MAX:
                ctx["chat_last_said"][self.id] = self.last
        return recent


def places_of(ctx, db, mem):
    """The channels that a member may read. Those that all members see are kept until something is said in one."""
    def made():
        last_said = ctx["chat_last_said"] if db.tx_id >= ctx["chat_lately"].high else {}
        return [Place(one["xt/id"], last_said.get(one["xt/id"], math.inf))
                for one in channels_kept(ctx, db, mem["mem/comm"])]
    shared = ctx["chat_kept"](ctx, db, ("places", mem["mem/comm"]), made, lambda found: 500 * len(found))
    return [*shared, *(Place(one["xt/id"]) for one in private_channels_kept(ctx, db, mem["xt/id"]))]


def counts_of(ctx, db, mem):
    """[(place, "COUNT UPTO CALLS")]: how many messages of others are unread, the tx_id up to which all is read, and how
    many of them call the member.

    A channel with none is left out, and so is one that the member follows.
    """
    found, mem_id, read = [], mem["xt/id"], read_by(ctx, db, mem["xt/id"])
    mine, uptos = number_of(mem_id), read.upto | ctx["chat_positions"].read_by(mem_id)
    for place in places_of(ctx, db, mem):
        upto = uptos.get(place.id, read.joined) if uptos else read.joined
        if upto >= place.last:                         # as in most channels
            continue
        recent = place.recent(ctx, db, upto)
        is_shared = not recent.called and mine not in recent.authors
        if not is_shared or (text := recent.texts.get(upto)) is None:
            text = unread_text(ctx, db, place.id, mem_id, upto, recent)
            if is_shared:
                recent.texts[upto] = text              # as many as `after` keeps
        if text:
            found.append((place, text))
    return found


def unread_text(ctx, db, channel_id, mem_id, upto, recent):
    """A channel's counts for a member as text; "" for none. Those who said nothing and are not called share it."""
    count, calls = count_of(ctx, db, channel_id, mem_id, upto, recent)
    return f"{count} {upto} {calls}" if count else ""


def first_unread(ctx, db, mem_id, channel_id):
    """The oldest message of another that a member has not read, and how many there are from it on; (None, 0) for none.

    The number is None for more than LANDING_MAX.
    """
    upto = upto_of(ctx, read_by(ctx, db, mem_id), mem_id, channel_id)
    if not count_of(ctx, db, channel_id, mem_id, upto)[0]:
        return None, 0
    recent = recent_of(ctx, db, channel_id, LANDING_MAX)
    if (after := recent.after(db, upto)) < LANDING_MAX:
        place = max(n for n in range(after) if recent.mems[n] != number_of(mem_id))
        return recent.ids[place], place + 1
    return first_after(ctx, db, mem_id, channel_id, upto), None


def first_after(ctx, db, mem_id, channel_id, upto):
    """The first message of another in a channel after a transaction, however many follow; None if it is not found.

    Ids rise in order of creation. So it follows the first document that was made after the transaction.
    """
    made = (op[1]["xt/id"] for tx in itertools.islice(ctx["biff/node"].tx_log(after=upto), LOOKED_THROUGH_MAX)
            for op in tx.ops if op[0] == "put" and type(op[1]["xt/id"]) is uuid.UUID and tx.tx_id <= db.tx_id
            and said_in(db, op[1]["xt/id"]) == tx.tx_id)
    if (mark := next(made, None)) is None:
        return None
    message = db.entity(mark) or {}
    if channel_of(message) == channel_id and message.get("msg/mem") != mem_id:
        return mark
    query = {"find": "?m", "in": ["?c", "?me", "?mark"], "limit": 1, "order-by": [[("created", "?m"), "asc"]],
             "where": [["?m", "msg/channel", "?c"], [("created-after", "?m", "?mark")],
                       ("not", ["?m", "msg/mem", "?me"])]}
    return next(iter(biff.q(db, query, channel_id, mem_id, mark)), None)


# ── Reading ──────────────────────────────────────────────────────────────────────────────────────────────────


async def read(ctx):
    """A page has shown its reader the channel up to a transaction, and stays there, or is left. Nothing is written."""
    if not biff.is_allowed(ctx, (("positions", ctx["uid"]), *READS_A_PERSON)):
        return biff.error(ctx, 429)
    upto, page = ctx["params"].get("upto", ""), ctx["params"].get("page", "")[:36]
    if not (upto.isascii() and upto.isdigit() and len(upto) < 16):
        return web.Response(status=204)
    word = ctx["params"].get("word", "")
    word = int(word[:9]) if page and word.isascii() and word.isdigit() else None
    if word is not None and not ctx["chat_positions"].is_in_order(page, word):
        page = ""
    key, has_page = (ctx["mem"]["xt/id"], ctx["channel"]["xt/id"]), bool(page)
    upto = min(int(upto), ctx["biff/node"].db().tx_id)
    if upto <= upto_of(ctx, read_by(ctx, ctx["biff/db"], key[0]), *key):
        upto = None
    move(ctx, key[1], upto, page, has_page and "stays" in ctx["params"], word=word)
    tell(ctx, ctx["uid"])
    return web.Response(status=204)


def move(ctx, channel_id, upto, page="", stays=False, leaves=False, word=None):
    """Other servers hear of it at once, for this person's pages there. They never put it into the store.

    It is never a fact of the log before it is put. `upto` None moves nothing; `leaves` says that no page follows;
    `word` is the number of the page's word.
    """
    key, moment = (ctx["mem"]["xt/id"], channel_id), biff.now(ctx)
    if upto is not None:
        ctx["chat_positions"].move(*key, upto, moment)
    note_page(ctx, key, ctx["uid"], page, stays, leaves, moment)
    biff.notify(ctx, "read", *key, "" if upto is None else str(upto), moment.isoformat(), page,
                "stays" if stays else "leaves" if leaves else "", word)


def note_page(system, key, person, page, stays, leaves, moment):
    if stays:
        system["chat_positions"].follow(*key, person, page, moment)
    elif page or leaves:
        system["chat_positions"].leave(*key, page)


def on_read(system, server, *said):
    """A position moved on another server, or a page there follows a channel or leaves it."""
    mem_id, channel_id = map(uuid.UUID, said[:2])
    upto, at, page, how, word = said[2], dt.datetime.fromisoformat(said[3]), *said[4:6], (*said, None)[6]
    if page and type(word) is int and not system["chat_positions"].is_in_order(page, word):
        page = how = ""
    mem = system["biff/node"].db().entity(mem_id) or {}
    if "mem/user" in mem and at.tzinfo:
        if upto:
            system["chat_positions"].hear(mem_id, channel_id, int(upto), at)
        note_page(system, (mem_id, channel_id), mem["mem/user"], page, how == "stays", how == "leaves", at)
        tell(system, mem["mem/user"])


def tell(ctx, person):
    """Told beside the listener, for it is not in the store. A page that is under way hears it when it connects."""
    db = ctx["biff/node"].db()
    ctx["chat_people"].touch(person, db)
    ctx["chat_clients"].tell(person, lambda client: person_frame(ctx, db, person, client.place_id, [("news", None)]))


async def unread_from(ctx):
    """Makes everything from this message on new again."""
    move(ctx, ctx["channel"]["xt/id"], said_in(ctx["biff/db"], ctx["message"]["xt/id"]) - 1, leaves=True)
    tell(ctx, ctx["uid"])
    return web.Response(status=204)


async def read_all(ctx):
    """Marks every channel of the community as read."""
    db = ctx["biff/db"]
    for place, _ in counts_of(ctx, db, ctx["mem"]):
        move(ctx, place.id, db.tx_id)
    tell(ctx, ctx["uid"])
    return finished(ctx, "/app")


async def mute(ctx):
    """The channel makes no noise any more, or does so again."""
    is_muted = "muted" in ctx["params"]
    await biff.submit_tx(ctx, [*biff.unchanged(ctx, ctx["mem"]["xt/id"]),
                               reading(ctx["mem"]["xt/id"], ctx["channel"]["xt/id"])
                               | {"read/is-muted": True if is_muted else biff.DISSOC}])
    return biff.redirect(ctx, channel_path(ctx["channel"]))


def reading(mem_id, channel_id):
    return {"db/doc-type": "reading", "db/op": "merge", "xt/id": reading_id(mem_id, channel_id),
            "read/mem": mem_id, "read/channel": channel_id}


async def put_positions(ctx, all=False):
    """Puts the positions of people who have gone, and those that wait for ten minutes; all when the server stops."""
    moved, db = ctx["chat_positions"].moved, ctx["biff/db"]
    present, long_ago = set(ctx["chat_clients"].people()), biff.now(ctx) - PUT_AFTER
    for person in ctx["chat_positions"].leave_alone(present, biff.now(ctx)):
        tell(ctx, person)
    due = [key for key, (_, _, since) in moved.items()
           if all or since <= long_ago or (db.entity(key[0]) or {}).get("mem/user") not in present][:PUTS_MAX]
    values = {key: moved[key] for key in due}
    await biff.submit_tx(ctx, lambda ctx: [
        reading(*key) | {"read/tx": upto, "read/upto": biff.DISSOC, "read/at": at}
        for key, (upto, at, _) in values.items() if all_there(ctx["biff/db"], *key)])
    for key, value in values.items():
        ctx["chat_positions"].have_put(key, value)


async def use_positions(system):
    """Puts the positions that are in memory when the server stops.

    `chat_last_said` has the transaction of the newest message of each channel of which it is known.
    """
    system["chat_positions"], system["chat_last_said"] = Positions(), {}
    system["biff/stop"].append(lambda: put_positions(biff.assoc_db(system), all=True))
    return system


def all_there(db, mem_id, channel_id):
    return "mem/user" in (db.entity(mem_id) or {}) and db.entity(channel_id) is not None


# ── On pages ─────────────────────────────────────────────────────────────────────────────────────────────────


def on_message(changes, id, old, new):
    """All pages of a community are told of a new or a deleted message in one frame, and each browser counts for itself.

    A message that moves, or comes back, is unread for some: there each page is told its numbers anew. What is new in a
    private channel is told to the people in it alone.
    """
    before, after = channel_of(old), channel_of(new)
    if before == after and all((old or {}).get(what) == (new or {}).get(what) for what in ("msg/mem", "msg/mentions")):
        return
    spoil(changes, before, after)
    for channel_id, message in (before, old), (after, new):
        channel = changes.place(channel_id) if channel_id else None
        if not channel or "chan/comm" not in channel:
            continue
        changes.spoil("places", channel["chan/comm"])
        if before and after:
            touch_all(changes, channel)
        else:
            changes.later(channel["chan/comm"], tell_one, channel, message, message is old)


def tell_one(changes, channel, message, is_gone):
    said = said_in(changes.db, message["xt/id"])
    if not is_gone and said != changes.db.tx_id:
        return touch_all(changes, channel)
    told = biff.fragment(changes.ctx, "unread/new.html", message=message, said=said, is_gone=is_gone,
                         tx_id=changes.db.tx_id)
    if not is_private(channel):
        changes.share(channel["chan/comm"], told)
    for person in people_in(changes.db, channel):
        changes.touch_person(person, "new", (channel["chan/comm"], told))


def spoil(changes, *channel_ids):
    for id in channel_ids:
        changes.ctx["chat_last_said"].pop(id, None)
    for id, count in itertools.product(filter(None, channel_ids), (FIRST_LOOK, COUNT_MAX, LANDING_MAX)):
        changes.spoil(count, id)


def touch_all(changes, channel):
    if not is_private(channel):
        changes.touch_members(channel["chan/comm"], "news")
    for person in people_in(changes.db, channel):
        changes.touch_person(person, "news")


def on_reading(changes, id, old, new):
    """A position that was put is told to its person's pages: they may be on another server."""
    mem_id = (new or old or {}).get("read/mem")
    for document in old, new:
        if document and "read/mem" in document:
            changes.spoil("read by", document["read/mem"])
    if new and "read/at" in new:
        changes.ctx["chat_positions"].was_put(mem_id, new["read/channel"], new["read/at"])
    if mem_id and (mem := changes.db.entity(mem_id)) and "mem/user" in mem:
        changes.touch_person(mem["mem/user"], "news")


def on_channel(changes, id, old, new):
    """Sends the numbers anew where a whole list is sent anew."""
    for document in old, new:
        if "chan/comm" in (document or {}):
            spoil(changes, id)
            changes.spoil("places", document["chan/comm"])
    if old and new and "chan/comm" in new:
        touch_all(changes, new)
        touch_all(changes, old)


def new_part(ctx, db, place, user, about):
    """A message that is new in, or gone from, a private channel; the part below has all that there are."""
    community_id, told = about or (None, "")
    return told if community_id == place.get("chan/comm", place["xt/id"]) else ""


def news_part(ctx, db, place, user, about):
    community_id = place.get("chan/comm") or ("comm/title" in place and place["xt/id"])
    mem = mem_in(db, user["xt/id"], community_id) if community_id else None
    if mem is None:
        return ""
    return biff.fragment(ctx, "unread/news.html", **news_of(ctx, db, mem), is_news=True)


def news_of(ctx, db, mem):
    """The news for a member. One text has all counts, as "COUNT UPTO CALLS CHANNEL CHANNEL …" with commas between:
    channels of which one has read nothing share them, and two hundred elements would be twice as long.
    """
    alike: dict[str, list[str]] = {}
    mem_id = mem["xt/id"]
    for place, text in counts_of(ctx, db, mem):
        alike.setdefault(text, [text]).append(place.text)
    return {"counts": ",".join(map(" ".join, alike.values())),
            "muted": read_by(ctx, db, mem_id).muted, "news_tx_id": db.tx_id, "news_mem": mem_id,
            "followed": ctx["chat_positions"].followed_by(mem_id)}


def page_values(ctx):
    if not ctx.get("mem"):
        return {"news_mem": None}
    values = news_of(ctx, ctx["biff/db"], ctx["mem"])
    channel_id = ctx["channel"]["xt/id"] if ctx.get("channel") else None
    first = first_here(ctx)[0] if channel_id else None
    return values | {"is_muted": channel_id in values["muted"], "first_unread": first}


def first_here(ctx):
    """`first_unread` of the channel whose page is made, which is asked for three times."""
    if "chat/first-unread" not in ctx:
        ctx["chat/first-unread"] = first_unread(ctx, ctx["biff/db"], ctx["mem"]["xt/id"], ctx["channel"]["xt/id"])
    return ctx["chat/first-unread"]


def landing(ctx):
    """The number of messages with which a page begins at the first unread one, if that is not too far back."""
    unread = first_here(ctx)[1]
    return unread + BEFORE_FIRST if unread else 0


def opening(ctx):
    """The surroundings of the first unread message, in the place of a channel's page that would not reach it."""
    db, mem_id, channel_id = ctx["biff/db"], ctx["mem"]["xt/id"], ctx["channel"]["xt/id"]
    first, unread = first_here(ctx)
    if first is None or unread is not None or "now" in ctx["params"]:
        return None
    count, _ = count_of(ctx, db, channel_id, mem_id, upto_of(ctx, read_by(ctx, db, mem_id), mem_id, channel_id))
    return surroundings_view(ctx, db.entity(first), unread_shown=count if count < COUNT_MAX else f"{COUNT_MAX - 1}+")


def go_on(ctx):
    """From the list of communities to where one was in this one; at first to its first channel."""
    channels = channels_kept(ctx, ctx["biff/db"], ctx["community"]["xt/id"])
    first = channel_path(channels[0]) if channels else community_path(ctx["community"])
    return biff.redirect(ctx, last_place(ctx, [ctx["mem"]["xt/id"]]) or first)


def last_place(ctx, mems=None):
    """The channel that a person has read last, by some of their memberships or by all; None if there is none."""
    db, positions = ctx["biff/db"], ctx["chat_positions"].moved
    mems = biff.lookup_id_all(db, "mem/user", ctx["uid"]) if mems is None else mems
    ats = [(at, channel_id) for (mem_id, channel_id), (_, at, _) in positions.items() if mem_id in mems]
    for mem_id in mems:
        ats += [(one["read/at"], one["read/channel"]) for one in biff.lookup_all(db, "read/mem", mem_id)
                if "read/at" in one]
    for _, channel_id in sorted(ats, reverse=True, key=lambda one: one[0]):
        channel = db.entity(channel_id)
        mem = mem_in(db, ctx["uid"], channel["chan/comm"]) if channel else None
        if mem and may_read(channel, mem["xt/id"]):
            return channel_path(channel)
    return None


PLUGIN = {
    "schema": SCHEMA,
    "goes-with": {"channel": ["read/channel"]},
    "routes": [("POST", CHANNEL + "/read", in_channel, read), ("POST", MESSAGE + "/unread", in_message, unread_from),
               ("GET", "/community/{id}/go", in_community, go_on),
               ("POST", "/community/{id}/read", in_community, read_all),
               ("POST", CHANNEL + "/mute", in_channel, mute)],
    "tasks": [{"task": put_positions, "schedule": biff.every(PUT_LOOK_S)}],
    "slots": {"state": "unread/news.html", "message-actions": "unread/action.html", "head": "unread/head.html",
              "menu": "unread/menu.html"},
    "page": page_values,
    "changes": [on_message, on_reading, on_channel],
    "components": [use_positions],
    "notices": {"read": on_read},
    "person-parts": {"new": new_part, "news": news_part},
    "front": [last_place],
    "landing": [landing],
    "opening": [opening],
    "scripts": ["unread.js"],
}
