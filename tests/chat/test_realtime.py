"""Sockets: what the log says reaches every browser of a channel, once, in order, whoever wrote it."""
import ast
import asyncio
import datetime as dt
import pathlib
import re
import time
import uuid

import aiohttp
import pytest

import biff
import eelchat
from biff import sockets
from people import chat, person, texts     # noqa: F401
from store import delete, evict, put


def a_message(chat, channel, text):
    mem = chat["biff/node"].db().q({"find": "?m", "where": [["?m", "mem/roles", "admin"]]})[0]
    return {"xt/id": uuid.uuid4(), "msg/mem": mem, "msg/text": text,
            "msg/channel": uuid.UUID(channel.rpartition("/")[2]),
            "msg/created-at": dt.datetime.now(dt.timezone.utc)}


async def hear(socket, count=1):
    """The next frames of a place. What is told to one person's pages alone has no number, and comes between."""
    frames = []
    while len(frames) < count:
        frame = await socket.receive_str(timeout=60)
        frames += [frame] * ('id="cursor"' in frame or 'id="connection"' in frame)
    return frames


async def closed_with(socket):
    """The frames until the close, and its code."""
    frames = []
    async with asyncio.timeout(60):
        while (message := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
            frames.append(message.data)
    return frames, message.data


async def test_a_transaction_by_no_handler_reaches_every_socket_of_its_channel_and_no_other(chat, person):
    """The listener drives the chat, not the handlers."""
    ann = await person("ann@example.com")
    _, one = await ann.new_channel()
    _, other = await ann.new_channel()
    first, second, apart = await ann.listen(one), await ann.listen(one), await ann.listen(other)
    await chat["biff/node"].submit([put(a_message(chat, one, "from a shell"))])
    for socket in first, second:
        assert texts((await hear(socket))[0]) == ["from a shell"]
    await chat["biff/node"].submit([put(a_message(chat, other, "elsewhere"))])
    assert texts((await hear(apart))[0]) == ["elsewhere"]


async def test_between_page_and_socket_nothing_is_missed_and_nothing_comes_twice(chat, person):
    """Without this, a message written while a page is on its way would be lost, or shown again."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    await ann.say(channel, "on the page")
    page = (await ann.get(channel)).body_text
    cursor = re.search(r'id="cursor" value="(\d+)"', page).group(1)
    assert texts(page) == ["on the page"]
    await ann.say(channel, "meanwhile")
    socket = await ann.listen(channel, cursor)
    await ann.say(channel, "live")
    heard = await hear(socket, 2)
    assert [texts(frame) for frame in heard] == [["meanwhile"], ["live"]]
    assert [int(re.search(r'id="cursor" value="(\d+)"', frame).group(1))
            for frame in heard] == sorted({*map(int, re.findall(r'id="cursor" value="(\d+)"', "".join(heard)))})


async def test_far_behind_the_list_is_replaced_as_a_whole(chat, person):
    """A browser that slept for a week must not replay the week."""
    chat["chat_lately"].count_max = 5
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    cursor = chat["biff/node"].latest_tx.tx_id
    for n in range(8):
        await chat["biff/node"].submit([put(a_message(chat, channel, f"message {n}"))])
    frame, = await hear(await ann.listen(channel, cursor))
    assert 'id="messages" hx-swap-oob="innerHTML"' in frame and texts(frame) == [f"message {n}" for n in range(8)]


@pytest.mark.parametrize("after", [10 ** 9, 0])
async def test_a_page_from_another_past_hears_of_its_person_again(chat, person, after):      # noqa: F811
    """After a backup was restored, pages know more of the log than there is: names and lists would stay as they are."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    socket = await ann.listen(channel, after)
    assert 'id="my-name"' in await told(socket, "my-name")
    client, = chat["chat_clients"].sockets()
    assert client.after == chat["biff/node"].latest_tx.tx_id
    await chat["biff/node"].submit([put(chat["biff/node"].db().entity(client.person) | {"user/name": "Ann"})])
    assert "Ann" in await told(socket, "my-name")
    await socket.close()


async def told(socket, part):
    """The next text that has this part of a page."""
    while part not in (text := (await socket.receive(60)).data):
        pass
    return text


async def test_an_older_state_does_not_replace_one_told_on_connecting(chat, person):      # noqa: F811
    """The listener may be behind: the page would show the name before the last one, after the last one."""
    ann, told_later = await person("ann@example.com"), []
    _, channel = await ann.new_channel()
    node, after = chat["biff/node"], chat["biff/node"].latest_tx.tx_id
    user = next(iter(node.db().q({"find": "?u", "where": [["?u", "user/email"]]})))
    for name in "First", "Second":
        await node.submit([put(node.db().entity(user) | {"user/name": name})])
    socket = await ann.listen(channel, after)
    assert "Second" in await told(socket, "my-name")
    for tx in node.tx_log(after=after):
        chat["chat_clients"].tell = lambda person, make: told_later.extend(
            filter(None, map(make, chat["chat_clients"].sockets())))
        eelchat.on_new_message(biff.assoc_db(chat), tx)
    assert told_later == []
    await node.submit([put(node.db().entity(user) | {"user/name": "Third"})])
    while not told_later:
        await asyncio.sleep(0.01)
    assert b"Third" in told_later[0]
    await socket.close()


async def test_an_edit_changes_the_message_and_a_deletion_removes_it(chat, person):
    """A correction that only reload shows is worse than none."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    socket = await ann.listen(channel)
    message = a_message(chat, channel, "tpyo")
    await chat["biff/node"].submit([put(message)])
    await chat["biff/node"].submit([put(message | {"msg/text": "typo"})])
    await chat["biff/node"].submit([delete(message["xt/id"])])
    new, edited, deleted = await hear(socket, 3)
    assert texts(new) == ["tpyo"] and "beforeend" in new
    assert texts(edited) == ["typo"] and "outerMorph" in edited
    assert f'id="message-{message["xt/id"]}" hx-swap-oob="delete"' in deleted


async def test_only_what_a_transaction_leaves_behind_is_shown(chat, person):
    """Without this, a message written twice in one transaction would stand there twice, and a message put and
    deleted would stay."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    socket = await ann.listen(channel)
    twice, never = a_message(chat, channel, "first"), a_message(chat, channel, "never")
    await chat["biff/node"].submit([put(twice), put(never), put(twice | {"msg/text": "second"}),
                                    delete(never["xt/id"])])
    assert texts((await hear(socket))[0]) == ["second"]


async def test_a_message_that_moves_or_comes_back_takes_its_old_place(chat, person):
    """Without this, it would stand at the end of the list, and elsewhere after a reload."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    _, other = await ann.new_channel()
    first, last = a_message(chat, channel, "first"), a_message(chat, channel, "last")
    await chat["biff/node"].submit([put(first), put(last), put(a_message(chat, other, "there"))])
    here, there = await ann.listen(channel), await ann.listen(other)
    await chat["biff/node"].submit([delete(first["xt/id"])])
    await chat["biff/node"].submit([put(first)])
    await chat["biff/node"].submit([put(first | {"msg/channel": last["msg/channel"], "msg/text": "edited"})])
    assert [texts(frame) for frame in await hear(here, 3)] == [[], ["first", "last"], ["edited"]]
    await chat["biff/node"].submit([put(first | {"msg/channel": uuid.UUID(other.rpartition("/")[2])})])
    assert f'id="message-{first["xt/id"]}" hx-swap-oob="delete"' in (await hear(here))[0]
    assert texts((await hear(there))[0]) == ["first", "there"] == texts((await ann.get(other)).body_text)


async def test_an_evicted_message_leaves_every_page(chat, person):
    """What must be forgotten would otherwise stay on screens, live and after a reconnect."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    message = a_message(chat, channel, "forget me")
    await chat["biff/node"].submit([put(message)])
    socket, cursor = await ann.listen(channel), chat["biff/node"].latest_tx.tx_id
    await chat["biff/node"].submit([evict(message["xt/id"])])
    for frame in await hear(socket) + await hear(await ann.listen(channel, cursor)):
        assert 'id="messages" hx-swap-oob="innerHTML"' in frame and str(message["xt/id"]) not in frame


async def test_a_large_channel_goes_without_holding_up_the_others(chat, person, say):
    """Without this, thousands of messages deleted at once would delay the pages of other channels."""
    ann = await person("ann@example.com")
    _, large = await ann.new_channel()
    _, other = await ann.new_channel()
    messages = [a_message(chat, large, f"message {n}") for n in range(5_000)]
    await chat["biff/node"].submit([put(message) for message in messages])
    closing, staying = await ann.listen(large), await ann.listen(other)
    begun = time.monotonic()
    answer = await ann.post(large, page=large, method="DELETE")
    assert answer.status == 200 and answer.url.path == large.rpartition("/channel")[0]
    frames, code = await closed_with(closing)
    say(f"a channel of 5,000 messages deleted, its pages told, in {time.monotonic() - begun:.2f} s")
    assert code == 1008 and len(frames) == 1 and "This channel was deleted." in frames[0]
    await ann.say(other, "still here")
    assert texts((await hear(staying))[0]) == ["still here"]
    left = {"find": "?m", "in": ["?channel"], "where": [["?m", "msg/channel", "?channel"]]}
    async with asyncio.timeout(60):
        while chat["biff/node"].db().q(left, uuid.UUID(large.rpartition("/")[2])):
            await asyncio.sleep(0.1)
    assert chat["biff/node"].db().q({"find": "?m", "where": [["?m", "msg/text"]]}) != []
    assert not any(chat["biff/node"].db().entity(message["xt/id"]) for message in messages)


async def test_a_quiet_channel_hears_how_far_the_log_is(chat, person, monkeypatch):
    """A short cut after hours of quiet would otherwise count as far behind, and throw away what was read so far."""
    monkeypatch.setattr(eelchat, "CURSOR_TRANSACTIONS", 5)
    ann = await person("ann@example.com")
    _, quiet = await ann.new_channel()
    _, busy = await ann.new_channel()
    socket = await ann.listen(quiet)
    for n in range(6):
        await chat["biff/node"].submit([put(a_message(chat, busy, f"{n}"))])
    frame, = await hear(socket)
    assert texts(frame) == [] and int(re.search(r'id="cursor" value="(\d+)"', frame).group(1)) % 5 == 0


async def test_what_one_transaction_says_comes_in_one_frame_in_its_order(chat, person):
    """A command must never arrive without its answer."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    socket = await ann.listen(channel)
    await chat["biff/node"].submit([put(a_message(chat, channel, "question")), put(a_message(chat, channel, "answer"))])
    assert texts((await hear(socket))[0]) == ["question", "answer"]


async def test_a_pass_waits_for_what_is_on_its_way_but_not_for_long(chat, person, monkeypatch):
    """Without this, eight posts at once would cost eight system calls a socket. A post that never arrives must delay
    nobody."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    socket, rooms = await ann.listen(channel), chat["chat_clients"]
    key, passes = uuid.UUID(channel.rpartition("/")[2]), []
    rooms._delivered = lambda seconds: passes.append(rooms.frames)
    monkeypatch.setattr(sockets, "PATIENCE_S", 60)
    with rooms.expecting(key):
        for n in range(8):
            with rooms.expecting(key):
                await chat["biff/node"].submit([put(a_message(chat, channel, f"{n}"))])
        async with asyncio.timeout(60):
            while len(rooms._rooms[key].due) < 8:      # until the listener has heard of all
                await asyncio.sleep(0.01)
    assert [texts(frame) for frame in await hear(socket, 8)] == [[f"{n}"] for n in range(8)]
    monkeypatch.setattr(sockets, "PATIENCE_S", 0.02)
    with rooms.expecting(key):
        await chat["biff/node"].submit([put(a_message(chat, channel, "held up"))])
        assert texts((await hear(socket))[0]) == ["held up"]
    assert passes[:8] == [8] * 8, "eight frames in one pass"


@pytest.mark.parametrize("loss", ["membership", "session", "channel"])
async def test_who_loses_access_is_told_why_and_closed_for_good(chat, person, loss):
    """Without this, such a person would read on, or their browser would try to connect for ever."""
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    community, channel = await ann.new_channel()
    await bob.join(community)
    socket = await bob.listen(channel)
    user = chat["biff/node"].db().q({"find": "?u", "where": [["?u", "user/email", "bob@example.com"]]})[0]
    attribute = {"membership": "mem/user", "session": "session/user"}.get(loss)
    gone = uuid.UUID(channel.rpartition("/")[2]) if loss == "channel" else \
        chat["biff/node"].db().q({"find": "?e", "in": ["?u"], "where": [["?e", attribute, "?u"]]}, user)[0]
    await chat["biff/node"].submit([evict(gone) if loss == "session" else delete(gone)])
    await chat["biff/node"].submit([put(a_message(chat, channel, "not for Bob"))])
    frames, code = await closed_with(socket)
    assert code == 1008 and "not for Bob" not in "".join(frames)
    assert {"membership": "no longer a member", "session": "signed out", "channel": "deleted"}[loss] in "".join(frames)
    assert not any(gone in client.grounds for client in chat["chat_clients"].sockets())


async def test_who_may_not_connect_is_told_and_closed_with_1008(chat, person):
    """A refused handshake is retried for ever by the browser."""
    ann, eve = await person("ann@example.com"), await person("eve@example.com")
    _, channel = await ann.new_channel()
    frames, code = await closed_with(await eve.listen(channel, 0))
    assert code == 1008 and "not open to you" in frames[0]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example", "HTTP://LOCALHOST",
                                    None])
