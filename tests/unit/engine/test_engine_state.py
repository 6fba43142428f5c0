"""States: only the transitions of the design are legal."""

from __future__ import annotations

import itertools

import pytest

from vllm_engine.engine.engine_state import TRANSITIONS, EngineState, Phase, StatusBoard
from vllm_engine.errors import Diagnosis

S = EngineState
WAYS = {
    S.STARTING: (), S.READY: (S.READY,), S.UNHEALTHY: (S.READY, S.UNHEALTHY), S.BACKOFF: (S.BACKOFF,),
    S.DRAINING: (S.DRAINING,), S.STOPPED: (S.DRAINING, S.STOPPED), S.FAILED: (S.FAILED,),
}  # fmt: skip


def board_in(state: EngineState) -> StatusBoard:
    """Return a board that was led to `state` by legal moves."""
    board = StatusBoard()
    for step in WAYS[state]:
        board.move(step)
    return board


def test_transitions() -> None:
    """A legal move lands, an illegal one raises and changes nothing; only one state is ready."""
    for state, target in itertools.product(EngineState, repeat=2):
        board = board_in(state)
        if target in TRANSITIONS[state]:
            board.move(target)
            assert board.current.state is target
        else:
            with pytest.raises(ValueError, match="illegal"):
                board.move(target)
            assert board.current.state is state
    assert [state for state in EngineState if board_in(state).current.is_ready] == [S.READY]


def test_snapshots() -> None:
    """What a reader holds stays as it was; a watcher is told of each change in its order, until it ends that."""
    board = StatusBoard()
    before, seen = board.current, list[Phase]()
    end = board.watch(lambda status: seen.append(status.phase))
    for phase in (Phase.IMPORTING, Phase.LOADING_WEIGHTS, Phase.WARMING_UP):
        board.progress(phase)
    end()
    board.progress(Phase.READY)
    assert (before.phase, board.current.phase) == (Phase.PREPARING, Phase.READY)
    assert seen == [Phase.IMPORTING, Phase.LOADING_WEIGHTS, Phase.WARMING_UP]


def test_fraction_never_goes_back() -> None:
    """Within a phase it only grows; a new phase begins without one."""
    board = StatusBoard()
    for fraction in (0.5, 0.25):
        board.progress(Phase.LOADING_WEIGHTS, fraction)
    assert board.current.fraction == 0.5
    board.progress(Phase.COMPILING)
    assert board.current.fraction is None


def test_a_diagnosis_belongs_to_the_state_it_was_given_with() -> None:
    board, told = StatusBoard(), Diagnosis("disk-full", "the disk is full")
    board.move(S.BACKOFF, error=told)
    assert board.current.error is told
    board.move(S.STARTING)
    assert board.current.error is None
