"""Search: what is found, in which order, for whom, and what a search gives away."""
import datetime as dt
import re
import uuid

import pytest

import biff
from people import chat, person      # noqa: F401
from plugins import search
from store import delete, evict, put
from test_browser import same_process
from test_chat import id_of
from test_escaping import Tree, payloads      # noqa: F401

AT = dt.datetime(2026, 3, 10, 12, tzinfo=dt.timezone.utc)


@pytest.fixture
async def ann(chat, person):      # noqa: F811
    """Ann, who has a community and a channel."""
    ann = await person("ann@example.com")
    ann.community, ann.channel = await ann.new_channel()
    await ann.post("/name", {"name": "Ann Lee"}, ann.channel)
    return ann


def mem_of(chat, one):      # noqa: F811
    db = chat["biff/node"].db()
    return biff.lookup_id(db, "mem/user", biff.lookup_id(db, "user/name", one))


async def said(chat, channel, *texts, by="Ann Lee", at=AT, **values):      # noqa: F811
    """Messages in the store, a day apart; their ids."""
    ids, mem = [uuid.uuid4() for _ in texts], by if by == "system" else mem_of(chat, by)
    await chat["biff/node"].submit([put({
        "xt/id": id, "msg/mem": mem, "msg/text": text, "msg/channel": id_of(channel),
        "msg/created-at": at + dt.timedelta(days=n), **values}) for n, (id, text) in enumerate(zip(ids, texts))])
    return ids


async def page_of(one, query, **more):
    return await one.get(biff.url(f"{one.community}/search", q=query, **more))


async def found(one, query, **more):
    """The ids on a page of hits, in its order."""
    page = (await page_of(one, query, **more)).body_text
    return [uuid.UUID(id) for id in re.findall(r'class="hit" href="[^"]*/at/([^"]+)"', page)]


async def complaint(one, query):
    answer = await page_of(one, query)
    return answer.status, re.search(r'role="alert"[^>]*>([^<]*)<', answer.body_text)[1].replace("&#39;", "'")


async def test_a_hit_is_shown_without_marks(chat, ann):      # noqa: F811
    """Without this, a hit would show stars that its message does not; what a feed brings has none to take away."""
    await said(chat, ann.channel, "**low** `tide` <b>")
    await said(chat, ann.channel, "*high* tide", by="system")
    page = (await page_of(ann, "tide")).body_text
    assert "low <mark>tide</mark> &lt;b&gt;" in page and "*high* <mark>tide</mark>" in page


@pytest.mark.parametrize("few", [0, 2_000])
async def test_words_are_found_newest_first_marked_and_lead_to_their_place(chat, ann, few, monkeypatch):  # noqa: F811
    """Without this, what was said last year would be lost among what was said since."""
    monkeypatch.setattr(search, "FEW", few)
    ids = await said(chat, ann.channel, "The slow EEL", "no fish", "Ünïcödé éels, so slow", "東京都 のうなぎ")
    assert await found(ann, "eel") == [ids[2], ids[0]]
    assert await found(ann, "slow eel") == [ids[2], ids[0]] and await found(ann, '"slow eel"') == [ids[0]]
    assert await found(ann, "unicode") == [ids[2]] and await found(ann, "東京") == await found(ann, "なぎ") == [ids[3]]
    page = (await page_of(ann, "SLOW eel")).body_text
    assert "The <mark>slow</mark> <mark>EEL</mark>" in page and "<mark>éel</mark>s, so <mark>slow</mark>" in page
    assert f'href="{ann.channel}/at/{ids[0]}"' in page and ">Ann Lee</b>" in page and "10 Mar 2026" in page
    assert (await ann.get(f"{ann.channel}/at/{ids[0]}")).status == 200
    nothing = (await page_of(ann, "whale")).body_text
    assert "Nothing was found in the channels that you see." in nothing and "<mark>" not in nothing


