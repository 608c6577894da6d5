# SPDX-License-Identifier: MIT
"""The system: a dict that components fill at start, one after the other, and that everything is given.

A component is `async def use_x(system)`: it puts what it opened into the system and the function that closes it on
"biff/stop". They start in order and stop in reverse order; one that fails to start stops those before it, and one
that fails to stop does not keep the others open.
"""

import asyncio
import datetime as dt
import inspect
import logging
import re
from typing import Callable, Iterable

log = logging.getLogger("biff")


class BiffError(Exception):
    """The root of everything that this package raises on purpose."""


class StartError(BiffError):
    """The system cannot start; the sentence says why and what to do."""


PATH_CHARS_LOGGED = 200
MAY_BE_TOKEN = re.compile(r"(?<![\w%-])[\w%-]{43,}(?![\w%-])")      # also one of whose letters are written as %2D


async def start_system(components: Iterable[Callable], system: dict) -> dict:
    """The system, the same dict, with everything that the components add. Raises: StartError."""
    system.setdefault("biff/plugins", [])
    system.setdefault("biff/clock", lambda: dt.datetime.now(dt.timezone.utc))
    system["biff/stop"] = []
    try:
        for use in components:
            system = await use(system)
    except BaseException:
        await stop_system(system)
        raise
    return system


async def stop_system(system: dict) -> None:
    while system["biff/stop"]:
        stop = system["biff/stop"].pop()
        try:
            if inspect.isawaitable(stopping := stop()):
                await stopping
        except Exception:
            log.exception("A component did not stop cleanly")


def assoc_db(ctx: dict) -> dict:
    """A new ctx with a fresh snapshot."""
    return {**ctx, "biff/db": ctx["biff/node"].db()}


def now(ctx: dict) -> dt.datetime:
    """The clock that sessions, sign-in and `NOW` are told by."""
    return ctx["biff/clock"]()


def parts(system: dict, key: str) -> list:
    """All routes, queues or tasks of all plugins, in order."""
    return [part for plugin in system["biff/plugins"] for part in plugin.get(key, ())]


def dicts(system: dict, key: str) -> dict:
    """All schemas or transaction functions of all plugins, by name. Raises: StartError if two plugins claim a name."""
    found: dict = {}
    for plugin in system["biff/plugins"]:
        if taken := found.keys() & plugin.get(key, {}).keys():
            raise StartError(f"Two plugins have a {key} named {min(taken)}.")
        found |= plugin.get(key, {})
    return found


def name_of(function):
    return getattr(function, "__qualname__", repr(function))


async def end_tasks(tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def is_secure(system: dict) -> bool:
    return system["biff/base-url"].startswith("https://")


class LineFormatter(logging.Formatter):
    """Makes one line of a record, whatever a user wrote, and masks all that is long enough to be a token."""

    _second, _shown = 0, ""

    def formatTime(self, record, datefmt=None):
        if (second := int(record.created)) != self._second:
            self._second, self._shown = second, super().formatTime(record, "%Y-%m-%d %H:%M:%S")
        return f"{self._shown},{int(record.msecs):03d}"

    def format(self, record):
        text = masked(super().format(record))
        if text.isprintable():                        # nearly every line; letter by letter costs as much as a query
            return text
        text = text.replace("\r", "").replace("\n", "\n    ")
        return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def masked(text):
    return MAY_BE_TOKEN.sub("…", text)


def log_to_stderr(mark: str = "") -> None:
    """Lines of the log go to stderr. The mark stands behind the name of each, such as that of a worker."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(f"%(asctime)s %(levelname)s %(name)s{mark} %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=bool(mark))
    # Looked up for every record, a third of a line's cost, and shown in no line of ours. Source: the logging HOWTO.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
