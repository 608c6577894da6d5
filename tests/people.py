"""People for tests without a browser: each has cookies of their own and sends what a browser would."""
import functools
import re
import secrets
import uuid

import aiohttp
import jinja2
import pytest

import biff
import eelchat
from plugins import invitations
from plugins.commands import help_text
from store import delete, put

# Hundreds of tests start a chat of their own: what is the same in all is compiled and compressed once.
def compiled_once(compile):
    known = {}

    def compiled(environment, *source):
        key = environment.autoescape is False, *source             # as where a wall is taken down
        if key not in known:
            known[key] = compile(environment, *source)
        return known[key]
    return compiled


jinja2.Environment.compile = compiled_once(jinja2.Environment.compile)
biff.pages._asset = functools.cache(biff.pages._asset)

HELP = help_text(biff.dicts({"biff/plugins": eelchat.PLUGINS}, "commands"))       # what /help answers


def kept_mails(monkeypatch):
    """The mails that would be sent from now on: (address, text) of each."""
    sent = []

    async def keep(ctx, to, subject, text, html=None):
        sent.append((to, text))
        return True
    monkeypatch.setattr(biff.auth, "send_mail", keep)
    return sent


async def a_chat(data, mails, port=0):
    """The whole system in the test's own loop; `chat["mails"]` has the text of each mail."""
    system = await biff.start_system(eelchat.COMPONENTS, eelchat.initial_system({"data": str(data), "port": port}))
    system["mails"] = mails
    return system


@pytest.fixture
async def chat(tmp_path, monkeypatch):
    monkeypatch.setattr(biff.requests, "READS_A_PERSON", (100_000, 60))          # tests read faster than eyes
    system = await a_chat(tmp_path, kept_mails(monkeypatch))
    yield system
    await biff.stop_system(system)


@pytest.fixture
async def person(chat):
    """`await person("ann@example.com")` is somebody signed in; without an address, a visitor."""
    people = []

    async def make(email=None):
        one = Person(chat)
        people.append(one)
        if email:
            await one.sign_in(email)
        return one
    yield make
    for one in people:
        await one.browser.close()


class Socket(aiohttp.ClientWebSocketResponse):
    """The socket that a person listens by. It passes over the words that only say that the line is alive."""

    async def receive(self, timeout=None):
        while (message := await super().receive(timeout)).data == "{}":
            pass
        return message


class Person:
    def __init__(self, chat):
        self.chat, self.base = chat, chat["biff/base-url"]
        self.browser = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True), ws_response_class=Socket)

    async def get(self, path, **options):
        async with self.browser.get(self.base + path, **options) as answer:
            answer.body_text = await answer.text(errors="replace")
            return answer

    async def token(self, path="/"):
        page = await self.get(path)
        return re.search(r'name="__anti-forgery-token" value="(\w+)"', page.body_text).group(1)

    async def post(self, path, fields=None, page="/signin", headers=None, method="POST", **options):
        """Sends a form as a page of ours would."""
        fields = {"__anti-forgery-token": await self.token(page)} | (fields or {})
        async with self.browser.request(method, self.base + path, data=fields,
                                        headers={"Origin": self.base} | (headers or {}), **options) as answer:
            answer.body_text = await answer.text()
            return answer

    async def sign_in(self, email):
        await self.post("/auth/send-link", {"email": email}, "/")
        answer = await self.post("/auth/verify-link", {"token": self.last_token()})
        assert answer.url.path == "/app", answer.body_text

    def last_token(self):
        return re.search(r"/auth/verify-link/(\S+)", self.chat["mails"][-1][1]).group(1)

    def last_code(self):
        return re.search(r"\b\d{6}\b", self.chat["mails"][-1][1]).group()

    async def new_channel(self):
        """A community of this person's own, and its first channel: their paths."""
        channel = (await self.post("/community", page="/app")).url.path
        return channel.partition("/channel")[0], channel

    async def join(self, community):
        """Comes into a community by an invitation of one of its admins."""
        return await self.post(await self.invitation(community), page="/app")

    async def invitation(self, community):
        """The path of a new invitation."""
        node, comm = self.chat["biff/node"], uuid.UUID(community.rpartition("/")[2])
        admin = biff.lookup_id(node.db(), "mem/comm", comm, "mem/roles", "admin")
        invitation = {"xt/id": uuid.uuid4(), "inv/comm": comm, "inv/mem": admin, "inv/used": 0,
                      "inv/made-at": biff.now(self.chat)}
        await node.submit([put(invitation)])
        return invitations.path_of(self.chat, invitation["xt/id"])

    async def say(self, channel, text, post=None):
        return await self.post(channel, {"text": text, "post": str(post or uuid.uuid4())}, channel,
                               {"HX-Request": "true"})

    async def upload(self, channel, name, body, id=None, **headers):
        """Sends a file as a page of ours would; `answer.id` is the one to post it by."""
        id = str(id or uuid.uuid4())
        headers = {"Origin": self.base, biff.TOKEN_HEADER: await self.token("/signin"), "HX-Request": "true"} | headers
        async with self.browser.post(f"{self.base}{channel}/file/{id}", params={"name": name}, data=body,
                                     headers=headers, allow_redirects=False) as answer:
            answer.body_text, answer.id = await answer.text(), id
            return answer

    async def say_with(self, channel, text, *names, bodies=None, post=None):
        """A message with files, each named so and holding its own name; the ids of the files."""
        ids = [(await self.upload(channel, name, (bodies or {}).get(name, name.encode()))).id for name in names]
        answer = await self.post(channel, {"text": text, "post": str(post or uuid.uuid4()), "files": " ".join(ids)},
                                 channel, {"HX-Request": "true"})
        assert answer.status == 204, answer.body_text
        return ids

    async def listen(self, channel, after=None, here=None):
        """A socket on the channel, from the transaction that its page was rendered from. `here` is what that page
        shows of who is here and types; without it, nothing is told of that at first."""
        if after is None:
            after = re.search(r'id="cursor" value="(\d+)"', (await self.get(channel)).body_text).group(1)
        query = f"after={after}" + (f"&here={here}" if here else "")
        return await self.browser.ws_connect(f"{self.base}{channel}/connect?{query}", headers={"Origin": self.base})


