"""The fake engine's life from ready to its end: the server, its signals, and the death of the engine core."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import uvicorn

from tests.support.fake.fake_requests import Served
from tests.support.fake.fake_scenarios import LiveScenario, Scenario
from tests.support.fake.fake_server import FakeApp
from tests.support.fake.fake_startup import EngineCoreProcess, end, log
from tests.support.fake.fake_state import ENGINE_DEAD, Engine, EngineCore
from tests.support.fake.nodes.fake_nodes import Nodes

WATCHDOG_SECONDS = 5.0
"""How often vLLM looks whether its engine core still lives."""


class _Server(uvicorn.Server):
    """uvicorn; the signals are handled by the fake, as by vLLM."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield

    def finish(self) -> None:
        """Close the listener and the idle connections, and end once the others are closed too."""
        self.should_exit = True


async def serve(
    options: argparse.Namespace,
    live: LiveScenario,
    listener: socket.socket,
    process: EngineCoreProcess,
    rust: int | None = None,
    nodes: Nodes | None = None,
) -> None:
    """Serve until the end; `rust` is the process id of the other frontend, `nodes` are the other machines."""
    scenario = live.now()
    core = EngineCore(process.kill, process.fail, lambda: nodes is not None and nodes.is_one_lost)
    engine = Engine(live, core)
    # The application must be able to end the server that has it.
    servers: list[_Server] = []
    app = FakeApp(
        engine,
        served(options),
        request_ids=options.enable_request_id_headers,
        on_failure=lambda: servers[0].finish(),
    )
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        access_log=not options.disable_uvicorn_access_log,
        timeout_keep_alive=int(os.environ.get("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "5")),
    )
    server = _Server(config)
    servers.append(server)
    loop = asyncio.get_running_loop()
    terminated = asyncio.Event()
    if not scenario.ignore_sigterm:
        loop.add_signal_handler(signal.SIGTERM, terminated.set)
    if scenario.exit_after_seconds is not None:
        loop.call_later(scenario.exit_after_seconds, end, scenario, scenario.exit_code)
    life = os.pidfd_open(process.pid)
    loop.add_reader(life, _on_core_death, core, process, life)
    if rust is not None:
        loop.add_reader(os.pidfd_open(rust), _on_rust_end, rust, process)
    tasks = (
        loop.create_task(_watch(core, server)),
        loop.create_task(_shut_down(terminated, options.shutdown_timeout, engine, server, scenario)),
    )
    await server.serve([listener])
    for task in tasks:
        task.cancel()
    process.kill()
    if rust is not None:
        with suppress(ProcessLookupError):
            os.kill(rust, signal.SIGKILL)


def served(options: argparse.Namespace) -> Served:
    names = tuple(options.served_model_name or (options.model_tag,))
    length = int(options.max_model_len) if options.max_model_len.isdecimal() else 8192
    return Served(names, options.model_tag, length)


def _on_rust_end(rust: int, process: EngineCoreProcess) -> None:
    status = os.waitstatus_to_exitcode(os.waitpid(rust, 0)[1])
    process.kill()
    end(
        Scenario(
            last_lines=(f"RuntimeError: Process RustFrontend (PID: {rust}) died with exit code {status}",)
        ),
        1,
    )


def _on_core_death(core: EngineCore, process: EngineCoreProcess, life: int) -> None:
    asyncio.get_running_loop().remove_reader(life)
    os.close(life)
    process.reap()
    if not core.stopped:
        client = "[core_client.py:817]"
        log("WARNING", f"{client} [shutdown] MPClient: engine core exited unexpectedly; starting cleanup")
        _log_core_death()
    core.dead.set()


def _log_core_death() -> None:
    error = "[async_llm.py:906]"
    log("ERROR", f"{error} AsyncLLM output_handler failed.")
    log("ERROR", f"{error} vllm.v1.engine.exceptions.EngineDeadError: {ENGINE_DEAD}")


async def _watch(core: EngineCore, server: _Server) -> None:
    while not core.dead.is_set():  # noqa: ASYNC110 - the delay is what is imitated
        await asyncio.sleep(WATCHDOG_SECONDS)
    server.finish()


async def _shut_down(
    terminated: asyncio.Event, grace: float, engine: Engine, server: _Server, scenario: Scenario
) -> None:
    await terminated.wait()
    mode = f"mode={'drain' if grace else 'abort'} timeout={grace:g}s"
    log("INFO", "[launcher.py:254] [shutdown] API server: shutdown triggered")
    log("INFO", f"[launcher.py:270] [shutdown] API server: stopping engine client {mode}")
    # vLLM takes no more requests from here on, but goes on listening and saying that it is healthy.
    engine.core.draining = True
    with suppress(TimeoutError):
        await asyncio.wait_for(engine.idle.wait(), grace)
    engine.core.stop()
    if scenario.complain_at_stop:
        _log_core_death()
    log("INFO", "[launcher.py:279] [shutdown] API server: engine client stopped")
    log("INFO", "[launcher.py:282] [shutdown] API server: signalling HTTP server shutdown")
    server.finish()
