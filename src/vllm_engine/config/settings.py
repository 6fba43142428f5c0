"""Typed settings: every variable a user can set, its default, what is legal, and what it does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, ValidationInfo, field_validator

from vllm_engine.config.environment import Environment
from vllm_engine.config.quoting import stray_in_list, stray_in_text, stray_in_words
from vllm_engine.config.setting_types import (
    BoolOrAuto,
    Count,
    CountOrAuto,
    CountOrZero,
    Fraction,
    HomePath,
    HostName,
    HubToken,
    Legal,
    Limit,
    Lower,
    ModelId,
    Origins,
    PlainUrl,
    Port,
    Seconds,
    SecondsOrNever,
    SecondsOrZero,
    Words,
    legal_values,
    looks_local,
)
from vllm_engine.errors import IllegalValue, SettingsError

DtypeName = Literal["auto", "model", "bfloat16", "float16", "float32", "half", "float"]


class Settings(BaseModel):
    """Everything a user can set, validated; the field's upper-case name is the variable's name.

    Empty variables count as unset. Construct it through `load_settings` or `read_settings`,
    which report every illegal value at once.
    """

    model_config = ConfigDict(
        frozen=True, alias_generator=str.upper, extra="forbid", use_attribute_docstrings=True
    )

    # --- model
    model_id: ModelId = "Qwen/Qwen2.5-3B-Instruct"
    """The model to serve."""
    model_revision: Annotated[str | None, Legal("a branch, tag or commit of the hub repository")] = None
    """Pins the model's revision."""
    served_model_name: Words = ()
    """Names that clients send as `model`; responses carry the first. Default: `MODEL_ID`."""
    hf_token: HubToken | None = None
    """For gated and private models. Never logged, never on a command line."""

    # --- gateway
    host: Annotated[str, Legal("an IP address or host name of this machine")] = "0.0.0.0"  # noqa: S104
    """Address to listen on. A container's ports are published on 127.0.0.1 until `HOST` is set
    (`run_image.sh`: or keys are), since whoever reaches a port without keys may use the engine."""
    port: Port = 8000
    """Port to listen on."""
    health_port: Annotated[Port | None, Legal("a port number from 1 to 65535, other than PORT")] = None
    """A second port for probes, `/version` and `/metrics` alone: plain HTTP, no key."""
    tls_cert_file: Annotated[HomePath | None, Legal("a PEM file, the server's certificate first")] = None
    """Serves HTTPS on `PORT`; read again when it changes. Set both this and `TLS_KEY_FILE`."""
    tls_key_file: Annotated[HomePath | None, Legal("a PEM file without a passphrase")] = None
    """The private key of `TLS_CERT_FILE`."""
    health_route: Annotated[Literal["readiness", "vllm"], Lower] = "readiness"
    """What `/health` means. `vllm` is for liveness probes made for vLLM: 503 until the first readiness, then
    200, during restarts of the engine too if `REPLAY_TIMEOUT_SECONDS` keeps requests; 503 once it stops."""
    metrics_cache_seconds: SecondsOrNever = 1.0
    """How long one reading of `/metrics`, and of the page's history, is served to all who ask."""
    enable_ui: bool = True
    """Serves a page at `/` and `/ui`: a chat, the status, and the API reference (`/docs`)."""
    keep_alive_seconds: SecondsOrNever = 15.0
    """Longest silence on an event stream before a comment is sent, so that no proxy gives up."""

    # --- engine
    dtype: Annotated[DtypeName, Lower, Legal("auto, model, bfloat16, float16 or float32")] = "auto"
    """Weights and activations. `auto`: bfloat16 where the device supports it, else float16; `model`: what the
    model was published in, as vLLM's own `auto`."""
    tensor_parallel: Annotated[CountOrAuto, Legal("a whole number of GPUs from 1, or auto")] = 1
    """GPUs to split each layer over; `auto`: as many as fit the model."""
    pipeline_parallel: Count = 1
    """Groups of GPUs to split the layers over; the model takes `TENSOR_PARALLEL` times as many GPUs."""
    data_parallel: Count = 1
    """Copies of the model, each on GPUs of its own, behind one API."""
    distributed_executor: Annotated[Literal["auto", "mp", "ray"], Lower] = "auto"
    """What starts vLLM's processes on GPUs: `mp` alone, or Ray, whose cluster you run. `auto`: `mp`."""
    max_model_len: Annotated[CountOrAuto, Legal("a whole number of tokens from 1, or auto")] = 8192
    """Longest prompt plus output, in tokens. Unset: 8192 or the model's maximum, whichever is less;
    `auto`: as long as memory allows."""
    gpu_memory_utilization: Fraction = 0.90
    """Share of each GPU's memory that vLLM may use (on CPU: of RAM)."""
    engine_frontend: Annotated[Literal["auto", "both", "python", "rust"], Lower] = "auto"
    """vLLM's API servers: `python` has the whole API; `rust` is faster, and lacks n>1, /v1/responses and
    /v1/messages; `both` has each request served by the faster that can. `auto`: both on CPU, else python."""
    api_server_count: CountOrAuto = "auto"
    """vLLM API server processes (Python frontend). `auto`: 1 on CPU, by cores on GPU machines."""
    tool_call_parser: Annotated[str, Lower, Legal("auto, none, or the name of a parser of vLLM's")] = "auto"
    """Finds tool calls in answers. `auto`: by the model's architecture, chat template and name, `none` where
    unsure. With a parser, `ENABLE_AUTO_TOOL_CHOICE` is on."""
    reasoning_parser: Annotated[str, Lower, Legal("auto, none, or the name of a parser of vLLM's")] = "auto"
    """Parts reasoning from answers, as `reasoning`. `auto`: by the model, `none` where unsure."""
    vllm_extra_args: Annotated[str, Legal("vLLM flags as on a command line")] = ""
    """Raw `vllm serve` flags, added last, checked before the start."""
    engine_python: Annotated[HomePath | None, Legal("the path of a Python that has vLLM installed")] = None
    """The engine's Python. Default: `/opt/engine`'s, else that of `.venv-engine` beside `.venv`."""

    # --- several machines
    nodes: Count = 1
    """Machines that the model is split over, each with as many GPUs; the same settings on each of them."""
    node_rank: CountOrZero = 0
    """Which of `NODES` this is: 0, the head, has the API; the others are workers."""
    head_address: HostName | None = None
    """Where every node reaches node 0. Needed with `NODES` above 1."""
    head_port: Annotated[int, Field(ge=1, le=65534), Legal("a port number from 1 to 65534")] = 29501
    """Where node 0 gathers vLLM's processes; on the next port it tells the workers when to start."""

    # --- storage
    cache_dir: Annotated[HomePath, Legal("a writable folder")] = Path("/cache")
    """Holds models and all compile caches."""

    # --- access
    api_keys: Annotated[
        SecretStr | None,
        Legal("keys of 8 characters or more, each alone or as name:key, separated by spaces or commas"),
    ] = None
    """API keys. Once any are set, only the probes, the page's files (`/`, `/ui`, `/docs`) and `/metrics`
    (`METRICS_PUBLIC`) need none."""
    api_keys_file: Annotated[HomePath | None, Legal("one name:key or name:sha256:HEX a line")] = None
    """API keys in a file, read again when it changes."""
    extra_routes: Annotated[str, Legal("routes such as POST /v1/load_lora_adapter, separated by commas")] = ""
    """vLLM routes to expose beside those that are exposed anyway."""
    metrics_public: bool | None = None
    """Whether `/metrics` on `PORT` needs no key although keys are set. Default: 1; with `HEALTH_PORT` 0."""
    cors_origins: Origins = ()
    """Web pages that may call the API from a browser. Unset: none."""

    # --- admission
    max_in_flight: Count = 512
    """Requests at the engine at once; further ones wait."""
    max_queue: CountOrZero = 1024
    """Requests that may wait; further ones get 429."""
    queue_timeout_seconds: Seconds = 30.0
    """How long a request may wait before it gets 429."""
    key_max_in_flight: Limit = 0
    """Requests of one key at once."""
    key_requests_per_minute: Limit = 0
    """Requests of one key in a minute."""
    key_tokens_per_minute: Limit = 0
    """Prompt and output tokens of one key in a minute; estimated where a response does not count them."""
    max_body_bytes: Annotated[Count, Legal("bytes from 1")] = 33_554_432
    """Largest request body; a larger one gets 413."""
    body_idle_timeout_seconds: Seconds = 30.0
    """How long a client may pause while it sends its body; in all, that plus 1 s per 16 KiB."""
    header_timeout_seconds: Seconds = 30.0
    """How long a client may take to send its request's headers."""
    send_timeout_seconds: Seconds = 60.0
    """How long a client may read nothing of its response before its connection is closed."""
    client_keep_alive_seconds: Seconds = 75.0
    """How long a client's idle connection is kept: longer than a load balancer in front keeps it."""
    max_connections: Count = 16_384
    """Client connections at once; fewer where the limit on open files allows no more."""

    # --- lifecycle
    startup_timeout_seconds: Seconds = 1800.0
    """How long the engine may take to generate its first token, after the download."""
    max_restarts: CountOrZero = 5
    """How many times an engine that failed is restarted within `RESTART_WINDOW_SECONDS`."""
    restart_window_seconds: Seconds = 600.0
    """The time over which restarts are counted."""
    replay_timeout_seconds: SecondsOrNever = 300.0
    """How long a request without a response yet may wait for the engine to be restarted."""
    hang_timeout_seconds: SecondsOrNever = 180.0
    """How long the engine may have work and generate no token before it is restarted."""
    canary_interval_seconds: SecondsOrNever = 30.0
    """How often an idle engine has to generate one token through each frontend, to prove that it can."""
    idle_stop_seconds: SecondsOrNever = 0.0
    """After how long without a request the engine is stopped, so that its memory and GPU are free. The next
    request starts it, and waits for it at most `REPLAY_TIMEOUT_SECONDS`."""
    idle_is_ready: bool = True
    """Whether `/healthz` and `/v1/models` answer 200 while the engine is stopped for being idle, so that load
    balancers go on sending requests."""
    on_fatal: Annotated[Literal["exit", "hold"], Lower] = "exit"
    """When the engine cannot run: exit, or stay up, not ready, and say why on /healthz."""
    auto_fit: bool = False
    """Retries a start that lacks memory once, with a length or share of memory that fits."""
    standby: BoolOrAuto = "auto"
    """Keeps processes that have imported vLLM ready for the next start. `auto`: if 4 GiB stay free.
    With 0 no start imports anything in advance."""
    lame_duck_seconds: SecondsOrZero = 0.0
    """How long to go on serving after SIGTERM while readiness already fails."""
    drain_timeout_seconds: SecondsOrZero = 25.0
    """How long running requests may take to finish at shutdown."""
    termination_log: Annotated[HomePath, Legal("a writable file that exists")] = Path("/dev/termination-log")
    """Gets the reason of a failure, for Kubernetes; the file is not created."""

    # --- logging
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Lower] = "info"
    """Least severe level that is logged."""
    log_format: Annotated[Literal["auto", "console", "json"], Lower] = "auto"
    """`auto`: console on a terminal, else json."""
    access_log: bool = True
    """Logs a line for each request; probes and the page are left out in any case."""
    otlp_endpoint: PlainUrl | None = None
    """Collector of the gateway's and vLLM's traces (OTLP over HTTP); default path `/v1/traces`."""

    # --- build
    build_sha: Annotated[str, Legal("a commit id")] = "dev"
    """Shown by /version."""
    build_time: Annotated[str, Legal("a time stamp")] = "dev"
    """Shown by /version."""

    # --- ssh
    enable_sshd: bool = False
    """Starts sshd in the container image. Read by the image's entry point."""
    public_key: Annotated[str | None, Legal("one or more OpenSSH public keys")] = None
    """Keys that may log in; setting it starts sshd in the image."""
    ssh_port: Port = 22
    """Port of sshd."""

    @field_validator("health_port")
    @classmethod
    def _is_another_port(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value == info.data.get("port"):
            raise ValueError
        return value

    @property
    def served_names(self) -> tuple[str, ...]:
        """The names clients may send as `model`; responses carry the first."""
        return self.served_model_name or (self.model_id,)

    @property
    def is_worker(self) -> bool:
        """Whether this node only works for the head, and has no API."""
        return self.nodes > 1 and self.node_rank > 0

    @property
    def is_metrics_public(self) -> bool:
        """Whether `/metrics` on `PORT` needs no key although keys are set."""
        return self.health_port is None if self.metrics_public is None else self.metrics_public

    @property
    def traces_url(self) -> str | None:
        """Where spans are sent: vLLM takes its flag literally, so both are given the whole URL."""
        if self.otlp_endpoint is None or urlsplit(self.otlp_endpoint).path.strip("/"):
            return self.otlp_endpoint
        return self.otlp_endpoint.rstrip("/") + "/v1/traces"

    @property
    def is_local_model(self) -> bool:
        """Whether `MODEL_ID` names a folder or file rather than a hub repository."""
        return looks_local(self.model_id)


def load_settings(environment: Environment) -> Settings:
    """Validate the environment into `Settings`.

    Raises:
        SettingsError: lists every illegal value, and what was expected instead.
    """
    settings, illegal = read_settings(environment)
    if illegal:
        raise SettingsError(illegal)
    return settings


def read_settings(environment: Environment) -> tuple[Settings, list[IllegalValue]]:
    """Return the settings with defaults in place of illegal values, and a problem for each of those.

    For whoever has more to check, and reports everything at once.
    """
    merged = environment.merged
    given = {name.upper(): merged[name.upper()] for name in Settings.model_fields if merged.get(name.upper())}
    problems = {key: found for key, value in given.items() if (found := _stray(key, value))}
    settings, illegal = _validated({key: value for key, value in given.items() if key not in problems})
    problems |= {key: f"expected {legal(key)}" for key in illegal}
    return settings, [IllegalValue(key, _shown(key, given[key]), why) for key, why in problems.items()]


def _validated(given: Mapping[str, str]) -> tuple[Settings, set[str]]:
    """Return the settings, and the names of the illegal values that were left out."""
    try:
        return Settings(**given), set()
    except ValidationError as error:
        illegal = {str(item["loc"][0]) for item in error.errors()}
        # A value that is illegal only beside another one's default is not the user's mistake.
        settings, _ = _validated({key: value for key, value in given.items() if key not in illegal})
        return settings, illegal


def _stray(key: str, value: str) -> str | None:
    if key in ("VLLM_EXTRA_ARGS", "PUBLIC_KEY"):  # options before a key are quoted
        return stray_in_words(value)
    is_list = key in ("SERVED_MODEL_NAME", "CORS_ORIGINS", "API_KEYS", "EXTRA_ROUTES")
    return stray_in_list(value) if is_list else stray_in_text(value)


def legal(key: str) -> str:
    """Say what a legal value of a setting looks like."""
    return legal_values(Settings.model_fields[key.lower()])


def is_secret(key: str) -> bool:
    """Whether a setting's value is never shown."""
    return Settings.model_fields[key.lower()].annotation in (SecretStr | None, HubToken | None)


def is_switch(key: str) -> bool:
    """Whether a setting is turned on and off; False for what is no setting."""
    field = Settings.model_fields.get(key.lower())
    return field is not None and (field.annotation is bool or bool in get_args(field.annotation))


def _shown(key: str, value: str) -> str:
    if is_secret(key):
        return "***"
    return re.sub(r"//.*@", "//***@", value)  # the password in a URL
