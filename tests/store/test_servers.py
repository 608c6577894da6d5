"""Several servers follow one log on PostgreSQL: the same transactions,
in the same order, decided alike, and none missed."""
import collections
import contextlib
import datetime as dt
import functools
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid

import pytest

import postgres
import store
import store_postgres
from conftest import ROOT, free_port, wait_until
from store import EPOCH, call, delete, evict, match, put

UTC = dt.timezone.utc
PEER = str(ROOT / "tests/peer.py")


def eventually(is_so, timeout_s=60, complaint=lambda: "it did not come true"):
    wait_until(is_so, timeout_s, complaint)


def settle(nodes, tx_id=None, timeout_s=60):
    """Waits until all have indexed up to this transaction, or to the newest that any has. Returns their states,
    which must agree."""
    tx_id = tx_id or max(node.status()["tx_id"] for node in nodes)
    for node in nodes:
        node.await_tx(tx_id, timeout_s)
    states = {node.status()["state"] for node in nodes}
    assert len(states) == 1, "the servers went different ways"
    return tx_id


def count(ctx, id):
    """A transaction function that adds one."""
    return [put({"xt/id": id, "n": (ctx.db.entity(id) or {"n": 0})["n"] + 1})]


# ── One log ────────────────────────────────────────────────────────────────────────────────────────────────────

def test_what_one_server_puts_the_other_hears(join):
    """Without this, two people on two servers would talk to nobody."""
    one, two = join(), join()
    heard = []
    two.on_tx(lambda tx: heard.append((tx.tx_id, tx.ops)))
    tx = one.submit_tx([put({"xt/id": "a", "said": ["hello", "there"]})])
    assert one.db().entity("a") == {"xt/id": "a", "said": ["hello", "there"]}, "one reads what one wrote"
    assert two.sync(60) == tx.tx_time and two.await_tx(tx.tx_id, 60)[:2] == tx[:2]
    assert two.db().entity("a") == one.db(tx.tx_id).entity("a") == {"xt/id": "a", "said": ["hello", "there"]}
    two.submit_tx([delete("a")])
    settle([one, two])
    assert one.db().entity("a") is None
    eventually(lambda: len(heard) == 2)
    assert heard == [(1, [put({"xt/id": "a", "said": ["hello", "there"]})]), (2, [delete("a")])]


def test_a_match_and_a_call_are_decided_alike(join):
    """Without this, one server would show a message that another has not."""
    one, two = join({"count": count}), join({"count": count})
    document = {"xt/id": "a", "v": 1}
    assert one.submit_tx([put(document)]).committed
    assert not two.submit_tx([match("a", None), put({"xt/id": "b"})]).committed
    assert two.submit_tx([match("a", document), call("count", "n"), call("count", "n")]).committed
    assert one.submit_tx([call("count", "n")]).committed
    settle([one, two])
    assert [node.db().entity("n") for node in (one, two)] == [{"xt/id": "n", "n": 3}] * 2
    assert [tx.committed for tx in map(one.tx, range(1, 5))] == [True, False, True, True]
    assert one.verify() == two.verify() == 4


def test_of_a_call_the_outcome_recorded_first_counts(join):
    """Without this, a server with newer code would go another way than one with older code."""
    sayings = {"say": lambda ctx, id: [put({"xt/id": id, "by": "new code"})], "odd": lambda ctx: False}
    one = join({"say": lambda ctx, id: [put({"xt/id": id, "by": "old code"})]})
    two, three = join(sayings), join({})
    outcomes = [node.submit_tx([put({"xt/id": f"before {n}"}), call("say", n)]).committed
                for n, node in enumerate([one, two, three] * 5)]
    outcomes += [node.submit_tx([call("odd")]).committed for node in (two, one)]
    settle([one, two, three])
    said = [[node.db().entity(n) for n in range(15)] for node in (one, two, three)]
    assert said[0] == said[1] == said[2]
    assert [document is not None
            for document in said[0]] == outcomes[:15], "whoever submitted was told what became of it"
    assert outcomes[15:] == [False, False]
    for node in (one, two, three):
        node.reindex()
    assert [[node.db().entity(n) for n in range(15)] for node in (one, two, three)] == said
    late = join({"say": lambda ctx, id: 1 / 0})
    settle([late, one])


def test_what_is_evicted_is_gone_everywhere_and_a_late_server_gets_by_without_it(join, cluster, log_url):
    """Without this, forgetting would depend on who happened to be away."""
    import psycopg
    one, two = join({"count": count}), join({"count": count})
    secret = {"xt/id": "secret", "text": "the-bytes-that-must-go"}
    one.submit_tx([put(secret), put({"xt/id": "other"})])
    two.submit_tx([match("secret", secret), put({"xt/id": "saw it"}), call("count", "secret too")])
    one.submit_tx([put({"xt/id": "lost", "text": "of an aborted one, the-bytes-that-must-go"}), match("secret", None)])
    one.submit_tx([put(secret | {"more": 1}), evict("secret"), put({"xt/id": "secret", "text": "new"}),
                   evict("secret too")])
    settle([one, two])
    with psycopg.connect(log_url) as connection:
        left = b" ".join(row[0] for row in connection.execute("select doc from store_documents", binary=True))
    assert b"the-bytes-that-must-go" not in left and b"new" in left and b"other" in left
    late = join()
    settle([one, two, late])
    assert late.db().entity("saw it") and late.db().entity("secret") == {"xt/id": "secret", "text": "new"}
    assert late.db(2).entity("secret") is None and late.db(2).entity("secret too") is None
    assert late.verify() == one.verify() == 4
    assert [tx.committed for tx in map(late.tx, range(1, 5))] == [True, True, False, True]
    late.reindex()
    assert late.db().entity("saw it") and late.db().entity("other")


