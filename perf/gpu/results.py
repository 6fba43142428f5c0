"""Writes results as they come, so that a run that is cut off has lost nothing."""

from __future__ import annotations

import gzip
import json
import shutil
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perf.gpu import result_tables


class Results:
    """The files of one run."""

    def __init__(self, folder: Path, work: Path) -> None:
        self.folder = folder
        self._work = work
        self._began = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        self.requests = work / "requests.jsonl"
        self._rows: list[dict[str, Any]] = []

    def begin_anew(self) -> None:
        """Delete what an earlier run has left: what is read and packed here is only this run's. Caches stay."""
        for log in self._work.glob("*.log"):
            log.unlink()
        for folder in (self._work / "failures", *self._work.glob("nginx-*")):
            shutil.rmtree(folder, ignore_errors=True)
        for path in (self.requests, self.folder / "memory.jsonl"):
            path.unlink(missing_ok=True)

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The rows that say that something failed, or that a failure was not told rightly."""
        return [row for row in self._rows if row["what"] == "failed" or not row.get("is_right", True)]

    def elapsed(self) -> float:
        """Return the seconds since the run began."""
        return time.monotonic() - self._began

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a row."""
        stamped = {**row, "at": round(self.elapsed(), 1)}
        self._rows.append(stamped)
        with (self.folder / "rows.jsonl").open("a", encoding="utf-8") as out:
            out.write(json.dumps(stamped) + "\n")
        self.say(short(row))

    def say(self, text: str) -> None:
        """Print a line with the time."""
        print(f"[{self.elapsed():6.1f} s] {text}", flush=True)

    def facts(self, facts: Mapping[str, Any]) -> None:
        """Write what is known of the machine and the programs."""
        (self.folder / "facts.json").write_text(json.dumps(facts, indent=1))

    def save_logs(self) -> None:
        """Pack what the servers have printed so far."""
        with tarfile.open(self.folder / "logs.tar.gz", "w:gz") as archive:
            for log in sorted(self._work.rglob("*.log")):
                archive.add(log, log.relative_to(self._work))

    def table(self) -> str:
        """Return the tables of this run."""
        return result_tables.markdown(self._rows)

    def close(self) -> None:
        """Write everything that is not yet written."""
        self.save_logs()
        (self.folder / "table.md").write_text(self.table() + "\n")
        if self.requests.exists():
            with self.requests.open("rb") as rows, gzip.open(f"{self.folder}/requests.jsonl.gz", "wb") as out:
                shutil.copyfileobj(rows, out)


def short(row: Mapping[str, Any]) -> str:
    """Return a row for people."""
    if row["what"] == "failed":
        return f"FAILED {row.get('server') or row.get('step')}: {row['error']}"
    if row["what"] == "failure":
        ended = f"exit status {row['exit_status']}" if row["ended_itself"] else "had to be killed"
        verdict = "as expected" if row["is_right"] else f"NOT RIGHT, expected {row['expected']}"
        return f"{row['log']}: {row['diagnosed']}, {verdict}, {ended}, {row['seconds']} s"
    if row["what"] != "leg":
        return json.dumps({key: value for key, value in row.items() if key not in ("tree", "text")})[:400]
    speed = f"{row['target']} {row['streams']} streams: {row['tokens_per_second']:,.0f} tokens/s"
    ttft = f"TTFT {row['ttft_p50']:.1f}/{row['ttft_p99']:.1f}"
    itl = f"ITL {row['itl_p50']:.2f}/{row['itl_p99']:.2f} ms"
    cpu = " ".join(f"{kind}={value:.1f}" for kind, value in row["cpu_us"].items())
    errors = f", {row['errors']} ERRORS {row['first_error']}" if row["errors"] else ""
    return f"{speed}, {ttft}, {itl}, us/token {cpu}{errors}"
