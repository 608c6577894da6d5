"""Searching for words: what is found, on every kind of snapshot, and what is left of it when it is forgotten."""
import contextlib
import datetime as dt
import random
import re
import sqlite3
import unicodedata
import uuid

import pytest

import store
import store_text
from conftest import wait_until
from store import call, delete, evict, put

FOUND = {"find": ["?m", "?text"], "in": ["?words"], "where": [[("text-search", "text", "?words"), [["?m", "?text"]]]]}
NEWEST = FOUND | {"find": "?text", "order-by": [[("created", "?m"), "desc"]], "limit": 30}
NARROW = "[^\\W\u0e00-\U0010ffff]"
START = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)


def plain(text):
    """A text without case, accents and needless space, as the dullest program would make it."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    bare = "".join(char for char in folded if not unicodedata.combining(char) and char != "\ufe0f")
    return " ".join(unicodedata.normalize("NFC", bare).replace("\0", " ").replace("’", "'").split())


def has(text, words):
    """True if each word is in a text; of one or two letters it must begin a word there."""
    text, wanted = plain(text), [plain(phrase or word) for phrase, word in re.findall(r'"([^"]*)"?|([^\s"]+)', words)]
    return all(re.search(f"(?<!{NARROW}){word}", text) if re.fullmatch(f"{NARROW}{{1,2}}", word) else word in text
               for word in wanted)


@pytest.fixture
def talk(open_store):
    """`talk(text, …)` is a node with these texts, one a transaction."""
    with contextlib.ExitStack() as stack:
        def talk(*texts):
            node = stack.enter_context(contextlib.closing(open_store(text=["text"])))
            for text in texts:
                node.submit_tx([put({"xt/id": uuid.uuid4(), "text": text})])
            return node
        yield talk


TEXTS = ["The quick brown eel", "Straße, Ünïcödé, naïve café", "東京都に住んでいます", "ok (go) c++ :)", "don’t EEL me",
         "Привет, мир", "👍🏽 well done", "an \"eel\" OR NOT * ^ {a}: b", "서울 날씨", "สวัสดีครับ", "q\0uick\tnew\nline"]


@pytest.mark.parametrize("words, texts", {
    "eel": [7, 4, 0], "EEL quick": [0], "quick EEL": [0], '"brown eel"': [0], '"eel brown"': [], "uic row": [0],
    "strasse unicode": [1], "CAFE": [1], "naive": [1], "東京": [2], "京": [2], "住んで": [2], "京東": [], "go": [3],
    "ok c": [3], "c++": [3], ":)": [3], "don't": [4], "ПРИВЕТ": [5], "ми": [5], "👍": [6], "OR": [7], "NOT": [7],
    "{a}:": [7], "*": [7], "^": [7],
    '"': None, "": None, "서울": [8], "날": [8], "สวัส": [9], "new": [10], "rown": [0], "ow": [], "q": [10, 0],
}.items())
def test_words_are_found_in_any_case_accent_and_script(talk, words, texts):
    """Without this, a person would have to remember how a word was written."""
    node = talk(*TEXTS)
    if texts is None:
        with pytest.raises(store.QueryError, match="wanted 1 to 16"):
            node.db().q(NEWEST, words)
    else:
        assert node.db().q(NEWEST, words) == [TEXTS[n] for n in texts]


def test_a_search_joins_with_all_other_clauses(talk):
    """Without this, nobody could search in one channel, or for what is not said."""
    node = talk()
    node.submit_tx([put({"xt/id": n, "text": f"eel number {n}", "in": "ab"[n % 2], "notes": ["one", "two"]})
                    for n in range(1, 9)] + [put({"xt/id": 99, "text": ["first eel", "second eel"], "in": "c"})])
    search, ask = FOUND["where"][0], node.db().q
    assert sorted(ask(FOUND | {"find": "?m", "in": ["?words", "?in"], "where": [["?m", "in", "?in"], search]},
                      "eel", "a")) == [2, 4, 6, 8]
    assert ask(FOUND | {"find": ("count", "?m"), "in": ["?words", ["?in", ...]],
                        "where": [search, ["?m", "in", "?in"]]}, "numb", ["a", "c"]) == [4]
    assert ask(FOUND | {"find": "?m", "where": [["?m", "in"], ("not", [("text-search", "text", "?words"), [["?m"]]])]},
               "number") == [99]
    assert sorted(ask(FOUND | {"find": "?m", "where": [("or", [("text-search", "text", "3"), [["?m"]]],
                                                        [("text-search", "text", "?words"), [["?m"]]])]},
                      "second")) == [3, 99]
    assert ask(FOUND | {"find": "?m", "rules": [[("said", "?m", "?w"), [("text-search", "text", "?w"), [["?m", "_"]]]]],
                        "where": [("said", "?m", "?words"), [("<", "?m", 3)]]}, "numbe") in ([1, 2], [2, 1])
    each = {"find": ["?w", "?m"], "in": [["?w", ...]], "where": [[("text-search", "text", "?w"), [["?m"]]]]}
    assert sorted(ask(each, ["7", "first"])) == [("7", 7), ("first", 99)]
    assert sorted(ask(FOUND, "first")) == [(99, "first eel")]
    known = [["?m", "text", "?text"], [("has-words?", "?text", "?words")]]
    assert sorted(ask(FOUND | {"where": known}, "first")) == [(99, "first eel")]


def test_what_a_search_cannot_do_is_said_in_a_sentence(talk, open_store):
    """Without this, a slip in a search would look like nothing being found."""
    node = talk("eel")
    for query, arguments, sentence in [
            (FOUND, ["x" * 257], r"wanted a text of at most 256 characters"),
            (FOUND, [" ".join(map(str, range(100, 117)))], r"has 17 words; wanted 1 to 16"),
            (FOUND, [7], r"text-search for 7; wanted a text"), (FOUND, [["a"]], r"text-search for \['a'\]; wanted"),
            (FOUND | {"where": [[("text-search", "note", "?words"), [["?m", "?text"]]]]}, ["a"],
             r"'note' is not searched for words here; name it when .* Named so far: text\."),
            (FOUND | {"where": [[("text-search", "text", "?words")]]}, ["a"], r"wanted \[\(\"text-search\""),
            (FOUND | {"where": [[("text-search", "text", "?words"), "?m"]]}, ["a"], r"wanted \[\(\"text-search\"")]:
        with pytest.raises(store.QueryError, match=sentence):
            node.db().q(query, *arguments)
    with pytest.raises(store.StoreError, match=r"text='text'; wanted a list of attributes"):
        open_store(text="text")
    with contextlib.closing(open_store()) as bare, pytest.raises(store.QueryError, match="Named so far: none"):
        bare.db().q(FOUND, "eel")


def test_a_transaction_function_searches_what_its_transaction_has_put(open_store):
    """Without this, a function that looks for a text before it writes could miss what was written just before."""
    def count(ctx):
        return [put({"xt/id": "count", "count": len(ctx.db.q(FOUND, "eel"))})]
    with contextlib.closing(open_store({"count": count}, text=["text"])) as node:
        ids = [uuid.uuid4() for _ in range(3)]
        node.submit_tx([put({"xt/id": ids[0], "text": "an eel"}), put({"xt/id": ids[1], "text": "an eel"})])
        node.submit_tx([put({"xt/id": ids[2], "text": "EEL"}), delete(ids[0]), call("count")])
        assert node.db().entity("count")["count"] == 2


def test_without_fts5_a_node_says_what_is_missing(tmp_path, monkeypatch):
    """Without this, somebody with an old Python would be told of a module that no file has."""
    def refuse(execute, names):
        raise sqlite3.OperationalError("no such module: fts5")
    monkeypatch.setattr(store_text, "make_tables", refuse)
    with pytest.raises(store.StoreError, match=r"were not indexed .*no such module: fts5.* needs FTS5 .* 3\.34"):
        store.open(tmp_path / "a.db", text=["text"])
    store.open(tmp_path / "a.db").close()


def bytes_of(path):
    """All of a store's files; search them for letters of four bytes: two stand in 2 of 100 files by chance."""
    return b"".join(file.read_bytes() for file in path.parent.glob(path.name + "*") if file.is_file())


