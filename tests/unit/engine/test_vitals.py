"""Verdicts on a ready engine: from what is seen of it, and never from what we lack ourselves."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from itertools import count, cycle
from pathlib import Path
from typing import Any, cast

import pytest

from tests.support.virtual_time import in_virtual_time
from vllm_engine.engine.activity import EngineActivity
from vllm_engine.engine.child_process import EngineProcess
from vllm_engine.engine.control_client import EngineProbe, Health, ProbeError, UnaskedError
from vllm_engine.engine.engine_state import StatusBoard
from vllm_engine.engine.supervisor import Launch, Policy, Supervisor
from vllm_engine.engine.watchdog.child_watcher import Activity, ChildWatcher, activity, members
from vllm_engine.engine.watchdog.patience import Patience
from vllm_engine.engine.watchdog.verdict import Loss, LossKind, Watchdog, WatchdogLimits
from vllm_engine.errors import Diagnosis, StartupError

HANG_SECONDS = 180.0


class Process:
    """One that never ends, and has no others beside it."""

    pid = 0

    async def wait(self) -> int:
        await asyncio.Event().wait()
        return 0


class Probe:
    """Answers as told, over and over from the last."""

    def __init__(self, *health: Health, counters: Iterator[int | None] | None = None) -> None:
        self._health = list(health)
        self._counters = counters
        self.can_ask = True

    async def health(self) -> Health:
        return self._health.pop(0) if len(self._health) > 1 else self._health[0]

    async def counters(self) -> int | None:
        if not self.can_ask:
            raise UnaskedError("no files")
        return next(self._counters) if self._counters else 0

    async def generate_one(self, model: str) -> None:
        if not self.can_ask:
            raise UnaskedError("no files")


async def lost(
    probe: Probe, pulse: EngineActivity, *, within: float = 1000.0, canary: float = 30.0
) -> Loss | None:
    """Watch for so long; returns how the engine was lost, if it was."""
    limits = WatchdogLimits(HANG_SECONDS, canary)
    process = cast(EngineProcess, Process())
    vitals = Watchdog(process, cast(EngineProbe, probe), pulse, "m", limits, Patience(HANG_SECONDS))
    try:
        async with asyncio.timeout(within):
            return await vitals.until_lost()
    except TimeoutError:
        return None


@pytest.mark.parametrize("running", [0, 1], ids=["idle", "at work"])
def test_a_stopped_process_is_noticed_soon(monkeypatch: pytest.MonkeyPatch, running: int) -> None:
    """However busy the core looks that waits for it, and however slow it has been."""
    stopped = Activity(7.0, is_running=True, is_stopped=True)
    monkeypatch.setattr("vllm_engine.engine.watchdog.verdict.activity", lambda _: stopped)

    @in_virtual_time
    async def test() -> None:
        loss = await lost(Probe(Health.GOOD, counters=count()), EngineActivity(running=running), within=30.0)
        assert loss is not None
        assert (loss.kind, "stopped" in loss.seen) == (LossKind.HUNG, True)

    test()


def test_a_process_that_goes_on_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped now and then is not stopped for good."""
    states = cycle([True, True, True, False])
    monkeypatch.setattr(
        "vllm_engine.engine.watchdog.verdict.activity",
        lambda _: Activity(7.0, is_running=True, is_stopped=next(states)),
    )

    @in_virtual_time
    async def test() -> None:
        assert await lost(Probe(Health.GOOD), EngineActivity(), within=300.0, canary=0) is None

    test()


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ([Health.ABSENT, Health.ABSENT], LossKind.UNREACHABLE),
        ([Health.ABSENT, Health.UNKNOWN, Health.UNKNOWN, Health.ABSENT], LossKind.UNREACHABLE),
        ([Health.ABSENT, Health.GOOD, Health.ABSENT, Health.SILENT, Health.ABSENT, Health.GOOD], None),
        ([Health.ABSENT, Health.UNKNOWN], None),
        ([Health.UNKNOWN, Health.BAD], LossKind.REPORTED),
    ],
)
def test_health(answers: list[Health], kind: LossKind | None) -> None:
    """Who could not ask knows as much as before, in either direction."""

    @in_virtual_time
    async def test() -> None:
        loss = await lost(Probe(*answers), EngineActivity())
        assert (loss and loss.kind) == kind

    test()


