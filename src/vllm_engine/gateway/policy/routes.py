"""The allow-list: which requests may reach the engine, by the exact bytes of their path.

vLLM serves far more than inference: adapters can be loaded and unloaded, the model put to sleep, caches
dropped, engines scaled; and its own `--api-key` leaves everything outside `/v1`, `/v2`, `/inference` and
`/cohere` open. So a path passes only if it is named here or in `EXTRA_ROUTES`.

Nothing is decoded or normalized before matching. RFC 3986, section 6.2.2, lets two programs normalize one
path differently (`//`, `/./`, `%2F`, a trailing slash), and every such difference is a way around a list. No
path that matches contains a `%`: the bytes that were matched are the bytes that are sent on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from vllm_engine.errors import Problem, SettingsError
from vllm_engine.gateway.rejection import Rejected

_ID = "{id}"
_ID_PATTERN = rb"[A-Za-z0-9_-]{1,128}"
"""vLLM makes `resp_` and 16 hexadecimal digits; a client may choose another with `request_id`."""

_GET = frozenset({"GET"})
_POST = frozenset({"POST"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_METHODS_OF_A_BARE_PATH = _GET | _POST
"""Every route of vLLM 0.32 and 0.33 answers one of these two or both."""

_PATH = re.compile(r"(/[A-Za-z0-9._~:-]+)+")
_EXPECTED_PATH = (
    "a path like /v1/name: no trailing slash, query, percent escape or placeholder, no segment . or .."
)
_EXPECTED_METHOD = f"METHOD /path or /path, with METHOD one of {', '.join(sorted(_METHODS))}"


@dataclass(frozen=True, slots=True)
class Route:
    """One named route: its path, `{id}` standing for an id, and the methods that pass."""

    template: str
    methods: frozenset[str]
    is_core_work: bool = False
    """Whether a good answer proves that vLLM's engine core works, not its API process alone.

    Not known of routes in `EXTRA_ROUTES`, so nothing is concluded from those.
    """
    may_stream: bool = False
    """Whether vLLM answers with an event stream if the body asks for one."""
    is_batch: bool = False
    """Whether one request has many conversations, and counts as that many for admission."""
    is_scale_out: bool = False
    """Whether vLLM answers it with 403 unless it runs with `--enable-scale-out`.

    vllm-router's policy `cache_aware` asks every replica for the tokens of every chat on such a route. After
    403 it goes by the text alone; after 404 it would ask each replica's `/tokenize` as well (0.1.17).
    """
    is_listing: bool = False
    """Whether it lists the models."""
    changes_engine: bool = False
    """Whether the engine's memory holds something afterwards that no start brings back."""

    @property
    def is_routine(self) -> bool:
        """Whether machines ask for it of themselves: it neither starts an engine nor keeps one running."""
        return self.is_listing or self.is_scale_out


ROUTES = (
    Route("/v1/chat/completions", _POST, is_core_work=True, may_stream=True),
    Route("/v1/chat/completions/batch", _POST, is_core_work=True, is_batch=True),
    Route("/v1/chat/completions/render", _POST, is_scale_out=True),
    Route("/v1/completions", _POST, is_core_work=True, may_stream=True),
    Route("/v1/completions/render", _POST, is_scale_out=True),
    Route("/v1/responses", _POST, is_core_work=True, may_stream=True),
    Route("/v1/responses/render", _POST, is_scale_out=True),
    Route("/v1/responses/{id}", _GET),
    Route("/v1/responses/{id}/cancel", _POST),
    Route("/v1/messages", _POST, is_core_work=True, may_stream=True),
    Route("/v1/messages/count_tokens", _POST),
    Route("/v1/messages/render", _POST, is_scale_out=True),
    Route("/v1/models", _GET, is_listing=True),
    Route("/tokenize", _POST),
    Route("/detokenize", _POST),
    # The engine registers these by what its model can do, and answers 404 for the others.
    Route("/v1/embeddings", _POST, is_core_work=True),
    Route("/v2/embed", _POST, is_core_work=True),
    Route("/v1/score", _POST, is_core_work=True),
    Route("/score", _POST, is_core_work=True),
    Route("/v1/rerank", _POST, is_core_work=True),
    Route("/v2/rerank", _POST, is_core_work=True),
    Route("/rerank", _POST, is_core_work=True),
    Route("/classify", _POST, is_core_work=True),
    Route("/pooling", _POST, is_core_work=True),
    Route("/v1/audio/transcriptions", _POST, is_core_work=True, may_stream=True),
    Route("/v1/audio/translations", _POST, is_core_work=True, may_stream=True),
)
"""Inference and what SDKs ask besides, with the methods that vLLM answers: it has no HEAD, no DELETE, and no
`/v1/models/{model}`."""

