"""The chat under attack: its memory beside that at rest, and how long others wait meanwhile.

    python bench/walls.py [--messages 90000] [--only NAME …]

The attacker's requests come from 127.0.0.1 and are those of people who are signed in. Somebody else, at 127.0.0.2, asks
for a page all the while. Memory is the most that the process ever held during the attack, from
/proc.
"""

import argparse
import contextlib
import itertools
import multiprocessing
import os
import re
import socket
import struct
import time
import urllib.parse
import uuid
import zlib

import crowd
from fanout import CORES, Chat, put

PEOPLE, OTHERS = 60, 8                # of them so many are no attackers, and ask in turn
LONGEST = ("http://a " * 50 + "🐟" + '"' * 10_000)[:10_000]      # of all texts, its markup is about the longest
LONG_MESSAGES = 200
LOADED = 5_000                        # messages in one transaction, while a channel is filled
SMALL_CHANNEL = 2_000                 # messages of each of the other channels that are deleted at once
CHANNELS = 12
ASK_S = 0.03                          # between two requests of the person who is not part of the attack
ATTACK_S, REST_S = 6, 1.5
PICTURES, PICTURES_S = 48, 10         # sent at once, and how long the server is given to read them
DELETED_S = 10                        # of what deletions leave to be swept, which goes on for minutes


class Attacked(Chat):
    """The chat with a page of the longest messages, and channels to delete."""

    def __init__(self, messages):
        self.messages = messages
        super().__init__(people=PEOPLE)

    def _fill_channel(self, node, channel, mem, now):
        comm = node.db().entity(channel)["chan/comm"]
        admin = node.db().q({"find": "?mem", "where": [["?mem", "mem/user"]]})
        node.submit_tx([put(node.db().entity(id) | {"mem/roles": {"admin"}}) for id in admin])
        for _ in range(LONG_MESSAGES):
            node.submit_tx([put(message(node, channel, mem, now, LONGEST))])
        self.large = []
        for n, count in enumerate([self.messages] + [SMALL_CHANNEL] * (CHANNELS - 1) if self.messages else []):
            id = uuid.uuid4()
            node.submit_tx([put({"xt/id": id, "chan/title": f"Large #{n}", "chan/comm": comm})])
            self.large.append(f"/community/{comm}/channel/{id}")
            for start in range(0, count, LOADED):
                node.submit_tx([put(message(node, id, mem, now, f"message {n} of many"))
                                for n in range(start, min(start + LOADED, count))])

    def reset_peak(self):
        with open(f"/proc/{self.process.process.pid}/clear_refs", "w") as file:
            file.write("5")

    def peak_mb(self):
        with open(f"/proc/{self.process.process.pid}/status") as file:
            return int(re.search(r"VmHWM:\s+(\d+)", file.read()).group(1)) / 1024


def message(node, channel, mem, now, text):
    return {"xt/id": node.new_id(), "msg/mem": mem, "msg/channel": channel, "msg/created-at": now, "msg/text": text}


# ── The one who waits ────────────────────────────────────────────────────────────────────────────────────────


def ask(port, path, cookies, ended, told):
    """Asks for a page again and again; tells each wait in ms, and how many answers there were of each status."""
    requests = itertools.cycle(f"GET {path} HTTP/1.1\r\nHost: x\r\nCookie: eelchat={cookie}\r\n\r\n".encode()
                               for cookie in cookies)
    waits, statuses = [], {}
    sock = None
    while not ended.is_set():
        begun = time.perf_counter()
        try:
            sock = sock or socket.create_connection(("127.0.0.1", port), 20, ("127.0.0.2", 0))
            sock.sendall(next(requests))
            status = read_answer(sock)
        except OSError as failure:
            status, sock = type(failure).__name__, None
        waits.append((time.perf_counter() - begun) * 1000)
        statuses[status] = statuses.get(status, 0) + 1
        time.sleep(ASK_S)
    told.put((waits, statuses))


def read_answer(sock):
    data = b""
    while b"\r\n\r\n" not in data:
        data += piece(sock)
    head, _, body = data.partition(b"\r\n\r\n")
    size = int((re.search(rb"(?i)content-length: (\d+)", head) or [0, 0])[1])
    while len(body) < size:
        body += piece(sock)
    return int(head.split()[1])


def piece(sock):
    data = sock.recv(65_536)
    if not data:
        raise ConnectionResetError
    return data


@contextlib.contextmanager
def somebody_else(chat, path="/app"):
    """Asks from elsewhere while it lasts; yields a dict that is filled at the end."""
    ended, told, found = multiprocessing.Event(), multiprocessing.Queue(), {}
    asking = multiprocessing.Process(target=ask, args=[chat.port, path, chat.cookies[-OTHERS:], ended, told])
    asking.start()
    time.sleep(0.3)
    try:
        yield found
    finally:
        ended.set()
        waits, statuses = told.get(timeout=60)
        found |= {"longest": max(waits), "p99": crowd.percentile(waits, 0.99), "statuses": statuses}
        asking.join()


# ── The attacks ──────────────────────────────────────────────────────────────────────────────────────────────


def connection(chat, data):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sock.connect(("127.0.0.1", chat.port))
    sock.sendall(data)
    return sock


