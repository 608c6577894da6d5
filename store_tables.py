# SPDX-License-Identifier: MIT
"""Answers as tables: at a terminal, in a notebook, and as frames of pandas, Polars and Arrow.

    table = node.db().table({"find": ["?name", "?age"], "where": [["?e", "name", "?name"], ["?e", "age", "?age"]]})
    print(table)                      # in columns that fit the terminal; a notebook shows it as HTML
    table.names, table.rows           # the elements of find, or what "keys" calls them; tuples
    table.to_pandas()                 # a DataFrame, where pandas is installed; also to_polars() and to_arrow()

The shell prints with it, too. It imports pandas, polars and pyarrow only when it is asked for one of these.
"""

from __future__ import annotations

import bisect
import datetime as dt
import decimal
import enum
import html
import importlib
import itertools
import shutil
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from typing import Any

if not __package__:
    import store
else:                                 # both are part of somebody's package
    store = importlib.import_module(".store", __package__)

ROWS_SHOWN = 100                      # of a table that shows itself; `rows` has all
COLUMN_MIN = 5                        # characters that a column keeps on a narrow terminal


# ── Values ───────────────────────────────────────────────────────────────────────────────────────────────────


def named(value: Any) -> store.Member:
    if type(value) is store.Member:
        return value
    return store.Member(f"{type(value).__module__}:{type(value).__qualname__}", value.name)


def shown(value: Any) -> str:
    """A value in this notation, on one line, without anything that could move a terminal's cursor."""
    match value:
        case store.Member() | enum.Enum():
            return f"Member{shown(tuple(named(value)))}"
        case dict():
            return f"{{{', '.join(f'{shown(key)}: {shown(item)}' for key, item in value.items())}}}"
        case list():
            return f"[{', '.join(map(shown, value))}]"
        case tuple():
            return f"({', '.join(map(shown, value))}{',' if len(value) == 1 else ''})"
        case set() if value:
            return f"{{{', '.join(sorted(map(shown, value)))}}}"
        case frozenset():
            return f"frozenset({shown(set(value)) if value else ''})"
        case uuid.UUID() | dt.date() | decimal.Decimal():
            return f"{type(value).__name__}(\"{bare(value)}\")"
    return "..." if value is ... else repr(value)


def bare(value: Any) -> str:
    """A value as a table shows it: text, ids and times without their quotes."""
    match value:
        case str():
            return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)
        case dt.datetime():
            return value.isoformat().replace("+00:00", "Z")
        case uuid.UUID() | dt.date() | dt.time() | dt.timedelta() | decimal.Decimal():
            return str(value)
    return shown(value)


# ── Lines ────────────────────────────────────────────────────────────────────────────────────────────────────


def columns(text: str) -> int:
    """The columns that a printable text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _fitted(text: str, width: int, is_number: bool) -> str:
    """The text in exactly this many columns, cut with an ellipsis if it is longer."""
    room = width - columns(text)
    if room < 0:
        widths = itertools.accumulate(map(columns, text))
        text = text[:sum(1 for taken in itertools.takewhile(lambda taken: taken < width, widths))] + "…"
        room = width - columns(text)
    return " " * room + text if is_number else text + " " * room


def table(names: list[str], rows: list[tuple], width: int | None) -> Iterator[str]:
    """Lines: the names, a rule, the rows; in columns that together fit the width (None: as wide as they are)."""
    cells = [[bare(value) for value in row] for row in rows]
    widths = [max(map(columns, column)) for column in zip(names, *cells)]
    if width is not None:
        room = width - 2 * (len(widths) - 1)
        cap = bisect.bisect_right(range(width + 1), room, key=lambda cap: sum(min(cap, wide) for wide in widths)) - 1
        widths = [min(wide, max(cap, COLUMN_MIN)) for wide in widths]
    numbers = [all(type(value) in (int, float) for value in column) for column in zip(*rows)] or [False] * len(names)
    for line in [names, ["-" * wide for wide in widths], *cells]:
        yield "  ".join(map(_fitted, line, widths, numbers)).rstrip()


def tabled(query: dict, answers: list) -> tuple[list[str], list[tuple]]:
    """The columns of a query's answers and their rows."""
    find = query.get("find")
    if answers and type(answers[0]) is dict and any(key in query for key in ("keys", "strs", "syms")):
        return [bare(key) for key in answers[0]], [tuple(answer.values()) for answer in answers]
    if type(find) is list:
        return [bare(element) for element in find], answers
    return [bare(find)], [(answer,) for answer in answers]


