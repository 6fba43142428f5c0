"""CORS: off unless asked for, and then for the pages that were named and the routes that exist."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from tests.process.conftest import StartProgram
from tests.support.program import Program

PAGE, OTHER = "https://app.example.com", "https://other.example.com"
KEY = "sk-of-the-page"
CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def program(start: StartProgram) -> Iterator[Program]:
    """A ready program with a key that lets one page in."""
    started = start({"tokens": 3}, CORS_ORIGINS=f"{PAGE} http://localhost:3000", API_KEYS=KEY)
    started.until_ready()
    yield started


def preflight(
    program: Program, path: str, *, origin: str = PAGE, method: str = "POST", wanted: str = "authorization"
) -> httpx2.Response:
    """Ask as a browser does before it lets a page ask."""
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": wanted,
    }
    return program.client.options(path, headers=headers)


def allowed(answer: httpx2.Response) -> dict[str, str]:
    """Return what an answer says to browsers."""
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


def test_preflight(program: Program) -> None:
    """A named page may use a route with its methods and whatever headers its SDK sends, without a key."""
    answer = preflight(program, "/v1/chat/completions", wanted="authorization,x-stainless-lang")
    assert (answer.status_code, answer.content) == (204, b"")
    assert allowed(answer) == {
        "access-control-allow-origin": PAGE,
        "access-control-allow-methods": "POST",
        "access-control-allow-headers": "authorization,x-stainless-lang",
        "access-control-expose-headers": "x-request-id, retry-after",
        "access-control-max-age": "600",
    }
    assert "origin" in answer.headers.get_list("vary")
    assert answer.headers["x-request-id"]
    for path, methods in {
        "/version": "GET, HEAD",
        "/healthz": "GET, HEAD",
        "/metrics": "GET, HEAD",
        "/v1/responses/resp_1": "GET",
    }.items():
        assert allowed(preflight(program, path))["access-control-allow-methods"] == methods


@pytest.mark.parametrize(
    ("path", "origin", "status"),
    [
        ("/v1/chat/completions", OTHER, 401),
        ("/v1/chat/completions", "null", 401),
        ("/v1/chat/completions", PAGE + ".evil.example", 401),
        ("/v1/nothing", PAGE, 401),
        ("/v1/load_lora_adapter", PAGE, 401),
    ],
)
def test_preflight_in_vain(program: Program, path: str, origin: str, status: int) -> None:
    """Other pages, and routes that do not exist, get what they get without CORS."""
    answer = preflight(program, path, origin=origin)
    assert answer.status_code == status
    assert "access-control-allow-methods" not in answer.headers
    assert ("access-control-allow-origin" in answer.headers) == (origin == PAGE)


def test_headers_that_are_none(program: Program) -> None:
    """What cannot be a list of header names is not repeated."""
    answer = preflight(program, "/v1/models", method="GET", wanted='x"<script>')
    assert (answer.status_code, "access-control-allow-headers" in answer.headers) == (204, False)


@pytest.mark.parametrize("is_stream", [False, True])
def test_answers(program: Program, is_stream: bool) -> None:
    """The named page reads answers, streamed ones and refusals too; others do not."""
    for origin, key, status in ((PAGE, KEY, 200), (PAGE, "wrong", 401), (OTHER, KEY, 200)):
        answer = program.client.post(
            "/v1/chat/completions",
            json=CHAT | {"stream": is_stream},
            headers={"Origin": origin, "Authorization": f"Bearer {key}"},
        )
        assert answer.status_code == status
        assert "origin" in answer.headers["vary"]
        assert answer.headers.get("access-control-allow-origin") == (PAGE if origin == PAGE else None)
        assert answer.headers.get("access-control-allow-credentials") is None
        if is_stream and status == 200:
            assert answer.text.endswith("data: [DONE]\n\n")


def test_caches_keep_pages_apart(program: Program) -> None:
    """An answer to nobody in particular says that it depends on who asks."""
    assert program.client.get("/livez").headers["vary"] == "origin"


def test_everybody(start: StartProgram) -> None:
    """`*` lets every page in, and answers may be cached for all."""
    program = start(CORS_ORIGINS="*")
    program.until_ready()
    assert (
        program.client.get("/v1/models", headers={"Origin": PAGE}).headers["access-control-allow-origin"]
        == "*"
    )
    answer = program.client.get("/livez", headers={"Origin": "null"})
    assert (answer.headers["access-control-allow-origin"], "vary" in answer.headers) == ("*", False)
    assert preflight(program, "/v1/models", method="GET").status_code == 204


def test_off(start: StartProgram) -> None:
    """Unless asked for, no page is let in."""
    program = start()
    program.until_ready()
    assert preflight(program, "/v1/chat/completions").status_code == 405
    assert allowed(program.client.get("/v1/models", headers={"Origin": PAGE})) == {}
