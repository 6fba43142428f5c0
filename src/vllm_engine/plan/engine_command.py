"""The engine's command line and environment, from the plan. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from vllm_engine.config.flags.flag_values import human_int
from vllm_engine.config.settings import Settings
from vllm_engine.plan.engine_installation import Installation
from vllm_engine.plan.engine_plan import BOTH, RUST, Choice, EnginePlan
from vllm_engine.plan.engine_site import site_folder
from vllm_engine.plan.frontends.rust_binary import RUST_VARIABLE
from vllm_engine.plan.parallel.ranks import Ranks
from vllm_engine.system.core_groups import core_groups, numa_nodes

_KEPT_FROM_THE_ENGINE = (
    *("VIRTUAL_ENV", "PYTHONHOME", "API_KEY", "API_KEYS", "VLLM_EXTRA_ARGS"),
    "WEB_CONCURRENCY",
    "PYTHONDONTWRITEBYTECODE",
)
"""Ours and our clients' alone (vLLM warns of names like its own that it does not know); hosting platforms'
number of processes, with which vLLM's uvicorn fails; and what would compile its files at each start again."""
UPSTREAM_KEEP_ALIVE_SECONDS = 600
"""How long vLLM keeps an idle connection: longer than our pool does, so that only we close them."""
_SERVICE_NAME = "vllm-engine"
"""The gateway's default; the engine's is this, a dot, and `vllm`."""

LAUNCHER = Path(__file__).parents[1] / "engine" / "both_frontends" / "launcher.py"
"""Starts one engine with both of vLLM's frontends."""
RUST_SOCKET = "rust.sock"
"""The name of the Rust frontend's socket when both run; it is beside that of the Python frontend."""

RESERVED_FLAGS: Mapping[str, str] = {
    "model": "MODEL_ID",
    "model-tag": "MODEL_ID",
    "served-model-name": "SERVED_MODEL_NAME",
    "revision": "MODEL_REVISION",
    "hf-token": "HF_TOKEN",
    "api-key": "API_KEYS",
    "host": "HOST",
    "port": "PORT",
    "dtype": "DTYPE",
    "tensor-parallel-size": "TENSOR_PARALLEL",
    "pipeline-parallel-size": "PIPELINE_PARALLEL",
    "data-parallel-size": "DATA_PARALLEL",
    "distributed-executor-backend": "DISTRIBUTED_EXECUTOR",
    "nnodes": "NODES",
    "node-rank": "NODE_RANK",
    "master-addr": "HEAD_ADDRESS",
    "master-port": "HEAD_PORT",
    "max-model-len": "MAX_MODEL_LEN",
    "gpu-memory-utilization": "GPU_MEMORY_UTILIZATION",
    "api-server-count": "API_SERVER_COUNT",
    "uds": "PORT",
    "otlp-traces-endpoint": "OTLP_ENDPOINT",
    "ssl-certfile": "TLS_CERT_FILE",
    "ssl-keyfile": "TLS_KEY_FILE",
    "enable-ssl-refresh": "TLS_CERT_FILE",
    "allowed-origins": "CORS_ORIGINS",
    "allowed-methods": "CORS_ORIGINS",
    "allowed-headers": "CORS_ORIGINS",
    "allow-credentials": "CORS_ORIGINS",
}
"""vLLM flags, and our setting to use instead."""

TOOL_FLAG, REASONING_FLAG = "tool-call-parser", "reasoning-parser"
OWN_FLAGS: Mapping[str, str] = {TOOL_FLAG: "TOOL_CALL_PARSER", REASONING_FLAG: "REASONING_PARSER"}
"""vLLM flags that are settings of ours too; among raw flags they are taken as they are."""

_ONE = Choice("1", "default")

PYTHON_ENTRY = ("-m", "vllm.entrypoints.cli.main")
"""What Python runs as vLLM's own command."""


@dataclass(frozen=True)
class EngineCommand:
    """What to run: the argument list and the whole environment."""

    argv: tuple[str, ...]
    environ: Mapping[str, str]


