"""How long each phase of a start took: logged as it ends, and kept for the estimate of the next start."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_engine.engine.engine_state import EngineState, EngineStatus, Phase, StatusBoard
from vllm_engine.engine.startup.kept_entries import KeptEntries
from vllm_engine.models.download_progress import Download

MAX_CONFIGURATIONS = 64
"""The oldest are forgotten beyond this number."""

DOWNLOAD_LINE_SECONDS = 10.0
_MOST_BEFORE_READY = 0.99

logger = logging.getLogger("gateway.supervisor")


class StartHistory:
    """The seconds of each phase of each configuration; without them only the estimate is missing."""

    def __init__(self, path: Path) -> None:
        self._kept = KeptEntries(
            path,
            "starts",
            _phases,
            MAX_CONFIGURATIONS,
            unread="no estimate",
            unwritten="the next start has no estimate",
        )

    def expected(self, key: str) -> dict[Phase, float]:
        """Return the seconds of each phase at the newest start of this configuration; empty without one."""
        return self._kept.read().get(key, {})

    def record(self, key: str, seconds: Mapping[Phase, float]) -> None:
        """Store how long each phase of a start took; an earlier download's time is kept if there was none."""
        starts = self._kept.read()
        downloads = {phase: took for phase, took in starts.pop(key, {}).items() if phase is Phase.DOWNLOADING}
        starts[key] = downloads | dict(seconds)
        self._kept.write(
            {key: {phase.value: round(took, 2) for phase, took in it.items()} for key, it in starts.items()}
        )


def _phases(entry: Any) -> dict[Phase, float]:
    return {Phase(phase): float(took) for phase, took in entry.items()}


class StartRecorder:
    """Watches the status: logs a line for each phase that ends, and records the start once it is ready."""

    def __init__(self, board: StatusBoard, history: StartHistory) -> None:
        self._board = board
        self._history = history
        self._key: str | None = None
        self._last = board.current
        self._seconds: dict[Phase, float] = {}
        self._download_logged = 0.0
        board.watch(self._changed)

    def begins(self, key: str) -> None:
        """Begin a start of the configuration `key` (see `plan.resolve.start_key`).

        Starts from a standby, which has imported vLLM, are kept apart: they say nothing of the others.
        """
        self._key = key if self._board.current.standby_bytes is None else f"{key}-standby"
        self._board.expect(self._history.expected(self._key))

    def _changed(self, status: EngineStatus) -> None:
        before, self._last = self._last, status
        if status.phase.rank < before.phase.rank:
            self._seconds = {}
        elif status.phase is not before.phase:
            self._phase_ended(before, status)
        if status.phase is Phase.DOWNLOADING and status.download is not None:
            self._log_download(status.download)
        if status.is_ready and before.state is EngineState.STARTING and self._key is not None:
            self._history.record(self._key, self._seconds)

    def _phase_ended(self, before: EngineStatus, status: EngineStatus) -> None:
        took = status.phase_entered - before.phase_entered
        self._seconds[before.phase] = took
        then = "" if status.phase is Phase.READY else f"; now {status.phase}"
        fields = {"phase": before.phase.value, "seconds": round(took, 2), "next_phase": status.phase.value}
        logger.info("%s took %.1f s%s", before.phase, took, then, extra=fields)

    def _log_download(self, download: Download) -> None:
        if time.monotonic() - self._download_logged < DOWNLOAD_LINE_SECONDS:
            return
        self._download_logged = time.monotonic()
        fields = {
            "phase": Phase.DOWNLOADING.value,
            "files_done": download.files_done,
            "files_total": download.files_total,
            "bytes_done": download.bytes_done,
            "bytes_total": download.bytes_total,
            "bytes_per_second": download.bytes_per_second and round(download.bytes_per_second),
        }
        logger.info("downloading: %s", download, extra=fields)


@dataclass(frozen=True)
class Estimate:
    """A forecast: seconds of the whole start and of what is left, and the share that is done."""

    total_seconds: float
    remaining_seconds: float
    fraction: float


def estimate(status: EngineStatus, now: float) -> Estimate | None:
    """Forecast the start's end; None without an earlier start, and when nothing is being started.

    A phase that takes longer than it did counts as about to end. A download counts only if there is one, at
    its present rate. `now` is in `time.monotonic` seconds.
    """
    if status.state is not EngineState.STARTING or not status.expected:
        return None
    spent = max(0.0, now - status.started)
    left = _download_left(status) + sum(
        _phase_left(status, phase, seconds, now)
        for phase, seconds in status.expected.items()
        if phase is not Phase.DOWNLOADING
    )
    whole = spent + left
    return Estimate(whole, left, min(_MOST_BEFORE_READY, spent / whole) if whole else 0.0)


def _phase_left(status: EngineStatus, phase: Phase, seconds: float, now: float) -> float:
    if phase.rank < status.phase.rank:
        return 0.0
    return max(0.0, seconds - (now - status.phase_entered)) if phase is status.phase else seconds


def _download_left(status: EngineStatus) -> float:
    download = status.download
    if download is None or status.phase.rank > Phase.DOWNLOADING.rank:
        return 0.0
    left = download.remaining_seconds
    return status.expected.get(Phase.DOWNLOADING, 0.0) if left is None else left
