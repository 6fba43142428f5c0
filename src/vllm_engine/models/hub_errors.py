"""Turns errors of the hub client into diagnoses, with the codes of the catalogue in `diagnosis`."""

from __future__ import annotations

from vllm_engine.config.redaction import masked
from vllm_engine.config.settings import Settings
from vllm_engine.errors import Diagnosis
from vllm_engine.models.engine_script import ScriptError

_RETRYABLE = frozenset({"unreachable", "server", "interrupted", "silent"})


def explain_hub_error(settings: Settings, error: ScriptError, endpoint: str = "") -> Diagnosis:
    """Turn a failure of the hub client's into one sentence with its remedy; `endpoint` is `HF_ENDPOINT`."""
    hub = f"HF_ENDPOINT={masked('HF_ENDPOINT', endpoint)}" if endpoint else "the hub"
    cache = f"CACHE_DIR={settings.cache_dir}"
    has_token = settings.hf_token is not None
    elsewhere = "use a local folder or MODEL_ID=bundled:smollm2-135m-instruct"
    known = {
        "gated": ("hub-gated", "the model is gated", "accept its terms on the model's page and set HF_TOKEN"),
        "token": ("hub-wrong-token", "the hub does not accept this HF_TOKEN",
                  "set one that is valid, or unset it for a public model"),
        "not_found": ("model-not-found", "the hub has no such model",
                      "correct MODEL_ID; if it is private set HF_TOKEN"),
        "revision": ("revision-not-found", f'the model has no revision "{settings.model_revision or "main"}"',
                     "correct MODEL_REVISION"),
        "offline": ("not-cached-and-offline", "not in the cache, and HF_HUB_OFFLINE forbids fetching",
                    "unset it or fill CACHE_DIR first"),
        "unreachable": ("hub-unreachable", f"not in the cache, and {hub} cannot be reached",
                        f"check MODEL_ID, the network{' and HF_ENDPOINT' * bool(endpoint)}, or {elsewhere}"),
        "unlisted": ("hub-unreachable", f"{hub} did not list the model's files", "try again later"),
        "silent": ("hub-unreachable", f"the hub client made no progress ({error})", "check the network"),
        "server": ("hub-unreachable", f"{hub} answers with an error ({error})", "try again later"),
        "interrupted": ("hub-unreachable", f"the download was interrupted ({error})",
                        "check the network and run it again: files that are complete are kept"),
        "damaged": ("corrupt-weights", str(error),
                    "check what is between this machine and the hub, and the disk"),
        "disk_full": ("disk-full", f"the disk of {cache} is full",
                      "make room there, or mount a larger volume"),
        "not_writable": ("cache-not-writable", f"{cache} cannot be written",
                         "make it writable for this user, or set another CACHE_DIR"),
    }  # fmt: skip
    if has_token:
        known |= {
            "gated": ("hub-no-access", "the model is gated, and this HF_TOKEN's account has no access",
                      "ask for it on its page"),
            "not_found": ("model-not-found", "the hub has no such model, or this HF_TOKEN may not see it",
                          "check both"),
        }  # fmt: skip
    failed = ("model-unusable", f"the hub client failed: {error}", "")
    code, cause, remedy = known.get(error.kind, failed)
    message = f'MODEL_ID="{settings.model_id}": {cause}'
    return Diagnosis(code, message, remedy, retryable=error.kind in _RETRYABLE, evidence=error.detail)
