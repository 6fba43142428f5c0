"""The engine's states, their legal transitions, and the snapshot that others may read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum

from vllm_engine.errors import Diagnosis, VllmEngineError
from vllm_engine.models.abilities import Abilities
from vllm_engine.models.download_progress import Download


class EngineState(StrEnum):
    """The state of the engine, as the supervisor knows it."""

    STARTING = "starting"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    BACKOFF = "backoff"
    IDLE = "idle"
    """Stopped because nobody needed it; the next request starts it (`IDLE_STOP_SECONDS`)."""
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


class Frontend(StrEnum):
    """One of vLLM's API servers."""

    PYTHON = "python"
    RUST = "rust"

    @property
    def words(self) -> str:
        """How messages name it."""
        return f"the {self.capitalize()} frontend"


class Phase(StrEnum):
    """How far a start has come, in its order: the model is downloaded, and then vLLM starts."""

    PREPARING = "preparing"
    DOWNLOADING = "downloading"
    IMPORTING = "importing"
    LOADING_WEIGHTS = "loading weights"
    COMPILING = "compiling"
    PROFILING_MEMORY = "profiling memory"
    CAPTURING_GRAPHS = "capturing graphs"
    WARMING_UP = "warming up"
    READY = "ready"

    @property
    def rank(self) -> int:
        """The phase's place in the order, from 0."""
        return list(Phase).index(self)


_S = EngineState
TRANSITIONS: Mapping[EngineState, frozenset[EngineState]] = {
    _S.STARTING: frozenset({_S.READY, _S.BACKOFF, _S.DRAINING, _S.FAILED}),
    _S.READY: frozenset({_S.UNHEALTHY, _S.BACKOFF, _S.IDLE, _S.DRAINING, _S.FAILED}),
    _S.UNHEALTHY: frozenset({_S.READY, _S.BACKOFF, _S.DRAINING, _S.FAILED}),
    _S.BACKOFF: frozenset({_S.STARTING, _S.DRAINING, _S.FAILED}),
    _S.IDLE: frozenset({_S.STARTING, _S.DRAINING, _S.FAILED}),
    _S.DRAINING: frozenset({_S.STOPPED, _S.FAILED}),
    _S.STOPPED: frozenset(),
    _S.FAILED: frozenset(),
}


@dataclass(frozen=True)
class EngineStatus:
    """What is known of the engine at one moment; times are `time.monotonic` seconds.

    Attributes:
        fraction: how much of the phase is done, where that is known.
        download: how far the weights' download is; None where there is nothing to download.
        max_model_len: the longest prompt plus output; None where vLLM chooses.
        has_reasoning_parser: whether chats are taken apart into reasoning and content.
        frontends: those of the running engine; empty until they are known.
        expected: seconds that each phase took at an earlier start of the same configuration.
    """

    state: EngineState = EngineState.STARTING
    phase: Phase = Phase.PREPARING
    fraction: float | None = None
    download: Download | None = None
    expected: Mapping[Phase, float] = field(default_factory=dict)
    error: Diagnosis | None = None
    model_revision: str | None = None
    dtype: str | None = None
    max_model_len: int | None = None
    has_reasoning_parser: bool = False
    abilities: Abilities = field(default_factory=Abilities)
    frontends: tuple[Frontend, ...] = ()
    models: bytes | None = None
    """The engine's answer to `GET /v1/models` right after this start, or the last that was ready."""
    waits_for: str | None = None
    """Which other machine the start waits for, and why; None for none."""
    pid: int | None = None
    starts: int = 1
    """Which start of the engine this is."""
    has_served: bool = False
    """Whether this start or an earlier one of this program has been ready."""
    was_idle: bool = False
    """Whether this start was made for a request to an idle engine."""
    standby_bytes: int | None = None
    """Memory of the standby that is ready to become the next engine; None while there is none."""
    started: float = field(default_factory=time.monotonic)
    entered: float = field(default_factory=time.monotonic)
    phase_entered: float = field(default_factory=time.monotonic)

    @property
    def is_ready(self) -> bool:
        """Whether the engine has generated a token and has not been lost since."""
        return self.state is EngineState.READY

    @property
    def is_waking(self) -> bool:
        """Whether an idle engine is being started again, at the first attempt."""
        return self.was_idle and self.state is EngineState.STARTING

    @property
    def is_resting(self) -> bool:
        """Whether the engine was stopped because nobody needed it, and is not ready again."""
        return self.state is EngineState.IDLE or self.is_waking

    def elapsed_seconds(self) -> float:
        """Seconds since this start of the engine began."""
        return time.monotonic() - self.started


