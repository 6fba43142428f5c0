"""Tracing: spans reach a real OTLP/HTTP receiver, the engine's are below ours, and off means off."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.support.collector import Collector, attributes
from vllm_engine.errors import SettingsError
from vllm_engine.gateway.observe import tracing
from vllm_engine.gateway.observe.request_record import Outcome, RequestRecord
from vllm_engine.gateway.observe.tracing import NoTracer, make_tracer

CHAT = "/v1/chat/completions"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = (b"traceparent", f"00-{TRACE}-{PARENT}-01".encode())


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector on a loopback port."""
    made = Collector()
    yield made
    made.close()


def received(**values: Any) -> RequestRecord:
    """Return a request that came 1.5 s ago."""
    return RequestRecord("abc", "POST", CHAT, route=CHAT, received=time.monotonic() - 1.5, **values)


def ended(record: RequestRecord, status: int = 200, **values: Any) -> RequestRecord:
    """Return it at its end, 2 s after it came."""
    record.status, record.ended = status, record.received + 2.0
    for name, value in values.items():
        setattr(record, name, value)
    return record


def traced(
    collector: Collector, record: RequestRecord, *headers: tuple[bytes, bytes], **values: Any
) -> trace_pb2.Span:
    """Return the span that one request makes."""
    tracer = make_tracer(collector.endpoint, "1.2.3")
    tracer.start(headers, record).end(ended(record, **values))
    tracer.close()
    [span] = collector.spans
    return span


def test_one_trace(collector: Collector) -> None:
    """Our span is the client's child and the engine's parent."""
    tracer = make_tracer(collector.endpoint, "1.2.3")
    record = received()
    span = tracer.start(
        [(b"accept", b"*/*"), SAMPLED, (b"tracestate", b"a=1"), (b"tracestate", b"b=2")], record
    )
    forwarded = dict(span.headers)
    span.end(ended(record))
    tracer.close()
    [sent] = collector.spans
    assert (sent.trace_id.hex(), sent.parent_span_id.hex()) == (TRACE, PARENT)
    assert forwarded == {
        b"traceparent": f"00-{TRACE}-{sent.span_id.hex()}-01".encode(),
        b"tracestate": b"a=1,b=2",
    }
    assert collector.paths == ["/v1/traces"]


@pytest.mark.parametrize(
    "value", [b"00-0-0-01", b"\xff\x00", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01", b"x" * 9999]
)
def test_an_unusable_traceparent(collector: Collector, value: bytes) -> None:
    """A new trace begins, and the state of the old one does not go on."""
    tracer = make_tracer(collector.endpoint, "1.2.3")
    record = received()
    span = tracer.start([(b"traceparent", value), (b"tracestate", b"a=1")], record)
    forwarded = dict(span.headers)
    span.end(ended(record))
    tracer.close()
    [sent] = collector.spans
    assert sent.parent_span_id == b""
    # The last digit also says that the id is random (W3C Trace Context Level 2).
    assert forwarded[b"traceparent"][:-1] == f"00-{sent.trace_id.hex()}-{sent.span_id.hex()}-0".encode()
    assert int(forwarded[b"traceparent"][-1:], 16) & 1
    assert forwarded[b"tracestate"] == b""


def test_what_the_client_does_not_sample(collector: Collector) -> None:
    """It is not exported, and the engine is told so too."""
    tracer = make_tracer(collector.endpoint, "1.2.3")
    record = received()
    span = tracer.start([(b"traceparent", f"00-{TRACE}-{PARENT}-00".encode())], record)
    span.end(ended(record))
    tracer.close()
    assert dict(span.headers)[b"traceparent"].endswith(b"-00")
    assert dict(span.headers)[b"traceparent"].startswith(f"00-{TRACE}-".encode())
    assert collector.spans == []


def test_attributes(collector: Collector) -> None:
    """A span says what the conventions name, at the times that the gateway measured."""
    now = time.time_ns()
    record = received(key="team-a", bytes_in=10, bytes_out=20, prompt_tokens=3, completion_tokens=4)
    record.path = CHAT + "?key=secret"
    span = traced(collector, record, is_stream=True, first_byte=record.received + 0.5, queue_seconds=0.25)
    assert (span.name, span.kind) == (f"POST {CHAT}", trace_pb2.Span.SPAN_KIND_SERVER)
    assert span.end_time_unix_nano - span.start_time_unix_nano == pytest.approx(2e9, abs=1000)
    assert now - span.start_time_unix_nano == pytest.approx(1.5e9, abs=1e9)
    assert span.status.code == trace_pb2.Status.STATUS_CODE_UNSET
    assert attributes(span) == {
        "http.request.method": "POST",
        "http.request.header.x-request-id": ["abc"],
        "url.path": CHAT,
        "http.route": CHAT,
        "http.response.status_code": 200,
        "http.request.body.size": 10,
        "http.response.body.size": 20,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.stream": True,
        "gen_ai.response.time_to_first_chunk": 0.5,
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 4,
        "gateway.outcome": "complete",
        "gateway.key": "team-a",
        "gateway.queue_seconds": 0.25,
    }
    assert (
        attributes(collector.resources[0]).items()
        >= {"service.name": "vllm-engine", "service.version": "1.2.3"}.items()
    )


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"status": 500}, "500"),
        ({"status": 503, "outcome": Outcome.REJECTED, "reason": "not_ready"}, "not_ready"),
        ({"status": 200, "outcome": Outcome.UPSTREAM_BROKEN}, "upstream_broken"),
        ({"status": 0, "outcome": Outcome.FAILED}, "failed"),
        ({"status": 400}, None),
        ({"status": 0, "outcome": Outcome.CLIENT_GONE}, None),
    ],
)
def test_errors(collector: Collector, values: dict[str, Any], error: str | None) -> None:
    """What went wrong on our side is an error; a client's mistake or leaving is not."""
    span = traced(collector, received(), **values)
    assert attributes(span).get("error.type") == error
    assert (span.status.code == trace_pb2.Status.STATUS_CODE_ERROR) == (error is not None)


