"""The command line: the only part that prints and exits.

Commands import what they need when they run, so that `--help` and shell completion are fast.
"""

from __future__ import annotations

import click

from vllm_engine import __version__
from vllm_engine.cli.command_group import Commands
from vllm_engine.cli.commands.bench_command import bench_command
from vllm_engine.cli.commands.chat_command import chat_command
from vllm_engine.cli.commands.completion_command import completion_command
from vllm_engine.cli.commands.doctor_command import doctor_command
from vllm_engine.cli.commands.dotenv_command import dotenv_command
from vllm_engine.cli.commands.download_command import download_command
from vllm_engine.cli.commands.plan_command import plan_command
from vllm_engine.cli.commands.serve_command import serve_command
from vllm_engine.cli.commands.settings_command import settings_command
from vllm_engine.cli.commands.smoke_command import smoke_command
from vllm_engine.cli.commands.vllm_command import vllm_command
from vllm_engine.cli.commands.worker_command import worker_command
from vllm_engine.cli.console import escape_what_cannot_be_encoded
from vllm_engine.cli.exit_status import exit_on_error
from vllm_engine.system.standard_streams import flush_streams, open_closed_streams


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-v", "--version", prog_name="vllm-engine")
@click.pass_context
def main(context: click.Context) -> None:
    """Serve one model with vLLM behind a gateway. Configured by environment variables and .env."""
    from vllm_engine.config.environment import check_key_log

    open_closed_streams()
    escape_what_cannot_be_encoded()
    with exit_on_error():
        check_key_log()
    # click exits silently with status 1 if the reader of a pipe is gone (`settings | head`).
    context.call_on_close(_flush)


def _flush() -> None:
    try:
        flush_streams()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise click.ClickException(f"cannot write to standard output ({error.strerror})") from None


for command in (
    bench_command,
    chat_command,
    completion_command,
    doctor_command,
    dotenv_command,
    download_command,
    plan_command,
    serve_command,
    settings_command,
    smoke_command,
    vllm_command,
    worker_command,
):
    main.add_command(command)
