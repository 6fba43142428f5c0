"""What each replica adds for the programs around it: series and bytes of a scrape, the log line of a request, keys.

.venv/bin/python -m perf.replica_cost                  # the fake engine: what is vLLM's is not counted
.venv/bin/python -m perf.replica_cost --real --write   # vLLM with the bundled model; writes docs/scale.md
"""

from __future__ import annotations

import argparse
import hashlib
import io
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

from perf.bench.cpu_usage import cpu_seconds
from perf.bench.machine import describe
from perf.bench.tables import write_into
from perf.chaos.harm import Rig
from perf.soak import ready_program
from vllm_engine.gateway.policy.auth import Keyring

DOCUMENT = Path(__file__).parents[1] / "docs/scale.md"
KEYS = 20
KEYS_IN_FILES = (10, 1_000, 10_000)
SCRAPES = 50
CHECKS = 200
ASKED = "/v1/chat/completions"


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--real", action="store_true", help="vLLM with the bundled model")
    parser.add_argument("--write", action="store_true", help="into docs/scale.md")
    arguments = parser.parse_args()
    keys = ",".join(f"team-{at}:{_key(at)}" for at in range(KEYS))
    more = {
        "API_KEYS": keys,
        "METRICS_CACHE_SECONDS": "0",
        "LOG_LEVEL": "info",
        "LOG_FORMAT": "json",
        "STANDBY": "0",
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        redirect_stdout(io.StringIO()),  # the program's log
        ready_program(Path(folder), real=arguments.real, **more) as rig,
    ):
        rows = [*replica_rows(rig), *key_rows(Path(folder))]
    text = "\n".join([f"Measured {describe()}.", "", "| what | figure |", "| --- | ---: |", *rows])
    print(text)
    if arguments.write:
        write_into(DOCUMENT, text, "replica")


def replica_rows(rig: Rig) -> Iterator[str]:
    """Ask with one key and then with all, and count what that leaves."""
    ask(rig, 0)
    one = scrape(rig)
    lines_before = access_lines(rig)
    for at in range(1, KEYS):
        ask(rig, at)
    all_keys = scrape(rig)
    lines = access_lines(rig)[len(lines_before) :]
    vllm, gateway = (
        sum(line.startswith(prefix) for line in _series(one)) for prefix in ("vllm:", "gateway_")
    )
    grown = (len(_series(all_keys)) - len(_series(one))) / (KEYS - 1)
    yield f"| series of vLLM's metrics | {vllm:,} |"
    yield f"| series of the gateway's, one key and one route | {gateway:,} |"
    yield f"| series of Python's and others | {len(_series(one)) - vllm - gateway:,} |"
    yield f"| series for each further key | {grown:.1f} |"
    yield f"| bytes of a scrape | {len(one):,} |"
    yield f"| the gateway's CPU for a scrape, ms | {scrape_cpu(rig) * 1e3:.1f} |"
    yield f"| bytes of a request's line in the log | {statistics.mean(map(len, lines)):,.0f} |"


def ask(rig: Rig, key: int) -> None:
    """Ask for one short answer with this key."""
    body = {"model": rig.model, "max_tokens": 4, "messages": [{"role": "user", "content": "Say something."}]}
    headers = {"authorization": f"Bearer {_key(key)}"}
    rig.program.client.post(ASKED, json=body, headers=headers).raise_for_status()


def scrape(rig: Rig) -> str:
    """Return the metrics."""
    answer = rig.program.client.get("/metrics", headers={"authorization": f"Bearer {_key(0)}"})
    answer.raise_for_status()
    return answer.text


def scrape_cpu(rig: Rig) -> float:
    """Return the seconds of processor time that the gateway takes for one scrape."""
    before = cpu_seconds(rig.program.pid)
    for _ in range(SCRAPES):
        scrape(rig)
    return (cpu_seconds(rig.program.pid) - before) / SCRAPES


def access_lines(rig: Rig) -> list[str]:
    """Return the log's lines of requests."""
    return [line for line in rig.program.log().splitlines() if '"gateway.access"' in line and ASKED in line]


def key_rows(folder: Path) -> Iterator[str]:
    """Time the check of a key against files of many keys, of which it is the last."""
    for count in KEYS_IN_FILES:
        file = folder / f"keys-{count}"
        digests = (hashlib.sha256(_key(at).encode()).hexdigest() for at in range(count))
        file.write_text("".join(f"team-{at}:sha256:{digest}\n" for at, digest in enumerate(digests)))
        began = time.process_time()
        ring = Keyring(None, file)
        loaded = time.process_time() - began
        header = [(b"authorization", f"Bearer {_key(count - 1)}".encode())]
        began = time.process_time()
        for _ in range(CHECKS):
            ring.check(header)
        each = (time.process_time() - began) / CHECKS
        yield f"| the gateway's CPU to check a key, {count:,} in the file, µs | {each * 1e6:,.0f} |"
        yield f"| to read that file, ms | {loaded * 1e3:,.1f} |"


def _key(at: int) -> str:
    return f"key-for-measuring-{at:06}"


def _series(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


if __name__ == "__main__":
    main()
