"""Beside the server: show how the start goes, then put one question to the model, as a user would."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import aiohttp

from vllm_engine.engine.state import EngineState, EngineStatus, StatusReader

QUESTION = "What is the capital of France?"
_MAX_TOKENS = 64


@dataclass(frozen=True)
class Answer:
    """What came of the question; seconds are from sending it."""

    text: str
    first_token_seconds: float
    seconds: float


async def follow(status: StatusReader) -> AsyncIterator[EngineStatus]:
    """Yield the status as it is and after every change, until the start is over."""
    changes: asyncio.Queue[EngineStatus] = asyncio.Queue()
    changes.put_nowait(status.current)
    end = status.watch(changes.put_nowait)
    try:
        while True:
            current = await changes.get()
            yield current
            if current.state is not EngineState.STARTING:
                return
    finally:
        end()


async def ask(
    base_url: str,
    model: str,
    question: str,
    on_text: Callable[[str], None],
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """Stream one chat completion over TCP, like any client.

    Args:
        base_url: where the gateway listens, without `/v1`.
        model: the served name.
        question: what the user says.
        on_text: told each piece of the answer as it comes.
        tls: whom to trust, where the server speaks HTTPS.

    Raises:
        aiohttp.ClientError: the server did not answer with 200.
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": _MAX_TOKENS,
        "temperature": 0,
        "stream": True,
    }
    sent = time.monotonic()
    first = 0.0
    pieces: list[str] = []
    async with (
        aiohttp.ClientSession(raise_for_status=True) as session,
        session.post(f"{base_url}/v1/chat/completions", json=body, ssl=tls or True) as response,
    ):
        async for raw in response.content:
            text = _delta(raw)
            if text:
                first = first or time.monotonic() - sent
                pieces.append(text)
                on_text(text)
    return Answer("".join(pieces), first, time.monotonic() - sent)


def recipes(base_url: str, model: str) -> str:
    """Return curl and OpenAI SDK lines to paste."""
    return f"""\
curl {base_url}/v1/chat/completions -H 'Content-Type: application/json' \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Tell me a joke."}}]}}'

from openai import OpenAI
client = OpenAI(base_url="{base_url}/v1", api_key="none")
chat = client.chat.completions.create(
    model="{model}", messages=[{{"role": "user", "content": "Tell me a joke."}}]
)
print(chat.choices[0].message.content)
"""


def client_url(host: str, port: int, *, is_tls: bool = False) -> str:
    """Return the URL by which a client on this machine reaches a server that listens on `host`."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104 - a look-up, no binding
    if ":" in reachable and not reachable.startswith("["):
        reachable = f"[{reachable}]"
    return f"{'https' if is_tls else 'http'}://{reachable}:{port}"


def _delta(raw: bytes) -> str:
    if not raw.startswith(b"data: ") or raw.startswith(b"data: [DONE]"):
        return ""
    choices = json.loads(raw[6:]).get("choices") or [{}]
    return choices[0].get("delta", {}).get("content") or ""
