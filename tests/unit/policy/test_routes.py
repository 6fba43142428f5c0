"""The allow-list: exactly the named routes pass, in exactly one spelling."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vllm_engine.errors import SettingsError
from vllm_engine.gateway.policy.routes import ROUTES, Route, RouteTable, check_method, parse_extra_routes
from vllm_engine.gateway.rejection import Rejected

TABLE = RouteTable()
LITERAL = [route.template.encode() for route in ROUTES if "{" not in route.template]
GET, POST, BOTH = frozenset({"GET"}), frozenset({"POST"}), frozenset({"GET", "POST"})

HOSTILE = [
    b"", b"/", b"*", b"v1/models", b"//v1/models", b"/v1/models/", b"/v1/./models", b"/v1/x/../models",
    b"/v1/chat/completions/../../../invocations", b"/v1%2fmodels", b"/v1/%6dodels", b"/v1%252fmodels",
    b"/v1\\models", b"/V1/models", b"/v1/models\x00", b"/v1/models\r\nGET /sleep", b"/v1/models;a=b",
    b"/v1/models?x", b"http://engine/v1/models", b"/v1/responses//cancel", b"/v1/responses/{id}",
    b"/v1/responses/..", b"/v1/responses/a%2fcancel", b"/v1/responses/" + b"a" * 129, "/v1/ｍodels".encode(),
]  # fmt: skip
FORBIDDEN = """
/invocations /ping /health /load /version /metrics /server_info /openapi.json /docs /redoc /tokenizer_info
/v1/load_lora_adapter /v1/unload_lora_adapter /adapters /adapters/a /sleep /wake_up /is_sleeping
/release_kv_cache_memory /collective_rpc /reset_prefix_cache /reset_mm_cache /reset_encoder_cache
/start_profile /stop_profile /pause /resume /is_paused /abort_requests /update_weights /weight_info
/init_weight_transfer_engine /get_world_size /scale_elastic_ep /is_scaling_elastic_ep
/fault_tolerance/apply /fault_tolerance/status /kv_event_sources /generative_scoring
/v1/chat/completions/derender /v1/completions/derender /inference/v1/generate /inference/v1/abort_requests
/cohere/v2/chat /cohere/v2/chat/render /v1/systemone /v1/decisions /v1/realtime
"""


def test_only_listed_routes_are_found() -> None:
    """No other spelling of one passes, and nothing else that vLLM 0.32 and 0.33 serve; methods are as vLLM's."""
    for route in ROUTES:
        assert TABLE.match(route.template.replace("{id}", "resp_0123456789abcdef").encode()) == route
    assert not [path for path in HOSTILE if TABLE.match(path)]
    assert not [path for path in FORBIDDEN.split() if TABLE.match(path.encode())]
    # A response cannot be called `render`, which is a route.
    assert TABLE.match(b"/v1/responses/render") == Route("/v1/responses/render", POST, is_scale_out=True)
    gets = {route.template for route in ROUTES if "GET" in route.methods}
    assert gets == {"/v1/models", "/v1/responses/{id}"}
    streaming = {route.template.removeprefix("/v1/") for route in ROUTES if route.may_stream}
    audio = {"audio/transcriptions", "audio/translations"}
    assert streaming == {"chat/completions", "completions", "responses", "messages"} | audio
    route = Route("/x", BOTH)
    check_method("POST", route.methods)
    with pytest.raises(Rejected, match="HEAD is not allowed here; allowed: GET, POST") as caught:
        check_method("HEAD", route.methods)
    assert (caught.value.status, caught.value.headers) == (405, [(b"allow", b"GET, POST")])


spellings = st.sampled_from(LITERAL) | st.from_regex(rb"\A/v1/responses/[A-Za-z0-9_-]{1,128}(/cancel)?\Z")
pieces = st.sampled_from([b"/", b"/..", b"%2f", b"%25", b"\\", b";a", b"\x00", b"\n", b"\xc3\xa9", b"a"])


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """An allowed path with something put in, escaped, or cut."""
    path = draw(spellings)
    at, to = sorted(draw(st.tuples(st.integers(0, len(path)), st.integers(0, len(path)))))
    middle = draw(pieces | st.binary(max_size=3) | st.just(quote(path[at:to], safe="").encode()))
    return path[:at] + middle + path[to:]


@given(st.binary() | mangled() | spellings)
@example(b"/v1/models")
def test_a_match_is_an_allowed_spelling(path: bytes) -> None:
    """Whatever passes is byte for byte a listed path, or one with an id in its place."""
    allowed = path in LITERAL or re.fullmatch(rb"/v1/responses/[A-Za-z0-9_-]{1,128}(/cancel)?", path)
    assert bool(TABLE.match(path)) == bool(allowed)
    assert not allowed or unquote_to_bytes(path) == path


def test_extra_routes() -> None:
    """Entries are separated by commas or white space; one path's methods add up, those of a listed one too."""
    for text, routes in (
        (" , ,\n", ()), ("/load", (Route("/load", BOTH),)), ("GET /a, POST /a", (Route("/a", BOTH),)),
        ("get /load, POST /pause\tGET /x", (Route("/load", GET), Route("/pause", POST), Route("/x", GET))),
        ("/.well-known/a~b:c", (Route("/.well-known/a~b:c", BOTH),)),
    ):  # fmt: skip
        assert parse_extra_routes(text) == routes
    table = RouteTable(parse_extra_routes("POST /v1/load_lora_adapter, HEAD /v1/models"))
    assert table.match(b"/v1/load_lora_adapter") == Route("/v1/load_lora_adapter", POST, changes_engine=True)
    (weights, sleep) = parse_extra_routes("POST /update_weights, POST /sleep")
    assert (weights.changes_engine, sleep.changes_engine) == (True, False)
    models = table.match(b"/v1/models")
    assert models is not None and models.methods == {"GET", "HEAD"}
    assert all(table.match(path) for path in LITERAL)
    # What generates or embeds is core work, also where it is named once more; what is unknown is not.
    table = RouteTable(parse_extra_routes("/invocations, PUT /v1/completions"))
    paths = ("/v1/completions", "/v1/embeddings", "/v1/models", "/tokenize", "/invocations")
    found = [table.match(path.encode()) for path in paths]
    assert [route is not None and route.is_core_work for route in found] == [True, True, False, False, False]


def test_bad_extra_routes() -> None:
    """An entry that is not a route is refused, with the entry and what was expected."""
    for text in (
        "GET", "GET,", "load", "TRACE /load", "* /load", "/", "/load/", "//load", "POST /v1/*", "/v1/{id}",
        "/v1/../load", "/v1/.", "/v1%2fload", "/load?x=1", "/load;a", "/l\\oad", "/löad", "/lo\x00ad", "http://engine/load",
    ):  # fmt: skip
        with pytest.raises(SettingsError) as caught:
            parse_extra_routes(f"/ok, {text}")
        (problem,) = caught.value.problems
        assert problem.value == text.rstrip(",")
        assert "/path" in problem.message or "a path like" in problem.message
