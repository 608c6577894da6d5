"""Pictures: each is checked, turned upright, stripped and written anew, with a small one beside it for the page.

That happens in a process of its own, without secrets, within bounds of memory, pixels, frames, bytes and time, because
decoders of pictures are large programs and the pictures come from strangers. What is stored is what that process wrote:
the pixels as it read them, and nothing else that was in the file.

    made = await pictures.remade(path, target, small_target)    # Picture, or raises PictureError
"""
import asyncio
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
from typing import Any, NamedTuple

PIXELS_MAX = 40_000_000               # of a picture; cameras of telephones make 12 to 50 million, most send 12
FRAMES_MAX = 300                      # of a moving one: ten seconds at 30 a second
FRAMES_PIXELS_MAX = 60_000_000        # of all its frames together; 300 of 440 × 440
READ_S_MAX = 20                       # for one picture; 40 million pixels as PNG take about 8
MEMORY_BYTES_MAX = 1024 ** 3          # of address space: four copies of the largest picture, and the libraries
WRITTEN_BYTES_MAX = 24 * 1024 ** 2    # of the picture as it is written anew
SMALL_PIXELS = 800, 600               # the small one fits into this: what a page shows, at two pixels a point
AT_ONCE = 1                           # pictures; the others wait, and the chat has the other core
WAIT_S_MAX = 60                       # for one's turn
START_S_MAX = 20                      # for the helper to begin, on a busy machine
IDLE_S = 300                          # so long the helper waits for the next picture; it holds some 30 MB
ANSWER_BYTES_MAX = 2_000
KEPT_VARIABLES = "PATH", "LANG", "SYSTEMROOT"
UNREADABLE = "The picture cannot be read: it is damaged, cut off, or too large when unpacked."
BUSY = "Many pictures are being prepared. Try again in a moment."


class PictureError(Exception):
    """A file that looks like a picture is none that we take; the sentence is for people."""


class Picture(NamedTuple):
    type: str                         # of the file that was written: image/jpeg, image/png, image/gif or image/webp
    width: int
    height: int
    frames: int
    small_type: str


_helpers: dict = {}                   # event loop → its Helper


async def remade(source: pathlib.Path, target: pathlib.Path, small_target: pathlib.Path) -> Picture:
    """Reads the picture at `source` and writes it anew, and a small one, into two new files. Raises: PictureError."""
    helper = _helpers.setdefault(asyncio.get_running_loop(), Helper())
    try:
        await asyncio.wait_for(helper.turn.acquire(), WAIT_S_MAX)
    except TimeoutError:
        raise PictureError(BUSY) from None
    try:
        with source.open("rb") as read, target.open("xb") as written, small_target.open("xb") as small:
            told = await helper.ask(read, written, small)
            for file in written, small:
                await asyncio.to_thread(os.fsync, file.fileno())
    finally:
        helper.turn.release()
    if "error" in told:
        raise PictureError(told["error"])
    return Picture(**told)


def end():
    """Ends the helper of this event loop, if there is one."""
    if helper := _helpers.pop(asyncio.get_running_loop(), None):
        helper.end()


class Helper:
    """A process that has the decoders at hand. It forks a child for each picture: nothing stays from one to the next.

    Starting Python and its decoders for each picture took a fifth of a second of CPU. The helper ends when nobody has
    needed it for a while, and with anything that is out of order.
    """

    def __init__(self):
        self.turn = asyncio.Semaphore(AT_ONCE)
        self._process: Any = None
        self._socket: Any = None
        self._idle: asyncio.TimerHandle | None = None

    async def ask(self, *files):
        """The answer about one picture, as {field: value}; the child has the three open files, and knows no path."""
        loop = asyncio.get_running_loop()
        if self._idle:
            self._idle.cancel()
        told = None
        try:
            async with asyncio.timeout(READ_S_MAX + START_S_MAX):
                if self._process is None or self._process.poll() is not None:
                    await asyncio.to_thread(self._start)
                socket.send_fds(self._socket, [b"x"], [file.fileno() for file in files])
                told = await loop.sock_recv(self._socket, ANSWER_BYTES_MAX)
            return json.loads(told) if told else {"error": UNREADABLE}
        except TimeoutError:
            return {"error": "The picture takes too long to read."}
        except (OSError, ValueError):
            return {"error": UNREADABLE}
        finally:
            if not told:
                self.end()
            self._idle = loop.call_later(IDLE_S, self.end)

    def _start(self):
        self.end()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        with theirs:
            self._socket.setblocking(False)
            self._process = subprocess.Popen(
                [sys.executable, "-I", __file__, str(theirs.fileno())], env=environment, pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def end(self):
        """Ends it with the child that it may have."""
        if self._process:
            self._socket.close()
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None


# ── In the process of its own ────────────────────────────────────────────────────────────────────────────────

FORMATS = "JPEG", "PNG", "GIF", "WEBP", "AVIF"
TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "GIF": "image/gif", "WEBP": "image/webp"}
OPTIONS: dict = {"JPEG": {"quality": 85, "progressive": True}, "PNG": {}, "GIF": {}, "WEBP": {"quality": 85}}


def main(asked):
    """Answers each picture by a child of its own, until nobody asks any more."""
    import PIL.ImageCms
    import PIL.ImageOps
    bound_this_process()
    while True:
        _, files, *_ = socket.recv_fds(asked, 1, 3)
        if len(files) < 3:
            return
        reads, writes = os.pipe()
        if not (child := os.fork()):
            answer(files, writes)
        os.close(writes)
        with os.fdopen(reads, "rb") as told:
            said = told.read(ANSWER_BYTES_MAX)
        is_well = os.waitpid(child, 0)[1] == 0
        for file in files:
            os.close(file)
        asked.send(said if is_well and said else json.dumps({"error": UNREADABLE}).encode())


