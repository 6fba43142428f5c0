"""Files that count again when they change."""

from __future__ import annotations

from pathlib import Path

Fingerprint = tuple[int, ...] | None


def fingerprint(file: Path) -> Fingerprint:
    """Tell one state of a file from another; follows symlinks, as Kubernetes swaps those."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
