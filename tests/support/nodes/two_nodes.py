"""Two machines as far as a program can tell: each a network namespace of its own, joined by a switch that can be cut.

The switch is a third namespace with a bridge, so that a cut link is what it is between machines: packets vanish, no
connection is closed, and each node keeps its own address.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import pytest

INTERFACE: Final = "node0"
"""The name of each node's interface, in its own namespace."""
_NAMED = Path("/run/netns")
_PREFIX: Final = "vllm-engine-"
_CLONE_NEWNET = 0x4000_0000
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class NodeNetwork:
    """The network of one node."""

    name: str
    address: str

    @contextmanager
    def entered(self) -> Iterator[None]:
        """What this thread connects, listens on and starts meanwhile is on this node, and stays there."""
        with Path("/proc/thread-self/ns/net").open("rb") as before, (_NAMED / self.name).open("rb") as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())


@dataclass(frozen=True)
class TwoNodes:
    """The head's and the worker's network."""

    head: NodeNetwork
    worker: NodeNetwork
    switch: str

    def cut(self) -> None:
        """Cut the link: what either sends from now on does not arrive, and neither is told."""
        self._link("down")

    def mend(self) -> None:
        """Join them again."""
        self._link("up")

    def _link(self, state: str) -> None:
        # The bridge's own side, so that both nodes' interfaces stay up.
        _ip("-n", self.switch, "link", "set", "switch0", state)


@contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    """Make the two networks, of which no other process knows, and remove them afterwards."""
    prefix = f"{_PREFIX}{os.getpid()}"
    head, worker = NodeNetwork(f"{prefix}-head", "10.77.0.1"), NodeNetwork(f"{prefix}-worker", "10.77.0.2")
    switch = f"{prefix}-switch"
    with ExitStack() as made:
        try:
            _remove_left_over()
            for namespace in (switch, head.name, worker.name):
                _ip("netns", "add", namespace)
                made.callback(_ip, "netns", "delete", namespace)
            _ip("-n", switch, "link", "add", "switch0", "type", "bridge")
            for port, node in (("head", head), ("worker", worker)):
                _ip(
                    "-n",
                    switch,
                    "link",
                    "add",
                    port,
                    "type",
                    "veth",
                    "peer",
                    "name",
                    INTERFACE,
                    "netns",
                    node.name,
                )
                _ip("-n", switch, "link", "set", port, "master", "switch0", "up")
                _ip("-n", node.name, "address", "add", f"{node.address}/24", "dev", INTERFACE)
                for interface in ("lo", INTERFACE):
                    _ip("-n", node.name, "link", "set", interface, "up")
            _ip("-n", switch, "link", "set", "switch0", "up")
            with head.entered():
                pass
        except (OSError, subprocess.CalledProcessError) as error:
            told = getattr(error, "stderr", None) or str(error)
            pytest.skip(
                f"NOT TESTED: network namespaces cannot be made here (root and iproute2 are needed): {told}"
            )
        yield TwoNodes(head, worker, switch)


def _remove_left_over() -> None:
    """Remove the networks of test processes that were killed."""
    for path in _NAMED.glob(f"{_PREFIX}*"):
        owner = path.name.removeprefix(_PREFIX).partition("-")[0]
        if not psutil.pid_exists(int(owner)):
            with suppress(subprocess.CalledProcessError):  # another test process was first
                _ip("netns", "delete", path.name)


def _enter(namespace: int) -> None:
    if _LIBC.setns(namespace, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