@in_virtual_time
async def test_no_verdict_while_metrics_cannot_be_asked_for() -> None:
    """A long prefill shows in the metrics alone: who cannot read them does not know that nothing happens."""
    probe = Probe(Health.GOOD)
    probe.can_ask = False
    pulse = EngineActivity(running=1)
    assert await lost(probe, pulse) is None
    probe.can_ask = True
    loss = await lost(probe, pulse)
    assert loss is not None
    assert loss.kind is LossKind.HUNG


@in_virtual_time
async def test_silence_is_no_movement() -> None:
    """An engine whose metrics come and go, with the same counts, does not work."""
    probe = Probe(Health.GOOD, counters=iter([7, None] * 1000))
    loss = await lost(probe, EngineActivity(running=1))
    assert loss is not None
    assert loss.kind is LossKind.HUNG


@in_virtual_time
async def test_movement_is_looked_for_before_the_verdict() -> None:
    """Requests whose clients give up within a second leave no time for a look: there is one at the end."""
    pulse = EngineActivity()
    steps = iter(range(10_000))

    async def impatient_clients() -> None:
        while True:
            pulse.running = 1
            await asyncio.sleep(1)
            pulse.running = 0
            await asyncio.sleep(0.2)

    clients = asyncio.create_task(impatient_clients())
    assert await lost(Probe(Health.GOOD, counters=steps), pulse, canary=0) is None
    assert next(steps) > 1
    loss = await lost(Probe(Health.GOOD), pulse, canary=0)
    assert loss is not None
    assert loss.kind is LossKind.HUNG
    clients.cancel()


NO_FILES = OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize(
    "error", [NO_FILES, OSError(errno.ENOMEM, "no"), BlockingIOError(errno.EAGAIN, "no")]
)
async def test_probe_for_want_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    """Whatever is asked, however the library wraps what the kernel said."""

    async def fail(*_: object, **__: object) -> None:
        raise error

    async with EngineProbe(tmp_path / "socket") as probe:
        assert await probe.health() is Health.ABSENT
        with pytest.raises(ProbeError) as absent:
            await probe.generate_one("m")
        assert not isinstance(absent.value, UnaskedError)
        assert await probe.counters() is None
        monkeypatch.setattr(asyncio.get_running_loop(), "create_unix_connection", fail)
        assert await probe.health() is Health.UNKNOWN
        for question in (probe.generate_one("m"), probe.served_models(), probe.counters()):
            with pytest.raises(UnaskedError):
                await question


async def test_processes_for_want_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which processes an engine has is not known then, which is not that it has none."""

    def fail(*_: object, **__: object) -> Any:
        raise NO_FILES

    monkeypatch.setattr(Path, "read_text", fail)
    with pytest.raises(OSError, match="Too many"):
        members(os.getsid(0))
    assert activity(os.getsid(0)) is None
    family = ChildWatcher(os.getsid(0))
    waiting = asyncio.create_task(family.first_loss())
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
    family.close()


@in_virtual_time
async def test_a_start_for_want_of_files_is_tried_again() -> None:
    """It is not counted: with no restarts allowed it is still tried until there are files."""
    tried = 0

    async def prepare(_: object) -> Launch:
        nonlocal tried
        tried += 1
        if tried < 4:
            raise NO_FILES if tried < 3 else StartupError("cannot read the model") from NO_FILES
        raise StartupError("the end")

    supervisor = Supervisor(
        StatusBoard(),
        prepare,
        lambda _: Diagnosis("unknown", ""),
        socket=Path("socket"),
        policy=Policy(60, 0, 60, auto_fit=False, vitals=WatchdogLimits(0, 0)),
        pulse=EngineActivity(),
    )
    with pytest.raises(StartupError, match="the end"):
        await supervisor.run()
    assert tried == 4
