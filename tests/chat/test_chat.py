"""The chat's pages and handlers: who may do what, what changes, where to next;
the tutorial's promises and those beyond it."""
import asyncio
import html
import html.parser
import re
import uuid

import pytest

import biff
import eelchat
from plugins import places
from people import Person, a_chat, chat, kept_mails, person, texts     # noqa: F401
from store import delete, put

HTMX = {"HX-Request": "true"}


def id_of(path):
    return uuid.UUID(path.rpartition("/")[2])


def newest(chat):
    return chat["biff/node"].latest_tx.tx_id


async def test_a_new_community_has_its_founder_as_admin(chat, person):
    """Nobody could ever create a channel in it."""
    ann = await person("ann@example.com")
    community, _ = await ann.new_channel()
    mem, = chat["biff/node"].db().q({"find": ("pull", "?m", ["*"]), "in": ["?c"], "where": [["?m", "mem/comm", "?c"]]},
                                    id_of(community))
    assert mem["mem/roles"] == {"admin"}
    assert re.fullmatch(r"Community #\d{1,3}", chat["biff/node"].db().entity(id_of(community))["comm/title"])


async def test_joining_twice_is_joining_once_and_an_admin_stays_one(chat, person):
    """A second press of the button would make two members of one, or take the founder's role."""
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    community, _ = await ann.new_channel()
    for one in ann, bob, bob:
        assert (await one.join(community)).url.path.startswith(f"{community}/channel/")
    db = chat["biff/node"].db()
    roles = [db.entity(mem)["mem/roles"]
             for mem in db.q({"find": "?m", "in": ["?c"], "where": [["?m", "mem/comm", "?c"]]}, id_of(community))]
    assert sorted(map(sorted, roles)) == [[], ["admin"]]


async def test_each_route_answers_who_may(chat, person):
    """A route that forgot to ask would be an open door; here all of them are tried by everyone who may not."""
    ann, bob, eve = [await person(f"{name}@example.com") for name in ("ann", "bob", "eve")]
    nobody = await person()
    community, channel = await ann.new_channel()
    await bob.join(community)
    before = newest(chat)
    refused = [
        (nobody, "GET", "/app", "/signin"), (nobody, "POST", "/community", "/signin"),
        (nobody, "GET", community, "/signin"),
        (nobody, "POST", f"{community}/channel", "/signin"),
        (nobody, "GET", channel, "/signin"),
        (nobody, "POST", channel, "/signin"), (nobody, "DELETE", channel, "/signin"),
        (eve, "GET", channel, "/app"), (eve, "POST", channel, "/app"), (eve, "DELETE", channel, "/app"),
        (eve, "POST", f"{community}/channel", "/app"),
        (bob, "POST", f"{community}/channel", 403), (bob, "DELETE", channel, 403),
    ]
    for one, method, path, answer_wanted in refused:
        fields = {"text": "let me in", "post": str(uuid.uuid4())}
        answer = await one.get(path) if method == "GET" else await one.post(path, fields, method=method)
        assert answer_wanted in (answer.status, answer.url.path), (method, path, answer.status, answer.url)
    assert newest(chat) == before
    stated = {(method, path) for method, path, _, _ in eelchat.ROUTES if path != "/" and not path.endswith("/connect")}
    tried = {(method, path.replace(channel, eelchat.CHANNEL).replace(community, "/community/{id}"))
             for _, method, path, _ in refused}
    assert stated == tried, "a route that this test does not know"


async def test_an_id_of_another_kind_leads_nowhere(chat, person):
    """One could join a channel as if it were a community,
    or read a channel through a community that one founded oneself."""
    ann, eve = await person("ann@example.com"), await person("eve@example.com")
    community, channel = await ann.new_channel()
    own, _ = await eve.new_channel()
    user = chat["biff/node"].db().q({"find": "?u", "where": [["?u", "user/email", "ann@example.com"]]})[0]
    for id in id_of(channel), user, uuid.uuid4(), "not-an-id":
        assert (await eve.get(f"/community/{id}")).url.path == "/app"
    for id in id_of(channel), id_of(community), user, "%00":
        assert (await eve.get(f"{own}/channel/{id}")).url.path == own


NOTHING_TO_SEE = ["\u200b", "\u2060\u200d", "\u00ad", "\u202e\u202c", "\ufeff", "\u3164", "\u2800 \u2800",
                  "\u115f\u1160", "\u034f", "\ufe0f", "\U000e0041\U000e007f", "\u180e", "\u0001", "\u0301"]


