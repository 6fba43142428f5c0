"""What an engine prints: logged line by line, followed for the start's progress, and read at its end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from vllm_engine.engine.child_process import EngineProcess
from vllm_engine.engine.engine_state import EngineState, StatusBoard
from vllm_engine.engine.output.engine_exit import EngineExit
from vllm_engine.engine.output.engine_output import LogLine, parse_line
from vllm_engine.engine.output.tracebacks import RepeatedTracebacks, without_repeats
from vllm_engine.engine.startup.log_progress import progress_in
from vllm_engine.engine.watchdog.watchdog import Loss, LossKind
from vllm_engine.errors import Diagnosis
from vllm_engine.system.log import ENGINE_LOGGER

_LAST_LINES = 25

logger = logging.getLogger("gateway.supervisor")
engine_logger = logging.getLogger(ENGINE_LOGGER)


class EngineLog:
    """Takes every line that engines print; `explain` diagnoses the end of one."""

    def __init__(self, board: StatusBoard, explain: Callable[[EngineExit], Diagnosis]) -> None:
        self._board = board
        self._explain = explain
        self._tracebacks = RepeatedTracebacks()
        self.is_stopping = False
        """Whether the engine is being stopped: it may then report the end of its own core as an error."""

    def on_line(self, raw: str) -> None:
        """Log a line of the engine's output, and note what it says about the start's progress."""
        self._log(self._tracebacks.feed(parse_line(raw)))
        status = self._board.current
        if status.state is EngineState.STARTING:
            news = progress_in(status.phase, raw)
            if news is not None:
                self._board.progress(*news)

    async def diagnose(self, process: EngineProcess, loss: Loss | None = None) -> Diagnosis:
        """End what is left of the engine, and explain its end.

        Its last lines are repeated for an end that is not known, or where they were not logged as they came.

        If its first process was still running when it was lost, its status would be that of our own signal:
        only the loss counts.
        """
        lost = None if loss is None or loss.kind is LossKind.EXITED else loss
        if lost is not None and self._board.current.state is EngineState.READY:
            self._board.move(EngineState.UNHEALTHY)
        status = await process.reap()
        if loss is not None and loss.told is not None:
            return loss.told
        return self._told(
            EngineExit(
                status=status if lost is None else None,
                tail=process.tail,
                was_ready=loss is not None,
                phase=str(self._board.current.phase),
                seen=lost.seen if lost is not None else "",
                is_hang=lost is not None and lost.is_hang,
                child_status=lost.child_status if lost is not None else None,
                silent_peers=lost.silent_peers if lost is not None else (),
            )
        )

    def diagnose_late(self, process: EngineProcess) -> Diagnosis:
        """Explain why an engine that still runs is not ready in time."""
        phase = str(self._board.current.phase)
        return self._told(EngineExit(status=None, tail=process.tail, was_ready=False, phase=phase))

    def _told(self, ended: EngineExit) -> Diagnosis:
        told = self._explain(ended)
        self._repeat_last_lines(told, ended.tail)
        return told

    def _repeat_last_lines(self, told: Diagnosis, tail: Sequence[str]) -> None:
        """Log the engine's last lines again if its end is not known, else those that were not logged."""
        self._log(self._tracebacks.flush())
        is_logged = engine_logger.isEnabledFor(logging.INFO)
        if is_logged and told.code != "unknown":
            return
        for line in without_repeats(tail)[-_LAST_LINES:]:
            if is_logged or not engine_logger.isEnabledFor(line.severity):
                logger.error("engine's last lines | %s", line)

    def _log(self, lines: Iterable[LogLine]) -> None:
        most = logging.INFO if self.is_stopping else logging.CRITICAL
        for line in lines:
            if line.message.strip():  # its banner has rows without words
                engine_logger.log(min(line.severity, most), "%s", line)
