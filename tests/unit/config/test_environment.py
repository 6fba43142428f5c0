"""The environment as it is meant: clean values, one reader of .env, no Service links, others' names understood."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vllm_engine.config.environment import Environment, read_environment, understood
from vllm_engine.config.flags import FlagCatalogue
from vllm_engine.config.other_engines import ELSEWHERE, SAME, unread
from vllm_engine.config.quoting import stray_in_words
from vllm_engine.config.redaction import mask_environ, secrets_in_environment
from vllm_engine.config.settings import Settings, load_settings
from vllm_engine.errors import SettingsError
from vllm_engine.plan.engine_command import RESERVED_FLAGS
from vllm_engine.plan.variable_checks import check_flags

KEY = "team:sk-abcdefgh"
OURS = {name.upper() for name in Settings.model_fields}
CATALOGUE = FlagCatalogue.load("0.33.0")


def pairs(text: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in text.split())


def refusal(**variables: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(understood(variables, {}))
    return str(caught.value)


def test_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable wins over .env and that over a command's defaults; an empty one does not."""
    (tmp_path / ".env").write_text("PORT=1111\nDTYPE=float16\nLOG_LEVEL=debug\n# nothing\n")
    monkeypatch.setenv("PORT", "2222")
    monkeypatch.setenv("LOG_LEVEL", "")
    environment = read_environment()
    settings = load_settings(environment)
    assert (settings.port, settings.dtype, settings.log_level) == (2222, "float16", "debug")
    sources = [environment.source(key) for key in ("PORT", "DTYPE", "LOG_LEVEL", "HOST")]
    assert sources == ["environment", ".env", ".env", None]
    assert Environment({"PORT": "1"}, {}, {"PORT": "2", "DTYPE": "half"}).merged == {
        "PORT": "1",
        "DTYPE": "half",
    }


DOTENV: list[tuple[bytes, dict[str, str]]] = [
    (b"\xef\xbb\xbfAPI_KEYS=team:sk-abcdefgh\nPORT=1\n", {"API_KEYS": KEY, "PORT": "1"}),
    (b'API_KEYS="team:sk-abcdefgh" # prod\r\nPORT=1\r\n', {"API_KEYS": KEY, "PORT": "1"}),
    (b"export API_KEYS = 'team:sk-abcdefgh'\n", {"API_KEYS": KEY}),
    (b"A_TEAM=team\nAPI_KEYS=old\nAPI_KEYS=${A_TEAM}:sk-abcdefgh", {"A_TEAM": "team", "API_KEYS": KEY}),
    (b'PUBLIC_KEY="one\r\ntwo\r\n"\r\n', {"PUBLIC_KEY": "one\ntwo"}),
    (b"HF_TOKEN=a$b\nSERVED_MODEL_NAME=one two\n", {"HF_TOKEN": "a$b", "SERVED_MODEL_NAME": "one two"}),
    (b"", {}),
]


def test_dotenv(tmp_path: Path) -> None:
    """However an editor, a shell or Windows has written it, it says the same. A folder counts as no file."""
    for content, expected in DOTENV:
        (tmp_path / ".env").write_bytes(content)
        assert read_environment().dotenv == expected, content
    # One that cannot be read stops the start, for it may hold the keys. Nothing of it is shown.
    for content, told in (
        ("PORT=1\n".encode("utf-16"), r"UTF-16.*save it as UTF-8"),
        ("PORT=1\n".encode("utf-16-be"), r"UTF-16.*save it as UTF-8"),
        (b"PORT=\xff", r"cannot be read as UTF-8"),
        (b'PORT=1\nAPI_KEYS="team:sk-abcdefgh\n', r"line 2: .*closing quote"),
        (b"PORT=1\nAPI_KEYS\n", r"\.env, line 2: expected NAME=value"),
    ):
        (tmp_path / ".env").write_bytes(content)
        with pytest.raises(SettingsError, match=told) as caught:
            read_environment()
        assert "abcdefgh" not in str(caught.value)
    (tmp_path / ".env").unlink()
    (tmp_path / ".env").mkdir()
    assert read_environment().dotenv == {}
    with pytest.raises(SettingsError, match="cannot be read"):
        read_environment(Path(__file__) / ".env")


