"""An engine that is lost is noticed, started again, and loses no request that had no answer yet."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.process.conftest import StartProgram
from tests.support.fake.fake_engine import change_scenario, scenario_of, start_pids
from tests.support.program import Program, until

CHAT: dict[str, Any] = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}]}


class Asked:
    """A request in a thread of its own."""

    def __init__(self, program: Program, body: dict[str, Any]) -> None:
        self.answer: httpx2.Response | None = None
        self._thread = threading.Thread(target=self._ask, args=(program, body))
        self._thread.start()

    def _ask(self, program: Program, body: dict[str, Any]) -> None:
        with httpx2.Client(base_url=program.url, timeout=60.0) as client:
            self.answer = client.post("/v1/chat/completions", json=body)

    def result(self) -> httpx2.Response:
        """Wait for the answer."""
        self._thread.join(60)
        assert self.answer is not None, "no answer"
        return self.answer


def engine_core(program: Program) -> psutil.Process:
    """Return the fake's engine core."""
    leader = psutil.Process(program.engine_pid())
    (core,) = [child for child in leader.children() if "EngineCor" in child.name()]
    return core


def running(program: Program) -> Callable[[], object]:
    """Say whether a request is at the engine, as the engine itself sees it: the gateway counts it sooner."""
    return lambda: program.metric("vllm:num_requests_running") == 1


def kill_leader(program: Program) -> None:
    """SIGKILL to the API process."""
    os.kill(program.engine_pid(), signal.SIGKILL)


def kill_core(program: Program) -> None:
    """SIGKILL to the engine core alone."""
    engine_core(program).kill()


def remove_socket(program: Program) -> None:
    """Take the file away on which the engine listens."""
    command = psutil.Process(program.engine_pid()).cmdline()
    Path(command[command.index("--uds") + 1]).unlink()


LOSSES = {"leader killed": kill_leader, "core killed": kill_core, "socket removed": remove_socket}


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES.keys())
def test_restart(start: StartProgram, tmp_path: Path, lose: Callable[[Program], None]) -> None:
    """However an engine is lost: noticed, started again, and it answers."""
    program = start()
    program.until_ready()
    before = program.engine_pid()
    with program.loses_engine():
        lose(program)
    program.until_ready()
    assert program.engine_pid() != before
    assert not psutil.pid_exists(before)
    assert program.client.post("/v1/chat/completions", json=CHAT).status_code == 200
    assert len(start_pids(scenario_of(tmp_path / "engine/bin/python"))) == 2


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("lose", [kill_leader, kill_core], ids=["leader", "core"])
def test_unanswered_request_is_replayed(
    start: StartProgram, tmp_path: Path, stream: bool, lose: Callable[[Program], None]
) -> None:
    """A request without an answer outlives its engine: its client notices nothing but the wait.

    It had a place at the engine and keeps it, so the queue's size is of no account.
    """
    program = start(MAX_QUEUE="0")
    program.until_ready()
    scenario = scenario_of(tmp_path / "engine/bin/python")
    change_scenario(scenario, first_token_seconds=60)
    asked = Asked(program, CHAT | {"stream": stream})
    until(running(program), "the request at the engine")
    change_scenario(scenario, first_token_seconds=0)
    lose(program)
    answer = asked.result()
    assert answer.status_code == 200
    if stream:
        assert answer.text.endswith("data: [DONE]\n\n")
        assert '"error"' not in answer.text
    else:
        assert answer.json()["choices"]
    assert len(start_pids(scenario)) == 2


def test_stream_that_has_begun_ends_in_an_error(start: StartProgram, tmp_path: Path) -> None:
    """Half an answer cannot be begun anew: its stream says that it broke."""
    program = start({"crash_after_n_chunks": 3})
    program.until_ready()
    answer = program.client.post("/v1/chat/completions", json=CHAT | {"stream": True})
    last = answer.text.rstrip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "upstream_error"
    assert "[DONE]" not in answer.text


