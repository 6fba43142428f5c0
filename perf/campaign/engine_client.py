"""A client of an engine that answers as it should not, and what it must be given."""

from __future__ import annotations

import json

from perf.campaign.client import Client
from perf.campaign.engine_inputs import Due, EngineInput
from perf.campaign.inputs import BEARER, Input, others_tags
from perf.campaign.stand_in import PATH
from tests.support.raw_http import Reply, request
from vllm_engine.gateway.proxy.response_stream import KEEP_ALIVE


class EngineClient(Client):
    """Asks for the answer of one index."""

    def __init__(self, port: int, one: EngineInput, index: int) -> None:
        data = request("POST", f"{PATH}{index}", b"x" * one.body_bytes, BEARER)
        super().__init__(port, Input(one.kind, (data,)), index)
        self._one = one

    def _judge(self) -> str | None:
        one, whole = self._one, self.whole
        reply = whole[0] if whole else None
        seen = b"".join(piece for each in (*whole, self.pending) if each for piece in each.chunks)
        if others := others_tags(seen, self._index):
            return f"the answer to other inputs: {others}"
        got = "a close" if reply is None else f"{reply.status} {reply.body!r:.200}"
        if one.due is Due.BROKEN:
            return None if reply is None or _is_broken(reply) else f"not told that it broke: {got}"
        if one.due is Due.ANY:
            return None
        if reply is None or reply.status != one.status:
            return f"not {one.status}: {got}"
        body = reply.body.replace(KEEP_ALIVE, b"") if one.due is Due.STREAM else reply.body
        return None if body == one.body else f"not its body: {got}"


def _is_broken(reply: Reply) -> bool:
    said = reply.body
    if reply.status == 200 and (reply.header("content-type") or "").startswith("text/event-stream"):
        said = said.removesuffix(b"\n\n").rpartition(b"\n")[2].removeprefix(b"data: ")
    elif reply.status not in (502, 503):
        return False
    try:
        return bool(json.loads(said)["error"]["type"] == "upstream_error")
    except (ValueError, KeyError, TypeError):
        return False
