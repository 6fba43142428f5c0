"""What the image's and the host's scripts decide without the program: they know the same names as it does."""

from __future__ import annotations

import re
import runpy
import subprocess
from pathlib import Path

import pytest

from vllm_engine.config.other_engines import SAME

ROOT = Path(__file__).parents[3]
HEALTHCHECK = ROOT / "docker/healthcheck.py"


def shell_function(name: str, path: str) -> str:
    pattern = rf"^{name}\(\) (?:\{{$.*?^\}}$|[^\n]*$)"
    (found,) = re.findall(pattern, (ROOT / path).read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ["FOLDER", "org/baked"]),
        ({"MODEL_ID": "org/baked\r"}, ["FOLDER", "org/baked"]),
        ({"MODEL": "gpt-4"}, ["FOLDER", "org/baked"]),
        ({"MODEL_ID": "org/other"}, ["org/other", ""]),
        *[({theirs: "org/other"}, ["", ""]) for theirs, ours in SAME.items() if ours == "MODEL_ID"],
    ],
)
def test_which_model_an_image_with_one_baked_in_serves(
    tmp_path: Path, environ: dict[str, str], expected: list[str]
) -> None:
    """The baked one under its own name, unless another is asked for by any name that the program reads."""
    (tmp_path / ".model-id").write_text("org/baked\n")
    functions = [shell_function(name, "docker/entrypoint") for name in ("bare", "use_baked_model")]
    script = "\n".join(
        ["set -eu", *functions, 'use_baked_model; echo "${MODEL_ID:-},${SERVED_MODEL_NAME:-}"']
    )
    environ = {"PATH": "/usr/bin:/bin", "baked_model": str(tmp_path), **environ}
    said = subprocess.run(["/bin/sh", "-c", script], env=environ, capture_output=True, text=True, check=True)
    assert said.stdout.strip().replace(str(tmp_path), "FOLDER").split(",") == expected


@pytest.mark.parametrize(("words", "is_named"), [
    ("a/b --port 1", True), ("--model a/b", True), ("--port 1 --model=a/b", True), ("--config f.yaml", True),
    ("--port 1 --model-impl auto", False), ("", False),
])  # fmt: skip
def test_a_baked_model_yields_to_one_that_is_named(words: str, is_named: bool) -> None:
    script = f'{shell_function("name_model", "docker/entrypoint")}\nname_model "$@"'
    assert (subprocess.run(["/bin/sh", "-c", script, "sh", *words.split()]).returncode == 0) is is_named


def test_which_variables_a_container_is_given() -> None:
    """Those that the program reads, but neither this machine's address and cache nor anything else of it."""
    others = ["PATH", "HOME", "API_KEY", "SSH_AUTH_SOCK", "DB_PASSWORD"]
    script = f"root=$1 mounted=' ' flags=''\n{shell_function('is_ours', 'scripts/run_image.sh')}\nshift\n"
    script += 'for name; do if is_ours "$name"; then echo "$name"; fi; done'
    command = ["/bin/sh", "-c", script, "sh", str(ROOT), *SAME, *SAME.values(), *others]
    given = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    ours = {name for name in SAME.values() if name not in ("HOST", "CACHE_DIR")}
    assert given == ours | {theirs for theirs, name in SAME.items() if name in ours}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "http://127.0.0.1:8000/healthz"),
        ({"HOST": "0.0.0.0", "PORT": "9000\r"}, "http://127.0.0.1:9000/healthz"),
        ({"PORT": "9000", "HEALTH_PORT": "9001\n"}, "http://127.0.0.1:9001/healthz"),
        ({"HEALTH_PORT": "tcp://10.43.1.39:80"}, "http://127.0.0.1:8000/healthz"),
        ({"NIM_SERVER_PORT": "9000", "LLAMA_ARG_HOST": "::1"}, "http://[::1]:9000/healthz"),
        ({"PORT": "tcp://10.43.1.39:80", "LLAMA_ARG_PORT": "9000"}, "http://127.0.0.1:9000/healthz"),
        ({"LLAMA_ARG_SSL_CERT_FILE": "/x"}, "https://127.0.0.1:8000/healthz"),
        ({"HOST": "::", "TLS_CERT_FILE": "/x"}, "https://[::1]:8000/healthz"),
    ],
)
def test_where_the_health_check_asks(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the program listens: the link to a Service is not a port, and a line end not a part of one."""
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    assert runpy.run_path(str(HEALTHCHECK))["url"]() == expected


def test_the_health_check_knows_the_same_names() -> None:
    others = runpy.run_path(str(HEALTHCHECK))["OTHERS"]
    for ours in ("HOST", "PORT", "HEALTH_PORT", "TLS_CERT_FILE"):
        assert set(others.get(ours, ())) == {name for name, same in SAME.items() if same == ours}


def test_smoke_test_shows_text_and_not_json() -> None:
    script = f"{shell_function('unescape', 'scripts/smoke_test.sh')}\nunescape"
    said = r"A \"b\"\n\tC:\\new \/ \u001b[1m é"
    shown = subprocess.run(["/bin/sh", "-c", script], input=said, capture_output=True, text=True, check=True)
    assert shown.stdout.rstrip() == 'A "b"  C:\\new /  [1m é'
