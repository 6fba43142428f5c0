"""Fetch MODEL_ID into a folder of the image, while it is built.

Run by the engine's Python, which has the hub client. The folder is made in any case, to be copied.
The token comes from a build secret and stays there: it is in no layer, no argument and no history.
"""

import os
import shutil
import sys
from pathlib import Path

TOKEN = Path("/run/secrets/hf_token")


def main(folder: Path) -> None:
    """Do it, or nothing without BAKE_MODEL=1."""
    folder.mkdir(parents=True)
    if os.environ.get("BAKE_MODEL") != "1":
        return
    model = os.environ.get("MODEL_ID") or "Qwen/Qwen2.5-3B-Instruct"
    if model.startswith("bundled:"):
        print(f"{model} is in the image anyway")
        return
    if not os.environ.get("HF_ENDPOINT"):
        os.environ.pop("HF_ENDPOINT", None)
    from huggingface_hub import snapshot_download

    snapshot_download(
        model,
        revision=os.environ.get("MODEL_REVISION") or None,
        token=TOKEN.read_text().strip() if TOKEN.exists() else None,
        local_dir=folder,
        # As vLLM does: safetensors where there are any, and no second copy of the weights in another format.
        ignore_patterns=["*.bin", "*.pth", "*.pt", "*.gguf", "*.onnx", "original/*", "*.h5", "*.msgpack"],
    )
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the hub client's notes on the download
    (folder / ".model-id").write_text(model + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
