"""What a query and a pull mean, told by trying everything: slow, and too simple to be wrong.

A clause is answered by looking at every fact, a rule by asking all of its definitions again until nothing new comes.
The values of an answer are *cells*: tuples that are equal exactly where the store calls two values equal.
"""
import collections
import functools
import itertools
import statistics
import uuid

ROWS_MAX = 300_000         # of one question; what needs more is not asked, else one seed in hundreds takes minutes
COLLECTIONS = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def cell(value):
    """A value that is equal exactly to what the store calls equal: 1, 1.0 and True are three."""
    kind = type(value).__name__
    if kind in ("list", "tuple"):
        return kind, tuple(map(cell, value))
    if kind in ("set", "frozenset"):
        return kind, frozenset(map(cell, value))
    if kind == "dict":
        return kind, frozenset((cell(key), cell(inner)) for key, inner in value.items())
    return kind, value


def plain(value):
    """The value that has this cell."""
    kind, inside = value
    if kind in COLLECTIONS:
        return COLLECTIONS[kind](map(plain, inside))
    return {plain(key): plain(inner) for key, inner in inside} if kind == "dict" else inside


def several(value):
    """What a list or a set means at the top of a document: several values."""
    return value if type(value) in (list, set, frozenset) else [value]


def is_var(term):
    return type(term) is str and len(term) > 1 and term[0] == "?"


def is_blank(term):
    return type(term) is str and term == "_"


def is_ref(term):
    return type(term) is list and len(term) == 2 and type(term[0]) is str and not is_var(term[0])


class Among(frozenset):
    """The cells of entities, of which a place of a clause has one."""


class Unsafe(Exception):
    """No order of the clauses binds every variable before it is needed."""


class Undecided(Exception):
    """The answer may be one or another, as a sum of floats, which is another in another order; or it takes too long."""


class Refused(Exception):
    """A value that the answer needs does not exist, such as the sum of a text: the store must say so in a sentence."""


# ── Clauses ────────────────────────────────────────────────────────────────────────────────────────────────────

TRIPLE, TEST, BIND, RULE, OR, NOT = range(6)         # in this order they are tried, when they can be


class Clause:
    """A parsed clause; `mentions` are its variables, `shared` those that the clauses outside can see."""

    def __init__(self, kind, mentions, shared=None, **parts):
        self.kind, self.mentions, self.shared = kind, mentions, mentions if shared is None else shared
        self.__dict__.update(parts)


def all_parsed(clauses, of=""):
    """The clauses, those of another snapshot, ("$past", clause, …), beside the others; ("$", clause): the first's."""
    return tuple(one for clause in clauses for one in (
        all_parsed(clause[1:], clause[0][1:] and clause[0]) if type(clause) is tuple and clause[0] in ("$past", "$")
        else [parsed(clause, of)]))


def parsed(clause, of=""):
    if type(clause) is list and type(clause[0]) is tuple and (callable(clause[0][0]) or type(clause[0][0]) is str):
        call = clause[0]
        if len(clause) == 1:
            return Clause(TEST, call_vars(call), call=call, needs=call_vars(call), of=of)
        shape, vars = binding(clause[1])
        bound = {var for var in vars if is_var(var)}
        return Clause(BIND, call_vars(call) | bound, call=call, needs=call_vars(call), shape=shape, vars=vars,
                      of=of)
    if type(clause) is list:
        e, a, v = [*clause, "_"][:3]
        terms = [e, v, a] if type(a) is set or is_var(a) or is_blank(a) else [v, e] if a[0] == "_" else [e, v]
        a = None if len(terms) == 3 else a.lstrip("_")
        return Clause(TRIPLE, set(filter(is_var, terms)), a=a, terms=terms, of=of)
    kind, *rest = clause
    if kind in ("not", "not-join"):
        shared, inner = (set(rest[0]), rest[1:]) if kind == "not-join" else (None, rest)
        inner = all_parsed(inner, of)
        return Clause(NOT, mentioned(inner) | (shared or set()), shared, clauses=inner)
    if kind in ("or", "or-join"):
        return parsed_or(rest, kind == "or-join", of)
    return Clause(RULE, set(filter(is_var, rest)), name=of + kind, terms=rest)


