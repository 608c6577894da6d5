"""Digests: what one has not read, by mail, once a period at most, and ended by one click."""
import asyncio
import datetime as dt
import email
import email.policy
import re
import uuid

import pytest
from aiosmtpd.controller import Controller

import biff
from conftest import free_port
from people import chat, person      # noqa: F401
from plugins import digest
from plugins.places import mem_in
from store import put


class Mailbox:
    def __init__(self):
        self.mails = []

    async def handle_DATA(self, server, session, envelope):
        self.mails.append((envelope.rcpt_tos, email.message_from_bytes(envelope.content, policy=email.policy.default)))
        return "250 OK"


@pytest.fixture
async def town(chat, person):      # noqa: F811
    """Ann wants a digest every day, Bob writes; mails go through a real mail server."""
    mailbox, port = Mailbox(), free_port()
    controller = Controller(mailbox, hostname="127.0.0.1", port=port)
    controller.start()
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    community, channel = await ann.new_channel()
    await bob.join(community)
    await ann.post("/name", {"name": "Ann"})
    await ann.post("/digest", {"every": "day"}, "/name")
    chat["biff/config"] |= {"mail_host": "127.0.0.1", "mail_port": port, "mail_from": "eel@example.org"}
    yield chat, ann, bob, channel, mailbox.mails
    controller.stop()


def digests(chat):      # noqa: F811
    return biff.q(chat["biff/node"].db(), {"find": ("pull", "?d", ["*"]), "where": [["?d", "digest/at"]]})


async def a_day_later(chat):      # noqa: F811
    for one in digests(chat):
        await chat["biff/node"].submit([put(one | {"digest/at": biff.now(chat) - dt.timedelta(days=1, minutes=1)})])
    await digest.send_due(biff.assoc_db(chat))


def parts_of(mail):
    return [mail.get_body([kind]).get_content() for kind in ("plain", "html")]


async def test_a_digest_has_what_is_unread_and_comes_once_a_period(town):
    """Whoever looks in once a week would miss who asked for them; or would be mailed at every look."""
    chat, ann, bob, channel, mails = town
    await bob.say(channel, "hello @Ann, see <b>this</b>")
    await bob.say(channel, "and that")
    await a_day_later(chat)
    (to, mail), = mails
    text, html = parts_of(mail)
    assert to == ["ann@example.com"] and "mentions you in general: hello @Ann, see <b>this</b>" in text
    assert "see &lt;b&gt;this&lt;/b&gt;" in html and "general: 2 new messages" in text and "/at/" in text
    await digest.send_due(biff.assoc_db(chat))
    await a_day_later(chat)
    assert len(mails) == 1, "within the period, and in one without anything new"
    await bob.say(channel, "a third")
    await a_day_later(chat)
    text = parts_of(mails[1][1])[0]
    assert re.search(r"general: 1 new message\s", text) and "@Ann" not in text


async def test_servers_that_look_at_once_send_one_mail(town):
    """With three servers everybody would get three mails a day."""
    chat, ann, bob, channel, mails = town
    await bob.say(channel, "hello")
    one, = digests(chat)
    await chat["biff/node"].submit([put(one | {"digest/at": biff.now(chat) - dt.timedelta(days=3)})])
    seen = biff.assoc_db(chat)                         # each server has read the same before one of them writes
    await asyncio.gather(*(digest.send(dict(seen), one["xt/id"]) for _ in range(3)))
    assert len(mails) == 1


async def test_a_digest_holds_only_what_its_reader_may_read_now(town):
    """A mail would tell somebody who has left, or was removed, what is said without them."""
    chat, ann, bob, channel, mails = town
    node = chat["biff/node"]
    comm = uuid.UUID(channel.split("/")[2])
    users = {name: biff.lookup_id(node.db(), "user/email", f"{name}@example.com") for name in ("ann", "bob")}
    mems = {name: mem_in(node.db(), user, comm)["xt/id"] for name, user in users.items()}
    private = {"xt/id": node.new_id(), "chan/title": "secret", "chan/comm": comm, "chan/mems": set(mems.values())}
    direct = {**private, "xt/id": node.new_id(), "chan/title": "", "chan/set": "of both"}
    await node.submit([put(private), put(direct)])
    here = channel.rpartition("/")[0]
    await bob.say(f"{here}/{private['xt/id']}", "in secret, @Ann"), await bob.say(f"{here}/{direct['xt/id']}", "psst")
    await node.submit([put(private | {"chan/mems": {mems["bob"]}})])
    await a_day_later(chat)
    text, _ = parts_of(mails[0][1])
    assert "psst" in text and "secret" not in text
    await bob.say(f"{here}/{direct['xt/id']}", "psst again")
    await ann.post(f"{channel.partition('/channel')[0]}/leave", page=channel)
    former = {"xt/id": mems["ann"], "former/user": users["ann"], "former/comm": comm,
              "former/left-at": biff.now(chat)}
    await node.submit([put(former)])
    await a_day_later(chat)
    assert len(mails) == 1


async def test_one_click_in_a_mail_program_ends_the_digests_without_a_session(town, person):      # noqa: F811
    """A mail that cannot be ended by one click is taken for junk, and so is the sign-in mail next to it."""
    chat, ann, bob, channel, mails = town
    await bob.say(channel, "hello")
    await a_day_later(chat)
    _, mail = mails[0]
    link = re.fullmatch(r"<(http\S+)>", mail["List-Unsubscribe"])[1]
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click" and link in parts_of(mail)[0]
    stranger, path = await person(), link.removeprefix(ann.base)
    page = await stranger.get(path)
    assert page.status == 200 and "<button>End the digests</button>" in page.body_text and len(digests(chat)) == 1
    for forged in path[:-1] + ("0" if path[-1] != "0" else "1"), path[:-64] + "é" * 64, "/digest/end/x":
        async with stranger.browser.post(ann.base + forged) as answer:
            assert answer.status == 404 and len(digests(chat)) == 1
    async with stranger.browser.post(link, data={"List-Unsubscribe": "One-Click"},
                                     headers={"Origin": "https://mail.example"}) as answer:
        assert answer.status == 200 and "no more digests" in await answer.text()
    assert digests(chat) == []
    await bob.say(channel, "hello again")
    await a_day_later(chat)
    assert len(mails) == 1


async def test_nobody_gets_a_digest_unasked_and_nonsense_is_refused(town):
    """Mail that nobody asked for is the quickest way onto a list of senders of junk."""
    chat, ann, bob, channel, mails = town
    assert [one["digest/every"] for one in digests(chat)] == ["day"]
    assert (await bob.post("/digest", {"every": "hour"}, "/name")).status == 422
    await ann.post("/digest", {"every": "week"}, "/name")
    assert [one["digest/every"] for one in digests(chat)] == ["week"]
    assert '<option value="week" selected>' in (await ann.get("/name")).body_text
    await ann.post("/digest", {"every": ""}, "/name")
    assert digests(chat) == []
