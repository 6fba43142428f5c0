"""Fetch MODEL_ID into a folder of the image, while it is built.

Run by the engine's Python, with the same download as `vllm-engine serve`. The folder is made in any case, to
be copied. The token comes from a build secret and stays there: it is in no layer, no argument and no history.
"""

import os
import shutil
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from vllm_engine.models.engine_scripts import hub_client
from vllm_engine.models.engine_scripts.hub_files import wanted_files

TOKEN = Path("/run/secrets/hf_token")
LINE_SECONDS = 10.0


class Report:
    """Prints the bytes that are there, now and then, and each file that was checked."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.said = -LINE_SECONDS

    def __call__(self, event: str, **fields: object) -> None:
        """Hear of one event."""
        if event != "progress":
            print(event, fields["path"], flush=True)
        elif time.monotonic() - self.said >= LINE_SECONDS:
            self.said = time.monotonic()
            print(f"{fields['bytes']} of {self.total} bytes", flush=True)


def bake(model: str, revision: str | None, folder: Path) -> None:
    """Fetch what vLLM loads of a model, and check it."""
    found = hub_client.look(model, revision, "")
    if found["listing"] is None:
        sys.exit(f"{model}: the hub did not list the model's files; try again later")
    wanted = wanted_files(found["listing"])
    if not wanted.weights:
        sys.exit(f"{model}: the hub lists no weights that vLLM could load")
    report = Report(sum(file.size for file in wanted.files))
    hub_client.fetch(model, found["revision"], wanted.files, folder=str(folder), tell=report)
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the hub client's notes on the download
    (folder / ".model-id").write_text(model + "\n")


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
    if TOKEN.exists():
        os.environ["HF_TOKEN"] = TOKEN.read_text().strip()
    try:
        bake(model, os.environ.get("MODEL_REVISION") or None, folder)
    except Exception as error:  # noqa: BLE001 - told in one line, whatever it is
        sys.exit(f"{model}: {hub_client.kind_of(error)}: {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
