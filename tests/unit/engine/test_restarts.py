"""Restarts: limited in a window, with a wait that grows. Which failure is followed by one: test_supervisor."""

from __future__ import annotations

from vllm_engine.engine.restarts import FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS, RestartBudget


def test_the_wait_doubles_up_to_a_limit() -> None:
    """Between half of the wait and all of it is taken."""
    budget = RestartBudget(20, 600.0, clock=lambda: 0.0, jitter=lambda: 1.0)
    waits = [budget.take() for _ in range(12)]
    assert waits[:3] == [FIRST_DELAY_SECONDS, 2 * FIRST_DELAY_SECONDS, 4 * FIRST_DELAY_SECONDS]
    assert waits[-1] == LONGEST_DELAY_SECONDS
    assert RestartBudget(1, 600.0, jitter=lambda: 0.0).take() == FIRST_DELAY_SECONDS * 0.5


def test_limit() -> None:
    """When the window's restarts are used up there is none, until the oldest leaves the window."""
    now = 0.0
    budget = RestartBudget(2, 600.0, clock=lambda: now)
    assert budget.take() is not None
    now = 500.0
    assert budget.take() is not None
    assert budget.take() is None
    now = 601.0
    assert budget.used == 1
    assert budget.take() is not None
    assert RestartBudget(0, 600.0).take() is None
