"""Pure: how long this start will take, from an earlier one of the same configuration."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_engine.engine.engine_state import EngineState, EngineStatus, Phase

_MOST_BEFORE_READY = 0.99


@dataclass(frozen=True)
class Estimate:
    """A forecast: seconds of the whole start and of what is left, and the share that is done."""

    total_seconds: float
    remaining_seconds: float
    fraction: float


def estimate(status: EngineStatus, now: float) -> Estimate | None:
    """Forecast the start's end; None without an earlier start, and when nothing is being started.

    A phase that takes longer than it did counts as about to end. A download counts only if there is one, at
    its present rate.

    Args:
        status: the newest snapshot.
        now: `time.monotonic` seconds.
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
