"""What the gateway needs from a request's body, read once by a JSON parser; vLLM judges the rest.

Top-level keys only: a nested `"stream": true` (a tool's schema, a metadata field) means nothing. What is not
needed is skipped without being built, and nothing read here keeps the body in memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw
from msgspec.structs import astuple

from vllm_engine.gateway.body.frontend_fields import PYTHON_FIELDS, Plain
from vllm_engine.gateway.body.message_rules import message_difference

_NONE: Final = Raw(b"")
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What the decoders raise. UnicodeDecodeError comes late: strings left raw have not been checked as UTF-8."""
_SMALL_BYTES: Final = 4096
"""Up to this size text and media are not told apart: so small an image does not spoil an estimate."""
_LARGEST_OTHER_BYTES: Final = 262_144
"""Largest body that is tried again with Python's `json`, which builds all of it: some milliseconds."""
_MAX_OBJECTS: Final = 20_000
"""A prompt with more objects than this counts as text whole: parsing its parts would cost memory and time."""
_DEEPEST: Final = 3
"""How deep parts may be nested: a message holds parts, and a tool's result among them holds parts again."""

_TRUE: Final = frozenset(("1", "on", "t", "true", "y", "yes"))
"""Strings that pydantic's lax mode, and so vLLM, takes as true, in any case."""
_LONGEST_FLAG: Final = 8
"""Bytes in JSON of the longest spelling of true, and of a number that vLLM may take for `n`."""
_MOST_DIGITS: Final = 18
"""Of a whole number no more are read: one that goes on is larger than any limit all the same."""

_TOKEN_IDS: Final = re.compile(rb"[\[\s]*[-\d]")
_LIST_OF_LISTS: Final = re.compile(rb"\[\s*\[")
_LIST_OF_PROMPTS: Final = re.compile(rb"\[\s*[^\s\d-]")
UNUSUAL_JSON: Final = "unusual_json"
"""Among `python_fields`: JSON that only Python's reader takes."""
_PIECE: Final = 65_536


class RequestFields(msgspec.Struct, frozen=True, gc=False):
    """What a request's body asks for."""

    stream: bool = False
    """Whether it asks for an event stream."""
    conversations: int | None = 1
    """How many there are in a `/v1/chat/completions/batch`; None where that cannot be read."""
    choices: int = 1
    """How many completions it asks for of each prompt (`n`)."""
    text_bytes: int = 0
    """Bytes of its prompt, instructions and tools, as JSON; large images, audio and video are left out."""
    token_ids: int = 0
    """Tokens of a prompt that is given as numbers."""
    python_fields: tuple[str, ...] | None = None
    """What of it only the Python frontend serves, on some route: fields mostly; None: not looked for."""
    max_tokens: int = 0
    """How many tokens it allows an answer, by either name; 0 where that is not said, read or looked for."""


class _Top(msgspec.Struct, gc=False):
    stream: Raw = _NONE
    n: Raw = _NONE
    messages: Raw = _NONE
    prompt: Raw = _NONE
    input: Raw = _NONE
    system: Raw = _NONE
    instructions: Raw = _NONE
    tools: Raw = _NONE
    documents: Raw = _NONE
    query: Raw = _NONE
    queries: Raw = _NONE
    text_1: Raw = _NONE
    text_2: Raw = _NONE


class _TopWithLimits(_Top, gc=False):
    max_tokens: Raw = _NONE
    max_completion_tokens: Raw = _NONE


_PYTHON_FIELDS: Final = tuple(name for name in PYTHON_FIELDS if name not in _TopWithLimits.__struct_fields__)
"""Those of the table that are read for nothing else."""
_TopWithPythonFields: Final = msgspec.defstruct(
    "_TopWithPythonFields",
    [(name, Raw, _NONE) for name in _PYTHON_FIELDS],
    bases=(_TopWithLimits,),
    gc=False,
)


def _spellings(value: Plain) -> tuple[Plain, ...]:
    return (value, float(value)) if type(value) is int else (value,)


_NO_PYTHON_FIELDS: Final = (_NONE,) * len(_PYTHON_FIELDS)
_SAME: Final = {
    name: frozenset(json.dumps(value).encode() for one in field.same for value in _spellings(one))
    for name, field in PYTHON_FIELDS.items()
}
"""By field: in JSON, the values with which both frontends do the same, in their usual spellings."""
_NULL_ALONE: Final = frozenset(name for name, field in PYTHON_FIELDS.items() if field.null_alone)


class _Part(msgspec.Struct, gc=False):
    """One part of a message, or a message: what of it becomes prompt text, in each of vLLM's dialects."""

    content: Raw = _NONE
    text: Raw = _NONE
    thinking: Raw = _NONE
    refusal: Raw = _NONE
    reasoning: Raw = _NONE
    tool_calls: Raw = _NONE
    input: Raw = _NONE
    arguments: Raw = _NONE
    output: Raw = _NONE


_top = msgspec.json.Decoder(_Top)
_top_with_python_fields: msgspec.json.Decoder[_TopWithLimits] = msgspec.json.Decoder(_TopWithPythonFields)
_parts = msgspec.json.Decoder(list[_Part])
_batch = msgspec.json.Decoder(list[Annotated[list[_Part], Meta(min_length=1)]])
_flag = msgspec.json.Decoder(bool | int | float | str | None)


