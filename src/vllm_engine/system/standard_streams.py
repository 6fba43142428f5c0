"""Standard output and standard error that never block who prints: threads write them, from bounded buffers.

The event loop logs and draws bars. A reader that stops reading (a log shipper, Ctrl-S on a terminal), one
that has gone, or a full disk costs lines and never time, as with the mode `non-blocking` of Docker's log
drivers: what comes while the buffer is full is dropped.
"""

from __future__ import annotations

import io
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TextIO, cast

MAX_BUFFER_BYTES = 4 * 1024 * 1024
"""How much may wait for a reader, each line's own cost in memory included."""

DRAIN_SECONDS = 2.0
"""How long the program's end waits for its last lines to be written."""

_LINE_COST_BYTES = 64
_BATCH_BYTES = 65_536
_PAUSE_SECONDS = 0.05
"""Between batches: waking the thread for every line of a busy server's log would cost more than the line."""


class Writer:
    """Writes to one descriptor in a thread of its own."""

    def __init__(
        self, descriptor: int, on_room: Callable[[int], None], max_bytes: int = MAX_BUFFER_BYTES
    ) -> None:
        """Start the thread, which does not keep the process alive.

        Args:
            descriptor: where to write.
            on_room: called in the thread, once half of the buffer is free again, with the number of lines
                that were dropped since its last call.
            max_bytes: the buffer's size.
        """
        self.lines_dropped = 0
        self._descriptor = descriptor
        self._on_room = on_room
        self._max_bytes = max_bytes
        self._held = 0
        self._told = 0
        # Reentrant: a finalizer may print wherever it interrupts. Held for no longer than an addition takes.
        self._lock = threading.RLock()
        self._queue: SimpleQueue[bytes | threading.Event] = SimpleQueue()
        self._is_draining = threading.Event()
        threading.Thread(target=self._run, name=f"write-{descriptor}", daemon=True).start()

    def put(self, data: bytes) -> None:
        """Have this written, or drop it if the buffer has no room for it; never waits."""
        cost = len(data) + _LINE_COST_BYTES
        with self._lock:
            if self._held + cost > self._max_bytes:
                self.lines_dropped += data.count(b"\n")
                return
            self._held += cost
        self._queue.put(data)

    def drain(self, seconds: float) -> None:
        """Wait until what was put before has been written or dropped, but no longer than that."""
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
        """Wait for something to write; returns as much as there is, within reason."""
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
    """Write it all, however long that takes; returns what could not be written."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # whoever shares the terminal may have made it non-blocking
            waiting = select.poll()
            waiting.register(descriptor, select.POLLOUT)
            waiting.poll()
        except OSError:  # nobody reads any more, or the disk is full; the next line is tried again
            break
    return data


class NonBlockingStream(io.TextIOBase):
    """A text stream in front of a writer; takes a standard stream's place."""

    def __init__(self, original: TextIO, writer: Writer) -> None:
        self._original = original
        self._writer = writer
        self._is_terminal = original.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """As the stream has it whose place this takes."""
        return self._original.encoding

    def write(self, text: str, /) -> int:
        """Have a text written, or drop it."""
        # A character that the terminal lacks is no reason to lose a line of the log.
        self._writer.put(text.encode(self._original.encoding, "backslashreplace"))
        return len(text)

    def flush(self) -> None:
        """Do nothing: the thread writes within moments, and who prints must not wait for it."""

    def writable(self) -> bool:
        """Say that it is for writing."""
        return True

    def isatty(self) -> bool:
        """Say whether a person looks at it."""
        return self._is_terminal

    def fileno(self) -> int:
        """Return the descriptor that is written to in the end."""
        return self._original.fileno()


@dataclass(frozen=True)
class NonBlockingStreams:
    """What stands in the place of the standard streams."""

    writers: Sequence[Writer]

    def lines_dropped(self) -> int:
        """Return how many lines have been dropped so far."""
        return sum(writer.lines_dropped for writer in self.writers)

    def drain(self) -> None:
        """Wait for the last lines, but not for a reader that does not read."""
        end = time.monotonic() + DRAIN_SECONDS
        for writer in self.writers:
            writer.drain(max(0.0, end - time.monotonic()))


def open_closed_streams() -> None:
    """Open the standard streams that were closed at the start (`>&-`) on `/dev/null`.

    Python has None for them, which nobody expects, and their descriptors would go to the next files opened.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for descriptor, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


def flush_streams() -> None:
    """Write what is buffered, where a failure still counts; at its end Python can only exit with 120.

    Raises:
        OSError: standard output cannot be written to; a BrokenPipeError if its reader has gone.
    """
    for stream in (sys.stderr, sys.stdout):
        try:
            stream.flush()
        except OSError:
            # What is buffered still has to go somewhere.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            if stream is sys.stdout:
                raise


def stop_blocking(on_room: Callable[[int], None]) -> NonBlockingStreams:
    """Put non-blocking streams in the place of `sys.stdout` and `sys.stderr`, for the rest of the process.

    Args:
        on_room: told how many lines were dropped, as soon as there is room again.
    """
    out, err = sys.stdout, sys.stderr
    for stream in (out, err):
        with suppress(OSError):
            stream.flush()
    to_err = Writer(err.fileno(), on_room)
    # One file, one writer: lines stay in the order in which they were printed.
    is_one = os.path.sameopenfile(out.fileno(), err.fileno())
    to_out = to_err if is_one else Writer(out.fileno(), on_room)
    sys.stdout = cast(TextIO, NonBlockingStream(out, to_out))
    sys.stderr = cast(TextIO, NonBlockingStream(err, to_err))
    return NonBlockingStreams((to_err,) if is_one else (to_err, to_out))