def answer(files, told):
    """The child, given the files to read, to write and to write small: it writes its answer into a pipe and ends."""
    import resource
    status = 1
    try:
        signal.alarm(READ_S_MAX)
        resource.setrlimit(resource.RLIMIT_CPU, (READ_S_MAX, READ_S_MAX))
        read, written, small = files
        with os.fdopen(read, "rb") as source, os.fdopen(written, "wb") as target, os.fdopen(small, "wb") as smaller:
            said = made_of(source, target, smaller)
        status = 0
    except PictureError as error:
        said, status = {"error": str(error)}, 0
    except BaseException:                                      # whatever a decoder raises, MemoryError among it
        said, status = {"error": UNREADABLE}, 0
    finally:
        with contextlib.suppress(BaseException):
            os.write(told, json.dumps(said).encode())
        os._exit(status)


def bound_this_process():
    """Bounds memory and bytes written, keeps no core, and lets others have the processor first; children inherit it."""
    import resource
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for kind, bound in [("AS", MEMORY_BYTES_MAX), ("FSIZE", WRITTEN_BYTES_MAX), ("CORE", 0)]:
        with contextlib.suppress(ValueError, OSError):         # macOS bounds no address space
            resource.setrlimit(getattr(resource, f"RLIMIT_{kind}"), (bound, bound))
    os.nice(19)


def made_of(file, written, small):
    from PIL import Image, ImageOps
    Image.MAX_IMAGE_PIXELS = None                              # the check below has a sentence
    picture = Image.open(file, formats=FORMATS)
    width, height = picture.size
    if width * height > PIXELS_MAX:
        raise PictureError(f"The picture has {width:,} × {height:,} pixels; at most {PIXELS_MAX // 1_000_000} million "
                           "can be taken. Make it smaller.")
    format = {"AVIF": "WEBP"}.get(str(picture.format), str(picture.format))
    frames = frames_of(picture, width * height)
    if frames > 1:
        picture = rewritten_frames(picture, format, written)
    else:
        picture.load()
        picture = plain(ImageOps.exif_transpose(picture), format)
        picture.save(written, format, **OPTIONS[format])
    small_type = write_small(picture, small)
    width, height = picture.size
    return {"type": TYPES[format], "width": width, "height": height, "frames": frames, "small_type": small_type}


def frames_of(picture, pixels):
    count = getattr(picture, "n_frames", 1)
    if count > FRAMES_MAX or count > 1 and count * pixels > FRAMES_PIXELS_MAX:
        raise PictureError(f"The moving picture has {count:,} frames; at most {FRAMES_MAX} can be taken, with "
                           f"{FRAMES_PIXELS_MAX // 1_000_000} million pixels together. Make it shorter or smaller.")
    return count


def plain(picture, format):
    """Its pixels in a mode that the format and browsers know, in sRGB, with nothing beside them."""
    picture = in_srgb(picture)
    if picture.mode.startswith(("I", "F")):                    # 16 bits: of these the upper eight are shown
        picture = picture.point(lambda value: value / 256).convert("L")
    has_alpha = "A" in picture.mode or "transparency" in picture.info
    if picture.mode == "P" and format in ("PNG", "GIF"):
        kept = {"transparency": picture.info["transparency"]} if has_alpha else {}
    elif format == "JPEG" or not has_alpha:
        picture, kept = picture.convert("L" if picture.mode in ("1", "L") else "RGB"), {}
    else:
        picture, kept = picture.convert("RGBA"), {}
    picture.info = kept
    return picture


def in_srgb(picture):
    """The colours of a wide profile would look wrong without it, and profiles are dropped."""
    profile = picture.info.get("icc_profile")
    if not profile or picture.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return picture
    import io
    from PIL import ImageCms
    try:
        mode = "RGBA" if picture.mode == "RGBA" else "RGB"
        converted = ImageCms.profileToProfile(picture, ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                                              ImageCms.createProfile("sRGB"), outputMode=mode)
    except Exception:                                          # a profile that cannot be used is none
        return picture
    return converted or picture


def rewritten_frames(picture, format, written):
    """Writes a moving picture anew, and returns its first frame."""
    first, info = picture.copy(), picture.info
    picture.load()
    kept = {name: info[name] for name in ("loop", "background", "transparency") if name in info}
    picture.info = {name: info[name] for name in ("duration", "disposal", "version", "default_image") if name in info}
    picture.save(written, format, save_all=True, **OPTIONS[format], **kept, **bare(format))
    return plain(first, "PNG")


def bare(format):
    """The options by which each writer takes over no metadata from the file."""
    return {"GIF": {"comment": b""}, "WEBP": {"exif": b"", "xmp": b"", "icc_profile": b""},
            "PNG": {"icc_profile": None, "exif": b""}}.get(format, {})


def write_small(picture, small):
    """The small picture, or a copy of the pixels if it is small anyway; its type."""
    from PIL import Image
    factor = min(1, *(most / side for most, side in zip(SMALL_PIXELS, picture.size)))
    size = tuple(max(1, round(side * factor)) for side in picture.size)
    has_alpha = "A" in picture.mode or "transparency" in picture.info
    mode = "RGBA" if has_alpha else "RGB"
    if picture.width * picture.height > 4 * size[0] * size[1] and picture.mode != "P":
        picture = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    picture = picture.convert(mode)
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    picture.info = {}
    picture.save(small, "WEBP", quality=80, method=3)
    return "image/webp"


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