# ── Tables ───────────────────────────────────────────────────────────────────────────────────────────────────


class Table:
    """The answers of a query, with a name for each column."""

    def __init__(self, names: list[str], rows: list[tuple]):
        self.names, self.rows = names, rows

    @classmethod
    def of(cls, query: dict, answers: Any) -> Table:
        """The table of what `q` gave."""
        if query.get("one"):
            answers = [] if answers is None else [answers]
        return cls(*tabled(query, answers))

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple]:
        return iter(self.rows)

    def __repr__(self) -> str:
        lines = table(self.names, self.rows[:ROWS_SHOWN], shutil.get_terminal_size().columns)
        return "\n".join([*lines, *self._hidden()])

    def _repr_html_(self) -> str:
        """What a notebook shows. Everything in it is text."""
        cells = lambda tag, values: "".join(f"<{tag}>{html.escape(bare(value))}</{tag}>" for value in values)
        rows = "".join(f"<tr>{cells('td', row)}</tr>" for row in self.rows[:ROWS_SHOWN])
        hidden = "".join(f"<p>{line}</p>" for line in self._hidden())
        return f"<table><thead><tr>{cells('th', self.names)}</tr></thead><tbody>{rows}</tbody></table>{hidden}"

    def _hidden(self) -> list[str]:
        more = len(self.rows) - ROWS_SHOWN
        return [f"… and {more:,} more rows"] if more > 0 else []

    # Frames

    def to_pandas(self) -> Any:
        """A pandas.DataFrame, with values as they are."""
        return _library("pandas").DataFrame(self.rows, columns=self.names)

    def to_polars(self) -> Any:
        """A polars.DataFrame, with values as `_columns` tells."""
        polars = _library("polars")
        return polars.DataFrame([column for _, column in self._columns(polars.Series)])

    def to_arrow(self) -> Any:
        """A pyarrow.Table, with values as `_columns` tells."""
        arrow = _library("pyarrow")
        return arrow.table(dict(self._columns(lambda _, column: arrow.array(column))))

    def _columns(self, make: Callable[[str, list], Any]) -> Iterator[tuple[str, Any]]:
        """What a library makes of the columns, each with a name of its own.

        UUIDs become texts, sets and tuples lists. A column that has no type in the library, as one with values of
        several types, becomes texts.
        """
        taken: dict[str, int] = {}
        for place, name in enumerate(self.names):
            taken[name] = taken.get(name, 0) + 1
            name += f" {taken[name]}" if taken[name] > 1 else ""
            column = [_plain(row[place]) for row in self.rows]
            kinds = {type(value) for value in column if value is not None}
            try:
                if len(kinds) > 1 and not kinds <= {int, float}:
                    raise TypeError
                if kinds == {int, float}:
                    column = [value if value is None else float(value) for value in column]
                made = make(name, column)
            except Exception:         # each library has its own for what it cannot hold
                made = make(name, [value if value is None else bare(value) for value in column])
            yield name, made


def _plain(value: Any) -> Any:
    """A value of the types that frames have."""
    match value:
        case uuid.UUID() | store.Member() | enum.Enum():
            return bare(value)
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in value]
        case dict():
            return {bare(key): _plain(item) for key, item in value.items()}
    return value


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise store.StoreError(f"{name} is not installed here, which this needs: pip install {name}.") from None
