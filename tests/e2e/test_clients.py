"""The clients people have work with us unmodified: only the base URL is ours."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import anthropic
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.client_tools import node_modules, python_with, run_script
from tests.e2e.conftest import CACHE_DIR, MODEL, Served

pytestmark = pytest.mark.e2e

QUESTION = "What is the capital of France?"
SCHEMA: dict[str, Any] = {
    "name": "place",
    "schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
"""What a small model can be held to: it is too small to call tools."""


def settings(served: Served) -> dict[str, str]:
    """Return what a client's script is told by its environment."""
    return {"BASE_URL": served.program.url, "MODEL": MODEL, "SCHEMA": json.dumps(SCHEMA)}


def assert_answered(said: dict[str, Any]) -> None:
    """A chat and a stream named Paris, and an answer held to a schema named a city."""
    assert "Paris" in said["chat"], said
    assert "Paris" in said["stream"], said
    assert said["pieces"] > 3, said
    assert said["held"]["city"] in ("Paris", "Rome"), said


def test_openai_schema(client: OpenAI) -> None:
    """The OpenAI SDK gets an answer held to a schema, whole and in a stream."""
    ask: Any = {
        "model": MODEL,
        "messages": [{"role": "user", "content": QUESTION}],
        "response_format": {"type": "json_schema", "json_schema": SCHEMA},
        "temperature": 0,
        "max_tokens": 48,
    }
    whole = client.chat.completions.create(**ask).choices[0].message.content or ""
    assert json.loads(whole)["city"] in ("Paris", "Rome")
    with client.chat.completions.stream(**ask) as stream:
        assert stream.get_final_completion().choices[0].message.content == whole


def test_openai_async(served: Served) -> None:
    """The OpenAI SDK's asynchronous client: several questions and streams at once."""

    async def all_of_them() -> list[str]:
        async with AsyncOpenAI(base_url=f"{served.program.url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(
                *(one(client) for _ in range(4)), *(streamed(client) for _ in range(4))
            )

    async def one(client: AsyncOpenAI) -> str:
        chat = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": QUESTION}], max_tokens=16, temperature=0
        )
        return chat.choices[0].message.content or ""

    async def streamed(client: AsyncOpenAI) -> str:
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": QUESTION}],
            max_tokens=16,
            temperature=0,
            stream=True,
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    assert all("Paris" in text for text in asyncio.run(all_of_them()))


def test_openai_responses_stream(client: OpenAI) -> None:
    """The OpenAI SDK reads the events of the responses API."""
    with client.responses.stream(model=MODEL, input=QUESTION, max_output_tokens=16, temperature=0) as stream:
        kinds = [event.type for event in stream]
        assert "Paris" in stream.get_final_response().output_text
    assert kinds[0] == "response.created"
    assert kinds.count("response.output_text.delta") > 3


def test_anthropic(served: Served) -> None:
    """Anthropic's SDK: messages, their stream, and the count of tokens."""
    with anthropic.Anthropic(base_url=served.program.url, api_key="none", max_retries=0) as client:
        ask: Any = {
            "model": MODEL,
            "max_tokens": 16,
            "extra_body": {"temperature": 0},
            "messages": [{"role": "user", "content": QUESTION}],
        }
        message = client.messages.create(**ask)
        (block,) = message.content
        assert block.type == "text"
        assert "Paris" in block.text
        with client.messages.stream(**ask) as stream:
            pieces = list(stream.text_stream)
            assert stream.get_final_message().usage.output_tokens > 3
        assert "".join(pieces) == block.text
        assert len(pieces) > 3
        del ask["max_tokens"], ask["extra_body"]
        assert client.messages.count_tokens(**ask).input_tokens > 5
        with pytest.raises(anthropic.NotFoundError):
            client.messages.create(model="nobody/nothing", max_tokens=1, messages=ask["messages"])


