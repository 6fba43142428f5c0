"""The watchdog on a virtual clock: what counts as the loss of an engine, and what is no evidence of one."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterator
from itertools import chain, count, cycle, repeat
from typing import Any

import pytest

from tests.support.virtual.virtual_time import in_virtual_time
from vllm_engine.engine.activity import EngineActivity
from vllm_engine.engine.control_client import ControlError, Health, NotAskedError
from vllm_engine.engine.engine_state import Frontend
from vllm_engine.engine.watchdog.child_watcher import ChildrenState, ChildWatcher, children_state
from vllm_engine.engine.watchdog.stall import (
    LEAST_SECONDS,
    IdleChecks,
    StallClock,
    StepLimit,
    stalled_seconds,
)
from vllm_engine.engine.watchdog.watchdog import Loss, LossKind, Watchdog

HANG_SECONDS = 180.0
PYTHON, RUST = Frontend.PYTHON, Frontend.RUST
STILL = ChildrenState(7.0, is_running=False, is_stopped=False)


class Engine:
    """A process that never ends, its API, and what the kernel says of its children."""

    pid = 0

    def __init__(self, *health: Health, counters: Iterator[int | None] = repeat(0)) -> None:  # noqa: B008
        self.answers: Iterator[Health] = chain(health, repeat(health[-1] if health else Health.GOOD))
        self._counters = counters
        self.token_seconds: float | None = 0.0
        """None: it never comes."""
        self.counts = False
        """Whether its metrics move when it takes up a request for a token."""
        self.error: ControlError | None = None
        self.asked = 0
        self.loss: Loss | None = None
        self.children: Callable[[], ChildrenState | None] = lambda: STILL

    async def wait(self) -> int:
        await asyncio.Event().wait()
        return 0

    async def health(self) -> Health:
        return next(self.answers)

    async def counters(self) -> int | None:
        if isinstance(self.error, NotAskedError):
            raise self.error
        return self.asked if self.counts else next(self._counters)

    async def generate_one(self, model: str = "") -> None:
        self.asked += 1
        if self.error is not None:
            raise self.error
        await asyncio.sleep(1e9 if self.token_seconds is None else self.token_seconds)


def busy(*frontends: Frontend) -> EngineActivity:
    """Return the activity of an engine with a running request at each of these."""
    activity = EngineActivity()
    for one in frontends:
        activity.of[one].running += 1
    return activity


async def lost(
    engine: Engine, activity: EngineActivity, *, rust: Engine | None = None,
    within: float = 1e3, check: float = 30.0, hang: float = HANG_SECONDS, nodes: int = 1,
    limit: StepLimit | None = None,
) -> LossKind | None:  # fmt: skip
    """Watch for so long; returns how the engine was lost, if it was. `rust` is its second frontend."""
    played: Any = engine
    clients = {PYTHON: played} | ({RUST: rust} if rust else {})
    checks, limit = IdleChecks.of_nodes(nodes, check, hang), limit or StepLimit(hang)
    watchdog = Watchdog(played, clients, activity, "m", limit, checks, lambda _: engine.children())
    try:
        async with asyncio.timeout(within):
            engine.loss = await watchdog.until_lost()
            return engine.loss.kind
    except TimeoutError:
        return None


async def stalled(engine: Engine, limit: StepLimit | None = None) -> float | None:
    """Check once."""
    limit = limit or StepLimit(HANG_SECONDS)
    children = lambda: engine.children()  # noqa: E731
    return await stalled_seconds(engine.generate_one, engine.counters, children, limit, HANG_SECONDS)


@in_virtual_time
async def test_a_stopped_process_is_noticed_soon() -> None:
    """However busy the core looks that waits for it, and however slow it has been."""
    for running in (0, 1):
        engine = Engine(counters=count())
        engine.children = lambda: ChildrenState(7.0, is_running=True, is_stopped=True)
        assert await lost(engine, busy(*[PYTHON] * running), within=30.0) is LossKind.HUNG
        assert "stopped" in str(engine.loss)
        # Stopped now and then is not stopped for good.
        states = cycle([True, True, True, False])
        engine.children = lambda: ChildrenState(7.0, is_running=True, is_stopped=next(states))  # noqa: B023
        assert await lost(engine, busy(*[PYTHON] * running), within=300.0, check=0) is None


@in_virtual_time
async def test_health() -> None:
    """An attempt to ask that failed for want of files is not evidence, in either direction."""
    none, not_asked, h = Health.NOT_LISTENING, Health.NOT_ASKED, Health
    for answers, expected in (
        ([none, not_asked, not_asked, none], LossKind.HUNG),
        ([none, h.GOOD, none, h.NO_ANSWER, none, h.HUNG_UP, none, h.GOOD], None),
        ([none, not_asked], None),
        ([not_asked, h.DEAD], LossKind.CHILD_EXITED),
    ):
        assert await lost(Engine(*answers), EngineActivity(), within=100) is expected
    # Limits of zero turn the other verdicts off.
    engine = Engine()
    engine.token_seconds = None
    engine.children = lambda: ChildrenState(7.0, is_running=False, is_stopped=True)
    assert await lost(engine, busy(PYTHON), hang=0) is None
    assert engine.asked == 0


@in_virtual_time
async def test_a_busy_engine_that_does_nothing() -> None:
    """Metrics that come and go with the same counts are no progress; those that move are, and so are slow tokens."""
    activity = busy(PYTHON)
    assert await lost(Engine(counters=cycle([7, None])), activity) is LossKind.HUNG
    assert await lost(Engine(counters=count()), activity) is None
    # A long prefill shows in the metrics alone: no verdict while they cannot be read.
    engine = Engine()
    engine.error = NotAskedError("no files")
    assert await lost(engine, activity) is None

    async def slow_stream() -> None:
        while True:
            await asyncio.sleep(HANG_SECONDS - 5)
            activity.of[PYTHON].progress += 1

    stream = asyncio.create_task(slow_stream())
    assert await lost(Engine(), activity) is None
    stream.cancel()


@in_virtual_time
async def test_metrics_are_read_before_the_verdict() -> None:
    """Requests whose clients give up within a second leave no time for a look: there is one at the end."""
    activity = EngineActivity()
    steps = iter(range(10_000))

    async def impatient_clients() -> None:
        while True:
            activity.of[PYTHON].running = 1
            await asyncio.sleep(1)
            activity.of[PYTHON].running = 0
            await asyncio.sleep(0.2)

    clients = asyncio.create_task(impatient_clients())
    assert await lost(Engine(counters=steps), activity, check=0) is None
    assert next(steps) > 1
    assert await lost(Engine(), activity, check=0) is LossKind.HUNG
    clients.cancel()


@in_virtual_time
async def test_two_frontends_of_one_core() -> None:
    """Lost with either, by evidence about that one; the core's work may show in the numbers of the other alone."""
    h = Health
    # Whoever is dead or gone, and whether the other works or not.
    for answer, expected in ((h.DEAD, LossKind.CHILD_EXITED), (h.NOT_LISTENING, LossKind.HUNG)):
        for health in ((answer, h.GOOD), (h.GOOD, answer)):
            python, rust = (Engine(one, counters=count()) for one in health)
            assert await lost(python, busy(PYTHON, RUST), rust=rust, within=5) is expected
            named = "Python" if health[0] is answer else "Rust"
            assert f"the {named} frontend" in str(python.loss)
    # A long prefill of the one shows in the numbers of the other, as the scheduler reports to that.
    for frontend in (PYTHON, RUST):
        assert (
            await lost(Engine(counters=count()), busy(frontend), rust=Engine(), check=0, within=200) is None
        )
        assert (
            await lost(Engine(), busy(frontend), rust=Engine(counters=count()), check=0, within=200) is None
        )
        assert await lost(Engine(), busy(frontend), rust=Engine(), check=0, within=200) is LossKind.HUNG
    # A frontend that has work and answers nothing is lost, however busy the core is for the other ...
    for silent in (PYTHON, RUST):
        engines = {one: Engine(counters=count()) for one in (PYTHON, RUST)}
        engines[silent] = Engine(h.NO_ANSWER, counters=repeat(None))
        watched = engines[PYTHON], busy(PYTHON, RUST)
        assert await lost(*watched, rust=engines[RUST], within=190, check=0) is LossKind.HUNG
        assert f"the {silent.capitalize()} frontend: 1 running request" in str(engines[PYTHON].loss)
        # ... but not one that only has no work, one that answers now and then, or one that could not be asked.
        idle = busy(RUST if silent is PYTHON else PYTHON)
        assert await lost(engines[PYTHON], idle, rust=engines[RUST], within=190) is None
    for answers in ((h.NO_ANSWER, h.GOOD), (h.NO_ANSWER, h.NOT_ASKED)):
        deaf = Engine(counters=count())
        deaf.answers = cycle(answers)
        assert await lost(Engine(counters=count()), busy(PYTHON, RUST), rust=deaf, within=200) is None
    # An idle engine is asked for a token through each of them.
    for dumb in (0, 1):
        pair = Engine(), Engine()
        pair[dumb].token_seconds = None
        assert await lost(pair[0], EngineActivity(), rust=pair[1], within=60) is LossKind.HUNG
        assert f"the {'Rust' if dumb else 'Python'} frontend did not" in str(pair[0].loss)
        pair[dumb].error = ControlError("500")
        assert await lost(pair[0], EngineActivity(), rust=pair[1]) is LossKind.HUNG
        assert f"the {'Rust' if dumb else 'Python'} frontend fails" in str(pair[0].loss)


