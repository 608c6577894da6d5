"""What the tutorial takes for granted: typed transactions, retries, queues, tasks,
and a system that starts and stops in order."""
import asyncio
import datetime as dt
import os
import re
import stat
import subprocess
import sys
import time
import uuid
from types import SimpleNamespace

import pytest
import voluptuous

import biff
import store
from conftest import ROOT

UTC = dt.timezone.utc
SCHEMA = {
    "person": {"xt/id": uuid.UUID, "person/name": voluptuous.All(str, voluptuous.Length(max=20)),
               voluptuous.Optional("person/tags"): {str}, voluptuous.Optional("person/age"): int,
               voluptuous.Optional("person/since"): dt.datetime, voluptuous.Optional("person/friend"): uuid.UUID},
}
ANN = uuid.UUID(int=1)
WITHOUT_WEB = [biff.use_config, biff.use_store, biff.use_queues, biff.use_tx_listener, biff.use_tasks]


def arguments(tmp_path, *plugins, **more):
    return {"biff/name": "eelchat", "biff/plugins": [{"schema": SCHEMA}, *plugins],
            "biff/arguments": {"data": str(tmp_path), "port": "0"}} | more


@pytest.fixture
async def started(tmp_path):
    """`await started(plugin, …)` is a running system without a web server."""
    systems = []

    async def start(*plugins, **more):
        systems.append(await biff.start_system(WITHOUT_WEB, arguments(tmp_path, *plugins, **more)))
        return systems[-1]
    yield start
    for system in systems:
        await biff.stop_system(system)


@pytest.fixture
async def ctx(started, monkeypatch):
    monkeypatch.setattr(biff.tx, "RETRY_S", 0.002)
    return await started()


def person(**given):
    return {"db/doc-type": "person", "xt/id": ANN} | {key.replace("__", "/"): value for key, value in given.items()}


async def test_an_attribute_that_a_type_declares_is_no_slip_in_the_log(ctx, caplog):
    """Without this, the first page of a new chat would complain of every attribute that nobody has used yet."""
    await biff.submit_tx(ctx, [person(person__name="Ann")])
    with caplog.at_level("INFO", logger="store"):
        for a in "person/since", "person/sinc", "person/nobody-has-this":
            assert ctx["biff/node"].db().q({"find": "?e", "where": [["?e", a]]}) == []
    assert [record.getMessage().split()[-1] for record in caplog.records] == ["person/sinc", "person/nobody-has-this"]


async def after(ctx, *txs):
    for tx in txs:
        await biff.submit_tx(ctx, tx)
    return ctx["biff/node"].db().entity(ANN)


# ── Transactions ─────────────────────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize("given, wanted", [
    ({"person/tags": ("db/union", "b", "c")}, {"person/tags": {"a", "b", "c"}}),
    ({"person/tags": ("db/difference", "a")}, {"person/tags": set()}),
    ({"person/age": ("db/add", 2, 3)}, {"person/age": 35}),
    ({"person/age": ("db/default", 9)}, {"person/age": 30}),
    ({"person/age": biff.DISSOC}, {"person/age": None}),
    ({"person/name": "Anna"}, {"person/name": "Anna", "person/age": 30}),
])
async def test_update_and_merge_work_out_special_values_over_what_is_there(ctx, given, wanted):
    """Each page would read, change and write for itself, and forget the match."""
    document = await after(ctx, [person(person__name="Ann", person__tags={"a"}, person__age=30)],
                           [person() | given | {"db/op": "update"}])
    assert {key: document.get(key) for key in wanted} == wanted
    again = await after(ctx, [person(person__name="Ann", person__tags={"a"}, person__age=30)],
                        [person() | given | {"db/op": "merge"}])
    assert again == document


async def test_merge_makes_what_is_not_there_and_special_values_begin_with_nothing(ctx):
    """The first message of a counter or a set would need a case of its own."""
    document = await after(ctx, [person(person__name="Ann", person__age=("db/add", 1), person__tags=("db/union", "x"))
                                 | {"db/op": "merge"}])
    assert document == {"xt/id": ANN, "person/name": "Ann", "person/age": 1, "person/tags": {"x"}}


