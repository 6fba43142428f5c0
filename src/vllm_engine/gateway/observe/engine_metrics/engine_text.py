"""The engine's metrics as one text, whichever of vLLM's frontends run."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

from vllm_engine.engine.activity import EngineActivity
from vllm_engine.engine.engine_state import Frontend
from vllm_engine.gateway.observe.engine_metrics.metrics_merge import Merge

logger = logging.getLogger("gateway")


class EngineMetrics:
    """Reads the metrics of all frontends and makes one text of them.

    Args:
        read: each running frontend's metrics; None where one of them cannot be had.
        activity: which frontends have requests.
    """

    def __init__(
        self, read: Callable[[], Awaitable[Mapping[Frontend, bytes] | None]], activity: EngineActivity
    ) -> None:
        self._read, self._activity = read, activity
        self._merge = Merge()
        self._is_readable = True

    async def text(self) -> bytes | None:
        """Return it; None while a frontend does not answer, or answers what cannot be read.

        The Python frontend's alone is passed on byte for byte.
        """
        texts = await self._read()
        if texts is None or texts.keys() == {Frontend.PYTHON}:
            return None if texts is None else texts[Frontend.PYTHON]
        try:
            text = self._merge.text(texts, self._activity.at_engine)
        except ValueError as error:
            if self._is_readable:
                logger.warning("the engine's metrics are left out, as they cannot be read: %s", error)
            self._is_readable = False
            return None
        self._is_readable = True
        return text
