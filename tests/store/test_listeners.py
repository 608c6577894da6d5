"""Listeners: each committed transaction once, in order, and nobody harmed by another's trouble."""
import asyncio
import contextlib
import datetime as dt
import statistics
import threading
import time

import pytest

import store
from store import call, delete, evict, match, put


def settle(is_so, timeout_s=60):
    end = time.monotonic() + timeout_s
    while not is_so() and time.monotonic() < end:
        time.sleep(0.005)
    assert is_so()


def submit_from_threads(node, count, threads=8):
    """Submits that many transactions; the 99th percentile of how long one took, in ms."""
    times = []

    def work():
        for _ in range(count // threads):
            begun = time.perf_counter()
            node.submit_tx([put({"xt/id": node.new_id(), "msg/text": "hello"})])
            times.append((time.perf_counter() - begun) * 1000)
    running = [threading.Thread(target=work) for _ in range(threads)]
    [thread.start() for thread in running], [thread.join() for thread in running]
    return sorted(times)[int(len(times) * 0.99)]


def test_however_many_listen_one_thread_hears_what_others_write(tmp_path):
    """Each listener, and each wait for a transaction, would leave one more thread behind."""
    before = set(threading.enumerate())
    with contextlib.closing(store.open(tmp_path / "a.db")) as node:
        for _ in range(3):
            node.on_tx(lambda tx: None), node.on_notice(lambda notice: None)
            with pytest.raises(store.LateError):
                node.await_tx(1, timeout_s=0)
        bells = [thread for thread in set(threading.enumerate()) - before if thread.name == "store-bell"]
        assert len(bells) == 1


def test_three_listeners_one_fails_one_is_slow_one_counts(size, say, open_store):
    """Without this, one broken plugin would silence the chat."""
    rounds, each = 5, size(400, 2_000)
    heard, slow = [], []

    def fail(tx):
        raise RuntimeError("a broken listener")

    def sleep(tx):
        slow.append(tx.tx_id)
        time.sleep(0.05)
    with contextlib.closing(open_store()) as node, contextlib.closing(open_store()) as alone:
        listeners = [node.on_tx(callback) for callback in (fail, sleep, lambda tx: heard.append(tx.tx_id))]
        submit_from_threads(node, 8), submit_from_threads(alone, 8)  # the first failure is told with its traceback
        p99s = [(submit_from_threads(node, each), submit_from_threads(alone, each)) for _ in range(rounds)]
        count = 8 + rounds * each
        settle(lambda: len(heard) == count)
        assert heard == list(range(1, count + 1))
        assert slow == heard[:len(slow)] and len(slow) < count
        [listener.close() for listener in listeners]
    with_listeners, without = (statistics.median(column) for column in zip(*p99s))
    say(f"heard 1…{count:,} in order; submit p99 {with_listeners:.2f} ms, without listeners {without:.2f} ms: "
        f"{with_listeners / without:.2f} × (asked: 1.1)")


def test_only_committed_transactions_are_heard_with_their_operations(open_store):
    """Without this, a message that lost its race would still be shown."""
    with contextlib.closing(open_store(functions={"twice": lambda ctx, d: [put(d), delete("z")]})) as node:
        heard = []
        listener = node.on_tx(heard.append)
        node.submit_tx([put({"xt/id": "a", "v": [1]})])
        node.submit_tx([match("a", None), put({"xt/id": "b"})])
        node.submit_tx([call("twice", {"xt/id": "c"})])
        settle(lambda: len(heard) == 2)
        node.submit_tx([evict("a")])
        settle(lambda: len(heard) == 3)
        listener.close()
        assert [tx.tx_id for tx in heard] == [1, 3, 4]
        assert [tx.ops for tx in heard] == [[put({"xt/id": "a", "v": [1]})], [put({"xt/id": "c"}), delete("z")],
                                            [evict("a")]]
        assert all(tx.committed and tx.tx_time == node.tx(tx.tx_id).tx_time for tx in heard)


def test_a_listener_hears_after_it_can_be_seen(node):
    """Without this, what is rendered for a transaction would lack it."""
    seen = []
    node.on_tx(lambda tx: seen.append((node.db().tx_id >= tx.tx_id, node.db(tx.tx_id).entity(tx.tx_id),
                                       node.db(tx.tx_id - 1).entity(tx.tx_id))))
    for number in range(1, 51):
        node.submit_tx([put({"xt/id": number})])
    settle(lambda: len(seen) == 50)
    assert seen == [(True, {"xt/id": number}, None) for number in range(1, 51)]


def test_after_resumes_without_gap_or_repeat(open_store):
    """Without this, a restart would lose or repeat messages."""
    heard = []
    with contextlib.closing(open_store(at="s")) as node:
        for number in range(10):
            node.submit_tx([put({"xt/id": number})])
    with contextlib.closing(open_store(at="s")) as node:
        node.on_tx(heard.append, after=4)
        node.submit_tx([put({"xt/id": 10})])
        settle(lambda: len(heard) == 7)
        assert [tx.tx_id for tx in heard] == list(range(5, 12))
        quiet = []
        node.on_tx(quiet.append)
        node.submit_tx([put({"xt/id": 11})])
        settle(lambda: quiet)
        assert [tx.tx_id for tx in quiet] == [12], "from now on"


def test_after_close_no_call_begins(node):
    """Without this, a plugin would be called while the system it needs is gone."""
    heard, others, may_go_on = [], [], threading.Event()
    listener = node.on_tx(lambda tx: (heard.append(tx.tx_id), may_go_on.wait(60)))
    node.on_tx(lambda tx: others.append(tx.tx_id))
    for number in range(20):
        node.submit_tx([put({"xt/id": number})])
    settle(lambda: heard)
    closing = threading.Thread(target=listener.close)
    closing.start()
    settle(lambda: node.status()["listeners"] == 1)
    assert closing.is_alive(), "a running call is waited for"
    may_go_on.set()
    closing.join()
    node.submit_tx([put({"xt/id": "late"})])
    settle(lambda: others == list(range(1, 22)))
    assert heard == [1] and not listener._thread.is_alive()
    listener.close()


def test_one_that_keeps_up_hears_what_one_that_lags_reads(open_store):
    """A listener that keeps up hears from memory. If the log's words differed, speed would decide what is heard."""
    start = dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc)
    functions = {"twice": lambda ctx, *ids: [put({"xt/id": id, "k": {"v": [1]}}) for id in ids]
                 + [call("thrice", ids[0])],
                 "thrice": lambda ctx, id: [match("never", None), delete(id), put({"xt/id": id})]}
    with contextlib.closing(open_store(functions)) as node:
        heard = []
        with node.on_tx(heard.append):
            for ops in ([put({"xt/id": 1, "s": {1, 2}}), delete(2, start), match(1, {"xt/id": 1, "s": {1, 2}})],
                        [match(1, None), put({"xt/id": 3})],
                        [call("twice", 4, 5), put({"xt/id": 6}, start, start + dt.timedelta(1))],
                        [put({"xt/id": 7}), evict(7), put({"xt/id": 7, "again": True})], []):
                node.submit_tx(ops)
            settle(lambda: len(heard) == 4)
            heard[0].ops[0][1]["s"].add("spoilt")
        lagging = []
        with node.on_tx(lagging.append, after=0):
            settle(lambda: len(lagging) == 4)
        assert lagging == list(node.tx_log()) and lagging[1:] == heard[1:]
        assert [op[1] for op in lagging[2].ops] == [{"xt/id": 7, "xt/evicted?": True}, 7, {"xt/id": 7, "again": True}]


