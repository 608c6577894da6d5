"""The walls of the web face: whose requests these are, what every answer bears,
what is bounded, what the log may hold."""
import asyncio
import collections
import contextlib
import http.cookies
import logging
import pathlib
import re
import socket
import time
import urllib.parse
import uuid
from types import SimpleNamespace

import aiohttp
import aiohttp.test_utils
import hypothesis
import multidict
import pytest
import yarl
from aiohttp import web
from hypothesis import strategies as st

import biff
import eelchat
import store
from people import Person, chat, filled, person, settle, with_handlers      # noqa: F401
from plugins import files, private

ROUTES = [(method, path) for plugin in eelchat.PLUGINS for method, path, *_ in plugin.get("routes", ())]
SIGNED = [(method, path) for plugin in eelchat.PLUGINS for method, path, _, handler in plugin.get("routes", ())
          if getattr(handler, "is_signed", False)]                       # these come from anywhere
UNSAFE = [route for route in ROUTES if route[0] != "GET" and route not in SIGNED]
READING = [route for route in ROUTES if route[0] == "GET" and not route[1].endswith("/connect")]
CSP = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; "
       "manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")


CHECKED_FIRST = "/static/eelchat.css", "/sw.js"                 # kept, and asked for anew each time
PICTURE = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
                        "0000000c49444154789c63f8ffff3f0005fe02fe0def46b80000000049454e44ae426082")      # one white dot


@contextlib.asynccontextmanager
async def running(data, *plugins, **arguments):
    """The chat, with more plugins or settings than the usual one."""
    given = eelchat.initial_system({"data": str(data), "port": 0} | arguments)
    system = await biff.start_system(eelchat.COMPONENTS, given | {"biff/plugins": [*eelchat.PLUGINS, *plugins]})
    try:
        yield system
    finally:
        await biff.stop_system(system)


async def paths_of(one):
    """A function that fills in a route with this person's own community, channel, message and session."""
    community, channel = await one.new_channel()
    message = str(uuid.uuid4())
    (file,) = await one.say_with(channel, "hello", "picture.png", bodies={"picture.png": PICTURE}, post=message)
    session = one.chat["biff/node"].db().q({"find": "?s", "where": [["?s", "session/user"]]})[0]
    ids = {"/community/{id}": community, "/{channel_id}": "/" + channel.rpartition("/")[2],
           "{message_id}": message, "{file_id}": file, "/sessions/{id}": f"/sessions/{session}", "{token}": "x" * 43,
           "/invite/{code}": await one.invitation(community)} | {
               hole: str(uuid.uuid4()) for hole in ("{mem_id}", "{report_id}", "{ban_id}", "{invitation_id}")}

    def fill(path):
        for hole, value in ids.items():
            path = path.replace(hole, value)
        return path
    return fill


# ── Requests are ours ────────────────────────────────────────────────────────────────────────────────────────

FROM_ELSEWHERE = [{}, {"Origin": "null"}, {"Origin": "http://evil.example"}, {"Origin": "http://127.0.0.1:1"},
                  {"Origin": "https://HOST"},
                  {"Origin": "http://HOST.evil.example"}, {"Sec-Fetch-Site": "cross-site"},
                  {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "none"},
                  {"Sec-Fetch-Site": "cross-site", "Origin": "OURS"}]


async def test_every_unsafe_route_refuses_what_does_not_come_from_a_page_of_ours(chat, person, say):      # noqa: F811
    """Any page that a member opens could write in their name."""
    ann, eve = await person("ann@example.com"), await person("eve@example.com")
    fill, right, others = await paths_of(ann), await ann.token(), await eve.token("/signin")
    host, before, tried = ann.base.removeprefix("http://"), chat["biff/node"].latest_tx.tx_id, 0
    elsewhere = [{key: value.replace("HOST", host).replace("OURS", ann.base) for key, value in headers.items()}
                 for headers in FROM_ELSEWHERE]
    ours = [{"Origin": ann.base}, {"Sec-Fetch-Site": "same-origin"}]
    cases = [(headers, right) for headers in elsewhere] + [(headers, wrong) for headers in ours
                                                           for wrong in (None, "", "x", others, right[:-1], "é" * 64)]
    for method, path in UNSAFE:
        for headers, token in cases:
            fields = {"email": "v@example.com", "text": "hi",
                      "post": str(uuid.uuid4())} | ({biff.TOKEN_FIELD: token} if token is not None else {})
            async with ann.browser.request(method, ann.base + fill(path), data=fields, headers=headers,
                                           allow_redirects=False) as answer:
                assert answer.status == 403, (method, path, headers, token)
            tried += 1
    say(f"{tried} requests over {len(UNSAFE)} unsafe routes: all 403, {chat['biff/node'].latest_tx.tx_id - before} "
        "transactions; asked 0")
    assert tried > 100 and chat["biff/node"].latest_tx.tx_id == before and chat["mails"][2:] == []
    assert SIGNED == [("POST", "/digest/end/{token}")]


@pytest.mark.parametrize("wall", ["is_ours", "has_token"])
async def test_each_of_the_two_walls_stands_alone(chat, person, monkeypatch, wall):      # noqa: F811
    """A wall that nothing needs is one that nobody notices falling."""
    ann = await person("ann@example.com")
    monkeypatch.setattr(biff.requests, wall, lambda *_: True)
    assert (await ann.post("/community",
                           headers={"Origin": "http://evil.example"})).status == (200 if wall == "is_ours" else 403)
    assert (await ann.post("/community", {biff.TOKEN_FIELD: "x"})).status == (200 if wall == "has_token" else 403)


PLANTED = ["x=1 {name}={eve}; {name}={ann}", "x=1\u00a0{name}={eve}; {name}={ann}", "x=1\x85{name}={eve}; {name}={ann}",
           '{name}={ann}; x="{name}={eve}"',
           'a="b; {name}={ann}; z=c"', "x=1,{name}={eve}; {name}={ann}", "{name}={ann}; \u2003{name}={eve}",
           "{name} ={eve};\t{name}={ann} "]


@pytest.mark.parametrize("line", PLANTED)
async def test_a_cookie_planted_from_a_sibling_domain_is_not_read(chat, person, line):      # noqa: F811
    """A page of a subdomain would put its visitors into the account of whoever made it,
    where they write what they think is theirs."""
    ann, eve = await person("ann@example.com"), await person("eve@example.com")
    values = {"name": biff.cookie_name(chat)} | {who: next(cookie.value for cookie in one.browser.cookie_jar)
                                                 for who, one in [("ann", ann), ("eve", eve)]}
    status, body = await page_with(chat, "/app", line.format(**values))
    assert status == 200 and b"ann@example.com" in body and b"eve@example.com" not in body