def parsed_or(rest, is_join, of):
    required, shared = set(), None
    if is_join:
        required = set(rest[0][0]) if type(rest[0][0]) is list else set()
        shared = required | {var for var in rest[0] if type(var) is str}
        rest = rest[1:]
    branches = [all_parsed(branch[1:] if branch[0] == "and" else [branch], of) for branch in rest]
    return Clause(OR, set().union(*map(mentioned, branches)), shared, branches=branches, required=required)


def mentioned(clauses):
    return set().union(*(clause.shared for clause in clauses))


def call_vars(call):
    found = set()
    for part in call[1:]:
        found |= call_vars(part) if type(part) is tuple and is_call(part) else {part} if is_var(part) else set()
    return found


def is_call(part):
    return part and (callable(part[0]) or type(part[0]) is str and part[0] in FUNCTIONS)


def binding(given):
    """Its shape and its variables."""
    if given == "$past":
        return "tuple", []
    if type(given) is str:
        return "scalar", [given]
    if any(type(part) is list for part in (given[0] if type(given[0]) is list and len(given) == 1 else given)):
        return ("nested", given), leaves(given)
    if len(given) == 2 and given[1] is ...:
        return "collection", given[:1]
    return ("relation", given[0]) if type(given[0]) is list else ("tuple", given)


def leaves(given):
    return [leaf for part in given for leaf in (leaves(part) if type(part) is list else [part]) if leaf is not ...]


def taken_apart(given, value):
    """The rows of a value, by a nested binding."""
    if type(given) is not list:
        return [[value]]
    if given[1:] == [...] or len(given) == 1 and type(given[0]) is list:
        return [row for one in value or () for row in taken_apart(given[0], one)]
    rows = [[]]
    for place, part in enumerate(given):
        rows = [row + more for row in rows for more in taken_apart(part, value[place] if place < len(value) else None)]
    return rows


# ── Functions ──────────────────────────────────────────────────────────────────────────────────────────────────

def is_hashed(value):
    """True if the index knows only the hash of a value: such values are equal or not, but none is less."""
    return type(value) in (list, tuple, dict, set, frozenset) or type(value) in (str, bytes) and len(
        value.encode() if type(value) is str else value) > 64


def compared(holds):
    def compare(one, other):
        if uuid.UUID in (type(one), type(other)):
            raise Undecided                             # they have no order, and only some questions can be told so
        return are_comparable(one, other) and not is_hashed(one) and not is_hashed(other) and holds(one, other)
    return compare


def are_comparable(one, other):
    """Numbers with numbers, all else with its own type; nothing with None."""
    kinds = {type(one), type(other)}
    return kinds <= {int, float} or len(kinds) == 1 and one is not None


def text(*values):
    shown = {None: "", True: "true", False: "false"}
    return "".join(shown[value] if value is None or type(value) is bool else str(value) for value in values)


def is_same_number(one, other):
    return one == other if {type(one), type(other)} <= {int, float} else cell(one) == cell(other)


def is_same(one, other):
    """Equal; beside a set, one of it."""
    if type(other) is set or type(one) is set:
        values, value = (other, one) if type(other) is set else (one, other)
        return cell(value) in map(cell, values)
    return cell(one) == cell(other)


FUNCTIONS = {
    "<": compared(lambda one, other: one < other), "<=": compared(lambda one, other: one <= other),
    ">": compared(lambda one, other: one > other), ">=": compared(lambda one, other: one >= other),
    "=": is_same_number, "==": is_same, "!=": lambda one, other: not is_same(one, other),
    "str": text, "identity": lambda value: value, "q": None, "get-attr": None,
}


