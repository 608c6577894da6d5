"""The shell: what is asked at the terminal, what comes through pipes, and lines that carry a whole store elsewhere."""
import contextlib
import datetime as dt
import io
import json
import os
import pty
import random
import re
import select
import signal
import sqlite3
import subprocess
import sys
import time
import uuid

import hypothesis
import pytest
from hypothesis import strategies as st

import shell
import store_tables
import store
from conftest import ROOT, id_of
from store import delete, evict, match, put
from test_values import PLAIN, same

UTC = dt.timezone.utc
COMMAND = [sys.executable, str(ROOT / "shell.py")]
NAMES = '{"find": ["?e", "?n"], "where": [["?e", "name", "?n"]], "order-by": [["?n"]]}'
ENDLESS = ('{"find": ("count", "?a"), "where": [["?a", "n"], ["?b", "n"], ["?c", "n"], [("!=", "?a", "?b")], [("!=", '
           '"?b", "?c")]]}')


def run(*arguments, **options):
    """The shell as a process, at its end."""
    options = {"capture_output": True, "text": True, "timeout": 60} | options
    return subprocess.run([*COMMAND, *map(str, arguments)], **options)


@pytest.fixture
def node():
    """An empty store in a file: what differs with a log on PostgreSQL is not the shell's."""
    with contextlib.closing(store.open(":memory:")) as opened:
        yield opened


@pytest.fixture
def path(tmp_path):
    """A store of four transactions: Ann is renamed, Bo comes and goes."""
    path = tmp_path / "people.db"
    with contextlib.closing(store.open(path)) as node:
        node.submit_tx([put({"xt/id": "ann", "name": "Ann"}), put({"xt/id": 7, "name": "Bo", "n": 1})])
        node.submit_tx([put({"xt/id": "ann", "name": "Anna", "born": dt.date(1990, 5, 1)})])
        node.submit_tx([match("ann", None), put({"xt/id": "never"})])
        node.submit_tx([delete(7)])
    return path


# ── Asking ─────────────────────────────────────────────────────────────────────────────────────────────────────

def test_a_query_answers_with_a_table_alone_on_the_standard_output(path):
    """Without this, what goes through a pipe would have to be cleaned of the shell's own words."""
    done = run(path, NAMES)
    assert done.stdout == "?e   ?n\n---  ----\nann  Anna\n"
    done = run(path, ".as-of 1", NAMES)
    assert re.fullmatch(r"as of transaction 1, valid at 20\S+Z\n\?e   \?n\n---  ---\nann  Ann\n7    Bo\n", done.stdout)
    assert re.fullmatch(r"2 rows, \d+\.\d ms\n", done.stderr) and done.returncode == 0


def test_each_command_shows_what_the_node_knows(path):
    """Without this, a command could rot unnoticed: nothing else of the project calls it."""
    said = run(path, ".entity ann", ".entity 7", check=False)
    assert said.returncode == 1 and said.stderr == "Nothing is visible of 7 here.\n"
    assert "name       Anna\n" in said.stdout and "born       1990-05-01\n" in said.stdout
    out = run(path, ".history ann", ".log", ".attributes", ".status", ".verify", ".reindex", ".help", check=True).stdout
    for line in (r"20\S+Z  20\S+Z      1  \{'name': 'Ann', 'xt/id': 'ann'\}",
                 r"20\S+Z  None                             2  \{'born': .*",
                 r"    3  20\S+Z  aborted", r"    4  20\S+Z  \('delete', 7\)", r"xt/id              3",
                 r"tx_id      4", r"The chain of hashes holds over 4 transactions, and every document has its own\.",
                 r"The index is made anew from 4 transactions\.", r"\.history ID +its versions.*"):
        assert re.search(f"^{line}$", out, re.MULTILINE), f"{line}\n{out}"
    assert "SEARCH f0" in run(path, f".explain {NAMES}", check=True).stdout
    assert "Python: values" in run(path, f".analyze {NAMES}", check=True).stdout


