"""Messages of which the two frontends make different prompts."""

from __future__ import annotations

import re
from typing import Final

import msgspec
from msgspec import Raw

DEVELOPER: Final = "developer"
"""A role that the Python frontend turns into `system` where the chat template lacks it. The Rust frontend
does not, and such a template leaves the message out."""
PARTS: Final = "parts"
"""Content of several parts: the Python frontend joins texts by a newline, the Rust frontend by nothing."""

_MAY_DIFFER: Final = re.compile(rb'"developer"|"content"\s*:\s*\[')
_LARGEST_BYTES: Final = 262_144
"""Larger messages with parts are not taken apart: that would cost memory and time."""
_NONE: Final = Raw(b"")
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Message(msgspec.Struct, gc=False):
    role: Raw = _NONE
    content: Raw = _NONE


_messages = msgspec.json.Decoder(list[_Message])
_list = msgspec.json.Decoder(list[Raw])


def message_difference(messages: Raw) -> str | None:
    """Return why these are for the Python frontend; None where both understand them alike, or neither."""
    if _MAY_DIFFER.search(messages) is None:
        return None
    if len(messages) > _LARGEST_BYTES:
        return PARTS
    try:
        for message in _messages.decode(messages):
            if bytes(message.role) == b'"developer"':
                return DEVELOPER
            if bytes(memoryview(message.content)[:1]) == b"[" and len(_list.decode(message.content)) > 1:
                return PARTS
    except _UNREADABLE:
        return None
    return None
