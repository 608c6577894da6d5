"""The reading of feeds: RSS, Atom and JSON Feed, fetched through a door, told as plain text.

    fetched = await feed_reader.fetch(door.Door(), "https://example.org/feed.xml")
    for entry in fetched.entries:              # oldest first
        print(feed_reader.told(entry))
    await feed_reader.fetch(door.Door(), "https://example.org/feed.xml", fetched.known)      # None while nothing is new

What comes through the door is a stranger's, and is read in a process of its own: a parser that loops, swells or falls takes nothing
with it. (On two megabytes of attributes the parser kept the interpreter for 14 s; no thread can be stopped in that.) This file is that
process's program too, and so it imports little: `python feed_reader.py URL CHARSET` turns the bytes of its input into entries. It knows no
channel and no message.
"""
import asyncio
import codecs
import contextlib
import datetime as dt
import hashlib
import html
import html.entities
import html.parser
import json
import os
import re
import sys
import urllib.parse
from typing import NamedTuple

ENTRIES_MAX = 2_000                   # of one feed, the newest; most have 10 to 50
TAGS_MAX = 75_000                     # two megabytes of real feeds have fewer; the parser's memory grows with them
READ_S_MAX = 5                        # a usual feed takes 0.1 s, nearly all of it the start of the process
READ_BYTES_MAX = 512 * 1024 * 1024    # of address space; the interpreter and the parser need 100 MB of it, used or not
TITLE_CHARS_MAX, AUTHOR_CHARS_MAX, TEXT_CHARS_MAX, LINK_CHARS_MAX = 200, 100, 300, 2_000
MARKUP_CHARS_MAX = 5_000              # of an entry's text, searched for its first 300 characters of prose: the searcher is quadratic
PAGE_CHARS_MAX = 200_000              # of a web page, searched for its feed; the head comes first
ACCEPT = "application/rss+xml, application/atom+xml, application/feed+json, application/xml;q=0.9, application/json;q=0.8, */*;q=0.5"
KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")          # the reader gets no secret that stands in the environment


class FeedError(Exception):
    """No entries; the sentence says why and may be shown to whoever asked."""


class Entry(NamedTuple):
    id: str                           # 16 hexadecimal digits, the same however the entry is edited or moved
    title: str
    author: str
    at: str                           # ISO 8601, UTC; "" if unknown, as every other text
    text: str
    link: str                         # http or https


class Fetched(NamedTuple):
    entries: list[Entry]              # oldest first
    known: dict                       # "url", "etag", "last-modified": what to ask with next time


# ── Fetching ─────────────────────────────────────────────────────────────────────────────────────────────────

async def fetch(door, url: str, known: dict | None = None, user_agent: str = "eelchat") -> Fetched | None:
    """The feed's entries; None if nothing has changed since `known`. Raises: FeedError and what the door raises."""
    headers = {"User-Agent": user_agent, "Accept": ACCEPT}
    answer = await door.get(url, headers | _conditions(known or {}))
    if answer.status == 304:
        if answer.url == (known or {}).get("url"):
            return None
        answer = await door.get(url, headers)                  # it leads elsewhere by now, where the same tag means something else
    if answer.status != 200:
        raise FeedError(f"It answered with status {answer.status}.")
    charset = re.search(r"charset=[\"']?([\w.:-]+)", answer.headers.get("Content-Type", ""), re.I)
    entries = await read(answer.body, answer.url, charset.group(1) if charset else "")
    found = {"url": answer.url, "etag": answer.headers.get("ETag", ""), "last-modified": answer.headers.get("Last-Modified", "")}
    return Fetched(entries, {key: value for key, value in found.items() if 0 < len(value) <= LINK_CHARS_MAX and value.isascii()})


def _conditions(known):
    names = {"If-None-Match": "etag", "If-Modified-Since": "last-modified"}
    return {name: known[key] for name, key in names.items() if key in known}


def told(entry: Entry) -> str:
    """Title, author and date in a line, the beginning of the text, the link: each where there is one. Source: the tutorial, format-post."""
    at = dt.datetime.fromisoformat(entry.at).strftime("%d %b %Y %H:%M UTC").lstrip("0") if entry.at else ""
    first = " | ".join(filter(None, [entry.title, entry.author, at]))
    return "\n".join(filter(None, [first, entry.text, entry.link]))


