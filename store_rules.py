# SPDX-License-Identifier: MIT
"""Rules that call each other, or themselves twice, are derived round by round: a query of such rules imports it.

Each round joins what the last one found, in temporary tables, until nothing new comes. What such a rule is asked (its
bound arguments) is a table too, so that only what can matter is derived.
"""

from __future__ import annotations

import importlib
from typing import Any

if not __package__:
    import store
else:                                 # both are part of somebody's package
    store = importlib.import_module(".store", __package__)


class Filling:
    """The tables of rules that call each other, and what fills them."""

    def __init__(self, number: int, group: frozenset[str]):
        self.number, self.group = number, group
        self.tables: dict[tuple, tuple] = {}      # (rule, its bound arguments) → (what holds, what is asked)
        self.first: list = []                     # statements and other fillings, to be run once
        self.rounds: list = []                    # the same, to be run in every round

    def fill(self, run: store._Run) -> None:
        """Runs rounds until one brings nothing new.

        It is run again only if something is new since: else rules that call another twice would fill the last one 2ⁿ
        times.
        """
        if run.settled.get(self.number) == run.new_facts:
            return
        if self.number not in run.rounds:
            run.rounds[self.number] = 0
            run.run_all(self.first)
        new = 1
        while new:
            run.reader.look_at_clock()            # SQLite looks only while one statement is long
            run.rounds[self.number] += 1
            new = run.run_all(self.rounds)
        run.settled[self.number] = run.new_facts


class Turn:
    """One statement of a filling: in its join, the place `delta` takes what the last round found.

    Earlier places take what is older, later ones both, so that no combination comes twice. Place 0 is what is asked;
    the others are the calls of the group, as they are joined. A delta of None takes everything, once.
    """

    def __init__(self, filling: Filling, delta: int | None):
        self.filling, self.delta, self.place = filling, delta, 0

    def condition(self, alias: str, text: store._Text) -> str:
        if self.delta is None:
            return "1"
        operator = "=" if self.place == self.delta else "<" if self.place < self.delta else "<="
        return f"{alias}.g {operator} {text.param('round', self.filling.number)} - 1"

    def join(self, rules: store._Rules, joiner: store._Joiner, block: store._Block, clause: store._RuleCall,
             bound: list[int]) -> store._Block:
        """A call inside its own group: asks for its bound arguments, and joins what holds."""
        table, asked = _tables(rules, self.filling, clause.name, tuple(bound))
        self.place += 1
        if asked and (self.delta is None or self.delta < self.place):
            args, round = [clause.terms[i] for i in bound], joiner.text.param("round", self.filling.number)
            asking = rules.asking(joiner, block, args, round)
            joiner.before.append(joiner.text.statement(f"insert or ignore into temp.{asked} {asking}"))
        return rules.join_table(joiner, block, clause, f"temp.{table}", self.condition("{}", joiner.text))


def table_of(rules: store._Rules, joiner: store._Joiner, name: str, bound: list[int], seeds: str) -> str:
    """The table of a rule that is filled before the statement runs, from what all statements before have asked."""
    group = rules.groups[name]
    filling = rules.fillings.setdefault(group, Filling(len(rules.fillings), group))
    table, asked = _tables(rules, filling, name, tuple(bound))
    if asked:
        round, columns = joiner.text.param("round", filling.number), ", ".join(store._numbered("c", len(bound)))
        joiner.before.append(joiner.text.statement(
            f"insert or ignore into temp.{asked} select {columns}, {round} from {seeds}"))
    joiner.before.append(filling)
    return f"temp.{table}"


def _tables(rules: store._Rules, filling: Filling, name: str, bound: tuple[int, ...]) -> tuple[str, str | None]:
    """The tables of a rule called with these arguments bound: what holds, and what is asked."""
    if (name, bound) not in filling.tables:
        definitions, number = rules.definitions[name], next(store._fresh_numbers)
        table, asked = f"rule{number}", f"asked{number}" if bound else None
        rules.shared.tables.append((table, _made(table, len(definitions[0].head), bound)))
        if asked:
            rules.shared.tables.append((asked, _made(asked, len(bound), ())))
        filling.tables[name, bound] = table, asked
        for definition in definitions:
            for clauses in _without_or(rules.expand(definition.clauses), filling.group):
                _derive(rules, filling, definition.head, bound, table, asked, clauses)
    return filling.tables[name, bound]


def _made(table: str, width: int, bound: tuple[int, ...]) -> tuple[str, ...]:
    """The statements that make a temporary table: each row once, with its round. It is searched by round or `bound`."""
    columns = ", ".join(store._numbered("c", width))
    made = (f"create temp table if not exists {table}({columns}, g, primary key ({columns})) without rowid",
            f"create index if not exists temp.{table}_g on {table}(g)")
    by = ", ".join(f"c{i}" for i in bound)
    return (*made, f"create index if not exists temp.{table}_b on {table}({by})") if bound else made


def _derive(rules: store._Rules, filling: Filling, head: tuple, bound: tuple[int, ...], table: str, asked: str | None,
            clauses: tuple[store._Clause, ...]) -> None:
    """The statements that derive one definition of a rule, one for each place where something new may come from."""
    calls = sum(type(c) is store._RuleCall and c.name in filling.group for c in clauses)
    for delta in range(calls + 1) if asked else [None, *range(1, calls + 1)]:
        turn = Turn(filling, delta)
        target = filling.first if delta is None else filling.rounds
        joiner, block = store._Joiner(rules.shared, target, turn=turn), store._Block()
        if asked:
            x = rules.shared.name("x")
            joiner.add(block, f"temp.{asked} {x}", [head[i] for i in bound], store._numbered(f"{x}.c", len(bound)))
            block.wheres.append(turn.condition(x, joiner.text))
        block = joiner.join(block, clauses, head)
        columns = [joiner.expr(var, block) for var in head] + [joiner.text.param("round", filling.number)]
        target.append(joiner.text.statement(f"insert or ignore into temp.{table} {block.sql(columns, distinct=True)}"))


def _without_or(clauses: tuple, group: frozenset[str]) -> list[tuple]:
    """A rule's clauses as several definitions, where an `or` holds a call of its own group."""
    for place, clause in enumerate(clauses):
        if type(clause) is store._Or and any(call.name in group for call in store._rule_calls([clause])):
            return [made for branch in clause.inside
                    for made in _without_or(clauses[:place] + branch + clauses[place + 1:], group)]
    return [clauses]
