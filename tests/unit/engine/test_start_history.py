"""How long a start takes: what earlier ones tell, how that is kept, and what the log says."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from pathlib import Path

import pytest

from vllm_engine.engine.engine_state import EngineState, EngineStatus, Phase, StatusBoard
from vllm_engine.engine.startup.estimate import estimate
from vllm_engine.engine.startup.start_history import MAX_CONFIGURATIONS, StartHistory, StartRecorder
from vllm_engine.errors import Diagnosis
from vllm_engine.models.download_progress import Download, Weights

EXPECTED = {
    Phase.IMPORTING: 10.0,
    Phase.DOWNLOADING: 100.0,
    Phase.LOADING_WEIGHTS: 4.0,
    Phase.WARMING_UP: 6.0,
}


def status(phase: Phase, *, phase_entered: float = 0.0) -> EngineStatus:
    """Return a start that began at 0 and whose history is `EXPECTED`."""
    return EngineStatus(phase=phase, expected=EXPECTED, started=0.0, phase_entered=phase_entered)


@pytest.mark.parametrize(
    ("phase", "entered", "now", "left"),
    [
        (Phase.PREPARING, 0.0, 1.0, 20.0),
        (Phase.IMPORTING, 1.0, 4.0, 17.0),
        (Phase.LOADING_WEIGHTS, 11.0, 12.0, 9.0),
        (Phase.LOADING_WEIGHTS, 11.0, 99.0, 6.0),
        (Phase.COMPILING, 15.0, 16.0, 6.0),
    ],
)
def test_estimate(phase: Phase, entered: float, now: float, left: float) -> None:
    """What is left: the rest of this phase and those to come; no download where there is none."""
    forecast = estimate(status(phase, phase_entered=entered), now)
    assert forecast is not None
    assert forecast.remaining_seconds == pytest.approx(left)
    assert forecast.total_seconds == pytest.approx(now + left)
    assert forecast.fraction == pytest.approx(now / (now + left))


def test_estimate_with_a_download() -> None:
    """A download counts at its present rate, and as it once was before it has one."""
    waiting = Download(Weights.MISSING, False, 0, 0, 1, 1000)
    before = replace(status(Phase.IMPORTING), download=waiting)
    during = replace(
        status(Phase.DOWNLOADING),
        download=replace(waiting, bytes_done=500, bytes_per_second=10.0),
    )
    assert [forecast and forecast.remaining_seconds for forecast in (estimate(before, 0.0), estimate(during, 5.0))] == [
        120.0,
        60.0,
    ]  # fmt: skip


def test_no_estimate() -> None:
    """Nothing is claimed at a first start, nor once it is over."""
    assert estimate(EngineStatus(), time.monotonic()) is None
    assert estimate(replace(status(Phase.READY), state=EngineState.READY), 50.0) is None


def test_fraction_is_never_whole_before_ready() -> None:
    """A start that takes longer than ever is not done."""
    late = estimate(status(Phase.WARMING_UP), 5000.0)
    assert late is not None
    assert late.fraction == 0.99


def test_history(tmp_path: Path) -> None:
    """A start is found again by its configuration; the newest counts, an older download stays known."""
    history = StartHistory(tmp_path / "starts.json")
    history.record("one", {Phase.IMPORTING: 9.0, Phase.DOWNLOADING: 60.0})
    history.record("two", {Phase.IMPORTING: 1.0})
    history.record("one", {Phase.IMPORTING: 8.0})
    again = StartHistory(tmp_path / "starts.json")
    assert again.expected("one") == {Phase.IMPORTING: 8.0, Phase.DOWNLOADING: 60.0}
    assert again.expected("other") == {}
    assert [path.name for path in tmp_path.iterdir()] == ["starts.json"]


def test_history_is_bounded(tmp_path: Path) -> None:
    """Old configurations are forgotten."""
    history = StartHistory(tmp_path / "starts.json")
    for number in range(MAX_CONFIGURATIONS + 3):
        history.record(str(number), {Phase.IMPORTING: 1.0})
    assert len(json.loads((tmp_path / "starts.json").read_text())["starts"]) == MAX_CONFIGURATIONS
    assert history.expected("2") == {}
    assert history.expected("3") == {Phase.IMPORTING: 1.0}


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", '{"version":1,"starts":{"k":{"no phase":1}}}', '{"version":1,"starts":{"k":3}}', "\xff"]
)  # fmt: skip
def test_unreadable_history(tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged file costs the estimate and one line of the log, and is replaced at the next start."""
    path = tmp_path / "starts.json"
    path.write_text(content, encoding="latin-1")
    assert StartHistory(path).expected("k") == {}
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    StartHistory(path).record("k", {Phase.IMPORTING: 1.0})
    assert StartHistory(path).expected("k") == {Phase.IMPORTING: 1.0}


def test_history_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A cache that is full or read-only does not disturb a start."""
    StartHistory(tmp_path / "none/starts.json").record("k", {Phase.IMPORTING: 1.0})
    assert "cannot be written" in caplog.text


def test_start_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each phase gets its line when it ends, however short it was, and the start is remembered."""
    caplog.set_level(logging.INFO)
    history = StartHistory(tmp_path / "starts.json")
    board = StatusBoard()
    StartRecorder(board, history).begins("k")
    for phase in (
        Phase.IMPORTING,
        Phase.LOADING_WEIGHTS,
        Phase.LOADING_WEIGHTS,
        Phase.WARMING_UP,
        Phase.READY,
    ):
        board.progress(phase, 0.5 if phase is Phase.LOADING_WEIGHTS else None)
    board.move(EngineState.READY)
    assert [record.getMessage() for record in caplog.records] == [
        "preparing took 0.0 s; now importing",
        "importing took 0.0 s; now loading weights",
        "loading weights took 0.0 s; now warming up",
        "warming up took 0.0 s",
    ]
    assert caplog.records[0].__dict__["phase"] == "preparing"
    assert set(history.expected("k")) == {
        Phase.PREPARING,
        Phase.IMPORTING,
        Phase.LOADING_WEIGHTS,
        Phase.WARMING_UP,
    }


def test_failed_start_is_not_remembered(tmp_path: Path) -> None:
    """Only a start that became ready tells how long one takes."""
    board = StatusBoard()
    StartRecorder(board, StartHistory(tmp_path / "starts.json")).begins("k")
    board.progress(Phase.IMPORTING)
    board.move(EngineState.FAILED, error=Diagnosis("unknown", "it fell over"))
    assert not (tmp_path / "starts.json").exists()


def test_download_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A download says how far it is at once and then every ten seconds, not at each look."""
    caplog.set_level(logging.INFO)
    board = StatusBoard()
    StartRecorder(board, StartHistory(tmp_path / "starts.json"))
    for done in (0, 100, 200):
        board.downloading(Download(Weights.MISSING, True, 0, done, 1, 1000))
    lines = [record for record in caplog.records if record.getMessage().startswith("downloading: ")]
    assert [line.getMessage() for line in lines] == ["downloading: 0 of 1 files, 0 B of 1 kB"]
    assert (lines[0].__dict__["bytes_done"], lines[0].__dict__["bytes_total"]) == (0, 1000)


def test_fraction_never_goes_back() -> None:
    """Within a phase the bar only moves on; a new phase begins without one."""
    board = StatusBoard()
    for fraction in (0.5, 0.25):
        board.progress(Phase.LOADING_WEIGHTS, fraction)
    assert board.current.fraction == 0.5
    board.progress(Phase.COMPILING)
    assert board.current.fraction is None
