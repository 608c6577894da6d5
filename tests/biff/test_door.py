"""The door leads to the public internet and nowhere else, whatever an address is called and wherever it leads."""
import asyncio
import contextlib
import re
import socket
import threading
import urllib.parse

import pytest
from aiohttp import web

from biff import door
from biff.door import Door, DoorError, NotPublicError
from hosts import fixed, host      # noqa: F401

PUBLIC = ["93.184.216.34", "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::808:808", "::ffff:8.8.8.8"]
FORBIDDEN = """
    127.0.0.1 127.1.2.3 127.255.255.254 0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200
    100.127.255.255 169.254.0.1 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.8
    192.0.0.170 192.0.2.1 192.31.196.1 192.52.193.1 192.88.99.1 192.168.0.1 192.168.255.255 192.175.48.1 198.18.0.1
    198.19.255.255 198.51.100.1 203.0.113.1 168.63.129.16 224.0.0.1 224.0.0.251 239.255.255.250 240.0.0.1
    255.255.255.254 255.255.255.255
    :: ::1 ::2 ::127.0.0.1 ::10.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0.0.0.0
    ::ffff:192.168.1.1 ::ffff:0:127.0.0.1 ::ffff:0:169.254.169.254 ::ffff:0:8.8.8.8 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe
    64:ff9b::a00:1 64:ff9b::c0a8:1 64:ff9b:1::1 64:ff9b:1::808:808 100::1 100:0:0:1::1 2001::1 2001:0:7f00:1::
    2001:2::1 2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1:: 2002:a9fe:a9fe::1 2002:808:808::1 2620:4f:8000::1
    3fff::1 4000::1 5f00::1 fc00::1 fd00::1 fd00:ec2::254 fe80::1 febf::1 fec0::1 ff02::1 ff05::2 ff0e::1
    2a00::5efe:7f00:1 2a00::200:5efe:a00:1 2a00::5efe:808:808
""".split()


