"""Two of our servers with fake engines, and the router with the settings that are shipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake.fake_engine import make_fake_engine_python
from tests.support.model import make_model
from tests.support.routed.replicas import Replica, replicas_of
from tests.support.routed.vllm_router import Router, router_python, routing

KEY = "secret-of-ours"
StartRouter = Callable[..., Router]


def fake_environ(folder: Path, model: Path, scenario: dict[str, Any], **variables: str) -> dict[str, str]:
    """Return the variables of a server with a fake engine of its own, with a key and the least lame-duck time."""
    return {
        "ENGINE_PYTHON": str(make_fake_engine_python(folder, scenario)),
        "MODEL_ID": str(model),
        "SERVED_MODEL_NAME": "fake",
        "API_KEYS": f"me:{KEY}",
        "LAME_DUCK_SECONDS": "2",
    } | variables


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Replica]]:
    """Two servers that stream for about half a second."""
    folder = tmp_path_factory.mktemp("replicas")
    model = make_model(folder / "model")
    scenario = {"tokens": 10, "tokens_per_second": 20.0}

    def environ(number: int) -> dict[str, str]:
        return fake_environ(folder / f"engine-{number}", model, scenario)

    with replicas_of(2, folder, environ) as both:
        yield both


@pytest.fixture
def route(tmp_path: Path, replicas: list[Replica]) -> Iterator[StartRouter]:
    """Start the router in front of both, with other values for some of its options; it is waited for."""
    with ExitStack() as stack:

        def start_router(**options: str) -> Router:
            workers = [replica.url for replica in replicas]
            # Checks come every second here, so that a test does not wait long.
            faster = {"health_check_interval_secs": "1"} | options
            router = stack.enter_context(routing(router_python(), workers, tmp_path, **faster))
            router.until_healthy(*workers)
            return router

        yield start_router
