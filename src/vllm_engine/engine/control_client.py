"""A small client for the engine's own HTTP API: health, metrics, the model list, and one generated token."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Any

import aiohttp

from vllm_engine.engine.activity import OneTokenChecks
from vllm_engine.system.shortage import is_own_shortage

_BASE = "http://engine"
_METRICS_TIMEOUT = aiohttp.ClientTimeout(total=5.0)
"""Below Prometheus' own limit, 10 s by default."""
_MAX_METRICS_BYTES = 16 << 20
_DESCRIPTION_TIMEOUT = aiohttp.ClientTimeout(total=60.0)
"""vLLM takes seconds to make the first one."""
_MAX_DESCRIPTION_BYTES = 8 << 20
_MAX_MODELS_BYTES = 1 << 20
_NO_TIMEOUT = aiohttp.ClientTimeout()


class Health(StrEnum):
    """The outcome of a request to `/health`."""

    GOOD = "good"
    DEAD = "dead"
    """503: vLLM says that its engine core is dead (0.32's `entrypoints/serve/instrumentator/health.py`)."""
    NOT_LISTENING = "not listening"
    HUNG_UP = "hung up"
    """The connection was accepted and closed without an answer, as libuv does when it is out of files."""
    NO_ANSWER = "no answer"
    """No answer in time, or another status: a fault of the API process alone."""
    NOT_ASKED = "not asked"
    """This process is out of files or memory: nothing is known about the engine."""

    @property
    def is_lost(self) -> bool:
        """Whether the engine is dead, or was about to be when it was asked."""
        return self in (Health.DEAD, Health.NOT_LISTENING, Health.HUNG_UP)

    @property
    def is_certain(self) -> bool:
        """Whether the engine gave evidence in either direction."""
        return self not in (Health.NO_ANSWER, Health.NOT_ASKED)


class ControlError(Exception):
    """The engine did not answer as an engine that can serve does."""


class NotAskedError(ControlError):
    """This process is out of files or memory and could not ask: nothing is known about the engine."""


class ControlClient:
    """The client of one engine; a context manager that owns its connections."""

    def __init__(
        self, socket: Path, *, timeout_seconds: float = 10.0, own: OneTokenChecks | None = None
    ) -> None:
        """Take the engine's socket, the default timeout, and the counter of one-token checks."""
        self._own = own or OneTokenChecks()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=str(socket), force_close=True),
            timeout=aiohttp.ClientTimeout(total=timeout_seconds),
        )

    async def __aenter__(self) -> ControlClient:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._session.close()

    async def health(self) -> Health:
        """Ask `/health`, which vLLM's API process answers: 200 does not prove that the core generates."""
        try:
            async with self._session.get(f"{_BASE}/health") as response:
                return {200: Health.GOOD, 503: Health.DEAD}.get(response.status, Health.NO_ANSWER)
        except TimeoutError:
            return Health.NO_ANSWER
        except (aiohttp.ClientError, OSError) as error:
            if is_own_shortage(error):
                return Health.NOT_ASKED
            is_refused = isinstance(error, aiohttp.ClientConnectorError)
            return Health.NOT_LISTENING if is_refused else Health.HUNG_UP

    async def metrics(self) -> bytes | None:
        """Return vLLM's metrics as Prometheus text; None if they cannot be had, or are more than 16 MiB."""
        try:
            return await self._metrics()
        except NotAskedError:
            return None

    async def description(self) -> bytes | None:
        """Return vLLM's OpenAPI document; None if it has none, as its Rust frontend.

        The first one after a start takes its API process, which does nothing else meanwhile, seconds.

        Raises:
            ControlError: it did not answer, or with more than 8 MiB.
        """
        status, text = await self._get("/openapi.json", _DESCRIPTION_TIMEOUT, _MAX_DESCRIPTION_BYTES)
        if status == 404:
            return None
        if status != 200 or text is None:
            raise ControlError(f"/openapi.json answered {status}, or too much")
        return text

    async def _metrics(self) -> bytes | None:
        try:
            status, text = await self._get("/metrics", _METRICS_TIMEOUT, _MAX_METRICS_BYTES)
        except NotAskedError:
            raise
        except ControlError:
            return None
        return text if status == 200 else None

    async def _get(self, path: str, limit: aiohttp.ClientTimeout, most: int) -> tuple[int, bytes | None]:
        """Return the status and the body; None in its place if it is larger than `most` bytes."""
        try:
            async with self._session.get(_BASE + path, timeout=limit) as response:
                text = bytearray()
                async for piece in response.content.iter_any():
                    text += piece
                    if len(text) > most:
                        return response.status, None
                return response.status, bytes(text)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if is_own_shortage(error):
                raise NotAskedError(f"cannot ask for {path}: {error}") from error
            raise ControlError(f"{path} did not answer: {type(error).__name__} {error}".rstrip()) from error

    async def counters(self) -> int | None:
        """Return a hash of vLLM's metrics, which changes whenever its engine core works; None without them.

        The core sends its numbers with each of its steps, those of a long prefill too (0.32's
        `v1/engine/core.py`), so they stand still when it does.

        Raises:
            NotAskedError: it could not be asked.
        """
        text = await self._metrics()
        if text is None:
            return None
        return hash(tuple(line for line in text.splitlines() if line.startswith(b"vllm:")))

    async def models(self) -> bytes:
        """Ask for `/v1/models`, and return the answer as it was sent.

        Raises:
            ControlError: it did not answer with a list of models.
        """
        status, text = await self._get("/v1/models", self._session.timeout, _MAX_MODELS_BYTES)
        if status != 200 or text is None:
            raise ControlError(f"/v1/models answered {status}, or too much: {(text or b'')[:300]!r}")
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise ControlError(f"/v1/models answered with what is not JSON: {text!r:.200}") from error
        if not (isinstance(answer, dict) and isinstance(answer.get("data"), list)):
            raise ControlError(f"/v1/models answered without a list of models: {answer!r:.200}")
        return text

    async def generate_one(self, model: str) -> None:
        """Generate one token, the only proof that the engine core works; without a time limit of its own.

        Succeeds for a model that cannot generate, such as an embedding model: vLLM then has no such route.

        Raises:
            ControlError: no token came.
            NotAskedError: it could not be asked.
        """
        body = {"model": model, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
        prompt_tokens, has_run = None, True
        self._own.begin()
        try:
            answer = await self._json("POST", "/v1/completions", body, absent_ok=True, limit=_NO_TIMEOUT)
            has_run = bool(answer)
            if answer and not answer.get("choices"):
                raise ControlError(f"/v1/completions answered without a choice: {answer!r:.200}")
            usage = answer.get("usage")
            prompt_tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        except NotAskedError:
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
        limit: aiohttp.ClientTimeout | None = None,
    ) -> dict[str, Any]:
        limit = limit or self._session.timeout
        try:
            async with self._session.request(method, _BASE + path, json=body, timeout=limit) as response:
                text = await response.text(errors="replace")
                if absent_ok and response.status == 404 and "does not exist" not in text:
                    return {}
                if response.status != 200:
                    raise ControlError(f"{path} answered {response.status}: {text[:300]}")
                answer = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            if is_own_shortage(error):
                raise NotAskedError(f"{path} cannot be asked: {error}") from error
            raise ControlError(f"{path} did not answer: {type(error).__name__} {error}".rstrip()) from error
        if not isinstance(answer, dict):
            raise ControlError(f"{path} answered with something other than a JSON object: {answer!r:.200}")
        return answer
