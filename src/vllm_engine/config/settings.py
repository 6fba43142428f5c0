"""Typed settings: every variable a user can set, its default, what is legal, and what it does."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from vllm_engine.config.environment import Environment
from vllm_engine.config.quoting import stray_in_list, stray_in_text, stray_in_words
from vllm_engine.config.setting_types import (
    BoolOrAuto,
    Count,
    CountOrAuto,
    CountOrZero,
    Fraction,
    HomePath,
    HubToken,
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
from vllm_engine.errors import Problem, SettingsError

DtypeName = Literal["auto", "bfloat16", "float16", "float32", "half", "float"]


def _group(name: str) -> Callable[..., Any]:
    def setting(default: object, description: str, *, legal: str = "") -> Any:
        extra: dict[str, Any] = {"group": name, "legal": legal}
        return Field(default, description=description, json_schema_extra=extra)

    return setting


_model, _gateway, _access = _group("model"), _group("gateway"), _group("access")
_engine, _storage, _admission = _group("engine"), _group("storage"), _group("admission")
_lifecycle, _logging = _group("lifecycle"), _group("logging")
_build, _ssh = _group("build"), _group("ssh")
# Each declares a setting: its default, what it does, and what is legal where its type does not say it.


class Settings(BaseModel):
    """Everything a user can set, validated; the field's upper-case name is the variable's name.

    Empty variables count as unset. Construct it through `load_settings`, which reports every
    problem at once.
    """

    model_config = ConfigDict(frozen=True, alias_generator=str.upper, extra="forbid")

    model_id: ModelId = _model("Qwen/Qwen2.5-3B-Instruct", "The model to serve.")
    model_revision: str | None = _model(
        None, "Pins the model's revision.", legal="a branch, tag or commit of the hub repository"
    )
    served_model_name: Words = _model(
        (), "Names that clients send as `model`; responses carry the first. Default: `MODEL_ID`."
    )
    hf_token: HubToken | None = _model(
        None, "For gated and private models. Never logged, never on a command line."
    )

    host: str = _gateway(
        "0.0.0.0",  # noqa: S104 - the container contract: reachable from outside
        "Address to listen on.",
        legal="an IP address or host name of this machine",
    )
    port: Port = _gateway(8000, "Port to listen on.")
    health_port: Port | None = _gateway(
        None,
        "A second port for probes, `/version` and `/metrics` alone: plain HTTP, no key.",
        legal="a port number from 1 to 65535, other than PORT",
    )
    tls_cert_file: HomePath | None = _gateway(
        None,
        "Serves HTTPS on `PORT`; read again when it changes. Set both this and `TLS_KEY_FILE`.",
        legal="a PEM file, the server's certificate first",
    )
    tls_key_file: HomePath | None = _gateway(
        None, "The private key of `TLS_CERT_FILE`.", legal="a PEM file without a passphrase"
    )

    dtype: Annotated[DtypeName, Lower] = _engine(
        "auto",
        "Weights and activations. `auto`: bfloat16 where the device supports it, else float16.",
        legal="auto, bfloat16, float16 or float32",
    )
    tensor_parallel: CountOrAuto = _engine(
        1,
        "GPUs to split the model over; `auto`: as many as fit the model.",
        legal="a whole number of GPUs from 1, or auto",
    )
    max_model_len: CountOrAuto = _engine(
        8192,
        "Longest prompt plus output, in tokens. Unset: 8192 or the model's maximum, whichever is less; "
        "`auto`: as long as memory allows.",
        legal="a whole number of tokens from 1, or auto",
    )
    gpu_memory_utilization: Fraction = _engine(
        0.90, "Share of each GPU's memory that vLLM may use (on CPU: of RAM)."
    )
    engine_frontend: Annotated[Literal["python", "rust"], Lower] = _engine(
        "python",
        "vLLM's API server: `python` has the whole API; `rust` is faster, experimental, and lacks n>1, "
        "/v1/responses and /v1/messages.",
    )
    api_server_count: CountOrAuto = _engine(
        "auto", "vLLM API server processes (Python frontend). `auto`: 1 on CPU, by cores on GPU machines."
    )
    vllm_extra_args: str = _engine(
        "",
        "Raw `vllm serve` flags, added last, checked before the start.",
        legal="vLLM flags as on a command line",
    )
    cache_dir: HomePath = _storage(
        Path("/cache"), "Holds models and all compile caches.", legal="a writable folder"
    )
    engine_python: HomePath | None = _engine(
        None,
        "The engine's Python. Default: `/opt/engine`'s, else that of `.venv-engine` beside `.venv`.",
        legal="the path of a Python that has vLLM installed",
    )

    api_keys: SecretStr | None = _access(
        None,
        "API keys. Once any are set, every route but the probes requires one.",
        legal="keys of 8 characters or more, each alone or as name:key, separated by spaces or commas",
    )
    api_keys_file: HomePath | None = _access(
        None,
        "API keys in a file, read again when it changes.",
        legal="a file with one name:key or name:sha256:HEX a line",
    )
    extra_routes: str = _access(
        "",
        "vLLM routes to expose beside those that are exposed anyway.",
        legal="routes such as POST /v1/load_lora_adapter, separated by commas",
    )
    metrics_public: bool | None = _access(
        None,
        "Whether `/metrics` on `PORT` needs no key although keys are set. Default: 1; with `HEALTH_PORT` 0.",
    )
    metrics_cache_seconds: SecondsOrNever = _gateway(
        1.0, "How long one reading of `/metrics`, and of the page's history, is served to all who ask."
    )
    enable_ui: bool = _gateway(True, "Serves a page at `/` and `/ui`: the engine's status and a chat.")
    cors_origins: Origins = _access((), "Web pages that may call the API from a browser. Unset: none.")

    max_in_flight: Count = _admission(512, "Requests at the engine at once; further ones wait.")
    max_queue: CountOrZero = _admission(1024, "Requests that may wait; further ones get 429.")
    queue_timeout_seconds: Seconds = _admission(30.0, "How long a request may wait before it gets 429.")
    key_max_in_flight: Limit = _admission(0, "Requests of one key at once.")
    key_requests_per_minute: Limit = _admission(0, "Requests of one key in a minute.")
    key_tokens_per_minute: Limit = _admission(
        0,
        "Prompt and output tokens of one key in a minute; estimated where a response does not count them.",
    )
    max_body_bytes: Count = _admission(
        33_554_432, "Largest request body; a larger one gets 413.", legal="bytes from 1"
    )
    body_idle_timeout_seconds: Seconds = _admission(
        30.0, "How long a client may pause while it sends its body; in all, that plus 1 s per 16 KiB."
    )
    header_timeout_seconds: Seconds = _admission(
        30.0, "How long a client may take to send its request's headers."
    )
    send_timeout_seconds: Seconds = _admission(
        60.0, "How long a client may read nothing of its response before its connection is closed."
    )
    client_keep_alive_seconds: Seconds = _admission(
        75.0, "How long a client's idle connection is kept: longer than a load balancer in front keeps it."
    )
    max_connections: Count = _admission(
        16_384, "Client connections at once; fewer where the limit on open files allows no more."
    )
    keep_alive_seconds: SecondsOrNever = _gateway(
        15.0, "Longest silence on an event stream before a comment is sent, so that no proxy gives up."
    )

    startup_timeout_seconds: Seconds = _lifecycle(
        1800.0, "How long the engine may take to generate its first token."
    )
    max_restarts: CountOrZero = _lifecycle(
        5, "How many times an engine that failed is restarted within `RESTART_WINDOW_SECONDS`."
    )
    restart_window_seconds: Seconds = _lifecycle(600.0, "The time over which restarts are counted.")
    replay_timeout_seconds: SecondsOrNever = _lifecycle(
        300.0, "How long a request without a response yet may wait for the engine to be restarted."
    )
    hang_timeout_seconds: SecondsOrNever = _lifecycle(
        180.0, "How long the engine may have work and generate no token before it is restarted."
    )
    canary_interval_seconds: SecondsOrNever = _lifecycle(
        30.0, "How often an idle engine has to generate one token, to prove that it still can."
    )
    on_fatal: Annotated[Literal["exit", "hold"], Lower] = _lifecycle(
        "exit", "When the engine cannot run: exit, or stay up, not ready, and say why on /healthz."
    )
    auto_fit: bool = _lifecycle(
        False, "Retries a start that lacks memory once, with a length or share of memory that fits."
    )
    standby: BoolOrAuto = _lifecycle(
        "auto",
        "Keeps processes that have imported vLLM ready for the next start. `auto`: if 4 GiB stay free.",
    )
    lame_duck_seconds: SecondsOrZero = _lifecycle(
        0.0, "How long to go on serving after SIGTERM while readiness already fails."
    )
    drain_timeout_seconds: SecondsOrZero = _lifecycle(
        25.0, "How long running requests may take to finish at shutdown."
    )
    termination_log: HomePath = _lifecycle(
        Path("/dev/termination-log"),
        "Gets the reason of a failure, for Kubernetes; the file is not created.",
        legal="a writable file that exists",
    )

    log_level: Annotated[Literal["debug", "info", "warning", "error"], Lower] = _logging(
        "info", "Least severe level that is logged."
    )
    log_format: Annotated[Literal["auto", "console", "json"], Lower] = _logging(
        "auto", "`auto`: console on a terminal, else json."
    )
    otlp_endpoint: PlainUrl | None = _logging(
        None,
        "Collector of the gateway's and vLLM's traces (OTLP over HTTP); default path `/v1/traces`.",
    )
    build_sha: str = _build("dev", "Shown by /version.", legal="a commit id")
    build_time: str = _build("dev", "Shown by /version.", legal="a time stamp")
    enable_sshd: bool = _ssh(False, "Starts sshd in the container image. Read by the image's entry point.")
    public_key: str | None = _ssh(
        None,
        "Keys that may log in; setting it starts sshd in the image.",
        legal="one or more OpenSSH public keys",
    )
    ssh_port: Port = _ssh(22, "Port of sshd.")

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
    merged = environment.merged
    given = {name.upper(): merged[name.upper()] for name in Settings.model_fields if merged.get(name.upper())}
    problems = {key: found for key, value in given.items() if (found := _stray(key, value))}
    try:
        settings = Settings(**{key: value for key, value in given.items() if key not in problems})
    except ValidationError as error:
        illegal = (str(item["loc"][0]) for item in error.errors())
        problems |= {key: f"expected {legal(key)}" for key in illegal}
    if problems:
        raise SettingsError(
            [Problem(key, _shown(key, given[key]), problems[key]) for key in given if key in problems]
        )
    return settings


def _stray(key: str, value: str) -> str | None:
    if key in ("VLLM_EXTRA_ARGS", "PUBLIC_KEY"):  # options before a key are quoted
        return stray_in_words(value)
    is_list = key in ("SERVED_MODEL_NAME", "CORS_ORIGINS", "API_KEYS", "EXTRA_ROUTES")
    return stray_in_list(value) if is_list else stray_in_text(value)


def legal(key: str) -> str:
    """Say what a legal value of a setting looks like."""
    field = Settings.model_fields[key.lower()]
    extra = field.json_schema_extra
    return (str(extra["legal"]) if isinstance(extra, dict) else "") or legal_values(field)


def _shown(key: str, value: str) -> str:
    if Settings.model_fields[key.lower()].annotation in (SecretStr | None, HubToken | None):
        return "***"
    return re.sub(r"//.*@", "//***@", value)  # the password in a URL
