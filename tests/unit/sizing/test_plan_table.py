"""What is computed for a start is within 5 % of what real vLLMs counted when they started."""

from __future__ import annotations

import json

import pytest

from perf.bench.tables import read_rows
from perf.gpu.failure_cases import weight_bytes
from tools.plan_table import PAGE, QWEN, ROOT, STARTS, Start, compare, main
from vllm_engine.system.sizes import GIB


@pytest.mark.parametrize("start", STARTS, ids=lambda start: start.log)
def test_every_figure_of_a_real_log_is_met(start: Start) -> None:
    figures = {name: figure for name, figure in compare(start).figures.items() if figure.logged is not None}
    assert {"weights, GiB"} < figures.keys()
    assert {name: figure for name, figure in figures.items() if abs(figure.off or 0) > 0.05} == {}


def test_the_page_is_current() -> None:
    assert main(["--check"]) == 0


def test_what_a_whole_process_takes() -> None:
    rows = read_rows(ROOT / "perf/gpu/results/h100-2026-11-26.jsonl")
    (held,) = next(row for row in rows if row["what"] == "warm start")["memory"]["processes"].values()
    config = json.loads((ROOT / f"tests/data/models/{QWEN}.json").read_text())
    more = held / 1024 - (weight_bytes(config) + 1_900_000_000) / GIB
    assert f"held {held / 1024:.1f} GiB" in PAGE.read_text()
    assert f"{more:.1f} GiB more than weights and cache" in PAGE.read_text()
