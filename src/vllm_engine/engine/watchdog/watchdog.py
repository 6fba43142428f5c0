"""Watches a ready engine until it is lost: exited in whole or in part, unreachable, or hung."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from vllm_engine.engine.activity import EngineActivity
from vllm_engine.engine.child_process import EngineProcess
from vllm_engine.engine.control_client import ControlClient, ControlError, Health, NotAskedError
from vllm_engine.engine.engine_state import Frontend
from vllm_engine.engine.watchdog.child_watcher import ChildrenState, ChildWatcher, children_state, process_ids
from vllm_engine.engine.watchdog.silent_peers import silent_peers
from vllm_engine.engine.watchdog.stall import IdleChecks, StallClock, StepLimit, stalled_seconds
from vllm_engine.errors import Diagnosis

_TICK_SECONDS = 0.5
_METRICS_SECONDS = 2.0
"""How often the engine's metrics are read while no answers come from it."""
_FAILED_CHECKS = 3
_STOPPED_SECONDS = 20.0
"""How long a process may be stopped by a signal; a process that waits for it may look busy meanwhile."""
_STOPPED_LOOKS = 5

logger = logging.getLogger("gateway.supervisor")


class LossKind(StrEnum):
    """How an engine was lost."""

    EXITED = "exited"
    CHILD_EXITED = "child exited"
    HUNG = "hung"
    NODE_LOST = "node lost"


@dataclass(frozen=True)
class Loss:
    """The loss of an engine: how, what was seen, and the exit status of the child that ended, if known."""

    kind: LossKind
    seen: str
    child_status: int | None = None
    told: Diagnosis | None = None
    """Its cause, where that is known without the engine's log."""
    silent_peers: tuple[str, ...] = ()
    """The addresses, then names, of other machines that do not acknowledge what it sends, where it hangs."""

    @property
    def is_hang(self) -> bool:
        """Whether its first process still runs without working; its log then does not say why."""
        return self.kind is LossKind.HUNG


