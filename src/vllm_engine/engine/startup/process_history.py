"""Which processes vLLM started last time, kept for the next start of the same configuration."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from vllm_engine.engine.process_tree import Node
from vllm_engine.engine.startup.kept_entries import KeptEntries
from vllm_engine.plan.preflight import Preflight

MAX_CONFIGURATIONS = 16
"""The oldest are forgotten beyond this number."""


class ProcessHistory:
    """The processes of each configuration; without them the next start takes longer."""

    def __init__(self, path: Path) -> None:
        self._kept: KeptEntries[Any] = KeptEntries(
            path,
            "processes",
            lambda entry: entry,
            MAX_CONFIGURATIONS,
            unread="this start takes longer",
            unwritten="the next start takes longer",
            mode=0o600,
        )

    def known(self, key: str) -> list[Node] | None:
        """Return the processes of the newest start of a configuration; None without one."""
        nodes = self._kept.read().get(key)
        return nodes if isinstance(nodes, list) and all(map(_is_node, nodes)) else None

    def record(self, key: str, nodes: list[Node]) -> None:
        """Store them."""
        trees = self._kept.read()
        if trees.get(key) != nodes:
            trees.pop(key, None)
            self._kept.write({**trees, key: nodes})


def processes_key(preflight: Preflight) -> str:
    """Return a name for the starts whose processes are the same, as far as one can know without the model."""
    settings, installation = preflight.settings, preflight.installation
    parts = [
        *(installation.python, installation.version, preflight.device.name, os.cpu_count()),
        *(settings.model_id, settings.tensor_parallel, settings.api_server_count, settings.engine_frontend),
        *(settings.pipeline_parallel, settings.data_parallel, settings.nodes),
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