def read_fields(body: bytes | bytearray, *, with_python_fields: bool = False) -> RequestFields:
    """Read what is needed; of a key that is there twice, the last counts, as for Python's `json`.

    `with_python_fields`: those too that decide between vLLM's two frontends.

    A body that is not a JSON object (a form with audio, or broken JSON) asks for no stream, and every byte of
    it counts as text unless it is a form. So does every byte of JSON that only Python's reader takes, as vLLM
    does: in UTF-16 or UTF-32, behind a byte order mark, with `NaN` or half a surrogate pair. Never raises.
    Costs 1 to 2 µs for a small body and some 10 ms for one of 24 MB.
    """
    try:
        top = (_top_with_python_fields if with_python_fields else _top).decode(body)
    except _UNREADABLE:
        return _read_other(body, (UNUSUAL_JSON,) if with_python_fields else None)
    text = len(top.instructions) + len(top.tools) + len(top.query) + len(top.queries)
    text += len(top.text_1) + len(top.text_2)
    has_parts = len(body) > _SMALL_BYTES and _may_hold_media(body)
    for raw in (top.messages, top.input, top.system, top.documents):
        text += _text_bytes(raw, _DEEPEST) if has_parts else len(raw)
    ids = 0
    for raw in (top.prompt, top.input):
        if _TOKEN_IDS.match(raw):
            ids += _count(raw, b",") + 1
            text -= len(raw)
    text += len(top.prompt)
    python_fields, most = None, 0
    if isinstance(top, _TopWithLimits):
        python_fields = _python_fields(top)
        most = max(_whole_number(top.max_tokens), _whole_number(top.max_completion_tokens))
    stream, conversations = _is_true(top.stream), _conversations(top.messages)
    return RequestFields(stream, conversations, _choices(top.n), text, ids, python_fields, most)


def _python_fields(top: _TopWithLimits) -> tuple[str, ...]:
    given: tuple[Raw, ...] = astuple(top)[-len(_PYTHON_FIELDS) :]
    found: tuple[str, ...] = ()
    if given != _NO_PYTHON_FIELDS:
        found = tuple(
            name for name, raw in zip(_PYTHON_FIELDS, given, strict=True) if raw and _decides(raw, name)
        )
    if top.n and _decides(top.n, "n"):
        found += ("n",)
    if top.tools and _decides(top.tools, "tools"):
        found += ("tools",)
    if top.messages and (difference := message_difference(top.messages)):
        found += (difference,)
    return (*found, "prompt") if _LIST_OF_PROMPTS.match(top.prompt) else found


def _decides(raw: Raw, name: str) -> bool:
    value = bytes(raw) if len(raw) <= _LONGEST_FLAG else None
    return value == b"null" if name in _NULL_ALONE else value not in _SAME[name]


def _read_other(body: bytes | bytearray, python_fields: tuple[str, ...] | None) -> RequestFields:
    if body.startswith(b"--"):
        return RequestFields(conversations=None, python_fields=python_fields)
    top: object = None
    if len(body) <= _LARGEST_OTHER_BYTES:
        with suppress(ValueError, RecursionError):
            top = json.loads(body)
    if not isinstance(top, dict):
        return RequestFields(conversations=None, text_bytes=len(body), python_fields=python_fields)
    stream, n = (Raw(json.dumps(top.get(key)).encode()) for key in ("stream", "n"))
    return RequestFields(
        _is_true(stream),
        conversations=None,
        choices=_choices(n),
        text_bytes=len(body),
        python_fields=python_fields,
    )


def _may_hold_media(body: bytes | bytearray) -> bool:
    # Parts are told apart by `type`; vLLM takes media without one only as URLs, `data:…;base64` among them.
    return (b'"type"' in body or b";base64," in body) and body.count(b"{") <= _MAX_OBJECTS


def _is_true(raw: Raw) -> bool:
    value = _scalar(raw)
    return value.lower() in _TRUE if isinstance(value, str) else value == 1


def _choices(raw: Raw) -> int:
    try:
        return max(1, int(_scalar(raw) or 1))
    except (ValueError, OverflowError):
        return 1  # vLLM refuses it


def _whole_number(raw: Raw) -> int:
    if (digits := bytes(memoryview(raw)[:_MOST_DIGITS])).isdigit():
        return int(digits)
    try:
        return int(_scalar(raw) or 0) if raw else 0
    except (ValueError, OverflowError):
        return 0


def _scalar(raw: Raw) -> bool | float | str | None:
    if not 0 < len(raw) <= _LONGEST_FLAG:
        return None
    try:
        value: bool | float | str | None = _flag.decode(raw)
    except _UNREADABLE:
        return None
    return value


def _conversations(messages: Raw) -> int | None:
    if not _LIST_OF_LISTS.match(messages):
        return 1
    if _count(messages, b"{") > _MAX_OBJECTS:
        return None
    try:
        return len(_batch.decode(messages))
    except _UNREADABLE:
        return None


def _text_bytes(raw: Raw, deepest: int) -> int:
    """Return how much of a prompt is text: all of it where it is not made of vLLM's kinds of parts."""
    if deepest == 0 or not raw:
        return len(raw)
    try:
        if _LIST_OF_LISTS.match(raw):
            parts: Sequence[_Part] = [part for one in _batch.decode(raw) for part in one]
        else:
            parts = _parts.decode(raw)
    except _UNREADABLE:
        return len(raw)
    text = 0
    for part in parts:
        text += len(part.text) + len(part.thinking) + len(part.refusal) + len(part.reasoning)
        text += len(part.tool_calls) + len(part.input) + len(part.arguments)
        text += _text_bytes(part.content, deepest - 1) + _text_bytes(part.output, deepest - 1)
    return text


def _count(raw: Raw, byte: bytes) -> int:
    # In pieces: all at once would be a second copy of a large body.
    view = memoryview(raw)
    return sum(bytes(view[at : at + _PIECE]).count(byte) for at in range(0, len(view), _PIECE))