Watcher = Callable[[EngineStatus], object]
"""Called with every new snapshot, at once and in order; must not raise."""


class StatusReader:
    """The read-only side of the status, which the gateway sees."""

    def __init__(self) -> None:
        self._current = EngineStatus()
        self._watchers: list[Watcher] = []

    @property
    def current(self) -> EngineStatus:
        """The newest snapshot."""
        return self._current

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Call `watcher` with every change from now on; returns a function that ends that."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)


class StatusBoard(StatusReader):
    """Holds the newest snapshot; the supervisor alone writes to it."""

    def move(self, state: EngineState, *, error: Diagnosis | None = None) -> None:
        """Go to another state.

        Raises:
            ValueError: the transition is not a legal one.
        """
        if state not in TRANSITIONS[self._current.state]:
            raise ValueError(f"illegal engine transition {self._current.state} -> {state}")
        has_served = self._current.has_served or state is EngineState.READY
        self._set(
            replace(self._current, state=state, error=error, has_served=has_served, entered=time.monotonic())
        )

    @asynccontextmanager
    async def supervised(self, end: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        """Record how the work of a supervisor ends: failed, or drained and stopped.

        `end` stops what still runs of the engine; only then it counts as stopped.
        """
        try:
            yield
        except VllmEngineError as error:
            self.move(EngineState.FAILED, error=error.diagnosis)
            raise
        except asyncio.CancelledError:
            if self._current.state is not EngineState.DRAINING:
                self.move(EngineState.DRAINING)
            raise
        finally:
            await end()
            if self._current.state is EngineState.DRAINING:
                self.move(EngineState.STOPPED)

    def rest(self) -> None:
        """Go from ready to idle: nobody needs the engine, and its process is about to be stopped."""
        self.move(EngineState.IDLE)
        self._set(replace(self._current, pid=None))

    def restart(self) -> None:
        """Begin another start."""
        was_idle = self._current.state is EngineState.IDLE
        # Watchers see the state change together with what it is about.
        self._current = replace(self._current, was_idle=was_idle)
        self.move(EngineState.STARTING)
        now = time.monotonic()
        again = replace(self._current, starts=self._current.starts + 1, started=now, phase_entered=now)
        self._set(
            replace(again, phase=Phase.PREPARING, fraction=None, download=None, expected={}, frontends=())
        )

    def progress(self, phase: Phase, fraction: float | None = None) -> None:
        """Record how far the start has come; within a phase the fraction never goes back."""
        now = self._current
        if phase is not now.phase:
            now = replace(now, phase=phase, fraction=None, phase_entered=time.monotonic())
        elif fraction is not None:
            fraction = max(fraction, now.fraction or 0.0)
        self._set(replace(now, fraction=fraction))

    def wait_for(self, what: str | None) -> None:
        """Record which other machine the start waits for."""
        self._set(replace(self._current, waits_for=what))

    def expect(self, seconds: Mapping[Phase, float]) -> None:
        """Record how long each phase took at an earlier start of the same configuration."""
        self._set(replace(self._current, expected=dict(seconds)))

    def downloading(self, download: Download) -> None:
        """Record how far the download is."""
        self._current = replace(self._current, download=download)
        self.progress(Phase.DOWNLOADING, download.fraction)

    def describe(
        self,
        *,
        model_revision: str | None,
        dtype: str,
        max_model_len: int | None,
        has_reasoning_parser: bool,
        abilities: Abilities,
        pid: int,
    ) -> None:
        """Record what is running."""
        described = replace(self._current, model_revision=model_revision, dtype=dtype, abilities=abilities)
        described = replace(described, max_model_len=max_model_len, has_reasoning_parser=has_reasoning_parser)
        self._set(replace(described, pid=pid))

    def serving_with(self, frontends: tuple[Frontend, ...], models: bytes | None = None) -> None:
        """Record the frontends that serve the engine, and its list of models as it was sent."""
        self._set(replace(self._current, frontends=frontends, models=models))

    def standing_by(self, size: int | None) -> None:
        """Record the memory of the standby; None: there is none."""
        self._set(replace(self._current, standby_bytes=size))

    def _set(self, status: EngineStatus) -> None:
        self._current = status
        for watcher in tuple(self._watchers):
            watcher(status)
