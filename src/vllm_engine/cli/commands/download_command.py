"""`vllm-engine download`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vllm_engine.cli.console import console, print_json, print_notes
from vllm_engine.cli.exit_status import exit_on_error

if TYPE_CHECKING:
    from vllm_engine.config.environment import Environment
    from vllm_engine.config.settings import Settings
    from vllm_engine.errors import Problem
    from vllm_engine.plan.prefetch import Fetched


@click.command("download")
@click.argument("model", required=False)
@click.option("--revision", help="Branch, tag or commit. Default: MODEL_REVISION.")
@click.option(
    "--all-caches",
    is_flag=True,
    help="Then start the engine once, so that CACHE_DIR holds what it compiles as well.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def download_command(model: str | None, revision: str | None, all_caches: bool, as_json: bool) -> None:
    """Download a model into CACHE_DIR and verify it.

    MODEL defaults to MODEL_ID. The checksum of every file is verified. Files that are already there are not
    downloaded again: after an interruption, run it again. Needs no GPU; --all-caches must run on the machine
    that will serve.
    """
    from vllm_engine.config.environment import read_environment
    from vllm_engine.config.settings import read_settings

    with exit_on_error():
        environment = read_environment()
        given = {"MODEL_ID": model, "MODEL_REVISION": revision}
        chosen = {key: value for key, value in given.items() if value}
        environment = replace(environment, process={**environment.process, **chosen})
        settings, illegal = read_settings(environment)
        print_notes(environment.notes)
        fetched = _fetch(settings, environment, illegal)
        if all_caches:
            _warm(settings, environment)
        if as_json:
            print_json(fetched.as_json())
        else:
            print(fetched)


def _fetch(settings: Settings, environment: Environment, illegal: Sequence[Problem]) -> Fetched:
    import asyncio

    from vllm_engine.cli.screen.download_display import DownloadView
    from vllm_engine.models.hub_download import Listener
    from vllm_engine.plan.prefetch import prefetch

    async def fetch(listener: Listener) -> Fetched:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await prefetch(settings, environment, Path(sys.prefix), listener, illegal)

    number = signal.SIGTERM
    try:
        with DownloadView(console(stderr=True)) as view:
            return asyncio.run(fetch(Listener(view.download, view.convert, view.note)))
    except KeyboardInterrupt:
        number = signal.SIGINT
    except asyncio.CancelledError:  # by the handler above
        pass
    kept = f"files that are complete are kept in CACHE_DIR={settings.cache_dir}"
    print_notes([f"interrupted; {kept}: run the same command again to fetch the rest"])
    sys.exit(128 + number)


def _warm(settings: Settings, environment: Environment) -> None:
    import uvloop

    from vllm_engine.cli.logging_setup import set_up_logging
    from vllm_engine.cli.screen.start_display import Presenter
    from vllm_engine.cli.warm_up import warm

    set_up_logging(settings, environment, is_hidden=environment.source("LOG_LEVEL") is None)
    presenter = Presenter(settings, None, console(stderr=True))
    uvloop.run(warm(settings, environment, Path(sys.prefix), presenter))
