"""The end of a start: the engine is up, lists its model, and has generated a token."""

from __future__ import annotations

import asyncio
import logging

from vllm_engine.engine.control_client import ControlClient, ControlError, Health
from vllm_engine.engine.engine_state import Phase, StatusBoard

_POLL_SECONDS = 0.2
_LOG_AGAIN_SECONDS = 30.0

logger = logging.getLogger("gateway.supervisor")


class FirstToken:
    """Waits for one engine's first token."""

    def __init__(self, client: ControlClient, served_name: str, board: StatusBoard) -> None:
        self._client = client
        self._served_name = served_name
        self._board = board
        self.is_blind = False
        """Whether the last attempt failed because this process is out of files or memory."""

    async def seconds(self) -> float:
        """Wait until it has come; returns how long it took from its request."""
        loop = asyncio.get_running_loop()
        logged: float | None = None
        while True:
            health = await self._client.health()
            self.is_blind = health is Health.NOT_ASKED
            if health is Health.GOOD:
                try:
                    await self._client.check_models()
                    self._board.progress(Phase.WARMING_UP)
                    began = loop.time()
                    await self._client.generate_one(self._served_name)
                    return loop.time() - began
                except ControlError as error:
                    if logged is None or loop.time() - logged > _LOG_AGAIN_SECONDS:
                        logged = loop.time()
                        logger.warning("the engine is up but does not generate yet: %s", error)
            await asyncio.sleep(_POLL_SECONDS)
