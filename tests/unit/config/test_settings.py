"""Settings: every value validated, all errors at once, secrets hidden; misspelt names are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_engine.config.environment import Environment, understood
from vllm_engine.config.flags import FlagCatalogue
from vllm_engine.config.settings import Settings, legal, load_settings
from vllm_engine.errors import ExitCode, SettingsError
from vllm_engine.plan.variable_checks import check_names

CONTRACT = {
    **{"MODEL_ID": "Qwen/Qwen2.5-3B-Instruct", "HF_TOKEN": None, "PORT": 8000, "HOST": "0.0.0.0"},
    **{"DTYPE": "auto", "TENSOR_PARALLEL": 1, "MAX_MODEL_LEN": 8192, "GPU_MEMORY_UTILIZATION": 0.90},
    **{"BUILD_SHA": "dev", "BUILD_TIME": "dev", "ENABLE_SSHD": False, "PUBLIC_KEY": None, "SSH_PORT": 22},
}


def load(**process: str) -> Settings:
    """Load settings from the given variables alone."""
    return load_settings(Environment(process, {}))


def refused(**process: str) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        load(**process)
    return caught.value


def test_contract_defaults() -> None:
    defaults = load()
    assert {key: getattr(defaults, key.lower()) for key in CONTRACT} == CONTRACT
    assert load(PORT="").port == 8000, "an empty value counts as unset"
    with pytest.raises(ValueError, match="frozen"):
        defaults.port = 1  # type: ignore[misc]


ILLEGAL = {  # by what the message asks for, in every setting that asks for it
    "a port number from 1 to 65535": "0 65536 -1 http",
    "a port number from 1 to 65535, other than PORT": "8000 65536",
    "seconds above 0": "0 -1 inf nan soon",
    "seconds from 0": "-1 inf nan soon",
    "seconds, 0 for never": "-1 inf nan soon",
    "a whole number from 1": "0 -1 1.5",
    "a whole number from 1, or auto": "0 two",
    "a whole number of GPUs from 1, or auto": "0 two",
    "a whole number of tokens from 1, or auto": "0 -5 8192.5",
    "bytes from 1": "0 -1 1.5",
    "a whole number from 0": "-1 1.5",
    "a whole number, 0 for no limit": "-1 1.5",
    "a fraction above 0 and up to 1": "0 1.5 nan",
    "1 or 0": "maybe",
    "1, 0 or auto": "maybe",
    "auto, model, bfloat16, float16 or float32": "int4",
    "auto, both, python or rust": "go",
    "exit or hold": "stay",
    "debug, info, warning or error": "loud",
    "auto, console or json": "xml",
    "a hub id (org/name), a local folder, or bundled:smollm2-135m-instruct": "a/b/c --trust-remote-code a,b",
    "a hub access token": "größe",
    "origins such as https://app.example.com, without a path or a slash at the end, or * for all":
        "https://a.example/ https://a.example,* a.example null HTTPS://A.example",
    "an http:// or https:// URL without user and password, such as http://collector:4318":
        "collector:4317 grpc://collector:4317 http:// http://:4318 http://[::1",
}  # fmt: skip


def test_illegal_values() -> None:
    """What the message asks for and what is checked are one; the error names key, value and what is legal."""
    asked = {name.upper(): legal(name.upper()) for name in Settings.model_fields}
    assert set(asked.values()) > ILLEGAL.keys()
    for key, wanted in asked.items():
        for value in ILLEGAL.get(wanted, "").split():
            error = refused(**{key: value})
            shown = "***" if key == "HF_TOKEN" else value
            assert str(error) == f'{key}="{shown}": expected {wanted}'
            assert error.exit_code is ExitCode.BAD_SETTINGS


def test_every_error_at_once_on_a_line_of_its_own() -> None:
    error = refused(PORT="x", DTYPE="a\x1b[31m\n" + "b" * 500, MAX_MODEL_LEN="z")
    assert [problem.key for problem in error.problems] == ["DTYPE", "MAX_MODEL_LEN", "PORT"]
    lines = str(error).splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() and len(line) < 400 for line in lines)
    # Secrets are never shown.
    settings = load(HF_TOKEN="hf_verysecret")
    assert settings.hf_token is not None
    assert settings.hf_token.get_secret_value() == "hf_verysecret"
    assert "verysecret" not in repr(settings) + str(settings) + settings.model_dump_json()
    assert '"http://***@host:4318"' in str(refused(OTLP_ENDPOINT="http://me:secret@host:4318"))


ORIGINS = "https://a.example, http://[::1]:3000 tauri://localhost"
GOOD: list[tuple[str, str, str, object]] = [
    ("DTYPE", " BFloat16 ", "dtype", "bfloat16"),
    ("TENSOR_PARALLEL", "AUTO", "tensor_parallel", "auto"),
    ("ENABLE_SSHD", "1", "enable_sshd", True),
    ("ENABLE_SSHD", "false", "enable_sshd", False),
    ("SERVED_MODEL_NAME", "a, b c", "served_model_name", ("a", "b", "c")),
    ("CACHE_DIR", "/x", "cache_dir", Path("/x")),
    ("CORS_ORIGINS", "*", "cors_origins", ("*",)),
    (
        "CORS_ORIGINS",
        ORIGINS,
        "cors_origins",
        ("https://a.example", "http://[::1]:3000", "tauri://localhost"),
    ),
    # A bare host gets the standard path; a path is taken as it is.
    ("OTLP_ENDPOINT", "HTTPS://[fd00::1]:4318/x?y", "traces_url", "HTTPS://[fd00::1]:4318/x?y"),
    ("OTLP_ENDPOINT", "http://collector:4318/", "traces_url", "http://collector:4318/v1/traces"),
    ("OTLP_ENDPOINT", "", "traces_url", None),
]


def test_good_values_are_read_as_people_write_them() -> None:
    for key, text, name, value in GOOD:
        assert getattr(load(**{key: text}), name) == value


def misspelt(process: dict[str, str], dotenv: dict[str, str]) -> list[str]:
    catalogue = FlagCatalogue.load("0.33.0")
    problems, warnings = check_names(understood(process, dotenv), catalogue)
    return [str(problem) for problem in problems] + [f"warning: {each}" for each in warnings]


def test_misspelt_names() -> None:
    """.env is written for this program; in the process a long name counts, and beside ours is a warning."""
    for name, meant in (
        ("MODLE_ID", "MODEL_ID"), ("MODEL-ID", "MODEL_ID"), ("model_id", "MODEL_ID"), ("PROT", "PORT"),
        ("APIKEYS", "API_KEYS"), ("MAX_MODLE_LENN", "MAX_MODEL_LEN"), ("SERVED_MODEL_NAMES", "SERVED_MODEL_NAME"),
    ):  # fmt: skip
        said = f'{name}="***": nothing reads this name; did you mean {meant}?'
        assert misspelt({}, {name: "secret"}) == [said]
    assert "did you mean MODEL_ID" in misspelt({"MODLE_ID": "a"}, {})[0]
    beside = 'warning: MODLE_ID="***": nothing reads this name; MODEL_ID is set as well'
    assert misspelt({"MODLE_ID": "a", "MODEL_ID": "b"}, {}) == [beside]
    # Ordinary names are not misspelt.
    assert misspelt(dict.fromkeys(ORDINARY.split(), "1"), {}) == []
    assert misspelt({}, dict.fromkeys(("SSL_CERT_FILE", "APP_KEYS", "COST", "HOSTS", "TYPE"), "1")) == []


ORDINARY = """ANTHROPIC_API_KEY APP_KEYS BUILD_SHA1 CCACHE_DIR CACHE_DIRS2 GH_TOKEN HF_HOME HOSTNAME HOSTTYPE LOGNAME LOG_DIR
    MODEL_DIR MODEL_PATH NF_TOKEN OTEL_ENDPOINT POST SSH_CLIENT SSL_PORT http_proxy port host MAX_NUM_SEQS VLLM_PORT"""
