"""Asks an engine that starts, frontend by frontend, until each has generated a token."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from vllm_engine.engine.control_client import ControlClient, ControlError, Health
from vllm_engine.engine.engine_state import Frontend, Phase, StatusBoard
from vllm_engine.engine.startup.running_frontends import running_frontends
from vllm_engine.plan.engine_plan import BOTH

_POLL_SECONDS = 0.2
_LAST_POLL_SECONDS = 0.05
"""Once the model is ready, and its frontends are all that is waited for."""
_LOG_AGAIN_SECONDS = 30.0

logger = logging.getLogger("gateway.supervisor")


class FirstTokens:
    """The first token of each frontend of one engine. `file` is where a launcher writes which run."""

    def __init__(self, board: StatusBoard, name: str, file: Path) -> None:
        """Take the board to report to, and the name under which the model is served."""
        self._board, self._name, self._file = board, name, file
        self._not_asked: set[ControlClient] = set()

    @property
    def cannot_ask(self) -> bool:
        """Whether we lack the means to ask, and so do not know whether the engine is ready."""
        return bool(self._not_asked)

    async def generated(self, client: ControlClient, rust_client: ControlClient, planned: str) -> float:
        """Wait for a token of each frontend; returns how long the slower took from its request.

        The Rust frontend is up first: where both run, its token comes while the other gets ready.
        """
        rust = asyncio.ensure_future(self._token(rust_client)) if planned == BOTH else None
        try:
            seconds, models = await self._token(client)
            running = running_frontends(planned, self._file)
            self._board.serving_with(running, models)
            if rust is not None and Frontend.RUST in running:
                seconds = max(seconds, (await rust)[0])
            return seconds
        finally:
            if rust is not None:
                rust.cancel()
                await asyncio.gather(rust, return_exceptions=True)

    async def _token(self, client: ControlClient) -> tuple[float, bytes]:
        """Wait for a token; returns how long it took from its request, and the list of models."""
        loop = asyncio.get_running_loop()
        logged: float | None = None
        while True:
            health = await client.health()
            (self._not_asked.add if health is Health.NOT_ASKED else self._not_asked.discard)(client)
            pause = _LAST_POLL_SECONDS if self._board.current.phase is Phase.WARMING_UP else _POLL_SECONDS
            if health is Health.GOOD:
                try:
                    models = await client.models()
                    self._board.progress(Phase.WARMING_UP)
                    began = loop.time()
                    await client.generate_one(self._name)
                    return loop.time() - began, models
                except ControlError as error:
                    pause = _POLL_SECONDS
                    if logged is None or loop.time() - logged > _LOG_AGAIN_SECONDS:
                        logged = loop.time()
                        logger.warning("the engine is up but does not generate yet: %s", error)
            await asyncio.sleep(pause)
