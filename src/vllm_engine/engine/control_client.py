"""Questions to the engine over its Unix socket: is it healthy, what does it serve, does it generate."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any

import aiohttp

from vllm_engine.engine.activity import OwnQuestions
from vllm_engine.system.shortage import is_own_shortage

_BASE = "http://engine"
_METRICS_TIMEOUT = aiohttp.ClientTimeout(total=5.0)
_NO_TIMEOUT = aiohttp.ClientTimeout()


class Health(StrEnum):
    """What `/health` came to."""

    GOOD = "good"
    BAD = "bad"
    """It answered, and said that its engine core is dead (vLLM: 503)."""
    UNKNOWN = "unknown"
    """We could not ask, for want of files or memory of our own."""
    ABSENT = "absent"
    """Nobody listens on the socket."""
    SILENT = "silent"
    """No answer, or none in time, or one that says neither."""


class ProbeError(Exception):
    """The engine did not answer as one that can serve would."""


class UnaskedError(ProbeError):
    """The engine could not be asked, for want of files or memory of our own: that says nothing about it."""


class EngineProbe:
    """Asks one engine; a context manager that owns its connections."""

    def __init__(
        self, socket: Path, *, timeout_seconds: float = 10.0, own: OwnQuestions | None = None
    ) -> None:
        """Take the engine's socket, the patience with each answer, and where its generating is counted."""
        self._own = own or OwnQuestions()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=str(socket), force_close=True),
            timeout=aiohttp.ClientTimeout(total=timeout_seconds),
        )

    async def __aenter__(self) -> EngineProbe:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._session.close()

    async def health(self) -> Health:
        """Ask `/health`, which vLLM answers from its API process: it does not prove that tokens come."""
        try:
            async with self._session.get(f"{_BASE}/health") as response:
                # Any other status is a fault of the API process alone.
                return {200: Health.GOOD, 503: Health.BAD}.get(response.status, Health.SILENT)
        except TimeoutError:
            return Health.SILENT
        except (aiohttp.ClientError, OSError) as error:
            if is_own_shortage(error):
                return Health.UNKNOWN
            # Who takes a connection and closes it is there, and may be short of files (libuv does so then).
            return Health.ABSENT if isinstance(error, aiohttp.ClientConnectorError) else Health.SILENT

    async def counters(self) -> int | None:
        """Return a sum over vLLM's own metrics that changes whenever its engine core works.

        The core sends its numbers with each of its steps, those of a long prefill too (0.32's
        `v1/engine/core.py`), so they stand still when it does. None where they cannot be had.

        Raises:
            UnaskedError: it could not be asked.
        """
        try:
            async with self._session.get(f"{_BASE}/metrics", timeout=_METRICS_TIMEOUT) as response:
                text = await response.text(errors="replace")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if is_own_shortage(error):
                raise UnaskedError(f"/metrics could not be asked: {error}") from error
            return None
        return hash(tuple(line for line in text.splitlines() if line.startswith("vllm:")))

    async def served_models(self) -> tuple[str, ...]:
        """Return the ids that `/v1/models` lists.

        Raises:
            ProbeError: it does not answer with a list of models.
        """
        answer = await self._json("GET", "/v1/models")
        try:
            return tuple(str(item["id"]) for item in answer["data"])
        except (KeyError, TypeError) as error:
            raise ProbeError(f"/v1/models answered without a list of models: {answer!r:.200}") from error

    async def generate_one(self, model: str) -> None:
        """Have one token generated: the only proof that the engine works and not just its front.

        A model that does not generate (an embedding model: vLLM then has no such route) passes. Waits for as
        long as it takes: how long that may be is the caller's to say.

        Raises:
            ProbeError: no token came.
            UnaskedError: it could not be asked.
        """
        body = {"model": model, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
        prompt_tokens, has_run = None, True
        self._own.begin()
        try:
            answer = await self._json("POST", "/v1/completions", body, absent_ok=True, patience=_NO_TIMEOUT)
            has_run = bool(answer)
            if answer and not answer.get("choices"):
                raise ProbeError(f"/v1/completions answered without a choice: {answer!r:.200}")
            prompt_tokens = _prompt_tokens(answer)
        except UnaskedError:
            has_run = False
            raise
        finally:
            self._own.end(prompt_tokens, has_run=has_run)

    async def _json(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        absent_ok: bool = False,
        patience: aiohttp.ClientTimeout | None = None,
    ) -> dict[str, Any]:
        timeout = patience or self._session.timeout
        try:
            async with self._session.request(method, _BASE + path, json=body, timeout=timeout) as response:
                text = await response.text(errors="replace")
                if absent_ok and response.status == 404 and "does not exist" not in text:
                    return {}
                if response.status != 200:
                    raise ProbeError(f"{path} answered {response.status}: {text[:300]}")
                answer = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            if is_own_shortage(error):
                raise UnaskedError(f"{path} could not be asked: {error}") from error
            raise ProbeError(f"{path} did not answer: {type(error).__name__} {error}".rstrip()) from error
        if not isinstance(answer, dict):
            raise ProbeError(f"{path} answered something else than an object: {answer!r:.200}")
        return answer


def _prompt_tokens(answer: dict[str, Any]) -> int | None:
    usage = answer.get("usage")
    count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) else None
