"""The law: a page as it was loaded, plus what its socket brought since, is the page as it would load now.
For every client, at any time."""
import asyncio
import contextlib
import datetime as dt
import html.parser
import random
import re
import uuid

import aiohttp
import pytest

import biff
from conftest import free_port
from plugins import changes, places, presence, unread
from people import Person, a_chat, file_of, kept_mails
from store import delete, evict, match, put

EPHEMERAL = {"online", "typing"}                          # what no log has
MINE = {"role", "communities", "pick", "my-name", "news", "presence-choice", "reports-link", "draft",
        *EPHEMERAL}                                                 # a person's own parts of a page
LIVE = ["messages", "slow", "heading", "topic", "channels", "text-label", "here", "pick-channels",
        *sorted(MINE - {"news", "presence-choice"} - EPHEMERAL),           # the choice stands in a dialog
        "private-channels", "directs", "pick-private", "seat-count", "seats"]
MINE |= {*LIVE[-5:], "heading", "text-label", None}              # of a direct message: None is its title
MARKED_UP = ["**ebb** `<b>`", "- *one*\n- two", "> said\n:tada: [a](https://a.example)"]
NOTHING_INSIDE = {"input", "img", "br", "meta", "link", "path"}


# ── A page, and what htmx does to it ───────────────────────────────────────────────────────────────────────────

class Element:
    def __init__(self, tag, attributes=()):
        self.tag, self.attributes, self.children, self.parent = tag, dict(attributes), [], None

    def append(self, child):
        if isinstance(child, Element):
            child.parent = self
        self.children.append(child)

    def find(self, wanted):
        return next((one for one in self.all() if one is not self and wanted(one)), None)

    def by_id(self, id):
        return self.find(lambda one: one.attributes.get("id") == id)

    def all(self):
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.all()

    def inside(self):
        return "".join(child if isinstance(child, str) else str(child) for child in self.children)

    def __str__(self):
        attributes = "".join(f" {key}" if value is None else f' {key}="{value}"'
                             for key, value in self.attributes.items())
        return f"<{self.tag}{attributes}>" + ("" if self.tag in NOTHING_INSIDE else f"{self.inside()}</{self.tag}>")


class Parser(html.parser.HTMLParser):
    """Keeps every byte: character references stay as they were written."""

    def __init__(self):
        super().__init__(convert_charrefs=False)
        self.root = self.at = Element("root")

    def handle_starttag(self, tag, attributes):
        raw = dict(re.findall(r'([\w:@-]+)="([^"]*)"', self.get_starttag_text()))
        element = Element(tag, {key: raw.get(key, value) for key, value in attributes})
        self.at.append(element)
        if tag not in NOTHING_INSIDE:
            self.at = element

    def handle_endtag(self, tag):
        if tag not in NOTHING_INSIDE:
            assert self.at.tag == tag, f"</{tag}> closes <{self.at.tag}>"
            self.at = self.at.parent

    def handle_data(self, data):
        self.at.append(data)

    def handle_entityref(self, name):
        self.at.append(f"&{name};")

    def handle_charref(self, name):
        self.at.append(f"&#{name};")


def parsed(text):
    parser = Parser()
    parser.feed(text)
    parser.close()
    return parser.root


SELECTOR = re.compile(r"innerHTML:\.(message|mention|quote)\[data-mem='([\w-]+)'\](?: (header b|\.face|b))?")


def of_member(page, where, mem_id, what):
    """The names, or the faces, of a member's messages; the mentions of a member; the names in quotes of them."""
    for one in page.all():
        is_there = one.tag == "article" if where == "message" else one.attributes.get("class") == where
        if is_there and one.attributes.get("data-mem") == mem_id:
            head = one.find(lambda part: part.tag == "header") if what == "header b" else one
            yield one if what is None else head.find(
                lambda part: "face" in part.attributes.get("class", "") if what == ".face" else part.tag == "b")


def apply(page, frame):
    """Does with a frame what htmx 4 does, for the swap styles that our templates use.
    It adds what it is told to, even twice."""
    fragment = parsed(frame)
    for part in [child for child in fragment.children if isinstance(child, Element)]:
        style, targets = part.attributes.pop("hx-swap-oob", None), [page.by_id(part.attributes.get("id"))]
        if part.tag == "title":
            targets, style = [page.find(lambda one: one.tag == "title")], "innerHTML"
        elif style.startswith("innerHTML:"):
            style, targets = "innerHTML", list(of_member(page, *SELECTOR.fullmatch(style).groups()))
        assert style in ("outerHTML", "innerHTML", "beforeend", "outerMorph", "delete"), part
        for target in filter(None, targets):
            swap(part, target, style)


