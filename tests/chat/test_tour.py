"""The whole site in a real Chromium, over TLS, behind a proxy: no complaint, and no request to elsewhere."""
import asyncio
import contextlib
import io
import re
import ssl
import urllib.parse
import uuid

import aiohttp
import pytest
import trustme
from PIL import Image

import biff
import store
import eelchat
from plugins.files import CLOSED_POLICY
from conftest import ROOT, free_port
from people import delete_channel, filled, found, open_channel, pick, react
from test_browser import invite
from test_wires import still

ROUTES = [(method, path) for plugin in eelchat.PLUGINS for method, path, *_ in plugin.get("routes", ())]


class Proxy:
    """A proxy as in front of a server on the internet: it ends TLS and says whom it speaks for. It knows nothing
    else."""

    def __init__(self, to_port):
        self.to_port, self.port, self.said = to_port, free_port(), 0
        self.authority = trustme.CA()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert("localhost").configure_cert(self.context)

    async def start(self):
        self.server = await asyncio.start_server(self.pass_on, "127.0.0.1", self.port, ssl=self.context)
        return self

    async def pass_on(self, reader, writer):
        upstream, up = await asyncio.open_connection("127.0.0.1", self.to_port)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await asyncio.gather(self.requests(reader, up), self.copy(upstream, writer))
        up.close(), writer.close()

    async def requests(self, reader, up):
        head = await reader.readuntil(b"\r\n\r\n")  # one request a connection is enough to say it of all that follow
        up.write(head[:-2] + b"X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n\r\n")
        await self.copy(reader, up)

    async def copy(self, reader, writer):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()


@pytest.fixture
async def served(tmp_path, monkeypatch, log_url, patient):
    """`(system, proxy)`: the chat under an https base URL, behind a proxy that it was told of. Its log is shared."""
    mails = []

    async def keep(ctx, to, subject, text, html=None):
        mails.append((to, text))
        return True
    monkeypatch.setattr(biff.auth, "send_mail", keep)
    port = free_port()
    proxy = Proxy(port)
    system = await biff.start_system(eelchat.COMPONENTS, eelchat.initial_system(
        {"data": str(tmp_path / "data"), "port": port, "base_url": f"https://localhost:{proxy.port}", "log": log_url,
         "proxies": "127.0.0.1"}))
    system["mails"] = mails
    await proxy.start()
    yield system, proxy
    proxy.server.close()
    await biff.stop_system(system)


@pytest.fixture
async def second(served, tmp_path, log_url):
    """Another server on the same log."""
    system = await biff.start_system(eelchat.COMPONENTS, eelchat.initial_system(
        {"data": str(tmp_path / "second"), "port": 0, "log": log_url}))
    yield system | {"mails": served[0]["mails"]}
    await biff.stop_system(system)


