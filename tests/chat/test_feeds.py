"""Feeds as the world writes them, and as attackers write them: what is posted, and what reading them may cost."""
import asyncio
import contextlib
import gzip
import json
import os
import pathlib
import re
import time
import zlib

import pytest
from aiohttp import web

from biff import door
from biff.door import Door, DoorError
from hosts import host, rss      # noqa: F401
from plugins import feed_reader

RSS = b"""<?xml version="1.0" encoding="iso-8859-1"?><!-- hello -->
<rss version="2.0" xmlns:dc="http://purl.org/dc/elements/1.1/"
xmlns:content="http://purl.org/rss/1.0/modules/content/"><channel><title>T</title>
<item><title>Second</title><link>/2?a=1&amp;b=2</link><guid>2</guid>
<pubDate>Mon, 02 Nov 2026 12:00:00 +0200</pubDate><dc:creator>Bo</dc:creator><description>short</description>
<content:encoded><![CDATA[<p>The <b>whole</b><script>bad()</script></p><p>t&eacute;xt</p>]]></content:encoded></item>
<item><title>\xc9rste &amp;amp; &nbsp;\xa0 <![CDATA[<b>]]></title><guid isPermaLink="true">http://x.example/1</guid>
<pubDate>Sun, 01 Nov 2026 10:00:00 GMT</pubDate></item>
</channel></rss>"""
ATOM = """<feed xmlns="http://www.w3.org/2005/Atom"><title>T</title>
<entry><id>urn:2</id><title type="html">Second</title><updated>2026-11-05T00:00:00Z</updated>
<published>2026-11-02T10:00:00Z</published><link rel="self" href="http://no"/><link href="2?a=1&amp;b=2"/>
<author><name>Bo</name></author>
<content type="html">&lt;p&gt;The &lt;b&gt;whole&lt;/b&gt;&lt;/p&gt;&lt;p&gt;t&#233;xt&lt;/p&gt;</content></entry>
<entry><id>urn:1</id><title>Érste &amp; &lt;b></title><updated>2026-11-01T10:00:00Z</updated>
<link href="http://x.example/1"/></entry></feed>""".encode()
JSON = json.dumps({"version": "https://jsonfeed.org/version/1.1", "title": "T", "items": [
    {"id": 2, "title": "Second", "url": "/2?a=1&b=2", "content_html": "<p>The <b>whole</b></p><p>téxt</p>",
     "date_published": "2026-11-02T11:00:00+01:00",
     "authors": [{"name": "Bo"}]}, {"id": "1", "title": "Érste & <b>", "url": "http://x.example/1",
                                    "date_published": "2026-11-01T10:00:00Z"}]}).encode()


@pytest.mark.parametrize("document", [RSS, ATOM, JSON], ids=["RSS", "Atom", "JSON Feed"])
async def test_each_kind_of_feed_is_told_alike_oldest_first(document):
    """A channel would get a feed backwards, or its markup instead of its words."""
    first, second = await feed_reader.read(document, "http://x.example/feed")
    assert feed_reader.told(first) == "Érste & <b> | 1 Nov 2026 10:00 UTC\nhttp://x.example/1"
    assert feed_reader.told(second) == "Second | Bo | 2 Nov 2026 10:00 UTC\nThe whole téxt\nhttp://x.example/2?a=1&b=2"


@pytest.mark.parametrize("charset, header, is_declared", [("utf-8", "", False), ("utf-8", "", True),
                                                          ("utf-16", "", True), ("koi8-r", "", True),
                                                          ("shift_jis", "", True),
                                                          ("koi8-r", "koi8-r", False), ("utf-8-sig", "latin-1", False),
                                                          ("utf-32", "", False)])
async def test_a_feed_is_read_in_its_own_charset(charset, header, is_declared):
    """Half of the world would read question marks."""
    declared = f"<?xml version='1.0' encoding='{charset}'?>" if is_declared else ""
    document = f"{declared}<rss><channel><item><title>Привет</title></item></channel></rss>".encode(charset)
    assert [entry.title for entry in feed_reader.entries_of(document, "http://x.example/", header)] == ["Привет"]


