"""The rows of bench/store.py's tables: what is asked of each, and how the figures are shown."""

import statistics
from typing import NamedTuple

STORE, SQL = "store", "sql"
TITLES = {"people": "people, chain and tree", "past": "cold, past and supposed"}
SCALE = {"µs": 1, "ms": 1e3, "s": 1e6}


class Row(NamedTuple):
    """A row: × is the time divided by that of the hand-written SQL in the same run, or by that of the same side's
    row `of`. `asked` bounds ×, or the figure itself where the unit is ms or MB."""
    title: str
    asked: float | None = 1.5
    unit: str = "µs"
    of: str | None = None
    calls: int = 100

    @property
    def is_rate(self):
        return self.unit == "/s"

    @property
    def want(self):
        if self.asked is None:
            return ""
        if self.unit in ("ms", "MB"):
            return f"≤ {self.asked:g} {self.unit}"
        beside = {"put": " one", None: ""}.get(self.of, " now")
        return f"{'≥' if self.is_rate else '≤'} {self.asked:g} ×{beside}"

    def holds(self, figure, times) -> bool:
        if self.asked is None:
            return True
        if self.unit in ("ms", "MB"):
            return figure <= self.asked
        return times is not None and (times >= self.asked if self.is_rate else times <= self.asked)


READS = {
    "message": Row("a message by its id", calls=200), "user_by_email": Row("a user by email", calls=200),
    "id_by_email": Row("a user's id by email", calls=200), "channel": Row("a channel of 50 messages"),
    "newest": Row("newest 50 of the hot channel"), "join": Row("a channel's texts, authors' emails", 2),
    "nested": Row("a user, memberships, communities", 2),
}
THEN = {
    "user_then": Row("as of the load: a user renamed since", of="user", calls=200),
    "channel_then": Row("as of the load: a channel edited since", of="channel"),
    "newest_then": Row("as of the load: newest 50", of="newest"),
}
PEOPLE = {
    "q1": Row("DataScript q1, 2,500 rows", calls=10), "q2": Row("DataScript q2, 2,500 rows", 4, calls=10),
    "q3": Row("DataScript q3, 1,250 rows", 4, calls=10), "q4": Row("DataScript q4, 1,250 rows", 4, calls=10),
    "qpred1": Row("DataScript qpred1, 10,000 rows", calls=5), "qpred2": Row("DataScript qpred2, 10,000 rows", calls=5),
    "walk": Row("a chain of 1,000, the call last", None, calls=10),
    "reach": Row("from the start of a chain of 1,000", calls=10),
    "ancestors": Row("all ancestors in a tree of 1,000", calls=5),
}
ITEMS = {                             # each call about other items, on a fresh snapshot
    "between": Row("cold: a range of 100", 2, calls=200),
    "common": Row("cold: a range of 10, a common kind", 3, calls=200),
    "top": Row("cold: ten highest of a common kind", 3, calls=200),
    "top_of_group": Row("cold: ten dearest of a group, a joint index", None, calls=200),
    "among": Row("cold: 100,000 in `in`, a range of 100", 5),
    "highest": Row("maximum of an attribute", 5, calls=200), "count": Row("count of an attribute", 2, calls=20),
    "distinct": Row("count-distinct of 100 groups", 2, calls=20), "sum": Row("sum of an attribute", 3, calls=20),
    "average": Row("average of an attribute", 3, calls=20), "groups": Row("sums by group", 6, calls=10),
}
PAST = {                              # each call about others, on a fresh snapshot
    "cold_user": Row("cold: an entity", 2.5, calls=200), "cold_email": Row("cold: a user by email", 2.5, calls=200),
    "cold_nested": Row("cold: a user, memberships, communities", 4, calls=200),
    "cold_then": Row("cold: an entity, a fresh db(tx_id)", 3, calls=200),
    "one_then": Row("one of 2,000 versions, by valid time", 5, of="cold_user", calls=200),
    "value_now": Row("by value, 100 versions each", 4, calls=50),
    "value_then": Row("the same at a past valid time", 10, of="value_now", calls=50),
    "group_now": Row("40 users of a group", 3, calls=50),
    "supposed": Row("the same on with_tx of 10,000", 5, of="group_now", calls=50),
    "stream": Row("stream 20,000 emails (lazy_q)", 4, calls=5),
    "order_ids": Row("the ten lowest of 20,000 UUIDs", 3, calls=5),
}
PUTS = {
    "put": Row("a durable put", 1.3), "threads": Row("durable puts/s, 16 threads", 2.5, "/s", "put"),
    "tasks": Row("durable puts/s, 64 tasks", 5, "/s", "put"),
}
REST = {"open": Row("opening, ms", 100, "ms"), "memory": Row("memory at rest, MB", 100, "MB"),
        "file": Row("files, MB", None, "MB")}
