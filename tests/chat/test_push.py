"""Push: who is told of a message, when, by what, and who is not."""
import asyncio
import base64
import datetime as dt
import json
import secrets
import uuid

import http_ece
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

import biff
from hosts import host      # noqa: F401
from people import chat, person      # noqa: F401
from plugins import push
from store import put

HTMX = {"HX-Request": "true"}


class Browser:
    """A browser at a push service of this test: it decrypts what arrives for it."""

    def __init__(self, host, name):
        self.host, self.path = host, f"/push/{name}"
        self.key, self.auth, self.heard = ec.generate_private_key(push.CURVE), secrets.token_bytes(16), asyncio.Queue()
        self.status = 201
        host.pages[self.path] = self.receive

    def receive(self, request):
        async def body():
            self.heard.put_nowait((request.headers, await request.read()))
        request.task.get_loop().create_task(body())
        return web.Response(status=self.status)

    def subscription(self):
        return {"endpoint": self.host.url + self.path, "p256dh": push.b64(push.public_bytes(self.key)),
                "auth": push.b64(self.auth)}

    async def next(self):
        async with asyncio.timeout(60):
            headers, body = await self.heard.get()
        return headers, json.loads(http_ece.decrypt(body, private_key=self.key, auth_secret=self.auth,
                                                    version="aes128gcm"))


@pytest.fixture
async def three(chat, person, host):      # noqa: F811
    """Ann, Bob and Eve in a channel; Bob and Eve have a browser each that wants to be told."""
    chat["door"] = host.door
    people = [await person(f"{name}@example.com") for name in ("ann", "bob", "eve")]
    community, channel = await people[0].new_channel()
    for one, name in zip(people, ("Ann", "Bob", "Eve")):
        await one.post("/name", {"name": name}, "/name")
        if name != "Ann":
            await one.join(community)
            one.phone = Browser(host, name)
            assert (await one.post("/push", one.phone.subscription(), "/name", HTMX)).status == 204
    return (*people, channel)


async def quiet_but_for(people, channel, text):
    """Says it, then something that all browsers hear; asserts that nothing else came before that."""
    ann, *others = people
    await ann.say(channel, text)
    await ann.say(channel, "@Bob @Eve that was all")
    for one in others:
        assert (await one.phone.next())[1]["body"] == "@Bob @Eve that was all"


async def test_a_mention_reaches_the_one_it_calls_and_nobody_else(chat, three):
    """Without this, people would have to keep the page open to be reached."""
    ann, bob, eve, channel = three
    await ann.say(channel, "@Bob the tide is in")
    headers, told = await bob.phone.next()
    assert told["title"] == "Ann in #general" and told["body"] == "@Bob the tide is in"
    assert told["path"].startswith(channel) and uuid.UUID(told["tag"])
    assert headers["Content-Encoding"] == "aes128gcm" and headers["TTL"] == "86400" and len(headers["Topic"]) == 32
    await quiet_but_for((ann, bob, eve), channel, "nothing for anybody")


async def test_a_push_is_signed_for_its_service_as_the_standard_says(chat, three, host):      # noqa: F811
    """Push services turn away what is not signed, or is signed for another one."""
    ann, bob, eve, channel = three
    await ann.say(channel, "@Bob hello")
    headers, _ = await bob.phone.next()
    scheme, token, key = headers["Authorization"].replace(",", "").split(" ")
    signed, _, signature = token.removeprefix("t=").rpartition(".")
    raw = push.un_b64(signature)
    number = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    public = ec.EllipticCurvePublicKey.from_encoded_point(push.CURVE, push.un_b64(key.removeprefix("k=")))
    public.verify(number, signed.encode(), ec.ECDSA(hashes.SHA256()))
    claims = json.loads(base64.urlsafe_b64decode(signed.split(".")[1] + "=="))
    assert scheme == "vapid" and claims["aud"] == host.url and len(raw) == 64
    assert 0 < claims["exp"] - dt.datetime.now().timestamp() <= 24 * 3600


async def test_each_channel_tells_all_mentions_or_none(chat, three):
    """One loud channel would make people switch everything off."""
    ann, bob, eve, channel = three
    assert (await bob.post(f"{channel}/alert", {"level": "all"}, channel, HTMX)).status == 204
    assert (await eve.post(f"{channel}/alert", {"level": "none"}, channel, HTMX)).status == 204
    assert (await eve.post(f"{channel}/alert", {"level": "loud"}, channel, HTMX)).status == 422
    for text in "for everybody", "@Eve are you there?":
        await ann.say(channel, text)
        assert (await bob.phone.next())[1]["body"] == text
    await eve.post(f"{channel}/alert", {"level": "mentions"}, channel, HTMX)
    await ann.say(channel, "@Eve now?")
    assert (await eve.phone.next())[1]["body"] == "@Eve now?"


