"""All that the launcher uses of vLLM's inside, and whether this vLLM has it so.

Where it has not, `load` says what is missing or is called otherwise; `tools/vllm_internals.py` says so of a
vLLM that need not even be installed.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Collection
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any


@dataclass(frozen=True)
class Used:
    """A function or class of vLLM's.

    Attributes:
        name: its name, and the launcher's for it.
        modules: where it may be; the newest vLLM first.
        arguments: the names of the arguments that the launcher passes, each by name.
        members: attributes and methods that the launcher uses.
        words: keys that it reads and attributes that it sets, which stand in its source.
    """

    name: str
    modules: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


_COMMON, _LAUNCHERS = "vllm.entrypoints.common", "vllm.entrypoints.launchers"
_API_UTILS = "vllm.entrypoints.serve.utils.api_utils"
USED = (
    Used("make_arg_parser", (f"{_COMMON}.cli_args", f"{_LAUNCHERS}.cli_args"), ("parser",)),
    Used("validate_parsed_serve_args", (f"{_COMMON}.cli_args", f"{_LAUNCHERS}.cli_args"), ("args",)),
    Used("cli_env_setup", (f"{_COMMON}.startup", _API_UTILS)),
    Used("configure_logging_from_args", ("vllm.logger",), ("args",)),
    Used("FlexibleArgumentParser", ("vllm.utils.argparse_utils",)),
    Used("jsonify_non_default_args", (f"{_COMMON}.startup", _API_UTILS), ("args",)),
    Used("redact_sensitive_args", (f"{_COMMON}.startup", _API_UTILS), ("args",)),
    Used("decorate_logs", ("vllm.utils.system_utils",), ("process_name", "skip_if_decorated")),
    Used("setup_server", (f"{_LAUNCHERS}.api_server.entry",), ("args", "reuse_port")),
    Used(
        "run_server_worker",
        (f"{_LAUNCHERS}.api_server.entry",),
        ("listen_address", "sock", "args", "client_config", "uvicorn_kwargs"),
    ),
    Used("create_server_unix_socket", (f"{_LAUNCHERS}.launcher",), ("path",)),
    Used(
        "AsyncEngineArgs",
        ("vllm.engine.arg_utils",),
        members=(
            *("from_cli_args", "create_engine_config", "disable_log_stats"),
            *("_api_process_count", "_api_process_rank"),
        ),
    ),
    Used("UsageContext", ("vllm.usage.usage_lib",), members=("OPENAI_API_SERVER",)),
    Used("Executor", ("vllm.v1.executor",), members=("get_class",)),
    Used("bind_engine_zmq_listeners", ("vllm.v1.engine.utils",), ("vllm_config", "num_api_servers")),
    Used(
        "EngineZmqListeners", ("vllm.v1.engine.utils",), members=("inputs", "outputs", "addresses", "cleanup")
    ),
    Used(
        "launch_core_engines",
        ("vllm.v1.engine.utils",),
        ("vllm_config", "executor_class", "log_stats", "addresses"),
    ),
    Used(
        "CoreEngineLaunch",
        ("vllm.v1.engine.utils",),
        members=("engine_manager", "tensor_queue", "watched_frontend_processes"),
    ),
    Used(
        "CoreEngineProcManager",
        ("vllm.v1.engine.utils",),
        members=("sentinels", "finished_procs", "shutdown"),
    ),
    Used(
        "RustFrontendProcessManager",
        ("vllm.v1.utils",),
        (
            *("binary_path", "sock", "args", "input_listener", "output_listener"),
            *("engine_start_index", "engine_count", "data_parallel_size"),
        ),
        ("shutdown",),
        ("self.processes",),
    ),
    Used("_SubprocessWrapper", ("vllm.v1.utils",), (), ("sentinel", "exitcode", "join"), ("self.pid",)),
    Used(
        "build_async_engine_client_from_engine_args",
        (f"{_LAUNCHERS}.api_server.entry",),
        words=("client_count", "client_index"),
    ),
    Used(
        "MPClient",
        ("vllm.v1.engine.core_client",),
        words=("input_address", "output_address", "input_listener", "output_listener", "tensor_queue"),
    ),
    Used("ModelConfig", ("vllm.config",), words=("self.runner_type = ",)),
    Used("VllmConfig", ("vllm.config",), members=("model_config", "shutdown_timeout")),
)
"""vLLM 0.32 and 0.33 have all of it."""


class InternalsError(Exception):
    """This vLLM is another inside than the launcher knows."""


def load() -> Any:
    """Import what is used; returns it by name.

    Raises:
        InternalsError: something is missing, or called otherwise.
    """
    found, problems = {}, []
    for used in USED:
        try:
            found[used.name] = _import(used)
        except LookupError as error:
            problems.append(str(error))
            continue
        problems += differences(used, found[used.name])
    if problems:
        raise InternalsError("; ".join(problems))
    return SimpleNamespace(**found)


def differences(used: Used, thing: Any) -> list[str]:
    """Return what about a function or class is not as the launcher uses it."""
    parameters = inspect.signature(thing).parameters.values() if used.arguments else ()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    classes = getattr(thing, "__mro__", ())
    return compared(
        used,
        taken=[each.name for each in parameters],
        required=[
            each.name for each in parameters if each.default is each.empty and each.kind not in variable
        ],
        members={*dir(thing), *(name for one in classes for name in inspect.get_annotations(one))},
        source=inspect.getsource(thing) if used.words else "",
    )


def compared(
    used: Used, *, taken: Collection[str], required: Collection[str], members: Collection[str], source: str
) -> list[str]:
    """Return how what is used differs from what is there: its arguments, members and source."""
    name = used.name
    needed = [each for each in required if each not in used.arguments] if used.arguments else []
    return [
        *(f"{name} takes no argument {each}" for each in used.arguments if each not in taken),
        *(f"{name} needs an argument {each}" for each in needed),
        *(f"{name} has no {each}" for each in used.members if each not in members),
        *(f"{name} knows no {each}" for each in used.words if each not in source),
    ]


def _import(used: Used) -> Any:
    for module in used.modules:
        try:
            return getattr(importlib.import_module(module), used.name)
        except (ImportError, AttributeError):
            continue
    raise LookupError(f"there is no {used.name} in {' or '.join(used.modules)}")
