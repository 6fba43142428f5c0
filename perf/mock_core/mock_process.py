"""The process that vLLM's launch code starts instead of EngineCore: one thread, one poller, one message per step and client.

A step gives each running stream a token, as the real one does, and its statistics go to one client alone, that of the
oldest request. The pace is read from a file when the first of an idle core's requests arrives.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing import parent_process
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from perf.mock_core.token_streams import Stream, TokenStreams

PACE_FILE = "MOCK_CORE_PACE_FILE"
"""Names the file with the steps per second, 0 for as many as there can be."""

_BLOCKS = 8192
_UTILITIES: dict[str, Any] = {
    "get_supported_tasks": ("generate",),
    "is_sleeping": False,
    "is_scheduler_paused": False,
    "reset_prefix_cache": True,
    "reset_mm_cache": None,
    "reset_encoder_cache": None,
    "get_weight_version": "default",
}
"""What the frontends ask at their start and for their routes, and the answers."""


def run_engine_core(
    *_: Any, vllm_config: Any, handshake_address: str, local_client: bool, dp_rank: int = 0, **__: Any
) -> None:
    """Be the engine core of a server, until SIGTERM or until who started it is gone."""
    from vllm.utils.system_utils import decorate_logs, set_process_title

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Nothing here is worth the wait for sockets that are not empty.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    set_process_title("EngineCore")
    decorate_logs()
    vllm_config.cache_config.num_gpu_blocks = _BLOCKS
    with connected(vllm_config, handshake_address, local_client, dp_rank) as (inputs, outputs):
        print("mock engine core: ready", flush=True)
        MockCore(inputs, outputs).run()


@contextlib.contextmanager
def connected(
    config: Any, address: str, local: bool, index: int
) -> Iterator[tuple[Sequence[Any], Sequence[Any]]]:
    """Shake hands as EngineCore does; yields a socket of requests and one of outputs for each client."""
    import msgspec
    import zmq
    from vllm.utils.network_utils import make_zmq_socket
    from vllm.v1.engine.core import EngineCoreProc

    identity = index.to_bytes(2, "little")
    with zmq.Context() as context:
        shake = make_zmq_socket(context, address, zmq.DEALER, identity=identity, linger=5000, bind=False)
        addresses = EngineCoreProc.startup_handshake(shake, local, not local, config.parallel_config)
        inputs = [
            make_zmq_socket(context, each, zmq.DEALER, identity=identity, bind=False)
            for each in addresses.inputs
        ]
        outputs = [make_zmq_socket(context, each, zmq.PUSH, linger=0) for each in addresses.outputs]
        # vLLM's own answer, of what it would read of itself.
        core = SimpleNamespace(
            vllm_config=config,
            engine_index=index,
            frontend_stats_publish_address=addresses.frontend_stats_publish_address,
            scheduler=SimpleNamespace(get_kv_event_publisher_config=lambda: None),
        )
        ready = msgspec.msgpack.encode(EngineCoreProc._make_ready_response(core))
        for each in inputs:
            each.send(ready)
        shake.send(msgspec.msgpack.encode({"status": "READY", "local": local, "headless": not local}))
        shake.close()
        try:
            yield inputs, outputs
        finally:
            for each in (*inputs, *outputs):
                each.close(0)


class MockCore:
    """Requests in, tokens out."""

    def __init__(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        import zmq
        from vllm.v1 import engine
        from vllm.v1.metrics.stats import SchedulerStats
        from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

        self._types, self._stats = engine, SchedulerStats
        self._kinds = engine.EngineCoreRequestType
        self._inputs, self._outputs = inputs, outputs
        self._poller = zmq.Poller()
        for each in inputs:
            self._poller.register(each, zmq.POLLIN)
        parent = parent_process()
        self._parent = parent.sentinel if parent is not None else -1
        if parent is not None:
            self._poller.register(self._parent, zmq.POLLIN)
        self._again, self._now = zmq.Again, zmq.NOBLOCK
        self._requests = MsgpackDecoder(engine.EngineCoreRequest)
        self._others = MsgpackDecoder()
        self._encoder = MsgpackEncoder()
        self._streams = TokenStreams(engine.EngineCoreOutput, self._first, engine.FinishReason.LENGTH)
        self._interval = 0.0
        self._due = 0.0

    def run(self) -> None:
        """Serve for ever."""
        while True:
            for socket, _ in self._poller.poll(self._wait()):
                if socket == self._parent:
                    sys.exit("mock engine core: who started it is gone")
                self._receive(socket)
            now = time.monotonic()
            if len(self._streams) and now >= self._due:
                # Late steps are not made up for: a real engine that was late stays so.
                self._due = max(self._due + self._interval, now)
                self._step()

    def _wait(self) -> int | None:
        """Return for how many milliseconds nothing is to do but receive; None without a request."""
        if not len(self._streams):
            return None
        # Rounded up: rounded down it would spin through the last millisecond of each step.
        return max(0, math.ceil((self._due - time.monotonic()) * 1000))

    def _receive(self, socket: Any) -> None:
        while True:
            try:
                kind, *frames = socket.recv_multipart(self._now)
            except self._again:
                return
            if kind == self._kinds.ADD.value:
                self._add(self._requests.decode(frames))
            elif kind == self._kinds.ABORT.value:
                self._streams.abort(self._others.decode(frames))
            elif kind == self._kinds.UTILITY.value:
                self._answer(*self._others.decode(frames))

    def _add(self, request: Any) -> None:
        params = request.sampling_params
        if params is None:  # no pooling here
            failed = self._types.EngineCoreOutput(
                request.request_id, [], finish_reason=self._types.FinishReason.ERROR
            )
            done = {request.request_id}
            self._send(request.client_index, outputs=[failed], finished_requests=done)
            return
        if not len(self._streams):
            self._interval, self._due = pace(), time.monotonic()
        prompt = len(request.prompt_token_ids or ())
        self._streams.add(Stream(request.request_id, request.client_index, prompt, params.max_tokens or 16))

    def _first(self, stream: Stream) -> dict[str, Any]:
        """Return what vLLM's first output of a request has besides its tokens."""
        from vllm.v1.metrics.stats import PrefillStats

        event, kinds = self._types.EngineCoreEvent, self._types.EngineCoreEventType
        count = stream.prompt_tokens
        return {
            "events": [event.new_event(kinds.QUEUED), event.new_event(kinds.SCHEDULED)],
            "prefill_stats": PrefillStats(num_prompt_tokens=count, num_computed_tokens=count),
        }

    def _answer(self, client: int, call: int, method: str, _: object) -> None:
        from vllm.v1.serial_utils import UtilityResult

        if method in _UTILITIES:
            answer = self._types.UtilityOutput(call, result=UtilityResult(_UTILITIES[method]))
        else:
            answer = self._types.UtilityOutput(
                call, failure_message=f"a mock engine core has no method {method}"
            )
        self._send(client, utility_output=answer)

    def _step(self) -> None:
        steps = self._streams.step()
        running = len(self._streams)
        stats = self._stats(num_running_reqs=running, kv_cache_usage=min(1.0, running / _BLOCKS))
        for client, step in steps.items():
            finished = step.finished or None
            self._send(client, outputs=step.outputs, finished_requests=finished, scheduler_stats=stats)
            stats = None

    def _send(self, client: int, **content: Any) -> None:
        frames = self._encoder.encode(self._types.EngineCoreOutputs(**content))
        self._outputs[client].send_multipart(frames, copy=False)


def pace() -> float:
    """Return the seconds from one step to the next, as the file says now."""
    name = os.environ.get(PACE_FILE)
    per_second = float(Path(name).read_text()) if name else 0.0
    return 1.0 / per_second if per_second else 0.0