async def test_a_message_has_one_to_ten_thousand_characters(chat, person):
    """Without this, everyone's window could show an empty line, or a book. A refusal must say why."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    for text in "", "  \n\t ", *NOTHING_TO_SEE, "x" * (eelchat.MESSAGE_CHARS_MAX + 1):
        before = newest(chat)
        answer = await ann.say(channel, text)
        assert answer.status == 422 and "1 to 10,000 characters" in answer.body_text and "<" not in answer.body_text
        assert newest(chat) == before
    assert (await ann.say(channel, "  " + "é" * eelchat.MESSAGE_CHARS_MAX + "\n")).status == 204
    assert texts((await ann.get(channel)).body_text) == ["é" * eelchat.MESSAGE_CHARS_MAX]
    for text in "🐟", "1️⃣", "…", "\U0001fae9", "க்", "\u200b.", "\ue000":
        assert (await ann.say(channel, text)).status == 204, f"{text!r} shows"


async def test_posting_and_reading_work_without_a_script(chat, person):
    """A browser that blocks scripts, or has not loaded them yet, would show a blank page."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    post = re.search(r'name="post" value="([\w-]+)"', (await ann.get(channel)).body_text).group(1)
    for _ in range(2):
        answer = await ann.post(channel, {"text": "two\r\nlines", "post": post}, channel)
        assert answer.status == 200 and answer.url.path == channel and texts(answer.body_text) == ["two\nlines"]


async def test_another_ones_message_id_cannot_be_taken(chat, person):
    """Without this, a person who saw an id in a page could put words under it."""
    ann, eve = await person("ann@example.com"), await person("eve@example.com")
    community, channel = await ann.new_channel()
    await eve.join(community)
    post = uuid.uuid4()
    assert (await ann.say(channel, "mine", post)).status == 204
    gone = uuid.uuid4()
    await ann.say(channel, "deleted", gone)
    await chat["biff/node"].submit([delete(gone)])
    for id in post, gone, id_of(channel), id_of(community):
        assert (await eve.say(channel, "stolen", id)).status == 409
    assert texts((await ann.get(channel)).body_text) == ["mine"]


async def test_what_people_write_is_text_on_the_page(chat, person):
    """Markup in a message or a title would run in everyone's browser, and so would an htmx or hyperscript attribute."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    clean = (await ann.get(channel)).body_text
    hostile = ('<img src=x onerror=alert(1)> </p><b _="on load call alert(1)" hx-get="/x" hx-trigger="load">\'"`{{ 7 '
               '* 7 }}<hx-partial></textarea><script>')
    await ann.say(channel, hostile)
    document = chat["biff/node"].db().entity(id_of(channel))
    await chat["biff/node"].submit([put(document | {"chan/title": hostile})])
    page = (await ann.get(channel)).body_text
    assert html.unescape(texts(page)[0]) == hostile
    assert markup(page) <= markup(clean) | {("article", "class id data-mem hx-ignore"), ("header", ""),
                                            ("i", "class aria-hidden"), ("time", "datetime"),
                                            ("b", "dir"),
                                            ("p", "dir"), ("p", "")}
    assert page.count("<script") == clean.count("<script")


def test_only_web_addresses_become_links_and_a_sentences_marks_do_not():
    """Without this, a link could run something, lead elsewhere than it says, or miss its page because of a full
    stop."""
    for text, wanted in [("see https://a.example/b?c=d&e=f#g.", ["https://a.example/b?c=d&e=f#g"]),
                         ("(http://a.example/b_(c)) and http://d/;", ["http://a.example/b_(c)", "http://d/"]),
                         ("http://a.example/\"onclick=x", ["http://a.example/"]),
                         ("http://a.example/<b>", ["http://a.example/"]),
                         ("xhttps://é.example/ü, http://", ["https://é.example/ü"]),
                         ("http://a.example/\u202egpj.exe", ["http://a.example/"]),
                         ("javascript:alert(1) data:text/html,x ftp://a/ //a.example/ a.example mailto:a@b.c "
                          "JavaScript://a http://. http://?", [])]:
        pieces = biff.addresses_apart(text)
        assert [piece for piece, is_address in pieces if is_address] == wanted, text
        assert "".join(piece for piece, _ in pieces) == text and all(piece for piece, _ in pieces)


async def test_an_address_in_a_message_is_a_link_that_tells_nobody_where_it_was(chat, person):
    """People do not copy addresses by hand. The page behind a link must not learn our channel, nor reach our window."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    await ann.say(channel, "look: https://a.example/?b=1&c='2' <i>")
    assert ('look: <a href="https://a.example/?b=1&amp;c=" target="_blank" rel="nofollow noopener '
            'noreferrer">https://a.example/?b=1&amp;c=</a>&#39;2&#39; &lt;i&gt;</p>'
            in (await ann.get(channel)).body_text)


