"""Tells errors of this process from errors of the peer: our own shortage is no evidence about the engine."""

from __future__ import annotations

import errno

_ERRNOS = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.EINTR)
)
"""This process or this machine lacks files, memory or processes: open(2), socket(2), fork(2).

EAGAIN from connect(2) on a Unix socket means a full backlog: the peer does listen."""


def is_own_shortage(error: BaseException | None) -> bool:
    """Whether an error, or its cause, means that this process lacks files, memory or processes."""
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _ERRNOS):
            return True
        error = error.__cause__
    return False
