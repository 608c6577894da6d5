"""Commands and feeds in the chat: who may use them, what is answered, what is posted, once and in order, and what
happens on failure."""
import asyncio
import datetime as dt
import email.utils
import html
import json
import random
import re
import uuid
from types import SimpleNamespace

import pytest
from aiohttp import web

import biff
import eelchat
from biff.door import Door
from plugins import feed_reader, feeds, places
from hosts import fixed, host, rss      # noqa: F401
from people import HELP, chat, person, texts     # noqa: F401
from store import delete, put
from test_chat import markup
from test_escaping import payloads     # noqa: F401


@pytest.fixture
async def ann(chat, host, person, monkeypatch):      # noqa: F811
    """An admin with a channel, `ann.channel`, in a chat whose door leads to `host`. `ann.later(hours)` moves the
    clock and fetches the feeds that are due."""
    chat["door"] = host.door
    monkeypatch.setattr(feed_reader, "read", read_here)
    one = await person("ann@example.com")
    one.community, one.channel = await one.new_channel()
    one.feed, one.hours = f"{host.url}/feed", 0

    async def fetched():
        """Returns when every new subscription has been heard of, and every job is done."""
        async with asyncio.timeout(60):
            while any("sub/seen" not in sub and not claimed(sub["sub/url"]) for sub in documents(chat, "sub/url")):
                await asyncio.sleep(0.005)
            await chat["biff/queues"]["fetch-rss"].join()

    def claimed(url):
        feed = biff.lookup(chat["biff/node"].db(), "feed/url", url)
        return feed and feed["feed/due-at"] > biff.now(chat)

    async def later(hours=1):
        one.hours += hours
        chat["biff/clock"] = lambda: dt.datetime.now(dt.timezone.utc) + dt.timedelta(hours=one.hours)
        await feeds.fetch_rss(biff.assoc_db(chat))
        await fetched()

    async def command(text, channel=None):
        answer = await one.say(channel or one.channel, text)
        assert answer.status == 204, answer.body_text
        await fetched()
        return await said(channel)

    async def said(channel=None):
        return [html.unescape(text) for text in texts((await one.get(channel or one.channel)).body_text)]
    one.later, one.command, one.said, one.fetched = later, command, said, fetched
    return one


async def read_here(*arguments):
    """Reads feeds in this process; `test_feeds.py` tries the process of its own."""
    return feed_reader.entries_of(*arguments)


def id_of(path):
    return uuid.UUID(path.rpartition("/")[2])


def documents(chat, attribute):      # noqa: F811
    return chat["biff/node"].db().q({"find": ("pull", "?e", ["*"]), "where": [["?e", attribute]]})


def newest(chat):      # noqa: F811
    return list(chat["biff/node"].tx_log(after=chat["biff/node"].latest_tx.tx_id - 1))[-1]


# ── Commands ─────────────────────────────────────────────────────────────────────────────────────────────────

async def test_each_command_is_answered_in_its_own_transaction_right_after_the_message(chat, host, ann):  # noqa: F811
    """A command without its answer, or an answer among other people's words, would be a riddle."""
    host.pages["/feed"] = rss("a")
    assert await ann.command(f"/subscribe {ann.feed}") == [f"/subscribe {ann.feed}", f"Subscribed to {ann.feed}",
                                                           "Entry a"]
    assert (await ann.command("/list"))[-2:] == ["/list", f"Subscriptions:\n - {ann.feed}"]
    assert (await ann.command(f"/unsubscribe {ann.feed} and thank you"))[-1] == f"Unsubscribed from {ann.feed}"
    assert (await ann.command("/list"))[-2:] == ["/list", "Subscriptions: none"]
    assert (await ann.command("/help"))[-1] == HELP and "/subscribe" in HELP
    put_texts = [op[1].get("msg/text") for op in newest(chat).ops if op[0] == "put"]
    assert put_texts == ["/help", HELP] and documents(chat, "sub/url") == []
    answers = [one for one in documents(chat, "msg/text") if one["msg/mem"] == "system"]
    assert len(answers) == 6


@pytest.mark.parametrize("text", [" x /list", "please /subscribe http://127.0.0.1/", "//list", "/ help", "/",
                                  "/etc/hosts is a file", "/2 of them", "/list, I think"])
async def test_what_only_mentions_a_command_is_a_message(ann, text):
    """People write about commands, and nothing must happen then."""
    assert await ann.command(text) == [text.strip()]


@pytest.mark.parametrize("text, usage", [
    ("/subscribe", "/subscribe URL"), ("/Subscribe http://127.0.0.1/", "/subscribe URL"), ("/list now", "/list"),
    ("/subscribe  http://127.0.0.1/", "/subscribe URL"), ("/subscribe\thttp://127.0.0.1/", "/subscribe URL"),
    ("/unsubscribe\nhttp://127.0.0.1/", "/unsubscribe URL"), ("/LIST", "/list"),
    ("/lists", "There is no command /lists."), ("/subscribed http://127.0.0.1/", "There is no command /subscribed."),
])
async def test_a_mistaken_command_is_told_to_its_author_and_not_posted(chat, ann, text, usage):
    """The whole channel read what one person mistyped, and nobody told that person what was wrong."""
    before = newest(chat)
    answer = await ann.say(ann.channel, text)
    assert answer.status == 422 and usage in answer.body_text and "othing was posted" in answer.body_text
    assert newest(chat) == before and await ann.said() == []