async def read(body: bytes, url: str, charset: str = "") -> list[Entry]:
    """The entries in a document that came from `url`, oldest first. Raises: FeedError."""
    environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    reader = await asyncio.create_subprocess_exec(sys.executable, "-I", __file__, url, charset, env=environment, stdin=asyncio.subprocess.PIPE,
                                                  stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(READ_S_MAX):
            out, _ = await reader.communicate(body)
    except TimeoutError:
        raise FeedError("It takes too long to read.") from None
    finally:
        if reader.returncode is None:
            reader.kill()
            await reader.wait()
    if reader.returncode:
        raise FeedError("It cannot be read as a feed.")
    made = json.loads(out)
    if "error" in made:
        raise FeedError(made["error"])
    return [Entry(*fields) for fields in made["entries"]]


# ── Reading, in the process of its own ───────────────────────────────────────────────────────────────────────

def main(url, charset):
    bound_this_process()
    try:
        made: dict = {"entries": entries_of(sys.stdin.buffer.read(), url, charset)}
    except FeedError as error:
        made = {"error": str(error)}
    json.dump(made, sys.stdout)


def bound_this_process():
    """Time, memory, no files, and behind everything else in the queue for the processor."""
    import resource
    for kind, bound in [("CPU", READ_S_MAX), ("AS", READ_BYTES_MAX), ("FSIZE", 0), ("CORE", 0)]:
        with contextlib.suppress(ValueError, OSError):         # macOS bounds no address space
            resource.setrlimit(getattr(resource, f"RLIMIT_{kind}"), (bound, bound))
    os.nice(10)


def entries_of(body: bytes, url: str, charset: str = "") -> list[Entry]:
    """The same within this process: without its bounds."""
    import fastfeedparser
    text = plain_document(body, url, charset)
    try:
        # Bytes, never text: a text that looks like an address, it would fetch by itself.
        feed = fastfeedparser.parse(text.encode("utf-8", "replace"), include_media=False, include_tags=False, include_enclosures=False)
    except Exception:
        raise FeedError("It cannot be read as a feed.") from None
    found: dict[str, Entry] = {}
    for raw in reversed(feed.entries):                         # nearly all feeds have the newest first
        if entry := entry_of(raw, url):
            found.setdefault(entry.id, entry)
    entries = list(found.values())
    if all(entry.at for entry in entries):
        entries.sort(key=lambda entry: entry.at)
    return entries[-ENTRIES_MAX:]


BYTE_ORDER_MARKS = [(codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
                    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")]
DECLARATION = re.compile(r"\s*+<\?xml\b[^>]*+>")
PROLOG = re.compile(r"(?:\s++|<\?.*?\?>|<!--.*?-->)*+", re.DOTALL)          # possessive: no input makes it go back
CDATA = re.compile(r"<!\[CDATA\[.*?(?:\]\]>|\Z)", re.DOTALL)
NAMED = re.compile(r"&([a-zA-Z][a-zA-Z0-9]{1,31};)")
GUID = re.compile(r"<guid\b[^<>]*>\s*+(?:<!\[CDATA\[\s*+)?(?!https?://)")


def plain_document(body: bytes, url: str, charset: str = "") -> str:
    """The document as text, without what makes reading it dangerous. Raises: FeedError if it is a web page or has a document type."""
    text = decoded(body, charset)
    text = text[declaration.end():] if (declaration := DECLARATION.match(text)) else text
    if re.match(r"\s*[{\[]", text):
        return text
    start = PROLOG.sub("", text, count=1)[:20].lower()
    if start.startswith(("<!doctype html", "<html")):
        address = feed_of(text, url)
        raise FeedError("That is a web page, not a feed." + (f" Its feed is {address}" if address else ""))
    if start.startswith("<!"):
        raise FeedError("It declares a document type, and such feeds are not read.")
    if CDATA.sub("", text).count("<") > TAGS_MAX:
        raise FeedError(f"It has more than {TAGS_MAX:,} tags.")
    text = GUID.sub(r"\g<0>id:", text)          # of "2" alone, where there is no date, the parser makes the second of this month
    return NAMED.sub(named, text)


LINK = re.compile(r"<link\b([^<>]{1,2000})>", re.I)
ATTRIBUTE = re.compile(r"""\b(rel|type|href)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""", re.I)
FEED_TYPES = frozenset({"application/rss+xml", "application/atom+xml", "application/feed+json"})


def feed_of(page, url):
    """The address of the feed that a web page names, "" if it names none."""
    for link in LINK.finditer(page[:PAGE_CHARS_MAX]):
        said = {name.lower(): html.unescape(a or b or c).strip() for name, a, b, c in ATTRIBUTE.findall(link[1])}
        if "alternate" in said.get("rel", "").lower().split() and said.get("type", "").lower() in FEED_TYPES:
            return web_address(said.get("href", ""), url)
    return ""


def decoded(body, charset):
    """By its byte order mark, its own declaration, what the server said, as UTF-8: the first that is there. What does not fit becomes �."""
    mark = next((name for bytes, name in BYTE_ORDER_MARKS if body.startswith(bytes)), None)
    declared = re.match(rb"\s*<\?xml\b[^>]{0,200}?\bencoding\s*=\s*[\"']([\w.:-]{1,40})", body)
    for name in filter(None, [mark, declared and declared.group(1).decode(), charset]):
        with contextlib.suppress(LookupError, ValueError):
            return body.decode(name, "replace")
    return body.decode("utf-8", "replace")


def named(match):
    """HTML's names for characters, which XML does not know and feeds use all the same. Names of markup stay as they are."""
    character = html.entities.html5.get(match.group(1), "&")
    return match.group() if set(character) & set("<>&\"'") else character


def entry_of(raw, url):
    """An Entry, or None if there is nothing to tell. What is not text where text belongs, as JSON may have it, counts as nothing."""
    title, author = prose(html.unescape(string(raw.get("title"))), TITLE_CHARS_MAX), prose(string(raw.get("author")), AUTHOR_CHARS_MAX)
    content = raw.get("content") or [{"value": raw.get("description")}]
    text = prose(without_markup(string(content[0].get("value"))[:MARKUP_CHARS_MAX]), TEXT_CHARS_MAX)
    link, at = web_address(link_of(raw), url), moment(string(raw.get("published")) or string(raw.get("updated")))
    if not (title or text or link):
        return None
    given = raw.get("id")
    key = f"id {given}" if isinstance(given, (str, int)) and given != "" else f"link {link}" if link else f"text {title}\n{text}"
    return Entry(hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=8).hexdigest(), title, author, at, text, link)


def link_of(raw):
    """The page that an entry is about: of Atom's many links the one that says so, or says nothing."""
    links = [one.get("href") for one in raw.get("links") or () if one.get("rel") in (None, "alternate")]
    return string(next(iter(links), None) or raw.get("link"))


def string(value):
    return value if isinstance(value, str) else ""


def prose(text, chars_max):
    """In one line, of characters that show: none that turns the direction of what follows, none that hides."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text[:chars_max * 20]).split())
    return text if len(text) <= chars_max else text[:chars_max - 3].rstrip() + "..."


def without_markup(text):
    reader = Prose(convert_charrefs=True)
    reader.feed(text)
    reader.close()
    return "".join(reader.found)


class Prose(html.parser.HTMLParser):
    """What a reader would see of a page; tags part words."""

    def __init__(self, **options):
        super().__init__(**options)
        self.found, self._hidden = [], 0

    def handle_starttag(self, tag, attributes):
        self._hidden += tag in ("script", "style")
        self.found.append(" " if tag in BLOCKS else "")

    def handle_endtag(self, tag):
        self._hidden -= tag in ("script", "style") and self._hidden > 0
        self.found.append(" " if tag in BLOCKS else "")

    def handle_data(self, data):
        self.found.append("" if self._hidden else data)


BLOCKS = frozenset("p div br li ul ol h1 h2 h3 h4 h5 h6 tr td th table blockquote pre section article figure figcaption hr img".split())


def web_address(text, base):
    """An http or https address, whole, without a space; "" for any other."""
    with contextlib.suppress(ValueError):
        link = urllib.parse.urljoin(base, text.strip()) if text.strip() else ""
        parts = urllib.parse.urlsplit(link)
        if parts.scheme in ("http", "https") and parts.netloc and len(link) <= LINK_CHARS_MAX and link.isprintable() and " " not in link:
            return link
    return ""


def moment(text):
    with contextlib.suppress(ValueError, OverflowError):
        at = dt.datetime.fromisoformat(text)
        return at.astimezone(dt.timezone.utc).isoformat(timespec="seconds")
    return ""


if __name__ == "__main__":
    main(*sys.argv[1:])
