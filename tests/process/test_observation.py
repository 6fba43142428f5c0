"""What logs, metrics and traces say of requests, and that Prometheus can use it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.process.conftest import StartProgram
from tests.support.collector import Collector, attributes
from tests.support.model import STREAM
from tests.support.program import Program, free_port, plain_client, until
from tests.support.watched import Watched

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/observability"
SCHEMA = Draft202012Validator(json.loads((FOLDER / "log.schema.json").read_text()))
PROMPT = "a prompt that nobody logs"
MESSAGES = [{"role": "user", "content": PROMPT}]
METRIC = re.compile(r"\b(?:gateway_|vllm:|instance:)[\w:]+")
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SENT = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=1"}
PHASES = ["preparing", "importing", "loading weights", "profiling memory", "warming up"]
SETTINGS = {"LOG_FORMAT": "json", "LOG_LEVEL": "debug", "CANARY_INTERVAL_SECONDS": "0.2"}
SCENARIO = {"tokens": 5}


def access_lines(gateway: Watched, count: int) -> list[dict[str, Any]]:
    """Wait until so many lines of the access log are there; returns them."""

    def lines() -> list[dict[str, Any]]:
        records = [json.loads(line) for line in gateway.logged().splitlines()]
        return [one for one in records if one["source"] == "gateway.access" and one["level"] == "INFO"]

    until(lambda: len(lines()) == count, f"{count} lines")
    return lines()


def test_log(gateway: Watched) -> None:
    """Every line of the log is JSON as its schema says; each phase of the start has one."""
    gateway.program.until_logged(PHASES[-1] + " took")
    records = [json.loads(line) for line in gateway.program.log().splitlines()]
    for record in records:
        SCHEMA.validate(record)
    assert {record["source"] for record in records} >= {"engine", "gateway", "gateway.supervisor"}
    lines = [record for record in records if record["source"] == "gateway.supervisor" and "seconds" in record]
    assert [line["phase"] for line in lines] == PHASES
    assert all(re.fullmatch(r"[a-z ]+ took \d+\.\d s(; now [a-z ]+)?", line["message"]) for line in lines)


def test_access_line(gateway: Watched) -> None:
    """One line names the model and counts the tokens, says which are estimated, and shows no prompt."""
    gateway.program.chat(messages=MESSAGES)
    gateway.program.chat(messages=MESSAGES, stream=True)
    gateway.program.client.get("/v1/nothing")
    gateway.program.client.post("/tokenize", json={"model": "fake", "prompt": PROMPT, "stream": True})
    whole, streamed, unknown, tokens = access_lines(gateway, 4)
    assert (whole["model"], whole["completion_tokens"], whole["is_estimate"]) == ("fake", 5, False)
    assert (streamed["model"], streamed["is_estimate"], streamed["stream"]) == ("fake", True, True)
    assert streamed["completion_tokens"] > 0
    assert streamed["ttft_seconds"] <= streamed["duration_seconds"]
    assert (unknown["model"], unknown["outcome"], unknown["reason"]) == (None, "rejected", "unknown_route")
    assert tokens["stream"] is False, "a route that answers with JSON alone"
    assert PROMPT not in gateway.program.log()


def test_metrics(gateway: Watched) -> None:
    """vLLM's are there beside ours, at both paths; a route of EXTRA_ROUTES has its own label."""
    gateway.program.client.post("/v1/_echo", json={})
    text = gateway.program.client.get("/metrics").text
    assert 'route="/v1/_echo",status="200"' in text
    assert "\nvllm:num_requests_running{" in text
    assert "gateway_requests_total" in gateway.program.client.get("/v1/metrics").text


def reached(program: Program) -> dict[str, str]:
    """Send a request in a trace; returns the trace headers that the engine got."""
    answer = program.client.post("/v1/_echo", json={}, headers=SENT).json()
    return {name: value for name, value in answer["headers"] if name in SENT}


def test_traces_off(gateway: Watched) -> None:
    """Without OTLP_ENDPOINT the client's trace goes on to the engine as it is."""
    assert reached(gateway.program) == SENT
    assert "--otlp-traces-endpoint" not in gateway.program.engine_command()


