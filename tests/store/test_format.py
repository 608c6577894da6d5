"""The bytes of a file: a change of them is a decision, and what was written before is still read."""
import base64
import contextlib
import datetime as dt
import itertools
import lzma
import math
import pathlib
import sqlite3
import uuid
from decimal import Decimal

import pytest

import store
from conftest import id_of
from store import call, delete, evict, match, put

UTC = dt.timezone.utc
MAY, HOUR = dt.datetime(2026, 5, 1, tzinfo=UTC), dt.timedelta(hours=1)
ANN, BOB, LONG = uuid.UUID(int=1), uuid.UUID(int=2), "long " * 20
FORMATS = pathlib.Path(__file__).parent / "formats"
cell = bytes.fromhex


# ── Values ───────────────────────────────────────────────────────────────────────────────────────────────────
#
# The limits of each type. A whole number of up to 61 bits is a cell of that number less 2⁶², a UUID the number under
# which the log mentioned it first, and what is long or composed a hash.

GOLDEN = [
    # value, the bytes of `pack`, the cells
    (None, "c0", [cell("01")]),
    (True, "c3", [cell("0201")]),
    (False, "c2", [cell("0200")]),
    (0, "00", [0 - 2 ** 62]),
    (1, "01", [1 - 2 ** 62]),
    (-1, "ff", [-1 - 2 ** 62]),
    (127, "7f", [127 - 2 ** 62]),
    (128, "cc80", [128 - 2 ** 62]),
    (255, "ccff", [255 - 2 ** 62]),
    (256, "cd0100", [256 - 2 ** 62]),
    (-32, "e0", [-32 - 2 ** 62]),
    (-33, "d0df", [-33 - 2 ** 62]),
    (-128, "d080", [-128 - 2 ** 62]),
    (-129, "d1ff7f", [-129 - 2 ** 62]),
    (2 ** 16, "ce00010000", [65536 - 2 ** 62]),
    (2 ** 31, "ce80000000", [2147483648 - 2 ** 62]),
    (2 ** 32, "cf0000000100000000", [4294967296 - 2 ** 62]),
    (2 ** 46, "cf0000400000000000", [2 ** 46 - 2 ** 62]),
    (2 ** 61 - 1, "cf1fffffffffffffff", [2 ** 61 - 1 - 2 ** 62]),
    (2 ** 61, "cf2000000000000000", [cell("03882000000000000000")]),
    (-2 ** 61, "d3e000000000000000", [-2 ** 61 - 2 ** 62]),
    (-2 ** 61 - 1, "d3dfffffffffffffff", [cell("0377dffffffffffffffe")]),
    (2 ** 63 - 1, "cf7fffffffffffffff", [cell("03887fffffffffffffff")]),
    (2 ** 63, "cf8000000000000000", [cell("03888000000000000000")]),
    (-2 ** 63, "d38000000000000000", [cell("03777fffffffffffffff")]),
    (-2 ** 63 - 1, "c70907ff7fffffffffffffff", [cell("03777ffffffffffffffe")]),
    (2 ** 64 - 1, "cfffffffffffffffff", [cell("0388ffffffffffffffff")]),
    (2 ** 64, "c70907010000000000000000", [cell("0389010000000000000000")]),
    (2 ** 952 - 1, "c7780700" + 119 * "ff", [cell("03f7" + 119 * "ff")]),
    (2 ** 952, "c7780701" + 119 * "00", [cell("03ff0000007801" + 119 * "00")]),
    (-2 ** 952 + 1, "c77807ff" + 118 * "00" + "01", [cell("0308" + 119 * "00")]),
    (-2 ** 952, "c77807ff" + 119 * "00", [cell("0300ffffff87fe" + 119 * "ff")]),
    (0.0, "cb0000000000000000", [cell("048000000000000000")]),
    (-0.0, "cb8000000000000000", [cell("048000000000000000")]),
    (1.0, "cb3ff0000000000000", [cell("04bff0000000000000")]),
    (-1.5, "cbbff8000000000000", [cell("044007ffffffffffff")]),
    (0.1, "cb3fb999999999999a", [cell("04bfb999999999999a")]),
    (5e-324, "cb0000000000000001", [cell("048000000000000001")]),
    (math.inf, "cb7ff0000000000000", [cell("04fff0000000000000")]),
    (-math.inf, "cbfff0000000000000", [cell("04000fffffffffffff")]),
    ("", "a0", [""]),
    ("a", "a161", ["a"]),
    ("\0", "a100", ["\x00"]),
    ("é", "a2c3a9", ["é"]),
    ("🐍", "a4f09f908d", ["🐍"]),
    ("x" * 31, "bf" + 31 * "78", [31 * "x"]),
    ("x" * 32, "d920" + 32 * "78", [32 * "x"]),
    ("x" * 64, "d940" + 64 * "78", [64 * "x"]),
    ("x" * 65, "d941" + 65 * "78", [cell("10ccea4f793ef4336915a11d73f66b3d4c")]),
    ("é" * 32, "d940" + 32 * "c3a9", [32 * "é"]),
    ("é" * 33, "d942" + 33 * "c3a9", [cell("1055a6c5d1104079aa498dbe8002bb1e45")]),
    (b"", "c400", [cell("07")]),
    (b"\0\xff", "c40200ff", [cell("0700ff")]),
    (b"x" * 64, "c440" + 64 * "78", [cell("07" + 64 * "78")]),
    (b"x" * 65, "c441" + 65 * "78", [cell("11f39f06bc4bdf5c0f29097e5f91c91024")]),
    (uuid.UUID(int=0), "d801" + 16 * "00", [cell("0f" + 16 * "00")]),        # a value, and no entity
    (uuid.UUID(int=2 ** 128 - 1), "d801" + 16 * "ff", [cell("0f" + 16 * "ff")]),
    (dt.datetime(1970, 1, 1, tzinfo=UTC), "d7020000000000000000", [cell("058000000000000000")]),
    (dt.datetime(1969, 12, 31, 23, 59, 59, 999999, UTC), "d702ffffffffffffffff", [cell("057fffffffffffffff")]),
    (dt.datetime(1, 1, 1, tzinfo=UTC), "d702ff23400100d44000", [cell("057f23400100d44000")]),
    (dt.datetime(9999, 12, 31, 23, 59, 59, 999999, UTC), "d7020384440ccc735fff", [cell("058384440ccc735fff")]),
    (dt.date(1, 1, 1), "d60300000001", [cell("0600000001")]),
    (dt.date(1970, 1, 1), "d603000af93b", [cell("06000af93b")]),
    (dt.date(9999, 12, 31), "d6030037b9db", [cell("060037b9db")]),
    (Decimal(0), "c70308304530", [cell("0801")]),
    (Decimal("10.50"), "c70608313035452d31", [cell("08028000000000000002313035")]),
    (Decimal("-1E+3"), "d6082d314533", [cell("08007ffffffffffffffbceff")]),
    (dt.time(0), "c705090000000000", [cell("090000000000")]),
    (dt.time(23, 59, 59, 999999), "c70509141dd75fff", [cell("09141dd75fff")]),
    (dt.timedelta(0), "c7090a800000000000000000", [cell("0a800000000000000000")]),
    (dt.timedelta(microseconds=-1), "c7090a7fffffffffffffffff", [cell("0a7fffffffffffffffff")]),
    (store.Member("module:Class", "NAME"), "c7130b92ac6d6f64756c653a436c617373a44e414d45",
     [cell("16f35987e0d06173e891d423ea932d9d91")]),
    ((), "d40490", [cell("12cf1d7324ab27502c57a60d56f24c014d")]),
    ((1, "a"), "d6049201a161", [cell("1293f947107a332a0c69d8698d2aec573f")]),
    (((1,),), "c7050491d5049101", [cell("123b73d260cffaf87811e5d50a4ef87f97")]),
    ({}, "80", [cell("13ac69880be8c04c40e2fe726341145871")]),
    ({"a": 1, "b": [1]}, "82a16101a1629101", [cell("135f957b13d21a603b8d2c059ef7d14cc3")]),
    ({1: "a", "1": "b", None: 0}, "8301a161a131a162c000", [cell("13f66e9b139818125fb8837a12711544ad")]),
    ([], "90", []),
    ([1, 1.0, True], "9301cb3ff0000000000000c3", [1 - 2 ** 62, cell("0201"), cell("04bff0000000000000")]),
    ({1, "a", (2,)}, "d7059301a161d5049102", [1 - 2 ** 62, "a", cell("1205b5ae9219f27578713d50b11fb7a98d")]),
    (frozenset({1, "a"}), "d6069201a161", [1 - 2 ** 62, "a"]),
    (({1, 2}, [3]), "c7090492c703059201029103", [cell("127b38baa676930c2f9a82df085c2510ef")]),
]


