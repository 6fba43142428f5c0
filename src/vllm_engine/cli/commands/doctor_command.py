"""`vllm-engine doctor`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vllm_engine.cli.console import console, print_checks, print_notes
from vllm_engine.cli.exit_status import exit_on_error
from vllm_engine.cli.local_defaults import environment_for, takes_local
from vllm_engine.errors import ExitCode

if TYPE_CHECKING:
    from vllm_engine.client.api_client import Server
    from vllm_engine.config.settings import Settings


@click.command("doctor")
@takes_local
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor_command(local: bool, as_json: bool) -> None:
    """Check machine, settings and model. Downloads no weights; exits with 3 if a check fails."""
    import asyncio

    from vllm_engine.config.settings import read_settings
    from vllm_engine.doctor.check import any_failed
    from vllm_engine.doctor.examine import examine

    with exit_on_error():
        environment = environment_for(local=local)
        settings, illegal = read_settings(environment)
        print_notes(environment.notes)
        server = _running_server(settings)
        checks = asyncio.run(examine(settings, environment, Path(sys.prefix), illegal, server))
        print_checks(checks, console(), as_json=as_json)
        if any_failed(checks):
            sys.exit(ExitCode.STARTUP_FAILED)


def _running_server(settings: Settings) -> Server | None:
    from vllm_engine.cli.local_server import local_server
    from vllm_engine.errors import SettingsError

    try:
        return local_server(settings)
    except SettingsError:  # a check of its own reports the certificate
        return None
