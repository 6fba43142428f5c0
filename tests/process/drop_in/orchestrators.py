"""What orchestrators run and ask of vLLM's image (docs/deploy/drop-in.md), and a start of it here.

`vllm` and `python3 -m vllm.entrypoints.openai.api_server` are the image's stand-ins; the rest is the program.
"""

from __future__ import annotations

import os
import shlex
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil

from tests.support.certificates import Certificate
from tests.support.model import CHAT
from tests.support.program import DEADLINE, Program, running

ROOT = Path(__file__).parents[3]
KEY = "token-abc123"


@dataclass(frozen=True)
class Orchestrator:
    """What a system runs and asks; `{model}`, `{port}`, `{folder}` and `{key}` stand for the test's own."""

    command: str
    name: str = "served"
    variables: dict[str, str] = field(default_factory=dict)
    liveness: str = "/health"
    readiness: str = "/health"
    has_key: bool = False
    has_tls: bool = False
    says: tuple[str, ...] = ()
    """Lines of its log."""


KSERVE = {"HOME": "{folder}/home", "HF_HUB_CACHE": "{folder}/models", "VLLM_LOGGING_LEVEL": "INFO"}
TLS = "--enable-ssl-refresh --ssl-certfile {folder}/server.pem --ssl-keyfile {folder}/server.key"
SYSTEMS = {
    "arguments of the image": Orchestrator(
        "vllm serve --model {model} --port {port} --served-model-name served -tp 1 --api-key {key}",
        has_key=True,
        says=("the API key is on the command line",),
    ),
    "production-stack": Orchestrator(
        "vllm serve {model} --host 0.0.0.0 --port {port} --no-enable-prefix-caching --max-model-len 2048 "
        "--dtype bfloat16 --tensor-parallel-size 1 --max-num-seqs 32 --gpu_memory_utilization 0.3 --kv-cache-memory-bytes 1G",
        name="{model}",
        variables={"HF_HOME": "{folder}/data", "PROMETHEUS_MULTIPROC_DIR": "/tmp", "VLLM_API_KEY": KEY, "POD_IP": "1.2.3.4"},
        has_key=True,
        says=("VLLM_API_KEY is read as API_KEYS",),
    ),
    "KServe LLMInferenceService": Orchestrator(
        f"""/bin/bash -c 'ACCESS_LOG_ARGS="--disable-access-log-for-endpoints /health,/metrics,/ping"; eval "exec vllm serve {{model}} \\
              --served-model-name "served" "publishers/ns/models/served" \\
              --port {{port}} ${{{{ACCESS_LOG_ARGS}}}} --shutdown-timeout 40 {TLS} ${{{{VLLM_ADDITIONAL_ARGS}}}} $@"' --""",
        variables=KSERVE,
        has_tls=True,
        says=("have 40 s to end",),
    ),
    "KServe LLMInferenceService over several nodes": Orchestrator(
        """/bin/bash -c 'eval "vllm serve \\
              {model} \\
              --served-model-name "served" \\
              --port {port} --pipeline-parallel-size 1 --nnodes 1 --node-rank ${{LWS_WORKER_INDEX:-0}} \\
              --master-addr 127.0.0.1 --master-port 29500 --tensor-parallel-size 1 --disable-uvicorn-access-log \\
              ${{VLLM_ADDITIONAL_ARGS}} $@"' -- --max-model-len 2048""",
        variables={**KSERVE, "VLLM_ADDITIONAL_ARGS": "--max-num-seqs 16"},
    ),
    "KServe InferenceService": Orchestrator(
        "python -m vllm.entrypoints.openai.api_server --port={port} --served-model-name=served --model={model}",
        variables={"HF_HOME": "{folder}/home", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"},
        readiness="/v1/models",
    ),
    "llm-d": Orchestrator(
        '/bin/sh -c "exec vllm serve {model} --port {port} --served-model-name served --shutdown-timeout 45"',
        readiness="/v1/models",
        says=("have 45 s to end",),
    ),
    "AIBrix": Orchestrator(
        "python3 -m vllm.entrypoints.openai.api_server --host 0.0.0.0 --port {port} --uvicorn-log-level warning "
        "--model {model} --served-model-name served --max-model-len 1024"
    ),
    "SkyServe": Orchestrator("vllm serve {model} --host 0.0.0.0 --port {port}", name="{model}", readiness="/v1/models"),
}  # fmt: skip


_RUN = f"import runpy, sys; del sys.argv[:2]; sys.path.insert(0, '{ROOT}/docker/stand_in')"
PYTHON = f"{sys.executable} -c \"{_RUN}; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\""
"""The system's Python of the image, as far as it is asked to run a module; the engine's must not see what it sees."""


class Prober:
    """Asks a probe's path again and again, and counts the statuses."""

    def __init__(self, program: Program, path: str) -> None:
        self.statuses: Counter[int] = Counter()
        self._program, self._path = program, path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        while not self._stop.is_set():
            self.statuses[status(self._program, self._path)] += 1

    def __enter__(self) -> Prober:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def status(program: Program, path: str) -> int:
    """Ask as kubelet does: without a key, without a look at the certificate; 0 if nobody listens."""
    try:
        return program.client.get(path, headers={"Authorization": ""}).status_code
    except httpx2.TransportError:
        return 0


def server_of(program: Program) -> psutil.Process:
    """Return the server itself: a shell that evaluates a command stays its parent."""
    process = psutil.Process(program.pid)
    return process.children()[0] if process.name() == "bash" else process


@contextmanager
def started(
    system: Orchestrator, folder: Path, model: Path, engine_python: Path, **others: str
) -> Iterator[tuple[Program, str]]:
    """Start it as its manifest does; also returns the served name."""
    (folder / "bin").mkdir()
    for shim, run in (
        ("vllm", f"{sys.executable} -m vllm_engine.cli vllm"),
        ("python3", PYTHON),
        ("python", PYTHON),
    ):
        (folder / "bin" / shim).write_text(f'#!/bin/sh\nexec {run} "$@"\n')
        (folder / "bin" / shim).chmod(0o755)
    words = {"model": model, "folder": folder, "key": KEY}
    if system.has_tls:
        Certificate(folder)
    variables = {name: value.format(**words) for name, value in system.variables.items()}
    environ = (
        {
            "ENGINE_PYTHON": str(engine_python),
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "HOST": "",
            "PORT": "",
        }
        | variables
        | others
    )

    def command(port: int) -> list[str]:
        return shlex.split(system.command.format(**words, port=port))

    with running(environ, folder=folder, command=command) as program:
        if system.has_tls:
            program.url = program.url.replace("http:", "https:")
            program.client = httpx2.Client(base_url=program.url, timeout=60, verify=False, trust_env=False)
        if system.has_key:
            program.client.headers["Authorization"] = f"Bearer {KEY}"
        try:
            yield program, system.name.format(**words)
        finally:
            with suppress(psutil.NoSuchProcess):  # it has ended, as it should
                for process in program.processes():
                    process.terminate()


def serves(program: Program, served: str, system: Orchestrator, seconds: float = DEADLINE) -> list[str]:
    """Wait until it is ready, and check its probes and what it answers; returns the engine's command."""
    program.until_ready(seconds)
    assert status(program, system.liveness) == status(program, system.readiness) == 200
    model, *_ = program.client.get("/v1/models").json()["data"]
    assert model["id"] == served
    assert program.chat(model=served, max_tokens=8).status_code == 200
    assert status(program, "/v1/chat/completions") == (401 if system.has_key else 405)
    metrics = program.client.get("/metrics", headers={"Authorization": ""}).text
    assert "vllm:num_requests_waiting{" in metrics, "an endpoint picker has no key"
    (engine,) = server_of(program).children()
    return engine.cmdline()


def outlives_a_restart_inside(
    program: Program, served: str, system: Orchestrator, seconds: float = DEADLINE
) -> None:
    """Check that its liveness probe never fails while the engine is killed and started, and a request is kept."""
    with Prober(program, system.liveness) as prober, program.loses_engine():
        (engine,) = server_of(program).children()
        engine.kill()
    with Prober(program, system.liveness) as more:
        kept = program.client.post(
            "/v1/chat/completions", json=CHAT | {"model": served, "max_tokens": 8}, timeout=seconds
        )
        assert kept.status_code == 200, "it waited for the restart"
    assert prober.statuses.keys() | more.statuses.keys() == {200}, "a liveness probe would end the container"


def ends_in_silence(program: Program, system: Orchestrator, command: list[str]) -> None:
    """Check that it ends cleanly, and that no key was told to anybody."""
    server_of(program).terminate()
    assert program.wait() == 0
    for told in (*command, program.log()):
        assert KEY not in told
    for line in system.says:
        assert line in program.log()
    if "--disable-uvicorn-access-log" in system.command:
        assert "POST /v1/chat/completions" not in program.log()
