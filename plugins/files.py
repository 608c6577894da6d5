"""Files: what people send beside words. The store names a file; its bytes lie beside the store, under their SHA-256.

A file is uploaded first, as the body of a request of its own, and then named by a message: "msg/files" of a message
lists the ids of its files in order, and "file/msg" of a file is the id of its message. Until then only the person who
uploaded it sees it, and after a day it goes. A message with files is one that has the attribute "msg/files".

Three laws: the bytes are on the disk before the transaction that names them. Bytes that no document names are erased.
And nobody gets a file who may not read its message now, whatever the address.
"""
import asyncio
import collections
import contextlib
import datetime as dt
import functools
import logging
import os
import re
import unicodedata
import urllib.parse
import uuid

from aiohttp import web
from voluptuous import All, Length, Optional, Range, Schema

import biff
from plugins import file_bytes, pictures
from plugins.places import Refused, entity_of, in_channel
from store import delete, evict

log = logging.getLogger("eelchat")

FILE_MB = 10                          # of one file, unless the settings say otherwise
FILES_A_MESSAGE = 10                  # a screen of them
NAME_CHARS_MAX = 120                  # of a file's name, its extension among them
UNPOSTED_MAX = 20                     # files of one person that no message names yet: twice what a message has
UNPOSTED_LASTS = dt.timedelta(days=1)     # then they go: a draft may wait a night
UPLOADS_A_PERSON = 200, 3_600         # in an hour
UPLOADED_MB_A_PERSON = 500            # in an hour
UPLOADS_AT_ONCE = 3                   # of one person; pages send one after the other
UPLOADS_AT_ONCE_IN_ALL = 32           # each holds a piece in memory and a file open
DOWNLOADS_A_PERSON = 1_200, 60        # a page of fifty messages with ten pictures each, twice in a minute
PIECE_BYTES = 256 * 1024              # of a body, in memory at once
PIECE_S_MAX = 30                      # for a piece to arrive: 9 KB a second, a poor telephone line
UPLOAD_S_MAX = 600                    # for the whole of it
ANSWER_S_MAX = 600                    # for a file to be taken
HEAD_BYTES = 64                       # by which the type is known
SWEEP_EVERY_S = 3_600
SWEPT_AT_ONCE = 100                   # files on disk looked at before others have a turn

CHANNEL = "/community/{id}/channel/{channel_id}"
FILE = CHANNEL + "/file/{file_id}"

SCHEMA = {
    "file": Schema({
        "xt/id": uuid.UUID,
        "file/name": All(str, Length(1, NAME_CHARS_MAX)),
        "file/type": str,                     # as the bytes say; "application/octet-stream" of all that we do not show
        "file/size": All(int, Range(1)),
        "file/sha256": str,                   # names the bytes
        "file/chan": uuid.UUID,
        "file/mem": uuid.UUID,
        "file/made-at": dt.datetime,
        Optional("file/width"): int, Optional("file/height"): int, Optional("file/frames"): int,      # of a picture
        Optional("file/small"): str,          # SHA-256 of the small picture
        Optional("file/draft-of"): uuid.UUID,     # the person, until a message names it
        Optional("file/msg"): uuid.UUID,      # the message, from then on
    }, required=True),
}

# ── What a file is ───────────────────────────────────────────────────────────────────────────────────────────

ANY = "application/octet-stream"
PICTURES = {"image/jpeg", "image/png", "image/gif", "image/webp", "image/avif"}
PICTURE_NAMES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".avif")
EXTENSIONS = {"image/jpeg": (".jpg", ".jpeg", ".jfif"), "image/png": (".png", ".apng"), "image/gif": (".gif",),
              "image/webp": (".webp",)}
