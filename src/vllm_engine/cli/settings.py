"""`vllm-engine settings`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from vllm_engine.cli.console import console
from vllm_engine.cli.ending import ending, print_json


@click.command("settings")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def settings_command(as_json: bool) -> None:
    """Print the resolved configuration with each value's source; secrets are masked."""
    import asyncio

    from vllm_engine.environment import read_environment
    from vllm_engine.preflight import run_preflight
    from vllm_engine.report import settings_report, show_settings
    from vllm_engine.resolve import resolve_plan
    from vllm_engine.settings import load_settings

    with ending():
        environment = read_environment()
        settings = load_settings(environment)
        preflight = run_preflight(settings, environment, Path(sys.prefix))
        plan = asyncio.run(resolve_plan(settings, environment, preflight))
        rows = settings_report(settings, environment, plan, preflight)
        if as_json:
            print_json([row.__dict__ for row in rows])
        else:
            show_settings(rows, console())
