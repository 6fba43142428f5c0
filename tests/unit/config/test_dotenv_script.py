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
from vllm_engine.config.env_file import assignments, read_env_file

ROOT = Path(__file__).parents[3]
SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]
NASTY = {
    "EMPTY": "",
    "SPACES": "  two  words ",
    "QUOTES": """a'b"c`d""",
    "BRACES": "}{ '}' \\} ${HOME}",
    "DOLLAR": "$HOME $(id) \\$x",
    "LINES": "one\ntwo\n\nthree",
    "GLOB": "/* [a-z]",
    "HASH": "a # b",
    "EQUALS": "a=b=c",
    "EXCLAIM": "wow! !!",
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
shift
while [ "$1" != --entrypoint ]; do
    case $1 in --env) shift; names="${{names:-}} $1" ;; esac
    shift
done
shift 2
for arg; do case $arg in --env | vllm-engine:cpu) shift ;; dotenv) break ;; *) names="${{names:-}} $arg"; shift ;; esac; done
for name in ${{names:-}}; do set -- --given "$name=$(printenv "$name")" "$@"; done
environ=
while [ "$1" = --given ]; do environ="$environ $2"; shift 2; done
exec env -i CACHE_DIR=/cache $environ {sys.executable} -m vllm_engine.cli "$@"
"""


def shell(name: str) -> list[str]:
    """Return how a script is run by it."""
    return ["busybox", "sh"] if name == "busybox" else [name]


@pytest.fixture(params=["checkout", "image"])
def reader(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """The root of a checkout and a Docker client: either of them has the program."""
    root = tmp_path / "check out"
    (root / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts/dotenv.sh", root / "scripts")
    docker = tmp_path / "docker"
    if request.param == "checkout":
        (root / ".venv/bin").mkdir(parents=True)
        python = root / ".venv/bin/python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
    else:
        docker.write_text(DOCKER)
        docker.chmod(0o755)
    return str(root), str(docker)


def loaded(sh: str, reader: tuple[str, str], folder: Path, **environ: str) -> tuple[int, dict[str, str], str]:
    """Source the script there; returns status, environment and what was said."""
    done = subprocess.run(
        [*shell(sh), "-c", SCRIPT, "sh", *reader],
        env={"PATH": os.environ["PATH"]} | environ,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else {}, done.stderr


@pytest.mark.parametrize("sh", SHELLS)
def test_assignments_are_exact(sh: str) -> None:
    """Whatever a value holds, a shell gets just that; what it has set already stays."""
    script = assignments(NASTY | {"SET": "theirs", "UNSET": "x", "no-name": "x"}) + "\n" + SHOW
    environ = {"PATH": os.environ["PATH"], "SET": "mine", "UNSET": ""}
    done = subprocess.run([*shell(sh), "-c", script], env=environ, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert NASTY.items() <= found.items()
    assert (found["SET"], found["UNSET"]) == ("mine", "x")


@pytest.mark.parametrize("sh", SHELLS[:1])
def test_what_the_program_reads(sh: str, reader: tuple[str, str], tmp_path: Path) -> None:
    """A byte order mark, comments, quotes, CRLF, several lines and other variables are what they are to us."""
    (tmp_path / ".env").write_bytes(
        b'\xef\xbb\xbfAPI_KEYS="team:sk-abcdefgh" # prod\r\nexport SERVED_MODEL_NAME = m # name\r\n'
        b'PUBLIC_KEY="one\r\ntwo"\r\nHF_TOKEN=${HOST_TOKEN}-${API_KEYS}\r\nPORT=1\r\nMODEL_NAME=gpt2\r\n'
        b"EMPTY=\r\n"
    )
    status, found, said = loaded(sh, reader, tmp_path, PORT="2", HOST_TOKEN="hf")
    assert status == 0, said
    expected = {
        "API_KEYS": "team:sk-abcdefgh",
        "SERVED_MODEL_NAME": "m",
        "PUBLIC_KEY": "one\ntwo",
        "HF_TOKEN": "hf-team:sk-abcdefgh",
        "PORT": "2",
        "MODEL_ID": "gpt2",
    }
    assert {key: found.get(key) for key in expected} == expected
    assert "CACHE_DIR" not in found and "EMPTY" not in found
    assert read_env_file(tmp_path / ".env")["API_KEYS"] == expected["API_KEYS"]
    assert "MODEL_NAME is read as MODEL_ID" in said


def test_names_of_other_engines_without_a_file(tmp_path: Path) -> None:
    """What the environment calls otherwise is exported by our name as well."""
    root = tmp_path / "root"
    (root / ".venv/bin").mkdir(parents=True)
    (root / "scripts").symlink_to(ROOT / "scripts")
    (root / ".venv/bin/python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (root / ".venv/bin/python").chmod(0o755)
    _, found, said = loaded("sh", (str(root), "docker"), tmp_path, MODEL_NAME="gpt2")
    assert found.get("MODEL_ID") == "gpt2", said
    status, _, said = loaded("sh", (str(root), "docker"), tmp_path, MODLE_ID="gpt2")
    assert (status, "did you mean MODEL_ID?" in said) == (2, True)


def test_a_locale_without_the_characters(reader: tuple[str, str], tmp_path: Path) -> None:
    """Values arrive as they are in the file, though this machine's locale could not print them."""
    (tmp_path / ".env").write_text("SERVED_MODEL_NAME=größer\n", encoding="utf-8")
    _, found, said = loaded("sh", reader, tmp_path, PYTHONIOENCODING="ascii")
    assert found.get("SERVED_MODEL_NAME") == "größer", said


def test_an_env_file_that_cannot_be_read(reader: tuple[str, str], tmp_path: Path) -> None:
    """A wrong file ends the script, with the program's words."""
    (tmp_path / ".env").write_text('MODLE_ID=a\nAPI_KEYS="sk-abcdefgh\n')
    status, _, said = loaded("sh", reader, tmp_path)
    assert status == 2
    assert "closing quote" in said
    (tmp_path / ".env").write_text("MODLE_ID=a\n")
    status, _, said = loaded("sh", reader, tmp_path)
    assert (status, "did you mean MODEL_ID?" in said) == (2, True)


def test_nothing_to_read_it_with(tmp_path: Path) -> None:
    """An .env that nobody can read is no empty one."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/dotenv.sh", tmp_path / "scripts")
    nobody = str(tmp_path), str(tmp_path / "docker")
    assert loaded("sh", nobody, tmp_path)[0] == 0
    (tmp_path / ".env").write_text("PORT=1\n")
    status, _, said = loaded("sh", nobody, tmp_path)
    assert (status, said) == (9, "not read\n")


def test_local_defaults_stand_back(tmp_path: Path) -> None:
    """`serve --local`, as `make run` has it, gives way to .env, a byte order mark and others' names included."""
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfHOST=192.0.2.1\nMODEL_NAME=/no/such\nENGINE_PYTHON=/none\n")
    done = run_cli({"CACHE_DIR": ""}, "serve", "--local", "--dry-run", cwd=tmp_path)
    assert done.returncode == 2
    assert "ENGINE_PYTHON" in done.stderr
    assert (tmp_path / ".cache").is_dir()
