"""Waiting for a server: what is told meanwhile, and each way in which the wait ends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from vllm_engine.client import wait_ready
from vllm_engine.client.api_client import Client, Reply, Server, ServerError
from vllm_engine.errors import StartupError, StartupTimeoutError

ERROR = {"code": "disk-full", "message": "the disk is full", "remedy": "make room"}


class Scripted(Client):
    """A client whose server answers from a list, and then always the same."""

    def __init__(self, replies: Iterable[Reply | ServerError]) -> None:
        super().__init__(Server("http://h"))
        self._replies = list(replies)

    async def ask(self, path: str, body: object = None, *, seconds: float | None = None) -> Reply:
        reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        if isinstance(reply, ServerError):
            raise reply
        return reply


def loading(phase: str, **more: Any) -> Reply:
    """Return what /healthz says during a start."""
    return Reply(503, {"state": "starting", "phase": phase, "download": None} | more, "")


async def waited(*replies: Reply | ServerError, seconds: float = 60.0, listening: float = 60.0) -> list[str]:
    """Wait, without pauses, and return what was told."""
    told: list[str] = []
    await wait_ready.until_ready(Scripted(replies), told.append, seconds=seconds, listening_seconds=listening)
    return told


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask again at once."""
    monkeypatch.setattr(wait_ready, "_POLL_SECONDS", 0.0)


async def test_phases_are_told_once() -> None:
    """Each change is told once, with how far it is."""
    told = await waited(
        ServerError("no server answers"),
        loading("importing"),
        loading("importing"),
        loading("downloading", download={"bytes_done": 5_000_000, "bytes_total": 9_000_000}),
        loading("loading weights", phase_fraction=0.5),
        Reply(200, {}, ""),
    )
    assert told == ["no server answers", "importing", "downloading, 5 MB of 9 MB", "loading weights, 50%"]


@pytest.mark.parametrize("status", [200, 404, 401])
async def test_no_such_probe(status: int) -> None:
    """Other servers have no such probe: whatever they answer, they answer."""
    assert await waited(Reply(status, None, "")) == []


async def test_failed() -> None:
    """A failure ends the wait with the server's own words."""
    with pytest.raises(StartupError) as raised:
        await waited(Reply(503, {"state": "failed", "phase": "importing", "error": ERROR}, ""))
    diagnosis = raised.value.diagnosis
    assert (diagnosis.code, diagnosis.message, diagnosis.remedy) == tuple(ERROR.values())


async def test_too_long() -> None:
    """A start that takes too long says where it was; a server that is not there is told at once."""
    with pytest.raises(StartupTimeoutError, match="not ready after 0 s; it was at: compiling"):
        await waited(loading("compiling"), seconds=0.0)
    with pytest.raises(ServerError, match="nobody"):
        await waited(ServerError("nobody"), listening=0.0)


async def test_503_of_another_server() -> None:
    """A 503 in another shape is waited out as well."""
    assert await waited(Reply(503, {"error": {"message": "Loading model"}}, ""), Reply(200, {}, "")) == [
        "Loading model"
    ]
