"""Rules that recurse, and queries at the edge of what can be asked:
each test tells of an answer that was wrong once."""
import contextlib
import datetime as dt
import decimal
import zoneinfo

import pytest

import store
from store import call, put


def holding(node, *documents):
    """The snapshot after these documents were put."""
    node.submit_tx([put(document) for document in documents])
    return node.db()


def tree(node):
    """1 and 9 lead up to 3, 1 by way of 2."""
    return holding(node, {"xt/id": 1, "up": 2}, {"xt/id": 2, "up": 3}, {"xt/id": 9, "up": 3})


BASE = [("above", "?a", "?b"), ["?a", "up", "?b"]]
RULES = {
    "right": [BASE, [("above", "?a", "?b"), ["?a", "up", "?c"], ("above", "?c", "?b")]],
    "left": [BASE, [("above", "?a", "?b"), ("above", "?a", "?c"), ["?c", "up", "?b"]]],
    "doubling": [BASE, [("above", "?a", "?b"), ("above", "?a", "?c"), ("above", "?c", "?b")]],
    "mutual": [BASE, [("above", "?a", "?b"), ["?a", "up", "?c"], ("over", "?c", "?b")],
               [("over", "?a", "?b"), ("above", "?a", "?b")]],
    "in an or": [[("above", "?a", "?b"), ("or-join", ["?a", "?b"], ["?a", "up", "?b"],
                                           ("and", ["?a", "up", "?c"], ("above", "?c", "?b")))]],
}
each_form = pytest.mark.parametrize("form", RULES)


def ask(db, find, where, form, *args, **more):
    return sorted(db.q({"find": find, "where": where, "rules": RULES[form], **more}, *args))


@each_form
def test_a_rule_keeps_its_variables_from_arguments_of_the_same_names(node, form):
    """Once an argument called ?a was read inside the rule as the rule's own ?a, and 3 was said to lead to 1."""
    db = tree(node)
    for x, y in ("?x", "?y"), ("?a", "?b"), ("?b", "?a"), ("?c", "?a"), ("?b", "?c"):
        both = {"in": [x, y]}
        assert ask(db, [x], [("above", x, y)], form, 1, 3, **both) == [(1,)], (x, y)
        assert ask(db, [x], [("above", x, y)], form, 3, 1, **both) == [], (x, y)
        assert ask(db, x, [("above", x, y)], form, 3, **{"in": [y]}) == [1, 2, 9], (x, y)
        assert ask(db, y, [("above", x, y)], form, 1, **{"in": [x]}) == [2, 3], (x, y)
        assert ask(db, x, [[x, "up"], ("not", ("above", x, y))], form, 2, **{"in": [y]}) == [2, 9], (x, y)
        assert ask(db, x, [[x, "up", y], ("above", x, y)], form, 3, **{"in": [y]}) == [2, 9], (x, y)


@each_form
def test_what_a_second_call_is_asked_comes_from_the_first(node, form):
    """Once a call was asked about rows that another call had still to find:
    answers were missing, and a `not` let all through."""
    db = tree(node)
    assert ask(db, "?o", [("above", 1, "?p"), ("above", "?o", "?p")], form) == [1, 2, 9]
    assert ask(db, ["?p", "?o"], [("above", 1, "?p"), ("above", "?p", "?o")], form) == [(2, 3)]
    assert ask(db, "?p", [("above", 1, "?p"), ("not", ("above", "?p", 3))], form) == [3]
    assert ask(db, "?p", [("or", ("above", 1, "?p"), ("above", 9, "?p")), ("above", "?p", 3)], form) == [2]
    assert ask(db, "?x", [("above", {1, 2}, "?p"), ("above", "?x", "?p"), ("above", "?x", {2, 7})], form) == [1]


