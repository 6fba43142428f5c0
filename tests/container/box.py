"""A handle on one container, as its user sees it: over Docker's client and over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from typing import Any

import httpx2

from tests.support.program import DEADLINE, metric_in, until

CONTAINER_SECONDS = 60.0
"""What a container of the fake engine may take for anything, on a slow and busy machine."""


class Docker:
    """Docker's client."""

    def __init__(self, client: str) -> None:
        self.client = client

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

    @property
    def environ(self) -> dict[str, str]:
        """Variables for a script that calls the client."""
        return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root"), "DOCKER": self.client}


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
        """Where it serves."""
        return f"http://127.0.0.1:{self.port(self._port)}"

    @property
    def state(self) -> dict[str, Any]:
        """Docker's state of it."""
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

    def stop(self) -> None:
        """Stop it as an orchestrator does, with all the time that a busy machine may take."""
        self.docker("stop", "--time", "90", self.name)

    def wait(self, seconds: float = CONTAINER_SECONDS) -> int:
        """Wait for its end; returns the exit status."""
        return int(self.docker("wait", self.name, seconds=seconds))

    def logs(self) -> str:
        """Return everything it has printed."""
        return self.docker("logs", self.name)

    def until_logged(self, text: str, seconds: float = DEADLINE) -> None:
        """Wait until it has printed this."""
        until(lambda: text in self.logs(), f"{text!r} in the log", seconds)

    def run(self, *argv: str, check: bool = True, user: str = "") -> str:
        """Run a command in it."""
        who = ("--user", user) if user else ()
        return self.docker("exec", *who, self.name, *argv, check=check)

    def python(self, code: str, user: str = "") -> str:
        """Run Python in it: an image without procps has nothing else to look at processes with."""
        return self.run("/opt/gateway/bin/python", "-IS", "-c", code, user=user)

    def processes(self) -> dict[int, dict[str, Any]]:
        """Return its processes by pid: parent, state, real uid and gid, and command line."""
        found = json.loads(self.python(_PROCESSES))
        return {int(pid): process for pid, process in found.items()}

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


def stream_of(url: str, model: str, max_tokens: int, timeout: float) -> tuple[int, str]:
    """Ask for a stream; returns the status and all that came."""
    body = {
        "model": model,
        "stream": True,
        "max_tokens": max_tokens,
        "messages": [{"role": "user", "content": "Count."}],
    }
    answer = httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=timeout)
    return answer.status_code, answer.text


def is_whole(text: str) -> bool:
    """Say whether a stream came to its end without an error."""
    return text.rstrip().endswith("data: [DONE]") and '"error"' not in text and "finish_reason" in text


def options(*words: str, **variables: str) -> Sequence[str]:
    """Return options of `docker run`: these words, and variables of the environment."""
    return [*words, *(word for name, value in variables.items() for word in ("--env", f"{name}={value}"))]


def in_flight(url: str) -> float:
    """Return how many requests the gateway has in flight."""
    return metric_in(httpx2.get(f"{url}/metrics", timeout=30).text, "gateway_in_flight")


def kill_engine(box: Box) -> int:
    """Kill the engine's leader; returns its pid."""
    (pid,) = box.named("--served-model-name")
    box.run("/opt/gateway/bin/python", "-c", f"import os; os.kill({pid}, 9)")
    return pid
