"""The clients people have work with us unmodified: only the base URL is ours."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.e2e.conftest import CACHE_DIR, MODEL, Served, ready
from tests.support.client_tools import LOCKS, bin_path, node_modules, python_with, run_script
from tests.support.doc_blocks import ROOT, Block, blocks

pytestmark = pytest.mark.e2e

WITH_TOOLS = os.environ.get("TEST_TOOLS") == "1"
PAGE_URL = "http://127.0.0.1:8000"
"""What the page calls the server."""

QUESTION = "What is the capital of Japan?"
SCHEMA: dict[str, Any] = {
    "type": "object", "additionalProperties": False, "required": ["city"],
    "properties": {"city": {"type": "string", "enum": ["Tokyo", "Rome"]}},
}  # fmt: skip
"""What a small model can be held to: it is too small to call tools."""
ASK: Any = {
    "model": MODEL,
    "messages": [{"role": "user", "content": QUESTION}],
    "max_tokens": 16,
    "temperature": 0,
}


def test_openai_schema(client: OpenAI) -> None:
    """The OpenAI SDK gets an answer held to a schema, whole and in a stream."""
    held = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}
    ask: Any = ASK | {"response_format": held, "max_tokens": 48}
    whole = client.chat.completions.create(**ask).choices[0].message.content or ""
    assert json.loads(whole)["city"] in ("Tokyo", "Rome")
    with client.chat.completions.stream(**ask) as stream:
        assert stream.get_final_completion().choices[0].message.content == whole


def test_openai_async(served: Served) -> None:
    """The OpenAI SDK's asynchronous client: several questions and streams at once."""

    async def all_of_them() -> list[str]:
        async with AsyncOpenAI(base_url=f"{served.program.url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(ask(client) for ask in (whole, streamed) * 4))

    async def whole(client: AsyncOpenAI) -> str:
        return (await client.chat.completions.create(**ASK)).choices[0].message.content or ""

    async def streamed(client: AsyncOpenAI) -> str:
        stream = await client.chat.completions.create(**ASK, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    assert all("Tokyo" in text for text in asyncio.run(all_of_them()))


def test_openai_responses_stream(client: OpenAI) -> None:
    """The OpenAI SDK reads the events of the responses API."""
    with client.responses.stream(model=MODEL, input=QUESTION, max_output_tokens=16, temperature=0) as stream:
        kinds = [event.type for event in stream]
        assert "Tokyo" in stream.get_final_response().output_text
    assert kinds[0] == "response.created"
    assert kinds.count("response.output_text.delta") > 3


def test_anthropic(served: Served) -> None:
    """Anthropic's SDK: messages, their stream, and the count of tokens."""
    asked: Any = {"model": MODEL, "messages": ASK["messages"]}
    ask: Any = asked | {"max_tokens": 16, "extra_body": {"temperature": 0}}
    with anthropic.Anthropic(base_url=served.program.url, api_key="none", max_retries=0) as client:
        (block,) = client.messages.create(**ask).content
        assert block.type == "text"
        assert "Tokyo" in block.text
        with client.messages.stream(**ask) as stream:
            pieces = list(stream.text_stream)
            assert stream.get_final_message().usage.output_tokens > 3
        assert "".join(pieces) == block.text
        assert len(pieces) > 3
        assert client.messages.count_tokens(**asked).input_tokens > 5
        with pytest.raises(anthropic.NotFoundError):
            client.messages.create(**(asked | {"model": "nobody/nothing"}), max_tokens=1)


JAVASCRIPT = """
import OpenAI from "openai";

const env = process.env;
const client = new OpenAI({ baseURL: env.BASE_URL + "/v1", apiKey: "none", maxRetries: 0 });
const models = await client.models.list();
const messages = [{ role: "user", content: "Hi" }];
const refused = await client.chat.completions.create({ model: env.MODEL, messages, temperature: -1 }).catch((e) => e);
console.log(JSON.stringify({ model: models.data[0].id, status: refused.status, message: refused.message }));
"""


def test_javascript_errors(served: Served, tmp_path: Path) -> None:
    """The OpenAI SDK for JavaScript reads the list of models, and an error as one."""
    (tmp_path / "node_modules").symlink_to(node_modules(CACHE_DIR))
    said = json.loads(run_script(["node"], JAVASCRIPT, tmp_path, BASE_URL=served.program.url, MODEL=MODEL))
    assert (said["model"], said["status"]) == (MODEL, 400)
    assert "temperature" in said["message"]


RECIPES = [block for block in blocks(ROOT / "docs/use/clients.md") if block.kind == "run"]


@pytest.fixture(scope="session")
def served_with_tools(engine_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An engine that takes requests with tools."""
    if not WITH_TOOLS:
        pytest.skip("NOT TESTED: calls of tools; TEST_TOOLS=1 starts another engine for them")
    tools = {"TOOL_CALL_PARSER": "hermes"}
    with ready(tmp_path_factory.mktemp("tools"), **tools) as program:
        yield Served(program)


@pytest.mark.parametrize("recipe", [each for each in RECIPES if "; says: " in each.said], ids=str)
def test_recipe(request: pytest.FixtureRequest, tmp_path: Path, recipe: Block) -> None:
    """Each recipe of the page runs as it stands there, but for the port, and says what it shall."""
    client, _, expected = recipe.said.partition("; says: ")
    client, _, needs = client.partition(" with ")
    served: Served = request.getfixturevalue("served_with_tools" if needs == "tools" else "served")
    for block in RECIPES:
        if block.said.startswith(f"{client} as "):
            (tmp_path / block.said.rpartition(" ")[2]).write_text(at_port(block.text, served))
    variables = {"LLM_USER_PATH": str(tmp_path), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    command = [{"javascript": "node", "bash": "bash"}.get(recipe.language, "")]
    if client == "js":
        (tmp_path / "node_modules").symlink_to(node_modules(CACHE_DIR))
    elif client == "terminal":
        variables["PATH"] = bin_path(Path(sys.executable))
    elif client != "curl":
        python = python_with(client, CACHE_DIR)
        variables["PATH"] = bin_path(python)
        command = command if recipe.language == "bash" else [str(python)]
    assert expected in run_script(command, at_port(recipe.text, served), tmp_path, **variables)


def at_port(text: str, served: Served) -> str:
    """Return a recipe's text with the address of the server under test."""
    return text.replace(PAGE_URL, served.program.url)


def test_recipes_have_locks() -> None:
    """Every lock of a client that is there for the page is used by it."""
    used = {re.split("; | as | with ", recipe.said)[0] for recipe in RECIPES}
    locks = {path.stem for path in LOCKS.glob("*.txt")} - {"schemathesis", "trl"}
    assert used == {"curl", "terminal", "js"} | locks


@pytest.mark.parametrize(
    ("version", "stream"), [("--http1.0", False), ("--http1.0", True), ("--http2", True)]
)
def test_curl(served: Served, version: str, stream: bool) -> None:
    """curl, with each version of HTTP that it may ask for, gets a whole answer and no framing in it."""
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("NOT TESTED: no curl on PATH")
    url, body = f"{served.program.url}/v1/chat/completions", json.dumps(ASK | {"stream": stream})
    quiet = ("--silent", "--show-error", "--fail-with-body", "--no-buffer", "--max-time", "60")
    command = [curl, *quiet, version, url, "--json", body]
    done = subprocess.run(command, env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    if stream:
        events = [event.removeprefix("data: ") for event in done.stdout.split("\n\n")]
        assert events[-2:] == ["[DONE]", ""]
        texts = [json.loads(event)["choices"][0]["delta"].get("content", "") for event in events[:-2]]
        assert "Tokyo" in "".join(texts)
    else:
        assert "Tokyo" in json.loads(done.stdout)["choices"][0]["message"]["content"]
