"""Pure: how vLLM is told to trace, and why it may not be able to (0.32: `vllm/tracing/otel.py`)."""

from __future__ import annotations

from collections.abc import Mapping

from vllm_engine.config.settings import Settings
from vllm_engine.plan.engine_installation import Installation

SERVICE_NAME = "vllm-engine"
"""The gateway's default; the engine is told apart by what follows a dot."""


def tracing_gap(settings: Settings, installation: Installation) -> str | None:
    """Say why vLLM would not start, or not trace, with `--otlp-traces-endpoint`; None if it would."""
    if settings.engine_frontend == "rust":
        return "the Rust frontend makes no spans"  # and refuses the flag
    if installation.tracing_lacks:
        return f"its environment lacks {', '.join(installation.tracing_lacks)}"
    return None


def trace_options(settings: Settings, installation: Installation) -> list[str]:
    """Return vLLM's flags for `OTLP_ENDPOINT`."""
    if settings.traces_url is None or tracing_gap(settings, installation):
        return []
    return ["--otlp-traces-endpoint", settings.traces_url]


def trace_environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that go with it: vLLM's default is gRPC, and its service is not the gateway."""
    if settings.traces_url is None:
        return {}
    return {
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_SERVICE_NAME": f"{environ.get('OTEL_SERVICE_NAME') or SERVICE_NAME}.vllm",
    }
