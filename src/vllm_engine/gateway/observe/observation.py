"""Counts and logs every request at its end, and answers `/metrics`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from vllm_engine.config.settings import Settings
from vllm_engine.gateway.observe.access_log import log_access
from vllm_engine.gateway.observe.disk_usage import Disk, Space
from vllm_engine.gateway.observe.gateway_metrics import GatewayMetrics
from vllm_engine.gateway.observe.request_record import UNMATCHED, RequestRecord
from vllm_engine.gateway.observe.shared_answer import Shared
from vllm_engine.gateway.observe.work_totals import Totals


class Observation:
    """Observes every request at its end: metrics, access log, trace."""

    def __init__(
        self, settings: Settings, metrics: GatewayMetrics, engine_text: Callable[[], Awaitable[bytes | None]]
    ) -> None:
        """Make the observer; `engine_text` reads vLLM's metrics, None while it does not answer."""
        self._metrics = metrics
        self._model = settings.served_names[0]
        self._cache = Disk(settings.cache_dir)
        self._engine_text = Shared(engine_text, settings.metrics_cache_seconds)
        self._rendered = Shared(self._render, settings.metrics_cache_seconds)

    def finished(self, record: RequestRecord) -> None:
        """Note the end of a request: its span ends, it is counted and logged."""
        record.ended = time.monotonic()
        if record.span is not None:
            record.span.end(record)
        self._metrics.observe(record)
        log_access(record, None if record.route == UNMATCHED else self._model)

    async def render(self) -> bytes:
        """Return vLLM's metrics, then the gateway's; ours alone while vLLM does not answer."""
        return await self._rendered.get()

    async def engine_metrics(self) -> bytes | None:
        """Return vLLM's metrics as one text; None while it does not answer."""
        return await self._engine_text.get()

    def totals(self) -> Totals:
        """Return what was counted since the start."""
        return self._metrics.totals()

    async def cache_space(self) -> Space | None:
        """Return the disk space where CACHE_DIR is; None while that is not known."""
        return await self._cache.space()

    async def _render(self) -> bytes:
        return self._metrics.render(*await asyncio.gather(self.engine_metrics(), self.cache_space()))
