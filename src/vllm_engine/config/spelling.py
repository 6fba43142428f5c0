"""Finds the name that was meant by one that is a letter or two off."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from vllm_engine.errors import Problem

_SHORT, _LONG = 8, 12
_ORDINARY = frozenset(
    {"API_KEY", "APP_KEYS", "CCACHE_DIR", "HTTP_PORT", "MODEL_DIR", "SSH_HOST", "SSL_CERT_FILE", "SSL_PORT"}
    | {"COST", "GHOST", "HOSTS", "LOST", "MOST", "PART", "PORTS", "POST", "SORT", "SPORT", "TYPE"}
)
"""Names that only happen to resemble ours: other programs' variables, and ordinary words."""

_OF_BUILDS = frozenset({"BUILD_SHA", "BUILD_TIME"})


@dataclass(frozen=True)
class Misspelt(Problem):
    """A name that nothing reads and that is nearly a setting's."""


def closest(name: str, names: Iterable[str], *, similarity: float) -> str | None:
    """Return the name that has most letters in common with this one; `similarity` is the least, up to 1."""
    found = get_close_matches(name, list(names), n=1, cutoff=similarity)
    return found[0] if found else None


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return "did you mean ...?" with the name closest to this one, or nothing."""
    found = closest(name, names, similarity=0.7)
    return f"did you mean {found}?" if found else ""


def misspelt(
    process: Mapping[str, str], dotenv: Mapping[str, str], *, ours: Collection[str], known: Collection[str]
) -> tuple[list[Misspelt], list[Misspelt]]:
    """Return problems and warnings: variables that nobody reads and whose name is nearly one of ours.

    `.env` is written for this program, so a long name there need only be similar. The process's
    environment is everybody's: only long names count there, one letter but the first off a setting, and
    beside that setting they are a mere warning. `ours` are the settings' names; `known` those that mean
    something else, such as vLLM's flags.
    """
    passed_over = {*ours, *known, *_ORDINARY}
    found: dict[str, str] = {}
    for name in dotenv.keys() - passed_over:
        if near := _meant(name, ours, is_strict=False):
            found[name] = near
    is_set = {name for name in ours if process.get(name) or dotenv.get(name)}
    for name in process.keys() - passed_over - found.keys():
        if "_" not in name or len(name) < _SHORT or name[-1:].isdigit() or not process[name]:
            continue
        # Beginnings are seldom mistaken: NF_TOKEN is another's.
        likely = [one for one in ours if "_" in one and one[0] == name[0].upper() and one not in _OF_BUILDS]
        if near := _meant(name, likely, is_strict=True):
            found[name] = near
    problems, warnings = [], []
    for name, near in sorted(found.items()):
        if name in dotenv or near not in is_set:
            problems.append(Misspelt(name, "***", f"nothing reads this name; did you mean {near}?"))
        else:
            warnings.append(Misspelt(name, "***", f"nothing reads this name; {near} is set as well"))
    return problems, warnings


def _meant(name: str, ours: Collection[str], *, is_strict: bool) -> str | None:
    given = name.upper().replace("-", "_")
    exact = next((one for one in sorted(ours) if _is_one_letter_off(given, one)), None)
    return exact or (None if is_strict or len(name) < _LONG else closest(given, ours, similarity=0.85))


def _is_one_letter_off(given: str, one: str) -> bool:
    """Whether at most one letter was left out, added, mistaken, or exchanged with its neighbour."""
    start = _shared(given, one)
    end = _shared(given[start:][::-1], one[start:][::-1])
    left, right = given[start : len(given) - end], one[start : len(one) - end]
    return max(len(left), len(right)) <= 1 or (len(left) == 2 and left == right[::-1])


def _shared(left: str, right: str) -> int:
    """Return how many letters two texts share at their beginning."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(left), len(right)))