LINK = re.compile(r'<a href="(https?://[^"]*)" target="_blank" rel="nofollow noopener noreferrer">\1</a>')


def texts(html):
    """The texts of the messages in a page or frame, in order; an address that is a link to itself as the address."""
    return [LINK.sub(r"\1", text) for text in re.findall(r'\n<p(?: dir="auto")?>(.*?)</p>\n',
                                                         html, re.DOTALL)]


async def found(page, title="Town"):
    """A community by its dialog, in a browser: the page is in its first channel; the community's address."""
    if not await page.is_visible("#switcher [data-dialog='new-community']"):
        await page.click("#switcher summary")
    await page.click("#switcher [data-dialog='new-community']")
    await page.fill("#new-community-name", title)
    await page.press("#new-community-name", "Enter")
    await page.wait_for_url("**/channel/*")
    return page.url.partition("/channel/")[0]


async def open_channel(page, title):
    """A channel by its dialog, in a browser: the page is in it."""
    here = page.url
    await page.click("nav [data-dialog='new-channel']")
    await page.fill("#new-channel-name", title)
    await page.press("#new-channel-name", "Enter")
    await page.wait_for_function("here => location.href !== here", arg=here)


# Scroll events and observers of sizes come with the next frame, however late that is on a busy machine.
NEXT_FRAME = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done())))"
PICKS_MAX = 100
PICK = """part => new Promise(done => {
    const message = part.closest(".message"), isPicked = () => message.matches(".picked") && !$("actions").hidden;
    message.scrollIntoView({block: "center"});
    part.dispatchEvent(new MouseEvent("click", {bubbles: true}));
    requestAnimationFrame(() => requestAnimationFrame(() => done(isPicked())));      // it has scrolled
})"""


async def pick(page, message):
    """Shows the toolbar of a message, in a browser. `message` is a selector of it, or of a part."""
    for _ in range(PICKS_MAX):                  # a list that goes to its end just then takes the message out of sight
        if await page.eval_on_selector(message, PICK):
            return
    raise AssertionError(f"the toolbar was not shown at {message}")


async def react(page, message):
    """Gives a message the first of the usual reactions, in a browser."""
    await pick(page, message)
    await page.click("[data-act=react]")
    await page.click("#react .reaction >> nth=0")


async def delete_channel(page):
    """The channel that the page is in, by its menu."""
    await page.click(".head .more summary")
    await page.click("text=Delete channel")
    await page.click("text=Delete the channel")


# ── One of each kind, put into the store ─────────────────────────────────────────────────────────────────────

