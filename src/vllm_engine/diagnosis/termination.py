"""The container's termination log: where Kubernetes looks for the last words of a container."""

from __future__ import annotations

import os
from pathlib import Path

MAX_BYTES = 4096
"""More is cut off by the kubelet (Kubernetes: "Customizing the termination message")."""


def write_termination_log(path: Path, text: str) -> bool:
    """Write the last words, cut to what fits; returns whether they could be written.

    The file is made by the container's runtime: where it is missing, nobody would read it.
    """
    content = text.encode()
    if len(content) > MAX_BYTES:
        content = content[: MAX_BYTES - 4].decode(errors="ignore").encode() + " …".encode()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(descriptor, content)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
