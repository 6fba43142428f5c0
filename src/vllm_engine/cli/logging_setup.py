"""Sets logging up for the commands that run an engine."""

from __future__ import annotations

import atexit
import logging
from collections.abc import Callable

from vllm_engine.config.environment import Environment
from vllm_engine.config.redaction import secrets_in_environment
from vllm_engine.config.settings import Settings
from vllm_engine.gateway.policy.auth import secrets_in, words
from vllm_engine.system.log import ENGINE_LOGGER, configure_logging
from vllm_engine.system.standard_streams import drain_all, stop_blocking


def set_up_logging(settings: Settings, environment: Environment, *, quiet: bool) -> None:
    """Configure logging, with secrets masked; `quiet` drops the engine's lines unless LOG_LEVEL is set."""
    secrets = secrets_in_environment(environment.merged)
    if settings.hf_token:
        secrets.append(settings.hf_token.get_secret_value())
    if settings.api_keys:
        secrets += secrets_in(words(settings.api_keys.get_secret_value()))
    configure_logging(settings.log_level, settings.log_format, secrets)
    if quiet and environment.source("LOG_LEVEL") is None:
        logging.getLogger(ENGINE_LOGGER).setLevel(logging.ERROR)


def never_block() -> Callable[[], int]:
    """Make logging and printing non-blocking for the rest of the process; returns a counter of dropped lines.

    At exit the last lines, and a traceback, get a short time to be written.
    """
    writers = stop_blocking(_log_dropped)
    atexit.register(drain_all, writers)
    return lambda: sum(writer.lines_dropped for writer in writers)


def _log_dropped(lines: int) -> None:
    logging.getLogger("gateway.log").error(
        "%d line(s) were dropped before this one: standard output or standard error was full or not read",
        lines,
    )
