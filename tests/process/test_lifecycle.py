"""From start to stop: what the gateway says meanwhile, how it ends, and that nothing stays behind."""

from __future__ import annotations

import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.process.conftest import StartProgram
from tests.support.fake.fake_engine import change_scenario, scenario_of
from tests.support.program import Program, until

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}]}


def engine_scenario(program: Program, tmp_path: Path) -> Path:
    """Return the scenario file of the one fake engine of a test."""
    return scenario_of(tmp_path / "engine/bin/python")


def gone(processes: list[psutil.Process]) -> bool:
    """Whether none of these runs any more."""
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def test_alive_before_the_engine_listens(start: StartProgram) -> None:
    """/livez is 200 and /healthz says 503 with state, phase and time, while vLLM still loads."""
    program = start({"startup_seconds": 600})
    program.until_listening()
    assert program.client.get("/livez").json() == {"status": "alive"}
    until(lambda: (program.health() or {}).get("phase") == "importing", "the engine's start")
    answer = program.client.get("/healthz")
    body = answer.json()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert (body["state"], body["status"], body["model"]) == ("starting", "unavailable", body["model"])
    assert body["elapsed_seconds"] >= 0
    assert body["error"]["message"].startswith("Loading model (importing")


def test_requests_before_readiness(start: StartProgram) -> None:
    """/v1/* answers the field's 503 while loading, which SDKs retry."""
    program = start({"startup_seconds": 600})
    program.until_listening()
    answer = program.client.post("/v1/chat/completions", json=CHAT)
    error = answer.json()["error"]
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert (error["type"], error["code"], error["param"]) == ("unavailable_error", 503, None)
    assert error["message"].startswith("Loading model")


def test_phases_are_shown(start: StartProgram) -> None:
    """The phases of the engine's log appear in /healthz, in order."""
    program = start({"startup_seconds": 3})
    seen: list[str] = []

    def ready() -> bool:
        phase = (program.health() or {}).get("phase")
        if phase and phase not in seen[-1:]:
            seen.append(phase)
        return phase == "ready"

    until(ready, "readiness")
    order = ["preparing", "importing", "loading weights", "profiling memory", "warming up", "ready"]
    assert seen == [phase for phase in order if phase in seen]
    assert {"importing", "loading weights", "ready"} <= set(seen)


def test_ready_means_that_it_generates(start: StartProgram, tmp_path: Path) -> None:
    """An engine whose /health is 200 and which does not generate is not ready."""
    program = start({"health_ok_but_generation_fails": True})
    until(lambda: "does not generate yet" in program.log(), "the probe's complaint")
    assert program.client.get("/healthz").status_code == 503
    change_scenario(engine_scenario(program, tmp_path), health_ok_but_generation_fails=False)
    program.until_ready()
    assert program.client.post("/v1/chat/completions", json=CHAT).status_code == 200


def test_version(start: StartProgram) -> None:
    """/version says what runs."""
    program = start(BUILD_SHA="abc", BUILD_TIME="now", MODEL_REVISION="r1", DTYPE="float16")
    program.until_ready()
    body = program.client.get("/version").json()
    expected = {
        "build_sha": "abc",
        "build_time": "now",
        "vllm": "0.32.0",
        "model_revision": "r1",
        "dtype": "float16",
        "frontend": "python",
    }
    assert {key: body[key] for key in expected} == expected
    assert body["model"].endswith("/model")
    assert {"version", "python", "engine_python", "device"} <= set(body)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("when", ["starting", "ready"])
def test_signal_stops_both(start: StartProgram, number: signal.Signals, when: str) -> None:
    """A signal ends gateway and engine, with status 0 and nothing left behind, at any time."""
    program = start({"startup_seconds": 600 if when == "starting" else 0})
    program.until_listening()
    if when == "ready":
        program.until_ready()
    else:
        until(lambda: len(program.family()) > 1, "the engine's process")
    family = program.family()
    program.send(number)
    assert program.wait() == 0
    until(lambda: gone(family), "the end of every process")


def test_clean_stop_shows_no_error(start: StartProgram) -> None:
    """What vLLM says of itself while it is stopped is no error of anybody's."""
    program = start({"complain_at_stop": True})
    program.until_ready()
    program.send(signal.SIGTERM)
    assert program.wait() == 0
    until(lambda: "output_handler failed" in program.log(), "the engine's last words")
    assert " ERROR " not in program.log()


