"""What is done to a running program, and the handle that does it."""

from __future__ import annotations

import resource
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.program import Program


@dataclass(frozen=True)
class Rig:
    """A running program and where its things are."""

    program: Program
    model: str
    folder: Path
    cache: Path
    has_both: bool = False
    """Whether both of vLLM's frontends are to serve: then every second request is for the Python frontend."""

    def named(self, name: str) -> psutil.Process:
        """Return the engine's process of this name."""
        return next(one for one in self.program.processes() if one.name().startswith(name))

    def core(self) -> psutil.Process:
        """Return the engine core."""
        return self.named("VLLM::EngineCor")

    def leader(self) -> psutil.Process:
        """Return the engine's API process, which heads its session."""
        leader = self.core().parent()
        assert leader is not None, "an engine core without a parent"
        return leader

    def rust(self) -> psutil.Process:
        """Return the Rust frontend beside the Python frontend."""
        return self.named("vllm-rs")

    def engine(self) -> list[psutil.Process]:
        """Return all processes of the engine that serves."""
        leader = self.leader()
        return [leader, *leader.children(recursive=True)]


def kill_leader(rig: Rig) -> None:
    """SIGKILL to the API process."""
    rig.leader().kill()


def kill_core(rig: Rig) -> None:
    """SIGKILL to EngineCore."""
    rig.core().kill()


def kill_worker(rig: Rig) -> None:
    """SIGKILL to a worker."""
    rig.named("VLLM::Worker").kill()


def stop_core(rig: Rig) -> None:
    """SIGSTOP to EngineCore."""
    rig.core().send_signal(signal.SIGSTOP)


def kill_rust(rig: Rig) -> None:
    """SIGKILL to the Rust frontend."""
    rig.rust().kill()


def stop_rust(rig: Rig) -> None:
    """SIGSTOP to the Rust frontend."""
    rig.rust().send_signal(signal.SIGSTOP)


def stop_leader(rig: Rig) -> None:
    """SIGSTOP to the API process."""
    rig.leader().send_signal(signal.SIGSTOP)


def remove_socket(rig: Rig) -> None:
    """Take the engine's socket away, the Python frontend's where both run."""
    (path,) = rig.folder.glob("vllm-engine-*/engine.sock")
    path.unlink()


def remove_rust_socket(rig: Rig) -> None:
    """Take the Rust frontend's socket away."""
    (path,) = rig.folder.glob("vllm-engine-*/rust.sock")
    path.unlink()


def fill_disk(rig: Rig) -> None:
    """Fill the cache's disk."""
    with (rig.cache / "junk").open("wb", buffering=0) as junk:
        try:
            while junk.write(bytes(1 << 16)):
                pass
        except OSError:
            pass


def close_disk(rig: Rig) -> None:
    """Make the cache read-only."""
    subprocess.run(["mount", "-o", "remount,ro", str(rig.cache)], check=True)


def limit_memory(rig: Rig) -> None:
    """Allow the worker no more memory than it has (RLIMIT_AS), for whoever comes next."""
    worker = rig.named("VLLM::Worker")
    size = worker.memory_info().vms
    resource.prlimit(worker.pid, resource.RLIMIT_AS, (size, size))


Harm = Callable[[Rig], None]
