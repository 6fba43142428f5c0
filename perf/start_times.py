"""Starts, phase by phase, of our program and of plain `vllm serve`.

    .venv/bin/python -m perf.start_times [--rounds 5] [--write] [--empty-cache]
    .venv/bin/python -m perf.start_times --tables     # print those of the rows that are kept

`FRONTEND=rust scripts/setup.sh all` comes first: this needs vLLM and the development tools.

Each round starts plain `vllm serve`, and then our program with each frontend: a first start, a restart after a kill
of EngineCore with a standby there, and a second start. Every other round goes the other way round. Plain `vllm serve`
has the command, the environment and the caches that our program would give it (`serve --dry-run`).

A *first start* is one of a configuration that has not been started before: of CACHE_DIR only what vLLM caches (with
Python's and the system's own caches) and the converted model are there, nothing of our program's. --empty-cache
measures the first start of an installation instead: CACHE_DIR is empty, for both. Seconds run from the start of the
process, or from the kill, to the first generated token, which is asked for 50 times a second. CPU seconds are those of
all processes, theirs that have ended included. --write keeps the rows and writes docs/measured/starts.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import psutil

from perf.bench import machine, tables
from perf.bench.processes import free_port

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "perf/results/starts.jsonl"
DOCUMENT = ROOT / "docs/measured/starts.md"
MODEL = "bundled:smollm2-135m-instruct"
SECONDS = 600.0
POLL_SECONDS = 0.02
PLAIN = "vllm serve"
FRONTENDS = ("python", "both")
KEPT_FOLDERS = frozenset({"bundled", "engine-site", "huggingface", "inductor", "vllm", "xdg"})
"""Of CACHE_DIR: models, vLLM's metadata, and what vLLM and its libraries cache."""
TOKEN = "first token"
PHASES = (
    ("our program, until the engine's command is settled", r"preparing took"),
    ("API server: imports", r" version \d+\.\d+\.\d+$"),
    ("API server: configuration, model inspection", r"Using max model len"),
    ("EngineCore: process, imports", r"Initializing a V1 LLM engine"),
    ("worker: process, imports", r"Starting to load model"),
    ("weights", r"Loading weights took"),
    ("KV cache, profile, warm-up", r"init engine \(profile"),
    ("API server: tokenizer, routes", r"Application startup complete"),
)
"""What ends with the first line like this. What was done before its turn, side by side, takes no time in it."""

Row = Mapping[str, Any]


