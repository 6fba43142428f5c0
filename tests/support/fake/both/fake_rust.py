"""The fake's Rust frontend: a process of its own, on its own socket, which refuses what the real one refuses."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import uvicorn

from tests.support.fake.fake_bodies import RefusalError, error_body
from tests.support.fake.fake_http import Answer, Request
from tests.support.fake.fake_scenarios import LiveScenario
from tests.support.fake.fake_server import FakeApp, Handler
from tests.support.fake.fake_serving import served
from tests.support.fake.fake_state import Engine, EngineCore

MARK = ("x-fake-frontend", "rust")
"""A header of each of its answers, so that tests see who answered."""
NAME = b"vllm-rs"

_SERVED = ("/health", "/version", "/load", "/metrics", "/v1/models", "/tokenize")
_GENERATES = ("/v1/chat/completions", "/v1/completions")
_NOT_YET = ("/v1/messages", "/v1/messages/count_tokens", "/v1/chat/completions/batch")
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


class RustApp(FakeApp):
    """Fewer routes and fields, and error bodies without a word for unknown routes."""

    def handlers(self) -> dict[str, dict[str, Handler]]:
        every = super().handlers()
        kept = {path: every[path] for path in (*_SERVED, *_GENERATES)}
        return kept | {path: {"POST": _not_implemented} for path in _NOT_YET}

    def unknown(self, request: Request) -> Answer:
        return Answer(404)

    def check(self, path: str, body: Mapping[str, Any]) -> None:
        """Refuse what the real one refuses.

        Raises:
            RefusalError: 400.
        """
        if int(body.get("n") or 1) > 1:
            raise _bad("Only n=1 is supported.", "n")
        if path == "/v1/completions" and isinstance(body.get("prompt"), list) and not _is_ids(body["prompt"]):
            raise _bad("Batch prompts are not supported.", "prompt")
        if path == "/v1/chat/completions" and float(body.get("temperature") or 0) > 2:
            raise _bad("temperature: Validation error: range", "temperature")
        if body.get("length_penalty") not in (None, 1, 1.0):
            raise _bad("length_penalty is not supported.", "length_penalty")

    def worded(self, answer: dict[str, Any]) -> dict[str, Any]:
        for choice in answer["choices"]:
            if choice.get("message", {}).get("content") == "":
                choice["message"]["content"] = None
        return answer


def _is_ids(prompt: list[Any]) -> bool:
    return all(isinstance(item, int) for item in prompt)


def _bad(message: str, param: str) -> RefusalError:
    return RefusalError(400, error_body(message, "invalid_request_error", 400, param))


async def _not_implemented(request: Request) -> Answer:
    return Answer.json(error_body("not implemented in the Rust frontend", "not_implemented", 501), 501)


def start_rust(options: argparse.Namespace, live: LiveScenario, path: Path, core: int) -> int:
    """Fork the Rust frontend of the engine core with the process id `core`; returns its process id."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    parent = os.getpid()
    if pid := os.fork():
        listener.close()
        return pid
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NAME, NAME, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    asyncio.run(_serve(options, live, listener, core))
    os._exit(0)


async def _serve(
    options: argparse.Namespace, live: LiveScenario, listener: socket.socket, process: int
) -> None:
    core = EngineCore(lambda: None)
    app = RustApp(Engine(live, core), served(options), request_ids=True, on_failure=lambda: None)
    life = os.pidfd_open(process)
    # Its streams are cut when the engine core has ended.
    asyncio.get_running_loop().add_reader(life, os._exit, 1)
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        headers=[MARK],
    )
    server = uvicorn.Server(config)
    await server.serve([listener])
