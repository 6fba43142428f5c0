"""Probes and `/version`: whether the program is alive, whether the engine is ready, what is running."""

from __future__ import annotations

import platform
import time
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from vllm_engine import __version__
from vllm_engine.engine.engine_state import EngineState, EngineStatus, StatusReader
from vllm_engine.engine.startup.start_history import estimate
from vllm_engine.errors import error_body
from vllm_engine.gateway.error_dialect import ApiError
from vllm_engine.gateway.policy.readiness import HealthRules, not_ready, retry_after_seconds

router = APIRouter(tags=["server"])

PUBLIC_PATHS = frozenset(
    ("/livez", "/healthz", "/readyz", "/health", "/v1/health/live", "/v1/health/ready", "/ping")
)
"""Probes never need a key: orchestrators cannot send one."""


@dataclass(frozen=True)
class Build:
    """What runs, as known before the engine starts."""

    build_sha: str
    build_time: str
    vllm: str
    engine_python: str
    model: str
    model_revision: str | None
    frontend: str
    """The setting, until it is known which run."""
    device: str
    node: str | None = None
    """Which this is of several machines that serve the model."""


class Live(BaseModel):
    """Answer of `/livez`."""

    status: str


class DownloadProgress(BaseModel):
    """Progress of the weights' download; totals are null where the hub does not give sizes."""

    files_done: int
    files_total: int | None
    bytes_done: int
    bytes_total: int | None
    bytes_per_second: int | None
    remaining_seconds: float | None


class Health(BaseModel):
    """Answer of `/healthz`: `status` is ready, idle, waking (started again for a request) or unavailable.

    `error` has `code`, `message`, `remedy`, `docs` once it failed.
    `fraction` is of the whole start and, like the two estimates, based on an earlier start of the same
    configuration; `phase_fraction` is of the phase. Each is null where it is not known. `waits_for` says
    which other machine a start waits for, and why; `node` is this one's rank, where there are several.
    """

    status: str
    state: EngineState
    phase: str
    phase_fraction: float | None
    fraction: float | None
    elapsed_seconds: float
    estimate_seconds: float | None
    remaining_seconds: float | None
    download: DownloadProgress | None
    waits_for: str | None
    node: str | None
    model: str
    error: dict[str, Any] | None = None


class Version(BaseModel):
    """Answer of `/version`.

    `input_modalities` are `text` and, where the model's configuration describes a vision encoder, `image`.
    `frontend` is both, python or rust; `auto` until the engine has started.
    `sampling_defaults` are the model's own, from its generation_config.json and vLLM's flags.
    """

    version: str
    build_sha: str
    build_time: str
    vllm: str
    python: str
    engine_python: str
    model: str
    model_revision: str | None
    dtype: str | None
    input_modalities: tuple[str, ...]
    sampling_defaults: dict[str, int | float]
    device: str
    frontend: str


# Async although nothing is awaited: FastAPI runs plain functions in a thread pool.
async def _status(request: Request) -> EngineStatus:
    reader: StatusReader = request.app.state.status
    return reader.current


Status = Annotated[EngineStatus, Depends(_status)]


@router.get("/livez", summary="Liveness")
@router.get("/v1/health/live", include_in_schema=False)
async def livez() -> Live:
    """Answer that this program runs, without asking the engine."""
    return Live(status="alive")


@router.get(
    "/healthz",
    summary="Readiness",
    response_model=Health,
    responses={503: {"model": Health, "description": "Not ready: loading, lost, draining or failed."}},
)
@router.get("/readyz", response_model=Health, include_in_schema=False)
@router.get("/v1/health/ready", response_model=Health, include_in_schema=False)
async def healthz(request: Request, status: Status) -> JSONResponse:
    """Answer 200 when the engine has generated a token and still runs, else 503 and why.

    200 as well while it is stopped for being idle, unless `IDLE_IS_READY=0`.
    """
    rules: HealthRules = request.app.state.health_rules
    return _health(request, status, is_good=rules.is_ready(status))


