"""The last fifteen minutes of the engine's work, for the page's plots: a ring of readings of its metrics."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel

from vllm_engine.engine.activity import OwnQuestions
from vllm_engine.engine.engine_state import StatusReader

INTERVAL_SECONDS = 5.0
WINDOW_SECONDS = 900.0

_TTFT = "vllm:time_to_first_token_seconds"
_ITL = "vllm:inter_token_latency_seconds"
_VALUES = {
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
    "kv_cache": "vllm:kv_cache_usage_perc",
    "prompt": "vllm:prompt_tokens_total",
    "generated": "vllm:generation_tokens_total",
}
_WANTED = (*(f"{name}{end}" for name in _VALUES.values() for end in "{ "), f"{_TTFT}_", f"{_ITL}_")
"""How the lines begin that are read: vLLM writes some hundred others, and parsing is not cheap."""

logger = logging.getLogger("gateway")


@dataclass(slots=True)
class Latency:
    """A histogram's totals: seconds, observations, and observations up to each bucket's bound in seconds."""

    seconds: float = 0.0
    count: float = 0.0
    buckets: dict[float, float] = field(default_factory=lambda: defaultdict(float))

    def since(self, earlier: Latency) -> Latency:
        """Return what was observed after `earlier`."""
        buckets = {bound: count - earlier.buckets.get(bound, 0.0) for bound, count in self.buckets.items()}
        return Latency(self.seconds - earlier.seconds, self.count - earlier.count, buckets)

    @property
    def mean(self) -> float | None:
        """The mean in seconds; None without observations."""
        return self.seconds / self.count if self.count > 0 else None

    def quantile(self, share: float) -> float | None:
        """Return the quantile in seconds, linear within its bucket, as PromQL's `histogram_quantile`."""
        below, low, rank = 0.0, 0.0, share * self.count
        if self.count <= 0:
            return None
        for bound, count in sorted(self.buckets.items()):
            if count >= rank:
                within = (rank - below) / (count - below) if count > below else 1.0
                return low if bound == float("inf") else low + (bound - low) * within
            below, low = count, bound
        return low or None


@dataclass(frozen=True, slots=True)
class OwnWork:
    """What our own questions had the engine do, all together."""

    asked: float = 0.0
    prompt: float = 0.0
    generated: float = 0.0


@dataclass(slots=True)
class Reading:
    """What the engine's metrics said at one moment; `at` is `time.monotonic` seconds."""

    at: float
    running: float = 0.0
    waiting: float = 0.0
    kv_cache: float = 0.0
    prompt: float = 0.0
    generated: float = 0.0
    ttft: Latency = field(default_factory=Latency)
    itl: Latency = field(default_factory=Latency)
    own: OwnWork = OwnWork()
    """What of these counts was not the clients'."""

    def is_before(self, later: Reading) -> bool:
        """Whether `later` goes on from here; a restarted engine counts from 0 again."""
        return (
            self.generated <= later.generated
            and self.prompt <= later.prompt
            and self.ttft.count <= later.ttft.count
            and self.itl.count <= later.itl.count
        )


def read_metrics(text: str, at: float) -> Reading:
    """Read what the plots need from vLLM's `/metrics`; several engines' numbers are added up.

    Raises:
        ValueError: a wanted line is none of Prometheus' text format.
    """
    reading = Reading(at)
    lines = [line for line in text.splitlines() if line.startswith(_WANTED)]
    totals: dict[str, float] = defaultdict(float)
    usage = 0.0
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            if sample.name == _VALUES["kv_cache"]:
                usage = max(usage, sample.value)
            elif sample.name.endswith("_bucket"):
                latency = reading.ttft if sample.name.startswith(_TTFT) else reading.itl
                latency.buckets[float(sample.labels["le"])] += sample.value
            else:
                totals[sample.name] += sample.value
    for name, metric in _VALUES.items():
        setattr(reading, name, totals[metric])
    reading.kv_cache = usage
    for metric, latency in ((_TTFT, reading.ttft), (_ITL, reading.itl)):
        latency.seconds, latency.count = totals[f"{metric}_sum"], totals[f"{metric}_count"]
    return reading


@dataclass(frozen=True, slots=True)
class Point:
    """One moment of the plots; rates and latencies are of the time since the point before."""

    at: float
    running: float | None = None
    waiting: float | None = None
    kv_cache: float | None = None
    generated_per_second: float | None = None
    prompt_per_second: float | None = None
    ttft_mean: float | None = None
    ttft_p95: float | None = None
    itl_mean: float | None = None
    itl_p95: float | None = None


