"""The picture of the chat in the README: two people sign in and talk, and one window is photographed.

    pip install -e '.[test]' && python docs/pictures.py [FOLDER]

Starts the real server on an empty folder and drives the Chromium of tests/chromium.py. Writes chat.png into FOLDER,
or into docs/ if none is named.
"""

import asyncio
import pathlib
import sys
import tempfile

from playwright.async_api import async_playwright

DOCS = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS.parent / "tests")]
import chromium                                  # noqa: E402
from conftest import Server                      # noqa: E402

WINDOW = {"width": 960, "height": 560}
COMMUNITY, CHANNELS = "Eels of the Severn", ["sightings", "tides"]
ANN, BOB = 0, 1
TALK = [
    (ANN, "Good morning! The first elvers are in the river."),
    (BOB, "Already? Last year it was the third of April."),
    (ANN, "I counted some 300 at the weir, half an hour before high water."),
    (ANN, "The times for tonight: https://example.org/tides"),
    (BOB, "Then I will be there at nine.\nWho brings the lamp?"),
    (ANN, "I do. And tea."),
]
SHOWN = "count => document.querySelectorAll('#messages .message').length === count"


async def main(folder):
    with tempfile.TemporaryDirectory() as data:
        server = Server(data)
        try:
            async with async_playwright() as playwright:
                browser = await playwright.chromium.launch(args=chromium.FLAGS, **chromium.find())
                await talk(server.start(), [await window(browser) for _ in (ANN, BOB)])
                await browser.contexts[BOB].pages[0].screenshot(path=folder / "chat.png")
                await browser.close()
        finally:
            server.kill()


async def window(browser):
    """The window of another person, with cookies of its own."""
    context = await browser.new_context(viewport=WINDOW, color_scheme="light")
    context.set_default_timeout(10_000)
    return await context.new_page()


async def talk(server, people):
    """Both people are in one channel, and each sees what was said."""
    address = await settle(server, *people)
    for page in people:
        await page.goto(address)
        await page.wait_for_selector("#messages[data-live]")
    for number, (who, text) in enumerate(TALK, 1):
        await people[who].fill("#text", text)
        await people[who].press("#text", "Enter")
        for page in people:
            await page.wait_for_function(SHOWN, arg=number)
    await people[BOB].fill("#text", "See you tonight")


async def settle(server, ann, bob):
    """Ann founds the community with its channels, Bob joins; the address of the first channel that she makes."""
    await sign_in(ann, server, "ann@example.com", "Ann")
    await ann.click("#switcher [data-dialog='new-community']")
    await ann.fill("#new-community-name", COMMUNITY)
    await ann.press("#new-community-name", "Enter")
    await ann.wait_for_url("**/channel/*")
    addresses = []
    for title in CHANNELS:
        before = ann.url
        await ann.click("nav [data-dialog='new-channel']")
        await ann.fill("#new-channel-name", title)
        await ann.press("#new-channel-name", "Enter")
        await ann.wait_for_url(lambda url: url != before and "/channel/" in url)
        addresses.append(ann.url)
    await sign_in(bob, server, "bob@example.com", "Bob")
    await ann.click("#invite")
    await ann.click("text=Make a link")
    await bob.goto(await ann.input_value(".invitation input"))
    await bob.click("text=Join")
    await bob.wait_for_selector(".channels a")
    return addresses[0]


async def sign_in(page, server, email, name):
    """Signs in by the link that the server prints while no mail server is configured, and says a name."""
    said = len(server.log)
    await page.goto(server.url)
    await page.fill("#email", email)
    await page.click("text=Get a sign-in link")
    link = await server.said(r"http\S+/auth/verify-link/\S+", said)
    await page.goto(link.group())
    await page.click(f"text=Sign in as {email}")
    await page.fill("#welcome-name", name)
    await page.press("#welcome-name", "Enter")
    await page.wait_for_selector(f"text={name}")


if __name__ == "__main__":
    asyncio.run(main(pathlib.Path(sys.argv[1]) if sys.argv[1:] else DOCS))
