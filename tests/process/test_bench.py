"""The load generator against our program and the fake engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.process.conftest import StartProgram
from vllm_engine.client.bench.bench_plan import Plan
from vllm_engine.client.bench.bench_rows import read_rows
from vllm_engine.client.bench.bench_run import run_bench
from vllm_engine.errors import SettingsError, VllmEngineError

TOKENS = 8


@pytest.mark.parametrize(
    "load",
    [{"concurrency": 4}, {"rate": 100.0}, {"concurrency": 4, "processes": 2}],
    ids=["closed", "open", "two"],
)
def test_load(start: StartProgram, tmp_path: Path, load: dict[str, float]) -> None:
    """Every request is sent once and its tokens are counted, whichever way it is sent."""
    program = start({"tokens": 50, "tokens_per_second": 200})
    program.until_ready()
    plan = Plan(f"{program.url}/v1/", "", requests=20, max_tokens=TOKENS, **load)  # type: ignore[arg-type]
    summary, text = run_bench(plan, tmp_path / "rows.jsonl", [program.pid])
    rows = list(read_rows(tmp_path / "rows.jsonl"))
    assert [row.number for row in sorted(rows, key=lambda row: row.number)] == list(range(20))
    assert (summary.completed, summary.errors) == (20, {})
    assert {row.tokens for row in rows} == {TOKENS}
    # 200 tokens a second are 5 ms apart.
    assert 3 < summary.latencies_ms["tpot"].median < 50
    assert "us per token event" in text


def test_errors_are_rows(start: StartProgram) -> None:
    """What goes wrong is counted by its words: a refusal, a broken stream, a server that is not there."""
    program = start({"cut_after_n_chunks": 3})
    program.until_ready()
    broken, _ = run_bench(Plan(program.url, "fake", requests=2))
    refused, _ = run_bench(Plan(program.url, "other", requests=2))
    gone, _ = run_bench(Plan("http://127.0.0.1:1", "fake", requests=2))
    assert [each.failed for each in (broken, refused, gone)] == [2, 2, 2]
    assert all("upstream_error" in error for error in broken.errors)
    assert all(error.startswith("status 404") for error in refused.errors)
    assert all(error.startswith("cannot connect") for error in gone.errors)
    with pytest.raises(SettingsError, match="BASE_URL"):
        run_bench(Plan("localhost:8000", "fake", requests=1))
    with pytest.raises(VllmEngineError, match="no server answers at"):
        run_bench(Plan("http://127.0.0.1:1", "", requests=1))


def test_timeout(start: StartProgram) -> None:
    """A request that takes too long is an error, and the engine is told to stop."""
    program = start({"tokens": 100, "tokens_per_second": 1})
    program.until_ready()
    summary, _ = run_bench(Plan(program.url, "fake", requests=1, timeout_seconds=0.5))
    assert summary.errors == {"timeout": 1}