PEOPLE = ["nobody", "outsider", "admin elsewhere", "ex-member", "ex-admin", "member", "admin"]


def with_handlers(handler):
    """The plugins with their own rules, and one handler in the place of each."""
    return [plugin | {"routes": [(method, path, rule, handler) for method, path, rule, _ in plugin.get("routes", ())]}
            for plugin in eelchat.PLUGINS]


class Somebody:
    """A person put into the store with a session and, where there is one, a membership."""

    def __init__(self, system, email):
        self.system, self.cookie, self.base = system, secrets.token_urlsafe(32), system["biff/base-url"]
        self.id, now = uuid.uuid4(), biff.now(system)
        self.documents = [{"xt/id": self.id, "user/email": email, "user/joined-at": now},
                          {"xt/id": biff.session_id(biff.hash_of(self.cookie)),
                           "session/hash": biff.hash_of(self.cookie), "session/user": self.id,
                           "session/agent": "Firefox",
                           "session/created-at": now, "session/used-at": now}]

    async def ask(self, session, method, path):
        headers = {"Cookie": f"{biff.cookie_name(self.system)}={self.cookie}", "Origin": self.base,
                   biff.TOKEN_HEADER: biff.hmac_of(self.system, "anti-forgery", self.cookie)}
        async with session.request(method, self.base + path, headers=headers, allow_redirects=False) as answer:
            return answer.status, await answer.text()


def membership(user, community, roles=frozenset()):
    return {"xt/id": uuid.uuid4(), "mem/user": user, "mem/comm": community, "mem/roles": set(roles)}


def file_of(message, name="a.txt"):
    """A file that this message names from now on; there are no bytes of it."""
    file = {"xt/id": uuid.uuid4(), "file/name": name, "file/type": "application/octet-stream", "file/size": 1,
            "file/sha256": "0" * 64, "file/chan": message["msg/channel"], "file/mem": message["msg/mem"],
            "file/made-at": message["msg/created-at"], "file/msg": message["xt/id"]}
    message["msg/files"] = [*message.get("msg/files", ()), file["xt/id"]]
    return file


async def settle(system):
    """Two communities, a channel in each, and one person of each kind."""
    node, ours, theirs = system["biff/node"], uuid.uuid4(), uuid.uuid4()
    channel, elsewhere = ({"xt/id": uuid.uuid4(), "chan/title": "Channel #1", "chan/comm": comm}
                          for comm in (ours, theirs))
    people = {name: Somebody(system, f"{name.replace(' ', '-')}@example.com") for name in PEOPLE}
    mems = {"admin elsewhere": membership(people["admin elsewhere"].id, theirs, {"admin"}),
            "member": membership(people["member"].id, ours),
            "admin": membership(people["admin"].id, ours, {"admin"}),
            "ex-member": membership(people["ex-member"].id, ours),
            "ex-admin": membership(people["ex-admin"].id, ours, {"admin"})}
    documents = [document for name, one in people.items() for document in (one.documents if name != "nobody" else [])]
    communities = [{"xt/id": id, "comm/title": "Community #1"} for id in (ours, theirs)]
    message = {"xt/id": uuid.uuid4(), "msg/mem": mems["member"]["xt/id"], "msg/channel": channel["xt/id"],
               "msg/text": "of the member", "msg/created-at": biff.now(system)}
    file = file_of(message)
    report = {"xt/id": uuid.uuid4(), "report/comm": ours, "report/channel": channel["xt/id"],
              "report/msg": message["xt/id"], "report/mem": mems["admin"]["xt/id"], "report/tx": 1,
              "report/at": biff.now(system)}
    system["chat_bytes"].path(file["file/sha256"]).write_bytes(b"x")
    await node.submit([put(document) for document in [*communities, channel, elsewhere, *documents, *mems.values(),
                                                      message, file, report]])
    await node.submit([delete(mems["ex-member"]["xt/id"]), delete(mems["ex-admin"]["xt/id"])])
    ids = {"{id}": ours, "{channel_id}": channel["xt/id"], "{message_id}": message["xt/id"], "{token}": "x" * 43,
           "{mem_id}": mems["member"]["xt/id"], "{ban_id}": uuid.uuid4(), "{report_id}": report["xt/id"],
           "{invitation_id}": uuid.uuid4(), "{code}": "x" * 38, "{file_id}": file["xt/id"]}
    return people, ids, theirs


def filled(path, ids):
    for hole, value in ids.items():
        path = path.replace(hole, str(value))
    return path