async def test_two_cookies_of_our_name_are_none_and_the_lenient_parser_is_fooled(chat, person):      # noqa: F811
    """Which of two is one's own cannot be known; and if aiohttp read them as the grammar does,
    ours would not be needed."""
    ann, eve = [next(cookie.value for cookie in (await person(f"{name}@example.com")).browser.cookie_jar)
                for name in ("ann", "eve")]
    name = biff.cookie_name(chat)
    assert (await page_with(chat, "/app", f"{name}={eve}; {name}={ann}"))[0] == 303
    assert (await page_with(chat, "/app", f"{name.upper()}={eve}; {name}={ann}"))[0] == 200
    headers = multidict.CIMultiDict(Cookie=f"x=1 {name}={eve}; {name}={ann}")
    request = aiohttp.test_utils.make_mocked_request("GET", "/", headers)
    assert biff.sessions.cookies_of(request, name) == [ann] and len(request.cookies) > 1


async def page_with(chat, path, cookie):      # noqa: F811
    """The status and body of a GET whose Cookie header is just these letters."""
    reader, writer = await asyncio.open_connection("127.0.0.1", chat["biff/port"])
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nCookie: {cookie}\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return int(answer.split()[1]), answer


async def test_reading_writes_nothing(chat, person, say):      # noqa: F811
    """A picture in a message could change things; and a crawler would fill the log."""
    ann = await person("ann@example.com")
    fill, before = await paths_of(ann), chat["biff/node"].latest_tx.tx_id
    for method in ("GET", "HEAD"):
        for _, path in READING:
            async with ann.browser.request(method, ann.base + fill(path)) as answer:
                assert answer.status == 200, (method, path)
    say(f"{2 * len(READING)} requests, {chat['biff/node'].latest_tx.tx_id - before} transactions; asked 0")
    assert chat["biff/node"].latest_tx.tx_id == before


