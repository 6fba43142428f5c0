"""Questions to the engine over its Unix socket: is it healthy, what does it serve, does it generate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp

_BASE = "http://engine"


class ProbeError(Exception):
    """The engine did not answer as one that can serve would."""


class EngineProbe:
    """Asks one engine; a context manager that owns its connections."""

    def __init__(self, socket: Path, *, timeout_seconds: float = 10.0) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=str(socket), force_close=True),
            timeout=aiohttp.ClientTimeout(total=timeout_seconds),
        )

    async def __aenter__(self) -> EngineProbe:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._session.close()

    async def is_healthy(self) -> bool:
        """Ask `/health`; a socket that is not there yet or does not listen is just not healthy."""
        try:
            async with self._session.get(f"{_BASE}/health") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

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

        A model that does not generate (an embedding model: vLLM then has no such route) passes.

        Raises:
            ProbeError: no token came.
        """
        body = {"model": model, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
        answer = await self._json("POST", "/v1/completions", body, absent_ok=True)
        if answer and not answer.get("choices"):
            raise ProbeError(f"/v1/completions answered without a choice: {answer!r:.200}")

    async def _json(
        self, method: str, path: str, body: object = None, *, absent_ok: bool = False
    ) -> dict[str, Any]:
        try:
            async with self._session.request(method, _BASE + path, json=body) as response:
                text = await response.text(errors="replace")
                if absent_ok and response.status == 404 and "does not exist" not in text:
                    return {}
                if response.status != 200:
                    raise ProbeError(f"{path} answered {response.status}: {text[:300]}")
                answer = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ProbeError(f"{path} did not answer: {type(error).__name__} {error}".rstrip()) from error
        if not isinstance(answer, dict):
            raise ProbeError(f"{path} answered something else than an object: {answer!r:.200}")
        return answer