def swap(part, target, style):
    place = target.parent.children.index(target)
    if style == "delete":
        del target.parent.children[place]
    elif style.startswith("outer"):
        part.parent = target.parent
        target.parent.children[place] = part
    else:
        target.children = [] if style == "innerHTML" else target.children
        for child in part.children:
            target.append(child)


def counts(page, is_calls=False):
    """The counts of the browser on a page, by channel, as `countNews` of static/unread.js does; None where none are."""
    if (news := page.by_id("news")) is None:
        return None
    made, mine, ids, given = int(news.attributes["data-tx"]), news.attributes["data-mem"], set(), given_counts(news)
    found = {channel: calls if is_calls else count for channel, (count, _, calls) in given.items()}
    items = [one.attributes for one in news.children if not isinstance(one, str)]
    gone = {one["id"][5:] for one in items if one.get("id", "").startswith("gone-")}
    for one in items:
        id, channel = one.get("id", ""), one["data-channel"]
        if not id or one["data-mem"] == mine or int(one["data-tx"]) <= made or id in ids:
            continue
        ids.add(id)
        if is_calls and not {mine, channel} & set(one.get("data-for", "").split()):
            continue
        if id.startswith("new-"):
            found[channel] = found.get(channel, 0) + (id[4:] not in gone)
        elif channel in given and given[channel][1] < int(one["data-said"]) <= made:
            assert given[channel][0] < unread.COUNT_MAX, "a page asks here"
            found[channel] = max(0, found[channel] - 1)
    followed = {one["data-channel"] for one in items if "data-followed" in one}
    return {channel: count for channel, count in found.items() if count and channel not in followed}


def given_counts(news):
    """channel → (unread messages when the page was made, the transaction up to which all is read, those that call)."""
    alike = [one.split(" ") for one in news.attributes["data-counts"].split(",")]
    return {channel: tuple(map(int, words[:3])) for words in alike for channel in words[3:]}


# ── A world in which things happen ─────────────────────────────────────────────────────────────────────────────

