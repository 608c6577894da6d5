"""Puts faults into files on purpose, one at a time, and tells which of them the tests notice.

    pip install -e '.[test,bench]'
    python bench/mutants.py store.py=30 store_text.py [--count 10] [--seed N] [--tests tests/store] [--learned FILE]

First the tests run once under coverage.py, which tells the lines that each test runs. Then each mutant goes into a copy
of the project, and the tests that run its line are asked, the fastest first, until one fails. A mutant that no test
notices has survived: ask the others that run the line, look whether it changes anything that matters, and write the
test that was missing. The seed draws the mutants, so that a run can be repeated. Files that are named together are
learned together; --learned keeps what was learned, so that the next run need not learn it. Forty mutants of store.py
take some ten minutes on two cores that do nothing else.

coverage.py does not see lines that only run in processes that a test starts: no mutant is drawn there. Tests that begin
with such a process or a browser are not asked, nor is a test longer than TEST_S_MAX, nor one on PostgreSQL unless a
file is store_postgres.py.

Two kept tools do not fit the store. mutmut 3.8, tried, writes all mutants of a file into one module. That suits the
files of biff/ (177 mutants of door.py in three minutes); for store.py it had written nothing after four minutes.
cosmic-ray 8.7 runs one command for every mutant, and neither draws a sample nor chooses the tests.
"""

import argparse
import ast
import concurrent.futures
import contextlib
import faulthandler
import hashlib
import itertools
import json
import os
import pathlib
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
TESTS = {"store": ["tests/store"], "shell": ["tests/store/test_shell.py"], "biff": ["tests/biff", "tests/chat"],
         "plugins": ["tests/chat"], "eelchat": ["tests/chat"]}
TEST_S_MAX = 20                       # a slower test is not asked: most mutants fall to faster ones
ASKED_S_MAX = 60                      # of tests for one mutant: as much as forty mutants can take in half an hour
HANGS = 10, 20                        # a test hangs after so many of its own times, and so many seconds more
OTHERS = {"server", "strace", "cables", "browser"}       # fixtures of tests that mostly wait for another process
COMPILED = {"PYTHONDONTWRITEBYTECODE": ""}      # kept in the copies, which takes half of the time from each later run
SWAPPED = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==", ast.Is: "is not",
           ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in", ast.Add: "-", ast.Sub: "+", ast.Mult: "//",
           ast.FloorDiv: "*", ast.BitOr: "&", ast.BitAnd: "|", ast.And: "or", ast.Or: "and"}


class Mutant(NamedTuple):
    line: int
    begin: int                        # of the bytes that are replaced
    end: int
    text: str


# ── The mutants of a file ────────────────────────────────────────────────────────────────────────────────────

class Mutants(ast.NodeVisitor):
    """All mutants of a source, in `found`."""

    def __init__(self, source):
        self.source, self.found = source.encode(), []
        self.starts = [0]
        for line in self.source.split(b"\n"):
            self.starts.append(self.starts[-1] + len(line) + 1)
        self.visit(ast.parse(source))

    def begin(self, node):
        return self.starts[node.lineno - 1] + node.col_offset

    def end(self, node):
        return self.starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, node):
        return self.source[self.begin(node):self.end(node)].decode()

    def add(self, node, begin, end, text):
        self.found.append(Mutant(node.lineno, begin, end, text))

    def replace(self, node, text):
        self.add(node, self.begin(node), self.end(node), text)

    def swap(self, node, operator, left, right):
        """Another operator between two operands, which may stand in parentheses."""
        begin, end = self.end(left), self.begin(right)
        between, new = self.source[begin:end].decode(), SWAPPED.get(type(operator))
        if new and between.strip("() \n").replace("\\", "").strip():
            old = between.strip("() \n\\")
            self.add(node, begin, end, between.replace(old, new, 1))

    def visit_Compare(self, node):
        for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators):
            self.swap(node, operator, left, right)
        self.generic_visit(node)

    def visit_BinOp(self, node):
        self.swap(node, node.op, node.left, node.right)
        self.generic_visit(node)

    def visit_BoolOp(self, node):
        for left, right in zip(node.values, node.values[1:]):
            self.swap(right, node.op, left, right)
        self.generic_visit(node)

    def visit_UnaryOp(self, node):
        if isinstance(node.op, ast.Not):
            self.replace(node, f"({self.text(node.operand)})")
        self.generic_visit(node)

    def visit_Constant(self, node):
        if node.value is True or node.value is False:
            self.replace(node, str(not node.value))
        elif type(node.value) is int:
            self.replace(node, f"({self.text(node)} + 1)")

    def visit_If(self, node):
        self.replace(node.test, f"(not ({self.text(node.test)}))")
        self.generic_visit(node)

    visit_While = visit_IfExp = visit_If

    def visit_Return(self, node):
        if node.value is not None and not isinstance(node.value, ast.Constant):
            self.replace(node.value, "None")
        self.generic_visit(node)

    def visit_Expr(self, node):
        if isinstance(node.value, (ast.Call, ast.Await)) and not self.text(node).startswith("log."):
            self.replace(node, "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node):
        self.replace(node, "pass")
        self.generic_visit(node)

    def visit_Raise(self, node):
        self.replace(node, "pass")                     # not what it holds: a sentence is no behaviour

    def visit_Break(self, node):
        self.replace(node, "continue")

    def visit_Continue(self, node):
        self.replace(node, "break")

    def visit_AnnAssign(self, node):
        if node.value:
            self.visit(node.value)

    def visit_arguments(self, node):
        for default in [*node.defaults, *filter(None, node.kw_defaults)]:
            self.visit(default)

    def visit_JoinedStr(self, node):
        pass                                           # Python 3.11 does not know where its parts stand


def applied(source, mutant):
    return source[:mutant.begin] + mutant.text.encode() + source[mutant.end:]


def is_python(source):
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def function_of(tree, line):
    """The innermost function or class around a line."""
    around = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
              and node.lineno <= line <= node.end_lineno]
    return max(around, key=lambda node: node.lineno).name if around else ""


