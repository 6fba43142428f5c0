"""Both frontends on one engine: READY needs both, the loss of either ends the engine, and a fallback is told."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.support.fake.fake_engine import make_fake_engine_python, write_scenario
from tests.support.model import CHAT, make_model
from tests.support.program import (
    Program,
    metric_in,
    plain_client,
    run_cli,
    running,
    until,
    until_gone,
)
from tests.support.raw_http import request, wire
from vllm_engine.plan.engine_command import LAUNCHER

MARK = "x-fake-frontend"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A program whose engine can serve with both; it may lose any number of engines."""
    folder = tmp_path_factory.mktemp("both")
    environ = {
        "ENGINE_PYTHON": str(make_fake_engine_python(folder / "engine", rust_version="0.32.0")),
        "MODEL_ID": str(make_model(folder / "model")),
        "SERVED_MODEL_NAME": "fake",
        "MAX_RESTARTS": "1000",
        "RESTART_WINDOW_SECONDS": "1",
        "HANG_TIMEOUT_SECONDS": "5",
    }
    with running(environ, folder=folder) as started:
        yield started


def test_dry_run(tmp_path: Path) -> None:
    """The command that is printed has sockets of its own whenever it is pasted, and why both run is said."""
    python = make_fake_engine_python(tmp_path / "engine", rust_version="0.32.0")
    environ = {"ENGINE_PYTHON": str(python), "MODEL_ID": str(make_model(tmp_path / "model"))}
    done = run_cli(environ, "serve", "--dry-run", cwd=tmp_path)
    assert "# ENGINE_FRONTEND=both: auto: on CPU, with the Rust frontend of this vLLM\n" in done.stdout
    assert f'{LAUNCHER} both "$(mktemp -d)/rust.sock" serve ' in done.stdout


def rust_of(program: Program) -> psutil.Process:
    """Return the Rust frontend's process."""
    (rust,) = [child for child in program.processes() if child.name() == "vllm-rs"]
    return rust


def frontend_of(socket: Path) -> str | None:
    """Ask who answers on an engine's socket."""
    with wire(socket) as connection:
        return connection.ask(request("GET", "/health", None, "Connection: close")).header(MARK)


def test_both_run(program: Program) -> None:
    """Each on its own socket, and the plan and /version say so."""
    program.until_ready()
    python = program.engine_socket()
    assert [frontend_of(socket) for socket in (python, python.with_name("rust.sock"))] == [None, "rust"]
    assert program.client.get("/version").json()["frontend"] == "both"
    program.until_logged("ENGINE_FRONTEND=both: auto: on CPU")


def leader_of(program: Program) -> psutil.Process:
    """Return the engine's first process, which is the Python frontend."""
    return psutil.Process(program.engine_pid())


def core_of(program: Program) -> psutil.Process:
    """Return the engine core."""
    return next(child for child in program.processes() if "EngineCor" in child.name())


PROMPT = {"model": "fake", "prompt": "Hello", "max_tokens": 4}
FOR_EITHER = (("/v1/chat/completions", CHAT), ("/v1/completions", PROMPT | {"n": 2}))
"""What the Rust frontend serves, and what it does not: n is told by the body, before anything is sent."""


def ask(program: Program, path: str, body: dict[str, Any]) -> httpx2.Response:
    """Ask on a connection of its own."""
    with plain_client(program.url) as client:
        return client.post(path, json=body)


STOPPED = r"\(a signal has stopped one of its processes for 5 s\)"


