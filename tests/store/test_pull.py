"""Pull: data in a described shape, one test for each thing that a pattern can say."""
import pytest

import store
from store import delete, evict, put

PEOPLE = [
    {"xt/id": "ann", "name": "Ann", "mems": {"m1", "m2"}},
    {"xt/id": "bob", "name": "Bob", "friends": ["ann", "nobody", "cat"], "boss": "ann"},
    {"xt/id": "cat", "name": "Cat", "boss": "bob", "tags": {"x", "y", "z"}},
    {"xt/id": "m1", "mem/user": "ann", "mem/comm": "c1"},
    {"xt/id": "m2", "mem/user": "ann", "mem/comm": "c2"},
    {"xt/id": "c1", "comm/title": "Eels"},
]


@pytest.fixture
def db(node):
    node.submit_tx([put(document) for document in PEOPLE])
    return node.db()


def by_id(documents):
    return sorted(documents, key=lambda document: document["xt/id"])


def test_a_star_is_every_attribute_as_stored(db):
    """Without this, the commonest pull would not be entity()."""
    assert db.pull(["*"], "ann") == PEOPLE[0] == db.entity("ann")
    assert db.pull(["*"], "cat")["tags"] == {"x", "y", "z"}


def test_attributes_pick_and_absent_ones_have_no_key(db):
    """Without this, a page could not tell an absent name from one that is None."""
    assert db.pull(["name", "age"], "ann") == {"name": "Ann"}
    assert db.pull(["age"], "ann") == {}
    assert db.pull(["boss", "friends"], "bob") == {"boss": "ann", "friends": ["ann", "nobody", "cat"]}


def test_what_does_not_exist_is_none(db):
    """Without this, a missing community would be a page full of gaps."""
    assert db.pull(["*"], "nobody") is None
    assert db.pull(["name"], "nobody") is None
    assert db.pull_many(["name"], ["cat", "nobody", "ann", "cat"]) == [{"name": "Cat"}, None, {"name": "Ann"},
                                                                       {"name": "Cat"}]
    assert db.pull_many(["name"], []) == []


def test_options_rename_default_limit_and_pour(db):
    """Without this, a template would have to know how attributes are spelled in the store."""
    assert db.pull([("name", {"as": "title"})], "ann") == {"title": "Ann"}
    assert db.pull([("age", {"default": 7}), ("name", {"default": "?"})], "ann") == {"age": 7, "name": "Ann"}
    assert db.pull([("age", {"as": "years", "default": 7})], "ann") == {"years": 7}
    assert db.pull([("age", {"default": None}), ("old", {"default": False})], "ann") == {"age": None, "old": False}
    assert len(db.pull([("tags", {"limit": 2})], "cat")["tags"]) == 2
    assert db.pull([("friends", {"into": set()})], "bob") == {"friends": {"ann", "nobody", "cat"}}
    assert db.pull(["*", ("name", {"as": "title"})], "ann")["title"] == "Ann"


def test_a_function_is_applied_to_what_is_pulled(db, open_store):
    """Without this, a page would walk through what it pulled to format a date."""
    assert db.pull([("name", {"xform": str.upper}), ("age", {"xform": str, "default": 0})], "ann") == {
        "name": "ANN", "age": 0}, "a default is as it is"
    assert db.pull([("tags", {"xform": sorted, "as": "t"}), ({"boss": ["name"]}, {"xform": "keys"})], "cat") == {
        "t": ["x", "y", "z"], "boss": ["name"]}
    friends = "friends", {"limit": 1, "xform": len}, ["name"]
    assert db.pull([friends, ("_boss", {"xform": len}, ["xt/id"])], "bob") == {"friends": 1, "_boss": 1}
    assert db.pull([("_boss", {"cardinality": "one", "xform": len}, ["xt/id", "name"])], "bob") == {"_boss": 2}
    assert db.q({"find": ("pull", "?e", [("name", {"xform": "lower-case"})]), "where": [["?e", "boss", "ann"]]}) == [
        {"name": "bob"}]
    shouting = open_store({"shout": lambda text: text + "!"})
    shouting.submit_tx([put(PEOPLE[0])])
    assert shouting.db().pull([("name", {"xform": "shout"})], "ann") == {"name": "Ann!"}
    for wrong in "shout", 7, None:
        with pytest.raises(store.QueryError, match="There is no function"):
            db.pull([("name", {"xform": wrong})], "ann")


