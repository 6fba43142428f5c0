"""The requests of a mock engine core, and what one step gives each of them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

FIRST_TOKEN = 1000
_TOKENS = tuple([token] for token in range(FIRST_TOKEN, FIRST_TOKEN + 2000))
"""Whole words in most vocabularies; lists, as they are sent."""


@dataclass(slots=True)
class Stream:
    """A request that runs."""

    request_id: str
    client: int
    prompt_tokens: int
    max_tokens: int
    made: int = 0


@dataclass(slots=True)
class ClientStep:
    """What one client gets of a step: an output for each of its streams, and which of them have ended."""

    outputs: list[Any]
    finished: set[str]


class TokenStreams:
    """All running requests; a step is a token for each, in one message for each client."""

    def __init__(
        self, output: Callable[..., Any], first: Callable[[Stream], dict[str, Any]], length: Any
    ) -> None:
        """Take vLLM's output type, what the first output of a stream has besides, and its finish reason `length`."""
        self._output, self._first, self._length = output, first, length
        self._streams: dict[str, Stream] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def add(self, stream: Stream) -> None:
        """Let a request take part in the next step."""
        self._streams[stream.request_id] = stream

    def abort(self, request_ids: Iterable[str]) -> None:
        """Forget requests; as in vLLM nothing is sent of those whose client has left."""
        for request_id in request_ids:
            self._streams.pop(request_id, None)

    def step(self) -> dict[int, ClientStep]:
        """Give every stream its next token."""
        steps: dict[int, ClientStep] = {}
        for stream in self._streams.values():
            step = steps.get(stream.client)
            if step is None:
                step = steps[stream.client] = ClientStep([], set())
            step.outputs.append(self._next(stream))
            if stream.made == stream.max_tokens:
                step.finished.add(stream.request_id)
        for step in steps.values():
            for request_id in step.finished:
                del self._streams[request_id]
        return steps

    def _next(self, stream: Stream) -> Any:
        made = stream.made
        tokens = _TOKENS[made % len(_TOKENS)]
        stream.made = made + 1
        if made and stream.made < stream.max_tokens:
            return self._output(stream.request_id, tokens)
        more = self._first(stream) if not made else {}
        if stream.made == stream.max_tokens:
            more["finish_reason"] = self._length
        return self._output(stream.request_id, tokens, **more)
