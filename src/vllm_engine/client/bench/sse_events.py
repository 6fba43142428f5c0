"""Server-sent events of a chat completion, however the body was cut into pieces."""

from __future__ import annotations

import json
from typing import Any

_NOT_A_MERE_TOKEN = (b"[DONE]", b'"completion_tokens"', b'"error"', b"\n:")


class EventReader:
    """Counts the token events of one stream and keeps what its other events say.

    A token event is one with choices, as `vllm bench serve` counts; comments, the usage event and `[DONE]`
    are none. Almost every event is a plain token, so only a piece that may hold another kind is decoded.
    """

    __slots__ = ("_rest", "done", "error", "tokens")

    def __init__(self) -> None:
        self._rest = b""
        self.done = False
        self.error: str | None = None
        self.tokens: int | None = None
        """Completion tokens by the server's own count."""

    def feed(self, piece: bytes) -> int:
        """Take the next piece of the body; return how many token events it completed."""
        data = self._rest + piece if self._rest else piece
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        end = len(data) if data.endswith(b"\n\n") else data.rfind(b"\n\n") + 2
        if end < 2:
            self._rest = data
            return 0
        whole, self._rest = data[:end], data[end:]
        if whole[:1] == b":" or any(mark in whole for mark in _NOT_A_MERE_TOKEN):
            return sum(map(self._is_token, whole.split(b"\n\n")))
        return whole.count(b"\n\n")

    def _is_token(self, event: bytes) -> bool:
        data = b"".join(line[5:].lstrip() for line in event.split(b"\n") if line.startswith(b"data:"))
        if not data:
            return False
        if data == b"[DONE]":
            self.done = True
            return False
        try:
            content: Any = json.loads(data)
        except ValueError:
            self.error = f"an event that is no JSON: {data[:100]!r}"
            return False
        if not isinstance(content, dict) or content.get("error"):
            self.error = f"error event: {data[:200].decode(errors='replace')}"
            return False
        if usage := content.get("usage"):
            self.tokens = usage.get("completion_tokens")
        return bool(content.get("choices"))
