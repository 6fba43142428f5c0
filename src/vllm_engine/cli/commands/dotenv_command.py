"""`vllm-engine dotenv`."""

from __future__ import annotations

import sys

import click

from vllm_engine.cli.console import print_notes
from vllm_engine.cli.exit_status import exit_on_error


@click.command("dotenv")
@click.option(
    "--stdin", "is_given", is_flag=True, help="Read standard input instead of .env and the environment."
)
def dotenv_command(is_given: bool) -> None:
    """Print .env as assignments for a POSIX shell.

    Use it as eval "$(vllm-engine dotenv)". Variables that the shell has already set are kept. With --stdin a
    container can read its host's file. Values are printed in full, secrets included.
    """
    from vllm_engine.config.env_file import assignments, parse_env
    from vllm_engine.config.environment import read_environment, understood
    from vllm_engine.config.flags import FlagCatalogue
    from vllm_engine.config.other_engines import SAME
    from vllm_engine.errors import SettingsError
    from vllm_engine.plan.variable_checks import check_names

    with exit_on_error():
        environment = understood({}, parse_env(sys.stdin.buffer.read())) if is_given else read_environment()
        problems, _ = check_names(environment, FlagCatalogue.load(""))
        if problems:
            raise SettingsError(problems)
        print_notes(environment.notes)
        wanted = environment.dotenv.keys() | set(SAME.values())
        merged = environment.merged
        text = assignments({key: value for key, value in merged.items() if key in wanted and value})
        # The file's own bytes, in any locale: a shell copies bytes.
        click.echo(text.encode(errors="surrogateescape"))