def test_a_reference_that_leads_nowhere_has_its_default(db):
    """Without this, a template would have to know which references may be missing."""
    nobody = {"name": "nobody"}
    assert db.pull(["name", ("boss", {"default": nobody}, ["name"])], "ann") == {"name": "Ann", "boss": nobody}
    assert db.pull([({"boss": ["name"]}, {"default": 0, "as": "b"})], "cat") == {"b": {"name": "Bob"}}
    assert db.pull([("_boss", {"default": []}, ["name"])], "cat") == {"_boss": []}
    assert db.pull([("_boss", {"default": []}, ["name"])], "gone") is None
    asks = [("friends", {"default": False}, ["name"]), ("mem/user", {"default": False}, ["name"])]
    gone = db.with_tx([put({"xt/id": "m3", "mem/user": "gone"})])
    assert gone.pull(asks, "m3") == {"friends": False, "mem/user": False}


def test_a_join_follows_references(db):
    """Without this, each author's name would be a question of its own."""
    assert db.pull(["name", {"boss": ["name"]}], "bob") == {"name": "Bob", "boss": {"name": "Ann"}}
    assert db.pull([{"boss": ["name", {"boss": ["name"]}]}],
                   "cat") == {"boss": {"name": "Bob", "boss": {"name": "Ann"}}}
    assert db.pull([{"friends": ["name"]}], "bob") == {"friends": [{"name": "Ann"}, None, {"name": "Cat"}]}
    assert by_id(db.pull([{"mems": ["xt/id"]}], "ann")["mems"]) == [{"xt/id": "m1"}, {"xt/id": "m2"}]
    assert db.pull([{"mem/comm": ["*"]}], "m1") == {"mem/comm": PEOPLE[5]}
    assert db.pull(["mem/user", {"mem/comm": ["*"]}], "m2") == {"mem/user": "ann"}, "no such entity: no key"
    assert db.pull([{"name": ["*"]}], "ann") == {}
    assert db.pull(["*", {"boss": ["name"]}], "bob")["boss"] == {"name": "Ann"}, "a join overrides the star"
    assert db.pull([("boss", {"as": "chief"}, ["name"])], "bob") == {"chief": {"name": "Ann"}}


def test_a_reverse_join_finds_who_refers(db):
    """Without this, a user's memberships could not be reached from the user."""
    assert by_id(db.pull([{"mem/_user": ["*"]}], "ann")["mem/_user"]) == PEOPLE[3:5]
    assert by_id(db.pull([("mem/_user", {"as": "user/mems"}, ["*"])], "ann")["user/mems"]) == PEOPLE[3:5]
    assert db.pull([{"mem/_user": ["*"]}], "bob") == {}
    assert db.pull([("mem/_comm", {"cardinality": "one"}, ["xt/id"])], "c1") == {"mem/_comm": {"xt/id": "m1"}}
    assert db.pull(["mem/_user", "name"], "ann") == {"name": "Ann"}, "a bare reverse attribute does nothing"


def test_the_tutorials_own_pattern(db):
    """Without this, the chat's sidebar would be empty."""
    pulled = db.pull(["*", ("mem/_user", {"as": "user/mems"}, ["*", {"mem/comm": ["*"]}])], "ann")
    assert pulled["name"] == "Ann"
    assert by_id(pulled["user/mems"]) == [
        PEOPLE[3] | {"mem/comm": PEOPLE[5]}, {"xt/id": "m2", "mem/user": "ann", "mem/comm": "c2"},
    ], "there is no community c2: its id stays"


def test_recursion_goes_as_deep_as_asked_and_stops_at_who_was_met(node):
    """Without this, a thread of answers would need one pattern for each depth, and a cycle would never end."""
    node.submit_tx([put({"xt/id": n, "name": str(n), "next": (n + 1) % 4}) for n in range(4)])
    db = node.db()
    assert db.pull(["name", {"next": 2}], 0) == {"name": "0", "next": {"name": "1", "next": {"name": "2"}}}
    deep = db.pull(["name", {"next": ...}], 0)
    assert deep == {"name": "0",
                    "next": {"name": "1", "next": {"name": "2", "next": {"name": "3", "next": {"xt/id": 0}}}}}


def test_a_union_chooses_by_the_value(node):
    """Without this, a list of different things would need a pull for each kind."""
    node.submit_tx([put({"xt/id": 1, "type": "film", "title": "E", "year": 3}),
                    put({"xt/id": 2, "type": "book", "title": "B", "pages": 4})])
    pattern = [{"type": {"film": ["year"], "book": ["pages", "title"]}}]
    assert node.db().pull_many(pattern, [1, 2]) == [{"year": 3}, {"pages": 4, "title": "B"}]
    node.submit_tx([put({"xt/id": 3, "type": 7, "n": 1}), put({"xt/id": 4, "type": True, "n": 2}),
                    put({"xt/id": 5, "type": [7, "book"], "pages": 9})])
    assert node.db().pull_many([{"type": {7: ["n", "type"], True: ["xt/id"], "book": ["pages"]}}], [3, 4, 5]) == [
        {"n": 1, "type": 7}, {"xt/id": 4}, {"type": [7, "book"], "pages": 9}], "whatever the type of the value"