def point(now: Reading, before: Reading | None, queued: int) -> Point:
    """Return the point of a reading; `queued` requests wait in the gateway.

    `now.own` is set to what of our own work is in the reading: the engine may have yet to count some of it.
    """
    waiting = now.waiting + queued
    if before is None or not before.is_before(now):
        return Point(now.at, now.running, waiting, now.kv_cache)
    seconds = now.at - before.at
    ttft, itl = now.ttft.since(before.ttft), now.itl.since(before.itl)
    generated, prompt = now.generated - before.generated, now.prompt - before.prompt
    own = OwnWork(
        min(ttft.count, now.own.asked - before.own.asked),
        min(prompt, now.own.prompt - before.own.prompt),
        min(generated, now.own.generated - before.own.generated),
    )
    now.own = OwnWork(
        before.own.asked + own.asked, before.own.prompt + own.prompt, before.own.generated + own.generated
    )
    if ttft.count == own.asked:
        # Beside others' first tokens ours, which is one of many then, is left in.
        ttft = Latency()
    return Point(
        at=now.at,
        running=now.running,
        waiting=waiting,
        kv_cache=now.kv_cache,
        generated_per_second=(generated - own.generated) / seconds,
        prompt_per_second=(prompt - own.prompt) / seconds,
        ttft_mean=ttft.mean,
        ttft_p95=ttft.quantile(0.95),
        itl_mean=itl.mean,
        itl_p95=itl.quantile(0.95),
    )


Column = list[float | None]


class History(BaseModel):
    """Answer of `/ui/history`: columns of one length, oldest first; null where nothing is known.

    `kv_cache` is a share of 1, `waiting` counts the gateway's queue too, latencies are in seconds and of
    the requests and tokens since the point before.
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
    """Reads the engine's metrics every few seconds while it is ready, and keeps a bounded ring of points."""

    def __init__(
        self,
        status: StatusReader,
        engine_metrics: Callable[[], Awaitable[bytes | None]],
        queued: Callable[[], int],
        questions: OwnQuestions,
        *,
        interval_seconds: float = INTERVAL_SECONDS,
    ) -> None:
        """Take where to read, how many requests wait in the gateway, and what is not to be shown as work."""
        self._status = status
        self._engine_metrics = engine_metrics
        self._queued = queued
        self._questions = questions
        self._interval = interval_seconds
        self._points: deque[Point] = deque(maxlen=round(WINDOW_SECONDS / interval_seconds))
        self._before: Reading | None = None
        self._began = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to record; needs a running event loop."""
        self._task = asyncio.create_task(self._record())

    def stop(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()

    async def look(self) -> None:
        """Take one reading; what cannot be read is a gap."""
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
        # What was answered before is in the first reading for certain; the next ones may hold what runs too.
        goes_on = self._before is not None and self._before.is_before(reading)
        reading.own = _own_work(self._questions, with_running=True) if goes_on else answered
        reading.running = max(0.0, reading.running - self._questions.running)
        self._points.append(point(reading, self._before, self._queued()))
        self._before = reading

    def history(self) -> History:
        """Return what is kept."""
        now = time.monotonic()
        points = [one for one in self._points if now - one.at <= WINDOW_SECONDS]
        return History(
            uptime_seconds=round(now - self._began, 1),
            starts=self._status.current.starts,
            interval_seconds=self._interval,
            window_seconds=WINDOW_SECONDS,
            age_seconds=[round(now - one.at, 1) for one in points],
            running=_column(points, "running"),
            waiting=_column(points, "waiting"),
            kv_cache=_column(points, "kv_cache"),
            generated_per_second=_column(points, "generated_per_second"),
            prompt_per_second=_column(points, "prompt_per_second"),
            ttft_mean=_column(points, "ttft_mean"),
            ttft_p95=_column(points, "ttft_p95"),
            itl_mean=_column(points, "itl_mean"),
            itl_p95=_column(points, "itl_p95"),
        )

    async def _record(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(self._interval)


def _own_work(questions: OwnQuestions, *, with_running: bool) -> OwnWork:
    running = 0 if with_running else questions.running
    return OwnWork(
        questions.asked - running,
        questions.prompt_tokens - running * questions.usual_prompt,
        questions.generated_tokens - running,
    )


def _column(points: Sequence[Point], name: str) -> Column:
    values = (getattr(one, name) for one in points)
    return [None if value is None else float(f"{value:.4g}") for value in values]
