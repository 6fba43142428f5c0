"""What may follow `vllm-engine serve`: each word's meaning, and what is refused."""

from __future__ import annotations

import shlex

import pytest

from vllm_engine.cli.serve_words import understand, with_words
from vllm_engine.config.environment import Environment
from vllm_engine.errors import SettingsError


@pytest.mark.parametrize(("words", "settings", "flags"), [
    ("a/b", {"MODEL_ID": "a/b"}, ""),
    ("--model a/b", {"MODEL_ID": "a/b"}, ""),
    ("--port 8001 --host=127.0.0.1 a/b", {"PORT": "8001", "HOST": "127.0.0.1", "MODEL_ID": "a/b"}, ""),
    ("a/b -tp 2 --dtype half", {"MODEL_ID": "a/b", "TENSOR_PARALLEL": "2", "DTYPE": "half"}, ""),
    ("--tensor_parallel_size 2", {"TENSOR_PARALLEL": "2"}, ""),
    ("a/b --nnodes 2 -r 1 --master-addr h --master-port 1 -pp 2 --data_parallel_size 2 --headless",
     {"MODEL_ID": "a/b", "NODES": "2", "NODE_RANK": "1", "HEAD_ADDRESS": "h", "HEAD_PORT": "1",
      "PIPELINE_PARALLEL": "2", "DATA_PARALLEL": "2"}, "--headless"),
    ("--distributed-executor-backend mp", {"DISTRIBUTED_EXECUTOR": "mp"}, ""),
    ("--max-model-len 32K", {"MAX_MODEL_LEN": "32768"}, ""),
    ("--max-model-len -1", {"MAX_MODEL_LEN": "auto"}, ""),
    ("--max-model-len auto --gpu-memory-utilization .8", {"MAX_MODEL_LEN": "auto", "GPU_MEMORY_UTILIZATION": ".8"}, ""),
    ("--served-model-name a b --revision main", {"SERVED_MODEL_NAME": "a b", "MODEL_REVISION": "main"}, ""),
    ("--ssl-certfile c.pem", {"TLS_CERT_FILE": "c.pem"}, ""),
    ("--auto-fit a/b", {"AUTO_FIT": "1", "MODEL_ID": "a/b"}, ""),
    ("--no-enable-ui --standby=auto", {"ENABLE_UI": "0", "STANDBY": "auto"}, ""),
    ("--api-keys-file keys", {"API_KEYS_FILE": "keys"}, ""),
    ("--enforce-eager a/b --max-num-seqs 4", {"MODEL_ID": "a/b"}, "--enforce-eager --max-num-seqs 4"),
    ("--no-enable-prefix-caching --seed=3 a/b", {"MODEL_ID": "a/b"}, "--no-enable-prefix-caching --seed=3"),
    ("a/b --lora-modules x=/x y=/y --swap-space 4", {"MODEL_ID": "a/b"}, "--lora-modules x=/x y=/y --swap-space 4"),
    ("-cc.mode 3 a/b", {"MODEL_ID": "a/b"}, "-cc.mode 3"),
    ("-O3 a/b", {"MODEL_ID": "a/b"}, "-O3"),
    ("--allowed-origins x", {}, "--allowed-origins x"),
    ("--uds x", {}, "--uds x"),
])  # fmt: skip
def test_words(words: str, settings: dict[str, str], flags: str) -> None:
    found = understand(words.split())
    assert (found.settings, found.flags, found.problems) == (settings, flags.split(), [])


@pytest.mark.parametrize(("words", "said"), [
    ("a/b c/d", "c/d: one model is served, and it is named already"),
    ("--port", "--port: expected a value after it: a port number"),
    ("--port --host x", "--port: expected a value after it: a port number"),
    ("--port=", "--port: expected a value after it: a port number"),
    ("--port ''", "--port: expected a value after it: a port number"),
    ("''", "'': expected a model, and got an empty word"),
    ("--api-keys hunter2", "--api-keys: a command line can be read by every process of this machine; set API_KEYS"),
    ("--api-key=hunter2", "--api-key: a command line can be read by every process of this machine; set API_KEYS"),
    ("--hf_token hunter2", "--hf_token: a command line can be read by every process of this machine; set HF_TOKEN"),
    ("--max-in-fligth 3", "--max-in-fligth: is not an option of serve; did you mean --max-in-flight?"),
    ("a/b --max-in-fligth 3", "--max-in-fligth: is not an option of serve; did you mean --max-in-flight?"),
    ("--enable-sshd", "--enable-sshd: is read by the image's entry point; set ENABLE_SSHD"),
])  # fmt: skip
def test_what_is_refused(words: str, said: str) -> None:
    """With the option's name and what to do, and without a secret."""
    with pytest.raises(SettingsError) as caught:
        with_words(Environment({}, {}), shlex.split(words))
    assert str(caught.value).startswith(said)
    assert len(caught.value.problems) == 1
    assert "hunter2" not in str(caught.value)


def test_they_win() -> None:
    """Over both sources, as what they are; that MODEL_ID has lost is said, unless it was a default."""
    given = Environment({"MODEL_ID": "a/b", "PORT": "1"}, {"HOST": "x"}, {"CACHE_DIR": "/c"})
    found = with_words(given, ["c/d", "--port", "2"])
    assert (found.merged["MODEL_ID"], found.merged["PORT"], found.merged["HOST"]) == ("c/d", "2", "x")
    assert (found.source("PORT"), found.source("HOST")) == ("command line", ".env")
    assert found.notes == ("MODEL_ID=a/b is not used: the command line says c/d",)
    assert found.changed({"PORT": "3"}).merged["PORT"] == "3"
    for quiet in (Environment({}, {}, {"MODEL_ID": "a/b"}), Environment({"MODEL_ID": "c/d"}, {})):
        assert with_words(quiet, ["c/d"]).notes == ()