async def test_what_a_person_types_is_never_an_instruction(ctx):
    """A message that says db/now would become a date, one that says db/dissoc would vanish."""
    for text in ("db/now", "db/dissoc", "db.id/x", "db/add"):
        assert (await after(ctx, [person(person__name=text) | {"db/op": "merge"}]))["person/name"] == text


async def test_temporary_ids_are_one_id_in_a_transaction_and_now_is_one_moment(ctx):
    """A membership would point at a community that does not exist."""
    friend = {"db/doc-type": "person", "xt/id": biff.temp_id("friend"), "person/name": "Bob", "person/since": biff.NOW}
    document = await after(ctx,
                           [person(person__name="Ann", person__friend=biff.temp_id("friend"), person__since=biff.NOW),
                            friend])
    bob = ctx["biff/node"].db().entity(document["person/friend"])
    assert bob["person/name"] == "Bob" and bob["person/since"] == document["person/since"]


async def test_upsert_finds_one_or_makes_one_and_ten_at_once_make_one(ctx):
    """Joining twice with two fast clicks would make two memberships."""
    upsert = {"db/doc-type": "person", "db.op/upsert": {"person/name": "Ann"}, "person/tags": ("db/default", set()),
              "person/age": ("db/add", 1)}
    await biff.submit_tx(ctx, [{"db/doc-type": "person", "person/name": "Zoe", "person/age": 0}])
    tried = await asyncio.gather(*(biff.submit_tx(ctx, [upsert]) for _ in range(10)), return_exceptions=True)
    done = [tx for tx in tried if not isinstance(tx, biff.ContentionError)]
    found = biff.lookup_all(ctx["biff/node"].db(), "person/name", "Ann")
    assert len(found) == 1 and found[0]["person/age"] == len(done) > 1


async def test_a_lost_race_is_run_again_and_nothing_is_lost(ctx):
    """Two admins who change the same document would overwrite each other in silence."""
    await biff.submit_tx(ctx, [person(person__name="Ann", person__age=0)])
    add = [person(person__age=("db/add", 1)) | {"db/op": "update"}]
    txs = await asyncio.gather(*(biff.submit_tx(ctx, add) for _ in range(3)))
    assert all(tx.committed for tx in txs) and ctx["biff/node"].db().entity(ANN)["person/age"] == 3


async def test_who_loses_five_times_is_told_and_retry_false_loses_once(ctx, monkeypatch):
    """A transaction that can never win would spin for ever, or be lost without a word."""
    await biff.submit_tx(ctx, [person(person__name="Ann", person__age=0)])
    tried, fresh = [], ctx["biff/node"].submit

    async def submit(ops):
        tried.append(ops)
        await fresh([store.put({"xt/id": ANN, "person/name": f"not {len(tried)}"})])
        return await fresh(ops)
    monkeypatch.setattr(ctx["biff/node"], "submit", submit)
    update = [person(person__age=1) | {"db/op": "update"}]
    with pytest.raises(biff.ContentionError, match="at each of 5 attempts. Nothing was written"):
        await biff.submit_tx(ctx, update)
    assert len(tried) == 5
    assert (await biff.submit_tx(ctx, update, retry=False)).committed is False and len(tried) == 6


