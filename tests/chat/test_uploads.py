"""Files: what people attach arrives whole, is shown to those who may read its message, and goes with it."""
import asyncio
import hashlib
import html
import json
import re
import stat
import subprocess
import sys
import uuid

import pytest

import biff
import eelchat
from conftest import ROOT
from people import Person, a_chat, chat, kept_mails, person      # noqa: F401
from plugins import file_bytes, files
from store import delete, evict

HTMX = {"HX-Request": "true"}


@pytest.fixture
async def two(chat, person, monkeypatch):      # noqa: F811
    """Ann, an admin, with Bob in her channel; the channel's path."""
    ann, bob = [await person(f"{name}@example.com") for name in ("ann", "bob")]
    community, channel = await ann.new_channel()
    await bob.join(community)
    monkeypatch.setattr(eelchat, "POSTS_A_PERSON", (1_000, 10))
    return ann, bob, channel


def on_disk(chat):      # noqa: F811
    """The hashes of the bytes that are kept."""
    return {path.name for path in (chat["biff/config"]["data"] / "files").iterdir()}


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


async def until(is_so):
    async with asyncio.timeout(60):
        while not is_so():
            await asyncio.sleep(0.01)


async def post(one, channel, text, *ids, id=None):
    return await one.post(channel, {"text": text, "post": str(id or uuid.uuid4()), "files": " ".join(ids)}, channel,
                          HTMX)


# ── Sending ──────────────────────────────────────────────────────────────────────────────────────────────────

async def test_a_message_with_files_reaches_open_pages_and_those_that_come_later(chat, two):      # noqa: F811
    """Files would be where nobody finds them, or would look different for those who were there."""
    ann, bob, channel = two
    socket = await bob.listen(channel)
    ids = await ann.say_with(channel, "look", "a & b.txt", "two.pdf")
    frame, page = await socket.receive_str(timeout=60), (await bob.get(channel)).body_text
    shown = re.compile(r'<ul class="files.*?</ul>', re.DOTALL)
    assert shown.search(frame)[0] == shown.search(page)[0]
    for id, name in zip(ids, ["a & b.txt", "two.pdf"]):
        assert f"<bdi>{html.escape(name)}</bdi>" in page and f'href="{channel}/file/{id}"' in page
        answer = await bob.get(f"{channel}/file/{id}")
        assert answer.body_text == name and answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["Content-Disposition"].startswith("attachment")
    assert on_disk(chat) == {sha256("a & b.txt"), sha256("two.pdf")}
    await socket.close()


async def test_a_message_may_be_files_alone_but_not_nothing(two):
    """People would have to invent words for a picture."""
    ann, _, channel = two
    (id,) = await ann.say_with(channel, "", "alone.txt")
    assert f"/file/{id}" in (await ann.get(channel)).body_text
    for text in "", "  ":
        assert (await post(ann, channel, text)).status == 422


async def test_a_post_with_files_that_comes_twice_is_one_message(two):
    """A lost answer would leave a failed message beside the real one."""
    ann, _, channel = two
    id, file = uuid.uuid4(), (await ann.upload(channel, "once.txt", b"once")).id
    answers = await asyncio.gather(*(post(ann, channel, "once", file, id=id) for _ in range(4)))
    assert {answer.status for answer in answers} == {204}
    assert (await ann.get(channel)).body_text.count(f'id="message-{id}"') == 1
    assert (await post(ann, channel, "again", file)).status == 409, "in one message only"


async def test_an_upload_whose_answer_was_lost_is_one_upload(chat, two):      # noqa: F811
    """A retry on a bad line would fill one's own bound with copies."""
    ann, bob, channel = two
    first = await ann.upload(channel, "a.txt", b"the same")
    again = await ann.upload(channel, "a.txt", b"the same", first.id)
    assert again.status == 200 and json.loads(again.body_text) == json.loads(first.body_text)
    assert (await bob.upload(channel, "b.txt", b"other", first.id)).status == 409
    assert (await ann.upload(channel, "b.txt", b"the same")).status == 200
    assert len(on_disk(chat)) == 1, "equal bytes are one file"


