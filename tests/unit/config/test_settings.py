"""Settings: every value validated, all errors at once, provenance kept, secrets hidden."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_engine.config.environment import Environment, read_environment
from vllm_engine.config.settings import Settings, legal, load_settings
from vllm_engine.errors import ExitCode, SettingsError

CONTRACT = {
    "MODEL_ID": "Qwen/Qwen2.5-3B-Instruct",
    "HF_TOKEN": None,
    "PORT": 8000,
    "HOST": "0.0.0.0",
    "DTYPE": "auto",
    "TENSOR_PARALLEL": 1,
    "MAX_MODEL_LEN": 8192,
    "GPU_MEMORY_UTILIZATION": 0.90,
    "BUILD_SHA": "dev",
    "BUILD_TIME": "dev",
    "ENABLE_SSHD": False,
    "PUBLIC_KEY": None,
    "SSH_PORT": 22,
}


def load(**process: str) -> Settings:
    """Load settings from the given variables alone."""
    return load_settings(Environment(process, {}))


@pytest.mark.parametrize(("key", "value"), CONTRACT.items())
def test_contract_default(key: str, value: object) -> None:
    """Each of the thirteen contract variables has the default that users know."""
    assert getattr(load(), key.lower()) == value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("PORT", "0"),
        ("PORT", "65536"),
        ("PORT", "http"),
        ("OTLP_ENDPOINT", "collector:4317"),
        ("OTLP_ENDPOINT", "grpc://collector:4317"),
        ("OTLP_ENDPOINT", "http://"),
        ("SSH_PORT", "-1"),
        ("HEALTH_PORT", "8000"),
        ("HEALTH_PORT", "65536"),
        ("DTYPE", "int4"),
        ("TENSOR_PARALLEL", "0"),
        ("TENSOR_PARALLEL", "two"),
        ("MAX_MODEL_LEN", "0"),
        ("MAX_MODEL_LEN", "-5"),
        ("MAX_MODEL_LEN", "8192.5"),
        ("GPU_MEMORY_UTILIZATION", "1.5"),
        ("GPU_MEMORY_UTILIZATION", "0"),
        ("GPU_MEMORY_UTILIZATION", "nan"),
        ("ENABLE_SSHD", "maybe"),
        ("ENGINE_FRONTEND", "go"),
        ("API_SERVER_COUNT", "0"),
        ("STARTUP_TIMEOUT_SECONDS", "0"),
        ("STARTUP_TIMEOUT_SECONDS", "inf"),
        ("DRAIN_TIMEOUT_SECONDS", "-1"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("CORS_ORIGINS", "https://a.example/"),
        ("CORS_ORIGINS", "https://a.example, *"),
        ("CORS_ORIGINS", "a.example"),
        ("CORS_ORIGINS", "null"),
        ("CORS_ORIGINS", "HTTPS://A.example"),
        ("MODEL_ID", "two words"),
        ("MODEL_ID", "a/b/c"),
        ("MODEL_ID", "--trust-remote-code"),
    ],
)
def test_bad_value(key: str, value: str) -> None:
    """A bad value's error names key, value and what was wanted, on one line, and exits 2."""
    with pytest.raises(SettingsError) as caught:
        load(**{key: value})
    assert str(caught.value) == f'{key}="{value}": expected {legal(key)}'
    assert caught.value.exit_code is ExitCode.BAD_SETTINGS


LEGAL = {  # what a description asks for: a bad value of each kind
    "seconds above 0": ("0", "-1", "inf", "nan", "soon"),
    "seconds from 0": ("-1", "inf", "nan", "soon"),
    "seconds, 0 for never": ("-1", "inf", "nan", "soon"),
    "a whole number from 1": ("0", "-1", "1.5"),
    "bytes from 1": ("0", "-1", "1.5"),
    "a whole number from 0": ("-1", "1.5"),
    "a whole number, 0 for no limit": ("-1", "1.5"),
}


@pytest.mark.parametrize(
    ("key", "value"),
    [(name.upper(), value) for name in Settings.model_fields for value in LEGAL.get(legal(name.upper()), ())],
)
def test_what_is_wanted_is_asked_for(key: str, value: str) -> None:
    """A number's description and its check are one: none is taken that is not what the message wants."""
    with pytest.raises(SettingsError, match=f"^{key}=.*expected"):
        load(**{key: value})