async def test_sockets_open_to_pages_of_ours_only(chat, person):      # noqa: F811
    """Another site's page could read along with its visitor's cookie."""
    ann = await person("ann@example.com")
    _, channel = await ann.new_channel()
    for origin in ({}, {"Origin": "http://evil.example"}, {"Origin": "null"},
                   {"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}):
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await ann.browser.ws_connect(f"{ann.base}{channel}/connect?after=0", headers=origin)
    socket = await ann.listen(channel)
    assert not socket.closed
    await socket.close()


def test_a_rule_for_every_route_or_no_start():
    """A page without a rule is a page for everyone."""
    assert all(len(route) == 4 and all(map(callable, route[2:])) for plugin in eelchat.PLUGINS
               for route in plugin.get("routes", ()))


async def test_a_route_without_a_rule_does_not_start(tmp_path):
    """Without this, an attacker would find the route that nobody thought of."""
    plugins = [*eelchat.PLUGINS, {"routes": [("GET", "/hidden", eelchat.app)]}]
    with pytest.raises(biff.StartError, match="does not state who may use it"):
        await biff.start_system(eelchat.COMPONENTS, eelchat.initial_system({"data": str(tmp_path), "port": 0})
                                | {"biff/plugins": plugins})


# ── Cookies and headers ──────────────────────────────────────────────────────────────────────────────────────

async def cookie_under(base_url, tmp_path):
    system = await biff.start_system(eelchat.COMPONENTS,
                                     eelchat.initial_system({"data": str(tmp_path), "port": 0, "base_url": base_url}))
    one = Person(system | {"biff/base-url": f"http://127.0.0.1:{system['biff/port']}"})
    answer = await one.get("/signin")
    await one.browser.close()
    await biff.stop_system(system)
    return http.cookies.SimpleCookie(answer.headers["Set-Cookie"]), answer.headers


async def test_cookies_under_https_cannot_be_planted_and_under_http_are_kept(tmp_path):
    """A subdomain could plant its own cookie; or nobody could sign in on a server without TLS."""
    secure, headers = await cookie_under("https://chat.example.org", tmp_path / "a")
    plain, plain_headers = await cookie_under("http://chat.example.org", tmp_path / "b")
    assert list(secure) == ["__Host-eelchat"] and list(plain) == ["eelchat"]
    for cookies in (secure, plain):
        (cookie,) = cookies.values()
        assert cookie["httponly"] and cookie["samesite"] == "Lax" and cookie["path"] == "/"
        assert not cookie["domain"] and len(cookie.value) == 43
    assert secure["__Host-eelchat"]["secure"] and not plain["eelchat"]["secure"]
    assert "max-age=31536000" in headers["Strict-Transport-Security"]
    assert "Strict-Transport-Security" not in plain_headers


async def test_every_answer_bears_the_headers(chat, person):      # noqa: F811
    """An attacker puts the one page without these headers into a frame."""
    ann = await person("ann@example.com")
    fill = await paths_of(ann)
    asked = [("GET", fill(path)) for _, path in READING] + [("GET", "/nowhere"), ("PATCH", "/app"),
                                                            ("GET", "/static/eelchat.css"), ("GET", "/static/none"),
                                                            ("POST", "/community"), ("GET", "/app/"),
                                                            ("GET", "/community/x"), ("GET", "/sessions?x=%ff")]
    statuses = set()
    for method, path in asked:
        async with ann.browser.request(method, ann.base + path, allow_redirects=False) as answer:
            statuses.add(answer.status)
            is_file = "/file/" in path
            assert answer.headers["Content-Security-Policy"] == (files.CLOSED_POLICY if is_file else CSP), path
            assert answer.headers["X-Content-Type-Options"] == "nosniff", path
            assert answer.headers["Referrer-Policy"] == "same-origin" and "Server" not in answer.headers
            assert answer.headers["Cache-Control"] == ("no-cache" if path in CHECKED_FIRST else
                                                       "private, no-cache" if is_file else "no-store"), path
    assert {200, 303, 308, 403, 404, 405} <= statuses


async def test_static_files_are_named_by_their_content_and_packed(chat, person):      # noqa: F811
    """After an update, browsers would run yesterday's script on today's page."""
    one = await person()
    path = biff.asset_url(chat["biff/assets"], "htmx.js")
    answer = await one.get(path)
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.body_text.encode() == (biff.ROOT / "node_modules" / biff.SCRIPTS["htmx.js"]).read_bytes()
    assert (await one.get(path, headers={"If-None-Match": answer.headers["ETag"]})).status == 304
    for wrong in ("/static/../biff/auth.py", "/static/%2e%2e/biff/auth.py", "/static/..%2fbiff/auth.py", "/static/",
                  "/static//etc/passwd"):
        assert (await one.get(wrong)).status == 404


async def test_redirects_stay_here():
    """A link to us would be a link to wherever someone likes."""
    away = ["//evil", "/\\evil", "\\\\evil", "https:evil", "https://evil", "", "evil", "/\t/evil", "/ /evil",
            "/\n/evil", "javascript:x", "/a\r\nX: y", "/\u2028", "/é"]
    assert not any(map(biff.is_local, away))
    assert all(map(biff.is_local, ["/", "/app", "/a?b=%2F%2Fevil", "/community/1#x", "/@evil"]))


async def test_on_error_leads_to_our_two_forms_only(chat, person):      # noqa: F811
    """The sign-in form would send people anywhere."""
    one = await person()
    for value in ("//evil", "https://evil", "/\\evil", "/app", "/auth/signout", "/%0a/evil", ""):
        answer = await one.post("/auth/send-link", {"email": "no", "on-error": value})
        assert (answer.url.path, answer.url.host) == ("/signin", "127.0.0.1")
    assert (await one.post("/auth/send-link", {"email": "no", "on-error": "/"})).url.path == "/"


ELSEWHERE = ["//evil.example", "///evil.example", "\\\\evil.example", "/\\evil.example", "\\/evil.example",
             "https:evil.example", "https:/evil.example", "https://evil.example", "http:evil.example",
             "HTTPS://evil.example", "javascript:alert(1)", "JaVaScRiPt:alert(1)", "data:text/html,x",
             "//evil.example@127.0.0.1", "http://127.0.0.1@evil.example", "@evil.example",
             "/@evil.example", "//127.0.0.1:1@evil.example", "/\t/evil.example", "/\n/evil.example", "/\r/evil.example",
             "\t//evil.example", " //evil.example", "/ /evil.example", "/%2f/evil.example",
             "%2f%2fevil.example", "%5c%5cevil.example", "/%5cevil.example", "/%09/evil.example",
             "/%0d%0aLocation:%20//evil.example", "/..//evil.example", "/.//evil.example", "./\\evil.example",
             "?//evil.example", "#//evil.example", "//[::1]", "//evil%E3%80%82example", "//evil\u3002example",
             "/\u2028/evil.example", "//0x7f000001", "ftp://evil.example", "//"]


async def test_nothing_that_people_give_us_leads_them_elsewhere(chat, person, say):      # noqa: F811
    """A link that begins with our name is trusted, and would end at somebody else's door."""
    ann, one, asked, away = await person("ann@example.com"), await person(), 0, []
    fill = await paths_of(ann)
    for value in ELSEWHERE:
        given = {"next": value, "on-error": value, "error": value, "email": value, "token": value, "id": value,
                 "before": value}
        requests = [("GET", "/" + value.lstrip("/")), ("GET", value if value.startswith("/") else "/" + value),
                    ("GET", f"/static/{value}"), ("GET", f"{value.rstrip('/') or '/'}/")]
        requests += [(method, fill(path)) for method, path in ROUTES if not path.endswith("/connect")]
        for who in (one, ann):
            token = await who.token("/signin")
            for method, path in requests if who is one else requests[-8:]:
                if not path.startswith("/") or "\n" in path or "\r" in path or path.startswith("/auth/signout"):
                    continue
                url = f"{who.base}{path}" + ("&" if "?" in path else "?") + urllib.parse.urlencode(given)
                options = {} if method == "GET" else {"data": given | {biff.TOKEN_FIELD: token},
                                                      "headers": {"Origin": who.base}}
                with contextlib.suppress(ValueError, aiohttp.ClientError):
                    async with who.browser.request(method, yarl.URL(urllib.parse.quote(url, safe=":/?&=%@\\;#[]"),
                                                                    encoded=True), allow_redirects=False,
                                                   **options) as answer:
                        asked += 1
                        for header in "Location", "HX-Redirect":
                            to = answer.headers.get(header, "/")
                            reached = urllib.parse.urlsplit(urllib.parse.urljoin(who.base, to)).netloc
                            if not biff.is_local(to) or reached != who.base.removeprefix("http://"):
                                away.append((method, path, to))
    say(f"{len(ELSEWHERE)} addresses of elsewhere in every field and path, {asked} requests: {len(away)} leave the "
        "site; asked 0")
    assert asked > 800 and not away


def asking(remote, *forwarded, proxies="10.0.0.0/8, 127.0.0.1"):
    headers = multidict.CIMultiDict([("X-Forwarded-For", line) for line in forwarded])
    return biff.client_of({"request": SimpleNamespace(remote=remote, headers=headers),
                           "biff/config": {"proxies": biff.networks(proxies)}})


def test_forwarded_headers_are_believed_from_named_proxies_only():
    """A client that may name its own address has no limits."""
    assert asking("9.9.9.9", "1.1.1.1") == "9.9.9.9" and asking("127.0.0.1", "1.1.1.1", proxies="") == "127.0.0.1"
    assert asking("127.0.0.1", "6.6.6.6, 1.1.1.1, 10.1.1.1") == "1.1.1.1" == asking("127.0.0.1", "6.6.6.6", "1.1.1.1")
    assert asking("127.0.0.1", "nonsense\n") == "unknown" and asking("127.0.0.1") == "127.0.0.1"
    assert asking("2001:db8::1") == asking("2001:db8::ffff") == "2001:db8::/64"
    assert asking("::ffff:9.9.9.9") == "9.9.9.9"


# ── Bounds ───────────────────────────────────────────────────────────────────────────────────────────────────

async def test_bodies_are_bounded_forms(chat, person):      # noqa: F811
    """One request could fill the memory."""
    ann = await person("ann@example.com")
    token, before = await ann.token(), chat["biff/node"].latest_tx.tx_id
    headers = {"Origin": ann.base, biff.TOKEN_HEADER: token}
    form = headers | {"Content-Type": "application/x-www-form-urlencoded"}
    cases = [(b"x" * (biff.BODY_BYTES_MAX + 1), form, 413),
             (b"a=1", headers | {"Content-Type": "application/json"}, 415),
             (b"--x\r\n", headers | {"Content-Type": "multipart/form-data; boundary=x"}, 415), (b"a=%ff", form, 400),
             (b"\xff=1", form, 400),
             (b"&".join(b"a=1" for _ in range(60)), form, 400), (b"nonsense", form | {"Content-Encoding": "gzip"}, 400)]
    for body, given, status in cases:
        async with ann.browser.post(ann.base + "/community", data=body, headers=given,
                                    skip_auto_headers=["Content-Encoding"]) as answer:
            assert answer.status == status, (body[:20], answer.status)
    assert chat["biff/node"].latest_tx.tx_id == before


async def raw(chat, *pieces, wait_s=60):      # noqa: F811
    reader, writer = await asyncio.open_connection("127.0.0.1", int(chat["biff/base-url"].rpartition(":")[2]))
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), wait_s)
    finally:
        writer.close()


