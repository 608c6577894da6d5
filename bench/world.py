"""The data of bench/store.py and the answers that it must give: made from one seed, the same in every process."""

import datetime as dt
import json
import random
import sys
import uuid

USERS, COMMUNITIES, MEMBERSHIPS, CHANNELS, SMALL, SMALL_MESSAGES = 1_000, 50, 5, 500, 20, 50
EDITS, DELETIONS, RENAMED, RENAMES = 10, 5, 20, 10
PEOPLE, NODES = 20_000, 1_000
COLD_USERS, VERSIONS = 20_000, 2_000
ITEMS, GROUPS, LONG = 100_000, 100, 100_000
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)
EPOCH, MICROSECOND = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc), dt.timedelta(microseconds=1)
WORDS = "the quick brown eel swims past a lazy heron while everybody else is still asleep".split()
NAMES = "Ivan Petr Sergei Oleg Yuri Dmitry Fedor Denis".split()
LAST_NAMES = "Ivanov Petrov Sidorov Kovalev Kuznetsov Voronoi".split()


class _World:
    def __init__(self, seed):
        self.rng = random.Random(seed)

    def id(self):
        return uuid.UUID(int=self.rng.getrandbits(128), version=4)

    def ask(self, question, argument):
        """The true answer."""
        return getattr(self, question)(argument)


