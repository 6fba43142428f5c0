"""Refusals and broken streams as OpenAI's and Anthropic's own clients see them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.process.conftest import StartProgram
from tests.support.fake.fake_engine import scenario_of
from tests.support.fake.fake_scenarios import change_scenario
from tests.support.program import Program
from tests.support.raw_http import wire

KEY = "sk-of-the-client"
MESSAGE: Any = {"model": "fake", "max_tokens": 8, "messages": [{"role": "user", "content": "Hi"}]}
CHAT: Any = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}]}


def claude(program: Program, key: str = KEY) -> anthropic.Anthropic:
    """Return Anthropic's client, as one key's owner would make it."""
    return anthropic.Anthropic(base_url=program.url, api_key=key, max_retries=0)


def test_anthropic_refusals(start: StartProgram) -> None:
    """Whatever we refuse on its routes is in Anthropic's shape, with its own word and the request's id."""
    program = start(API_KEYS=KEY, KEY_REQUESTS_PER_MINUTE="1")
    program.until_ready()
    client = claude(program)
    assert client.messages.create(**MESSAGE).content
    refusals: dict[str, Callable[[], object]] = {
        "authentication_error": lambda: claude(program, "sk-somebody-else").messages.create(**MESSAGE),
        "not_found_error": lambda: client.post("/v1/messages/nothing", cast_to=object),
        "invalid_request_error": lambda: client.get("/v1/messages", cast_to=object),
        "rate_limit_error": lambda: client.messages.create(**MESSAGE),
    }
    for kind, ask in refusals.items():
        with pytest.raises(anthropic.APIStatusError) as refused:
            ask()
        assert refused.value.type == kind
        body = refused.value.response.json()
        assert body["request_id"] == refused.value.response.headers["x-request-id"]


def test_anthropic_overload(start: StartProgram) -> None:
    """While no engine is ready its clients are told that it is overloaded, on each of its routes."""
    program = start({"never_ready": True})
    program.until_listening()
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        refused = program.client.post(path, json=MESSAGE)
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "overloaded_error")


def test_anthropic_framing(start: StartProgram) -> None:
    """So is what is wrong with a request's head or framing, where it shows which route was meant."""
    program = start({"never_ready": True})
    program.until_listening()
    broken = {
        b"POST /v1/messages?beta=true HTTP/1.1\r\nHost: x\r\nno header\r\n\r\n": "error",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nno header\r\n\r\n": None,
        b"nothing that is known\r\n\r\n": None,
    }
    for head, kind in broken.items():
        with wire(program.port) as connection:
            connection.send(head)
            reply = connection.reply()
        assert (reply.status, reply.json().get("type")) == (400, kind), head
        assert reply.json().get("request_id") in (None, reply.header("x-request-id"))


def test_broken_streams_raise(start: StartProgram, tmp_path: Path) -> None:
    """Half an answer raises in each SDK: none may take it for a whole one. Nor is a refusal an answer."""
    program = start(MAX_BODY_BYTES="2000")
    program.until_ready()
    with pytest.raises(anthropic.APIStatusError) as refused:
        claude(program).messages.create(**MESSAGE, system="x" * 2000)
    assert refused.value.response.json()["error"]["type"] == "request_too_large"
    change_scenario(scenario_of(tmp_path / "engine/bin/python"), cut_after_n_chunks=3)
    with (
        pytest.raises(anthropic.APIStatusError, match="broke off") as broken,
        claude(program).messages.stream(**MESSAGE) as stream,
    ):
        list(stream)
    assert broken.value.type == "api_error"
    client = openai.OpenAI(base_url=f"{program.url}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.APIError, match="broke off"):
        list(client.chat.completions.create(stream=True, **CHAT))
    with pytest.raises(openai.APIError, match="broke off"):
        list(client.responses.create(model="fake", input="Hi", stream=True))
    text = program.client.post("/v1/responses", json={"model": "fake", "input": "Hi", "stream": True}).text
    *events, last = text.strip().split("\n\n")
    assert json.loads(last.partition("data: ")[2])["sequence_number"] == len(events)
