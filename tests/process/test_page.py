"""The page as a server serves it: which paths, to whom, with which headers, and not at all."""

from __future__ import annotations

import json

import httpx2
import pytest

from tests.process.conftest import StartProgram
from tests.support.program import free_port, until

KEY = "sk-of-the-page"
BEARER = {"Authorization": f"Bearer {KEY}"}
FILES = ("/", "/ui", "/ui/style.css", "/ui/app.js", "/ui/icon.svg")


def test_files(start: StartProgram) -> None:
    """Files have their types, answer HEAD and If-None-Match, and have no other spellings."""
    program = start()
    program.until_listening()
    types = {}
    for path in FILES:
        answer = program.client.get(path)
        assert answer.status_code == 200, path
        types[path] = answer.headers["content-type"].partition(";")[0]
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-request-id"]
        head = program.client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == answer.headers["content-length"]
        same = program.client.get(path, headers={"If-None-Match": answer.headers["etag"]})
        assert (same.status_code, same.content) == (304, b"")
    assert list(types.values()) == ["text/html", "text/html", "text/css", "text/javascript", "image/svg+xml"]
    assert program.client.get("/").content == program.client.get("/ui").content
    moved = program.client.get("/ui/")
    assert (moved.status_code, moved.headers["location"]) == (308, "../ui")
    for path in (
        "/ui/index.html",
        "/ui/nothing.js",
        "/ui/app.js/",
        "/ui/%2e%2e/own.py",
        "/ui/../own.py",
        "/index.html",
    ):
        assert program.client.get(path).status_code == 404, path
    assert program.client.post("/").status_code == 405


def test_state_and_history(start: StartProgram) -> None:
    """The state is /healthz' body with status 200 whatever it says; the history is of one length."""
    program = start({"never_ready": True})
    program.until_listening()
    state = program.client.get("/ui/state")
    assert state.status_code == 200
    assert state.json()["needs_key"] is False
    assert state.json()["health"].keys() == program.client.get("/healthz").json().keys()
    assert state.json()["health"]["state"] == "starting"
    until(lambda: program.client.get("/ui/history").json()["age_seconds"], "a first point")
    history = program.client.get("/ui/history").json()
    columns = {name: value for name, value in history.items() if isinstance(value, list)}
    assert len(columns) == 10
    assert len({len(value) for value in columns.values()}) == 1
    assert history["running"][0] is None


def test_idle_looks_idle(start: StartProgram) -> None:
    """The token that an idle engine is asked for now and then is nobody's work, on the plots."""
    program = start(CANARY_INTERVAL_SECONDS="0.2")
    program.until_ready()

    def rates() -> list[float]:
        history = program.client.get("/ui/history").json()
        return [rate for rate in history["generated_per_second"] if rate is not None]

    until(lambda: len(rates()) >= 2, "two points")
    assert program.metric("vllm:generation_tokens_total") > 10
    assert set(rates()) == {0}


def test_keys(start: StartProgram) -> None:
    """With keys set the files and the state stay open, and hold no key; everything else asks for one."""
    program = start(API_KEYS=KEY)
    program.until_ready()
    for path in (*FILES, "/ui/state"):
        answer = program.client.get(path)
        assert (answer.status_code, KEY in answer.text) == (200, False), path
    assert program.client.get("/ui/state").json()["needs_key"] is True
    for path in ("/ui/history", "/version", "/v1/models", "/ui/nothing.js"):
        assert program.client.get(path).status_code == 401, path
    assert program.client.get("/ui/history", headers=BEARER).status_code == 200


@pytest.mark.parametrize("keys", [{}, {"API_KEYS": KEY}])
def test_no_page(start: StartProgram, keys: dict[str, str]) -> None:
    """ENABLE_UI=0: there is no page and nothing of it, for nobody."""
    program = start(ENABLE_UI="0", **keys)
    program.until_ready()
    for path in (*FILES, "/ui/", "/ui/state", "/ui/history"):
        assert program.client.get(path, headers=BEARER).status_code == 404, path
    assert program.client.get("/healthz").status_code == 200


def test_health_port_has_none(start: StartProgram) -> None:
    """HEALTH_PORT is for machines: no page there."""
    port = free_port()
    program = start(HEALTH_PORT=str(port))
    program.until_ready()
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as health:
        for path in (*FILES, "/ui/state", "/ui/history"):
            assert health.get(path).status_code == 404, path


def test_polling_does_not_fill_the_log(start: StartProgram) -> None:
    """What the page asks every few seconds is logged at DEBUG alone."""
    program = start(LOG_FORMAT="json")
    program.until_ready()
    for path in ("/ui/state", "/ui/history", "/ui"):
        program.client.get(path)
    until(lambda: '"/ui"' in program.log(), "the line of /ui")
    records = [json.loads(line) for line in program.log().splitlines() if line.startswith("{")]
    assert [one["path"] for one in records if one["source"] == "gateway.access"] == ["/ui"]
