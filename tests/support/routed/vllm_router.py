"""The real vllm-router with the settings of deploy/router/compose.yaml, in front of servers of this machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import yaml

from tests.support.client_tools import python_of_lock
from tests.support.program import end_process, free_port, metric_in, plain_client, until

ROOT = Path(__file__).parents[3]
COMPOSE = ROOT / "deploy/router/compose.yaml"
LOCK = ROOT / "requirements/router.txt"
CACHE = Path(os.environ.get("CACHE_DIR") or ROOT / ".cache")


def router_python() -> Path:
    """Return a Python that has vllm-router; it is installed once."""
    if platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip(f"NOT TESTED: vllm-router: it has no wheel for {platform.machine()}")
    return python_of_lock(LOCK, CACHE)


def shipped_options(**variables: str) -> list[str]:
    """Return the router's options in the Compose file, with its variables' defaults or these values."""

    def value(match: re.Match[str]) -> str:
        return variables.get(match[1], match[2])

    command = yaml.safe_load(COMPOSE.read_text())["services"]["router"]["command"]
    return [re.sub(r"\$\{(\w+):-([^}]*)\}", value, str(word)) for word in command[1:]]


class Router:
    """A running router."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, metrics_port: int, log: Path) -> None:
        self.process, self._log = process, log
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.client = plain_client(self.url)
        self._metrics = plain_client(f"http://127.0.0.1:{metrics_port}")

    def health(self) -> dict[str, bool]:
        """Return whether each worker is healthy, by its URL."""
        return {one["url"]: one["is_healthy"] for one in self.client.get("/workers").json()["workers"]}

    def until_healthy(self, *urls: str) -> None:
        """Wait until it sends requests to exactly these."""
        until(
            lambda: {url for url, is_healthy in self.health().items() if is_healthy} == set(urls),
            f"health of {urls}: {self.health()}",
        )

    def metric(self, name: str) -> float:
        """Return one of its metrics, added up over the labels; 0 before it is counted."""
        text = self._metrics.get("/metrics").text
        return metric_in(text, name) if f"\n{name}" in text else 0.0

    def log(self) -> str:
        """Return all that it has said."""
        return self._log.read_text(errors="replace")

    def close(self) -> None:
        """Close the connections to it."""
        self.client.close()
        self._metrics.close()

    def until_listening(self) -> None:
        """Wait until it answers."""

        def answers() -> bool:
            assert self.process.poll() is None, self.log()
            try:
                return self.client.get("/liveness").status_code == 200
            except httpx2.TransportError:
                return False

        until(answers, "an answer from the router")


def with_options(options: Sequence[str], **changes: str) -> list[str]:
    """Return the options with other values for some, whose names are written with underscores."""
    changed = list(options)
    for name, value in changes.items():
        changed[changed.index(f"--{name.replace('_', '-')}") + 1] = value
    return changed


@contextmanager
def routing(
    python: Path, workers: Sequence[str], folder: Path, *, first: Sequence[str] = (), **changes: str
) -> Iterator[Router]:
    """Run the router as it is shipped, but for these options; `first` are the words before its options."""
    port, metrics_port = free_port(), free_port()
    options = with_options(shipped_options(), host="127.0.0.1", port=str(port), **changes)
    options = [*with_options(options, prometheus_host="127.0.0.1"), "--prometheus-port", str(metrics_port)]
    urls = ["--worker-urls", *workers] if workers else []
    log = folder / f"router-{port}.log"
    program = first or (str(python.with_name("vllm-router")),)
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*program, *options, *urls], stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=folder
        )
    router = Router(process, port, metrics_port, log)
    try:
        router.until_listening()
        yield router
    finally:
        router.close()
        end_process(process)
        print(router.log()[-3000:])
