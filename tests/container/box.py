"""A handle on one container, as its user sees it: over Docker's client and over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2

from tests.support.program import DEADLINE, metric_in, until

CONTAINER_SECONDS = 180.0
"""What a container of the fake engine may take for anything, on a slow and busy machine."""
STREAMS = 16


class Docker:
    """Docker's client."""

    def __init__(self, client: str) -> None:
        self.client = client
        self.environ = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root"), "DOCKER": client}
        """Variables for a script that calls the client."""

    def __call__(self, *argv: str, check: bool = True, seconds: float = 120) -> str:
        """Run one command; returns what it printed, both streams together."""
        done = subprocess.run(
            [self.client, *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds
        )
        assert not check or done.returncode == 0, f"docker {' '.join(argv)}: {done.stdout}"
        return done.stdout.strip()

    def inspect(self, thing: str) -> dict[str, Any]:
        """Return what Docker knows of an image or a container."""
        found: list[dict[str, Any]] = json.loads(self("inspect", thing))
        return found[0]


class Box:
    """One container, running or ended."""

    def __init__(self, docker: Docker, name: str, port: int = 8000) -> None:
        self.docker = docker
        self.name = name
        self._port = port

    def port(self, inside: int) -> int:
        """Return the port of this machine behind which one of the container's is."""
        return int(self.docker("port", self.name, f"{inside}/tcp").splitlines()[0].rpartition(":")[2])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port(self._port)}"

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.docker.inspect(self.name)["State"]
        return state

    def health(self) -> dict[str, Any]:
        """Return the body of /healthz; empty while nothing answers."""
        try:
            body: dict[str, Any] = httpx2.get(f"{self.url}/healthz", timeout=10).json()
        except (httpx2.TransportError, ValueError):
            return {}
        return body

    def until_ready(self, seconds: float = CONTAINER_SECONDS) -> None:
        """Wait until the engine generates."""
        until(lambda: self._runs() and self.health().get("status") == "ready", "readiness", seconds)

    def stop(self) -> int:
        """Stop it as an orchestrator does, with all the time that a busy machine may take; returns the exit status."""
        self.docker("stop", "--time", "90", self.name)
        return int(self.state["ExitCode"])

    def wait(self, seconds: float = CONTAINER_SECONDS) -> int:
        """Wait for its end; returns the exit status."""
        return int(self.docker("wait", self.name, seconds=seconds))

    def logs(self) -> str:
        return self.docker("logs", self.name)

    def until_logged(self, text: str, seconds: float = DEADLINE) -> None:
        until(lambda: text in self.logs(), f"{text!r} in the log", seconds)

    def run(self, *argv: str, user: str = "") -> str:
        """Run a command in it."""
        return self.docker("exec", *(("--user", user) if user else ()), self.name, *argv)

    def python(self, code: str) -> str:
        """Run Python in it: an image without procps has nothing else to look at processes with."""
        return self.run("/opt/gateway/bin/python", "-IS", "-c", code)

    def processes(self) -> dict[int, dict[str, Any]]:
        """Return its processes by pid: parent, state, real uid and gid, and command line."""
        return {int(pid): process for pid, process in json.loads(self.python(_PROCESSES)).items()}

    def named(self, words: str) -> dict[int, dict[str, Any]]:
        """Return the processes with these words in their command line."""
        return {pid: each for pid, each in self.processes().items() if words in each["command"]}

    def _runs(self) -> bool:
        assert self.state["Running"], f"it ended with {self.state['ExitCode']}:\n{self.logs()}"
        return True


_PROCESSES = """
import json, os
found = {}
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        lines = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status") if ":" in line)
        command = open(f"/proc/{pid}/cmdline").read().replace("\\0", " ").strip()
    except OSError:
        continue
    if int(pid) != os.getpid():
        found[pid] = {
            "parent": int(lines["PPid"]), "state": lines["State"].split()[0], "command": command,
            "uid": int(lines["Uid"].split()[0]), "gid": int(lines["Gid"].split()[0]),
            "capabilities": int(lines["CapEff"], 16), "no_new_privileges": lines["NoNewPrivs"].strip() == "1",
        }
print(json.dumps(found))
"""


def truncated(url: str, model: str, max_tokens: int, timeout: float) -> str:
    """Ask for a stream; returns the end of what came, or nothing if it came to its end without an error."""
    messages = [{"role": "user", "content": "Count."}]
    body = {"model": model, "stream": True, "max_tokens": max_tokens, "messages": messages}
    answer = httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=timeout)
    text = answer.text
    is_whole = text.rstrip().endswith("data: [DONE]") and '"error"' not in text and "finish_reason" in text
    return "" if answer.status_code == 200 and is_whole else f"{answer.status_code}: {text[-300:]}"


def stop_under_streams(
    box: Box, model: str, max_tokens: int, timeout: float, look: Callable[[Box], object] = id
) -> list[str]:
    """Stop it while sixteen streams run, after a look at it; returns the ends of those that were cut."""
    url = box.url

    def running() -> float:
        return metric_in(httpx2.get(f"{url}/metrics", timeout=30).text, "gateway_in_flight")

    with ThreadPoolExecutor(STREAMS) as pool:
        streams = [pool.submit(truncated, url, model, max_tokens, timeout) for _ in range(STREAMS)]
        until(lambda: running() == STREAMS, "sixteen streams", CONTAINER_SECONDS)
        look(box)
        began = time.monotonic()
        assert box.stop() == 0, box.logs()
        print(f"MEASURED stop under {STREAMS} streams: {time.monotonic() - began:.1f} s")
        return [end for stream in streams if (end := stream.result())]


def recovers(box: Box, seconds: float) -> None:
    """Kill the engine's leader: it comes back, and nothing of the first is left, no zombie either."""
    (core,) = box.named("VLLM::EngineCore")
    engine = kill_engine(box)
    box.until_logged("the engine is started again", CONTAINER_SECONDS)
    box.until_ready(seconds)
    assert {engine, core}.isdisjoint(box.processes())
    assert len(box.named("VLLM::EngineCore")) == 1
    until(lambda: not [each for each in box.processes().values() if each["state"] == "Z"], "no zombies")


def options(*words: str, **variables: str) -> Sequence[str]:
    """Return options of `docker run`: these words, and variables of the environment."""
    return [*words, *(word for name, value in variables.items() for word in ("--env", f"{name}={value}"))]


def kill_engine(box: Box) -> int:
    """Kill the engine's leader; returns its pid."""
    # By its place: one that was a standby has not the model's name in its command line.
    processes = box.processes()
    (ours,) = (pid for pid in box.named("vllm-engine serve") if pid != 1)
    (pid,) = box.named("VLLM::EngineCore")
    while (parent := processes[pid]["parent"]) != ours:
        pid = parent
    box.python(f"import os; os.kill({pid}, 9)")
    return pid
