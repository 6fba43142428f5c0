"""deploy/observability: nothing asks for a metric, label or value that does not exist, and the rules do their work."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from vllm_engine.diagnosis.catalogue import BY_CODE
from vllm_engine.engine.engine_state import EngineState
from vllm_engine.gateway.observe.gateway_metrics import GatewayMetrics
from vllm_engine.gateway.observe.request_record import UNMATCHED, Outcome

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy/observability"
CONFIGS = sorted(FOLDER.glob("prometheus*.yml"))
PARTS = {
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("", "_sum", "_count"),
    "counter": ("",),
    "gauge": ("",),
}
BY_SCRAPE = {"job", "instance"}
VALUES: dict[str, set[str]] = {
    "outcome": {*Outcome}, "state": {*EngineState}, "code": {*BY_CODE}, "route": {UNMATCHED},
    "reason": {"saturated", "queue_timeout"},
}  # fmt: skip
NAME = re.compile(r"\b(?:gateway_|vllm:|instance:)[\w:]+")
SELECTOR = re.compile(r"\b((?:gateway_|vllm:|instance:)[\w:]+)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def rules() -> list[dict[str, Any]]:
    return [rule for group in load(FOLDER / "rules.yml")["groups"] for rule in group["rules"]]


def queries() -> list[str]:
    """Return the rules' expressions and, behind them, the dashboard's."""
    dashboard = json.loads((FOLDER / "grafana/dashboards/vllm-engine.json").read_text())
    panels = (panel for panel in dashboard["panels"] if panel["type"] != "row")
    shown = (target for panel in panels for target in panel["targets"])
    return [each["expr"] for each in (*rules(), *shown)]


def series() -> Iterator[tuple[str, set[str]]]:
    """Yield every series that can exist, by name, and its labels."""
    build = dict.fromkeys(("version", "sha", "vllm", "model"), "")
    for one in GatewayMetrics((), frozenset(), build).described:
        for part in PARTS[one.type]:
            yield one.name + part, {*one.labels, "le"} | BY_SCRAPE
    vllm = json.loads((FOLDER / "vllm-metrics.json").read_text())["metrics"]
    for name, told in vllm.items():
        for part in PARTS[told["type"]]:
            yield name + part, {*told["labels"], "le"} | BY_SCRAPE
    for rule in rules():
        if "record" in rule:
            yield rule["record"], BY_SCRAPE


def promtool(*arguments: str | Path) -> None:
    """Run promtool; its complaints fail the test."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("NOT TESTED: no promtool on PATH; Debian's package prometheus has it")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_metrics_exist() -> None:
    """Every metric, label and fixed value in a query is one that the engine or the gateway has."""
    known = dict(series())
    for query in queries():
        names = NAME.findall(query)
        assert (names or query.startswith("up{")) and set(names) <= set(known), query
        for name, matchers in SELECTOR.findall(query):
            for label, operator, value in MATCHER.findall(matchers):
                values = value.split("|") if "~" in operator else [value]
                assert label in known[name] and set(values) <= VALUES.get(label, set(values)), (name, label)
        for grouped in re.findall(r"\b(?:by|on) \(([^)]*)\)", query):
            assert set(grouped.split(", ")) <= set().union(*(known[name] for name in names)), grouped


def test_promtool_takes_what_is_there(tmp_path: Path) -> None:
    """The rules, each configuration, and every query."""
    made = [{"record": "query", "expr": query.replace("$__rate_interval", "1m")} for query in queries()]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": made}]}))
    promtool("check", "rules", FOLDER / "rules.yml", file)
    (tmp_path / "key").write_text("sk-0123456789")
    shutil.copy(FOLDER / "rules.yml", tmp_path)
    for config in CONFIGS:
        text = config.read_text().replace("/etc/prometheus/vllm-engine.key", str(tmp_path / "key"))
        (tmp_path / config.name).write_text(text)
        assert [job["job_name"] for job in load(config)["scrape_configs"]] == ["vllm-engine"]
    promtool("check", "config", *(tmp_path / config.name for config in CONFIGS))


def test_alerts_fire() -> None:
    """Every alert fires and is silent where its unit test says so, and every alert has one."""
    promtool("test", "rules", FOLDER / "rules_test.yml")
    tests = (FOLDER / "rules_test.yml").read_text()
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    fired = set(re.findall(r'alertname="(\w+)", alertstate="firing"', tests))
    fired |= set(re.findall(r"- alertname: (\w+)\n +eval_time: \w+\n +exp_alerts:\n", tests))
    assert fired == alerts
    # Each alert tells what it saw and what to do, and the page lists it.
    page = (ROOT / "docs/operate/observability.md").read_text()
    for rule in (rule for rule in rules() if "alert" in rule):
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description"}
        assert f"| `{rule['alert']}` | {rule['labels']['severity']} |" in page


def test_compose() -> None:
    """Images are pinned, ports are this machine's alone, files are there, and services find each other."""
    composed = load(ROOT / "compose.observability.yaml")
    services = composed["services"]
    assert services.keys() & load(ROOT / "compose.yaml")["services"].keys() == {"vllm-engine"}
    engine = services.pop("vllm-engine")
    assert engine["environment"]["OTLP_ENDPOINT"] == "http://otel-collector:4318"
    for service in services.values():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in composed["volumes"]
    [source] = load(FOLDER / "grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    [provider] = load(FOLDER / "grafana/provisioning/dashboards/vllm-engine.yaml")["providers"]
    mounted = [volume.split(":")[1] for volume in services["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounted
    [target] = load(FOLDER / "prometheus.yml")["scrape_configs"][0]["static_configs"][0]["targets"]
    assert target == "vllm-engine:8000"
