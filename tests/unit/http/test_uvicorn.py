"""What the gateway uses of uvicorn's insides: none of it is promised, so each member is named here."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path

import httptools
import pytest
import uvicorn
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import Server, ServerState

ROOT = Path(__file__).parents[3]

METHODS: dict[type, dict[str, list[str]]] = {
    HttpToolsProtocol: {
        "connection_made": ["transport"],
        "connection_lost": ["exc"],
        "eof_received": [],
        "data_received": ["data"],
        "on_message_begin": [],
        "on_url": ["url"],
        "on_header": ["name", "value"],
        "on_headers_complete": [],
        "on_body": ["body"],
        "on_message_complete": [],
        "on_response_complete": [],
        "pause_writing": [],
        "resume_writing": [],
        "shutdown": [],
        "timeout_keep_alive_handler": [],
        "_start_asgi_task": ["cycle", "app"],
        "_unset_keepalive_if_required": [],
    },
    RequestResponseCycle: {"run_asgi": ["app"], "send": ["message"], "receive": []},
    FlowControl: {"pause_reading": [], "resume_reading": []},
    Server: {
        "capture_signals": [],
        "serve": ["sockets"],
        "startup": ["sockets"],
        "shutdown": ["sockets"],
    },
}
ATTRIBUTES: dict[type, tuple[str, ...]] = {
    HttpToolsProtocol: (
        "config",
        "connections",
        "cycle",
        "expect_100_continue",
        "flow",
        "headers",
        "loop",
        "parser",
        "pipeline",
        "scheme",
        "scope",
        "server_state",
        "transport",
    ),
    RequestResponseCycle: (
        "chunked_encoding",
        "disconnected",
        "keep_alive",
        "message_event",
        "more_body",
        "response_complete",
        "response_started",
        "scope",
        "transport",
        "waiting_for_100_continue",
    ),
    FlowControl: ("read_paused",),
    ServerState: ("connections",),
    Server: ("config", "server_state", "should_exit"),
}
CHANGED = "uvicorn has changed inside: look at gateway/{incoming,connection,lane,server}.py before its range is widened"


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [(owner, name, wanted) for owner, methods in METHODS.items() for name, wanted in methods.items()],
)
def test_methods(owner: type, name: str, parameters: list[str]) -> None:
    """Every method that is overridden or called is there and takes what it took."""
    found = list(inspect.signature(getattr(owner, name)).parameters)
    assert found == ["self", *parameters], CHANGED


@pytest.mark.parametrize(
    ("owner", "name"), [(owner, name) for owner, names in ATTRIBUTES.items() for name in names]
)
def test_attributes(owner: type, name: str) -> None:
    """Every attribute that is read or written is one that it makes itself."""
    assert f"self.{name}" in inspect.getsource(owner), CHANGED


def test_connection_takes_these() -> None:
    """A connection is made as the server would make it."""
    found = list(inspect.signature(HttpToolsProtocol).parameters)
    assert found == ["config", "server_state", "app_state", "_loop"], CHANGED


def test_status_lines() -> None:
    """Refusals of ours begin with its status lines."""
    assert httptools_impl.STATUS_LINE[503] == b"HTTP/1.1 503 Service Unavailable\r\n", CHANGED


def test_answer_is_ended_in_this_order() -> None:
    """A connection that ends with its answer is closed before the next request is looked for."""
    source = inspect.getsource(RequestResponseCycle.send)
    assert source.index("self.transport.close()") < source.index("self.on_response()"), CHANGED


def test_parser() -> None:
    """The parser takes views of a read, and says where an offered upgrade ended."""
    assert issubclass(httptools.HttpParserUpgrade, Exception)
    parser = httptools.HttpRequestParser(object())
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    with pytest.raises(httptools.HttpParserUpgrade) as offer:
        parser.feed_data(
            memoryview(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: y\r\n\r\nrest")
        )
    assert offer.value.args == (60,)


def test_range_is_capped() -> None:
    """The next minor version is not taken unseen."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = [one for one in project["dependencies"] if one.startswith("uvicorn")]
    major, minor, *_ = uvicorn.__version__.split(".")
    assert wanted.endswith(f"<{major}.{int(minor) + 1}"), CHANGED
