"""`vllm-engine settings`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from vllm_engine.cli.console import console, print_json, print_notes
from vllm_engine.cli.exit_status import exit_on_error
from vllm_engine.cli.local_defaults import environment_for, takes_local


@click.command("settings")
@takes_local
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def settings_command(local: bool, as_json: bool) -> None:
    """Print the resolved configuration.

    Each value is shown with its source; secrets are masked. Values that depend on the model are marked if
    its configuration is not available, and the reason is printed on standard error. Exits with 2 if a
    setting is invalid.
    """
    import asyncio

    from vllm_engine.config.settings import read_settings
    from vllm_engine.errors import ModelError, SettingsError
    from vllm_engine.gateway.settings_check import check_gateway
    from vllm_engine.models.model_source import Model
    from vllm_engine.plan.configuration_report import settings_report, show_settings
    from vllm_engine.plan.preflight import inspect
    from vllm_engine.plan.resolve import Planner, resolve_plan

    with exit_on_error():
        environment = environment_for(local=local)
        settings, illegal = read_settings(environment)
        others = [*illegal, *check_gateway(settings)]
        preflight, problems = inspect(settings, environment, Path(sys.prefix), others)
        try:
            plan = Planner(preflight, Model(settings.model_id)).plan()
        except SettingsError as error:  # what it would refuse here is among these already
            raise SettingsError(problems) from error
        is_seen = False
        try:
            if not problems:
                plan = asyncio.run(resolve_plan(preflight))
                is_seen = True
        except ModelError as error:
            print(f"vllm-engine: {error}", file=sys.stderr)
        rows = settings_report(preflight, plan, problems, is_model_seen=is_seen)
        print_notes(preflight.warnings)
        if as_json:
            print_json([row.__dict__ for row in rows])
        else:
            show_settings(rows, console())
        if problems:
            raise SettingsError(problems)
