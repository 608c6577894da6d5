"""axe-core finds nothing to complain of: each page and dialog in each state, light and dark, wide and narrow."""
import asyncio
import io
import re
import uuid

import pytest
from PIL import Image

import accessible
import biff
from conftest import IS_CI
from people import chat, person, pick      # noqa: F401
from plugins import invitations      # noqa: F401

WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 800}
COLOURS = ["color-contrast", "link-in-text-block"]
WRITTEN = ["first of all", "**bold**, *it*, `code`, ~~no~~ and https://example.org/tides", "> quoted\n\n- one\n- two",
           "```python\nprint('a long line of code that does not fit into a narrow window, whatever one does')\n```",
           "# no heading\n1. one\n2. two", "@channel and @Bob", "🎣"]


@pytest.fixture(scope="session")
def axe():
    """Without axe-core a promise goes untested: with CI set that is an error, else a skip."""
    try:
        return accessible.source()
    except LookupError as error:
        if IS_CI:
            raise
        pytest.skip(str(error))


class Eye:
    """Looks at pages, and keeps what axe says of them: complaint → the states in which it was heard."""

    def __init__(self, axe):
        self.axe, self.found, self.states = axe, {}, 0

    async def look(self, page, state, sizes=(WIDE, NARROW), again=None, but=()):
        """All rules in the first colours, those of colours in the other ones, too. `again` brings back what goes when
        the window's size changes; `but` names rules that do not hold in this state."""
        for size in sizes:
            await page.set_viewport_size(size)
            if again:
                await again()
            for scheme, only in ("light", None), ("dark", COLOURS):
                await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
                self.states += 1
                for complaint in await accessible.complaints(page, self.axe, only, but):
                    self.found.setdefault(complaint, []).append(f"{state}, {size['width']} {scheme}")
        await page.set_viewport_size(WIDE)

    def finds_nothing(self, say):
        say(f"{self.states} states of pages and dialogs: {len(self.found)} complaints of axe-core; asked 0")
        assert not self.found, "\n".join(f"{complaint}\n    in {'; '.join(states[:4])} ({len(states)})"
                                         for complaint, states in self.found.items())

    async def dialog(self, page, opener, name):
        """Opens a dialog as its link does, looks, and closes it."""
        await page.evaluate("name => dialogs.show(name)", name) if opener is None else \
            await page.click(opener)
        await page.wait_for_selector(f"dialog#{name}[open]")
        await self.look(page, name)
        await page.evaluate("name => document.getElementById(name).close()", name)


async def as_browser(window, one, **options):
    """A window in which this person is signed in."""
    page = await window(**options)
    name = biff.cookie_name(one.chat)
    value = next(cookie.value for cookie in one.browser.cookie_jar if cookie.key == name)
    await page.context.add_cookies([{"name": name, "value": value, "url": one.base}])
    return page


def picture(colour):
    drawn = io.BytesIO()
    Image.new("RGB", (300, 200), colour).save(drawn, "PNG")
    return drawn.getvalue()


async def a_town(person):
    """Ann and Bob, who have names, in a channel with a message of each kind; (ann, bob, channel)."""
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    for one, name in (ann, "Ann Marie"), (bob, "Bob"):
        await one.post("/name", {"name": name})
    community, channel = await ann.new_channel()
    await bob.join(community)
    posts = [uuid.uuid4() for _ in WRITTEN]
    for number, (text, post) in enumerate(zip(WRITTEN, posts)):
        await (bob if number == 5 else ann).say(channel, text, post)
    await ann.post(f"{channel}/message/{posts[0]}", {"text": "first of all, edited"})
    await bob.say_with(channel, "two files", "weir.png", "notes.txt", bodies={"weir.png": picture("teal")})
    answer = {"text": "an answer", "post": str(uuid.uuid4()), "reply": str(posts[0]), "thread": str(posts[0]),
              "reply-tx": str(ann.chat["biff/node"].db().tx_id)}
    await bob.post(channel, answer, channel, {"HX-Request": "true"})
    for one in ann, bob:
        await one.post(f"{channel}/message/{posts[0]}/reaction", {"emoji": "👍", "given": "1"}, channel)
    return ann, bob, community, channel, posts


