"""The quick test of a server that runs: is it ready, does it answer, does it refuse what is wrong."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing

from vllm_engine.client.api_client import Client, ServerError, message_of, refusal
from vllm_engine.client.wait_ready import Tell, until_ready
from vllm_engine.doctor.check import Check, fail, ok
from vllm_engine.errors import EngineError

LISTENING_SECONDS = 30.0
"""The gateway listens within a second or two of its start: where nothing does by then, nothing will."""

_QUESTION = "What is the capital of Japan?"
_TOKENS = 16
_ANSWER_SECONDS = 300.0
_LOOK = "see the server's log, and docs/troubleshooting.md"


async def smoke(client: Client, model: str, tell: Tell, seconds: float) -> list[Check]:
    """Wait until the server is ready, then put one question of each kind to it.

    Args:
        client: of the server.
        model: whom to ask; empty for the first model that the server lists.
        tell: hears what the server does until it is ready.
        seconds: how long it may take to be ready.

    Returns:
        what each step found; only the first where the server does not become ready.
    """
    try:
        await until_ready(client, tell, seconds=seconds, listening_seconds=LISTENING_SECONDS)
    except ServerError as error:
        return [fail("ready", str(error), "start it with `vllm-engine serve`, or correct the address")]
    except EngineError as error:
        told = error.diagnosis
        return [fail("ready", f"{told.message} [{told.code}]", told.remedy or _LOOK)]
    checks = [ok("ready", f"{client.server.url} is ready"), await _step("version", _version(client))]
    try:
        model = model or await client.first_model()
    except ServerError as error:
        return [*checks, fail("models", str(error), _REMEDIES.get(error.status or 0, _LOOK))]
    steps: tuple[tuple[str, Callable[[Client, str], Awaitable[str]]], ...] = (
        ("chat", _chat),
        ("stream", _stream),
        ("no model", _wrong_model),
        ("bad body", _bad_body),
    )
    return [
        *checks,
        ok("models", f"it serves {model}"),
        *[await _step(id, step(client, model)) for id, step in steps],
    ]


_REMEDIES = {401: "give a key: VLLM_ENGINE_API_KEY"}


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
        raise ServerError(f"an answer without text: {reply.text[:200]}")
    return f"answered {text!r}"


async def _stream(client: Client, model: str) -> str:
    async with aclosing(client.chat(_body(model))) as stream:
        pieces = [piece.text for piece in [each async for each in stream] if piece.text]
    if not pieces:
        raise ServerError("a stream without text")
    return f"answered in {len(pieces)} pieces"


async def _wrong_model(client: Client, _model: str) -> str:
    return await _refused(client, _body("no-such/model"), 404)


async def _bad_body(client: Client, _model: str) -> str:
    return await _refused(client, b'{"messages": ', 400)


async def _refused(client: Client, body: object, status: int) -> str:
    reply = await client.ask("/v1/chat/completions", body, seconds=60)
    if reply.status != status:
        raise ServerError(f"status {reply.status} where {status} was due: {message_of(reply)}")
    if not (isinstance(reply.body, dict) and isinstance(reply.body.get("error"), dict)):
        raise ServerError(f"a refusal that is no OpenAI error: {reply.text[:200]}")
    return f"refused with {status}"


def _body(model: str) -> dict[str, object]:
    messages = [{"role": "user", "content": _QUESTION}]
    return {"model": model, "messages": messages, "max_tokens": _TOKENS, "temperature": 0}
