"""The store itself."""

import pathlib
import sys

BENCH = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(BENCH.parent), str(BENCH)]
import peer                                       # noqa: E402
import store                                      # noqa: E402
from store import delete, put                     # noqa: E402
from world import GROUPS                          # noqa: E402

A_TRANSACTION = 10_000                            # documents in one, when many are loaded

CHANNEL = {"find": ("pull", "?m", ["*"]), "in": ["?c"], "where": [["?m", "msg/channel", "?c"]]}
NEWEST = CHANNEL | {"order-by": [[("created", "?m"), "desc"]], "limit": 50}
USER = {"find": ("pull", "?u", ["*"]), "in": ["?email"], "where": [["?u", "user/email", "?email"]]}
USER_ID = USER | {"find": "?u"}
JOIN = {"find": ["?text", "?email"], "in": ["?c"],
        "where": [["?m", "msg/channel", "?c"], ["?m", "msg/text", "?text"], ["?m", "msg/mem", "?e"],
                  ["?e", "mem/user", "?u"],
                  ["?u", "user/email", "?email"]]}
NESTED = ["*", ("mem/_user", {"as": "mems"}, ["*", {"mem/comm": ["*"]}])]
REACH = {"find": "?n", "in": ["?start"], "where": [("reach", "?start", "?n")],
         "rules": [[("reach", "?a", "?b"), ["?a", "node/next", "?b"]],
                   [("reach", "?a", "?b"), ("reach", "?a", "?m"), ["?m", "node/next", "?b"]]]}
ANCESTORS = {"find": ["?n", "?a"], "where": [("above", "?n", "?a")],
             "rules": [[("above", "?n", "?a"), ["?n", "node/parent", "?a"]],
                       [("above", "?n", "?a"), ("above", "?n", "?m"), ["?m", "node/parent", "?a"]]]}
WALK = REACH | {"rules": [REACH["rules"][0], [("reach", "?a", "?b"), ["?a", "node/next", "?m"], ("reach", "?m", "?b")]]}
KIND, RANK, SCORE = ["?e", "item/kind", "common"], ["?e", "item/rank", "?r"], ["?e", "item/score", "?s"]
RANGE = [[("<=", "?start", "?r")], [("<", "?r", "?end")]]
BETWEEN = {"find": "?e", "in": ["?start", "?end"], "where": [RANK, *RANGE]}
COMMON = BETWEEN | {"where": [KIND, RANK, *RANGE]}
TOP = {"find": ["?e", "?r"], "in": ["?end"], "where": [KIND, RANK, [("<", "?r", "?end")]], "order-by": [["?r", "desc"]],
       "limit": 10}
TOP_OF_GROUP = {"find": ["?e", "?p"], "in": ["?g", "?end"], "order-by": [["?p", "desc"]], "limit": 10,
                "where": [["?e", "item/group", "?g"], ["?e", "item/price", "?p"], [("<", "?p", "?end")]]}
AMONG = BETWEEN | {"in": ["?start", "?end", ["?e", ...]]}
HIGHEST = {"find": ("max", "?r"), "where": [RANK]}
COUNT = {"find": ("count", "?r"), "where": [RANK]}
DISTINCT = {"find": ("count-distinct", "?g"), "where": [["?e", "item/group", "?g"]]}
SUM = {"find": ("sum", "?s"), "where": [SCORE]}
AVERAGE = {"find": ("avg", "?s"), "where": [SCORE]}
BY_GROUP = {"find": ["?g", ("sum", "?s")], "where": [["?e", "item/group", "?g"], SCORE]}
CROWD = {"find": ["?e", "?n"], "in": ["?g"], "where": [["?e", "crowd/group", "?g"], ["?e", "crowd/n", "?n"]]}
GROUP = {"find": "?u", "in": ["?g"], "where": [["?u", "user/group", "?g"]]}
EMAILS = {"find": "?email", "where": [["?u", "user/email", "?email"]]}
LOWEST = {"find": "?u", "where": [["?u", "user/email"]], "order-by": [["?u"]], "limit": 10}
Q1 = {"find": "?e", "where": [["?e", "name", "Ivan"]]}
Q2 = {"find": ["?e", "?a"], "where": [["?e", "name", "Ivan"], ["?e", "age", "?a"]]}
Q3 = {"find": ["?e", "?a"], "where": [["?e", "name", "Ivan"], ["?e", "age", "?a"], ["?e", "sex", "male"]]}
Q4 = {"find": ["?e", "?l", "?a"], "where": [["?e", "name", "Ivan"], ["?e", "last-name", "?l"], ["?e", "age", "?a"],
                                            ["?e", "sex", "male"]]}
