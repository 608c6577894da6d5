"""What the promises stand on: an empty store, the real server as a process,
a real browser, and the tools that break things."""
import asyncio
import collections
import contextlib
import hashlib
import itertools
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zlib

import hypothesis
import pytest
import xdist.workermanage

import chromium
import gate
import postgres

ROOT = pathlib.Path(__file__).parent.parent
IS_CI = bool(os.environ.get("CI"))
WORKERS = 2             # processes of a long run; tests start servers and browsers of their own beside them
PORTS = range(11_000, 31_000, 10_000)        # where each worker's begin; browsers refuse 10,080
READY_S_MAX = 60        # the server promises one second; on a machine that is busy with others it took 17
STOP_S_MAX = 30
EXIT_S_MAX = 30          # after Ctrl-C a worker ends within 15; its controller would kill it after 10
WAIT_MS_MAX = 30_000     # of a browser test for what it waits for: other tests run beside it
AGAIN_MAX = 3            # tests of a run that may pass at a second try; more are no chance

LONGEST = {               # 20 s to a minute each
    "test_random_histories_answer_as_a_naive_model_does", "test_random_queries_answer_as_trying_everything_does",
    "test_random_programs_of_rules_answer_as_the_naive_evaluator_does",
    "test_a_killed_writer_loses_nothing_that_it_was_told_of",
    "test_three_hundred_attacks_in_every_field_are_text_on_every_page",
    "test_the_whole_tour_in_a_browser_has_no_complaint_and_asks_nobody_else",
    "test_random_requests_never_make_an_error_of_ours", "test_the_checker_finds_nothing_to_say",
    "test_a_consumer_passes_both_checkers_at_their_strictest", "test_the_installed_chat_answers_with_its_scripts",
    "test_the_picture_can_be_taken_again"}

hypothesis.settings.register_profile("seeded", deadline=None, print_blob=True, derandomize=False)
xdist.workermanage.NodeManager.EXIT_TIMEOUT = EXIT_S_MAX
hypothesis.settings.load_profile("seeded")          # its own "ci" profile would give every commit the same examples


# ── Sizes ──────────────────────────────────────────────────────────────────────────────────────────────────────

def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="the sizes of a release instead of those of every run: hours")
    parser.addoption("--beside", action="store_true", help="each test of the store on a file has a second process that "
                     "writes into it; else each sixteenth has, and with --long all")
    parser.addoption("--seed", type=int, help="the seed of random tests, as a failing one printed it")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Gives every random test one number: each commit has its own, and whoever runs that commit sees what CI sees."""
    signal.signal(signal.SIGINT, interrupt_once)      # shells let what runs in the background ignore it
    given = config.getoption("--seed")
    config.stash[SEED] = number = given if given is not None else seed_of_commit(ROOT)
    if getattr(config.option, "hypothesis_seed", None) is None:
        config.option.hypothesis_seed = number


def interrupt_once(*_):
    """Ctrl-C reaches a worker from the terminal, and seconds later through its controller: a second one would break off
    what closes servers."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        signal.signal(signal.SIGINT, lambda *_: None)
    raise KeyboardInterrupt


def pytest_runtest_setup():
    """The test before may have interrupted itself, and the run went on."""
    signal.signal(signal.SIGINT, interrupt_once)


def seed_of_commit(root):
    """32 bits of the commit's hash; of the hash of all Python files where there is no git."""
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=30)
        digest = asked.stdout.strip() if (root / ".git").exists() and not asked.returncode else ""
    except (OSError, subprocess.TimeoutExpired):
        digest = ""
    return int(digest[:8] or hash_of_tree(root)[:8], 16)


def hash_of_tree(root):
    hashed = hashlib.blake2b()
    for path in sorted(path for part in (".", "biff", "plugins", "tests/**") for path in root.glob(f"{part}/*.py")):
        hashed.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return hashed.hexdigest()


@pytest.hookimpl(tryfirst=True)                # before pytest-xdist's own, which starts what is asked for here
def pytest_cmdline_main(config):
    """Two processes share a run of folders, unless -n says otherwise, somebody looks on, or it is over too soon."""
    option = config.option
    is_long = all(pathlib.Path(named).is_dir() for named in config.args) and not option.keyword
    if not is_long or option.capture == "no" or option.usepdb or option.collectonly:
        return
    try_again_what_failed(option)
    is_worker = "PYTEST_XDIST_WORKER" in os.environ             # else each of them would start two more
    if getattr(option, "numprocesses", 0) is None and not is_worker:
        option.numprocesses, option.dist = WORKERS, "worksteal"