BEGINNINGS = [(rb"\xff\xd8\xff", "image/jpeg"), (rb"\x89PNG\r\n\x1a\n", "image/png"), (rb"GIF8[79]a", "image/gif"),
              (rb"RIFF....WEBP", "image/webp"), (rb"....ftyp(avif|avis)", "image/avif"),
              (rb"RIFF....WAVE", "audio/wav"), (rb"OggS", "audio/ogg"), (rb"fLaC", "audio/flac"),
              (rb"ID3[\2-\4]|\xff[\xfb\xfa\xf3\xf2]", "audio/mpeg"), (rb"....ftypM4A ", "audio/mp4"),
              (rb"....ftyp(isom|iso[2-6]|mp4[12]|avc1|M4V )", "video/mp4"),
              (rb"\x1a\x45\xdf\xa3.{0,40}webm", "video/webm"), (rb"%PDF-", "application/pdf")]
MARKS = {"\u200c", "\u200d"}          # within words of Persian, of Indic scripts, and within emoji


def type_of(head):
    """The type that the first bytes say, of those that a page shows; any other is a download without a type."""
    return next((type for pattern, type in BEGINNINGS if re.match(pattern, head, re.DOTALL)), ANY)


def clean_name(text):
    """A file's name without folders and without letters that nobody sees or that turn the line around; never empty."""
    text = unicodedata.normalize("NFC", text).replace("\\", "/").rpartition("/")[2]
    text = "".join(c if c in MARKS or not unicodedata.category(c).startswith(("C", "Z")) else " "
                   if unicodedata.category(c)[0] == "Z" or c in "\t\n\r" else "" for c in text)
    text = " ".join(text.split()).lstrip(". ").rstrip(". ")
    stem, dot, extension = text.rpartition(".")
    if not dot or len(extension) > 12:
        stem, dot, extension = text, "", ""
    return stem[:NAME_CHARS_MAX - len(dot + extension)] + dot + extension or "file"


def name_for(name, type):
    """The name with the extension of what was written."""
    if type not in EXTENSIONS or name.lower().endswith(EXTENSIONS[type]):
        return name
    stem = name.rpartition(".")[0] if name.lower().endswith(PICTURE_NAMES) else name
    return clean_name((stem or "picture")[:NAME_CHARS_MAX - 5] + EXTENSIONS[type][0])


def disposition(name, is_shown):
    """Source: RFC 6266 and RFC 8187. Browsers that know the second form take it."""
    plain = re.sub(r"[^ -~]|[\"\\%;]", "_", name)
    return (f"{'inline' if is_shown else 'attachment'}; filename=\"{plain}\"; "
            f"filename*=UTF-8''{urllib.parse.quote(name, safe='')}")


def in_words(size):
    """A size as people say it."""
    for unit, bytes in ("MB", 1024 ** 2), ("KB", 1024):
        if size >= bytes:
            return f"{size / bytes:.1f} {unit}" if size < 10 * bytes else f"{size / bytes:.0f} {unit}"
    return f"{size} bytes"


# ── The bytes go with the documents ──────────────────────────────────────────────────────────────────────────


def is_named(db, sha256):
    """True if a document names these bytes."""
    return any(biff.lookup_id(db, attribute, sha256) is not None for attribute in ("file/sha256", "file/small"))


async def erase(ctx):
    """A job, {SHA-256: [id of a file]}: these files are gone, and their bytes go if no other file has the same."""
    for sha256, ids in ctx["biff/job"].items():
        await ctx["chat_bytes"].drop(sha256, ids, functools.partial(is_named_now, ctx))


def is_named_now(ctx, sha256):
    return is_named(ctx["biff/node"].db(), sha256)


def on_gone(ctx, tx):
    """Erases the bytes of files that no document names since this transaction."""
    node = ctx["biff/node"]
    gone = [op[1] for op in tx.ops if op[0] in ("delete", "evict") and type(op[1]) is uuid.UUID]
    if not gone:
        return
    before, orphans = node.db(tx.tx_id - 1), []
    hashes: dict = {}
    for id in gone:
        for sha256 in hashes_of(before.entity(id) or {}):
            hashes.setdefault(sha256, []).append(id)
        orphans += biff.lookup_id_all(ctx["biff/db"], "file/msg", id)
    with contextlib.suppress(biff.QueueFullError):         # else the sweep finds them
        if hashes:
            biff.submit_job(ctx, "erase-files", hashes)
        if orphans:
            biff.submit_job(ctx, "release-files", orphans)
        if any(op[0] == "evict" and type(op[1]) is uuid.UUID for op in tx.ops):
            biff.submit_job(ctx, "sweep-files", None)      # the past does not tell any more what it named