async def test_unsubscribing_from_what_is_not_subscribed_says_so(ann):
    """An address with one wrong letter was answered as if it were done."""
    assert (
        await ann.command("/unsubscribe http://a.example/"))[
            -1] == "This channel is not subscribed to http://a.example/"


async def test_only_admins_change_subscriptions_and_others_are_told(chat, host, ann, person):      # noqa: F811
    """Without this, any member could fill a channel. A member who may not subscribe must not wait in vain."""
    bob = await person("bob@example.com")
    await bob.join(ann.community)
    for text in (f"/subscribe {ann.feed}", f"/unsubscribe {ann.feed}"):
        assert (await bob.say(ann.channel, text)).status == 204
        assert (await ann.said())[-2:] == [text, "Only an admin of this community may do that."]
    await bob.say(ann.channel, "/list")
    assert (await ann.said())[-1] == "Subscriptions: none" and documents(chat, "sub/url") == [] and host.asked == []


@pytest.mark.parametrize("url, sentence", [
    ("http://127.0.0.1/", "There is no public address of that name."),
    ("http://[::1]/feed", "There is no public address of that name."),
    ("http://inside.example/", "There is no public address of that name."),
    ("http://169.254.169.254/latest/meta-data/", "There is no public address of that name."),
    ("http://2130706433/", "There is no public address of that name."),
    ("http://nowhere.invalid/", "There is no public address of that name."),
    ("http://8.8.8.8:22/", "Only the usual ports, 80 and 443, are asked."),
    ("nonsense", "That is not an address that begins with http:// or https:// and names a host."),
    ("ftp://8.8.8.8/", "That is not an address that begins with http:// or https:// and names a host."),
    ("http://8.8.8.8/" + "x" * 450, "The address of a feed has at most 450 characters; this one has 465."),
])
async def test_a_command_that_cannot_be_done_stays_a_message_and_is_told_why(chat, ann, url, sentence):  # noqa: F811
    """The author would not know whether it was heard; and the reason must not be a map of our network."""
    chat["door"] = Door(resolver=fixed(inside_example=["10.1.2.3"])) if "inside" in url else Door()
    assert await ann.command(f"/subscribe {url}") == [f"/subscribe {url}", sentence]
    assert documents(chat, "sub/url") == documents(chat, "feed/url") == []


async def test_the_chat_as_it_runs_has_the_door_to_the_public_internet_and_no_setting_for_another(chat, person,
                                                                                                  host):  # noqa: F811
    """The other doors of these tests would be a way in, if a line of a file or of the environment could open one."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    for url in host.url, "http://127.0.0.1/", "http://localhost:80/":
        assert (await ann.say(channel, f"/subscribe {url}")).status == 204
    answers = [text for text in texts((await ann.get(channel)).body_text) if not text.startswith("/")]
    assert answers == ["Only the usual ports, 80 and 443, are asked.",
                       *["There is no public address of that name."] * 2]
    assert host.asked == []
    assert not [name for name in biff.SETTINGS if re.search("door|feed|allow|private|address", name)]


async def test_subscribing_twice_is_subscribing_once_even_at_once(chat, host, ann, person):      # noqa: F811
    """Each entry would come twice; and of two who did it at once one would lose the message."""
    host.pages["/feed"] = rss("a")
    command = f"/subscribe {ann.feed}"
    answers = await asyncio.gather(*(ann.say(ann.channel, command) for _ in range(4)))
    await ann.fetched()
    said = await ann.said()
    assert [one.status for one in answers] == [204] * 4
    assert len(documents(chat, "sub/url")) == len(documents(chat, "feed/url")) == 1
    assert said.count(command) == said.count(f"Subscribed to {ann.feed}") == 4 and said.count("Entry a") == 1
    pairs = [text for text in said if text != "Entry a"]
    assert pairs == [command, f"Subscribed to {ann.feed}"] * 4, "each answer stands right after its command"


async def test_a_command_that_loses_a_race_is_done_again(chat, host, ann, monkeypatch):      # noqa: F811
    """Its message would be lost without a word, because somebody else subscribed in the same moment."""
    host.pages["/feed"] = rss("a")
    submit, rivals = chat["biff/node"].submit, [put({"xt/id": uuid.uuid4(), "sub/url": ann.feed,
                                                     "sub/chan": id_of(ann.channel)})]

    async def overtaken(operations):
        if rivals:
            await submit([rivals.pop()])
        return await submit(operations)
    monkeypatch.setattr(chat["biff/node"], "submit", overtaken)
    assert sorted(await ann.command(f"/subscribe {ann.feed}")) == sorted([f"/subscribe {ann.feed}",
                                                                          f"Subscribed to {ann.feed}", "Entry a"])
    assert len(documents(chat, "sub/url")) == 1


async def test_a_command_that_is_posted_twice_is_done_once(chat, host, ann):      # noqa: F811
    """A browser that tries again after a lost answer would subscribe anew after an /unsubscribe."""
    post = uuid.uuid4()
    for _ in range(2):
        assert (await ann.say(ann.channel, "/list", post)).status == 204
    assert await ann.said() == ["/list", "Subscriptions: none"]


async def test_subscriptions_of_a_channel_and_of_an_hour_are_bounded(chat, host, ann, monkeypatch):      # noqa: F811
    """One person could make us a crowd at somebody's door, and /list would not fit."""
    monkeypatch.setattr(feeds, "SUBSCRIPTIONS_MAX", 2)
    monkeypatch.setattr(eelchat, "POSTS_A_PERSON", (100, 1))
    host.pages |= {f"/{n}": rss("a") for n in range(4)}
    await asyncio.gather(*(ann.say(ann.channel, f"/subscribe {host.url}/{n}") for n in range(4)))
    await ann.fetched()
    said = await ann.said()
    assert len(documents(chat, "sub/url")) == 2 and sum("at most 2 subscriptions" in text for text in said) == 2
    assert said.count("Entry a") == 2
    chat["biff/limits"] = biff.Limits()
    monkeypatch.setattr(feeds, "SUBSCRIBES_A_PERSON", (1, 3_600))
    await ann.command(f"/unsubscribe {documents(chat, 'sub/url')[0]['sub/url']}")
    await ann.command(f"/subscribe {host.url}/0")
    assert (await ann.command(f"/subscribe {host.url}/0"))[-1] == "One person subscribes at most 1 times an hour."
    assert len(HELP) < 10_000 and feeds.SUBSCRIPTIONS_MAX * (feeds.FEED_URL_CHARS_MAX + 4) < eelchat.MESSAGE_CHARS_MAX