class World:
    """One community, a few channels, and a hand that writes into the log whatever it likes."""

    def __init__(self, data, mails, random):
        self.data, self.mails, self.random, self.port = data, mails, random, free_port()      # to come back on
        self.messages, self.channels, self.gone = {}, {}, []

    async def start(self):
        self.chat = await a_chat(self.data, self.mails, self.port)
        self.node = self.chat["biff/node"]
        self.chat["chat_lately"].count_max = 30

    async def restart(self):
        await biff.stop_system(self.chat)
        await self.start()

    async def begin(self):
        await self.start()
        self.ann = Person(self.chat)
        await self.ann.sign_in("ann@example.com")
        for _ in range(2):
            path = (await self.ann.new_channel())[1] if not self.channels else await self.another_channel()
            channel = self.node.db().entity(uuid.UUID(path.rpartition("/")[2]))
            self.channels[channel["xt/id"]] = channel
        self.community = channel["chan/comm"]
        mem = biff.lookup(self.node.db(), "mem/comm", self.community)
        self.mem, self.user = mem["xt/id"], mem["mem/user"]
        await self.open_private()

    async def open_private(self):
        """Bob is put into the store, then a private channel with the two and a direct message between them."""
        self.bob = {"xt/id": self.node.new_id(), "user/email": "bob@example.com", "user/joined-at": biff.now(self.chat)}
        self.bobs = {"xt/id": self.node.new_id(), "mem/user": self.bob["xt/id"], "mem/comm": self.community,
                     "mem/roles": set()}
        self.other = self.bobs["xt/id"]
        both = {"chan/comm": self.community, "chan/mems": {self.mem, self.bobs["xt/id"]}}
        self.private = both | {"xt/id": self.node.new_id(), "chan/title": "Private"}
        self.side = both | {"xt/id": self.node.new_id(), "chan/title": "Other"}
        self.direct = both | {"xt/id": self.node.new_id(), "chan/title": "", "chan/set": "of both"}
        await self.node.submit([put(one) for one in (self.bob, self.bobs, self.private, self.side, self.direct)])
        for one in self.private, self.direct:
            self.channels[one["xt/id"]] = one

    async def another_channel(self):
        community = f"/community/{next(iter(self.channels.values()))['chan/comm']}"
        return (await self.ann.post(f"{community}/channel", page=community)).url.path

    def path(self, place):
        """The address of a channel, of the community, or of Ann's own first page."""
        if place == self.user:
            return "/app"
        return f"/community/{self.community}" + ("" if place == self.community else f"/channel/{place}")

    def message(self, text=None):
        message = {"xt/id": self.node.new_id(), "msg/mem": self.random.choice([self.mem, self.other]),
                   "msg/channel": self.random.choice(list(self.channels)),
                   "msg/text": text or f"{self.random.choice(['<b>&amp;', 'tide', 'ebb & flow', 'ünï', *MARKED_UP])} "
                                       f"{len(self.messages)}",
                   "msg/created-at": dt.datetime.now(dt.timezone.utc)}
        message |= {} if text else self.called(message["msg/channel"])
        self.messages[message["xt/id"]] = message
        return message

    def called(self, channel_id):
        """The attributes of a message whose first letters mention somebody, everybody or nobody."""
        who = self.random.choice([self.mem, self.other, channel_id, None, None])
        return {"msg/mentions": [who], "msg/mention-spans": ((0, 3, who),)} if who else {}

    def any(self):
        return self.random.choice(list(self.messages.values())) if self.messages else self.message()

    def operations(self):
        """The operations of one transaction, drawn at random."""
        pick = self.any()

        def change(old, **new):
            self.messages[old["xt/id"]] = old | new
            return put(old | new)
        match self.random.randrange(30):
            case 0:
                plain = {key: value for key, value in pick.items() if not key.startswith("msg/mention")}
                edited = {"msg/text": f"edited {self.random.random()}"} | self.called(pick["msg/channel"])
                return [change(plain, **edited)]
            case 1 | 2:
                self.gone.append(self.messages.pop(pick["xt/id"], pick))
                return [delete(pick["xt/id"])]
            case 3:
                self.messages.pop(pick["xt/id"], None)
                return [evict(pick["xt/id"])]
            case 4 if self.gone:
                return [change(self.gone.pop())]
            case 5:
                return [change(pick, **{"msg/channel": self.random.choice(list(self.channels))})]
            case 6:
                message = self.message()
                del self.messages[message["xt/id"]]
                return [put(message), delete(message["xt/id"])]
            case 7:
                one = self.random.choice(list(self.channels))
                self.channels[one] = self.channels[one] | {"chan/title": f"Renamed & {self.random.randrange(100)}"}
                return [put(self.channels[one])]
            case 8:
                return [put({"xt/id": self.community, "comm/title": f"Community <{self.random.randrange(100)}>"}),
                        put(self.message())]
            case 9:
                return [put({"xt/id": self.node.new_id(), "chan/title": f"Another {self.random.randrange(100)}",
                             "chan/comm": self.community})]
            case 10:
                return [put(self.message()) for _ in range(self.random.choice([3, 12]))]
            case 11:
                return [put({"xt/id": self.node.new_id(), "note/text": "nothing that a page shows"})]
            case 12:
                return [put(self.message()), change(pick, **{"msg/text": "edited beside a new one"}),
                        put(self.message())]
            case 13:
                name = self.random.choice([{}, {"user/name": f"Ann <{self.random.randrange(100)}>"}])
                user = {key: value for key, value in self.node.db().entity(self.user).items() if key != "user/name"}
                return [put(user | name), put(self.message())]
            case 14:
                one = self.random.choice(list(self.channels))
                self.channels[one] = self.channels[one] | {"chan/topic": f"Topic & {self.random.randrange(100)}",
                                                           "chan/slow-s": self.random.choice([5, 3600])}
                return [put(self.channels[one])]
            case 15 if self.node.db().entity(pick["xt/id"]):       # nobody has read what was never there
                where = pick["msg/channel"]
                upto = self.random.choice([{"read/upto": pick["xt/id"]},
                                           {"read/tx": self.random.randrange(self.node.db().tx_id)}])
                return [put({"xt/id": f"reading {self.mem} {where}", "read/mem": self.mem, "read/channel": where}
                            | upto)]
            case 22:
                upto = self.random.choice([pick["xt/id"], self.direct["xt/id"]])
                return [put({"xt/id": "hiding", "hide/mem": self.mem, "hide/channel": self.direct["xt/id"],
                             "hide/upto": upto if self.node.db().entity(upto) else self.direct["xt/id"]})]
            case 16:
                return [put(self.bob | {"user/name": f"Bob & {self.random.randrange(100)}"})]
            case 17:
                return [put(self.side | {"chan/mems": set(self.random.sample(sorted(self.side["chan/mems"]),
                                                                             self.random.randrange(3)))})]
            case 18:
                one = self.private["xt/id"]
                mems = self.random.choice([{self.mem}, self.private["chan/mems"]])
                self.channels[one] = self.channels[one] | {"chan/mems": mems}
                return [put(self.channels[one]), put(self.message())]
            case 20:
                message = self.message("look") | {"msg/text": self.random.choice(["", "look"])}
                self.messages[message["xt/id"]] = message
                return [*(put(file_of(message, f"{n} <b>.txt")) for n in range(self.random.randrange(1, 4))),
                        put(message)]
            case 21 if pick.get("msg/files"):
                return [delete(self.random.choice(pick["msg/files"]))]
            case 19:
                former = {"xt/id": self.bobs["xt/id"], "former/user": self.bob["xt/id"], "former/comm": self.community}
                return [put(self.random.choice([self.bobs, former]))]
            case 23 | 24:
                message = self.message("an answer")
                answer = message | {"msg/channel": pick["msg/channel"], "msg/reply-to": pick["xt/id"],
                                    "msg/reply-tx": self.random.randrange(self.node.latest_tx.tx_id + 1),
                                    "msg/thread": pick.get("msg/thread", pick["xt/id"])}
                self.messages[message["xt/id"]] = answer
                return [put(answer)]
            case 25:
                mem, emoji = self.random.choice([self.mem, self.other]), self.random.choice("👍🎉")
                one = {"xt/id": uuid.uuid5(pick["xt/id"], f"{mem} {emoji}"), "react/msg": pick["xt/id"],
                       "react/channel": pick["msg/channel"], "react/mem": mem, "react/emoji": emoji}
                return [delete(one["xt/id"]) if self.node.db().entity(one["xt/id"]) else put(one)]
            case 28 if self.node.db().entity(pick["xt/id"]):
                return [put({"xt/id": uuid.uuid5(pick["xt/id"], "report"), "report/comm": self.community,
                             "report/channel": pick["msg/channel"], "report/msg": pick["xt/id"],
                             "report/mem": self.other, "report/tx": self.node.latest_tx.tx_id,
                             "report/at": biff.now(self.chat)})]
            case 29:
                where = self.random.choice(list(self.channels))
                id, about = f"draft-{self.mem}-{where}", {"draft/mem": self.mem, "draft/channel": where}
                text = {"draft/text": f"half a <b> {self.random.randrange(100)}", "draft/user": self.user}
                return [evict(id), put({"xt/id": id, "draft/at": biff.now(self.chat), **about,
                                        **self.random.choice([{}, text])})]
        message = self.message()                       # as the chat posts it, or as a program puts it
        return [*self.random.choice([[match(message["xt/id"], None)], []]), put(message)]

    def whisper(self):
        """What no log has: Bob comes or goes by another server, or somebody types."""
        presence, db = self.chat["chat_presence"], self.node.db()
        if self.random.random() < 0.5:
            presence.hear("another server", [str(self.bob["xt/id"])], self.random.random() < 0.7)
        else:
            presence.typed(db, self.random.choice(list(self.channels)), self.random.choice([self.mem, self.other]))

    async def ban(self):
        """Bob is banned by the admin's button, with all that goes with it; or the ban is lifted and he comes back."""
        community, ban = f"/community/{self.community}", biff.lookup_id(self.node.db(), "ban/user", self.bob["xt/id"])
        if ban is None:
            return await self.ann.post(f"{community}/members/{self.other}/ban", {"reason": "sold eels"})
        await self.ann.post(f"{community}/bans/{ban}/lift")
        await self.node.submit([put(self.bobs), *(put(self.channels[one["xt/id"]]) for one in
                                                  (self.private, self.direct))])

    async def end(self):
        await self.ann.browser.close()
        await biff.stop_system(self.chat)


