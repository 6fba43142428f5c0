"""Watches a ready engine until it is lost: ended, in part or whole, unreachable, or stuck."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum

from vllm_engine.engine.family import Family
from vllm_engine.engine.probe import EngineProbe, Health, ProbeError
from vllm_engine.engine.process import EngineProcess
from vllm_engine.engine.pulse import Pulse

_TICK_SECONDS = 0.5
_LOOK_SECONDS = 2.0
"""How often the engine's metrics are read while nothing comes from it."""
_FAILED_CANARIES = 3


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
class VitalLimits:
    """When an engine that says nothing counts as lost; 0 turns a verdict off."""

    hang_seconds: float
    canary_interval_seconds: float


class StallClock:
    """Pure: for how long the engine has had work and shown no sign of doing it."""

    def __init__(self) -> None:
        self._sign: Hashable = None
        self._since: float | None = None

    def seconds(self, now: float, running: int, sign: Hashable) -> float:
        """Return it, given how many requests are at the engine and what changes as it works on them."""
        if not running:
            self._since = None
        elif self._since is None or sign != self._sign:
            self._since, self._sign = now, sign
        return 0.0 if self._since is None else now - self._since


class Vitals:
    """One ready engine under watch."""

    def __init__(
        self,
        process: EngineProcess,
        probe: EngineProbe,
        pulse: Pulse,
        served_name: str,
        limits: VitalLimits,
    ) -> None:
        self._process = process
        self._probe = probe
        self._pulse = pulse
        self._served_name = served_name
        self._limits = limits

    async def until_lost(self) -> Loss:
        """Wait until the engine is lost, and say how."""
        family = Family(self._process.pid)
        watches = [
            asyncio.ensure_future(watch)
            for watch in (
                self._exit(),
                self._member(family),
                self._health(),
                self._stall(),
                self._canary(),
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

    async def _member(self, family: Family) -> Loss:
        return Loss(LossKind.MEMBER_EXITED, f"{await family.first_loss()} ended")

    async def _health(self) -> Loss:
        absences = 0
        while True:
            health = await self._probe.health()
            absences = absences + 1 if health is Health.ABSENT else 0
            if health is Health.BAD:
                return Loss(LossKind.REPORTED, "vLLM's /health says that its engine core is dead")
            # Once may be a full backlog in a storm of connections.
            if absences == 2:
                return Loss(LossKind.UNREACHABLE, "nobody listens on its socket any more")
            await asyncio.sleep(_TICK_SECONDS)

    async def _stall(self) -> Loss:
        clock = StallClock()
        counters: int | None = None
        looked = 0.0
        beats = -1
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = time.monotonic()
            if self._pulse.beats != beats or not self._pulse.running:
                beats, looked = self._pulse.beats, now
            elif now - looked > _LOOK_SECONDS:
                looked = now
                counters = await self._probe.counters()
            stalled = clock.seconds(now, self._pulse.running, (beats, counters))
            if self._limits.hang_seconds and stalled > self._limits.hang_seconds:
                return Loss(
                    LossKind.HUNG,
                    f"{self._pulse.running} request(s) are at it and no token came for {stalled:.0f} s",
                )

    async def _canary(self) -> Loss:
        """Have a token generated now and then while nothing else is: idle metrics prove nothing."""
        if not (self._limits.canary_interval_seconds and self._limits.hang_seconds):
            await asyncio.Event().wait()
        failures = 0
        while True:
            await self._until_idle()
            beats = self._pulse.beats
            try:
                async with asyncio.timeout(self._limits.hang_seconds):
                    await self._probe.generate_one(self._served_name)
                failures = 0
            except TimeoutError:
                if self._pulse.beats == beats:
                    waited = self._limits.hang_seconds
                    return Loss(LossKind.HUNG, f"idle, it did not generate a token within {waited:g} s")
            except ProbeError as error:
                failures += 1
                if failures == _FAILED_CANARIES and not self._pulse.running:
                    return Loss(LossKind.MUTE, f"idle, it fails to generate: {error}")

    async def _until_idle(self) -> None:
        """Wait until nothing has been asked of the engine for an interval."""
        idle_since = time.monotonic()
        beats = self._pulse.beats
        while time.monotonic() - idle_since < self._limits.canary_interval_seconds:
            await asyncio.sleep(min(1.0, self._limits.canary_interval_seconds / 4))
            if self._pulse.running or self._pulse.beats != beats:
                idle_since, beats = time.monotonic(), self._pulse.beats
