"""What may follow `vllm serve`: each of vLLM's words as a setting, a flag of the engine's, or one sentence."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from vllm_engine.cli.drop_in.vllm_rules import RULES
from vllm_engine.cli.drop_in.vllm_start import DEFAULTS, drop_in
from vllm_engine.config.environment import Environment, understood
from vllm_engine.config.flags import FlagCatalogue
from vllm_engine.config.settings import load_settings
from vllm_engine.errors import SettingsError

NOTHING = Environment({}, {})


@pytest.mark.parametrize(("words", "settings", "flags"), [
    ("a/b --api-key hunter2hunter2 --port 9", {"API_KEYS": "hunter2hunter2", "PORT": "9"}, ""),
    ("a/b --api-key one-key-11 two:key-22", {"API_KEYS": "one-key-11 key-2:two:key-22"}, ""),
    ("a/b --hf-token hf_x", {"HF_TOKEN": "hf_x"}, ""),
    ("a/b --hf-token", {}, ""),
    ("a/b --dtype auto", {"DTYPE": "model"}, ""),
    ("a/b --dtype=half", {"DTYPE": "half"}, ""),
    ("a/b --uvicorn-log-level critical", {"LOG_LEVEL": "error"}, ""),
    ("a/b --uvicorn_log_level=warning", {"LOG_LEVEL": "warning"}, ""),
    ("a/b --shutdown-timeout 0", {"DRAIN_TIMEOUT_SECONDS": "0"}, ""),
    ("""a/b --allowed-origins '["https://x.org", "https://y.org"]'""", {"CORS_ORIGINS": "https://x.org https://y.org"}, ""),
    ("""a/b --allowed-origins '["*"]' --allowed-methods '["*"]' --allowed-headers '["*"]'""", {"CORS_ORIGINS": "*"}, ""),
    ("a/b --allowed-origins []", {}, ""),
    ("a/b --disable-fastapi-docs", {"ENABLE_UI": "0"}, ""),
    ("a/b --disable-uvicorn-access-log", {"ACCESS_LOG": "0"}, ""),
    ("a/b --no-disable-uvicorn-access-log", {"ACCESS_LOG": "1"}, ""),
    ("--disable-log-requests a/b --enable-ssl-refresh --enable-request-id-headers", {}, "--disable-log-requests"),
    ("a/b --ssl-cert-reqs 0 --no-allow-credentials", {}, ""),
    ("a/b --gpu_memory_utilization 0.5 -tp=2", {"GPU_MEMORY_UTILIZATION": "0.5", "TENSOR_PARALLEL": "2"}, ""),
    ("a/b --compilation-config.mode 3 --middleware m.M -O2", {}, "--compilation-config.mode 3 --middleware m.M -O2"),
    ("a/b --enable-log-requests --enforce-eager", {}, "--enable-log-requests --enforce-eager"),
])  # fmt: skip
def test_words(words: str, settings: dict[str, str], flags: str) -> None:
    found = drop_in(NOTHING, shlex.split(words))
    assert (dict(found.options), list(found.flags)) == ({"MODEL_ID": "a/b"} | settings, flags.split())
    load_settings(found)


@pytest.mark.parametrize(("words", "said"), [
    ("--uds /run/x", "--uds: the gateway listens on HOST and PORT alone, not on a Unix socket"),
    ("--grpc", "--grpc: vLLM's gRPC server has no gateway in front of it"),
    ("--grpc-port 1", "--grpc-port: vLLM's gRPC server has no gateway in front of it"),
    ("--ssl-ca-certs ca.pem --ssl-cert-reqs 2", "--ssl-cert-reqs: client certificates are not checked here"),
    ("--allow-credentials", "--allow-credentials: the gateway lets no page send cookies"),
    ("--allowed-origins https://x.org", "--allowed-origins: expected a JSON list of origins"),
    ("--api-key hunter2,hunter3", "--api-key: a key with a comma or a space cannot be given here"),
    ("--api-key=", "--api-key: expected a key after it, got none"),
    ("--api-key --port 1", "--api-key: expected a key after it, got none"),
    ("--data-parallel-multi-port-external-lb", "--data-parallel-multi-port-external-lb: the gateway listens on HOST"),
    ("--shutdown-timeout", "--shutdown-timeout: expected a value after it"),
    ("--config", "--config: expected one file after it"),
    ("--config x.json", "--config: x.json: expected a file whose name ends in .yaml"),
    ("--config /nowhere/x.yaml", "--config: /nowhere/x.yaml: cannot be read (No such file"),
    ("doctr", "doctr: is neither a folder nor OWNER/NAME, as the hub's models are called; did you mean `vllm-engine doctor`?"),
    ("setings --port 1", "setings: is neither a folder nor OWNER/NAME"),
])  # fmt: skip
def test_what_cannot_be_honoured(words: str, said: str) -> None:
    """One sentence that says what to do, and no key."""
    with pytest.raises(SettingsError) as caught:
        drop_in(NOTHING, words.split())
    assert str(caught.value).startswith(said)
    assert "hunter" not in str(caught.value)


def test_what_changes_nothing_is_noted() -> None:
    words = (
        "a/b --root-path /x --ssl-ca-certs ca --ssl-ciphers A --h11-max-header-count 9 --allowed-methods []"
    )
    notes = drop_in(NOTHING, words.split()).notes
    assert [note.partition(" ")[0] for note in notes] == words.split()[1::2][:5]
    (note,) = drop_in(NOTHING, ["--api-key", "hunter2hunter2"]).notes
    assert "every process of this machine" in note
    assert "hunter2" not in note


def test_a_model_of_one_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's oldest have no owner, and a folder may have any name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "doctr").mkdir()
    for name in ("gpt2", "bert-base-uncased", "doctr"):
        assert drop_in(NOTHING, [name]).options == {"MODEL_ID": name}


def test_every_rule_is_for_a_flag_of_vllms() -> None:
    known = {flag.name for version in ("0.32", "0.33") for flag in FlagCatalogue.load(version).flags}
    assert RULES.keys() <= known


def test_defaults_are_vllms_and_lose() -> None:
    """To whatever is set, in any way."""
    found = drop_in(
        Environment({"DTYPE": "float16"}, {"MAX_MODEL_LEN": "4096"}), ["--gpu-memory-utilization", ".5"]
    )
    given = {"DTYPE": "float16", "MAX_MODEL_LEN": "4096", "GPU_MEMORY_UTILIZATION": ".5"}
    assert {**DEFAULTS, **given}.items() <= found.merged.items()
    assert load_settings(found).gpu_memory_utilization == 0.5
    assert "EXTRA_ROUTES" not in found.merged
    lora = drop_in(Environment({"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}, {}), [])
    assert "POST /v1/load_lora_adapter" in load_settings(lora).extra_routes


CONFIG = """
model: from/file
port: 9000
served_model_name: [one, two]
enforce-eager: true
enable-prefix-caching: false
disable-uvicorn-access-log: false
api-key: hunter2hunter2
compilation-config:
  mode: 3
