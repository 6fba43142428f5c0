"""The access log: one record for each request, with fields for JSON and a short line for people.

Neither prompts and answers nor query strings and keys can get into it: it sees the `RequestRecord` alone.
"""

from __future__ import annotations

import logging
import re
from urllib.parse import quote

from vllm_engine.gateway.observe.request_record import RequestRecord

PROBES = frozenset(
    (
        "/livez",
        "/healthz",
        "/readyz",
        "/health",
        "/ping",
        "/metrics",
        "/v1/health/live",
        "/v1/health/ready",
        "/v1/metrics",
        "/ui/history",
        "/ui/state",
    )
)
"""What machines and the page ask every few seconds: logged at DEBUG, so that requests stay visible."""

_MAX_PATH = 256
_PLAIN = re.compile(r"[\w/.:~-]{1,256}", re.ASCII)
_KEPT = "/:@!$&'()*+,;=~"
"""What a path may hold unescaped beside letters, digits, `_`, `.` and `-` (RFC 3986, section 3.3)."""

logger = logging.getLogger("gateway.access")


def log_access(record: RequestRecord, model: str | None = None) -> None:
    """Log one request at its end, at INFO; probes at DEBUG.

    Args:
        record: the request, ended.
        model: the name under which the model is served, where the request was for it.
    """
    level = logging.DEBUG if record.path in PROBES else logging.INFO
    if not logger.isEnabledFor(level):
        return
    method, path = one_word(record.method), one_word(record.path)
    logger.log(
        level,
        "%s %s %s %s %.3f s",
        method,
        path,
        record.status or "-",
        record.outcome,
        record.duration_seconds,
        extra={
            "request_id": record.request_id,
            "method": method,
            "route": record.route,
            "path": path,
            "status": record.status or None,
            "key": record.key,
            "model": model,
            "queue_seconds": round(record.queue_seconds or 0.0, 6),
            "ttft_seconds": _rounded(record.ttft_seconds),
            "duration_seconds": round(record.duration_seconds, 6),
            "bytes_in": record.bytes_in,
            "bytes_out": record.bytes_out,
            "prompt_tokens": record.prompt_tokens,
            "is_prompt_estimate": record.is_prompt_estimate,
            "completion_tokens": record.completion_tokens,
            "is_estimate": record.is_estimate,
            "outcome": record.outcome.value,
            "reason": record.reason,
            "stream": record.is_stream,
        },
    )


def one_word(path: str) -> str:
    """Return a path that is one short printable word: without query, percent-encoded where it must be.

    An ASGI path is decoded: it may hold line ends, terminal escapes, and blanks that could feign
    other fields.
    """
    if _PLAIN.fullmatch(path):
        return path
    path = path.partition("?")[0]
    shown = quote(path[:_MAX_PATH], safe=_KEPT, errors="replace")
    return shown + "..." if len(path) > _MAX_PATH else shown


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