@pytest.mark.parametrize(
    ("whom", "number", "told"),
    [
        (rust_of, signal.SIGKILL, r"he Rust frontend \(process %d\)|RustFrontend \(PID: %d\)"),
        (leader_of, signal.SIGKILL, "the engine was killed by SIGKILL while it was serving"),
        (core_of, signal.SIGKILL, "the engine"),  # or its first process, which ends at once then
        (rust_of, signal.SIGSTOP, STOPPED),
        (leader_of, signal.SIGSTOP, STOPPED),
    ],
)
def test_either_frontend_or_the_core_is_lost(
    program: Program, whom: Callable[[Program], psutil.Process], number: signal.Signals, told: str
) -> None:
    """vLLM can start neither again alone, so all of the engine is: which it was is told, and nothing of it stays.

    No request without an answer is lost, whoever had it; a stream that has begun ends in an error event.
    """
    program.until_ready()
    old, before = program.processes()[1:], len(program.log())
    program.change(tokens_per_second=2.0, tokens=1000)
    with plain_client(program.url) as client, ThreadPoolExecutor() as pool, ExitStack() as stack:
        streams = [
            stack.enter_context(client.stream("POST", path, json=body | {"stream": True, "max_tokens": 1000}))
            for path, body in FOR_EITHER
        ]
        begun = [one.iter_lines() for one in streams]
        assert all(next(lines).startswith("data: {") for lines in begun)
        assert [one.headers.get(MARK) for one in streams] == ["rust", None]
        program.change(first_token_seconds=600)
        waiting = [pool.submit(ask, program, *one) for one in FOR_EITHER]
        # n=2 counts twice.
        until(lambda: program.metric("gateway_in_flight") == 6, "four requests at the engine")
        program.change(first_token_seconds=0)
        with program.loses_engine():
            victim = whom(program)
            victim.send_signal(number)
        program.change(tokens_per_second=0)
        for lines in begun:
            # With its core gone the Python frontend says so itself, and [DONE] after it.
            *_, last = (line for line in lines if line.startswith("data: {"))
            assert json.loads(last.removeprefix("data: "))["error"]
        answers = [one.result() for one in waiting]
    assert [(one.status_code, one.headers.get(MARK)) for one in answers] == [(200, "rust"), (200, None)]
    assert all(one.json()["choices"] for one in answers)
    until_gone(old)
    expected = re.compile(told.replace("%d", str(victim.pid)))
    until(lambda: expected.search(program.log()[before:]), f"{expected} in the log")


def test_a_client_that_leaves(program: Program) -> None:
    """Either frontend stops generating for it, and is told the request id that the client gave."""
    program.until_ready()
    program.change(tokens_per_second=2.0, tokens=1000)
    aborted = program.metric("fake:aborted_total")
    with plain_client(program.url) as client:
        for path, body in FOR_EITHER:
            more = {"stream": True, "max_tokens": 1000}
            named = {"X-Request-Id": "mine"}
            with client.stream("POST", path, json=body | more, headers=named) as answer:
                assert answer.headers["x-request-id"] == "mine"
                assert next(answer.iter_lines())
    until(lambda: program.metric("fake:aborted_total") == aborted + 2, "the end of both at the engine")
    program.change(tokens_per_second=0.0)


def test_one_text_of_both_metrics(program: Program) -> None:
    """Counters of both add up, gauges are of who runs, and where one frontend does not answer there are none of either."""
    program.until_ready()
    for path, body in FOR_EITHER:
        assert ask(program, path, body).status_code == 200
    python = program.engine_socket()
    texts = []
    for socket in (python, python.with_name("rust.sock")):
        with wire(socket) as connection:
            texts.append(connection.ask(request("GET", "/metrics", None, "Connection: close")).body.decode())
    counted = [metric_in(text, "vllm:generation_tokens_total") for text in texts]
    assert program.metric("vllm:generation_tokens_total") == sum(counted)
    assert all(counted)
    assert program.metric("vllm:num_requests_running") == 0
    python.with_name("rust.sock").rename(python.with_name("hidden.sock"))
    try:
        with program.loses_engine():
            text = program.client.get("/metrics").text
        assert "vllm:" not in text
        assert metric_in(text, "gateway_engine_up") == 0
    finally:
        program.until_ready()


def test_without_the_rust_frontend(program: Program) -> None:
    """The launcher falls back: the Python frontend alone serves, and why is in the log."""
    program.until_ready()
    write_scenario(program.scenario, {"not_both": "vllm-rs has a fault"})
    with program.loses_engine():
        psutil.Process(program.engine_pid()).kill()
    program.until_ready()
    write_scenario(program.scenario, {})
    program.until_logged("the Python frontend serves alone: vllm-rs has a fault")
    until(lambda: program.client.get("/version").json()["frontend"] == "python", "python in /version")
    assert "vllm-rs" not in [process.name() for process in program.processes()]