async def test_the_longest_command_is_answered_too(ann):      # noqa: F811
    """The answer repeats the address: it would be longer than a message may be, and nothing at all would be stored."""
    text = "/unsubscribe http://x.example/".ljust(eelchat.MESSAGE_CHARS_MAX, "x")
    assert (await ann.command(text))[1].startswith("This channel is not subscribed to http://x.example/xxx")


async def test_a_full_list_fits_into_a_message():
    """/list would fail in the very channel that needs it."""
    assert 20 * (feeds.FEED_URL_CHARS_MAX + len("\n - ")) + len("Subscriptions:") <= eelchat.MESSAGE_CHARS_MAX
    assert feeds.SUBSCRIPTIONS_MAX == 20


async def test_a_deleted_channel_takes_its_subscriptions_with_it(chat, host, ann):      # noqa: F811
    """The feed would go on writing messages into nowhere."""
    host.pages["/feed"] = rss("a")
    await ann.command(f"/subscribe {ann.feed}")
    await ann.post(ann.channel, page=ann.channel, method="DELETE")
    assert documents(chat, "sub/url") == documents(chat, "msg/text") == []
    assert {op[0] for op in newest(chat).ops} <= {"match", "delete"}
    host.pages["/feed"] = rss("a", "b")
    await ann.later()
    await ann.later()
    assert documents(chat, "msg/text") == documents(chat, "feed/url") == [] and len(host.asked) == 1


# ── Feeds ────────────────────────────────────────────────────────────────────────────────────────────────────

async def test_a_new_subscription_posts_the_newest_entry_and_later_all_new_ones_oldest_first(ann, host):  # noqa: F811
    """A channel would be flooded with a feed's whole past, or miss what came between two looks."""
    host.pages["/feed"] = rss("a", "b", "c")
    said = await ann.command(f"/subscribe {ann.feed}")
    assert said[2:] == ["Entry c"]
    host.pages["/feed"] = rss("b", "c", "d", "e", "f")
    await ann.later()
    assert (await ann.said())[2:] == ["Entry c", "Entry d", "Entry e", "Entry f"]
    await ann.later()
    assert len(await ann.said()) == 6 and len(host.asked) == 3


