"""Where the weights come from, and what the model's own configuration says of its limits."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm_engine.config.settings import Settings
from vllm_engine.errors import Diagnosis, ModelError
from vllm_engine.models.bundled import BundledModelError, ConvertProgress, ensure_bundled, is_bundled
from vllm_engine.models.repository_files import HubFile, Listing

HUB_TIMEOUT_SECONDS = 90.0
"""How long the hub may take to hand over config.json, retries included."""

_HUB_SCRIPT = Path(__file__).with_name("engine_scripts") / "hub_config.py"
_ACCOUNT_SCRIPT = Path(__file__).with_name("engine_scripts") / "hub_account.py"


@dataclass(frozen=True)
class Model:
    """A model that can be handed to the engine.

    Attributes:
        location: what vLLM gets as its model: a hub id or a folder.
        revision: the hub commit that the configuration came from, where known.
        config: the model's config.json; empty where it has none.
        listing: what the hub's repository holds; None for local models and offline.
    """

    location: str
    revision: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    listing: Listing | None = None


@dataclass(frozen=True)
class HubAccount:
    """What the hub says of the token, and of the model's chat template.

    Attributes:
        name: whose token it is; None without one, or if the hub did not say.
        refused: whether the hub does not accept it.
        has_template: whether the model has a chat template; None where unknown.
    """

    name: str | None
    refused: bool
    has_template: bool | None


async def locate_model(
    settings: Settings,
    *,
    engine_python: Path,
    environ: Mapping[str, str],
    on_progress: Callable[[ConvertProgress], None],
) -> Model:
    """Find the model and read its configuration; converts the bundled one where that is due.

    Args:
        settings: `MODEL_ID` and `MODEL_REVISION` are used.
        engine_python: the engine's Python, whose hub client asks the hub.
        environ: the environment the engine will get: cache, token and endpoint count.
        on_progress: told how far a conversion has come.

    Raises:
        ModelError: there is no such model, or it may not or cannot be fetched.
    """
    if is_bundled(settings.model_id):
        try:
            folder = await ensure_bundled(
                settings.model_id,
                cache_dir=settings.cache_dir,
                engine_python=engine_python,
                on_progress=on_progress,
            )
        except BundledModelError as error:
            raise ModelError(f'MODEL_ID="{settings.model_id}": {error}') from error
        return Model(str(folder), None, read_config(folder))
    if settings.is_local_model:
        return _local_model(settings.model_id)
    return await _ask_hub(settings, engine_python, environ)


def _local_model(model_id: str) -> Model:
    folder = Path(model_id).expanduser()
    if not folder.exists():
        told = Diagnosis(
            "model-not-found", f'MODEL_ID="{model_id}": no such folder', "mount it or correct the path"
        )
        raise ModelError(told)
    return Model(str(folder.resolve()), None, read_config(folder))


def read_config(folder: Path) -> Mapping[str, Any]:
    """Read a model folder's config.json; empty where it has none, as a GGUF file.

    Raises:
        ModelError: the file is there and is not a JSON object.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON ({error}); fetch the model again") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} does not hold a JSON object; fetch the model again")
    return config


async def _ask_hub(settings: Settings, engine_python: Path, environ: Mapping[str, str]) -> Model:
    answer = await _ask_hub_client(_HUB_SCRIPT, settings, engine_python, environ)
    if "error" in answer:
        raise ModelError(explain_hub_error(settings, answer["error"], answer["detail"]))
    return Model(settings.model_id, answer["commit"], answer["config"], _listing(answer.get("listing")))


async def ask_hub_account(settings: Settings, engine_python: Path, environ: Mapping[str, str]) -> HubAccount:
    """Ask the hub about the token and the model's chat template.

    Raises:
        ModelError: the hub client does not run.
    """
    answer = await _ask_hub_client(_ACCOUNT_SCRIPT, settings, engine_python, environ)
    return HubAccount(answer["account"], answer["refused"], answer["template"])


async def _ask_hub_client(
    script: Path, settings: Settings, engine_python: Path, environ: Mapping[str, str]
) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        str(engine_python),
        "-I",
        str(script),
        settings.model_id,
        settings.model_revision or "",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(environ),
        start_new_session=True,
    )
    try:
        stdout, stderr = await asyncio.wait_for(process.communicate(), HUB_TIMEOUT_SECONDS)
    except TimeoutError:
        raise ModelError(explain_hub_error(settings, "unreachable", "no answer in time")) from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    lines = stdout.decode(errors="replace").splitlines()
    try:
        answer: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError):
        last = (stderr.decode(errors="replace").strip().splitlines() or ["it printed nothing"])[-1]
        raise ModelError(f'MODEL_ID="{settings.model_id}": the hub client failed: {last}') from None
    return answer


def _listing(answer: Mapping[str, Any] | None) -> Listing | None:
    if answer is None:
        return None
    files = tuple(HubFile(path, size, blob) for path, size, blob in answer["files"])
    index = answer["index"]
    return Listing(Path(answer["folder"]), files, None if index is None else tuple(index))


def explain_hub_error(settings: Settings, kind: str, detail: str) -> Diagnosis:
    """Turn what the hub client met into one sentence with its remedy; the codes are the catalogue's."""
    name = f'MODEL_ID="{settings.model_id}"'
    with_token = settings.hf_token is not None
    bundled = "use a local folder or MODEL_ID=bundled:smollm2-135m-instruct"
    known = {
        "gated": (
            (
                "hub-no-access",
                "the model is gated, and this HF_TOKEN's account has no access",
                "ask for it on its page",
            )
            if with_token
            else ("hub-gated", "the model is gated", "accept its terms on the model's page and set HF_TOKEN")
        ),
        "token": (
            "hub-wrong-token",
            "the hub does not accept this HF_TOKEN",
            "set one that is valid, or unset it for a public model",
        ),
        "not_found": (
            "model-not-found",
            "the hub has no such model" + (", or this HF_TOKEN may not see it" if with_token else ""),
            "check both" if with_token else "correct MODEL_ID; if it is private set HF_TOKEN",
        ),
        "revision": (
            "revision-not-found",
            f'the model has no revision "{settings.model_revision}"',
            "correct MODEL_REVISION",
        ),
        "offline": (
            "not-cached-and-offline",
            "not in the cache, and HF_HUB_OFFLINE forbids fetching",
            "unset it or fill CACHE_DIR first",
        ),
        "unreachable": (
            "hub-unreachable",
            "not in the cache, and the hub cannot be reached",
            f"check MODEL_ID and the network, or {bundled}",
        ),
        "disk_full": (
            "disk-full",
            f"the disk of CACHE_DIR={settings.cache_dir} is full",
            "make room there, or mount a larger volume",
        ),
        "not_writable": (
            "cache-not-writable",
            f"CACHE_DIR={settings.cache_dir} cannot be written",
            "make it writable for this user, or set another CACHE_DIR",
        ),
    }
    failed = ("model-unusable", f"the hub client failed: {detail}", "")
    code, cause, remedy = known.get(kind, failed)
    return Diagnosis(code, f"{name}: {cause}", remedy, retryable=kind == "unreachable", evidence=detail)
