#!/usr/bin/env python3
"""Write down what each of vLLM's frontends knows of a request, from its sources, and hold our table to it.

    .venv/bin/python tools/frontend_routes.py read vllm-0.33.0 > tests/data/frontends/0.33.0.json
    .venv/bin/python tools/frontend_routes.py check tests/data/frontends/*.json
    .venv/bin/python tools/frontend_routes.py installed .venv-engine/lib/python3.*/site-packages tests/data/frontends

`read` takes an unpacked source distribution, which has `rust/` and `vllm/`. `check` says what our table
(src/vllm_engine/gateway/body/frontend_fields.py) does not know, `installed` whether the Python frontend that is
installed is the one that was written down. Each exits 1 and says what to do where something is amiss.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from vllm_engine.gateway.body.frontend_fields import (
    CHAT,
    COMPLETIONS,
    PYTHON_FIELDS,
    PYTHON_HEADERS,
    RUST_ROUTES,
)
from vllm_engine.gateway.policy.routes import ROUTES

TABLE: Final = "src/vllm_engine/gateway/body/frontend_fields.py"
TOOL: Final = "tools/frontend_routes.py"

KEPT: Final = {
    "/v1/models": "asked seldom; the Python frontend's answer has more fields",
    "/tokenize": "asked seldom; the Rust frontend has fewer fields",
    "/detokenize": "asked seldom",
}
"""Routes of ours that the Rust frontend serves too, and that stay with the Python frontend, and why."""

HARMLESS: Final = {
    "user": "neither frontend does anything with it",
    "max_tokens": "the Rust frontend takes it for max_completion_tokens before anything else reads it",
}
"""Fields that the Rust frontend reads and does nothing with, and why that changes no answer."""

REFUSED_BY_BOTH: Final = frozenset(
    (
        *("logit_bias", "logprob_token_ids", "logprobs", "max_tokens", "prompt_logprobs", "response_format"),
        *("stream_options", "structured_outputs", "tools", "top_logprobs", "truncate_prompt_tokens", "echo"),
        *("model", "cache_salt"),
    )
)
"""Fields that the Rust frontend refuses for values that the Python frontend refuses too."""

_SOURCES: Final = {
    CHAT: ("openai/chat_completion", "ChatCompletionRequest", "chat_completions"),
    COMPLETIONS: ("openai/completion", "CompletionRequest", "completions"),
}
_HEADER_FOLDERS: Final = ("openai/chat_completion", "openai/completion", "generate/base", "serve/engine")
_ROUTES: Final = Path("rust/src/server/src/routes")
_ROUTE: Final = re.compile(r'\.route\(\s*"([^"]+)",\s*(?:get|post)\(([\w:]+)\)')
_FIELD: Final = re.compile(r"^    pub (?:r#)?(\w+): ", re.MULTILINE)
_MAY_BE_NULL: Final = re.compile(
    r'^    pub (?:r#)?(\w+): (?:Option<|Value,)|"DefaultOnNull"\)\]\s+pub (?:r#)?(\w+):', re.MULTILINE
)
_FLATTENED: Final = re.compile(r"#\[serde\(flatten\)\]\s*pub (\w+):")
_PARAM: Final = re.compile(r'param = "(\w+)"|reject_non_default\([^;]*?"(\w+)"|Some\("(\w+)"\)')
_RUST_HEADER: Final = re.compile(r'headers(?:\(\))?\s*\.get\("([^"]+)"\)')
_TESTS: Final = "#[cfg(test)]\nmod tests"

Facts = dict[str, Any]


class ChangedError(Exception):
    """The sources are not laid out as this tool knows them."""


def read_facts(folder: Path) -> Facts:
    """Read both frontends' sources in an unpacked source distribution."""
    version = re.search(r"version = '([^']+)'", _text(folder / "vllm/_version.py"))
    if version is None:
        raise ChangedError(f"{folder}/vllm/_version.py names no version")
    return {"vllm": version[1], "python": python_facts(folder / "vllm"), "rust": _rust_facts(folder)}


def python_facts(package: Path) -> Facts:
    """Read the fields and headers that the Python frontend knows, and which fields may not be null."""
    entry = package / "entrypoints"
    fields, not_null = {}, {}
    for route, (folder, name, _) in _SOURCES.items():
        path = entry / folder / "protocol.py"
        known = _python_fields(path, name)
        fields[route] = sorted(known)
        not_null[route] = sorted(key for key, kind in known.items() if not _may_be_null(kind, path, package))
    sources = [path for folder in _HEADER_FOLDERS for path in sorted((entry / folder).glob("*.py"))]
    return {"fields": fields, "not_null": not_null, "headers": sorted(set(_python_headers(sources)))}


