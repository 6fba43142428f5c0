"""The entry: run a plan, keep its rows, derive its summary."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import uvloop

from vllm_engine.bench.cpu import usage
from vllm_engine.bench.load import run_load
from vllm_engine.bench.plan import METRICS, Metric, Plan
from vllm_engine.bench.report import Summary, render, summarise
from vllm_engine.bench.rows import write_rows
from vllm_engine.errors import Problem, SettingsError, VllmEngineError

_LIST_SECONDS = 30.0


def run_bench(plan: Plan, rows_path: Path | None = None, cpu_of: Sequence[int] = ()) -> tuple[Summary, str]:
    """Run a plan and return its summary, and that as text.

    Args:
        plan: what to send; an empty `model` is the first that the server lists, and the base URL may be
            given with `/v1`, as OpenAI's clients take it.
        rows_path: where to append one JSON object per request.
        cpu_of: processes of the server, on this machine; their processor time per event is reported.

    Raises:
        SettingsError: the base URL is none.
        VllmEngineError: the server does not say which model it serves.
    """
    plan = replace(plan, base_url=_checked(plan.base_url))
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
            wanted = f"wanted METRIC:MILLISECONDS with one of {', '.join(METRICS)}"
            raise SettingsError([Problem("--goodput", word, wanted)]) from None
    return slos


def _checked(base_url: str) -> str:
    url = urlsplit(base_url)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise SettingsError([Problem("BASE_URL", base_url, "wanted http://HOST:PORT or https://HOST")])
    return base_url.rstrip("/").removesuffix("/v1").rstrip("/")


async def _first_model(plan: Plan) -> str:
    url = f"{plan.base_url}/v1/models"
    try:
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(_LIST_SECONDS), raise_for_status=True
            ) as session,
            session.get(url, headers=dict(plan.headers)) as response,
        ):
            answer = await response.json()
        return str(answer["data"][0]["id"])
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, LookupError, TypeError) as error:
        raise VllmEngineError(f"{url} does not list a model: {type(error).__name__} {error}") from error
