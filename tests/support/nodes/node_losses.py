"""What may be lost of a group of two nodes, and how it comes back."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass

from tests.support.nodes.node_group import NodeGroup, process_of


def _head_noticed(group: NodeGroup) -> Callable[[], bool]:
    before = group.head.engines_lost()
    return lambda: group.head.engines_lost() > before


def _worker_noticed(group: NodeGroup) -> Callable[[], bool]:
    return lambda: (group.worker_health() or {}).get("status") != "ready"


def _restart_worker(group: NodeGroup) -> None:
    group.worker = group.start_worker()


def _restart_head(group: NodeGroup) -> None:
    group.head = group.start_head()


@dataclass(frozen=True)
class NodeLoss:
    """One loss.

    Attributes:
        harm: does it.
        watch: called before; returns what says whether the loss was noticed, without a request to the model.
        restore: done once it was noticed, such as what restarts containers does.
        told: what the head's log has to say of it; nothing where the head itself is lost.
    """

    name: str
    harm: Callable[[NodeGroup], None]
    told: str = ""
    watch: Callable[[NodeGroup], Callable[[], bool]] = _head_noticed
    restore: Callable[[NodeGroup], None] = lambda _: None


NODE_LOSSES = (
    NodeLoss(
        "worker: its vLLM process killed",
        lambda group: process_of(group.worker, "VLLM::Worker").kill(),
        "node 1 (10.77.0.2)",
    ),
    NodeLoss(
        "worker: its program killed and started again",
        lambda group: group.worker.send(signal.SIGKILL),
        "node 1 (10.77.0.2) was lost",
        restore=_restart_worker,
    ),
    NodeLoss(
        "head: EngineCore killed",
        lambda group: process_of(group.head, "VLLM::EngineCor").kill(),
        "VLLM::EngineCore",
    ),
    NodeLoss(
        "head: its program killed and started again",
        lambda group: group.head.send(signal.SIGKILL),
        watch=_worker_noticed,
        restore=_restart_head,
    ),
    NodeLoss(
        "the link cut, and restored once that was noticed",
        lambda group: group.nodes.cut(),
        "node 1 (10.77.0.2) was lost",
        restore=lambda group: group.nodes.mend(),
    ),
)