# ── Questions ──────────────────────────────────────────────────────────────────────────────────────────────────

class Naive:
    """Everything known of some documents, and the rules of one query."""

    def __init__(self, documents, rules=(), past=None):
        self.past = self if past is None else Naive(past, rules)
        self.documents = {cell(document["xt/id"]): document for document in documents}
        self.facts = collections.defaultdict(set)
        for id, document in self.documents.items():
            for a, value in document.items():
                self.facts[a] |= {(id, cell(one)) for one in several(value)}
        self.facts[None] = {(*fact, cell(a)) for a, facts in self.facts.items() for fact in facts}
        self.rules, self.tables, self.plans, self.queries = collections.defaultdict(list), {}, {}, {}
        for ((name, *head), *clauses), of in itertools.product(rules, [""] if past is None else ["", "$past"]):
            required = set(head[0]) if type(head[0]) is list else set()
            head = [var for part in head for var in (part if type(part) is list else [part])]
            self.rules[of + name].append((head, required, all_parsed(clauses, of)))
        self.matched = 0                                         # rows so far
        self.has_found = False                                   # whether the last query had any binding
        self.finished = {}                                       # tables of rules that are full
        self.patterns = self.callable_patterns()

    # In which order clauses can be answered.

    def callable_patterns(self):
        """(name, places that are bound) of every call that can be answered: those left without all that cannot."""
        self.patterns = {(name, frozenset(places)) for name in self.rules for count in range(self.arity(name) + 1)
                         for places in itertools.combinations(range(self.arity(name)), count)}
        while struck := {pattern for pattern in self.patterns if not self.is_callable(*pattern)}:
            self.patterns = self.patterns - struck
            self.plans.clear()
        return self.patterns

    def are_rules_safe(self):
        """True if each rule can be answered at least where all its places are bound."""
        return all((name, frozenset(range(self.arity(name)))) in self.patterns for name in self.rules)

    def has_one_need(self, name):
        """True if one set of places must be bound for any call of a rule; else one set or another will do."""
        sets = [places for rule, places in self.patterns if rule == name]
        return not sets or frozenset.intersection(*sets) in sets

    def arity(self, name):
        return len(self.rules[name][0][0])

    def is_callable(self, name, places):
        for head, required, clauses in self.rules[name]:
            bound = {head[place] for place in places}
            try:
                if not required <= bound or not set(head) - required <= mentioned(clauses):
                    return False
                if not set(head) <= self.plan(clauses, bound, set(head))[1]:
                    return False
            except Unsafe:
                return False
        return True

    def plan(self, clauses, bound, outside):
        """The clauses in an order that can be answered, and what is bound after them.

        `outside` is what other clauses bind, or will bind. A plan keeps its clauses, so that their id is nobody else's.
        """
        key = id(clauses), frozenset(bound), frozenset(outside)
        if key in self.plans:
            return self.plans[key][:2]
        todo, ordered, bound = sorted(clauses, key=lambda clause: clause.kind), [], set(bound)
        everything = outside | bound | set().union(*(clause.shared for clause in clauses if clause.kind != NOT))
        while todo:
            clause = next((clause for clause in todo if self.is_ready(clause, bound, everything)), None)
            if clause is None:
                raise Unsafe
            todo.remove(clause)
            ordered.append(clause)
            bound |= self.gives(clause, bound, everything)
        self.plans[key] = ordered, bound, clauses
        return ordered, bound

    def is_safe(self, query):
        """True if all that a query, or one inside another, asks for is bound when it is needed."""
        given = {var for given in query.get("in", []) for var in binding(given)[1]}
        clauses = self.clauses_of(query)
        try:
            return self.find_vars(query) <= self.plan(clauses, given, set())[1]
        except Unsafe:
            return False

    def find_vars(self, query):
        find = query["find"] if type(query["find"]) is list else [query["find"]]
        return {part for element in [*find, *query.get("with", [])] for part in parts(element) if is_var(part)}

    def clauses_of(self, query):
        """The clauses of a query, always the same objects, so that plans are made once."""
        if id(query) not in self.queries:
            self.queries[id(query)] = query, all_parsed(query.get("where", []))
        return self.queries[id(query)][1]

    def is_ready(self, clause, bound, everything):
        if clause.kind in (TEST, BIND):
            return clause.needs <= bound and (clause.call[0] != "q" or self.is_safe(clause.call[1]))
        if clause.kind == RULE:
            return self.pattern(clause, bound) is not None
        try:
            if clause.kind == NOT:
                waits = clause.shared & everything - bound
                return not waits and bool(self.plan(clause.clauses, bound & clause.shared, everything & clause.shared))
            if clause.kind == OR:
                after = {frozenset(self.after(clause, branch, bound, everything)) for branch in clause.branches}
                return clause.required <= bound and len(after) == 1
        except Unsafe:
            return False
        return True

    def after(self, clause, branch, bound, everything):
        """What a branch leaves bound of what is seen outside."""
        after = self.plan(branch, bound & clause.shared, everything & clause.shared)[1]
        if missing := clause.shared & clause.mentions - bound - after:
            raise Unsafe(missing)
        return after & clause.shared

    def gives(self, clause, bound, everything):
        if clause.kind in (TEST, NOT):
            return set()
        return self.after(clause, clause.branches[0], bound, everything) if clause.kind == OR else clause.mentions

    def pattern(self, clause, bound):
        """The fewest places that a call of a rule needs bound, among those that are."""
        is_bound = lambda term: term in bound if is_var(term) else not is_blank(term)
        places = {place for place, term in enumerate(clause.terms) if is_bound(term)}
        fitting = [pattern for name, pattern in self.patterns if name == clause.name and pattern <= places]
        return min(fitting, key=lambda pattern: (len(pattern), sorted(pattern)), default=None)

    # Clauses.

    def solve(self, clauses, envs, outside=frozenset()):
        """The bindings among `envs` that satisfy all clauses; each env is a dict, blanks have names of their own."""
        if not envs:
            return []
        for clause in self.plan(clauses, {var for var in envs[0] if is_var(var)}, set(outside))[0]:
            envs = [found for env in envs for found in self.step(clause, env)]
        return envs

    def step(self, clause, env):
        if clause.kind == TRIPLE:
            asked = self.past if clause.of else self
            terms = [asked.having(term) if is_ref(term) else term for term in clause.terms]
            return self.matching(terms, asked.facts[clause.a], env)
        if clause.kind == RULE:
            return self.matching(clause.terms, self.relation(clause, env), env)
        if clause.kind == TEST:
            value = self.called(clause.call, env, clause.of)
            return [] if value is None or value is False else [env]
        if clause.kind == BIND:
            return self.bound(clause.shape, clause.vars, self.called(clause.call, env, clause.of), env)
        if clause.kind == NOT:
            shared = {var: env[var] for var in clause.shared if var in env}
            return [] if self.finished_solve(clause.clauses, shared) else [env]
        return self.either(clause, env)

    def having(self, ref):
        """The entities that a lookup ref may stand for."""
        return Among(e for e, v in self.facts.get(ref[0], ()) if v == cell(ref[1]))

    def matching(self, terms, rows, env):
        for row in rows:
            self.matched += 1
            if self.matched > ROWS_MAX:
                raise Undecided
            made = dict(env)
            for term, value in zip(terms, row):
                if is_var(term):
                    if made.setdefault(term, value) != value:
                        break
                elif is_blank(term) or value in (term if type(term) is Among else map(
                        cell, term if type(term) is set else ())):
                    made[f"_{len(made)}"] = value
                elif cell(term) != value:
                    break
            else:
                yield made

    def either(self, clause, env):
        """Each binding once, whichever branches find it."""
        inner = {var: env[var] for var in clause.shared if var in env}
        found = {}
        for branch in clause.branches:
            for made in self.solve(branch, [inner]):
                made = {var: value for var, value in made.items() if var in clause.shared}
                found[frozenset(made.items())] = {**env, **made}
        return found.values()

    def bound(self, shape, vars, value, env):
        """The binding of a function's result: each of a collection or relation once."""
        if shape in ("collection", "relation") and value is None:
            return []
        if type(shape) is tuple:
            value, shape = taken_apart(shape[1], () if value is None else value), "relation"
        rows = {"scalar": lambda: [[value]], "collection": lambda: [[one] for one in value], "tuple": lambda: [value],
                "relation": lambda: value}[shape]()
        rows = dict.fromkeys(tuple(map(cell, [*row, *[None] * len(vars)][:len(vars)])) for row in rows)
        return self.matching(vars, rows, env)

    def called(self, call, env, of=""):
        head, *args = call
        value_of = lambda arg: self.called(arg, env, of) if type(arg) is tuple and is_call(arg) else \
            plain(env[arg]) if is_var(arg) else arg
        values = list(map(value_of, args))
        if head == "q":
            return self.subquery(*values, of=of)
        if head == "get-attr":
            e, a, *default = values
            document = (self.past if of else self).documents.get(cell(e), {})
            found = dict.fromkeys(map(cell, several(document.get(a, [])) or default))
            return [plain(one) for one in found] or None
        return (FUNCTIONS[head] if type(head) is str else head)(*values)

    def subquery(self, query, *args, of=""):
        return (self.past if of else self).answers(query, args) or None

    # Rules: a table of rows for each way to be asked, filled until nothing new comes.

    def finished_solve(self, clauses, env):
        """`solve`, where the rules that are asked must be known to the end: under a `not`."""
        if not any(clause.kind in (RULE, OR, NOT) for clause in clauses):
            return self.solve(clauses, [env])
        return self.complete(lambda: list(self.solve(clauses, [env])))

    def complete(self, ask):
        """What `ask` finds when every table that it needs is full."""
        outer, self.tables, before = self.tables, {}, None
        while before != (before := {key: len(rows) for key, rows in self.tables.items()}) or before is None:
            found = ask()
            for key in list(self.tables):
                self.fill(*key)
        self.finished.update(self.tables)
        self.tables = outer
        return found

    def relation(self, clause, env):
        value = lambda term: env[term] if is_var(term) else cell(term)
        places = self.pattern(clause, env.keys())
        key = clause.name, tuple(value(term) if place in places else None for place, term in enumerate(clause.terms))
        return self.finished[key] if key in self.finished else list(self.tables.setdefault(key, set()))

    def fill(self, name, given):
        for head, _, clauses in self.rules[name]:
            env = {var: value for var, value in zip(head, given) if value is not None}
            for made in self.solve(clauses, [env], set(head)):
                self.tables[name, given].add(tuple(made[var] for var in head))

    # Answers.

    def bag(self, query, args):
        """Every binding of all variables, blanks too, as dicts."""
        envs, entities = [{}], entities_of(self.clauses_of(query))
        for given, value in zip(query.get("in", []), args):
            shape, vars = binding(given)
            if vars[:1] and vars[0] in entities and shape in ("scalar", "collection"):
                value = self.looked_up(value) if shape == "scalar" else list(map(self.looked_up, value))
            envs = [made for env in envs for made in self.bound(shape, vars, value, env)]
        return self.complete(lambda: list(self.solve(self.clauses_of(query), envs)))

    def looked_up(self, value):
        """The id of the one entity that a lookup ref stands for; a value that is none, or finds none, as it is."""
        found = self.having(value) if is_ref(value) else ()
        if len(found) > 1:
            raise Refused
        return plain(*found) if found else value

    def rows(self, query, args):
        """[(what the order looks at, row)], a row a binding, or a row a group where there are aggregates."""
        find = query["find"] if type(query["find"]) is list else [query["find"]]
        groups = [[env] for env in self.bag(query, args)]
        self.has_found = bool(groups)
        if "with" in query:
            counted = sorted(self.find_vars(query))
            groups = list({tuple(env[var] for var in counted): [env] for env, in groups}.values())
        if any(map(has_aggregate, find)):
            outside = sorted(set().union(*map(vars_outside, find)))
            grouped = collections.defaultdict(list)
            for env, in groups:
                grouped[tuple(env[var] for var in outside)].append(env)
            groups = grouped.values()
        made = [tuple(self.found(element, envs) for element in find) for envs in groups]
        places = [find.index(ordering(part)[0]) for part in query.get("order-by", [])]
        return [([row[place] for place in places], row) for row in made]

    def answers(self, query, args):
        """A set of rows, as a list, of a query that neither orders nor cuts."""
        return list({tuple(map(cell, row)): row for _, row in self.rows(query, args)}.values())

    def found(self, element, envs):
        if is_var(element):
            return plain(envs[0][element])
        if type(element) is list:
            return [self.found(one, envs) for one in element]
        if type(element) is dict:
            return {key: self.found(one, envs) for key, one in element.items()}
        if type(element) is not tuple:
            return element
        head, *args = element
        if head == "pull":
            return self.pull(args[1], plain(envs[0][args[0]]))
        values = [plain(env[args[-1]]) for env in envs]
        if head in AGGREGATES:
            return AGGREGATES[head](*args[:-1], values)
        return FUNCTIONS[head](*(plain(envs[0][arg]) if is_var(arg) else arg for arg in args))

    # Pull.

    def pull(self, pattern, id, trail=frozenset()):
        document = self.documents.get(cell(id))
        reverse = self.reverse_of(pattern, id, trail)
        if document is None:
            return reverse or None
        if not pattern:
            return None
        made = dict(document) if "*" in pattern else {}
        for element in pattern:
            if element != "*":
                self.pull_element(element, pattern, document, made, trail | {cell(id)}, "*" in pattern)
        return made | reverse

    def reverse_of(self, pattern, id, trail):
        """The entities that refer to an entity, by each reverse join of the pattern."""
        found = {}
        for element in pattern:
            name, options, below = element_parts(element)
            if below is not None and name.startswith("_"):
                ids = [plain(e) for e, v in self.facts[name[1:]] if v == cell(id)]
                pulled = [self.below(below, pattern, element, other, trail | {cell(id)}) for other in ids]
                if pulled := [one for one in pulled if one is not None]:
                    found[options.get("as", name)] = pulled
        return found

    def pull_element(self, element, pattern, document, made, trail, is_star):
        name, options, below = element_parts(element)
        key = options.get("as", name)
        if name.startswith("_"):
            return
        if key != name:
            made.pop(name, None)
        if name not in document:
            if "default" in options:
                made[key] = options["default"]
        elif below is None:
            value = document[name]
            value = value[:options["limit"]] if "limit" in options and type(value) is list else value
            made[key] = options["xform"](value) if "xform" in options else value
        else:
            pulled = [self.below(below, pattern, element, one, trail) for one in several(document[name])]
            if type(document[name]) in (list, set):
                kept = several(document[name]) if is_star else [None] * len(pulled)
                made[key] = [other if one is None else one for one, other in zip(pulled, kept)]
            elif pulled[0] is not None:
                made[key] = pulled[0]
            elif is_star:
                made[key] = document[name]
            else:
                made.pop(key, None)
            if key not in made and "default" in options:
                made[key] = options["default"]

    def below(self, below, pattern, element, id, trail):
        """The answer at a join's other end. `...` and a number repeat the pattern; one met before is only named."""
        if type(below) is list:
            return self.pull(below, id, trail)
        if cell(id) in trail:
            if cell(id) not in self.documents:
                raise Undecided                         # whether one is named that was met and does not exist
            return {"xt/id": id}
        if below is ...:
            return self.pull(pattern, id, trail)
        rest = [part for part in pattern if part is not element]
        return self.pull([*rest, *([(*element_parts(element)[:2], below - 1)] if below > 1 else [])], id, trail)


