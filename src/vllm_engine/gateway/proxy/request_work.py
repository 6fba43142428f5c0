"""One request as the engine's work: when it counts, and what of its response shows progress."""

from __future__ import annotations

from vllm_engine.engine.activity import EngineActivity
from vllm_engine.engine.engine_state import Frontend

_NAMED = b"event: "
_OPENINGS = (b"event: response.created", b"event: response.in_progress")
"""vLLM's API process sends these before it has asked its core (0.32's `entrypoints/openai/responses`)."""
_NO_WORK = (b":", b'data: {"error"', b"event: error")


class EngineWork:
    """Counts in the engine's activity while the engine has the request and the client reads the response.

    A client that does not read stops its stream, and an engine that is not read from cannot go on; neither
    is the engine's fault. Every method may be called at any time and more than once.
    """

    __slots__ = (
        "_activity", "_is_at_engine", "_is_counted", "_is_event_stream",
        "_is_first", "_is_paused", "_is_refused", "seen", "shows_work",
    )  # fmt: skip

    def __init__(self, activity: EngineActivity | None) -> None:
        """Take the engine's activity; None for a request that the engine core has no part in."""
        self._activity = activity if activity is not None else EngineActivity()
        self.seen = self._activity.of[Frontend.PYTHON]
        """What its frontend is seen to do; its `progress` counts the pieces."""
        self._is_at_engine = False
        self._is_paused = False
        self._is_counted = False
        self._is_first = True
        self._is_refused = False
        self._is_event_stream = False
        self.shows_work = False
        """Whether every further piece of the response's body is progress."""

    def begin(self, frontend: Frontend) -> None:
        """One of the engine's frontends is given the request, perhaps once more."""
        self.end()
        self.seen = self._activity.of[frontend]
        self._activity.enter(self, frontend)
        self._is_at_engine, self._is_paused = True, False
        self._is_first, self.shows_work = True, False
        self._count()

    def pause(self) -> None:
        """Nothing more is read from the engine for now."""
        self._is_paused = True
        self._count()

    def resume(self) -> None:
        """The engine is read from again."""
        self._is_paused = False
        self._count()

    def end(self) -> None:
        """The engine has it no more: its response has ended, broken off, or was given up."""
        self._is_at_engine = False
        self._activity.leave(self)
        self._count()

    def responded(self, status: int, *, is_event_stream: bool) -> None:
        """Its response has a head; the API process may have made that alone."""
        self._is_refused, self._is_event_stream = status >= 400, is_event_stream

    def received(self, data: bytes) -> None:
        """Take note of a piece of the response's body: progress, if the core must have worked for it."""
        if not self.shows_work:
            self.shows_work = self._is_of_core(data)
            self._is_first = False
        if self.shows_work:
            self.seen.progress += 1

    def _is_of_core(self, data: bytes) -> bool:
        if self._is_refused or not self._is_event_stream:
            return not self._is_refused
        if data.startswith(_NO_WORK):
            return False
        last = data.rfind(_NAMED)
        if last < 0:
            # Of named events a piece without a name is the rest of one that did not count either.
            return self._is_first
        return not data.startswith(_OPENINGS, last)

    def _count(self) -> None:
        is_work = self._is_at_engine and not self._is_paused
        if is_work is not self._is_counted:
            self._is_counted = is_work
            self.seen.running += 1 if is_work else -1
