"""The requests of a fake node, and what they are answered with."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import socketserver
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from holdfast_client.routes.table import TABLE
from holdfast_client.testing.script import Call, FakeOperation, Script, problem

if TYPE_CHECKING:
    from holdfast_client.testing.node import FakeNode

_POLL_SECONDS = 0.02
_ROUTES = tuple(
    (method, re.compile(re.sub(r"{\w+}", r"([^/]+)", path) + r"\Z"), path, call)
    for method, path, _, call in TABLE
)
_KINDS = {
    "/v1/pagecache/dumps": "pagecache.dump",
    "/v1/pagecache/loads": "pagecache.load",
    "/v1/pagecache/evictions": "pagecache.evict",
    "/v1/manifests": "manifest.build",
    "/v1/manifests/{manifest_id}/verifications": "manifest.verify",
    "/v1/manifests/comparisons": "manifest.compare",
}
_STEPS = {
    "arm": ("staged", "armed"),
    "disarm": ("armed", "staged"),
    "reboot": ("armed", "rebooting"),
    "confirm": ("booted", "confirmed"),
}


class Server(socketserver.ThreadingTCPServer):
    """Listens on a port."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    node: FakeNode

    def __init__(self, address: Any, handler: Any) -> None:
        self.connections: set[socket.socket] = set()
        super().__init__(address, handler)

    def hang_up(self) -> None:
        """Break every connection."""
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_request: Any) -> None:
        """Ignore clients that go away."""


class UnixServer(Server):
    """Listens on a unix socket."""

    address_family = socket.AF_UNIX
    allow_reuse_address = False


class _CutError(Exception):
    """The connection is broken on purpose."""


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        """Remember the connection."""
        super().setup()
        self.server.connections.add(self.request)

    def finish(self) -> None:
        """Forget the connection."""
        self.server.connections.discard(self.request)
        with contextlib.suppress(OSError):
            super().finish()

    def address_string(self) -> str:
        """Return a name for a client that may have no address."""
        return "client"

    def log_message(self, *_message: Any) -> None:
        """Write nothing."""

    def do_GET(self) -> None:
        """Answer a GET."""
        self._serve()

    def do_POST(self) -> None:
        """Answer a POST."""
        self._serve()

    def do_PUT(self) -> None:
        """Answer a PUT."""
        self._serve()

    def do_DELETE(self) -> None:
        """Answer a DELETE."""
        self._serve()

    def _serve(self) -> None:
        node = self.server.node
        self.close_connection = True
        content = self._content()
        cut = None
        with node.lock:
            if node.cuts:
                cut = node.cuts.popleft()
        if cut == "before":
            return
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        is_json = self.headers.get("Content-Type", "").startswith("application/json")
        body = json.loads(content) if content and is_json else {}
        call = Call(self.command, parts.path, body, self.headers.get("Idempotency-Key"))
        with contextlib.suppress(_CutError, OSError):
            if node.imaging:
                self._as_imager(call)
                return
            with node.lock:
                node.calls.append(call)
                status, document = self._answer(node, call)
            operation = node.operations.get(str(document.get("id")))
            if operation is not None and call.method == "GET":
                if call.path.endswith("/events"):
                    self._events(operation)
                    return
                document = self._wait(operation, float(query.get("wait", 0)))
            if cut is None:
                self._send(status, document)
        if document.get("ordered"):
            node.reboot()

    def _content(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, node: FakeNode, call: Call) -> tuple[int, dict[str, Any]]:
        """Carry a request out; the caller holds the lock."""
        if node.token is not None and self.headers.get("Authorization") != f"Bearer {node.token}":
            return _refused("unauthenticated", "A valid bearer token is needed.")
        refusals = node.refusals.get((call.method, call.path))
        if refusals:
            refusal = dict(refusals.popleft())
            return refusal["status"], refusal
        node.advance()
        scripted = node.answers.get((call.method, call.path))
        if scripted is not None:
            return 200, dict(scripted)
        for method, pattern, path, kind in _ROUTES:
            found = pattern.match(call.path)
            if found is not None and method == call.method:
                return self._carry_out(node, call, path, kind, found.groups())
        return _refused("not-found", f"There is no {call.method} {call.path}.")

    def _carry_out(
        self, node: FakeNode, call: Call, path: str, kind: str, ids: tuple[str, ...]
    ) -> tuple[int, dict[str, Any]]:
        if path.startswith("/v1/operations/"):
            return _operation(node, ids[0], cancel=path.endswith("/cancel"))
        if path == "/v1/operations":
            made = [each.document() for each in reversed(node.operations.values())]
            return 200, {"operations": made, "next": None}
        if path == "/v1/reimage":
            return 200, _status(node)
        if path == "/v1/node":
            return 200, {"boot_id": f"boot-{node.boots}", "hostname": "fake"}
        return self._act(node, call, path, kind)

    def _act(self, node: FakeNode, call: Call, path: str, kind: str) -> tuple[int, dict[str, Any]]:
        known = None if call.key is None else node.keys.get(call.key)
        if known is not None and (known[0].path, known[0].body) != (call.path, call.body):
            return _refused("idempotency-mismatch", "The key was used for another request.")
        if path.startswith("/v1/reimage/") and kind != "operation":
            return _step(node, call, done=known is not None)
        if kind == "nothing":
            return 204, {}
        if kind != "operation":
            return _refused(
                "not-found", f"No answer was scripted: answers[{call.method!r}, {call.path!r}]."
            )
        if known is not None and known[1] is not None:
            return 200, known[1].document()
        if path in ("/v1/reimage/stage", "/v1/reimage/rollback"):
            operation = node.stage(call)
        else:
            name = _KINDS.get(path, path.removeprefix("/v1/").replace("/", "."))
            operation = node.begin(call, name, node.scripts.get(name, Script()))
        if call.key is not None:
            node.keys[call.key] = (call, operation)
        return 202, operation.document()

    def _as_imager(self, call: Call) -> None:
        about = {"type": "about:blank", "title": "Not Found", "status": 404}
        if call.method != "GET":
            about |= {"title": "Method Not Allowed", "status": 405}
        elif call.path == "/healthz":
            self._send(200, {"status": "ok", "state": "imaging"})
            return
        elif call.path == "/v1/reimage":
            self._send(200, {"state": "imaging", "phase": "writing"})
            return
        detail = "This machine is being re-imaged; until then there are few paths."
        self._send(int(str(about["status"])), {**about, "detail": detail})

    def _wait(self, operation: FakeOperation, seconds: float) -> dict[str, Any]:
        until = time.monotonic() + seconds
        while operation.end is None and time.monotonic() < until:
            self._pause()
        return operation.document()

    def _events(self, operation: FakeOperation) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Connection", "close")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        last = None
        while True:
            document = operation.document()
            if (document["state"], document["progress"]) != last:
                last = (document["state"], document["progress"])
                line = json.dumps(document).encode() + b"\n"
                self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
            if operation.end is not None:
                self.wfile.write(b"0\r\n\r\n")
                return
            self._pause()

    def _pause(self) -> None:
        time.sleep(_POLL_SECONDS)
        if self.server.node.is_gone(self.server):
            raise _CutError

    def _send(self, status: int, document: Mapping[str, Any]) -> None:
        plain = {name: value for name, value in document.items() if name != "ordered"}
        body = b"" if status == 204 else json.dumps(plain).encode() + b"\n"
        kind = "application/json" if status < 400 else "application/problem+json"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        if status >= 400 and "retry_after" in document:
            self.send_header("Retry-After", str(document["retry_after"]))
        self.end_headers()
        self.wfile.write(body)


