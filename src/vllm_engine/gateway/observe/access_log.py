"""The access log: one line for each request, short for people, with all fields as JSON.

Prompts, answers, query strings and keys cannot get into it: all it sees is the `RequestRecord`.
"""

from __future__ import annotations

import logging

from vllm_engine.gateway.observe.request_record import RequestRecord, shown

PROBES = frozenset(
    (
        *("/livez", "/healthz", "/readyz", "/health", "/v1/health/live", "/v1/health/ready", "/ping"),
        *("/metrics", "/v1/metrics"),
    )
)
"""Asked every few seconds by machines."""

_PAGE = frozenset(("/", "/ui", "/docs", "/docs/", "/favicon.ico"))
"""Beside what is below `/ui/`."""

ACCESS_LOGGER = "gateway.access"
logger = logging.getLogger(ACCESS_LOGGER)


def log_access(record: RequestRecord, model: str | None = None) -> None:
    """Log one ended request at INFO, what would hide such lines at DEBUG.

    `model` is the served name if the request was for the model.
    """
    level = logging.DEBUG if _is_minor(record) else logging.INFO
    if not logger.isEnabledFor(level):
        return
    method, path = shown(record.method), shown(record.path)
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
            "frontend": None if record.frontend is None else record.frontend.value,
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


def _is_minor(record: RequestRecord) -> bool:
    """Whether it is a probe, a router's question, the page's, or one of many before the model was loaded."""
    return (
        record.path in PROBES
        or record.path in _PAGE
        or record.path.startswith("/ui/")
        or (record.status == 503 and record.reason == "not_ready")
        or (record.is_scale_out and record.status in (200, 403))
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