def test_a_number_is_no_date():
    """Without this, an entry without a date would be of the second of the month in which it is read."""
    for guid in "2", "<![CDATA[ 2 ]]>", "2026", "Nov 2":
        feed = f"<rss><channel><item><guid>{guid}</guid><title>T</title></item></channel></rss>"
        one, = feed_reader.entries_of(feed.encode(), "http://x.example/")
        assert (one.at, one.title) == ("", "T")


def entry(**values):
    """The entry of a JSON Feed that has it alone."""
    item = {"title": "T"} | values
    return next(iter(feed_reader.entries_of(json.dumps({"items": [item]}).encode(), "http://x.example/a/")), None)


def test_an_entry_stays_the_same_when_it_is_edited():
    """Its correction would be posted as news."""
    dated = entry(id="1", date_published="2026-01-01T00:00:00+00:00")
    assert entry(id="1").id == entry(id="1", title="U", url="http://x.example/other").id == dated.id
    assert entry(url="/b").id == entry(url="/b", title="U").id != entry(url="/c").id
    assert entry(title="a").id != entry(title="b").id and entry(id="/b").id != entry(url="/b").id
    assert len(entry().id) == 16


def test_an_entry_is_text_within_bounds_whatever_is_in_it():
    """A feed is written by strangers, and by machines that put anything anywhere."""
    wild = entry(title="\u202eevil\u200b \x00 " + "x" * 500, author=["x"], url="javascript:alert(1)",
                 date_published="yesterday",
                 content_html="<p " * 50_000)
    assert re.fullmatch(r"evil x{190,}\.\.\.", wild.title) and len(wild.title) == 200
    assert (wild.author, wild.link, wild.at) == ("", "", "")
    for link in ("data:text/html,x", "http:// x/", "http://a\u202eb/", "http://[", "http://x/" + "a" * 3_000, " ",
                 "mailto:a@b.c"):
        assert entry(url=link).link == "", link
    assert entry(url=" b ").link == "http://x.example/a/b"
    assert entry(title=None, summary=None) is None and entry(title=["T"], id=None, content_html={"value": 7}) is None
    long = entry(content_text="word " * 1_000).text
    assert len(long) <= 300 and long.endswith("...")


async def test_a_tag_is_good_for_the_address_that_gave_it_only(host):      # noqa: F811
    """Without this, a feed that moved would be silent for ever, if the new place happens to have the same tag."""
    def tagged(name, body):
        def answer(request):
            if request.headers.get("If-None-Match") == '"1"':
                return web.Response(status=304)
            return web.Response(body=body, headers={"ETag": '"1"', "Last-Modified": "Mon, 02 Nov 2026 10:00:00 GMT"})
        return answer
    host.pages |= {"/old": tagged("old", rss("a")), "/new": tagged("new", rss("a", "b")),
                   "/feed": lambda request: web.Response(status=302, headers={"Location": "/old"})}
    first = await feed_reader.fetch(host.door, f"{host.url}/feed")
    assert len(first.entries) == 1
    assert first.known == {"url": f"{host.url}/old", "etag": '"1"', "last-modified": "Mon, 02 Nov 2026 10:00:00 GMT"}
    assert await feed_reader.fetch(host.door, f"{host.url}/feed", first.known) is None
    assert host.asked[-1].headers["If-Modified-Since"] == first.known["last-modified"]
    host.pages["/odd"] = lambda request: web.Response(body=rss("a"),
                                                      headers={"ETag": '"é"', "Last-Modified": "x" * 3_000})
    odd = await feed_reader.fetch(host.door, f"{host.url}/odd")
    assert odd.known == {"url": f"{host.url}/odd"}, "what cannot be stored, or is too long, is not kept"
    host.pages["/feed"] = lambda request: web.Response(status=302, headers={"Location": "/new"})
    assert len((await feed_reader.fetch(host.door, f"{host.url}/feed", first.known)).entries) == 2


