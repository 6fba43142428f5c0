"""What `uvicorn_adapter` takes for granted of uvicorn and httptools: none of it is promised."""

from __future__ import annotations

import ast
import inspect
import tomllib
from pathlib import Path

import httptools
import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

ROOT = Path(__file__).parents[3]
PRIVATE = frozenset((
    "chunked_encoding", "cycle", "expect_100_continue", "lifespan", "message_event", "more_body", "parser", "pipeline",
    "response_complete", "response_started", "server_state", "waiting_for_100_continue",
))  # fmt: skip


def test_only_the_adapter_uses_its_internals() -> None:
    """Whether they are there mypy checks, and what they do the tests of connections."""
    for file in (ROOT / "src/vllm_engine/gateway/http").glob("*.py"):
        nodes = ast.walk(ast.parse(file.read_text()))
        used = PRIVATE & {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        assert used == (PRIVATE if file.name == "uvicorn_adapter.py" else set()), file


def test_the_next_minor_version_is_not_taken_unseen() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = [one for one in project["dependencies"] if one.startswith("uvicorn")]
    major, minor, *_ = uvicorn.__version__.split(".")
    assert wanted.endswith(f"<{major}.{int(minor) + 1}"), (
        "look at uvicorn_adapter.py before the range is widened"
    )


def test_a_connection_ends_before_its_next_request_is_looked_for() -> None:
    source = inspect.getsource(RequestResponseCycle.send)
    assert source.index("self.transport.close()") < source.index("self.on_response()")


def test_the_parser_takes_views_and_says_where_an_offered_upgrade_ended() -> None:
    parser = httptools.HttpRequestParser(object())
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    data = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: y\r\n\r\nrest"
    with pytest.raises(httptools.HttpParserUpgrade) as offer:
        parser.feed_data(memoryview(data))
    assert offer.value.args == (60,)
