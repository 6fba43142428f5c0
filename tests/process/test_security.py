"""API keys, pages of other origins, TLS: who gets in, and that no secret gets out."""

from __future__ import annotations

import json
import socket
import ssl
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.process.conftest import StartProgram
from tests.support.certificates import Certificate
from tests.support.model import CHAT, STREAM
from tests.support.program import DEADLINE, Program, free_port, plain_client, until
from tests.support.raw_http import ClosedError, Reply, post_json, request
from tests.support.watched import Watched

ALICE = "sk-alice-secret"
BOB = "sk-bob-secret"
TEAM = "sk-team-secret"
TOKEN = "hf_very_secret_token"
WRONG = "sk-mallory-guessed"
SECRETS = (ALICE, BOB, TEAM, TOKEN, WRONG)
BEARER = f"Authorization: Bearer {ALICE}"
PAGE, OTHER = "https://app.example.com", "https://other.example.com"
HEALTH_PORT = str(free_port())
SETTINGS = {
    "API_KEYS": f"alice:{ALICE} bob:{BOB} team:{TEAM}",
    "HF_TOKEN": TOKEN,
    "CORS_ORIGINS": f"{PAGE} http://localhost:3000",
    "HEALTH_PORT": HEALTH_PORT,
    "KEY_TOKENS_PER_MINUTE": "100000",
    "LOG_FORMAT": "json",
    "LOG_LEVEL": "debug",
}
SCENARIO = {"tokens": 3}
UI_FILES = ("/", "/ui", "/ui/styles/base.css", "/ui/app.js", "/ui/icon.svg")


def assert_secret(*texts: str) -> None:
    """None of them shows a secret, or half of one."""
    for text in texts:
        assert text
        for secret in SECRETS:
            assert secret[6:] not in text, text[:2000]


def shown(reply: Reply) -> str:
    """Return all that a client sees of an answer."""
    return repr(reply.headers) + reply.body.decode("latin-1")


def test_keys(gateway: Watched) -> None:
    """Either way to give a key opens the API, and the key stays at the gateway."""
    for header in (BEARER, f"x-api-key: {BOB}", f"authorization: bearer {BOB}", f"X-API-Key: {ALICE}"):
        gateway.mark()
        reply = gateway.ask(post_json("/v1/chat/completions", CHAT, header))
        assert reply.status == 200
        assert_secret(gateway.reached().decode("latin-1"), shown(reply))
        assert b"POST /v1/chat/completions" in gateway.reached()
        assert b"authorization" not in gateway.reached().lower()
        assert b"x-api-key" not in gateway.reached().lower()
        until(lambda: '"/v1/chat/completions"' in gateway.logged(), "its line in the log")
        assert '"key": "alice"' in gateway.logged() or '"key": "bob"' in gateway.logged()


def test_wrong_keys(gateway: Watched) -> None:
    """All others get one and the same 401, whatever they ask for; the engine sees nothing."""
    headers: tuple[list[str], ...] = (
        [],
        [f"Authorization: Bearer {WRONG}"],
        [BEARER, f"x-api-key: {WRONG}"],
        ["Authorization: Bearer s\xe9"],
    )
    replies = [
        gateway.ask(request("GET", target, None, *some))
        for target in (
            "/v1/models",
            "/v1/nothing",
            "/nothing",
            f"/v1/models?api_key={ALICE}",
            f"/v1/{BOB}",
            "/metrics",
        )
        for some in headers
    ]
    assert {(reply.status, reply.header("www-authenticate")) for reply in replies} == {(401, "Bearer")}
    [body] = {reply.body for reply in replies}
    assert json.loads(body)["error"]["code"] == 401
    trailer = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\n{}\r\n0\r\nAuthorization: Bearer %s\r\n\r\n" % ALICE.encode()
    )
    assert gateway.ask(trailer).status == 401
    assert gateway.reached() == b""


