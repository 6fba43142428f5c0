"""Starts everything, measures it, and writes what was found.

    perf/gpu/pack.sh PACKED                                          # where there is a network
    perf/gpu/run.sh PACKED ENGINE_PYTHON RESULTS --model FOLDER      # where the GPU is

Results: rows.jsonl (a line for each start and leg), requests.jsonl.gz (a line for each request), memory.jsonl (the
GPU's memory), facts.json, table.md, logs.tar.gz.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import tempfile
from pathlib import Path

from perf.gpu.memory import memory_log
from perf.gpu.results import Results
from perf.gpu.servers import Rig
from perf.gpu.steps import STEPS, Steps


def main() -> None:
    """Run the steps asked for, as far as the time allows."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started too
    work = arguments.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    results = Results(arguments.results.absolute(), work)
    engine_python, model = arguments.engine_python.absolute(), str(arguments.model.absolute())
    flags, plain_flags = shlex.split(arguments.flags), shlex.split(arguments.plain_flags)
    rig = Rig(engine_python, model, flags, plain_flags, work, arguments.nginx)
    steps = Steps(rig, results, arguments)
    with memory_log(results.folder / "memory.jsonl"):
        try:
            for step in arguments.steps.split(","):
                steps.run(step)
        finally:
            steps.close()
            results.close()
    print(results.table())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m perf.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine-python", type=Path, required=True, help="a Python with vLLM")
    parser.add_argument("--model", type=Path, required=True, help="the model's folder")
    parser.add_argument("--results", type=Path, required=True, help="a folder for the results")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "vllm-engine-gpu")
    parser.add_argument("--flags", default="", help="flags of vllm serve for every server, in one word")
    parser.add_argument("--plain-flags", default="", help="flags of plain vllm serve, in one word")
    parser.add_argument("--cold", default="", help="settings of the cold start: NAME=VALUE ...")
    parser.add_argument("--settings", default="", help="settings of our other servers: NAME=VALUE ...")
    parser.add_argument("--nginx", help="the program, to measure it too")
    parser.add_argument(
        "--also", action="append", default=[], help="NAME=COMMAND with {port}: another server"
    )
    parser.add_argument("--steps", default=",".join(STEPS), help=f"of {', '.join(STEPS)}")
    parser.add_argument("--targets", default="", help="only these servers, and nginx in front of them")
    parser.add_argument("--streams", default="256,1,64,1024,256", help="the loads, in their order")
    parser.add_argument("--processes", type=int, default=min(6, os.cpu_count() or 1), help="of the generator")
    parser.add_argument("--start-seconds", type=float, default=300.0, help="how long a start may take")
    parser.add_argument("--seconds", type=float, default=540.0, help="when the last leg begins at the latest")
    parser.add_argument("--keep", action="store_true", help="leave the servers running for a later call")
    return parser.parse_args()


if __name__ == "__main__":
    main()
