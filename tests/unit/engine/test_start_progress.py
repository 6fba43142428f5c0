"""A start's state: its legal moves, the phases that vLLM's log shows, and how long they take."""

from __future__ import annotations

import itertools
import json
import logging
import re
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest

from vllm_engine.engine.engine_state import TRANSITIONS, EngineState, EngineStatus, Phase, StatusBoard
from vllm_engine.engine.output.engine_output import parse_line
from vllm_engine.engine.startup.log_progress import progress_in
from vllm_engine.engine.startup.start_history import (
    MAX_CONFIGURATIONS,
    Estimate,
    StartHistory,
    StartRecorder,
    estimate,
)
from vllm_engine.errors import Diagnosis
from vllm_engine.models.download_progress import Download

L, C, P = Phase.LOADING_WEIGHTS, Phase.COMPILING, Phase.PROFILING_MEMORY
G, W = Phase.CAPTURING_GRAPHS, Phase.WARMING_UP
S = EngineState
WAYS = {
    S.STARTING: (), S.READY: (S.READY,), S.UNHEALTHY: (S.READY, S.UNHEALTHY), S.BACKOFF: (S.BACKOFF,), S.IDLE: (S.READY, S.IDLE),
    S.DRAINING: (S.DRAINING,), S.STOPPED: (S.DRAINING, S.STOPPED), S.FAILED: (S.FAILED,),
}  # fmt: skip


def board_in(state: EngineState) -> StatusBoard:
    """Return a board that was led to `state` by legal moves."""
    board = StatusBoard()
    for step in WAYS[state]:
        board.move(step)
    return board


def test_transitions() -> None:
    """A legal move lands, an illegal one raises and changes nothing; only one state is ready."""
    for state, target in itertools.product(EngineState, repeat=2):
        board = board_in(state)
        if target in TRANSITIONS[state]:
            board.move(target)
            assert board.current.state is target
        else:
            with pytest.raises(ValueError, match="illegal"):
                board.move(target)
            assert board.current.state is state
    assert [state for state in EngineState if board_in(state).current.is_ready] == [S.READY]


def test_snapshots() -> None:
    """What a reader holds stays as it was; a watcher is told of each change in its order, until it ends that."""
    board = StatusBoard()
    before, seen = board.current, list[Phase]()
    end = board.watch(lambda status: seen.append(status.phase))
    for phase in (Phase.IMPORTING, Phase.LOADING_WEIGHTS):
        board.progress(phase)
    end()
    board.progress(Phase.READY)
    assert (before.phase, board.current.phase) == (Phase.PREPARING, Phase.READY)
    assert seen == [Phase.IMPORTING, Phase.LOADING_WEIGHTS]


def test_a_change_of_phase_or_state_forgets() -> None:
    """A fraction only grows within its phase; a diagnosis belongs to the state that it was given with."""
    board, told = StatusBoard(), Diagnosis("disk-full", "the disk is full")
    for phase, fraction, shown in ((L, 0.5, 0.5), (L, 0.25, 0.5), (C, None, None)):
        board.progress(phase, fraction)
        assert board.current.fraction == shown
    board.move(S.BACKOFF, error=told)
    assert board.current.error is told
    board.move(S.STARTING)
    assert board.current.error is None


LOGS = Path(__file__).parents[2] / "data/logs"

CPU, COMPILED, CUDA = [L, P, W], [L, C, P, W], [L, C, P, G, W]
HEALTHY = {
    "cpu-0.32-eager-python-frontend.log": CPU, "cpu-0.32-eager-rust-frontend.log": CPU,
    "cpu-0.32-compile-cold.log": COMPILED, "cpu-0.32-compile-cache-load-failure.log": COMPILED,
    "cuda-h100-0.26-cold.log": CUDA, "cuda-h100-0.26-warm.log": CUDA, "cuda-h100-0.26-rust.log": CUDA,
    "cuda-h100-0.26-pyfork.log": CUDA, "cuda-h100-0.26-rustfork.log": CUDA,
}  # fmt: skip


def steps(text: str) -> list[tuple[Phase, float | None]]:
    """Return all news of a log, as the supervisor gets its lines."""
    reached, seen = Phase.IMPORTING, []
    for line in re.split(r"[\r\n]", text):
        news = progress_in(reached, line)
        if news:
            reached = news[0]
            seen.append(news)
    return seen


def phases(text: str) -> list[Phase]:
    return [phase for phase, _ in groupby(phase for phase, _ in steps(text))]


