"""Write what `vllm-engine plan` computes beside what real vLLMs counted when they started, and the GPUs it knows.

.venv/bin/python -m tools.plan_table [--check]

The logs are in tests/data/logs and perf/gpu/results, the tables in docs/measured/plan.md.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perf.gpu.failure_cases import weight_bytes
from tools.generate_docs import rewritten
from vllm_engine.sizing.gpus import GPUS, parse_hardware
from vllm_engine.sizing.replica import Load, Options, Replica, SizedModel, size_replica
from vllm_engine.sizing.report import Money, describe
from vllm_engine.system.sizes import GIB

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / "tests/data/logs"
PAGE = ROOT / "docs/measured/plan.md"


@dataclass(frozen=True)
class Start:
    """A start that left a log: which model, and what it was told where the log does not say.

    Attributes:
        changes: what the model's config.json had of its own.
        told: `max_model_len` and `gpu_memory_utilization`, where the log lacks its arguments.
    """

    log: str
    model: str
    changes: dict[str, Any] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        folder = ROOT if self.log.startswith("perf/") else LOGS
        return (folder / self.log).read_text(encoding="utf-8")


QWEN, SMOL = "qwen2.5-3b", "smollm2-135m"
OURS = {"max_model_len": 4096, "gpu_memory_utilization": 0.5}
ONE_LAYER, MANY_HEADS = (
    {"num_hidden_layers": 1},
    {"num_key_value_heads": 16, "max_position_embeddings": 262_144},
)
STARTS = (
    *(Start(f"cuda-h100-0.26-{how}.log", QWEN) for how in ("cold", "warm", "pyfork", "rustfork", "rust")),
    Start("perf/gpu/results/h100-2026-11-26.txt", QWEN, told=OURS),
    Start("failed/cuda-oom-warming-up-kv-bytes.log", QWEN),
    Start("failed/cuda-oom-kv-cache.log", QWEN, ONE_LAYER),
    Start("failed/kv-cache-too-small-kv-bytes.log", QWEN, MANY_HEADS),
    Start("cpu-0.32-compile-cold.log", SMOL),
    Start("cpu-0.32-compile-cache-load-failure.log", SMOL),
    Start("cpu-0.32-eager-python-frontend.log", SMOL),
    Start("cpu-0.32-eager-rust-frontend.log", SMOL),
    Start("failed/killed-core-serving.log", SMOL),
)


@dataclass(frozen=True)
class Figure:
    """One figure, as the log has it and as it is computed here; None where the log lacks it or was told it."""

    logged: float | None
    planned: float | None

    @property
    def off(self) -> float | None:
        """How far the computed one is off, as a share of the log's."""
        if self.logged is None or self.planned is None:
            return None
        return self.planned / self.logged - 1


@dataclass(frozen=True)
class Compared:
    """A start's figures: GiB of weights and KV cache, tokens in it, requests of full length at once."""

    start: Start
    weights: Figure
    kv_memory: Figure
    tokens: Figure
    concurrency: Figure
    longest: Figure

    @property
    def figures(self) -> dict[str, Figure]:
        return {
            "weights, GiB": self.weights,
            "KV cache, GiB": self.kv_memory,
            "tokens": self.tokens,
            "concurrency": self.concurrency,
            "longest request": self.longest,
        }


def compare(start: Start) -> Compared:
    text = start.text
    told = {
        key: float(found[1])
        for key in ("max_model_len", "gpu_memory_utilization", "kv_cache_memory_bytes")
        if (found := re.search(rf"'{key}': ([\d.]+)", text))
    } | start.told
    explicit = _number(r"Explicitly set \(([\d.]+)/", text)
    kv_bytes = told.get("kv_cache_memory_bytes") or (explicit and explicit * GIB)
    replica = planned(start, told, kv_bytes)
    length = int(told["max_model_len"])
    held = replica.concurrency(length)
    needs = "larger than the available" in text
    return Compared(
        start,
        Figure(
            _number(r"(?:Model loading took|Checkpoint size:) ([\d.]+) GiB", text),
            _gib(replica.room.weight_bytes),
        ),
        Figure(
            None if kv_bytes else _number(r"Available KV cache memory: ([\d.]+) GiB", text),
            _gib(replica.room.space_bytes),
        ),
        Figure(_number(r"KV cache size: ([\d,]+) tokens", text), int(held * length) if held else None),
        Figure(_number(r"tokens per request: ([\d.]+)x", text), held),
        Figure(_number(r"estimated maximum model length is (\d+)", text) if needs else None, replica.longest),
    )


