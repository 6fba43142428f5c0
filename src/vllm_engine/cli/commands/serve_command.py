"""`vllm-engine serve`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vllm_engine.cli.console import console
from vllm_engine.cli.exit_status import exit_on_error
from vllm_engine.cli.local_defaults import environment_for, takes_local
from vllm_engine.client import FIRST_QUESTION
from vllm_engine.errors import ExitCode

if TYPE_CHECKING:
    from vllm_engine.cli.screen.start_display import Presenter
    from vllm_engine.config.environment import Environment
    from vllm_engine.config.settings import Settings
    from vllm_engine.plan.preflight import Preflight


_SOCKET = "vllm-engine-dry-run.sock"


@click.command("serve", context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[MODEL] [SETTING | VLLM FLAG]...")
@click.option(
    "--dry-run", is_flag=True, help="Print the engine's command and what is set of its environment, and exit."
)
@takes_local
@click.option(
    "--ask",
    "question",
    is_flag=False,
    flag_value=FIRST_QUESTION,
    metavar="[TEXT]",
    help=f"When ready, ask this question and print the answer. Default: {FIRST_QUESTION}",
)
@click.option("-v", "--verbose", is_flag=True, help="Show the log on a terminal too, vLLM's included.")
def serve_command(
    words: tuple[str, ...], dry_run: bool, local: bool, question: str | None, verbose: bool
) -> None:
    """Run the gateway and the engine until Ctrl-C or SIGTERM.

    MODEL is a repository of the Hugging Face Hub or a folder; default: MODEL_ID. Every setting is an option
    as well, and so is every flag of `vllm serve`; both win over variables:

    \b
      vllm-engine serve Qwen/Qwen2.5-3B-Instruct --port 8001 --max-model-len 4096
      vllm-engine serve --api-keys-file keys.txt --no-enable-ui --max-num-seqs 64

    Secrets are taken from variables alone: a command line can be read by every process of the machine.
    """
    from vllm_engine.cli.serve_words import with_words

    with exit_on_error(to_termination_log=True, interrupted=ExitCode.CLEAN):
        environment = with_words(environment_for(local=local), words)
        run_server(environment, is_dry_run=dry_run, question=question, is_verbose=verbose)


def run_server(
    environment: Environment,
    *,
    is_dry_run: bool = False,
    question: str | None = None,
    is_verbose: bool = False,
) -> None:
    """Run the gateway and the engine until a signal; returns after a clean stop.

    Raises:
        VllmEngineError: the settings cannot work, or the engine cannot run.
    """
    import uvloop

    from vllm_engine.cli.logging_setup import never_block, set_up_logging
    from vllm_engine.config.settings import read_settings
    from vllm_engine.gateway.http.listening_sockets import listen
    from vllm_engine.gateway.settings_check import check_gateway
    from vllm_engine.plan.preflight import run_preflight

    settings, illegal = read_settings(environment)
    lines_dropped = (lambda: 0) if is_dry_run else never_block()
    view = _View.of(settings, environment, is_verbose=is_verbose)
    set_up_logging(settings, environment, is_hidden=view.is_log_hidden, is_verbose=is_verbose)
    others = [*illegal, *check_gateway(settings)]
    preflight = run_preflight(settings, environment, Path(sys.prefix), others)
    # Only now: importing FastAPI fails if OTEL_PROPAGATORS names one that is not installed.
    from vllm_engine.serve import serve

    _log_warnings(preflight)
    if is_dry_run:
        _print_command(preflight)
        return
    listeners = listen(settings)
    presenter = _presenter(preflight, question, view) if view.is_screen or question is not None else None
    uvloop.run(serve(preflight, listeners, presenter, lines_dropped))


@dataclass(frozen=True)
class _View:
    """What is where: a screen on standard output, the log on standard error."""

    is_screen: bool
    is_log_hidden: bool

    @classmethod
    def of(cls, settings: Settings, environment: Environment, *, is_verbose: bool) -> _View:
        """Decide it: whoever sets LOG_LEVEL or LOG_FORMAT, or asks for -v, sees the log."""
        is_together = sys.stderr.isatty()
        is_screen = sys.stdout.isatty() and not (is_together and settings.log_format == "json")
        is_screen = is_screen and not settings.is_worker  # which has nobody to talk to
        is_chosen = environment.source("LOG_LEVEL") or environment.source("LOG_FORMAT")
        return cls(is_screen, is_screen and is_together and not is_verbose and not is_chosen)


def _presenter(preflight: Preflight, question: str | None, view: _View) -> Presenter:
    from vllm_engine.cli.screen.start_display import Presenter

    device = preflight.device
    engine = (
        f" with vLLM {preflight.installation.version} on {'CPU' if device.kind == 'cpu' else device.name}"
    )
    shown = console(is_plain=not view.is_screen)
    return Presenter(preflight.settings, question, shown, engine, view.is_log_hidden)


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

    from vllm_engine.config.environment import inherited
    from vllm_engine.config.flags import mask
    from vllm_engine.plan.engine_command import RUST_SOCKET
    from vllm_engine.plan.resolve import resolve_command, resolve_plan

    plan = asyncio.run(resolve_plan(preflight))
    command = resolve_command(preflight, plan, Path(_SOCKET))
    argv = mask(command.argv)
    print(f"# vllm {shlex.join(argv[argv.index('serve') :])}\n#")
    print("".join(f"# {note}\n" for note in plan.notes) + "#")
    if first := _before_a_first_start(preflight.settings):
        print(f"# Before the first start, as the bundled model is not converted yet:\n#   {first}\n#")
    print("# The whole command, to be pasted: of the environment, only what differs from this shell's.")
    print("# It listens on a new Unix socket: curl --unix-socket SOCKET http://localhost/v1/models")
    pasted = shlex.join(argv).replace(_SOCKET, f'"$(mktemp -d)/{_SOCKET}"')
    pasted = pasted.replace(f" both {RUST_SOCKET} ", f' both "$(mktemp -d)/{RUST_SOCKET}" ', 1)
    print(" \\\n  ".join(["env", *_changes(inherited(), command.environ), pasted]))


def _before_a_first_start(settings: Settings) -> str:
    """Return the command that prepares what `serve` would prepare before it runs vLLM; empty for nothing."""
    from vllm_engine.models.bundled import bundled_path, is_bundled
    from vllm_engine.models.engine_scripts.bundled_files import is_intact

    model = settings.model_id
    if not is_bundled(model) or is_intact(bundled_path(model, settings.cache_dir)):
        return ""
    program = shlex.quote(sys.argv[0])
    return f"CACHE_DIR={shlex.quote(str(settings.cache_dir))} {program} download {model}"


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    """Yield the arguments of env(1) that turn one environment into another; secrets stay the shell's."""
    from vllm_engine.config.redaction import masked

    for key in sorted(before.keys() - after.keys()):
        yield f"-u {shlex.quote(key)}"
    for key, value in sorted(after.items()):
        if before.get(key) != value:
            yield f"{key}={shlex.quote(value)}" if masked(key, value) == value else f'{key}="${key}"'
