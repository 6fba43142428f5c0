"""One model over two nodes with the real vLLM: whatever is lost while nobody asks, the group is there again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import CACHE_DIR, ENGINE_PYTHON
from tests.support.nodes.node_group import START_SECONDS, NodeGroup, node_group
from tests.support.nodes.node_losses import NODE_LOSSES, NodeLoss
from tests.support.program import until


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeGroup]:
    """Both, with bounds that make the losses that nothing shows short to wait for."""
    bounds = {
        "HANG_TIMEOUT_SECONDS": "60",
        "MAX_RESTARTS": "100",
        "REPLAY_TIMEOUT_SECONDS": str(START_SECONDS),
    }
    with node_group(ENGINE_PYTHON, tmp_path_factory.mktemp("nodes"), CACHE_DIR, **bounds) as made:
        yield made


@pytest.mark.parametrize("loss", NODE_LOSSES, ids=lambda loss: loss.name)
def test_a_loss_while_idle(group: NodeGroup, loss: NodeLoss) -> None:
    """Noticed without a request and named; a request that comes then is answered."""
    group.head.until_ready(START_SECONDS)
    until(lambda: (group.worker_health() or {}).get("status") == "ready", "the worker's readiness")
    noticed = loss.watch(group)
    loss.harm(group)
    until(noticed, "notice of the loss", START_SECONDS)
    loss.restore(group)
    if loss.told:
        group.head.until_logged(loss.told)
    group.head.until_listening()
    assert group.ask() is not None


def test_the_link_cut_under_a_stream(group: NodeGroup) -> None:
    """The stream says that it broke, and what comes after is answered once the link is there again."""
    group.head.until_ready(START_SECONDS)
    body = {"model": "two-nodes", "prompt": "Hello", "max_tokens": 400, "ignore_eos": True, "stream": True}
    with group.head.client.stream("POST", "/v1/completions", json=body, timeout=START_SECONDS) as answer:
        lines = (line for line in answer.iter_lines() if line.startswith("data: "))
        next(lines)
        group.nodes.cut()
        *_, last = lines
    assert "error" in last
    group.nodes.mend()
    assert group.ask() is not None