def test_as_of_and_valid_choose_the_moment(path):
    """Without this, the shell could only look at now, and a store that keeps the past is asked about the past."""
    with contextlib.closing(store.open(path)) as node:
        first = node.tx(1).tx_time
    bare = '{"find": "?n", "where": [["?e", "name", "?n"]]}'
    for commands, names in [(["as-of 1"], "Ann Bo"), ([f"as-of {first.isoformat()}"], "Ann Bo"),
                            (["valid 2020-01-01"], ""),
                            (["as-of 1", "as-of now"], "Anna"), (["valid 2020-01-01", "valid now"], "Anna"),
                            (["as-of 2"], "Anna Bo")]:
        out = run(path, *(f".{command}" for command in commands), bare, check=True).stdout
        wanted = ["", *names.split()] if names else []
        assert sorted(out.split("\n")[len(commands):][2:]) == sorted(wanted), (commands, out)


def test_writing_is_asked_for_by_name(path):
    """Without this, a slip while looking could change what is looked at."""
    done = run(path, '.put {"xt/id": "cy", "name": "Cy"}', '.put {"xt/id": "old"}, datetime("2020-01-01"), '
                                                           'datetime("2021-01-01")',
               ".delete ann", '.tx [("match", "cy", None), ("put", {"xt/id": "no"})]', '.tx ("evict", "old")',
               check=True)
    assert done.stdout == ("transaction 5 committed\ntransaction 6 committed\ntransaction 7 committed\n"
                           "transaction 8 aborted: nothing has changed\ntransaction 9 committed\n")
    with contextlib.closing(store.open(path)) as node:
        assert node.db().q({"find": "?n", "where": [["?e", "name", "?n"]]}) == ["Cy"]
        assert node.db().history("old") == [] and node.db().entity("no") is None
    refused = run(path, '("put", {"xt/id": "a"})')
    assert refused.returncode == 1 and "is not a query" in refused.stderr


@pytest.mark.parametrize(("line", "sentence"), [
    ('{"find": ["?x"], "where": [["?e", "name"]]}', "find asks for ?x, but no clause binds it. Bound here: ?e."),
    ('{"find": [', "{\"find\": [ is not Python data: '[' was never closed, at character 10."),
    ("[1, 2]", '[1, 2] is not a query; wanted {"find": …, "where": …}, or .help.'),
    (".nope", "There is no .nope; .help lists what there is."),
    (".entit ann", "There is no .entit; .help lists what there is. Did you mean '.entity'?"),
    ('.put {"xt/id": "z", "is": true}', "true is not data; wanted literals of Python (None, True, \"a text\"), "
     'UUID("…"), datetime("…") or date("…").'),
    (".as-of 2026-13-01", "2026-13-01 is not a time; wanted one such as 2026-05-01 or 2026-05-01T12:30Z, or now."),
    (".as-of 99", "Transaction 99 was asked for; the newest here is 4."),
    (".entity", "Wanted an id after it."),
    (".log many", "many is not a number."),
    (".history nobody", "nobody has no history here."),
    (".backup /nowhere/at/all", "/nowhere/at/all cannot be written: No such file or directory."),
    (".import /nowhere/at/all", "/nowhere/at/all cannot be read: No such file or directory."),
    (".export /nowhere/at/all", "/nowhere/at/all cannot be written: No such file or directory."),
])
def test_a_line_that_cannot_be_done_is_refused_in_a_sentence_and_is_the_last(path, line, sentence):
    """Without this, a script would go on after its mistake, and people would read tracebacks."""
    done = run(path, line, ".status")
    assert done.returncode == 1 and sentence in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""


# ── Notation ───────────────────────────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize("value", PLAIN, ids=id_of)
def test_what_is_shown_or_written_by_repr_is_read_as_the_same_value(value):
    """Without this, an answer could not be pasted into the next question."""
    if not (type(value) is int and abs(value) > 10 ** 600):  # Python's own limit of digits is far above; so is the use
        assert same(shell.parsed(shell.shown(value)), value)
        is_python = not re.search(r"<\w+\.\w+: ", repr(value))      # a member's is not
        assert not is_python or same(shell.parsed(repr(value)), value)
    assert shell.parsed("[?, ...]".replace("?", '"?x"')) == ["?x", ...]


