# SPDX-License-Identifier: MIT
"""Bells between processes that have one store file open: `store.open` imports it where it lies beside.

Each node that listens has a socket of its own in a folder beside the file. An empty datagram is a bell: whoever hears
it looks what is new. Any other is a notice. Where a system has no such sockets, or this file is not there, a node that
listens looks at the head of the file again and again.
"""

from __future__ import annotations

import collections
import contextlib
import importlib
import itertools
import os
import re
import secrets
import socket
import stat
import threading
import time
from collections.abc import Iterable, Iterator

if not __package__:
    import store
else:                                 # both are part of somebody's package
    store = importlib.import_module(".store", __package__)

POLL_S, PAUSE_S = 1, 0.002            # between two looks for transactions that rang no bell; and between two hearings
LOOK_S = 0.2                          # that a commit believes its last look at who listens; whoever just began looks on
NOTICES_MAX = 1_000                   # that wait for processes which are slow to hear; beyond, the oldest are lost


class Bells(store._Watch):
    """The socket of a node, once it listens, and what it sends to those of the others."""

    def __init__(self, log: store._SqliteLog):
        super().__init__(log)
        self._is_readonly, self._folder, self._name = log._file.is_readonly, f"{log._file.path}-bells", ""
        self._sending = threading.Lock()
        self._socket: socket.socket | None = None
        self._sender: socket.socket | None = None
        self._names: list[str] = []
        self._look_at = self._looks_until = 0.0
        self._listed_at = 0           # when the folder had last changed as it was listed
        self._late: collections.deque[tuple[str, bytes]] = collections.deque(maxlen=NOTICES_MAX)

    def _begin(self) -> None:
        """Makes the socket, but in a folder that is only read, or on a system without: then it is as for a watch."""
        with contextlib.suppress(OSError, AttributeError):
            if not self._is_readonly:
                self._bind()

    def _bind(self) -> None:
        name, made = f"{os.getpid()}-{secrets.token_hex(4)}", socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._folder, 0o700)
            self._changed()
            with self._reaching() as folder:
                made.bind(f"{folder}/{name}")
            os.chmod(f"{self._folder}/{name}", 0o600)
        except BaseException:
            made.close()
            raise
        self._name, self._socket, self._looks_until = name, made, time.monotonic() + 2 * LOOK_S

    def _changed(self) -> int:
        """When the folder changed. Raises: OSError if there is none, or a planted link to what is another's."""
        found = os.lstat(self._folder)
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(self._folder)
        return found.st_mtime_ns

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[str]:
        """The folder's path as an address can have it: at most 100 bytes."""
        if len(os.fsencode(self._folder)) < 80:
            yield self._folder
            return
        opened = os.open(self._folder, os.O_RDONLY | store._CLOEXEC)
        try:
            yield f"/proc/self/fd/{opened}"
        finally:
            os.close(opened)

    def _others(self) -> list[str]:
        """The sockets of the others. The folder is listed again when it has changed, or has changed just before."""
        self._look_at = time.monotonic() + LOOK_S
        try:
            changed = self._changed() if os.access(self._folder, os.F_OK) else 0       # an error costs ten times that
            if not changed:
                self._names, self._listed_at = [], 0
            elif changed != self._listed_at:
                self._names = [name for name in os.listdir(self._folder)
                               if name != self._name and re.fullmatch("[0-9]+-[0-9a-f]{8}", name)]
                self._listed_at = changed if time.time_ns() - changed > POLL_S * 10 ** 8 else 0
        except OSError:
            self._names, self._listed_at = [], 0
        return self._names

    def send(self, data: bytes = b"") -> None:
        """Rings at the others, or gives them a notice; blocks nowhere.

        Most commits ring at nobody and must not pay for a look: a bell goes to those who listened LOOK_S ago, too.
        """
        names = self._others() if data or time.monotonic() > self._look_at else self._names
        if names:
            self._send([(name, data) for name in names])

    def _send(self, letters: Iterable[tuple[str, bytes]] = ()) -> None:
        """Sends what waits, then this, in order to each; a bell waits for none, since one that is there is enough."""
        with self._sending, contextlib.suppress(OSError), self._reaching() as folder:
            if self._sender is None:
                self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._sender.setblocking(False)
            late, full = [*self._late], set()
            self._late.clear()
            for name, data in itertools.chain(late, letters):
                try:
                    if name in full:
                        raise BlockingIOError
                    self._sender.sendto(data, f"{folder}/{name}")
                except BlockingIOError:
                    full.add(name)
                    if data:
                        self._late.append((name, data))
                except (ConnectionRefusedError, FileNotFoundError):      # its process was killed
                    self._look_at = 0
                    with contextlib.suppress(OSError):
                        os.unlink(f"{self._folder}/{name}")

    def _received(self, before: list[bytes]) -> list[bytes]:
        if before:
            time.sleep(PAUSE_S)
        if self._late:
            self._send()
        if self._socket is None:
            return super()._received(before)
        heard: list[bytes] = []
        with contextlib.suppress(OSError):           # its time is over, nothing more is there, or it was closed
            is_soon = self._late or time.monotonic() < self._looks_until
            self._socket.settimeout(store.POLL_S if is_soon else POLL_S)
            heard.append(self._socket.recv(2 ** 16))
            self._socket.settimeout(0)
            while len(heard) < NOTICES_MAX:
                heard.append(self._socket.recv(2 ** 16))
        return heard

    def _end(self) -> None:
        if self._name:
            self._look_at, self._listed_at, name, self._name = 0, 0, self._name, ""
            self.send()               # wakes our own thread; and sockets of killed processes go
            with contextlib.suppress(OSError):
                os.unlink(f"{self._folder}/{name}")
                os.rmdir(self._folder)

    def abandon(self) -> None:
        """In a forked child the sockets are the parent's."""
        for one in self._socket, self._sender:
            if one:
                one.close()