def markup(page):
    """Each element of a page as (tag, names of its attributes)."""
    found = set()
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.add((tag, " ".join(name for name, _ in attributes)))
    parser.feed(page)
    return found


async def test_channels_stand_in_the_order_of_their_numbers(chat, person):
    """Nobody looks for #10 before #2."""
    ann = await person("ann@example.com")
    community, channel = await ann.new_channel()
    titles = ["Channel #10", "channel #2", "Channel #1", "Änderungen"]
    await chat["biff/node"].submit([delete(id_of(channel))])
    await chat["biff/node"].submit([put({"xt/id": uuid.uuid4(), "chan/title": title, "chan/comm": id_of(community)})
                                    for title in titles])
    page = (await ann.get(community)).body_text.partition('id="channels"')[2].partition("</ul>")[0]
    assert re.findall(r'channel/[\w-]+"[^>]*>([^<]+)</a></li>', page) == ["Channel #1", "channel #2", "Channel #10",
                                                                          "Änderungen"]


async def test_older_messages_come_page_by_page_without_gap_or_repeat(chat, person):
    """A channel of years must open as fast as one of today, and still show every word."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    mem = chat["biff/node"].db().q({"find": "?m", "where": [["?m", "mem/roles", "admin"]]})[0]
    said = [f"message {n}" for n in range(120)]
    await chat["biff/node"].submit([put({"xt/id": uuid.uuid4(), "msg/mem": mem, "msg/text": text,
                                         "msg/channel": id_of(channel),
                                         "msg/created-at": biff.now(chat)}) for text in said])
    for headers in {}, HTMX:
        page, pages = (await ann.get(channel)).body_text, []
        while True:
            pages.append(texts(page))
            if not (older := re.search(r'href="([^"]+\?before=[^"]+)"', page)):
                break
            page = (await ann.get(html.unescape(older.group(1)), headers=headers)).body_text
            assert ("<html" in page) == (not headers)
        assert [len(one) for one in pages] == [50, 50, 20]
        assert [text for one in reversed(pages) for text in one] == said
    assert (await ann.get(f"{channel}?before=nonsense")).url.query_string == ""


async def test_a_deleted_channel_takes_its_messages_with_it(chat, person):
    """Messages without a channel could never be found again, nor be erased."""
    ann = await person("ann@example.com")
    community, channel = await ann.new_channel()
    await ann.say(channel, "one"), await ann.say(channel, "two")
    before = chat["biff/node"].db()
    answer = await ann.post(channel, page=channel, method="DELETE", headers=HTMX)
    assert answer.status == 204 and answer.headers["HX-Redirect"] == community
    everything = {"find": "?m", "in": ["?c"], "where": [["?m", "msg/channel", "?c"]]}
    assert len(before.q(everything, id_of(channel))) == 2 and chat["biff/node"].db().q(everything, id_of(channel)) == []
    answer = await ann.say(channel, "into nothing")
    assert answer.status == 204 and answer.headers["HX-Redirect"] == community


@pytest.mark.parametrize("document", [
    {"db/doc-type": "message", "msg/mem": uuid.uuid4(), "msg/text": "x" * 10_001, "msg/channel": uuid.uuid4(),
     "msg/created-at": biff.NOW},
    {"db/doc-type": "message", "msg/mem": "someone", "msg/text": "hi", "msg/channel": uuid.uuid4(),
     "msg/created-at": biff.NOW},
    {"db/doc-type": "channel", "chan/title": "x"},
    {"db/doc-type": "community", "comm/title": "x", "comm/colour": "red"},
    {"db/doc-type": "membership", "mem/user": uuid.uuid4(), "mem/comm": uuid.uuid4(), "mem/roles": {"owner"}},
])
async def test_documents_are_closed(chat, document):
    """A misspelt attribute would be stored, and missed for ever."""
    before = newest(chat) if chat["biff/node"].latest_tx else 0
    with pytest.raises(biff.SchemaError):
        await biff.submit_tx(chat, [document])
    assert (newest(chat) if chat["biff/node"].latest_tx else 0) == before


async def test_who_is_signed_in_lands_in_the_chat(chat, person):
    """A person who is signed in wants the chat; a visitor finds the promise, the form and the way in."""
    ann, nobody = await person("ann@example.com"), await person()
    assert (await ann.get("/")).url.path == "/app"
    page = (await nobody.get("/")).body_text
    assert 'action="/auth/send-link"' in page and 'href="/signin"' in page and page.count("<h1>") == 1


# ── Bounds ───────────────────────────────────────────────────────────────────────────────────────────────────

async def at_its_limit(chat, fill, act, say, what):
    """Fills up to the limit by `fill`; checks that `act` is then refused with the reason, and that nothing is
    written."""
    for document in fill:
        await chat["biff/node"].submit([put(document)])
    before = newest(chat)
    answer = await act()
    say(f"{what}: limit + 1 refused with {answer.status}, {newest(chat) - before} written; asked 0")
    assert newest(chat) == before and answer.status == 422
    return answer.body_text


async def test_one_person_cannot_fill_the_store_with_communities_or_channels(chat, person, say, monkeypatch):
    """Each community and channel is a line in somebody's page, and a document for ever."""
    monkeypatch.setattr(eelchat, "COMMUNITIES_MAX", 3), monkeypatch.setattr(eelchat, "CHANNELS_MAX", 3)
    ann = await person("ann@example.com")
    community, _ = await ann.new_channel()
    for _ in range(2):
        await ann.post("/community", page="/app")
        await ann.post(f"{community}/channel", page=community)
    assert "founds at most 3 communities" in await at_its_limit(chat, [], lambda: ann.post("/community", page="/app"),
                                                                say, "communities of a person")
    channels = await at_its_limit(chat, [], lambda: ann.post(f"{community}/channel", page=community), say,
                                  "channels of a community")
    assert "at most 3 channels" in channels