_CHANGING = (
    *("/v1/load_lora_adapter", "/v1/unload_lora_adapter"),
    *("/start_weight_update", "/update_weights", "/finish_weight_update"),
)
"""vLLM's routes that change which adapters it serves (`VLLM_ALLOW_RUNTIME_LORA_UPDATING`), or its weights
(`vllm/entrypoints/rl`, 0.32 and 0.33)."""


def check_method(method: str, allowed: frozenset[str]) -> None:
    """Let these methods pass.

    Raises:
        Rejected: it is another one (405).
    """
    if method not in allowed:
        names = ", ".join(sorted(allowed))
        message = f"{method} is not allowed here; allowed: {names}"
        raise Rejected(405, "method", message, headers=[(b"allow", names.encode())])


class RouteTable:
    """Finds the route of a path, by exact match."""

    def __init__(self, extra: Sequence[Route] = ()) -> None:
        self.routes = routes = _merged((*ROUTES, *extra))
        self.extra = frozenset(route.template for route in extra)
        """Those that were named in `EXTRA_ROUTES`."""
        self.templates = frozenset(route.template for route in routes)
        """A bounded set, fit for a metric's label."""
        self._exact = {route.template.encode(): route for route in routes if _ID not in route.template}
        self._patterns = tuple((_pattern(route), route) for route in routes if _ID in route.template)

    def match(self, raw_path: bytes) -> Route | None:
        """Return the route that ASGI's `raw_path` names byte for byte, or None.

        The caller checks the method, and forwards `raw_path` itself.
        """
        route = self._exact.get(raw_path)
        if route is not None:
            return route
        for pattern, candidate in self._patterns:
            if pattern.fullmatch(raw_path):
                return candidate
        return None


def parse_extra_routes(text: str) -> tuple[Route, ...]:
    """Read `EXTRA_ROUTES`: `METHOD /path` or `/path` (GET and POST), separated by commas or spaces.

    Paths are literal: a placeholder could let through a route that nobody named.

    Raises:
        SettingsError: an entry has no path, an unknown method, or a path that is more than
            plain segments.
    """
    routes: list[Route] = []
    for part in text.split(","):
        words = iter(part.split())
        for word in words:
            if word.startswith("/"):
                routes.append(_extra(word, word, _METHODS_OF_A_BARE_PATH))
            else:
                path = next(words, "")
                entry = f"{word} {path}".strip()
                if word.upper() not in _METHODS:
                    raise _not_a_route(entry, _EXPECTED_METHOD)
                routes.append(_extra(entry, path, frozenset({word.upper()})))
    return _merged(routes)


def _extra(entry: str, path: str, methods: frozenset[str]) -> Route:
    if not path.startswith("/"):
        raise _not_a_route(entry, _EXPECTED_METHOD)
    if not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise _not_a_route(entry, _EXPECTED_PATH)
    return Route(path, methods, changes_engine=path in _CHANGING)


def _not_a_route(entry: str, expected: str) -> SettingsError:
    return SettingsError([Problem("EXTRA_ROUTES", entry, f"expected {expected}")])


def _merged(routes: Iterable[Route]) -> tuple[Route, ...]:
    merged: dict[str, Route] = {}
    for route in routes:
        # A listed route keeps its properties where EXTRA_ROUTES names it too.
        one = merged.get(route.template, route)
        merged[route.template] = replace(one, methods=one.methods | route.methods)
    return tuple(merged.values())


def _pattern(route: Route) -> re.Pattern[bytes]:
    parts = route.template.encode().split(_ID.encode())
    return re.compile(_ID_PATTERN.join(re.escape(part) for part in parts))