def test_a_rule_may_be_fed_by_another_that_is_derived_round_by_round(node):
    """Once the inner rule was asked before the outer one had its first row."""
    db = holding(node, *({"xt/id": n, "up": n + 1, "next": n + 10} for n in range(4)),
                 *({"xt/id": n} for n in range(10, 16)))
    rules = [*RULES["doubling"],
             [("far", "?x", "?y"), ["?x", "next", "?y"]],
             [("far", "?x", "?y"), ("above", "?x", "?z"), ("far", "?z", "?y")],
             [("far", "?x", "?y"), ("far", "?x", "?z"), ("above", "?z", "?y")]]
    asked = {"find": "?y", "where": [("far", 1, "?y")], "rules": rules}
    assert sorted(db.q(asked)) == [11, 12, 13]
    lonely = [[("lonely", "?x"), ["?x", "up"], ("not", ("above", "?x", 3))],
              [("lonely", "?x"), ("lonely", "?y"), ("above", "?y", "?x"), ("not", ("above", "?x", 4))]]
    assert sorted(db.q({"find": "?x", "where": [("lonely", "?x")], "rules": [*RULES["doubling"], *lonely]})) == [3, 4]


def test_a_branch_may_only_compare_what_a_call_binds(node):
    """Once "is this, or leads to it" was refused, although both ends were bound by the call."""
    db = tree(node)
    rules = [[("is", "?a", "?b"), [("=", "?a", "?b")]], [("is", "?a", "?b"), ["?a", "up", "?c"], ("is", "?c", "?b")]]
    query = {"find": "?x", "where": [["?x", "up"], ("is", "?x", 3)], "rules": rules}
    assert sorted(db.q(query)) == [1, 2, 9]
    assert sorted(db.q(query | {"where": [["?x", "up"], ("or", ("is", "?x", 2), ("is", "?x", 9))]})) == [1, 2, 9]
    assert sorted(db.q(query | {"where": [["?x", "up"], ("not", ("is", "?x", 2))]})) == [9]
    with pytest.raises(store.UnknownVariableError, match=r"needs \?x bound before"):
        db.q(query | {"where": [("is", "?x", 3)]})


def test_a_result_of_a_function_inside_not_is_something_that_holds(node):
    """Once a clause that only binds a function's result made a `not` that SQLite could not read."""
    db = tree(node)
    asked = lambda *where: sorted(db.q({"find": "?x", "where": [["?x", "up"], *where]}))
    assert asked(("not", [("str", "?x"), "?s"])) == []
    assert asked(("not", [("inc", "?x"), "?s"], ["?s", "up"])) == [2, 9]
    assert asked(("not", [("inc", "?x"), "?s"], [(">", "?s", 5)])) == [1, 2]
    assert asked(("or", [("str", "?x"), "?s"], [("str", "?x"), "?s"])) == [1, 2, 9]


def test_constants_that_python_calls_equal_share_no_plan(node):
    """Once the second query was asked with the constant of the first: the hour that comes twice, or 1.0 for 1.00."""
    berlin, noon = zoneinfo.ZoneInfo("Europe/Berlin"), dt.datetime(2024, 6, 1, 12, tzinfo=dt.timezone.utc)
    twice = [dt.datetime(2024, 10, 27, 2, 30, fold=fold, tzinfo=berlin) for fold in (0, 1)]
    db = holding(node, {"xt/id": "first", "at": twice[0]}, {"xt/id": "second", "at": twice[1]})
    assert [db.q({"find": "?e", "where": [["?e", "at", at]]}) for at in twice] == [["first"], ["second"]]
    for function, one, other in ((lambda at: at.hour, noon, noon.astimezone(zoneinfo.ZoneInfo("Asia/Tokyo"))),
                                 (str, decimal.Decimal("1.0"), decimal.Decimal("1.00")), (str, 0.0, -0.0),
                                 (str, 1, True)):
        found = [db.q({"find": "?h", "where": [["first", "at"], [(function, value), "?h"]]}) for value in (one, other)]
        assert found == [[function(one)], [function(other)]]


