"""A package `vllm` with just the inside that the launcher of both frontends uses: real processes that do nothing.

Unlike the fake engine it runs our launcher itself, and serves nothing.
"""

from __future__ import annotations

from pathlib import Path

from vllm_engine.engine.both_frontends.vllm_internals import USED

VERSION = "0.32.0"

_MAIN = """
import json, sys
def main():
    print(json.dumps({"alone": sys.argv[1:]}), flush=True)
"""

_INSIDE = """
import argparse, asyncio, contextlib, os, signal, socket, subprocess, sys, threading
from multiprocessing import connection, get_context
from types import SimpleNamespace

def say(**what):
    import json
    print(json.dumps(what), flush=True)

def sleep():
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if os.environ.get("STUB_CORE") == "fails":
        os._exit(3)
    threading.Event().wait()

class FlexibleArgumentParser(argparse.ArgumentParser):
    pass

def make_arg_parser(parser):
    parser.add_argument("model_tag")
    for name in ("model", "uds", "middleware", "api_key", "runner", "tool_call_parser"):
        parser.add_argument("--" + name.replace("_", "-"))
    for name in ("data_parallel_size", "nnodes", "api_server_count"):
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=1)
    for name in ("headless", "disable_log_stats", "disable_uvicorn_access_log"):
        parser.add_argument("--" + name.replace("_", "-"), action="store_true")
    return parser

def validate_parsed_serve_args(args): pass
def cli_env_setup(): pass
def configure_logging_from_args(args): pass
def decorate_logs(process_name, skip_if_decorated): pass
def redact_sensitive_args(args): return {**args, "api_key": "***"} if args.get("api_key") else args
def jsonify_non_default_args(args):
    return {name: value for name, value in vars(args).items() if value and name != "subparser" and value != 1}

def create_server_unix_socket(path):
    made = socket.socket(socket.AF_UNIX)
    made.bind(path)
    return made

def setup_server(args, reuse_port):
    return "unix:" + args.uds, create_server_unix_socket(args.uds)

async def run_server_worker(listen_address, sock, args, client_config, **uvicorn_kwargs):
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    processes = {"python": os.getpid(), "rust": RustFrontendProcessManager.pid, "core": CoreEngineProcManager.pid}
    say(serves=processes, client={name: str(value) for name, value in client_config.items()},
        uvicorn=uvicorn_kwargs, variable=os.environ.get("VLLM_USE_RUST_FRONTEND"))
    await ended.wait()

def build_async_engine_client_from_engine_args(): "client_count client_index"
class MPClient: "input_address output_address input_listener output_listener tensor_queue"
class VllmConfig: model_config = shutdown_timeout = None
class ModelConfig:
    def __init__(self, runner):
        self.runner_type = runner
class UsageContext: OPENAI_API_SERVER = 1
class Executor:
    @staticmethod
    def get_class(config): return "executor"

class AsyncEngineArgs:
    disable_log_stats = False
    _api_process_count = _api_process_rank = 0
    @classmethod
    def from_cli_args(cls, args):
        made = cls()
        made.runner = args.runner or "generate"
        return made
    def create_engine_config(self, usage_context):
        return SimpleNamespace(model_config=ModelConfig(self.runner), shutdown_timeout=0)

class EngineZmqListeners:
    addresses = "addresses"
    inputs: list
    outputs: list
    def __init__(self, count):
        self.inputs, self.outputs = ([SimpleNamespace(address=kind + str(n), socket=n) for n in range(count)] for kind in "io")
    def cleanup(self): pass
def bind_engine_zmq_listeners(vllm_config, num_api_servers): return EngineZmqListeners(num_api_servers)

class CoreEngineProcManager:
    def __init__(self):
        self.process = get_context("spawn").Process(target=sleep, name="EngineCore")
        self.process.start()
        CoreEngineProcManager.pid = self.process.pid
    def sentinels(self): return [self.process.sentinel]
    def finished_procs(self): return {"EngineCore": self.process.exitcode} if self.process.exitcode is not None else {}
    def shutdown(self, timeout):
        self.process.terminate()
        self.process.join()

class CoreEngineLaunch: engine_manager = tensor_queue = watched_frontend_processes = None

@contextlib.contextmanager
def launch_core_engines(vllm_config, executor_class, log_stats, addresses):
    launch = SimpleNamespace(engine_manager=CoreEngineProcManager(), tensor_queue=None, watched_frontend_processes=())
    yield launch
    [rust] = launch.watched_frontend_processes
    # As vLLM's barrier: until the core is ready, which here takes a moment, or one has ended.
    if connection.wait([rust.sentinel, *launch.engine_manager.sentinels()], timeout=float(os.environ.get("STUB_SECONDS", 0))):
        raise RuntimeError("Engine core initialization failed. See root cause above.")
    say(ready=True)

class _SubprocessWrapper:
    sentinel: int
    def __init__(self, process):
        self.process = process
        self.pid = process.pid
        self.sentinel = os.pidfd_open(process.pid)
    @property
    def exitcode(self): return self.process.poll()
    def join(self, timeout):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout)

class RustFrontendProcessManager:
    def __init__(self, binary_path, sock, args, input_listener, output_listener, engine_start_index, engine_count, data_parallel_size):
        said = (engine_start_index, engine_count, data_parallel_size, input_listener.address, output_listener.address)
        say(rust=[args.uds, args.disable_uvicorn_access_log, *said], parser=args.tool_call_parser)
        process = subprocess.Popen([binary_path, "run"])
        RustFrontendProcessManager.pid = process.pid
        self.processes = [_SubprocessWrapper(process)]
    def shutdown(self, timeout):
        [one] = self.processes
        one.process.kill()
        one.process.wait()
"""

_RUST = """#!/bin/sh
case "$*" in
--version) echo vllm-rs {version} ;;
run) if [ "$STUB_RUST" = fails ]; then exit 4; fi; exec sleep 1000 ;;
*middleware*)
    printf 'error: invalid value\\nThe following arguments are not implemented in Rust frontend yet:\\n' >&2
    printf -- '- middleware\\n\\nRemove these arguments to continue.\\n' >&2
    exit 2 ;;
*pythonic*) echo 'tool parser pythonic is not registered' >&2; exit 1 ;;
*) echo "no tokenizer in ${{*##*model_tag}}" >&2; exit 1 ;;
esac
"""


def make_stub_vllm(folder: Path, *, rust_version: str = VERSION, lacks: str = "") -> Path:
    """Write it; returns the folder to import it from. `lacks` is a name that it does not have."""
    root = folder / "stub"
    for module in {module for used in USED for module in used.modules} | {"vllm.entrypoints.cli.main"}:
        file = root.joinpath(*module.split(".")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("from vllm_inside import *\n")
    for package in {file.parent for file in root.rglob("*.py")} | {root / "vllm/entrypoints"}:
        if package != root:
            (package / "__init__.py").touch()
    (root / "vllm/entrypoints/cli/main.py").write_text(_MAIN)
    public = "__all__ = [name for name in globals() if not name.startswith('__')]\n"
    (root / "vllm_inside.py").write_text(f"{_INSIDE}\n{f'del {lacks}' * bool(lacks)}\n{public}")
    binary = root / "vllm/vllm-rs"
    binary.write_text(_RUST.format(version=rust_version))
    binary.chmod(0o755)
    metadata = root / f"vllm-{VERSION}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}\n")
    return root
