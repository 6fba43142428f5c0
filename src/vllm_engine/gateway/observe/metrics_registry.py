"""The registry of the gateway's own metrics: their names, types, labels and meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, values

_HELP = {
    "ttft_seconds": "Time from a request to the first byte of the engine's answer, of streamed answers.",
    "request_duration_seconds": "Time from a request to its end, of all requests that were not rejected.",
    "queue_seconds": "Time a request waited in the gateway for admission, whether or not it was admitted.",
    "requests": "Requests that have ended; status is none if the client disconnected before there was one.",
    "key_requests": "Requests on routes of the API that have ended, by API key; none without keys.",
    "rejections": "Requests that the gateway answered instead of the engine.",
    "disconnects": "Requests whose client disconnected before their end.",
    "frontend_requests": "Requests passed to the engine, by the frontend that had them last.",
    "python_frontend_requests": "Requests that the Python frontend had while the Rust frontend ran too, by "
    "what decided: route, header, the name of a field, what the model has, learned, or how the Rust frontend "
    "refused it first; `empty_answer`: it had answered a chat without any text.",
    "replays": "Requests sent again because the engine was lost before their answer began.",
    "tokens": "Tokens by API key. For answers without usage: prompt_estimate, from the size of the prompt's "
    "text, and completion_estimate, the number of the stream's events, a lower bound.",
    "bytes": "Bytes of bodies, in from clients and out to them.",
    "in_flight": "Requests at the engine now.",
    "waiting": "Requests that wait in the gateway for admission now.",
    "bodies_incomplete": "Requests whose body is still being sent now.",
    "body_bytes": "Memory that request bodies take now; each is held until its answer begins.",
    "engine_state": "1 for the state that the engine is in.",
    "standby_ready": "Whether a standby is ready to be the next engine.",
    "standby_bytes": "Memory that the standby takes, shared pages counted once; 0 without one.",
    "engine_up": "Whether the engine's own metrics, of all its frontends, could be read for this scrape.",
    "engine_restarts": "Starts of the engine after it was lost or failed to start.",
    "idle_stops": "How often the engine was stopped because nobody needed it (IDLE_STOP_SECONDS).",
    "wake_seconds": "Time of the successful starts of an idle engine, up to its first token.",
    "engine_failures": "Engines lost and failed starts, by diagnosis code (docs/operate/troubleshooting.md).",
    "engine_start_seconds": "How long the engine's last start took, up to its first token; 0 before that.",
    "cache_free_bytes": "Free space where CACHE_DIR is; NaN while that is not known.",
    "cache_size_bytes": "Size of the file system where CACHE_DIR is; NaN while that is not known.",
    "log_lines_dropped": "Log lines dropped because they were not read in time or could not be written.",
    "tls_certificate_expiry_timestamp_seconds": "When the certificate in TLS_CERT_FILE expires, in seconds "
    "since 1970; NaN without TLS.",
    "start_time_seconds": "When the gateway started, in seconds since 1970.",
    "build_info": "Versions of what runs; always 1.",
}


@dataclass(frozen=True)
class Described:
    """One metric, as the documentation shows it."""

    name: str
    type: str
    labels: tuple[str, ...]
    help: str


class Registry(CollectorRegistry):
    """Metrics named `gateway_*` and described in `_HELP`, without `_created` series."""

    def __init__(self) -> None:
        # PROMETHEUS_MULTIPROC_DIR is for vLLM's processes: our numbers would go into vLLM's files there, and
        # come out of its /metrics. The library looks at the variable when it is imported and not again.
        values.ValueClass = values.MutexValue
        disable_created_metrics()  # type: ignore[no-untyped-call]
        super().__init__()
        self.described: list[Described] = []

    def histogram(self, name: str, buckets: Sequence[float], *labels: str) -> Histogram:
        """Make a histogram with these upper bounds."""
        full, text = self._describe(name, "histogram", labels)
        return Histogram(full, text, labels, buckets=buckets, registry=self)

    def counter(self, name: str, *labels: str) -> Counter:
        """Make a counter, named with `_total` at its end."""
        full, text = self._describe(name, "counter", labels)
        return Counter(full, text, labels, registry=self)

    def gauge(self, name: str, *labels: str) -> Gauge:
        """Make a gauge."""
        full, text = self._describe(name, "gauge", labels)
        return Gauge(full, text, labels, registry=self)

    def _describe(self, name: str, kind: str, labels: tuple[str, ...]) -> tuple[str, str]:
        full = f"gateway_{name}_total" if kind == "counter" else f"gateway_{name}"
        self.described.append(Described(full, kind, labels, _HELP[name]))
        return full, _HELP[name]