async def test_members_of_a_community_and_communities_of_a_member_are_bounded(chat, person, say, monkeypatch):
    """A crowd made by a script would fill the page of everybody in it."""
    monkeypatch.setattr(places, "MEMBERS_MAX", 5), monkeypatch.setattr(places, "MEMBERSHIPS_MAX", 2)
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    community, _ = await ann.new_channel()
    crowd = [{"xt/id": uuid.uuid4(), "mem/user": uuid.uuid4(), "mem/comm": id_of(community), "mem/roles": set()}
             for _ in range(4)]
    door = await bob.invitation(community)
    full = await at_its_limit(chat, crowd, lambda: bob.post(door, page="/app"), say,
                              "members of a community")
    assert "at most 5 members" in full
    assert (await ann.join(community)).url.path.startswith(community)
    await bob.post("/community", page="/app")
    await bob.post("/community", page="/app")
    await chat["biff/node"].submit([delete(crowd[0]["xt/id"])])
    assert "at most 2 communities" in await at_its_limit(chat, [], lambda: bob.post(door, page="/app"),
                                                         say, "communities of a member")


async def test_of_many_who_take_the_last_place_at_once_one_gets_it(chat, person, monkeypatch):
    """A limit is none if many requests can all look at it and then pass it."""
    monkeypatch.setattr(eelchat, "CHANNELS_MAX", 2)
    ann = await person("ann@example.com")
    community, _ = await ann.new_channel()
    answers = await asyncio.gather(*(ann.post(f"{community}/channel", page=community) for _ in range(6)))
    assert sorted(answer.status for answer in answers)[1:] == [422] * 5
    assert len(chat["biff/node"].db().q({"find": "?c", "where": [["?c", "chan/comm"]]})) == 2


async def test_ten_messages_in_ten_seconds_and_no_more(chat, person, say):
    """Without this, a script would talk everyone else out of the channel. The person who is stopped is told why, and
    keeps the text."""
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    community, channel = await ann.new_channel()
    await bob.join(community)
    first, chat["biff/limits"] = uuid.uuid4(), biff.Limits(lambda: 0.0)           # all in one moment
    assert [(await ann.say(channel, "hi", first if n == 0 else None)).status for n in range(10)] == [204] * 10
    before = newest(chat)
    refused = await ann.say(channel, "one too many")
    say(f"the eleventh message in ten seconds: {refused.status}, {newest(chat) - before} written; asked 0")
    assert refused.status == 429 and "10 messages in 10 seconds" in refused.body_text
    again_s = int(refused.headers["Retry-After"])
    assert 1 <= again_s <= 10 and f"Send it again in {again_s} second" in refused.body_text and newest(chat) == before
    assert (await ann.say(channel, "hi", first)).status == 204, "what was stored is stored, however often it is asked"
    assert (await bob.say(channel, "others go on")).status == 204


async def test_a_session_that_writes_faster_than_hands_do_is_slowed(chat, person, monkeypatch):
    """Channels made and deleted in a loop pass every other bound, and the log keeps them all."""
    monkeypatch.setattr(biff.requests, "WRITES_A_PERSON", (6, 60))
    ann = await person("ann@example.com")
    community, _ = await ann.new_channel()
    statuses = [(await ann.post(f"{community}/channel", page=community)).status for _ in range(6)]
    assert statuses == [200] * 5 + [429]


