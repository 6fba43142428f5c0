"""What is secret in an environment, and what is not."""

from __future__ import annotations

import pytest

from vllm_engine.config.redaction import mask_environ, secrets_in_environment


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("HF_TOKEN", "hf_notARealToken", "hf_notARealToken"),
        ("VLLM_API_KEY", "sk-abcdefgh", "sk-abcdefgh"),
        ("AWS_SECRET_ACCESS_KEY", "abcdefghij", "abcdefghij"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abcdefghij,x=1", "abcdefghij"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "api-key=abcdefghij", "abcdefghij"),
        ("DB_PASSWORD_PROD", "abcdefghij", "abcdefghij"),
        ("PGPASSWORD", "abcdefghij", "abcdefghij"),
        ("OPENAI_API_KEY_2", "sk-abcdefgh", "sk-abcdefgh"),
        ("GITHUBTOKEN", "ghp_abcdefgh", "ghp_abcdefgh"),
        ("HTTP_PROXY", "http://me:p@ss@word!@proxy:3128", "p@ss@word!"),
        ("https_proxy", "http://me:p%40ssw0rd!@proxy:3128", "p@ssw0rd!"),
    ],
)
def test_secrets(name: str, value: str, secret: str) -> None:
    """They are blanked in the log in every form, and not shown where the environment is."""
    assert secret in secrets_in_environment({name: value})
    assert secret not in mask_environ({name: value})[name]
    assert "p%40ssw0rd" not in mask_environ({name: value})[name]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOKENIZERS_PARALLELISM", "false-and-longer"),
        ("MAX_NUM_BATCHED_TOKENS", "8192819281"),
        ("API_KEYS_FILE", "/run/secrets/keys"),
        ("SECRET_NAME", "hub-token-of-the-cluster"),
        ("AWS_ACCESS_KEY_ID", "AKIAABCDEFGH"),
        ("PIP_INDEX_URL", "https://host.example/a@b/simple"),
        ("HF_TOKEN_PATH", "/run/secrets/token"),
        ("HF_ENDPOINT", "https://hub.example/path"),
    ],
)
def test_no_secrets(name: str, value: str) -> None:
    """A name that only sounds like one is shown, and is not cut out of every line of the log."""
    assert mask_environ({name: value}) == {name: value}
    assert secrets_in_environment({name: value}) == []


def test_what_is_too_short_is_not_blanked() -> None:
    """It would blank half of the log."""
    assert secrets_in_environment({"HF_TOKEN": "a", "HTTP_PROXY": "http://me:pw@proxy"}) == []
