"""Known failures: downloading the model from the hub, and storing it.

Texts of huggingface_hub (`errors.py`, `utils/_http.py`) and transformers (`utils/hub.py`), old and new.
"""

from __future__ import annotations

from vllm_engine.diagnosis.known_failure import Advice, Groups, KnownFailure, Stage
from vllm_engine.diagnosis.run_facts import Facts
from vllm_engine.system.sizes import gib


def _gated(_groups: Groups, facts: Facts) -> Advice:
    page = (
        f"https://huggingface.co/{facts.model}"
        if "/" in facts.model and not facts.is_local
        else "the model's page"
    )
    if facts.has_token:
        return Advice(f"ask for access on {page} with the account that HF_TOKEN belongs to")
    return Advice(f"accept the terms on {page}, and set HF_TOKEN to a token of that account")


def _not_found(_groups: Groups, facts: Facts) -> Advice:
    if facts.is_local:
        return Advice("correct the path in MODEL_ID, or mount the folder into the container")
    private = (
        "or give HF_TOKEN's account access to it if it is private"
        if facts.has_token
        else "or set HF_TOKEN if it is private"
    )
    return Advice(f"correct MODEL_ID (organisation/name, as on the hub), {private}")


def _disk(groups: Groups, facts: Facts) -> Advice:
    free = f" (now {gib(facts.cache_free_bytes)})" if facts.cache_free_bytes is not None else ""
    needed = f" the {groups['needed']} that one file needs" if "needed" in groups else " the model"
    return Advice(
        f"make room for{needed} where CACHE_DIR={facts.cache_dir} is{free}, or mount a larger volume there; "
        "files that are complete are kept"
    )


def _writable(_groups: Groups, facts: Facts) -> Advice:
    return Advice(
        f"make CACHE_DIR={facts.cache_dir} writable for the container's user: a volume, or `chown` of the "
        "mounted folder; a read-only cache has to hold the whole model, with HF_HUB_OFFLINE=1"
    )


HUB = (
    KnownFailure(
        code="hub-no-access",
        seen="`GatedRepoError: 403 Client Error` … `you are not in the authorized list`.",
        cause="the account of HF_TOKEN has no access to the gated model {model}",
        remedy=lambda groups, facts: _gated(groups, Facts(model=facts.model, has_token=True)),
        patterns=(r"GatedRepoError: 403", r"you are not in the authorized list"),
    ),
    KnownFailure(
        code="hub-wrong-token",
        seen="`401 Unauthorized` … `Invalid credentials in Authorization header`.",
        cause="the hub does not accept HF_TOKEN: it is wrong, or has expired",
        remedy="set HF_TOKEN to a token that is valid, or unset it for a public model",
        patterns=(
            r"Invalid credentials in Authorization header",
            r"Invalid user token",
            r"User access token .* expired",
        ),
    ),
    KnownFailure(
        code="hub-gated",
        seen="`You are trying to access a gated repo`; `GatedRepoError: 401 Client Error`.",
        cause="the model {model} is gated: its terms must be accepted first",
        remedy=_gated,
        patterns=(r"GatedRepoError: 401", r"You are trying to access a gated repo|Cannot access gated repo"),
        unless=r"Invalid credentials in Authorization header|not in the authorized list",
    ),
    KnownFailure(
        code="revision-not-found",
        seen="`RevisionNotFoundError: 404 Client Error`; `… is not a valid git identifier`.",
        cause="the model {model} has no revision {revision}",
        remedy="correct MODEL_REVISION (a branch, tag or commit of the model), or unset it",
        patterns=(r"RevisionNotFoundError", r"is not a valid git identifier"),
    ),
    KnownFailure(
        code="model-not-found",
        seen="`RepositoryNotFoundError: 401 Client Error`; `… is not a valid model identifier listed on "
        "…`; `Repo id must be in the form 'repo_name' or 'namespace/repo_name'`.",
        cause="the model {model} does not exist, or is private",
        remedy=_not_found,
        patterns=(
            r"RepositoryNotFoundError|Repository Not Found for url",
            r"is not a valid model identifier listed on",
            r"Repo id must be in the form|HFValidationError",
            r"Invalid username or password",
        ),
    ),
    KnownFailure(
        code="model-config-missing",
        seen="`Invalid repository ID or local directory specified` … `ensure the presence of a "
        "'config.json'`.",
        cause="{model} has no config.json that vLLM can read",
        remedy="name the folder or repository that holds config.json and the weights; a GGUF file needs "
        "its own path",
        patterns=(
            r"Invalid repository ID or local directory specified",
            r"does not appear to have a file named config\.json",
            r"It looks like the config file at .* is not a valid JSON file",
        ),
    ),
    KnownFailure(
        code="not-cached-and-offline",
        seen="`Cannot find the requested files in the disk cache and outgoing traffic has been disabled`.",
        cause="the model {model} is not in the cache, and HF_HUB_OFFLINE does not allow a download",
        remedy=lambda _groups, facts: Advice(
            f"unset HF_HUB_OFFLINE, or fill CACHE_DIR={facts.cache_dir} on a machine with a network first"
        ),
        patterns=(
            r"outgoing traffic has been disabled",
            r"OfflineModeIsEnabled|Cannot reach .*: offline mode is enabled",
        ),
    ),
    KnownFailure(
        code="hub-unreachable",
        seen="`We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them "
        "in the cached files`.",
        cause="the hub cannot be reached, and the model {model} is not in the cache",
        remedy="check the network, its proxy (HTTPS_PROXY) and HF_ENDPOINT; or use a local folder, or "
        "MODEL_ID=bundled:smollm2-135m-instruct, which needs no network",
        patterns=(
            r"We couldn't connect to '.*?' to load",
            r"LocalEntryNotFoundError",
            r"(?:ConnectError|ConnectTimeout|ReadTimeout|MaxRetryError|NameResolutionError)\b.*(?:huggingface|hf\.co)",
            r"'(?:5\d\d [\w ]+)' for url '.*?/resolve/",
        ),
        unless=r"outgoing traffic has been disabled|OfflineModeIsEnabled",
        retryable=True,
    ),
    KnownFailure(
        code="disk-full",
        seen="`No space left on device (os error 28)`; `Not enough free disk space to download the file`.",
        cause="the disk of CACHE_DIR={cache_dir} is full ({disk_free} left)",
        remedy=_disk,
        patterns=(r"\[Errno 28\]|No space left on device|os error 28|Disk quota exceeded",),
        hints=(r"expected file size is: (?P<needed>[\d.]+ \wB)",),
        unless=r"/dev/shm|shared memory segment",
        stage=Stage.ANY,
    ),
    KnownFailure(
        code="cache-not-writable",
        seen="`Read-only file system`; `Permission denied: '/cache/…'`.",
        cause="the engine cannot write below CACHE_DIR={cache_dir}",
        remedy=_writable,
        patterns=(
            r"\[Errno 30\]|Read-only file system|os error 30",
            r"\[Errno 13\] Permission denied|Permission denied \(os error 13\)",
        ),
    ),
)
