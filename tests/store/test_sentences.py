"""Each error says what came, what was wanted, and where: the sentences that no other test provokes."""
import contextlib
import datetime as dt
import sqlite3

import pytest

import store
from store import delete, match, put

NAMED = ["?e", "name", "?n"]
RECURSIVE = [[("r", "?a", "?b"), ["?a", "boss", "?b"]],
             [("r", "?a", "?b"), ["?b", "boss"], ("r", "?a", "?c"), ("not", ("r", "?c", "?b"))]]


@pytest.fixture(scope="module")       # what is refused leaves nothing behind
def node():
    with contextlib.closing(store.open(":memory:")) as opened:
        opened.submit_tx([put({"xt/id": "ann", "name": "Ann", "boss": "bob", "age": 41, "card": {"k": 1}}),
                          put({"xt/id": "bob", "name": "Bob", "age": "old", "card": {"k": 2}})])
        yield opened


REFUSED = [
    # what is wrong, the query beside its defaults, its arguments, the sentence
    ("find: a number", {"find": 7}, (), "7 is neither a variable nor a call"),
    ("find: a call of a number", {"find": [(7, "?n")]}, (), "begins with 7; wanted the name of a function"),
    ("in: a number", {"in": [7]}, (1,), "in: 7 is not a binding"),
    ("in: a number in a row", {"in": [[["?x", 7]]]}, ([],), "binds something that is not a variable"),
    ("where: a number", {"where": 7}, (), "\"where\" is 7; wanted a list"),
    ("where: a clause is a text", {"where": ["?e"]}, (), "'?e' is not a clause"),
    ("a call with three places", {"where": [NAMED, [("even?", "?n"), "?x", "?y"]]}, (), "has 3 places"),
    ("a blank argument", {"where": [NAMED, [("even?", "_")]]}, (), "a blank cannot be an argument; wanted a variable"),
    ("an empty not", {"where": [NAMED, ("not",)]}, (), "is empty"),
    ("an empty not-join", {"where": [NAMED, ("not-join", ["?e"])]}, (), "is empty"),
    ("a not-join of strangers", {"where": [NAMED, ("not-join", ["?z"], NAMED)]}, (), "shares ?z, but none of its"),
    ("an or-join of nothing", {"where": [NAMED, ("or-join",)]}, (), "wanted a list of variables first"),
    ("an or-join of a name", {"where": [NAMED, ("or-join", ["name"], NAMED)]}, (), "is not a list of variables"),
    ("an or of nothing", {"where": [NAMED, ("or",)]}, (), "has no branches"),
    ("a rule without clauses", {"rules": [[("r", "?a")]]}, (), "is not a rule"),
    ("a rule with one variable twice", {"rules": [[("r", "?a", "?a"), NAMED]]}, (), "must have different variables"),
    ("a rule that does not bind", {"rules": [[("r", "?a", "?b"), ["?a", "name"]]]}, (), "has ?b in its head"),
    ("a rule that negates itself", {"rules": RECURSIVE, "where": [("r", "?n", "?x")]}, (), "depends on its own"),
    ("a function that is no argument", {"where": [NAMED, [("?f", "?n")]]}, (), "?f"),
    ("a subquery without a query", {"where": [NAMED, [("q",)]]}, (), "wanted (\"q\", query, argument, …)"),
    ("a subquery with an argument too many", {"where": [NAMED, [("q", {"find": "?e", "where": [NAMED]}, "?n")]]}, (),
     "takes 0 arguments"),
    ("functions that wait for each other", {"where": [NAMED, [("inc", "?a"), "?b"], [("inc", "?b"), "?a"]]}, (),
     "cannot be answered"),
    ("a tuple that is a number", {"in": [["?n", "?y"]]}, (7,), "wants a list or tuple"),
    ("a collection that is a number", {"in": [["?n", ...]]}, (7,), "wants a collection"),
    ("a relation of numbers", {"in": [[["?n", "?y"]]]}, ([7],), "is not a row of 2"),
    ("get-attr without an attribute", {"where": [NAMED, [("get-attr", "?e")]]}, (), "get-attr"),
    ("get-attr of a variable", {"in": ["?a"], "where": [NAMED, [("get-attr", "?e", "?a"), "?x"]]}, ("name",),
     "A clause [e, \"?a\", v] takes a variable"),
    ("a collection that is none", {"where": [NAMED, [(lambda n: 5, "?n"), ["?x", ...]]]}, (), "wants a collection"),
    ("the least of two dicts", {"find": ("min", "?c"), "where": [["?e", "card", "?c"]]}, (), "have no order"),
    ("the sum of a text", {"find": ("sum", "?a"), "where": [["?e", "age", "?a"]]}, (), "sum"),
    ("an order of mixed values", {"find": "?a", "where": [["?e", "age", "?a"]], "order-by": [["?a"]]}, (), "no order"),
    ("an argument that no document can hold", {"in": ["?n"]}, (float("nan"),), "NaN"),
    ("an unknown function", {"where": [NAMED, [("frobnicate", "?n")]]}, (), "There is no function 'frobnicate'"),
    ("division by zero", {"find": "?x", "where": [NAMED, [("/", 1, 0), "?x"]]}, (), "'/'"),
    ("an unknown key", {"wher": []}, (), "A query has no 'wher'"),
    ("an offset below zero", {"offset": -1}, (), "\"offset\" is -1"),
    ("a timeout that is a text", {"timeout": "1"}, (), "\"timeout\" is '1'"),
    ("too few names", {"keys": []}, (), "one list of as many names"),
    # what newcomers write
    ("a key as a keyword", {":find": "?n"}, (), "A query has no ':find'; it may have find, "),
    ("a key with a line below", {"order_by": [["?n"]]}, (), "Did you mean 'order-by'?"),
    ("find: a name without its question mark", {"find": ["n"]}, (), "'n' is neither a variable nor a call"),
    ("find: a pull in a list", {"find": [["pull", "?e", ["*"]]]}, (), "is a list; a call is a tuple: ('pull', …)"),
    ("find: an aggregate in a list", {"find": [["count", "?e"]]}, (), "a call is a tuple: ('count', …)"),
    ("find: variables in a tuple", {"find": ("?e", "?n")}, (), "several elements of find are a list"),
    ("find: a count without its question mark", {"find": ("count", "e")}, (), "counts or sums no variable; wanted one"),
    ("find: a count of nothing", {"find": ("count",)}, (), "wanted ('count', variable)"),
    ("find: a misspelled function", {"find": ("upper_case", "?n")}, (), "Did you mean 'upper-case'?"),
    ("find: a pull the wrong way round", {"find": ("pull", ["*"], "?e")}, (), "(\"pull\", variable, pattern)"),
    ("where: one clause without a list", {"where": NAMED}, (), "Clauses stand in a list, also if there is one: [[e, a"),
    ("where: a text", {"where": "?e name ?n"}, (), "\"where\" is '?e name ?n'; wanted a list"),
    ("where: a triple in a tuple", {"where": [("?e", "name", "?n")]}, (),
     "a triple is a list: ['?e', attribute, value]"),
    ("where: four places", {"where": [["?e", "name", "?n", "?tx"]]}, (), "has 4 places; wanted [e, a] or [e, a, v]"),
    ("where: one place", {"where": [NAMED, ["?e"]]}, (), "has 1 place; wanted"),
    ("where: a list of values", {"where": [["?e", "name", ["Ann", "Bob"]]]}, (), "wanted one value, a set of them"),
    ("where: a test without its tuple", {"where": [NAMED, ["<", "?n", 3]]}, (), "A call is a tuple: [('<', …)]"),
    ("where: a test in lists", {"where": [NAMED, [["<", "?n", 3]]]}, (), "a call is a tuple: [(f, …)]"),
    ("where: a test without its list", {"where": [NAMED, ("<", "?n", 3)]}, (),
     "A test stands in a list: [('<', '?n', 3)]"),
    ("where: not in a list", {"where": [NAMED, ["not", ["?e", "age"]]]}, (), "It is a tuple: ('not', …)"),
    ("where: branches in one list", {"where": [NAMED, ("or", [["?e", "age"], ["?e", "boss"]])]}, (),
     "A clause stands by itself, without another list around it"),
    ("where: an id that is a tuple", {"where": [[("door", 1), "name", "?n"]]}, (), "comes in through \"in\""),
    ("in: one binding without a list", {"in": "?n"}, ("Ann",), "\"in\" is '?n'; wanted a list: ['?n']"),
    ("in: dots in quotes", {"in": [["?n", "..."]]}, (["Ann"],), "is Python's ... without quotes"),
    ("in: a text for a collection", {"in": [["?n", ...]]}, ("Ann",),
     "Argument 1 is 'Ann'; [?n ...] wants a collection"),
    ("in: a row for a relation", {"in": [[["?n", "?a"]]]}, (["Ann", 41],), "a relation is a collection of tuples"),
    ("in: all arguments in one list", {"in": ["?n", "?a"]}, (["Ann", 41],), "takes 2 arguments (?n, ?a), got 1"),
    ("in: a snapshot that is not named", {"where": [("$past", NAMED)]}, (), "Another snapshot is named in \"in\""),
    ("in: no argument", {"in": ["?n"]}, (), "takes 1 argument (?n), got 0"),
    ("order-by: a direction beside", {"order-by": ["?n", "desc"]}, (), "Each part is a list: [[\"?x\", \"desc\"]]"),
    ("order-by: a tuple", {"order-by": [("?n", "desc")]}, (), "Each part is a list"),
    ("order-by: a direction as a keyword", {"order-by": [["?n", ":desc"]]}, (), "\"asc\" or \"desc\""),
    ("keys: names that are lists", {"keys": [["n"]]}, (), "wanted one list of as many names"),
    ("limit: a text", {"limit": "10"}, (), "\"limit\" is '10'; wanted a whole number"),
    ("timeout: in seconds", {"timeout": 0.5}, (), "\"timeout\" is 0.5; wanted a whole number"),
    ("rules: one that is not there",
     {"where": [NAMED, ("boss-of", "?e")], "rules": [[("bossof", "?e"), ["?e", "boss"]]]}, (), "Did you mean 'bossof'"),
    ("rules: a head in a list", {"rules": [[["r", "?a"], ["?a", "name"]]]}, (),
     "wanted [(\"name\", \"?a\", …), clause"),
    ("rules: called by a list", {"rules": [[("r", "?a"), ["?a", "name"]]], "where": [NAMED, ["r", "?e"]]}, (),
     "It is a tuple: ('r', …)"),
    ("a misspelled variable", {"find": "?nn"}, (), "find asks for ?nn, but no clause binds it. Bound here: ?e, ?n"),
    ("too few arguments of a function", {"where": [NAMED, [("subs", "?n")]]}, (), "subs takes 2 to 3 arguments, got 1"),
]