async def test_files_are_the_servers_own_on_disk(chat, two):      # noqa: F811
    """Another user of the machine would read what people sent each other."""
    ann, _, channel = two
    await ann.say_with(channel, "", "a.txt")
    folder = chat["biff/config"]["data"] / "files"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()] == [0o600]


async def test_an_edit_keeps_the_files_and_may_take_the_words(two):
    """Mending a word would lose the picture that it is about."""
    ann, _, channel = two
    id = uuid.uuid4()
    (file,) = await ann.say_with(channel, "wrods", "a.txt", post=id)
    for text in "words", "":
        assert (await ann.post(f"{channel}/message/{id}", {"text": text}, channel, HTMX)).status == 204
        page = (await ann.get(channel)).body_text
        assert f"/file/{file}" in page and "wrods" not in page


async def test_a_file_is_taken_piece_by_piece(chat, two, monkeypatch):      # noqa: F811
    """Ten large uploads at once would be ten large uploads in memory."""
    ann, _, channel = two
    pieces, taken = [], biff.body_of

    async def noted(*args):
        async for piece in taken(*args):
            pieces.append(len(piece))
            yield piece
    monkeypatch.setattr(biff, "body_of", noted)
    answer = await ann.upload(channel, "large.bin", bytes(9_000_000))
    assert answer.status == 200 and sum(pieces) == 9_000_000 and max(pieces) < 1_000_000
    assert chat["biff/places"].pending == 0
    async with ann.browser.get(f"{ann.base}{channel}/file/{answer.id}") as got:
        assert await got.read() == bytes(9_000_000)


async def test_a_part_of_a_file_can_be_asked_for(two):
    """Sound and film could only be heard and seen from the beginning."""
    ann, bob, channel = two
    (id,) = await ann.say_with(channel, "", "song.ogg", bodies={"song.ogg": b"OggS" + bytes(96)})
    answer = await bob.get(f"{channel}/file/{id}", headers={"Range": "bytes=2-5"})
    assert (answer.status, answer.headers["Content-Range"]) == (206, "bytes 2-5/100")
    assert answer.headers["Content-Type"] == "audio/ogg" and "<audio" in (await bob.get(channel)).body_text
    etag = answer.headers["ETag"]
    assert (await bob.get(f"{channel}/file/{id}", headers={"If-None-Match": etag})).status == 304


# ── Bounds ───────────────────────────────────────────────────────────────────────────────────────────────────

async def test_uploads_beyond_a_bound_are_refused_with_a_sentence(chat, two, monkeypatch):      # noqa: F811
    """One person could fill the disk, and a full disk ends the server."""
    ann, bob, channel = two
    before = chat["biff/node"].latest_tx.tx_id
    monkeypatch.setitem(chat["biff/config"], "file_mb", 1)
    told = {}
    answer = await ann.upload(channel, "large.bin", bytes(1024 ** 2 + 1))
    told[answer.status] = answer.body_text
    answer = await ann.upload(channel, "empty.txt", b"")
    told[answer.status] = answer.body_text
    monkeypatch.setattr(files, "UPLOADED_MB_A_PERSON", 0)
    answer = await ann.upload(channel, "a.txt", b"a")
    told[answer.status] = answer.body_text
    monkeypatch.setattr(file_bytes, "DISK_MB_MIN", 10 ** 12)
    answer = await ann.upload(channel, "a.txt", b"a")
    told[answer.status] = answer.body_text.partition(" If you report")[0]
    assert told == {413: "The file has 1.0 MB; at most 1 MB can be sent.",
                    422: "The file is empty, or is a folder.",
                    429: "One person uploads at most 0 MB in an hour. Try again later.",
                    507: "The disk of the server is nearly full, so it takes no files now. Messages still go."}, told
    assert chat["biff/node"].latest_tx.tx_id == before and on_disk(chat) == set()