@pytest.mark.parametrize("few", [0, 2_000])
async def test_filters_narrow_a_search_by_author_channel_day_and_files(chat, ann, person, few,  # noqa: F811
                                                                      monkeypatch):
    """Without this, a word that everybody says would find nothing that one looks for."""
    monkeypatch.setattr(search, "FEW", few)
    bob = await person("bob@example.com")
    await bob.join(ann.community)
    await bob.post("/name", {"name": "Bob"}, ann.channel)
    other = (await ann.post(f"{ann.community}/channel", {"title": "tea & cake"}, ann.channel)).url.path
    a = await said(chat, ann.channel, "eel one", "eel two", "eel three")
    b = await said(chat, other, "eel four", "eel five", by="Bob")
    c = await said(chat, ann.channel, "eel six", by="system", at=AT + dt.timedelta(days=30))
    file, = await said(chat, ann.channel, "eel seven", **{"msg/files": [uuid.uuid4(), uuid.uuid4()]})
    for query, wanted in {
            "eel from:bob": b[::-1], 'eel from:"ann lee"': [file, *a[::-1]], "eel from:@Ann": [file, *a[::-1]],
            "eel from:me": [file, *a[::-1]], "eel from:system": c, "from:bob": b[::-1],
            "eel from:bob from:system": [*c, *b[::-1]],
            'eel in:"tea & cake"': b[::-1], "eel in:#tea": b[::-1], "in:general five": [], "FROM:BOB IN:tea": b[::-1],
            "eel before:2026-03-11": [file, b[0], a[0]], "eel after:2026-03-11": [*c, a[2]],
            "eel after:2026-03-10 before:2026-03-12": [b[1], a[1]], "has:file": [file], "eel has:file": [file],
            "eel has:file from:bob": [], "in:general from:me has:file": [file], "eel seven": [file],
            "begin:x": [], "http://in:x": []}.items():
        assert await found(ann, query) == wanted, query
    for query, wanted in {"eel before:2026-03-11": [], "eel after:2026-03-11 in:tea": [b[1]]}.items():
        assert await found(ann, query, zone="Pacific/Kiritimati") == wanted, "a day begins where the person is"
    assert await found(ann, "eel in:tea after:2026-03-11", zone="no zone") == []


async def test_a_filter_that_cannot_be_understood_gets_one_sentence(ann, monkeypatch):      # noqa: F811
    """Without this, a slip would look like nothing being found."""
    for query, sentence in {
            "eel before:yesterday": "before: wants a day, such as before:2026-11-01, and not 'yesterday'.",
            "eel after:9999-12-31": "after: wants a day, such as after:2026-11-01, and not '9999-12-31'.",
            "eel has:wings": "has: knows has:file alone, and not 'wings'.",
            "from:nobody eel": "Nobody here is called 'nobody'.",
            "eel in:nowhere": "You see no channel here that is called 'nowhere'.",
            "eel in:": "Write what you look for right behind in: and without a space.",
            "after:2026-01-01": "A day alone finds too much. Add a word, in:, from: or has:file.",
            '""': "Write a word to search for.",
            "a " * 10 + " ".join(map(str, range(20, 40))): "A search has at most 16 words.",
            "x" * 201: "A search has at most 200 characters; this one has 201."}.items():
        assert await complaint(ann, query) == (200, sentence)
    assert (await page_of(ann, "eel", before="soon")).url.path == f"{ann.community}/search"
    monkeypatch.setattr(search, "SEARCHES_A_PERSON", (0, 60))
    assert await complaint(ann, "eel") == (429, "That were many searches. Try again in a minute.")


@pytest.mark.parametrize("few", [0, 2_000])
async def test_pages_of_older_hits_skip_nothing_and_repeat_nothing(chat, ann, few, monkeypatch):      # noqa: F811
    """Without this, the thirty-first hit could never be reached, where much was said or little."""
    monkeypatch.setattr(search, "FEW", few)
    ids = await said(chat, ann.channel, *(f"eel {n}" for n in range(70)))
    path, seen = biff.url(f"{ann.community}/search", q="eel"), []
    for count in 30, 30, 10:
        page = (await ann.get(path)).body_text
        hits = re.findall(r'class="hit" href="[^"]*/at/([^"]+)"', page)
        assert len(hits) == count
        seen += hits
        older = re.search(r'class="older"><a class="button soft" href="([^"]*)"', page)
        path = older and older[1].replace("&amp;", "&")
    assert seen == [str(id) for id in ids[::-1]] and path is None


async def test_a_search_is_over_what_the_person_may_read_now(chat, ann, person):      # noqa: F811
    """Without this, private words could be read by their neighbours, and old rights would last for ever."""
    bob, eve = await person("bob@example.com"), await person("eve@example.com")
    for one, name in (bob, "Bob"), (eve, "Eve"):
        await one.join(ann.community)
        await one.post("/name", {"name": name}, ann.channel)
        one.community = ann.community
    mems, secret, direct = {mem_of(chat, "Bob"), mem_of(chat, "Eve")}, uuid.uuid4(), uuid.uuid4()
    await chat["biff/node"].submit([put({
        "xt/id": id, "chan/title": title, "chan/comm": id_of(ann.community), "chan/mems": seats, **more})
        for id, title, seats, more in [(secret, "hush", {mem_of(chat, "Bob")}, {}),
                                       (direct, "", mems, {"chan/set": "two"})]])
    hidden, = await said(chat, f"/{secret}", "a hidden eel", by="Bob")
    between, = await said(chat, f"/{direct}", "an eel between us", by="Bob")
    elsewhere = await person("eve2@example.com")
    await elsewhere.new_channel()
    for one, words, wanted in [(bob, "eel", [between, hidden]), (eve, "eel", [between]), (ann, "eel", []),
                               (bob, "in:hush eel", [hidden]), (eve, "in:bob eel", [between]), (ann, "from:bob", [])]:
        assert await found(one, words) == wanted
    assert await complaint(ann, "eel in:hush") == await complaint(ann, "eel in:hush") == (
        200, "You see no channel here that is called 'hush'."), "as of one that is not there"
    pages = [(await page_of(ann, "eel")).body_text, (await page_of(ann, "whale")).body_text]
    changing = "eel|whale|after=\\d+|value=\"\\d+\""
    assert len({re.sub(changing, "", page) for page in pages}) == 1, "nothing is given away"
    assert (await elsewhere.get(f"{ann.community}/search?q=eel")).url.path == "/app"
    node = chat["biff/node"]
    await node.submit([put(node.db().entity(secret) | {"chan/mems": {mem_of(chat, "Eve")}})])
    assert await found(bob, "eel") == [between] and await found(eve, "eel") == [between, hidden]
    await node.submit([put(node.db().entity(hidden) | {"msg/text": "better words"})])
    await node.submit([delete(between)])
    assert await found(eve, "eel") == await found(bob, "eel") == [] and await found(eve, "better") == [hidden]
    await node.submit([evict(hidden)])
    assert await found(eve, "better") == []


