"""How long each phase of earlier starts took, kept in the cache for the next start's estimate."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from vllm_engine.engine.engine_state import Phase

MAX_CONFIGURATIONS = 64
"""The oldest are forgotten beyond this number."""

_VERSION = 1

logger = logging.getLogger("gateway.history")


class StartHistory:
    """A small JSON file; one that cannot be read or written costs the estimate and nothing else."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def expected(self, key: str) -> dict[Phase, float]:
        """Return the seconds of each phase at the newest start of this configuration; empty without one."""
        return self._read().get(key, {})

    def record(self, key: str, seconds: Mapping[Phase, float]) -> None:
        """Note how long each phase of a start took.

        A download is not part of every start: the newest one is remembered.
        """
        starts = self._read()
        downloads = {phase: took for phase, took in starts.pop(key, {}).items() if phase is Phase.DOWNLOADING}
        starts[key] = downloads | dict(seconds)
        newest = dict(list(starts.items())[-MAX_CONFIGURATIONS:])
        kept = {
            key: {phase.value: round(took, 2) for phase, took in it.items()} for key, it in newest.items()
        }
        half = self._path.with_suffix(f".{os.getpid()}")
        try:
            half.write_text(json.dumps({"version": _VERSION, "starts": kept}), encoding="ascii")
            half.replace(self._path)
        except OSError as error:
            logger.warning(
                "%s cannot be written (%s): the next start has no estimate", self._path, error.strerror
            )

    def _read(self) -> dict[str, dict[Phase, float]]:
        try:
            kept = json.loads(self._path.read_text(encoding="ascii"))
            if kept["version"] != _VERSION:
                return {}
            return {
                str(key): {Phase(phase): float(took) for phase, took in phases.items()}
                for key, phases in kept["starts"].items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            logger.warning("%s cannot be read (%s): no estimate", self._path, type(error).__name__)
            return {}