async def test_a_body_that_ends_early_or_never_ends_leaves_nothing(chat, two, monkeypatch):      # noqa: F811
    """Half a file would be shown as a whole one, or a line that drips would hold a place for ever."""
    ann, _, channel = two
    monkeypatch.setattr(files, "PIECE_S_MAX", 0.2)
    token, cookie = await ann.token(), next(iter(ann.browser.cookie_jar))
    head = (f"POST {channel}/file/{uuid.uuid4()}?name=a HTTP/1.1\r\nHost: x\r\nOrigin: {ann.base}\r\n"
            f"Cookie: {cookie.key}={cookie.value}\r\nX-CSRF-Token: {token}\r\nContent-Length: 1000\r\n\r\n")
    statuses = []
    for is_closed in False, True:
        reader, writer = await asyncio.open_connection("127.0.0.1", chat["biff/port"])
        writer.write(head.encode() + b"half")
        if is_closed:
            writer.write_eof()
        statuses.append((await reader.read())[9:12])
        writer.close()
    assert statuses[0] == b"408" and on_disk(chat) == set()
    await until(lambda: not chat["chat_uploads"]._running.total())


async def test_files_that_nobody_posts_are_few_and_go_after_a_day(chat, two, monkeypatch):      # noqa: F811
    """Uploads that no message names would fill the disk unseen."""
    ann, _, channel = two
    monkeypatch.setattr(files, "UNPOSTED_MAX", 3)
    ids = [(await ann.upload(channel, f"{n}.txt", b"%d" % n)).id for n in range(3)]
    answer = await ann.upload(channel, "more.txt", b"more")
    assert answer.status == 429 and "not posted yet" in answer.body_text and len(on_disk(chat)) == 3
    removed = await ann.post(f"{channel}/file/{ids[0]}", page=channel, method="DELETE")
    assert removed.status == 204
    await until(lambda: len(on_disk(chat)) == 2)
    assert (await post(ann, channel, "one", ids[1])).status == 204
    now = chat["biff/clock"]
    chat["biff/clock"] = lambda: now() + files.UNPOSTED_LASTS * 2
    await files.sweep(biff.assoc_db(chat))
    await until(lambda: on_disk(chat) == {sha256("1")})
    chat["biff/clock"] = now
    assert (await ann.get(f"{channel}/file/{ids[2]}")).status == 404
    assert (await post(ann, channel, "two", ids[2])).status == 409


async def test_a_message_has_at_most_ten_files(two, monkeypatch):
    """One message would be longer than a page."""
    ann, _, channel = two
    monkeypatch.setattr(files, "FILES_A_MESSAGE", 2)
    ids = [(await ann.upload(channel, f"{n}.txt", b"%d" % n)).id for n in range(3)]
    assert (await post(ann, channel, "", *ids)).status == 422 and (await post(ann, channel, "", *ids[1:])).status == 204
    assert (await post(ann, channel, "", "no id")).status == 422


# ── Who may ──────────────────────────────────────────────────────────────────────────────────────────────────

async def test_a_file_is_open_to_those_alone_who_may_read_its_message(chat, two, person):      # noqa: F811
    """A picture sent to two people would be anybody's who learns its address."""
    ann, bob, channel = two
    eve, visitor = await person("eve@example.com"), await person()
    community = channel.partition("/channel")[0]
    private = (await ann.post(f"{community}/channel", {"title": "two", "private": "on"}, community)).url.path
    own = (await eve.new_channel())[1]
    (open_file,), (secret,) = await ann.say_with(channel, "", "a.txt"), await ann.say_with(private, "", "secret.txt")
    unposted = (await ann.upload(channel, "not.txt", b"not yet")).id
    wrong = []
    for file, path, may in ((open_file, channel, [ann, bob]), (secret, private, [ann]), (unposted, channel, [ann])):
        for around in path, channel, private, own, own.partition("/channel")[0] + "/channel/" + path.rpartition("/")[2]:
            for one in ann, bob, eve, visitor:
                for address in f"{around}/file/{file}", f"{around}/file/{file}?save":
                    answer = await one.get(address)
                    is_got = answer.body_text in ("a.txt", "secret.txt", "not yet")
                    wrong += [(one, address)] if is_got != (around == path and one in may) else []
    assert not wrong
    assert (await post(bob, channel, "mine", unposted)).status == 409, "nobody posts what another one uploaded"
    assert (await bob.post(f"{channel}/file/{unposted}", page=channel, method="DELETE")).status == 404
    assert (await ann.post(f"{channel}/file/{open_file}", page=channel, method="DELETE")).status == 403


