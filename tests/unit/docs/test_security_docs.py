"""docs/security.md: what it claims and can be tried is so."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from vllm_engine.config.flags import FlagCatalogue
from vllm_engine.config.settings import Settings
from vllm_engine.gateway.http.tls import FILE_CHECK_SECONDS
from vllm_engine.gateway.local.probes import PUBLIC_PATHS
from vllm_engine.gateway.policy.auth import Keyring

TEXT = (Path(__file__).parents[3] / "docs/security.md").read_text()
NOT_OURS = {"HF_HUB_OFFLINE"}
"""The hub library's."""


def block(language: str) -> str:
    """Return the text's one code block in a language."""
    [found] = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    return str(found)


def test_public_paths() -> None:
    """It lists exactly the paths that need no key."""
    listed = TEXT.partition("the probes:")[2].partition(". `/metrics`")[0]
    assert set(re.findall(r"`(/[^`]*)`", listed)) == PUBLIC_PATHS


def test_settings_are_there() -> None:
    """Every setting that it names is one, of ours or vLLM's."""
    named = set(re.findall(r"`([A-Z][A-Z_]{3,})(?:=[^`]*)?`", TEXT)) - NOT_OURS
    assert named
    flags = FlagCatalogue.load("0.33.0").by_env_name
    assert named <= {name.upper() for name in Settings.model_fields} | flags.keys()


def test_recipe_for_a_hashed_key(tmp_path: Path) -> None:
    """Its lines make a key that opens, and a file that does not have it."""
    script = block("bash") + 'printf %s "$KEY"'
    done = subprocess.run(["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    ring = Keyring(None, tmp_path / "keys")
    assert ring.check([(b"authorization", f"Bearer {done.stdout}".encode())]) == "team-a"
    assert done.stdout not in (tmp_path / "keys").read_text()


def test_numbers() -> None:
    """Times and sizes are the code's and the defaults'."""
    assert FILE_CHECK_SECONDS == 2
    assert f"client_max_body_size {Settings().max_body_bytes >> 20}m;" in block("nginx")
    seconds = re.search(r"proxy_read_timeout (\d+)s", block("nginx"))
    assert seconds is not None
    assert int(seconds[1]) > Settings().keep_alive_seconds
