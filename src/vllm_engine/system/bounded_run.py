"""Runs a program for what it prints, in bounded time even if it hangs in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress


def run_bounded(argv: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a program without input; returns what it printed and its status.

    Raises:
        OSError: it cannot be run.
        TimeoutError: it, or a process that has its output, was still running. Its group is killed.
    """
    # subprocess.run kills the program alone, and then waits for all who have its output.
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise TimeoutError(f"{argv[0]} did not answer in {seconds:g} s") from error
            raise
    return subprocess.CompletedProcess(argv, process.returncode, out, err)
