# SPDX-License-Identifier: MIT
"""Workers: several processes serve one port and one store, so that a server fills more than one core.

    python eelchat.py --workers 4

A supervisor reads the settings, takes the port and forks the workers. It opens no store and answers nobody; it starts
again a worker that ended. All workers accept from one listening socket, which is the supervisor's: a connection that
waits there while a worker is killed is answered by another one. What a worker has to tell the others goes through the
store: transactions, and notices. Only the counts of rate limits lie in memory that all share.

A pipe is the workers' lifeline. The supervisor alone holds its other end, and whoever reads the end of it stops in
order: the supervisor closes it to stop the workers, and the system does when the supervisor is killed.

One worker, which is the default, is this process itself, without a supervisor.
"""

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import select
import signal
import socket
import sys
import time
from typing import Callable, Iterable, NamedTuple

from biff.config import read_config
from biff.limits import SharedTimes
from biff.server import bound
from biff.system import StartError, log_to_stderr, start_system, stop_system

log = logging.getLogger("biff")

STEADY_S = 60                         # a worker that lived so long is started again at once
PAUSE_S = 0.25                        # before the next try after one that lived shorter; then twice as long each time
PAUSE_S_MAX = 20
ENDS_MAX = 10                         # in a row, of one worker that does not live for STEADY_S: two minutes
STOP_S_MAX = 15                       # for all workers to end in order; jobs under way have ten seconds
GARBAGE_OBJECTS = 10_000              # made between two looks for cycles, some MB; with 700 a busy server looks always
STOPPING = (signal.SIGINT, signal.SIGTERM)


class Worker(NamedTuple):
    """What a worker inherits."""
    number: int                       # 0, 1, 2 …; one that is started again has number and name of the one before
    name: str                         # among all servers and workers
    is_first: bool                    # the first of all, which starts alone, and says where the server is
    sockets: list[socket.socket]      # that listen
    times: SharedTimes                # of the rate limits
    lifeline: int                     # the end of a pipe, which is over when the worker is to stop
    ready: int                        # the end of a pipe, to be written to by a worker that has started


def run(components: Iterable[Callable], system: dict) -> None:
    """Starts the system and serves until Ctrl-C or SIGTERM. Exit status 1, after one sentence, if it cannot go on."""
    log_to_stderr()
    try:
        count = read_config(system)["workers"]
        if count > 1:
            Supervisor(count, lambda worker: _run_one(components, system | {"biff/worker": worker}),
                       asyncio.run(bound(system["biff/config"]))).run()
        else:
            _run_one(components, system)
    except StartError as error:
        sys.exit(str(error))


def _run_one(components, system):
    asyncio.run(_serve(components, system))
    if system.get("biff/failure"):
        sys.exit(f"{system['biff/name']} stopped: {system['biff/failure']}")


async def _serve(components, system):
    ended, loop, worker = asyncio.Event(), asyncio.get_running_loop(), system.get("biff/worker")
    system["biff/end"], system["biff/is-ending"] = ended.set, ended.is_set
    for signum in STOPPING:
        loop.add_signal_handler(signum, ended.set)
    if worker:
        loop.add_reader(worker.lifeline, lambda: loop.remove_reader(worker.lifeline) and ended.set())
    await start_system(components, system)
    if worker:
        with contextlib.suppress(BrokenPipeError):
            os.write(worker.ready, b".")
    gc.freeze()                                     # the collector need not walk what is there from the start
    gc.set_threshold(GARBAGE_OBJECTS)
    try:
        await ended.wait()
    finally:
        for signum in STOPPING:
            loop.remove_signal_handler(signum)      # a second Ctrl-C does not wait for anything
        await stop_system(system)