async def signed_out(eye, page, chat):
    base = chat["biff/base-url"]
    for path in "/", "/signin", "/signin?error=not-signed-in", "/offline", "/nowhere", "/invite/x":
        await page.goto(base + path)
        await eye.look(page, path)
    await page.goto(f"{base}/signin")
    await page.fill("#email", "eve@example.com")
    await page.click("text=Mail me a link instead")
    await page.wait_for_url("**/link-sent?**")
    await eye.look(page, "link sent")
    await page.goto(f"{base}/signin")
    await page.fill("#email", "eve@example.com")
    await page.click("text=Mail me a code")
    await page.wait_for_url("**/verify-code?**")
    await page.fill("#code", "000000")
    await page.click("button:text-is('Sign in')")
    await page.wait_for_selector("text=Invalid code.")
    await eye.look(page, "wrong code")
    await page.goto(re.search(r"http\S+/auth/verify-link/\S+", next(text for _, text in reversed(chat["mails"])
                                                                      if "verify-link" in text))[0])
    await eye.look(page, "verify link")


async def first_steps(eye, page, base):
    await page.goto(f"{base}/app")
    await eye.look(page, "app, empty, no name")
    await page.goto(f"{base}/name")
    await eye.look(page, "name")


async def in_a_channel(eye, page, address):
    """A filled channel, and what opens over it."""
    await page.goto(address)
    await page.wait_for_selector("#messages[data-live]")
    await page.wait_for_function("() => document.querySelector('.files img').naturalWidth")
    await eye.look(page, "channel")
    await eye.look(page, "toolbar", again=lambda: pick(page, ".message:has(.files)"))
    await pick(page, ".message:has(.files)")
    await page.click("[data-act=reply]")
    await page.wait_for_selector("#replying:visible")
    await eye.look(page, "reply bar")
    await page.press("#text", "Escape")
    await page.fill("#text", "**a** preview")
    await page.click("#preview-button")
    await page.wait_for_selector("#preview strong")
    await eye.look(page, "preview")
    await page.fill("#text", "")
    await page.type("#text", ":tad")
    await page.wait_for_selector("#text-options [role=option]")
    await eye.look(page, "completion")
    await page.press("#text", "Escape")
    await page.fill("#text", "")
    await page.set_input_files("#attached", [{"name": "a.txt", "mimeType": "text/plain", "buffer": b"a"}])
    await page.wait_for_selector("#attachments .done")
    await eye.look(page, "attachment")
    await page.click("#attachments .icon")
    await page.press("#text", "ArrowUp")
    await page.wait_for_selector("#edit-text:focus")
    await eye.look(page, "edit")
    await page.press("#edit-text", "Escape")
    for name in ("react", "delete-message", "report-message", "alert", "go", "keys", "name-dialog", "day-dialog",
                 "new-channel", "new-community", "edit-channel", "edit-community"):
        await eye.dialog(page, None, name)
    await page.keyboard.press("Control+k")
    await page.wait_for_selector("#go-list [role=option]")
    await eye.look(page, "go")
    await page.keyboard.press("Escape")
    for act, wanted in ("reactions", "#reacted-list dl"), ("versions", "#versions-list li"):
        await pick(page, ".message:has(.edited)")
        await page.click(f"[data-act={act}]")
        await page.wait_for_selector(wanted)
        await eye.look(page, act)
        await page.keyboard.press("Escape")
    await page.click(".files a[data-picture]")
    await page.wait_for_function("() => document.querySelector('#lightbox-picture').naturalWidth")
    await eye.look(page, "lightbox")
    await page.keyboard.press("Escape")
    await page.wait_for_function("() => !history.state?.lightbox")
    await page.click(".head .more:last-of-type summary")
    await eye.look(page, "menu")
    await page.keyboard.press("Escape")
    await page.click("#switcher summary")
    await eye.look(page, "switcher", [WIDE])
    await page.set_viewport_size(NARROW)
    await page.click(".menu")
    await page.wait_for_selector("body.drawer")
    behind = ["landmark-one-main", "page-has-heading-one"]           # they are inert, as behind a dialog
    await eye.look(page, "drawer", [NARROW], but=behind)
    await page.wait_for_function("() => !history.state?.drawer")     # the wide window closed it