@pytest.mark.parametrize("text", ["__import__('os').system('true')", "open('/etc/passwd')", "[x for x in (1,)]",
                                  "f'{1}'", "lambda: 1", "(1).real", "1 + 1",
                                  "UUID(*'a')", "UUID('not one')", "datetime('x')", "{**{}}", "{[]: 1}", "1j", "x",
                                  "UUID(5)", "datetime(2026)", "(" * 500, "\0",
                                  "-True", "{1: 2}[1]", "date()", "set(1, 2)"])
def test_data_is_never_executed(text):
    """Without this, a pasted query could do whatever its author liked."""
    with pytest.raises(shell.ShellError):
        shell.parsed(text)


def test_times_are_read_in_their_zone_and_else_in_utc():
    """Without this, "as of" would mean another moment on another machine."""
    noon = dt.datetime(2026, 5, 1, 12, tzinfo=UTC)
    for text in ['"2026-05-01T12:00"', '"2026-05-01 12:00Z"', '"2026-05-01T14:00+02:00"', "2026, 5, 1, 12",
                 "2026, 5, 1, 12, tzinfo=datetime.timezone.utc"]:
        assert shell.parsed(f"datetime({text})") == noon, text


def test_an_id_may_be_typed_as_a_table_shows_it():
    """Without this, an id copied from an answer would have to be dressed in quotes or UUID("…") first."""
    id = uuid.uuid4()
    for text, value in [(str(id), id), (f'UUID("{id}")', id), ("ann", "ann"), ('"ann"', "ann"), ("7", 7), ('"7"', "7"),
                        ("1" * 32, int("1" * 32)),
                        ('("stock", "rye")', ("stock", "rye")), ("two words", "two words")]:
        assert same(shell._id(text), value), text


# ── Tables ─────────────────────────────────────────────────────────────────────────────────────────────────────

def test_tables_fit_the_terminal_and_wide_letters_line_up():
    """Without this, one long text would wrap every line of the answer."""
    rows = [("漢字", 1, "a" * 300), ("b", 22, "c")]
    lines = list(shell.table(["?title", "?n", "?text"], rows, 40))
    assert lines == ["?title  ?n  ?text",
                     "------  --  ----------------------------",
                     "漢字     1  " + "a" * 27 + "…",
                     "b       22  c"]
    assert max(map(store_tables.columns, lines)) == 40
    assert list(shell.table(["?text"], [("a" * 300,)], None))[2] == "a" * 300


@hypothesis.given(st.lists(st.tuples(st.text(), st.text(), st.text()), max_size=5), st.integers(25, 120))
def test_no_text_gets_past_the_width_or_moves_the_cursor(rows, width):
    """Without this, a message could clear the operator's screen, or type for them."""
    for line in shell.table(["a", "b", "c"], rows, width):
        assert line.isprintable() and store_tables.columns(line) <= width


# ── JSON lines ─────────────────────────────────────────────────────────────────────────────────────────────────

def exported(node, what="log"):
    lines = shell.exported_log(node, node.db().tx_id,
                               lambda *_: None) if what == "log" else shell.exported_now(node.db(), lambda *_: None)
    return "".join(lines)


def imported(text):
    node = store.open(":memory:")
    shell.Import.of(io.BytesIO(text.encode())).submit(node)
    return node


def timeline(node, id):
    return [(version.valid_from, version.valid_to, version.document) for version in node.db().history(id)]


