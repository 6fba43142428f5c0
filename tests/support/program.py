"""A handle on `vllm-engine serve` as users run it: a real process, driven over HTTP."""

from __future__ import annotations

import os
import platform
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.support.fake.fake_engine import change_scenario, scenario_of, start_pids
from tests.support.model import CHAT
from tests.support.raw_http import request, wire

DEADLINE = 60.0
"""Seconds that anything but a real engine's start may take, on a slow and busy machine."""
TELLS_EXIT_STATUS = tuple(map(int, re.findall(r"\d+", platform.release())[:2])) >= (6, 15)
"""Whether Linux tells the exit status of processes that are not one's own children."""
COVERAGE = {key: value for key, value in os.environ.items() if key.startswith("COVERAGE_PROCESS")}
"""What `make coverage` tells every process; read before a fixture clears the environment."""
_FIRST, _LAST = 10_000, 32_000
"""Below what Linux gives to clients and to those who bind port 0."""
_PER_WORKER = 1_000
_CLAIMS: list[socket.socket] = []
_PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody, and so costs nothing: to read the system's authorities takes 27 ms for each client."""


def until(condition: Callable[[], object], what: str, seconds: float = DEADLINE) -> None:
    """Wait until a condition holds; fails by saying what did not happen."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen in {seconds:g} s"
        time.sleep(0.05)


def end_process(process: subprocess.Popen[Any]) -> None:
    """Have a process end, and kill it if it does not."""
    process.terminate()
    try:
        process.wait(DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on and no other test process will get."""
    for port in _PORTS:
        # An abstract socket's name has one owner on this machine, and is free when its owner ends.
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0vllm-engine-test-port-{port}")
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _CLAIMS.append(claim)
        return port
    raise AssertionError("no port is free")


def free_pair() -> int:
    """Return the first of two such ports that follow each other."""
    first = free_port()
    while (second := free_port()) != first + 1:
        first = second
    return first


def _ports(worker: str) -> Iterator[int]:
    first = _FIRST + int(worker.removeprefix("gw")) * _PER_WORKER % (_LAST - _FIRST)
    yield from range(first, _LAST)
    yield from range(_FIRST, first)


# Read here, before a fixture clears the environment.
_PORTS = _ports(os.environ.get("PYTEST_XDIST_WORKER", "gw0"))


def metric_in(text: str, name: str) -> float:
    """Return one of a text's metrics, added up over its labels."""
    found = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    assert found, f"no {name} in {text}"
    return sum(map(float, found))


def engine_metric(path: Path, name: str) -> float:
    """Ask an engine itself, on its own socket, for one of its metrics."""
    with wire(path) as connection:
        return metric_in(
            connection.ask(request("GET", "/metrics", None, "Connection: close")).body.decode(), name
        )