def test_one_rule_for_the_value_of_every_setting() -> None:
    """What cannot be seen is no part of it; nothing but blanks, and quotes round it, are refused."""
    good = {"API_KEYS": "sk-abcdefgh", "HF_TOKEN": "hf_abc", "PUBLIC_KEY": "ssh-ed25519 AAAA me"}
    for key in OURS:
        for around in ("\n", "\r\n", "\r", " ", "\t", "\ufeff", "\u200b", "\u00a0"):
            environment = understood(
                {key: f"{around}x{around}", "HF_HOME": f"/x{around}"}, {key: f"x{around}"}
            )
            assert environment.merged == {key: "x", "HF_HOME": "/x"}
            assert environment.dotenv[key] == "x"
        assert re.match(rf"{key}=.*nothing but blanks", refusal(**{key: " \n"}))
        for quote in ('"', "'"):
            value = good.get(key, "value")
            (line,) = refusal(**{key: quote + value + quote}).splitlines()
            assert line.startswith(f"{key}=") and f"remove the quotes ({quote})" in line
            assert key not in ("API_KEYS", "HF_TOKEN") or value not in line


def test_the_wrong_character_is_shown() -> None:
    for key, value, shown in (
        ("CACHE_DIR", '/data"', '(")'), ("CACHE_DIR", "/data # the volume", '"#"'), ("CACHE_DIR", "/da\rta", r"(\r)"),
        ("SERVED_MODEL_NAME", '"a","b"', '(")'), ("SERVED_MODEL_NAME", "“a”", "(“)"),
        ("API_KEYS", 'team:"sk-abcdefgh"', '(")'), ("VLLM_EXTRA_ARGS", '"--max-num-seqs 4"', '(")'),
    ):  # fmt: skip
        assert shown in refusal(**{key: value}).replace(value, "")


def test_quotes_with_a_meaning() -> None:
    """A key may hold any character of a header; JSON and command lines have quotes of their own."""
    for key in ("it's-a-long-key", 'team:sk"abcdefgh', "sk-`abc`-defgh"):
        settings = load_settings(understood({"API_KEYS": f"{key},other:sk-abcdefgh"}, {}))
        assert settings.api_keys is not None
        assert key in settings.api_keys.get_secret_value()
    for value in ('{"a": "b"}', "--x '{\"a\": 1}'", '["a", "b"]', "'{\"a\": 1}' '{\"b\": 2}'", "5'", ""):
        assert stray_in_words(value) is None
    environ = {"MAX_NUM_SEQS": "'4'", "HF_HOME": '"/x"', "HF_OVERRIDES": '{"a": "b"}'}
    problems = check_flags(Settings(), environ, CATALOGUE).problems
    assert [problem.key for problem in problems] == ["MAX_NUM_SEQS", "HF_HOME"]


LINKS = pairs(
    """VLLM_PORT=tcp://10.43.1.39:8000 VLLM_PORT_8000_TCP=tcp://10.43.1.39:8000 VLLM_PORT_8000_TCP_PROTO=tcp
    VLLM_PORT_8000_TCP_PORT=8000 VLLM_PORT_8000_TCP_ADDR=10.43.1.39 VLLM_SERVICE_HOST=10.43.1.39
    VLLM_SERVICE_PORT=8000 VLLM_SERVICE_PORT_HTTP=8000 HEALTH_PORT=tcp://[fd00::1]:80 HEALTH_SERVICE_HOST=fd00::1
    SSH_PORT=udp://10.43.1.40:22 MY_DNS_PORT_53_UDP=udp://10.43.1.41:53 MY_DNS_PORT_53_UDP_ADDR=10.43.1.41"""
)


def test_service_links_are_dropped() -> None:
    """What Kubernetes makes for Services is neither read here nor by vLLM; what a person set beside it stays."""
    kept = {"PORT": "8001", "KUBERNETES_PORT": "tcp://10.43.0.1:443", "KUBERNETES_SERVICE_HOST": "10.43.0.1"}
    environment = understood(LINKS | kept, {})
    assert environment.merged == kept
    (note,) = environment.notes
    assert "VLLM_PORT" in note and "enableServiceLinks" in note
    mine = {"HEALTH_PORT": "9000", "VLLM_PORT": "29500", "DB_SERVICE_HOST": "db.example", "SERVICE_PORT": "1"}
    assert understood({**mine, "HEALTH_SERVICE_HOST": "10.43.1.39"}, {}).merged == mine


def test_names_of_other_engines() -> None:
    """A name that means the same elsewhere is read, and said; ours wins over it."""
    given = {"NIM_MODEL_NAME": "org/name"}
    for environment, source in ((understood(given, {}), "environment"), (understood({}, given), ".env")):
        assert (environment.merged, environment.source("MODEL_ID")) == ({"MODEL_ID": "org/name"}, source)
        assert environment.notes == ("NIM_MODEL_NAME is read as MODEL_ID",)
    both = understood(given | {"MODEL_ID": "another"}, {})
    assert both.merged == {"MODEL_ID": "another"}
    assert both.notes == ("NIM_MODEL_NAME is not read: MODEL_ID is set as well, and to something else",)
    assert understood(given, {"MODEL_ID": "org/name"}).notes == ()
    assert understood({"MODEL": "ThinkPad X1"}, {}).merged == {"MODEL": "ThinkPad X1"}, "a machine's name"


