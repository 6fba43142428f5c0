"""A hub's model without a hub client: its config.json and files over HTTP, and what each of its refusals is called."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from vllm_engine.config.settings import Settings
from vllm_engine.errors import ModelError
from vllm_engine.models.engine_scripts.hub_files import INDEX
from vllm_engine.models.hub_http import look_over_http
from vllm_engine.models.model_source import files_to_load

FILES = {
    "config.json": 10,
    "model-1.safetensors": 5000,
    "model-2.safetensors": 700,
    "old.safetensors": 9,
    INDEX: 20,
}
CONTENT = {
    "config.json": {"num_hidden_layers": 2},
    INDEX: {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}},
}
TOKEN = "hf_secret"


@asynccontextmanager
async def hub(answer: Callable[[web.Request], web.Response]) -> AsyncIterator[str]:
    async def handle(request: web.Request) -> web.Response:
        return answer(request)

    app = web.Application()
    app.router.add_get("/{tail:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def serve(request: web.Request) -> web.Response:
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"
    if request.path == "/api/models/org/model/revision/main":
        siblings = [{"rfilename": name, "size": size} for name, size in FILES.items()]
        return web.json_response({"sha": "abc", "siblings": siblings})
    return web.json_response(CONTENT[request.path.removeprefix("/org/model/resolve/abc/")])


def settings(**given: Any) -> Settings:
    return Settings(MODEL_ID="org/model", **given)


async def test_a_model() -> None:
    async with hub(serve) as url:
        found = await look_over_http(settings(HF_TOKEN=TOKEN), {"HF_ENDPOINT": f"{url}/"})
    wanted = files_to_load(found)
    assert (found.location, found.revision, found.config) == ("org/model", "abc", {"num_hidden_layers": 2})
    assert wanted is not None and wanted.weight_bytes == 5700


REFUSALS: list[tuple[int, str, str, str]] = [
    (401, "RepoNotFound", "", "model-not-found"),
    (401, "", "", "model-not-found"),
    (401, "GatedRepo", "", "hub-gated"),
    (403, "GatedRepo", "", "hub-gated"),
    (404, "RevisionNotFound", "", "revision-not-found"),
    (500, "", "", "hub-unreachable"),
    (429, "", "", "hub-unreachable"),
    (418, "", "", "model-unusable"),
    (200, "", "<html>", "corrupt-weights"),
    (200, "", "[]", "corrupt-weights"),
]


@pytest.mark.parametrize(("status", "error", "body", "code"), REFUSALS)
async def test_refusals(status: int, error: str, body: str, code: str) -> None:
    def refuse(_: web.Request) -> web.Response:
        return web.Response(status=status, headers={"X-Error-Code": error} if error else {}, text=body)

    async with hub(refuse) as url:
        with pytest.raises(ModelError) as refused:
            await look_over_http(settings(), {"HF_ENDPOINT": url})
    assert refused.value.diagnosis.code == code
    assert refused.value.diagnosis.remedy or code in ("model-unusable", "corrupt-weights")


async def test_no_network() -> None:
    for environ, code in (
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "hub-unreachable"),
        ({"HF_HUB_OFFLINE": "1"}, "not-cached-and-offline"),
    ):
        with pytest.raises(ModelError) as refused:
            await look_over_http(settings(), environ)
        assert refused.value.diagnosis.code == code
    assert json.dumps(str(refused.value))