ROWS = {"load": Row("bulk load, documents/s", 0.25, "/s")} | PUTS | READS | THEN | PEOPLE | ITEMS | PAST | REST

# Why a peer is ahead: by its name and the row, or by its name alone for all its rows.
WHY = {
    "cozo_mem": "is in memory: nothing is written, nothing survives",
    "datascript": "is in memory: nothing is written, nothing survives",
    ("cozo_rocksdb", "put"): "syncs nothing (0 in 100 puts): a power cut loses what was acknowledged",
    ("cozo_rocksdb", "threads"): "syncs nothing: a power cut loses what was acknowledged",
    ("cozo_rocksdb", "load"): "writes no log, no hashes, and only the indexes that these questions need",
    ("cozo_sqlite", "load"): "writes no log, no hashes, and only the indexes that these questions need",
    ("cozo_sqlite", "file"): "keeps no log, and indexes only what these questions need",
    ("cozo_rocksdb", "file"): "keeps no log, indexes only what these questions need, and compresses",
    ("datalevin", "file"): "keeps no log and no history",
    ("cozo_sqlite", "memory"): "keeps no decoded documents",
    ("cozo_rocksdb", "memory"): "keeps no decoded documents",
}


def show(figures):
    """For each size: the store beside the SQL, with what is asked; then the peers, × the store."""
    for size, rows in figures.items():
        title = f"{int(size):,} messages" if size.isdigit() else TITLES.get(size, size)
        print(f"\n{title:38}{'store':>12}{'SQL by hand':>14}{'×':>9}   asked")
        for name, row in ROWS.items():
            if STORE in rows.get(name, {}):
                print(beside_sql(row, rows[name]))
        peers = list(dict.fromkeys(side for sides in rows.values() for side in sides if side not in (STORE, SQL)))
        if peers:
            beside_peers(title, rows, peers)
    grown(figures)


def beside_sql(row, sides) -> str:
    figure, times = sides[STORE]
    other = shown(row, sides[SQL][0]) if SQL in sides else "–"
    ratio = "–" if times is None else f"{times:.2f} ×"
    verdict = "" if row.holds(figure, times) else "misses"
    return f"{row.title:38}{shown(row, figure):>12}{other:>14}{ratio:>9}   {row.want:12}{verdict}"


def beside_peers(title, rows, peers):
    print(f"\n{title:38}{'store':>12}" + "".join(f"{peer:>22}" for peer in peers))
    ahead = {}
    for name, row in ROWS.items():
        sides = rows.get(name, {})
        if STORE not in sides or not any(peer in sides for peer in peers):
            continue
        cells, own = [], sides[STORE][0]
        for peer in peers:
            theirs = sides[peer][0] if peer in sides else None
            is_ahead = theirs is not None and (theirs > own if row.is_rate else theirs < own)
            if is_ahead:
                ahead.setdefault((peer, WHY.get((peer, name), WHY.get(peer, "is faster here; not looked into"))),
                                 []).append(row.title)
            cells.append("–" if theirs is None else f"{'* ' if is_ahead else ''}{shown(row, theirs)} "
                                                    f"{theirs / own:9.2f} ×")
        print(f"{row.title:38}{shown(row, own):>12}" + "".join(f"{cell:>22}" for cell in cells))
    for (peer, why), titles in ahead.items():
        print(f"* {peer} {why}: {'; '.join(titles)}.")


def shown(row, figure) -> str:
    if row.unit == "µs":
        for bound, unit, digits in (100, "µs", 1), (10_000, "µs", 0), (1e6, "ms", 1), (float("inf"), "s", 1):
            if figure < bound:
                return f"{figure / SCALE[unit]:,.{digits}f} {unit}"
    return f"{figure:,.1f}" if figure < 10 else f"{figure:,.0f}"


def grown(figures):
    """The growth of the store's reads from a hundred thousand messages to a million."""
    few, many = figures.get("100000", {}), figures.get("1000000", {})
    rows = {name: row for name, row in (READS | THEN).items() if STORE in few.get(name, {})
            and STORE in many.get(name, {})}
    if rows:
        print("\nthe store from 100,000 to 1,000,000 messages; asked: ≤ 1.3 ×")
    for name, row in rows.items():
        times = many[name][STORE][0] / few[name][STORE][0]
        print(f"{row.title:38}{times:.2f} ×" + ("  misses" if times > 1.3 else ""))


def ratio(taken, base) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(one / other for one, other in zip(taken, base))
