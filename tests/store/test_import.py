"""What the shell loads from other people's files: CSV, JSON lines, SQLite."""
import contextlib
import datetime as dt
import decimal
import sqlite3
import uuid

import pytest

import shell
import store
import store_import

PEOPLE = 'email,name,age,born\nann@x.org,Ann,41,1983-05-01\nbo@x.org,"Bo, jr",,1990-01-02\n'
SHOP = """
    create table author(id integer primary key, name text);
    create table book(isbn text primary key, title text, author integer references author(id), pages, cover blob);
    create table tag(book text references book(isbn), tag text, primary key (book, tag));
    insert into author values (1, 'Ursula');
    insert into book values ('i1', 'Dis', 1, 300, x'00ff'), ('i2', 'Left', 1, null, null);
    insert into tag values ('i1', 'sf');
"""


@pytest.fixture
def load(tmp_path, capsys):
    """Loads a file with this text, or SQL, into a store: its documents without their ids, by id."""
    def loaded(name, text, options=""):
        path = tmp_path / name
        if name.endswith(".sqlite"):
            with contextlib.closing(sqlite3.connect(path)) as connection:
                connection.executescript(text)
        else:
            path.write_bytes(text if type(text) is bytes else text.encode())
        with contextlib.closing(store.open(":memory:")) as node:
            try:
                shell.Shell(node, "it").run(f".load {path} {options}".strip())
            finally:
                assert node.latest_tx is None or node.latest_tx.tx_id == len(list(node.tx_log()))
                loaded.transactions = len(list(node.tx_log()))
            found = node.db().q({"find": ("pull", "?e", ["*"]), "where": [["?e", "xt/id"]]})
        return {document.pop("xt/id"): document for document in found}
    return loaded


def test_a_csv_file_becomes_documents(load):
    """Without this, a table from elsewhere would need a program before it could be asked anything."""
    found = load("people.csv", PEOPLE, '{"id": "email", "space": "person", "types": {"age": "int", "born": "date"}}')
    assert found == {
        "ann@x.org": {"person/email": "ann@x.org", "person/name": "Ann", "person/age": 41,
                      "person/born": dt.date(1983, 5, 1)},
        "bo@x.org": {"person/email": "bo@x.org", "person/name": "Bo, jr", "person/born": dt.date(1990, 1, 2)}}
    found = load("people.tsv", "\ufeff" + "name\tn\nAnn\t007\n")
    assert list(found.values()) == [{"name": "Ann", "n": "007"}] and type(list(found)[0]) is uuid.UUID
    types = {"a": "float", "b": "decimal", "c": "bool", "d": "datetime", "e": "uuid", "f": "text"}
    found = load("all.csv", f"id,a,b,c,d,e,f\nx,1.5,1.50,no,2024-05-01T12:00,{uuid.UUID(int=7)},1\n",
                 f'{{"id": "id", "types": {types}}}')
    assert found["x"] == {"id": "x", "a": 1.5, "b": decimal.Decimal("1.5"), "c": False, "e": uuid.UUID(int=7), "f": "1",
                          "d": dt.datetime(2024, 5, 1, 12, tzinfo=dt.timezone.utc)}


def test_json_lines_become_documents_as_they_are(load):
    """Without this, what an API gave would have to be rewritten as an export of ours."""
    lines = '{"xt/id": "a", "n": 1, "tags": ["x", "y"], "of": {"k": null}}\n\n{"xt/id": "b", "n": null}\n'
    found = load("some.jsonl", lines)
    assert found == {"a": {"n": 1, "tags": ["x", "y"], "of": {"k": None}}, "b": {}}


def test_tables_of_sqlite_become_documents_that_refer_to_each_other(load):
    """Without this, foreign keys would be numbers, and every join a comparison of these."""
    found = load("shop.sqlite", SHOP)
    assert found == {
        "author/1": {"author/id": 1, "author/name": "Ursula"},
        "book/i1": {"book/isbn": "i1", "book/title": "Dis", "book/author": "author/1", "book/pages": 300,
                    "book/cover": b"\x00\xff"},
        "book/i2": {"book/isbn": "i2", "book/title": "Left", "book/author": "author/1"},
        "tag/i1/sf": {"tag/book": "book/i1", "tag/tag": "sf"}}


def test_one_table_of_sqlite_and_ids_of_its_own(load):
    """Without this, a database would come in as a whole or not at all."""
    found = load("one.sqlite", SHOP, '{"table": "book", "id": "isbn", "space": ""}')
    assert found["i1"] == {"isbn": "i1", "title": "Dis", "author": 1, "pages": 300, "cover": b"\x00\xff"}
    assert len(found) == 2


def test_a_row_of_the_same_id_is_a_later_version(load):
    """Without this, of two rows about one thing it would be chance which one stays in history."""
    assert load("two.csv", "k,n\na,1\na,2\n", '{"id": "k"}') == {"a": {"k": "a", "n": "2"}} and load.transactions == 2


@pytest.mark.parametrize("name, text, options, sentence", [
    ("a.csv", "a,b\n1,2\n1\n", "", "line 3, cannot be loaded: it has 1 fields, the first line has 2"),
    ("a.csv", "a,a\n1,2\n", "", "names a column twice"),
    ("a.csv", "a\n1\nx\n", '{"types": {"a": "int"}}', "line 3, cannot be loaded: invalid literal"),
    ("a.csv", "a\n1\n", '{"types": {"b": "int"}}', "has no column 'b'"),
    ("a.csv", "a\n1\n", '{"types": {"a": "zip"}}', "no type 'zip'"),
    ("a.csv", "a\n1\n", '{"id": "b"}', "line 2, cannot be loaded: it has no 'b' to be its id"),
    ("a.csv", "a\n1\n", '{"ids": "b"}', "no option 'ids'"),
    ("a.csv", b"a\n\xff\n", "", "cannot be loaded: 'utf-8' codec"),
    ("a.csv", 'a\n"1\n', "", "cannot be loaded: unexpected end of data"),
    ("a.jsonl", '{"a": 1}\n{"a": NaN}\n', "", "line 2, cannot be loaded: it is no JSON: NaN is not JSON"),
    ("a.jsonl", '{"a": 1}\n[1]\n', "", "line 2, cannot be loaded: it is no object"),
    ("a.jsonl", '{"xt/id": [1]}\n', "", "line 1, cannot be loaded"),
    ("a.sqlite", SHOP, '{"table": "books"}', "has no table 'books', but author, book, tag"),
    ("a.sqlite", "create table log(x); create table documents(x); create table facts(x);", "", "it is a store"),
    ("a.db", "no database at all", "", "file is not a database"),
    ("a.xls", "", "", "of no kind that can be loaded"),
])
def test_what_cannot_be_loaded_is_told_with_its_place_and_nothing_is_written(load, name, text, options, sentence):
    """Without this, a bad line in the middle of a file would leave half of it in the store."""
    with pytest.raises((store.StoreError, shell.ShellError)) as refused:
        load(name, text, options)
    assert sentence in str(refused.value) and load.transactions == 0


def test_options_that_are_none_are_told(load):
    """Without this, a slip in the options would be Python's traceback."""
    with pytest.raises(shell.ShellError, match="are no options"):
        load("a.csv", "a\n1\n", '{"id"}')
    assert store_import.OPTIONS == {"id", "space", "types", "table"}
