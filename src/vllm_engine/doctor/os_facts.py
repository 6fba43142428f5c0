"""What the checks of the machine ask of the operating system."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

SHM = Path("/dev/shm")  # noqa: S108 - not a file of ours: how large it is counts


def shm_bytes(folder: Path = SHM) -> int | None:
    """Return the size of /dev/shm; None where there is none."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_frsize * found.f_blocks


def open_files_limit() -> int:
    """Return how many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft


def free_disk_bytes(folder: Path) -> int:
    """Return what is free where `folder` is, or will be."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free
