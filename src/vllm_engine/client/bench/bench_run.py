"""The entry: run a plan, keep its rows, derive its summary."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import uvloop

from vllm_engine.client.api_client import Client, Server, base_url
from vllm_engine.client.bench.bench_plan import METRICS, Metric, Plan
from vllm_engine.client.bench.bench_report import Summary, render, summarise
from vllm_engine.client.bench.bench_rows import write_rows
from vllm_engine.client.bench.cpu_usage import usage
from vllm_engine.client.bench.load import run_load
from vllm_engine.errors import Problem, SettingsError


def run_bench(plan: Plan, rows_path: Path | None = None, cpu_of: Sequence[int] = ()) -> tuple[Summary, str]:
    """Run a plan and return its summary, and that as text.

    Args:
        plan: what to send; an empty `model` is the first that the server lists, and the base URL may be
            given with `/v1`, as OpenAI's clients take it.
        rows_path: where to append one JSON object per request.
        cpu_of: processes of the server, on this machine; their processor time per event is reported.

    Raises:
        SettingsError: the base URL is none.
        ServerError: the server does not say which model it serves.
    """
    plan = replace(plan, base_url=base_url(plan.base_url))
    if not plan.model:
        plan = replace(plan, model=uvloop.run(_first_model(plan)))
    before = [usage(pid).cpu_seconds for pid in cpu_of]
    rows = run_load(plan)
    after = [usage(pid).cpu_seconds for pid in cpu_of]
    if rows_path is not None:
        write_rows(rows_path, rows)
    summary = summarise(rows, plan.slos_ms)
    text = render(summary)
    for pid, began, ended in zip(cpu_of, before, after, strict=True):
        text += f"\nCPU of process {pid} and its children: "
        text += f"{(ended - began) * 1e6 / max(1, summary.events):.1f} us per token event"
    return summary, text


def parse_slos(words: Sequence[str]) -> dict[Metric, float]:
    """Read SLOs as `vllm bench serve --goodput` takes them: `ttft:500 tpot:50`, in milliseconds.

    Raises:
        SettingsError: a word is none.
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
            wanted = f"expected METRIC:MILLISECONDS with one of {', '.join(METRICS)}"
            raise SettingsError([Problem("--goodput", word, wanted)]) from None
    return slos


async def _first_model(plan: Plan) -> str:
    key = plan.headers.get("authorization", "").removeprefix("Bearer ")
    async with Client(Server(plan.base_url, key or None)) as client:
        return await client.first_model()
