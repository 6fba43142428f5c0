"""Names that miss one of ours stop the start; names that only look like one do not."""

from __future__ import annotations

import pytest

from vllm_engine.config.environment import understood
from vllm_engine.config.flags import FlagCatalogue
from vllm_engine.plan.variable_checks import check_names

CATALOGUE = FlagCatalogue.load("0.33.0")


def told(process: dict[str, str], dotenv: dict[str, str]) -> list[str]:
    """Return what is said of names."""
    return [str(problem) for problem in check_names(understood(process, dotenv), CATALOGUE)]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MODLE_ID", "MODEL_ID"),
        ("MODEL-ID", "MODEL_ID"),
        ("model_id", "MODEL_ID"),
        ("PROT", "PORT"),
        ("APIKEYS", "API_KEYS"),
        ("MAX_MODLE_LENN", "MAX_MODEL_LEN"),
        ("GPU_MEMORY_UTILISATION", "GPU_MEMORY_UTILIZATION"),
        ("SERVED_MODEL_NAMES", "SERVED_MODEL_NAME"),
    ],
)
def test_in_dotenv(name: str, meant: str) -> None:
    """.env is written for this program: what is nearly ours is a mistake. Its value may be a secret."""
    assert told({}, {name: "secret"}) == [f'{name}="***": nothing reads this name; did you mean {meant}?']


def test_in_the_process() -> None:
    """A long name that is one letter off stops the start as well, unless ours is set beside it."""
    assert "did you mean MODEL_ID" in told({"MODLE_ID": "a"}, {})[0]
    assert told({"MODLE_ID": "a", "MODEL_ID": "b"}, {}) == []


ORDINARY = [
    "ANTHROPIC_API_KEY",
    "APP_KEYS",
    "BUILD_SHA1",
    "BUILD_TIMES",
    "CCACHE_DIR",
    "CACHE_DIRS2",
    "COMPOSE_FILE",
    "CUDA_HOME",
    "CUDA_VISIBLE_DEVICES",
    "DOCKER_HOST",
    "EDITOR",
    "GH_TOKEN",
    "HF_HOME",
    "HF_ENDPOINT",
    "HOME",
    "HOSTNAME",
    "HOSTTYPE",
    "LANG",
    "LOGNAME",
    "LOG_DIR",
    "MAIL",
    "MODEL_DIR",
    "MODEL_PATH",
    "NODE_ENV",
    "NF_TOKEN",
    "OLDPWD",
    "OPENAI_API_KEY",
    "OTEL_ENDPOINT",
    "PATH",
    "PIP_CACHE_DIR",
    "POST",
    "PWD",
    "PYTHONPATH",
    "SHELL",
    "SHLVL",
    "SSH_AUTH_SOCK",
    "SSH_CLIENT",
    "SSL_PORT",
    "TERM",
    "TMPDIR",
    "USER",
    "UV_CACHE_DIR",
    "XDG_CACHE_HOME",
    "http_proxy",
    "port",
    "host",
    "MAX_NUM_SEQS",
    "ENFORCE_EAGER",
    "VLLM_PORT",
]


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_names(name: str) -> None:
    """What machines, shells and vLLM have is nobody's mistake."""
    assert told({name: "1"}, {}) == []


@pytest.mark.parametrize(
    "name",
    [
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "APP_KEYS",
        "COST",
        "ENABLE_API",
        "ENABLE_SSL",
        "HOSTS",
        "POST",
        "TYPE",
    ],
)
def test_other_names_in_dotenv(name: str) -> None:
    """What libraries read by themselves, and words of their own, are no mistakes there either."""
    assert told({}, {name: "1"}) == []