async def test_no_entry_is_posted_twice_or_skipped_whatever_the_feed_does(chat, host, ann, seed, size,
                                                                          say):  # noqa: F811
    """Feeds are sorted anew, edited, cut short and lengthened; a bot that repeats itself is thrown out."""
    chance, entries, shown = random.Random(seed), ["0"], ["0"]
    host.pages["/feed"] = lambda request: rss(*[(id, f"E{id} v{chance.randrange(9)}") for id in shown])
    await ann.command(f"/subscribe {ann.feed}")
    for turn in range(size(30, 1_000)):
        count = 25 if turn < 2 else chance.choice([0, 0, 1, 3, 7, 25])
        fresh = [str(n) for n in range(len(entries), len(entries) + count)]
        entries += fresh
        newest_first = chance.choice([list, reversed, lambda all: chance.sample(all, len(all))])
        shown = list(newest_first(entries[-max(len(fresh), chance.choice([1, 30, 500])):]))
        await ann.later()
    for _ in range(30):
        await ann.later()
    posted = [re.match(r"E(\d+) ", one["msg/text"]).group(1)
              for one in documents(chat, "msg/text") if one["msg/text"].startswith("E")]
    say(f"{len(entries)} entries over {len(host.asked)} fetches, sorted anew, edited, cut: "
        f"{len(posted) - len(set(posted))} twice, {len(set(entries) - set(posted))} skipped; asked 0 and 0")
    assert sorted(posted, key=int) == entries and len(entries) > 50


@pytest.mark.parametrize("is_grown_before", [True, False])
async def test_a_feed_that_shrinks_and_grows_again_repeats_nothing(chat, host, ann, is_grown_before):  # noqa: F811
    """Without this, a feed that once showed all its entries came again, in hundreds of posts."""
    entries = [str(n) for n in range(250)]
    host.pages["/feed"] = rss(*entries[-1 if not is_grown_before else 0:])
    await ann.command(f"/subscribe {ann.feed}")
    sub, = documents(chat, "sub/url")
    # all of it is known, none of it is new: that it has so many is worth remembering all the same
    if not is_grown_before:
        seen = tuple(entry.id for entry in feed_reader.entries_of(rss(*entries), ann.feed))
        await chat["biff/node"].submit([put(sub | {"sub/seen": seen, "sub/most": 130})])
        host.pages["/feed"] = rss(*entries)
        await ann.later()
    for n in range(250, 310, 10):
        entries += [str(n) for n in range(n, n + 10)]
        host.pages["/feed"] = rss(*entries[-10:])
        await ann.later()
    host.pages["/feed"] = rss(*entries)
    for _ in range(3):
        await ann.later()
    posted = [one["msg/text"] for one in documents(chat, "msg/text") if one["msg/text"].startswith("Entry")]
    assert sorted(posted) == sorted(f"Entry {n}" for n in range(249, 310))


async def test_at_most_ten_entries_a_run_and_the_rest_in_the_next_even_if_the_feed_has_dropped_them(chat, host,
                                                                                                    ann):  # noqa: F811
    """Thirty posts at once bury a conversation. The entries that wait must survive a feed that moves on, and a "not
    modified"."""
    now = {"entries": ["0"], "tag": "0"}

    def page(request):
        if request.headers.get("If-None-Match") == now["tag"]:
            return web.Response(status=304)
        return web.Response(body=rss(*now["entries"]), headers={"ETag": now["tag"]})
    host.pages["/feed"] = page
    await ann.command(f"/subscribe {ann.feed}")
    now |= {"entries": [str(n) for n in range(24)], "tag": "1"}
    for wanted, shown in (10, ["24"]), (20, ["25"]), (25, ["25"]), (25, []):
        await ann.later()
        assert (await ann.said())[3:] == [f"Entry {n}" for n in range(1, wanted + 1)]
        now |= {"entries": shown, "tag": "".join(shown)}
    assert "sub/waiting" not in documents(chat, "sub/url")[0]
    assert [one.headers.get("If-None-Match") for one in host.asked] == [None, "0", "1", "24", "25"]


async def test_more_than_can_wait_is_asked_for_again(chat, host, ann, monkeypatch):      # noqa: F811
    """Without this, entries over the bound would be lost, since an unchanged feed says nothing any more."""
    monkeypatch.setattr(feeds, "WAITING_MAX", 15)
    host.pages["/feed"] = lambda request: web.Response(
        status=304) if "If-None-Match" in request.headers else web.Response(body=rss(*entries), headers={"ETag": "1"})
    entries = ["0"]
    await ann.command(f"/subscribe {ann.feed}")
    await chat["biff/node"].submit([put({key: value for key, value in documents(chat, "feed/url")[0].items()
                                         if key != "feed/known"})])
    entries = [str(n) for n in range(41)]
    for _ in range(4):
        await ann.later()
    assert (await ann.said())[3:] == [f"Entry {n}" for n in range(1, 41)]


async def test_what_a_feed_says_is_never_an_instruction(chat, host, ann, monkeypatch):      # noqa: F811
    """Documents with instructions are built from what strangers write: an entry named like one must stay an entry."""
    monkeypatch.setattr(feeds, "POSTS_MAX", 1)
    names = sorted(biff.IN_ANY_OP | biff.IN_MERGE | biff.INSTRUCTIONS)
    host.pages["/feed"] = rss(("0", "first"))
    await ann.command(f"/subscribe {ann.feed}")
    host.pages["/feed"] = rss(("0", "first"), *((str(n), name) for n, name in enumerate(names, 1)))
    for _ in names:
        await ann.later()
    assert (await ann.said())[3:] == names


