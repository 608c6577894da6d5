"""Permalinks: the address of a message, of a day, and pages that never grow without end."""
import datetime as dt
import re
import urllib.parse
import uuid

import pytest

from people import chat, person, texts      # noqa: F401
from store import put
from test_browser import same_process, until_live
from test_chat import id_of

START = dt.datetime(2026, 3, 1, tzinfo=dt.timezone.utc)


async def filled(chat, channel, count):      # noqa: F811
    """Messages "0", "1", … of one day each, by the channel's founder; their ids."""
    db = chat["biff/node"].db()
    mem = db.q({"find": "?m", "where": [["?m", "mem/roles", "admin"]]})[0]
    ids = [uuid.uuid4() for _ in range(count)]
    for first in range(0, count, 50):
        await chat["biff/node"].submit([put({
            "xt/id": ids[n], "msg/mem": mem, "msg/text": str(n), "msg/channel": id_of(channel),
            "msg/created-at": START + dt.timedelta(days=n)}) for n in range(first, min(first + 50, count))])
    return ids


async def test_a_message_opens_in_its_surroundings_with_a_way_to_both_sides(chat, person):      # noqa: F811
    """Without this, a link to a decision of last year would open on today's weather."""
    ann = await person("ann@example.com")
    community, channel = await ann.new_channel()
    ids = await filled(chat, channel, 160)
    page = (await ann.get(f"{channel}/at/{ids[60]}")).body_text
    assert texts(page) == [str(n) for n in range(35, 86)]
    for wanted in f'data-sought="message-{ids[60]}"', f"?before={ids[35]}", f"/newer?after={ids[85]}":
        assert wanted in page
    assert f'hx-ws:connect="{community}/connect' in page and "Back to now" in page


async def test_newer_pages_lead_from_there_to_the_end_and_skip_nothing(chat, person):      # noqa: F811
    """Without this, a reader who follows a conversation on from a link would miss a part of it."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    ids = await filled(chat, channel, 160)
    page, seen = (await ann.get(f"{channel}/at/{ids[3]}")).body_text, []
    seen += texts(page)
    while link := re.search(r'hx-get="([^"]*/newer\?after=[^"]*)"', page):
        page = (await ann.get(link[1], headers={"HX-Request": "true"})).body_text
        assert "<html" not in page
        seen += texts(page)
    assert seen == [str(n) for n in range(160)]


async def test_one_of_the_newest_messages_opens_on_the_live_page(chat, person):      # noqa: F811
    """Without this, a link that was sent a minute ago would open a page that hears nothing."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    ids = await filled(chat, channel, 60)
    answer = await ann.get(f"{channel}/at/{ids[40]}", allow_redirects=False)
    assert answer.headers["Location"] == f"{channel}?now#message-{ids[40]}"


async def test_a_link_is_for_members_and_for_messages_of_its_channel(chat, person):      # noqa: F811
    """Without this, an id would open a message through any channel, and a visitor would not come back to it."""
    ann, eve, nobody = await person("ann@example.com"), await person("eve@example.com"), await person()
    _, channel = await ann.new_channel()
    _, other = await ann.new_channel()
    id, = await filled(chat, channel, 1)
    assert (await ann.get(f"{other}/at/{id}")).status == (await ann.get(f"{channel}/at/{uuid.uuid4()}")).status == 404
    assert (await eve.get(f"{channel}/at/{id}")).url.path == "/app"
    signin = (await nobody.get(f"{channel}/at/{id}")).url
    assert signin.path == "/signin" and signin.query["return-to"] == f"{channel}/at/{id}"


@pytest.mark.parametrize("moment, lands", [
    ("2026-03-21T00:00:00Z", 20), ("2026-03-20T23:00:00-01:00", 20), ("2026-03-21", 20), ("2020-01-01", 0),
    ("2027-01-01", None)])
async def test_a_day_opens_at_its_first_message(chat, person, moment, lands):      # noqa: F811
    """Without this, one would scroll through a year to find what was said in March."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    ids = await filled(chat, channel, 80)
    answer = await ann.get(f"{channel}/day?{urllib.parse.urlencode({'from': moment})}")
    assert answer.url.path == (channel if lands is None else f"{channel}/at/{ids[lands]}")
    assert (await ann.get(f"{channel}/day?from=soon")).status == 422


async def test_a_page_never_holds_more_than_some_hundreds_of_messages(chat, person, window):      # noqa: F811
    """Without this, a page that is open for a week would take a third of a second for each new message."""
    page, channel = await same_process(chat, person, window, "ann@example.com")
    await filled(chat, channel, 600)
    await page.wait_for_function("""() => { const all = [...document.querySelectorAll('.message p')];
        return all.at(-1)?.textContent === '599' && all.length <= 400; }""")
    shown = await page.eval_on_selector_all(".message p", "all => all.map(one => one.textContent)")
    assert shown == [str(n) for n in range(600 - len(shown), 600)]
    await page.reload()
    await until_live(page)
    await page.wait_for_function("""() => {                    // back through the past, as far as this page goes
        document.querySelector("#messages").scrollTop = 0;
        return document.querySelector("#older a:not([hx-get])"); }""")
    await page.click("#older a")
    await page.wait_for_selector("#newer")
    sought = await page.get_attribute("#messages", "data-sought")
    assert await page.locator(f"#{sought}").is_visible() and await page.locator(".message").count() <= 400