seed: -1
"""


def test_a_file_of_flags(tmp_path: Path) -> None:
    """The command line wins, whatever stands first; a key in it is nobody's to read."""
    file = tmp_path / "vllm.yaml"
    file.write_text(CONFIG)
    found = drop_in(NOTHING, ["given/model", "--seed", "3", "--config", str(file), "--port", "1"])
    assert found.options == {
        "MODEL_ID": "given/model", "PORT": "1", "SERVED_MODEL_NAME": "one two", "API_KEYS": "hunter2hunter2",
        "ACCESS_LOG": "1",
    }  # fmt: skip
    assert found.flags == (
        *(
            "--enforce-eager",
            "--no-enable-prefix-caching",
            "--compilation-config",
            '{"mode": 3}',
            "--seed=-1",
        ),
        *("--seed", "3"),
    )
    assert found.notes == ()
    assert drop_in(NOTHING, ["--config", str(file)]).options["MODEL_ID"] == "from/file"


@pytest.mark.parametrize(("text", "said"), [
    ("- a", "expected a mapping"),
    ("", "expected a mapping"),
    ("api-key: 'hunter2", "is not YAML in line 1; expected lines such as max-model-len: 8192"),
    (b"\xff\xfe", "is not YAML"),
])  # fmt: skip
def test_a_file_that_is_none(tmp_path: Path, text: str | bytes, said: str) -> None:
    file = tmp_path / "vllm.yml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingsError) as caught:
        drop_in(NOTHING, ["--config", str(file)])
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("key", "keys"), [("token-abc", "token-abc"), ("a:token-abc", "key-1:a:token-abc")])
def test_vllms_key_in_the_environment(key: str, keys: str) -> None:
    """It is the gateway's, as it stands, after any start; the engine is not told."""
    found = understood({"VLLM_API_KEY": key}, {})
    assert (found.merged.get("API_KEYS"), "VLLM_API_KEY" in found.merged) == (keys, False)
    assert found.notes == ("VLLM_API_KEY is read as API_KEYS",)
    won = drop_in(found, ["--api-key", "another-key"]).merged["API_KEYS"]
    assert won == "another-key", "as vLLM has it"
