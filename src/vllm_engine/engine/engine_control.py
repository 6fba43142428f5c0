"""What the gateway asks the engine that serves, through one or both of its frontends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from vllm_engine.engine.control_client import ControlClient, Health
from vllm_engine.engine.engine_state import Frontend, StatusReader

_BY_WEIGHT = (
    *(Health.DEAD, Health.NOT_LISTENING, Health.HUNG_UP),
    *(Health.NO_ANSWER, Health.NOT_ASKED, Health.GOOD),
)
"""An engine is lost with any of its frontends."""


class EngineControl:
    """Asks the frontends of the engine that runs now; a context manager that owns its connections."""

    def __init__(
        self, socket: Path, rust_socket: Path, status: StatusReader, *, timeout_seconds: float = 10.0
    ) -> None:
        """Take the socket of the only frontend, or the Python one, and of the Rust frontend beside it."""
        self._status = status
        self._first = ControlClient(socket, timeout_seconds=timeout_seconds)
        self._second = ControlClient(rust_socket, timeout_seconds=timeout_seconds)

    async def __aenter__(self) -> EngineControl:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await asyncio.gather(self._first.__aexit__(), self._second.__aexit__())

    async def health(self) -> Health:
        """Ask each `/health`; returns the worst answer."""
        answers = await asyncio.gather(*(client.health() for client in self._clients().values()))
        return min(answers, key=_BY_WEIGHT.index)

    async def metrics(self) -> Mapping[Frontend, bytes] | None:
        """Return each frontend's metrics; None if one of them cannot be had.

        Never those of one alone: counters that drop look like those of an engine that has been restarted.
        """
        clients = self._clients()
        texts = await asyncio.gather(*(client.metrics() for client in clients.values()))
        read = {one: text for one, text in zip(clients, texts, strict=True) if text is not None}
        return read if len(read) == len(clients) else None

    async def description(self) -> bytes | None:
        """Return the OpenAPI document, which the Rust frontend alone does not have: None then.

        Raises:
            ControlError: it cannot be had.
        """
        return await self._first.description()

    def _clients(self) -> Mapping[Frontend, ControlClient]:
        frontends = self._status.current.frontends
        if len(frontends) > 1:
            return {Frontend.PYTHON: self._first, Frontend.RUST: self._second}
        return {next(iter(frontends), Frontend.PYTHON): self._first}
