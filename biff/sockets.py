# SPDX-License-Identifier: MIT
"""Rooms of sockets: one frame goes to thousands of browsers, and nobody waits for anybody.

    rooms = Rooms(sockets_max=10_000)
    socket = Socket(ws, request.transport, os_socket, person="ann")
    rooms.enter(socket, "eels", seen=6)
    rooms.send("eels", 7, text_frame("hello"))         # what the room is told under number 7

What a room is told is numbered, and the numbers rise. A frame is built once and written as it is to every socket of its
room. Frames that come together are joined, so that under load one system call carries several. A pass over a room is
cut into slices with a turn of the loop between, and the next pass begins when the last one has ended: each socket gets
every number once, in order, or is closed.

This file knows frames, transports and numbers. It knows no store, no message and no page, and imports nothing of ours.
"""

import asyncio
import collections
import contextlib
import itertools
import logging
import time
from socket import SO_SNDBUF, SOL_SOCKET, socket as OSSocket
from typing import Any, Callable, Hashable, Iterator, NamedTuple

from aiohttp import WSCloseCode, WSMsgType, web

log = logging.getLogger("sockets")

# ── Bounds ───────────────────────────────────────────────────────────────────────────────────────────────────

SOCKETS_MAX = 50_000                  # one core writes some 100,000 frames a second: half a second for a message to all
SOCKETS_A_PERSON = 50                 # windows, tabs and phones; beyond, the one opened first gives way: it may be dead
CONNECTS_A_PERSON = 120, 60           # in a minute: a tab that comes back as fast as browsers do, on two devices
CONNECTS_A_TURN = 4                   # handshakes and replays done before the loop serves others again: 2 to 4 ms
CONNECTS_WAITING_MAX = 10_000         # in line for that, each holding its request: some 100 MB, and half a minute
WAITING_BYTES_MAX = 256 * 1024        # for one socket; one that is further behind is cut, comes back and catches up
PERSON_BYTES_MAX = 4 * 1024 ** 2      # waiting for all sockets of one person
ALL_BYTES_MAX = 16 * 1024 ** 2        # waiting for all sockets; those who are behind longest are cut
KERNEL_BYTES_MAX = 128 * 1024         # that the kernel takes before that; left alone it takes 4 MB
JOINED_BYTES_MAX = 64 * 1024          # of frames in one write: what goes beyond would be copied into buffers, not sent
PATIENCE_S = 0.02                     # a pass waits for what is on its way to its room: eight messages cost as one
SLICE_SOCKETS = 256                   # written before the loop serves others: 2 ms
REPLAY_SLICE_S = 0.005                # of reading the log for a replay, likewise
REPLAYS_KEPT = 256                    # for those who ask the same
REPLAYS_BYTES_MAX = 8 * 1024 ** 2     # of them together: some hundred usual ones, or a few of the longest lists
FRAME_BYTES_MAX = 4 * 1024            # of what comes in: browsers answer pings, and say a word or two
FRAMES_A_MINUTE = 90                  # that come in; browsers answer three pings, and say at most 40 words
PING_S = 20                           # pages give a line up after 25 s without a word; no answer till the next: cut
PINGED_AT_ONCE = 64                   # the rest a little later, so that they answer a little later
PING_LOOK_S = 0.5                     # how often it is looked who is due
CLOSE_S = 0.6                         # for a close frame to be answered; then the connection is cut
CLOSE_ALL_S = 0.3                     # when all are closed; cutting 5,000 takes the rest of a shutdown's second

CLOSED = 2 ** 62                      # the number that a closed socket has seen: nothing is newer


class FullError(Exception):
    """There are as many sockets, or as many in line, as there may be."""


# ── Frames ───────────────────────────────────────────────────────────────────────────────────────────────────


def text_frame(text: str) -> bytes:
    """An unmasked, uncompressed text frame. Source: RFC 6455, section 5.2."""
    data = text.encode()
    size = len(data)
    if size < 126:
        return b"\x81" + bytes((size,)) + data
    if size < 65_536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + data
    return b"\x81\x7f" + size.to_bytes(8, "big") + data


PING = b"\x89\0"
WORD = text_frame("{}")               # scripts of a page hear no pings; htmx takes this for data, and shows nothing