class Window:
    """A browser's page and socket at a place, as far as the law goes."""

    def __init__(self, world, channel_id, more=""):
        self.world, self.channel_id, self.more, self.socket, self.reading = world, channel_id, more, None, None

    async def load(self):
        self.page = parsed((await self.world.ann.get(self.world.path(self.channel_id) + self.more)).body_text)

    async def connect(self):
        await self.cut()
        cursor = self.page.by_id("cursor").attributes["value"]
        here = "-".join(self.page.by_id(id).attributes["data-mark"] for id in ("online", "typing"))
        self.socket = await self.world.ann.listen(self.world.path(self.channel_id).removesuffix("/app"), cursor, here)
        self.reading = asyncio.create_task(self.read())

    async def read(self):
        async for frame in self.socket:
            if frame.type is aiohttp.WSMsgType.TEXT:
                before, is_mine = int(self.page.by_id("cursor").attributes["value"]), 'id="cursor"' not in frame.data
                apply(self.page, frame.data)
                if is_mine:                            # a person's own parts are whole, and may come twice
                    told = {part.attributes.get("id") for part in parsed(frame.data).children
                            if isinstance(part, Element)}
                    assert told <= MINE
                else:
                    after = int(self.page.by_id("cursor").attributes["value"])
                    assert after > before, f"a fragment came twice, or without its tx_id: {frame.data[:500]}"

    async def cut(self):
        """The connection ends in the middle of what is on its way. The page keeps what it has applied."""
        if self.socket:
            if connection := self.socket._response.connection:
                connection.transport.abort()
            self.reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.reading
            self.socket = None

    async def until(self, text):
        async with asyncio.timeout(60):
            while text not in str(self.page):
                if self.reading.done():
                    self.reading.result()
                await asyncio.sleep(0.005)

    def ephemeral(self):
        """The people who are here and who type, as this page has it."""
        return self.page.by_id("online").attributes["data-mems"], self.shown("typing")

    async def until_told(self):
        """Waits until the page has heard what is gathered, and is as a fresh one."""
        fresh = Window(self.world, self.channel_id, self.more)
        async with asyncio.timeout(60):
            await fresh.load()
            while fresh.ephemeral() != self.ephemeral():
                await asyncio.sleep(0.02)
                await fresh.load()

    def shown(self, id):
        """The content of an element; None where this page has none."""
        return element.inside() if (element := self.page.by_id(id)) else None


