"""Measures vLLM's frontends side by side; see docs/measured/frontends.md.

    python -m perf.frontends RESULTS --write                  all servers: loads with a mock engine core, and starts
    python -m perf.frontends RESULTS --steps loads --servers ours-both --streams 256,512,1024 --pace 20

RESULTS is a new folder: rows.jsonl (a line for each leg and start), requests.jsonl (a line for each request) and the
servers' logs. `make setup` comes first, with FRONTEND=rust. Exits with status 1 if anything failed.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from perf.bench import machine
from perf.frontends import frontend_starts, frontend_tables
from perf.frontends.frontend_loads import MIXES, Loads
from perf.frontends.frontend_rows import Rows
from perf.frontends.frontend_servers import NAMES, FrontendRig
from perf.frontends.frontend_tables import markdown
from perf.gpu.servers import Rig
from perf.mock_core.server_environment import mock_environment
from vllm_engine.plan.engine_installation import inspect_installation
from vllm_engine.plan.engine_site import site_folder, write_metadata
from vllm_engine.system.file_limit import raise_file_limit

ROOT = Path(__file__).parents[2]
STEPS = ("loads", "starts")
MODEL = "bundled/smollm2-135m-instruct"


def main(words: Sequence[str] | None = None) -> int:
    """Run the steps; returns 1 if anything failed."""
    options = parse(words)
    # As an exception it unwinds, and ends what was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    raise_file_limit()
    rows = Rows(options.results.absolute())
    rows.add({"what": "machine", "machine": machine.describe()})
    python, cache = options.engine_python.absolute(), options.cache.absolute()
    rig = Rig(python, str(cache / MODEL), (), (), options.results.absolute(), kept_cache=cache)
    write_metadata(site_folder(cache), inspect_installation(python).version)
    if "loads" in options.steps:
        mock = rig.folder / "mock"
        Loads(FrontendRig(rig, mock_environment(mock, options.pace)), mock, rows, options).run()
    if "starts" in options.steps:
        frontend_starts.measure(FrontendRig(rig, {}), rows, options.rounds, options.start_seconds)
    print(markdown(rows.all))
    if options.write:
        shutil.copyfile(rows.path, frontend_tables.KEPT)
        frontend_tables.write()
    return 1 if any(row["what"] == "failed" or row.get("errors") for row in rows.all) else 0


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; of a wrong one, prints what was expected and exits with status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m perf.frontends",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", type=Path, help="a new folder")
    parser.add_argument("--steps", type=_some(STEPS), default=list(STEPS), help=",".join(STEPS))
    parser.add_argument("--servers", type=_some(NAMES), default=list(NAMES), help=",".join(NAMES))
    parser.add_argument("--mixes", type=_some(tuple(MIXES)), default=list(MIXES), help=",".join(MIXES))
    parser.add_argument("--rounds", type=int, default=3, help="of loads, and of starts (%(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0, help="about how long each leg is (%(default)s)")
    parser.add_argument("--streams", type=_counts, default=[256], help="at once, such as 256,512 (256)")
    parser.add_argument(
        "--pace",
        type=float,
        default=400.0,
        help="tokens per second and stream, 0: as they can be made (%(default)s)",
    )
    parser.add_argument("--write", action="store_true", help="keep the rows here, and write the document")
    parser.add_argument("--start-seconds", type=float, default=600.0, help="how long a start may take")
    parser.add_argument("--engine-python", type=Path, default=ROOT / ".venv-engine/bin/python")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache", help="with the bundled model")
    options = parser.parse_args(words)
    if (options.results / "rows.jsonl").exists():
        parser.error(f"RESULTS: {str(options.results)!r} has an earlier run's rows; expected a new folder")
    if not (options.cache / MODEL).is_dir():
        parser.error(f"--cache: {str(options.cache / MODEL)!r} is not there; `make setup` makes it")
    return options


def _some(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parsed(word: str) -> list[str]:
        names = word.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r}: expected some of {','.join(known)}")
        return names

    return parsed


def _counts(word: str) -> list[int]:
    try:
        return [int(count) for count in word.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r}: expected numbers, such as 256,512") from None


if __name__ == "__main__":
    sys.exit(main())