def hashes_of(file):
    return {file[name] for name in ("file/sha256", "file/small") if name in file}


async def release(ctx):
    """A job: deletes files whose message is gone."""
    await biff.submit_tx(ctx, functools.partial(release_tx, ids=ctx["biff/job"]))


def release_tx(ctx, ids):
    db = ctx["biff/db"]
    files = [file for file in map(db.entity, ids) if file and "file/msg" in file]
    return [part for file in files if db.entity(file["file/msg"]) is None
            for part in (*biff.unchanged(ctx, file["xt/id"]), delete(file["xt/id"]))]


async def sweep(ctx):
    """Deletes files that were never posted or whose message is gone, and erases bytes that no document names."""
    db, too_old = ctx["biff/db"], biff.now(ctx) - UNPOSTED_LASTS
    unposted = await db.aq({"find": "?file", "in": ["?too-old"], "where": [
        ["?file", "file/draft-of"], ["?file", "file/made-at", "?at"], [("<", "?at", "?too-old")]]}, too_old)
    for id in unposted:
        await biff.submit_tx(ctx, functools.partial(forget_tx, id=id))
    orphans = await db.aq({"find": "?file", "where": [["?file", "file/msg", "?message"],
                                                      ("not", ["?message", "msg/channel"])]})
    if orphans:
        await biff.submit_tx(ctx, functools.partial(release_tx, ids=orphans))
    await sweep_bytes(ctx)


def forget_tx(ctx, id):
    """A file that was not posted goes, unless it is posted by now."""
    file = ctx["biff/db"].entity(id)
    return [*biff.unchanged(ctx, id), delete(id)] if file and "file/draft-of" in file else []


async def sweep_bytes(ctx):
    kept = ctx["chat_bytes"]
    for number, sha256 in enumerate(await kept.names()):
        await kept.drop(sha256, (), functools.partial(is_named_now, ctx))
        if number % SWEPT_AT_ONCE == 0:
            await asyncio.sleep(0)
    orphans = await kept.orphans(lambda id: ctx["biff/node"].db().entity(id) is not None)
    await erase(ctx | {"biff/job": orphans})


async def use_files(system):
    """The folder of the bytes, what is going on, and the figures of both."""
    folder, url, number = system["biff/config"]["data"] / "files", system["biff/config"]["log"], biff.number_of(system)
    if url and number:                         # what a worker keeps beside PostgreSQL is its own
        folder = folder.with_name(f"files-{number}")
    try:
        kept = await file_bytes.opened(folder, url)
    except Refused as refused:
        raise biff.StartError(refused.sentence) from None
    system["chat_bytes"] = kept
    system["chat_uploads"] = uploads = Uploads()
    system["biff/stop"].append(pictures.end)
    node, metrics = system["biff/node"], system["biff/metrics"]
    metrics.gauge("files", "Files that the store names.", lambda: node.attribute_stats().get("file/name", 0))
    metrics.gauge("file_bytes", "Bytes of files on this server's disk.", lambda: kept.bytes)
    metrics.counter("uploads_total", "Files that were uploaded here.", lambda: uploads.done)
    metrics.counter("uploads_refused_total", "Uploads that were refused.", lambda: uploads.refused)
    return system


# ── Uploading ────────────────────────────────────────────────────────────────────────────────────────────────


