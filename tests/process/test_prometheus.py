"""A real Prometheus with our configuration and rules scrapes the program, and every panel's query gets an answer."""

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

from tests.process.conftest import StartProgram
from tests.support.program import free_port, until

FOLDER = Path(__file__).parents[2] / "deploy/observability"
KEY = "sk-of-prometheus"
CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}
SECONDS = 60.0
METRIC = re.compile(r"\b(?:gateway_|vllm:|instance:)[\w:]+")


class Prometheus:
    """A running Prometheus, asked over its API."""

    def __init__(self, url: str) -> None:
        self._client = httpx2.Client(base_url=url, timeout=30)

    def ready(self) -> bool:
        """Say whether it answers queries."""
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

    def close(self) -> None:
        """Close the connections to it."""
        self._client.close()


@contextmanager
def prometheus(folder: Path, targets: dict[str, str]) -> Iterator[Prometheus]:
    """Run one that scrapes each second: by file name of the configuration, where its engine is."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("NOT TESTED: no prometheus on PATH; Debian's package prometheus has it")
    (folder / "key").write_text(KEY)
    jobs = []
    for name, target in targets.items():
        [job] = yaml.safe_load((FOLDER / name).read_text())["scrape_configs"]
        job |= {"scrape_interval": "1s", "scrape_timeout": "1s", "static_configs": [{"targets": [target]}]}
        job["job_name"] = name if len(targets) > 1 else job["job_name"]
        job.pop("scheme", None)
        if "authorization" in job:
            job["authorization"]["credentials_file"] = str(folder / "key")
        jobs.append(job)
    config = {"global": {"evaluation_interval": "1s"}, "rule_files": [str(FOLDER / "rules.yml")]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config | {"scrape_configs": jobs}))
    port = free_port()
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    made = Prometheus(f"http://127.0.0.1:{port}")
    try:
        until(made.ready, "Prometheus' readiness", SECONDS)
        yield made
    finally:
        made.close()
        process.terminate()
        process.wait(30)
        print((folder / "prometheus.log").read_text())


def test_scraped(start: StartProgram, tmp_path: Path) -> None:
    """vLLM's metrics and ours arrive, the recording rules and every panel's query get answers, no alert fires."""
    program = start({"tokens": 5}, LOG_LEVEL="warning")
    program.until_ready()
    with prometheus(tmp_path, {"prometheus.yml": f"127.0.0.1:{program.port}"}) as asked:

        def requests_arrive() -> bool:
            program.client.post("/v1/chat/completions", json=CHAT)
            program.client.post("/v1/chat/completions", json=CHAT | {"stream": True})
            program.client.get("/v1/nothing")
            recorded = asked.ask("instance:gateway_requests:rate5m > 0")
            return bool(recorded and asked.ask("instance:vllm_generation_tokens:rate1m > 0"))

        until(requests_arrive, "the recorded rates", SECONDS)
        [up] = asked.ask('up{job="vllm-engine"}')
        assert up["value"][1] == "1"
        names = set(asked.get("/api/v1/label/__name__/values"))
        assert {"vllm:num_requests_running", "vllm:generation_tokens_total", "gateway_tokens_total"} <= names
        [state] = asked.ask("gateway_engine_state == 1")
        assert state["metric"]["state"] == "ready"
        assert float(asked.ask("gateway_cache_free_bytes")[0]["value"][1]) > 0
        until(lambda: _all_evaluated(asked), "an evaluation of every rule", SECONDS)
        assert asked.get("/api/v1/alerts")["alerts"] == []
        for title, query in _panel_queries():
            if set(METRIC.findall(query)) <= names:  # the fake has not all of vLLM's
                until(lambda query=query: asked.ask(query), f"an answer to {title}: {query}", SECONDS)  # type: ignore[misc]


def test_key_and_health_port(start: StartProgram, tmp_path: Path) -> None:
    """With keys and HEALTH_PORT: the port for health needs no key, PORT takes one, and refuses who has none."""
    health = free_port()
    program = start(HEALTH_PORT=str(health), API_KEYS=f"prometheus:{KEY}")
    program.until_ready()
    targets = {
        "prometheus.yml": f"127.0.0.1:{program.port}",
        "prometheus-key.yml": f"127.0.0.1:{program.port}",
        "prometheus-health-port.yml": f"127.0.0.1:{health}",
    }
    with prometheus(tmp_path, targets) as asked:
        until(lambda: len(asked.ask("up")) == 3, "three scrapes", SECONDS)
        until(lambda: len(asked.ask("gateway_build_info")) == 2, "two that got in", SECONDS)
        up = {one["metric"]["job"]: one["value"][1] for one in asked.ask("up")}
        assert up == {"prometheus.yml": "0", "prometheus-key.yml": "1", "prometheus-health-port.yml": "1"}


def _all_evaluated(asked: Prometheus) -> bool:
    rules = [rule for group in asked.get("/api/v1/rules")["groups"] for rule in group["rules"]]
    assert not [rule for rule in rules if rule["health"] == "err"], rules
    return bool(rules) and all(rule["health"] == "ok" for rule in rules)


def _panel_queries() -> Iterator[tuple[str, str]]:
    dashboard = json.loads((FOLDER / "grafana/dashboards/vllm-engine.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"].replace("$__rate_interval", "1m")
            yield panel["title"], query.replace("$job", "vllm-engine").replace("$instance", ".*")
