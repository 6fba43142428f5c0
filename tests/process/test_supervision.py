"""An engine that is lost is noticed, started again or taken from the standby, and no request without an answer is lost."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.process.conftest import StartProgram
from tests.support.fake.fake_engine import make_fake_engine_python, write_scenario
from tests.support.model import CHAT, make_model
from tests.support.program import TELLS_EXIT_STATUS, Program, plain_client, running, until, until_gone
from vllm_engine.system.private_folder import MARK

STANDBY_SECONDS = 90.0


@pytest.fixture(scope="module")
def shared_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A program that may lose any number of engines; its engine leaves an orphan behind, and nothing may queue."""
    folder = tmp_path_factory.mktemp("supervision")
    environ = {
        "ENGINE_PYTHON": str(make_fake_engine_python(folder / "engine")),
        "MODEL_ID": str(make_model(folder / "model")),
        "SERVED_MODEL_NAME": "fake",
        "MAX_RESTARTS": "1000",
        "RESTART_WINDOW_SECONDS": "1",
        "HANG_TIMEOUT_SECONDS": "5",
        "CANARY_INTERVAL_SECONDS": "0.5",
        "MAX_QUEUE": "0",
    }
    with running(environ, folder=folder) as program:
        yield program


@pytest.fixture
def program(shared_program: Program) -> Iterator[Program]:
    """That program, ready; afterwards its engine is a good one again."""
    write_scenario(shared_program.scenario, {"fork_orphan": True})
    shared_program.until_ready()
    yield shared_program
    write_scenario(shared_program.scenario, {})


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads to ask from."""
    with ThreadPoolExecutor() as made:
        yield made


def asked(pool: ThreadPoolExecutor, program: Program, *, stream: bool = False) -> Future[httpx2.Response]:
    """Ask on a connection of its own, and wait until the engine itself sees the request."""

    def ask() -> httpx2.Response:
        with plain_client(program.url) as client:
            return client.post("/v1/chat/completions", json=CHAT | {"stream": stream})

    future = pool.submit(ask)
    until(lambda: program.metric("vllm:num_requests_running") == 1, "the request at the engine")
    return future


def engine(program: Program) -> psutil.Process:
    """Return the leader of the engine that serves: the one with an engine core."""
    (leader,) = [child for child in psutil.Process(program.pid).children() if core_of(child)]
    return leader


def core_of(leader: psutil.Process) -> psutil.Process | None:
    """Return an engine's core, if it has one."""
    try:
        return next((child for child in leader.children() if "EngineCor" in child.name()), None)
    except psutil.NoSuchProcess:
        return None


def kill_leader(program: Program) -> None:
    engine(program).kill()


def kill_core(program: Program) -> None:
    core = core_of(engine(program))
    assert core
    core.kill()


def test_killed_core_is_told(program: Program) -> None:
    """Which process it was by its whole name, by which signal where the kernel tells, and no line a second time."""
    core = core_of(engine(program))
    assert core
    before = len(program.log())
    with program.loses_engine():
        core.kill()
    program.until_ready()
    end = "was killed by SIGKILL" if TELLS_EXIT_STATUS else "(was killed by SIGKILL|exited)"
    lost = rf"the engine was lost while it was serving \(VLLM::EngineCore \(process {core.pid}\) {end}\): "
    until(lambda: bool(re.search(lost, program.log()[before:])), "the log line, which a thread writes")
    assert "engine's last lines" not in program.log()[before:]


def test_restarts(program: Program) -> None:
    """However an engine is lost: noticed, started again, and it answers; no process, file or thread of ours stays."""
    gateway = psutil.Process(program.pid)
    until(lambda: gateway.num_threads() <= 4, "few threads")
    files, threads, starts = gateway.num_fds(), gateway.num_threads(), len(program.starts())
    for lose in (kill_core, kill_leader) * 2:
        old = program.processes()[1:]
        with program.loses_engine():
            lose(program)
        program.until_ready()
        until_gone(old)
        assert program.chat().status_code == 200
    assert len(program.starts()) == starts + 4
    until(lambda: gateway.num_fds() <= files + 1, "no more files")
    until(lambda: gateway.num_threads() <= threads + 1, "no more threads")


@pytest.mark.parametrize(("lose", "stream"), [(kill_leader, True), (kill_core, False)])
def test_unanswered_request_is_replayed(
    program: Program, pool: ThreadPoolExecutor, lose: Callable[[Program], None], stream: bool
) -> None:
    """A request without an answer outlives its engine: its client notices nothing but the wait.

    It had a place at the engine and keeps it, so the queue's size is of no account.
    """
    starts = len(program.starts())
    program.change(first_token_seconds=600)
    future = asked(pool, program, stream=stream)
    program.change(first_token_seconds=0)
    lose(program)
    answer = future.result()
    assert answer.status_code == 200
    assert answer.text.endswith("data: [DONE]\n\n") if stream else answer.json()["choices"]
    assert '"error"' not in answer.text
    assert len(program.starts()) == starts + 1