def is_running(process: psutil.Process) -> bool:
    """Say whether a process runs: a zombie does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def until_gone(processes: list[psutil.Process]) -> None:
    """Wait for the end of all of these."""
    until(lambda: not any(map(is_running, processes)), "the end of every process")


def plain_client(url: str) -> httpx2.Client:
    """Return a client for a server on this machine."""
    return httpx2.Client(base_url=url, timeout=DEADLINE, verify=_PLAIN, trust_env=False)


class Program:
    """One running `vllm-engine serve`."""

    def __init__(
        self, process: subprocess.Popen[bytes], port: int, log: Path, engine_python: str | None = None
    ) -> None:
        self._process = process
        self._log = log
        self._engine_python = engine_python
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.client = plain_client(self.url)

    @property
    def pid(self) -> int:
        """The gateway's process id."""
        return self._process.pid

    @property
    def scenario(self) -> Path:
        """Its fake engine's scenario file."""
        assert self._engine_python, "no fake engine"
        return scenario_of(Path(self._engine_python))

    def change(self, **changes: Any) -> None:
        """Have its fake engine behave otherwise, from the next request on."""
        change_scenario(self.scenario, **changes)

    def starts(self) -> list[int]:
        """Return the pid of every fake engine that it has started, oldest first."""
        return start_pids(self.scenario)

    def log(self) -> str:
        """Return everything it has printed."""
        return self._log.read_text(errors="replace")

    def until_logged(self, text: str) -> None:
        """Wait until it has printed this: a thread writes the lines, some time later."""
        until(lambda: text in self.log(), f"{text!r} in the log")

    def health(self) -> dict[str, Any] | None:
        """Return the body of /healthz; None while nothing listens."""
        try:
            body: dict[str, Any] = self.client.get("/healthz").json()
        except httpx2.TransportError:
            return None
        return body

    def until_listening(self) -> None:
        """Wait until the gateway answers at all."""
        until(lambda: self._running() and self.health() is not None, "listening")

    def until_ready(self, seconds: float = DEADLINE) -> None:
        """Wait until the engine generates."""
        until(
            lambda: self._running() and (self.health() or {}).get("status") == "ready", "readiness", seconds
        )

    def metric(self, name: str) -> float:
        """Return one of the metrics, the engine's too, added up over its labels."""
        return metric_in(self.client.get("/metrics").text, name)

    def engines_lost(self) -> float:
        """Return how many engines it has lost, and starts that failed, by its own count."""
        return self.metric("gateway_engine_failures_total")

    @contextmanager
    def loses_engine(self, seconds: float = DEADLINE) -> Iterator[None]:
        """Wait after the block until the program has noticed that its engine is lost.

        The time without one may be too short to be seen in `/healthz`.
        """
        before = self.engines_lost()
        yield
        until(lambda: self.engines_lost() > before, "notice of the engine's loss", seconds)

    def engine_pid(self) -> int:
        """Return the process id of the engine's leader."""
        (child,) = psutil.Process(self.pid).children()
        return child.pid

    def engine_command(self) -> list[str]:
        """Return the engine's command line."""
        return psutil.Process(self.engine_pid()).cmdline()

    def engine_socket(self) -> Path:
        """Return the path of the engine's socket."""
        command = self.engine_command()
        return Path(command[command.index("--uds") + 1])

    def processes(self) -> list[psutil.Process]:
        """Return the gateway and everything below it."""
        own = psutil.Process(self.pid)
        return [own, *own.children(recursive=True)]

    def chat(self, **body: Any) -> httpx2.Response:
        """Ask for a chat completion."""
        return self.client.post("/v1/chat/completions", json=CHAT | body)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the gateway alone."""
        self._process.send_signal(number)

    def wait(self, seconds: float = DEADLINE) -> int:
        """Wait for the end; returns the exit status."""
        return self._process.wait(seconds)

    def close(self) -> None:
        """End it however it is."""
        self.client.close()
        if self._process.poll() is None:
            end_process(self._process)

    def _running(self) -> bool:
        assert self._process.poll() is None, f"it ended with {self._process.returncode}:\n{self.log()}"
        return True


class Elsewhere(Program):
    """A server that somebody else runs: it can be asked, and a test that would look into it is skipped."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.client = httpx2.Client(base_url=self.url, timeout=60.0)

    @property
    def pid(self) -> int:
        pytest.skip("NOT TESTED: the server runs elsewhere (E2E_BASE_URL)")

    def log(self) -> str:
        pytest.skip("NOT TESTED: the server runs elsewhere (E2E_BASE_URL)")

    def close(self) -> None:
        self.client.close()

    def _running(self) -> bool:
        return True


@contextmanager
def running(
    environ: Mapping[str, str],
    *,
    folder: Path,
    arguments: tuple[str, ...] = (),
    wrapper: tuple[str, ...] = (),
    redirect: str = "",
    port: int | None = None,
    command: Callable[[int], Sequence[str]] = lambda _: (sys.executable, "-m", "vllm_engine.cli", "serve"),
) -> Iterator[Program]:
    """Run `vllm-engine serve` with these variables; its log is printed, so that pytest shows it on failure.

    `wrapper` is a command that becomes it, such as `prlimit --nofile=1024 --`; `redirect` is for its standard
    streams, as a shell has it. Without a `port` it gets a free one; `command` is another one, given its port.
    """
    port = port or free_port()
    log = folder / f"program-{port}.log"
    defaults = COVERAGE | {
        "PATH": os.environ["PATH"],
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "CACHE_DIR": str(folder / "cache"),
        "LOG_FORMAT": "console",
        "STANDBY": "0",
        "METRICS_CACHE_SECONDS": "0",  # a test reads what is, not what was
        "TMPDIR": str(folder),
    }
    shell = ["sh", "-c", f'exec "$@" {redirect}', "sh"] if redirect else []
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*shell, *wrapper, *command(port), *arguments],
            env=defaults | dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
    program = Program(process, port, log, environ.get("ENGINE_PYTHON"))
    try:
        yield program
    finally:
        program.close()
        print(program.log())


def run_cli(
    environ: Mapping[str, str], *arguments: str, cwd: Path, text: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run one `vllm-engine` command to its end, with a text on its standard input."""
    defaults = COVERAGE | {"PATH": os.environ["PATH"], "CACHE_DIR": str(cwd / "cache"), "HOST": "127.0.0.1"}
    return subprocess.run(
        [sys.executable, "-m", "vllm_engine.cli", *arguments],
        env=defaults | dict(environ),
        input=text,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        cwd=cwd,
    )
