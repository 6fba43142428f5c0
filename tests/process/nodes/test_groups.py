"""Two nodes with fake engines: they wait for each other, start together, and come back together whoever is lost."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.fake.fake_engine import make_fake_engine_python
from tests.support.model import CHAT, make_model
from tests.support.program import Program, free_pair, plain_client, run_cli, running, until, until_gone


class Group:
    """The programs of two nodes on this machine; either can be started again."""

    def __init__(self, folder: Path, programs: ExitStack) -> None:
        self._folder, self._programs = folder, programs
        self._port = free_pair()
        self._model = make_model(folder / "model")

    def environ(self, rank: int) -> dict[str, str]:
        """Return the variables of a node, the same but for its rank, its cache and its engine."""
        folder = self._folder / f"node{rank}"
        python = folder / "engine/bin/python"
        if not python.exists():
            folder.mkdir(exist_ok=True)
            make_fake_engine_python(folder / "engine", {"tokens_per_second": 0})
        return {
            "ENGINE_PYTHON": str(python), "MODEL_ID": str(self._model), "SERVED_MODEL_NAME": "fake",
            "TENSOR_PARALLEL": "2", "NODES": "2", "NODE_RANK": str(rank), "HEAD_ADDRESS": "127.0.0.1",
            "HEAD_PORT": str(self._port), "HANG_TIMEOUT_SECONDS": "8", "MAX_RESTARTS": "100",
            "CACHE_DIR": str(folder / "cache"), "RESTART_WINDOW_SECONDS": "1",
            "CANARY_INTERVAL_SECONDS": "0",  # half of 8 s may be too short for a token on a busy machine
        }  # fmt: skip

    def start(self, rank: int, *, is_drop_in: bool = False, **variables: str) -> Program:
        """Start the program of a node, perhaps by vLLM's own command; it is not waited for."""
        environ = self.environ(rank) | variables
        words = ["worker" if rank else "serve"]
        if is_drop_in:
            words = ["vllm", "serve", environ.pop("MODEL_ID"), *self._flags(environ)]
        program = running(
            environ,
            folder=self._folder / f"node{rank}",
            command=lambda _: (sys.executable, "-m", "vllm_engine.cli", *words),
        )
        return self._programs.enter_context(program)

    def _flags(self, environ: dict[str, str]) -> list[str]:
        rank = environ.pop("NODE_RANK")
        flags = {
            "--tensor-parallel-size": "TENSOR_PARALLEL", "--nnodes": "NODES",
            "--master-addr": "HEAD_ADDRESS", "--master-port": "HEAD_PORT",
        }  # fmt: skip
        given = [word for flag, key in flags.items() for word in (flag, environ.pop(key))]
        return [*given, "--node-rank", rank, *["--headless"] * (rank != "0")]


@contextmanager
def group(folder: Path) -> Iterator[Group]:
    with ExitStack() as programs:
        yield Group(folder, programs)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Program, Program]]:
    """A head and a worker, which may be lost any number of times."""
    with group(tmp_path_factory.mktemp("nodes")) as made:
        worker = made.start(1)
        yield made.start(0), worker


@pytest.fixture
def ready(nodes: tuple[Program, Program]) -> tuple[Program, Program]:
    """Both, while they serve."""
    for node in nodes:
        node.until_ready()
    return nodes


@contextmanager
def asked(head: Program) -> Iterator[list[int]]:
    """Ask while the block runs; the status of each answer is there after it."""
    statuses: list[int] = []

    def ask() -> int:
        with plain_client(head.url) as client:
            return client.post("/v1/chat/completions", json=CHAT).status_code

    with ThreadPoolExecutor() as pool:
        futures = []
        yield statuses
        futures += [pool.submit(ask) for _ in range(4)]
        statuses += [future.result() for future in futures]


def test_a_worker_has_a_rank(tmp_path: Path) -> None:
    done = run_cli({}, "worker", cwd=tmp_path)
    assert done.returncode == 2
    assert "NODE_RANK is not set: a worker is a node of rank 1 or more; set NODES" in done.stderr


