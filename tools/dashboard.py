#!/usr/bin/env python3
"""Write Grafana's dashboard from the list of panels below; with --check, only say whether it is stale.

.venv/bin/python tools/dashboard.py [--check]
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[1] / "deploy/observability/grafana/dashboards/vllm-engine.json"
ONE = '{job="$job", instance=~"$instance"}'
"""Selects the engines that are chosen above the panels; `@` stands for it in the queries."""

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Panel:
    """One panel: its title, kind, unit, what it says when pointed at, and queries with their legends."""

    title: str
    unit: str
    description: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    most: float | None = None
    steps: tuple[tuple[float, str], ...] = ()


def quantile(share: float, metric: str) -> str:
    """Return the query for a histogram's quantile."""
    return f"histogram_quantile({share}, sum by (le) (rate({metric}_bucket@[$__rate_interval])))"


def rate(metric: str, by: str = "", where: str = "") -> str:
    """Return the query for a counter's rate, by some labels, of the series with further labels."""
    chosen = f"@{{{where}}}" if where else "@"
    return f"sum {f'by ({by}) ' if by else ''}(rate({metric}{chosen}[$__rate_interval]))"


TTFT, E2EL = "gateway_ttft_seconds", "gateway_request_duration_seconds"
ROWS: dict[str, tuple[Panel, ...]] = {
    "Now": (
        Panel("State", "none", "What each engine is held to be.", (("gateway_engine_state@ == 1", "{{state}}"),), "stat"),
        Panel("Requests", "reqps", "Requests for the engine that ended.", ((rate("gateway_requests_total", where='route!="unmatched"'), ""),), "stat"),
        Panel("Errors", "percentunit", "Of these, the share that the engine or the gateway failed.", (("max(instance:gateway_error_ratio:rate5m@) or vector(0)", ""),), "stat", steps=((0, "green"), (0.01, "orange"), (0.05, "red"))),
        Panel("First token, p95", "s", "Of streams, over five minutes.", (("max(instance:gateway_ttft_seconds:p95_5m@)", ""),), "stat"),
        Panel("Generated", "none", "Tokens per second, over a minute.", (("sum(instance:vllm_generation_tokens:rate1m@)", ""),), "stat"),
        Panel("KV cache", "percentunit", "The fullest one.", (("max(instance:vllm_kv_cache_usage:max@)", ""),), "gauge", 1, ((0, "green"), (0.8, "orange"), (0.95, "red"))),
    ),
    "Requests": (
        Panel("By outcome", "reqps", "Why requests ended; client_gone: the client left first.", ((rate("gateway_requests_total", "outcome", 'route!="unmatched"'), "{{outcome}}"),)),
        Panel("By status", "reqps", "Statuses that clients saw.", ((rate("gateway_requests_total", "status", 'route!="unmatched"'), "{{status}}"),)),
        Panel("Turned away, left, sent again", "ops", "What the gateway answered instead of the engine, by reason; clients that left; requests sent again after a loss.", (
            (rate("gateway_rejections_total", "reason"), "{{reason}}"),
            (rate("gateway_disconnects_total"), "client left"),
            (rate("gateway_replays_total"), "sent again"),
        )),
        Panel("By frontend", "reqps", "Which of vLLM's frontends answers; with both, why the Python frontend.", (
            (rate("gateway_frontend_requests_total", "frontend"), "{{frontend}}"),
            (rate("gateway_python_frontend_requests_total", "reason"), "python: {{reason}}"),
        )),
    ),
    "Latency": (
        Panel("Time to first token", "s", "As clients see it (the gateway's) and as vLLM does; between them lies the wait for a turn.", (
            (quantile(0.5, TTFT), "p50"), (quantile(0.95, TTFT), "p95"), (quantile(0.99, TTFT), "p99"),
            (quantile(0.95, "vllm:time_to_first_token_seconds"), "vLLM's p95"),
        )),
        Panel("Between tokens", "s", "vLLM's inter-token latency.", (
            (quantile(0.5, "vllm:inter_token_latency_seconds"), "p50"), (quantile(0.95, "vllm:inter_token_latency_seconds"), "p95"),
        )),
        Panel("Whole requests", "s", "From a request to its end.", (
            (quantile(0.5, E2EL), "p50"), (quantile(0.95, E2EL), "p95"), (quantile(0.99, E2EL), "p99"),
        )),
        Panel("Waits for a turn", "s", "In the gateway's queue, and in vLLM's.", (
            (quantile(0.95, "gateway_queue_seconds"), "gateway p95"), (quantile(0.95, "vllm:request_queue_time_seconds"), "vLLM p95"),
        )),
    ),
    "Load": (
        Panel("At work and waiting", "none", "In flight: let through by the gateway; running: in vLLM's batch.", (
            ("sum(gateway_in_flight@)", "in flight"), ("sum(gateway_waiting@)", "waiting in the gateway"),
            ("sum(vllm:num_requests_running@)", "running in vLLM"), ("sum(vllm:num_requests_waiting@)", "waiting in vLLM"),
        )),
        Panel("Tokens", "none", "Per second.", (
            (rate("vllm:generation_tokens_total"), "generated"), (rate("vllm:prompt_tokens_total"), "of prompts"),
        )),
        Panel("KV cache", "percentunit", "Use of the cache; at 1 requests are preempted.", (("max by (instance) (vllm:kv_cache_usage_perc@)", "{{instance}}"),), most=1),
        Panel("Prefix cache", "percentunit", "Share of prompt tokens found in the cache.", (
            (f"{rate('vllm:prefix_cache_hits_total')} / {rate('vllm:prefix_cache_queries_total')}", "hits"),
        ), most=1),
        Panel("Preemptions", "ops", "Requests that vLLM put off because the cache was full.", ((rate("vllm:num_preemptions_total", "instance"), "{{instance}}"),)),
        Panel("Tokens by key", "none", "Per second, prompts and answers; without API keys the name is empty.", ((rate("gateway_tokens_total", "key, kind"), "{{key}} {{kind}}"),)),
    ),
    "Engine": (
        Panel("Restarts and failures", "none", "In an hour; failures by the code that docs/operate/troubleshooting.md explains.", (
            ("sum(increase(gateway_engine_restarts_total@[1h]))", "restarts"),
            ("sum by (code) (increase(gateway_engine_failures_total@[1h]))", "{{code}}"),
            ("sum(increase(gateway_idle_stops_total@[1h]))", "stopped while idle"),
        )),
        Panel("States", "none", "1 for the state that an engine is in.", (("max by (state) (gateway_engine_state@)", "{{state}}"),)),
        Panel("Last start", "s", "How long it took, up to the first token.", (("gateway_engine_start_seconds@", "{{instance}}"),)),
        Panel("Disk", "bytes", "Free where CACHE_DIR is, and its size.", (
            ("gateway_cache_free_bytes@", "{{instance}} free"), ("gateway_cache_size_bytes@", "{{instance}} size"),
        )),
        Panel("Body bytes", "Bps", "In from clients and out to them.", ((rate("gateway_bytes_total", "direction"), "{{direction}}"),)),
        Panel("Builds", "none", "What runs.", (("gateway_build_info@", "{{version}} {{sha}}, vLLM {{vllm}}, {{model}}"),), "stat"),
    ),
}  # fmt: skip


