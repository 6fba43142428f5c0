"""The command line: reads arguments, prints, exits; everything it does is done elsewhere."""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
import uvloop
from rich.console import Console

from vllm_engine import __version__
from vllm_engine.ask import QUESTION
from vllm_engine.bench.plan import Plan
from vllm_engine.bench.run import parse_slos, run_bench
from vllm_engine.diagnosis.termination import write_termination_log
from vllm_engine.doctor.check import Status, any_failed
from vllm_engine.doctor.examine import examine, machine_checks
from vllm_engine.doctor.show import show
from vllm_engine.engine.flags import mask
from vllm_engine.environment import Environment, read_environment
from vllm_engine.errors import ExitCode, SettingsError, VllmEngineError
from vllm_engine.gateway.auth import secrets_in, words
from vllm_engine.listen import listen
from vllm_engine.log import ENGINE_LOGGER, configure_logging, is_console
from vllm_engine.preflight import Preflight, run_preflight
from vllm_engine.present import Presenter
from vllm_engine.report import mask_environ, settings_report
from vllm_engine.resolve import resolve_command, resolve_plan
from vllm_engine.serve import serve
from vllm_engine.settings import Settings, load_settings


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vllm-engine")
def main() -> None:
    """Serve one model with vLLM behind a gateway. Configured by environment variables and .env."""


@main.command("serve")
@click.option("--dry-run", is_flag=True, help="Print the engine's command and environment; start nothing.")
@click.option(
    "--ask", "question", is_flag=False, flag_value=QUESTION, help="When ready, ask this and print the answer."
)
def serve_command(dry_run: bool, question: str | None) -> None:
    """Run the gateway and the engine until Ctrl-C or SIGTERM."""
    with _ending(last_words=True):
        environment = read_environment()
        settings = load_settings(environment)
        _configure_logging(settings, environment, quiet=question is not None)
        preflight = run_preflight(settings, environment, Path(sys.prefix))
        for warning in preflight.warnings:
            logging.getLogger("gateway").warning("%s", warning)
        for check in machine_checks(settings, preflight):
            if check.status is not Status.OK:
                logging.getLogger("gateway.doctor").warning("%s: %s", check.id, check)
        if dry_run:
            _print_command(settings, environment, preflight)
            return
        listeners = listen(settings)
        shown = question is not None or (sys.stdout.isatty() and is_console(settings.log_format))
        presenter = Presenter(settings, question, Console()) if shown else None
        uvloop.run(serve(settings, environment, preflight, listeners, presenter))


@main.command("settings")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def settings_command(as_json: bool) -> None:
    """Print the resolved configuration with each value's source; secrets are masked."""
    with _ending():
        environment = read_environment()
        settings = load_settings(environment)
        preflight = run_preflight(settings, environment, Path(sys.prefix))
        plan = asyncio.run(resolve_plan(settings, environment, preflight))
        rows = settings_report(settings, environment, plan, preflight)
        if as_json:
            print(json.dumps([row.__dict__ for row in rows], indent=2))
            return
        width = max(len(row.key) for row in rows)
        for row in rows:
            print(f"{row.key:<{width}}  {row.value or '-':<42}  {row.source}")


@main.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor_command(as_json: bool) -> None:
    """Check machine, settings and model. Downloads no weights; exits with 3 if a check fails."""
    with _ending():
        environment = read_environment()
        settings = load_settings(environment)
        checks = asyncio.run(examine(settings, environment, Path(sys.prefix)))
        if as_json:
            print(json.dumps([check.as_json() for check in checks], indent=2))
        else:
            show(checks, Console())
        if any_failed(checks):
            sys.exit(ExitCode.STARTUP_FAILED)


@main.command("bench")
@click.argument("base_url")
@click.option("--model", default="", help="Model to ask for. Default: the first the server lists.")
@click.option("--requests", type=click.IntRange(1), default=256, show_default=True, help="How many to send.")
@click.option("--concurrency", type=click.IntRange(1), default=16, show_default=True, help="Kept in flight.")
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), help="Requests per second, by the clock instead."
)
@click.option("--max-tokens", type=click.IntRange(1), default=128, show_default=True, help="Of each answer.")
@click.option("--slo", "slos", multiple=True, help="For goodput, in milliseconds: ttft:500. May be repeated.")
@click.option("--api-key", envvar="BENCH_API_KEY", help="Sent as a bearer key; better by BENCH_API_KEY.")
@click.option("--rows", type=click.Path(path_type=Path), help="Append one JSON object per request here.")
def bench_command(
    base_url: str,
    model: str,
    requests: int,
    concurrency: int,
    rate: float | None,
    max_tokens: int,
    slos: tuple[str, ...],
    api_key: str | None,
    rows: Path | None,
) -> None:
    """Measure any OpenAI-compatible server: TTFT, ITL, TPOT, E2EL, tokens per second, goodput."""
    with _ending():
        plan = Plan(
            base_url=base_url,
            model=model,
            requests=requests,
            concurrency=concurrency,
            rate=rate,
            max_tokens=max_tokens,
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            slos_ms=parse_slos(slos),
        )
        _, text = run_bench(plan, rows)
        print(text)


def _print_command(settings: Settings, environment: Environment, preflight: Preflight) -> None:
    plan = asyncio.run(resolve_plan(settings, environment, preflight))
    command = resolve_command(settings, environment, preflight, plan, Path("engine.sock"))
    print("env -i \\")
    for key, value in sorted(mask_environ(command.environ).items()):
        print(f"  {key}={shlex.quote(value)} \\")
    print(f"  {shlex.join(mask(command.argv))}")


def _configure_logging(settings: Settings, environment: Environment, *, quiet: bool) -> None:
    secrets = [settings.hf_token.get_secret_value()] if settings.hf_token else []
    if settings.api_keys:
        secrets += secrets_in(words(settings.api_keys.get_secret_value()))
    configure_logging(settings.log_level, settings.log_format, secrets=secrets)
    if quiet and environment.source("LOG_LEVEL") is None:
        logging.getLogger(ENGINE_LOGGER).setLevel(logging.ERROR)


@contextmanager
def _ending(*, last_words: bool = False) -> Iterator[None]:
    try:
        yield
    except VllmEngineError as error:
        if last_words:
            _write_last_words(error)
        for line in str(error).splitlines():
            print(f"vllm-engine: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(ExitCode.CLEAN)


def _write_last_words(error: VllmEngineError) -> None:
    path = Settings.model_fields["termination_log"].default
    with suppress(SettingsError):  # they may be the error; then the default has to do
        path = load_settings(read_environment()).termination_log
    write_termination_log(path, str(error))


if __name__ == "__main__":
    main()
