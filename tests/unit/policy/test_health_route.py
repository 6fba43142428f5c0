"""What probes get in each state: readiness everywhere, and vLLM's own `/health` where manifests for it want that."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.virtual.gateway_client import gateway
from vllm_engine.engine.engine_state import EngineState, Frontend, StatusBoard

S, KEY = EngineState, "sk-12345678"
MODELS = b'{"object":"list","data":[{"id":"m"}]}'
READINESS = ("/healthz", "/readyz", "/v1/health/ready")
RESTART = (S.READY, S.UNHEALTHY, S.BACKOFF, S.STARTING)


def board_after(states: tuple[EngineState, ...]) -> StatusBoard:
    board = StatusBoard()
    moves = {S.STARTING: board.restart, S.IDLE: board.rest}
    board.serving_with((Frontend.PYTHON,), MODELS)
    for state in states:
        moves.get(state, partial(board.move, state))()
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
                "API_KEYS": KEY,
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


@pytest.mark.parametrize(
    ("states", "word", "is_resting"),
    [
        ((S.READY, S.IDLE), "idle", True),
        ((S.READY, S.IDLE, S.STARTING), "waking", True),
        ((S.READY, S.IDLE, S.STARTING, S.BACKOFF), "unavailable", False),
        ((S.READY, S.IDLE, S.STARTING, S.BACKOFF, S.STARTING), "unavailable", False),
        ((S.READY, S.IDLE, S.STARTING, S.READY), "ready", False),
        ((S.READY, S.IDLE, S.DRAINING), "unavailable", False),
    ],
)
async def test_an_idle_engine(
    tmp_path: Path, states: tuple[EngineState, ...], word: str, is_resting: bool
) -> None:
    """It is ready for balancers until it is again, if they are to send requests; liveness does not mind either way."""
    is_gone = S.DRAINING in states
    for is_ready in (True, False):
        readiness = 200 if word == "ready" or (is_resting and is_ready) else 503
        async with gateway(
            tmp_path, board=board_after(states), API_KEYS=KEY, HEALTH_ROUTE="vllm", IDLE_IS_READY=is_ready
        ) as (client, made):
            for path in READINESS:
                answer = await client.get(path)
                assert (answer.status_code, answer.json()["status"]) == (readiness, word)
                assert (answer.json()["error"] is None) is (word != "unavailable")
            loading = 503 if word == "unavailable" and states[-1] is not S.STARTING else 204
            assert (await client.get("/ping")).status_code == (200 if readiness == 200 else loading)
            assert (await client.get("/health")).status_code == (503 if is_gone else 200)
            assert (await client.get("/livez")).status_code == 200
            if is_resting:
                models = await client.get("/v1/models", headers={"x-api-key": KEY})
                assert (models.status_code, models.content == MODELS) == (readiness, is_ready)
                assert (await client.get("/v1/models")).status_code == 401
                assert not made.demand.is_wanted
