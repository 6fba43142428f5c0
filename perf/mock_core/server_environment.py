"""What a server's environment needs for a mock engine core behind it."""

from __future__ import annotations

from pathlib import Path

from perf.mock_core.mock_process import PACE_FILE

_ROOT = Path(__file__).parents[2]
_SITE = "from perf.mock_core.core_hook import install\n\ninstall()\n"


def mock_environment(folder: Path, steps_per_second: float = 0.0) -> dict[str, str]:
    """Write what every Python of the server runs first, and the pace; returns variables for the server."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(_SITE)
    set_pace(folder, steps_per_second)
    return {"PYTHONPATH": f"{folder}:{_ROOT}", PACE_FILE: str(_pace_file(folder))}


def set_pace(folder: Path, steps_per_second: float) -> None:
    """Change the pace of all servers with this folder, from the next request that an idle core gets."""
    _pace_file(folder).write_text(f"{steps_per_second}\n")


def _pace_file(folder: Path) -> Path:
    return folder / "pace"
