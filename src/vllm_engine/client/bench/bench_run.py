"""Runs a plan, stores its rows and returns its summary."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import uvloop

from vllm_engine.client.api_client import Client, Server, base_url
from vllm_engine.client.bench.bench_plan import METRICS, Metric, Plan
from vllm_engine.client.bench.bench_report import Summary, render, summarise, write_rows
from vllm_engine.client.bench.load import run_load
from vllm_engine.errors import Problem, SettingsError


def run_bench(plan: Plan, rows_path: Path | None = None) -> tuple[Summary, str]:
    """Run a plan and return its summary, also as text.

    Args:
        plan: what to send; an empty `model` stands for the first that the server lists, and the base URL may
            end in `/v1`, as OpenAI's clients expect it.
        rows_path: where to append one JSON object per request.

    Raises:
        SettingsError: the base URL is invalid.
        ServerError: the server does not list a model.
    """
    plan = replace(plan, base_url=base_url(plan.base_url))
    if not plan.model:
        plan = replace(plan, model=uvloop.run(_first_model(plan)))
    rows = run_load(plan)
    if rows_path is not None:
        write_rows(rows_path, rows)
    summary = summarise(rows, plan.slos_ms)
    return summary, render(summary)


def parse_slos(words: Sequence[str]) -> dict[Metric, float]:
    """Parse SLOs in the form of `vllm bench serve --goodput`: `ttft:500 tpot:50`, in milliseconds.

    Raises:
        SettingsError: one is invalid.
    """
    slos: dict[Metric, float] = {}
    for word in itertools.chain.from_iterable(each.split() for each in words):
        name, _, limit = word.partition(":")
        metric = next((each for each in METRICS if each == name), None)
        try:
            if metric is None:
                raise ValueError(name)
            slos[metric] = float(limit)
        except ValueError:
            expected = f"expected METRIC:MILLISECONDS with one of {', '.join(METRICS)}"
            raise SettingsError([Problem("--slo", word, expected)]) from None
    return slos


async def _first_model(plan: Plan) -> str:
    key = plan.headers.get("authorization", "").removeprefix("Bearer ")
    async with Client(Server(plan.base_url, key or None)) as client:
        return await client.first_model()