class Watchdog:
    """Watches one ready engine, through each of its frontends: it is lost with any of them.

    The core's work shows in the numbers of the frontend that it reports to, so only both together show that
    it hangs. A frontend's own hang is shown by that one alone.

    With 0 as the step limit's upper bound it never counts as hung. `others` waits for the loss of what the
    engine needs on other machines.
    """

    def __init__(
        self,
        process: EngineProcess,
        clients: Mapping[Frontend, ControlClient],
        activity: EngineActivity,
        served_name: str,
        step_limit: StepLimit,
        idle_checks: IdleChecks,
        children: Callable[[int], ChildrenState | None] = children_state,
        others: Callable[[], Awaitable[Loss]] | None = None,
    ) -> None:
        self._process = process
        self._clients = clients
        self._activity = activity
        self._served_name = served_name
        self._step_limit = step_limit
        self._hang_seconds = step_limit.most_seconds
        self._idle_checks = idle_checks
        self._others = others
        self._children = functools.partial(children, process.pid)
        self._pids = functools.partial(process_ids, process.pid)
        # The last values read; kept while metrics cannot be read: a failed reading is not progress.
        self._counters: dict[Frontend, int] = {}

    async def until_lost(self) -> Loss:
        """Wait until the engine is lost, and return how."""
        watcher = ChildWatcher(self._process.pid)
        child = asyncio.ensure_future(self._child_exited(watcher))
        # In order: what another machine says is the cause, and the exit of the process itself has a status.
        checks: list[Awaitable[Loss]] = [self._others()] if self._others is not None else []
        checks += [self._exited(), child, *map(self._unhealthy, self._clients)]
        if self._hang_seconds:
            checks += [self._stalled(), self._stopped()]
            if self._idle_checks.interval_seconds:
                checks.append(self._idle_check_failed())
        watches = [asyncio.ensure_future(check) for check in checks]
        try:
            await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
            if watcher.has_loss:
                # vLLM's own word of it may come a moment before the status of the child.
                await asyncio.wait({child})
            loss = next(watch for watch in watches if watch.done()).result()
            # Read while it runs: with its processes its connections are gone.
            return replace(loss, silent_peers=silent_peers(self._pids())) if loss.is_hang else loss
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)
            watcher.close()

    async def _exited(self) -> Loss:
        await self._process.wait()
        return Loss(LossKind.EXITED, "it exited by itself")

    async def _child_exited(self, watcher: ChildWatcher) -> Loss:
        child = await watcher.first_loss()
        return Loss(LossKind.CHILD_EXITED, str(child), child.status)

    async def _unhealthy(self, frontend: Frontend) -> Loss:
        """A frontend says that the core is dead, is not there, or has work and does not answer at all."""
        client, activity = self._clients[frontend], self._activity.of[frontend]
        loop, clock, refused, heard = asyncio.get_running_loop(), StallClock(), 0, 0
        while True:
            health = await client.health()
            if health is Health.DEAD:
                seen = f"{self._name(frontend)}'s /health reports that its engine core is dead"
                return Loss(LossKind.CHILD_EXITED, seen)
            if health is not Health.NOT_ASKED:
                refused = refused + 1 if health is Health.NOT_LISTENING else 0
            # One refused connection may be transient.
            if refused == 2:
                return Loss(LossKind.HUNG, f"nothing listens on {self._name(frontend)}'s socket any more")
            heard += health is not Health.NO_ANSWER
            silent = clock.seconds(loop.time(), activity.running, (activity.progress, heard))
            if silent > self._hang_seconds > 0:
                seen = f"{activity.running} running request(s) and no answer to /health for {silent:.0f} s"
                return Loss(LossKind.HUNG, f"{self._name(frontend)}: {seen}")
            await asyncio.sleep(_TICK_SECONDS)

    async def _stalled(self) -> Loss:
        """Requests are running, nothing comes that the core must have made, and its metrics stand still."""
        clock = StallClock()
        loop = asyncio.get_running_loop()
        read_at, stalled, progress = loop.time(), 0.0, -1
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now, is_known = loop.time(), True
            # The metrics are read once more before the verdict.
            is_due = stalled > self._hang_seconds
            if self._activity.progress != progress or not self._activity.running:
                progress, read_at = self._activity.progress, now
            elif is_due or now - read_at > _METRICS_SECONDS:
                read_at, is_known = now, await self._can_read_metrics()
            before = stalled
            running = self._activity.running
            stalled = clock.seconds(loop.time(), running, self._seen())
            if stalled < before:
                self._step_limit.completed(before)
            if is_due and is_known and stalled > self._hang_seconds and running:
                return Loss(LossKind.HUNG, f"{running} running request(s) and no token for {stalled:.0f} s")

    async def _stopped(self) -> Loss:
        """A signal has stopped a process, which does nothing until it is continued."""
        seconds = min(_STOPPED_SECONDS, self._hang_seconds)
        looks = 0
        # Observations are counted, not time: if this process was stopped too, the clock ran on, and the
        # engine may be continued a little later.
        while looks < _STOPPED_LOOKS:
            await asyncio.sleep(seconds / _STOPPED_LOOKS)
            children = self._children()
            looks = looks + 1 if children is not None and children.is_stopped else 0
        return Loss(LossKind.HUNG, f"a signal has stopped one of its processes for {seconds:g} s")

    async def _idle_check_failed(self) -> Loss:
        """While the engine is idle each frontend is asked for a token now and then: metrics prove nothing."""
        failures: Counter[Frontend] = Counter()
        while True:
            await self._until_idle()
            for frontend in self._clients:
                loss = await self._idle_check(frontend, failures)
                if loss is not None:
                    return loss

    async def _idle_check(self, frontend: Frontend, failures: Counter[Frontend]) -> Loss | None:
        generate = functools.partial(self._generate_one, frontend)
        try:
            most = self._idle_checks.most_seconds
            stalled = await stalled_seconds(generate, self._progress, self._children, self._step_limit, most)
            failures[frontend] = 0
        except NotAskedError as error:
            logger.warning("cannot check whether the engine generates: %s", error)
            return None
        except ControlError as error:
            failures[frontend] += 1
            if failures[frontend] < _FAILED_CHECKS or self._activity.running:
                return None
            return Loss(LossKind.HUNG, f"idle, {self._name(frontend)} fails to generate a token: {error}")
        if stalled is None:
            return None
        seen = f"idle, {self._name(frontend)} did not generate a token within {stalled:.0f} s"
        return Loss(LossKind.HUNG, seen)

    async def _generate_one(self, frontend: Frontend) -> None:
        check = object()
        self._activity.enter(check, frontend)
        try:
            await self._clients[frontend].generate_one(self._served_name)
        finally:
            self._activity.leave(check)

    def _name(self, frontend: Frontend) -> str:
        return "vLLM" if len(self._clients) == 1 else frontend.words

    async def _until_idle(self) -> None:
        """Wait until nothing has come from the engine for an interval, and no request is running."""
        loop = asyncio.get_running_loop()
        interval = self._idle_checks.interval_seconds
        progress, since = self._activity.progress, loop.time()
        while loop.time() - since < interval or self._activity.running:
            await asyncio.sleep(min(1.0, interval / 4))
            if self._activity.progress != progress:
                progress, since = self._activity.progress, loop.time()

    async def _progress(self) -> Hashable:
        """Return a value that changes as the engine core works."""
        counters = await asyncio.gather(*(client.counters() for client in self._clients.values()))
        read = zip(self._clients, counters, strict=True)
        self._counters |= {frontend: value for frontend, value in read if value is not None}
        return self._seen()

    def _seen(self) -> Hashable:
        return self._activity.progress, tuple(self._counters.items())

    async def _can_read_metrics(self) -> bool:
        """Read the engine's metrics; False if it could not be asked."""
        try:
            await self._progress()
        except NotAskedError:
            return False
        return True
