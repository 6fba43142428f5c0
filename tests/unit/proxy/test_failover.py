"""Recovery: who waits for a restart, for how long, and what comes of it."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.virtual.virtual_time import in_virtual_time
from vllm_engine.engine.engine_state import EngineState, StatusBoard
from vllm_engine.gateway.proxy.failover import NOTICE_SECONDS, Recovery, Verdict
from vllm_engine.gateway.rejection import Rejected


def recovery(*states: EngineState, waiting: int = 8) -> tuple[StatusBoard, Recovery]:
    """Return the board of an engine that was ready and has moved on since, and who waits for it."""
    board = StatusBoard()
    for state in (EngineState.READY, *states):
        board.move(state)
    return board, Recovery(board, timeout_seconds=60, max_waiting=waiting)


def restart(board: StatusBoard) -> None:
    if board.current.state is not EngineState.BACKOFF:
        board.move(EngineState.BACKOFF)
    board.restart()
    board.move(EngineState.READY)


def test_a_restart_is_under_way_from_the_loss_to_the_next_readiness() -> None:
    """Never during the first start, which may be long and in vain, and never where replay is off."""
    assert not Recovery(StatusBoard(), timeout_seconds=60, max_waiting=8).is_under_way
    board, own = recovery()
    off = Recovery(board, timeout_seconds=0, max_waiting=8)
    seen = [own.is_under_way]
    for state in (EngineState.UNHEALTHY, EngineState.BACKOFF, EngineState.STARTING, EngineState.DRAINING):
        if state is EngineState.STARTING:
            board.restart()
        else:
            board.move(state)
        seen.append(own.is_under_way)
        assert not off.is_under_way
    assert seen == [False, True, True, True, False]


@in_virtual_time
async def test_verdicts() -> None:
    loop = asyncio.get_running_loop()
    board, own = recovery()
    assert await own.after_failure(1) is Verdict.LIVES
    loop.call_later(NOTICE_SECONDS / 2, board.move, EngineState.BACKOFF)
    loop.call_later(50, restart, board)
    assert await own.after_failure(1) is Verdict.RESTARTED
    assert await own.after_failure(1) is Verdict.RESTARTED  # it came before the question
    for end in (EngineState.FAILED, EngineState.DRAINING):
        board, own = recovery()
        loop.call_later(1, board.move, end)
        assert await own.after_failure(1) is Verdict.GONE
    board, own = recovery(EngineState.BACKOFF)
    loop.call_later(61, restart, board)
    assert await own.after_failure(1) is Verdict.GONE
    board, own = recovery(EngineState.BACKOFF)
    with pytest.raises(Rejected, match="REPLAY_TIMEOUT_SECONDS=60") as late:
        await own.until_ready()
    assert late.value.has_waited


@in_virtual_time
async def test_no_more_wait_than_may() -> None:
    """Whoever had a place at the engine keeps it."""
    board, own = recovery(EngineState.BACKOFF, waiting=1)
    first = asyncio.create_task(own.until_ready())
    await asyncio.sleep(0)
    with pytest.raises(Rejected, match="1 requests already wait"):
        await own.until_ready()
    lost = asyncio.create_task(own.after_failure(1))
    await asyncio.sleep(0)
    assert own.waiting == 2
    restart(board)
    await first
    assert (await lost, own.waiting) == (Verdict.RESTARTED, 0)
