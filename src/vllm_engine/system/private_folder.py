"""A folder of this program's own below one that many write to; it is removed at the end, or by a successor.

A program that is killed outright leaves its folder behind. The next one removes those whose owner is gone:
the owner holds a lock (flock(2)) on its folder, which ends with it, however it ends; systemd-tmpfiles(8)
passes over a locked folder too. Only folders with our mark in them, and of the same user, are looked at.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "vllm-engine-"
MARK = ".owner"
_NAME = re.compile(rf"{PREFIX}[a-z0-9_]{{8}}")
"""As `tempfile.mkdtemp` names them."""


@contextmanager
def private_folder(root: Path) -> Iterator[Path]:
    """Make a folder in `root` that only this user may enter, and remove it and its dead predecessors.

    Raises:
        OSError: it cannot be made.
    """
    sweep(root)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
    descriptor = _opened(folder)
    try:
        with suppress(OSError):  # a file system without locks: without the mark nobody removes it
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (folder / MARK).touch()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def sweep(root: Path) -> None:
    """Remove the folders in `root` that programs of this user have left behind."""
    with suppress(OSError), os.scandir(root) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name):
                _remove_if_left(Path(entry.path))


def _remove_if_left(folder: Path) -> None:
    try:
        descriptor = _opened(folder)
    except OSError:  # gone, no folder, a link, or another user's
        return
    try:
        os.stat(MARK, dir_fd=descriptor, follow_symlinks=False)
        if os.fstat(descriptor).st_uid == os.getuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # none of ours, or its owner lives
        return
    finally:
        os.close(descriptor)


def _opened(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
