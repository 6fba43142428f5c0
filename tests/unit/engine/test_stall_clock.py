"""The stall clock: time with work and without progress."""

from __future__ import annotations

from vllm_engine.engine.watchdog.stall_clock import StallClock


def test_idle_is_no_stall() -> None:
    """Without requests nothing has to move."""
    clock = StallClock()
    assert [clock.seconds(now, 0, "same") for now in (0, 10, 1000)] == [0, 0, 0]


def test_progress_starts_it_anew() -> None:
    """Whatever changes counts as progress."""
    clock = StallClock()
    assert clock.seconds(0, 1, (1, None)) == 0
    assert clock.seconds(5, 1, (1, None)) == 5
    assert clock.seconds(6, 1, (2, None)) == 0
    assert clock.seconds(9, 1, (2, "a step of a long prefill")) == 0
    assert clock.seconds(11, 1, (2, "a step of a long prefill")) == 2


def test_more_requests_are_no_progress() -> None:
    """Clients that keep coming do not hide a stuck engine."""
    clock = StallClock()
    for now in range(10):
        stalled = clock.seconds(now, now + 1, "same")
    assert stalled == 9


def test_clients_that_give_up_are_no_progress() -> None:
    """Nor do clients that lose their patience sooner than we; the time between them does not count."""
    clock = StallClock()
    for now in range(0, 100, 10):
        clock.seconds(now, 1, "same")
        stalled = clock.seconds(now + 6, 0, "same")
    assert stalled == 60
    assert clock.seconds(100, 1, "same") == 60
    assert clock.seconds(101, 1, "a token") == 0