LANGCHAIN = """
import json, os
from langchain_openai import ChatOpenAI

chat = ChatOpenAI(base_url=os.environ["BASE_URL"] + "/v1", api_key="none", model=os.environ["MODEL"],
                  temperature=0, max_tokens=48, max_retries=0)
pieces = [chunk.content for chunk in chat.stream("What is the capital of France?")]
schema = json.loads(os.environ["SCHEMA"])
held = chat.with_structured_output(schema["schema"] | {"title": schema["name"]}, method="json_schema")
print(json.dumps({
    "chat": chat.invoke("What is the capital of France?").content,
    "stream": "".join(pieces), "pieces": len(pieces),
    "held": held.invoke("What is the capital of France?"),
}))
"""
LITELLM = """
import json, os
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm

ask = {"model": "hosted_vllm/" + os.environ["MODEL"], "api_base": os.environ["BASE_URL"] + "/v1", "api_key": "none",
       "temperature": 0, "max_tokens": 48}
question = [{"role": "user", "content": "What is the capital of France?"}]
chat = litellm.completion(messages=question, **ask)
chunks = litellm.completion(messages=question, stream=True, **ask)
pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
held = {"type": "json_schema", "json_schema": json.loads(os.environ["SCHEMA"])}
answer = litellm.completion(messages=question, response_format=held, **ask)
print(json.dumps({
    "chat": chat.choices[0].message.content, "stream": "".join(pieces), "pieces": len(pieces),
    "held": json.loads(answer.choices[0].message.content),
}))
"""
JAVASCRIPT = """
const { OpenAI } = require("openai");
const env = process.env;
const client = new OpenAI({ baseURL: env.BASE_URL + "/v1", apiKey: "none", maxRetries: 0 });
const ask = { model: env.MODEL, temperature: 0, max_tokens: 48 };
const messages = [{ role: "user", content: "What is the capital of France?" }];
(async () => {
  const chat = await client.chat.completions.create({ ...ask, messages });
  const pieces = [];
  for await (const chunk of await client.chat.completions.create({ ...ask, messages, stream: true })) {
    if (chunk.choices.length) pieces.push(chunk.choices[0].delta.content ?? "");
  }
  const response_format = { type: "json_schema", json_schema: JSON.parse(env.SCHEMA) };
  const held = await client.chat.completions.create({ ...ask, messages, response_format });
  const models = await client.models.list();
  if (models.data[0].id !== env.MODEL) throw new Error(JSON.stringify(models.data));
  const refused = await client.chat.completions.create({ ...ask, messages, temperature: -1 }).catch((e) => e);
  if (refused.status !== 400) throw refused;
  console.log(JSON.stringify({
    chat: chat.choices[0].message.content, stream: pieces.join(""), pieces: pieces.length,
    held: JSON.parse(held.choices[0].message.content),
  }));
})();
"""


def test_langchain(served: Served, tmp_path: Path) -> None:
    """LangChain's ChatOpenAI: a chat, a stream and a structured answer."""
    python = python_with("langchain", CACHE_DIR)
    assert_answered(json.loads(run_script([str(python)], LANGCHAIN, tmp_path, **settings(served))))


def test_litellm(served: Served, tmp_path: Path) -> None:
    """LiteLLM with its `hosted_vllm` provider: a chat, a stream and a schema."""
    python = python_with("litellm", CACHE_DIR)
    assert_answered(json.loads(run_script([str(python)], LITELLM, tmp_path, **settings(served))))


def test_javascript(served: Served, tmp_path: Path) -> None:
    """The OpenAI SDK for JavaScript under Node.js: a chat, a stream, a schema, models and an error."""
    modules = node_modules(CACHE_DIR)
    said = run_script(["node"], JAVASCRIPT, tmp_path, NODE_PATH=str(modules), **settings(served))
    assert_answered(json.loads(said))


@pytest.mark.parametrize("version", ["--http1.1", "--http1.0", "--http2"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_curl(served: Served, tmp_path: Path, stream: bool, version: str) -> None:
    """curl, with each version of HTTP that it may ask for, gets a whole answer and no framing in it."""
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("NOT TESTED: no curl on PATH")
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 16,
        "temperature": 0,
        "stream": stream,
    }
    url = f"{served.program.url}/v1/chat/completions"
    quiet = ("--silent", "--show-error", "--fail-with-body", "--no-buffer", "--max-time", "60")
    command = [curl, *quiet, version, url, "--json", json.dumps(body)]
    done = subprocess.run(command, env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    if stream:
        events = [event.removeprefix("data: ") for event in done.stdout.split("\n\n")]
        assert events[-2:] == ["[DONE]", ""]
        texts = [json.loads(event)["choices"][0]["delta"].get("content", "") for event in events[:-2]]
        assert "Paris" in "".join(texts)
    else:
        assert "Paris" in json.loads(done.stdout)["choices"][0]["message"]["content"]