@pytest.mark.parametrize("page, sentence", [
    (404, "It answered with status 404."), (500, "It answered with status 500."), (b"", "It cannot be read as a feed."),
    (b"\x89PNG", "It cannot be read as a feed."),
    (b"<!DOCTYPE html><html>", "That is a web page, not a feed."),
    (b"<html><link rel=alternate type=text/html href=/x><a rel=alternate href=/y>", "That is a web page, not a feed."),
    (b"<!doctype HTML><HEAD><LINK href='//x.example/a?b&amp;c' TYPE=application/atom+xml title=\"t\" Rel=\"x "
     b"Alternate\">",
     "That is a web page, not a feed. Its feed is http://x.example/a?b&c"),
    (b"<html><link rel=alternate type=application/rss+xml href=javascript:alert(1)>",
     "That is a web page, not a feed."),
 (b"  <HTML>", "That is a web page, not a feed."), (b"{}", "It cannot be read as a feed."),
    (b'<?xml version="1.0"?><!-- <a> --><!DOCTYPE rss [<!ENTITY a "b">]><rss/>',
     "It declares a document type, and such feeds are not read."),
    (b'<?xml version="1.0"?><?xml version="1.0"?><!DOCTYPE rss [<!ENTITY a "b">]><rss/>',
     "It declares a document type, and such feeds are not read."),
    (b'<!DOCTYPE rss><!DOCTYPE rss [<!ENTITY a "b">]><rss/>',
     "It declares a document type, and such feeds are not read."),
    (b'<?xml version="1.0" encoding="utf-7"?>+ADwAIQ-DOCTYPE x>', "It cannot be read as a feed."),
])
async def test_what_is_no_feed_is_told_in_a_sentence(host, page, sentence):      # noqa: F811
    """Without this, a person who pasted the address of a web page would wait for ever."""
    host.pages["/feed"] = page
    with pytest.raises(feed_reader.FeedError, match=f"^{re.escape(sentence)}$"):
        await feed_reader.fetch(host.door, f"{host.url}/feed")


async def test_the_reader_has_no_secret_and_no_way_to_keep_one(monkeypatch, tmp_path):
    """A hole in a parser would be a hole in the chat."""
    monkeypatch.setenv("EELCHAT_MAIL_PASSWORD", "secret")
    seen = {}

    async def spy(*command, env, **options):
        seen.update(env)
        return await execute(*command, env=env, **options)
    execute = asyncio.create_subprocess_exec
    monkeypatch.setattr(asyncio, "create_subprocess_exec", spy)
    assert len(await feed_reader.read(rss("a"), "http://x.example/")) == 1
    assert set(seen) <= set(feed_reader.KEPT_VARIABLES)
    code = (f"import sys; sys.path.insert(0, {str(pathlib.Path(feed_reader.__file__).parent)!r}); import feed_reader; "
            f"feed_reader.bound_this_process(); open({str(tmp_path / 'x')!r}, 'wb', 0).write(b'x')")
    child = await asyncio.create_subprocess_exec(feed_reader.sys.executable, "-I", "-c", code, env={},
                                                 stderr=asyncio.subprocess.DEVNULL)
    assert await child.wait() != 0 and (tmp_path / "x").stat().st_size == 0


