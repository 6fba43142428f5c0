"""README's and the recipes' commands, run with stand-ins for the programs: what would have been asked of those."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.support.doc_blocks import ROOT, blocks
from vllm_engine.config.settings import Settings

PROGRAMS = ("curl", "docker", "git", "kubectl", "litellm", "make", "nvidia-smi", "pip")
SCRIPTS = ("build_image.sh", "run_image.sh", "smoke_test.sh")
# Writes its name, arguments and standard input, as one line of JSON.
STAND_IN = r"""#!/usr/bin/env python3
import json, os, select, sys
text = sys.stdin.read() if select.select([sys.stdin], [], [], 0)[0] or "-" in sys.argv else ""
text += "".join(open(a.partition("=")[2].partition("=")[2]).read() for a in sys.argv if "=/dev/fd/" in a)
call = [os.path.basename(sys.argv[0]), sys.argv[1:], text]
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps(call) + "\n")
"""
SETTINGS = {name.upper() for name in Settings.model_fields}
PAGES = ("README.md", "docs/recipes.md", "docs/use/quickstart.md", "docs/deploy/image.md")


@dataclass(frozen=True)
class Call:
    """What a program was asked."""

    program: str
    arguments: list[str]
    text: str

    def after(self, option: str) -> list[str]:
        """Return the values of an option that may be repeated."""
        return [
            value for name, value in zip(self.arguments, self.arguments[1:], strict=False) if name == option
        ]


@pytest.fixture
def shell(tmp_path: Path) -> Path:
    """A folder with the repository's scripts, the manifest, and stand-ins for all programs."""
    shims = tmp_path / "shims"
    for folder in (tmp_path, tmp_path / "vllm-engine"):
        (folder / "scripts").mkdir(parents=True)
        for name in SCRIPTS:
            (folder / "scripts" / name).write_text(STAND_IN)
            (folder / "scripts" / name).chmod(0o755)
        (folder / "deploy").symlink_to(ROOT / "deploy")
    shims.mkdir()
    for name in PROGRAMS:
        (shims / name).write_text(STAND_IN)
        (shims / name).chmod(0o755)
    return tmp_path


def run(shell: Path, text: str, **variables: str) -> list[Call]:
    """Run one block in a shell where an unset variable is a mistake."""
    calls = shell / "calls"
    calls.write_text("")
    environ = {
        "PATH": f"{shell / 'shims'}:/usr/bin:/bin",
        "CALLS": str(calls),
        "HOME": str(shell),
    } | variables
    done = subprocess.run(
        ["bash", "-euc", text + "\nwait"],
        cwd=shell,
        env=environ,
        input="token\n",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{text}\n{done.stderr}"
    return [Call(*json.loads(line)) for line in calls.read_text().splitlines()]


GIVEN = {
    "API_KEY": "secret",
    "API_KEYS": "me:secret",
    "IMAGE_REPO": "registry.example.com/team/vllm-engine",
    "RUNPOD_API_KEY": "rp",
}
"""What the page has set before."""


def test_commands(shell: Path) -> None:
    """Bodies are JSON, streams are shown as they come, variables that a container is given are settings."""
    counted = dict.fromkeys(("curl", "docker"), 0)
    for page in PAGES:
        for block in blocks(ROOT / page):
            if block.language != "bash" or ".venv/bin" in block.text or "cosign" in block.text:
                continue
            if "read -" in block.text:
                assert block.text.count("\n") == 1, f"{block}: it would read the next line that is pasted"
            for call in run(shell, block.text, **GIVEN):
                counted[call.program] = counted.get(call.program, 0) + 1
                for body in call.after("-d") if call.program == "curl" else ():
                    asked = json.loads(body)
                    if "messages" in asked:
                        assert asked.get("stream") is None or "-N" in call.arguments, block
                        assert "max_tokens" in asked or "tools" in asked, block
                if (
                    call.program == "docker"
                    and call.arguments[0] == "run"
                    and "open-webui" not in call.arguments
                ):
                    names = {value.partition("=")[0] for value in call.after("-e")}
                    assert not any("secret" in value for value in call.arguments), f"{block}: a key in argv"
                    assert names <= SETTINGS, f"{block}: {names - SETTINGS}"
                    assert "/cache" in call.after("-v")[0], block
                    if "export API_KEYS=" not in block.text:
                        assert all(port.startswith("127.0.0.1:") for port in call.after("-p")), block
    assert counted["curl"] > 8 and counted["docker"] > 6


def test_the_manifest_gets_the_image_that_was_pushed(shell: Path) -> None:
    [block] = [one for one in blocks(ROOT / "docs/recipes.md") if "kubectl apply" in one.text]
    calls = [call for call in run(shell, block.text, **GIVEN) if call.program == "kubectl"]
    applied = next(list(yaml.safe_load_all(call.text)) for call in calls if call.arguments[0] == "apply")
    [deployment] = [one for one in applied if one["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"{GIVEN['IMAGE_REPO']}:cuda"
    secret = next(call for call in calls if call.arguments[:2] == ["create", "secret"])
    assert "vllm-engine" in secret.arguments
    assert not any("secret" in argument for argument in secret.arguments[2:]), "a key in argv"
    assert secret.text.endswith("me:secret\n")


def test_the_pod_is_that_of_the_template(shell: Path) -> None:
    [block] = [one for one in blocks(ROOT / "docs/recipes.md") if "api.runpod.io" in one.text]
    [call] = run(shell, block.text, **GIVEN)
    asked = json.loads(call.after("-d")[0])
    template = json.loads((ROOT / "deploy/runpod/template.json").read_text())
    assert [asked[name] for name in ("disk", "ports", "mounts")] == [
        template[name] for name in ("disk", "ports", "mounts")
    ]
    assert asked["image"] == f"{GIVEN['IMAGE_REPO']}:cuda"
    assert asked["env"] == {"MODEL_ID": template["env"]["MODEL_ID"], "API_KEYS": "me:secret"}
