"""Diagnosis: every cause is recognised from its own log, none from a healthy one, and remedies are computed."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.diagnosis.failed_logs import Failure, failures, healthy_logs, lines_of
from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import load_settings
from vllm_engine.diagnosis.catalogue import BY_CODE, CATALOGUE, OWN
from vllm_engine.diagnosis.diagnose import diagnose, findings
from vllm_engine.diagnosis.explainer import Explainer, known_facts, memory_limit, oom_kills, with_host
from vllm_engine.diagnosis.run_facts import Facts
from vllm_engine.diagnosis.termination import MAX_BYTES, write_termination_log
from vllm_engine.engine.engine_state import EngineState, EngineStatus
from vllm_engine.engine.output.engine_exit import EngineExit, describe_exit
from vllm_engine.errors import (
    Diagnosis,
    EngineError,
    ModelError,
    Problem,
    SettingsError,
    StartupError,
    StartupTimeoutError,
)
from vllm_engine.gateway.error_dialect import ApiError, body_of
from vllm_engine.gateway.local.probes import Build, healthz
from vllm_engine.gateway.policy.readiness import HealthRules, not_ready
from vllm_engine.models.engine_script import ScriptError
from vllm_engine.models.hub_errors import explain_hub_error
from vllm_engine.models.model_source import Model
from vllm_engine.plan.engine_installation import Installation
from vllm_engine.plan.engine_plan import Choice, EnginePlan
from vllm_engine.plan.given_flags import GivenFlag
from vllm_engine.plan.preflight import Preflight
from vllm_engine.system.device import Device, Gpu
from vllm_engine.system.sizes import GIB

FACTS = Facts(
    model="org/model", has_token=False, max_model_len=8192, gpus=2, gpu_memory_bytes=24 * GIB, attention_heads=16,
    given=(GivenFlag("attention-backend", "ATTENTION_BACKEND", "foo"),), cache_free_bytes=50 << 20, shm_bytes=64 << 20, memory_limit_bytes=2 * GIB, vllm_version="0.32.0",
)  # fmt: skip
FAILURES = failures()
TOLD = Diagnosis("disk-full", "the disk is full", "make room")
BUILD = Build("sha", "now", "0.32.0", "3.11", "org/model", None, "python", "a CPU")


def ended(*lines: str, status: int | None = 1, was_ready: bool = False) -> EngineExit:
    """Return the end of an engine that left these lines."""
    return EngineExit(status, lines, was_ready, "loading weights")


def code_of(*lines: str, was_ready: bool = False) -> str:
    return diagnose(ended(*lines, was_ready=was_ready), FACTS).code


def recorded(name: str) -> Failure:
    return next(failure for failure in FAILURES if failure.name == name)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name)
def test_recorded_failure(failure: Failure) -> None:
    """A failure that really happened, or was quoted from a thread, is told for what it was, and as nothing else."""
    facts = failure.facts(FACTS)
    told = diagnose(failure.ending, facts)
    assert told.code == failure.code, told
    assert told.remedy
    assert "\n" not in str(told)
    matched = {found.entry for found in findings(failure.ending, facts)}
    assert {entry.code for entry in matched if not entry.is_symptom} <= {failure.code}


def test_a_healthy_start_matches_nothing() -> None:
    """However the engine ends after it; no line of it is taken for an error."""
    for log in healthy_logs():
        lines = lines_of(log)
        if "EngineDeadError" in log.read_text(errors="replace"):
            # Some recordings end with a core that was killed on purpose.
            lines = tuple(lines[: next(i for i, line in enumerate(lines) if "ERROR" in line)])
        for was_ready in (False, True):
            assert code_of(*lines, was_ready=was_ready) == "unknown", log
        assert ended(*lines).last_error is None


ECHO = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'E': -9}"
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
DISK = "OSError: [Errno 28] No space left on device"
NCCL = "torch.distributed.DistBackendError: NCCL error in: x.cpp:1, unhandled system error"
ADVICE = (
    "WARNING 11-24 00:01:40 [x.py:1] This can cause errors like `OSError: [Errno 24] Too many open files`."
)
LENGTH = "ValueError: User-specified max_model_len (9000) is greater than the derived max_model_len (a=8192)"
DEAD = "EngineDeadError: EngineCore encountered an issue. See stack trace (above)"


PRECEDENCE: tuple[tuple[tuple[str, ...], bool, str], ...] = (
    ((ECHO, OOM), False, "cuda-out-of-memory-loading"),
    ((OOM, ECHO), False, "cuda-out-of-memory-loading"),
    ((ECHO,), False, "engine-killed"),
    ((DISK, NCCL), False, "disk-full"),
    ((NCCL, DISK), False, "nccl-failed"),
    ((f"(APIServer pid=1) {ADVICE}",), False, "unknown"),
    ((LENGTH,), False, "max-model-len-too-large"),
    ((LENGTH,), True, "unknown"),
    (("KeyError: 'x'", DEAD), True, "unknown"),
    ((DEAD,), True, "engine-core-died"),
)


def test_precedence() -> None:
    """A cause wins over symptoms and the first cause over later ones; what vLLM says below ERROR is none, nor is an
    error that can only end a start while it serves, and a core that gave its reason did not end in silence."""
    for lines, was_ready, code in PRECEDENCE:
        assert code_of(*lines, was_ready=was_ready) == code, lines


def test_unknown_carries_the_engines_own_last_error() -> None:
    told = diagnose(ended("Traceback (most recent call last):", "KeyError: 'x'"), FACTS)
    assert (told.code, told.evidence) == ("unknown", "KeyError: 'x'")
    assert "no known cause matches; its own last error: KeyError: 'x'" in told.message
    assert "it left no error" in diagnose(ended(), FACTS).message
    # A token in the engine's own words does not reach a body that needs no key.
    told = diagnose(ended("KeyError: 'hf_AbCdEfGhIj'"), FACTS)
    assert "hf_***" in told.message
    assert "AbCdEf" not in f"{told} {told.evidence}"
    # The cgroup's own count is certain, and the limit is told.
    told = diagnose(ended("KeyError: 'x'", status=-9), Facts(oom_kills=1, memory_limit_bytes=2 * GIB))
    assert (told.code, "(now 2.0 GiB)" in told.remedy) == ("host-memory-limit", True)


KV_CACHE = """\
(EngineCore pid=2) ERROR 11-23 09:35:51 [core.py:906] Traceback (most recent call last):
(EngineCore pid=2) ERROR 11-23 09:35:51 [core.py:906] ValueError: To serve at least one request, 3 GiB is needed.
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
PYDANTIC = """\
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, The checkpoint is of type `x` [type=value_error, input_value=ArgsKwargs((), {'a'}), input_type=Args]
"""