async def test_only_our_own_pages_may_open_a_socket(chat, person, origin):
    """Any page on the internet could otherwise listen with the cookies of its visitor."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await ann.browser.ws_connect(f"{ann.base}{channel}/connect?after=0",
                                     headers={} if origin is None else {"Origin": origin})
    assert refused.value.status == 403


async def test_a_repeated_post_is_one_message(chat, person):
    """A retry after a lost answer must not say it twice."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    socket, post = await ann.listen(channel), uuid.uuid4()
    answers = await asyncio.gather(*(ann.say(channel, "once", post) for _ in range(5)))
    assert {answer.status for answer in answers} == {204}
    await ann.say(channel, "after")
    assert [texts(frame) for frame in await hear(socket, 2)] == [["once"], ["after"]]
    assert texts((await ann.get(channel)).body_text) == ["once", "after"]


async def test_an_emptied_channel_is_forgotten(chat, person):
    """A server that runs for months must not remember every channel that was ever open."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    socket = await ann.listen(channel)
    assert len(chat["chat_clients"]) == 1
    await socket.close()
    async with asyncio.timeout(60):
        while len(chat["chat_clients"]):
            await asyncio.sleep(0.01)


async def test_one_that_does_not_read_is_dropped_and_the_others_hear_everything(chat, person, monkeypatch):
    """One dead browser must not stop a channel, nor eat the memory."""
    monkeypatch.setattr(sockets, "WAITING_BYTES_MAX", 20_000)
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    slow, quick = await ann.listen(channel), await ann.listen(channel)
    slow_client = next(client for client in chat["chat_clients"].sockets()
                       if client.transport.get_extra_info("peername")
                       == slow._response.connection.transport.get_extra_info("sockname"))
    slow._response.connection.transport.pause_reading()
    heard, count = [], 0
    while not slow_client.transport.is_closing() and count < 3000:
        await chat["biff/node"].submit([put(a_message(chat, channel, f"{count} " + "x" * 9_000))])
        heard += texts((await hear(quick))[0])
        count += 1
    assert slow_client.transport.is_closing() and len(heard) == count
    assert [int(text.split()[0]) for text in heard] == list(range(count))


@pytest.mark.parametrize("wrong", [{"msg/text": 7}, {"msg/created-at": "now"}, {"msg/channel": ["several", "values"]},
                                   {"msg/channel": {"a": 1}}],
                         ids=["text", "time", "channels", "channel"])
async def test_a_message_put_past_the_schema_takes_nothing_with_it(chat, person, wrong):
    """One slip of an operator's hand would silence a channel, and its page would be an error for everybody."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    socket = await ann.listen(channel)
    await chat["biff/node"].submit([put(a_message(chat, channel, "odd") | wrong),
                                    put(a_message(chat, channel, "even"))])
    assert "even" in texts((await hear(socket))[0])
    page = await ann.get(channel)
    assert page.status == 200 and "even" in texts(page.body_text)


def test_only_the_listener_tells_rooms_anything():
    """A handler that sends for itself would be deaf to other servers and to replays."""
    functions = {node.name: ast.unparse(node) for node in ast.parse(pathlib.Path(eelchat.__file__).read_text()).body
                 if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    assert {name for name, text in functions.items() if "rooms.send(" in text} == {"on_new_message"}
    assert {name for name, text in functions.items() if "client.write(" in text} == {"catch_up"}
    assert not any("transport" in text for text in functions.values())
