"""Diagnosis: every cause is told from its own log, none from a healthy one, and remedies are computed."""

from __future__ import annotations

import re
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.support.failed_logs import Failure, failures, healthy_logs, lines_of
from vllm_engine.diagnosis.catalogue import BY_CODE, CATALOGUE
from vllm_engine.diagnosis.diagnose import diagnose, findings
from vllm_engine.diagnosis.run_facts import GIB, Facts
from vllm_engine.diagnosis.unlogged_failures import OWN
from vllm_engine.engine.engine_exit import EngineExit
from vllm_engine.errors import (
    Diagnosis,
    EngineError,
    ModelError,
    Problem,
    SettingsError,
    StartupError,
    StartupTimeoutError,
)

FACTS = Facts(
    model="org/model",
    has_token=False,
    max_model_len=8192,
    gpus=2,
    gpu_memory_bytes=24 * GIB,
    attention_heads=16,
    cache_free_bytes=50 << 20,
    shm_bytes=64 << 20,
    memory_limit_bytes=2 * GIB,
    vllm_version="0.32.0",
)
FAILURES = failures()


def ended(*lines: str, status: int | None = 1, was_ready: bool = False) -> EngineExit:
    """Return the end of an engine that left these lines."""
    return EngineExit(status, lines, was_ready, "loading weights")


def recorded(name: str) -> Failure:
    """Return one recorded failure."""
    return next(failure for failure in FAILURES if failure.name == name)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name)
def test_recorded_failure(failure: Failure) -> None:
    """A failure that really happened, or was quoted from a thread, is told for what it was."""
    told = diagnose(failure.ending, failure.facts(FACTS))
    assert told.code == failure.code, told
    assert told.remedy
    assert "\n" not in str(told)


def test_every_entry_has_a_record() -> None:
    """No signature is in the catalogue without a log that it fires on."""
    seen = {failure.code for failure in FAILURES}
    assert {entry.code for entry in CATALOGUE} - {entry.code for entry in OWN} == seen


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name)
def test_only_one_cause(failure: Failure) -> None:
    """Nothing but the right entry fires anywhere in the log, symptoms aside."""
    fired = {found.entry for found in findings(failure.ending, failure.facts(FACTS))}
    assert {entry.code for entry in fired if not entry.is_symptom} <= {failure.code}


@pytest.mark.parametrize("was_ready", [False, True])
@pytest.mark.parametrize("log", healthy_logs(), ids=lambda path: path.stem)
def test_healthy_start_fires_nothing(log: Path, was_ready: bool) -> None:
    """The log of a start that went well matches nothing, however the engine ends after it."""
    text = log.read_text(errors="replace")
    lines = lines_of(log)
    if "EngineDeadError" in text:
        # Some recordings end with a core killed on purpose; that part is none of a healthy start.
        lines = tuple(lines[: next(i for i, line in enumerate(lines) if "ERROR" in line)])
    assert diagnose(ended(*lines, was_ready=was_ready), FACTS).code == "unknown"


def test_cause_wins_over_symptom() -> None:
    """A worker's out-of-memory wins over the core that died of it, whichever line comes first."""
    echo = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'E': -9}"
    cause = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    for lines in ((echo, cause), (cause, echo)):
        assert diagnose(ended(*lines), FACTS).code == "cuda-out-of-memory-loading"
    assert diagnose(ended(echo), FACTS).code == "engine-killed"


def test_first_cause_wins() -> None:
    """Of two causes the earlier one is told: the later is most often its consequence."""
    disk = "OSError: [Errno 28] No space left on device"
    nccl = "torch.distributed.DistBackendError: NCCL error in: x.cpp:1, unhandled system error"
    assert diagnose(ended(disk, nccl), FACTS).code == "disk-full"
    assert diagnose(ended(nccl, disk), FACTS).code == "nccl-failed"


def test_what_an_engine_says_below_error_is_no_cause() -> None:
    """Advice that vLLM gives at INFO or WARNING, with the words of a failure, is not taken for one."""
    line = "WARNING 11-24 00:01:40 [x.py:1] This can cause errors like `OSError: [Errno 24] Too many open files`."
    assert diagnose(ended(f"(APIServer pid=1) {line}"), FACTS).code == "unknown"
    assert diagnose(ended(line), FACTS).code == "unknown"


