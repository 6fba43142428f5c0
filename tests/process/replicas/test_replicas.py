"""The real vllm-router as deploy/router ships it: what reaches a client of replicas that are killed, drained, restarted."""

from __future__ import annotations

import importlib.util
import signal
from types import ModuleType
from typing import Any

import pytest

from tests.process.replicas.conftest import KEY, StartRouter
from tests.support.model import CHAT
from tests.support.program import metric_in, until
from tests.support.routed.replicas import Clients, Ended, Ending, Replica, ask_stream, restart_each
from tests.support.routed.vllm_router import COMPOSE, Router

CLIENTS = 6


def about(number: int) -> dict[str, Any]:
    """One of three conversations, each with a beginning of its own."""
    topic = ("whales", "clocks", "bridges")[number % 3]
    return CHAT | {
        "messages": [{"role": "user", "content": f"{f'All about {topic}. ' * 30} Question {number}"}]
    }


def answered(replica: Replica) -> int:
    """Count the chats in a server's access log."""
    return replica.program.log().count("POST /v1/chat/completions 200")


def until_all_healthy(router: Router, replicas: list[Replica]) -> None:
    router.until_healthy(*(replica.url for replica in replicas))


def test_a_kill_loses_what_had_begun_there_and_nothing_else(
    replicas: list[Replica], route: StartRouter
) -> None:
    """With `cache_aware`, which sends what failed to the same server again until that one's circuit breaker opens."""
    router = route(policy="cache_aware")
    clients = Clients(router.url, about, CLIENTS, KEY)
    until(lambda: clients.count(Ending.WHOLE) >= CLIENTS, "answers")
    victim = max(replicas, key=answered)
    victim.program.send(signal.SIGKILL)
    victim.end()
    whole = clients.count(Ending.WHOLE)
    until(lambda: clients.count(Ending.WHOLE) >= whole + 2 * CLIENTS, "answers of the other")
    victim.start()
    victim.program.until_ready()
    until_all_healthy(router, replicas)
    ended = clients.stop()
    assert ended[Ending.REFUSED] == 0, clients.details()
    # None, if all had just ended: the clients keep step with each other.
    assert ended[Ending.TRUNCATED] <= CLIENTS, clients.details()


def test_a_rolling_restart_loses_and_truncates_nothing(replicas: list[Replica], route: StartRouter) -> None:
    """With the policy that is shipped: each server is drained in turn, under load, and comes back."""
    router = route()
    clients = Clients(router.url, about, CLIENTS, KEY)
    until(lambda: clients.count(Ending.WHOLE) >= CLIENTS, "answers")
    restart_each(replicas, lambda _: until_all_healthy(router, replicas))
    assert set(clients.stop()) == {Ending.WHOLE}, clients.details()


def test_one_beginning_goes_to_one_server_and_keys_and_ids_pass(
    replicas: list[Replica], route: StartRouter
) -> None:
    """`cache_aware` sends a conversation where its beginning was; a client without a key is told what we tell him."""
    router = route(policy="cache_aware")
    before = [answered(replica) for replica in replicas]
    for number in range(0, 18, 3):
        assert ask_stream(router.client, about(number), KEY) == Ended(Ending.WHOLE)

    def counts() -> list[int]:
        return [answered(replica) - old for replica, old in zip(replicas, before, strict=True)]

    until(lambda: sum(counts()) == 6, "six lines in the access logs")
    assert sorted(counts()) == [0, 6]

    # Each chat was preceded by a question to every server, which costs no line in a log and no work of an engine.
    assert router.metric("vllm_router_kv_routing_inputs_total") == 12
    for replica in replicas:
        asked = replica.program.client.get("/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
        assert metric_in(
            asked,
            'gateway_requests_total{outcome="complete",route="/v1/chat/completions/render",status="403"}',
        )
        log = replica.program.log()
        assert "POST /v1/chat/completions/render" not in log and "POST /tokenize" not in log

    refused = router.client.post("/v1/chat/completions", json=CHAT, headers={"X-Request-Id": "mine-1"})
    assert (refused.status_code, refused.headers["x-request-id"]) == (401, "mine-1")
    assert refused.json()["error"]["type"] == "authentication_error"


@pytest.fixture(scope="module")
def follower() -> ModuleType:
    """The script of deploy/router that finds the replicas."""
    spec = importlib.util.spec_from_file_location("follow_replicas", COMPOSE.with_name("follow_replicas.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_router_follows_the_addresses_of_a_name(
    follower: ModuleType, replicas: list[Replica], route: StartRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Healthy ones are added, others not yet; one that is gone is removed, and its stream goes on to its end."""
    router = route()
    found: set[str] = {replicas[0].url}
    monkeypatch.setattr(follower, "addresses", lambda _: found)
    follower.follow(router.url, "http://engine:8000")
    assert router.health() == {replicas[0].url: True}

    clients = Clients(router.url, about, 1, KEY)
    until(lambda: clients.count(Ending.WHOLE) >= 1, "an answer")
    found = {replicas[1].url, "http://127.0.0.1:9"}
    follower.follow(router.url, "http://engine:8000")
    assert router.health() == {replicas[1].url: True}
    whole = clients.count(Ending.WHOLE)
    until(lambda: clients.count(Ending.WHOLE) > whole + 1, "answers of the other")
    assert set(clients.stop()) == {Ending.WHOLE}, clients.details()

    def without_a_name_server(_: str) -> set[str]:
        raise OSError("nobody to ask")

    monkeypatch.setattr(follower, "addresses", without_a_name_server)
    follower.follow(router.url, "http://engine:8000")
    assert router.health() == {replicas[1].url: True}


def test_the_follower_knows_the_router_and_the_name(follower: ModuleType) -> None:
    """Its options are spelled in two ways, of which the Helm chart has the second."""
    for options, port in ((["--port", "8000"], 8000), (["--host=0.0.0.0", "--port=8001"], 8001), ([], 30000)):
        assert follower.own_api(options) == f"http://127.0.0.1:{port}"
    assert follower.addresses("http://127.0.0.1:8000") == {"http://127.0.0.1:8000"}
    assert follower.addresses("http://[::1]:8000") == {"http://[::1]:8000"}