@pytest.mark.parametrize("call", [("not",), ("nil?",), ("<",), ("=",), ("-",), ("inc", "?v", 1),
                                  ("created-before", "?e"),
                                  ("get-attr", "?e"), ("str", ("inc",)), ("get-start-valid-time",)], ids=str)
def test_a_built_in_with_too_few_or_too_many_arguments_is_refused(node, call):
    """Once it raised what Python raises, at the first row and only if there was one."""
    for where in [["?e", "v", "?v"], [call]], [["?e", "v", "?v"], [call, "?x"]], [["?e", "v", "?v"], ("not", [call])]:
        with pytest.raises(store.QueryError, match="argument"):
            node.db().q({"find": "?e", "where": where})


def test_a_query_of_a_thousand_clauses_or_a_hundred_levels_is_answered(node):
    """Once five hundred branches of an `or` failed with SQLite's own words, after the reading had begun."""
    db = holding(node, *({"xt/id": n, "v": n} for n in range(1_200)))
    asked = lambda *where: len(db.q({"find": "?e", "where": list(where)}))
    assert asked(("or", *(["?e", "v", n] for n in range(501)))) == 501
    tests = [["?e", "v", "?v"], *([("!=", "?v", n)] for n in range(1_001))]
    assert asked(*tests) == 199
    assert asked(["?e", "v", "?v"], ("or", *([("=", "?v", n)] for n in range(1_001)))) == 1_001
    assert asked(["?e", "v", "?v"], *(("not", ["?e", "v", n]) for n in range(60))) == 1_140
    assert asked(["?e", "v", "?v"], ("not", *(["?e", "v", "?v"] for _ in range(70)))) == 0
    deep, sum = ("not", ["?e", "v", 7]), "?v"
    for _ in range(14):
        deep = ("not", deep)
    for _ in range(60):
        sum = ("+", sum, 1)
    assert asked(["?e", "v"], deep) == 1_199
    assert asked(["?e", "v", "?v"], [sum, "?w"], ["?e", "v", "?w"]) == 0
    assert asked(["?e", "v", "?v"], [sum, "?w"], ["?f", "v", "?w"]) == 1_140
    for _ in range(2_000):
        deep, sum = ("not", deep), ("+", sum, 1)
    for where in [["?e", "v"], deep], [["?e", "v", "?v"], [sum, "?w"]], [["?e", "v"], [(len, sum)]]:
        with pytest.raises(store.QueryError, match="deep"):
            asked(*where)


@pytest.mark.parametrize("clause, hint", [(("?e", "v", 3), "list"), (["<", "?v", 5], "tuple"),
                                          (["?e", ":v", 3], "'v'")], ids=str)
def test_the_commonest_slips_are_told_how_to_write_it(node, clause, hint):
    """Without this, a slip of brackets would be told what is wrong but not what is right."""
    with pytest.raises(store.QueryError, match=hint):
        node.db().q({"find": "?e", "where": [["?e", "v", "?v"], clause]})


def test_a_variable_that_two_arguments_bind_joins_them(node):
    """Without this, "which of these is the one" would have to be asked under two names."""
    db = tree(node)
    twice = lambda ins, *args: sorted(db.q({"find": "?x", "in": ins, "where": [["?x", "up"]]}, *args))
    assert twice(["?x", ["?x", ...]], 2, [2, 3]) == [2]
    assert twice(["?x", "?x"], 2, 2) == [2] and twice(["?x", "?x"], 2, 1) == [] and twice(["?x", "?x"], 2, 2.0) == []
    assert twice([["?x", ...], ["?x", "?y"]], [1, 9], (9, 1)) == [9]


