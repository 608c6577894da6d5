"""Text: what people write is shown with a small Markdown and emoji by name, as they know it from other chats.

A text is stored as it was typed; only how it is shown is made here, once a version, with no look at the clock: every
page and frame shows the same. A text without markup is shown as it was typed, and costs as little. Any other goes
through the parser, our own writer of HTML, which writes some twenty elements, and a sanitizer that knows only those.
What is too large, too deep or too intricate is shown as it was typed, too.

Blocks follow the lines that people see: a quote or a list item ends with its line, as in Slack and Discord, and not
where CommonMark's lazy lines end; docs/writing.md lists all that differs.
"""
import collections
import functools
import re
import sys
import urllib.parse
from typing import NamedTuple

import emoji
import nh3
from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock, blockquote, list_block
from markdown_it.rules_inline import StateInline, link
from markdown_it.token import Token
from markupsafe import Markup, escape

import biff
from biff.pages import ADDRESS, ADDRESS_GOES_ON, LINKS_MAX, SENTENCE_MARKS, without_marks
from plugins.edits import CHARS_MAX, beside_text
from plugins.places import in_channel, signed_in

HTML_CHARS_MAX = 100_000              # of one message; 10,000 typed characters that are all escaped have 60,000
MARKS_MAX = 400                       # characters outside code blocks that may begin or end something: 4 ms
LINES_MAX = 600                       # of a text: 10,000 characters of a program have 300
BLOCKS_MAX = 120                      # quotes, items and fences: 6 ms of parsing; a page of a printed list has 60
DEPTH_MAX = 8                         # eight quotes in one another, or four lists, whose items count, too
INLINE_DEPTH_MAX = 8                  # bold in italic in a link: three are sensible
LANGUAGE_CHARS_MAX = 20               # of a code block: "objective-c++" has 13
BODIES_BYTES_MAX = 8 * 1024 * 1024    # of texts as they are shown, with markup, that are kept: some 8,000
EMOJI_ALONE_MAX = 3                   # a message of so many and nothing else is shown bigger
EMOJI_CHARS_MAX = 200                 # of such a message, names included
CHOICES_MAX = 8                       # emoji or names that are offered at once
ASKS_A_PERSON = 240, 60               # completions in a minute: each letter of a name asks
PREVIEWS_A_PERSON = 30, 60            # in a minute

CHANNEL = "/community/{id}/channel/{channel_id}"

# Everything that can begin markup. A text without any of it is plain.
MARKUP = re.compile(r"[*_~`]|\]\(|\\[\[\]>@:-]|^[ \t]*(?:> |- |\d{1,9}\. )", re.MULTILINE)
MARKS = re.compile(r"[*_~`\[\]\\]")
BLOCKS = re.compile(r"^(?:[ \t]*(?:>|[-*](?=[ \t])|\d{1,9}\.(?=[ \t])|```|~~~))+", re.MULTILINE)
EMPTY_LINES = re.compile(r"(\n(?:[ \t]*\n)+)")
FENCED = re.compile(r"^```[^`\n]*\n(?:(?![ \t]*```).*\n)*[ \t]*```[ \t]*$", re.MULTILINE)
QUOTE = re.compile(r">(?:[ \t]|$)")
ITEM = re.compile(r"(?![-*\s]*$)(?:[-*]|\d{1,9}\.)[ \t]+\S")
ESCAPABLE = "*_~`[]>@:-"              # fewer than CommonMark's: \\server\share, C:\(old) and \. in a pattern stay
NAMED = re.compile(r"(?<![\w:]):([a-z0-9_+-]{1,80}):(?!\w)", re.IGNORECASE)
EMOJI_NAME = re.compile(r"[a-z0-9_+-]+")
LANGUAGE = re.compile(r"[a-z0-9][a-z0-9+#._-]*")
HELD = re.compile("\ufdd0[ab](\\d+)\ufdd1")   # what the parser is not to look into: an address, or other spans
HELD_ADDRESS = re.compile(f"\ufdd0a\\d+\ufdd1{ADDRESS_GOES_ON}")
HOLDERS = "\ufdd0", "\ufdd1"                  # no characters, by Unicode, and in no text that people type

