"""How much main memory processes take, as Linux reports it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SESSION, _RSS = 3, 21
"""proc(5), `/proc/ID/stat`: places among the fields after the name in parentheses."""


def session_rss_bytes(leader: int, root: Path = Path("/proc")) -> int:
    """Return the resident memory of a session's processes; a page that several share counts for each."""
    total = 0
    for stat in root.glob("[0-9]*/stat"):
        with suppress(OSError, IndexError, ValueError):  # it has ended in the meantime
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if fields[_SESSION] == str(leader):
                total += int(fields[_RSS]) * _PAGE_BYTES
    return total


def own_rss_bytes(root: Path = Path("/proc")) -> int:
    """Return this process' resident memory."""
    return int((root / "self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
