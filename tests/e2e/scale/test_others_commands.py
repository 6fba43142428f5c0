"""Two command lines of others' manifests, as they are, with the real vLLM (docs/deploy/drop-in.md)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import CACHE_DIR, MODEL, START_SECONDS
from tests.process.drop_in.orchestrators import (
    SYSTEMS,
    ends_in_silence,
    outlives_a_restart_inside,
    serves,
    started,
)
from tests.support.program import run_cli
from vllm_engine.models.bundled import bundled_path


@pytest.mark.parametrize("name", ["production-stack", "KServe LLMInferenceService"])
def test_the_real_vllm_behind_others_command_lines(name: str, engine_python: Path, tmp_path: Path) -> None:
    """It starts with all the flags and answers, one outlives a restart inside too, and no key gets to vLLM."""
    system = SYSTEMS[name]
    environ = {"ENGINE_PYTHON": str(engine_python), "CACHE_DIR": str(CACHE_DIR)}
    assert run_cli(environ, "download", MODEL, cwd=tmp_path).returncode == 0
    model = bundled_path(MODEL, CACHE_DIR)
    with started(system, tmp_path, model, engine_python, CACHE_DIR=str(CACHE_DIR)) as (program, served):
        command = serves(program, served, system, START_SECONDS)
        if system.has_key:
            outlives_a_restart_inside(program, served, system, START_SECONDS)
        assert command[command.index("serve") + 1] == str(model)
        ends_in_silence(program, system, command)
