"""From start to stop: what the gateway says meanwhile, how it ends, and that nothing stays behind."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.process.conftest import StartProgram
from tests.support.model import CHAT, STREAM
from tests.support.program import free_port, plain_client, running, until, until_gone
from tests.support.raw_http import request, wire


def test_while_the_engine_loads(launch: StartProgram) -> None:
    """/livez is 200 and everything else says 503, why, and when to ask again; a signal ends both at once."""
    program = launch({"startup_seconds": 600})
    program.until_listening()
    until(lambda: (program.health() or {}).get("phase") == "importing", "the engine's start")
    assert program.client.get("/livez").json() == {"status": "alive"}
    answer = program.client.get("/healthz")
    body = answer.json()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert (body["state"], body["status"]) == ("starting", "unavailable")
    assert body["elapsed_seconds"] >= 0
    unknown = {body[key] for key in ("fraction", "estimate_seconds", "remaining_seconds", "download")}
    assert unknown == {None}, "nothing is claimed where nothing is known"
    assert program.client.get("/ui/state").json()["health"].keys() == body.keys()
    refused = program.chat()
    error = refused.json()["error"]
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert (error["type"], error["code"], error["param"]) == ("unavailable_error", 503, None)
    assert error["message"].startswith("Loading model (importing")
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        refused = program.client.post(path, json=CHAT)
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "overloaded_error")
    with wire(program.port) as connection:  # nobody need send a body to be told so
        announced = request("POST", "/v1/chat/completions", None, "Content-Length: 1000")
        assert connection.ask(announced).status == 503
    everybody = program.processes()
    assert len(everybody) > 1
    program.send(signal.SIGINT)
    assert program.wait() == 0
    until_gone(everybody)


def test_a_ready_program(start: StartProgram, tmp_path: Path) -> None:
    """It says what runs, is small, has one port, logs the engine's wildest lines; killed, it takes the engine along."""
    multiprocess = tmp_path / "multiprocess"
    multiprocess.mkdir()
    program = start(
        {"chatter": ["many", "long", "binary"]},
        BUILD_SHA="abc",
        BUILD_TIME="now",
        MODEL_REVISION="r1",
        DTYPE="float16",
        OVERRIDE_GENERATION_CONFIG='{"temperature": 0.25, "top_k": 20}',
        PROMETHEUS_MULTIPROC_DIR=str(multiprocess),
    )
    body = program.client.get("/version").json()
    told = {
        "build_sha": "abc",
        "build_time": "now",
        "vllm": "0.32.0",
        "model_revision": "r1",
        "dtype": "float16",
        "input_modalities": ["text"],
        "sampling_defaults": {"temperature": 0.25, "top_k": 20},
    }
    assert told.items() <= body.items()
    assert body["model"].endswith("/model")
    assert {"version", "python", "engine_python", "device", "frontend"} <= set(body)
    everybody = program.processes()
    listening = [
        (connection.laddr.port, process.pid)
        for process in everybody
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening == [(program.port, program.pid)]
    for _ in range(20):
        assert program.chat().status_code == 200
    assert psutil.Process(program.pid).memory_info().rss < 90e6
    assert list(multiprocess.iterdir()) == [], "they are the engine's"
    log = program.log()
    assert "INFO    engine: APIServer: " in log
    assert max(map(len, log.splitlines())) < 20_000
    program.send(signal.SIGKILL)
    program.wait()
    until_gone(everybody)


def test_stop_of_an_engine_that_ignores_it(start: StartProgram) -> None:
    """An engine that does not listen, and a worker that hides, are killed."""
    program = start({"ignore_sigterm": True, "fork_orphan": True}, DRAIN_TIMEOUT_SECONDS="1")
    everybody = program.processes()
    assert len(everybody) >= 4
    program.send(signal.SIGTERM)
    assert program.wait() == 0
    until_gone(everybody)


def test_clean_stop(start: StartProgram, tmp_path: Path) -> None:
    """What vLLM says of itself while it is stopped is no error of anybody's, and no failure is on record."""
    words = tmp_path / "termination-log"
    words.touch()
    program = start({"complain_at_stop": True}, TERMINATION_LOG=str(words))
    program.send(signal.SIGTERM)
    assert program.wait() == 0
    program.until_logged("output_handler failed")
    assert " ERROR " not in program.log()
    assert words.read_text() == ""
    assert not list(tmp_path.glob("vllm-engine-*"))


@contextmanager
def hangup(handler: signal.Handlers) -> Iterator[None]:
    """Have what is started inherit this for SIGHUP."""
    before = signal.signal(signal.SIGHUP, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_drain(start: StartProgram, number: signal.Signals) -> None:
    """A stream that runs is completed, a new request gets 503, probes say so on both ports; then the exit is 0.

    A terminal that closes may say so more than once.
    """
    port = free_port()
    with hangup(signal.SIG_DFL):  # whatever runs the tests may itself ignore it
        program = start({"tokens": 40, "tokens_per_second": 10}, HEALTH_PORT=str(port))
    with plain_client(f"http://127.0.0.1:{port}") as health:
        with program.client.stream("POST", "/v1/chat/completions", json=STREAM) as answer:
            lines = answer.iter_lines()
            next(lines)
            program.send(number)
            until(lambda: (program.health() or {}).get("state") == "draining", "draining")
            if number == signal.SIGHUP:
                program.send(number)
            assert health.get("/livez").status_code == 200
            assert (health.get("/healthz").status_code, health.get("/healthz").json()["state"]) == (
                503,
                "draining",
            )
            refused = program.chat()
            assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
            rest = list(lines)
        assert rest[-2:] == ["data: [DONE]", ""]
        assert not any('"error"' in line for line in rest)
        assert program.wait() == 0
        with pytest.raises(httpx2.TransportError):
            health.get("/livez")


def test_hangup_that_was_ignored_stays_so(start: StartProgram) -> None:
    """Under `nohup` it goes on."""
    with hangup(signal.SIG_IGN):
        program = start()
    program.send(signal.SIGHUP)
    assert program.chat().status_code == 200
    assert (program.health() or {})["state"] == "ready"


@pytest.mark.parametrize("timeout", ["0.5", "600"], ids=["timeout", "second signal"])
def test_drain_does_not_last(start: StartProgram, timeout: str) -> None:
    """A request longer than the drain timeout, or a second signal, does not hold up the stop."""
    program = start({"tokens": 10_000, "tokens_per_second": 5}, DRAIN_TIMEOUT_SECONDS=timeout)
    with program.client.stream("POST", "/v1/chat/completions", json=STREAM | {"max_tokens": 8000}):
        program.send(signal.SIGTERM)
        if timeout == "600":
            program.until_logged("stopping")
            program.send(signal.SIGTERM)
        assert program.wait() == 0


CAUSE = "ValueError: To serve at least one request, 3.0 GiB KV cache is needed"
ECHO = "RuntimeError: Engine core initialization failed. See root cause above."


def test_failed_start(launch: StartProgram, tmp_path: Path) -> None:
    """It ends the program with 3 and its cause in one line, told everywhere, and leaves nothing behind."""
    words = tmp_path / "termination-log"
    words.touch()
    scenario = {"die_at_start": 1, "last_lines": ["Traceback (most recent call last):", CAUSE, ECHO]}
    program = launch(scenario, TERMINATION_LOG=str(words))
    everybody = program.processes()
    assert program.wait() == 3
    last = program.log().splitlines()[-1]
    assert last.startswith("vllm-engine: the engine exited with status 1 before it was ready: no known cause")
    assert f"its own last error: {CAUSE}; " in last
    assert last.endswith("[unknown]")
    program.until_logged(f"engine's last lines | {CAUSE}")
    assert words.read_text() == last.removeprefix("vllm-engine: ")
    until_gone(everybody)


def test_a_value_that_vllm_refuses(launch: StartProgram) -> None:
    """What only vLLM's own configuration can check is a bad setting all the same, and its status is 2."""
    error = "pydantic_core._pydantic_core.ValidationError: 1 validation error for SchedulerConfig"
    reason = "max_num_batched_tokens (100) must be greater than or equal to max_num_seqs (500)."
    detail = f"  Value error, {reason} [type=value_error, input_value=ArgsKwargs(()), input_type=ArgsKwargs]"
    program = launch({"die_at_start": 1, "last_lines": [error, detail]}, MAX_NUM_SEQS="500")
    assert program.wait() == 2
    last = program.log().splitlines()[-1]
    assert (
        f'vLLM does not accept MAX_NUM_SEQS="500" ({reason}); correct MAX_NUM_SEQS [bad-flag-value]' in last
    )


def test_hold(launch: StartProgram) -> None:
    """With ON_FATAL=hold the gateway stays, not ready, says why, and ends with 0 when told to stop."""
    program = launch({"die_at_start": 1, "last_lines": ["ValueError: no such thing"]}, ON_FATAL="hold")
    until(lambda: (program.health() or {}).get("state") == "failed", "the failure")
    health = program.health() or {}
    assert "no such thing" in json.dumps(health["error"])
    assert program.client.get("/livez").status_code == 200
    for answer in (program.client.get("/healthz"), program.chat()):
        assert (answer.status_code, "retry-after" in answer.headers) == (503, False)
    program.send(signal.SIGTERM)
    assert program.wait() == 0


def test_second_start_knows_its_time(launch: StartProgram, tmp_path: Path) -> None:
    """The record of a start is the next one's estimate; a damaged record is one warning, no more."""
    starts = tmp_path / "cache/starts.json"
    starts.parent.mkdir()
    starts.write_text("{")
    program = launch()
    program.until_ready()
    program.until_logged("starts.json")
    until(lambda: starts.read_text() != "{", "the record of the start")
    program.close()
    kept = json.loads(starts.read_text())
    [(key, phases)] = kept["starts"].items()
    starts.write_text(json.dumps(kept | {"starts": {key: phases | {"warming up": 100.0}}}))
    program.change(startup_seconds=600)
    environ = {"ENGINE_PYTHON": str(tmp_path / "engine/bin/python"), "MODEL_ID": str(tmp_path / "model")}
    with running(environ | {"SERVED_MODEL_NAME": "fake"}, folder=tmp_path) as again:
        until(lambda: (again.health() or {}).get("estimate_seconds"), "an estimate")
        body = again.health() or {}
    assert body["estimate_seconds"] >= 100
    assert 0 <= body["fraction"] < 0.5
    assert body["remaining_seconds"] > 50
