"""The client's side of the data path: uvicorn's connection with bounds on all that a client may do."""

from __future__ import annotations

import asyncio

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from vllm_engine.gateway.http.client_stream import HttpClientStream
from vllm_engine.gateway.http.incoming import HoldingFlow, Incoming
from vllm_engine.gateway.http.lingering_close import LingeringClose
from vllm_engine.gateway.http.peer_socket import PeerWatch, forget_unsent
from vllm_engine.gateway.http.refusal import refusal
from vllm_engine.gateway.http.send_timer import SendTimer

_MAX_UNSENT_BYTES = 65_536
"""What may wait in a connection for a client that does not read, before its stream is paused."""
_SOON_SECONDS = 0.25
"""Answers that come this soon after their requests get through to a half-closed client without a question."""


class ClientConnection(Incoming):
    """One client connection; its requests are answered one after another."""

    # Called by the event loop.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # noqa: D102
        super().connection_made(transport)
        self._is_half_closed = False
        self._ending: LingeringClose | None = None
        # The event loop's own limit for plain connections; over TLS it is eight times that.
        transport.set_write_buffer_limits(high=_MAX_UNSENT_BYTES)
        limits = self.server_state.limits
        self.flow = HoldingFlow(transport)
        self.lane = HttpClientStream(transport, self._end, self.flow.resume_reading)
        self._send_timer = SendTimer(self.loop, transport, limits.send_timeout_seconds, self._cut)
        self._peer = PeerWatch(self.loop, transport, self._ask, self._give_up)
        if len(self.connections) > limits.max_connections:
            message = f"Too many connections; MAX_CONNECTIONS={limits.max_connections}"
            transport.write(refusal(503, message, retry_after_seconds=1))
            self.lane.leave()
            self._is_over = True
            # Nothing lingers here: that would be one connection more than there may be.
            transport.close()
            return
        self._arm_request_timer()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._disarm_request_timer()
        self._send_timer.stop()
        self._peer.stop()
        if self._ending is not None:
            self._ending.stop()
        self.lane.leave()
        self.pipeline.clear()
        self._held = b""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self.lane.tell_gone()

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self._ending is not None:
            self._ending.took(len(data))
        elif self._is_over:
            pass  # over TLS, while the last answer is still being written
        elif self._held or self._has_to_wait():
            self._hold(data)
        else:
            self._take(data)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection for a client that may still read (a half-close); its leaving is found out."""
        if self._ending is not None or self.scheme == "https" or not self._in_head:
            return False
        if not (self.lane.is_answering or self.pipeline):
            return False
        self._is_half_closed = True
        # An end that comes with the request may be a script's (`nc -N`); one that comes later is a leaving.
        self._peer.start(max(0.0, self._whole_at + _SOON_SECONDS - self.loop.time()))
        return True

    def pause_writing(self) -> None:  # noqa: D102
        super().pause_writing()
        self.lane.slow_down()
        self._send_timer.start()

    def resume_writing(self) -> None:  # noqa: D102
        super().resume_writing()
        self._send_timer.stop()
        self.lane.speed_up()

    # The answers.
    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self.lane.begin(cycle)
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Go on to what has come meanwhile; called by uvicorn at an answer's end."""
        self.lane.set_stream(None)
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self._send_timer.start()
        if self.transport.is_closing() or self._ending is not None:
            self._unset_keepalive_if_required()
        elif not self.lane.is_answering:
            self._go_on()

    def _go_on(self) -> None:
        if self._last_words:
            self._say(self._last_words)
            return
        if not self._is_half_closed:
            self._peer.stop()
        data, self._held = self._held, b""
        if self._has_begun or data:
            self._unset_keepalive_if_required()
        if (self._has_begun or data or not self._in_head) and self._request_timer is None:
            self._arm_request_timer()
        if data:
            self.flow.let_go()
            self._take(data)
        if self._is_half_closed and not self._has_to_wait() and self._ending is None:
            self.transport.close()

    def announce_close(self) -> None:
        """Let the answer that is under way, if there is one, say that it is the connection's last."""
        self._keeps_alive = False
        for cycle in (self.cycle, self.lane.cycle):
            if cycle is not None:
                cycle.keep_alive = False

    def shutdown(self) -> None:
        """Close the connection, or let it be closed after the answer that is under way."""
        self.announce_close()
        if self._ending is None and not (self.lane.is_answering or self.pipeline):
            self.transport.close()

    # Endings.
    def _end(self) -> None:
        """Close, in such a way that the last answer is read."""
        self._is_over = True
        self.lane.leave()
        self.pipeline.clear()
        self._peer.stop()
        self._disarm_request_timer()
        is_all_read = self._in_head and not self._held and not self.flow.read_paused
        if is_all_read or self._is_half_closed or self.transport.is_closing():
            self.transport.close()
            return
        self._held = b""
        if self._ending is None:
            self._ending = LingeringClose(self.loop, self.transport)
            self.flow.let_go()

    def _cut(self) -> None:
        """Give up a client that does not read its answer."""
        forget_unsent(self.transport)
        self._give_up()

    def _give_up(self) -> None:
        """Cut the connection, and end its request before that can take what has come of it for whole."""
        self.lane.abort()
        self.lane.tell_gone()

    def _refuse(self, status: int, message: str) -> None:
        if self.transport.is_closing() or self._ending is not None or self._last_words:
            return
        self._disarm_request_timer()
        if self.pipeline and self.pipeline[0][0].more_body:
            self.pipeline.popleft()  # its body will never be whole
        answer = refusal(status, message, self.url)
        if self._is_busy():
            self._last_words = answer
        else:
            self._say(answer)

    def _is_busy(self) -> bool:
        """Whether an answer to an earlier request is under way, or to this one has begun."""
        cycle = self.lane.cycle
        if cycle is None or cycle.response_complete:
            return bool(self.pipeline)
        return cycle.response_started or cycle is not self.cycle

    def _say(self, answer: bytes) -> None:
        self._last_words = b""
        self.transport.write(answer)
        self._in_head = False  # what follows is of no request
        self._end()
        self.lane.tell_gone()

    def _ask(self) -> bool:
        """Write something that means nothing; False where the client has to be taken for gone."""
        return self.scheme != "https" and self.lane.probe()

    def _request_too_slow(self) -> None:
        self._request_timer = None
        if self._in_head and (self._has_begun or self._framing):
            self._refuse(408, "The request's headers did not arrive in time")
        else:
            # Nothing has come, or the rest of a body whose answer was sent long ago does not.
            self.transport.close()
