"""The chat at rest, with many messages in its file: when it answers, how much memory it holds, what a page costs.

    python bench/rest.py [--messages 100000]

Starts the real server on a file made for it, signs in, and asks for the newest page of the hot channel. Server time is
the CPU of the process for the page, from /proc, so that a busy machine does not count.
"""

import argparse
import datetime as dt
import http.cookiejar
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import store                                     # noqa: E402
from store import put                            # noqa: E402

EMAIL = "operator@example.com"


def fill(path, count):
    """A community with one channel of many messages, and a user who is its admin; the channel's path."""
    user, comm, mem, chan = (uuid.uuid4() for _ in range(4))
    now = dt.datetime.now(dt.timezone.utc)
    node = store.open(path)
    node.submit_tx([put({"xt/id": user, "user/email": EMAIL, "user/joined-at": now}),
                    put({"xt/id": comm, "comm/title": "Community #1"}),
                    put({"xt/id": mem, "mem/user": user, "mem/comm": comm, "mem/roles": {"admin"}}),
                    put({"xt/id": chan, "chan/title": "Channel #1", "chan/comm": comm})])
    for start in range(0, count, 10_000):
        node.submit_tx([put({"xt/id": uuid.uuid4(), "msg/mem": mem,
                             "msg/text": f"message {n} of many, about as long as people write them in a chat",
                             "msg/channel": chan, "msg/created-at": now})
                        for n in range(start, min(start + 10_000, count))])
    node.close()
    return f"/community/{comm}/channel/{chan}"


class Browser:
    def __init__(self, base, lines):
        self.base, self.lines = base, lines
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))

    def get(self, path):
        return self.opener.open(self.base + path).read().decode()

    def post(self, path, page, **fields):
        fields["__anti-forgery-token"] = re.search(r'name="__anti-forgery-token" value="([^"]+)"', page).group(1)
        request = urllib.request.Request(self.base + path, urllib.parse.urlencode(fields).encode(),
                                         {"Origin": self.base})
        return self.opener.open(request).read().decode()

    def sign_in(self):
        self.post("/auth/send-link", self.get("/"), email=EMAIL)
        for line in self.lines:
            if found := re.search(r"http\S+(/auth/verify-link/(\S+))", line):
                break
        self.post("/auth/verify-link", self.get(found.group(1)), token=found.group(2))


def cpu_ms(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def memory_mb(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text()).group(1)) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=100_000)
    count = parser.parse_args().messages
    with tempfile.TemporaryDirectory() as data:
        channel = fill(pathlib.Path(data) / "eelchat.db", count)
        with socket.socket() as asked:
            asked.bind(("127.0.0.1", 0))
            port = asked.getsockname()[1]
        begin = time.perf_counter()
        server = subprocess.Popen([sys.executable, "-u", str(ROOT / "eelchat.py"), "--port", str(port), "--data", data],
                                  text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            ready = next(time.perf_counter() - begin for line in server.stdout if str(port) in line)
            browser = Browser(f"http://127.0.0.1:{port}", server.stdout)
            while True:
                try:
                    browser.get("/")
                    break
                except OSError:
                    time.sleep(0.01)
            at_rest = memory_mb(server.pid)
            browser.sign_in()
            assert browser.get(channel).count("<article") == 50
            walls, before = [], cpu_ms(server.pid)
            for _ in range(200):
                start = time.perf_counter()
                browser.get(channel)
                walls.append((time.perf_counter() - start) * 1000)
            page = (cpu_ms(server.pid) - before) / 200
            print(f"{count:,} messages in one channel                 asked")
            print(f"ready after                      {ready:8.2f} s      1 s")
            print(f"memory at rest                   {at_rest:8.1f} MB    80 MB")
            print(f"a channel page of 50, server CPU {page:8.2f} ms    20 ms")
            print(f"the same, by the clock (median)  {statistics.median(walls):8.2f} ms")
            print(f"memory afterwards                {memory_mb(server.pid):8.1f} MB")
        finally:
            server.terminate()
            server.wait(10)


if __name__ == "__main__":
    main()
