"""Pure: explains the end of an engine."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass

from vllm_engine.diagnosis.catalogue import BY_CODE, CATALOGUE
from vllm_engine.diagnosis.known_failure import Groups, KnownFailure
from vllm_engine.diagnosis.run_facts import Facts, gib
from vllm_engine.engine.engine_exit import EngineExit
from vllm_engine.errors import Diagnosis

MAX_EVIDENCE_CHARS = 400
MAX_LINE_CHARS = 1500
"""Longer lines are cut, since the patterns are searched in the event loop."""

_HARMLESS = re.compile(
    r"^(?:\x1b\[[\d;]*m)*(?:\([\w-]+(?: pid=\d+)?\) )?(?:\x1b\[[\d;]*m)*(?:DEBUG|INFO|WARNING)\b"
)
"""vLLM's own lines below ERROR, which do not say why it ended. NCCL's and Python's warnings are kept."""

_SOURCE = re.compile(r"^\s*raise \w")
"""The source line in a traceback: the message follows, with its values filled in."""

_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{4,}")
_PROCESS_PREFIX = re.compile(
    r"^(?:\x1b\[[\d;]*m)*(?:\([\w-]+(?: rank=\d+)?(?: pid=\d+)?\) ?)?(?:\x1b\[[\d;]*m)*"
    r"(?:ERROR|CRITICAL)?:?\s*(?:\d\d-\d\d \d\d:\d\d:\d\d )?(?:\[[\w./]+:\d+\] )?"
)


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
    finding = next(findings(ending, facts), None)
    if finding is None:
        return _unknown(ending)
    entry, groups = finding.entry, finding.groups
    values = _values(facts) | {"phase": ending.phase} | dict(groups)
    advice = entry.advise(groups, facts)
    line = finding.line
    return Diagnosis(
        code=entry.code,
        message=_clean(f"{ending}: {entry.sentence(values)}"),
        remedy=_clean(advice.text),
        retryable=entry.retryable or ending.was_ready,
        evidence=_clean(line)[:MAX_EVIDENCE_CHARS] if line is not None else None,
        changes=dict(advice.changes),
    )


def findings(ending: EngineExit, facts: Facts) -> Iterator[Finding]:
    """Yield every entry that matches, the best explanation first."""
    silent = ending.last_error is None
    for wants_symptom in (False, True):
        entries = [
            entry
            for entry in CATALOGUE
            if entry.is_symptom is wants_symptom and entry.applies(ending) and (silent or not entry.is_silent)
        ]
        # An end that needs no line is certain; one that is also reported in lines may have a cause in them.
        yield from (Finding(e, {}, None) for e in entries if not e.compiled and e.has_ended(ending, facts))
        yield from _by_lines(entries, ending)
        yield from (Finding(e, {}, None) for e in entries if e.compiled and e.has_ended(ending, facts))


def _by_lines(entries: list[KnownFailure], ending: EngineExit) -> Iterator[Finding]:
    for raw in ending.tail:
        line = _PROCESS_PREFIX.sub("", raw)
        if _HARMLESS.match(raw) or _SOURCE.match(line):
            continue
        for entry in entries:
            groups = entry.match(line)
            if groups is not None:
                yield Finding(entry, _hints(entry, ending) | dict(groups), line)


def _hints(entry: KnownFailure, ending: EngineExit) -> dict[str, str]:
    if entry.hint is None:
        return {}
    found = next((match for line in ending.tail if (match := re.search(entry.hint, line))), None)
    return found.groupdict() if found else {}


def _values(facts: Facts) -> dict[str, object]:
    """Return what a sentence may name."""
    return vars(facts) | {
        "free": gib(facts.cache_free_bytes) if facts.cache_free_bytes is not None else None,
        "shm": gib(facts.shm_bytes) if facts.shm_bytes is not None else None,
        "heads": facts.attention_heads,
    }


def _unknown(ending: EngineExit) -> Diagnosis:
    cause = ending.last_error
    own = f"its own last error: {cause}" if cause else "it left no error"
    entry = BY_CODE["unknown"]
    return Diagnosis(
        code=entry.code,
        message=_clean(f"{ending}: {entry.cause}; {own}"),
        remedy=entry.advise({}, Facts()).text,
        retryable=entry.retryable,
        evidence=_clean(cause)[:MAX_EVIDENCE_CHARS] if cause else None,
    )


def _clean(text: str) -> str:
    """Mask hub tokens, and make it one line."""
    return _TOKEN.sub("hf_***", " ".join(text.split()))
