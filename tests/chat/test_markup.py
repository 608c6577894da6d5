"""Text: a small Markdown and emoji by name, shown as people know it, and nothing that is written runs."""
import html
import html.parser
import random
import re
import time

import pytest

from people import chat, person, texts      # noqa: F401
from plugins import text
from plugins.text import said
from store import put
from test_browser import a_message, same_process, shots
from test_escaping import ACTIVE, BREAKERS

LINK_REL = "nofollow noopener noreferrer"


def shape(typed):
    """A text as it is shown, without attributes, paragraphs and what stands beside a link."""
    shown = re.sub(r'<span class="host">.*?</span>|</?p(?: [^>]*)?>', "", str(said(typed).html))
    shown = re.sub(r"<(\w+) [^>]*>", r"<\1>", shown)
    return html.unescape(re.sub(r"\s*(</?(?:ul|ol|li|blockquote|pre)>)\s*", r"\1", shown))


# ── Markdown ─────────────────────────────────────────────────────────────────────────────────────────────────

# The numbers are those of the examples in CommonMark 0.31.2; the cases are ours.
AS_COMMONMARK = [
    (350, "*see you*", "<em>see you</em>"), (351, "two * three* four", "two * three* four"),
    (352, 'now*"then"*', 'now*"then"*'), (354, "*§*one and *€*two", "*§*one and *€*two"),
    (355, "sea*weed*", "sea<em>weed</em>"), (356, "2*3*4", "2<em>3</em>4"),
    (357, "_see you_", "<em>see you</em>"), (360, "reef_fish_", "reef_fish_"), (361, "2_3_4", "2_3_4"),
    (362, "угорь_морской_", "угорь_морской_"), (364, "low-_(tide)_", "low-<em>(tide)</em>"),
    (365, "_wave*", "_wave*"), (366, "*wave *", "*wave *"), (405, "*up\nand down*", "<em>up\nand down</em>"),
    (374, "_deep_sea", "_deep_sea"), (376, "_deep_sea_fish_", "<em>deep_sea_fish</em>"),
    (378, "**come back**", "<strong>come back</strong>"), (379, "** come back**", "** come back**"),
    (381, "sea**weed**", "sea<strong>weed</strong>"), (382, "__come back__", "<strong>come back</strong>"),
    (383, "__ come back__", "__ come back__"), (386, "reef__fish__", "reef__fish__"),
    (393, "*(**deep**)*", "<em>(<strong>deep</strong>)</em>"),
    (404, "*a [tide](https://a.example)*", "<em>a <a>tide</a></em>"),
    (410, "*up **and** down*", "<em>up <strong>and</strong> down</em>"),
    (413, "***up** down*", "<em><strong>up</strong> down</em>"), (420, "** says nothing", "** says nothing"),
    (436, "eels ***", "eels ***"), (442, "**eel*", "*<em>eel</em>"),
    (467, "***eel***", "<em><strong>eel</strong></em>"),
    (328, "`ls`", "<code>ls</code>"), (329, "`` a ` b ``", "<code>a ` b</code>"), (330, "` `` `", "<code>``</code>"),
    (335, "``\nmany\nlines\n``", "<code>many lines</code>"), (338, "`a\\`b`", "<code>a\\</code>b`"),
    (341, "*no`*`", "*no<code>*</code>"), (348, "`alone", "`alone"), (347, "```three``", "```three``"),
    (13, "\\A\\7\\ü", "\\A\\7\\ü"), (14, "\\*no\\*, \\`no\\`, \\[no\\]", "*no*, `no`, [no]"),
    (17, "`` \\*a\\* ``", "<code>\\*a\\*</code>"),
    (119, "```\n<\n >\n```", "<pre><code><\n ></code></pre>"), (120, "~~~\n<\n~~~", "<pre><code><</code></pre>"),
    (122, "```\na\n~~~\n```", "<pre><code>a\n~~~</code></pre>"),
    (124, "````\na\n```\n````", "<pre><code>a\n```</code></pre>"),
    (126, "```\nto the end", "<pre><code>to the end</code></pre>"),
    (128, "> ```\n> in\n\nout", "<blockquote><pre><code>in</code></pre></blockquote>out"),
    (131, " ```\n a\nb\n```", "<pre><code>a\nb</code></pre>"), (138, "``` ```\na", "<code> </code>\na"),
    (140, "up\n```\nin\n```\ndown", "up<pre><code>in</code></pre>down"),
    (142, "```python\nx = 1\n```", "<pre><code>x = 1</code></pre>"),
    (242, "> a\n\n> b", "<blockquote>a</blockquote><blockquote>b</blockquote>"),
    (243, "> a\n> b", "<blockquote>a\nb</blockquote>"), (244, "> a\n>\n> b", "<blockquote>a\n\nb</blockquote>"),
    (245, "he said\n> a", "he said<blockquote>a</blockquote>"), (248, "> a\n\nb", "<blockquote>a</blockquote>b"),
    (255, "- a\n\n b", "<ul><li>a</li></ul>b"), (256, "- a\n\n  b", "<ul><li>a\n\nb</li></ul>"),
    (261, "-a\n\n1.b *c*", "-a\n\n1.b <em>c</em>"), (265, "123456789. a", "<ol><li>a</li></ol>"),
    (266, "1234567890. *a*", "1234567890. <em>a</em>"), (269, "-1. *a*", "-1. <em>a</em>"),
    (283, "1. a\n2.\n3. b", "<ol><li>a</li><li></li><li>b</li></ol>"),
    (294, "- a\n  - b\n    - c\n      - d",
    "<ul><li>a<ul><li>b<ul><li>c<ul><li>d</li></ul></li></ul></li></ul></li></ul>"),
    (298, "- - a", "<ul><li><ul><li>a</li></ul></li></ul>"),
    (303, "We need\n- a\n- b", "We need<ul><li>a</li><li>b</li></ul>"),
    (304, "In all there are\n14. *So many*.", "In all there are\n14. <em>So many</em>."),
    (318, "- a\n- ```\n  b\n  ```\n- c", "<ul><li>a</li><li><pre><code>b</code></pre></li><li>c</li></ul>"),
    (320, "* a\n  > b\n* c", "<ul><li>a<blockquote>b</blockquote></li><li>c</li></ul>"),
    (501, "[a](https://a.example/?b#c)", "<a>a</a>"),
    (511, "[a] (https://a.example)", "[a] (<a>https://a.example</a>)"),
    (512, "[a [b [c]]](https://a.example)", "<a>a [b [c]]</a>"), (514, "[a [b](https://a.example)", "[a <a>b</a>"),
    (516, "[*a **b** `c`*](https://a.example)", "<a><em>a <strong>b</strong> <code>c</code></em></a>"),
    (518, "[a [b](https://a.example)](https://b.example)", "[a <a>b</a>](<a>https://b.example</a>)"),
    (521, "*[a*](https://a.example)", "*<a>a*</a>"),
]
# What we show in another way, and CommonMark's example; docs/writing.md has the reasons.
OTHERWISE = [
    (12, "\\\\server\\old\\(1\\)", "\\\\server\\old\\(1\\)"), (43, "***", "***"), (62, "# a *b*", "# a <em>b</em>"),
    (80, "a *b*\n===", "a <em>b</em>\n==="), (107, "    a *b*", "    a <em>b</em>"),
    (148, "<b>*a*</b>", "<b><em>a</em></b>"),
    (192, "[a]: https://a.example\n\n[a] *b*", "[a]: <a>https://a.example</a>\n\n[a] <em>b</em>"),
    (229, ">a *b*", ">a <em>b</em>"), (247, "> a\nb", "<blockquote>a</blockquote>b"), (239, ">", ">"),
    (279, "-", "-"), (284, "1.", "1."), (290, "- a\nb", "<ul><li>a</li></ul>b"), (301, "+ a *b*", "+ a <em>b</em>"),
    (302, "1) a *b*", "1) a <em>b</em>"), (594, "<https://a.example/> *b*", "<<a>https://a.example/</a>> <em>b</em>"),
    (483, "[a](/path) *b*", "[a](/path) <em>b</em>"), (484, "[](https://a.example)", "<a>https://a.example</a>"),
    (572, "![a](https://a.example/b.png)", "![a](<a>https://a.example/b.png</a>)"),
    (633, "*a*  \nb", "<em>a</em>  \nb"),
    (25, "&copy; *a*", "&copy; <em>a</em>"), (648, "*a*\n  b", "<em>a</em>\n  b"),
]


