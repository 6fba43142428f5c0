"""HEALTH_PORT: probes and metrics on a port of their own, for machines that have no key."""

from __future__ import annotations

import signal
import socket

import httpx2
import pytest

from tests.process.conftest import StartProgram
from tests.support.program import free_port, until

KEY = "sk-of-the-client"
BEARER = {"Authorization": f"Bearer {KEY}"}
CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}


def test_two_ports(start: StartProgram) -> None:
    """The second port answers probes, version and metrics without a key, and nothing else with one."""
    port = free_port()
    program = start(HEALTH_PORT=str(port), API_KEYS=KEY)
    program.until_ready()
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as health:
        for path in ("/livez", "/healthz", "/readyz", "/ping", "/version", "/metrics", "/v1/metrics"):
            answer = health.get(path)
            assert (answer.status_code, bool(answer.headers["x-request-id"])) == (200, True), path
            head = health.head(path)  # a body here would be taken for the next answer
            assert (head.status_code, head.content) == (200, b""), path
            assert head.headers.get("content-length") == str(len(answer.content)) or "metrics" in path
        assert "gateway_requests_total" in health.get("/metrics").text
        for path in ("/v1/models", "/openapi.json", "/docs", "/", "/v1/chat/completions"):
            answer = health.get(path, headers=BEARER)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, 404), path
        assert health.post("/v1/chat/completions", json=CHAT, headers=BEARER).status_code == 404
        assert health.post("/livez").status_code == 405
    assert program.client.get("/livez").status_code == 200
    assert program.client.get("/metrics").status_code == 401
    assert program.client.get("/metrics", headers=BEARER).status_code == 200


def test_metrics_stay_public_where_that_is_said(start: StartProgram) -> None:
    """METRICS_PUBLIC=1 beats the second port; without the second port they are public."""
    program = start(HEALTH_PORT=str(free_port()), API_KEYS=KEY, METRICS_PUBLIC="1")
    program.until_listening()
    assert program.client.get("/metrics").status_code == 200


def test_drain(start: StartProgram) -> None:
    """While requests run out, the second port answers and says that no more are taken."""
    port = free_port()
    program = start({"tokens": 100_000, "tokens_per_second": 100.0}, HEALTH_PORT=str(port))
    program.until_ready()
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as health:
        with program.client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as stream:
            lines = stream.iter_lines()  # kept: the end of an iterator is the end of its connection
            next(lines)
            program.send(signal.SIGTERM)
            until(lambda: health.get("/healthz").status_code == 503, "the drain")
            assert health.get("/livez").status_code == 200
            assert health.get("/healthz").json()["state"] == "draining"
        assert program.wait() == 0
        with pytest.raises(httpx2.TransportError):
            health.get("/livez")


def test_port_in_use(start: StartProgram) -> None:
    """A second port that is taken ends the start with status 2 and names the setting."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = start(HEALTH_PORT=str(port))
        assert program.wait() == 2
    assert f'HEALTH_PORT="{port}": already in use' in program.log()
