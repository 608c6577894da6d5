# SPDX-License-Identifier: MIT
"""Transactions: lists of documents with instructions, and of the store's own operations (tuples).

    {"db/doc-type": "membership", "db.op/upsert": {"mem/user": user, "mem/comm": comm},
     "mem/roles": ("db/default", set())}

"db/op" is put (the default), create, update, merge or delete. Special values are tuples, never plain strings: what a
person types is a string, and must stay one whatever it says. Create, update and merge become match + put, so that a
change by someone else in between makes the transaction abort; then it is made again from a fresh snapshot.
"""

import asyncio
import functools
import itertools
import random
import sys
import time
from typing import Any, Iterable

import voluptuous

import store
from biff.config import number_of
from biff.system import BiffError, StartError, assoc_db, dicts, now, parts


class TransactionError(BiffError):
    """A transaction was refused before it was submitted; nothing was written."""


class SchemaError(TransactionError):
    """A document would not be what its type says. `doc_type` and `attribute` name it."""

    def __init__(self, message, doc_type, attribute):
        super().__init__(message)
        self.doc_type, self.attribute = doc_type, attribute


class ConstraintError(TransactionError):
    """A transaction function refused: a value that must be unique is taken, or there are as many as there may be."""


class ContentionError(TransactionError):
    """Others changed the same documents at every attempt."""


ATTEMPTS_MAX = 5                      # at one transaction; whoever loses five times in a row is told
RETRY_S = 0.1                         # the first wait is below this, each next below twice the one before
PROGRESS_S = 0.5                      # between two lines of progress while a server catches up with its log

NOW = ("db/now",)                     # the time of this attempt, the same everywhere in the transaction
DISSOC = ("db/dissoc",)               # update, merge: the attribute goes
IN_ANY_OP = {"db/now", "db/id", "db/unique"}
IN_MERGE = {"db/dissoc", "db/union", "db/difference", "db/add", "db/default"}
INSTRUCTIONS = {"db/doc-type", "db/op", "db.op/upsert"}


def temp_id(name: str) -> tuple:
    """Stands for a new id, the same for the same name throughout a transaction."""
    return ("db/id", name)


async def submit_tx(ctx: dict, tx: Any, retry: bool = True) -> store.Tx | None:
    """The transaction as the store's `submit` gives it, durable and committed; None if there was nothing to do.

    `tx` is a list, or a function of ctx that returns one and is called for each attempt. With `retry` false it is
    submitted once and may come back with `committed` False.
    Raises: SchemaError, ConstraintError, TransactionError before anything is written; ContentionError after five
    attempts.
    Source: Biff, submit-tx.
    """
    for attempt in range(ATTEMPTS_MAX if retry else 1):
        if attempt:
            await asyncio.sleep(random.uniform(0, RETRY_S * 2 ** (attempt - 1)))
        operations = operations_of({**assoc_db(ctx), "biff/now": now(ctx)}, tx)
        if not operations:
            return None
        begun = time.perf_counter()
        submitted = await ctx["biff/node"].submit(operations)
        ctx["biff/commit-seconds"].observe(time.perf_counter() - begun)
        if submitted.committed or not retry:
            return submitted
    raise ContentionError(f"Others changed the same documents at each of {ATTEMPTS_MAX} attempts. Nothing was written.")


def operations_of(ctx: dict, tx: Any) -> list:
    """The store's operations for a transaction, as of ctx's snapshot."""
    tx = list(tx(ctx) if callable(tx) else tx)
    tx = _resolved(tx, functools.partial(_without_ids_and_now, ctx, {}))
    tx = [made for part in tx for made in _without_upsert(ctx, part)]
    tx = [made for part in tx for made in _without_unique(part)]
    places = [f"operation {number} of {len(tx)}" for number in range(1, len(tx) + 1)]
    operations = [made for part, where in zip(tx, places) for made in _operations(ctx, part, where)]
    if any(op[0] == "call" for op in operations) and ctx["biff/db"].with_tx(operations) is None:
        raise ConstraintError("The transaction violated a constraint: what must be unique is not, or there would be "
                              "too many. Nothing was written.")
    return operations


def _resolved(value, change):
    """The value with each tuple in it changed, innermost first."""
    if type(value) is dict:
        return {key: _resolved(part, change) for key, part in value.items()}
    if type(value) in (list, set, frozenset):
        return type(value)(_resolved(part, change) for part in value)
    if type(value) is tuple:
        return change(tuple(_resolved(part, change) for part in value))
    return value


def _without_ids_and_now(ctx, ids, value):
    match value:
        case ("db/now",):
            return ctx["biff/now"]
        case ("db/id", name):
            if name not in ids:
                ids[name] = ctx["biff/node"].new_id()
            return ids[name]
    return value


