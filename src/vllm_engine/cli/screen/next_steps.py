"""Pure: the lines to paste that stand on the screen once the server is ready."""

from __future__ import annotations

import json
import shlex

from vllm_engine.client import FIRST_QUESTION
from vllm_engine.config.settings import Settings

MAX_TOKENS = 256
FIRST_ANSWER_TOKENS = 100
"""Of the program's own question: the commands to paste come after its answer."""


def addresses(settings: Settings, url: str) -> str:
    """Return where the page and the API are, and the name of the model."""
    lines = [f"  Page   {url}"] if settings.enable_ui else []
    return "\n".join([*lines, f"  API    {url}/v1", f"  Model  {settings.served_names[0]}"])


def curl(settings: Settings, url: str) -> str:
    """Return the command that asks this server and shows the answer as it comes, in short lines."""
    model = json.dumps(settings.served_names[0], ensure_ascii=False)
    question = json.dumps(FIRST_QUESTION)
    body = (
        f'{{"model": {model},\n       "stream": true, "max_tokens": {MAX_TOKENS},\n'
        f'       "messages": [{{"role": "user", "content": {question}}}]}}'
    )
    options = f" --cacert {shlex.quote(str(settings.tls_cert_file))}" if settings.tls_cert_file else ""
    key = ' \\\n  -H "Authorization: Bearer $API_KEY"' if _has_keys(settings) else ""
    return (
        f"curl -N{options} {url}/v1/chat/completions \\\n  -H 'Content-Type: application/json'{key} \\\n"
        f"  -d {shlex.quote(body)}"
    )


def key_hint(settings: Settings) -> list[str]:
    """Return what to do before the commands where the server has keys."""
    hint = "First: export API_KEY=… (one of the server's keys; of an entry me:KEY in API_KEYS, only KEY)"
    return [hint] if _has_keys(settings) else []


def _has_keys(settings: Settings) -> bool:
    return settings.api_keys is not None or settings.api_keys_file is not None


def chat(settings: Settings, program: str, url: str) -> str:
    """Return the command that holds a conversation with this server; `program` is how ours was called."""
    name = program if program.endswith("vllm-engine") else "vllm-engine"
    trusts = f"SSL_CERT_FILE={shlex.quote(str(settings.tls_cert_file))} " if settings.tls_cert_file else ""
    return f"{trusts}{shlex.quote(name)} chat {url}"
