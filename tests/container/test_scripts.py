"""run_image.sh and smoke_test.sh, from end to end with the image `fake`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.container.box import Box, Docker
from tests.container.conftest import ROOT, StartBox

KEY = "a-key-of-some-length"


def script(name: str, environ: dict[str, str], folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [str(ROOT / "scripts" / name), *words]
    return subprocess.run(argv, env=environ, cwd=folder, capture_output=True, text=True, timeout=240)


def test_run_and_smoke(environ: dict[str, str], docker: Docker, tmp_path: Path) -> None:
    """Started, asked, with a key from a file of keys and settings from .env and the environment, and stopped."""
    (tmp_path / "model").mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64}
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    (tmp_path / "keys").write_text(f"first:{KEY}\n")
    (tmp_path / "keys").chmod(0o644)
    (tmp_path / ".env").write_text(
        "# settings\nexport DTYPE='float16'  \nMAX_IN_FLIGHT=7 # seven\nMAX_NUM_SEQS=9\nPORT=1\nLD_PRELOAD_NOT=1\n"
    )
    tmp_path.chmod(0o755)
    given = environ | {
        "API_KEYS_FILE": "keys", "HOST": "127.0.0.1", "MODEL_ID": "./model", "HF_TOKEN": "hf_x",
        "DRAIN_TIMEOUT_SECONDS": "7.5",
    }  # fmt: skip
    done = script("run_image.sh", given, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    box = Box(docker, environ["NAME"])
    found = docker.inspect(box.name)["Config"]
    wanted = {
        "DTYPE=float16",
        "MAX_IN_FLIGHT=7",
        "MAX_NUM_SEQS=9",
        f"PORT={environ['PORT']}",
        "MODEL_ID=/model",
    }
    assert wanted <= {*found["Env"]}
    assert not {"LD_PRELOAD_NOT", "NAME"} & {word.partition("=")[0] for word in found["Env"]}
    assert found["StopTimeout"] == 28

    asking = environ | {"API_KEY": KEY, "TIMEOUT_SECONDS": "150"}
    smoke = script("smoke_test.sh", asking, tmp_path)
    assert smoke.returncode == 0, smoke.stdout + smoke.stderr
    assert "all is well" in smoke.stdout
    assert KEY not in smoke.stdout + smoke.stderr
    refused = script("smoke_test.sh", environ, tmp_path)
    assert (refused.returncode, "key" in refused.stderr) == (1, True)
    again = script("run_image.sh", given, tmp_path)
    assert (again.returncode, "runs already" in again.stderr) == (2, True)
    assert box.stop() == 0


def test_what_is_told_of_failures(
    environ: dict[str, str], start: StartBox, docker: Docker, tmp_path: Path
) -> None:
    """No image: the command that makes it. A container that ended, or stays up to say why: its own words."""
    done = script("run_image.sh", environ | {"IMAGE_TAG": "none-such"}, tmp_path)
    assert (done.returncode, "TARGET=cpu scripts/build_image.sh" in done.stderr) == (2, True)
    done = script("run_image.sh", environ | {"DTYPE": "float13"}, tmp_path)
    assert done.returncode == 0, done.stderr
    smoke = script("smoke_test.sh", environ | {"TIMEOUT_SECONDS": "150"}, tmp_path)
    assert smoke.returncode == 1
    assert "float13" in smoke.stderr and "status 2" in smoke.stderr
    box = start(ON_FATAL="hold", MODEL_ID="/no/such/model")
    smoke = script(
        "smoke_test.sh", docker.environ | {"BASE_URL": box.url, "TIMEOUT_SECONDS": "150"}, tmp_path
    )
    assert smoke.returncode == 1
    assert "FAILED" in smoke.stderr and "remedy" in smoke.stderr


def test_without_docker(tmp_path: Path) -> None:
    """--help names every variable, and does nothing; CUDA for arm64 is refused before anything is built."""
    environ = {"PATH": "/usr/bin:/bin"}
    for name in ("build_image.sh", "run_image.sh", "smoke_test.sh"):
        done = script(name, environ, tmp_path, "--help")
        assert (done.returncode, f"scripts/{name}" in done.stdout) == (0, True), done.stderr
        assert len(re.findall(r"^  [A-Z]", done.stdout, re.MULTILINE)) >= 3
    done = script("build_image.sh", environ | {"TARGET_PLATFORM": "linux/arm64"}, tmp_path)
    assert (done.returncode, "TARGET=cpu" in done.stderr) == (2, True)


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="NOT TESTED: systemd units: no systemd-analyze"
)
def test_systemd_unit() -> None:
    """systemd accepts the unit for a GPU machine."""
    unit = ROOT / "deploy/vm/vllm-engine.service"
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert "vllm-engine.service" not in done.stderr, done.stderr


def test_cloud_init_has_the_unit_and_makes_a_key() -> None:
    """The unit in it is the file beside it, and its key is neither known nor too short for the program."""
    written = yaml.safe_load((ROOT / "deploy/vm/cloud-init.yaml").read_text())
    contents = {Path(file["path"]).name: file["content"] for file in written["write_files"]}
    assert contents["vllm-engine.service"] == (ROOT / "deploy/vm/vllm-engine.service").read_text()
    (make_key,) = (line for line in written["runcmd"] if "API_KEYS" in line)
    made = {subprocess.check_output(["sh", "-c", make_key.partition(" >> ")[0]], text=True) for _ in range(2)}
    assert len(made) == 2 and all(re.fullmatch(r"API_KEYS=first:[0-9a-f]{48}\n", line) for line in made)
