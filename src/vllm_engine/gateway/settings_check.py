"""Checks the gateway's own settings before anything starts: keys, routes, certificate, address."""

from __future__ import annotations

from collections.abc import Callable

from vllm_engine.config.settings import Settings
from vllm_engine.errors import Problem, SettingsError
from vllm_engine.gateway.http.listening_sockets import load_tls, resolve
from vllm_engine.gateway.policy.auth import Keyring, KeysError
from vllm_engine.gateway.policy.routes import RouteTable, parse_extra_routes
from vllm_engine.system.file_limit import ConnectionShares, connection_shares
from vllm_engine.system.log import add_secrets


def check_gateway(settings: Settings) -> list[Problem]:
    """List the settings that the gateway cannot start with. Opens no socket."""
    checks: tuple[Callable[[Settings], object], ...] = (
        load_keyring,
        load_routes,
        load_tls,
        lambda settings: resolve(settings.host, settings.port),
    )
    problems: list[Problem] = []
    for check in checks:
        try:
            check(settings)
        except SettingsError as error:
            problems += error.problems
    return problems


def client_connections(settings: Settings, files: int) -> ConnectionShares:
    """Return how many client connections are served at once where `files` may be open."""
    return connection_shares(
        files,
        max_connections=settings.max_connections,
        max_in_flight=settings.max_in_flight,
        has_health_port=bool(settings.health_port),
    )


def load_keyring(settings: Settings) -> Keyring:
    """Return the API keys.

    Raises:
        SettingsError: they cannot be used; never shows one.
    """
    text = settings.api_keys.get_secret_value() if settings.api_keys else None
    try:
        return Keyring(text, settings.api_keys_file, hide=add_secrets)
    except KeysError as error:
        value = "***" if error.setting == "API_KEYS" else str(settings.api_keys_file)
        raise SettingsError([Problem(error.setting, value, error.problem)]) from error


def load_routes(settings: Settings) -> RouteTable:
    """Return the allow-list.

    Raises:
        SettingsError: `EXTRA_ROUTES` does not name routes.
    """
    return RouteTable(parse_extra_routes(settings.extra_routes))