async def test_quiet_hours_and_a_page_in_sight_keep_the_phone_still(chat, three):
    """A phone that rings at night, or beside the open page, is switched off for good."""
    ann, bob, eve, channel = three
    now = dt.datetime.now(dt.timezone.utc)
    hours = {"from": (now - dt.timedelta(hours=1)).strftime("%H:%M"), "zone": "UTC",
             "to": (now + dt.timedelta(hours=1)).strftime("%H:%M")}
    assert (await bob.post("/quiet", hours, "/name", HTMX)).status == 204
    assert (await bob.post("/quiet", hours | {"from": "25:00"}, "/name", HTMX)).status == 422
    socket = await eve.listen(channel)
    async with asyncio.timeout(60):
        while len(chat["chat_presence"].here.mine) != 1:
            await asyncio.sleep(0.01)
    await ann.say(channel, "@Bob @Eve not now")
    async with asyncio.timeout(60):
        while chat["chat_posted"]:                     # until it was decided whom to tell
            await asyncio.sleep(0.01)
    await bob.post("/quiet", {"from": "", "to": ""}, "/name", HTMX)
    await socket.close()
    chat["chat_presence"].here.mine.clear()
    await quiet_but_for((ann, bob, eve), channel, "nothing")


@pytest.mark.parametrize("hours, quiet", [(("22:00", "07:00"), {"23:00", "03:00"}), (("12:00", "13:30"), {"12:15"})])
def test_quiet_hours_may_go_over_midnight_and_are_the_persons_own(hours, quiet):
    """Hours of the server's zone would ring at night on the other side of the world."""
    class Db:
        def entity(self, id):
            return {"quiet/from": hours[0], "quiet/to": hours[1], "quiet/zone": "Asia/Tokyo"}
    found = set()
    for clock in "23:00", "03:00", "12:15", "14:00", "20:00":
        at = dt.datetime.fromisoformat(f"2026-06-01T{clock}:00+09:00").astimezone(dt.timezone.utc)
        found |= {clock} if push.is_quiet(Db(), "ann", at) else set()
    assert found == quiet


async def test_one_server_tells_of_a_message_and_only_who_may_read_it(chat, three):
    """Each server of a log hears each message: without this, a phone would ring once for each."""
    ann, bob, eve, channel = three
    node = chat["biff/node"]
    mem = biff.lookup(node.db(), "user/name", "Bob")
    community = uuid.UUID(channel.split("/")[2])
    mems = {one["mem/user"]: one["xt/id"] for one in biff.lookup_all(node.db(), "mem/comm", community)}
    elsewhere = {"xt/id": uuid.uuid4(), "msg/mem": mems[biff.lookup(node.db(), "user/name", "Ann")["xt/id"]],
                 "msg/channel": uuid.UUID(channel.rpartition("/")[2]), "msg/text": "posted by another server",
                 "msg/created-at": biff.now(chat), "msg/mentions": [mems[mem["xt/id"]]]}
    await node.submit([put(elsewhere)])
    await quiet_but_for((ann, bob, eve), channel, "nothing")
    await eve.post(f"{channel.partition('/channel')[0]}/leave", page=channel)
    await eve.post(f"{channel}/alert", {"level": "all"}, "/name", HTMX)
    await ann.say(channel, "@Bob without Eve")
    await bob.phone.next()
    assert eve.phone.heard.empty()


async def test_a_gone_browser_is_forgotten_and_a_busy_service_asked_again(chat, three, monkeypatch):
    """Without this, we would write for ever to phones that nobody has any more."""
    ann, bob, eve, channel = three
    bob.phone.status, eve.phone.status = 410, 503
    await ann.say(channel, "@Bob @Eve hello")
    await bob.phone.next(), await eve.phone.next()
    eve.phone.status = 201
    assert (await eve.phone.next())[1]["body"] == "@Bob @Eve hello"
    async with asyncio.timeout(60):
        while len(biff.lookup_all(chat["biff/node"].db(), "push/endpoint", host_of(bob))) == 1:
            await asyncio.sleep(0.01)


def host_of(one):
    return one.phone.host.url + one.phone.path


async def test_nobody_makes_us_ask_inside_our_network(chat, person, host, monkeypatch):      # noqa: F811
    """An address of a push service is a visitor's word: it may be a printer beside us."""
    ann = await person("ann@example.com")
    refused = await ann.post("/push", Browser(host, "x").subscription(), "/name", HTMX)
    assert refused.status == 422 and "cannot be used from here" in refused.body_text
    chat["door"] = host.door
    for odd in ({"p256dh": "AAAA"}, {"auth": "AA"}, {"endpoint": ""}, {"p256dh": "é"},
                {"endpoint": f"{host.url}/{'x' * 2_000}"}):
        assert (await ann.post("/push", Browser(host, "x").subscription() | odd, "/name", HTMX)).status == 422
    monkeypatch.setattr(push, "BROWSERS_MAX", 2)
    assert [(await ann.post("/push", Browser(host, str(n)).subscription(), "/name", HTMX)).status
            for n in range(3)] == [204, 204, 422]
    assert (await ann.post("/push/off", {"endpoint": f"{host.url}/push/1"}, "/name", HTMX)).status == 204
    assert (await ann.post("/push", Browser(host, "3").subscription(), "/name", HTMX)).status == 204