async def test_a_right_that_goes_while_its_request_is_under_way_does_not_count(chat, person, monkeypatch):
    """Without this, a person who was put out could still write what was on its way."""
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    community, channel = await ann.new_channel()
    await bob.join(community)
    mem, = chat["biff/node"].db().q({"find": "?m", "in": ["?c"],
                                     "where": [["?m", "mem/comm", "?c"], ("not", ["?m", "mem/roles", "admin"])]},
                                    id_of(community))
    submit_tx = biff.submit_tx

    async def put_out_just_before(ctx, tx, **options):
        await chat["biff/node"].submit([delete(mem)])
        return await submit_tx(ctx, tx, **options)
    token = await bob.token(channel)
    monkeypatch.setattr(biff, "submit_tx", put_out_just_before)
    refused = await bob.post(channel, {"text": "a last word", "post": str(uuid.uuid4()), "__anti-forgery-token": token},
                             headers={"HX-Request": "true"})
    assert refused.status == 409 and texts((await ann.get(channel)).body_text) == []


async def test_what_a_large_channel_leaves_is_deleted_bit_by_bit_also_after_a_restart(tmp_path, monkeypatch, say):
    """Without this, nine messages or ninety thousand would be one act, and everybody would wait for its end."""
    monkeypatch.setattr(eelchat, "SWEPT_AT_ONCE", 10)
    system = await a_chat(tmp_path, kept_mails(monkeypatch))
    ann = Person(system)
    await ann.sign_in("ann@example.com")
    community, channel = await ann.new_channel()
    mem, id = biff.lookup_id(system["biff/node"].db(), "mem/roles", "admin"), uuid.UUID(channel.rpartition("/")[2])
    for n in range(35):
        await system["biff/node"].submit([put({"xt/id": system["biff/node"].new_id(), "msg/mem": mem,
                                               "msg/text": f"{n}",
                                               "msg/channel": id, "msg/created-at": biff.now(system)})])
    before = system["biff/node"].latest_tx.tx_id
    monkeypatch.setattr(eelchat, "SWEEP_PAUSE_S", 600)
    await ann.post(channel, page=channel, method="DELETE")
    await ann.browser.close()
    await asyncio.wait_for(biff.stop_system(system), 60)
    monkeypatch.setattr(eelchat, "SWEEP_PAUSE_S", 0)
    system = await a_chat(tmp_path, kept_mails(monkeypatch))
    left = {"find": "?m", "in": ["?channel"], "where": [["?m", "msg/channel", "?channel"]]}
    async with asyncio.timeout(60):
        while system["biff/node"].db().q(left, id) or system["biff/node"].db().entity(eelchat.sweep_mark(id)):
            await asyncio.sleep(0.02)
    deletions = [sum(op[0] == "delete" for op in tx.ops) for tx in system["biff/node"].tx_log(after=before)]
    say(f"35 messages deleted by {[count for count in deletions if count]} at a time, asked at most 10 and the mark")
    assert sum(deletions) == 37 and max(deletions) <= 11 and system["biff/node"].db().entity(id) is None
    await biff.stop_system(system)


async def test_a_page_of_long_messages_has_fewer_and_the_older_ones_follow(chat, person, say):      # noqa: F811
    """Without this, a page of the longest messages would be 2.5 MB of markup, made for each reader."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    mem, id = biff.lookup_id(chat["biff/node"].db(), "mem/roles", "admin"), id_of(channel)
    for n in range(25):
        await chat["biff/node"].submit([put({"xt/id": chat["biff/node"].new_id(), "msg/mem": mem, "msg/channel": id,
                                             "msg/text": f"{n:02}" + '"' * 9_998, "msg/created-at": biff.now(chat)})])
    page = await ann.get(channel)
    pages = [page.body_text]
    while older := re.search(r"before=([0-9a-f-]{36})", pages[-1]):
        pages.append((await ann.get(f"{channel}?before={older[1]}", headers={"HX-Request": "true"})).body_text)
    shown = [[text[:2] for text in texts(page)] for page in pages]
    say(f"25 messages of 10,000 quotation marks: pages of {[len(one) for one in shown]} messages, the first of "
        f"{len(page.body_text) / 1000:.0f} kB; asked at most 100,000 characters of text")
    assert [one for page in reversed(shown) for one in page] == [f"{n:02}" for n in range(25)]
    assert [len(one) for one in shown] == [10, 10, 5]
