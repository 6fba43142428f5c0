"""Where Ctrl-C is heard: one that falls between a question and its answer must not end the program."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts(*, heard: bool) -> Iterator[None]:
    """Turn SIGINT into KeyboardInterrupt, or ignore it; afterwards it means what it meant before.

    Only the main thread may do so. `asyncio.Runner` cancels its task on SIGINT only where it is heard.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler if heard else signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