def texts_of(frames: bytes) -> Iterator[str]:
    """The texts in a row of frames that `text_frame` made."""
    start = 0
    while start < len(frames):
        size, start = frames[start + 1], start + 2
        if size > 125:
            wide = 2 if size == 126 else 8
            size, start = int.from_bytes(frames[start:start + wide], "big"), start + wide
        yield frames[start:start + size].decode()
        start += size


def pong(data: bytes) -> bytes:
    """The pong for a ping. A control frame has up to 125 bytes."""
    return b"\x8a" + bytes((len(data),)) + data


class Response(web.WebSocketResponse):
    """Uncompressed, because a deflated frame belongs to one connection. Pings are sent, answered and counted below."""

    socket: "Socket | None" = None

    def __init__(self) -> None:
        super().__init__(compress=False, autoping=False, max_msg_size=FRAME_BYTES_MAX, timeout=CLOSE_S)

    async def close(self, **how: Any) -> bool:
        """Writes every close frame, also those that aiohttp sends by itself: nothing may follow one."""
        if self.socket:
            self.socket.mute()
        try:
            return await super().close(**how)
        finally:
            if failure := self.exception():            # its traceback would keep the request until a collection
                failure.__context__ = failure.__traceback__ = None


class Socket:
    """A connection. Frames go past aiohttp's writer and asyncio's transport to the operating system's socket.

    A room keeps that socket's `send`. So nobody waits for a client, and a frame costs little more than its system call.
    What aiohttp and asyncio guarantee is kept here:

    - Frames are whole and in order. What the operating system does not take is left to the transport, and so is all
      that comes until that is gone. Pings and pongs are sent by `write`, so that the room knows of all that waits.
    - Nothing follows a close frame: the socket is mute, and has seen `CLOSED`.
    - What waits is bounded, by WAITING_BYTES_MAX and the one write that went beyond it.
    - A closed socket raises. Its file number may be another connection's by then, so no number is kept.

    Handshake and closing stay aiohttp's.
    """

    __slots__ = ("ws", "transport", "send", "person", "room", "seen", "network", "hearing", "code", "is_asked")

    def __init__(self, ws: Response, transport: asyncio.Transport, os_socket: OSSocket, person: Hashable):
        self.ws, self.transport, self.send, self.person = ws, transport, os_socket.send, person
        self.room: Room | None = None
        self.network: Hashable = None                  # where it comes from, as `admit` was told
        self.hearing: asyncio.Task | None = None
        self.code: int | None = None                   # what it is closed with
        self.seen = 0                                  # at least so much
        self.is_asked = False                          # whether a ping waits for its answer
        ws.socket = self
        os_socket.setsockopt(SOL_SOCKET, SO_SNDBUF, KERNEL_BYTES_MAX)

    def write(self, data: bytes, number: int | None = None):
        """Frames of which `number` is the last, if they are numbered; behind what waits."""
        if self.seen == CLOSED or self.transport.is_closing():
            return
        self.seen = number or self.seen
        self.transport.write(data)
        if self.room and self.waiting():
            self.room.apart[self.send] = self
            self.room.behind[self] = None

    def waiting(self) -> int:
        """The bytes that the kernel has not taken."""
        return self.transport.get_write_buffer_size()

    def mute(self):
        self.seen = CLOSED
        if self.room:
            self.room.apart[self.send] = self

    def ask(self):
        """Says a word, and asks whether a browser is there."""
        self.is_asked = True
        self.write(PING + WORD)

    def cut_if_silent(self):
        if self.is_asked:
            log.info("dead person=%s", self.person)
            self.transport.abort()

    def said(self, text: str) -> bool:
        """Reads a browser's frame. False closes the socket: browsers answer pings, and say only what is expected."""
        return False

    async def hear(self):
        """Waits until the socket ends: by its browser, by sending what browsers do not, or by `hang_up`."""
        self.hearing = task = asyncio.current_task()
        try:
            self.code = await self._listen()
        except asyncio.CancelledError:
            if self.code is None:
                raise
            task.uncancel()                            # type: ignore[union-attr]      # a coroutine runs in a task
        finally:
            self.hearing = None
        if self.code:                                  # with drain it would wait for one that does not read
            await self.ws.close(code=self.code, drain=False)

    async def _listen(self) -> int | None:
        heard, since = 0, time.monotonic()
        async for message in self.ws:
            if time.monotonic() - since > 60:
                heard, since = 0, time.monotonic()
            heard += 1
            self.is_asked = False
            is_word = message.type is WSMsgType.TEXT and self.said(message.data)
            if not is_word and message.type not in (WSMsgType.PING, WSMsgType.PONG) or heard > FRAMES_A_MINUTE:
                return None if message.type is WSMsgType.ERROR else WSCloseCode.POLICY_VIOLATION
            if message.type is WSMsgType.PING:
                self.write(pong(message.data))
        return None

    def hang_up(self, code: int):
        """Closes by the task that hears.

        Closed by another task, aiohttp cuts the connection before the browser can answer the close frame. The cut may
        take that frame along; the browser would take a last word for an accident, and come back.
        """
        if self.hearing and self.code is None:
            self.code = code
            self.hearing.cancel()


