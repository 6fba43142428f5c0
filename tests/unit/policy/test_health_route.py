"""What probes get in each state: readiness everywhere, and vLLM's own `/health` where manifests for it want that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.virtual.gateway_client import gateway
from vllm_engine.engine.engine_state import EngineState, StatusBoard

S = EngineState
READINESS = ("/healthz", "/readyz", "/v1/health/ready")
RESTART = (S.READY, S.UNHEALTHY, S.BACKOFF, S.STARTING)


def board_after(states: tuple[EngineState, ...]) -> StatusBoard:
    board = StatusBoard()
    for state in states:
        board.restart() if state is S.STARTING else board.move(state)
    return board


@pytest.mark.parametrize(
    ("states", "readiness", "vllm", "vllm_without_replay"),
    [
        ((), 503, 503, 503),
        ((S.BACKOFF, S.STARTING), 503, 503, 503),  # has never served
        ((S.READY,), 200, 200, 200),
        (RESTART[:2], 503, 200, 503),
        (RESTART[:3], 503, 200, 503),
        (RESTART, 503, 200, 503),
        ((*RESTART, S.READY), 200, 200, 200),
        ((*RESTART, S.FAILED), 503, 503, 503),  # ON_FATAL=hold
        ((S.READY, S.DRAINING), 503, 503, 503),
        ((*RESTART, S.DRAINING), 503, 503, 503),
        ((S.READY, S.DRAINING, S.STOPPED), 503, 503, 503),
    ],
)
async def test_health(
    tmp_path: Path, states: tuple[EngineState, ...], readiness: int, vllm: int, vllm_without_replay: int
) -> None:
    """Only `HEALTH_ROUTE=vllm` sets `/health` apart, on both ports, for GET and HEAD; liveness is always given."""
    for settings, health in (
        ({}, readiness),
        ({"HEALTH_ROUTE": "vllm"}, vllm),
        ({"HEALTH_ROUTE": "vllm", "REPLAY_TIMEOUT_SECONDS": 0}, vllm_without_replay),
    ):
        for is_health in (False, True):
            parts: dict[str, Any] = {
                "board": board_after(states),
                "is_health": is_health,
                "API_KEYS": "sk-12345678",
            }
            async with gateway(tmp_path, **parts, **settings) as (client, _):
                wanted = dict.fromkeys(READINESS, readiness) | {
                    "/health": health,
                    "/livez": 200,
                    "/v1/health/live": 200,
                }
                for path, status in wanted.items():
                    get, head = await client.get(path), await client.head(path)
                    assert (get.status_code, head.status_code) == (status, status), (path, settings)
                same = (await client.get("/health")).json(), (await client.get("/healthz")).json()
            # The body is readiness' whatever the status: who reads it learns the truth.
            assert [body["state"] for body in same] == [str(states[-1] if states else S.STARTING)] * 2
            assert {body["status"] for body in same} == {"ready" if readiness == 200 else "unavailable"}