TEXT = (Path(__file__).parents[3] / "docs/use/migration.md").read_text()
ROWS = re.findall(r"^\| (.*?) \| (.*?) \| (.*)\|$", TEXT, re.MULTILINE)
STILL_READ = {"HF_HOME", "HUGGINGFACE_HUB_CACHE"}
"""By the hub's own library."""


def names(cell: str) -> list[str]:
    """Return the variables in a cell of docs/use/migration.md."""
    return re.findall(r"`([A-Z][A-Z0-9_]+)`", cell)


def test_migration_page_and_program_agree() -> None:
    assert not (ELSEWHERE.keys() | SAME.keys()) & OURS
    assert not ELSEWHERE.keys() & SAME.keys()
    documented = {name: names(right) for left, right, _ in ROWS for name in names(left) if name not in OURS}
    assert {ours for right in documented.values() for ours in right} <= OURS
    for theirs, ours in {**ELSEWHERE, **SAME}.items():
        assert ours in documented[theirs], theirs
    assert {name for left, _, note in ROWS if note.startswith("read") for name in names(left)} == SAME.keys()
    flags = {flag.name for flag in CATALOGUE.flags} | {"model"}
    for left, right, _ in ROWS:
        for flag in re.findall(r"`--([a-z-]+)`", left):
            assert flag in flags
            assert RESERVED_FLAGS.get(flag) in {*names(right), None}


def test_no_variable_of_another_engine_is_ignored_in_silence() -> None:
    """It is read and said, warned of, or refused; who has set ours as well hears nothing, and never a value."""
    for name in {name for left, _, _ in ROWS for name in names(left)} - OURS - STILL_READ:
        environment = understood({name: "1"}, {})
        checked = check_flags(Settings(), environment.merged, CATALOGUE)
        told = [*environment.notes, *unread(environment.merged), *map(str, checked.problems)]
        assert [name in line for line in told].count(True) == 1, name
        assert not checked.warnings
    assert unread({"MODEL_NAME": "a", "MODEL_ID": "b"}) == []
    (said,) = unread({"API_KEY": "secret"})
    assert "clients" in said and "API_KEYS" in said and "secret" not in said
    assert unread({"API_KEY": "a", "API_KEYS": "b"}) == unread({"API_KEY": "a", "API_KEYS_FILE": "c"}) == []


SECRET = [
    ("HF_TOKEN", "hf_notARealToken", "hf_notARealToken"), ("AWS_SECRET_ACCESS_KEY", "abcdefghij", "abcdefghij"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abcdefghij,x=1", "abcdefghij"),
    ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "api-key=abcdefghij", "abcdefghij"), ("DB_PASSWORD_PROD", "abcdefghij", "abcdefghij"),
    ("OPENAI_API_KEY_2", "sk-abcdefgh", "sk-abcdefgh"), ("GITHUBTOKEN", "ghp_abcdefgh", "ghp_abcdefgh"),
    ("HTTP_PROXY", "http://me:p@ss@word!@proxy:3128", "p@ss@word!"), ("https_proxy", "http://me:p%40ssw0rd!@proxy:3128", "p@ssw0rd!"),
]  # fmt: skip
NOT_SECRET = pairs(
    """TOKENIZERS_PARALLELISM=false-and-longer MAX_NUM_BATCHED_TOKENS=8192819281 API_KEYS_FILE=/run/secrets/keys
    SECRET_NAME=hub-token-of-the-cluster AWS_ACCESS_KEY_ID=AKIAABCDEFGH HF_TOKEN_PATH=/run/secrets/token
    PIP_INDEX_URL=https://host.example/a@b/simple HF_ENDPOINT=https://hub.example/path"""
)


def test_secrets_of_an_environment() -> None:
    """They are blanked in the log in every form, and not shown where the environment is."""
    for name, value, secret in SECRET:
        assert secret in secrets_in_environment({name: value})
        assert secret not in mask_environ({name: value})[name]
        assert "p%40ssw0rd" not in mask_environ({name: value})[name]
    assert mask_environ(NOT_SECRET) == NOT_SECRET
    assert secrets_in_environment(NOT_SECRET) == []
    # What is too short would blank half of the log.
    assert secrets_in_environment({"HF_TOKEN": "a", "HTTP_PROXY": "http://me:pw@proxy"}) == []
