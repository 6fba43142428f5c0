"""Progress: real logs of vLLM, both frontends, CPU and CUDA, give their phases in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_engine.engine.progress import later, parse_line
from vllm_engine.engine.state import Phase

LOGS = Path(__file__).parents[1] / "data/logs"

L, C, P, G, W = (
    Phase.LOADING_WEIGHTS,
    Phase.COMPILING,
    Phase.PROFILING_MEMORY,
    Phase.CAPTURING_GRAPHS,
    Phase.WARMING_UP,
)


def phases(text: str) -> list[Phase]:
    """Return the phases a log goes through."""
    reached, seen = Phase.IMPORTING, []
    for line in text.splitlines():
        news = later(reached, line)
        if news and news[0] != reached:
            reached = news[0]
            seen.append(reached)
    return seen


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("cpu-0.32-eager-python-frontend.log", [L, P, W]),
        ("cpu-0.32-eager-rust-frontend.log", [L, P, W]),
        ("cpu-0.32-compile-cold.log", [L, C, P, W]),
        ("cuda-h100-0.26-cold.log", [L, C, P, G, W]),
        ("cuda-h100-0.26-warm.log", [L, C, P, G, W]),
        ("cuda-h100-0.26-rust.log", [L, C, P, G, W]),
        ("cuda-h100-0.26-pyfork.log", [L, C, P, G, W]),
        ("cuda-h100-0.26-rustfork.log", [L, C, P, G, W]),
    ],
)
def test_real_log(log: str, expected: list[Phase]) -> None:
    """Each real start shows its phases, in order, none twice."""
    assert phases((LOGS / log).read_text()) == expected


def test_shards_give_a_fraction() -> None:
    """The share of loaded shards is known within the phase."""
    line = "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:01<00:01,  1.2s/it]"
    assert later(Phase.LOADING_WEIGHTS, line) == (Phase.LOADING_WEIGHTS, 0.5)


def test_never_backwards() -> None:
    """A late line of an earlier phase is no news."""
    assert later(Phase.WARMING_UP, "Starting to load model x") is None


@pytest.mark.parametrize(
    ("raw", "level", "process", "message"),
    [
        (
            "(EngineCore pid=18133) INFO 11-23 09:35:26 [core.py:133] Initializing",
            "INFO",
            "EngineCore",
            "Initializing",
        ),
        ("(Worker pid=1) WARNING 11-23 09:35:36 [v1/cpu_worker.py:114] lib", "WARNING", "Worker", "lib"),
        ("ERROR 11-23 09:35:36 [a.py:1] boom", "ERROR", None, "boom"),
        ("INFO:     Started server process [18014]", "INFO", None, "Started server process [18014]"),
        ('  File "x.py", line 3', "INFO", None, '  File "x.py", line 3'),
        (
            "\x1b[0;36m(RustFrontend pid=1)\x1b[0m \x1b[32mINFO\x1b[0m \x1b[90m11-23 09:36:48\x1b[0m "
            "\x1b[90m[hf/mod.rs:72]\x1b[0m loaded",
            "INFO",
            "RustFrontend",
            "loaded",
        ),
        ("", "INFO", None, ""),
    ],
)
def test_parse_line(raw: str, level: str, process: str | None, message: str) -> None:
    """Lines of both frontends and of uvicorn are taken apart; anything else passes as INFO."""
    line = parse_line(raw)
    assert (line.level, line.process, line.message) == (level, process, message)
