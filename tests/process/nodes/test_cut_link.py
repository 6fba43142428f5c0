"""Two nodes with fake engines, on networks of their own: the link between them is cut, and there again."""

from __future__ import annotations

from pathlib import Path

import psutil

from tests.process.nodes.test_groups import asked, group
from tests.support.nodes.two_nodes import two_nodes
from tests.support.program import until_gone


def test_a_cut_link(tmp_path: Path) -> None:
    """No connection is closed: each side notices the other's silence, and the group is back with the link."""
    with two_nodes() as nodes, nodes.head.entered(), group(tmp_path) as made:
        with nodes.worker.entered():
            worker = made.start(1, HEAD_ADDRESS=nodes.head.address)
        head = made.start(0, HEAD_ADDRESS=nodes.head.address)
        head.until_ready()
        engine = psutil.Process(worker.engine_pid())
        with head.loses_engine():
            nodes.cut()
        head.until_logged(f"node 1 ({nodes.worker.address}) was lost: nothing came from it for 6 s")
        until_gone([engine])
        with asked(head) as statuses:
            nodes.mend()
        assert statuses == [200] * 4
        with nodes.worker.entered():
            worker.until_ready()
