"""What runs in a container and as whom; it stops without losing anything, and survives the loss of its engine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.container.box import CONTAINER_SECONDS, in_flight, is_whole, kill_engine, stream_of
from tests.container.conftest import StartBox
from tests.support.program import until

STREAMS = 16
APP_UID = 10001


def test_processes(start: StartBox) -> None:
    """tini is PID 1, everything is appuser's without rights, orphans are reaped, and a killed engine comes back."""
    box = start()
    box.until_ready()
    processes = box.processes()
    assert processes[1]["command"].startswith("tini ")
    (ours,) = (
        pid for pid, each in processes.items() if each["command"].endswith("vllm-engine serve") and pid != 1
    )
    assert {each["parent"] for pid, each in processes.items() if pid not in (1, ours)} > {ours}
    for pid, process in processes.items():
        assert (process["uid"], process["gid"]) == (APP_UID, 0), (pid, process)
        assert process["capabilities"] == 0
        assert process["no_new_privileges"]

    box.run("sh", "-c", "for i in 1 2 3; do (sh -c 'sleep 0.2; exit 3' &); done")
    until(lambda: not box.named("sleep"), "the end of the orphans")
    until(lambda: not [each for each in box.processes().values() if each["state"] == "Z"], "no zombies")

    (core,) = box.named("VLLM::EngineCore")
    engine = kill_engine(box)
    box.until_logged("the engine is started again", CONTAINER_SECONDS)
    box.until_ready()
    assert {engine, core}.isdisjoint(box.processes())
    assert len(box.named("VLLM::EngineCore")) == 1
    status, text = stream_of(box.url, "fake", 4, CONTAINER_SECONDS)
    assert status == 200 and is_whole(text)


def test_stop_under_streams(start: StartBox) -> None:
    """docker stop: each of 16 running streams comes to its end, and the exit status is 0."""
    box = start()
    box.until_ready()
    change = "change_scenario(Path('/tmp/scenario.json'), tokens=120, tokens_per_second=20)"
    box.run(
        "env", "PYTHONPATH=/opt/fake", "/opt/gateway/bin/python", "-c",
        f"from pathlib import Path; from tests.support.fake.fake_scenarios import change_scenario; {change}",
    )  # fmt: skip
    url = box.url
    with ThreadPoolExecutor(STREAMS) as pool:
        streams = [pool.submit(stream_of, url, "fake", 120, CONTAINER_SECONDS) for _ in range(STREAMS)]
        until(lambda: in_flight(url) == STREAMS, "sixteen streams", CONTAINER_SECONDS)
        box.stop()
        answers = [stream.result() for stream in streams]
    assert [status for status, text in answers if not is_whole(text)] == []
    assert box.state["ExitCode"] == 0, box.logs()


def test_health_states(start: StartBox) -> None:
    """Docker's own health check: healthy, and unhealthy when the engine is gone."""
    box = start(
        "--health-interval=1s", "--health-retries=1", REPLAY_TIMEOUT_SECONDS="0", MAX_RESTARTS="0", ON_FATAL="hold"
    )  # fmt: skip
    until(lambda: box.state["Health"]["Status"] == "healthy", "healthy", CONTAINER_SECONDS)
    kill_engine(box)
    until(lambda: box.state["Health"]["Status"] == "unhealthy", "unhealthy", CONTAINER_SECONDS)
    assert "failed" in box.state["Health"]["Log"][-1]["Output"]
