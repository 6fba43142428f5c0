"""OpenAPI documents: what of vLLM's is really served, and ours beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel

from vllm_engine.gateway.policy.routes import Route, RouteTable

Document = dict[str, Any]
"""An OpenAPI 3.1 document, or a part of one."""

SCHEMES: Final[Mapping[str, Any]] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
"""OpenAPI 3.1, section 4.8.27; either one is enough."""

OF_THE_ENGINE: Final = "model"
"""The tag of what vLLM answers."""

_PLACEHOLDER = re.compile(r"\{[^{}/]+\}")
_AN_ID = "an-id-that-stands-for-any"
_METHODS: Final = frozenset(("get", "put", "post", "delete", "options", "head", "patch", "trace"))
_COMPONENTS: Final = "#/components/"


class GatewayErrorDetail(BaseModel):
    """What went wrong, in OpenAI's form."""

    message: str
    type: str
    param: str | None
    code: int | str


class GatewayError(BaseModel):
    """The body of an error."""

    error: GatewayErrorDetail


_REFUSALS: Final = {
    "408": ("BodyTimeout", "The request's body was sent too slowly."),
    "413": ("BodyTooLarge", "The request's body is larger than MAX_BODY_BYTES."),
    "429": (
        "TooManyRequests",
        "A limit is reached, or the queue is full; Retry-After says when to come back.",
    ),
    "503": ("Unavailable", "The engine cannot answer now; Retry-After says when to come back."),
}
"""What the gateway answers in the engine's place, on every route of the engine's."""


def served(theirs: Document, routes: RouteTable) -> Document:
    """Return of vLLM's document the operations that the allow-list lets through, and what they refer to."""
    paths: dict[str, Any] = {}
    for path, item in theirs.get("paths", {}).items():
        route = routes.match(_PLACEHOLDER.sub(_AN_ID, path).encode())
        if route is None:
            continue
        kept = {
            key: value for key, value in item.items() if key not in _METHODS or key.upper() in route.methods
        }
        if _METHODS & kept.keys():
            paths[path] = kept
    named = {_PLACEHOLDER.sub("{id}", path) for path in paths}
    paths |= {
        route.template: bare(route) for route in routes.routes if route.template in routes.extra - named
    }
    return {"paths": paths, "components": _reachable(paths, theirs.get("components", {}))}


def undescribed(routes: RouteTable) -> Document:
    """Return the routes of the allow-list, of which no more than their names is known."""
    return {"paths": {route.template: bare(route) for route in routes.routes}, "components": {}}


def bare(route: Route) -> Document:
    """Return a path of which nothing is known but its methods."""
    item: Document = {}
    for method in sorted(route.methods):
        operation: Document = {"responses": {"200": {"description": "vLLM's answer."}}}
        if method in ("POST", "PUT", "PATCH"):
            operation["requestBody"] = {"content": {"application/json": {"schema": {"type": "object"}}}}
        item[method.lower()] = operation
    if "{id}" in route.template:
        item["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]
    return item


def merged(ours: Document, engine: Document, public_paths: Container[str], *, needs_key: bool) -> Document:
    """Return one document of both; a path that is in both is the engine's, as it is in the gateway.

    All but `public_paths` ask for a key, if `needs_key`.
    """
    engine = _copy(engine)
    paths, components = engine["paths"], engine["components"]
    own = _without_clashes(ours, components.get("schemas", {}))
    for section, named in own.get("components", {}).items():
        components.setdefault(section, {}).update(named)
    for path, operation in _operations(paths):
        operation["tags"] = [OF_THE_ENGINE]
        for status, (name, text) in _REFUSALS.items():
            # There, errors have Anthropic's form.
            told = {"description": text} if path.startswith("/v1/messages") else _response(name)
            operation["responses"].setdefault(status, told)
    refusals = {name: _refusal(text) for name, text in _REFUSALS.values()}
    components.setdefault("responses", {}).update(refusals if paths else {})
    components.setdefault("schemas", {}).update(_error_schemas())
    if needs_key:
        components["securitySchemes"] = dict(SCHEMES)
        components["responses"]["Unauthorized"] = _refusal("No valid API key was given.", "WWW-Authenticate")
        for path, operation in _operations(own["paths"] | paths):
            if path not in public_paths:
                operation["security"] = [{name: []} for name in SCHEMES]
                operation["responses"]["401"] = _response("Unauthorized")
    # A path prefix in front is kept: relative to the document's own address (OpenAPI 3.1.1, section 4.8.5).
    return {**own, "servers": [{"url": "."}], "paths": own["paths"] | paths, "components": components}


def _operations(paths: Document) -> Iterator[tuple[str, Document]]:
    for path, item in paths.items():
        for method in item:
            if method in _METHODS:
                yield path, item[method]


def _response(name: str) -> Document:
    return {"$ref": f"{_COMPONENTS}responses/{name}"}


def _refusal(text: str, header: str | None = None) -> Document:
    headers = {"headers": {header: {"schema": {"type": "string"}}}} if header else {}
    schema = {"$ref": f"{_COMPONENTS}schemas/{GatewayError.__name__}"}
    return {"description": text, **headers, "content": {"application/json": {"schema": schema}}}


def _error_schemas() -> Document:
    body = GatewayError.model_json_schema(ref_template=f"{_COMPONENTS}schemas/{{model}}")
    return {**body.pop("$defs"), GatewayError.__name__: body}


def _reachable(paths: Document, components: Document) -> Document:
    """Return the components that the paths refer to, and those to which these refer."""
    kept: Document = {}
    todo = list(_references(paths))
    while todo:
        section, name = todo.pop()
        if name in kept.get(section, {}) or name not in components.get(section, {}):
            continue
        kept.setdefault(section, {})[name] = components[section][name]
        todo.extend(_references(components[section][name]))
    return kept


def _references(part: Any) -> Iterator[tuple[str, str]]:
    """Yield section and name of each reference, those of a discriminator's mapping included."""
    if isinstance(part, str):
        if part.startswith(_COMPONENTS):
            section, _, name = part.removeprefix(_COMPONENTS).partition("/")
            yield section, name
    else:
        for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            yield from _references(inner)


def _without_clashes(ours: Document, taken: Container[str]) -> Document:
    """Return our document with other names for those of its schemas whose names are taken."""
    renamed = _copy(ours)
    for name in [name for name in ours.get("components", {}).get("schemas", {}) if name in taken]:
        schemas = renamed["components"]["schemas"]
        schemas[f"Gateway{name}"] = schemas.pop(name)
        before, after = (json.dumps(f"{_COMPONENTS}schemas/{one}") for one in (name, f"Gateway{name}"))
        renamed = json.loads(json.dumps(renamed).replace(before, after))
    return renamed


def _copy(document: Document) -> Document:
    copied: Document = json.loads(json.dumps(document))
    return copied
