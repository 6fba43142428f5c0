"""`vllm-engine smoke`."""

from __future__ import annotations

import sys

import click

from vllm_engine.cli.console import console, print_checks
from vllm_engine.cli.exit_status import exit_on_error
from vllm_engine.cli.target import server_at, takes_server
from vllm_engine.errors import ExitCode


@click.command("smoke")
@click.argument("base_url", required=False)
@takes_server
@click.option(
    "--wait",
    "seconds",
    type=click.FloatRange(0),
    default=1800.0,
    show_default=True,
    help="Seconds to wait until it is ready.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def smoke_command(
    base_url: str | None, model: str, api_key: str | None, seconds: float, as_json: bool
) -> None:
    """Wait until a server is ready, then test it.

    Checks that it answers and rejects requests as it should. BASE_URL defaults to the server of these
    settings, HOST and PORT. Exits with 3 and the server's own diagnosis if it does not become ready, and
    with 1 if it then fails a check.
    """
    import asyncio

    from vllm_engine.client.api_client import Client, Server
    from vllm_engine.doctor.check import Check, Status, any_failed
    from vllm_engine.doctor.smoke import smoke

    def tell(words: str) -> None:
        if not as_json:
            print(words, file=sys.stderr, flush=True)

    async def run(server: Server) -> list[Check]:
        async with Client(server) as client:
            return await smoke(client, model, tell, seconds)

    with exit_on_error():
        checks = asyncio.run(run(server_at(base_url, api_key)))
        print_checks(checks, console(), as_json=as_json)
        if checks[0].status is Status.FAIL and checks[0].id == "ready":
            sys.exit(ExitCode.STARTUP_FAILED)
        if any_failed(checks):
            sys.exit(ExitCode.CRASH)
