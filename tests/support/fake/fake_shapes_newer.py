"""How vLLM words its answers to `/v1/responses` and `/v1/messages`; just one text, no tools."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Any

from tests.support.fake.fake_bodies import error_body
from tests.support.fake.fake_requests import Job
from tests.support.fake.fake_shapes import dump, named_event


class ResponsesShape:
    """`/v1/responses`."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._created = int(time.time())
        self._id = f"resp_{secrets.token_hex(8)}"
        self._item_id = f"msg_{secrets.token_hex(8)}"
        self._sequence = 0

    def _event(self, kind: str, **values: Any) -> bytes:
        # vLLM sorts the keys of these events by name, "type" last of all.
        event = {**dict(sorted({**values, "sequence_number": self._sequence}.items())), "type": kind}
        self._sequence += 1
        return named_event(event)

    def _item(self, content: list[dict[str, Any]], status: str) -> dict[str, Any]:
        kind = {"role": "assistant", "status": status, "type": "message", "phase": None}
        return {"id": self._item_id, "content": content, **kind}

    def opening(self) -> Iterable[bytes]:
        begun = self._response("in_progress", [], None, None)
        yield self._event("response.created", response=begun)
        yield self._event("response.in_progress", response=begun)
        yield self._event("response.output_item.added", item=self._item([], "in_progress"), output_index=0)
        part = {**_part(""), "logprobs": []}
        yield self._event("response.content_part.added", part=part, **self._place())

    def piece(self, choice: int, text: str, count: int, finish: str | None) -> bytes:
        return self._event("response.output_text.delta", delta=text, logprobs=[], **self._place())

    def closing(self, texts: Sequence[str], count: int, finish: str) -> Iterable[bytes]:
        part = _part(texts[0])
        yield self._event("response.output_text.done", logprobs=[], text=texts[0], **self._place())
        yield self._event("response.content_part.done", part=part, **self._place())
        item = self._item([part], "completed")
        yield self._event("response.output_item.done", item=item, output_index=0)
        yield self._event("response.completed", response=self.whole(texts, count, finish))

    def failure(self, message: str) -> Iterable[bytes]:
        body = dump(error_body(message, "InternalServerError", 500))
        return (b"event: error\ndata: " + body + b"\n\n",)

    def whole(self, texts: Sequence[str], count: int, finish: str) -> dict[str, Any]:
        cut = finish == "length"
        item = self._item([_part(texts[0])], "completed")
        prompt = self._job.prompt_tokens
        per_turn: dict[str, list[int]] = {"input_tokens_per_turn": [], "cached_tokens_per_turn": []}
        tokens = {"reasoning_tokens": 0, "tool_output_tokens": 0}
        usage = {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0, **per_turn},
            "output_tokens": count,
            "output_tokens_details": tokens
            | {"output_tokens_per_turn": [], "tool_output_tokens_per_turn": []},
            "total_tokens": prompt + count,
        }
        reason = {"reason": "max_output_tokens"} if cut else None
        return self._response("incomplete" if cut else "completed", [item], usage, reason)

    def _place(self) -> dict[str, Any]:
        return {"content_index": 0, "item_id": self._item_id, "output_index": 0}

    def _response(
        self, status: str, output: list[Any], usage: dict[str, Any] | None, cut: dict[str, str] | None
    ) -> dict[str, Any]:
        body = self._job.body
        return {
            "id": self._id, "created_at": self._created, "incomplete_details": cut, "instructions": None,
            "metadata": None, "model": self._job.model, "object": "response", "output": output,
            "parallel_tool_calls": True, "temperature": float(body.get("temperature") or 0), "tool_choice": "none",
            "tools": [], "top_p": 1.0, "background": False, "max_output_tokens": self._job.max_tokens,
            "max_tool_calls": None, "previous_response_id": None, "prompt": None, "reasoning": None,
            "service_tier": "auto", "status": status, "text": None, "top_logprobs": None, "truncation": "disabled",
            "usage": usage, "user": None, "presence_penalty": 0.0, "frequency_penalty": 0.0,
            "kv_transfer_params": None, "ec_transfer_params": None, "input_messages": None, "output_messages": None,
        }  # fmt: skip


def _part(text: str) -> dict[str, Any]:
    return {"annotations": [], "text": text, "type": "output_text", "logprobs": None}


class MessagesShape:
    """`/v1/messages`."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def _message(self, content: list[Any], stop: dict[str, Any], count: int) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self._job.request_id}",
            "type": "message",
            "role": "assistant",
            "content": content,
            "model": self._job.model,
            **stop,
            "usage": self._usage(count),
        }

    def _usage(self, count: int) -> dict[str, int]:
        return {"input_tokens": self._job.prompt_tokens, "output_tokens": count}

    def opening(self) -> Iterable[bytes]:
        unfinished = {"stop_reason": None, "stop_sequence": None}
        yield named_event({"type": "message_start", "message": self._message([], unfinished, 0)})
        block = {"type": "text", "text": ""}
        yield named_event({"type": "content_block_start", "content_block": block, "index": 0})

    def piece(self, choice: int, text: str, count: int, finish: str | None) -> bytes:
        delta = {"type": "text_delta", "text": text}
        return named_event({"type": "content_block_delta", "delta": delta, "index": 0})

    def closing(self, texts: Sequence[str], count: int, finish: str) -> Iterable[bytes]:
        yield named_event({"type": "content_block_stop", "index": 0})
        delta = {"stop_reason": _stop_reason(finish), "stop_sequence": None}
        yield named_event({"type": "message_delta", "delta": delta, "usage": self._usage(count)})
        yield named_event({"type": "message_stop"})

    def failure(self, message: str) -> Iterable[bytes]:
        error = {"type": "internal_error", "message": message}
        return (named_event({"type": "error", "error": error}),)

    def whole(self, texts: Sequence[str], count: int, finish: str) -> dict[str, Any]:
        content = [{"type": "text", "text": texts[0]}]
        return self._message(content, {"stop_reason": _stop_reason(finish)}, count)


def _stop_reason(finish: str) -> str:
    return "max_tokens" if finish == "length" else "end_turn"