def test_nothing_shows_a_secret(gateway: Watched) -> None:
    """Pages, refusals, broken answers, command lines and the engine's environment show none."""
    for target in (
        "/livez",
        "/healthz",
        "/readyz",
        "/ping",
        "/version",
        "/metrics",
        "/openapi.json",
        "/docs",
        "/",
    ):
        for headers in ([], [BEARER]):
            assert_secret(shown(gateway.ask(request("GET", target, None, *headers))))
    for data in (
        request("DELETE", "/v1/models", None, BEARER),
        request("POST", "/v1/chat/completions", b"{", BEARER, "Content-Type: application/json"),
        request("POST", "/v1/_upload", None, BEARER, "Content-Length: 99999999999"),
        f"GET /v1/models HTTP/1.1\r\nHost: x\r\nbad header {ALICE}\r\n\r\n".encode(),
    ):
        assert_secret(shown(gateway.ask(data)))
    for change in ({"cut_after_n_chunks": 2}, {"error_after_n_chunks": 2}, {"error_status": 500}):
        gateway.reset()
        gateway.change(**change)
        for body in (CHAT, STREAM):
            with suppress(ClosedError):
                assert_secret(shown(gateway.ask(post_json("/v1/chat/completions", body, BEARER))))
    for process in gateway.program.processes():
        variables = " ".join(process.environ().values()) if process.pid != gateway.program.pid else ""
        assert_secret(" ".join(process.cmdline()), variables.replace(TOKEN, "") or "ours")
    assert gateway.program.engine_socket().parent.stat().st_mode & 0o077 == 0


def test_log_shows_no_secret(gateway: Watched) -> None:
    """Everything that the tests before have done is in the log, and no secret is."""
    gateway.ask(request("GET", f"/v1/{ALICE}", None, BEARER))
    until(lambda: "/v1/***" in gateway.logged(), "the line with a blanked key")
    assert_secret(gateway.program.log())
    assert "api_key=" not in gateway.program.log()


def test_crash_shows_no_secret(start: StartProgram, tmp_path: Path) -> None:
    """A key from a file that changes is blanked too; the engine's death under a request shows nothing."""
    file = tmp_path / "keys"
    file.write_text(f"alice:{ALICE}\n")
    words = f"environ: HF_TOKEN={TOKEN} key={ALICE}"
    scenario = {"crash_after_n_chunks": 3, "last_lines": [words]}
    program = start(scenario, API_KEYS_FILE=str(file), HF_TOKEN=TOKEN, LOG_LEVEL="debug", MAX_RESTARTS="0")
    file.write_text(f"alice:{ALICE}\nbob:{BOB}\n")
    headers = {"Authorization": f"Bearer {BOB}"}
    until(lambda: program.client.get("/v1/models", headers=headers).status_code == 200, "the new key")
    program.client.get(f"/v1/{BOB}", headers=headers)
    answer = program.client.post("/v1/chat/completions", json=STREAM, headers=headers)
    assert '"error"' in answer.text
    program.wait()
    program.until_logged("/v1/***")
    assert_secret(answer.text, program.log())


def test_token_limit(start: StartProgram) -> None:
    """Prompts count whether or not the answer tells what it used, a hundred choices as a hundred requests."""
    limits = {
        "API_KEYS": f"a:{ALICE} b:{BOB} c:{TEAM}",
        "KEY_TOKENS_PER_MINUTE": "200",
        "KEY_REQUESTS_PER_MINUTE": "60",
    }
    program = start({"tokens": 1}, **limits)

    def asked(key: str, path: str, **body: Any) -> int:
        headers = {"Authorization": f"Bearer {key}"}
        return program.client.post(
            path, json={"model": "fake", "max_tokens": 1} | body, headers=headers
        ).status_code

    long = [{"role": "user", "content": "word " * 1500}]
    refused = [asked(ALICE, "/v1/chat/completions", messages=long, max_tokens=-1) for _ in range(3)]
    assert refused == [400] * 3, "what vLLM did not take has used nothing"
    assert [asked(ALICE, "/v1/chat/completions", messages=long, stream=True) for _ in range(3)] == [
        200,
        429,
        429,
    ]
    assert [asked(BOB, "/v1/completions", prompt=[7] * 1500, stream=True) for _ in range(2)] == [200, 429]
    assert asked(TEAM, "/v1/chat/completions", messages=CHAT["messages"], n=100) == 200
    assert asked(TEAM, "/v1/chat/completions", messages=CHAT["messages"]) == 429
    estimated = 'gateway_tokens_total{key="a",kind="prompt_estimate"}'
    metrics = program.client.get("/metrics", headers={"Authorization": f"Bearer {ALICE}"}).text
    assert 1200 <= float(metrics.partition(estimated)[2].split()[0]) <= 2500


