# SPDX-License-Identifier: MIT
"""What `patch` and `cas` become, and operations on lookup refs: `store.py` imports it with the first of these.

All are calls of functions that every store has. Such a function sees what the operations before it left; the log keeps
what it gave, so that nothing is worked out twice.
"""

from __future__ import annotations

import importlib
from typing import Any

if not __package__:
    import store
else:                                 # both are part of somebody's package
    store = importlib.import_module(".store", __package__)

PATCH, CAS = ("patch",), ("cas",)     # their names as calls: no call of a user's has such a one


def prepare_patch(id: Any, changes: Any, start: Any = None, end: Any = None) -> store._Op:
    store.check_id(id)
    if type(changes) is not dict or "xt/id" in changes and not _is_id(changes["xt/id"], id):
        raise store.OperationError(f"patch of {store._short(id)} with {store._short(changes)}; wanted a dict of "
                                   "attributes, without another \"xt/id\"")
    (start, end), changes = store._span(start, end), changes | {"xt/id": id}
    kept = {name: store._copied(value) for name, value in changes.items() if value is not ...}
    store._encoded(dict.fromkeys(changes) | kept)
    gone = tuple(sorted(changes.keys() - kept.keys()))
    return store._call_op(PATCH, (store._logged_id(id), kept, gone, start, end), start, end)


def _is_id(one: Any, id: Any) -> bool:
    return type(one) is type(id) and store._key(one) == store._key(id)


def prepare_cas(id: Any, attribute: Any, old: Any, new: Any) -> store._Op:
    if type(attribute) is not str or attribute == "xt/id":
        raise store.OperationError(f"cas of {store._short(id)}: {store._short(attribute)} is no attribute that can be "
                                   "set")
    pairs = [{attribute: value} if value is not ... else {} for value in (old, new)]
    for pair in pairs:
        store._encoded({"xt/id": id} | pair)
    return store._call_op(CAS, (store._logged_id(id), attribute, *map(store._copied, pairs)))


def prepare_of(ref: list, kind: str, first: Any, *rest: Any) -> store._Op:
    """An operation whose id is a lookup ref, checked with another id in its place."""
    op = store._prepare_one((kind, first | {"xt/id": ""} if type(first) is dict else "", *rest))
    parts = (op.id, *op.args[1:]) if op.kind == store._CALL else (op.start, op.end, op.data, op.hash)
    return store._call_op((kind, "of"), (store._copied(ref), *parts), op.start, op.end)


def _of(transaction: store._Transaction, kind: str, ref: list, *parts: Any) -> list[store._Op]:
    """The operation, on the entity that has the value of the ref when the operations before it are done."""
    try:
        id = store._Supposition(transaction._db, transaction, transaction.tx_time)._id(ref)
    except store.QueryError as error:
        raise store._Abort(f"{kind} of {store._short(ref)}: {store._line(error)}") from None
    if id is None and (kind in ("delete", "evict") or kind == "match" and parts[3] is None):
        return []                     # as of an id that nothing was put under
    if id is None:
        raise store._Abort(f"{kind} of {store._short(ref)}: no entity has {store._short(ref[1])} in {ref[0]}")
    if kind == "patch":
        return [store._call_op(PATCH, (id, parts[1] | {"xt/id": id}, *parts[2:]))]
    if kind == "cas":
        return [store._call_op(CAS, (id, *parts[1:]))]
    start, end, data, hash = parts
    if kind == "match":
        return [store._Op(store._MATCH, id, start, hash=hash, record=store._record(store._MATCH, id, start, hash))]
    times = [time if time is None else store._moment(time) for time in (start, end)]
    what = id if kind != "put" else store.unpack(data) | {"xt/id": id}
    return [store._prepare_one((kind, what) if kind == "evict" else (kind, what, *times))]


def became(transaction: store._Transaction, op: store._Op) -> list[store._Op]:
    """The operations that a call became. Raises: _Abort."""
    if op.id[1:]:
        return _of(transaction, op.id[0], *op.args)
    try:
        made = (_patched if op.id == PATCH else _set)(transaction, *op.args)
        return [store._prepare_one(put) for put in made]
    except store.OperationError as error:
        raise store._Abort(f"{op.id[0]} of {store._short(op.args[0])}: {store._line(error)}") from None


def _patched(transaction: store._Transaction, id: Any, changes: dict, gone: tuple, start: int | None,
             end: int | None) -> list[store.Operation]:
    """A put over each version in the span that the patch changes."""
    start, end = transaction.tx_time if start is None else start, store.OPEN if end is None else end
    entity = transaction._entity(id, start)
    transaction._reach(entity, end)
    rects = [rect for rect in store._merged(entity.rects) if rect.n > 0 and rect.vt_from < end and rect.vt_to > start]
    if not rects and len(changes) > 1:       # up to the last piece of what is deleted, and over it
        last = max([start, *(rect.vt_from for rect in entity.rects if rect.vt_from < end)])
        spans = [(changes, start, last), (changes, last, end)] if end == store.OPEN else [(changes, start, end)]
    else:
        spans = [(transaction._stored(rect.n), max(start, rect.vt_from), min(end, rect.vt_to)) for rect in rects]
    return [_put_over(after, start, end) for before, start, end in spans if start < end
            for after in [{name: value for name, value in (before | changes).items() if name not in gone}]
            if not rects or store.pack(after) != store.pack(dict(before))]


def _put_over(document: dict, start: int, end: int) -> store.Operation:
    return store.put(document, store._moment(start), None if end == store.OPEN else store._moment(end))


def _set(transaction: store._Transaction, id: Any, attribute: str, old: dict, new: dict) -> list[store.Operation]:
    """The puts of a patch, if the attribute holds what it should."""
    now = transaction.tx_time
    n = transaction.visible_n(transaction._entity(id, None), now)
    document = {} if n is None else transaction._stored(n)
    held = {attribute: document[attribute]} if attribute in document else {}
    if store.pack(held) != store.pack(old):
        found = "nothing" if not held else "another value" if old else "a value"
        wanted = "the one that was given" if old else "nothing"
        raise store._Abort(f"cas of {store._short(id)}: {store._short(attribute)} holds {found} at "
                           f"{store._moment(now)}, not {wanted}")
    return _patched(transaction, id, {"xt/id": id} | new, () if new else (attribute,), None, None)
