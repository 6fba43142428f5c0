"""Mechanics of the child: spawn in a session of its own, pump its output, end its whole group."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

TAIL_LINES = 400
"""How many of the child's newest lines are kept for a diagnosis."""

MAX_LINE_CHARS = 16_384
"""Longer lines are cut: one runaway line must not grow our memory."""

_READ_BYTES = 65_536
_LAST_LINES_SECONDS = 2.0
"""How long the last lines may take; a process outside the group may hold the output open for ever."""
_LAUNCHER = Path(__file__).with_name("launch.py")


class EngineProcess:
    """One running engine: the process we started and everything it started in its group."""

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        output: asyncio.StreamReader,
        transport: asyncio.ReadTransport,
        on_line: Callable[[str], None],
    ) -> None:
        self._popen = popen
        self._output = output
        self._transport = transport
        self._on_line = on_line
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._exit = _exit_of(popen)
        self._is_reaped = False
        self._pump = asyncio.create_task(self._pump_output())

    @classmethod
    async def spawn(
        cls,
        argv: Sequence[str],
        environ: Mapping[str, str],
        *,
        on_line: Callable[[str], None],
        cwd: Path,
        stdin: int = subprocess.DEVNULL,
    ) -> EngineProcess:
        """Start `argv` in a new session, so that signals to our terminal do not reach it.

        The launcher asks the kernel to end the child if this program is killed outright.

        `environ` is its whole environment. `on_line` gets every line of its standard output and error,
        without the line's end. The descriptor `stdin` stays open here.

        Raises:
            OSError: the command cannot be started.
        """
        readable, writable = os.pipe()
        output = asyncio.StreamReader()
        transport: asyncio.ReadTransport | None = None
        try:
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(output), os.fdopen(readable, "rb", 0)
            )
            # Not asyncio's own subprocess: its wait() also waits for the output's end (CPython
            # gh-119710), so that one orphan with the pipe open would hide the engine's death.
            popen = subprocess.Popen(  # noqa: ASYNC220 - fork and exec take milliseconds
                [sys.executable, "-IS", str(_LAUNCHER), str(os.getpid()), *argv],
                stdin=stdin,
                stdout=writable,
                stderr=writable,
                env=dict(environ),
                cwd=cwd,
                start_new_session=True,
            )
            return cls(popen, output, transport, on_line)
        except OSError:
            if transport is not None:
                transport.close()
            raise
        finally:
            os.close(writable)

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its group."""
        return self._popen.pid

    @property
    def tail(self) -> tuple[str, ...]:
        """The newest lines, oldest first, at most `TAIL_LINES`."""
        return tuple(self._tail)

    async def wait(self) -> int:
        """Wait until the process has ended; returns its exit status, negative for a signal."""
        return await asyncio.shield(self._exit)

    async def stop(self, grace_seconds: float) -> int:
        """End the group: TERM, then KILL after `grace_seconds`; returns the exit status.

        Whatever is left of the group after the leader has gone is killed at once.
        """
        if not self._exit.done():
            # vLLM's API process ends its own children in order; a signal to all of them at once
            # kills the engine under requests that are still running.
            self._popen.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.wait(), grace_seconds)
        return await self.reap()

    async def reap(self) -> int:
        """Kill whatever is left of the group, read the last lines, and return the exit status.

        Once that is done, another call only returns the status: the group's id may be another's by then.
        """
        if self._is_reaped:
            return await self.wait()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        status = await self.wait()
        await asyncio.wait({self._pump}, timeout=_LAST_LINES_SECONDS)
        # Its end is the pump's, too: cancelled, the pump would cancel whoever waits for it.
        self._transport.close()
        await asyncio.wait({self._pump})
        self._is_reaped = True
        return status

    async def _pump_output(self) -> None:
        pending = b""
        while chunk := await self._output.read(_READ_BYTES):
            *lines, pending = (pending + chunk).replace(b"\r", b"\n").split(b"\n")
            for line in lines:
                self._emit(line)
            if len(pending) > MAX_LINE_CHARS:
                self._emit(pending)
                pending = b""
        self._emit(pending)

    def _emit(self, raw: bytes) -> None:
        line = raw.decode("utf-8", errors="replace").rstrip()
        if line:
            line = line[:MAX_LINE_CHARS]
            self._tail.append(line)
            self._on_line(line)


def _exit_of(popen: subprocess.Popen[bytes]) -> asyncio.Future[int]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[int] = loop.create_future()

    def wait() -> None:
        status = popen.wait()
        with suppress(RuntimeError):  # the loop has been closed: nobody waits any more
            loop.call_soon_threadsafe(future.set_result, status)

    try:
        threading.Thread(target=wait, name="engine-wait", daemon=True).start()
    except RuntimeError as error:  # pthread_create(3) said EAGAIN, and CPython has no other word for it
        popen.kill()
        popen.wait()
        raise BlockingIOError(errno.EAGAIN, "can't start new thread") from error
    return future
