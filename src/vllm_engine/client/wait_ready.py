"""Waits until a server is ready: reports its progress, and its own diagnosis if it fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from vllm_engine.client.api_client import Client, Reply, ServerError, message_of, refusal
from vllm_engine.errors import Diagnosis, StartupError, StartupTimeoutError
from vllm_engine.models.download_progress import human_bytes, human_seconds

_ASK_SECONDS = 10.0
_POLL_SECONDS = 0.5
_OVER = ("failed", "stopped", "draining")

Tell = Callable[[str], None]


async def until_ready(client: Client, tell: Tell, *, seconds: float, listening_seconds: float) -> None:
    """Poll `/healthz` until it says 200; a server without one (404) counts as ready.

    Args:
        client: a client of the server.
        tell: called with a short description whenever the progress changes.
        seconds: how long to wait in all.
        listening_seconds: how long to wait until anything answers.

    Raises:
        ServerError: nothing listens there, or the server rejects the key.
        StartupError: the start failed, with the server's own diagnosis, or took too long.
    """
    began = time.monotonic()
    said, is_key_known = "", False
    while True:
        try:
            reply = await client.ask("/healthz", seconds=_ASK_SECONDS)
        except ServerError as error:
            if time.monotonic() - began >= min(seconds, listening_seconds):
                raise
            text = str(error)
        else:
            if reply.status != 503:
                return
            text = f"{client.server.url} is not ready yet: {_progress(reply)}"
            is_key_known = is_key_known or await _check_key(client)
        if text != said:
            tell(text)
            said = text
        if time.monotonic() - began >= seconds:
            raise StartupTimeoutError(f"not ready after {human_seconds(seconds)}; last progress: {said}")
        await asyncio.sleep(_POLL_SECONDS)


async def _check_key(client: Client) -> bool:
    """Ask for the models, which a server lists during its start too; returns whether it answered."""
    try:
        reply = await client.ask("/v1/models", seconds=_ASK_SECONDS)
    except ServerError:
        return False
    if reply.status == 401:
        raise refusal(reply)
    return True


def _progress(reply: Reply) -> str:
    body = reply.body if isinstance(reply.body, Mapping) else {}
    if body.get("state") in _OVER:
        raise StartupError(_diagnosis(body, reply))
    if "phase" not in body:
        return message_of(reply)
    if body.get("waits_for"):
        return f"waiting for {body['waits_for']}"
    text = str(body["phase"])
    download = body.get("download")
    if download:
        text += f", {human_bytes(download['bytes_done'])}"
        text += f" of {human_bytes(download['bytes_total'])}" if download.get("bytes_total") else ""
    elif body.get("phase_fraction"):
        text += f", {body['phase_fraction']:.0%}"
    return text


def _diagnosis(body: Mapping[str, Any], reply: Reply) -> Diagnosis:
    error = body.get("error") or {}
    code = str(error.get("code") or body["state"])
    return Diagnosis(code, message_of(reply), str(error.get("remedy") or ""))
