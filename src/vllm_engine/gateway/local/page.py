"""The web page: static files without secrets, and the history that its plots show."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel

from vllm_engine.gateway.local.metric_history import History, Recorder
from vllm_engine.gateway.local.operator_report import OperatorReport, Reporter
from vllm_engine.gateway.local.probes import Health, Status, health_of
from vllm_engine.gateway.observe.shared_answer import Shared

STATE_PATH: Final = "/ui/state"
HISTORY_PATH: Final = "/ui/history"
STATUS_PATH: Final = "/ui/status"

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_INDEX = "index.html"

CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        # A data URL asks nobody for anything; with it attached images are shown.
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # Browsers with Trusted Types refuse to turn any string into markup, whatever a script tries.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Only our own files run, nothing inline, and they connect to this server alone (CSP Level 3)."""

_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class State(BaseModel):
    """Answer of `/ui/state`: what `/healthz` says, and whether everything else needs a key.

    Its status is 200 whatever the engine's state: browsers report any other as an error.
    """

    needs_key: bool
    health: Health


Answer = Callable[[Request], Awaitable[Response]]


def load_files() -> dict[str, Answer]:
    """Read the page's files from the package: an answer for each, by its path below `web/`."""
    web = Path(__file__).parent / "web"
    return {
        file.relative_to(web).as_posix(): _answer(file.read_bytes(), _TYPES[file.suffix])
        for file in sorted(web.rglob("*"))
        if file.suffix in _TYPES
    }


class Page:
    """The page's routes: `/`, `/ui` and `/docs`, its files below `/ui/`, and what it shows.

    One rendered history, and one report, serve all who ask within `keep_seconds`.
    """

    def __init__(
        self, recorder: Recorder, reporter: Reporter, *, needs_key: bool, keep_seconds: float
    ) -> None:
        self._recorder, self._reporter = recorder, reporter
        self._needs_key = needs_key
        self._history = Shared(self._render_history, keep_seconds)
        self._report = Shared(self._render_report, keep_seconds)
        self.router = APIRouter(tags=["page"])
        loaded = load_files()
        index = loaded.pop(_INDEX)
        answers = {"/": index, "/ui": index, "/docs": index} | {
            f"/ui/{name}": answer for name, answer in loaded.items()
        }
        self.public_paths = frozenset((*answers, "/ui/", "/docs/", STATE_PATH))
        """What needs no key: the package's files, and what `/healthz` says anyway."""
        for path, answer in answers.items():
            self._add(path, answer)
        # Relative, as all of the page's addresses are: the page may stand behind a path prefix.
        self._add("/ui/", _redirect_to("../ui"))
        self._add("/docs/", _redirect_to("../docs"))
        add = self.router.add_api_route
        add(STATE_PATH, self._state, summary="The engine's state")
        add(HISTORY_PATH, self._answer_history, response_model=History, summary="The last fifteen minutes")
        add(STATUS_PATH, self._answer_report, response_model=OperatorReport, summary="For operators")

    def _add(self, path: str, answer: Answer) -> None:
        self.router.add_api_route(path, answer, include_in_schema=False)

    async def _state(self, request: Request, status: Status) -> State:
        """Return what the page's head shows."""
        return State(needs_key=self._needs_key, health=health_of(request.app.state.build, status))

    async def _answer_history(self) -> Response:
        """Return the last fifteen minutes of the engine's work."""
        return Response(await self._history.get(), media_type="application/json")

    async def _render_history(self) -> bytes:
        return self._recorder.history().model_dump_json().encode()

    async def _answer_report(self) -> Response:
        """Return requests, keys, failures, device, disk and settings, for operators."""
        return Response(await self._report.get(), media_type="application/json")

    async def _render_report(self) -> bytes:
        return (await self._reporter.report()).model_dump_json().encode()


def _answer(content: bytes, media_type: str) -> Answer:
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'  # RFC 9110, section 8.8.3
    headers = _HEADERS | {"ETag": tag}

    async def answer(request: Request) -> Response:
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=media_type)

    return answer


def _redirect_to(address: str) -> Answer:
    async def redirect(_: Request) -> Response:
        return RedirectResponse(address, 308)

    return redirect
