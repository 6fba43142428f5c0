"""Beside the server: show how the start goes, then put one question to the model, as a user would."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from vllm_engine.client.api_client import Client, Server
from vllm_engine.engine.engine_state import EngineState, EngineStatus, StatusReader

QUESTION = "What is the capital of Japan?"
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
    api_key: str | None = None,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """Stream one chat completion over TCP, like any client.

    Args:
        base_url: where the gateway listens, without `/v1`.
        model: the served name.
        question: what the user says.
        on_text: told each piece of the answer as it comes.
        api_key: sent as a bearer key.
        tls: whom to trust, where the server speaks HTTPS.

    Raises:
        ServerError: the server did not answer, or not to the end.
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": _MAX_TOKENS,
        "temperature": 0,
    }
    sent = time.monotonic()
    first = 0.0
    pieces: list[str] = []
    async with Client(Server(base_url, api_key, tls)) as client, aclosing(client.chat(body)) as answer:
        async for piece in answer:
            if piece.text:
                first = first or time.monotonic() - sent
                pieces.append(piece.text)
                on_text(piece.text)
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
