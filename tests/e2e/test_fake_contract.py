"""The fake engine answers as the real vLLM does: the same requests to both, and what must be equal is.

What a model says differs, and so do ids and times; everything else is compared: the status, the headers and their
order, the framing, the events, the keys and their order, and whole bodies where nothing in them varies.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import Served
from tests.support.differential import Case, ask
from tests.support.engine_cases import ANSWERED, ASKED, CHAT, REFUSED
from tests.support.fake.fake_engine import make_fake_engine_python
from tests.support.program import until
from tests.support.raw_http import Reply, request, wire

pytestmark = pytest.mark.e2e

NOT_FAKED = ("logprobs", "tool", "echoed", "twice", "gzip", "emoji", "form", "deep", "long number")
"""What the fake does not pretend: no test of ours rests on it."""
ENGINES_OWN = (
    Case("health", request("GET", "/health", None)),
    Case("version", request("GET", "/version", None)),
    Case("load", request("GET", "/load", None)),
    Case("unknown route", request("GET", "/v1/nothing", None)),
    Case("wrong method", request("GET", CHAT, None)),
    Case("a slash too many", request("GET", "/v1/models/", None)),
)
EXACT = {case.name for case in (*REFUSED, *ENGINES_OWN)}
CASES = [
    case
    for case in (*ENGINES_OWN, *ANSWERED, *ASKED, *REFUSED)
    if not any(word in case.name for word in NOT_FAKED)
]
TELLING = {"object", "role", "type", "status", "model", "finish_reason", "stop_reason", "owned_by", "version"}
"""Keys whose values say what something is, and so are compared."""


@pytest.fixture(scope="module")
def real(served: Served) -> Path:
    return served.socket


@pytest.fixture(scope="module")
def fake(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The fake engine, started with the real one's own words."""
    folder = tmp_path_factory.mktemp("fake")
    socket, log = folder / "engine.sock", folder / "log"
    python = make_fake_engine_python(folder / "engine", {"tokens": 64, "tokens_per_second": 50})
    words = psutil.Process(served.program.engine_pid()).cmdline()
    words = [str(python), "-P", "-m", "vllm.entrypoints.cli.main", *words[words.index("serve") :]]
    words[words.index("--uds") + 1] = str(socket)
    with log.open("wb") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out, cwd=folder, start_new_session=True)
    try:
        until(lambda: process.poll() is not None or listens(socket), "the fake engine")
        assert process.poll() is None, log.read_text()
        yield socket
    finally:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.wait()


def listens(path: Path) -> bool:
    try:
        with wire(path):
            return True
    except OSError:
        return False


def comparable_headers(reply: Reply) -> list[tuple[str, str]]:
    """Return the headers in their order; values that vary are left out."""
    varying = {"date"} if "text/event-stream" in str(reply.headers) else {"date", "content-length"}
    return [(key, "" if key in varying else value) for key, value in reply.headers]


def shape(value: object, key: str = "") -> object:
    """Return what must be equal of JSON: keys in their order, kinds of values, and the telling ones."""
    if isinstance(value, dict):
        return [(name, shape(item, name)) for name, item in value.items()]
    if isinstance(value, list):
        return [f"{key}[]", *without_repeats([shape(item, key) for item in value])]
    return value if key in TELLING or value is None else type(value).__name__


def without_repeats(items: list[Any]) -> list[Any]:
    """Drop what equals its predecessor: how many tokens there are is the model's business."""
    return [item for index, item in enumerate(items) if index == 0 or item != items[index - 1]]


def events(reply: Reply) -> list[object]:
    """Return the events of a stream, each as its fields' names and its data's shape."""
    found: list[object] = []
    for chunk in reply.chunks:
        assert chunk.endswith(b"\n\n"), chunk
        assert chunk.count(b"\n\n") == 1, f"more than one event in a chunk: {chunk!r}"
        fields = [line.partition(": ")[::2] for line in chunk.decode().strip("\n").split("\n")]
        found.append([(k, v if k != "data" or v == "[DONE]" else shape(json.loads(v))) for k, v in fields])
    return without_repeats(found)


def said(reply: Reply) -> object:
    """Return what must be equal of a body."""
    kind = dict(reply.headers).get("content-type", "")
    if kind.startswith("text/event-stream"):
        return events(reply)
    return shape(json.loads(reply.body)) if kind == "application/json" and reply.body else reply.body


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_same_answer(case: Case, real: Path, fake: Path) -> None:
    theirs, ours = ask(real, case), ask(fake, case)
    assert ours.status == theirs.status
    assert comparable_headers(ours) == comparable_headers(theirs)
    assert said(ours) == said(theirs)
    if case.name in EXACT:
        assert ours.body == theirs.body


METRICS = Case("metrics", request("GET", "/metrics", None))


def series(text: str) -> dict[str, tuple[str, set[str]]]:
    """Return the kind and the label names of each of vLLM's metrics."""
    kinds = dict(re.findall(r"^# TYPE (vllm:\S+) (\S+)$", text, re.MULTILINE))
    labels = dict(re.findall(r"^(vllm:\w+)\{(.*)\} \S+$", text, re.MULTILINE))
    return {
        name: (kind, set(re.findall(r'(\w+)="', labels[name])))
        for name, kind in kinds.items()
        if name in labels
    }


def test_the_metrics_are_some_of_vllms(real: Path, fake: Path) -> None:
    """Each has vLLM's name, kind and labels, under vLLM's content type."""
    theirs, ours = ask(real, METRICS), ask(fake, METRICS)
    assert comparable_headers(ours) == comparable_headers(theirs)
    expected, found = series(theirs.body.decode()), series(ours.body.decode())
    assert len(found) >= 6
    assert found == {name: expected[name] for name in found}
