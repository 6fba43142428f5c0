"""Sets logging up for the commands that run an engine."""

from __future__ import annotations

import atexit
import logging
from collections.abc import Callable

from vllm_engine.config.environment import Environment
from vllm_engine.config.redaction import secrets_in_environment
from vllm_engine.config.settings import Settings
from vllm_engine.gateway.observe.access_log import ACCESS_LOGGER
from vllm_engine.gateway.policy.auth import secrets_in, words
from vllm_engine.system.log import ENGINE_LOGGER, configure_logging
from vllm_engine.system.standard_streams import drain_all, stop_blocking


def set_up_logging(
    settings: Settings, environment: Environment, *, is_hidden: bool = False, is_verbose: bool = False
) -> None:
    """Configure logging, with secrets masked.

    Args:
        settings: the level and the format.
        environment: what may be secret.
        is_hidden: log warnings and errors alone; of the engine, which warns at every start, errors alone.
        is_verbose: log information whatever `LOG_LEVEL` says.
    """
    secrets = secrets_in_environment(environment.merged)
    if settings.hf_token:
        secrets.append(settings.hf_token.get_secret_value())
    if settings.api_keys:
        secrets += secrets_in(words(settings.api_keys.get_secret_value()))
    level = settings.log_level
    if is_hidden:
        level = "warning"
    elif is_verbose and level != "debug":
        level = "info"
    configure_logging(level, settings.log_format, secrets)
    if not settings.access_log:
        logging.getLogger(ACCESS_LOGGER).setLevel(logging.WARNING)
    if is_hidden:
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