class Uploads:
    """The uploads under way."""

    def __init__(self):
        self._running: collections.Counter = collections.Counter()
        self.done = self.refused = 0

    @contextlib.contextmanager
    def place(self, person):
        """Raises: Refused if this person, or all together, upload as much as they may at once."""
        if self._running[person] >= UPLOADS_AT_ONCE or self._running.total() >= UPLOADS_AT_ONCE_IN_ALL:
            raise Refused(429, "Other uploads are still under way. Try again in a moment.")
        self._running[person] += 1
        try:
            yield
        finally:
            self._running[person] -= 1
            self._running += collections.Counter()         # drops those at zero


@biff.streams
async def upload(ctx):
    """Takes the body as a file, and answers with what is known of it. The id is the page's: a repeated upload is one.

    A refusal is answered when the body has been read, within its bound: browsers do not read an answer before.
    """
    try:
        async with asyncio.timeout(UPLOAD_S_MAX):
            file = known_upload(ctx) or await received(ctx)
    except Refused as refused:
        ctx["chat_uploads"].refused += 1
        await read_off(ctx)
        return biff.error(ctx, refused.status, refused.sentence)
    except TimeoutError:
        raise web.HTTPRequestTimeout() from None
    await read_off(ctx)
    return web.json_response(told_of(file))


def told_of(file):
    """The answer to the page that uploaded a file, which draws it as the message will."""
    shown = shown_of(file, "")
    return {key: shown[key] for key in ("id", "name", "type", "size", "kind", "width", "height") if key in shown}


def known_upload(ctx):
    """The file that came before under this id, if its answer was lost. Raises: Refused if it is another person's."""
    id = file_id_of(ctx)
    file = ctx["biff/db"].entity(id)
    if file is None and not ctx["biff/db"].history(id):
        return None
    if file and file.get("file/draft-of") == ctx["uid"] and file["file/chan"] == ctx["channel"]["xt/id"]:
        return file
    raise Refused(409, "This upload is not there any more, or is posted already. Attach the file again.")


def file_id_of(ctx):
    try:
        return uuid.UUID(ctx["params"]["file_id"])
    except ValueError:
        raise Refused(422, "The file came without its id. Reload the page and attach it again.") from None


async def received(ctx):
    """The document of a file that was taken whole. Raises: Refused."""
    uploads, kept, person, size = ctx["chat_uploads"], ctx["chat_bytes"], ctx["uid"], size_of(ctx)
    if not biff.is_allowed(ctx, (("uploads", person), *UPLOADS_A_PERSON)):
        raise Refused(429, f"One person uploads at most {UPLOADS_A_PERSON[0]} files in an hour. Try again later.")
    if len(biff.lookup_id_all(ctx["biff/db"], "file/draft-of", person)) >= UNPOSTED_MAX:
        raise Refused(429, too_many_unposted())
    if not kept.has_room_for(size):
        log.error("The disk is nearly full: uploads are refused")
        raise Refused(507, "The disk of the server is nearly full, so it takes no files now. Messages still go.")
    with uploads.place(person), contextlib.ExitStack() as cleaning:
        if not biff.is_allowed(ctx, (("upload bytes", person), UPLOADED_MB_A_PERSON * 1024 ** 2, 3_600, size)):
            raise Refused(429, f"One person uploads at most {UPLOADED_MB_A_PERSON} MB in an hour. Try again later.")
        new = [kept.new_path() for _ in range(3)]
        for path in new:
            cleaning.callback(path.unlink, missing_ok=True)
        file = await taken(ctx, size, new)
        uploads.done += 1
        return file


def too_many_unposted():
    return (f"You have {UNPOSTED_MAX} files that are not posted yet. Post them or remove them first; "
            f"after {UNPOSTED_LASTS.days} day they go by themselves.")


def size_of(ctx):
    """The size that the request names. Raises: Refused if it is too large, or nothing."""
    size, mb_max = ctx["request"].content_length, ctx["biff/config"]["file_mb"]
    if size is None or "Content-Encoding" in ctx["request"].headers:
        raise Refused(411, "The upload does not say how large it is. Send the file as it is.")
    if size == 0:
        raise Refused(422, "The file is empty, or is a folder.")
    if size > mb_max * 1024 ** 2:
        raise Refused(413, f"The file has {in_words(size)}; at most {mb_max} MB can be sent.")
    return size