LINK = Markup('<a href="{}" target="_blank" rel="nofollow noopener noreferrer">{}</a>')
NAMED_LINK = Markup('<a class="named" href="{0}" target="_blank" rel="nofollow noopener noreferrer" title="{0}" '
                    'dir="auto">{1}</a>')
HOST = Markup('<span class="host"> ({})</span>')
CODE = Markup('<pre dir="ltr"><code{}>{}</code></pre>\n')

SANITIZER = nh3.Cleaner(
    tags={"p", "em", "strong", "s", "code", "pre", "blockquote", "ul", "ol", "li", "a", "span"},
    attributes={"a": {"href", "title", "target", "rel", "dir", "class"}, "code": {"class"}, "ol": {"start", "dir"},
                "span": {"class", "data-mem", "dir"},
                **{tag: {"dir"} for tag in ("p", "pre", "blockquote", "ul", "li")}},
    url_schemes={"http", "https"}, link_rel=None, strip_comments=True)


class Said(NamedTuple):
    """A text as it is shown. `has_blocks` is True if it is more than the inside of one paragraph."""

    html: Markup
    has_blocks: bool = False
    is_big: bool = False


def said(text, held=()):
    """A text as it is shown. `held` are spans of it that stand for something else: (start, end, HTML), in order."""
    text = str(text)
    if MARKUP.search(text) and not any(holder in text for holder in HOLDERS):
        if shown := BODIES((text, tuple(held))):
            return shown
    return Said(plain(text, held), is_big=not held and is_emoji_alone(text))


def in_words(message):
    """The text of a message in one line, without its marks."""
    shown = as_typed if message["msg/mem"] == "system" else said
    return shown(message["msg/text"]).html.striptags()


def as_typed(text):
    """Shows a text of the system or of a feed, which is no Markdown: only addresses become links."""
    return Said(plain(str(text)))


# ── As it was typed ──────────────────────────────────────────────────────────────────────────────────────────


def plain(text, held=()):
    """Addresses are links and names of emoji are emoji; everything else is as it was typed."""
    made, end, budget = [], 0, Budget()
    for start, stop, html in held:
        made += [with_links(text[end:start], budget), html]
        end = stop
    return Markup("").join([*made, with_links(text[end:], budget)]) if made else with_links(text, budget)


class Budget:
    """The number of links that a message may still have."""

    def __init__(self):
        self.links = LINKS_MAX


def with_links(text, budget):
    if "://" not in text and "ww." not in text.casefold():
        return escape(with_emoji(text))
    pieces = biff.addresses_apart(text, budget.links)
    budget.links -= sum(is_address for _, is_address in pieces)
    return Markup("").join(LINK.format(address_of(piece), piece) if is_address else escape(with_emoji(piece))
                           for piece, is_address in pieces)


def address_of(piece):
    return piece if "://" in piece[:8] else f"https://{piece}"


def host_of(piece):
    """Where an address leads; None if no browser would follow it."""
    try:
        return urllib.parse.urlsplit(address_of(piece)).hostname
    except ValueError:
        return None


# ── Emoji ────────────────────────────────────────────────────────────────────────────────────────────────────


def emoji_names():
    """{name: emoji}: the names that other chats use, and Unicode's, of Latin letters alone."""
    names: dict = {}
    for names_of in (lambda known: known.get("alias", ()), lambda known: [known["en"]]):
        for shown, known in emoji.EMOJI_DATA.items():
            if known["status"] == emoji.STATUS["fully_qualified"]:
                for name in names_of(known):
                    names.setdefault(name.strip(":").lower(), shown)
    return {name: shown for name, shown in names.items() if EMOJI_NAME.fullmatch(name)}


EMOJI = emoji_names()


def with_emoji(text):
    if text.count(":") < 2:
        return text
    return NAMED.sub(lambda found: EMOJI.get(found[1].lower(), found[0]), text)


def is_emoji_alone(text):
    """True if a message is up to three emoji and nothing else."""
    if len(text) > EMOJI_CHARS_MAX or not (text[:1] > "\u2000" or text[:1] == ":"):
        return False
    shown = "".join(with_emoji(text).split())
    return emoji.purely_emoji(shown) and emoji.emoji_count(shown) <= EMOJI_ALONE_MAX


# ── Markdown ─────────────────────────────────────────────────────────────────────────────────────────────────


class TooMuch(Exception):
    """The text is shown as it was typed."""


