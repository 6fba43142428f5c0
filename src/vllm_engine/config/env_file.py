"""Reads `.env`, once and for everything that reads it: the program, the Makefile and the scripts."""

from __future__ import annotations

import codecs
import io
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import Binding, parse_stream

from vllm_engine.errors import OptionProblem, Problem, SettingsError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NOT_UTF8 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_env_file(path: Path) -> dict[str, str]:
    """Return the variables of a `.env` file, or none where it does not exist.

    A folder of that name is passed over: some virtual environments are called so.

    Raises:
        SettingsError: it cannot be read, is not UTF-8, or a line is not `NAME=value`.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        return {}
    except OSError as error:
        raise SettingsError([Problem(".env", str(path), f"cannot be read ({error})")]) from error
    return parse_env(content, str(path))


def parse_env(content: bytes, name: str = ".env") -> dict[str, str]:
    """Return the variables in the content of a `.env` file; `name` is for the errors.

    Raises:
        SettingsError: it is not UTF-8, or a line is not `NAME=value`.
    """
    text = _decoded(content, name)
    # A line's text is not shown: it may be a key that lacks its closing quote.
    problems = [
        OptionProblem(
            f"{name}, line {binding.original.line}", "", "expected NAME=value; is a closing quote missing?"
        )
        for binding in parse_stream(io.StringIO(text))
        if binding.error or _is_bare(binding)
    ]
    if problems:
        raise SettingsError(problems)
    return {key: value for key, value in dotenv_values(stream=io.StringIO(text)).items() if value is not None}


def _is_bare(binding: Binding) -> bool:
    """Whether it is a name alone, whose `=` was forgotten; `export NAME`, as in a shell's file, is none."""
    is_exported = binding.original.string.split(maxsplit=1)[:1] == ["export"]
    return binding.key is not None and binding.value is None and not is_exported


def assignments(variables: Mapping[str, str]) -> str:
    """Return variables as lines that a POSIX shell can evaluate; those that it has already set stay.

    Names that a shell does not allow are left out.
    """
    return "\n".join(
        f": ${{{key}:={shlex.quote(value)}}}; export {key}"
        for key, value in variables.items()
        if _NAME.fullmatch(key)
    )


def _decoded(content: bytes, name: str) -> str:
    if content.startswith(_NOT_UTF8) or b"\0" in content:
        remedy = "is UTF-16 and cannot be read; save it as UTF-8 (PowerShell: Out-File -Encoding utf8)"
        raise SettingsError([Problem(".env", name, remedy)])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        remedy = f"cannot be read as UTF-8 ({error}); save it as UTF-8"
        raise SettingsError([Problem(".env", name, remedy)]) from error
    return text.replace("\r\n", "\n")
