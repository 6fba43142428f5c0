"""Eight of our servers with fake engines behind the real vllm-router, with keys, under each policy."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.replicas.conftest import KEY, fake_environ
from tests.process.replicas.test_replicas import about, answered
from tests.support.model import make_model
from tests.support.program import until
from tests.support.routed.replicas import Clients, Ending, Replica, replicas_of, restart_each
from tests.support.routed.vllm_router import Router, router_python, routing

COUNT, CLIENTS = 8, 16
START_SECONDS = 300.0  # eight at once
POLICIES = ("round_robin", "power_of_two", "consistent_hash", "cache_aware")


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Replica]]:
    """Eight servers, the last of which makes tokens ten times as slowly; each stays as a lame duck for some checks."""
    folder = tmp_path_factory.mktemp("replicas")
    model = make_model(folder / "model")

    def environ(number: int) -> dict[str, str]:
        pace = 20.0 if number < COUNT - 1 else 2.0
        scenario = {"tokens": 10, "tokens_per_second": pace}
        return fake_environ(folder / f"engine-{number}", model, scenario, LAME_DUCK_SECONDS="8")

    with replicas_of(COUNT, folder, environ, START_SECONDS) as all_of_them:
        yield all_of_them


@pytest.mark.parametrize("policy", POLICIES)
def test_one_killed_one_drained_one_slow(policy: str, replicas: list[Replica], tmp_path: Path) -> None:
    """Under load and with keys: only what had begun on the one that was killed is truncated; both come back."""
    with front(policy, replicas, tmp_path) as router:
        clients = Clients(router.url, about, CLIENTS, KEY)
        until(lambda: clients.count(Ending.WHOLE) >= 2 * CLIENTS, "answers")
        killed, drained = sorted(replicas[:-1], key=answered)[-2:]
        killed.program.send(signal.SIGKILL)
        killed.end()
        drained.program.send(signal.SIGTERM)
        drained.end()
        for replica in (killed, drained):
            replica.start()
            replica.program.until_ready(START_SECONDS)
        until_all(router, replicas)
        ended = clients.stop()
        assert ended[Ending.REFUSED] == 0, clients.details()
        assert ended[Ending.TRUNCATED] <= CLIENTS, clients.details()
        print(policy, dict(ended), [answered(replica) for replica in replicas])


@pytest.mark.parametrize("policy", ["round_robin", "cache_aware"])
def test_a_rolling_restart_of_all(policy: str, replicas: list[Replica], tmp_path: Path) -> None:
    """Each is drained in turn and comes back: nothing is lost or truncated."""
    with front(policy, replicas, tmp_path) as router:
        clients = Clients(router.url, about, CLIENTS, KEY)
        until(lambda: clients.count(Ending.WHOLE) >= CLIENTS, "answers")
        restart_each(replicas, lambda _: until_all(router, replicas), START_SECONDS)
        assert set(clients.stop()) == {Ending.WHOLE}, clients.details()


def front(policy: str, replicas: list[Replica], folder: Path) -> contextlib.AbstractContextManager[Router]:
    urls = [replica.url for replica in replicas]
    return routing(router_python(), urls, folder, policy=policy)


def until_all(router: Router, replicas: list[Replica]) -> None:
    router.until_healthy(*(replica.url for replica in replicas))