def test_engine_that_ignores_sigterm(start: StartProgram) -> None:
    """An engine that does not listen, and a worker that hides, are killed."""
    program = start({"ignore_sigterm": True, "fork_orphan": True})
    program.until_ready()
    family = program.family()
    assert len(family) >= 4
    program.send(signal.SIGTERM)
    assert program.wait(40) == 0
    until(lambda: gone(family), "the end of every process")


def test_running_request_finishes(start: StartProgram) -> None:
    """A stream that runs when SIGTERM comes is completed; a new request gets 503; then the exit is 0."""
    program = start({"tokens": 30, "tokens_per_second": 5})
    program.until_ready()
    lines: list[str] = []
    begun = threading.Event()

    def stream() -> None:
        with program.client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as answer:
            for line in answer.iter_lines():
                lines.append(line)
                begun.set()

    reader = threading.Thread(target=stream)
    reader.start()
    assert begun.wait(10)
    program.send(signal.SIGTERM)
    until(lambda: (program.health() or {}).get("state") == "draining", "draining")
    refused = program.client.post("/v1/chat/completions", json=CHAT)
    assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
    reader.join(20)
    assert lines[-2:] == ["data: [DONE]", ""]
    assert not any('"error"' in line for line in lines)
    assert program.wait() == 0


def test_hangup_drains(start: StartProgram, tmp_path: Path) -> None:
    """A terminal that closes, and says so more than once, lets a stream that runs come to its end."""
    program = start({"tokens": 30, "tokens_per_second": 5})
    program.until_ready()
    with program.client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as answer:
        lines = answer.iter_lines()
        next(lines)
        program.send(signal.SIGHUP)
        until(lambda: "stopping" in program.log(), "the notice of a stop")
        program.send(signal.SIGHUP)
        assert list(lines)[-2:] == ["data: [DONE]", ""]
    assert program.wait() == 0
    assert not list(tmp_path.glob("vllm-engine-*"))