def elements(page):
    """The kinds of elements in a page: each name with the names of its attributes."""
    return {(part[0], *(name for name, _ in part[1:])) for part in Tree(page).parts
            if part[0] not in ("text", "comment", "/")}


async def test_attacks_in_searches_and_in_what_they_find_are_text(chat, ann, payloads, monkeypatch):      # noqa: F811
    """Without this, a link to a search could run a stranger's script."""
    monkeypatch.setattr(search, "SEARCHES_A_PERSON", (1_000, 60))
    ids = await said(chat, ann.channel, *(f"harmless {n}" for n in range(31)))
    known = set().union(*[elements((await page_of(ann, query)).body_text)
                          for query in ("harmless", "nowhere", "in:nowhere", "in:general harmless")])
    await said(chat, ann.channel, *(f"needle {payload}" for payload in payloads))
    for query in ["needle", *payloads[:100], *(f'in:"{payload}" eel' for payload in payloads[:20])]:
        assert elements((await page_of(ann, query[:200])).body_text) <= known, query
    assert len(await found(ann, "needle")) == 30 and len(ids) == 31


async def test_a_search_by_keyboard_and_on_a_phone_leads_to_the_message(chat, person, window):      # noqa: F811
    """Without this, only people with a mouse and a wide screen would find anything."""
    page, channel = await same_process(chat, person, window, "ann@example.com", viewport={"width": 1280, "height": 800})
    mem, = chat["biff/node"].db().q({"find": "?m", "where": [["?m", "mem/roles", "admin"]]})
    ids = [uuid.uuid4() for _ in range(120)]
    await chat["biff/node"].submit([put({
        "xt/id": id, "msg/mem": mem, "msg/text": f"a <needle> {n}" if n == 20 else f"hay {n}",
        "msg/channel": id_of(channel), "msg/created-at": AT}) for n, id in enumerate(ids)])
    await page.focus("#search")
    await page.keyboard.type("NEEDLE")
    await page.keyboard.press("Enter")
    hit = page.locator(".hit")
    await hit.wait_for()
    assert await page.locator("mark").inner_text() == "needle" and await page.input_value("#search-query") == "NEEDLE"
    await hit.focus()
    await page.keyboard.press("Enter")
    await page.locator(f"#message-{ids[20]}").wait_for()
    assert page.url.endswith(f"/at/{ids[20]}")
    await page.set_viewport_size({"width": 360, "height": 640})
    await page.click(".menu")
    await page.fill("#search", "hay in:general")
    await page.press("#search", "Enter")
    await hit.nth(29).wait_for()
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await page.click("text=Older")
    await page.locator(f".hit[href$='{ids[89]}']").wait_for()


@pytest.mark.parametrize("text, words, shown", [
    ("a <b> & b", "b", "a &lt;<mark>b</mark>&gt; &amp; <mark>b</mark>"), ("Straße", "strasse", "<mark>Straße</mark>"),
    ("e\u0301e\u0301l", "eel", "<mark>e\u0301e\u0301l</mark>"), ("none", "", "none"),
    ("don’t", "don't", "<mark>don’t</mark>"),
    ("dragon go", "go", "dragon <mark>go</mark>"), ("one  two", '"one two"', "<mark>one  two</mark>"), ("", "eel", "")])
def test_what_was_found_is_marked_where_it_stands(text, words, shown):
    """Without this, one would have to look for the word again."""
    assert search.excerpt(text, search.marker_of(words)) == shown


def test_an_excerpt_stands_around_what_was_found():
    """Without this, a long message would show its beginning and not the reason why it is there."""
    shown = search.excerpt("x " * 500 + "eel" + " y" * 500, search.marker_of("eel"))
    assert shown.startswith("…") and shown.endswith("…") and "<mark>eel</mark>" in shown and len(shown) < 330