class Supervisor:
    """Keeps `count` workers running, each a fork in which `serve(worker)` runs, until it is told to stop."""

    def __init__(self, count: int, serve: Callable[[Worker], None], sockets: list[socket.socket]):
        self._count, self._serve, self._sockets, self._times = count, serve, sockets, SharedTimes()
        self._names = [secrets.token_hex(8) for _ in range(count)]
        self._running: dict[int, tuple[int, float]] = {}       # process id → (number, when it began)
        self._due: dict[int, float] = {}                       # number → when it is started
        self._ends = [0] * count                               # in a row, each after a short life
        self._signals: list[int] = []                          # that tell to stop
        self._lifeline, self._ready = os.pipe(), os.pipe()
        self._woken = socket.socketpair()                      # by signals

    def run(self) -> None:
        """Returns when all workers have ended. Raises: StartError if a worker cannot be kept running."""
        for woken in self._woken:
            woken.setblocking(False)
        signal.set_wakeup_fd(self._woken[1].fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda signum, _: None)
        for signum in STOPPING:
            signal.signal(signum, lambda signum, _: self._signals.append(signum))
        gc.freeze()                                            # a collection would copy the memory that workers share
        try:
            self._start(0, is_first=True)
            self._keep()
        finally:
            self._stop()

    def _keep(self):
        """Starts what is due, until a signal to stop. The other workers follow when the first one is ready."""
        is_begun = False
        while not self._is_told_to_stop():
            is_ready = self._wait(min(self._due.values(), default=time.monotonic() + PAUSE_S_MAX) - time.monotonic())
            if is_ready and not is_begun:
                is_begun, self._due = True, dict.fromkeys(range(1, self._count), 0.0)
            for number, status, lived_s in self._ended():
                if not is_begun:
                    raise SystemExit(status if status >= 0 else f"The first worker ended {_how(status)}.")
                self._note_end(number, status, lived_s)
            for number in [number for number, at in self._due.items() if at <= time.monotonic()]:
                del self._due[number]
                self._start(number)

    def _is_told_to_stop(self):
        return bool(self._signals)

    def _wait(self, timeout_s):
        """Returns after a signal, after some time, or with True when a worker is ready."""
        found, _, _ = select.select([self._woken[0].fileno(), self._ready[0]], [], [], max(0, timeout_s))
        with contextlib.suppress(BlockingIOError):
            self._woken[0].recv(4096)
        return self._ready[0] in found and bool(os.read(self._ready[0], 4096))

    def _ended(self):
        """(number, exit status, seconds of life) of workers that have ended; a signal's status is its number below 0.
        """
        while self._running:
            process, status = os.waitpid(-1, os.WNOHANG)
            if not process:
                return
            if process in self._running:
                number, begun = self._running.pop(process)
                yield number, os.waitstatus_to_exitcode(status), time.monotonic() - begun

    def _note_end(self, number, status, lived_s):
        self._ends[number] = 1 if lived_s > STEADY_S else self._ends[number] + 1
        if self._ends[number] == ENDS_MAX:
            raise StartError(f"Worker {number} ended {ENDS_MAX} times, each within {STEADY_S} s of its start, the last "
                             f"time {_how(status)}: the server stops.")
        pause_s = 0 if lived_s > STEADY_S else min(PAUSE_S * 2 ** (self._ends[number] - 1), PAUSE_S_MAX)
        self._due[number] = time.monotonic() + pause_s
        log.warning("Worker %d ended %s after %.0f s. It is started again%s; the others serve on", number,
                    _how(status), lived_s, f" in {pause_s:g} s" if pause_s else "")

    def _start(self, number, is_first=False):
        worker = Worker(number, self._names[number], is_first, self._sockets, self._times, self._lifeline[0],
                        self._ready[1])
        if process := os.fork():
            self._running[process] = number, time.monotonic()
            return
        status = 1
        try:
            self._become(worker)
            status = 0
        except StartError as error:
            print(error, file=sys.stderr)
        except SystemExit as end:
            print(end, file=sys.stderr)
        except BaseException:
            log.exception("Worker %d fails", number)
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush(), sys.stderr.flush()
            os._exit(status)                                   # nothing here returns into what the supervisor does

    def _become(self, worker):
        signal.set_wakeup_fd(-1)
        for signum in (*STOPPING, signal.SIGCHLD):
            signal.signal(signum, signal.SIG_DFL)
        for end in self._lifeline[1], self._ready[0]:
            os.close(end)                                      # or nobody would see the supervisor die
        for woken in self._woken:
            woken.close()
        log_to_stderr(f"[{worker.number}]")
        self._serve(worker)

    def _stop(self):
        """Lets the workers end in order, and ends those that do not in time, or at once after a second signal."""
        for listening in self._sockets:
            listening.close()
        os.close(self._lifeline[1])
        self._signals.clear()
        end = time.monotonic() + STOP_S_MAX
        while self._running:
            list(self._ended())
            if time.monotonic() > end or self._is_told_to_stop():
                for process in self._running:
                    os.kill(process, signal.SIGKILL)
            if self._running:
                self._wait(min(1, end - time.monotonic()))


def _how(status):
    return f"by signal {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
