"""Reads a model's config.json and the sizes of its files from the hub, where no hub client is installed.

The routes are the hub's: `GET /api/models/ID/revision/REV?blobs=true` and `GET /ID/resolve/REV/FILE`, errors
have an `X-Error-Code` (huggingface_hub 2.4, `hf_raise_for_status`). Nothing is cached.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import aiohttp

from vllm_engine.config.library_variables import is_hub_offline
from vllm_engine.config.settings import Settings
from vllm_engine.errors import ModelError
from vllm_engine.models.engine_script import ScriptError
from vllm_engine.models.engine_scripts.hub_files import INDEX, HubFile, Listing
from vllm_engine.models.hub_errors import explain_hub_error
from vllm_engine.models.model_source import Model

_HUB = "https://huggingface.co"
_SECONDS = aiohttp.ClientTimeout(total=60, connect=10)
_LONGEST = 64 << 20
"""Bytes of the largest answer that is read: a large model's index has a few MB."""
_KINDS = {"GatedRepo": "gated", "RepoNotFound": "not_found", "RevisionNotFound": "revision"}


async def look_over_http(settings: Settings, environ: Mapping[str, str]) -> Model:
    """Return a hub's model: its config.json and its files, no chat format.

    Args:
        settings: `MODEL_ID`, `MODEL_REVISION` and `HF_TOKEN` are used.
        environ: `HF_ENDPOINT` and `HF_HUB_OFFLINE` are used, and the proxies' variables.

    Raises:
        ModelError: there is no such model, or it may not or cannot be fetched.
    """
    endpoint = environ.get("HF_ENDPOINT", "").rstrip("/")
    try:
        if is_hub_offline(environ):
            raise ScriptError("offline", "HF_HUB_OFFLINE is set")
        return await _look(settings, endpoint or _HUB)
    except ScriptError as error:
        raise ModelError(explain_hub_error(settings, error, endpoint)) from error


async def _look(settings: Settings, hub: str) -> Model:
    token = settings.hf_token
    headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
    model, revision = quote(settings.model_id), quote(settings.model_revision or "main", safe="")
    async with aiohttp.ClientSession(headers=headers, timeout=_SECONDS, trust_env=True) as session:
        info = await _json(session, f"{hub}/api/models/{model}/revision/{revision}?blobs=true")
        files = tuple(
            HubFile(str(each["rfilename"]), int(each.get("size") or 0), "")
            for each in info.get("siblings", ())
        )
        names = {file.path for file in files}
        commit = str(info.get("sha") or revision)
        config = (
            await _json(session, f"{hub}/{model}/resolve/{commit}/config.json")
            if "config.json" in names
            else {}
        )
        index = await _json(session, f"{hub}/{model}/resolve/{commit}/{INDEX}") if INDEX in names else {}
    weights = index.get("weight_map")
    indexed = tuple(sorted(set(map(str, weights.values())))) if isinstance(weights, Mapping) else None
    return Model(settings.model_id, commit, config, listing=Listing(files, indexed))


async def _json(session: aiohttp.ClientSession, url: str) -> Mapping[str, Any]:
    try:
        async with session.get(url) as response:
            if response.status >= 400:
                raise _error(response)
            found = json.loads(await _bounded(response))
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ScriptError("unreachable", f"{type(error).__name__}: {error}") from error
    except ValueError as error:
        raise ScriptError("damaged", f"the hub's answer to {url} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ScriptError("damaged", f"the hub's answer to {url} is not a JSON object")
    return found


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_chunked(1 << 16):
        parts.append(part)
        size += len(part)
        if size > _LONGEST:
            raise ScriptError("damaged", f"the hub's answer to {response.url} is too large")
    return b"".join(parts)


def _error(response: aiohttp.ClientResponse) -> ScriptError:
    code = response.headers.get("X-Error-Code", "")
    by_status = {401: "not_found", 403: "gated", 404: "not_found", 429: "server"}
    kind = (
        _KINDS.get(code)
        or by_status.get(response.status)
        or ("server" if response.status >= 500 else "other")
    )
    return ScriptError(kind, f"status {response.status} {code}".strip())
