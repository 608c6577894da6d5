"""The reading of feeds: RSS, Atom and JSON Feed, fetched through a door, told as plain text.

    fetched = await feed_reader.fetch(door.Door(), "https://example.org/feed.xml")
    for entry in fetched.entries:              # oldest first
        print(feed_reader.told(entry))
    await feed_reader.fetch(door.Door(), "https://example.org/feed.xml", fetched.known)      # None while nothing is new

Bytes that come through the door are a stranger's, so they are read in a process of their own: a parser that loops,
swells or falls takes nothing with it, and no thread could be stopped in that. This file is that process's program too,
so it imports little: `python feed_reader.py URL CHARSET` turns the bytes of its input into entries. It knows no
channel and no message.
"""
import asyncio
import calendar
import codecs
import collections
import contextlib
import datetime as dt
import email.utils
import hashlib
import html
import html.parser
import io
import json
import operator
import os
import re
import sys
import urllib.parse
import zoneinfo
from typing import NamedTuple

ENTRIES_MAX = 2_000                   # of one feed, the newest; most have 10 to 50
TAGS_MAX = 75_000                     # two megabytes of real feeds have fewer; the parser's memory grows with them
TAG_CHARS_MAX = 20_000                # of one tag with its attributes
MENDED_MAX = 50_000                   # bare `&` that are made text
READ_S_MAX = 5                        # a usual feed takes 0.1 s, nearly all of it the start of the process
READ_BYTES_MAX = 512 * 1024 * 1024    # of address space; the interpreter and the parser need 100 MB of it, used or not
TITLE_CHARS_MAX, AUTHOR_CHARS_MAX, TEXT_CHARS_MAX, LINK_CHARS_MAX = 200, 100, 300, 2_000
MARKUP_CHARS_MAX = 5_000              # of an entry's text, searched for its first words: the searcher is quadratic
PAGE_CHARS_MAX = 200_000              # of a web page, searched for its feed; the head comes first
ACCEPT = ("application/rss+xml, application/atom+xml, application/feed+json, application/xml;q=0.9, "
          "application/json;q=0.8, */*;q=0.5")
KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")          # no secret of the environment is among them


class FeedError(Exception):
    """No entries; the sentence says why and may be shown to those who asked."""

    def __init__(self, message: str, retry_after_s: int = 0):
        super().__init__(message)
        self.retry_after_s = retry_after_s


class GoneError(FeedError):
    """There will be no more entries."""


class Entry(NamedTuple):
    id: str                           # 16 hexadecimal digits, the same however the entry is edited or moved
    title: str
    author: str
    at: str                           # ISO 8601, UTC; "" if unknown, as every other text
    text: str
    link: str                         # http or https
    other_ids: tuple[str, ...]        # know it again when its guid or link turns out to be shared, or goes


class Fetched(NamedTuple):
    entries: list[Entry]              # oldest first
    known: dict                       # "url", "etag", "last-modified": what to ask with next time
    moved_to: str | None = None       # where permanent redirects say that the feed is from now on


# ── Fetching ─────────────────────────────────────────────────────────────────────────────────────────────────

async def fetch(door, url: str, known: dict | None = None, user_agent: str = "eelchat") -> Fetched | None:
    """The feed's entries; None if nothing has changed since `known`.

    Raises: FeedError, with `retry_after_s` where the answer says when to ask again; GoneError where the feed has
    ended; what the door raises.
    """
    headers = {"User-Agent": user_agent, "Accept": ACCEPT}
    answer = await door.get(url, headers | _conditions(known or {}))
    if answer.status == 304:
        if answer.url == (known or {}).get("url"):
            return None
        answer = await door.get(url, headers)                  # it leads elsewhere now, and the tag was another's
    if answer.status == 410:
        raise GoneError("It answered that it is gone for good.")
    if answer.status != 200:
        raise FeedError(f"It answered with status {answer.status}.", retry_after_s(answer))
    charset = re.search(r"charset=[\"']?([\w.:-]+)", answer.headers.get("Content-Type", ""), re.I)
    entries = await read(answer.body, answer.url, charset.group(1) if charset else "")
    return Fetched(entries, _to_ask_with(answer), answer.moved_to)


