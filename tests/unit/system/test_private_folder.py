"""Folders of this program's own: removed at the end, those of killed programs by the next one, and no others."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_engine.engine.startup.engine_folders import EngineFolders, engine_folders
from vllm_engine.system.private_folder import MARK, private_folder, sweep


def left_in(root: Path, name: str = "vllm-engine-abcdefgh", mark: bool = True) -> Path:
    """Return a folder as a program that was killed leaves it."""
    folder = root / name
    (folder / "tmp/deep").mkdir(parents=True)
    if mark:
        (folder / MARK).touch()
    return folder


def test_only_what_is_left_behind_is_removed(tmp_path: Path) -> None:
    """Neither a live server's folder, nor one that is not ours, nor what a link leads to."""
    elsewhere = tmp_path / "elsewhere"
    target = left_in(elsewhere, "vllm-engine-target12")
    dead = left_in(tmp_path)
    (dead / "tmp/link").symlink_to(target)
    others = [
        left_in(tmp_path, "vllm-engine-checkout"[:19]),
        left_in(tmp_path, "vllm-engine-unmarked", mark=False),
    ]
    (tmp_path / "vllm-engine-linklink").symlink_to(target)
    (tmp_path / "vllm-engine-filefile").touch()
    with private_folder(tmp_path) as alive:
        assert not dead.exists()
        (alive / "engine.sock").touch()
        with private_folder(tmp_path) as another:
            assert alive.exists() and another != alive
            assert alive.stat().st_mode & 0o777 == 0o700
        assert not another.exists()
        assert (alive / "engine.sock").exists()
    assert not alive.exists()
    assert all(each.exists() for each in (target, *others, tmp_path / "vllm-engine-filefile"))
    sweep(tmp_path / "missing")


def test_another_users_folder_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = left_in(tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    sweep(tmp_path)
    assert folder.exists()


def test_the_lock_ends_with_its_owner_and_no_child_inherits_it(tmp_path: Path) -> None:
    """However it ends; a child that lives on does not keep the folder."""
    script = (
        "import subprocess, sys\nfrom pathlib import Path\nfrom vllm_engine.system.private_folder import private_folder\n"
        "with private_folder(Path(sys.argv[1])) as folder:\n"
        "    child = subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL)\n"
        "    print(child.pid, folder, flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        child, folder = owner.stdout.readline().split()
        try:
            sweep(tmp_path)
            assert Path(folder).exists(), "its owner lives"
            owner.kill()
            owner.wait()
            sweep(tmp_path)
            assert not Path(folder).exists()
        finally:
            owner.kill()
            os.kill(int(child), 9)


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could tell whether such a folder is left behind, so it carries no mark."""

    def none(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(fcntl, "flock", none)
    with private_folder(tmp_path) as folder:
        sweep(tmp_path)
        assert list(folder.iterdir()) == []


def test_the_engines_folders(tmp_path: Path) -> None:
    """Sockets and temporary files apart where the paths of the latter are too long; nothing is left."""
    long = tmp_path / "long"
    long.mkdir()
    for temporary in (tmp_path, long):
        with engine_folders(tmp_path, temporary) as folders:
            variables = folders.variables({})
            assert variables == {"TMPDIR": str(folders.temporary), "VLLM_RPC_BASE_PATH": str(folders.sockets)}
            assert folders.variables({"VLLM_RPC_BASE_PATH": "/x"})["VLLM_RPC_BASE_PATH"] == "/x"
            assert temporary in folders.temporary.parents and folders.socket.parent.parent == tmp_path
            (folders.temporary / "vllm_dist_1").touch()
            folders.clear()
            assert list(folders.temporary.iterdir()) == []
    assert [*tmp_path.iterdir(), *long.iterdir()] == [long]


def test_a_python_whose_path_ld_preload_cannot_hold(tmp_path: Path) -> None:
    """It is run through a link: vLLM's CPU build preloads a library from the folder in which it is."""
    python = tmp_path / "a checkout/.venv-engine/bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    (python.parents[1] / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")
    folders = EngineFolders(tmp_path, tmp_path / "tmp")
    for _ in range(2):
        short = folders.without_separators(python)
        done = subprocess.run(
            [short, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == str(tmp_path / "engine")
    assert folders.without_separators(short) == short
