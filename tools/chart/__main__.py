"""Write what stands in the chart and the docs of the chart's values; with --check, only say what is stale.

.venv/bin/python -m tools.chart [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from tools.chart.write import values_schema, values_table, values_yaml
from tools.generate_docs import rewritten

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/vllm-engine"
PAGE = ROOT / "docs/deploy/kubernetes.md"
RULES = ROOT / "deploy/observability/rules.yml"


def contents() -> dict[Path, str]:
    """Return the files and what should stand in them."""
    return {
        CHART / "values.yaml": values_yaml(),
        CHART / "values.schema.json": values_schema(),
        # A chart sees no file outside of its folder.
        CHART / "files/rules.yml": RULES.read_text(encoding="utf-8"),
        PAGE: rewritten(PAGE.read_text(encoding="utf-8"), "values", values_table()),
    }


def write(contents: Mapping[Path, str], target: str, *, is_check: bool) -> int:
    """Write or check every file; returns the exit status."""
    stale = []
    for path, text in contents.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path)
            if not is_check:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {f'stale: run {target}' if is_check else 'written'}")
    return 1 if stale and is_check else 0


if __name__ == "__main__":
    sys.exit(write(contents(), "make docs", is_check="--check" in sys.argv[1:]))