def test_real_logs() -> None:
    """Each start on record shows its phases in order, none twice; one that fails none that it never reached."""
    for log, expected in HEALTHY.items():
        text = (LOGS / log).read_text()
        assert phases(text) == expected, log
        for phase in expected:
            fractions = [fraction for at, fraction in steps(text) if at is phase and fraction is not None]
            assert fractions == sorted(fractions), log
    assert {path.name for path in LOGS.glob("*.log") if "-fail-" not in path.name} == set(HEALTHY)
    assert phases((LOGS / "cpu-0.32-fail-kv-cache.log").read_text()) == [L, P]
    assert phases((LOGS / "cpu-0.32-fail-max-model-len.log").read_text()) == []


def test_news() -> None:
    """Piecewise graphs are the first half of the captures; a late line of an earlier phase is no news."""
    for reached, line, news in (
        (P, "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  50%|# | 3/6 [00:00<00:00]", (G, 0.25)),
        (G, "Capturing CUDA graphs (decode, FULL):  50%|# | 3/6 [00:00<00:00]", (G, 0.75)),
        (L, "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:01<00:01,  1.2s/it]", (L, 0.5)),
        (
            G,
            "(EngineCore pid=1) INFO 11-26 18:08:19 [model_runner.py:747] Graph capturing finished in 2 secs",
            (W, None),
        ),
        (W, "Starting to load model x", None),
    ):
        assert progress_in(reached, line) == news


RUST = (
    "\x1b[0;36m(RustFrontend pid=1)\x1b[0m \x1b[32mINFO\x1b[0m \x1b[90m11-23 09:36:48\x1b[0m "
    "\x1b[90m[hf/mod.rs:72]\x1b[0m loaded"
)
BANNER = "(APIServer pid=1) INFO 11-23 21:16:30 [api_utils.py:347] "
RUST_THROUGHPUT = (
    "Avg prompt tput: %.1f toks/s, Avg generation tput: %.1f toks/s, Reqs Running: %d, Waiting: %d, "
    "GPU KV cache used: 0.0%%, Prefix cache hit rate: 0.0%%"
)
PYTHON_THROUGHPUT = (
    "Engine 000: Avg prompt throughput: %.1f tokens/s, Avg generation throughput: %.1f tokens/s, "
    "Running: %d reqs, Waiting: %d reqs, GPU KV cache usage: 0.0%%, Prefix cache hit rate: 0.0%%"
)


def test_parse_line() -> None:
    """Lines of both frontends and of uvicorn are taken apart; anything else passes.

    The throughput of an idle engine, which counts the watchdog's token, is for debugging.
    """
    for raw, level, process, message in (
        ("(EngineCore pid=18133) INFO 11-23 09:35:26 [core.py:133] Initializing", "INFO", "EngineCore", "Initializing"),
        ("(Worker pid=1) WARNING 11-23 09:35:36 [v1/cpu_worker.py:114] lib", "WARNING", "Worker", "lib"),
        ("(APIServer pid=1) INFO 11-23 09:35:26 [api_utils.py:345]", "INFO", "APIServer", ""),
        (f"{BANNER}        █     █     █▄   ▄█", "INFO", "APIServer", ""),
        (f"{BANNER}  ▄▄ ▄█ █     █     █ ▀▄▀ █  version 0.32.0", "INFO", "APIServer", "version 0.32.0"),
        ("Loading:  50%|█████     | 1/2", None, None, "Loading:  50%|█████     | 1/2"),
        ("ERROR 11-23 09:35:36 [a.py:1] boom", "ERROR", None, "boom"),
        ("INFO:     Started server process [18014]", "INFO", None, "Started server process [18014]"),
        ('  File "x.py", line 3', None, None, '  File "x.py", line 3'),
        (RUST, "INFO", "RustFrontend", "loaded"),
        *(
            (f"({process} pid=1) INFO 11-27 01:36:05 [x.{kind}:1] {text}", level, process, text)
            for process, kind, line in (
                ("RustFrontend", "rs", RUST_THROUGHPUT), ("APIServer", "py", PYTHON_THROUGHPUT),
            )
            for level, figures in (
                ("DEBUG", (0.0, 0.0, 0, 0)), ("DEBUG", (0.1, 0.1, 0, 0)), ("INFO", (0.0, 0.3, 0, 0)),
                ("INFO", (0.3, 0.1, 0, 0)), ("INFO", (10.0, 10.1, 0, 0)), ("INFO", (0.0, 0.0, 1, 0)),
                ("INFO", (0.0, 0.0, 0, 1)),
            )
            for text in (line % figures,)
        ),
        ("", None, None, ""),
    ):  # fmt: skip
        line = parse_line(raw)
        assert (line.level, line.process, line.message) == (level, process, message)


