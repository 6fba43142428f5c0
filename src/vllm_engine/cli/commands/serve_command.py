"""`vllm-engine serve`."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vllm_engine.cli.console import console
from vllm_engine.cli.exit_status import exit_on_error
from vllm_engine.client import STANDARD_QUESTION
from vllm_engine.errors import ExitCode

if TYPE_CHECKING:
    from vllm_engine.plan.preflight import Preflight


@click.command("serve")
@click.option("--dry-run", is_flag=True, help="Print the engine's command and environment, and exit.")
@click.option(
    "--local",
    is_flag=True,
    help="Change defaults: the bundled model, on loopback only, cached in ./.cache.",
)
@click.option(
    "--ask",
    "question",
    is_flag=False,
    flag_value=STANDARD_QUESTION,
    help="When ready, ask this question and print the answer.",
)
def serve_command(dry_run: bool, local: bool, question: str | None) -> None:
    """Run the gateway and the engine until Ctrl-C or SIGTERM."""
    import uvloop

    from vllm_engine.cli.logging_setup import never_block, set_up_logging
    from vllm_engine.config.environment import read_environment
    from vllm_engine.config.settings import read_settings
    from vllm_engine.gateway.http.listening_sockets import listen
    from vllm_engine.gateway.settings_check import check_gateway
    from vllm_engine.plan.preflight import run_preflight
    from vllm_engine.system.log import is_console

    with exit_on_error(to_termination_log=True, interrupted=ExitCode.CLEAN):
        environment = read_environment()
        if local:
            environment = replace(environment, defaults=_local_defaults())
        settings, illegal = read_settings(environment)
        lines_dropped = (lambda: 0) if dry_run else never_block()
        set_up_logging(settings, environment, quiet=question is not None)
        others = [*illegal, *check_gateway(settings)]
        preflight = run_preflight(settings, environment, Path(sys.prefix), others)
        # Only now: importing FastAPI fails if OTEL_PROPAGATORS names one that is not installed.
        from vllm_engine.serve import serve

        _log_warnings(preflight)
        if dry_run:
            _print_command(preflight)
            return
        listeners = listen(settings)
        presenter = None
        if question is not None or (sys.stdout.isatty() and is_console(settings.log_format)):
            from vllm_engine.cli.start_display import Presenter

            presenter = Presenter(settings, question, console())
        uvloop.run(serve(preflight, listeners, presenter, lines_dropped))


def _local_defaults() -> dict[str, str]:
    return {
        "MODEL_ID": "bundled:smollm2-135m-instruct",
        "HOST": "127.0.0.1",
        "CACHE_DIR": str(Path.cwd() / ".cache"),
    }


def _log_warnings(preflight: Preflight) -> None:
    import logging

    from vllm_engine.doctor.check import Status
    from vllm_engine.doctor.examine import machine_checks

    for warning in preflight.warnings:
        logging.getLogger("gateway").warning("%s", warning)
    for check in machine_checks(preflight):
        if check.status is not Status.OK:
            logging.getLogger("gateway.doctor").warning("%s: %s", check.id, check)


def _print_command(preflight: Preflight) -> None:
    import asyncio

    from vllm_engine.config.flags import mask
    from vllm_engine.config.redaction import mask_environ
    from vllm_engine.plan.resolve import resolve_command, resolve_plan

    plan = asyncio.run(resolve_plan(preflight))
    command = resolve_command(preflight, plan, Path("engine.sock"))
    print("env -i \\")
    for key, value in sorted(mask_environ(command.environ).items()):
        print(f"  {key}={shlex.quote(value)} \\")
    print(f"  {shlex.join(mask(command.argv))}")