def element_parts(element):
    """(attribute, options, the pattern of a join or None)"""
    if type(element) is str:
        return element, {}, None
    if type(element) is dict:
        (name, below), = element.items()
        return name, {}, below
    return element if len(element) == 3 else (*element, None)


def entities_of(clauses):
    """The variables that stand for an entity in a clause, at any depth, under the names that they have outside."""
    found = set()
    for clause in clauses:
        if clause.kind == TRIPLE:
            found |= {term for term in clause.terms[:1] if is_var(term)}
        for inner in [clause.clauses] if clause.kind == NOT else clause.branches if clause.kind == OR else []:
            found |= entities_of(inner) & clause.shared
    return found


def parts(element):
    """What an element of find is made of."""
    inside = element.values() if type(element) is dict else element[type(element) is tuple:] \
        if type(element) in (list, tuple) and element[0] != "pull" else element[1:2] if type(element) is tuple else ()
    return [element, *(part for one in inside for part in parts(one))]


def has_aggregate(element):
    return any(type(part) is tuple and part[0] in AGGREGATES for part in parts(element))


def vars_outside(element):
    """The variables by which the rows of aggregates are grouped."""
    if type(element) in (list, dict):
        return set().union(*map(vars_outside, element.values() if type(element) is dict else element))
    if type(element) is tuple:
        return set() if has_aggregate(element) else set(filter(is_var, element[1:]))
    return {element} if is_var(element) else set()