def test_start(tmp_path: Path) -> None:
    """Whoever is first waits for the other, and says so; a node with other settings is told what differs."""
    with group(tmp_path) as made:
        worker = made.start(1)
        worker.until_listening()
        until(lambda: (worker.health() or {})["waits_for"], "waiting for the head")
        health = worker.client.get("/healthz")
        assert health.status_code == 503
        assert health.json()["waits_for"].startswith("the head 127.0.0.1:")
        assert (health.json()["node"], worker.starts()) == ("rank 1 of 2", [])
        head = made.start(0, DTYPE="float32")
        until(lambda: "DTYPE is" in str((worker.health() or {})["waits_for"]), "a refusal")
        until(lambda: "node 1 (DTYPE is auto on node 1 and float32 on the head" in str((head.health() or {})["waits_for"]),
              "the same at the head")  # fmt: skip
        answer = head.chat()
        assert (answer.status_code, head.starts()) == (503, [])
        assert "Waiting for node 1 (DTYPE is auto" in answer.json()["error"]["message"]


def test_what_a_worker_answers(ready: tuple[Program, Program]) -> None:
    """Probes, its version and its own metrics; everything else is the head's."""
    head, worker = ready
    assert head.chat().status_code == 200
    for path in ("/livez", "/healthz", "/version", "/metrics"):
        assert worker.client.get(path).status_code == 200
    assert "vllm:" not in worker.client.get("/metrics").text
    for path in ("/v1/models", "/", "/ui"):
        answer = worker.client.get(path)
        assert answer.status_code == 404
    assert "a worker; the API is on the head, 127.0.0.1" in answer.json()["error"]["message"]
    assert worker.chat().status_code == 404
    assert "--headless" in worker.engine_command()
    assert (head.health() or {})["node"] == "rank 0 of 2"


@pytest.mark.parametrize("who", ["the worker's vLLM", "a process of the worker's vLLM", "the head's vLLM"])
def test_a_lost_engine(ready: tuple[Program, Program], who: str) -> None:
    """Whichever part is killed, without any request: all of it starts anew, and requests wait."""
    head, worker = ready
    before = len(head.starts()), len(worker.starts())
    with head.loses_engine(), asked(head) as statuses:
        leader = head.engine_pid() if who == "the head's vLLM" else worker.engine_pid()
        lost = psutil.Process(leader).children()[0] if who.startswith("a process") else psutil.Process(leader)
        lost.send_signal(signal.SIGKILL)
    assert statuses == [200] * 4
    # The played head needs no worker: it may have answered before the loss was seen.
    until(lambda: len(head.starts()) > before[0], "the head's next start")
    until(lambda: len(worker.starts()) > before[1], "the worker's next start")
    if who != "the head's vLLM":
        head.until_logged("node 1 (127.0.0.1): ")
    worker.until_ready()


def test_a_worker_that_is_silent(ready: tuple[Program, Program]) -> None:
    """As behind a link that was cut: noticed by both within HANG_TIMEOUT_SECONDS, without a request."""
    head, worker = ready
    with head.loses_engine():
        worker.send(signal.SIGSTOP)
    head.until_logged("node 1 (127.0.0.1) was lost: nothing came from it for 6 s")
    until(lambda: (head.health() or {})["waits_for"] == "node 1 (not connected)", "the head waits for it")
    with asked(head) as statuses:
        worker.send(signal.SIGCONT)
    assert statuses == [200] * 4


def test_programs_that_are_lost(tmp_path: Path) -> None:
    """A node's container may be killed and come back: the other waits for it, with no restart counted."""
    once = {"MAX_RESTARTS": "1", "RESTART_WINDOW_SECONDS": "600"}
    with group(tmp_path) as made:
        head, worker = made.start(0, is_drop_in=True, **once), made.start(1, is_drop_in=True)
        head.until_ready()
        engines = [psutil.Process(worker.engine_pid())]
        with head.loses_engine():
            worker.send(signal.SIGKILL)
        until_gone(engines)
        with asked(head) as statuses:
            worker = made.start(1, is_drop_in=True)
        assert statuses == [200] * 4
        worker.until_ready()
        engines = [psutil.Process(head.engine_pid()), psutil.Process(worker.engine_pid())]
        head.send(signal.SIGKILL)
        until_gone(engines)
        until(lambda: (worker.health() or {})["waits_for"], "waiting for the head")
        head = made.start(0, is_drop_in=True)
        head.until_ready()
        worker.until_ready()
        assert head.chat().status_code == 200
        # A worker that is told to stop goes on while the head may need it.
        worker.send(signal.SIGTERM)
        until(lambda: (worker.health() or {})["state"] == "draining", "the drain")
        assert head.chat().status_code == 200
        head.send(signal.SIGTERM)
        assert (head.wait(), worker.wait()) == (0, 0)