@pytest.mark.parametrize("value, packed, cells", GOLDEN, ids=id_of)
def test_each_value_is_written_in_the_same_bytes_for_ever(tmp_path, value, packed, cells):
    """Without this, a new version could read no old file, and two versions would not agree on a hash."""
    assert store.pack(value).hex() == packed
    assert store.pack(store.unpack(store.pack(value))).hex() == packed
    with contextlib.closing(store.open(tmp_path / "one.db")) as node:
        node.submit_tx([put({"xt/id": "e", "v": value})])
    assert cells_of(tmp_path / "one.db", "v") == cells


def cells_of(path, a):
    """The cells of an attribute, in the index's own order."""
    with contextlib.closing(sqlite3.connect(path)) as file:
        sql = "select v from facts join attributes using (a) where name = ? order by v"
        return [v for v, in file.execute(sql, (a,))]


# ── Files ────────────────────────────────────────────────────────────────────────────────────────────────────
#
# A file of each format that was ever written lies beside this test, as text. All were made by `history` below.

def history(path):
    """The node after a little of everything that a log can hold, an hour from one transaction to the next."""
    hours = itertools.count(1)
    node = store.open(path, FUNCTIONS, clock=lambda: MAY + next(hours) * HOUR)
    month = [dt.datetime(2026, 4, 1, tzinfo=UTC), dt.datetime(2026, 4, 20, tzinfo=UTC)]
    for ops in [
        [put({"xt/id": ANN, "name": "Ann", "age": 30, "tags": {"eel", "tea"}, "pi": 3.5, "day": dt.date(2020, 1, 1),
              "at": dt.datetime(2020, 1, 1, 12, tzinfo=UTC)}),
         put({"xt/id": BOB, "name": "Bob", "friends": [ANN, "nobody"], "none": None, "yes": True, "bytes": b"\0\xff",
              "big": 2 ** 100, "least": -2 ** 63})],
        [put({"xt/id": LONG, "text": "x" * 65, "pair": (1, "a"), "map": {"k": [1, {2}]}, "raw": b"y" * 65,
              "edge": "é" * 32})],
        [put({"xt/id": ANN, "name": "Anna", "age": 31}, *month)],
        [match("nobody", None), call("greet", "Ann")],
        [call("refuse"), put({"xt/id": "never"})],
        [match(ANN, None), put({"xt/id": "never"})],
        [put({"xt/id": "secret", "text": "to be forgotten"})],
        [evict("secret")],
        [delete(BOB)],
        [put({"xt/id": ("t", 1), "n": -2 ** 61 - 1}), put({"xt/id": 7, "n": 2 ** 61})],
    ]:
        node.submit_tx(ops)
    return node


