"""The model that tests serve, and the question that they ask it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CHAT: dict[str, Any] = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}]}
STREAM: dict[str, Any] = CHAT | {"stream": True}
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 2048,
    "num_attention_heads": 8,
    "num_hidden_layers": 2,
    "hidden_size": 64,
}
LONG_CONFIG = CONFIG | {"max_position_embeddings": 1_000_000}


def make_model(folder: Path, config: dict[str, Any] = CONFIG) -> Path:
    """Make a local model as far as our program looks into one; returns its folder."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder
