"""A channel's page and a post, with a hundred messages in the channel and with a million.

    pip install -e '.[bench]' && npm ci --prefix bench
    python bench/pages.py [--messages 100 1000000] [--rounds 5] [--seconds 2]
    python bench/pages.py --rich                        # both with 100 messages: plain text, and all that there is

The load comes from autocannon (bench/load.js) on a core of its own. The servers share the other core and take turns.
Server time is the CPU of the process, from /proc, divided by the number of answered requests. It is true on a busy
machine too; requests a second are not. Posts come from thousands of people in turn, each with an id of its own, and are
committed and synced before they are answered.
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import urllib.parse
import uuid

from fanout import CORES, ROOT, Chat, put

CONNECTIONS = 8
LOADED = 5_000                        # messages in one transaction, while a channel is filled
WARM_S = 1
KINDS = {"page": "the newest page", "older": "a page from the middle", "post": "a post"}
PLAIN = "message {} of many, about as long as people write them in a chat"
RICH = "message **{}** of _many_, with `code` and a [link](https://a.example/b) in it, :tada:"
EMOJI = "\U0001f44d", "\U0001f389"


class Filled(Chat):
    """The chat with so many messages in its channel. Rich ones all have Markdown; every second one is a reply, and
    every second one has two reactions."""

    def __init__(self, messages, is_rich=False):
        self.messages, self.is_rich = messages, is_rich
        super().__init__(RICH.format("new") if is_rich else PLAIN.format("new"))

    def _fill_channel(self, node, channel, mem, now):
        self.middle = None
        for start in range(0, self.messages, LOADED):
            ids = [node.new_id() for _ in range(min(LOADED, self.messages - start))]
            node.submit_tx([put(document) for number, id in enumerate(ids)
                            for document in self._message(mem, channel, now, ids, number, start + number)])
            if start + len(ids) > self.messages // 2 and self.middle is None:
                self.middle = ids[self.messages // 2 - start]

    def _message(self, mem, channel, now, ids, number, count):
        id, text = ids[number], (RICH if self.is_rich else PLAIN).format(count)
        message = {"xt/id": id, "msg/mem": mem, "msg/channel": channel, "msg/created-at": now, "msg/text": text}
        if not self.is_rich or number % 2 == 0:
            return [message]
        reply = {"msg/reply-to": ids[number - 1], "msg/reply-tx": 1, "msg/thread": ids[number - 1]}
        return [message | reply, *({"xt/id": uuid.uuid5(id, emoji), "react/msg": id, "react/channel": channel,
                                    "react/mem": mem, "react/emoji": emoji} for emoji in EMOJI)]


def load(chat, kind, seconds):
    """Requests a second, and the CPU of one in ms."""
    people = [{"headers": {"cookie": f"eelchat={cookie}"}, "body": post_body(chat, token)} if kind == "post" else
              {"headers": {"cookie": f"eelchat={cookie}"}} for cookie, token
              in itertools.islice(chat.posters, len(chat.cookies))]
    path = chat.channel + (f"?before={chat.middle}" if kind == "older" else "")
    given = {"url": f"http://127.0.0.1:{chat.port}{path}", "method": "POST" if kind == "post" else "GET",
             "seconds": seconds,
             "connections": CONNECTIONS, "people": people,
             "headers": {"sec-fetch-site": "same-origin", "hx-request": "true",
                         "content-type": "application/x-www-form-urlencoded"}
             if kind == "post" else {}}
    begun = chat.process.cpu_us()
    made = subprocess.run(["node", str(ROOT / "bench/load.js")], input=json.dumps(given), capture_output=True,
                          text=True, check=True)
    result = json.loads(made.stdout)
    if result["failures"] or result["redirects"] or not result["answers"]:
        raise SystemExit(f"{kind}: {result}")
    return result["answers"] / result["seconds"], (chat.process.cpu_us() - begun) / 1000 / result["answers"]


def post_body(chat, token):
    return urllib.parse.urlencode({"text": chat.text, "__anti-forgery-token": token}) + "&post={id}"


def asked(kind, is_rich):
    return {"page": "1.3", "post": "1.2" if is_rich else ""}.get(kind, "")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, nargs=2, default=[100, 1_000_000])
    parser.add_argument("--rich", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    options = parser.parse_args()
    os.sched_setaffinity(0, CORES[-1:])
    with contextlib.ExitStack() as stack:
        sizes = [(100, False), (100, True)] if options.rich else [(messages, False) for messages in options.messages]
        chats = [stack.enter_context(contextlib.closing(Filled(*size))) for size in sizes]
        for chat, kind in itertools.product(chats, KINDS):
            load(chat, kind, WARM_S)
        measured = {(chat, kind): [] for chat in chats for kind in KINDS}
        for _, kind, chat in itertools.product(range(options.rounds), KINDS, chats):
            measured[chat, kind].append(load(chat, kind, options.seconds))
        memory = [chat.process.memory_kib() / 1024 for chat in chats]
    small, large = chats
    heads = [f"{count:,} {'rich' if is_rich else 'plain'} messages" for count, is_rich in sizes]
    print(f"medians of {options.rounds} rounds" + "".join(f"{head:>34}" for head in heads) + f"{'×':>8}   asked")
    for kind, label in KINDS.items():
        ratio = statistics.median(b[1] / a[1] for a, b in zip(measured[small, kind], measured[large, kind]))
        cells = [[statistics.median(values) for values in zip(*measured[chat, kind])] for chat in chats]
        print(f"{label:24}" + "".join(f"{f'{rate:,.0f}/s, {cpu:.2f} ms of CPU':>32}" for rate, cpu in cells)
              + f"{ratio:10.2f}   {asked(kind, options.rich)}")
    print(f"{'memory':24}" + "".join(f"{f'{mb:.0f} MB':>32}" for mb in memory))


if __name__ == "__main__":
    main()
