"""The clocks of a client's connection: answers that are not read, lingering closes, clients that may be gone."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from tests.support.virtual_time import TimerLoop
from vllm_engine.gateway.http import peer_socket as peer_module
from vllm_engine.gateway.http import send_timer as send_timer_module
from vllm_engine.gateway.http.lingering_close import IDLE_SECONDS, MAX_BYTES, TOTAL_SECONDS, LingeringClose
from vllm_engine.gateway.http.peer_socket import PeerState, PeerWatch, Taken
from vllm_engine.gateway.http.send_timer import SLOWEST_BYTES_PER_SECOND, SendTimer

SECONDS = 60.0


class Connection:
    """A transport and the client behind it."""

    def __init__(self, *, can_write_eof: bool = True) -> None:
        self.unsent = 65_536
        self.acknowledged = 0
        self.state = PeerState.OPEN
        self.questions = 0
        self.cuts = 0
        self.is_half_closed = False
        self._can_write_eof = can_write_eof

    @property
    def transport(self) -> asyncio.Transport:
        """This, as its users know it."""
        return cast(asyncio.Transport, self)

    def get_write_buffer_size(self) -> int:
        """Return what waits in the transport."""
        return self.unsent

    def can_write_eof(self) -> bool:
        """Say whether there is half of a close."""
        return self._can_write_eof

    def write_eof(self) -> None:
        """Close our side."""
        self.is_half_closed = True

    def abort(self) -> None:
        """Cut it."""
        self.cuts += 1

    def ask(self) -> bool:
        """Note a question."""
        self.questions += 1
        return True

    def taken(self, _: object) -> Taken:
        """Return how far the client has read."""
        return Taken(self.acknowledged, self.unsent)


@pytest.fixture
def time() -> TimerLoop:
    """The time."""
    return TimerLoop()


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Connection:
    """One that reads nothing."""
    connection = Connection()
    monkeypatch.setattr(send_timer_module, "taken_of", connection.taken)
    monkeypatch.setattr(peer_module, "state_of", lambda _: connection.state)
    return connection


def started(time: TimerLoop, client: Connection) -> SendTimer:
    """Return a timer that runs."""
    timer = SendTimer(time.loop, client.transport, SECONDS, client.abort)
    timer.start()
    return timer


def test_an_answer_that_nobody_reads(time: TimerLoop, client: Connection) -> None:
    """It is given up when the time is over, not before."""
    started(time, client)
    time.advance(SECONDS - 1)
    assert client.cuts == 0
    time.advance(1)
    assert client.cuts == 1
    assert time.pending == 0


def test_a_slow_reader(time: TimerLoop, client: Connection) -> None:
    """One that is slow and steady may take for ever, although our side's buffer stays full."""
    started(time, client)
    for _ in range(1000):
        client.acknowledged += 2 * SLOWEST_BYTES_PER_SECOND
        time.advance(1)
    assert client.cuts == 0


def test_a_trickle(time: TimerLoop, client: Connection) -> None:
    """A byte now and then buys no time."""
    started(time, client)
    for _ in range(4):
        client.acknowledged += 1
        time.advance(20)
    assert client.cuts == 1


def test_a_reader_that_stops(time: TimerLoop, client: Connection) -> None:
    """Having read much does not pay for reading nothing."""
    started(time, client)
    client.acknowledged += 100_000_000
    time.advance(2 * SECONDS)
    assert client.cuts == 1


def test_a_kernel_that_counts_nothing(time: TimerLoop, client: Connection) -> None:
    """Where acknowledged bytes are not counted, what has left our buffers is."""
    started(time, client)
    for _ in range(10):
        client.unsent -= 30 * SLOWEST_BYTES_PER_SECOND // 10
        client.acknowledged = 0
        time.advance(1)
    client.unsent = 0
    time.advance(SECONDS)
    assert client.cuts == 0


def test_an_answer_that_is_read(time: TimerLoop, client: Connection) -> None:
    """A client that keeps up again has no timer."""
    timer = started(time, client)
    time.advance(SECONDS - 1)
    timer.stop()
    assert time.pending == 0


def test_an_answer_that_was_sent(time: TimerLoop, client: Connection) -> None:
    """When nothing waits any more the timer ends by itself."""
    started(time, client)
    client.unsent = 0
    time.advance(SECONDS)
    assert client.cuts == 0
    assert time.pending == 0


def test_lingering_close_of_a_silent_client(time: TimerLoop, client: Connection) -> None:
    """Our side is closed at once, the rest when nothing more comes."""
    LingeringClose(time.loop, client.transport)
    assert client.is_half_closed
    assert client.cuts == 0
    time.advance(IDLE_SECONDS)
    assert client.cuts == 1


def test_lingering_close_of_a_trickle(time: TimerLoop, client: Connection) -> None:
    """Bytes buy time, but not for ever."""
    ending = LingeringClose(time.loop, client.transport)
    for _ in range(int(TOTAL_SECONDS) - 1):
        ending.took(1)
        time.advance(1)
    assert client.cuts == 0
    ending.took(1)
    time.advance(1)
    assert client.cuts == 1


def test_lingering_close_of_a_flood(time: TimerLoop, client: Connection) -> None:
    """Nor is everything taken that somebody cares to send."""
    ending = LingeringClose(time.loop, client.transport)
    ending.took(MAX_BYTES)
    assert client.cuts == 0
    ending.took(1)
    assert client.cuts == 1


def test_lingering_close_over_tls(time: TimerLoop) -> None:
    """There is no half of a close over TLS; the client is still given the time to read."""
    client = Connection(can_write_eof=False)
    LingeringClose(time.loop, client.transport)
    assert client.cuts == 0
    time.advance(IDLE_SECONDS)
    assert client.cuts == 1


def watching(time: TimerLoop, client: Connection, patience: float) -> PeerWatch:
    """Return a watch that runs."""
    watch = PeerWatch(time.loop, client.transport, client.ask, client.abort)
    watch.start(patience)
    return watch


def test_a_half_closed_client(time: TimerLoop, client: Connection) -> None:
    """One that still reads is asked after a while, then seldom, and kept."""
    client.state = PeerState.FINISHED
    watching(time, client, 0.25)
    time.advance(0.2)
    assert client.questions == 0
    time.advance(10)
    assert client.questions == 1
    time.advance(50)
    assert 3 <= client.questions <= 5
    assert client.cuts == 0


def test_a_client_that_has_left(time: TimerLoop, client: Connection) -> None:
    """One that answers the question with a reset is gone."""
    client.state = PeerState.FINISHED
    watching(time, client, 0.0)
    time.advance(0.0)
    assert client.questions == 1
    client.state = PeerState.GONE
    time.advance(0.2)
    assert client.cuts == 1
    assert time.pending == 0


def test_a_client_that_cannot_be_asked(time: TimerLoop, client: Connection) -> None:
    """Where nothing may be written an end is a leaving."""
    client.state = PeerState.FINISHED
    PeerWatch(time.loop, client.transport, lambda: False, client.abort).start(0.0)
    time.advance(0.2)
    assert client.cuts == 1


def test_a_client_that_is_there(time: TimerLoop, client: Connection) -> None:
    """One whose bytes are not read for now, and who has not ended, is asked nothing."""
    watch = watching(time, client, 0.0)
    time.advance(100)
    assert client.questions == 0
    assert client.cuts == 0
    watch.stop()
    assert time.pending == 0
