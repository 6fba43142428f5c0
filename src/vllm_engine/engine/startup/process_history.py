"""Which processes vLLM started last time, kept for the next start of the same configuration."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from vllm_engine.engine.process_tree import Node
from vllm_engine.plan.preflight import Preflight

MAX_CONFIGURATIONS = 16
"""The oldest are forgotten beyond this number."""

_VERSION = 1

logger = logging.getLogger("gateway.history")


class ProcessHistory:
    """A small JSON file; if it cannot be read or written, the next start takes longer."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def known(self, key: str) -> list[Node] | None:
        """Return the processes of the newest start of a configuration; None without one."""
        nodes = self._read().get(key)
        return nodes if isinstance(nodes, list) and all(map(_is_node, nodes)) else None

    def record(self, key: str, nodes: list[Node]) -> None:
        """Store them."""
        trees = self._read()
        if trees.get(key) == nodes:
            return
        trees.pop(key, None)
        trees[key] = nodes
        newest = dict(list(trees.items())[-MAX_CONFIGURATIONS:])
        partial = self._path.with_suffix(f".{os.getpid()}")
        try:
            partial.touch(mode=0o600)
            partial.write_text(json.dumps({"version": _VERSION, "processes": newest}), encoding="utf-8")
            partial.replace(self._path)
        except OSError as error:
            logger.warning(
                "%s cannot be written (%s): the next start takes longer", self._path, error.strerror
            )

    def _read(self) -> dict[str, Any]:
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            return dict(kept["processes"]) if kept["version"] == _VERSION else {}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning(
                "%s cannot be read (%s): this start takes longer", self._path, type(error).__name__
            )
            return {}


def processes_key(preflight: Preflight) -> str:
    """Return a name for the starts whose processes are the same, as far as one can know without the model."""
    settings, installation = preflight.settings, preflight.installation
    parts = [
        *(installation.python, installation.version, preflight.device.name, os.cpu_count()),
        *(settings.model_id, settings.tensor_parallel, settings.api_server_count, settings.engine_frontend),
        *preflight.flags,
    ]
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()[:16]


def _is_node(node: Any) -> bool:
    return (
        isinstance(node, dict)
        and isinstance(node.get("set"), dict)
        and all(isinstance(value, str) for value in node["set"].values())
        and isinstance(node.get("unset"), list)
        and isinstance(node.get("children"), list)
        and all(map(_is_node, node["children"]))
    )