@pytest.mark.parametrize("value", PLAIN, ids=id_of)
def test_every_kind_of_value_survives_the_journey(node, value):
    """Without this, moving a store would turn a tuple into a list, or an id into text."""
    document = {"xt/id": value if type(value) in store._ID_TYPES else "x", "v": value, "~uuid": [value],
                "m": {"~uuid": "no id"}}
    node.submit_tx([put(document)])
    for what in "log", "now":
        text = exported(node, what)
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        with contextlib.closing(imported(text)) as other:
            assert same(other.db().entity(document["xt/id"]), document)


def test_ids_of_every_type_are_exported_once_over_several_pages(node, monkeypatch):
    """Without this, an entity could fall between two pages, where ids of one type end and those of the next begin."""
    ids = [5, "a", "b" * 100, b"x", b"y" * 100, ("t", 1), {"k": 1}, uuid.UUID(int=9), uuid.UUID(int=3), 1.5, True, -7,
           10 ** 40, dt.date(2026, 5, 1)]
    for id in ids:
        node.submit_tx([put({"xt/id": id})])
    monkeypatch.setattr(shell, "BATCH_OPERATIONS", 3)
    lines = exported(node, "now").splitlines()
    assert len(lines) == len(set(lines)) == len(ids)
    assert lines.index(next(line for line in lines if "000000000009"
                            in line)) < lines.index(next(line for line in lines if "000000000003" in line))


def test_a_random_history_survives_the_journey(node, seed, say):
    """Without this, a store moved elsewhere would answer differently about the past that it was told of."""
    choose, ids, count = random.Random(seed), ["a", 1, True, uuid.UUID(int=5), ("t", 1)], 300
    day = lambda: dt.datetime(2020, 1, 1, tzinfo=UTC) + dt.timedelta(days=choose.randrange(60))
    for n in range(count):
        ops = []
        for _ in range(choose.choice([0, 1, 1, 1, 2, 3])):
            times = choose.choice([[], [day()], sorted({day(), day()})])
            id = choose.choice(ids)
            ops.append(choose.choices([put({"xt/id": id, "n": n, "k": choose.randrange(3)}, *times), delete(id, *times),
                                       evict(id),
                                       match(id, None)], [70, 20, 2, 8])[0])
        node.submit_tx(ops)
    text = exported(node)
    with contextlib.closing(imported(text)) as other:
        assert any(timeline(node, id) for id in ids)
        for id in ids:
            assert timeline(other, id) == timeline(node, id), f"{id!r}, seed {seed}"
        renumbered = lambda text: re.sub(r'"tx": \d+', '"tx": _', text)
        assert text.count(f'"tx_time": "{node.latest_tx.tx_time:%Y}-') == text.count("\n")
        assert renumbered(exported(other)) == renumbered(text)
        with contextlib.closing(imported(exported(node, "now"))) as third:
            for id in ids:
                assert third.db().entity(id) == node.db().entity(id)
    say(f"{count} random transactions, {text.count(chr(10))} lines: every timeline and every visible document the "
        f"same; seed {seed}")


def test_a_long_import_goes_in_batches_and_keeps_its_order(tmp_path, size, say):
    """Without this, the newest messages would not be the newest any more, or a large file would not fit in memory."""
    count = size(5_000, 1_000_000)
    lines = tmp_path / "lines.jsonl"
    with open(lines, "w") as file:
        for n in range(count):
            file.write(json.dumps({"put": {"xt/id": {"~uuid": str(uuid.UUID(int=n * 7919 % count + 1))}, "n": n}}
                                  | ({"tx": n} if n % 2 else {})) + "\n")
    began = time.monotonic()
    done = run(tmp_path / "new.db", "import", stdin=open(lines), timeout=3600)
    took_s = time.monotonic() - began
    assert done.returncode == 0 and done.stdout == "", done.stderr
    assert done.stderr.startswith(f"{count:,} operations are in"), done.stderr
    with contextlib.closing(store.open(tmp_path / "new.db")) as node:
        assert [tx.ops[0][1]["n"] for tx in node.tx_log()] == list(range(count))
        newest = {"find": "?n", "where": [["?e", "n", "?n"]], "order-by": [[("created", "?e"), "desc"]], "limit": 3}
        assert node.db().q(newest) == [count - 1, count - 2, count - 3]
    say(f"{count:,} transactions imported in {took_s:.1f} s, in order")


