"""New connections are taken many at a time, and a want of files ends nothing."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import AsyncIterator

import pytest

from vllm_engine.gateway.http import acceptor as acceptor_module
from vllm_engine.gateway.http.acceptor import Acceptor


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


class Listener(socket.socket):
    failures: list[int]
    accepts: int = 0
    asked: asyncio.Event

    def accept(self) -> tuple[socket.socket, object]:
        self.accepts += 1
        self.asked.set()
        if self.failures:
            number = self.failures.pop(0)
            raise OSError(number, "as the test wants")
        return super().accept()


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    with Listener(socket.AF_INET, socket.SOCK_STREAM) as one:
        one.failures = []
        one.asked = asyncio.Event()
        one.bind(("127.0.0.1", 0))
        one.listen(128)
        one.setblocking(False)
        yield one


def acceptor(listener: Listener, most: int = 1000) -> Acceptor:
    return Acceptor([listener], Greeter, lambda more: more < most, tls=None, handshake_seconds=5)


def clients(listener: Listener, count: int) -> list[socket.socket]:
    return [socket.create_connection(listener.getsockname(), 5) for _ in range(count)]


async def said(client: socket.socket) -> bytes:
    reader, writer = await asyncio.open_connection(sock=client)
    try:
        return await asyncio.wait_for(reader.read(), 30)
    finally:
        writer.close()


async def test_many_in_one_turn(listener: Listener) -> None:
    """All that wait are taken in one turn of the event loop, not one a turn."""
    waiting = clients(listener, 20)
    accepting = acceptor(listener)
    accepting.start()
    await listener.asked.wait()
    assert listener.accepts == 21
    assert [await said(client) for client in waiting] == [b"hello"] * 20
    accepting.close()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EPERM])
async def test_an_accept_that_fails(
    listener: Listener, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is accepted for a moment, which is said once; then everybody is taken."""
    monkeypatch.setattr(acceptor_module, "_REST_SECONDS", 0.01)
    listener.failures = [number] * 3
    waiting = clients(listener, 3)
    accepting = acceptor(listener)
    with caplog.at_level(logging.WARNING, "gateway"):
        accepting.start()
        assert [await said(client) for client in waiting] == [b"hello"] * 3
    assert len(caplog.records) == 1
    accepting.close()


async def test_a_client_that_left_before_it_was_accepted(listener: Listener) -> None:
    """It is passed over: the others need not wait."""
    listener.failures = [errno.ECONNABORTED]
    waiting = clients(listener, 2)
    accepting = acceptor(listener)
    accepting.start()
    assert [await said(client) for client in waiting] == [b"hello"] * 2
    accepting.close()


async def test_more_than_there_may_be(listener: Listener) -> None:
    """Those for whom there is no room are closed."""
    waiting = clients(listener, 5)
    accepting = acceptor(listener, most=2)
    accepting.start()
    answers = [await said(client) for client in waiting]
    assert sorted(answers) == [b"", b"", b"", b"hello", b"hello"]
    accepting.close()
