"""The chaos suite with the fake engine: every harm, in seconds. With the real one: `make chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest

from perf.chaos.case import Case, play, play_sigterm
from perf.chaos.harm import Rig, kill_core, kill_leader, kill_rust, stop_core, stop_leader, stop_rust
from tests.process.conftest import StartProgram
from tests.support.fake.fake_engine import make_fake_engine_python
from tests.support.program import DEADLINE

NOTICE_SECONDS = 10.0
"""Ten times what is promised: the machine that tests may be busy. `make chaos` measures."""
CASES = [
    Case("EngineCore killed", kill_core, streams=32, begun=32, notice=NOTICE_SECONDS),
    Case("killed during prefill", kill_core, words=500, begun=0, notice=NOTICE_SECONDS),
    Case("kills in a row", kill_leader, times=4, tokens=400, notice=NOTICE_SECONDS),
    Case("clients leave", None, streams=48, wholes=16, leave=0.4, begun=0),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_chaos(start: StartProgram, tmp_path: Path, case: Case) -> None:
    """Every request ends as documented, none that had not begun fails, nothing is left behind."""
    program = start({"tokens_per_second": 20}, MAX_RESTARTS="100", RESTART_WINDOW_SECONDS="1")
    program.until_ready()
    result = play(case, Rig(program, "fake", tmp_path, tmp_path / "cache"), DEADLINE)
    assert not result.faults, result


def test_core_stopped(start: StartProgram, tmp_path: Path) -> None:
    """A core that stands still is found out; with nothing begun, nothing is lost."""
    program = start({"tokens_per_second": 20}, HANG_TIMEOUT_SECONDS="2", CANARY_INTERVAL_SECONDS="0.5")
    program.until_ready()
    rig = Rig(program, "fake", tmp_path, tmp_path / "cache")
    result = play(Case("EngineCore stopped", stop_core, notice=None, may_live=True), rig, DEADLINE)
    assert not result.faults, result


@pytest.mark.parametrize("rust_version", [None, "0.32.0"], ids=["python", "both"])
def test_sigterm(start: StartProgram, tmp_path: Path, rust_version: str | None) -> None:
    """64 streams over a SIGTERM: none is cut short, exit 0."""
    scenario = {"tokens": 160, "tokens_per_second": 20}
    python = make_fake_engine_python(tmp_path / "fake", scenario, rust_version=rust_version)
    program = start(ENGINE_PYTHON=str(python))
    rig = Rig(program, "fake", tmp_path, tmp_path / "cache", has_both=rust_version is not None)
    result = play_sigterm(rig, 64, 160, 64, DEADLINE)
    assert not result.faults, result


@pytest.mark.parametrize(
    "case",
    [
        Case("Rust frontend killed", kill_rust, streams=32, begun=32, notice=NOTICE_SECONDS),
        Case("Rust frontend killed before a token", kill_rust, words=500, begun=0, notice=NOTICE_SECONDS),
        Case("Python frontend killed", kill_leader, notice=NOTICE_SECONDS),
        Case("EngineCore killed", kill_core, notice=NOTICE_SECONDS),
        Case("Rust frontend stopped", stop_rust, notice=None),
        Case("Python frontend stopped", stop_leader, notice=None),
        Case("kills in a row", kill_rust, times=4, tokens=400, notice=NOTICE_SECONDS),
    ],
    ids=lambda case: case.name,
)
def test_both_frontends(start: StartProgram, tmp_path: Path, case: Case) -> None:
    """The same promises with both, each of which has every second request."""
    python = make_fake_engine_python(tmp_path / "both", {"tokens_per_second": 20}, rust_version="0.32.0")
    variables = {"MAX_RESTARTS": "100", "RESTART_WINDOW_SECONDS": "1", "HANG_TIMEOUT_SECONDS": "5"}
    program = start(ENGINE_PYTHON=str(python), **variables)
    rig = Rig(program, "fake", tmp_path, tmp_path / "cache", has_both=True)
    result = play(case, rig, DEADLINE)
    assert not result.faults, result
