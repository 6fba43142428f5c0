"""How a command ends: an error in one line on stderr and the exit status that belongs to it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from vllm_engine.errors import SettingsError, VllmEngineError

INTERRUPTED = 130
"""As shells have it for a program that SIGINT ended."""


@contextmanager
def ending(*, last_words: bool = False, interrupted: int = INTERRUPTED) -> Iterator[None]:
    """Turn our errors into words and an exit status; `last_words` go to `TERMINATION_LOG` too.

    `interrupted` is the status after Ctrl-C: what was to be done is not.
    """
    try:
        yield
    except VllmEngineError as error:
        if last_words:
            _write_last_words(error)
        with suppress(OSError):  # whoever read them may have gone; the status says it too
            for line in str(error).splitlines():
                print(f"vllm-engine: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(interrupted)


def print_json(value: object) -> None:
    """Print a value for a program to read."""
    print(json.dumps(value, indent=2))


def _write_last_words(error: VllmEngineError) -> None:
    from vllm_engine.config.environment import read_environment
    from vllm_engine.config.settings import Settings, load_settings
    from vllm_engine.diagnosis.termination import write_termination_log

    path = Settings.model_fields["termination_log"].default
    with suppress(SettingsError):  # they may be the error; then the default has to do
        path = load_settings(read_environment()).termination_log
    write_termination_log(path, str(error))