def marked_up(text, held=()):
    """A text with markup as it is shown; None if it is too large, too deep or too intricate."""
    if text.count("\n") > LINES_MAX or blocks_in(text) > BLOCKS_MAX:
        return None
    writer = Writer()
    text = writer.hold_spans(text, held)
    try:
        html = writer.blocks(text) if BLOCKS.search(text) else writer.paragraphs(text)
    except TooMuch:
        return None
    clean = Markup(SANITIZER.clean(f".{html}")[1:])      # it drops a byte order mark at the beginning
    return Said(clean, has_blocks=writer.has_blocks) if len(clean) <= HTML_CHARS_MAX else None


class Bodies:
    """Keeps the results of `marked_up` by its arguments. A reaction, a quote or a new page parses no text again."""

    def __init__(self):
        self.clear()

    def __call__(self, key):
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        shown = self._kept[key] = marked_up(*key)
        self._bytes += self._size(key, shown)
        while self._bytes > BODIES_BYTES_MAX:
            self._bytes -= self._size(*self._kept.popitem(last=False))
        return shown

    def _size(self, key, shown):
        text, held = key
        return 500 + sys.getsizeof(text) + 300 * len(held) + (sys.getsizeof(shown.html) if shown else 0)

    def clear(self):
        """Forgets all of them, as when a message is evicted: nobody knows which of them are its own."""
        self._kept, self._bytes = collections.OrderedDict[tuple, Said | None](), 0


BODIES = Bodies()


def blocks_in(text):
    """About how many quotes, items and fences there are; what stands in a code block is only text."""
    begins = BLOCKS.findall(FENCED.sub("```", text) if "```" in text else text)
    return sum(min(len(one.split()), DEPTH_MAX) for one in begins)


class Parser(MarkdownIt):
    """Links lead to an address that was held out of its sight, as it was typed, and nowhere else."""

    def normalizeLink(self, url: str) -> str:
        return url

    def validateLink(self, url: str) -> bool:
        return HELD_ADDRESS.fullmatch(url) is not None


@functools.cache
def markdown():
    """The parser with the rules that we keep. It is asked for tokens only: HTML is written below."""
    parser = Parser("zero", {"maxNesting": 50})
    parser.enable(["fence", "escape", "backticks", "strikethrough", "emphasis", "link"])
    parser.block.ruler.at("paragraph", paragraph)
    parser.block.ruler.at("blockquote", quote, {"alt": ["paragraph", "blockquote", "list"]})
    parser.block.ruler.at("list", item, {"alt": ["paragraph", "blockquote"]})
    parser.block.ruler.push("outside", outside, {"alt": ["blockquote"]})
    parser.enable(["blockquote", "list", "outside"])
    parser.inline.terminator_re = MARKS                # the parser would stop at others, too, for rules left out
    parser.inline.ruler.at("escape", backslash)
    parser.inline.ruler.at("link", named_link)
    return parser


def line_of(state, line):
    return state.src[state.bMarks[line] + state.tShift[line]:state.eMarks[line]]


