"""Pictures: people see them where they were sent, small and large; what hides in them goes, and no bomb goes off."""
import asyncio
import base64
import io
import os
import pathlib
import random
import struct
import time
import uuid
import zlib

import pytest
from PIL import Image, ImageDraw

import biff
from people import chat, person      # noqa: F401
from plugins import pictures
from store import put
from test_browser import two_in_a_channel
from test_escaping import payloads, tree      # noqa: F401
from test_uploads import on_disk, post, two      # noqa: F401

SHOTS = os.environ.get("SHOTS")           # a folder for pictures of the pages


def picture(width=600, height=400, format="JPEG", colour=(40, 120, 110), **options):
    """A picture of this size, as bytes."""
    made = Image.new("RGB", (width, height), colour)
    ImageDraw.Draw(made).ellipse((width // 5, height // 5, width * 3 // 5, height * 4 // 5), (240, 200, 120))
    written = io.BytesIO()
    made.save(written, format, **options)
    return written.getvalue()


def chunk(type, data):
    return struct.pack(">I", len(data)) + type + data + struct.pack(">I", zlib.crc32(type + data))


def bare_png(width, height, data=b"", *more):
    """A PNG that says it is so large, whatever it holds."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")


def moving(count, width=2, height=2):
    """A GIF of so many frames, made without holding them."""
    one = io.BytesIO()
    Image.new("L", (width, height)).save(one, "GIF")
    one = one.getvalue()
    start = one.index(b",", 13)
    return one[:start] + one[start:-1] * count + b";"


def opened(body):
    return Image.open(io.BytesIO(body))


async def got(one, path):
    async with one.browser.get(one.base + path) as answer:
        return answer, await answer.read()


# ── What becomes of a picture ────────────────────────────────────────────────────────────────────────────────

KINDS = [("JPEG", "a.jpg", "image/jpeg"), ("PNG", "a.png", "image/png"), ("GIF", "a.gif", "image/gif"),
         ("WEBP", "a.webp", "image/webp"), ("AVIF", "a.avif", "image/webp")]


@pytest.mark.parametrize("format, name, type", KINDS)
async def test_a_picture_is_shown_upright_and_stripped_with_a_small_one(two, format, name, type):      # noqa: F811
    """Where somebody lives stands in the pictures of their telephone, and half of them would lie on their side."""
    ann, bob, channel = two
    exif = Image.Exif()
    exif[0x0112], exif[0x010e], exif[0x8825] = 6, "HIDDEN <script>alert(1)</script>", {1: "N", 2: (51.0, 2.0, 0.0)}
    options = {} if format == "GIF" else {"exif": exif}
    body = picture(1600, 800, format, **options)
    if format == "JPEG":
        body += b"PK\3\4<script>HIDDEN</script>"
    assert format == "GIF" or b"HIDDEN" in body
    answer = await ann.upload(channel, name, body)
    assert answer.status == 200, answer.body_text
    assert (await post(ann, channel, "", answer.id)).status == 204
    answer, whole = await got(bob, f"{channel}/file/{answer.id}")
    small = (await got(bob, f"{answer.url.path}/small"))[1]
    assert answer.content_type == type and answer.headers["Content-Disposition"].startswith("inline")
    assert opened(whole).size == ((1600, 800) if format == "GIF" else (800, 1600))
    assert opened(small).size == ((800, 400) if format == "GIF" else (300, 600))
    for one in whole, small:
        assert b"HIDDEN" not in one and not opened(one).getexif() and b"script" not in one
    page = (await bob.get(channel)).body_text
    assert ('width="400" height="200"' if format == "GIF" else 'width="150" height="300"') in page
    assert 'alt="a.' in page and "data-picture" in page


async def test_a_moving_picture_still_moves(two):      # noqa: F811
    """A joke in twelve frames would stop at the first."""
    ann, bob, channel = two
    frames = [Image.new("RGB", (60, 40), (20 * n, 0, 0)) for n in range(12)]
    for format in "GIF", "WEBP", "PNG":
        written = io.BytesIO()
        frames[0].save(written, format, save_all=True, append_images=frames[1:], duration=80, loop=0)
        answer = await ann.upload(channel, f"a.{format.lower()}", written.getvalue())
        whole = opened((await got(ann, f"{channel}/file/{answer.id}"))[1])
        whole.seek(5)
        whole.load()
        assert whole.n_frames == 12 and whole.info["duration"] == 80
        await post(ann, channel, "", answer.id)
    assert (await bob.get(channel)).body_text.count('class="moving"') == 3


async def test_the_small_picture_of_a_file_is_for_its_readers_alone(two, person):      # noqa: F811
    """A second address of the same picture could forget to ask."""
    ann, bob, channel = two
    eve = await person("eve@example.com")
    id = (await ann.upload(channel, "a.png", picture(format="PNG"))).id
    for one, status in (ann, 200), (bob, 404), (eve, 303):
        assert (await one.get(f"{channel}/file/{id}/small", allow_redirects=False)).status == status
    await post(ann, channel, "", id)
    assert (await bob.get(f"{channel}/file/{id}/small")).status == 200
    plain = (await ann.upload(channel, "a.txt", b"a")).id
    assert (await ann.get(f"{channel}/file/{plain}/small")).status == 404


# ── What is refused ──────────────────────────────────────────────────────────────────────────────────────────

def bombs(rnd):
    """(name, bytes, what the sentence says): each is a picture that nobody should open."""
    whole, html = picture(1200, 900, "PNG"), b"<!doctype html><script>alert(1)</script>"
    return [
        ("100 megapixels.png", bare_png(10_000, 10_000, bytes(30_001_000)), "million"),
        ("3600 megapixels.png", bare_png(60_000, 60_000), "million"),
        ("too many frames.gif", moving(10_000), "frames"),
        ("too large frames.gif", moving(40, 2_000, 2_000), "frames"),
        ("text.png", bare_png(2, 2, bytes(14), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000), 9))),
         "read"),
        ("cut.jpg", picture(1200, 900, quality=95)[:5_000], "read"), ("cut.png", whole[:len(whole) // 2], "read"),
        ("cut.gif", picture(format="GIF")[:900], "read"), ("cut.webp", picture(format="WEBP")[:700], "read"),
        ("cut.avif", picture(format="AVIF")[:600], "read"),
        ("svg.png", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "no picture"),
        ("html.jpg", html, "no picture"), ("html after magic.jpg", b"\xff\xd8\xff\xe0" + html, "read"),
        ("html after magic.gif", b"GIF89a" + html, "read"),
        ("html after magic.png", b"\x89PNG\r\n\x1a\n" + html, "read"),
        ("noise.webp", b"RIFF\xff\xff\xff\x7fWEBPVP8L" + rnd.randbytes(5_000), "read"),
        ("noise.avif", b"\0\0\0\x20ftypavif" + rnd.randbytes(5_000), "read"),
        *((f"flipped {n}.jpg", flipped(rnd, picture(300, 200)), "") for n in range(3)),
        *((f"flipped {n}.png", flipped(rnd, picture(300, 200, "PNG")), "") for n in range(3)),
    ]


def flipped(rnd, body):
    body = bytearray(body)
    for _ in range(20):
        body[rnd.randrange(len(body))] = rnd.randrange(256)
    return bytes(body)


async def test_bombs_and_broken_pictures_are_refused_and_the_chat_goes_on(chat, two, seed, say):      # noqa: F811
    """One picture could take the memory of the machine, and everybody else would wait for it."""
    ann, bob, channel = two
    rnd, wrong, refused = random.Random(seed), [], 0

    async def page_s():
        begun = time.perf_counter()
        assert (await bob.get(channel)).status == 200
        return time.perf_counter() - begun
    calm, slowest = max([await page_s() for _ in range(60)]), 0.0
    for name, body, word in bombs(rnd):
        sending = asyncio.create_task(ann.upload(channel, name, body))
        while not sending.done():
            slowest = max(slowest, await page_s())
            await asyncio.sleep(0.03)
        answer = await sending
        refused += answer.status == 422
        if word and (answer.status != 422 or word not in answer.body_text) or answer.status not in (200, 422):
            wrong.append((name, answer.status, answer.body_text))
    say(f"{refused} bombs and broken pictures refused, {len(wrong)} otherwise, asked 0; meanwhile a page took at most "
        f"{slowest * 1000:.0f} ms, asked 100; before it {calm * 1000:.0f}")
    assert not wrong and refused >= 17
    assert not [name for name in on_disk(chat) if name.endswith(".new")]


BOUNDS = [("MEMORY_BYTES_MAX", 120 * 1024 ** 2), ("WRITTEN_BYTES_MAX", 10_000), ("READ_S_MAX", 0)]


@pytest.mark.parametrize("bound, value", BOUNDS)
async def test_each_bound_of_the_process_holds_by_itself(tmp_path, bound, value):
    """A bound that is never reached is one that nobody knows to hold."""
    noise = io.BytesIO()
    Image.effect_noise((3_000, 2_000), 90).convert("RGB").save(noise, "JPEG", quality=80)
    (tmp_path / "in").write_bytes(noise.getvalue())
    assert (await pictures.remade(tmp_path / "in", tmp_path / "a", tmp_path / "b")).width == 3_000
    pictures.end()
    code = pathlib.Path(pictures.__file__).read_text()
    changed = tmp_path / "changed.py"
    changed.write_text(code.replace(f"\n{bound} = ", f"\n{bound} = {value}  # "))
    process = await asyncio.create_subprocess_exec(
        "python", "-c", f"import asyncio, pathlib, sys; sys.path.insert(0, {str(tmp_path)!r})\nimport changed\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "try:\n    asyncio.run(changed.remade(folder / 'in', folder / 'c', folder / 'd'))\n"
        "except changed.PictureError as error:\n    print(error)", stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert b"The picture" in out


# ── In a browser ─────────────────────────────────────────────────────────────────────────────────────────────

async def shot(page, name):
    if SHOTS:
        await page.screenshot(path=f"{SHOTS}/{name}.png")


async def at_end(page):
    """True if the list stands at its end."""
    return await page.evaluate("""() => { const list = document.querySelector('#messages');
        return list.scrollHeight - list.scrollTop - list.clientHeight < 2; }""")


DROP = """([name, base64]) => { const data = new DataTransfer();
    const bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0));
    data.items.add(new File([bytes], name, {type: "image/png"}));
    const at = document.querySelector("#messages");
    at.dispatchEvent(new DragEvent("dragover", {bubbles: true, cancelable: true, dataTransfer: data}));
    at.dispatchEvent(new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer: data})); }"""
PASTE = """([name, base64]) => { const data = new DataTransfer();
    const bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0));
    data.items.add(new File([bytes], name, {type: "image/png"}));
    const options = {bubbles: true, cancelable: true, clipboardData: data};
    document.querySelector("#text").dispatchEvent(new ClipboardEvent("paste", options)); }"""
DONE = "count => document.querySelectorAll('#attachments li.done').length === count"
LOADED = "() => [...document.querySelectorAll('#messages .picture img')].every(one => one.complete && one.naturalWidth)"


async def test_pictures_are_attached_sent_seen_and_opened_in_two_windows(server, window):
    """People would have to send pictures by another program."""
    ann, bob = [await window(viewport={"width": width, "height": 800}) for width in (1280, 390)]
    await two_in_a_channel(server, ann, bob)
    files = [{"name": f"{name}.jpg", "mimeType": "image/jpeg", "buffer": picture(*size, colour=colour)}
             for name, size, colour in (("weir", (1600, 1200), (40, 90, 130)), ("elver", (600, 900), (90, 60, 40)))]
    note = {"name": "notes of the tide.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-1.4 " + bytes(70_000)}
    await ann.set_input_files("#attached", [*files, note])
    await ann.evaluate(DROP, ["dropped.png", base64.b64encode(picture(300, 300, "PNG")).decode()])
    await ann.evaluate(PASTE, ["pasted.png", base64.b64encode(picture(200, 500, "PNG")).decode()])
    await ann.wait_for_function(DONE, arg=5)
    await shot(ann, "compose")
    await ann.click("#attachments li:last-child button[title='Remove']")
    await ann.wait_for_function(DONE, arg=4)
    await ann.reload()
    await ann.wait_for_selector("#messages[data-live]")
    await ann.wait_for_function(DONE, arg=4)
    await ann.fill("#text", "The weir this morning")
    await ann.press("#text", "Enter")
    for page in ann, bob:
        await page.wait_for_selector(".message:not(.pending) .files li:nth-child(4)")
        await page.wait_for_function(LOADED)
        assert await at_end(page)
    await bob.click(".picture a >> nth=1")
    await bob.wait_for_selector("#lightbox[open]")
    await shot(bob, "lightbox-390")
    await bob.go_back()
    await bob.wait_for_selector("#lightbox:not([open])", state="attached")
    await ann.focus(".picture a >> nth=0")
    await ann.keyboard.press("Enter")
    await ann.wait_for_function("() => document.querySelector('#lightbox-place')?.textContent === '1 of 3'")
    await ann.wait_for_function("() => document.querySelector('#lightbox-picture').naturalWidth === 1600")
    await shot(ann, "lightbox")
    await ann.keyboard.press("ArrowRight")
    await ann.wait_for_function("() => document.querySelector('#lightbox-name').textContent === 'elver.jpg'")
    await ann.keyboard.press("Escape")
    await ann.wait_for_selector("#lightbox:not([open])", state="attached")
    assert await ann.evaluate("document.activeElement.matches('.picture a')")


async def test_a_failed_upload_is_tried_again_and_its_message_waits(server, window):
    """On a train, a picture would be lost, or its message would go without it."""
    ann, bob = await window(allow=[r"ERR_FAILED", r"status of 422"]), await window()
    await two_in_a_channel(server, ann, bob)
    held, tries = asyncio.Event(), []

    async def bad_line(route):
        tries.append(route.request.url)
        if len(tries) == 1:
            return await route.abort()
        await held.wait()
        await route.continue_()
    await ann.route("**/file/*?name=*", bad_line)
    await ann.set_input_files("#attached", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"on a train"})
    await ann.wait_for_selector("#attachments .failed >> text=The server cannot be reached.")
    await ann.press("#text", "Enter")
    await ann.wait_for_selector("#attach-note >> text=Try it again or remove it")
    await ann.click("#attachments >> text=Retry")
    await ann.fill("#text", "later")
    await ann.press("#text", "Enter")
    await ann.wait_for_selector("#attach-note >> text=as soon as its files are there")
    held.set()
    for page in ann, bob:
        await page.wait_for_selector(".message:not(.pending) >> text=a.txt")
    assert len(set(tries)) == 1 and len(tries) == 2, "the same upload, again"
    assert await ann.input_value("#text") == "" and await ann.is_hidden("#attachments")
    await ann.set_input_files("#attached", {"name": "b.png", "mimeType": "image/png", "buffer": b"<svg/>"})
    await ann.wait_for_selector("#attachments .failed >> text=b.png is no picture")
    assert await ann.is_hidden("#attachments .again")


def named_files(names, mem, channel_id, ids, now):
    """Messages of ten files each, every second one a picture, put past every check of names."""
    documents = []
    for n in range(0, len(names), 10):
        files = [{"xt/id": ids[n + k], "file/name": name, "file/type": "image/png", "file/size": 5,
                  "file/sha256": "0" * 64, "file/chan": channel_id, "file/mem": mem, "file/made-at": now,
                  "file/msg": ids[-1 - n]}
                 | ({"file/width": 40, "file/height": 30, "file/small": "0" * 64} if k % 2 else {})
                 for k, name in enumerate(names[n:n + 10])]
        documents += [*files, {"xt/id": ids[-1 - n], "msg/mem": mem, "msg/text": "", "msg/channel": channel_id,
                               "msg/created-at": now, "msg/files": [file["xt/id"] for file in files]}]
    return [put(document) for document in documents]


async def test_three_hundred_attacks_as_names_of_files_are_text(chat, two, payloads, window, say):      # noqa: F811
    """The name of a file is the one text that people take from a machine that is not theirs."""
    ann, bob, channel = two
    node, channel_id, now = chat["biff/node"], uuid.UUID(channel.rpartition("/")[2]), biff.now(chat)
    mem = node.db().q({"find": "?m", "where": [["?m", "mem/roles", "admin"]]})[0]
    ids = [node.new_id() for _ in range(600)]
    pages = []
    for names in [f"w{n}w" for n in range(len(payloads))], payloads:
        await node.submit(named_files(names, mem, channel_id, ids, now))
        pages.append((await bob.get(channel)).body_text)
    assert pages[0].count("<bdi>w") == 150 and pages[0].count('alt="w') == 150
    assert tree(pages[0], payloads) == tree(pages[1])
    page = await window(allow=[r"status of 404"])
    await page.context.add_cookies([{"name": cookie.key, "value": cookie.value, "url": ann.base}
                                    for cookie in bob.browser.cookie_jar])
    await page.goto(ann.base + channel)
    await page.wait_for_selector("#messages[data-live]")
    await page.click(".picture a >> nth=0")
    await page.wait_for_selector("#lightbox[open]")
    await page.keyboard.press("Escape")
    pwned = await page.evaluate("window.pwned ?? null")
    say(f"{len(payloads)} attacks as names of files: the same page but for the words; in Chromium pwned is "
        f"{pwned}; asked None")
    assert pwned is None
