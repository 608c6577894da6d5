"""The phone: a manifest, and a service worker that shows a person's own last pages without a network."""
import asyncio
import json

from people import chat, person      # noqa: F401
from test_browser import two_in_a_channel, until_texts, write

READY = "() => navigator.serviceWorker.ready.then(() => navigator.serviceWorker.controller !== null)"
KEPT = """async () => { const cache = await caches.open("pages");
  return (await cache.keys()).map(one => new URL(one.url).pathname); }"""
SHOWN = """async () => (await (await navigator.serviceWorker.ready).getNotifications()).map(one => one.title)"""
OFFLINE = [r"ERR_INTERNET_DISCONNECTED", r"WebSocket connection to .* failed", r"htmx:ws:error", r"Failed to fetch",
           r"ERR_FAILED", r"htmx:error"]


async def test_the_chat_can_be_put_on_a_home_screen(chat, person):      # noqa: F811
    """Without a manifest and its icons, a phone offers a bookmark and no more."""
    visitor = await person()
    manifest = json.loads((await visitor.get("/manifest.webmanifest")).body_text)
    assert manifest["display"] == "standalone" and manifest["start_url"] == "/app"
    assert {icon["purpose"] for icon in manifest["icons"]} == {"any", "maskable"}
    for icon in manifest["icons"]:
        async with visitor.browser.get(visitor.base + icon["src"]) as answer:
            assert answer.status == 200 and (await answer.read()).startswith(b"\x89PNG")
    worker = await visitor.get("/sw.js")
    assert "const FILES = [" in worker.body_text and worker.headers["Cache-Control"] == "no-cache"
    assert worker.headers["Content-Type"].startswith("text/javascript")


async def test_without_a_network_ones_own_last_messages_are_there(server, window):      # noqa: F811
    """On a train, a chat that shows nothing is closed; one that shows somebody else's pages is a leak."""
    ann, bob = await window(service_workers="allow", allow=OFFLINE), await window()
    await two_in_a_channel(server, ann, bob)
    await ann.wait_for_function(READY)
    channel = ann.url
    await write(bob, "before the tunnel")
    await until_texts(ann, ["before the tunnel"])
    await ann.reload()
    await until_texts(ann, ["before the tunnel"])
    path = channel[channel.index("/community"):]
    await ann.wait_for_function(f"async path => (await ({KEPT})()).includes(path)", arg=path)
    await ann.context.set_offline(True)
    await ann.reload()
    await ann.wait_for_selector("#connection >> text=You are offline. This page is as it was at")
    await until_texts(ann, ["before the tunnel"])
    await ann.goto(server.url + "/name")
    await ann.wait_for_selector("text=This page was not open lately")
    await ann.context.set_offline(False)
    await ann.goto(channel)
    await told_by_two_tabs(ann, bob, server)
    mine = await ann.context.cookies()
    await ann.context.add_cookies(await bob.context.cookies())           # without a word, somebody else is signed in
    await ann.goto(server.url + "/name")
    await ann.wait_for_function(f"async () => String((await ({KEPT})()).sort()) === '/name,/owner'")
    await ann.context.add_cookies(mine)
    await ann.goto(channel)
    await ann.wait_for_selector("#messages[data-live]")
    await ann.click("text=Sign out")
    await ann.wait_for_url(server.url + "/")
    await ann.wait_for_function(f"async () => (await ({KEPT})()).every(path => path === '/owner')")
    await ann.context.set_offline(True)
    await ann.goto(channel)
    await ann.wait_for_selector("text=This page was not open lately")


async def told_by_two_tabs(ann, bob, server):
    """Where no push service can be reached, the hidden pages of a browser tell of a message, once."""
    await ann.context.grant_permissions(["notifications"], origin=server.url)
    tab = await ann.context.new_page()
    await tab.goto(ann.url)
    for page in ann, tab:
        await page.wait_for_selector("#messages[data-live]")
        await page.evaluate("""() => { localStorage["told-here"] = "1";
            const levels = `${location.pathname.split("/channel/")[1]}:all`;
            document.getElementById("alerts").dataset.levels = levels; }""")
    await write(bob, "while one looks")
    for page in ann, tab:
        await page.wait_for_selector("text=while one looks")
        await page.evaluate("""() => {
            Object.defineProperty(document, "visibilityState", {get: () => "hidden"});
            document.dispatchEvent(new Event("visibilitychange")); }""")
    await write(bob, "*tide*")
    await tab.wait_for_function(f"async () => (await ({SHOWN})()).length > 0")
    await write(bob, "again")
    for page in ann, tab:
        await page.wait_for_selector("text=again")
    await tab.wait_for_function(f"async () => (await ({SHOWN})()).length === 2")
    assert all("in #" in title for title in await tab.evaluate(SHOWN))
    await tab.close()


async def test_a_notification_is_shown_once_and_not_to_one_who_is_looking(server, window):      # noqa: F811
    """Two for one message, or one beside the open page, teach people to switch them off."""
    page = await window(service_workers="allow")
    await page.context.grant_permissions(["notifications"], origin=server.url)
    found = {}
    session = await page.context.new_cdp_session(page)
    session.on("ServiceWorker.workerRegistrationUpdated",
               lambda event: found.update({one["scopeURL"]: one["registrationId"] for one in event["registrations"]}))
    await session.send("ServiceWorker.enable")
    await page.goto(server.url)
    await page.wait_for_function(READY)
    def pushed(title):
        message = {"title": title, "body": "tide", "tag": title, "path": "/app"}
        return {"origin": server.url, "registrationId": found[f"{server.url}/"], "data": json.dumps(message)}
    worker, count = page.context.service_workers[0], 0
    await worker.evaluate("""() => { const first = tell;
        self.told = 0;
        self.tell = what => first(what).finally(() => { self.told += 1; }); }""")

    async def push(title):
        """Returns when the worker has done with it: a page that comes or goes meanwhile would be seen."""
        nonlocal count
        count += 1
        await session.send("ServiceWorker.deliverPushMessage", pushed(title))
        async with asyncio.timeout(60):
            while await worker.evaluate("self.told") < count:
                await asyncio.sleep(0.02)
    await push("while one looks")
    await page.goto("about:blank")
    for _ in range(2):
        await push("Ann in #general")
    await page.goto(server.url)
    await page.wait_for_function(f"async () => String(await ({SHOWN})()) === 'Ann in #general'")
