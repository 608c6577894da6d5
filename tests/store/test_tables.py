"""Answers as tables: what a terminal and a notebook show, and what other libraries get."""
import contextlib
import datetime as dt
import sys
import uuid

import pytest

import store
import store_tables
from store import put

MAY = dt.datetime(2024, 5, 1, tzinfo=dt.timezone.utc)
DOCUMENTS = [{"xt/id": uuid.UUID(int=1), "name": "Ann", "n": 1, "at": MAY, "tags": {"a"}, "mix": 2 ** 70},
             {"xt/id": uuid.UUID(int=2), "name": "<b>Bo</b> & co", "n": 2.5, "at": MAY, "tags": {"b"}, "mix": "x"}]
ALL = {"find": ["?e", "?name", "?n", "?at", ("set", ["?t"]), "?mix", "?name"], "order-by": [["?name", "desc"]],
       "where": [["?e", "name", "?name"], ["?e", "n", "?n"], ["?e", "at", "?at"], ["?e", "tags", "?t"],
                 ["?e", "mix", "?mix"]]}


@pytest.fixture
def db():
    with contextlib.closing(store.open(":memory:")) as node:
        node.submit_tx([put(document) for document in DOCUMENTS])
        yield node.db()


def test_a_table_shows_itself_in_columns(db):
    """Without this, an answer at the prompt would be one line of brackets."""
    asked = {"find": ["?name", "?n"], "where": [["?e", "name", "?name"], ["?e", "n", "?n"]], "order-by": [["?n"]]}
    table = db.table(asked)
    assert repr(table) == str(table) == "\n".join([
        "?name            ?n", "--------------  ---", "Ann               1", "<b>Bo</b> & co  2.5"])
    assert list(table) == table.rows == db.q(asked) and len(table) == 2 and table.names == ["?name", "?n"]
    assert db.table(asked | {"keys": ["who", "how many"]}).names == ["who", "how many"]
    assert db.table(asked | {"one": True}).rows == [("Ann", 1)] and db.table(asked | {"limit": 0}).rows == []
    bare = {"find": ("count", "?e"), "in": ["?n"], "where": [["?e", "n", "?n"]]}
    assert db.table(bare, 1).rows == [(1,)] and db.table(bare | {"one": True}, 7).rows == []


def test_a_table_in_a_notebook_is_text_whatever_it_holds(db):
    """Without this, what somebody wrote into a document would run as a script in a notebook."""
    html = db.table({"find": "?v", "in": [["?v", ...]]}, ["<script>", "a\x1b[2J", "\"&"])._repr_html_()
    assert "<td>&lt;script&gt;</td>" in html and "<td>&quot;&amp;</td>" in html and "\x1b" not in html
    assert html.startswith("<table><thead><tr><th>?v</th></tr></thead><tbody><tr><td>")


def test_a_long_table_says_how_much_it_does_not_show(db):
    """Without this, a table of a million rows would fill a notebook's page and its memory."""
    table = db.table({"find": "?v", "in": [["?v", ...]]}, range(store_tables.ROWS_SHOWN + 1_234))
    assert repr(table).endswith("… and 1,234 more rows") and "<p>… and 1,234 more rows</p>" in table._repr_html_()
    assert len(repr(table).splitlines()) == store_tables.ROWS_SHOWN + 3
    assert len(table) == store_tables.ROWS_SHOWN + 1_234


def test_a_frame_has_the_columns_of_the_answers(db):
    """Without this, values would have to be copied into other libraries by hand."""
    table, tried = db.table(ALL), 0
    for name, ask in ("pandas", table.to_pandas), ("polars", table.to_polars), ("pyarrow", table.to_arrow):
        try:
            __import__(name)
        except ImportError:
            continue
        tried += 1
        frame, keeps = ask(), name == "pandas"
        rows = list(zip(*(frame.iloc[:, i] for i in range(7)))) if keeps else \
            frame.rows() if name == "polars" else list(zip(*(column.to_pylist() for column in frame.columns)))
        row = rows[0]
        assert row[:4] == (uuid.UUID(int=1) if keeps else str(uuid.UUID(int=1)), "Ann", 1, MAY)
        assert set(row[4]) == {"a"} and row[5] == (2 ** 70 if keeps else str(2 ** 70)) and row[6] == "Ann"
        assert len(frame) == 2 and len(db.table(ALL | {"limit": 0}).to_pandas() if keeps else ()) == 0
    if not tried:
        pytest.skip("neither pandas nor polars nor pyarrow is installed")


@pytest.mark.parametrize("name, ask", [("pandas", "to_pandas"), ("polars", "to_polars"), ("pyarrow", "to_arrow")])
def test_a_library_that_is_not_there_is_named(db, monkeypatch, name, ask):
    """Without this, a missing library would be a traceback through this one."""
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(store.StoreError, match=f"{name} is not installed here, which this needs: pip install {name}"):
        getattr(db.table(ALL), ask)()
