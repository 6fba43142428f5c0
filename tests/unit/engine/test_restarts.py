"""Restarts: limited in a window, with a wait that grows."""

from __future__ import annotations

import pytest

from vllm_engine.engine.restarts import FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS, RestartBudget


class Clock:
    """A clock that is set by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def budget(limit: int, clock: Clock, jitter: float = 1.0) -> RestartBudget:
    """Return a budget over 600 s."""
    return RestartBudget(limit, 600.0, clock=clock, jitter=lambda: jitter)


def test_the_wait_doubles_up_to_a_limit() -> None:
    """Each restart in the window doubles the wait before the next, up to the longest."""
    own = budget(20, Clock())
    waits = [own.take() for _ in range(12)]
    assert waits[:3] == [FIRST_DELAY_SECONDS, 2 * FIRST_DELAY_SECONDS, 4 * FIRST_DELAY_SECONDS]
    assert waits[-1] == LONGEST_DELAY_SECONDS


@pytest.mark.parametrize(("jitter", "share"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
def test_jitter(jitter: float, share: float) -> None:
    """Between half of the wait and all of it is taken."""
    assert budget(1, Clock(), jitter).take() == FIRST_DELAY_SECONDS * share


def test_limit() -> None:
    """When the window's restarts are used up there is none, until the oldest leaves the window."""
    clock = Clock()
    own = budget(2, clock)
    assert own.take() is not None
    clock.now += 500
    assert own.take() is not None
    assert own.take() is None
    clock.now += 101
    assert own.used == 1
    assert own.take() is not None


def test_none_at_all() -> None:
    """A limit of 0 allows no restart."""
    assert budget(0, Clock()).take() is None