async def taken(ctx, size, new):
    """Writes the body, checks it, keeps its bytes, and then puts the document. `new` are paths that may be used."""
    name = clean_name(ctx["params"].get("name", ""))
    head = await written(ctx["request"], new[0], size)
    known = {"xt/id": file_id_of(ctx), "file/name": name, "file/type": type_of(head), "file/size": size}
    if known["file/type"] in PICTURES:
        known |= await remade(known, new)
    elif name.lower().endswith(PICTURE_NAMES):
        raise Refused(422, f"{name} is no picture, although its name says so.")
    hashes = {await asyncio.to_thread(file_bytes.hash_of, path): path for path in new if path.exists()}
    known["file/sha256"] = next(iter(hashes))
    if "file/width" in known:
        known["file/small"] = list(hashes)[-1]
    return await named(ctx, known, hashes)


async def named(ctx, known, hashes):
    """Keeps the bytes, {SHA-256: path}, then puts the document that names them, and returns it. Raises: Refused."""
    kept, refusal = ctx["chat_bytes"], Refused(403, "The channel is not open to you any more.")
    with kept.holding(list(hashes)):
        try:
            await kept.keep(known["xt/id"], hashes)
            await biff.submit_tx(ctx, functools.partial(upload_tx, known=known))
        except biff.ConstraintError:
            refusal = Refused(429, too_many_unposted())
    file = ctx["biff/node"].db().entity(known["xt/id"])
    if file is None:
        await erase(ctx | {"biff/job": dict.fromkeys(hashes, [known["xt/id"]])})
        raise refusal
    return file


async def written(request, path, size):
    """Writes the body into a new file, durable, and returns its first bytes. Raises: Refused if it is cut off."""
    head, came = b"", 0
    with path.open("xb") as file:
        async for piece in biff.body_of(request, PIECE_BYTES, PIECE_S_MAX):
            head, came = head or piece[:HEAD_BYTES], came + len(piece)
            if came > size:
                break
            await asyncio.to_thread(file.write, piece)
        file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())
    if came != size:
        raise Refused(400, "The upload was cut off. Try again.")
    return head


async def remade(known, new):
    """Replaces an uploaded picture by one that we wrote ourselves: what is known of it then. Raises: Refused."""
    try:
        picture = await pictures.remade(*new)
    except pictures.PictureError as error:
        raise Refused(503 if str(error) == pictures.BUSY else 422, str(error)) from None
    new[0].unlink()
    return {"file/name": name_for(known["file/name"], picture.type), "file/type": picture.type,
            "file/size": new[1].stat().st_size, "file/width": picture.width, "file/height": picture.height,
            **({"file/frames": picture.frames} if picture.frames > 1 else {})}


def upload_tx(ctx, known):
    """Made anew for each attempt: nothing if the right is gone, or if a copy of this upload was faster."""
    if in_channel(ctx) or ctx["biff/db"].entity(known["xt/id"]):
        return []
    return [*biff.unchanged(ctx, ctx["channel"]["xt/id"], ctx["mem"]["xt/id"]),
            known | {"db/doc-type": "file", "db/op": "create", "file/chan": ctx["channel"]["xt/id"],
                     "file/mem": ctx["mem"]["xt/id"], "file/made-at": biff.NOW, "file/draft-of": ctx["uid"]},
            biff.at_most(UNPOSTED_MAX, {"file/draft-of": ctx["uid"]})]


async def read_off(ctx):
    """Reads what is left of a body that is within its bound, so that the answer arrives. Else the connection ends."""
    bytes_left = 2 * ctx["biff/config"]["file_mb"] * 1024 ** 2
    with contextlib.suppress(TimeoutError, ConnectionError, web.HTTPBadRequest):
        async for piece in biff.body_of(ctx["request"], PIECE_BYTES, PIECE_S_MAX):
            bytes_left -= len(piece)
            if bytes_left < 0:
                return


