"""Tells an error of our own from one of the other side: what we lack is no evidence about anybody else."""

from __future__ import annotations

import errno

_ERRNOS = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.EINTR)
)
"""open(2), socket(2), fork(2): this process or this machine is short of files, memory or processes.

EAGAIN from connect(2) on a Unix socket is a full queue of connections: somebody listens."""


def is_own_shortage(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, says that we lack files, memory or processes.

    Of whom we wanted to ask something it says nothing.
    """
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _ERRNOS):
            return True
        error = error.__cause__
    return False
