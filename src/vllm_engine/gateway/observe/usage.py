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

from vllm_engine.gateway.http.chunk_framing import FRAMING_BYTES, content_of

_TAIL_BYTES = 4096
"""Kept of an answer: `usage` and what may follow it are under 1 KiB, unless the client asked for its
prompt's logprobs or token ids too; then the usage is unknown."""
_HELD_BYTES = 2 * _TAIL_BYTES
"""Held before it is cut to the tail, so that cutting is rare."""
_LAST_EVENTS = 4
"""Of a stream of events: usage is in the last but one at the earliest."""
_HELD_EVENTS = 12
"""So few that those of hundreds of streams stay in the processor's cache."""

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

    __slots__ = ("_events", "_held", "_held_bytes", "_lines", "is_estimate", "size")

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._events: list[bytes] = []
        """What came after `_held`, as chunks."""
        self._lines = 0
        self.size = 0
        """Bytes of the body so far."""
        self.is_estimate = False
        """Whether `tokens` had to estimate the completion tokens."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body, in a fraction of a microsecond; keeps a few KiB."""
        self.size += len(data)
        self._lines += data.count(_LINE_FEED)
        if self._events:
            contents = [*map(content_of, self._events)]
            self._events.clear()
            self._held += contents
            self._held_bytes += sum(map(len, contents))
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > _HELD_BYTES:
            self._held = [b"".join(self._held)[-_TAIL_BYTES:]]
            self._held_bytes = _TAIL_BYTES

    def feed_event(self, chunk: bytes) -> None:
        """Take the next bytes of the body as a chunk that is an event (see `is_event`): cheaper still."""
        length = len(chunk)
        framing = FRAMING_BYTES[length]
        self.size += length - framing
        # The first line feed is most often the first of the two at the event's end.
        is_one_line = chunk.find(_LINE_FEED, framing - 2) == length - 4
        self._lines += 2 if is_one_line else chunk.count(_LINE_FEED) - 2
        events = self._events
        events.append(chunk)
        if len(events) > _HELD_EVENTS:
            del events[: _HELD_EVENTS - _LAST_EVENTS]
            self._held.clear()
            self._held_bytes = 0

    @property
    def tail(self) -> bytes:
        """The last bytes of the body, a few KiB."""
        return b"".join((*self._held, *map(content_of, self._events)))

    @property
    def end(self) -> bytes:
        """The last four bytes of the body."""
        return self.tail[-4:]

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
                lines = self._lines - 2 * (_DONE in tail)
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
