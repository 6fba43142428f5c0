"""Reads the engine's metrics, over a connection that is kept as those of requests are."""

from __future__ import annotations

import asyncio

from vllm_engine.gateway.proxy.upstream import Upstream, UpstreamError

SECONDS = 5.0
"""How long the engine may take: under Prometheus' own limit, which is 10 s by default."""

_MAX_BYTES = 16 << 20
REQUEST = b"GET /metrics HTTP/1.1\r\nhost: engine\r\naccept: text/plain;version=0.0.4\r\n\r\n"
"""The question as it is written, whole, to the engine."""


class _Text:
    """Takes the answer; `whole` is None for what is none."""

    def __init__(self) -> None:
        self.whole: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self.has_ended = False
        self.is_broken = False
        self._pieces: list[bytes] = []
        self._size = 0

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:  # noqa: ARG002
        if status != 200:
            self._settle(None)

    def on_data(self, data: bytes, *, is_last: bool) -> None:  # noqa: ARG002
        self._size += len(data)
        if self._size > _MAX_BYTES:
            self._pieces.clear()
            self._settle(None)
        elif not self.whole.done():
            self._pieces.append(data)

    def on_end(self) -> None:
        self.has_ended = True
        self._settle(b"".join(self._pieces))

    def on_broken(self, error: UpstreamError) -> None:  # noqa: ARG002
        self.is_broken = True
        self._settle(None)

    def _settle(self, text: bytes | None) -> None:
        if not self.whole.done():
            self.whole.set_result(text)


async def read_engine_metrics(upstream: Upstream) -> bytes | None:
    """Return vLLM's metrics as they are; None while it is silent."""
    try:
        async with asyncio.timeout(SECONDS):
            text = await _ask(upstream, fresh=False)
            # A kept connection may have been closed just now; asking again harms nothing.
            if text.is_broken:
                text = await _ask(upstream, fresh=True)
            return text.whole.result()
    except (UpstreamError, TimeoutError):
        return None


async def _ask(upstream: Upstream, *, fresh: bool) -> _Text:
    connection = await upstream.connect(fresh=fresh)
    text = _Text()
    connection.start(REQUEST, b"", text)
    try:
        await text.whole
    finally:
        if not text.has_ended:
            connection.abort()
    return text
