"""Runs in the child just before the engine: ties the engine's life to ours, then becomes it.

Called as `python -IS launch.py PARENT_PID ARGV...`. If our program is killed outright, the kernel
sends the engine SIGTERM (prctl(2), PR_SET_PDEATHSIG), so that no engine is left holding a GPU.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Set the death signal, check that the parent still lives, and exec the engine."""
    parent, command = int(argv[1]), argv[2:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit("the gateway ended before the engine could start")
    try:
        os.execvp(command[0], command)  # noqa: S606 - argv list of our own making, no shell
    except OSError as error:
        raise SystemExit(f"cannot start {command[0]}: {error.strerror}") from None


if __name__ == "__main__":
    main(sys.argv)
