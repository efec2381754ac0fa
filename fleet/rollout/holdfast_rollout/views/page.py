"""A roll as a page, and its metrics: one small server on loopback, which changes nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from holdfast_rollout.board import LiveBoard

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_message: Any) -> None:
        """Write nothing."""


@contextmanager
def served(
    address: str | None, board: LiveBoard, registry: CollectorRegistry
) -> Iterator[str | None]:
    """Serve `/`, `/status.json` and `/metrics` until the end of the block; yield the URL.

    Without an address nothing is served. Raises `OSError`, and `ValueError` for an address that is
    not on loopback: anyone who reaches it sees every node of the fleet.
    """
    if address is None:
        yield None
        return
    host, _, port = address.rpartition(":")
    host = host or "127.0.0.1"
    if host not in ("127.0.0.1", "localhost", "[::1]") or not port.isdigit():
        raise ValueError(f"{address} is not a port of loopback, such as 127.0.0.1:9919.")
    metrics = make_wsgi_app(registry)
    page = (files("holdfast_rollout.views") / "page.html").read_bytes()

    def application(environment: dict[str, Any], start: Any) -> Iterable[bytes]:
        path = environment["PATH_INFO"]
        if path == "/metrics":
            answer: Iterable[bytes] = metrics(environment, start)
            return answer
        headers = [
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", _POLICY),
            ("X-Content-Type-Options", "nosniff"),
        ]
        if path == "/status.json":
            start("200 OK", [("Content-Type", "application/json"), *headers])
            return [json.dumps(board.snapshot()).encode()]
        if path == "/":
            start("200 OK", [("Content-Type", "text/html; charset=utf-8"), *headers])
            return [page]
        start("404 Not Found", [("Content-Type", "text/plain"), *headers])
        return [b"There is nothing here; see /.\n"]

    server = make_server(
        host.strip("[]"), int(port), application, server_class=_Server, handler_class=_Quiet
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