def greet(ctx, name):
    known = len(ctx.db.q({"find": "?e", "where": [["?e", "xt/id"]]}))
    return [put({"xt/id": "greeting", "text": f"Hello {name}", "known": known})]


FUNCTIONS = {"refuse": lambda ctx: False, "greet": greet}


def answers(node):
    """All that can be asked of these ten transactions, but what depends on the store's own id."""
    ids = [ANN, BOB, LONG, "greeting", "never", "secret", ("t", 1), 7]
    moments = None, MAY - 480 * HOUR, MAY + 99 * HOUR
    snapshots = [node.db(tx_id, valid_time=at) for tx_id in range(11) for at in moments]
    facts = [{(e, type(v), v) for e, v in db.q({"find": ["?e", "?v"], "where": [["?e", a, "?v"]]})}
             for db in snapshots[-3:] for a in ("name", "text", "n", "tags", "edge", "pair", "raw", "big")]
    log = [(tx.tx_id, tx.tx_time, tx.committed, tx.ops) for tx in node.tx_log()]
    histories = [node.db().history(id, corrections=True) for id in ids]
    committed = [node.tx(n).committed for n in range(1, 11)]
    return [[db.entity(id) for id in ids] for db in snapshots], facts, log, committed, histories


def laid_down(name, folder):
    """The file that lies beside this test under a name."""
    path = folder / f"{name}.db"
    path.write_bytes(lzma.decompress(base64.b85decode("".join((FORMATS / f"{name}.txt").read_text().split()))))
    return path


