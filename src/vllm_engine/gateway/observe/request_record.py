"""The record of one request: filled in step by step, read once at its end."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol
from urllib.parse import quote

from starlette.types import Scope

from vllm_engine.engine.engine_state import Frontend
from vllm_engine.gateway.http.request_id import request_id

UNMATCHED = "unmatched"
"""The route of a request that is not on the allow-list; those answered by the gateway itself included."""


_MAX_PATH = 256
_PLAIN = re.compile(r"[\w/.:~-]{1,256}", re.ASCII)
_KEPT = "/:@!$&'()*+,;=~"
"""What a path may hold unescaped beside letters, digits, `_`, `.` and `-` (RFC 3986, section 3.3)."""


class Outcome(StrEnum):
    """How a request ended; the label of `gateway_requests_total` and a field of the access log."""

    COMPLETE = "complete"
    """The engine's whole answer was forwarded, whatever its status."""
    CLIENT_GONE = "client_gone"
    """The client disconnected first; the engine was told to stop."""
    UPSTREAM_BROKEN = "upstream_broken"
    """The engine failed: the client got a 502, an SSE error event, or a closed connection."""
    REJECTED = "rejected"
    """The gateway answered instead of the engine; `reason` says why."""
    FAILED = "failed"
    """A defect of the gateway: the client got a 500 or a closed connection."""


class Span(Protocol):
    """One request's span."""

    headers: tuple[tuple[bytes, bytes], ...]
    """Sent to the engine in place of the client's headers of the same names."""

    def end(self, record: RequestRecord) -> None:
        """Finish it with what is known of the request at its end; does not block."""


@dataclass(slots=True)
class RequestRecord:
    """One request; points in time are `time.monotonic` seconds."""

    request_id: str
    method: str
    path: str
    route: str = UNMATCHED
    """The route's template, such as `/v1/responses/{id}`: safe as a metric label."""
    is_core_work: bool = False
    """Whether vLLM's engine core, not its API process alone, has to work for an answer on this route."""
    is_scale_out: bool = False
    """Whether it is one that a router asks of every replica for every chat."""
    key: str | None = None
    """The API key's name, never the key; None where no keys are set."""
    reason: str | None = None
    """Why it was rejected: unknown_route, method, unauthorized, not_ready, saturated, queue_timeout, ..."""
    status: int = 0
    outcome: Outcome = Outcome.COMPLETE
    received: float = field(default_factory=time.monotonic)
    queue_seconds: float | None = None
    """How long it waited for admission, whether or not it was admitted; None if it did not get there."""
    frontend: Frontend | None = None
    """Which of vLLM's frontends has answered it, or was to answer it; None if it did not get there."""
    python_reason: str | None = None
    """Why not the Rust frontend, where both run: route, a field's name, learned, refused_400, ..."""
    replays: int = 0
    """How often it was sent again because the engine was lost before the answer began."""
    first_byte: float | None = None
    """When the first byte of the answer's body came from the engine."""
    ended: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    is_stream: bool = False
    """Whether the client expects an event stream."""
    has_run: bool = False
    """Whether the engine took it and did not refuse it, so that its prompt was processed."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    span: Span | None = None
    """Its span, once it is known to be a request for the engine."""
    is_prompt_estimate: bool = False
    """Whether the prompt's tokens are `TokenEstimate`'s estimate."""
    is_estimate: bool = False
    """Whether the completion tokens are `UsageReader`'s estimate."""

    @classmethod
    def of(cls, scope: Scope) -> RequestRecord:
        """Begin the record of the request that an ASGI scope describes."""
        return cls(request_id(scope["headers"]).decode(), scope["method"], scope["path"])

    def reject(self, status: int, reason: str) -> None:
        """Note that the gateway answers instead of the engine."""
        self.status, self.reason, self.outcome = status, reason, Outcome.REJECTED

    @property
    def ttft_seconds(self) -> float | None:
        """Seconds from the request to the first byte of the engine's answer."""
        return None if self.first_byte is None else self.first_byte - self.received

    @property
    def duration_seconds(self) -> float:
        """Seconds from the request to its end."""
        return self.ended - self.received


def shown(text: str) -> str:
    """Return a path or method as logs, traces and errors show it: one short printable word, no query.

    An ASGI path is decoded: it may hold line ends, terminal escapes, and spaces that could pass for
    other fields.
    """
    if _PLAIN.fullmatch(text):
        return text
    text = text.partition("?")[0]
    escaped = quote(text[:_MAX_PATH], safe=_KEPT, errors="replace")
    return escaped + "..." if len(text) > _MAX_PATH else escaped
