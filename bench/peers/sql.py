"""Hand-written SQL without the store: integer keys, an index for each question, and the past of a row in a table
beside it."""

import datetime as dt
import pathlib
import sqlite3
import sys
import threading
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import peer                                       # noqa: E402
from world import GROUPS                          # noqa: E402

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
MICROSECOND = dt.timedelta(microseconds=1)

SCHEMA = """
    create table users(n integer primary key, id blob unique, email text unique, joined_at integer, since integer);
    create table users_past(n integer, id blob, email text, joined_at integer, since integer, until integer);
    create index users_past_id on users_past(id, until);
    create table communities(n integer primary key, id blob unique, title text);
    create table mems(n integer primary key, id blob unique, user integer, comm integer, roles text);
    create index mems_user on mems(user);
    create table channels(n integer primary key, id blob unique, title text, comm integer);
    create table messages(n integer primary key, id blob unique, mem integer, channel integer, text text,
                          created_at integer, since integer);
    create index messages_channel on messages(channel, created_at);
    create table messages_past(n integer, id blob, mem integer, channel integer, text text, created_at integer,
                               since integer, until integer);
    create index messages_past_channel on messages_past(channel, created_at, until);
    create table people(n integer primary key, name text, last_name text, sex text, age integer, salary integer);
    create index people_name on people(name);
    create index people_salary on people(salary);
    create table nodes(n integer primary key, next integer, parent integer);
    create table versions(e, since integer, v integer, primary key (e, since)) without rowid;
    create table crowd(n integer, grp integer, v integer, since integer, until integer);
    create index crowd_group on crowd(grp, until);
    create table groups(n integer primary key, grp integer);
    create index groups_group on groups(grp);
    create table items(n integer primary key, kind text, rank integer, grp integer, score integer, price real);
    create index items_kind on items(kind);
    create index items_rank on items(rank);
    create index items_group on items(grp);
    create index items_group_price on items(grp, price);
    create index items_score on items(score);
"""

MESSAGE = ("select m.id, e.id, m.text, m.created_at from {} m join mems e on e.n = m.mem where m.channel = (select n "
           "from channels where id = ?1)")
CHANNEL = MESSAGE.format("messages")
NEWEST = CHANNEL + " order by m.created_at desc limit 50"
CHANNEL_THEN = (f"{CHANNEL} and m.since <= ?2 union all {MESSAGE.format('messages_past')} and m.since <= ?2 and "
                "m.until > ?2")
NEWEST_THEN = CHANNEL_THEN + " order by 4 desc limit 50"
ONE = ("select m.id, e.id, c.id, m.text, m.created_at from messages m join mems e on e.n = m.mem join channels c on "
       "c.n = m.channel where m.id = ?")
JOIN = ("select m.text, u.email from messages m join mems e on e.n = m.mem join users u on u.n = e.user "
        "where m.channel = (select n from channels where id = ?)")
USER = "select id, email, joined_at from users where id = ?"
USER_GROUP = ("select u.id, u.email, u.joined_at, g.grp from users u join groups g on g.n = u.n where u.id = ?")
USER_THEN = ("select id, email, joined_at from users where id = ?1 and since <= ?2 union all "
             "select id, email, joined_at from users_past where id = ?1 and until > ?2 and since <= ?2")
MEMS = ("select e.id, c.id, c.title from mems e join communities c on c.n = e.comm where e.user = (select n from "
        "users where id = ?)")
REACH = ("with recursive r(n) as (select next from nodes where n = ? union "
         "select t.next from r join nodes t on t.n = r.n where t.next is not null) select n from r")
ANCESTORS = ("with recursive r(n, a) as (select n, parent from nodes where parent is not null union "
             "select r.n, t.parent from r join nodes t on t.n = r.a where t.parent is not null) select n, a from r")