async def test_heads_are_bounded(chat):      # noqa: F811
    """A header of a megabyte costs nothing to send."""
    for head in (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 10_000, b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n",
                 b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(200))):
        assert b" 400 " in (await raw(chat, head, b"\r\nConnection: close\r\n\r\n")).split(b"\r\n")[0]


async def test_what_is_no_request_is_neither_shown_nor_logged(chat, caplog):      # noqa: F811
    """Without this, the server would repeat and write down a broken request: a cookie, or a script."""
    caplog.set_level(logging.DEBUG)
    secret = "k" * 30 + "<script>"
    broken = [f"GET /{secret} HTTP/9.1", f"{secret}", f"GET / HTTP/1.1\r\nHost: x\r\nCookie {secret}",
              f"GET / HTTP/1.1\r\nX: {secret}",
              f"GET / HTTP/1.1\r\nHost: x\r\nCookie: {secret}{'x' * 9000}",
              f"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\nX: {secret}"]
    for one in broken:
        head, _, body = (await raw(chat, one.encode() + b"\r\n\r\n")).partition(b"\r\n\r\n")
        assert b" 400 " in head and b"nosniff" in head and CSP.encode() in head
        assert b"aiohttp" not in head and b"Python" not in head
        mark = re.fullmatch(rb"That request could not be read. \((\w{8})\)\n", body).group(1).decode()
        assert mark in caplog.text
    assert secret not in caplog.text and "Traceback" not in caplog.text


def resident_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6


def send_gigabyte(chat):      # noqa: F811
    """Sends a form of a gigabyte. Returns how many bytes are taken before the connection ends, and the answer."""
    with socket.create_connection(("127.0.0.1", chat["biff/port"])) as client:
        client.sendall("POST /auth/send-link HTTP/1.1\r\nHost: x\r\nOrigin: "
                       f"{chat['biff/base-url']}\r\nContent-Length: {10 ** 9}\r\n".encode())
        client.sendall(b"Content-Type: application/x-www-form-urlencoded\r\n\r\n")
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 10 ** 9:
                sent += client.send(b"x" * 65_536)
        return sent, client.recv(1000)


async def test_a_body_of_a_gigabyte_is_stopped_at_the_limit(chat, say):      # noqa: F811
    """One request could fill the memory, or keep the server reading what it throws away."""
    before = resident_mb()
    sent, answer = await asyncio.to_thread(send_gigabyte, chat)
    say(f"a form of 1 GB: cut after {sent / 1e6:.1f} MB, nearly all in the kernel's buffers; memory + "
        f"{resident_mb() - before:.0f} MB; asked: stopped at the limit")
    assert b" 413 " in answer and sent < 2 * biff.BODY_BYTES_MAX + kernel_buffers() and resident_mb() - before < 30


def kernel_buffers():
    """The bytes that one connection on this machine may have on their way: the kernel takes them, not the server."""
    sizes = [pathlib.Path(f"/proc/sys/net/ipv4/tcp_{kind}mem").read_text().split()[2] for kind in "rw"]
    return sum(map(int, sizes))


async def drip(port, head, pieces_s, ends):
    """Sends `head`, and then a byte every now and then, until it is cut; notes when that was."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(ConnectionError):
        writer.write(head)
        while not reader.at_eof() and not writer.is_closing():
            writer.write(b"a")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1000), pieces_s)
    ends.append(time.monotonic())
    writer.close()


async def test_two_hundred_connections_that_drip_do_not_stop_the_next_and_are_cut(tmp_path, monkeypatch, say, size):
    """Without this, a few hundred connections that send a byte a second would stop the server for everyone."""
    limit_s = size(3, 15)
    monkeypatch.setattr(biff.connections, "HEAD_S_MAX", limit_s)
    monkeypatch.setattr(biff.requests, "REQUEST_S_MAX", limit_s)
    async with running(tmp_path) as system:
        ours = f"Host: x\r\nOrigin: {system['biff/base-url']}\r\n".encode()
        head, form = b"GET / HTTP/1.1\r\nX: ", b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
        body = b"POST /auth/send-link HTTP/1.1\r\n" + ours + b"Content-Length: 60000\r\n" + form
        begun, ends, times = time.monotonic(), [], []
        dripping = [asyncio.create_task(drip(system["biff/port"], part, 0.05, ends)) for part in [head, body] * 100]
        async with aiohttp.ClientSession() as session:
            await asyncio.sleep(0.25)
            assert not ends
            for _ in range(100):
                asked_at = time.monotonic()
                async with session.get(system["biff/base-url"] + "/signin") as answer:
                    assert answer.status == 200
                times.append((time.monotonic() - asked_at) * 1000)
        await asyncio.wait(dripping, timeout=limit_s * 4)
    p99, longest = sorted(times)[98], max(ends) - begun
    say(f"200 connections drip: the next is answered in {p99:.0f} ms (p99 of 100), asked 100; all cut after "
        f"{longest:.1f} s, limits {limit_s} s, asked 15")
    assert len(ends) == 200 and longest < limit_s + 10 and p99 < 1000


async def opened(port, address="127.0.0.1", data=b""):
    """A connection from one of this machine's loopback addresses, and what it has sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    writer.write(data)
    return reader, writer


ASKED = b"GET /signin HTTP/1.1\r\nHost: x\r\n\r\n"


