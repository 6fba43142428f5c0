"""Waiting for a server: the progress that is reported, and each way in which the wait ends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from vllm_engine.client import wait_ready
from vllm_engine.client.api_client import Client, Reply, Server, ServerError
from vllm_engine.errors import StartupError, StartupTimeoutError

ERROR = {"code": "disk-full", "message": "the disk is full", "remedy": "make room"}
READY = Reply(200, {}, "")


class Scripted(Client):
    """A client whose server answers from a list, and then always the same."""

    def __init__(self, replies: Iterable[Reply | ServerError], models: int = 200) -> None:
        super().__init__(Server("http://h"))
        self._replies, self._models = list(replies), models

    async def ask(self, path: str, body: object = None, *, seconds: float | None = None) -> Reply:
        if path == "/v1/models":
            return Reply(self._models, None, "")
        reply = self._replies.pop(0) if self._replies[1:] else self._replies[0]
        if isinstance(reply, ServerError):
            raise reply
        return reply


def loading(phase: str, **more: Any) -> Reply:
    return Reply(503, {"state": "starting", "phase": phase, "download": None} | more, "")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait_ready, "_POLL_SECONDS", 0.0)


async def waited(*replies: Reply | ServerError, seconds: float = 60.0, listening: float = 60.0) -> list[str]:
    told: list[str] = []
    await wait_ready.until_ready(Scripted(replies), told.append, seconds=seconds, listening_seconds=listening)
    return told


async def test_progress_is_told_once() -> None:
    download = {"bytes_done": 5_000_000, "bytes_total": 9_000_000}
    replies = [loading("importing")] * 2 + [loading("downloading", download=download)]
    replies += [loading("preparing", waits_for="node 1 (not connected)")]
    replies += [loading("loading weights", phase_fraction=0.5), READY]
    told = await waited(ServerError("cannot connect"), *replies)
    phases = [
        "importing",
        "downloading, 5 MB of 9 MB",
        "waiting for node 1 (not connected)",
        "loading weights, 50%",
    ]
    assert told == ["cannot connect", *(f"http://h is not ready yet: {each}" for each in phases)]


async def test_a_wrong_key_is_not_waited_for() -> None:
    client = Scripted([loading("importing")], models=401)
    with pytest.raises(ServerError, match="status 401"):
        await wait_ready.until_ready(client, lambda _: None, seconds=60.0, listening_seconds=60.0)


async def test_other_servers() -> None:
    """Whatever they answer without such a probe is an answer, and a 503 in another shape is waited out."""
    for status in (200, 404, 401):
        assert await waited(Reply(status, None, "")) == []
    loads = Reply(503, {"error": {"message": "Loading model"}}, "")
    assert await waited(loads, READY) == ["http://h is not ready yet: Loading model"]


async def test_failures() -> None:
    """A failed start ends it with the server's diagnosis, a long one with its progress; no server ends it at once."""
    with pytest.raises(StartupError) as raised:
        await waited(Reply(503, {"state": "failed", "phase": "importing", "error": ERROR}, ""))
    diagnosis = raised.value.diagnosis
    assert (diagnosis.code, diagnosis.message, diagnosis.remedy) == tuple(ERROR.values())
    with pytest.raises(
        StartupTimeoutError, match="not ready after 0 s; last progress: http://h is not ready yet: compiling"
    ):
        await waited(loading("compiling"), seconds=0.0)
    with pytest.raises(ServerError, match="nobody"):
        await waited(ServerError("nobody"), listening=0.0)
