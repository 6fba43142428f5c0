"""When an idle engine is stopped, and what starts it again; on a virtual clock, with played processes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.support.virtual.engine_rig import Life
from tests.support.virtual.supervised import LASTING, PASSING, Case
from tests.support.virtual.virtual_time import in_virtual_time, settle
from vllm_engine.engine.engine_state import EngineState, StatusBoard
from vllm_engine.engine.idle import ClientDemand, until_lost_or_idle
from vllm_engine.errors import StartupError

STOP = 60.0


def request(demand: ClientDemand, begins: float, ends: float, *, is_routine: bool = False) -> None:
    """Have a request under way from then to then."""
    loop = asyncio.get_running_loop()
    loop.call_later(begins, partial(demand.enter, is_routine=is_routine))
    loop.call_later(ends, partial(demand.leave, is_routine=is_routine))


def nothing(_: ClientDemand) -> None: ...


def overlapping(demand: ClientDemand) -> None:
    request(demand, 10, 100)
    request(demand, 50, 70)


def a_trickle(demand: ClientDemand) -> None:
    for at in range(0, 600, 59):
        request(demand, at, at + 1)


def polling(demand: ClientDemand) -> None:
    for at in range(200):
        request(demand, at + 0.5, at + 0.75, is_routine=True)


def a_slow_listing(demand: ClientDemand) -> None:
    request(demand, 59, 80, is_routine=True)


def an_adapter_loaded(demand: ClientDemand) -> None:
    request(demand, 1, 2)
    asyncio.get_running_loop().call_later(2, demand.keep, "POST /v1/load_lora_adapter")


@pytest.mark.parametrize(
    ("what", "due"),
    [
        (nothing, 60), (overlapping, 160), (a_trickle, 10 * 59 + 1 + 60), (polling, 60), (a_slow_listing, 80),
        (an_adapter_loaded, None),
    ],
)  # fmt: skip
@in_virtual_time
async def test_when_a_stop_is_due(what: Callable[[ClientDemand], None], due: float | None) -> None:
    """So long after the last request's end; listings are waited for, and do not count; never with 0."""
    loop = asyncio.get_running_loop()
    demand, never = ClientDemand(STOP), ClientDemand(0)
    demand.begin()
    what(demand)
    began = loop.time()
    waits = [asyncio.create_task(one.until_stop_due()) for one in (demand, never)]
    await asyncio.wait(waits, timeout=1000, return_when=asyncio.FIRST_COMPLETED)
    assert [wait.done() for wait in waits] == [due is not None, False]
    assert loop.time() - began == pytest.approx(1000 if due is None else due)
    for wait in waits:
        wait.cancel()


@pytest.mark.parametrize("steps", range(6))
@in_virtual_time
async def test_no_request_between_the_decision_and_the_stop(steps: int) -> None:
    """A request that comes at that very moment finds the engine ready and kept, or idle and about to be started."""
    board, demand, found = StatusBoard(), ClientDemand(STOP), list[EngineState]()
    board.move(EngineState.READY)
    demand.begin()
    lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(until_lost_or_idle(lost, demand, board))
    await asyncio.sleep(STOP)
    for _ in range(steps):  # each a turn of the event loop in which a request could come
        await asyncio.sleep(0)
    found.append(board.current.state)
    demand.enter()
    await settle()
    assert board.current.state is found[0]
    assert waiting.done() is (found[0] is EngineState.IDLE)
    await demand.until_wanted()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


@in_virtual_time
async def test_a_loss_and_a_drain_come_first() -> None:
    for state, told in ((EngineState.READY, "lost"), (EngineState.DRAINING, "lost")):
        board, demand = StatusBoard(), ClientDemand(STOP)
        board.move(EngineState.READY)
        demand.begin()
        lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(
            STOP if state is EngineState.READY else 500, lost.set_result, told
        )
        if state is EngineState.DRAINING:
            asyncio.get_running_loop().call_later(1, board.move, state)
        assert await until_lost_or_idle(lost, demand, board) == told
        assert board.current.state is state


