"""What the gateway sees of the engine's work, for the supervisor's verdict on whether it hangs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Pulse:
    """Counters that only the gateway writes; cheap enough for every chunk."""

    running: int = 0
    """Requests that are at the engine now."""
    beats: int = 0
    """Grows with everything that comes from the engine."""
