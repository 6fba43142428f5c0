"""More connections than there may be files: what is missing is the gateway's own, and the engine is not blamed."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.process.conftest import StartProgram
from tests.support.program import until
from tests.support.raw_http import post_json, request, wire

FILES = 1024
CONNECTIONS = 1100
CHAT = post_json("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4})


@pytest.fixture(autouse=True)
def files_of_our_own() -> Iterator[None]:
    """This process needs as many as it opens connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or hard > 2 * CONNECTIONS
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * CONNECTIONS, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("hard", ["", str(FILES)], ids=["soft limit", "hard limit"])
def test_more_connections_than_files(start: StartProgram, hard: str) -> None:
    """A stream goes on under a flood of silent connections, a kept connection is served, and so are others after."""
    program = start(
        {"tokens": 100_000, "tokens_per_second": 100},
        wrapper=("prlimit", f"--nofile={FILES}:{hard}", "--"),
    )
    program.until_ready()
    engine = program.engine_pid()
    stream = post_json(
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1000, "stream": True},
    )
    with wire(program.port) as streaming, wire(program.port) as kept:
        assert kept.ask(request("GET", "/livez")).status == 200
        streaming.send(stream)
        with ExitStack() as flood:
            for _ in range(CONNECTIONS):
                connection = flood.enter_context(socket.socket())
                connection.setblocking(False)
                connection.connect_ex(("127.0.0.1", program.port))
            for _ in range(10):
                assert kept.ask(CHAT).status == 200
                assert kept.ask(request("GET", "/readyz")).status == 200
            assert streaming.reply().body.endswith(b"data: [DONE]\n\n")
        until(lambda: program.health() is not None, "a new connection's answer")
    assert program.engines_lost() == 0
    assert program.engine_pid() == engine
