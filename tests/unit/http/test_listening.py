"""The listening sockets: every address of HOST, many connections a turn, and no failure that ends it."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from tests.support.program import free_port
from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import Settings, load_settings
from vllm_engine.errors import SettingsError
from vllm_engine.gateway.http import acceptor as acceptor_module
from vllm_engine.gateway.http.acceptor import Acceptor
from vllm_engine.gateway.http.http_server import running
from vllm_engine.gateway.http.incoming import ConnectionLimits
from vllm_engine.gateway.http.listening_sockets import listen


def settings(host: str) -> Settings:
    return load_settings(Environment({"PORT": str(free_port()), "HOST": host}, {}))


def resolves_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let every name stand for these addresses, each found twice as resolvers do."""

    def resolve(_: str, port: int, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in addresses for _ in "ab"]

    monkeypatch.setattr("vllm_engine.gateway.http.listening_sockets.socket.getaddrinfo", resolve)


def test_every_address_of_a_name_that_this_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """`localhost` is often two; a container without IPv6 still has `::1 localhost` in its hosts file."""
    for addresses, missing in ((["127.0.0.2", "127.0.0.1"], ()), (["127.0.0.1"], ("192.0.2.1",))):
        resolves_to(monkeypatch, *missing, *addresses)
        wanted = settings("localhost")
        listeners = listen(wanted)
        assert [one.getsockname() for one in listeners.api] == [(one, wanted.port) for one in addresses]
        for listener in listeners.api:
            with socket.socket() as client:
                client.connect(listener.getsockname())
        listeners.close()
    resolves_to(monkeypatch, "192.0.2.1")
    with pytest.raises(SettingsError, match="HOST"):
        listen(settings("elsewhere"))


def test_a_name_that_no_resolver_would_be_asked_for() -> None:
    for host in ("a..b", "a" * 64):
        with pytest.raises(SettingsError, match="HOST"):
            listen(settings(host))


async def no_app(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError


async def test_variables_of_other_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosting platforms set them for uvicorn and gunicorn; one process serves whatever they say."""
    monkeypatch.setenv("WEB_CONCURRENCY", "auto")
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "auto")
    wanted = settings("127.0.0.1")
    limits = ConnectionLimits(5, 5, 10)
    async with running(no_app, listen(wanted).api, limits, keep_alive_seconds=5, lifespan="off"):
        reader, writer = await asyncio.open_connection("127.0.0.1", wanted.port)
        writer.write(b"nonsense\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
        writer.close()


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


class Listener(socket.socket):
    """Counts its accepts, the first of which fail with these errors."""

    failures: list[int]
    accepts = 0
    asked: asyncio.Event

    def accept(self) -> tuple[socket.socket, object]:
        self.accepts += 1
        self.asked.set()
        if self.failures:
            raise OSError(self.failures.pop(0), "as the test wants")
        return super().accept()


async def greeted(count: int, *failures: int, most: int = 1000) -> tuple[int, list[bytes]]:
    """Accept so many clients; returns the accepts of the event loop's first turn, and what each client read."""
    with Listener() as listener:
        listener.failures, listener.asked = list(failures), asyncio.Event()
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        listener.setblocking(False)
        clients = [socket.create_connection(listener.getsockname(), 5) for _ in range(count)]
        acceptor = Acceptor([listener], Greeter, lambda more: more < most, tls=None, handshake_seconds=5)
        acceptor.start()
        await listener.asked.wait()
        accepts, read = listener.accepts, list[bytes]()
        for client in clients:
            reader, writer = await asyncio.open_connection(sock=client)
            read.append(await asyncio.wait_for(reader.read(), 30))
            writer.close()
        acceptor.close()
        return accepts, read


async def test_all_that_wait_are_accepted_in_one_turn_and_those_without_room_closed() -> None:
    assert await greeted(20) == (21, [b"hello"] * 20)
    _, read = await greeted(5, most=2)
    assert sorted(read) == [b""] * 3 + [b"hello"] * 2


async def test_an_accept_that_fails_is_said_once_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that has left before is passed over in silence."""
    monkeypatch.setattr(acceptor_module, "_REST_SECONDS", 0.01)
    for number, warnings in ((errno.EMFILE, 1), (errno.EPERM, 1), (errno.ECONNABORTED, 0)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "gateway"):
            _, read = await greeted(3, number, number, number)
        assert (read, len(caplog.records)) == ([b"hello"] * 3, warnings)
