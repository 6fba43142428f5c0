"""The sockets that are listened on, opened before anything is started, and the servers on them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass
from typing import Literal

import uvicorn
from starlette.types import ASGIApp

from vllm_engine.errors import Problem, SettingsError
from vllm_engine.gateway.connection import ConnectionLimits, connection_class
from vllm_engine.gateway.tls import Tls, TlsError
from vllm_engine.settings import Settings

_LAST_ANSWERS_SECONDS = 5
_CLIENT_KEEP_ALIVE_SECONDS = 75
"""Longer than the 60 s for which load balancers commonly keep a connection: they close first, not we."""


@dataclass(frozen=True)
class Listeners:
    """The listening sockets, and the API's TLS."""

    api: socket.socket
    health: socket.socket | None
    tls: Tls | None

    def close(self) -> None:
        """Give the addresses back."""
        for listener in filter(None, (self.api, self.health)):
            listener.close()


def listen(settings: Settings) -> Listeners:
    """Open the sockets and read the certificate.

    Raises:
        SettingsError: an address, a port, or the certificate cannot be had; says which and why.
    """
    tls = load_tls(settings)
    api = _bind(settings.host, settings.port, "PORT")
    try:
        health = _bind(settings.host, settings.health_port, "HEALTH_PORT") if settings.health_port else None
    except SettingsError:
        api.close()
        raise
    return Listeners(api, health, tls)


def load_tls(settings: Settings) -> Tls | None:
    """Return the certificate and key, if they are set.

    Raises:
        SettingsError: they cannot be used.
    """
    files = {"TLS_CERT_FILE": settings.tls_cert_file, "TLS_KEY_FILE": settings.tls_key_file}
    cert, key = files.values()
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        missing = "TLS_CERT_FILE" if cert is None else "TLS_KEY_FILE"
        raise SettingsError([Problem(missing, "", "a certificate needs its key; set both or neither")])
    try:
        return Tls(cert, key)
    except TlsError as error:
        raise SettingsError([Problem(error.setting, str(files[error.setting]), error.problem)]) from error


def _bind(host: str, port: int, key: str) -> socket.socket:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        wanted = f"cannot be resolved ({error.strerror}); wanted an address of this machine, such as 0.0.0.0"
        raise SettingsError([Problem("HOST", host, wanted)]) from error
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise SettingsError([_bind_problem(host, port, key, error)]) from error
    listener.setblocking(False)
    return listener


def _bind_problem(host: str, port: int, key: str, error: OSError) -> Problem:
    if error.errno == errno.EADDRINUSE:
        return Problem(key, str(port), f"already in use; stop what listens there or set another {key}")
    if error.errno == errno.EACCES:
        return Problem(key, str(port), f"needs root; set {key} to 1024 or above")
    return Problem("HOST", host, f"cannot be listened on ({error.strerror}); try HOST=0.0.0.0")


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        # uvicorn would refuse connections at the first SIGTERM; ours is the order of things.
        yield


@contextlib.asynccontextmanager
async def running(
    settings: Settings,
    app: ASGIApp,
    listener: socket.socket,
    max_connections: int,
    *,
    tls: Tls | None = None,
    lifespan: Literal["on", "off"] = "on",
) -> AsyncIterator[None]:
    """Serve an application on a socket; at the end, give running answers a few seconds."""
    limits = ConnectionLimits(settings.header_timeout_seconds, max_connections)
    config = uvicorn.Config(
        app,
        http=connection_class(limits),
        ws="none",
        lifespan=lifespan,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_CLIENT_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_LAST_ANSWERS_SECONDS,
        ssl_context_factory=(lambda *_: tls.context) if tls else None,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task
