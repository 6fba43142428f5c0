"""The gateway's own metrics beside vLLM's, in one answer of Prometheus' text format 0.0.4.

Labels are bounded: routes are the allow-list's templates, keys their configured names; all others are
counted under one word. No label has a value that a client chose.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from math import nan
from typing import Final

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, Counter, Histogram, generate_latest

from vllm_engine.engine.engine_state import EngineState, EngineStatus, Frontend, StatusReader
from vllm_engine.gateway.observe.disk_usage import Space
from vllm_engine.gateway.observe.metrics_registry import Described, Registry
from vllm_engine.gateway.observe.request_record import UNMATCHED, Outcome, RequestRecord
from vllm_engine.gateway.observe.work_totals import Totals, count_up

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
"""What `GatewayMetrics.render` returns. vLLM's metrics must be asked for in the same format: send
`Accept: text/plain;version=0.0.4`, and no `Accept-Encoding`."""

HUNG: Final = "engine-hung"
"""The diagnosis of an engine that runs and makes no progress; counted from 0, so that its first is a rise."""

_WATCHED = (
    "in_flight",
    "waiting",
    "bodies_incomplete",
    "body_bytes",
    "tls_certificate_expiry_timestamp_seconds",
)
_OTHER = "other"
_MAX_REASONS = 32
_MAX_PYTHON_REASONS = 64
"""More than there are fields that decide, and statuses that vLLM refuses with."""
_END_OF_OPENMETRICS = b"# EOF"

# vLLM's own bounds (`vllm/v1/metrics/buckets.py`), so that the two can be laid over each other, and finer
# ones below 0.3 s, where vLLM has none for durations.
_TTFT_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_DURATION_BUCKETS = (
    *(0.005, 0.02, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0),
    *(60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_QUEUE_BUCKETS = (
    *(0.001, 0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0),
    *(60.0, 120.0, 240.0, 480.0, 960.0),
)
_WAKE_BUCKETS = (1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0, 1200.0)


class GatewayMetrics:
    """Counts requests and renders `/metrics`; has a registry of its own and nothing global."""

    def __init__(self, routes: Iterable[str], key_names: Container[str], build: Mapping[str, str]) -> None:
        """Take the allow-list's templates, the keys' names (which may change), and the build's labels."""
        self._routes = frozenset(routes)
        self._key_names = key_names
        self._registry = own = Registry()
        self._ttft = own.histogram("ttft_seconds", _TTFT_BUCKETS, "route")
        self._duration = own.histogram("request_duration_seconds", _DURATION_BUCKETS, "route")
        self._queue = own.histogram("queue_seconds", _QUEUE_BUCKETS)
        self._requests = own.counter("requests", "route", "status", "outcome")
        self._key_requests = own.counter("key_requests", "key", "outcome")
        self._rejections = own.counter("rejections", "reason")
        self._disconnects = own.counter("disconnects")
        self._replays = own.counter("replays")
        frontends = own.counter("frontend_requests", "frontend")
        self._frontends = {one: frontends.labels(one.value) for one in Frontend}
        self._python_requests = own.counter("python_frontend_requests", "reason")
        self._tokens = own.counter("tokens", "key", "kind")
        size = own.counter("bytes", "direction")
        self._bytes_in, self._bytes_out = size.labels("in"), size.labels("out")
        self._watched = {name: own.gauge(name) for name in _WATCHED}
        self._state = own.gauge("engine_state", "state")
        self._standby_ready, self._standby_bytes = own.gauge("standby_ready"), own.gauge("standby_bytes")
        self._up = own.gauge("engine_up")
        self._restarts = own.counter("engine_restarts")
        self._idle_stops = own.counter("idle_stops")
        self._wake_seconds = own.histogram("wake_seconds", _WAKE_BUCKETS)
        self._failures = own.counter("engine_failures", "code")
        self._failures.labels(HUNG)
        self._start_seconds = own.gauge("engine_start_seconds")
        self._cache_free, self._cache_size = own.gauge("cache_free_bytes"), own.gauge("cache_size_bytes")
        self._log_lines_dropped = own.counter("log_lines_dropped")
        self._count_log_lines_dropped: Callable[[], int] = lambda: 0
        self._log_lines_counted = 0
        own.gauge("start_time_seconds").set(datetime.now(UTC).timestamp())
        own.gauge("build_info", *build).labels(**build).set(1)
        # Looking up a label costs as much as counting: each is looked up once.
        self._requests_of: dict[tuple[str, int, Outcome], Counter] = {}
        self._times_of: dict[str, tuple[Histogram, Histogram]] = {}
        self._tokens_of: dict[tuple[str | None, str], Counter] = {}
        self._key_requests_of: dict[tuple[str, Outcome], Counter] = {}
        self._rejections_of: dict[str, Counter] = {}
        self._python_requests_of: dict[str, Counter] = {}

    @property
    def described(self) -> Sequence[Described]:
        """Every metric's name, type, labels and meaning."""
        return tuple(self._registry.described)

    def watch(self, *, log_lines_dropped: Callable[[], int], **gauges: Callable[[], float]) -> None:
        """Register callbacks that return these values; called at each `render`, never on the data path."""
        self._count_log_lines_dropped = log_lines_dropped
        for name, read in gauges.items():
            self._watched[name].set_function(read)

    def follow(self, status: StatusReader) -> None:
        """Show the engine's state, and count its restarts and failures from now on."""
        last = status.current
        self._standby_ready.set_function(lambda: status.current.standby_bytes is not None)
        self._standby_bytes.set_function(lambda: status.current.standby_bytes or 0)
        for state in EngineState:
            self._state.labels(state.value).set_function(lambda one=state: status.current.state is one)  # type: ignore[misc]

        def changed(now: EngineStatus) -> None:
            nonlocal last
            was, last = last, now
            if now.starts > was.starts and not now.was_idle:
                self._restarts.inc()
            if now.state is was.state:
                return
            if now.state is EngineState.IDLE:
                self._idle_stops.inc()
            if now.error is not None:
                self._failures.labels(now.error.code).inc()
            if now.is_ready and was.state is EngineState.STARTING:
                self._start_seconds.set(now.elapsed_seconds())
                if now.was_idle:
                    self._wake_seconds.observe(now.elapsed_seconds())

        status.watch(changed)

    def observe(self, record: RequestRecord) -> None:
        """Count one request at its end."""
        route = record.route if record.route in self._routes else UNMATCHED
        outcome = record.outcome
        requests = self._requests_of.get((route, record.status, outcome))
        (requests or self._new_requests(route, record.status, outcome)).inc()
        if record.key is not None and route != UNMATCHED:
            self._count_key(record.key, outcome)
        self._bytes_in.inc(record.bytes_in)
        self._bytes_out.inc(record.bytes_out)
        if record.queue_seconds is not None:
            self._queue.observe(record.queue_seconds)
        self._count_frontend(record)
        if outcome is Outcome.REJECTED:
            _count(self._rejections, self._rejections_of, record.reason or _OTHER, _MAX_REASONS)
            return
        if outcome is Outcome.CLIENT_GONE:
            self._disconnects.inc()
        if record.replays:
            self._replays.inc(record.replays)
        if route not in self._times_of:
            self._times_of[route] = self._ttft.labels(route), self._duration.labels(route)
        ttft, duration = self._times_of[route]
        duration.observe(record.duration_seconds)
        if record.is_stream and record.ttft_seconds is not None:
            ttft.observe(record.ttft_seconds)
        if record.prompt_tokens:
            kind = "prompt_estimate" if record.is_prompt_estimate else "prompt"
            self._count_tokens(record.key, kind, record.prompt_tokens)
        if record.completion_tokens:
            kind = "completion_estimate" if record.is_estimate else "completion"
            self._count_tokens(record.key, kind, record.completion_tokens)

    def totals(self) -> Totals:
        """Return what was counted since the start, for the page."""
        return count_up(self._requests, self._rejections, self._key_requests, self._tokens)

    def render(self, engine_text: bytes | None, cache: Space | None = None) -> bytes:
        """Return the engine's metrics, as they are given, and ours after them.

        `engine_text` is the engine's, uncompressed; `cache` the disk space where CACHE_DIR is. Each is
        None where it is not known.
        """
        self._up.set(engine_text is not None)
        self._cache_free.set(cache.free if cache else nan)
        self._cache_size.set(cache.size if cache else nan)
        dropped = self._count_log_lines_dropped()
        self._log_lines_dropped.inc(dropped - self._log_lines_counted)
        self._log_lines_counted = dropped
        return _open_ended(engine_text or b"") + generate_latest(self._registry)

    def _new_requests(self, route: str, status: int, outcome: Outcome) -> Counter:
        shown = str(status) if 100 <= status <= 599 else "none"
        child = self._requests.labels(route, shown, outcome.value)
        self._requests_of[route, status, outcome] = child
        return child

    def _count_frontend(self, record: RequestRecord) -> None:
        if record.frontend is not None:
            self._frontends[record.frontend].inc()
        if record.python_reason is not None:
            _count(self._python_requests, self._python_requests_of, record.python_reason, _MAX_PYTHON_REASONS)

    def _count_key(self, key: str, outcome: Outcome) -> None:
        child = self._key_requests_of.get((key, outcome))
        if child is None:
            known = key in self._key_names
            child = self._key_requests.labels(key if known else _OTHER, outcome.value)
            if known:
                self._key_requests_of[key, outcome] = child
        child.inc()

    def _count_tokens(self, key: str | None, kind: str, count: int) -> None:
        child = self._tokens_of.get((key, kind))
        if child is None:
            known = key is None or key in self._key_names
            child = self._tokens.labels((key or "") if known else _OTHER, kind)
            if known:
                self._tokens_of[key, kind] = child
        child.inc(count)


def _count(counter: Counter, children: dict[str, Counter], reason: str, most: int) -> None:
    """Count up the child of a reason; all beyond the first `most` are counted as one."""
    child = children.get(reason)
    if child is None:
        known = len(children) < most
        child = counter.labels(reason if known else _OTHER)
        if known:
            children[reason] = child
    child.inc()


def _open_ended(text: bytes) -> bytes:
    """Return a text that another can follow: `# EOF`, which ends OpenMetrics, is taken off."""
    body = text.rstrip()
    if body == _END_OF_OPENMETRICS or body.endswith(b"\n" + _END_OF_OPENMETRICS):
        text = body.removesuffix(_END_OF_OPENMETRICS)
    return text if not text or text.endswith(b"\n") else text + b"\n"
