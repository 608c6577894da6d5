"""Several servers follow one log on PostgreSQL: the same transactions, in the same order, decided alike, and none missed."""
import threading
import time

import pytest

import store
from store import call, delete, evict, match, put


def settle(nodes, tx_id=None, timeout_s=20):
    """Waits until all have indexed up to this transaction, or to the newest that any has; returns their states, which must agree."""
    tx_id = tx_id or max(node.status()["tx_id"] for node in nodes)
    for node in nodes:
        node.await_tx(tx_id, timeout_s)
    states = {node.status()["state"] for node in nodes}
    assert len(states) == 1, "the servers went different ways"
    return tx_id


def count(ctx, id):
    """A transaction function: one more."""
    return [put({"xt/id": id, "n": (ctx.db.entity(id) or {"n": 0})["n"] + 1})]


# ── One log ────────────────────────────────────────────────────────────────────────────────────────────────────

def test_what_one_server_puts_the_other_hears(join):
    """Without this, two people on two servers would talk to nobody."""
    one, two = join(), join()
    heard = []
    two.on_tx(lambda tx: heard.append((tx.tx_id, tx.ops)))
    tx = one.submit_tx([put({"xt/id": "a", "said": ["hello", "there"]})])
    assert one.db().entity("a") == {"xt/id": "a", "said": ["hello", "there"]}, "one reads what one wrote"
    assert two.await_tx(tx.tx_id, 10)[:2] == tx[:2]
    assert two.db().entity("a") == one.db(tx.tx_id).entity("a") == {"xt/id": "a", "said": ["hello", "there"]}
    two.submit_tx([delete("a")])
    settle([one, two])
    assert one.db().entity("a") is None
    end = time.monotonic() + 10
    while len(heard) < 2 and time.monotonic() < end:
        time.sleep(0.01)
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
    outcomes = [node.submit_tx([put({"xt/id": f"before {n}"}), call("say", n)]).committed for n, node in enumerate([one, two, three] * 5)]
    outcomes += [node.submit_tx([call("odd")]).committed for node in (two, one)]
    settle([one, two, three])
    said = [[node.db().entity(n) for n in range(15)] for node in (one, two, three)]
    assert said[0] == said[1] == said[2]
    assert [document is not None for document in said[0]] == outcomes[:15], "whoever submitted was told what became of it"
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
    one.submit_tx([put(secret | {"more": 1}), evict("secret"), put({"xt/id": "secret", "text": "new"}), evict("secret too")])
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


def test_two_servers_write_at_once(join):
    """Without this, numbers would be given twice or skipped."""
    nodes = [join({"count": count}), join({"count": count})]

    def work(node, name):
        for number in range(25):
            node.submit_tx([put({"xt/id": f"{name} {number}"}), call("count", "all")])
    threads = [threading.Thread(target=work, args=(node, f"{n} {k}")) for n, node in enumerate(nodes) for k in range(4)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert settle(nodes) == 200
    assert [node.db().entity("all")["n"] for node in nodes] == [200, 200]
    assert [tx.tx_id for tx in nodes[0].tx_log()] == list(range(1, 201))


# ── The wrong log ──────────────────────────────────────────────────────────────────────────────────────────────

def test_a_log_on_postgres_needs_an_index(log_url):
    """Without this, the first thing to read would be a trace."""
    with pytest.raises(store.StoreError, match="index="):
        store.open(log_url)
    with pytest.raises(store.StoreError, match="is a file"):
        store.open(":memory:", index="x")


def test_closing_twice_is_closing_once(join):
    """A second close raised OSError, where that of a store in a file does nothing."""
    node = join()
    node.close()
    node.close()
    with pytest.raises(store.ClosedError):
        node.db()
