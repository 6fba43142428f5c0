"""What a run says of a server that did not start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perf.gpu.last_words import MAX_CHARS, last_words
from perf.gpu.results import Results, short


def entry(level: str, message: str, source: str = "engine") -> str:
    return json.dumps({"level": level, "source": source, "message": message})


ACCESS = entry("WARNING", "POST /v1/completions 503", "gateway.access")
ECHO = "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above."


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], "its log says nothing"),
        ([entry("INFO", "loading")], "its log says nothing"),
        (["first", "", "last"], "first | last"),
        (["x" * MAX_CHARS, "last"], "last"),
        (["last" + "x" * 999], "last" + "x" * (MAX_CHARS - 4)),
        (["(EngineCore pid=2) ValueError: too little memory", ECHO, "bye"], "ValueError: too little memory"),
        (
            [entry("WARNING", "one"), entry("INFO", "no"), ACCESS, entry("ERROR", "two"), ACCESS, '{"cut'],
            'one | two | {"cut',
        ),
        ([entry("ERROR", "one"), "noise", "vllm-engine: cause [code]", "vllm-engine: do that", ACCESS],
         "vllm-engine: cause [code] | vllm-engine: do that"),
    ],
)  # fmt: skip
def test_last_words(lines: list[str], expected: str) -> None:
    assert last_words("\n".join(lines)) == expected


def test_what_failed_is_told_whole(tmp_path: Path) -> None:
    """On its line, and in the end: what failed, and each failure that was not told rightly."""
    results = Results(tmp_path / "results", tmp_path)
    wrong = {
        "what": "failure", "log": "ours-oom.log", "expected": "a", "diagnosed": "b", "message": "m" * 999,
        "exit_status": 3, "ended_itself": True, "seconds": 1.2, "is_right": False, "name": "oom",
        "program": "ours", "gpu_peak_gib": None,
    }  # fmt: skip
    results.add({"what": "cold start", "server": "ours-cold", "seconds": 1.0})
    results.add({"what": "failed", "step": "cold", "error": "e" * 800})
    results.add(wrong)
    results.add({**wrong, "is_right": True})

    assert [short(row) for row in results.failed] == [
        f"FAILED cold: {'e' * 800}",
        "ours-oom.log: b, NOT RIGHT, expected a, exit status 3, 1.2 s",
    ]
