"""docs/recipes.md's proxies with TLS: nginx and Caddy as shown, but for names, ports and certificates, stream through."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.process.conftest import StartProgram
from tests.support.certificates import Certificate
from tests.support.doc_blocks import ROOT, blocks
from tests.support.model import STREAM
from tests.support.program import free_port, until

BLOCKS = {block.said: block.text for block in blocks(ROOT / "docs/recipes.md") if block.kind == "run"}
TOKENS = 5
PATH = os.environ["PATH"]  # before a fixture clears the environment


def changed(text: str, changes: dict[str, str]) -> str:
    """Replace what belongs to a machine; all of it must be there."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def nginx(folder: Path, certificate: Certificate, port: int, upstream: int) -> list[str]:
    site = changed(
        BLOCKS["nginx"],
        {
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "/etc/ssl/llm.example.com/fullchain.pem": str(certificate.cert),
            "/etc/ssl/llm.example.com/privkey.pem": str(certificate.key),
            "127.0.0.1:8000": f"127.0.0.1:{upstream}",
        },
    )
    for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
        site = f"{name}_temp_path {folder}/{name};\n{site}"
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log stderr;\nevents {{}}\nhttp {{ access_log off;\n{site}}}\n"
    )
    return ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]


def caddy(folder: Path, certificate: Certificate, port: int, upstream: int) -> list[str]:
    site = changed(
        BLOCKS["caddy"],
        {
            "llm.example.com {": f"https://127.0.0.1:{port} {{\n    tls {certificate.cert} {certificate.key}",
            "127.0.0.1:8000": f"127.0.0.1:{upstream}",
        },
    )
    (folder / "Caddyfile").write_text(
        "{\n    admin off\n    grace_period 1s\n    auto_https disable_redirects\n}\n" + site
    )
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


@contextmanager
def in_front(command: list[str], folder: Path, client: httpx2.Client) -> Iterator[None]:
    """Run a proxy until the end of the block."""
    with (folder / "proxy.log").open("wb") as log:
        environ = {"HOME": str(folder), "XDG_DATA_HOME": str(folder)}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environ)

    def answers() -> bool:
        assert process.poll() is None, (folder / "proxy.log").read_text()
        try:
            return client.get("/livez").status_code == 200
        except httpx2.TransportError:
            return False

    try:
        until(answers, "an answer through the proxy")
        yield
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize("proxy", [nginx, caddy])
def test_each_token_arrives_before_the_next_is_made(
    proxy: Callable[[Path, Certificate, int, int], list[str]], tmp_path: Path, launch: StartProgram
) -> None:
    """The engine stops after five tokens and waits; all five have arrived, over TLS and with a key."""
    name = proxy.__name__
    path = shutil.which(name, path=f"{PATH}:/usr/sbin")
    if path is None:
        pytest.skip(f"NOT TESTED: no {name}; install it with tools/debian.sh {name}:{name}")
    program = launch({"stall_after_n_chunks": TOKENS}, API_KEYS="me:secret-of-ours")
    program.until_ready()
    certificate, port = Certificate(tmp_path), free_port()
    trust = ssl.create_default_context()
    certificate.authority.configure_trust(trust)
    command = [path, *proxy(tmp_path, certificate, port, program.port)[1:]]
    with (
        httpx2.Client(base_url=f"https://127.0.0.1:{port}", verify=trust, trust_env=False) as client,
        in_front(command, tmp_path, client),
    ):
        assert client.get("/v1/models").status_code == 401
        headers = {"Authorization": "Bearer secret-of-ours"}
        found: list[str] = []
        with client.stream(
            "POST", "/v1/chat/completions", json=STREAM, headers=headers, timeout=30
        ) as answer:
            assert answer.status_code == 200
            for line in answer.iter_lines():
                if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                    found.append(line)
                if len(found) == TOKENS:
                    break
        assert len(found) == TOKENS
