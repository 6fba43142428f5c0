"""What the logs and metrics say: who may come in, what was asked for, and never a key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.process.conftest import StartProgram
from tests.support.program import Program, until

PROMPT = "a prompt that nobody logs"
CHAT = {"model": "fake", "messages": [{"role": "user", "content": PROMPT}]}
SCHEMA = Draft202012Validator(
    json.loads((Path(__file__).parents[2] / "deploy/observability/log.schema.json").read_text())
)
FIRST, SECOND = "sk-first-of-the-file", "sk-second-of-the-file"


def access_lines(program: Program) -> list[dict[str, Any]]:
    """Return the records of the access log, from JSON logs."""
    records = [json.loads(line) for line in program.log().splitlines() if line.startswith("{")]
    return [
        record for record in records if record["source"] == "gateway.access" and record["level"] == "INFO"
    ]


@pytest.mark.parametrize(
    ("variables", "times"),
    [({"HOST": "0.0.0.0"}, 1), ({"HOST": "0.0.0.0", "API_KEYS": FIRST}, 0), ({"HOST": "127.0.0.1"}, 0)],
)
def test_open_door_is_said_once(start: StartProgram, variables: dict[str, str], times: int) -> None:
    """Without keys on an address that others reach, the start warns once and names the setting."""
    program = start(**variables)
    program.until_ready()
    warnings = [line for line in program.log().splitlines() if "WARNING" in line and "API_KEYS" in line]
    assert len(warnings) == times


def test_keys_of_the_file_are_blanked(start: StartProgram, tmp_path: Path) -> None:
    """A key from API_KEYS_FILE does not get into the log, nor one that the file got later."""
    file = tmp_path / "keys"
    file.write_text(f"a:{FIRST}\n")
    program = start(API_KEYS_FILE=str(file))
    program.until_ready()
    program.client.get(f"/v1/{FIRST}")
    file.write_text(f"a:{FIRST}\nb:{SECOND}\n")
    bearer = {"Authorization": f"Bearer {SECOND}"}
    until(lambda: program.client.get("/v1/models", headers=bearer).status_code == 200, "the new key")
    program.client.get(f"/v1/{SECOND}")
    until(lambda: program.log().count("GET /v1/*** 401") == 2, "both blanked lines")
    assert FIRST not in program.log()
    assert SECOND not in program.log()


def test_access_line(start: StartProgram) -> None:
    """One line names the model and counts the tokens, says which are estimated, and shows no prompt."""
    program = start({"tokens": 5}, LOG_FORMAT="json", LOG_LEVEL="debug")
    program.until_ready()
    program.client.post("/v1/chat/completions", json=CHAT)
    program.client.post("/v1/chat/completions", json=CHAT | {"stream": True})
    program.client.get("/v1/nothing")
    until(lambda: len(access_lines(program)) == 3, "three lines")
    assert PROMPT not in program.log()
    lines = [json.loads(line) for line in program.log().splitlines()]
    assert {line["source"] for line in lines} >= {"engine", "gateway", "gateway.access", "gateway.supervisor"}
    for line in lines:
        SCHEMA.validate(line)
    whole, streamed, unknown = access_lines(program)
    assert (whole["model"], whole["completion_tokens"], whole["is_estimate"]) == ("fake", 5, False)
    assert (streamed["model"], streamed["is_estimate"]) == ("fake", True)
    assert streamed["completion_tokens"] > 0
    assert streamed["ttft_seconds"] <= streamed["duration_seconds"]
    assert (unknown["model"], unknown["outcome"], unknown["reason"]) == (None, "rejected", "unknown_route")


def test_extra_routes_are_counted_by_name(start: StartProgram) -> None:
    """What EXTRA_ROUTES lets pass has its own label, as the routes of the list have."""
    program = start()
    program.until_ready()
    program.client.post("/v1/_echo", json={})
    assert 'route="/v1/_echo",status="200"' in program.client.get("/metrics").text


def test_only_streams_are_streams(start: StartProgram) -> None:
    """A route that answers with JSON alone does so whatever its body asks for: no comments before that."""
    program = start(LOG_FORMAT="json")
    program.until_ready()
    program.client.post("/tokenize", json={"model": "fake", "prompt": "x", "stream": True})
    program.client.post("/v1/chat/completions", json=CHAT | {"stream": True})
    until(lambda: len(access_lines(program)) == 2, "two lines")
    assert [line["stream"] for line in access_lines(program)] == [False, True]


def test_one_reading_serves_all(start: StartProgram) -> None:
    """Scrapes are not passed on one by one: within METRICS_CACHE_SECONDS all get the same text."""
    program = start(METRICS_CACHE_SECONDS="600")
    program.until_ready()
    first = program.client.get("/metrics").content
    program.client.post("/v1/chat/completions", json=CHAT)
    assert program.client.get("/metrics").content == first
    assert program.client.get("/v1/metrics").content == first


def test_multiprocess_metrics_are_the_engines(start: StartProgram, tmp_path: Path) -> None:
    """PROMETHEUS_MULTIPROC_DIR reaches the engine, and the gateway writes nothing there."""
    folder = tmp_path / "multiproc"
    folder.mkdir()
    program = start(PROMETHEUS_MULTIPROC_DIR=str(folder))
    program.until_ready()
    program.client.post("/v1/chat/completions", json=CHAT)
    assert 'gateway_requests_total{outcome="complete",route="/v1/chat/completions"' in (
        program.client.get("/metrics").text
    )
    assert list(folder.iterdir()) == []
