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
"""Content that is not one text: the Python frontend joins texts by a newline, the Rust frontend by nothing.
What each makes of images has not been compared."""
TOOL_CALLS: Final = "tool_calls"
"""Calls of tools and their answers: each has its own way to give a chat template the arguments."""

_MAY_DIFFER: Final = re.compile(rb'"(?:developer|tool)"|"(?:content|tool_calls)"\s*:\s*\[')
_LARGEST_BYTES: Final = 262_144
"""Larger messages with parts are not taken apart: that would cost memory and time."""
_NONE: Final = Raw(b"")
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Part(msgspec.Struct, gc=False):
    type: Raw = _NONE


class _Message(msgspec.Struct, gc=False):
    role: Raw = _NONE
    content: Raw = _NONE
    tool_calls: Raw = _NONE


_messages = msgspec.json.Decoder(list[_Message])
_parts = msgspec.json.Decoder(list[_Part])


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
            if bytes(message.role) == b'"tool"' or _is_list(message.tool_calls):
                return TOOL_CALLS
            if _is_list(message.content) and not _is_one_text(message.content):
                return PARTS
    except _UNREADABLE:
        return None
    return None


def _is_list(raw: Raw) -> bool:
    return bytes(memoryview(raw)[:1]) == b"["


def _is_one_text(content: Raw) -> bool:
    return [bytes(part.type) for part in _parts.decode(content)] == [b'"text"']
