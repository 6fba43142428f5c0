"""Finds names that were meant for a setting of ours and miss it by a letter or two."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from vllm_engine.errors import Problem

_SHORT, _LONG = 8, 12
_ORDINARY = frozenset(
    {"API_KEY", "APP_KEYS", "CCACHE_DIR", "HTTP_PORT", "MODEL_DIR", "SSH_HOST", "SSL_CERT_FILE", "SSL_PORT"}
    | {"COST", "GHOST", "HOSTS", "LOST", "MOST", "PART", "PORTS", "POST", "SORT", "SPORT", "TYPE"}
)
"""Names that are near to ours by chance: other programs', and words."""

_OF_BUILDS = frozenset({"BUILD_SHA", "BUILD_TIME"})


@dataclass(frozen=True)
class Misspelt(Problem):
    """A name that nothing reads and that is nearly a setting's."""


def misspelt(
    process: Mapping[str, str], dotenv: Mapping[str, str], *, ours: Collection[str], known: Collection[str]
) -> list[Misspelt]:
    """Return a problem for each variable that is nobody's and whose name is nearly one of ours.

    `.env` is written for this program, so a long name there may be two letters off. The process's
    environment is everybody's: only long names count there, one letter but the first off a setting which is
    not set.

    Args:
        process: the process environment.
        dotenv: the variables of `.env`.
        ours: the settings' names.
        known: names that mean something of their own, such as vLLM's flags.
    """
    passed_over = {*ours, *known, *_ORDINARY}
    found: dict[str, str] = {}
    for name in dotenv.keys() - passed_over:
        limit = 2 if len(name) >= _LONG else 1
        if near := _nearest(name, ours, limit):
            found[name] = near
    unset = {name for name in ours if not (process.get(name) or dotenv.get(name))} - _OF_BUILDS
    for name in process.keys() - passed_over - found.keys():
        if "_" not in name or len(name) < _SHORT or name[-1:].isdigit() or not process[name]:
            continue
        # Beginnings are seldom mistaken: NF_TOKEN is another's.
        if near := _nearest(name, [one for one in unset if "_" in one and one[0] == name[0].upper()], 1):
            found[name] = near
    return [
        Misspelt(name, "***", f"nothing reads this name; did you mean {near}?")
        for name, near in sorted(found.items())
    ]


def _nearest(name: str, ours: Collection[str], limit: int) -> str | None:
    distances = ((distance(name.upper().replace("-", "_"), one), one) for one in sorted(ours))
    best, near = min(distances, default=(limit + 1, ""))
    return near if best <= limit else None


def distance(left: str, right: str) -> int:
    """Return how many letters were left out, added, mistaken or exchanged with their neighbour.

    That is the optimal string alignment distance (Damerau and Levenshtein's without a second edit of a pair).
    """
    if abs(len(left) - len(right)) > 2:
        return abs(len(left) - len(right))
    above: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        before, row, above_now = row, [i], above
        for j, b in enumerate(right, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, above_now[j - 2] + 1)
            row.append(cost)
        above = before
    return row[-1]