@pytest.mark.parametrize("tx, error, words", [
    ([person(person__name=7)], biff.SchemaError, r"^person: person/name: expected str \(operation 1 of 1\). Nothing "
                                                 r"was written.$"),
    ([person(person__name="x" * 21)], biff.SchemaError, "person/name: length of value must be at most 20"),
    ([person()], biff.SchemaError, "person/name: required key not provided"),
    ([person(person__name="A", person__colour="red")], biff.SchemaError, "person/colour: extra keys not allowed"),
    ([person(person__name="A", person__age=("db/add", 1))], biff.TransactionError, "only update and merge know"),
    ([person(person__name="A") | {"db/op": "create"}], biff.TransactionError, "create a person that exists"),
    ([person(person__name="A") | {"db/op": "update", "xt/id": uuid.UUID(int=9)}], biff.TransactionError,
     "update a person that does not exist"),
    ([{"person/name": "A"}], biff.TransactionError, "needs db/doc-type"),
    ([{"db/op": "delete"}], biff.TransactionError, "needs xt/id"),
    ([person(person__name="A") | {"db/typo": 1}], biff.TransactionError, "db/typo is not an instruction"),
    ([person(person__name="A") | {"db/op": "upsert"}], biff.TransactionError, "db/op is 'upsert'"),
    ([person(person__name="A") | {"db/doc-type": "ghost"}], biff.TransactionError, "No plugin has a schema for ghost"),
    ([{"db/doc-type": "person", "person/name": ("db/unique", "Ann")}], biff.ConstraintError, "must be unique"),
])
async def test_what_does_not_fit_is_refused_in_a_sentence_and_nothing_is_written(ctx, tx, error, words):
    """A document of the wrong shape breaks every page that reads it, for ever: nothing is forgotten here."""
    before = await biff.submit_tx(ctx, [person(person__name="Ann")])
    with pytest.raises(error, match=words):
        await biff.submit_tx(ctx, tx)
    assert ctx["biff/node"].latest_tx.tx_id == before.tx_id


async def test_a_schema_error_shows_no_value(ctx):
    """Someone's text, or a secret, would stand in the log."""
    with pytest.raises(biff.SchemaError) as caught:
        await biff.submit_tx(ctx, [person(person__name="a secret that is far too long")])
    assert "secret" not in str(caught.value)
    assert (caught.value.doc_type, caught.value.attribute) == ("person", "person/name")


async def test_nothing_to_do_submits_nothing_and_store_operations_pass_through(ctx):
    """An empty transaction would still cost a sync, and wake every listener."""
    assert await biff.submit_tx(ctx, []) is None and await biff.submit_tx(ctx, lambda ctx: []) is None
    assert (await after(ctx, [store.put({"xt/id": ANN, "any/thing": biff.NOW})]))["any/thing"].tzinfo is not None
    assert await after(ctx, [{"db/op": "delete", "xt/id": ANN}]) is None


async def test_lookups_take_pairs_and_give_a_document_an_id_or_all(ctx):
    """Every page would spell the same query."""
    await biff.submit_tx(ctx, [person(person__name="Ann", person__age=3),
                               {"db/doc-type": "person", "person/name": "Bob", "person/age": 3}])
    db = ctx["biff/node"].db()
    assert biff.lookup(db, "person/age", 3, "person/name",
                       "Ann")["xt/id"] == biff.lookup_id(db, "person/name", "Ann") == ANN
    assert biff.lookup(db, "person/name", "Ann", pattern=["person/age"]) == {"person/age": 3}
    assert len(biff.lookup_all(db, "person/age", 3)) == len(biff.lookup_id_all(db, "person/age", 3)) == 2
    assert biff.lookup(db, "person/name", "Eve") is None and biff.lookup_id(db, "person/name", "Eve") is None


# ── Listeners, queues, tasks ─────────────────────────────────────────────────────────────────────────────────

async def until(is_so, timeout_s=60):
    async with asyncio.timeout(timeout_s):
        while not is_so():
            await asyncio.sleep(0.005)


async def test_one_plugin_that_fails_keeps_no_other_from_hearing_every_transaction(started):
    """One bad feed would end realtime for everybody."""
    heard = []

    def fails(ctx, tx):
        raise RuntimeError("a bug")
    ctx = await started({"on_tx": fails},
                        {"on_tx": lambda ctx, tx: heard.append((tx.tx_id, ctx["biff/db"].tx_id >= tx.tx_id))})
    for n in range(5):
        await biff.submit_tx(ctx, [person(person__name=f"{n}")])
    await until(lambda: len(heard) == 5)
    assert heard == [(n, True) for n in range(1, 6)]


