"""Where the engine's processes put sockets and temporary files: in folders of ours, removed at the end."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vllm_engine.config.library_variables import divides_preload
from vllm_engine.engine.engine_state import Frontend
from vllm_engine.system.private_folder import private_folder


@dataclass(frozen=True)
class EngineFolders:
    """The folders of one run of this program."""

    sockets: Path
    """Has a short path, as Unix sockets need."""
    temporary: Path
    """What the engine's processes have as `TMPDIR`."""

    @property
    def socket(self) -> Path:
        """The Unix socket of the only frontend, or with both of the Python frontend."""
        return self.sockets / "engine.sock"

    @property
    def rust_socket(self) -> Path:
        """The Unix socket of the Rust frontend when both run."""
        return self.sockets / "rust.sock"

    def sockets_of(self, frontends: Collection[Frontend]) -> dict[Frontend, Path]:
        """Return the Unix socket of each of an engine's frontends."""
        beside = {Frontend.RUST: self.rust_socket} if len(frontends) > 1 else {}
        return {one: beside.get(one, self.socket) for one in frontends}

    @property
    def frontends_file(self) -> Path:
        """Where the launcher of both says which of them run, and why not both."""
        return self.sockets / "frontends.json"

    @property
    def health_url_file(self) -> Path:
        """Where the URL of `/healthz` is, for the image's health check: options may have set it."""
        return self.sockets / "health-url"

    def variables(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the variables that lead the engine there, in the user's `environ`."""
        rpc = environ.get("VLLM_RPC_BASE_PATH") or str(self.sockets)
        return {"TMPDIR": str(self.temporary), "VLLM_RPC_BASE_PATH": rpc}

    def without_separators(self, python: Path) -> Path:
        """Return the path of the engine's Python, through a link if `LD_PRELOAD` could not hold it."""
        if not divides_preload(str(python)) or divides_preload(str(self.sockets)):
            return python
        link = self.sockets / "engine"
        if not link.is_symlink():
            link.symlink_to(python.parents[1], target_is_directory=True)
        return link / "bin" / python.name

    def clear(self) -> None:
        """Remove what engines that have ended left in `temporary`."""
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def engine_folders(sockets: Path, temporary: Path) -> Iterator[EngineFolders]:
    """Make the folders below these, which may be the same.

    Raises:
        OSError: they cannot be made.
    """
    with private_folder(sockets) as first:
        if temporary == sockets:
            folders = EngineFolders(first, first / "tmp")
            folders.clear()
            yield folders
            return
        with private_folder(temporary) as second:
            folders = EngineFolders(first, second / "tmp")
            folders.clear()
            yield folders