# ── Which test runs which line: this module is a plugin of pytest, too ───────────────────────────────────────

class Recorder:
    """Notes for each test the lines of some files that it runs, and the seconds that it takes."""

    def __init__(self, files, to):
        import coverage                                # only here: a mutant's run has no use for it
        self.to, self.seconds, self.failed = pathlib.Path(to), {}, set()
        self.coverage = coverage.Coverage(data_file=None, include=files, config_file=False)
        self.coverage.start()

    def pytest_collection_modifyitems(self, config, items):
        """Leaves out what no mutant is asked."""
        import conftest
        items[:] = [item for item in items if not OTHERS & set(item.fixturenames)
                    and getattr(item, "originalname", None) not in conftest.LONGEST]

    def pytest_runtest_logstart(self, nodeid):
        self.coverage.switch_context(nodeid)
        self.seconds[nodeid] = time.monotonic()

    def pytest_runtest_logreport(self, report):
        if not report.passed:
            self.failed.add(report.nodeid)

    def pytest_runtest_logfinish(self, nodeid):
        self.seconds[nodeid] = time.monotonic() - self.seconds[nodeid]

    def pytest_sessionfinish(self):
        self.coverage.stop()
        data = self.coverage.get_data()
        lines = {file: {line: [test for test in tests if test and test not in self.failed]
                        for line, tests in data.contexts_by_lineno(file).items()} for file in data.measured_files()}
        self.to.write_text(json.dumps({"lines": lines, "seconds": self.seconds}))


class Watch:
    """Ends the run when one test takes far longer than it did without a mutant."""

    def __init__(self, seconds):
        self.seconds, self.to = seconds, os.fdopen(os.dup(2), "w")       # pytest takes 2 for itself

    def pytest_runtest_logstart(self, nodeid):
        times, more = HANGS
        faulthandler.dump_traceback_later(times * self.seconds.get(nodeid, 0) + more, exit=True, file=self.to)

    def pytest_sessionfinish(self):
        faulthandler.cancel_dump_traceback_later()


def pytest_configure(config):
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if (to := os.environ.get("MUTANTS_TO")) and worker:
        config.pluginmanager.register(Recorder(json.loads(os.environ["MUTANTS_FILES"]), f"{to}/{worker}.json"))
    elif learned := os.environ.get("MUTANTS_LEARNED"):
        config.pluginmanager.register(Watch(json.loads(pathlib.Path(learned).read_text())["seconds"]))


# ── Running ──────────────────────────────────────────────────────────────────────────────────────────────────

def copied(to):
    """A copy of all that git knows, as it lies here, beside the installed scripts."""
    for name in subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")[:-1]:
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to / name)
    for name in "node_modules", "tests/.chromium":
        if (ROOT / name).exists():
            (to / name).symlink_to(ROOT / name)
    return to


def pytest(folder, seed, tests, timeout_s=None, **environment):
    """The exit status, and what was said; with the processes that the tests left behind it is over."""
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "-p", "mutants",
               "--seed", str(seed), *tests]
    environment = {"PYTHONPATH": f"{folder}:{ROOT / 'bench'}", "PYTHONDONTWRITEBYTECODE": "1"} | environment
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", env=os.environ | environment, start_new_session=True) as running:
        timer = threading.Timer(timeout_s or threading.TIMEOUT_MAX, end, [running.pid])
        timer.start()
        said = running.stdout.read()
        timer.cancel()
    end(running.pid)
    return running.returncode, said


def end(session):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)


def learn(folder, files, given, tests):
    """{"lines": {file: {line: tests that run it}}, "seconds": {test: seconds}}, of the files as they are."""
    to = folder / "learned"
    to.mkdir()
    skipped = [] if "store_postgres.py" in files else ["-k", "not postgres"]
    files_there = json.dumps([str(folder / file) for file in files])
    status, said = pytest(folder, given.seed, ["-n", str(given.workers), "--dist", "worksteal", *skipped, *tests],
                          MUTANTS_TO=str(to), MUTANTS_FILES=files_there, **COMPILED)
    print(said[-1500:] if status else said.splitlines()[-1], flush=True)
    lines, seconds = {file: {} for file in files}, {}
    for told in (json.loads(path.read_text()) for path in to.iterdir()):
        seconds |= told["seconds"]
        for file in files:
            for line, names in told["lines"].get(str(folder / file), {}).items():
                lines[file].setdefault(line, []).extend(names)
    if not any(lines.values()):
        raise SystemExit("No test ran a line of these files.")
    return {"lines": lines, "seconds": seconds}


