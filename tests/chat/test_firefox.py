"""The chat in a real Firefox: what the tests in Chromium cannot know of another browser."""
import time
import uuid

import biff
import firefox
import pytest

from conftest import NEEDS
from gate import WebProxy
from people import chat, person      # noqa: F401

LIVE = "document.querySelector('#messages')?.dataset.live !== undefined"
TEXTS = "[...document.querySelectorAll('#messages .message p')].map(text => text.textContent)"
NOTHING_PENDING = "!document.querySelector('.pending')"


@pytest.fixture
async def page():
    """A window of Firefox."""
    try:
        firefox.found()
    except LookupError as error:
        pytest.skip(f"{NEEDS}{error}")
    async with firefox.Firefox() as opened:
        yield opened


async def write(page, text):
    await page.evaluate(f"(document.getElementById('text').value = {text!r}, "
                        "document.getElementById('compose').requestSubmit(), 1)")


async def test_in_firefox_messages_come_and_go_and_a_dead_line_is_noticed(chat, person, page, say):      # noqa: F811
    """Each browser believes a dead socket for another time: Firefox took ten minutes."""
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    community, channel = await ann.new_channel()
    await bob.join(community)
    async with WebProxy(chat["biff/port"]) as proxy:
        await page.set_cookie(biff.cookie_name(chat), next(iter(ann.browser.cookie_jar)).value)
        await page.goto(proxy.url + channel)
        await page.until(LIVE)
        await bob.say(channel, "from Bob")
        await page.until(f"{TEXTS}.includes('from Bob')")
        await write(page, "from Ann")
        await page.until(f"{TEXTS}.includes('from Ann') && {NOTHING_PENDING}")
        proxy.stall("socket")
        begun = time.monotonic()
        await write(page, "does anybody hear me?")
        await page.until("!document.getElementById('connection').hidden")
        noticed = time.monotonic() - begun
        await page.until(f"{LIVE} && {NOTHING_PENDING}")
        await bob.say(channel, "yes", uuid.uuid4())
        await page.until(f"{TEXTS}.includes('yes')")
        assert await page.evaluate(TEXTS) == ["from Bob", "from Ann", "does anybody hear me?", "yes"]
        await page.evaluate("(document.getElementById('text').value = 'half a thought', "
                            "document.getElementById('text').dispatchEvent(new Event('input')), 1)")
        await page.goto(proxy.url + community)
        await page.goto(proxy.url + channel)
        assert await page.evaluate("document.getElementById('text').value") == "half a thought"
    say(f"Firefox noticed a dead line {noticed:.1f} s after its own post, asked 3 after the answer; it came back, and "
        "showed each message once")