def test_an_evict_that_aborts_takes_nothing_from_the_log(join, log_url):
    """An aborted transaction with an evict once deleted the entity's contents in PostgreSQL, and late servers lacked
    them."""
    one, two = join(), join()
    one.submit_tx([put({"xt/id": "a", "text": "stays"})])
    assert not two.submit_tx([evict("a"), match("a", {"xt/id": "a"})]).committed
    assert not one.submit_tx([evict("a"), put({"xt/id": "b"}), match("nobody", {"xt/id": "nobody"})]).committed
    settle([one, two])
    late = join()
    settle([one, two, late])
    assert [node.db().entity("a") for node in (one, two, late)] == [{"xt/id": "a", "text": "stays"}] * 3


def test_a_new_server_catches_up_and_may_begin_with_a_copy(join, tmp_path):
    """Without this, a second server could not be added to a community that has lived."""
    one, told = join(), []
    for number in range(30):
        one.submit_tx([put({"xt/id": number}) for number in range(number * 10, number * 10 + 10)])
    one.backup(tmp_path / "copy.db")
    one.submit_tx([put({"xt/id": "later"})])
    new = join(progress=lambda done, total: told.append((done, total)))
    copied = join(index=tmp_path / "copy.db")
    assert told[-1] == (31, 31)
    settle([one, new, copied])
    assert copied.db().entity("later") and new.db().entity(299) == copied.db().entity(299)


def test_documents_of_any_size_arrive_as_they_were_sent(join, monkeypatch):
    """Small documents go as text, large ones in lots beside it: a document at the border could be lost."""
    monkeypatch.setattr(store_postgres, "FOLLOW_BYTES", 300_000)
    one, two = join(), join()
    sizes = [0, 1, store_postgres.MESSAGE_BYTES - 200, store_postgres.MESSAGE_BYTES, 299_000, 301_000, 700_000]
    documents = [{"xt/id": f"{n}'\\", "text": "\\'\"é\0" + n * "x"} for n in sizes]
    for document in documents:
        one.submit_tx([put(document)])
    one.submit_tx([put(document | {"again": 1}) for document in documents]
                  + [put({"xt/id": number}) for number in range(100)])
    settle([one, two])
    for node in (one, two):
        assert [node.db(len(sizes)).entity(document["xt/id"]) for document in documents] == documents
        assert node.db().entity(99)
        assert all(node.db().entity(document["xt/id"]) == document | {"again": 1} for document in documents)


def test_servers_that_open_a_new_log_together_all_open_it(log_url, join, monkeypatch):
    """All servers but one once failed: after its wait for the lock, a server still believed that there is no table."""
    import psycopg
    opened, asked, first_row = [], threading.Semaphore(0), store_postgres._first_row

    def ask(connection):
        row = first_row(connection)
        asked.release()
        return row
    monkeypatch.setattr(store_postgres, "_first_row", ask)
    threads = [threading.Thread(target=lambda: opened.append(join(index=":memory:"))) for _ in range(3)]
    with psycopg.connect(log_url, autocommit=True) as held:
        held.execute("select pg_advisory_lock(%s, 0)", (store_postgres._LOCK_MAKING,))
        [thread.start() for thread in threads]
        assert all(asked.acquire(timeout=60) for _ in threads)
    [thread.join() for thread in threads]
    assert len(opened) == 3 and len({node.status()["store"] for node in opened}) == 1


