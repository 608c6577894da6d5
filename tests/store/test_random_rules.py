"""Random programs of rules, beside an evaluator that applies every rule until nothing new comes.

The names of variables are few and shared on purpose, by rules, by their callers and by arguments: a name must mean
nothing outside the clause, rule or query in which it stands.
"""
import random
import uuid

import naive
import trials

VARS = ["?a", "?b", "?c", "?d"]
IDS = ["a", "b", 1, 2, uuid.UUID(int=7), uuid.UUID(int=8), ("t", 1)]
MIXED = [0, 1, 1.0, "a", (1, "a"), "long " * 30, "x" * 64]
NAMES = ["p", "r", "s", "t"]
TIMEOUT_MS = 5_000          # of a question about seven documents
CALLS_MAX = 3               # in one rule, and in the query beside its subqueries


def plus(value):
    """Of whole numbers the next, and after four the first: a rule that counts comes to an end."""
    return (value + 1) % 5 if type(value) is int else None


def both(value):
    return [0, 1, 1] if value == 0 else [value]


def pairs(value):
    return [(value, "a"), (0, value)]


def grouped(value):
    return [(value, [0, 1, 1]), (1, ["a"]), (value,)]


def is_text(value):
    return type(value) is str


class Programmer:
    """Draws documents, rules and queries that call them."""

    def __init__(self, rng):
        self.rng = rng

    def some(self, chance):
        return self.rng.random() < chance

    # Documents: a small graph, with numbers at its nodes.

    def document(self, id):
        rng, document = self.rng, {"xt/id": id, "num": self.rng.randrange(4)}
        if self.some(0.75):
            document["to"] = rng.choice([set, list])(rng.sample(IDS, rng.randrange(4)))
        if self.some(0.5):
            document["up"] = rng.choice(IDS)
        if self.some(0.4):
            document["mix"] = rng.choice(MIXED + [True, None, 2 ** 63, uuid.UUID(int=7)])
        return document

    def documents(self):
        return [self.document(id) for id in self.rng.sample(IDS, self.rng.randrange(2, 7))]

    # Clauses, in a scope of variables; `level`: a rule is negated only by those above it.

    def var(self):
        return self.rng.choice(VARS)

    def constant(self, a="to"):
        return self.rng.choice({"num": [0, 1, 2, 3], "mix": MIXED}.get(a, IDS))

    def term(self, a="to", blank=0.08):
        roll = self.rng.random()
        return "_" if roll < blank else self.constant(a) if roll < blank + 0.08 else self.var()

    def attribute(self):
        return self.rng.choice(["to", "to", "to", "up", "up", "num", "mix", "xt/id"])

    def triple(self, *wanted):
        """A clause on the graph; it has the wanted variables, at most two."""
        a = self.attribute()
        terms = [*wanted, *(self.term(a) for _ in range(2 - len(wanted)))]
        self.rng.shuffle(terms)
        e, v = terms
        if not naive.is_var(e) and e not in ("_", "a", "b", 1, 2, "k"):
            e = "a"                                             # a tuple in the first place is a call
        if e not in wanted and self.some(0.07):
            e = self.ref()
        named = self.rng.choice([self.var(), self.var(), "_", {a, "num"}]) if self.some(0.1) else \
            "_" + a if a in ("to", "up") and self.some(0.1) else a
        if not wanted and self.some(0.1):
            return [e, named]
        if type(named) is str and named[1:] == a and self.some(0.1) and v not in wanted:
            return [e, named, self.ref()]                       # of a clause read backwards both are entities
        if type(v) is dict or v != "_" and not naive.is_var(v) and not wanted and self.some(0.3):
            v = {one for one in (v, self.constant(a)) if type(one) is not dict} or "_"
        return [e, named, v]

    def ref(self):
        """A lookup ref; several entities may have its value, or none."""
        a = self.rng.choice(["num", "num", "up", "to", "mix", "xt/id"])
        return [a, self.constant(a)]

    def call(self, below, wanted=()):
        """A call of a rule that stands below a level."""
        names = [name for name in self.arity if self.level[name] < below and self.arity[name] >= len(wanted)]
        if not names or not self.calls_left:
            return self.triple(*wanted)
        name, self.calls_left = self.rng.choice(names), self.calls_left - 1
        terms = [*wanted, *(self.term() for _ in range(self.arity[name]))][:self.arity[name]]
        self.rng.shuffle(terms)
        return (name, *terms)

    def clauses(self, level, depth, wanted=()):
        """A few clauses that belong together; the wanted variables stand in those that bind."""
        rng, wanted = self.rng, list(wanted)
        made = []
        while wanted or not made:
            count = rng.randrange(1, 3)
            some, wanted = wanted[:count], wanted[count:]
            made.append(self.call(level + 1, some) if self.some(0.45) else self.triple(*some))
        while self.some(0.35):
            made.append(self.call(level + 1) if self.some(0.5) else self.triple())
        for chance, make in ((0.25, self.negated), (0.2, self.either), (0.15, self.compared), (0.15, self.computed),
                             (0.06, self.inner)):
            if depth and self.some(chance):
                made.append(make(level, depth - 1))
        rng.shuffle(made)
        return made

    def negated(self, level, depth):
        if self.some(0.3):
            shared = self.var()
            return ("not-join", [shared], *self.clauses(level - 1, depth, [shared]))
        return ("not", *self.clauses(level - 1, depth))

    def either(self, level, depth):
        kind = self.rng.choice(["or", "or-join"])
        shared = self.rng.sample(VARS, self.rng.randrange(1, 3))
        branches = [self.branch(level, depth, shared) for _ in range(self.rng.randrange(1, 4))]
        if kind == "or":
            return ("or", *branches)
        return ("or-join", [[shared[0]], *shared[1:]] if len(shared) == 2 and self.some(0.2) else shared, *branches)

    def branch(self, level, depth, shared):
        clauses = self.clauses(level, depth if self.some(0.3) else 0, shared)
        return clauses[0] if len(clauses) == 1 else ("and", *clauses)

    def compared(self, level, depth):
        name = self.rng.choice(["<", ">=", "==", "!=", "!=", "=", is_text])
        if name is is_text:
            return [(is_text, self.var())]
        if name == "==" and self.some(0.3):
            return [(name, self.var(), {self.constant("num"), self.constant("num")})]
        return [(name, self.var(), self.var() if self.some(0.5) else self.rng.choice([0, 1, 2, "a"]))]

    def computed(self, level, depth):
        return self.rng.choice([
            [(plus, self.var()), self.var()], [("identity", self.var()), self.var()],
            [(both, self.var()), [self.var(), ...]],
            [(pairs, self.var()), [self.rng.sample(VARS, 2)]], self.nested(), [("str", self.var()), self.var()],
            [("get-attr", self.var(), "to", 0), [self.var(), ...]], [("get-attr", self.var(), "mix")]])

    def nested(self):
        one, other = self.rng.sample(VARS, 2)
        return [(grouped, self.var()), [[one, [other, ...]]]]

    def inner(self, level, depth):
        """A subquery: it sees its argument, under a name of its own, and the rules."""
        given, found = self.rng.sample(VARS, 2)
        query = {"find": [found], "in": [given], "where": self.clauses(level - 1, 0, [given, found])}
        call = ("q", query, self.var())
        return [call, [[self.var()]]] if self.some(0.7) else [call]

    # Rules and queries.

    def rules(self):
        rng, names = self.rng, self.rng.sample(NAMES, self.rng.choice([1, 1, 2, 2, 3]))
        self.arity = {name: rng.choice([1, 2, 2, 2, 3]) for name in names}
        self.level = {name: rng.randrange(1, 3) for name in names}
        made = [self.rule(name) for name in names for _ in range(rng.choice([1, 1, 2]))]
        made += [self.base(name) for name in names if self.some(0.85)]
        if self.some(0.25):
            made += self.recursive(rng.choice(names))
        rng.shuffle(made)
        return made

    def head(self, name):
        vars = self.rng.sample(VARS, self.arity[name])
        return vars, (name, [vars[0]], *vars[1:]) if self.some(0.06) else (name, *vars)

    def rule(self, name):
        vars, head = self.head(name)
        if self.some(0.08) and len(vars) == 2:
            return [head, [(self.rng.choice(["=", "=="]), *vars)]]               # binds nothing: the call must
        self.calls_left = CALLS_MAX
        return [head, *self.clauses(self.level[name], 1, vars)]

    def base(self, name):
        """A rule that asks no other, so that there is something to begin with."""
        vars, head = self.head(name)
        return [head, *([one, "to", other] for one, other in zip(vars, vars[1:] or ["_"]))]

    def recursive(self, name):
        """A rule that is sure to recur: linear from either end, or doubling."""
        if self.arity[name] != 2:
            return []
        x, y, z = self.rng.sample(VARS, 3)
        step = self.rng.choice([[x, "to", z], [z, "to", x], [x, "up", z]])
        way = self.rng.choice([[step, (name, z, y)], [(name, z, y), step], [(name, x, z), (name, z, y)],
                               [(name, x, z), [z, "up", y]]])
        return [[(name, x, y), [x, "to", y]], [(name, x, y), *way]]

    def bindings(self):
        """(in, args) of every shape; the names may be those of the rules, or come twice."""
        rng, ins, args = self.rng, [], []
        while self.some(0.45) and len(ins) < 2:
            shape = rng.randrange(5)
            one, other = rng.sample(VARS, 2)
            value = lambda: self.ref() if self.some(0.06) else rng.choice([*IDS, 0, 1, 2, 3])
            ins.append([one, [one, ...], [one, other], [[one, other]], [one, [other, ...]]][shape])
            several = [value() for _ in range(rng.randrange(4))]
            args.append([value(), several, (value(), value()), [(value(), value()) for _ in range(3)],
                         (value(), several)][shape])
        return ins, args

    def query(self, rules):
        ins, args = self.bindings()
        self.calls_left = CALLS_MAX
        where = [self.call(9, [self.var()]) for _ in range(self.rng.choices([1, 2, 3], [5, 4, 1])[0])]
        where += self.clauses(8, 2)[:self.rng.randrange(3)]
        self.rng.shuffle(where)
        query = {"find": self.some_of(where, ins), "where": where, "rules": rules, "timeout": TIMEOUT_MS}
        return self.with_past(query | ({"in": ins} if ins else {}), args)

    def with_past(self, query, args):
        """The query, at times with clauses that are asked of another snapshot."""
        if not self.some(0.15):
            return query, args
        where = [("$past", ("$", clause) if self.some(0.1) else clause) if self.some(0.5) else clause
                 for clause in query["where"]]
        if self.some(0.3):
            where.append(("$past", [self.rng.choice(["a", 1, self.var(), self.var()]), self.var(), self.var()]))
        return query | {"where": where, "in": [*query.get("in", []), "$past"]}, [*args, trials.PAST_DB]

    def some_of(self, where, ins):
        """Some of the variables of a query, in any order."""
        vars = naive.mentioned(naive.all_parsed(where)).union(*(naive.binding(given)[1] for given in ins))
        return self.rng.sample(sorted(vars), self.rng.randrange(1, len(vars) + 1)) if vars else ["?a"]


def test_random_programs_of_rules_answer_as_the_naive_evaluator_does(size, seed, say, open_store):
    """Without this, a rule could read its caller's variables as its own, and answer wrongly in silence."""
    counts = trials.ask_many(Programmer, random.Random(seed), open_store, size(2_000, 100_000))
    say(f"0 differences in {counts['asked']:,} programs of rules ({counts['found']:,} find something, "
        f"{counts['drawn']:,} were drawn), seed {seed} (asked: 0 in 2,000)")
