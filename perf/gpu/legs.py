"""One leg: so many streams at one server, with the processor time of each kind of process meanwhile."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path

from perf.bench.cpu_usage import cpu_seconds, tree
from perf.gpu.servers import MODEL, Server, title
from vllm_engine.client.bench.bench_plan import Plan
from vllm_engine.client.bench.bench_report import summarise, write_rows
from vllm_engine.client.bench.bench_run import run_load


@dataclass(frozen=True)
class Load:
    """How many streams at once, how many requests in all, and at most how many tokens each answer has."""

    streams: int
    requests: int
    max_tokens: int
    extra_bodies: Sequence[Mapping[str, object]] = ({},)
    """What the requests have besides, in turn."""


@dataclass(frozen=True)
class Leg:
    """What one server did in one round; times in milliseconds, processor time in µs for each token."""

    target: str
    streams: int
    round: int
    requests: int
    tokens: int
    events: int
    seconds: float
    tokens_per_second: float
    ttft_p50: float
    ttft_p99: float
    itl_p50: float
    itl_p99: float
    e2el_p50: float
    cpu_us: Mapping[str, float]
    """Per token: `gateway`, `proxy`, `frontend`, `engine`, and the `generator`'s own."""
    errors: int
    first_error: str | None


class Generator:
    """Sends loads from several processes, which live as long as it."""

    def __init__(
        self,
        pool: ProcessPoolExecutor | None,
        processes: int,
        rows: Path,
        kind: Callable[[Server, int], str] | None = None,
    ) -> None:
        """Take the pool, its size, where each request's row goes, and what says which kind a process is of."""
        self._pool, self._processes, self._rows = pool, processes, rows
        self._kind = kind or _kind

    def leg(self, server: Server, load: Load, round_number: int, behind: Server | None) -> Leg:
        """Send a load to a server; `behind` is the one that it forwards to, if it was started by itself."""
        processes = min(self._processes, load.streams)
        plan = Plan(
            server.url,
            MODEL,
            requests=load.requests,
            concurrency=load.streams,
            max_tokens=load.max_tokens,
            prompt_words=24,
            # No other leg has had these prompts: a prefix cache helps nobody.
            seed=time.time_ns(),
            # Weights that are noise would else repeat one token.
            temperature=1.0,
            timeout_seconds=90.0,
            processes=processes,
            extra_bodies=load.extra_bodies,
        )
        before = self._cpu(server, behind)
        rows = run_load(plan, self._pool if processes > 1 else None)
        after = self._cpu(server, behind)
        write_rows(self._rows, rows, target=server.name, streams=load.streams, round=round_number)
        found = summarise(rows)
        tokens = found.total_output_tokens
        return Leg(
            target=server.name,
            streams=load.streams,
            round=round_number,
            requests=len(rows),
            tokens=tokens,
            events=found.events,
            seconds=found.duration_s,
            tokens_per_second=found.output_throughput,
            ttft_p50=found.latencies_ms["ttft"].median,
            ttft_p99=found.latencies_ms["ttft"].p99,
            itl_p50=found.latencies_ms["itl"].median,
            itl_p99=found.latencies_ms["itl"].p99,
            e2el_p50=found.latencies_ms["e2el"].median,
            cpu_us={kind: (after[kind] - before[kind]) * 1e6 / max(1, tokens) for kind in after},
            errors=found.failed,
            first_error=next(iter(found.errors), None),
        )

    def _cpu(self, server: Server, behind: Server | None) -> dict[str, float]:
        used = cpu_by_kind(server, self._kind) | (cpu_by_kind(behind, self._kind) if behind else {})
        # A single process sends by itself.
        used["generator"] = time.process_time() + sum(
            cpu_seconds(each.pid or 0) for each in active_children()
        )
        return used


def cpu_by_kind(server: Server, kind: Callable[[Server, int], str]) -> dict[str, float]:
    """Return the processor time in seconds that a server's processes have used, by what they are."""
    used: defaultdict[str, float] = defaultdict(float)
    for pid in tree(server.pid):
        try:
            used[kind(server, pid)] += cpu_seconds(pid)
        except OSError:
            continue  # it has ended
    return used


def _kind(server: Server, pid: int) -> str:
    if server.kind == "nginx":
        return "proxy"
    if server.kind == "ours" and pid == server.pid:
        return "gateway"
    return "engine" if title(pid).startswith(("VLLM::EngineCor", "VLLM::Worker")) else "frontend"
