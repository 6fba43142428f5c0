"""One model over two nodes with the real vLLM: it answers, a worker is lost without a request, and all come back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import CACHE_DIR
from tests.support.nodes.node_group import START_SECONDS, node_group
from tests.support.nodes.node_losses import NODE_LOSSES
from tests.support.program import until

pytestmark = pytest.mark.e2e


def test_a_worker_is_lost(engine_python: Path, tmp_path: Path) -> None:
    """Noticed with nothing asked, though the head's vLLM stays healthy; a request that comes then is answered.

    `make nightly` loses each of the other parts.
    """
    loss = NODE_LOSSES[0]
    kept = {"REPLAY_TIMEOUT_SECONDS": str(START_SECONDS)}
    with node_group(engine_python, tmp_path, CACHE_DIR, **kept) as group:
        group.head.until_ready(START_SECONDS)
        assert group.ask()["usage"]["completion_tokens"] == 8
        until(lambda: (group.worker_health() or {}).get("status") == "ready", "the worker's readiness")
        noticed = loss.watch(group)
        loss.harm(group)
        until(noticed, "notice of the loss", START_SECONDS)
        group.head.until_logged(loss.told)
        assert group.ask()["usage"]["completion_tokens"] == 8
        until(lambda: (group.worker_health() or {}).get("status") == "ready", "the worker's readiness")
