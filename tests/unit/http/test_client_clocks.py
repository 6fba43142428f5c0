"""The clocks of a client's connection, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.support.virtual.client_transport import ClientTransport
from tests.support.virtual.virtual_time import in_virtual_time
from vllm_engine.gateway.http.client_clocks import (
    IDLE_SECONDS,
    MAX_BYTES,
    SLOWEST_BYTES_PER_SECOND,
    TOTAL_SECONDS,
    LingeringClose,
    SendTimer,
)

SECONDS = 60.0
Act = Callable[[ClientTransport], None]


def send_timer() -> tuple[ClientTransport, SendTimer]:
    """Return a timer that runs, for a response of which much is unsent."""
    client = ClientTransport()
    client.unsent = 65_536
    timer = SendTimer(asyncio.get_running_loop(), client, SECONDS, client.abort)
    timer.start()
    return client, timer


def reads(count: int) -> Act:
    def act(client: ClientTransport) -> None:
        client.client.acknowledged += count

    return act


def empties_our_buffers(client: ClientTransport) -> None:
    """Where the kernel does not count what is acknowledged, what has left our buffers counts."""
    client.unsent = max(0, client.unsent - 2 * SLOWEST_BYTES_PER_SECOND)


@in_virtual_time
async def test_a_response_has_to_be_read() -> None:
    for first, each_second, cut_after in (
        (0, reads(0), 60),
        (0, reads(1), 60),  # a byte now and then does not buy time
        (100_000_000, reads(0), 120),  # nor does having read much pay for reading nothing
        (0, reads(2 * SLOWEST_BYTES_PER_SECOND), None),  # slow and steady, although our buffer stays full
        (0, empties_our_buffers, None),
    ):
        client, _ = send_timer()
        reads(first)(client)
        cut: int | None = None
        for second in range(1, 600):
            await asyncio.sleep(1)
            each_second(client)
            if client.is_cut and cut is None:
                cut = second
        assert cut == cut_after


@in_virtual_time
async def test_a_client_that_keeps_up_has_no_timer() -> None:
    for is_stopped in (True, False):
        client, timer = send_timer()
        if is_stopped:
            timer.stop()
        else:
            client.unsent = 0
        await asyncio.sleep(10 * SECONDS)
        assert (client.is_cut, timer._timer) == (False, None)


@pytest.mark.parametrize("tls", [False, True])
@in_virtual_time
async def test_lingering_close(tls: bool) -> None:
    """Our side is closed at once, the rest when nothing more comes; bytes buy time, but not for ever."""
    loop = asyncio.get_running_loop()
    silent, trickling, flooding = (ClientTransport(tls=tls) for _ in range(3))
    _, trickle, flood = (LingeringClose(loop, client) for client in (silent, trickling, flooding))
    assert silent.is_half_closed is not tls
    cuts = []
    for count in (MAX_BYTES, 1):
        flood.discard(count)
        cuts.append(flooding.is_cut)
    assert cuts == [False, True]
    for second in range(int(TOTAL_SECONDS)):
        assert (silent.is_cut, trickling.is_cut) == (second >= IDLE_SECONDS, False)
        trickle.discard(1)
        await asyncio.sleep(1)
    await asyncio.sleep(0.1)
    assert trickling.is_cut