def test_hangup_that_was_ignored_stays_so(start: StartProgram) -> None:
    """Under `nohup` it goes on."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        program = start()
    finally:
        signal.signal(signal.SIGHUP, before)
    program.until_ready()
    program.send(signal.SIGHUP)
    assert program.client.post("/v1/chat/completions", json=CHAT).status_code == 200
    assert (program.health() or {})["state"] == "ready"
    program.send(signal.SIGTERM)
    assert program.wait() == 0


@pytest.mark.parametrize(
    "variables", [{"DRAIN_TIMEOUT_SECONDS": "0.5"}, {}], ids=["timeout", "second signal"]
)
def test_drain_does_not_last(start: StartProgram, variables: dict[str, str]) -> None:
    """A request longer than the drain timeout, or a second signal, does not hold up the stop."""
    program = start({"tokens": 10_000, "tokens_per_second": 5}, **variables)
    program.until_ready()
    with program.client.stream(
        "POST", "/v1/chat/completions", json=CHAT | {"stream": True, "max_tokens": 10_000}
    ):
        began = time.monotonic()
        program.send(signal.SIGTERM)
        if not variables:
            until(lambda: "stopping" in program.log(), "the first signal's notice")
            program.send(signal.SIGTERM)
        assert program.wait() == 0
        assert time.monotonic() - began < 20


def test_an_answer_that_has_not_begun_when_the_drain_ends(start: StartProgram, tmp_path: Path) -> None:
    """It is a 503 to be asked again elsewhere, and the engine, which has the request, does not get it twice."""
    program = start(DRAIN_TIMEOUT_SECONDS="0.5")
    program.until_ready()
    # So that the next request's connection to the engine is one that was used before.
    assert program.client.post("/v1/chat/completions", json=CHAT).status_code == 200
    change_scenario(scenario_of(tmp_path / "engine/bin/python"), first_token_seconds=600)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(program.client.post, "/v1/chat/completions", json=CHAT)
        until(lambda: program.metric("vllm:num_requests_running") == 1, "the request at the engine")
        program.send(signal.SIGTERM)
        answer = asked.result()
    assert answer.status_code == 503
    assert "shutting down" in answer.text
    assert answer.headers["retry-after"]
    assert program.wait() == 0


def test_death_at_the_start(start: StartProgram) -> None:
    """An engine that cannot start ends the program with 3, its cause in one line, and its last lines."""
    cause = "ValueError: To serve at least one request, 3.0 GiB KV cache is needed"
    echo = "RuntimeError: Engine core initialization failed. See root cause above."
    program = start({"die_at_start": 1, "last_lines": ["Traceback (most recent call last):", cause, echo]})
    family = program.family()
    assert program.wait() == 3
    last = program.log().splitlines()[-1]
    assert last.startswith("vllm-engine: the engine exited with status 1 before it was ready: no known cause")
    assert f"its own last error: {cause}; " in last
    assert last.endswith(" [unknown]")
    assert f"engine's last lines | {cause}" in program.log()
    until(lambda: gone(family), "the end of every process")


def test_silent_death_at_the_start(start: StartProgram) -> None:
    """A death by signal without a word is said to be one."""
    program = start({"die_at_start": -9})
    assert program.wait() == 3
    last = program.log().splitlines()[-1]
    assert "the engine was killed by SIGKILL before it was ready: " in last
    assert last.endswith("[engine-killed]")


@pytest.mark.parametrize("exit_code", [0, 1])
def test_death_while_serving(start: StartProgram, exit_code: int) -> None:
    """An engine that ends by itself, even with status 0, and must not be restarted ends the program with 1."""
    scenario = {"exit_after_seconds": 1.0, "exit_code": exit_code, "last_lines": ["KeyError: 'x'"]}
    program = start(scenario, MAX_RESTARTS="0")
    program.until_ready()
    family = program.family()
    assert program.wait() == 1
    last = program.log().splitlines()[-1]
    assert last.startswith(f"vllm-engine: the engine exited with status {exit_code} while it was serving: ")
    assert "its own last error: KeyError: 'x'; " in last
    until(lambda: gone(family), "the end of every process")


def test_startup_timeout(start: StartProgram) -> None:
    """A start that takes too long ends with 3, names the setting, and leaves nothing behind."""
    program = start({"never_ready": True}, STARTUP_TIMEOUT_SECONDS="4")
    until(lambda: len(program.family()) > 1, "the engine's process")
    family = program.family()
    assert program.wait() == 3
    last = program.log().splitlines()[-1]
    assert "the engine was not ready in time: STARTUP_TIMEOUT_SECONDS=4 passed" in last
    assert "set STARTUP_TIMEOUT_SECONDS=8" in last
    until(lambda: gone(family), "the end of every process")


def test_killed_gateway_takes_the_engine_along(start: StartProgram) -> None:
    """If the gateway is killed outright, no engine is left behind to hold a GPU."""
    program = start()
    program.until_ready()
    family = program.family()
    program.send(signal.SIGKILL)
    program.wait()
    until(lambda: gone(family), "the end of every process")


def test_engine_has_no_tcp_port(start: StartProgram) -> None:
    """Engine and gateway talk over a Unix socket in a private folder."""
    program = start()
    program.until_ready()
    listening = [
        (connection.laddr.port, process.pid)
        for process in program.family()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening == [(program.port, program.pid)]


def test_gateway_is_small(start: StartProgram) -> None:
    """The gateway's memory stays under its budget of 90 MB after some requests."""
    program = start()
    program.until_ready()
    for _ in range(20):
        program.client.post("/v1/chat/completions", json=CHAT)
    assert psutil.Process(program.pid).memory_info().rss < 90e6


def test_engine_output_reaches_our_log(start: StartProgram) -> None:
    """The engine's lines appear with their source, whatever they hold."""
    program = start({"chatter": ["many", "long", "binary"]})
    program.until_ready(60)
    log = program.log()
    assert "INFO    engine: APIServer: " in log
    assert max(map(len, log.splitlines())) < 20_000


def test_ask(start: StartProgram) -> None:
    """`serve --ask` shows the start, asks one question and prints how to go on."""
    program = start({"startup_seconds": 1}, "--ask", "Well?")
    until(lambda: "until Ctrl-C" in program.log(), "the answer")
    log = program.log()
    for part in (
        "Starting ",
        "loading weights",
        "Q: Well?",
        "A: ",
        "First token after",
        "curl http://127.0.0.1",
    ):
        assert part in log, part
    assert "from openai import OpenAI" in log
    program.send(signal.SIGINT)
    assert program.wait() == 0


def test_a_first_question_that_fails_is_said(start: StartProgram) -> None:
    """It is an error in the log, and the server goes on."""
    program = start({"error_after_n_chunks": 2}, "--ask", "Well?")
    until(lambda: "the first question failed: " in program.log(), "the notice")
    assert " ERROR " in program.log()
    assert (program.health() or {})["state"] == "ready"


def test_json_logs_are_json(start: StartProgram) -> None:
    """With LOG_FORMAT=json every line of the log is one JSON object."""
    program = start(LOG_FORMAT="json")
    program.until_ready()
    records: list[dict[str, Any]] = [json.loads(line) for line in program.log().splitlines()]
    assert {record["source"] for record in records} >= {"engine", "gateway", "gateway.supervisor"}
