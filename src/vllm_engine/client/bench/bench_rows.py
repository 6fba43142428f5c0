"""The raw results: one row per request, one JSON object per line; every figure is derived from rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One request. Words as in `vllm bench serve`: TTFT, ITL and E2EL end at events that carry choices."""

    number: int
    sent_s: float
    """Seconds from the start of the run."""
    late_ms: float = 0.0
    """Open loop: how much later than due it was sent. Large values mean the generator was too slow."""
    status: int = 0
    """0 when no answer came."""
    ttft_ms: float | None = None
    e2el_ms: float = 0.0
    """To the last token event; of a failed request to its failure."""
    events: int = 0
    tokens: int = 0
    itl_ms: Mapping[str, int] = field(default_factory=dict)
    """How often each gap between token events occurred, to three digits: so rows stay small, and merge."""
    error: str | None = None

    @property
    def tpot_ms(self) -> float | None:
        """Time per output token after the first."""
        if self.ttft_ms is None or self.tokens < 2:
            return None
        return (self.e2el_ms - self.ttft_ms) / (self.tokens - 1)


def count_gaps(gaps_s: Iterable[float]) -> dict[str, int]:
    """Summarise gaps in seconds as counts of milliseconds to three digits."""
    return dict(Counter(f"{gap * 1e3:.3g}" for gap in gaps_s))


def write_rows(path: Path, rows: Iterable[Row], **more: Any) -> None:
    """Append rows to a JSON Lines file; `more` goes in front of each, such as what was measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(more | asdict(row)) + "\n")


def read_rows(path: Path) -> Iterator[Row]:
    """Read rows back, whatever else was written with them."""
    names = Row.__dataclass_fields__.keys()
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield Row(**{key: value for key, value in json.loads(line).items() if key in names})