def test_lines_without_a_transaction_share_one_but_never_two_of_an_entity(node):
    """Without this, an import of plain documents would cost a sync each,
    and an entity's second line would erase the first."""
    text = "".join(json.dumps({"put": {"xt/id": id, "n": n}}) + "\n\n" for n, id in enumerate("abcab"))
    with contextlib.closing(imported(text)) as other:
        assert [[op[1]["n"] for op in tx.ops] for tx in other.tx_log()] == [[0, 1, 2], [3, 4]]


GOOD = '{"put": {"xt/id": "a"}}'


@pytest.mark.parametrize(("bad", "sentence"), [
    ("{", "it is not JSON: Expecting property name enclosed in double quotes at character 2"),
    ('{"put": {"xt/id": "b", "v": NaN}}', "NaN is not JSON"),
    ("[]", "wanted an object with one of put, delete and evict"),
    ('{"put": {"xt/id": "b"}, "delete": "b"}', "wanted an object with one of put, delete and evict"),
    ('{"put": {"name": "b"}}', 'has no "xt/id"; every document needs one'),
    ('{"put": {"xt/id": null}}', 'cannot be an "xt/id"'),
    ('{"put": {"xt/id": "b", "v": {"~uuid": "b"}}}', "badly formed hexadecimal UUID string"),
    ('{"put": {"xt/id": "b", "v": {"~bytes": "*"}}}', "Only base64 data is allowed"),
    ('{"put": {"xt/id": "b", "v": {"~tuple": "ab"}}}', "~tuple is not one of"),
    ('{"put": {"xt/id": "b", "v": {"~what": 1}}}', "~what is not one of"),
    ('{"put": {"xt/id": "b", "v": {"~set": [[1]]}}}', "unhashable type: 'list'"),
    ('{"put": {"xt/id": "b", "v": {"~map": [1]}}}', "cannot unpack non-iterable int"),
    ('{"put": {"xt/id": "b", "xt/id": "c"}}', "a key comes twice"),
    ('{"put": {"xt/id": "b"}, "from": "2026-02-30"}', "day is out of range for month"),
    ('{"put": {"xt/id": "b"}, "from": 7}', "its from is not a time"),
    ('{"put": {"xt/id": "b"}, "from": "2026-02-02", "to": "2026-02-01"}', "it ends before it begins"),
    ('{"evict": "b", "from": "2026-02-02"}', "it has from, which evict does not take"),
    ('{"put": {"xt/id": "b"}, "valid": 1}', "it has valid, which put does not take"),
    ('{"put": {"xt/id": "b"}, "tx": 2}', "it is of transaction 2, after one of 3"),
    ('{"put": {"xt/id": "b"}, "tx": "2"}', "its tx is not a number"),
    ('{"put": {"xt/id": "b"}, "tx_time": "2020-01-01T00:00Z"}', "it has a tx_time and no tx"),
    ('{"put": {"xt/id": "b"}, "tx": 3, "tx_time": "2020-01-01T00:00Z"}', "some lines have a tx_time, and others none"),
    ('{"put": {"xt/id": "b", "v": ' + "[" * 200_000, "nest"),
    ("\udcff", "can't decode byte 0xff"),
])
def test_the_first_bad_line_is_named_and_nothing_is_half_done(node, bad, sentence):
    """Without this, half a file would be in the store, and nobody would know which half."""
    text = "\n".join([GOOD, '{"put": {"xt/id": "a"}, "tx": 3}', bad, "{"]) + "\n"
    with pytest.raises(shell.ShellError) as refused:
        shell.Import.of(io.BytesIO(text.encode(errors="surrogateescape"))).submit(node)
    assert str(refused.value).startswith("Line 3 cannot be imported: ")
    assert str(refused.value).endswith(". Nothing was written.")
    assert sentence in str(refused.value)
    assert node.latest_tx is None


