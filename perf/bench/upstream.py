"""A fake engine that streams pre-rendered tokens, cheap enough not to be what is measured.

It speaks as much of vLLM's HTTP interface as the gateway and the peers ask for, on a Unix socket, a TCP port,
or both. All streams get their next token in the same tick, as those of one batch do. Run it as

    python -m perf.bench.upstream serve MODEL [--uds PATH] [--port PORT] [--served-model-name NAME]

or as the `vllm` of an environment that `engine_python.py` makes. BENCH_TOKENS_PER_SECOND is the pace of each
stream.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import httptools
import uvloop

PACE_VARIABLE = "BENCH_TOKENS_PER_SECOND"
_CREATED = 1_700_000_000
_TEXT = "a stream of tokens as long as it was asked for, every one an event of its own and no two alike"
_HEAD = b"HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: uvicorn\r\n"
_STREAM_HEAD = _HEAD + b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


class Batch:
    """The streams that run; each tick gives every one its next token."""

    def __init__(self, tokens_per_second: float, model: str) -> None:
        self._interval = 1.0 / tokens_per_second
        self._streams: set[Stream] = set()
        self._due = 0.0
        self.model = model
        self.role = self.frame({"role": "assistant", "content": ""})
        # Different ones: LiteLLM breaks off a model that repeats itself.
        self.tokens = [self.frame({"content": f" {word}"}) for word in _TEXT.split()]
        self.last = self.frame({"content": " end"}, "length")

    def add(self, stream: Stream) -> None:
        """Let a stream take part in the ticks."""
        if not self._streams:
            self._schedule(asyncio.get_running_loop().time())
        self._streams.add(stream)

    def remove(self, stream: Stream) -> None:
        """Forget a stream."""
        self._streams.discard(stream)

    def frame(self, delta: dict[str, str], finish: str | None = None) -> bytes:
        """Render one event in its HTTP chunk."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, "token_ids": None}
        return _chunk({**self._common("chat.completion.chunk"), "choices": [choice]})

    def end(self, tokens: int, *, with_usage: bool) -> bytes:
        """Render what follows the last token."""
        usage = {"prompt_tokens": 70, "total_tokens": 70 + tokens, "completion_tokens": tokens}
        content = {**self._common("chat.completion.chunk"), "choices": [], "usage": usage}
        return (_chunk(content) if with_usage else b"") + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"

    def whole(self, kind: str, choice: dict[str, Any]) -> bytes:
        """Render an answer that is not streamed."""
        usage = {"prompt_tokens": 1, "total_tokens": 2, "completion_tokens": 1}
        choice = {"index": 0, **choice, "logprobs": None, "finish_reason": "length"}
        return _whole({**self._common(kind), "choices": [choice], "usage": usage})

    def _common(self, kind: str) -> dict[str, Any]:
        return {"id": "chatcmpl-" + "b" * 32, "object": kind, "created": _CREATED, "model": self.model}

    def _schedule(self, earliest: float) -> None:
        self._due = max(self._due + self._interval, earliest)
        asyncio.get_running_loop().call_at(self._due, self._tick)

    def _tick(self) -> None:
        for stream in tuple(self._streams):
            stream.step()
        if self._streams:
            # An engine that is late does not make up for it.
            self._schedule(asyncio.get_running_loop().time())


class Stream:
    """One streamed answer."""

    __slots__ = ("_batch", "_left", "_tokens", "_transport", "_with_usage")

    def __init__(self, batch: Batch, transport: asyncio.Transport, tokens: int, *, with_usage: bool) -> None:
        self._batch = batch
        self._transport = transport
        self._tokens = self._left = tokens
        self._with_usage = with_usage
        transport.write(_STREAM_HEAD + batch.role)
        batch.add(self)

    def step(self) -> None:
        """Send the next token."""
        self._left -= 1
        if self._left > 0:
            self._transport.write(self._batch.tokens[self._left % len(self._batch.tokens)])
            return
        self._batch.remove(self)
        self._transport.write(self._batch.last + self._batch.end(self._tokens, with_usage=self._with_usage))


class Server(asyncio.Protocol):
    """One connection; the HTTP parser calls the `on_` methods."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._stream: Stream | None = None
        self._path = b""
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop; a client that leaves ends its generation."""
        if self._stream is not None:
            self._batch.remove(self._stream)

    def on_url(self, url: bytes) -> None:
        """Called by the parser."""
        self._path, self._body = url, b""

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._body += body

    def on_message_complete(self) -> None:
        """Called by the parser."""
        assert self._transport is not None
        if self._path.startswith(b"/v1/chat/completions"):
            self._chat(self._transport)
        else:
            self._transport.write(self._other())

    def _chat(self, transport: asyncio.Transport) -> None:
        asked = json.loads(self._body)
        if not asked.get("stream"):
            message = {"role": "assistant", "content": " token"}
            transport.write(self._batch.whole("chat.completion", {"message": message}))
            return
        tokens = asked.get("max_tokens") or asked.get("max_completion_tokens") or 16
        usage = bool((asked.get("stream_options") or {}).get("include_usage"))
        self._stream = Stream(self._batch, transport, tokens, with_usage=usage)

    def _other(self) -> bytes:
        if self._path.startswith(b"/v1/models"):
            one = {"id": self._batch.model, "object": "model", "created": _CREATED, "owned_by": "vllm"}
            return _whole({"object": "list", "data": [one | {"max_model_len": 8192}]})
        if self._path.startswith(b"/v1/completions"):
            return self._batch.whole("text_completion", {"text": " token"})
        return _whole({})


def _chunk(content: dict[str, Any]) -> bytes:
    event = b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(event), event)


def _whole(content: dict[str, Any]) -> bytes:
    body = json.dumps(content).encode()
    return _HEAD + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


async def serve(options: argparse.Namespace, tokens_per_second: float) -> None:
    """Serve until SIGTERM."""
    loop = asyncio.get_running_loop()
    names = options.served_model_name or [options.model_tag]
    batch = Batch(tokens_per_second, names[0])
    listening = []  # uvloop closes a server that nobody holds
    if options.uds is not None:
        listening.append(await loop.create_unix_server(lambda: Server(batch), options.uds, backlog=4096))
    if options.port is not None:
        port = options.port
        listening.append(await loop.create_server(lambda: Server(batch), "127.0.0.1", port, backlog=4096))
    told = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, told.set)
    loop.add_signal_handler(signal.SIGINT, told.set)
    await told.wait()


def main(argv: Sequence[str] | None = None) -> None:
    """Be the upstream; arguments of vLLM's that it has no use for are passed over."""
    parser = argparse.ArgumentParser(prog="vllm", allow_abbrev=False)
    options = parser.add_subparsers(required=True).add_parser("serve", allow_abbrev=False)
    options.add_argument("model_tag")
    options.add_argument("--served-model-name", nargs="+")
    options.add_argument("--uds", type=Path)
    options.add_argument("--port", type=int)
    uvloop.run(serve(parser.parse_known_args(argv)[0], float(os.environ.get(PACE_VARIABLE, "20"))))


if __name__ == "__main__":
    main()