@pytest.mark.parametrize("parts, args, sentence", [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_query_with_a_mistake_is_told_which(node, parts, args, sentence):
    """Without this, a mistake in a query would be told in the words of Python, or of SQLite, or not at all."""
    query = {"find": "?n", "where": [NAMED]} | parts
    with pytest.raises(store.QueryError) as told:
        node.db().q(query, *args)
    assert sentence in str(told.value), told.value
    with pytest.raises(store.QueryError):
        with node.db().lazy_q(query, *args) as rows:
            list(rows)
    assert node.db().q({"find": "?e", "where": [["?e", "name", "Ann"]]}) == ["ann"], "the store answers as before"


ANNS = {"find": "?e", "where": [["?e", "name", "Ann"]]}
NOW = dt.datetime(2030, 1, 1, tzinfo=dt.timezone.utc)
CALLS = [
    (lambda node: node.submit_tx(7), "7 is not a transaction; wanted a list of operations"),
    (lambda node: node.submit_tx([("frob", 1)]), "frob"),
    (lambda node: node.submit_tx([("put",)]), "operation 1 of 1"),
    (lambda node: node.submit_tx([put({"xt/id": "a"}), put({"name": "?"})]), "has no \"xt/id\""),
    (lambda node: node.submit_tx([put({"xt/id": None})]), "None"),
    (lambda node: node.submit_tx([put({"xt/id": ["a"]})]), "['a'] cannot be an \"xt/id\""),
    (lambda node: node.submit_tx([put({"xt/id": "a", 7: 1})]), "The attribute 7 is not a string"),
    (lambda node: node.submit_tx([put({"xt/id": "a"}, NOW, NOW - dt.timedelta(1))]), "nothing would hold"),
    (lambda node: node.submit_tx([put({"xt/id": "a"}, dt.date(2030, 1, 1))]), "wanted an aware datetime"),
    (lambda node: node.submit_tx([match("a", 7)]), "7 is not a document"),
    (lambda node: node.submit_tx([delete("ann", "tomorrow")]), "wanted an aware datetime"),
    (lambda node: node.submit_tx([("call", 7)]), "7"),
    (lambda node: node.db(99), "99 was asked for; the newest here is 1. `await_tx` waits for one"),
    (lambda node: node.submit_tx([put({"xt/id": "a", "b": b"x" * 2 ** 23})]), "Divide it, or keep the bytes in a file"),
    (lambda node: node.db("1"), "is not a transaction; wanted its tx_id"),
    (lambda node: node.db(tx_time=7), "wanted an aware datetime"),
    (lambda node: node.db().history("ann", order="up"), "order is 'up'; wanted \"asc\" or \"desc\""),
    (lambda node: node.db().pull(["name", 7], "ann"), "7 is not an element of a pull pattern"),
    (lambda node: node.db().pull([{"boss": ["*"], 7: ["*"]}], "ann"), "cannot be joined in a pull pattern"),
    (lambda node: node.db().q("find"), "is not a query"),
    (lambda node: store.open(":memory:", index="x.db"), "only a log on PostgreSQL has one"),
    # what newcomers write
    (lambda node: node.submit_tx(put({"xt/id": "a"})), "is an operation; wanted a list of operations: [put(…)]"),
    (lambda node: node.submit_tx({"xt/id": "a"}), "wanted a list of operations, such as [put(…)]"),
    (lambda node: node.submit_tx([{"xt/id": "a"}]), "is not an operation; wanted put({…}) (operation 1 of 1)"),
    (lambda node: node.submit_tx([(":put", {"xt/id": "a"})]), "Did you mean 'put'? (operation 1 of 1)"),
    (lambda node: node.submit_tx([put("ann", {"name": "Ann"})]),
     "'ann' is not a document; wanted a dict with \"xt/id\" ("),
    (lambda node: node.submit_tx([put({"_id": "a"})]), "'_id' is an attribute like any other"),
    (lambda node: node.submit_tx([put({":xt/id": "a"})]), "':xt/id' is an attribute like any other"),
    (lambda node: node.submit_tx([put({"xt/id": "a", "at": dt.datetime(2030, 1, 1)})]),
     "has no time zone; wanted an aware"),
    (lambda node: node.submit_tx([put({"xt/id": "a"}, "2030-01-01")]), "valid_from is '2030-01-01'; wanted an aware"),
    (lambda node: node.submit_tx([put({"xt/id": "a", "n": object()})]), "is a builtins.object; wanted None, bool, int"),
    (lambda node: node.submit_tx([delete({"xt/id": "ann"})]), "is a document; wanted its id, 'ann'"),
    (lambda node: node.submit_tx([delete(["ann"])]), "['ann'] cannot be an \"xt/id\""),
    (lambda node: node.submit_tx([("match", "ann")]), "match with 1 arguments; wanted an id, a document or None"),
    (lambda node: node.submit_tx([("call", len)]), "wanted the name of a function given to open()"),
    (lambda node: node.db(NOW), "A snapshot of a time is db(tx_time=…) or db(valid_time=…)"),
    (lambda node: node.db(-1), "the first is 1, and 0 is before it"),
    (lambda node: node.db(valid_time=dt.datetime(2030, 1, 1)),
     "valid_time is datetime.datetime(2030, 1, 1, 0, 0); wanted"),
    (lambda node: node.db().q([":find", "?e"]), "is not a query; wanted a dict with \"find\""),
    (lambda node: node.db().pull("ann", ["*"]), "wanted a list of attributes and joins, such as [\"*\"]"),
    (lambda node: node.db().pull([":name"], "ann"), "an attribute is a string: 'name'"),
    (lambda node: node.db().pull([("name", ":as", "n")], "ann"), "a dict of options among as, cardinality"),
    (lambda node: node.db().pull_many(["*"], "ann"), "'ann' is not a collection of ids"),
    (lambda node: node.db().pull_many(["*"], 7), "7 is not a collection of ids"),
    (lambda node: node.db().pull([("boss", {"cardinality": "many"}, ["*"])], "ann"), "is 'many'; wanted \"one\""),
    (lambda node: node.db().pull([("boss", {"into": "list"})], "ann"), "wanted a collection, such as []"),
    (lambda node: node.db().pull([("boss", {"as": ["chief"]})], "ann"), "wanted a key of a dict"),
    (lambda node: node.db().pull([("boss", {"limit": "3"})], "ann"), "is '3'; wanted a whole number"),
    (lambda node: [node.db().pull(["name"], "ann"), node.db().q(["name"])], "['name'] is not a query"),
    (lambda node: [node.db().q(ANNS), node.db().pull(ANNS, "ann")], "is not a pull pattern"),
    (lambda node: node.on_notice("Hello"), "on_notice('Hello'); wanted a function of a text"),
    (lambda node: node.on_tx(None), "on_tx(None); wanted a function of a transaction"),
    (lambda node: node.on_tx(print, after="1"), "'1' is not a transaction"),
    (lambda node: store.open(":memory:", [len]), "wanted a dict of names and callables"),
    (lambda node: store.open(":memory:", {"f": 7}), "functions={'f': 7}; wanted a dict of names and callables"),
    (lambda node: store.open(":memory:", clock=NOW), "wanted a callable"),
    (lambda node: store.open(":memory:", timeout="5"), "timeout='5'; wanted seconds, not below 0"),
    (lambda node: node.db().q({"find": "?n", "in": ["$"], "where": [NAMED]}, node.db()), "snapshot, which is no arg"),
    (lambda node: node.db().pull([("age", {"xform": "upper-case"})], "ann"), "('upper-case', 'age') cannot be comp"),
    (lambda node: node.db().entity(["age", 41, "?"]), "or a lookup ref: [\"attribute\", value]"),
    (lambda node: store.open(":memory:", schema={"mail": {"uniqe": True}}), "wanted a dict with some of reference"),
    (lambda node: store.open(":memory:", text="name"), "wanted a list of attributes"),
    (lambda node: store.open("mysql://host/db"), "'mysql://host/db' is no path; wanted that of a file"),
    (lambda node: node.backup(None), "None is no path; wanted that of a new file"),
    (lambda node: store.open("/srv/there/is/none.db"), "its folder is not there. Make it first"),
]


@pytest.mark.parametrize("act, sentence", CALLS, ids=[row[1][:30] for row in CALLS])
def test_a_call_with_a_mistake_is_told_which(node, act, sentence):
    """Without this, a mistake in a program would be found far from where it was made."""
    before = node.latest_tx.tx_id
    with pytest.raises(store.StoreError) as told:
        act(node)
    assert sentence in str(told.value), told.value
    assert node.latest_tx.tx_id == before


# ── Files that are not what they should be ───────────────────────────────────────────────────────────────────

DAMAGE = [
    # what is done to the file, and what opening, verifying or reading it says then
    ("update log set ops = x'90' where tx_id = 2", "does not have the hash|[Tt]ransaction 2"),
    ("update log set hash = zeroblob(32) where tx_id = 2", "[Tt]ransaction (2|3)"),
    ("update log set state = zeroblob(32) where tx_id = 2", "[Tt]ransaction (2|3)"),
    ("update log set tx_time = tx_time + 1 where tx_id = 2", "[Tt]ransaction (2|3)"),
    ("update log set committed = 0 where tx_id = 2", "[Tt]ransaction 2"),
    ("update log set n = n + 1 where tx_id = 2", "[Tt]ransaction (2|3)|document"),
    ("delete from log where tx_id = 2", "[Tt]ransaction (2|3)"),
    ("delete from documents where n = 2", "[Dd]ocument|gone"),
    ("update documents set doc = x'80' where n = 2", "[Dd]ocument 2"),
    ("update documents set doc = (select doc from documents where n = 1) where n = 2", "[Dd]ocument 2"),
    ("update log set ops = x'82a573746f7265a16ba6666f726d617402' where tx_id = 0", "format|hash|store|first row"),
    ("delete from log where tx_id = 0", "store"),
    ("drop table log", "not a store|log"),
    ("delete from facts", "index|fact|reindex"),
    ("delete from rects", "index|rect|reindex"),
    ("update facts set v = x'12aabbccddeeff00112233445566778899' where v = 'two'", "index|reindex|fact"),
    ("update rects set n = 1 where n = 2", "index|reindex|rect"),
]


def everything(path):
    """Opens a file, verifies it and reads all of it."""
    with contextlib.closing(store.open(path)) as node:
        node.verify()
        for id in "abc":
            node.db().entity(id), node.db(1).entity(id), node.db().history(id)
        node.db().q({"find": ["?e", "?v"], "where": [["?e", "v", "?v"]]})
        list(node.tx_log())


@pytest.mark.parametrize("damage, sentence", DAMAGE, ids=[row[0][:40] for row in DAMAGE])
def test_a_file_that_was_changed_behind_the_stores_back_is_refused(tmp_path, damage, sentence):
    """Without this, what a disk or a hand has changed would be read as if somebody had put it."""
    path = tmp_path / "one.db"
    with contextlib.closing(store.open(path)) as node:
        for id, v in zip("abc", ("one", "two", "three")):
            node.submit_tx([put({"xt/id": id, "v": v})])
    everything(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute(damage)
    with pytest.raises(store.CorruptError, match=sentence):
        everything(path)
