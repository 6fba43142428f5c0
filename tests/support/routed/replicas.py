"""Replicas that die and come back on their ports, and clients that go on asking."""

from __future__ import annotations

import json
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import httpx2
import psutil

from tests.support.program import (
    DEADLINE,
    Program,
    free_port,
    is_running,
    plain_client,
    running,
    until,
)

PATIENCE_SECONDS = 600.0
"""How long a client waits for the next byte: two real engines on few cores are slow, and slow is not lost."""


class Ending(StrEnum):
    """How a streamed request ended, as its client saw it."""

    WHOLE = "whole"
    REFUSED = "not begun"
    TRUNCATED = "truncated"
    """It had begun, and ended with an error event or without an end."""


@dataclass(frozen=True)
class Ended:
    """One request's end, and what its client was told."""

    ending: Ending
    detail: str = ""


class Replica:
    """One server with a port of its own, that can be started again."""

    def __init__(self, name: str, folder: Path, environ: Mapping[str, str]) -> None:
        self._environ, self._folder = dict(environ), folder / name
        self._starts = 0
        self._stack = ExitStack()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    program: Program
    """The one that runs or ran last."""

    def start(self) -> None:
        """Start it; it is not waited for."""
        self._starts += 1
        folder = self._folder / str(self._starts)
        folder.mkdir(parents=True)
        program = running(self._environ, folder=folder, port=self.port)
        self.program = self._stack.enter_context(program)

    def end(self, seconds: float = DEADLINE) -> None:
        """Wait for the end of the one that runs, if it has not ended, and forget it."""
        self.program.wait(seconds)
        self._stack.close()

    def close(self) -> None:
        """End it however it is."""
        self._stack.close()


class Clients:
    """Clients that ask for streams, each for one after the other, until they are told to stop."""

    def __init__(self, url: str, bodies: Callable[[int], dict[str, Any]], count: int, key: str = "") -> None:
        self._url, self._bodies, self._key = url, bodies, key
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._asked = 0
        self.ended: list[Ended] = []
        self._threads = [threading.Thread(target=self._ask_on, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float = DEADLINE) -> Counter[Ending]:
        """Wait until each has had its last answer; returns how many requests ended in which way."""
        self._is_over.set()
        for thread in self._threads:
            thread.join(seconds)
            assert not thread.is_alive(), "a request that does not end"
        return Counter(one.ending for one in self.ended)

    def count(self, ending: Ending) -> int:
        """Return how many have ended so far in this way."""
        with self._lock:
            return sum(one.ending is ending for one in self.ended)

    def details(self) -> list[str]:
        """Return what was said of those that were not answered."""
        return [f"{one.ending}: {one.detail}" for one in self.ended if one.ending is not Ending.WHOLE]

    def _ask_on(self) -> None:
        with plain_client(self._url) as client:
            client.timeout = PATIENCE_SECONDS
            while not self._is_over.is_set():
                with self._lock:
                    number = self._asked = self._asked + 1
                ended = ask_stream(client, self._bodies(number), self._key)
                with self._lock:
                    self.ended.append(ended)


def ask_stream(client: httpx2.Client, body: dict[str, Any], key: str = "") -> Ended:
    """Ask for a stream and read it to its end."""
    began = finished = False
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    error = ""
    try:
        with client.stream(
            "POST", "/v1/chat/completions", json=body | {"stream": True}, headers=headers
        ) as answer:
            if answer.status_code != 200:
                answer.read()
                return Ended(Ending.REFUSED, f"{answer.status_code} {answer.text[:200]}")
            for line in answer.iter_lines():
                if line == "data: [DONE]" and finished and not error:
                    return Ended(Ending.WHOLE)
                if line.startswith("data: {"):
                    event = json.loads(line.removeprefix("data: "))
                    choices = event.get("choices", ())
                    began |= bool(choices)
                    finished |= any(choice.get("finish_reason") for choice in choices)
                    error = str(event.get("error") or error)
    except httpx2.TransportError as failed:
        error = repr(failed)
    return Ended(Ending.TRUNCATED if began else Ending.REFUSED, error or "it ended without a word")


@contextmanager
def replicas_of(
    count: int,
    folder: Path,
    environ: Callable[[int], Mapping[str, str]],
    seconds: float = DEADLINE,
) -> Iterator[list[Replica]]:
    """Start so many at once, and wait until all are ready; all end with the block."""
    with ExitStack() as stack:
        replicas = []
        for number in range(count):
            replicas.append(Replica(f"replica-{number}", folder, environ(number)))
            stack.callback(replicas[-1].close)
        for replica in replicas:
            replica.program.until_ready(seconds)
        yield replicas


def restart_each(
    replicas: list[Replica], until_back: Callable[[Replica], None], seconds: float = DEADLINE
) -> None:
    """End each with SIGTERM and start it again, one after the other, each when the one before is back."""
    for replica in replicas:
        replica.program.send(signal.SIGTERM)
        replica.end(seconds)
        replica.start()
        replica.program.until_ready(seconds)
        until_back(replica)


def kill_tree(replica: Replica) -> None:
    """Kill a server and its engine at once, as the end of a container does."""
    processes = replica.program.processes()
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    replica.end()
    until(lambda: not any(map(is_running, processes)), "the end of all processes")
