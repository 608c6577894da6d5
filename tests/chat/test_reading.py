"""Reading, in a real Chromium: older messages, links, times, copying, printing, and the drawer of a narrow window."""
import datetime as dt

import pytest

import biff
from people import NEXT_FRAME, chat, person      # noqa: F401
from store import put
from test_browser import a_message, same_process, shot, texts, until_live, until_texts, write

IN_SIGHT = """() => { const list = document.querySelector('#messages'), top = list.getBoundingClientRect().top;
    const text = [...list.querySelectorAll('.message p')].find(one => one.getBoundingClientRect().bottom > top);
    return [text.textContent, text.getBoundingClientRect().top - top]; }"""


async def test_older_messages_load_while_scrolling_and_what_is_read_stays_where_it_is(chat, person, window,
                                                                                      say):  # noqa: F811
    """Nobody looks for a button at the top of a list, and a text that moves while it is read is read twice."""
    ann, channel = await same_process(chat, person, window, "ann@example.com", viewport={"width": 1280, "height": 800})
    for n in range(200):
        await chat["biff/node"].submit([put(a_message(chat, channel, f"message {n} " + "with many words " * (n % 40)))])
    await ann.goto(chat["biff/base-url"] + channel)
    await until_live(ann)
    moves = []
    for count in 100, 150, 200:
        await ann.eval_on_selector("#messages", "list => { list.scrollTop = 200 }")
        text, top = await ann.evaluate(IN_SIGHT)
        await ann.wait_for_function("count => document.querySelectorAll('#messages .message').length === count",
                                    arg=count)
        moves.append(abs(top - await ann.evaluate(
            "text => [...document.querySelectorAll('.message p')].find(p => p.textContent === "
            "text).getBoundingClientRect().top"
            " - document.querySelector('#messages').getBoundingClientRect().top", text)))
    assert await ann.evaluate("document.activeElement.id") == "text"
    for width in 700, 390, 1000, 1280:
        text, _ = await ann.evaluate(IN_SIGHT)
        await ann.set_viewport_size({"width": width, "height": 800})
        await ann.evaluate(NEXT_FRAME)
        assert (await ann.evaluate(IN_SIGHT))[0] == text, f"at {width} px another text is in sight"
    say(f"moved by {max(moves):.1f} px at most while 150 older messages came above; asked 0; the same text in sight "
        "after 4 changes of width")
    assert max(moves) < 2


async def test_the_link_to_older_messages_keeps_the_focus(chat, person, window):      # noqa: F811
    """Whoever uses the keyboard alone would be thrown back to the beginning of the page at each press."""
    ann, channel = await same_process(chat, person, window, "ann@example.com")
    for n in range(170):
        await chat["biff/node"].submit([put(a_message(chat, channel, f"message {n}"))])
    await ann.goto(chat["biff/base-url"] + channel)
    await until_live(ann)
    for count in 100, 150:
        await ann.focus("#older a")
        await ann.keyboard.press("Enter")
        await ann.wait_for_function("count => document.querySelectorAll('#messages .message').length >= count",
                                    arg=count)
    await ann.wait_for_function("() => !document.querySelector('#older') || document.querySelector('#older a') === "
                                "document.activeElement")
    assert await ann.evaluate("document.querySelector('#messages').contains(document.activeElement)")


async def test_the_pill_stands_beside_the_messages_and_the_box_keeps_the_focus(chat, person, window):  # noqa: F811
    """A pill over the last line hides what it announces;
    and a phone's keyboard that goes away at each Send comes back."""
    ann, channel = await same_process(chat, person, window, "ann@example.com", viewport={"width": 390, "height": 844},
                                      has_touch=True)
    for n in range(60):
        await chat["biff/node"].submit([put(a_message(chat, channel, f"message {n}"))])
    await ann.goto(chat["biff/base-url"] + channel)
    await until_live(ann)
    await ann.eval_on_selector("#messages", "list => { list.scrollTop -= 500 }")
    await ann.evaluate(NEXT_FRAME)
    await ann.fill("#text", "a long draft\n" * 12)
    await chat["biff/node"].submit([put(a_message(chat, channel, "news"))])
    await ann.wait_for_selector("#pill:visible")
    await shot(ann, "pill-light-390")
    pill, messages, box = [await ann.locator(name).bounding_box() for name in ("#pill", "#messages", "#compose")]
    assert messages["y"] + messages["height"] <= pill["y"] and pill["y"] + pill["height"] <= box["y"]
    for send in ann.click, ann.tap:
        await ann.fill("#text", "sent")
        await send("#compose button[aria-label=Send]")
        assert await ann.evaluate("document.activeElement.id") == "text"