async def happen(world, windows, steps):
    """Random transactions, alone and together; windows open, lose their connections, come back; the server restarts."""
    for _ in range(steps):
        match world.random.randrange(12):
            case 0 if len(windows) < 8:
                windows.append(Window(world, world.random.choice([*world.channels, world.community, world.user])))
                await windows[-1].load()
            case 1 | 2:
                await world.random.choice(windows).cut()
            case 3 | 4 | 5:
                await world.random.choice(windows).connect()
            case 6 if world.random.random() < 0.3:
                await world.restart()
            case 8:
                world.whisper()
            case 9 if world.random.random() < 0.4:
                await world.ban()
            case 7:
                await asyncio.gather(*(world.node.submit(world.operations())
                                       for _ in range(world.random.randrange(2, 30))))
            case _:
                await world.node.submit(world.operations())
    for window in windows:
        if window.socket is None or window.reading.done():
            await window.connect()
    last = [world.message(f"the last {n}") | {"msg/channel": channel_id} for n, channel_id in enumerate(world.channels)]
    end = {"xt/id": world.community, "comm/title": f"The end {world.random.random()}"}
    await world.node.submit([put(end), *(put(message) for message in last)])
    for window in windows:
        if window.channel_id in world.channels and not window.more:
            await window.until(f"the last {list(world.channels).index(window.channel_id)}<")
        await window.until(end["comm/title"])
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def a_world(data, mails, seed):
    """Bounds are so low that every way of catching up is taken."""
    world = World(data, mails, random.Random(seed))
    await world.begin()
    try:
        yield world
    finally:
        await world.end()


