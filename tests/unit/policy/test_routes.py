"""The allow-list: exactly the named routes pass, in exactly one spelling."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vllm_engine.gateway.policy.routes import ROUTES, ExtraRouteError, Route, RouteTable, parse_extra_routes

TABLE = RouteTable()
LITERAL = [route.template.encode() for route in ROUTES if "{" not in route.template]

HOSTILE = [
    b"",
    b"/",
    b"*",
    b"v1/models",
    b"//v1/models",
    b"/v1//models",
    b"/v1/models/",
    b"/v1/models//",
    b"/v1/./models",
    b"/v1/x/../models",
    b"/v1/models/..",
    b"/v1/../invocations",
    b"/v1/chat/completions/../../../invocations",
    b"/v1%2fmodels",
    b"/v1%2Fmodels",
    b"/v1/%6dodels",
    b"/%2e%2e/v1/models",
    b"/v1/%2e/models",
    b"/v1%252fmodels",
    b"/v1\\models",
    b"\\v1\\models",
    b"/v1/models\\..\\..\\sleep",
    b"/v1/models%5c",
    b"/V1/models",
    b"/v1/Models",
    b"/v1/models\x00",
    b"/v1/models%00",
    b"/v1/models\n",
    b"/v1/models%0a",
    b"/v1/models\r\nGET /sleep",
    b"/v1/models ",
    b" /v1/models",
    b"/v1/models;a=b",
    b"/v1;a=b/models",
    b"/v1/models?x",
    b"/v1/models#x",
    b"/v1/mod\xc3\xa9ls",
    "/v1/models".encode("utf-16"),
    "/v1/ｍodels".encode(),
    b"/v1/models\xff",
    b"http://engine/v1/models",
    b"//engine/v1/models",
    b"engine:80",
    b"/v1/models/org/name",
    b"/v1/models/org%2Fname",
    b"/v1/responses/",
    b"/v1/responses//cancel",
    b"/v1/responses/{id}",
    b"/v1/responses/../models",
    b"/v1/responses/..",
    b"/v1/responses/.",
    b"/v1/responses/a.b",
    b"/v1/responses/a%2fcancel",
    b"/v1/responses/a\n",
    b"/v1/responses/a/",
    b"/v1/responses/a/cancel/",
    b"/v1/responses/a/b/cancel",
    b"/v1/responses/" + b"a" * 129,
    b"/v1/responses/\xc3\xa9",
]

FORBIDDEN = """
/invocations /ping /health /load /version /metrics /server_info /openapi.json /docs /redoc /tokenizer_info
/v1/load_lora_adapter /v1/unload_lora_adapter /adapters /adapters/a /sleep /wake_up /is_sleeping
/release_kv_cache_memory /collective_rpc /reset_prefix_cache /reset_mm_cache /reset_encoder_cache
/start_profile /stop_profile /pause /resume /is_paused /abort_requests /update_weights /weight_info
/init_weight_transfer_engine /get_world_size /scale_elastic_ep /is_scaling_elastic_ep
/fault_tolerance/apply /fault_tolerance/status /kv_event_sources /generative_scoring
/v1/chat/completions/derender
/v1/completions/derender /inference/v1/generate
/inference/v1/abort_requests /cohere/v2/chat /cohere/v2/chat/render /v1/systemone /v1/decisions /v1/realtime
"""


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.template)
def test_allowed(route: Route) -> None:
    """Every route of the list is found by its own spelling."""
    assert TABLE.match(route.template.replace("{id}", "resp_0123456789abcdef").encode()) == route


@pytest.mark.parametrize("path", HOSTILE)
def test_hostile_path(path: bytes) -> None:
    """No other spelling of an allowed path passes, and no path that means another one to somebody."""
    assert TABLE.match(path) is None


@pytest.mark.parametrize("path", FORBIDDEN.split())
def test_forbidden(path: str) -> None:
    """What else vLLM 0.32 and 0.33 serve is not reachable."""
    assert TABLE.match(path.encode()) is None


def test_methods() -> None:
    """Routes name the methods that vLLM answers; a response may not be called `render`, which is a route."""
    assert {route.template for route in ROUTES if "GET" in route.methods} == {
        "/v1/models",
        "/v1/responses/{id}",
    }
    assert TABLE.match(b"/v1/responses/render") == Route("/v1/responses/render", frozenset({"POST"}))


def test_streams() -> None:
    """Nothing of ours gets into the answers of routes that never stream."""
    assert {route.template for route in ROUTES if route.may_stream} == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
    }


def test_templates_are_distinct() -> None:
    """Each path is listed once, so each metric label has one meaning."""
    assert len({route.template for route in ROUTES}) == len(ROUTES)


hostile_pieces = st.sampled_from(
    [
        b"/",
        b"//",
        b"/.",
        b"/..",
        b"%2f",
        b"%2e",
        b"%25",
        b"\\",
        b";a",
        b"\x00",
        b"\n",
        b"\xc3\xa9",
        b"a",
        b"\xff",
    ]
)
allowed_spellings = st.sampled_from(LITERAL) | st.from_regex(
    rb"\A/v1/responses/[A-Za-z0-9_-]{1,128}(/cancel)?\Z"
)


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """An allowed path with something put in, escaped, or cut."""
    path = draw(allowed_spellings)
    at, to = sorted(draw(st.tuples(st.integers(0, len(path)), st.integers(0, len(path)))))
    middle = draw(hostile_pieces | st.binary(max_size=3) | st.just(quote(path[at:to], safe="").encode()))
    return path[:at] + middle + path[to:]


@given(st.binary() | mangled() | allowed_spellings)
@example(b"/v1/models")
def test_a_match_is_an_allowed_spelling(path: bytes) -> None:
    """Whatever passes is byte for byte a listed path, or one with an id in its place."""
    match = TABLE.match(path)
    allowed = path in LITERAL or re.fullmatch(rb"/v1/responses/[A-Za-z0-9_-]{1,128}(/cancel)?", path)
    assert (match is not None) == bool(allowed)
    if match is not None:
        assert unquote_to_bytes(path) == path
        assert [len(part) > 0 for part in path.split(b"/")[1:]] == [True] * path.count(b"/")


@pytest.mark.parametrize(
    ("text", "routes"),
    [
        ("", ()),
        (" , ,\n", ()),
        ("/load", (Route("/load", frozenset({"GET", "POST"})),)),
        ("get /load", (Route("/load", frozenset({"GET"})),)),
        (
            "POST /pause,POST /resume\tGET /is_paused",
            (
                Route("/pause", frozenset({"POST"})),
                Route("/resume", frozenset({"POST"})),
                Route("/is_paused", frozenset({"GET"})),
            ),
        ),
        ("GET /a, POST /a", (Route("/a", frozenset({"GET", "POST"})),)),
        ("/.well-known/a~b:c", (Route("/.well-known/a~b:c", frozenset({"GET", "POST"})),)),
    ],
)
def test_extra_routes(text: str, routes: tuple[Route, ...]) -> None:
    """Entries are separated by commas or white space; one path's methods add up."""
    assert parse_extra_routes(text) == routes


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("GET", "GET"),
        ("GET, /load", "GET"),
        ("/ok GET POST /load", "GET POST"),
        ("load", "load"),
        ("TRACE /load", "TRACE /load"),
        ("CONNECT /load", "CONNECT /load"),
        ("* /load", "* /load"),
        ("/", "/"),
        ("/load/", "/load/"),
        ("//load", "//load"),
        ("POST /v1/*", "POST /v1/*"),
        ("/v1/{id}", "/v1/{id}"),
        ("/v1/../load", "/v1/../load"),
        ("/v1/.", "/v1/."),
        ("/v1%2fload", "/v1%2fload"),
        ("/load?x=1", "/load?x=1"),
        ("/load#x", "/load#x"),
        ("/load;a", "/load;a"),
        ("/l\\oad", "/l\\oad"),
        ("/löad", "/löad"),
        ("/lo\x00ad", "/lo\x00ad"),
        ("http://engine/load", "http://engine/load"),
    ],
)
def test_bad_extra_route(text: str, entry: str) -> None:
    """An entry that is no route is refused, with the entry and what was wanted."""
    with pytest.raises(ExtraRouteError) as caught:
        parse_extra_routes(text)
    assert caught.value.entry == entry
    assert "/path" in caught.value.wanted or "a path like" in caught.value.wanted
    assert caught.value.wanted in str(caught.value)


def test_extra_route_is_reachable() -> None:
    """What the setting names passes, beside the list; a listed path can get more methods."""
    table = RouteTable(parse_extra_routes("POST /v1/load_lora_adapter, HEAD /v1/models"))
    assert table.match(b"/v1/load_lora_adapter") == Route("/v1/load_lora_adapter", frozenset({"POST"}))
    assert table.match(b"/v1/unload_lora_adapter") is None
    models = table.match(b"/v1/models")
    assert models is not None
    assert models.methods == {"GET", "HEAD"}
    assert all(table.match(path) is not None for path in LITERAL)
