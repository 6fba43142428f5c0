"""The arguments that say which server a command talks to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from vllm_engine.client.api_client import Server

KEY_VARIABLE = "VLLM_ENGINE_API_KEY"

_F = TypeVar("_F", bound=Callable[..., Any])


def takes_server(command: _F) -> _F:
    """Give a command BASE_URL, --model and --api-key."""
    for decorate in (
        click.option(
            "--api-key",
            envvar=KEY_VARIABLE,
            help=f"Sent as a bearer token; prefer {KEY_VARIABLE}, which process lists do not show.",
        ),
        click.option("--model", default="", help="Model to request. Default: the first the server lists."),
        click.argument("base_url", required=False),
    ):
        command = decorate(command)
    return command


def server_at(url: str | None, api_key: str | None) -> Server:
    """Return the server at a URL; without one, the server of these settings, HOST and PORT.

    Raises:
        SettingsError: the URL or a setting is invalid.
    """
    from vllm_engine.client.api_client import Server, base_url
    from vllm_engine.config.quoting import clean

    api_key = clean(api_key or "") or None
    if url:
        return Server(base_url(url), api_key)
    from vllm_engine.cli.local_server import local_server
    from vllm_engine.config.environment import read_environment
    from vllm_engine.config.settings import load_settings

    return local_server(load_settings(read_environment()), api_key)
