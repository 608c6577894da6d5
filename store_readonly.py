# SPDX-License-Identifier: MIT
"""A file that is opened for reading only: `store.open(…, readonly=True)` imports it.

It takes no lock and writes nothing, so it may lie where nothing can be written. While somebody writes it is read as by
any other process. What nobody has open is read as a file that does not change, until it has.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

if not __package__:
    import store
else:                                 # both are part of somebody's package
    store = importlib.import_module(".store", __package__)


class File(store._File):
    is_readonly = True
    _seen: tuple = ()                 # what a file that nobody writes looked like

    def __init__(self, path: Any):
        super().__init__(path, None)

    def _create_once(self) -> None:
        raise store.StoreError(f"{self.path} is not there, and what is opened for reading only is not made.")

    def _check_kind(self) -> None:
        if store._size(self.path + "-wal") and not self._is_written():
            raise store.StoreError(f"{self.path} was left with a write-ahead log by a process that was killed. Open it "
                                   "once where it can be written.")
        super()._check_kind()

    def _is_alone(self) -> bool:
        return not self._is_written()

    def _is_written(self) -> bool:
        """Whether somebody has it open to write."""
        return os.path.exists(self.path + "-shm")

    def _begin_connections(self) -> None:
        status, is_written = os.stat(self.path), self._is_written()
        self._seen = () if is_written else (status.st_mtime_ns, status.st_size)
        self.uri = store._uri(self.path, "ro" if is_written else f"ro&immutable=1&seen={status.st_mtime_ns}")
        while self._readers:
            self._close(self._readers.pop())
        if hasattr(self, "writer"):
            self._close(self.writer)
        self.writer = self._reader("-32000")
        self.writer.execute("select 1 from log where tx_id = 0").fetchone()
        self.words, self._words = self._look() if is_written else (store._NO_HEAD, store._NO_HEAD)

    def catch_up(self) -> store.Point:
        if self._seen:
            self._look_again()
            return self.latest
        return super().catch_up()

    def _look_again(self) -> None:
        """Connects anew where the file has changed, or somebody has begun to write it."""
        with self._moving:
            status = os.stat(self.path)
            if self._seen and (self._is_written() or self._seen != (status.st_mtime_ns, status.st_size)):
                self._begin_connections()
                self.documents.clear()
                self.evictions, self.births = self.evictions + 1, self.births + 2
                self._load_state()
