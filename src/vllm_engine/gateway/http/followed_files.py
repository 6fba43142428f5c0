"""Files that are read again when they change."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

Fingerprint = tuple[int, ...] | None
Value = TypeVar("Value")
MAX_FILE_BYTES = 1 << 20
"""More than any keys file or certificate has."""


class UnusableFileError(ValueError):
    """A file that a setting names cannot be used."""

    def __init__(self, setting: str, problem: str) -> None:
        self.setting = setting
        self.problem = problem
        super().__init__(f"{setting}: {problem}")


class FollowedFiles(Generic[Value]):
    """What was read from files; read again after they have changed, when it is asked for."""

    def __init__(
        self,
        files: Sequence[Path],
        read: Callable[[], Value],
        *,
        check_seconds: float,
        clock: Callable[[], float],
        logger: logging.Logger,
        kept: str,
        on_change: Callable[[Value], None],
    ) -> None:
        """Read the files; raises what `read` raises, a `ValueError`, if they cannot be used.

        Later that is logged once, with `kept`: what becomes of the value, such as "the previous keys stay
        valid". A change goes unnoticed for `check_seconds` at most, and is told to `on_change`.
        """
        self._files = files
        self._read = read
        self._check_seconds = check_seconds
        self._clock = clock
        self._logger = logger
        self._kept = kept
        self._on_change = on_change
        self._next_check = clock() + check_seconds
        self._error = ""
        self._seen = self._fingerprints()
        self._value = read()

    def current(self) -> Value:
        """Return what is in the files now, or was when they were last usable."""
        if (now := self._clock()) >= self._next_check:
            self._next_check = now + self._check_seconds
            self._check()
        return self._value

    def _check(self) -> None:
        # Before the files are read: if they change in between, the next check sees other fingerprints.
        found = self._fingerprints()
        if found == self._seen:
            self._error = ""
            return
        try:
            self._value = self._read()
        except ValueError as error:
            # Tried again at each check, as two files may be written one after the other.
            if str(error) != self._error:
                self._error = str(error)
                self._logger.error("%s; %s", error, self._kept)
            return
        self._seen, self._error = found, ""
        self._on_change(self._value)

    def _fingerprints(self) -> tuple[Fingerprint, ...]:
        return tuple(map(_fingerprint, self._files))


def read_file(setting: str, file: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file: a pipe is not waited for.

    Raises:
        UnusableFileError: it cannot be read, is another kind of file, or is larger than `max_bytes`.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UnusableFileError(setting, "cannot be read (not a regular file)")
            with os.fdopen(descriptor, "rb", closefd=False) as stream:
                content = stream.read(max_bytes + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UnusableFileError(setting, f"cannot be read ({error.strerror})") from None
    if len(content) > max_bytes:
        raise UnusableFileError(setting, f"cannot be read (larger than {max_bytes} bytes)")
    return content


def _fingerprint(file: Path) -> Fingerprint:
    """Tell one state of a file from another; follows symlinks, as Kubernetes swaps those."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
