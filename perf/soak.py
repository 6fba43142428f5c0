"""A long mixed load with kills: do memory, files and threads of the gateway stay flat, and is no request lost?

    .venv/bin/python -m perf.soak --minutes 20             # the fake engine
    .venv/bin/python -m perf.soak --minutes 20 --real      # vLLM with the bundled model

Streams, whole answers and clients that leave run all the time; every --kill seconds the engine core is killed. Prints
a line a minute and a summary, and ends with 1 if a request ended in a way that docs/operate/lifecycle.md does not know.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from perf.chaos.case import Footprint, counted_requests
from perf.chaos.harm import Rig
from perf.chaos.load import DOCUMENTED, Ask, Outcome, Shot
from tests.support.fake.fake_engine import make_fake_engine_python
from tests.support.program import running, until

ROOT = Path(__file__).parents[1]
MODEL = "bundled:smollm2-135m-instruct"
CONFIG = '{"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 2048, "num_attention_heads": 8}'
START_SECONDS = 400.0


class Clients:
    """Asks without end, from as many threads."""

    def __init__(self, rig: Rig, count: int) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        self.faults: list[str] = []
        self._rig = rig
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Ask no more."""
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        for turn in itertools.count(number):
            if self._end.is_set():
                return
            leave = random.uniform(0.05, 2) if turn % 4 == 3 else None
            words = 200 if turn % 8 == 0 else 8
            shot = Shot(Ask(self._rig.program.url, self._rig.model, turn % 3 > 0, 32, words, leave))
            shot.join()
            with self._lock:
                self.outcomes[shot.outcome] += 1
                if shot.outcome not in DOCUMENTED:
                    self.faults.append(f"{shot.outcome}: {shot.detail}")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--kill", type=float, default=30, help="seconds between kills")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--real", action="store_true")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started too
    with tempfile.TemporaryDirectory() as folder, ready_program(Path(folder), real=arguments.real) as rig:
        faults = soak(rig, arguments.minutes * 60, arguments.kill, arguments.clients)
    print("\n".join(faults) or "no faults")
    sys.exit(bool(faults))


@contextmanager
def ready_program(folder: Path, *, real: bool, **more: str) -> Iterator[Rig]:
    """Run our program, with the real engine or the fake one and more settings, until it is ready."""
    environ = {"MAX_RESTARTS": "1000", "RESTART_WINDOW_SECONDS": "1", "LOG_LEVEL": "warning", "STANDBY": "1"}
    if real:
        environ["ENGINE_PYTHON"] = os.environ.get("ENGINE_PYTHON") or str(ROOT / ".venv-engine/bin/python")
        environ["CACHE_DIR"] = os.environ.get("CACHE_DIR") or str(ROOT / ".cache")
        environ["MODEL_ID"] = MODEL
    else:
        (folder / "model").mkdir()
        (folder / "model/config.json").write_text(CONFIG)
        environ["ENGINE_PYTHON"] = str(make_fake_engine_python(folder / "engine", {"tokens_per_second": 30}))
        environ |= {"MODEL_ID": str(folder / "model"), "SERVED_MODEL_NAME": "fake"}
    with running(environ | more, folder=folder) as program:
        program.until_ready(START_SECONDS)
        yield Rig(program, MODEL if real else "fake", folder, folder / "cache")


def soak(rig: Rig, seconds: float, kill_seconds: float, count: int) -> list[str]:
    """Load, kill, and measure; returns the faults."""
    clients = Clients(rig, count)
    kills = 0
    rows: list[tuple[float, Footprint]] = []
    began = time.monotonic()
    try:
        for minute in _minutes(seconds):
            while time.monotonic() < began + minute:
                time.sleep(min(kill_seconds, max(0.0, began + minute - time.monotonic())))
                with rig.program.loses_engine():
                    rig.core().kill()
                kills += 1
                rig.program.until_ready(START_SECONDS)
            rows.append((time.monotonic() - began, Footprint.of(rig)))
            print(_line(rows[-1], kills, clients), flush=True)
    finally:
        clients.close()
    total = sum(clients.outcomes.values())
    with suppress(AssertionError):
        until(lambda: counted_requests(rig) >= total, "all counts", 60)
    print(f"{total} requests, {counted_requests(rig):g} counted, {kills} kills: {_words(clients.outcomes)}")
    print(_flat(rows))
    return clients.faults


def _minutes(seconds: float) -> Iterator[float]:
    yield from (min(seconds, at) for at in range(60, int(seconds) + 60, 60))


def _line(row: tuple[float, Footprint], kills: int, clients: Clients) -> str:
    at, print_ = row
    return (
        f"{at:6.0f} s  {print_.memory / 1e6:6.1f} MB  {print_.files:4} files  {print_.threads:3} threads  "
        f"{kills:4} kills  {sum(clients.outcomes.values()):6} requests  {len(clients.faults)} faults"
    )


def _words(outcomes: Counter[Outcome]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())


def _flat(rows: list[tuple[float, Footprint]]) -> str:
    first, last = rows[min(1, len(rows) - 1)][1], rows[-1][1]
    return (
        f"from minute 2 to the end: {first.memory / 1e6:.1f} to {last.memory / 1e6:.1f} MB, "
        f"{first.files} to {last.files} files, {first.threads} to {last.threads} threads"
    )


if __name__ == "__main__":
    main()
