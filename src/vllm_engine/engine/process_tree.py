"""Which processes vLLM starts, in which environments, and which can be forks of one that has imported it.

What libraries read from the environment when they are imported cannot be changed afterwards. So a process
that imports for others is given what they will have (`to_import_with`). It can then be each process that
would have imported alike; variables that are read later are handed over.

Used by the gateway and in the engine's Python: nothing here is imported but the standard library.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

RECORD = "ENGINE_SPAWN_RECORD"
"""The variable that names the file to which every process that vLLM starts is appended, as JSON lines."""

Node = dict[str, Any]
"""A process: the variables that vLLM has `set` and `unset` for it beyond its parent's, and its `children`."""

Changes = Mapping[str, str | None]
"""Variables to be set, or unset."""

OPENMP = ("GOMP_", "KMP_", "OMP_")
"""Variables of the worker, which computes; another process may have been imported with them."""

READ_LATE = frozenset(
    {
        *("LD_LIBRARY_PATH", "LOCAL_WORLD_SIZE", "NUMEXPR_MAX_THREADS", "VLLM_DISABLE_SHARED_EXPERTS_STREAM"),
        *("VLLM_SSM_CONV_STATE_LAYOUT", "VLLM_USE_RUST_FRONTEND", "VLLM_WORKER_MULTIPROC_METHOD"),
    }
)
"""Variables that vLLM sets for its processes and that no import reads."""

SET_ANEW = "PROMETHEUS_MULTIPROC_DIR"
"""A variable that vLLM gives a new value at each start with several API servers. Its imports only look
whether it is set."""


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str | None]:
    """Return the variables that differ, with their new values."""
    names = {*before, *after}
    return {name: after.get(name) for name in names if before.get(name) != after.get(name)}


def change(environ: MutableMapping[str, str], to: Changes) -> None:
    """Set and unset variables."""
    for name, value in to.items():
        if value is None:
            environ.pop(name, None)
        else:
            environ[name] = value


def imported_otherwise(imported: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Return the variables for which a process that has imported cannot go on with another environment."""

    def may_change(name: str, value: str | None) -> bool:
        is_set_anew = name == SET_ANEW and name in imported and value is not None
        is_workers_alone = name.startswith(OPENMP) and value is None
        return name in READ_LATE or is_set_anew or is_workers_alone

    return sorted(name for name, to in changes(imported, wanted).items() if not may_change(name, to))


def own_changes(node: Node) -> dict[str, str | None]:
    """Return what distinguishes a process from its parent."""
    return {**node["set"], **dict.fromkeys(node["unset"])}


def to_import_with(environ: Mapping[str, str], nodes: Sequence[Node]) -> dict[str, str]:
    """Return `environ` with all that processes below need at their imports; of two that differ, the first."""
    result = dict(environ)
    for node in reversed(nodes):
        change(result, _needed(node))
    return result


def imports_apart(node: Node, environ: Mapping[str, str]) -> bool:
    """Whether a process, or one below it, cannot be a fork of one that imports with `environ`."""
    if any(environ.get(name) != value for name, value in own_changes(node).items() if name not in READ_LATE):
        return True
    return any(imports_apart(child, environ) for child in node["children"])


def _needed(node: Node) -> dict[str, str | None]:
    below: dict[str, str | None] = {}
    for child in reversed(node["children"]):
        below |= {name: value for name, value in _needed(child).items() if name.startswith(OPENMP)}
    return below | {name: value for name, value in own_changes(node).items() if name not in READ_LATE}


def note(pid: int, parent: int, changed: Changes) -> str:
    """Return the line of the record about a process."""
    told = {
        "pid": pid,
        "parent": parent,
        "set": {name: value for name, value in changed.items() if value is not None},
        "unset": sorted(name for name, value in changed.items() if value is None),
    }
    return json.dumps(told) + "\n"


def spawned(record: Path, leader: int) -> list[Node]:
    """Return what processes the engine `leader` has started."""
    notes: list[dict[str, Any]] = []
    with contextlib.suppress(OSError, ValueError):
        notes = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]

    def below(pid: int) -> list[Node]:
        return [
            {"set": note["set"], "unset": note["unset"], "children": below(note["pid"])}
            for note in notes
            if note["parent"] == pid
        ]

    return below(leader)


def count(nodes: Sequence[Node]) -> int:
    """Return how many processes these are, with those below them and the one above."""
    return 1 + sum(count(node["children"]) for node in nodes)


def importing(nodes: Sequence[Node], environ: Mapping[str, str]) -> int:
    """Return how many processes import by themselves, with the one above, which does so with `environ`."""
    apart = [node for node in nodes if imports_apart(node, environ)]
    return 1 + sum(importing(node["children"], {**environ, **node["set"]}) for node in apart)