async def remove_upload(ctx):
    """Takes back a file that was not posted."""
    await biff.submit_tx(ctx, functools.partial(forget_tx, id=ctx["file"]["xt/id"]))
    return web.Response(status=204)


# ── In messages ──────────────────────────────────────────────────────────────────────────────────────────────


def posted(ctx):
    """The files that the form of a message names, in order. Raises: Refused."""
    named = ctx["params"].get("files", "").split()
    if not named:
        return {}
    try:
        ids = list(dict.fromkeys(map(uuid.UUID, named)))
    except ValueError:
        raise Refused(422, "The message names files that are none. Reload the page.") from None
    if len(ids) > FILES_A_MESSAGE:
        raise Refused(422, f"A message has at most {FILES_A_MESSAGE} files; this one has {len(ids)}.")
    return {"msg/files": ids}


def posted_tx(ctx, message):
    """The files become the message's: each was uploaded by its author, here, and is in no other message."""
    files = [ctx["biff/db"].entity(id) for id in message.get("msg/files", ())]
    files = [file for file in files if not (file and file.get("file/msg") == message["xt/id"])]      # posted twice
    for file in files:
        if not file or (file.get("file/draft-of"), file["file/chan"]) != (ctx["uid"], message["msg/channel"]):
            raise Refused(409, "A file of this message is not there any more. Attach it again.")
    return [{"db/doc-type": "file", "db/op": "update", "xt/id": file["xt/id"], "file/msg": message["xt/id"],
             "file/draft-of": biff.DISSOC} for file in files]


def on_file(changes, id, old, new):
    """A file that goes, or comes back, changes how its message looks."""
    for file in old or {}, new or {}:
        if message := "file/msg" in file and changes.db.entity(file["file/msg"]):
            changes.retouch(message)


def files_of(db, message):
    """The files of a message, as its template shows them."""
    ids = message.get("msg/files")
    if not ids:
        return {"files": (), "are_many": False}
    channel = db.entity(message["msg/channel"]) or {}
    path = f"/community/{channel.get('chan/comm')}/channel/{message['msg/channel']}/file/"
    files = [db.entity(id) for id in (ids if type(ids) is list else [ids])]
    shown = [shown_of(file, path) for file in files if file and "file/sha256" in file]
    return {"files": tuple(shown), "are_many": sum(file["kind"] == "picture" for file in shown) > 1}


SHOWN_PIXELS = 400, 300               # the most of a picture that is alone in its message; several are tiles


def shown_of(file, path):
    """A file as the template draws it. A picture has its place on the page before it is loaded: nothing jumps."""
    kind = file["file/type"].partition("/")[0]
    shown = {"id": str(file["xt/id"]), "name": file["file/name"], "size": in_words(file["file/size"]),
             "type": file["file/type"], "path": f"{path}{file['xt/id']}",
             "kind": kind if kind in ("audio", "video") else "picture" if "file/width" in file else "other"}
    if "file/width" in file:
        width, height = file["file/width"], file["file/height"]
        factor = min(1, SHOWN_PIXELS[0] / width, SHOWN_PIXELS[1] / height)
        shown |= {"width": max(1, round(width * factor)), "height": max(1, round(height * factor)),
                  "full_width": width, "full_height": height, "is_moving": "file/frames" in file}
    return shown


# ── Serving ──────────────────────────────────────────────────────────────────────────────────────────────────

CLOSED_POLICY = "default-src 'none'; sandbox"      # whatever the file is, it runs nothing


def in_file(ctx):
    """A rule: people who may read the channel of the message that names it; before, the person who uploaded it."""
    if refusal := in_channel(ctx):
        return refusal
    file = entity_of(ctx, ctx["params"]["file_id"], "file/sha256")
    if file is None or not is_open(ctx, file):
        return biff.error(ctx, 404, "This file is not there any more.")
    ctx["file"] = file


