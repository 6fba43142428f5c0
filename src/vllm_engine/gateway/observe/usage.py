"""Token usage, read from the end of an answer: chunks are not parsed as they pass.

Every API of vLLM puts `usage` near the end of its answer (0.32's sources: `entrypoints/openai`,
`entrypoints/anthropic`, `entrypoints/pooling`): in the whole answer, in the last event but `[DONE]` of a
chat or completion stream with `stream_options.include_usage`, in `response.completed`, and in
`message_delta`.
"""

from __future__ import annotations

import codecs
import json
from typing import Any

_TAIL_BYTES = 4096
"""Kept of an answer: `usage` and what may follow it are under 1 KiB, unless the client asked for its
prompt's logprobs or token ids too; then the usage is unknown."""
_HELD_BYTES = 2 * _TAIL_BYTES
"""Held before it is cut to the tail, so that cutting is rare."""

_LINE_FEED = b"\n"
_USAGE = '"usage":'
"""Cannot occur inside a JSON string, where quotes are escaped: text of a model is never read."""
_DONE = "data: [DONE]"
_decoder = json.JSONDecoder()


_STREAMS = (
    ('"object":"chat.completion.chunk"', 2, 1),
    ('"object":"text_completion"', 2, 0),
    ("event: content_block_delta\n", 3, 2),
    ("event: response.output_text.delta\n", 3, 4),
)
"""What marks a stream, its lines per event, and its events without a token.

A chat stream opens with the role; a Messages stream with `message_start` and `content_block_start`; a
Responses stream with four events."""
_CLOSING = ('"delta":{},"finish_reason":', '"text":"","finish_reason":')
"""How the Rust frontend ends a stream: with an event without a token, which leaves out what is null."""


class UsageReader:
    """Reads prompt and completion tokens from one answer's body, whatever the route."""

    __slots__ = ("_chunks", "_held", "_lines", "is_estimate")

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._held = 0
        self._lines = 0
        self.is_estimate = False
        """Whether `tokens` had to estimate the completion tokens."""

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body, in a fraction of a microsecond; keeps a few KiB."""
        self._chunks.append(chunk)
        self._held += len(chunk)
        if self._held > _HELD_BYTES:
            self._cut()

    @property
    def tail(self) -> bytes:
        """The last bytes of the body, a few KiB."""
        return b"".join(self._chunks)

    def tokens(self) -> tuple[int | None, int | None]:
        """Return prompt and completion tokens, each None where the answer does not say. Never raises.

        Of a stream without usage (not asked for, or cut off) the events are counted and `is_estimate` is set.
        vLLM sends one event per token, or fewer when it is busy or has `--stream-interval`: a lower bound.
        Compressed answers are not read.
        """
        tail = self._tail()
        use = _last_usage(tail)
        prompt = _prompt_tokens(use)
        completion = _count(use, "completion_tokens", "output_tokens")
        if completion is None:
            completion = self._estimate(tail)
            self.is_estimate = completion is not None
        return prompt, completion

    def _cut(self) -> None:
        whole = self.tail
        self._lines += whole.count(_LINE_FEED, 0, len(whole) - _TAIL_BYTES)
        self._chunks = [whole[-_TAIL_BYTES:]]
        self._held = _TAIL_BYTES

    def _tail(self) -> str:
        raw = self.tail
        start = 0
        while start < min(3, len(raw)) and raw[start] & 0xC0 == 0x80:
            start += 1  # the rest of a character that was cut in two
        try:
            # Not final: an answer that was cut off may end within a character.
            return codecs.getincrementaldecoder("utf-8")().decode(raw[start:])
        except UnicodeDecodeError:
            return ""  # compressed, or no text at all

    def _estimate(self, tail: str) -> int | None:
        for mark, lines_per_event, without_token in _STREAMS:
            if mark in tail:
                lines = self._lines + tail.count("\n") - 2 * (_DONE in tail)
                without_token += any(closing in tail for closing in _CLOSING)
                return max(0, lines // lines_per_event - without_token)
        return None


def _last_usage(tail: str) -> dict[str, Any]:
    at = tail.rfind(_USAGE)
    while at >= 0:
        try:
            use, _ = _decoder.raw_decode(tail[at + len(_USAGE) :].lstrip())
        except (ValueError, RecursionError):
            use = None  # the answer ends within it
        if isinstance(use, dict):
            line = tail[tail.rfind("\n", 0, at) + 1 : at]
            # A message opens with the prompt's tokens and a zero that means nothing yet.
            return {**use, "output_tokens": None} if '"message_start"' in line else use
        at = tail.rfind(_USAGE, 0, at)
    return {}


def _prompt_tokens(use: dict[str, Any]) -> int | None:
    count = _count(use, "prompt_tokens", "input_tokens")
    if count is None:
        return None
    # Anthropic's input_tokens exclude what was read from the cache or written to it.
    cached = (_count(use, f"cache_{kind}_input_tokens") or 0 for kind in ("read", "creation"))
    return count + sum(cached)


def _count(use: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = use.get(name)
        # A number that a float cannot hold exactly would break the metrics.
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53:
            return value
    return None
