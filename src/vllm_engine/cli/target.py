"""The arguments that say which server a command talks to, and what to do where none answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from vllm_engine.client.api_client import Server

KEY_VARIABLE = "API_KEY"
"""Holds a client's key, for every command and script."""

_ADDRESS = re.compile(r"[\w.-]+:\d+(?:/\S*)?|localhost(?:/\S*)?")
_PLAIN_ADDRESS = re.compile(r"\w+://\S*|(?:localhost|[\w-]+(?:\.[\w-]+)+):\d+(?:/\S*)?")
"""What no question begins with, unless its words are quoted together."""

_F = TypeVar("_F", bound=Callable[..., Any])


def takes_server(command: _F) -> _F:
    """Give a command --model and --api-key."""
    for decorate in (
        click.option(
            "--api-key",
            envvar=KEY_VARIABLE,
            help=f"Sent as a bearer token; prefer {KEY_VARIABLE}, which process lists do not show.",
        ),
        click.option(
            "-m", "--model", default="", help="Model to request. Default: the first the server lists."
        ),
    ):
        command = decorate(command)
    return command


def url_and_words(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Split what may begin with a URL into that URL and the other words.

    A word such as `localhost:8000` or `ftp://host` counts as a URL too, to be refused as an incomplete one.
    """
    first = words[0] if words else ""
    is_alone = len(words) == 1 and _ADDRESS.fullmatch(first)
    is_url = first.startswith(("http://", "https://")) or is_alone or _PLAIN_ADDRESS.fullmatch(first)
    return (first, list(words[1:])) if is_url else (None, list(words))


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


@contextmanager
def with_next_step() -> Iterator[None]:
    """Say what to do where no server listens, or where it wants another key."""
    from vllm_engine.client.api_client import ServerError, UnreachableError

    try:
        yield
    except UnreachableError as error:
        step = "start one with `vllm-engine serve` (`make run` in a checkout), or give the URL of another"
        raise ServerError(f"{error}; {step}") from error
    except ServerError as error:
        if error.status != 401:
            raise
        step = f"set {KEY_VARIABLE} to one of the server's keys (of an entry me:KEY in API_KEYS, only KEY)"
        raise ServerError(f"{error}; {step}", 401) from error