@pytest.mark.parametrize("rebuilt", [False, True])
def test_of_an_evicted_text_no_byte_is_left(tmp_path, rebuilt):
    """Without this, the index of texts would keep what must not be known."""
    path, secret = tmp_path / "a.db", "𐴀𐴁𐴂 𐴀𐴁𐴂𐴁 𐴃𐴃𐴄𐴄"
    node = store.open(path, text=["text"])
    ids = [uuid.uuid4(), "a text", 7]
    for text in "first " + secret, "then " + secret:
        node.submit_tx([put({"xt/id": id, "text": text}) for id in ids])
        node.submit_tx([put({"xt/id": uuid.uuid4(), "text": "something else"})])
    if rebuilt:
        node.reindex()
    assert len(node.db().q(FOUND, "𐴀𐴁𐴂")) == 3
    assert all(char.encode() in bytes_of(path) for char in "𐴁𐴄")
    node.submit_tx([evict(id) for id in ids])
    assert node.db().q(FOUND, "𐴀𐴁𐴂") == [] and len(node.db().q(FOUND, "something")) == 2
    wait_until(lambda: not any(char.encode() in bytes_of(path) for char in "𐴁𐴄"), 60, lambda: "another process reads")
    assert node.verify() == 5
    node.submit_tx([put({"xt/id": id, "text": "once more"}) for id in ids])
    assert len(node.db().q(FOUND, "once")) == 3
    node.close()
    assert not any(char.encode() in bytes_of(path) for char in "𐴁𐴄")


