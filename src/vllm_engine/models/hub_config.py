"""Runs in the engine's Python: fetch a hub model's config.json and say in JSON what came of it.

Called as `ENGINE_PYTHON -I hub_config.py MODEL_ID REVISION` with the engine's own environment, so that
the cache, the token, the endpoint and offline mode are those which vLLM itself will use. Prints one
object: `{"config": {...}, "commit": "..."}` or `{"error": kind, "detail": sentence}`.
"""

import errno
import json
import sys
from pathlib import Path

_DISK = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EROFS: "not_writable",
    errno.EACCES: "not_writable",
}


def fetch(model_id: str, revision: str | None) -> dict[str, object]:
    """Return the outcome as a JSON-able object; never raises for what the hub can answer."""
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


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


if __name__ == "__main__":
    print(json.dumps(fetch(sys.argv[1], sys.argv[2] or None)))