def _without_upsert(ctx, part):
    """Found: merged into it. Not found: a new document, and a call that aborts if someone else makes one too."""
    if type(part) is tuple or "db.op/upsert" not in part:
        return [part]
    pairs = part["db.op/upsert"]
    rest = {key: value for key, value in part.items() if key != "db.op/upsert"}
    document = {**rest, **pairs, "db/op": "merge"}
    id = lookup_id(ctx["biff/db"], *itertools.chain(*pairs.items()))
    return [{**document, "xt/id": id}] if id is not None else [document, store.call("biff/ensure-unique", pairs)]


def _without_unique(part):
    if type(part) is tuple:
        return [part]
    unique = {key: value[1] for key, value in part.items() if _special(value) == "db/unique"}
    return [part | unique, *(store.call("biff/ensure-unique", {key: value}) for key, value in unique.items())]


def _special(value):
    """The name of a special value, or None."""
    return value[0] if type(value) is tuple and value and value[0] in IN_ANY_OP | IN_MERGE else None


def _operations(ctx, part, where):
    if type(part) is tuple:
        return [part]
    kind, given = part.get("db/op", "put"), {key: value for key, value in part.items() if key not in INSTRUCTIONS}
    _check_instructions(part, kind, given, where)
    id = given.setdefault("xt/id", ctx["biff/node"].new_id())
    if kind == "delete":
        return [store.delete(id)]
    before = None if kind == "put" else ctx["biff/db"].entity(id)
    if (kind, before is None) in (("create", False), ("update", True)):
        state = "does not exist" if before is None else "exists"
        raise TransactionError(f"Attempted to {kind} a {part['db/doc-type']} that {state} ({where}). Nothing was "
                               "written.")
    document = given if kind in ("put", "create") else _merged(before or {}, given)
    _check(ctx, part["db/doc-type"], document, where)
    return [store.put(document)] if kind == "put" else [store.match(id, before), store.put(document)]


def _check_instructions(part, kind, given, where):
    if kind not in ("put", "create", "update", "merge", "delete"):
        raise TransactionError(f"db/op is {kind!r}; wanted put, create, update, merge or delete ({where}).")
    if kind == "delete" and "xt/id" not in part or kind != "delete" and "db/doc-type" not in part:
        raise TransactionError(f"A {kind} needs {'xt/id' if kind == 'delete' else 'db/doc-type'} ({where}).")
    for key, value in given.items():
        if key.startswith(("db/", "db.op/")):
            raise TransactionError(f"{key} is not an instruction ({where}).")
        if kind in ("put", "create") and _special(value):
            raise TransactionError(f"{key} has {_special(value)}, which only update and merge know ({where}).")


def _merged(before, given):
    """The document with the given values over it, special values done."""
    after = before | given
    for key, value in given.items():
        if _special(value) == "db/dissoc" or _special(value) == "db/default" and key in before:
            after = {k: v for k, v in after.items() if k != key} | ({key: before[key]} if value != DISSOC else {})
        elif _special(value):
            after[key] = _combined(_special(value), before.get(key), value[1:])
    return after


def _combined(special, old, new):
    match special:
        case "db/union":
            return _several(old) | set(new)
        case "db/difference":
            return _several(old) - set(new)
        case "db/add":
            return sum(new, start=old or 0)
        case _:
            return new[0]


def _several(value):
    return set() if value is None else set(value) if isinstance(value, (list, set, frozenset)) else {value}


def _check(ctx, doc_type, document, where):
    """Checks a whole document against its type. The sentence names the attribute, never the value."""
    schema = ctx["biff/schema"].get(doc_type)
    if schema is None:
        raise TransactionError(f"No plugin has a schema for {doc_type} ({where}).")
    try:
        schema(document)
    except voluptuous.Invalid as invalid:
        first = invalid.errors[0] if isinstance(invalid, voluptuous.MultipleInvalid) else invalid
        attribute = str(first.path[0]) if first.path else "the document"
        message = f"{doc_type}: {attribute}: {first.msg} ({where}). Nothing was written."
        raise SchemaError(message, doc_type, attribute) from None


def ensure_unique(ctx: store.Context, pairs: dict) -> bool | None:
    """A transaction function: aborts if more than one document has all these pairs, after the writes so far."""
    return ensure_at_most(ctx, pairs, 1)


def ensure_at_most(ctx: store.Context, pairs: dict, count_max: int) -> bool | None:
    """The same for more than `count_max` documents."""
    counted = ctx.db.q({**_lookup(pairs), "find": ("count", "?e")}, *pairs.values())
    return False if counted and counted[0] > count_max else None


def at_most(count_max: int, pairs: dict) -> tuple:
    """A part of a transaction: it commits only if no more than this many documents have all these pairs."""
    return store.call("biff/ensure-at-most", pairs, count_max)


