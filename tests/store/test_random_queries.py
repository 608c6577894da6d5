"""Random queries and pulls beside an evaluator that tries everything, on every kind of snapshot."""
import random
import uuid

import naive
import trials
from test_random_rules import IDS, VARS, Programmer, plus

NUMBERS = [0, 1, 2, 3, 1.0, 2.5, 0.0, -1]
LARGE = [2 ** 61 - 1, 2 ** 61, -2 ** 61, -2 ** 61 - 1, 2 ** 63 - 1, 2 ** 63, -2 ** 63, 2 ** 64, 2.0 ** 61, 2.0 ** 63,
         0.5, 7]
TEXTS = ["", "a", "b", "x" * 63, "x" * 64, "x" * 65, "é" * 32, "é" * 33, "long " * 30, "long " * 31]
OTHER = [None, True, False, (1, "a"), (1,), {"k": 1}, b"x" * 64, b"x" * 65, uuid.UUID(int=7)]
VALUES = {"num": [0, 1, 2, 3], "price": NUMBERS, "large": [*LARGE, *LARGE, 0, 1], "text": TEXTS, "kind": ["k", "l"],
          "mix": [*NUMBERS, *LARGE[:4], *TEXTS[:7], *OTHER]}
COMPARISONS = ["<", "<=", ">", ">=", "=", "==", "!="]


def is_short(value):
    return type(value) is str and len(value) < 64


def halves(value):
    return (value[:1], value[1:]) if type(value) is str else (value,)


class Asker(Programmer):
    """Draws what `Programmer` does, in richer documents, with everything that `find` and a page can say."""

    def document(self, id):
        document = super().document(id) | {"kind": self.rng.choice("kkkl")}
        for a in "price", "large", "text", "mix":
            if self.some(0.55):
                document[a] = self.rng.choice(VALUES[a])
        if self.some(0.4):
            of = self.rng.choices(["price", "text", "mix"], k=self.rng.randrange(4))
            document["list"] = [self.rng.choice(VALUES[a]) for a in of]
        return document

    def constant(self, a="to"):
        return self.rng.choice(VALUES.get(a, IDS))

    def attribute(self):
        return self.rng.choice(["to", "to", "up", "up", "num", "price", "large", "text", "mix", "list", "kind",
                                "xt/id"])

    def compared(self, level, depth):
        name, var = self.rng.choice(COMPARISONS), self.var()
        if self.some(0.15):
            return [(is_short, var)]
        if name in ("==", "!=") and self.some(0.3):
            return [(name, var, {value for value in self.rng.sample(TEXTS + NUMBERS, self.rng.randrange(4))})]
        terms = [var, self.var() if self.some(0.4) else self.rng.choice([*NUMBERS, *LARGE, *TEXTS, "a", 1])]
        self.rng.shuffle(terms)
        return [(name, *terms)]

    def computed(self, level, depth):
        if self.some(0.5):
            return super().computed(level, depth)
        one, other = self.rng.sample(VARS, 2)
        return self.rng.choice([
            [(halves, self.var()), [one, other]], [(halves, self.var()), [one, "_"]], [(plus, (plus, one)), other],
            [("get-attr", self.var(), "list"), [one, ...]], [("get-attr", self.var(), "text", "none"), [one, ...]]])

    # What a query asks for.

    def query(self, rules):
        query, args = super().query(rules)
        if self.some(0.5):
            self.calls_left = 0
            query["where"] = self.clauses(8, 2) + ([self.call(9)] if self.some(0.15) else [])
            if self.some(0.3):
                query["where"].append([self.var(), "kind", "k"])
            query["find"] = self.some_of(query["where"], query.get("in", []))
        found = query["find"]
        query["find"] = [self.element(var) for var in found]
        if any(map(naive.has_aggregate, query["find"])) and self.some(0.4):
            query["with"] = self.rng.sample(found, self.rng.randrange(len(found) + 1))
        if self.some(0.1):
            query["find"].append(self.rng.choice(query["find"]))
        if len(query["find"]) == 1 and type(query["find"][0]) is not list and self.some(0.4):
            query["find"] = query["find"][0]
        return query | self.page(query["find"]), args

    def element(self, var):
        roll = self.rng.random()
        if roll < 0.7:
            return var
        if roll < 0.8:
            return ("pull", var, self.pattern(2))
        if roll < 0.84:
            return ("str", var)
        if roll < 0.88:
            return self.rng.choice([[var, 7], {"k": var, "s": [("str", var)]}, [("count", var), ["n"]], ["_", [var]]])
        name = self.rng.choice(["count", "count", "count-distinct", "sum", "min", "max", "avg", "median", "variance",
                                "distinct"])
        return (name, 2, var) if name in ("min", "max") and self.some(0.3) else (name, var)

    def page(self, find):
        made, find = {}, find if type(find) is list else [find]
        elements = [one for one in find if type(one) not in (list, dict) and one[0] not in ("pull", "distinct")]
        if elements and self.some(0.35):
            chosen = self.rng.sample(elements, min(len(elements), self.rng.randrange(1, 3)))
            made["order-by"] = [[element, *self.rng.choice([[], ["asc"], ["desc"]])] for element in chosen]
        if self.some(0.25):
            made["limit"] = self.rng.randrange(6)
        if self.some(0.2):
            made["offset"] = self.rng.randrange(5)
        return made

    def pattern(self, depth):
        """Attributes, renames, defaults, joins both ways, to any depth; each attribute once."""
        rng, made = self.rng, ["*"] if self.some(0.3) else []
        for a in rng.sample(["num", "text", "up", "to", "_up", "_to", "list", "none", "xt/id"], rng.randrange(1, 4)):
            below = rng.choice([self.pattern(depth - 1), self.pattern(depth - 1), ..., 2]) if depth else ["xt/id"]
            if a in ("up", "to"):
                made.append(rng.choice([a, {a: below}, (a, {"default": False}, below)]))
            elif a[0] == "_" and type(below) is list:
                made.append(rng.choice([{a: below}, (a, {"as": "_rev"}, below)]))
            elif a[0] != "_":
                options = {"as": "k " + a}, {"default": rng.choice([7, None])}, {"limit": 2}, {"xform": repr}
                made.append(rng.choice([a, a, (a, rng.choice(options))]))
        return made


