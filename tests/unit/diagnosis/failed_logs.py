"""Failed starts and losses on record: each file's first line says what it is and what must be told from it."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from vllm_engine.diagnosis.run_facts import Facts
from vllm_engine.engine.child_process import TAIL_LINES
from vllm_engine.engine.output.engine_exit import EngineExit

LOGS = Path(__file__).parents[2] / "data/logs"
_HEAD = "# recorded: composed | code: disk-full | status: 1 | stage: starting"
"""For example; `tests/data/logs/README.md` has the words."""


@dataclass(frozen=True)
class Failure:
    """One recorded failure."""

    name: str
    code: str
    ending: EngineExit
    oom_kills: int = 0
    nodes: int = 1
    node_rank: int = 0

    def facts(self, facts: Facts) -> Facts:
        """Add to the facts what the record says of the kernel's counters and of the nodes."""
        return dataclasses.replace(
            facts, oom_kills=self.oom_kills, nodes=self.nodes, node_rank=self.node_rank
        )


def failures() -> list[Failure]:
    return [_read(path) for path in sorted([*LOGS.glob("*-fail-*.log"), *LOGS.glob("failed/*.log")])]


def healthy_logs() -> list[Path]:
    """Return the logs of starts that went well."""
    return [path for path in sorted(LOGS.glob("*.log")) if "-fail-" not in path.name]


def lines_of(path: Path) -> tuple[str, ...]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return tuple(line.rstrip() for line in lines if line.strip() and not line.startswith("# recorded"))[
        -TAIL_LINES:
    ]


def _read(path: Path) -> Failure:
    with path.open(encoding="utf-8") as file:
        head = dict(re.findall(r"(\w+): ([^|]+?)(?: \||$)", file.readline().strip().removeprefix("# ")))
    assert head.keys() >= {"code", "status", "stage"}, f"{path.name}: the first line has to be like {_HEAD!r}"
    status = None if head["status"] == "None" else int(head["status"])
    hang = head.get("hang", "")
    ending = EngineExit(
        status, lines_of(path), head["stage"] == "serving", "loading weights", hang, is_hang=bool(hang)
    )
    numbers = (
        int(head.get(name, default)) for name, default in (("oom_kills", 0), ("nodes", 1), ("node_rank", 0))
    )
    return Failure(path.stem, head["code"], ending, *numbers)
