"""Starts everything, measures it, and writes what was found.

    perf/gpu/pack.sh PACKED                                          # where there is a network
    perf/gpu/run.sh PACKED ENGINE_PYTHON RESULTS --model FOLDER      # where the GPU is

Results: rows.jsonl (a line for each start and leg), requests.jsonl.gz (a line for each request), memory.jsonl (the
GPU's memory), facts.json, table.md, logs.tar.gz. Exits with status 1 if anything failed.
"""

from __future__ import annotations

import signal
import sys

from perf.gpu.memory import memory_log
from perf.gpu.options import parse
from perf.gpu.results import Results, short
from perf.gpu.servers import Rig, kept
from perf.gpu.steps import Steps


def main() -> int:
    """Run the steps asked for, as far as the time allows; returns 1 if anything failed."""
    arguments = parse(None, __doc__)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started too
    work = arguments.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    results = Results(arguments.results.absolute(), work)
    if not kept(work / "servers.json"):
        results.begin_anew()
    flags, plain_flags = arguments.flags, arguments.plain_flags
    rig = Rig(arguments.engine_python, str(arguments.model), flags, plain_flags, work, arguments.nginx)
    steps = Steps(rig, results, arguments)
    with memory_log(results.folder / "memory.jsonl"):
        try:
            for step in arguments.steps:
                steps.run(step)
        finally:
            steps.close()
            results.close()
    print(results.table())
    for row in results.failed:
        print(short(row), file=sys.stderr)
    return 1 if results.failed else 0


if __name__ == "__main__":
    sys.exit(main())
