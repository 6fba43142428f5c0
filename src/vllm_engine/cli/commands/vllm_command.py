"""`vllm-engine vllm`: vLLM's own command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vllm_engine.cli.exit_status import exit_on_error
from vllm_engine.errors import ExitCode, SettingsError

if TYPE_CHECKING:
    from vllm_engine.plan.preflight import Preflight

_DRY_RUN = "--dry-run"
_NEEDED = ("CACHE_DIR", "ENGINE_PYTHON")
"""Settings without which the engine's own command cannot run."""


@click.command("vllm", context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="COMMAND [ARGUMENT]...")
def vllm_command(words: tuple[str, ...]) -> None:
    """Take vLLM's own command line, as a stand-in for `vllm`.

    \b
      vllm-engine vllm serve Qwen/Qwen2.5-3B-Instruct --max-model-len 4096 --api-key "$KEY"

    `serve` starts this program's server with vLLM's defaults; its flags become settings where there are any.
    Everything else, such as `bench` and `serve --help=all`, is run by the engine's own vLLM.
    In the image `vllm` is this command.
    """
    from vllm_engine.cli.commands.serve_command import run_server
    from vllm_engine.cli.drop_in.vllm_start import drop_in
    from vllm_engine.config.environment import read_environment

    asks_for_help = any(word.partition("=")[0] in ("-h", "--help") for word in words)
    is_start = words[:1] == ("serve",) and not asks_for_help
    with exit_on_error(to_termination_log=is_start, interrupted=ExitCode.CLEAN):
        if is_start:
            given = [word for word in words[1:] if word != _DRY_RUN]
            run_server(drop_in(read_environment(), given), is_dry_run=_DRY_RUN in words)
        else:
            _run_engines_own(words)


def _run_engines_own(words: tuple[str, ...]) -> None:
    """Become the engine's vLLM, in the environment that the engine gets."""
    from vllm_engine.plan.resolve import foresee_command

    preflight = _inspect()
    version = preflight.installation.version
    if words in (("--version",), ("-v",)):
        print(version)
        return
    command = foresee_command(preflight, is_offline=False, python=preflight.installation.python, places={})
    os.execve(command.argv[0], [*command.argv, *words], dict(command.environ))  # noqa: S606 - no shell is wanted


def _inspect() -> Preflight:
    from vllm_engine.config.environment import read_environment
    from vllm_engine.config.settings import read_settings
    from vllm_engine.plan.preflight import inspect

    environment = read_environment()
    settings, _ = read_settings(environment)
    preflight, problems = inspect(settings, environment, Path(sys.prefix))
    if needed := [each for each in problems if each.key in _NEEDED]:
        raise SettingsError(needed)
    return preflight