# ── Links and directions ─────────────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize("text, wanted", [
    ("Https://a.example/ and HTTP://b.example", ["Https://a.example/", "HTTP://b.example"]),
    ("看https://a.example/b。然后", ["https://a.example/b"]), ("https://a.example/b，c", ["https://a.example/b"]),
    ("（https://a.example/b）", ["https://a.example/b"]), ("「https://a.example/b」", ["https://a.example/b"]),
    ("“https://a.example/b”…", ["https://a.example/b"]), ("(see https://a.example/b.)", ["https://a.example/b"]),
    ("(https://a.example/b_(c).)", ["https://a.example/b_(c)"]), ("[https://a.example/b];", ["https://a.example/b"]),
    ("http://[::1]/ and https://zh.example/wiki/中国", ["http://[::1]/", "https://zh.example/wiki/中国"]),
    ("http://a" + ")." * 5_000, ["http://a"]),
])
def test_an_address_ends_where_the_sentence_goes_on(text, wanted):
    """A link with the next sentence in it leads nowhere, and East Asian writing has no spaces to end one."""
    pieces = biff.addresses_apart(text)
    assert [piece for piece, is_address in pieces if is_address] == wanted
    assert "".join(piece for piece, _ in pieces) == text


LEFTS = """([selector, text]) => {
    const element = [...document.querySelectorAll(selector)].at(-1), walker = document.createTreeWalker(element, 4);
    for (let node; node = walker.nextNode();) {
        const at = node.data.indexOf(text);
        if (at < 0) continue;
        return [...text].map((_, n) => {
            const range = document.createRange();
            range.setStart(node, at + n); range.setEnd(node, at + n + 1);
            return range.getBoundingClientRect().left; });
    } }"""


async def test_a_mark_of_direction_does_not_turn_an_address_around(chat, person, window):      # noqa: F811
    """An override before a link makes it read as another address: people click on what they do not see."""
    ann, _ = await same_process(chat, person, window, "ann@example.com")
    await write(ann, "\u202ehttps://live.example/moc.knab\u202c")
    await ann.wait_for_selector(".message a")
    lefts = await ann.evaluate(LEFTS, [".message p a", "https://live.example/moc.knab"])
    assert lefts == sorted(lefts) and lefts[0] < lefts[-1]


async def test_each_line_of_a_message_has_its_own_direction(chat, person, window):      # noqa: F811
    """One Hebrew line would pull the full stop of every English line to its left end."""
    ann, _ = await same_process(chat, person, window, "ann@example.com")
    text = "שלום לכולם\nhello world."
    await write(ann, text)
    await until_texts(ann, [text])
    await ann.wait_for_function("() => !document.querySelector('.pending')")
    english = await ann.evaluate(LEFTS, [".message p", "hello world."])
    hebrew = await ann.evaluate(LEFTS, [".message p", "שלום"])
    assert english == sorted(english) and hebrew == sorted(hebrew, reverse=True) and english[0] < hebrew[-1]


# ── Times, copies, paper ─────────────────────────────────────────────────────────────────────────────────────


async def three_messages(chat, channel):      # noqa: F811
    """Two of 2019, which stand together, and one of now."""
    old = dt.datetime(2019, 6, 1, 12, 0, tzinfo=dt.timezone.utc)
    for text, at in ("first", old), ("second\nline", old + dt.timedelta(minutes=1)), ("third", None):
        message = a_message(chat, channel, text)
        await chat["biff/node"].submit([put(message | ({"msg/created-at": at} if at else {}))])


async def test_times_show_the_year_and_every_line_its_time_on_hover(chat, person, window):      # noqa: F811
    """1 Jun may be last week or five years ago; and of a long talk only the first line told its time."""
    ann, channel = await same_process(chat, person, window, "ann@example.com", locale="en-GB", timezone_id="UTC")
    await three_messages(chat, channel)
    await until_texts(ann, ["first", "second\nline", "third"])
    first, second, third = [ann.locator(".message").nth(n) for n in range(3)]
    assert "2019" in await first.locator("time").text_content() and "2019" in await first.get_attribute("data-day")
    assert "2019" in await second.locator("time").get_attribute("title")
    assert "2019" not in await third.locator("time").text_content()
    assert await second.evaluate("one => one.classList.contains('follows')")
    width = "one => one.querySelector('header').getBoundingClientRect().width"
    assert await second.evaluate(width) <= 1
    await second.hover()
    assert await second.evaluate(width) > 20
    assert "12:01" in await second.locator("time").evaluate("time => getComputedStyle(time, '::before').content")
    await shot(ann, "hover-light-1280")


