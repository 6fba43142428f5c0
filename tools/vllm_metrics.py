#!/usr/bin/env python3
"""Write down which metrics a running vLLM has: name, type, labels and help, from its /metrics.

.venv/bin/python tools/vllm_metrics.py http://127.0.0.1:8000 > deploy/observability/vllm-metrics.json

Ask it after some requests, a streamed one among them. The dashboard, the rules and docs/operate/metrics.md are held to this
file, and an end-to-end test holds the file to the real vLLM.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

_VERSION = re.compile(r'^gateway_build_info\{.*vllm="([^"]*)"', re.MULTILINE)


def described(text: str) -> dict[str, Any]:
    """Return a text's `vllm:*` metrics by name."""
    found = {}
    for family in sorted(text_string_to_metric_families(text), key=lambda one: one.name):
        if not family.name.startswith("vllm:") or family.name.endswith("_created"):
            continue
        labels = sorted({key for sample in family.samples for key in sample.labels} - {"le"})
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = {
            "type": family.type,
            # An info metric's labels are a whole configuration, which changes from version to version.
            "labels": labels if not name.endswith("_info") else ["…"],
            "help": family.documentation,
        }
    return found


def main(argv: list[str]) -> int:
    """Print what the server at a URL has."""
    with urlopen(f"{argv[0].rstrip('/')}/metrics") as answer:
        text = answer.read().decode()
    version = _VERSION.search(text)
    known = {"vllm": version[1] if version else "", "metrics": described(text)}
    print(json.dumps(known, indent=1, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