@pytest.mark.parametrize("number, typed, shown", AS_COMMONMARK)
def test_what_is_kept_of_markdown_is_as_commonmark_has_it(number, typed, shown):
    """People bring their habits along; a Markdown that is nearly the same is a trap."""
    assert shape(typed) == shown, f"as in CommonMark's example {number}"


@pytest.mark.parametrize("number, typed, shown", OTHERWISE)
def test_what_differs_from_commonmark_differs_as_the_page_about_writing_says(number, typed, shown):
    """In a chat a line is a line, and what nobody asked for is shown as it was typed."""
    assert shape(typed) == shown, f"unlike CommonMark's example {number}"


@pytest.mark.parametrize("typed", [
    "one\ntwo\n\n\nfour", "1.", "snake_case_name and other_name_", ">_< >:( :-)", "¯\\_(ツ)_/¯",
    "\\\\server\\share\\old",
    "a  b   c", "10:30:45 and 1:100:2", "3 * 4 * 5", "5 > 4", "~10 ~20", "#general",
    "- ", "a | b\n--|--",
])
def test_what_was_written_without_markup_looks_as_it_was_typed(typed):
    """Years of messages were written before there was Markdown."""
    assert html.unescape(str(said(typed).html)) == typed and not said(typed).has_blocks


def test_a_numbered_list_keeps_the_number_that_it_begins_with():
    """An answer to point 3 would become an answer to point 1."""
    assert '<ol dir="auto" start="2026"><li>' in said("2026. A year").html


def test_what_is_around_markup_keeps_its_lines_and_spaces():
    """A text of before that has one star in it would be set anew as a whole."""
    assert said("one\n   two *three*\n\n\nfour  ").html == "one\n   two <em>three</em>\n\n\nfour  "


def test_a_code_block_names_its_language_and_nothing_else():
    """A class that people choose freely could be one of ours."""
    assert '<code class="language-c++">' in said("```C++ title=x\na\n```").html
    for odd in 'x"onclick', "<b>", "язык", "a&b", "{.hidden}":
        assert "<code>a</code>" in said(f"```{odd}\na\n```").html, odd


# ── Links ────────────────────────────────────────────────────────────────────────────────────────────────────


def links(typed):
    return re.findall(r'<a (?:class="named" )?href="([^"]*)"', str(said(typed).html))


@pytest.mark.parametrize("typed, wanted", [
    ("*a* see www.a.example, or Https://b.example/x!", ["https://www.a.example", "Https://b.example/x"]),
    ("www.a.example。 awww.a.example www.a www. x@www.a.example", ["https://www.a.example"]),
    ("**https://a.example/b_c_**", ["https://a.example/b_c"]), ("_https://a.example/_", ["https://a.example/"]),
    ("~~看https://a.example/b。然后~~", ["https://a.example/b"]), ("*「https://a.example/b」*", ["https://a.example/b"]),
    ("[x](https://a.example/b_(c)) *y*", ["https://a.example/b_(c)"]),
    ("[x](www.a.example)", ["https://www.a.example"]),
    ("*a* https://a.example/_b_/*c*/d", ["https://a.example/_b_/*c*/d"]),
    ("[x](javascript:alert(1)) [y](data:text/html,x) [z](/path) [](ftp://a.example)", []),
    ("[x](https://a.example\u202egpj.exe)", ["https://a.example"]), ("`https://a.example` *b*", []),
    ("```\nhttps://a.example\n```", []),
])
def test_links_are_found_in_markup_as_well_and_lead_only_to_the_web(typed, wanted):
    """A link that takes in the star behind it leads nowhere; one that leads elsewhere than to the web may run."""
    assert links(typed) == wanted


def test_a_link_whose_text_is_not_its_address_says_where_it_leads():
    """A link that reads as the bank's and leads to a thief is the oldest trick there is."""
    shown = said("[https://bank.example](https://thief.example/x)").html
    assert '<span class="host"> (thief.example)</span>' in shown and 'title="https://thief.example/x"' in shown
    assert " (thief.example)" in said("[x](https://bank.example@thief.example/)").html
    for clear in "[a.example](https://a.example/)", "[https://a.example](https://a.example)", "https://a.example *b*":
        assert "host" not in said(clear).html


def test_a_text_has_at_most_fifty_links_with_markup_too():
    """Fifty messages of the shortest addresses would be a page of five megabytes."""
    assert len(links("*a* " + "http://a " * 1_000)) == 50 and len(links("[a](http://a) " * 60)) == 50


# ── Emoji ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_emoji_have_names_outside_code_and_between_words():
    """Few keyboards have an eel on them; and a time of day is no emoji."""
    assert said("well :tada: done :+1:").html == "well 🎉 done 👍" and said("*:THUMBSUP:*").html == "<em>👍</em>"
    for typed in "1:100:2", "`:tada:`", ":no_such_thing:", "a:tada:b", "https://a.example/:tada:":
        assert "🎉" not in said(typed).html and "💯" not in said(typed).html, typed
    assert said("\\:tada\\:").html == ":tada:"


def test_up_to_three_emoji_alone_are_big():
    """A thumb that says everything may be seen from afar."""
    for typed in "👍", ":tada:", "🎉 🎉 🎉", "👩‍👧‍👦", "🏳️‍🌈", "👍🏽":
        assert said(typed).is_big, typed
    for typed in "👍 ok", "ok", "🎉🎉🎉🎉", "", "1", "文", "※", ":nothing:", "👍" * 200:
        assert not said(typed).is_big, typed


# ── Bounds ───────────────────────────────────────────────────────────────────────────────────────────────────

PIECES = ["*", "_", "**", "~~", "~", "`", "``", "```\n", "[", "]", "](", "(", ")", "![", ">", "> ", "- ", "* ", "1. ",
          "\n", "\n\n", "    ", "\t", "\\", "<", ":x:", ":tada:", "https://a.example/b", "www.a.example",
          "[a](https://a.b) ",
          "a", "b ", "ü", "\u202e", "\ufdd0", "\ufdd0a0\ufdd1", "&amp;", "@", "- a\n", "> a\n", "> > - a\n", "*a* "]


def hostile(seed):
    """Texts as long as a message may be: each piece alone, and mixtures by lot."""
    lots = random.Random(seed)
    yield from ((piece * 10_000)[:10_000] for piece in ["*_[(>", "*a_ ", "`a", "[a](", "~~a", "https://a.b/c!_",
    *PIECES])
    for _ in range(300):
        some = lots.sample(PIECES, lots.randint(2, 6))
        yield "".join(lots.choice(some) for _ in range(10_000))[:10_000]


def seconds(typed):
    begun = time.perf_counter()
    said(typed)
    return time.perf_counter() - begun


def test_hostile_texts_are_shown_within_their_bounds(seed, say):
    """One message of ten thousand stars would stop the server for all."""
    slowest, largest, plain = 0.0, 0, 0
    for typed in hostile(seed):
        shown = said(typed)
        slowest, largest = max(slowest, min(seconds(typed) for _ in range(3))), max(largest, len(shown.html))
        plain += not shown.has_blocks and not re.search("<(?:em|s|strong|code)>", str(shown.html))
        assert len(shown.html) <= text.HTML_CHARS_MAX + 10_000 and not foreign(shown.html), typed[:50]
        assert depth(shown.html) <= 2 * text.DEPTH_MAX + text.INLINE_DEPTH_MAX
    say(f"the slowest of 340 hostile texts took {slowest * 1e3:.1f} ms; asked 20 ms. The largest has {largest:,} "
        "characters")
    assert plain > 50, "what is too much is shown as it was typed"


def test_nothing_that_is_written_is_lost(seed):
    """A parser that gives up in the middle swallows the rest of a message."""
    lots = random.Random(seed)
    for _ in range(2_000):
        typed = "".join(lots.choice(["*", "_", "~~", "`", "> ", "- ", "\n", "\n\n", "  ", "1. ", "a", "b", "c ", "[",
        "]"])
                        for _ in range(lots.randint(1, 60)))
        typed = re.sub("~{3,}", "~~", re.sub("`{3,}", "``", typed))      # behind a fence stands a language, not shown
        shown = html.unescape(re.sub("<[^>]*>", "", str(said(typed).html)))
        assert re.findall("[abc]", shown) == re.findall("[abc]", typed), (seed, typed)