class Started:
    """A running server, and when it printed what."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], url: str, folder: Path) -> None:
        self.began, self.lines = time.monotonic(), list[tuple[float, str]]()
        self._process = subprocess.Popen(
            command, env=environ, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.client = httpx2.Client(base_url=url, timeout=SECONDS, trust_env=False)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self.lines.append((time.monotonic(), line.decode(errors="replace").rstrip()))

    def processes(self) -> list[psutil.Process]:
        """Return the processes of its tree."""
        own = psutil.Process(self._process.pid)
        return [own, *own.children(recursive=True)]

    def token(self, since: float) -> float:
        """Ask until a token comes; returns the seconds since then."""
        body = {"model": MODEL, "prompt": "Hello", "max_tokens": 1}
        while True:
            with suppress(httpx2.TransportError):
                if self.client.post("/v1/completions", json=body).status_code == 200:
                    return time.monotonic() - since
            self._check(since)
            time.sleep(POLL_SECONDS)

    def until_logged(self, text: str) -> None:
        """Wait until it has printed this."""
        since = time.monotonic()
        while not any(text in line for _, line in list(self.lines)):
            self._check(since)
            time.sleep(POLL_SECONDS)

    def phases(self, since: float, took: float) -> dict[str, float]:
        """Return the seconds of each phase of a start that began then."""
        return phases([(at - since, line) for at, line in list(self.lines) if at >= since], took)

    def _check(self, since: float) -> None:
        text = "\n".join(line for _, line in list(self.lines)[-40:])
        assert self._process.poll() is None, f"it ended with {self._process.returncode}:\n{text}"
        assert time.monotonic() < since + SECONDS, f"nothing after {SECONDS:g} s:\n{text}"

    def stop(self) -> None:
        """End it and what it started."""
        everything = self.processes() if self._process.poll() is None else []
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        for process in everything:
            with suppress(psutil.Error):
                process.kill()
        self._process.wait()
        self._reader.join()
        self.client.close()


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """Return the processor time of these, and of those below them which have ended."""
    spent = 0.0
    for process in processes:
        with suppress(psutil.Error):
            times = process.cpu_times()
            spent += times.user + times.system + times.children_user + times.children_system
    return spent


def phases(lines: Sequence[tuple[float, str]], took: float) -> dict[str, float]:
    """Return the seconds of each phase that these lines, with their times, show."""
    found, reached = {}, 0.0
    for title, pattern in PHASES:
        at = next((at for at, line in lines if re.search(pattern, line)), None)
        if at is not None:
            found[title] = round(max(0.0, at - reached), 2)
            reached = max(reached, at)
    return {**found, TOKEN: round(took - reached, 2)}


@contextmanager
def started(command: Sequence[str], environ: Mapping[str, str], port: int, folder: Path) -> Iterator[Started]:
    server = Started(command, environ, f"http://127.0.0.1:{port}", folder)
    try:
        yield server
    finally:
        server.stop()


class Rig:
    """One folder of caches, and the two programs that use it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.cache = folder, folder / "cache"

    def settings(self, frontend: str, port: int) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "ENGINE_PYTHON": os.environ.get("ENGINE_PYTHON") or str(ROOT / ".venv-engine/bin/python"),
            "CACHE_DIR": str(self.cache),
            "MODEL_ID": MODEL,
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "STANDBY": "1",
            "LOG_FORMAT": "console",
            "ENGINE_FRONTEND": frontend,
        }

    @contextmanager
    def ours(self, frontend: str) -> Iterator[Started]:
        port = free_port()
        command = [sys.executable, "-m", "vllm_engine.cli", "serve"]
        with started(command, self.settings(frontend, port), port, self._folder) as server:
            yield server

    @contextmanager
    def plain(self) -> Iterator[Started]:
        port = free_port()
        environ = self.settings("python", port)
        command = [sys.executable, "-m", "vllm_engine.cli", "serve", "--dry-run"]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
        printed = "\n".join(line for line in done.stdout.splitlines() if not line.startswith("#"))
        words = shlex.split(printed.replace("\\\n", ""))
        place = words.index("--uds")
        words[place : place + 2] = ["--host", "127.0.0.1", "--port", str(port)]
        # What our program adds once it knows that the model is here.
        more = {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
        with started(words, environ | more, port, self._folder) as server:
            yield server

    def forget(self, *, everything: bool) -> None:
        """Remove what our program keeps of earlier starts, or all caches."""
        self.cache.mkdir(exist_ok=True)
        for path in self.cache.iterdir():
            if path.is_dir() and (everything or path.name not in KEPT_FOLDERS):
                shutil.rmtree(path)
            elif path.is_file():
                path.unlink()


def measured(server: Started, what: str, frontend: str, others: float) -> dict[str, Any]:
    """Wait for a start's first token; returns a row."""
    took = server.token(server.began)
    cpu = round(cpu_seconds(server.processes()), 1)
    return _row(what, frontend, took, server.phases(server.began, took), others, cpu_seconds=cpu)


def _row(
    what: str, frontend: str, took: float, found: Mapping[str, float], others: float, **more: float
) -> dict[str, Any]:
    busy = (machine.others_seconds() - others) / took
    row = {"what": what, "frontend": frontend, "seconds": round(took, 2), "phases": found, **more}
    return {**row, "cores_of_others": round(busy, 2)}


def restart(server: Started, frontend: str) -> dict[str, Any]:
    """Kill the engine core; returns the row of the start that follows."""
    server.until_logged("a standby is ready")
    core = next(one for one in server.processes() if one.name().startswith("VLLM::EngineCor"))
    others, began = machine.others_seconds(), time.monotonic()
    core.kill()
    # The request waits in the gateway until the engine is back.
    took = server.token(began)
    return _row("restart after a kill", frontend, took, server.phases(began, took), others)


def one_round(rig: Rig, number: int, is_empty: bool) -> Iterator[dict[str, Any]]:
    """Yield the rows of a round."""
    first = "first start, empty cache" if is_empty else "first start"
    for frontend in [PLAIN, *FRONTENDS][:: -1 if number % 2 else 1]:
        if is_empty or frontend != PLAIN:
            rig.forget(everything=is_empty)
        if frontend == PLAIN and is_empty:
            _convert(rig)
        others = machine.others_seconds()
        with rig.plain() if frontend == PLAIN else rig.ours(frontend) as server:
            yield measured(server, first if is_empty or frontend != PLAIN else "start", frontend, others)
            if not is_empty and frontend != PLAIN:
                yield restart(server, frontend)
        if not is_empty and frontend != PLAIN:
            others = machine.others_seconds()
            with rig.ours(frontend) as server:
                yield measured(server, "second start", frontend, others)


def _convert(rig: Rig) -> None:
    """Bring the model where plain `vllm serve` will read it; nothing else is cached."""
    with rig.ours("python") as server:
        server.until_logged("preparing took")
    for path in rig.cache.iterdir():
        if path.name not in ("bundled", "engine-site"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def markdown(rows: Sequence[Row]) -> str:
    """Return the tables."""
    about = next((row for row in rows if row["what"] == "machine"), None)
    timed = [row for row in rows if "seconds" in row]
    kinds = list(dict.fromkeys((row["what"], row["frontend"]) for row in sorted(timed, key=_order)))
    of_kind = {kind: [row for row in timed if (row["what"], row["frontend"]) == kind] for kind in kinds}
    base = {row["round"]: row["seconds"] for row in timed if row["frontend"] == PLAIN}
    lines = [
        "| start | frontend | rounds | seconds to a token | x `vllm serve` | CPU s | cores others used |"
    ]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for (what, frontend), mine in of_kind.items():
        ratios = [row["seconds"] / base[row["round"]] for row in mine if row["round"] in base]
        seconds = [row["seconds"] for row in mine]
        cpu = [row["cpu_seconds"] for row in mine if "cpu_seconds" in row]
        cells = [
            what,
            frontend,
            str(len(mine)),
            f"{median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})",
        ]
        cells += [f"{median(ratios):.2f}" if ratios else "-", f"{median(cpu):.1f}" if cpu else "-"]
        lines.append(tables.row(*cells, f"{median(row['cores_of_others'] for row in mine):.2f}"))
    titles = [f"{what}, {frontend}" if frontend != PLAIN else PLAIN for what, frontend in kinds]
    lines += ["", tables.row("phase, seconds", *titles), tables.row("---", *("---:" for _ in kinds))]
    for phase in (*(title for title, _ in PHASES), TOKEN):
        found = [[row["phases"].get(phase) for row in mine] for mine in of_kind.values()]
        values = [[each for each in column if each is not None] for column in found]
        lines.append(tables.row(phase, *(f"{median(column):.1f}" if column else "-" for column in values)))
    return "\n".join([*([about["machine"], ""] if about else []), *lines])


def _order(row: Row) -> tuple[bool, bool, int]:
    rank = ("start", "first start, empty cache", "first start", "second start", "restart after a kill")
    return row["frontend"] != PLAIN, row["frontend"] == "both", rank.index(row["what"])


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--empty-cache", action="store_true")
    arguments = parser.parse_args()
    if arguments.tables:
        print(markdown(tables.read_rows(KEPT)))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started too
    rows: list[Row] = [{"what": "machine", "machine": machine.describe()}]
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder))
        rig.forget(everything=True)
        if not arguments.empty_cache:
            with rig.ours("both") as server:  # fills the caches, the system's too
                server.token(server.began)
        for number in range(arguments.rounds):
            for row in one_round(rig, number, arguments.empty_cache):
                rows.append({"round": number, **row})
                print(json.dumps(rows[-1]), flush=True)
    if arguments.write:
        name = "starts-empty" if arguments.empty_cache else "starts"
        tables.write_rows(KEPT.with_name(f"{name}.jsonl"), rows)
        tables.write_into(DOCUMENT, markdown(rows), name)
    print(markdown(rows))


if __name__ == "__main__":
    main()
