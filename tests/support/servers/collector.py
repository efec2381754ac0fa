"""A collector of traces: an OTLP/HTTP receiver on loopback that decodes what daemons send."""

from __future__ import annotations

import gzip
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from tests.support.servers.certificates import Issued
from tests.support.waiting import until


@dataclass(frozen=True)
class Received:
    """A span as it came."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent: str
    """Empty without one."""
    start: int
    end: int
    status: int
    message: str
    attributes: dict[str, Any]
    events: list[str]
    resource: dict[str, Any]

    @property
    def traceparent(self) -> str:
        return f"{self.trace_id}-{self.span_id}"


@dataclass
class Collector:
    """What was received, and how requests are answered."""

    port: int
    secure: bool
    spans: list[Received] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)
    status: int = 200
    hangs: threading.Event = field(default_factory=threading.Event)
    """Set: requests are not answered."""
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.secure else 'http'}://127.0.0.1:{self.port}"

    def of(self, operation: str) -> list[Received]:
        """Return the spans of an operation."""
        return [
            span
            for span in list(self.spans)
            if span.attributes.get("holdfast.operation.id") == operation and span.kind == 1
        ]

    def wait_for(self, operation: str) -> Received:
        """Return the one span of an operation, once it came."""
        (span,) = until(lambda: self.of(operation), seconds=60, what="the span of an operation")
        return span

    def request(self, name: str) -> Received:
        """Return the first span of a request of this name, once it came."""

        def found() -> list[Received]:
            return [span for span in list(self.spans) if span.name == name]

        return until(found, seconds=60, what=f"the span of {name}")[0]

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        for part in request.resource_spans:
            resource = _values(part.resource.attributes)
            for scope in part.scope_spans:
                assert scope.scope.name == "holdfast"
                self.spans += [
                    Received(
                        span.name,
                        span.kind,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        span.start_time_unix_nano,
                        span.end_time_unix_nano,
                        span.status.code,
                        span.status.message,
                        _values(span.attributes),
                        [event.name for event in span.events],
                        resource,
                    )
                    for span in scope.spans
                ]


def _values(pairs: Any) -> dict[str, Any]:
    def value(pair: KeyValue) -> Any:
        return getattr(pair.value, str(pair.value.WhichOneof("value")))

    return {pair.key: value(pair) for pair in pairs}


@contextmanager
def collector(port: int = 0, shown: Issued | None = None) -> Iterator[Collector]:
    """Receive until the end of the block, with TLS if a certificate is to be shown."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if found.hangs.is_set():
                found.released.wait(60)
                self.close_connection = True
                return
            found.paths.add(self.path)
            found.headers.append({name.lower(): text for name, text in self.headers.items()})
            if found.status == 200:
                compressed = self.headers.get("Content-Encoding") == "gzip"
                found.take(gzip.decompress(content) if compressed else content)
            body = ExportTraceServiceResponse().SerializeToString()
            self.send_response(found.status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        server.daemon_threads = True
        if shown is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(shown.certificate, shown.key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        found = Collector(server.server_port, shown is not None)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield found
        finally:
            found.released.set()
            server.shutdown()
            thread.join()
