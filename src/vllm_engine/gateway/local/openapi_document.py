"""`/openapi.json`: the API that is served, as far as it is known now."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Container, Mapping
from types import MappingProxyType
from typing import Final

from vllm_engine.engine.control_client import ControlError
from vllm_engine.engine.engine_state import StatusReader
from vllm_engine.gateway.local.openapi_merge import Document, merged, served, undescribed
from vllm_engine.gateway.policy.routes import RouteTable

NOT_READY: Final = (
    "The engine is not ready yet: the model's routes are here by name alone. Ask again once it is."
)
BUSY: Final = (
    "The model's routes are here by name alone: vLLM takes seconds to describe them, in which it answers "
    "nothing else, so it is asked once no request is under way. Ask again then."
)
UNDESCRIBED: Final = (
    "The model's routes are here by name alone: this vLLM does not describe them (with ENGINE_FRONTEND=rust "
    "or DISABLE_FASTAPI_DOCS it never does). Not every route is there for every model."
)
UNREADABLE: Final = "The model's routes are here by name alone: vLLM's description could not be read."
NOTE: Final = "x-note"
"""The field of `info` that says what is missing, and why."""

logger = logging.getLogger("gateway")


class OpenApiDocument:
    """Ours, and vLLM's own once it is known: asked for once after each start, when somebody wants it."""

    def __init__(
        self,
        ours: Callable[[], Document],
        ask: Callable[[], Awaitable[bytes | None]],
        status: StatusReader,
        routes: RouteTable,
        public_paths: Container[str],
        *,
        needs_key: bool,
        is_idle: Callable[[], bool],
    ) -> None:
        """Take what makes ours, and what asks the engine; it is asked only while `is_idle`."""
        self._ours, self._ask, self._is_idle = ours, ask, is_idle
        self._status, self._routes = status, routes
        self._public_paths, self._needs_key = public_paths, needs_key
        self._asking: asyncio.Task[bytes] | None = None
        self._start = 0
        """Which start of the engine was asked."""

    async def get(self) -> bytes:
        """Return the document as JSON."""
        now = self._status.current
        if now.starts != self._start:
            self._start, self._asking = now.starts, None
        if self._asking is None:
            if not now.is_ready:
                return self._without(NOT_READY)
            if not self._is_idle():
                return self._without(BUSY)
            self._asking = asyncio.create_task(self._whole())
        asking = self._asking
        try:
            return await asyncio.shield(asking)
        except ControlError as error:
            logger.info("the engine's description of its routes: %s", error)
            if self._asking is asking:
                self._asking = None  # the next one who wants it tries again
            return self._without(UNREADABLE)

    async def _whole(self) -> bytes:
        text = await self._ask()
        if text is None:
            return self._without(UNDESCRIBED)
        try:
            return self._rendered(served(json.loads(text), self._routes))
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise ControlError(f"/openapi.json is not one: {type(error).__name__} {error}") from error

    def _without(self, note: str) -> bytes:
        return self._rendered(undescribed(self._routes), {NOTE: note})

    def _rendered(self, engine: Document, more: Mapping[str, str] = MappingProxyType({})) -> bytes:
        document = merged(self._ours(), engine, self._public_paths, needs_key=self._needs_key)
        document["info"] = {**document["info"], **more}
        return json.dumps(document).encode()