class Side:
    def __init__(self, folder):
        self.db = sqlite3.connect(folder / "hand.db", isolation_level=None, check_same_thread=False,
                                  cached_statements=256)
        self.db.execute("pragma journal_mode = wal")
        self.db.execute("pragma synchronous = full")
        self.mutex = threading.Lock()
        if not self.db.execute("select 1 from sqlite_schema").fetchone():
            self.db.executescript(SCHEMA)

    def load(self, world):
        self.db.execute("begin")
        if hasattr(world, "people"):
            self._load_people(world)
        elif hasattr(world, "items"):
            self.long = world.long
            self.db.executemany("insert into items values (?, ?, ?, ?, ?, ?)",
                                [tuple(one.values()) for one in world.items])
        else:
            self._load_chat(world)
        if hasattr(world, "versions"):
            self._load_past(world)
        self.db.execute("commit")
        self.db.execute("analyze")
        self.past = 0

    def _load_chat(self, world):
        many, n = self.db.executemany, {}
        for kind in world.users, world.communities, world.mems, world.channels:
            n.update({document["xt/id"]: number for number, document in enumerate(kind, 1)})
        self.numbers = n
        many("insert into users(id, email, joined_at, since) values (?, ?, ?, 0)",
             [(d["xt/id"].bytes, d["user/email"], micros(d["user/joined-at"])) for d in world.users])
        many("insert into communities(id, title) values (?, ?)",
             [(d["xt/id"].bytes, d["comm/title"]) for d in world.communities])
        many("insert into mems(id, user, comm, roles) values (?, ?, ?, '')",
             [(d["xt/id"].bytes, n[d["mem/user"]], n[d["mem/comm"]]) for d in world.mems])
        many("insert into channels(id, title, comm) values (?, ?, ?)",
             [(d["xt/id"].bytes, d["chan/title"], n[d["chan/comm"]]) for d in world.channels])
        many("insert into messages(id, mem, channel, text, created_at, since) values (?, ?, ?, ?, ?, 0)",
             map(self._row, world.messages))

    def _load_people(self, world):
        self.db.executemany("insert into people values (?, ?, ?, ?, ?, ?)",
                            [tuple(one.values()) for one in world.people])
        self.db.executemany("insert into nodes values (?, ?, ?)", [
            (node["xt/id"], node.get("node/next"), node.get("node/parent")) for node in world.chain + world.tree])

    def _load_past(self, world):
        many = self.db.executemany
        many("insert into versions values ('one', ?, ?)", [(one["v"], one["v"]) for one in world.versions])
        many("insert into crowd values (?, ?, ?, ?, ?)",
             [(one["xt/id"], one["crowd/group"], one["crowd/n"], at, at + 1 if at < 99 else 2 ** 62)
              for at, all in enumerate(world.crowd) for one in all])
        many("insert into groups values (?, ?)", [(n, one["user/group"]) for n, one in enumerate(world.users, 1)])

    def _row(self, d):
        mem, channel = self.numbers[d["msg/mem"]], self.numbers[d["msg/channel"]]
        return d["xt/id"].bytes, mem, channel, d["msg/text"], micros(d["msg/created-at"])

    def change(self, world):
        for at, document in enumerate(world.puts, 1):
            kind, id = "messages" if "msg/text" in document else "users", document["xt/id"].bytes
            self.db.execute("begin")
            self.db.execute(f"insert into {kind}_past select *, ? from {kind} where id = ?", (at, id))
            if kind == "messages":
                self.db.execute("update messages set text = ?, since = ? where id = ?", (document["msg/text"], at, id))
            else:
                self.db.execute("update users set email = ?, since = ? where id = ?", (document["user/email"], at, id))
            self.db.execute("commit")
        for id in world.deletes:
            self.db.execute("begin")
            self.db.execute("insert into messages_past select *, ? from messages where id = ?", (at + 1, id.bytes))
            self.db.execute("delete from messages where id = ?", (id.bytes,))
            self.db.execute("commit")

    def put(self, document):
        row = self._row(document)
        with self.mutex:
            self.db.execute("insert into messages(id, mem, channel, text, created_at, since) values (?, ?, ?, ?, ?, 0)",
                            row)

    def close(self):
        self.db.close()

    # The questions

    def message(self, id):
        m, e, c, text, at = self.db.execute(ONE, (id.bytes,)).fetchone()
        return {"xt/id": identity(m), "msg/mem": identity(e), "msg/channel": identity(c), "msg/text": text,
                "msg/created-at": moment(at)}

    def user(self, id):
        return user(self.db.execute(USER, (id.bytes,)).fetchone())

    def cold_user(self, id):
        return user(self.db.execute(USER_GROUP, (id.bytes,)).fetchone())

    cold_then = cold_user

    def cold_email(self, email):
        return [user(row) for row in self.db.execute(USER_GROUP.replace("u.id =", "u.email ="), (email,))]

    def cold_nested(self, id):
        return self.cold_user(id) | self.nested(id)

    def one_then(self, v):
        version, = self.db.execute("select v from versions where e = 'one' and since <= ? order by since desc limit 1",
                                   (v,)).fetchone()
        return {"xt/id": "one", "v": version}

    def value_now(self, group):
        return self.db.execute("select n, v from crowd where grp = ? and until = ?", (group, 2 ** 62)).fetchall()

    def value_then(self, group):
        return self.db.execute("select n, v from crowd where grp = ? and until > 49 and since <= 49",
                               (group,)).fetchall()

    def group_now(self, group):
        return [identity(id) for id, in self.db.execute(
            "select u.id from groups g join users u on u.n = g.n where g.grp = ?", (group,))]

    supposed = group_now

    def stream(self, _):
        return sum(1 for _ in self.db.execute("select email from users"))

    def order_ids(self, _):
        return [identity(id) for id, in self.db.execute("select id from users order by id limit 10")]

    def user_then(self, id):
        return user(self.db.execute(USER_THEN, (id.bytes, self.past)).fetchone())

    def user_by_email(self, email):
        return [user(row) for row in self.db.execute("select id, email, joined_at from users where email = ?",
                                                     (email,))]

    def id_by_email(self, email):
        return [identity(id) for id, in self.db.execute("select id from users where email = ?", (email,))]

    def channel(self, channel):
        return [message(row, channel) for row in self.db.execute(CHANNEL, (channel.bytes,)).fetchall()]

    def channel_then(self, channel):
        return [message(row, channel) for row in self.db.execute(CHANNEL_THEN, (channel.bytes, self.past)).fetchall()]

    def newest(self, channel):
        return [message(row, channel) for row in self.db.execute(NEWEST, (channel.bytes,)).fetchall()]

    def newest_then(self, channel):
        return [message(row, channel) for row in self.db.execute(NEWEST_THEN, (channel.bytes, self.past)).fetchall()]

    def join(self, channel):
        return self.db.execute(JOIN, (channel.bytes,)).fetchall()

    def nested(self, id):
        rows = self.db.execute(MEMS, (id.bytes,)).fetchall()
        return self.user(id) | {"mems": [
            {"xt/id": identity(mem), "mem/user": id, "mem/roles": set(),
             "mem/comm": {"xt/id": identity(comm), "comm/title": title}}
            for mem, comm, title in rows]}

    def reach(self, start):
        return [n for n, in self.db.execute(REACH, (start,)).fetchall()]

    walk = reach

    def ancestors(self, _):
        return self.db.execute(ANCESTORS).fetchall()

    def q1(self, _):
        return [n for n, in self.db.execute("select n from people where name = 'Ivan'").fetchall()]

    def q2(self, _):
        return self.db.execute("select n, age from people where name = 'Ivan'").fetchall()

    def q3(self, _):
        return self.db.execute("select n, age from people where name = 'Ivan' and sex = 'male'").fetchall()

    def q4(self, _):
        return self.db.execute("select n, last_name, age from people where name = 'Ivan' and sex = 'male'").fetchall()

    def qpred1(self, _):
        return self.db.execute("select n, salary from people where salary > 50000").fetchall()

    def qpred2(self, least):
        return self.db.execute("select n, salary from people where salary > ?", (least,)).fetchall()


    def _column(self, sql, *values):
        return [n for n, in self.db.execute(sql, values).fetchall()]

    def between(self, start):
        return self._column("select n from items where rank >= ? and rank < ?", start, start + 100)

    def common(self, start):
        return self._column("select n from items where kind = 'common' and rank >= ? and rank < ?", start, start + 10)

    def top(self, start):
        return self.db.execute("select n, rank from items where kind = 'common' and rank < ? order by rank desc "
                               "limit 10", (start,)).fetchall()

    def top_of_group(self, start):
        return self.db.execute("select n, price from items where grp = ? and price < ? order by price desc limit 10",
                               (start % GROUPS, start / 4)).fetchall()

    def among(self, start):
        return [n for n in self.between(start) if n in self.long]

    def highest(self, _):
        return self._column("select max(rank) from items")

    def count(self, _):
        return self._column("select count(rank) from items")

    def distinct(self, _):
        return self._column("select count(distinct grp) from items")

    def sum(self, _):
        return self._column("select sum(score) from items")

    def average(self, _):
        return self._column("select avg(score) from items")

    def groups(self, _):
        return self.db.execute("select grp, sum(score) from items group by grp").fetchall()


def micros(at):
    return (at - EPOCH) // MICROSECOND


def moment(micros):
    return EPOCH + dt.timedelta(microseconds=micros)


def identity(data):
    return uuid.UUID(bytes=data)


def user(row):
    made = {"xt/id": identity(row[0]), "user/email": row[1], "user/joined-at": moment(row[2])}
    return made if len(row) == 3 else made | {"user/group": row[3]}


def message(row, channel):
    return {"xt/id": identity(row[0]), "msg/mem": identity(row[1]), "msg/channel": channel, "msg/text": row[2],
            "msg/created-at": moment(row[3])}


if __name__ == "__main__":
    peer.serve(Side)
