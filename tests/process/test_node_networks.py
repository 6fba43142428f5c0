"""The two networks that stand for two machines are what tests of several nodes take them for."""

from __future__ import annotations

import errno
import socket

import pytest

from tests.support.two_nodes import NodeNetwork, two_nodes

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
