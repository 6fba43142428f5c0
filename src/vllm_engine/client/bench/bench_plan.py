"""Pure: what a benchmark sends and when."""

from __future__ import annotations

import json
import random
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

Arrivals = Literal["poisson", "constant"]
Metric = Literal["ttft", "tpot", "itl", "e2el"]
METRICS: tuple[Metric, ...] = ("ttft", "tpot", "itl", "e2el")

_WORDS = (
    "river", "stone", "cloud", "engine", "paper", "green", "quick", "silent", "metal", "garden", "orbit",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """One run: open loop if it has a `rate`, else with `concurrency` requests in flight."""

    base_url: str
    model: str
    requests: int
    concurrency: int = 1
    rate: float | None = None
    """Requests per second, sent whether or not earlier ones were answered."""
    arrivals: Arrivals = "poisson"
    max_tokens: int = 128
    ignore_eos: bool = True
    temperature: float = 0.0
    prompt_words: int = 64
    seed: int = 0
    timeout_seconds: float = 600.0
    processes: int = 1
    headers: Mapping[str, str] = field(default_factory=dict)
    extra_bodies: Sequence[Mapping[str, object]] = ({},)
    """What the bodies have besides, in turn: a load of several kinds of requests."""
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    """Whom to trust instead of the system's authorities; only with one process."""
    slos_ms: Mapping[Metric, float] = field(default_factory=dict)
    """A request counts towards goodput if none of its metrics exceeds these."""


def arrival_seconds(plan: Plan) -> Iterator[float]:
    """Yield the time of each request of an open-loop run, in seconds from its start.

    With `poisson` the gaps follow an exponential distribution, with `constant` they are equal.
    """
    if plan.rate is None:
        return
    source = random.Random(plan.seed)  # noqa: S311 - not a secret
    due = 0.0
    for _ in range(plan.requests):
        yield due
        due += source.expovariate(plan.rate) if plan.arrivals == "poisson" else 1.0 / plan.rate


def request_bytes(plan: Plan, number: int) -> bytes:
    """Return the whole HTTP request; each prompt is different, so that no prefix cache helps."""
    body = json.dumps(
        {
            "model": plan.model,
            "messages": [{"role": "user", "content": prompt(plan, number)}],
            "max_tokens": plan.max_tokens,
            "ignore_eos": plan.ignore_eos,
            "temperature": plan.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
            **plan.extra_bodies[number % len(plan.extra_bodies)],
        }
    ).encode()
    url = urlsplit(plan.base_url)
    headers = {"Host": url.netloc, "Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in {**headers, **plan.headers}.items())
    return f"POST {url.path.rstrip('/')}/v1/chat/completions HTTP/1.1\r\n{lines}\r\n".encode() + body


def prompt(plan: Plan, number: int) -> str:
    """Return the prompt of one request; the same in every run with the same seed."""
    source = random.Random(f"{plan.seed}:{number}")  # noqa: S311 - not a secret
    return " ".join([f"[{plan.seed}.{number}]", *source.choices(_WORDS, k=plan.prompt_words)])