def test_a_query_with_rules_may_stand_inside_another_in_a_transaction(open_store):
    """Once the inner query's tables could not be dropped while the outer one was read,
    on the connection that writes."""
    rules = [[("linked", "?x", "?y"), ("linked", "?y", "?x")], [("linked", "?x", "?y"), ["?x", "up", "?y"]],
             [("both", "?x"), ("linked", "?x", "?y"),
              [("q", {"find": "?c", "in": ["?b"], "where": [("linked", "?b", "?c")]}, "?y")]]]
    query, told = {"find": "?x", "where": [("both", "?x")], "rules": rules}, []

    def ask(ctx):
        told.extend(sorted(ctx.db.q(query)) for _ in range(2))
    with contextlib.closing(open_store({"ask": ask})) as node:
        assert sorted(tree(node).q(query)) == [1, 2, 3, 9]
        node.submit_tx([put({"xt/id": 4, "up": 9}), call("ask")])
        assert told == [[1, 2, 3, 4, 9]] * 2


def test_what_can_find_nothing_is_said_once_in_the_log_and_in_explain(node, caplog):
    """Without this, a letter that is missing in an attribute's name would look like an empty store."""
    db = holding(node, {"xt/id": 1, "msg/channel": "c", "age": 3})
    slip = {"find": "?e", "where": [["?e", "msg/chanel", "c"]]}
    with caplog.at_level("INFO", logger="store"):
        for where in slip["where"], [["?e", "age", "3"]], [["?e", "nobody-has-this"]], slip["where"]:
            assert db.q(slip | {"where": where}) == db.q(slip | {"where": where}) == []
        assert db.q(slip | {"where": [["?e", "age", 4]]}) == []
    assert [(record.levelname, record.getMessage().partition(": ")[2]) for record in caplog.records] == [
        ("WARNING", "no document has msg/chanel; msg/channel is an attribute"),
        ("WARNING", "no document has a str like '3' in age"), ("INFO", "no document has nobody-has-this")]
    assert "in vain: no document has msg/chanel" in db.explain(slip)


def test_an_application_that_begins_is_not_told_what_no_document_has_yet(open_store, caplog):
    """The first start of an application, on an empty store, logged a line for each kind of document to come."""
    node = open_store()
    node.expect(["msg/thread"])
    with caplog.at_level("INFO", logger="store"):
        assert node.db().q({"find": "?e", "where": [["?e", "feed/url"]]}) == []
        db = holding(node, {"xt/id": 1, "msg/channel": "c"})
        assert db.q({"find": "?e", "where": [["?e", "feed/url"], ["?e", "msg/pinned"], ["?e", "msg/thread"]]}) == []
    vain = [message for record in caplog.records if "in vain" in (message := record.getMessage())]
    assert vain == ["a query asks in vain: no document has msg/pinned"]
    assert "in vain: no document has feed/url" in db.explain({"find": "?e", "where": [["?e", "feed/url"]]})


@pytest.mark.parametrize("depth", [3, 7, 12])
def test_rules_that_call_another_twice_are_answered_at_any_depth(node, depth):
    """Each level made twice as many clauses and, in a page or a count, multiplied their rows: it took minutes."""
    db = holding(node, *({"xt/id": i, "to": {(i * 3 + 1) % 8, (i + 5) % 8}} for i in range(8)))
    rules = [[("r0", "?a", "?b"), ["?a", "to", "?b"]], [("r0", "?a", "?b"), ["?b", "to", "?a"], [("<", "?a", 6)]]]
    reached = {(i, (i * 3 + 1) % 8) for i in range(8)} | {(i, (i + 5) % 8) for i in range(8)}
    reached |= {(b, a) for a, b in reached if b < 6}
    for level in range(depth):
        rules.append([(f"r{level + 1}", "?a", "?b"), (f"r{level}", "?a", "?c"), (f"r{level}", "?c", "?b")])
        reached = {(a, b) for a, c in reached for d, b in reached if c == d}
    ask = {"find": ["?a", "?b"], "rules": rules, "where": [(f"r{depth}", "?a", "?b")]}
    assert reached and sorted(db.q(ask)) == db.q(ask | {"order-by": [["?a"], ["?b"]]}) == sorted(reached)
    assert db.q(ask | {"find": ("count", "?b")}) == [len(reached)]
    assert sorted(db.q(ask | {"in": ["?a"], "find": "?b"}, 3)) == sorted(b for a, b in reached if a == 3)
    apart = {"find": ["?a", "?b"], "where": [["?a", "to"], ["?b", "to"], ("not", *ask["where"])]}
    assert set(db.q(ask | apart)) == {(a, b) for a in range(8) for b in range(8)} - reached