async def test_a_gzip_of_several_members_is_read_to_its_end(host):      # noqa: F811
    """A server that appends to a packed file would be read up to its first piece."""
    whole = rss("a", "b")
    packed = gzip.compress(whole[:90]) + gzip.compress(whole[90:]) + b"\0" * 20
    pieces = [packed[n:n + 7] for n in range(0, len(packed), 7)]
    server = await asyncio.start_server(streamed(lambda: pieces, b"Content-Encoding: gzip\r\n\r\n"), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    open_door = Door(is_allowed=lambda ip: True, ports={port})
    assert [one.title
            for one in (await feed_reader.fetch(open_door, f"http://127.0.0.1:{port}/")).entries] == ["Entry a",
                                                                                                      "Entry b"]
    server.close()


# ── Hostile feeds ────────────────────────────────────────────────────────────────────────────────────────────

MB = 1024 * 1024
HEAD, TAIL = b"<rss version='2.0'><channel><title>t</title>", b"</channel></rss>"


def packed(unpacked_mb):
    packer = zlib.compressobj(9, wbits=31)
    for _ in range(unpacked_mb):
        yield packer.compress(b" " * MB)
    yield packer.flush()


def entities(count, size):
    return (b"<!DOCTYPE x [<!ENTITY a '" + b"x" * size + b"'>]><rss><channel><item><title>" + b"&a;" * count
            + b"</title></item></channel></rss>")


HOSTILE_DOCUMENTS = {
    "billion laughs": b"<!DOCTYPE x [<!ENTITY l0 'ha'>" + b"".join(b"<!ENTITY l%d '%s'>" % (n, b"&l%d;" % (n - 1) * 10)
                                                                   for n in range(1, 10)) + b"]><rss>&l9;</rss>",
    "quadratic entities": entities(20_000, 50_000),
    "external entity": b"<!DOCTYPE x [<!ENTITY a SYSTEM "
                       b"'file:///etc/passwd'>]><rss><channel><item><title>&a;</title></item></channel></rss>",
    "a token of 1 MB": HEAD + b"<item><title>" + b"x" * MB + b"</title></item>" + TAIL,
    "a tag of 1 MB": HEAD + b"<item a='" + b"x" * MB + b"'><title>t</title></item>" + TAIL,
    "150,000 attributes": HEAD + b"<item " + b" ".join(b"a%d='1'" % n for n in range(150_000))
    + b"><title>t</title></item>" + TAIL,
    "100,000 entries": HEAD + b"<item/>" * 100_000 + TAIL,
    "35,000 entries": HEAD + b"<item><title>x</title></item>" * 18_000 + TAIL,
    "200,000 deep": HEAD + b"<a>" * 200_000 + b"</a>" * 200_000 + TAIL,
    "30,000 deep": HEAD + b"<item><title>" + b"<a>" * 30_000 + b"</a>" * 30_000 + b"</title></item>" + TAIL,
    "wrong charset": b"<?xml version='1.0' encoding='utf-16'?>" + HEAD
    + b"<item><title>\xff\xfe\xe9</title></item>" * 1_000 + TAIL,
    "unknown charset": b"<?xml version='1.0' encoding='x-none'?>" + HEAD + b"<item><title>\xe9</title></item>" + TAIL,
    "unclosed CDATA": HEAD + b"<item><title><![CDATA[" * 70_000, "unclosed comments": HEAD + b"<!-- " * 400_000,
    "openings": b"<" * 2 * MB,
    "ampersands": HEAD + b"<item><title>" + b"&" * MB + b"</title></item>" + TAIL, "spaces": b" " * 2 * MB,
    "zeros": b"\0" * 2 * MB,
    "open tags in an entry": HEAD + b"<item><description><![CDATA[" + b"<div><p" * 200_000 + b"]]></description></item>"
    + TAIL,
    "JSON, 200,000 deep": b'{"version":"https://jsonfeed.org/version/1.1","items":' + b"[" * 200_000 + b"]" * 200_000
    + b"}",
    "JSON, a long number": b'{"version":"https://jsonfeed.org/version/1.1","items":[{"id":' + b"9" * MB + b"}]}",
    "a web page of links": b"<html>" + b"<link rel=alternate type=application/rss+xml " * 40_000,
    "a link that never ends": b"<html>" + b"<link rel=" * 180_000,
    "noise": bytes(range(256)) * 4_000,
}


def streamed(pieces, headers=b"\r\n", pause_s=0.0, status=b"200 OK"):
    """An answer written by hand, piece by piece, for as long as somebody reads it. `headers` includes the empty line
    that ends the head."""
    async def answer(reader, writer):
        with contextlib.suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 " + status + b"\r\n" + headers)
            for piece in pieces():
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause_s)
        writer.close()
    return answer


def for_ever(piece):
    def pieces():
        while True:
            yield piece
    return pieces


