"""What an input of the campaign is, on the client's side."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from tests.support.raw_http import Reply

KEY = "sk-campaign-1234"
BEARER = f"Authorization: Bearer {KEY}"
MAX_BODY_BYTES = 300_000

Check = Callable[[Reply], bool]
"""Whether an answer is the right one."""


class Ending(Enum):
    """What a client does once it has sent everything."""

    WAIT = "waits for an answer or the close"
    HALF_CLOSE = "closes its sending side and reads on"
    LEAVE = "resets the connection"


class Reading(Enum):
    """How a client reads."""

    ALL = "as fast as it comes"
    SLOW = "a little at a time, with a small buffer"
    NONE = "not at all"


@dataclass(frozen=True)
class Input:
    """Everything that one client does.

    Attributes:
        kind: what it tries, for the report.
        pieces: each is a write of its own.
        answers: what must come back, one after the other; None where any documented end will do.
        leave_after: bytes of the answer after which it leaves.
        heads_only: whether all its requests are HEAD.
    """

    kind: str
    pieces: tuple[bytes, ...]
    ending: Ending = Ending.WAIT
    reading: Reading = Reading.ALL
    answers: tuple[Check, ...] | None = None
    leave_after: int | None = None
    heads_only: bool = False


_TAG = re.compile(rb"tag-(\d+)-([0-9a-f]{8})\.")


def tag(index: int) -> str:
    """Return what only the input of this index says; changed bytes do not make another's of it."""
    return f"tag-{index}-{zlib.crc32(b'%d' % index):08x}."


def others_tags(said: bytes, index: int) -> set[int]:
    """Return the indices of other inputs whose tags are in what was said to this one's client."""
    found = ((int(number), code) for number, code in _TAG.findall(said))
    return {number for number, code in found if b"%08x" % zlib.crc32(b"%d" % number) == code} - {index}


def echoes(method: str, query: str, body: bytes) -> Check:
    """Expect that the engine has got this, to the byte."""
    digest = hashlib.sha256(body).hexdigest()

    def check(reply: Reply) -> bool:
        if reply.status != 200:
            return False
        said = reply.json()
        return (said["method"], said["query"], said["body_bytes"], said["body_sha256"]) == (
            method,
            query,
            len(body),
            digest,
        )

    return check


def status(*codes: int) -> Check:
    """Expect one of these, in the one error shape where it is an error of the gateway's own."""

    def check(reply: Reply) -> bool:
        if reply.status not in codes:
            return False
        return reply.status < 400 or reply.header("content-type") != "application/json" or bool(reply.json())

    return check


def says(text: str) -> Check:
    """Expect a whole chat that says this."""

    def check(reply: Reply) -> bool:
        if reply.status != 200 or reply.header("content-type") != "application/json":
            return False
        return bool(reply.json()["choices"][0]["message"]["content"] == text)

    return check


def streams(text: str) -> Check:
    """Expect a streamed chat that says this and ends as it should."""

    def check(reply: Reply) -> bool:
        events = [line for line in reply.body.decode().split("\n\n") if line.startswith("data: ")]
        if reply.status != 200 or not events or events.pop() != "data: [DONE]":
            return False
        choices = [choice for event in events for choice in json.loads(event[6:])["choices"]]
        return "".join(choice["delta"].get("content") or "" for choice in choices) == text

    return check
