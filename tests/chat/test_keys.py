"""Keys: anywhere by Ctrl+K, through the channels, and letters that one can switch off."""
import re

from people import chat, found, open_channel, person      # noqa: F401
from test_browser import two_in_a_channel, until_texts, write


def places(html):
    return re.findall(r"<span>(.*?)</span> <small>(.*?)</small>", html)


async def test_one_goes_only_where_one_may(chat, person):      # noqa: F811
    """Without this, the list of places would name private channels to everybody."""
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    community, channel = await ann.new_channel()
    await bob.join(community)
    for fields in {"title": "tides"}, {"title": "cellar", "private": "on"}:
        await ann.post(f"{community}/channel", fields, channel)
    mine, theirs = [places((await one.get("/places")).body_text) for one in (ann, bob)]
    assert [name for name, _ in mine][:-1] == ["general", "tides", "cellar"]
    assert [name for name, _ in theirs][:-1] == ["general", "tides"] and theirs[-1][1] == "Community"


# A page that goes while the server hears that it stays gets no answer, and must say nevertheless that it goes.
LOST = """const real = fetch;
window.fetch = async (path, options) => {
  const answer = await real(path, options);
  if (options?.body?.has?.("stays")) throw new TypeError("the answer is lost");
  return answer;
};"""


async def test_one_goes_anywhere_by_keyboard_in_a_browser(server, window):      # noqa: F811
    """Without this, those who cannot use a mouse would walk through every list."""
    ann, bob = await window(), await window()
    await ann.add_init_script(LOST)
    await two_in_a_channel(server, ann, bob)
    first = ann.url
    await open_channel(ann, "weir watch")
    await ann.wait_for_selector("#messages[data-live]")
    second = ann.url
    await ann.press("#text", "Control+k")
    await ann.wait_for_selector("#go[open] [role=option]")
    await ann.fill("#go-text", "zzz")
    await ann.wait_for_selector("text=Nothing is called so.")
    await ann.fill("#go-text", "Wéir")
    await ann.wait_for_selector("#go-list [aria-selected=true] >> text=weir watch")
    await ann.press("#go-text", "Escape")
    await ann.press("#text", "Alt+ArrowUp")
    await ann.wait_for_url(lambda url: url != second)
    await ann.wait_for_selector("#messages[data-live]")
    await ann.press("#text", "Control+k")
    await ann.wait_for_selector("#go[open] [role=option]")
    await ann.fill("#go-text", "weir")
    await ann.press("#go-text", "Enter")
    await ann.wait_for_url(second)
    await ann.wait_for_selector("#messages[data-live]")
    await write(bob, "one"), await write(bob, "two")
    await ann.wait_for_selector(".channels a[data-unread='2']")
    await ann.press("#text", "Alt+Shift+ArrowDown")
    await ann.wait_for_url(first)
    await until_texts(ann, ["one", "two"])
    await ann.focus("#messages")
    await ann.keyboard.press("k")
    await ann.wait_for_selector("#actions:visible")
    await ann.keyboard.press("k"), await ann.keyboard.press("r")
    await ann.wait_for_selector("#replying >> text=one")
    await ann.press("#text", "Escape")
    await ann.focus("#messages"), await ann.keyboard.press("?")
    await ann.click("#keys[open] #letters-on")
    await ann.click("#keys [data-close]")
    await ann.focus("#messages"), await ann.keyboard.press("c")
    assert await ann.evaluate("document.activeElement.id") == "messages"
