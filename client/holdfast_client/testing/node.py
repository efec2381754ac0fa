"""An HTTP server on a unix socket or a port of loopback that answers as a node does."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from holdfast_client.client import AsyncClient, Client
from holdfast_client.testing.answering import Handler, Server, UnixServer
from holdfast_client.testing.script import Call, FakeOperation, Reimaging, Script, problem

if TYPE_CHECKING:
    from typing_extensions import Self

Cut = Literal["before", "after"]


class FakeNode:
    """A node to call, for one test, as a context manager.

    Any route that starts an operation starts one here, once for each idempotency key; `scripts`
    says by kind how it goes. `answers` has the documents of other routes, by method and path.
    All that was received is in `calls`.
    """

    def __init__(self, *, tcp: bool = False, token: str = "test-token") -> None:  # noqa: S107
        """Listen on a unix socket, or with `tcp` on a free port, where the token is needed."""
        self.scripts: dict[str, Script] = {}
        self.reimaging = Reimaging()
        self.answers: dict[tuple[str, str], Mapping[str, Any]] = {
            ("GET", "/healthz"): {"status": "ok"},
            ("GET", "/readyz"): {"status": "ready"},
            ("GET", "/v1/version"): {
                "version": "0.1.0",
                "api_level": 1,
                "features": ["attempt-precondition", "idempotency-key"],
            },
        }
        self.calls: list[Call] = []
        self.operations: dict[str, FakeOperation] = {}
        self.token = token if tcp else None
        self.lock = threading.Lock()
        self.cuts: deque[Cut] = deque()
        self.refusals: dict[tuple[str, str], deque[Mapping[str, Any]]] = {}
        self.keys: dict[str, tuple[Call, FakeOperation | None]] = {}
        self.state = "idle"
        self.attempt: FakeOperation | None = None
        self._directory = tempfile.TemporaryDirectory(prefix="holdfast-")
        self._port = 0
        self._tcp = tcp
        self._server: Server | None = None
        self._thread: threading.Thread | None = None
        self._boots: threading.Thread | None = None
        self._closed = threading.Event()
        self.imaging = False
        self.boots = 1

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @property
    def socket(self) -> Path | None:
        """The unix socket, unless it listens on a port."""
        return None if self._tcp else Path(self._directory.name) / "s"

    @property
    def url(self) -> str | None:
        """The URL, if it listens on a port."""
        return f"http://127.0.0.1:{self._port}" if self._tcp else None

    def client(self, **options: Any) -> Client:
        """Make a client of this node; `options` are those of `Client`."""
        return Client(self.url, socket=self.socket, token=self.token, **options)

    def async_client(self, **options: Any) -> AsyncClient:
        """Make a client of this node that is awaited."""
        return AsyncClient(self.url, socket=self.socket, token=self.token, **options)

    def start(self) -> None:
        """Listen, at the same address as before if `stop` was called."""
        if self._tcp:
            self._server = Server(("127.0.0.1", self._port), Handler)
            self._port = self._server.server_address[1]
        else:
            path = os.fspath(self.socket or "")
            self._server = UnixServer(path, Handler)
        self._server.node = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        """Listen no more and break all connections, as a machine does that goes down."""
        server, thread = self._server, self._thread
        if server is None or thread is None:
            return
        self._server = None
        server.shutdown()
        server.server_close()
        if self.socket is not None:
            self.socket.unlink(missing_ok=True)
        server.hang_up()
        thread.join()

    def close(self) -> None:
        """End it."""
        self._closed.set()
        if self._boots is not None:
            self._boots.join()
        self.stop()
        self._directory.cleanup()

    def cut(self, *when: Cut) -> None:
        """Break one of the next connections each: before or after its request is carried out."""
        self.cuts.extend(when)

    def refuse(
        self, method: str, path: str, slug: str, detail: str, *, times: int = 1, **members: Any
    ) -> None:
        """Answer the next requests with a problem; a member `retry_after` becomes the header."""
        refusals = self.refusals.setdefault((method, path), deque())
        refusals.extend([problem(slug, detail, **members)] * times)

    def is_gone(self, server: Server) -> bool:
        """Whether a server listens no more."""
        return self._server is not server

    def forget(self, operation_id: str) -> None:
        """Not know an operation any more, as a node whose data volume was lost."""
        with self.lock:
            del self.operations[operation_id]

    def begin(self, call: Call, kind: str, script: Script) -> FakeOperation:
        """Start an operation; the caller holds the lock."""
        operation = FakeOperation(len(self.operations) + 1, kind, call.body, script)
        self.operations[operation.id] = operation
        return operation

    def stage(self, call: Call) -> FakeOperation:
        """Begin an attempt at re-imaging; the caller holds the lock."""
        script = self.scripts.get("reimage", Script(phase="staging"))
        self.attempt = self.begin(call, "reimage", script)
        self.attempt.waits = True
        self.state = "staging"
        return self.attempt

    def advance(self) -> None:
        """Let time pass for the attempt; the caller holds the lock."""
        attempt = self.attempt
        if attempt is None or attempt.end is not None:
            return
        staged = time.monotonic() - attempt.began >= self.reimaging.stage_seconds
        if self.state == "staging" and staged:
            self.state = "staged"
        attempt.phase = self.state

    def reboot(self) -> None:
        """Go down, become the imager, go down, and come up again."""
        self._boots = threading.Thread(target=self._boot_twice)
        self._boots.start()

    def _boot_twice(self) -> None:
        plan = self.reimaging
        time.sleep(0.05)  # the answer to the order is on its way
        self.stop()
        self._closed.wait(plan.down)
        self.imaging = True
        self.start()
        self._closed.wait(plan.imaging)
        self.stop()
        self.imaging = False
        self._closed.wait(plan.down)
        with self.lock:
            self.boots += 1
            self.state = plan.end
            asks = self.attempt is not None and self.attempt.params.get("confirm") == "manual"
            if asks and plan.end == "confirmed":
                self.state = "booted"  # until a caller confirms it
            if self.attempt is not None:
                self.attempt.phase = self.state
            if self.attempt is not None and self.state != "booted":
                slug = {"failed": "not-reimaged", "unconfirmed": "not-confirmed"}.get(plan.end)
                self.attempt.settle("succeeded" if slug is None else "failed", slug)
        self.start()
