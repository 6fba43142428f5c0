"""The option `--local`: defaults for trying it out on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from vllm_engine.config.environment import Environment

_F = TypeVar("_F", bound=Callable[..., Any])


def takes_local(command: _F) -> _F:
    """Give a command --local."""
    return click.option(
        "--local",
        is_flag=True,
        help="Change defaults: the bundled model, on loopback only, cached in ./.cache.",
    )(command)


def environment_for(*, local: bool) -> Environment:
    """Read the environment, with the defaults of `--local` if it is given.

    Raises:
        SettingsError: `.env` is there but cannot be read.
    """
    from vllm_engine.config.environment import read_environment

    environment = read_environment()
    if not local:
        return environment
    defaults = {
        "MODEL_ID": "bundled:smollm2-135m-instruct",
        "HOST": "127.0.0.1",
        "CACHE_DIR": str(Path.cwd() / ".cache"),
    }
    return replace(environment, defaults=defaults)
