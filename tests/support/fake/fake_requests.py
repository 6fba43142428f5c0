"""The fake engine's reading of requests: vLLM's checks in vLLM's order, with vLLM's words."""

from __future__ import annotations

import re
import secrets
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tests.support.fake.fake_bodies import RefusalError, bad_request, error_body

Api = Literal["chat", "completion", "responses", "messages"]

_PIECE = re.compile(r"\s*\S+|\s+")
_VOCABULARY_SIZE = 49_152


def tokens_of(text: str) -> list[int]:
    """Return the ids of a text's words: enough for counts that make sense."""
    return [zlib.crc32(piece.encode()) % _VOCABULARY_SIZE for piece in _PIECE.findall(text)]


@dataclass(frozen=True)
class Job:
    """A checked request for generation."""

    api: Api
    body: Mapping[str, Any]
    request_id: str
    model: str
    prompt_tokens: int
    prompts: int
    max_tokens: int

    @property
    def choices(self) -> int:
        """How many answers it asks for."""
        return self.prompts * int(self.body.get("n") or 1)

    @property
    def stream(self) -> bool:
        """Whether it wants events."""
        return bool(self.body.get("stream"))

    def stream_option(self, name: str) -> bool:
        """Whether one of its stream options is on."""
        return bool((self.body.get("stream_options") or {}).get(name))


@dataclass(frozen=True)
class Served:
    """What the fake serves."""

    names: tuple[str, ...]
    root: str
    max_model_len: int

    def check_model(self, body: Mapping[str, Any]) -> None:
        """Refuse a model that is not served; none at all is fine.

        Raises:
            RefusalError: 404.
        """
        model = body.get("model")
        if model and model not in self.names:
            message = f"The model `{model}` does not exist. Valid aliases: {', '.join(self.names)}."
            raise RefusalError(404, error_body(message, "NotFoundError", 404, "model"))

    def job(self, api: Api, body: Mapping[str, Any], header_id: str | None) -> Job:
        """Check what vLLM checks once a body is well-formed.

        Raises:
            RefusalError: it asks for something that cannot be.
        """
        if body.get("stream_options") and not body.get("stream"):
            message = "Stream options can only be defined when `stream=True`. (parameter=stream_options)"
            raise bad_request(message, "stream_options")
        if api == "completion" and not body.get("prompt"):
            message = "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"
            raise bad_request(message, "prompt")
        self.check_model(body)
        prompts = _prompts(api, body)
        counts = [len(tokens_of(prompt)) for prompt in prompts]
        self._check_length(counts)
        self._check_sampling(body)
        wanted = body.get("max_tokens") or body.get("max_completion_tokens") or body.get("max_output_tokens")
        return Job(
            api=api,
            body=body,
            request_id=header_id or secrets.token_hex(8),
            model=self.names[0],
            prompt_tokens=sum(counts),
            prompts=len(prompts),
            max_tokens=min(int(wanted or self.max_model_len), self.max_model_len - max(counts)),
        )

    def _check_length(self, counts: Sequence[int]) -> None:
        if max(counts) > self.max_model_len:
            # vLLM stops counting one token after the limit.
            shown = self.max_model_len + 1
            raise bad_request(
                f"This model's maximum context length is {self.max_model_len} tokens. However, your prompt "
                f"contains at least {shown} input tokens, which exceeds this limit even without any output "
                "tokens. Please reduce the length of the input prompt. "
                f"(parameter=input_tokens, value={shown})",
                "input_tokens",
            )

    def _check_sampling(self, body: Mapping[str, Any]) -> None:
        temperature = body.get("temperature")
        limit = body.get("max_tokens", body.get("max_output_tokens"))
        if temperature is not None and float(temperature) < 0:
            value = float(temperature)
            message = f"temperature must be non-negative, got {value}. (parameter=temperature, value={value})"
            raise bad_request(message, "temperature")
        if limit is not None and int(limit) < 1:
            message = f"max_tokens must be at least 1, got {limit}. (parameter=max_tokens, value={limit})"
            raise bad_request(message, "max_tokens")


def chat_text(messages: Sequence[Any]) -> str:
    """Return what a chat template makes of messages.

    Raises:
        RefusalError: there are none.
    """
    if not messages:
        raise bad_request(
            "Cannot apply chat template to an empty conversation. Provide at least one message."
        )
    return "".join(f"<|im_start|> {message} <|im_end|>\n" for message in messages)


def _prompts(api: Api, body: Mapping[str, Any]) -> list[str]:
    if api == "responses":
        return [chat_text([body["input"]])]
    if api != "completion":
        return [chat_text(body["messages"])]
    prompt = body["prompt"]
    if isinstance(prompt, str):
        return [prompt]
    # A list of texts, a list of token ids, or a list of lists of them.
    if isinstance(prompt[0], int):
        return [" ".join(map(str, prompt))]
    return [item if isinstance(item, str) else " ".join(map(str, item)) for item in prompt]
