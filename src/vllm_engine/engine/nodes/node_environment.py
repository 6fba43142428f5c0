"""Which of a machine's addresses vLLM's processes use between nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vllm_engine.plan.engine_command import EngineCommand
from vllm_engine.system.network import interface_of


def reachable_at(command: EngineCommand, address: str | None) -> EngineCommand:
    """Return the command with variables by which its processes use this machine's `address` to the others.

    By itself vLLM takes the address of the default route (0.32, `utils/network_utils.py`), and Gloo the one
    that the machine's own name has, often 127.0.1.1. What the user has set stays as it is.
    """
    if not address:
        return command
    found: Mapping[str, str | None] = {"VLLM_HOST_IP": address, "GLOO_SOCKET_IFNAME": interface_of(address)}
    added = {key: value for key, value in found.items() if value and not command.environ.get(key)}
    return replace(command, environ={**command.environ, **added})
