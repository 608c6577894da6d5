"""The store beside hand-written SQL and beside its peers: the same data and questions, in one run, one table.

    python bench/store.py [--size 10000 100000 people] [--peers sql cozo_mem …] [--rows newest join …] [--rounds 5]
                          [--keep FILE]

Each side works in a process of its own (`peer.py`), in the same folder. Its first answer to every question is compared
with the truth that the data was made from (`world.py`).

The sides are timed in turns, round after round, so that a noisy minute hits all alike. A figure is the median of the
rounds' medians. × is the store's figure divided by the side's in the same round. The store and the SQL keep their files
with synchronous=FULL and a write-ahead log. A side that takes longer than five minutes over something is stopped and
shown as "> 5 min". With --keep the figures are added to a file, and the table shows all that is in it: a full table
takes several commands.

The peers come from PyPI and npm, and only this program needs them: `pip install -e '.[bench]' && npm ci --prefix
bench`.
"""

import argparse
import json
import os
import pathlib
import select
import statistics
import subprocess
import sys
import tempfile
import time

from rows import ITEMS, PAST, PEOPLE, READS, ROWS, SQL, STORE, THEN, ratio, show
from world import plain, same, world_of

HERE = pathlib.Path(__file__).resolve().parent
LIMIT_S = 300                         # for one command to a peer; what takes longer has no figure at that size
SIDES = {STORE: [sys.executable, "eelchat.py"], SQL: [sys.executable, "sql.py"],
         **{f"cozo_{engine}": [sys.executable, "cozo.py", engine] for engine in ("mem", "sqlite", "rocksdb")},
         "datalevin": [sys.executable, "datalevin_jvm.py"], "datascript": ["node", "datascript.js"]}
IN_MEMORY = {"cozo_mem", "datascript"}


WAYS = {"put": ("put", 100, "put"), "threads": ("put_from_threads", 1600, "put"),
        "tasks": ("put_from_tasks", 3200, "put_async")}


class Failed(Exception):
    """A side cannot do one thing; the text says why."""


class Lost(Exception):
    """A side that ended or took too long; the text says which."""


class Side:
    """A process that answers commands."""

    def __init__(self, name, folder, size):
        command, script, *rest = SIDES[name]
        self.name, self.folder = name, folder
        folder.mkdir(exist_ok=True)
        self.errors = open(folder / "errors", "a+")
        self.process = subprocess.Popen([command, str(HERE / "peers" / script), str(folder), str(size), *rest],
                                        stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.errors, text=True,
                                        env=os.environ | {"PYTHON": sys.executable})

    def __getattr__(self, command):
        return lambda **options: self.ask({"do": command} | options)

    def ask(self, command):
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Lost("ended") from None
        if not select.select([self.process.stdout], [], [], None if self.name in (STORE, SQL) else LIMIT_S)[0]:
            raise Lost("> 5 min")
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise Lost("ended: " + self.errors.read()[-500:])
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer["is"]

    def end(self):
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Figures:
    """size → row → side → figure; a ratio in `times`, where it was taken round by round."""

    def __init__(self, path):
        self.path = path
        self.all = json.loads(path.read_text()) if path and path.exists() else {}

    def add(self, size, row, side, figure, times=None):
        self.all.setdefault(str(size), {}).setdefault(row, {})[side] = [figure, times]

    def keep(self):
        if self.path:
            self.path.write_text(json.dumps(self.all, indent=1))


