"""Waits, as any client can, until a server is ready: what it does meanwhile is shown, a failure is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from vllm_engine.client.api_client import Client, Reply, ServerError, message_of
from vllm_engine.errors import Diagnosis, StartupError, StartupTimeoutError
from vllm_engine.models.download_progress import human_bytes, human_seconds

_ASK_SECONDS = 10.0
_POLL_SECONDS = 0.5
_OVER = ("failed", "stopped", "draining")

Tell = Callable[[str], None]


async def until_ready(client: Client, tell: Tell, *, seconds: float, listening_seconds: float) -> None:
    """Poll `/healthz` until it says 200; a server without one (404) counts as ready.

    Args:
        client: of the server.
        tell: hears each change of what the server is doing, in a few words.
        seconds: how long all of it may take.
        listening_seconds: how long it may take until anything answers.

    Raises:
        ServerError: nothing listens there.
        StartupError: the start failed, with the server's own diagnosis; or it took too long.
    """
    began = time.monotonic()
    said = ""
    while True:
        try:
            reply = await client.ask("/healthz", seconds=_ASK_SECONDS)
        except ServerError as error:
            if time.monotonic() - began >= min(seconds, listening_seconds):
                raise
            words = str(error)
        else:
            if reply.status != 503:
                return
            words = _words_of(reply)
        if words != said:
            tell(words)
            said = words
        if time.monotonic() - began >= seconds:
            raise StartupTimeoutError(f"not ready after {human_seconds(seconds)}; it was at: {said}")
        await asyncio.sleep(_POLL_SECONDS)


def _words_of(reply: Reply) -> str:
    body = reply.body if isinstance(reply.body, Mapping) else {}
    if body.get("state") in _OVER:
        raise StartupError(_diagnosis(body, reply))
    if "phase" not in body:
        return message_of(reply)
    words = str(body["phase"])
    download = body.get("download")
    if download:
        words += f", {human_bytes(download['bytes_done'])}"
        words += f" of {human_bytes(download['bytes_total'])}" if download.get("bytes_total") else ""
    elif body.get("phase_fraction"):
        words += f", {body['phase_fraction']:.0%}"
    return words


def _diagnosis(body: Mapping[str, Any], reply: Reply) -> Diagnosis:
    error = body.get("error") or {}
    code = str(error.get("code") or body["state"])
    return Diagnosis(code, message_of(reply), str(error.get("remedy") or ""))
