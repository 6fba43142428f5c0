"""What vLLM's flags for its own server mean where the gateway is the server.

The flags are those of `FrontendArgs` (vllm/entrypoints/launchers/cli_args.py, 0.32 and 0.33). What is not
named here is a setting of ours or vLLM's own, as after `vllm-engine serve`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from vllm_engine.cli.serve_words import FlagRule, ServeWords
from vllm_engine.config.other_engines import literal_keys
from vllm_engine.errors import OptionProblem

_LOG_LEVELS = {"critical": "error", "trace": "debug"}
"""uvicorn's levels that we have not, and the nearest that we have."""


def _refuse(found: ServeWords, option: str, message: str) -> None:
    found.problems.append(OptionProblem(option, "", message))


def _to(setting: str) -> FlagRule:
    """Take the flag's value as that of a setting."""

    def rule(found: ServeWords, option: str, values: Sequence[str], _is_on: bool) -> None:
        if values:
            found.settings[setting] = " ".join(values)
        else:
            _refuse(found, option, "expected a value after it")

    return rule


def _switch(setting: str, when_on: str, when_off: str) -> FlagRule:
    def rule(found: ServeWords, _option: str, _values: Sequence[str], is_on: bool) -> None:
        found.settings[setting] = when_on if is_on else when_off

    return rule


def _nothing(found: ServeWords, option: str, values: Sequence[str], is_on: bool) -> None:
    """Take a flag that asks for what is so anyway."""


def _noted(why: str) -> FlagRule:
    """Take a flag that changes nothing here, and say so."""

    def rule(found: ServeWords, option: str, _values: Sequence[str], _is_on: bool) -> None:
        found.notes.append(f"{option} changes nothing here: {why}")

    return rule


def _cannot(why: str) -> FlagRule:
    def rule(found: ServeWords, option: str, _values: Sequence[str], is_on: bool) -> None:
        if is_on:
            _refuse(found, option, why)

    return rule


def _keys(found: ServeWords, option: str, values: Sequence[str], _is_on: bool) -> None:
    keys = literal_keys(values)
    if keys is None:
        _refuse(
            found,
            option,
            "a key with a comma or a space cannot be given here; put it into API_KEYS_FILE, hashed",
        )
    elif keys:
        found.settings["API_KEYS"] = keys
    else:  # an empty secret must not open the server
        _refuse(found, option, "expected a key after it, got none")


def _token(found: ServeWords, _option: str, values: Sequence[str], _is_on: bool) -> None:
    if values:  # alone it means the token that the hub's library has stored
        found.settings["HF_TOKEN"] = values[0]


def _log_level(found: ServeWords, option: str, values: Sequence[str], _is_on: bool) -> None:
    level = " ".join(values).lower()
    _to("LOG_LEVEL")(found, option, [_LOG_LEVELS.get(level, level)] if level else [], True)


def _dtype(found: ServeWords, option: str, values: Sequence[str], _is_on: bool) -> None:
    # vLLM's auto is the model's own; ours is what the device does best.
    named = ["model" if value.lower() == "auto" else value for value in values]
    _to("DTYPE")(found, option, named, True)


def _origins(found: ServeWords, option: str, values: Sequence[str], _is_on: bool) -> None:
    origins = _texts(values)
    if origins is None:
        _refuse(found, option, 'expected a JSON list of origins, such as ["https://app.example.com"]')
    elif "*" in origins:
        found.settings["CORS_ORIGINS"] = "*"
    elif origins:
        found.settings["CORS_ORIGINS"] = " ".join(origins)


def _any_of_cors(found: ServeWords, option: str, values: Sequence[str], _is_on: bool) -> None:
    if _texts(values) != ["*"]:
        why = "a page of CORS_ORIGINS may use each route's methods and any header"
        found.notes.append(f"{option} changes nothing here: {why}")


def _texts(values: Sequence[str]) -> list[str] | None:
    try:
        found = json.loads(" ".join(values))
    except ValueError:
        return None
    return found if isinstance(found, list) and all(isinstance(each, str) for each in found) else None


def _client_certificates(found: ServeWords, option: str, values: Sequence[str], _is_on: bool) -> None:
    if list(values) not in (["0"], []):  # ssl.CERT_NONE, vLLM's default
        why = "client certificates are not checked here; have a proxy in front check them, or set API_KEYS"
        _refuse(found, option, why)


_ELSEWHERE = "the gateway listens on HOST and PORT alone"
_NO_GRPC = "vLLM's gRPC server has no gateway in front of it; serve HTTP, or run vLLM's own image"

RULES: Mapping[str, FlagRule] = {
    "api-key": _keys,
    "hf-token": _token,
    "dtype": _dtype,
    "uvicorn-log-level": _log_level,
    "shutdown-timeout": _to("DRAIN_TIMEOUT_SECONDS"),
    "allowed-origins": _origins,
    "allowed-methods": _any_of_cors,
    "allowed-headers": _any_of_cors,
    "allow-credentials": _cannot("the gateway lets no page send cookies; clients send their key in a header"),
    "disable-fastapi-docs": _switch("ENABLE_UI", "0", "1"),
    "disable-uvicorn-access-log": _switch("ACCESS_LOG", "0", "1"),
    "disable-access-log-for-endpoints": _noted(
        "probes and /metrics are in no access log; ACCESS_LOG=0 turns the rest off"
    ),
    "enable-request-id-headers": _nothing,
    "enable-ssl-refresh": _nothing,
    "enable-offline-docs": _nothing,
    "root-path": _noted("have the proxy strip the prefix, as vLLM needs too"),
    "h11-max-header-count": _noted("the gateway has its own bounds"),
    "h11-max-incomplete-event-size": _noted("the gateway has its own bounds"),
    "ssl-cert-reqs": _client_certificates,
    "ssl-ca-certs": _noted("client certificates are not checked"),
    "ssl-ciphers": _noted("TLS 1.2 and later, with the ciphers of Mozilla's intermediate profile"),
    "uds": _cannot(_ELSEWHERE + ", not on a Unix socket; leave it out"),
    "grpc": _cannot(_NO_GRPC),
    "grpc-port": _cannot(_NO_GRPC),
    "data-parallel-multi-port-external-lb": _cannot(
        f"{_ELSEWHERE}, not on one port for each rank; run a container for each, behind a router"
    ),
}
"""By vLLM's name without dashes."""
