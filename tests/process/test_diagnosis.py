"""A failed start from end to end: the log's last line, the termination log, the exit status."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.process.conftest import StartProgram
from tests.support.failed_logs import Failure, failures

PRINTED = ("kv-cache-too-small", "disk-full", "cuda-out-of-memory-loading", "needs-trust-remote-code")
BY_CODE: dict[str, Failure] = {failure.code: failure for failure in reversed(failures())}


def log_of(failure: Failure) -> str:
    """Return the name by which the fake engine finds a failure's log."""
    return f"{failure.name}.log" if failure.name.startswith("cpu-") else f"failed/{failure.name}.log"


@pytest.mark.parametrize("code", PRINTED)
def test_failed_start(start: StartProgram, tmp_path: Path, code: str) -> None:
    """An engine that leaves a real failure's log ends the program with 3 and one sentence, told everywhere."""
    failure = BY_CODE[code]
    words = tmp_path / "termination-log"
    words.touch()
    program = start({"startup_log": log_of(failure), "die_at_start": 1}, TERMINATION_LOG=str(words))
    assert program.wait() == 3
    last = program.log().splitlines()[-1]
    assert last.startswith("vllm-engine: the engine exited with status 1 before it was ready: ")
    assert last.endswith(f"[{code}]")
    assert words.read_text() == last.removeprefix("vllm-engine: ")


def test_termination_log_of_bad_settings(start: StartProgram, tmp_path: Path) -> None:
    """Settings that cannot be used are told in the termination log too, though they could not all be read."""
    words = tmp_path / "termination-log"
    words.touch()
    program = start(TERMINATION_LOG=str(words), TENSOR_PARALLEL="7")
    assert program.wait() == 2
    assert words.read_text().startswith('TENSOR_PARALLEL="7": ')


def test_clean_end_leaves_no_last_words(start: StartProgram, tmp_path: Path) -> None:
    """A stop that was asked for is no failure."""
    words = tmp_path / "termination-log"
    words.touch()
    program = start(TERMINATION_LOG=str(words))
    program.until_ready()
    program.close()
    assert words.read_text() == ""
