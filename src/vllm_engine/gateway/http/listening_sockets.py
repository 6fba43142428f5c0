"""The listening sockets, opened before anything is started."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from vllm_engine.config.settings import Settings
from vllm_engine.errors import Problem, SettingsError
from vllm_engine.gateway.http.followed_files import UnusableFileError
from vllm_engine.gateway.http.tls import Tls

_BACKLOG = 2048
_NOT_OF_THIS_MACHINE = frozenset((errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT))
"""An address that this machine does not have, such as `::1` in a container without IPv6."""


@dataclass(frozen=True)
class Listeners:
    """The listening sockets, and the certificate of the API's."""

    api: tuple[socket.socket, ...]
    health: tuple[socket.socket, ...]
    """Empty without `HEALTH_PORT`."""
    tls: Tls | None

    def close(self) -> None:
        """Close the sockets."""
        _close_all((*self.api, *self.health))


def listen(settings: Settings) -> Listeners:
    """Open the sockets and read the certificate.

    Raises:
        SettingsError: an address, a port or the certificate cannot be used; says which and why.
    """
    tls = load_tls(settings)
    api = _bind(settings.host, settings.port, "PORT")
    try:
        health = _bind(settings.host, settings.health_port, "HEALTH_PORT") if settings.health_port else ()
    except SettingsError:
        _close_all(api)
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
    except UnusableFileError as error:
        raise SettingsError([Problem(error.setting, str(files[error.setting]), error.problem)]) from error


def resolve(host: str, port: int) -> list[tuple[int, tuple[object, ...]]]:
    """Return the address family and address of each address that a name has here.

    Raises:
        SettingsError: it has none.
    """
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:  # the latter for what cannot be a name at all
        why = error.strerror if isinstance(error, OSError) else "not a host name"
        wanted = f"cannot be resolved ({why}); expected an address of this machine, such as 0.0.0.0"
        raise SettingsError([Problem("HOST", host, wanted)]) from error
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _bind(host: str, port: int, key: str) -> tuple[socket.socket, ...]:
    """Listen on every address that the name has here, as asyncio's servers do."""
    addresses = resolve(host, port)
    listeners: list[socket.socket] = []
    missing: OSError | None = None
    for family, address in addresses:
        try:
            listeners.append(_listener(family, address, is_alone=len(addresses) == 1))
        except OSError as error:
            if error.errno in _NOT_OF_THIS_MACHINE:
                missing = error
                continue
            _close_all(listeners)
            raise SettingsError([_bind_problem(host, port, key, error)]) from error
    if not listeners:
        assert missing is not None  # noqa: S101 - a name that is resolved has an address
        raise SettingsError([_bind_problem(host, port, key, missing)]) from missing
    return tuple(listeners)


def _listener(family: int, address: tuple[object, ...], *, is_alone: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and not is_alone:
            # `::` alone takes IPv4 as well, as vLLM's does; beside 0.0.0.0 it would be in its way.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _close_all(listeners: Iterable[socket.socket]) -> None:
    for listener in listeners:
        listener.close()


def _bind_problem(host: str, port: int, key: str, error: OSError) -> Problem:
    if error.errno == errno.EADDRINUSE:
        return Problem(key, str(port), f"already in use; stop what listens there or set another {key}")
    if error.errno == errno.EACCES:
        return Problem(key, str(port), f"needs root; set {key} to 1024 or above")
    return Problem(
        "HOST",
        host,
        f"cannot be bound ({error.strerror}); expected an address of this machine, such as 0.0.0.0",
    )
