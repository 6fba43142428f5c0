"""Memory that many clients together may take."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

from tests.support.program import until
from tests.support.raw_http import Wire, request
from tests.support.watched import watched_program

BODY_BYTES = 8_000_000
ALL_BODIES_BYTES = 256 << 20
"""What all bodies may take together where sixteen of the largest take less."""
SENDERS = 200


def test_stalled_engine(tmp_path: Path) -> None:
    """An engine that reads nothing does not fill the gateway's memory: a few bodies are held, not all."""
    settings = {"MAX_BODY_BYTES": str(BODY_BYTES), "BODY_IDLE_TIMEOUT_SECONDS": "60"}
    body = request("POST", "/v1/_upload", b"x" * BODY_BYTES)
    with watched_program(tmp_path, {}, **settings) as gateway:
        gateway.ask(request("POST", "/v1/_upload", b"x" * 1000))
        before = gateway.rss()
        engine = psutil.Process(gateway.program.engine_pid())
        engine.send_signal(signal.SIGSTOP)
        try:
            with ExitStack() as stack:
                senders = [stack.enter_context(gateway.wire()) for _ in range(SENDERS)]
                threads = [threading.Thread(target=upload, args=(sender, body)) for sender in senders]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                grown = gateway.rss() - before
        finally:
            engine.send_signal(signal.SIGCONT)
        # What grows piece by piece leaves gaps in the heap: up to 2.8 times the bound was seen, of six offered.
        assert grown < 4 * ALL_BODIES_BYTES < SENDERS * BODY_BYTES
        until(lambda: gateway.program.metric("gateway_in_flight") == 0, "the end of what clients gave up")
        gateway.assert_calm()


def upload(sender: Wire, body: bytes) -> None:
    """Send a body as far as it is taken."""
    sender.socket.settimeout(2)
    with suppress(TimeoutError, ConnectionError):
        sender.send(body)