in_file.rate = DOWNLOADS_A_PERSON     # type: ignore[attr-defined]


def is_open(ctx, file):
    channel_id = ctx["channel"]["xt/id"]
    if "file/msg" not in file:
        return (file.get("file/draft-of"), file["file/chan"]) == (ctx["uid"], channel_id)
    message = ctx["biff/db"].entity(file["file/msg"]) or {}
    return message.get("msg/channel") == channel_id and file["xt/id"] in message.get("msg/files", ())


def uploader(ctx):
    """The person who uploaded it, while no message names it."""
    if refusal := in_file(ctx):
        return refusal
    if "file/draft-of" not in ctx["file"]:
        return biff.error(ctx, 403, "The file is posted. Delete its message.")


async def file_itself(ctx):
    """A picture is shown; everything else is a download. Pages play sound and film from there, too."""
    file = ctx["file"]
    is_shown = file["file/type"] in PICTURES and "save" not in ctx["params"]
    return await answer_of(ctx, file["file/sha256"], file["file/type"], disposition(file["file/name"], is_shown))


async def small_picture(ctx):
    file = ctx["file"]
    if "file/small" not in file:
        return biff.error(ctx, 404, "This file is no picture.")
    return await answer_of(ctx, file["file/small"], "image/webp", "inline")


async def answer_of(ctx, sha256, type, disposition):
    """The bytes, whole or the range that is asked for. A browser asks each time whether it still may have them."""
    try:
        path = await ctx["chat_bytes"].found(sha256)
    except Refused as refused:
        return biff.error(ctx, refused.status, refused.sentence)
    if path is None:
        if refusal := in_file(ctx | {"biff/db": ctx["biff/node"].db()}):
            return refusal                                 # it was taken back meanwhile
        log.error("The bytes of file %s are missing: put them back from a backup", ctx["file"]["xt/id"])
        return biff.error(ctx, 404, "The server has lost the bytes of this file. Tell those who run it.")
    return biff.FileAnswer(path, {
        "Content-Type": type, "Content-Disposition": disposition, "Content-Security-Policy": CLOSED_POLICY,
        "Cache-Control": "private, no-cache"}, ANSWER_S_MAX)


def mb(text):
    if not 1 <= int(text) <= 1_000:
        raise ValueError("wanted is a number from 1 to 1000")
    return int(text)


PLUGIN = {
    "schema": SCHEMA,
    "extends": {"message": {Optional("msg/files"): [uuid.UUID]}},
    "settings": {"file_mb": biff.Setting(FILE_MB, mb, "the most megabytes that a file may have", False)},
    "goes-with": {"channel": ["file/chan"], "message": ["file/msg"]},
    "components": [use_files],
    "routes": [("POST", FILE, in_channel, upload), ("DELETE", FILE, uploader, remove_upload),
               ("GET", FILE, in_file, file_itself), ("GET", FILE + "/small", in_file, small_picture)],
    "posted": posted, "posted-tx": posted_tx,
    "on_tx": on_gone,
    "queues": [{"id": "erase-files", "consumer": erase, "may-be-cut": True},
               {"id": "release-files", "consumer": release, "may-be-cut": True},
               {"id": "sweep-files", "consumer": sweep, "may-be-cut": True}],
    "tasks": [{"task": sweep, "schedule": biff.every(SWEEP_EVERY_S)}],
    "message-looks": lambda db, messages: {message["xt/id"]: files_of(db, message) for message in messages},
    "changes": [on_file],
    "slots": {"message-foot": "files/files.html", "compose": "files/compose.html", "dialogs": "files/lightbox.html"},
    "page": lambda ctx: {"file_mb": ctx["biff/config"]["file_mb"], "files_max": FILES_A_MESSAGE},
    "scripts": ["files.js"],
}
