"""Things that break: a tiny TCP proxy that balances between servers, cuts connections in silence,
and swallows bells; and a real cable."""
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