def page_request(chat, path, n):
    return (f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{chat.port}\r\nCookie: eelchat={chat.cookies[n]}\r\n\r\n").encode()


def unread_of_one(chat):
    return [connection(chat, page_request(chat, chat.channel, 0)) for _ in range(400)]


def unread_of_many(chat):
    return [connection(chat, page_request(chat, chat.channel, n % (PEOPLE - OTHERS))) for n in range(400)]


def replays(chat):
    """Handshakes from each of the last transactions, by sockets that do not read."""
    newest = chat.newest()
    requests = [crowd.upgrade(chat.port, f"{chat.channel}/connect?after={newest - n % LONG_MESSAGES}",
                              f"Cookie: eelchat={chat.cookies[n % (PEOPLE - OTHERS)]}") for n in range(256)]
    return [connection(chat, request) for request in requests]


def idle(chat):
    return [connection(chat, b"GET /signin HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(960)]


def heads(chat):
    lines = b"".join(b"X-%d: %s\r\n" % (n, b"a" * 7_000) for n in range(4))
    made = []
    for _ in range(2_000):
        with contextlib.suppress(OSError):
            made.append(connection(chat, b"GET / HTTP/1.1\r\nHost: x\r\n" + lines))
    return made


def empty_frames(chat):
    """Empty continuation frames, as fast as they are taken."""
    path = f"{chat.quiet}/connect?after={chat.newest()}"
    requests = [crowd.upgrade(chat.port, path, *chat.headers(cookie)) for cookie in chat.cookies[:20]]
    made = [sock for sock, _ in crowd.open_sockets(chat.port, requests)]
    frames, end = b"\x01\x80\0\0\0\0" + b"\0\x80\0\0\0\0" * 20_000, time.monotonic() + ATTACK_S
    alive = list(made)
    while alive and time.monotonic() < end:
        for sock in tuple(alive):
            try:
                sock.send(frames)
            except BlockingIOError:
                continue
            except OSError:
                alive.remove(sock)
    return made


def deletions(chat, count):
    answers = [request_deletion(chat, path, n) for n, path in enumerate(chat.large[:count])]
    for sock in answers:
        assert read_answer(sock) in (204, 303), "a channel is deleted"
    time.sleep(DELETED_S)
    return answers


def request_deletion(chat, path, n):
    cookie, token = next(chat.posters)
    body = urllib.parse.urlencode({"__anti-forgery-token": token})
    head = (f"DELETE {path} HTTP/1.1\r\nHost: 127.0.0.1:{chat.port}\r\nSec-Fetch-Site: same-origin\r\nCookie: "
            f"eelchat={cookie}\r\nHX-Request: true\r\nContent-Type: application/x-www-form-urlencoded\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}")
    return connection(chat, head.encode())


def png(width, height, rows=b"", text=b""):
    """A picture that says it is so large, with these bytes for its rows, and with a text."""
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    texts = chunk(b"zTXt", b"a\0\0" + zlib.compress(text, 9)) if text else b""
    return b"\x89PNG\r\n\x1a\n" + head + texts + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def pictures(chat):
    """Pictures of 100 megapixels, bombs, pictures that are cut off and the largest that are taken, all at once."""
    side = 6_300
    largest = png(side, side, bytes(side * (3 * side + 1)))
    kinds = [largest, png(10_000, 10_000, bytes(30_001_000)), png(2, 2, bytes(14), bytes(200_000_000)),
             largest[:len(largest) // 2]]
    held = [request_upload(chat, kinds[n % len(kinds)]) for n in range(PICTURES)]
    time.sleep(PICTURES_S)
    return held


def request_upload(chat, body):
    cookie, token = next(chat.posters)
    head = (f"POST {chat.channel}/file/{uuid.uuid4()}?name=a.png HTTP/1.1\r\nHost: 127.0.0.1:{chat.port}\r\n"
            f"Sec-Fetch-Site: same-origin\r\nCookie: eelchat={cookie}\r\nX-CSRF-Token: {token}\r\nHX-Request: true\r\n"
            f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n")
    return connection(chat, head.encode() + body)


ATTACKS = {"nothing": lambda chat: [],
           "400 unread pages, one person": unread_of_one, "400 unread pages, 52 people": unread_of_many,
           "256 replays of 200 of the longest messages": replays, "960 connections that ask once": idle,
           "2,000 unfinished heads of 28 KB": heads, "empty frames on 20 sockets": empty_frames,
           "48 pictures: bombs, too large, cut off": pictures,
           "a channel of {:,} messages deleted": lambda chat: deletions(chat, 1),
           "twelve channels deleted at once": lambda chat: deletions(chat, CHANNELS)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=90_000)
    parser.add_argument("--only", nargs="*", default=[""])
    options = parser.parse_args()
    os.sched_setaffinity(0, CORES[-1:])
    print(f"{'':44}{'memory, MB':>12}{'at rest':>9}{'×':>6}{'longest wait, ms':>18}{'p99':>8}   answers")
    print(f"{'asked':44}{'':>12}{'':>9}{'2':>6}{'100':>18}")
    for name, attack in ATTACKS.items():
        if not any(word in name for word in options.only):
            continue
        with contextlib.closing(Attacked(options.messages if "delete" in name else 0)) as chat:
            chat.page()
            with somebody_else(chat) as calm:
                time.sleep(REST_S)
            rest = chat.process.memory_kib() / 1024
            chat.reset_peak()
            with somebody_else(chat) as found:
                held = attack(chat)
                time.sleep(REST_S)
            peak = chat.peak_mb()
            for sock in held:
                sock.close()
            print(f"{name.format(options.messages):44}{peak:12.0f}{rest:9.0f}{peak / rest:6.2f}{found['longest']:18.0f}"
                  f"{found['p99']:8.0f}   {found['statuses']}; at rest {calm['longest']:.0f}")


if __name__ == "__main__":
    main()
