"""A campaign of hostile inputs, from a seeded generator, against the running program with the tests' fake engine.

    .venv/bin/python -m perf.campaign [--seed N] [--clients 10000] [--engines 2000]
    .venv/bin/python -m perf.campaign --seed N --side client --only INDEX     one input again

Clients that send what they should not, or leave, or do not read; and an engine that answers as it should not. Meanwhile a
client that behaves is served. At the end nothing may hang, nobody may have had another's answer, no error may be blamed on
the engine, and memory must be as flat as after the first tenth. Each fault is printed with the words that play it again.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path

from perf.campaign.campaign import Report
from perf.campaign.rig import Rig, rig
from perf.storms.watch import percentile

ROOT = Path(__file__).parents[2]
GROWTH_BYTES = 24 << 20
SIDES = ("client", "engine")


def main() -> None:
    """Play the inputs, and print what was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=int(time.monotonic() * 1000) % 1_000_000)
    parser.add_argument("--clients", type=int, default=10_000, help="inputs on the client's side")
    parser.add_argument("--engines", type=int, default=2_000, help="inputs on the engine's side")
    parser.add_argument("--side", choices=SIDES, help="this side alone")
    parser.add_argument("--only", type=int, help="the input of this index alone")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started too
    counts = {"client": arguments.clients, "engine": arguments.engines}
    printed = io.StringIO()
    faults = []
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(printed), rig(Path(folder)) as one:
        for side in SIDES:
            if arguments.side not in (None, side):
                continue
            indices = range(counts[side]) if arguments.only is None else [arguments.only]
            faults += play(one, side, arguments.seed, indices)
    if faults:
        (log := Path(tempfile.gettempdir()) / "hostile.log").write_text(printed.getvalue())
        print(f"{len(faults)} faults; the program's log is {log}")
    sys.exit(bool(faults))


def play(one: Rig, side: str, seed: int, indices: Iterable[int]) -> list[str]:
    """Play one side's inputs; prints and returns the faults."""
    every = list(indices)
    tenth = len(every) // 10
    began, files = time.monotonic(), one.files()
    first = asyncio.run(one.campaign(side, seed, every[:tenth]))
    before = one.rss()
    report = asyncio.run(one.campaign(side, seed, every[tenth:]))
    after = one.rss()
    faults = [f"--seed {seed} {fault}" for fault in first.faults + report.faults] + one.faults(files)
    if after - before > GROWTH_BYTES:
        faults.append(f"memory grew from {before} to {after} bytes")
    print(f"{side}: seed {seed}, {len(every)} inputs in {time.monotonic() - began:.0f} s", file=sys.stderr)
    print(f"  {kinds(first, report)}", file=sys.stderr)
    controls = first.controls + report.controls
    print(
        f"  RSS {before >> 20} to {after >> 20} MiB; {len(controls)} probes and chats of a client that behaves, "
        f"p99 {percentile(controls, 0.99):.2f} s",
        *faults[:50],
        sep="\n  ",
        file=sys.stderr,
    )
    return faults


def kinds(*reports: Report) -> str:
    """Return how many inputs there were of each kind."""
    total = sum((report.kinds for report in reports), reports[0].kinds.__class__())
    return ", ".join(f"{count} {kind}" for kind, count in total.most_common())


if __name__ == "__main__":
    main()