def test_a_rule_of_one_definition_gives_each_binding_once(node):
    """Once its own variables multiplied the rows that an aggregate counts, unless it had a second definition."""
    db = holding(node, {"xt/id": 2, "to": [1, 5]}, {"xt/id": 3, "to": [1]})
    rules = [[("has", "?a"), ["?a", "to", "?b"]]]
    for clause in ("has", "?x"), ("or", ("and", ["?x", "to", "_"])), ("or-join", ["?x"], ["?x", "to", "?n"]):
        assert db.q({"find": [("sum", "?x"), ("count", "?x")], "where": [clause], "rules": rules}) == [(5, 2)]
        assert sorted(db.q({"find": "?x", "where": [clause], "rules": rules, "limit": 9})) == [2, 3]


def test_what_a_rule_needs_bound_is_found_through_calls_that_wait_for_each_other(node):
    """Once two calls in a rule each waited for what the other binds, though the caller had bound it."""
    db = tree(node)
    rules = [[("step", ["?a"], "?b"), ["?a", "up", "?b"]],
             [("round", "?a", "?b"), ("step", "?a", "?b"), ("step", "?b", "?c"), ("step", "?c", "?a")],
             [("round", "?a", "?b"), ("step", "?a", "?b"), ("step", "?b", "?c")]]
    assert db.q({"find": ["?x", "?y"], "where": [["?x", "up"], ("round", "?x", "?y")], "rules": rules}) == [(1, 2)]
    with pytest.raises(store.UnknownVariableError, match=r"needs \?x bound before"):
        db.q({"find": ["?x", "?y"], "where": [("round", "?x", "?y")], "rules": rules})


@pytest.mark.parametrize("form", ["right", "left"])
def test_twenty_calls_of_a_rule_in_one_query_are_answered(node, form):
    """Once each call doubled the statement that SQLite makes of it, up to 65,535 references to one table."""
    db = holding(node, *({"xt/id": n, "up": n + 1} for n in range(25)))
    vars = [f"?v{n}" for n in range(21)]
    calls = [("above", one, other) for one, other in zip(vars, vars[1:])]
    for where in [*calls, ["?v0", "up", 1]], [["?v0", "up", 1], *calls, ("not", ("above", "?v20", 24)),
                                              ("not", ("above", 24, "?v0"))]:
        found = db.q({"find": ["?v0", "?v20"], "where": where, "rules": RULES[form]})
        assert sorted(found) == [(0, last) for last in range(20, 26) if len(where) < 22 or last >= 24]


def test_a_branch_waits_for_the_variable_that_its_function_needs_and_binds(node):
    """The branch was joined first, as if it bound the variable by itself, and the query was refused."""
    db = holding(node, {"xt/id": 1, "to": [1, 2], "up": 1}, {"xt/id": 2, "to": [1]})
    both = [(lambda value: [value, 0], "?a"), ["?a", ...]]
    rules = [[("r", "?a", "?b"), ["?a", "to", "?b"]], [("r", "?a", "?b"), ("r", "?a", "?c"), ("r", "?c", "?b")]]
    for where in ([("r", "?x", "?a"), ("or", ("and", both, ("or-join", ["?c"], ["?c", "up", "?c"])))],
                  [("or", ("and", both, ["?c", "up"])), ("r", "?x", "?a")]):
        assert sorted(db.q({"find": ["?x", "?a"], "where": where, "rules": rules})) == [(1, 1), (1, 2), (2, 1), (2, 2)]
    endless = [[("r", "?a", "?b", "?d"), ["?d", "to", "?a"], ("r", "_", "?d", "?b")]]
    where = [("r", "?d", "?b", "?a"), ("or", ("and", both, ("or-join", ["?c"], ["?c", "up", "?c"])))]
    assert db.q({"find": "?d", "where": where, "rules": endless}) == []