def _operation(node: FakeNode, name: str, *, cancel: bool) -> tuple[int, dict[str, Any]]:
    operation = node.operations.get(name)
    if operation is None:
        return _refused("not-found", f"There is no operation {name!r}.")
    if cancel and operation.end is None:
        operation.settle("cancelled", "cancelled")
    return 202 if cancel else 200, operation.document()


def _step(node: FakeNode, call: Call, *, done: bool) -> tuple[int, dict[str, Any]]:
    """Arm, disarm or reboot, once for each key; the caller holds the lock."""
    step = call.path.rpartition("/")[2]
    attempt = node.attempt
    meant = call.body.get("operation")
    if meant is not None and (attempt is None or attempt.id != meant):
        there = None if attempt is None else attempt.id
        return _refused(
            "conflict", f"The attempt is not of {meant}.", operation=there, state=node.state
        )
    if step not in _STEPS:
        return _refused("not-found", f"No answer was scripted for {call.method} {call.path}.")
    if done:
        return 200, _status(node)
    before, after = _STEPS[step]
    if node.state not in (before, after):
        return _refused("conflict", f"It is {node.state}, and not {before}.", state=node.state)
    if call.body.get("dry_run"):
        return 200, _status(node)
    ordered = step == "reboot" and node.state == before
    node.state = after
    if step == "confirm" and attempt is not None:
        attempt.settle("succeeded")
    node.advance()
    if call.key is not None:
        node.keys[call.key] = (call, None)
    return 200, {**_status(node), "ordered": ordered}


def _status(node: FakeNode) -> dict[str, Any]:
    attempt = node.attempt
    passed = {"name": "data", "passed": True, "detail": "As the test says."}
    digest = None if attempt is None else attempt.params.get("descriptor_sha256")
    return {
        "state": node.state,
        "reason": None,
        "operation": None if attempt is None else attempt.id,
        "image": None if digest is None else {"descriptor_sha256": digest},
        "checks": [passed] if node.state in ("booted", "confirmed") else [],
        "history": [],
    }


def _refused(slug: str, detail: str, **members: Any) -> tuple[int, dict[str, Any]]:
    refusal = problem(slug, detail, **members)
    return refusal["status"], refusal
