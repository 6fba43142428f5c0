"""The process environment and `.env`: read here and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

from vllm_engine.errors import Problem, SettingsError


@dataclass(frozen=True)
class Environment:
    """The variables this program was given, and where each came from."""

    process: Mapping[str, str]
    dotenv: Mapping[str, str]

    @property
    def merged(self) -> dict[str, str]:
        """Every variable; the process environment wins over `.env`, empty values are unset."""
        filled = {key: value for key, value in self.dotenv.items() if value}
        return filled | {key: value for key, value in self.process.items() if value or key not in filled}

    def source(self, key: str) -> str | None:
        """Say where a variable was set: `environment`, `.env`, or None where it is not."""
        if self.process.get(key):
            return "environment"
        return ".env" if self.dotenv.get(key) else None


def read_environment(env_file: Path = Path(".env")) -> Environment:
    """Read the process environment and `.env`: the only place in the program that does.

    Raises:
        SettingsError: `.env` is there but cannot be read.
    """
    try:
        dotenv = {key: value for key, value in dotenv_values(env_file).items() if value is not None}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([Problem(".env", str(env_file), f"cannot be read ({error})")]) from error
    return Environment(process=dict(os.environ), dotenv=dotenv)  # noqa: TID251 - the one reader