async def is_answered(port, address):
    """True if a newcomer's request is answered."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
        reader, writer = await opened(port, address, ASKED)
        try:
            return b" 200 " in await asyncio.wait_for(reader.readuntil(b"\r\n"), 60)
        finally:
            writer.close()
    return False


@pytest.mark.parametrize("is_there", [True, False])
async def test_one_address_does_not_take_all_places(tmp_path, monkeypatch, say, is_there):
    """Without this, a request every ten seconds on each of a thousand connections would lock everybody else out."""
    monkeypatch.setattr(biff.config, "files_max", lambda: biff.config.FILES_KEPT + 40)
    if not is_there:
        monkeypatch.setattr(biff.connections.Places, "_give_way", lambda *_: False)
    async with running(tmp_path) as system:
        held = [await opened(system["biff/port"], "127.0.0.1", ASKED) for _ in range(60)]
        others = [await is_answered(system["biff/port"], f"127.0.0.{n}") for n in range(2, 22)]
        count = system["biff/places"].count
        for _, writer in held:
            writer.close()
    say(f"60 connections of one address for 40 places: {sum(others)} of 20 others answered, asked {20 * is_there}; "
        f"{count} held")
    assert others == [is_there] * 20 and count <= 40


def test_places_are_shared_out_by_networks_of_both_kinds():
    """Without this, whoever holds an IPv6 network, as every household does, would be billions of neighbours."""
    places = biff.connections.Places(40, biff.networks("10.0.0.0/8"))
    sites = {places.site_of((address, 1, 0, 0)) for address in
             ("2001:db8:7:1::1", "2001:db8:7:1::2", "2001:db8:7:ffff::3", "2001:db8:7::%eth0")}
    assert sites == {"2001:db8:7::/48"} and places.site_of(("2001:db8:8::1", 1)) == "2001:db8:8::/48"
    assert places.site_of(("::ffff:192.0.2.7", 1)) == places.site_of(("192.0.2.7", 1)) == "192.0.2.7"
    assert places.site_of(("10.1.2.3", 1)) == "", "a proxy is many people"


async def test_a_proxys_connections_give_way_to_nobody(tmp_path, monkeypatch):
    """Without this, all people behind the proxy would be one network, and be cut for a stranger who comes past it."""
    monkeypatch.setattr(biff.config, "files_max", lambda: biff.config.FILES_KEPT + 4)
    monkeypatch.setenv("EELCHAT_PROXIES", "127.0.0.1")
    async with running(tmp_path) as system:
        held = [await opened(system["biff/port"], "127.0.0.1", ASKED) for _ in range(system["biff/connections-max"])]
        for reader, _ in held:
            await reader.readuntil(b"</html>")
        assert not await is_answered(system["biff/port"], "127.0.0.2")
        for reader, writer in held:
            writer.write(ASKED)
            assert b" 200 " in await reader.readuntil(b"\r\n")
            writer.close()


async def test_unfinished_heads_are_bounded_together(tmp_path, monkeypatch, say):
    """Without this, two thousand heads that never end would hold a gigabyte."""
    monkeypatch.setattr(biff.connections, "PENDING_BYTES_MAX", 200_000)
    async with running(tmp_path) as system:
        places, most = system["biff/places"], 0
        lines = b"".join(b"X-%d: %s\r\n" % (n, b"a" * 7_000) for n in range(4))
        held = []
        for n in range(60):
            held.append(await opened(system["biff/port"], "127.0.0.1", b"GET / HTTP/1.1\r\n" + lines))
            await asyncio.sleep(0)
            most = max(most, places.pending)
        await until_true(lambda: places.count < 10)
        assert await is_answered(system["biff/port"], "127.0.0.2")
        say(f"60 unfinished heads of 28 KB: {most:,} bytes at most, asked 200,000; {places.gave_way} gave way")
        assert most <= 200_000 and places.gave_way >= 50
        for _, writer in held:
            writer.close()
        await until_true(lambda: places.pending == 0 and places.count <= 1)


async def until_true(is_so, timeout_s=60):
    async with asyncio.timeout(timeout_s):
        while not is_so():
            await asyncio.sleep(0.01)


async def test_a_head_as_large_as_its_lines_may_be_is_refused_in_a_sentence(chat):      # noqa: F811
    """Without this, each head could have half a megabyte, in lines of which each is allowed."""
    lines = b"".join(b"X-%d: %s\r\n" % (n, b"a" * 8_000) for n in range(6))
    answer = await raw(chat, b"GET / HTTP/1.1\r\nHost: x\r\n" + lines)
    assert b" 431 " in answer.split(b"\r\n")[0] and answer.endswith(b"The head of a request has at most 32 KB.\n")
    assert b" 200 " in (await raw(chat, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                                  + lines[:24_000].rpartition(b"X-")[0]
                                  + b"\r\n")).split(b"\r\n")[0]


async def test_an_idle_connection_is_kept_longer_than_a_proxy_keeps_it(tmp_path, monkeypatch):
    """Without this, nginx would send a request in the moment in which we close, and answer 502 for it."""
    assert biff.connections.KEEP_ALIVE_S > 60, "nginx keeps idle connections to us for 60 s"
    monkeypatch.setattr(biff.connections, "HEAD_S_MAX", 0.2)
    async with running(tmp_path) as system:
        used, unused, begun = [await opened(system["biff/port"], data=data) for data in (ASKED, b"", ASKED[:9])]
        for _ in range(2):
            await used[0].readuntil(b"</html>")
            await asyncio.wait([asyncio.create_task(one.read()) for one, _ in (unused, begun)], timeout=60)
            assert unused[0].at_eof() and begun[0].at_eof() and not used[0].at_eof(), "a head has its time all the same"
            used[1].write(ASKED)
        assert b" 200 " in await used[0].readuntil(b"\r\n")
        for _, writer in (used, unused, begun):
            writer.close()


async def test_an_answer_that_nobody_takes_is_dropped(tmp_path, monkeypatch, caplog, say):
    """Without this, a client that asks for long pages and reads none would fill the memory with answers."""
    monkeypatch.setattr(biff.requests, "ANSWER_S_MAX", 0.3)
    caplog.set_level(logging.INFO)

    async def book(ctx):
        return web.Response(text="x" * 8_000_000)
    async with running(tmp_path, {"routes": [("GET", "/book", biff.anyone, book)]}) as system:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", system["biff/port"]))
            begun = time.monotonic()
            await asyncio.get_running_loop().sock_sendall(client, b"GET /book HTTP/1.1\r\nHost: x\r\n\r\n")
            while (cut := [one for one in caplog.records if "is not taken"
                           in one.getMessage()]) == [] and time.monotonic() < begun + 60:
                await asyncio.sleep(0.02)
            say(f"a page of 8 MB that nobody reads: cut after {time.monotonic() - begun:.1f} s; the limit is 0.3 s "
                "here, else 60")
            assert cut
            client.setblocking(True)
            taken = 0
            with contextlib.suppress(ConnectionError):
                while piece := await asyncio.to_thread(client.recv, 1_000_000):
                    taken += len(piece)
            assert taken < 8_000_000
        async with aiohttp.ClientSession() as session, session.get(system["biff/base-url"] + "/book") as answer:
            assert len(await answer.text()) == 8_000_000, "whoever reads gets it"


@pytest.mark.parametrize("wall", ["all", "client", "person"])
async def test_answers_that_nobody_takes_are_bounded_together(tmp_path, monkeypatch, say, wall):
    """Without this, four hundred unread pages would take two gigabytes before the first is dropped."""
    size, bound = 300_000, 1_000_000
    name = {"all": "ANSWERS_BYTES_MAX", "client": "ANSWERS_BYTES_A_CLIENT", "person": "ANSWERS_BYTES_A_PERSON"}[wall]
    monkeypatch.setattr(biff.connections, "KERNEL_BYTES_MAX", 4_096)
    monkeypatch.setattr(biff.requests, name, bound)

    async def book(ctx):
        ctx["request"][biff.requests.UID] = "ann"
        return web.Response(text="x" * size)
    async with running(tmp_path, {"routes": [("GET", "/book", biff.anyone, book)]}) as system:
        loop, answers, held, most = asyncio.get_running_loop(), system["biff/answers"], [], 0
        for _ in range(30):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", system["biff/port"]))
            await loop.sock_sendall(client, b"GET /book HTTP/1.1\r\nHost: x\r\n\r\n")
            held.append(client)
            await asyncio.sleep(0.01)
            most = max(most, answers.bytes())
        await until_true(lambda: answers.cut >= 27)
        say(f"30 unread answers of 300 KB, {wall}: {most:,} bytes wait at most, asked {bound:,}; {answers.cut} cut")
        assert bound - size < most <= bound
        async with aiohttp.ClientSession() as session, session.get(system["biff/base-url"] + "/book") as answer:
            assert len(await answer.text()) == size, "a browser that reads gets it"
        for client in held:
            client.close()
        await until_true(lambda: answers.bytes() == 0)


async def admitted(*asking):
    """The order in which requests come in that ask in this order, as (network, browser) each."""
    turns, order = biff.limits.Turns(), []

    async def ask(network, browser):
        await turns.take(network, browser)
        order.append(browser)
    await asyncio.gather(*(ask(*who) for who in asking))
    return order


async def test_networks_take_turns_and_in_each_its_browsers():
    """Without this, four hundred requests of one script would be answered before the next one of anybody else."""
    crowd = [("a", "eve")] * 40 + [("a", "eva")] * 40
    order = await admitted(*crowd, ("b", "ann"), ("a", "bob"), ("c", "cid"))
    assert {"ann", "cid"} <= set(order[:6]) and "bob" in order[:9] and order.count("eve") == 40 == order.count("eva")
    assert await admitted(("a", "ann"), ("a", "bob")) == ["ann", "bob"]


async def test_a_request_that_is_given_up_costs_no_turn():
    """Without this, requests of browsers that are gone would hold up those that wait behind them."""
    turns, loop_turns = biff.limits.Turns(), 0
    await turns.take("a", "first")
    given_up = [asyncio.create_task(turns.take("a", f"{n}")) for n in range(50)]
    last = asyncio.create_task(turns.take("a", "last"))
    await asyncio.sleep(0)
    for task in given_up:
        task.cancel()
    while not last.done():
        await asyncio.sleep(0)
        loop_turns += 1
    assert loop_turns < 10


@pytest.mark.parametrize("method, is_there", [("GET", True), ("DELETE", True), ("GET", False)])
async def test_a_crowd_of_requests_keeps_nobody_waiting(tmp_path, monkeypatch, say, method, is_there):
    """Without this, whoever asks for four hundred pages at once would hold up everybody until the last of them."""
    if not is_there:
        monkeypatch.setattr(biff.limits.Turns, "take", lambda *_: asyncio.sleep(0))
    made = 0

    async def slow(ctx):
        nonlocal made
        made += 1
        time.sleep(0.002)
        return web.Response(text="x")

    async def quick(ctx):
        return web.Response(text=f"{made}")
    routes = [(method, "/slow", biff.anyone, slow), ("GET", "/quick", biff.anyone, quick)]
    monkeypatch.setattr(biff.requests, "is_ours", lambda *_: True)
    monkeypatch.setattr(biff.requests, "has_token", lambda *_: True)
    async with running(tmp_path, {"routes": routes}) as system:
        crowd = [await opened(system["biff/port"], "127.0.0.1") for _ in range(200)]
        reader, writer = await opened(system["biff/port"], "127.0.0.2")
        for _, one in crowd:
            one.write(f"{method} /slow HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        while not made:
            await asyncio.sleep(0)
        writer.write(b"GET /quick HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        before = int(await reader.read(10))
        for _, one in [*crowd, (reader, writer)]:
            one.close()
    say(f"200 {method} requests of one address at once, {'in turns' if is_there else 'as they come'}: "
        f"somebody else's is answered after {before} of them, asked {'few' if is_there else 'nearly all'}")
    assert (before < 50) == is_there


async def test_one_person_reads_pages_at_a_rate(chat, person, monkeypatch):      # noqa: F811
    """Without this, one script that asks for the longest page again and again would keep everybody waiting."""
    ann, bob = await person("ann@example.com"), await person("bob@example.com")
    monkeypatch.setattr(biff.requests, "READS_A_PERSON", (5, 60))
    chat["biff/limits"] = biff.Limits()
    assert [(await ann.get("/sessions")).status for _ in range(7)] == [200] * 5 + [429] * 2
    assert (await bob.get("/sessions")).status == 200 and (await ann.get("/static/chat.css")).status != 429


# ── Errors and the log ───────────────────────────────────────────────────────────────────────────────────────

async def test_a_fault_in_a_handler_tells_its_mark_and_nothing_else_and_the_log_has_both(chat, person, monkeypatch,
                                                                                         caplog):  # noqa: F811
    """A trace tells strangers how we are built, and a page without a mark tells us nothing."""
    ann = await person("ann@example.com")
    monkeypatch.setattr(biff.auth, "sessions_of", lambda *_: 1 / 0)
    answer = await ann.get("/sessions")
    mark = re.search(r"mark (\w{8})", answer.body_text).group(1)
    assert answer.status == 500 and "Traceback" not in answer.body_text and "ZeroDivision" not in answer.body_text
    assert len([one for one in caplog.records if mark in one.getMessage() and one.exc_info]) == 1
    told = (await ann.get("/sessions", headers={"HX-Request": "true"})).body_text
    assert re.fullmatch(r"Something went wrong. If you report this, name the mark \w{8}.", told)
    assert told[-9:-1] in caplog.text


async def test_the_log_holds_no_secret_no_address_and_no_forged_line(chat, person, caplog):      # noqa: F811
    """Logs are copied, mailed and kept by people who should not be able to sign in as anybody."""
    caplog.set_level(logging.INFO)
    ann = await person("ann@example.com")
    token, cookie = ann.last_token(), next(iter(ann.browser.cookie_jar)).value
    _, channel = await ann.new_channel()
    await ann.say(channel, "a private word")
    for path in (f"/auth/verify-link/{token}", f"/auth/verify-link/{token}/", f"/auth/verify-link/{token}.",
                 f"/x%0a2026 ERROR {token}", "/\x1b[31m", "/é"):
        await ann.get(path)
    encoded = "".join(f"%{ord(letter):02X}" if n % 7 == 3 else letter for n, letter in enumerate(token))
    for written in encoded, encoded.replace("%", "%25"):
        await ann.get(yarl.URL(f"{ann.base}/auth/verify-link/{written}", encoded=True).raw_path)
    formatter = biff.LineFormatter("%(levelname)s %(message)s")
    lines = "\n".join(formatter.format(record) for record in caplog.records)
    assert lines.count("GET /auth/verify-link/…") >= 3
    for secret in (token, cookie, await ann.token(), "ann@example.com", "private word", "\x1b"):
        assert secret not in lines
    assert encoded[:12] not in lines and encoded.replace("%", "%25")[:12] not in lines
    forged = formatter.format(logging.LogRecord("x", logging.INFO, "", 0,
                                                "one\n2026 ERROR two\r\n\x1b[0mthree\u2028four", (), None))
    assert all(line.startswith("    ") for line in forged.splitlines()[1:]) and "\x1b" not in forged
    assert "\u2028" not in forged


async def test_unknown_pages_and_slashes(chat, person):      # noqa: F811
    """People mistype, and old links end in a slash."""
    one = await person()
    assert "Page not found." in (await one.get("/nowhere")).body_text
    assert (await one.get("/signin/")).url.path == "/signin"
    async with one.browser.get(one.base + "//evil.example/signin/", allow_redirects=False) as answer:
        assert answer.status == 404
    async with one.browser.request("PUT", one.base + "/signin") as answer:
        assert answer.status == 405 and "GET" in answer.headers["Allow"]


# ── Whatever comes ───────────────────────────────────────────────────────────────────────────────────────────

ODD = st.one_of(st.text(max_size=12),
                st.sampled_from(["", "\0", "%00", "../..", "é" * 50, str(uuid.UUID(int=0)), "-1", "9" * 30, "{{7*7}}",
                                 "x" * 11_000,
                                 "ann@example.com", "eel\r\nX: y", "\ud7ff\uffff", "//evil.example"]))
FIELDS = ["email", "code", "token", "text", "post", "after", "before", "error", "on-error", "id", "v", biff.TOKEN_FIELD]
HEADERS = ["Accept-Encoding", "X-Forwarded-For", "HX-Request", "Range", "If-None-Match", "Expect", "Upgrade",
           "Connection", "Sec-Fetch-Site", "Origin", "Cookie",
           "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Content-Encoding", "Authorization", "Accept-Language", "X"]
VALUES = ["", "gzip", "\x00", "\x7f ", "a b;c=d", "1e9", "gzip, br;q=0", "websocket", "Upgrade", "13",
          "dGhlIHNhbXBsZSBub25jZQ==", "same-origin", "cross-site", "chunked", "deflate", "100-continue", "true",
          "bytes=0-1", "*", "1.1.1.1, evil", "eelchat=" + "x" * 43, "\"", "é", "a" * 3000]
TYPES = ["application/x-www-form-urlencoded", "application/x-www-form-urlencoded; charset=utf-16",
         "application/x-www-form-urlencoded; charset=nonsense",
         "multipart/form-data; boundary=x", "application/json", "text/plain", "", "a/b/c;;"]
CODINGS = ["utf-8", "latin-1", "utf-16", "utf-7", "shift_jis"]


def random_requests(routes):
    """Requests: most of them go to a route of ours, by its own method, from a person who may. Some are no requests
    at all."""
    parts = sorted({part for _, path in routes for part in path.split("/")
                    if part}) + ["static", "eelchat.css", "x", "%ff", "%0a", "..", "a" * 300, ";", "\\", "é"]
    methods = st.sampled_from(["GET", "POST", "HEAD", "DELETE", "PUT", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get",
                               "\xff"])
    anywhere = st.tuples(methods, st.one_of(st.sampled_from([path for _, path in routes]),
                                            st.lists(st.sampled_from(parts),
                                                     max_size=4).map(lambda parts: "/" + "/".join(parts))))
    fields = st.dictionaries(st.sampled_from(FIELDS), ODD, max_size=3)
    return st.tuples(st.one_of(st.sampled_from(routes), st.sampled_from(routes), anywhere), fields, fields,
                     st.dictionaries(st.sampled_from(HEADERS), st.sampled_from(VALUES), max_size=2),
                     st.sampled_from(TYPES[:1] * 6 + TYPES), st.sampled_from(CODINGS[:1] * 5 + CODINGS),
                     st.sampled_from(["form"] * 6 + ["bytes", "none"]))


def as_bytes(request, usual):
    (method, path), query, fields, headers, type, coding, kind = request
    encoded = {key.encode(): value.encode(coding, "replace") for key, value in fields.items()}
    body = {"form": urllib.parse.urlencode(encoded).encode(), "bytes": b"\xff\x00" + b"&=".join(encoded.values()),
            "none": b""}[kind]
    if method in ("GET", "HEAD"):
        body = b""
    if query:
        path += "?" + urllib.parse.urlencode({key.encode(): value.encode(coding, "replace")
                                              for key, value in query.items()})
    lines = [f"{method} {path} HTTP/1.1"] + [f"{name}: {value}"
                                             for name, value
                                             in ({"Host": "x", "Connection": "close"} | usual | headers).items()]
    lines += [f"Content-Length: {len(body)}", f"Content-Type: {type}"] if body else []
    return "\r\n".join(lines).encode("utf-8", "replace") + b"\r\n\r\n" + body


async def answered(port, request):
    """The status and the body; 0 if there was none."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
        length = int((re.search(rb"(?i)content-length: (\d+)", head) or [0, 0])[1])
        body = b"" if request.startswith(b"HEAD") or b" 304 " in head[:20] else await asyncio.wait_for(
            reader.read(min(length, 3000)), 60)
        return int(head.split()[1]), body
    except (asyncio.IncompleteReadError, ConnectionError):
        return 0, b""
    finally:
        writer.close()


