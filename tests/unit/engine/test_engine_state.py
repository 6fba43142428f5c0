"""States: only the transitions of the design are legal."""

from __future__ import annotations

import pytest

from vllm_engine.engine.engine_state import TRANSITIONS, EngineState, Phase, StatusBoard


def board_in(state: EngineState) -> StatusBoard:
    """Return a board that was led to `state` by legal moves."""
    ways = {
        EngineState.STARTING: (),
        EngineState.READY: (EngineState.READY,),
        EngineState.UNHEALTHY: (EngineState.READY, EngineState.UNHEALTHY),
        EngineState.BACKOFF: (EngineState.BACKOFF,),
        EngineState.DRAINING: (EngineState.DRAINING,),
        EngineState.STOPPED: (EngineState.DRAINING, EngineState.STOPPED),
        EngineState.FAILED: (EngineState.FAILED,),
    }
    board = StatusBoard()
    for step in ways[state]:
        board.move(step)
    return board


@pytest.mark.parametrize("state", EngineState)
@pytest.mark.parametrize("target", EngineState)
def test_transition(state: EngineState, target: EngineState) -> None:
    """A legal move lands, an illegal one raises and changes nothing."""
    board = board_in(state)
    if target in TRANSITIONS[state]:
        board.move(target)
        assert board.current.state is target
    else:
        with pytest.raises(ValueError, match="illegal"):
            board.move(target)
        assert board.current.state is state


def test_snapshots_do_not_change() -> None:
    """What a reader holds stays as it was."""
    board = StatusBoard()
    before = board.current
    board.progress(Phase.LOADING_WEIGHTS, 0.5)
    assert (before.phase, board.current.phase, board.current.fraction) == (
        Phase.PREPARING,
        Phase.LOADING_WEIGHTS,
        0.5,
    )


def test_ready_is_only_ready() -> None:
    """No other state counts as ready."""
    assert [state for state in EngineState if board_in(state).current.is_ready] == [EngineState.READY]


def test_watchers_miss_nothing() -> None:
    """A watcher is told of each change in its order, until it ends that."""
    board = StatusBoard()
    seen: list[Phase] = []
    end = board.watch(lambda status: seen.append(status.phase))
    for phase in (Phase.IMPORTING, Phase.LOADING_WEIGHTS, Phase.WARMING_UP):
        board.progress(phase)
    end()
    board.progress(Phase.READY)
    assert seen == [Phase.IMPORTING, Phase.LOADING_WEIGHTS, Phase.WARMING_UP]