def test_a_store_is_not_made_for_a_bad_line_nor_by_looking(tmp_path):
    """Without this, a mistyped path would be a new and empty store, and seem to have lost everything."""
    done = run(tmp_path / "new.db", "import", input=f"{GOOD}\nno\n")
    assert done.returncode == 1 and done.stderr.startswith("Line 2 cannot be imported")
    done = run(tmp_path / "new.db", ".status")
    assert done.returncode == 1 and done.stderr.endswith("; `import` makes one, or --new.\n")
    assert list(tmp_path.iterdir()) == []
    run(tmp_path / "new.db", "--new", ".put {\"xt/id\": 1}", check=True)
    assert (tmp_path / "new.db").exists()


def test_what_is_not_a_store_is_left_as_it_is(tmp_path):
    """Without this, a look at another program's file would change how that program has to write it."""
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as other, other:
        other.execute("create table messages(text)")
    (tmp_path / "text.db").write_text("not a database, " * 100)
    (tmp_path / "empty.db").touch()
    (tmp_path / "folder.db").mkdir()
    for name, sentence in [("other.db", "is a SQLite file, but not a store."),
                           ("text.db", "cannot be opened as a store: file is not a database."),
                           ("empty.db", "; `import` makes one, or --new."), ("folder.db", "")]:
        before = (tmp_path / name).read_bytes() if name != "folder.db" else b""
        done = run(tmp_path / name, ".status")
        assert done.returncode == 1 and sentence in done.stderr and done.stderr.count("\n") == 1, done.stderr
        assert name == "folder.db" or (tmp_path / name).read_bytes() == before
    assert not (tmp_path / "other.db-bells").exists() and not (tmp_path / "other.db-wal").exists()


def test_export_and_import_go_through_files_and_pipes_alike(path, tmp_path):
    """Without this, `export | import` between two machines could differ from a file carried there."""
    piped = run(path, "export", check=True).stdout
    run(path, f".export {tmp_path / 'all.jsonl'}", f".export {tmp_path / 'now.jsonl'} now", check=True)
    assert (tmp_path / "all.jsonl").read_text() == piped and piped.count("\n") == 4
    assert (tmp_path / "now.jsonl").read_text() == run(path, "export", "now", check=True).stdout != piped
    again = run(path, f".export {tmp_path / 'all.jsonl'}")
    assert again.returncode == 1 and "File exists" in again.stderr
    run(tmp_path / "one.db", "import", input=piped, check=True)
    run(tmp_path / "two.db", "--new", f".import {tmp_path / 'all.jsonl'}", check=True)
    assert run(tmp_path / "one.db", "export").stdout == run(tmp_path / "two.db", "export").stdout


# ── Beside others, and in pipes ────────────────────────────────────────────────────────────────────────────────

def test_the_shell_reads_and_writes_beside_a_running_program_and_looks_at_copies(path):
    """Without this, a question about the running chat would need the chat to stop."""
    with contextlib.closing(store.open(path)) as node:
        node.submit_tx([put({"xt/id": "eve", "name": "Eve"})])
        assert "eve  Eve\n" in run(path, NAMES, check=True).stdout
        assert run(path, ".delete eve", check=True) and node.db().entity("eve") is None
        looked = run(path, "--copy", NAMES, ".verify", check=True)
        assert "ann  Anna\n" in looked.stdout and "holds over 6 transactions" in looked.stdout
        written = run(path, "--copy", ".delete ann")
        assert written.returncode == 1
        assert written.stderr == "This is a copy, which goes at the end: to write, open the store itself.\n"
        assert node.submit_tx([put({"xt/id": "still ours"})]).committed


