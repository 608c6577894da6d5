"""Workers: several processes on one port and one store are one chat, though one of them is killed."""
import asyncio
import contextlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import uuid
from types import SimpleNamespace

import aiohttp
import pytest

import store
from biff import limits
from biff.limits import Limits, SharedTimes
from conftest import ROOT, Server, wait_until
from crowd import Town, Voice, come_back, cursor, listen, texts

PEOPLE, WRITERS, EACH = 7, (2, 3, 4, 5), 8            # eight messages of each, within the limit of ten in ten seconds


class Crew(Server):
    """A server with two workers, and a town of people with sessions in its store."""

    def __init__(self, data, log_url=None):
        super().__init__(data, ["--workers", "2", *(["--log", log_url] if log_url else [])])
        self.town = Town(PEOPLE)
        self.seen = (self.town.found_in(store.open(log_url, index=data.parent / "index.db")) if log_url
                     else self.town.found(data / "eelchat.db"))

    def start(self, **environment):
        super().start(**environment)
        wait_until(lambda: len(self.workers()) == 2, 60, lambda: self.text)
        return self

    def workers(self):
        """The process ids of the workers that run, the one started last last."""
        path = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return sorted(map(int, path.read_text().split()))

    async def ear(self, n, hear=None, place=None, other_than=None):
        """(worker, socket) of a person, on another worker than that one."""
        for tries in range(100):
            await asyncio.sleep(tries >= 40 and 1)     # a worker that has just begun may import for long
            lines = len(self.log)
            ear = await listen(self.url, place or self.town.channel, self.town.cookies[n], f"{self.seen}&here=x", hear)
            worker = int((await self.said(r"\[(\d)\] connect place", lines))[1])
            if worker != other_than:
                return worker, ear
            ear.transport.abort()
        raise AssertionError("all sockets came to one worker")

    @contextlib.asynccontextmanager
    async def voices(self, n):
        """A person's voice on each worker, over a connection of its own."""
        async with contextlib.AsyncExitStack() as stack:
            found = {}
            while len(found) < 2:
                connector = aiohttp.TCPConnector(limit=1)
                session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
                path = f"/none/{uuid.uuid4()}"
                async with session.get(self.url + path):
                    worker = int((await self.said(rf"\[(\d)\] .* GET {path}"))[1])
                found[worker] = Voice(session, self.url, self.data, self.town, n)
            yield [found[0], found[1]]


@pytest.fixture
def crew(tmp_path):
    made = Crew(tmp_path / "data")
    try:
        yield made.start()
    finally:
        made.kill()


@pytest.fixture
def crew_on_postgres(tmp_path, log_url):
    made = Crew(tmp_path / "data", log_url)
    try:
        yield made.start()
    finally:
        made.kill()


async def until(is_so, what, timeout_s=60):
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end, what()
        await asyncio.sleep(0.01)


def are_gone(processes):
    """True if none of them runs, but as a name that nobody has asked for."""
    paths = [pathlib.Path(f"/proc/{process}/stat") for process in processes]
    return all(path.read_text().rpartition(")")[2].split()[0] == "Z" for path in paths if path.exists())


class Listener:
    """Somebody whose browser comes back when its socket is cut, and asks for what it missed."""

    def __init__(self, crew, n):
        self.crew, self.n, self.texts, self.frames, self.after = crew, n, [], [], crew.seen
        self.lives = 0

    def hear(self, payload):
        text = payload.decode()
        self.frames.append(text)
        self.texts += texts(text)
        if 'id="cursor"' in text:
            self.after = cursor(text)

    async def stay(self, ear):
        while True:
            self.lives += 1
            await ear.ended
            ear = await come_back(self.crew.url, self.crew.town.channel, self.crew.town.cookies[self.n],
                                  lambda: self.after, self.hear)


async def test_two_workers_are_one_chat_though_one_is_killed(crew, say):
    """Without this, people on two workers would see two conversations, and a crash would cost what was said."""
    ann, bob = Listener(crew, 0), Listener(crew, 1)
    worker, ear = await crew.ear(0, ann.hear)
    _, other = await crew.ear(1, bob.hear, other_than=worker)
    await those_who_are_here_and_type_are_seen_from_both(crew, ear, bob)
    await what_a_shell_puts_is_heard_by_both(crew, ann, bob)
    await ten_messages_in_ten_seconds_hold_for_both(crew)
    await until(lambda: len(ann.texts) == len(bob.texts) == 11, lambda: (ann.texts, bob.texts))
    staying = [asyncio.create_task(one.stay(ear)) for one, ear in ((ann, ear), (bob, other))]
    killed, lines = time.monotonic(), len(crew.log)
    said = await write_while_one_is_killed(crew, crew.workers()[worker])
    await until(lambda: min(len(ann.texts), len(bob.texts)) >= len(said) + 11, lambda: crew.text)
    took = time.monotonic() - killed
    assert ann.texts == bob.texts and sorted(ann.texts[11:]) == sorted(said), "each once, in one order"
    assert (ann.lives, bob.lives) == (2, 1)
    await crew.said(rf"Worker {worker} ended by signal SIGKILL after .* started again", lines)
    await crew.ear(0, other_than=0), await crew.ear(0, other_than=1)
    for task in staying:
        task.cancel()
    workers, seconds = crew.workers(), crew.stop()
    assert len(workers) == 2 and are_gone(workers) and crew.process.returncode == 0 and seconds < 10
    say(f"{len(said)} posts, a worker killed among them: 0 lost, 0 doubled, one order on both; the cut socket was back "
        f"and all was heard after {took:.1f} s; Ctrl-C ended all after {seconds:.1f} s (asked 1)")