def unchanged(ctx: dict, *ids: Any) -> list:
    """Parts of a transaction: it commits only if these documents are as in ctx's snapshot, and the rights they give."""
    return [store.match(id, ctx["biff/db"].entity(id)) for id in ids]


async def use_store(system: dict) -> dict:
    system["biff/schema"] = _schemas(system)
    functions = {"biff/ensure-unique": ensure_unique, "biff/ensure-at-most": ensure_at_most} | dicts(system, "tx-fns")
    config, file = system["biff/config"], system["biff/config"]["data"] / f"{system['biff/name']}.db"
    try:
        if config["log"]:
            node = await asyncio.to_thread(_open_shared, system, functions)
        else:
            node = await asyncio.to_thread(store.open, system.get("biff/database", file), functions,
                                           text=_texts(system), progress=_progress(system))
    except (store.StoreError, OSError) as error:
        raise StartError(str(error)) from error
    types = [schema.schema for schema in system["biff/schema"].values() if isinstance(schema.schema, dict)]
    node.expect(str(attribute) for attributes in types for attribute in attributes)
    system["biff/node"] = node
    system["biff/stop"].append(node.close)
    return system


def _open_shared(system, functions):
    """A log that other servers share, with an index in the data folder.

    A form of one server's page is sent to another one, which must know it as its own. So the secret is the first
    server's, and stands in the log. Codes are not keyed by it.
    """
    config = system["biff/config"]
    if not config["log"].startswith(("postgresql://", "postgres://")):
        raise StartError("The log of several servers is named by an address that begins with postgresql://.")
    number = number_of(system)                         # each worker has an index of its own
    index = config["data"] / f"{system['biff/name']}-index{f'-{number}' if number else ''}.db"
    node = store.open(config["log"], functions, index=index, progress=_progress(system), text=_texts(system))
    try:
        secret = {"xt/id": "biff/secret", "secret/bytes": system["biff/secret"]}
        node.submit_tx([store.match("biff/secret", None), store.put(secret)])
        shared = node.db().entity("biff/secret")
        assert shared is not None, "it is there, whoever put it"
        system["biff/secret"] = shared["secret/bytes"]
    except BaseException:
        node.close()
        raise
    return node


def _texts(system):
    """The attributes that all plugins want to search for words."""
    return parts(system, "texts")


def _schemas(system):
    """The document types of all plugins, each with the attributes that other plugins add to it."""
    schemas = {name: _schema(given) for name, given in dicts(system, "schema").items()}
    for plugin in system["biff/plugins"]:
        for name, attributes in plugin.get("extends", {}).items():
            schemas[name] = schemas[name].extend(attributes)
    return schemas


def _progress(system):
    """Shows how far the index has come, and stops when the server is asked to."""
    shown_at = [0.0]

    def progress(done, of):
        if system.get("biff/is-ending", bool)():
            raise StartError(f"Stopped at transaction {done:,} of {of:,}; the next start goes on from there.")
        if time.monotonic() - shown_at[0] > PROGRESS_S or done == of and shown_at[0]:
            shown_at[0] = time.monotonic()
            filled = 40 * done // max(of, 1)
            print(f"catching up [{'#' * filled}{'.' * (40 - filled)}] {done:,} of {of:,}", file=sys.stderr, flush=True)
    return progress


def _schema(given):
    return given if isinstance(given, voluptuous.Schema) else voluptuous.Schema(given, required=True)


def q(db: store.Db, query: dict, *args: Any) -> list:
    return db.q(query, *args)


def lookup(db: store.Db, *pairs: Any, pattern: Iterable = ("*",)) -> dict | None:
    """A document that has all these attributes with these values, given as k, v, k, v …; any one, or None."""
    return next(iter(lookup_all(db, *pairs, pattern=pattern, limit=1)), None)


def lookup_all(db: store.Db, *pairs: Any, pattern: Iterable = ("*",), limit: int | None = None) -> list[dict]:
    found = _found(db, ("pull", "?e", list(pattern)), pairs, limit)
    return [document for document in found if document is not None]      # None: evicted between search and reading


def lookup_id(db: store.Db, *pairs: Any) -> Any:
    """The id of such a document; any one if several, or None."""
    return next(iter(_found(db, "?e", pairs, 1)), None)


def lookup_id_all(db: store.Db, *pairs: Any) -> list:
    return _found(db, "?e", pairs, None)


def _found(db, find, pairs, limit):
    pairs = dict(zip(pairs[::2], pairs[1::2], strict=True))
    query = {**_lookup(pairs), "find": find}
    return db.q(query if limit is None else query | {"limit": limit}, *pairs.values())


def _lookup(pairs):
    names = [f"?v{number}" for number in range(len(pairs))]
    return {"in": names, "where": [["?e", key, name] for key, name in zip(pairs, names)]}