@in_virtual_time
async def test_an_idle_engine_that_does_not_generate() -> None:
    """It is lost within a minute; three errors in a row are a loss too, a question that was not asked never."""
    engine = Engine()
    engine.token_seconds = None
    assert await lost(engine, EngineActivity(), within=60) is LossKind.HUNG
    for error, expected in (
        (ControlError("500"), LossKind.HUNG),
        (NotAskedError("no files"), None),
    ):
        engine = Engine()
        engine.error = error
        assert await lost(engine, EngineActivity()) is expected
        assert expected is None or engine.asked == 3
    # Answers from the core put the next check off, requests in hand rule it out.
    engine, activity = Engine(counters=count()), busy(PYTHON)
    assert await lost(engine, activity) is None
    assert engine.asked == 0
    activity.of[PYTHON].running = 0
    assert await lost(engine, activity, within=100) is None
    assert engine.asked == 3


@in_virtual_time
async def test_the_limit_of_one_token_follows_the_longest_step() -> None:
    """12 s are within the least limit. An engine that has taken so long may take 40, without any sign."""
    limit = StepLimit(HANG_SECONDS)
    engine = Engine()
    for token_seconds, least, most in ((None, LEAST_SECONDS, 25), (12, 0, 0), (None, 60, 70), (40, 0, 0)):
        engine.token_seconds = token_seconds
        seconds = await stalled(engine, limit)
        assert seconds is None if token_seconds else least < (seconds or 0.0) < most
    assert limit.seconds == HANG_SECONDS
    short = StepLimit(3)
    short.completed(100)
    assert short.seconds == 3
    # When nothing can be read meanwhile there is no verdict; errors are the caller's matter.
    engine = Engine()
    engine.token_seconds = 500
    asyncio.get_running_loop().call_later(1, setattr, engine, "error", NotAskedError("no files"))
    assert await stalled(engine) is None
    for error in (ControlError("500"), NotAskedError("no files")):
        engine.error = error
        with pytest.raises(type(error)):
            await stalled(engine)