async def test_jobs_go_by_priority_survive_an_exception_and_give_results(started):
    """A feed that breaks the fetcher would end all feeds."""
    done, gate = [], asyncio.Event()

    async def consume(ctx):
        await gate.wait()
        done.append(ctx["biff/job"])
        return 1 / ctx["biff/job"]
    ctx = await started({"queues": [{"id": "work", "consumer": consume}]})
    biff.submit_job(ctx, "work", 1)
    await asyncio.sleep(0)
    failing = biff.submit_job(ctx, "work", 0)
    last = biff.submit_job(ctx, "work", 2, 20)
    first = biff.submit_job(ctx, "work", 4, 0)
    gate.set()
    assert await last == 0.5 and await first == 0.25 and done == [1, 4, 0, 2]
    with pytest.raises(ZeroDivisionError):
        await failing
    assert await biff.submit_job_for_result(ctx, "work", 5) == 0.2


async def test_a_full_queue_says_so(monkeypatch, started):
    """A consumer that hangs would fill the memory."""
    monkeypatch.setattr(biff.jobs, "QUEUE_JOBS_MAX", 2)
    ctx = await started({"queues": [{"id": "work", "consumer": lambda ctx: asyncio.sleep(60)}]})
    monkeypatch.setattr(biff.jobs, "DRAIN_S_MAX", 0.01)
    biff.submit_job(ctx, "work", 1), biff.submit_job(ctx, "work", 2)
    with pytest.raises(biff.QueueFullError, match="The queue work holds 2 jobs"):
        biff.submit_job(ctx, "work", 3)


async def test_queues_drain_when_the_system_stops_but_not_for_ever(tmp_path, monkeypatch):
    """A restart would lose the jobs that were seconds from being done, or never end."""
    done = []

    async def consume(ctx):
        await asyncio.sleep(0 if ctx["biff/job"] < 3 else 600)
        done.append(ctx["biff/job"])
    monkeypatch.setattr(biff.jobs, "DRAIN_S_MAX", 0.5)
    ctx = await biff.start_system(WITHOUT_WEB, arguments(tmp_path, {"queues": [{"id": "work", "consumer": consume}]}))
    for job in range(4):
        biff.submit_job(ctx, "work", job)
    await asyncio.wait_for(biff.stop_system(ctx), 60)
    assert done == [0, 1, 2]


async def test_a_task_runs_at_the_start_and_again_after_it_failed(started):
    """One bad run would be the last."""
    runs = []

    async def task(ctx):
        runs.append(ctx["biff/db"].tx_id)
        raise RuntimeError("a bug")
    await started({"tasks": [{"task": task, "schedule": lambda: iter([0, 0.01, 0.01])}]})
    await until(lambda: len(runs) == 3)
    waits = biff.every(100)()
    assert next(waits) == 0 and all(90 <= next(waits) <= 110 for _ in range(100))


# ── The system ───────────────────────────────────────────────────────────────────────────────────────────────

def component(name, told, fails=False):
    async def use(system):
        if fails:
            raise biff.StartError("no")
        told.append(f"{name} up")
        system["biff/stop"].append(lambda: told.append(f"{name} down") or 1 / 0)
        return system
    return use


async def test_components_stop_in_reverse_order_also_when_one_cannot_start_or_stop():
    """A store left open by a port that was taken would be locked for the next start."""
    told = []
    with pytest.raises(biff.StartError):
        await biff.start_system([component("a", told), component("b", told), component("c", told, fails=True)],
                                {"biff/name": "x"})
    assert told == ["a up", "b up", "b down", "a down"]


async def test_a_queue_that_may_be_cut_holds_up_no_end(tmp_path):
    """Without this, one feed that hangs would keep the server from stopping for nine seconds."""
    async def hang(ctx):
        await asyncio.sleep(60)
    ctx = await biff.start_system(WITHOUT_WEB, arguments(tmp_path, {"queues": [
        {"id": "hanging", "consumer": hang, "may-be-cut": True}]}))
    for job in range(3):
        biff.submit_job(ctx, "hanging", job)
    await asyncio.sleep(0)
    begun = time.monotonic()
    await biff.stop_system(ctx)
    assert time.monotonic() - begun < 5, "else it is DRAIN_S_MAX, which is 10 s"


