"""Cozo, embedded: a relation a kind, an index for each question, a Validity column where the past is asked for.

    python bench/peers/cozo.py FOLDER SIZE ENGINE      # of cozo_embedded: mem, sqlite, rocksdb

Cozo has no reverse scan for the top k: a column holds the negated time, and `:limit` without `:order` stops early. The
questions name the index relation themselves, because Cozo 0.7.6 answered nothing with a literal on an indexed column
and `@ 'NOW'`.
"""

import pathlib
import sys
import time
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import peer                                       # noqa: E402
from pycozo.client import Client                  # noqa: E402
from world import EPOCH, MICROSECOND              # noqa: E402

SCHEMA = [
    ":create user {id: Bytes, vld: Validity => email: String, joined: Int}", "::index create user:by_email {email}",
    ":create community {id: Bytes => title: String}",
    ":create mem {id: Bytes => user: Bytes, comm: Bytes}", "::index create mem:by_user {user}",
    ":create channel {id: Bytes => title: String, comm: Bytes}",
    ":create message {id: Bytes, vld: Validity => mem: Bytes, channel: Bytes, text: String, at: Int, neg: Int}",
    "::index create message:by_channel {channel, neg}",
    ":create person {id: Int => name: String, last: String, sex: String, age: Int, salary: Int}",
    "::index create person:by_name {name}", "::index create person:by_salary {salary}",
    ":create next {id: Int => next: Int}", ":create parent {id: Int => parent: Int}",
]
A_CHUNK = 10_000

MESSAGE = "?[mem, channel, text, at] := *message{id: $id, mem, channel, text, at @ 'NOW'}"
USER = "?[email, joined] := *user{id: $id, email, joined @ %s}"
BY_EMAIL = "?[id, joined] := *user:by_email{email: $email, id @ 'NOW'}, *user{id, joined @ 'NOW'}"
ID_BY_EMAIL = "?[id] := *user:by_email{email: $email, id @ 'NOW'}"
CHANNEL = ("?[neg, id, mem, text, at] := *message:by_channel{channel: $c, neg, id @ %s}, *message{id, mem, text, at @ "
           "%s}")
JOIN = ("?[text, email] := *message:by_channel{channel: $c, id @ 'NOW'}, *message{id, mem, text @ 'NOW'}, *mem{id: "
        "mem, user}, *user{id: user, email @ 'NOW'}")
NESTED = ("?[email, joined, mem, comm, title] := *user{id: $id, email, joined @ 'NOW'}, *mem:by_user{user: $id, id: "
          "mem}, *mem{id: mem, comm}, *community{id: comm, title}")
PUT = ("?[id, vld, mem, channel, text, at, neg] <- [[$id, 'ASSERT', $mem, $channel, $text, $at, $neg]] :put message "
       "{id, vld => mem, channel, text, at, neg}")
RENAME = "?[id, vld, email, joined] <- [[$id, 'ASSERT', $email, $joined]] :put user {id, vld => email, joined}"
DELETE = ("?[id, vld, mem, channel, text, at, neg] := id = $id, *message{id, mem, channel, text, at, neg @ 'NOW'}, "
          "vld = 'RETRACT' :put message {id, vld => mem, channel, text, at, neg}")
REACH = "r[n] := *next{id: $start, next: n} r[n] := r[m], *next{id: m, next: n} ?[n] := r[n]"
ANCESTORS = "r[n, a] := *parent{id: n, parent: a} r[n, a] := r[n, m], *parent{id: m, parent: a} ?[n, a] := r[n, a]"
PEOPLE = {
    "q1": "?[id] := *person:by_name{name: 'Ivan', id}",
    "q2": "?[id, age] := *person:by_name{name: 'Ivan', id}, *person{id, age}",
    "q3": "?[id, age] := *person:by_name{name: 'Ivan', id}, *person{id, age, sex}, sex == 'male'",
    "q4": "?[id, last, age] := *person:by_name{name: 'Ivan', id}, *person{id, last, age, sex}, sex == 'male'",
    "qpred1": "?[id, salary] := *person:by_salary{salary, id}, salary > 50000",
    "qpred2": "?[id, salary] := *person:by_salary{salary, id}, salary > $least",
}


