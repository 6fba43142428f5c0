"""The same two paths by `vllm bench serve`, which shares no code with our generator, and by ours beside it.

    python -m perf.bench.independent                 needs .venv-engine and the bundled model (`make setup`)

Writes a table between the `independent` markers of docs/measured/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from perf.bench import machine, tables
from perf.bench.processes import MODEL
from perf.bench.targets import DIRECT, GATEWAY, ROOT, start_gateway, start_upstream
from vllm_engine.client.bench.bench_plan import Plan
from vllm_engine.client.bench.bench_report import summarise
from vllm_engine.client.bench.bench_run import run_load
from vllm_engine.plan.engine_installation import inspect_installation
from vllm_engine.plan.engine_site import site_folder, write_metadata

PACE, STREAMS, REQUESTS, TOKENS = 20.0, 64, 256, 100
COLUMNS = (
    "median_ttft_ms",
    "p99_ttft_ms",
    "median_tpot_ms",
    "median_itl_ms",
    "p99_itl_ms",
    "output_throughput",
)

Figures = Mapping[str, float]


def by_vllm(url: str, cache: Path, folder: Path) -> Figures:
    """Let vLLM's own client measure."""
    python = ROOT / ".venv-engine/bin/python"
    write_metadata(site_folder(cache), inspect_installation(python).version)
    options = {
        "--backend": "openai-chat",
        "--base-url": url,
        "--endpoint": "/v1/chat/completions",
        "--model": MODEL,
        "--tokenizer": str(cache / "bundled/smollm2-135m-instruct"),
        "--dataset-name": "random",
        "--random-input-len": "64",
        "--random-output-len": str(TOKENS),
        "--num-prompts": str(REQUESTS),
        "--max-concurrency": str(STREAMS),
        "--result-dir": str(folder),
        "--result-filename": "vllm.json",
    }
    words = [str(python), "-P", "-m", "vllm.entrypoints.cli.main", "bench", "serve"]
    words += [word for pair in options.items() for word in pair]
    words += ["--temperature=0", "--ignore-eos", "--disable-tqdm", "--save-result"]
    environ = {"PYTHONPATH": str(site_folder(cache)), "VLLM_TARGET_DEVICE": "cpu", "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        words,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "VLLM_NO_USAGE_STATS": "1"} | environ,
        check=True,
        capture_output=True,
    )
    found: dict[str, float] = json.loads((folder / "vllm.json").read_text())
    return found


def by_us(url: str) -> Figures:
    """Measure the same load with our generator."""
    plan = Plan(url, MODEL, requests=REQUESTS, concurrency=STREAMS, max_tokens=TOKENS)
    found = summarise(run_load(plan))
    figures = {"output_throughput": found.output_throughput}
    for metric, quantiles in found.latencies_ms.items():
        figures[f"median_{metric}_ms"], figures[f"p99_{metric}_ms"] = quantiles.median, quantiles.p99
    return figures


def measure(rounds: int, source: Path, cache: Path, folder: Path) -> str:
    """Measure both paths with both clients; returns a table of medians."""
    upstream = start_upstream(PACE, folder)
    gateway = start_gateway(GATEWAY, source, PACE, folder / GATEWAY)
    results: dict[tuple[str, str], list[Figures]] = {}
    try:
        for number in range(rounds):
            paths = [(DIRECT, upstream.url), (GATEWAY, gateway.url)]
            for name, url in paths if number % 2 == 0 else paths[::-1]:
                machine.await_quiet(0.2, 60.0)
                results.setdefault((name, "`vllm bench serve`"), []).append(by_vllm(url, cache, folder))
                results.setdefault((name, "`vllm-engine bench`"), []).append(by_us(url))
    finally:
        gateway.stop()
        upstream.stop()
    lines = [tables.row("target", "client", *COLUMNS), tables.row("---", "---", *("---:" for _ in COLUMNS))]
    for (name, client), found in sorted(results.items()):
        cells = [statistics.median(each.get(column, math.nan) for each in found) for column in COLUMNS]
        lines.append(tables.row(name, client, *(f"{cell:,.1f}" for cell in cells)))
    return f"Measured {machine.describe()}. Medians of {rounds} rounds.\n\n" + "\n".join(lines)


def main() -> None:
    """Measure and write the document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--source", type=Path, default=ROOT / "src", help="of the gateway")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache")
    parser.add_argument("--document", type=Path, default=ROOT / "docs/measured/benchmarks.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = measure(options.rounds, options.source.absolute(), options.cache.absolute(), Path(folder))
    print(text)
    tables.write_into(options.document, text, "independent")


if __name__ == "__main__":
    main()
