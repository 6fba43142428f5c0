"""A small model hub on localhost: the routes and headers that `huggingface_hub` asks for, bodies at a set pace."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE_BYTES = 100_000
"""Files from this size on are stored as large ones, with a SHA-256 for an ETag."""

_PIECE = 65_536


@dataclass
class Hub:
    """What the hub holds and how it behaves; may be changed while it runs."""

    model_id: str
    files: dict[str, bytes]
    bytes_per_second: float = 0.0
    """Pace of large files; 0 is as fast as it goes."""
    tells_sizes: bool = True
    """Whether the model's page can be had; without it nobody knows sizes."""
    token: str | None = None
    """Asked of everyone, as for a gated model."""
    garbles: str = ""
    """A file whose content arrives changed, at its right size."""
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def blob(self, path: str) -> str:
        content = self.files[path]
        if len(content) >= LARGE_BYTES:
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def entry(self, path: str) -> dict[str, object]:
        size, blob = len(self.files[path]), self.blob(path)
        entry: dict[str, object] = {"type": "file", "path": path, "size": size, "oid": blob}
        if size >= LARGE_BYTES:
            entry["lfs"] = {"oid": blob, "size": size, "pointerSize": 134}
        return entry

    def model(self, *, blobs: bool) -> dict[str, object]:
        siblings = []
        for path in self.files:
            entry = self.entry(path)
            sibling: dict[str, object] = {"rfilename": path}
            if blobs:
                sibling |= {"size": entry["size"], "blobId": entry["oid"]}
                if "lfs" in entry:
                    sibling["lfs"] = {"sha256": entry["oid"], "size": entry["size"], "pointerSize": 134}
            siblings.append(sibling)
        return {
            "id": self.model_id,
            "modelId": self.model_id,
            "sha": COMMIT,
            "siblings": siblings,
            "tags": [],
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        paths = [path for path in asked.get("paths", []) if path in self.hub.files]
        self._json([self.hub.entry(path) for path in paths], with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.hub.requests.append(f"{self.command} {path}")
        api, resolve = f"/api/models/{self.hub.model_id}", f"/{self.hub.model_id}/resolve/"
        if self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._error(HTTPStatus.UNAUTHORIZED, "GatedRepo")
        elif path.startswith(f"{api}/tree/"):
            self._json([self.hub.entry(name) for name in self.hub.files], with_body=with_body)
        elif path == api or path.startswith(f"{api}/revision/"):
            if "blobs" in url.query and not self.hub.tells_sizes:
                self._error(HTTPStatus.SERVICE_UNAVAILABLE, "Unavailable")
            else:
                self._json(self.hub.model(blobs="blobs" in url.query), with_body=with_body)
        elif path.startswith(resolve):
            self._file(path.removeprefix(resolve).partition("/")[2], with_body=with_body)
        else:
            self._error(HTTPStatus.NOT_FOUND, "RepoNotFound")

    def _file(self, name: str, *, with_body: bool) -> None:
        if name not in self.hub.files:
            self._error(HTTPStatus.NOT_FOUND, "EntryNotFound")
            return
        content = self.hub.files[name]
        if name == self.hub.garbles:
            content = bytes(len(content))
        self.send_response(HTTPStatus.OK)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{self.hub.blob(name)}"')
        if len(content) >= LARGE_BYTES:
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("X-Linked-Etag", f'"{self.hub.blob(name)}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self._send(content)

    def _send(self, content: bytes) -> None:
        began = time.monotonic()
        pace = self.hub.bytes_per_second if len(content) >= LARGE_BYTES else 0.0
        for start in range(0, len(content), _PIECE):
            if pace:
                time.sleep(max(0.0, began + start / pace - time.monotonic()))
            try:
                self.wfile.write(content[start : start + _PIECE])
            except OSError:
                return  # the client has gone

    def _json(self, body: object, *, with_body: bool) -> None:
        content = json.dumps(body).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def _error(self, status: HTTPStatus, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def fake_hub(hub: Hub, address: str = "127.0.0.1") -> Iterator[Hub]:
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer((address, 0), handler)
    server.daemon_threads = True
    hub.url = f"http://{address}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