def build_command(
    settings: Settings,
    installation: Installation,
    plan: EnginePlan,
    *,
    socket: Path,
    environ: Mapping[str, str],
    flags: Sequence[str] = (),
) -> EngineCommand:
    """Build the engine's command, which listens on the Unix socket `socket`.

    With both frontends that is the Python frontend's; the Rust frontend's is beside it.

    `environ` is the merged environment of this program, `flags` the user's checked vLLM flags, which come
    last and so win.
    """
    traces: list[str] = []
    if settings.traces_url is not None and not tracing_gap(settings, installation):
        traces = ["--otlp-traces-endpoint", settings.traces_url]
    entry = [*PYTHON_ENTRY]
    if plan.frontend.value == BOTH:
        entry = [str(LAUNCHER), "both", str(socket.with_name(RUST_SOCKET))]
    if settings.is_worker:  # it has no API
        listening, options = ["--headless"], _options(settings, replace(plan, api_server_count=_ONE))
    else:
        listening, options = ["--uds", str(socket)], _options(settings, plan)
    argv = [
        str(installation.python),
        # Not from the working folder: a stray torch.py there must not become the engine.
        "-P",
        *entry,
        "serve",
        plan.model.location,
        *options,
        *traces,
        *listening,
        *flags,
    ]
    return EngineCommand(tuple(argv), engine_environment(settings, installation, environ))


def _options(settings: Settings, plan: EnginePlan) -> list[str]:
    options = ["--served-model-name", *settings.served_names]
    options += ["--dtype", plan.dtype.value]
    options += ["--tensor-parallel-size", plan.tensor_parallel.value]
    options += ["--max-model-len", plan.max_model_len.value]
    options += ["--gpu-memory-utilization", str(settings.gpu_memory_utilization)]
    if settings.model_revision and not settings.is_local_model:
        options += ["--revision", settings.model_revision]
    options += _parallel_options(settings)
    # Without it vLLM starts one for each copy of the model.
    is_told = plan.api_server_count.value != "1" or (settings.data_parallel > 1 and not settings.is_worker)
    if is_told:
        options += ["--api-server-count", plan.api_server_count.value]
    if plan.kv_cache_bytes is not None:
        options += ["--kv-cache-memory-bytes", plan.kv_cache_bytes.value]
    if plan.enforce_eager is not None:
        options += ["--enforce-eager"]
    # What vLLM does by itself: its Python frontend parses nothing, its Rust frontend chooses.
    usual = "auto" if plan.frontend.value == RUST else "none"
    for flag, parser in ((TOOL_FLAG, plan.tool_call_parser), (REASONING_FLAG, plan.reasoning_parser)):
        if parser.value != usual and parser.source != "VLLM_EXTRA_ARGS":
            options += [f"--{flag}", parser.value]
    if plan.auto_tool_choice is not None:
        options += ["--enable-auto-tool-choice"]
    if plan.frontend.value != RUST:
        # The gateway logs each request; the Rust frontend does not know this flag.
        options += ["--disable-uvicorn-access-log"]
    return options


def _parallel_options(settings: Settings) -> list[str]:
    options: list[str] = []
    if settings.pipeline_parallel > 1:
        options += ["--pipeline-parallel-size", str(settings.pipeline_parallel)]
    if settings.data_parallel > 1:
        options += ["--data-parallel-size", str(settings.data_parallel)]
    if settings.distributed_executor != "auto" or settings.nodes > 1:
        executor = settings.distributed_executor
        options += ["--distributed-executor-backend", "mp" if executor == "auto" else executor]
    if settings.nodes > 1:
        options += ["--nnodes", str(settings.nodes), "--node-rank", str(settings.node_rank)]
        options += ["--master-addr", settings.head_address or "", "--master-port", str(settings.head_port)]
    return options


def tracing_gap(settings: Settings, installation: Installation) -> str | None:
    """Say why vLLM would not start, or not trace, with `--otlp-traces-endpoint`; None if it would trace."""
    if settings.engine_frontend == "rust":
        return "the Rust frontend makes no spans"  # and refuses the flag
    if installation.tracing_lacks:  # vllm/tracing/otel.py, 0.32
        return f"its environment lacks {', '.join(installation.tracing_lacks)}"
    return None


def engine_environment(
    settings: Settings, installation: Installation, environ: Mapping[str, str]
) -> dict[str, str]:
    """Return the engine's environment: ours, every cache under `CACHE_DIR`, no usage reports.

    Whatever the user has set already stays as it is.
    """
    cache = settings.cache_dir.absolute()
    defaults = {
        "HF_HOME": cache / "huggingface",
        "XDG_CACHE_HOME": cache / "xdg",
        "VLLM_CACHE_ROOT": cache / "vllm",
        "VLLM_CONFIG_ROOT": cache / "vllm-config",
        "TORCHINDUCTOR_CACHE_DIR": cache / "inductor",
        "TRITON_CACHE_DIR": cache / "triton",
        "FLASHINFER_WORKSPACE_BASE": cache / "flashinfer",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": UPSTREAM_KEEP_ALIVE_SECONDS,
        "PYTHONUNBUFFERED": "1",
    }
    if installation.kind == "cpu":
        defaults["VLLM_TARGET_DEVICE"] = "cpu"
        # vLLM keeps a core idle for its API server; the model needs it more (docs/measured/cpu-profile.md).
        defaults["VLLM_CPU_NUM_OF_RESERVED_CPU"] = "0"
        # Its ahead-of-time cache cannot be read on CPU: what torch's compiler wrote lacks the method that the
        # reader calls (0.32, `_try_load_aot_compiled_fn`). Without it inductor's cache is used.
        defaults["VLLM_USE_AOT_COMPILE"] = "0"
        if (ranks := Ranks.of(settings).here) > numa_nodes():
            # By itself vLLM gives each rank a NUMA node, and ends where there are fewer.
            groups = core_groups(ranks)
            defaults["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(",".join(map(str, group)) for group in groups)
    elif settings.traces_url is None:  # its exporter's threads do not outlive a fork
        # Saves each vLLM process importing what its parent has imported. vLLM itself falls back to spawn
        # where a CUDA context exists already, and in WSL; on CPU it allows only spawn.
        defaults["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
    result = {key: str(value) for key, value in defaults.items()} | dict(environ)
    result["PATH"] = f"{installation.python.parent}:{environ.get('PATH', '/usr/local/bin:/usr/bin:/bin')}"
    if installation.distribution != "vllm" or installation.needs_shims:
        result["PYTHONPATH"] = ":".join(filter(None, (str(site_folder(cache)), environ.get("PYTHONPATH"))))
    result.pop(RUST_VARIABLE, None)  # the setting alone says what runs
    if settings.engine_frontend == RUST:
        result[RUST_VARIABLE] = "1"
    if settings.traces_url is not None:
        # vLLM's default is gRPC, and its service is not the gateway.
        result["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] = "http/protobuf"
        result["OTEL_SERVICE_NAME"] = f"{environ.get('OTEL_SERVICE_NAME') or _SERVICE_NAME}.vllm"
    if settings.hf_token is not None:
        result["HF_TOKEN"] = settings.hf_token.get_secret_value()
    for name in _KEPT_FROM_THE_ENGINE:
        result.pop(name, None)
    return result


def mentioned_flags(flags: Sequence[str]) -> frozenset[str]:
    """Return the names of the user's vLLM flags, on or off, without dashes or a leading `no-`."""
    names = (token.split("=")[0].removeprefix("--") for token in flags if token.startswith("--"))
    return frozenset(name.replace("_", "-").removeprefix("no-") for name in names)


def is_switched_on(flags: Sequence[str], name: str) -> bool:
    """Whether the last `--name` or `--no-name` among the user's vLLM flags is the former."""
    on, off = f"--{name}", f"--no-{name}"
    given = [flag for flag in (token.replace("_", "-") for token in flags) if flag in (on, off)]
    return given[-1:] == [on]


def may_scale_out(flags: Sequence[str]) -> bool:
    """Whether vLLM has its scale-out endpoints with these flags, or may have: a `--config` is not read here.

    As in `vllm/entrypoints/scale_out/factories.py` of 0.32 and 0.33.
    """
    has_switch = any(is_switched_on(flags, name) for name in ("enable-scale-out", "tokens-only"))
    return has_switch or flag_value(flags, "config") is not None


def flag_number(flags: Sequence[str], name: str) -> int | None:
    """Return the value of a flag of vLLM's that is a number such as 8k; None where it is not given as one."""
    try:
        return human_int(flag_value(flags, name) or "")
    except ValueError:
        return None


def flag_value(flags: Sequence[str], name: str) -> str | None:
    """Return the value that the last `--name` among the user's vLLM flags has; None without one."""
    value = None
    for token, following in zip_longest(flags, flags[1:]):
        flag, equals, rest = token.partition("=")
        if flag.replace("_", "-") == f"--{name}":
            value = rest if equals else following
    return value
