"""The servers to compare: plain `vllm serve`, ours in front of one, and nginx; started so that they outlive this program."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Literal

from perf.bench.cpu_usage import tree
from perf.bench.processes import free_port
from perf.gpu.last_words import last_words
from vllm_engine.plan.engine_site import site_folder

MODEL = "bench"
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_PEERS = Path(__file__).parents[1] / "bench/peers"

RUST = "VLLM_USE_RUST_FRONTEND"
Kind = Literal["plain", "ours", "nginx"]


class Failed(Exception):
    """A server has ended, or is not ready in time; says which, and why by its log."""


@dataclass(frozen=True)
class Server:
    """A server that was started; `behind` is the name of the one that it forwards to."""

    name: str
    kind: Kind
    pid: int
    port: int
    log: str
    started: float
    """When, by `time.time()`."""
    behind: str = ""

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def text(self) -> str:
        """What it has printed."""
        return Path(self.log).read_text(encoding="utf-8", errors="replace")

    def is_running(self) -> bool:
        """Whether its first process runs."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        return False

    def get(self, path: str) -> str:
        """Return the body of an answer, whatever its status."""
        return self._ask(path, None, 60.0)[1]

    def generate(self, seconds: float = 60.0) -> tuple[int, str]:
        """Ask for one token; returns the status, 0 without an answer, and the body."""
        body = {"model": MODEL, "prompt": "Hello", "max_tokens": 1}
        return self._ask("/v1/completions", json.dumps(body).encode(), seconds)

    def _ask(self, path: str, body: bytes | None, seconds: float) -> tuple[int, str]:
        request = urllib.request.Request(f"{self.url}{path}", body, {"Content-Type": "application/json"})
        try:
            with _OPENER.open(request, timeout=seconds) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")
        except (OSError, HTTPException) as error:
            return 0, repr(error)

    def until_generates(self, seconds: float) -> float:
        """Wait for its first token; returns the seconds since the start of its process.

        Raises:
            Failed: it ends before, or takes longer.
        """
        while self.generate()[0] != 200:
            if not self.is_running() or time.time() > self.started + seconds:
                ended = "" if self.is_running() else "it ended: "
                why = f"{ended}{last_words(self.text)}"
                raise Failed(f"{self.name} gave no token in {time.time() - self.started:.0f} s: {why}")
            time.sleep(0.1)
        return time.time() - self.started

    def stop(self, seconds: float = 15.0) -> None:
        """End it with SIGTERM, and what is left of its tree with SIGKILL."""
        everything = list(tree(self.pid))
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        end = time.monotonic() + seconds
        while self.is_running() and time.monotonic() < end:
            time.sleep(0.1)
        for pid in everything:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True)
class Rig:
    """How servers are started here."""

    engine_python: Path
    model: str
    flags: Sequence[str]
    """Flags of `vllm serve` for all of them."""
    plain_flags: Sequence[str]
    """Flags for plain `vllm serve`, where ours has settings."""
    folder: Path
    nginx: str | None = None
    kept_cache: Path | None = None
    """A folder of caches that was there before, instead of a new one."""

    @property
    def cache(self) -> Path:
        """One folder for every cache, so that a second start finds what the first has compiled."""
        return self.kept_cache or self.folder / "cache"

    def plain(self, name: str, *flags: str, **environ: str) -> Server:
        """Start `vllm serve` by itself, with the Python frontend unless `environ` says otherwise."""
        port = free_port()
        argv = [str(self.engine_python), "-P", "-m", "vllm.entrypoints.cli.main", "serve", self.model]
        argv += ["--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port)]
        # A build for CPU does not find its own version otherwise.
        metadata = {"PYTHONPATH": str(site_folder(self.cache))}
        if RUST not in environ:
            argv += ["--disable-uvicorn-access-log"]  # the Rust frontend writes none
        argv += [*self.flags, *self.plain_flags, *flags]
        return self._start(name, "plain", argv, port, {**metadata, **environ})

    def ours(self, name: str, environ: Mapping[str, str]) -> Server:
        """Start `vllm-engine serve`."""
        port = free_port()
        argv = [sys.executable, "-m", "vllm_engine.cli", "serve"]
        return self._start(name, "ours", argv, port, self.settings(port) | dict(environ))

    def settings(self, port: int) -> dict[str, str]:
        """Return the settings of each server of ours."""
        return {
            "ENGINE_PYTHON": str(self.engine_python),
            "MODEL_ID": self.model,
            "SERVED_MODEL_NAME": MODEL,
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "CACHE_DIR": str(self.cache),
            "VLLM_EXTRA_ARGS": shlex.join(self.flags),
            "LOG_FORMAT": "json",
            # Plain vLLM has no such limit.
            "MAX_IN_FLIGHT": "4096",
        }

    def other(self, name: str, command: str) -> Server:
        """Start another program that serves the model, as plain vLLM would; `{port}` in its command is where."""
        port = free_port()
        argv = [word.replace("{port}", str(port)) for word in shlex.split(command)]
        return self._start(name, "plain", argv, port, {})

    def in_front(self, server: Server) -> Server:
        """Start nginx in front of a server."""
        name, port = f"nginx-{server.name}", free_port()
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        text = (_PEERS / "nginx.conf").read_text().replace("@PORT@", str(port))
        (folder / "nginx.conf").write_text(text.replace("@UPSTREAM@", f"127.0.0.1:{server.port}"))
        argv = [str(self.nginx), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "error.log"]
        return self._start(name, "nginx", argv, port, {}, behind=server.name)

    def environment(self) -> dict[str, str]:
        """Return what every server gets: this program's environment, and the caches."""
        cache = self.cache.absolute()
        folders = {
            "HF_HOME": "huggingface",
            "XDG_CACHE_HOME": "xdg",
            "VLLM_CACHE_ROOT": "vllm",
            "VLLM_CONFIG_ROOT": "vllm-config",
            "TORCHINDUCTOR_CACHE_DIR": "inductor",
            "TRITON_CACHE_DIR": "triton",
        }
        given = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return {**given, **{name: str(cache / folder) for name, folder in folders.items()}}

    def _start(
        self,
        name: str,
        kind: Kind,
        argv: Sequence[str],
        port: int,
        environ: Mapping[str, str],
        behind: str = "",
    ) -> Server:
        log, began = self.folder / f"{name}.log", time.time()
        log.unlink(missing_ok=True)  # what an earlier server of this name has said
        process = launch(argv, self.environment() | dict(environ), log)
        return Server(name, kind, process.pid, port, str(log), began, behind)


def launch(argv: Sequence[str], environ: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process that outlives this program, in its log's folder."""
    with log.open("ab") as out:
        return subprocess.Popen(
            argv,
            env=dict(environ),
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def keep(servers: Sequence[Server], path: Path) -> None:
    """Write down what runs, for a later call."""
    path.write_text(json.dumps([asdict(server) for server in servers]))


def kept(path: Path) -> list[Server]:
    """Return what an earlier call has left running."""
    servers = [Server(**fields) for fields in json.loads(path.read_text())] if path.exists() else []
    return [server for server in servers if server.is_running()]


def engine_core(server: Server) -> int | None:
    """Return the process id of a server's EngineCore; None without one."""
    return next((pid for pid in tree(server.pid) if title(pid).startswith("VLLM::EngineCore")), None)


def title(pid: int) -> str:
    """Return a process's command line; empty if it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
