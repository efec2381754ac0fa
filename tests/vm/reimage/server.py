"""The fleet's image server: files of a directory over HTTP, whole or by range."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

AS_SEEN_BY_THE_MACHINE = "10.0.2.2"
"""The host, under QEMU's user networking: its loopback only."""


class ImageServer(ThreadingHTTPServer):
    """Serves one directory, and remembers what it was asked for."""

    daemon_threads = True

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.requests: list[tuple[str, int]] = []
        """Path, and the offset from which it was asked for, of each GET."""
        super().__init__(("127.0.0.1", 0), _Handler)

    def url(self, name: str) -> str:
        """Where the machine finds a file."""
        return f"http://{AS_SEEN_BY_THE_MACHINE}:{self.server_address[1]}/{name}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ImageServer

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.server.directory / Path(self.path).name
        if not path.is_file():
            self.send_error(404)
            return
        size = path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first = int(asked[1]) if asked else 0
        last = min(int(asked[2]), size - 1) if asked and asked[2] else size - 1
        if body:
            self.server.requests.append((self.path, first))
        if first > last:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last + 1 - first))
        self.send_header("ETag", f'"{path.stat().st_mtime_ns:x}-{size:x}"')
        self.end_headers()
        if not body:
            return
        left = last + 1 - first
        with path.open("rb") as file, suppress(ConnectionError):  # who asks may go away
            file.seek(first)
            while left and (chunk := file.read(min(left, 1 << 20))):
                self.wfile.write(chunk)
                left -= len(chunk)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        pass


@contextmanager
def serving(directory: Path) -> Iterator[ImageServer]:
    """Serve a directory until the end."""
    with ImageServer(directory) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
