"""What a program's other clients see while it is attacked: probes, chats, and the memory it takes."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, suppress

import psutil

from tests.support.raw_http import ClosedError, Reply, Wire, post_json, request, wire

PROBERS = 4
PROBE_SECONDS = 0.2
CHATTERS = 2
CHAT_SECONDS = 0.25
PATIENCE_SECONDS = 60.0
"""Longer than a request may wait for its turn by default."""
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "stream": True}


class _Client:
    """Asks over a new connection each time, or over one that it keeps."""

    def __init__(self, port: int, *, keeps: bool) -> None:
        self._port = port
        self._keeps = keeps
        self._kept: Wire | None = None
        self._stack = ExitStack()

    def __enter__(self) -> _Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def ask(self, data: bytes) -> Reply:
        """Send a request and return its answer."""
        if not self._keeps:
            with wire(self._port, PATIENCE_SECONDS) as connection:
                return connection.ask(data)
        if self._kept is None:
            self._kept = self._stack.enter_context(wire(self._port, PATIENCE_SECONDS))
        return self._kept.ask(data)


class Watch:
    """Probes and chats from clients of its own, each over a new connection, and samples of memory.

    Several clients take turns, so that one slow answer does not hide how many others would have been slow.

    Args:
        port: of the program.
        probe_port: where `/livez` is asked.
        pid: of the program.
        key: of the clients that chat; None where none is needed.
        keeps: whether each client keeps its first connection; for a program that takes no new ones.
    """

    def __init__(self, port: int, probe_port: int, pid: int, key: str | None, *, keeps: bool = False) -> None:
        self._keeps = keeps
        self._process = psutil.Process(pid)
        self._stop = threading.Event()
        self.rss_before = self.rss_most = self._process.memory_info().rss
        self.probes: list[float] = []
        """How long each answer of `/livez` took, in seconds."""
        self.chats: list[float] = []
        """The same of each whole chat."""
        self.faults: list[str] = []
        probe = request("GET", "/livez")
        chat = post_json("/v1/chat/completions", CHAT, *_bearer(key))
        done = b"data: [DONE]\n\n"
        self._threads = [
            *(self._asking(probe_port, probe, b"", self.probes, PROBE_SECONDS) for _ in range(PROBERS)),
            *(self._asking(port, chat, done, self.chats, CHAT_SECONDS) for _ in range(CHATTERS)),
            threading.Thread(target=self._weighing),
        ]

    def begin(self) -> None:
        """Start watching."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Watch no more; what was asked is waited for."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _asking(
        self, port: int, data: bytes, end: bytes, times: list[float], seconds: float
    ) -> threading.Thread:
        def run() -> None:
            with _Client(port, keeps=self._keeps) as client:
                while not self._stop.wait(seconds):
                    self._ask(client, data, end, times)

        return threading.Thread(target=run)

    def _ask(self, client: _Client, data: bytes, end: bytes, times: list[float]) -> None:
        began = time.monotonic()
        try:
            reply = client.ask(data)
        except (OSError, ClosedError) as error:
            self.faults.append(
                f"{data[:22]!r}: {type(error).__name__} after {time.monotonic() - began:.1f} s"
            )
            return
        times.append(time.monotonic() - began)
        if reply.status != 200 or not reply.body.endswith(end):
            self.faults.append(f"{data[:22]!r}: {reply.status} {reply.body[-200:]!r}")

    def _weighing(self) -> None:
        while not self._stop.wait(0.1):
            self._weigh()

    def _weigh(self) -> None:
        with suppress(psutil.NoSuchProcess):
            self.rss_most = max(self.rss_most, self._process.memory_info().rss)


def _bearer(key: str | None) -> list[str]:
    return [] if key is None else [f"Authorization: Bearer {key}"]


def percentile(values: list[float], share: float) -> float:
    """Return the value that this share of them does not exceed; infinite where there is none."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("inf")