async def unsent(eye, page, address):
    """A message on its way, and one that did not arrive."""
    await page.goto(address)
    await page.wait_for_selector("#messages[data-live]")
    answered = asyncio.Event()

    async def hold(route):
        if route.request.method != "POST":
            return await route.continue_()
        await answered.wait()
        await route.fulfill(status=422, content_type="text/plain", body="The server cannot take this one.")
    await page.route(address, hold)
    await page.fill("#text", "on its way")
    await page.press("#text", "Enter")
    await page.wait_for_selector(".message.pending")
    await eye.look(page, "pending")
    answered.set()
    await page.wait_for_selector(".message.failed")
    await eye.look(page, "failed")
    await page.unroute(address)


REFUSALS = [r"Failed to load resource: the server responded with a status of 4\d\d"]


async def test_axe_finds_nothing_until_one_is_in(chat, person, window, axe, say):
    """Without this, somebody who hears the page, or cannot tell pale grey from white, would not get in."""
    eye, base = Eye(axe), chat["biff/base-url"]
    await signed_out(eye, await window(allow=REFUSALS), chat)
    eve = await person("eve@example.com")
    await first_steps(eye, await as_browser(window, eve), base)
    eye.finds_nothing(say)


async def test_axe_finds_nothing_in_a_channel_and_its_dialogs(chat, person, window, axe, say):
    """Without this, somebody who hears the page could get in, and then not talk with the others."""
    eye, base = Eye(axe), chat["biff/base-url"]
    ann, bob, community, channel, posts = await a_town(person)
    page = await as_browser(window, ann, allow=REFUSALS)
    await page.goto(base + (await ann.post(f"{community}/channel", {"title": "tides"}, channel)).url.path)
    await eye.look(page, "empty channel")
    await in_a_channel(eye, page, base + channel)
    await unsent(eye, page, base + channel)
    eye.finds_nothing(say)


async def test_axe_finds_nothing_on_the_other_pages(chat, person, window, axe, say):
    """Without this, the pages that are opened rarely would be those on which people are lost."""
    eye, base = Eye(axe), chat["biff/base-url"]
    ann, bob, community, channel, posts = await a_town(person)
    eve = await person("eve@example.com")
    page = await as_browser(window, ann, allow=REFUSALS)
    await page.goto(f"{base}{(await eve.new_channel())[1]}")
    await eye.look(page, "somebody else's")
    private = (await ann.post(f"{community}/channel", {"title": "hush", "private": "on"}, channel)).url.path
    await ann.post(f"{community}/invitations", {"ends": "week"}, channel)
    await bob.post(f"{channel}/message/{posts[1]}/report", {"reason": "loud"}, channel)
    for path in (community, f"{community}/reports", f"{community}/members", private, f"{community}/direct",
                 f"{channel}/delete",
                 f"{community}/search?q=bold", f"{community}/search?q=nowhere", f"{community}/search",
                 f"{channel}?thread={posts[0]}", f"{channel}/at/{posts[1]}", "/sessions", "/name",
                 f"{community}/invitations", await ann.invitation(community)):
        await page.goto(base + path)
        if path.endswith("/members"):
            await page.click(".person:not(.mine) .more summary")
            await page.click(".person:not(.mine) [data-ask=ban]")
            await eye.look(page, "the dialog of a ban")
            await page.click("#ban-member [data-close]")
            await page.click(".person:not(.mine) .more summary")
        if path.endswith("/invitations"):
            await page.click("text=QR code >> nth=0")
        await eye.look(page, re.sub(r"[\w-]{36}", "…", path))
    eye.finds_nothing(say)
