#!/usr/bin/env python3
"""Write the generated parts of the documentation from the code; with --check, only say what is stale.

.venv/bin/python tools/generate_docs.py [--check]
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from vllm_engine.cli import main as cli
from vllm_engine.config.settings import Settings, legal
from vllm_engine.diagnosis.catalogue import GROUPS
from vllm_engine.diagnosis.known_failure import KnownFailure, Stage
from vllm_engine.diagnosis.run_facts import Facts
from vllm_engine.gateway.observe.gateway_metrics import GatewayMetrics

ROOT = Path(__file__).resolve().parents[1]
OF_THE_IMAGE = frozenset(("HOST", "CACHE_DIR", "ENGINE_PYTHON", "BUILD_SHA", "BUILD_TIME"))
"""Settings that an image has made, so that Compose passes none of them on; its `HOST` is where it publishes."""
FIRST_SETTINGS = [
    "MODEL_ID",
    "HF_TOKEN",
    "API_KEYS",
    "HOST",
    "PORT",
    "DTYPE",
    "TENSOR_PARALLEL",
    "MAX_MODEL_LEN",
    "GPU_MEMORY_UTILIZATION",
]
"""What README shows: what somebody who starts a first server wants to know."""
GROUPS_OF_SETTINGS = {
    "MODEL_ID": "Model",
    "HOST": "Gateway",
    "DTYPE": "Engine",
    "CACHE_DIR": "Storage",
    "API_KEYS": "Access",
    "MAX_IN_FLIGHT": "Limits",
    "STARTUP_TIMEOUT_SECONDS": "Start, failure and stop",
    "LOG_LEVEL": "Logs and traces",
    "BUILD_SHA": "Build",
    "ENABLE_SSHD": "SSH",
}
"""The title of each group, by its first setting."""


def default_of(key: str) -> str:
    """Show a setting's default as a user would write it."""
    value = Settings.model_fields[key.lower()].default
    if value in (None, (), ""):
        return ""
    return f"`{int(value)}`" if isinstance(value, bool) else f"`{value}`"


def described(key: str) -> str:
    """Return what a setting does, on one line."""
    return " ".join((Settings.model_fields[key.lower()].description or "").split())


def settings_table(keys: list[str]) -> str:
    """Render settings as a Markdown table."""
    lines = ["| variable | default | what it does |", "| --- | --- | --- |"]
    lines += [f"| `{key}` | {default_of(key)} | {described(key)} |" for key in keys]
    return "\n".join(lines)


def grouped_settings(keys: list[str]) -> str:
    """Render every setting with the values it takes, a table for each group."""
    lines: list[str] = []
    for key in keys:
        if key in GROUPS_OF_SETTINGS:
            lines += ["", f"### {GROUPS_OF_SETTINGS[key]}", ""]
            lines += ["| variable | default | what it does |", "| --- | --- | --- |"]
        lines.append(f"| `{key}` | {default_of(key)} | {described(key)}<br>*{legal(key)}* |")
    return "\n".join(lines[1:])


def cli_help() -> str:
    """Render the help page of every command."""
    pages = []
    for name, command in [("", cli), *sorted(cli.commands.items())]:
        title = f"vllm-engine {name}".strip()
        names = cli.context_settings["help_option_names"]
        with click.Context(
            command, info_name=title, max_content_width=100, help_option_names=names
        ) as context:
            pages.append(f"## {title}\n\n```text\n{command.get_help(context)}\n```")
    return "\n\n".join(pages)


def catalogue() -> str:
    """Render every cause that a failure can be told by; the heading is the code, and so the anchor."""
    groups = []
    for title, entries in GROUPS.items():
        rows = "\n\n".join(catalogue_entry(entry) for entry in entries)
        groups.append(f"## {title}\n\n{rows}")
    return "\n\n".join(groups)


def catalogue_entry(entry: KnownFailure) -> str:
    """Render one cause."""
    again = "yes" if entry.retryable or entry.stage is Stage.SERVING else "no"
    return (
        f"### {entry.code}\n\n"
        f"- What you see: {entry.seen}\n"
        f"- Cause: {entry.sentence({})}.\n"
        f"- Remedy: {entry.advise({}, Facts()).text}.\n"
        f"- Worth trying again unchanged: {again}."
    )


