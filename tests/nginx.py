"""A real nginx before the chat, with the configuration that docs/running.md shows."""
import pathlib
import re
import shutil
import subprocess
import textwrap
import time

from conftest import ROOT, free_port

START_S_MAX = 10
WHOLE = """daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log warn;
events {{ worker_connections 8192; }}
worker_rlimit_nofile 16384;
http {{
access_log off;
client_body_temp_path {folder}/body;
proxy_temp_path {folder}/proxy;
fastcgi_temp_path {folder}/fastcgi;
uwsgi_temp_path {folder}/uwsgi;
scgi_temp_path {folder}/scgi;
{documented}
}}
"""


def found():
    """The path of nginx. Raises LookupError."""
    if path := shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"):
        return path
    raise LookupError("nginx: not on PATH")


def documented(port, chat_port, kept):
    """The configuration of docs/running.md, without TLS, on ports of this machine; `kept` idle connections."""
    page = (ROOT / "docs/running.md").read_text()
    text = page[page.index("    map $http_upgrade"):page.index("`map` and `upstream`")]
    changes = {r"listen 443 ssl;": f"listen 127.0.0.1:{port};", r"ssl_certificate.*": "",
               r"127\.0\.0\.1:8080": f"127.0.0.1:{chat_port}", r"keepalive 64;": f"keepalive {kept};"}
    for pattern, replacement in changes.items():
        text, count = re.subn(pattern, replacement, text)
        assert count, pattern
    return textwrap.dedent(text)


class Nginx:
    """nginx on a free port of this machine. `url` is where people find the chat, through it."""

    def __init__(self, folder: pathlib.Path, port=None):
        self.folder, self.port = folder, port or free_port()
        self.url, self._process = f"http://127.0.0.1:{self.port}", None

    def start(self, chat_port, kept=64):
        self.folder.mkdir(exist_ok=True)
        config = self.folder / "nginx.conf"
        config.write_text(WHOLE.format(folder=self.folder, documented=documented(self.port, chat_port, kept)))
        self._process = subprocess.Popen([found(), "-p", str(self.folder), "-e", str(self.folder / "error.log"),
                                          "-c", str(config)])
        end = time.monotonic() + START_S_MAX
        while not (self.folder / "pid").exists() or not (self.folder / "pid").read_text():
            if self._process.poll() is not None or time.monotonic() > end:
                raise AssertionError(self.log)
            time.sleep(0.02)
        return self

    @property
    def log(self):
        return (self.folder / "error.log").read_text()

    def stop(self):
        if self._process:
            self._process.terminate()
            self._process.wait(START_S_MAX)
