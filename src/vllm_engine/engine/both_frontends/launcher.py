"""`python -P launcher.py both RUST_SOCKET serve MODEL ... --uds PYTHON_SOCKET`: see `both.py`.

Processes that vLLM spawns run this file again under another name, and must not start anything.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    # Last on the path, so that no package beside ours shadows one of the engine's.
    sys.path.append(str(Path(__file__).parents[3]))
    sys.exit(importlib.import_module("vllm_engine.engine.both_frontends.both").main(sys.argv[1:]))
