"""A failure is told everywhere: /healthz, the 503 of the API, the termination log; and what facts it rests on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi import Request

from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import load_settings
from vllm_engine.diagnosis.catalogue import BY_CODE
from vllm_engine.diagnosis.explainer import known_facts, memory_limit, oom_kills, with_host
from vllm_engine.diagnosis.termination import MAX_BYTES, write_termination_log
from vllm_engine.engine.engine_state import EngineState, EngineStatus
from vllm_engine.errors import Diagnosis
from vllm_engine.gateway.error_dialect import ApiError, body_of
from vllm_engine.gateway.local.probes import Build, healthz
from vllm_engine.gateway.policy.readiness import not_ready
from vllm_engine.models.engine_script import ScriptError
from vllm_engine.models.hub_errors import explain_hub_error
from vllm_engine.system.device import Device, Gpu

TOLD = Diagnosis("disk-full", "the engine exited with status 1: the disk is full", "make room")
BUILD = Build("sha", "now", "0.32.0", "3.11", "org/model", None, "python", "a CPU")


async def health(status: EngineStatus) -> tuple[int, dict[str, Any]]:
    """Ask /healthz for a status."""
    request = SimpleNamespace(app=SimpleNamespace(state=SimpleNamespace(build=BUILD)))
    answer = await healthz(cast("Request", request), status)
    return answer.status_code, json.loads(bytes(answer.body))


async def test_healthz_of_a_failed_engine() -> None:
    """The body has the stable code, the sentence, the remedy and where it is documented."""
    status, body = await health(EngineStatus(state=EngineState.FAILED, error=TOLD))
    assert (status, body["status"], body["state"]) == (503, "unavailable", "failed")
    assert body["error"] == {
        "code": "disk-full",
        "message": "the engine exited with status 1: the disk is full",
        "remedy": "make room",
        "docs": "docs/troubleshooting.md#disk-full",
    }


async def test_healthz_while_loading() -> None:
    """While it loads the error is the field's 503, with no code of a failure."""
    status, body = await health(EngineStatus())
    assert (status, body["error"]["code"], body["error"]["type"]) == (503, 503, "unavailable_error")


def test_api_s_body_stays_openai_shaped() -> None:
    """/v1/* answers a failed engine with the same sentence in OpenAI's shape."""
    failed = EngineStatus(state=EngineState.FAILED, error=TOLD)
    refusal = ApiError.of(503, not_ready(failed).message)
    error = json.loads(body_of(refusal, "/v1/chat/completions", "id"))["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["code"], error["message"]) == (503, f"The engine has failed: {TOLD}")


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


@pytest.mark.parametrize(
    ("files", "kills", "limit"),
    [
        ({V2 + "events": "low 0\noom 3\noom_kill 2\n", V2 + "max": "1024\n"}, 2, 1024),
        ({V2 + "events": "oom_kill 0\n", V2 + "max": "max\n"}, 0, None),
        ({V1 + "oom_control": "under_oom 0\noom_kill 1\n", V1 + "limit_in_bytes": "9223372036854771712\n"}, 1, None),
        ({}, 0, None),
    ],
    ids=["v2", "v2 without a limit", "v1", "no cgroup"],
)  # fmt: skip
def test_cgroup(tmp_path: Path, files: dict[str, str], kills: int, limit: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert (oom_kills(tmp_path), memory_limit(tmp_path)) == (kills, limit)


def test_only_kills_of_this_run_count(tmp_path: Path) -> None:
    """What the kernel killed before this engine started explains nothing."""
    events = tmp_path / "sys/fs/cgroup/memory.events"
    events.parent.mkdir(parents=True)
    events.write_text("oom_kill 3\n")
    facts = known_facts(settings(tmp_path), Device("cpu", "a CPU", True), "0.32.0")
    assert with_host(facts, 3, tmp_path).oom_kills == 0
    assert with_host(facts, 2, tmp_path).oom_kills == 1
    assert (with_host(facts, 0, tmp_path).cache_free_bytes or 0) > 0


def test_facts_of_settings(tmp_path: Path) -> None:
    """What the user set and the machine has is what remedies are computed from; no secret is among it."""
    device = Device("cuda", "2 x X", True, gpus=(Gpu("X", (9, 0), 80), Gpu("X", (9, 0), 40)))
    facts = known_facts(settings(tmp_path, HF_TOKEN="hf_secret", MAX_MODEL_LEN="4096"), device, "0.32.0")
    assert (facts.max_model_len, facts.gpus, facts.gpu_memory_bytes, facts.has_token) == (4096, 2, 40, True)
    assert "hf_secret" not in repr(facts)


@pytest.mark.parametrize("token", [None, "hf_x"])
def test_hub_errors_have_documented_codes(tmp_path: Path, token: str | None) -> None:
    """What the hub client meets before the engine starts is told with the catalogue's codes."""
    given = settings(tmp_path, **({"HF_TOKEN": token} if token else {}))
    for kind in KINDS:
        told = explain_hub_error(given, ScriptError(kind, "detail"))
        assert told.code in BY_CODE
        assert told.message.startswith('MODEL_ID="org/model": ')


def settings(tmp_path: Path, **variables: str) -> Any:
    """Return settings with these variables."""
    return load_settings(Environment({"MODEL_ID": "org/model", "CACHE_DIR": str(tmp_path)} | variables, {}))
