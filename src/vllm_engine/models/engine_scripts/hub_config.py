"""Runs in the engine's Python: ask the hub for a model's config.json and its files, and say it in JSON.

Called as `ENGINE_PYTHON -I hub_config.py MODEL_ID REVISION` with the engine's own environment, so that
the cache, the token, the endpoint and offline mode are those which vLLM itself will use. Prints one
object: `{"config": {...}, "commit": "...", "listing": ...}` or `{"error": kind, "detail": sentence}`.

The listing is `{"folder": the model's folder in the cache, "files": [[path, bytes, blob], ...], "index": the
weights that the safetensors index names, or null}`; without files when the hub did not tell, null offline.
"""

import errno
import json
import sys
import threading
from pathlib import Path

_DISK = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EROFS: "not_writable",
    errno.EACCES: "not_writable",
}
LISTING_SECONDS = 10.0
"""How long the list of files may take; without it a download shows no total."""

INDEX = "model.safetensors.index.json"


def fetch(model_id: str, revision: str | None) -> dict[str, object]:
    """Return the outcome as a JSON-able object; never raises for what the hub can answer."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return {"listing": None, **_fetch_config(model_id, revision)}
    folder = Path(constants.HF_HUB_CACHE) / f"models--{model_id.replace('/', '--')}"
    listing: dict[str, object] = {"folder": str(folder), "files": [], "index": None}
    # Beside the other: an unreachable hub is waited for once, not twice.
    asking = threading.Thread(target=_list_files, args=(model_id, revision, listing), daemon=True)
    asking.start()
    answer = _fetch_config(model_id, revision)
    if "error" not in answer:
        asking.join(LISTING_SECONDS)
    return {"listing": dict(listing), **answer}


def _fetch_config(model_id: str, revision: str | None) -> dict[str, object]:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        path = Path(hf_hub_download(model_id, "config.json", revision=revision))
    except GatedRepoError as error:
        return {"error": "gated", "detail": _line(error)}
    except RepositoryNotFoundError as error:
        return {"error": "not_found", "detail": _line(error)}
    except RevisionNotFoundError as error:
        return {"error": "revision", "detail": _line(error)}
    except LocalEntryNotFoundError as error:
        return {"error": "offline" if constants.HF_HUB_OFFLINE else "unreachable", "detail": _line(error)}
    except EntryNotFoundError:
        return {"config": {}, "commit": None}
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        return {"error": "token" if status == 401 else "other", "detail": _line(error)}
    except OSError as error:
        return {"error": _DISK.get(error.errno or 0, "other"), "detail": _line(error)}
    except ValueError as error:
        return {"error": "other", "detail": _line(error)}
    # The hub's cache lays a snapshot out as .../snapshots/<commit>/config.json.
    return {"config": json.loads(path.read_text(encoding="utf-8")), "commit": path.parent.name}


def _list_files(model_id: str, revision: str | None, listing: dict[str, object]) -> None:
    from huggingface_hub import HfApi, hf_hub_download

    try:
        info = HfApi().model_info(model_id, revision=revision, files_metadata=True, timeout=LISTING_SECONDS)
        files = [[file.rfilename, file.size or 0, _blob(file)] for file in info.siblings or []]
        index = None
        if any(path == INDEX for path, _, _ in files):
            text = Path(hf_hub_download(model_id, INDEX, revision=revision)).read_text(encoding="utf-8")
            index = sorted(set(json.loads(text)["weight_map"].values()))
    except Exception:  # noqa: BLE001 - whatever is wrong here, fetching config.json says it better
        return
    listing.update(files=files, index=index)


def _blob(file: object) -> str:
    # The cache names a blob by its ETag: of large files the content's SHA-256, of others git's id.
    large = getattr(file, "lfs", None)
    return str(large.sha256 if large is not None else getattr(file, "blob_id", "") or "")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


if __name__ == "__main__":
    print(json.dumps(fetch(sys.argv[1], sys.argv[2] or None)))
