"""The processes of one engine with both frontends: started together, and ended together."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from argparse import Namespace
from multiprocessing import connection
from pathlib import Path
from typing import Any

_CLOSING_SECONDS = 1
"""How long uvicorn waits for open streams at its end: one whose engine is gone would keep it for ever."""
_STATUS_SECONDS = 0.5
"""How long the exit status of a process that has ended may take to be known."""


class RustEndedError(Exception):
    """The Rust frontend exited before the engine core was ready: it cannot serve this model."""


def run_group(vllm: Any, config: Any, args: Namespace, rust_args: Namespace, binary: Path) -> int | str:
    """Run engine core and frontends until a signal or a loss; returns an exit status, or the last words.

    `args` and `rust_args` are those of the two frontends; `config` is vLLM's, for both.

    Raises:
        RustEndedError: all have been ended, and the Python frontend may do without the other.
    """
    import uvloop  # noqa: PLC0415 - the engine's

    signal.signal(signal.SIGTERM, _interrupt)  # until vLLM's server has its own
    address, listener = vllm.setup_server(args, reuse_port=False)
    group = _Group(vllm, config, rust_args, binary, log_stats=not args.disable_log_stats)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            group.start()
            uvloop.run(group.serve(address, listener, args))
    finally:
        group.end()
    if group.rust_failure:
        raise RustEndedError(group.rust_failure)
    return group.last_words or 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


class _Group:
    """Engine core and Rust frontend, as this process starts and watches them."""

    def __init__(
        self, vllm: Any, config: Any, rust_args: Namespace, binary: Path, *, log_stats: bool
    ) -> None:
        self._vllm, self._config, self._log_stats = vllm, config, log_stats
        self._rust_args, self._binary = rust_args, binary
        self._listeners: Any = None
        self._managers: list[Any] = []
        self.client: dict[str, Any] = {}
        """What vLLM's API server has to know to be one client of two."""
        self.last_words = ""
        """Why the group ended, if it was not told to."""
        self.rust_failure = ""
        """How the Rust frontend ended, if it was the first, by itself and at the start."""
        self._is_ending = False
        self._watcher = threading.Thread()

    def start(self) -> None:
        """Start the engine core and the Rust frontend."""
        vllm, config = self._vllm, self._config
        listeners = self._listeners = vllm.bind_engine_zmq_listeners(config, 2)
        executor = vllm.Executor.get_class(config)
        start = vllm.launch_core_engines(config, executor, self._log_stats, listeners.addresses)
        launch = start.__enter__()
        self._managers.append(launch.engine_manager)
        listener = vllm.create_server_unix_socket(self._rust_args.uds)
        rust = vllm.RustFrontendProcessManager(
            binary_path=str(self._binary),
            sock=listener,
            args=self._rust_args,
            # It calls itself client 0, whatever it is told.
            input_listener=listeners.inputs[0],
            output_listener=listeners.outputs[0],
            engine_start_index=0,
            engine_count=1,
            data_parallel_size=1,
        )
        self._managers.insert(0, rust)
        listener.close()  # its own copy: without it nobody is left waiting once the frontend has ended
        launch.watched_frontend_processes = rust.processes
        self.client = {
            "client_count": 2,
            "client_index": 1,
            "input_address": listeners.inputs[1].address,
            "output_address": listeners.outputs[1].address,
            "input_listener": listeners.inputs[1].socket,
            "output_listener": listeners.outputs[1].socket,
        }
        if launch.tensor_queue is not None:
            self.client["tensor_queue"] = launch.tensor_queue
        self._watcher = threading.Thread(target=self._watch, args=(start, launch, rust), daemon=True)

    async def serve(self, address: str, listener: Any, args: Namespace) -> None:
        """Be the Python frontend, and watch the others in a thread."""
        # Not before the event loop runs: one that is interrupted while it is set up cannot be closed.
        self._watcher.start()
        await self._vllm.run_server_worker(
            address, listener, args, self.client, timeout_graceful_shutdown=_CLOSING_SECONDS
        )

    def end(self) -> None:
        """End what is left, the frontend first."""
        self._is_ending = True
        # Not ignored, which a process that this one becomes would inherit.
        signal.signal(signal.SIGTERM, lambda *_: None)
        for manager in self._managers:
            manager.shutdown(timeout=self._config.shutdown_timeout or None)
        if self._listeners is not None:
            self._listeners.cleanup()
        if self._watcher.is_alive():
            self._watcher.join(_STATUS_SECONDS)  # it may be about to say what was lost

    def _watch(self, start: Any, launch: Any, rust: Any) -> None:
        """Wait until one of the processes has ended, and end this one then."""
        [frontend], core = rust.processes, launch.engine_manager
        is_ready = False
        try:
            start.__exit__(None, None, None)  # vLLM's barrier: it returns when the engine core is ready
            is_ready = True
            connection.wait([frontend.sentinel, *core.sentinels()])
            said = "RuntimeError: one of the engine's processes has ended"
        except Exception as error:  # noqa: BLE001 - whatever it is, it must end the process and be its last words
            said = f"{type(error).__name__}: {error}"
        if self._is_ending:
            return
        frontend.join(_STATUS_SECONDS)
        status, cores = frontend.exitcode, core.finished_procs()
        # In the words by which vLLM itself tells of these losses.
        if is_ready and cores:
            said = f"RuntimeError: Failed core proc(s): {cores}"
        elif status is not None and not cores:
            said = f"RuntimeError: Process RustFrontend (PID: {frontend.pid}) died with exit code {status}"
            if not is_ready and status > 0:
                self.rust_failure = f"the Rust frontend exited with status {status}"
        self.last_words = said
        os.kill(os.getpid(), signal.SIGTERM)