def test_a_text_has_at_most_fifty_links_and_the_rest_stays_text():
    """Without this, fifty messages of the shortest addresses would be a page of five megabytes."""
    pieces = biff.addresses_apart("http://a " * 1_100)
    assert sum(is_address for _, is_address in pieces) == 50
    assert "".join(piece for piece, _ in pieces) == "http://a " * 1_100


def test_a_long_catching_up_says_now_and_then_how_far_it_is_and_can_be_stopped(monkeypatch, capsys):
    """A start of minutes would be silent, or print a line for each of a million transactions and obey no Ctrl-C."""
    now, is_ending = [1000.0], [False]
    monkeypatch.setattr(biff.tx, "time", SimpleNamespace(monotonic=lambda: now[0]))
    progress = biff.tx._progress({"biff/is-ending": lambda: is_ending[0]})
    for done in range(1, 1_001):
        progress(done, 1_000)
        now[0] += biff.tx.PROGRESS_S / 99
    told = [int(done.replace(",", "")) for done in re.findall(r"\] (\S+) of 1,000\n", capsys.readouterr().err)]
    assert 10 <= len(told) <= 12 and told[0] == 1 and told[-1] == 1_000, told
    is_ending[0] = True
    with pytest.raises(biff.StartError, match="Stopped at transaction 7 of 9"):
        progress(7, 9)


def test_a_document_that_is_evicted_while_it_is_looked_up_is_not_found():
    """Without this, the list of sessions failed in the moment in which one of them ended."""
    ended = SimpleNamespace(q=lambda query, *values: [None, {"xt/id": "other"}])
    assert biff.lookup_all(ended, "session/user", 1) == [{"xt/id": "other"}]


async def test_a_setting_comes_from_the_argument_else_the_environment_else_the_file(tmp_path, monkeypatch):
    """A person who sets a thing twice must know which one counts."""
    (tmp_path / "config.toml").write_text("# mine\nport = 1\nhost = '1.1.1.1'\nbase_url = 'https://Chat.example.org/'\n"
                                          "proxies = ['10.0.0.0/8', '127.0.0.1']\n")
    monkeypatch.setenv("EELCHAT_HOST", "2.2.2.2")
    system = await biff.start_system([biff.use_config], {"biff/name": "eelchat",
                                                         "biff/arguments": {"data": str(tmp_path), "port": "3"}})
    config = system["biff/config"]
    assert (config["port"], config["host"], config["base_url"]) == (3, "2.2.2.2", "https://chat.example.org")
    assert [str(network) for network in config["proxies"]] == ["10.0.0.0/8", "127.0.0.1/32"]


async def test_the_first_start_makes_a_secret_that_only_its_owner_reads_and_keeps_it(tmp_path):
    """Tokens and codes are worth nothing if others read it, and everybody signs in again if it changes."""
    start = {"biff/name": "eelchat", "biff/arguments": {"data": str(tmp_path / "new")}}
    first, second = [(await biff.start_system([biff.use_config], dict(start)))["biff/secret"] for _ in range(2)]
    assert first == second and len(first) == 32
    assert stat.S_IMODE((tmp_path / "new" / "secret").stat().st_mode) == 0o600


def modes(folder):
    return {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in folder.iterdir()}


async def test_a_data_folder_that_others_can_enter_is_closed_and_so_are_its_files(tmp_path, capsys):
    """On a shared machine everybody would read what a community writes to each other."""
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "config.toml").write_text("port = 0\n")
    (folder / "config.toml").chmod(0o644)
    old = os.umask(0)
    try:
        system = await biff.start_system(WITHOUT_WEB, arguments(folder))
        await biff.submit_tx(system, [{"db/doc-type": "person", "person/name": "Ann"}])
        found = modes(folder)
        await biff.stop_system(system)
    finally:
        os.umask(old)
    assert found.pop("eelchat.db-bells") == "0o700" and set(found.values()) == {"0o600"}
    assert {"secret", "eelchat.db", "eelchat.db-wal", "config.toml"} <= found.keys()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and "it is closed to them now" in capsys.readouterr().out


