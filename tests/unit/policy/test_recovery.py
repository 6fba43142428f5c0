"""Recovery: who waits for a restart, for how long, and what becomes of it."""

from __future__ import annotations

import asyncio

import pytest

from vllm_engine.engine.engine_state import EngineState, StatusBoard
from vllm_engine.gateway.proxy import failover as module
from vllm_engine.gateway.proxy.failover import Recovery, Verdict
from vllm_engine.gateway.rejection import Rejected


def ready_board() -> StatusBoard:
    """Return the board of an engine that serves."""
    board = StatusBoard()
    board.move(EngineState.READY)
    return board


def recovery(board: StatusBoard, *, timeout: float = 5.0, waiting: int = 8) -> Recovery:
    """Return one with some patience."""
    return Recovery(board, timeout_seconds=timeout, max_waiting=waiting)


def restart(board: StatusBoard) -> None:
    """Go through a restart."""
    board.move(EngineState.BACKOFF)
    board.restart()
    board.move(EngineState.READY)


def test_a_first_start_is_none() -> None:
    """While the engine has never served, nobody waits: that may take long, and it may never."""
    assert not recovery(StatusBoard()).is_under_way


def test_under_way() -> None:
    """From the loss until the next readiness a restart is under way; never where replay is off."""
    board = ready_board()
    own, off = recovery(board), recovery(board, timeout=0)
    seen = [own.is_under_way]
    for state in (EngineState.UNHEALTHY, EngineState.BACKOFF, EngineState.STARTING, EngineState.DRAINING):
        if state is EngineState.STARTING:
            board.restart()
        else:
            board.move(state)
        seen.append(own.is_under_way)
        assert not off.is_under_way
    assert seen == [False, True, True, True, False]


async def test_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that nobody finds lost has only failed this one request."""
    monkeypatch.setattr(module, "NOTICE_SECONDS", 0.01)
    assert await recovery(ready_board()).after_failure(1) is Verdict.LIVES


async def test_restarted() -> None:
    """A loss that is noticed after the failure, then a restart."""
    board = ready_board()
    own = recovery(board)
    waiting = asyncio.create_task(own.after_failure(1))
    await asyncio.sleep(0)
    board.move(EngineState.BACKOFF)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert own.waiting == 1
    board.restart()
    board.move(EngineState.READY)
    assert await waiting is Verdict.RESTARTED
    assert own.waiting == 0


async def test_restarted_already() -> None:
    """A restart that came before the question counts."""
    board = ready_board()
    restart(board)
    assert await recovery(board).after_failure(1) is Verdict.RESTARTED


@pytest.mark.parametrize("end", [EngineState.FAILED, EngineState.DRAINING])
async def test_gone(end: EngineState) -> None:
    """An engine that failed for good, or a server that stops, ends the wait."""
    board = ready_board()
    waiting = asyncio.create_task(recovery(board).after_failure(1))
    await asyncio.sleep(0)
    board.move(end)
    assert await waiting is Verdict.GONE


async def test_too_late() -> None:
    """A restart that takes longer than the timeout is none."""
    board = ready_board()
    board.move(EngineState.BACKOFF)
    assert await recovery(board, timeout=0.01).after_failure(1) is Verdict.GONE
    with pytest.raises(Rejected, match=r"REPLAY_TIMEOUT_SECONDS=0\.01"):
        await recovery(board, timeout=0.01).until_ready()


async def test_bounded() -> None:
    """No more wait than may."""
    board = ready_board()
    board.move(EngineState.BACKOFF)
    own = recovery(board, waiting=1)
    first = asyncio.create_task(own.until_ready())
    await asyncio.sleep(0)
    with pytest.raises(Rejected, match="1 requests wait"):
        await own.until_ready()
    # Whoever had a place at the engine keeps it.
    lost = asyncio.create_task(own.after_failure(1))
    await asyncio.sleep(0)
    assert own.waiting == 2
    board.restart()
    board.move(EngineState.READY)
    await first
    assert await lost is Verdict.RESTARTED
