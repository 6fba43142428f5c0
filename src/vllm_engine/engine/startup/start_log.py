"""Tells the log how a start goes, a line a phase, and remembers how long each phase took."""

from __future__ import annotations

import logging
import time

from vllm_engine.engine.engine_state import EngineState, EngineStatus, Phase, StatusBoard
from vllm_engine.engine.startup.start_history import StartHistory

DOWNLOAD_LINE_SECONDS = 10.0

logger = logging.getLogger("gateway.supervisor")


class StartLog:
    """Watches the status; sees every change, however short a phase is."""

    def __init__(self, board: StatusBoard, history: StartHistory) -> None:
        self._board = board
        self._history = history
        self._key: str | None = None
        self._last = board.current
        self._seconds: dict[Phase, float] = {}
        self._said_download = 0.0
        board.watch(self._changed)

    def begins(self, key: str) -> None:
        """Say which configuration is started, see `plan.resolve.start_key`; sets the estimate."""
        self._key = key
        self._board.expect(self._history.expected(key))

    def _changed(self, status: EngineStatus) -> None:
        before, self._last = self._last, status
        if status.phase.rank < before.phase.rank:
            self._seconds = {}
        elif status.phase is not before.phase:
            self._phase_ended(before, status)
        if status.phase is Phase.DOWNLOADING and status.download is not None:
            self._say_download(status)
        if status.is_ready and before.state is EngineState.STARTING and self._key is not None:
            self._history.record(self._key, self._seconds)

    def _phase_ended(self, before: EngineStatus, status: EngineStatus) -> None:
        took = status.phase_entered - before.phase_entered
        self._seconds[before.phase] = took
        then = "" if status.phase is Phase.READY else f"; now {status.phase}"
        fields = {"phase": before.phase.value, "seconds": round(took, 2), "next_phase": status.phase.value}
        logger.info("%s took %.1f s%s", before.phase, took, then, extra=fields)

    def _say_download(self, status: EngineStatus) -> None:
        download = status.download
        if download is None or time.monotonic() - self._said_download < DOWNLOAD_LINE_SECONDS:
            return
        self._said_download = time.monotonic()
        fields = {
            "phase": status.phase.value,
            "files_done": download.files_done,
            "files_total": download.files_total,
            "bytes_done": download.bytes_done,
            "bytes_total": download.bytes_total,
            "bytes_per_second": download.bytes_per_second and round(download.bytes_per_second),
        }
        logger.info("downloading: %s", download, extra=fields)
