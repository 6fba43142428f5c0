"""`vllm-engine doctor`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from vllm_engine.cli.console import console, print_checks, print_notes
from vllm_engine.cli.exit_status import exit_on_error
from vllm_engine.errors import ExitCode


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor_command(as_json: bool) -> None:
    """Check machine, settings and model. Downloads no weights; exits with 3 if a check fails."""
    import asyncio

    from vllm_engine.config.environment import read_environment
    from vllm_engine.config.settings import read_settings
    from vllm_engine.doctor.check import any_failed
    from vllm_engine.doctor.examine import examine

    with exit_on_error():
        environment = read_environment()
        settings, illegal = read_settings(environment)
        print_notes(environment.notes)
        checks = asyncio.run(examine(settings, environment, Path(sys.prefix), illegal))
        print_checks(checks, console(), as_json=as_json)
        if any_failed(checks):
            sys.exit(ExitCode.STARTUP_FAILED)
