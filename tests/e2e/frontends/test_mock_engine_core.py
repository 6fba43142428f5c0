"""vLLM's own launch code and both of its frontends take the mock engine core for the real one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from perf.bench.tables import read_rows
from perf.frontends.frontend_loads import MAX_TOKENS
from perf.frontends.process_roles import ROLES
from tests.e2e.conftest import CACHE_DIR, ROOT

pytestmark = pytest.mark.e2e


def test_loads_go_through_both_frontends_to_a_mock_core(engine_python: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    words = [
        "--steps",
        "loads",
        "--servers",
        "ours-both",
        "--rounds",
        "1",
        "--seconds",
        "0",
        "--streams",
        "10",
    ]
    words += ["--engine-python", str(engine_python), "--cache", str(CACHE_DIR)]
    argv = [sys.executable, "-m", "perf.frontends", str(results), *words]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr + (results / "ours-both.log").read_text()
    legs = {row["mix"]: row for row in read_rows(results / "rows.jsonl") if row["what"] == "leg"}
    assert set(legs) == {"chat", "mixed"}
    for leg in legs.values():
        assert (leg["requests"], leg["tokens"], leg["errors"]) == (20, 20 * MAX_TOKENS, 0)
        assert set(leg["memory_mib"]) == set(ROLES)
    # Of those that both can answer the Python frontend gets none.
    assert legs["mixed"]["cpu_us"]["python"] > legs["chat"]["cpu_us"]["python"]
