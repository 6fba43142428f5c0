"""The listening sockets: every address of HOST, and nothing of other servers' variables."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import Settings, load_settings
from vllm_engine.errors import SettingsError
from vllm_engine.gateway.http.http_server import running
from vllm_engine.gateway.http.incoming import ConnectionLimits
from vllm_engine.gateway.http.listening_sockets import listen


def settings(**variables: str) -> Settings:
    """Return settings with a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return load_settings(Environment({"PORT": str(port)} | variables, {}))


def resolves_to(monkeypatch: pytest.MonkeyPatch, addresses: Iterable[str]) -> None:
    """Let every name stand for these addresses, each found twice as resolvers do."""
    found = [
        (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", address)
        for address in addresses
        for _ in range(2)
    ]

    def resolve(*asked: Any, **_: object) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
        port = asked[1]
        return [
            (family, kind, proto, name, (address, port, 0, 0) if ":" in address else (address, port))
            for family, kind, proto, name, address in found
        ]

    monkeypatch.setattr("vllm_engine.gateway.http.listening_sockets.socket.getaddrinfo", resolve)


def test_every_address_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """`localhost` is two addresses in most machines' hosts file; both are listened on, at one port."""
    wanted = settings(HOST="localhost")
    resolves_to(monkeypatch, ["127.0.0.2", "127.0.0.1"])
    listeners = listen(wanted)
    for listener in listeners.api:
        with socket.create_connection(listener.getsockname(), 5):
            pass
    assert [listener.getsockname() for listener in listeners.api] == [
        ("127.0.0.2", wanted.port),
        ("127.0.0.1", wanted.port),
    ]
    listeners.close()


def test_an_address_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container without IPv6 still has `::1 localhost` in its hosts file: the other address will do."""
    wanted = settings(HOST="localhost")
    resolves_to(monkeypatch, ["192.0.2.1", "127.0.0.1"])
    listeners = listen(wanted)
    assert [listener.getsockname()[0] for listener in listeners.api] == ["127.0.0.1"]
    listeners.close()


def test_no_address_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none is left the setting is named."""
    resolves_to(monkeypatch, ["192.0.2.1"])
    with pytest.raises(SettingsError, match="HOST"):
        listen(settings(HOST="elsewhere"))


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
def test_a_name_that_can_be_none(host: str) -> None:
    """What no resolver would be asked for is said as what cannot be resolved is."""
    with pytest.raises(SettingsError, match="HOST"):
        listen(settings(HOST=host))


def test_variables_of_other_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosting platforms set them for uvicorn and gunicorn; one process is served whatever they say."""
    monkeypatch.setenv("WEB_CONCURRENCY", "auto")
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "auto")
    wanted = settings(HOST="127.0.0.1")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask() -> bytes:
        limits = ConnectionLimits(5, 5, 10)
        async with running(app, listen(wanted).api, limits, keep_alive_seconds=5, lifespan="off"):
            reader, writer = await asyncio.open_connection("127.0.0.1", wanted.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
            return answer

    assert asyncio.run(ask()).startswith(b"HTTP/1.1 204")
