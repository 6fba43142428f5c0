"""The gateway's own question to the engine, when a request's failure may be the engine's end."""

from __future__ import annotations

import asyncio
from enum import StrEnum

from vllm_engine.gateway.proxy.upstream import Upstream, UpstreamError

_SECONDS = 5.0


class Liveness(StrEnum):
    """What the question came to."""

    GOOD = "good"
    DEAD = "dead"
    """It says so (vLLM: 503), hangs up on us, or nobody listens."""
    UNKNOWN = "unknown"
    """No answer in time, an answer that says neither, or the question could not be asked."""


class _HealthSink:
    """Takes the answer to one question to `/health`."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[Liveness] = asyncio.get_running_loop().create_future()
        self.has_ended = False

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:  # noqa: ARG002
        says_so = Liveness.DEAD if status >= 500 else Liveness.UNKNOWN
        self._settle(Liveness.GOOD if status == 200 else says_so)

    def on_data(self, data: bytes, *, is_last: bool) -> None:
        pass

    def on_end(self) -> None:
        self.has_ended = True

    def on_broken(self, error: UpstreamError) -> None:
        self._settle(_liveness_of(error))

    def _settle(self, answer: Liveness) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)


def _liveness_of(error: UpstreamError) -> Liveness:
    return Liveness.DEAD if error.own_reason is None else Liveness.UNKNOWN


async def ask_health(upstream: Upstream) -> Liveness:
    """Ask the engine's `/health` on a connection of its own."""
    try:
        connection = await upstream.connect(fresh=True)
    except UpstreamError as error:
        return _liveness_of(error)
    sink = _HealthSink()
    connection.start(b"GET /health HTTP/1.1\r\nhost: engine\r\n\r\n", b"", sink)
    try:
        async with asyncio.timeout(_SECONDS):
            return await sink.answer
    except TimeoutError:
        return Liveness.UNKNOWN
    finally:
        # After the answer's end the connection is the pool's, or the next request's already.
        if not sink.has_ended:
            connection.abort()
