"""What perf/start_times.py reads from logs, forgets of earlier starts, and writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perf.bench.tables import read_rows, rows_in
from perf.start_times import DOCUMENT, KEPT, PHASES, PLAIN, TOKEN, Rig, markdown, phases

LOG = [
    (1.5, "INFO gateway.supervisor: preparing took 1.5 s; now importing"),
    (8.0, "INFO engine: APIServer: version 0.32.0"),
    (8.25, "INFO engine: APIServer: Using max model len 8192"),
    (8.0, "INFO engine: EngineCore: Initializing a V1 LLM engine (v0.32.0) with config: model='x'"),
    (10.0, "INFO engine: Worker: Starting to load model x..."),
    (10.5, "INFO engine: Worker: Loading weights took 0.40 seconds"),
    (12.0, "INFO engine: EngineCore: init engine (profile, create kv cache, warmup model) took 0.95 s"),
    (13.0, "INFO engine: Application startup complete."),
]


def a_row(what: str, frontend: str, number: int, seconds: float, **more: Any) -> dict[str, Any]:
    found = {TOKEN: seconds / 10}
    row = {"round": number, "what": what, "frontend": frontend, "seconds": seconds, "phases": found}
    return {**row, "cores_of_others": 0.01, **more}


def test_every_phase_ends_with_a_line_of_the_log_and_together_they_are_the_start() -> None:
    """One that was done before its turn took none of the start's time."""
    found = phases(LOG, 13.25)
    assert list(found) == [*(title for title, _ in PHASES), TOKEN]
    assert list(found.values()) == [1.5, 6.5, 0.25, 0.0, 1.75, 0.5, 1.5, 1.0, 0.25]
    assert sum(found.values()) == 13.25
    assert phases(LOG[1:], 13.25)["API server: imports"] == 8.0, "plain vLLM has no phase of ours"


def test_a_ratio_compares_starts_of_the_same_round() -> None:
    rows = [
        {"what": "machine", "machine": "2026-11-27, two cores"},
        *(a_row("start", PLAIN, number, took, cpu_seconds=20.0) for number, took in enumerate((20.0, 40.0))),
        *(a_row("second start", "both", number, took) for number, took in enumerate((10.0, 30.0, 50.0))),
        *(a_row("first start", "both", number, took) for number, took in enumerate((10.0, 20.0))),
    ]
    lines = markdown(rows).splitlines()
    assert lines[0] == "2026-11-27, two cores"
    assert lines[4:7] == [
        "| start | vllm serve | 2 | 30.0 (20.0 to 40.0) | 1.00 | 20.0 | 0.01 |",
        "| first start | both | 2 | 15.0 (10.0 to 20.0) | 0.50 | - | 0.01 |",
        "| second start | both | 3 | 30.0 (10.0 to 50.0) | 0.62 | - | 0.01 |",
    ]
    assert lines[-1] == f"| {TOKEN} | 3.0 | 1.5 | 3.0 |"


@pytest.mark.parametrize("everything", [False, True])
def test_a_first_start_finds_nothing_that_our_program_keeps(tmp_path: Path, everything: bool) -> None:
    rig = Rig(tmp_path)
    for name in ("bundled", "vllm", "inductor", "engine-site", "of-ours"):
        (rig.cache / name).mkdir(parents=True)
    (rig.cache / "starts.json").touch()
    rig.forget(everything=everything)
    kept = sorted(path.name for path in rig.cache.iterdir())
    assert kept == ([] if everything else ["bundled", "engine-site", "inductor", "vllm"])


def test_the_document_has_the_tables_of_the_rows_that_are_kept() -> None:
    assert f"<!-- starts:begin -->\n{markdown(read_rows(KEPT))}\n<!-- starts:end -->" in DOCUMENT.read_text()
    assert rows_in(DOCUMENT, "starts")