def test_the_index_of_texts_is_made_kept_and_removed_by_open(open_store):
    """Without this, an index would have to be thrown away by hand, or would say less than the log."""
    def found(words, **options):
        told = []
        with contextlib.closing(open_store(at="a", progress=lambda *at: told.append(at), **options)) as node:
            texts = node.db().q(FOUND | {"find": "?m"}, words)
            node.submit_tx([put({"xt/id": uuid.uuid4(), "text": f"eel, seen {words}", "note": "an eel"})])
            node.verify()
        return len(texts), bool(told)

    with contextlib.closing(open_store(at="a")) as node:
        node.submit_tx([put({"xt/id": id, "text": f"eel {id}"}) for id in ("one", "two")])
        was = node.submit_tx([put({"xt/id": "one", "text": "no fish"})])
    assert found("eel", text=["text"]) == (1, True), "the one that is an eel now"
    assert found("eel") == (2, False), "as the file has it, and kept"
    assert found("eel", text=["text", "note"])[0] == 3
    with contextlib.closing(open_store(at="a", text=["note", "text"])) as node:
        assert len(node.db().q({"find": "?m", "where": [[("text-search", "note", "an eel"), [["?m"]]]]})) == 3
        assert node.db(was.tx_id - 1).q(FOUND | {"find": "?m"}, "eel one") == ["one"], "the past, indexed afterwards"
    with contextlib.closing(open_store(at="a", text=[])) as node, pytest.raises(store.QueryError, match="not searched"):
        node.db().q(FOUND, "eel")


def test_a_damaged_index_of_texts_is_noticed(tmp_path):
    """Without this, a search could miss what is there for ever."""
    with contextlib.closing(store.open(tmp_path / "a.db", text=["text"])) as node:
        node.submit_tx([put({"xt/id": uuid.uuid4(), "text": "an eel"})])
        node.verify()
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as file, file:
        file.execute("insert into text0(text0) values ('delete-all')")
    with contextlib.closing(store.open(tmp_path / "a.db", text=["text"])) as node:
        with pytest.raises(store.CorruptError, match=r"\(texts\): reindex"):
            node.verify()
        node.reindex()
        node.verify()
        assert node.db().q(NEWEST, "eel") == ["an eel"]


def test_a_common_word_is_walked_newest_first_and_no_further(talk):
    """Without this, a page of results would cost as much as all that was ever said."""
    node = talk()
    node.submit_tx([put({"xt/id": uuid.uuid4(), "text": f"eel {n}", "in": n % 500}) for n in range(3_000)])
    looked_at = []
    seen = NEWEST | {"where": [*NEWEST["where"], [(lambda text: looked_at.append(text) or True, "?text")]]}
    assert node.db().q(seen, "eel") == [f"eel {n}" for n in range(2_999, 2_969, -1)]
    assert len(looked_at) == 30
    looked_at.clear()
    assert len(node.db().q(seen, "e")) == len(looked_at) == 30, "nothing to look up, but still the newest first"
    looked_at.clear()
    within = seen | {"in": ["?words", "?in"], "where": [["?m", "in", "?in"], *seen["where"]]}
    assert node.db().q(within, "eel", 7) == [f"eel {n}" for n in range(2_507, 0, -500)]
    assert len(looked_at) == 6, "the six of one channel, not the 3,000 of one word"


# Random histories

PIECES = ["eel", "EEL", "é", "e\u0301el", "東", "京", "東京", "都", "が", "か", "한", "국", "สวัส", "👍", "c++", ":)", "a",
          "ab", "Ab", "b", "(ab)", "\"", "*", "don’t", "don't", "ß", "ss", "fi", "ﬁ", "1", "12", "123", "ж",
          "жи", "_", "-", "\u200b", "…"]


def some_text(rng, most=12):
    count = rng.randrange(1, most + 1)
    return "".join(rng.choice(PIECES) + rng.choice(["", "", " ", "  ", "\n"]) for _ in range(count))


def some_words(rng, texts):
    if rng.random() < 0.5 and texts:                     # a piece of what somebody wrote
        text = rng.choice(texts)
        start = rng.randrange(len(text) + 1)
        return text[start:start + rng.choice([1, 1, 2, 2, 3, 4, 7])]
    return " ".join(rng.choice(PIECES) for _ in range(rng.choice([1, 1, 1, 2, 3])))