async def test_what_the_system_says_and_feeds_bring_is_shown_as_it_came(chat, person):      # noqa: F811
    """A headline about 5*3*2 was not written as Markdown, and a list of commands stays as it was."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    headline = {"msg/mem": "system", "msg/text": "*five* stars:\n - [a](https://a.example) :tada:"}
    await chat["biff/node"].submit([put(a_message(chat, channel, "") | headline)])
    shown = texts((await ann.get(channel)).body_text)
    assert shown == ["*five* stars:\n - [a](https://a.example) 🎉"]


# ── Walls ────────────────────────────────────────────────────────────────────────────────────────────────────

ALLOWED = {"p": {"dir"}, "em": set(), "strong": set(), "s": set(), "code": {"class"}, "pre": {"dir"},
"blockquote": {"dir"},
           "ul": {"dir"}, "ol": {"dir", "start"}, "li": set(), "span": {"class"},
           "a": {"href", "target", "rel", "class", "title", "dir"}}
CONTEXTS = ["{}", "**{}**", "*a* {}", "`{}`", "```\n{}\n```", "```{}\ncode\n```", "~~~ {}\n~~~", "> {}", "- {}",
"1. {}",
            "[{}](https://a.example)", "[x]({})", "[x](<{}>)", "[x](https://a.example/{})",
            '[x](https://a.example "{}")',
            "![{}](https://a.example)", ":{}: *a*", "https://a.example/{} *b*", "www.a.example/{} *b*",
            "<https://a.example/{}>",
            "[x]: {}\n\n[x]", "\\{} *x*", "~~{}"]
SCHEMES = ["javascript:alert(1)", "JaVaScRiPt:alert(1)", "java\tscript:alert(1)", "&#106;avascript:alert(1)",
"\x01javascript:a",
           "vbscript:a", "data:text/html,<script>alert(1)</script>", "//evil.example", "https:javascript:alert(1)",
           "javascript://a.example/%0aalert(1)", "blob:https://a.example/x", "file:///etc/passwd",
           "https://a.example/\" onclick=x"]


class Foreign(html.parser.HTMLParser):
    """The parts of some HTML that are not on the list of what a message may consist of."""

    def __init__(self, shown):
        super().__init__()
        self.found, self.open, self.deepest = [], [], 0
        self.feed(str(shown)), self.close()
        self.found += self.open

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.deepest = max(self.deepest, len(self.open))
        wrong = [name for name, _ in attributes if name not in ALLOWED.get(tag, ())]
        values = dict(attributes)
        if tag not in ALLOWED or wrong or len(values) != len(attributes):
            self.found.append((tag, attributes))
        if tag == "a" and "href" in values and not (re.match("(?i)https?://[^/]", values["href"] or "")
                                                    and values.get("rel") == LINK_REL and values["target"] == "_blank"):
            self.found.append((tag, attributes))
        if not re.fullmatch(r"named|host|language-[a-z0-9][a-z0-9+#._-]{0,19}", values.get("class", "named")):
            self.found.append((tag, attributes))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.found.append(f"/{tag}")

    def handle_comment(self, data):
        self.found.append(data)

    handle_decl = handle_pi = unknown_decl = handle_comment


def foreign(shown):
    return Foreign(shown).found


def depth(shown):
    return Foreign(shown).deepest


def attacks():
    """Every attack in every place where Markdown looks at what is written."""
    every = [context.replace("{}", attack) for context in CONTEXTS for attack in [*ACTIVE, *SCHEMES]]
    return every + [f"*a* {breaker}{attack}" for breaker in BREAKERS for attack in ACTIVE[:10]]


def test_attacks_in_markup_are_text(say):
    """What is more than text runs in the browser of everybody who reads it, with their rights."""
    active = [typed for typed in attacks() if foreign(said(typed).html)]
    say(f"{len(attacks())} payloads in text, code, languages, emoji names and links: {len(active)} active; asked 0 "
        "of 150")
    assert len(attacks()) > 1_000 and not active


def test_a_text_is_parsed_once_and_what_is_kept_has_a_bound(monkeypatch):
    """Each reaction, quote and page would parse the same text anew; and kept for ever, texts would fill the memory."""
    made, marked_up, bodies = [], text.marked_up, text.Bodies()
    monkeypatch.setattr(text, "marked_up", lambda typed, held=(): made.append(typed) or marked_up(typed, held))
    monkeypatch.setattr(text, "BODIES", bodies)
    monkeypatch.setattr(text, "BODIES_BYTES_MAX", 20_000)
    assert said("*tide*") is said("*tide*") and said("*tide*", [(1, 5, "eel")]).html == "<em>eel</em>"
    assert made == ["*tide*"] * 2
    for n in range(100):
        said(f"*{n}*" + "x" * 500)
    assert 0 < bodies._bytes <= 20_000 and len(bodies._kept) < 20
    bodies.clear()
    assert not bodies._kept and said("*tide*").html == "<em>tide</em>" and made[-1] == "*tide*"


def test_if_our_writer_forgot_to_escape_the_sanitizer_would_still_hold(monkeypatch):
    """One wall can have a hole. This test sees whether there are two."""
    monkeypatch.setattr(text, "BODIES", lambda key: text.marked_up(*key))            # none that was made before
    monkeypatch.setattr(text, "escape", str)
    for name in "LINK", "NAMED_LINK", "HOST", "CODE":
        monkeypatch.setattr(text, name, str(getattr(text, name)))
    broken = [typed for typed in attacks() if foreign(said(typed).html) and said(typed) == text.marked_up(typed)]
    assert not broken
    monkeypatch.setattr(text, "SANITIZER", type("Nothing", (), {"clean": staticmethod(str)}))
    assert len([typed for typed in attacks() if foreign(said(typed).html)]) > 300


SWEEP = """() => ({
  pwned: window.pwned ?? null,
  foreign: [...document.querySelectorAll('#messages .message > :is(p, .text) *')].filter(one =>
      !['P', 'EM', 'STRONG', 'S', 'CODE', 'PRE', 'BLOCKQUOTE', 'UL', 'OL', 'LI', 'A', 'SPAN'].includes(one.tagName)
      || [...one.attributes].some(({name}) => !['dir', 'class', 'href', 'target', 'rel', 'title',
      'start'].includes(name))
      || one.href && !/^https?:/.test(one.protocol)).length,
  wide: document.documentElement.scrollWidth - innerWidth,
  formatted: document.querySelectorAll('#messages .message :is(em, strong, code, blockquote, li)').length,
})"""
TALK = ["**Low tide** is at _six_, see [the table](https://tides.example/2026) or www.tides.example/help.",
        "What we need:\n- boots, *dry* ones\n- a lamp\n  1. with a battery\n  2. that is full\n- `eelctl --count`",
        "> Is that safe?\nYes: ~~very~~ quite safe.\n"
        "```python\ndef tide(hour):\n    return 'low' if hour == 6 else 'high'  "
        "# a long line that is wider than any telephone, and then some more of it\n```\nSee you :wave:",
        ":tada: 🎉", "שלום **לכולם**, ראו https://tides.example/he.\n- אחת\n- שתיים"]


async def test_markup_in_a_real_browser_is_shown_and_nothing_runs(chat, person, window, say):      # noqa: F811
    """A browser reads markup as no parser of ours does."""
    ann, channel = await same_process(chat, person, window, "ann@example.com", viewport={"width": 390, "height": 800})
    every = attacks()
    some = every[::len(every) // 180]
    await chat["biff/node"].submit([put(a_message(chat, channel, typed)) for typed in [*some, *TALK]])
    await ann.goto(f"{chat['biff/base-url']}{channel}")
    await ann.wait_for_selector("#messages[data-live]", state="attached")
    seen = await ann.evaluate(SWEEP)
    await shots(ann, "text")
    say(f"{len(some)} payloads with markup in Chromium: pwned is {seen['pwned']}, {seen['foreign']} elements not ours")
    assert seen["pwned"] is None and not seen["foreign"] and seen["wide"] <= 0 and seen["formatted"] > 20
