"""Requests in threads of their own, each with an outcome that docs/operate/lifecycle.md knows or does not know."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import httpx2


class Outcome(StrEnum):
    """How a request ended, as its client saw it."""

    ANSWERED = "answered"
    BROKEN = "ended in an error event"
    CUT = "whole answer cut"
    POISON = "500, lost twice"
    REFUSED = "refused before it began"
    LEFT = "left by its client"
    SILENT = "stream ended without a word"
    HUNG = "hung"


DOCUMENTED = frozenset((Outcome.ANSWERED, Outcome.BROKEN, Outcome.CUT, Outcome.POISON, Outcome.LEFT))


@dataclass(frozen=True)
class Ask:
    """What is asked, and how long until it counts as hung; `leave` has the client go after so many seconds.

    With `for_python` it asks for what only vLLM's Python frontend is given where both run.
    """

    url: str
    model: str
    stream: bool = True
    tokens: int = 48
    words: int = 8
    leave: float | None = None
    deadline: float = 300.0
    for_python: bool = False

    def body(self) -> dict[str, Any]:
        """Return the request's body; its prompt differs from all others, so that no cache answers it."""
        prompt = " ".join(str(random.random()) for _ in range(self.words))
        message = {"role": "user", "content": f"Tell me a story about {prompt}."}
        body = {
            "model": self.model,
            "messages": [message],
            "max_tokens": self.tokens,
            "ignore_eos": True,
            "stream": self.stream,
        }
        return body | ({"logprobs": True} if self.for_python else {})


class Shot(threading.Thread):
    """One request."""

    def __init__(self, ask: Ask) -> None:
        super().__init__(daemon=True)
        self._ask = ask
        self.began = False
        self.outcome = Outcome.HUNG
        self.detail = ""
        self.start()

    def run(self) -> None:
        """Ask, and note how it ended."""
        self._end = time.monotonic() + self._ask.deadline
        limits = httpx2.Timeout(self._ask.leave or self._ask.deadline)
        try:
            with httpx2.Client(base_url=self._ask.url, timeout=limits) as client:
                self.outcome = self._streamed(client) if self._ask.stream else self._whole(client)
        except httpx2.TimeoutException as error:
            self.outcome, self.detail = Outcome.LEFT if self._ask.leave else Outcome.HUNG, repr(error)
        except httpx2.TransportError as error:
            self.detail = repr(error)
            cut = self.began and not self._ask.stream
            self.outcome = Outcome.CUT if cut else Outcome.SILENT if self.began else Outcome.REFUSED

    def _whole(self, client: httpx2.Client) -> Outcome:
        with client.stream("POST", "/v1/chat/completions", json=self._ask.body()) as answer:
            self.began = answer.status_code == 200
            answer.read()
        if answer.status_code != 200:
            return self._refused(answer)
        return Outcome.ANSWERED if answer.json()["choices"][0]["finish_reason"] else Outcome.CUT

    def _streamed(self, client: httpx2.Client) -> Outcome:
        finish = error = None
        with client.stream("POST", "/v1/chat/completions", json=self._ask.body()) as answer:
            if answer.status_code != 200:
                answer.read()
                return self._refused(answer)
            leave = time.monotonic() + self._ask.leave if self._ask.leave else self._end
            for line in answer.iter_lines():
                if time.monotonic() > leave:
                    return Outcome.LEFT if self._ask.leave else Outcome.HUNG
                if line == "data: [DONE]" and finish and not error:
                    return Outcome.ANSWERED
                if line.startswith("data: {"):
                    event = json.loads(line.removeprefix("data: "))
                    error = event.get("error") or error
                    self.began |= bool(event.get("choices"))
                    finish = finish or any(one.get("finish_reason") for one in event.get("choices", ()))
        self.detail = str(error)
        if not error:
            return Outcome.SILENT
        return Outcome.BROKEN if self.began else self._told(error)

    def _refused(self, answer: httpx2.Response) -> Outcome:
        self.detail = f"{answer.status_code} {answer.text[:300]}"
        return self._told(answer.json()["error"])

    def _told(self, error: dict[str, Any]) -> Outcome:
        return Outcome.POISON if error.get("type") == "engine_crash" else Outcome.REFUSED


@dataclass
class Volley:
    """Requests that were sent together."""

    shots: list[Shot]

    @classmethod
    def fire(cls, asks: list[Ask]) -> Volley:
        """Send them all."""
        return cls([Shot(ask) for ask in asks])

    @property
    def began(self) -> int:
        """How many have had a first token."""
        return sum(shot.began for shot in self.shots)

    @property
    def running(self) -> int:
        """How many have not ended."""
        return sum(shot.is_alive() for shot in self.shots)

    def outcomes(self) -> Counter[Outcome]:
        """Wait for all; one that does not end in time is hung."""
        for shot in self.shots:
            shot.join(max(0.0, shot._ask.deadline))
        return Counter(shot.outcome for shot in self.shots)

    def faults(self) -> list[str]:
        """Return what must not have happened, given that engines come back."""
        return [
            f"{shot.outcome}{' (begun)' if shot.began else ''}: {shot.detail}"
            for shot in self.shots
            if shot.outcome not in DOCUMENTED
        ]
