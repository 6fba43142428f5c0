"""`python -P launcher.py both RUST_SOCKET serve MODEL ... --uds PYTHON_SOCKET`: see `both.py`.

Processes that vLLM spawns run this file again under another name, and must not start anything.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    # Only while ours is imported: the gateway's packages, which may be beside it, are not for vLLM.
    sys.path.append(root := str(Path(__file__).parents[3]))
    main = importlib.import_module("vllm_engine.engine.both_frontends.both").main
    sys.path.remove(root)
    sys.exit(main(sys.argv[1:]))