async def test_one_fetch_serves_all_channels_each_with_what_it_has_not_seen(chat, host, ann):      # noqa: F811
    """Without this, a feed of a hundred channels would be asked a hundred times, and a later channel would get
    another one's past."""
    second, third = [(await ann.post(f"{ann.community}/channel", page=ann.community)).url.path for _ in range(2)]
    host.pages["/feed"] = lambda request: web.Response(body=rss(*entries), headers={"ETag": str(len(entries))}) \
        if request.headers.get("If-None-Match") != str(len(entries)) else web.Response(status=304)
    entries = ["a", "b"]
    assert (await ann.command(f"/subscribe {ann.feed}"))[2:] == ["Entry b"]
    entries = ["a", "b", "c"]
    assert (await ann.command(f"/subscribe {ann.feed}", second))[2:] == ["Entry c"]
    assert (await ann.said())[2:] == ["Entry b", "Entry c"]
    entries = ["a", "b", "c", "d"]
    await ann.later()
    assert (await ann.said())[2:] == ["Entry b", "Entry c", "Entry d"]
    assert (await ann.said(second))[2:] == ["Entry c", "Entry d"]
    assert (await ann.command(f"/subscribe {ann.feed}",
                              third))[2:] == ["Entry d"], "one that comes while nothing is new gets the newest"
    assert len(host.asked) == 4 and len(documents(chat, "feed/url")) == 1


async def test_a_job_that_is_queued_many_times_is_done_once(chat, host, ann):      # noqa: F811
    """Several servers, and one that is slow, all find the same feed due."""
    host.pages["/feed"] = rss("a")
    await ann.command(f"/subscribe {ann.feed}")
    host.pages["/feed"] = rss("a", "b")
    chat["biff/clock"] = lambda: dt.datetime.now(dt.timezone.utc) + dt.timedelta(hours=1)
    for _ in range(20):
        await feeds.fetch_rss(biff.assoc_db(chat))
    await ann.fetched()
    assert (await ann.said())[2:] == ["Entry a", "Entry b"] and len(host.asked) == 2


async def test_of_several_servers_on_one_log_one_fetches(chat, join, host, monkeypatch, patient):      # noqa: F811
    """Each server more would ask every feed once more, and post every entry once more."""
    monkeypatch.setattr(feed_reader, "read", read_here)
    functions, now = {"biff/ensure-unique": biff.ensure_unique,
                      "biff/ensure-at-most": biff.ensure_at_most}, dt.datetime.now(dt.timezone.utc)
    servers = [chat | {"biff/node": join(functions), "biff/clock": lambda: now, "door": host.door} for _ in range(3)]
    url, channel = f"{host.url}/feed", uuid.uuid4()
    await servers[0]["biff/node"].submit([put({"xt/id": uuid.uuid4(), "sub/url": url, "sub/chan": channel})])
    for entries in "a", "abc", "abcde":
        host.pages["/feed"] = rss(*entries)
        for one in servers:
            await asyncio.to_thread(one["biff/node"].await_tx,
                                    max(two["biff/node"].latest_tx.tx_id
                                        for two in servers if two["biff/node"].latest_tx), 60)
        assert all(feeds.feeds_to_update(biff.assoc_db(one)) == {url} for one in servers), "it is due for all of them"
        await asyncio.gather(*(feeds.fetch_rss_consumer(biff.assoc_db(one) | {"biff/job": url}) for one in servers
                               for _ in range(2)))
        now += dt.timedelta(hours=1)
    newest_of_all = max(one["biff/node"].latest_tx.tx_id for one in servers)
    for one in servers:
        await asyncio.to_thread(one["biff/node"].await_tx, newest_of_all, 60)
        assert sorted(message["msg/text"] for message in documents(one,
                                                                   "msg/text")) == [f"Entry {id}" for id in "abcde"]
    assert len(host.asked) == 3


async def test_a_fetch_that_meets_another_write_to_its_feed_is_not_put_off(chat, host, ann, monkeypatch):  # noqa: F811
    """Do not skip a due feed whose last fetch is still being recorded."""
    host.pages["/feed"] = rss("a")
    await ann.command(f"/subscribe {ann.feed}")
    claim, met = feeds.claim_tx, []

    def claim_and_meet(ctx, url):
        if not met:
            feed, = documents(chat, "feed/url")
            met.append(chat["biff/node"].submit_tx([put(feed | {"feed/failures": 1})]))
        return claim(ctx, url)
    monkeypatch.setattr(feeds, "claim_tx", claim_and_meet)
    host.pages["/feed"] = rss("a", "b")
    await ann.later(1)
    assert met and (await ann.said())[-1] == "Entry b"


