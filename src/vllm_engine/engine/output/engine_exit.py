"""How one run of the engine ended: everything that is known before it is diagnosed."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from vllm_engine.engine.output.engine_output import parse_line

_ERRORS = (
    re.compile(r"^\s*(?P<text>(?:[\w.]+\.)?(?:\w*(?:Error|Exception|Interrupt)|SystemExit): .+)"),
    re.compile(r"^\s*(?:Value|Assertion) error, (?P<text>.+?)(?: \[type=.*)?$"),
    re.compile(r"^(?:vllm serve|api_server\.py|main\.py|vllm|usage)?:? ?error: (?P<text>.+)"),
)
"""As Python, pydantic and argparse report them."""
_ECHOES = ("root cause above", "See stack trace", "Engine core initialization failed", "Failed core proc")
"""Errors by which vLLM's other processes repeat that one of them has failed."""


@dataclass(frozen=True)
class EngineExit:
    """The exit or loss of an engine, or a start that took too long.

    Attributes:
        status: the exit status, negative for a signal; None where its first process was still running: it was
            lost all the same, or its start took too long.
        tail: its newest lines of output, oldest first.
        was_ready: whether it had been ready.
        phase: how far its start had come.
        seen: how it was lost, where the status does not say so.
        is_hang: whether it was running without working.
        silent_peers: the names of other nodes that did not acknowledge then what it had sent.
        child_status: the exit status of the process of vLLM's that it was lost by; None where not known.
    """

    status: int | None
    tail: tuple[str, ...]
    was_ready: bool
    phase: str = ""
    seen: str = ""
    is_hang: bool = False
    silent_peers: tuple[str, ...] = ()
    child_status: int | None = None

    def __str__(self) -> str:
        if self.seen:
            return f"the engine was lost while it was serving ({self.seen})"
        if self.status is None:
            return "the engine was not ready in time"
        when = "while it was serving" if self.was_ready else "before it was ready"
        return f"the engine {describe_exit(self.status)} {when}"

    @property
    def last_error(self) -> str | None:
        """The newest error in its output that is a cause and not the echo of one; None without any."""
        for raw in reversed(self.tail):
            line = parse_line(raw).message
            match = next(filter(None, (pattern.match(line) for pattern in _ERRORS)), None)
            if match and not any(echo in line for echo in _ECHOES):
                return match["text"].strip()
        return None


def describe_exit(status: int) -> str:
    """Return how a process ended, in words."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
