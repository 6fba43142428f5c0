"""Typed settings: every variable a user can set, its default, what is legal, and what it does."""

from __future__ import annotations

import re
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
    Lower,
    ModelId,
    Origins,
    PlainUrl,
    Port,
    Seconds,
    SecondsOrZero,
    Words,
    looks_local,
)
from vllm_engine.errors import Problem, SettingsError

DtypeName = Literal["auto", "bfloat16", "float16", "float32", "half", "float"]


def _setting(default: Any, wanted: str, description: str, group: str = "engine") -> Any:
    """Declare a setting: its default, what a legal value looks like, and what it does."""
    return Field(default, description=description, json_schema_extra={"wanted": wanted, "group": group})


class Settings(BaseModel):
    """Everything a user can set, validated; the field's upper-case name is the variable's name.

    Empty variables count as unset. Construct it through `load_settings`, which reports every
    problem at once.
    """

    model_config = ConfigDict(frozen=True, alias_generator=str.upper, extra="forbid")

    model_id: ModelId = _setting(
        "Qwen/Qwen2.5-3B-Instruct",
        "a hub id (org/name), a local folder, or bundled:smollm2-135m-instruct",
        "The model to serve.",
        "model",
    )
    model_revision: str | None = _setting(
        None, "a branch, tag or commit of the hub repository", "Pins the model's revision.", "model"
    )
    served_model_name: Words = _setting(
        (),
        "one or more names, separated by spaces or commas",
        "What clients send as `model`; the first is what answers say. Default: `MODEL_ID`.",
        "model",
    )
    hf_token: HubToken = _setting(
        None,
        "a hub access token",
        "For gated and private models. Never logged, never on a command line.",
        "model",
    )
    host: str = _setting(
        "0.0.0.0",  # noqa: S104 - the container contract: reachable from outside
        "an IP address or host name of this machine",
        "Address to listen on.",
        "gateway",
    )
    port: Port = _setting(8000, "a port number from 1 to 65535", "Port to listen on.", "gateway")
    health_port: Port | None = _setting(
        None,
        "a port number from 1 to 65535, other than PORT",
        "A second port for probes, `/version` and `/metrics` alone: plain HTTP, no key.",
        "gateway",
    )
    tls_cert_file: HomePath | None = _setting(
        None,
        "a PEM file, the server's certificate first",
        "Serves HTTPS on `PORT`; read again when it changes. Set both this and `TLS_KEY_FILE`.",
        "gateway",
    )
    tls_key_file: HomePath | None = _setting(
        None, "a PEM file without a passphrase", "The private key of `TLS_CERT_FILE`.", "gateway"
    )
    dtype: Annotated[DtypeName, Lower] = _setting(
        "auto",
        "auto, bfloat16, float16 or float32",
        "Weights and activations. `auto`: bfloat16 where the device supports it, else float16.",
    )
    tensor_parallel: CountOrAuto = _setting(
        1,
        "a whole number of GPUs from 1, or auto",
        "GPUs to split the model over; `auto`: as many as fit the model.",
    )
    max_model_len: CountOrAuto = _setting(
        8192,
        "a whole number of tokens from 1, or auto",
        "Longest prompt plus answer, in tokens. Unset: 8192 or the model's maximum, whichever is less; "
        "`auto`: as long as memory allows.",
    )
    gpu_memory_utilization: Fraction = _setting(
        0.90,
        "a fraction above 0 and up to 1",
        "Share of each GPU's memory that vLLM may use (on CPU: of RAM).",
    )
    engine_frontend: Annotated[Literal["python", "rust"], Lower] = _setting(
        "python",
        "python or rust",
        "vLLM's API server: `python` has the whole API; `rust` is faster, experimental, and lacks n>1, "
        "/v1/responses and /v1/messages.",
    )
    api_server_count: CountOrAuto = _setting(
        "auto",
        "a whole number from 1, or auto",
        "vLLM API server processes (Python frontend). `auto`: 1 on CPU, by cores on GPU machines.",
    )
    vllm_extra_args: str = _setting(
        "", "vLLM flags as on a command line", "Raw `vllm serve` flags, added last, checked before the start."
    )
    cache_dir: HomePath = _setting(
        Path("/cache"), "a folder that can be written", "Models and every compile cache live here.", "storage"
    )
    engine_python: HomePath | None = _setting(
        None,
        "the path of a Python that has vLLM installed",
        "The engine's Python. Default: `/opt/engine`'s, else that of `.venv-engine` beside `.venv`.",
    )
    api_keys: SecretStr | None = _setting(
        None,
        "keys of 8 characters or more, each alone or as name:key, separated by spaces or commas",
        "API keys that may use the API. With keys set, everything but the probes asks for one.",
        "access",
    )
    api_keys_file: HomePath | None = _setting(
        None,
        "a file with one name:key or name:sha256:HEX a line",
        "API keys in a file, read again when it changes.",
        "access",
    )
    extra_routes: str = _setting(
        "",
        "routes such as POST /v1/load_lora_adapter, separated by commas",
        "Routes of vLLM's that the allow-list does not name and that shall be reachable all the same.",
        "access",
    )
    metrics_public: bool | None = _setting(
        None,
        "1 or 0",
        "Whether `/metrics` on `PORT` needs no key although keys are set. Default: 1; with `HEALTH_PORT` 0.",
        "access",
    )
    metrics_cache_seconds: SecondsOrZero = _setting(
        1.0,
        "seconds, 0 for never",
        "How long one reading of `/metrics`, and of the page's history, serves all who ask for it.",
        "gateway",
    )
    enable_ui: bool = _setting(
        True, "1 or 0", "Whether there is a page at `/` and `/ui`: the engine's status and a chat.", "gateway"
    )
    cors_origins: Origins = _setting(
        (),
        "origins such as https://app.example.com, without a path or a slash at the end, or * for all",
        "Web pages that may call the API from a browser. Unset: none.",
        "access",
    )
    max_in_flight: Count = _setting(
        512, "a whole number from 1", "Requests at the engine at once; further ones wait.", "admission"
    )
    max_queue: CountOrZero = _setting(
        1024, "a whole number from 0", "Requests that may wait; further ones get 429.", "admission"
    )
    queue_timeout_seconds: Seconds = _setting(
        30.0, "seconds above 0", "How long a request may wait for its turn before it gets 429.", "admission"
    )
    key_max_in_flight: CountOrZero = _setting(
        0, "a whole number, 0 for no limit", "Requests of one key at once.", "admission"
    )
    key_requests_per_minute: CountOrZero = _setting(
        0, "a whole number, 0 for no limit", "Requests of one key in a minute.", "admission"
    )
    key_tokens_per_minute: CountOrZero = _setting(
        0,
        "a whole number, 0 for no limit",
        "Tokens, prompts and answers, of one key in a minute; estimated where an answer does not tell.",
        "admission",
    )
    max_body_bytes: Count = _setting(
        33_554_432, "bytes from 1", "Largest request body; a larger one gets 413.", "admission"
    )
    body_idle_timeout_seconds: Seconds = _setting(
        30.0,
        "seconds above 0",
        "How long a client may pause while it sends its body; all of it may take that plus 1 s per 16 KiB.",
        "admission",
    )
    header_timeout_seconds: Seconds = _setting(
        30.0, "seconds above 0", "How long a client may take to send its request's headers.", "admission"
    )
    send_timeout_seconds: Seconds = _setting(
        60.0,
        "seconds above 0",
        "How long a client may take nothing of its answer, before it is taken for gone.",
        "admission",
    )
    client_keep_alive_seconds: Seconds = _setting(
        75.0,
        "seconds above 0",
        "How long a client's connection may wait for its next request: longer than a load balancer in front.",
        "admission",
    )
    max_connections: Count = _setting(
        16_384,
        "a whole number from 1",
        "Client connections at once; fewer where the limit on open files allows no more.",
        "admission",
    )
    keep_alive_seconds: SecondsOrZero = _setting(
        15.0,
        "seconds, 0 for never",
        "Longest silence on an event stream before a comment is sent, so that no proxy gives up.",
        "gateway",
    )
    startup_timeout_seconds: Seconds = _setting(
        1800.0, "seconds above 0", "How long the engine may take to its first token.", "lifecycle"
    )
    max_restarts: CountOrZero = _setting(
        5,
        "a whole number from 0",
        "How often a lost engine is started again within `RESTART_WINDOW_SECONDS`.",
        "lifecycle",
    )
    restart_window_seconds: Seconds = _setting(
        600.0, "seconds above 0", "The time over which restarts are counted.", "lifecycle"
    )
    replay_timeout_seconds: SecondsOrZero = _setting(
        300.0,
        "seconds, 0 for never",
        "How long a request that has no answer yet may wait for a lost engine's restart.",
        "lifecycle",
    )
    hang_timeout_seconds: SecondsOrZero = _setting(
        180.0,
        "seconds, 0 for never",
        "How long the engine may have work and make no progress before it is restarted; most for one token.",
        "lifecycle",
    )
    canary_interval_seconds: SecondsOrZero = _setting(
        30.0,
        "seconds, 0 for never",
        "How often an idle engine has to generate one token, to prove that it still can.",
        "lifecycle",
    )
    on_fatal: Annotated[Literal["exit", "hold"], Lower] = _setting(
        "exit",
        "exit or hold",
        "When the engine cannot run: exit, or stay up, not ready, and say why on /healthz.",
        "lifecycle",
    )
    auto_fit: bool = _setting(
        False,
        "1 or 0",
        "Whether a start that lacks memory is tried once more with the length or share that fits.",
        "lifecycle",
    )
    standby: BoolOrAuto = _setting(
        "auto",
        "1, 0 or auto",
        "Whether processes that have imported vLLM wait to be the next engine. `auto`: if 4 GiB stay free.",
        "lifecycle",
    )
    lame_duck_seconds: SecondsOrZero = _setting(
        0.0,
        "seconds from 0",
        "How long to go on serving after SIGTERM while readiness says no already.",
        "lifecycle",
    )
    drain_timeout_seconds: SecondsOrZero = _setting(
        25.0, "seconds from 0", "How long running requests may take to finish at shutdown.", "lifecycle"
    )
    termination_log: HomePath = _setting(
        Path("/dev/termination-log"),
        "a file that exists and can be written",
        "Gets the reason of a failure, for Kubernetes; a file that is not there is not made.",
        "lifecycle",
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Lower] = _setting(
        "info", "debug, info, warning or error", "Least severe level that is logged.", "logging"
    )
    log_format: Annotated[Literal["auto", "console", "json"], Lower] = _setting(
        "auto", "auto, console or json", "`auto`: console on a terminal, else json.", "logging"
    )
    otlp_endpoint: PlainUrl | None = _setting(
        None,
        "an http:// or https:// URL without user and password, such as http://collector:4318",
        "Collector of traces (OTLP over HTTP), the gateway's and vLLM's as one; path `/v1/traces` if none.",
        "logging",
    )
    build_sha: str = _setting("dev", "a commit id", "Shown by /version.", "build")
    build_time: str = _setting("dev", "a time stamp", "Shown by /version.", "build")
    enable_sshd: bool = _setting(
        False, "1 or 0", "Starts sshd in the container image. Read by the image's entry point.", "ssh"
    )
    public_key: str | None = _setting(
        None,
        "one or more OpenSSH public keys",
        "Keys that may log in; setting it starts sshd in the image.",
        "ssh",
    )
    ssh_port: Port = _setting(22, "a port number from 1 to 65535", "Port of sshd.", "ssh")

    @field_validator("health_port")
    @classmethod
    def _is_another_port(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value == info.data.get("port"):
            raise ValueError
        return value

    @property
    def served_names(self) -> tuple[str, ...]:
        """The names clients may send as `model`; the first one is what answers carry."""
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
        SettingsError: lists every value that is wrong, what was wanted, in one go.
    """
    merged = environment.merged
    given = {name.upper(): merged[name.upper()] for name in Settings.model_fields if merged.get(name.upper())}
    problems = {key: found for key, value in given.items() if (found := _stray(key, value))}
    try:
        settings = Settings(**{key: value for key, value in given.items() if key not in problems})
    except ValidationError as error:
        problems |= {
            key: f"expected {wanted(key)}" for key in (str(item["loc"][0]) for item in error.errors())
        }
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


def wanted(key: str) -> str:
    """Say what a legal value of setting `key` looks like."""
    extra = Settings.model_fields[key.lower()].json_schema_extra
    return str(extra["wanted"]) if isinstance(extra, dict) else ""


def _shown(key: str, value: str) -> str:
    if Settings.model_fields[key.lower()].annotation == (SecretStr | None):
        return "***"
    return re.sub(r"//.*@", "//***@", value)  # an URL's password
