"""The environment as it is meant: clean values, one reader of .env, no Service links, others' names understood."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_engine.config.environment import Environment, read_environment, understood
from vllm_engine.config.flags import FlagCatalogue
from vllm_engine.config.quoting import stray_in_words
from vllm_engine.config.settings import Settings, load_settings
from vllm_engine.errors import SettingsError
from vllm_engine.plan.variable_checks import check_flags

KEY = "team:sk-abcdefgh"


def dotenv(tmp_path: Path, content: bytes) -> dict[str, str]:
    """Return what a .env file sets."""
    (tmp_path / ".env").write_bytes(content)
    return dict(read_environment().dotenv)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xef\xbb\xbfAPI_KEYS=team:sk-abcdefgh\nPORT=1\n", {"API_KEYS": KEY, "PORT": "1"}),
        (b'API_KEYS="team:sk-abcdefgh" # prod\r\nPORT=1\r\n', {"API_KEYS": KEY, "PORT": "1"}),
        (b"export API_KEYS = 'team:sk-abcdefgh'\n", {"API_KEYS": KEY}),
        (b"A_TEAM=team\nAPI_KEYS=${A_TEAM}:sk-abcdefgh\n", {"A_TEAM": "team", "API_KEYS": KEY}),
        (b'PUBLIC_KEY="one\r\ntwo\r\n"\r\n', {"PUBLIC_KEY": "one\ntwo"}),
        (b"API_KEYS=old\nAPI_KEYS=team:sk-abcdefgh", {"API_KEYS": KEY}),
        (b"HF_TOKEN=a$b\nSERVED_MODEL_NAME=one two\n", {"HF_TOKEN": "a$b", "SERVED_MODEL_NAME": "one two"}),
        (b"", {}),
    ],
)
def test_dotenv(tmp_path: Path, content: bytes, expected: dict[str, str]) -> None:
    """However an editor, a shell or Windows has written it, it says the same."""
    assert dotenv(tmp_path, content) == expected


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("PORT=1\n".encode("utf-16"), r"UTF-16.*save it as UTF-8"),
        ("PORT=1\n".encode("utf-16-be"), r"UTF-16.*save it as UTF-8"),
        (b"PORT=\xff", r"cannot be read as UTF-8"),
        (b'PORT=1\nAPI_KEYS="team:sk-abcdefgh\n', r"line 2 .*closing quote"),
    ],
)
def test_dotenv_that_cannot_be_read(tmp_path: Path, content: bytes, told: str) -> None:
    """What cannot be read stops the start: it may hold the keys. Nothing of it is shown."""
    with pytest.raises(SettingsError, match=told) as caught:
        dotenv(tmp_path, content)
    assert "abcdefgh" not in str(caught.value)


def test_a_folder_is_no_dotenv(tmp_path: Path) -> None:
    """A virtual environment may be called .env."""
    (tmp_path / ".env").mkdir()
    assert read_environment().dotenv == {}


@pytest.mark.parametrize("around", ["\n", "\r\n", "\r", " ", "\t", "\ufeff", "\u200b", "\u00a0"])
@pytest.mark.parametrize("key", [name.upper() for name in Settings.model_fields])
def test_what_cannot_be_seen_is_no_part_of_a_value(key: str, around: str) -> None:
    """One rule for every setting, and for what only the engine reads."""
    environment = understood({key: f"{around}x{around}", "HF_HOME": f"/x{around}"}, {key: f"x{around}"})
    assert environment.merged[key] == environment.dotenv[key] == "x"
    assert environment.merged["HF_HOME"] == "/x"


@pytest.mark.parametrize("key", [name.upper() for name in Settings.model_fields])
def test_nothing_but_blanks_is_not_unset(key: str) -> None:
    """A secret that holds an empty line is a mistake, and must not leave the door open."""
    with pytest.raises(SettingsError, match=rf"^{key}=.*nothing but blanks"):
        load_settings(understood({key: " \n"}, {}))


GOOD = {"API_KEYS": "sk-abcdefgh", "HF_TOKEN": "hf_abc", "PUBLIC_KEY": "ssh-ed25519 AAAA me"}


@pytest.mark.parametrize("quote", ['"', "'"])
@pytest.mark.parametrize("key", [name.upper() for name in Settings.model_fields])
def test_quotes_are_refused_for_every_setting(key: str, quote: str) -> None:
    """A quote that no shell took away is shown as what is wrong; a secret's value is not."""
    value = GOOD.get(key, "value")
    with pytest.raises(SettingsError) as caught:
        load_settings(understood({key: quote + value + quote}, {}))
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{key}=") and f"remove the quotes ({quote})" in line
    assert key not in ("API_KEYS", "HF_TOKEN") or value not in line


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("CACHE_DIR", '"/data', '(")'),
        ("CACHE_DIR", '/data"', '(")'),
        ("CACHE_DIR", "/data # the volume", '"#"'),
        ("CACHE_DIR", "/da\rta", r"(\r)"),
        ("HOST", "127.0.0.1\x1b", r"(\x1b)"),
        ("SERVED_MODEL_NAME", '"a","b"', '(")'),
        ("SERVED_MODEL_NAME", "“a”", "(“)"),
        ("SERVED_MODEL_NAME", "a,'b c'", "(')"),
        ("API_KEYS", 'team:"sk-abcdefgh"', '(")'),
        ("VLLM_EXTRA_ARGS", '"--max-num-seqs 4"', '(")'),
    ],
)
def test_the_wrong_character_is_shown(key: str, value: str, shown: str) -> None:
    """Half a pair, a comment, a control character: the message shows which."""
    with pytest.raises(SettingsError) as caught:
        load_settings(understood({key: value}, {}))
    assert shown in str(caught.value).replace(value, "")


