"""Render deploy/kubernetes from the chart, for `kubectl apply` without Helm; with --check, only say what is stale.

.venv/bin/python -m tools.chart.manifests [--check]
"""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

from tools.chart.__main__ import CHART, ROOT, write
from tools.helm import RELEASES

MANIFESTS = {
    "vllm-engine": "one-gpu",
    "vllm-engine-replicas": "router",
    "vllm-engine-multi-node": "multi-node",
}
"""Each file of deploy/kubernetes, and the example of the chart that it is rendered from; both begin with the same comment."""
HELMS_OWN = re.compile(
    r"^ *annotations:\n *helm\.sh/resource-policy: keep\n"
    r"|^ *(helm\.sh/chart|app\.kubernetes\.io/managed-by|namespace): .*\n|^# Source: .*\n",
    re.MULTILINE,
)
"""Lines that are true of a release alone, and the namespace, which `kubectl` chooses here."""


def manifest(name: str, example: str) -> str:
    """Render one file.

    Raises:
        OSError: Helm is not there.
        subprocess.CalledProcessError: Helm refuses the example.
    """
    values = CHART / f"examples/{example}.yaml"
    options = ("--values", str(values), "--set", "smokeTest.enabled=false")
    command = [str(RELEASES[-1].binary), "template", name, str(CHART), *options]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    about = "".join(
        takewhile(lambda line: line.startswith("#"), values.read_text().splitlines(keepends=True))
    )
    made = f"# Written by `make manifests` from the chart's examples/{example}.yaml.\n"
    return about + "#\n" + made + HELMS_OWN.sub("", text).replace("\n\n---", "\n---")


def contents() -> dict[Path, str]:
    """Return the files and what should stand in them."""
    return {
        ROOT / f"deploy/kubernetes/{name}.yaml": manifest(name, example)
        for name, example in MANIFESTS.items()
    }


if __name__ == "__main__":
    sys.exit(write(contents(), "make manifests", is_check="--check" in sys.argv[1:]))