def test_a_log_on_postgresql_is_looked_at_through_an_index_of_the_shells_own(join, log_url, tmp_path):
    """Without this, the shell would be of no use where it is needed most, with several servers."""
    (tmp_path / "app.py").write_text("FUNCTIONS = {'twice': lambda ctx, id: [('put', {'xt/id': id, 'n': 2 * "
                                     "ctx.db.entity(id)['n']})]}")
    node = join({"twice": lambda ctx, id: [put({"xt/id": id, "n": 2 * ctx.db.entity(id)["n"]})]})
    node.submit_tx([put({"xt/id": "ann", "name": "Ann", "n": 4})])
    done = run("--index", tmp_path / "mine.db", "--functions", "app:FUNCTIONS", log_url, NAMES,
               '.tx ("call", "twice", "ann")', cwd=tmp_path, check=True)
    assert done.stdout == "?e   ?n\n---  ---\nann  Ann\ntransaction 2 committed\n"
    assert node.await_tx(2, 60).committed and node.db().entity("ann")["n"] == 8
    assert "needs a file of this server's own" in run(log_url, ".status").stderr
    node.close()
    index = tmp_path / "server0.db"
    assert re.fullmatch(r".*server0.db is a server's index .* Or look at a copy as of now: "
                        r"python shell.py --copy server0.db\n", run(index.name, "export", cwd=tmp_path).stderr)
    assert "n          8\n" in run("--copy", index, ".entity ann", check=True).stdout
    assert run("--copy", index, "export",
               check=True).stdout.count("\n") == 2, "which saves what is there when PostgreSQL is lost"
    assert "is not a dict of functions, written MODULE:NAME" in run("--functions", "app:NOPE", log_url, ".status",
                                                                    cwd=tmp_path).stderr


def test_damage_is_found_and_said_with_the_exit_status(path):
    """Without this, a nightly `.verify` would be green over a broken store."""
    with contextlib.closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("update documents set doc = zeroblob(20) where n = 2")
    done = run(path, ".verify")
    assert done.returncode == 1 and done.stderr == "Document 2, put by transaction 1, is not what was written.\n"


def test_lines_come_through_a_pipe_and_go_on_until_their_brackets_close(path):
    """Without this, a query kept in a file would have to be one long line."""
    done = run(path, input='# who\n\n{"find": "?n",\n "where": [["?e",\n\n "name", "?n"]]}\n.entity '
                           '(\n"ann")\n.quit\n.nope\n')
    assert done.returncode == 0 and done.stdout.startswith("?n\n----\nAnna\nattribute  value\n")
    done = run(path, input='.entity ann\n.nope\n.status\n{"find": [')
    assert done.returncode == 1 and "tx_id" not in done.stdout
    assert done.stderr == "There is no .nope; .help lists what there is.\n"
    assert run(path, input='{"find": [').returncode == 1