def _python_fields(path: Path, name: str) -> dict[str, ast.expr]:
    """Return the annotation of each field."""
    for node in ast.parse(_text(path)).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            if (bases := [ast.unparse(base) for base in node.bases]) != ["OpenAIBaseModel"]:
                raise ChangedError(
                    f"{path}: {name} has other bases now, whose fields must be read too: {bases}"
                )
            lines = (one for one in node.body if isinstance(one, ast.AnnAssign))
            named = ((one.target, one.annotation) for one in lines)
            return {key.id: kind for key, kind in named if isinstance(key, ast.Name) and key.id[0] != "_"}
    raise ChangedError(f"{path} has no class {name}")


def _may_be_null(kind: ast.expr, path: Path, package: Path) -> bool:
    """Whether an annotation in the module `path` of `package` allows None; aliases are looked up."""
    parts: list[ast.expr] = []
    if isinstance(kind, ast.Constant):
        return kind.value is None
    if isinstance(kind, ast.BinOp):
        parts = [kind.left, kind.right]
    elif isinstance(kind, ast.Subscript):
        outer = ast.unparse(kind.value)
        if outer == "Optional":
            return True
        inner = kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]
        if outer == "Annotated":
            # A validator that takes more than the type tells the schema so.
            words = (word for part in inner if isinstance(part, ast.Call) for word in part.keywords)
            parts = [inner[0], *(word.value for word in words if word.arg == "json_schema_input_type")]
        elif outer in ("Union", "Literal"):
            parts = inner
    elif isinstance(kind, ast.Name):
        if kind.id in ("Any", "object"):
            return True
        if (alias := _alias(kind.id, path, package)) is not None:
            return _may_be_null(*alias, package)
    return any(_may_be_null(part, path, package) for part in parts)


def _alias(name: str, path: Path, package: Path) -> tuple[ast.expr, Path] | None:
    """Return what a name stands for, and the module that says so; None where it is a class, or not vLLM's."""
    for node in ast.parse(_text(path)).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if name in map(ast.unparse, targets):
                return node.value, path
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vllm."):
            for one in node.names:
                if name == (one.asname or one.name):
                    folder = package.parent / str(node.module).replace(".", "/")
                    module = folder.with_suffix(".py")
                    return _alias(one.name, module if module.exists() else folder / "__init__.py", package)
    return None


