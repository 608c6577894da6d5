"""A program that depends on the installed store: it is run, and both checkers read it at their strictest."""
from __future__ import annotations

import datetime as dt
import sys

import eelstore
from eelstore import Db, Listener, Node, StoreError, Tx, Version, delete, match, put, store

MAY = dt.datetime(2024, 5, 1, tzinfo=dt.timezone.utc)

heard: list[int] = []
node: Node = store.open(sys.argv[1])
first: Tx = node.submit_tx([put({"xt/id": "ann", "age": 41}, MAY), match("bob", None)])
listener: Listener = node.on_tx(lambda tx: heard.append(tx.tx_id), after=0)
second: Tx = node.submit_tx([put({"xt/id": "ann", "age": 42}), delete("carl")], check=True)
then: Db = node.db(first)
ages = {"find": ["?age"], "where": [["ann", "age", "?age"]]}
print(then.q(ages), node.db().q(ages), node.db().entity("ann"), node.db().pull(["age"], "ann"))
versions: list[Version] = node.db().history("ann")
print([(version.tx_id, version.document) for version in versions])
with node.db().lazy_q(ages) as rows:
    print(list(rows))
print(node.db().table(ages))
try:
    node.submit_tx([("nothing",)])
except StoreError as error:
    print(error)
print([tx.tx_id for tx in node.tx_log()], eelstore.open is store.open, eelstore.__version__)
node.close()