def test_what_is_evicted_is_told_to_no_listener_that_lags(node):
    """Without this, a slow listener would be handed from memory what every file has forgotten."""
    heard, may_go_on = [], threading.Event()
    with node.on_tx(lambda tx: (heard.append(tx), may_go_on.wait(10))):
        node.submit_tx([put({"xt/id": "first"})])
        settle(lambda: heard)
        node.submit_tx([put({"xt/id": "a", "secret": "s"})])
        node.submit_tx([evict("a")])
        may_go_on.set()
        settle(lambda: len(heard) == 3)
    assert heard[1].ops == [put({"xt/id": "a", "xt/evicted?": True})]


def test_one_that_goes_on_failing_is_told_of_with_one_traceback(node, caplog):
    """The traceback of each failure took longer than a transaction, so a broken plugin slowed everyone's writes."""
    def fail(tx):
        raise RuntimeError("a broken listener")
    with node.on_tx(fail) as listener:
        for n in range(5):
            node.submit_tx([put({"xt/id": n})])
        settle(lambda: listener.tx_id == 5)
    told = [record for record in caplog.records if "a broken listener" in record.getMessage()]
    assert [bool(record.exc_info) for record in told] == [True, False, False, False, False]


def test_a_listener_ends_with_its_block(node):
    """Without this, a script that fails half-way would leave its listener behind."""
    heard = []
    with node.on_tx(heard.append):
        node.submit_tx([put({"xt/id": 1})])
        settle(lambda: heard)
    node.submit_tx([put({"xt/id": 2})])
    assert node.status()["listeners"] == 0 and [tx.tx_id for tx in heard] == [1]