def ordering(part):
    part = part if type(part) is list else [part]
    return part[0], part[1] if len(part) == 2 else "asc"


# ── Aggregates and order ───────────────────────────────────────────────────────────────────────────────────────

def order(one, other):
    """-1, 0 or 1: None first, then by value. Raises: Refused, where there is no such order."""
    if one is None or other is None:
        return (one is not None) - (other is not None)
    if not are_comparable(one, other):
        raise Refused
    try:
        return (one > other) - (one < other)
    except TypeError:
        raise Refused from None


def ranked(values):
    return sorted(values, key=functools.cmp_to_key(order))


def numbers(values):
    kinds = {type(value) for value in values}
    if not kinds <= {int, float, bool}:                 # Python adds up booleans, and so do we
        raise Refused
    if float in kinds and max(map(abs, values)) > 2 ** 50:
        raise Undecided
    return values


def ratio(total, count):
    return total // count if type(total) is int and total % count == 0 else total / count


def distinct(values):
    return [plain(one) for one in dict.fromkeys(map(cell, values))]


def as_set(values):
    """A set, or a list where Python cannot have a set of these."""
    try:
        return set(values)
    except TypeError:
        return values


def median(values):
    ordered, middle = ranked(values), len(values) // 2
    return ordered[middle] if len(ordered) % 2 else ratio(sum(numbers(ordered[middle - 1:middle + 1])), 2)


def least(*args):
    """The smallest, or so many of the smallest; None is smaller than anything, whatever the others are."""
    if len(args) == 2:
        return ranked(distinct(args[1]))[:args[0]]
    return None if None in args[0] else ranked(args[0])[0]


AGGREGATES = {
    "count": len, "count-distinct": lambda values: len(distinct(values)), "sum": lambda values: sum(numbers(values)),
    "min": least, "max": lambda *args: ranked(args[-1])[-1] if len(args) == 1 else ranked(distinct(args[1]))[-args[0]:],
    "avg": lambda values: ratio(sum(numbers(values)), len(values)), "median": median,
    "variance": lambda values: float(statistics.pvariance(numbers(values))),
    "distinct": lambda values: as_set(distinct(values)),
}
