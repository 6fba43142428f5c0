"""The running frontends' sockets, each with its own pool of connections."""

from __future__ import annotations

from pathlib import Path

from vllm_engine.engine.engine_state import Frontend, StatusReader
from vllm_engine.gateway.proxy.frontend_choice import Asked, Choice, FrontendChooser
from vllm_engine.gateway.proxy.upstream import Upstream


class Frontends:
    """Where each request goes: to `socket`, but for those for the Rust frontend where both run."""

    def __init__(self, socket: Path, rust_socket: Path, status: StatusReader) -> None:
        self._status = status
        self._main = Upstream(socket)
        self._rust = Upstream(rust_socket)
        self._chooser = FrontendChooser()
        self.answered = self._chooser.answered
        """See `FrontendChooser.answered`."""

    def choose(self, asked: Asked) -> Choice:
        """Return the frontend that is to have a request first, of those that run now."""
        return self._chooser.choose(asked, self._status.current)

    def upstream(self, frontend: Frontend) -> Upstream:
        """Return the pool of connections to a frontend that runs."""
        is_beside = frontend is Frontend.RUST and len(self._status.current.frontends) > 1
        return self._rust if is_beside else self._main

    def close(self) -> None:
        """Close every idle connection."""
        self._main.close()
        self._rust.close()
