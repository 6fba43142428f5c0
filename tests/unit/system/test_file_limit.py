"""The limit on open files: what it leaves for clients once the engine and we have ours."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from vllm_engine.system.file_limit import connection_shares


@pytest.mark.parametrize("files", [64, 256, 1024, 4096, 65_536, 1_048_576])
@pytest.mark.parametrize("in_flight", [1, 64, 512, 100_000])
@pytest.mark.parametrize("has_health_port", [True, False])
def test_everything_fits(files: int, in_flight: int, has_health_port: bool) -> None:
    """Whatever clients do, files are left: for each request at the engine two, and some for ourselves."""
    shares = connection_shares(
        files, max_connections=10_000_000, max_in_flight=in_flight, has_health_port=has_health_port
    )
    at_engine = min(in_flight, shares.api)
    health = shares.health if has_health_port else 0
    assert shares.api >= 1
    assert shares.api + 2 * at_engine + health <= files - min(160, files // 2)


def test_no_more_than_wanted() -> None:
    """MAX_CONNECTIONS holds where files are plenty."""
    shares = connection_shares(65_536, max_connections=100, max_in_flight=512, has_health_port=True)
    assert (shares.api, shares.health) == (100, 64)


def test_login_shell() -> None:
    """With 1,024 files and a few requests at the engine most files are for clients."""
    shares = connection_shares(1024, max_connections=16_384, max_in_flight=32, has_health_port=False)
    assert shares.api == 1024 - 160 - 64


def test_soft_limit_is_raised() -> None:
    """To the hard one, in this process and so in its children."""
    hard = min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    program = (
        "import resource; from vllm_engine.system.file_limit import raise_file_limit;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (512, {hard}));"
        "print(raise_file_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.split() == [str(hard)] * 3
