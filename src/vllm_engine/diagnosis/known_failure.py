"""What an entry of the catalogue is."""

from __future__ import annotations

import re
import signal
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cached_property

from vllm_engine.diagnosis.run_facts import Facts
from vllm_engine.engine.output.engine_exit import EngineExit

Groups = Mapping[str, str]
"""What a pattern's named groups matched; empty for the general remedy of the documentation."""


@dataclass(frozen=True)
class Advice:
    """A remedy, and the settings with which a start may succeed."""

    text: str
    changes: Mapping[str, str] = field(default_factory=dict, hash=False)


def setting(name: str, value: object, rest: str = "") -> Advice:
    """Return the advice to give a setting this value; `rest` follows it in the sentence."""
    return Advice(f"set {name}={value}{rest}", {name: str(value)})


class Stage(Enum):
    """When an entry may match: the log of a long run holds errors of requests, which ended no engine."""

    STARTING = auto()
    SERVING = auto()
    ANY = auto()


@dataclass(frozen=True)
class KnownFailure:
    """One cause that can be recognised from what an engine leaves behind.

    Attributes:
        code: its id, in kebab case; never changes once published.
        seen: what users see, shortened, for the documentation.
        cause: the sentence; `{name}` is a group of the pattern's or a fact.
        remedy: what to do; a function if it depends on the case: without groups and facts it returns the
            general remedy.
        patterns: regular expressions; one has to be found in one line.
        also: has to be found in any line.
        unless: must not be found in any line.
        hints: each finds further groups in the first line that has them; may be absent.
        signals: the engine's process or one of its children was ended by one of these.
        ended: recognises it from how the engine ended, without a line.
        read: recognises it from several lines together, if no entry matches a single one; returns groups.
        stage: when it may match.
        is_symptom: whether it is the consequence of something else, so that any cause takes precedence.
        is_silent: whether it matches only where the engine left no error that could be a cause.
        is_setting: whether only another value of a setting can help.
        retryable: whether the same start may succeed when it is tried again; a loss after it always may.
    """

    code: str
    seen: str
    cause: str
    remedy: str | Advice | Callable[[Groups, Facts], Advice]
    patterns: tuple[str, ...] = ()
    also: str | None = None
    unless: str | None = None
    hints: tuple[str, ...] = ()
    signals: tuple[signal.Signals, ...] = ()
    ended: Callable[[EngineExit, Facts], bool] | None = None
    read: Callable[[EngineExit, Facts], Groups | None] | None = None
    stage: Stage = Stage.STARTING
    is_symptom: bool = False
    is_silent: bool = False
    is_setting: bool = False
    retryable: bool = False

    def advise(self, groups: Groups, facts: Facts) -> Advice:
        """Return the remedy of one case."""
        if isinstance(self.remedy, str):
            return Advice(self.remedy)
        return self.remedy if isinstance(self.remedy, Advice) else self.remedy(groups, facts)

    @cached_property
    def compiled(self) -> tuple[re.Pattern[str], ...]:
        """The patterns, with those by which vLLM reports that a child was ended by one of the signals."""
        numbers = "|".join(str(int(number)) for number in self.signals)
        of_children = (
            rf"Failed core proc\(s\): \{{[^}}]*'(?P<process>[^']+)': -(?:{numbers})\b",
            rf"Worker proc (?P<process>\S+) died unexpectedly \(exit code: -(?:{numbers})\)",
            rf"Process (?P<process>\S+) \(PID: \d+\) died with exit code -(?:{numbers})\b",
        )
        return tuple(re.compile(it) for it in self.patterns + (of_children if numbers else ()))

    def matches_exit(self, end: EngineExit, facts: Facts) -> bool:
        """Whether the way in which the engine ended is enough to recognise it."""
        by_signal = end.status is not None and -end.status in self.signals
        return by_signal or self.ended_child(end) or (self.ended is not None and self.ended(end, facts))

    def ended_child(self, end: EngineExit) -> bool:
        """Whether the child by which the engine was lost was ended by one of the signals."""
        return end.child_status is not None and -end.child_status in self.signals

    def applies(self, end: EngineExit) -> bool:
        """Whether it may match an engine that ended at this stage, with these lines around."""
        if self.stage is not Stage.ANY and (self.stage is Stage.SERVING) != end.was_ready:
            return False
        if self.unless and any(re.search(self.unless, line) for line in end.tail):
            return False
        return self.also is None or any(re.search(self.also, line) for line in end.tail)

    def match(self, line: str) -> Groups | None:
        """Return the groups of the first pattern that is found in a line; None where none is."""
        for pattern in self.compiled:
            if found := pattern.search(line):
                return {name: value for name, value in found.groupdict().items() if value is not None}
        return None

    def sentence(self, values: Mapping[str, object]) -> str:
        """Return the cause with its fields filled in; an ellipsis for those that are not known.

        The field `process` is that which vLLM names in the line, else the engine.
        """
        known = {"process": "it"} | {name: value for name, value in values.items() if value not in (None, "")}
        return self.cause.format_map(defaultdict(lambda: "…", known))
