"""Traces: the gateway's span stands between the client's and the engine's, and only where it is asked for."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from tests.process.conftest import StartProgram
from tests.support.collector import Collector, attributes
from tests.support.program import Program, until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SENT = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=1"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector on a loopback port."""
    made = Collector()
    yield made
    made.close()


def reached(program: Program) -> dict[str, str]:
    """Send a request in a trace; returns the trace headers that the engine got."""
    answer = program.client.post("/v1/_echo", json={}, headers=SENT).json()
    return {name: value for name, value in answer["headers"] if name in SENT}


def test_off(start: StartProgram) -> None:
    """Without OTLP_ENDPOINT the client's trace goes on to the engine as it is."""
    program = start()
    program.until_ready()
    assert reached(program) == SENT
    assert "--otlp-traces-endpoint" not in psutil.Process(program.engine_pid()).cmdline()


def test_one_trace(start: StartProgram, collector: Collector) -> None:
    """The engine's parent is our span, whose parent is the client's; the last ones are sent at the end."""
    endpoint = collector.endpoint.removesuffix("/v1/traces")
    program = start({"tokens": 3}, OTLP_ENDPOINT=endpoint, LOG_LEVEL="debug")
    program.until_ready()
    got = reached(program)
    chat = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}
    program.client.post("/v1/chat/completions", json=chat)
    program.client.get("/v1/nothing")
    engine = psutil.Process(program.engine_pid())
    command, variables = engine.cmdline(), engine.environ()
    program.close()
    named = {span.name: span for span in collector.spans}
    assert set(named) == {"POST /v1/_echo", "POST /v1/chat/completions"}
    ours = named["POST /v1/_echo"]
    assert (ours.trace_id.hex(), ours.parent_span_id.hex()) == (TRACE, PARENT)
    assert got == {"traceparent": f"00-{TRACE}-{ours.span_id.hex()}-01", "tracestate": "a=1"}
    assert attributes(named["POST /v1/chat/completions"])["gen_ai.usage.output_tokens"] == 3
    assert set(collector.paths) == {"/v1/traces"}
    at = command.index("--otlp-traces-endpoint")
    assert command[at + 1] == collector.endpoint
    assert variables["OTEL_SERVICE_NAME"] == "vllm-engine.vllm"
    assert "urllib3" not in program.log()


def test_a_client_that_leaves(start: StartProgram, collector: Collector) -> None:
    """What ends early ends its span too, with the reason."""
    program = start({"tokens": 100_000, "tokens_per_second": 100.0}, OTLP_ENDPOINT=collector.endpoint)
    program.until_ready()
    chat = {"model": "fake", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    with program.client.stream("POST", "/v1/chat/completions", json=chat) as stream:
        next(stream.iter_lines())
    until(lambda: "client_gone" in program.log(), "the client's leaving")
    program.close()
    [span] = collector.spans
    assert attributes(span)["gateway.outcome"] == "client_gone"
