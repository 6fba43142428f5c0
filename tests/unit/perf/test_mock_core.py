"""A mock engine core gives each stream its tokens, each client its own, and stands where vLLM's process manager looks."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from perf.mock_core import core_hook, mock_process
from perf.mock_core.server_environment import mock_environment, set_pace
from perf.mock_core.token_streams import FIRST_TOKEN, Stream, TokenStreams

LENGTH = "length"


def output(request_id: str, tokens: list[int], **more: Any) -> dict[str, Any]:
    return {"id": request_id, "tokens": tokens, **more}


def streams() -> TokenStreams:
    return TokenStreams(output, lambda stream: {"prompt": stream.prompt_tokens}, LENGTH)


def run_out(running: TokenStreams) -> dict[str, list[Any]]:
    """Step until nothing runs; returns the outputs of each request."""
    seen: dict[str, list[Any]] = defaultdict(list)
    while len(running):
        for step in running.step().values():
            for one in step.outputs:
                seen[one["id"]].append(one)
    return seen


@pytest.mark.parametrize("max_tokens", [1, 3])
def test_a_stream_gets_as_many_tokens_as_it_asked_for(max_tokens: int) -> None:
    running = streams()
    running.add(Stream("a", 0, 7, max_tokens))
    seen = run_out(running)["a"]
    assert [one["tokens"] for one in seen] == [[FIRST_TOKEN + number] for number in range(max_tokens)]
    assert [one.get("prompt") for one in seen] == [7] + [None] * (max_tokens - 1)
    assert [one.get("finish_reason") for one in seen] == [None] * (max_tokens - 1) + [LENGTH]


def test_a_step_is_one_message_for_each_client_that_has_streams() -> None:
    running = streams()
    for name, client, tokens in (("a", 0, 2), ("b", 1, 1), ("c", 0, 1)):
        running.add(Stream(name, client, 1, tokens))
    steps = running.step()
    assert {client: [one["id"] for one in step.outputs] for client, step in steps.items()} == {
        0: ["a", "c"],
        1: ["b"],
    }
    assert {client: step.finished for client, step in steps.items()} == {0: {"c"}, 1: {"b"}}
    assert list(running.step()) == [0]
    assert not running.step()


def test_an_aborted_stream_gets_nothing_more() -> None:
    running = streams()
    running.add(Stream("a", 0, 1, 5))
    running.step()
    running.abort(["a", "never heard of"])
    assert not len(running)
    assert not running.step()


def test_vllm_starts_the_mock_and_nothing_on_disk_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "vllm" / "v1" / "engine"
    package.mkdir(parents=True)
    for folder in (package, *package.parents[:2]):
        (folder / "__init__.py").write_text("")
    (package / "core.py").write_text(
        "class EngineCoreProc:\n    @staticmethod\n    def run_engine_core(): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    core_hook.install()
    try:
        core: Any = __import__(core_hook.REPLACED_IN, fromlist=["EngineCoreProc"])
        assert core.EngineCoreProc.run_engine_core is mock_process.run_engine_core
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
            del sys.modules[name]


def test_a_vllm_that_starts_its_core_otherwise_is_refused() -> None:
    with pytest.raises(AttributeError, match="run_engine_core"):
        core_hook.replace(SimpleNamespace(EngineCoreProc=SimpleNamespace()))


def test_the_pace_is_what_the_file_says_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = mock_environment(tmp_path, 20)
    monkeypatch.setenv(mock_process.PACE_FILE, environ[mock_process.PACE_FILE])
    assert mock_process.pace() == pytest.approx(1 / 20)
    set_pace(tmp_path, 0)
    assert mock_process.pace() == 0.0
