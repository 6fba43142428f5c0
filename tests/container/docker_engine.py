"""Docker for the tests: the client to use, and an engine, started where there is none and we may."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.program import end_process, until

ENGINE_SECONDS = 90.0
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


class NoDocker(Exception):
    """There is no engine and none can be started; the message says why."""


def find_client() -> str:
    """Return a client that can build with BuildKit: one with buildx, or one so old that it needs none.

    Raises:
        NoDocker: there is none.
    """
    for client in filter(None, map(shutil.which, ("docker", "/usr/bin/docker"))):
        has_buildx = _run([client, "buildx", "version"]).returncode == 0
        if has_buildx or " version 20." in _run([client, "--version"]).stdout:
            return client
    raise NoDocker("no docker client with buildx")


@contextmanager
def running_engine(client: str) -> Iterator[None]:
    """See to it that an engine answers; stops what it started, whatever else may have happened.

    Raises:
        NoDocker: none answers and none can be started.
    """
    with Path("/tmp/vllm-engine-docker.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs of the tests start one engine
        if _answers(client):
            fcntl.flock(lock, fcntl.LOCK_UN)
            yield
            return
        daemon = shutil.which("dockerd", path=PATH)
        if daemon is None or os.getuid() != 0:
            raise NoDocker("no Docker engine answers, and to start one takes root and dockerd")
        folder = Path(tempfile.mkdtemp(prefix="vllm-engine-docker-"))
        # A folder and a pid file of its own: what an engine that was killed left behind is no obstacle.
        argv: list[str | Path] = [daemon, "--exec-root", folder / "run", "--pidfile", folder / "pid"]
        environ = {"PATH": PATH, "HOME": "/root"}
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, start_new_session=True
            )
        try:
            until(lambda: process.poll() is not None or _answers(client), "Docker's engine", ENGINE_SECONDS)
            if process.poll() is not None:
                lines = (folder / "log").read_text(errors="replace").splitlines() or ["it said nothing"]
                raise NoDocker(f"Docker's engine does not start: {lines[-1]}")
            fcntl.flock(lock, fcntl.LOCK_UN)
            yield
        finally:
            end_process(process)
            shutil.rmtree(folder, ignore_errors=True)


def _answers(client: str) -> bool:
    return _run([client, "info"]).returncode == 0


def _run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
