"""How a script talks to the gateway: one request in JSON on stdin, one JSON object a line on stdout.

The last line is `{"event": "done", "result": ...}` or `{"event": "error", "kind": ..., "detail": ...}`, with
exit status 0 and 1. Of the lines that are not JSON, such as a library's warnings, only the last is kept, to
explain a crash.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_LONGEST_DETAIL = 300
_printing = threading.Lock()


def emit(event: str, **fields: object) -> None:
    """Print one event; ends the process if the gateway has gone."""
    with _printing:
        try:
            print(json.dumps({"event": event, **fields}), flush=True)
        except BrokenPipeError:
            _leave(1)


def run(
    actions: Mapping[str, Callable[..., object]], explain: Callable[[Exception], tuple[str, str]]
) -> None:
    """Answer the request on stdin, `{"do": ACTION, ...}`, whose other fields are the action's arguments.

    `explain` returns the kind and the detail of an error. Ends the process: threads are not waited for.
    """
    signal.signal(signal.SIGTERM, lambda *_: _leave(1))
    request: dict[str, Any] = json.load(sys.stdin)
    try:
        result = actions[request.pop("do")](**request)
    except Exception as error:  # noqa: BLE001 - the gateway tells the user, whatever it is
        kind, detail = explain(error)
        emit("error", kind=kind, detail=" ".join(detail.split())[:_LONGEST_DETAIL])
        _leave(1)
    emit("done", result=result)
    _leave(0)


def _leave(status: int) -> None:
    """End at once, without the partial files that the hub client would never go on with."""
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            path = descriptor.readlink()
            if path.suffix == ".incomplete":
                path.unlink()
        except OSError:
            continue  # closed or moved meanwhile
    os._exit(status)
