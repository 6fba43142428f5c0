"""Non-blocking standard output and standard error: threads write them from bounded buffers.

The event loop logs and draws progress bars. A reader that is stalled (a log shipper, Ctrl-S on a terminal)
or gone, or a full disk, costs lines but never blocks the loop: lines that do not fit into the buffer are
dropped, as in the `non-blocking` mode of Docker's log drivers.
"""

from __future__ import annotations

import io
import os
import re
import select
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import TextIO, cast

MAX_BUFFER_BYTES = 4 * 1024 * 1024
"""The size of the buffer, including the overhead of each line."""

DRAIN_SECONDS = 2.0
"""How long the program waits at exit for its last lines to be written."""

_LINE_BEGINS = ("\n", "\r")
_LAST_LINE = re.compile(r"\A.*(?:\n|\x1b\[2K)", re.DOTALL)
"""What comes before the last line, which a progress bar erases to draw it anew."""
_INVISIBLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")

_LINE_COST_BYTES = 64
_BATCH_BYTES = 65_536
_PAUSE_SECONDS = 0.05
"""Between batches: waking the thread for every line of a busy log would cost more than the line."""


class Writer:
    """Writes to one file descriptor from its own thread."""

    def __init__(
        self, descriptor: int, on_room: Callable[[int], None], max_bytes: int = MAX_BUFFER_BYTES
    ) -> None:
        """Start the thread, a daemon.

        Args:
            descriptor: where to write.
            on_room: called in the thread with the number of lines dropped since its last call, once half of
                the buffer is free again.
            max_bytes: the size of the buffer.
        """
        self.lines_dropped = 0
        self._descriptor = descriptor
        self._on_room = on_room
        self._max_bytes = max_bytes
        self._held = 0
        self._told = 0
        # Reentrant: a finalizer may print anywhere.
        self._lock = threading.RLock()
        self._queue: SimpleQueue[bytes | threading.Event] = SimpleQueue()
        self._is_draining = threading.Event()
        threading.Thread(target=self._run, name=f"write-{descriptor}", daemon=True).start()

    def put(self, data: bytes) -> None:
        """Queue data to be written, or drop it if the buffer is full; never blocks."""
        cost = len(data) + _LINE_COST_BYTES
        with self._lock:
            if self._held + cost > self._max_bytes:
                self.lines_dropped += data.count(b"\n")
                return
            self._held += cost
        self._queue.put(data)

    def drain(self, seconds: float) -> None:
        """Wait until everything queued so far is written or dropped, at most `seconds`."""
        reached = threading.Event()
        self._queue.put(reached)
        self._is_draining.set()
        reached.wait(seconds)

    def _run(self) -> None:
        while True:
            lines, reached = self._batch()
            data = b"".join(lines)
            left = _write(self._descriptor, data)
            with self._lock:
                self._held -= len(data) + _LINE_COST_BYTES * len(lines)
                self.lines_dropped += left.count(b"\n")
                dropped = self.lines_dropped - self._told
                told = dropped if data and not left and self._held <= self._max_bytes // 2 else 0
                self._told += told
            if told:
                self._on_room(told)
            if reached is not None:
                self._is_draining.clear()
                reached.set()
            elif len(data) < _BATCH_BYTES:
                self._is_draining.wait(_PAUSE_SECONDS)

    def _batch(self) -> tuple[list[bytes], threading.Event | None]:
        """Wait for data; returns what is queued, up to a batch, and the event of a `drain()` if reached."""
        lines: list[bytes] = []
        size = 0
        while size < _BATCH_BYTES and not (lines and self._queue.empty()):
            item = self._queue.get()
            if isinstance(item, threading.Event):
                return lines, item
            lines.append(item)
            size += len(item)
        return lines, None


def _write(descriptor: int, data: bytes) -> bytes:
    """Write all of it, however long that takes; returns what could not be written."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # another process may have made the shared terminal non-blocking
            waiting = select.poll()
            waiting.register(descriptor, select.POLLOUT)
            waiting.poll()
        except OSError:  # the reader is gone, or the disk is full; the next line is tried again
            break
    return data


class _Screen:
    """Where two streams meet: on one screen, or in one file. Neither goes on in a line of the other's."""

    def __init__(self) -> None:
        self._began_line: object = None

    def placed(self, stream: object, text: str) -> str:
        """Return a stream's text as it is to be written: on a new line if need be."""
        if not text:
            return text
        is_in_the_way = self._began_line not in (None, stream) and not text.startswith(_LINE_BEGINS)
        rest = _LAST_LINE.sub("", text)
        if _INVISIBLE.sub("", rest):
            self._began_line = stream
        elif rest != text:
            self._began_line = None
        return f"\n{text}" if is_in_the_way else text


class _NonBlockingStream(io.TextIOBase):
    """A text stream on top of a writer; replaces a standard stream."""

    def __init__(self, original: TextIO, writer: Writer, screen: _Screen) -> None:
        self._original = original
        self._writer = writer
        self._screen = screen
        self._is_terminal = original.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._original.encoding

    def write(self, text: str, /) -> int:
        # A line of the log must not be lost for a character that the terminal's encoding lacks.
        placed = self._screen.placed(self, text)
        self._writer.put(placed.encode(self._original.encoding, "backslashreplace"))
        return len(text)

    def flush(self) -> None:
        """Do nothing: the thread writes soon, and the caller must not wait for it."""

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._is_terminal

    def fileno(self) -> int:
        return self._original.fileno()


def drain_all(writers: Sequence[Writer]) -> None:
    """Wait for the last lines, but not long for a reader that is stalled."""
    end = time.monotonic() + DRAIN_SECONDS
    for writer in writers:
        writer.drain(max(0.0, end - time.monotonic()))


def open_closed_streams() -> None:
    """Open standard streams that were closed at the start (`>&-`) on `/dev/null`.

    Otherwise they are None in `sys`, and the next files opened would get their descriptors.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for descriptor, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


def flush_streams() -> None:
    """Flush both streams while an error can still be reported: Python itself would exit with 120.

    Raises:
        OSError: standard output cannot be written to; a BrokenPipeError if its reader is gone.
    """
    for stream in (sys.stderr, sys.stdout):
        try:
            stream.flush()
        except OSError:
            # Python flushes the buffer once more at exit: it has to go somewhere.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            if stream is sys.stdout:
                raise


def stop_blocking(on_room: Callable[[int], None]) -> Sequence[Writer]:
    """Replace `sys.stdout` and `sys.stderr` by non-blocking streams; returns the writers behind them.

    Args:
        on_room: called with the number of dropped lines as soon as there is room again.
    """
    out, err = sys.stdout, sys.stderr
    for stream in (out, err):
        with suppress(OSError):
            stream.flush()
    to_err = Writer(err.fileno(), on_room)
    # One writer for one file keeps lines in the order in which they were printed.
    is_one = os.path.sameopenfile(out.fileno(), err.fileno())
    to_out = to_err if is_one else Writer(out.fileno(), on_room)
    screen = _Screen()
    sys.stdout = cast(TextIO, _NonBlockingStream(out, to_out, screen))
    sys.stderr = cast(TextIO, _NonBlockingStream(err, to_err, screen if is_one else _Screen()))
    return (to_err,) if is_one else (to_err, to_out)