def hostile_answers(size):
    gzipped = b"Content-Encoding: gzip\r\n\r\n"
    return {
        "a gzip bomb": streamed(lambda: packed(size(200, 10_000)), gzipped),
        "endless gzip of nothing": streamed(for_ever(gzip.compress(b"")), gzipped),
        "damaged gzip": streamed(lambda: [b"x" * 100], gzipped),
        "half of a gzip": streamed(lambda: [gzip.compress(b"x" * MB)[:50]], gzipped),
        "another packing": streamed(lambda: [b"x"], b"Content-Encoding: br\r\n\r\n"),
        "endless": streamed(for_ever(b"x" * 65_536)), "an endless drip": streamed(for_ever(b"x"), pause_s=0.01),
        "silence": streamed(for_ever(b""), pause_s=0.05),
        "endless headers": streamed(for_ever(b"X: y\r\n"), b""),
        "one endless header": streamed(for_ever(b"x" * 65_536), b"X: "),
        "headers that drip": streamed(for_ever(b"X"), b"X: ", 0.01),
        "endless promises": streamed(for_ever(b"HTTP/1.1 100 Continue\r\n\r\n"), status=b"100 Continue"),
        "a lying length": streamed(lambda: [HEAD], b"Content-Length: 1000000\r\n\r\n"),
        "a length of nonsense": streamed(lambda: [HEAD], b"Content-Length: -1\r\n\r\n"),
        "endless chunks": streamed(for_ever(b"1\r\nx\r\n"), b"Transfer-Encoding: chunked\r\n\r\n"),
        "an endless chunk": streamed(for_ever(b"x" * 65_536), b"Transfer-Encoding: chunked\r\n\r\nffffffffff\r\n"),
        "an endless redirect": streamed(lambda: [], b"Location: /again\r\n\r\n", status=b"302 Found"),
        "no HTTP": streamed(for_ever(b"x" * 65_536), b"", status=b""),
    }


class Watch:
    """While it is entered, measures how late the loop's ticks are, the server's memory, its readers' memory, and how
    much each answer brought."""

    def __init__(self, monkeypatch):
        self.late_s, self.read, self.peak_mb, self.readers = [], [], 0, []
        body, execute = door._body, asyncio.create_subprocess_exec

        async def counted(response):
            try:
                return await body(response)
            finally:
                self.read.append(response.content.total_raw_bytes)

        async def followed(*command, **options):
            reader = await execute(*command, **options)
            self.readers.append([reader.pid, 0])
            return reader
        monkeypatch.setattr(door, "_body", counted)
        monkeypatch.setattr(asyncio, "create_subprocess_exec", followed)

    async def __aenter__(self):
        self.base_mb, self._task = memory_mb("self", "VmRSS"), asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_):
        self._task.cancel()

    async def _tick(self):
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(0.01)
            self.late_s.append(time.perf_counter() - begun - 0.01)
            self.peak_mb = max(self.peak_mb, memory_mb("self", "VmRSS"))
            for one in self.readers[-1:]:
                one[1] = max(one[1], memory_mb(one[0], "VmHWM"))


def memory_mb(pid, kind):
    try:
        with open(f"/proc/{pid}/status") as status:
            return next((int(line.split()[1]) / 1024 for line in status if line.startswith(kind)), 0)
    except OSError:
        return 0


async def outcome(work):
    """(the sentence, the seconds). Anything but a door's or a feed's sentence fails the test."""
    begun = time.monotonic()
    try:
        told = f"{len((await work).entries)} entries"
    except (DoorError, feed_reader.FeedError) as error:
        told = str(error)
    return told, time.monotonic() - begun