async def test_of_two_fetches_at_once_each_entry_is_posted_once(chat, host, ann):      # noqa: F811
    """The transaction decides what is new: a job carries an old copy of the world."""
    host.pages["/feed"] = rss("a")
    await ann.command(f"/subscribe {ann.feed}")
    sub, = documents(chat, "sub/url")
    entries = feed_reader.entries_of(rss("a", *"bcdef"), ann.feed)
    await asyncio.gather(*(biff.submit_tx(chat, lambda ctx: feeds.sub_tx(ctx, sub["xt/id"], entries))
                           for _ in range(4)))
    assert (await ann.said())[2:] == [f"Entry {id}" for id in "abcdef"]


async def test_an_unsubscribed_channel_hears_no_more_even_of_a_fetch_under_way(chat, host, ann):      # noqa: F811
    """The feed would come back after it was sent away."""
    begun, may_end = asyncio.Event(), asyncio.Event()
    host.pages["/feed"] = rss("a")
    await ann.command(f"/subscribe {ann.feed}")
    door_get = chat["door"].get

    async def get(*arguments):
        begun.set()
        await may_end.wait()
        return await door_get(*arguments)
    chat["door"].get = get
    host.pages["/feed"] = rss("a", "b")
    chat["biff/clock"] = lambda: dt.datetime.now(dt.timezone.utc) + dt.timedelta(hours=1)
    await feeds.fetch_rss(biff.assoc_db(chat))
    await asyncio.wait_for(begun.wait(), 60)
    await ann.say(ann.channel, f"/unsubscribe {ann.feed}")
    may_end.set()
    await ann.fetched()
    assert (await ann.said())[-1] == f"Unsubscribed from {ann.feed}" and "Entry b" not in await ann.said()


async def test_a_feed_that_fails_is_asked_less_often_and_the_channel_is_told_twice(chat, host, ann, say):  # noqa: F811
    """Without this, a dead feed would be asked for ever, or fail without a word, or fill the channel with its
    failures."""
    host.pages["/feed"] = 500
    assert (await ann.command(f"/subscribe {ann.feed}"))[2:] == [f"{ann.feed} could not be fetched. It answered with "
                                                                 "status 500."]
    for _ in range(4 * 24 * 7):
        await ann.later(0.25)
    said = await ann.said()
    say(f"a feed that fails for a week: asked {len(host.asked)} times, told {len(said) - 2} times; at full speed it "
        "would be 336")
    assert said[3:] == [f"{ann.feed} could not be fetched 5 times in a row. It answered with status 500."]
    assert 10 <= len(host.asked) <= 14
    host.pages["/feed"] = rss("a", "b")
    await ann.later(30)
    assert (await ann.said())[4:] == ["Entry b"]
    host.pages["/feed"] = rss("a", "b", "c")
    await ann.later(1)
    assert (await ann.said())[4:] == ["Entry b", "Entry c"] and documents(chat, "feed/url")[0]["feed/failures"] == 0


async def test_a_name_that_turns_inward_is_told_as_not_public_and_nothing_else(chat, host, ann):      # noqa: F811
    """A feed's owner could learn by errors what stands on our network."""
    chat["door"] = Door(resolver=fixed(x_example=["93.184.216.34", "192.168.0.1"]))
    assert (await ann.command("/subscribe http://x.example/"))[1:] == ["Subscribed to http://x.example/",
                                                                      "http://x.example/ could not be fetched. There "
                                                                      "is no public address of that name."]


async def test_what_a_feed_says_is_text_on_the_page_and_on_the_socket(host, ann, payloads, monkeypatch,
                                                                      say):  # noqa: F811
    """A feed's owner could run anything in every browser of the channel."""
    monkeypatch.setattr(feeds, "POSTS_MAX", 100)
    monkeypatch.setattr(places, "PAGE_MESSAGES", 200)
    items = [{"id": "0", "title": "plain"}]
    host.pages["/feed"] = lambda request: web.json_response({"version": "https://jsonfeed.org/version/1.1",
                                                             "title": "t", "items": items})
    await ann.command(f"/subscribe {ann.feed}")
    clean, listening = (await ann.get(ann.channel)).body_text, await ann.listen(ann.channel)
    items += [{"id": title, "title": title, "authors": [{"name": author}],
               "content_text" if n % 2 else "content_html": text, "url": f"http://x.example/{link}"}
              for n, (title, author, text, link) in enumerate(zip(*[iter(payloads)] * 4))]
    await ann.later()
    page, frames = (await ann.get(ann.channel)).body_text, ""
    while len(texts(frames)) < len(items) - 1:
        frames += (await listening.receive_str(timeout=60))
    whole = json.dumps({"items": items[1:]}).encode()
    told = [feed_reader.told(entry) for entry in feed_reader.entries_of(whole, ann.feed)]
    for shown in page, frames:
        assert [html.unescape(text) for text in texts(shown)][-len(told):] == told
    ours = {("p", "dir"), ("div", "id hx-swap-oob"), ("input", "type id value hx-swap-oob"), ("ul", "id hx-swap-oob"),
            ("li", "id data-channel data-mem data-said data-tx")}
    strange = (markup(page) | markup(frames)) - markup(clean) - ours
    say(f"{len(payloads)} attacks as a feed's title, author, text and link, on the page and the socket: {len(strange)} "
        "elements or attributes beyond our own; asked 0")
    assert not strange and len(told) == 75 and any("<script" in text for text in told)
    await listening.close()


