"""The cost of searching for words: the load with the index of texts and without it, first pages of results, the file.

    python bench/search.py [--size 100000] [--folder FOLDER]

Loads a chat of so many messages into two stores in turns, in transactions of 10,000, and asks the one with the index
for the newest thirty hits in the channels that somebody may read, as plugins/search.py does. With --folder the stores
are kept there, and what is found there is asked and not loaded again: a million messages take two commands. A
question's figure is the median of many; what a request has beside the question, such as rendering, is not in it.
"""

import argparse
import itertools
import json
import pathlib
import random
import statistics
import sys
import tempfile
import time
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import store                                      # noqa: E402
from store import put                             # noqa: E402

VOCABULARY, CHANNELS, HIDDEN, WORDS_MAX, PAGE, SECONDS = 30_000, 200, 20, 20, 30, 2
LETTERS = "eeeeeeaaaaioooonnnnsssrrrtttttllhhddcuumpfgwybvkxjqz"
KANJI = [chr(code) for code in range(0x4e00, 0x4e00 + 800)]
SEARCH, CHANNEL = [("text-search", "msg/text", "?words"), [["?m"]]], ["?m", "msg/channel", "?channel"]
QUERY = {"find": "?m", "in": ["?words", "?channels"], "order-by": [[("created", "?m"), "desc"]], "limit": PAGE,
         "where": [CHANNEL, [("==", "?channel", "?channels")], SEARCH]}
OLDER = QUERY | {"in": ["?words", "?channels", "?last"],
                 "where": [*QUERY["where"], [("created-before", "?m", "?last")]]}
WITHIN = QUERY | {"in": ["?words", "?channel"], "where": [CHANNEL, SEARCH]}


class World:
    """Messages of 1 to 20 words, of a vocabulary in which the n-th word is n times rarer than the first; a tenth of
    them is in characters without spaces. One in 200,000 says "zanzibar"."""

    def __init__(self):
        self.rng = rng = random.Random(1)
        lengths = rng.choices((2, 3, 4, 5, 6, 7, 9), k=VOCABULARY)
        self.vocabulary = ["".join(rng.choices(LETTERS, k=length)) for length in lengths]
        self.vocabulary[3] = "because"            # a word that all the time is said
        self.channels = [self.id() for _ in range(CHANNELS)]
        self._weights = list(itertools.accumulate(1 / (n + 1) for n in range(VOCABULARY)))
        self._kanji = list(itertools.accumulate(1 / (n + 1) for n in range(len(KANJI))))

    def id(self):
        return uuid.UUID(int=self.rng.getrandbits(128), version=4)

    def text(self, n):
        count = self.rng.randrange(1, WORDS_MAX + 1)
        if n % 10 == 9:
            return "".join(self.rng.choices(KANJI, cum_weights=self._kanji, k=count))
        words = self.rng.choices(self.vocabulary, cum_weights=self._weights, k=count)
        return " ".join(words).capitalize() + (" zanzibar." if n % 200_000 == 777 else ".")

    def messages(self, count):
        at = store.EPOCH
        for n in range(count):
            yield {"xt/id": self.id(), "msg/mem": self.channels[n % 50], "msg/channel": self.rng.choice(self.channels),
                   "msg/text": self.text(n), "msg/created-at": at}


def load(folder, size):
    """Loads both stores in turns, so that a noisy minute hits both; microseconds a message of each."""
    taken, messages = [0.0, 0.0], World().messages(size)
    with store.open(folder / "without.db") as without, store.open(folder / "with.db", text=["msg/text"]) as indexed:
        while batch := [put(message) for message in itertools.islice(messages, 10_000)]:
            for side, node in enumerate((without, indexed)):
                began = time.perf_counter()
                node.submit_tx(batch)
                taken[side] += time.perf_counter() - began
    return [1e6 * one / size for one in taken]


def asked(node, query, *arguments):
    """(hits, milliseconds of the first time, median of the others)"""
    db, times, until = node.db(), [], time.perf_counter() + SECONDS
    while len(times) < 5 or time.perf_counter() < until:
        began = time.perf_counter()
        found = db.q(query, *arguments)
        times.append(1000 * (time.perf_counter() - began))
    return len(found), times[0], statistics.median(times[1:])


def questions(world):
    word, two = world.vocabulary, KANJI[30] + KANJI[40]
    readable = set(world.channels[HIDDEN:])
    return {"a rare word": (QUERY, "zanzibar", readable), "a word that is not there": (QUERY, "qqqxzz", readable),
            "a frequent word": (QUERY, "because", readable), "a part of a word": (QUERY, "ecaus", readable),
            "two words": (QUERY, f"because {word[900]}", readable),
            "two rare words": (QUERY, f"{word[9000]} {word[8000]}", readable),
            "two characters without spaces": (QUERY, two, readable), "one of them": (QUERY, KANJI[300], readable),
            "a word of two letters": (QUERY, next(w for w in word[5000:] if len(w) == 2), readable),
            "a frequent word in one channel": (WITHIN, "because", world.channels[50]),
            "a rare word in one channel": (WITHIN, "zanzibar", world.channels[50])}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--folder", type=pathlib.Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=pathlib.Path.cwd()) as temporary:
        folder = options.folder or pathlib.Path(temporary)
        folder.mkdir(exist_ok=True)
        kept = folder / "loads.json"
        if not kept.exists():
            kept.write_text(json.dumps(load(folder, options.size)))
        one, other = json.loads(kept.read_text())
        sizes = [(folder / name).stat().st_size / options.size for name in ("without.db", "with.db")]
        print(f"| {options.size:,} messages | | asked |\n| --- | --- | --- |")
        print(f"| load, without and with | {one:.1f} and {other:.1f} µs a message, {other / one:.2f} × | ≤ 1.5 × |")
        print(f"| file, without and with | {sizes[0]:.0f} and {sizes[1]:.0f} bytes a message | |")
        with store.open(folder / "with.db") as node:
            every = questions(World())
            last = node.db().q({"find": "?m", "where": [["?m", "msg/text"]], "limit": 1, "timeout": 60_000,
                                "offset": options.size * 9 // 10, "order-by": [[("created", "?m"), "desc"]]})[0]
            every["a frequent word, nine tenths back"] = OLDER, "because", every["a frequent word"][2], last
            for name, question in every.items():
                hits, first, median = asked(node, *question)
                print(f"| {name}: {hits} on the first page | {median:.2f} ms; the first time {first:.1f} | < 50 ms |")


if __name__ == "__main__":
    main()
