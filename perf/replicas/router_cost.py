"""One replica asked directly, the same one and two of them through the router: loads for each in turn, a row for each.

The replicas are the real gateway in front of the benchmarks' upstream, so that the processor time is theirs and the router's.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from perf.bench import machine
from perf.bench.cpu_usage import usage
from perf.bench.processes import MODEL, Running
from perf.bench.targets import ROOT, start_gateway
from perf.frontends.frontend_rows import Rows
from tests.support.routed.vllm_router import Router, router_python, routing
from vllm_engine.client.bench.bench_plan import Plan
from vllm_engine.client.bench.bench_report import summarise
from vllm_engine.client.bench.bench_run import run_load

DIRECT = "one replica, direct"
TARGETS = (
    DIRECT,
    "one replica, round_robin",
    "two replicas, round_robin",
    "two replicas, consistent_hash",
    "two replicas, cache_aware",
)
LOADS = {"paced": 20.0, "full": 5000.0}
"""Tokens per second and stream; the second is more than anything here can carry."""
_MAX_TOKENS = 64
_MAX_OTHERS, _QUIET_SECONDS = 0.1, 20.0


@dataclass(frozen=True)
class Target:
    """What is asked, and whose processor time counts: the router's, if there is one, and the gateways'."""

    name: str
    url: str
    router: subprocess.Popen[bytes] | None
    gateways: Sequence[Running]

    def router_seconds(self) -> float:
        """Return the processor time of the router so far."""
        return usage(self.router.pid).cpu_seconds if self.router else 0.0

    def gateway_seconds(self) -> float:
        """Return the processor time of the gateways so far, without their engines."""
        return sum(one.cpu_seconds() for one in self.gateways)


def measure(rows: Rows, folder: Path, rounds: int, streams: int, seconds: float) -> None:
    """Start everything for each load, and ask each target once a round; every other round in the opposite order."""
    for load, pace in LOADS.items():
        with _targets(folder / load, pace) as targets:
            for target in targets:
                run_load(_plan(target, streams, streams, 8))
            # As many as the direct replica answers in the time.
            began = time.monotonic()
            run_load(_plan(targets[0], streams, streams, _MAX_TOKENS))
            count = streams * max(1, round(seconds / (time.monotonic() - began)))
            for number in range(rounds):
                for target in targets if number % 2 == 0 else reversed(targets):
                    rows.add({"what": "cost", "load": load, "round": number, **_leg(target, streams, count)})


def _leg(target: Target, streams: int, count: int) -> dict[str, object]:
    machine.await_quiet(_MAX_OTHERS, _QUIET_SECONDS)
    router, gateways, others = target.router_seconds(), target.gateway_seconds(), machine.others_seconds()
    found = summarise(run_load(_plan(target, streams, count, _MAX_TOKENS)))
    router, gateways = target.router_seconds() - router, target.gateway_seconds() - gateways
    return {
        "target": target.name,
        "streams": streams,
        "requests": count,
        "tokens_per_second": round(found.output_throughput, 1),
        "ttft_p50": round(found.latencies_ms["ttft"].median, 2),
        "ttft_p99": round(found.latencies_ms["ttft"].p99, 2),
        "itl_p99": round(found.latencies_ms["itl"].p99, 2),
        "router_us_per_token": round(router * 1e6 / max(1, found.events), 2),
        "gateways_us_per_token": round(gateways * 1e6 / max(1, found.events), 2),
        "others_cores": round((machine.others_seconds() - others) / found.duration_s, 3),
        "errors": found.failed,
        "first_error": next(iter(found.errors), None),
    }


def _plan(target: Target, streams: int, count: int, tokens: int) -> Plan:
    return Plan(
        target.url,
        MODEL,
        requests=count,
        concurrency=streams,
        max_tokens=tokens,
        prompt_words=64,
        seed=time.time_ns(),
        timeout_seconds=90.0,
    )


@contextlib.contextmanager
def _targets(folder: Path, pace: float) -> Iterator[list[Target]]:
    with contextlib.ExitStack() as stack:
        gateways = []
        for number in range(2):
            gateways.append(start_gateway(f"replica-{number}", ROOT / "src", pace, folder / str(number)))
            stack.callback(gateways[-1].stop)
        python = router_python()

        def route(policy: str, behind: Sequence[Running]) -> Router:
            urls = [one.url for one in behind]
            router = stack.enter_context(routing(python, urls, folder, policy=policy, log_level="error"))
            router.until_healthy(*urls)
            return router

        targets = [Target(DIRECT, gateways[0].url, None, gateways[:1])]
        for name in TARGETS[1:]:
            behind = gateways[:1] if name.startswith("one") else gateways
            router = route(name.rpartition(" ")[2], behind)
            targets.append(Target(name, router.url, router.process, behind))
        yield targets
