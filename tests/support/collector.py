"""A collector of traces: takes spans by OTLP over HTTP and keeps them."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2


class Collector:
    """Takes spans over HTTP as a collector does, and answers `status`."""

    def __init__(self) -> None:
        self.status = 200
        self.paths: list[str] = []
        self.spans: list[trace_pb2.Span] = []
        self.resources: list[Resource] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.take(self.path, body)
                self.send_response(collector.status)
                self.send_header("Content-Length", "0")
                self.send_header("Connection", "close")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def take(self, path: str, body: bytes) -> None:
        self.paths.append(path)
        for batch in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(batch.resource)
            self.spans += [span for scope in batch.scope_spans for span in scope.spans]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def attributes(span: trace_pb2.Span | Resource) -> dict[str, Any]:
    """Return a span's attributes as Python values."""
    values = {one.key: one.value for one in span.attributes}
    kinds = {key: value.WhichOneof("value") for key, value in values.items()}
    assert None not in kinds.values()
    return {
        key: [item.string_value for item in value.array_value.values]
        if kinds[key] == "array_value"
        else getattr(value, str(kinds[key]))
        for key, value in values.items()
    }