async def test_a_member_who_is_removed_gets_no_file_any_more(chat, two):      # noqa: F811
    """A right that ends would go on for as long as one remembers an address."""
    ann, bob, channel = two
    (id,) = await ann.say_with(channel, "", "a.txt")
    answer = await bob.get(f"{channel}/file/{id}")
    assert answer.body_text == "a.txt" and answer.headers["Cache-Control"] == "private, no-cache"
    db = chat["biff/node"].db()
    mem = biff.lookup_id(db, "mem/user", biff.lookup_id(db, "user/email", "bob@example.com"))
    await chat["biff/node"].submit([delete(mem)])
    again = await bob.get(f"{channel}/file/{id}", headers={"If-None-Match": answer.headers["ETag"]},
                          allow_redirects=False)
    assert again.status == 303


# ── Erasing ──────────────────────────────────────────────────────────────────────────────────────────────────

async def test_deleting_the_last_message_with_a_file_erases_its_bytes(chat, two):      # noqa: F811
    """What people take back would stay on the disk, and in every backup after."""
    ann, _, channel = two
    one, other = uuid.uuid4(), uuid.uuid4()
    for id in one, other:
        await ann.say_with(channel, "", "same.txt", post=id)
    (file,) = await ann.say_with(channel, "", "kept.txt")
    assert on_disk(chat) == {sha256("same.txt"), sha256("kept.txt")}
    assert (await ann.post(f"{channel}/message/{one}", page=channel, headers=HTMX, method="DELETE")).status == 204
    await asyncio.gather(*(queue.join() for queue in chat["biff/queues"].values()))
    assert sha256("same.txt") in on_disk(chat), "another message names the same bytes"
    await ann.post(f"{channel}/withdraw", {"post": str(other)}, channel, HTMX)
    await until(lambda: on_disk(chat) == {sha256("kept.txt")})
    assert (await ann.get(f"{channel}/file/{file}")).body_text == "kept.txt"


@pytest.mark.parametrize("lose", ["delete", "evict", "channel"])
async def test_files_go_with_a_message_or_channel_however_it_goes(chat, two, lose):      # noqa: F811
    """An eviction at the shell, or a deleted channel, would leave the pictures behind."""
    ann, _, channel = two
    id = uuid.uuid4()
    (file,) = await ann.say_with(channel, "", "a.txt", post=id)
    if lose == "channel":
        await ann.post(channel, page=channel, method="DELETE")
    else:
        await chat["biff/node"].submit([{"delete": delete, "evict": evict}[lose](id)])
    await until(lambda: on_disk(chat) == set())
    assert chat["biff/node"].db().entity(uuid.UUID(file)) is None


