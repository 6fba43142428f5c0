"""The web page: static files without secrets, and the history that its plots show."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel

from vllm_engine.gateway.local.metric_history import History, Recorder
from vllm_engine.gateway.local.probes import Health, Status, health_of
from vllm_engine.gateway.observe.shared_answer import Shared

STATE_PATH: Final = "/ui/state"
HISTORY_PATH: Final = "/ui/history"

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_INDEX = "index.html"
_INDEX_PATHS = ("/", "/ui")

CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
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


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file, and its ETag (RFC 9110, section 8.8.3)."""

    content: bytes
    media_type: str
    tag: str


class State(BaseModel):
    """Answer of `/ui/state`: what `/healthz` says, and whether everything else needs a key.

    Its status is 200 whatever the engine's state: browsers report any other as an error.
    """

    needs_key: bool
    health: Health


def load_files() -> dict[str, PageFile]:
    """Read the page's files from the package, by their path below `web/`."""
    found = {}
    web = Path(__file__).parent / "web"
    for file in sorted(web.rglob("*")):
        media_type = _TYPES.get(file.suffix)
        if media_type is not None:
            content = file.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            found[file.relative_to(web).as_posix()] = PageFile(content, media_type, tag)
    return found


class Page:
    """The page's routes: `/` and `/ui`, its files below `/ui/`, and the history.

    Args:
        recorder: of the history.
        needs_key: whether other routes need a key.
        keep_seconds: how long one rendered history serves all who ask.
    """

    def __init__(self, recorder: Recorder, *, needs_key: bool, keep_seconds: float) -> None:
        self.recorder = recorder
        self._needs_key = needs_key
        self._history = Shared(self._render_history, keep_seconds)
        self.router = APIRouter()
        loaded = load_files()
        self._paths = dict.fromkeys(_INDEX_PATHS, loaded.pop(_INDEX)) | {
            f"/ui/{name}": file for name, file in loaded.items()
        }
        for path, file in self._paths.items():
            self._add(path, _answer(file))
        # Relative, as all of the page's addresses are: the page may stand behind a path prefix.
        self._add("/ui/", _redirect)
        self.router.add_api_route(STATE_PATH, self._state)
        self.router.add_api_route(HISTORY_PATH, self._answer_history, response_model=History)

    @property
    def public_paths(self) -> frozenset[str]:
        """What needs no key: the package's files, and what `/healthz` says anyway."""
        return frozenset((*self._paths, "/ui/", STATE_PATH))

    def _add(self, path: str, answer: Callable[[Request], Awaitable[Response]]) -> None:
        self.router.add_api_route(path, answer, include_in_schema=False)

    async def _state(self, request: Request, status: Status) -> State:
        """Return what the page's head shows."""
        return State(needs_key=self._needs_key, health=health_of(request.app.state.build, status))

    async def _answer_history(self) -> Response:
        """Return the last fifteen minutes of the engine's work."""
        return Response(await self._history.get(), media_type="application/json")

    async def _render_history(self) -> bytes:
        return self.recorder.history().model_dump_json().encode()


def _answer(file: PageFile) -> Callable[[Request], Awaitable[Response]]:
    headers = _HEADERS | {"ETag": file.tag}

    async def answer(request: Request) -> Response:
        if file.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(file.content, headers=headers, media_type=file.media_type)

    return answer


async def _redirect(_: Request) -> Response:
    return RedirectResponse("../ui", 308)
