"""The canary: what a token that does not come says about an engine, by its past and by what else is seen of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable

import pytest

from tests.support.virtual_time import in_virtual_time
from vllm_engine.engine.control_client import ProbeError, UnaskedError
from vllm_engine.engine.watchdog.canary import Canary
from vllm_engine.engine.watchdog.child_watcher import Activity
from vllm_engine.engine.watchdog.patience import LEAST_SECONDS, Patience

HANG_SECONDS = 180.0
STILL = Activity(7.0, is_running=False, is_stopped=False)


class Engine:
    """One whose next token comes after some seconds, or never; what is seen of it meanwhile."""

    def __init__(self, seconds: float | None, *, counts: bool = False) -> None:
        self.seconds = seconds
        self.counts = counts
        """Whether its metrics move when it takes up a request."""
        self.asked = 0
        self.activity: Callable[[], Activity | None] = lambda: STILL

    async def generate(self) -> None:
        self.asked += 1
        await asyncio.sleep(1e9 if self.seconds is None else self.seconds)

    async def look(self) -> Hashable:
        return self.asked if self.counts else 0


async def vain(engine: Engine, patience: Patience | None = None) -> float | None:
    """Ask it once."""
    patience = patience or Patience(HANG_SECONDS)
    canary = Canary(engine.generate, engine.look, lambda: engine.activity(), patience)
    return await canary.seconds_in_vain()


@in_virtual_time
async def test_a_stuck_core_is_noticed_soon() -> None:
    """Nothing is done: a third of a minute is enough, with 30 s between canaries and some for looking."""
    seconds = await vain(Engine(None))
    assert seconds is not None
    assert LEAST_SECONDS < seconds < 25


@in_virtual_time
async def test_a_slow_token_is_no_hang() -> None:
    """Twelve seconds are within everybody's patience."""
    assert await vain(Engine(12)) is None


@in_virtual_time
async def test_patience_follows_the_past() -> None:
    """An engine that has taken 12 s before may take 40; a minute and more without any sign is a hang."""
    patience = Patience(HANG_SECONDS)
    patience.took(12)
    assert await vain(Engine(40), patience) is None
    patience = Patience(HANG_SECONDS)
    patience.took(12)
    seconds = await vain(Engine(None), patience)
    assert seconds is not None
    assert 60 < seconds < 70


@in_virtual_time
async def test_what_it_took_is_its_past() -> None:
    """A canary that came late makes the next ones wait longer."""
    patience = Patience(HANG_SECONDS)
    assert await vain(Engine(15), patience) is None
    assert patience.seconds == 75


def test_patience_has_an_end() -> None:
    """HANG_TIMEOUT_SECONDS is never exceeded, however short."""
    patience = Patience(3)
    assert patience.seconds == 3
    patience.took(100)
    assert patience.seconds == 3


@in_virtual_time
async def test_metrics_that_moved_mean_that_it_works() -> None:
    """A first slow step may come suddenly: an engine that has taken the request up has all the time there is."""
    assert await vain(Engine(170, counts=True)) is None
    seconds = await vain(Engine(None, counts=True))
    assert seconds is not None
    assert HANG_SECONDS < seconds < HANG_SECONDS + 5


@pytest.mark.parametrize("what", ["on a cpu", "has used a cpu", "cannot be told"])
def test_a_core_that_computes_works(what: str) -> None:
    """Within one step vLLM's metrics cannot move, but the operating system knows."""

    @in_virtual_time
    async def test() -> None:
        engine = Engine(170)
        loop = asyncio.get_running_loop()
        engine.activity = {
            "on a cpu": lambda: Activity(7.0, is_running=True, is_stopped=False),
            "has used a cpu": lambda: Activity(loop.time() / 2, is_running=False, is_stopped=False),
            "cannot be told": lambda: None,
        }[what]
        assert await vain(engine) is None

    test()


@in_virtual_time
async def test_who_cannot_look_says_nothing() -> None:
    """For want of files of our own there is neither a verdict nor an end."""
    engine = Engine(500)

    async def look() -> Hashable:
        if engine.asked:
            raise UnaskedError("no files")
        return 0

    canary = Canary(engine.generate, look, lambda: STILL, Patience(HANG_SECONDS))
    assert await canary.seconds_in_vain() is None


@in_virtual_time
async def test_an_error_is_the_callers_matter() -> None:
    """An engine that fails is no engine that hangs; nor does a question that could not be asked say anything."""
    for error in (ProbeError("500"), UnaskedError("no files")):

        async def generate(error: ProbeError = error) -> None:
            raise error

        engine = Engine(None)
        canary = Canary(generate, engine.look, lambda: STILL, Patience(HANG_SECONDS))
        with pytest.raises(type(error)):
            await canary.seconds_in_vain()