async def test_random_requests_never_make_an_error_of_ours(tmp_path, size, say, seed, monkeypatch, caplog):
    """Without this, people with time would find the request that breaks a handler."""
    for limits in ("READS_A_PERSON", "WRITES_A_PERSON", "MAILS_A_CLIENT_TO_ONE", "MAILS_AN_ADDRESS", "MAILS_A_CLIENT",
                   "MAILS_A_SERVER"):
        monkeypatch.setattr(biff.requests if hasattr(biff.requests, limits) else biff.auth, limits, (10 ** 6, 1))
    # pages stay small, and so does the time
    monkeypatch.setattr(eelchat, "CHANNELS_MAX", 5), monkeypatch.setattr(eelchat, "COMMUNITIES_MAX", 3)
    monkeypatch.setattr(eelchat, "POSTS_A_PERSON", (10 ** 6, 1))
    monkeypatch.setattr(eelchat.sockets, "CONNECTS_A_PERSON", (10 ** 6, 1))
    caplog.set_level(logging.ERROR)
    logging.getLogger("biff").setLevel(logging.ERROR)
    async with running(tmp_path) as chat:      # noqa: F811
        people, ids, _ = await settle(chat)
        node, loop, admin = chat["biff/node"], asyncio.get_running_loop(), people["admin"]
        channel, session = node.db().entity(ids["{channel_id}"]), admin.documents[1]
        usual = {"Origin": admin.base, "Cookie": f"eelchat={admin.cookie}",
                 biff.TOKEN_HEADER: biff.hmac_of(chat, "anti-forgery", admin.cookie)}
        routes = [(method, filled(path, ids | {"/sessions/{id}": f"/sessions/{session['xt/id']}"}))
                  for method, path in ROUTES]
        statuses = collections.Counter()

        async def ask(requests):
            # an earlier request may have signed out or deleted it
            await node.submit([store.put(channel), store.put(session)])
            return await asyncio.gather(*(answered(chat["biff/port"], as_bytes(one, usual)) for one in requests))

        @hypothesis.seed(seed)
        @hypothesis.settings(max_examples=size(100, 400), database=None,
                             suppress_health_check=list(hypothesis.HealthCheck),
                             phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink])
        @hypothesis.given(st.lists(random_requests(routes), min_size=25, max_size=25))
        def try_them(requests):
            for one, (status, body) in zip(requests, asyncio.run_coroutine_threadsafe(ask(requests), loop).result()):
                statuses[status] += 1
                assert status < 500 and b"Traceback" not in body, as_bytes(one, usual)
        try:
            await asyncio.to_thread(try_them)
        finally:
            logging.getLogger("biff").setLevel(logging.NOTSET)
        say(f"{statuses.total():,} random requests, seed {seed}, answers {dict(sorted(statuses.items()))}; asked none "
            "of 500")
        assert statuses.total() >= size(2_500, 10_000) and statuses[0] < statuses.total() / 10, statuses
        assert {200, 204, 303, 400, 403, 404, 405} <= statuses.keys(), statuses
        assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


