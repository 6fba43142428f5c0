"""Our two programs, each on a node of its own, with the real vLLM: one model over both, tensor parallel."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import psutil

from tests.support.nodes.two_nodes import TwoNodes, two_nodes
from tests.support.program import Program, is_running, run_cli, running

START_SECONDS: Final = 900.0
MODEL_NAME: Final = "two-nodes"
_BUNDLED: Final = "bundled:smollm2-135m-instruct"
_EVEN: Final = {
    "hidden_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_hidden_layers": 4,
    "intermediate_size": 1024,
}
"""Two GPUs cannot share the bundled model's nine heads."""


class NodeGroup:
    """A head and a worker. The thread that made it is on the head's node, so that it can ask it."""

    def __init__(
        self, nodes: TwoNodes, folder: Path, environ: Mapping[str, str], programs: ExitStack
    ) -> None:
        self.nodes, self._folder, self._programs = nodes, folder, programs
        self._environ = dict(environ) | {
            "MODEL_ID": str(folder / "model"), "SERVED_MODEL_NAME": MODEL_NAME, "LOAD_FORMAT": "dummy",
            "ENFORCE_EAGER": "1", "MAX_MODEL_LEN": "512", "KV_CACHE_MEMORY_BYTES": str(256 << 20),
            "TENSOR_PARALLEL": "2", "NODES": "2", "HEAD_ADDRESS": nodes.head.address, "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        self.worker = self.start_worker()
        self.head = self.start_head()

    def start_head(self) -> Program:
        """Start a head; it is not waited for."""
        return self._start(0)

    def start_worker(self) -> Program:
        """Start a worker; it is not waited for."""
        with self.nodes.worker.entered():
            return self._start(1)

    def worker_health(self) -> dict[str, Any] | None:
        """Return the body of the worker's /healthz; None while nothing listens."""
        with self.nodes.worker.entered():
            return self.worker.health()

    def ask(self, **body: Any) -> Any:
        """Ask the head for a completion, and return its answer; None if it was refused."""
        asked = {"model": MODEL_NAME, "prompt": "Hello", "max_tokens": 8, "ignore_eos": True} | body
        answer = self.head.client.post("/v1/completions", json=asked, timeout=START_SECONDS)
        return answer.json() if answer.status_code == 200 else None

    def memory(self, program: Program) -> int:
        """Return the bytes that a node's programs hold, shared ones once."""
        return sum(process.memory_full_info().pss for process in program.processes() if is_running(process))

    def _start(self, rank: int) -> Program:
        folder = self._folder / f"node{rank}"
        folder.mkdir(exist_ok=True)
        # Two threads that compute in turns on one core wait for each other's end of it.
        own = {
            "NODE_RANK": str(rank),
            "CACHE_DIR": str(folder / "cache"),
            "VLLM_CPU_OMP_THREADS_BIND": str(rank),
        }
        command = (sys.executable, "-m", "vllm_engine.cli", "worker" if rank else "serve")
        return self._programs.enter_context(
            running(self._environ | own, folder=folder, command=lambda _: command)
        )


def process_of(program: Program, title: str) -> psutil.Process:
    """Return the one process of vLLM's whose name begins so."""
    (found,) = (each for each in program.processes() if each.name().startswith(title))
    return found


@contextmanager
def node_group(engine_python: Path, folder: Path, cache: Path, **variables: str) -> Iterator[NodeGroup]:
    """Start both on two nodes; neither is waited for. `cache` holds the bundled model, whose tokenizer they use."""
    _make_model(folder, engine_python, cache)
    with two_nodes() as nodes, nodes.head.entered(), ExitStack() as programs:
        yield NodeGroup(nodes, folder, {"ENGINE_PYTHON": str(engine_python)} | variables, programs)


def _make_model(folder: Path, engine_python: Path, cache: Path) -> None:
    """Make a model that two GPUs can share, with the bundled one's tokenizer; its weights are made up (dummy)."""
    environ = {"ENGINE_PYTHON": str(engine_python), "CACHE_DIR": str(cache)}
    done = run_cli(environ, "download", _BUNDLED, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    made, model = cache / "bundled" / _BUNDLED.partition(":")[2], folder / "model"
    model.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).symlink_to(made / name)
    config = json.loads((made / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | _EVEN))