def selected(query: str) -> str:
    """Put the selection of engines into a query: `@` alone, or `@{...}` with further labels."""
    return query.replace("@{", ONE[:-1] + ", ").replace("@", ONE)


def rendered(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    """Return a panel as Grafana keeps it."""
    steps = [{"value": at or None, "color": color} for at, color in panel.steps] or [
        {"value": None, "color": "green"}
    ]
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    if panel.most is not None:
        defaults["max"] = panel.most
    options: dict[str, Any] = {
        "legend": {"displayMode": "list", "placement": "bottom"},
        "tooltip": {"mode": "multi"},
    }
    if panel.kind in ("stat", "gauge"):
        names = panel.title in ("State", "Builds")
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}}
        options |= {"textMode": "name" if names else "value"} if panel.kind == "stat" else {}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(65 + index), "expr": selected(query), "legendFormat": legend, "datasource": _SOURCE}
            for index, (query, legend) in enumerate(panel.queries)
        ],
    }


def panels() -> list[dict[str, Any]]:
    """Return all panels in their places: six small ones in the first row, three to a row below."""
    made: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        place = {"h": 1, "w": 24, "x": 0, "y": top}
        made.append(
            {
                "id": len(made) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": place,
                "panels": [],
            }
        )
        across, high = (6, 4) if title == "Now" else (len(row) if len(row) == 4 else 3, 8)
        wide = 24 // across
        for index, panel in enumerate(row):
            place = {"h": high, "w": wide, "x": index % across * wide, "y": top + 1 + index // across * high}
            made.append(rendered(panel, len(made) + 1, place))
        top += 1 + -(-len(row) // across) * high
    return made


def chooser(name: str, label: str, values: str, *, several: bool) -> dict[str, Any]:
    """Return a variable whose values are a label's."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "definition": values,
        "query": {"query": values, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": several,
        "includeAll": several,
        "allValue": ".*" if several else None,
        "current": {"selected": True, "text": "All", "value": "$__all"} if several else {},
    }


def dashboard() -> dict[str, Any]:
    """Return the whole dashboard."""
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return {
        "uid": "vllm-engine",
        "title": "vllm-engine",
        "tags": ["vllm"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "graphTooltip": 1,
        "templating": {
            "list": [
                source,
                chooser("job", "Job", "label_values(gateway_build_info, job)", several=False),
                chooser(
                    "instance",
                    "Engine",
                    'label_values(gateway_build_info{job="$job"}, instance)',
                    several=True,
                ),
            ]
        },
        "panels": panels(),
    }


def main(argv: list[str]) -> int:
    """Write or check the file; returns the exit status."""
    text = json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"
    if FILE.exists() and FILE.read_text(encoding="utf-8") == text:
        return 0
    if "--check" in argv:
        print(f"{FILE.name}: stale: run make docs")
        return 1
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(text, encoding="utf-8")
    print(f"{FILE.name}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