def quote(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """`>` and a space: >_< and >:( are faces."""
    is_quote = state.level < DEPTH_MAX and QUOTE.match(line_of(state, start))
    return bool(is_quote) and blockquote(state, start, end, silent)


def item(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A list begins with an item that says something: `1.` alone and `-` alone are none."""
    is_item = state.level < DEPTH_MAX and ITEM.match(line_of(state, start))
    return bool(is_item) and list_block(state, start, end, silent)


def outside(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Ends a quote at the first line without its mark."""
    return silent


def paragraph(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """The lines up to an empty one or another block, with all their spaces. None belongs to it by laziness."""
    line, ends = start + 1, state.md.block.ruler.getRules("paragraph")
    parent, state.parentType = state.parentType, "paragraph"
    while line < end and not state.isEmpty(line) and state.sCount[line] >= state.blkIndent:
        if any(rule(state, line, end, True) for rule in ends):
            break
        line += 1
    state.parentType, state.line = parent, line
    state.push("paragraph_open", "p", 1).map = [start, line]
    state.push("inline", "", 0).content = state.getLines(start, line, state.blkIndent, False)
    state.push("paragraph_close", "p", -1).map = [start, line]
    return True


def backslash(state: StateInline, silent: bool) -> bool:
    """A backslash before a mark shows the mark; before anything else it is a backslash, and after ¯ it is an arm."""
    at, src = state.pos, state.src
    if src[at] != "\\" or src[at + 1:at + 2] not in ESCAPABLE or at + 1 >= state.posMax:
        return False
    if not silent:
        token = state.push("text_special", "", 0)
        token.content = src[at:at + 2] if src[max(0, at - 1)] == "¯" else src[at + 1]
    state.pos += 2
    return True


def named_link(state: StateInline, silent: bool) -> bool:
    """[text](address); ![text](address) would be a picture, and is shown as it was typed."""
    return not state.src.endswith("!", 0, state.pos) and link(state, silent)


# ── What the parser found, as HTML ───────────────────────────────────────────────────────────────────────────

TAGS = {"blockquote_open": '<blockquote dir="auto">', "blockquote_close": "</blockquote>\n", "list_item_open": "<li>",
        "list_item_close": "</li>\n", "bullet_list_open": '<ul dir="auto">', "bullet_list_close": "</ul>\n",
        "ordered_list_close": "</ol>\n", "em_open": "<em>", "em_close": "</em>", "strong_open": "<strong>",
        "strong_close": "</strong>", "s_open": "<s>", "s_close": "</s>"}


class Writer:
    """Writes the HTML of one text. Addresses and the given spans are held out of the parser's sight meanwhile."""

    def __init__(self):
        self.held = []                # (text, HTML or None for an address), by number
        self.budget, self.marks, self.has_blocks = Budget(), 0, False

    def hold(self, kind, text, html=None):
        self.held.append((text, html))
        return f"\ufdd0{kind}{len(self.held) - 1}\ufdd1"

    def hold_spans(self, text, spans):
        made, end = [], 0
        for start, stop, html in spans:
            made += [text[end:start], self.hold("b", text[start:stop], html)]
            end = stop
        return "".join([*made, text[end:]])

    def hold_addresses(self, text):
        if "://" not in text and "ww." not in text.casefold():
            return text
        made, end = [], 0
        while self.budget.links and (found := ADDRESS.search(text, end)):
            address = without_marks(found.group().partition("](")[0], SENTENCE_MARKS + "*_~")
            made.append(text[end:found.start()])
            if ADDRESS.fullmatch(address) and host_of(address):
                self.budget.links -= 1
                made.append(self.hold("a", address))
            else:
                made.append(address)
            end = found.start() + len(address)
        return "".join([*made, text[end:]])

    def unheld(self, text):
        """The text as it was typed."""
        return HELD.sub(lambda found: self.held[int(found[1])][0], text)

    def paragraphs(self, text):
        """A text without other blocks, with its empty lines as they are."""
        return "".join(part if n % 2 else self.inline(part) for n, part in enumerate(EMPTY_LINES.split(text)))

    def blocks(self, text):
        """Paragraphs that follow one another are one, with the empty lines between them: it looks as it was typed.

        Only the outermost blocks name their direction, for a browser looks for it past those that have their own.
        """
        made, after, tokens, parser = list[str](), None, list[Token](), markdown()
        parser.block.parse(text, parser, {}, tokens)
        self.has_blocks = any(token.type not in ("paragraph_open", "inline", "paragraph_close") for token in tokens)
        for token in tokens:
            begins, ends = token.map or (0, 0)
            if token.type == "paragraph_open":
                if after and after[0] == token.level:
                    made[-1] = "\n" * (begins - after[1] + 1)
                else:
                    made.append("<p>" if token.level else '<p dir="auto">')
            elif token.type == "paragraph_close":
                made.append("</p>\n")
            else:
                made.append(self.inline(token.content) if token.type == "inline" else self.block(token))
            after = (token.level, ends) if token.type == "paragraph_close" else None
        return "".join(made if self.has_blocks else made[1:-1]).rstrip("\n")

    def block(self, token):
        if token.type == "ordered_list_open":
            return f'<ol dir="auto" start="{int(token.attrGet("start") or 1)}">'
        if token.type != "fence":
            return TAGS[token.type]
        language = LANGUAGE.fullmatch(token.info.strip().split(" ")[0].lower()[:LANGUAGE_CHARS_MAX])
        shown = Markup(' class="language-{}"').format(language[0]) if language else ""
        return CODE.format(shown, self.unheld(token.content).removesuffix("\n"))

    def inline(self, text):
        if not (marks := len(MARKS.findall(text))):
            return self.text(self.hold_addresses(text), is_in_link=False)
        self.marks += marks
        if self.marks > MARKS_MAX:
            raise TooMuch
        tokens, parser = list[Token](), markdown()
        parser.inline.parse(self.hold_addresses(text), parser, {}, tokens)
        made, address, depth = list[str](), "", 0
        for token in tokens:
            depth += token.nesting
            if depth > INLINE_DEPTH_MAX:
                raise TooMuch
            if token.type == "link_open":
                address, start = self.unheld(str(token.attrs["href"])), len(made)
            elif token.type == "link_close":
                made[start:], address = [self.link(address, "".join(made[start:]))], ""
            else:
                made.append(self.piece(token, is_in_link=bool(address)))
        return "".join(made)

    def piece(self, token, is_in_link):
        if token.type == "text":
            return self.text(token.content, is_in_link)
        if token.type == "text_special":
            return escape(token.content)
        if token.type == "code_inline":
            return Markup("<code>{}</code>").format(self.unheld(token.content))
        return TAGS[token.type]

    def text(self, text, is_in_link):
        made, end = [], 0
        for found in HELD.finditer(text):
            piece, html = self.held[int(found[1])]
            if html is None:
                html = escape(piece) if is_in_link else LINK.format(address_of(piece), piece)
            made += [escape(with_emoji(text[end:found.start()])), html]
            end = found.end()
        return "".join([*made, escape(with_emoji(text[end:]))])

    def link(self, address, html):
        """A link whose text is another than its address says where it leads."""
        href, text = address_of(address), Markup(html).striptags()
        if not (host := host_of(address)) or not ADDRESS.fullmatch(address):
            raise TooMuch
        if text in (address, ""):
            return LINK.format(href, address)
        is_clear = text.casefold() in (host, href.partition("://")[2].rstrip("/").casefold())
        return NAMED_LINK.format(href, Markup(html)) + ("" if is_clear else HOST.format(host))


# ── While one writes ─────────────────────────────────────────────────────────────────────────────────────────


async def emoji_choices(ctx):
    """The emoji whose names begin so, or have it in them, as options of a list."""
    if not biff.is_allowed(ctx, (("completions", ctx["uid"]), *ASKS_A_PERSON)):
        return biff.error(ctx, 429)
    sought = ctx["params"].get("q", "").lower()[:EMOJI_CHARS_MAX]
    names = sorted((name for name in EMOJI if sought in name and "skin_tone" not in name),
                   key=lambda name: (not name.startswith(sought), len(name), name)) if sought else []
    shown: dict = {}
    for name in names:
        shown.setdefault(EMOJI[name], name)
        if len(shown) == CHOICES_MAX:
            break
    return biff.render(ctx, "text/options.html", options=[
        {"typed": f"{sign} ", "sign": sign, "shown": f":{name}:"} for sign, name in shown.items()])


async def preview(ctx):
    """A text as it would be shown as a message in this channel, by the same templates. Nothing is stored."""
    if not biff.is_allowed(ctx, (("previews", ctx["uid"]), *PREVIEWS_A_PERSON)):
        return biff.error(ctx, 429)
    text = ctx["params"].get("text", "").strip()
    if len(text) > CHARS_MAX:
        return biff.error(ctx, 422, f"A message has 1 to {CHARS_MAX:,} characters; this one has {len(text):,}.")
    message = {"xt/id": ctx["channel"]["xt/id"], "msg/mem": ctx["mem"]["xt/id"], "msg/text": text,
               "msg/channel": ctx["channel"]["xt/id"], **beside_text(ctx, text)}
    held = [plugin["held"](ctx["biff/db"], message) for plugin in ctx["biff/plugins"] if "held" in plugin]
    return biff.render(ctx, "text/said.html", message=message, held=held[0] if held else ())


PLUGIN = {
    "filters": {"said": said, "as_typed": as_typed},
    "routes": [("GET", "/emoji", signed_in, emoji_choices), ("POST", CHANNEL + "/preview", in_channel, preview)],
    "slots": {"compose": "text/compose.html"},
    "scripts": ["complete.js", "preview.js"],
}
