"""Tracing: spans reach a real OTLP/HTTP receiver, the engine's are below ours, and off means off."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.support.collector import Collector, attributes
from vllm_engine.engine.engine_state import Frontend
from vllm_engine.errors import SettingsError
from vllm_engine.gateway.observe import tracing
from vllm_engine.gateway.observe.request_record import Outcome, RequestRecord
from vllm_engine.gateway.observe.tracing import make_tracer

CHAT = "/v1/chat/completions"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = (b"traceparent", f"00-{TRACE}-{PARENT}-01".encode())


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def received(**values: Any) -> RequestRecord:
    values = {"route": CHAT, "path": CHAT, "method": "POST"} | values
    return RequestRecord("abc", received=time.monotonic() - 1.5, **values)


def traced(
    collector: Collector, record: RequestRecord, *headers: tuple[bytes, bytes]
) -> tuple[list[trace_pb2.Span], dict[bytes, bytes]]:
    """Return the spans that a request of 2 s makes, and what the engine is sent."""
    tracer = make_tracer(collector.endpoint, "1.2.3")
    assert tracer is not None
    span = tracer.start(headers, record)
    record.ended = record.received + 2.0
    span.end(record)
    tracer.close()
    spans, collector.spans = collector.spans, []
    return spans, dict(span.headers)


def test_one_trace(collector: Collector) -> None:
    """Our span is the client's child and the engine's parent; what the client does not sample is not sent."""
    states = [(b"tracestate", b"a=1"), (b"tracestate", b"b=2")]
    [sent], forwarded = traced(collector, received(), (b"accept", b"*/*"), SAMPLED, *states)
    assert (sent.trace_id.hex(), sent.parent_span_id.hex()) == (TRACE, PARENT)
    ours = f"00-{TRACE}-{sent.span_id.hex()}-01".encode()
    assert forwarded == {b"traceparent": ours, b"tracestate": b"a=1,b=2"}
    assert collector.paths == ["/v1/traces"]
    spans, forwarded = traced(collector, received(), (b"traceparent", SAMPLED[1][:-1] + b"0"))
    assert forwarded[b"traceparent"].startswith(f"00-{TRACE}-".encode())
    assert forwarded[b"traceparent"].endswith(b"-00") and spans == []
    # With an unusable one a new trace begins, and the state of the old one does not go on.
    for value in (b"00-0-0-01", b"\xff\x00", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01", b"x" * 9999):
        [sent], forwarded = traced(collector, received(), (b"traceparent", value), (b"tracestate", b"a=1"))
        assert sent.parent_span_id == b""
        # The last digit also says that the id is random (W3C Trace Context Level 2).
        assert forwarded[b"traceparent"][:-1] == f"00-{sent.trace_id.hex()}-{sent.span_id.hex()}-0".encode()
        assert int(forwarded[b"traceparent"][-1:], 16) & 1
        assert forwarded[b"tracestate"] == b""


def test_attributes(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """A span says what the conventions name, at the times that the gateway measured; a user's name wins."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    now = time.time_ns()
    tokens: dict[str, Any] = {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "is_stream": True,
        "queue_seconds": 0.25,
        "frontend": Frontend.RUST,
    }
    record = received(
        path=CHAT + "?key=secret", key="team-a", status=200, bytes_in=10, bytes_out=20, **tokens
    )
    record.first_byte = record.received + 0.5
    [span], _ = traced(collector, record)
    assert (span.name, span.kind) == (f"POST {CHAT}", trace_pb2.Span.SPAN_KIND_SERVER)
    assert span.end_time_unix_nano - span.start_time_unix_nano == pytest.approx(2e9, abs=1000)
    assert span.start_time_unix_nano < now
    assert span.status.code == trace_pb2.Status.STATUS_CODE_UNSET
    assert attributes(span) == {
        "http.request.method": "POST", "http.request.header.x-request-id": ["abc"], "url.path": CHAT,
        "http.route": CHAT, "http.response.status_code": 200, "http.request.body.size": 10,
        "http.response.body.size": 20, "gen_ai.operation.name": "chat", "gen_ai.provider.name": "vllm",
        "gen_ai.request.stream": True, "gen_ai.response.time_to_first_chunk": 0.5,
        "gen_ai.usage.input_tokens": 3, "gen_ai.usage.output_tokens": 4, "gateway.outcome": "complete",
        "gateway.frontend": "rust",
        "gateway.key": "team-a", "gateway.queue_seconds": 0.25,
    }  # fmt: skip
    resource = attributes(collector.resources[0])
    assert (resource["service.name"], resource["service.version"]) == ("mine", "1.2.3")


def test_errors_and_names(collector: Collector) -> None:
    """Only what went wrong on our side is an error; no method or path that a client invents gets into a name."""
    for values, error in (
        ({"status": 500}, "500"),
        ({"status": 503, "outcome": Outcome.REJECTED, "reason": "not_ready"}, "not_ready"),
        ({"status": 200, "outcome": Outcome.UPSTREAM_BROKEN}, "upstream_broken"),
        ({"status": 0, "outcome": Outcome.FAILED}, "failed"),
        ({"status": 400}, None), ({"status": 0, "outcome": Outcome.CLIENT_GONE}, None),
    ):  # fmt: skip
        [span], _ = traced(collector, received(**values))
        assert attributes(span).get("error.type") == error
        assert (span.status.code == trace_pb2.Status.STATUS_CODE_ERROR) == (error is not None)

    [span], _ = traced(collector, received(method="BREW", route="unmatched", path="/\n\ud800", status=404))
    found = attributes(span)
    assert (span.name, found["http.request.method"], found["url.path"]) == ("HTTP", "_OTHER", "/%0A%3F")
    assert not found.keys() & {"http.route", "gen_ai.provider.name"}


def test_a_collector_that_refuses(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing fails, and closing does not wait for it to recover."""
    # Its thread outlives this test by seconds; what it says then must not be in another's log.
    sender = logging.getLogger("opentelemetry.exporter")
    sender.propagate = False
    sender.addHandler(logging.NullHandler())
    monkeypatch.setattr(tracing, "CLOSE_SECONDS", 0)
    collector.status = 503
    traced(collector, received())


def test_off() -> None:
    """Without an endpoint nothing of OpenTelemetry's is imported."""
    assert make_tracer(None, "1.2.3") is make_tracer("", "1.2.3") is None
    program = (
        "import sys, vllm_engine.serve, vllm_engine.gateway.observe.tracing as t; t.make_tracer(None, '');"
        "print([m for m in sys.modules if m.startswith(('opentelemetry.sdk', 'opentelemetry.exporter', 'requests'))])"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"


def test_tracing_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """An invalid variable and missing packages are errors of the settings, which say what to do."""
    with monkeypatch.context() as variable:
        variable.setenv("OTEL_BSP_SCHEDULE_DELAY", "-1")
        with pytest.raises(SettingsError, match=r"an OTEL_\* variable is invalid .*correct or unset it"):
            make_tracer("http://127.0.0.1:4318", "1.2.3")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SettingsError, match=r"OTLP_ENDPOINT=.*vllm-engine\[tracing\]"):
        make_tracer("http://127.0.0.1:4318", "1.2.3")
