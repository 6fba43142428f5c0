#!/usr/bin/env python3
"""Measure how vLLM is best run on this machine's CPU, with the bundled model, and print a table.

Run with the gateway's Python from the checkout, on an otherwise idle machine:

    .venv/bin/python -m perf.cpu_profile --rounds 3 --rows cpu-profile.jsonl > table.md

Every round starts each variant once, in an order that alternates between rounds, and measures the time
from the program's start to the first whole answer and the tokens per second of one and of eight streams.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aiohttp

MODEL = "bundled:smollm2-135m-instruct"
TOKENS = 96
STREAMS = 8
READY_SECONDS = 400
ROOT = Path(__file__).resolve().parents[1]
TCMALLOC = Path("/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4")


@dataclass(frozen=True)
class Variant:
    """One way to run the engine; `cold` empties the compile caches before the start."""

    name: str
    environ: dict[str, str] = field(default_factory=dict)
    cold: bool = False


PYTHON = {"ENGINE_FRONTEND": "python"}
COMPILED = {"ENFORCE_EAGER": "0", "VLLM_USE_AOT_COMPILE": "0"}
VARIANTS = (
    Variant("eager, Python frontend", PYTHON),
    Variant("eager, Rust frontend", {"ENGINE_FRONTEND": "rust"}),
    Variant("eager, Python, no core reserved", PYTHON | {"VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}),
    Variant("eager, Python, tcmalloc", PYTHON | {"LD_PRELOAD": str(TCMALLOC)}),
    Variant("compiled cold, Python", PYTHON | COMPILED, cold=True),
    Variant("compiled warm, Python", PYTHON | COMPILED),
    Variant("compiled warm, Rust", COMPILED | {"ENGINE_FRONTEND": "rust"}),
)


@dataclass(frozen=True)
class Row:
    """One start."""

    variant: str
    round: int
    first_answer_seconds: float
    tokens_per_second: float
    tokens_per_second_8: float


async def measure(variant: Variant, round_: int, port: int, cache: Path) -> Row:
    """Start the program once and measure it."""
    if variant.cold:
        for name in ("vllm", "inductor"):
            await asyncio.to_thread(_empty, cache / name)
    environ = dict(os.environ) | {
        "MODEL_ID": MODEL,
        "CACHE_DIR": str(cache),
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "LOG_LEVEL": "warning",
        "STANDBY": "0",
    }
    began = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "vllm_engine.cli",
            "serve",
            env=environ | variant.environ,
            stdout=log,
            stderr=log,
        )
        try:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
                await until_ready(session, process)
                await generate(session, 8)
                first = time.monotonic() - began
                await generate(session, TOKENS)
                singles = [await generate(session, TOKENS) for _ in range(3)]
                eight = await concurrent(session)
        except Exception:
            log.seek(0)
            sys.stderr.buffer.write(log.read()[-4000:])
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            await process.wait()
    return Row(variant.name, round_, first, statistics.median(singles), eight)


async def until_ready(session: aiohttp.ClientSession, process: asyncio.subprocess.Process) -> None:
    """Wait for /healthz to answer 200."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if process.returncode is not None:
            raise RuntimeError(f"ended with {process.returncode} before it was ready")
        try:
            async with session.get("/healthz") as response:
                if response.status == 200:
                    return
        except aiohttp.ClientError:
            pass  # not listening yet
        await asyncio.sleep(0.1)
    raise TimeoutError(f"not ready after {READY_SECONDS} s")


async def generate(session: aiohttp.ClientSession, tokens: int, salt: str = "") -> float:
    """Have `tokens` generated; returns tokens per second."""
    began = time.monotonic()
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"{salt}Tell me about the sea."}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
    }
    async with session.post("/v1/chat/completions", json=body, raise_for_status=True) as response:
        answer = await response.json()
    got = int(answer["usage"]["completion_tokens"])
    if got != tokens:
        raise RuntimeError(f"asked for {tokens} tokens, got {got}")
    return got / (time.monotonic() - began)


async def concurrent(session: aiohttp.ClientSession) -> float:
    """Return the tokens per second of several requests at once."""
    began = time.monotonic()
    await asyncio.gather(*(generate(session, TOKENS, f"{n}. ") for n in range(STREAMS)))
    return STREAMS * TOKENS / (time.monotonic() - began)


def table(rows: list[Row]) -> str:
    """Render medians, and ratios to the first variant."""
    lines = [
        f"{platform.machine()}, {os.cpu_count()} cores; medians of {max(r.round for r in rows) + 1} starts",
        "",
        "| variant | first answer s | tokens/s | tokens/s, 8 streams |",
        "| --- | --- | --- | --- |",
    ]
    base: tuple[float, ...] = ()
    for name in dict.fromkeys(row.variant for row in rows):
        own = [row for row in rows if row.variant == name]
        medians = tuple(
            statistics.median(getattr(row, key) for row in own)
            for key in ("first_answer_seconds", "tokens_per_second", "tokens_per_second_8")
        )
        base = base or medians
        cells = (f"{value:.1f} ({value / first:.2f}x)" for value, first in zip(medians, base, strict=True))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


async def main() -> None:
    """Run every round and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--rows", type=Path, default=Path("cpu-profile.jsonl"), help="raw rows, one per start"
    )
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache")
    parser.add_argument("--only", default="", help="variants whose name contains this")
    args = parser.parse_args()
    rows: list[Row] = []
    chosen = [v for v in VARIANTS if args.only in v.name and Path(v.environ.get("LD_PRELOAD", "/")).exists()]
    with args.rows.open("w") as out:
        for round_ in range(args.rounds):
            # A cold compile stands before the warm ones in every round, so only the blocks alternate.
            compiled = [v for v in chosen if v.name.startswith("compiled")]
            eager = [v for v in chosen if v not in compiled]
            for variant in [*eager, *compiled] if round_ % 2 == 0 else [*compiled, *reversed(eager)]:
                row = await measure(variant, round_, args.port, args.cache)
                rows.append(row)
                out.write(json.dumps(asdict(row)) + "\n")
                out.flush()
                print(row, file=sys.stderr)
    order = [v.name for v in chosen]
    print(table(sorted(rows, key=lambda row: order.index(row.variant))))


if __name__ == "__main__":
    asyncio.run(main())
