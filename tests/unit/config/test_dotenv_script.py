"""scripts/dotenv.sh: shells get from .env what the program gets, by the program's own reader."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.program import run_cli
from vllm_engine.config.env_file import assignments

ROOT = Path(__file__).parents[3]
NASTY = {
    **{"EMPTY": "", "SPACES": "  two  words ", "QUOTES": """a'b"c`d""", "BRACES": "}{ '}' \\} ${HOME}"},
    **{"DOLLAR": "$HOME $(id) \\$x", "LINES": "one\ntwo\n\nthree", "GLOB": "/* [a-z]", "HASH": "a # b"},
    **{"EQUALS": "a=b=c", "EXCLAIM": "wow! !!"},
}
SHOW = f'''exec {sys.executable} -c "import json, os; print(json.dumps(dict(os.environ)))"'''
SCRIPT = f"""
set -eu
root=$1 docker=$2
. "$root/scripts/dotenv.sh"
load_dotenv no-such:image vllm-engine:cpu || {{ echo 'not read' >&2; exit 9; }}
{SHOW}
"""
DOCKER = f"""#!/bin/sh
if [ "$1" = image ]; then [ "$3" = vllm-engine:cpu ]; exit; fi
environ=CACHE_DIR=/cache
while [ "$1" != dotenv ]; do
    if [ "$1" = --env ]; then environ="$environ $2=$(printenv "$2")"; fi
    shift
done
exec env -i $environ {sys.executable} -m vllm_engine.cli "$@"
"""


@pytest.fixture(params=["checkout", "image", "neither"])
def reader(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """The root of a checkout and a Docker client: either of them may have the program."""
    root, docker = tmp_path / "check out", tmp_path / "docker"
    python = root / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    (root / "scripts").symlink_to(ROOT / "scripts")
    programs = {"checkout": (python, f'#!/bin/sh\nexec {sys.executable} "$@"\n'), "image": (docker, DOCKER)}
    if request.param in programs:
        path, text = programs[request.param]
        path.write_text(text)
        path.chmod(0o755)
    return str(root), str(docker)


def loaded(reader: tuple[str, str], folder: Path, **environ: str) -> tuple[int, dict[str, str], str]:
    """Source the script there; returns status, environment and what was said."""
    command, environ = ["sh", "-c", SCRIPT, "sh", *reader], {"PATH": os.environ["PATH"]} | environ
    done = subprocess.run(command, env=environ, cwd=folder, capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else {}, done.stderr


def test_assignments_are_exact() -> None:
    """Whatever a value holds, a shell gets just that; what it has set already stays."""
    script = assignments(NASTY | {"SET": "theirs", "UNSET": "x", "no-name": "x"}) + "\n" + SHOW
    environ = {"PATH": os.environ["PATH"], "SET": "mine", "UNSET": ""}
    for shell in filter(shutil.which, ("sh", "bash", "busybox")):
        command = [shell, *(["sh"] if shell == "busybox" else []), "-c", script]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        assert NASTY.items() <= found.items()
        assert (found["SET"], found["UNSET"]) == ("mine", "x")


@pytest.mark.parametrize("reader", ["checkout", "image"], indirect=True)
def test_what_the_program_reads(reader: tuple[str, str], tmp_path: Path) -> None:
    """A byte order mark, comments, quotes, CRLF, several lines and other variables are what they are to us."""
    (tmp_path / ".env").write_bytes(
        b'\xef\xbb\xbfAPI_KEYS="team:sk-abcdefgh" # prod\r\nexport SERVED_MODEL_NAME = gr\xc3\xb6\xc3\x9fer # name\r\n'
        b'PUBLIC_KEY="one\r\ntwo"\r\nHF_TOKEN=${HOST_TOKEN}-${API_KEYS}\r\nPORT=1\r\nMODEL_NAME=gpt2\r\n'
        b"EMPTY=\r\n"
    )
    status, found, said = loaded(reader, tmp_path, PORT="2", HOST_TOKEN="hf", PYTHONIOENCODING="ascii")
    assert status == 0, said
    expected = {
        **{"API_KEYS": "team:sk-abcdefgh", "SERVED_MODEL_NAME": "größer", "PUBLIC_KEY": "one\ntwo"},
        **{"HF_TOKEN": "hf-team:sk-abcdefgh", "PORT": "2", "MODEL_ID": "gpt2"},
    }
    assert {key: found.get(key) for key in expected} == expected
    assert not {"CACHE_DIR", "EMPTY"} & found.keys()
    assert "MODEL_NAME is read as MODEL_ID" in said


@pytest.mark.parametrize("reader", ["checkout", "image"], indirect=True)
def test_an_env_file_that_cannot_be_read(reader: tuple[str, str], tmp_path: Path) -> None:
    """A wrong file ends the script, with the program's words."""
    (tmp_path / ".env").write_text('API_KEYS="sk-abcdefgh\n')
    status, _, said = loaded(reader, tmp_path)
    assert (status, "closing quote" in said) == (2, True)


@pytest.mark.parametrize("reader", ["neither"], indirect=True)
def test_nothing_to_read_it_with(reader: tuple[str, str], tmp_path: Path) -> None:
    """An .env that nobody can read does not count as an empty one; half an environment is none."""
    python = Path(reader[0]) / ".venv/bin/python"
    for text in ("", f'#!/bin/sh\nexec {sys.executable} -S "$@"\n'):
        python.write_text(text)
        python.chmod(0o755 if text else 0o644)
        (tmp_path / ".env").unlink(missing_ok=True)
        assert loaded(reader, tmp_path)[0] == 0
        (tmp_path / ".env").write_text("PORT=1\n")
        status, _, said = loaded(reader, tmp_path)
        assert (status, said) == (9, "not read\n")


def test_local_defaults_stand_back(tmp_path: Path) -> None:
    """`serve --local`, as `make run` has it, gives way to .env, a byte order mark and others' names included."""
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfHOST=192.0.2.1\nMODEL_NAME=/no/such\nENGINE_PYTHON=/none\n")
    done = run_cli({"CACHE_DIR": ""}, "serve", "--local", "--dry-run", cwd=tmp_path)
    assert done.returncode == 2
    assert "ENGINE_PYTHON" in done.stderr
    assert (tmp_path / ".cache").is_dir()


@pytest.mark.parametrize("reader", ["checkout"], indirect=True)
def test_without_a_file(reader: tuple[str, str], tmp_path: Path) -> None:
    """What the environment calls otherwise is exported by our name as well."""
    assert loaded(reader, tmp_path, MODEL_NAME="gpt2")[1]["MODEL_ID"] == "gpt2"
