"""The only user of the hub client: looks a model up, fetches its files, asks about the token.

It runs with the engine's own environment, so that cache, token, endpoint and offline mode are those that
vLLM itself would use. Written for huggingface_hub 2.4; with older ones a file's bytes count once it is whole.
"""

from __future__ import annotations

import errno
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_engine.models.engine_scripts.chat_format import TEKKEN, ChatFormat, format_files, read_chat_format
from vllm_engine.models.engine_scripts.hub_files import INDEX, HubFile, Listing, read_index
from vllm_engine.models.engine_scripts.script_io import emit, run

LISTING_SECONDS = 10.0
"""How long the list of files may take; without it vLLM downloads the model itself."""

REPORT_SECONDS = 0.5
_AT_ONCE = 8
_MOST_RESTARTS = 5
_PIECE = 1 << 20
_ERRNO = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EROFS: "not_writable",
    errno.EACCES: "not_writable",
}
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How hf_xet, which is written in Rust, tells the number of an error."""


class DamagedError(Exception):
    """A file is not what the hub says it is, however often it is fetched."""


def look(model: str, revision: str | None, cache: str) -> dict[str, object]:
    """Return a model's config.json, its commit, its folder in the cache, its files, and its chat format.

    `cache` is empty for the hub client's own; `listing` is None where the hub did not list them, as offline.

    Raises:
        DamagedError: config.json is not a JSON object, even when fetched again.
        OSError: disk or network failed; the hub client's own errors are among these.
    """
    from huggingface_hub import constants

    asking = None
    if not constants.HF_HUB_OFFLINE:
        # At the same time as the configuration: an unreachable hub is waited for once, not twice.
        asking = ThreadPoolExecutor(1).submit(_list_files, model, revision, cache)
    config, commit = _config(model, revision, cache)
    listed_commit, listing = None, None
    if asking is not None:
        with suppress(Exception):  # fetching config.json has raised what is wrong with the hub
            listed_commit, listing = asking.result(LISTING_SECONDS)
    commit = commit or listed_commit
    if listed_commit != commit:  # the branch has moved between the two questions
        listing = None
    folder = Path(cache or constants.HF_HUB_CACHE) / f"models--{model.replace('/', '--')}"
    snapshot = str(folder / "snapshots" / commit) if commit else None
    chat = (
        _chat_format(model, commit, cache, Path(snapshot), listing) if commit and snapshot else ChatFormat()
    )
    return {"revision": commit, "config": config, "folder": snapshot, "listing": listing, "chat": chat}


def _chat_format(model: str, commit: str, cache: str, snapshot: Path, listing: Listing | None) -> ChatFormat:
    """Read the tokenizer's small files, fetched first where the hub listed them and they are not there."""
    from huggingface_hub import hf_hub_download

    names = [file.path for file in listing.files] if listing else []
    missing = [name for name in format_files(names) if not (snapshot / name).is_file()]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for name in missing:
            pool.submit(hf_hub_download, model, name, revision=commit, cache_dir=cache or None)
    return read_chat_format(snapshot, is_tekken=TEKKEN in names)


def _config(model: str, revision: str | None, cache: str) -> tuple[dict[str, Any], str | None]:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    given: dict[str, Any] = {"revision": revision, "cache_dir": cache or None}
    for attempt in (1, 2):
        try:
            path = Path(hf_hub_download(model, "config.json", force_download=attempt > 1, **given))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            return {}, None
        with suppress(ValueError):
            if isinstance(config := json.loads(path.read_text(encoding="utf-8")), dict):
                # The hub's cache lays a snapshot out as .../snapshots/<commit>/config.json.
                return config, path.parent.name
        if constants.HF_HUB_OFFLINE:
            break
    raise DamagedError(f"{path} is not a JSON object")


def _list_files(model: str, revision: str | None, cache: str) -> tuple[str, Listing]:
    from huggingface_hub import HfApi, hf_hub_download

    info = HfApi().model_info(model, revision=revision, files_metadata=True, timeout=LISTING_SECONDS)
    files = tuple(HubFile(file.rfilename, file.size or 0, _blob(file)) for file in info.siblings or [])
    index = None
    if any(file.path == INDEX for file in files):
        index = read_index(Path(hf_hub_download(model, INDEX, revision=info.sha, cache_dir=cache or None)))
    return info.sha, Listing(files, index)


def _blob(file: Any) -> str:
    # The cache names a blob by its ETag: of large files the content's SHA-256, of others git's id.
    large = getattr(file, "lfs", None)
    return str(large.sha256 if large is not None else getattr(file, "blob_id", "") or "")


def fetch(
    model: str,
    commit: str,
    files: Iterable[HubFile],
    cache: str = "",
    folder: str = "",
    tell: Callable[..., None] = emit,
) -> None:
    """Fetch files into the cache, or into `folder` as plain files, and check each against its checksum.

    What is there already is not fetched again, but it is checked; what is damaged is fetched once more. Emits
    `progress` (bytes there, bytes checked, of these files), `checked` and `damaged` (path).

    Raises:
        DamagedError: a file's content has another checksum or size.
        OSError: disk or network failed; the hub client's own errors are among these.
    """
    where = {"local_dir": folder} if folder else {"cache_dir": cache or None}
    # The largest first, so that none of them is left for the end alone.
    transfers = [_Transfer(HubFile(*file)) for file in files]
    transfers.sort(key=lambda transfer: -transfer.file.size)
    pool = ThreadPoolExecutor(_AT_ONCE)
    pending = {pool.submit(_fetch_one, model, commit, transfer, where, tell) for transfer in transfers}
    said = None
    try:
        while pending:
            done, pending = wait(pending, REPORT_SECONDS, FIRST_EXCEPTION)
            for task in done:
                task.result()
            now = {
                "bytes": sum(transfer.there for transfer in transfers),
                "checked": sum(transfer.checked for transfer in transfers),
            }
            if now != said:
                tell("progress", **now)
            said = now
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@dataclass
class _Transfer:
    """One file: its bytes that are there, and those that were read back to check them."""

    file: HubFile
    there: int = 0
    checked: int = 0