def test_a_listener_may_close_itself_and_submit(node):
    """Without this, a plugin that answers a command would deadlock."""
    heard = []

    def answer(tx):
        heard.append(tx.tx_id)
        if len(heard) == 1:
            node.submit_tx([put({"xt/id": "answer"})])
        else:
            listener.close()
    listener = node.on_tx(answer)
    node.submit_tx([put({"xt/id": "question"})])
    settle(lambda: len(heard) == 2)
    listener._thread.join(20)
    assert not listener._thread.is_alive() and node.status()["listeners"] == 0
    node.submit_tx([put({"xt/id": "unheard"})])
    assert heard == [1, 2]


async def test_in_a_loop_it_is_called_there_in_order(node):
    """Without this, a socket would be touched from two threads."""
    heard, threads = [], set()

    def plain(tx):
        threads.add(threading.get_ident())
        heard.append(tx.tx_id)

    async def slow(tx):
        await asyncio.sleep(0.001)
        slowly.append(tx.tx_id)
    slowly = []
    one, two = node.on_tx(plain), node.on_tx(slow)
    await asyncio.gather(*(node.submit([put({"xt/id": n})]) for n in range(60)))
    async with asyncio.timeout(60):
        while not len(slowly) == len(heard) == 60:
            await asyncio.sleep(0.01)
    assert heard == slowly == list(range(1, 61)) and threads == {threading.get_ident()}
    one.close(), two.close()
    await asyncio.wait_for(asyncio.gather(one._task, two._task), 60)
    await node.submit([put({"xt/id": "late"})])
    others = []
    three = node.on_tx(lambda tx: others.append(tx.tx_id), after=60)
    while not others:
        await asyncio.sleep(0.001)
    three.close()
    assert others == [61] and len(heard) == len(slowly) == 60


def test_a_notice_is_heard_and_stored_nowhere(open_store):
    """Without this, "is typing" would have to be written into a log that keeps everything."""
    heard, broken = [], []
    with contextlib.closing(open_store()) as node:
        node.on_notice(lambda notice: (broken.append(notice), 1 / 0))
        node.on_notice(heard.append)
        for n in range(200):
            node.notify(f"notice {n}")
        settle(lambda: len(heard) == 200)
        assert heard == broken == [f"notice {n}" for n in range(200)] and node.status()["tx_id"] == 0
        for notice in "", "x" * 7_901, "two\nlines", b"bytes", None:
            with pytest.raises(store.OperationError, match="A notice is one line of text of 1 to 7,900 bytes"):
                node.notify(notice)
        node.submit_tx([put({"xt/id": 1})])


def test_a_notice_reaches_every_server_of_a_log(join):
    """Without this, those who are connected to another server would not see who is here."""
    nodes = [join() for _ in range(3)]
    heard = [[] for _ in nodes]
    for node, words in zip(nodes, heard):
        node.on_notice(words.append)
    for n, node in enumerate(nodes):
        node.notify(f"from {n}")
        node.submit_tx([put({"xt/id": n})])
    settle(lambda: all(len(words) == 3 for words in heard))
    assert all(sorted(words) == ["from 0", "from 1", "from 2"] for words in heard)


async def test_a_notice_is_heard_in_the_event_loop_that_asked(join):
    """A callback in another thread would touch sockets behind the loop's back."""
    one, two = join(), join()
    heard = asyncio.get_running_loop().create_future()
    two.on_notice(lambda notice: heard.set_result((notice, threading.current_thread())))
    one.notify("hello")
    assert await asyncio.wait_for(heard, 60) == ("hello", threading.main_thread())