def test_traces(start: StartProgram) -> None:
    """The engine's parent is our span, whose parent is the client's; the last ones are sent at the end."""
    collector = Collector()
    endpoint = collector.endpoint.removesuffix("/v1/traces")
    program = start({"tokens": 3}, OTLP_ENDPOINT=endpoint, LOG_LEVEL="debug", EXTRA_ROUTES="/v1/_echo")
    got = reached(program)
    assert program.chat().status_code == 200
    program.client.get("/v1/nothing")
    program.change(stall_after_n_chunks=2)
    with program.client.stream("POST", "/v1/messages", json=STREAM | {"max_tokens": 9}) as stream:
        next(stream.iter_lines())
    program.until_logged("client_gone")
    command = program.engine_command()
    program.close()
    collector.close()
    named = {span.name: span for span in collector.spans}
    assert set(named) == {"POST /v1/_echo", "POST /v1/chat/completions", "POST /v1/messages"}
    ours = named["POST /v1/_echo"]
    assert (ours.trace_id.hex(), ours.parent_span_id.hex()) == (TRACE, PARENT)
    assert got == {"traceparent": f"00-{TRACE}-{ours.span_id.hex()}-01", "tracestate": "a=1"}
    assert attributes(named["POST /v1/chat/completions"])["gen_ai.usage.output_tokens"] == 3
    assert attributes(named["POST /v1/messages"])["gateway.outcome"] == "client_gone"
    assert set(collector.paths) == {"/v1/traces"}
    assert command[command.index("--otlp-traces-endpoint") + 1] == collector.endpoint
    assert "urllib3" not in program.log()


class Prometheus:
    """A running Prometheus, asked over its API."""

    def __init__(self, client: httpx2.Client) -> None:
        self._client = client

    def ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx2.TransportError:
            return False

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Return the samples of an instant query."""
        answer = self._client.get("/api/v1/query", params={"query": query}).json()
        assert answer["status"] == "success", (query, answer)
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def get(self, path: str) -> Any:
        """Return the data of another part of its API."""
        return self._client.get(path).json()["data"]


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """Run one with our configuration that scrapes this target each second."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("NOT TESTED: no prometheus on PATH; Debian's package prometheus has it")
    [job] = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    job |= {"scrape_interval": "1s", "scrape_timeout": "1s", "static_configs": [{"targets": [target]}]}
    config = {"global": {"evaluation_interval": "1s"}, "rule_files": [str(FOLDER / "rules.yml")]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config | {"scrape_configs": [job]}))
    address = f"127.0.0.1:{free_port()}"
    options = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "prometheus.log").open("wb") as log:
        command = [program, *options, f"--web.listen-address={address}"]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        with plain_client(f"http://{address}") as client:
            made = Prometheus(client)
            until(made.ready, "Prometheus' readiness")
            yield made
    finally:
        process.terminate()
        process.wait(30)
        print((folder / "prometheus.log").read_text())


def test_prometheus(gateway: Watched, tmp_path: Path) -> None:
    """vLLM's metrics and ours arrive, the recording rules and every panel's query get answers, no alert fires."""
    with prometheus(tmp_path, f"127.0.0.1:{gateway.port}") as asked:

        def requests_arrive() -> bool:
            gateway.program.chat()
            gateway.program.chat(stream=True)
            gateway.program.client.get("/v1/nothing")
            recorded = asked.ask("instance:gateway_requests:rate5m > 0")
            return bool(recorded and asked.ask("instance:vllm_generation_tokens:rate1m > 0"))

        until(requests_arrive, "the recorded rates")
        assert asked.ask('up{job="vllm-engine"}')[0]["value"][1] == "1"
        names = set(asked.get("/api/v1/label/__name__/values"))
        assert {"vllm:num_requests_running", "vllm:generation_tokens_total", "gateway_tokens_total"} <= names
        [state] = asked.ask("gateway_engine_state == 1")
        assert state["metric"]["state"] == "ready"
        until(lambda: all_evaluated(asked), "an evaluation of every rule")
        assert asked.get("/api/v1/alerts")["alerts"] == []
        for title, query in panel_queries():
            if set(METRIC.findall(query)) <= names:  # the fake has not all of vLLM's
                until(lambda query=query: asked.ask(query), f"an answer to {title}: {query}")  # type: ignore[misc]


def all_evaluated(asked: Prometheus) -> bool:
    """Say whether every rule has been evaluated; none may have failed."""
    rules = [rule for group in asked.get("/api/v1/rules")["groups"] for rule in group["rules"]]
    assert not [rule for rule in rules if rule["health"] == "err"], rules
    return bool(rules) and all(rule["health"] == "ok" for rule in rules)


def panel_queries() -> Iterator[tuple[str, str]]:
    """Yield title and query of every panel of our dashboard."""
    dashboard = json.loads((FOLDER / "grafana/dashboards/vllm-engine.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"].replace("$__rate_interval", "1m")
            yield panel["title"], query.replace("$job", "vllm-engine").replace("$instance", ".*")