async def test_a_feed_that_says_when_to_ask_again_is_not_asked_before(chat, host, ann):      # noqa: F811
    """A server that is overloaded would be asked again and again, and would shut us out."""
    host.pages["/feed"] = lambda request: web.Response(status=429, headers={"Retry-After": "14400"})
    await ann.command(f"/subscribe {ann.feed}")
    for _ in range(5):
        await ann.later()
    assert len(host.asked) == 2
    host.pages["/feed"] = lambda request: web.Response(status=503, headers={"Retry-After": "a while"})
    await ann.later(24)
    assert len(host.asked) == 3


async def test_a_feed_that_is_gone_for_good_is_asked_no_more(chat, host, ann):      # noqa: F811
    """A dead feed would be asked for ever, and the channel told of its failures."""
    host.pages["/feed"] = lambda request: web.Response(status=410)
    said = await ann.command(f"/subscribe {ann.feed}")
    assert said[-1] == f"Unsubscribed from {ann.feed} It answered that it is gone for good."
    assert not documents(chat, "sub/url") and not documents(chat, "feed/url")
    await ann.later(48)
    assert len(host.asked) == 1


async def test_a_subscription_follows_a_permanent_redirect_and_no_other(chat, host, ann):      # noqa: F811
    """A feed would be lost on the day when its old address, which only redirects, is given up."""
    host.pages |= {"/feed": rss("a"), "/new": rss("a", "b"), "/other": rss("a", "b", "c")}
    await ann.command(f"/subscribe {ann.feed}")
    host.pages["/feed"] = lambda request: web.Response(status=302, headers={"Location": "/other"})
    await ann.later()
    assert [sub["sub/url"] for sub in documents(chat, "sub/url")] == [ann.feed]
    host.pages["/feed"] = lambda request: web.Response(status=308, headers={"Location": "/new"})
    await ann.later()
    assert [sub["sub/url"] for sub in documents(chat, "sub/url")] == [f"{host.url}/new"]
    await ann.later()
    await ann.later()
    assert [feed["feed/url"] for feed in documents(chat, "feed/url")] == [f"{host.url}/new"]
    assert (await ann.said())[2:] == ["Entry a", "Entry b", "Entry c", f"{ann.feed} has moved to {host.url}/new"]


async def test_a_chain_of_redirects_moves_a_feed_as_far_as_it_is_permanent(chat, host, ann):      # noqa: F811
    """One that is only away for a day would lose its address; one that leads in a circle, its subscriptions."""
    def to(status, place):
        return lambda request: web.Response(status=status, headers={"Location": place})
    host.pages |= {"/feed": rss("a"), "/there": rss("a", "b")}
    await ann.command(f"/subscribe {ann.feed}")
    host.pages |= {"/feed": to(301, "/one"), "/one": to(308, "/two"), "/two": to(307, "/there")}
    await ann.later()
    assert [sub["sub/url"] for sub in documents(chat, "sub/url")] == [f"{host.url}/two"]
    host.pages |= {"/two": to(301, "/one"), "/one": to(308, "/two")}
    for _ in range(5):
        await ann.later(24)
    assert [sub["sub/url"] for sub in documents(chat, "sub/url")] == [f"{host.url}/two"]
    assert "It redirected more than" in (await ann.said())[-1]
    host.pages["/two"] = rss("a", "b", "c")
    await ann.later(48)
    assert (await ann.said())[-1] == "Entry c"


def test_when_to_ask_again_is_a_number_of_seconds_or_a_date():
    """A date that is not understood is a server asked again when it is down, and a word a fault of ours."""
    def said(text):
        return feed_reader.retry_after_s(SimpleNamespace(headers={"Retry-After": text}))
    in_an_hour = dt.datetime.now(dt.timezone.utc) + dt.timedelta(hours=1)
    assert said("120") == said(" 120 ") == 120
    assert abs(said(email.utils.format_datetime(in_an_hour, usegmt=True)) - 3_600) < 60
    for text in "", "soon", "-1", "9" * 30, "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 99 Oct 2015 07:28:00 GMT", "1.5":
        assert said(text) == 0, text


async def test_an_address_in_another_spelling_is_the_same_feed(chat, host, ann):      # noqa: F811
    """A channel would get each entry as often as somebody spelt the address differently."""
    host.pages["/feed"] = rss("a")
    for spelling in ann.feed, ann.feed.replace("http", "HTTP"), f"{ann.feed}#top", ann.feed.replace("/feed", "/%66eed"):
        await ann.command(f"/subscribe {spelling}")
    assert [sub["sub/url"] for sub in documents(chat, "sub/url")] == [ann.feed] and len(host.asked) == 1
    await ann.command(f"/unsubscribe {ann.feed}#top")
    assert not documents(chat, "sub/url")