def try_again_what_failed(option):
    """Browsers and servers share two noisy cores: one test of thousands must not refuse a change by chance.

    The summary shows each first try with its traceback, since it is a fault to mend. A test of the store has one try:
    an answer that is wrong once is wrong.
    """
    if getattr(option, "reruns", 0) is None:
        option.reruns, option.max_suite_reruns, option.rerun_show_tracebacks = 1, AGAIN_MAX, True
        option.rerun_exclude_path = ["tests/store"]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """What takes longest begins first: at the end of a run no worker waits long for the other one."""
    for item in items:
        if log := log_of(item):
            item.user_properties.append(("log", log))
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: getattr(item, "originalname", None) not in LONGEST)


@pytest.fixture
def seed(request):
    """The seed of a random test: the commit's, or as --seed says."""
    number = request.config.stash[SEED]
    print(f"repeat with --seed {number}")
    return number


@pytest.fixture
def size(request):
    """`size(100, 10_000)` is 100 in every run and 10,000 with --long;
    where one test runs on both logs, a tenth on PostgreSQL."""
    is_long, less = request.config.getoption("--long"), 10 if log_of(request.node) == "postgres" else 1
    return lambda every_run, release: max(1, (release if is_long else every_run) // less)


@pytest.fixture
def say(request):
    """Prints a promise's figure beside the asked one, also when the test passes: it stands in the run's summary."""
    return lambda line: request.node.user_properties.append(("figure", line))       # a report takes it to the summary


SEED = pytest.StashKey()


def id_of(value):
    """The id of a test with this value, the same in every process, where a set may have another order."""
    return (f"{sorted(value, key=repr)} in a {type(value).__name__}" if isinstance(value, (set, frozenset))
            else repr(value))[:30]


# ── The store ──────────────────────────────────────────────────────────────────────────────────────────────────

LOGS = "file", "postgres"             # a store test that is not about the file itself runs on both


@pytest.fixture(params=LOGS)
def open_store(request, tmp_path):
    """`open_store(functions, clock=…)` opens an empty store on either log;
    with `at="name"` the one that had this name before."""
    import store
    if request.param == "postgres":
        cluster, urls = request.getfixturevalue("cluster"), {}
        request.getfixturevalue("patient")

        def opened(*args, at=None, **options):
            url = urls.setdefault(at or len(urls), postgres.empty_schema(cluster.url) if at not in urls else None)
            return store.open(url, *args, index=tmp_path / f"{at}.db" if at else ":memory:", **options)
        return opened
    if not has_company(request):
        return lambda *args, at=None, **options: store.open(tmp_path / f"{at}.db" if at else ":memory:", *args,
                                                            **options)
    upkeep, count = request.getfixturevalue("upkeep"), itertools.count()

    def opened(*args, at=None, **options):
        path = tmp_path / f"{at or f'beside{next(count)}'}.db"
        node = store.open(path, *args, **{"timeout": 60} | options)          # the other one may have the lock for long
        upkeep(path)
        return node
    return opened


def has_company(request):
    """True if a test of the store on a file runs beside a process that writes into the file, too.

    What a test changes in this program the other process does not have.
    """
    option = request.config.getoption
    if "monkeypatch" in request.fixturenames:
        return False
    return option("--beside") or option("--long") or zlib.crc32(request.node.nodeid.encode()) % 16 == 0


@pytest.fixture(scope="session")
def upkeeper():
    with subprocess.Popen([sys.executable, str(ROOT / "tests" / "beside.py"), "upkeep"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as process:
        def tell(line):
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
            assert process.stdout.readline() == "done\n"
        yield tell
        process.stdin.close()


@pytest.fixture
def upkeep(upkeeper):
    """`upkeep(path)` has a second process write into a store until the test ends: all that the log does not show."""
    paths = set()

    def begin(path):
        if path not in paths:
            paths.add(path)
            upkeeper(f"+{path}")
    yield begin
    for path in paths:
        upkeeper(f"-{path}")


def log_of(item):
    return getattr(item, "callspec", None) and item.callspec.params.get("open_store")


@pytest.fixture
def node(open_store):
    """An empty store, closed after the test."""
    with contextlib.closing(open_store()) as opened:
        yield opened


# ── PostgreSQL ─────────────────────────────────────────────────────────────────────────────────────────────────

@pytest.fixture(scope="session")
def cluster():
    """One PostgreSQL for the whole run; without its programs a promise goes untested:
    with CI set that is an error, else a skip."""
    try:
        postgres.found()
    except LookupError as error:
        if IS_CI:
            raise
        pytest.skip(str(error))
    # what must survive a crash has a cluster of its own
    with postgres.Postgres(port=free_port(), fsync="off") as running:
        yield running


@pytest.fixture
def patient():
    """A log on PostgreSQL is waited for, however busy the machine is. Tests that ask how long do without."""
    import store_postgres
    with pytest.MonkeyPatch.context() as patched:
        for bound in "CONNECT_S_MAX", "REPLY_S_MAX", "HOLD_S_MAX", "BELL_S_MAX":
            patched.setattr(store_postgres, bound, 60)
        yield


@pytest.fixture
def log_url(cluster):
    """The address of an empty log: a schema of its own in the run's cluster."""
    return postgres.empty_schema(cluster.url)


@pytest.fixture
def join(log_url, tmp_path):
    """`join()` opens another server on this test's log, each with an index of its own;
    all are closed after the test."""
    import store
    with contextlib.ExitStack() as opened:
        def open_server(functions={}, url=log_url, **options):
            number = len(list(tmp_path.glob("server*.db")))
            options = {"index": tmp_path / f"server{number}.db"} | options
            return opened.enter_context(contextlib.closing(store.open(url, functions, **options)))
        yield open_server


@pytest.fixture
def tcp(cluster):
    """`tcp()` opens a gate to the run's PostgreSQL; `.url(log_url)` is the address of a log through it."""
    with contextlib.ExitStack() as opened:
        def open_gate(**options):
            made = opened.enter_context(contextlib.closing(gate.Gate(cluster.port, **options)))
            made.url = lambda log_url: log_url.replace(cluster.place, f"host=127.0.0.1&port={made.port}")
            return made
        yield open_gate


# ── The real server ────────────────────────────────────────────────────────────────────────────────────────────

class Server:
    """`python eelchat.py` on a free port of its own, and on the same port and data when it is started again."""

    def __init__(self, data, arguments=()):
        self.data, self.port, self.log, self.process = pathlib.Path(data), free_port(), [], None
        self.arguments, self.files_max = arguments, None
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self, **environment):
        """Returns when the landing page answers; raises with the server's own words if it ends before."""
        command = [sys.executable, "-u", str(ROOT / "eelchat.py"), "--port", str(self.port), "--data", str(self.data)]
        self.process = subprocess.Popen([*command, *self.arguments], cwd=ROOT, env=os.environ | environment, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace",
                                        preexec_fn=self._limit)
        self._reader = threading.Thread(target=self._read, args=[self.process], daemon=True)
        self._reader.start()
        wait_until(self._answers, READY_S_MAX, lambda: f"the server did not answer:\n{self.text}")
        return self

    def _limit(self):
        if self.files_max:
            resource.setrlimit(resource.RLIMIT_NOFILE, (self.files_max, self.files_max))

    def _read(self, process):
        for line in process.stdout:
            self.log.append(line.rstrip("\n"))

    def _answers(self):
        if self.process.poll() is not None:
            self._reader.join(1)
            raise AssertionError(f"the server ended with status {self.process.returncode}:\n{self.text}")
        try:
            with urllib.request.urlopen(self.url, timeout=2):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    @property
    def text(self):
        """All it has printed, over all its lives."""
        return "\n".join(self.log)

    async def said(self, pattern, after=0, timeout_s=60):
        """The first match of a regular expression in a line printed since line number `after`."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if found := next(filter(None, (re.search(pattern, line) for line in self.log[after:])), None):
                return found
            await asyncio.sleep(0.02)
        raise AssertionError(f"the server did not say {pattern!r} within {timeout_s} s:\n{self.text}")

    def kill(self):
        """Ends it as a power cut would: SIGKILL, nothing flushed."""
        return self._end(signal.SIGKILL)

    def stop(self):
        """Ends it as Ctrl-C does; returns the seconds it took."""
        return self._end(signal.SIGINT)

    def _end(self, how):
        begun = time.monotonic()
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"the server did not stop within {STOP_S_MAX} s:\n{self.text}") from None
            finally:
                self._reader.join(1)
                self.process.stdout.close()
        return time.monotonic() - begun


def _own_ports():
    """The ports of this worker, for ever, from a random one: below those that kernels give to clients, so that nobody
    takes one between its look-up and its use."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
    own = range(PORTS[number], PORTS[number] + PORTS.step)
    first = random.SystemRandom().randrange(PORTS.step)
    return itertools.cycle([*own[first:], *own[:first]])


OWN_PORTS = _own_ports()


def free_port():
    for port in OWN_PORTS:
        with socket.socket() as asked, contextlib.suppress(OSError):
            asked.bind(("127.0.0.1", port))
            return port


def wait_until(is_so, timeout_s, complaint):
    """Returns the first true answer of `is_so()`; fails with `complaint()` after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if answer := is_so():
            return answer
        time.sleep(0.02)
    raise AssertionError(complaint())


@pytest.fixture
def server(tmp_path):
    """The chat, running: `.url`, `.log` (lines), `await .said(pattern)`, `.kill()`, `.stop()`, `.start()` again."""
    running = Server(tmp_path / "data")
    try:
        yield running.start()
    finally:
        running.kill()


# ── A real browser ─────────────────────────────────────────────────────────────────────────────────────────────

@pytest.fixture(scope="session")
def chromium_found():
    """How to launch Chromium. Without one a promise goes untested: with CI set that is an error, else a skip."""
    try:
        return chromium.find()
    except LookupError as error:
        if IS_CI:
            raise
        pytest.skip(str(error))


@pytest.fixture
async def browser(chromium_found):
    """A Chromium of this test's own, in its event loop:
    it takes a quarter of a second, and nothing leaks between tests."""
    from playwright.async_api import async_playwright
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(args=chromium.FLAGS, **chromium_found)
        yield launched
        await launched.close()


@pytest.fixture
async def window(browser):
    """`await window()` opens a page of another person: its own cookies, nobody else's.

    Any console message and any page error fails the test at its end, but those that match a pattern in `allow`.
    A page has no service worker but for `service_workers="allow"`: it would answer for a server that is down.
    Other arguments go to playwright's `new_context`: `viewport={…}`, `color_scheme="dark"`, `base_url=…`.
    """
    heard = []

    async def open_window(allow=(), service_workers="block", **options):
        allow = [*allow, "Service Worker registration blocked by Playwright"]
        context = await browser.new_context(service_workers=service_workers, **options)
        context.set_default_timeout(WAIT_MS_MAX)
        page = await context.new_page()
        person = len(browser.contexts)

        def hear(kind, text):
            if not any(re.search(pattern, text) for pattern in allow):
                heard.append(f"window {person}, {kind}: {text}")
        page.on("console", lambda message: hear(message.type, f"{message.text} ({message.location.get('url', '')})"))
        page.on("pageerror", lambda error: hear("error", f"{error} {error.stack}"))
        return page

    yield open_window
    assert not heard, "the browser complained:\n" + "\n".join(heard)


# ── What breaks things ─────────────────────────────────────────────────────────────────────────────────────────

NEEDS = "needs "        # how the reason of a skip begins that the machine, not the code, is to blame for


@pytest.fixture(scope="session")
def strace(tmp_path_factory):
    """The path of an strace that can inject faults here."""
    found = shutil.which("strace")
    if not found:
        pytest.skip(f"{NEEDS}strace: not on PATH")
    tried = subprocess.run([found, "-f", "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:error=EIO",
                            "true"],
                           capture_output=True, text=True, timeout=30)
    if tried.returncode:
        pytest.skip(f"{NEEDS}strace: {tried.stderr.strip()[-100:]}")
    return found


@pytest.fixture
def tmpfs(tmp_path):
    """`tmpfs("4m")` mounts a file system of that size and returns its folder; it is gone after the test."""
    mounted = []

    def mount(size):
        folder = tmp_path / f"tmpfs{len(mounted)}"
        folder.mkdir()
        tried = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
                               capture_output=True, text=True) if shutil.which("mount") else None
        if not tried or tried.returncode:
            pytest.skip(f"{NEEDS}mount: {tried.stderr.strip()[-100:] if tried else 'not on PATH'}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def cables():
    """Two network namespaces, each with a cable to ours; they are gone after the test."""
    with contextlib.ExitStack() as laid:
        made = []
        for number in range(2):
            try:
                made.append(gate.Cable(number))
            except OSError as error:                  # also that there is no such command
                pytest.skip(f"{NEEDS}ip netns: {str(error)[-100:]}")
            laid.callback(made[-1].remove)
        yield made


def pytest_terminal_summary(terminalreporter, config):
    """The figures beside the asked ones, and how many promises went untried for want of a right or a tool."""
    ended = [report for reports in terminalreporter.stats.values() for report in reports
             if getattr(report, "when", None) == "teardown"]
    told = lambda kind: [(report, text) for report in ended for name, text in report.user_properties if name == kind]
    if figures := told("figure"):
        terminalreporter.section("figures", sep="-")
        for report, line in sorted(figures, key=lambda figure: figure[0].nodeid):
            terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {line}")
    if counted := collections.Counter(log for _, log in told("log")):
        terminalreporter.write_line(f"store tests on {' and on '.join(f'{log}: {counted[log]}' for log in LOGS)} "
                                    f"(asked: a difference of 0; it is {counted[LOGS[0]] - counted[LOGS[1]]})")
    terminalreporter.write_line(f"random tests drew from --seed {config.stash[SEED]}")
    reasons = [skip_reason(report) for report in terminalreporter.stats.get("skipped", [])]
    wanting = collections.Counter(reason.removeprefix(NEEDS) for reason in reasons if reason.startswith(NEEDS))
    terminalreporter.write_line("promises not tried here for want of a right or a tool: " + (
        f"{wanting.total()} ({'; '.join(f'{count} × {what}' for what, count in wanting.most_common())})" if wanting
        else "0"))


def skip_reason(report):
    return report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
