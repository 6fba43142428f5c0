"""What starts leave in the cache for later ones: a small JSON file with an entry for each configuration."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

_VERSION = 1
_T = TypeVar("_T")

logger = logging.getLogger("gateway.history")


@dataclass(frozen=True)
class KeptEntries(Generic[_T]):
    """Such a file; that it cannot be read or written costs a line of the log and what it is for.

    Attributes:
        title: what the entries are, in the file.
        parse: makes an entry of what was read; raises ValueError, TypeError or AttributeError if it is none.
        most: how many configurations are kept; the oldest are forgotten.
        unread: what is lost by a file that cannot be read, in the log's words.
        unwritten: the same of one that cannot be written.
        mode: who may read a new file, before the umask.
    """

    path: Path
    title: str
    parse: Callable[[Any], _T]
    most: int
    unread: str
    unwritten: str
    mode: int = 0o666

    def read(self) -> dict[str, _T]:
        """Return all entries, the oldest first; none of a file of another version."""
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            if kept["version"] != _VERSION:
                return {}
            return {str(key): self.parse(entry) for key, entry in kept[self.title].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            logger.warning("%s cannot be read (%s): %s", self.path, type(error).__name__, self.unread)
            return {}

    def write(self, entries: Mapping[str, Any]) -> None:
        """Replace the file's entries by the newest of these, as JSON has them."""
        newest = dict(list(entries.items())[-self.most :])
        partial = self.path.with_suffix(f".{os.getpid()}")
        try:
            partial.touch(mode=self.mode)
            partial.write_text(json.dumps({"version": _VERSION, self.title: newest}), encoding="utf-8")
            partial.replace(self.path)
        except OSError as error:
            logger.warning("%s cannot be written (%s): %s", self.path, error.strerror, self.unwritten)
