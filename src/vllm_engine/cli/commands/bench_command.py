"""`vllm-engine bench`."""

from __future__ import annotations

from pathlib import Path

import click

from vllm_engine.cli.console import print_json
from vllm_engine.cli.exit_status import exit_on_error
from vllm_engine.cli.target import server_at, takes_server, with_next_step


@click.command("bench")
@click.argument("base_url", required=False)
@takes_server
@click.option("--requests", type=click.IntRange(1), default=256, show_default=True, help="Requests to send.")
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="Requests in flight.",
)
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), help="Requests per second; replaces --concurrency."
)
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    default=128,
    show_default=True,
    help="Per answer.",
)
@click.option("--slo", "slos", multiple=True, help="For goodput, in milliseconds: ttft:500. May be repeated.")
@click.option(
    "--rows", type=click.Path(path_type=Path), help="Append a JSON object per request to this file."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench_command(
    base_url: str | None,
    model: str,
    requests: int,
    concurrency: int,
    rate: float | None,
    max_tokens: int,
    slos: tuple[str, ...],
    api_key: str | None,
    rows: Path | None,
    as_json: bool,
) -> None:
    """Benchmark any OpenAI-compatible server.

    BASE_URL defaults to the server of these settings, HOST and PORT.

    Reports TTFT, ITL, TPOT, E2EL, tokens per second and goodput, as `vllm bench serve` defines them.
    """
    from vllm_engine.client.bench.bench_plan import Plan
    from vllm_engine.client.bench.bench_run import parse_slos, run_bench

    with exit_on_error(), with_next_step():
        server = server_at(base_url, api_key)
        plan = Plan(
            base_url=server.url,
            model=model,
            requests=requests,
            concurrency=concurrency,
            rate=rate,
            max_tokens=max_tokens,
            headers={"authorization": f"Bearer {server.api_key}"} if server.api_key else {},
            tls=server.tls,
            slos_ms=parse_slos(slos),
        )
        summary, text = run_bench(plan, rows)
        if as_json:
            print_json(summary.as_json())
        else:
            print(text)