def test_stream_that_has_begun_ends_in_an_error(program: Program) -> None:
    """Half an answer cannot be begun anew: its stream says that it broke."""
    program.change(crash_after_n_chunks=3)
    with program.loses_engine():
        answer = program.chat(stream=True)
    last = answer.text.rstrip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "upstream_error"
    assert "[DONE]" not in answer.text


def test_request_that_kills_the_engine_twice(program: Program) -> None:
    """It is told so and not sent a third time."""
    starts = len(program.starts())
    program.change(crash_after_n_chunks=2)
    answer = program.chat()
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "engine_crash")
    until(lambda: len(program.starts()) == starts + 2, "the second restart")
    program.change(crash_after_n_chunks=None)
    program.until_ready()
    assert program.chat().status_code == 200


def test_hang(program: Program) -> None:
    """An engine that generates no more although its /health says 200 is killed and started again."""
    starts = len(program.starts())
    program.change(generation_hangs=True)
    with program.loses_engine():
        pass
    program.change(generation_hangs=False)
    program.until_ready()
    assert len(program.starts()) > starts
    assert program.chat().status_code == 200


KV_TOO_SMALL = (
    "ValueError: To serve at least one request with the model's max seq len (2048), (0.18 GiB KV cache is needed, "
    "which is larger than the available KV cache memory (0.03 GiB). Based on the available memory, the estimated "
    "maximum model length is 1280. Try increasing `gpu_memory_utilization` or decreasing `max_model_len`."
)


def test_auto_fit(start: StartProgram) -> None:
    """With AUTO_FIT=1 a start that lacks memory is tried once with the length that fits, and says so."""
    program = start({"die_at_start": 1, "dies_times": 1, "last_lines": [KV_TOO_SMALL]}, AUTO_FIT="1")
    program.until_logged("MAX_MODEL_LEN=1280")
    command = program.engine_command()
    assert command[command.index("--max-model-len") + 1] == "1280"


def standby(program: Program, number: int = 1) -> psutil.Process:
    """Wait until the so-many-th standby is ready; returns it."""
    until(lambda: program.log().count("a standby is ready") == number, "a standby", STANDBY_SECONDS)
    serving = engine(program).pid
    (one,) = [child for child in psutil.Process(program.pid).children() if child.pid != serving]
    return one


def test_standby_is_the_next_engine(start: StartProgram) -> None:
    """The standby is the next engine; one that fails as an engine is no verdict; SIGTERM leaves nobody."""
    program = start(STANDBY="1")
    assert "--standby" in engine(program).cmdline(), "it began to import before the start was prepared"
    assert program.metric("gateway_standby_ready") == 0
    first = standby(program)
    assert program.metric("gateway_standby_ready") == 1
    assert program.metric("gateway_standby_bytes") > 1e6
    with program.loses_engine():
        kill_leader(program)
    program.until_ready()
    assert engine(program).pid == first.pid == program.starts()[-1]
    program.until_logged("from the standby")
    second = standby(program, 2)
    program.change(
        die_at_start=1, dies_times=len(program.starts()) + 1, last_lines=("ValueError: no such thing",)
    )
    with program.loses_engine():
        kill_leader(program)
    program.until_ready()
    assert engine(program).pid != second.pid
    failed = "the standby failed to become the engine: starting a new process"
    until(lambda: failed in program.log(), "the log line, which a thread writes")
    everybody = program.processes()
    program.send(signal.SIGTERM)
    assert program.wait() == 0
    until_gone(everybody)


def test_temporary_files(start: StartProgram, tmp_path: Path) -> None:
    """The engine's are in a folder of ours: what a killed server has left goes at the start, all the rest at the end."""
    root = tmp_path / "t"
    left = root / "vllm-engine-killed00"
    left.mkdir(parents=True)
    (left / MARK).touch()
    program = start(TMPDIR=str(root), STANDBY="0")
    assert not left.exists()
    (ours,) = root.iterdir()
    for _ in range(2):
        assert psutil.Process(program.engine_pid()).environ()["TMPDIR"] == str(ours / "tmp")
        (file,) = (ours / "tmp").iterdir()
        assert file.name.startswith("vllm_dist_"), "one: that of the engine before was removed"
        with program.loses_engine():
            kill_leader(program)
        program.until_ready()
    sockets = Path(psutil.Process(program.engine_pid()).environ()["VLLM_RPC_BASE_PATH"])
    program.send(signal.SIGTERM)
    assert program.wait() == 0
    assert (list(root.iterdir()), sockets.exists()) == ([], False)


def test_lost_for_good(launch: StartProgram) -> None:
    """With MAX_RESTARTS=0 the first loss ends the program with 1, whatever the engine's own status was."""
    scenario = {"exit_after_seconds": 1.0, "exit_code": 0, "last_lines": ["KeyError: 'x'"]}
    program = launch(scenario, MAX_RESTARTS="0")
    until(lambda: len(program.processes()) > 2, "the engine's processes")
    everybody = program.processes()
    assert program.wait() == 1
    last = program.log().splitlines()[-1]
    assert last.startswith("vllm-engine: the engine exited with status 0 while it was serving: ")
    assert "KeyError: 'x'" in last
    until_gone(everybody)