async def test_a_page_and_its_fragments_are_the_page_as_it_is_now(tmp_path, monkeypatch, seed, size, say):
    """Without this, somebody would see another conversation than the rest, and nobody would know."""
    monkeypatch.setattr(places, "PAGE_MESSAGES", 100_000)
    monkeypatch.setattr(changes, "LOOKUPS_MAX", 10)
    monkeypatch.setattr(presence, "GATHER_S", 0.01)
    monkeypatch.setattr(presence, "TYPING_S", 2.2)
    monkeypatch.setattr(unread, "COUNT_MAX", 1_000)
    monkeypatch.setattr(unread, "LANDING_MAX", 100_000)
    compared = 0
    for n in range(size(3, 300)):
        async with a_world(tmp_path / str(n), kept_mails(monkeypatch), f"{seed} {n}") as world:
            windows = [Window(world, place) for place in [*world.channels, world.community, world.user]]
            windows.append(Window(world, world.private["xt/id"], "?people"))
            for window in windows:
                await window.load()
            await happen(world, windows, 150)
            for window in windows:
                fresh = Window(world, window.channel_id, window.more)
                await fresh.load()
                if window.channel_id in world.channels and not window.more:
                    assert "the last" in fresh.shown("messages")
                assert counts(window.page) == counts(fresh.page), f"unread of sequence {n}"
                assert counts(window.page, True) == counts(fresh.page, True), f"mentions of sequence {n}"
                for id in LIVE:
                    assert window.shown(id) == fresh.shown(id), f"{id} at {world.path(window.channel_id)}, sequence {n}"
                assert str(window.page.find(lambda one: one.tag
                                            == "title")) == str(fresh.page.find(lambda one: one.tag == "title"))
                await window.until_told()
                compared += 1
                await window.cut()
    say(f"{compared} pages after {size(3, 300)} sequences of 150 events, byte for byte as loaded anew; asked all")


async def test_a_page_that_shows_the_newest_only_is_never_missing_one(tmp_path, monkeypatch, seed, size):
    """Pages begin with the newest messages and grow. They must show a stretch of the log up to now, without a hole."""
    monkeypatch.setattr(places, "PAGE_MESSAGES", 8)
    for n in range(size(2, 100)):
        async with a_world(tmp_path / str(n), kept_mails(monkeypatch), f"{seed} {n}") as world:
            windows = [Window(world, channel_id) for channel_id in world.channels]
            for window in windows:
                await window.load()
            await happen(world, windows, 150)
            monkeypatch.setattr(places, "PAGE_MESSAGES", 100_000)
            for window in (one for one in windows if one.channel_id in world.channels):
                fresh = Window(world, window.channel_id)
                await fresh.load()
                shown, whole = ([str(one) for one in page.page.all() if one.tag == "article"]
                                for page in (window, fresh))
                assert shown and shown == whole[-len(shown):]
                await window.cut()
            monkeypatch.setattr(places, "PAGE_MESSAGES", 8)


TIDY = """() => { const list = document.querySelector('#messages').cloneNode(true);
  for (const one of list.querySelectorAll('.first-new')) one.classList.remove('first-new');
  for (const one of list.querySelectorAll('[class]')) one.className = [...one.classList].sort().join(' ');
  for (const one of list.querySelectorAll('[class=""]')) one.removeAttribute('class');
  return [list.innerHTML, document.querySelector('#heading').innerHTML, document.querySelector('#text-label').innerHTML,
          document.title.replace(/^\\(\\d+\\) /, ''), document.querySelector('#channels').innerText] }"""


@pytest.mark.parametrize("n", [0, 1])
async def test_in_a_real_browser_too(tmp_path, monkeypatch, window, seed, n):
    """htmx applies the fragments in real pages: this test holds the applier above honest."""
    monkeypatch.setattr(places, "PAGE_MESSAGES", 100_000)
    async with a_world(tmp_path, kept_mails(monkeypatch), f"{seed} {n}") as world:
        page = await window(allow=[r"WebSocket connection to .* failed", r"htmx:ws:error", r"ERR_CONNECTION_REFUSED"])
        await page.context.add_cookies([{"name": cookie.key, "value": cookie.value, "url": world.ann.base}
                                        for cookie in world.ann.browser.cookie_jar])
        channel_id = next(iter(world.channels))
        await page.goto(world.ann.base + world.path(channel_id))
        await page.wait_for_selector("#messages[data-live]")
        for step in range(60):
            await world.node.submit(world.operations())
            if step % 20 == 10:
                world.chat["chat_clients"].sockets()[0].transport.abort()
                await page.wait_for_selector("#messages:not([data-live])", state="attached")
            if step % 20 == 15:
                await page.wait_for_selector("#messages[data-live]")
        await world.node.submit([put(world.message("the very last") | {"msg/channel": channel_id})])
        await page.wait_for_selector("text=the very last")
        live = await page.evaluate(TIDY)
        await page.reload()
        await page.wait_for_selector("#messages[data-live]")
        assert await page.evaluate(TIDY) == live