REFUSED = {(method, path) for method, path, *_ in private.PLUGIN["routes"]} | {("DELETE", files.FILE)}


async def test_a_fault_in_any_handler_gives_a_page_that_tells_nothing_and_a_line_that_tells_all(tmp_path, caplog, say):
    """The one handler that fails otherwise shows its users the inside of the house."""
    async def faulty(ctx):
        raise RuntimeError(f"the secret is {ctx['biff/secret'].hex()}")
    system = await biff.start_system(eelchat.COMPONENTS, eelchat.initial_system({"data": str(tmp_path), "port": 0})
                                     | {"biff/plugins": with_handlers(faulty)})
    people, ids, _ = await settle(system)
    db = system["biff/node"].db()
    mem, = db.q({"find": "?m", "in": ["?u"], "where": [["?m", "mem/user", "?u"]]}, people["admin"].id)
    await system["biff/node"].submit([store.put(db.entity(ids["{message_id}"]) | {"msg/mem": mem})])
    before = system["biff/node"].latest_tx.tx_id
    async with aiohttp.ClientSession() as session:
        for method, path in ROUTES:
            status, text = await people["admin"].ask(session, method, filled(path, ids))
            if (method, path) in REFUSED and status != 500:          # the channel is public, the file is posted
                continue
            mark = re.search(r"mark (\w{8})", text)[1]
            assert status == 500 and "Something went wrong." in text
            assert "RuntimeError" not in text and system["biff/secret"].hex() not in text
            assert len([one for one in caplog.records if mark in one.getMessage() and one.exc_info]) == 1
    say(f"{len(ROUTES)} handlers with a fault in each: {len(ROUTES)} pages that tell nothing, each with its one line "
        "in the log")
    assert system["biff/node"].latest_tx.tx_id == before
    await biff.stop_system(system)


