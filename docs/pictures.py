"""The pictures of the chat in the README and in tour.md: three people sign in and talk, and are photographed.

    pip install -e '.[test]' && python docs/pictures.py [FOLDER [NAME…]]

Starts the real server on an empty folder and drives the Chromium of tests/chromium.py, with the machine's own fonts
where it has some. Writes chat.png and tour/*.png into FOLDER, or into docs/ if none is named; with names only those.
"""

import asyncio
import io
import math
import os
import pathlib
import sys
import tempfile

from PIL import Image, ImageDraw
from playwright.async_api import async_playwright

DOCS = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS.parent / "tests")]
import chromium                                  # noqa: E402
from conftest import Server                      # noqa: E402
from people import pick                          # noqa: E402

SMALL, WIDE, PHONE = [{"width": width, "height": height} for width, height in ((960, 600), (1280, 800), (390, 800))]
COMMUNITY, CHANNELS = "Eels of the Severn", ["sightings", "tides", "weir watch"]
ANN, BOB, WREN = "Ann Marsh", "Bob Teague", "Wren Okafor"
TALK = [
    (ANN, "Good morning! The first elvers are in the river."),
    (BOB, "Already? Last year it was the *third* of April."),
    (ANN, "I counted some **300** at the weir, half an hour before high water:\n"
          "- 180 along the left bank\n- 90 at the ladder\n- the rest in the pool"),
    (WREN, "The pool is new, they never used it before."),
    (ANN, "The times for tonight: https://example.org/tides"),
    (BOB, "Then I will be there at nine. @Ann Marsh, who brings the lamp?"),
]
FONTS = """<fontconfig><include>{machines}</include>
<match><test name="family"><string>DejaVu Sans</string></test>
<edit name="family" mode="assign" binding="strong"><string>Roboto</string></edit></match></fontconfig>"""
SHOWN = "count => document.querySelectorAll('#messages .message:not(.pending)').length === count"
LOADED = "() => [...document.querySelectorAll('.files img')].every(one => one.complete && one.naturalWidth)"
AT_END = "() => { const list = document.querySelector('#messages'); list.scrollTop = list.scrollHeight; }"


async def main(folder, names):
    with tempfile.TemporaryDirectory() as data:
        server = Server(data)
        try:
            async with async_playwright() as playwright:
                browser = await playwright.chromium.launch(args=chromium.FLAGS, **with_fonts(chromium.find(), data))
                town = Town(server.start(), {name: await window(browser) for name in (ANN, BOB, WREN)}, folder, names)
                await town.settle()
                for scene in SCENES if not names or set(names) - {"chat"} else [of_the_readme]:
                    await scene(town)
                await browser.close()
        finally:
            server.kill()


def with_fonts(found, data):
    """The browser with the machine's fonts: what npm brings has no emoji."""
    machines = pathlib.Path("/etc/fonts/fonts.conf")
    if not machines.exists():
        return found
    path = pathlib.Path(data) / "fonts.conf"
    path.write_text(FONTS.format(machines=machines))
    return found | {"env": {**found.get("env", os.environ), "FONTCONFIG_FILE": str(path)}}


async def window(browser):
    """The window of another person, with cookies of its own."""
    context = await browser.new_context(viewport=WIDE, color_scheme="light", reduced_motion="reduce",
                                        timezone_id="Europe/London", locale="en-GB")
    context.set_default_timeout(30_000)
    return await context.new_page()


