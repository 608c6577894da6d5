# SPDX-License-Identifier: MIT
"""Decimals, times of day and members of enumerations: `store.py` imports it with the first value of such a type.

The table of types in `store.py` has a row for each of them, whose functions are here: what a value is in a document,
what it is in the index, and the way back from both.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import functools
import importlib
import re
import struct
import sys
from typing import Any

if not __package__:
    import store
else:                                 # both are part of somebody's package
    store = importlib.import_module(".store", __package__)

PLACES = 28                           # digits of a decimal that are written out; as many as Python calculates with
NEGATIVE, ZERO, POSITIVE = b"\0", b"\1", b"\2"
COMPLEMENT = bytes(range(255, -1, -1))


# Of equal decimals one form is kept, as 1.5 of 1.50: sign, digits without zeros at either end, and the power of ten.


def decimal_data(value: decimal.Decimal) -> bytes:
    return "{}{}E{}".format(*_parts(value)).encode()


def _parts(value: decimal.Decimal) -> tuple[str, str, int]:
    if not value.is_finite():
        raise store.ValueTypeError(f"{value} is no number that can be stored; leave the attribute out.")
    sign, digits, power = value.as_tuple()
    text = "".join(map(str, digits)).lstrip("0")
    kept = text.rstrip("0")
    return ("-" * sign, kept, int(power) + len(text) - len(kept)) if kept else ("", "0", 0)


def decimal_of(data: bytes) -> decimal.Decimal:
    sign, digits, power = re.fullmatch("(-?)(.*)E(.*)", data.decode()).groups()      # type: ignore[union-attr]
    return _decimal(sign, digits, int(power))


def _decimal(sign: str, digits: str, power: int) -> decimal.Decimal:
    """Written out where that is no longer than a calculation would be."""
    if 0 < power <= PLACES - len(digits):
        digits, power = digits + "0" * power, 0
    return decimal.Decimal(f"{sign}{digits}E{power}")


def decimal_cell(value: decimal.Decimal) -> bytes:
    """The sign, the place of the first digit, the digits; below zero these are complemented and end in byte 255."""
    sign, digits, power = _parts(value)
    if digits == "0":
        return store._DECIMAL + ZERO
    body = struct.pack(">Q", power + len(digits) + 2 ** 63) + digits.encode()
    return store._DECIMAL + (NEGATIVE + body.translate(COMPLEMENT) + b"\xff" if sign else POSITIVE + body)


def decimal_of_cell(cell: bytes) -> decimal.Decimal:
    sign, body = cell[1:2], cell[2:]
    if sign == ZERO:
        return decimal.Decimal(0)
    if sign == NEGATIVE:
        body = body[:-1].translate(COMPLEMENT)
    digits = body[8:].decode()
    return _decimal("-" if sign == NEGATIVE else "", digits, struct.unpack(">Q", body[:8])[0] - 2 ** 63 - len(digits))


def time_micros(value: dt.time) -> int:
    if value.tzinfo is not None:
        raise store.ValueTypeError(f"{value!r} has a time zone, which means nothing without a day; wanted a time "
                                   "without, or a datetime.")
    return ((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000 + value.microsecond


def time_of(micros: int) -> dt.time:
    return (dt.datetime.min + dt.timedelta(microseconds=micros)).time()


# An enumeration's member is stored by name, and found again among the modules that are loaded; none is imported for it.


def named(value: enum.Enum) -> store.Member:
    kind = type(value)
    found = store.Member(f"{kind.__module__}:{kind.__qualname__}", value.name)
    if member(*found) is not value:
        where = f"{found.enum.replace(':', '.')}.{value.name}"
        raise store.ValueTypeError(f"{store._short(value)} would not be found again as {where}; wanted one member of "
                                   "an enumeration that stands at the top of its module.")
    return found


def member(where: str, name: str) -> Any:
    """The member of an enumeration; a `Member` where this program has not loaded the class, or it has no such name."""
    module, _, path = where.partition(":")
    try:
        kind: Any = functools.reduce(getattr, path.split("."), sys.modules[module])
        return kind.__members__[name] if isinstance(kind, enum.EnumMeta) else store.Member(where, name)
    except (KeyError, AttributeError):
        return store.Member(where, name)