# ── Rooms ────────────────────────────────────────────────────────────────────────────────────────────────────

Send = Callable[[bytes], int]         # how many of some bytes the operating system takes now


class Said(NamedTuple):
    """A message to a room: its number, the frame, and when it became true, in seconds since 1970."""
    number: int
    frame: bytes
    since: float | None


class Room:
    """The sockets of one key, what they are still to be told, and the pass that is under way."""

    __slots__ = ("key", "around", "behind", "sockets", "apart", "due", "waiting", "is_queued", "telling", "joined",
                 "left")

    def __init__(self, key, around, behind):
        self.key, self.around = key, around
        self.behind = behind                           # of all rooms, the sockets for which bytes wait
        self.sockets: dict[Send, Socket] = {}
        self.apart: dict[Send, Socket] = {}            # those that entered, left or fell behind lately
        self.due: collections.deque[Said] = collections.deque()
        self.waiting: asyncio.TimerHandle | None = None
        self.is_queued = False
        self.telling: list[Said] = []
        self.left: Iterator[Send] = iter(())
        self.joined = b""

    def begin(self):
        """Joins what is due, up to a bound, for a pass over the sockets that are here now."""
        self.telling, size = [self.due.popleft()], 0
        while self.due and (size := size + len(self.telling[-1].frame)) < JOINED_BYTES_MAX:
            self.telling.append(self.due.popleft())
        self.joined = b"".join(said.frame for said in self.telling)
        self.left = iter(tuple(self.sockets))

    def newer_than(self, seen: int) -> bytes:
        """The part of the pass that a socket has not seen: it may have come in the middle of what was joined."""
        if seen < self.telling[0].number:
            return self.joined
        return b"".join(said.frame for said in self.telling if said.number > seen)

    def end(self):
        """The pass is over: only who has seen more than it, or has bytes waiting, is still looked at."""
        last, self.telling, self.joined = self.telling[-1].number, [], b""
        self.apart = {send: socket for send, socket in self.apart.items()
                      if socket.room is self and (socket.seen > last or socket.waiting())}


