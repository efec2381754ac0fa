"""EC2's metadata service, version 2, as far as a client of it can see."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FACTS = {
    "instance-id": "i-0123456789abcdef0",
    "instance-type": "i3.4xlarge",
    "placement/availability-zone": "eu-central-1a",
    "ami-id": "ami-0123456789abcdef0",
}
_TOKEN = "AQAEAN=="


class MetadataServer:
    """The service; change its members to have it behave otherwise."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.facts = dict(FACTS)
        self.token_status = 200
        self.silent = threading.Event()
        """Set: no answer to who asks for a token, as behind another hop."""
        self.asked: list[tuple[str, str]] = []


@contextmanager
def metadata_server() -> Iterator[MetadataServer]:
    """Serve on loopback until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            service.asked.append(("PUT", self.path))
            lives = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
            if service.silent.is_set():
                ended.wait(30)
            elif self.path != "/latest/api/token" or not 0 < int(lives or 0) <= 21600:
                self._answer(400, "")
            else:
                self._answer(service.token_status, _TOKEN)

        def do_GET(self) -> None:
            service.asked.append(("GET", self.path))
            if self.headers.get("X-aws-ec2-metadata-token") != _TOKEN:
                self._answer(401, "")
                return
            fact = service.facts.get(self.path.removeprefix("/latest/meta-data/"))
            self._answer(404 if fact is None else 200, fact or "")

        def _answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    ended = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        service = MetadataServer(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield service
        finally:
            ended.set()
            server.shutdown()
            thread.join()
