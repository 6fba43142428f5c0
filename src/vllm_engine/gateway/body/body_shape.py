"""What requests have in common that a frontend treats alike: fields; kinds of values, messages and parts."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw

_LARGEST_BYTES: Final = 262_144
_MOST_OBJECTS: Final = 2000
"""Bodies beyond either have no shape: taking them apart would cost more than it saves."""
_MOST_KEYS: Final = 64
_LONGEST_NAME: Final = 40
_MOST_MESSAGES: Final = 8
"""Kinds of messages of one body that are told apart."""

_NONE: Final = Raw(b"")
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Part(msgspec.Struct, gc=False):
    type: Raw = _NONE


class _Message(msgspec.Struct, gc=False):
    role: Raw = _NONE
    content: Raw = _NONE
    tool_calls: Raw = _NONE


_keys = msgspec.json.Decoder(dict[str, Raw])
_messages = msgspec.json.Decoder(list[_Message])
_parts = msgspec.json.Decoder(list[_Part])


def shape_of(body: bytes | bytearray) -> int | None:
    """Return a hash of a body's shape; None where it has none.

    Two bodies of one shape differ in their values only, not in the JSON types of these.
    """
    if len(body) > _LARGEST_BYTES or body.count(b"{") > _MOST_OBJECTS:
        return None
    try:
        top = _keys.decode(body)
        if len(top) > _MOST_KEYS:
            return None
        kinds = {(name[:_LONGEST_NAME], _kind(value)) for name, value in top.items()}
        return hash(frozenset((*kinds, *_message_kinds(top.get("messages", _NONE)))))
    except _UNREADABLE:
        return None


def _kind(value: Raw) -> str:
    """Return the JSON type of a value, and whether a number is negative, by its first character."""
    first = chr(memoryview(value)[0]) if len(value) else ""
    return "0" if first.isdigit() else first


def _message_kinds(messages: Raw) -> set[tuple[str, ...]]:
    if _kind(messages) != "[":
        return set()
    kinds: set[tuple[str, ...]] = set()
    for message in _messages.decode(messages):
        kind = [_word(message.role), _kind(message.content), _kind(message.tool_calls)]
        if kind[1] == "[":
            kind += sorted({_word(part.type) for part in _parts.decode(message.content)})[:_MOST_MESSAGES]
        kinds.add(("", *kind))
    return kinds if len(kinds) <= _MOST_MESSAGES else {("", "many")}


def _word(value: Raw) -> str:
    return bytes(memoryview(value)[:_LONGEST_NAME]).decode(errors="replace")
