"""The first question to a server that has just started, and how to ask it yourself."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import aclosing

from vllm_engine.client.api_client import Client, Server

_MAX_TOKENS = 64


async def ask(
    server: Server, model: str, question: str, on_text: Callable[[str], None]
) -> tuple[float, float]:
    """Stream one chat completion; returns the seconds to the first token and to the end of the answer.

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
    async with Client(server) as client, aclosing(client.chat(body)) as answer:
        async for piece in answer:
            if piece.text:
                first = first or time.monotonic() - sent
                on_text(piece.text)
    return first, time.monotonic() - sent


def examples(base_url: str, model: str) -> str:
    """Return commands for curl and OpenAI's SDK to paste."""
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