def test_suspect_request(start: StartProgram, tmp_path: Path) -> None:
    """A request that kills the engine twice is told so and not sent a third time."""
    program = start()
    program.until_ready()
    scenario = scenario_of(tmp_path / "engine/bin/python")
    change_scenario(scenario, crash_after_n_chunks=2)
    answer = program.client.post("/v1/chat/completions", json=CHAT)
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "engine_crash"
    assert "not tried again" in answer.json()["error"]["message"]
    until(lambda: len(start_pids(scenario)) == 3, "the second restart")
    change_scenario(scenario, crash_after_n_chunks=None)
    program.until_ready()
    assert program.client.post("/v1/chat/completions", json=CHAT).status_code == 200


def test_requests_wait_for_the_restart(start: StartProgram, tmp_path: Path) -> None:
    """Who comes while the engine is restarted waits and is served."""
    program = start({"startup_seconds": 1})
    program.until_ready()
    with program.loses_engine():
        kill_leader(program)
    asked = [Asked(program, CHAT) for _ in range(5)]
    assert [one.result().status_code for one in asked] == [200] * 5


def test_replay_off(start: StartProgram, tmp_path: Path) -> None:
    """With REPLAY_TIMEOUT_SECONDS=0 nothing waits: 502 for what was lost, 503 for who comes."""
    program = start(REPLAY_TIMEOUT_SECONDS="0")
    program.until_ready()
    change_scenario(scenario_of(tmp_path / "engine/bin/python"), first_token_seconds=60, startup_seconds=60)
    asked = Asked(program, CHAT)
    until(running(program), "the request at the engine")
    kill_leader(program)
    assert asked.result().status_code == 502
    answer = program.client.post("/v1/chat/completions", json=CHAT)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize("idle", [True, False], ids=["idle", "busy"])
def test_hang(start: StartProgram, tmp_path: Path, idle: bool) -> None:
    """An engine that generates no more although its /health says 200 is killed and started again."""
    scenario = scenario_of(tmp_path / "engine/bin/python")
    program = start(HANG_TIMEOUT_SECONDS="1", CANARY_INTERVAL_SECONDS="0.5" if idle else "0")
    program.until_ready()
    change_scenario(scenario, generation_hangs=True)
    asked = None if idle else Asked(program, CHAT)
    until(lambda: "the engine was lost" in program.log(), "the verdict")
    change_scenario(scenario, generation_hangs=False)
    program.until_ready()
    assert asked is None or asked.result().status_code == 200
    assert program.client.post("/v1/chat/completions", json=CHAT).status_code == 200


def test_hang_behind_polls(start: StartProgram, tmp_path: Path) -> None:
    """Somebody who asks for the list of models again and again hides no stuck engine."""
    scenario = scenario_of(tmp_path / "engine/bin/python")
    program = start(HANG_TIMEOUT_SECONDS="1", CANARY_INTERVAL_SECONDS="0.5", REPLAY_TIMEOUT_SECONDS="0")
    program.until_ready()
    change_scenario(scenario, generation_hangs=True)

    def noticed() -> bool:
        program.client.get("/v1/models")
        return "the engine was lost" in program.log()

    until(noticed, "the verdict")


def test_a_slow_token_is_no_hang(start: StartProgram, tmp_path: Path) -> None:
    """A canary that takes longer than ever before, but for HANG_TIMEOUT_SECONDS, costs no engine."""
    scenario = scenario_of(tmp_path / "engine/bin/python")
    program = start(CANARY_INTERVAL_SECONDS="0.2")
    program.until_ready()
    pid = program.engine_pid()
    # Longer than any patience with a question of our own used to be.
    change_scenario(scenario, first_token_seconds=12)
    asked = program.metric("fake:requests_total")
    until(lambda: program.metric("fake:requests_total") >= asked + 2, "a canary after the slow one")
    assert program.engine_pid() == pid
    assert program.engines_lost() == 0


def test_slow_is_not_hung(start: StartProgram, tmp_path: Path) -> None:
    """Tokens that come slowly, and quiet spells in between, are no hang."""
    program = start(
        {"tokens": 8, "tokens_per_second": 2}, HANG_TIMEOUT_SECONDS="3.5", CANARY_INTERVAL_SECONDS="0.2"
    )
    program.until_ready()
    pid = program.engine_pid()
    for _ in range(2):
        assert program.client.post("/v1/chat/completions", json=CHAT | {"stream": True}).status_code == 200
    assert program.engine_pid() == pid