async def those_who_are_here_and_type_are_seen_from_both(crew, ear, bob):
    _, square = await crew.ear(2, place=f"/community/{crew.town.community}")
    mems = [str(mem) for mem in crew.town.mems]
    await until(lambda: any(mems[0] in text and mems[1] in text for text in square.texts if "data-mems" in text),
                lambda: square.texts)
    square.transport.abort()
    ear.send(1, b"typing")
    await until(lambda: any('id="typing"' in text and mems[0] in text for text in bob.frames), lambda: bob.frames)


async def ten_messages_in_ten_seconds_hold_for_both(crew):
    async with crew.voices(6) as voices:
        statuses = await asyncio.gather(*(voices[n % 2].say(f"limit {n}") for n in range(14)))
    assert sorted(statuses) == [204] * 10 + [429] * 4, statuses


async def what_a_shell_puts_is_heard_by_both(crew, ann, bob):
    """And what is in the chat is what the shell finds: it is no copy. What it evicts leaves the file."""
    message, path = crew.town.message("sworn in the shell"), crew.data / "eelchat.db"

    async def shell(*lines):
        process = await asyncio.create_subprocess_exec(sys.executable, ROOT / "shell.py", path, *lines,
                                                       stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
        printed = (await process.communicate())[0].decode()
        assert process.returncode == 0, printed
        return printed
    printed = await shell(f".put {message!r}", '{"find": "?text", "where": [["?m", "msg/text", "?text"]]}',
                          '{"find": "?title", "where": [["?c", "comm/title", "?title"]]}')
    assert "Town" in printed and "sworn in the shell" in printed, printed
    await until(lambda: ann.texts == bob.texts == ["sworn in the shell"], lambda: (ann.texts, bob.texts))
    await shell(f".tx [('evict', {message['xt/id']!r})]")
    await until(lambda: not any(b"sworn in" in one.read_bytes() for one in (path, path.with_name("eelchat.db-wal"))),
                lambda: "the text is still in the file")


async def write_while_one_is_killed(crew, process):
    """The messages of four people. Each sends one again under its id until it is acknowledged, as pages do."""
    async def write(session, n):
        voice = Voice(session, crew.url, crew.data, crew.town, n)
        for k in range(EACH):
            status, post = None, uuid.uuid4()
            while status != 204:
                with contextlib.suppress(aiohttp.ClientError):
                    status = await voice.say(f"{n} {k}", post)
            if (n, k) == (WRITERS[0], EACH // 2):
                os.kill(process, signal.SIGKILL)
    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(write(session, n) for n in WRITERS))
    return [f"{n} {k}" for n in WRITERS for k in range(EACH)]


async def test_two_workers_share_a_log_on_postgresql_though_one_is_killed(crew_on_postgres, say):
    """Each has an index of its own; mixed up, they would show two conversations, or none would start."""
    crew = crew_on_postgres
    ann, bob = Listener(crew, 0), Listener(crew, 1)
    worker, ear = await crew.ear(0, ann.hear)
    _, other = await crew.ear(1, bob.hear, other_than=worker)
    staying = [asyncio.create_task(one.stay(ear)) for one, ear in ((ann, ear), (bob, other))]
    said = await write_while_one_is_killed(crew, crew.workers()[worker])
    await until(lambda: min(len(ann.texts), len(bob.texts)) >= len(said), lambda: crew.text)
    assert ann.texts == bob.texts and sorted(ann.texts) == sorted(said), "each once, in one order"
    await crew.ear(0, other_than=1 - worker)               # it is back
    async with crew.voices(6) as voices:
        assert [await voice.say(f"by worker {n}") for n, voice in enumerate(voices)] == [204, 204]
    await until(lambda: ann.texts[len(said):] == bob.texts[len(said):] == ["by worker 0", "by worker 1"],
                lambda: (ann.texts, bob.texts))
    for task in staying:
        task.cancel()
    indexes = sorted(path.name for path in crew.data.glob("eelchat-index*.db"))
    seconds = crew.stop()
    assert indexes == ["eelchat-index-1.db", "eelchat-index.db"] and crew.process.returncode == 0
    say(f"{len(said) + 2} posts by two workers of one machine on PostgreSQL, one killed among them: 0 lost, 0 doubled, "
        f"one order; Ctrl-C ended all after {seconds:.1f} s (asked 1)")


def test_workers_whose_supervisor_was_killed_end_too(crew, say):
    """Without this, workers that nobody knows would hold the port and the store, and the next start would fail."""
    workers, killed = crew.workers(), time.monotonic()
    crew.kill()
    wait_until(lambda: are_gone(workers), 60, lambda: crew.text)
    say(f"the supervisor was killed: both workers had ended after {time.monotonic() - killed:.1f} s")


def test_a_worker_that_ends_again_and_again_ends_the_server_with_a_sentence():
    """Without this, a store that cannot be opened any more would be tried for ever, and nobody would be told."""
    program = """if True:
        import os, time
        from biff import workers
        workers.PAUSE_S, workers.ENDS_MAX = 0.001, 4
        def serve(worker):
            os.write(worker.ready, b".")
            if worker.number:
                print(worker.name, flush=True)
                os._exit(3)
            while os.read(worker.lifeline, 1):
                pass
        try:
            workers.Supervisor(2, serve, []).run()
        except workers.StartError as error:
            print(error)"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    *names, sentence = done.stdout.splitlines()
    assert sentence == ("Worker 1 ended 4 times, each within 60 s of its start, the last time with status 3: the "
                        "server stops."), done
    assert len(names) == 4 and len(set(names)) == 1, "what one has said to the others is taken back by the next"


def test_a_worker_that_cannot_start_says_why_and_is_not_tried_again(tmp_path):
    """Without this, a mistake in the settings would scroll by once a second."""
    (tmp_path / "secret").write_bytes(b"short")
    os.chmod(tmp_path, 0o700)
    done = subprocess.run([sys.executable, ROOT / "eelchat.py", "--workers", "2", "--port", "0", "--data", tmp_path],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "has 5 bytes and not 32" in done.stderr, done


def test_workers_count_events_together_and_as_one_process_does(seed, size):
    """Without this, each worker would allow as much as the whole server may, or the table would forget or invent."""
    choose, moment = random.Random(seed), [0.0]
    one, several = Limits(lambda: moment[0]), Limits(lambda: moment[0], SharedTimes())
    limits = [(("key", n), count, window_s) for n, (count, window_s) in enumerate(
        [(10, 10), (3, 60), (60, 60), (3, 3_600), (20, 3_600)])]
    for _ in range(size(3_000, 1_000_000)):
        moment[0] += choose.choice([0, 0.01, 0.5, 3])
        some = choose.sample(limits, choose.choice([1, 1, 2]))
        if choose.random() < 0.2:
            some = [(*limit, choose.choice([1, 2, 5])) for limit in some]
        assert one.take(*some) == several.take(*some)
        asked = choose.choice(limits)
        assert one.wait_s(asked) == pytest.approx(several.wait_s(asked), abs=1e-6)


def test_four_processes_take_as_much_as_one_may_though_they_die_at_any_moment(monkeypatch):
    """Without this, two workers at one moment would both take the last place, or a dead one would lock all others."""
    monkeypatch.setattr(limits, "LOCK_S_MAX", 60)      # a busy machine may keep one in there for long
    counts, pipe = SharedTimes(), os.pipe()
    asked = [("many", 500, 3_600), (("few",), 30, 60)]
    workers = []
    for n in range(4):
        if not (process := os.fork()):
            mine = Limits(times=counts)
            for k in range(400):
                for n_limit, limit in enumerate(asked):
                    if mine.take(limit):
                        os.write(pipe[1], b"%d" % n_limit)
            os._exit(0)
        workers.append(process)
    time.sleep(0.01)
    os.kill(workers[0], signal.SIGKILL)
    for process in workers:
        os.waitpid(process, 0)
    os.close(pipe[1])
    taken = os.read(pipe[0], 10_000)
    assert (taken.count(b"0"), taken.count(b"1")) in [(500, 30), (499, 30), (500, 29)], "one may have been cut off"


def test_who_was_kept_from_looking_looks_once_more_for_the_lock(monkeypatch):
    """A busy machine lets a process sleep for longer than it may wait: it would count without the lock."""
    tried, moments = [], iter([0, 0, 1_000])

    def lockf(file, how):
        tried.append(how)
        if len(tried) == 1:
            raise BlockingIOError
    monkeypatch.setattr(limits, "time", SimpleNamespace(monotonic=lambda: next(moments), sleep=lambda seconds: None))
    monkeypatch.setattr(limits, "fcntl", SimpleNamespace(LOCK_EX=1, LOCK_NB=2, LOCK_UN=4, lockf=lockf))
    with SharedTimes():
        assert tried == [3, 3]


def test_what_many_may_do_counts_a_little_longer_and_never_less():
    """Without this, keeping a thousand moments of each person would cost more than what they ask for."""
    moment = [0.0]
    limits, times = Limits(lambda: moment[0], SharedTimes()), []
    while moment[0] < 300:
        if limits.take(("reads", 240, 60)):
            times.append(moment[0])
        moment[0] += 0.1
    assert all(late - early >= 60 for early, late in zip(times, times[240:])), "never more than 240 in 60 s"
    assert len(times) >= 4.8 * 240, "and hardly less"