@in_virtual_time
async def test_a_core_that_works_has_the_whole_hang_timeout() -> None:
    """Within one step vLLM's metrics cannot move, but the operating system knows."""
    loop = asyncio.get_running_loop()
    for children in (
        lambda: STILL,
        lambda: ChildrenState(7.0, is_running=True, is_stopped=False),
        lambda: ChildrenState(loop.time() / 2, is_running=False, is_stopped=False),
        lambda: None,
    ):
        engine = Engine()
        # The first shows its work by its metrics.
        engine.counts, engine.children = children() is STILL, children
        engine.token_seconds = 170
        assert await stalled(engine) is None
        engine.token_seconds = None
        seconds = await stalled(engine)
        assert seconds is not None
        assert HANG_SECONDS < seconds < HANG_SECONDS + 5


@in_virtual_time
async def test_a_group_that_lost_a_node_is_noticed_within_the_hang_timeout() -> None:
    """Without a request, however slow it was, however rarely it is asked, and whatever it seems to do meanwhile."""
    slow = StepLimit(HANG_SECONDS)
    slow.completed(1000.0)
    for hang, check in ((HANG_SECONDS, 30.0), (HANG_SECONDS, 1e6), (20.0, 30.0)):
        for children in (lambda: STILL, lambda: None):
            for error in (None, ControlError("500")):
                engine = Engine()
                engine.token_seconds, engine.error, engine.children = None, error, children
                found = await lost(
                    engine, EngineActivity(), within=hang, check=check, hang=hang, nodes=2, limit=slow
                )
                assert found is LossKind.HUNG, (hang, check, error)
    # As ever where it is switched off, and a group that generates is asked no more often than it has to be.
    engine = Engine()
    assert await lost(engine, EngineActivity(), check=0, nodes=2) is None
    assert engine.asked == 0
    assert await lost(engine, EngineActivity(), check=30, within=100, nodes=2) is None
    assert engine.asked == 3


def test_stall_clock() -> None:
    """Time counts with requests and without progress, over requests whose clients give up and more that come."""
    clock = StallClock()
    assert [clock.seconds(now, 0, "same") for now in (0, 10, 1000)] == [0, 0, 0]
    clock = StallClock()
    steps = [(0, 1, 1), (5, 1, 1), (6, 1, 2), (9, 1, 3), (11, 1, 3), (13, 7, 3), (14, 0, 3), (99, 1, 3), (100, 1, 3)]  # fmt: skip
    assert [clock.seconds(*step) for step in steps] == [0, 5, 0, 0, 2, 4, 5, 5, 6]


async def test_processes_for_want_of_files(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Which processes an engine has is not known then, which is not that it has none."""

    def fail(*_: object, **__: object) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as short:
        short.setattr("vllm_engine.engine.watchdog.child_watcher.os.open", fail)
        assert children_state(os.getsid(0)) is None
        watcher = ChildWatcher(os.getsid(0))
        waiting = asyncio.create_task(watcher.first_loss())
        await asyncio.sleep(0)
    assert "cannot be watched yet: [Errno 24]" in caplog.text
    assert not waiting.done()
    waiting.cancel()
    watcher.close()
