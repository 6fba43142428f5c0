"""Known failures of several nodes together.

Texts of Gloo (`gloo/transport/tcp/pair.cc`) and torch (`torch/csrc/distributed/c10d/{TCPStore,socket}.cpp`).
"""

from __future__ import annotations

import re
from functools import partial

from vllm_engine.diagnosis.known_failure import Groups, KnownFailure, Stage
from vllm_engine.diagnosis.run_facts import Facts
from vllm_engine.engine.output.engine_exit import EngineExit

_CLOSED = re.compile(
    r"(?:[Rr]ead|[Ww]ritev?) error \[(?P<address>[^\]]+)\]:\d+: (?P<why>[^.']+)"
    r"|(?P<closed>Connection closed by peer) \[(?P<closer>[^\]]+)\]:\d+"
)
_PORTS = "vLLM needs every port open between the nodes, and connections kept that are idle for long"


def _lost(end: EngineExit, facts: Facts, *, head: bool) -> Groups | None:
    """Return which node this one has lost, and how it showed; only the head counts, or only others."""
    if facts.nodes == 1:
        return None
    if end.silent_peers:
        silent = {"node": " and ".join(end.silent_peers), "why": "what is sent there is not acknowledged"}
        return None if head else silent
    found = next(filter(None, map(_CLOSED.search, end.tail)), None)
    if found is None:
        return None
    address = found["address"] or found["closer"]
    is_head = facts.node_rank > 0 and (facts.nodes == 2 or address == facts.head_address)
    if is_head is not head:
        return None
    why = (found["why"] or found["closed"]).strip().lower()
    return {"node": f"the {'head' if head else 'node'} at {address}", "why": why}


NODES = (
    KnownFailure(
        code="node-lost",
        seen="`node 1 (10.0.0.2) was lost: …`; in vLLM's own log `Read error [10.0.0.2]:18112: Connection "
        "reset by peer`, or nothing, and its `/health` stays 200.",
        cause="{node} was lost: {why}",
        remedy="look at that node's log, then at the network between the nodes: "
        f"{_PORTS}; the engine starts again by itself once every node is there",
        read=partial(_lost, head=False),
        stage=Stage.ANY,
        retryable=True,
    ),
    KnownFailure(
        code="head-lost",
        seen="On a worker: `the head 10.0.0.1:29502 was lost: …`.",
        cause="{node} was lost: {why}",
        remedy="look at the head's log, then at the network between the nodes; this node joins it again "
        "by itself",
        read=partial(_lost, head=True),
        stage=Stage.ANY,
        retryable=True,
    ),
    KnownFailure(
        code="nodes-not-connected",
        seen="`Timed out after 601 seconds waiting for clients. 1/2 clients joined`; `The client socket has "
        "timed out after 600000ms while trying to connect to (10.0.0.1, 29501)`; `Gloo connectFullMesh "
        "failed`.",
        cause="vLLM's processes on the nodes could not connect to each other ({detail})",
        remedy=f"{_PORTS}, HEAD_PORT first; VLLM_HOST_IP and GLOO_SOCKET_IFNAME (on GPUs NCCL_SOCKET_IFNAME) "
        "choose each node's address and interface where it has several",
        patterns=(
            r"(?P<detail>Timed out after \d+ seconds waiting for clients\. \d+/\d+ clients joined)",
            r"(?P<detail>[Tt]he client socket has (?:timed out after \S+ while trying|failed) to connect to "
            r"(?:any network address of )?\([^)]+\))",
            r"(?P<detail>Gloo connectFullMesh failed with [^\n]{0,200})",
        ),
        retryable=True,
    ),
)