def weir():
    """A picture of an eel that goes up a weir by the light of the moon, as PNG."""
    picture = Image.new("RGB", (900, 560))
    draw = ImageDraw.Draw(picture)
    for y in range(560):
        part = y / 560
        draw.line([(0, y), (900, y)], fill=(int(12 + 22 * part), int(38 + 70 * part), int(58 + 62 * part)))
    draw.ellipse((690, 165, 770, 245), fill=(244, 232, 196))
    for x in range(0, 900, 6):
        top = 250 + 12 * math.sin(x / 60)
        draw.line([(x, top), (x, 560)], fill=(20, 88 + x // 30, 96), width=6)
    for row in range(5):
        box = -80 + 60 * row, 290 + 46 * row, 980 - 40 * row, 420 + 46 * row
        draw.arc(box, 200, 340, fill=(120, 190, 186), width=3)
    body = [(140 + 6 * n, 440 - 0.9 * n + 46 * math.sin(n / 13)) for n in range(105)]
    for n, (x, y) in enumerate(body):
        radius = 3 + 17 * math.sin(math.pi * min(1, (n + 12) / 125))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(206, 186, 130))
    x, y = body[-1]
    draw.ellipse((x - 2, y - 9, x + 6, y - 1), fill=(29, 43, 44))
    drawn = io.BytesIO()
    picture.crop((0, 140, 900, 560)).save(drawn, "PNG")
    return drawn.getvalue()


class Town:
    """Three people, the windows in which they are, and the folder of the pictures."""

    def __init__(self, server, windows, folder, names):
        self.server, self.windows, self.folder, self.names = server, windows, folder, names

    async def photograph(self, who, name, size):
        """Writes tour/NAME.png, of the page as it stands."""
        page = self.windows[who]
        if self.names and name not in self.names:
            return
        path = self.folder / ("chat.png" if name == "chat" else f"tour/{name}.png")
        path.parent.mkdir(exist_ok=True)
        shot = Image.open(io.BytesIO(await page.screenshot())).convert("RGB")
        shot.quantize(256, kmeans=2, dither=Image.Dither.NONE).save(path, optimize=True)      # a third as large

    async def go(self, who, path, size, scheme="light"):
        """Opens a page in a window of this size and these colours; what it holds is there."""
        page = self.windows[who]
        await page.set_viewport_size(size)
        await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        await page.goto(path)
        if await page.query_selector("#messages[hx-ws\\:connect]"):
            await page.wait_for_selector("#messages[data-live]")
            await page.wait_for_function(LOADED)
            await page.evaluate(AT_END)
        return page

    # ── How the town comes to be ──────────────────────────────────────────────────────────────────────────────

    async def settle(self):
        """Ann founds the community with its channels, the others join; they talk in its first channel."""
        ann, bob, wren = self.windows.values()
        await self.photograph_signing_in(ann)
        await self.sign_in(ann, "ann@example.com")
        await self.photograph(ANN, "first-390", PHONE)
        await ann.set_viewport_size(WIDE)
        await self.say_name(ann, ANN)
        await ann.click("#switcher [data-dialog='new-community']")
        await ann.fill("#new-community-name", COMMUNITY)
        await ann.press("#new-community-name", "Enter")
        await ann.wait_for_url("**/channel/*")
        self.community = ann.url.partition("/channel/")[0]
        await self.photograph(ANN, "empty-1280", WIDE)
        self.channels = [await self.open_channel(ann, title) for title in CHANNELS]
        await ann.goto(self.channels[0])
        await ann.click(".head .more summary >> nth=-1")
        await ann.click("text=Name and topic")
        await ann.fill("#channel-topic", "What was seen, where and when")
        await ann.press("#channel-topic", "Enter")
        await ann.wait_for_selector("#topic:has-text('What was seen')")
        await ann.goto(f"{self.community}/invitations")
        await ann.click("text=Make a link")
        self.invitation = await ann.input_value(".invitation input >> nth=0")
        for page, email, name in (bob, "bob@example.com", BOB), (wren, "wren@example.com", WREN):
            await self.sign_in(page, email)
            await self.say_name(page, name)
            await page.goto(self.invitation)
            await page.click("text=Join")
            await page.wait_for_url("**/channel/*")
        await self.talk()

    async def photograph_signing_in(self, page):
        for name, size, scheme in ("start-1280", WIDE, "light"), ("start-390", PHONE, "dark"):
            await page.set_viewport_size(size)
            await page.emulate_media(color_scheme=scheme)
            await page.goto(self.server.url)
            await self.photograph(ANN, name, size)
        await page.emulate_media(color_scheme="light")

    async def sign_in(self, page, email):
        """Signs in by the link that the server prints while no mail server is configured."""
        said = len(self.server.log)
        await page.goto(self.server.url)
        await page.fill("#email", email)
        await page.click("text=Get a sign-in link")
        link = await self.server.said(r"http\S+/auth/verify-link/\S+", said)
        await page.goto(link.group())
        await page.click(f"text=Sign in as {email}")
        await page.wait_for_selector("#welcome-name")

    async def say_name(self, page, name):
        await page.fill("#welcome-name", name)
        await page.press("#welcome-name", "Enter")
        await page.wait_for_selector(f"#my-name:text-is('{name}')")

    async def open_channel(self, page, title, is_private=False):
        before = page.url
        await page.click("nav [data-dialog='new-channel']")
        await page.fill("#new-channel-name", title)
        if is_private:
            await page.check("#new-channel [name=private]")
        await page.press("#new-channel-name", "Enter")
        await page.wait_for_url(lambda url: url != before and "/channel/" in url)
        return page.url.removesuffix("?people")

    async def say(self, who, text):
        await self.windows[who].fill("#text", text)
        await self.windows[who].click("#compose >> text=Send")

    async def talk(self):
        """Everybody is in one channel, and each sees what was said, a picture, a reply and reactions."""
        for who, page in self.windows.items():
            await self.go(who, self.channels[0], WIDE)
        for number, (who, text) in enumerate(TALK, 1):
            await self.say(who, text)
            for page in self.windows.values():
                await page.wait_for_function(SHOWN, arg=number)
        ann, bob, wren = self.windows.values()
        drawn = {"name": "the weir, at dusk.png", "mimeType": "image/png", "buffer": weir()}
        await wren.set_input_files("#attached", [drawn])
        await wren.wait_for_selector("#attachments .done")
        await pick(wren, f".message:nth-of-type({len(TALK)})")
        await wren.click("[data-act=reply]")
        await self.say(WREN, "I do. This is where I will stand:")
        for page in self.windows.values():
            await page.wait_for_function(SHOWN, arg=len(TALK) + 1)
            await page.wait_for_function(LOADED)
        for page, emoji in (ann, "❤"), (bob, "❤"), (ann, "🎉"):
            await self.react(page, ".message:has(.files)", emoji)
        await self.react(wren, ".message:nth-of-type(1)", "👀")
        await bob.wait_for_function("() => document.querySelectorAll('.message .reaction').length === 3")

    async def react(self, page, message, emoji):
        await pick(page, message)
        await page.click("[data-act=react]")
        await page.fill("#react-other", emoji)
        async with page.expect_response("**/reaction"):
            await page.press("#react-other", "Enter")
        await page.wait_for_selector("#react:not([open])", state="attached")


# ── Scenes, in their order ───────────────────────────────────────────────────────────────────────────────────

async def of_the_readme(town):
    page = await town.go(BOB, town.channels[0], SMALL)
    await page.fill("#text", "See you tonight")
    await page.evaluate(AT_END)
    await town.photograph(BOB, "chat", SMALL)
    await page.fill("#text", "")


async def of_a_channel(town):
    for name, who, size, scheme in (("channel-1280", BOB, WIDE, "light"), ("channel-dark-1280", ANN, WIDE, "dark"),
                                    ("channel-390", ANN, PHONE, "light")):
        page = await town.go(who, town.channels[0], size, scheme)
        if scheme == "dark":
            await pick(page, ".message:nth-of-type(3)")
        await town.photograph(who, name, size)
    await page.click(".menu")
    await page.wait_for_selector("body.drawer")
    await page.emulate_media(color_scheme="dark")
    await town.photograph(ANN, "drawer-390", PHONE)
    await page.keyboard.press("Escape")
    await page.wait_for_function("() => !history.state?.drawer")


async def of_words(town):
    page = await town.go(BOB, town.channels[1], WIDE)
    await page.type("#text", "High water at **21:40**, @")
    await page.wait_for_selector("#text-options [role=option]")
    await town.photograph(BOB, "mention-1280", WIDE)
    await page.press("#text", "Escape")
    await page.fill("#text", "")
    page = await town.go(WREN, town.channels[0], PHONE, "dark")
    await pick(page, ".message:has(.files)")
    await page.click("[data-act=react]")
    await page.wait_for_selector("#react[open]")
    await town.photograph(WREN, "react-390", PHONE)
    page = await town.go(WREN, town.channels[0], WIDE, "dark")
    await page.click(".files a[data-picture]")
    await page.wait_for_function("() => document.querySelector('#lightbox-picture').naturalWidth")
    await town.photograph(WREN, "picture-1280", WIDE)


async def of_finding(town):
    page = await town.go(ANN, f"{town.community}/search?q=weir", WIDE)
    await town.photograph(ANN, "search-1280", WIDE)
    page = await town.go(ANN, town.channels[0], WIDE)
    await page.click(".replies")
    await page.wait_for_selector("#messages[data-live]")
    await page.wait_for_function(LOADED)
    await town.photograph(ANN, "thread-1280", WIDE)
    await page.keyboard.press("Control+k")
    await page.wait_for_selector("#go-list [role=option]")
    await page.emulate_media(color_scheme="dark")
    await town.photograph(ANN, "go-1280", WIDE)


async def of_people(town):
    page = await town.go(ANN, f"{town.community}/members", WIDE)
    await page.click(".person:not(.mine) .more summary")
    await town.photograph(ANN, "members-1280", WIDE)
    page = await town.go(ANN, f"{town.community}/members", PHONE, "dark")
    await page.click(".person:not(.mine) .more summary")
    await page.click(".person:not(.mine) [data-ask=ban]")
    await town.photograph(ANN, "ban-390", PHONE)
    page = await town.go(ANN, f"{town.community}/invitations", PHONE)
    await page.click("text=QR code")
    await town.photograph(ANN, "invitations-390", PHONE)
    page = await town.go(WREN, f"{town.community}/direct", PHONE, "dark")
    await town.photograph(WREN, "direct-390", PHONE)


async def of_oneself(town):
    page = await town.go(BOB, town.channels[0], WIDE)
    await page.click(".my-name")
    await town.photograph(BOB, "you-1280", WIDE)
    page = await town.go(BOB, town.channels[0], PHONE, "dark")
    await page.click(".menu")
    await page.click(".my-name")
    await town.photograph(BOB, "you-390", PHONE)
    page = await town.go(BOB, f"{town.server.url}/sessions", PHONE)
    await town.photograph(BOB, "devices-390", PHONE)
    page = await town.go(BOB, town.channels[0], WIDE, "dark")
    await page.evaluate("document.activeElement.blur()")
    await page.keyboard.press("?")
    await page.wait_for_selector("#keys[open]")
    await town.photograph(BOB, "keys-1280", WIDE)


SCENES = [of_the_readme, of_a_channel, of_words, of_finding, of_people, of_oneself]

if __name__ == "__main__":
    asyncio.run(main(pathlib.Path(sys.argv[1]) if sys.argv[1:] else DOCS, sys.argv[2:]))