class Side:
    def __init__(self, folder):
        engine = sys.argv[3]
        self.db = Client(engine, "" if engine == "mem" else str(folder / "cozo.db"), dataframe=False)
        if not self.rows("::relations"):
            for statement in SCHEMA:
                self.db.run(statement)

    def rows(self, script, **parameters):
        return self.db.run(script, parameters)["rows"]

    def load(self, world):
        now = [int(time.time() * 1_000_000), True]
        if hasattr(world, "people"):
            self._import("person", "id name last sex age salary", [list(one.values()) for one in world.people])
            self._import("next", "id next", [list(one.values()) for one in world.chain if "node/next" in one])
            self._import("parent", "id parent", [list(one.values()) for one in world.tree if "node/parent" in one])
            return
        self._import("user", "id vld email joined",
                     [[d["xt/id"].bytes, now, d["user/email"], micros(d["user/joined-at"])] for d in world.users])
        self._import("community", "id title", [[d["xt/id"].bytes, d["comm/title"]] for d in world.communities])
        self._import("mem", "id user comm", [[d["xt/id"].bytes, d["mem/user"].bytes, d["mem/comm"].bytes]
                                             for d in world.mems])
        self._import("channel", "id title comm", [[d["xt/id"].bytes, d["chan/title"], d["chan/comm"].bytes]
                                                  for d in world.channels])
        self._import("message", "id vld mem channel text at neg",
                     [[id, now, *rest] for id, *rest in map(message_row, world.messages)])
        self.past = str(int(time.time() * 1_000_000))

    def _import(self, relation, headers, rows):
        for start in range(0, len(rows), A_CHUNK):
            self.db.import_relations({relation: {"headers": headers.split(), "rows": rows[start:start + A_CHUNK]}})

    def change(self, world):
        for document in world.puts:
            if "msg/text" in document:
                self.put(document)
            else:
                self.db.run(RENAME, {"id": document["xt/id"].bytes, "email": document["user/email"],
                                     "joined": micros(document["user/joined-at"])})
        for id in world.deletes:
            self.db.run(DELETE, {"id": id.bytes})

    def put(self, document):
        self.db.run(PUT, dict(zip(("id", "mem", "channel", "text", "at", "neg"), message_row(document))))

    def close(self):
        self.db.close()

    # The questions

    def message(self, id):
        (mem, channel, text, at), = self.rows(MESSAGE, id=id.bytes)
        return message(id.bytes, mem, uuid.UUID(bytes=channel), text, at)

    def user(self, id):
        return user(id.bytes, *self.rows(USER % "'NOW'", id=id.bytes)[0])

    def user_then(self, id):
        return user(id.bytes, *self.rows(USER % self.past, id=id.bytes)[0])

    def user_by_email(self, email):
        return [user(id, email, joined) for id, joined in self.rows(BY_EMAIL, email=email)]

    def id_by_email(self, email):
        return [uuid.UUID(bytes=id) for id, in self.rows(ID_BY_EMAIL, email=email)]

    def _channel(self, channel, at, limit=""):
        rows = self.rows(CHANNEL % (at, at) + limit, c=channel.bytes)
        return [message(id, mem, channel, text, at) for _, id, mem, text, at in rows]

    def channel(self, channel):
        return self._channel(channel, "'NOW'")

    def channel_then(self, channel):
        return self._channel(channel, self.past)

    def newest(self, channel):
        return self._channel(channel, "'NOW'", " :limit 50")

    def newest_then(self, channel):
        return self._channel(channel, self.past, " :limit 50")

    def join(self, channel):
        return list(map(tuple, self.rows(JOIN, c=channel.bytes)))

    def nested(self, id):
        rows = self.rows(NESTED, id=id.bytes)
        return user(id.bytes, *rows[0][:2]) | {"mems": [
            {"xt/id": uuid.UUID(bytes=mem), "mem/user": id, "mem/roles": set(),
             "mem/comm": {"xt/id": uuid.UUID(bytes=comm), "comm/title": title}}
            for _, _, mem, comm, title in rows]}

    def reach(self, start):
        return [n for n, in self.rows(REACH, start=start)]

    def ancestors(self, _):
        return list(map(tuple, self.rows(ANCESTORS)))

    def q1(self, _):
        return [id for id, in self.rows(PEOPLE["q1"])]

    def q2(self, _):
        return list(map(tuple, self.rows(PEOPLE["q2"])))

    def q3(self, _):
        return list(map(tuple, self.rows(PEOPLE["q3"])))

    def q4(self, _):
        return list(map(tuple, self.rows(PEOPLE["q4"])))

    def qpred1(self, _):
        return list(map(tuple, self.rows(PEOPLE["qpred1"])))

    def qpred2(self, least):
        return list(map(tuple, self.rows(PEOPLE["qpred2"], least=least)))


def micros(at):
    return (at - EPOCH) // MICROSECOND


def message_row(d):
    at = micros(d["msg/created-at"])
    return [d["xt/id"].bytes, d["msg/mem"].bytes, d["msg/channel"].bytes, d["msg/text"], at, -at]


def message(id, mem, channel, text, at):
    return {"xt/id": uuid.UUID(bytes=id), "msg/mem": uuid.UUID(bytes=mem), "msg/channel": channel, "msg/text": text,
            "msg/created-at": EPOCH + at * MICROSECOND}


def user(id, email, joined):
    return {"xt/id": uuid.UUID(bytes=id), "user/email": email, "user/joined-at": EPOCH + joined * MICROSECOND}


if __name__ == "__main__":
    peer.serve(Side)
