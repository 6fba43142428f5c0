"""How much main memory processes take, as Linux reports it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SESSION, _RSS = 3, 21
"""proc(5), `/proc/ID/stat`: places among the fields after the name in parentheses."""


def session_rss_bytes(leader: int) -> int:
    """Return the resident memory of a session's processes; a page that several share counts for each."""
    return _of_session(leader, lambda _, fields: int(fields[_RSS]) * _PAGE_BYTES)


def session_pss_bytes(leader: int) -> int:
    """Return the memory of a session's processes; a page that several share counts once.

    Takes longer than `session_rss_bytes`, as the kernel goes through every page.
    """
    return _of_session(leader, lambda process, _: _pss_bytes(process))


def own_rss_bytes() -> int:
    """Return this process' resident memory."""
    return int((_PROC / "self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES


def _of_session(leader: int, measure: Callable[[Path, Sequence[str]], int]) -> int:
    total = 0
    for stat in _PROC.glob("[0-9]*/stat"):
        with suppress(OSError, IndexError, ValueError):  # it has ended in the meantime
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if fields[_SESSION] == str(leader):
                total += measure(stat.parent, fields)
    return total


def _pss_bytes(process: Path) -> int:
    sizes = (process / "smaps_rollup").read_text(encoding="ascii").split()
    return int(sizes[sizes.index("Pss:") + 1]) * 1024
