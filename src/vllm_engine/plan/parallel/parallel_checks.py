"""What of the settings for several GPUs and machines cannot work, each in one sentence."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vllm_engine.config.settings import Settings
from vllm_engine.errors import Problem
from vllm_engine.plan.engine_command import is_switched_on
from vllm_engine.plan.parallel.ranks import Ranks
from vllm_engine.system.device import Device
from vllm_engine.system.network import is_own

if TYPE_CHECKING:
    from vllm_engine.plan.preflight import Preflight  # which asks here what is wrong

CPU_PIPELINE = (
    "on CPU vLLM's pipeline parallel fails at its first request; leave it at 1, use TENSOR_PARALLEL"
)
"""Tried with 0.32 on two ranks of one machine."""


def check_parallel(preflight: Preflight) -> list[Problem]:
    """List what cannot work."""
    settings, device = preflight.settings, preflight.device
    return [
        *_nodes(preflight),
        *_executor(preflight),
        *_cpu(settings, device),
        *check_ranks(settings, device),
        *_rust(settings),
    ]


def _nodes(preflight: Preflight) -> Iterator[Problem]:
    settings = preflight.settings
    rank, nodes, head = settings.node_rank, settings.nodes, settings.head_address
    if nodes == 1 and rank:
        yield Problem(
            "NODE_RANK", str(rank), "there is one node, whose rank is 0; set NODES to how many there are"
        )
    elif rank >= nodes:
        yield Problem("NODE_RANK", str(rank), f"NODES={nodes} have the ranks 0 to {nodes - 1}; 0 is the head")
    if is_switched_on(preflight.flags, "headless") and not rank:
        yield Problem(
            "--headless", "", "this is node 0, which has the API; set NODES, and NODE_RANK to 1 or more"
        )
    if nodes == 1:
        return
    if settings.auto_fit:
        yield Problem("AUTO_FIT", "1", "would change this node's settings alone; unset it with NODES above 1")
    if head is None:
        wanted = "set it to an address of node 0 that every node reaches: vLLM's processes meet there"
        yield Problem("HEAD_ADDRESS", None, wanted)
    elif not rank and is_elsewhere(head):
        wanted = (
            "NODE_RANK is 0, so this is the head, and none of its network interfaces has that address; set "
            "an address of this machine (a container needs its host's network: docker run --network host)"
        )
        yield Problem("HEAD_ADDRESS", head, wanted)


def is_elsewhere(host: str) -> bool:
    """Whether this is the IP address of another machine.

    A name may be another one's for a while, as a pod's name is that of the pod before it until the
    cluster's DNS has caught up.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return not is_own(host)


def _executor(preflight: Preflight) -> Iterator[Problem]:
    settings = preflight.settings
    if settings.distributed_executor != "ray":
        return
    if preflight.device.kind == "cpu":
        wanted = "this vLLM is built for CPU, which its Ray executor does not support; set auto or mp"
    elif not preflight.installation.has_ray:
        wanted = (
            f"there is no ray in the engine's environment; install it with {preflight.installation.python} "
            "-m pip install ray, or set auto or mp"
        )
    elif settings.nodes > 1:
        wanted = (
            "Ray's cluster has the machines; leave NODES, NODE_RANK and HEAD_ADDRESS unset, or set auto or mp"
        )
    else:
        return
    yield Problem("DISTRIBUTED_EXECUTOR", "ray", wanted)


def _cpu(settings: Settings, device: Device) -> Iterator[Problem]:
    if device.kind == "cpu" and settings.pipeline_parallel > 1:
        yield Problem("PIPELINE_PARALLEL", str(settings.pipeline_parallel), CPU_PIPELINE)


def check_ranks(settings: Settings, device: Device) -> Iterator[Problem]:
    """Yield what does not fit on the nodes, each of which is taken to be like this one."""
    ranks, nodes = Ranks.of(settings), settings.nodes
    most = most_ranks(settings, device)
    if settings.tensor_parallel == "auto":
        # What it stands for is found for the model; here at least one rank a node has to be possible.
        ranks = Ranks(
            max(1, -(-nodes // (settings.pipeline_parallel * settings.data_parallel))),
            settings.pipeline_parallel,
            settings.data_parallel,
            nodes,
        )
    key, value = _blamed(settings)
    if not ranks.is_even:
        wanted = f"{ranks.words} makes {ranks.world} rank(s), which {nodes} nodes cannot share equally"
        yield Problem("NODES", str(nodes), f"{wanted}; set numbers whose product is a multiple of NODES")
    elif most is not None and ranks.here > most:
        yield Problem(key, value, _too_many(ranks, device, most))


def _blamed(settings: Settings) -> tuple[str, str]:
    """Return the setting that asks for the most ranks, and its value."""
    asked = {
        "TENSOR_PARALLEL": settings.tensor_parallel,
        "PIPELINE_PARALLEL": settings.pipeline_parallel,
        "DATA_PARALLEL": settings.data_parallel,
    }
    key = max(asked, key=lambda name: 0 if asked[name] == "auto" else int(asked[name]))
    return key, str(asked[key])


def _too_many(ranks: Ranks, device: Device, most: int) -> str:
    here = f"{ranks.words} needs {ranks.here}{' on each node' if ranks.nodes > 1 else ''}"
    if device.kind == "cpu":
        return f"each rank needs a core of its own: {here}, and there are {most}"
    there = f"{len(device.gpus)} GPU(s) visible"
    if ranks.world == ranks.tensor and ranks.nodes == 1:
        return f"{there}; valid values: {', '.join(map(str, range(1, most + 1)))} or auto"
    return f"each rank needs a GPU: {here}; {there}"


def most_ranks(settings: Settings, device: Device) -> int | None:
    """Return how many ranks this node has room for; None where Ray knows."""
    if settings.distributed_executor == "ray":
        return None
    return device.cores if device.kind == "cpu" else max(1, len(device.gpus))


def _rust(settings: Settings) -> Iterator[Problem]:
    if settings.engine_frontend == "rust" and (settings.nodes > 1 or settings.data_parallel > 1):
        several = "NODES" if settings.nodes > 1 else "DATA_PARALLEL"
        wanted = f"has not been tried with {several} above 1; set ENGINE_FRONTEND=python"
        yield Problem("ENGINE_FRONTEND", "rust", wanted)
