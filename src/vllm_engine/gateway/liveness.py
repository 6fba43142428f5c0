"""The gateway's own question to the engine, when a request's failure may be the engine's end."""

from __future__ import annotations

import asyncio

from vllm_engine.gateway.upstream import Upstream, UpstreamError

_SECONDS = 5.0


class _HealthSink:
    """Takes the answer to one question to `/health`."""

    def __init__(self) -> None:
        self.is_good: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:  # noqa: ARG002
        self._settle(status == 200)

    def on_data(self, data: bytes, *, is_last: bool) -> None:
        pass

    def on_end(self) -> None:
        pass

    def on_broken(self, error: UpstreamError) -> None:  # noqa: ARG002
        self._settle(False)

    def _settle(self, is_good: bool) -> None:
        if not self.is_good.done():
            self.is_good.set_result(is_good)


async def ask_health(upstream: Upstream) -> bool:
    """Ask the engine's `/health` on a connection of its own; False as well if there is no answer in time."""
    try:
        connection = await upstream.connect(fresh=True)
    except UpstreamError:
        return False
    sink = _HealthSink()
    connection.start(b"GET /health HTTP/1.1\r\nhost: engine\r\n\r\n", b"", sink)
    try:
        async with asyncio.timeout(_SECONDS):
            return await sink.is_good
    except TimeoutError:
        return False
    finally:
        connection.abort()
