"""Each orchestrator's own command line and probes, as they are made for vLLM's image."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.process.drop_in.orchestrators import (
    SYSTEMS,
    Orchestrator,
    ends_in_silence,
    outlives_a_restart_inside,
    serves,
    started,
    status,
)
from tests.support.fake.fake_engine import make_fake_engine_python
from tests.support.program import run_cli, until


@pytest.mark.parametrize("name", SYSTEMS)
def test_it_starts_answers_and_outlives_a_restart_inside(
    name: str, tmp_path: Path, model_folder: Path
) -> None:
    """Its liveness probe never fails, and a request that waits for the engine is answered."""
    system = SYSTEMS[name]
    engine = make_fake_engine_python(tmp_path / "engine")
    with started(system, tmp_path, model_folder, engine) as (program, served):
        command = serves(program, served, system)
        outlives_a_restart_inside(program, served, system)
        ends_in_silence(program, system, command)


def test_a_start_by_vllms_command(tmp_path: Path, model_folder: Path) -> None:
    """It has vLLM's defaults, and /health is 503 until it has been ready once."""
    system = Orchestrator("vllm serve {model} --port {port}")
    engine = make_fake_engine_python(tmp_path / "engine", {"startup_seconds": 600})
    with started(system, tmp_path, model_folder, engine) as (program, _):
        program.until_listening()
        assert status(program, "/health") == status(program, "/v1/models") == 503
        until(lambda: program.processes()[1:], "the engine's start")
        command = program.engine_command()
        given = {flag: command[command.index(flag) + 1] for flag in ("--dtype", "--max-model-len")}
        assert given == {"--dtype": "auto", "--max-model-len": "auto"}
        assert command[command.index("--gpu-memory-utilization") + 1] == "0.92"
        assert "--reasoning-parser" not in command


def test_a_worker_by_vllms_flags(tmp_path: Path, model_folder: Path) -> None:
    """`--headless` and a rank make it the worker that `vllm-engine worker` is: alive, and waiting for its head."""
    group = "-tp 2 --nnodes 2 --node-rank 1 --master-addr 127.0.0.1 --master-port 9 --headless"
    system = Orchestrator(f"vllm serve {{model}} --port {{port}} {group}")
    engine = make_fake_engine_python(tmp_path / "engine")
    with started(system, tmp_path, model_folder, engine) as (program, _):
        program.until_listening()
        assert (status(program, "/livez"), status(program, "/v1/models")) == (200, 404)
        until(lambda: "127.0.0.1:10" in (program.health() or {})["waits_for"], "what it waits for")


def test_everything_else_is_the_engines_own(environ: dict[str, str], tmp_path: Path) -> None:
    """Run by the engine's Python, with the words as they are; its version is told at once."""
    for words, said in (
        ("--version", "0.32.0\n"),
        ("bench x", "choice: 'bench'"),
        ("serve --help=all", "argument 'all'"),
    ):
        done = run_cli(environ, "vllm", *words.split(), cwd=tmp_path)
        assert said in done.stdout + done.stderr