def test_cors(gateway: Watched) -> None:
    """A named page may use the routes that exist, with a key, and reads answers and refusals; others may not."""
    client = gateway.program.client
    wish = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,x-stainless-lang",
    }
    allowed = client.options("/v1/chat/completions", headers=wish | {"Origin": PAGE})
    assert (allowed.status_code, allowed.content) == (204, b"")
    assert {name: value for name, value in allowed.headers.items() if name.startswith("access-control-")} == {
        "access-control-allow-origin": PAGE,
        "access-control-allow-methods": "POST",
        "access-control-allow-headers": "authorization,x-stainless-lang",
        "access-control-expose-headers": "x-request-id, retry-after",
        "access-control-max-age": "600",
    }
    for path, origin in (("/v1/chat/completions", OTHER), ("/v1/nothing", PAGE)):
        refused = client.options(path, headers=wish | {"Origin": origin})
        assert (refused.status_code, "access-control-allow-methods" in refused.headers) == (401, False)
    for origin, key, status in ((PAGE, ALICE, 200), (PAGE, "wrong", 401), (OTHER, ALICE, 200)):
        headers = {"Origin": origin, "Authorization": f"Bearer {key}"}
        answer = client.post("/v1/chat/completions", json=STREAM, headers=headers)
        assert answer.status_code == status
        assert "origin" in answer.headers["vary"]
        assert answer.headers.get("access-control-allow-origin") == (PAGE if origin == PAGE else None)


def test_page_and_health_port(gateway: Watched) -> None:
    """The page's files are open and hold no key; the second port answers probes and metrics without one, no more."""
    client, key = gateway.program.client, {"Authorization": f"Bearer {ALICE}"}
    for path in (*UI_FILES, "/ui/state"):
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert_secret(answer.text)
    assert client.get("/ui/state").json()["needs_key"] is True
    assert client.get("/ui/history").status_code == 401
    assert client.get("/ui/history", headers=key).status_code == 200
    with plain_client(f"http://127.0.0.1:{HEALTH_PORT}") as health:
        for path in ("/livez", "/healthz", "/readyz", "/ping", "/version", "/metrics", "/v1/metrics"):
            answer, head = health.get(path), health.head(path)
            assert (answer.status_code, head.status_code, head.content) == (200, 200, b""), path
        assert "gateway_requests_total" in health.get("/metrics").text
        for path in ("/v1/models", "/openapi.json", "/docs", *UI_FILES, "/ui/state", "/v1/chat/completions"):
            assert health.get(path, headers=key).status_code == 404, path


@pytest.fixture
def files(tmp_path: Path) -> Certificate:
    """A certificate for 127.0.0.1 by an authority of the test's own."""
    return Certificate(tmp_path)


def trusting(files: Certificate) -> ssl.SSLContext:
    """Return what a client that trusts the test's authority connects with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    files.authority.configure_trust(context)
    return context


def serial(program: Program, files: Certificate) -> str:
    """Connect anew; returns the serial number of the certificate that is shown."""
    with (
        socket.create_connection(("127.0.0.1", program.port), DEADLINE) as raw,
        trusting(files).wrap_socket(raw, server_hostname="127.0.0.1") as wrapped,
    ):
        return str((wrapped.getpeercert() or {})["serialNumber"])


def test_tls(launch: StartProgram, files: Certificate) -> None:
    """Streams, leaving clients and `--ask` work as over HTTP; a new certificate drops nobody."""
    scenario = {"tokens": 100_000, "tokens_per_second": 100}
    tls = {"TLS_CERT_FILE": str(files.cert), "TLS_KEY_FILE": str(files.key)}
    program = launch(scenario, "--ask", **tls)
    program.client.close()
    program.url = f"https://127.0.0.1:{program.port}"
    program.client = httpx2.Client(base_url=program.url, verify=trusting(files), timeout=DEADLINE)
    program.until_logged(f"Serving at {program.url}")
    program.until_logged("First token after")
    program.until_logged(f"curl -N --cacert {files.cert} {program.url}/")
    assert program.chat(max_tokens=5).json()["usage"]["completion_tokens"] == 5
    expiry = datetime(datetime.now(UTC).year + 2, 1, 1, tzinfo=UTC).timestamp()
    assert program.metric("gateway_tls_certificate_expiry_timestamp_seconds") == expiry
    before = serial(program, files)
    with program.client.stream("POST", "/v1/chat/completions", json=STREAM) as stream:
        lines = stream.iter_lines()
        next(lines)
        files.renew()
        until(lambda: serial(program, files) != before, "the new certificate")
        assert sum(1 for _, line in zip(range(40), lines, strict=False) if line) == 20
    program.until_logged("client_gone")
    new = serial(program, files)
    files.key.write_text("junk")
    until(lambda: serial(program, files) and "stays in use" in program.log(), "the refusal of a broken one")
    assert serial(program, files) == new
    with socket.create_connection(("127.0.0.1", program.port), DEADLINE) as raw:
        raw.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" not in raw.recv(1000), "no plain HTTP on this port"
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{program.url}/livez")
    assert program.client.get("/v1/nothing-more").status_code == 404
    program.until_logged("/v1/nothing-more")
    assert "Traceback" not in program.log()
