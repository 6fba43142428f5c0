"""Whoever reads standard output and standard error, or does not: the server serves, and ends as documented."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.fake.fake_engine import make_fake_engine_python
from tests.support.program import Program, free_port, running, until
from tests.support.terminal import terminal

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}
Start = Callable[..., AbstractContextManager[Program]]


@pytest.fixture
def redirected(tmp_path: Path, model_folder: Path) -> Start:
    """Start the program with its standard streams redirected, and an engine that logs this many bytes."""

    @contextmanager
    def start(redirect: str, log_bytes: int = 0, *arguments: str) -> Iterator[Program]:
        log = tmp_path / "engine.log"
        log.write_bytes((b"x" * 9_999 + b"\n") * (log_bytes // 10_000))
        scenario = {"startup_log": str(log)} if log_bytes else {}
        environ = {
            "ENGINE_PYTHON": str(make_fake_engine_python(tmp_path / "engine", scenario)),
            "MODEL_ID": str(model_folder),
            "SERVED_MODEL_NAME": "fake",
        }
        with running(environ, folder=tmp_path, redirect=redirect, arguments=arguments) as program:
            yield program

    return start


class Reader:
    """A named pipe's reader, which reads when it is told to."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.text = ""

    def read(self) -> str:
        """Read what there is; returns all that was ever read."""
        with suppress(BlockingIOError):
            while data := os.read(self._descriptor, 1_000_000):
                self.text += data.decode()
        return self.text

    def leave(self) -> None:
        """Never read again, and let the writer know."""
        os.close(self._descriptor)


def served(program: Program) -> bool:
    """Ask for a completion."""
    return program.client.post("/v1/chat/completions", json=CHAT).status_code == 200


def test_reader_stalls(redirected: Start, tmp_path: Path) -> None:
    """A reader that does not read costs lines, which are counted and, once it reads, said; and nothing else."""
    reader = Reader(tmp_path / "pipe")
    with redirected(f">{reader.path} 2>&1", 6_000_000) as program:
        program.until_ready()
        assert served(program)
        assert 100 < program.metric("gateway_log_lines_dropped_total") < 600
        until(lambda: "dropped before this one" in reader.read(), "the count of lines")
        (said,) = re.findall(r" ERROR   gateway\.log: (\d+) line\(s\) were dropped", reader.text)
        assert program.metric("gateway_log_lines_dropped_total") == int(said)
        lines = reader.text.count("gateway.access: POST")
        assert served(program)
        until(lambda: reader.read().count("gateway.access: POST") == lines + 1, "the newest request's line")
        program.send(signal.SIGTERM)
        assert program.wait() == 0
        assert reader.read().endswith(" stopped\n")


def test_reader_stalls_to_the_end(redirected: Start, tmp_path: Path) -> None:
    """A reader that never reads does not keep the program from its end."""
    reader = Reader(tmp_path / "pipe")
    with redirected(f">{reader.path} 2>&1", 200_000) as program:
        program.until_ready()
        program.send(signal.SIGTERM)
        assert program.wait() == 0


def test_reader_goes(redirected: Start, tmp_path: Path) -> None:
    """Where the reader has gone, as tee has after Ctrl-C, the stop is as orderly and the status 0."""
    reader = Reader(tmp_path / "pipe")
    with redirected(f">{reader.path} 2>&1", 0, "--ask") as program:
        program.until_ready()
        until(lambda: "until Ctrl-C" in reader.read(), "the first answer")
        reader.leave()
        assert served(program)
        program.send(signal.SIGINT)
        assert program.wait() == 0


@pytest.mark.parametrize("redirect", ["<&- >&- 2>&-", ">&-", "2>&-", ">/dev/full 2>&1"])
def test_nothing_to_write_to(redirected: Start, redirect: str) -> None:
    """Closed streams and a full disk keep nobody from being served."""
    with redirected(redirect, 0, "--ask") as program:
        program.until_ready()
        assert served(program)
        program.send(signal.SIGINT)
        assert program.wait() == 0


def test_failure_without_reader(tmp_path: Path) -> None:
    """Bad settings end with 2 whether or not anybody can read why."""
    for redirect in ("2>&-", "2>/dev/full"):
        with running({"PORT": "x"}, folder=tmp_path, redirect=redirect) as program:
            assert program.wait() == 2


def test_ctrl_s(tmp_path: Path, model_folder: Path) -> None:
    """A terminal that is held with Ctrl-S during the start holds nothing else."""
    port = free_port()
    environ = {
        "ENGINE_PYTHON": str(make_fake_engine_python(tmp_path / "engine", {"startup_seconds": 2})),
        "MODEL_ID": str(model_folder),
        "SERVED_MODEL_NAME": "fake",
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "CACHE_DIR": str(tmp_path / "cache"),
        "STANDBY": "0",
    }
    with terminal(environ, "serve", cwd=tmp_path) as shown:
        shown.until("importing")
        shown.type("\x13")
        program = Program(shown.process, port, tmp_path / "none")
        with program.client:
            program.until_ready()
            assert all(served(program) for _ in range(3))
        shown.type("\x11")
        shown.until("until Ctrl-C")
        shown.type("\x03")
        assert shown.wait() == 0


@pytest.mark.parametrize("command", ["settings", "settings --json", "completion bash", "--help"])
def test_reader_of_a_command_goes(tmp_path: Path, model_folder: Path, command: str) -> None:
    """`settings | head` and the like say nothing on standard error."""
    reader, writer = os.pipe()
    os.close(reader)
    environ = {
        "PATH": os.environ["PATH"],
        "ENGINE_PYTHON": str(make_fake_engine_python(tmp_path / "engine")),
        "MODEL_ID": str(model_folder),
        "CACHE_DIR": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "vllm_engine.cli", *command.split()],
        env=environ,
        stdout=writer,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_output_of_a_command_does_not_fit(tmp_path: Path) -> None:
    """A full disk is one line, not a traceback."""
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -m vllm_engine.cli completion bash >/dev/full', sys.executable],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert done.stderr == "Error: standard output cannot be written to (No space left on device)\n"
