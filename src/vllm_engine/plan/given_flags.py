"""Which of vLLM's flags the user has given, and in which variable."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from vllm_engine.config.flags import mask
from vllm_engine.config.flags.flag import bare_name
from vllm_engine.config.redaction import is_secret_name, masked
from vllm_engine.plan.engine_command import RESERVED_FLAGS
from vllm_engine.plan.preflight import Preflight


@dataclass(frozen=True)
class GivenFlag:
    """A flag by vLLM's name, without dashes in front; the variable that gave it, and its value as shown."""

    name: str
    variable: str
    value: str


def given_flags(preflight: Preflight) -> tuple[GivenFlag, ...]:
    """Return the flags that settings stand for, those given by name, and those of a raw command line."""
    environ = preflight.environment.merged
    return (
        *_from_settings(environ),
        *(
            GivenFlag(key.lower().replace("_", "-"), key, masked(key, environ.get(key, "")))
            for key in preflight.flag_variables
        ),
        *_from_words("VLLM_EXTRA_ARGS", preflight.settings.vllm_extra_args),
    )


def _from_settings(environ: Mapping[str, str]) -> Iterator[GivenFlag]:
    for name, key in RESERVED_FLAGS.items():
        if (value := environ.get(key)) and not is_secret_name(key):
            yield GivenFlag(name, key, value)


def _from_words(variable: str, raw: str) -> Iterator[GivenFlag]:
    words: list[str] = []
    with suppress(ValueError):
        words = mask(shlex.split(raw))
    for position, word in enumerate(words):
        if word.startswith("--"):
            end = next(
                (at for at in range(position + 1, len(words)) if words[at].startswith("-")), len(words)
            )
            name = bare_name(word.partition("=")[0].partition(".")[0])
            yield GivenFlag(name, variable, " ".join(words[position:end]))