def planned(start: Start, told: dict[str, Any], kv_bytes: float | None) -> Replica:
    """Compute the same start; a cache whose size was given is taken as given, whatever there was room for."""
    config = (
        json.loads((ROOT / f"tests/data/models/{start.model}.json").read_text(encoding="utf-8"))
        | start.changes
    )
    hardware = parse_hardware("cpu:16.46GiB" if start.model == SMOL else "10000GiB" if kv_bytes else "H100")
    options = Options(
        gpu_memory_utilization=told.get("gpu_memory_utilization", 0.9),
        kv_cache_memory_bytes=int(kv_bytes) if kv_bytes else None,
    )
    # The table of SmolLM2's tokens is its last one, too, as in Qwen2.5-3B; neither has biases worth counting.
    model = SizedModel(start.model, config, weight_bytes(config))
    return size_replica(model, hardware, Load(int(told["max_model_len"])), options)


def _number(pattern: str, text: str) -> float | None:
    found = re.search(pattern, text)
    return float(found[1].replace(",", "")) if found else None


def _gib(count: float | None) -> float | None:
    return None if count is None else count / GIB


def table() -> str:
    """Render every start as a row of Markdown: the log's figure, the computed one, and how far that is off."""
    compared = [compare(start) for start in STARTS]
    names = list(compared[0].figures)
    lines = [f"| log | {' | '.join(names)} |", f"| --- |{' ---: |' * len(names)}"]
    for each in compared:
        cells = [_cell(figure) for figure in each.figures.values()]
        lines.append(f"| `{Path(each.start.log).stem}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(figure: Figure) -> str:
    if figure.off is None:
        return "-"
    return f"{_shown(figure.logged)} / {_shown(figure.planned)} ({figure.off:+.1%})"


def _shown(value: float | None) -> str:
    return f"{value:,.0f}" if value is not None and value >= 1000 else f"{value:.2f}"


def gpu_table() -> str:
    """Render the GPUs that are known, with where their figures come from."""
    lines = ["| `--gpu` | memory, GiB | bandwidth, GB/s | sources |", "| --- | ---: | ---: | --- |"]
    for gpu in GPUS:
        sources = f"{_linked(gpu.memory_source)}, {_linked(gpu.bandwidth_source)}"
        lines.append(f"| `{gpu.name}` | {gpu.memory_gib:.2f} | {gpu.bandwidth_gb:,} | {sources} |")
    return "\n".join(lines)


def example() -> str:
    """Render what the command prints for the example of the page."""
    config = json.loads((ROOT / f"tests/data/models/{QWEN}.json").read_text(encoding="utf-8"))
    model = SizedModel("Qwen/Qwen2.5-3B-Instruct", config, weight_bytes(config))
    replica = size_replica(model, parse_hardware("L4"), Load(8192, 200, 1500, 300), Options())
    return f"```text\n{describe(replica, Money(price=0.80))}\n```"


def _linked(source: str) -> str:
    if source.startswith("https:"):
        return f"[{source.split('/')[2].removeprefix('www.')}]({source})"
    return "[our log](gpu.md)" if source.startswith("docs/") else source


def main(argv: list[str]) -> int:
    """Write or check the page; returns the exit status."""
    old = PAGE.read_text(encoding="utf-8")
    new = old
    for name, content in (("example", example()), ("logs", table()), ("gpus", gpu_table())):
        new = rewritten(new, name, content)
    if new == old:
        return 0
    if "--check" not in argv:
        PAGE.write_text(new, encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {'stale: run make docs' if '--check' in argv else 'written'}")
    return 1 if "--check" in argv else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
