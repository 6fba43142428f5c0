"""Clients that stop reading, or come and go in crowds: their cost stays theirs."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path

from tests.support.model import CHAT, STREAM
from tests.support.program import until
from tests.support.raw_http import post_json, slow_reader
from tests.support.watched import Watched, watched_program

UNENDING = 900_000
ASKED = post_json("/v1/chat/completions", STREAM | {"max_tokens": UNENDING})
STALLED_BYTES = 600_000
"""What a client that reads nothing may cost: 64 KiB unsent, the engine's last piece, which is of up to 256 KiB
on a busy machine, and what the allocator keeps of that piece's copies."""
LONG = {
    "MAX_MODEL_LEN": "1000000",
    # Answers carry the first name: events of 2 kB fill a client's buffers in less time.
    "SERVED_MODEL_NAME": "m" * 2000 + " fake",
}
SCENARIO = {"tokens": UNENDING}
SETTINGS = LONG | {"HANG_TIMEOUT_SECONDS": "5", "CANARY_INTERVAL_SECONDS": "0.2"}


def until_steady(gateway: Watched) -> float:
    """Wait until the engine has generated nothing for half a second; returns how many tokens it has."""
    seen: list[tuple[float, float]] = []

    def steady() -> bool:
        now, tokens = time.monotonic(), gateway.metric("vllm:generation_tokens_total")
        if not seen or tokens != seen[-1][1]:
            seen.append((now, tokens))
        return now - seen[-1][0] > 0.5

    until(steady, "an engine that waits")
    return seen[-1][1]


def test_stalled_clients(tmp_path: Path) -> None:
    """Fifty clients that read nothing make the engine wait, cost some buffers each, and hold up nobody else."""
    with watched_program(tmp_path, SCENARIO, **LONG, CANARY_INTERVAL_SECONDS="0") as gateway:
        assert gateway.ask(post_json("/v1/chat/completions", CHAT | {"max_tokens": 20})).status == 200
        before, files = gateway.rss(), gateway.fds()
        with ExitStack() as stack:
            for _ in range(50):
                stack.enter_context(slow_reader(gateway.port, ASKED))
            gateway.until_running(50)
            assert until_steady(gateway) < 50 * 10_000
            assert gateway.ask(post_json("/v1/chat/completions", CHAT | {"max_tokens": 20})).status == 200
            assert gateway.rss() - before < 50 * STALLED_BYTES
        gateway.until_running(0)
        until(lambda: gateway.fds() <= files + 2, "the close of all")
        assert gateway.rss() - before < 50 * STALLED_BYTES
        gateway.assert_calm()


def test_stalled_client_costs_no_engine(gateway: Watched) -> None:
    """An engine whose clients do not read has no work that it does not do: it is left alone, and stays watched."""
    with slow_reader(gateway.port, ASKED):
        gateway.until_running(1)
        # There are canaries only while nothing else is at work, and at least a fifth of a second between them.
        asked = gateway.metric("fake:requests_total")
        until(
            lambda: gateway.metric("fake:requests_total") >= asked + 30, "canaries for longer than the limit"
        )
        gateway.until_running(1)
    assert gateway.program.engines_lost() == 0


def test_slow_client_gets_everything(gateway: Watched) -> None:
    """A client that reads slowly gets every byte in its order, and its connection to the engine is fit for the next."""
    for tokens, is_whole in ((5_000, False), (100, False), (800, True)):
        gateway.change(tokens=tokens)
        asked = CHAT | {"n": 64} if is_whole else STREAM
        data = post_json("/v1/chat/completions", asked | {"max_tokens": UNENDING})
        with slow_reader(gateway.port, data) as slow:
            gateway.until_running(1 if tokens == 5_000 else 0)
            body, straight = slow.reply().body.decode(), gateway.straight(data).body.decode()
        if is_whole:
            assert json.loads(body)["choices"] == json.loads(straight)["choices"]
        else:
            assert texts(body) == texts(straight)
        gateway.change(tokens=4)
        for _ in range(3):
            assert gateway.ask(post_json("/v1/chat/completions", CHAT)).status == 200


def texts(stream: str) -> list[str]:
    """Return what each event of a chat stream says, and its end."""
    events = [event.removeprefix("data: ") for event in stream.split("\n\n")[:-1]]
    assert events[-1] == "[DONE]"
    return [
        choice["delta"].get("content", "") for event in events[:-1] for choice in json.loads(event)["choices"]
    ]


def test_crowds(gateway: Watched) -> None:
    """Hundreds of clients that leave in the middle of an answer, or before it, leave nothing behind."""
    gateway.change(tokens=100_000, tokens_per_second=20)

    def storm(clients: int) -> None:
        for _ in range(clients // 50):
            with ExitStack() as stack:
                wires = [stack.enter_context(gateway.wire()) for _ in range(50)]
                for number, connection in enumerate(wires):
                    body = CHAT | {"stream": bool(number % 5), "max_tokens": UNENDING}
                    connection.send(post_json("/v1/chat/completions", body))
                gateway.until_running(50)
            # Before the next come: a slow engine's queue of connections has its bound, too.
            gateway.until_running(0)

    storm(200)
    files = gateway.fds()

    def added() -> int:
        memory = gateway.rss()
        storm(400)
        return gateway.rss() - memory

    # What the allocator and the collector keep of the first crowds is theirs; a leak comes with every crowd.
    assert any(added() < 500_000 for _ in range(5))
    until(lambda: gateway.fds() <= files + 2, "the close of all")
