"""A reverse proxy that serves one server under a path prefix, as nginx with `location /prefix/` does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2

_PASSED = ("content-type", "location", "content-security-policy", "etag")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A browser opens more connections at once than the library's backlog has room for.
    request_queue_size = 128


@contextmanager
def prefixed(url: str, prefix: str) -> Iterator[str]:
    """Serve `url` under `prefix`; yields the address of the proxy itself."""

    class Handler(BaseHTTPRequestHandler):
        def _pass(self) -> None:
            if not self.path.startswith(f"{prefix}/"):
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {"content-type": self.headers.get("content-type") or "text/plain"}
            target = url + self.path.removeprefix(prefix)
            with httpx2.stream(self.command, target, content=body, headers=headers, timeout=60.0) as answer:
                self.send_response(answer.status_code)
                for name in _PASSED:
                    if name in answer.headers:
                        self.send_header(name, answer.headers[name])
                self.end_headers()
                for piece in answer.iter_raw():
                    self.wfile.write(piece)

        do_GET = do_POST = _pass

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = _Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