async def test_copied_messages_have_names_times_and_text(chat, person, window):      # noqa: F811
    """A talk that is pasted into a mail came out as one string of initials, names and times without a space."""
    ann, channel = await same_process(chat, person, window, "ann@example.com", locale="en-GB", timezone_id="UTC",
                                      permissions=["clipboard-read", "clipboard-write"])
    await three_messages(chat, channel)
    await until_texts(ann, ["first", "second\nline", "third"])
    name = await ann.locator(".message b").first.text_content()

    async def copied(begin, end):
        await ann.evaluate("""([[from, begin], [to, end]]) => {
            const texts = [...document.querySelectorAll('.message p')].map(one => one.firstChild);
            getSelection().setBaseAndExtent(texts[from], begin, texts[to], end); }""",
                           [begin, end])
        await ann.keyboard.press("Control+c")
        return await ann.evaluate("navigator.clipboard.readText()")
    two = f"{name}, 1 Jun 2019, 12:00\nirst\n\n{name}, 1 Jun 2019, 12:01\nsecond\nli"
    assert await copied((0, 1), (1, 9)) == two
    assert await copied((1, 0), (1, 6)) == "second"


async def test_a_channel_is_printed_whole(chat, person, window):      # noqa: F811
    """The printer got one screen of the list, with a box to write in below it."""
    ann, channel = await same_process(chat, person, window, "ann@example.com")
    for n in range(50):
        await chat["biff/node"].submit([put(a_message(chat, channel, f"message {n}"))])
    await ann.wait_for_function("() => document.querySelectorAll('.message').length === 50")
    await ann.emulate_media(media="print")
    for hidden in "#compose", "#side", ".menu":
        assert not await ann.is_visible(hidden)
    assert await ann.evaluate("document.documentElement.scrollHeight > 1000")
    assert await ann.eval_on_selector("#messages", "list => list.scrollHeight <= list.clientHeight + 1")
    assert await ann.evaluate("[...document.querySelectorAll('.message time')].every(time => time.offsetWidth > 20)")
    await shot(ann, "print-light-1280")


# ── The drawer ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_drawer_takes_the_focus_and_closes_with_escape_back_and_width(chat, person, window):  # noqa: F811
    """Back left the channel, and a window that was made wider with the drawer open could not be clicked any more."""
    ann, channel = await same_process(chat, person, window, "ann@example.com", viewport={"width": 390, "height": 844})

    async def is_open():
        return await ann.evaluate("[document.body.classList.contains('drawer'), document.querySelector('#main').inert]")
    await ann.wait_for_function("() => htmx")
    for close in "Escape", "back", "width", "menu":
        await ann.click(".menu") if close != "menu" else await ann.press(".menu", "Enter")
        assert await is_open() == [True, True]
        assert await ann.evaluate("document.querySelector('#side').contains(document.activeElement)")
        if close == "Escape":
            await ann.keyboard.press("Escape")
        elif close == "back":
            await ann.go_back()
        elif close == "width":
            await ann.set_viewport_size({"width": 1280, "height": 800})
        else:
            await ann.press(".menu", "Enter")
        await ann.wait_for_function("() => !document.body.classList.contains('drawer')")
        assert await is_open() == [False, False] and ann.url.endswith(channel)
        if close != "width":
            assert await ann.evaluate("document.activeElement.className") == "icon menu"
        await ann.set_viewport_size({"width": 390, "height": 844})
        await ann.wait_for_function("() => !history.state?.drawer")
    await ann.click(".menu"), await ann.click(".my-name"), await ann.click("#name-field")
    await ann.keyboard.press("Escape")       # closes the dialog alone
    await ann.wait_for_selector("#name-dialog:not([open])", state="attached")
    assert await is_open() == [True, True]
    assert await ann.evaluate("document.querySelector('#main').getBoundingClientRect().bottom === innerHeight"), \
        "the dialogs that came take no room"
    await ann.keyboard.press("Escape")
    await ann.wait_for_function("() => !document.body.classList.contains('drawer')")
    await write(ann, "still here")
    await until_texts(ann, ["still here"])
