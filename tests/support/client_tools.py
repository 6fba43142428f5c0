"""Clients that live outside the development environment: installed once, kept in the cache, used offline."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "tests/data/clients"
NPM_OPENAI = "openai@7.57.0"
_SECONDS = 600
_FILES = {"node": "client.mjs", "bash": "client.sh"}
# Read before any fixture hides the machine's environment, which says how to reach the network.
_ENVIRON = dict(os.environ) | {"UV_COMPILE_BYTECODE": "0"}


def python_with(client: str, cache: Path) -> Path:
    """Return a Python that has the packages of one client's lock."""
    return python_of_lock(LOCKS / f"{client}.txt", cache)


def python_of_lock(lock: Path, cache: Path) -> Path:
    """Return a Python that has the packages of one lock; they are installed once and then need no network."""
    client = lock.stem
    folder = cache / "clients" / client
    stamp = folder / "installed"
    wanted = hashlib.sha256(lock.read_bytes() + sys.version.encode() + bytes(folder)).hexdigest()
    if not (stamp.exists() and stamp.read_text() == wanted):
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=False)
        # What is imported is compiled then; most of it never is.
        options = ("--quiet", "--no-deps", "--python", str(folder / "bin/python"))
        _install(client, [str(ROOT / "scripts/uv.sh"), "pip", "install", *options, "-r", str(lock)], folder)
        stamp.write_text(wanted)
    return folder / "bin" / "python"


def node_modules(cache: Path) -> Path:
    """Return a folder with the OpenAI SDK for JavaScript."""
    folder = cache / "clients" / "js"
    stamp = folder / "installed"
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("NOT TESTED: no Node.js on PATH; install Node.js 20 or later (node and npm)")
    if not (stamp.exists() and stamp.read_text() == NPM_OPENAI):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        npm = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder)]
        _install("js", [*npm, NPM_OPENAI], folder)
        stamp.write_text(NPM_OPENAI)
    return folder / "node_modules"


def _install(client: str, command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=_ENVIRON, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        failed, said = done.returncode != 0, "\n".join((done.stdout + done.stderr).splitlines()[-5:])
    except subprocess.TimeoutExpired:
        failed, said = True, f"no end after {_SECONDS} s"
    if failed:
        pytest.fail(
            f"the client {client!r} could not be installed into {folder}: this needs the network once "
            f"(afterwards it is used from there).\n{' '.join(command)}\n{said}",
            pytrace=False,
        )


def run_script(command: list[str], script: str, folder: Path, **variables: str) -> str:
    """Run a client's script from a file and return what it prints; a failure shows all it said."""
    file = folder / _FILES.get(command[0], "client.py")
    file.write_text(script)
    environ = {"PATH": _ENVIRON["PATH"], "HOME": str(folder), "NO_PROXY": "*"} | variables
    done = subprocess.run(
        [*command, str(file)],
        env=environ,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def bin_path(python: Path) -> str:
    """Return a PATH on which the commands of a client's environment come first."""
    return f"{python.parent}:{_ENVIRON['PATH']}"