def test_what_a_client_invents_is_no_name(collector: Collector) -> None:
    """Span names stay few: unknown methods and paths do not get into them; no path breaks a batch."""
    record = received()
    record.method, record.route, record.path = "BREW", "unmatched", "/\n\ud800"
    span = traced(collector, record, status=404)
    assert span.name == "HTTP"
    assert attributes(span)["http.request.method"] == "_OTHER"
    assert attributes(span)["url.path"] == "/%0A%3F"
    assert "http.route" not in attributes(span)
    assert "gen_ai.provider.name" not in attributes(span)


def test_the_standard_variables(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's name for the service wins."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    traced(collector, received())
    found = attributes(collector.resources[0])
    assert (found["service.name"], found["deployment.environment.name"]) == ("mine", "test")
    assert found["service.version"] == "1.2.3"


@pytest.mark.parametrize("status", [None, 503])
def test_a_collector_that_is_not_there(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, status: int | None
) -> None:
    """Nothing fails, and closing waits no longer than it says."""
    # Its thread outlives this test by seconds; what it says then must not be in another's log.
    sender = logging.getLogger("opentelemetry.exporter")
    sender.propagate = False
    sender.addHandler(logging.NullHandler())
    monkeypatch.setattr(tracing, "CLOSE_SECONDS", 0.3)
    collector.status = status or 200
    # Closed again: nobody listens there.
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        endpoint = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    tracer = make_tracer(collector.endpoint if status else endpoint, "1.2.3")
    record = received()
    tracer.start((), record).end(ended(record))
    began = time.monotonic()
    tracer.close()
    assert 0.2 < time.monotonic() - began < 10


@pytest.mark.parametrize("endpoint", [None, ""])
def test_off(endpoint: str | None) -> None:
    """Without an endpoint the client's headers stay as they are."""
    tracer = make_tracer(endpoint, "1.2.3")
    assert isinstance(tracer, NoTracer)
    span = tracer.start([SAMPLED], received())
    span.end(received(is_estimate=True))
    assert tuple(span.headers) == ()
    tracer.close()


def test_off_loads_nothing() -> None:
    """Without an endpoint neither the SDK nor the exporter is imported, by the whole gateway."""
    program = (
        "import sys, vllm_engine.serve, vllm_engine.gateway.observe.tracing as t; t.make_tracer(None, '');"
        "print([m for m in sys.modules if m.startswith(('opentelemetry.sdk', 'opentelemetry.exporter', 'requests'))])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stdout == "[]\n"


def test_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing that is asked for and cannot be is an error of the settings, which says what to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SettingsError, match=r"OTLP_ENDPOINT=.*vllm-engine\[tracing\]"):
        make_tracer("http://127.0.0.1:4318", "1.2.3")