def test_a_reader_that_leaves_ends_the_shell_quietly(path, tmp_path):
    """Without this, `| head` would print a traceback."""
    with contextlib.closing(store.open(path)) as node:
        node.submit_tx([put({"xt/id": n, "name": "x" * 100}) for n in range(5_000)])
    with subprocess.Popen([*COMMAND, path, "export"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as process:
        assert process.stdout.readline().startswith('{"put"')
        process.stdout.close()
        assert (process.wait(60), process.stderr.read()) == (141, "")


def test_wrong_usage_is_told_apart_from_a_wrong_line():
    """Without this, a script could not tell its own mistake from the store's answer."""
    assert run().returncode == 2 and run("--nope", "x").returncode == 2


# ── At the terminal ────────────────────────────────────────────────────────────────────────────────────────────

class Terminal:
    """The shell on a pseudo-terminal of 80 columns: what is typed goes in, what the screen shows comes out."""

    def __init__(self, home, *arguments):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            # as at a terminal: a run that was started in the background ignores it, and so would the shell
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            environment = os.environ | {"HOME": str(home), "TERM": "dumb", "COLUMNS": "80", "LINES": "24"}
            os.execve(sys.executable, [*COMMAND, *map(str, arguments)], environment)
        self.screen, self.seen = "", 0

    def type(self, text):
        os.write(self.fd, text.encode())

    def see(self, wanted, timeout_s=60):
        """What was shown up to and with this text, since the last look."""
        end = time.monotonic() + timeout_s
        while (at := self.screen.find(wanted, self.seen)) < 0:
            assert time.monotonic() < end and self._read(), f"no {wanted!r} in:\n{self.screen[self.seen:]}"
        shown, self.seen = self.screen[self.seen:at + len(wanted)], at + len(wanted)
        return shown

    def interrupt(self, wanted, tries=10):
        """Ctrl-C until this is shown: one that falls between a prompt and readline's waiting
        for keys is heard with the next key."""
        for _ in range(tries):
            self.type("\x03")
            with contextlib.suppress(AssertionError):
                return self.see(wanted, 2)
        return self.see(wanted)

    def _read(self):
        if select.select([self.fd], [], [], 0.2)[0]:
            try:
                self.screen += os.read(self.fd, 65536).decode(errors="replace").replace("\r\n", "\n")
            except OSError:
                return False
        return True

    def status(self, timeout_s=60):
        """The exit status, after everything was read."""
        end = time.monotonic() + timeout_s
        while self._read():
            assert time.monotonic() < end, f"it did not end:\n{self.screen[self.seen:]}"
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self):
        os.close(self.fd)               # which hangs up on it, as closing a window does
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def test_a_session_at_the_terminal(path, tmp_path):
    """Without this, the shell could work in tests and not where people sit:
    prompts, mistakes, widths, Ctrl-C, bars, history."""
    with contextlib.closing(store.open(path)) as node:
        node.submit_tx([put({"xt/id": f"long{n}", "text": "word " * 100, "n": n}) for n in range(3_000)])
    with contextlib.closing(Terminal(tmp_path, path)) as terminal:
        assert terminal.see("store> ").startswith(f"{path}: 5 transactions. .help lists what can be asked.\n")
        terminal.type('{"find": ["?e", "?n"],\n')
        terminal.see("   ...> ")
        terminal.type('"where": [["?e", "name", "?n"]]}\n')
        assert "?e   ?n\n---  ----\nann  Anna\n1 row, " in terminal.see("store> ")
        terminal.type(".nope\n")
        assert "There is no .nope; .help lists what there is.\n" in terminal.see("store> ")
        terminal.type('{"find": ["?e", "?t"], "where": [["?e", "text", "?t"]], "limit": 2}\n')
        shown = terminal.see("store> ")
        assert "…\n" in shown and max(map(len, re.findall(r"^long.*$", shown, re.MULTILINE))) == 80
        terminal.type('{"find": "?e", "where": [["?e", "text"]]}\n')
        assert "; the last 2,500 are not shown: limit the query, or send it through a pipe\n" in terminal.see("store> ")
        terminal.type('{"find": [\n')
        terminal.see("   ...> ")
        assert "Interrupted.\n" in terminal.interrupt("store> ")
        begun = time.monotonic()
        terminal.type(ENDLESS + "\n")
        time.sleep(0.5)  # the query is to be under way; if it is not yet, Ctrl-C ends it all the same
        assert "Interrupted.\n" in terminal.interrupt("store> "), "it ran until its timeout"
        assert time.monotonic() - begun < 25, "it ran until its timeout"
        terminal.type(f".backup {tmp_path / 'copy.db'}\n")
        assert re.search(r"copying pages \[[#.]{30}\] +\d+% of", terminal.see("holds the store up to transaction 5."))
        terminal.see("store> ")
        terminal.type("\x04")
        assert terminal.status() == 0
    if shell.readline is not None:
        history = tmp_path / ".store_history"
        assert ".nope" in history.read_text() and history.stat().st_mode & 0o077 == 0
        with contextlib.closing(Terminal(tmp_path, path)) as terminal:
            terminal.see("store> ")
            terminal.type(".attri\t\n")
            assert "xt/id" in terminal.see("store> ")
            terminal.type(".quit\n")
            assert terminal.status() == 0