@in_virtual_time
async def test_stop_and_wake(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing runs meanwhile but the standby; no diagnosis, no restart counted, and the standby is the next engine."""
    caplog.set_level(logging.INFO)
    for has_standby, processes in ((True, 1), (False, 0)):
        case = Case(tmp_path, Life(), standby=has_standby, max_restarts=0, idle_stop_seconds=STOP)
        running = asyncio.create_task(case.run(1000))
        await asyncio.sleep(500)
        now = case.board.current
        assert (now.state, now.pid, now.models) == (EngineState.IDLE, None, b'{"data": []}')
        assert sum(process.is_running for process in case.rig.processes) == processes
        assert (case.rig.processes[0].ended, now.standby_bytes is not None) == (["stop 10"], has_standby)
        case.demand.enter()
        await asyncio.sleep(20)
        assert (case.board.current.is_ready, case.board.current.starts, case.exits) == (True, 2, [])
        assert (", from the standby" in caplog.text) is has_standby
        await asyncio.sleep(300)
        assert case.board.current.is_ready, "the request is still under way"
        await running
        assert case.path == "starting ready idle starting ready draining stopped"
        caplog.clear()


@in_virtual_time
async def test_a_client_that_gives_up_while_the_engine_starts(tmp_path: Path) -> None:
    """The start goes on, and the engine is stopped again in its time; one that left before leaves it stopped."""
    case = Case(tmp_path, Life(up_after=100), idle_stop_seconds=STOP)
    running = asyncio.create_task(case.run(1000))
    await asyncio.sleep(200)
    request(case.demand, 0, 10)
    await asyncio.sleep(120)
    assert case.board.current.is_ready
    await asyncio.sleep(100)
    assert case.board.current.state is EngineState.IDLE
    await running
    assert case.path == "starting ready idle starting ready idle draining stopped"


@in_virtual_time
async def test_a_request_while_the_engine_is_being_stopped(tmp_path: Path) -> None:
    """It is started once it has ended, for those who still wait."""
    for leaves_after, path in ((30, "idle starting ready draining"), (5, "idle draining")):
        case = Case(tmp_path, Life(stop_seconds=9), idle_stop_seconds=STOP)
        running = asyncio.create_task(case.run(100))
        await asyncio.sleep(5.1 + STOP + 1)
        request(case.demand, 0, leaves_after)
        await running
        assert case.path == f"starting ready {path} stopped"


@in_virtual_time
async def test_a_stop_of_the_program_while_the_engine_is_being_stopped(tmp_path: Path) -> None:
    """The engine that takes its time is stopped all the same, and is not left behind."""
    case = Case(tmp_path, Life(stop_seconds=9), idle_stop_seconds=STOP)
    await case.run(5.1 + STOP + 1)
    [engine] = case.rig.processes
    assert (engine.is_running, engine.ended) == (False, ["stop 10", "stop 10"])
    assert case.path == "starting ready idle draining stopped"


@in_virtual_time
async def test_an_engine_that_does_not_wake_fails_as_any_start(tmp_path: Path) -> None:
    """A standby's failure is no verdict; a lasting cause ends it, and a passing one after MAX_RESTARTS."""
    for diagnosis, starts, told in (
        (LASTING, 2, "no known cause"),
        (PASSING, 4, "given up after 2 restarts"),
    ):
        lives = (Life(), Life(up_after=9, exits_after=95), Life(exits_after=1))
        case = Case(
            tmp_path, *lives, diagnosis=diagnosis, standby=True, max_restarts=2, idle_stop_seconds=30.0
        )
        asyncio.get_running_loop().call_later(100, case.demand.enter)
        error = await case.run(2000)
        assert isinstance(error, StartupError)
        assert told in str(error)
        assert case.path == "starting ready idle starting" + " backoff starting" * (starts - 1) + " failed"
        assert [ended.was_ready for ended in case.exits] == [False] * starts


@in_virtual_time
async def test_a_stop_of_the_program_while_the_engine_is_idle(tmp_path: Path) -> None:
    """It is clean; a request in the same moment changes nothing."""
    for is_asked in (False, True):
        case = Case(tmp_path, Life(), standby=True, idle_stop_seconds=STOP)
        running = asyncio.create_task(case.run(200))
        await asyncio.sleep(199)
        if is_asked:
            case.demand.enter()
        case.supervisor.begin_drain()
        assert isinstance(await running, asyncio.CancelledError)
        assert case.path == "starting ready idle draining stopped"
