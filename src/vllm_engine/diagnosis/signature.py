"""What an entry of the catalogue is."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cached_property

from vllm_engine.diagnosis.run_facts import Facts
from vllm_engine.engine.engine_exit import EngineExit

Groups = Mapping[str, str]
"""What a pattern's named groups caught; empty where the general case is asked for."""


@dataclass(frozen=True)
class Advice:
    """A remedy, and the settings with which a start may succeed."""

    text: str
    changes: Mapping[str, str] = field(default_factory=dict)


Advise = Callable[[Groups, Facts], Advice]
"""Computes the remedy of one case; given nothing it says what to do in general, for the documentation."""


class Stage(Enum):
    """When a signature may fire: a log of days holds old errors of requests, which killed nobody."""

    STARTING = auto()
    SERVING = auto()
    ANY = auto()


@dataclass(frozen=True)
class Signature:
    """One cause that can be told from what an engine leaves behind.

    Attributes:
        code: its id, in kebab case; never changes once published.
        seen: what users see, shortened, for the documentation.
        cause: the sentence; `{name}` is a group of the pattern's or a fact.
        advise: computes the remedy.
        patterns: any of them, searched in one line.
        also: must match another line or the same one.
        unless: must match no line.
        hint: a pattern for further groups, from whichever line matches first; need not match.
        stage: when it may fire.
        is_symptom: whether it is the consequence of something else, so that any cause wins over it.
        is_silent: whether it may fire only where the engine left no error that could be a cause.
        retryable: whether the same start may succeed when it is tried again; a death after it always may.
        ended: fires without a line, from how the engine ended.
    """

    code: str
    seen: str
    cause: str
    advise: Advise
    patterns: tuple[str, ...] = ()
    also: str | None = None
    unless: str | None = None
    hint: str | None = None
    stage: Stage = Stage.STARTING
    is_symptom: bool = False
    is_silent: bool = False
    retryable: bool = False
    ended: Callable[[EngineExit, Facts], bool] | None = None

    @cached_property
    def compiled(self) -> tuple[re.Pattern[str], ...]:
        """The patterns, compiled once."""
        return tuple(re.compile(pattern) for pattern in self.patterns)

    def applies(self, ending: EngineExit) -> bool:
        """Whether it may fire for an engine that ended at this stage, with these lines around."""
        if self.stage is not Stage.ANY and (self.stage is Stage.SERVING) != ending.was_ready:
            return False
        if self.unless and any(re.search(self.unless, line) for line in ending.tail):
            return False
        return self.also is None or any(re.search(self.also, line) for line in ending.tail)

    def match(self, line: str) -> Groups | None:
        """Return what the first matching pattern caught in a line; None where none matches."""
        for pattern in self.compiled:
            if found := pattern.search(line):
                return {name: value for name, value in found.groupdict().items() if value is not None}
        return None

    def sentence(self, values: Mapping[str, object]) -> str:
        """Return the cause with its fields filled; one that is not known becomes an ellipsis."""
        return _Lenient().vformat(self.cause, (), values)


_UNKNOWN = "…"


class _Lenient(string.Formatter):
    def get_value(self, key: int | str, args: object, kwargs: Mapping[str, object]) -> object:  # noqa: ARG002 - string.Formatter's
        value = kwargs.get(str(key))
        return _UNKNOWN if value is None or value == "" else value

    def format_field(self, value: object, format_spec: str) -> str:
        return _UNKNOWN if value is _UNKNOWN else str(format(value, format_spec))


def always(text: str) -> Advise:
    """Return the advice that is the same in each case."""
    return lambda _groups, _facts: Advice(text)
