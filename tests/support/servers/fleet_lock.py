"""A lock manager that speaks FleetLock, with the answers of airlock or of poseidon's fleetlock."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Kind = Literal["airlock", "poseidon"]


@dataclass
class FleetLockServer:
    """Slots of groups, and who has them. Change members to have it answer otherwise."""

    url: str
    kind: Kind
    slots: int = 1
    holders: dict[str, set[str]] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    """What was called by whom."""
    traces: list[str | None] = field(default_factory=list)
    retry_after: str | None = None
    success: int = 200
    """The status of a yes."""
    broken: bool = False
    """Answers 500 to all, having done nothing."""
    forgets_to_answer: bool = False
    """Does what it is asked, and closes the connection."""
    changed: threading.Condition = field(default_factory=threading.Condition)

    def holds(self, name: str, group: str = "default") -> bool:
        return name in self.holders.get(group, set())

    def wait_for(self, name: str, *, held: bool, seconds: float = 30.0) -> None:
        """Wait until a node holds the lock, or does not."""
        with self.changed:
            done = self.changed.wait_for(lambda: self.holds(name) is held, seconds)
        assert done, (name, held, self.holders)

    def answer(self, call: str, body: dict[str, Any]) -> tuple[int, dict[str, str]]:
        name, group = body["client_params"]["id"], body["client_params"]["group"]
        with self.changed:
            self.calls.append((call, name))
            if self.broken:
                return 500, {"kind": "failed", "value": "etcd does not answer"}
            holders = self.holders.setdefault(group, set())
            try:
                if call == "pre-reboot":
                    if name not in holders and len(holders) >= self.slots:
                        return self._full(group)
                    holders.add(name)
                    return self.success, {}
                if name not in holders and self.kind == "poseidon":
                    return 423, {"kind": "lock_held", "value": "lock is held by another node"}
                holders.discard(name)
                return self.success, {}
            finally:
                self.changed.notify_all()

    def _full(self, group: str) -> tuple[int, dict[str, str]]:
        if self.kind == "airlock":
            return 500, {"kind": "failed_lock", "value": f"semaphore of {group} is full"}
        return 423, {"kind": "lock_held", "value": "reboot lease is held by another node"}


@contextmanager
def fleet_lock_server(
    kind: Kind = "poseidon", service_class: type[FleetLockServer] | None = None
) -> Iterator[FleetLockServer]:
    """Serve on loopback until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            call = self.path.removeprefix("/base/v1/")
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.headers.get("fleet-lock-protocol") != "true" or call not in (
                "pre-reboot",
                "steady-state",
            ):
                status, document = 400, {"kind": "protocol", "value": "this is not FleetLock"}
            else:
                service.traces.append(self.headers.get("traceparent"))
                status, document = service.answer(call, body)
            if service.forgets_to_answer:
                self.close_connection = True
                return
            content = json.dumps(document).encode() if document else b""
            self.send_response(status)
            if service.retry_after is not None and status != 200:
                self.send_header("Retry-After", service.retry_after)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        service = (service_class or FleetLockServer)(
            f"http://127.0.0.1:{server.server_port}/base", kind
        )
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()
