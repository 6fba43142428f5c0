"""Optional OpenTelemetry: one server span for each request, in one trace with the engine's.

Without `OTLP_ENDPOINT` OpenTelemetry is not imported, and a client's `traceparent` is forwarded unchanged.
With it, the engine gets ours instead and makes its own span a child of it. The provider is not made the
process's global one: FastAPI would then trace every probe.

The OpenTelemetry SDK reads its own standard variables (`OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME`,
`OTEL_RESOURCE_ATTRIBUTES`, `OTEL_EXPORTER_OTLP_HEADERS`, ...), as vLLM's does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm_engine.errors import Problem, SettingsError
from vllm_engine.gateway.observe.request_record import UNMATCHED, Outcome, RequestRecord, Span, shown

if TYPE_CHECKING:
    from opentelemetry import trace

Headers = Iterable[tuple[bytes, bytes]]

SERVICE_NAME = "vllm-engine"
CLOSE_SECONDS = 3.0
"""How long `Tracer.close` waits for the last spans to be sent."""

_TRACE_HEADERS = frozenset((b"traceparent", b"tracestate"))
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v2/embed": "embeddings",
}
"""`gen_ai.operation.name` by route (semantic conventions for generative AI)."""


def make_tracer(endpoint: str | None, service_version: str) -> Tracer | None:
    """Return the tracer that `OTLP_ENDPOINT` asks for; None for no tracing.

    Spans are sent to `endpoint`, an URL with its path.

    Raises:
        SettingsError: tracing is asked for, and its packages are not installed, or a variable that they read
            by themselves cannot be used.
    """
    if not endpoint:
        return None
    try:
        return Tracer(endpoint, service_version)
    except ImportError as error:
        missing = (
            f"tracing needs packages that are not installed ({error.name}): install vllm-engine[tracing]"
        )
        raise SettingsError([Problem("OTLP_ENDPOINT", endpoint, missing)]) from error
    except (ValueError, StopIteration) as error:  # the latter for a plug-in that is not there
        invalid = f"an OTEL_* variable is invalid ({error or 'no such plug-in'}); correct or unset it"
        raise SettingsError([Problem("OTLP_ENDPOINT", endpoint, invalid)]) from error


class Tracer:
    """Exports spans by OTLP over HTTP, in batches, from a thread of its own."""

    def __init__(self, endpoint: str, service_version: str) -> None:
        # Imported only when needed: they take 9 MB and, from a cold disk, most of a second.
        from opentelemetry import trace  # noqa: PLC0415
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.trace.propagation import tracecontext  # noqa: PLC0415

        ours = Resource.create({"service.name": SERVICE_NAME, "service.version": service_version})
        # The OTEL_* variables once more and last: they override our names.
        resource = ours.merge(OTELResourceDetector().detect())
        # At exit it would wait half a minute for a collector that is gone; `close` does not.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=endpoint)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("vllm_engine.gateway", service_version)
        self._propagator = tracecontext.TraceContextTextMapPropagator()
        self._api = trace

    def start(self, headers: Headers, record: RequestRecord) -> Span:
        """Begin a request's span, dated back to when the request came.

        It is in the client's trace if the headers (names in lower case) name one.
        """
        incoming: dict[str, list[str]] = {}
        for name, value in headers:
            if name in _TRACE_HEADERS:
                incoming.setdefault(name.decode(), []).append(value.decode("latin-1"))
        # Spans need a wall clock; from here on time is measured by `time.monotonic`.
        began = time.time_ns() - int((time.monotonic() - record.received) * 1e9)
        span = self._tracer.start_span(
            _span_name(record),
            context=self._propagator.extract(incoming),
            kind=self._api.SpanKind.SERVER,
            start_time=began,
        )
        # `tracestate` must not be forwarded without its parent (W3C Trace Context, section 3.3.1).
        outgoing = {"tracestate": ""} if "tracestate" in incoming else {}
        self._propagator.inject(outgoing, self._api.set_span_in_context(span))
        forwarded = tuple((name.encode(), value.encode("latin-1")) for name, value in outgoing.items())
        return _OtlpSpan(forwarded, span, began, self._api.StatusCode.ERROR)

    def close(self) -> None:
        """Send what is left. Blocks, up to `CLOSE_SECONDS`: not for the event loop's thread."""
        # The SDK's own limit is 30 s and cannot be set.
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)


@dataclass(slots=True)
class _OtlpSpan:
    headers: tuple[tuple[bytes, bytes], ...]
    span: trace.Span
    began: int
    error: trace.StatusCode

    def end(self, record: RequestRecord) -> None:
        """Finish the span and leave it to the exporting thread."""
        if self.span.is_recording():
            attributes = span_attributes(record)
            self.span.update_name(_span_name(record))
            self.span.set_attributes(attributes)
            if "error.type" in attributes:
                self.span.set_status(self.error)
        self.span.end(self.began + int(record.duration_seconds * 1e9))


def span_attributes(record: RequestRecord) -> dict[str, Any]:
    """Return a request's attributes by OpenTelemetry's HTTP and generative AI conventions.

    What those have no name for is under `gateway.`. Prompts, answers, queries and keys are never in it.
    """
    operation = _OPERATIONS.get(record.route)
    values = {
        "http.request.method": record.method if record.method in _METHODS else "_OTHER",
        "http.request.header.x-request-id": (record.request_id,),
        "url.path": shown(record.path),
        "http.route": None if record.route == UNMATCHED else record.route,
        "http.response.status_code": record.status or None,
        "http.request.body.size": record.bytes_in,
        "http.response.body.size": record.bytes_out,
        "error.type": _error_type(record),
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": operation and "vllm",
        "gen_ai.request.stream": record.is_stream if operation else None,
        "gen_ai.response.time_to_first_chunk": record.ttft_seconds if record.is_stream else None,
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.completion_tokens,
        "gateway.is_prompt_estimate": record.is_prompt_estimate or None,
        "gateway.is_estimate": record.is_estimate or None,
        "gateway.frontend": record.frontend and record.frontend.value,
        "gateway.outcome": record.outcome.value,
        "gateway.reason": record.reason,
        "gateway.key": record.key,
        "gateway.queue_seconds": record.queue_seconds or 0.0,
    }
    return {name: value for name, value in values.items() if value is not None}


def _error_type(record: RequestRecord) -> str | None:
    if record.outcome in (Outcome.UPSTREAM_BROKEN, Outcome.FAILED):
        return record.outcome.value
    # A client's mistake is not this server's error.
    return (record.reason or str(record.status)) if record.status >= 500 else None


def _span_name(record: RequestRecord) -> str:
    method = record.method if record.method in _METHODS else "HTTP"
    return method if record.route == UNMATCHED else f"{method} {record.route}"