@pytest.mark.parametrize("mode, other", [(0o755, "thesis.txt"), (0o1777, None)])
async def test_a_folder_of_other_things_is_refused_and_stays_as_it_is(tmp_path, mode, other):
    """`--data /tmp` would close the machine's temporary folder to everybody."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(mode)
    if other:
        (folder / other).write_text("")
    with pytest.raises(biff.StartError, match="Others can enter the data folder .*chmod 700"):
        await biff.start_system([biff.use_config], arguments(folder))
    assert stat.S_IMODE(folder.stat().st_mode) == mode


@pytest.mark.parametrize("line, words", [
    ("prot = 1", "prot in .*config.toml is not a setting. Settings are host, port, log"),
    ("what", "cannot be read as TOML: Expected"),
    ("port = 'http'", r"The setting port \(--port, EELCHAT_PORT\) is 'http', which cannot be read"),
    ("port = true", "port in .* is a bool; wanted is text between quotes or a number"),
    ("base_url = 'chat.org'", "cannot be read"),
    ("proxies = 'many'", "cannot be read"), ("mail_host = 'mail'", "mail_host is set but mail_from is not")])
async def test_a_setting_that_cannot_be_read_is_one_sentence(tmp_path, line, words):
    """A typing mistake would be silently ignored, or be a page of traceback."""
    (tmp_path / "config.toml").write_text(line)
    with pytest.raises(biff.StartError, match=words):
        await biff.start_system([biff.use_config], {"biff/name": "eelchat", "biff/arguments": {"data": str(tmp_path)}})


async def test_an_old_configuration_file_is_not_silently_ignored(tmp_path):
    """After an upgrade the server would start without its mail server, and print links for a community that waits."""
    (tmp_path / "config.env").write_text("EELCHAT_MAIL_HOST=mail.example.org\n")
    with pytest.raises(biff.StartError, match='config.env is not read any more.*config.toml.*mail_host = '
                                              '"mail.example.org"'):
        await biff.start_system([biff.use_config], arguments(tmp_path))


async def test_the_port_that_kubernetes_names_beside_a_service_is_none_of_ours(tmp_path, monkeypatch):
    """In a cluster with a service named eelchat the server would not start."""
    monkeypatch.setenv("EELCHAT_PORT", "tcp://10.96.3.7:8080")
    given = {"biff/name": "eelchat", "biff/arguments": {"data": str(tmp_path)}}
    assert (await biff.start_system([biff.use_config], given))["biff/config"]["port"] == 8080
    monkeypatch.setenv("EELCHAT_PORT", "tcp")
    with pytest.raises(biff.StartError, match="The setting port"):
        await biff.start_system([biff.use_config], given | {"biff/arguments": {"data": str(tmp_path)}})


def sentence_of(*given, **environment):
    ran = subprocess.run([sys.executable, str(ROOT / "eelchat.py"), *map(str, given)], capture_output=True, text=True,
                         timeout=30,
                         env=os.environ | environment, cwd=ROOT)
    assert ran.returncode == 1 and "Traceback" not in ran.stderr, ran.stderr
    return ran.stderr.strip().splitlines()[-1]


def test_what_a_newcomer_meets_is_one_sentence_and_status_1(server, tmp_path):
    """Their first minute would end in a traceback."""
    assert f"Port {server.port} of 127.0.0.1 is taken" in sentence_of("--port", server.port, "--data",
                                                                      tmp_path / "other")
    (tmp_path / "file").write_text("")
    assert "cannot be written to" in sentence_of("--port", 0, "--data", tmp_path / "file" / "data")
    assert "cannot be read" in sentence_of("--port", "many", "--data", tmp_path / "other")


async def test_scripts_that_are_not_installed_are_one_sentence(tmp_path):
    """The page would come without what makes it live, and nobody would know why."""
    (tmp_path / "static").mkdir()
    with pytest.raises(biff.StartError, match="The browser scripts are not installed .*pip install -e"):
        await biff.start_system([biff.use_config, biff.use_jinja], arguments(tmp_path) | {"biff/root": tmp_path})
