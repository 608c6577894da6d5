# SPDX-License-Identifier: MIT
"""Advice to those who write queries: how one is answered and what that costs, and what in it finds nothing.

`Db.explain` imports it, and so does the first query with a clause that finds nothing. Without this file such a query
answers the same, and nothing is logged.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

if not __package__:
    import store
else:                                 # both are part of somebody's package
    store = importlib.import_module(".store", __package__)


# ── How a query is answered ──────────────────────────────────────────────────────────────────────────────────


def explained(reader: store._Reader, mode: str, db: store.Db, parsed: store._Parsed, args: tuple,
              analyze: bool) -> str:
    """The clauses of a query in their order, what finds nothing, the SQL, and SQLite's plan of it."""
    nothing = tuple(db if binding.shape == "source" else None for binding in parsed.ins)
    with store._Run(db, reader, mode, parsed, args or nothing) as run:
        plan = run.plan
    lines = ["clauses in their order:", *(f"  {store._short(note)}" for note in plan.notes)]
    lines += [f"in vain: {doubt}" for _, doubt in doubts(db._file, plan.vain)]
    if plan.late:
        lines += ["then read from the documents:", *(f"  {read.a} as {read.v}" for read in plan.late)]
    for statement in (*statements(plan.before, set()), *(plan.arms[:2] or (plan.main,))):
        lines += ["SQL:", f"  {statement.sql}"]
        if not plan.tables:
            steps = reader.execute("explain query plan " + statement.sql, (None,) * statement.highest).fetchall()
            lines += ["SQLite's plan:", *(f"  {row[3]}" for row in steps)]
    return "\n".join([*lines, *(measured(reader, mode, db, parsed, args) if analyze else ())])


def statements(parts: Iterable[Any], told: set) -> Iterator[store._Statement]:
    """All the statements that fill rules' tables, each filling once."""
    for part in parts:
        if isinstance(part, store._Statement):
            yield part
        elif part not in told:
            told.add(part)
            yield from statements((*part.first, *part.rounds), told)


def measured(reader: Any, mode: str, db: Any, parsed: Any, args: tuple) -> list[str]:
    """The rows after each step and its ms: SQLite tells neither, so all steps up to each are asked and counted anew.

    The time of a step is their time less the time of the steps before it. The query's timeout bounds the whole.
    """
    steps: list[tuple] = []
    lines, taken = ["measured:", "        rows         ms"], 0.0

    def measure(what: str, ask: Callable[[], Any], before: float = 0.0) -> tuple[Any, float]:
        begun = time.perf_counter()
        found = ask()
        ms = (time.perf_counter() - begun) * 1000
        lines.append(f"{found if type(found) is int else len(found):>12,} {max(ms - before, 0):>10,.3f}  {what}")
        return found, ms
    with store._Run(db, reader, mode, parsed, args, steps) as run:
        try:
            if run.plan.tables:
                measure("rules, and stages of many clauses", lambda: _derived(run))
            for source, statement in steps:
                _, taken = measure(store._short(source), lambda: run.execute(statement).fetchone()[0], taken)
            run.rounds.clear()        # of the rules, which begin anew
            rows, _ = measure("all of SQL, with the functions that clauses call", lambda: list(run.rows()))
            measure("Python: values, documents, groups, order, pulls", lambda: store._Answers(run).whole(rows))
        except (sqlite3.Error, store.QueryLimitError) as error:
            if not isinstance(error, store.QueryLimitError):
                with contextlib.suppress(store.QueryLimitError):
                    reader.fail(error)
            lines.append(f"  stopped: the timeout of {parsed.timeout_s * 1000:,.0f} ms is over")
    return lines


def _derived(run: Any) -> int:
    """How many rows the rules' tables have, once they are filled."""
    run.derive()
    counts = [f"(select count(*) from temp.{table})" for table, _ in run.plan.tables]
    return run.reader.execute(f"select {' + '.join(counts)}").fetchone()[0]


# ── What finds nothing ───────────────────────────────────────────────────────────────────────────────────────


def tell(told: set, file: store._File, vain: Iterable[store._Triple]) -> None:
    """Logs what clauses find nothing, and why, each once."""
    for level, doubt in doubts(file, vain):
        if doubt not in told and len(told) < store.PLANS_CACHED:
            told.add(doubt)
            store.log.log(level, "a query asks in vain: %s", doubt)


def doubts(file: store._File, vain: Iterable[store._Triple]) -> list[tuple[int, str]]:
    """(the level to log it at, a sentence) of each clause that finds nothing."""
    return list(dict.fromkeys(_doubt(file, triple) for triple in vain))


def _doubt(file: store._File, triple: store._Triple) -> tuple[int, str]:
    known = file.index.attributes
    kinds_of = lambda a: file.index.kinds.get(known.get(a), 0)
    name, a = triple.source[1], triple.a
    if kinds_of(a):
        value = triple.v.value
        return logging.WARNING, f"no document has a {type(value).__name__} like {store._short(value)} in {a}"
    if type(name) is str and kinds_of(name):
        return logging.WARNING, f"no document has {a}, which {name} follows backwards; {{{name!r}}} does not"
    if a in file.expected:
        return logging.DEBUG, f"no document has {a}"
    had = [other for other in known if kinds_of(other)]
    if alike := difflib.get_close_matches(a, had, 1, 0.8):
        return logging.WARNING, f"no document has {a}; {alike[0]} is an attribute"
    space, slash, _ = a.partition("/")
    is_begun = any(other.startswith(space + slash) for other in had) if slash else bool(had)
    return logging.INFO if is_begun else logging.DEBUG, f"no document has {a}"
