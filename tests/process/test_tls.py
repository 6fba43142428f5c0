"""HTTPS: streams, leaving clients and `--ask` work as over HTTP, and a new certificate drops nobody."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.process.conftest import CONFIG, StartProgram
from tests.support.certificates import Certificate
from tests.support.program import Program, until
from tests.support.raw_http import post_json

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}
StartTls = Callable[..., Program]


@pytest.fixture
def files(tmp_path: Path) -> Certificate:
    """A certificate for 127.0.0.1 by an authority of the test's own."""
    return Certificate(tmp_path)


@pytest.fixture
def start_tls(start: StartProgram, files: Certificate) -> StartTls:
    """Start the program with TLS, and wait until it is ready."""

    def start_program(*arguments: object, **variables: str) -> Program:
        program = start(*arguments, TLS_CERT_FILE=str(files.cert), TLS_KEY_FILE=str(files.key), **variables)
        program.client.close()
        program.url = f"https://127.0.0.1:{program.port}"
        program.client = httpx2.Client(base_url=program.url, verify=trusting(files), timeout=30)
        program.until_ready()
        return program

    return start_program


def trusting(files: Certificate) -> ssl.SSLContext:
    """Return what a client that trusts the test's authority connects with."""
    context = ssl.create_default_context()
    files.authority.configure_trust(context)
    return context


def shown(program: Program, files: Certificate) -> str:
    """Connect anew; returns the serial number of the certificate that is shown."""
    with (
        socket.create_connection(("127.0.0.1", program.port), 10) as raw,
        trusting(files).wrap_socket(raw, server_hostname="127.0.0.1") as wrapped,
    ):
        return str((wrapped.getpeercert() or {})["serialNumber"])


def test_whole_and_streamed(start_tls: StartTls) -> None:
    """Both kinds of answers come whole over TLS."""
    program = start_tls({"tokens": 200})
    answer = program.client.post("/v1/chat/completions", json=CHAT)
    assert answer.json()["usage"]["completion_tokens"] == 200
    with program.client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as stream:
        lines = [line for line in stream.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert len(lines) > 200


def test_expiry_is_a_metric(start_tls: StartTls) -> None:
    """When the certificate expires can be scraped."""
    program = start_tls()
    expiry = datetime(datetime.now(UTC).year + 2, 1, 1, tzinfo=UTC).timestamp()
    assert program.metric("gateway_tls_certificate_expiry_timestamp_seconds") == expiry


def test_client_leaves(start_tls: StartTls) -> None:
    """A client's leaving is seen over TLS, and ends the engine's work."""
    program = start_tls({"tokens": 100_000, "tokens_per_second": 100.0})
    with program.client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as stream:
        next(stream.iter_lines())
    until(lambda: "client_gone" in program.log(), "the client's leaving")


def test_stalled_clients(start_tls: StartTls, files: Certificate, model_folder: Path) -> None:
    """Clients that stop reading make the engine wait, and cost some buffers each."""
    config = CONFIG | {"max_position_embeddings": 1_000_000}
    (model_folder / "config.json").write_text(json.dumps(config))
    # Answers carry the first name: events of 2 kB fill a client's buffers in less time.
    names = "m" * 2000 + " fake"
    program = start_tls({"tokens": 900_000}, MAX_MODEL_LEN="1000000", SERVED_MODEL_NAME=names)
    gateway = psutil.Process(program.pid)
    before, clients = gateway.memory_info().rss, 20
    seen: list[tuple[float, float]] = []

    def has_stopped() -> bool:
        now, tokens = time.monotonic(), program.metric("vllm:generation_tokens_total")
        if not seen or tokens != seen[-1][1]:
            seen.append((now, tokens))
        return seen[-1][1] > clients and now - seen[-1][0] > 0.5

    with ExitStack() as stack:
        for _ in range(clients):
            raw = stack.enter_context(socket.socket())
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.connect(("127.0.0.1", program.port))
            wrapped = stack.enter_context(trusting(files).wrap_socket(raw, server_hostname="127.0.0.1"))
            wrapped.sendall(post_json("/v1/chat/completions", CHAT | {"stream": True, "max_tokens": 900_000}))
        until(has_stopped, "the engine's wait", 60)
        assert seen[-1][1] < clients * 10_000
        assert gateway.memory_info().rss - before < clients * 1_000_000


def test_reload_drops_nobody(start_tls: StartTls, files: Certificate) -> None:
    """A new certificate is shown to new connections; a stream that runs goes on."""
    program = start_tls({"tokens": 100_000, "tokens_per_second": 100.0})
    before = shown(program, files)
    with program.client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as stream:
        lines = stream.iter_lines()
        next(lines)
        files.renew()
        until(lambda: shown(program, files) != before, "the new certificate")
        assert sum(1 for _, line in zip(range(40), lines, strict=False) if line) == 20
    files.key.write_text("junk")
    new = shown(program, files)
    until(lambda: shown(program, files) and "stays in use" in program.log(), "the refusal of a broken one")
    assert shown(program, files) == new


def test_what_is_no_tls(start_tls: StartTls) -> None:
    """Plain HTTP on this port, and clients that trust nobody, cost no traceback and nobody else."""
    program = start_tls()
    with socket.create_connection(("127.0.0.1", program.port), 10) as raw:
        raw.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" not in raw.recv(1000)
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{program.url}/livez")
    assert program.client.get("/livez").status_code == 200
    assert "Traceback" not in program.log()
    assert "ERROR" not in program.log()


def test_ask(start_tls: StartTls) -> None:
    """`serve --ask` asks itself over TLS, whoever signed the certificate, and says what clients need."""
    program = start_tls({"tokens": 3}, "--ask")
    until(lambda: "Serving at" in program.log(), "the answer")
    assert "First token after" in program.log()
    assert f"Serving at https://127.0.0.1:{program.port}" in program.log()
    assert "Clients must trust the certificate in TLS_CERT_FILE" in program.log()


def test_bad_files_are_settings_errors(start: StartProgram, files: Certificate) -> None:
    """An expired certificate ends the start with status 2 and says what to do."""
    files.renew(expired=True)
    program = start(TLS_CERT_FILE=str(files.cert), TLS_KEY_FILE=str(files.key))
    assert program.wait() == 2
    assert f'vllm-engine: TLS_CERT_FILE="{files.cert}": certificate has expired; wanted' in program.log()