async def test_hostile_feeds_stay_within_their_bounds(host, monkeypatch, size, say):      # noqa: F811
    """One feed could stop the chat for everyone, or fill its memory."""
    monkeypatch.setattr(door, "GET_S_MAX", size(0.5, 10.0))
    monkeypatch.setattr(feed_reader, "READ_S_MAX", 60)          # its process goes behind all others
    host.pages |= {f"/{n}": body for n, body in enumerate(HOSTILE_DOCUMENTS.values())}
    usual = memory_mb("self", "VmRSS")
    outcomes = {}
    async with Watch(monkeypatch) as watch:
        for n, name in enumerate(HOSTILE_DOCUMENTS):
            outcomes[name] = await outcome(feed_reader.fetch(host.door, f"{host.url}/{n}"))
        for name, answer in hostile_answers(size).items():
            server = await asyncio.start_server(answer, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            outcomes[name] = await outcome(feed_reader.fetch(Door(is_allowed=lambda ip: True, ports={port}),
                                                             f"http://127.0.0.1:{port}/"))
            server.close()
    late_s = sorted(watch.late_s)
    p99_ms, slowest = late_s[int(len(late_s) * 0.99)] * 1000, max(outcomes, key=lambda name: outcomes[name][1])
    reader_mb = max(peak for _, peak in watch.readers)
    say(f"{len(outcomes)} hostile feeds: at most {max(watch.read) / MB:.1f} MB read (asked 2), "
        f"{outcomes[slowest][1]:.1f} s ({slowest}; asked 10), server +{watch.peak_mb - usual:.0f} MB, reader "
        f"{reader_mb:.0f} MB (asked 64 together above an idle one's 33), loop lag p99 {p99_ms:.0f} ms (asked 50), 0 "
        "exceptions")
    for name, (told, seconds) in outcomes.items():
        print(f"{name:26} {seconds:5.2f} s  {told}")
    assert max(watch.read) <= door.BODY_BYTES_MAX + 2 * door.CHUNK_BYTES
    assert max(seconds for _, seconds in outcomes.values()) < 100 and p99_ms < 500
    assert watch.peak_mb - usual + reader_mb - 33 < 64
    assert len(outcomes) > 30 and sum("entries" in told for told, _ in outcomes.values()) >= 5
    assert not any("ha" * 10 in told or "root" in told for told, _ in outcomes.values())


@pytest.mark.parametrize("wall", ["BODY_BYTES_MAX", "REDIRECTS_MAX", "document type", "READ_S_MAX"])
async def test_each_bound_is_needed(host, monkeypatch, wall):      # noqa: F811
    """Nobody notices the loss of a bound that nothing needs."""
    url = f"{host.url}/feed"
    host.pages["/feed"] = {"BODY_BYTES_MAX": b" " * 3 * MB + rss("a"),
                           "document type": b"<!DOCTYPE rss [<!ENTITY a 'b'>]>" + rss("a")[21:],
                           "REDIRECTS_MAX": lambda request: web.Response(status=302, headers={"Location": "/feed"})
                           if len(host.asked) % 10 else web.Response(body=rss("a")),
                           "READ_S_MAX": rss("a")}[wall]
    monkeypatch.setattr(feed_reader, "READ_S_MAX", 0.01 if wall == "READ_S_MAX" else 60)
    with pytest.raises((DoorError, feed_reader.FeedError)):
        await feed_reader.fetch(host.door, url)
    if wall == "document type":
        monkeypatch.setattr(feed_reader, "plain_document", lambda body, url, charset: body.decode())
        assert len(feed_reader.entries_of(host.pages["/feed"], url)) == 1
        return
    monkeypatch.setattr(door if hasattr(door, wall) else feed_reader, wall, 30 if wall != "BODY_BYTES_MAX" else 9 * MB)
    host.asked.clear()
    assert len((await feed_reader.fetch(host.door, url)).entries) == 1


async def test_whoever_stops_waiting_leaves_no_reader_behind(monkeypatch):
    """Each cut-off fetch would leave a process that eats a processor."""
    reading = asyncio.create_task(feed_reader.read(HOSTILE_DOCUMENTS["150,000 attributes"], "http://x.example/"))
    started, execute = [], asyncio.create_subprocess_exec

    async def spy(*command, **options):
        started.append(await execute(*command, **options))
        return started[0]
    monkeypatch.setattr(asyncio, "create_subprocess_exec", spy)
    while not started:
        await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    with pytest.raises(ProcessLookupError):
        os.kill(started[0].pid, 0)