class _Bar:
    """Stands in for the hub client's progress bar of one file, draws nothing and counts."""

    transfer: _Transfer

    def __init__(self, *_: object, total: int | None = None, **__: object) -> None:
        self.n, self.total, self.restarts = 0, total, 0

    def __enter__(self) -> _Bar:
        return self

    def update(self, count: float | None = 1) -> None:
        self.transfer.there += int(count or 0)
        # The hub client starts over without end where connections break and the hub ignores `Range`.
        self.restarts += (count or 0) < 0
        if self.restarts > _MOST_RESTARTS:
            raise ConnectionError("connections break before the file's end, and the hub does not resume it")

    def ignore(self, *_: object, **__: object) -> None:
        pass

    # What xet got from the network is not counted: `update` hears of what is on the disk.
    __exit__ = close = update_transfer = set_postfix_str = set_transfer_postfix_str = ignore


def _fetch_one(
    model: str, commit: str, transfer: _Transfer, where: dict[str, Any], tell: Callable[..., None]
) -> None:
    from huggingface_hub import hf_hub_download

    file = transfer.file
    if "tqdm_class" in inspect.signature(hf_hub_download).parameters:
        where = {**where, "tqdm_class": type("Bar", (_Bar,), {"transfer": transfer})}
    for attempt in (1, 2):
        transfer.there = transfer.checked = 0
        path = Path(hf_hub_download(model, file.path, revision=commit, **where))
        transfer.there = file.size
        if _is_whole(path, transfer):
            tell("checked", path=file.path)
            return
        path.resolve().unlink(missing_ok=True)  # another program may have found it damaged, too
        path.unlink(missing_ok=True)
        if attempt == 1:
            tell("damaged", path=file.path)
    raise DamagedError(f"{file.path} is not what the hub says it is")


def _is_whole(path: Path, transfer: _Transfer) -> bool:
    """Whether a file has its size and checksum: of large files SHA-256, of others git's SHA-1 of a blob."""
    _, size, blob = transfer.file
    if path.stat().st_size != size:
        return False
    git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    digest = {64: hashlib.sha256(), 40: git}.get(len(blob))
    if digest is None:
        return True
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            transfer.checked += len(piece)
    return digest.hexdigest() == blob


def account(model: str, revision: str | None) -> dict[str, object]:
    """Return what `HubAccount` holds; nothing is raised for what is unknown."""
    from huggingface_hub import constants, get_token

    asked = not constants.HF_HUB_OFFLINE and get_token() is not None
    name, refused = _whoami() if asked else (None, False)
    return {"owner": name, "is_refused": refused, "has_template": _has_template(model, revision)}


def _whoami() -> tuple[str | None, bool]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return str(HfApi().whoami()["name"]), False
    except HfHubHTTPError as error:
        return None, getattr(error.response, "status_code", None) == 401
    except Exception:  # noqa: BLE001 - an unreachable hub is told by the check of the model
        return None, False


def _has_template(model: str, revision: str | None) -> bool | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in ("chat_template.jinja", "chat_template.json", "tokenizer_config.json"):
        try:
            path = Path(hf_hub_download(model, name, revision=revision))
        except LocalEntryNotFoundError:
            return None
        except EntryNotFoundError:
            continue
        except Exception:  # noqa: BLE001 - the check of the model reports what is wrong with the hub
            return None
        if name != "tokenizer_config.json":
            return True
        return bool(json.loads(path.read_text(encoding="utf-8")).get("chat_template"))
    return False


def kind_of(error: Exception) -> str:
    """Name the kind of an error for `explain_hub_error`."""
    from huggingface_hub import constants, errors

    of_system = _OS_ERROR.search(str(error))
    number = int(of_system[1]) if of_system else getattr(error, "errno", None) or 0
    status = getattr(getattr(error, "response", None), "status_code", None) or 0
    http_kind = {401: "token", 429: "server"}.get(status, "server" if status >= 500 else "other")
    # The first that fits: several are subclasses of those below them, and of OSError.
    kinds: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
        ((DamagedError,), "damaged"),
        ((errors.GatedRepoError,), "gated"),
        ((errors.RepositoryNotFoundError,), "not_found"),
        ((errors.RevisionNotFoundError,), "revision"),
        ((errors.OfflineModeIsEnabled,), "offline"),
        ((errors.LocalEntryNotFoundError,), "offline" if constants.HF_HUB_OFFLINE else "unreachable"),
        ((errors.HfHubHTTPError,), http_kind),
        ((Exception,) if number in _ERRNO else (), _ERRNO.get(number, "")),
        ((ValueError, LookupError, TypeError), "other"),
    )
    return next((kind for classes, kind in kinds if isinstance(error, classes)), "unreachable")


if __name__ == "__main__":
    run(
        {"look": look, "fetch": fetch, "account": account},
        lambda error: (kind_of(error), f"{type(error).__name__}: {error}"),
    )
