"""Runs in the engine's Python: fetch a model's files into the hub client's cache and check each of them.

Called as `ENGINE_PYTHON -I hub_fetch.py MODEL_ID COMMIT CACHE` with the engine's own environment; CACHE is
empty for the hub client's own. Reads `[[path, bytes, blob], ...]` in JSON from its input. Prints one JSON
object a line: `{"event": "checked", "path": ...}`; `{"event": "damaged", "path": ...}` for a file that is
fetched once more; last `{"event": "done", "folder": ...}` or `{"event": "error", "kind": ...,
"detail": ...}`.

What is in the cache already is not fetched again, but it is checked. A blob's name is its checksum: of large
files the content's SHA-256, of others git's SHA-1 of a blob.
"""

import errno
import hashlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_AT_ONCE = 4
_PIECE = 1 << 20
_DISK = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EROFS: "not_writable",
    errno.EACCES: "not_writable",
}


class DamagedError(Exception):
    """A file is not what the hub says it is, however often it is fetched."""


def fetch(model_id: str, commit: str, cache: str, files: list[tuple[str, int, str]]) -> Path:
    """Fetch and check all files; returns the folder that has them.

    Raises:
        DamagedError: a file's content has another checksum or size.
        OSError: disk or network failed; the hub client's own errors are among these.
    """
    from huggingface_hub import hf_hub_download

    def one(file: tuple[str, int, str]) -> Path:
        path, size, blob = file
        for attempt in (1, 2):
            there = Path(hf_hub_download(model_id, path, revision=commit, cache_dir=cache or None))
            if is_whole(there, size, blob):
                _say(event="checked", path=path)
                return there
            there.resolve().unlink()
            there.unlink(missing_ok=True)
            if attempt == 1:
                _say(event="damaged", path=path)
        raise DamagedError(f"{path} is not what the hub says it is")

    # The largest first, so that none of them is left for the end alone.
    largest_first = sorted(files, key=lambda file: -file[1])
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        there = list(pool.map(one, largest_first))
    return there[0].parents[len(Path(largest_first[0][0]).parts) - 1]


def is_whole(path: Path, size: int, blob: str) -> bool:
    """Whether a file has this size, and the checksum that its blob's name is."""
    if path.stat().st_size != size:
        return False
    digests = {64: hashlib.sha256(), 40: hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)}
    digest = digests.get(len(blob))
    if digest is None:
        return True
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest() == blob


def _kind(error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    if isinstance(error, DamagedError):
        return "damaged"
    if isinstance(error, GatedRepoError):
        return "gated"
    if isinstance(error, HfHubHTTPError):
        return "token" if getattr(error.response, "status_code", None) == 401 else "other"
    return _DISK.get(getattr(error, "errno", None) or 0, "unreachable")


def _say(**event: str) -> None:
    print(json.dumps(event), flush=True)


def main(model_id: str, commit: str, cache: str) -> None:
    """Fetch what the input names; the outcome is the last line."""
    files = [(str(path), int(size), str(blob)) for path, size, blob in json.load(sys.stdin)]
    try:
        folder = fetch(model_id, commit, cache, files)
    except Exception as error:  # noqa: BLE001 - the parent tells the user, whatever it is
        _say(
            event="error",
            kind=_kind(error),
            detail=" ".join(f"{type(error).__name__}: {error}".split())[:300],
        )
    else:
        _say(event="done", folder=str(folder))


if __name__ == "__main__":
    main(*sys.argv[1:4])
