"""Counts and logs every request at its end, and answers `/metrics`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp

from vllm_engine.gateway.access import log_access
from vllm_engine.gateway.disk import Disk
from vllm_engine.gateway.metrics import GatewayMetrics
from vllm_engine.gateway.record import UNMATCHED, RequestRecord

_SCRAPE_SECONDS = 5.0


class Observation:
    """Both observers in one: metrics and the access log."""

    def __init__(self, metrics: GatewayMetrics, socket: Path, model: str, cache: Disk) -> None:
        """Take what to count with, the engine's socket, the model's served name, and the cache's disk."""
        self._metrics = metrics
        self._socket = str(socket)
        self._model = model
        self._cache = cache

    def finished(self, record: RequestRecord) -> None:
        """Count and log a request that has ended."""
        self._metrics.observe(record)
        log_access(record, None if record.route == UNMATCHED else self._model)

    async def render(self) -> bytes:
        """Return vLLM's metrics as they are, then the gateway's; ours alone while vLLM is silent."""
        return self._metrics.render(*await asyncio.gather(self.engine_metrics(), self._cache.space()))

    async def engine_metrics(self) -> bytes | None:
        """Return vLLM's metrics as they are; None while it is silent."""
        connector = aiohttp.UnixConnector(path=self._socket, force_close=True)
        timeout = aiohttp.ClientTimeout(total=_SCRAPE_SECONDS)
        headers = {"Accept": "text/plain;version=0.0.4"}
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.get("http://engine/metrics", headers=headers) as response,
            ):
                return await response.read() if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None
