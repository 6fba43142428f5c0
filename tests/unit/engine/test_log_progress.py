"""Progress: real logs of vLLM, both frontends, CPU and CUDA, give their phases in order."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

import pytest

from vllm_engine.engine.engine_output import parse_line
from vllm_engine.engine.engine_state import Phase
from vllm_engine.engine.startup.log_progress import later

LOGS = Path(__file__).parents[2] / "data/logs"

L, C, P, G, W = (
    Phase.LOADING_WEIGHTS,
    Phase.COMPILING,
    Phase.PROFILING_MEMORY,
    Phase.CAPTURING_GRAPHS,
    Phase.WARMING_UP,
)
HEALTHY = {
    "cpu-0.32-eager-python-frontend.log": [L, P, W],
    "cpu-0.32-eager-rust-frontend.log": [L, P, W],
    "cpu-0.32-compile-cold.log": [L, C, P, W],
    "cpu-0.32-compile-cache-load-failure.log": [L, C, P, W],
    "cuda-h100-0.26-cold.log": [L, C, P, G, W],
    "cuda-h100-0.26-warm.log": [L, C, P, G, W],
    "cuda-h100-0.26-rust.log": [L, C, P, G, W],
    "cuda-h100-0.26-pyfork.log": [L, C, P, G, W],
    "cuda-h100-0.26-rustfork.log": [L, C, P, G, W],
}


def steps(text: str) -> list[tuple[Phase, float | None]]:
    """Return all news of a log, as the supervisor gets its lines."""
    reached, seen = Phase.IMPORTING, []
    for line in re.split(r"[\r\n]", text):
        news = later(reached, line)
        if news:
            reached = news[0]
            seen.append(news)
    return seen


def phases(text: str) -> list[Phase]:
    """Return the phases a log goes through."""
    return [phase for phase, _ in groupby(phase for phase, _ in steps(text))]


@pytest.mark.parametrize("log", HEALTHY)
def test_real_log(log: str) -> None:
    """Each real start shows its phases, in order, none twice, and nothing ever goes back."""
    text = (LOGS / log).read_text()
    assert phases(text) == HEALTHY[log]
    for phase in HEALTHY[log]:
        fractions = [fraction for at, fraction in steps(text) if at is phase and fraction is not None]
        assert fractions == sorted(fractions)


def test_other_logs() -> None:
    """No recorded start is left out; one that fails shows no phase that it never reached."""
    assert {path.name for path in LOGS.glob("*.log") if "-fail-" not in path.name} == set(HEALTHY)
    assert phases((LOGS / "cpu-0.32-fail-kv-cache.log").read_text()) == [L, P]
    assert phases((LOGS / "cpu-0.32-fail-max-model-len.log").read_text()) == []


def test_news() -> None:
    """Piecewise graphs are the first half of the captures; a late line of an earlier phase is no news."""
    for reached, line, news in (
        (P, "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  50%|# | 3/6 [00:00<00:00]", (G, 0.25)),
        (G, "Capturing CUDA graphs (decode, FULL):  50%|# | 3/6 [00:00<00:00]", (G, 0.75)),
        (L, "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:01<00:01,  1.2s/it]", (L, 0.5)),
        (W, "Starting to load model x", None),
    ):
        assert later(reached, line) == news


RUST = (
    "\x1b[0;36m(RustFrontend pid=1)\x1b[0m \x1b[32mINFO\x1b[0m \x1b[90m11-23 09:36:48\x1b[0m "
    "\x1b[90m[hf/mod.rs:72]\x1b[0m loaded"
)


def test_parse_line() -> None:
    """Lines of both frontends and of uvicorn are taken apart; anything else passes as INFO."""
    for raw, level, process, message in (
        ("(EngineCore pid=18133) INFO 11-23 09:35:26 [core.py:133] Initializing", "INFO", "EngineCore", "Initializing"),
        ("(Worker pid=1) WARNING 11-23 09:35:36 [v1/cpu_worker.py:114] lib", "WARNING", "Worker", "lib"),
        ("ERROR 11-23 09:35:36 [a.py:1] boom", "ERROR", None, "boom"),
        ("INFO:     Started server process [18014]", "INFO", None, "Started server process [18014]"),
        ('  File "x.py", line 3', "INFO", None, '  File "x.py", line 3'),
        (RUST, "INFO", "RustFrontend", "loaded"),
        ("", "INFO", None, ""),
    ):  # fmt: skip
        line = parse_line(raw)
        assert (line.level, line.process, line.message) == (level, process, message)
