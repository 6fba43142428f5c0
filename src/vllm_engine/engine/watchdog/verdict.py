"""Watches a ready engine until it is lost: ended, in part or whole, unreachable, or stuck."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum

from vllm_engine.engine.activity import EngineActivity
from vllm_engine.engine.child_process import EngineProcess
from vllm_engine.engine.control_client import EngineProbe, Health, ProbeError, UnaskedError
from vllm_engine.engine.watchdog.canary import Canary
from vllm_engine.engine.watchdog.child_watcher import ChildWatcher, activity
from vllm_engine.engine.watchdog.patience import Patience
from vllm_engine.engine.watchdog.stall_clock import StallClock

_TICK_SECONDS = 0.5
_LOOK_SECONDS = 2.0
"""How often the engine's metrics are read while nothing comes from it."""
_FAILED_CANARIES = 3
_STOPPED_SECONDS = 20.0
"""How long a process may be stopped by a signal: whoever waits for it may look busy meanwhile."""
_STOPPED_LOOKS = 5

logger = logging.getLogger("gateway.supervisor")


class LossKind(StrEnum):
    """How an engine was lost."""

    EXITED = "exited"
    MEMBER_EXITED = "member exited"
    REPORTED = "reported"
    UNREACHABLE = "unreachable"
    HUNG = "hung"
    MUTE = "mute"


@dataclass(frozen=True)
class Loss:
    """That the engine is lost, how, and what was seen."""

    kind: LossKind
    seen: str

    @property
    def is_hang(self) -> bool:
        """Whether it runs and does nothing: then its log tells nothing either."""
        return self.kind in (LossKind.HUNG, LossKind.MUTE, LossKind.UNREACHABLE)


@dataclass(frozen=True)
class WatchdogLimits:
    """When an engine that says nothing counts as lost; 0 turns a verdict off."""

    hang_seconds: float
    canary_interval_seconds: float


class Watchdog:
    """One ready engine under watch."""

    def __init__(
        self,
        process: EngineProcess,
        probe: EngineProbe,
        pulse: EngineActivity,
        served_name: str,
        limits: WatchdogLimits,
        patience: Patience,
    ) -> None:
        self._process = process
        self._probe = probe
        self._pulse = pulse
        self._served_name = served_name
        self._limits = limits
        self._patience = patience
        # What vLLM's own counts were when they were last read; silence is no change.
        self._counters: int | None = None

    async def until_lost(self) -> Loss:
        """Wait until the engine is lost, and say how."""
        family = ChildWatcher(self._process.pid)
        watches = [
            asyncio.ensure_future(watch)
            for watch in (
                self._exit(),
                self._member(family),
                self._health(),
                self._stall(),
                self._canary(),
                self._stopped(),
            )
        ]
        try:
            done, _ = await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
            # The end of the process itself says most: with a status.
            first = next(watch for watch in watches if watch in done)
            return first.result()
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)
            family.close()

    async def _exit(self) -> Loss:
        await self._process.wait()
        return Loss(LossKind.EXITED, "it ended by itself")

    async def _member(self, family: ChildWatcher) -> Loss:
        return Loss(LossKind.MEMBER_EXITED, f"{await family.first_loss()} ended")

    async def _health(self) -> Loss:
        absences = 0
        while True:
            health = await self._probe.health()
            if health is Health.BAD:
                return Loss(LossKind.REPORTED, "vLLM's /health says that its engine core is dead")
            if health is not Health.UNKNOWN:
                absences = absences + 1 if health is Health.ABSENT else 0
            # Once may be an accident of a moment.
            if absences == 2:
                return Loss(LossKind.UNREACHABLE, "nobody listens on its socket any more")
            await asyncio.sleep(_TICK_SECONDS)

    async def _stall(self) -> Loss:
        if not self._limits.hang_seconds:
            await asyncio.Event().wait()
        clock = StallClock()
        loop = asyncio.get_running_loop()
        looked, stalled, beats = loop.time(), 0.0, -1
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now, is_known = loop.time(), True
            # Before the verdict, one more look.
            is_due = stalled > self._limits.hang_seconds
            if self._pulse.beats != beats or not self._pulse.running:
                beats, looked = self._pulse.beats, now
            elif is_due or now - looked > _LOOK_SECONDS:
                looked, is_known = now, await self._look_again()
            before = stalled
            stalled = clock.seconds(loop.time(), self._pulse.running, (self._pulse.beats, self._counters))
            if stalled < before:
                self._patience.took(before)
            if is_due and is_known and stalled > self._limits.hang_seconds and self._pulse.running:
                return Loss(
                    LossKind.HUNG,
                    f"{self._pulse.running} request(s) are at it and no token came for {stalled:.0f} s",
                )

    async def _canary(self) -> Loss:
        """Have a token generated now and then while nothing else is: idle metrics prove nothing."""
        if not (self._limits.canary_interval_seconds and self._limits.hang_seconds):
            await asyncio.Event().wait()
        canary = Canary(
            lambda: self._probe.generate_one(self._served_name),
            self._signs,
            lambda: activity(self._process.pid),
            self._patience,
        )
        failures = 0
        while True:
            await self._until_quiet()
            try:
                vain = await canary.seconds_in_vain()
                failures = 0
            except UnaskedError as error:
                logger.warning("whether the engine generates cannot be asked: %s", error)
                continue
            except ProbeError as error:
                failures += 1
                if failures == _FAILED_CANARIES and not self._pulse.running:
                    return Loss(LossKind.MUTE, f"idle, it fails to generate: {error}")
                continue
            if vain is not None:
                return Loss(LossKind.HUNG, f"idle, it did not generate a token within {vain:.0f} s")

    async def _stopped(self) -> Loss:
        """Notice that a signal has stopped a process: it does nothing until another lets it go on."""
        seconds = min(_STOPPED_SECONDS, self._limits.hang_seconds)
        if not seconds:
            await asyncio.Event().wait()
        looks = 0
        # Looks are counted, not time: who was stopped together with us may be let go on a little later.
        while looks < _STOPPED_LOOKS:
            await asyncio.sleep(seconds / _STOPPED_LOOKS)
            seen = activity(self._process.pid)
            looks = looks + 1 if seen is not None and seen.is_stopped else 0
        return Loss(LossKind.HUNG, f"a signal has stopped one of its processes for {seconds:g} s")

    async def _until_quiet(self) -> None:
        """Wait until nothing has come of the engine for an interval, and nothing is asked of it now."""
        loop = asyncio.get_running_loop()
        interval = self._limits.canary_interval_seconds
        beats, since = self._pulse.beats, loop.time()
        while loop.time() - since < interval or self._pulse.running:
            await asyncio.sleep(min(1.0, interval / 4))
            if self._pulse.beats != beats:
                beats, since = self._pulse.beats, loop.time()

    async def _signs(self) -> Hashable:
        """Return what changes as the engine core works."""
        counters = await self._probe.counters()
        if counters is not None:
            self._counters = counters
        return self._pulse.beats, self._counters

    async def _look_again(self) -> bool:
        """Read the engine's metrics anew; False if that could not be tried."""
        try:
            await self._signs()
        except UnaskedError:
            return False
        return True