def test_errors_of_requests_are_no_cause() -> None:
    """While serving, a line that can only end a start does not explain a death."""
    line = (
        "ValueError: User-specified max_model_len (9000) is greater than the derived max_model_len (a=8192)"
    )
    assert diagnose(ended(line, was_ready=True), FACTS).code == "unknown"


def test_unknown_carries_the_engine_s_own_last_error() -> None:
    """What matches nothing says so, and shows what the engine said last."""
    told = diagnose(ended("Traceback (most recent call last):", "KeyError: 'x'"), FACTS)
    assert (told.code, told.evidence) == ("unknown", "KeyError: 'x'")
    assert told.message == (
        "the engine exited with status 1 before it was ready: no known cause matches; "
        "its own last error: KeyError: 'x'"
    )
    assert "it left no error" in diagnose(ended(), FACTS).message


def test_an_error_of_its_own_is_no_silent_death() -> None:
    """A core that said what it died of did not die without a word."""
    lines = ("KeyError: 'x'", "EngineDeadError: EngineCore encountered an issue. See stack trace (above)")
    assert diagnose(ended(*lines, was_ready=True), FACTS).code == "unknown"
    assert diagnose(ended(lines[1], was_ready=True), FACTS).code == "engine-core-died"


def test_kernel_s_kill_wins() -> None:
    """The cgroup's own count tells a death for want of memory for certain, with the limit."""
    told = diagnose(ended("KeyError: 'x'", status=-9), Facts(oom_kills=1, memory_limit_bytes=2 * GIB))
    assert told.code == "host-memory-limit"
    assert "(now 2.0 GiB)" in told.remedy


@pytest.mark.parametrize(
    ("name", "facts", "changes", "part"),
    [
        ("cpu-0.32-fail-kv-cache", FACTS, {"MAX_MODEL_LEN": "1280"}, "GPU_MEMORY_UTILIZATION=0.91"),
        (
            "cpu-0.32-fail-kv-cache",
            Facts(device="cpu"),
            None,
            "KV_CACHE_MEMORY_BYTES=268435456",
        ),
        ("cpu-0.32-fail-max-model-len", FACTS, {"MAX_MODEL_LEN": "8192"}, "MAX_MODEL_LEN=8192 or less"),
        ("gpu-memory-in-use", FACTS, {"GPU_MEMORY_UTILIZATION": "0.66"}, "GPU_MEMORY_UTILIZATION=0.66"),
        ("ram-below-utilization", FACTS, {"GPU_MEMORY_UTILIZATION": "0.49"}, "0.49"),
        ("ram-below-kv-cache", FACTS, {"KV_CACHE_MEMORY_BYTES": "2044723200"}, "end what uses the memory"),
        ("no-kv-memory", FACTS, {"GPU_MEMORY_UTILIZATION": "0.95"}, "GPU_MEMORY_UTILIZATION=0.95"),
        ("no-kv-memory", Facts(gpu_memory_utilization=0.97), {}, "smaller or quantised"),
        ("cuda-oom-loading", FACTS, {"TENSOR_PARALLEL": "2"}, "24.0 GiB"),
        ("cuda-oom-loading", Facts(gpus=1), {}, "smaller or quantised"),
        ("cuda-oom-profiling", FACTS, {"MAX_NUM_BATCHED_TOKENS": "2048"}, "TENSOR_PARALLEL=2"),
        (
            "cuda-oom-warming-up",
            FACTS,
            {"GPU_MEMORY_UTILIZATION": "0.85", "MAX_NUM_SEQS": "128"},
            "MAX_NUM_SEQS=128",
        ),
        ("cuda-oom-serving", FACTS, {"GPU_MEMORY_UTILIZATION": "0.85"}, "GPU_MEMORY_UTILIZATION=0.85"),
        ("dtype-not-supported", FACTS, {"DTYPE": "float16"}, "DTYPE=float16"),
        ("tensor-parallel-heads", Facts(gpus=2), {"TENSOR_PARALLEL": "1"}, "one of 1, or to auto"),
        ("world-size", FACTS, {"TENSOR_PARALLEL": "2"}, "one of 1, 2"),
        ("shm-small-tp2", FACTS, {}, "--shm-size=8g"),
        ("driver-too-old", FACTS, {}, "CUDA 12.8"),
        ("disk-full", FACTS, {}, "269.06 MB that one file needs where CACHE_DIR=/cache is (now 50 MiB)"),
        (
            "hub-gated-no-token",
            FACTS,
            {},
            "accept the terms on https://huggingface.co/org/model, and set HF_TOKEN",
        ),
        ("hub-gated-no-access", Facts(model="org/model", has_token=True), {}, "ask for access on"),
        ("hub-not-found-token", Facts(model="org/model", has_token=True), {}, "HF_TOKEN's account"),
        ("trust-remote-code", FACTS, {"TRUST_REMOTE_CODE": "1"}, "TRUST_REMOTE_CODE=1"),
        ("too-slow", FACTS, {"STARTUP_TIMEOUT_SECONDS": "3600"}, "STARTUP_TIMEOUT_SECONDS=3600"),
        (
            "corrupt-weights-lfs-pointer",
            Facts(model="/models/x", is_local=True),
            {},
            "copy the weights to /models/x",
        ),
        ("cpu-0.32-fail-unknown-flag", FACTS, {}, "remove --no-such-flag"),
    ],
)
def test_computed_remedy(name: str, facts: Facts, changes: dict[str, str] | None, part: str) -> None:
    """The remedy names the setting and a value for this very case, and hands the value to programs."""
    told = diagnose(recorded(name).ending, facts)
    assert part in told.remedy, told.remedy
    if changes is not None:
        assert told.changes == changes


