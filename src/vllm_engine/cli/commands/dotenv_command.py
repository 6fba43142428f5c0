"""`vllm-engine dotenv`."""

from __future__ import annotations

import sys

import click

from vllm_engine.cli.console import tell
from vllm_engine.cli.exit_status import ending


@click.command("dotenv")
@click.option(
    "--stdin", "is_given", is_flag=True, help="Read standard input in place of .env and of this environment."
)
def dotenv_command(is_given: bool) -> None:
    """Print .env as assignments for a POSIX shell: eval "$(vllm-engine dotenv)".

    What the shell has set already stays. With --stdin a container reads the file of its host. The values
    are shown, secrets too.
    """
    from vllm_engine.config.env_file import assignments, parse_env
    from vllm_engine.config.environment import read_environment, understood
    from vllm_engine.config.flags import FlagCatalogue
    from vllm_engine.config.other_engines import SAME
    from vllm_engine.errors import SettingsError
    from vllm_engine.plan.variable_checks import check_names

    with ending():
        environment = understood({}, parse_env(sys.stdin.buffer.read())) if is_given else read_environment()
        if problems := check_names(environment, FlagCatalogue.load("")):
            raise SettingsError(problems)
        tell(environment.notes)
        wanted = environment.dotenv.keys() | set(SAME.values())
        merged = environment.merged
        text = assignments({key: value for key, value in merged.items() if key in wanted and value})
        # As the file has it, whatever the locale says: a shell copies bytes.
        click.echo(text.encode(errors="surrogateescape"))
