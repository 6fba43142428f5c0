"""The same request to the engine and to the gateway: what both answer, made comparable, and what differs.

Ids and times are masked where they stand, digit by digit, so that lengths still count; nothing else is.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.raw_http import Reply, wire

ANSWER_SECONDS = 180.0

CONNECTION_HEADERS = frozenset(("connection", "keep-alive", "transfer-encoding"))
"""Of one connection each, so they say nothing of the answer."""
OUR_HEADERS = frozenset(("date", "x-request-id", "x-accel-buffering"))
"""What the gateway says in its own words, on purpose."""

_TIMES = re.compile(rb'("(?:created|created_at|completed_at)": ?)([\d.]+)')
_IDS = re.compile(
    rb'("(?:id|item_id|response_id|call_id|tool_use_id|request_id)": ?"[a-z-]*[-_])([0-9a-f][0-9a-f-]{7,35})(-\d+)?(")'
)

_RANGES = re.compile(rb"(?<=range \[\{)[^}]*")
"""What the Rust frontend says of a number that is out of range: a map in words."""


@dataclass(frozen=True)
class Case:
    """A request, as the bytes that a client sends."""

    name: str
    data: bytes
    is_generation: bool = False
    """Whether the model answers: then once to warm the engine's caches, so that arithmetic is the same."""
    is_unordered: bool = False
    """Whether the engine itself gives keys, or the events of several choices, in another order each time."""


@dataclass(frozen=True)
class Explained:
    """A difference that is meant: the gateway's status, and why it is another answer than the engine's."""

    status: int
    reason: str
    frontends: frozenset[str] = field(default=frozenset(("python", "rust")))


@dataclass(frozen=True)
class Difference:
    """One thing that the gateway answers differently."""

    what: str
    engine: object
    gateway: object

    def __str__(self) -> str:
        return f"{self.what}\n  engine:  {self.engine!r}\n  gateway: {self.gateway!r}"


def ask(address: int | Path, case: Case) -> Reply:
    """Send a case's request on a connection of its own."""
    with wire(address, ANSWER_SECONDS) as connection:
        return connection.ask(case.data)


def differences(engine: Reply, gateway: Reply, *, is_unordered: bool = False) -> list[Difference]:
    """Return everything in which two answers differ."""
    bodies = [masked(reply.body) for reply in (engine, gateway)]
    if is_unordered:
        bodies = [ordered(body) for body in bodies]
    pairs: tuple[tuple[str, object, object], ...] = (
        ("status", engine.status, gateway.status),
        ("headers", headers(engine), headers(gateway)),
        ("body", bodies[0], bodies[1]),
    )
    return [Difference(what, *_excerpts(ours, theirs)) for what, ours, theirs in pairs if ours != theirs]


def headers(reply: Reply) -> list[tuple[str, str]]:
    """Return the headers that must be equal, in their order."""
    left_out = CONNECTION_HEADERS | OUR_HEADERS
    return [(name, value) for name, value in reply.headers if name.lower() not in left_out]


def masked(body: bytes) -> bytes:
    """Return a body with `#` for each digit of its ids and times."""
    body = _TIMES.sub(lambda found: found[1] + b"#" * len(found[2]), body)
    return _IDS.sub(lambda found: found[1] + b"#" * len(found[2]) + (found[3] or b"") + found[4], body)


def ordered(body: bytes) -> bytes:
    """Return a body with the keys of its objects sorted, and the events of each choice together."""
    body = _RANGES.sub(lambda found: b", ".join(sorted(found[0].split(b", "))), body)
    if not body.startswith(b"data: "):
        return _sorted_keys(body)
    events: list[bytes] = [_sorted_keys(event.removeprefix(b"data: ")) for event in body.split(b"\n\n")]
    events.sort(key=_choice)
    return b"\n\n".join(events)


def _sorted_keys(document: bytes) -> bytes:
    try:
        # Masks stand where numbers were.
        value = json.loads(re.sub(rb":(#+)", rb':"\1"', document))
    except ValueError:
        return document
    return json.dumps(value, sort_keys=True).encode()


def _choice(event: bytes) -> bytes:
    found = re.search(rb'"index": (\d+)', event)
    return found[1] if found else b"last"


def _excerpts(engine: object, gateway: object) -> tuple[object, object]:
    """Shorten two long bodies to what stands around their first difference."""
    if not (isinstance(engine, bytes) and isinstance(gateway, bytes)):
        return engine, gateway
    pairs = enumerate(zip(engine, gateway, strict=False))
    at = next((at for at, (one, other) in pairs if one != other), min(len(engine), len(gateway)))
    around = slice(max(0, at - 100), at + 300)
    return engine[around], gateway[around]