QPRED1 = {"find": ["?e", "?s"], "where": [["?e", "salary", "?s"], [(">", "?s", 50_000)]]}
QPRED2 = {"find": ["?e", "?s"], "in": ["?least"], "where": [["?e", "salary", "?s"], [(">", "?s", "?least")]]}


class Side:
    def __init__(self, folder):
        self.node = store.open(folder / "store.db")

    def load(self, world):
        documents, self.long = world.documents(), getattr(world, "long", None)
        for start in range(0, len(documents), A_TRANSACTION):
            self.node.submit_tx([put(document) for document in documents[start:start + A_TRANSACTION]])
        if hasattr(world, "items"):   # the others are asked of a store that declares nothing
            path = self.node.status()["path"] + ".indexed"
            self.node.backup(path)
            self.indexed = store.open(path, schema={("item/group", "item/price"): {"index": True}})
        self.past = self.node.db(self.node.latest_tx.tx_id)
        if hasattr(world, "versions"):
            self._load_past(world)

    def _load_past(self, world):
        self.loaded = self.node.latest_tx.tx_id
        self.times = [self.node.submit_tx([put(document)]).tx_time for document in world.versions]
        crowd = [self.node.submit_tx([put(document) for document in documents]).tx_time for documents in world.crowd]
        self.crowd_then = crowd[49]
        self.would = self.node.db().with_tx([put(document) for document in world.supposed_users])

    def change(self, world):
        for document in world.puts:
            self.node.submit_tx([put(document)])
        for id in world.deletes:
            self.node.submit_tx([delete(id)])

    def put(self, document):
        self.node.submit_tx([put(document)])

    async def put_async(self, document):
        await self.node.submit([put(document)])

    def close(self):
        self.node.close()

    # The questions

    def message(self, id):
        return self.node.db().entity(id)

    user = cold_user = message

    def cold_then(self, id):
        return self.node.db(self.loaded).entity(id)

    def one_then(self, v):
        return self.node.db(valid_time=self.times[v]).entity("one")

    def value_now(self, group):
        return self.node.db().q(CROWD, group)

    def value_then(self, group):
        return self.node.db(valid_time=self.crowd_then).q(CROWD, group)

    def group_now(self, group):
        return self.node.db().q(GROUP, group)

    def supposed(self, group):
        return self.would.q(GROUP, group)

    def stream(self, _):
        with self.node.db().lazy_q(EMAILS) as rows:
            return sum(1 for _ in rows)

    def order_ids(self, _):
        return self.node.db().q(LOWEST)

    def user_then(self, id):
        return self.past.entity(id)

    def user_by_email(self, email):
        return self.node.db().q(USER, email)

    cold_email = user_by_email

    def id_by_email(self, email):
        return self.node.db().q(USER_ID, email)

    def channel(self, channel):
        return self.node.db().q(CHANNEL, channel)

    def channel_then(self, channel):
        return self.past.q(CHANNEL, channel)

    def newest(self, channel):
        return self.node.db().q(NEWEST, channel)

    def newest_then(self, channel):
        return self.past.q(NEWEST, channel)

    def join(self, channel):
        return self.node.db().q(JOIN, channel)

    def nested(self, user):
        return self.node.db().pull(NESTED, user)

    cold_nested = nested

    def reach(self, start):
        return self.node.db().q(REACH, start)

    def walk(self, start):
        return self.node.db().q(WALK, start)

    def between(self, start):
        return self.node.db().q(BETWEEN, start, start + 100)

    def common(self, start):
        return self.node.db().q(COMMON, start, start + 10)

    def top(self, start):
        return self.node.db().q(TOP, start)

    def top_of_group(self, start):
        return self.indexed.db().q(TOP_OF_GROUP, start % GROUPS, start / 4)

    def among(self, start):
        return self.node.db().q(AMONG, start, start + 100, self.long)

    def highest(self, _):
        return self.node.db().q(HIGHEST)

    def count(self, _):
        return self.node.db().q(COUNT)

    def distinct(self, _):
        return self.node.db().q(DISTINCT)

    def sum(self, _):
        return self.node.db().q(SUM)

    def average(self, _):
        return self.node.db().q(AVERAGE)

    def groups(self, _):
        return self.node.db().q(BY_GROUP)

    def ancestors(self, _):
        return self.node.db().q(ANCESTORS)

    def q1(self, _):
        return self.node.db().q(Q1)

    def q2(self, _):
        return self.node.db().q(Q2)

    def q3(self, _):
        return self.node.db().q(Q3)

    def q4(self, _):
        return self.node.db().q(Q4)

    def qpred1(self, _):
        return self.node.db().q(QPRED1)

    def qpred2(self, least):
        return self.node.db().q(QPRED2, least)


if __name__ == "__main__":
    peer.serve(Side)