async def test_bytes_without_a_document_are_swept_at_the_next_start(tmp_path, monkeypatch):
    """A crash between the bytes and the transaction would leave files for ever."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / ("0" * 64)).write_bytes(b"of nobody"), (folder / "half.new").write_bytes(b"half")
    system = await a_chat(tmp_path, kept_mails(monkeypatch))
    await until(lambda: not list(folder.iterdir()))
    await biff.stop_system(system)


async def test_what_another_worker_is_taking_is_not_erased(tmp_path):
    """Two people send one picture by two workers while a third deletes it: a message would name bytes that are gone."""
    kept, sha256 = file_bytes.Bytes(tmp_path / "files"), "ab" * 32
    kept.path(sha256).write_bytes(b"bytes"), kept.new_path().write_bytes(b"half")
    program = f"""if True:
        import pathlib
        from plugins import file_bytes
        with file_bytes.Bytes(pathlib.Path({str(tmp_path / "files")!r})).holding([{sha256!r}]):
            print("held", flush=True)
            input()"""
    other = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, text=True, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
    assert other.stdout.readline() == "held\n" and len(list(kept.folder.glob("*.new"))) == 1, "an upload under way"
    await kept.drop(sha256, (), lambda sha256: False)
    assert kept.path(sha256).exists()
    other.communicate("\n")
    await kept.drop(sha256, (), lambda sha256: False)
    assert not kept.path(sha256).exists() and not await kept.names()


async def test_a_file_whose_bytes_are_missing_says_so(chat, two):      # noqa: F811
    """After a restore without the folder of the files, pages would fail instead of telling what to do."""
    ann, _, channel = two
    (id,) = await ann.say_with(channel, "", "a.txt")
    (chat["biff/config"]["data"] / "files" / sha256("a.txt")).unlink()
    answer = await ann.get(f"{channel}/file/{id}", headers=HTMX)
    assert answer.status == 404 and "lost the bytes" in answer.body_text


async def test_a_file_taken_back_while_it_is_fetched_is_not_lost(chat, two, monkeypatch, caplog):      # noqa: F811
    """Without this, whoever runs the chat would look in backups for what somebody has deleted."""
    ann, _, channel = two
    (id,) = await ann.say_with(channel, "", "a.txt")
    kept = chat["chat_bytes"]
    found = kept.found

    async def gone_meanwhile(sha256):
        await chat["biff/node"].submit([evict(uuid.UUID(id))])
        await until(lambda: not kept.path(sha256).exists())
        return await found(sha256)
    monkeypatch.setattr(kept, "found", gone_meanwhile)
    answer = await ann.get(f"{channel}/file/{id}", headers=HTMX)
    assert answer.status == 404 and "not there any more" in answer.body_text
    assert not [one for one in caplog.records if one.levelname == "ERROR"]
    assert (await ann.get(channel)).status == 200


# ── Walls ────────────────────────────────────────────────────────────────────────────────────────────────────

NAMES = ["../../etc/passwd", "..\\..\\boot.ini", "/etc/shadow", "a\0b.txt", "x" * 300 + ".txt", "\u202egnp.exe",
         '"; filename="evil.exe', "a\r\nX-Evil: 1.txt", "<img src=x onerror=alert(1)>.png.txt", "\ud83d\ude00.txt",
         "….txt", " . . ", "", ".htaccess", "CON",
         "a" * 119 + ".ext", "é́́́́.txt", "\u2066\u2069.txt", "%00%2f.txt", "a;b=c.txt"]


async def test_hostile_names_are_text_and_lead_nowhere(chat, two, say):      # noqa: F811
    """A name could be a header, a path, or markup; or show another extension than it has."""
    ann, bob, channel = two
    wrong = []
    for name in NAMES:
        name = name.encode("utf-16", "surrogatepass").decode("utf-16")
        answer = await ann.upload(channel, name, name.encode() or b"x")
        kept = json.loads(answer.body_text)["name"]
        assert (await post(ann, channel, "", answer.id)).status == 204
        got = await bob.get(f"{channel}/file/{answer.id}")
        disposition = got.headers["Content-Disposition"]
        bad = re.search(r"[\0-\x1f\u202a-\u202e\u2066-\u2069/\\]|^\.", kept) or not 1 <= len(kept) <= 120
        bad = bad or "X-Evil" in got.headers or not re.fullmatch(
            r"attachment; filename=\"[^\"\\]*\"; filename\*=UTF-8''[\w.~%-]+", disposition)
        wrong += [name] if bad or not disposition.isascii() else []
    page = (await bob.get(channel)).body_text
    say(f"{len(NAMES)} hostile names: {len(wrong)} wrong, asked 0")
    assert not wrong and "<img src=x" not in page and "&lt;img src=x" in page
    assert all(re.fullmatch("[0-9a-f]{64}", name) for name in on_disk(chat))


MARKUP = [b"<!doctype html><script>alert(1)</script>", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
          b"<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'><script>alert(1)</script></html>",
          b"%PDF-1.4 <script>app.alert(1)</script>", b"\xff\xfe<\0s\0c\0r\0i\0p\0t\0", b"OggS<script>alert(1)</script>"]


async def test_whatever_a_file_holds_it_runs_nothing(two):
    """A page among the files would act as whoever opens it."""
    ann, bob, channel = two
    for number, body in enumerate(MARKUP):
        for extension in "html", "svg", "xhtml", "txt":
            (id,) = await ann.say_with(channel, "", f"{number}.{extension}", bodies={f"{number}.{extension}": body})
            answer = await bob.get(f"{channel}/file/{id}", allow_redirects=False)
            assert answer.headers["Content-Disposition"].startswith("attachment")
            assert answer.headers["Content-Type"] in ("application/octet-stream", "application/pdf", "audio/ogg")
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"


# ── Several servers on one log ───────────────────────────────────────────────────────────────────────────────

@pytest.fixture
async def servers(tmp_path, log_url, monkeypatch, patient):
    """Two servers on one log, each with a folder of its own."""
    mails, started = kept_mails(monkeypatch), []
    for name in "one", "two":
        given = eelchat.initial_system({"data": str(tmp_path / name), "port": 0, "log": log_url})
        started.append(await biff.start_system(eelchat.COMPONENTS, given) | {"mails": mails})
    yield started
    for system in started:
        await biff.stop_system(system)


async def settled(*systems):
    """Each server has read the log to its end."""
    newest = max(system["biff/node"].db().tx_id for system in systems)
    await until(lambda: all(system["biff/node"].db().tx_id >= newest for system in systems))


async def test_a_file_is_on_every_server_and_is_erased_on_all(servers, log_url):
    """People on the other server would see a broken picture, or one that was deleted."""
    import psycopg
    one, two = servers
    ann = Person(one)
    try:
        await ann.sign_in("ann@example.com")
        channel, id = (await ann.new_channel())[1], uuid.uuid4()
        (file,) = await ann.say_with(channel, "", "a.txt", bodies={"a.txt": bytes(3_000_000)}, post=id)
        await settled(one, two)
        assert len(on_disk(one)) == 1 and not on_disk(two)
        ann.base = two["biff/base-url"]
        got = await asyncio.gather(*(ann.get(f"{channel}/file/{file}") for _ in range(5)))
        assert {len(answer.body_text) for answer in got} == {3_000_000} and on_disk(two) == on_disk(one)
        await ann.post(f"{channel}/message/{id}", page=channel, headers=HTMX, method="DELETE")
        await until(lambda: not on_disk(one) and not on_disk(two))
        with psycopg.connect(log_url) as connection:
            for table in "chat_files", "chat_file_pieces", "chat_file_uses":
                async with asyncio.timeout(60):
                    while connection.execute(f"select count(*) from {table}").fetchone() != (0,):
                        connection.rollback()
                        await asyncio.sleep(0.02)
    finally:
        await ann.browser.close()


async def test_an_upload_and_an_erasure_of_the_same_bytes_agree(tmp_path, log_url):
    """Of two servers one could erase what the other one was just given."""
    one, two = [await file_bytes.opened(tmp_path / name, log_url) for name in ("one", "two")]
    for n in range(20):
        body = b"%d" % n
        hashed, first, second = hashlib.sha256(body).hexdigest(), uuid.uuid4(), uuid.uuid4()

        async def keep(kept, id):
            path = kept.new_path()
            path.write_bytes(body)
            await kept.keep(id, {hashed: path})
        await keep(one, first)
        await asyncio.gather(one.drop(hashed, [first], lambda _: False), keep(two, second))
        three = await file_bytes.opened(tmp_path / "three", log_url)
        assert (await three.found(hashed)).read_bytes() == body
        await two.drop(hashed, [second], lambda _: False)
        three._unlink(hashed)
        assert await three.found(hashed) is None


async def test_the_folder_beside_postgres_keeps_within_its_bound(tmp_path, log_url, monkeypatch):
    """The disk of each server would fill with all that anybody ever sent."""
    monkeypatch.setattr(file_bytes, "CACHE_MB_MAX", 1)
    kept, hashes = await file_bytes.opened(tmp_path / "one", log_url), []
    for n in range(5):
        path = kept.new_path()
        path.write_bytes(bytes([n]) * 400_000)
        hashes.append(file_bytes.hash_of(path))
        await kept.keep(uuid.uuid4(), {hashes[-1]: path})
    assert kept.bytes <= 1024 ** 2 and len(list((tmp_path / "one").iterdir())) == 2
    assert (await kept.found(hashes[0])).stat().st_size == 400_000 and kept.bytes <= 1024 ** 2
