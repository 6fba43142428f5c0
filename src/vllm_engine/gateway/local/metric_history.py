"""The last fifteen minutes of the engine's work, for the page's plots."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import fields

from pydantic import BaseModel

from vllm_engine.engine.activity import OneTokenChecks
from vllm_engine.engine.engine_state import StatusReader
from vllm_engine.gateway.local.metric_reading import OwnWork, Point, Reading, point, read_metrics

INTERVAL_SECONDS = 5.0
WINDOW_SECONDS = 900.0

logger = logging.getLogger("gateway")


Column = list[float | None]

_PLOTTED = [one.name for one in fields(Point) if one.name != "at"]


class History(BaseModel):
    """Answer of `/ui/history`: columns of one length, oldest first; null where nothing is known.

    `kv_cache` is a share of 1, `waiting` includes the gateway's queue, latencies are in seconds, of the
    requests and tokens since the point before.
    """

    uptime_seconds: float
    starts: int
    interval_seconds: float
    window_seconds: float
    age_seconds: list[float]
    running: Column
    waiting: Column
    kv_cache: Column
    generated_per_second: Column
    prompt_per_second: Column
    ttft_mean: Column
    ttft_p95: Column
    itl_mean: Column
    itl_p95: Column


class Recorder:
    """Reads the engine's metrics every few seconds while it is ready, and keeps a bounded ring of points.

    Args:
        status: the engine's.
        engine_metrics: reads vLLM's metrics; None while it does not answer.
        queued: how many requests wait in the gateway.
        questions: counts our own one-token checks, which are not shown as work.
        interval_seconds: between two readings.
    """

    def __init__(
        self,
        status: StatusReader,
        engine_metrics: Callable[[], Awaitable[bytes | None]],
        queued: Callable[[], int],
        questions: OneTokenChecks,
        *,
        interval_seconds: float = INTERVAL_SECONDS,
    ) -> None:
        self._status, self._questions = status, questions
        self._engine_metrics, self._queued = engine_metrics, queued
        self._interval = interval_seconds
        self._points: deque[Point] = deque(maxlen=round(WINDOW_SECONDS / interval_seconds))
        self._before: Reading | None = None
        self._began = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to record, on the running event loop."""
        self._task = asyncio.create_task(self._record())

    def stop(self) -> None:
        """Stop recording."""
        if self._task is not None:
            self._task.cancel()

    async def look(self) -> None:
        """Take one reading; metrics that cannot be read leave a gap."""
        answered = _own_work(self._questions, with_running=False)
        text = await self._engine_metrics() if self._status.current.is_ready else None
        now = time.monotonic()
        if text is None:
            self._before = None
            self._points.append(Point(now, waiting=self._queued() or None))
            return
        try:
            reading = read_metrics(text.decode(errors="replace"), now)
        except ValueError as error:
            logger.debug("the engine's metrics cannot be read: %s", error)
            self._before = None
            return
        # The first reading counts only our checks that were answered; later ones may include one that runs.
        goes_on = self._before is not None and self._before.is_before(reading)
        reading.own = _own_work(self._questions, with_running=True) if goes_on else answered
        reading.running = max(0.0, reading.running - self._questions.running)
        self._points.append(point(reading, self._before, self._queued()))
        self._before = reading

    def history(self) -> History:
        """Return the points that are kept, as the page plots them."""
        now = time.monotonic()
        points = [one for one in self._points if now - one.at <= WINDOW_SECONDS]
        return History(
            uptime_seconds=round(now - self._began, 1),
            starts=self._status.current.starts,
            interval_seconds=self._interval,
            window_seconds=WINDOW_SECONDS,
            age_seconds=[round(now - one.at, 1) for one in points],
            **{name: _column([getattr(one, name) for one in points]) for name in _PLOTTED},
        )

    async def _record(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(self._interval)


def _own_work(questions: OneTokenChecks, *, with_running: bool) -> OwnWork:
    running = 0 if with_running else questions.running
    return OwnWork(
        questions.asked - running,
        questions.prompt_tokens - running * questions.usual_prompt,
        questions.asked - running,
    )


def _column(values: list[float | None]) -> Column:
    return [None if value is None else float(f"{value:.4g}") for value in values]