def test_pull_in_a_query(db):
    """Without this, a list of messages would be a query and a pull for each."""
    query = {"find": ["?n", ("pull", "?b", ["name"])], "where": [["?e", "boss", "?b"], ["?e", "name", "?n"]]}
    assert sorted(db.q(query), key=str) == [("Bob", {"name": "Ann"}), ("Cat", {"name": "Bob"})]
    assert db.q({"find": ("pull", "?e", ["*"]), "where": [["?e", "name", "Ann"]]}) == [PEOPLE[0]]
    assert db.q({"find": ("pull", "?c", ["*"]),
                 "where": [["m2", "mem/comm", "?c"]]}) == [None], "the row stays, with None"


def test_equal_pulls_of_different_entities_are_one_answer(db):
    """What no answer should do, come twice, pulled answers did:
    a list of first names held each as often as it is borne."""
    who = [["?e", "name"]]
    pulled = lambda pattern, **rest: db.q({"find": ("pull", "?e", pattern), "where": who, **rest})
    assert pulled(["age"]) == [{}] and pulled([]) == [None]
    assert pulled([("name", {"as": "n"}), ("age", {"default": 1})]) != pulled(["age"]) and len(pulled(["name"])) == 3
    assert len(pulled(["age"], limit=9)) == 3, "a bag keeps them; ids tell them apart"
    assert len(pulled(["xt/id", "age"])) == 3, "a bag keeps them; ids tell them apart"
    assert sorted(db.q({"find": ["?n", ("pull", "?e", ["age"])], "where": [["?e", "name", "?n"]]}),
                  key=str) == [("Ann", {}), ("Bob", {}), ("Cat", {})]
    assert db.q({"find": ("pull", "?c", ["*"]), "in": [["?c", ...]]}, ["nobody", "none"]) == [None]
    assert db.q({"find": [("pull", "?e", ["age"]), ("count", "?n")], "where": [["?e", "name", "?n"]]}) == [({}, 1)]


def test_a_pull_stands_beside_an_aggregate(db):
    """It was an error where the entity is only the subject of its clauses:
    each author with the number of their messages."""
    tags = {"find": [("pull", "?e", ["name"]), ("count", "?t")], "where": [["?e", "tags", "?t"]]}
    assert db.q(tags) == [({"name": "Cat"}, 3)]
    bosses = {"find": [("count", "?e"), ("pull", "?b", ["name"])], "where": [["?e", "boss", "?b"], ["?b", "name"]],
              "order-by": [[("count", "?e")]]}
    assert sorted(db.q(bosses), key=str) == [(1, {"name": "Ann"}), (1, {"name": "Bob"})]


def test_lookups_use_the_snapshot(node):
    """Without this, a page of the past would show today's names."""
    one = node.submit_tx([put({"xt/id": "ann", "name": "Ann"}), put({"xt/id": "bob", "boss": "ann"})])
    node.submit_tx([put({"xt/id": "ann", "name": "Anna"})])
    node.submit_tx([delete("ann")])
    pattern = [{"boss": ["name"]}]
    assert node.db(one.tx_id).pull(pattern, "bob") == {"boss": {"name": "Ann"}}
    assert node.db(2).pull(pattern, "bob") == {"boss": {"name": "Anna"}}
    assert node.db().pull(pattern, "bob") == {}
    assert node.db().with_tx([put({"xt/id": "ann", "name": "A."})]).pull(pattern, "bob") == {"boss": {"name": "A."}}
    node.submit_tx([evict("ann")])
    assert node.db(one.tx_id).pull(pattern, "bob") == {}


@pytest.mark.parametrize("pattern", ["name", 3, [3], [("name", {"colour": 1})], [("name", {"limit": -1})],
                                     [{"name": "x"}], [{"name": 0}], [{3: ["*"]}]])
def test_a_pattern_that_does_not_fit_is_refused(db, pattern):
    """Without this, a typing mistake would be an empty page."""
    with pytest.raises(store.QueryError):
        db.pull(pattern, "ann")


def test_a_pull_deeper_than_python_nests_is_refused_in_a_sentence(node):
    """A long chain must not end in an error that is none of ours."""
    node.submit_tx([put({"xt/id": n, "up": n + 1}) for n in range(400)])
    with pytest.raises(store.QueryError, match="bound it"):
        node.db().pull(["xt/id", {"up": ...}], 0)
    pulled, levels = node.db().pull(["xt/id", {"up": 100}], 0), 0
    while "up" in pulled and type(pulled["up"]) is dict:
        pulled, levels = pulled["up"], levels + 1
    assert levels == 100
