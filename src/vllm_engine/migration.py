"""Names of other engines' settings that mean nothing here, and what they are here (docs/migration.md)."""

from __future__ import annotations

from collections.abc import Mapping

ELSEWHERE: Mapping[str, str] = {
    # NVIDIA NIM
    "NIM_MODEL_NAME": "MODEL_ID",
    "NIM_SERVED_MODEL_NAME": "SERVED_MODEL_NAME",
    "NIM_MAX_MODEL_LEN": "MAX_MODEL_LEN",
    "NIM_TENSOR_PARALLEL_SIZE": "TENSOR_PARALLEL",
    "NIM_CACHE_PATH": "CACHE_DIR",
    "NIM_SERVER_PORT": "PORT",
    "NIM_LOG_LEVEL": "LOG_LEVEL",
    "NIM_JSONL_LOGGING": "LOG_FORMAT",
    "NIM_PASSTHROUGH_ARGS": "VLLM_EXTRA_ARGS",
    "NIM_SSL_CERTS_PATH": "TLS_CERT_FILE",
    "NIM_SSL_KEY_PATH": "TLS_KEY_FILE",
    "NIM_OTEL_EXPORTER_OTLP_ENDPOINT": "OTLP_ENDPOINT",
    "NGC_API_KEY": "HF_TOKEN",
    # TGI
    "REVISION": "MODEL_REVISION",
    "NUM_SHARD": "TENSOR_PARALLEL",
    "MAX_TOTAL_TOKENS": "MAX_MODEL_LEN",
    "MAX_CONCURRENT_REQUESTS": "MAX_IN_FLIGHT",
    "CUDA_MEMORY_FRACTION": "GPU_MEMORY_UTILIZATION",
    "API_KEY": "API_KEYS",
    "CORS_ALLOW_ORIGIN": "CORS_ORIGINS",
    "PAYLOAD_LIMIT": "MAX_BODY_BYTES",
    # llama-server
    "LLAMA_ARG_MODEL": "MODEL_ID",
    "LLAMA_ARG_HF_REPO": "MODEL_ID",
    "LLAMA_ARG_ALIAS": "SERVED_MODEL_NAME",
    "LLAMA_ARG_CTX_SIZE": "MAX_MODEL_LEN",
    "LLAMA_ARG_N_PARALLEL": "MAX_IN_FLIGHT",
    "LLAMA_ARG_HOST": "HOST",
    "LLAMA_ARG_PORT": "PORT",
    "LLAMA_API_KEY": "API_KEYS",
    "LLAMA_ARG_SSL_CERT_FILE": "TLS_CERT_FILE",
    "LLAMA_ARG_SSL_KEY_FILE": "TLS_KEY_FILE",
    # worker-vllm
    "MODEL_NAME": "MODEL_ID",
    "OPENAI_SERVED_MODEL_NAME_OVERRIDE": "SERVED_MODEL_NAME",
    "MAX_CONCURRENCY": "MAX_IN_FLIGHT",
    "PORT_HEALTH": "HEALTH_PORT",
    # SageMaker
    "HF_MODEL_ID": "MODEL_ID",
    "SM_NUM_GPUS": "TENSOR_PARALLEL",
}


def unread(environ: Mapping[str, str]) -> list[str]:
    """Return a sentence for each variable that is meant for another engine and has no counterpart set."""
    return [
        f"{theirs} is not read here: this setting is called {ours} (docs/migration.md)"
        for theirs, ours in ELSEWHERE.items()
        if environ.get(theirs) and not environ.get(ours)
    ]
