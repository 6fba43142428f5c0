"""A container stops without losing anything, and survives the loss of its engine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx2

from tests.container.box import CONTAINER_SECONDS, is_whole, stream_of
from tests.container.conftest import StartBox
from tests.container.test_image import kill_engine
from tests.support.program import metric_in, until

STREAMS = 16


def in_flight(url: str) -> float:
    """Return how many requests the gateway has in flight."""
    return metric_in(httpx2.get(f"{url}/metrics", timeout=30).text, "gateway_in_flight")


def test_stop_under_streams(start: StartBox) -> None:
    """docker stop: each of 16 running streams comes to its end, and the exit status is 0."""
    box = start()
    box.run("true")
    box.until_ready()
    set_scenario(box, tokens=120, tokens_per_second=20)
    url = box.url
    with ThreadPoolExecutor(STREAMS) as pool:
        streams = [pool.submit(stream_of, url, "fake", 120, CONTAINER_SECONDS) for _ in range(STREAMS)]
        until(lambda: in_flight(url) == STREAMS, "sixteen streams", CONTAINER_SECONDS)
        box.stop()
        answers = [stream.result() for stream in streams]
    assert [status for status, text in answers if not is_whole(text)] == []
    assert box.state["ExitCode"] == 0, box.logs()


def test_a_killed_engine_is_started_again(start: StartBox) -> None:
    """Nothing of the first engine stays behind, and the second answers."""
    box = start()
    box.until_ready()
    (core,) = box.named("VLLM::EngineCore")
    engine = kill_engine(box)
    box.until_logged("the engine is started again", CONTAINER_SECONDS)
    box.until_ready()
    assert {engine, core}.isdisjoint(box.processes())
    assert len(box.named("VLLM::EngineCore")) == 1
    status, text = stream_of(box.url, "fake", 4, CONTAINER_SECONDS)
    assert status == 200 and is_whole(text)


def set_scenario(box, **changes: object) -> None:  # type: ignore[no-untyped-def]
    """Change what the fake does from its next request on."""
    box.run(
        "env",
        "PYTHONPATH=/opt/fake",
        "/opt/gateway/bin/python",
        "-c",
        "from pathlib import Path; from tests.fake_scenarios import change_scenario; "
        f"change_scenario(Path('/tmp/scenario.json'), **{changes!r})",
    )