def _python_headers(sources: Iterable[Path]) -> Iterator[str]:
    """Yield the names in `….headers.get(NAME)`, literal or a constant of the same module."""
    for path in sources:
        tree = ast.parse(_text(path))
        known = {
            target.id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("headers.get"):
                name = node.args[0]
                value = name.value if isinstance(name, ast.Constant) else known.get(ast.unparse(name))
                if not isinstance(value, str):
                    raise ChangedError(f"{path}:{node.lineno}: which header is {ast.unparse(name)}?")
                yield value.lower()


def _rust_facts(folder: Path) -> Facts:
    server = folder / "rust/src/server/src"
    routes = _text(server / "routes.rs")
    facts: Facts = {
        "routes": sorted({path for path, handler in _ROUTE.findall(routes) if handler != "not_supported"}),
        "headers": sorted({one.lower() for one in _RUST_HEADER.findall(_text(server / "utils.rs"))}),
    }
    for key in ("fields", "may_be_null", "unused", "refused"):
        facts[key] = {}
    for route, (_, name, module) in _SOURCES.items():
        rust = folder / _ROUTES / "openai"
        files = (rust / f"{module}.rs", rust / module / "validate.rs", rust / module / "convert.rs")
        code = "".join(_text(path).partition(_TESTS)[0] for path in files)
        struct = _rust_struct(rust / module / "types.rs", name)
        # A flattened map takes the fields that nobody knows.
        fields = sorted({*_FIELD.findall(struct)} - {*_FLATTENED.findall(struct)})
        facts["fields"][route] = fields
        facts["may_be_null"][route] = sorted({one or other for one, other in _MAY_BE_NULL.findall(struct)})
        used = r"\b(?:request|body|req)\s*\.\s*(?:as_ref\(\)\s*\.\s*)?{}\b"
        facts["unused"][route] = [one for one in fields if not re.search(used.format(one), code)]
        facts["refused"][route] = sorted({next(filter(None, one)) for one in _PARAM.findall(code)})
    return facts


def _rust_struct(path: Path, name: str) -> str:
    struct = re.search(rf"^pub struct {name} \{{\n(.*?)^\}}", _text(path), re.MULTILINE | re.DOTALL)
    if struct is None:
        raise ChangedError(f"{path} has no struct {name}")
    return struct[1]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ChangedError(f"there is no {path}") from None


def faults(facts: Facts) -> Iterator[str]:
    """Say what the table lacks for one version."""
    version, python, rust = f"vLLM {facts['vllm']}", facts["python"], facts["rust"]
    ours = {route.template for route in ROUTES}
    for route in sorted(ours & set(rust["routes"]) - RUST_ROUTES - set(KEPT)):
        yield f"{version}: the Rust frontend serves {route}: add it to RUST_ROUTES in {TABLE} or to KEPT in {TOOL}"
    for route in sorted(RUST_ROUTES - set(rust["routes"])):
        yield f"{version}: the Rust frontend does not serve {route}: take it from RUST_ROUTES in {TABLE}"
    for name in sorted(set(python["headers"]) - set(rust["headers"]) - _names(PYTHON_HEADERS)):
        yield f"{version}: the Python frontend alone reads the header {name}: add it to PYTHON_HEADERS in {TABLE}"
    for route in _SOURCES:
        rules = {name: field for name, field in PYTHON_FIELDS.items() if route in field.routes}
        tabled = {name for name, field in rules.items() if not field.null_alone}
        where = f"{version}, {route}: the field"
        missing = set(python["fields"][route]) - set(rust["fields"][route])
        for name in sorted(missing - tabled - set(HARMLESS)):
            yield (
                f"{where} {name} is in the Python frontend alone, and the Rust frontend would ignore it: add it to "
                f"PYTHON_FIELDS in {TABLE}, or with a reason to HARMLESS in {TOOL}"
            )
        for name in sorted(set(rust["unused"][route]) - tabled - set(HARMLESS)):
            yield (
                f"{where} {name} is read by the Rust frontend and nowhere used: add it to PYTHON_FIELDS in {TABLE}, "
                f"or with a reason to HARMLESS in {TOOL}"
            )
        for name in sorted(set(rust["refused"][route]) - tabled - REFUSED_BY_BOTH):
            yield (
                f"{where} {name} is refused by the Rust frontend for some values: add it to PYTHON_FIELDS in "
                f"{TABLE}, or to REFUSED_BY_BOTH in {TOOL} if the Python frontend refuses these values too"
            )
        for name in sorted(_refused_nulls(facts, route)):
            if name not in rules or (not rules[name].null_alone and None in rules[name].same):
                yield (
                    f"{where} {name} is refused by the Python frontend alone where it is null: add it to "
                    f"PYTHON_FIELDS in {TABLE} with null_alone, or take None from what is the same for both"
                )


def _refused_nulls(facts: Facts, route: str) -> set[str]:
    """Return the fields whose null the Python frontend refuses, and the Rust frontend takes or does not see."""
    python, rust = facts["python"], facts["rust"]
    seen = {*rust["fields"][route]} - {*rust["may_be_null"][route]}
    return {*python["not_null"][route]} - seen


def stale(versions: Iterable[Facts]) -> Iterator[str]:
    """Say what of the table no version needs any more, but for what only answers show (`differs`)."""
    needed = set()
    for facts in versions:
        for route in _SOURCES:
            rust = facts["rust"]
            lacks = {*facts["python"]["fields"][route]} - {*rust["fields"][route]}
            nulls = _refused_nulls(facts, route)
            needed |= {
                (name, route) for name in (*lacks, *nulls, *rust["unused"][route], *rust["refused"][route])
            }
    for name, field in PYTHON_FIELDS.items():
        for route in sorted(field.routes):
            if (name, route) not in needed and not field.differs:
                yield f"{route}: the Rust frontend serves the field {name} in each version: take it from {TABLE}"


def installed_faults(site: Path, folder: Path) -> Iterator[str]:
    """Say where the installed Python frontend is not the one that was written down."""
    found = next(iter(sorted(site.glob("vllm*-*.dist-info/METADATA"))), None)
    version = found and re.search(r"^Version: ([\d.]+)", found.read_text("utf-8"), re.MULTILINE)
    if not version:
        yield f"{site} has no vLLM"
        return
    stored = folder / f"{version[1]}.json"
    if not stored.exists():
        yield f"vLLM {version[1]} is installed: unpack its source distribution and run {TOOL} read FOLDER > {stored}"
        return
    known, now = json.loads(stored.read_text("utf-8"))["python"], python_facts(site / "vllm")
    if now != known:
        yield f"the installed vLLM {version[1]} is not the one of {stored}: {_difference(known, now)}"


def _difference(known: Facts, now: Facts) -> str:
    before, after = (
        {(route, name) for route, names in facts["fields"].items() for name in names}
        for facts in (known, now)
    )
    gone, new = sorted(before - after), sorted(after - before)
    nulls = f"not null {known['not_null']}, now {now['not_null']}"
    return f"fields gone {gone}, new {new}; {nulls}; headers {known['headers']}, now {now['headers']}"


def _names(raw: Iterable[bytes]) -> set[str]:
    return {name.decode() for name in raw}


def main(argv: list[str]) -> int:
    """Do what the first word says."""
    try:
        if len(argv) == 2 and argv[0] == "read":
            print(json.dumps(read_facts(Path(argv[1])), indent=1))
            return 0
        if len(argv) > 1 and argv[0] == "check":
            versions = [json.loads(Path(name).read_text("utf-8")) for name in argv[1:]]
            found = [fault for facts in versions for fault in faults(facts)] + list(stale(versions))
        elif len(argv) == 3 and argv[0] == "installed":
            found = list(installed_faults(Path(argv[1]), Path(argv[2])))
        else:
            print(__doc__, file=sys.stderr)
            return 2
    except ChangedError as error:
        found = [f"{error}: {TOOL} must learn the new layout"]
    for fault in found:
        print(fault, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
