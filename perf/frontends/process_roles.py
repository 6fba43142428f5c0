"""What each process of a server is for, and the memory that it holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from perf.bench.cpu_usage import tree
from perf.gpu.servers import Server, title

ROLES = ("gateway", "python", "rust", "core")
_RUST_PROGRAM = "vllm-rs"
_CORE = ("VLLM::EngineCor", "VLLM::Worker")


def role(server: Server, pid: int) -> str:
    """Return `gateway`, `rust`, `core`, or `python`: the API servers and who starts them."""
    if server.kind == "ours" and pid == server.pid:
        return "gateway"
    with suppress(OSError):
        if Path(f"/proc/{pid}/exe").readlink().name == _RUST_PROGRAM:
            return "rust"
    return "core" if title(pid).startswith(_CORE) else "python"


def memory_mib(server: Server) -> dict[str, dict[str, float]]:
    """Return each role's memory: `pss` with its part of what is shared, and `private` of its own."""
    found: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for pid in tree(server.pid):
        with suppress(OSError):  # it has ended
            pages = _rollup(Path(f"/proc/{pid}/smaps_rollup").read_text())
            mine = found[role(server, pid)]
            mine["pss"] += pages["Pss"]
            mine["private"] += pages["Private_Clean"] + pages["Private_Dirty"]
    return {name: {kind: round(size, 1) for kind, size in sizes.items()} for name, sizes in found.items()}


def _rollup(text: str) -> Mapping[str, float]:
    lines = [line.split() for line in text.splitlines()[1:]]
    return {words[0].rstrip(":"): int(words[1]) / 1024 for words in lines}
