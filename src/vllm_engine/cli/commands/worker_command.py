"""`vllm-engine worker`."""

from __future__ import annotations

import click

from vllm_engine.cli.exit_status import exit_on_error
from vllm_engine.cli.local_defaults import environment_for
from vllm_engine.errors import ExitCode


@click.command("worker", context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[MODEL] [SETTING | VLLM FLAG]...")
def worker_command(words: tuple[str, ...]) -> None:
    """Run this machine's part of a model that several machines serve, until Ctrl-C or SIGTERM.

    Takes a model, settings and flags as `vllm-engine serve` does, and needs those of the head; only NODE_RANK
    differs:

    \b
      vllm-engine worker meta-llama/Llama-3.1-405B-Instruct-FP8 --tensor-parallel 8 \\
          --pipeline-parallel 2 --nodes 2 --node-rank 1 --head-address 10.0.0.1

    It waits for the head, and on PORT answers probes, /version and /metrics alone: the API is the head's.
    """
    from vllm_engine.cli.commands.serve_command import run_server
    from vllm_engine.cli.serve_words import with_words
    from vllm_engine.config.settings import read_settings
    from vllm_engine.errors import Problem, SettingsError

    with exit_on_error(to_termination_log=True, interrupted=ExitCode.CLEAN):
        environment = with_words(environment_for(local=False), words)
        settings, illegal = read_settings(environment)
        if not settings.is_worker and not illegal:
            rank = environment.merged.get("NODE_RANK")
            wanted = (
                "a worker is a node of rank 1 or more; set NODES to how many there are, and its NODE_RANK"
            )
            raise SettingsError([Problem("NODE_RANK", rank, wanted)])
        run_server(environment)
