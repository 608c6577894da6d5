"""Kept: what pages derive from the store, kept in memory until a transaction changes it.

Nothing is in it that the store would not give again. It answers for any snapshot: a value that was made at one
transaction is right at another one if nothing that it was made from has changed between the two. The listener says what
has changed: `changes.spoil("channels", community_id)`.

    titles = kept(ctx, db, ("channels", community_id), lambda: channels_in(db, community_id))

The first two parts of a key name what a transaction spoils; a key may have more.
"""
import collections
from collections.abc import Callable
from typing import Any

KEPT_BYTES_MAX = 32 * 1024 * 1024     # some hundred communities of 200 channels
SPOILED_MAX = 20_000                  # keys of which it is known when they last changed; then everything is made anew
VALUE_BYTES = 500                     # of a value that does not say how large it is, with its key and place


class Kept:
    """Values by key, the least recently asked first, within KEPT_BYTES_MAX."""

    def __init__(self):
        self._kept: collections.OrderedDict = collections.OrderedDict()     # key → (tx_id, value, bytes)
        self._spoiled: dict[tuple, int] = {}                # key → the last transaction that changed it
        self._floor, self._bytes = None, 0             # what was changed up to `floor` is not known

    def __call__(self, ctx, db, key: tuple, make: Callable[[], Any], weigh: Callable[[Any], int] | None = None):
        """The value of this key in a snapshot. It is shared: whoever gets it changes nothing in it."""
        ctx["chat_lately"].read_up(db.tx_id)           # so that all changes up to this snapshot are known
        if self._floor is None:
            self._floor = ctx["chat_lately"].high
        if (value := self.at_hand(db, key)) is not None:
            self._kept.move_to_end(key)
            return value
        value, last = make(), self._spoiled.get(key[:2], self._floor)
        if last <= db.tx_id:
            self._keep(key, db.tx_id, value, VALUE_BYTES + (weigh(value) if weigh else 0))
        return value

    def heard(self, ctx, db, key: tuple, make: Callable[[], Any]):
        """The same for the listener, which knows all changes before the transaction that it hears."""
        if self._floor is None:
            self._floor = ctx["chat_lately"].high or None
        if (value := self._floor and self.at_hand(db, key)) is None:
            value = make()
            if self._floor and self._spoiled.get(key[:2], self._floor) <= db.tx_id:
                self._keep(key, db.tx_id, value, VALUE_BYTES)
        return value

    def at_hand(self, db, key: tuple):
        """The value that is kept for a snapshot under this key, or None."""
        found = self._kept.get(key)
        return found[1] if found and self._spoiled.get(key[:2], self._floor) <= min(found[0], db.tx_id) else None

    def _keep(self, key, tx_id, value, size):
        self._drop(key)
        self._kept[key] = tx_id, value, size
        self._bytes += size
        while self._bytes > KEPT_BYTES_MAX:
            self._drop(next(iter(self._kept)))

    def _drop(self, key):
        self._bytes -= self._kept.pop(key, (0, None, 0))[2]

    def former(self, key: tuple):
        """The value of this key before it was spoiled, or None. A value that is made anew may take over parts of it."""
        return self._kept.get(key, (0, None, 0))[1]

    def note(self, changes, tx_id: int):
        """Spoils the values that a transaction has changed; an eviction spoils all, as it may be in any of them."""
        if self._floor is None:
            return
        if changes.spoils_all or len(self._spoiled) + len(changes.spoiled) > SPOILED_MAX:
            self._kept.clear()
            self._spoiled, self._floor, self._bytes = {}, max(tx_id, self._floor), 0
        for key in changes.spoiled:
            self._spoiled[key] = max(tx_id, self._spoiled.get(key, self._floor))
