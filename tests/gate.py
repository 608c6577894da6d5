"""Things that break: a tiny TCP proxy that balances between servers, cuts connections in silence,
and swallows bells; a web proxy that stalls, cuts and delays; and a real cable."""
import asyncio
import contextlib
import os
import select
import socket
import subprocess
import threading

CHUNK = 65_536
NETWORKS = 2 ** 15                    # of four addresses, in 198.18.0.0/15, where none of the internet's are (RFC 2544)


class Gate:
    """Listens on a port of its own and passes bytes to the first of `ports` that takes the connection.

    `.cut()` stops passing anything, in silence, as a cable does; `.heal()` goes on. `.is_deaf` swallows PostgreSQL's
    notifications, which is what a proxy that pools transactions does to those who listen.
    """

    def __init__(self, *ports, is_deaf=False):
        self.ports, self.is_deaf, self._flows, self._ended = list(ports), is_deaf, threading.Event(), False
        self._flows.set()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        self._flows.clear()

    def heal(self):
        self._flows.set()

    def close(self):
        self._ended = True
        self._flows.set()
        self._socket.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client):
        with client:
            self._flows.wait()
            server = self._connected()
            if server:
                with server, contextlib.suppress(OSError):
                    self._pass(client, server)

    def _connected(self):
        for port in list(self.ports):
            with contextlib.suppress(OSError):
                return socket.create_connection(("127.0.0.1", port), timeout=5)
        return None

    def _pass(self, client, server):
        """Bytes both ways until either side is done."""
        keep = Messages() if self.is_deaf else bytes
        while not self._ended:
            ready, _, _ = select.select([client, server], [], [], 0.2)
            self._flows.wait()
            for source in ready:
                data = source.recv(CHUNK)
                if not data:
                    return
                if source is client:
                    server.sendall(data)
                else:
                    client.sendall(keep(data))


class WebProxy:
    """A proxy of HTTP in the test's own loop, between browsers and the port of a server. Each of its faults is an
    attribute or a method:

    `edits`: pairs of bytes, replaced in what browsers send, as proxies do that know no Upgrade or name another Host;
    `delay()`: the seconds that each piece waits, so that connections overtake each other; `is_refusing`: new
    connections are cut. `stall(kind)` lets nothing pass any more on the connections of a kind, "socket" or "request",
    that are open now, and tells nobody; `cut(kind)` ends them; `deaf` counts posts whose answers are cut.
    """

    def __init__(self, port):
        self.server_port, self.edits, self.delay, self.is_refusing, self.deaf = port, [], lambda: 0, False, 0
        self.is_holding_sockets = False
        self._wires = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        self.cut()
        while self._wires:
            await asyncio.sleep(0.01)

    def stall(self, kind=None):
        for wire in self._of(kind):
            wire.is_stalled = True

    def cut(self, kind=None):
        for wire in self._of(kind):
            wire.task.cancel()

    def count(self, kind=None):
        return len(self._of(kind))

    def _of(self, kind):
        return [wire for wire in self._wires if kind in (None, wire.kind)]

    async def _serve(self, reader, writer):
        wire = Wire(asyncio.current_task())
        self._wires.add(wire)
        try:
            if not self.is_refusing:
                server = await asyncio.open_connection("127.0.0.1", self.server_port)
                wire.writers = [writer, server[1]]
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pass(wire, reader, server[1], True))
                    both.create_task(self._pass(wire, server[0], writer, False))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._wires.discard(wire)
            for one in {writer, *wire.writers}:
                one.transport.abort() if wire.task.cancelling() else one.close()

    async def _pass(self, wire, reader, writer, is_up):
        while data := await reader.read(CHUNK):
            if is_up:
                wire.kind = "socket" if b"upgrade: websocket" in data.lower() else wire.kind
                wire.is_post = data.startswith(b"POST ")
                for old, new in self.edits:
                    data = data.replace(old, new)
            elif wire.is_post and self.deaf:
                self.deaf -= 1
                raise ConnectionError("the answer is lost")
            await asyncio.sleep(self.delay())
            while wire.is_stalled or wire.kind == "socket" and self.is_holding_sockets:
                await asyncio.sleep(0.05)
            writer.write(data)
        writer.close()
        raise ConnectionError("one side is done")


class Wire:
    """One connection through a WebProxy."""

    def __init__(self, task):
        self.task, self.kind, self.is_stalled, self.is_post, self.writers = task, "request", False, False, []


class Cable:
    """A network namespace and the cable from it to ours: `.enter` begins a command that runs there, `.address` is ours
    as it is seen there.

    `.cut()` takes the link down: nobody is told, as when a cable is pulled; `.heal()`. Raises: OSError where that is
    not permitted.
    """

    def __init__(self, number):
        place = (2 * os.getpid() + number) % NETWORKS * 4      # test runs beside each other have others
        self.name = f"eel{os.getpid()}n{number}"
        self.address, inside = (f"198.{18 + host // 2 ** 16}.{host // 256 % 256}.{host % 256}"
                                for host in (place + 1, place + 2))
        self.enter = ["ip", "netns", "exec", self.name]
        ip("netns", "add", self.name)
        try:
            ip("link", "add", self.name, "type", "veth", "peer", "name", "cable", "netns", self.name)
            ip("address", "add", f"{self.address}/30", "dev", self.name)
            ip("-n", self.name, "address", "add", f"{inside}/30", "dev", "cable")
            ip("-n", self.name, "link", "set", "cable", "up")
            self.heal()
        except OSError:
            self.remove()
            raise

    def cut(self):
        ip("link", "set", self.name, "down")

    def heal(self):
        ip("link", "set", self.name, "up")

    def remove(self):
        ip("netns", "delete", self.name)                        # both ends of the cable go with it


def ip(*words):
    """Runs the command `ip`. Raises: OSError with what it said."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


class Messages:
    """What PostgreSQL sends, but for its notifications. Source: PostgreSQL manual, message formats."""

    def __init__(self):
        self._rest = b""

    def __call__(self, data):
        self._rest, kept = self._rest + data, []
        if self._rest[:1] in (b"N", b"S") and len(self._rest) == 1:      # the answer to a request for encryption
            self._rest, kept = b"", [self._rest]
        while len(self._rest) >= 5 and len(self._rest) > (size := int.from_bytes(self._rest[1:5], "big")):
            message, self._rest = self._rest[:size + 1], self._rest[size + 1:]
            if message[:1] != b"A":
                kept.append(message)
        return b"".join(kept)