FILES = [
    # name, the state (the hash of all that was submitted and decided) after the ten transactions, and after one more
    ("index-1", "aef17f05b909185c63d8294827b177972ac940a332236b08acc12753c4726b0b",
     "3cbf32c32516ec9f44d00c225d3771bc7ea357c96eb4ea5715f6a004762b0aff"),
    ("index-5", "418c56a4fccc47a48c98b12602919cf28cec1829949310a5a24e0d48c9094806",
     "18c64d97ac7231dbe24a1edd1d439aef30fb92b9d675cd6b0c7c346e21b4adcf"),
    ("index-4", "08d187db7b1cc26e0978790ab57317a6ac699a5702e5cd075993421dd084e4d9",
     "29c0a1e8907ef139f4fc40bffc84c10654863faab243f06f2c48524b44c132b9"),
    ("index-3", "8126ac8d59520ef4d640fb75cfde80009d4d30615b24c28da2549dd8ff1275ca",
     "274ad52a2fd434a73c5320f8ecb0bab7b3947166f3c13052849acd13e0119d9a"),
    ("index-2", "12e85ebebec5621b158271943850e0cf13cf1467c2160049e8238e1bc09127da",
     "39cabd14fdb3ef862959a340282a44193dc70d22de63b3f95ca33928e35a68c9"),
]


@pytest.mark.parametrize("name, before, after", FILES, ids=[name for name, *_ in FILES])
def test_a_file_of_each_format_opens_and_answers_as_one_written_today(tmp_path, name, before, after):
    """Without this, an update of the program could be the end of somebody's data."""
    with contextlib.closing(history(tmp_path / "today.db")) as node:
        wanted = answers(node)
    assert len(wanted[0]) == 33 and len(wanted[2]) == 8 and any(wanted[1])
    path = laid_down(name, tmp_path)
    for _ in range(2):
        with contextlib.closing(store.open(path, clock=lambda: MAY + 50 * HOUR)) as node:
            assert answers(node) == wanted
            assert node.status()["state"] == before and node.verify() == 10
    with contextlib.closing(store.open(path, clock=lambda: MAY + 60 * HOUR)) as node:
        node.submit_tx([put({"xt/id": "next", "n": 1}, MAY, MAY + HOUR), delete(ANN)])
        assert node.status()["state"] == after
        node.reindex()
        assert node.status()["state"] == after and node.verify() == 11
    assert b"to be forgotten" not in path.read_bytes()


def test_every_format_has_its_file(tmp_path):
    """Without this, the next format would be the first whose files nobody tries."""
    with contextlib.closing(store.open(tmp_path / "one.db")):
        pass
    with contextlib.closing(sqlite3.connect(tmp_path / "one.db")) as file:
        version = file.execute("pragma user_version").fetchone()[0] % store.EPOCH_UNIT
    assert f"index-{version}" in [name for name, *_ in FILES], "write one: the file of `history`, as the others are"
    assert store.FORMAT == 1, "a file of the old format of the log stays beside the new one"
