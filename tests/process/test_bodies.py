"""Bodies come before admission: who is slow to send takes nobody's turn, and holds up no end."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.process.conftest import StartProgram
from tests.support.program import Program, until
from tests.support.raw_http import Wire

CHAT: dict[str, Any] = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}]}
KEYS = {"slow": "sk-slow-slow", "other": "sk-other-other"}


@contextmanager
def unfinished(program: Program, count: int, key: str) -> Iterator[list[Wire]]:
    """Open so many requests that have sent the first byte of their body and no more."""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
    with ExitStack() as stack:
        wires = []
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", program.port)))
            wires.append(Wire(connection))
            wires[-1].send(head.encode() + b"Content-Length: 1000\r\n\r\n{")
        until(lambda: program.metric("gateway_bodies_incomplete") == count, "the requests' first bytes")
        yield wires


def ask(program: Program, key: str) -> int:
    """Ask for a chat completion; return the status."""
    return program.client.post(
        "/v1/chat/completions", json=CHAT, headers={"Authorization": f"Bearer {key}"}
    ).status_code


@pytest.mark.parametrize("others", ["slow", "other"])
def test_unfinished_bodies_take_no_places(start: StartProgram, others: str) -> None:
    """Requests that are not whole lock nobody out: not their own key, not another."""
    keys = ",".join(f"{name}:{key}" for name, key in KEYS.items())
    program = start({"tokens": 1}, API_KEYS=keys, MAX_IN_FLIGHT="4", MAX_QUEUE="0", KEY_MAX_IN_FLIGHT="4")
    program.until_ready()
    with unfinished(program, 8, KEYS["slow"]):
        assert [ask(program, KEYS[others]) for _ in range(3)] == [200] * 3
        assert program.metric("gateway_in_flight") == 0
    until(lambda: program.metric("gateway_bodies_incomplete") == 0, "the end of all")


def test_drain(start: StartProgram) -> None:
    """At the end who is still sending is told so at once, and is not waited for."""
    program = start({"tokens": 1}, DRAIN_TIMEOUT_SECONDS="600", API_KEYS=f"slow:{KEYS['slow']}")
    program.until_ready()
    with unfinished(program, 3, KEYS["slow"]) as wires:
        program.send(signal.SIGTERM)
        for wire in wires:
            reply = wire.reply()
            assert (reply.status, reply.header("connection")) == (503, "close")
            assert reply.header("retry-after")
            assert "shutting down" in json.loads(reply.body)["error"]["message"]
    assert program.wait() == 0


def test_not_ready_needs_no_body(start: StartProgram) -> None:
    """Before the engine is ready nobody need send a body to be told so."""
    program = start({"startup_seconds": 60})
    program.until_listening()
    with socket.create_connection(("127.0.0.1", program.port)) as connection:
        reply = Wire(connection).ask(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        )
    assert (reply.status, reply.json()["error"]["message"][:13]) == (503, "Loading model")