async def test_everything_that_happens_leaves_no_secret_in_the_log(chat, person, caplog, say):      # noqa: F811
    """Logs are copied, mailed and kept by people who should not be able to sign in as anybody."""
    caplog.set_level(logging.DEBUG)
    formatter = biff.LineFormatter("%(levelname)s %(name)s %(message)s")
    secrets_ = ["ann@example.com", "bob@example.com", "a private word"]
    ann, bob = await person("ann@example.com"), await person()
    await bob.post("/auth/send-code", {"email": "bob@example.com"})
    secrets_ += [ann.last_code()]
    await bob.post("/auth/verify-code", {"email": "bob@example.com", "code": "12345x"})
    await bob.post("/auth/verify-code", {"email": "bob@example.com", "code": ann.last_code()})
    _, channel = await ann.new_channel()
    socket = await ann.listen(channel)
    for text in "a private word", "", "x" * 20_000:
        await ann.say(channel, text)
    await ann.get("/nowhere/ann?email=ann@example.com&token=" + ann.last_code())
    await ann.get(f"{channel}?before=nonsense&x=a+private+word")
    await ann.post("/community", {biff.TOKEN_FIELD: "wrong"})
    await ann.post("/auth/verify-link", {"token": "y" * 42, "email": "bob@example.com"})
    await raw(chat, b"GET / HTTP/1.1\r\nHost: x\r\nCookie ann@example.com a private word\r\n\r\n")
    for mail in chat["mails"]:
        secrets_ += re.findall(r"verify-link/(\S+)", mail[1])
    secrets_ += [cookie.value for one in (ann, bob) for cookie
                 in one.browser.cookie_jar] + [await ann.token("/app"), chat["biff/secret"].hex()]
    await socket.close()
    await ann.post("/sessions/others/revoke", page="/app")
    await ann.post("/auth/signout", page="/app")
    records = [record for record in caplog.records if record.name.partition(".")[0]
               in ("biff", "eelchat", "sockets", "aiohttp", "store")]
    lines = "\n".join(map(formatter.format, records))
    found = [secret for secret in secrets_ if re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", lines)]
    say(f"{len(records)} lines of the log searched for {len(secrets_)} tokens, codes, cookies, addresses and texts: "
        f"{len(found)} found; asked 0")
    assert not found and len(records) > 30
    ann_id = biff.lookup_id(chat["biff/node"].db(), "user/email", "ann@example.com")
    for told in (f"Signed in: user {ann_id}", f"Signed out: user {ann_id}", "Not signed in, wrong or used code",
                 "Not signed in, wrong or used link", "Refused, for it has no token", "error "):
        assert told in lines, told


async def test_a_store_that_stopped_ends_the_server_instead_of_apologizing_for_ever(tmp_path):
    """After a failed write nothing is stored any more; a supervisor starts anew what ends, and nothing else."""
    system, ended = eelchat.initial_system({"data": str(tmp_path), "port": 0}), asyncio.Event()
    system = await biff.start_system(eelchat.COMPONENTS, system | {"biff/end": ended.set})
    one = Person(system)
    await one.get("/signin")
    system["biff/node"].close()
    assert (await one.get("/signin")).status == 500 and ended.is_set() and system["biff/failure"]
    await one.browser.close()
    await biff.stop_system(system)
