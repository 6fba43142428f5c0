"""The writers behind the standard streams: who prints never waits, and what is lost is counted."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

from tests.support.program import until
from vllm_engine.system.standard_streams import Writer, _Screen

LINE = b"x" * 9_999 + b"\n"


class Pipe:
    """A pipe, and a writer that may hold 40 lines."""

    def __init__(self) -> None:
        self.reader, self.descriptor = os.pipe()
        self.told: list[int] = []
        self.writer = Writer(self.descriptor, self.told.append, max_bytes=40 * (len(LINE) + 100))

    def fill(self) -> int:
        """Have the kernel's buffer full, so that nothing more can be written; returns its size."""
        size = 0
        os.set_blocking(self.descriptor, False)
        with suppress(BlockingIOError):
            while True:
                size += os.write(self.descriptor, b"x")
        os.set_blocking(self.descriptor, True)
        return size

    def read(self, size: int) -> bytes:
        """Wait for this much."""
        data = b""
        while len(data) < size:
            data += os.read(self.reader, size - len(data))
        return data


def test_order() -> None:
    """What is put comes out, whole and in order, from several threads too."""
    pipe = Pipe()
    lines = [b"%d\n" % number for number in range(1000)]
    for line in lines:
        pipe.writer.put(line)
    assert pipe.read(len(b"".join(lines))) == b"".join(lines)
    threads = [threading.Thread(target=pipe.writer.put, args=(line,)) for line in lines[:50]]
    for thread in threads:
        thread.start()
    assert sorted(pipe.read(len(b"".join(lines[:50]))).splitlines(keepends=True)) == sorted(lines[:50])
    # A terminal that somebody else has made non-blocking loses nothing.
    os.set_blocking(pipe.descriptor, False)
    for _ in range(30):
        pipe.writer.put(LINE)
    assert pipe.read(30 * len(LINE)) == 30 * LINE
    assert pipe.writer.lines_dropped == 0


def test_nobody_reads() -> None:
    """The newest lines are dropped and counted; how many is said once half of the buffer is free, and once."""
    pipe = Pipe()
    held = pipe.fill()
    for number in range(100):
        pipe.writer.put(b"%05d" % number + LINE[5:])
    assert pipe.writer.lines_dropped == 60
    pipe.writer.drain(0.0)
    assert pipe.told == []
    pipe.read(held)
    data = pipe.read(40 * len(LINE))
    assert [int(line[:5]) for line in data.splitlines()] == list(range(40))
    until(lambda: pipe.told == [60], "the count of lines")
    pipe.writer.put(LINE)
    assert pipe.read(len(LINE)) == LINE
    pipe.writer.drain(60.0)
    assert pipe.told == [60]
    # Lines of one byte cannot fill the memory either.
    pipe = Pipe()
    pipe.fill()
    pipe.writer.put(LINE * 40)
    for _ in range(1000):
        pipe.writer.put(b"\n")
    assert 900 < pipe.writer.lines_dropped < 1000


def test_cannot_be_written(tmp_path: Path) -> None:
    """A full disk, or a reader that has gone, costs lines until it is well again."""
    pipe = Pipe()
    os.close(pipe.reader)
    with open("/dev/full", "wb") as full, (tmp_path / "log").open("wb") as well:  # noqa: PTH123
        pipe.writer.put(b"one\n")
        pipe.writer.drain(60.0)
        os.dup2(full.fileno(), pipe.descriptor)
        pipe.writer.put(b"two\nthree\n")
        pipe.writer.drain(60.0)
        assert (pipe.writer.lines_dropped, pipe.told) == (3, [])
        os.dup2(well.fileno(), pipe.descriptor)
        pipe.writer.put(b"four\n")
        pipe.writer.drain(60.0)
    assert pipe.told == [3]
    assert (tmp_path / "log").read_text() == "four\n"


def test_two_streams_on_one_screen_share_no_line() -> None:
    """A line that one has begun is not gone on with by the other; a bar that was erased is no line."""
    screen = _Screen()
    written = "".join(
        screen.placed(stream, text)
        for stream, text in (
            ("out", "A: Tokyo"), ("err", "12:00 INFO a request\n"), ("out", " is it"), ("out", ".\n"),
            ("err", "12:01 INFO\n"), ("out", "\x1b[2K⠋ importing"), ("out", "\r\x1b[2K\x1b[?25h"), ("err", "12:02 INFO\n"),
            ("out", ""), ("out", "B:"), ("out", "\x1b[0m"), ("err", "\n12:03"), ("out", "\n"),
        )
    )  # fmt: skip
    assert written == (
        "A: Tokyo\n12:00 INFO a request\n is it.\n12:01 INFO\n\x1b[2K⠋ importing\r\x1b[2K\x1b[?25h12:02 INFO\n"
        "B:\x1b[0m\n12:03\n"
    )