def test_free_memory_is_the_gpus() -> None:
    """torch says bytes where nothing is free; where it says nothing, the disk's free space is not told instead."""
    full = f"{OOM} GPU 0 has a total capacity of 79.18 GiB of which 0 bytes is free. Including non-PyTorch memory, x."
    for line, told in (
        (full, "needs 2.00 GiB, but only 0 bytes of 79.18 GiB are free"),
        (OOM, "but only … of … are free"),
    ):
        assert told in diagnose(ended(line), FACTS).message
    assert "(50 MiB left)" in diagnose(recorded("disk-full").ending, FACTS).message


def test_last_error() -> None:
    """The newest error that is not an echo of another."""
    unknown = "unrecognized arguments: --x"
    for text, cause in (
        (KV_CACHE, "ValueError: To serve at least one request, 3 GiB is needed."),
        (PYDANTIC, "The checkpoint is of type `x`"),
        (f"vllm serve: error: {unknown}", unknown),
        (OOM, OOM),
        ("all is well\nnothing to see", None),
    ):
        assert ended(*text.splitlines()).last_error == cause


@pytest.mark.parametrize(
    ("name", "facts", "changes", "part"),
    [
        ("cpu-0.32-fail-max-model-len", FACTS, {"MAX_MODEL_LEN": "8192"}, "MAX_MODEL_LEN=8192 or less"),
        ("dtype-not-supported", FACTS, {"DTYPE": "float16"}, "DTYPE=float16"),
        ("tensor-parallel-heads", Facts(gpus=2), {"TENSOR_PARALLEL": "1"}, "TENSOR_PARALLEL to 1 or auto"),
        ("tensor-parallel-heads", Facts(gpus=3), {"TENSOR_PARALLEL": "3"}, "TENSOR_PARALLEL to 1, 3 or auto"),
        ("world-size", FACTS, {"TENSOR_PARALLEL": "1"}, "TENSOR_PARALLEL to 1 or auto"),
        ("shm-small-tp2", FACTS, {}, "--shm-size=8g"),
        ("driver-too-old", FACTS, {}, "CUDA 12.8"),
        ("disk-full", FACTS, {}, "269.06 MB that one file needs where CACHE_DIR=/cache is (now 50 MiB)"),
        ("hub-gated-no-token", FACTS, {}, "accept the terms on https://huggingface.co/org/model, and set HF_TOKEN"),
        ("hub-gated-no-access", Facts(model="org/model", has_token=True), {}, "ask for access on"),
        ("hub-not-found-token", Facts(model="org/model", has_token=True), {}, "HF_TOKEN's account"),
        ("trust-remote-code", FACTS, {"TRUST_REMOTE_CODE": "1"}, "TRUST_REMOTE_CODE=1"),
        ("too-slow", FACTS, {"STARTUP_TIMEOUT_SECONDS": "3600"}, "STARTUP_TIMEOUT_SECONDS=3600"),
        ("corrupt-weights-lfs-pointer", Facts(model="/models/x", is_local=True), {}, "copy the weights to /models/x"),
        ("cpu-0.32-fail-unknown-flag", FACTS, {}, "remove --no-such-flag"),
    ],
)  # fmt: skip
def test_computed_remedy(name: str, facts: Facts, changes: dict[str, str] | None, part: str) -> None:
    """The remedy names the setting and a value for this very case, and hands the value to programs."""
    told = diagnose(recorded(name).ending, facts)
    assert part in told.remedy, told.remedy
    assert changes is None or told.changes == changes


