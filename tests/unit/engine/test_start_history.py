"""How long a start takes: what earlier ones tell, how that is kept, and what the log says."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from vllm_engine.engine.engine_state import EngineState, EngineStatus, Phase, StatusBoard
from vllm_engine.engine.startup.estimate import Estimate, estimate
from vllm_engine.engine.startup.start_history import MAX_CONFIGURATIONS, StartHistory, StartRecorder
from vllm_engine.models.download_progress import Download

EXPECTED = {
    Phase.IMPORTING: 10.0,
    Phase.DOWNLOADING: 100.0,
    Phase.LOADING_WEIGHTS: 4.0,
    Phase.WARMING_UP: 6.0,
}


def left(phase: Phase, now: float, *, entered: float = 0.0, download: Download | None = None) -> Estimate:
    """Estimate a start that began at 0 and whose history is `EXPECTED`."""
    status = EngineStatus(
        phase=phase, expected=EXPECTED, started=0.0, phase_entered=entered, download=download
    )
    forecast = estimate(status, now)
    assert forecast is not None
    return forecast


def test_estimate() -> None:
    """What is left: the rest of this phase and those to come; no download where there is none."""
    for phase, entered, now, seconds in (
        (Phase.PREPARING, 0.0, 1.0, 20.0),
        (Phase.IMPORTING, 1.0, 4.0, 17.0),
        (Phase.LOADING_WEIGHTS, 11.0, 12.0, 9.0),
        (Phase.LOADING_WEIGHTS, 11.0, 99.0, 6.0),
        (Phase.COMPILING, 15.0, 16.0, 6.0),
    ):
        forecast = left(phase, now, entered=entered)
        assert forecast.remaining_seconds == pytest.approx(seconds)
        assert forecast.total_seconds == pytest.approx(now + seconds)
        assert forecast.fraction == pytest.approx(now / (now + seconds))
    # A start that takes longer than ever is not done.
    assert left(Phase.WARMING_UP, 5000.0).fraction == 0.99
    # Nothing is claimed at a first start, nor once it is over.
    assert estimate(EngineStatus(), 0.0) is None
    assert estimate(EngineStatus(state=EngineState.READY, phase=Phase.READY, expected=EXPECTED), 50.0) is None


def test_estimate_with_a_download() -> None:
    """A download counts at its present rate, and as it once was before it has one."""
    waiting = Download(0, 1, 0, 1000)
    coming = replace(waiting, bytes_done=500, bytes_per_second=10.0)
    assert left(Phase.DOWNLOADING, 0.0, download=waiting).remaining_seconds == 120.0
    assert left(Phase.DOWNLOADING, 5.0, download=coming).remaining_seconds == 70.0


def test_history(tmp_path: Path) -> None:
    """The newest start of a configuration counts, an older download stays known, old configurations go."""
    path = tmp_path / "starts.json"
    history = StartHistory(path)
    history.record("one", {Phase.IMPORTING: 9.0, Phase.DOWNLOADING: 60.0})
    history.record("two", {Phase.IMPORTING: 1.0})
    history.record("one", {Phase.IMPORTING: 8.0})
    assert StartHistory(path).expected("one") == {Phase.IMPORTING: 8.0, Phase.DOWNLOADING: 60.0}
    assert StartHistory(path).expected("other") == {}
    assert list(tmp_path.iterdir()) == [path]
    for number in range(MAX_CONFIGURATIONS):
        history.record(str(number), {Phase.IMPORTING: 1.0})
    assert len(json.loads(path.read_text())["starts"]) == MAX_CONFIGURATIONS
    assert history.expected("one") == {}


def test_unusable_history(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged file costs the estimate and one line of the log, and is replaced at the next start."""
    path = tmp_path / "starts.json"
    damaged = (
        "",
        "{",
        "[]",
        "3",
        '{"version":1,"starts":{"k":{"no phase":1}}}',
        '{"version":1,"starts":{"k":3}}',
        "\xff",
    )
    for content in damaged:
        path.write_text(content, encoding="latin-1")
        caplog.clear()
        assert StartHistory(path).expected("k") == {}
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        StartHistory(path).record("k", {Phase.IMPORTING: 1.0})
        assert StartHistory(path).expected("k") == {Phase.IMPORTING: 1.0}
    path.write_text('{"version":0}')
    assert StartHistory(path).expected("k") == {}
    # A cache that is full or read-only does not disturb a start.
    StartHistory(tmp_path / "none/starts.json").record("k", {Phase.IMPORTING: 1.0})
    assert "cannot be written" in caplog.text


def test_start_recorder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each phase gets its line when it ends, however short it was; only a start that became ready is recorded."""
    caplog.set_level(logging.INFO)
    history, board = StartHistory(tmp_path / "starts.json"), StatusBoard()
    StartRecorder(board, history).begins("k")
    for phase in (Phase.IMPORTING, Phase.LOADING_WEIGHTS, Phase.WARMING_UP, Phase.READY):
        board.progress(phase)
        board.progress(phase, 0.5)
    assert history.expected("k") == {}
    board.move(EngineState.READY)
    assert [record.getMessage() for record in caplog.records] == [
        "preparing took 0.0 s; now importing",
        "importing took 0.0 s; now loading weights",
        "loading weights took 0.0 s; now warming up",
        "warming up took 0.0 s",
    ]
    assert caplog.records[0].__dict__["phase"] == "preparing"
    assert list(history.expected("k")) == ["preparing", "importing", "loading weights", "warming up"]


def test_download_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A download says how far it is at once and then every ten seconds, not at each look."""
    caplog.set_level(logging.INFO)
    board = StatusBoard()
    StartRecorder(board, StartHistory(tmp_path / "starts.json"))
    for done in (0, 100, 200):
        board.downloading(Download(0, 1, done, 1000))
    lines = [record for record in caplog.records if record.getMessage().startswith("downloading: ")]
    assert [line.getMessage() for line in lines] == ["downloading: 0 of 1 files, 0 B of 1 kB"]
    assert (lines[0].__dict__["bytes_done"], lines[0].__dict__["bytes_total"]) == (0, 1000)
