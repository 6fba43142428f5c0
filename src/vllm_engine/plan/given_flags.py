"""Which of vLLM's flags the user has given, and in which variable."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from vllm_engine.config.flags import mask
from vllm_engine.config.flags.flag import bare_name
from vllm_engine.config.flags.flag_parser import is_flag
from vllm_engine.config.redaction import is_secret_name, masked
from vllm_engine.errors import Problem
from vllm_engine.plan.engine_command import OWN_FLAGS, RESERVED_FLAGS
from vllm_engine.plan.preflight import Preflight


@dataclass(frozen=True)
class GivenFlag:
    """A flag by vLLM's name, without dashes; the variable or option that gave it; its value as shown."""

    name: str
    variable: str
    value: str

    @property
    def assignment(self) -> str:
        """How it was given."""
        is_option = self.variable.startswith("--")
        return self.value if is_option else Problem(self.variable, self.value, "").assignment


def given_flags(preflight: Preflight) -> tuple[GivenFlag, ...]:
    """Return the flags that settings stand for, those given by name, and those of a raw command line."""
    environ = preflight.environment.merged
    return (
        *_from_settings(environ),
        *(
            GivenFlag(key.lower().replace("_", "-"), key, masked(key, environ.get(key, "")))
            for key in preflight.flag_variables
        ),
        *_from_words(_split(preflight.settings.vllm_extra_args), "VLLM_EXTRA_ARGS"),
        *_from_words(preflight.environment.flags),
    )


def _from_settings(environ: Mapping[str, str]) -> Iterator[GivenFlag]:
    for name, key in {**RESERVED_FLAGS, **OWN_FLAGS}.items():
        if (value := environ.get(key)) and not is_secret_name(key):
            yield GivenFlag(name, key, masked(key, value))


def _split(raw: str) -> list[str]:
    with suppress(ValueError):
        return shlex.split(raw)
    return []


def _from_words(given: Sequence[str], variable: str = "") -> Iterator[GivenFlag]:
    words = mask(given)
    starts = [at for at, word in enumerate(words) if is_flag(word)]
    for position, end in zip(starts, [*starts[1:], len(words)], strict=False):
        if (word := words[position]).startswith("--"):
            option = word.partition("=")[0].partition(".")[0]
            yield GivenFlag(bare_name(option), variable or option, " ".join(words[position:end]))
