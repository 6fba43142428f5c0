"""The launcher of both frontends, on a vLLM of which only the inside is there: how it starts, falls back and ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.program import DEADLINE, until_gone
from tests.support.stub_vllm import make_stub_vllm
from vllm_engine.plan.engine_command import LAUNCHER

SERVES = ("serve", "m", "--disable-uvicorn-access-log")


class Launched:
    """A running launcher, and what it has printed."""

    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self.folder, self.process = folder, process
        self.said: dict[str, Any] = {}

    def until_said(self, what: str) -> Any:
        """Read until it has said something; it may have before."""
        assert self.process.stdout is not None
        while what not in self.said:
            line = self.process.stdout.readline()
            assert line, (
                f"it ended with {self.process.wait()}: {self.process.stderr and self.process.stderr.read()}"
            )
            self.said |= json.loads(line)
        return self.said[what]

    def ended(self) -> tuple[int, str]:
        """Wait for its end; returns its status and the last line of its standard error."""
        _, errors = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, errors.strip().splitlines()[-1] if errors.strip() else ""

    @property
    def frontends(self) -> dict[str, Any]:
        """What it has written for the supervisor."""
        told: dict[str, Any] = json.loads((self.folder / "frontends.json").read_text())
        return told


@contextmanager
def launched(
    folder: Path, *flags: str, stub: dict[str, str] | None = None, **variables: str
) -> Iterator[Launched]:
    root = make_stub_vllm(folder, **(stub or {})) if not (folder / "stub").exists() else folder / "stub"
    argv = [sys.executable, "-P", str(LAUNCHER), "both", str(folder / "rust.sock"), *SERVES]
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(root)} | variables
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*argv, *flags, "--uds", str(folder / "engine.sock")],
        env=environ,
        stdout=pipe,
        stderr=pipe,
        text=True,
    ) as process:
        try:
            yield Launched(folder, process)
        finally:
            process.terminate()  # it ends its child processes


def test_both_are_started(tmp_path: Path) -> None:
    """Rust is client 0 and never sees the flag that it does not know; Python is client 1 and closes in time."""
    with launched(tmp_path) as group:
        group.until_said("ready")
        assert group.until_said("rust") == [str(tmp_path / "rust.sock"), False, 0, 1, 1, "i0", "o0"]
        group.until_said("serves")
        assert group.said["client"]["client_index"] == "1" and group.said["client"]["input_address"] == "i1"
        assert (group.said["uvicorn"], group.said["variable"]) == ({"timeout_graceful_shutdown": 1}, "1")
        assert group.frontends == {"frontends": ["python", "rust"], "reason": ""}


@pytest.mark.parametrize(("parser", "gets"), [("hermes", "hermes"), ("pythonic", None)])
def test_a_tool_parser_that_rust_lacks(tmp_path: Path, parser: str, gets: str | None) -> None:
    """It is left out for Rust, which gets no request with tools."""
    with launched(tmp_path, "--tool-call-parser", parser) as group:
        group.until_said("ready")
        assert group.said["parser"] == gets
        assert group.frontends["frontends"] == ["python", "rust"]


@pytest.mark.parametrize("lost", ["python", "rust", "core"])
def test_they_end_together(tmp_path: Path, lost: str) -> None:
    """SIGTERM to the leader is a clean end; the loss of another is not, and the last words are which it was."""
    with launched(tmp_path) as group:
        group.until_said("ready")
        pids = group.until_said("serves")
        others = [psutil.Process(pid) for name, pid in pids.items() if name != "python"]
        os.kill(pids[lost], signal.SIGTERM if lost == "python" else signal.SIGKILL)
        status, words = group.ended()
        until_gone(others)
    told = {
        "python": (0, ""),
        "rust": (1, f"RuntimeError: Process RustFrontend (PID: {pids['rust']}) died with exit code -9"),
        "core": (1, "RuntimeError: Failed core proc(s): {'EngineCore': -9}"),
    }
    assert (status, words) == told[lost]


@pytest.mark.parametrize(
    ("stub", "flags", "reason"),
    [
        ({"rust_version": "0.31.0"}, (), "vllm-rs is of version 0.31.0, vLLM of 0.32.0"),
        ({"rust_version": "; exit 3"}, (), "vllm-rs does not say its version (status 3)"),
        ({"lacks": "launch_core_engines"}, (), "there is no launch_core_engines in vllm.v1.engine.utils"),
        ({}, ("--middleware", "m"), "the Rust frontend does not implement --middleware"),
        ({}, ("--api-key", "k-secret"), "--api-key would be on a command line that others can read"),
        ({}, ("--data-parallel-size", "2"), "--data-parallel-size is 2"),
        ({}, ("--runner", "pooling"), "the model's runner is pooling, not generate"),
    ],
)
def test_the_python_frontend_alone(
    tmp_path: Path, stub: dict[str, str], flags: tuple[str, ...], reason: str
) -> None:
    """Whatever forbids both, plain vLLM gets the whole command line, and the reason is written and printed."""
    with launched(tmp_path, *flags, stub=stub) as alone:
        arguments = alone.until_said("alone")
        assert arguments == [*SERVES, *flags, "--uds", str(tmp_path / "engine.sock")]
        told = alone.frontends
        assert alone.ended() == (0, f"WARNING the Python frontend serves alone: {told['reason']}")
    assert told["frontends"] == ["python"] and reason in told["reason"] and "k-secret" not in told["reason"]


def test_a_rust_frontend_that_cannot_start(tmp_path: Path) -> None:
    """It ends by itself while the engine core starts: all begin anew with Python alone, at the next start at once."""
    record = tmp_path / "spawned"
    record.touch()
    with launched(tmp_path, STUB_RUST="fails", STUB_SECONDS="60", ENGINE_SPAWN_RECORD=str(record)) as first:
        assert first.until_said("alone")[0] == "serve"
        assert first.frontends["frontends"] == ["python"]
        assert "exited with status 4 at its start" in first.frontends["reason"]
    assert not record.exists(), "processes that have ended are none of the engine's"
    with launched(tmp_path) as second:
        second.until_said("alone")
        assert "rust" not in second.said


def test_an_engine_core_that_cannot_start(tmp_path: Path) -> None:
    """It is no fault of the frontends: the failure stays vLLM's own."""
    with launched(tmp_path, STUB_CORE="fails", STUB_SECONDS="60") as group:
        assert group.ended() == (1, "RuntimeError: Engine core initialization failed. See root cause above.")
