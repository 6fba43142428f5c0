"""Print the section of CHANGELOG.md that belongs to a version, for its release page.

python3 tools/release_notes.py v1.2.0

Exits with 1 if there is no such section or it is empty.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

CHANGELOG = Path(__file__).resolve().parents[1] / "CHANGELOG.md"


def section(text: str, version: str) -> str:
    """Return what stands below `## VERSION`, or `## [VERSION]` with or without a date, up to the next version."""
    heading = rf"^## \[?{re.escape(version.removeprefix('v'))}\]?(?: .*)?\n"
    found = re.search(heading + r"(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return found.group(1).strip() if found else ""


def main() -> None:
    """Run the command."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    notes = section(CHANGELOG.read_text(encoding="utf-8"), sys.argv[1])
    if not notes:
        sys.exit(
            f"release_notes: CHANGELOG.md has no section for {sys.argv[1]}: add `## {sys.argv[1].removeprefix('v')}`"
        )
    print(notes)


if __name__ == "__main__":
    main()