class Rooms:
    """All open sockets, by room and by person. A mapping of keys to rooms that have someone in them."""

    def __init__(self, sockets_max: int = SOCKETS_MAX, delivered: Callable[[float], Any] = lambda seconds: None):
        self.sockets_max, self._delivered = sockets_max, delivered
        self._rooms: dict[Hashable, Room] = {}
        self._inside: dict[Hashable, set[Hashable]] = {}     # a place → the keys of the rooms that lie in it
        self._behind: dict[Socket, None] = {}
        self._asked: dict[Socket, float] = {}          # when each was asked last, the longest ago first
        self._people: dict[Hashable, dict[Socket, None]] = {}
        self._due: collections.deque[Room] = collections.deque()
        self._leaving: collections.deque[tuple[Socket, int, bytes]] = collections.deque()
        self._expected: collections.Counter[Hashable] = collections.Counter()
        self._line: collections.deque[asyncio.Future] = collections.deque()
        self._places: dict[asyncio.Task, Hashable] = {}      # connections, those on their way too, and their networks
        self._networks: dict[Hashable, dict[Socket, None]] = {}
        self._is_turning = self._is_admitting = self._is_ended = False
        self.count = self.frames = self.cut = self.refused = self.gave_way = 0
        self.announced: bytes = b""

    def __contains__(self, key):
        return key in self._rooms

    def __iter__(self):
        return iter(tuple(self._rooms))

    def __len__(self):
        return len(self._rooms)

    def sockets(self, key=None) -> list[Socket]:
        """The sockets in a room; without a key, all."""
        rooms = self._rooms.values() if key is None else filter(None, [self._rooms.get(key)])
        return [socket for room in rooms for socket in room.sockets.values()]

    def waiting_bytes(self) -> int:
        return sum(socket.waiting() for socket in self.sockets())

    def near(self, place: Hashable) -> set[Hashable]:
        """The keys of the rooms at a place: its own, and those that lie in it."""
        return self._inside.get(place, set()) | ({place} & self._rooms.keys())

    # Coming and going

    async def admit(self, network: Hashable = None):
        """Waits for one's turn to connect, so that a thousand who come back do not starve those who post.

        When there are as many as there may be, the network that has most gives way.
        Raises: FullError.
        """
        is_full = len(self._places) >= self.sockets_max and not self._give_way(network)
        if self._is_ended or is_full or len(self._line) >= CONNECTS_WAITING_MAX:
            self.refused += 1
            raise FullError
        loop, connection = asyncio.get_running_loop(), asyncio.current_task()
        assert connection is not None
        self._places[connection] = network
        connection.add_done_callback(self._places.pop)
        turn = loop.create_future()
        self._line.append(turn)
        if not self._is_admitting:
            self._is_admitting = True
            loop.call_soon(self._admit, loop)
        await turn

    def _give_way(self, newcomer):
        """True if a network that has more sockets than the newcomer's gives one back: the one opened first."""
        most = max(self._networks, key=lambda network: len(self._networks[network]), default=None)
        theirs, ours = self._networks.get(most, {}), self._networks.get(newcomer, {})
        if len(theirs) <= len(ours) + 1:
            return False
        self.gave_way += 1
        self.close(next(iter(theirs)), WSCloseCode.TRY_AGAIN_LATER)
        return True

    def _admit(self, loop):
        for _ in range(min(len(self._line), CONNECTS_A_TURN)):
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
        self._is_admitting = bool(self._line)
        if self._line:
            loop.call_soon(self._admit, loop)

    def enter(self, socket: Socket, key: Hashable, seen: int, around: Hashable = None):
        """From now on the socket is told what the room is told under numbers above `seen`.

        `around` is the larger place in which a new room lies, if there is one.
        """
        socket.seen = seen
        if key not in self._rooms:
            self._rooms[key] = Room(key, around, self._behind)
            self._inside.setdefault(around, set()).add(key)
        socket.room = self._rooms[key]
        socket.room.sockets[socket.send] = socket.room.apart[socket.send] = socket
        self._people.setdefault(socket.person, {})[socket] = None
        socket.network = self._places.get(asyncio.current_task())      # type: ignore[arg-type]      # there is one
        self._networks.setdefault(socket.network, {})[socket] = None
        self._asked[socket] = time.monotonic()
        self.count += 1

    def people(self) -> list[Hashable]:
        """The people who have a socket open."""
        return list(self._people)

    def tell(self, person: Hashable, make: Callable[[Socket], bytes | None]):
        """Tells each socket of a person what `make` says for it, at once, without a number: it may come twice."""
        for socket in tuple(self._people.get(person, ())):
            if frame := make(socket):
                socket.write(frame)

    def one_too_many(self, person: Hashable) -> Socket | None:
        """The socket that has to give way, if a person has more than they may."""
        theirs = self._people.get(person, {})
        return next(iter(theirs)) if len(theirs) > SOCKETS_A_PERSON else None

    def leave(self, socket: Socket) -> bool:
        """Takes a socket out of its room and says if it was there. An emptied room is forgotten."""
        room, socket.room, socket.seen = socket.room, None, CLOSED
        if room is None:
            return False
        room.apart.pop(socket.send, None)
        if room.telling:                               # a pass may be on its way to it
            room.apart[socket.send] = socket
        theirs, neighbours = self._people[socket.person], self._networks[socket.network]
        del room.sockets[socket.send], theirs[socket], neighbours[socket], self._asked[socket]
        if not room.sockets:
            del self._rooms[room.key]
            self._inside[room.around].remove(room.key)
            if not self._inside[room.around]:
                del self._inside[room.around]
        if not theirs:
            del self._people[socket.person]
        if not neighbours:
            del self._networks[socket.network]
        self.count -= 1
        return True

    def end(self, socket: Socket):
        """Its connection is over. Bytes that wait would hold it for a quarter of an hour, so they are dropped soon."""
        self.leave(socket)
        socket.ws.socket = None                        # or the two would keep each other
        asyncio.get_running_loop().call_later(CLOSE_S, socket.transport.abort)

    def bound_waiting(self):
        """Cuts sockets, those behind longest first, until what waits is within the bounds of a person and of all."""
        waits = {socket: socket.waiting() for socket in self._behind if socket.room}
        self._behind.clear()
        self._behind.update((socket, None) for socket, size in waits.items() if size)
        total, people = sum(waits.values()), collections.Counter[Hashable]()
        for socket, size in waits.items():
            people[socket.person] += size
        for socket in tuple(self._behind):
            if total > ALL_BYTES_MAX or people[socket.person] > PERSON_BYTES_MAX:
                total, people[socket.person] = total - waits[socket], people[socket.person] - waits[socket]
                del self._behind[socket]
                self._cut(socket, socket.room)

    async def watch(self):
        """Says a word to each socket, for ever, PING_S after it came or after the last word; cuts who is silent."""
        while True:
            due = time.monotonic() - PING_S
            asked = [socket for socket, at in itertools.islice(self._asked.items(), PINGED_AT_ONCE) if at <= due]
            for socket in asked:
                del self._asked[socket]
                self._asked[socket] = time.monotonic()
                socket.cut_if_silent()
                socket.ask()
            await asyncio.sleep(PING_LOOK_S * (0.1 if len(asked) == PINGED_AT_ONCE else 1))

    # Telling

    def send(self, key: Hashable, number: int, frame: bytes, since: float | None = None):
        """Tells a room soon, behind what it was told before, and together with what this turn of the loop brings."""
        if (room := self._rooms.get(key)) is not None:
            room.due.append(Said(number, frame, since))
            self._queue_in_time(room)

    @contextlib.contextmanager
    def expecting(self, key: Hashable):
        """While it lasts, something for a room is on its way, and a pass waits a moment to send both at once."""
        self._expected[key] += 1
        try:
            yield
        finally:
            self._expected[key] -= 1
            if not self._expected[key]:
                del self._expected[key]
                loop = asyncio.get_running_loop()      # two turns on: the listener hears it in this one or the next
                loop.call_soon(loop.call_soon, self._queue, key)

    def _queue_in_time(self, room):
        """The room takes its turn now, or when what is expected has come, or when it has waited long enough."""
        if room.key not in self._expected:
            self._queue(room.key)
        elif room.due and not room.is_queued and not room.waiting:
            room.waiting = asyncio.get_running_loop().call_later(PATIENCE_S, self._queue, room.key)

    def _queue(self, key):
        room = self._rooms.get(key)
        if room is None or not room.due or room.is_queued:
            return
        if room.waiting:
            room.waiting.cancel()
        room.waiting, room.is_queued = None, True
        self._due.append(room)
        self._turn_soon()

    async def announce(self, frame: bytes):
        """Tells every socket a word about this server, in slices. `announced` is the last one, for sockets to come."""
        self.announced = frame
        await self._say(self.sockets(), frame)

    async def say(self, key: Hashable, frame: bytes):
        """Tells a room a word without a number, in slices. Those who are too far behind are passed over."""
        await self._say(self.sockets(key), frame)
        self.bound_waiting()

    async def _say(self, sockets, frame):
        for count, socket in enumerate(sockets, 1):
            if socket.waiting() <= WAITING_BYTES_MAX:
                socket.write(frame)
            if count % SLICE_SOCKETS == 0:
                await asyncio.sleep(0)

    def close(self, socket: Socket, code: int, frame: bytes = b""):
        """Says a last word, and closes. From this moment on the socket is told nothing else."""
        if self.leave(socket):
            self._leaving.append((socket, code, frame))
            self._turn_soon()

    def _turn_soon(self):
        if not self._is_turning:
            self._is_turning = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self):
        """A slice of what there is to do. Rooms take turns, so that a full one does not hold up the others."""
        budget = SLICE_SOCKETS
        while self._leaving and budget > 0:
            self._see_off(*self._leaving.popleft())
            budget -= 1
        while self._due and budget > 0:
            room = self._due.popleft()
            budget -= self._tell(room, budget)
            if room.telling:
                self._due.append(room)
            else:
                room.is_queued = False
                self._queue_in_time(room)
        self._is_turning = False
        if self._due or self._leaving:
            self._turn_soon()

    def _tell(self, room, budget) -> int:
        """Goes on with the room's pass, for at most `budget` sockets; how many there were."""
        if not room.telling:
            room.begin()
        told, joined, size = list(itertools.islice(room.left, budget)), room.joined, len(room.joined)
        for send in self._tell_apart(room, told) if room.apart else told:      # a send costs 3 µs, so nothing else may
            try:
                if (sent := send(joined)) < size:
                    room.sockets[send].write(joined[sent:], room.telling[-1].number)
            except OSError:                            # nothing is taken now, or the connection is lost
                room.sockets[send].write(joined, room.telling[-1].number)
        self.frames += len(told) * len(room.telling)
        if len(told) < budget:
            self._told(room)
        return len(told) + 1

    def _tell_apart(self, room, told) -> list[Send]:
        """Tells those of them who are looked at one by one; the others."""
        last = room.telling[-1].number
        for socket in filter(None, map(room.apart.get, told)):
            if socket.seen < last and socket.waiting() > WAITING_BYTES_MAX:
                self._cut(socket, room)
            elif socket.seen < last:
                socket.write(room.newer_than(socket.seen), last)
        return [send for send in told if send not in room.apart]

    def _told(self, room):
        now = time.time()
        for said in room.telling:
            if said.since is not None:
                self._delivered(now - said.since)
        room.end()
        if self._behind:
            self.bound_waiting()

    def _cut(self, socket, room):
        self.cut += 1
        log.info("cut room=%s person=%s waiting=%d", room.key, socket.person, socket.waiting())
        socket.transport.abort()
        self.leave(socket)

    # Closing

    def _see_off(self, socket, code, frame):
        if frame and not socket.transport.is_closing():
            socket.transport.write(frame)
        socket.hang_up(code)
        asyncio.get_running_loop().call_later(CLOSE_S, socket.transport.abort)

    async def close_all(self, code: int = WSCloseCode.SERVICE_RESTART):
        """Closes every socket, lets nobody in any more, and waits for CLOSE_ALL_S until all have gone."""
        self._is_ended = True
        going = self.sockets()
        handlers = [socket.hearing for socket in going if socket.hearing]
        for socket in going:
            self.close(socket, code)
        if handlers:
            await asyncio.wait(handlers, timeout=CLOSE_ALL_S)
        for socket in going:
            socket.transport.abort()