def _to_ask_with(answer):
    found = {"url": answer.url, "etag": answer.headers.get("ETag", ""),
             "last-modified": answer.headers.get("Last-Modified", "")}
    return {key: value for key, value in found.items() if 0 < len(value) <= LINK_CHARS_MAX and value.isascii()}


def _conditions(known):
    names = {"If-None-Match": "etag", "If-Modified-Since": "last-modified"}
    return {name: known[key] for name, key in names.items() if key in known}


def retry_after_s(answer):
    """Seconds, 0 if it does not say. Source: RFC 9110, 10.2.3, a number or a date."""
    said = answer.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", said):
        return int(said)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        at = email.utils.parsedate_to_datetime(said)
        return max(0, round((at - dt.datetime.now(dt.timezone.utc)).total_seconds()))
    return 0


def told(entry: Entry) -> str:
    """Title, author and date in a line, the beginning of the text, the link: each where there is one.

    Source: the tutorial, format-post.
    """
    at = dt.datetime.fromisoformat(entry.at).strftime("%d %b %Y %H:%M UTC").lstrip("0") if entry.at else ""
    first = " | ".join(filter(None, [entry.title, entry.author, at]))
    return "\n".join(filter(None, [first, entry.text, entry.link]))


async def read(body: bytes, url: str, charset: str = "") -> list[Entry]:
    """The entries in a document that came from `url`, oldest first. Raises: FeedError."""
    environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    reader = await asyncio.create_subprocess_exec(
        sys.executable, "-I", __file__, url, charset, env=environment, stdin=asyncio.subprocess.PIPE,
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
    text = plain_document(body, url, charset)
    items = json_items(text) if text.startswith(("{", "[")) else xml_items(text)
    items = [item for item in items if item.title or item.text or web_address(item.link, url)]
    found: dict[str, Entry] = {}
    for item, keys in zip(items, keys_of(items), strict=True):
        found.setdefault(keys[0], entry_of(item, url, keys))
    return in_order(list(found.values()))[-ENTRIES_MAX:]


def in_order(entries):
    """Oldest first. Nearly all feeds have the newest first; one without a date stays beside its older neighbour."""
    dated = [entry.at for entry in entries if entry.at]
    falls, rises = (sum(map(compare, dated, dated[1:])) for compare in (operator.gt, operator.lt))
    entries = entries if rises > falls else entries[::-1]
    dates: list[str] = []
    for entry in entries:
        dates.append(entry.at or (dates[-1] if dates else ""))
    return [entry for _, entry in sorted(zip(dates, entries, strict=True), key=operator.itemgetter(0))]


# ── The document as text ─────────────────────────────────────────────────────────────────────────────────────

BYTE_ORDER_MARKS = [(codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
                    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
                    (b"<\0", "utf-16-le"), (b"\0<", "utf-16-be"), (b"{\0", "utf-16-le"), (b"\0{", "utf-16-be")]
AS_BROWSERS_READ = {"iso8859-1": "cp1252", "ascii": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874",
                    "tis-620": "cp874", "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949",
                    "big5": "big5hkscs"}
                                      # Python's names on the left. Source: the labels of the WHATWG's Encoding Standard
LABELS = {"x-sjis": "cp932", "windows-31j": "cp932", "x-gbk": "gb18030", "cn-gb": "gb18030", "x-euc-jp": "euc_jp",
          "x-x-big5": "big5hkscs", "cn-big5": "big5hkscs", "windows-949": "cp949", "windows-874": "cp874",
          "dos-874": "cp874", "x-mac-roman": "mac-roman", "x-mac-cyrillic": "mac-cyrillic",
          "x-mac-ukrainian": "mac-cyrillic", "visual": "iso8859-8", "logical": "iso8859-8", "koi": "koi8-r",
          "koi8": "koi8-r", "koi8-ru": "koi8-u", "sun_eu_greek": "iso8859-7", "unicode11utf8": "utf-8",
          "unicode20utf8": "utf-8", "x-unicode20utf8": "utf-8", "unicode-1-1-utf-8": "utf-8"}
                                      # those that Python does not know. Source: the same
SPELLING = re.compile(r"(?:iso[-_]?8859[-_]?(\d{1,2})(?:-[ei]|:\d{4})?|x-cp(\d{4}))")
WIDE = "utf-16", "utf-32"             # a declaration that could be read as it stands was not written in one of these
NO_CHARSETS = {"utf-7", "unicode_escape", "raw-unicode-escape", "idna", "punycode"}          # no browser reads them
DECLARED = re.compile(rb"(?:\s++|<!--.{0,1000}?-->)*+<\?xml\b[^>]{0,200}?\bencoding\s*=\s*[\"']([\w.:-]{1,40})",
                      re.DOTALL)
PROLOG = re.compile(r"(?:\s++|<\?.*?\?>|<!--.*?-->)*+", re.DOTALL)          # possessive: no input makes it go back
DOCUMENT_TYPE = re.compile(r"<!DOCTYPE\b(?!\s+html\b)[^<>\[\]]{0,1000}+>", re.I)          # without declarations
UNFIT = re.compile(r"[\0-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")          # for XML
CDATA = re.compile(r"<!\[CDATA\[.*?(?:\]\]>|\Z)", re.DOTALL)
LOOSE = re.compile(r"<!\[CDATA\[.*?(?:\]\]>|\Z)|<!--.*?(?:-->|\Z)|</?dc:title\b|"
                   r"<(?![A-Za-z_/!?])|&(#?\w{1,32};)?", re.DOTALL)
LONG_TAG = re.compile(r"<[^!<>][^<>]{%d}" % TAG_CHARS_MAX)


def plain_document(body: bytes, url: str, charset: str = "") -> str:
    """The document as text from its first element on, well-formed where that is easily mended, without a document type.

    Raises: FeedError if it is a web page, has too many tags, or declares a document type with declarations of its own.
    """
    text = UNFIT.sub("", decoded(body, charset)).lstrip("\ufeff \t\r\n")
    if text.startswith(("{", "[")):
        return text
    text = PROLOG.sub("", text, count=1)
    if document_type := DOCUMENT_TYPE.match(text):
        text = PROLOG.sub("", text[document_type.end():], count=1)
    start = text[:20].lower()
    if start.startswith(("<!doctype html", "<html")):
        address = feed_of(text, url)
        raise FeedError("That is a web page, not a feed." + (f" Its feed is {address}" if address else ""))
    if start.startswith("<!"):
        raise FeedError("It declares a document type, and such feeds are not read.")
    if CDATA.sub("", text).count("<") > TAGS_MAX:
        raise FeedError(f"It has more than {TAGS_MAX:,} tags.")
    if text.count("&") - text.count(";") > MENDED_MAX:
        raise FeedError("It cannot be read as a feed.")
    well_formed = LOOSE.sub(mended, text)
    if not start.startswith("<") or LONG_TAG.search(well_formed):
        raise FeedError("It cannot be read as a feed.")
    return well_formed


def decoded(body, charset):
    """By its byte order mark, its own declaration, what the server said, as UTF-8: the first that is there.

    Bytes that do not fit become �.
    """
    mark = next((name for bytes, name in BYTE_ORDER_MARKS if body.startswith(bytes)), None)
    declared = DECLARED.match(body)
    for name in filter(None, [mark, declared and python_charset(declared[1].decode(), WIDE), python_charset(charset)]):
        with contextlib.suppress(LookupError, ValueError):
            return body.decode(name, "replace")
    return body.decode("utf-8", "replace")


def python_charset(label, refused=()):
    """Python's name of the charset that browsers read under this label; None if they read none under it."""
    with contextlib.suppress(LookupError, ValueError):
        name = codecs.lookup(known_label(label.strip().lower())).name
        if name not in NO_CHARSETS and not name.startswith(tuple(refused)):
            return AS_BROWSERS_READ.get(name, name)
    return None


def known_label(label):
    """A label as Python knows it."""
    if spelt := SPELLING.fullmatch(label):
        return f"iso8859-{spelt[1]}" if spelt[1] else f"cp{spelt[2]}"
    return LABELS.get(label, label)


OTHER_TITLE = "dc:othertitle"          # the parser would take a dc:title for the title, whichever comes first


def mended(match):
    """Bare `&` and `<` become text, HTML's names of characters become characters: feeds use both, XML knows neither."""
    found = match.group()
    if found in "<&":
        return html.escape(found)
    if found[0] == "<":
        return found.replace("dc:title", OTHER_TITLE) if found.endswith("dc:title") else found
    character = html.unescape(found)
    return html.escape("" if UNFIT.search(character) else character)


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


# ── Its items ────────────────────────────────────────────────────────────────────────────────────────────────

class Item(NamedTuple):
    """An entry of a feed, in plain text; "" for a part that is missing."""
    id: str = ""
    title: str = ""
    author: str = ""
    at: str = ""
    text: str = ""
    link: str = ""
    enclosure: str = ""


def xml_items(text):
    import feedparser
    try:
        # A stream, never a text: a text that looks like an address, it would fetch by itself.
        feed = feedparser.parse(io.BytesIO(text.encode("utf-8", "replace")), sanitize_html=False,
                                resolve_relative_uris=False,
                                response_headers={"content-type": "application/xml; charset=utf-8"})
    except Exception:
        raise FeedError("It cannot be read as a feed.") from None
    version = feed.get("version", "")
    if not feed.entries and not version:
        raise FeedError("It cannot be read as a feed.")
    return [xml_item(entry, is_typed=version.startswith("atom")) for entry in feed.entries]


def xml_item(entry, is_typed):
    title = plain(entry.get("title_detail", {}), is_typed) or entry.get(OTHER_TITLE.replace(":", "_"), "")
    dates = [(dict.get(entry, name), dict.get(entry, f"{name}_parsed")) for name in ("published", "updated", "created")]
    bodies = [*entry.get("content", ()), entry.get("summary_detail", {})]
    return Item(
        id=entry.get("id", "").strip(),
        title=prose(title, TITLE_CHARS_MAX),
        author=prose(entry.get("author_detail", {}).get("name") or entry.get("author") or "", AUTHOR_CHARS_MAX),
        at=first(moment(*date) for date in dates),
        text=first(prose(plain(body, is_typed=True), TEXT_CHARS_MAX) for body in bodies),
        link=link_of(entry), enclosure=first(one.get("href", "") for one in entry.get("enclosures", ())))


def first(texts):
    """The first that says anything, else ""."""
    return next(filter(None, texts), "")


def plain(detail, is_typed):
    """The words of a text. RSS does not say whether a title is HTML: it is if an element ends in it or has no end."""
    text = detail.get("value") or ""
    if detail.get("type") == "text/plain" and is_typed:
        return text
    return without_markup(text[:MARKUP_CHARS_MAX]) if is_typed or MARKUP.search(text) else html.unescape(text)


MARKUP = re.compile(r"</[a-z]|<(?:br|hr|img|p|wbr)\b", re.I)


def link_of(entry):
    """The page that an entry is about: the link that says so, best of all as HTML; else a guid that is an address."""
    links = [one for one in entry.get("links", ())
             if one.get("href") and one.get("rel", "alternate").rpartition("/")[2] == "alternate"]
    links.sort(key=lambda one: one.get("type", "text/html") not in ("text/html", "application/xhtml+xml"))
    if links:
        return links[0]["href"]
    link = entry.get("link") or ""
    return link if "://" in link else ""


def json_items(text):
    try:
        items = json.loads(text, parse_int=str, parse_float=str, parse_constant=str)["items"]
        return [json_item(item) for item in items if isinstance(item, dict)]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise FeedError("It cannot be read as a feed.") from None


def json_item(item):
    authors = [*listed(item.get("authors")), item.get("author")]
    bodies = [string(item.get("content_text")), without_markup(string(item.get("content_html"))[:MARKUP_CHARS_MAX]),
              string(item.get("summary"))]
    return Item(
        id=string(item.get("id")).strip(), title=prose(string(item.get("title")), TITLE_CHARS_MAX),
        author=first(prose(string(one.get("name")), AUTHOR_CHARS_MAX) for one in authors if isinstance(one, dict)),
        at=first(moment(string(item.get(name))) for name in ("date_published", "date_modified")),
        text=first(prose(body, TEXT_CHARS_MAX) for body in bodies),
        link=string(item.get("url")) or string(item.get("external_url")),
        enclosure=first(string(one.get("url")) for one in listed(item.get("attachments")) if isinstance(one, dict)))


def listed(value):
    return value if isinstance(value, list) else []


def string(value):
    return value if isinstance(value, str) else ""


# ── Which entry it is ────────────────────────────────────────────────────────────────────────────────────────

def keys_of(items):
    """The keys of each item, best first: its guid, its link, each if it is the item's own; what else tells it apart.

    The first is the entry's identity, which stays when the entry is edited. The others know it again on the day when
    the first turns out to be shared. A guid is shared if it stands on items of different links, or on most of a feed.
    """
    sharing: dict[str, list] = {}
    for item in items:
        sharing.setdefault(item.id, []).append(item)
    links = collections.Counter(item.link for item in items)
    for item in items:
        own = [f"id {item.id}"] if item.id and not is_shared(sharing[item.id], len(items)) else []
        own += [f"link {item.link}"] if item.link and links[item.link] == 1 else []
        yield [*own, "\n".join(["all", item.link, item.enclosure or item.title + item.at or item.text])]


def is_shared(group, count):
    return len({item.link for item in group}) > 1 or len(group) > 2 and 2 * len(group) > count


def entry_of(item, url, keys):
    id, *others = map(hashed, keys)
    return Entry(id, item.title, item.author, item.at, item.text, web_address(item.link, url), tuple(others))


def hashed(key):
    return hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=8).hexdigest()


# ── Words ────────────────────────────────────────────────────────────────────────────────────────────────────

SOFT_HYPHEN = "\u00ad"
JOINERS = "\u200c\u200d"              # Persian and Indic spelling and families of emoji need them


def prose(text, chars_max):
    """In one line, of characters that show or join: none that turns the direction of what follows, none that hides."""
    text = text[:chars_max * 20].replace(SOFT_HYPHEN, "")
    text = " ".join("".join(c if c.isprintable() or c in JOINERS else " " for c in text).split())
    return text if len(text) <= chars_max else text[:chars_max - 3].rstrip() + "..."


def without_markup(text):
    reader = Prose(convert_charrefs=True)
    reader.feed(text)
    reader.close()
    return "".join(reader.found)


class Prose(html.parser.HTMLParser):
    """The text that a reader sees of a page. A tag ends a word."""

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


BLOCKS = frozenset("p div br li ul ol h1 h2 h3 h4 h5 h6 tr td th table blockquote pre section article figure "
                   "figcaption hr img".split())


def web_address(text, base):
    """An http or https address, whole; "" for any other. Line ends go, and spaces are escaped, as in browsers."""
    text = LINE_ENDS.sub("", text.strip()).replace(" ", "%20")
    with contextlib.suppress(ValueError):
        link = urllib.parse.urljoin(base, text) if text else ""
        parts = urllib.parse.urlsplit(link)
        is_clean = len(link) <= LINK_CHARS_MAX and link.isprintable() and "%20" not in parts.netloc
        if parts.scheme in ("http", "https") and parts.netloc and is_clean:
            return link
    return ""


LINE_ENDS = re.compile(r"[\t\r\n]+")
CITY = re.compile(r"\s\(?([A-Z][A-Za-z]+(?:/[A-Z][\w+-]+)+)\)?\s*$")
ZONE = re.compile(r"(?<=[\d\s])([A-Z]{2,5})\s*$")
UNIVERSAL = frozenset({"UT", "UTC", "GMT", "AM", "PM"})          # the last two name no zone
HOURS_EAST = {"EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7, "AKST": -9,
              "AKDT": -8, "HST": -10, "WET": 0, "WEST": 1, "BST": 1, "CET": 1, "MEZ": 1, "MET": 1, "CEST": 2,
              "MESZ": 2, "MEST": 2, "EET": 2, "EEST": 3, "MSK": 3, "HKT": 8, "SGT": 8, "AWST": 8, "JST": 9, "KST": 9,
              "AEST": 10, "AEDT": 11, "NZST": 12, "NZDT": 13}
                                      # the American ones as in RFC 822; of the others those that name one zone
ISO = re.compile(r"\d{4}-?(?:\d\d-?\d\d|W\d\d)")
SPACE_BEFORE_ZONE = re.compile(r"\s+(?=[+-]\d\d:?\d\d$|Z$)")
ISO_FRACTION = re.compile(r"([.,]\d{6})\d+")
MONTH = re.compile(r"\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)", re.I)
WEEKDAY = re.compile(r"^\s*[^\W\d]+\.?,\s*")
HALF_OF_DAY = re.compile(r"\d\s*[ap]\.?m\b", re.I)
POINT = re.compile(r"(\d)\.(?=\d\d\s*[ap]\.?m\b)", re.I)


def moment(text, parsed=None):
    """ISO 8601 in UTC, "" for what is no date. `parsed` is the feed parser's reading: it knows neither cities nor a.m.,
    and takes a zone that it does not know for UTC.
    """
    text = POINT.sub(r"\1:", (text or "").strip())
    with contextlib.suppress(ValueError, OverflowError, KeyError):
        if city := CITY.search(text):
            at = spelt_out(text[:city.start()]).replace(tzinfo=zoneinfo.ZoneInfo(city[1]))
        elif (zone := ZONE.search(text)) and zone[1] not in UNIVERSAL:
            offset = dt.timezone(dt.timedelta(hours=HOURS_EAST[zone[1]]))
            at = spelt_out(text[:zone.start()]).replace(tzinfo=offset)
        elif not parsed or text.isdigit() or HALF_OF_DAY.search(text):
            at = spelt_out(text)
        elif ISO.match(text):
            at = spelt_out(SPACE_BEFORE_ZONE.sub("", text))
        else:
            at = dt.datetime.fromtimestamp(calendar.timegm(parsed), dt.timezone.utc)
        return at.astimezone(dt.timezone.utc).isoformat(timespec="seconds")
    return ""


def spelt_out(text):
    """Raises: ValueError for what is neither ISO 8601 nor names its month."""
    if not MONTH.search(text):
        at = dt.datetime.fromisoformat(ISO_FRACTION.sub(r"\1", text))
    else:
        import dateutil.parser
        at = dateutil.parser.parse(WEEKDAY.sub("", text[:TITLE_CHARS_MAX]))
    return at if at.tzinfo else at.replace(tzinfo=dt.timezone.utc)


if __name__ == "__main__":
    main(*sys.argv[1:])