EXPECTED = {Phase.IMPORTING: 10.0, Phase.DOWNLOADING: 100.0, L: 4.0, W: 6.0}


def left(phase: Phase, now: float, entered: float = 0.0, download: Download | None = None) -> Estimate:
    """Estimate a start that began at 0 and whose history is `EXPECTED`."""
    status = EngineStatus(phase=phase, expected=EXPECTED, started=0.0)
    forecast = estimate(replace(status, phase_entered=entered, download=download), now)
    assert forecast is not None
    return forecast


def test_estimate() -> None:
    """What is left: the rest of this phase and those to come; no download where there is none."""
    for phase, entered, now, seconds in (
        (Phase.PREPARING, 0.0, 1.0, 20.0), (Phase.IMPORTING, 1.0, 4.0, 17.0),
        (L, 11.0, 12.0, 9.0), (L, 11.0, 99.0, 6.0), (C, 15.0, 16.0, 6.0),
    ):  # fmt: skip
        forecast = left(phase, now, entered)
        assert forecast.remaining_seconds == pytest.approx(seconds)
        assert forecast.total_seconds == pytest.approx(now + seconds)
        assert forecast.fraction == pytest.approx(now / (now + seconds))
    # A download counts at its present rate, and as it once was before it has one.
    waiting = Download(0, 1, 0, 1000)
    coming = replace(waiting, bytes_done=500, bytes_per_second=10.0)
    assert left(Phase.DOWNLOADING, 0.0, download=waiting).remaining_seconds == 120.0
    assert left(Phase.DOWNLOADING, 5.0, download=coming).remaining_seconds == 70.0
    # A start that takes longer than ever is not done.
    assert left(Phase.WARMING_UP, 5000.0).fraction == 0.99
    # Nothing is claimed at a first start, nor once it is over.
    assert estimate(EngineStatus(), 0.0) is None
    assert estimate(EngineStatus(state=EngineState.READY, phase=Phase.READY, expected=EXPECTED), 50.0) is None


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
    starts = ('{"k":{"no phase":1}}', '{"k":3}')
    for content in ("", "[]", "\xff", *(f'{{"version":1,"starts":{each}}}' for each in starts)):
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
    for phase in (Phase.IMPORTING, L, W, Phase.READY):
        board.progress(phase)
        board.progress(phase, 0.5)
    assert history.expected("k") == {}
    board.move(EngineState.READY)
    over = ["preparing", "importing", "loading weights", "warming up"]
    now = [*(f"; now {phase}" for phase in over[1:]), ""]
    assert [record.getMessage() for record in caplog.records] == [
        f"{phase} took 0.0 s{more}" for phase, more in zip(over, now, strict=True)
    ]
    assert caplog.records[0].__dict__["phase"] == "preparing"
    assert list(history.expected("k")) == over


def test_starts_from_a_standby_are_estimated_by_their_like(tmp_path: Path) -> None:
    """They have imported vLLM already: what they take says nothing of a first start, and the other way round."""
    history, board = StartHistory(tmp_path / "starts.json"), StatusBoard()
    recorder = StartRecorder(board, history)
    for standby, seconds in ((None, 40.0), (500, 5.0)):
        board.standing_by(standby)
        recorder.begins("k")
        board._set(replace(board.current, phase=Phase.IMPORTING, phase_entered=100.0))
        board._set(replace(board.current, phase=Phase.READY, phase_entered=100.0 + seconds))
        board.move(EngineState.READY)
        board.rest()
        board.restart()
    for standby, expected in ((None, 40.0), (500, 5.0)):
        board.standing_by(standby)
        recorder.begins("k")
        assert board.current.expected[Phase.IMPORTING] == expected


def test_download_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A download says how far it is at once and then every ten seconds, not at each look."""
    caplog.set_level(logging.INFO)
    board = StatusBoard()
    StartRecorder(board, StartHistory(tmp_path / "starts.json"))
    for done in (0, 100, 200):
        board.downloading(Download(0, 1, done, 1000))
    [line] = [record for record in caplog.records if record.getMessage().startswith("downloading: ")]
    assert line.getMessage() == "downloading: 0 of 1 files, 0 B of 1 kB"
    assert (line.__dict__["bytes_done"], line.__dict__["bytes_total"]) == (0, 1000)