# ── What was said lately ─────────────────────────────────────────────────────────────────────────────────────
#
# A browser that comes back asks for what was said since a number. A thousand who ask cost one reading of the log.


class Lately:
    """The last frames of all rooms, in order and without a gap: those of the numbers above `low`, up to `high`.

    `read(after)` yields (number, words) from the log, for all numbers above `after`. `words.frame(key)` is a room's
    frame, or None. `words.shown(key)` has the ids of what it shows, `words.changed(key)` of what it changes or takes
    back; None stands for everything. `words.size` is about how many bytes they hold.
    """

    def __init__(self, read: Callable, count_max: int, bytes_max: int):
        self._read, self.count_max, self.bytes_max = read, count_max, bytes_max
        self._said: collections.deque = collections.deque()
        self._replays: collections.OrderedDict = collections.OrderedDict()
        self._reading = asyncio.Lock()
        self._size, self.low, self.high = 0, CLOSED, 0
        self._replays_size = 0
        self.reads = self.replays = 0                  # readings of the log; pages that were sent something

    def hear(self, number: int, make: Callable[[], Any]):
        """The words under the next number; a replay may have made them already."""
        if number <= self.high:
            for known, words in reversed(self._said):
                if known == number:
                    return words
        words = make()
        if number > self.high:
            self._begin(number - 1)
            self._append(number, words)
        return words

    def _begin(self, number):
        if self.low == CLOSED:
            self.low = self.high = number

    def _append(self, number, words):
        self._said.append((number, words))
        self._size += words.size
        self.high = number
        self._trim()

    def _trim(self):
        while len(self._said) > self.count_max or self._size > self.bytes_max and self._said:
            self.low, words = self._said.popleft()
            self._size -= words.size

    def forget(self):
        """Drops everything, because something in it must not be said again; it is read anew when somebody asks."""
        self._said.clear()
        self._replays.clear()
        self._size, self._replays_size, self.low = 0, 0, self.high

    async def reach(self, after: int, newest: int):
        """Reads from the log, in slices, what is missing back to `after`, unless that is too far."""
        async with self._reading:
            self._begin(newest)
            if 0 <= self.low - after <= self.count_max and self.low > after:
                await self._read_back(after)

    async def _read_back(self, after):
        end, found, begun = self.low, [], time.monotonic()
        for number, words in self._read(after):
            if number > end:
                break
            found.append((number, words))
            if time.monotonic() - begun > REPLAY_SLICE_S:
                await asyncio.sleep(0)
                begun = time.monotonic()
        self.reads += 1
        if self.low == end:                            # else it was forgotten meanwhile, and the page is replaced
            self._said.extendleft(reversed(found))
            self._size, self.low = self._size + sum(words.size for _, words in found), after
            self._trim()

    def read_up(self, newest: int):
        """Reads from the log what was committed, and not heard of yet. Hearing begins here, if it has not begun."""
        self._begin(newest)
        if newest <= self.high:
            return
        for number, words in self._read(self.high):
            if number > newest:
                break
            self._append(number, words)
        self.high = newest

    def catch_up(self, key: Hashable, after: int, whole: Callable[[], bytes]) -> bytes:
        """Brings a page from `after` up to `high`: the frames since, joined, or `whole()` if that is too much.

        Nor is anything said again that was changed or taken back since: then, too, it is `whole()`. What is answered is
        kept for those who ask the same, until something else is said to the room; the whole is kept once for a room.
        """
        data = None
        if self.low <= after <= self.high:
            _, data = self._kept(key, after, lambda: self._joined(key, after))
        if data is None:
            made_at, data = self._kept(key, None, whole)
            if made_at <= after <= self.high:          # nothing was said to the room since, and the page is newer
                data = b""
        self.replays += bool(data)
        return data

    def _kept(self, key, start, make):
        """The number at which the bytes were made, and these."""
        upto, made_at, data = self._replays.pop((key, start), (-1, -1, None))
        self._replays_size -= len(data or b"")
        if upto < self.low or any(words.frame(key) for words in self.newer(upto)):
            made_at, data = self.high, make()
        self._replays[key, start] = self.high, made_at, data
        self._replays_size += len(data or b"")
        while len(self._replays) > REPLAYS_KEPT or self._replays_size > REPLAYS_BYTES_MAX:
            self._replays_size -= len(self._replays.popitem(last=False)[1][-1] or b"")
        return made_at, data

    def newer(self, after: int) -> Iterator:
        """The words since, the newest first."""
        return (words for _, words in itertools.takewhile(lambda said: said[0] > after, reversed(self._said)))

    def _joined(self, key, after) -> bytes | None:
        """The frames of a room since `after`; None if they take something back, or are too many."""
        if self._takes_back(key, after):
            return None
        frames, size = [], 0
        for words in self.newer(after):
            if frame := words.frame(key):
                frames.append(frame)
                size += len(frame)
            if size > WAITING_BYTES_MAX:               # no further one is made: a page of them would hold up the loop
                return None
        return b"".join(reversed(frames))

    def _takes_back(self, key, after):
        """True if something that a room was shown since `after` was changed later."""
        changed: set = set()
        for words in self.newer(after):
            shown = words.shown(key)
            if changed and (shown is None or not changed.isdisjoint(shown)):
                return True
            if (now := words.changed(key)) is None:
                return True
            changed |= now
        return False