async def test_a_slow_host_keeps_one_worker_and_no_other_feed_waiting(chat, host, ann, monkeypatch):      # noqa: F811
    """Four feeds of one host that hangs would stop the feeds of everybody else."""
    hanging, fetched = asyncio.Event(), []

    async def fetch(door, url, known, agent):  # as from hosts of other names: all that the test's door reaches is one
        fetched.append(url)
        if "//slow" in url:
            await hanging.wait()
        return feed_reader.Fetched(feed_reader.entries_of(rss("a"), url), {})
    monkeypatch.setattr(feed_reader, "fetch", fetch)
    urls = [f"http://slow.example/{n}" for n in range(9)] + ["http://quick.example/"]
    await chat["biff/node"].submit([put({"xt/id": uuid.uuid4(), "sub/url": url, "sub/chan": id_of(ann.channel)})
                                    for url in urls])
    async with asyncio.timeout(60):
        while not any(text == "Entry a" for text in await ann.said()):
            await asyncio.sleep(0.01)
    assert [url for url in fetched if "slow" in url] == ["http://slow.example/0"] and urls[-1] in fetched
    hanging.set()
    await ann.fetched()
    assert sorted(fetched) == sorted(urls)


async def test_a_subscription_put_by_anyone_is_fetched(chat, host, ann):      # noqa: F811
    """The listener starts the fetch, not the handler: another server's subscription is fetched too."""
    host.pages["/feed"] = rss("a")
    await chat["biff/node"].submit([put({"xt/id": uuid.uuid4(), "sub/url": ann.feed, "sub/chan": id_of(ann.channel)})])
    async with asyncio.timeout(60):
        while not await ann.said():
            await asyncio.sleep(0.02)
    assert await ann.said() == ["Entry a"]


async def test_a_fault_in_one_fetch_harms_no_other_and_no_later_one(chat, host, ann, caplog):      # noqa: F811
    """One odd feed would end the fetching of all."""
    host.pages |= {"/feed": rss("a"), "/other": rss("o")}
    await ann.command(f"/subscribe {ann.feed}")
    await ann.command(f"/subscribe {host.url}/other")
    host.pages |= {"/feed": rss("a", "b"), "/other": rss("o", "p")}
    get = chat["door"].get

    async def broken(url, *rest):
        if url == ann.feed:
            raise ZeroDivisionError
        return await get(url, *rest)
    chat["door"].get = broken
    await ann.later()
    assert (await ann.said())[-1] == "Entry p" and "Entry b" not in await ann.said()
    assert "fetch_rss_consumer failed at a job" in caplog.text
    chat["door"].get = get
    await ann.later()
    assert (await ann.said())[-1] == "Entry b"


async def test_jobs_that_wait_at_a_stop_are_done_after_the_next_start(tmp_path, host, monkeypatch):      # noqa: F811
    """A deploy would lose the answer to a command that was just given."""
    monkeypatch.setattr(feed_reader, "read", read_here)
    system = await biff.start_system(eelchat.COMPONENTS, eelchat.initial_system({"data": str(tmp_path), "port": 0},
                                                                                host.door))
    channel = uuid.uuid4()
    await system["biff/node"].submit([put({"xt/id": channel, "chan/title": "x", "chan/comm": uuid.uuid4()})])
    await system["biff/node"].submit([put({"xt/id": uuid.uuid4(), "sub/url": f"{host.url}/{n}", "sub/chan": channel})
                                      for n in range(6)])
    host.pages |= {f"/{n}": rss(str(n)) for n in range(6)}
    while not system["biff/queues"]["fetch-rss"].qsize() and not host.asked:
        await asyncio.sleep(0.005)                 # until the listener has heard of them
    await biff.stop_system(system)
    again = await biff.start_system(eelchat.COMPONENTS, eelchat.initial_system({"data": str(tmp_path), "port": 0},
                                                                               host.door))
    again["biff/clock"] = lambda: dt.datetime.now(dt.timezone.utc) + dt.timedelta(hours=1)
    await feeds.fetch_rss(biff.assoc_db(again))        # one that was being claimed is due after the usual time
    async with asyncio.timeout(60):
        while len(documents(again, "msg/text")) < 6:
            await asyncio.sleep(0.01)
    posted = [one["msg/text"] for one in documents(again, "msg/text")]
    await biff.stop_system(again)
    assert sorted(posted) == [f"Entry {n}" for n in range(6)]


async def test_a_raw_deletion_of_a_feed_is_mended_at_the_next_look(chat, host, ann):      # noqa: F811
    """An unsubscription and a subscription that cross each other would leave a channel without news for ever."""
    host.pages["/feed"] = rss("a")
    await ann.command(f"/subscribe {ann.feed}")
    await chat["biff/node"].submit([delete(documents(chat, "feed/url")[0]["xt/id"])])
    host.pages["/feed"] = rss("a", "b")
    await ann.later(0)
    assert (await ann.said())[2:] == ["Entry a", "Entry b"] and len(documents(chat, "feed/url")) == 1