def own_metrics() -> str:
    """Render the gateway's metrics as a Markdown table."""
    build = dict.fromkeys(("version", "sha", "vllm", "model"), "")
    rows = [
        (one.name, one.type, one.labels, one.help) for one in GatewayMetrics((), frozenset(), build).described
    ]
    return metrics_table(rows)


def vllm_metrics() -> str:
    """Render vLLM's metrics, as a run of the pinned vLLM showed them."""
    known = json.loads((ROOT / "deploy/observability/vllm-metrics.json").read_text(encoding="utf-8"))
    rows = [(name, one["type"], one["labels"], one["help"]) for name, one in known["metrics"].items()]
    return f"Those of vLLM {known['vllm']}.\n\n{metrics_table(rows)}"


def metrics_table(rows: Iterable[tuple[str, str, Iterable[str], str]]) -> str:
    """Render metrics as a Markdown table."""
    lines = ["| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
    for name, kind, labels, text in rows:
        text = " ".join(text.split()).replace("|", "\\|")
        lines.append(f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {text} |")
    return "\n".join(lines)


def env_example(keys: list[str]) -> str:
    """Render every setting as a line of `.env`, all of them commented out."""
    lines = ["# Copy to .env and uncomment what you want to change. Written by tools/generate_docs.py."]
    for key in keys:
        if key in GROUPS_OF_SETTINGS:
            lines += ["", f"# --- {GROUPS_OF_SETTINGS[key].lower()}"]
        lines += [f"# {described(key)}".replace("`", ""), f"#   {legal(key)}"]
        lines.append(f"# {key}={default_of(key).strip('`')}")
    return "\n".join(lines) + "\n"


def compose_environment(keys: list[str]) -> str:
    """Render the settings that Compose passes on, from the shell or `.env`; MODEL_ID has a line of its own."""
    return "\n".join(f"      - {key}" for key in keys if key not in OF_THE_IMAGE | {"MODEL_ID"})


def parts() -> dict[Path, dict[str, str]]:
    """Return each document's generated parts by the name of their marker; the name "" is the whole file."""
    every = [name.upper() for name in Settings.model_fields]
    return {
        ROOT / "README.md": {"settings": settings_table(FIRST_SETTINGS)},
        ROOT / "docs/use/configuration.md": {"settings": grouped_settings(every)},
        ROOT / "docs/use/cli.md": {"help": cli_help()},
        ROOT / "docs/operate/metrics.md": {"gateway": own_metrics(), "vllm": vllm_metrics()},
        ROOT / "docs/operate/troubleshooting.md": {"catalogue": catalogue()},
        ROOT / ".env.example": {"": env_example(every)},
        **{
            ROOT / name: {"settings": compose_environment(every)}
            for name in ("compose.yaml", "compose.cpu.yaml")
        },
    }


def rewritten(text: str, marker: str, content: str) -> str:
    """Replace what stands between a document's markers, which are comments of Markdown or YAML.

    Raises:
        ValueError: the document lacks them.
    """
    if not marker:
        return content
    pattern = re.compile(rf"((?:<!--|#) {marker}:begin(?: -->)?\n).*?( *(?:<!--|#) {marker}:end)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"no {marker}:begin ... {marker}:end in comments")
    return pattern.sub(lambda match: match[1] + content + "\n" + match[2], text)


def main(argv: list[str]) -> int:
    """Write or check every document; returns the exit status."""
    stale = []
    for path, contents in parts().items():
        old = new = path.read_text(encoding="utf-8") if path.exists() else ""
        for marker, content in contents.items():
            new = rewritten(new, marker, content)
        if new != old:
            stale.append(path)
            if "--check" not in argv:
                path.write_text(new, encoding="utf-8")
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {'stale: run make docs' if '--check' in argv else 'written'}")
    return 1 if stale and "--check" in argv else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