def test_random_queries_answer_as_trying_everything_does(size, seed, say, open_store):
    """Without this, a query that nobody thought of could be wrong in silence."""
    counts = trials.ask_many(Asker, random.Random(seed), open_store, size(1_000, 200_000))
    say(f"0 differences in {counts['asked']:,} queries ({counts['found']:,} find something, "
        f"{counts['drawn']:,} were drawn), seed {seed} (asked: 0)")


def test_random_pulls_fetch_what_walking_the_documents_does(size, seed, say, open_store):
    """Without this, a page could lack a part of what its pattern describes, or show another snapshot's."""
    rng, wanted, asked, found = random.Random(seed), size(750, 100_000), 0, 0
    while asked < wanted:
        asker = Asker(rng)
        documents, decoys, way = asker.documents(), asker.documents(), rng.choice(list(trials.SNAPSHOTS))
        evaluator = naive.Naive(documents)

        def pull(db):
            patterns = [(asker.pattern(3), rng.choices(IDS, k=3)) for _ in range(20)]
            return [(*one, [db.pull(one[0], id) for id in one[1]], db.pull_many(*one)) for one in patterns]
        for pattern, ids, *both in trials.look(open_store, way, documents, decoys, pull):
            try:
                right = [evaluator.pull(pattern, id) for id in ids]
            except naive.Undecided:
                continue
            for got in both:
                assert [*map(trials.normal, got)] == [*map(trials.normal, right)], \
                    f"{way}, {pattern} of {ids}\n  wanted {right}\n  got    {got}\n  {documents}"
            asked, found = asked + 1, found + any(right)
    assert found > asked / 10
    say(f"0 differences in {asked:,} pulls of 3 entities, seed {seed} (asked: 0)")
