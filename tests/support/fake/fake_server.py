"""The fake engine's HTTP side: an ASGI application that answers as vLLM's Python frontend does.

vLLM serves with uvicorn, and so does the fake: framing, header order and keep-alive are the real ones.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import aclosing
from typing import Any

from tests.support.fake.fake_bodies import (
    CHAT,
    COMPLETION,
    MESSAGES,
    RESPONSES,
    TOKENIZE,
    BodyRule,
    RefusalError,
    error_body,
    read_body,
)
from tests.support.fake.fake_fixed import DESCRIPTION, echo, model_list, no_such_response
from tests.support.fake.fake_http import (
    Answer,
    ClientGoneError,
    Receive,
    Request,
    Send,
    lifespan,
    unless_disconnected,
)
from tests.support.fake.fake_requests import Api, Job, Served, chat_text, tokens_of
from tests.support.fake.fake_shapes import ChatShape, CompletionShape, Shape
from tests.support.fake.fake_shapes_newer import MessagesShape, ResponsesShape
from tests.support.fake.fake_state import (
    DRAINING,
    ENGINE_DEAD,
    ConnectionCutError,
    Engine,
    EngineDeadError,
    GenerationError,
    render_metrics,
)

Handler = Callable[[Request], Awaitable[Answer | None]]

_APIS: Mapping[str, tuple[Api, BodyRule]] = {
    "/v1/chat/completions": ("chat", CHAT),
    "/v1/completions": ("completion", COMPLETION),
    "/v1/responses": ("responses", RESPONSES),
    "/v1/messages": ("messages", MESSAGES),
}
_SHAPES: Mapping[Api, Callable[[Job], Shape]] = {
    "chat": ChatShape,
    "completion": CompletionShape,
    "responses": ResponsesShape,
    "messages": MessagesShape,
}


class FakeApp:
    """The ASGI application."""

    def __init__(
        self, engine: Engine, served: Served, *, request_ids: bool, on_failure: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._served = served
        self._request_ids = request_ids
        self._on_failure = on_failure
        self._routes = self.handlers()

    def handlers(self) -> dict[str, dict[str, Handler]]:
        """Return what answers each path and method."""
        return {
            "/health": {"GET": self._health},
            "/version": {"GET": self._version},
            "/load": {"GET": self._load},
            "/metrics": {"GET": self._metrics},
            "/openapi.json": {"GET": self._description},
            "/v1/models": {"GET": self._models},
            "/tokenize": {"POST": self._tokenize},
            "/v1/messages/count_tokens": {"POST": self._count_tokens},
            **{path: {"POST": self._generate} for path in _APIS},
        }

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        request = Request(scope, receive)
        try:
            answer = await self._answer(request)
        except ConnectionCutError:
            # uvicorn closes the connection of an application that returns before the end it announced.
            headers = [(b"content-length", b"1000")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            return
        if answer is not None:
            await self._send(request, answer, send)

    async def _answer(self, request: Request) -> Answer | None:
        methods = self._routes.get(request.path) or _parametrised(request.path)
        if methods is None:
            return self.unknown(request)
        handler = methods.get(request.method) or methods.get("*")
        if handler is None:
            allowed = [("allow", ", ".join(methods))]
            return Answer.json({"detail": "Method Not Allowed"}, 405, allowed)
        try:
            return await handler(request)
        except ClientGoneError:
            return None
        except RefusalError as refusal:
            return Answer.json(_worded(request.path, refusal.body), refusal.status)

    def unknown(self, request: Request) -> Answer:
        """Answer a path that is not served."""
        stripped = request.path.rstrip("/")
        if stripped != request.path and stripped in self._routes:
            return Answer(307, location=f"http://{request.header('host') or ''}{stripped}")
        return Answer.json({"detail": "Not Found"}, 404)

    async def _send(self, request: Request, answer: Answer, send: Send) -> None:
        request_id = None
        if self._request_ids:
            request_id = request.header("x-request-id") or secrets.token_hex(16)
        headers = answer.raw_headers(request_id)
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        if answer.events is None:
            await send({"type": "http.response.body", "body": answer.body})
            return

        await unless_disconnected(request.receive, _stream(answer.events, send))

    async def _health(self, request: Request) -> Answer:
        return Answer(503 if self._engine.core.dead.is_set() else 200)

    async def _version(self, request: Request) -> Answer:
        return Answer.json({"version": "0.32.0"})

    async def _load(self, request: Request) -> Answer:
        return Answer.json({"server_load": 0})

    async def _metrics(self, request: Request) -> Answer:
        text = render_metrics(self._engine, self._served.names[0])
        return Answer(200, text.encode(), "text/plain; version=1.0.0; charset=utf-8")

    async def _description(self, request: Request) -> Answer:
        return Answer.json(DESCRIPTION)

    async def _models(self, request: Request) -> Answer:
        return model_list(self._served)

    async def _read(self, request: Request, rule: BodyRule) -> dict[str, Any]:
        return read_body(await request.body(), request.header("content-type"), rule)

    async def _tokenize(self, request: Request) -> Answer:
        body = await self._read(request, TOKENIZE)
        self._served.check_model(body)
        ids = tokens_of(body["prompt"])
        size = {"count": len(ids), "max_model_len": self._served.max_model_len}
        return Answer.json({**size, "tokens": ids, "token_strs": None})

    async def _count_tokens(self, request: Request) -> Answer:
        body = await self._read(request, CHAT)
        self._served.check_model(body)
        count = len(tokens_of(chat_text(body["messages"])))
        return Answer.json({"input_tokens": count, "context_management": {"original_input_tokens": count}})

    async def _generate(self, request: Request) -> Answer | None:
        api, rule = _APIS[request.path]
        body = await self._read(request, rule)
        self.check(request.path, body)
        if planned := self._planned_error():
            return planned
        job = self._served.job(api, body, request.header("x-request-id"))
        shape = _SHAPES[api](job)
        if self._engine.core.dead.is_set():
            return self._failed(ENGINE_DEAD)
        if self._engine.core.draining:
            return self._failed(DRAINING)
        if job.stream:
            return Answer(events=self._events(job, shape), content_type="text/event-stream; charset=utf-8")
        return await unless_disconnected(request.receive, self._whole(job, shape))

    def check(self, path: str, body: Mapping[str, Any]) -> None:
        """Refuse what this frontend does not support."""

    def _planned_error(self) -> Answer | None:
        scenario = self._engine.live.now()
        if scenario.error_status is None:
            return None
        body = error_body("planned by the scenario", "InternalServerError", scenario.error_status)
        return Answer.json(body, scenario.error_status, list(scenario.error_headers.items()))

    def _failed(self, message: str) -> Answer:
        if message == ENGINE_DEAD:
            # vLLM's handler of this error ends the server at once, and does not wait for the watchdog.
            self._on_failure()
        return Answer.json(error_body(message, "InternalServerError", 500), 500)

    async def _whole(self, job: Job, shape: Shape) -> Answer:
        texts = [""] * job.choices
        given, finish = 0, "length"
        with self._engine.counted():
            try:
                async with aclosing(self._engine.generate(job)) as tokens:
                    async for choice, text, _, reason in tokens:
                        texts[choice] += text
                        given, finish = given + 1, reason or finish
            except EngineDeadError:
                return self._failed(ENGINE_DEAD)
            except GenerationError as error:
                return self._failed(str(error))
        return Answer.json(self.worded(shape.whole(texts, given, finish)))

    def worded(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return a whole answer as this frontend words it."""
        return answer

    async def _events(self, job: Job, shape: Shape) -> AsyncGenerator[bytes, None]:
        texts = [""] * job.choices
        given, finish = 0, "length"
        with self._engine.counted():
            try:
                async with aclosing(self._engine.generate(job)) as tokens:
                    async for choice, text, count, reason in tokens:
                        for event in () if given else shape.opening():
                            yield event
                        texts[choice] += text
                        given, finish = given + 1, reason or finish
                        yield shape.piece(choice, text, count, reason)
            except (EngineDeadError, GenerationError) as error:
                for event in shape.failure(str(error) or ENGINE_DEAD):
                    yield event
                return
        for event in shape.closing(texts, given, finish):
            yield event


async def _stream(events: AsyncGenerator[bytes, None], send: Send) -> None:
    async with aclosing(events) as open_events:
        try:
            async for event in open_events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        except ConnectionCutError:
            return  # without an end, see above
    await send({"type": "http.response.body", "body": b""})


def _parametrised(path: str) -> dict[str, Handler] | None:
    if path in ("/v1/_echo", "/v1/_upload"):
        return {"*": echo}
    if path.startswith("/v1/responses/"):
        return {"POST": no_such_response} if path.endswith("/cancel") else {"GET": no_such_response}
    return None


def _worded(path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
    error = body.get("error")
    # Anthropic's shape is only for what vLLM itself refuses; a body that is malformed is FastAPI's business.
    if path.startswith("/v1/messages") and error and error["type"] in ("NotFoundError", "BadRequestError"):
        return {"type": "error", "error": {"type": error["type"], "message": error["message"]}}
    return body