@pytest.mark.parametrize("key", ["it's-a-long-key", 'team:sk"abcdefgh', "sk-`abc`-defgh"])
def test_quotes_within_a_key(key: str) -> None:
    """A generated key may hold any character that a header can carry."""
    settings = load_settings(understood({"API_KEYS": f"{key},other:sk-abcdefgh"}, {}))
    assert settings.api_keys is not None
    assert key in settings.api_keys.get_secret_value()


@pytest.mark.parametrize(
    "value", ['{"a": "b"}', "--x '{\"a\": 1}'", '["a", "b"]', "'{\"a\": 1}' '{\"b\": 2}'", "5'", ""]
)
def test_quotes_with_a_meaning(value: str) -> None:
    """JSON and command lines have quotes of their own."""
    assert stray_in_words(value) is None


def test_quotes_round_a_flag_and_a_library_variable() -> None:
    """vLLM's flags and what its libraries read follow the same rule."""
    environ = {"MAX_NUM_SEQS": "'4'", "HF_HOME": '"/x"', "HF_OVERRIDES": '{"a": "b"}'}
    problems = check_flags(Settings(), environ, FlagCatalogue.load("0.33.0")).problems
    assert [problem.key for problem in problems] == ["MAX_NUM_SEQS", "HF_HOME"]


LINKS = {
    "VLLM_PORT": "tcp://10.43.1.39:8000",
    "VLLM_PORT_8000_TCP": "tcp://10.43.1.39:8000",
    "VLLM_PORT_8000_TCP_PROTO": "tcp",
    "VLLM_PORT_8000_TCP_PORT": "8000",
    "VLLM_PORT_8000_TCP_ADDR": "10.43.1.39",
    "VLLM_SERVICE_HOST": "10.43.1.39",
    "VLLM_SERVICE_PORT": "8000",
    "VLLM_SERVICE_PORT_HTTP": "8000",
    "HEALTH_PORT": "tcp://[fd00::1]:80",
    "HEALTH_SERVICE_HOST": "fd00::1",
    "SSH_PORT": "udp://10.43.1.40:22",
    "MY_DNS_PORT_53_UDP": "udp://10.43.1.41:53",
    "MY_DNS_PORT_53_UDP_ADDR": "10.43.1.41",
}


def test_service_links_are_dropped() -> None:
    """What Kubernetes makes for Services is neither read here nor by vLLM, and is named once."""
    kept = {"PORT": "8001", "KUBERNETES_PORT": "tcp://10.43.0.1:443", "KUBERNETES_SERVICE_HOST": "10.43.0.1"}
    environment = understood(LINKS | kept, {})
    assert environment.merged == kept
    (note,) = environment.notes
    assert "VLLM_PORT" in note and "enableServiceLinks" in note
    settings = load_settings(environment)
    assert (settings.port, settings.health_port, settings.ssh_port) == (8001, None, 22)


def test_what_a_person_set_beside_a_service() -> None:
    """A Pod's own variable of a Service's name is a number, and stays."""
    mine = {"HEALTH_PORT": "9000", "VLLM_PORT": "29500", "DB_SERVICE_HOST": "db.example", "SERVICE_PORT": "1"}
    environment = understood({**mine, "HEALTH_SERVICE_HOST": "10.43.1.39"}, {})
    assert environment.merged == mine


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize(
    ("theirs", "ours", "value"),
    [
        ("HUGGING_FACE_HUB_TOKEN", "HF_TOKEN", "hf_abc"),
        ("MODEL_NAME", "MODEL_ID", "gpt2"),
        ("NIM_MODEL_NAME", "MODEL_ID", "org/name"),
        ("MODEL", "MODEL_ID", "org/name"),
        ("MAX_TOTAL_TOKENS", "MAX_MODEL_LEN", "512"),
    ],
)
def test_names_of_other_engines(theirs: str, ours: str, value: str, in_file: bool) -> None:
    """A name that means the same elsewhere is read, and said; ours wins over it."""
    given = {theirs: value}
    environment = understood({}, given) if in_file else understood(given, {})
    assert environment.merged == {ours: value}
    assert environment.source(ours) == (".env" if in_file else "environment")
    assert environment.notes == (f"{theirs} is read as {ours}",)
    both = understood({theirs: value, ours: "another"}, {})
    assert both.merged == {ours: "another"}
    assert both.notes == (f"{theirs} is not read: {ours} is set as well, and to something else",)
    assert understood({theirs: value}, {ours: value}).notes == ()


def test_a_machine_that_is_called_a_model() -> None:
    """`MODEL` of a machine's environment may be its hardware's."""
    environment = understood({"MODEL": "ThinkPad X1"}, {})
    assert environment.merged == {"MODEL": "ThinkPad X1"}


def test_defaults_stand_back() -> None:
    """What a command would rather have gives way to both sources, and is no source of its own."""
    environment = Environment({"PORT": "1"}, {"HOST": "b"}, {"PORT": "2", "HOST": "c", "DTYPE": "half"})
    assert environment.merged == {"PORT": "1", "HOST": "b", "DTYPE": "half"}
    assert environment.source("DTYPE") is None
