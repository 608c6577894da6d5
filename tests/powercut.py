"""What a power cut may leave of some files: all that was synced, and any blocks of what was written after that.

A run's system calls, as strace tells them, are played back. The machine may stop between two syncs. Then a file is what
its last sync made durable, and each of its 512-byte blocks may have seen any number of the writes since, in order. A
change of its length may have happened or not. So may its making or removal, until its folder is synced.
"""
import collections
import os
import re
from typing import Callable, Iterator, NamedTuple

BLOCK = 512
CALLS = "openat,pwrite64,write,ftruncate,fsync,fdatasync,unlink,rename"
STRACE = ["-f", "-qq", "-y", "-xx", "-s", "1000000", "-e", "signal=none", "-e", f"trace={CALLS}"]
_CALL = re.compile(r"(\w+)\((.*)\) += (\d+)(?:<([^>]*)>)?")
_ON_FILE = re.compile(r"\d+<([^>]*)>(?:, )?(.*)")


class Event(NamedTuple):
    kind: str                         # "made", "removed", "renamed", "write", "length", "sync" or "said"
    path: str = ""
    offset: int = 0                   # of a write; or the new length
    data: bytes = b""
    old: str = ""                     # the name before it was renamed to `path`


class File:
    """A file as the disk surely has it, and the changes since."""

    def __init__(self):
        self.exists, self.contents = False, b""
        self.later: list[Event] = []

    def left(self, how_many: Callable[[int], int]) -> bytes | None:
        """What a cut leaves, or None if no file. `how_many(n)` chooses how many of n writes to a block, or of one
        change, happened."""
        exists, contents = self.exists, bytearray(self.contents)
        pieces = [list(_pieces(event)) for event in self.later]
        writes = collections.Counter(offset // BLOCK for several in pieces for offset, _ in several)
        seen = {block: how_many(count) for block, count in writes.items()}
        for event, several in zip(self.later, pieces):
            for offset, data in several:
                seen[offset // BLOCK] -= 1
                if seen[offset // BLOCK] >= 0:
                    contents.extend(bytes(max(0, offset - len(contents))))
                    contents[offset:offset + len(data)] = data
            if event.kind == "length" and how_many(1):
                contents = bytearray(contents[:event.offset].ljust(event.offset, b"\0"))
            elif event.kind in ("made", "removed") and how_many(1):
                exists = event.kind == "made"
        return bytes(contents) if exists else None

    def renamed(self, event):
        """The same content, under a name that its folder does not surely have yet."""
        file = self._without_names()
        file.exists = False
        file.later.append(event._replace(kind="made"))
        return file

    def sync(self):
        """Puts its content on the disk, whether or not its folder has it yet."""
        named = [event for event in self.later if event.kind in ("made", "removed")]
        self.exists, exists = True, self.exists
        self.contents = File.left(self._without_names(), lambda n: n) or b""
        self.exists, self.later = exists, named

    def _without_names(self) -> "File":
        copy = File()
        copy.exists, copy.contents = True, self.contents
        copy.later = [event for event in self.later if event.kind not in ("made", "removed")]
        return copy

    def sync_name(self):
        """Puts its name into its folder for good, or removes it."""
        for event in self.later:
            if event.kind in ("made", "removed"):
                self.exists = event.kind == "made"
        self.later = [event for event in self.later if event.kind not in ("made", "removed")]


def _pieces(event) -> Iterator[tuple[int, bytes]]:
    """A write, cut where the disk's blocks begin."""
    if event.kind == "write":
        start, end = event.offset, event.offset + len(event.data)
        borders = [start, *range((start // BLOCK + 1) * BLOCK, end, BLOCK), end]
        for one, other in zip(borders, borders[1:]):
            yield one, event.data[one - start:other - start]


def cuts(trace: str, paths: list[str]) -> Iterator[tuple[str, dict[str, File]]]:
    """For each stretch between two syncs: all that the run said until its end, and its files as they may be after a
    cut in it."""
    files, said = {path: File() for path in [*paths, f"{paths[0]}.new"]}, ""
    for event in [*events(trace), Event("sync")]:
        if event.kind == "said":
            said += event.data.decode(errors="replace")
        elif event.kind == "renamed":
            if event.path in files:
                files[event.path], files[event.old] = files[event.old].renamed(event), File()
        elif event.kind != "sync":
            if event.path in files:
                files[event.path].later.append(event)
        elif event.path in files or not event.path or event.path == os.path.dirname(paths[0]):
            yield said, files
            for path, file in files.items():
                if event.path == path:
                    file.sync()
                elif event.path == os.path.dirname(path):
                    file.sync_name()


def events(trace: str) -> Iterator[Event]:
    """The steps of a run, in order."""
    unfinished: dict[str, str] = {}
    for line in trace.splitlines():
        pid, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            unfinished[pid] = call.removesuffix("<unfinished ...>")
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", call):
            call = unfinished.pop(pid) + resumed[1]
        if found := _CALL.match(call):
            yield from _event(*found.groups())


def _event(call, arguments, _, opened) -> Iterator[Event]:
    if call == "openat" and "O_CREAT" in arguments:
        yield Event("made", _text(opened))
    elif call == "unlink":
        yield Event("removed", _text(arguments))
    elif call == "rename":
        old, new = map(_text, arguments.split(", "))
        yield Event("renamed", new, old=old)
    elif on_file := _ON_FILE.match(arguments):
        path, rest = _text(on_file[1]), on_file[2]
        if call in ("fsync", "fdatasync"):
            yield Event("sync", path)
        elif call == "ftruncate":
            yield Event("length", path, int(rest))
        elif call == "pwrite64":
            data, _, offset = rest.rsplit(", ", 2)
            yield Event("write", path, int(offset), _bytes(data))
        elif call == "write":
            yield Event("said", path, 0, _bytes(rest.rsplit(", ", 1)[0]))


def _bytes(quoted) -> bytes:
    return bytes.fromhex(quoted.strip(' "').replace("\\x", ""))


def _text(path) -> str:
    return _bytes(path).decode()
