"""A web server for tests that misbehaves on demand."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_RANGE = re.compile(r"bytes=(\d+)-")


@dataclass
class Asked:
    """One request that came."""

    path: str
    range: str | None
    if_range: str | None
    authorization: str | None


@dataclass
class Behaviour:
    """What to serve, and how."""

    files: dict[str, bytes]
    etags: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    """Close the connection after this many bytes of a body."""
    hang_after: int | None = None
    """Wait for `release` after this many bytes of a body."""
    bytes_per_second: int | None = None
    """Send bodies no faster than this."""
    no_ranges: bool = False
    statuses: list[int] = field(default_factory=list)
    """The status of the next responses, before it is 200 again; 200 is a usual response."""
    flips: list[int | None] = field(default_factory=list)
    """Offsets of bits that the next responses flip, one for each; None flips nothing."""
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    hanging: threading.Event = field(default_factory=threading.Event)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behaviour: Behaviour

    def do_GET(self) -> None:
        does = self.behaviour
        headers = self.headers
        does.asked.append(
            Asked(self.path, headers["Range"], headers["If-Range"], headers["Authorization"])
        )
        status = does.statuses.pop(0) if does.statuses else 200
        if status != 200:
            self._empty(status)
        elif self.path in does.redirects:
            self._empty(302, Location=does.redirects[self.path])
        elif self.path not in does.files:
            self._empty(404)
        else:
            self._body(does.files[self.path], does.etags.get(self.path))

    def _empty(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _body(self, data: bytes, etag: str | None) -> None:
        does, start = self.behaviour, 0
        asked = _RANGE.fullmatch(self.headers["Range"] or "")
        valid = self.headers["If-Range"] in (None, etag)
        if asked and valid and not does.no_ranges:
            start = int(asked[1])
            if start >= len(data):
                self._empty(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        if etag:
            self.send_header("ETag", etag)
        body = bytearray(data[start:])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        flip = does.flips.pop(0) if does.flips else None
        if flip is not None:
            body[flip] ^= 1
        if does.hang_after is not None:
            self.wfile.write(body[: does.hang_after])
            self.wfile.flush()
            does.hanging.set()
            does.release.wait()
            self.close_connection = True
            return
        if does.cut_after is not None and does.cut_after < len(body):
            self.wfile.write(body[: does.cut_after])
            self.close_connection = True
            return
        if does.bytes_per_second is not None:
            self._slowly(body, does.bytes_per_second)
            return
        self.wfile.write(body)

    def _slowly(self, body: bytearray, bytes_per_second: int) -> None:
        part = max(bytes_per_second // 10, 1)
        for start in range(0, len(body), part):
            self.wfile.write(body[start : start + part])
            if self.behaviour.release.wait(part / bytes_per_second):
                self.close_connection = True
                return

    def log_message(self, *args: object) -> None:
        """Log nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away in the middle are what some tests are about."""


@contextmanager
def serving(
    behaviour: Behaviour, address: str = "127.0.0.1", *, tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Serve on a free port of loopback; give the URL of the root, without a slash."""
    handler = type("Handler", (_Handler,), {"behaviour": behaviour})
    server = _Server((address, 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http{'s' if tls else ''}://{address}:{server.server_address[1]}"
    finally:
        behaviour.release.set()
        server.shutdown()
        thread.join()
        server.server_close()