async def test_cookies_over_tls_are_secure_and_bound_to_this_host(served, say):
    """Without this, the one value that all rights rest on would cross the network in the clear, or be planted by a
    neighbour."""
    system, proxy = served
    context = ssl.create_default_context()
    proxy.authority.configure_trust(context)
    base = system["biff/base-url"]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, force_close=True)) as browser:
        async with browser.get(f"{base}/signin") as page:
            line, text, headers = page.headers["Set-Cookie"], await page.text(), page.headers
        parts = [part.strip() for part in line.split(";")]
        assert parts[0].startswith("__Host-eelchat=") and {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= set(parts)
        assert not any(part.startswith("Domain") for part in parts)
        assert headers["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains"
        token = re.search(r'anti-forgery-token" value="(\w+)"', text)[1]
        fields = {biff.TOKEN_FIELD: token, "email": "ann@example.com"}
        for origin, status in ({"Origin": base}, 303), ({"Origin": base.replace("https", "http")},
                                                        403), ({"Origin": "https://localhost"}, 403), ({}, 403):
            async with browser.post(f"{base}/auth/send-link", data=fields, headers=origin,
                                    allow_redirects=False) as answer:
                assert answer.status == status, origin
    clients = {key[1] for key in system["biff/limits"]._times if key[0] == "mail for"}
    say(f"over TLS: {'; '.join(parts[1:])}, name __Host-eelchat; the limits know the client as {clients}")
    assert clients == {"203.0.113.7"}


async def sign_in(page, system, email):
    await page.goto(system["biff/base-url"])
    await page.fill("#email", email)
    await page.click("text=Get a sign-in link")
    await page.wait_for_url("**/link-sent?**")
    await page.goto(re.search(r"http\S+/auth/verify-link/\S+", system["mails"][-1][1])[0])
    await page.click(f"text=Sign in as {email}")
    await page.wait_for_url(re.compile("/app$|/channel/"))      # where one was last, if one was here before


async def test_the_whole_tour_in_a_browser_has_no_complaint_and_asks_nobody_else(served, second, window, say):
    """A policy that breaks a page is switched off. A script from elsewhere is somebody else's program in our pages."""
    system, _ = served
    asked, visited, answers, base = [], set(), {}, system["biff/base-url"]
    refusals = [r"Failed to load resource: the server responded with a status of 4\d\d"]
    ann, bob = [await window(ignore_https_errors=True, allow=refusals) for _ in range(2)]

    def heard(response):
        answers[response.url] = response.headers
        visited.add((response.request.method, urllib.parse.urlsplit(response.url).path))
    for page in ann, bob:
        page.on("request", lambda request: asked.append(request.url))
        page.on("response", heard)
        page.on("websocket", lambda socket: (asked.append(socket.url.replace("wss:", "https:")),
                                             visited.add(("GET", urllib.parse.urlsplit(socket.url).path))))
        page.on("dialog", lambda dialog: dialog.accept())
    await sign_in(ann, system, "ann@example.com")
    await ann.fill("#welcome-name", "Ann")
    await ann.press("#welcome-name", "Enter")
    await ann.wait_for_selector("#my-name:text-is('Ann')")
    await ann.click(".my-name")
    async with ann.expect_response("**/presence"):
        await ann.uncheck("#presence-choice [name=sees]")
    async with ann.expect_response("**/presence"):
        await ann.check("#presence-choice [name=sees]")
    await ann.goto(f"{base}/name")
    await ann.goto(f"{base}/app")
    community = await found(ann)
    await ann.click("#switcher summary")
    await ann.click("#communities a")
    await ann.wait_for_url("**/channel/*")
    await open_channel(ann, "seeds")
    await ann.click(".head .more summary")
    await ann.click("text=Name and topic")
    await ann.fill("#channel-topic", "What grows")
    await ann.press("#channel-topic", "Enter")
    await ann.wait_for_selector("#topic:text-is('What grows')")
    await ann.click(".head .more summary")
    await ann.click(".more-list >> text=Community")
    await ann.fill("#community-name", "City")
    await ann.press("#community-name", "Enter")
    await ann.wait_for_url("**/community/*")
    await ann.click("nav >> text=seeds")
    await ann.wait_for_url("**/channel/*")
    channel = ann.url
    await bob.goto(f"{base}/signin")
    await bob.fill("#email", "bob@example.com")
    await bob.click("text=Mail me a code")
    await bob.wait_for_url("**/verify-code?**")
    await bob.fill("#code", "000000")
    await bob.click("button:text-is('Sign in')")
    await bob.wait_for_selector("text=Invalid code.")
    await bob.fill("#code", re.search(r"\b\d{6}\b", system["mails"][-1][1])[0])
    await bob.click("button:text-is('Sign in')")
    await bob.wait_for_url("**/app")
    await invite(ann, bob)
    await ann.goto(channel)
    await bob.click("nav >> text=seeds")
    for page in ann, bob:
        await page.wait_for_selector("#messages[data-live]", state="attached")
    cookies = {cookie["name"]: cookie for cookie in await ann.context.cookies()}
    assert list(cookies) == ["__Host-eelchat"] and cookies["__Host-eelchat"]["secure"]
    assert cookies["__Host-eelchat"]["httpOnly"]
    await ann.fill("#text", "frist"), await ann.press("#text", "Enter")
    await bob.wait_for_selector(".message:not(.pending) >> text=frist")
    await ann.wait_for_function("() => document.querySelector('.message:not(.pending)')")
    await ann.press("#text", "ArrowUp")
    await ann.wait_for_selector("#edit-text:focus")
    await ann.fill("#edit-text", "first"), await ann.press("#edit-text", "Enter")
    await bob.wait_for_selector(".message >> text=first")
    await ann.hover(".message p"), await ann.click("[data-act=versions]")
    await ann.wait_for_selector("#versions >> text=frist")
    await ann.click("#versions [data-close]")
    await bob.goto(community)
    await ann.fill("#text", "second"), await ann.press("#text", "Enter")
    await bob.wait_for_selector("nav .channels a[data-unread='1']")
    assert (await bob.title()).startswith("(1) ")
    await bob.click("#read-all")
    await bob.wait_for_selector("nav .channels a[data-unread]", state="detached")
    await bob.click("nav >> text=seeds")
    await bob.wait_for_selector("#messages[data-live]")
    await bob.hover(".message >> nth=1"), await bob.click("[data-act=unread]")
    await bob.wait_for_selector(".message.first-new >> text=second")
    await bob.wait_for_selector("nav .channels a[data-unread='1']")
    await bob.click(".mute button")
    await bob.wait_for_selector(".mute button[aria-pressed=true]")
    await bob.wait_for_selector("#messages[data-live]")
    await ann.hover(".message >> nth=1"), await ann.click("[data-act=delete]")
    await ann.click("#delete-message button[value=delete]")
    await bob.wait_for_selector(".message >> text=second", state="detached")
    await ann.hover(".message header"), await ann.click("[data-act=delete]")
    await ann.click("#delete-message button[value=delete]")
    await bob.wait_for_function("() => !document.querySelector('.message')")
    go_on = still(system)
    for n in range(12):
        await ann.fill("#text", f"message {n}")
        await ann.press("#text", "Enter")
    # ten in ten seconds; the rest waits, and says why
    await ann.wait_for_selector("#failure:visible")
    go_on()
    assert "10 messages in 10 seconds" in await ann.text_content("#failure")
    assert await ann.input_value("#text") == ""
    await bob.wait_for_function("() => document.querySelectorAll('.message').length === 12", timeout=60_000)
    await write_well(ann, bob)
    await come_by_another_server(await window(allow=refusals), second, ann, bob, channel)
    await find_and_be_told(ann, channel)
    for path in f"{channel}/news", f"{community}/news", f"{base}/news", f"{channel}/withdraw":
        await ann.goto(path)                                   # what pages ask on a bad line
    await ann.goto(f"{channel}/day?from=2026-01-01")
    await ann.wait_for_selector(".message.sought")
    await ann.hover(".message p"), await ann.click("[data-act=link]")
    await ann.wait_for_selector(".toast")
    await ann.goto(f"{channel}/newer?after={await ann.evaluate('location.hash.slice(9)')}")
    await ann.goto(f"{base}/sessions"), await ann.goto(f"{base}/nowhere"), await ann.goto(f"{base}/community/x")
    eve = await window(ignore_https_errors=True, allow=refusals)
    eve.on("request", lambda request: asked.append(request.url))
    eve.on("response", heard), eve.on("dialog", lambda dialog: dialog.accept())
    await sign_in(eve, system, "ann@example.com")
    await eve.goto(f"{base}/sessions")
    await eve.click("text=Sign out there")
    await eve.wait_for_selector("text=This browser")
    await sign_in(ann, system, "ann@example.com")
    await eve.reload()
    await eve.click("text=Sign out everywhere else")
    await eve.wait_for_selector("text=Sign out everywhere else", state="detached")
    await eve.goto(channel)
    await delete_channel(eve)
    await bob.wait_for_selector("text=This channel was deleted.")
    await eve.wait_for_url(re.compile(r"/community/[\w-]+$"))
    await speak_apart(eve, bob, community)
    await come_and_go(eve, bob, community)
    await eve.goto(f"{base}/sessions")
    by_address = missed_by(visited)
    await ask_for(by_address, eve, system, community)
    await bob.goto(f"{base}/app")
    await bob.click("text=Sign out")
    await bob.wait_for_url(f"{base}/")
    elsewhere = [url for url in asked if not url.startswith((base, "data:"))]
    policies = {headers.get("content-security-policy") for url, headers in answers.items()}
    missed = missed_by(visited)
    say(f"{len(asked)} requests in the tour, {len({url for url in asked})} addresses: {len(elsewhere)} to other hosts; "
        f"{len(policies)} policies; of {len(ROUTES)} routes {len(by_address)} only by their address and "
        f"{len(missed) or 'none'} not at all; 0 complaints of the browser; asked 0, 1, 0")
    assert elsewhere == [] and policies == {biff.CONTENT_SECURITY_POLICY, CLOSED_POLICY} and len(asked) > 60
    assert not missed, sorted(missed)
    assert len(by_address) < len(ROUTES) / 4, f"people do not come there in this tour: {sorted(by_address)}"


def missed_by(visited):
    """The routes, as (method, path), that no request of these (method, path) asked for."""
    shapes = {route: re.sub(r"\{\w+\}", "[^/]+", route[1]) for route in ROUTES}
    return {route for route, shape in shapes.items()
            if not any(method == route[0] and re.fullmatch(shape, path) for method, path in visited)}


async def ask_for(routes, page, system, community):
    """A page is opened by its address, and what a page does not link to is sent as a script of ours sends it."""
    ids = {"{id}": community.rpartition("/")[2]}
    for method, path in sorted(routes):
        address = system["biff/base-url"] + re.sub(r"\{\w+\}", str(uuid.uuid4()), filled(path, ids))
        if method == "GET":
            await page.goto(address)
        else:
            await page.goto(community)
            token = await page.input_value("[name=__anti-forgery-token] >> nth=0")
            await page.evaluate("([method, address, token]) => fetch(address, {method, headers: {'HX-Request': 'true', "
                                "'X-CSRF-Token': token}})", [method, address, token])


async def write_well(ann, bob):
    """Bob answers with an emoji, a mention and a picture; Ann reacts, sees who did, and opens the thread."""
    await bob.type("#text", "hm :tad")
    await bob.wait_for_selector("#text-options .sign")
    await bob.press("#text", "Escape")
    await bob.fill("#text", "so *many*, ")
    await bob.type("#text", "@An")
    await bob.wait_for_selector("#text-options [data-typed='@Ann ']")
    await bob.press("#text", "Tab")
    await bob.click("#preview-button")
    await bob.wait_for_selector("#preview em")
    drawn = io.BytesIO()
    Image.new("RGB", (300, 200), "teal").save(drawn, "PNG")
    await bob.set_input_files("#attached", [{"name": "weir.png", "mimeType": "image/png", "buffer": drawn.getvalue()},
                                            {"name": "a.txt", "mimeType": "text/plain", "buffer": b"a"}])
    await bob.wait_for_function("() => document.querySelectorAll('#attachments .done').length === 2")
    await bob.click("[aria-label='Remove a.txt']")
    await pick(bob, ".message:last-of-type p")
    await bob.click("[data-act=reply]")
    await bob.press("#text", "Enter")
    await ann.wait_for_function("() => document.querySelector('.files img')?.naturalWidth")
    await ann.click(".files a")
    await ann.wait_for_function("() => document.querySelector('#lightbox-picture').naturalWidth")
    await ann.keyboard.press("Escape")
    await ann.wait_for_function("() => !history.state?.lightbox")
    await react(ann, ".message:has(.files) > p")
    await bob.wait_for_selector(".message .reaction")
    await pick(ann, ".message:has(.files) > p")
    await ann.click("[data-act=reactions]")
    await ann.wait_for_selector("#reacted-list >> text=Ann")
    await ann.click("#reacted [data-close]")
    await ann.click(".replies")
    await ann.wait_for_selector(".topic >> text=Thread")


async def come_by_another_server(cleo, second, ann, bob, channel):
    """Cleo is on the second server: she comes by Ann's invitation, sees Bob's picture, and each sees what both do."""
    await sign_in(cleo, second, "cleo@example.com")
    await cleo.fill("#welcome-name", "Cleo")
    await cleo.press("#welcome-name", "Enter")
    await ann.goto(f"{channel.partition('/channel/')[0]}/invitations")
    invitation = await ann.input_value(".invitation input >> nth=0")
    here, there = (urllib.parse.urlsplit(url) for url in (second["biff/base-url"], channel))
    await cleo.goto(urllib.parse.urlsplit(invitation)._replace(scheme=here.scheme, netloc=here.netloc).geturl())
    await cleo.click("text=Join")
    await cleo.wait_for_url("**/channel/*")
    await cleo.goto(there._replace(scheme=here.scheme, netloc=here.netloc).geturl())
    await cleo.wait_for_selector("#messages[data-live]")
    await cleo.wait_for_function("() => document.querySelector('.files img')?.naturalWidth")
    await cleo.fill("#text", "from *afar*"), await cleo.press("#text", "Enter")
    await bob.wait_for_selector(".message em >> text=afar")
    await react(bob, ".message:has(em:text('afar'))")
    await cleo.wait_for_selector(".message:has(em:text('afar')) .reaction")
    await cleo.click(".members-link")
    await cleo.click("text=Leave this community")
    await cleo.click("text=/^Leave$/")
    await cleo.wait_for_url("**/app")


async def find_and_be_told(ann, channel):
    """Ann goes elsewhere by a key, searches, and says when and of what she wants to be told."""
    await ann.keyboard.press("Control+k")
    await ann.wait_for_selector("#go-list [role=option]")
    await ann.keyboard.press("Escape")
    await ann.fill("#search", "many")
    async with ann.expect_navigation():
        await ann.press("#search", "Enter")
    assert await ann.locator(".hit").count(), await ann.inner_text("main")
    await ann.click(".hit")
    await ann.wait_for_selector(".message.sought")
    await ann.goto(channel)
    await ann.click(".head .more summary")
    await ann.click("text=/^Notifications$/")
    await ann.check("#alert [value=all]")
    async with ann.expect_response("**/alert"):
        await ann.click("#alert >> text=Save")
    await ann.click(".my-name")
    await ann.fill("#name-dialog [name=from]", "22:00")
    await ann.fill("#name-dialog [name=to]", "06:00")
    async with ann.expect_response("**/quiet"):
        await ann.click("#name-dialog .hours >> text=Save")


async def speak_apart(ann, bob, community):
    """Ann opens a private channel with Bob in it, who is removed, comes back and leaves, and writes to her alone."""
    await ann.goto(community)
    await ann.click("nav [data-dialog='new-channel']")
    await ann.fill("#new-channel-name", "hush")
    await ann.check("#new-channel [name=private]")
    await ann.press("#new-channel-name", "Enter")
    await ann.wait_for_url(re.compile(r"[?]people$"))
    await bob.goto(community)
    for seats in 2, 1, 2:
        await ann.click("#seats >> text=Remove" if seats == 1 else ".picker .person")
        if seats == 2:
            await ann.click("text=/^Add$/")
        await ann.wait_for_selector(f"#seat-count:text-is('{seats} {'person' if seats == 1 else 'people'}')")
        await bob.wait_for_selector("#private-channels a" if seats == 2 else "#private-channels:not(:has(a))",
                                    state="attached")
    await bob.click("#private-channels a")
    await bob.click(".seats-link")
    await bob.click("text=Leave this channel")
    await bob.click("text=/^Leave$/")
    await bob.wait_for_selector("#private-channels:not(:has(a))", state="attached")
    await bob.click("[aria-label='New message']")
    await bob.click(".picker .person")
    await bob.click("text=Start")
    await bob.wait_for_url("**/channel/*")
    await bob.fill("#text", "for you alone")
    await bob.press("#text", "Enter")
    await ann.click("#directs a[data-unread='1']")
    await ann.wait_for_selector(".message >> text=for you alone")
    await bob.click(".head .more summary")
    await bob.click("text=Hide this conversation")
    await bob.wait_for_selector("#directs:not(:has(a))", state="attached")


async def come_and_go(ann, bob, community):
    """Bob becomes an admin and is one no more, is removed, banned and let in again, and leaves."""
    for what in "Make admin", "No admin any more", "Remove from the community":
        await ann.goto(f"{community}/members")
        await ann.click(".person:not(.mine) .more summary")
        await ann.click(f".person:not(.mine) >> text={what}")
        if "Remove" in what:
            await ann.click("#remove-member >> text=/^Remove$/")
        await ann.wait_for_load_state()
    await invite(ann, bob)
    await ann.goto(f"{community}/members")
    await ann.click(".person:not(.mine) .more summary")
    await ann.click(".person:not(.mine) >> text=/^Ban$/")
    await ann.fill("#ban-reason", "sold eels")
    await ann.click("#ban-member button >> text=/^Ban$/")
    await ann.click("text=Lift")
    await ann.wait_for_selector("text=sold eels", state="detached")
    await invite(ann, bob)
    await bob.click(".members-link")
    await bob.click("text=Leave this community")
    await bob.click("text=/^Leave$/")
    await bob.wait_for_url("**/app")
    await ann.goto(f"{community}/invitations")
    await ann.click("text=Revoke >> nth=0")
    await ann.wait_for_load_state()


async def test_every_script_that_is_served_is_the_one_that_npm_unpacked(served, say):
    """Every script that runs in people's browsers must be the one whose hash the lock file has."""
    system, _ = served
    async with aiohttp.ClientSession() as browser:
        async with browser.get(f"http://127.0.0.1:{system['biff/port']}/signin") as page:
            named = re.findall(r'<(?:script src|link rel="stylesheet" href)="([^"]+)"', await page.text())
        assert len(named) == 10 + len(biff.parts(system, "scripts"))
        assert all(address.startswith("/static/") for address in named)
        for address in named:
            name = re.search(r"/static/([^?]+)", address)[1]
            source = ROOT / "node_modules" / biff.SCRIPTS[name] if name in biff.SCRIPTS else ROOT / "static" / name
            async with browser.get(f"http://127.0.0.1:{system['biff/port']}{address}") as answer:
                assert await answer.read() == source.read_bytes()
    say(f"{len(named)} scripts and sheets, {len(biff.SCRIPTS)} of them from npm: each is byte for byte the file that "
        "was unpacked")


async def test_names_full_of_marks_stay_in_their_box(served, window, say):
    """A name that paints over the one below it, or turns it round, speaks for somebody else."""
    system, _ = served
    page = await window(ignore_https_errors=True)
    await sign_in(page, system, "ann@example.com")
    await found(page)
    await page.wait_for_selector("#messages[data-live]", state="attached")
    for text in "above", "a", "below":
        await page.fill("#text", text)
        await page.press("#text", "Enter")
    await page.wait_for_function("() => document.querySelectorAll('.message:not(.pending)').length === 3")
    await page.evaluate("document.activeElement.blur()")
    node = system["biff/node"]
    db = node.db()
    message = next(db.entity(id) for id in db.q({"find": "?m", "where": [["?m", "msg/text", "a"]]}))
    boxes = [await page.locator(f".message:nth-of-type({n}) p").bounding_box() for n in (1, 3)]
    before = [await page.screenshot(clip=box) for box in boxes]
    deceits = {"turned round": "\u202e\u2066" * 50 + "abc", "invisible": "\u200b\u200d\ufeff" * 100,
               "tall": "\u0e01" + "\u0e49" * 2000,
               "10,000 marks": "a" + "\u0301\u0316\u0489" * 3300}
    overflows = {}
    for kind, text in deceits.items():
        await node.submit([store.put(message | {"msg/text": text})])
        await page.wait_for_function("text => document.querySelectorAll('.message p')[1].textContent === text",
                                     arg=text)
        now = [await page.locator(f".message:nth-of-type({n}) p").bounding_box() for n in (1, 3)]
        after = [await page.screenshot(clip=box) for box in now]
        overflows[kind] = sum(x != y for x, y in zip(before, after))
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    painted = []
    for overflow in "clip", "visible":  # fonts here may pile no marks: a shadow paints outside for certain
        await page.evaluate("overflow => Object.assign(document.querySelectorAll('.message p')[1].style, {textShadow: "
                            "'0 1.7rem red, 0 -1.7rem red', overflow})", overflow)
        painted.append([await page.screenshot(clip=box) for box in now] != after)
    assert painted == [False, True], "without the box it is seen that the box is needed"
    say(f"{', '.join(deceits)}: neighbours painted over {sum(overflows.values())} times; asked 0")
    assert not any(overflows.values()), overflows
