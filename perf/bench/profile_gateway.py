"""Says where the gateway's processor time per streamed chunk goes, by samples of its C and Python stacks.

    python -m perf.bench.profile_gateway             into docs/measured/benchmarks.md; needs the right to trace (ptrace)

The load is that of the `paced` scenario. py-spy, from PyPI, takes the samples; what a chunk costs in all is
measured beside them in a round without it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from perf.bench import machine, tables
from perf.bench.cpu_usage import tree
from perf.bench.processes import Running, pin
from perf.bench.scenarios import SCENARIOS, Scenario, stream_leg
from perf.bench.targets import GATEWAY, ROOT, Peer, start_gateway, start_upstream

SAMPLER = Peer("py-spy", lambda at: [at.programs / "py-spy"], wheels=("py-spy",))
PACED = next(each for each in SCENARIOS if each.name == "paced")
_HERTZ = 500
_LEAST_SHARE = 0.005
"""Smaller places are added up in the last row."""

Stack = Sequence[str]
"""Outermost frame first, each as py-spy writes it: `function (file:line)`."""


def place(stack: Stack) -> str:
    """Name the part of the work that a sample fell into."""
    return f"{_phase(stack)}: {_kind(stack)}"


def _phase(stack: Stack) -> str:
    if _has(stack, "UpstreamConnection.data_received"):
        return "chunk"
    if _has(stack, "ClientConnection.", "run_asgi", "UpstreamConnection."):
        return "request"
    return "event loop"


def _kind(stack: Stack) -> str:
    leaf = stack[-1]
    if "libc" in leaf:
        call = leaf.split(" ")[0]
        if call in ("write", "writev", "sendmsg", "send"):
            return (
                "`write` to the engine"
                if _has(stack, "UpstreamConnection.start")
                else "`write` to the client"
            )
        return (
            "`epoll_wait`"
            if call.startswith("epoll")
            else f"`{call}`"
            if call == "read"
            else "other C library"
        )
    ours = next((frame for frame in reversed(stack) if "vllm_engine/" in frame and ".py:" in frame), None)
    python = next((frame for frame in reversed(stack) if ".py:" in frame), "")
    if ours is not None and "cli.py" not in ours and "uvicorn" not in python:
        return "Python in `" + ours.split("vllm_engine/")[1].split(":")[0] + "`"
    if "uvicorn" in python:
        return "uvicorn"
    return "uvloop, llhttp and CPython's own C"


def _has(stack: Stack, *names: str) -> bool:
    return any(name in frame for frame in stack for name in names)


def samples(raw: str) -> Iterator[tuple[Stack, int]]:
    """Yield stacks and how often each was seen; threads that wait for a child do no work."""
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        if not _has(frames[-1:], "wait4", "futex"):
            yield frames, int(count)


def profile(scenario: Scenario, source: Path, cache: Path, folder: Path) -> str:
    """Measure; returns a table."""
    sampler = SAMPLER.install(cache) / "py-spy"
    upstream = start_upstream(scenario.pace, folder)
    gateway = start_gateway(GATEWAY, source, scenario.pace, folder / GATEWAY)
    try:
        _pin(gateway, upstream)
        stream_leg(scenario, gateway, 0, folder / "rows.jsonl")
        machine.await_quiet(0.2, 60.0)
        leg = stream_leg(scenario, gateway, 1, folder / "rows.jsonl")
        raw = _sampled(
            sampler, gateway, folder, lambda: stream_leg(scenario, gateway, 2, folder / "rows.jsonl")
        )
    finally:
        gateway.stop()
        upstream.stop()
    return _table(raw, leg.cpu_us_per_event, leg.others_share)


def _pin(gateway: Running, upstream: Running) -> None:
    cores = os.sched_getaffinity(0)
    assert gateway.process is not None
    assert upstream.process is not None
    others = cores - {max(cores)} or cores
    pin(tree(gateway.process.pid, gateway.without), {max(cores)})
    pin([*gateway.without, upstream.process.pid, os.getpid()], others)


def _sampled(sampler: Path, gateway: Running, folder: Path, load: Callable[[], object]) -> str:
    assert gateway.process is not None
    out = folder / "stacks"
    argv = [sampler, "record", "--native", "--format", "raw", "--rate", str(_HERTZ), "--output", out]
    process = subprocess.Popen(
        [*map(str, argv), "--pid", str(gateway.process.pid)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said: list[str] = []
    begun = threading.Event()

    def listen() -> None:
        for line in process.stdout or ():
            said.append(line)
            begun.set()

    listener = threading.Thread(target=listen)
    listener.start()
    assert begun.wait(30), "py-spy says nothing"
    load()
    process.send_signal(2)
    process.wait(60)
    listener.join()
    assert out.exists(), "".join(said)
    return out.read_text()


def _table(raw: str, cost: float, others: float) -> str:
    seen: Counter[str] = Counter()
    for stack, count in samples(raw):
        seen[place(stack)] += count
    total = sum(seen.values())
    shown = [(what, count) for what, count in seen.most_common() if count / total >= _LEAST_SHARE]
    rest = total - sum(count for _, count in shown)
    lines = [tables.row("where", "µs per chunk", "share"), tables.row("---", "---:", "---:")]
    for what, count in [*shown, ("the rest", rest)]:
        lines.append(tables.row(what, f"{cost * count / total:.2f}", f"{count / total:.1%}"))
    return (
        f"Measured {machine.describe()}; {cost:.1f} µs per chunk in all, {total} samples; other programs used "
        f"{others:.2f} cores meanwhile.\n\n" + "\n".join(lines)
    )


def main() -> None:
    """Measure and write the document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, default=ROOT / "src", help="of the gateway")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache/bench")
    parser.add_argument("--document", type=Path, default=ROOT / "docs/measured/benchmarks.md")
    parser.add_argument("--no-document", action="store_true", help="print the table and write no document")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = profile(PACED, options.source.absolute(), options.cache.absolute(), Path(folder))
    print(text)
    if not options.no_document:
        tables.write_into(options.document, text, "profile")


if __name__ == "__main__":
    main()
