"""What runs in a container and as whom; it stops without losing anything, and survives the loss of its engine."""

from __future__ import annotations

from typing import Any

from tests.container.box import CONTAINER_SECONDS, kill_engine, recovers, stop_under_streams, truncated
from tests.container.conftest import APP_UID, StartBox
from tests.support.program import until


def test_processes(start: StartBox) -> None:
    """tini is PID 1, everything is appuser's without rights, orphans are reaped, and a killed engine comes back."""
    box = start()
    box.until_ready()
    processes = box.processes()
    assert processes[1]["command"].startswith("tini ")
    (ours,) = (pid for pid in box.named("vllm-engine serve") if pid != 1)
    assert {each["parent"] for pid, each in processes.items() if pid not in (1, ours)} > {ours}
    for pid, process in processes.items():
        assert (process["uid"], process["gid"]) == (APP_UID, 0), (pid, process)
        assert (process["capabilities"], process["no_new_privileges"]) == (0, True), (pid, process)

    box.run("sh", "-c", "for i in 1 2 3; do (sh -c 'sleep 0.2; exit 3' &); done")
    until(lambda: not box.named("sleep"), "the end of the orphans")
    until(lambda: not [each for each in box.processes().values() if each["state"] == "Z"], "no zombies")

    recovers(box, CONTAINER_SECONDS)
    assert not truncated(box.url, "fake", 4, CONTAINER_SECONDS)


def test_stop_under_streams(start: StartBox) -> None:
    """docker stop: each of 16 running streams comes to its end, and the exit status is 0."""
    box = start()
    box.until_ready()
    change = "change_scenario(Path('/tmp/scenario.json'), tokens=120, tokens_per_second=20)"
    box.run(
        "env", "PYTHONPATH=/opt/fake", "/opt/gateway/bin/python", "-c",
        f"from pathlib import Path; from tests.support.fake.fake_scenarios import change_scenario; {change}",
    )  # fmt: skip
    assert stop_under_streams(box, "fake", 120, CONTAINER_SECONDS) == []


def test_health_states(start: StartBox) -> None:
    """Docker's own health check: healthy, and unhealthy when the engine is gone."""
    box = start(
        "--health-interval=1s", "--health-retries=1", REPLAY_TIMEOUT_SECONDS="0", MAX_RESTARTS="0", ON_FATAL="hold"
    )  # fmt: skip
    until(lambda: box.state["Health"]["Status"] == "healthy", "healthy", CONTAINER_SECONDS)
    kill_engine(box)
    # Its last check, since on a busy machine one before may have found it unhealthy for being slow.
    until(lambda: _is_failed(box.state["Health"]), "unhealthy: failed", CONTAINER_SECONDS)


def _is_failed(health: dict[str, Any]) -> bool:
    return health["Status"] == "unhealthy" and "failed" in health["Log"][-1]["Output"]