def some_ops(rng, ids, texts):
    ops = []
    for id in rng.sample(ids, rng.randrange(1, 4)):
        one = rng.choice([some_text(rng)] * 6 + [7, None])
        text = [some_text(rng) for _ in range(2)] if rng.random() < 0.1 else one
        texts += [text] if type(text) is str else []
        start = rng.choice([None, None, START, START + dt.timedelta(days=rng.randrange(-5, 5))])
        end = start and rng.choice([None, start + dt.timedelta(days=3)])
        document = {"xt/id": id, "in": rng.choice("abc")} | ({} if text is None else {"text": text})
        ops.append(delete(id, start, end) if rng.random() < 0.15 else put(document, start, end))
    return ops


def shapes(rng, words, ids):
    """Queries for words in several shapes, each with the same query without them."""
    search, triple = [("text-search", "text", "?words"), [["?m", "?text"]]], ["?m", "text", "?text"]
    page = rng.choice([{}, {"order-by": [[("created", "?m"), rng.choice(["asc", "desc"])]],
                            "limit": rng.choice([1, 3, 1000])}])
    side = rng.choice(["created-before", "created-after"])
    more, given, values = rng.choice([
        ([], [], []), ([["?m", "in", "a"]], [], []), ([["?m", "in", "?in"]], [["?in", ...]], [["a", "c"]]),
        ([("not", ["?m", "in", "b"])], [], []),
        ([["?m", "in", "?in"], [("==", "?in", "?ins")]], ["?ins"], [{"a", "c"}]),
        ([[(side, "?m", "?last")]], ["?last"], [rng.choice(ids)])])
    where = [*more, search] if rng.random() < 0.5 else [search, *more]
    query = {"find": ["?m", "?text"], "in": ["?words", *given], "where": where} | page
    without = query | {"in": given, "where": [triple if clause is search else clause for clause in where]}
    return query, [words, *values], {k: v for k, v in without.items() if k != "limit"}, values


def check(db, rng, texts, ids, where):
    words = some_words(rng, texts)
    if not plain(words.replace('"', " ")):
        return 0
    query, arguments, without, given = shapes(rng, words, ids)
    wanted = [row for row in db.q(without, *given) if type(row[1]) is str and has(row[1], words)]
    wanted = wanted[:query.get("limit")]
    found = db.q(query, *arguments)
    by = (lambda rows: [row[0] for row in rows]) if "order-by" in query else lambda rows: sorted(map(repr, rows))
    assert by(found) == by(wanted), f"{where}: {words!r} in {query}\n wanted {wanted}\n found {found}"
    assert all(has(text, words) for _, text in found)
    return len(found)


def test_random_searches_find_what_looking_at_each_text_does(size, seed, say, open_store, monkeypatch):
    """Without this, a search nobody thought of could miss a text, or show one that a snapshot must not have."""
    monkeypatch.setattr(store_text, "TEXT_RUN", 1)            # so that the few entities lie in several tables
    rng, rounds, asked, hits = random.Random(seed), size(8, 400), 0, 0
    for number in range(rounds):
        texts, told = [], []
        ids = [uuid.UUID(int=rng.getrandbits(128), version=4) for _ in range(6)]
        ids += rng.choice([[], [], ["a text", 5, "x" * 80]])
        with contextlib.closing(open_store(text=["text"])) as node:
            for step in range(25):
                ops = [evict(rng.choice(ids))] if rng.random() < 0.06 else some_ops(rng, ids, texts)
                told.append(node.submit_tx(ops).tx_id)
                if step % 10 == 9 and rng.random() < 0.3:
                    node.reindex()
                supposed = node.db().with_tx(some_ops(rng, ids, texts))
                past = START + dt.timedelta(days=rng.randrange(-6, 6))
                for where, db in [("now", node.db()), ("as of", node.db(rng.choice(told))), ("supposed", supposed),
                                  ("past", node.db(valid_time=past)),
                                  ("then", node.db(rng.choice(told), valid_time=past))]:
                    for _ in range(3 if db is not None else 0):
                        asked, hits = asked + 1, hits + check(db, rng, texts, ids, (number, step, where))
            node.verify()
    assert hits > asked / 10
    say(f"0 differences in {asked:,} searches that find {hits:,} texts, seed {seed} (asked: 0)")


@pytest.mark.parametrize("count", [1, 3])
def test_a_crash_before_the_first_checkpoint_leaves_a_store_that_opens(tmp_path, count):
    """A chat whose machine lost power on its first day did not start any more: its file and log seemed foreign."""
    path, crashed = tmp_path / "a.db", tmp_path / "crashed.db"
    with contextlib.closing(store.open(path, text=["text"])) as node:
        for n in range(count):
            node.submit_tx([put({"xt/id": n, "text": "hello"})])
        for end in "", "-wal":                         # as they lie on the disk at this moment
            crashed.with_name(crashed.name + end).write_bytes(path.with_name(path.name + end).read_bytes())
    with contextlib.closing(store.open(crashed, text=["text"])) as again:
        assert again.latest_tx.tx_id == count and again.verify() == count
        again.submit_tx([put({"xt/id": "more"})])
