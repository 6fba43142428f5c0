"""Which other machines do not acknowledge what an engine sends them: where it hangs, it waits for these."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_RETRANSMISSIONS = 4
"""In a row, for 3 s or longer: a lost packet takes one or two."""
_REMOTE, _TIMER, _RETRANSMITTED, _INODE = 2, 5, 6, 9
"""Columns of `/proc/PID/net/tcp` (Linux, Documentation/networking/proc_net_tcp.rst)."""
_RETRANSMITS = "01:"


def silent_peers(pids: Iterable[int]) -> tuple[str, ...]:
    """Return the addresses to which connections of these processes have sent again and again in vain.

    Reads the kernel's tables of TCP connections; empty where they cannot be read.
    """
    found: dict[str, None] = {}
    for pid in pids:
        with suppress(OSError, ValueError):
            own = _sockets(pid)
            silent = (address for address, inode in _unacknowledged(pid) if inode in own)
            found |= dict.fromkeys(silent)
    return tuple(found)


def _sockets(pid: int) -> frozenset[str]:
    """Return the inodes of a process' sockets."""
    inodes = set()
    for entry in (_PROC / str(pid) / "fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            kind, _, inode = str(entry.readlink()).partition(":")
            if kind == "socket":
                inodes.add(inode.strip("[]"))
    return frozenset(inodes)


def _unacknowledged(pid: int) -> Iterator[tuple[str, str]]:
    """Yield remote address and inode of each connection of a process' network that retransmits."""
    for table in ("tcp", "tcp6"):
        try:
            lines = (_PROC / str(pid) / "net" / table).read_text().splitlines()[1:]
        except FileNotFoundError:
            continue  # without IPv6
        for columns in map(str.split, lines):
            if (
                columns[_TIMER].startswith(_RETRANSMITS)
                and int(columns[_RETRANSMITTED], 16) >= _RETRANSMISSIONS
            ):
                yield _address(columns[_REMOTE].partition(":")[0]), columns[_INODE]


def _address(written: str) -> str:
    """Return an address that the kernel has written as 32-bit words of its own byte order."""
    words = (bytes.fromhex(written[at : at + 8]) for at in range(0, len(written), 8))
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    address = ipaddress.ip_address(packed)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
