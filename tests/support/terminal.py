"""A command of ours on a real pseudo-terminal, driven by what stands on its screen."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.program import COVERAGE, DEADLINE


class Terminal:
    """What a person at the keyboard can do and see."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        self._descriptor = descriptor
        self.screen = ""
        """Everything that was ever printed."""
        self._seen = 0

    def until(self, text: str, seconds: float = DEADLINE) -> str:
        """Wait until a text appears after what was waited for last; returns what came up to its end."""
        end = time.monotonic() + seconds
        while (at := self.screen.find(text, self._seen)) < 0:
            assert time.monotonic() < end, f"no {text!r} in {seconds:g} s after:\n{self.screen}"
            if not self._read():
                raise AssertionError(f"it ended without {text!r}:\n{self.screen}")
        came = self.screen[self._seen : at + len(text)]
        self._seen = at + len(text)
        return came

    def type(self, keys: str) -> None:
        """Press keys; `\\x03` is Ctrl-C and `\\x04` Ctrl-D."""
        os.write(self._descriptor, keys.encode())

    def press_until(self, key: str, text: str | None, seconds: float = DEADLINE) -> None:
        """Press a key, again when nothing comes of it, until a text appears, or its end if None.

        Python's `input` takes no notice of a signal that comes just before it waits for the keyboard.
        """
        end, again = time.monotonic() + seconds, 0.0
        while text is None or text not in self.screen[self._seen :]:
            assert time.monotonic() < end, f"no {text or 'end'!r} in {seconds:g} s after:\n{self.screen}"
            if time.monotonic() >= again:
                self.type(key)
                again = time.monotonic() + 2
            if not self._read():
                assert text is None, f"it ended without {text!r}:\n{self.screen}"
                return

    def wait(self, seconds: float = DEADLINE) -> int:
        """Wait for its end; returns the exit status."""
        end = time.monotonic() + seconds
        while self._read():
            assert time.monotonic() < end, f"it did not end in {seconds:g} s:\n{self.screen}"
        return self.process.wait(seconds)

    def _read(self) -> bool:
        if not select.select([self._descriptor], [], [], 0.1)[0]:
            return True
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:  # Linux says so when the other side is closed
            return False
        self.screen += data.decode(errors="replace")
        return bool(data)


def _sit_at(descriptor: int, stderr: Path | None) -> None:
    os.login_tty(descriptor)
    if stderr is not None:
        os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT), 2)
    # Tests that run in a shell's background inherit that it is ignored.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def terminal(
    environ: Mapping[str, str], *arguments: str, cwd: Path, stderr: Path | None = None
) -> Iterator[Terminal]:
    """Run `vllm-engine` with a terminal for all three of its streams, or for two and a file for `stderr`."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "vllm_engine.cli", *arguments],
        env=COVERAGE
        | {"PATH": os.environ["PATH"], "TERM": "xterm", "COLUMNS": "100", "HOME": str(cwd)}
        | dict(environ),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=cwd,
        preexec_fn=lambda: _sit_at(theirs, stderr),
    )
    os.close(theirs)
    shown = Terminal(process, ours)
    try:
        yield shown
    finally:
        process.kill()
        process.wait()
        with suppress(OSError):
            os.close(ours)
        print(shown.screen)
