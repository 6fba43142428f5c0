"""The two networks that stand for two machines are what tests of several nodes take them for."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack

import pytest

from tests.support.nodes.two_nodes import NodeNetwork, two_nodes
from tests.support.program import until
from vllm_engine.engine.watchdog.silent_peers import silent_peers

PORT = 29501


def test_two_nodes() -> None:
    """They reach each other and nobody else; a cut loses what is sent without a word, until it is mended."""
    with two_nodes() as nodes:
        with nodes.head.entered():
            listening = socket.create_server((nodes.head.address, PORT))
        with (
            listening,
            connected(nodes.worker, nodes.head.address) as client,
            listening.accept()[0] as server,
        ):
            nodes.cut()
            client.sendall(b"kept")
            server.settimeout(0.1)
            with pytest.raises(TimeoutError):
                server.recv(4)
            nodes.mend()
            server.settimeout(None)
            assert server.recv(4) == b"kept"
        with pytest.raises(OSError, match="unreachable") as refused:
            connected(nodes.worker, "192.0.2.1")
        assert refused.value.errno == errno.ENETUNREACH, "no way leads to the machine's own network"


def connected(node: NodeNetwork, address: str) -> socket.socket:
    with node.entered():
        return socket.create_connection((address, PORT))


def test_a_node_that_acknowledges_nothing_is_named() -> None:
    """By its address, as long as something that was sent to it is not acknowledged, and not for what others send."""
    own, other = (os.getpid(),), (os.getppid(),)
    with two_nodes() as nodes, ExitStack() as sockets:
        with nodes.worker.entered():
            listening = sockets.enter_context(
                socket.create_server(("", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
            )
        with nodes.head.entered():
            clients = [
                sockets.enter_context(socket.socket(family)) for family in (socket.AF_INET, socket.AF_INET6)
            ]
            for client, prefix in zip(clients, ("", "::ffff:"), strict=True):
                client.connect((prefix + nodes.worker.address, PORT))
        servers = [sockets.enter_context(listening.accept()[0]) for _ in clients]
        for client, server in zip(clients, servers, strict=True):
            client.sendall(b"1")
            assert server.recv(1)
        nodes.cut()
        # The kernel shows each thread the connections of its own network.
        with nodes.head.entered():
            for client in clients:
                assert silent_peers(own) == ()
                client.sendall(b"2")
                until(lambda: silent_peers(own) == (nodes.worker.address,), "notice of the silence")
                assert silent_peers(other) == ()
                client.close()
