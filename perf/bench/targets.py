"""What is compared: the upstream alone, our gateway, and what else people put in front of vLLM."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from perf.bench.cpu_usage import tree
from perf.bench.engine_python import make_engine_python, make_model
from perf.bench.processes import MODEL, Running, Unavailable, free_port, spawn
from perf.bench.upstream import PACE_VARIABLE

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GATEWAY = "vllm-engine"
DIRECT = "direct"


@dataclass(frozen=True)
class Place:
    """Where one peer runs."""

    port: int
    upstream: str
    """HOST:PORT."""
    folder: Path
    programs: Path
    """Where its programs are."""

    def fill_in(self, name: str) -> Path:
        """Write one of `peers/`'s configurations with the ports of this run."""
        text = (HERE / "peers" / name).read_text()
        target = self.folder / name
        target.write_text(text.replace("@PORT@", str(self.port)).replace("@UPSTREAM@", self.upstream))
        return target


@dataclass(frozen=True)
class Peer:
    """One program to compare with."""

    name: str
    command: Callable[[Place], list[str | Path]]
    wheels: tuple[str, ...] = ()
    """From PyPI, into an environment of its own."""
    debs: tuple[str, ...] = ()
    """From Debian, unpacked into a folder of its own, unless the machine has the program."""
    environ: Mapping[str, str] = field(default_factory=dict)

    def install(self, cache: Path) -> Path:
        """Install it unless that was done before; returns the folder of its programs.

        Raises:
            Unavailable: it cannot be installed.
        """
        folder = cache / self.name
        if self.debs:
            return _unpack_debs(self, folder)
        programs = folder / "bin"
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _run([sys.executable, "-m", "venv", folder])
            _run([programs / "pip", "install", "--quiet", "--disable-pip-version-check", *self.wheels])
            (folder / "complete").touch()
        return programs

    def version(self, programs: Path) -> str:
        """Say which version is measured."""
        if self.debs:
            found = subprocess.run(
                [programs / self.name, "-v"], capture_output=True, text=True, env=_libraries(programs)
            )
            match = re.search(r"\d+\.\d+\.\d+", found.stdout + found.stderr)
            return f"{self.name} {match[0] if match else '?'}"
        names = [re.sub(r"\[.*|=.*", "", wheel) for wheel in self.wheels]
        code = "import sys, importlib.metadata as m; print(*map(m.version, sys.argv[1:]))"
        versions = _run([programs / "python", "-c", code, *names]).split()
        return ", ".join(f"{name} {version}" for name, version in zip(names, versions, strict=True))

    def start(self, upstream: str, programs: Path, folder: Path) -> Running:
        """Start it in front of an upstream.

        Raises:
            Unavailable: it does not start.
        """
        folder.mkdir(parents=True, exist_ok=True)
        place = Place(free_port(), upstream, folder, programs)
        environ = {**self.environ, **(_libraries(programs) if self.debs else {})}
        return spawn(self.name, self.command(place), place.port, folder, environ)


def _in_python(name: str, script: str, *wheels: str) -> Peer:
    def command(at: Place) -> list[str | Path]:
        return [at.programs / "python", HERE / f"peers/{script}.py", str(at.port), f"http://{at.upstream}"]

    return Peer(name, command, wheels=wheels)


PEERS = (
    Peer(
        "nginx",
        lambda at: [
            at.programs / "nginx",
            "-p",
            at.folder,
            "-c",
            at.fill_in("nginx.conf"),
            "-e",
            "error.log",
        ],
        debs=("nginx", "libpcre2-8-0"),
    ),
    Peer(
        "haproxy",
        lambda at: [at.programs / "haproxy", "-db", "-f", at.fill_in("haproxy.cfg")],
        debs=("haproxy", "libopentracing-c-wrapper0", "libopentracing1", "liblua5.3-0", "libpcre2-8-0"),
    ),
    Peer(
        "vllm-router",
        lambda at: [
            at.programs / "vllm-router",
            *("--host", "127.0.0.1", "--port", str(at.port), "--worker-urls", f"http://{at.upstream}"),
            *("--policy", "round_robin", "--prometheus-port", str(free_port()), "--log-level", "error"),
        ],
        wheels=("vllm-router",),
    ),
    _in_python(
        "starlette+aiohttp", "starlette_aiohttp", "starlette", "aiohttp", "uvicorn", "uvloop", "httptools"
    ),
    _in_python(
        "starlette+aiohttp on granian",
        "starlette_granian",
        "starlette",
        "aiohttp",
        "uvicorn",
        "granian[uvloop]",
    ),
    _in_python("fastapi+httpx", "fastapi_httpx", "fastapi", "httpx", "uvicorn", "uvloop", "httptools"),
    Peer(
        "litellm",
        lambda at: [
            at.programs / "litellm",
            *("--config", at.fill_in("litellm.yaml"), "--host", "127.0.0.1", "--port", str(at.port)),
            *("--num_workers", "1"),
        ],
        wheels=("litellm[proxy]",),
        environ={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"},
    ),
)


def start_upstream(pace: float, folder: Path) -> Running:
    """Start the upstream on a TCP port."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    argv = [sys.executable, str(HERE / "upstream.py"), "serve", MODEL, "--port", str(port)]
    return spawn("upstream", argv, port, folder, {PACE_VARIABLE: str(pace)})


def start_gateway(name: str, source: Path, pace: float, folder: Path) -> Running:
    """Start `vllm-engine serve` from a source folder; its engine is the upstream on a Unix socket.

    Raises:
        Unavailable: it does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    environ = {
        "ENGINE_PYTHON": str(make_engine_python(folder / "engine")),
        "MODEL_ID": str(make_model(folder / "model")),
        "SERVED_MODEL_NAME": MODEL,
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "CACHE_DIR": str(folder / "cache"),
        "LOG_FORMAT": "json",
        # The others have no such limit; more would leave too few files for the idle scenario's connections.
        "MAX_IN_FLIGHT": "4096",
        "STANDBY": "0",
        "PYTHONPATH": str(source),
        PACE_VARIABLE: str(pace),
    } | {key: value for key, value in os.environ.items() if key.startswith("GATEWAY_")}
    argv = [sys.executable, "-m", "vllm_engine.cli", "serve"]
    running = spawn(name, argv, port, folder, environ)
    assert running.process is not None
    family = list(tree(running.process.pid))
    running.without = tuple(pid for pid in family if _is_engine(pid))
    return running


def _is_engine(pid: int) -> bool:
    return b"vllm.entrypoints.cli.main" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


def _unpack_debs(peer: Peer, folder: Path) -> Path:
    system = shutil.which(peer.name, path=f"{os.environ['PATH']}:/usr/sbin")
    if system is not None:
        return Path(system).parent
    programs = folder / "usr" / "sbin"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _run(["apt-get", "download", "-q", *peer.debs], cwd=folder)
        for deb in folder.glob("*.deb"):
            _run(["dpkg", "-x", deb, folder])
        (folder / "complete").touch()
    return programs


def _libraries(programs: Path) -> dict[str, str]:
    folders = [str(each) for each in programs.parent.glob("lib/*-linux-gnu")]
    return {"LD_LIBRARY_PATH": ":".join(folders)} if programs.parents[1] != Path("/") else {}


def _run(argv: list[str | Path], cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, cwd=cwd, check=True, timeout=900)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"cannot be installed: {error}") from error
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"cannot be installed: {error.stderr.strip()[-300:]}") from error
    return done.stdout
