"""One real engine core with both frontends, which is what serves on CPU unless a setting forbids it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import MODEL, Served
from tests.support.raw_http import request, wire

pytestmark = pytest.mark.e2e

QUESTION = {"model": MODEL, "prompt": "The capital of France is", "max_tokens": 4, "temperature": 0}


def test_each_frontend_answers(served: Served) -> None:
    """READY means both: each on its own socket gives the answer of the same engine core."""
    answers = [asked(socket) for socket in (served.socket, served.socket.with_name("rust.sock"))]
    assert answers[0] == answers[1]
    assert served.program.client.get("/version").json()["frontend"] == "both"
    served.program.until_logged("ENGINE_FRONTEND=both: auto: on CPU")


def test_processes(served: Served) -> None:
    """The Python frontend is the leader; engine core and Rust frontend are its children, in its group."""
    leader = psutil.Process(served.program.engine_pid())
    children = {child.name(): os.getpgid(child.pid) for child in leader.children()}
    assert children.items() >= {"VLLM::EngineCore": leader.pid, "vllm-rs": leader.pid}.items()


def asked(socket: Path) -> str:
    """Ask a frontend for some tokens; returns the text."""
    headers = ("Content-Type: application/json", "Connection: close")
    with wire(socket) as connection:
        reply = connection.ask(request("POST", "/v1/completions", json.dumps(QUESTION).encode(), *headers))
    text: str = json.loads(reply.body)["choices"][0]["text"]
    return text