class Run:
    """All the sides on one size."""

    def __init__(self, size, options, figures, folder):
        self.size, self.options, self.figures = size, options, figures
        self.world = world_of(size)
        self.sides = {name: Side(name, folder / name, size) for name in (STORE, *options.peers)}

    def wants(self, row):
        return not self.options.rows or row in self.options.rows

    def each(self, work, sides=None) -> list:
        """Does something with every side that is still there. Returns the names of the sides that could. A side that
        is lost leaves the run."""
        able = []
        for name in list(self.sides) if sides is None else sides:
            try:
                work(name, self.sides[name])
                able.append(name)
            except (Failed, Lost) as why:
                print(f"{name} at {self.size}: {why}", file=sys.stderr)
                if type(why) is Lost:
                    self.sides.pop(name).end()
        return able

    def chat(self):
        rates: dict = {}
        self.each(lambda name, side: rates.update({name: side.load()}))
        for name in self.sides.keys() - rates.keys():
            self.sides.pop(name).end()
        for name, rate in rates.items():
            self.add("load", name, rate, rate / rates[SQL] if SQL in rates else None)
        self.reads(READS)
        self.each(lambda name, side: side.has(question="channel_then") and side.change())
        self.world.is_changed = True
        if any(map(self.wants, THEN)):
            self.reads(THEN)
        if self.wants("put"):
            self.puts()
        self.each(lambda name, side: side.close())
        self.each(self.rest)

    def only_reads(self, rows):
        self.each(lambda name, side: side.load())
        self.reads(rows)

    def add(self, row, name, figure, times=None):
        self.figures.add(self.size, row, name, figure, times)

    def reads(self, rows):
        for question, row in rows.items():
            if not self.wants(question):
                continue
            able = self.each(lambda name, side: self.check(name, side, question),
                             [name for name in self.sides if self.has(name, question)])
            taken = self.rounds([(name, asked) for name in able for asked in (question, row.of) if asked], row.calls)
            for name in able:
                base = taken.get((name, row.of) if row.of else (SQL, question))
                self.add(question, name, statistics.median(taken[name, question]),
                         base and ratio(taken[name, question], base))

    def has(self, name, question):
        return self.sides[name].has(question=question)

    def check(self, name, side, question):
        argument, = self.world.arguments(question, 1)
        truth, answer = json.loads(json.dumps(plain(self.world.ask(question,
                                                                   argument)))), side.answer(question=question)
        if not same(question, truth, answer):
            raise Failed(f"{question} answered {str(answer)[:300]}, the truth is {str(truth)[:300]}")

    def rounds(self, asked, calls) -> dict:
        """For each (side, question) the median of each round, in turns. A slow side is asked less often, so that it
        takes a second a round."""
        taken = {one: [] for one in asked}
        counts = {(name, question): max(1, min(calls, int(1e6 / self.sides[name].time(question=question, count=1))))
                  for name, question in asked}
        for _ in range(self.options.rounds):
            for name, question in asked:
                taken[name, question].append(self.sides[name].time(question=question, count=counts[name, question]))
        return taken

    def puts(self):
        """Durable puts: alone, from 16 threads, from 64 tasks. Rates stand beside the rate of one writer in the same
        round."""
        taken: dict = {how: {name: [] for name in self.sides} for how in WAYS}
        for _ in range(self.options.rounds):
            for how, (method, count, question) in WAYS.items():
                able = [name for name in taken[how] if name in self.sides and self.has(name, question)]
                able = self.each(lambda name, side: taken[how][name].append(side.ask({"do": method, "count": count})),
                                 able)
                taken[how] = {name: taken[how][name] for name in able}
        for name, times in taken["put"].items():
            self.add("put", name, statistics.median(times),
                     ratio(times, taken["put"][SQL]) if SQL in taken["put"] else None)
        for how in "threads", "tasks":
            for name, rates in taken[how].items():
                beside_one = statistics.median(rate * one / 1_000_000 for rate, one in zip(rates, taken["put"][name]))
                self.add(how, name, statistics.median(rates), beside_one)

    def rest(self, name, side):
        """Opens in a new process what was closed; a side in memory has nothing to open."""
        side.end()
        if name in IN_MEMORY:
            return
        size = sum(file.stat().st_size for file in side.folder.rglob("*") if file.is_file() and file.name != "errors")
        self.add("file", name, size / 2 ** 20)
        opened = []
        for _ in range(1 if name == "datalevin" else 3):         # a Java machine takes its time
            again = Side(name, side.folder, "rest")
            opened.append(again.rest())
            again.end()
        self.add("open", name, min(ms for ms, _ in opened))
        self.add("memory", name, statistics.median(mb for _, mb in opened))

    def end(self):
        for side in self.sides.values():
            side.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", nargs="*", default=["10000", "100000", "people", "items", "past"],
                        help="numbers of messages, or \"people\"; none: only show what is kept")
    parser.add_argument("--peers", nargs="*", default=[SQL], choices=[name for name in SIDES if name != STORE])
    parser.add_argument("--rows", nargs="*", help=f"of {', '.join(ROWS)}; default all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=pathlib.Path, help="a JSON file to which this run's figures are added")
    options = parser.parse_args()
    figures = Figures(options.keep)
    for size in options.size:
        with tempfile.TemporaryDirectory(dir=pathlib.Path.cwd()) as folder:
            run = Run(size, options, figures, pathlib.Path(folder))
            try:
                rows = {"people": PEOPLE, "past": PAST}.get(size) or (ITEMS if size.startswith("items") else None)
                run.only_reads(rows) if rows else run.chat()
            finally:
                run.end()
        figures.keep()
    show(figures.all)


if __name__ == "__main__":
    main()