def test_a_branch_may_bind_anew_what_it_needs_from_outside(node):
    """Once a function in an `or` that takes and gives one variable was joined before anything had bound it."""
    db = tree(node)
    where = [("or", ("and", [(lambda x: [x, x + 7], "?x"), ["?x", ...]], ("or", ["?x", "up", "?y"]))), ["?x", "up"]]
    assert sorted(db.q({"find": "?x", "where": where})) == [1, 2, 9]
    nested = [("or", ("or", [("<", "?x", 5)], [("=", "?x", 9)])), ["?x", "up"]]
    assert sorted(db.q({"find": "?x", "where": nested})) == [1, 2, 9]


def test_rows_of_a_rule_come_once_in_a_stream_too(node):
    """Once a rule's own variables multiplied what `lazy_q` gives, though a rule gives each binding once."""
    db = holding(node, {"xt/id": 2, "to": [1, 5, 6]})
    with db.lazy_q({"find": "?x", "where": [("has", "?x")], "rules": [[("has", "?b"), ["?b", "to", "_"]]]}) as rows:
        assert list(rows) == [2]


def test_a_rule_needs_no_more_arguments_than_the_ones_that_bind_the_others(node):
    """Without this, rules that call each other were refused although one bound argument starts them all."""
    db = holding(node, {"xt/id": 1, "kind": "x", "to": 2}, {"xt/id": 2, "to": 3})
    rules = [[("p", "?a", "?c", "?b"), ["?a", "to", "?c"], ["?c", "to", "?b"]],
             [("r", "?b", "?c"), ("p", "?c", "?a", "?b"), ("or-join", ["?b"], ("and", ("r", "_", "?b")))],
             [("p", ["?c"], "?d", "?b"), ("p", "?b", "_", "?d"), ("r", "?b", "?d"), ("p", "?c", "?c", "?d")]]
    assert db.q({"find": "?b", "rules": rules, "where": [["?b", "kind", "x"]]}) == [1]
    assert db.q({"find": ["?c", "?b"], "rules": rules,
                 "where": [["?x", "kind", "x"], ("p", "?x", "?c", "?b")]}) == [(2, 3)]


def test_a_rule_that_needs_a_blank_bound_is_refused_by_that_name(node):
    """The sentence named a variable that nobody had written."""
    rules = [[("older", ["?a"], "?b"), ["?a", "n", "?n"], ["?b", "n", "?m"], [(">", "?n", "?m")]]]
    with pytest.raises(store.UnknownVariableError, match="needs a value for _ bound before"):
        node.db().q({"find": "?b", "rules": rules, "where": [("older", "_", "?b")]})


def test_a_rule_that_could_begin_at_either_argument_is_asked_with_the_first(node):
    """Without this, somebody would take the refusal for a fault of their own call."""
    rules = [[("twice", "?a", "?b"), [("*", "?b", 2), "?a"], [("/", "?a", 2), "?b"]]]
    assert node.db().q({"find": "?b", "in": ["?a"], "rules": rules, "where": [("twice", "?a", "?b")]}, 6) == [3]
    with pytest.raises(store.UnknownVariableError, match=r"needs \?a bound before"):
        node.db().q({"find": "?a", "in": ["?b"], "rules": rules, "where": [("twice", "?a", "?b")]}, 3)
