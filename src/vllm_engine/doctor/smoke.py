"""A smoke test of a running server: it becomes ready, answers, streams and rejects invalid requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing

from vllm_engine.client import STANDARD_QUESTION
from vllm_engine.client.api_client import Client, ServerError, message_of, refusal
from vllm_engine.client.wait_ready import Tell, until_ready
from vllm_engine.doctor.check import Check, fail, ok
from vllm_engine.errors import EngineError

LISTENING_SECONDS = 30.0
"""The gateway listens within a second or two of its start; if nothing does by then, nothing will."""

_TOKENS = 16
_ANSWER_SECONDS = 300.0
_LOOK = "see the server's log and docs/operate/troubleshooting.md"


async def smoke(client: Client, model: str, tell: Tell, seconds: float) -> list[Check]:
    """Wait until the server is ready, then send it one request of each kind.

    Args:
        client: a client of the server.
        model: the model to ask for; empty for the first that the server lists.
        tell: called with the server's progress until it is ready.
        seconds: how long to wait until it is ready.

    Returns:
        The result of each step; only the first if the server does not become ready.
    """
    try:
        await until_ready(client, tell, seconds=seconds, listening_seconds=LISTENING_SECONDS)
    except ServerError as error:
        if error.status == 401:
            return [fail("models", str(error), _REMEDIES[401])]
        return [fail("ready", str(error), "start it with `vllm-engine serve`, or correct BASE_URL")]
    except EngineError as error:
        found = error.diagnosis
        return [fail("ready", f"{found.message} [{found.code}]", found.remedy or _LOOK)]
    checks = [ok("ready", f"{client.server.url} is ready"), await _step("version", _version(client))]
    try:
        model = model or await client.first_model()
    except ServerError as error:
        return [*checks, fail("models", str(error), _REMEDIES.get(error.status or 0, _LOOK))]
    steps: dict[str, Callable[[], Awaitable[str]]] = {
        "chat": lambda: _chat(client, model),
        "stream": lambda: _stream(client, model),
        "no model": lambda: _rejected(client, _body("no-such/model"), 404),
        "bad body": lambda: _rejected(client, b'{"messages": ', 400),
    }
    checks.append(ok("models", f"serves {model}"))
    return checks + [await _step(id, step()) for id, step in steps.items()]


_REMEDIES = {401: "set API_KEY to one of its keys (of an entry me:KEY in API_KEYS, only KEY)"}


async def _step(id: str, step: Awaitable[str]) -> Check:
    try:
        return ok(id, await step)
    except ServerError as error:
        return fail(id, str(error), _REMEDIES.get(error.status or 0, _LOOK))


async def _version(client: Client) -> str:
    reply = await client.ask("/version", seconds=30)
    if reply.status != 200 or not isinstance(reply.body, dict):
        raise refusal(reply)
    words = {name: reply.body.get(name) for name in ("version", "vllm", "model_revision", "dtype", "device")}
    return ", ".join(f"{name} {value}" for name, value in words.items() if value)


async def _chat(client: Client, model: str) -> str:
    reply = await client.ask("/v1/chat/completions", _body(model), seconds=_ANSWER_SECONDS)
    if reply.status != 200:
        raise refusal(reply)
    try:
        text = reply.body["choices"][0]["message"]["content"]
    except (LookupError, TypeError):
        text = None
    if not text:
        raise ServerError(f"expected an answer with text, got {reply.text[:200]}")
    return f"answered {text!r}"


async def _stream(client: Client, model: str) -> str:
    async with aclosing(client.chat(_body(model))) as stream:
        pieces = [piece.text for piece in [each async for each in stream] if piece.text]
    if not pieces:
        raise ServerError("expected a stream with text, got none")
    return f"answered in {len(pieces)} chunks"


async def _rejected(client: Client, body: object, status: int) -> str:
    reply = await client.ask("/v1/chat/completions", body, seconds=60)
    if reply.status != status:
        raise ServerError(f"expected status {status}, got {reply.status}: {message_of(reply)}")
    if not (isinstance(reply.body, dict) and isinstance(reply.body.get("error"), dict)):
        raise ServerError(f"expected an OpenAI error object, got {reply.text[:200]}")
    return f"rejected with {status}"


def _body(model: str) -> dict[str, object]:
    messages = [{"role": "user", "content": STANDARD_QUESTION}]
    return {"model": model, "messages": messages, "max_tokens": _TOKENS, "temperature": 0}