def test_sentence() -> None:
    """One sentence: what happened, why, what to do, and the code."""
    told = diagnose(recorded("cpu-0.32-fail-kv-cache").ending, FACTS)
    assert str(told) == (
        "the engine exited with status 1 before it was ready: one request of MAX_MODEL_LEN=8192 tokens needs "
        "0.18 GiB of KV cache and there are 0.03; set MAX_MODEL_LEN=1280 or less, or GPU_MEMORY_UTILIZATION=0.91 "
        "[kv-cache-too-small]"
    )
    assert told.body.keys() == {"code", "message", "remedy", "docs"}
    assert told.docs == "docs/troubleshooting.md#kv-cache-too-small"


def test_tokens_are_blanked() -> None:
    """A hub token in the engine's own words does not reach a body that needs no key."""
    told = diagnose(ended("KeyError: 'hf_AbCdEfGhIj'"), FACTS)
    assert "AbCdEf" not in f"{told} {told.evidence}"


@pytest.mark.parametrize("status", [-number for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV)])
def test_signals(status: int) -> None:
    """A death by signal names the signal."""
    assert signal.Signals(-status).name in diagnose(ended(status=status), FACTS).message


def test_codes() -> None:
    """Codes are kebab case and each is there once."""
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+|unknown", entry.code) for entry in CATALOGUE)
    assert not [code for code, count in Counter(entry.code for entry in CATALOGUE).items() if count > 1]


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.code)
def test_general_remedy(entry: object) -> None:
    """Each entry can be documented: its remedy makes sense without a case."""
    advice = BY_CODE[entry.code].advise({}, Facts())  # type: ignore[attr-defined]
    assert advice.text
    assert "None" not in advice.text


@pytest.mark.parametrize(
    "error",
    [
        SettingsError([Problem("A", "b", "c")]),
        StartupError("x"),
        ModelError("x"),
        StartupTimeoutError("x"),
        EngineError("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_error_has_a_documented_code(error: EngineError | SettingsError) -> None:
    """An error that was raised without a diagnosis still has a code, and the catalogue knows it."""
    assert error.diagnosis.code in BY_CODE
    assert error.diagnosis.message == str(error)


def test_error_carries_its_diagnosis() -> None:
    """The sentence of an error is that of its diagnosis."""
    told = Diagnosis("disk-full", "the disk is full", "make room")
    assert str(StartupError(told)) == "the disk is full; make room [disk-full]"
    assert StartupError(told).diagnosis is told
