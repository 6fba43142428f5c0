"""The command line: reads arguments, prints, exits; everything it does is done elsewhere."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import uvloop
from rich.console import Console

from vllm_engine import __version__
from vllm_engine.ask import QUESTION
from vllm_engine.engine.flags import mask
from vllm_engine.errors import ExitCode, VllmEngineError
from vllm_engine.log import ENGINE_LOGGER, configure_logging
from vllm_engine.preflight import Preflight, run_preflight
from vllm_engine.present import Presenter
from vllm_engine.report import mask_environ, settings_report
from vllm_engine.resolve import resolve_command, resolve_plan
from vllm_engine.serve import bind, serve
from vllm_engine.settings import Environment, Settings, load_settings, read_environment


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vllm-engine")
def main() -> None:
    """Serve one model with vLLM behind a gateway. Configured by environment variables and .env."""


@main.command("serve")
@click.option("--dry-run", is_flag=True, help="Print the engine's command and environment; start nothing.")
@click.option(
    "--ask", "question", is_flag=False, flag_value=QUESTION, help="When ready, ask this and print the answer."
)
def serve_command(dry_run: bool, question: str | None) -> None:
    """Run the gateway and the engine until Ctrl-C or SIGTERM."""
    with _ending():
        environment = read_environment()
        settings = load_settings(environment)
        _configure_logging(settings, environment, quiet=question is not None)
        preflight = run_preflight(settings, environment, Path(sys.prefix))
        for warning in preflight.warnings:
            logging.getLogger("gateway").warning("%s", warning)
        if dry_run:
            _print_command(settings, environment, preflight)
            return
        listener = bind(settings)
        presenter = Presenter(settings, question, Console()) if question is not None else None
        uvloop.run(serve(settings, environment, preflight, listener, presenter))


@main.command("settings")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def settings_command(as_json: bool) -> None:
    """Print the resolved configuration with each value's source; secrets are masked."""
    with _ending():
        environment = read_environment()
        settings = load_settings(environment)
        preflight = run_preflight(settings, environment, Path(sys.prefix))
        plan = asyncio.run(resolve_plan(settings, environment, preflight))
        rows = settings_report(settings, environment, plan, preflight)
        if as_json:
            print(json.dumps([row.__dict__ for row in rows], indent=2))
            return
        width = max(len(row.key) for row in rows)
        for row in rows:
            print(f"{row.key:<{width}}  {row.value or '-':<42}  {row.source}")


def _print_command(settings: Settings, environment: Environment, preflight: Preflight) -> None:
    plan = asyncio.run(resolve_plan(settings, environment, preflight))
    command = resolve_command(settings, environment, preflight, plan, Path("engine.sock"))
    print("env -i \\")
    for key, value in sorted(mask_environ(command.environ).items()):
        print(f"  {key}={shlex.quote(value)} \\")
    print(f"  {shlex.join(mask(command.argv))}")


def _configure_logging(settings: Settings, environment: Environment, *, quiet: bool) -> None:
    given = (settings.hf_token, settings.api_keys)
    words = [word for secret in given if secret for word in re.split(r"[\s,]+", secret.get_secret_value())]
    secrets = [word.rpartition(":")[2] for word in words]
    configure_logging(settings.log_level, settings.log_format, secrets=secrets)
    if quiet and environment.source("LOG_LEVEL") is None:
        logging.getLogger(ENGINE_LOGGER).setLevel(logging.ERROR)


@contextmanager
def _ending() -> Iterator[None]:
    try:
        yield
    except VllmEngineError as error:
        for line in str(error).splitlines():
            print(f"vllm-engine: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(ExitCode.CLEAN)


if __name__ == "__main__":
    main()
