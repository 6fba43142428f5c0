"""At how many streams and tokens per second one gateway process fills its core; see docs/measured/benchmarks.md.

    python -m perf.bench.ceiling                     three minutes; writes the table between the `ceiling` markers

Each row is a load that begins at once, on the same gateway settings as the other benchmarks. vLLM's
`--stream-interval N` puts N tokens into an event: the upstream sends as many events fewer.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from perf.bench import machine, tables
from perf.bench.cpu_usage import tree
from perf.bench.processes import pin
from perf.bench.scenarios import SCENARIOS, Leg, stream_leg
from perf.bench.targets import GATEWAY, ROOT, start_gateway
from vllm_engine.system.file_limit import raise_file_limit

_SECONDS = 6
_PACED = next(each for each in SCENARIOS if each.name == "paced")


@dataclass(frozen=True)
class Load:
    """Streams, the tokens per second of each, and how many tokens an event has."""

    streams: int
    tokens_per_second: int
    stream_interval: int = 1

    @property
    def pace(self) -> float:
        """Events per second of a stream."""
        return self.tokens_per_second / self.stream_interval


LOADS = (
    Load(256, 20),
    Load(512, 20),
    Load(1024, 20),
    Load(2048, 20),
    Load(256, 100),
    Load(256, 200),
    Load(1024, 20, 4),
    Load(2048, 20, 4),
    Load(256, 200, 4),
)


def measure(load: Load, source: Path, folder: Path) -> Leg:
    """Start a gateway for this load, and measure it under the load."""
    scenario = dataclasses.replace(
        _PACED,
        pace=load.pace,
        streams=load.streams,
        requests=load.streams,
        max_tokens=int(_SECONDS * load.pace),
    )
    gateway = start_gateway(GATEWAY, source, load.pace, folder)
    try:
        assert gateway.process is not None
        cores = os.sched_getaffinity(0)
        others = cores - {max(cores)} or cores
        pin(tree(gateway.process.pid, gateway.without), {max(cores)})
        pin([*gateway.without, os.getpid()], others)
        try:
            machine.await_quiet(0.2, 20.0)
            return stream_leg(scenario, gateway, 0, folder / "rows.jsonl")
        finally:
            os.sched_setaffinity(0, cores)
    finally:
        gateway.stop()


def table(found: Iterator[tuple[Load, Leg]]) -> str:
    """Render the loads as rows."""
    lines = [
        tables.row(
            "load", "tokens per event", "events/s", "CPU µs per event", "share of a core",
            "tokens/s that a core carries", "TTFT p50 ms", "ITL p99 ms", "errors",
        ),
        tables.row("---", *["---:"] * 8),
    ]  # fmt: skip
    for load, leg in found:
        carried = leg.events_per_second * load.stream_interval / leg.cpu_share
        lines.append(
            tables.row(
                f"{load.streams} streams of {load.tokens_per_second} tokens/s",
                f"{load.stream_interval}",
                f"{leg.events_per_second:,.0f}",
                f"{leg.cpu_us_per_event:.1f}",
                f"{leg.cpu_share:.2f}",
                f"{carried:,.0f}",
                f"{leg.ttft_p50:.0f}",
                f"{leg.itl_p99:.0f}",
                f"{leg.errors}",
            )
        )
        print(lines[-1], f"others {leg.others_share:.2f}, generator {leg.harness_share:.2f}", flush=True)
    return f"Measured {machine.describe()}.\n\n" + "\n".join(lines)


def main() -> None:
    """Measure and write the document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, default=ROOT / "src", help="of the gateway")
    parser.add_argument("--first", type=int, default=len(LOADS), help="how many of the loads to measure")
    parser.add_argument("--document", type=Path, default=ROOT / "docs/measured/benchmarks.md")
    parser.add_argument("--no-document", action="store_true", help="print the table and write no document")
    options = parser.parse_args()
    raise_file_limit()
    source = options.source.resolve(strict=True)
    with tempfile.TemporaryDirectory() as folder:
        loads = LOADS[: options.first]
        text = table((each, measure(each, source, Path(folder) / str(n))) for n, each in enumerate(loads))
    if not options.no_document:
        tables.write_into(options.document, text, "ceiling")


if __name__ == "__main__":
    main()
