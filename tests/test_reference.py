"""What the reference lists is what the code has, no more and no less."""
import functools
import inspect
import re

import pytest

import shell
import store
import store_bells
import store_import
import store_schema
import store_tables
import store_text
from conftest import ROOT

PAGE = (ROOT / "docs/reference.md").read_text()
NAMED_ELSEWHERE = {"aggregate"}       # heads that `find` alone knows, which are no functions


def section(title):
    """What stands below a heading, up to the next one of its level."""
    level = title.split()[0]
    return PAGE.partition(f"\n{title}\n")[2].partition(f"\n{level} ")[0]


def tables(text):
    """The tables of a text: the first cell of the head, and of each row the cells."""
    for head, rows in re.findall(r"^(\|.*\|)\n\|[ :|-]+\|\n((?:\|.*\n?)+)", text, re.MULTILINE):
        yield head.split("|")[1].strip(), [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows.splitlines()]


def names(title, head):
    """The names in the first column of a table."""
    rows = next(rows for first, rows in tables(section(title)) if first == head)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row[0])]


def called(title):
    """The heads of the calls in the examples of a section."""
    return set(re.findall(r'"([^"]+)"', " ".join(
        call for _, rows in tables(section(title)) for row in rows for call in re.findall(r'\(\s*"[^"]+"', row[0]))))


@pytest.mark.parametrize("title, first", [("## Queries", "query"), ("## Pull patterns", "pattern")])
def test_the_grammar_of_the_reference_is_that_of_the_source(title, first):
    """Without this, those who read the source and those who read the page would write different queries."""
    source = (ROOT / "store.py").read_text()
    grammar = re.search(rf"^#     {first} (?:.*\n#     )+.*", source, re.MULTILINE).group()
    lines = [line.removeprefix("#     ") for line in grammar.splitlines()]
    wanted = [line for line in lines if not line.startswith("options ")]      # which are a table of the page
    assert len(wanted) > 4 and "\n".join(f"    {line}" for line in wanted) in section(title)


def public(kind):
    return {name for name in vars(kind) if name[0] != "_"}


def test_every_function_has_its_example_in_the_reference():
    """Without this, a function could be there and nobody would know, or be praised and not be there."""
    known = {*store._functions(), "created-before", "created-after", "get-attr"}
    assert called("## Functions") == known


def test_every_aggregate_has_its_example_in_the_reference():
    """Without this, people would write by hand what the store computes."""
    rows = next(rows for head, rows in tables(section("## Aggregates")) if head == "`over(…)`")
    assert {row[0].split('"')[1] for row in rows if row[0][1] == '"'} - NAMED_ELSEWHERE == store._aggregates().keys()


LISTS = [
    # the section, the head of its table, what the code has
    ("## Opening", "parameter", set(inspect.signature(store.open).parameters)),
    ("## Values", "type", {kind.__name__ for kind in store._TYPES}),
    ("## Operations", "operation", set(store._PREPARE)),
    ("## Operations", "field", set(store.Tx._fields)),
    ("### The keys of a query", "key", set(store._QUERY_KEYS)),
    ("## Pull patterns", "option", set(store._PULL_OPTIONS)),
    ("### A schema", "declaration", {f'"{option}": {"str" if option == "type" else True}'
                                     for options in store_schema._OPTIONS.values() for option in options}),
    ("## Errors", "error", {name for name, kind in vars(store).items()
                            if inspect.isclass(kind) and issubclass(kind, store.StoreError)}),
    ("### Loading CSV, JSON lines and SQLite", "option", {f'"{option}"' for option in store_import.OPTIONS}),
    ("## The shell", "command", set(shell.COMMANDS)),
    ("## The shell", "option", set(re.findall(r'add_argument\("(--[\w-]+)"', inspect.getsource(shell)))),
]


@pytest.mark.parametrize("title, head, known", LISTS, ids=[f"{title[2:].strip()}: {head}" for title, head, _ in LISTS])
def test_a_list_of_the_reference_is_that_of_the_code(title, head, known):
    """Without this, what was added would be known to its author alone, and what was removed would be looked for."""
    found = names(title, head)
    assert set(found) == known and len(found) == len(known)


@pytest.mark.parametrize("kind", [store.Node, store.Db, store.Listener, store.EntityTx, store.Version, store.Context,
                                  store_tables.Table], ids=lambda kind: kind.__name__)
def test_every_method_parameter_and_field_stands_in_the_reference(kind):
    """Without this, a method could be found by reading the source alone."""
    inherited = {"count", "index"} - set(getattr(kind, "_fields", ()))
    names = public(kind) | set(getattr(kind, "_fields", ()))
    for method in filter(inspect.isfunction, map(functools.partial(getattr, kind), public(kind) - {"wake", "of"})):
        names |= inspect.signature(method).parameters.keys() - {"self"}
    absent = {name for name in names if not re.search(rf"\b{name}\b", PAGE)}
    assert not absent - inherited - {"wake", "of"}      # what the store calls


def test_each_limit_stands_in_the_reference_with_its_value():
    """Without this, people would meet a limit in an error that they could have read of before."""
    store_postgres = pytest.importorskip("store_postgres")
    for module, title, head in ((store, "## Limits", "constant"),
                                (store_schema, "## Limits", "constant of `store_schema`"),
                                (store_text, "## Limits", "constant of `store_text`"),
                                (store_bells, "## Limits", "constant of `store_bells`"),
                                (store_postgres, "## A log on PostgreSQL", "constant of `store_postgres`")):
        rows = next(rows for first, rows in tables(section(title)) if first == head)
        stated = {row[0].strip("`"): float(row[1].replace(",", "")) for row in rows}
        assert {name: getattr(module, name) for name in stated} == stated
        assert {name for name in vars(module) if name.endswith("_MAX") and name.isupper() and name[0] != "_"
                and type(getattr(module, name)) in (int, float)} <= stated.keys()
