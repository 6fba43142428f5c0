"""Other engines' variables and the settings here that correspond to them (docs/use/migration.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

ENGINE_KEY = "VLLM_API_KEY"
"""The key that vLLM would ask clients for: the gateway does, and the engine is not told."""

SAME: Mapping[str, str] = {
    # the hub's own libraries, and what people call its token
    "HUGGING_FACE_HUB_TOKEN": "HF_TOKEN",
    "HUGGINGFACE_HUB_TOKEN": "HF_TOKEN",
    "HUGGINGFACE_TOKEN": "HF_TOKEN",
    "HF_HUB_TOKEN": "HF_TOKEN",
    "HF_API_TOKEN": "HF_TOKEN",
    # NVIDIA NIM
    "NIM_MODEL_NAME": "MODEL_ID",
    "NIM_SERVED_MODEL_NAME": "SERVED_MODEL_NAME",
    "NIM_MAX_MODEL_LEN": "MAX_MODEL_LEN",
    "NIM_TENSOR_PARALLEL_SIZE": "TENSOR_PARALLEL",
    "NIM_CACHE_PATH": "CACHE_DIR",
    "NIM_SERVER_PORT": "PORT",
    "NIM_PASSTHROUGH_ARGS": "VLLM_EXTRA_ARGS",
    # TGI
    "NUM_SHARD": "TENSOR_PARALLEL",
    "MAX_TOTAL_TOKENS": "MAX_MODEL_LEN",
    "CUDA_MEMORY_FRACTION": "GPU_MEMORY_UTILIZATION",
    # llama-server
    "LLAMA_ARG_ALIAS": "SERVED_MODEL_NAME",
    "LLAMA_ARG_HOST": "HOST",
    "LLAMA_ARG_PORT": "PORT",
    "LLAMA_API_KEY": "API_KEYS",
    "LLAMA_ARG_SSL_CERT_FILE": "TLS_CERT_FILE",
    "LLAMA_ARG_SSL_KEY_FILE": "TLS_KEY_FILE",
    # worker-vllm
    "MODEL_NAME": "MODEL_ID",
    "OPENAI_SERVED_MODEL_NAME_OVERRIDE": "SERVED_MODEL_NAME",
    # SageMaker
    "HF_MODEL_ID": "MODEL_ID",
    "SM_VLLM_MODEL": "MODEL_ID",
    # vLLM's own flag, and its variable for its clients' connections: those are ours
    "MODEL": "MODEL_ID",
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "CLIENT_KEEP_ALIVE_SECONDS",
    ENGINE_KEY: "API_KEYS",
}
"""Variables with the same meaning as ours: they are read."""

ELSEWHERE: Mapping[str, str] = {
    # NVIDIA NIM
    "NIM_LOG_LEVEL": "LOG_LEVEL",
    "NIM_JSONL_LOGGING": "LOG_FORMAT",
    "NIM_SSL_CERTS_PATH": "TLS_CERT_FILE",
    "NIM_SSL_KEY_PATH": "TLS_KEY_FILE",
    "NIM_OTEL_EXPORTER_OTLP_ENDPOINT": "OTLP_ENDPOINT",
    "NGC_API_KEY": "HF_TOKEN",
    # TGI
    "REVISION": "MODEL_REVISION",
    "MAX_CONCURRENT_REQUESTS": "MAX_IN_FLIGHT",
    "API_KEY": "API_KEYS",
    "CORS_ALLOW_ORIGIN": "CORS_ORIGINS",
    "PAYLOAD_LIMIT": "MAX_BODY_BYTES",
    # llama-server
    "LLAMA_ARG_MODEL": "MODEL_ID",
    "LLAMA_ARG_HF_REPO": "MODEL_ID",
    "LLAMA_ARG_CTX_SIZE": "MAX_MODEL_LEN",
    "LLAMA_ARG_N_PARALLEL": "MAX_IN_FLIGHT",
    # worker-vllm
    "MAX_CONCURRENCY": "MAX_IN_FLIGHT",
    "PORT_HEALTH": "HEALTH_PORT",
    # SageMaker
    "SM_NUM_GPUS": "TENSOR_PARALLEL",
}
"""Variables whose values or meaning differ from ours, or whose names are used for something else too."""

_CLIENTS_KEY = (
    "API_KEY is the key that clients such as `vllm-engine chat` send; the server's own are in API_KEYS, "
    "which is not set (docs/use/migration.md)"
)

_AMBIGUOUS = frozenset({"MODEL"})
"""Scripts and machines set these too: in a process's environment they must look like a model."""


def adopt(environ: Mapping[str, str], *, is_set: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return one source's variables with others' names replaced by ours, and a message for each found.

    `is_set` has the variables of every source: one of ours that is set wins.
    """
    result = dict(environ)
    notes = []
    for theirs, ours in SAME.items():
        value = result.get(theirs)
        if value and theirs == ENGINE_KEY:
            value = literal_keys([value])
        if not value:
            continue
        del result[theirs]
        ruling = is_set.get(ours) or result.get(ours)
        if not ruling:
            result[ours] = value
            notes.append(f"{theirs} is read as {ours}")
        elif ruling != value:
            notes.append(f"{theirs} is not read: {ours} is set as well, and to something else")
    return result, notes


def literal_keys(keys: Sequence[str]) -> str | None:
    """Return keys, each of which is meant as it stands, as `API_KEYS` has them; None where it cannot.

    Without a name of its own a key that contains a colon would be taken for a name and a key.
    """
    if any("," in key or len(key.split()) > 1 for key in keys):
        return None
    named = [f"key-{at}:{key}" if ":" in key else key for at, key in enumerate(filter(None, keys), 1)]
    return " ".join(named)


def ambiguous(environ: Mapping[str, str]) -> list[str]:
    """Return the names in a process's environment that are probably meant for another program."""
    return [name for name in _AMBIGUOUS if environ.get(name) and not _is_model(environ[name])]


def unread(environ: Mapping[str, str]) -> list[str]:
    """Return a message for each variable of another engine whose counterpart here is not set."""
    messages = {
        theirs: f"{theirs} is not read: here this setting is called {ours} (docs/use/migration.md)"
        for theirs, ours in {**ELSEWHERE, **SAME}.items()
        if environ.get(theirs) and not environ.get(ours)
    }
    if "API_KEY" in messages:
        messages["API_KEY"] = _CLIENTS_KEY
        if environ.get("API_KEYS_FILE"):
            del messages["API_KEY"]
    return list(messages.values())


def _is_model(value: str) -> bool:
    return "/" in value and " " not in value