@router.get("/health", response_model=Health, include_in_schema=False)
async def health(request: Request, status: Status) -> JSONResponse:
    """Answer as `/healthz`, or with `HEALTH_ROUTE=vllm` the same body with the status of vLLM's `/health`."""
    rules: HealthRules = request.app.state.health_rules
    return _health(request, status, is_good=rules.is_healthy(status))


def _health(request: Request, status: EngineStatus, *, is_good: bool) -> JSONResponse:
    body = health_of(request.app.state.build, status).model_dump(mode="json")
    if is_good:
        return JSONResponse(body)
    seconds = retry_after_seconds(status)
    headers = {} if seconds is None else {"Retry-After": str(seconds)}
    return JSONResponse(body, status_code=503, headers=headers)


def health_of(build: Build, status: EngineStatus) -> Health:
    """Describe the engine's state."""
    forecast = estimate(status, time.monotonic())
    return Health(
        status=_word(status),
        state=status.state,
        phase=str(status.phase),
        phase_fraction=_rounded(status.fraction, 3),
        fraction=1.0 if status.is_ready else _rounded(forecast.fraction if forecast else None, 3),
        elapsed_seconds=round(status.elapsed_seconds(), 1),
        estimate_seconds=_rounded(forecast.total_seconds if forecast else None),
        remaining_seconds=_rounded(forecast.remaining_seconds if forecast else None),
        download=_download(status),
        waits_for=status.waits_for,
        node=build.node,
        model=build.model,
        error=None if status.is_ready or status.is_resting else _error(status),
    )


def _word(status: EngineStatus) -> str:
    if status.is_ready:
        return "ready"
    if status.is_waking:
        return "waking"
    return "idle" if status.state is EngineState.IDLE else "unavailable"


def _download(status: EngineStatus) -> DownloadProgress | None:
    download = status.download
    if download is None or status.is_ready:
        return None
    return DownloadProgress(
        files_done=download.files_done,
        files_total=download.files_total,
        bytes_done=download.bytes_done,
        bytes_total=download.bytes_total,
        bytes_per_second=None if download.bytes_per_second is None else round(download.bytes_per_second),
        remaining_seconds=_rounded(download.remaining_seconds),
    )


def _rounded(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)


def _error(status: EngineStatus) -> dict[str, Any]:
    if status.error is not None:
        return dict(status.error.body)
    why = ApiError.of(503, not_ready(status).message)
    error: dict[str, Any] = error_body(why.message, type=why.kind, code=why.status)["error"]
    return error


@router.get("/ping", summary="Readiness for Runpod", response_class=Response, responses={204: {}, 503: {}})
async def ping(request: Request, status: Status) -> Response:
    """Answer as Runpod's load balancer expects: 204 while loading, 200 when ready, 503 otherwise."""
    rules: HealthRules = request.app.state.health_rules
    if rules.is_ready(status):
        return Response(status_code=200)
    is_coming = status.is_resting or status.state is EngineState.STARTING
    return Response(status_code=204 if is_coming else 503)


@router.get("/version", summary="What runs")
async def version(request: Request, status: Status) -> Version:
    """Return what runs: our build, vLLM, the model, the device."""
    build: Build = request.app.state.build
    known = asdict(build) | {
        "model_revision": status.model_revision or build.model_revision,
        "frontend": _frontend(status, build.frontend),
    }
    return Version(
        version=__version__,
        python=platform.python_version(),
        dtype=status.dtype,
        input_modalities=status.abilities.input_modalities,
        sampling_defaults=dict(status.abilities.sampling_defaults),
        **known,
    )


def _frontend(status: EngineStatus, setting: str) -> str:
    """Return `both` or the only frontend's name."""
    if not status.frontends:
        return setting
    return "both" if len(status.frontends) > 1 else status.frontends[0]
