"""Pure: explains the end of an engine."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass

from vllm_engine.diagnosis.catalogue import BY_CODE, CATALOGUE
from vllm_engine.diagnosis.known_failure import Groups, KnownFailure
from vllm_engine.diagnosis.run_facts import Facts
from vllm_engine.engine.output.engine_exit import EngineExit, describe_exit
from vllm_engine.engine.output.engine_output import parse_line
from vllm_engine.errors import Diagnosis
from vllm_engine.system.sizes import gib

MAX_EVIDENCE_CHARS = 400
MAX_LINE_CHARS = 1500
"""Longer lines are cut, since the patterns are searched in the event loop."""

_HARMLESS = ("DEBUG", "INFO", "WARNING")
"""Levels of vLLM's own lines, which do not say why it ended. NCCL's and Python's warnings are kept."""

_SOURCE = re.compile(r"raise \w")
"""The source line in a traceback: the message follows, with its values filled in."""

_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{4,}")


@dataclass(frozen=True)
class Finding:
    """An entry that matched: in which line, if in one, and with which groups."""

    entry: KnownFailure
    groups: Groups
    line: str | None


def diagnose(whole: EngineExit, facts: Facts) -> Diagnosis:
    """Explain why an engine ended.

    A cause takes precedence over symptoms, whichever came first. Of several causes the first in the log
    counts, since the later ones are most often its consequences. If nothing matches, the code is `unknown`
    and the message has the engine's own last error. Takes some hundredths of a second for the longest log.
    """
    ending = dataclasses.replace(whole, tail=tuple(line[:MAX_LINE_CHARS] for line in whole.tail))
    own, finding = "", next(findings(ending, facts), None)
    if finding is None:
        cause = ending.last_error
        own = f"; its own last error: {cause}" if cause else "; it left no error"
        finding = Finding(BY_CODE["unknown"], {}, cause)
    entry, groups, line = finding.entry, finding.groups, finding.line
    values = {
        **vars(facts),
        "disk_free": None if facts.cache_free_bytes is None else gib(facts.cache_free_bytes),
        "shm": None if facts.shm_bytes is None else gib(facts.shm_bytes),
        "heads": facts.attention_heads,
        "startup_timeout": f"{facts.startup_timeout_seconds:g}",
        "phase": ending.phase,
        "child": _how_child_ended(ending.child_status),
        **groups,
    }
    advice = entry.advise(groups, facts)
    return Diagnosis(
        code=entry.code,
        message=_clean(f"{ending}: {entry.sentence(values)}{own}"),
        remedy=_clean(advice.text),
        retryable=entry.retryable or ending.was_ready,
        evidence=_clean(line)[:MAX_EVIDENCE_CHARS] if line is not None else None,
        changes=dict(advice.changes),
        is_setting=entry.is_setting,
        is_symptom=entry.is_symptom or entry.code == "unknown",
    )


def _how_child_ended(status: int | None) -> str:
    return "how is not known" if status is None else f"it {describe_exit(status)}"


def findings(ending: EngineExit, facts: Facts) -> Iterator[Finding]:
    """Yield every entry that matches, the best explanation first."""
    silent = ending.last_error is None
    for wants_symptom in (False, True):
        entries = [
            entry
            for entry in CATALOGUE
            if entry.is_symptom is wants_symptom and entry.applies(ending) and (silent or not entry.is_silent)
        ]
        by_exit = [entry for entry in entries if entry.matches_exit(ending, facts)]
        # An end that needs no line is certain, and so is that of one of vLLM's processes; one that is also
        # reported in lines may have a cause in them.
        certain = [entry for entry in by_exit if not entry.compiled or entry.ended_child(ending)]
        yield from (Finding(entry, {}, None) for entry in certain)
        yield from _by_lines(entries, ending)
        for entry in entries:
            if entry.read is not None and (groups := entry.read(ending, facts)):
                yield Finding(entry, groups, ending.last_error)
        yield from (Finding(entry, {}, None) for entry in by_exit if entry not in certain)


def _by_lines(entries: list[KnownFailure], ending: EngineExit) -> Iterator[Finding]:
    for raw in ending.tail:
        parsed = parse_line(raw)
        line = parsed.message.lstrip()
        if parsed.level in _HARMLESS or _SOURCE.match(line):
            continue
        for entry in entries:
            groups = entry.match(line)
            if groups is not None:
                yield Finding(entry, _hints(entry, ending) | dict(groups), line)


def _hints(entry: KnownFailure, ending: EngineExit) -> dict[str, str]:
    groups: dict[str, str] = {}
    for hint in entry.hints:
        found = next((match for line in ending.tail if (match := re.search(hint, line))), None)
        groups |= found.groupdict() if found else {}
    return groups


def _clean(text: str) -> str:
    """Mask hub tokens, and make it one line."""
    return _TOKEN.sub("hf_***", " ".join(text.split()))