@pytest.fixture
async def anywhere(monkeypatch):
    """A door whose every connection, to whatever address, reaches the canary, which says the name of a page.
    `connected` has the addresses that were meant."""
    connected, loop = [], asyncio.get_running_loop()

    async def sing(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            first = await reader.readexactly(1)
            if first == b"\x16":                       # TLS, which it does not speak
                return writer.close()
            head = urllib.parse.unquote((first + await reader.readuntil(b"\r\n\r\n")).decode())
            target = re.search(r"/go/(\S+) HTTP", head)
            where = f"Location: http://{target.group(1)}/secret\r\n" if target else ""
            writer.write(f"HTTP/1.1 {302 if target else 200} OK\r\n{where}Content-Length: 6\r\nConnection: "
                         "close\r\n\r\ncanary".encode())
            await writer.drain()
        writer.close()
    servers = {family: await asyncio.start_server(sing, address, 0)
               for family, address in [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]}
    connect = loop.sock_connect

    async def sock_connect(sock, address):
        connected.append(address[0])
        await connect(sock, servers[sock.family].sockets[0].getsockname())
    monkeypatch.setattr(loop, "sock_connect", sock_connect)
    yield connected
    for server in servers.values():
        server.close()


def literal(address):
    return f"[{address}]" if ":" in address else address


async def ways_to(address, is_allowed):
    """Tries an address as a literal, by a name, by a redirect to either, and by a name that was public when it was
    checked. Returns the errors."""
    errors = []
    for resolver, url in [(None, f"http://{literal(address)}/"), (fixed(x_example=[address]), "http://x.example/"),
                          (fixed(), f"https://{literal(address)}/"),
                          (fixed(), f"http://{PUBLIC[0]}/go/{literal(address)}"),
                          (fixed(x_example=[address]), f"http://{PUBLIC[0]}/go/x.example"),
                          (fixed(x_example=[PUBLIC[0], address]), "http://x.example/")]:
        one = Door(is_allowed=is_allowed, resolver=resolver)
        try:
            if len(url) == len("http://x.example/") and url.endswith("x.example/"):
                await one.check(url)
            answer = await one.get(url)
            errors.append(answer.body)
        except DoorError as error:
            errors.append(str(error))
    return errors


async def test_only_the_public_internet_is_reached_by_whatever_way(anywhere, say):
    """Without this, anybody who may subscribe could read this machine, its neighbours and the cloud's own secrets."""
    for address in FORBIDDEN:
        errors = await ways_to(address, door.is_public)
        assert set(errors) == {"There is no public address of that name."}, (address, errors)
    reached = [address for address in anywhere if address != PUBLIC[0]]
    say(f"{len(FORBIDDEN)} forbidden addresses by 6 ways each: {len(reached)} connections reached the canary; asked 0")
    assert len(FORBIDDEN) >= 80 and reached == [] and len(anywhere) == 2 * len(FORBIDDEN)
    for address in PUBLIC:
        assert (await Door().get(f"http://{literal(address)}/")).body == b"canary"
    assert len(anywhere) == 2 * len(FORBIDDEN) + len(
        PUBLIC), "the control addresses must reach it, or the test is blind"


async def test_without_the_check_at_the_socket_all_of_them_would_be_reached(anywhere):
    """A test that could not fail would prove nothing."""
    for address in FORBIDDEN[::10]:
        errors = await ways_to(address, lambda ip: True)
        assert errors.count(b"canary") == 5, errors
    assert len(anywhere) == 8 * len(FORBIDDEN[::10])          # six ways, two of them with a redirect before


async def test_spellings_of_this_machine_lead_nowhere(anywhere):
    """Resolvers and browsers know more ways to write an address than lists of forbidden addresses do."""
    for name in ["localhost", "LOCALHOST", "localhost.", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0",
                 "①②⑦.⓪.⓪.①", "127.0.0.1.", "127。0。0。1",
                 "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::1%25lo]", "%31%32%37.0.0.1", "x.localhost"]:
        with pytest.raises(DoorError):
            await Door().get(f"http://{name}/")
    assert anywhere == []


async def test_schemes_ports_names_and_lengths(anywhere, monkeypatch):
    """Without this, a feed's address could speak to a mail server or a database, send a password, or use the
    environment's proxy."""
    cases = ["ftp://8.8.8.8/", "file:///etc/passwd", "gopher://8.8.8.8/", "javascript:alert(1)", "//8.8.8.8/",
             "8.8.8.8", "", "http://", "http:///x", "http:8.8.8.8",
             "http://a@8.8.8.8/", "http://a:b@8.8.8.8/", "http://:b@8.8.8.8/", "http://8.8.8.8:22/",
             "http://8.8.8.8:0/", "http://8.8.8.8:99999/",
             "https://8.8.8.8:8443/", "http://8.8.8.8:x/", "http://" + "a" * 2_000 + "/", "http://[::1/",
             "http://8.8.8.8\\@127.0.0.1/", "http://\0/", "http://a b/"]
    one = Door(resolver=fixed(**{"8_8_8_8": ["8.8.8.8"]}))
    for url in cases:
        for ask in one.check, one.get:
            with pytest.raises((DoorError, KeyError)):
                await ask(url)
    with pytest.raises(DoorError, match="ports"):
        await one.get(f"http://{PUBLIC[0]}/go/8.8.8.8:6379")
    with pytest.raises(DoorError, match="begins with http"):
        await one.get(f"http://{PUBLIC[0]}/go/u:p@8.8.8.8")
    for name in "http_proxy", "HTTP_PROXY", "ALL_PROXY":
        monkeypatch.setenv(name, "http://127.0.0.1:1/")
    assert (await one.get("http://8.8.8.8/")).body == b"canary"
    assert set(anywhere) == {PUBLIC[0], "8.8.8.8"}


async def test_an_address_is_checked_before_anybody_waits_for_it(host):      # noqa: F811
    """A command would be answered with a promise that cannot be kept."""
    await host.door.check(f"{host.url}/feed")
    with pytest.raises(NotPublicError, match=r"^There is no public address of that name\.$"):
        await Door(resolver=fixed(x_example=["10.0.0.1"])).check("http://x.example/")
    with pytest.raises(DoorError, match="no public address of that name"):
        await Door().check("http://nowhere.invalid/")
    assert host.asked == []


async def test_a_name_server_that_hangs_holds_up_nobody_else(monkeypatch):
    """Sign-in mail is looked up by the loop's own threads, and Ctrl-C waits for those."""
    monkeypatch.setattr(door, "RESOLVE_S_MAX", 0.05)
    monkeypatch.setattr(door, "LOOKUPS_MAX", 3)
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: released.wait(100) and [])
    one = Door()
    for _ in range(3):
        await one.check("http://slow.example/")            # not known to be wrong, so it may be tried
    with pytest.raises(DoorError, match="no public address of that name"):
        await one.check("http://slow.example/")
    assert await asyncio.wait_for(asyncio.to_thread(lambda: 1), 60) == 1
    released.set()


async def test_redirects_are_followed_a_few_times(host):      # noqa: F811
    """Feeds move to https and to www, and some move in circles."""
    for n in range(1, 8):
        host.pages[f"/{n}"] = lambda request, n=n: web.Response(status=301 + n % 2, headers={"Location": f"/{n - 1}"})
    host.pages["/0"] = b"here"
    answer = await host.door.get(f"{host.url}/5")
    assert (answer.body, answer.url) == (b"here", f"{host.url}/0")
    with pytest.raises(DoorError, match="redirected more than 5 times"):
        await host.door.get(f"{host.url}/6")
    host.pages["/nowhere"] = 302
    assert (await host.door.get(f"{host.url}/nowhere")).status == 302


async def test_one_at_a_time_for_each_host_and_a_few_in_all(host, monkeypatch):      # noqa: F811
    """Without this, a community of a hundred channels would be a crowd at somebody's server."""
    now, most = {}, {}

    async def slow(left_s, method, url, headers):
        for key in url.host, "all":
            now[key] = now.get(key, 0) + 1
            most[key] = max(most.get(key, 0), now[key])
        await asyncio.sleep(0.02)
        for key in url.host, "all":
            now[key] -= 1
        return door.Answer(str(url), 200, {}, b"")
    one = Door()
    monkeypatch.setattr(one, "_ask_within", slow)
    await asyncio.gather(*(one.get(f"http://{n // 3}.example/{n}") for n in range(24)))
    assert most.pop("all") == door.AT_ONCE_MAX and set(most.values()) == {1} and len(most) == 8 and len(one._turns) == 0