def test_given_up(start: StartProgram, tmp_path: Path) -> None:
    """An engine that is lost again and again is given up: exit 3 and the last reason."""
    program = start(MAX_RESTARTS="2")
    scenario = scenario_of(tmp_path / "engine/bin/python")
    for number in (1, 2, 3):
        until(lambda: len(start_pids(scenario)) == number, f"start {number}")  # noqa: B023
        # Lost any sooner, it would be one that cannot start.
        until(lambda: program.log().count("ready after") == number, "its readiness")  # noqa: B023
        kill_leader(program)
    assert program.wait() == 3
    assert "given up after 2 restarts" in program.log()
    assert len(start_pids(scenario)) == 3


def test_no_restarts(start: StartProgram, tmp_path: Path) -> None:
    """With MAX_RESTARTS=0 the first loss ends the program with status 1."""
    program = start(MAX_RESTARTS="0")
    program.until_ready()
    kill_leader(program)
    assert program.wait() == 1
    assert len(start_pids(scenario_of(tmp_path / "engine/bin/python"))) == 1


KV_TOO_SMALL = (
    "ValueError: To serve at least one request with the model's max seq len (2048), (0.18 GiB KV cache is needed, "
    "which is larger than the available KV cache memory (0.03 GiB). Based on the available memory, the estimated "
    "maximum model length is 1280. Try increasing `gpu_memory_utilization` or decreasing `max_model_len`."
)


@pytest.mark.parametrize("is_on", [True, False], ids=["on", "off"])
def test_auto_fit(start: StartProgram, is_on: bool) -> None:
    """With AUTO_FIT=1 a start that lacks memory is tried once with the length that fits, and says so."""
    scenario = {"die_at_start": 1, "dies_times": 1, "last_lines": [KV_TOO_SMALL]}
    program = start(scenario, AUTO_FIT="1" if is_on else "0")
    if not is_on:
        assert program.wait() == 3
        return
    program.until_ready()
    assert "NOT AS SET, the engine is started once more with MAX_MODEL_LEN=1280" in program.log()
    command = psutil.Process(program.engine_pid()).cmdline()
    assert command[command.index("--max-model-len") + 1] == "1280"


def test_hold(start: StartProgram) -> None:
    """With ON_FATAL=hold the gateway stays, not ready, says why, and ends with 0 when told to stop."""
    program = start({"die_at_start": 1, "last_lines": ["ValueError: no such thing"]}, ON_FATAL="hold")
    until(lambda: (program.health() or {}).get("state") == "failed", "the failure")
    health = program.health() or {}
    assert "no such thing" in json.dumps(health["error"])
    assert program.client.get("/livez").status_code == 200
    for answer in (program.client.get("/healthz"), program.client.post("/v1/chat/completions", json=CHAT)):
        assert (answer.status_code, "retry-after" in answer.headers) == (503, False)
    program.send(signal.SIGTERM)
    assert program.wait() == 0


def test_hold_tells_the_value_that_fits(start: StartProgram) -> None:
    """What is wrong with a setting once the model is known is told with its remedy, as it is without hold."""
    program = start(ON_FATAL="hold", MAX_MODEL_LEN="100000")
    until(lambda: (program.health() or {}).get("state") == "failed", "the failure")
    error = (program.health() or {})["error"]
    assert error["message"] == 'MAX_MODEL_LEN="100000": the model holds at most 2048 tokens'
    assert error["remedy"] == "set MAX_MODEL_LEN=2048 or less, or auto"


def test_no_orphans(start: StartProgram) -> None:
    """Killed over and over, the engine leaves no process, file or thread of ours behind."""
    program = start({"fork_orphan": True}, MAX_RESTARTS="20")
    program.until_ready()
    gateway = psutil.Process(program.pid)

    def lose_one() -> None:
        family = program.family()[1:]
        with program.loses_engine():
            kill_leader(program)
        until(lambda: not any(alive(process) for process in family), "the end of the whole family")
        program.until_ready()

    lose_one()
    until(lambda: gateway.num_threads() <= 4, "few threads")
    files, threads = gateway.num_fds(), gateway.num_threads()
    for _ in range(4):
        lose_one()
    until(lambda: gateway.num_fds() <= files + 1, "no more files")
    until(lambda: gateway.num_threads() <= threads + 1, "no more threads")


def alive(process: psutil.Process) -> bool:
    """Say whether it runs."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