def test_sentence() -> None:
    """One sentence: what happened, why, what to do, and the code."""
    told = diagnose(recorded("cpu-0.32-fail-kv-cache").ending, FACTS)
    assert re.fullmatch(
        r"the engine exited with status 1 before it was ready: one request of MAX_MODEL_LEN=8192 tokens needs 0.18 GiB .*; "
        r"set MAX_MODEL_LEN=1280 or less, .* \[kv-cache-too-small\]", str(told),
    )  # fmt: skip
    assert told.docs == "docs/operate/troubleshooting.md#kv-cache-too-small"
    words = {0: "exited with status 0", -11: "was killed by SIGSEGV", -65: "was killed by signal 65"}
    assert {status: describe_exit(status) for status in words} == words


def test_entries() -> None:
    """Codes are kebab case and unique, each has a record; a remedy makes sense without a case, for the docs."""
    codes = [entry.code for entry in CATALOGUE]
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+|unknown", code) for code in codes)
    assert len(codes) == len(set(codes))
    assert set(codes) - {entry.code for entry in OWN} == {failure.code for failure in FAILURES}
    for entry in CATALOGUE:
        text = entry.advise({}, Facts()).text
        assert text, entry.code
        assert "None" not in text, entry.code


def test_every_error_has_a_documented_code() -> None:
    """One that was raised without a diagnosis has its class's; the sentence of any other is its diagnosis'."""
    kinds = (StartupError, ModelError, StartupTimeoutError, EngineError)
    for error in (SettingsError([Problem("A", "b", "c")]), *(kind("x") for kind in kinds)):
        assert error.diagnosis.code in BY_CODE
        assert error.diagnosis.message == str(error)
    assert str(StartupError(TOLD)) == "the disk is full; make room [disk-full]"
    assert StartupError(TOLD).diagnosis is TOLD