def learned(folder, files, given, tests):
    """What `learn` returns, or what the last run kept of the same files and tests; it is in the file of this path."""
    sources = [(folder / file).read_bytes() for file in files]
    hashed = hashlib.blake2b(repr([files, tests, sources]).encode()).hexdigest()
    path = pathlib.Path(given.learned or folder / "learned.json").resolve()
    if not path.exists() or json.loads(path.read_text())["of"] != hashed:
        path.write_text(json.dumps(learn(folder, files, given, tests) | {"of": hashed}))
    else:
        pytest(folder, given.seed, ["-n", "0", "--collect-only", *tests], **COMPILED)
    return path


def asked(names, seconds):
    """The tests to ask of one mutant, the fastest first, within ASKED_S_MAX."""
    total = itertools.accumulate(seconds[name] for name in names)
    return [name for name, until in zip(names, total) if until <= ASKED_S_MAX]


def fate(folders, file, source, mutant, names, path, seed):
    """The first test that notices a mutant; "" if it survives."""
    folder = folders.get()
    try:
        (folder / file).write_bytes(applied(source, mutant))
        status, said = pytest(folder, seed, ["-x", *names], 30 + 5 * ASKED_S_MAX, MUTANTS_LEARNED=str(path))
        failed = re.findall(r"^(?:FAILED|ERROR) tests/(?:\w+/)*(\S+)", said, re.MULTILINE)
        hangs = "Timeout (" in said or status < 0
        return "" if not status else failed[0] if failed else "a test that hangs" if hangs else "tests that do not run"
    finally:
        (folder / file).write_bytes(source)
        folders.put(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", metavar="FILE[=COUNT]")
    parser.add_argument("--count", type=int, default=40, help="mutants of a file that names no count")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--tests", nargs="+", help="default: those of the files' parts of the house")
    parser.add_argument("--learned", help="the file that keeps which test runs which line")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    counts = {pathlib.Path(name).resolve().relative_to(ROOT).as_posix(): int(count or given.count)
              for name, _, count in (text.partition("=") for text in given.files)}
    tests = given.tests or sorted({test for file in counts for test in TESTS[re.match("[a-z]+", file)[0]]})
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        place, folders = copied(pathlib.Path(name) / "0"), queue.Queue()
        print(f"repeat with --seed {given.seed}; which of {' '.join(tests)} runs which line?", flush=True)
        path = learned(place, list(counts), given, tests)
        folders.put(place)
        for n in range(1, given.workers):
            folders.put(shutil.copytree(place, pathlib.Path(name) / str(n), symlinks=True))
        sources = {file: (place / file).read_bytes() for file in counts}       # as learned, whatever comes later
        noticed = {file: run(file, sources[file], count, given, path, folders) for file, count in counts.items()}
    print("\n| file | mutants | noticed |\n| --- | ---: | ---: |")
    for file, fates in noticed.items():
        print(f"| {file} | {len(fates)} | {sum(fates)} ({sum(fates) / max(len(fates), 1):.0%}) |")
    print(f"\nin {(time.monotonic() - begun) / 60:.0f} minutes")


def run(file, source, count, given, path, folders):
    """Whether each of `count` mutants of a file was noticed; a row for each is printed."""
    told = json.loads(path.read_text())
    quick = {int(line): sorted((name for name in names if told["seconds"][name] < TEST_S_MAX), key=told["seconds"].get)
             for line, names in told["lines"][file].items()}
    mutants = Mutants(source.decode())
    tree, reached = ast.parse(source), [mutant for mutant in mutants.found if quick.get(mutant.line)]
    print(f"\n{file}: {len(mutants.found):,} mutants, {len(reached):,} of them in lines that a quick test runs\n")
    random.Random(given.seed).shuffle(reached)
    drawn = list(itertools.islice((mutant for mutant in reached if is_python(applied(source, mutant))), count))
    print("| line | function | instead of | noticed by |\n| ---: | --- | --- | --- |", flush=True)

    def tried(mutant):
        names = asked(quick[mutant.line], told["seconds"])
        by = fate(folders, file, source, mutant, names, path, given.seed)
        old = " ".join(source[mutant.begin:mutant.end].decode().split())
        print(f"| {mutant.line} | `{function_of(tree, mutant.line)}` | `{old[:60]}` → `{mutant.text.strip()[:60]}` | "
              f"{by or f'**nobody** of {len(names)}, {len(quick[mutant.line])} run the line'} |", flush=True)
        return bool(by)
    with concurrent.futures.ThreadPoolExecutor(given.workers) as pool:
        return list(pool.map(tried, drawn))


if __name__ == "__main__":
    main()