class Chat(_World):
    """1,000 users, 50 communities, 5,000 memberships, 500 channels.

    One hot channel has 40 % of the messages; twenty channels have exactly fifty. After the load, `change` makes a
    history: the small channels get 10 edits and 5 deletions each, and 20 users are renamed 10 times and back. Questions
    about "then" are about the end of the load.
    """

    def __init__(self, messages):
        super().__init__(1)
        rng, id = self.rng, self.id
        self.users = [{"xt/id": id(), "user/email": f"user{n}@example.com", "user/joined-at": NOW}
                      for n in range(USERS)]
        self.communities = [{"xt/id": id(), "comm/title": f"Community #{n}"} for n in range(COMMUNITIES)]
        self.mems = [{"xt/id": id(), "mem/user": user["xt/id"], "mem/comm": comm["xt/id"], "mem/roles": set()}
                     for user in self.users for comm in rng.sample(self.communities, MEMBERSHIPS)]
        self.channels = [{"xt/id": id(), "chan/title": f"Channel #{n}",
                          "chan/comm": rng.choice(self.communities)["xt/id"]} for n in range(CHANNELS)]
        self.messages = list(self._messages(messages))
        self._plan_changes()

    def _messages(self, count):
        rng, ids = self.rng, [channel["xt/id"] for channel in self.channels]
        self.hot, self.small = ids[0], ids[1:1 + SMALL]
        places = self.small * SMALL_MESSAGES + [self.hot] * (count * 4 // 10)
        places += rng.choices(ids[1 + SMALL:], k=max(0, count - len(places)))
        rng.shuffle(places)
        texts = [" ".join(rng.choices(WORDS, k=14)) for _ in range(2_000)]
        for n, place in enumerate(places):
            yield {"xt/id": self.id(), "msg/mem": rng.choice(self.mems)["xt/id"], "msg/channel": place,
                   "msg/text": f"{rng.choice(texts)} {n}", "msg/created-at": NOW + dt.timedelta(seconds=n)}

    def _plan_changes(self):
        """Documents to put and ids to delete after the load, and the small channels before and after."""
        self.then = {id: [] for id in self.small}
        for message in self.messages:
            if message["msg/channel"] in self.then:
                self.then[message["msg/channel"]].append(message)
        edit = lambda message: message | {"msg/text": "edited " + message["msg/text"]}
        self.now = {id: [edit(m) for m in all[:EDITS]] + all[EDITS + DELETIONS:] for id, all in self.then.items()}
        self.puts = [m for id in self.small for m in self.now[id][:EDITS]]
        self.puts += [user | {"user/email": f"renamed{n}-{user['user/email']}"} for user in self.users[:RENAMED]
                      for n in range(RENAMES)]
        self.puts += self.users[:RENAMED]
        self.deletes = [m["xt/id"] for all in self.then.values() for m in all[EDITS:EDITS + DELETIONS]]
        self.is_changed = False

    def documents(self):
        return self.users + self.communities + self.mems + self.channels + self.messages

    def fresh(self, rng):
        """A message that is not there yet."""
        return rng.choice(self.messages) | {"xt/id": uuid.UUID(int=rng.getrandbits(128), version=4),
                                            "msg/created-at": NOW + dt.timedelta(days=400)}

    def arguments(self, question, count):
        rng = random.Random(2)
        if question == "message":
            return [message["xt/id"] for message in rng.choices(self.messages, k=count)]
        if question in ("user_by_email", "id_by_email"):
            return [user["user/email"] for user in rng.choices(self.users, k=count)]
        if question == "nested":
            return [user["xt/id"] for user in rng.choices(self.users, k=count)]
        if question in ("user", "user_then"):
            return [user["xt/id"] for user in rng.choices(self.users[:RENAMED], k=count)]
        return [self.hot if question in ("newest", "newest_then") else self.small[n % SMALL] for n in range(count)]

    # The true answers

    def message(self, id):
        return next(message for message in self.messages if message["xt/id"] == id)

    def user(self, id):
        return next(user for user in self.users if user["xt/id"] == id)

    def user_by_email(self, email):
        return [user for user in self.users if user["user/email"] == email]

    def id_by_email(self, email):
        return [user["xt/id"] for user in self.user_by_email(email)]

    def channel(self, id):
        return (self.now if self.is_changed else self.then)[id]

    def newest(self, id):
        return [message for message in self.messages if message["msg/channel"] == id][:-51:-1]

    def join(self, id):
        mems = {mem["xt/id"]: mem for mem in self.mems}
        emails = {user["xt/id"]: user["user/email"] for user in self.users}
        return [(message["msg/text"], emails[mems[message["msg/mem"]]["mem/user"]]) for message in self.channel(id)]

    def nested(self, id):
        comms = {comm["xt/id"]: comm for comm in self.communities}
        return self.user(id) | {"mems": [mem | {"mem/comm": comms[mem["mem/comm"]]}
                                         for mem in self.mems if mem["mem/user"] == id]}

    def channel_then(self, id):
        return self.then[id]

    user_then, newest_then = user, newest


class People(_World):
    """20,000 people as DataScript's benchmark has them, and a chain and a tree of 1,000 nodes each; ids are whole
    numbers."""

    def __init__(self):
        super().__init__(1)
        rng = self.rng
        self.people = [{"xt/id": n, "name": rng.choice(NAMES), "last-name": rng.choice(LAST_NAMES),
                        "sex": rng.choice(("male", "female")),
                        "age": rng.randrange(100), "salary": rng.randrange(100_000)} for n in range(1, PEOPLE + 1)]
        self.chain = [{"xt/id": 100_000 + n, "node/next": 100_001 + n}
                      for n in range(NODES - 1)] + [{"xt/id": 100_000 + NODES - 1}]
        self.tree = [{"xt/id": 200_000 + n} for n in range(NODES)]
        for n in range(1, NODES):
            self.tree[n]["node/parent"] = self.tree[(n - 1) // 2]["xt/id"]

    def documents(self):
        return self.people + self.chain + self.tree

    def arguments(self, question, count):
        return [{"qpred2": 50_000, "reach": self.chain[0]["xt/id"],
                 "walk": self.chain[0]["xt/id"]}.get(question)] * count

    # The true answers

    def _of_people(self, attributes, **wanted):
        return [tuple(one[a] for a in attributes) for one in self.people
                if all(one[a] == value for a, value in wanted.items())]

    def q1(self, _):
        return [id for id, in self._of_people(["xt/id"], name="Ivan")]

    def q2(self, _):
        return self._of_people(["xt/id", "age"], name="Ivan")

    def q3(self, _):
        return self._of_people(["xt/id", "age"], name="Ivan", sex="male")

    def q4(self, _):
        return self._of_people(["xt/id", "last-name", "age"], name="Ivan", sex="male")

    def qpred1(self, _):
        return [(one["xt/id"], one["salary"]) for one in self.people if one["salary"] > 50_000]

    qpred2 = qpred1

    def reach(self, start):
        return [node["xt/id"] for node in self.chain[1:]]

    walk = reach

    def ancestors(self, _):
        pairs = []
        for n in range(1, NODES):
            above = n
            while above:
                above = (above - 1) // 2
                pairs.append((self.tree[n]["xt/id"], self.tree[above]["xt/id"]))
        return pairs


class Items(_World):
    """Items of one common kind with a rank, a group, a score and a price; every question is about others of them."""

    def __init__(self, count=ITEMS):
        super().__init__(1)
        ranks = self.rng.sample(range(count), count)
        self.items = [{"xt/id": n, "item/kind": "common", "item/rank": rank, "item/group": rank % GROUPS,
                       "item/score": rank * 7919 % 10_007, "item/price": rank / 4} for n, rank in enumerate(ranks)]
        self.ids = {item["item/rank"]: item["xt/id"] for item in self.items}
        self.long = frozenset(range(0, 2 * LONG, 2))
        self.turn = 0                     # of the measurements, each of which asks for other items

    def documents(self):
        return self.items

    def arguments(self, question, count):
        """Where a range begins, elsewhere in each call."""
        rng = random.Random(self.turn)
        return [rng.randrange(len(self.items) - 200) for _ in range(count)]

    # The true answers

    def between(self, start):
        return [self.ids[rank] for rank in range(start, start + 100)]

    def common(self, start):
        return [self.ids[rank] for rank in range(start, start + 10)]

    def top(self, start):
        return [(self.ids[rank], rank) for rank in range(start - 1, max(start - 11, -1), -1)]

    def top_of_group(self, start):
        return [(self.ids[rank], rank / 4) for rank in range(start - GROUPS, -1, -GROUPS)][:10]

    def among(self, start):
        return [id for id in self.between(start) if id % 2 == 0 and id < 2 * LONG]

    def highest(self, _):
        return [len(self.items) - 1]

    def count(self, _):
        return [len(self.items)]

    def distinct(self, _):
        return [GROUPS]

    def sum(self, _):
        return [sum(item["item/score"] for item in self.items)]

    def average(self, _):
        total, count = self.sum(None)[0], len(self.items)
        return [total // count if total % count == 0 else total / count]

    def groups(self, _):
        sums = [0] * GROUPS
        for item in self.items:
            sums[item["item/group"]] += item["item/score"]
        return list(enumerate(sums))


class Past(_World):
    """20,000 users in 500 groups with three memberships each, asked about in turn, so that none is in memory;
    an entity of 2,000 versions, and 100 entities of 100 versions; a supposition of 10,000 users."""

    def __init__(self):
        super().__init__(1)
        rng, id = self.rng, self.id
        self.users = [{"xt/id": id(), "user/email": f"user{n}@example.com", "user/joined-at": NOW,
                       "user/group": n % 500}
                      for n in range(COLD_USERS)]
        self.communities = [{"xt/id": id(), "comm/title": f"Community #{n}"} for n in range(COMMUNITIES)]
        self.mems = [{"xt/id": id(), "mem/user": user["xt/id"], "mem/comm": comm["xt/id"], "mem/roles": set()}
                     for user in self.users for comm in rng.sample(self.communities, 3)]
        self.channels, self.messages = [], []
        self.versions = [{"xt/id": "one", "v": v} for v in range(VERSIONS)]
        self.crowd = [[{"xt/id": n, "crowd/group": n % 10, "crowd/n": v} for n in range(100)] for v in range(100)]
        self.supposed_users = [user | {"user/joined-at": NOW + MICROSECOND} for user in self.users[:10_000]]
        self.turn = 0

    def documents(self):
        return self.users + self.communities + self.mems

    def arguments(self, question, count):
        rng = random.Random(f"{question} {self.turn}")
        if question == "one_then":
            return [rng.randrange(VERSIONS) for _ in range(count)]
        if question in ("value_now", "value_then"):
            return [rng.randrange(10) for _ in range(count)]
        if question in ("group_now", "supposed"):
            return [rng.randrange(500) for _ in range(count)]
        if question == "cold_email":
            return [user["user/email"] for user in rng.choices(self.users, k=count)]
        return [user["xt/id"] for user in rng.choices(self.users, k=count)]

    # The true answers

    def cold_user(self, id):
        return next(user for user in self.users if user["xt/id"] == id)

    cold_then = cold_user

    def cold_email(self, email):
        return [user for user in self.users if user["user/email"] == email]

    def cold_nested(self, id):
        comms = {comm["xt/id"]: comm for comm in self.communities}
        return self.cold_user(id) | {"mems": [mem | {"mem/comm": comms[mem["mem/comm"]]}
                                              for mem in self.mems if mem["mem/user"] == id]}

    def one_then(self, v):
        return self.versions[v]

    def value_now(self, group):
        return [(one["xt/id"], 99) for one in self.crowd[0] if one["crowd/group"] == group]

    def value_then(self, group):
        return [(n, 49) for n, _ in self.value_now(group)]

    def group_now(self, group):
        return [user["xt/id"] for user in self.users if user["user/group"] == group]

    supposed = group_now

    def stream(self, _):
        return len(self.users)

    def order_ids(self, _):
        return sorted(user["xt/id"] for user in self.users)[:10]


def world_of(size):
    """The world of a size: a number of messages, "people", "past", "items", or "items-" and their number."""
    if size == "past":
        return Past()
    if size == "people":
        return People()
    if size.startswith("items"):
        return Items(int(size.partition("-")[2] or ITEMS))
    return Chat(int(size))


def plain(value):
    """A value as JSON has it: ids as hex, times as microseconds, every collection a list."""
    if isinstance(value, uuid.UUID):
        return value.hex
    if isinstance(value, dt.datetime):
        return (value - EPOCH) // MICROSECOND
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple, set, frozenset)) else value


def same(question, one, other) -> bool:
    """True if two plain answers are equal; only "newest" and "top" have an order."""
    if question.startswith(("newest", "top")):
        return one == other
    return _in_order(one) == _in_order(other)


def _in_order(answer):
    if isinstance(answer, dict):
        return answer | {"mems": _in_order(answer["mems"])} if "mems" in answer else answer
    return sorted(answer, key=lambda item: json.dumps(item, sort_keys=True)) if isinstance(answer, list) else answer


def main():
    """The world as JSON, for a side in another language: documents, and arguments for two hundred calls of each
    question."""
    size = sys.argv[1]
    world = world_of(size)
    asked = [name for name in vars(type(world)) if not name.startswith("_")
             and name not in ("documents", "arguments", "fresh")]
    print(json.dumps({"documents": plain(world.documents()),
                      "arguments": {name: plain(world.arguments(name, 200)) for name in asked}}))


if __name__ == "__main__":
    main()
