"""Puts faults into one file on purpose, one at a time, and tells which of them the tests notice.

    pip install -e '.[test,bench]' && python bench/mutants.py store.py [--count 40] [--seed N] [--tests tests/store]

First the tests run once under coverage.py, which tells the lines that each test runs. Then each mutant goes into a copy
of the project, and the tests that run its line are asked, the fastest first, until one fails. A mutant that no test
notices has survived: look whether it changes anything that matters, and write the test that was missing. The seed draws
the mutants, so that a run can be repeated. Forty mutants of store.py take some ten minutes on two cores.

coverage.py does not see lines that only run in processes that a test starts: no mutant is drawn there. A test longer
than TEST_S_MAX is not asked, nor is one on PostgreSQL unless the file is store_postgres.py.

Two kept tools do not fit the store. mutmut 3.8, tried, writes all mutants of a file into one module. That suits the
files of biff/ (177 mutants of door.py in three minutes); for store.py it had written nothing after four minutes.
cosmic-ray 8.7 runs one command for every mutant, and neither draws a sample nor chooses the tests.
"""

import argparse
import ast
import concurrent.futures
import itertools
import json
import os
import pathlib
import queue
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
TESTS = {"store": ["tests/store"], "shell": ["tests/store/test_shell.py"], "biff": ["tests/biff", "tests/chat"],
         "plugins": ["tests/chat"], "eelchat": ["tests/chat"]}
TEST_S_MAX = 20                       # a slower test is not asked: most mutants fall to faster ones
ASKED_S_MAX = 120                     # of tests for one mutant: as much as forty mutants can take in half an hour
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
    """Notes for each test the lines of one file that it runs, and the seconds that it takes."""

    def __init__(self, file, to):
        import coverage                                # only here: a mutant's run has no use for it
        self.to, self.seconds = pathlib.Path(to), {}
        self.coverage = coverage.Coverage(data_file=None, include=[file], config_file=False)
        self.coverage.start()

    def pytest_runtest_logstart(self, nodeid):
        self.coverage.switch_context(nodeid)
        self.seconds[nodeid] = time.monotonic()

    def pytest_runtest_logfinish(self, nodeid):
        self.seconds[nodeid] = time.monotonic() - self.seconds[nodeid]

    def pytest_sessionfinish(self):
        self.coverage.stop()
        data = self.coverage.get_data()
        lines = {line: sorted(filter(None, tests)) for file in data.measured_files()
                 for line, tests in data.contexts_by_lineno(file).items()}
        self.to.write_text(json.dumps({"lines": lines, "seconds": self.seconds}))


def pytest_configure(config):
    if to := os.environ.get("MUTANTS_TO"):
        config.pluginmanager.register(Recorder(os.environ["MUTANTS_FILE"], to))


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
    """The exit status, and what was said."""
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "--seed", str(seed)]
    done = subprocess.run([*command, *tests], cwd=folder, capture_output=True, text=True, timeout=timeout_s,
                          env=os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"} | environment)
    return done.returncode, done.stdout + done.stderr


def learn(folder, file, seed, tests):
    """{line: tests that run it, the fastest first}, {test: seconds}, of the file as it is."""
    to = folder / "mutants.json"
    skipped = [] if file == "store_postgres.py" else ["-k", "not postgres"]
    status, said = pytest(folder, seed, ["-p", "mutants", *skipped, *tests], MUTANTS_TO=str(to),
                          MUTANTS_FILE=str(folder / file), PYTHONPATH=f"{folder}:{ROOT / 'bench'}")
    if status:
        raise SystemExit(f"The tests fail without any mutant:\n{said[-3000:]}")
    told = json.loads(to.read_text())
    seconds = told["seconds"]
    fast = {int(line): sorted((test for test in names if seconds[test] < TEST_S_MAX), key=seconds.get)
            for line, names in told["lines"].items()}
    return {line: names for line, names in fast.items() if names}, seconds


def asked(names, seconds):
    """The tests to ask of one mutant, within ASKED_S_MAX."""
    chosen, total = [], 0.0
    for name in names:
        total += seconds[name]
        if chosen and total > ASKED_S_MAX:
            break
        chosen.append(name)
    return chosen, total


def fate(folders, file, source, mutant, names, seconds, seed):
    """The first test that notices a mutant; "" if it survives."""
    folder = folders.get()
    chosen, total = asked(names, seconds)
    try:
        (folder / file).write_bytes(applied(source, mutant))
        status, said = pytest(folder, seed, ["-x", *chosen], timeout_s=30 + 5 * total)
        failed = re.findall(r"^(?:FAILED|ERROR) tests/(?:\w+/)*(\S+)", said, re.MULTILINE)
        return (failed or ["the tests do not run"])[0] if status else ""
    except subprocess.TimeoutExpired:
        return "the tests do not end"
    finally:
        (folder / file).write_bytes(source)
        folders.put(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--tests", nargs="+", help="default: those of the file's part of the house")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    file = pathlib.Path(given.file).resolve().relative_to(ROOT).as_posix()
    tests = given.tests or TESTS[file.partition("/")[0].partition(".")[0].partition("_")[0]]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        places, folders = [copied(pathlib.Path(name) / str(n)) for n in range(given.workers)], queue.Queue()
        print(f"repeat with --seed {given.seed}; learning which of {' '.join(tests)} runs which line", flush=True)
        lines, seconds = learn(places[0], file, given.seed, tests)
        for place in places:
            folders.put(place)
        run(file, given, lines, seconds, folders)
    print(f"in {(time.monotonic() - begun) / 60:.0f} minutes")


def run(file, given, lines, seconds, folders):
    source = (ROOT / file).read_bytes()
    mutants = Mutants(source.decode())
    tree, reached = ast.parse(source), [mutant for mutant in mutants.found if mutant.line in lines]
    print(f"{len(mutants.found):,} mutants, {len(reached):,} of them in lines that a quick test runs")
    random.Random(given.seed).shuffle(reached)
    drawn = list(itertools.islice((mutant for mutant in reached if is_python(applied(source, mutant))), given.count))
    print("| line | function | instead of | noticed by |\n| ---: | --- | --- | --- |", flush=True)

    def tried(mutant):
        by = fate(folders, file, source, mutant, lines[mutant.line], seconds, given.seed)
        old = " ".join(source[mutant.begin:mutant.end].decode().split())
        print(f"| {mutant.line} | `{function_of(tree, mutant.line)}` | `{old[:40]}` → `{mutant.text.strip()[:40]}` | "
              f"{by or '**nobody**'} |", flush=True)
        return by
    with concurrent.futures.ThreadPoolExecutor(given.workers) as pool:
        noticed = sum(map(bool, pool.map(tried, drawn)))
    print(f"\n{noticed} of {len(drawn)} noticed, {noticed / len(drawn):.0%}")


if __name__ == "__main__":
    main()
