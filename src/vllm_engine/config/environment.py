"""The process environment and `.env`: read here and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from vllm_engine.config.env_file import read_env_file
from vllm_engine.config.other_engines import adopt, ambiguous
from vllm_engine.config.quoting import clean
from vllm_engine.config.service_links import service_links
from vllm_engine.errors import Problem, SettingsError

_NAMED = 8


@dataclass(frozen=True)
class Environment:
    """The variables this program was given, by the process or in `.env`."""

    process: Mapping[str, str]
    dotenv: Mapping[str, str]
    defaults: Mapping[str, str] = field(default_factory=dict)
    """The values of variables that neither sets."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Settings given on the command line, by their variables."""
    flags: tuple[str, ...] = ()
    """vLLM's flags given on the command line."""
    notes: tuple[str, ...] = ()
    """Messages about variables that were read under another name, or left out."""

    @property
    def merged(self) -> dict[str, str]:
        """Every variable: options before the process environment before `.env`; empty values are unset."""
        filled = {**self.defaults, **{key: value for key, value in self.dotenv.items() if value}}
        filled |= {key: value for key, value in self.process.items() if value or key not in filled}
        return filled | dict(self.options)

    def source(self, key: str) -> str | None:
        """Say where a variable was set: `command line`, `environment`, `.env`, or None where it is not."""
        if key in self.options:
            return "command line"
        if self.process.get(key):
            return "environment"
        return ".env" if self.dotenv.get(key) else None

    def changed(self, changes: Mapping[str, str]) -> Environment:
        """Return it with other values for some variables, wherever those were set."""
        options = {key: value for key, value in self.options.items() if key not in changes}
        return replace(self, process={**self.process, **changes}, options=options)


def inherited() -> dict[str, str]:
    """Return the environment of this process as it is."""
    return dict(os.environ)  # noqa: TID251 - the one reader


def read_environment(env_file: Path = Path(".env")) -> Environment:
    """Read the process environment and `.env`: the only place in the program that does.

    Raises:
        SettingsError: `.env` is there but cannot be read.
    """
    return understood(os.environ, read_env_file(env_file))  # noqa: TID251 - the one reader


def check_key_log() -> None:
    """Check that the file named by `SSLKEYLOGFILE` can be written: otherwise no TLS library can be imported.

    Raises:
        SettingsError: it cannot.
    """
    name = os.environ.get("SSLKEYLOGFILE")  # noqa: TID251 - Python's ssl reads it from there
    if not name:
        return
    try:
        Path(name).open("ab").close()
    except OSError as error:
        remedy = f"TLS keys cannot be written to it ({error.strerror}); unset SSLKEYLOGFILE"
        raise SettingsError([Problem("SSLKEYLOGFILE", name, remedy)]) from error


def understood(process: Mapping[str, str], dotenv: Mapping[str, str]) -> Environment:
    """Return variables as they are meant: clean, under our names, without those that Kubernetes makes.

    Invisible characters round a value are not part of it: Kubernetes' secrets often end in a newline, files
    from Windows in a carriage return. The variables that Kubernetes makes for Services are dropped.
    """
    cleaned, written = _clean(process), _clean(dotenv)
    links = service_links(cleaned)
    given = {key: value for key, value in cleaned.items() if key not in links}
    for_others = {key: given.pop(key) for key in ambiguous(given)}
    everything = {key: value for source in (written, given) for key, value in source.items() if value}
    ours, said = adopt(given, is_set=everything)
    theirs, said_too = adopt(written, is_set=everything | ours)
    notes = (*_links_note(links), *said, *said_too)
    return Environment(process=ours | for_others, dotenv=theirs, notes=notes)


def _clean(variables: Mapping[str, str]) -> dict[str, str]:
    # Blanks alone are kept, and refused later: an empty secret must not disable authentication.
    return {key: clean(value) or value for key, value in variables.items()}


def _links_note(links: list[str]) -> tuple[str, ...]:
    if not links:
        return ()
    # First those that a program here would have read.
    shown = sorted(links, key=lambda name: (not name.startswith("VLLM_"), not name.endswith("_PORT"), name))
    more = f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
    return (
        f"ignored, and not passed to the engine: {', '.join(shown[:_NAMED])}{more}; Kubernetes makes them "
        "for Services (enableServiceLinks: false turns that off)",
    )
