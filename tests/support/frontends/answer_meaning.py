"""What a client library makes of an answer: JSON whatever its spelling, a stream put together.

Left out is what docs/operate/frontends.md says is left between vLLM's frontends, and nothing else.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from tests.support.differential import Difference
from tests.support.raw_http import Reply

_TIMES: Final = frozenset(("created", "created_at", "completed_at"))
_LEFT: Final = _TIMES | {"system_fingerprint"}
_NO_REASONING: Final = {"completion_tokens_details": {"reasoning_tokens": 0}}
_RANDOM: Final = re.compile(r"(?<=[-_])[0-9a-f][0-9a-f-]{7,35}(?=-\d+$|$)")
_TEXTS: Final = frozenset(("content", "reasoning", "text"))


def meaning(reply: Reply) -> dict[str, Any]:
    """Return the status, the kind of content, and the body as its reader has it."""
    kind = (reply.header("content-type") or "").partition(";")[0]
    body: Any = reply.body
    if kind == "text/event-stream":
        body = _stream(reply.body.decode())
    elif kind == "application/json" and reply.body:
        body = _cleaned(reply.json())
    return {"status": reply.status, "content-type": kind, "body": body}


def differences_in_meaning(engine: Reply, gateway: Reply) -> list[Difference]:
    """Return what a client would notice."""
    pairs = meaning(engine), meaning(gateway)
    return [
        Difference(key, *(pair[key] for pair in pairs)) for key in pairs[0] if pairs[0][key] != pairs[1][key]
    ]


def _cleaned(value: Any, key: str = "") -> Any:
    """Drop what is null, empty or left, and what is drawn by lot in ids."""
    if isinstance(value, dict):
        items = {name: _cleaned(item, name) for name, item in value.items() if name not in _LEFT}
        return {
            name: item
            for name, item in items.items()
            if item is not None and item != [] and {name: item} != _NO_REASONING
        }
    if isinstance(value, list):
        return [_cleaned(item, key) for item in value]
    if isinstance(value, str) and (key == "id" or key.endswith("_id")):
        return _RANDOM.sub("#", value)
    return value


def _stream(text: str) -> list[Any]:
    """Return the events; those of completions are put together, as every client does."""
    whole: dict[str, Any] = {}
    others: list[Any] = []
    for event in text.split("\n\n"):
        named, _, data = event.rpartition("data: ")
        if not data:
            continue
        value = json.loads(data) if data.startswith("{") else data
        if isinstance(value, dict) and "choices" in value:
            _add(whole, _cleaned(value))
        else:
            others.append([named, _cleaned(value)])
    return [whole, *others]


def _add(whole: dict[str, Any], chunk: dict[str, Any]) -> None:
    """Add a chunk to what has come: of usage and all that is said again the last counts."""
    choices = chunk.pop("choices", [])
    whole |= chunk
    for choice in choices:
        so_far = whole.setdefault("of each choice", {}).setdefault(choice["index"], {})
        _grow(so_far, choice)


def _grow(so_far: dict[str, Any], delta: dict[str, Any]) -> None:
    for key, value in delta.items():
        if isinstance(value, dict):
            _grow(so_far.setdefault(key, {}), value)
        elif key == "tool_calls":
            calls = so_far.setdefault(key, {})
            for call in value:
                _grow(calls.setdefault(call["index"], {}), call)
        elif isinstance(value, str) and key in _TEXTS | {"arguments"}:
            so_far[key] = so_far.get(key, "") + value
        elif isinstance(value, list):
            so_far.setdefault(key, []).extend(value)
        else:
            so_far[key] = value