@pytest.mark.parametrize("alone_min", [store_postgres.ALONE_MIN, 0])
def test_two_servers_write_at_once(join, monkeypatch, alone_min):
    """Without this, numbers would be given twice or skipped, also where each server guesses that nobody else writes."""
    monkeypatch.setattr(store_postgres, "ALONE_MIN", alone_min)
    nodes = [join({"count": count}), join({"count": count})]

    def work(node, name):
        for number in range(25):
            node.submit_tx([put({"xt/id": f"{name} {number}"}), call("count", "all")])
    threads = [threading.Thread(target=work, args=(node, f"{n} {k}")) for n, node in enumerate(nodes) for k in range(4)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert settle(nodes) == 200
    assert [node.db().entity("all")["n"] for node in nodes] == [200, 200]
    assert [tx.tx_id for tx in nodes[0].tx_log()] == list(range(1, 201))


def test_who_guesses_wrongly_what_is_newest_writes_nothing_and_asks(join, monkeypatch):
    """A server that wrote alone sends its next rows without asking. Without this, they would stand beside another
    server's rows of the same number."""
    monkeypatch.setattr(store_postgres, "GUESS_S_MAX", 60)
    one, two = join(), join()
    for number in range(store_postgres.ALONE_MIN + 4):
        one.submit_tx([put({"xt/id": number})])
    newest = two.await_tx(one._log._last_known.guess()[0], 60)
    with one._log._indexing:                                      # it does not hear what the other does
        theirs = two.submit_tx([put({"xt/id": "theirs"})])
        told = []
        writer = threading.Thread(target=lambda: told.append(one.submit_tx([put({"xt/id": "ours"})])))
        writer.start()
        two.await_tx(theirs.tx_id + 1, 60)
    writer.join()
    assert (newest.tx_id, theirs.tx_id, told[0].tx_id) == (store_postgres.ALONE_MIN + 4, store_postgres.ALONE_MIN + 5,
                                                           store_postgres.ALONE_MIN + 6)
    assert not one._log._last_known.guess() and settle([one, two]) == one.verify() == two.verify() == told[0].tx_id


@pytest.mark.parametrize("bells", [store_postgres.BELLS, 2])
def test_a_bell_wakes_all_but_the_one_who_rings(join, monkeypatch, bells):
    """A server that is woken by its own appends makes a quarter fewer; a server that misses a bell is a second late."""
    monkeypatch.setattr(store_postgres, "BELLS", bells)
    servers, heard = [join() for _ in range(4)], set()
    for n, server in enumerate(servers):
        server._log._heard = lambda channel, pid, notice, n=n, hear=server._log._heard: (
            heard.add((n, pid)), hear(channel, pid, notice))
    for n, server in enumerate(servers):
        server.submit_tx([put({"xt/id": n})])
        eventually(lambda: all((other, server._log._ringer) in heard for other in range(4) if other != n))
    shared = [] if bells > 4 else [1, 2, 3]                        # the last bell: who rings it hears it
    eventually(lambda: [n for n, server in enumerate(servers) if (n, server._log._ringer) in heard] == shared)
    settle(servers)


# ── Nothing is passed by ───────────────────────────────────────────────────────────────────────────────────────

def raw_append(connection, lock_id):
    """An append by hand, up to its commit: the next row of the log, an empty transaction."""
    connection.execute("begin")
    connection.execute("select pg_advisory_xact_lock(%s, %s)", (store_postgres._LOCK_APPENDING, lock_id))
    tx_id, tx_time, hash = connection.execute("select tx_id, tx_time, hash from store_log order by tx_id desc limit 1",
                                              binary=True).fetchone()
    ops = store.pack([])
    connection.execute("insert into store_log values (%s, %s, %s, %s, 0, null)",
                       (tx_id + 1, tx_time + 1, ops, store._chained(hash, tx_id + 1, tx_time + 1, ops)))


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_writer_held_between_insert_and_commit_is_not_passed_by(join, log_url, say, end):
    """With numbers from a sequence a follower would skip the row that commits late, for ever."""
    import psycopg
    one, two = join(), join()
    one.submit_tx([put({"xt/id": "first"})])
    with psycopg.connect(log_url, autocommit=True) as held:
        raw_append(held, one._log._lock_id)
        told = []
        writer = threading.Thread(target=lambda: told.append(two.submit_tx([put({"xt/id": "second"})])))
        writer.start()
        waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
        eventually(lambda: held.execute(waits).fetchone()[0])
        assert not told and one.latest_tx.tx_id == two.latest_tx.tx_id == 1, "nobody may go on past what may still come"
        held.execute(end)
        writer.join()
    expected = 3 if end == "commit" else 2
    assert told[0].tx_id == settle([one, two]) == expected
    say(f"a writer held before its {end}: the next had to wait and got {expected}; 0 passed by (asked 0)")


def test_six_writers_that_dawdle_and_four_followers(join, size, seed, say):
    """Without this, a follower could apply what it saw and never learn of what it did not."""
    each, choose = size(30, 2_000), random.Random(seed)

    def dawdling():
        time.sleep(choose.uniform(0, 0.02))
        return dt.datetime.now(UTC)
    followers = [join() for _ in range(4)]
    heard = [[] for _ in followers]
    for follower, ids in zip(followers, heard):
        follower.on_tx(lambda tx, ids=ids: ids.append(tx.tx_id))
    writers = [join(clock=dawdling) for _ in range(6)]
    threads = [threading.Thread(target=lambda: [writer.submit_tx([put({"xt/id": writer.new_id()})])
                                                for _ in range(each)]) for writer in writers]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert settle(followers + writers) == 6 * each
    eventually(lambda: all(len(ids) == 6 * each for ids in heard))
    assert all(ids == list(range(1, 6 * each + 1)) for ids in heard)
    times = [tx.tx_time for tx in followers[0].tx_log()]
    assert all(a < b for a, b in zip(times, times[1:]))
    say(f"6 writers of {each}, with up to 20 ms inside each append: each of 4 followers heard exactly 1…{6 * each} "
        f"(asked: all of 6 × 2,000); seed {seed}")


# ── Stuck, killed, cut off ─────────────────────────────────────────────────────────────────────────────────────

class Peer:
    """tests/peer.py as a process; `.lines()` what it said so far."""

    def __init__(self, url, index, *words, enter=(), **environment):
        self.process = subprocess.Popen([*enter, sys.executable, PEER, url, str(index), *map(str, words)], text=True,
                                        stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, env=os.environ | environment)
        self.said = []
        self._reader = threading.Thread(target=lambda: self.said.extend(self.process.stdout), daemon=True)
        self._reader.start()

    def heard(self, word, timeout_s=60):
        eventually(lambda: any(line.startswith(word) for line in self.said), timeout_s, lambda: "".join(self.said))

    def acks(self):
        """{id: (tx_id, seconds)}"""
        lines = [line.split() for line in self.said if line.startswith("ack ")]
        return {line[1]: (int(line[2]), float(line[3])) for line in lines}

    def reads(self):
        """What was newest at each read."""
        return [int(line.split()[1]) for line in self.said if line.startswith("read ")]

    def end(self, how=signal.SIGKILL):
        self.process.send_signal(how)
        self.process.wait(60)
        self._reader.join(5)


def test_a_frozen_server_that_holds_the_lock_stops_nobody_for_long(join, log_url, tmp_path, say):
    """Without this, one machine that swaps would silence all."""
    other = join()
    frozen = Peer(log_url, tmp_path / "frozen.db", "append", "frozen", 1, 1, INSIDE_S="3")
    try:
        frozen.heard("inside")
        frozen.process.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        tx = other.submit_tx([put({"xt/id": "went on"})])
        waited = time.monotonic() - begun
        assert tx.tx_id == 1 and not frozen.acks()
        frozen.process.send_signal(signal.SIGCONT)
        frozen.heard("closed")
    finally:
        frozen.end()
    acked = frozen.acks()["frozen/1"][0]
    assert acked == settle([other]) == 2, "its commit was refused: it took the lock again"
    assert waited < 10 * (store_postgres.FROZEN_S_MAX + 1)
    say(f"the others went on after {waited:.1f} s (asked: the timeout of {store_postgres.FROZEN_S_MAX} s and 1); the "
        f"late commit was refused, and done again as {acked}")


@pytest.mark.parametrize("is_there", [True, False])
def test_nobody_sees_what_is_indexed_while_postgres_commits(join, log_url, say, is_there):
    """The index is written while the append is on its way. If the append is lost, a reader would have seen what
    never was."""
    import psycopg
    node, other, heard = join(), join(), []
    node.on_tx(lambda tx: heard.append(tx.tx_id))
    node.submit_tx([put({"xt/id": "a", "v": 1})])
    link, seen = node._log._appending, []
    answer = link.answer

    def lost():
        if link._rows and not seen:
            seen.append((node.db().entity("a"), node.latest_tx.tx_id))
            if is_there:
                answer()
            raise psycopg.OperationalError("the cable")
        answer()
    link.answer = lost
    with psycopg.connect(log_url, autocommit=True) as held:
        if not is_there:                  # the insert waits for this one's number until its connection is gone
            held.execute("begin"), held.execute("insert into store_log values (2, 2, '', '', 0, null)")
        told = []
        writer = threading.Thread(target=lambda: told.append(node.submit_tx([put({"xt/id": "a", "v": 2})])))
        writer.start()
        eventually(lambda: seen)
        assert is_there or not told and node.db().entity("a")["v"] == 1
        if not is_there:
            held.execute("rollback")
        writer.join()
    assert seen == [({"xt/id": "a", "v": 1}, 1)] and told[0].tx_id == settle([node, other]) == 2
    assert [n.db().entity("a")["v"] for n in (node, other)] == [2, 2] and node.verify() == other.verify() == 2
    eventually(lambda: heard == [1, 2])
    say(f"an append lost {'after' if is_there else 'before'} its commit, with the index written: seen by 0 readers, "
        f"there once, as {told[0].tx_id}")


def test_a_listening_connection_may_be_cut_at_any_time(join, log_url, size, say):
    """A dead listener is silent: without this, nobody would notice until somebody reloads."""
    import psycopg
    cuts, writer, follower = size(10, 100), join(), join()
    heard, stopped = [], threading.Event()
    follower.on_tx(lambda tx: heard.append(tx.tx_id))

    def write():
        while not stopped.is_set():
            writer.submit_tx([put({"xt/id": writer.new_id()})])
    thread = threading.Thread(target=write)
    thread.start()
    try:
        with psycopg.connect(log_url, autocommit=True) as killer:
            for _ in range(cuts):
                eventually(lambda: killer.execute("select pg_terminate_backend(%s)",
                                                  (listener_of(follower),)).fetchone()[0])
                time.sleep(0.05)
    finally:
        stopped.set(), thread.join()
    tx_id = settle([writer, follower])
    eventually(lambda: len(heard) == tx_id)
    assert heard == list(range(1, tx_id + 1))
    say(f"the listening connection cut {cuts} times under {tx_id} transactions: 0 missed (asked 0)")


def listener_of(node):
    """The backend of a node's listening connection, 0 while there is none."""
    connection = node._log._following._connection
    return connection.info.backend_pid if connection and not connection.closed else 0


def test_without_any_bell_followers_look_each_second(join, say):
    """A notification is a doorbell, not a letter."""
    writer, follower = join(), join()
    follower._log._heard = lambda *_: None                        # from now on no bell is heard
    lags = []
    for number in range(3):
        begun = time.monotonic()
        follower.await_tx(writer.submit_tx([put({"xt/id": number})]).tx_id, 60)
        lags.append(time.monotonic() - begun)
    assert max(lags) < 10 * 1.5
    say(f"3 transactions without a bell arrived within {max(lags):.2f} s (asked: 1.5)")


def test_a_server_killed_at_any_moment_loses_and_doubles_nothing(join, log_url, tmp_path, size, seed, say):
    """Without this, a person who presses send again after a crash would say it twice, or never."""
    kills, choose, watcher = size(8, 500), random.Random(seed), join()
    acked, number = {}, 1
    for life in range(kills):
        peer = Peer(log_url, tmp_path / f"peer{life % 2}.db", "append", "post", number, 100_000)
        peer.heard("ack")
        time.sleep(choose.uniform(0, 0.05))
        peer.end()
        acked |= peer.acks()
        number = 1 + max(int(id.partition("/")[2]) for id in acked)
    last = Peer(log_url, tmp_path / "peer0.db", "append", "post", number, 1)
    last.heard("closed"), last.end()
    acked |= last.acks()
    settle([watcher])
    written = collections.Counter(op[1]["xt/id"] for tx in watcher.tx_log() for op in tx.ops if op[0] == "put")
    assert set(acked) == {f"post/{n}" for n in range(1, number + 1)}
    lost, doubled = set(acked) - set(written), [id for id, times in written.items() if times > 1]
    assert not lost and not doubled and all(watcher.tx(tx_id).committed for tx_id, _ in acked.values())
    assert watcher.verify() == watcher.latest_tx.tx_id
    say(f"killed {kills} times: {len(acked)} acknowledged, {len(lost)} lost, {len(doubled)} applied twice (asked 0, "
        f"0); seed {seed}")


def test_postgres_stopped_at_once_and_started_again_under_load(tmp_path, size, say):
    """Without this, an update of the database would cost messages."""
    crashes, delays, refused, answered = size(3, 20), [], [], [0]
    acked, stopped = [[], []], threading.Event()
    with postgres.Postgres() as cluster, contextlib.ExitStack() as opened:
        nodes = [opened.enter_context(contextlib.closing(store.open(cluster.url, index=tmp_path / f"{n}.db")))
                 for n in range(2)]

        def write(node, ids, name):
            while not stopped.is_set():
                id = f"{name}/{len(ids)}"
                try:
                    tx = node.submit_tx([match(id, None), put({"xt/id": id})])
                    ids.append((id, time.monotonic()))
                    if not tx.committed:
                        assert node.db().entity(id), "the try before was in doubt, and is there"
                except store.UnreachableError as error:
                    refused.append(error)

        def read():
            while not stopped.is_set():
                nodes[0].db().entity("0/0")
                answered[0] += 1
                time.sleep(0.005)
        threads = [threading.Thread(target=write, args=(node, acked[n], n))
                   for n, node in enumerate(nodes)] + [threading.Thread(target=read)]
        [thread.start() for thread in threads]
        for _ in range(crashes):
            time.sleep(0.4)
            before = answered[0]
            cluster.crash()
            time.sleep(0.3)
            eventually(lambda: answered[0] > before)   # reads go on
            cluster.start()
            back = time.monotonic()
            eventually(lambda: all(ids and ids[-1][1] > back for ids in acked), 60)
            delays.append(time.monotonic() - back)
        stopped.set(), [thread.join() for thread in threads]
        tx_id = settle(nodes)
        written = collections.Counter(op[1]["xt/id"] for tx in nodes[1].tx_log() for op in tx.ops if op[0] == "put")
        ids = {id for side in acked for id, _ in side}
        lost, doubled = ids - set(written), [id for id, times in written.items() if times > 1]
        assert not lost and not doubled and nodes[0].verify() == tx_id
    assert max(delays) < 10 * 5
    say(f"PostgreSQL crashed {crashes} times under {len(ids)} acknowledged transactions: {len(lost)} lost, "
        f"{len(doubled)} doubled (asked 0, 0); both servers wrote again within {max(delays):.1f} s (asked 5); "
        f"{answered[0]} reads answered meanwhile, {len(refused)} writes refused")


def test_a_server_cut_off_reads_on_refuses_in_time_and_recovers(join, log_url, tcp, size, seed, say):
    """Without this, a loose cable would stop a server for good, or make it promise what it cannot keep."""
    gate, choose = tcp(), random.Random(seed)
    cut, other = join(url=gate.url(log_url)), join()
    cut.submit_tx([put({"xt/id": "before"})])
    refusals, healings = [], []
    for turn in range(size(2, 30)):
        gate.cut()
        begun, until = time.monotonic(), time.monotonic() + (6 if turn == 0 else choose.uniform(1, size(2, 60)))
        missed = other.submit_tx([put({"xt/id": f"meanwhile {turn}"})])
        while time.monotonic() < until:
            assert cut.db().entity("before"), "reads go on"
            try:
                sent = time.monotonic()
                cut.submit_tx([put({"xt/id": f"cut {turn}"})])
            except store.UnreachableError as error:
                refusals.append(time.monotonic() - sent)
                assert "PostgreSQL takes no transactions" in str(error)
                assert cut.cut_off and not other.cut_off
        gate.heal()
        healed = time.monotonic()
        cut.await_tx(missed.tx_id, 30)
        cut.submit_tx([put({"xt/id": f"after {turn}"})])
        healings.append(time.monotonic() - healed)
        settle([cut, other])
        eventually(lambda: cut.cut_off is None)
    assert refusals and max(refusals) < 10 * 5 and max(healings) < 10 * 3
    say(f"cut off {len(healings)} times: {len(refusals)} writes refused after at most {max(refusals):.1f} s (asked 5), "
        f"converged {max(healings):.1f} s after healing (asked 3), states equal; seed {seed}")


def pull(cable, cut, other, watcher, until):
    """Cuts one peer off until something is so. Returns the seconds from healing until it has what it missed, and
    writes."""
    cable.cut()
    reads, acks = len(cut.reads()), len(other.acks())
    until()
    # one reads on, the other writes on
    eventually(lambda: len(cut.reads()) > reads + 10 and len(other.acks()) > acks + 10)
    missed = watcher.submit_tx([put({"xt/id": watcher.new_id()})]).tx_id
    assert cut.reads()[-1] < missed
    cable.heal()
    healed, acks = time.monotonic(), len(cut.acks())
    eventually(lambda: cut.reads()[-1] >= missed and len(cut.acks()) > acks, 60, lambda: "".join(cut.said[-20:]))
    return time.monotonic() - healed


def test_a_cable_that_is_pulled_stops_nobody_else_and_is_made_good(cables, tmp_path, size, seed, say):
    """The same with two servers in network namespaces of their own: the kernel drops their packets."""
    choose, healings, addresses = random.Random(seed), [], [cable.address for cable in cables]
    with contextlib.ExitStack() as opened:
        cluster = opened.enter_context(postgres.Postgres(port=free_port(), listen_addresses=",".join(addresses),
                                                         trusted=addresses))
        watcher = opened.enter_context(contextlib.closing(store.open(cluster.url, index=tmp_path / "watcher.db")))
        watcher.submit_tx([put({"xt/id": "seen by all"})])
        peers = []
        for n, cable in enumerate(cables):
            url = cluster.url.replace(cluster.place, f"host={cable.address}&port={cluster.port}")
            peers.append(Peer(url, tmp_path / f"peer{n}.db", "live", n, enter=cable.enter))
            opened.callback(peers[-1].end)
        [peer.heard("ack") for peer in peers]
        for turn in range(size(2, 30)):
            n, dark_s = turn % 2, choose.uniform(1, size(2, 60))
            until = functools.partial(peers[n].heard, "refused",
                                      60) if turn == 0 else functools.partial(time.sleep, dark_s)
            healings.append(pull(cables[n], peers[n], peers[1 - n], watcher, until))
        [peer.process.terminate() for peer in peers]
        [peer.heard("closed") for peer in peers]
        indexes = [store.open(cluster.url, index=tmp_path / f"peer{n}.db") for n in range(2)]
        [opened.enter_context(contextlib.closing(index)) for index in indexes]
        settle([watcher, *indexes])
        written = {op[1]["xt/id"]: tx.tx_id for tx in watcher.tx_log() for op in tx.ops}
        acked = {id: tx_id for peer in peers for id, (tx_id, _) in peer.acks().items()}
        assert acked and acked.items() <= written.items()
    refused = [float(line.split()[1]) for peer in peers for line in peer.said if line.startswith("refused")]
    assert max(refused) < 10 * 5 and max(healings) < 10 * 3
    say(f"a cable pulled {len(healings)} times under {len(acked)} acknowledged transactions: 0 lost, {len(refused)} "
        f"writes refused after at most {max(refused):.1f} s (asked 5), converged {max(healings):.1f} s after healing "
        f"(asked 3), states equal, both servers ended when told; seed {seed}")


# ── Alike ──────────────────────────────────────────────────────────────────────────────────────────────────────

def random_ops(choose, number):
    ids = [f"e{n}" for n in range(20)]

    def one():
        id, moment = choose.choice(ids), EPOCH + choose.randrange(1000) * dt.timedelta(days=1)
        kind = choose.randrange(10)
        document = {"xt/id": id, "n": number, "set": {"b", "a", choose.random()},
                    "ref": uuid.UUID(int=choose.getrandbits(128)), "more": [1, 2.5, None]}
        if kind < 6:
            return put(document, *[(), (moment,), (moment, moment + dt.timedelta(days=9))][choose.randrange(3)])
        return delete(id) if kind < 8 else evict(id) if kind == 8 else match(id, None)
    return [one() for _ in range(choose.randint(1, 4))]


def tables(path):
    """Everything in an index file but its statistics and the numbers of UUIDs: a server that came after an evict
    never saw some of them."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        names = [name for name, in db.execute("select name from sqlite_schema where type = 'table' and name not like "
                                              "'sqlite_%' order by name")]
        held = {name: db.execute(f"select * from {name}").fetchall()
                for name in names if name not in ("attributes", "ids")}
        attributes, ids = dict(db.execute("select a, name from attributes")), dict(db.execute("select * from ids"))
    held["facts"] = sorted((p, attributes[a], repr(ids.get(v, v)), k, e, n, d) for p, a, v, k, e, n, d in held["facts"])
    return held


def test_two_servers_agree_byte_for_byte(join, log_url, tmp_path, size, seed, say):
    """Sets, time zones and locales differ from process to process. The files must not."""
    count_, choose = size(600, 10_000), random.Random(seed)
    worlds = [{"PYTHONHASHSEED": "1", "TZ": "America/St_Johns", "LC_ALL": "C"},
              {"PYTHONHASHSEED": "2", "TZ": "Asia/Kathmandu", "LC_ALL": "C.UTF-8"}]
    writers = [join(), join()]
    peers = [Peer(log_url, tmp_path / f"peer{n}.db", "follow", count_, **world) for n, world in enumerate(worlds)]
    for number in range(count_):
        writers[number % 2].submit_tx(random_ops(choose, number))
    for peer in peers:
        peer.heard("closed", 60)
        peer.end()
    settle(writers)
    [writer.close() for writer in writers]
    one, two, *others = [tables(tmp_path / name) for name in ("peer0.db", "peer1.db", "server0.db", "server1.db")]
    assert len(one["log"]) == count_ + 1 and one["facts"] and one["log"] == two["log"]
    differing = [name for name in one for other in (two, *others) if one[name] != other[name]]
    assert not differing
    states = sum(row[6] == other[6] for row, other in zip(one["log"][::100], two["log"][::100]))
    say(f"{count_} random transactions by 2 servers, followed under two hash seeds, time zones and locales: {states} "
        f"of {len(one['log'][::100])} states equal at every 100th, {len(one)} tables of 4 files equal byte for byte "
        f"(asked: 10,000, all equal); seed {seed}")


@pytest.mark.parametrize("ahead_s", [-5, 5])
def test_one_reads_what_one_wrote_though_clocks_differ(join, size, say, ahead_s):
    """Without this, a server five seconds behind its database would not see its own write."""
    node, other, turns, found = join(), join(), size(60, 1_000), 0
    node._clock = lambda: time.time_ns() // 1000 + ahead_s * 1_000_000
    for number in range(turns):
        node.submit_tx([put({"xt/id": number})])
        other.submit_tx([put({"xt/id": f"other {number}"})])
        found += node.db().entity(number) is not None and other.db().entity(f"other {number}") is not None
    assert found == turns
    say(f"clock {ahead_s:+} s against PostgreSQL: {found} of {turns} reads found what was just written (asked 1,000 of "
        "1,000)")


def test_the_bell_does_not_jam_the_house(join, cluster, monkeypatch, size, say):
    """A listener that idles in a transaction would fill the queue of notifications, and then nobody could notify."""
    import psycopg
    one, two, count = join(), join(), size(200, 100_000)

    def p99_ms():
        took = []
        for number in range(count):
            begun = time.perf_counter()
            one.submit_tx([put({"xt/id": number})])
            took.append(time.perf_counter() - begun)
        return sorted(took)[count * 99 // 100] * 1000
    ringing_ms = p99_ms()
    settle([one, two])
    with psycopg.connect(cluster.url) as connection:
        used, = connection.execute("select pg_notification_queue_usage()").fetchone()
        idle, = connection.execute("select count(*) from pg_stat_activity where state = 'idle in transaction' and "
                                   "application_name like 'store %'").fetchone()
    assert used < 0.01 and idle == 0
    monkeypatch.setattr(store_postgres, "_APPEND", store_postgres._APPEND.replace("; notify", "; select 1 as"))
    silent_ms = p99_ms()
    settle([one, two])
    say(f"queue of notifications used to {used:.2%} after {count} (asked: below 1 %); append p99 {ringing_ms:.1f} ms "
        f"with NOTIFY, {silent_ms:.1f} ms without")


def test_increments_by_match_on_two_servers_lose_none(join, size, say):
    """Without this, two people who press at once would count once."""
    nodes, turns, aborts = [join(), join()], size(15, 125), [0]
    nodes[0].submit_tx([put({"xt/id": "n", "n": 0})])
    settle(nodes)

    def work(node):
        for _ in range(turns):
            while True:
                now = node.db().entity("n")
                if node.submit_tx([match("n", now), put(now | {"n": now["n"] + 1})]).committed:
                    break
                aborts[0] += 1
    threads = [threading.Thread(target=work, args=[node]) for node in nodes for _ in range(4)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    settle(nodes)
    assert [node.db().entity("n")["n"] for node in nodes] == [8 * turns] * 2
    say(f"{8 * turns} increments by 8 threads on 2 servers: {8 * turns} counted, 0 lost (asked 0), {aborts[0]} retries")


# ── A server that cannot index ─────────────────────────────────────────────────────────────────────────────────────

def test_a_server_whose_disk_is_full_says_so_and_comes_back(join, caplog):
    """It served what it had known before for ever, and nothing told its readers that this was the past."""
    one, two = join(), join()
    one.submit_tx([put({"xt/id": "a", "v": 1})])
    settle([one, two])
    begin = two._file.begin

    def full():
        raise sqlite3.OperationalError("database or disk is full")
    two._file.begin = full
    one.submit_tx([put({"xt/id": "a", "v": 2})])
    eventually(lambda: two.cut_off)
    assert two.cut_off == ("This server cannot index what the log has: what it shows is of before "
                           "(database or disk is full)")
    assert two.db().entity("a")["v"] == 1 and one.cut_off is None and not two.status()["failed"]
    appears = "cannot index.*The transaction is in the log, and will appear"
    with pytest.raises(store.UnreachableError, match=appears) as told:
        two.submit_tx([put({"xt/id": "b"})])
    assert told.value.in_doubt
    two._file.begin = begin
    eventually(lambda: two.cut_off is None)
    assert settle([one, two], 3) == 3 and two.db().entity("a")["v"] == 2 and two.db().entity("b") and two.verify() == 3
    assert "this server cannot index" in caplog.text


def test_a_rollback_that_fails_hides_no_reason(join):
    """The server said that no transaction was active, and not that its disk was full."""
    one, two = join(), join()
    one.submit_tx([put({"xt/id": "a", "v": 1})])
    settle([one, two])

    def fail(reason):
        raise sqlite3.OperationalError(reason)
    two._file.begin, two._file.undo = lambda: fail("database or disk is full"), lambda: fail("cannot rollback")
    one.submit_tx([put({"xt/id": "a", "v": 2})])
    eventually(lambda: two.status()["failed"])
    assert "database or disk is full" in two.cut_off and "cannot rollback" not in two.cut_off
    assert two.db().entity("a")["v"] == 1
    with pytest.raises(store.ClosedError, match="disk is full"):
        two.submit_tx([put({"xt/id": "b"})])


@pytest.mark.parametrize("where", ["_check_server", "_follow", "_sought"])
def test_a_log_that_goes_while_it_is_opened_is_unreachable(log_url, tmp_path, monkeypatch, where):
    """The driver's own error came through, which no program of ours expects."""
    import psycopg
    store.open(log_url, index=tmp_path / "one.db").close()

    def gone(*_):
        raise psycopg.OperationalError("the server closed the connection unexpectedly")
    if where == "_sought":
        monkeypatch.setattr(store_postgres, "_first_row", gone)
    else:
        monkeypatch.setattr(store_postgres.PostgresLog, where, gone)
    for _ in range(2):                    # the first one has let go of its file
        with pytest.raises(store.UnreachableError, match="the server closed the connection"):
            store.open(log_url, index=tmp_path / "one.db")
    monkeypatch.undo()
    store.open(log_url, index=tmp_path / "one.db").close()


def test_a_log_that_is_locked_or_not_there_is_unreachable(log_url, tmp_path):
    """Without this, a program could not tell a log that is out of reach from one that is damaged."""
    import psycopg
    store.open(log_url, index=tmp_path / "one.db").close()
    with psycopg.connect(log_url) as held:
        held.execute("lock table store_log in access exclusive mode")
        with pytest.raises(store.UnreachableError, match="timeout"):
            store.open(log_url, index=tmp_path / "one.db")
    with pytest.raises(store.UnreachableError, match="cannot be opened"):
        store.open(f"postgresql://127.0.0.1:{free_port()}/nobody", index=tmp_path / "one.db")
    store.open(log_url, index=tmp_path / "one.db").close()


# ── The wrong log ──────────────────────────────────────────────────────────────────────────────────────────────

def test_a_log_on_postgres_needs_an_index(log_url):
    """Without this, the first thing to read would be a trace."""
    with pytest.raises(store.StoreError, match="index="):
        store.open(log_url)
    with pytest.raises(store.StoreError, match="is a file"):
        store.open(":memory:", index="x")


PACKAGE = """
import sys
sys.path.insert(0, sys.argv[1])
from application import store
node = store.open(":memory:")
node.submit_tx([store.put({"xt/id": "a"})])
node.close()
assert not [name for name in sys.modules if "store_postgres" in name or "psycopg" in name], "a file needs neither"
if len(sys.argv) > 2:
    node = store.open(sys.argv[2], index=":memory:")
    node.submit_tx([store.put({"xt/id": "a"})])
    node.close()
assert "store" not in sys.modules, "there is one store, the package's"
print("done")
"""


def test_the_store_may_be_part_of_somebodys_package(tmp_path, log_url):
    """A copy inside a package would not find the log on PostgreSQL,
    or would bring a second store with other classes."""
    (tmp_path / "application").mkdir()
    for name in ("store.py", "store_postgres.py"):
        shutil.copy(ROOT / name, tmp_path / "application")

    def run(*address):
        ran = subprocess.run([sys.executable, "-c", PACKAGE, tmp_path, *address], cwd=tmp_path, capture_output=True,
                             text=True, timeout=60)
        return ran.stdout.strip() or ran.stderr.strip().splitlines()[-1]

    assert run() == run(log_url) == "done"
    (tmp_path / "application" / "store_postgres.py").unlink()
    assert run() == "done", "a store in a file is one file to copy"
    assert "needs store_postgres.py beside" in run(log_url)


def test_an_index_is_no_store_of_its_own(join, log_url, tmp_path):
    """A write into an index alone once made it unfit for its log, and no other server ever saw that write."""
    node = join()
    node.submit_tx([put({"xt/id": "a"})])
    node.backup(tmp_path / "copy.db")
    owner, path = node.status()["store"], tmp_path / "server0.db"
    node.close()
    for index in (path, tmp_path / "copy.db"):
        held = tables(index)
        with pytest.raises(store.LockedError) as refused:
            store.open(index)
        assert str(refused.value) == (f"{index} is a server's index of the log of store {owner}, which is on "
                                      "PostgreSQL. Open that log, with this file as its index.")
        assert tables(index) == held
        assert settle([join(index=index)]) == 1
    with contextlib.closing(sqlite3.connect(tmp_path / "older.db")) as older:      # made when no index was marked
        sqlite3.connect(tmp_path / "copy.db").backup(older)
        older.execute("pragma application_id = 0")
    join(index=tmp_path / "older.db").close()
    with pytest.raises(store.LockedError):
        store.open(tmp_path / "older.db")


def test_closing_twice_is_closing_once(join):
    """A second close raised OSError here, and does nothing on a store in a file."""
    node = join()
    node.close()
    node.close()
    with pytest.raises(store.ClosedError):
        node.db()


def test_a_foreign_an_emptied_and_an_older_log_are_refused_with_both_ids(join, log_url, cluster, tmp_path, say):
    """Without this, a server pointed at the wrong database would mix two communities, or unsay what was said."""
    import psycopg
    node = join()
    for number in range(5):
        node.submit_tx([put({"xt/id": number})])
    mine, path = node.status()["store"], tmp_path / "server0.db"
    node.close()
    foreign_url, empty_url = postgres.empty_schema(cluster.url), postgres.empty_schema(cluster.url)
    foreign = join(url=foreign_url)
    with pytest.raises(store.CorruptError, match=f"{mine}.*{foreign.status()['store']}"):
        store.open(foreign_url, index=path)
    with pytest.raises(store.CorruptError, match=f"{mine} up to transaction 5.*none"):
        store.open(empty_url, index=path)
    with psycopg.connect(empty_url) as connection:
        assert connection.execute("select to_regclass('store_log')").fetchone()[0] is None, "nothing was written"
    with psycopg.connect(log_url) as connection:
        connection.execute("delete from store_log where tx_id > 3")
        connection.execute("delete from store_documents where tx_id > 3")
    with pytest.raises(store.CorruptError, match=f"{mine} up to transaction 5.*newest is 3"):
        store.open(log_url, index=path)
    other = join()
    other.submit_tx([put({"xt/id": "instead"})]), other.submit_tx([]), other.submit_tx([])
    with pytest.raises(store.CorruptError, match=f"{mine} up to transaction 5.*newest is 6"):
        store.open(log_url, index=path)
    assert other.latest_tx.tx_id == 6 and foreign.latest_tx is None
    say("a foreign, an emptied, an older and another log: each refused with both ids, 0 rows written (asked 0)")


def test_a_log_that_is_changed_under_a_running_server_stops_it(join, log_url):
    """Without this, a server would go on with a history that the others do not have."""
    import psycopg
    node, other = join(), join()
    node.submit_tx([put({"xt/id": 1})])
    settle([node, other])
    with psycopg.connect(log_url) as connection:
        connection.execute("insert into store_log values (2, 9, %s, %s, 0, null)", (store.pack([]), b"no such hash"))
    eventually(lambda: other.status()["failed"])
    with pytest.raises(store.ClosedError, match="Transaction 2 of the log does not have the hash"):
        other.submit_tx([put({"xt/id": 2})])
    assert other.db().entity(1) and other.latest_tx.tx_id == 1


def test_settings_that_break_promises_are_warned_of(cluster, log_url, tmp_path, caplog, say):
    """Without this, somebody's fast database would turn out to be one that forgets."""
    with contextlib.closing(store.open(log_url, index=tmp_path / "one.db")):
        warned = [record.message for record in caplog.records if "fsync = off" in record.message]
    assert len(warned) == 1
    say(f"warned: {warned[0]}")


def test_a_proxy_that_pools_transactions_is_refused(join, log_url, tcp, say):
    """Behind such a proxy, LISTEN does nothing and says nothing."""
    begun = time.monotonic()
    with pytest.raises(store.StoreError, match="pools transactions"):
        join(url=tcp(is_deaf=True).url(log_url))
    took = time.monotonic() - begun
    assert took < 20
    say(f"refused after {took:.1f} s (asked: 2)")


def test_postgres_that_is_not_there_is_said_in_a_sentence_without_the_password(tmp_path):
    """Without this, a typing mistake in an address would be a trace, with a secret in it."""
    with pytest.raises(store.UnreachableError, match="cannot be opened") as refused:
        store.open("postgresql://me:hush-hush@127.0.0.1:1/none", index=tmp_path / "x.db")
    assert "hush-hush" not in str(refused.value)
