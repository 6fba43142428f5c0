"""How a command ends after an error: one line on standard error and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from vllm_engine.errors import SettingsError, VllmEngineError

INTERRUPTED = 130
"""As shells report a program that SIGINT ended: 128 + 2."""


@contextmanager
def exit_on_error(*, to_termination_log: bool = False, interrupted: int = INTERRUPTED) -> Iterator[None]:
    """Print errors of ours and exit with their status.

    Args:
        to_termination_log: write the error to `TERMINATION_LOG` as well.
        interrupted: the exit status after Ctrl-C.
    """
    try:
        yield
    except VllmEngineError as error:
        if to_termination_log:
            _write_termination_log(error)
        with suppress(OSError):  # the reader may have closed it; the exit status is still right
            for line in str(error).splitlines():
                print(f"vllm-engine: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(interrupted)


def _write_termination_log(error: VllmEngineError) -> None:
    from vllm_engine.config.environment import read_environment
    from vllm_engine.config.settings import Settings, load_settings
    from vllm_engine.diagnosis.termination import write_termination_log

    path = Settings.model_fields["termination_log"].default
    with suppress(SettingsError):  # if the settings are the error, the default path is used
        path = load_settings(read_environment()).termination_log
    write_termination_log(path, str(error))
