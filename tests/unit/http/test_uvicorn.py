"""Every member of uvicorn's internals that `uvicorn_adapter` uses: none of it is promised."""

from __future__ import annotations

import ast
import inspect
import tomllib
from pathlib import Path

import httptools
import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import Server, ServerState

ROOT = Path(__file__).parents[3]

METHODS: dict[type, dict[str, str]] = {
    HttpToolsProtocol: {
        "__init__": "config server_state app_state _loop", "connection_made": "transport", "connection_lost": "exc",
        "eof_received": "", "data_received": "data", "on_message_begin": "", "on_url": "url",
        "on_header": "name value", "on_headers_complete": "", "on_body": "body", "on_message_complete": "",
        "on_response_complete": "", "pause_writing": "", "resume_writing": "", "shutdown": "",
        "_start_asgi_task": "cycle app", "_unset_keepalive_if_required": "",
    },
    RequestResponseCycle: {"run_asgi": "app", "send": "message", "receive": ""},
    FlowControl: {"pause_reading": "", "resume_reading": ""},
    Server: {"capture_signals": "", "serve": "sockets", "startup": "sockets", "shutdown": "sockets"},
}  # fmt: skip
ATTRIBUTES: dict[type, str] = {
    HttpToolsProtocol: "cycle expect_100_continue flow headers loop parser pipeline scheme scope transport url",
    RequestResponseCycle: "chunked_encoding disconnected keep_alive message_event more_body response_complete "
    "response_started scope transport waiting_for_100_continue",
    FlowControl: "read_paused",
    ServerState: "connections",
    Server: "config lifespan server_state should_exit",
}
CHANGED = "uvicorn has changed inside: look at gateway/http/uvicorn_adapter.py before its range is widened"


def test_members() -> None:
    """Methods take what they took; attributes are made by their own classes."""
    for owner, methods in METHODS.items():
        for name, parameters in methods.items():
            found = list(inspect.signature(getattr(owner, name)).parameters)
            assert found == ["self", *parameters.split()], f"{owner}.{name}: {CHANGED}"
    for owner, names in ATTRIBUTES.items():
        for name in names.split():
            assert f"self.{name}" in inspect.getsource(owner), f"{owner}.{name}: {CHANGED}"


def test_only_the_adapter_uses_them() -> None:
    """But for what a connection's subclasses may use."""
    private = {name for names in ATTRIBUTES.values() for name in names.split()}
    private -= {
        "config",
        "connections",
        "flow",
        "headers",
        "loop",
        "read_paused",
        "scheme",
        "scope",
        "should_exit",
    }
    private -= {"transport", "url", "disconnected", "keep_alive"}
    for file in (ROOT / "src/vllm_engine/gateway/http").glob("*.py"):
        used = {
            node.attr for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)
        }
        assert file.name == "uvicorn_adapter.py" or not used & private, (file.name, used & private)


def test_a_connection_ends_before_its_next_request_is_looked_for() -> None:
    source = inspect.getsource(RequestResponseCycle.send)
    assert source.index("self.transport.close()") < source.index("self.on_response()"), CHANGED


def test_the_parser_takes_views_and_says_where_an_offered_upgrade_ended() -> None:
    parser = httptools.HttpRequestParser(object())
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    data = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: y\r\n\r\nrest"
    with pytest.raises(httptools.HttpParserUpgrade) as offer:
        parser.feed_data(memoryview(data))
    assert offer.value.args == (60,)


def test_the_next_minor_version_is_not_taken_unseen() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = [one for one in project["dependencies"] if one.startswith("uvicorn")]
    major, minor, *_ = uvicorn.__version__.split(".")
    assert wanted.endswith(f"<{major}.{int(minor) + 1}"), CHANGED
