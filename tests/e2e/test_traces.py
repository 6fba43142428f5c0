"""The real vLLM's spans and ours arrive at one receiver as one trace."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.e2e.conftest import MODEL, ready
from tests.support.collector import Collector, attributes
from tests.support.program import until

pytestmark = pytest.mark.e2e

# Read before any fixture hides the machine's environment.
IS_WANTED = os.environ.get("TEST_TRACES") == "1"


def test_one_trace(engine_python: Path, tmp_path: Path) -> None:
    """VLLM's span is below the gateway's, which is below the client's, and both name the request's id."""
    if not IS_WANTED:
        pytest.skip("NOT TESTED: vLLM's own spans; TEST_TRACES=1 starts a second real engine for them")
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {"traceparent": f"00-{trace}-{parent}-01", "x-request-id": "traced-request"}
    ask = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}

    def spans() -> dict[str, Span]:
        return {span.name: span for span in tuple(collector.spans) if span.trace_id.hex() == trace}

    with closing(Collector()) as collector, ready(tmp_path, OTLP_ENDPOINT=collector.endpoint) as program:
        assert program.client.post("/v1/chat/completions", json=ask, headers=headers).status_code == 200
        until(lambda: len(spans()) == 2, "both spans", 60)
    found = spans()
    ours, engines = found["POST /v1/chat/completions"], found["llm_request"]
    assert ours.parent_span_id.hex() == parent
    assert engines.parent_span_id == ours.span_id
    assert "traced-request" in attributes(engines)["gen_ai.request.id"]
    services = {attributes(one)["service.name"] for one in collector.resources}
    assert services == {"vllm-engine", "vllm-engine.vllm"}
