"""KEY_TOKENS_PER_MINUTE and gateway_tokens_total see every prompt, told or not; a batch counts as what it holds."""

from __future__ import annotations

from typing import Any

import pytest

from tests.process.conftest import StartProgram
from tests.support.fake.fake_engine import change_scenario, scenario_of
from tests.support.program import Program, until

KEY = {"Authorization": "Bearer sk-abcdefgh"}
CHAT: dict[str, Any] = {
    "model": "fake",
    "max_tokens": 1,
    "messages": [{"role": "user", "content": "word " * 1500}],
}


def ask(program: Program, path: str, body: Any) -> int:
    """Ask with the key, read the whole answer, and return the status."""
    return program.client.post(path, json=body, headers=KEY).status_code


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", CHAT | {"stream": True}),
        ("/v1/chat/completions", CHAT | {"stream": True, "stream_options": {"include_usage": True}}),
        ("/v1/completions", {"model": "fake", "max_tokens": 1, "prompt": "word " * 1500, "stream": True}),
        ("/v1/completions", {"model": "fake", "max_tokens": 1, "prompt": [7] * 1500, "stream": True}),
    ],
    ids=["whole", "stream", "stream with usage", "completion", "token ids"],
)
def test_prompts_count(start: StartProgram, path: str, body: dict[str, Any]) -> None:
    """Whether or not the answer tells what it used, a prompt over the limit is the last for a while."""
    program = start({"tokens": 1}, API_KEYS="team:sk-abcdefgh", KEY_TOKENS_PER_MINUTE="200")
    program.until_ready()
    assert [ask(program, path, body) for _ in range(3)] == [200, 429, 429]


def test_estimates_are_counted_apart(start: StartProgram) -> None:
    """A stream without usage counts as prompt_estimate, in the metrics and in the access log."""
    program = start({"tokens": 1}, LOG_FORMAT="json", API_KEYS="team:sk-abcdefgh")
    program.until_ready()
    assert ask(program, "/v1/chat/completions", CHAT | {"stream": True}) == 200
    name = 'gateway_tokens_total{key="team",kind="prompt_estimate"}'
    until(lambda: name in program.client.get("/metrics").text, "the estimate")
    assert 1200 <= program.metric(name) <= 2500
    assert '"is_prompt_estimate": true' in program.log()


def test_who_leaves_has_used_the_prompt(start: StartProgram, tmp_path: Any) -> None:
    """An answer that its client did not wait for is charged as well."""
    limit = {"API_KEYS": "team:sk-abcdefgh", "KEY_TOKENS_PER_MINUTE": "200", "KEEP_ALIVE_SECONDS": "1"}
    program = start({"tokens": 1}, **limit)
    program.until_ready()
    change_scenario(scenario_of(tmp_path / "engine/bin/python"), first_token_seconds=60)
    with program.client.stream(
        "POST", "/v1/chat/completions", json=CHAT | {"stream": True, "max_tokens": 5}, headers=KEY, timeout=60
    ) as answer:
        assert answer.status_code == 200  # opened by the first comment
    until(lambda: program.metric("gateway_disconnects_total") == 1, "its leaving")
    assert ask(program, "/v1/chat/completions", CHAT) == 429


def test_what_the_engine_refuses_is_given_back(start: StartProgram) -> None:
    """A request that vLLM did not take has used nothing."""
    program = start({"tokens": 1}, API_KEYS="team:sk-abcdefgh", KEY_TOKENS_PER_MINUTE="200")
    program.until_ready()
    bad = CHAT | {"max_tokens": -1}
    assert [ask(program, "/v1/chat/completions", bad) for _ in range(3)] == [400] * 3
    assert ask(program, "/tokenize", CHAT | {"max_tokens": None}) == 200
    assert ask(program, "/v1/chat/completions", CHAT) == 200
    assert ask(program, "/v1/chat/completions", CHAT) == 429


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions/batch", {"model": "fake", "messages": [CHAT["messages"]] * 100}),
        ("/v1/chat/completions", CHAT | {"n": 100}),
    ],
    ids=["conversations", "choices"],
)
def test_many_in_one(start: StartProgram, path: str, body: dict[str, Any]) -> None:
    """A request for a hundred answers is a hundred requests."""
    program = start(API_KEYS="team:sk-abcdefgh", KEY_REQUESTS_PER_MINUTE="60")
    program.until_ready()
    assert ask(program, path, body) != 429
    answer = program.client.post("/v1/chat/completions", json=CHAT, headers=KEY)
    assert (answer.status_code, 35 <= int(answer.headers["retry-after"]) <= 41) == (429, True)


def test_a_batch_that_cannot_be_counted(start: StartProgram) -> None:
    """It counts as what it may hold at most: a slip of the pen does not take every place and a day's requests."""
    program = start(API_KEYS="team:sk-abcdefgh", KEY_REQUESTS_PER_MINUTE="60")
    program.until_ready()
    path = "/v1/chat/completions/batch"
    broken = program.client.post(path, content=b'{"messages": [[{}', headers=KEY)
    assert broken.status_code != 429
    assert ask(program, "/v1/chat/completions", CHAT) == 200