def test_all_errors_at_once() -> None:
    """Several bad values are reported together."""
    with pytest.raises(SettingsError) as caught:
        load(PORT="x", DTYPE="y", MAX_MODEL_LEN="z")
    assert [problem.key for problem in caught.value.problems] == ["PORT", "DTYPE", "MAX_MODEL_LEN"]


def test_secret_is_never_shown() -> None:
    """The token appears in no representation of the settings."""
    settings = load(HF_TOKEN="hf_verysecret")
    assert settings.hf_token is not None
    assert settings.hf_token.get_secret_value() == "hf_verysecret"
    assert "verysecret" not in repr(settings) + str(settings) + settings.model_dump_json()


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("DTYPE", " BFloat16 ", "bfloat16"),
        ("TENSOR_PARALLEL", "AUTO", "auto"),
        ("MAX_MODEL_LEN", "auto", "auto"),
        ("ENABLE_SSHD", "1", True),
        ("ENABLE_SSHD", "false", False),
        ("SERVED_MODEL_NAME", "a, b c", ("a", "b", "c")),
        ("MODEL_ID", " gpt2 ", "gpt2"),
        ("CACHE_DIR", "/x", Path("/x")),
        ("CORS_ORIGINS", "*", ("*",)),
        (
            "CORS_ORIGINS",
            "https://a.example, http://[::1]:3000 tauri://localhost",
            ("https://a.example", "http://[::1]:3000", "tauri://localhost"),
        ),
    ],
)
def test_good_value(key: str, text: str, value: object) -> None:
    """Values are read as people write them."""
    assert getattr(load(**{key: text}), key.lower()) == value


def test_empty_counts_as_unset() -> None:
    """`PORT=` in a compose file leaves the default."""
    assert load(PORT="").port == 8000


def test_settings_are_frozen() -> None:
    """Nothing changes a setting after the start."""
    with pytest.raises(ValueError, match="frozen"):
        load().port = 1  # type: ignore[misc]


def test_environment_beats_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable wins over .env, an empty one does not, and the source is told."""
    (tmp_path / ".env").write_text("PORT=1111\nDTYPE=float16\nLOG_LEVEL=debug\n# nothing\n")
    monkeypatch.setenv("PORT", "2222")
    monkeypatch.setenv("LOG_LEVEL", "")
    environment = read_environment()
    settings = load_settings(environment)
    assert (settings.port, settings.dtype, settings.log_level) == (2222, "float16", "debug")
    sources = [environment.source(key) for key in ("PORT", "DTYPE", "LOG_LEVEL", "HOST")]
    assert sources == ["environment", ".env", ".env", None]


def test_garbled_dotenv(tmp_path: Path) -> None:
    """A .env that is no text is said, not ignored."""
    (tmp_path / ".env").write_bytes(b"PORT=\xff\xfe")
    with pytest.raises(SettingsError, match=r"\.env.*cannot be read"):
        read_environment()


def test_error_shows_odd_values_safely() -> None:
    """Control characters and endless values do not reach the terminal as they are."""
    with pytest.raises(SettingsError) as caught:
        load(DTYPE="a\x1b[31m\n" + "b" * 500)
    line = str(caught.value)
    assert "\x1b" not in line
    assert "\n" not in line
    assert len(line) < 400


def test_no_password_in_an_endpoint() -> None:
    """It would be on the engine's command line; the refusal does not show it either."""
    with pytest.raises(SettingsError, match=r"OTLP_ENDPOINT=\"http://\*\*\*@host:4318\""):
        load(OTLP_ENDPOINT="http://me:secret@host:4318")


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://collector:4318", "http://collector:4318/v1/traces"),
        ("http://collector:4318/", "http://collector:4318/v1/traces"),
        ("https://host/otlp/v1/traces", "https://host/otlp/v1/traces"),
    ],
)
def test_where_spans_go(endpoint: str, url: str) -> None:
    """A bare host gets the standard path; a path is taken as it is."""
    assert load(OTLP_ENDPOINT=endpoint).traces_url == url
    assert load().traces_url is None
