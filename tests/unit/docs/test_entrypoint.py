"""Which model an image with one baked in serves."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from vllm_engine.config.other_engines import SAME

TEXT = (Path(__file__).parents[3] / "docker/entrypoint").read_text()
(BARE,) = re.findall(r"^bare\(\) .*$", TEXT, re.MULTILINE)
(FUNCTION,) = re.findall(r"^use_baked_model\(\) \{$.*?^\}$", TEXT, re.MULTILINE | re.DOTALL)


def served(folder: Path, **environ: str) -> list[str]:
    """Return MODEL_ID and SERVED_MODEL_NAME as the program gets them."""
    (folder / ".model-id").write_text("org/baked\n")
    script = f'set -eu\n{BARE}\n{FUNCTION}\nuse_baked_model; echo "${{MODEL_ID:-}},${{SERVED_MODEL_NAME:-}}"'
    told = subprocess.run(
        ["/bin/sh", "-c", script],
        env={"PATH": "/usr/bin:/bin", "baked_model": str(folder), **environ},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return told.stdout.strip().split(",")


@pytest.mark.parametrize(
    "name", ["MODEL_ID", *(theirs for theirs, ours in SAME.items() if ours == "MODEL_ID")]
)
def test_another_model_is_asked_for(tmp_path: Path, name: str) -> None:
    """By any name that the program reads: the one in the image stays where it is."""
    assert served(tmp_path, **{name: "org/other"})[0] in ("", "org/other")


@pytest.mark.parametrize(
    "environ", [{}, {"MODEL_ID": "org/baked"}, {"MODEL_ID": "org/baked\r"}, {"MODEL": "gpt-4"}]
)
def test_the_baked_model(tmp_path: Path, environ: dict[str, str]) -> None:
    """Where nothing or that very model is asked for, it comes from the image, and keeps its name."""
    assert served(tmp_path, **environ) == [str(tmp_path), "org/baked"]
