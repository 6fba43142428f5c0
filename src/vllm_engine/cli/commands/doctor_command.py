"""`vllm-engine doctor`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from vllm_engine.cli.console import console, tell
from vllm_engine.cli.exit_status import ending, print_json
from vllm_engine.errors import ExitCode


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor_command(as_json: bool) -> None:
    """Check machine, settings and model. Downloads no weights; exits with 3 if a check fails."""
    import asyncio

    from vllm_engine.config.environment import read_environment
    from vllm_engine.config.settings import load_settings
    from vllm_engine.doctor.check import any_failed
    from vllm_engine.doctor.check_table import show
    from vllm_engine.doctor.examine import examine

    with ending():
        environment = read_environment()
        settings = load_settings(environment)
        tell(environment.notes)
        checks = asyncio.run(examine(settings, environment, Path(sys.prefix)))
        if as_json:
            print_json([check.as_json() for check in checks])
        else:
            show(checks, console())
        if any_failed(checks):
            sys.exit(ExitCode.STARTUP_FAILED)
