"""How one run of the engine ended: all that is known before anyone explains it."""

from __future__ import annotations

import signal
from dataclasses import dataclass


@dataclass(frozen=True)
class Ending:
    """The end of an engine, or the end of our patience with its start.

    Attributes:
        status: its exit status, negative for a signal; None where it had not ended of itself: a start that
            took too long, or an engine that was lost although its first process ran on.
        tail: its newest lines, oldest first.
        was_ready: whether it had answered before.
        phase: how far its start had come.
        seen: how it was lost, where its exit does not say so.
        is_hang: whether it ran on without doing its work.
    """

    status: int | None
    tail: tuple[str, ...]
    was_ready: bool
    phase: str = ""
    seen: str = ""
    is_hang: bool = False

    def __str__(self) -> str:
        if self.seen:
            return f"the engine was lost while it was serving ({self.seen})"
        if self.status is None:
            return "the engine was not ready in time"
        when = "while it was serving" if self.was_ready else "before it was ready"
        return f"the engine {describe_exit(self.status)} {when}"


def describe_exit(status: int) -> str:
    """Say in words how a process ended."""
    return f"exited with status {status}" if status >= 0 else f"was killed by {signal_name(-status)}"


def signal_name(number: int) -> str:
    """Return a signal's name, or its number where it has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
