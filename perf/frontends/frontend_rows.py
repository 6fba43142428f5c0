"""Rows of a run on disk, written as they come."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Rows:
    """The files of one run: `rows.jsonl`, a line for each leg and start, and `requests.jsonl`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "rows.jsonl"
        self.requests = folder / "requests.jsonl"
        self._began = time.monotonic()
        self.all: list[dict[str, Any]] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a row, and print the most of it."""
        self.all.append({**row, "at": round(time.monotonic() - self._began, 1)})
        with self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(self.all[-1]) + "\n")
        print(short(self.all[-1]), flush=True)


def short(row: Mapping[str, Any]) -> str:
    """Return a row for people."""
    if row["what"] != "leg":
        return json.dumps(row)[:400]
    cpu = " ".join(f"{role} {used:.1f}" for role, used in row["cpu_us"].items() if used >= 0.05)
    return (
        f"[{row['at']:5.0f} s] {row['round']} {row['target']:14} {row['mix']:5} {row['streams']} streams "
        f"{row['tokens_per_second']:7,.0f} tokens/s {row['events_per_second']:7,.0f} events/s in {row['seconds']:.1f} s, "
        f"TTFT {row['ttft_p50']:.0f}/{row['ttft_p99']:.0f} ms, us/token {cpu}, "
        f"others {row['others_cores']:.2f} idle {row['idle_cores']:.2f}, "
        f"errors {row['errors']} {row['first_error'] or ''}"
    )
