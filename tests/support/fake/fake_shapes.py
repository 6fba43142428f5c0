"""How vLLM words its answers to chat and completion requests: whole, and as a stream of events."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from tests.support.fake.fake_bodies import error_body
from tests.support.fake.fake_requests import Job
from tests.support.fake.fake_state import Reasoning

FINGERPRINT = "vllm-0.32.0-e72afcae"
DONE = b"data: [DONE]\n\n"

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def dump(value: object) -> bytes:
    return _encode(value).encode()


def data(value: object) -> bytes:
    return b"data: " + dump(value) + b"\n\n"


def named_event(value: Mapping[str, Any]) -> bytes:
    return f"event: {value['type']}\n".encode() + data(value)


class Shape(Protocol):
    """The wording of one API for one request."""

    def opening(self) -> Iterable[bytes]:
        """Events before the first token."""

    def piece(self, choice: int, text: str, count: int, finish: str | None) -> bytes:
        """The event of one token; `count` is how many its choice has been given, it included."""

    def closing(self, texts: Sequence[str], count: int, finish: str) -> Iterable[bytes]:
        """Events after the last token; `count` is of all choices."""

    def failure(self, message: str) -> Iterable[bytes]:
        """Events that end a stream whose generation failed."""

    def whole(self, texts: Sequence[str], count: int, finish: str) -> dict[str, Any]:
        """The answer to a request that wants no stream."""


class _OpenAi:
    """What the two older OpenAI APIs have in common."""

    object = ""
    prefix = ""
    chunk_object = ""
    usage_details: Mapping[str, None] = MappingProxyType({})

    def __init__(self, job: Job) -> None:
        self._job = job
        self._created = int(time.time())
        self._with_usage = job.stream_option("include_usage")
        self._usage_each = self._with_usage and job.stream_option("continuous_usage_stats")

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"{self.prefix}-{self._job.request_id}",
            "object": kind,
            "created": self._created,
            "model": self._job.model,
        }

    def _usage(self, count: int) -> dict[str, Any]:
        prompt = self._job.prompt_tokens
        return {"prompt_tokens": prompt, "total_tokens": prompt + count, "completion_tokens": count}

    def _chunk(self, choice: Mapping[str, Any], count: int, finish: str | None) -> dict[str, Any]:
        chunk = {**self._head(self.chunk_object), "choices": [choice]}
        if self._usage_each:
            chunk["usage"] = {**self._usage(count), **self.usage_details}
        if finish is not None and not self._with_usage:
            chunk["system_fingerprint"] = FINGERPRINT
        return chunk

    def closing(self, texts: Sequence[str], count: int, finish: str) -> Iterable[bytes]:
        if self._with_usage:
            head = self._head(self.chunk_object)
            yield data(
                {**head, "choices": [], "usage": self._usage(count), "system_fingerprint": FINGERPRINT}
            )
        yield DONE

    def failure(self, message: str) -> Iterable[bytes]:
        body = error_body(message, "InternalServerError", 500)
        return f"data: {json.dumps(body)}\n\n".encode(), DONE

    def _whole(self, choices: list[dict[str, Any]], count: int) -> dict[str, Any]:
        details = {"prompt_tokens_details": None, "completion_tokens_details": None}
        return {
            **self._head(self.object),
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": {**self._usage(count), **details},
        }


_TRANSFER = {"kv_transfer_params": None, "ec_transfer_params": None, "metrics": None}
_MESSAGE = {"refusal": None, "annotations": None, "audio": None, "function_call": None, "reasoning": None}


class ChatShape(_OpenAi):
    """`/v1/chat/completions`."""

    object = "chat.completion"
    prefix = "chatcmpl"
    chunk_object = "chat.completion.chunk"
    usage_details = MappingProxyType({"completion_tokens_details": None})

    def opening(self) -> Iterable[bytes]:
        for index in range(self._job.choices):
            delta = {"role": "assistant", "content": ""}
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            yield data({**self._chunk(choice, 0, None), "prompt_token_ids": None, "prompt_text": None})

    def piece(self, choice: int, text: str, count: int, finish: str | None) -> bytes:
        body: dict[str, Any] = {
            "index": choice,
            "delta": {"reasoning" if isinstance(text, Reasoning) else "content": text},
            "logprobs": None,
            "finish_reason": finish,
        }
        if finish is not None:
            body["stop_reason"] = None
        return data(self._chunk({**body, "token_ids": None}, count, finish))

    def whole(self, texts: Sequence[str], count: int, finish: str) -> dict[str, Any]:
        ending = {"logprobs": None, "finish_reason": finish, "stop_reason": None}
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text, **_MESSAGE},
                **ending,
                "token_ids": None,
                "routed_experts": None,
            }
            for index, text in enumerate(texts)
        ]
        prompt = {"prompt_logprobs": None, "prompt_token_ids": None, "prompt_text": None}
        return {**self._whole(choices, count), **prompt, **_TRANSFER}


class CompletionShape(_OpenAi):
    """`/v1/completions`."""

    object = "text_completion"
    prefix = "cmpl"
    chunk_object = "text_completion"

    def opening(self) -> Iterable[bytes]:
        return ()

    def piece(self, choice: int, text: str, count: int, finish: str | None) -> bytes:
        body = {
            "index": choice,
            "text": text,
            "logprobs": None,
            "finish_reason": finish,
            "stop_reason": None,
            "prompt_token_ids": None,
            "token_ids": None,
        }
        return data(self._chunk(body, count, finish))

    def whole(self, texts: Sequence[str], count: int, finish: str) -> dict[str, Any]:
        ending = {"logprobs": None, "finish_reason": finish, "stop_reason": None, "token_ids": None}
        prompt = {"prompt_logprobs": None, "prompt_token_ids": None, "routed_experts": None}
        choices = [{"index": i, "text": text, **ending, **prompt} for i, text in enumerate(texts)]
        return {**self._whole(choices, count), **_TRANSFER}
