"""The end of a start: the engine is up, lists its model, and has generated a token."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from vllm_engine.engine.activity import OwnQuestions
from vllm_engine.engine.control_client import EngineProbe, Health, ProbeError
from vllm_engine.engine.engine_state import Phase, StatusBoard

_POLL_SECONDS = 0.2
_ANSWER_SECONDS = 60.0
_SAY_AGAIN_SECONDS = 30.0

logger = logging.getLogger("gateway.supervisor")


class FirstToken:
    """Waits for one engine's first token."""

    def __init__(self, socket: Path, served_name: str, own: OwnQuestions, board: StatusBoard) -> None:
        """Take the engine's socket and model, where our questions are counted, and whom to tell."""
        self._socket = socket
        self._served_name = served_name
        self._own = own
        self._board = board
        self.is_blind = False
        """Whether the engine could not be asked when we last tried, for want of files or memory."""

    async def seconds(self) -> float:
        """Wait until it has come; returns how long it took from when it was asked for."""
        loop = asyncio.get_running_loop()
        said = 0.0
        async with EngineProbe(self._socket, timeout_seconds=_ANSWER_SECONDS, own=self._own) as probe:
            while True:
                health = await probe.health()
                self.is_blind = health is Health.UNKNOWN
                if health is Health.GOOD:
                    try:
                        await probe.served_models()
                        self._board.progress(Phase.WARMING_UP)
                        asked = loop.time()
                        await probe.generate_one(self._served_name)
                        return loop.time() - asked
                    except ProbeError as error:
                        if loop.time() - said > _SAY_AGAIN_SECONDS:
                            said = loop.time()
                            logger.warning("the engine is up but does not generate yet: %s", error)
                await asyncio.sleep(_POLL_SECONDS)