async def test_a_failed_engine_is_told_to_clients() -> None:
    """/healthz has the stable code, the sentence and the remedy; /v1/* the same sentence in OpenAI's shape."""
    state = SimpleNamespace(build=BUILD, health_rules=HealthRules())
    request: Any = SimpleNamespace(app=SimpleNamespace(state=state))
    failed = EngineStatus(state=EngineState.FAILED, error=TOLD)
    answer = await healthz(request, failed)
    body = json.loads(bytes(answer.body))
    assert (answer.status_code, body["status"], body["state"]) == (503, "unavailable", "failed")
    assert body["error"] == {
        "code": "disk-full", "message": "the disk is full", "remedy": "make room", "docs": "docs/operate/troubleshooting.md#disk-full"
    }  # fmt: skip
    refusal = ApiError.of(503, not_ready(failed).message)
    error = json.loads(body_of(refusal, "/v1/chat/completions", "id"))["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["code"], error["message"]) == (503, f"The engine has failed: {TOLD}")
    # While it loads there is no code of a failure.
    error = json.loads(bytes((await healthz(request, EngineStatus())).body))["error"]
    assert (error["code"], error["type"]) == (503, "unavailable_error")


def test_termination_log(tmp_path: Path) -> None:
    """The last words replace what is there, cut to what the kubelet reads; the file itself is the runtime's to make."""
    path = tmp_path / "termination-log"
    path.write_text("something older and longer")
    assert write_termination_log(path, "disk full")
    assert path.read_text() == "disk full"
    assert write_termination_log(path, "ä" * MAX_BYTES)
    assert MAX_BYTES - 3 <= len(path.read_bytes()) <= MAX_BYTES
    assert path.read_text().endswith("ä …")
    assert not write_termination_log(tmp_path / "absent", "x")
    assert list(tmp_path.iterdir()) == [path]


KINDS = ("gated", "token", "not_found", "revision", "offline", "unreachable", "disk_full", "not_writable", "other")  # fmt: skip
V1, V2 = "sys/fs/cgroup/memory/memory.", "sys/fs/cgroup/memory."


def test_cgroup(tmp_path: Path) -> None:
    """With either version and without a limit; what the kernel killed before this engine started explains nothing."""
    for number, (files, kills, limit) in enumerate((
        ({V2 + "events": "low 0\noom 3\noom_kill 2\n", V2 + "max": "1024\n"}, 2, 1024),
        ({V2 + "events": "oom_kill 0\n", V2 + "max": "max\n"}, 0, None),
        ({V1 + "oom_control": "under_oom 0\noom_kill 1\n", V1 + "limit_in_bytes": "9223372036854771712\n"}, 1, None),
        ({}, 0, None),
    )):  # fmt: skip
        root = tmp_path / str(number)
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        assert (oom_kills(root), memory_limit(root)) == (kills, limit)
    facts = known_facts(preflight(tmp_path, Device("cpu", "a CPU", True)))
    assert [with_host(facts, before, tmp_path / "0").oom_kills for before in (2, 1)] == [0, 1]
    assert (with_host(facts, 0, tmp_path / "0").cache_free_bytes or 0) > 0


def test_facts_of_settings(tmp_path: Path) -> None:
    """What the user set and the machine has is what remedies are computed from; no secret is among it."""
    device = Device("cuda", "2 x X", True, gpus=(Gpu("X", (9, 0), 80), Gpu("X", (9, 0), 40)))
    found = preflight(tmp_path, device, HF_TOKEN="hf_secret", MAX_MODEL_LEN="4096")
    facts = known_facts(found)
    assert (facts.max_model_len, facts.gpus, facts.gpu_memory_bytes, facts.has_token) == (4096, 2, 40, True)
    assert "hf_secret" not in repr(facts)
    given = "--kv_cache_memory_bytes=40G --max-num-seqs 64 --enforce-eager --max-num-batched-tokens 8k"
    flags = tuple(given.split())
    facts = known_facts(replace(found, flags=flags))
    assert facts.kv_cache_memory_bytes == 40 * GIB
    assert (facts.max_num_seqs, facts.max_num_batched_tokens) == (64, 8000)
    assert facts.enforce_eager


def test_facts_of_a_plan(tmp_path: Path) -> None:
    """A start with settings of AUTO_FIT's is explained with these, not with the user's."""
    gpu = Device("cuda", "X", True)
    explainer = Explainer(preflight(tmp_path, gpu))
    choice = Choice("1", "default")
    plan = EnginePlan(Model(str(tmp_path)), choice, choice, choice, choice, None, None)
    explainer.planned(preflight(tmp_path, gpu, GPU_MEMORY_UTILIZATION="0.85"), plan)
    told = explainer.explain(recorded("cuda-oom-serving").ending)
    assert told.changes == {"GPU_MEMORY_UTILIZATION": "0.8"}


def test_hub_errors_have_documented_codes(tmp_path: Path) -> None:
    """What the hub client meets before the engine starts is told with the catalogue's codes."""
    for kind, token in product(KINDS, ("", "hf_x")):
        asked = preflight(tmp_path, Device("cpu", "a CPU", True), HF_TOKEN=token)
        told = explain_hub_error(asked.settings, ScriptError(kind, "detail"))
        assert told.code in BY_CODE
        assert told.message.startswith('MODEL_ID="org/model": ')


def preflight(tmp_path: Path, device: Device, **variables: str) -> Preflight:
    environment = Environment({"MODEL_ID": "org/model", "CACHE_DIR": str(tmp_path)} | variables, {})
    installation = Installation(Path("python"), "3.12", "vllm", "0.32.0", device.kind, None)
    return Preflight(load_settings(environment), environment, installation, device)
