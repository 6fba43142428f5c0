"""The container's termination log, in which Kubernetes looks for the reason of its end."""

from __future__ import annotations

import os
from pathlib import Path

MAX_BYTES = 4096
"""More is cut off by the kubelet (Kubernetes: "Customizing the termination message")."""


def write_termination_log(path: Path, text: str) -> bool:
    """Write the reason, cut to what fits; returns whether it could be written.

    The file is created by the container's runtime: where it is missing, nobody would read it.
    """
    content = text.encode()
    if len(content) > MAX_BYTES:
        content = content[: MAX_BYTES - 4].decode(errors="ignore").encode() + " …".encode()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        with os.fdopen(descriptor, "wb", 0) as file:
            file.write(content)
    except OSError:
        return False
    return True
