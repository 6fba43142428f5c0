"""What requests that a frontend treats alike have in common: top-level fields, and the types of values."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw

_LARGEST_BYTES: Final = 262_144
"""Bodies beyond have no shape: to read them once more would cost more than it saves."""
_MOST_KEYS: Final = 64
_LONGEST_NAME: Final = 40

_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_fields = msgspec.json.Decoder(dict[str, Raw])


def shape_of(body: bytes | bytearray) -> int | None:
    """Return a hash of a body's shape; None where it has none.

    Two bodies of one shape differ in their values only, not in the JSON types of these.
    """
    if len(body) > _LARGEST_BYTES:
        return None
    try:
        fields = _fields.decode(body)
    except _UNREADABLE:
        return None
    if len(fields) > _MOST_KEYS:
        return None
    return hash(frozenset((name[:_LONGEST_NAME], _type(value)) for name, value in fields.items()))


def _type(value: Raw) -> str:
    """Return the JSON type of a value, and whether a number is negative, by its first character."""
    first = chr(memoryview(value)[0])
    return "0" if first.isdigit() else first
