"""Progress: real logs of vLLM, both frontends, CPU and CUDA, give their phases in order."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

import pytest

from vllm_engine.engine.engine_state import Phase
from vllm_engine.engine.startup.log_progress import later, parse_line
from vllm_engine.models.download_progress import Weights

LOGS = Path(__file__).parents[2] / "data/logs"

D, L, C, P, G, W = (
    Phase.DOWNLOADING,
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


def steps(text: str, weights: Weights = Weights.PRESENT) -> list[tuple[Phase, float | None]]:
    """Return all news of a log, as the supervisor gets its lines."""
    reached, seen = Phase.IMPORTING, []
    for line in re.split(r"[\r\n]", text):
        news = later(reached, line, weights)
        if news:
            reached = news[0]
            seen.append(news)
    return seen


def phases(text: str, weights: Weights = Weights.PRESENT) -> list[Phase]:
    """Return the phases a log goes through."""
    return [phase for phase, _ in groupby(phase for phase, _ in steps(text, weights))]


@pytest.mark.parametrize("log", HEALTHY)
def test_real_log(log: str) -> None:
    """Each real start shows its phases, in order, none twice, and nothing ever goes back."""
    text = (LOGS / log).read_text()
    assert phases(text) == HEALTHY[log]
    for phase in HEALTHY[log]:
        fractions = [fraction for at, fraction in steps(text) if at is phase and fraction is not None]
        assert fractions == sorted(fractions)


def test_every_healthy_log_is_tested() -> None:
    """No recorded start is left out."""
    recorded = {path.name for path in LOGS.glob("*.log") if "-fail-" not in path.name}
    assert recorded == set(HEALTHY)


@pytest.mark.parametrize(
    ("log", "expected"),
    [("cpu-0.32-fail-kv-cache.log", [L, P]), ("cpu-0.32-fail-max-model-len.log", [])],
)
def test_log_of_a_failure(log: str, expected: list[Phase]) -> None:
    """A start that fails shows no phase that it never reached."""
    assert phases((LOGS / log).read_text()) == expected


@pytest.mark.parametrize(
    ("weights", "expected"), [(Weights.MISSING, [D, L, P, W]), (Weights.UNKNOWN, [L, P, W])]
)
def test_loading_begins_with_the_download(weights: Weights, expected: list[Phase]) -> None:
    """vLLM says "Starting to load model" before it downloads; it loads once it reads shards."""
    text = (LOGS / "cpu-0.32-eager-python-frontend.log").read_text()
    assert phases(text, weights) == expected
    assert later(Phase.IMPORTING, "Starting to load model x", weights) == (
        (D, None) if weights is Weights.MISSING else None
    )


def test_end_of_the_download() -> None:
    """vLLM says after its download how long that took: from then on it loads."""
    line = "INFO [weight_utils.py:553] Time spent downloading weights for x: 12.3 seconds"
    assert later(D, line, Weights.MISSING) == (L, None)


def test_graphs_give_a_fraction() -> None:
    """Piecewise graphs are the first half of the captures, full ones the second."""
    piecewise = "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  50%|# | 3/6 [00:00<00:00]"
    full = "Capturing CUDA graphs (decode, FULL):  50%|# | 3/6 [00:00<00:00]"
    assert (later(P, piecewise), later(G, full)) == ((G, 0.25), (G, 0.75))


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
